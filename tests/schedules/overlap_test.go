package schedules

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// live tells the live jobs of a schedule as "slot state", in the order of their slots.
func live(t *testing.T, db *pgtest.DB, name string) []string {
	t.Helper()
	return all[string](t, db, `select to_char(slot at time zone 'UTC', 'HH24:MI') || ' ' || coalesce('blocked by ' || blocked_by, state)
		from pgtick.jobs where schedule = $1 and finished_at is null order by slot`, name)
}

// take claims the one job that can be claimed.
func take(t *testing.T, db *pgtest.DB) pgtest.Claimed {
	t.Helper()
	return pgtest.Claim(t, db, "r", time.Minute, "noop")
}

func finish(t *testing.T, db *pgtest.DB, c pgtest.Claimed, outcome string) {
	t.Helper()
	require.True(t, one[bool](t, db, "select accepted from pgtick.finish($1, array[$2::bigint], array[$3::bigint], array[$4])", c.RunnerID, c.ID, c.Fence, outcome))
}

func claimable(t *testing.T, db *pgtest.DB) int {
	t.Helper()
	return one[int](t, db, "select count(*) from pgtick.live_jobs where runner_id is null and run_at <= pgtick.now()")
}

// waiting is a database with a schedule of every minute, whose first job runs.
func waiting(t *testing.T, overlap string) (*pgtest.DB, pgtest.Claimed) {
	t.Helper()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_overlap => $1)", overlap)
	at(t, db, "2026-03-01T10:01:00Z")
	require.Equal(t, 1, tick(t, db))
	return db, take(t, db)
}

func TestOverlap_Wait_RunsOneJobAfterTheOther(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "wait")
	for _, now := range []string{"2026-03-01T10:02:00Z", "2026-03-01T10:03:00Z"} {
		at(t, db, now)
		require.Equal(t, 1, tick(t, db))
	}
	require.Equal(t, []string{"10:01 running", "10:02 blocked by overlap", "10:03 blocked by overlap"}, live(t, db, "s"))
	require.Zero(t, claimable(t, db))
	require.Contains(t, one[string](t, db, "select reason from pgtick.slots where slot = '2026-03-01 10:02+00'"), "it waits for job")
	finish(t, db, first, "error") // tried again later: it lives on, and they wait on
	require.Equal(t, []string{"10:01 ready", "10:02 blocked by overlap", "10:03 blocked by overlap"}, live(t, db, "s"))
	at(t, db, "2026-03-01T10:03:40Z")
	finish(t, db, take(t, db), "done")
	require.Equal(t, []string{"10:02 ready", "10:03 blocked by overlap"}, live(t, db, "s"))
	require.True(t, one[bool](t, db, "select run_at = pgtick.now() from pgtick.jobs where slot = '2026-03-01 10:02+00'"), "it may run from the moment on at which it was freed")
	finish(t, db, take(t, db), "failed")
	require.Equal(t, []string{"10:03 ready"}, live(t, db, "s"))
	require.Equal(t, []string{"03-01 10:01 enqueued", "03-01 10:02 enqueued", "03-01 10:03 enqueued"}, fates(t, db, "s"))
}

func TestOverlap_Wait_WhenOneInTheMiddleIsCancelled_TheNextStillWaits(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "wait")
	for _, now := range []string{"2026-03-01T10:02:00Z", "2026-03-01T10:03:00Z"} {
		at(t, db, now)
		tick(t, db)
	}
	exec(t, db, "select pgtick.cancel(id) from pgtick.jobs where slot = '2026-03-01 10:02+00'")
	require.Equal(t, []string{"10:01 running", "10:03 blocked by overlap"}, live(t, db, "s"))
	exec(t, db, "select pgtick.cancel($1)", first.ID) // only asked for: it runs until it stops
	require.Equal(t, []string{"10:01 running", "10:03 blocked by overlap"}, live(t, db, "s"))
	finish(t, db, first, "cancelled")
	require.Equal(t, []string{"10:03 ready"}, live(t, db, "s"))
}

func TestOverlap_Wait_IsFreedInTheTransactionThatEndsTheJobBefore(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "wait")
	at(t, db, "2026-03-01T10:02:00Z")
	tick(t, db)
	exec(t, db, "select pgtick.finish_in_transaction($1, $2)", first.ID, first.Fence)
	require.Equal(t, []string{"10:02 ready"}, live(t, db, "s"))
}

func TestOverlap_Wait_WhenTheRunnerDies_WaitsForTheRescuedJob(t *testing.T) {
	t.Parallel()
	db, _ := waiting(t, "wait")
	at(t, db, "2026-03-01T10:02:00Z")
	tick(t, db)
	pgtest.Advance(t, db, 2*time.Minute)
	pgtest.Expire(t, db)
	require.Equal(t, []string{"10:01 ready", "10:02 blocked by overlap"}, live(t, db, "s"))
	finish(t, db, take(t, db), "done")
	require.Equal(t, []string{"10:02 ready"}, live(t, db, "s"))
}

// The tick passes over a job that is locked just then, by what ends it: so neither sees the other.
func TestOverlap_Wait_WhenTickAndFinishMissEachOther_RescueFreesTheJob(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "wait")
	ending, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = ending.Rollback(t.Context()) }()
	_, err = ending.Exec(t.Context(), "select pgtick.finish_in_transaction($1, $2)", first.ID, first.Fence)
	require.NoError(t, err)
	at(t, db, "2026-03-01T10:02:00Z")
	require.Equal(t, 1, tick(t, db), "it does not wait for the lock")
	require.NoError(t, ending.Commit(t.Context()))
	require.Equal(t, []string{"10:02 blocked by overlap"}, live(t, db, "s"))
	exec(t, db, "select pgtick.rescue()")
	require.Equal(t, []string{"10:02 ready"}, live(t, db, "s"))
}

func TestOverlap_Wait_RescueFreesThoseOfAllSchedules(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	for _, name := range []string{"a", "b", "c"} {
		exec(t, db, "select pgtick.schedule($1, '* * * * *', 'noop', p_on_overlap => 'wait')", name)
	}
	for _, now := range []string{"2026-03-01T10:01:00Z", "2026-03-01T10:02:00Z"} {
		at(t, db, now)
		require.Equal(t, 3, tick(t, db))
	}
	exec(t, db, "delete from pgtick.live_jobs where blocked_by is null and schedule_id <> (select id from pgtick.schedule_defs where name = 'b')") // ended unseen
	exec(t, db, "select pgtick.rescue()")
	require.Equal(t, []string{"10:02 ready"}, live(t, db, "a"))
	require.Equal(t, []string{"10:01 ready", "10:02 blocked by overlap"}, live(t, db, "b"))
	require.Equal(t, []string{"10:02 ready"}, live(t, db, "c"))
}

// Of two clocks that see the same waiting job, the one that comes late finds that it has run meanwhile, and is to be tried again in an hour.
func TestOverlap_Wait_ARescueThatComesLate_ChangesNothingOfAJobThatWasFreedMeanwhile(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "wait")
	at(t, db, "2026-03-01T10:02:00Z")
	tick(t, db)
	exec(t, db, "delete from pgtick.live_jobs where id = $1", first.ID) // ended unseen
	late, stopped, goOn := db.StopAt(t, "update on pgtick.live_jobs")
	ended := make(chan error, 1)
	go func() {
		_, err := late.Exec(t.Context(), "select pgtick.rescue()")
		ended <- err
	}()
	stopped()
	exec(t, db, "select pgtick.rescue()")
	next := take(t, db)
	require.True(t, one[bool](t, db, "select accepted from pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{error}', p_retry_at => array[pgtick.now() + interval '1 hour'])",
		next.RunnerID, next.ID, next.Fence))
	goOn()
	require.NoError(t, <-ended)
	require.True(t, one[bool](t, db, "select run_at = pgtick.now() + interval '1 hour' from pgtick.live_jobs where id = $1", next.ID))
}

// While a tick that made a job wait has not committed, what it waits for cannot end unseen.
func TestOverlap_Wait_WhileTheTickIsOpen_FinishAsksAgain(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "wait")
	exec(t, db, `insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, created_at, schedule_id, slot)
		values ('noop', 'default', 5, 'infinity', 1, '1 hour', '{}', now(), pgtick.schedule('older', '0 0 1 1 *', 'noop'), '2026-01-01')`) // it is its own that is locked
	at(t, db, "2026-03-01T10:02:00Z")
	ticking, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = ticking.Rollback(t.Context()) }()
	_, err = ticking.Exec(t.Context(), "select pgtick.tick()")
	require.NoError(t, err)
	answer := "select accepted from pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{done}')"
	require.Nil(t, one[*bool](t, db, answer, first.RunnerID, first.ID, first.Fence))
	require.NoError(t, ticking.Commit(t.Context()))
	require.True(t, one[bool](t, db, answer, first.RunnerID, first.ID, first.Fence))
	require.Equal(t, []string{"10:02 ready"}, live(t, db, "s"))
}

// Somebody may be at the next job, to cancel it for one: whoever ends the job before it does not wait for that.
func TestOverlap_Wait_WhileTheNextOneIsLocked_FinishDoesNotWait_AndRescueFreesIt(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "wait")
	at(t, db, "2026-03-01T10:02:00Z")
	tick(t, db)
	cancelling, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = cancelling.Rollback(t.Context()) }()
	_, err = cancelling.Exec(t.Context(), "select from pgtick.live_jobs where blocked_by = 'overlap' for update")
	require.NoError(t, err)
	impatient, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer func() { _ = impatient.Close(t.Context()) }()
	_, err = impatient.Exec(t.Context(), pgtest.WaitForNobody)
	require.NoError(t, err)
	_, err = impatient.Exec(t.Context(), "select pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{done}')", first.RunnerID, first.ID, first.Fence)
	require.NoError(t, err)
	require.Equal(t, []string{"10:02 blocked by overlap"}, live(t, db, "s"))
	require.NoError(t, cancelling.Rollback(t.Context()))
	exec(t, db, "select pgtick.rescue()")
	require.Equal(t, []string{"10:02 ready"}, live(t, db, "s"))
}

func TestOverlap_Wait_WakesTheRunner(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "wait")
	at(t, db, "2026-03-01T10:02:00Z")
	tick(t, db)
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	_, err = conn.Exec(t.Context(), "listen pgtick")
	require.NoError(t, err)
	exec(t, db, "select pgtick.sleep($1, '1 minute')", first.RunnerID)
	finish(t, db, first, "done")
	heard, err := notified(t, conn)
	require.NoError(t, err)
	require.Equal(t, "default", heard.Payload)
}

func TestOverlap_Wait_OnceFreed_KeepsTheJitterOfItsOwnSchedule(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T09:30:00Z")
	exec(t, db, `select pgtick.schedule('sharp', '0 * * * *', 'noop', p_on_overlap => 'wait'), pgtick.schedule('spread', '0 * * * *', 'noop', p_on_overlap => 'wait', p_jitter => '50 minutes'),
		pgtick.schedule('also sharp', '0 * * * *', 'noop', p_on_overlap => 'wait')`)
	at(t, db, "2026-03-01T10:00:00Z")
	require.Equal(t, 3, tick(t, db))
	at(t, db, "2026-03-01T11:00:00Z")
	require.Equal(t, 3, tick(t, db))
	finishJobs(t, db)
	require.Equal(t, []string{"also sharp true 00:00:00", "sharp true 00:00:00", "spread true"}, all[string](t, db, `
		select schedule || ' ' || (run_at - slot between '0' and '50 minutes') || case when schedule <> 'spread' then ' ' || (run_at - slot) else '' end
		from pgtick.jobs where slot = '2026-03-01 11:00+00' order by schedule`))
	require.NotEqual(t, one[time.Time](t, db, "select slot from pgtick.jobs where schedule = 'spread' and finished_at is null"),
		one[time.Time](t, db, "select run_at from pgtick.jobs where schedule = 'spread' and finished_at is null"))
}

func TestOverlap_Wait_IsTheDefaultWithAll_AndCatchesUpInOrder(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'all', p_jitter => '1 second')")
	require.Equal(t, "wait", one[string](t, db, "select on_overlap from pgtick.schedules"))
	at(t, db, "2026-03-01T10:40:30Z")
	require.Equal(t, 4, tick(t, db))
	require.Equal(t, []string{"10:10 ready", "10:20 blocked by overlap", "10:30 blocked by overlap", "10:40 blocked by overlap"}, live(t, db, "s"))
	for range 4 {
		require.Equal(t, 1, claimable(t, db))
		finish(t, db, take(t, db), "done")
	}
	require.Empty(t, live(t, db, "s"))
	require.Equal(t, []string{"10:10", "10:20", "10:30", "10:40"},
		all[string](t, db, "select to_char(slot at time zone 'UTC', 'HH24:MI') from pgtick.jobs order by started_at, id"))
}

func TestOverlap_Cancel_ReplacesWhatWaits_AndStopsWhatRuns(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "cancel")
	at(t, db, "2026-03-01T10:02:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"10:01 running", "10:02 blocked by overlap"}, live(t, db, "s"), "the newer one runs when the older one has stopped")
	require.Equal(t, "cancelled", one[string](t, db, "select reason from pgtick.heartbeat($1, array[$2::bigint], array[$3::bigint]) as h(job_id, fence, reason)", first.RunnerID, first.ID, first.Fence))
	at(t, db, "2026-03-01T10:03:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"10:01 running", "10:03 blocked by overlap"}, live(t, db, "s"))
	require.Equal(t, "cancelled replaced by slot 2026-03-01 10:03:00 UTC of its schedule (on_overlap cancel)",
		one[string](t, db, "select state || ' ' || (last_error ->> 'message') from pgtick.jobs where slot = '2026-03-01 10:02+00'"))
	finish(t, db, first, "cancelled")
	require.Equal(t, []string{"10:03 ready"}, live(t, db, "s"))
	at(t, db, "2026-03-01T10:04:00Z")
	tick(t, db)
	require.Equal(t, []string{"10:04 ready"}, live(t, db, "s"), "what only waits is gone at once")
	require.Equal(t, []string{"03-01 10:01 enqueued", "03-01 10:02 enqueued", "03-01 10:03 enqueued", "03-01 10:04 enqueued"}, fates(t, db, "s"))
}

func TestOverlap_Cancel_OfSlotsTakenTogether_TheLastHasTheJob(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_overlap => 'cancel')")
	at(t, db, "2026-03-01T10:02:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"03-01 10:01 skipped_overlap", "03-01 10:02 enqueued"}, fates(t, db, "s"))
	require.Contains(t, one[string](t, db, "select reason from pgtick.slots where fate = 'skipped_overlap'"), "slot 2026-03-01 10:02:00 UTC, accounted for at the same moment, replaces it")
}

// A report of progress that has not committed yet holds the row on which a cancel request is noted: that schedule is left to the next
// tick, and the others are not.
func TestOverlap_Cancel_WhileTheRequestCannotBeNoted_DelaysNoOtherSchedule(t *testing.T) {
	t.Parallel()
	db, first := waiting(t, "cancel")
	exec(t, db, "select pgtick.schedule('other', '* * * * *', 'noop', p_on_overlap => 'wait'), pgtick.schedule('third', '* * * * *', 'noop')")
	reporting, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = reporting.Rollback(t.Context()) }()
	_, err = reporting.Exec(t.Context(), "select pgtick.progress($1, $2, 0.5)", first.ID, first.Fence)
	require.NoError(t, err)
	at(t, db, "2026-03-01T10:02:00Z")
	require.Equal(t, 2, tick(t, db))
	require.Equal(t, []string{"03-01 10:01 enqueued"}, fates(t, db, "s"))
	require.Equal(t, []string{"03-01 10:02 enqueued"}, fates(t, db, "other"))
	require.Equal(t, []string{"03-01 10:02 enqueued"}, fates(t, db, "third"))
	require.NoError(t, reporting.Commit(t.Context()))
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"03-01 10:01 enqueued", "03-01 10:02 enqueued"}, fates(t, db, "s"))
	require.Nil(t, one[*string](t, db, "select broken_why from pgtick.schedules where name = 's'"))
}

// The long way is taken where several slots are due at once.
func TestOverlap_OfSlotsTakenTogether_IsNotWithJobsOfOtherSchedules(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('busy', '1 * * * *', 'noop')")
	at(t, db, "2026-03-01T10:01:00Z")
	require.Equal(t, 1, tick(t, db))
	exec(t, db, "select pgtick.schedule(n, '* * * * *', 'noop', p_on_overlap => n) from unnest('{skip,wait,cancel}'::text[]) as n")
	at(t, db, "2026-03-01T10:03:00Z")
	tick(t, db)
	require.Equal(t, []string{"03-01 10:02 enqueued", "03-01 10:03 skipped_overlap"}, fates(t, db, "skip"))
	require.Equal(t, []string{"03-01 10:02 skipped_overlap", "03-01 10:03 enqueued"}, fates(t, db, "cancel"))
	require.Equal(t, []string{"busy 10:01", "cancel 10:03", "skip 10:02", "wait 10:02", "wait 10:03 overlap"}, all[string](t, db,
		"select concat_ws(' ', j.schedule, to_char(j.slot at time zone 'UTC', 'HH24:MI'), j.blocked_by) from pgtick.jobs as j where j.state = 'ready' order by 1"))
}

// What the row of a slot says of it, where several are taken at once: those that have no job say which one has it, and those that were missed do not
// wait for anything.
func TestOverlap_OfSlotsTakenTogether_TellsEachItsReason(t *testing.T) {
	t.Parallel()
	const job, slot = "job [0-9]+ of slot 2026-03-01 10:00:10 UTC", "slot 2026-03-01 10:00:%s UTC, accounted for at the same moment"
	for overlap, want := range map[string][][]string{
		"skip":   {{"", "skipped_overlap " + fmt.Sprintf(slot, "10") + ", has the job"}, {"skipped_overlap " + job + " was still live"}},
		"wait":   {{"", "enqueued it waits for the slot before it"}, {"enqueued it waits for " + job}},
		"cancel": {{"skipped_overlap " + fmt.Sprintf(slot, "20") + ", replaces it", ""}, {"enqueued " + job + " is cancelled for it"}},
	} {
		t.Run(overlap, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			at(t, db, "2026-03-01T10:00:00Z")
			exec(t, db, "select pgtick.schedule('s', '@every 10s', 'noop', p_on_overlap => $1)", overlap)
			reasons := func(from string) []string {
				return all[string](t, db, "select case when reason is null then '' else fate || ' ' || reason end from pgtick.slots where schedule = 's' and slot > $1::timestamptz order by slot", instant(t, from))
			}
			at(t, db, "2026-03-01T10:00:20Z")
			tick(t, db)
			require.Equal(t, want[0], reasons("2026-03-01T10:00:00Z"))
			if overlap == "cancel" {
				return // the job of the first one is none
			}
			at(t, db, "2026-03-01T10:00:30Z")
			tick(t, db)
			for _, reason := range reasons("2026-03-01T10:00:20Z") {
				require.Regexp(t, "^"+want[1][0]+"$", reason)
			}
		})
	}

	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'all', p_catch_up_limit => 2, p_on_overlap => 'wait')")
	at(t, db, "2026-03-01T10:10:00Z")
	tick(t, db)
	at(t, db, "2026-03-01T11:00:00Z")
	tick(t, db)
	require.Equal(t, []string{"enqueued false", "missed false", "missed false", "caught_up true", "caught_up true", "enqueued true"},
		all[string](t, db, "select fate || ' ' || coalesce(reason like '%it waits for%', false) from pgtick.slots order by slot"))
}
