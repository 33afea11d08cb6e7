package connections

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/faults/proxy"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// generous is how soon after the database is back a runner must claim, on whatever machine; what it took is logged, and is mostly below five
// seconds. (A crash and restart in the middle of work, and cut connections, are in tests/runner.)
const generous = 30 * time.Second

// claimsAgain notes when jobs were enqueued into a database that is back, and how long the first then waited for its claim.
func claimsAgain(t *testing.T, db *pgtest.DB, what string, back time.Time) {
	t.Helper()
	becomes(t, db, true, `select exists (select from pgtick.attempts where started_at > $1)`, back)
	var took float64
	require.NoError(t, db.Pool.QueryRow(t.Context(), `select extract(epoch from min(started_at) - $1)::float8 from pgtick.attempts where started_at > $1`, back).Scan(&took))
	t.Logf("%s: the first claim came %.2f s after the database was back", what, took)
	require.Less(t, took, generous.Seconds())
}

// serverTime is the clock by which attempts are dated.
func serverTime(t *testing.T, db *pgtest.DB) time.Time {
	t.Helper()
	return ask[time.Time](t, db, "select clock_timestamp()")
}

func TestWork_TheServerRestarts_WhileTheRunnerSleeps_ItClaimsSoon(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	db := pgtest.NewOn(t, server)
	furnish(t, db)
	p := work(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db)})
	p.says("notifications arrive")
	becomes(t, db, 1, `select count(*) from pgtick.sleepers where until > pgtick.now()`)
	require.NoError(t, server.Crash())
	p.says("the database refused or did not answer")
	require.NoError(t, server.Restart(t.Context()))
	becomes(t, db, 1, "select 1")
	back := serverTime(t, db)
	enqueue(t, db, "test.effect", "{}", 10)
	claimsAgain(t, db, "restart", back)
	nothingLost(t, db, 10)
	p.stops()
}

// The address stays and what is behind it changes, as with a failover of a hosted database. Until it is promoted the new server takes no writes.
func TestWork_AFailover_ToAStandbyBehindTheSameAddress_LosesNothing(t *testing.T) {
	t.Parallel()
	const n = 300
	primary := pgtest.Server(t)
	old := pgtest.NewOn(t, primary)
	furnish(t, old)
	runner := pgtest.RunnerURL(t, old)
	standby := pgtest.StandbyOf(t, primary, localpg.Options{})
	do(t, old, "alter system set synchronous_standby_names = '*'")
	reload(t, old)
	becomes(t, old, "sync", "select coalesce(min(sync_state), '') from pg_stat_replication")
	way := proxy.Start(t, primary.URL(old.Name))
	enqueue(t, old, "test.effect", `{"ms": 20}`, n)
	p := work(t, []string{"DATABASE_URL=" + way.URL(runner)}, "--poll=500ms", "--lease=5s")
	becomes(t, old, true, "select count(*) > 30 from pgtick.history")

	require.NoError(t, primary.Kill())
	t.Cleanup(func() {
		require.NoError(t, primary.Restart(context.Background()), "so that the shared memory it left goes as well")
	})
	way.SwitchTo(standby.URL(old.Name))
	p.says("25006")
	p.says("the database is read-only: it is a standby")
	require.NoError(t, standby.Promote(t.Context()))
	db := old.At(t, standby)
	becomes(t, db, false, "select pg_is_in_recovery()")
	back := serverTime(t, db)
	claimsAgain(t, db, "failover", back)
	nothingLost(t, db, n)
	p.stops()
}

// A NAT or load balancer that has seen nothing for some time forgets a connection, and tells nobody: what is sent is lost. All of them are
// found out: control's by its time limit, tasks' by a ping before use, the listener's by its test of itself.
func TestWork_ConnectionsThatDieWithoutAWord_AreReplaced(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	way := proxy.Start(t, db.URL)
	p := work(t, []string{"DATABASE_URL=" + way.URL(pgtest.RunnerURL(t, db))}, "--poll=1s", "--lease=6s", "--connections=2")
	p.says("notifications arrive")
	enqueue(t, db, "test.effect", `{"ms": 50}`, 10)
	nothingLost(t, db, 10)
	becomes(t, db, true, `select max(at) < clock_timestamp() - interval '1.5 seconds' from public.effects`) // what was used within a second is taken as it is
	require.GreaterOrEqual(t, way.Forget(), 4)
	back := serverTime(t, db)
	enqueue(t, db, "test.effect", `{}`, 10)
	claimsAgain(t, db, "connections dead without a word", back)
	nothingLost(t, db, 20)
	took := ask[float64](t, db, `select extract(epoch from max(at) - $1)::float8 from public.effects`, back)
	t.Logf("all 10 jobs done after %.2f s", took)
	require.Less(t, took, 2*generous.Seconds(), "an attempt's own timeout is five minutes")
	p.stops()
}

// The server itself may end idle sessions.
func TestWork_WithAnIdleSessionTimeout_WorksOn_AndSaysWhatToSet(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `alter database `+db.Name+` set idle_session_timeout = '300ms'`)
	p := work(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db)}, "--poll=1s", "--lease=10s")
	p.says("57P05")
	p.says("alter role [A-Za-z_]+ set idle_session_timeout = 0")
	for i := range 5 {
		enqueue(t, db, "test.effect", `{}`, 3)
		nothingLost(t, db, 3*(i+1))
		becomes(t, db, 0, `select count(*) from pg_stat_activity where datname = current_database() and usename = 'pgtick_runner' and query = 'commit'`)
	}
	p.stops()
}

// A password that is changed while a runner works ends nothing at once: sessions go on. New ones are refused, and a pooler that counts such
// logins locks out everybody else. So a runner tries one in half a minute; and once the old password is back it goes on by itself.
func TestWork_APasswordThatIsChanged_IsTriedSeldom_AndTheRunnerGoesOnWhenItIsBack(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	db := pgtest.NewOn(t, server)
	furnish(t, db)
	url := pgtest.RunnerURL(t, db)
	p := work(t, []string{"DATABASE_URL=" + url}, "--poll=100ms", "--lease=1h")
	p.says("notifications arrive")
	enqueue(t, db, "test.effect", `{}`, 5)
	nothingLost(t, db, 5)
	old := ask[string](t, db, "select rolpassword from pg_authid where rolname = 'pgtick_runner'")
	do(t, db, "alter role pgtick_runner password 'another'")
	do(t, db, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pgtick_runner'")
	enqueue(t, db, "test.effect", `{}`, 20)
	p.says("(?s)trying again in 2s.*trying again in 2s.*trying again in 2s.*trying again in 2s")
	p.says("user or password is wrong")
	log, err := os.ReadFile(server.LogFile())
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(log), "password authentication failed"), 3, "control, listener and tasks may try at the same moment")
	do(t, db, "alter role pgtick_runner password '"+old+"'")
	nothingLost(t, db, 25)
	p.stops()
}

// A hosted database whose disk is full takes no writes until there is room. Jobs wait, and to find it so is no attempt.
func TestWork_ADatabaseThatIsReadOnlyForSomeTime_IsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ on, off string }{
		"the whole server":  {"alter system set default_transaction_read_only = on", "alter system reset default_transaction_read_only"},
		"the database only": {"alter database %s set default_transaction_read_only = on", "alter database %s reset default_transaction_read_only"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 60
			server := pgtest.Server(t)
			db := pgtest.NewOn(t, server)
			furnish(t, db)
			runner := pgtest.RunnerURL(t, db)
			for range n {
				do(t, db, `select pgtick.enqueue('test.effect', '{"ms": 50}', p_max_attempts => 2)`) // one for being cut off below
			}
			owner := session(t, db.URL)
			defer owner.Close(t.Context())
			owners := func(sql string) {
				_, err := owner.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			owners("set default_transaction_read_only = off") // the owner's own way out
			p := work(t, []string{"DATABASE_URL=" + runner}, "--poll=200ms", "--lease=5s")
			becomes(t, db, true, "select count(*) > 6 from pgtick.history")
			owners(strings.ReplaceAll(c.on, "%s", db.Name))
			owners("select pg_reload_conf()")
			owners("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pgtick_runner'") // sessions that began before may write
			p.says("25006|the database is read-only")
			p.says("a runner waits until it takes writes again")
			require.Less(t, ask[int](t, db, "select count(*) from pgtick.history"), n, "in the middle of it")

			again := work(t, []string{"DATABASE_URL=" + runner, "PGTICK_NAME=second"}, "--poll=200ms") // one that starts meanwhile waits too
			again.says("a runner waits until it takes writes again")
			owners(strings.ReplaceAll(c.off, "%s", db.Name))
			owners("select pg_reload_conf()")
			back := serverTime(t, db)
			claimsAgain(t, db, "read-only, "+name, back)
			nothingLost(t, db, n)
			again.says("runner registered")
			p.stops()
			again.stops()
		})
	}
}
