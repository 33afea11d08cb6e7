package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// inserts is the bare side of enqueueing: rows for a table with the indexes and constraints of pgtick's own.
type inserts struct{ pool *pgxpool.Pool }

const intoBare = `insert into bare.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, created_at) `

func newInserts(ctx context.Context, pool *pgxpool.Pool) (*inserts, error) {
	return &inserts{pool}, exec(ctx, pool, `create schema bare`,
		`create table bare.live_jobs (like pgtick.live_jobs including all) with (fillfactor = 50)`)
}

func (*inserts) name() string { return "bare" }

func (i *inserts) clear(ctx context.Context) error {
	return exec(ctx, i.pool, `truncate bare.live_jobs`)
}

func (i *inserts) produce(ctx context.Context, l load) (produced, error) {
	return l.by(ctx, func(ctx context.Context, stamp int64) error {
		_, err := i.pool.Exec(ctx, intoBare+`values ('noop', 'default', 5, now(), 20, interval '5 minutes', jsonb_build_object('stamp', $1::bigint, 'pad', $2::text), now())`, stamp, pad)
		return err
	})
}

func (i *inserts) bulk(ctx context.Context, n int) error {
	for ; n > 0; n -= 10000 {
		batch := make([]string, min(n, 10000))
		for i := range batch {
			batch[i] = noopArgs
		}
		if _, err := i.pool.Exec(ctx, intoBare+`select 'noop', 'default', 5, now(), 20, interval '5 minutes', a.args, now()
			from unnest($1::text[]::jsonb[]) as a(args)`, batch); err != nil {
			return err
		}
	}
	return nil
}

func (i *inserts) copy(ctx context.Context, n int) error {
	columns := []string{"task", "queue", "priority", "run_at", "max_attempts", "timeout", "args", "created_at"}
	for ; n > 0; n -= 10000 {
		now := time.Now()
		row := []any{"noop", "default", 5, now, 20, 5 * time.Minute, noopArgs, now}
		rows := pgx.CopyFromSlice(min(n, 10000), func(int) ([]any, error) { return row, nil })
		if _, err := i.pool.CopyFrom(ctx, pgx.Identifier{"bare", "live_jobs"}, columns, rows); err != nil {
			return err
		}
	}
	return nil
}

func (i *inserts) left(ctx context.Context) (jobs int, err error) {
	err = i.pool.QueryRow(ctx, `select count(*) from bare.live_jobs`).Scan(&jobs)
	return jobs, err
}
