// Package soak puts much work on real parts, for long, and looks whether it stays as fast, as small and as right as it was: a day's traffic in an hour,
// a million jobs that wait, fifty runners, ten thousand queues, a hundred thousand schedules, and every value that a job may carry.
//
// "make test" runs each in a short form, which looks at what is right and not at how fast it is; "make soak" all of it (PGTICK_SOAK=full).
package soak

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// Conditions are looked at this often, and waited for that long.
const (
	every  = 20 * time.Millisecond
	within = 3 * time.Minute
)

// pgtick is the program as "make build" makes it, withTasks the same with the tasks of tests/testrunner.
var pgtick, withTasks string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "pgtick-soak-")
	if err == nil {
		pgtick, err = programs.Build(folder, programs.Pgtick)
	}
	if err == nil {
		withTasks, err = programs.Build(folder, programs.TestRunner)
	}
	if err != nil {
		panic(err)
	}
	pgtest.Main(m)
	_ = os.RemoveAll(folder)
	seen.print()
}

// full is "make soak".
func full() bool { return os.Getenv("PGTICK_SOAK") == "full" }

// setting is a number from the environment.
func setting(name string, otherwise float64) float64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || number <= 0 {
		panic(fmt.Sprintf("%s=%s: write a number above 0", name, text))
	}
	return number
}

// of is one number for "make soak", and another for "make test".
func of[N any](long, short N) N {
	if full() {
		return long
	}
	return short
}

// share is a part of a count of the long form, as PGTICK_SOAK_SHARE says in percent.
func share(n int) int { return max(1, int(float64(n)*setting("PGTICK_SOAK_SHARE", 100)/100)) }

// server is one of the test's own, on the disk and with every flush in the long form, as a true one has it.
func server(t *testing.T, cron bool, settings map[string]string) *localpg.Server {
	t.Helper()
	opt := localpg.Options{Cron: cron, Settings: settings}
	if full() {
		opt.Durable, opt.Temp = true, os.TempDir()
	}
	return pgtest.ServerWith(t, opt)
}

// seen is what the parts have measured, a table each.
var seen figures

type figures struct {
	mu   sync.Mutex
	text strings.Builder
}

func (f *figures) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(&f.text, format+"\n", args...)
}

// print also writes a file where "make soak" asks for it.
func (f *figures) print() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !full() || f.text.Len() == 0 {
		return
	}
	fmt.Print(f.text.String())
	if folder := os.Getenv("PGTICK_SOAK_OUT"); folder != "" {
		if err := os.WriteFile(filepath.Join(folder, "soak.md"), []byte(f.text.String()), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, "the figures were not written:", err)
		}
	}
}

// process is a running program. Of what it says the end is kept.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	talk tail
}

// tail is the end of a text.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (l *tail) Write(piece []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, piece...)
	l.text = l.text[max(0, len(l.text)-64<<10):]
	return len(piece), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.ToValidUTF8(l.text, nil))
}

// work starts a runner under this name, with these settings of the environment.
func work(t *testing.T, program, url, name string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command(program, append([]string{"work", "--name=" + name}, args...)...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), append([]string{"DATABASE_URL=" + url, "LISTEN_DATABASE_URL=", "REDIS_URL=", "PGTICK_LOG_FORMAT=text", "PGTICK_HTTP=off"}, env...)...)
	p.cmd.Stderr = &p.talk
	require.NoError(t, p.cmd.Start())
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			said := p.talk.String()
			t.Logf("runner %s said at last:\n%s", name, said[max(0, len(said)-3000):])
		}
	})
	return p
}

// stop has it end as SIGTERM does: well, and with nothing held.
func (p *process) stop() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
	case <-time.After(within):
		require.FailNow(p.t, "the runner does not end", p.name)
	}
	require.Zero(p.t, p.cmd.ProcessState.ExitCode(), p.talk.String())
}

// memory is what a process has of it now, in MiB; nothing where the system does not tell.
func (p *process) memory() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	if err != nil {
		return 0
	}
	return pages * float64(os.Getpagesize()) / (1 << 20)
}

// call runs the program to its end, and returns what it printed and said.
func call(t *testing.T, db *pgtest.DB, stdin string, args ...string) (out, talk string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), withTasks, args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+db.URL, "LISTEN_DATABASE_URL=", "COLUMNS=")
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
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

// becomes waits until a query answers true, which takes as long as what it waits for is large.
func becomes(t *testing.T, db *pgtest.DB, limit time.Duration, sql string, args ...any) {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), limit)
	defer end()
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		var holds bool
		err := db.Pool.QueryRow(ctx, sql, args...).Scan(&holds)
		if err == nil && holds {
			return
		}
		if ctx.Err() != nil {
			require.FailNow(t, "it does not become so", "%s (%v)\nlive jobs: %s", sql, err, live(t, db))
		}
		require.NoError(t, err, sql)
		<-again.C
	}
}

// live says what is left, for who has waited in vain.
func live(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	return strings.Join(list[string](t, db, `select format('%s %s in %s: attempt %s, runner %s, run_at %s, blocked by %s; %s', j.id, j.task, j.queue, j.attempt, j.runner_id, j.run_at,
		j.blocked_by, (select string_agg(y.reason || ' ' || y.evidence, '; ') from pgtick.why(j.id) as y)) from pgtick.live_jobs as j order by j.id limit 10`), "\n")
}

// awaitRunners returns when so many are registered.
func awaitRunners(t *testing.T, db *pgtest.DB, n int) {
	t.Helper()
	becomes(t, db, within, `select count(*) = $1 from pgtick.runner_leases as r where r.ended_at is null`, n)
}
