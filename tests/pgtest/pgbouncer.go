package pgtest

import (
	"context"
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
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/stretchr/testify/require"
)

// PoolerEnv names an environment variable. Where it says transaction or session, all that speaks to the database as a worker does goes
// through a PgBouncer in that mode: a DB's Pool, Work, and RunnerURL. What a test looks on with, URL and Config, stays direct, and so does
// LISTEN, at ListenURL.
const PoolerEnv = "PGTICK_TEST_POOLER"

// NotThroughPooler skips a test that asks for what no pooler in transaction mode gives: a session of its own.
func NotThroughPooler(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(PoolerEnv) == "transaction" {
		t.Skip("not behind a pooler in transaction mode: " + why)
	}
}

// StartPgBouncer puts a pooler in front of a test's database, in mode session, transaction or statement, and returns the superuser's
// URL through it. The runner's login works there as well. The test is skipped where pgbouncer is not installed. Settings are further
// lines of its configuration, each "name = value".
func StartPgBouncer(t testing.TB, db *DB, mode string, settings ...string) string {
	t.Helper()
	return PgBouncerOf(t, db, mode, settings...).URL
}

// PgBouncer is a pooler in front of a test's database.
type PgBouncer struct {
	URL string // the superuser's, through it

	t       testing.TB
	folder  string
	process *localpg.Process
}

// PgBouncerOf is StartPgBouncer for one that is to be restarted.
func PgBouncerOf(t testing.TB, db *DB, mode string, settings ...string) *PgBouncer {
	t.Helper()
	b := &PgBouncer{t: t, folder: t.TempDir()}
	var address string
	address, b.process = startPgBouncer(t, b.folder, db.URL, mode, settings)
	t.Cleanup(func() { _ = b.process.Stop() })
	b.URL = withHost(db.URL, address)
	awaitLogin(t, b.URL)
	return b
}

// Restart ends it, and with it all of its connections, and starts it again at the same address.
func (b *PgBouncer) Restart() {
	b.t.Helper()
	require.NoError(b.t, b.process.Stop())
	b.process = runPgBouncer(b.t, b.folder)
	awaitLogin(b.t, b.URL)
}

// startPgBouncer starts one in front of all databases of a server, and returns its address.
func startPgBouncer(t testing.TB, folder, to, mode string, settings []string) (address string, process *localpg.Process) {
	t.Helper()
	server, err := url.Parse(to)
	require.NoError(t, err)
	port := freePort(t)
	password, _ := server.User.Password()
	write(t, folder, "users.txt", fmt.Sprintf("%q %q\n%q %q\n", server.User.Username(), password, "pgtick_runner", runnerPassword))
	write(t, folder, "pgbouncer.ini", fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = plain
auth_file = %s/users.txt
pool_mode = %s
default_pool_size = 30
max_client_conn = 400
server_login_retry = 1
ignore_startup_parameters = extra_float_digits
%s
`, server.Hostname(), server.Port(), port, folder, mode, strings.Join(settings, "\n")))
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), runPgBouncer(t, folder)
}

func runPgBouncer(t testing.TB, folder string) *localpg.Process {
	t.Helper()
	process, err := localpg.Supervise(folder, "TERM", findPgBouncer(t), filepath.Join(folder, "pgbouncer.ini"))
	require.NoError(t, err)
	return process
}

// pooler is the one in front of a server, which the first test that wants it starts.
type pooler struct {
	once    sync.Once
	address string
	end     []func()
}

func (p *pooler) stop() {
	p.once.Do(func() {}) // a test that is late starts none any more
	for _, end := range slices.Backward(p.end) {
		end()
	}
}

// throughPooler is a URL of the database as PoolerEnv has it.
func (db *DB) throughPooler(t testing.TB, url string) string {
	t.Helper()
	mode := os.Getenv(PoolerEnv)
	if mode == "" || db.server.pooler == nil {
		return url
	}
	p := db.server.pooler
	findPgBouncer(t) // or skip
	p.once.Do(func() {
		folder, err := os.MkdirTemp("", "pgtick-pgbouncer-")
		require.NoError(t, err)
		later := func(end func()) { p.end = append(p.end, end) }
		later(func() { _ = os.RemoveAll(folder) })
		address, process := startPgBouncer(t, folder, db.server.url, mode, nil)
		later(func() { _ = process.Stop() })
		p.address = address
		awaitLogin(t, withHost(db.server.url, p.address))
	})
	require.NotEmpty(t, p.address, "the pooler did not start")
	return withHost(url, p.address)
}

func withHost(to, host string) string {
	u, err := url.Parse(to)
	if err != nil {
		panic(err) // it is ours
	}
	u.Host = host
	return u.String()
}

// findPgBouncer also looks where Debian puts it, which is on root's PATH alone.
func findPgBouncer(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("pgbouncer is not installed")
	return ""
}

func awaitLogin(t testing.TB, url string) {
	t.Helper()
	var problem error
	require.Eventually(t, func() bool {
		conn, err := pgx.Connect(context.Background(), url)
		if problem = err; err == nil {
			_ = conn.Close(context.Background())
		}
		return err == nil
	}, Patience, 20*time.Millisecond, "pgbouncer does not let us in")
	require.NoError(t, problem)
}

func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func write(t testing.TB, folder, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
}
