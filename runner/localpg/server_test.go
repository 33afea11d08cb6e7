package localpg_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/stretchr/testify/require"
)

func TestStart_ServesOnLoopbackAlone_WithAPassword(t *testing.T) {
	t.Parallel()
	s := start(t, localpg.Options{})
	require.Equal(t, "1", query(t, s, "select 1::text"))
	require.Equal(t, "127.0.0.1", query(t, s, "show listen_addresses"))
	_, err := pgx.Connect(t.Context(), "postgres://postgres:wrong@127.0.0.1:"+strconv.Itoa(s.Port())+"/postgres")
	require.ErrorContains(t, err, "28P01")
}

func TestStart_IsNeverRoot(t *testing.T) {
	t.Parallel()
	s := start(t, localpg.Options{})
	info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(s.Pid())))
	if err != nil {
		t.Skip("no /proc here")
	}
	require.NotZero(t, info.Sys().(*syscall.Stat_t).Uid)
}

func TestStart_InATemporaryFolder_RemovesItOnClose(t *testing.T) {
	t.Parallel()
	s := start(t, localpg.Options{})
	pid := s.Pid()
	require.NotZero(t, pid)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "it may be closed twice")
	require.NoDirExists(t, filepath.Dir(s.DataDir()))
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestStart_InAFolderThatHoldsAServer_FindsItsDataAgain(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "below", "db")
	first := start(t, localpg.Options{DataDir: folder, Durable: true})
	query(t, first, "create table kept (n int)")
	require.NoError(t, first.Close())
	second := start(t, localpg.Options{DataDir: folder, Durable: true})
	require.Equal(t, "0", query(t, second, "select count(*)::text from kept"))
}

func TestStart_FromAServerThatWasClosed_IsACopyOfIt_UnderItsPassword(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "db")
	first := start(t, localpg.Options{DataDir: folder})
	query(t, first, "create table kept (n int)")
	require.NoError(t, first.Close())
	copied := start(t, localpg.Options{From: folder})
	require.Equal(t, "0", query(t, copied, "select count(*)::text from kept"))
	require.NotEqual(t, first.DataDir(), copied.DataDir())
	query(t, copied, "insert into kept values (1)")
	again := start(t, localpg.Options{From: folder})
	require.Equal(t, "0", query(t, again, "select count(*)::text from kept"), "what a copy does is its own")
}

func TestStart_FromAFolderWithoutAServer_NamesIt(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "nothing")
	_, err := localpg.Start(t.Context(), localpg.Options{From: missing})
	require.ErrorContains(t, err, missing)
}

// Where root has its checkout in a folder that only root may enter, the server still gets to its data.
func TestStart_BelowAFolderClosedToOthers_Works(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(t.TempDir(), "closed")
	require.NoError(t, os.Mkdir(closed, 0o700))
	s := start(t, localpg.Options{DataDir: filepath.Join(closed, "db")})
	require.Equal(t, "1", query(t, s, "select 1::text"))
	query(t, s, "create table t as select generate_series(1, 1000)")
	query(t, s, "checkpoint")
}

func TestCrash_ThenRestart_KeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	s := start(t, localpg.Options{Settings: map[string]string{"synchronous_commit": "on"}})
	query(t, s, "create table kept (n int)")
	require.NoError(t, s.Crash())
	require.Zero(t, s.Pid())
	require.NoError(t, s.Restart(t.Context()))
	require.Equal(t, "0", query(t, s, "select count(*)::text from kept"))
}

func TestStart_WithEnv_GivesItToTheServer(t *testing.T) {
	t.Parallel()
	s := start(t, localpg.Options{Env: []string{"PGTICK_TEST_ENV=two words", "PGTICK_TEST_OTHER=1"}})
	query(t, s, "create table seen (line text)")
	query(t, s, `copy seen from program 'echo "$PGTICK_TEST_ENV $PGTICK_TEST_OTHER"'`)
	require.Equal(t, "two words 1", query(t, s, "select line from seen"))
	require.NoError(t, s.Restart(t.Context()))
	query(t, s, `copy seen from program 'echo again $PGTICK_TEST_OTHER'`)
	require.Equal(t, "again 1", query(t, s, "select line from seen where line like 'again%'"))
}

func TestKill_EndsEachProcess_AndRestartKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	s := start(t, localpg.Options{Settings: map[string]string{"synchronous_commit": "on"}})
	query(t, s, "create table kept (n int)")
	at := filepath.Join(s.DataDir(), "postmaster.pid")
	require.NoError(t, s.Kill())
	require.Zero(t, s.Pid())
	require.FileExists(t, at, "it had no time to remove it")
	require.NoError(t, s.Kill(), "it may be killed twice")
	require.NoError(t, s.Restart(t.Context()), "a process that still ran would not let it start")
	require.Equal(t, "0", query(t, s, "select count(*)::text from kept"))
}

func TestStandby_Follows_AndIsPromotedWhenTheOtherIsLost(t *testing.T) {
	t.Parallel()
	primary := start(t, localpg.Options{})
	query(t, primary, "create table followed (n int)")
	standby, err := primary.Standby(t.Context(), localpg.Options{Settings: map[string]string{"work_mem": "7MB"}})
	if errors.Is(err, localpg.ErrNoBaseBackup) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })
	require.Equal(t, "7MB true", query(t, standby, "select current_setting('work_mem') || ' ' || pg_is_in_recovery()"))
	query(t, primary, "insert into followed values (1)")
	require.Eventually(t, func() bool { return query(t, standby, "select count(*)::text from followed") == "1" }, time.Minute, 20*time.Millisecond)
	require.NoError(t, primary.Kill())
	require.NoError(t, standby.Promote(t.Context()))
	query(t, standby, "insert into followed values (2)")
	require.Equal(t, "2", query(t, standby, "select count(*)::text from followed"))
	require.NoError(t, primary.Restart(t.Context()), "so that the shared memory it left goes as well")
}

func TestStart_WithABadSetting_ReturnsWhatTheServerSaid(t *testing.T) {
	t.Parallel()
	_, err := localpg.Start(t.Context(), localpg.Options{Settings: map[string]string{"shared_buffers": "nonsense"}})
	require.ErrorContains(t, err, "invalid value for parameter")
}

// The test binary starts itself once more, which starts a server and is then killed: the server must go as well.
func TestStart_WhenTheProcessIsKilled_EndsTheServer(t *testing.T) {
	t.Parallel()
	if folder := os.Getenv("PGTICK_TEST_VICTIM"); folder != "" {
		_, err := localpg.Start(context.Background(), localpg.Options{DataDir: folder})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, "started"), nil, 0o600))
		select {}
	}
	folder := filepath.Join(t.TempDir(), "db")
	victim := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	victim.Env = append(os.Environ(), "PGTICK_TEST_VICTIM="+folder)
	require.NoError(t, victim.Start())
	require.Eventually(t, func() bool { return isThere(filepath.Join(folder, "started")) }, time.Minute, 20*time.Millisecond)
	port := portOf(t, folder)
	require.NoError(t, victim.Process.Kill())
	_ = victim.Wait()
	require.Eventually(t, func() bool { return !listens(port) && !isThere(filepath.Join(folder, "data", "postmaster.pid")) },
		20*time.Second, 20*time.Millisecond)
	again := start(t, localpg.Options{DataDir: folder})
	require.Equal(t, "1", query(t, again, "select 1::text"))
}

func TestDetached_IsFoundUsedAgainAndStopped(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "db")
	first := start(t, localpg.Options{DataDir: folder, Detached: true})
	t.Cleanup(func() { _ = first.Stop() })
	require.NoError(t, first.Close(), "a detached server stays")
	second, err := localpg.Start(t.Context(), localpg.Options{DataDir: folder, Detached: true})
	require.NoError(t, err)
	require.Equal(t, first.URL("postgres"), second.URL("postgres"))
	require.Equal(t, first.Pid(), second.Pid())
	found, err := localpg.Find(t.Context(), folder)
	require.NoError(t, err)
	require.NoError(t, found.Stop())
	gone, err := localpg.Find(t.Context(), folder)
	require.NoError(t, err)
	require.Nil(t, gone)
}

// A pid file may name a process that has nothing to do with this server.
func TestStop_NeverStopsAProcessOfAnother(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "db")
	s := start(t, localpg.Options{DataDir: folder})
	require.NoError(t, s.Stop())
	other := exec.Command("sh", "-c", "read line")
	input, err := other.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	defer func() { _ = input.Close() }()
	require.NoError(t, os.WriteFile(filepath.Join(s.DataDir(), "postmaster.pid"), []byte(strconv.Itoa(other.Process.Pid)+"\n"), 0o600))
	if _, err := os.Stat("/proc/self/cwd"); err != nil {
		t.Skip("no /proc here to tell processes apart")
	}
	require.Zero(t, s.Pid())
	require.NoError(t, s.Stop())
	require.NoError(t, other.Process.Signal(syscall.Signal(0)), "it lives")
}

func TestStart_WithCron_LoadsIt(t *testing.T) {
	t.Parallel()
	bin, err := localpg.FindBinaries(true)
	require.NoError(t, err)
	if !localpg.HasCron(bin) {
		t.Skip("this PostgreSQL has no pg_cron")
	}
	s := start(t, localpg.Options{Cron: true})
	query(t, s, "create extension pg_cron")
	require.Equal(t, "1", query(t, s, "select cron.schedule('x', '* * * * *', 'select 1')::text"))
}

func start(t *testing.T, opt localpg.Options) *localpg.Server {
	t.Helper()
	s, err := localpg.Start(t.Context(), opt)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// query returns the last value of a statement, or "".
func query(t *testing.T, s *localpg.Server, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql)
	require.NoError(t, err)
	value := ""
	for rows.Next() {
		require.NoError(t, rows.Scan(&value))
	}
	require.NoError(t, rows.Err())
	return value
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func portOf(t *testing.T, folder string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "port"))
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

func listens(port string) bool {
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
