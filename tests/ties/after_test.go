package ties

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func after(ids ...int64) string {
	list := ""
	for _, id := range ids {
		list += fmt.Sprintf(",%d", id)
	}
	return "p_after => '{" + list[1:] + "}'"
}

const whateverBecomesOfThem = "p_after_outcome => 'any'"

func TestAfter_RunsWhenAllAreDone_AndARunnerIsWoken(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a, b := enqueue(t, db.Pool, "echo"), enqueue(t, db.Pool, "echo")
	claims := r.claim(t, db.Pool, 2)
	last := enqueue(t, db.Pool, "other", after(a, b, a))
	require.Equal(t, "ready after after", state(t, db.Pool, last))
	require.True(t, one[bool](t, db.Pool, "select run_at = 'infinity' and wanted_at <= now() from pgtick.jobs where id = $1", last))

	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	r.finish(t, db.Pool, claims[0], "done")
	require.Empty(t, r.claim(t, db.Pool, 1), "the other one runs still")
	require.Empty(t, ear.heard(t))
	r.finish(t, db.Pool, claims[1], "done")
	require.Equal(t, []string{"default"}, ear.heard(t))
	r.do(t, db.Pool, last, "done")
	clean(t, db)
}

func TestAfter_KeepsItsOwnTime_WhereThatIsLater(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	last := enqueue(t, db.Pool, "other", after(a), "p_run_at => now() + interval '1 hour'")
	r.do(t, db.Pool, a, "done")
	require.True(t, one[bool](t, db.Pool, "select blocked_by is null and run_at > now() + interval '59 minutes' and wanted_at is null from pgtick.jobs where id = $1", last))
}

func TestAfter_OneFailsOrIsCancelled_TakesAlongWhatWaitsForIt_WithTheReason(t *testing.T) {
	t.Parallel()
	for outcome, says := range map[string]string{"failed": "failed", "cancelled": "was cancelled"} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := register(t, db.Pool)
			a := enqueue(t, db.Pool, "echo")
			b := enqueue(t, db.Pool, "echo", after(a))
			c := enqueue(t, db.Pool, "echo", after(b))
			stays := enqueue(t, db.Pool, "echo", after(b), whateverBecomesOfThem)
			r.do(t, db.Pool, a, outcome)
			require.Equal(t, []string{"cancelled", "cancelled", "ready"}, states(t, db.Pool, b, c, stays))
			require.Equal(t, fmt.Sprintf("job %d, which it waited for, %s", a, says), lastError(t, db.Pool, b))
			require.Equal(t, fmt.Sprintf("job %d, which it waited for, was cancelled", b), lastError(t, db.Pool, c))
			r.do(t, db.Pool, stays, "done")
			clean(t, db)
		})
	}
}

func TestAfter_ACancelByHand_TakesAlongWhatWaitsForIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	a := enqueue(t, db.Pool, "echo")
	b := enqueue(t, db.Pool, "echo", after(a))
	c := enqueue(t, db.Pool, "other", after(a))
	require.Equal(t, 2, one[int](t, db.Pool, `select pgtick.cancel_where('{"task": "echo"}')`))
	require.Equal(t, []string{"cancelled", "cancelled", "cancelled"}, states(t, db.Pool, a, b, c))
	clean(t, db)
}

// An error that is tried again is no end.
func TestAfter_WaitsAcrossRetriesAndLosses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	last := enqueue(t, db.Pool, "other", after(a))
	for _, outcome := range []string{"error", "snoozed", "released"} {
		r.do(t, db.Pool, a, outcome)
	}
	r.take(t, db.Pool, a)
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	require.Equal(t, "ready after after", state(t, db.Pool, last))
	r = register(t, db.Pool)
	r.do(t, db.Pool, a, "done")
	r.do(t, db.Pool, last, "done")
	clean(t, db)
}

func TestAfter_WhatHasEnded_IsLookedAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	done, failed := enqueue(t, db.Pool, "echo"), enqueue(t, db.Pool, "other")
	claims := r.claim(t, db.Pool, 1, "echo")
	r.finish(t, db.Pool, claims[0], "done")
	claims = r.claim(t, db.Pool, 1, "other")
	r.finish(t, db.Pool, claims[0], "failed")

	require.Equal(t, "ready", state(t, db.Pool, enqueue(t, db.Pool, "echo", after(done))))
	require.Equal(t, "ready", state(t, db.Pool, enqueue(t, db.Pool, "echo", after(failed), whateverBecomesOfThem)))
	pg := refused(t, db.Pool, "TK005", "select pgtick.enqueue('echo', "+after(done, failed)+")")
	require.Contains(t, pg.Message, fmt.Sprintf("job %d", failed))
	for _, call := range []string{"enqueue('echo', p_after => $1)", "enqueue_many('echo', array['{}']::jsonb[], p_after => $1)"} {
		pg = refused(t, db.Pool, "TK004", "select pgtick."+call, []int64{done, 987654})
		require.Contains(t, pg.Message, "987654")
	}
	require.Equal(t, "ready", state(t, db.Pool, enqueue(t, db.Pool, "echo", "p_after => '{}'")), "after nothing")
}

func TestAfter_OutsideReadCommitted_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	a := enqueue(t, db.Pool, "echo")
	batch := one[int64](t, db.Pool, "select pgtick.create_batch('callback')")
	for _, setting := range []string{after(a), "p_sequence_key => 'k'", fmt.Sprintf("p_batch_id => %d", batch)} {
		for _, level := range []string{"repeatable read", "serializable"} {
			conn := session(t, db)
			exec(t, conn, "begin isolation level "+level)
			refused(t, conn, "TK020", "select pgtick.enqueue('echo', "+setting+")")
		}
	}
}

// Who enqueues has the blocker locked: a report passes over it, so that it cannot end unseen, and is taken when it comes again.
func TestAfter_AnOpenEnqueue_IsSeenByTheEndOfItsBlocker(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	c := r.take(t, db.Pool, a)
	enqueuer := session(t, db)
	exec(t, enqueuer, "begin")
	last := enqueue(t, enqueuer, "other", after(a))
	require.Equal(t, "ask again", r.tryFinish(t, db.Pool, c, "done"))
	exec(t, enqueuer, "commit")
	r.finish(t, db.Pool, c, "done")
	r.do(t, db.Pool, last, "done")
	clean(t, db)
}

func TestAfter_AnEndUnderWay_IsWaitedForByTheEnqueue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	c := r.take(t, db.Pool, a)
	task, enqueuer := session(t, db), session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.finish_in_transaction($1, $2)", c.id, c.fence)
	enqueued := inBackground(t, enqueuer, "select pgtick.enqueue('other', p_after => $1)", []int64{a})
	awaitLock(t, db, enqueuer)
	exec(t, task, "commit")
	require.NoError(t, <-enqueued)
	require.Len(t, r.claim(t, db.Pool, 1), 1, "its blocker has ended")
}

// A job that its own task enqueues to run after it.
func TestAfter_ATaskMayEnqueueItsOwnSuccessor(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"commit", "rollback"} {
		db := pgtest.New(t)
		r := register(t, db.Pool)
		a := enqueue(t, db.Pool, "echo")
		c := r.take(t, db.Pool, a)
		task := session(t, db)
		exec(t, task, "begin")
		next := enqueue(t, task, "other", after(a))
		exec(t, task, "select pgtick.finish_in_transaction($1, $2)", c.id, c.fence)
		exec(t, task, end)
		if end == "commit" {
			r.do(t, db.Pool, next, "done")
		} else {
			r.finish(t, db.Pool, c, "done")
		}
		clean(t, db)
	}
}

// The snapshot of such a transaction may be older than what waits for the job.
func TestAfter_AJobThatEndsOutsideReadCommitted_FreesByRescue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	for _, before := range []bool{false, true} { // one that it sees has changed since: that must not fail the transaction
		a := enqueue(t, db.Pool, "echo")
		c := r.take(t, db.Pool, a)
		changed := []int64{}
		if before {
			changed = append(changed, enqueue(t, db.Pool, "other", after(a), "p_unique_key => 'k'"))
		}
		task := session(t, db)
		exec(t, task, "begin isolation level repeatable read")
		exec(t, task, "select 1 from pgtick.jobs")
		if before {
			enqueue(t, db.Pool, "other", "p_unique_key => 'k'", "p_on_conflict => 'replace_args'")
		}
		unseen := enqueue(t, db.Pool, "other", after(a))
		exec(t, task, "select pgtick.finish_in_transaction($1, $2)", c.id, c.fence)
		exec(t, task, "commit")
		require.Empty(t, r.claim(t, db.Pool, 1))
		rescue(t, db.Pool)
		claims := r.claim(t, db.Pool, 10)
		require.Equal(t, append(changed, unseen), idsOf(claims))
		for _, c := range claims {
			r.finish(t, db.Pool, c, "done")
		}
	}
	clean(t, db)
}

// A hand with psql, or a dump that was restored in part: nobody will ever report its end.
func TestAfter_ABlockerThatIsGoneWithoutATrace_CountsAsCancelled_AtTheNextSweep(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	gone := enqueue(t, db.Pool, "echo")
	needs := enqueue(t, db.Pool, "other", after(gone))
	ignores := enqueue(t, db.Pool, "other", after(gone), "p_after_outcome => 'any'")
	exec(t, db.Pool, "delete from pgtick.live_jobs where id = $1", gone)
	sweep(t, db.Pool)
	require.Equal(t, []string{"cancelled", "ready"}, states(t, db.Pool, needs, ignores))
	register(t, db.Pool).do(t, db.Pool, ignores, "done")
	clean(t, db)
}

// Who enqueues behind a job has it locked; that it cannot be cancelled just now must not set it free.
func TestAfter_ADoomedJobThatIsLocked_IsCancelledByRescue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	doomed := enqueue(t, db.Pool, "other", after(a))
	enqueuer := session(t, db)
	exec(t, enqueuer, "begin")
	behind := enqueue(t, enqueuer, "other", after(doomed))
	r.do(t, db.Pool, a, "failed")
	sweep(t, db.Pool)
	require.Equal(t, "ready after after", state(t, db.Pool, doomed))
	exec(t, enqueuer, "commit")
	rescue(t, db.Pool)
	require.Equal(t, []string{"cancelled", "cancelled"}, states(t, db.Pool, doomed, behind))
	require.Equal(t, fmt.Sprintf("job %d, which it waited for, failed", a), lastError(t, db.Pool, doomed))
	clean(t, db)
}

func TestAfter_ALockedDependant_IsFreedByRescue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	last := enqueue(t, db.Pool, "other", after(a))
	holder := session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.live_jobs where id = $1 for update", last)
	r.do(t, db.Pool, a, "done")
	exec(t, holder, "rollback")
	require.Equal(t, "ready after after", state(t, db.Pool, last))
	rescue(t, db.Pool)
	r.do(t, db.Pool, last, "done")
	clean(t, db)
}

func TestAfter_AStrangerThatIsLocked_HoldsUpNobody(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	b := enqueue(t, db.Pool, "other", after(a))
	c := r.take(t, db.Pool, a)
	stranger, holder := enqueue(t, db.Pool, "other"), session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.live_jobs where id = $1 for update", stranger)
	r.finish(t, db.Pool, c, "done")
	require.Equal(t, "ready", state(t, db.Pool, b))
	exec(t, holder, "rollback")
}

func TestAfter_ABlockedJob_CanBeCancelledMovedAndExplained_ButNotHastened(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	b := enqueue(t, db.Pool, "other", after(a), "p_unique_key => 'k'")
	refused(t, db.Pool, "TK005", "select pgtick.retry($1)", b)
	require.Equal(t, b, enqueue(t, db.Pool, "other", "p_unique_key => 'k'", "p_on_conflict => 'move_run_at'", "p_run_at => now() + interval '1 hour'"))
	require.Equal(t, "ready after after", state(t, db.Pool, b))
	require.Equal(t, "it waits for other jobs", one[string](t, db.Pool, "select reason from pgtick.why($1) where rank = 1", b))
	require.Contains(t, one[string](t, db.Pool, "select evidence from pgtick.why($1) where rank = 1", b), fmt.Sprintf("%d (ready)", a))
	require.Equal(t, "cancelled", one[string](t, db.Pool, "select pgtick.cancel($1)", b))
	require.NotEqual(t, b, enqueue(t, db.Pool, "other", "p_unique_key => 'k'", "p_run_at => now() + interval '1 hour'"), "the key is free")
	r.do(t, db.Pool, a, "done")
}

// retry by hand of a whole chain keeps its order; a blocker that stays failed does not keep anybody.
func TestAfter_Retry_WaitsAgainForWhatLives(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a := enqueue(t, db.Pool, "echo")
	b := one[int64](t, db.Pool, "select pgtick.enqueue_many('echo', array['{}']::jsonb[], p_after => array[$1::bigint])", a)
	c := enqueue(t, db.Pool, "echo", after(b))
	r.do(t, db.Pool, a, "failed")
	require.Equal(t, 1, one[int](t, db.Pool, `select pgtick.retry_where('{"task": "echo"}')`))
	require.Equal(t, 2, one[int](t, db.Pool, `select pgtick.retry_where('{"task": "echo", "state": "cancelled"}')`))
	require.Equal(t, []string{"ready", "ready after after", "ready after after"}, states(t, db.Pool, a, b, c))
	r.do(t, db.Pool, a, "failed")
	require.Equal(t, []string{"cancelled", "cancelled"}, states(t, db.Pool, b, c), "it still waits for a to be done")

	exec(t, db.Pool, "select pgtick.retry($1)", b)
	exec(t, db.Pool, "select pgtick.retry($1)", c)
	r.do(t, db.Pool, b, "done")
	r.do(t, db.Pool, c, "done")
	clean(t, db)
}

func TestAfter_ADependantThatIsCancelled_WaitsForNothingAnyMore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	blocker := enqueue(t, db.Pool, "echo")
	dependant, other := enqueue(t, db.Pool, "echo", after(blocker)), enqueue(t, db.Pool, "echo", after(blocker))
	exec(t, db.Pool, "select pgtick.cancel($1)", dependant)
	require.Equal(t, []int64{other}, all[int64](t, db.Pool, "select job_id from pgtick.job_links"))
}

func TestAfter_Retry_OutsideReadCommitted_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	a := enqueue(t, db.Pool, "echo")
	b := enqueue(t, db.Pool, "echo", after(a))
	exec(t, db.Pool, "select pgtick.cancel($1)", b)
	conn := session(t, db)
	exec(t, conn, "begin isolation level repeatable read")
	refused(t, conn, "TK020", "select pgtick.retry($1)", b)
}

// Neither a long chain nor many that wait for one job make a report long: what is too much for it is left to rescue().
func TestAfter_MuchThatWaits_IsFreedOrCancelledInParts(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[string]string{"done": "ready", "failed": "cancelled"} {
		t.Run("many, "+outcome, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := register(t, db.Pool)
			a := enqueue(t, db.Pool, "echo")
			exec(t, db.Pool, "select pgtick.enqueue_many('other', array_fill('{}'::jsonb, '{5000}'), p_after => $1)", []int64{a})
			r.do(t, db.Pool, a, outcome)
			told := one[int](t, db.Pool, "select count(*) from pgtick.jobs where task = 'other' and state = $1 and blocked_by is null", want)
			require.Equal(t, 2000, told)
			require.Eventually(t, func() bool {
				rescue(t, db.Pool) // a second of it at a time
				return one[int](t, db.Pool, "select count(*) from pgtick.jobs where task = 'other' and state = $1 and blocked_by is null", want) == 5000 &&
					one[int](t, db.Pool, "select count(*) from pgtick.unsettled") == 0
			}, patience, time.Millisecond)
		})
	}
	t.Run("a chain", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t)
		r := register(t, db.Pool)
		a := enqueue(t, db.Pool, "echo")
		exec(t, db.Pool, `do $$ declare v bigint := (select id from pgtick.live_jobs where task = 'echo'); begin
			for n in 1 .. 400 loop v := pgtick.enqueue('other', p_after => array[v]); end loop; end $$`)
		r.do(t, db.Pool, a, "failed")
		require.Equal(t, 100, one[int](t, db.Pool, "select count(*) from pgtick.jobs where task = 'other' and state = 'cancelled'"))
		require.Eventually(t, func() bool {
			rescue(t, db.Pool)
			return one[int](t, db.Pool, "select count(*) from pgtick.jobs where task = 'other' and state = 'cancelled'") == 400
		}, patience, time.Millisecond)
		clean(t, db)
	})
}

func TestAfter_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	a := enqueue(t, db.Pool, "echo")
	for field, settings := range map[string][]string{
		"after ":           {"p_after => '{1,null}'", "p_after => array_fill(1::bigint, '{10001}')"},
		"after_outcome ":   {"p_after_outcome => 'failed', p_after => '{1}'", "p_after_outcome => null, p_after => '{1}'"},
		"sequence_key ":    {"p_sequence_key => ''", "p_sequence_key => repeat('x', 201)", "p_sequence_key => repeat('ü', 1000000)"},
		"limit_key ":       {"p_limit_key => ''", "p_limit_key => repeat('x', 201)"},
		"sequence_failure": {"p_sequence_key => 'k', p_sequence_failure => 'halt'", "p_sequence_key => 'k', p_sequence_failure => null"},
		"batch_id ":        {"p_batch_id => 0", "p_batch_id => 987654"},
		"trace_context ":   {"p_trace_context => '[]'", `p_trace_context => '{"traceparent": 1}'`, `p_trace_context => jsonb_build_object('traceparent', repeat('x', 2000))`},
	} {
		for _, setting := range settings {
			require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick.enqueue('echo', "+setting+")").Message, field, setting)
		}
	}
	for _, keys := range []string{"p_sequence_keys => '{a}'", "p_sequence_keys => '{a,null}'", "p_limit_keys => '{a}'", "p_limit_keys => '{a,null}'", "p_limit_keys => array['a', repeat('x', 201)]"} {
		refused(t, db.Pool, "TK000", "select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[], "+keys+")")
	}
	refused(t, db.Pool, "TK000", "select pgtick.enqueue_many('echo', array_fill('{}'::jsonb, '{1001}'), p_after => array_fill($1::bigint, '{1000}'))", a)
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.sequences"))
}

// Also of a job that is more than a task and its arguments.
func TestEnqueue_OfATiedJobThatNothingBlocks_WakesASleeper(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	for _, settings := range []string{keyed("x"), "p_unique_key => 'u'", inSequence, `p_trace_context => '{"traceparent": "00-1"}'`} {
		enqueue(t, db.Pool, "echo", settings)
		require.Equal(t, []string{"default"}, ear.heard(t), settings)
	}
	enqueue(t, db.Pool, "echo", inSequence)
	require.Empty(t, ear.heard(t), "it waits for its turn")
}

// A key that is counted from elsewhere would be another job's.
func TestEnqueueMany_KeysThatAreNoPlainList_AreRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, field := range []string{"unique_keys", "limit_keys", "sequence_keys"} {
		for _, keys := range []string{"'[0:1]={a,b}'", "'{{a,b}}'", "'{{a},{b}}'", "'{a}'", "'{a,null}'", "'{a,b,c}'"} {
			pg := refused(t, db.Pool, "TK000", "select pgtick.enqueue_many('echo', array_fill('{}'::jsonb, '{2}'), p_"+field+" => "+keys+"::text[])")
			require.Contains(t, pg.Message, field, keys)
		}
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs"))
}

// One report does not do it all where very much waits for its job: rescue() goes on where it ended.
func TestAfter_AFailureThatThousandsWaitFor_TakesThemAlongInParts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	head := enqueue(t, db.Pool, "echo")
	exec(t, db.Pool, "select pgtick.enqueue('other', p_after => array[$1::bigint]) from generate_series(1, 1999)", head)
	last := enqueue(t, db.Pool, "other", after(enqueue(t, db.Pool, "other", after(head))))
	r.finish(t, db.Pool, r.claim(t, db.Pool, 1, "echo")[0], "failed")
	require.Equal(t, 2000, one[int](t, db.Pool, "select count(*) from pgtick.history where state = 'cancelled'"))
	require.Equal(t, "ready after after", state(t, db.Pool, last))
	rescue(t, db.Pool)
	require.Equal(t, "cancelled", state(t, db.Pool, last))
	clean(t, db)
}

// Between the look for those that wait for it and its end nobody may begin to wait for a job.
func TestAfter_ADependantOfAJobThatIsJustEnding_WaitsForThat_AndIsNotForgotten(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{
		"in its transaction": "select pgtick.finish_in_transaction($1, $2), $3::bigint", "by a report": "select pgtick.finish($3, array[$1::bigint], array[$2::bigint], '{done}')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := register(t, db.Pool)
			c := r.take(t, db.Pool, enqueue(t, db.Pool, "echo"))
			ending, stopped, goOn := db.StopAt(t, "delete on pgtick.live_jobs")
			ended := inBackground(t, ending, end, c.id, c.fence, r.id)
			stopped()
			adding := session(t, db)
			added := inBackground(t, adding, "select pgtick.enqueue('other', p_after => array[$1::bigint])", c.id)
			awaitLock(t, db, adding)
			goOn()
			require.NoError(t, <-ended)
			require.NoError(t, <-added)
			require.Equal(t, []string{"ready"}, all[string](t, db.Pool, "select state || coalesce(' after ' || blocked_by, '') from pgtick.jobs where task = 'other'"))
		})
	}
}
