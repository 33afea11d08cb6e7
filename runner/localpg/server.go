// Package localpg runs a private PostgreSQL from the binaries that are installed: for tests, the demo and development.
// The server listens on 127.0.0.1 alone, on a free port, with a random password; as root it runs as an unprivileged user.
// It ends with the process that started it, even when that is killed, unless it was started as detached.
package localpg

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Options says which server to start. The zero value is a throw-away server for tests.
type Options struct {
	// DataDir is the folder of the server, made where it is missing and used again where it holds one; "" means a temporary folder,
	// removed at the end. The database cluster itself is in its subfolder data.
	DataDir string
	// Temp is where a temporary folder is made; "" means the system's place for such.
	Temp string
	// Cron loads pg_cron; Start returns ErrNoCron where it is not installed. "create extension pg_cron" is the caller's to do.
	Cron bool
	// CronDatabase is where pg_cron lives: "" means postgres.
	CronDatabase string
	// Durable makes the server safe against a crash of the machine. Otherwise it forgoes every fsync.
	Durable bool
	// Detached leaves the server running when this process ends. It needs a DataDir. One that runs there already is used.
	Detached bool
	// Settings are further lines of postgresql.conf, by name.
	Settings map[string]string
	// From is the folder of a server that was closed: this one starts with a copy of its cluster, under the same password, in place of a new one.
	From string
	// Env is further environment of the server's own processes, each NAME=value. Neither its supervisor nor initdb sees it.
	Env []string
}

// Server is a running PostgreSQL. Its methods are not for concurrent use, but for URL, Port, Pid and the paths.
type Server struct {
	home      string // data/, log, password, port
	bin       string
	temporary bool
	opt       Options
	who       *account
	password  string

	mu    sync.Mutex
	port  int
	child *Process // nil while stopped, and for a detached server that another process has started
}

// Start starts a server and returns when it accepts connections.
func Start(ctx context.Context, opt Options) (*Server, error) {
	s, err := prepare(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("start a private PostgreSQL: %w", err)
	}
	if err := s.join(ctx); err != nil {
		s.removeTemporary()
		return nil, fmt.Errorf("start a private PostgreSQL: %w", err)
	}
	return s, nil
}

// prepare makes the folder and the cluster in it.
func prepare(ctx context.Context, opt Options) (*Server, error) {
	bin, err := FindBinaries(opt.Cron)
	if err != nil {
		return nil, err
	}
	if opt.Cron && !HasCron(bin) {
		return nil, ErrNoCron
	}
	if opt.Detached && opt.DataDir == "" {
		return nil, errors.New("a detached server needs a DataDir")
	}
	s := &Server{bin: resolved(bin), opt: opt}
	err = s.makeHome()
	if err == nil {
		err = s.makeCluster(ctx)
	}
	if err != nil {
		s.removeTemporary()
		return nil, err
	}
	return s, nil
}

// join uses the server that runs in the folder, where that is allowed, or launches one.
func (s *Server) join(ctx context.Context) error {
	pid := s.Pid()
	if pid != 0 && s.opt.Detached {
		return s.adopt(ctx)
	}
	if pid != 0 && !s.ends(ctx, pid, 20*time.Second) {
		return fmt.Errorf("a server runs in %s already (process %d): stop it first", s.home, pid)
	}
	return s.launch(ctx)
}

// Find returns the detached server that runs in a folder, or nil where none does.
func Find(ctx context.Context, dataDir string) (*Server, error) {
	home, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, err
	}
	s := &Server{home: resolved(home), opt: Options{DataDir: dataDir, Detached: true}}
	if s.Pid() == 0 {
		return nil, nil
	}
	return s, s.adopt(ctx)
}

func (s *Server) adopt(ctx context.Context) error {
	if err := s.readState(); err != nil {
		return fmt.Errorf("a server runs in %s, but not one of ours: %w", s.home, err)
	}
	return s.ready(ctx, nil)
}

func (s *Server) makeHome() error {
	var err error
	if s.opt.DataDir == "" {
		s.temporary = true
		s.home, err = os.MkdirTemp(s.opt.Temp, "pgtick-pg-")
	} else if s.home, err = filepath.Abs(s.opt.DataDir); err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(s.home), 0o755), os.MkdirAll(s.home, 0o700)) //nolint:gosec // the server has another account, and passes through
	}
	if err != nil {
		return err
	}
	s.home = resolved(s.home)
	s.who, err = serverAccount(filepath.Join(s.bin, "postgres"), s.home)
	return err
}

func (s *Server) makeCluster(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(s.DataDir(), "PG_VERSION")); err == nil {
		return errors.Join(s.who.own(s.home), s.readState())
	}
	if s.opt.From != "" {
		return s.copyCluster()
	}
	s.password = rand.Text()
	if err := os.WriteFile(s.path("password"), []byte(s.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := s.who.own(s.home); err != nil {
		return err
	}
	return s.initdb(ctx)
}

// copyCluster copies beside its place, as initdb builds.
func (s *Server) copyCluster() error {
	password, err := os.ReadFile(filepath.Join(s.opt.From, "password"))
	if err != nil {
		return err
	}
	unfinished := s.path("data.new")
	if err := errors.Join(os.RemoveAll(unfinished), os.CopyFS(unfinished, os.DirFS(filepath.Join(s.opt.From, "data")))); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(unfinished, 0o700), os.WriteFile(s.path("password"), password, 0o600), s.who.own(s.home)); err != nil { //nolint:gosec // PostgreSQL refuses other modes
		return err
	}
	s.password = strings.TrimSpace(string(password))
	return os.Rename(unfinished, s.DataDir())
}

// initdb builds the cluster beside its place and moves it there whole, so that an interrupted one is never taken for done.
func (s *Server) initdb(ctx context.Context) error {
	var problem error
	for _, locale := range []string{"C.UTF-8", "C"} {
		unfinished := s.path("data.new")
		if err := os.RemoveAll(unfinished); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "-D", unfinished, "-U", "postgres", "-A", "scram-sha-256", //nolint:gosec // the operator's own PostgreSQL
			"--pwfile", s.path("password"), "-E", "UTF8", "--locale", locale, "--no-sync")
		cmd.Dir, cmd.SysProcAttr = "/", apart(s.who)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return s.includeSettings(unfinished)
		}
		problem = errors.Join(problem, fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out)))
	}
	return problem
}

func (s *Server) includeSettings(unfinished string) error {
	conf, err := os.OpenFile(filepath.Join(unfinished, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString("\ninclude = '../settings.conf'\n")
	if err := errors.Join(err, conf.Close()); err != nil {
		return err
	}
	return os.Rename(unfinished, s.DataDir())
}

// launch starts the server, on another port where one turns out to be taken after all.
func (s *Server) launch(ctx context.Context) error {
	var err error
	for range 3 {
		if err = s.launchOnce(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		s.setPort(0)
	}
	return err
}

func (s *Server) launchOnce(ctx context.Context) error {
	port, err := freePort(s.Port())
	if err != nil {
		return err
	}
	s.setPort(port)
	if err := s.writeSettings(); err != nil {
		return err
	}
	started, err := s.spawn()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.child = started
	s.mu.Unlock()
	if err := s.ready(ctx, started.done); err != nil {
		_ = s.stopChild() // the first error tells more
		return fmt.Errorf("%w:\n%s", err, s.lastLog())
	}
	return nil
}

// spawn starts the server under a supervisor that stops it when we are gone, or by itself where it is to outlive us.
func (s *Server) spawn() (*Process, error) {
	args := []string{filepath.Join(s.bin, "postgres"), "-D", s.DataDir()}
	if len(s.opt.Env) > 0 {
		args = slices.Concat([]string{"env"}, s.opt.Env, args) // it becomes the server: no process is between
	}
	if s.opt.Detached {
		return begin(s.who, s.LogFile(), nil, args...)
	}
	return supervised(s.who, s.LogFile(), s.toRemove(), "INT", args...)
}

func (s *Server) toRemove() string {
	if s.temporary {
		return s.home
	}
	return ""
}

// ready waits until the server lets us in; a server that recovers from a crash may take its time.
func (s *Server) ready(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		err := s.try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.New("the server ended at once; its log")
		case <-ctx.Done():
			return fmt.Errorf("the server does not let us in: %w", err)
		case <-retry.C:
		}
	}
}

func (s *Server) try(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// URL is how the superuser connects to a database of this server.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", s.password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port())), Path: "/" + database}
	return u.String()
}

// Port is where the server listens on 127.0.0.1. It may change with Restart.
func (s *Server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

func (s *Server) setPort(port int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port = port
}

// DataDir is the database cluster's own folder.
func (s *Server) DataDir() string { return s.path("data") }

// LogFile is what the server has said.
func (s *Server) LogFile() string { return s.path("log") }

// BinDir is the folder of initdb, postgres and, mostly, pg_dump and psql.
func (s *Server) BinDir() string { return s.bin }

func (s *Server) path(name string) string { return filepath.Join(s.home, name) }

// Crash ends the server as a crash would, without a checkpoint, and returns when it is gone. Restart starts it again.
func (s *Server) Crash() error {
	return s.signalAndWait(syscall.SIGQUIT, 30*time.Second)
}

// Restart stops the server where it runs, and starts it again with the same data, on the same port if that is still free.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.signalAndWait(syscall.SIGINT, 30*time.Second); err != nil {
		return err
	}
	return s.launch(ctx)
}

// Stop stops the server and keeps its data, temporary or not; Restart brings it back.
func (s *Server) Stop() error { return s.signalAndWait(syscall.SIGINT, 30*time.Second) }

// Close stops the server, and removes its folder where that is a temporary one. A detached server runs on. It may be called twice.
func (s *Server) Close() error {
	if s.opt.Detached {
		return nil
	}
	err := s.stopChild()
	s.removeTemporary()
	return err
}

func (s *Server) stopChild() error {
	s.mu.Lock()
	running := s.child
	s.child = nil
	s.mu.Unlock()
	if running == nil {
		return nil
	}
	if running.hold == nil {
		return s.signalAndWait(syscall.SIGINT, 30*time.Second)
	}
	if err := running.Stop(); err != nil {
		return fmt.Errorf("the server in %s: %w", s.home, err)
	}
	return nil
}

func (s *Server) signalAndWait(signal syscall.Signal, patience time.Duration) error {
	pid := s.Pid()
	if pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop the server in %s: %w", s.home, err)
	}
	if !s.ends(context.Background(), pid, patience) {
		return fmt.Errorf("the server in %s (process %d) does not stop", s.home, pid)
	}
	return s.forgetChild(patience)
}

// forgetChild waits for the supervisor, which ends with the server.
func (s *Server) forgetChild(patience time.Duration) error {
	s.mu.Lock()
	running := s.child
	s.child = nil
	s.mu.Unlock()
	if running == nil {
		return nil
	}
	select {
	case <-running.done:
		running.release()
		return nil
	case <-time.After(patience):
		running.release()
		return fmt.Errorf("the supervisor of the server in %s does not end", s.home)
	}
}

func (s *Server) ends(ctx context.Context, pid int, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for s.isServer(pid) {
		select {
		case <-ctx.Done():
			return false
		case <-again.C:
		}
	}
	return true
}

func (s *Server) removeTemporary() {
	if s.temporary {
		_ = os.RemoveAll(s.home) // the supervisor has mostly done so
	}
}

func (s *Server) lastLog() string {
	text, err := os.ReadFile(s.LogFile())
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

func resolved(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	return path
}
