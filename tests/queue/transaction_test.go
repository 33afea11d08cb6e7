package queue

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestCheckClaim_HoldsOffRescueUntilTheCommit(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "create table effects (job_id bigint)")
	_, c := held(t, db)
	task := session(t, db)
	exec(t, task, "begin")
	exec(t, task, "insert into effects values ($1)", c.ID)
	exec(t, task, "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
	kill(t, db)
	require.Equal(t, "running 1", stateOf(t, db, c.ID))
	require.Empty(t, register(t, db, "thief", "echo").claim(t, db.Pool, 1))
	exec(t, task, "commit")
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "ready 1", stateOf(t, db, c.ID))
	refused(t, db.Pool, "TK001", "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
}

func TestCheckClaim_OfALostClaim_TakesTheEffectBack(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "create table effects (job_id bigint)")
	_, c := held(t, db)
	for _, check := range []string{"check_claim", "finish_in_transaction"} {
		for _, fence := range []int64{c.Fence - 1, c.Fence + 1} {
			task := session(t, db)
			exec(t, task, "begin")
			exec(t, task, "insert into effects values ($1)", c.ID)
			refused(t, task, "TK001", "select pgtick."+check+"($1, $2)", c.ID, fence)
			exec(t, task, "commit")
		}
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from effects"))
	refused(t, db.Pool, "TK001", "select pgtick.check_claim(4711, 1)")
	refused(t, db.Pool, "TK001", "select pgtick.check_claim($1, null)", c.ID)
	refused(t, db.Pool, "TK001", "select pgtick.finish_in_transaction(null, null)")
}

// A finished job is no claim any more, even under its own fence: the answer "already done" is finish's alone.
func TestCheckClaim_NeverLooksAtHistory(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	r.finish(t, db.Pool, c.is("done"))
	requireFenced(t, db, c)
	r, c = held(t, db)
	r.finish(t, db.Pool, c.is("error"))
	requireFenced(t, db, c)
}

func TestCheckClaim_SetsTheSessionsTimeoutToTheLease_InThatTransactionOnly(t *testing.T) {
	t.Parallel()
	for _, function := range []string{"check_claim", "finish_in_transaction"} {
		db := pgtest.New(t)
		_, c := held(t, db)
		task := session(t, db)
		const timeout = "show idle_in_transaction_session_timeout"
		before := one[string](t, task, timeout)
		exec(t, task, "begin")
		exec(t, task, "select pgtick."+function+"($1, $2)", c.ID, c.Fence)
		require.Equal(t, "30s", one[string](t, task, timeout))
		exec(t, task, "commit")
		require.Equal(t, before, one[string](t, task, timeout))
	}
}

// A worker that freezes between the check and its commit would keep the job for ever; the server ends its session instead.
func TestCheckClaim_AFrozenSession_IsEndedByTheServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "create table effects (job_id bigint)")
	pgtest.AddJob(t, db, "echo")
	c := pgtest.Claim(t, db, "frozen", time.Second)
	frozen := session(t, db)
	exec(t, frozen, "begin")
	exec(t, frozen, "insert into effects values ($1)", c.ID)
	exec(t, frozen, "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
	pgtest.Advance(t, db, time.Minute)
	pgtest.Expire(t, db)
	require.Equal(t, "running 1", stateOf(t, db, c.ID))
	require.Eventually(t, func() bool {
		return one[int](t, db.Pool, "select count(*) from pg_stat_activity where pid = $1", frozen.PgConn().PID()) == 0
	}, patience, 20*time.Millisecond)
	require.Equal(t, 1, rescue(t, db))
	_, err := frozen.Exec(t.Context(), "commit")
	require.Error(t, err)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from effects"))
}

func TestFinishInTransaction_EffectAndCompletionCommitTogether(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "create table effects (job_id bigint)")
	_, c := held(t, db)
	task := session(t, db)
	work := func(end, state string, effects int) {
		exec(t, task, "begin")
		exec(t, task, "insert into effects values ($1)", c.ID)
		exec(t, task, `select pgtick.finish_in_transaction($1, $2, '{"sent": true}')`, c.ID, c.Fence)
		require.Equal(t, "running 1", stateOf(t, db, c.ID), "nobody sees it before the commit")
		exec(t, task, end)
		require.Equal(t, state, stateOf(t, db, c.ID))
		require.Equal(t, effects, one[int](t, db.Pool, "select count(*) from effects"))
	}
	work("rollback", "running 1", 0)
	exec(t, db.Pool, "select pgtick.progress($1, $2, 0.5, 'half')", c.ID, c.Fence)
	work("commit", "done 1", 1)
	require.Equal(t, `{"sent": true} 0.5 half`, one[string](t, db.Pool, "select concat_ws(' ', result, progress, note) from pgtick.jobs where id = $1", c.ID))
	refused(t, db.Pool, "TK001", "select pgtick.finish_in_transaction($1, $2)", c.ID, c.Fence)
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.jobs where id = $1", c.ID))
}

// The answer to the commit may be lost: the worker then reports an error, and the job stays done.
func TestFinishInTransaction_ThenAnErrorUnderTheSameFence_ChangesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	exec(t, db.Pool, "select pgtick.finish_in_transaction($1, $2)", c.ID, c.Fence)
	before := everything(t, db, c.ID)
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("error").because("commit: connection lost")))
	require.Equal(t, before, everything(t, db, c.ID))
}

// Whatever a job goes through, each look at pgtick.jobs shows it exactly once.
func TestJobs_AreSeenExactlyOnce_WhileTheyMove(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ids := enqueue(t, db, "echo", 20)
	looking := session(t, db)
	stop := make(chan struct{})
	var looks, wrong int
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				looks++
				if one[int](t, looking, "select count(*) from pgtick.jobs where id = any ($1)", ids) != len(ids) {
					wrong++
				}
			}
		}
	})
	r := register(t, db, "r", "echo")
	for range 6 {
		for _, c := range r.claim(t, db.Pool, 10) {
			exec(t, db.Pool, "select pgtick.finish_in_transaction($1, $2)", c.ID, c.Fence)
		}
		for i, c := range r.claim(t, db.Pool, 10) {
			r.finish(t, db.Pool, c.is([]string{"failed", "error", "cancelled", "done", "snoozed"}[i%5]))
		}
		exec(t, db.Pool, "select pgtick.cancel(id) from pgtick.jobs where state = 'ready'")
		exec(t, db.Pool, "select pgtick.retry(id) from pgtick.jobs where state in ('failed', 'cancelled')")
	}
	close(stop)
	reader.Wait()
	require.Zero(t, wrong)
	require.Greater(t, looks, 20)
}
