package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// peer is one side of the comparison: a store of jobs, and how they get there.
type peer interface {
	name() string
	clear(ctx context.Context) error          // neither jobs nor traces of earlier ones
	bulk(ctx context.Context, jobs int) error // enqueue from here, in batches of the size that suits it
	produce(ctx context.Context, l load) (produced, error)
	left(ctx context.Context) (jobs int, err error) // not completed
}

// runner is a peer that works on its jobs, too.
type runner interface {
	peer
	settle(ctx context.Context) error // analyzed and checkpointed
	work(ctx context.Context, c *counter) (stop func(), err error)
}

// load is how jobs are enqueued one by one, each in a transaction of its own.
type load struct {
	clients int
	lasts   time.Duration
	every   time.Duration // of each client; 0: as fast as it can
	stamped bool          // the job carries the moment before it was enqueued
}

type produced struct {
	jobs int
	took time.Duration
}

func (p produced) rate() float64 { return float64(p.jobs) / p.took.Seconds() }

// by enqueues from so many goroutines.
func (l load) by(ctx context.Context, enqueue func(ctx context.Context, stamp int64) error) (produced, error) {
	var jobs atomic.Int64
	problems := make([]error, l.clients)
	var group sync.WaitGroup
	started := time.Now()
	for i := range problems {
		group.Go(func() {
			for n := 0; time.Since(started) < l.lasts; n++ {
				time.Sleep(time.Until(started.Add(time.Duration(n) * l.every)))
				if problems[i] = enqueue(ctx, l.stamp()); problems[i] != nil {
					return
				}
				jobs.Add(1)
			}
		})
	}
	group.Wait()
	return produced{int(jobs.Load()), time.Since(started)}, errors.Join(problems...)
}

func (l load) stamp() int64 {
	if !l.stamped {
		return 0
	}
	return time.Now().UnixNano()
}

// counter is what a task of any side calls in its first line.
type counter struct {
	done atomic.Int64
	mu   sync.Mutex
	took []time.Duration
}

func (c *counter) started(stamp int64) {
	if stamp != 0 {
		c.add(1, time.Duration(time.Now().UnixNano()-stamp))
		return
	}
	c.done.Add(1)
}

func (c *counter) add(done int, took ...time.Duration) {
	if len(took) > 0 {
		c.mu.Lock()
		c.took = append(c.took, took...)
		c.mu.Unlock()
	}
	c.done.Add(int64(done))
}

// seen are the latencies so far.
func (c *counter) seen() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Duration{}, c.took...)
}

// completed waits until so many jobs have run and none is left, and fails where one ran twice.
func (c *counter) completed(ctx context.Context, p peer, jobs int) error {
	err := until(ctx, 5*time.Minute, func() (bool, error) {
		if c.done.Load() < int64(jobs) {
			return false, nil
		}
		left, err := p.left(ctx)
		return left == 0, err
	})
	if err != nil {
		return fmt.Errorf("%d of %d jobs have run: %w", c.done.Load(), jobs, err)
	}
	return nil
}

// exactly fails where a job ran twice. To be asked when the runner has stopped.
func (c *counter) exactly(jobs int) error {
	if ran := c.done.Load(); ran != int64(jobs) {
		return fmt.Errorf("%d jobs ran %d times", jobs, ran)
	}
	return nil
}

func until(ctx context.Context, limit time.Duration, done func() (bool, error)) error {
	return untilEvery(ctx, 2*time.Millisecond, limit, done)
}

func untilEvery(ctx context.Context, pause, limit time.Duration, done func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	look := time.NewTicker(pause)
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
