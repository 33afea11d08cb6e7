// Package library_test is the Go library as its users see it: jobs enqueued from Go, definitions, middleware, traces; on a real database, with
// the engine that runners have.
package library_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// greeting is what the jobs here have for args.
type greeting struct {
	Name string `json:"name"`
}

type none struct{}

var errNotNow = errors.New("not now")

// fresh is a database in which nothing happens but what the test does.
func fresh(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	return db
}

func do(t *testing.T, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// ask reads one value.
func ask[V any](t *testing.T, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), sql, args...).Scan(&value))
	return value
}

func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	require.Equal(t, code, pg.Code, pg.Message)
}

// noted is a registry with tasks that write into the table notes: what a job has done can be seen.
func noted(t *testing.T, db *pgtest.DB) *tasks.Registry {
	t.Helper()
	do(t, db, `create table public.notes (job_id bigint not null, note text not null)`)
	registry := tasks.NewRegistry()
	tasks.RegisterTx(registry, "note", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[greeting]) error {
		_, err := tx.Exec(ctx, `insert into public.notes values ($1, $2)`, job.ID, job.Args.Name)
		return err
	})
	return registry
}
