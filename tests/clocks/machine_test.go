package clocks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// clock is a machine's: what CLOCK_REALTIME answers there is the true time plus an offset, which libfaketime reads from a file at each
// call (8 µs), so that a step is seen by all processes at the same moment. CLOCK_MONOTONIC is left alone, as on a true machine, where no
// step touches it: all waits of PostgreSQL and of pg_cron are measured by it.
type clock struct {
	libraries string // to load before any other
	file      string

	mu       sync.Mutex
	offset   time.Duration
	farthest time.Time // the latest that was shown before a step back
}

// newClock shows this time, and goes on from there. Tests that need it are skipped where there is no libfaketime.
func newClock(t *testing.T, at time.Time) *clock {
	t.Helper()
	faketime := findFaketime(t)
	waits, err := buildWaits()
	if err != nil {
		t.Skip("no C compiler to build testdata/waits.c, without which libfaketime does not reach pg_cron: ", err)
	}
	folder, err := os.MkdirTemp("", "pgtick-clock-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o755)) // the server may run as somebody else
	c := &clock{libraries: waits + " " + faketime, file: filepath.Join(folder, "offset")}
	c.set(t, at)
	return c
}

func findFaketime(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the machine's clock is moved by libfaketime, which these tests use on Linux only")
	}
	for _, pattern := range []string{"/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime"} {
		if found, _ := filepath.Glob(pattern + "/libfaketime.so.1"); len(found) > 0 { // the only error is a bad pattern
			return found[0]
		}
	}
	t.Skip("libfaketime is not installed (on Debian: apt-get install faketime)")
	return ""
}

// buildWaits compiles testdata/waits.c, once; its comment says why.
var buildWaits = sync.OnceValues(func() (string, error) {
	library := filepath.Join(folder, "waits.so")
	out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, "testdata/waits.c").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return library, nil
})

// env is what a server needs to see this clock.
func (c *clock) env() []string {
	return []string{"LD_PRELOAD=" + c.libraries, "FAKETIME_TIMESTAMP_FILE=" + c.file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

// seen is the latest time that this clock has ever shown.
func (c *clock) seen() time.Time {
	if now := c.now(); now.After(c.farthest) {
		return now
	}
	return c.farthest
}

// move steps the clock, forward or back.
func (c *clock) move(t *testing.T, by time.Duration) {
	t.Helper()
	if by < 0 {
		c.farthest = c.seen()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += by
	c.write(t)
}

// set steps the clock to a time.
func (c *clock) set(t *testing.T, at time.Time) {
	t.Helper()
	c.move(t, at.Sub(c.now()))
}

// beforeMinute steps the clock forward to two seconds before the next full minute, when pg_cron calls.
func (c *clock) beforeMinute(t *testing.T) {
	t.Helper()
	next := c.now().Add(2 * time.Second).Truncate(time.Minute).Add(time.Minute)
	c.set(t, next.Add(-2*time.Second))
}

// write replaces the file whole, so that nobody reads half a number.
func (c *clock) write(t *testing.T) {
	t.Helper()
	text := fmt.Sprintf("%+.6f\n", c.offset.Seconds())
	require.NoError(t, os.WriteFile(c.file+".new", []byte(text), 0o644))
	require.NoError(t, os.Rename(c.file+".new", c.file))
}

// machine is a server with pg_cron that has a clock of its own, and a database on it.
type machine struct {
	*localpg.Server
	*clock
	db   *pgtest.DB
	home *pgxpool.Pool // where pg_cron lives
}

// newMachine starts one whose clock shows this time. Its database has none of the schedules that come with pgtick, unless they are asked
// for; pg_cron ticks it each minute.
func newMachine(t *testing.T, at time.Time, credits bool) *machine {
	t.Helper()
	c := newClock(t, at)
	server := pgtest.ServerWith(t, localpg.Options{Cron: true, Env: c.env()})
	t.Cleanup(func() { forget(server) })
	m := &machine{Server: server, clock: c, db: pgtest.NewOn(t, server)}
	var err error
	m.home, err = pgxpool.New(t.Context(), server.URL("postgres"))
	require.NoError(t, err)
	t.Cleanup(m.home.Close)
	require.WithinDuration(t, c.now(), ask[time.Time](t, m.db, "select pgtick.now()"), 10*time.Second, "the server sees the clock")
	if !credits {
		m.db.Quiet(t)
	}
	return m
}

// forget removes what libfaketime leaves in memory when a server crashes: it is named after the postmaster, and would hinder another one
// with that number.
func forget(server *localpg.Server) {
	for _, name := range []string{"faketime_shm_%d", "sem.faketime_sem_%d"} {
		_ = os.Remove(filepath.Join("/dev/shm", fmt.Sprintf(name, server.Pid())))
	}
}

// cron runs a statement where pg_cron lives.
func (m *machine) cron(t *testing.T, sql string) {
	t.Helper()
	_, err := m.home.Exec(t.Context(), sql)
	require.NoError(t, err, sql)
}

// cronRuns counts how often pg_cron has called.
func (m *machine) cronRuns(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, m.home.QueryRow(t.Context(), "select count(*) from cron.job_run_details").Scan(&n))
	return n
}

// crash ends the server at once, and forgets what libfaketime left.
func (m *machine) crash(t *testing.T) {
	t.Helper()
	forget(m.Server)
	require.NoError(t, m.Crash())
}

// restart brings the server back, with a clock that shows this time.
func (m *machine) restart(t *testing.T, at time.Time) {
	t.Helper()
	m.set(t, at)
	require.NoError(t, m.Restart(t.Context()))
	m.db.Pool.Reset()
	m.home.Reset()
}
