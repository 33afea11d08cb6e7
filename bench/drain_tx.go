package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgtick/pgtick/tasks"
)

// taskConnections are as many for each side, besides those that its engine takes for itself.
const taskConnections = 10

const insertEffect = `insert into effects (job_id) values ($1)`

// drainTx is how fast the sides work through jobs that have a transaction each, with one row in it and their own completion.
func (b *bench) drainTx(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	pool, err := poolOf(ctx, c.ours.pool, taskConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := exec(ctx, pool, `create table if not exists effects (job_id bigint not null)`); err != nil {
		return err
	}
	return inTurn(ctx, b, []runner{&oursTx{c.ours, pool}, &riverTx{c.river, pool}, &bareTx{&bare{c.ours}, pool}}, func(r runner) error {
		if err := exec(ctx, pool, `truncate effects`); err != nil {
			return err
		}
		rate, err := drain(ctx, r, b.size.txJobs)
		if err != nil {
			return err
		}
		taken.add("drain_tx", r.name(), rate)
		tell(r, "drain_tx %8.0f jobs/s", rate)
		return effectOfEach(ctx, pool, b.size.txJobs)
	})
}

func effectOfEach(ctx context.Context, pool *pgxpool.Pool, jobs int) error {
	var rows, distinct int
	err := pool.QueryRow(ctx, `select count(*), count(distinct job_id) from effects`).Scan(&rows, &distinct)
	if err == nil && (rows != jobs || distinct != jobs) {
		err = fmt.Errorf("%d effects of %d jobs, not of %d", rows, distinct, jobs)
	}
	return err
}

type oursTx struct {
	*ours
	pool *pgxpool.Pool
}

func (o *oursTx) work(ctx context.Context, c *counter) (func(), error) {
	registry := tasks.NewRegistry()
	tasks.RegisterTx(registry, "noop", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[args]) error {
		c.started(0)
		_, err := tx.Exec(ctx, insertEffect, job.ID)
		return err
	})
	return (&ours{pool: o.ours.pool, tasks: o.pool}).run(ctx, registry)
}

type riverTx struct {
	*riverPeer
	pool *pgxpool.Pool
}

func (r *riverTx) work(ctx context.Context, c *counter) (func(), error) {
	return r.run(ctx, riverWorkers, &riverTxWorker{counter: c, pool: r.pool})
}

type riverTxWorker struct {
	river.WorkerDefaults[riverArgs]
	counter *counter
	pool    *pgxpool.Pool
}

// Work implements river.Worker.
func (w *riverTxWorker) Work(ctx context.Context, job *river.Job[riverArgs]) error {
	w.counter.started(0)
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insertEffect, job.ID); err != nil {
			return err
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
}

// bareTx is those statements on as many connections, without an engine.
type bareTx struct {
	*bare
	pool *pgxpool.Pool
}

func (b *bareTx) work(ctx context.Context, c *counter) (func(), error) {
	var group sync.WaitGroup
	for range taskConnections {
		var runner int64
		if err := b.pool.QueryRow(ctx, `select pgtick.register('bare', '{default}', '{noop}')`).Scan(&runner); err != nil {
			return nil, err
		}
		group.Go(func() { b.loop(ctx, runner, c) })
	}
	return group.Wait, nil
}

// loop ends where it finds no job, or an error: then jobs are left, and the run fails.
func (b *bareTx) loop(ctx context.Context, runner int64, c *counter) {
	conn, err := b.pool.Acquire(ctx)
	if err != nil {
		return
	}
	defer conn.Release()
	for {
		var ids, fences []int64
		err := conn.QueryRow(ctx, `select array_agg(id), array_agg(fence) from pgtick.claim($1, '{default}', '{noop}', 100)`, runner).Scan(&ids, &fences)
		if err != nil || len(ids) == 0 {
			return
		}
		for i, id := range ids {
			c.started(0)
			if pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, insertEffect, id); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `select pgtick.finish_in_transaction($1, $2)`, id, fences[i])
				return err
			}) != nil {
				return
			}
		}
	}
}
