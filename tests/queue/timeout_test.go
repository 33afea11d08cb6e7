package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// quietHeartbeat renews the lease and names nothing, as a simple worker in another language may.
func (r runner) quietHeartbeat(t *testing.T, db *pgtest.DB) {
	t.Helper()
	exec(t, db.Pool, "select * from pgtick.heartbeat($1)", r.id)
}

const timeout = time.Minute

// heldFor is one job with a timeout of a minute and what more is said of it, claimed by a runner. The clock stands still.
func heldFor(t *testing.T, db *pgtest.DB, more string) (runner, claim) {
	t.Helper()
	freeze(t, db)
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_timeout => '1 minute'"+more+")")
	r := register(t, db, "deaf", "echo")
	return r, r.claimOne(t, db.Pool)
}

// A runner that lives and does not end an attempt in time has lost it a lease later: a frozen worker thread must not keep a job for ever.
func TestTimeout_IgnoredByALivingRunner_RescueTakesTheClaim(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, `, p_retry_policy => '{"kind": "linear", "step": "7 minutes"}'`)
	for range 4 { // up to a moment before timeout and lease are over
		r.heartbeat(t, db.Pool, c)
		require.Zero(t, rescue(t, db))
		pgtest.Advance(t, db, (timeout+lease)/4-time.Microsecond)
	}
	require.Equal(t, map[int64]string{c.ID: "timed_out"}, r.heartbeat(t, db.Pool, c))
	require.Zero(t, rescue(t, db), "not before")
	require.Equal(t, "running 1", stateOf(t, db, c.ID))
	pgtest.Advance(t, db, 4*time.Microsecond)
	require.Equal(t, 1, rescue(t, db))
	require.Zero(t, rescue(t, db), "once")

	require.Equal(t, "ready 1", stateOf(t, db, c.ID))
	require.Equal(t, []string{"1 error"}, attemptsOf(t, db, c.ID))
	require.Contains(t, one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1", c.ID), "longer than its timeout of 00:01:00")
	require.Equal(t, "0 00:07:00", one[string](t, db.Pool, "select uncounted || ' ' || (run_at - pgtick.now()) from pgtick.jobs where id = $1", c.ID), "it counts, and is tried again by the policy")
	require.Equal(t, "alive", aliveAs(t, db, r))

	before := everything(t, db, c.ID)
	for _, outcome := range []string{"done", "failed", "error", "snoozed", "released", "cancelled"} {
		require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, c.is(outcome)), outcome)
	}
	requireFenced(t, db, c)
	require.Equal(t, map[int64]string{c.ID: "fenced"}, r.heartbeat(t, db.Pool, c))
	require.Equal(t, before, everything(t, db, c.ID))
	pgtest.Advance(t, db, 7*time.Minute)
	require.Equal(t, c.ID, register(t, db, "next", "echo").claimOne(t, db.Pool).ID)
}

func TestTimeout_OfTheLastAttempt_FailsTheJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, ", p_max_attempts => 1")
	r.heartbeat(t, db.Pool, c)
	pgtest.Advance(t, db, timeout+lease)
	r.heartbeat(t, db.Pool, c)
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "failed 1", stateOf(t, db, c.ID))
	require.Contains(t, one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1", c.ID), "longer than its timeout")
	require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, c.is("done")), "history does not know that fence: nobody can claim to have ended it")
	requireFenced(t, db, c)
}

func TestTimeout_WithACancelRequest_EndsCancelled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, "")
	require.Equal(t, "running", cancel(t, db.Pool, c.ID))
	r.heartbeat(t, db.Pool, c)
	pgtest.Advance(t, db, timeout+lease)
	r.heartbeat(t, db.Pool, c)
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "cancelled 1", stateOf(t, db, c.ID))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.job_notes"))
}

func TestTimeout_WithACancelRequestForAnotherJob_OrAProgressReport_IsTriedAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_timeout => '1 minute') from generate_series(1, 3)")
	r := register(t, db, "deaf", "echo")
	claims := r.claim(t, db.Pool, 3)
	require.Equal(t, "running", cancel(t, db.Pool, claims[0].ID))
	exec(t, db.Pool, "select pgtick.progress($1, $2, 0.5)", claims[1].ID, claims[1].Fence)
	r.heartbeat(t, db.Pool, claims...)
	pgtest.Advance(t, db, timeout+lease)
	r.heartbeat(t, db.Pool, claims...)
	require.Equal(t, 3, rescue(t, db))
	require.Equal(t, []string{"cancelled 1", "ready 1", "ready 1"}, []string{stateOf(t, db, claims[0].ID), stateOf(t, db, claims[1].ID), stateOf(t, db, claims[2].ID)})
}

func TestTimeout_OfOneOfAClaim_LeavesTheOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_timeout => x.timeout) from unnest('{1 minute,1 hour,1 minute}'::interval[]) as x(timeout)")
	r := register(t, db, "deaf", "echo")
	claims := r.claim(t, db.Pool, 3)
	r.heartbeat(t, db.Pool, claims...)
	pgtest.Advance(t, db, timeout+lease)
	r.heartbeat(t, db.Pool, claims...)
	require.Equal(t, 2, rescue(t, db))
	require.Equal(t, []string{"ready 1", "running 1", "ready 1"}, []string{stateOf(t, db, claims[0].ID), stateOf(t, db, claims[1].ID), stateOf(t, db, claims[2].ID)})
}

func TestTimeout_IsTriedAgainByTheTasksPolicy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, `select pgtick.set_retry_policy('mail', '{"kind": "linear", "step": "9 minutes"}'), pgtick.set_retry_policy('echo', '{"kind": "linear", "step": "7 minutes"}')`)
	r, c := heldFor(t, db, "")
	r.heartbeat(t, db.Pool, c)
	pgtest.Advance(t, db, timeout+lease)
	r.heartbeat(t, db.Pool, c)
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "00:07:00", one[string](t, db.Pool, "select (run_at - pgtick.now())::text from pgtick.jobs where id = $1", c.ID))
}

func TestTimeout_OfARunnerThatDoesNotTellWhatItHolds_IsFoundWithinAMinute(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, "")
	enqueue(t, db, "echo", 1)
	exec(t, db.Pool, "update pgtick.live_jobs set timeout = '1 minute'")
	other := r.claimOne(t, db.Pool)
	pgtest.Advance(t, db, timeout)
	r.quietHeartbeat(t, db)
	pgtest.Advance(t, db, lease-time.Second)
	r.quietHeartbeat(t, db)
	require.Zero(t, rescue(t, db), "it looks: not yet")
	pgtest.Advance(t, db, time.Second)
	require.Zero(t, rescue(t, db), "it has just looked")
	unlock := lockJob(t, db, other.ID)
	for range 2 {
		pgtest.Advance(t, db, 20*time.Second)
		r.quietHeartbeat(t, db)
	}
	pgtest.Advance(t, db, 20*time.Second)
	require.Equal(t, 1, rescue(t, db), "a minute after the last look")
	require.Equal(t, "ready 1", stateOf(t, db, c.ID))
	require.Equal(t, []string{"1 error"}, attemptsOf(t, db, c.ID))
	unlock()
	require.Zero(t, rescue(t, db), "it has just looked")
	for range 3 {
		r.quietHeartbeat(t, db)
		pgtest.Advance(t, db, 21*time.Second)
	}
	require.Equal(t, 1, rescue(t, db))
}

func TestTimeout_OnlyOverdueClaims_AndOnlyThoseOfTheRunner(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, "")
	enqueue(t, db, "echo", 2)
	others := append(r.claim(t, db.Pool, 1), register(t, db, "other", "echo").claimOne(t, db.Pool))
	r.heartbeat(t, db.Pool, c, others[0])
	pgtest.Advance(t, db, timeout+lease)
	exec(t, db.Pool, "select pgtick.heartbeat(id) from pgtick.runners")
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, []string{"ready 1", "running 1", "running 1"}, []string{stateOf(t, db, c.ID), stateOf(t, db, others[0].ID), stateOf(t, db, others[1].ID)})
}

func TestTimeout_ALockedRow_IsPassedOver(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, "")
	r.heartbeat(t, db.Pool, c)
	pgtest.Advance(t, db, timeout+lease)
	r.heartbeat(t, db.Pool, c)
	task, impatient := session(t, db), session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
	require.Zero(t, one[int](t, impatient, "select pgtick.rescue()"), "it is about to commit")
	exec(t, task, "commit")
	require.Equal(t, 1, one[int](t, impatient, "select pgtick.rescue()"))
}

// Two clocks may look at the same time, and one of them may be frozen in the middle.
func TestTimeout_RescueBesideAnotherRescue_NeverWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, "")
	frozen, impatient := session(t, db), session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	for range 2 { // the first time the row of that look is made, the second time changed
		pgtest.Advance(t, db, (timeout+lease)/2)
		r.quietHeartbeat(t, db)
		exec(t, frozen, "begin")
		exec(t, frozen, "select pgtick.rescue()")
		exec(t, impatient, "select pgtick.rescue()")
		exec(t, frozen, "rollback")
		pgtest.Advance(t, db, time.Second)
	}
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "ready 1", stateOf(t, db, c.ID))
}

// What wakes nobody would wait for a poll.
func TestTimeout_WakesASleeper_WhoWouldSleepPastTheNextAttempt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, "")
	r.heartbeat(t, db.Pool, c)
	pgtest.Advance(t, db, timeout+lease)
	r.heartbeat(t, db.Pool, c)
	ear := listen(t, db, "pgtick")
	register(t, db, "sleeper", "echo").sleep(t, db.Pool, time.Minute)
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, []string{"default"}, ear.heard(t))
}

// A worker that lives and has forgotten a claim names it in no heartbeat: an empty list, or one of others. No lease gives it away; upkeep looks at all.
func TestTimeout_OfAClaimThatItsWorkerForgot_UpkeepTakesIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	r, c := heldFor(t, db, "")
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_timeout => '1 hour')")
	named := r.claimOne(t, db.Pool)
	ear := listen(t, db, "pgtick")
	for _, names := range [][]claim{{}, {named}} {
		r.heartbeat(t, db.Pool, names...)
		pgtest.Advance(t, db, (timeout+lease)/2-time.Microsecond)
		r.heartbeat(t, db.Pool, names...)
		require.Zero(t, rescue(t, db), "nobody told of it")
		maintain(t, db)
		require.Equal(t, "running 1", stateOf(t, db, c.ID), "not before")
	}
	register(t, db, "sleeper", "echo").sleep(t, db.Pool, time.Hour)
	pgtest.Advance(t, db, 2*time.Microsecond)
	maintain(t, db)
	require.Equal(t, "ready 1", stateOf(t, db, c.ID))
	require.Equal(t, []string{"1 error"}, attemptsOf(t, db, c.ID))
	require.Equal(t, []string{"default"}, ear.heard(t))
	require.Equal(t, "running 1", stateOf(t, db, named.ID), "its time is not over")
	require.Equal(t, map[int64]string{c.ID: "fenced"}, r.heartbeat(t, db.Pool, c, named))
	require.Equal(t, []string{"refused", "accepted"}, r.finish(t, db.Pool, c.is("done"), named.is("done")))
	require.Empty(t, all[string](t, db.Pool, "select concat_ws(' ', what, evidence) from pgtick.health where what = 'upkeep'"))
}

// What a runner held that has left is no attempt, however long ago it began: upkeep leaves it to rescue.
func TestTimeout_OfARunnerThatHasLeft_UpkeepTakesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, "")
	unlock := lockJob(t, db, c.ID)
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	pgtest.Advance(t, db, timeout+lease)
	unlock()
	exec(t, db.Pool, "select pgtick.maintain()")
	require.Equal(t, "running 1", stateOf(t, db, c.ID))
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "ready 0", stateOf(t, db, c.ID))
	require.Empty(t, attemptsOf(t, db, c.ID))
}

// What one runner's deadline has rescue() look for is that runner's: an attempt that another one does not name is not looked for until its time comes (maintain()).
func TestTimeout_OfOneRunner_LeavesTheAttemptsOfOthersToTheirTime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := heldFor(t, db, "")
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_timeout => '1 minute') from generate_series(1, 2)")
	other := register(t, db, "other", "echo")
	forgotten, named := other.claimOne(t, db.Pool), other.claimOne(t, db.Pool)
	exec(t, db.Pool, "update pgtick.live_jobs set timeout = '1 hour' where id = $1", named.ID)
	r.heartbeat(t, db.Pool, c)
	other.heartbeat(t, db.Pool, named)
	pgtest.Advance(t, db, timeout+lease)
	r.heartbeat(t, db.Pool, c)
	other.heartbeat(t, db.Pool, named)
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, []string{"ready 1", "running 1", "running 1"}, []string{stateOf(t, db, c.ID), stateOf(t, db, forgotten.ID), stateOf(t, db, named.ID)})
}
