// Package clocks tests that each slot is accounted for once whatever becomes of the clocks: pg_cron stopped, the server down, the machine's
// clock set back or forward, a standby promoted, many callers at once. The parts are real: PostgreSQL, pg_cron, the runner's binary; the
// machine's clock is libfaketime's. What the slots are, a test knows by its own count, not from pgtick.
package clocks

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// Conditions are looked at this often, and waited for that long.
const (
	every  = 50 * time.Millisecond
	within = 3 * time.Minute
)

// What is built for the tests: the test runner, which is the pgtick binary with tasks for tests, and where it lies.
var folder, binary string

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "pgtick-clocks-"); err != nil {
		panic(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil { // servers that run as somebody else load a library from it
		panic(err)
	}
	if binary, err = programs.BuildRace(folder, programs.TestRunner); err != nil {
		panic(err)
	}
	pgtest.Main(m)
	_ = os.RemoveAll(folder)
}

// runner is a running binary.
type runner struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu   sync.Mutex
	talk strings.Builder
}

// work starts a runner and waits until it hears notifications.
func work(t *testing.T, db *pgtest.DB, args ...string) *runner {
	t.Helper()
	r := &runner{cmd: exec.Command(binary, append([]string{"work"}, args...)...), done: make(chan struct{})}
	r.cmd.Env = append(os.Environ(), "DATABASE_URL="+pgtest.RunnerURL(t, db), "PGTICK_LOG_FORMAT=text", "PGTICK_HTTP=off")
	pipe, err := r.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, r.cmd.Start())
	read := make(chan struct{})
	go func() { r.read(pipe); close(read) }()
	go func() { <-read; _ = r.cmd.Wait(); close(r.done) }()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.done
		if t.Failed() {
			t.Logf("runner %d said:\n%s", r.cmd.Process.Pid, r.said())
		}
	})
	require.Eventually(t, func() bool { return strings.Contains(r.said(), "notifications arrive") }, within, every)
	return r
}

// stop lets the runner end as SIGTERM does: nothing is held any more.
func (r *runner) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-r.done:
	case <-time.After(within):
		require.FailNow(t, "the runner does not end")
	}
	require.Zero(t, r.cmd.ProcessState.ExitCode())
}

func (r *runner) read(pipe io.Reader) {
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		r.mu.Lock()
		r.talk.WriteString(lines.Text() + "\n")
		r.mu.Unlock()
	}
}

func (r *runner) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.talk.String()
}

func do(t *testing.T, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func ask[V any](t *testing.T, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), sql, args...).Scan(&value), sql)
	return value
}

func list[V any](t *testing.T, db *pgtest.DB, sql string, args ...any) []V {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	values, err := pgx.CollectRows(rows, pgx.RowTo[V])
	require.NoError(t, err, sql)
	return values
}

// becomes waits until a query answers what it should.
func becomes[V comparable](t *testing.T, db *pgtest.DB, want V, sql string, args ...any) {
	t.Helper()
	pgtest.Becomes(t, db, within, want, sql, args...)
}

// eventually looks in the caller's own goroutine, so that a look that takes long is not outlived by the test.
func eventually(ctx context.Context, holds func() bool) bool {
	again := time.NewTicker(every)
	defer again.Stop()
	for deadline := time.Now().Add(within); time.Now().Before(deadline) && ctx.Err() == nil; <-again.C {
		if holds() {
			return true
		}
	}
	return false
}

func instant(text string) time.Time {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err) // it is ours
	}
	return at
}
