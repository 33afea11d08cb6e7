package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgtick/pgtick/tasks"
)

// unblocking is a way in which the end of one job lets another begin.
type unblocking struct {
	name          string
	begin, end    string // statements before and after
	first, second string // enqueue the two of a pair, $1 the pair's key, $2 the first one's id
}

const noLimit = `select pgtick.remove_limit('noop', true)`

var unblockings = []unblocking{
	{"after", noLimit, noLimit, `select pgtick.enqueue('noop', '` + noopArgs + `') where $1::text <> ''`, `select pgtick.enqueue('noop', '` + noopArgs + `', p_after => array[$2::bigint]) where $1::text <> ''`},
	{"sequence", noLimit, noLimit, `select pgtick.enqueue('noop', '` + noopArgs + `', p_sequence_key => $1)`, `select pgtick.enqueue('noop', '` + noopArgs + `', p_sequence_key => $1) where $2::bigint > 0`},
	{
		"limit", `select pgtick.set_limit('noop', p_max_running => 1, p_per_key => true)`, noLimit,
		`select pgtick.enqueue('noop', '` + noopArgs + `', p_limit_key => $1)`, `select pgtick.enqueue('noop', '` + noopArgs + `', p_limit_key => $1) where $2::bigint > 0`,
	},
}

// unblocked is how long after a job's end, as the database writes it down, the one starts that had to wait for it: pairs, one every 20 ms, otherwise idle.
func (b *bench) unblocked(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b, []*ours{c.ours}, func(o *ours) error {
		for _, u := range unblockings {
			late, err := o.unblock(ctx, u, b.size.samples)
			if err != nil {
				return fmt.Errorf("%s: %w", u.name, err)
			}
			p50, p99 := quantiles(late)
			taken.add("unblocked_"+u.name+"_p50", o.name(), p50)
			taken.add("unblocked_"+u.name+"_p99", o.name(), p99)
			tell(o, "unblocked by %s p50 %.2f ms, p99 %.2f ms", u.name, p50, p99)
		}
		return nil
	})
}

// began notes when each job reached its task's first line.
type began struct {
	mu sync.Mutex
	at map[int64]time.Time
}

func (b *began) note(id int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at[id] = time.Now()
}

func (b *began) seen() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.at)
}

func (o *ours) unblock(ctx context.Context, u unblocking, pairs int) (late []time.Duration, err error) {
	if err := errors.Join(exec(ctx, o.pool, u.begin), o.clear(ctx), o.settle(ctx)); err != nil {
		return nil, err
	}
	seen := began{at: map[int64]time.Time{}}
	registry := tasks.NewRegistry()
	tasks.Register(registry, "noop", func(_ context.Context, job *tasks.Job[args]) error {
		seen.note(job.ID)
		return nil
	})
	stop, err := o.run(ctx, registry)
	if err != nil {
		return nil, err
	}
	of := map[int64]int64{} // the second of a pair, and the first
	made, err := load{clients: 1, every: 20 * time.Millisecond, lasts: time.Duration(pairs) * 20 * time.Millisecond, stamped: true}.by(ctx, func(ctx context.Context, stamp int64) error {
		first, second, err := o.enqueuePair(ctx, u, fmt.Sprintf("%s %d", u.name, stamp))
		of[second] = first
		return err
	})
	if err == nil {
		err = untilEvery(ctx, 50*time.Millisecond, time.Minute, func() (bool, error) { return seen.seen() >= 2*made.jobs, nil })
	}
	stop()
	if err := errors.Join(err, exec(ctx, o.pool, u.end)); err != nil {
		return nil, err
	}
	for second, first := range of {
		var ended time.Time
		if err := o.pool.QueryRow(ctx, `select finished_at from pgtick.jobs where id = $1 and state = 'done'`, first).Scan(&ended); err != nil {
			return nil, err
		}
		late = append(late, seen.at[second].Sub(ended)) // database and runner read one clock
	}
	return late, nil
}

func (o *ours) enqueuePair(ctx context.Context, u unblocking, key string) (first, second int64, err error) {
	tx, err := o.pool.Begin(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err = tx.QueryRow(ctx, u.first, key).Scan(&first); err == nil {
		err = tx.QueryRow(ctx, u.second, key, first).Scan(&second)
	}
	return first, second, errors.Join(err, tx.Commit(ctx))
}
