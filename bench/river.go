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

// riverWorkers were found fastest on two cores, with a fetch cooldown of 2 ms and 10 connections. So they are for tasks that have a
// transaction each: with 10, 20, 50 or 200 of them River is slower.
const riverWorkers = 1000

// riverPeer is River with those settings.
type riverPeer struct {
	pool     *pgxpool.Pool // the runner's
	shared   *pgxpool.Pool // of those who enqueue
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

func (*riverPeer) name() string { return "river" }

func (r *riverPeer) config() *river.Config {
	return &river.Config{FetchCooldown: 2 * time.Millisecond, FetchPollInterval: time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func newRiver(ctx context.Context, shared *pgxpool.Pool) (*riverPeer, error) {
	pool, err := poolOf(ctx, shared, 10)
	if err != nil {
		return nil, err
	}
	r := &riverPeer{pool: pool, shared: shared}
	migrator, err := rivermigrate.New(riverpgxv5.New(shared), nil)
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	r.inserter, err = river.NewClient(riverpgxv5.New(shared), r.config())
	return r, err
}

func (r *riverPeer) clear(ctx context.Context) error {
	return exec(ctx, r.shared, `truncate river_job`)
}

func (r *riverPeer) settle(ctx context.Context) error {
	return exec(ctx, r.shared, `analyze river_job`, `checkpoint`)
}

func (r *riverPeer) bulk(ctx context.Context, n int) error {
	for ; n > 0; n -= 10000 {
		batch := make([]river.InsertManyParams, min(n, 10000))
		for i := range batch {
			batch[i].Args = riverArgs{args{Pad: pad}}
		}
		if _, err := r.inserter.InsertManyFast(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

func (r *riverPeer) produce(ctx context.Context, l load) (produced, error) {
	return l.by(ctx, func(ctx context.Context, stamp int64) error {
		_, err := r.inserter.Insert(ctx, riverArgs{args{Stamp: stamp, Pad: pad}}, nil)
		return err
	})
}

func (r *riverPeer) work(ctx context.Context, c *counter) (func(), error) {
	return r.run(ctx, riverWorkers, &riverWorker{counter: c})
}

func (r *riverPeer) run(ctx context.Context, most int, worker river.Worker[riverArgs]) (stop func(), err error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, worker)
	cfg := r.config()
	cfg.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: most}}
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

func (r *riverPeer) left(ctx context.Context) (jobs int, err error) {
	err = r.shared.QueryRow(ctx, `select count(*) from river_job where state in ('available', 'running', 'retryable', 'scheduled')`).Scan(&jobs)
	return jobs, err
}
