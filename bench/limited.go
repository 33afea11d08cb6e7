package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pgtick/pgtick/tasks"
)

// Jobs of many limit keys: so many keys, jobs of each, and starts that each is allowed in a second.
const (
	limitedKeys   = 1000
	limitedPerKey = 100
	limitedRate   = 3
)

// limitedStarts notes when the first and the last of some jobs began.
type limitedStarts struct {
	mu          sync.Mutex
	n           int
	first, last time.Time
}

func (s *limitedStarts) note() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	if s.n++; s.n == 1 {
		s.first = s.last
	}
}

func (s *limitedStarts) seen() (n int, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, s.last.Sub(s.first)
}

// limited is how fast a backlog of many limit keys goes, of what their limits allow; and what the server and a runner do while as many wait for
// a time that is far off.
func (b *bench) limited(ctx context.Context, taken samples) error {
	s, err := b.store(ctx, "limited")
	if err != nil {
		return err
	}
	defer s.pool.Close()
	r, err := startRedis()
	if err != nil {
		return err
	}
	limiter, closeLimiter, err := r.limiter(ctx)
	if err != nil {
		return errors.Join(err, r.close())
	}
	defer closeLimiter()
	o := &ours{pool: s.pool, limiter: limiter}
	return errors.Join(b.limitedDrain(ctx, o, taken), b.limitedWait(ctx, o, taken), r.close())
}

func (o *ours) fillLimited(ctx context.Context, rate int, period string) error {
	return errors.Join(o.clear(ctx), exec(ctx, o.pool, fmt.Sprintf(`select pgtick.set_limit('noop', %d, %s, 1, p_per_key => true)`, rate, period),
		fmt.Sprintf(`select count(*) from pgtick.enqueue_many('noop', array_fill('{}'::jsonb, array[%d]), p_limit_keys => array(select 'key ' || i %% %d from generate_series(1, %d) as i))`,
			limitedKeys*limitedPerKey, limitedKeys, limitedKeys*limitedPerKey)), o.settle(ctx))
}

func (b *bench) limitedDrain(ctx context.Context, o *ours, taken samples) error {
	if err := o.fillLimited(ctx, limitedRate, `'1 second'`); err != nil {
		return err
	}
	var seen limitedStarts
	stop, err := o.run(ctx, noting(&seen))
	if err != nil {
		return err
	}
	defer stop()
	err = untilEvery(ctx, 50*time.Millisecond, 5*time.Minute, func() (bool, error) {
		n, _ := seen.seen()
		return n == limitedKeys*limitedPerKey, nil
	})
	n, took := seen.seen()
	wanted := float64(limitedPerKey-1) / limitedRate
	taken.add("limited_rate", "pgtick", 100*wanted/took.Seconds())
	tell(o, "limited: %d jobs of %d keys in %.2f s; their limit allows it in %.2f s", n, limitedKeys, took.Seconds(), wanted)
	return err
}

func noting(seen *limitedStarts) *tasks.Registry {
	registry := tasks.NewRegistry()
	tasks.Register(registry, "noop", func(context.Context, *tasks.Job[args]) error {
		seen.note()
		return nil
	})
	return registry
}

func (b *bench) limitedWait(ctx context.Context, o *ours, taken samples) error {
	if err := o.fillLimited(ctx, 1, `'1 day'`); err != nil {
		return err
	}
	var seen limitedStarts
	stop, err := o.run(ctx, noting(&seen))
	if err != nil {
		return err
	}
	defer stop()
	err = untilEvery(ctx, 100*time.Millisecond, 2*time.Minute, func() (all bool, err error) {
		err = o.pool.QueryRow(ctx, `select count(*) = $1 from pgtick.live_jobs where reservation is not null and runner_id is null`, limitedKeys*(limitedPerKey-1)).Scan(&all)
		return all, err
	})
	if err != nil {
		return err
	}
	if err := exec(ctx, o.pool, `vacuum analyze pgtick.live_jobs`, `checkpoint`); err != nil { // or else the server does, meanwhile
		return err
	}
	time.Sleep(5 * time.Second) // for what it does once
	used, err := b.usedSoFar()
	if err != nil {
		return err
	}
	begin := time.Now()
	time.Sleep(time.Duration(b.size.idle) * time.Second)
	later, err := b.usedSoFar()
	taken.add("limited_waiting_cpu", "pgtick", 100*(later-used).Seconds()/time.Since(begin).Seconds())
	return err
}

// usedSoFar is the processor time of this process, in which the runner is, and of the server.
func (b *bench) usedSoFar() (time.Duration, error) {
	own, err := processorTime(os.Getpid())
	if err != nil {
		return 0, err
	}
	server, err := familyTime(b.server.Pid())
	return own + server, err
}
