package ties

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// batch makes one with n jobs of the task member, in one transaction.
func batch(t *testing.T, db *pgtest.DB, n int, settings string) (id, callback int64, members []int64) {
	t.Helper()
	conn := session(t, db)
	exec(t, conn, "begin")
	id = one[int64](t, conn, "select pgtick.create_batch('callback'"+settings+")")
	members = all[int64](t, conn, "select pgtick.enqueue_many('member', array_fill('{}'::jsonb, array[$1::int]), p_batch_id => $2)", n, id)
	exec(t, conn, "commit")
	return id, one[int64](t, db.Pool, "select job_id from pgtick.batches where id = $1", id), members
}

func inBatch(id int64) string { return fmt.Sprintf("p_batch_id => %d", id) }

func TestBatch_TheCallbackRuns_WhenAllHaveEnded_AndFindsTheirResults(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, _ := batch(t, db, 3, "")
	claims := r.claim(t, db.Pool, 10)
	require.Len(t, claims, 3)
	require.Equal(t, "ready after batch", state(t, db.Pool, callback))
	r.finish(t, db.Pool, claims[0], "failed")
	exec(t, db.Pool, `select pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{done}', array['{"sum": 7}'::jsonb])`, r.id, claims[1].id, claims[1].fence)
	require.Empty(t, r.claim(t, db.Pool, 1))
	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	r.finish(t, db.Pool, claims[2], "cancelled")
	require.Equal(t, []string{"default"}, ear.heard(t))
	c := r.take(t, db.Pool, callback)
	require.Equal(t, "0 1 1 1", one[string](t, db.Pool, "select concat_ws(' ', live, done, failed, cancelled) from pgtick.batches where job_id = $1 and finished_at is not null", callback))
	require.Equal(t, []string{`{"sum": 7}`}, all[string](t, db.Pool, "select result::text from pgtick.jobs where batch_id = $1 and state = 'done'", id))
	r.finish(t, db.Pool, c, "done")
	clean(t, db)
}

func TestBatch_WithOutcomeDone_OneThatFails_CancelsTheCallback_WhenAllHaveEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, _ := batch(t, db, 2, ", p_outcome => 'done'")
	next := enqueue(t, db.Pool, "echo", after(callback))
	claims := r.claim(t, db.Pool, 10)
	r.finish(t, db.Pool, claims[0], "failed")
	require.Equal(t, "ready after batch", state(t, db.Pool, callback))
	r.finish(t, db.Pool, claims[1], "done")
	require.Equal(t, []string{"cancelled", "cancelled"}, states(t, db.Pool, callback, next))
	require.Equal(t, fmt.Sprintf("a job of batch %d has failed or was cancelled", id), lastError(t, db.Pool, callback))
	clean(t, db)
}

func TestBatch_WithOutcomeDone_AMemberThatWasRetried_CountsAsItEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	_, callback, members := batch(t, db, 2, ", p_outcome => 'done'")
	claims := r.claim(t, db.Pool, 10)
	r.finish(t, db.Pool, claims[0], "failed")
	exec(t, db.Pool, "select pgtick.retry($1)", members[0])
	r.finish(t, db.Pool, claims[1], "done")
	r.do(t, db.Pool, members[0], "done")
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

func TestBatch_MayGrow_WhileAJobOfItLives_AndNotAfter(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, members := batch(t, db, 1, "")
	c := r.take(t, db.Pool, members[0])
	task := session(t, db)
	exec(t, task, "begin")
	more := enqueue(t, task, "member", inBatch(id))
	exec(t, task, "select pgtick.finish_in_transaction($1, $2)", c.id, c.fence)
	exec(t, task, "commit")
	r.do(t, db.Pool, more, "done")
	pg := refused(t, db.Pool, "TK005", "select pgtick.enqueue('member', "+inBatch(id)+")")
	require.Contains(t, pg.Message, fmt.Sprintf("batch %d has ended", id))
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

// Who adds a job has the batch locked until they commit: the last one before cannot end it, and what it leaves behind rescue() finds.
func TestBatch_AnOpenEnqueue_IsNotOvertakenByTheEnd(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"commit", "rollback"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := register(t, db.Pool)
			id, callback, members := batch(t, db, 1, "")
			enqueuer := session(t, db)
			exec(t, enqueuer, "begin")
			more := enqueue(t, enqueuer, "member", inBatch(id))
			r.do(t, db.Pool, members[0], "done")
			exec(t, enqueuer, end)
			require.Equal(t, "ready after batch", state(t, db.Pool, callback))
			rescue(t, db.Pool)
			if end == "commit" {
				r.do(t, db.Pool, more, "done")
			}
			r.do(t, db.Pool, callback, "done")
			clean(t, db)
		})
	}
}

// Nor is who brings one back.
func TestBatch_AnOpenRetry_IsNotOvertakenByTheEnd(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	_, callback, _ := batch(t, db, 2, "")
	claims := r.claim(t, db.Pool, 10)
	r.finish(t, db.Pool, claims[0], "failed")
	retrier := session(t, db)
	exec(t, retrier, "begin")
	exec(t, retrier, "select pgtick.retry($1)", claims[0].id)
	r.finish(t, db.Pool, claims[1], "done")
	exec(t, retrier, "commit")
	require.Equal(t, "ready after batch", state(t, db.Pool, callback))
	rescue(t, db.Pool)
	r.do(t, db.Pool, claims[0].id, "done")
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

func TestBatch_AnOpenRetryOfItsCallback_IsNotOvertakenByTheEnd(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, members := batch(t, db, 1, "")
	exec(t, db.Pool, "select pgtick.cancel($1)", callback)
	retrier := session(t, db)
	exec(t, retrier, "begin")
	exec(t, retrier, "select pgtick.retry($1)", callback)
	r.do(t, db.Pool, members[0], "done")
	require.Nil(t, one[*string](t, db.Pool, "select finished_at::text from pgtick.batches where id = $1", id), "its end is what the callback waits for")
	exec(t, retrier, "commit")
	rescue(t, db.Pool)
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

func TestBatch_TheCallbackOfOneThatHasEnded_MayBeRetriedAtAnyIsolation(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	_, callback, members := batch(t, db, 1, "")
	r.do(t, db.Pool, members[0], "done")
	r.do(t, db.Pool, callback, "failed")
	conn := session(t, db)
	exec(t, conn, "begin isolation level repeatable read")
	exec(t, conn, "select pgtick.retry($1)", callback)
	exec(t, conn, "commit")
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

// Beside another one that is open and has had a failure, and beside a job that somebody has locked.
func TestBatch_EndsAlone(t *testing.T) {
	t.Parallel()
	for _, outcome := range []string{"done", "failed"} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := register(t, db.Pool)
			older, olderCallback, _ := batch(t, db, 2, ", p_outcome => 'done'")
			r.finish(t, db.Pool, r.claim(t, db.Pool, 1)[0], "failed")
			running := r.claim(t, db.Pool, 1)[0]
			id, callback, members := batch(t, db, 1, ", p_outcome => 'done'")
			c := r.take(t, db.Pool, members[0])
			locking := session(t, db)
			exec(t, locking, "begin")
			exec(t, locking, "select from pgtick.live_jobs where id = $1 for update", running.id)
			r.finish(t, db.Pool, c, outcome)
			require.Equal(t, []int64{id}, all[int64](t, db.Pool, "select id from pgtick.batches where finished_at is not null"))
			require.Equal(t, map[string]string{"done": "ready", "failed": "cancelled"}[outcome], state(t, db.Pool, callback))
			require.Equal(t, "ready after batch", state(t, db.Pool, olderCallback))
			exec(t, locking, "rollback")
			r.finish(t, db.Pool, running, "done")
			require.Equal(t, "cancelled", state(t, db.Pool, olderCallback))
			require.NotNil(t, one[*string](t, db.Pool, "select finished_at::text from pgtick.batches where id = $1", older))
		})
	}
}

func TestBatch_ThatHasEnded_DoesNotEndAgain_WhenOneOfItIsRetried(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, members := batch(t, db, 1, "")
	r.do(t, db.Pool, members[0], "failed")
	const ended = "select finished_at::text from pgtick.batches where id = $1"
	before := one[string](t, db.Pool, ended, id)
	r.do(t, db.Pool, callback, "done")
	pgtest.Advance(t, db, time.Minute)
	exec(t, db.Pool, "select pgtick.retry($1)", members[0])
	r = register(t, db.Pool)
	r.do(t, db.Pool, members[0], "done")
	require.Equal(t, before, one[string](t, db.Pool, ended, id))
	clean(t, db)
}

// Each of the two sees the other's as live: the one waits for a tenth of a second, and then leaves it to rescue.
func TestBatch_TheLastTwoEndAtOnce_NothingIsMissed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	_, callback, _ := batch(t, db, 2, "")
	claims := r.claim(t, db.Pool, 10)
	task := session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.finish_in_transaction($1, $2)", claims[0].id, claims[0].fence)
	r.finish(t, db.Pool, claims[1], "done")
	exec(t, task, "commit")
	rescue(t, db.Pool)
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

// Somebody has the callback's row locked just then: the batch does not end past it.
func TestBatch_ACallbackThatIsLockedAtTheEnd_IsSeenToByRescue(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[string]string{"done": "ready", "failed": "cancelled"} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := register(t, db.Pool)
			_, callback, members := batch(t, db, 1, ", p_outcome => 'done'")
			locking := session(t, db)
			exec(t, locking, "begin")
			exec(t, locking, "select from pgtick.live_jobs where id = $1 for update", callback)
			r.do(t, db.Pool, members[0], outcome)
			exec(t, locking, "commit")
			require.Equal(t, "ready after batch", state(t, db.Pool, callback))
			rescue(t, db.Pool)
			require.Equal(t, want, state(t, db.Pool, callback))
		})
	}
}

func TestBatch_WithoutJobs_EndsWithTheNextRescue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	_, callback, _ := batch(t, db, 0, "")
	require.Empty(t, r.claim(t, db.Pool, 1))
	rescue(t, db.Pool)
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

func TestBatch_CancelAndLossOfItsJobs_EndIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, _ := batch(t, db, 50, "")
	c := r.claim(t, db.Pool, 1)[0]
	require.Equal(t, 50, one[int](t, db.Pool, "select pgtick.cancel_where(jsonb_build_object('batch', $1::bigint))", id))
	require.Equal(t, "ready after batch", state(t, db.Pool, callback), "one runs still")
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	r = register(t, db.Pool)
	r.do(t, db.Pool, c.id, "cancelled")
	r.do(t, db.Pool, callback, "done")
	require.Equal(t, 50, one[int](t, db.Pool, "select cancelled from pgtick.batches where id = $1", id))
	clean(t, db)
}

func TestBatch_ACallbackThatWasCancelled_WaitsAgainWhenRetried(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	_, callback, members := batch(t, db, 1, "")
	exec(t, db.Pool, "select pgtick.cancel($1)", callback)
	exec(t, db.Pool, "select pgtick.retry($1)", callback)
	require.Equal(t, "ready after batch", state(t, db.Pool, callback))
	r.do(t, db.Pool, members[0], "done")
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

func TestBatch_WithoutItsCallback_EndsQuietly(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, members := batch(t, db, 1, "")
	exec(t, db.Pool, "select pgtick.cancel($1)", callback)
	r.do(t, db.Pool, members[0], "done")
	require.True(t, one[bool](t, db.Pool, "select finished_at is not null from pgtick.batches where id = $1", id))
	exec(t, db.Pool, "select pgtick.retry($1)", callback)
	r.do(t, db.Pool, callback, "done")
	clean(t, db)
}

func TestBatch_AJobThatWouldWaitForItself_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id, callback, _ := batch(t, db, 1, "")
	refused(t, db.Pool, "TK021", "select pgtick.enqueue('member', "+inBatch(id)+", "+after(callback)+")")
	far := enqueue(t, db.Pool, "echo", after(enqueue(t, db.Pool, "echo", after(callback))), "p_sequence_key => 'k'")
	pg := refused(t, db.Pool, "TK021", "select pgtick.enqueue_many('member', array['{}']::jsonb[], "+inBatch(id)+", "+after(far)+")")
	require.Contains(t, pg.Message, fmt.Sprintf("job %d", far))
	refused(t, db.Pool, "TK021", "select pgtick.enqueue('member', "+inBatch(id)+", p_sequence_key => 'k')")
	enqueue(t, db.Pool, "member", inBatch(id), "p_sequence_key => 'another'")
	behind := enqueue(t, db.Pool, "echo", "p_sequence_key => 'k'")
	require.Contains(t, refused(t, db.Pool, "TK021", "select pgtick.enqueue('member', "+inBatch(id)+", "+after(behind)+")").Message, fmt.Sprintf("job %d", behind))

	nested := one[int64](t, db.Pool, "select pgtick.create_batch('callback')")
	enqueue(t, db.Pool, "member", inBatch(nested), after(callback))
	outer := one[int64](t, db.Pool, "select job_id from pgtick.batches where id = $1", nested)
	refused(t, db.Pool, "TK021", "select pgtick.enqueue('member', "+inBatch(id)+", "+after(outer)+")")
}

func TestBatch_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for field, call := range map[string]string{"outcome": "'c', p_outcome => 'none'", "outcome null": "'c', p_outcome => null", "task": "''", "args": "'c', '[]'", "priority": "'c', p_priority => 10",
		"retry_policy": "'c', p_retry_policy => '{}'", "timeout": "'c', p_timeout => '0'"} {
		require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick.create_batch("+call+")").Message, field)
	}
	require.Contains(t, refused(t, db.Pool, "TK000", `select pgtick.create_batch('sql', '{"function": "public.unlisted"}')`).Message, "args.function")
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

func TestBatch_AJobThatWaitsForWhatHasNothingToDoWithIt_IsNoLoop(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db.Pool, "echo", inSequence)
	elsewhere := enqueue(t, db.Pool, "echo", inSequence)
	member := enqueue(t, db.Pool, "member", inBatch(one[int64](t, db.Pool, "select pgtick.create_batch('callback')")), after(elsewhere))
	require.Equal(t, "ready after after", state(t, db.Pool, member))
}

// Each of two that end the last two jobs at once would still see the other's: they take turns, or leave it to rescue(), which need not look at
// everything for that.
func TestBatch_WhoseLastTwoJobsEndAtOnce_Ends(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	_, callback, _ := batch(t, db, 2, "")
	rescue(t, db.Pool) // it was noted, in case that no job came
	c := r.claim(t, db.Pool, 2, "member")
	first, second := session(t, db), session(t, db)
	exec(t, first, "begin")
	r.finish(t, first, c[0], "done")
	ended := inBackground(t, second, "select pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{done}')", r.id, c[1].id, c[1].fence)
	hasEnded := false
	require.Eventually(t, func() bool {
		select {
		case err := <-ended: // it waits for no longer than a tenth of a second
			hasEnded = true
			require.NoError(t, err)
		default:
		}
		return hasEnded || one[bool](t, db.Pool, "select exists (select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock')", second.PgConn().PID())
	}, patience, time.Millisecond)
	exec(t, first, "commit")
	if !hasEnded {
		require.NoError(t, <-ended)
	}
	rescue(t, db.Pool)
	r.take(t, db.Pool, callback)
}
