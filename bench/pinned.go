package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const pinnedBatches = 10

// pinned is what share of its speed a side keeps after a while in which a transaction has held on to an old snapshot, so that nothing
// dead is removed: the last fifth of a backlog, against the same without such a transaction. pinned_restarts_kept is the same of ten batches,
// for each of which the runner starts anew, and so knows nothing of what it has seen before.
func (b *bench) pinned(ctx context.Context, taken samples) error {
	return b.eachPinned(ctx, taken, "pinned_kept", b.backlog)
}

func (b *bench) pinnedRestarts(ctx context.Context, taken samples) error {
	return b.eachPinned(ctx, taken, "pinned_restarts_kept", b.batches)
}

// way is how 200,000 jobs are worked off: the speed at the beginning, and that of the last fifth.
type way func(ctx context.Context, r runner) (first, last float64, err error)

func (b *bench) eachPinned(ctx context.Context, taken samples, figure string, how way) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	for i := range b.size.keptRuns {
		sides := []runner{c.ours}
		if i == 0 {
			sides = c.engines()[:min(3, len(c.engines()))] // the others once, and not pg-boss
		}
		err := inTurns(ctx, b, 1, sides, func(r runner) error {
			kept, err := b.keptPinned(ctx, r, how)
			taken.add(figure, r.name(), kept)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) keptPinned(ctx context.Context, r runner, how way) (percent float64, err error) {
	freeFirst, freeLast, err := how(ctx, r)
	if err != nil {
		return 0, err
	}
	if err := r.clear(ctx); err != nil {
		return 0, err
	}
	release, err := b.pin(ctx)
	if err != nil {
		return 0, err
	}
	first, last, err := how(ctx, r)
	release()
	if err != nil {
		return 0, err
	}
	tell(r, "pinned %5.0f to %5.0f jobs/s, free %5.0f to %5.0f jobs/s", first, last, freeFirst, freeLast)
	return 100 * last / freeLast, nil
}

// backlog is worked off by one runner. Its first speed is that of the first four fifths.
func (b *bench) backlog(ctx context.Context, r runner) (first, last float64, err error) {
	if err := errors.Join(r.clear(ctx), r.bulk(ctx, b.size.pinned), r.settle(ctx)); err != nil {
		return 0, 0, err
	}
	var c counter
	fifth := b.size.pinned / 5
	began := time.Now()
	stop, err := r.work(ctx, &c)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	err = untilEvery(ctx, time.Millisecond, 5*time.Minute, func() (bool, error) { return c.done.Load() >= int64(4*fifth), nil })
	then, seen := time.Now(), c.done.Load()
	err = errors.Join(err, c.completed(ctx, r, b.size.pinned))
	return float64(seen) / then.Sub(began).Seconds(), float64(int64(b.size.pinned)-seen) / time.Since(then).Seconds(), errors.Join(err, c.exactly(b.size.pinned))
}

// lastTwo is the speed of the last two batches together.
func lastTwo(rates []float64) float64 {
	x, y := rates[len(rates)-2], rates[len(rates)-1]
	return 2 * x * y / (x + y)
}

// batches fills the store and drains it again and again, without cleaning up between.
func (b *bench) batches(ctx context.Context, r runner) (first, last float64, err error) {
	var rates []float64
	size := b.size.pinned / pinnedBatches
	for i := range pinnedBatches {
		if err := r.bulk(ctx, size); err != nil {
			return 0, 0, err
		}
		if i == 0 {
			if err := r.settle(ctx); err != nil {
				return 0, 0, err
			}
		}
		rate, err := workOff(ctx, r, size)
		if err != nil {
			return 0, 0, fmt.Errorf("batch %d: %w", i+1, err)
		}
		rates = append(rates, rate)
	}
	return rates[0], lastTwo(rates), nil
}

// pin holds a snapshot of the queue's database, and a transaction's number, until it is released. It reads no table of a queue: that would
// lock it.
func (b *bench) pin(ctx context.Context) (release func(), err error) {
	conn, err := pgx.ConnectConfig(ctx, b.sides.ours.pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, `begin isolation level repeatable read; select count(*) from pgtick.installed; create temporary table pinned ()`)
	return func() { conn.Close(ctx) }, err
}
