// Package metrics tests what a runner tells of itself: its figures at /metrics, against docs/metrics.md and a real Prometheus with the rules of
// deploy/; its log; and the traces that it sends to a collector.
package metrics

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
	every  = 50 * time.Millisecond
	within = 2 * time.Minute
)

// binary is the test runner, as "make build" makes it: the engine has its own tests with the race detector.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-testrunner-")
	if err != nil {
		panic(err)
	}
	if binary, err = programs.Build(dir, programs.TestRunner); err != nil {
		panic(err)
	}
	pgtest.Main(m)
	_ = os.RemoveAll(dir)
}

// process is a running program that talks.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	talk strings.Builder
}

// start runs a program until the test ends.
func start(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	pipe, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	read := make(chan struct{})
	go func() { p.read(pipe); close(read) }()
	go func() { <-read; _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			said := p.said()
			t.Logf("%s said:\n%s", filepath.Base(name), said[max(len(said)-20000, 0):])
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

func (p *process) says(pattern string) []string {
	p.t.Helper()
	var match []string
	expression := regexp.MustCompile(pattern)
	require.Eventually(p.t, func() bool { match = expression.FindStringSubmatch(p.said()); return match != nil }, within, every, pattern)
	return match
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stops ends it as a deployment does, and waits for its good end.
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

// runner is one at work on a database, as the role that a runner has.
type runner struct {
	*process
	url string // of health and metrics; nothing with --http off
}

// work starts a runner, with settings of the environment on top of ours, and waits until it hears notifications.
func work(t *testing.T, db *pgtest.DB, env []string, args ...string) runner {
	t.Helper()
	r := begin(t, db, env, args...)
	r.says("notifications arrive")
	return r
}

// begin is work that waits only until the runner serves.
func begin(t *testing.T, db *pgtest.DB, env []string, args ...string) runner {
	t.Helper()
	ours := []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db), "LISTEN_DATABASE_URL=", "REDIS_URL=", "PGTICK_LOG_FORMAT=json", "PGTICK_HTTP=127.0.0.1:0", "OTEL_EXPORTER_OTLP_ENDPOINT="}
	p := start(t, append(ours, env...), binary, append([]string{"work"}, args...)...)
	return runner{p, p.says(`health and metrics at (http://[0-9.:]+)`)[1]}
}

// fresh is a database in which nothing happens but what the test does.
func fresh(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	return db
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

// get reads what an address serves.
func get(t *testing.T, url string) (string, error) {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), within)
	defer end()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return string(body), err
}

// root is the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	top, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(top, "go.mod"))
	return top
}

func file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), name))
	require.NoError(t, err)
	return string(text)
}
