package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
)

// keptHistory is what share of its speed pgtick keeps beside millions of finished jobs.
func (b *bench) keptHistory(ctx context.Context, taken samples) error {
	return b.kept(ctx, taken, "history_kept", func(s *store) error { return s.finished(ctx, b.size.history) })
}

// keptFuture is the same beside jobs that wait for another day.
func (b *bench) keptFuture(ctx context.Context, taken samples) error {
	return b.kept(ctx, taken, "future_kept", func(s *store) error { return (&ours{pool: s.pool}).make(ctx, "noop", b.size.waiting, "tomorrow") })
}

// keptUnserved is the same beside jobs that are ready, but whose task nobody serves.
func (b *bench) keptUnserved(ctx context.Context, taken samples) error {
	return b.kept(ctx, taken, "unserved_kept", func(s *store) error { return (&ours{pool: s.pool}).make(ctx, "nobody", b.size.waiting, "now") })
}

// keptBacklog is the speed at which a backlog of a million drains, against one that is soon over, in the same database in turn.
func (b *bench) keptBacklog(ctx context.Context, taken samples) error {
	s, err := b.store(ctx, "backlog_kept")
	if err != nil {
		return err
	}
	o := &ours{pool: s.pool}
	for range b.size.keptRuns {
		small, err := drain(ctx, o, b.size.jobs)
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
		large, err := drain(ctx, o, b.size.waiting)
		if err != nil {
			return err
		}
		taken.add("backlog_kept", "pgtick", 100*large/small)
		fmt.Fprintf(os.Stderr, "%-14s %8.0f jobs/s, of a small backlog %8.0f jobs/s\n", "backlog_kept", large, small)
	}
	return b.drop(ctx, s)
}

// kept drains in two databases in turn, of which one has been given something to carry.
func (b *bench) kept(ctx context.Context, taken samples, figure string, burden func(*store) error) error {
	free, err := b.store(ctx, figure+"_control")
	if err != nil {
		return err
	}
	laden, err := b.store(ctx, figure)
	if err != nil {
		return err
	}
	if err := errors.Join(burden(laden), exec(ctx, laden.pool, `vacuum (analyze) pgtick.live_jobs, pgtick.history`)); err != nil {
		return err
	}
	for range b.size.keptRuns {
		control, err := drainBeside(ctx, free, b.size.jobs)
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
		rate, err := drainBeside(ctx, laden, b.size.jobs)
		if err != nil {
			return err
		}
		taken.add(figure, "pgtick", 100*rate/control)
		fmt.Fprintf(os.Stderr, "%-14s %8.0f jobs/s, without %8.0f jobs/s\n", figure, rate, control)
	}
	return errors.Join(b.drop(ctx, free), b.drop(ctx, laden))
}

// drainBeside drains beside what is there. The vacuum takes away what the last drain left, before autovacuum meets the next one.
func drainBeside(ctx context.Context, s *store, jobs int) (rate float64, err error) {
	o := &ours{pool: s.pool}
	if err := errors.Join(exec(ctx, s.pool, `vacuum pgtick.live_jobs`), o.bulk(ctx, jobs), o.settle(ctx)); err != nil {
		return 0, err
	}
	return workOff(ctx, o, jobs)
}

// finished writes rows as a week of done jobs leaves them.
func (s *store) finished(ctx context.Context, n int) error {
	return exec(ctx, s.pool, fmt.Sprintf(`insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths,
			timeout, args, created_at, runner_id, fence, started_at, finished_at, expires_on)
		select nextval('pgtick.live_jobs_id_seq'), 'noop', 'default', 5, 'done', f.at - interval '10 milliseconds', 1, 0, 20, 0, 0,
			interval '5 minutes', '%s', f.at - interval '20 milliseconds', 1, i, f.at - interval '5 milliseconds', f.at, (f.at at time zone 'UTC')::date + 7
		from generate_series(1, %d) as i
		cross join lateral (select now() - interval '6 days 20 hours' * (1 - i / %[2]d.0)) as f(at)`, noopArgs, n))
}

func (b *bench) drop(ctx context.Context, s *store) error {
	name := s.pool.Config().ConnConfig.Database
	s.pool.Close()
	admin, err := pgx.Connect(ctx, b.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer admin.Close(ctx)
	_, err = admin.Exec(ctx, "drop database "+pgx.Identifier{name}.Sanitize()+" with (force)")
	return err
}
