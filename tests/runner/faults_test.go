package runner

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// nothingLost holds for every test below: each of n jobs is done, each effect is there once, and no claim is left over.
func nothingLost(t *testing.T, db *pgtest.DB, n int) {
	t.Helper()
	becomes(t, db, n, `select count(*) from pgtick.jobs where state = 'done'`)
	require.Equal(t, n, ask[int](t, db, `select count(*) from pgtick.jobs`))
	require.Zero(t, ask[int](t, db, `select count(*) from (select job_id from public.effects group by job_id having count(*) <> 1) as doubled`), "effects doubled")
	require.Equal(t, n, ask[int](t, db, `select count(distinct job_id) from public.effects`), "effects lost")
}

func enqueueMany(t *testing.T, db *pgtest.DB, task string, n int) {
	t.Helper()
	require.Equal(t, n, ask[int](t, db, `select count(*) from pgtick.enqueue_many($1, array_fill('{}'::jsonb, array[$2::int]))`, task, n))
}

// TestTwoRunners_OneKilled_EachJobIsDoneOnce_AndTheLedgerSumsRight is the whole way: 10,000 jobs that charge credits in their own
// transaction, two runners, and one of them killed in the middle.
func TestTwoRunners_OneKilled_EachJobIsDoneOnce_AndTheLedgerSumsRight(t *testing.T) {
	t.Parallel()
	n, accounts := 10000, 100
	if os.Getenv(pgtest.PoolerEnv) != "" {
		n = 3000 // there it is the way that counts
	}
	db := fresh(t)
	do(t, db, `grant usage on schema credits to pgtick_runner`)
	do(t, db, `do $$ declare f regprocedure; begin
		for f in select p.oid from pg_proc as p where p.pronamespace = 'credits'::regnamespace and p.proname = 'charge' loop
			execute format('grant execute on function %s to pgtick_runner', f); end loop; end $$`)
	do(t, db, `select credits.open_account(('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid) from generate_series(1, $1::int) as i`, accounts)
	do(t, db, `select credits.grant(a.user_id, 1000000, 'start') from credits.accounts as a`)
	require.Equal(t, n, ask[int](t, db, `select count(*) from pgtick.enqueue_many('test.charge', array(
		select jsonb_build_object('user_id', '00000000-0000-4000-8000-' || lpad((1 + i % $2::int)::text, 12, '0')) from generate_series(1, $1::int) as i))`, n, accounts))

	first := workAs(t, released, db, "--lease=2s", "--name=first")
	workAs(t, released, db, "--lease=2s", "--name=second")
	becomes(t, db, true, `select count(*) > $1 from pgtick.history`, n/10)
	first.signal(syscall.SIGKILL)
	require.Less(t, ask[int](t, db, `select count(*) from pgtick.history`), n, "killed in the middle")

	pgtest.Becomes(t, db, 10*time.Minute, n, `select count(*) from pgtick.jobs where state = 'done'`) // so many may take long on a busy machine
	require.Equal(t, n, ask[int](t, db, `select count(*) from pgtick.jobs`), "none lost")
	require.Equal(t, n, ask[int](t, db, `select count(*) from credits.transactions where type = 'deduction'`), "each charged once")
	require.Equal(t, int64(accounts*1000000-n), ask[int64](t, db, `select sum(balance)::bigint from credits.accounts`))
	require.Zero(t, ask[int](t, db, `select count(*) from credits.violations`))
	becomes(t, db, "dead", `select state from pgtick.runners where name = 'first'`)
}

// TestAFrozenRunner_LosesItsClaims_AndWritesNothing: it wakes after its lease with its transaction's commit still to come.
func TestAFrozenRunner_LosesItsClaims_AndWritesNothing(t *testing.T) {
	t.Parallel()
	for _, task := range []string{"test.effect", "test.effect_in_tx"} {
		t.Run(task, func(t *testing.T) {
			t.Parallel()
			db := fresh(t)
			effects(t, db)
			id := enqueue(t, db, task, `{"ms": 1500}`)
			frozen := work(t, db, "--lease=1s", "--name=frozen")
			becomes(t, db, "running", stateOf, id)
			frozen.signal(syscall.SIGSTOP)
			work(t, db, "--lease=1s", "--name=healthy")
			becomes(t, db, "done", stateOf, id)
			frozen.signal(syscall.SIGCONT)
			frozen.says("declared dead")
			becomes(t, db, "done", stateOf, enqueue(t, db, task, `{}`)) // both work on
			nothingLost(t, db, 2)
			require.Equal(t, 1, ask[int](t, db, `select count(*) from pgtick.attempts where job_id = $1 and outcome = 'lost'`, id))
			require.Equal(t, "healthy", ask[string](t, db, `select runner from pgtick.attempts where job_id = $1 and outcome = 'done'`, id))
		})
	}
}

func TestConnectionsCut_AgainAndAgain_NothingIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	const n, cuts = 2000, 60
	db := fresh(t)
	effects(t, db)
	enqueueMany(t, db, "test.effect", n)
	work(t, db, "--lease=5s")
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	cut := 0
	for cut < cuts && ask[int](t, db, `select count(*) from pgtick.live_jobs`) > 0 {
		cut += ask[int](t, db, `select count(pg_terminate_backend(pid)) from (
			select pid from pg_stat_activity where datname = current_database() and usename = 'pgtick_runner' order by random() limit 1) as one`)
		<-pause.C
	}
	require.Positive(t, cut)
	t.Logf("%d connections cut, %d attempts failed", cut, ask[int](t, db, `select count(*) from pgtick.attempts where outcome = 'error'`))
	nothingLost(t, db, n)
}

func TestTheServerCrashes_AndComesBack_TheRunnerGoesOn(t *testing.T) {
	t.Parallel()
	const n = 2000
	server := pgtest.Server(t)
	db := pgtest.NewOn(t, server)
	db.Quiet(t)
	effects(t, db)
	enqueueMany(t, db, "test.effect", n)
	p := work(t, db, "--lease=5s")
	becomes(t, db, true, `select count(*) > 100 from pgtick.history`)
	for range 2 {
		require.NoError(t, server.Crash())
		require.NoError(t, server.Restart(t.Context()))
	}
	nothingLost(t, db, n)
	p.signal(syscall.SIGTERM)
	require.Zero(t, p.ends())
}

func TestManyRunners_ShareTheJobs(t *testing.T) {
	t.Parallel()
	const n = 2000
	db := fresh(t)
	effects(t, db)
	for i := range 4 {
		work(t, db, fmt.Sprintf("--name=runner %d", i))
	}
	enqueueMany(t, db, "test.effect", n)
	nothingLost(t, db, n)
	require.Equal(t, 4, ask[int](t, db, `select count(distinct runner) from pgtick.attempts`))
}

// TestAPoisonJob_FailsAtLast_AndTakesNoOtherWithIt is in SQL's tests; here a runner is killed again and again by the job that it runs.
func TestAJobThatKillsItsRunner_DoesNotKillThemForEver(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	poison := enqueue(t, db, "test.exit", "{}")
	for range 8 {
		if ask[string](t, db, stateOf, poison) == "failed" {
			break
		}
		p := start(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db)}, "work", "--lease=1s")
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
		}
		becomes(t, db, 0, `select count(*) from pgtick.live_jobs where runner_id is not null and pgtick.rescue() >= 0`)
	}
	require.Equal(t, "failed", ask[string](t, db, stateOf, poison))
	require.Contains(t, ask[string](t, db, `select last_error ->> 'message' from pgtick.jobs where id = $1`, poison), "three runners died")
	enqueueMany(t, db, "test.effect", 10)
	work(t, db)
	becomes(t, db, 10, `select count(*) from pgtick.jobs where state = 'done'`)
}
