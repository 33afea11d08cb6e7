package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// store is a database of its own, migrated, without the schedules that come with pgtick.
type store struct{ pool *pgxpool.Pool }

func (b *bench) store(ctx context.Context, name string) (*store, error) {
	admin, err := pgx.Connect(ctx, b.server.URL("postgres"))
	if err != nil {
		return nil, err
	}
	defer admin.Close(ctx)
	if _, err := admin.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()); err != nil {
		return nil, err
	}
	pool, err := prepare(ctx, b.server.URL(name))
	if err != nil {
		return nil, err
	}
	return &store{pool}, exec(ctx, pool, `delete from pgtick.schedule_changes`, `delete from pgtick.schedule_defs`)
}

// setClock makes pgtick.now() of this database answer at, and go on from there; the partitions of those days are made.
func (s *store) setClock(ctx context.Context, at time.Time) error {
	return exec(ctx, s.pool, fmt.Sprintf(`create or replace function pgtick.now() returns timestamptz
		language sql volatile parallel safe set search_path = '' as $$ select pg_catalog.clock_timestamp() + interval '%d microseconds' $$`,
		time.Until(at).Microseconds()), `select pgtick.maintain()`)
}

// clear leaves the schedules, and nothing of what they or anybody else have made.
func (s *store) clear(ctx context.Context) error {
	return exec(ctx, s.pool, `truncate pgtick.live_jobs, pgtick.history, pgtick.job_notes, pgtick.slot_log`, `delete from pgtick.runner_leases`)
}

func number[T any](ctx context.Context, s *store, sql string, args ...any) (value T, err error) {
	err = s.pool.QueryRow(ctx, sql, args...).Scan(&value)
	return value, err
}

// took is how long a statement takes, its round trip included.
func took(ctx context.Context, conn *pgxpool.Conn, sql string, args ...any) (time.Duration, error) {
	started := time.Now()
	_, err := conn.Exec(ctx, sql, args...)
	return time.Since(started), err
}

// runTicks calls as pg_cron does, again where one call's time was not enough.
func (s *store) runTicks(ctx context.Context) error {
	for {
		if done, err := s.nothingDue(ctx); done || err != nil {
			return err
		}
		if err := exec(ctx, s.pool, `call pgtick.run_ticks()`); err != nil {
			return err
		}
	}
}

// nothingDue asks for the slots of noon alone: with more than a minute's work, the next ones are due before these are done.
func (s *store) nothingDue(ctx context.Context) (bool, error) {
	return number[bool](ctx, s, `select not exists (select from pgtick.schedule_defs as s where coalesce(s.retry_at, s.next_at) <= $1 and s.next_at is not null)`, noon)
}
