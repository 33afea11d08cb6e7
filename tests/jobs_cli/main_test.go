// Package jobscli tests "pgtick jobs", "pgtick queues", "pgtick bench" and the command line as a whole from outside: the built program, on
// real databases, with a real terminal and a real shell.
package jobscli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rivo/uniseg"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// binary is the test runner: pgtick's command line with tasks that end in every way. It is called pgtick, as completion wants it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-jobscli-")
	if err != nil {
		panic(err)
	}
	program, err := programs.Build(dir, programs.TestRunner)
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "pgtick")
	if err := os.Symlink(program, binary); err != nil {
		panic(err)
	}
	pgtest.Main(m)
	_ = os.RemoveAll(dir)
}

// Waiting in tests: how long at most, and how often to look.
const (
	within = time.Minute
	every  = 20 * time.Millisecond
)

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

func (c call) command(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(cmd.Environ(), append([]string{"DATABASE_URL=" + url, "LISTEN_DATABASE_URL=", "COLUMNS="}, c.env...)...)
	cmd.Stdin = strings.NewReader(c.stdin)
	return cmd
}

func (c call) run(t *testing.T, url string, args ...string) result {
	t.Helper()
	cmd := c.command(t, url, args...)
	var out, talk strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &talk
	_ = cmd.Run()
	return result{out.String(), talk.String(), cmd.ProcessState.ExitCode()}
}

func run(t *testing.T, db *pgtest.DB, args ...string) result {
	t.Helper()
	return call{}.run(t, db.URL, args...)
}

// well is a call that must end with exit code 0.
func well(t *testing.T, db *pgtest.DB, args ...string) result {
	t.Helper()
	r := run(t, db, args...)
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

// says waits until a text holds something.
func says(t *testing.T, text *lockedText, what string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(text.String(), what) }, within, every, "%q does not come, but: %s", what, text)
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

// live is the same by the real clock.
func live(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
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

// enqueue adds a job and returns its id.
func enqueue(t *testing.T, db *pgtest.DB, task, more string) int64 {
	t.Helper()
	return one[int64](t, db, `select pgtick.enqueue('`+task+`'`+more+`)`)
}

// crew is a runner of the test's own, by SQL.
type crew struct {
	db     *pgtest.DB
	runner int64
	queues []string
	tasks  []string
}

func newCrew(t *testing.T, db *pgtest.DB, queues, tasks []string) crew {
	t.Helper()
	return crew{db, one[int64](t, db, `select pgtick.register('crew', $1, $2, '1 hour')`, queues, tasks), queues, tasks}
}

// claim takes so many jobs.
func (c crew) claim(t *testing.T, n int) {
	t.Helper()
	require.Len(t, all[int64](t, c.db, `select id from pgtick.claim($1, $2, $3, $4)`, c.runner, c.queues, c.tasks, n), n)
}

// end ends running jobs.
func (c crew) end(t *testing.T, outcome, result, problem string, ids ...int64) {
	t.Helper()
	for _, id := range ids {
		require.True(t, one[bool](t, c.db, `select accepted from pgtick.finish($1, array[$2::bigint], array(select fence from pgtick.live_jobs where id = $2), array[$3],
			array[nullif($4, '')::jsonb], array[nullif($5, '')::jsonb])`, c.runner, id, outcome, result, problem))
	}
}

// work starts a real runner, which is stopped at the test's end.
func work(t *testing.T, db *pgtest.DB) {
	t.Helper()
	runner := exec.Command(binary, "work", "--http", "off", "--poll", "100ms")
	runner.Env = append(runner.Environ(), "DATABASE_URL="+pgtest.RunnerURL(t, db), "LISTEN_DATABASE_URL=")
	require.NoError(t, runner.Start())
	t.Cleanup(func() {
		_ = runner.Process.Signal(syscall.SIGTERM)
		_ = runner.Wait()
	})
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

// ids are those of the objects of an output.
func ids(t *testing.T, out string) (all []int64) {
	t.Helper()
	for _, row := range objects(t, out) {
		all = append(all, int64(row["id"].(float64)))
	}
	return all
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

// columns are those of a view, in their order.
func columns(t *testing.T, db *pgtest.DB, view string) []string {
	t.Helper()
	return all[string](t, db, `select attname::text from pg_attribute where attrelid = $1::regclass and attnum > 0 order by attnum`, view)
}

// fits: no line is wider than this.
func fits(t *testing.T, width int, out string) {
	t.Helper()
	for line := range strings.Lines(out) {
		require.LessOrEqual(t, uniseg.StringWidth(strings.TrimRight(line, "\r\n")), width, line)
	}
}
