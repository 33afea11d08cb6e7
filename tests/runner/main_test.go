// Package runner tests the built binary from outside: processes, signals, SQL and HTTP.
package runner

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// Conditions are looked at this often, and waited for that long.
const (
	every  = 20 * time.Millisecond
	within = 3 * time.Minute
)

// The test runner: binary with the race detector, as the tests themselves, and released as "make build" makes it, for the long way.
var binary, released string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-testrunner-")
	if err != nil {
		panic(err)
	}
	if released, err = programs.Build(dir, programs.TestRunner); err != nil {
		panic(err)
	}
	binary = released // the second time is about the pooler, and the detector has looked the first time
	if os.Getenv(pgtest.PoolerEnv) == "" {
		if binary, err = programs.BuildRace(dir, programs.TestRunner); err != nil {
			panic(err)
		}
	}
	pgtest.Main(m)
	_ = os.RemoveAll(dir)
}

// process is a running binary.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu   sync.Mutex
	talk strings.Builder
}

// start runs the binary with these arguments and the environment's settings on top of nothing else of ours.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return startProgram(t, binary, env, args...)
}

func startProgram(t *testing.T, program string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), append([]string{"DATABASE_URL=", "PGTICK_LOG_FORMAT=text", "PGTICK_HTTP=off"}, env...)...)
	pipe, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	p.cmd.Stdout = nil
	require.NoError(t, p.cmd.Start())
	read := make(chan struct{})
	go func() { p.read(pipe); close(read) }()
	go func() { <-read; _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("process %d said:\n%s", p.cmd.Process.Pid, p.said())
		}
	})
	return p
}

func (p *process) read(pipe io.Reader) {
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.talk.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
	}
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.talk.String()
}

func (p *process) signal(s syscall.Signal) { require.NoError(p.t, p.cmd.Process.Signal(s)) }

// ends waits for the process to end and returns its exit code, -1 when a signal ended it.
func (p *process) ends() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		require.FailNow(p.t, "the process does not end", p.said())
	}
	return p.cmd.ProcessState.ExitCode()
}

// says waits until the process has said something that matches.
func (p *process) says(pattern string) []string {
	p.t.Helper()
	var match []string
	expression := regexp.MustCompile(pattern)
	require.Eventually(p.t, func() bool { match = expression.FindStringSubmatch(p.said()); return match != nil }, within, every, pattern)
	return match
}

// work starts a runner as the role that a runner shall have, and waits until it hears notifications.
func work(t *testing.T, db *pgtest.DB, args ...string) *process {
	t.Helper()
	return workAs(t, binary, db, args...)
}

func workAs(t *testing.T, program string, db *pgtest.DB, args ...string) *process {
	t.Helper()
	p := startProgram(t, program, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db), "LISTEN_DATABASE_URL=" + pgtest.ListenURL(t, db)}, append([]string{"work"}, args...)...)
	p.says("notifications arrive")
	return p
}

// fresh is a database in which nothing happens but what the test does: without the four schedules, whose slots come at any time.
func fresh(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	return db
}

// effects makes the table into which the test runner's tasks write.
func effects(t *testing.T, db *pgtest.DB) {
	t.Helper()
	do(t, db, `create table public.effects (job_id bigint not null, attempt int not null, at timestamptz not null default clock_timestamp())`)
	do(t, db, `grant insert on public.effects to pgtick_runner`)
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

// becomes waits until a query answers what it should.
func becomes[V comparable](t *testing.T, db *pgtest.DB, want V, sql string, args ...any) {
	t.Helper()
	pgtest.Becomes(t, db, within, want, sql, args...)
}

func enqueue(t *testing.T, db *pgtest.DB, task, args string) int64 {
	t.Helper()
	return ask[int64](t, db, `select pgtick.enqueue($1, $2::jsonb)`, task, args)
}

const stateOf = `select state from pgtick.jobs where id = $1`

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), within)
	defer end()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(body)
}
