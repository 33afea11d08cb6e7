package ties

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// notes are what is left to rescue(), by what they say.
func notes(t *testing.T, q asker) []string {
	t.Helper()
	return all[string](t, q, "select u.what from pgtick.unsettled as u order by u.id")
}

func note(t *testing.T, q asker, kind, what string, sequenceKey *string) {
	t.Helper()
	exec(t, q, "insert into pgtick.unsettled (kind, what, sequence_key, noted_at) values ($1, $2, $3, pgtick.now())", kind, what, sequenceKey)
}

// Everything is looked at once a minute, also after the clock was set back; at other times no more than was noted.
func TestSweep_OfEverything_IsOnceAMinute_WhateverTheClockDoes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	limit(t, db.Pool, twoAtOnce)
	swept := func() bool {
		t.Helper()
		exec(t, db.Pool, "insert into pgtick.limit_places (task, key, holders) values ('limited', '', '{987654}') on conflict (task, key) do update set holders = excluded.holders")
		exec(t, db.Pool, "select pgtick.rescue()")
		return one[bool](t, db.Pool, "select holders = '{}' from pgtick.limit_places")
	}
	for _, step := range []struct {
		at   time.Duration
		want bool
	}{{0, true}, {0, false}, {59 * time.Second, false}, {61 * time.Second, true}, {90 * time.Second, false}, {-time.Hour, true}, {-time.Hour, false}, {-time.Hour + 61*time.Second, true}} {
		pgtest.SetNow(t, db, now.Add(step.at))
		require.Equal(t, step.want, swept(), step.at)
	}
}

// What one call has no time for is for the next one, so that rescue() comes to its other work.
func TestSweep_OfNotes_EndsAfterASecond_AndGoesOnNextTime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "insert into pgtick.unsettled (kind, what, noted_at) select 'limit', n::text, pgtick.now() from generate_series(1, 401) as n")
	exec(t, db.Pool, `create function public.slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.6); return null; end $$;
		create trigger slow before delete on pgtick.unsettled for each statement execute function public.slow()`)
	rescue(t, db.Pool)
	require.Equal(t, []string{"401"}, notes(t, db.Pool))
	rescue(t, db.Pool)
	require.Empty(t, notes(t, db.Pool))
}

func TestSweep_OfNotes_GoesPastWhatIsHeld(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	note(t, db.Pool, "limit", "held", nil)
	note(t, db.Pool, "limit", "free", nil)
	holder := session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.unsettled where what = 'held' for update")
	rescue(t, impatient(t, db))
	require.Equal(t, []string{"held"}, notes(t, db.Pool))
}

// The rest of the second is for what else there is to do.
func TestSweep_OfANoteThatItCannotDoYet_TriesItOnceACall(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	r := register(t, db.Pool)
	first := enqueue(t, db.Pool, "echo")
	second := enqueue(t, db.Pool, "echo", after(first))
	holder := lockJob(t, db, second)
	r.do(t, db.Pool, first, "done")
	noted := func() int64 { return one[int64](t, db.Pool, "select id from pgtick.unsettled") }
	before := noted()
	rescue(t, impatient(t, db))
	require.Equal(t, before+1, noted(), "noted anew, and left for the next call")
	exec(t, holder, "rollback")
	rescue(t, db.Pool)
	require.Equal(t, "ready", state(t, db.Pool, second))
}

// A sequence waits as long as it may turn out to be stopped: then the job of which that was not known has gone, and nobody else will let it go on.
func TestSweep_OfANoteWhoseJobHasGone_LetsItsSequenceGoOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	key := "k"
	exec(t, db.Pool, "insert into pgtick.sequences (key) values ('k')")
	note(t, db.Pool, "job", "987654", &key)
	id := enqueue(t, db.Pool, "echo", inSequence)
	require.Equal(t, "ready after sequence", state(t, db.Pool, id))
	rescue(t, db.Pool)
	require.Equal(t, "ready", state(t, db.Pool, id))
}

// A job that nothing blocks any more is freed, whatever it was blocked by and wherever it lies; one that something blocks is not, and what its
// blocker came to is read from the history.
func TestSweep_OfBlockedJobs_FreesThoseThatNothingBlocks_AndNoOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	failed, done := enqueue(t, db.Pool, "echo"), enqueue(t, db.Pool, "echo")
	for _, c := range r.claim(t, db.Pool, 10) {
		r.finish(t, db.Pool, c, map[int64]string{failed: "failed", done: "done"}[c.id])
	}
	limited := several(t, db.Pool, 2, keyed("x"))
	require.Len(t, r.claim(t, db.Pool, 10), 1)
	ids := map[string]int64{"after": enqueue(t, db.Pool, "echo"), "batch": enqueue(t, db.Pool, "echo"), "sequence": enqueue(t, db.Pool, "echo", inSequence)}
	waits := enqueue(t, db.Pool, "echo", inSequence)
	limited = append(limited, several(t, db.Pool, 1, keyed("y"))...)
	limited = append(limited, several(t, db.Pool, 1, keyed("y"))...)
	require.Len(t, r.claim(t, db.Pool, 1, "limited"), 1)
	for what, id := range ids {
		exec(t, db.Pool, "update pgtick.live_jobs set blocked_by = $2, wanted_at = run_at, run_at = 'infinity' where id = $1", id, what)
	}
	exec(t, db.Pool, "insert into pgtick.job_links (on_job_id, job_id, any_outcome) values ($1, $2, false)", done, ids["after"])
	sweep(t, db.Pool)
	require.Equal(t, []string{"ready", "ready", "ready"}, states(t, db.Pool, ids["after"], ids["batch"], ids["sequence"]))
	require.Equal(t, []string{"ready after sequence", "ready after limit", "ready after limit"}, states(t, db.Pool, waits, limited[1], limited[3]))
}

// At most ten thousand are looked at, from one on that is drawn by lot: those before and behind it have their turn.
func TestSweep_OfMoreBlockedJobsThanAreLookedAtAtOnce_FindsTheFirstAndTheLast(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	head := enqueue(t, db.Pool, "echo", "p_run_at => now() + interval '1 day'")
	first := enqueue(t, db.Pool, "other", after(head))
	exec(t, db.Pool, `with j as (
			insert into pgtick.live_jobs (task, queue, priority, run_at, wanted_at, blocked_by, max_attempts, timeout, args, created_at, after_jobs, after_any)
			select j.task, j.queue, j.priority, j.run_at, j.wanted_at, j.blocked_by, j.max_attempts, j.timeout, j.args, j.created_at, j.after_jobs, j.after_any
			from pgtick.live_jobs as j cross join generate_series(1, 10100) where j.id = $1
			returning id)
		insert into pgtick.job_links (on_job_id, job_id, any_outcome) select $2, j.id, false from j`, first, head)
	last := enqueue(t, db.Pool, "other", after(head))
	exec(t, db.Pool, "delete from pgtick.job_links where job_id = any ($1)", []int64{first, last})
	for range 10 {
		if sweep(t, db.Pool); one[int](t, db.Pool, "select count(*) from pgtick.live_jobs where task = 'other' and blocked_by is null") == 2 {
			require.Equal(t, []string{"ready", "ready"}, states(t, db.Pool, first, last))
			return
		}
	}
	require.Fail(t, "not found", "%v", states(t, db.Pool, first, last))
}

func TestSweep_OfABatchWithoutLiveJobs_EndsIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, callback, members := batch(t, db, 2, "")
	rescue(t, db.Pool)
	exec(t, db.Pool, "delete from pgtick.live_jobs where id = any ($1)", members)
	rescue(t, db.Pool)
	require.Equal(t, "ready after batch", state(t, db.Pool, callback))
	sweep(t, db.Pool)
	require.Equal(t, "ready", state(t, db.Pool, callback))
}

// A sequence is forgotten when it has no jobs, has not stopped and will not turn out to be; those that live are not even locked.
func TestSweep_OfSequences_ForgetsThoseWithoutJobs_AndLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	stopped := enqueue(t, db.Pool, "echo", "p_sequence_key => 'stopped'")
	r.do(t, db.Pool, stopped, "failed")
	enqueue(t, db.Pool, "echo", "p_sequence_key => 'lives'")
	exec(t, db.Pool, "insert into pgtick.sequences (key) values ('idle'), ('noted')")
	key := "noted"
	note(t, db.Pool, "job", "987654", &key)
	holder := session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.unsettled for update")
	sweeping := session(t, db)
	exec(t, sweeping, "begin")
	sweep(t, sweeping)
	enqueue(t, impatient(t, db), "echo", "p_sequence_key => 'lives'")
	enqueue(t, impatient(t, db), "echo", "p_sequence_key => 'stopped'")
	exec(t, sweeping, "commit")
	require.Equal(t, []string{"lives", "noted", "stopped"}, all[string](t, db.Pool, "select key from pgtick.sequences order by key"))
}

// Its job may commit just when it has been looked for.
func TestSweep_OfASequence_ThatGetsAJobMeanwhile_LetsItBe(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "insert into pgtick.sequences (key) values ('idle'), ('used')")
	db.Replace(t, "pgtick.sweep_sequences()", "  delete from pgtick.sequences", "  perform pg_catalog.pg_advisory_xact_lock(4711); delete from pgtick.sequences")
	holder, sweeping := session(t, db), session(t, db)
	exec(t, holder, "select pg_advisory_lock(4711)")
	ended := inBackground(t, sweeping, "select pgtick.sweep_sequences()")
	awaitLock(t, db, sweeping)
	exec(t, db.Pool, `insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, created_at, sequence_key)
		values ('echo', 'default', 5, pgtick.now(), 1, '1 minute', '{}', pgtick.now(), 'used')`)
	exec(t, holder, "select pg_advisory_unlock(4711)")
	require.NoError(t, <-ended)
	require.Equal(t, []string{"used"}, all[string](t, db.Pool, "select key from pgtick.sequences"))
}

// At most twenty thousand are looked at, from a page on that is drawn by lot.
func TestSweep_OfMoreSequencesThanAreLookedAtAtOnce_FindsTheFirstAndTheLast(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "insert into pgtick.sequences (key, stops, stopped_at) select n::text, case when n between 2 and 24999 then '{1}'::bigint[] end, case when n between 2 and 24999 then pgtick.now() end from generate_series(1, 25000) as n")
	for range 30 {
		if sweep(t, db.Pool); one[int](t, db.Pool, "select count(*) from pgtick.sequences where stops is null") == 0 {
			return
		}
	}
	require.Fail(t, "not found", "%v", all[string](t, db.Pool, "select key from pgtick.sequences where stops is null"))
}

// Its own links may be in the hands of whoever ends what it waited for.
func TestAfter_CancelOfADependantWhoseLinkIsHeld_DoesNotWait(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := enqueue(t, db.Pool, "echo", after(enqueue(t, db.Pool, "echo")))
	holder := session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.job_links for update")
	require.Equal(t, "cancelled", one[string](t, impatient(t, db), "select pgtick.cancel($1)", id))
	exec(t, holder, "rollback")
	sweep(t, db.Pool)
}

func TestBatch_WithOutcomeDone_WhoseCallbackIsGone_EndsAllTheSame(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, members := batch(t, db, 1, ", p_outcome => 'done'")
	exec(t, db.Pool, "select pgtick.cancel($1)", callback)
	r.do(t, db.Pool, members[0], "failed")
	require.True(t, one[bool](t, db.Pool, "select finished_at is not null from pgtick.batches where id = $1", id))
	require.Equal(t, "cancelled", state(t, db.Pool, callback))
}

// Only those in whose way it stands wait for it: others of the same kind do not make a circle.
func TestChildren_WhatOnlyLooksLikeACircle_IsAllowed(t *testing.T) {
	t.Parallel()
	noon := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	for name, prepare := range map[string]func(*testing.T, *pgtest.DB) (parent claim, child int64){
		"a child in a sequence, in which the parent is not": func(t *testing.T, db *pgtest.DB) (claim, int64) {
			c := register(t, db.Pool).take(t, db.Pool, enqueue(t, db.Pool, "parent"))
			return c, enqueue(t, db.Pool, "child", inSequence)
		},
		"the callback of a batch of others": func(t *testing.T, db *pgtest.DB) (claim, int64) {
			c := register(t, db.Pool).take(t, db.Pool, enqueue(t, db.Pool, "parent"))
			_, callback, _ := batch(t, db, 1, "")
			return c, callback
		},
		"the callback of a batch that has ended, of which it is one": func(t *testing.T, db *pgtest.DB) (claim, int64) {
			r := register(t, db.Pool)
			_, callback, members := batch(t, db, 1, "")
			r.do(t, db.Pool, members[0], "failed")
			exec(t, db.Pool, "select pgtick.retry($1)", members[0])
			return r.claim(t, db.Pool, 1, "member")[0], callback
		},
		"a child that is not blocked, beside another slot of its own schedule that is": func(t *testing.T, db *pgtest.DB) (claim, int64) {
			exec(t, db.Pool, "select pgtick.schedule('s', '@every 1m', 'parent', p_on_overlap => 'wait', p_on_missed => 'all', p_starts_at => $1::timestamptz)", noon)
			pgtest.SetNow(t, db, noon.Add(130*time.Second))
			exec(t, db.Pool, "select pgtick.tick()")
			r := register(t, db.Pool)
			return r.claim(t, db.Pool, 1)[0], enqueue(t, db.Pool, "child")
		},
		"a slot of a schedule whose slots may overlap": func(t *testing.T, db *pgtest.DB) (claim, int64) {
			exec(t, db.Pool, "select pgtick.schedule('s', '@every 1m', 'parent', p_on_overlap => 'allow', p_on_missed => 'all', p_starts_at => $1::timestamptz)", noon)
			pgtest.SetNow(t, db, noon.Add(130*time.Second))
			exec(t, db.Pool, "select pgtick.tick()")
			r := register(t, db.Pool)
			c := r.claim(t, db.Pool, 2)
			if one[bool](t, db.Pool, "select (select slot from pgtick.live_jobs where id = $1) > (select slot from pgtick.live_jobs where id = $2)", c[0].id, c[1].id) {
				c[0], c[1] = c[1], c[0]
			}
			return c[0], c[1].id
		},
		"a slot that waits for its turn, in another schedule than its own": func(t *testing.T, db *pgtest.DB) (claim, int64) {
			exec(t, db.Pool, "select pgtick.schedule('s', '@every 1m', 'child', p_on_overlap => 'wait', p_on_missed => 'all', p_starts_at => $1::timestamptz)", noon)
			exec(t, db.Pool, "select pgtick.schedule('own', '@every 30s', 'parent', p_on_missed => 'all', p_starts_at => $1::timestamptz)", noon.Add(30*time.Second))
			pgtest.SetNow(t, db, noon.Add(130*time.Second))
			exec(t, db.Pool, "select pgtick.tick()")
			r := register(t, db.Pool)
			return r.claim(t, db.Pool, 1, "parent")[0], one[int64](t, db.Pool, "select id from pgtick.live_jobs where task = 'child' and blocked_by = 'overlap'")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			pgtest.SetNow(t, db, noon)
			parent, child := prepare(t, db)
			waitFor(t, db.Pool, parent, "any", child)
			require.Equal(t, "ready after after", state(t, db.Pool, parent.id))
		})
	}
}

// The same of a new job, which would wait for its own batch's callback.
func TestBatch_AJobThatOnlyLooksAsIfItWaitedForItself_IsAllowed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	earlier := enqueue(t, db.Pool, "echo", inSequence)
	id, callback, _ := batch(t, db, 1, "")
	enqueue(t, db.Pool, "echo", inSequence, after(callback))
	other := enqueue(t, db.Pool, "echo", "p_sequence_key => 'other'")
	linked := enqueue(t, db.Pool, "echo", after(other))
	for _, on := range []int64{earlier, other, linked} {
		enqueue(t, db.Pool, "member", inBatch(id), after(on))
	}
	refused(t, db.Pool, "TK021", fmt.Sprintf("select pgtick.enqueue('member', p_batch_id => %d, p_sequence_key => 'k')", id))
}

// Its effects commit with it, so the gates hold; and that somebody wants to cancel another one is no matter.
func TestChildren_WaitFor_KeepsToGates_AndIsNoMatterOfOthers(t *testing.T) {
	t.Parallel()
	db, r, c := gated(t)
	other := r.take(t, db.Pool, enqueue(t, db.Pool, "other"))
	require.Equal(t, "running", one[string](t, db.Pool, "select pgtick.cancel($1)", other.id))
	child := enqueue(t, db.Pool, "child")
	task := session(t, db)
	exec(t, task, "begin")
	exec(t, task, "update public.accounts set balance = -1")
	refused(t, task, "TK022", "select pgtick.wait_for($1, $2, array[$3::bigint])", c.id, c.fence, child)
	exec(t, task, "rollback")

	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	waitFor(t, db.Pool, c, "any", child)
	require.Equal(t, "ready after after", state(t, db.Pool, c.id))
	require.Empty(t, ear.heard(t), "there is nothing to do yet")
}

func TestChildren_ThatHaveAllEnded_TheParentIsTakenUpAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	child := enqueue(t, db.Pool, "child")
	r.do(t, db.Pool, child, "done")
	parent := r.take(t, db.Pool, enqueue(t, db.Pool, "parent"))
	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	waitFor(t, db.Pool, parent, "any", child)
	require.Equal(t, []string{"default"}, ear.heard(t))
	require.Equal(t, "ready", state(t, db.Pool, parent.id))
}
