package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// peer is one side of the comparison.
type peer interface {
	name() string
	hasEngine() bool
	setup(ctx context.Context) error
	fill(ctx context.Context, jobs int) error // enqueue in bulk, into empty tables, analyzed and checkpointed
	enqueue(ctx context.Context, stamp int64) error
	work(ctx context.Context, c *counter) (stop func(), err error)
	empty(ctx context.Context) (bool, error) // no job in the store is uncompleted
}

// counter is what a task of either side calls in its first line.
type counter struct {
	done atomic.Int64
	mu   sync.Mutex
	took []time.Duration
}

func (c *counter) started(stamp int64) {
	if stamp != 0 {
		took := time.Duration(time.Now().UnixNano() - stamp)
		c.mu.Lock()
		c.took = append(c.took, took)
		c.mu.Unlock()
	}
	c.done.Add(1)
}

// drain is jobs a second from the worker's start until the store holds no uncompleted job.
func drain(ctx context.Context, p peer, n int) (float64, error) {
	if err := p.fill(ctx, n); err != nil {
		return 0, err
	}
	var c counter
	started := time.Now()
	stop, err := p.work(ctx, &c)
	if err != nil {
		return 0, err
	}
	err = until(ctx, 5*time.Minute, func() (bool, error) {
		if c.done.Load() < int64(n) {
			return false, nil
		}
		return p.empty(ctx)
	})
	took := time.Since(started)
	stop()
	if c.done.Load() != int64(n) {
		return 0, errors.New("a job ran twice")
	}
	return float64(n) / took.Seconds(), err
}

// latency enqueues one job every 20 ms on an idle queue and measures until the task's first line.
func latency(ctx context.Context, p peer, n int) (p50, p99 float64, err error) {
	if err := p.fill(ctx, 0); err != nil {
		return 0, 0, err
	}
	var c counter
	stop, err := p.work(ctx, &c)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	const warm = 50
	next := time.NewTicker(20 * time.Millisecond)
	defer next.Stop()
	for i := range n + warm {
		<-next.C
		stamp := time.Now().UnixNano()
		if i < warm {
			stamp = 0
		}
		if err := p.enqueue(ctx, stamp); err != nil {
			return 0, 0, err
		}
	}
	err = until(ctx, time.Minute, func() (bool, error) { return c.done.Load() >= int64(n+warm), nil })
	if err != nil {
		return 0, 0, err
	}
	p50, p99 = quantiles(c.took)
	return p50, p99, nil
}

func until(ctx context.Context, limit time.Duration, done func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("not done in time")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
		}
	}
}
