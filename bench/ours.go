package main

import (
	"cmp"
	"context"
	"errors"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tasks"
)

// ours is pgtick's own engine, with its defaults.
type ours struct {
	pool    *pgxpool.Pool
	tasks   *pgxpool.Pool  // for the tasks; nil: pool
	noClock bool           // leave slots to other clocks
	limiter *limit.Limiter // of rates; nil: one without Redis
}

type args struct {
	Stamp int64  `json:"stamp"`
	Pad   string `json:"pad"`
}

const pad = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

const noopArgs = `{"stamp": 0, "pad": "` + pad + `"}`

func (*ours) name() string { return "pgtick" }

func (o *ours) clear(ctx context.Context) error {
	return exec(ctx, o.pool, `truncate pgtick.live_jobs, pgtick.history, pgtick.job_notes`, `delete from pgtick.runner_leases`)
}

func (o *ours) settle(ctx context.Context) error {
	return exec(ctx, o.pool, `analyze pgtick.live_jobs`, `checkpoint`)
}

// fill has the server itself make the jobs.
func (o *ours) fill(ctx context.Context, n int) error {
	return errors.Join(o.clear(ctx), o.make(ctx, "noop", n, "now"), o.settle(ctx))
}

// make adds jobs that the server itself puts together.
func (o *ours) make(ctx context.Context, task string, n int, runAt string) error {
	for ; n > 0; n -= 100000 {
		_, err := o.pool.Exec(ctx, `select count(*) from pgtick.enqueue_many($1,
			array_fill(jsonb_build_object('stamp', 0, 'pad', $2::text), array[$3::integer]), p_run_at => $4::text::timestamptz)`, task, pad, min(n, 100000), runAt)
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *ours) bulk(ctx context.Context, n int) error {
	for ; n > 0; n -= 10000 {
		batch := make([]string, min(n, 10000))
		for i := range batch {
			batch[i] = noopArgs
		}
		if _, err := o.pool.Exec(ctx, `select count(*) from pgtick.enqueue_many('noop', $1::text[]::jsonb[])`, batch); err != nil {
			return err
		}
	}
	return nil
}

func (o *ours) produce(ctx context.Context, l load) (produced, error) {
	return l.by(ctx, func(ctx context.Context, stamp int64) error {
		_, err := o.pool.Exec(ctx, `select pgtick.enqueue('noop', jsonb_build_object('stamp', $1::bigint, 'pad', $2::text))`, stamp, pad)
		return err
	})
}

func (o *ours) work(ctx context.Context, c *counter) (func(), error) {
	registry := tasks.NewRegistry()
	tasks.Register(registry, "noop", func(_ context.Context, job *tasks.Job[args]) error {
		c.started(job.Args.Stamp)
		return nil
	})
	return o.run(ctx, registry)
}

// run starts an engine with these tasks; stop returns when it has ended.
func (o *ours) run(ctx context.Context, registry *tasks.Registry) (stop func(), err error) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	connect := func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, o.pool.Config().ConnConfig)
	}
	e, err := engine.New(engine.Options{Registry: registry, Pool: cmp.Or(o.tasks, o.pool), Connect: connect, Listen: connect, Log: log, NoClock: o.noClock, Limiter: o.limiter})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { _ = e.Run(ctx); close(done) }()
	return func() { cancel(); <-done }, nil
}

// left looks at one lane alone: there may be a million other jobs beside it.
func (o *ours) left(ctx context.Context) (jobs int, err error) {
	err = o.pool.QueryRow(ctx, `select count(*) from pgtick.live_jobs where task = 'noop' and queue = 'default' and priority = 5 and run_at <= now()`).Scan(&jobs)
	return jobs, err
}
