// Package httptask tries the task http from outside: the built runner, a real database, real servers.
package httptask

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
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

// The runner with the race detector, and as "make build" makes it.
var binary, released string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-httptask-")
	if err != nil {
		panic(err)
	}
	if binary, err = programs.BuildRace(dir, programs.Pgtick); err == nil {
		released, err = programs.Build(dir, programs.Pgtick)
	}
	if err != nil {
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

// work starts a runner as the role that a runner shall have, with settings of the environment, and waits until it hears notifications.
func work(t *testing.T, db *pgtest.DB, settings ...string) *process {
	t.Helper()
	p := start(t, binary, db, settings...)
	p.says("notifications arrive")
	return p
}

func start(t *testing.T, program string, db *pgtest.DB, settings ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, "work"), done: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), "DATABASE_URL="+pgtest.RunnerURL(t, db), "PGTICK_LOG_FORMAT=text", "PGTICK_LOG_LEVEL=debug",
		"PGTICK_HTTP=off"), settings...)
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

// says waits until the process has said something.
func (p *process) says(text string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(p.said(), text) }, within, every, text)
}

// ends waits for the process to end and returns its exit code.
func (p *process) ends() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		require.FailNow(p.t, "the process does not end", p.said())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(s syscall.Signal) { require.NoError(p.t, p.cmd.Process.Signal(s)) }

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

// object is JSON that a test writes.
type object = map[string]any

// enqueue makes a job of the task; settings are more arguments of enqueue, such as ", p_max_attempts => 1".
func enqueue(t *testing.T, db *pgtest.DB, args object, settings string) int64 {
	t.Helper()
	text, err := json.Marshal(args)
	require.NoError(t, err)
	return ask[int64](t, db, `select pgtick.enqueue('http', $1::jsonb`+settings+`)`, string(text))
}

const (
	stateOf  = `select state from pgtick.jobs where id = $1`
	resultOf = `select result::text from pgtick.jobs where id = $1`
	errorOf  = `select last_error ->> 'message' from pgtick.jobs where id = $1`
	// tried: how often, once it waits for another attempt
	tried = `select case when state = 'ready' and last_error is not null then attempt else 0 end from pgtick.jobs where id = $1`
)

func resultsOf(t *testing.T, db *pgtest.DB, id int64) (result struct {
	Status    int
	Headers   map[string]string
	Body      any
	Text      string
	Truncated *bool
	ElapsedMS *int64 `json:"elapsed_ms"`
}) {
	t.Helper()
	becomes(t, db, "done", stateOf, id)
	require.NoError(t, json.Unmarshal([]byte(ask[string](t, db, resultOf, id)), &result))
	return result
}

// site is a server of the test, and what it has been asked.
type site struct {
	*httptest.Server
	mu    sync.Mutex
	asked []asked
	conns int // opened
}

type asked struct {
	method, path, body string
	header             http.Header
}

// kind is what a server speaks.
type kind int

const (
	plainly kind = iota
	overTLS
	overHTTP2
)

// listen starts a server on an address of this machine, such as 127.0.0.2, or skips the test where there is no such address.
func listen(t *testing.T, address string, kind kind, answer http.HandlerFunc) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.asked = append(s.asked, asked{r.Method, r.URL.RequestURI(), string(body), r.Header.Clone()})
		s.mu.Unlock()
		answer(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
		}
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	on, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Skipf("this machine has no address %s: %v", address, err)
	}
	_ = s.Listener.Close()
	s.Listener = on
	if s.EnableHTTP2 = kind == overHTTP2; kind == plainly {
		s.Start()
	} else {
		s.StartTLS()
	}
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func serve(t *testing.T, answer http.HandlerFunc) *site {
	t.Helper()
	return listen(t, "127.0.0.1", plainly, answer)
}

func (s *site) all() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]asked(nil), s.asked...)
}

// certificate is a file with the server's certificate, for PGTICK_HTTP_CA.
func (s *site) certificate(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}

// here lets the runner call this machine's first address, where most of the tests' servers are.
const here = "PGTICK_HTTP_ALLOW=127.0.0.1"
