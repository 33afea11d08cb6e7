package clocks

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// plan is a schedule and the moments that it names, which the test knows without reading the expression.
type plan struct {
	name, cron string
	settings   string                   // further arguments of pgtick.schedule
	task       string                   // "" is one that nobody serves
	grid       time.Duration            // the slots are its multiples since 1970,
	zone       string                   // or else the full minutes
	names      func(at time.Time) bool  // that this accepts, in the zone
	from, to   time.Time                // starts_at and ends_at
	late       func(late lateness) bool // whether a slot that came too late is caught up; nil: none is
	pausedTo   time.Time                // the end of a pause from the beginning on
}

// lateness is what the policy of a late slot may ask: how many of the same outage are newer, and how long ago it was.
type lateness struct {
	newer int
	age   time.Duration
}

func never(lateness) bool    { return false }
func latest(l lateness) bool { return l.newer == 0 }
func newest(n int) func(lateness) bool {
	return func(l lateness) bool { return l.newer < n }
}

// slots tells how many there are after one moment and up to another, and which. Those of a grid are counted, not listed.
func (p plan) slots(t *testing.T, after, upTo time.Time) (n int, slot func(i int) time.Time) {
	t.Helper()
	if p.from.After(after) {
		after = p.from.Add(-1)
	}
	if !p.to.IsZero() && !p.to.After(upTo) {
		upTo = p.to.Add(-1)
	}
	grid := cmp.Or(p.grid, time.Minute)
	seconds := int64(grid / time.Second)
	first := time.Unix((after.Unix()/seconds+1)*seconds, 0).UTC()
	n = max(0, int((upTo.Unix()-first.Unix())/seconds)+1)
	if upTo.Before(first) {
		n = 0
	}
	nth := func(i int) time.Time { return first.Add(time.Duration(i) * grid) }
	if p.names == nil {
		return n, nth
	}
	zone, err := time.LoadLocation(p.zone)
	require.NoError(t, err)
	var named []time.Time
	for i := range n {
		if at := nth(i); p.names(at.In(zone)) {
			named = append(named, at)
		}
	}
	return len(named), func(i int) time.Time { return named[i] }
}

// create makes the schedules. Their jobs may overlap, so that what becomes of a slot does not depend on how fast those are done.
func create(t *testing.T, db *pgtest.DB, plans []plan) {
	t.Helper()
	for _, p := range plans {
		settings := "p_on_overlap => 'allow'"
		if p.settings != "" {
			settings += ", " + p.settings
		}
		if p.zone != "" {
			settings += fmt.Sprintf(", p_time_zone => '%s'", p.zone)
		}
		if !p.from.IsZero() {
			settings += fmt.Sprintf(", p_starts_at => '%s'", p.from.Format(time.RFC3339))
		}
		if !p.to.IsZero() {
			settings += fmt.Sprintf(", p_ends_at => '%s'", p.to.Format(time.RFC3339))
		}
		do(t, db, "select pgtick.schedule($1, $2, $3, "+settings+")", p.name, p.cron, cmp.Or(p.task, "nobody.serves"))
		if !p.pausedTo.IsZero() {
			do(t, db, "select pgtick.pause_schedule($1, $2)", p.name, p.pausedTo)
		}
	}
}

// entry is a row of the ledger: what it says of one slot, or of n in a row.
type entry struct {
	slot, last time.Time
	n          int
	fate       string
	clock      string
	reason     string
	cause      string
	jobID      int64
	recordedAt time.Time
}

// account waits until every slot of the schedules up to this moment is accounted for, by whatever clocks there are, and then holds the
// ledger against the test's own count: each slot once, none lost, none that is not one, each job of one slot.
func account(t *testing.T, db *pgtest.DB, plans []plan, upTo time.Time) map[string][]entry {
	t.Helper()
	becomes(t, db, true, "select coalesce(pgtick.next_tick_at() > $1, true)", upTo)
	upkeepDone(t, db)
	all := map[string][]entry{}
	for _, p := range plans {
		all[p.name] = p.account(t, db, upTo)
	}
	require.Zero(t, ask[int](t, db, "select count(*) - count(distinct job_id) from pgtick.slots where job_id is not null"), "jobs that stand for two slots")
	requireNothingUnaccounted(t, db)
	return all
}

func (p plan) account(t *testing.T, db *pgtest.DB, upTo time.Time) []entry {
	t.Helper()
	created := ask[time.Time](t, db, "select changed_at from pgtick.schedule_versions where schedule = $1 and version = 1", p.name)
	due, slot := p.slots(t, created, upTo)
	rows, err := db.Pool.Query(t.Context(), `select slot, coalesce(last_slot, slot), slots, fate, coalesce(clock, ''), coalesce(reason, ''), coalesce(cause, ''), coalesce(job_id, 0), recorded_at
		from pgtick.slots where schedule = $1 and slot <= $2 and fate <> 'run_now' order by slot`, p.name, upTo)
	require.NoError(t, err)
	var entries []entry
	var e entry
	done := 0
	_, err = pgx.ForEachRow(rows, []any{&e.slot, &e.last, &e.n, &e.fate, &e.clock, &e.reason, &e.cause, &e.jobID, &e.recordedAt}, func() error {
		if done+e.n > due {
			return fmt.Errorf("%s: only %d slots are left, and the ledger has %+v", p.name, due-done, e)
		}
		if !e.slot.Equal(slot(done)) || !e.last.Equal(slot(done+e.n-1)) {
			return fmt.Errorf("%s: slot %s is next, and the ledger has %d from %s to %s: %s (%s)", p.name, slot(done), e.n, e.slot, e.last, e.fate, e.reason)
		}
		done += e.n
		entries = append(entries, e)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, due, done, "%s: slots that are in the ledger, which ends with %+v", p.name, e)
	return entries
}

// requireFates holds each fate against what the schedule's policies ask for.
func (p plan) requireFates(t *testing.T, entries []entry) {
	t.Helper()
	late := p.late
	if late == nil {
		late = never
	}
	newer := map[time.Time]int{} // late slots so far, by the tick that recorded them
	for _, e := range slices.Backward(entries) {
		age := e.recordedAt.Sub(e.last) // what is true of the last of a range is so of the others, which are older
		want := "enqueued"
		switch {
		case e.last.Before(p.pausedTo):
			want = "skipped_paused"
		case age > 2*time.Minute:
			want = "missed"
			if late(lateness{newer[e.recordedAt], age}) {
				want = "caught_up"
			}
			newer[e.recordedAt] += e.n
		}
		runs := want == "enqueued" || want == "caught_up"
		if e.n > 1 {
			want = map[string]string{"missed": "missed_range", "skipped_paused": "skipped_range"}[want]
		}
		require.Equal(t, want, e.fate, "%s: slot %s, recorded at %s", p.name, e.slot, e.recordedAt)
		require.Equal(t, runs, e.jobID != 0, "%s: slot %s has a job where it is to run", p.name, e.slot)
		require.Equal(t, want != "enqueued", e.reason != "", "%s: slot %s says why", p.name, e.slot)
	}
}

// upkeepDone waits until the partitions about the database's today are there. While maintain() makes one late, and moves rows into it, a
// look that began before finds them nowhere for that moment.
func upkeepDone(t *testing.T, db *pgtest.DB) {
	t.Helper()
	require.True(t, eventually(t.Context(), func() bool {
		do(t, db, "select pgtick.maintain()")
		return ask[bool](t, db, `select count(to_regclass('pgtick.slot_log_' || to_char((pgtick.now() at time zone 'UTC')::date + d, 'YYYYMMDD'))) = 4
			from generate_series(-1, 2) as d`)
	}), "upkeep makes the days' partitions")
}

// requireNothingUnaccounted asks pgtick itself, which works the calendar out anew.
func requireNothingUnaccounted(t *testing.T, db *pgtest.DB) {
	t.Helper()
	require.Empty(t, list[string](t, db, "select concat_ws(' ', u.schedule, u.slot, u.version, u.why) from pgtick.unaccounted_slots('60 days') as u limit 10"))
}
