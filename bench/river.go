package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverPeer is River with the settings at which it was found fastest on two cores: 1,000 workers, a fetch cooldown of 2 ms, 10 connections.
type riverPeer struct {
	pool     *pgxpool.Pool
	inserter *river.Client[pgx.Tx]
}

type riverArgs struct{ args }

// Kind implements river.JobArgs.
func (riverArgs) Kind() string { return "noop" }

type riverWorker struct {
	river.WorkerDefaults[riverArgs]
	counter *counter
}

// Work implements river.Worker.
func (w *riverWorker) Work(_ context.Context, job *river.Job[riverArgs]) error {
	w.counter.started(job.Args.Stamp)
	return nil
}

func (*riverPeer) name() string    { return "river" }
func (*riverPeer) hasEngine() bool { return true }

func (r *riverPeer) config() *river.Config {
	return &river.Config{FetchCooldown: 2 * time.Millisecond, FetchPollInterval: time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func (r *riverPeer) setup(ctx context.Context) error {
	own := r.pool.Config()
	own.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(ctx, own)
	if err != nil {
		return err
	}
	r.pool = pool
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	r.inserter, err = river.NewClient(riverpgxv5.New(pool), r.config())
	return err
}

func (r *riverPeer) fill(ctx context.Context, n int) error {
	if err := exec(ctx, r.pool, `truncate river_job`); err != nil {
		return err
	}
	for left := n; left > 0; left -= 10000 {
		batch := make([]river.InsertManyParams, min(left, 10000))
		for i := range batch {
			batch[i].Args = riverArgs{args{Pad: pad}}
		}
		if _, err := r.inserter.InsertManyFast(ctx, batch); err != nil {
			return err
		}
	}
	return exec(ctx, r.pool, `analyze river_job`, `checkpoint`)
}

func (r *riverPeer) enqueue(ctx context.Context, stamp int64) error {
	_, err := r.inserter.Insert(ctx, riverArgs{args{Stamp: stamp, Pad: pad}}, nil)
	return err
}

func (r *riverPeer) work(ctx context.Context, c *counter) (func(), error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{counter: c})
	cfg := r.config()
	cfg.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 1000}}
	cfg.Workers = workers
	client, err := river.NewClient(riverpgxv5.New(r.pool), cfg)
	if err != nil {
		return nil, err
	}
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	return func() { _ = client.Stop(context.WithoutCancel(ctx)) }, nil
}

func (r *riverPeer) empty(ctx context.Context) (empty bool, err error) {
	err = r.pool.QueryRow(ctx, `select not exists (select from river_job where state in ('available', 'running', 'retryable', 'scheduled'))`).Scan(&empty)
	return empty, err
}
