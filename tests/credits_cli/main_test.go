// Package creditscli tests "pgtick credits" from outside: the built program, and what it prints about real ledgers and targets.
package creditscli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// binary is pgtick as "make build" makes it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-creditscli-")
	if err != nil {
		panic(err)
	}
	if binary, err = programs.Build(dir, programs.Pgtick); err != nil {
		panic(err)
	}
	pgtest.Main(m)
	_ = os.RemoveAll(dir)
}

// result is what a call printed, and how it ended.
type result struct {
	out  string
	talk string
	code int
}

// call runs pgtick credits with a login and, on top of that, settings in the environment.
func call(t *testing.T, url string, env []string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"credits"}, args...)...)
	cmd.Env = append(cmd.Environ(), append([]string{"DATABASE_URL=" + url, "COLUMNS=", "PGTICK_SYNC_TARGET=", "PGTICK_SYNC_KEY="}, env...)...)
	var out, talk strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &talk
	_ = cmd.Run()
	return result{out.String(), talk.String(), cmd.ProcessState.ExitCode()}
}

func do(t testing.TB, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(context.Background(), sql, args...)
	require.NoError(t, err, sql)
}

func one[V any](t testing.TB, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(context.Background(), sql, args...).Scan(&value), sql)
	return value
}

// objects reads one JSON object a line.
func objects(t *testing.T, out string) (rows []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out) {
		var row map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &row), line)
		rows = append(rows, row)
	}
	return rows
}

func userNumber(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }

// ledger has so many users, each with five entries: 100 added, 7 taken for /v1, 10 held, 4 of them captured, 3 held to the end.
func ledger(t testing.TB, users int) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	do(t, db, `do $$ declare u uuid; i int; begin
		for i in 1 .. `+fmt.Sprint(users)+` loop
			u := ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid;
			perform credits.open_account(u);
			perform credits.grant(u, 100, 'g', 'welcome', 'order-1');
			perform credits.charge(u, 7, 'c', '/v1');
			perform credits.capture(credits.hold(u, 10, '1 hour', 'h'), 4);
			perform credits.hold(u, 3, '1 hour', 'h2');
		end loop;
	end $$`)
	return db
}

// reader is a login that may read the ledger and do nothing else.
func reader(t testing.TB, db *pgtest.DB) string {
	t.Helper()
	do(t, db, `do $$ begin
		create role reader_of_tests login password 'reader-of-tests' in role pgtick_reader;
	exception when duplicate_object or unique_violation then null; -- another test has made it
	end $$`)
	return pgtest.URLAs(db, "reader_of_tests", "reader-of-tests")
}

// behindTheGuards does what only the owner can: with the triggers switched off.
func behindTheGuards(t testing.TB, db *pgtest.DB, statements string) {
	t.Helper()
	do(t, db, `begin; set local session_replication_role = replica; `+statements+`; commit`)
}
