package runner

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// call runs the binary to its end and returns what it printed and its exit code.
func call(t *testing.T, env []string, args ...string) (out, talk string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(cmd.Environ(), append([]string{"DATABASE_URL=", "LISTEN_DATABASE_URL=", "PGTICK_HTTP=off"}, env...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func TestUsage_BadSettings_AreNamed_WithExitCode2_AndNoPassword(t *testing.T) {
	t.Parallel()
	rows := map[string]struct {
		env  []string
		args []string
		says string
		code int
	}{
		"no database":           {nil, []string{"work"}, "DATABASE_URL (or --database-url): is not set", 2},
		"not a URL":             {[]string{"DATABASE_URL=postgres://u:hunter2@h:port/x"}, []string{"work"}, "DATABASE_URL (or --database-url): is not a PostgreSQL URL", 2},
		"nobody there":          {[]string{"DATABASE_URL=postgres://u:hunter2@127.0.0.1:1/x"}, []string{"work"}, "the database at 127.0.0.1, port 1, can't be reached", 1},
		"migrate, nobody there": {[]string{"DATABASE_URL=postgres://u:hunter2@127.0.0.1:1/x"}, []string{"migrate"}, "127.0.0.1", 1},
		"workers":               {[]string{"DATABASE_URL=postgres://u@h/x"}, []string{"work", "--workers=0"}, `PGTICK_WORKERS (or --workers): "0" is not a whole number from 1 to 10000`, 2},
		"lease":                 {[]string{"DATABASE_URL=postgres://u@h/x", "PGTICK_LEASE=never"}, []string{"work"}, `PGTICK_LEASE (or --lease): "never" is not a time from 1s to 1h0m0s`, 2},
		"unknown flag":          {nil, []string{"work", "--quick"}, "unknown flag: --quick", 2},
		"unknown verb":          {nil, []string{"wrok"}, `unknown command "wrok"`, 2},
		"too many words":        {nil, []string{"work", "hard"}, "hard", 2},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, talk, code := call(t, row.env, row.args...)
			require.Contains(t, talk, row.says)
			require.Equal(t, row.code, code)
			require.Empty(t, out)
			require.NotContains(t, talk, "hunter2")
			what, _, _ := strings.Cut(strings.TrimSpace(talk), "\n  hint: ")
			require.NotContains(t, what, "\n", "one line, and perhaps a hint: %s", talk)
		})
	}
}

func TestUsage_HelpConfig_ListsEverySetting(t *testing.T) {
	t.Parallel()
	out, _, code := call(t, nil, "help", "config")
	require.Zero(t, code)
	for _, name := range []string{"DATABASE_URL", "LISTEN_DATABASE_URL", "PGTICK_QUEUES", "PGTICK_WORKERS", "PGTICK_LEASE", "PGTICK_HTTP", "PGTICK_CLOCK"} {
		require.Contains(t, out, name)
	}
}

func TestWork_OnAnOlderSchema_NamesTheCommand(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `delete from pgtick.goose_db_version where version_id = (select max(version_id) from pgtick.goose_db_version)`)
	_, talk, code := call(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db)}, "work")
	require.Contains(t, talk, "run pgtick migrate")
	require.Equal(t, 1, code)
}

func TestWork_OnACopy_StopsUntilItIsAdopted(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `delete from pgtick.addresses`)
	do(t, db, `insert into pgtick.addresses values ('production.example/app', now(), 'test')`)
	url := pgtest.RunnerURL(t, db)
	_, talk, code := call(t, []string{"DATABASE_URL=" + url}, "work")
	require.Equal(t, 1, code)
	require.Contains(t, talk, "production.example/app")
	require.Contains(t, talk, "localhost/"+db.Name)
	out, _, code := call(t, []string{"DATABASE_URL=" + db.URL}, "adopt", "--only")
	require.Zero(t, code)
	require.Equal(t, "localhost/"+db.Name+"\n", out)
	require.Equal(t, 1, ask[int](t, db, `select count(*) from pgtick.addresses`))
	work(t, db)
}

func TestMigrate_TwiceAndStatus(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	env := []string{"DATABASE_URL=" + db.URL}
	_, talk, code := call(t, env, "migrate", "status")
	require.Equal(t, 1, code)
	require.Contains(t, talk, "run pgtick migrate")
	out, _, code := call(t, env, "migrate")
	require.Zero(t, code)
	require.Contains(t, out, "migrated")
	out, _, code = call(t, env, "migrate")
	require.Zero(t, code)
	require.Equal(t, "nothing to do\n", out)
	_, _, code = call(t, env, "migrate", "status")
	require.Zero(t, code)
	out, _, code = call(t, nil, "migrate", "sql")
	require.Zero(t, code)
	require.Contains(t, out, "create table pgtick.live_jobs")
}

func TestWork_HealthAndMetrics(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	db := fresh(t)
	p := work(t, db, "--http="+taken.Addr().String())
	p.says(`port \d+ is taken`)
	url := p.says(`health and metrics at (http://[0-9.:]+)"`)[1]
	becomes(t, db, "done", stateOf, enqueue(t, db, "test.noop", "{}"))
	for _, path := range []string{"/healthz", "/readyz"} {
		status, body := get(t, url+path)
		require.Equal(t, 200, status, body)
		require.Equal(t, "ok\n", body)
	}
	require.Eventually(t, func() bool {
		_, body := get(t, url+"/metrics")
		return strings.Contains(body, `pgtick_attempts_finished_total{outcome="done",queue="default",task="test.noop"} 1`)
	}, within, every)
	_, body := get(t, url+"/metrics")
	require.Contains(t, body, "pgtick_listener_hears 1")
}

func TestWork_AScheduleWithoutADoneJobInTime_ShowsInTheMetrics(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	ask[int64](t, db, `select pgtick.schedule('late', '@every 1s', 'test.nobody_has_it', p_must_finish_within => '1 second')`)
	becomes(t, db, true, `select exists (select from pgtick.tick(), pgtick.overdue_schedules(pgtick.now()))`)
	url := work(t, db, "--http=127.0.0.1:0").says(`health and metrics at (http://[0-9.:]+)"`)[1]
	require.Eventually(t, func() bool {
		_, body := get(t, url+"/metrics")
		return strings.Contains(body, `pgtick_schedule_overdue{schedule="late"} 1`)
	}, within, every)
	require.Equal(t, "late", ask[string](t, db, `select s.name from pgtick.overdue as o join pgtick.schedules as s on s.id = o.schedule_id`))
}

func TestMigrate_BehindATransactionPooler_SaysSo_WithExitCode2(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	_, talk, code := call(t, []string{"DATABASE_URL=" + pgtest.StartPgBouncer(t, db, "transaction")}, "migrate")
	require.Equal(t, 2, code)
	require.Contains(t, talk, "is a pooler in transaction mode: use the database's own host and port")
	require.Equal(t, 1, strings.Count(strings.TrimSpace(talk), "\n")+1, "one line: %s", talk)
	require.False(t, ask[bool](t, db, `select exists (select from pg_namespace where nspname = 'pgtick')`), "nothing is half-installed")
}
