// Package schedules tests what is promised about schedules, from outside, through SQL: what cron expressions mean, that every slot is
// accounted for once, and that a change never touches what is past.
package schedules

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// newDB returns a database without the schedules that come with pgtick, so that a test sees only its own.
func newDB(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	return db
}

func exec(t *testing.T, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func one[T any](t *testing.T, db *pgtest.DB, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, db.Pool.QueryRow(t.Context(), sql, args...).Scan(&v), sql)
	return v
}

func all[T any](t *testing.T, db *pgtest.DB, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	vs, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return vs
}

// refused runs a statement that must fail and returns how it did.
func refused(t *testing.T, db *pgtest.DB, sql string, args ...any) *pgconn.PgError {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	pg := new(pgconn.PgError)
	require.True(t, errors.As(err, &pg), "%s %v was accepted, or failed elsewhere: %v", sql, args, err)
	require.NotEmpty(t, pg.Hint, "%s: no hint", pg.Message)
	return pg
}

// notified waits for the next notification, but not for ever.
func notified(t *testing.T, conn *pgx.Conn) (*pgconn.Notification, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience)
	defer cancel()
	return conn.WaitForNotification(ctx)
}

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return at
}

// at stops the database's clock at a moment.
func at(t *testing.T, db *pgtest.DB, text string) {
	t.Helper()
	pgtest.SetNow(t, db, instant(t, text))
}

func tick(t *testing.T, db *pgtest.DB) int {
	t.Helper()
	return one[int](t, db, "select pgtick.tick()")
}

// fates tells the slots of a schedule as "time fate", in UTC, in order.
func fates(t *testing.T, db *pgtest.DB, name string) []string {
	t.Helper()
	return all[string](t, db, `select to_char(slot at time zone 'UTC', 'MM-DD HH24:MI') || ' ' || fate from pgtick.slots where schedule = $1 order by slot`, name)
}

func countOf(t *testing.T, db *pgtest.DB, name, fate string) int {
	t.Helper()
	return one[int](t, db, "select coalesce(sum(slots), 0)::int from pgtick.slots where schedule = $1 and fate = $2", name, fate)
}

// finishJobs ends every live job as done, as a runner would.
func finishJobs(t *testing.T, db *pgtest.DB) {
	t.Helper()
	exec(t, db, `
		with runner as (select pgtick.register('test', '{default}', '{noop}') as id),
		     claimed as materialized (select r.id as runner_id, c.* from runner as r cross join lateral pgtick.claim(r.id, '{default}', '{noop}', 1000) as c)
		select count(*) from claimed as c cross join lateral pgtick.finish(c.runner_id, array[c.id], array[c.fence], '{done}')`)
}
