package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// end adds a job and ends it so.
func end(t *testing.T, db *pgtest.DB, task, queue, outcome string) int64 {
	t.Helper()
	id := one[int64](t, db.Pool, "select pgtick.enqueue($1, p_queue => $2)", task, queue)
	r := register(t, db, "r", task)
	c := claim{ID: id, Fence: one[int64](t, db.Pool, "select fence from pgtick.claim($1, array[$2], array[$3], 1)", r.id, queue, task)}
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is(outcome)))
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	return id
}

// keptFor is for how many days from today a finished job is kept.
func keptFor(t *testing.T, db *pgtest.DB, id int64) int {
	t.Helper()
	return one[int](t, db.Pool, "select expires_on - (pgtick.now() at time zone 'UTC')::date from pgtick.history where id = $1", id)
}

// partitionOf is the table that a finished job lies in; none where there is no such job any more.
func partitionOf(t *testing.T, db *pgtest.DB, id int64) string {
	t.Helper()
	return one[string](t, db.Pool, "select coalesce((select tableoid::regclass::text from pgtick.history where id = $1), 'none')", id)
}

func maintain(t *testing.T, db *pgtest.DB) {
	t.Helper()
	exec(t, db.Pool, "select pgtick.maintain()")
	require.Nil(t, one[*string](t, db.Pool, "select problem from pgtick.upkeep where what = 'maintain'"))
}

func TestRetention_ByDefault_SevenDaysForDone_ThirtyForTheRest(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	for outcome, days := range map[string]int{"done": 7, "failed": 30, "cancelled": 30} {
		require.Equal(t, days, keptFor(t, db, end(t, db, "echo", "default", outcome)), outcome)
	}
}

func TestRetention_TaskAndQueue_GoBeforeTask_ThatBeforeQueue_ThatBeforeAll(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	kept := func() (days [4]int) {
		for i, of := range [][2]string{{"echo", "mail"}, {"echo", "default"}, {"other", "mail"}, {"other", "default"}} {
			days[i] = keptFor(t, db, end(t, db, of[0], of[1], "done"))
		}
		return days
	}
	exec(t, db.Pool, "select pgtick.set_retention(null, 'done', '11 days')")
	require.Equal(t, [4]int{11, 11, 11, 11}, kept())
	exec(t, db.Pool, "select pgtick.set_retention(null, 'done', '12 days', 'mail')")
	require.Equal(t, [4]int{12, 11, 12, 11}, kept())
	exec(t, db.Pool, "select pgtick.set_retention('echo', 'done', '13 days')")
	require.Equal(t, [4]int{13, 13, 12, 11}, kept())
	exec(t, db.Pool, "select pgtick.set_retention('echo', 'done', '14 days', 'mail')")
	require.Equal(t, [4]int{14, 13, 12, 11}, kept())
	require.Equal(t, 30, keptFor(t, db, end(t, db, "echo", "mail", "failed")), "only of the state that was named")

	exec(t, db.Pool, "select pgtick.set_retention('echo', 'done', null, 'mail')")
	require.Equal(t, [4]int{13, 13, 12, 11}, kept(), "one rule taken back, no other")
	exec(t, db.Pool, "select pgtick.set_retention('echo', null, null)")
	exec(t, db.Pool, "select pgtick.set_retention(null, 'done', null, 'mail')")
	require.Equal(t, [4]int{11, 11, 11, 11}, kept())
	exec(t, db.Pool, "select pgtick.set_retention(null, null, null)")
	require.Equal(t, [4]int{7, 7, 7, 7}, kept())
	require.Equal(t, `echo {"days": 14, "queue": "mail", "state": "done"}`, one[string](t, db.Pool,
		"select subject || ' ' || details::text from pgtick.audit where action = 'set_retention' order by id offset 3 limit 1"))
}

func TestRetention_WithoutAState_IsOfAllThree(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "select pgtick.set_retention('echo', 'failed', '3 days'), pgtick.set_retention('echo', null, '36 hours')")
	for _, outcome := range []string{"done", "failed", "cancelled"} {
		require.Equal(t, 2, keptFor(t, db, end(t, db, "echo", "default", outcome)), "whole days, and no less than was asked")
	}
	exec(t, db.Pool, "select pgtick.set_retention('echo', 'cancelled', '4 days')")
	require.Equal(t, 4, keptFor(t, db, end(t, db, "echo", "default", "cancelled")))
	require.Equal(t, 2, keptFor(t, db, end(t, db, "echo", "default", "done")), "only that one is changed by it")
}

func TestRetention_CountsForJobsThatEndAfterIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	before := end(t, db, "echo", "default", "done")
	exec(t, db.Pool, "select pgtick.set_retention('echo', 'done', '1 day')")
	require.Equal(t, 7, keptFor(t, db, before))
	require.Equal(t, 1, keptFor(t, db, end(t, db, "echo", "default", "done")))
}

// A partition a day for 400 days would make each look-up by id slow.
func TestRetention_BeyondFortyDays_GoesWithTheFirstOfAMonth(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC))
	for days, want := range map[int]string{40: "2031-06-15", 41: "2031-07-01", 56: "2031-07-01", 57: "2031-08-01", 400: "2032-07-01"} {
		exec(t, db.Pool, "select pgtick.set_retention('echo', 'done', make_interval(days => $1))", days)
		maintain(t, db)
		id := end(t, db, "echo", "default", "done")
		require.Equal(t, want, one[string](t, db.Pool, "select expires_on::text from pgtick.history where id = $1", id), "%d days", days)
		require.Equal(t, "pgtick.history_"+strings.ReplaceAll(want, "-", ""), partitionOf(t, db, id))
	}
}

func TestRetention_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for field, calls := range map[string][]string{
		"keep": {"'echo', 'done', '0'", "'echo', 'done', '-1 day'", "'echo', 'done', '23 hours'", "'echo', 'done', '401 days'", "'echo', 'done', '1 year 40 days'", "'echo', 'done', '99999999 years'",
			"'echo', 'done', '-1 year 361 days'"}, // which is as long as a day where intervals are compared
		"state": {"'echo', 'ready', '3 days'", "'echo', 'DONE', '3 days'", "'echo', '', '3 days'"},
		"task":  {"'', 'done', '3 days'", tooLong + ", 'done', '3 days'"},
		"queue": {"'echo', 'done', '3 days', ''", `'echo', 'done', '3 days', e'a\nb'`},
	} {
		for _, call := range calls {
			pg := refused(t, db.Pool, "TK000", "select pgtick.set_retention("+call+")")
			require.True(t, strings.HasPrefix(pg.Message, field+" "), "%s: %s", call, pg.Message)
		}
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.retentions"))
	for _, edge := range []string{"1 day", "400 days"} {
		exec(t, db.Pool, "select pgtick.set_retention('echo', 'done', $1)", edge)
	}
}

func TestMaintain_MakesThePartitions_OfTodayAndTheTwoDaysAfter_ForEachRetention(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	today := time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, today)
	exec(t, db.Pool, "select pgtick.set_retention('echo', 'done', '12 days'), pgtick.set_retention('mail', 'failed', '100 days')")
	maintain(t, db)
	days := all[string](t, db.Pool, `select right(c.relname, 8) from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
		where i.inhparent = 'pgtick.history'::regclass and c.relname ~ '_2031' order by 1`)
	require.Equal(t, []string{"20310513", "20310514", "20310515", "20310518", "20310519", "20310520", "20310605", "20310606", "20310607", "20310901"}, days)
	for ahead := range 3 {
		pgtest.SetNow(t, db, today.AddDate(0, 0, ahead))
		for _, of := range [][2]string{{"echo", "done"}, {"echo", "failed"}, {"mail", "failed"}, {"mail", "done"}} {
			require.NotEqual(t, "pgtick.history_default", partitionOf(t, db, end(t, db, of[0], "default", of[1])))
		}
	}
	maintain(t, db)
	maintain(t, db)
}

func TestMaintain_WhenItWasLate_MovesWhatEndedMeanwhile(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC))
	id := end(t, db, "echo", "default", "done")
	other := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_unique_key => 'k', p_unique_for => '35 days', p_unique_states => '{ready,cancelled}')")
	cancel(t, db.Pool, other)
	require.Equal(t, []string{"pgtick.history_default", "pgtick.history_default"}, []string{partitionOf(t, db, id), partitionOf(t, db, other)})
	before := everything(t, db, id)
	maintain(t, db)
	require.Equal(t, []string{"pgtick.history_20310513", "pgtick.history_20310611"}, []string{partitionOf(t, db, id), partitionOf(t, db, other)}, "also where no retention asks for that day")
	require.Equal(t, before, everything(t, db, id))
	require.Equal(t, "done 1", stateOf(t, db, id))
}

func TestMaintain_DropsWhatHasExpired_AndNothingElse(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	maintain(t, db)
	done, failed := end(t, db, "echo", "default", "done"), end(t, db, "echo", "default", "failed")
	partition := partitionOf(t, db, done)
	pgtest.SetNow(t, db, noon.AddDate(0, 0, 7))
	late := end(t, db, "echo", "default", "done")
	maintain(t, db)
	require.Equal(t, []string{"done 1", "failed 1"}, []string{stateOf(t, db, done), stateOf(t, db, failed)}, "seven days are not less than seven days")
	pgtest.SetNow(t, db, noon.Add(12*time.Hour).AddDate(0, 0, 7))
	maintain(t, db)
	require.Equal(t, "none", partitionOf(t, db, done))
	require.True(t, one[bool](t, db.Pool, "select to_regclass($1) is null", partition), "dropped, not emptied")
	require.Equal(t, []string{"failed 1", "done 1"}, []string{stateOf(t, db, failed), stateOf(t, db, late)})
	refused(t, db.Pool, "TK004", "select pgtick.retry($1)", done)
	pgtest.SetNow(t, db, noon.AddDate(0, 0, 31))
	maintain(t, db)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

// Rows that came to the default partition, and have expired there before upkeep came by, go as well.
func TestMaintain_DropsWhatHasExpired_AlsoInTheDefaultPartition(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	id := end(t, db, "echo", "default", "done")
	pgtest.SetNow(t, db, now.AddDate(0, 0, 8))
	maintain(t, db)
	require.Equal(t, "none", partitionOf(t, db, id))
}

// An open transaction that has read history keeps its partitions; upkeep must neither wait for it nor stop the finishes behind itself.
func TestMaintain_BesideAReader_GivesUpSoon_SaysSo_AndComesAgain(t *testing.T) {
	t.Parallel()
	for problem, prepare := range map[string]string{
		"partitions ahead: canceling statement due to lock timeout": "",
		"old partitions: canceling statement due to lock timeout":   "select pgtick.make_partition('history', d.day) from pgtick.history_days((pgtick.now() at time zone 'UTC')::date) as d(day)",
	} {
		t.Run(strings.Split(problem, ":")[0], func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Quiet(t)
			noon := freeze(t, db)
			maintain(t, db)
			rebuildIndexes(t, db.Pool)
			old := end(t, db, "echo", "default", "done")
			pgtest.SetNow(t, db, noon.AddDate(0, 0, 8))
			exec(t, db.Pool, prepare)
			reader, upkeep := session(t, db), session(t, db)
			exec(t, reader, "begin isolation level repeatable read")
			require.Equal(t, 1, one[int](t, reader, "select count(*) from pgtick.jobs"))
			r := register(t, db, "r", "echo")
			enqueue(t, db, "echo", 3)
			claims := r.claim(t, db.Pool, 3)

			exec(t, upkeep, "set statement_timeout = '15s'") // far beyond its own lock_timeout
			ended := inBackground(t, upkeep, "select pgtick.maintain()")
			awaitLock(t, db, upkeep)
			require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, claims[0].is("done")), "a finish that comes just then")
			require.NoError(t, <-ended)
			require.Contains(t, one[string](t, db.Pool, "select problem from pgtick.upkeep where what = 'maintain'"), problem)
			require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.upkeep where problem is not null"), "other upkeep has none")
			require.Contains(t, one[string](t, db.Pool, "select evidence from pgtick.health where what = 'upkeep'"), problem)
			require.Equal(t, "done 1", stateOf(t, db, old))
			require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, claims[1].is("done")), "and one after it")
			const due = "select pgtick.upkeep_due('maintain', '1 hour')"
			require.False(t, one[bool](t, db.Pool, due))
			pgtest.Advance(t, db, 61*time.Second)
			require.True(t, one[bool](t, db.Pool, due), "a minute later, not an hour")
			r.heartbeat(t, db.Pool)

			exec(t, reader, "commit")
			maintain(t, db)
			require.Equal(t, "none", partitionOf(t, db, old))
			require.Empty(t, all[string](t, db.Pool, "select evidence from pgtick.health where what = 'upkeep'"))
			require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, claims[2].is("done")))
		})
	}
}

// The looks for overdue attempts share a table with it, but are made only while a runner does not tell what it holds.
func TestMaintain_LateIsOnlyWhatIsToBeDoneEachHour(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	freeze(t, db)
	maintain(t, db)
	silent := register(t, db, "silent", "echo")
	pgtest.Advance(t, db, time.Second)
	silent.quietHeartbeat(t, db)
	rescue(t, db)
	exec(t, db.Pool, "select pgtick.leave($1)", silent.id)
	pgtest.Advance(t, db, 4*time.Hour)
	require.Equal(t, []string{"maintain"}, all[string](t, db.Pool, "select split_part(evidence, ',', 1) from pgtick.health where what = 'upkeep'"))
	maintain(t, db)
	require.Empty(t, all[string](t, db.Pool, "select concat_ws(' ', what, evidence) from pgtick.health"))
}

func TestMaintain_ForgetsWhatIsPast_AndKeepsTheRest(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	const aged = " from unnest('{61 days,59 days,0}'::interval[]) as x(age)"
	exec(t, db.Pool, "insert into pgtick.outages (began_at, ended_at) select pgtick.now() - x.age - interval '1 hour', pgtick.now() - x.age"+aged)
	exec(t, db.Pool, `insert into pgtick.runner_leases (name, queues, tasks, lease, lease_until, registered_at, heartbeat_at, ended_at, ended_as, freed_at)
		select 'freed', '{default}', '{echo}', '30 s', pgtick.now() - x.age, pgtick.now() - x.age, pgtick.now() - x.age, pgtick.now() - x.age, 'left', pgtick.now() - x.age`+aged)
	register(t, db, "alive", "echo")
	exec(t, db.Pool, `insert into pgtick.batch_defs (job_id, any_outcome, created_at, finished_at)
		select -1, true, pgtick.now() - x.age, pgtick.now() - x.age from unnest('{401 days,399 days}'::interval[]) as x(age)
		union all select -1, true, pgtick.now() - interval '500 days', null`)
	maintain(t, db)
	require.Equal(t, []string{"00:00:00", "59 days"}, all[string](t, db.Pool, "select (pgtick.now() - ended_at)::text from pgtick.outages order by ended_at desc"))
	require.Equal(t, []string{"alive", "freed 00:00:00", "freed 59 days"},
		all[string](t, db.Pool, "select concat_ws(' ', name, pgtick.now() - freed_at) from pgtick.runner_leases order by name, freed_at desc"))
	require.Equal(t, []string{"399 days", "open"}, all[string](t, db.Pool, "select coalesce((pgtick.now() - finished_at)::text, 'open') from pgtick.batch_defs order by id"))
}

// Who comes while another one is at it leaves everything to it.
func TestUpkeep_BesideAnother_DoesNothing_AndDoesNotWait(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"maintain()", "rebuild_indexes()"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Quiet(t)
			exec(t, db.Pool, "delete from pgtick.upkeep")
			first, second := session(t, db), session(t, db)
			exec(t, first, "begin")
			exec(t, first, "select pgtick."+call)
			exec(t, second, pgtest.WaitForNobody)
			exec(t, second, "select pgtick."+call)
			require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.upkeep"))
			exec(t, first, "commit")
			require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.upkeep where problem is null"))
		})
	}
}

func TestAudit_IsKeptFor400Days(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	exec(t, db.Pool, "select pgtick.pause_queue('mail')")
	pgtest.SetNow(t, db, noon.AddDate(0, 0, 400))
	maintain(t, db)
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.audit"))
	pgtest.SetNow(t, db, noon.AddDate(0, 0, 400).Add(time.Second))
	maintain(t, db)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.audit"))
}

// largeIndexes are those of a small table: of 50,000 jobs with long names, of which all but the ten first ones are gone. It returns their size in bytes.
func largeIndexes(t *testing.T, db *pgtest.DB) int64 {
	t.Helper()
	enqueue(t, db, "echo", 10)
	addLong(t, db, 50000)
	exec(t, db.Pool, "delete from pgtick.live_jobs where task <> 'echo'")
	require.Eventually(t, func() bool { // it passes over a page that somebody writes just now; alone, that is too little for it to look into the indexes
		exec(t, db.Pool, "vacuum (index_cleanup on) pgtick.live_jobs")
		return one[int64](t, db.Pool, "select pg_relation_size('pgtick.live_jobs')") < 1<<20
	}, patience, 50*time.Millisecond, "vacuum cuts the table")
	size := indexSize(t, db)
	require.Greater(t, size, int64(20<<20), "and no index")
	return size
}

// addLong adds jobs whose indexes are nearly as large as they are.
func addLong(t *testing.T, db *pgtest.DB, n int) {
	t.Helper()
	exec(t, db.Pool, `insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, created_at)
		select repeat('t', 200), repeat('q', 200), 5, pgtick.now(), 1, '1 s', '{}', pgtick.now() from generate_series(1, $1)`, n)
}

func indexSize(t *testing.T, db *pgtest.DB) int64 {
	t.Helper()
	return one[int64](t, db.Pool, "select pg_indexes_size('pgtick.live_jobs')")
}

// rebuildUntilIndexesHaveLessThan is patient with the server's own upkeep, which may be at the table for longer than two seconds.
func rebuildUntilIndexesHaveLessThan(t *testing.T, db *pgtest.DB, size int64) {
	t.Helper()
	require.Eventually(t, func() bool { return rebuildIndexes(t, db.Pool) > 0 && indexSize(t, db) < size }, patience, 50*time.Millisecond)
}

func rebuildIndexes(t *testing.T, db asker) int {
	t.Helper()
	return one[int](t, db, "select pgtick.rebuild_indexes()")
}

func TestRebuildIndexes_ThatABacklogHasLeftLarge_MakesThemSmall(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	largeIndexes(t, db)
	small := all[int64](t, db.Pool, "select pg_relation_filenode(i.indexrelid)::bigint from pg_index as i where i.indrelid = 'pgtick.live_jobs'::regclass and pg_relation_size(i.indexrelid) < 1024 * 1024")
	require.NotEmpty(t, small)
	rebuildUntilIndexesHaveLessThan(t, db, 1<<20)
	require.Subset(t, all[int64](t, db.Pool, "select pg_relation_filenode(i.indexrelid)::bigint from pg_index as i where i.indrelid = 'pgtick.live_jobs'::regclass"), small,
		"those that are small among them are left alone")
	r := register(t, db, "r", "echo")
	require.Len(t, r.claim(t, db.Pool, 20), 10)
	files := "select array_agg(pg_relation_filenode(i.indexrelid)::bigint order by i.indexrelid) from pg_index as i where i.indrelid = 'pgtick.live_jobs'::regclass"
	before := one[[]int64](t, db.Pool, files)
	require.Zero(t, rebuildIndexes(t, db.Pool))
	require.Equal(t, before, one[[]int64](t, db.Pool, files), "small ones are left alone")
}

// A table of some MiB is not cut to nothing, since a peak of each day fills it again.
func TestRebuildIndexes_LargerThanATableOfSomeMiB_DoesSoOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	large := largeIndexes(t, db)
	addLong(t, db, 15000)
	require.Greater(t, one[int64](t, db.Pool, "select pg_relation_size('pgtick.live_jobs')"), int64(8<<20))
	before := db.Replace(t, "pgtick.rebuild_indexes()", "v_table <= 32 * 1024 * 1024", "v_table <= 5 * 1024 * 1024") // in place of a table that large
	require.Zero(t, rebuildIndexes(t, db.Pool), "of a large table that would take too long")
	require.Greater(t, indexSize(t, db), large/2)
	exec(t, db.Pool, before)
	rebuildUntilIndexesHaveLessThan(t, db, large/2)
	require.Zero(t, rebuildIndexes(t, db.Pool))
}

// A task's transaction holds a lock on the table until its end, and may take long: upkeep makes nobody wait behind it, and comes again five minutes later.
func TestRebuildIndexes_WhileATaskIsAtItsJob_NeverStandsInLine_SaysNothing_AndComesAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	noon := freeze(t, db)
	exec(t, db.Pool, "delete from pgtick.upkeep") // migrate has done it, perhaps shortly before noon
	large := largeIndexes(t, db)
	r := register(t, db, "r", "echo")
	claims := r.claim(t, db.Pool, 2)
	task := session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.check_claim($1, $2)", claims[0].ID, claims[0].Fence)
	upkeep := session(t, db)
	exec(t, upkeep, "set statement_timeout = '15s'") // far beyond its own two seconds
	pid := one[int](t, upkeep, "select pg_backend_pid()")
	ended := make(chan error, 1)
	go func() { _, err := upkeep.Exec(t.Context(), "call pgtick.run_ticks()"); ended <- err }()
	for running := true; running; {
		select {
		case err := <-ended:
			require.NoError(t, err)
			running = false
		default:
			require.Zero(t, one[int](t, db.Pool, "select count(*) from pg_locks where pid = $1 and not granted", pid), "all others would wait behind it")
		}
	}
	require.Equal(t, []string{"indexes", "maintain"},
		all[string](t, db.Pool, "select what from pgtick.upkeep where what in ('indexes', 'maintain') and done_at = $1 and problem is null order by 1", noon))
	require.Equal(t, large, indexSize(t, db))
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, claims[1].is("done")))
	exec(t, task, "commit")
	pgtest.SetNow(t, db, noon.Add(5*time.Minute))
	exec(t, upkeep, "call pgtick.run_ticks()")
	require.Equal(t, large, indexSize(t, db), "not yet")
	require.Eventually(t, func() bool { // the server's own upkeep may be at the table for a moment
		pgtest.Advance(t, db, 5*time.Minute+time.Second)
		exec(t, upkeep, "call pgtick.run_ticks()")
		return indexSize(t, db) < large
	}, patience, 50*time.Millisecond)
}

func TestRebuildIndexes_ThatFails_LeavesThem_AndSaysWhyInHealth(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	exec(t, db.Pool, "create function public.odd(id bigint) returns bigint language sql immutable as $$ select id $$")
	exec(t, db.Pool, "create index odd_idx on pgtick.live_jobs (public.odd(id))")
	large := largeIndexes(t, db)
	exec(t, db.Pool, "create or replace function public.odd(id bigint) returns bigint language plpgsql immutable as $$ begin raise 'no room today'; end $$")
	said := "select evidence from pgtick.health where what = 'upkeep'"
	require.Eventually(t, func() bool { // the server's own upkeep may be at the table for longer than two seconds
		require.Zero(t, rebuildIndexes(t, db.Pool))
		return len(all[string](t, db.Pool, said)) > 0
	}, patience, 50*time.Millisecond)
	require.Regexp(t, "^indexes, at .*: no room today$", one[string](t, db.Pool, said))
	require.Equal(t, large, indexSize(t, db))
	exec(t, db.Pool, "drop index pgtick.odd_idx")
	rebuildUntilIndexesHaveLessThan(t, db, 1<<20)
	require.Empty(t, all[string](t, db.Pool, said))
}

// Reports wait for whoever drops partitions, and have locked their jobs before: whoever wanted the indexes in the same transaction would wait for these.
func TestMaintain_TakesNoLockForWhichReportsWouldWait_OnLiveJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	large := largeIndexes(t, db)
	upkeep := session(t, db)
	exec(t, upkeep, "begin")
	exec(t, upkeep, "select pgtick.maintain()")
	report := session(t, db)
	exec(t, report, "begin")
	exec(t, report, "lock table pgtick.live_jobs in row exclusive mode nowait")
	exec(t, report, "rollback")
	exec(t, upkeep, "commit")
	require.Equal(t, large, indexSize(t, db))
}
