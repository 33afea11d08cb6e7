// Package schedulescli tests "pgtick schedules" from outside: the built program, files, and what the database says afterwards.
package schedulescli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rivo/uniseg"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// binary is the test runner: pgtick's command line with tasks that end in every way.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-schedulescli-")
	if err != nil {
		panic(err)
	}
	if binary, err = programs.Build(dir, programs.TestRunner); err != nil {
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

// call is one run of the program.
type call struct {
	stdin string
	env   []string
}

func (c call) schedules(t *testing.T, db *pgtest.DB, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"schedules"}, args...)...)
	cmd.Env = append(cmd.Environ(), append([]string{"DATABASE_URL=" + db.URL, "COLUMNS="}, c.env...)...)
	cmd.Stdin = strings.NewReader(c.stdin)
	var out, talk strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &talk
	_ = cmd.Run()
	return result{out.String(), talk.String(), cmd.ProcessState.ExitCode()}
}

func schedules(t *testing.T, db *pgtest.DB, args ...string) result {
	t.Helper()
	return call{}.schedules(t, db, args...)
}

// well is a call that must end with exit code 0.
func well(t *testing.T, db *pgtest.DB, args ...string) result {
	t.Helper()
	r := schedules(t, db, args...)
	require.Zero(t, r.code, "%v: %s", args, r.talk)
	return r
}

// lockedText gathers what a process says while it runs.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// noon is when the tests' clocks stand still: a Tuesday.
var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// quiet is a database without the schedules that come with pgtick, its clock at noon.
func quiet(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	pgtest.SetNow(t, db, noon)
	return db
}

func do(t *testing.T, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func one[V any](t *testing.T, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), sql, args...).Scan(&value), sql)
	return value
}

func all[V any](t *testing.T, db *pgtest.DB, sql string, args ...any) []V {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	values, err := pgx.CollectRows(rows, pgx.RowTo[V])
	require.NoError(t, err, sql)
	return values
}

// names are those of all schedules.
func names(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return all[string](t, db, `select name from pgtick.schedules order by name`)
}

// file writes a file of this name for one test.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
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

// keys are those of an object, in their order.
func keys(t *testing.T, object string) (names []string) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(object))
	_, err := decoder.Token()
	require.NoError(t, err)
	for decoder.More() {
		name, err := decoder.Token()
		require.NoError(t, err)
		names = append(names, name.(string))
		var value json.RawMessage
		require.NoError(t, decoder.Decode(&value))
	}
	return names
}

// fits: no line is wider than this.
func fits(t *testing.T, width int, out string) {
	t.Helper()
	for line := range strings.Lines(out) {
		require.LessOrEqual(t, uniseg.StringWidth(strings.TrimRight(line, "\n")), width, line)
	}
}
