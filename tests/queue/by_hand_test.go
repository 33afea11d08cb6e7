package queue

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func cancel(t *testing.T, q asker, id int64) string {
	t.Helper()
	return one[string](t, q, "select pgtick.cancel($1)", id)
}

func retry(t *testing.T, q asker, id int64) string {
	t.Helper()
	return one[string](t, q, "select pgtick.retry($1)", id)
}

func TestCancel_AWaitingJob_EndsIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '1 hour')")
	require.Equal(t, "cancelled", cancel(t, db.Pool, id))
	require.Equal(t, "cancelled 0", stateOf(t, db, id))
	require.Equal(t, now, one[time.Time](t, db.Pool, "select finished_at from pgtick.jobs where id = $1", id).UTC())
	require.Equal(t, "cancelled by postgres", one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1", id))
	require.Empty(t, attemptsOf(t, db, id), "it was never tried")
	require.Equal(t, "cancelled", cancel(t, db.Pool, id), "again")
}

func TestCancel_ARunningJob_NotesTheRequest_AndTellsItsRunner(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	stops := listen(t, db, "pgtick_stop")
	r, c := held(t, db)
	require.Equal(t, "running", cancel(t, db.Pool, c.ID))
	require.Equal(t, "running 1", stateOf(t, db, c.ID))
	require.Equal(t, []string{strconv.FormatInt(r.id, 10)}, stops.heard(t))
	require.Equal(t, map[int64]string{c.ID: "cancelled"}, r.heartbeat(t, db.Pool, c))
	require.Equal(t, "running", cancel(t, db.Pool, c.ID), "again")
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("cancelled")))
	require.Equal(t, "cancelled 1", stateOf(t, db, c.ID))
	require.Equal(t, "cancelled", cancel(t, db.Pool, c.ID))
}

func TestCancel_WhileATasksTransactionHoldsTheJob_DoesNotWait(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	task, impatient := session(t, db), session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
	exec(t, impatient, pgtest.WaitForNobody)
	require.Equal(t, "running", cancel(t, impatient, c.ID))
	exec(t, task, "commit")
	require.Equal(t, map[int64]string{c.ID: "cancelled"}, r.heartbeat(t, db.Pool, c))
}

func TestCancel_OfWhatHasEnded_ReturnsItsState(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, outcome := range []string{"done", "failed", "cancelled"} {
		r, c := held(t, db)
		r.finish(t, db.Pool, c.is(outcome))
		before := everything(t, db, c.ID)
		require.Equal(t, outcome, cancel(t, db.Pool, c.ID))
		require.Equal(t, before, everything(t, db, c.ID))
	}
}

func TestCancelAndRetry_OfNoJob_AreRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, function := range []string{"cancel", "retry"} {
		for _, id := range []any{4711, -1, nil} {
			refused(t, db.Pool, "TK004", "select pgtick."+function+"($1)", id)
		}
	}
}

func TestCancel_ByAnEndUser_TellsWho(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.AddJob(t, db, "echo")
	request := session(t, db)
	exec(t, request, `select set_config('request.jwt.claims', '{"sub": "7f2c1c2e-5c6c-4b1e-9d9e-111111111111"}', false)`)
	cancel(t, request, id)
	require.Equal(t, "cancelled by 7f2c1c2e-5c6c-4b1e-9d9e-111111111111", one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1", id))
}

func TestRetry_OfAnEndedJob_GoesOnWithTheAttempts_AndAllowsOneMore(t *testing.T) {
	t.Parallel()
	for _, outcome := range []string{"failed", "cancelled"} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			now := freeze(t, db)
			id := one[int64](t, db.Pool, `select pgtick.enqueue('echo', '{"a": 1}', p_max_attempts => 2, p_priority => 3, p_owner_id => '7f2c1c2e-5c6c-4b1e-9d9e-111111111111')`)
			r := register(t, db, "r", "echo")
			r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("error").again(now))
			r.finish(t, db.Pool, r.claimOne(t, db.Pool).is(outcome).because("the second"))
			pgtest.Advance(t, db, 10*time.Second)
			require.Equal(t, "ready", retry(t, db.Pool, id))
			require.Equal(t, "ready 2", stateOf(t, db, id))
			require.Equal(t, `3 {"a": 1} 3 00:00:00 the second`, one[string](t, db.Pool,
				"select concat_ws(' ', max_attempts, args, priority, run_at - pgtick.now(), last_error ->> 'message') from pgtick.jobs where id = $1 and owner_id is not null", id))
			require.Equal(t, []string{"1 error", "2 " + outcome}, attemptsOf(t, db, id), "the last attempt is one of the earlier ones now")
			c := r.claimOne(t, db.Pool)
			require.Equal(t, 3, c.Attempt)
			r.finish(t, db.Pool, c.is("error"))
			require.Equal(t, "failed 3", stateOf(t, db, id), "one more, not two")
			require.Equal(t, []string{"1 error", "2 " + outcome, "3 failed"}, attemptsOf(t, db, id))
		})
	}
}

func TestRetry_WhereAttemptsAreLeft_AddsNone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	r.finish(t, db.Pool, c.is("failed"))
	retry(t, db.Pool, c.ID)
	require.Equal(t, 20, one[int](t, db.Pool, "select max_attempts from pgtick.jobs where id = $1", c.ID))
}

func TestRetry_OfAWaitingJob_MakesItDueNow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '1 hour')")
	require.Equal(t, "ready", retry(t, db.Pool, id))
	require.Equal(t, now, one[time.Time](t, db.Pool, "select run_at from pgtick.jobs where id = $1", id).UTC())
	require.Equal(t, id, register(t, db, "r", "echo").claimOne(t, db.Pool).ID)
}

func TestRetry_OfAJobThatIsDueAlready_KeepsItsPlace(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	ids := enqueue(t, db, "echo", 2)
	pgtest.Advance(t, db, time.Minute)
	require.Equal(t, "ready", retry(t, db.Pool, ids[0]))
	require.Equal(t, ids, idsOf(register(t, db, "r", "echo").claim(t, db.Pool, 2)))
}

// The second retry's clock starts after it has waited for the first, which then takes back what it did.
func TestRetry_ThatWaited_IsNotBackDated(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	r.finish(t, db.Pool, c.is("failed"))
	one, two := session(t, db), session(t, db)
	exec(t, one, "begin")
	retry(t, one, c.ID)
	second := inBackground(t, two, "select pgtick.retry($1)", c.ID)
	awaitLock(t, db, two)
	var rolledBack time.Time
	require.NoError(t, one.QueryRow(t.Context(), "select clock_timestamp()").Scan(&rolledBack))
	exec(t, one, "rollback")
	require.NoError(t, <-second)
	var runAt time.Time
	require.NoError(t, db.Pool.QueryRow(t.Context(), "select run_at from pgtick.jobs where id = $1", c.ID).Scan(&runAt))
	require.False(t, runAt.Before(rolledBack), "%s is before %s", runAt, rolledBack)
}

func TestRetry_OfAJobThatWasCancelledBeforeItsFirstAttempt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.AddJob(t, db, "echo")
	cancel(t, db.Pool, id)
	retry(t, db.Pool, id)
	require.Equal(t, "ready 0", stateOf(t, db, id))
	require.Empty(t, attemptsOf(t, db, id))
	require.Equal(t, 1, register(t, db, "r", "echo").claimOne(t, db.Pool).Attempt)
}

// Whoever cancelled the last life of a job has not cancelled this one.
func TestRetry_ForgetsAnEarlierCancelRequest(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	cancel(t, db.Pool, c.ID)
	note := session(t, db)
	exec(t, note, "begin")
	exec(t, note, "select from pgtick.job_notes where job_id = $1 for update", c.ID) // as a cancel does that comes just now
	r.finish(t, db.Pool, c.is("failed"))
	exec(t, note, "commit")
	retry(t, db.Pool, c.ID)
	c = r.claimOne(t, db.Pool)
	require.Empty(t, r.heartbeat(t, db.Pool, c))
	r.finish(t, db.Pool, c.is("error"))
	require.Equal(t, "ready 2", stateOf(t, db, c.ID))
}

func TestRetry_OfARunningOrDoneJob_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	require.Contains(t, refused(t, db.Pool, "TK005", "select pgtick.retry($1)", c.ID).Message, fmt.Sprintf("job %d is running", c.ID))
	r.finish(t, db.Pool, c.is("done"))
	before := everything(t, db, c.ID)
	require.Contains(t, refused(t, db.Pool, "TK005", "select pgtick.retry($1)", c.ID).Message, fmt.Sprintf("job %d is done", c.ID))
	require.Equal(t, before, everything(t, db, c.ID))
}

func TestRetry_TwiceAtOnce_MakesOneJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	r.finish(t, db.Pool, c.is("failed"))
	one, two := session(t, db), session(t, db)
	exec(t, one, "begin")
	require.Equal(t, "ready", retry(t, one, c.ID))
	second := inBackground(t, two, "select pgtick.retry($1)", c.ID)
	awaitLock(t, db, two)
	exec(t, one, "commit")
	if err := <-second; err != nil {
		pg := requireCode(t, err, "TK005", "retry")
		require.NotContains(t, pg.Hint, "Enqueue", "a second job is the last thing to advise")
	}
	require.Equal(t, "ready 1", stateOf(t, db, c.ID))
}

// Whoever claims it just then has its row locked.
func TestCancelAndRetry_OfAJobThatIsBeingClaimed_DoNotWait(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.AddJob(t, db, "echo")
	claiming, impatient := session(t, db), session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	r := register(t, db, "r", "echo")
	exec(t, claiming, "begin")
	c := r.claimOne(t, claiming)
	require.Contains(t, refused(t, impatient, "TK005", "select pgtick.retry($1)", id).Hint, "being claimed")
	require.Equal(t, "running", cancel(t, impatient, id))
	exec(t, claiming, "commit")
	require.Equal(t, map[int64]string{id: "cancelled"}, r.heartbeat(t, db.Pool, c))
}

// A job that has nothing to do with others may be retried at any isolation level, and comes back as it was: what else there is makes no difference.
func TestRetry_OfAJobThatIsTiedToNoOther_ConcernsItAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	exec(t, db.Pool, "select pgtick.create_batch('callback')")
	enqueue(t, db, "echo", 2)
	r := register(t, db, "r", "echo")
	claims := r.claim(t, db.Pool, 2)
	exec(t, db.Pool, "select pgtick.checkpoint($1, $2, '7')", claims[1].ID, claims[1].Fence)
	r.finish(t, db.Pool, claims[0].is("failed"))
	conn := session(t, db)
	exec(t, conn, "begin isolation level repeatable read")
	require.Equal(t, "ready", retry(t, conn, claims[0].ID))
	exec(t, conn, "commit")
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.job_notes where checkpoint = '7'"))
	require.Equal(t, []int64{claims[0].ID}, idsOf(r.claim(t, db.Pool, 5)))
	r.finish(t, db.Pool, lastClaim(t, db, claims[0].ID).is("error").again(now.Add(time.Hour)))
	require.True(t, one[bool](t, db.Pool, "select pgtick.cancel($1) = 'cancelled'", claims[0].ID))
	require.Equal(t, now.Add(time.Hour), one[time.Time](t, db.Pool, "select run_at from pgtick.jobs where id = $1", claims[0].ID).UTC(), "not when it was brought back")
}
