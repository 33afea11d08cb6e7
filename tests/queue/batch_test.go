package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// What a report says of one job is never written to another one, in whatever order those that end and those that wait again come.
func TestFinish_ABatchOfAllOutcomes_EachJobHasItsOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	enqueue(t, db, "echo", 10)
	exec(t, db.Pool, "update pgtick.live_jobs set max_attempts = 1 where id = (select max(id) from pgtick.live_jobs)")
	pgtest.Advance(t, db, time.Second)
	r := register(t, db, "r", "echo")
	c := r.claim(t, db.Pool, 10)
	exec(t, db.Pool, "select pgtick.checkpoint($1, $2, '0')", c[0].ID, c[0].Fence)
	exec(t, db.Pool, "select pgtick.progress($1, $2, 0.1, 'one')", c[1].ID, c[1].Fence)
	require.Equal(t, "running", one[string](t, db.Pool, "select pgtick.cancel($1)", c[8].ID))
	later := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	r.finish(t, db.Pool,
		c[0].is("error").because("e0").again(later(10)),
		c[1].is("done").with("1"),
		c[2].is("failed").because("e2"),
		c[3].is("snoozed").again(later(13)),
		c[4].is("released").because("e4"),
		c[5].is("done").with("5"),
		c[6].is("released"),
		c[7].is("cancelled"),
		c[8].is("error").because("e8").again(later(18)),
		c[9].is("error").because("e9").again(later(19)))
	require.Equal(t, []string{
		"ready, attempt 1, run_at 10:00, e0, checkpoint 0",
		"done, attempt 1, run_at 00:00, result 1, note one",
		"failed, attempt 1, run_at 00:00, e2",
		"ready, attempt 1, run_at 13:00",
		"ready, attempt 1, run_at 00:01, e4", // now
		"done, attempt 1, run_at 00:00, result 5",
		"ready, attempt 0, run_at 00:00", // it keeps its place
		"cancelled, attempt 1, run_at 00:00",
		"cancelled, attempt 1, run_at 00:00, e8",
		"failed, attempt 1, run_at 00:00, e9",
	}, all[string](t, db.Pool, `select concat_ws(', ', j.state, 'attempt ' || j.attempt, 'run_at ' || to_char(j.run_at - $1::timestamptz, 'MI:SS'),
			(select a.error ->> 'message' from pgtick.attempts as a where a.job_id = j.id), 'result ' || j.result::text,
			'checkpoint ' || (select n.checkpoint::text from pgtick.job_notes as n where n.job_id = j.id), 'note ' || j.note)
		from pgtick.jobs as j order by j.id`, now))
}

// Where one of a batch is no longer the runner's own, what is said of the others stays theirs.
func TestFinish_ABatchThatIsPartlyLost_EachOtherJobHasItsOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 3)
	r := register(t, db, "r", "echo")
	c := r.claim(t, db.Pool, 3)
	stale := c[0]
	stale.Fence--
	require.Equal(t, []string{"refused", "accepted", "accepted"},
		r.finish(t, db.Pool, stale.is("done").with("0"), c[1].is("failed").because("e1"), c[2].is("done").with("2")))
	require.Equal(t, []string{"running", "failed e1", "done 2"}, all[string](t, db.Pool,
		"select concat_ws(' ', j.state, (select a.error ->> 'message' from pgtick.attempts as a where a.job_id = j.id), j.result) from pgtick.jobs as j order by j.id"))
}

// All jobs of a claim have one fence, so that alone does not tell whose report it is.
func TestFinish_OfALostJob_WhenAnotherOfItsClaimHasEnded_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 2)
	r := register(t, db, "r", "echo")
	c := r.claim(t, db.Pool, 2)
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c[0].is("done")))
	kill(t, db)
	require.Equal(t, []string{"accepted", "refused"}, r.finish(t, db.Pool, c[0].is("done"), c[1].is("done")))
	require.Equal(t, 1, one[int](t, db.Pool, "select refused from pgtick.runners where id = $1", r.id))
	require.Equal(t, "ready 1", stateOf(t, db, c[1].ID))
}

func TestFinish_OfOneWithAProgressNote_IsNoCancellation_NorAreThoseOfOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 3)
	r := register(t, db, "r", "echo")
	c := r.claim(t, db.Pool, 3)
	exec(t, db.Pool, "select pgtick.progress($1, $2, 0.1)", c[0].ID, c[0].Fence)
	require.Equal(t, "running", one[string](t, db.Pool, "select pgtick.cancel($1)", c[1].ID))
	r.finish(t, db.Pool, c[0].is("error"), c[1].is("error"), c[2].is("error"))
	require.Equal(t, []string{"ready", "cancelled", "ready"}, all[string](t, db.Pool, "select state from pgtick.jobs order by id"))
}

// A progress report has a connection of its own, and may be on its way while the job ends.
func TestFinish_WhileAProgressReportIsOnItsWay_DoesNotWait_AndRescueClearsUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	enqueue(t, db, "echo", 1) // another job that lives keeps nobody's notes
	exec(t, db.Pool, "select pgtick.progress($1, $2, 0.1)", c.ID, c.Fence)
	reporting, impatient := session(t, db), session(t, db)
	exec(t, reporting, "begin")
	exec(t, reporting, "select pgtick.progress($1, $2, 0.2)", c.ID, c.Fence)
	exec(t, impatient, pgtest.WaitForNobody)
	require.Equal(t, []string{"accepted"}, r.finish(t, impatient, c.is("done")))
	exec(t, impatient, "select pgtick.rescue()")
	exec(t, reporting, "commit")
	require.Equal(t, "done 1", stateOf(t, db, c.ID))
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.job_notes"))
	rescue(t, db)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.job_notes"))
}
