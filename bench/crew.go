package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"
)

// noopTask is the task of tests/testrunner, the program with tasks of its own, that does nothing.
const noopTask = "test.noop"

// memory is the most that the program takes while it works through a great many jobs.
func (b *bench) memory(ctx context.Context, taken samples) error {
	c, err := b.crew(ctx, "memory", 1)
	if err != nil {
		return err
	}
	defer c.pool.Close()
	_, err = c.drain(ctx, b.size.memory)
	if err == nil {
		var peak float64
		peak, err = peakMemory(c.members[0].cmd.Process.Pid)
		taken.add("rss", "pgtick", peak)
	}
	return errors.Join(err, c.end())
}

// runners is how fast several of them drain one queue together, and how unevenly they share it.
func (b *bench) runners(ctx context.Context, taken samples) error {
	for n := range b.size.runs {
		worst := 0.0
		for _, size := range []int{1, 2, 4, 8} {
			d, err := b.together(ctx, fmt.Sprintf("runners_%d_%d", size, n), size)
			if err != nil {
				return fmt.Errorf("%d runners: %w", size, err)
			}
			taken.add("runners_total_"+strconv.Itoa(size), "pgtick", d.rate)
			worst = max(worst, d.uneven())
			fmt.Fprintf(os.Stderr, "%d runners %8.0f jobs/s, shares %v\n", size, d.rate, d.shares)
		}
		taken.add("runners_share_worst", "pgtick", worst)
	}
	return nil
}

func (b *bench) together(ctx context.Context, database string, size int) (d drained, err error) {
	c, err := b.crew(ctx, database, size)
	if err != nil {
		return d, err
	}
	d, err = c.drain(ctx, b.size.shared)
	if err == nil && len(d.shares) != size {
		err = fmt.Errorf("%d of them had any job", len(d.shares))
	}
	return d, errors.Join(err, c.end(), b.drop(ctx, c.store))
}

// crew is a store and the runners on it.
type crew struct {
	*store
	members []*program
}

// crew returns when all have gone to sleep, so that none is ahead.
func (b *bench) crew(ctx context.Context, database string, size int) (*crew, error) {
	path, err := b.built(ctx, "tests/testrunner")
	if err != nil {
		return nil, err
	}
	s, err := b.store(ctx, database)
	if err != nil {
		return nil, err
	}
	c := &crew{store: s}
	for range size {
		p, err := startProgram(path, s)
		if err != nil {
			return nil, errors.Join(err, c.end())
		}
		c.members = append(c.members, p)
	}
	if err := asleep(ctx, s.pool, size); err != nil {
		return nil, errors.Join(err, c.end())
	}
	return c, nil
}

func (c *crew) end() error {
	var problems []error
	for _, p := range c.members {
		problems = append(problems, p.stop())
	}
	return errors.Join(problems...)
}

// drained is what a crew has done, as the history tells it.
type drained struct {
	rate   float64
	shares []int // jobs of each runner
}

// drain commits all jobs at once, so that all are woken at the same moment. It ends where the last job did.
func (c *crew) drain(ctx context.Context, jobs int) (d drained, err error) {
	if _, err := c.pool.Exec(ctx, `select count(*) from pgtick.enqueue_many($1, array_fill('{}'::jsonb, array[$2::integer]))`, noopTask, jobs); err != nil {
		return d, err
	}
	begin := time.Now()
	err = untilEvery(ctx, 50*time.Millisecond, 5*time.Minute, func() (bool, error) {
		return number[bool](ctx, c.store, `select not exists (select from pgtick.live_jobs where task = $1 and queue = 'default' and priority = 5)`, noopTask)
	})
	if err != nil {
		return d, err
	}
	end, err := number[time.Time](ctx, c.store, `select max(finished_at) from pgtick.history`)
	if err != nil {
		return d, err
	}
	if err := c.pool.QueryRow(ctx, `select array_agg(h.jobs) from (select count(*) as jobs from pgtick.history group by runner_id) as h`).Scan(&d.shares); err != nil {
		return d, err
	}
	once, err := number[int](ctx, c.store, `select count(distinct id) from pgtick.history where state = 'done' and attempt = 1`)
	if err == nil && once != jobs {
		err = fmt.Errorf("%d of %d jobs were done once, at the first attempt", once, jobs)
	}
	d.rate = float64(jobs) / end.Sub(begin).Seconds()
	return d, err
}

// uneven is the largest deviation of a runner's share from an equal one, in percent of that.
func (d drained) uneven() (percent float64) {
	total := 0
	for _, share := range d.shares {
		total += share
	}
	equal := float64(total) / float64(len(d.shares))
	for _, share := range d.shares {
		percent = max(percent, 100*math.Abs(float64(share)-equal)/equal)
	}
	return percent
}
