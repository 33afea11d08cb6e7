// Package connections tests what stands between pgtick and its database, against real ones: poolers, TLS, passwords, servers without room,
// read-only ones, cut lines, restarts and failovers. Each failure ends in a message that says what to do, and a runner goes on by itself.
package connections

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"regexp"
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
	every  = 10 * time.Millisecond
	within = 2 * time.Minute
)

// binary is the test runner, with the race detector as the tests themselves.
var binary string

func TestMain(m *testing.M) {
	_ = os.Unsetenv("PGSSLMODE") // "make test" sets it; here connections are as they are by themselves
	dir, err := os.MkdirTemp("", "pgtick-testrunner-")
	if err != nil {
		panic(err)
	}
	if binary, err = programs.BuildRace(dir, programs.TestRunner); err != nil {
		panic(err)
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

// work starts a runner with these settings of the environment.
func work(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, append([]string{"work"}, args...)...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), append([]string{"LISTEN_DATABASE_URL=", "PGTICK_LOG_FORMAT=text", "PGTICK_HTTP=off"}, env...)...)
	pipe, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	read := make(chan struct{})
	go func() { p.read(pipe); close(read) }()
	go func() { <-read; _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
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

// says waits until the process has said something that matches.
func (p *process) says(pattern string) {
	p.t.Helper()
	expression := regexp.MustCompile(pattern)
	require.Eventually(p.t, func() bool { return expression.MatchString(p.said()) }, within, every, pattern)
}

// stops ends the process as an operator would.
func (p *process) stops() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
	case <-time.After(within):
		require.FailNow(p.t, "the process does not end", p.said())
	}
	require.Zero(p.t, p.cmd.ProcessState.ExitCode(), p.said())
}

// call runs the binary to its end and returns what it printed and its exit code.
func call(t *testing.T, url string, args ...string) (out, talk string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(cmd.Environ(), "LISTEN_DATABASE_URL=", "PGTICK_HTTP=off", "DATABASE_URL="+url)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// fresh is a database in which nothing happens but what the test does, with the table into which the test runner's tasks write.
func fresh(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	furnish(t, db)
	return db
}

func furnish(t *testing.T, db *pgtest.DB) {
	t.Helper()
	db.Quiet(t)
	do(t, db, `create table public.effects (job_id bigint not null, attempt int not null, at timestamptz not null default clock_timestamp())`)
	do(t, db, `grant insert on public.effects to pgtick_runner`)
}

func do(t *testing.T, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

// ask reads one value.
func ask[V any](t *testing.T, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), sql, args...).Scan(&value), sql)
	return value
}

// becomes waits until a query answers what it should.
func becomes[V comparable](t *testing.T, db *pgtest.DB, want V, sql string, args ...any) {
	t.Helper()
	pgtest.Becomes(t, db, within, want, sql, args...)
}

func enqueue(t *testing.T, db *pgtest.DB, task, args string, n int) {
	t.Helper()
	require.Equal(t, n, ask[int](t, db, `select count(*) from pgtick.enqueue_many($1, array_fill($2::jsonb, array[$3::int]))`, task, args, n))
}

// nothingLost waits until all of n jobs are done, and sees that each effect is there once.
func nothingLost(t *testing.T, db *pgtest.DB, n int) {
	t.Helper()
	becomes(t, db, n, `select count(*) from pgtick.jobs where state = 'done'`)
	require.Equal(t, n, ask[int](t, db, `select count(*) from pgtick.jobs`))
	require.Zero(t, ask[int](t, db, `select count(*) from (select job_id from public.effects group by job_id having count(*) <> 1) as doubled`), "effects doubled")
	require.Equal(t, n, ask[int](t, db, `select count(distinct job_id) from public.effects`), "effects lost")
}

// session is a connection of the test's own, for one who may not be pooled.
func session(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	return conn
}
