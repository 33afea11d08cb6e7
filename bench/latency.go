package main

import (
	"context"
	"errors"
	"time"
)

// latency enqueues one job every 20 ms on an idle queue and measures until the task's first line.
func (b *bench) latency(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	return inTurn(ctx, b.size.runs, c.engines(), func(r runner) error {
		p50, p99, err := latency(ctx, r, b.size.samples)
		taken.add("latency_p50", r.name(), p50)
		taken.add("latency_p99", r.name(), p99)
		tell(r, "latency p50 %.2f ms, p99 %.2f ms", p50, p99)
		return err
	})
}

func latency(ctx context.Context, r runner, jobs int) (p50, p99 float64, err error) {
	if err := errors.Join(r.clear(ctx), r.settle(ctx)); err != nil {
		return 0, 0, err
	}
	var c counter
	stop, err := r.work(ctx, &c)
	if err != nil {
		return 0, 0, err
	}
	const every = 20 * time.Millisecond
	one := load{clients: 1, every: every, lasts: time.Second}
	warm, err := r.produce(ctx, one)
	if err != nil {
		return 0, 0, err
	}
	one.lasts, one.stamped = time.Duration(jobs)*every, true
	made, err := r.produce(ctx, one)
	if err != nil {
		return 0, 0, err
	}
	err = c.completed(ctx, r, warm.jobs+made.jobs)
	stop()
	p50, p99 = quantiles(c.seen())
	return p50, p99, errors.Join(err, c.exactly(warm.jobs+made.jobs))
}
