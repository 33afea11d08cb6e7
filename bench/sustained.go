package main

import (
	"context"
	"errors"
	"time"
)

// sustained is how many jobs are completed a second while clients enqueue as fast as they can, how long those took from before their
// enqueue to the task's first line, and how many were left when the clients stopped.
func (b *bench) sustained(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b, c.engines(), func(r runner) error {
		s, err := b.sustain(ctx, r)
		taken.add("sustained", r.name(), s.rate)
		taken.add("sustained_p99", r.name(), s.p99)
		taken.add("sustained_backlog", r.name(), float64(s.backlog))
		tell(r, "sustained %8.0f jobs/s, p99 %.2f ms, %d left of %d", s.rate, s.p99, s.backlog, s.made)
		return err
	})
}

type sustained struct {
	rate, p99     float64
	backlog, made int
}

func (b *bench) sustain(ctx context.Context, r runner) (s sustained, err error) {
	if err := errors.Join(r.clear(ctx), r.settle(ctx)); err != nil {
		return s, err
	}
	var c counter
	stop, err := r.work(ctx, &c)
	if err != nil {
		return s, err
	}
	made, err := r.produce(ctx, load{clients: clients, lasts: time.Duration(b.size.sustained) * time.Second, stamped: true})
	done, took := int(c.done.Load()), c.seen()
	if err == nil {
		err = c.completed(ctx, r, made.jobs)
	}
	stop()
	_, s.p99 = quantiles(took)
	s.rate, s.backlog, s.made = float64(done)/made.took.Seconds(), made.jobs-done, made.jobs
	return s, errors.Join(err, c.exactly(made.jobs))
}
