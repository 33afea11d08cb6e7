package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// tickNone is one tick of which no schedule of the crowd is the matter, and the index scan that it cannot do without.
func (b *bench) tickNone(ctx context.Context, taken samples) error {
	c, err := b.crowded(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(c.due(ctx, 0), c.setClock(ctx, noon)); err != nil {
		return err
	}
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	const warm = 20
	for i := range 100*b.size.runs + warm {
		tick, err := took(ctx, conn, `select pgtick.tick()`)
		if err != nil {
			return err
		}
		scan, err := took(ctx, conn, `select s.id from pgtick.schedule_defs as s where s.next_at is not null and coalesce(s.retry_at, s.next_at) <= $1
			order by coalesce(s.retry_at, s.next_at) limit 10000`, noon)
		if err != nil {
			return err
		}
		if i >= warm {
			taken.add("tick_none_100k", "pgtick", milliseconds(tick))
			taken.add("tick_none_100k", "bare", milliseconds(scan))
		}
	}
	return nil
}

// tickThousand is one tick with a thousand schedules due, and a bare insert of as many rows.
func (b *bench) tickThousand(ctx context.Context, taken samples) error {
	c, err := b.crowded(ctx)
	if err != nil {
		return err
	}
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	const due, warm = 1000, 2
	for i := range 5*b.size.runs + warm {
		if err := errors.Join(c.due(ctx, due), c.setClock(ctx, noon)); err != nil {
			return err
		}
		tick, err := took(ctx, conn, `select pgtick.tick()`)
		if err != nil {
			return err
		}
		insert, err := took(ctx, conn, bareSlots, due, noon, 0, pad)
		if err != nil {
			return err
		}
		if err := errors.Join(c.accounted(ctx, "pgtick.live_jobs", due), c.accounted(ctx, "bare.live_jobs", due)); err != nil {
			return err
		}
		if i >= warm {
			taken.add("tick_1000", "pgtick", milliseconds(tick))
			taken.add("tick_1000", "bare", milliseconds(insert))
		}
	}
	return nil
}

// accounted checks that so many rows have the slot at noon.
func (c *crowd) accounted(ctx context.Context, table string, want int) error {
	got, err := number[int](ctx, c.store, `select count(*) from `+table+` where slot = $1`, noon)
	if err == nil && got != want {
		err = fmt.Errorf("%d slots in %s, not %d", got, table, want)
	}
	return err
}

// rush is what a runner does while the whole crowd becomes due at once.
type rush struct {
	took   time.Duration
	claims float64 // jobs finished a second meanwhile
}

// rush makes all schedules due at noon, lets a runner work on a backlog, and from noon on does what is measured, beside it.
func (b *bench) rush(ctx context.Context, c *crowd, noClock bool, work func(finished func() int64) error) (rush, error) {
	const before = 2 * time.Second
	err := errors.Join(c.due(ctx, c.schedules), c.setClock(ctx, noon.Add(-time.Hour)), (&ours{pool: c.pool}).fill(ctx, b.size.backlog), c.setClock(ctx, noon.Add(-before)))
	if err != nil {
		return rush{}, err
	}
	due := time.After(before)
	var done counter
	stop, err := (&ours{pool: c.pool, noClock: noClock}).work(ctx, &done)
	if err != nil {
		return rush{}, err
	}
	defer stop()
	<-due
	already, started := done.done.Load(), time.Now()
	if err := work(done.done.Load); err != nil {
		return rush{}, err
	}
	took := time.Since(started)
	finished := done.done.Load()
	if finished >= int64(b.size.backlog) {
		fmt.Fprintf(os.Stderr, "the runner was through with its backlog of %d jobs before the end: give -backlog more\n", b.size.backlog)
	}
	return rush{took, float64(finished-already) / took.Seconds()}, nil
}

// tickAll is the whole crowd due in the same minute, by clocks of several kinds, each with a busy runner beside it.
func (b *bench) tickAll(ctx context.Context, taken samples) error {
	c, err := b.crowded(ctx)
	if err != nil {
		return err
	}
	for range b.size.runs {
		for _, one := range []func(context.Context, *crowd, samples) error{b.claimsAlone, b.oneCaller, b.twoCallers, b.chunks, b.inserts, b.twoInserts, b.byRunner} {
			if err := one(ctx, c, taken); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) claimsAlone(ctx context.Context, c *crowd, taken samples) error {
	r, err := b.rush(ctx, c, true, func(finished func() int64) error {
		return until(ctx, 5*time.Minute, func() (bool, error) { return finished() >= int64(b.size.backlog*3/4), nil })
	})
	if err != nil {
		return err
	}
	taken.add("tick_100k_claims", "bare", r.claims)
	taken.add("tick_100k_by_runner_claims", "bare", r.claims)
	return nil
}

func (b *bench) oneCaller(ctx context.Context, c *crowd, taken samples) error {
	r, err := b.rush(ctx, c, true, func(func() int64) error { return c.runTicks(ctx) })
	if err != nil {
		return err
	}
	taken.add("tick_100k", "pgtick", r.took.Seconds())
	taken.add("tick_100k_claims", "pgtick", r.claims)
	return c.accounted(ctx, "pgtick.slot_log", c.schedules)
}

func (b *bench) twoCallers(ctx context.Context, c *crowd, taken samples) error {
	r, err := b.rush(ctx, c, true, func(func() int64) error {
		calls := twice(func(int) error { return exec(ctx, c.pool, `call pgtick.run_ticks()`) })
		return errors.Join(calls, c.runTicks(ctx)) // that is, once more where they left something
	})
	if err != nil {
		return err
	}
	taken.add("tick_100k_two_callers", "pgtick", r.took.Seconds())
	return c.accounted(ctx, "pgtick.slot_log", c.schedules)
}

// chunks is one caller that commits after each chunk, as run_ticks() does, and takes the time of each.
func (b *bench) chunks(ctx context.Context, c *crowd, taken samples) error {
	var longest time.Duration
	_, err := b.rush(ctx, c, true, func(func() int64) error {
		for {
			started := time.Now()
			looked, err := number[int](ctx, c.store, `select schedules from pgtick.tick_chunk()`)
			if err != nil || looked == 0 {
				return err
			}
			longest = max(longest, time.Since(started))
		}
	})
	if err != nil {
		return err
	}
	taken.add("tick_100k_longest_chunk", "pgtick", milliseconds(longest))
	return c.accounted(ctx, "pgtick.slot_log", c.schedules)
}

// inserts is the bare side: the same rows in transactions of ten thousand, with the same runner beside them.
func (b *bench) inserts(ctx context.Context, c *crowd, taken samples) error {
	var longest time.Duration
	r, err := b.rush(ctx, c, true, func(func() int64) (err error) {
		longest, err = c.insert(ctx, 0, c.schedules)
		return err
	})
	if err != nil {
		return err
	}
	taken.add("tick_100k", "bare", r.took.Seconds())
	taken.add("tick_100k_by_runner", "bare", r.took.Seconds())
	taken.add("tick_100k_longest_chunk", "bare", milliseconds(longest))
	return c.accounted(ctx, "bare.slot_log", c.schedules)
}

func (b *bench) twoInserts(ctx context.Context, c *crowd, taken samples) error {
	half := c.schedules / 2
	r, err := b.rush(ctx, c, true, func(func() int64) error {
		return twice(func(i int) error {
			_, err := c.insert(ctx, i*half, half)
			return err
		})
	})
	if err != nil {
		return err
	}
	taken.add("tick_100k_two_callers", "bare", r.took.Seconds())
	return c.accounted(ctx, "bare.slot_log", 2*half)
}

// byRunner leaves the slots to the runner's own timer, on the connection that claims and finishes too.
func (b *bench) byRunner(ctx context.Context, c *crowd, taken samples) error {
	r, err := b.rush(ctx, c, false, func(func() int64) error {
		return until(ctx, 5*time.Minute, func() (bool, error) { return c.nothingDue(ctx) })
	})
	if err != nil {
		return err
	}
	taken.add("tick_100k_by_runner", "pgtick", r.took.Seconds())
	taken.add("tick_100k_by_runner_claims", "pgtick", r.claims)
	return c.accounted(ctx, "pgtick.slot_log", c.schedules)
}

// insert is the bare form of a crowd's tick, and the longest of its transactions.
func (c *crowd) insert(ctx context.Context, from, n int) (longest time.Duration, err error) {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	for done := 0; done < n; done += 10000 {
		took, err := took(ctx, conn, bareSlots, min(10000, n-done), noon, from+done, pad)
		if err != nil {
			return 0, err
		}
		longest = max(longest, took)
	}
	return longest, nil
}

// twice does something at the same time as itself.
func twice(do func(i int) error) error {
	var group sync.WaitGroup
	problems := make([]error, 2)
	for i := range problems {
		group.Go(func() { problems[i] = do(i) })
	}
	group.Wait()
	return errors.Join(problems...)
}
