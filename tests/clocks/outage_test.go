package clocks

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// oddities are schedules of every kind that matters to an outage which begins on 26 February 2026 at noon, UTC, and lasts for up to 40
// days. New York's clock goes forward on 8 March, Berlin's on 29 March, Lord Howe's back by half an hour on 5 April.
func oddities() []plan {
	isAt := func(hour, minute int) func(time.Time) bool {
		return func(at time.Time) bool { return at.Hour() == hour && at.Minute() == minute }
	}
	onMinutes := func(of int) func(time.Time) bool {
		return func(at time.Time) bool { return at.Minute()%of == 0 }
	}
	gap, fold := instant("2026-03-29T01:00:00Z"), instant("2026-04-04T14:45:00Z")
	return []plan{
		{name: "skip", cron: "* * * * *", settings: "p_on_missed => 'skip'"},
		{name: "once", cron: "*/15 * * * *", zone: "Europe/Berlin", names: onMinutes(15), late: latest},
		{name: "once, each minute", cron: "* * * * *", zone: "America/New_York", late: latest},
		{name: "all", cron: "0 * * * *", zone: "Asia/Kathmandu", names: onMinutes(60), settings: "p_on_missed => 'all'", late: newest(100)},
		{name: "all, limited", cron: "15 3 * * *", zone: "America/New_York", names: isAt(3, 15), settings: "p_on_missed => 'all', p_catch_up_limit => 3",
			late: newest(3)},
		{name: "all, within a window", cron: "*/20 * * * *", zone: "Africa/Casablanca", names: onMinutes(20),
			settings: "p_on_missed => 'all', p_catch_up_window => '2 hours'", late: func(l lateness) bool { return l.newer < 100 && l.age <= 2*time.Hour }},
		{name: "all, each minute, limited", cron: "* * * * *", settings: "p_on_missed => 'all', p_catch_up_limit => 1500", late: newest(1500)},
		{name: "none of all", cron: "*/5 * * * *", names: onMinutes(5), settings: "p_on_missed => 'all', p_catch_up_limit => 0"},
		{name: "in a gap", cron: "30 2 * * *", zone: "Europe/Berlin", settings: "p_on_missed => 'all'", late: newest(100),
			names: func(at time.Time) bool { return at.Equal(gap) || isAt(2, 30)(at) }},
		{name: "in a fold", cron: "45 1 * * *", zone: "Australia/Lord_Howe", settings: "p_on_missed => 'all', p_on_fold => 'last'", late: newest(100),
			names: func(at time.Time) bool { return !at.Equal(fold) && isAt(1, 45)(at) }},
		{name: "weekdays", cron: "0 9 * * MON-FRI", zone: "Europe/Berlin", late: latest,
			names: func(at time.Time) bool {
				return isAt(9, 0)(at) && at.Weekday() != time.Saturday && at.Weekday() != time.Sunday
			}},
		{name: "monthly", cron: "0 0 1 * *", settings: "p_on_missed => 'all'", late: newest(100), names: func(at time.Time) bool { return isAt(0, 0)(at) && at.Day() == 1 }},
		{name: "every 7 minutes", cron: "@every 7m", grid: 7 * time.Minute, late: latest},
		{name: "every 5 seconds", cron: "@every 5s", grid: 5 * time.Second, settings: "p_on_missed => 'skip'"},
		{name: "every 90 minutes", cron: "@every 1h30m", grid: 90 * time.Minute, settings: "p_on_missed => 'all'", late: newest(100)},
		{name: "paused", cron: "*/10 * * * *", names: onMinutes(10), pausedTo: instant("2036-01-01T00:00:00Z")},
		{name: "paused for an hour", cron: "* * * * *", pausedTo: instant("2026-02-26T13:00:00Z"), late: latest},
		{name: "paused for a month", cron: "* * * * *", pausedTo: instant("2026-03-26T13:00:30Z"), settings: "p_on_missed => 'skip'"},
		{name: "ends", cron: "*/5 * * * *", names: onMinutes(5), to: instant("2026-02-26T14:00:00Z"), late: latest},
		{name: "ends later", cron: "*/5 * * * *", names: onMinutes(5), to: instant("2026-03-10T14:02:00Z"), late: latest},
		{name: "starts", cron: "*/5 * * * *", names: onMinutes(5), from: instant("2026-02-26T14:00:00Z"), late: latest},
		{name: "starts later", cron: "*/5 * * * *", names: onMinutes(5), from: instant("2026-03-10T14:02:00Z"), late: latest},
	}
}

// pg_cron keeps its state in memory and catches nothing up: what it did not call for is lost to it. Not to the ledger.
func TestPgCron_StoppedForHoursAndForWeeks_ThenAccountsForEachSlotOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, instant("2026-02-26T11:59:20Z"), false)
	plans := oddities()
	create(t, m.db, plans)
	callsAgain := func() map[string][]entry {
		m.beforeMinute(t)
		m.cron(t, "update cron.job set active = true")
		return account(t, m.db, plans, m.now().Truncate(time.Minute).Add(time.Minute))
	}
	callsAgain()

	for _, outage := range []time.Duration{6 * time.Hour, 40 * 24 * time.Hour} {
		calls := m.cronRuns(t)
		m.cron(t, "update cron.job set active = false")
		m.move(t, outage)
		entries := callsAgain()
		require.Greater(t, m.cronRuns(t), calls)
		for _, p := range plans {
			p.requireFates(t, entries[p.name])
			for _, e := range entries[p.name] {
				require.Equal(t, "pg_cron", e.clock, "%s: slot %s", p.name, e.slot)
				if e.fate == "missed" || e.fate == "missed_range" || e.fate == "caught_up" {
					require.Equal(t, "no_clock", e.cause, "%s: slot %s: %s", p.name, e.slot, e.reason)
				}
			}
		}
	}
	require.Zero(t, ask[int](t, m.db, "select count(*) from pgtick.schedules where broken_at is not null"))
}
