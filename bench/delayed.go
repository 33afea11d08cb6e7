package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgtick/pgtick/tasks"
)

// delayed is how late jobs start that were enqueued for a moment half a second to three seconds ahead, one every 10 ms.
func (b *bench) delayed(ctx context.Context, taken samples) error {
	return b.lagging(ctx, func(late []time.Duration) {
		p50, p99 := quantiles(late)
		taken.add("delayed_p50", "pgtick", p50)
		taken.add("delayed_p99", "pgtick", p99)
	}, 500*time.Millisecond, 3*time.Second, func(c *counter, job *tasks.Job[args]) error {
		c.add(1, time.Since(job.RunAt)) // database and runner read one clock
		return nil
	})
}

// retried is how late the second attempts start of jobs whose first one has asked for a second's pause.
func (b *bench) retried(ctx context.Context, taken samples) error {
	return b.lagging(ctx, func(late []time.Duration) {
		_, p99 := quantiles(late)
		taken.add("retried_p99", "pgtick", p99)
	}, 0, 0, func(c *counter, job *tasks.Job[args]) error {
		if job.Attempt == 1 {
			return tasks.Snooze(time.Second)
		}
		c.add(1, time.Since(job.RunAt)) // database and runner read one clock
		return nil
	})
}

// lagging enqueues a job every 10 ms, to run at a moment between from and to from then on.
func (b *bench) lagging(ctx context.Context, note func([]time.Duration), from, to time.Duration, task func(*counter, *tasks.Job[args]) error) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b, []*ours{c.ours}, func(o *ours) error {
		var done counter
		registry := tasks.NewRegistry()
		tasks.Register(registry, "noop", func(_ context.Context, job *tasks.Job[args]) error { return task(&done, job) })
		if err := errors.Join(o.clear(ctx), o.settle(ctx)); err != nil {
			return err
		}
		stop, err := o.run(ctx, registry)
		if err != nil {
			return err
		}
		made, err := load{clients: 1, every: 10 * time.Millisecond, lasts: time.Duration(b.size.samples) * 10 * time.Millisecond}.
			by(ctx, func(ctx context.Context, _ int64) error { return o.enqueueIn(ctx, from+rand.N(to-from+1)) })
		if err == nil {
			err = untilEvery(ctx, 50*time.Millisecond, time.Minute, func() (bool, error) {
				var none bool
				err := o.pool.QueryRow(ctx, `select not exists (select from pgtick.live_jobs)`).Scan(&none)
				return none, err
			})
		}
		stop()
		note(done.seen())
		return errors.Join(err, done.exactly(made.jobs))
	})
}

func (o *ours) enqueueIn(ctx context.Context, delay time.Duration) error {
	_, err := o.pool.Exec(ctx, `select pgtick.enqueue('noop', '`+noopArgs+`', p_run_at => pgtick.now() + $1::float8 * interval '1 second')`, delay.Seconds())
	if err != nil {
		return fmt.Errorf("enqueue a job for later: %w", err)
	}
	return nil
}
