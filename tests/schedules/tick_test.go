package schedules

import (
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestTick_WhenASlotIsOnTime_EnqueuesIt(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:00Z") // a slot at the very moment of the call is not after it
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop')")
	require.Zero(t, tick(t, db))
	at(t, db, "2026-03-01T10:12:00Z") // two minutes late: still on time
	require.Equal(t, 1, tick(t, db))
	require.Zero(t, tick(t, db))
	require.Equal(t, []string{"03-01 10:10 enqueued"}, fates(t, db, "s"))
	require.Equal(t, "00:02:00 other 1 2026-03-01 10:20:00", one[string](t, db, `select concat_ws(' ', l.lateness, l.clock, l.version, s.next_at at time zone 'UTC')
		from pgtick.slots as l join pgtick.schedules as s on s.name = l.schedule join pgtick.jobs as j on j.id = l.job_id and j.state = 'ready' and l.reason is null`))
}

func TestTick_AfterAnOutage_FollowsOnMissed(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		settings string
		want     []string
	}{
		"skip": {"p_on_missed => 'skip', p_on_overlap => 'allow'",
			[]string{"10:10 missed", "10:20 missed", "10:30 missed", "10:40 missed", "10:50 enqueued"}},
		"once": {"p_on_missed => 'once', p_on_overlap => 'allow'",
			[]string{"10:10 missed", "10:20 missed", "10:30 missed", "10:40 caught_up", "10:50 enqueued"}},
		"once, and a job at a time": {"",
			[]string{"10:10 missed", "10:20 missed", "10:30 missed", "10:40 caught_up", "10:50 skipped_overlap"}},
		"all": {"p_on_missed => 'all'",
			[]string{"10:10 caught_up", "10:20 caught_up", "10:30 caught_up", "10:40 caught_up", "10:50 enqueued"}},
		"all, within a limit": {"p_on_missed => 'all', p_catch_up_limit => 2",
			[]string{"10:10 missed", "10:20 missed", "10:30 caught_up", "10:40 caught_up", "10:50 enqueued"}},
		"all, none of them": {"p_on_missed => 'all', p_catch_up_limit => 0",
			[]string{"10:10 missed", "10:20 missed", "10:30 missed", "10:40 missed", "10:50 enqueued"}},
		"all, within a window": {"p_on_missed => 'all', p_catch_up_window => '21 minutes'",
			[]string{"10:10 missed", "10:20 missed", "10:30 caught_up", "10:40 caught_up", "10:50 enqueued"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			at(t, db, "2026-03-01T10:00:30Z")
			settings := row.settings
			if settings != "" {
				settings = ", " + settings
			}
			exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop'"+settings+")")
			tick(t, db)
			at(t, db, "2026-03-01T10:50:30Z")
			tick(t, db)
			got := all[string](t, db, "select to_char(slot at time zone 'UTC', 'HH24:MI') || ' ' || fate from pgtick.slots order by slot")
			require.Equal(t, row.want, got)
			require.Equal(t, one[int](t, db, "select count(*) from pgtick.slots where job_id is not null"), one[int](t, db, "select count(*) from pgtick.jobs"))
			require.Zero(t, one[int](t, db, `select count(*) from pgtick.slots where fate in ('missed', 'caught_up')
				and reason not like 'no clock ticked from 2026-03-01 10:00:30 UTC to 2026-03-01 10:50:30 UTC; on_missed %'`))
		})
	}
}

func TestTick_WhenOneSlotIsLate_FollowsOnMissed(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ settings, want string }{
		"skip":           {"p_on_missed => 'skip'", "missed"},
		"once":           {"p_on_missed => 'once'", "caught_up"},
		"all":            {"p_on_missed => 'all'", "caught_up"},
		"all, limit 0":   {"p_on_missed => 'all', p_catch_up_limit => 0", "missed"},
		"all, in window": {"p_on_missed => 'all', p_catch_up_window => '10 minutes'", "caught_up"},
		"all, too old":   {"p_on_missed => 'all', p_catch_up_window => '2 minutes'", "missed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			at(t, db, "2026-03-01T10:00:30Z")
			exec(t, db, "select pgtick.schedule('s', '0 11 * * *', 'noop', "+row.settings+")")
			at(t, db, "2026-03-01T11:05:00Z")
			tick(t, db)
			require.Equal(t, []string{"03-01 11:00 " + row.want}, fates(t, db, "s"))
		})
	}
}

func TestTick_WhileAnEarlierJobIsLive_FollowsOnOverlap(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('skip', '* * * * *', 'noop'), pgtick.schedule('allow', '* * * * *', 'noop', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T10:01:00Z")
	require.Equal(t, 2, tick(t, db))
	at(t, db, "2026-03-01T10:02:00Z")
	require.Equal(t, 1, tick(t, db))
	finishJobs(t, db)
	at(t, db, "2026-03-01T10:03:00Z")
	require.Equal(t, 2, tick(t, db))
	require.Equal(t, []string{"03-01 10:01 enqueued", "03-01 10:02 skipped_overlap", "03-01 10:03 enqueued"}, fates(t, db, "skip"))
	require.Equal(t, []string{"03-01 10:01 enqueued", "03-01 10:02 enqueued", "03-01 10:03 enqueued"}, fates(t, db, "allow"))
	require.Regexp(t, `job \d+ of slot 2026-03-01 10:01:00 UTC was still live`, one[string](t, db, "select reason from pgtick.slots where fate = 'skipped_overlap'"))
	require.Equal(t, "enqueued ready 1 0 1.000", one[string](t, db, "select concat_ws(' ', last_fate, last_state, recent_done, recent_failed, success_rate) from pgtick.schedules where name = 'skip'"))
}

func TestTick_AfterFortyDays_AccountsForEachMinute_InFewRows(t *testing.T) {
	t.Parallel()
	const minutes = 40 * 24 * 60
	for name, settings := range map[string]string{
		"utc": "", "over a shift of the zone": ", p_time_zone => 'America/New_York'", "all": ", p_on_missed => 'all', p_catch_up_limit => 1500",
		"skip": ", p_on_missed => 'skip', p_on_overlap => 'allow'", "paused": "", "an interval": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			at(t, db, "2026-02-15T10:00:30Z")
			cron, slots := "* * * * *", minutes
			if name == "an interval" {
				cron, slots = "@every 1s", minutes*60
			}
			exec(t, db, "select pgtick.schedule('s', $1, 'noop'"+settings+")", cron)
			if name == "paused" {
				exec(t, db, "select pgtick.pause_schedule('s')")
			}
			at(t, db, "2026-03-27T10:00:30Z")
			tick(t, db)
			require.Equal(t, slots, one[int](t, db, "select sum(slots)::int from pgtick.slots"))
			require.LessOrEqual(t, one[int](t, db, "select count(*) from pgtick.slots where fate in ('missed', 'skipped_paused')"), 1000)
			require.LessOrEqual(t, one[int](t, db, "select count(*) from pgtick.slots where fate <> 'enqueued'"), 1000+1500+1, "told singly, caught up, and one range")
			requireNoGap(t, db, cron)
			require.Zero(t, tick(t, db))
		})
	}
}

// requireNoGap walks the rows: each begins where the one before ended, by the schedule's own calendar, up to next_at.
func requireNoGap(t *testing.T, db *pgtest.DB, cron string) {
	t.Helper()
	require.Zero(t, one[int](t, db, `
		with walked as (
			select coalesce(l.last_slot, l.slot) as last, lead(l.slot, 1, (select next_at from pgtick.schedules)) over (order by l.slot) as following,
				l.slots, l.slot as first
			from pgtick.slots as l)
		select count(*) from walked as w cross join lateral (select extract(epoch from pgtick.next_run($1, w.first) - w.first)::int as step) as s
		where pgtick.next_run($1, w.last) <> w.following or w.last <> w.first + (w.slots - 1) * make_interval(secs => s.step)`, cron))
}

func TestTick_WhenOutagesFollowEachOther_KeepsThemApart(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-02-15T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'skip', p_on_overlap => 'allow')")
	exec(t, db, "select pgtick.pause_schedule('s', '2026-02-17 00:00+00')")
	at(t, db, "2026-02-20T10:00:30Z")
	tick(t, db)
	require.Equal(t, []string{"02-15 10:01 skipped_range", "02-17 00:00 missed_range"},
		all[string](t, db, "select to_char(slot at time zone 'UTC', 'MM-DD HH24:MI') || ' ' || fate from pgtick.slots where last_slot is not null order by slot"))
	require.Equal(t, 38*60-1, countOf(t, db, "s", "skipped_range")+countOf(t, db, "s", "skipped_paused"))
	requireNoGap(t, db, "* * * * *")
}

func TestTick_ByManyAtOnce_MakesEachSlotOnce(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, `select pgtick.schedule('s' || i, case when i % 5 = 0 then '* * * * *' else '1-59/10 * * * *' end, 'noop', p_on_overlap => 'allow',
		p_time_zone => case when i % 2 = 0 then 'UTC' else 'Europe/Berlin' end) from generate_series(1, 500) as i`)
	at(t, db, "2026-03-01T10:02:00Z")
	var callers sync.WaitGroup
	jobs := make(chan int, 16)
	for range 16 {
		callers.Go(func() { jobs <- ticksUntilNoneDue(t, db) })
	}
	callers.Wait()
	close(jobs)
	total := 0
	for n := range jobs {
		total += n
	}
	require.Equal(t, 600, total, "400 with one slot, 100 with two")
	require.Equal(t, 600, one[int](t, db, "select count(*) from pgtick.slots where fate = 'enqueued'"))
	require.Equal(t, 600, one[int](t, db, "select count(distinct (schedule, slot)) from pgtick.jobs"))
}

// ticksUntilNoneDue runs on connections of its own: a pool smaller than the callers would put them in a row.
func ticksUntilNoneDue(t *testing.T, db *pgtest.DB) int {
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer func() { _ = conn.Close(t.Context()) }()
	total := 0
	for due := true; due; {
		var jobs int
		if err := conn.QueryRow(t.Context(), "select pgtick.tick()").Scan(&jobs); err != nil {
			t.Error(err)
			return total
		}
		total += jobs
		if err := conn.QueryRow(t.Context(), "select coalesce(pgtick.next_tick_at() <= pgtick.now(), false)").Scan(&due); err != nil {
			t.Error(err)
			return total
		}
	}
	return total
}

func TestTick_WhileAnotherSessionHoldsASchedule_PassesItBy(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('held', '* * * * *', 'noop'), pgtick.schedule('free', '* * * * *', 'noop')")
	at(t, db, "2026-03-01T10:01:00Z")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), "select from pgtick.schedule_defs where name = 'held' for update")
	require.NoError(t, err)
	exec(t, db, "set lock_timeout = '100ms'; select pgtick.tick(); reset lock_timeout")
	require.Equal(t, []string{"03-01 10:01 enqueued"}, fates(t, db, "free"))
	require.Empty(t, fates(t, db, "held"))
	exec(t, db, "call pgtick.run_ticks()") // nor does it spin on it
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"03-01 10:01 enqueued"}, fates(t, db, "held"))
}

func TestTick_WhenAScheduleIsBroken_TheOthersGoOn(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s' || i, '* * * * *', 'noop', p_on_overlap => 'allow', p_on_missed => 'skip') from generate_series(1, 20) as i")
	exec(t, db, "update pgtick.schedule_defs set time_zone = 'Mars/Base' where name = 's7'")
	exec(t, db, "update pgtick.schedule_defs set parsed.every_seconds = 0 where name = 's8'")
	at(t, db, "2026-03-01T10:01:00Z")
	require.Equal(t, 18, tick(t, db))
	require.Equal(t, []string{"s7", "s8"}, all[string](t, db, "select name from pgtick.schedules where broken_at is not null and broken_why <> '' order by name"))
	require.Equal(t, 2, one[int](t, db, "select count(*) from pgtick.health where what = 'schedule broken'"))
	require.Zero(t, tick(t, db))
	require.Greater(t, one[time.Time](t, db, "select pgtick.next_tick_at()"), instant(t, "2026-03-01T10:01:00Z"), "it is tried again later, not at once")

	at(t, db, "2026-03-01T10:02:00Z")
	require.Equal(t, 18, tick(t, db))
	require.Equal(t, "TK005", refused(t, db, "select pgtick.pause_schedule('s7')").Code)
	// put right by hand: what could not be accounted for is, and the mark is gone
	exec(t, db, "update pgtick.schedule_defs set time_zone = 'UTC' where name = 's7'")
	at(t, db, "2026-03-01T10:05:00Z")
	for one[bool](t, db, "select pgtick.next_tick_at() <= pgtick.now()") {
		tick(t, db)
	}
	require.Equal(t, []string{"03-01 10:01 missed", "03-01 10:02 missed", "03-01 10:03 enqueued", "03-01 10:04 enqueued", "03-01 10:05 enqueued"}, fates(t, db, "s7"))
	require.Contains(t, one[string](t, db, "select reason from pgtick.slots where schedule = 's7' order by slot limit 1"), "the schedule was broken from 2026-03-01 10:01:00 UTC on: ")
	// put right by schedule(): one row says from when to when the slots are not known
	exec(t, db, "select pgtick.schedule('s8', '* * * * *', 'noop', p_on_overlap => 'allow', p_on_missed => 'skip')")
	require.Equal(t, []string{"03-01 10:01 missed_range"}, fates(t, db, "s8"))
	require.Contains(t, one[string](t, db, "select reason from pgtick.slots where schedule = 's8'"), "from this one to 2026-03-01 10:05:00 UTC were is not known")
	require.Empty(t, all[string](t, db, "select name from pgtick.schedules where broken_at is not null"))
}

func TestTick_WhenManyAreBroken_DoesNotStarveTheOthers(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s' || i, '* * * * *', 'noop', p_on_overlap => 'allow') from generate_series(1, 300) as i")
	exec(t, db, "update pgtick.schedule_defs set time_zone = 'Mars/Base'")
	exec(t, db, "select pgtick.schedule('well', '* * * * *', 'noop', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T10:01:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	at(t, db, "2026-03-01T10:02:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Equal(t, []string{"03-01 10:01 enqueued", "03-01 10:02 enqueued"}, fates(t, db, "well"))
	require.Equal(t, 300, one[int](t, db, "select count(*) from pgtick.schedules where broken_at is not null"))
}

func TestTick_WhenTheZonesRulesMoveASlot_MovesWithIt(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		stored string // next_at under the rules that were
		want   []string
	}{
		"to a later time":    {"2026-03-02 07:00+00", []string{"03-01 08:00 enqueued", "03-02 08:00 enqueued"}},
		"to an earlier time": {"2026-03-02 09:00+00", []string{"03-01 08:00 enqueued", "03-02 08:00 caught_up"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			at(t, db, "2026-02-28T12:00:00Z")
			exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop', p_time_zone => 'Europe/Berlin', p_on_overlap => 'allow')")
			at(t, db, "2026-03-01T08:00:00Z")
			tick(t, db)
			exec(t, db, "update pgtick.schedule_defs set next_at = $1::text::timestamptz", row.stored)
			for _, now := range []string{"2026-03-02T07:00:00Z", "2026-03-02T08:00:00Z", "2026-03-02T09:00:00Z"} {
				at(t, db, now)
				tick(t, db)
			}
			require.Equal(t, row.want, fates(t, db, "s"))
			require.Equal(t, []string{"created", "moved"}, all[string](t, db, "select what from pgtick.schedule_versions order by version"))
			require.Contains(t, one[string](t, db, "select reason from pgtick.schedule_versions where what = 'moved'"), "rules of Europe/Berlin have changed")
			require.Equal(t, "2026-03-03 08:00:00", one[string](t, db, "select (next_at at time zone 'UTC')::text from pgtick.schedules"))
		})
	}
}

func TestTick_BetweenStartAndEnd_Only(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_starts_at => '2026-03-01 10:20+00', p_ends_at => '2026-03-01 10:40+00', p_on_missed => 'all')")
	require.Equal(t, "2026-03-01 10:20:00", one[string](t, db, "select (next_at at time zone 'UTC')::text from pgtick.schedules"))
	at(t, db, "2026-03-01T11:00:00Z")
	tick(t, db)
	require.Equal(t, []string{"03-01 10:20 caught_up", "03-01 10:30 caught_up"}, fates(t, db, "s"))
	require.Nil(t, one[*time.Time](t, db, "select next_at from pgtick.schedules"))
	require.Nil(t, one[*time.Time](t, db, "select pgtick.next_tick_at()"))
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_starts_at => '2026-03-01 10:20+00', p_on_missed => 'all')")
	require.Equal(t, "2026-03-01 11:10:00", one[string](t, db, "select (next_at at time zone 'UTC')::text from pgtick.schedules"), "a start in the past brings nothing back")
}

func TestJitter_SpreadsJobsTheSameWayForAllClocks(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s' || i, '1 * * * *', 'noop', p_jitter => '10 minutes') from generate_series(1, 200) as i")
	at(t, db, "2026-03-01T10:01:00Z")
	require.Equal(t, 200, tick(t, db))
	require.Equal(t, "t t t", one[string](t, db, `select concat_ws(' ', min(run_at - slot) >= '0', max(run_at - slot) < '10 minutes', count(distinct run_at) > 150) from pgtick.jobs`))
	require.Equal(t, []bool{true}, all[bool](t, db, `select distinct pgtick.slot_run_at(7, '2026-03-28 12:00+00', '1 day') at time zone 'UTC' =
		pgtick.slot_run_at(7, '2026-03-28 12:00+00', '24 hours') at time zone 'UTC' from set_config('timezone', 'Europe/Berlin', true)`), "a day is 24 hours in every session")
	require.True(t, one[bool](t, db, `select bool_and(run_at = pgtick.slot_run_at(d.id, j.slot, '10 minutes')) from pgtick.jobs as j join pgtick.schedule_defs as d on d.name = j.schedule`))
}

func TestTick_WhenTheClockGoesBack_IssuesNoSlotTwice(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T10:10:00Z")
	require.Equal(t, 1, tick(t, db))
	at(t, db, "2026-03-01T10:05:00Z")
	require.Zero(t, tick(t, db))
	exec(t, db, "select pgtick.schedule('s', '*/5 * * * *', 'noop', p_on_overlap => 'allow')") // a new version at the earlier time
	at(t, db, "2026-03-01T10:10:00Z")
	require.Zero(t, tick(t, db))
	at(t, db, "2026-03-01T10:15:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"03-01 10:10 enqueued", "03-01 10:15 enqueued"}, fates(t, db, "s"))
}

// What passes by itself is no reason to give a slot up: the change is refused, and can be made again.
func TestSchedule_WhenTheClockWentBack_AndARowThatIsToGoIsLocked_ChangesNothing(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_overlap => 'allow')")
	exec(t, db, "select pgtick.pause_schedule('s')")
	at(t, db, "2026-03-01T10:10:00Z")
	tick(t, db)
	require.Equal(t, []string{"03-01 10:10 skipped_paused"}, fates(t, db, "s"))
	exec(t, db, "select pgtick.resume_schedule('s')")
	at(t, db, "2026-03-01T10:05:00Z")
	holder, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = holder.Exec(t.Context(), "select from pgtick.slot_log for update")
	require.NoError(t, err)
	const change = "select pgtick.schedule('s', '*/5 * * * *', 'noop', p_on_overlap => 'allow')"
	_, err = db.Pool.Exec(t.Context(), "begin; set local lock_timeout = '50ms'; "+change+"; commit")
	pg := new(pgconn.PgError)
	require.ErrorAs(t, err, &pg)
	require.Equal(t, "55P03", pg.Code, pg.Message)
	require.NoError(t, holder.Rollback(t.Context()))
	require.Equal(t, "*/10 * * * *", one[string](t, db, "select cron from pgtick.schedules where name = 's'"))
	exec(t, db, change)
	require.Empty(t, fates(t, db, "s"), "about it the new version decides")
	at(t, db, "2026-03-01T10:10:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"03-01 10:10 enqueued"}, fates(t, db, "s"))
}

func TestHealth_TellsOfSchedulesThatKeepNoPromise(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	problems := func() []string {
		return all[string](t, db, "select distinct what from pgtick.schedule_health() order by 1")
	}
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '0 * * * *', 'noop', p_must_finish_within => '10 minutes', p_on_overlap => 'allow')")
	require.Empty(t, problems())
	at(t, db, "2026-03-01T11:05:01Z")
	require.Equal(t, []string{"no clock ticks"}, problems())
	tick(t, db)
	require.Empty(t, problems())
	at(t, db, "2026-03-01T11:11:00Z")
	require.Equal(t, []string{"schedule without a done job"}, problems())
	finishJobs(t, db)
	require.Empty(t, problems())
}

func TestTickChunk_TakesSoManyThatAreDue_TheOldestFirst(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		exec(t, db, "select pgtick.schedule($1, '* * * * *', 'noop')", name)
	}
	exec(t, db, "select pgtick.schedule('oldest', '@every 10s', 'noop', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T10:01:00Z")
	require.Equal(t, 5, one[int](t, db, "select jobs from pgtick.tick_chunk(3)"), "two schedules with a slot each, and the oldest, whose three are not parted")
	require.Len(t, fates(t, db, "oldest"), 3)
	require.Equal(t, 2, one[int](t, db, "select jobs from pgtick.tick_chunk(2)"))
	require.Equal(t, 1, one[int](t, db, "select jobs from pgtick.tick_chunk(2)"))
	require.Zero(t, tick(t, db))
	for _, most := range []string{"null", "0", "-1", "10001"} {
		e := refused(t, db, "select pgtick.tick_chunk("+most+")")
		require.Equal(t, "TK000", e.Code)
		require.Contains(t, e.Message, "most ")
	}
}

// What passes is no fault of a schedule: the tick fails as a whole, and the next one does it.
func TestTick_ThatFailsForWhatPasses_LeavesEverythingAsItWas(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"40001", "53200", "57014", "58030"} {
		for _, failing := range []string{"single", "several"} {
			t.Run(code+" "+failing, func(t *testing.T) {
				t.Parallel()
				db := newDB(t)
				at(t, db, "2026-03-01T10:00:30Z")
				exec(t, db, "select pgtick.schedule('single', '0 * * * *', 'single'), pgtick.schedule('several', '*/20 * * * *', 'several', p_on_overlap => 'allow')")
				at(t, db, "2026-03-01T11:00:10Z")
				exec(t, db, `create function public.fail() returns trigger language plpgsql as $$ begin raise exception using errcode = '`+code+`', message = 'passes'; end $$;
					create trigger fail before insert on pgtick.live_jobs for each row when (new.task = '`+failing+`') execute function public.fail()`)
				_, err := db.Pool.Exec(t.Context(), "select pgtick.tick()")
				require.ErrorContains(t, err, code)
				require.Empty(t, fates(t, db, "single"))
				require.Zero(t, one[int](t, db, "select count(*) from pgtick.schedule_defs where broken_at is not null"))
				exec(t, db, "drop trigger fail on pgtick.live_jobs")
				require.Positive(t, tick(t, db))
				require.Equal(t, []string{"03-01 11:00 enqueued"}, fates(t, db, "single"))
				requireNothingUnaccounted(t, db)
			})
		}
	}
}

// Of each kind of schedule, one slot or several, in whatever queue.
func TestTick_WakesWhoSleepsInTheQueuesOfItsJobs_AndNobodyElse(t *testing.T) {
	t.Parallel()
	for name, cron := range map[string]string{"single": "0 * * * *", "several": "*/20 * * * *"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			at(t, db, "2026-03-01T10:00:30Z")
			exec(t, db, "select pgtick.schedule('s', $1, 'noop', p_queue => 'q', p_on_overlap => 'allow'), pgtick.schedule('paused', $1, 'noop', p_queue => 'p'), pgtick.pause_schedule('paused')", cron)
			at(t, db, "2026-03-01T11:00:10Z")
			for _, queue := range []string{"q", "p"} {
				runner := one[int64](t, db, "select pgtick.register('r', array[$1], '{noop}')", queue)
				number := one[string](t, db, "select pgtick.sleep($1, '1 minute')::text", runner)
				require.Eventually(t, func() bool { return one[bool](t, db, "select pgtick.settled($1::text::xid8)", number) }, pgtest.Patience, time.Millisecond)
			}
			conn := session(t, db)
			do(t, conn, "listen pgtick")
			tick(t, db)
			exec(t, db, "select pg_notify('pgtick', 'the end')")
			for _, want := range []string{"q", "the end"} {
				heard, err := notified(t, conn)
				require.NoError(t, err)
				require.Equal(t, want, heard.Payload)
			}
		})
	}
}

// A chunk ends at so many slots, or after the time that so many should take, so that its locks are not held for long; but it always gets on.
func TestTickChunk_OfSchedulesWithSeveralSlots_EndsInTime(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]bool{"by slots": false, "by time": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			exec(t, db, "select pgtick.schedule('s' || n, '* * * * *', 'noop', p_on_missed => 'all', p_on_overlap => 'allow') from generate_series(1, 5) as n")
			exec(t, db, "update pgtick.schedule_defs set next_at = next_at - interval '6 minutes'")
			want := 2 // of six slots each
			if slow {
				want = 1
				exec(t, db, `create function public.slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.01); return new; end $$;
					create trigger slow before insert on pgtick.live_jobs for each row execute function public.slow()`)
			} else {
				pgtest.SetNow(t, db, one[time.Time](t, db, "select now()"))
			}
			require.Equal(t, want, one[int](t, db, "select schedules from pgtick.tick_chunk(10)"))
			require.Equal(t, want, one[int](t, db, "select count(distinct schedule) from pgtick.slots"))
		})
	}
}

// Chunks of a schedule each, which take twenty seconds.
func TestRunTicks_GoesOnForFiftySeconds_AndLeavesTheRestToTheNext(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s' || n, '* * * * *', 'noop', p_on_overlap => 'allow', p_ends_at => '2026-03-01 10:01:30+00') from generate_series(1, 5) as n")
	exec(t, db, `
		create table public.moment as select timestamptz '2026-03-01 10:01:00+00' as at;
		create or replace function pgtick.now() returns timestamptz language sql volatile set search_path = '' as $$ select at from public.moment $$;
		create function public.lasts() returns trigger language plpgsql as $$ begin update public.moment set at = at + interval '20 seconds'; return null; end $$;
		create trigger lasts after insert on pgtick.live_jobs for each statement execute function public.lasts()`)
	db.Replace(t, "pgtick.tick_chunk(integer)", "DEFAULT 5000", "DEFAULT 1")
	for _, told := range []int{3, 5} {
		exec(t, db, "call pgtick.run_ticks()")
		require.Equal(t, told, one[int](t, db, "select count(distinct schedule) from pgtick.slots"))
	}
}

// Others have slots, versions and runs by hand of their own, all later.
func TestTick_WhenTheZonesRulesMoveASlot_GoesByItsOwnHistory(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-02-28T12:00:00Z")
	for _, name := range []string{"a", "s", "z"} {
		exec(t, db, "select pgtick.schedule($1, '0 9 * * *', 'noop', p_time_zone => 'Europe/Berlin', p_on_overlap => 'allow')", name)
	}
	at(t, db, "2026-03-01T08:00:00Z")
	tick(t, db)
	exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop', p_time_zone => 'Europe/Berlin', p_on_overlap => 'allow', p_priority => 2)")
	exec(t, db, "update pgtick.schedule_defs set next_at = '2026-03-02 09:00+00' where name = 's'") // under the rules that were
	exec(t, db, "select pgtick.pause_schedule('s'), pgtick.resume_schedule('s')")
	at(t, db, "2026-03-02T08:30:00Z")
	tick(t, db)
	exec(t, db, "select pgtick.run_now('s')")
	exec(t, db, "select pgtick.schedule('a', '0 9 * * *', 'noop', p_time_zone => 'Europe/Berlin', p_on_overlap => 'allow', p_priority => 1)")
	at(t, db, "2026-03-02T09:00:00Z")
	others := func() []string {
		return append(all[string](t, db, "select s::text from pgtick.schedule_defs as s where name <> 's' order by name"), append(rows(t, db, "a"), rows(t, db, "z")...)...)
	}
	before := others()
	tick(t, db)
	require.Equal(t, before, others())
	require.Equal(t, []string{"03-01 08:00 enqueued", "03-02 08:00 caught_up", "03-02 08:30 run_now"}, fates(t, db, "s"))
	require.Equal(t, []string{"s created", "s changed", "s paused", "s resumed", "s moved"}, all[string](t, db, "select schedule || ' ' || what from pgtick.schedule_versions where schedule = 's' order by version"))
}

func TestTick_WhenTheZonesRulesMoveASlot_AccountsForNothingBeforeItsOwnCreation(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-02-27T12:00:00Z")
	exec(t, db, "select pgtick.schedule('older', '0 9 * * *', 'noop', p_time_zone => 'Europe/Berlin', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T12:00:00Z")
	exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop', p_time_zone => 'Europe/Berlin', p_on_overlap => 'allow', p_on_missed => 'all')")
	exec(t, db, "update pgtick.schedule_defs set next_at = '2026-03-02 09:00+00' where name = 's'") // under the rules that were
	at(t, db, "2026-03-02T09:00:00Z")
	tick(t, db)
	require.Equal(t, []string{"03-02 08:00 caught_up"}, fates(t, db, "s"))
}

func TestTick_AfterAnOutage_CatchesUpOnce_HoweverOldItIs(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'once', p_catch_up_window => '1 minute')")
	at(t, db, "2026-03-01T10:35:00Z")
	tick(t, db)
	require.Equal(t, []string{"03-01 10:10 missed", "03-01 10:20 missed", "03-01 10:30 caught_up"}, fates(t, db, "s"), "the window is of on_missed all")
}

func TestPause_ThatEnds_IsThatOfItsOwnSchedule(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	for _, name := range []string{"a", "s", "z"} {
		exec(t, db, "select pgtick.schedule($1, '*/10 * * * *', 'noop')", name)
	}
	exec(t, db, "select pgtick.pause_schedule('a'), pgtick.pause_schedule('s', '2026-03-01 10:15Z')")
	at(t, db, "2026-03-01T10:20:00Z")
	tick(t, db)
	require.Equal(t, []string{"a 2 t", "s 3 f", "z 1 f"}, all[string](t, db, "select concat_ws(' ', name, version, paused_at is not null) from pgtick.schedule_defs order by name"))
}
