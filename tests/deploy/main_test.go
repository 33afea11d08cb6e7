// Package deploy tests what is handed out and how it is run elsewhere: make dist, the files of deploy/, pgtick health, copies of a database,
// and an upgrade while runners work.
package deploy

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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

func TestMain(m *testing.M) {
	pgtest.Main(m)
	programOnce.Do(func() {}) // a test that is late builds nothing any more
	if programFolder != "" {
		_ = os.RemoveAll(programFolder)
	}
}

// root is the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

func deployFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "deploy", name))
	require.NoError(t, err)
	return string(text)
}

// output runs a program that must succeed and returns what it printed.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		require.NoError(t, err, "%s: %s%s", cmd, out, failed.Stderr)
	}
	require.NoError(t, err, cmd.String())
	return string(out)
}

var (
	programOnce   sync.Once
	programFolder string
	programPath   string
	programErr    error
)

// program is the test runner as "make build" would make it: pgtick with some tasks more. Built once.
func program(t *testing.T) string {
	t.Helper()
	programOnce.Do(func() {
		if programFolder, programErr = os.MkdirTemp("", "pgtick-deploy-"); programErr == nil {
			programPath, programErr = programs.Build(programFolder, programs.TestRunner)
		}
	})
	require.NoError(t, programErr)
	return programPath
}

// buildIn builds the test runner of a source tree.
func buildIn(tree, to string) error {
	build := exec.Command("go", "build", "-buildvcs=false", "-o", to, "./tests/testrunner")
	build.Dir = tree
	build.Env = programs.Env()
	if out, err := build.CombinedOutput(); err != nil {
		return errors.New(string(out))
	}
	return nil
}

// call runs a program to its end.
func call(t *testing.T, path string, env []string, args ...string) (out, talk string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(cmd.Environ(), append([]string{"DATABASE_URL=", "LISTEN_DATABASE_URL=", "PGTICK_HTTP=", "PGTICK_NAME="}, env...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// process is a running program.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string // the file that it talks to
	done chan struct{}
}

func start(t *testing.T, path string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(path, args...), log: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
	log, err := os.Create(p.log)
	require.NoError(t, err)
	p.cmd.Stderr = log
	p.cmd.Env = append(os.Environ(), append([]string{"PGTICK_LOG_FORMAT=text", "PGTICK_HTTP=off"}, env...)...)
	require.NoError(t, p.cmd.Start())
	go func() { _ = p.cmd.Wait(); _ = log.Close(); close(p.done) }()
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

func (p *process) said() string {
	text, err := os.ReadFile(p.log)
	require.NoError(p.t, err)
	return string(text)
}

func (p *process) says(part string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(p.said(), part) }, within, every, part)
}

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

// client finds a PostgreSQL client program beside the server's.
func client(t *testing.T, name string) string {
	t.Helper()
	bin, err := localpg.FindBinaries(false)
	require.NoError(t, err)
	beside := filepath.Join(bin, name)
	if _, err := os.Stat(beside); err != nil {
		t.Skipf("%s does not come with the server in %s", name, bin)
	}
	return beside
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

// column returns the first column of all rows.
func column(t *testing.T, db *pgtest.DB, sql string, args ...any) []string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err, sql)
	return all
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}
