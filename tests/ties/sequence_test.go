package ties

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const (
	inSequence = "p_sequence_key => 'k'"
	skips      = "p_sequence_failure => 'skip'"
)

// sequence enqueues n jobs of one key, each in a transaction of its own.
func sequence(t *testing.T, q asker, n int, settings ...string) (ids []int64) {
	t.Helper()
	for range n {
		ids = append(ids, enqueue(t, q, "echo", append([]string{inSequence}, settings...)...))
	}
	return ids
}

func resume(t *testing.T, q asker) {
	t.Helper()
	exec(t, q, "select pgtick.resume_sequence('k')")
}

func TestSequence_OneAtATime_InOrder_AcrossRetries(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 3)
	urgent := enqueue(t, db.Pool, "echo", inSequence, "p_priority => 0")
	for _, id := range ids {
		for _, outcome := range []string{"error", "snoozed", "released"} {
			r.do(t, db.Pool, id, outcome)
		}
		sleeper, ear := register(t, db.Pool), listen(t, db)
		c := r.take(t, db.Pool, id)
		sleeper.asleep(t, db)
		r.finish(t, db.Pool, c, "done")
		require.Equal(t, []string{"default"}, ear.heard(t))
		exec(t, db.Pool, "select pgtick.leave($1)", sleeper.id)
	}
	r.do(t, db.Pool, urgent, "done")
	clean(t, db)
}

func TestSequence_EnqueueMany_KeepsTheOrderOfTheArguments_WithinEachKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := all[int64](t, db.Pool, "select pgtick.enqueue_many('echo', array_fill('{}'::jsonb, '{5}'), p_sequence_keys => '{b,a,b,a,b}')")
	require.ElementsMatch(t, []int64{ids[0], ids[1]}, idsOf(r.claim(t, db.Pool, 10)))
	require.Less(t, ids[0], ids[2])
	require.Less(t, ids[2], ids[4])
	require.Less(t, ids[1], ids[3])
}

func TestSequence_OneFails_StopsThoseBehindIt_UntilItIsDoneAfterAll(t *testing.T) {
	t.Parallel()
	for _, outcome := range []string{"failed", "cancelled"} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := register(t, db.Pool)
			ids := sequence(t, db.Pool, 3)
			r.do(t, db.Pool, ids[0], outcome)
			later := enqueue(t, db.Pool, "echo", inSequence)
			sweep(t, db.Pool)
			require.Empty(t, r.claim(t, db.Pool, 10))
			require.Equal(t, fmt.Sprintf("k %d 3", ids[0]), one[string](t, db.Pool, "select key || ' ' || stopped_by || ' ' || waiting from pgtick.sequence_stops"))
			require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.health where what = 'sequence stopped'"))
			require.Equal(t, "its sequence is stopped", one[string](t, db.Pool, "select reason from pgtick.why($1) where rank = 1", ids[1]))

			exec(t, db.Pool, "select pgtick.retry($1)", ids[0])
			r.do(t, db.Pool, ids[0], "failed")
			require.Empty(t, r.claim(t, db.Pool, 10), "it failed again")
			exec(t, db.Pool, "select pgtick.retry($1)", ids[0])
			for _, id := range append(ids, later) {
				r.do(t, db.Pool, id, "done")
			}
			require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.sequence_stops"))
			clean(t, db)
		})
	}
}

func TestSequence_OneThatSkips_LetsTheOthersGoOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 3, skips)
	r.do(t, db.Pool, ids[0], "failed")
	exec(t, db.Pool, "select pgtick.cancel($1)", ids[1])
	r.do(t, db.Pool, ids[2], "done")
	clean(t, db)
}

func TestSequence_Resume_GoesOnWithoutTheOneThatFailed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 2)
	resume(t, db.Pool)
	r.do(t, db.Pool, ids[0], "failed")
	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	resume(t, db.Pool)
	require.Equal(t, []string{"default"}, ear.heard(t))
	r.do(t, db.Pool, ids[1], "done")
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.audit where action = 'resume_sequence' and subject = 'k'"))

	exec(t, db.Pool, "select pgtick.retry($1)", ids[0])
	r.do(t, db.Pool, ids[0], "done")
	clean(t, db)
}

// What is cancelled in the middle stops what comes after it, not what comes before.
func TestSequence_ACancelInTheMiddle_HoldsUpThoseBehindItAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 7)
	for _, i := range []int{5, 2} {
		exec(t, db.Pool, "select pgtick.cancel($1)", ids[i])
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.unsettled"), "there is nothing left to do")
	r.do(t, db.Pool, ids[0], "done")
	r.do(t, db.Pool, ids[1], "done")
	require.Empty(t, r.claim(t, db.Pool, 10))
	resume(t, db.Pool)
	r.do(t, db.Pool, ids[3], "done")
	r.do(t, db.Pool, ids[4], "done")
	require.Empty(t, r.claim(t, db.Pool, 10), "the second one that was cancelled stops, too")
	require.Equal(t, ids[5], one[int64](t, db.Pool, "select stopped_by from pgtick.sequence_stops"))
	exec(t, db.Pool, "select pgtick.retry($1)", ids[5])
	r.do(t, db.Pool, ids[5], "done")
	r.do(t, db.Pool, ids[6], "done")
	clean(t, db)
}

func TestSequence_AllCancelledByHand_OneResumeIsEnough(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	sequence(t, db.Pool, 20)
	require.Equal(t, 20, one[int](t, db.Pool, `select pgtick.cancel_where('{"sequence_key": "k"}')`))
	next := enqueue(t, db.Pool, "echo", inSequence)
	require.Empty(t, r.claim(t, db.Pool, 10))
	resume(t, db.Pool)
	r.do(t, db.Pool, next, "done")
	clean(t, db)
}

// Another transaction that has enqueued to the sequence, and is open, keeps the end from noting the stop: nobody may slip through meanwhile.
func TestSequence_AStopThatCannotBeNotedYet_HoldsAllTheSame(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 3)
	enqueuer := session(t, db)
	exec(t, enqueuer, "begin")
	late := enqueue(t, enqueuer, "echo", inSequence)
	r.do(t, db.Pool, ids[0], "failed")
	sweep(t, db.Pool)
	require.Empty(t, r.claim(t, db.Pool, 10))
	exec(t, enqueuer, "commit")
	exec(t, db.Pool, "select pgtick.cancel($1)", ids[2])
	later := enqueue(t, db.Pool, "echo", inSequence)
	require.Empty(t, r.claim(t, db.Pool, 10))
	rescue(t, db.Pool)
	require.Empty(t, r.claim(t, db.Pool, 10))
	require.Equal(t, ids[0], one[int64](t, db.Pool, "select stopped_by from pgtick.sequence_stops"))
	resume(t, db.Pool)
	r.do(t, db.Pool, ids[1], "done")
	resume(t, db.Pool)
	r.do(t, db.Pool, late, "done")
	r.do(t, db.Pool, later, "done")
	clean(t, db)
}

// Nor is one that comes first of all after such a stop overlooked, where no job of the sequence is left.
func TestSequence_AStopThatCannotBeNotedYet_HoldsTheNextToCome(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	exec(t, db.Pool, "insert into pgtick.sequences (key) values ('a'), ('z')")
	first := sequence(t, db.Pool, 1)[0]
	locking := session(t, db)
	exec(t, locking, "begin")
	exec(t, locking, "select from pgtick.sequences where key = 'k' for update")
	r.do(t, db.Pool, first, "failed")
	exec(t, locking, "commit")
	next := sequence(t, db.Pool, 1)[0]
	other := enqueue(t, db.Pool, "echo", "p_sequence_key => 'another'")
	require.Equal(t, []string{"ready after sequence", "ready"}, states(t, db.Pool, next, other))
	rescue(t, db.Pool)
	require.Equal(t, []string{"ready after sequence", "ready"}, states(t, db.Pool, next, other))
	require.Equal(t, first, one[int64](t, db.Pool, "select stopped_by from pgtick.sequence_stops"))
}

// reportAll sends the outcomes of these jobs, all of which the runner has, in one report.
func (r runner) reportAll(t *testing.T, q asker, claims []claim, outcomes map[int64]string) {
	t.Helper()
	ids, fences, all := []int64{}, []int64{}, []string{}
	for _, c := range claims {
		ids, fences, all = append(ids, c.id), append(fences, c.fence), append(all, outcomes[c.id])
	}
	require.True(t, one[bool](t, q, "select bool_and(accepted) from pgtick.finish($1, $2, $3, $4)", r.id, ids, fences, all))
}

func stops(t *testing.T, q asker) []string {
	t.Helper()
	return all[string](t, q, "select key || ' by ' || stops::text from pgtick.sequences where stops is not null order by key")
}

// Several sequences in one report, and a job of none: each stops, or goes on, by its own jobs alone.
func TestSequence_SeveralInOneReport_EachByItself(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	in := func(key string, more ...string) int64 {
		return enqueue(t, db.Pool, "echo", append([]string{"p_sequence_key => '" + key + "'"}, more...)...)
	}
	old := in("old")
	in("old")
	r.do(t, db.Pool, old, "failed")
	plain := enqueue(t, db.Pool, "echo")
	first := []int64{in("stops"), in("skips", skips), in("done")}
	second := []int64{in("stops"), in("skips"), in("done")}
	r.reportAll(t, db.Pool, r.claim(t, db.Pool, 10), map[int64]string{plain: "failed", first[0]: "failed", first[1]: "failed", first[2]: "done"})
	require.Equal(t, []string{"ready after sequence", "ready", "ready"}, states(t, db.Pool, second...))
	require.Equal(t, []string{fmt.Sprintf("old by {%d}", old), fmt.Sprintf("stops by {%d}", first[0])}, stops(t, db.Pool))
	exec(t, db.Pool, "select pgtick.cancel($1)", second[0])
	require.Equal(t, []string{fmt.Sprintf("old by {%d}", old), fmt.Sprintf("stops by {%d,%d}", first[0], second[0])}, stops(t, db.Pool))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.unsettled"))
}

func TestSequence_SeveralInOneReport_OfWhichOneIsLocked_NobodyWaits_AndNoStopIsLost(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	exec(t, db.Pool, "insert into pgtick.sequences (key) values ('a'), ('z')")
	ids := []int64{enqueue(t, db.Pool, "echo", inSequence), enqueue(t, db.Pool, "echo", "p_sequence_key => 'l'")}
	behind := []int64{enqueue(t, db.Pool, "echo", inSequence), enqueue(t, db.Pool, "echo", "p_sequence_key => 'l'")}
	locking, impatient := session(t, db), session(t, db)
	exec(t, locking, "begin")
	exec(t, locking, "select from pgtick.sequences where key = 'k' for update")
	exec(t, impatient, pgtest.WaitForNobody)
	r.reportAll(t, impatient, r.claim(t, db.Pool, 10), map[int64]string{ids[0]: "failed", ids[1]: "failed"})
	require.Equal(t, []string{fmt.Sprintf("l by {%d}", ids[1])}, stops(t, db.Pool))
	rescue(t, impatient)
	exec(t, locking, "commit")
	rescue(t, db.Pool)
	require.Equal(t, []string{fmt.Sprintf("k by {%d}", ids[0]), fmt.Sprintf("l by {%d}", ids[1])}, stops(t, db.Pool))
	require.Equal(t, []string{"ready after sequence", "ready after sequence"}, states(t, db.Pool, behind...))
}

// Nobody should, but then it stops all the same.
func TestSequence_WhoseRowSomebodyDeleted_Stops(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 2)
	exec(t, db.Pool, "delete from pgtick.sequences")
	exec(t, db.Pool, "insert into pgtick.sequences (key) values ('another')")
	r.do(t, db.Pool, ids[0], "failed")
	require.Equal(t, []string{fmt.Sprintf("k by {%d}", ids[0])}, stops(t, db.Pool))
}

// The one before it may be cancelled while it is waited for: then it is the one before that.
func TestSequence_AnEnqueueBehindOneThatIsBeingCancelled_WaitsForTheOneBefore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 2, skips)
	cancelling, enqueuer := session(t, db), session(t, db)
	exec(t, cancelling, "begin")
	exec(t, cancelling, "select from pgtick.live_jobs where id = $1 for update", ids[1])
	ended := inBackground(t, enqueuer, "select pgtick.enqueue('echo', p_sequence_key => 'k')")
	awaitLock(t, db, enqueuer)
	exec(t, cancelling, "delete from pgtick.live_jobs where id = $1", ids[1])
	exec(t, cancelling, "commit")
	require.NoError(t, <-ended)
	next := one[int64](t, db.Pool, "select max(id) from pgtick.jobs")
	require.Equal(t, "ready after sequence", state(t, db.Pool, next))
	r.do(t, db.Pool, ids[0], "done")
	r.do(t, db.Pool, next, "done")
	clean(t, db)
}

func TestSequence_Resume_IsOfThatOneAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	var ids, others []int64
	for range 3 {
		others = append(others, enqueue(t, db.Pool, "echo", "p_sequence_key => 'other'"))
		ids = append(ids, enqueue(t, db.Pool, "echo", inSequence))
	}
	r.reportAll(t, db.Pool, r.claim(t, db.Pool, 10), map[int64]string{ids[0]: "failed", others[0]: "failed"})
	resume(t, db.Pool)
	require.Equal(t, []string{fmt.Sprintf("other by {%d}", others[0])}, stops(t, db.Pool))
	r.do(t, db.Pool, ids[1], "done")
	r.do(t, db.Pool, ids[2], "done")
}

// A stop in the middle may be resumed before it is its turn.
func TestSequence_Resume_WhileAnEarlierOneRuns_LetsTheLaterOnesFollow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 3)
	first := r.take(t, db.Pool, ids[0])
	exec(t, db.Pool, "select pgtick.cancel($1)", ids[1])
	resume(t, db.Pool)
	require.Empty(t, stops(t, db.Pool))
	r.finish(t, db.Pool, first, "done")
	r.do(t, db.Pool, ids[2], "done")
	clean(t, db)
}

func TestSequence_Resume_BesideACancelUnderWay_KeepsThatStop(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 4)
	r.do(t, db.Pool, ids[0], "failed")
	cancelling, resuming := session(t, db), session(t, db)
	exec(t, cancelling, "begin")
	exec(t, cancelling, "select pgtick.cancel($1)", ids[2])
	ended := inBackground(t, resuming, "select pgtick.resume_sequence('k')")
	awaitLock(t, db, resuming)
	exec(t, cancelling, "commit")
	require.NoError(t, <-ended)
	require.Equal(t, []string{fmt.Sprintf("k by {%d}", ids[2])}, stops(t, db.Pool))
	r.do(t, db.Pool, ids[1], "done")
	require.Empty(t, r.claim(t, db.Pool, 10))
}

// What is not asked for is not noted in the job's row, and what is asked for is noted as it was said.
func TestTies_OfAJob_AreThoseThatWereAskedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	blocker := enqueue(t, db.Pool, "echo", "p_unique_key => 'u'")
	enqueue(t, db.Pool, "echo", after(blocker), "p_after_outcome => 'any'")
	enqueue(t, db.Pool, "echo", after(blocker))
	enqueue(t, db.Pool, "echo", inSequence)
	enqueue(t, db.Pool, "echo", "p_sequence_key => 'l'", skips)
	require.Equal(t, []string{"key u", "after any", "after done", "sequence stops", "sequence skips"}, all[string](t, db.Pool, `select concat_ws(' ', 'key ' || (uniqueness ->> 'key'), case when uniqueness is not null and uniqueness ->> 'key' is null then 'no key' end,
		case after_any when true then 'after any' when false then 'after done' end, case sequence_skips when true then 'sequence skips' when false then 'sequence stops' end)
		from pgtick.live_jobs order by id`))
}

func TestSequence_AnOpenEnqueue_IsSeenByTheEndOfTheOneBefore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	first := sequence(t, db.Pool, 1)[0]
	c := r.take(t, db.Pool, first)
	enqueuer := session(t, db)
	exec(t, enqueuer, "begin")
	next := enqueue(t, enqueuer, "echo", inSequence)
	require.Equal(t, "ask again", r.tryFinish(t, db.Pool, c, "done"))
	exec(t, enqueuer, "commit")
	r.finish(t, db.Pool, c, "done")
	r.do(t, db.Pool, next, "done")
	clean(t, db)
}

// Ids are in the order of the commits, since one enqueue waits for the other.
func TestSequence_TwoEnqueues_WaitForEachOther(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	a, b := session(t, db), session(t, db)
	exec(t, a, "begin")
	first := enqueue(t, a, "echo", inSequence)
	ended := inBackground(t, b, "select pgtick.enqueue('echo', p_sequence_key => 'k')")
	awaitLock(t, db, b)
	enqueue(t, db.Pool, "other", "p_sequence_key => 'another'")
	exec(t, a, "commit")
	require.NoError(t, <-ended)
	require.Equal(t, []int64{first}, idsOf(r.claim(t, db.Pool, 10, "echo")))
}

// A job that comes back into a sequence in which another one runs by now waits for that one.
func TestSequence_ARetry_WaitsForTheOneThatRuns(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 3, skips)
	r.do(t, db.Pool, ids[0], "failed")
	c := r.take(t, db.Pool, ids[1])
	exec(t, db.Pool, "select pgtick.retry($1)", ids[0])
	sweep(t, db.Pool)
	require.Equal(t, []string{"ready after sequence", "running", "ready after sequence"}, states(t, db.Pool, ids...))
	r.finish(t, db.Pool, c, "done")
	r.do(t, db.Pool, ids[0], "done")
	r.do(t, db.Pool, ids[2], "done")
	clean(t, db)
}

// As before, where the one whose turn it is has been put aside since its limit is full: it will run without asking the sequence again.
func TestSequence_ARetry_WaitsForTheOneWhoseLimitIsFull(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.set_limit('limited', p_max_running => 1, p_per_key => true)")
	r := register(t, db.Pool)
	ids := []int64{enqueue(t, db.Pool, "echo", inSequence, skips), enqueue(t, db.Pool, "limited", inSequence, "p_limit_key => 'x'")}
	r.do(t, db.Pool, ids[0], "failed")
	exec(t, db.Pool, "select pgtick.cancel($1)", ids[1])
	holder := enqueue(t, db.Pool, "limited", "p_limit_key => 'x'")
	c := r.take(t, db.Pool, holder)
	exec(t, db.Pool, "select pgtick.retry($1)", ids[1])
	require.Empty(t, r.claim(t, db.Pool, 10))
	require.Equal(t, "ready after limit", state(t, db.Pool, ids[1]))
	exec(t, db.Pool, "select pgtick.retry($1)", ids[0])
	require.Empty(t, r.claim(t, db.Pool, 10))
	r.finish(t, db.Pool, c, "done")
	r.do(t, db.Pool, ids[1], "done")
	r.do(t, db.Pool, ids[0], "done")
	clean(t, db)
}

// While a retry is under way nobody else may set a job of the sequence free, who cannot see it yet.
func TestSequence_ARetryUnderWay_IsNotOvertaken(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	first := sequence(t, db.Pool, 1, skips)[0]
	r.do(t, db.Pool, first, "failed")
	blocker := enqueue(t, db.Pool, "other")
	second := enqueue(t, db.Pool, "echo", inSequence, after(blocker))
	c := r.take(t, db.Pool, blocker)
	retrier := session(t, db)
	exec(t, retrier, "begin")
	exec(t, retrier, "select pgtick.retry($1)", first)
	r.finish(t, db.Pool, c, "done")
	exec(t, retrier, "commit")
	rescue(t, db.Pool)
	r.do(t, db.Pool, first, "done")
	r.do(t, db.Pool, second, "done")
	clean(t, db)
}

func TestSequence_AfterOthersAsWell_WaitsForBoth_InEitherOrder(t *testing.T) {
	t.Parallel()
	for _, blockerFirst := range []bool{true, false} {
		db := pgtest.New(t)
		r := register(t, db.Pool)
		blocker := enqueue(t, db.Pool, "other")
		enqueue(t, db.Pool, "echo", inSequence)
		both := enqueue(t, db.Pool, "echo", inSequence, after(blocker))
		last := enqueue(t, db.Pool, "echo", inSequence)
		claims := r.claim(t, db.Pool, 10)
		require.Len(t, claims, 2)
		if (claims[0].id == blocker) != blockerFirst {
			claims[0], claims[1] = claims[1], claims[0]
		}
		r.finish(t, db.Pool, claims[0], "done")
		require.Empty(t, r.claim(t, db.Pool, 10))
		r.finish(t, db.Pool, claims[1], "done")
		r.do(t, db.Pool, both, "done")
		r.do(t, db.Pool, last, "done")
		clean(t, db)
	}
}

// The end of what a job waits for, and the end of the job before it in its sequence, each without sight of the other.
func TestSequence_AfterOthersAsWell_BothEndAtOnce_NothingIsMissed(t *testing.T) {
	t.Parallel()
	for _, blockerFirst := range []bool{true, false} {
		db := pgtest.New(t)
		r := register(t, db.Pool)
		blocker := enqueue(t, db.Pool, "other")
		enqueue(t, db.Pool, "echo", inSequence)
		both := enqueue(t, db.Pool, "echo", inSequence, after(blocker))
		claims := r.claim(t, db.Pool, 10)
		if (claims[0].id == blocker) != blockerFirst {
			claims[0], claims[1] = claims[1], claims[0]
		}
		tasks := []*pgx.Conn{session(t, db), session(t, db)}
		for i, task := range tasks {
			exec(t, task, "begin")
			exec(t, task, "select pgtick.finish_in_transaction($1, $2)", claims[i].id, claims[i].fence)
		}
		exec(t, tasks[0], "commit")
		exec(t, tasks[1], "commit")
		rescue(t, db.Pool)
		r.do(t, db.Pool, both, "done")
		clean(t, db)
	}
}

func TestSequence_KeysWithoutJobs_AreForgotten_AndThoseWithJobsOrAStopAreNot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	idle, stopped := enqueue(t, db.Pool, "echo", "p_sequence_key => 'idle'"), enqueue(t, db.Pool, "echo", "p_sequence_key => 'stopped'")
	for _, c := range r.claim(t, db.Pool, 2) {
		r.finish(t, db.Pool, c, map[int64]string{idle: "done", stopped: "failed"}[c.id])
	}
	enqueue(t, db.Pool, "echo", "p_sequence_key => 'live'")
	enqueuer := session(t, db)
	exec(t, enqueuer, "begin")
	enqueue(t, enqueuer, "echo", "p_sequence_key => 'idle'")
	sweep(t, db.Pool)
	require.Equal(t, 3, one[int](t, db.Pool, "select count(*) from pgtick.sequences"), "one is in use")
	exec(t, enqueuer, "rollback")
	sweep(t, db.Pool)
	require.Equal(t, []string{"live", "stopped"}, all[string](t, db.Pool, "select key from pgtick.sequences order by key"))
}

func TestSequence_ALockedSuccessor_IsFreedByRescue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	stranger := enqueue(t, db.Pool, "elsewhere") // it has to do with no sequence, nor has the one that waits for it
	enqueue(t, db.Pool, "elsewhere", after(stranger))
	r := register(t, db.Pool)
	first, second := enqueue(t, db.Pool, "echo", "p_sequence_key => 'k'"), enqueue(t, db.Pool, "echo", "p_sequence_key => 'k'")
	c := r.take(t, db.Pool, first)
	holder := session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.live_jobs where id = $1 for update", second)
	r.finish(t, db.Pool, c, "done")
	rescue(t, db.Pool)
	exec(t, holder, "rollback")
	require.Equal(t, "ready after sequence", state(t, db.Pool, second))
	rescue(t, db.Pool)
	r.do(t, db.Pool, second, "done")
	exec(t, db.Pool, "select pgtick.cancel($1)", stranger)
	clean(t, db)
}

// Jobs of others lie between its own, and jobs of its own before the one that has stopped it.
func TestSequence_Resume_IsOfItsKeyAlone_AndGoesPastAllThatStopIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	in := func(key string) int64 { return enqueue(t, db.Pool, "echo", "p_sequence_key => '"+key+"'") }
	a1, z1, between, z2, z3, a2, a3, y1, y2, y3 := in("a"), in("z"), enqueue(t, db.Pool, "echo"), in("z"), in("z"), in("a"), in("a"), in("y"), in("y"), in("y")
	stops := func() []string {
		return all[string](t, db.Pool, "select s.key || ' ' || s.stops::text from pgtick.sequences as s where s.stops is not null order by s.key")
	}
	for _, id := range []int64{z1, z2, a1, a2, y2} {
		require.Equal(t, "cancelled", one[string](t, db.Pool, "select pgtick.cancel($1)", id))
	}
	stopped := []string{fmt.Sprintf("a {%d,%d}", a1, a2), fmt.Sprintf("y {%d}", y2), fmt.Sprintf("z {%d,%d}", z1, z2)}
	require.Equal(t, stopped, stops())
	exec(t, db.Pool, "select pgtick.resume_sequence('z')")
	require.Equal(t, stopped[:2], stops())
	require.Equal(t, []string{"ready", "ready after sequence"}, states(t, db.Pool, z3, a3))
	exec(t, db.Pool, "select pgtick.resume_sequence('y')")
	require.Equal(t, stopped[:1], stops())
	require.Equal(t, []string{"ready", "ready after sequence"}, states(t, db.Pool, y1, y3))
	exec(t, db.Pool, "select pgtick.resume_sequence('a')")
	require.Empty(t, stops())
	require.Equal(t, []string{"z", "y", "a"}, all[string](t, db.Pool, "select subject from pgtick.audit where action = 'resume_sequence' order by id"))
	claims := r.claim(t, db.Pool, 10)
	require.ElementsMatch(t, []int64{between, z3, a3, y1}, idsOf(claims))
	for _, c := range claims {
		r.finish(t, db.Pool, c, "done")
	}
	r.do(t, db.Pool, y3, "done")
	clean(t, db)
}

// In one report with jobs of no sequence, and of others.
func TestSequence_AFailureBesideOthers_StopsItsOwnAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	ids := sequence(t, db.Pool, 2)
	other, behind := enqueue(t, db.Pool, "echo", "p_sequence_key => 'other'"), enqueue(t, db.Pool, "echo", "p_sequence_key => 'other'")
	plain := enqueue(t, db.Pool, "echo")
	enqueue(t, db.Pool, "echo", after(plain))
	r.reportAll(t, db.Pool, r.claim(t, db.Pool, 10), map[int64]string{ids[0]: "failed", other: "done", plain: "failed"})
	require.Equal(t, []string{"ready after sequence", "ready"}, states(t, db.Pool, ids[1], behind))
	require.Equal(t, []string{"k"}, all[string](t, db.Pool, "select key from pgtick.sequence_stops"))
}
