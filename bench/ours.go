package main

import (
	"context"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/tasks"
)

// ours is pgtick's own engine, with its defaults.
type ours struct {
	pool    *pgxpool.Pool
	noClock bool // leave slots to other clocks
}

type args struct {
	Stamp int64  `json:"stamp"`
	Pad   string `json:"pad"`
}

const pad = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

func (*ours) name() string                { return "pgtick" }
func (*ours) hasEngine() bool             { return true }
func (*ours) setup(context.Context) error { return nil }

func (o *ours) fill(ctx context.Context, n int) error {
	return exec(ctx, o.pool, `truncate pgtick.live_jobs, pgtick.history, pgtick.job_notes`,
		`delete from pgtick.runner_leases`,
		`select pgtick.enqueue_many('noop', array_fill('{"stamp": 0, "pad": "`+pad+`"}'::jsonb, array[`+itoa(n)+`])) limit 1`,
		`analyze pgtick.live_jobs`, `checkpoint`)
}

func (o *ours) enqueue(ctx context.Context, stamp int64) error {
	_, err := o.pool.Exec(ctx, `select pgtick.enqueue('noop', jsonb_build_object('stamp', $1::bigint, 'pad', $2::text))`, stamp, pad)
	return err
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
	e, err := engine.New(engine.Options{Registry: registry, Pool: o.pool, Connect: connect, Listen: connect, Log: log, NoClock: o.noClock})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { _ = e.Run(ctx); close(done) }()
	return func() { cancel(); <-done }, nil
}

func (o *ours) empty(ctx context.Context) (empty bool, err error) {
	err = o.pool.QueryRow(ctx, `select not exists (select from pgtick.live_jobs)`).Scan(&empty)
	return empty, err
}
