package schedules

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestSlots_TellTheCauseWhereItIsKnown(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, `select pgtick.schedule('many', '*/10 * * * *', 'noop', p_on_missed => 'skip'), pgtick.schedule('one', '30 10 * * *', 'noop'), pgtick.schedule('range', '@every 1s', 'noop'),
		pgtick.schedule('paused', '*/10 * * * *', 'noop')`)
	exec(t, db, "select pgtick.pause_schedule('paused')")
	tick(t, db)
	exec(t, db, "create or replace function pgtick.server_started_at() returns timestamptz language sql stable set search_path = '' as $$ select '2026-03-01 10:25:00+00'::timestamptz $$")
	at(t, db, "2026-03-01T10:45:00Z")
	for one[bool](t, db, "select pgtick.next_tick_at() <= pgtick.now()") { // a tick for each, as if chunks were small: all know of the outage
		tick(t, db)
	}
	causes := func(name string) []string {
		return all[string](t, db, "select concat_ws(' ', to_char(slot at time zone 'UTC', 'HH24:MI'), fate, cause) from pgtick.slots where schedule = $1 order by slot", name)
	}
	require.Equal(t, []string{"10:10 missed server_down", "10:20 missed server_down", "10:30 missed no_clock", "10:40 missed no_clock"}, causes("many"))
	require.Equal(t, []string{"10:30 caught_up no_clock"}, causes("one"))
	require.Equal(t, []string{"10:10 skipped_paused paused", "10:20 skipped_paused paused", "10:30 skipped_paused paused", "10:40 skipped_paused paused"}, causes("paused"))
	require.Equal(t, "no clock ticked from 2026-03-01 10:00:30 UTC to 2026-03-01 10:45:00 UTC; the server was started at 2026-03-01 10:25:00 UTC; on_missed skip",
		one[string](t, db, "select reason from pgtick.slots where schedule = 'many' order by slot limit 1"))
	require.Equal(t, "10:00:30 10:45:00 10:25:00", one[string](t, db, "select concat_ws(' ', to_char(began_at at time zone 'UTC', 'HH24:MI:SS'), to_char(ended_at at time zone 'UTC', 'HH24:MI:SS'), to_char(server_started_at at time zone 'UTC', 'HH24:MI:SS')) from pgtick.outages"))
	requireNothingUnaccounted(t, db)

	// made due in the past, as by a restored copy: clocks ticked, and none reached it
	exec(t, db, "update pgtick.schedule_defs set next_at = '2026-03-01 10:50+00' where name = 'many'")
	for _, now := range []string{"2026-03-01T10:46:30Z", "2026-03-01T10:48:00Z", "2026-03-01T10:49:30Z"} {
		at(t, db, now)
		tick(t, db)
	}
	exec(t, db, "update pgtick.clocks set ticked_at = '2026-03-01 10:54:00+00'")
	at(t, db, "2026-03-01T10:55:00Z")
	tick(t, db)
	require.Equal(t, "10:50 missed late", causes("many")[4])
	require.Contains(t, one[string](t, db, "select reason from pgtick.slots where schedule = 'many' and cause = 'late'"), "no tick had reached it by 2026-03-01 10:55:00 UTC")
}

func TestDeadlines_AreCheckedByTheClocks_AndToldOnce(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '0 * * * *', 'noop', p_must_finish_within => '10 minutes'), pgtick.schedule('free', '0 * * * *', 'noop')")
	at(t, db, "2026-03-01T11:00:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Empty(t, all[string](t, db, "select pgtick.check_deadlines()"))
	at(t, db, "2026-03-01T11:10:01Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Equal(t, "s 11:00 11:10", one[string](t, db, `select concat_ws(' ', s.name, to_char(o.slot at time zone 'UTC', 'HH24:MI'), to_char(o.found_at at time zone 'UTC', 'HH24:MI'))
		from pgtick.overdue as o join pgtick.schedules as s on s.id = o.schedule_id`))
	before := one[string](t, db, "select xmin::text from pgtick.overdue")
	at(t, db, "2026-03-01T11:20:00Z")
	require.Equal(t, []string{"s"}, all[string](t, db, "select pgtick.check_deadlines()"))
	require.Equal(t, before, one[string](t, db, "select xmin::text from pgtick.overdue"), "nothing is written while nothing changes")
	require.Equal(t, []string{"schedule without a done job"}, all[string](t, db, "select what from pgtick.schedule_health()"))
	finishJobs(t, db)
	require.Empty(t, all[string](t, db, "select pgtick.check_deadlines()"))
	require.Zero(t, one[int](t, db, "select count(*) from pgtick.overdue"))
}

// What was missed or skipped has nobody's job that could have been done in time; what lay in a pause promised none.
func TestDeadlines_ASlotWithoutAJob_IsNoDoneJob_AndAPauseOwesNone(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule(n, '0 * * * *', 'noop', p_must_finish_within => '10 minutes', p_on_missed => 'skip') from unnest('{missed,paused,gone}'::text[]) as n")
	exec(t, db, "select pgtick.pause_schedule('paused')")
	at(t, db, "2026-03-01T11:09:00Z")
	tick(t, db)
	require.Equal(t, []string{"03-01 11:00 missed"}, fates(t, db, "missed"))
	require.Empty(t, all[string](t, db, "select pgtick.check_deadlines()"), "its time is not up")
	exec(t, db, "select pgtick.unschedule('gone')")
	at(t, db, "2026-03-01T11:11:00Z")
	require.Equal(t, []string{"missed"}, all[string](t, db, "select pgtick.check_deadlines()"))
	at(t, db, "2026-03-01T12:00:00Z")
	tick(t, db)
	finishJobs(t, db)
	require.Empty(t, all[string](t, db, "select pgtick.check_deadlines()"), "a later one is done")
}

func TestRetention_KeepsSlotsAsLongAsSaid(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-01-01T10:00:30Z")
	exec(t, db, "select pgtick.maintain()")
	exec(t, db, "select pgtick.schedule('s', '0 12 * * *', 'noop', p_on_missed => 'skip'), pgtick.schedule('dense', '* * * * *', 'noop')")
	day := func(n int) time.Time { return time.Date(2026, 1, 1+n, 12, 0, 0, 0, time.UTC) }
	for n := range 20 {
		pgtest.SetNow(t, db, day(n))
		exec(t, db, "call pgtick.run_ticks()")
	}
	require.Equal(t, 20, countOf(t, db, "s", "enqueued")+countOf(t, db, "s", "skipped_overlap"))
	require.Contains(t, refused(t, db, "select pgtick.set_slot_retention('12 hours')").Message, "keep")
	require.Equal(t, "TK000", refused(t, db, "select pgtick.set_slot_retention('401 days')").Code)
	require.Equal(t, "TK000", refused(t, db, "select pgtick.set_slot_retention('1 year 35 days')").Code, "which are 400 and a quarter")
	require.Equal(t, "TK000", refused(t, db, "select pgtick.set_slot_retention(null)").Code)
	exec(t, db, "select pgtick.set_slot_retention('5 days'), pgtick.set_realtime(false)") // of the settings it is not the only one
	exec(t, db, "select pgtick.maintain()")
	require.Equal(t, 6, countOf(t, db, "s", "enqueued")+countOf(t, db, "s", "skipped_overlap"), "five full days and today")
	requireNothingUnaccounted(t, db)
	require.Zero(t, one[int](t, db, "select count(*) from pgtick.upkeep where problem is not null"))
}

// A range lies where its first slot does. When that day is dropped, its later slots are still within their time.
func TestRetention_KeepsARangeUntilItsLastSlotIsPast(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-01-01T10:00:30Z")
	exec(t, db, "select pgtick.maintain(), pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'skip'), pgtick.set_slot_retention('10 days')")
	at(t, db, "2026-01-09T10:00:30Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Equal(t, 1, one[int](t, db, "select count(*) from pgtick.slots where fate = 'missed_range'"))
	at(t, db, "2026-01-15T10:00:30Z")
	exec(t, db, "select pgtick.maintain(), pgtick.tick(), pgtick.maintain()")
	require.Nil(t, one[*string](t, db, "select to_regclass('pgtick.slot_log_20260101')::text"))
	require.Equal(t, 1, one[int](t, db, "select count(*) from pgtick.slots where fate = 'missed_range' and slot < '2026-01-02'"))
	requireNothingUnaccounted(t, db)
	at(t, db, "2026-01-20T10:00:30Z")
	exec(t, db, "select pgtick.maintain()")
	require.Zero(t, one[int](t, db, "select count(*) from pgtick.slots where slot < '2026-01-02'"))
}

// To the second: what a slot lies on the edge of is said here, since a test that waits for real outages would hardly meet it.
func TestCauses_OfASlotOnTheEdgeOfAnOutage(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'all', p_catch_up_window => '3 hours'), pgtick.schedule('broken', '* * * * *', 'noop')")
	exec(t, db, "update pgtick.schedule_defs set broken_at = '2026-03-01 09:00Z', broken_why = 'why it is', retry_at = '2026-03-01 12:00Z' where name = 'broken'")
	const outage = "('2026-03-01 10:00Z', '2026-03-01 10:30Z', '2026-03-01 10:20Z')::pgtick.outages"
	const known = "no clock ticked from 2026-03-01 10:00:00 UTC to 2026-03-01 10:30:00 UTC; the server was started at 2026-03-01 10:20:00 UTC; on_missed all, catch_up_limit 100, catch_up_window 03:00:00"
	const late = "no tick had reached it by 2026-03-01 11:00:00 UTC; on_missed all, catch_up_limit 100, catch_up_window 03:00:00"
	for _, c := range []struct{ schedule, slot, outage, cause, why string }{
		{"s", "09:59", outage, "late", late},
		{"s", "10:00", outage, "late", late},
		{"s", "10:01", outage, "server_down", known},
		{"s", "10:20", outage, "no_clock", known},
		{"s", "10:30", outage, "no_clock", known},
		{"s", "10:31", outage, "late", late},
		{"s", "10:10", "('2026-03-01 10:00Z', '2026-03-01 10:30Z', null)::pgtick.outages", "no_clock", "no clock ticked from 2026-03-01 10:00:00 UTC to 2026-03-01 10:30:00 UTC; on_missed all, catch_up_limit 100, catch_up_window 03:00:00"},
		{"s", "10:10", "('-infinity', '2026-03-01 10:30Z', null)::pgtick.outages", "no_clock", "no clock had ticked yet; on_missed all, catch_up_limit 100, catch_up_window 03:00:00"},
		{"s", "10:10", "null::pgtick.outages", "late", late},
		{"broken", "10:10", outage, "broken", "the schedule was broken from 2026-03-01 09:00:00 UTC on: why it is; on_missed once"},
	} {
		got := one[string](t, db, `select pgtick.cause_missed(s, $2::timestamptz, `+c.outage+`) || '|' || pgtick.why_missed(s, $2::timestamptz, '2026-03-01 11:00Z', `+c.outage+`)
			from pgtick.schedule_defs as s where s.name = $1`, c.schedule, instant(t, "2026-03-01T"+c.slot+":00Z"))
		require.Equal(t, c.cause+"|"+c.why, got, "%s %s", c.schedule, c.slot)
	}
}

// The server's log has a line when a deadline passes, and none while nothing changes; of two clocks that look at once, one does not wait for the other.
func TestDeadlines_AreWarnedOfOnce_EachByItsName(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	cfg, warnings := db.Config(t), []string{}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { warnings = append(warnings, n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	do(t, conn, pgtest.WaitForNobody)
	check := func(moment string) []string {
		t.Helper()
		at(t, db, moment)
		warnings = warnings[:0]
		do(t, conn, "select pgtick.check_deadlines()")
		return warnings
	}
	warned := func(name, slot string) string {
		return fmt.Sprintf(`pgtick: schedule "%s" has no done job for slot 2026-03-01 %s:00 UTC, and its time is up`, name, slot)
	}
	kept := func() []string {
		return all[string](t, db, "select s.name || to_char(o.slot at time zone 'UTC', ' HH24:MI') from pgtick.overdue as o join pgtick.schedule_defs as s on s.id = o.schedule_id order by 1")
	}
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('a', '0 * * * *', 'noop', p_must_finish_within => '10 minutes'), pgtick.schedule('b', '0 * * * *', 'noop', p_must_finish_within => '20 minutes', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T11:00:00Z")
	tick(t, db)
	require.Empty(t, check("2026-03-01T11:09:59Z"))
	require.Equal(t, []string{warned("a", "11:00")}, check("2026-03-01T11:10:00Z"))

	open := session(t, db)
	do(t, open, "begin")
	at(t, db, "2026-03-01T11:20:00Z")
	do(t, open, "select pgtick.check_deadlines()")
	require.Empty(t, check("2026-03-01T11:20:00Z"), "the other one is at it")
	do(t, open, "rollback")
	require.Equal(t, []string{warned("b", "11:00")}, check("2026-03-01T11:20:00Z"))
	require.Empty(t, check("2026-03-01T11:21:00Z"))
	require.Equal(t, []string{"a 11:00", "b 11:00"}, kept())

	exec(t, db, `delete from pgtick.live_jobs where schedule_id = (select id from pgtick.schedule_defs where name = 'a')`) // as if it were done, and its history gone
	require.Empty(t, check("2026-03-01T11:22:00Z"))
	require.Equal(t, []string{"b 11:00"}, kept())
	at(t, db, "2026-03-01T12:00:00Z")
	tick(t, db)
	require.Equal(t, []string{warned("a", "12:00")}, check("2026-03-01T12:20:00Z"), "of b that is known; it is of a later slot now")
	require.Equal(t, []string{"a 12:00", "b 12:00"}, kept())
}

// Only its own job, of that slot or a later one, and done, is what a deadline waits for.
func TestDeadlines_AreKeptByAJobOfItsOwnThatIsDone(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	for _, name := range []string{"a", "b", "free"} {
		exec(t, db, "select pgtick.schedule($1, '0 * * * *', 'noop', p_must_finish_within => case when $1 <> 'free' then interval '10 minutes' end)", name)
	}
	// slot makes the jobs of the next hour, and ends those of these schedules.
	slot := func(hour string, outcomes map[string]string) {
		t.Helper()
		at(t, db, "2026-03-01T"+hour+":00:00Z")
		tick(t, db)
		runner := one[int64](t, db, "select pgtick.register('r', '{default}', '{noop}')")
		exec(t, db, "select pgtick.claim($1, '{default}', '{noop}', 100)", runner)
		for name, outcome := range outcomes {
			exec(t, db, `select pgtick.finish(j.runner_id, array[j.id], array[j.fence], array[$2]) from pgtick.live_jobs as j join pgtick.schedule_defs as s on s.id = j.schedule_id
				where s.name = $1 and j.runner_id is not null`, name, outcome)
		}
		exec(t, db, "select pgtick.leave($1)", runner)
	}
	overdue := func(minute string) []string {
		t.Helper()
		at(t, db, "2026-03-01T"+minute+":01Z")
		return all[string](t, db, "select o.name || to_char(o.slot at time zone 'UTC', ' HH24:MI') from pgtick.overdue_schedules(pgtick.now()) as o order by 1")
	}
	slot("11", map[string]string{"a": "done", "b": "failed", "free": "failed"})
	require.Empty(t, overdue("11:09"))
	require.Equal(t, []string{"b 11:00"}, overdue("11:10"), "a failed job keeps nothing")
	slot("12", map[string]string{"b": "done", "free": "failed"})
	require.Empty(t, overdue("12:09"), "the later slot of b is done, and that of a has time")
	require.Equal(t, []string{"a 12:00"}, overdue("12:10"), "an earlier one that was done keeps nothing, nor does that of another schedule")
}
