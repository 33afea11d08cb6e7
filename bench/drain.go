package main

import (
	"context"
	"errors"
	"time"
)

// drain is how fast the sides work through jobs that do nothing.
func (b *bench) drain(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b, append(c.engines(), &bare{ours: c.ours}), func(r runner) error {
		rate, err := drain(ctx, r, b.size.jobs)
		taken.add("drain", r.name(), rate)
		tell(r, "drain %8.0f jobs/s", rate)
		return err
	})
}

// drain fills an empty store and drains it.
func drain(ctx context.Context, r runner, jobs int) (rate float64, err error) {
	if err := errors.Join(r.clear(ctx), r.bulk(ctx, jobs), r.settle(ctx)); err != nil {
		return 0, err
	}
	return workOff(ctx, r, jobs)
}

// workOff is jobs a second from the runner's start until the store holds no uncompleted job.
func workOff(ctx context.Context, r runner, jobs int) (rate float64, err error) {
	var c counter
	started := time.Now()
	stop, err := r.work(ctx, &c)
	if err != nil {
		return 0, err
	}
	err = c.completed(ctx, r, jobs)
	took := time.Since(started)
	stop()
	return float64(jobs) / took.Seconds(), errors.Join(err, c.exactly(jobs))
}
