package pgtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/stretchr/testify/require"
)

// StartPgBouncer puts a pooler in front of a test's database, in mode session, transaction or statement, and returns the superuser's
// URL through it. The runner's login works there as well. The test is skipped where pgbouncer is not installed.
func StartPgBouncer(t testing.TB, db *DB, mode string) string {
	t.Helper()
	program := findPgBouncer(t)
	server, err := url.Parse(db.URL)
	require.NoError(t, err)
	port := freePort(t)
	folder := t.TempDir()
	password, _ := server.User.Password()
	write(t, folder, "users.txt", fmt.Sprintf("%q %q\n%q %q\n", server.User.Username(), password, "pgtick_runner", runnerPassword))
	write(t, folder, "pgbouncer.ini", fmt.Sprintf(`[databases]
%s = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = plain
auth_file = %s/users.txt
pool_mode = %s
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
`, db.Name, server.Hostname(), server.Port(), port, folder, mode))
	process, err := localpg.Supervise(folder, "TERM", program, filepath.Join(folder, "pgbouncer.ini"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, process.Stop()) })
	server.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	awaitLogin(t, server.String(), filepath.Join(folder, "log"))
	return server.String()
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

func awaitLogin(t testing.TB, url, logFile string) {
	t.Helper()
	require.Eventually(t, func() bool {
		conn, err := pgx.Connect(t.Context(), url)
		return err == nil && conn.Close(t.Context()) == nil
	}, 20*time.Second, 20*time.Millisecond, "pgbouncer does not let us in; its log is %s", logFile)
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
