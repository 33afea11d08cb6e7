// Package doctor tests "pgtick doctor" from outside: the built program, and what it says of real installations, whole ones and ones with a
// thing broken on purpose.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	every  = 50 * time.Millisecond
	within = 2 * time.Minute
)

// binary is the test runner: pgtick with some tasks more.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgtick-doctor-")
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

// finding is a line of --json, every key of it.
type finding struct {
	Database string
	Check    string
	Status   string
	What     string
	Why      string
	Remedy   string
}

// patient is an installation to be looked at, and with which settings.
type patient struct {
	db     *pgtest.DB
	env    map[string]string
	server *localpg.Server     // where it has one of its own
	redis  *pgtest.RedisServer // likewise
	folder string              // of its data, on a disk of its own

	ofTheMachine []string // checks that find what this machine's server lacks
}

func (p *patient) environment() []string {
	settings := map[string]string{"DATABASE_URL": p.db.URL, "LISTEN_DATABASE_URL": "", "REDIS_URL": "", "COLUMNS": "", "NO_COLOR": "", "PGTICK_HTTP": "off",
		"PGTICK_SYNC_TARGET": "", "PGTICK_SYNC_KEY": "", "PGTICK_DATABASES": "", "PGTICK_CONNECTIONS": "", "PGTICK_LOG_FORMAT": "text"}
	for name, value := range p.env {
		settings[name] = value
	}
	var all []string
	for name, value := range settings {
		all = append(all, name+"="+value)
	}
	return all
}

// call runs the program to its end.
func (p *patient) call(t testing.TB, args ...string) (out, talk string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(cmd.Environ(), p.environment()...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	require.False(t, err != nil && !errors.As(err, new(*exec.ExitError)), "%v", err)
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// look is what the doctor finds, by --json. That it exits with 1 on a failure, and on nothing else, is seen to each time.
func (p *patient) look(t testing.TB, checks ...string) []finding {
	t.Helper()
	args := []string{"doctor", "--json"}
	if len(checks) > 0 {
		args = append(args, "--only", strings.Join(checks, ","))
	}
	out, talk, code := p.call(t, args...)
	found, failed := read(t, out), 0
	for _, f := range found {
		if f.Status == "fail" {
			failed = 1
		}
	}
	require.Equal(t, failed, code, "%s%s", out, talk)
	require.NotEmpty(t, found, talk)
	return found
}

func read(t testing.TB, out string) (all []finding) {
	t.Helper()
	for line := range strings.Lines(out) {
		var f finding
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&f), line)
		var keys map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &keys))
		for _, key := range []string{"check", "status", "what", "why", "remedy"} {
			require.Contains(t, keys, key, line)
		}
		require.Contains(t, []string{"ok", "warn", "fail"}, f.Status)
		require.NotEmpty(t, f.What, line)
		require.NotEmpty(t, f.Why, line)
		require.Equal(t, f.Status == "ok", f.Remedy == "", line)
		all = append(all, f)
	}
	return all
}

// sick are the findings that are not well.
func sick(all []finding) (some []finding) {
	for _, f := range all {
		if f.Status != "ok" {
			some = append(some, f)
		}
	}
	return some
}

// code is what stands in backquotes.
func code(remedy string) (all []string) {
	for i, part := range strings.Split(remedy, "`") {
		if i%2 == 1 {
			all = append(all, part)
		}
	}
	return all
}

// follow does what a remedy says: SQL as the owner, in the database that it names, or a command as a shell would.
func (p *patient) follow(t testing.TB, remedy, code string) {
	t.Helper()
	command, isCommand := strings.CutPrefix(code, "pgtick ")
	switch {
	case isCommand && strings.HasPrefix(command, "work"):
		p.work(t, command)
	case isCommand:
		out, talk, exit := p.shell(t, command)
		require.Zero(t, exit, "%s: %s%s", code, out, talk)
	default:
		p.run(t, remedy, code)
	}
}

func (p *patient) shell(t testing.TB, command string) (out, talk string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", binary+" "+command)
	cmd.Env = append(cmd.Environ(), p.environment()...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func (p *patient) run(t testing.TB, remedy, statement string) {
	t.Helper()
	cfg := p.db.Config(t)
	said, _, _ := strings.Cut(remedy, "`")
	if _, after, elsewhere := strings.Cut(said, "in database "); elsewhere {
		cfg.Database, _, _ = strings.Cut(after, ":")
	}
	cfg.RuntimeParams["default_transaction_read_only"] = "off"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), statement)
	require.NoError(t, err, statement)
}

// work starts a runner, which ends with the test.
func (p *patient) work(t testing.TB, command string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "exec "+binary+" "+command)
	cmd.Env = append(cmd.Environ(), p.environment()...)
	var talk strings.Builder
	cmd.Stderr = &talk
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(within):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", command, talk.String())
		}
	})
}

func do(t testing.TB, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(context.Background(), sql, args...)
	require.NoError(t, err, sql)
}

func one[V any](t testing.TB, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(context.Background(), sql, args...).Scan(&value), sql)
	return value
}

// whole gives a database what it lacks to be well: a runner for all that may come, none of the schedules that come with pgtick, and a tick.
func whole(t testing.TB, db *pgtest.DB) *patient {
	t.Helper()
	db.Quiet(t)
	do(t, db, `select pgtick.register('all day', '{default}', '{echo,http,test.noop}', '1 hour')`)
	do(t, db, `call pgtick.run_ticks()`)
	return &patient{db: db, env: map[string]string{}}
}

// login makes a role of this test's own, which may log in, and returns how it connects.
func login(t testing.TB, db *pgtest.DB, name, attributes string) string {
	t.Helper()
	do(t, db, fmt.Sprintf("create role %s login password 'of-tests' %s", name, attributes))
	t.Cleanup(func() {
		require.Eventually(t, func() bool { // a remedy in another test's database may have named it, as a runner's login of this server
			_, err := db.Pool.Exec(context.Background(), fmt.Sprintf("reassign owned by %[1]s to current_user; drop owned by %[1]s; drop role %[1]s", name))
			return err == nil
		}, within, every, "drop role %s", name)
	})
	return pgtest.URLAs(db, name, "of-tests")
}
