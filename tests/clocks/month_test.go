package clocks

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// creditPlans are the schedules that come with pgtick.
func creditPlans() []plan {
	onMinutes := func(of int) func(time.Time) bool { return func(at time.Time) bool { return at.Minute()%of == 0 } }
	return []plan{
		{name: "cleanup-expired-credit-holds", names: func(at time.Time) bool { return at.Minute() == 0 && at.Hour()%3 == 0 }},
		{name: "periodic-credit-allocation", names: func(at time.Time) bool { return at.Minute() == 0 && at.Hour() == 0 && at.Day() == 1 }},
		{name: "process-pending-credit-transactions", names: onMinutes(15)},
		{name: "sync-credit-usage-with-supabase", names: onMinutes(10)},
	}
}

// The server crashes and comes back days later; two runners that have waited for it, and pg_cron, are there at once.
func TestServer_DownOverTheFirstOfAMonth_AllocatesOnceForThatMonth(t *testing.T) {
	t.Parallel()
	m := newMachine(t, instant("2026-01-31T11:59:30Z"), true)
	const accounts = 50
	do(t, m.db, "select credits.open_account(gen_random_uuid()) from generate_series(1, $1)", accounts)
	first, second := work(t, m.db), work(t, m.db)
	account(t, m.db, creditPlans(), m.now())

	for _, outage := range []struct {
		until  time.Time
		months []string // those with an allocation by then
	}{
		{instant("2026-02-03T08:59:56Z"), []string{"2026-02-01"}},
		{instant("2026-04-01T17:29:56Z"), []string{"2026-02-01", "2026-03-01", "2026-04-01"}}, // two more firsts, within the 60 days for which slots are kept
	} {
		calls := m.cronRuns(t)
		m.crash(t)
		m.restart(t, outage.until)
		becomes(t, m.db, true, "select count(*) >= $1 from credits.allocations", accounts*len(outage.months))
		becomes(t, m.db, 0, "select count(*)::int from pgtick.jobs where task = 'credits.periodic_credit_allocation' and state <> 'done'")
		require.True(t, eventually(t.Context(), func() bool { return m.cronRuns(t) > calls }), "pg_cron calls again")
		entries := account(t, m.db, creditPlans(), m.now())["periodic-credit-allocation"]
		require.Len(t, entries, len(outage.months))
		for _, e := range entries {
			require.Equal(t, "caught_up server_down", e.fate+" "+e.cause, "slot %s: %s", e.slot, e.reason)
		}
		require.Equal(t, outage.months, list[string](t, m.db, "select period::text from credits.allocations group by period having count(*) = $1 order by period", accounts))
		require.Equal(t, accounts, ask[int](t, m.db, "select count(*) from credits.accounts where balance = $1 * 100", len(outage.months)))
		require.Zero(t, ask[int](t, m.db, "select count(*) from credits.violations"))
	}
	first.stop(t)
	second.stop(t)
}
