package queue

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// aliveAs is what pgtick.runners says of a runner.
func aliveAs(t *testing.T, db *pgtest.DB, r runner) string {
	t.Helper()
	return one[string](t, db.Pool, "select state from pgtick.runners where id = $1", r.id)
}

func TestLease_RunOutButNotDead_ClaimRaises_AndHeartbeatRenews(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	pgtest.AddJob(t, db, "echo")
	r := register(t, db, "r", "echo")
	pgtest.Advance(t, db, lease)
	require.Equal(t, "late", aliveAs(t, db, r))
	refused(t, db.Pool, "TK003", "select pgtick.claim($1, '{default}', '{echo}', 1)", r.id)
	require.Empty(t, r.heartbeat(t, db.Pool))
	require.Equal(t, "alive", aliveAs(t, db, r))
	r.claimOne(t, db.Pool)
}

func TestRescue_FreesTheClaimsOfADeadRunner_AtTheSecondLook(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	r, c := held(t, db)
	pgtest.Advance(t, db, lease-time.Microsecond)
	require.Zero(t, rescue(t, db))
	require.Equal(t, "alive", aliveAs(t, db, r))
	pgtest.Advance(t, db, time.Microsecond)
	require.Zero(t, rescue(t, db), "the first look")
	pgtest.Advance(t, db, lease/3-time.Microsecond)
	require.Zero(t, rescue(t, db), "too early for the second")
	require.Equal(t, "running 1", stateOf(t, db, c.ID))
	pgtest.Advance(t, db, time.Microsecond)
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "dead", aliveAs(t, db, r))
	require.Equal(t, "ready 1", stateOf(t, db, c.ID))
	require.Zero(t, rescue(t, db), "once")
}

func TestRescue_HeartbeatBetweenTwoLooks_SavesTheRunner(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	for range 3 {
		pgtest.Advance(t, db, lease+time.Second)
		require.Zero(t, rescue(t, db))
		require.Empty(t, r.heartbeat(t, db.Pool, c))
	}
	require.Equal(t, "alive", aliveAs(t, db, r))
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("done")))
}

func TestRescue_WhenTheClockJumpsAnHour_KillsNobodyWhoThenHeartbeats(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_timeout => '2 hours')") // this is about leases, not timeouts
	a, b := register(t, db, "a", "echo"), register(t, db, "b", "echo")
	c := a.claimOne(t, db.Pool)
	pgtest.Advance(t, db, time.Hour)
	for range 5 {
		require.Zero(t, rescue(t, db))
	}
	a.heartbeat(t, db.Pool, c)
	b.heartbeat(t, db.Pool)
	pgtest.Advance(t, db, lease/3+time.Second)
	require.Zero(t, rescue(t, db))
	pgtest.Advance(t, db, -time.Hour)
	require.Zero(t, rescue(t, db))
	require.Equal(t, []string{"alive", "alive"}, []string{aliveAs(t, db, a), aliveAs(t, db, b)})
}

func TestRescue_Dead_IsFinal(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	kill(t, db)
	ids, fences := columns([]claim{c})
	for sql, args := range map[string][]any{
		"select pgtick.claim($1, '{default}', '{echo}', 1)":  {r.id},
		"select * from pgtick.heartbeat($1)":                 {r.id},
		"select * from pgtick.heartbeat($1, $2, $3)":         {r.id, ids, fences},
		"select pgtick.reconcile($1, $2, $3)":                {r.id, ids, fences},
		"select pgtick.sleep($1, interval '5 seconds')":      {r.id},
		"select pgtick.claim($1, '{nothing}', '{echo}', 10)": {r.id},
	} {
		require.Contains(t, refused(t, db.Pool, "TK002", sql, args...).Message, "dead", sql)
	}
	pgtest.Advance(t, db, -time.Hour)
	refused(t, db.Pool, "TK002", "select * from pgtick.heartbeat($1)", r.id)
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	require.Equal(t, "dead", aliveAs(t, db, r), "leaving changes nothing any more")
	pgtest.Advance(t, db, time.Hour)
	register(t, db, "r", "echo").claimOne(t, db.Pool)
}

func TestRescue_TheLostAttempt_IsRecorded_AndNotCounted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_max_attempts => 1)")
	register(t, db, "unlucky", "echo").claimOne(t, db.Pool)
	kill(t, db)
	require.Equal(t, "1 lost unlucky the runner died", one[string](t, db.Pool,
		"select concat_ws(' ', attempt, outcome, runner, error ->> 'message') from pgtick.attempts where job_id = $1", id))
	require.Equal(t, 1, one[int](t, db.Pool, "select uncounted from pgtick.jobs where id = $1", id))
	r := register(t, db, "second", "echo")
	c := r.claimOne(t, db.Pool)
	require.Equal(t, 2, c.Attempt)
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("error").because("no")))
	require.Equal(t, "failed 2", stateOf(t, db, id), "that was the one attempt that counts")
}

func TestRescue_NeverWaits_AndKeepsTheRunnerUntilItsLastClaimIsFree(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ids := enqueue(t, db, "echo", 3)
	r := register(t, db, "r", "echo")
	require.Len(t, r.claim(t, db.Pool, 3), 3)
	unlock := lockJob(t, db, ids[1])
	impatient := session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	pgtest.Advance(t, db, lease+time.Second)
	require.Zero(t, one[int](t, impatient, "select pgtick.rescue()"))
	pgtest.Advance(t, db, lease/3+time.Second)
	require.Equal(t, 2, one[int](t, impatient, "select pgtick.rescue()"))
	require.Equal(t, []string{"ready 1", "running 1", "ready 1"}, []string{stateOf(t, db, ids[0]), stateOf(t, db, ids[1]), stateOf(t, db, ids[2])})
	require.Equal(t, "dead", aliveAs(t, db, r))
	require.Zero(t, one[int](t, impatient, "select pgtick.rescue()"), "still locked")
	unlock()
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "ready 1", stateOf(t, db, ids[1]))
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.runner_leases where id = $1 and freed_at is not null", r.id))
}

// Whatever a frozen session may hold: the runner's row, its sleeper's row, or a whole rescue that has not committed.
func TestRescue_BehindAFrozenSession_NeverWaits(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]string{
		"that holds the runner's row":  "select from pgtick.runner_leases for update",
		"that holds the sleeper's row": "select from pgtick.sleepers for update",
		"that is in rescue itself":     "select pgtick.rescue()",
		"that is in sleep":             "select pgtick.sleep((select max(id) from pgtick.runner_leases), interval '1 minute')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			frozen, impatient := session(t, db), session(t, db)
			exec(t, impatient, pgtest.WaitForNobody)
			_, c := held(t, db)
			pgtest.Advance(t, db, lease+time.Second)
			rescue(t, db)
			exec(t, frozen, "begin")
			exec(t, frozen, hold)
			pgtest.Advance(t, db, lease/3+time.Second)
			exec(t, impatient, "select pgtick.rescue()")
			exec(t, frozen, "rollback")

			unlock := lockJob(t, db, c.ID) // so that it is dead and not yet freed
			rescue(t, db)
			unlock()
			exec(t, frozen, "begin")
			_, _ = frozen.Exec(t.Context(), hold) // a sleeper that is gone may not sleep
			exec(t, impatient, "select pgtick.rescue()")
			exec(t, frozen, "rollback")

			rescue(t, db)
			require.Equal(t, "ready 1", stateOf(t, db, c.ID))
			require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.runner_leases where freed_at is null"))
			require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.sleepers"), "nobody notifies a dead runner")
		})
	}
}

func TestRescue_PassesOverARunnerWhoseClaimIsOnItsWay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"of a job like any other": "select",
		"of a limited task":       "select pgtick.set_limit('echo', p_max_running => 1)",
		"of a suspect":            "update pgtick.live_jobs set losses = 2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			pgtest.AddJob(t, db, "echo")
			exec(t, db.Pool, change)
			r := register(t, db, "r", "echo")
			claiming := session(t, db)
			exec(t, claiming, "begin")
			c := r.claimOne(t, claiming)
			pgtest.Advance(t, db, lease+time.Second)
			rescue(t, db)
			pgtest.Advance(t, db, lease/3+time.Second)
			require.Zero(t, rescue(t, db))
			require.Equal(t, "late", aliveAs(t, db, r))
			exec(t, claiming, "commit")
			pgtest.Expire(t, db)
			require.Equal(t, "ready 1", stateOf(t, db, c.ID), "found and freed once it was there")
		})
	}
}

// The second half of rule 1 and of promise 3: who was rescued from is out.
func TestRescue_TheOldFence_IsRefusedEverywhere(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]func(*testing.T, *pgtest.DB){
		"while the job waits": func(*testing.T, *pgtest.DB) {},
		"while another has it": func(t *testing.T, db *pgtest.DB) {
			register(t, db, "next", "echo").claimOne(t, db.Pool)
		},
		"when another has finished it": func(t *testing.T, db *pgtest.DB) {
			next := register(t, db, "next", "echo")
			next.finish(t, db.Pool, next.claimOne(t, db.Pool).is("done"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r, old := held(t, db)
			kill(t, db)
			after(t, db)
			before := everything(t, db, old.ID)
			for _, outcome := range []string{"done", "failed", "error", "snoozed", "released", "cancelled"} {
				require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, old.is(outcome)), outcome)
			}
			requireFenced(t, db, old)
			require.Equal(t, before, everything(t, db, old.ID))
		})
	}
}

func requireFenced(t *testing.T, db *pgtest.DB, c claim) {
	t.Helper()
	for _, call := range []string{"check_claim($1, $2)", "finish_in_transaction($1, $2, '{}')", "progress($1, $2, 0.5)", "checkpoint($1, $2, '{}')"} {
		refused(t, db.Pool, "TK001", "select pgtick."+call, c.ID, c.Fence)
	}
}

func TestHeartbeat_TellsWhichClaimsMustStop(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	r := register(t, db, "r", "echo")
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_timeout => '5 seconds')")
	enqueue(t, db, "echo", 4)
	claims := r.claim(t, db.Pool, 5)
	exec(t, db.Pool, "select pgtick.cancel($1)", claims[1].ID)
	exec(t, db.Pool, "select pgtick.progress($1, $2, 0.5, 'half of it')", claims[4].ID, claims[4].Fence) // a note that says nothing of a cancel
	r.finish(t, db.Pool, claims[2].is("error"))
	stale := claims[3]
	stale.Fence--
	require.Equal(t, map[int64]string{claims[1].ID: "cancelled", claims[2].ID: "fenced", stale.ID: "fenced"},
		r.heartbeat(t, db.Pool, claims[0], claims[1], claims[2], stale, claims[4]))
	pgtest.Advance(t, db, 5*time.Second)
	require.Equal(t, map[int64]string{claims[0].ID: "timed_out"}, r.heartbeat(t, db.Pool, claims[0], claims[3], claims[4]))
	other := register(t, db, "other", "echo")
	require.Equal(t, map[int64]string{claims[4].ID: "fenced"}, other.heartbeat(t, db.Pool, claims[4]), "not its own")
	refused(t, db.Pool, "TK000", "select * from pgtick.heartbeat($1, '{1,2}', '{1}')", r.id)
	refused(t, db.Pool, "TK000", "select * from pgtick.heartbeat($1, '{1}', null)", r.id)
}

// It reads the runner's row, and then changes it: between the two nobody may end the runner.
func TestHeartbeat_BehindARescueThatFindsItDead_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	rescuing, beating := session(t, db), session(t, db)
	pgtest.Advance(t, db, lease+time.Second)
	rescue(t, db)
	pgtest.Advance(t, db, lease/3+time.Second)
	exec(t, rescuing, "begin")
	exec(t, rescuing, "select pgtick.rescue()")
	ended := inBackground(t, beating, "select * from pgtick.heartbeat($1, $2, $3)", r.id, []int64{c.ID}, []int64{c.Fence})
	awaitLock(t, db, beating)
	exec(t, rescuing, "commit")
	requireCode(t, <-ended, "TK002", "heartbeat")
}

func TestReconcile_GivesBackWhatTheWorkerNeverHeardOf(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	enqueue(t, db, "echo", 4)
	known, lost := r.claim(t, db.Pool, 2), r.claim(t, db.Pool, 2)
	other := register(t, db, "other", "echo")
	pgtest.AddJob(t, db, "echo")
	others := other.claimOne(t, db.Pool)
	ids, fences := columns(known)
	fences[1]-- // a claim is the job and its fence
	require.Equal(t, 3, one[int](t, db.Pool, "select pgtick.reconcile($1, $2, $3)", r.id, ids, fences))
	require.Equal(t, "running 1", stateOf(t, db, known[0].ID))
	require.Equal(t, "running 1", stateOf(t, db, others.ID))
	for _, c := range []claim{known[1], lost[0], lost[1]} {
		require.Equal(t, "ready 0", stateOf(t, db, c.ID), "the attempt is not counted")
		require.Empty(t, attemptsOf(t, db, c.ID))
		require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, c.is("done")), "the fence is gone")
		requireFenced(t, db, c)
	}
	require.Zero(t, one[int](t, db.Pool, "select pgtick.reconcile($1, $2, $3)", r.id, ids[:1], fences[:1]))
	require.Equal(t, 1, one[int](t, db.Pool, "select pgtick.reconcile($1, '{}', '{}')", r.id))
	refused(t, db.Pool, "TK002", "select pgtick.reconcile(4711, '{}', '{}')")
	refused(t, db.Pool, "TK000", "select pgtick.reconcile($1, '{1}', '{}')", r.id)
}

func TestReconcile_WaitsForAClaimOnItsWay_ButNotLong(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.AddJob(t, db, "echo")
	r := register(t, db, "r", "echo")
	claiming, reconciling := session(t, db), session(t, db)
	exec(t, claiming, "begin")
	c := r.claimOne(t, claiming)
	requireCode(t, <-inBackground(t, reconciling, "select pgtick.reconcile($1, '{}', '{}')", r.id), "55P03", "reconcile")
	ended := inBackground(t, reconciling, "select pgtick.reconcile($1, '{}', '{}')", r.id)
	awaitLock(t, db, reconciling)
	exec(t, claiming, "commit")
	require.NoError(t, <-ended)
	require.Equal(t, "ready 0", stateOf(t, db, c.ID))
}

func TestLeave_GivesBackWhatItHolds_AndMayBeCalledAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	for range 2 {
		exec(t, db.Pool, "select pgtick.leave($1)", r.id)
		require.Equal(t, "ready 0", stateOf(t, db, c.ID))
		require.Equal(t, "left", aliveAs(t, db, r))
	}
	exec(t, db.Pool, "select pgtick.leave(4711)")
	require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, c.is("done")))
	refused(t, db.Pool, "TK002", "select * from pgtick.heartbeat($1)", r.id)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.sleepers"))
}

func TestLeave_WhileATasksTransactionHoldsTheJob_RescueGivesItBackLater(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	task := session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	require.Equal(t, "running 1", stateOf(t, db, c.ID))
	require.Zero(t, rescue(t, db))
	exec(t, task, "commit")
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "ready 0", stateOf(t, db, c.ID), "it left in order: no attempt is counted or shown as lost")
	require.Empty(t, attemptsOf(t, db, c.ID))
}

func TestExpire_HarmsNobodyWhoseLeaseIsGood(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 2)
	slow := pgtest.Claim(t, db, "slow", lease)
	pgtest.Advance(t, db, lease)
	fast := pgtest.Claim(t, db, "fast", lease)
	pgtest.Expire(t, db)
	require.Equal(t, "ready 1", stateOf(t, db, slow.ID))
	require.Equal(t, "running 1", stateOf(t, db, fast.ID))
	_, err := db.Pool.Exec(context.Background(), "select pgtick.check_claim($1, $2)", fast.ID, fast.Fence)
	require.NoError(t, err)
}

// Two runners of one queue, both asleep, each with two jobs.
func TestCallsOfARunner_ConcernItAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	enqueue(t, db, "echo", 5)
	other := register(t, db, "other", "echo")
	claims := other.claim(t, db.Pool, 2)
	others := func() []string {
		return all[string](t, db.Pool, `select to_jsonb(r)::text from pgtick.runner_leases as r where r.id = $1
			union all select to_jsonb(s)::text from pgtick.sleepers as s where s.runner_id = $1
			union all select to_jsonb(j)::text from pgtick.live_jobs as j where j.runner_id = $1`, other.id)
	}
	other.heartbeat(t, db.Pool, claims...)
	other.sleep(t, db.Pool, time.Minute)
	exec(t, db.Pool, "select pgtick.say_wakes($1, true)", other.id)
	before := others()
	require.Len(t, before, 4)
	pgtest.Advance(t, db, 10*time.Second)
	r := register(t, db, "r", "echo")
	mine := r.claim(t, db.Pool, 2)
	for _, call := range []string{"heartbeat($1)", "sleep($1, '5 minutes')", "say_wakes($1, false)", "awake($1)", "reconcile($1, '{}', '{}')"} {
		exec(t, db.Pool, "select pgtick."+call, r.id)
		require.Equal(t, before, others(), call)
	}
	require.Equal(t, []string{"refused", "refused"}, r.finish(t, db.Pool, claims[0].is("done"), claims[1].is("error")))
	require.Equal(t, before, others(), "reports on what is another's")
	require.Equal(t, map[int64]string{claims[0].ID: "fenced"}, r.heartbeat(t, db.Pool, claims[0]))
	require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, mine[0].is("done")), "given back")
	require.Len(t, r.claim(t, db.Pool, 3), 3)
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	require.Equal(t, before, others(), "leave")
	require.Equal(t, "left", one[string](t, db.Pool, "select ended_as from pgtick.runner_leases where id = $1", r.id))
	require.Empty(t, other.heartbeat(t, db.Pool, claims...))
}

// A heartbeat, or a farewell, that comes while a rescue takes the runner for dead waits for that, and goes by it.
func TestDeath_BesideACallOfTheDead_Stands(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]string{"heartbeat": "select pgtick.heartbeat($1)", "leave": "select pgtick.leave($1)"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			freeze(t, db)
			r, _ := held(t, db)
			pgtest.Advance(t, db, time.Minute)
			rescue(t, db) // suspects it
			pgtest.Advance(t, db, 15*time.Second)
			rescuing, calling := session(t, db), session(t, db)
			exec(t, rescuing, "begin")
			exec(t, rescuing, "select pgtick.rescue()")
			require.Equal(t, "dead", one[string](t, rescuing, "select ended_as from pgtick.runner_leases where id = $1", r.id))
			ended := inBackground(t, calling, call, r.id)
			awaitLock(t, db, calling)
			exec(t, rescuing, "commit")
			if err := <-ended; name == "heartbeat" {
				requireCode(t, err, "TK002", call)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, "dead", one[string](t, db.Pool, "select ended_as from pgtick.runner_leases where id = $1", r.id))
		})
	}
}

// Others that live change nothing of it.
func TestDeath_OfOneAmongOthers_Stands(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	r, _ := held(t, db)
	kill(t, db)
	register(t, db, "another", "echo")
	refused(t, db.Pool, "TK002", "select pgtick.heartbeat($1)", r.id)
	refused(t, db.Pool, "TK002", "select pgtick.heartbeat($1)", r.id+1000)
	before := one[string](t, db.Pool, "select r::text from pgtick.runner_leases as r where id = $1", r.id)
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	require.Equal(t, before, one[string](t, db.Pool, "select r::text from pgtick.runner_leases as r where id = $1", r.id))
}
