package doctor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// servers are those that several trials share. They end with the test t, when all trials have.
type servers struct {
	t *testing.T

	harshOnce sync.Once
	harshOne  *patient

	clock     sync.Mutex // whoever holds it moves the clock of the faked server
	fakedOne  *patient
	clockFile string
	offset    time.Duration

	smallOne *patient // of trials that follow one another

	cronMutex sync.Mutex // whoever holds it changes pg_cron's entries
	cronOne   *patient
}

// harsh is a server without fsync, whose rows are soon too old, on which no vacuum comes by itself.
func (s *servers) harsh(t *testing.T) *patient {
	t.Helper()
	s.harshOnce.Do(func() {
		own := pgtest.ServerWith(s.t, localpg.Options{Settings: map[string]string{"autovacuum_freeze_max_age": "100000", "autovacuum_naptime": "1d"}})
		s.harshOne = whole(s.t, pgtest.NewOn(s.t, own))
	})
	require.NotNil(t, s.harshOne)
	return s.harshOne
}

// aged uses up transaction numbers.
func aged(t *testing.T, p *patient) {
	t.Helper()
	do(t, p.db, `do $$ begin for i in 1 .. 210000 loop perform pg_current_xact_id(); commit; end loop; end $$`)
}

// faked is a server whose clock tests move: by libfaketime, which reads how far it is ahead from a file.
func (s *servers) faked(t *testing.T) *patient {
	t.Helper()
	library := findFaketime(t)
	s.clock.Lock()
	t.Cleanup(s.clock.Unlock)
	if s.fakedOne != nil {
		return s.fakedOne
	}
	folder := openFolder(s.t)
	s.clockFile = filepath.Join(folder, "offset")
	s.move(0)(t, nil)
	own := pgtest.ServerWith(s.t, localpg.Options{Settings: map[string]string{"max_prepared_transactions": "5"},
		Env: []string{"LD_PRELOAD=" + library, "FAKETIME_TIMESTAMP_FILE=" + s.clockFile, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"}})
	s.fakedOne = whole(s.t, pgtest.NewOn(s.t, own))
	return s.fakedOne
}

func findFaketime(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "linux" {
		for _, pattern := range []string{"/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime"} {
			if found, _ := filepath.Glob(pattern + "/libfaketime.so.1"); len(found) > 0 {
				return found[0]
			}
		}
	}
	t.Skip("libfaketime is not installed (on Debian: apt-get install faketime)")
	return ""
}

// openFolder is one that a server which runs as somebody else can read.
func openFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "pgtick-doctor-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o755))
	return folder
}

// move steps the faked server's clock.
func (s *servers) move(by time.Duration) func(*testing.T, *patient) {
	return func(t *testing.T, _ *patient) {
		t.Helper()
		s.offset += by
		require.NoError(t, os.WriteFile(s.clockFile+".new", fmt.Appendf(nil, "%+.6f\n", s.offset.Seconds()), 0o644))
		require.NoError(t, os.Rename(s.clockFile+".new", s.clockFile))
	}
}

// forgotten leaves a transaction behind, for twenty minutes. That takes the clock ahead, which is put right with the trial's end.
func (s *servers) forgotten(statements string) func(*testing.T, *patient) {
	return func(t *testing.T, p *patient) {
		t.Helper()
		cfg := p.db.Config(t)
		cfg.RuntimeParams["application_name"] = "forgetful"
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		for statement := range strings.SplitSeq(statements, "; ") {
			_, err := conn.Exec(t.Context(), statement)
			require.NoError(t, err, statement)
		}
		s.move(20*time.Minute)(t, p)
		t.Cleanup(func() { s.move(-20*time.Minute)(t, p) })
	}
}

// withCron is a database that pg_cron, which is in another one, ticks.
func (s *servers) withCron(t *testing.T) *patient {
	t.Helper()
	if bin, err := localpg.FindBinaries(true); err == nil && !localpg.HasCron(bin) || os.Getenv("TEST_DATABASE_URL") != "" {
		t.Skip("needs a server of its own with pg_cron")
	}
	s.cronMutex.Lock()
	t.Cleanup(s.cronMutex.Unlock)
	if s.cronOne == nil {
		s.cronOne = whole(s.t, pgtest.NewWithCron(s.t))
	}
	t.Cleanup(func() { s.cronOne.db.RealTime(t) })
	return s.cronOne
}

// cron runs a statement where pg_cron is; $1 is the database that is looked at.
func cron(statement string) func(*testing.T, *patient) {
	return func(t *testing.T, p *patient) {
		t.Helper()
		atHome(t, p, func(conn *pgx.Conn) {
			_, err := conn.Exec(context.Background(), statement, p.db.Name)
			require.NoError(t, err, statement)
		})
	}
}

func atHome(t *testing.T, p *patient, f func(conn *pgx.Conn)) {
	t.Helper()
	cfg := p.db.Config(t)
	cfg.Database = "postgres"
	conn, err := pgx.ConnectConfig(context.Background(), cfg) // also at a trial's end
	require.NoError(t, err)
	defer conn.Close(context.Background())
	f(conn)
}

// neverAgain: the entry is there and active, but its time does not come.
func neverAgain(t *testing.T, p *patient) {
	t.Helper()
	cron(`select cron.alter_job(c.jobid, schedule => '0 0 1 1 *') from cron.job as c where c.database = $1`)(t, p)
	t.Cleanup(func() {
		cron(`select cron.alter_job(c.jobid, schedule => '* * * * *') from cron.job as c where c.database = $1`)(t, p)
	})
	p.db.Advance(t, 10*time.Minute)
}

func asCron(t *testing.T, p *patient) {
	t.Helper()
	cfg := p.db.Config(t)
	cfg.RuntimeParams["application_name"] = "pg_cron"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), "call pgtick.run_ticks()")
	require.NoError(t, err)
}

func staleEntry(t *testing.T, p *patient) {
	t.Helper()
	gone := "gone_" + p.db.Name
	atHome(t, p, func(conn *pgx.Conn) {
		for _, statement := range []string{"create database " + gone, fmt.Sprintf("select cron.schedule_in_database('stale', '* * * * *', 'call pgtick.run_ticks()', '%s')", gone), "drop database " + gone + " with (force)"} {
			_, err := conn.Exec(t.Context(), statement)
			require.NoError(t, err, statement)
		}
	})
}

func ownCron(t *testing.T) *patient {
	t.Helper()
	own := pgtest.ServerWith(t, localpg.Options{Cron: true})
	p := whole(t, pgtest.NewOn(t, own))
	p.server = own
	return p
}

const launchers = `from pg_stat_activity as a where a.backend_type like 'pg\_cron%launcher%'`

func endLauncher(t *testing.T, p *patient) {
	t.Helper()
	require.Equal(t, 1, one[int](t, p.db, `select count(pg_terminate_backend(a.pid)) `+launchers))
	require.Eventually(t, func() bool { return one[int](t, p.db, `select count(*) `+launchers) == 0 }, within, every)
}

func restart(t *testing.T, p *patient) {
	t.Helper()
	require.NoError(t, p.server.Restart(t.Context()))
	p.db.Pool.Reset()
}

func primary(t *testing.T) *patient {
	t.Helper()
	own := pgtest.Server(t)
	p := whole(t, pgtest.NewOn(t, own))
	p.server = own
	return p
}

func toStandby(t *testing.T, p *patient) {
	t.Helper()
	p.env["DATABASE_URL"] = p.db.At(t, pgtest.StandbyOf(t, p.server, localpg.Options{})).URL
}

// pooled sends what a variable names through a pooler.
func pooled(mode, variable string) func(*testing.T, *patient) {
	return func(t *testing.T, p *patient) {
		t.Helper()
		p.env[variable] = pgtest.StartPgBouncer(t, p.db, mode)
	}
}

// nowhere is a way to the database by a port at which nobody listens.
func nowhere(t *testing.T, p *patient) string {
	t.Helper()
	u, err := url.Parse(p.db.URL)
	require.NoError(t, err)
	u.Host = net.JoinHostPort(u.Hostname(), silentPort(t))
	return u.String()
}

// silentPort is one that this test has, and nobody listens at.
func silentPort(t *testing.T) string {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(socket) })
	require.NoError(t, unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := unix.Getsockname(socket)
	require.NoError(t, err)
	return fmt.Sprint(name.(*unix.SockaddrInet4).Port)
}

// proxied leads to a database by way of somebody who replaces a text in its answers by another one, as long.
func proxied(t *testing.T, to string, text [2]string) string {
	t.Helper()
	u, err := url.Parse(to)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	server := u.Host
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go relay(client, server, text)
		}
	}()
	u.Host = listener.Addr().String()
	return u.String()
}

func relay(client net.Conn, server string, text [2]string) {
	defer func() { _ = client.Close() }()
	upstream, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer func() { _ = upstream.Close() }()
	go func() { _, _ = io.Copy(upstream, client); _ = upstream.Close() }()
	answer := make([]byte, 1<<16)
	for {
		n, err := upstream.Read(answer)
		if _, failed := client.Write(bytes.ReplaceAll(answer[:n], []byte(text[0]), []byte(text[1]))); err != nil || failed != nil {
			return
		}
	}
}

// oldVersion makes a server say that it is PostgreSQL 14.
func oldVersion(t *testing.T, p *patient) [2]string {
	t.Helper()
	number := one[string](t, p.db, `select current_setting('server_version_num')`)
	return [2]string{number, "14" + number[2:]}
}
