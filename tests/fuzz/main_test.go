// Package fuzz calls every SQL function of pgtick with random values, as every role, and reads and writes every table and view likewise: the
// server does not crash, nothing ends in an internal error, and whatever is refused is refused in words of ours (docs/errors.md).
//
// All is rolled back. PGTICK_SEED=n makes the same calls again; PGTICK_PROOF=full goes on for PGTICK_FUZZ_MINUTES (10), in two sessions.
package fuzz

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
)

func TestMain(m *testing.M) {
	m.Run()
	if own, err := server(); err == nil {
		_ = own.Close()
	}
}

const projectRoles = `create role anon nologin noinherit; create role authenticated nologin noinherit; create role service_role nologin noinherit bypassrls`

// server is one of this package's own: roles belong to a whole server, and whether it has crashed is read in its log.
var server = sync.OnceValues(func() (*localpg.Server, error) {
	ctx := context.Background()
	own, err := localpg.Start(ctx, localpg.Options{Settings: map[string]string{"shared_buffers": "64MB", "autovacuum": "off", "log_min_messages": "panic"}})
	if err != nil {
		return nil, err
	}
	return own, errors.Join(execute(ctx, own.URL("postgres"), projectRoles), execute(ctx, own.URL("postgres"), "create database project"), install(ctx, own.URL("project")))
})

func execute(ctx context.Context, url, statements string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.PgConn().Exec(ctx, statements).ReadAll()
	return err
}

func install(ctx context.Context, url string) error {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	if _, err := migrations.Up(ctx, cfg, migrations.Options{}); err != nil {
		return err
	}
	return execute(ctx, url, furniture)
}

func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	own, err := server()
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), own.URL("project"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func all[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) []T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	vs, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return vs
}

func isFull() bool { return os.Getenv("PGTICK_PROOF") == "full" }

// howLong a full run goes on.
func howLong(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("PGTICK_FUZZ_MINUTES")
	if text == "" {
		return 10 * time.Minute
	}
	minutes, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err, "PGTICK_FUZZ_MINUTES")
	return time.Duration(minutes * float64(time.Minute))
}

// chosenSeed: in make test the calls are always the same, in a full run always others, but where PGTICK_SEED says which.
func chosenSeed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(1)
	if isFull() {
		n = uint64(time.Now().UnixNano())
	}
	if text := os.Getenv("PGTICK_SEED"); text != "" {
		parsed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "PGTICK_SEED")
		n = parsed
	}
	t.Logf("PGTICK_SEED=%d", n)
	return n
}

// unharmed: no process of the server has crashed, and the ledger and the queue are as they were before.
func unharmed(t *testing.T) {
	t.Helper()
	own, err := server()
	require.NoError(t, err)
	log, err := os.ReadFile(own.LogFile())
	require.NoError(t, err)
	for _, bad := range []string{"PANIC:", "TRAP:", "was terminated by signal", "terminating connection because of crash"} {
		require.NotContains(t, string(log), bad)
	}
	conn := connect(t)
	require.Empty(t, all[string](t, conn, "select v::text from credits.violations as v"))
	require.Equal(t, []int64{int64(strings.Count(furniture, "-- a job"))}, all[int64](t, conn, "select count(*) from pgtick.jobs where task like 'fuzz.%'"))
}
