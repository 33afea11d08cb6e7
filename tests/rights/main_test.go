// Package rights tests who may do what, from outside: what each role reaches is what docs/rights.md says, end users ask for jobs within
// their quota and see nothing of one another, and the logins that "pgtick roles" prints work and own nothing.
package rights

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// patience is how long a condition may take to come true on a slow machine. None is expected to.
var patience = pgtest.Patience

// binary is pgtick as "make build" makes it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-rights-")
	if err != nil {
		panic(err)
	}
	if binary, err = programs.Build(dir, programs.Pgtick); err != nil {
		panic(err)
	}
	pgtest.Main(m)
	if own, err := project(); err == nil {
		_ = own.Close()
	}
	_ = os.RemoveAll(dir)
}

// The roles of a Supabase project. They belong to the whole server, so it is one of this package's own.
const projectRoles = `create role anon nologin noinherit; create role authenticated nologin noinherit; create role service_role nologin noinherit bypassrls;
	create role authenticator login noinherit; grant anon, authenticated, service_role to authenticator; create role nobody_of_tests nologin`

var project = sync.OnceValues(func() (*localpg.Server, error) {
	ctx := context.Background()
	own, err := pgtest.StartBare(localpg.Options{Settings: map[string]string{"shared_buffers": "64MB", "max_connections": "200"}})
	if err != nil {
		return nil, err
	}
	return own, errors.Join(onServer(ctx, own, projectRoles), onServer(ctx, own, "create database project"), fillTemplate(ctx, own.URL("project")))
})

func onServer(ctx context.Context, own *localpg.Server, statements string) error {
	conn, err := pgx.Connect(ctx, own.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statements)
	return err
}

// fillTemplate installs pgtick, without the schedules that come with it: their slots may come at any moment.
func fillTemplate(ctx context.Context, url string) error {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	if _, err := migrations.Up(ctx, cfg, migrations.Options{}); err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "delete from pgtick.slot_log; delete from pgtick.live_jobs; delete from pgtick.schedule_changes; delete from pgtick.schedule_defs")
	return err
}

var projects atomic.Int64

// newProject is a database as a Supabase project has it, with pgtick: a copy, on the server of these tests.
func newProject(t *testing.T) *pgtest.DB {
	t.Helper()
	own, err := project()
	require.NoError(t, err)
	name := fmt.Sprintf("project_%d", projects.Add(1))
	require.NoError(t, onServer(t.Context(), own, "create database "+name+" template project strategy file_copy"))
	db := &pgtest.DB{Name: name, URL: own.URL(name)}
	db.Pool, err = pgxpool.New(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(db.Pool.Close)
	return db
}

// asker is a pool, a connection or a transaction.
type asker interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func do(t *testing.T, q asker, sql string, args ...any) {
	t.Helper()
	_, err := q.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func one[T any](t *testing.T, q asker, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, q.QueryRow(t.Context(), sql, args...).Scan(&v), sql)
	return v
}

func all[T any](t *testing.T, q asker, sql string, args ...any) []T {
	t.Helper()
	rows, err := q.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	vs, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return vs
}

// refused runs a statement that must fail with this SQLSTATE. Errors of our own tell what to do.
func refused(t *testing.T, q asker, code, sql string, args ...any) *pgconn.PgError {
	t.Helper()
	_, err := q.Exec(t.Context(), sql, args...)
	return requireCode(t, err, code, sql)
}

func requireCode(t *testing.T, err error, code, doing string) *pgconn.PgError {
	t.Helper()
	pg := new(pgconn.PgError)
	require.ErrorAs(t, err, &pg, doing)
	require.Equal(t, code, pg.Code, "%s: %s", doing, pg.Message)
	if strings.HasPrefix(code, "TK") {
		require.NotEmpty(t, pg.Hint, "%s: no hint", pg.Message)
	}
	return pg
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

const (
	ann = "00000000-0000-4000-8000-00000000000a"
	ben = "00000000-0000-4000-8000-00000000000b"
)

// asUser is a session as PostgREST makes one for a request of a signed-in user.
func asUser(t *testing.T, db *pgtest.DB, user string) *pgx.Conn {
	t.Helper()
	claims, err := json.Marshal(map[string]string{"sub": user, "role": "authenticated"})
	require.NoError(t, err)
	return withClaims(t, db, string(claims))
}

// withClaims is the same with any claims, also such as are none.
func withClaims(t *testing.T, db *pgtest.DB, claims string) *pgx.Conn {
	t.Helper()
	conn := connect(t, db.URL)
	do(t, conn, "select set_config('request.jwt.claims', $1, false)", claims)
	do(t, conn, "set role authenticated")
	return conn
}

// connectAs is a session of a role, without a token.
func connectAs(t *testing.T, db *pgtest.DB, role string) *pgx.Conn {
	t.Helper()
	conn := connect(t, db.URL)
	do(t, conn, "set role "+role)
	return conn
}
