package clocks

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// The ledger does not go by the clock's way but by the calendar: what was accounted for stays so while time is gone through again, and a
// step forward is an outage. The runner's clock asks the database at each step how long it is to the next slot, and waits by its own
// monotonic clock, so that no step makes it wait longer than 30 seconds: a schedule made after a step back has its slots at their time.
func TestRunner_WhenTheClockIsSetBackOrForward_CarriesOn(t *testing.T) {
	t.Parallel()
	m := newMachine(t, instant("2026-02-26T09:59:30Z"), false)
	do(t, m.db, "create table public.effects (job_id bigint not null, attempt int not null, at timestamptz not null default clock_timestamp())")
	do(t, m.db, "grant insert on public.effects to pgtick_runner")
	plans := []plan{
		{name: "every 2 seconds", cron: "@every 2s", grid: 2 * time.Second, settings: "p_on_missed => 'skip'", task: "test.effect"},
		{name: "minutes", cron: "* * * * *", task: "test.effect", late: latest},
		{name: "changed", cron: "* * * * *", settings: "p_on_missed => 'skip'", task: "test.effect"},
		{name: "hours", cron: "0 * * * *", zone: "America/New_York", names: func(at time.Time) bool { return at.Minute() == 0 }, settings: "p_on_missed => 'all'", late: newest(100),
			task: "test.effect"},
		{name: "days", cron: "0 9 * * *", zone: "Europe/Berlin", names: func(at time.Time) bool { return at.Hour() == 9 && at.Minute() == 0 },
			settings: "p_on_missed => 'all'", late: newest(100), task: "test.effect"},
	}
	create(t, m.db, plans)
	r := work(t, m.db)
	goesOn := func() {
		t.Helper()
		account(t, m.db, plans, m.now().Add(2*time.Second))
	}
	goesOn()
	m.move(t, 2*time.Hour)
	goesOn()

	for _, back := range []time.Duration{time.Hour, 24 * time.Hour} {
		name, reached := fmt.Sprint("made when set back by ", back), m.now()
		before := account(t, m.db, plans, reached)
		m.move(t, -back)
		made := plan{name: name, cron: "@every 1s", grid: time.Second, settings: "p_on_missed => 'skip'", task: "test.effect"}
		create(t, m.db, []plan{made})
		changed := m.now()
		if back == time.Hour { // a version that begins before what the one before it has done: it takes back what made no job
			do(t, m.db, "select pgtick.schedule('changed', '* * * * *', 'test.effect', '{\"ms\": 1}', p_on_missed => 'skip', p_on_overlap => 'allow')")
		}
		becomes(t, m.db, true, "select count(*) >= 3 from pgtick.slots where schedule = $1 and clock = 'runner' and fate = 'enqueued'", name)
		for _, p := range plans {
			stays := reached
			if back == time.Hour && p.name == "changed" {
				stays = changed
				require.Subset(t, list[int](t, m.db, "select job_id from pgtick.slots where schedule = $1 and job_id is not null", p.name), jobsOf(before[p.name]),
					"slots that made a job keep it")
			}
			require.Equal(t, upTo(before[p.name], stays), p.account(t, m.db, stays), "%s: nothing is recorded twice, nor otherwise", p.name)
		}
		plans = append(plans, made)
		m.set(t, reached)
		goesOn()
	}
	m.move(t, 40*24*time.Hour)
	m.beforeMinute(t)
	entries := account(t, m.db, plans, m.now().Add(4*time.Second)) // with the full minute
	for _, p := range plans {
		p.requireFates(t, entries[p.name])
	}
	require.NotContains(t, r.said(), "declared dead")

	for _, p := range plans {
		do(t, m.db, "select pgtick.unschedule($1)", p.name)
	}
	becomes(t, m.db, 0, "select count(*)::int from pgtick.jobs where state in ('ready', 'running')")
	r.stop(t)
	require.Zero(t, ask[int](t, m.db, `select count(*) from pgtick.slots as s left join public.effects as e on e.job_id = s.job_id
		where s.job_id is not null and e.job_id is null`), "slots whose job had no effect")
	require.Zero(t, ask[int](t, m.db, "select count(*) - count(distinct job_id) from public.effects"), "jobs with two effects")
}

func upTo(entries []entry, at time.Time) []entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.slot.After(at) })
}

func jobsOf(entries []entry) (ids []int) {
	for _, e := range entries {
		if e.jobID != 0 {
			ids = append(ids, int(e.jobID))
		}
	}
	return ids
}

// What pg_cron does when the machine's clock is stepped, seen with 1.4 and read in the source of those up to 1.6. It remembers the last
// minute for which it called, in memory.
//
// Forward by up to five minutes: one call for each of them, one after the other. By more: one call within a second.
//
// Back: none at all until the clock has passed that minute again, however far that is. (It means to go on after a step of more than three
// hours, but measures the time passed with TimestampDifference, which answers 0 where it is negative.) A restart of the server makes it
// forget the minute, and call again at the next one.
func TestPgCron_WhenTheClockIsSetBack_StallsUntilItHasCaughtUp_AndNoSlotIsLost(t *testing.T) {
	t.Parallel()
	m := newMachine(t, instant("2026-02-26T11:59:30Z"), false)
	plans := []plan{{name: "minutes", cron: "* * * * *", late: latest}, {name: "seconds", cron: "@every 20s", grid: 20 * time.Second, settings: "p_on_missed => 'all'", late: newest(100)}}
	create(t, m.db, plans)
	called := func(calls int) bool { return eventually(t.Context(), func() bool { return m.cronRuns(t) >= calls }) }
	m.beforeMinute(t)
	account(t, m.db, plans, m.now().Add(3*time.Second).Truncate(time.Minute))

	for _, back := range []time.Duration{time.Hour, 24 * time.Hour} {
		reached, calls := m.now(), m.cronRuns(t)
		m.move(t, -back)
		made := plan{name: fmt.Sprint("made when set back by ", back), cron: "* * * * *", late: latest}
		create(t, m.db, []plan{made})
		plans = append(plans, made)
		m.beforeMinute(t)
		passed := m.now().Add(5 * time.Second) // the minute, and its looks at the clock each second
		require.True(t, eventually(t.Context(), func() bool { return m.now().After(passed) }))
		require.Equal(t, calls, m.cronRuns(t), "pg_cron calls again before its time: docs/clocks.md says that it does not")

		m.set(t, reached)
		m.beforeMinute(t)
		account(t, m.db, plans, m.now().Add(3*time.Second).Truncate(time.Minute))
		require.Equal(t, calls+1, m.cronRuns(t))
	}

	calls := m.cronRuns(t)
	m.move(t, 3*time.Minute)
	require.True(t, called(calls+3), "a call for each minute")
	for _, forward := range []time.Duration{time.Hour, 24 * 24 * time.Hour} {
		calls = m.cronRuns(t)
		m.move(t, forward)
		require.True(t, called(calls+1), "a call at once")
		account(t, m.db, plans, m.now())
		require.Equal(t, calls+1, m.cronRuns(t), "and not one for each minute")
	}

	m.move(t, -24*time.Hour)
	m.restart(t, m.now())
	calls = m.cronRuns(t)
	m.beforeMinute(t)
	require.True(t, called(calls+1), "after a restart")
	m.move(t, 24*time.Hour)
	entries := account(t, m.db, plans, m.now())
	for _, p := range plans {
		p.requireFates(t, entries[p.name])
	}
}

func tickAt(t *testing.T, db *pgtest.DB, text string) {
	t.Helper()
	pgtest.SetNow(t, db, instant(text))
	do(t, db, "select pgtick.tick()")
}

// A version that begins before what the one before it has done names slots that are in the ledger already. They stay out of its ranges.
func TestSchedule_ChangedWhileTheClockIsSetBackByADay_RecordsNoSlotTwice(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	minutes := plan{name: "minutes", cron: "* * * * *", task: "noop"}
	pgtest.SetNow(t, db, instant("2026-02-26T12:00:30Z"))
	create(t, db, []plan{minutes})
	tickAt(t, db, "2026-02-26T12:01:01Z")
	tickAt(t, db, "2026-02-26T12:02:01Z")
	tickAt(t, db, "2026-02-25T12:02:01Z")
	do(t, db, `select pgtick.schedule('minutes', '* * * * *', 'noop', '{"version": 2}', p_on_overlap => 'allow')`)
	tickAt(t, db, "2026-02-26T12:05:01Z")
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.slots as r join pgtick.slots as s on s.slot between r.slot and r.last_slot and s.slot <> r.slot`),
		"slots that a range counts, and that have a row of their own")
	require.Zero(t, ask[int](t, db, "select count(*) from pgtick.unaccounted_slots()"))
	require.Equal(t, 2, ask[int](t, db, "select count(*) from pgtick.slots where version = 1"), "they had a job and keep it")
	require.Equal(t, 5, ask[int](t, db, "select sum(slots)::int from pgtick.slots where slot >= '2026-02-26 12:00+00'"))
}

func TestSchedule_ChangedAfterAWrongClockIsPutRight_TakesBackWhatMadeNoJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	pgtest.SetNow(t, db, instant("2026-02-26T12:00:30Z"))
	create(t, db, []plan{{name: "minutes", cron: "* * * * *", task: "noop"}, {name: "hours", cron: "0 * * * *", task: "noop"}})
	tickAt(t, db, "2026-02-26T12:01:01Z")
	tickAt(t, db, "2026-02-28T12:01:01Z") // wrong by two days
	require.Equal(t, 1, ask[int](t, db, "select count(*) from pgtick.slots where fate = 'missed_range'"))

	tickAt(t, db, "2026-02-26T18:30:01Z")
	require.Zero(t, ask[int](t, db, "select count(*) from pgtick.slots where recorded_at = pgtick.now()"), "not issued again of itself")
	do(t, db, `select pgtick.schedule(s.name, s.cron, 'noop', p_timeout => '7 minutes', p_on_overlap => 'allow') from pgtick.schedules as s where s.name in ('minutes', 'hours')`)
	tickAt(t, db, "2026-02-26T19:00:01Z")
	require.Equal(t, 2, ask[int](t, db, "select count(*) from pgtick.slots where slot = '2026-02-26 19:00+00' and job_id is not null"))
	tickAt(t, db, "2026-02-28T12:05:01Z")

	require.Equal(t, 4, ask[int](t, db, "select sum(slots)::int from pgtick.slots where slot > '2026-02-28 12:01+00'"), "12:02 to 12:05")
	require.Equal(t, 3, ask[int](t, db, "select count(*) from pgtick.slots where version = 1 and job_id is not null and slot > '2026-02-28 11:59+00'"), "made by the wrong clock")
	require.Equal(t, 2*24*60+5, ask[int](t, db, "select sum(slots)::int from pgtick.slots where schedule = 'minutes'"))
	require.Equal(t, 48, ask[int](t, db, "select sum(slots)::int from pgtick.slots where schedule = 'hours'"))
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.slots as r join pgtick.slots as s on s.schedule = r.schedule and s.slot between r.slot and r.last_slot and s.slot <> r.slot`))
	require.Zero(t, ask[int](t, db, "select count(*) from pgtick.unaccounted_slots()"))
}
