// Package conformance drives a worker in each language through the same cases: docs/protocol.md, in tests. A worker in another language
// joins by a line in kinds, and the tasks of testdata/tasks.py in that language.
package conformance

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// Conditions are looked at this often, and waited for that long.
const (
	every  = 20 * time.Millisecond
	within = 2 * time.Minute
)

// python is the one that Debian's packages are for; another on the PATH does not see them.
const python = "/usr/bin/python3"

const asGoRunner = "CONFORMANCE_GO_RUNNER"

func TestMain(m *testing.M) {
	if os.Getenv(asGoRunner) != "" {
		goRunner()
	}
	pgtest.Main(m)
}

// settings of a worker. Unless a test is about them, neither poll nor lease comes to pass while it runs: what happens is by notification.
type settings struct {
	name         string
	lease        time.Duration // 0 means 10 minutes
	poll         time.Duration // 0 means 10 minutes
	grace        time.Duration
	url          string // "" means the database's own
	listen       string // "" means the same as url
	doNotWaitFor bool   // the worker to listen
}

// kind is a worker in one language.
type kind struct {
	name    string
	command func(t *testing.T) *exec.Cmd
	env     func(s settings) []string
}

func kinds() []kind {
	return []kind{
		{"python", pythonWorker, plainSettings},
		{"typescript", typescriptWorker, plainSettings},
		{"go", func(t *testing.T) *exec.Cmd {
			t.Helper()
			self, err := os.Executable()
			require.NoError(t, err)
			return exec.Command(self, "work")
		}, func(s settings) []string {
			return []string{asGoRunner + "=1", "PGTICK_HTTP=off", "PGTICK_CLOCK=off", "PGTICK_LOG_FORMAT=text", "PGTICK_WORKERS=8", "PGTICK_CONNECTIONS=8",
				"PGTICK_NAME=" + s.name, "PGTICK_LEASE=" + s.lease.String(), "PGTICK_POLL=" + s.poll.String(), "PGTICK_GRACE=" + s.grace.String()}
		}},
	}
}

func plainSettings(s settings) []string {
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
	return []string{"WORKERS=8", "QUEUES=default", "NAME=" + s.name, "LEASE=" + seconds(s.lease), "POLL=" + seconds(s.poll), "GRACE=" + seconds(s.grace)}
}

func pythonWorker(t *testing.T) *exec.Cmd {
	t.Helper()
	needPython(t)
	cmd := exec.Command(python, filepath.Join("testdata", "tasks.py"))
	cmd.Env = append(os.Environ(), "PYTHONPATH="+example(t, "worker-python"), "PYTHONDONTWRITEBYTECODE=1")
	return cmd
}

func typescriptWorker(t *testing.T) *exec.Cmd {
	t.Helper()
	return exec.Command(node(t), filepath.Join(typescriptFolder(t), "tasks.ts"))
}

func needPython(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), python, "-c", "import psycopg").CombinedOutput()
	require.NoError(t, err, "Debian's Python with psycopg is missing: make prepare, or apt-get install -y python3-psycopg\n%s", out)
}

// example is a folder of examples.
func example(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "examples", name))
	require.NoError(t, err)
	return path
}

// installed is where "make prepare" has npm install things, outside of what git tracks.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", ".pgtick", name, "node_modules"))
	require.NoError(t, err)
	return path
}

// node runs TypeScript as it is: the one on the PATH where it can, else the one from npm.
func node(t *testing.T) string {
	t.Helper()
	machine := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	for _, path := range []string{"node", filepath.Join(installed(t, "node"), "node-linux-"+machine, "bin", "node")} {
		if out, err := exec.CommandContext(t.Context(), path, "-p", "process.features.typescript").Output(); err == nil && strings.TrimSpace(string(out)) == "strip" {
			return path
		}
	}
	require.FailNow(t, "Node 22.18 or later is missing: make prepare")
	return ""
}

// typescriptFolder holds the worker, the tasks and their modules.
func typescriptFolder(t *testing.T) string {
	t.Helper()
	modules := installed(t, "worker-typescript")
	require.DirExists(t, modules, "the worker's npm modules are missing: make prepare")
	folder := t.TempDir()
	for _, path := range []string{
		filepath.Join(example(t, "worker-typescript"), "worker.ts"), filepath.Join(example(t, "worker-typescript"), "tsconfig.json"),
		filepath.Join(example(t, "worker-typescript"), "package.json"), filepath.Join("testdata", "tasks.ts"),
	} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, filepath.Base(path)), text, 0o600))
	}
	require.NoError(t, os.Symlink(modules, filepath.Join(folder, "node_modules")))
	return folder
}

// process is a worker that runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu   sync.Mutex
	talk strings.Builder
}

// start starts a worker as the role that a worker shall have, and waits until it listens.
func start(t *testing.T, db *pgtest.DB, k kind, s settings) *process {
	t.Helper()
	if s.lease == 0 {
		s.lease = 10 * time.Minute
	}
	if s.poll == 0 {
		s.poll = 10 * time.Minute
	}
	if s.url == "" {
		s.url = pgtest.RunnerURL(t, db)
	}
	p := startCommand(t, k.command(t), append(k.env(s), "DATABASE_URL="+s.url, "LISTEN_DATABASE_URL="+s.listen)...)
	if !s.doNotWaitFor {
		p.says(`worker: listening|notifications arrive`)
	}
	return p
}

func startCommand(t *testing.T, cmd *exec.Cmd, env ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, env...)
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

func (p *process) signal(s syscall.Signal) { require.NoError(p.t, p.cmd.Process.Signal(s)) }

// says waits until the process has said something that matches.
func (p *process) says(pattern string) {
	p.t.Helper()
	expression := regexp.MustCompile(pattern)
	require.Eventually(p.t, func() bool { return expression.MatchString(p.said()) }, within, every, "%s in\n%s", pattern, lazily(p.said))
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

// lazily is asked for its text only when it is printed.
type lazily func() string

func (l lazily) String() string { return l() }

// fresh is a database in which nothing happens but what the test does, with the table into which the tasks write.
func fresh(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	do(t, db, `create table public.effects (job_id bigint not null, attempt int not null)`)
	do(t, db, `grant insert on public.effects to pgtick_runner`)
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

func enqueue(t *testing.T, db *pgtest.DB, task, args string) int64 {
	t.Helper()
	return ask[int64](t, db, `select pgtick.enqueue($1, $2::jsonb, p_retry_policy => '{"kind": "list", "delays": ["100 ms"]}')`, task, args)
}

const (
	stateOf    = `select state from pgtick.jobs where id = $1`
	noteOf     = `select coalesce(note, '') from pgtick.jobs where id = $1 and state = 'running'`
	resultOf   = `select result::text from pgtick.jobs where id = $1`
	outcomesOf = `select string_agg(attempt || ' ' || outcome, ', ' order by attempt) from pgtick.attempts where job_id = $1`
	effectsOf  = `select count(*) from public.effects where job_id = $1`
)

// newGate is where a task waits until open is called.
func newGate(t *testing.T) (args string, open func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gate")
	return fmt.Sprintf(`{"gate": %q}`, path), func() { require.NoError(t, os.WriteFile(path, nil, 0o600)) }
}

// atGate waits until a job waits at its gate.
func atGate(t *testing.T, db *pgtest.DB, id int64) {
	t.Helper()
	becomes(t, db, "at the gate", noteOf, id)
}

// asleep waits until the worker has asked the last thing that it asks before it sleeps.
func asleep(t *testing.T, db *pgtest.DB) {
	t.Helper()
	becomes(t, db, true, `select exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
		and state = 'idle' and query like '%next\_run\_at(%')`)
}
