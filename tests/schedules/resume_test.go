package schedules

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestResume_WithCatchingUp_RunsWhatThePauseSkipped(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		settings string
		want     []string
	}{
		"once": {"p_on_missed => 'once'", []string{"10:10 skipped_paused", "10:20 skipped_paused", "10:30 skipped_paused", "10:40 caught_up"}},
		"once, whatever the window": {"p_on_missed => 'once', p_catch_up_window => '1 minute'",
			[]string{"10:10 skipped_paused", "10:20 skipped_paused", "10:30 skipped_paused", "10:40 caught_up"}},
		"all": {"p_on_missed => 'all'", []string{"10:10 caught_up", "10:20 caught_up", "10:30 caught_up", "10:40 caught_up"}},
		"all, limited": {"p_on_missed => 'all', p_catch_up_limit => 2",
			[]string{"10:10 skipped_paused", "10:20 skipped_paused", "10:30 caught_up", "10:40 caught_up"}},
		"all, in a window": {"p_on_missed => 'all', p_catch_up_window => '22 minutes'",
			[]string{"10:10 skipped_paused", "10:20 skipped_paused", "10:30 caught_up", "10:40 caught_up"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			at(t, db, "2026-03-01T10:00:30Z")
			exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', "+row.settings+")")
			exec(t, db, "select pgtick.pause_schedule('s')")
			at(t, db, "2026-03-01T10:10:00Z")
			tick(t, db)
			at(t, db, "2026-03-01T10:45:00Z")
			exec(t, db, "select pgtick.resume_schedule('s', p_catch_up => true)")
			require.Equal(t, row.want, all[string](t, db, "select to_char(slot at time zone 'UTC', 'HH24:MI') || ' ' || fate from pgtick.slots order by slot"))
			require.Equal(t, countOf(t, db, "s", "caught_up"), one[int](t, db, "select count(*) from pgtick.jobs where state = 'ready'"))
			require.Contains(t, one[string](t, db, "select reason from pgtick.slots where fate = 'caught_up' limit 1"), "paused since 2026-03-01 10:00:30 UTC; resumed with catching up by ")
			require.Equal(t, 1, claimable(t, db))
			require.Zero(t, tick(t, db))
			requireNothingUnaccounted(t, db)
		})
	}
}

func TestResume_WithCatchingUp_TakesTheNewestOffARange(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'all', p_catch_up_limit => 5)")
	exec(t, db, "select pgtick.pause_schedule('s')")
	at(t, db, "2026-03-03T10:00:30Z")
	tick(t, db)
	require.Equal(t, 2880, countOf(t, db, "s", "skipped_range"))
	exec(t, db, "select pgtick.resume_schedule('s', p_catch_up => true)")
	require.Equal(t, 2875, countOf(t, db, "s", "skipped_range"))
	require.Equal(t, []string{"09:56", "09:57", "09:58", "09:59", "10:00"}, all[string](t, db, "select to_char(slot at time zone 'UTC', 'HH24:MI') from pgtick.slots where fate = 'caught_up' order by slot"))
	require.Equal(t, "2026-03-03 09:55:00", one[string](t, db, "select (last_slot at time zone 'UTC')::text from pgtick.slots where fate = 'skipped_range'"))
	requireNothingUnaccounted(t, db)
	// and when little of the range is left, that is told singly
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'all', p_catch_up_limit => 2000), pgtick.pause_schedule('s')")
	at(t, db, "2026-03-05T10:00:30Z")
	exec(t, db, "select pgtick.resume_schedule('s', p_catch_up => true)")
	require.Equal(t, 2005, countOf(t, db, "s", "caught_up"))
	require.Equal(t, 880, countOf(t, db, "s", "skipped_paused"))
	requireNothingUnaccounted(t, db)
}

func TestResume_WithCatchingUp_WhenThePolicyIsSkip_IsRefused(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'skip')")
	exec(t, db, "select pgtick.pause_schedule('s')")
	e := refused(t, db, "select pgtick.resume_schedule('s', true)")
	require.Equal(t, "TK000", e.Code)
	require.Contains(t, e.Message, `on_missed of schedule "s" is skip`)
	require.NotNil(t, one[*time.Time](t, db, "select paused_at from pgtick.schedules"))
}

// rows are those of a schedule's slots, and what its jobs are.
func rows(t *testing.T, db *pgtest.DB, name string) []string {
	t.Helper()
	return all[string](t, db, `select l::text from pgtick.slot_log as l join pgtick.schedule_defs as s on s.id = l.schedule_id where s.name = $1
		union all select 'job ' || j.id from pgtick.live_jobs as j join pgtick.schedule_defs as s on s.id = j.schedule_id where s.name = $1 order by 1`, name)
}

// Of two schedules that have gone through the same, in slots one by one and in a range of them.
func TestResume_WithCatchingUp_LeavesTheSlotsOfOthersAlone(t *testing.T) {
	t.Parallel()
	for _, until := range []string{"2026-03-01T10:06:00Z", "2026-03-03T10:00:30Z"} {
		for _, catchUp := range []bool{true, false} {
			db := newDB(t)
			at(t, db, "2026-03-01T10:00:30Z")
			for _, name := range []string{"a", "b", "c"} {
				exec(t, db, "select pgtick.schedule($1, '* * * * *', 'noop', p_on_missed => 'all', p_catch_up_limit => 3), pgtick.pause_schedule($1)", name)
			}
			at(t, db, until)
			tick(t, db)
			a, c, before := rows(t, db, "a"), rows(t, db, "c"), countOf(t, db, "b", "caught_up")
			require.NotEmpty(t, a)
			require.Zero(t, before)
			exec(t, db, "select pgtick.resume_schedule('b', $1)", catchUp)
			require.Equal(t, map[bool]*string{true: pointer("with catching up"), false: nil}[catchUp], one[*string](t, db, "select reason from pgtick.schedule_versions where what = 'resumed'"))
			require.Equal(t, a, rows(t, db, "a"))
			require.Equal(t, c, rows(t, db, "c"))
			require.Equal(t, map[bool]int{true: 3, false: 0}[catchUp], countOf(t, db, "b", "caught_up"))
			require.Equal(t, map[bool]int{true: 3, false: 0}[catchUp], one[int](t, db, "select count(*) from pgtick.live_jobs"))
			require.Equal(t, []string{"a paused", "b active", "c paused"}, all[string](t, db, "select name || ' ' || case when paused_at is null then 'active' else 'paused' end from pgtick.schedules order by name"))
			requireNothingUnaccounted(t, db)
		}
	}
}

// With nothing to catch up there is nothing to run, and nobody to wake.
func TestResume_WithCatchingUp_WhereNothingWasSkipped_MakesNoJob(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'all')")
	at(t, db, "2026-03-01T10:01:00Z")
	tick(t, db)
	exec(t, db, "select pgtick.pause_schedule('s')")
	at(t, db, "2026-03-01T10:01:30Z")
	before := rows(t, db, "s")
	exec(t, db, "select pgtick.resume_schedule('s', true)")
	require.Equal(t, before, rows(t, db, "s"))
}

func TestResume_WithCatchingUp_WakesWhoSleeps(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop'), pgtick.pause_schedule('s')")
	at(t, db, "2026-03-01T10:01:10Z")
	tick(t, db)
	runner := one[int64](t, db, "select pgtick.register('r', '{default}', '{noop}')")
	number := one[string](t, db, "select pgtick.sleep($1, '1 minute')::text", runner)
	require.Eventually(t, func() bool { return one[bool](t, db, "select pgtick.settled($1::text::xid8)", number) }, pgtest.Patience, time.Millisecond)
	conn := session(t, db)
	do(t, conn, "listen pgtick")
	exec(t, db, "select pgtick.resume_schedule('s', true)")
	heard, err := notified(t, conn)
	require.NoError(t, err)
	require.Equal(t, "default", heard.Payload)
}

func pointer[T any](v T) *T { return &v }
