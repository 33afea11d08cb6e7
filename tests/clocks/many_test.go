package clocks

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// Ten thousand schedules of every minute, and forty days without any clock: 576 million slots, told in a few rows for each schedule.
// PGTICK_TEST_SCHEDULES says how many instead.
func TestRunTicks_AfterFortyDaysOfTenThousandSchedules_AccountsForAllInFewRows(t *testing.T) {
	t.Parallel()
	const minutes = 40 * 24 * 60
	schedules := 10000
	if asked := os.Getenv("PGTICK_TEST_SCHEDULES"); asked != "" {
		var err error
		schedules, err = strconv.Atoi(asked)
		require.NoError(t, err)
	}
	db := pgtest.New(t)
	db.Quiet(t)
	do(t, db, "select pgtick.schedule('s1', '* * * * *', 'nobody.serves')")
	// Copies of the rows: to schedule each would take longer than all the rest.
	do(t, db, `insert into pgtick.schedule_defs overriding system value
		select r.* from pgtick.schedule_defs as s, generate_series(1, $1 - 1) as i,
			jsonb_populate_record(s, jsonb_build_object('id', s.id + i, 'name', 's' || i + 1)) as r`, schedules)
	do(t, db, `insert into pgtick.schedule_changes
		select r.* from pgtick.schedule_changes as c, generate_series(1, $1 - 1) as i,
			jsonb_populate_record(c, jsonb_build_object('schedule_id', c.schedule_id + i)) as r`, schedules)
	pgtest.Advance(t, db, 40*24*time.Hour)
	upTo := ask[time.Time](t, db, "select pgtick.now()")

	began := time.Now()
	for calls := 0; ask[bool](t, db, "select pgtick.next_tick_at() <= $1", upTo); calls++ {
		require.Less(t, calls, 20, "each call works for up to 50 seconds")
		do(t, db, "call pgtick.run_ticks()")
	}
	took := time.Since(began)
	t.Logf("%d schedules, %d slots: accounted for in %s", schedules, schedules*minutes, took.Round(10*time.Millisecond))

	// A schedule made just before a minute's end has that minute as well, and so has one that was accounted for just after another; those that
	// passed meanwhile come on top.
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.schedules as s
		left join lateral (select sum(l.slots) as slots from pgtick.slots as l where l.schedule_id = s.id) as l on true
		where l.slots is distinct from extract(epoch from s.next_at - date_trunc('minute', s.created_at)) / 60 - 1 or l.slots not between $1 and $2`, minutes, minutes+5+int(took.Minutes())))
	require.LessOrEqual(t, ask[int](t, db, "select max(n)::int from (select count(*) as n from pgtick.slots group by schedule_id) as l"), 8)
	require.Equal(t, schedules, ask[int](t, db, "select count(*) from pgtick.slots where fate = 'caught_up'"), "on_missed once")

	sample := []string{"s1", "s" + strconv.Itoa(schedules/2), "s" + strconv.Itoa(schedules)}
	for _, name := range sample {
		(plan{name: name}).account(t, db, upTo)
	}
	// pgtick works out each slot of each schedule: it is asked about a few.
	for _, table := range []string{"slot_log", "schedule_changes"} {
		do(t, db, "delete from pgtick."+table+" where schedule_id not in (select id from pgtick.schedules where name = any ($1))", sample)
	}
	do(t, db, "delete from pgtick.live_jobs")
	do(t, db, "delete from pgtick.schedule_defs where name <> all ($1)", sample)
	requireNothingUnaccounted(t, db)
}
