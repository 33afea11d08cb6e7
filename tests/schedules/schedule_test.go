package schedules

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSchedule_WhenASettingIsBad_NamesFieldValueAndRule(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	long := strings.Repeat("x", 201)
	big := `{"a": "` + strings.Repeat("x", 65536) + `"}`
	for _, row := range []struct{ settings, code, says string }{
		{"p_name => null", "TK000", "name null"},
		{"p_name => ''", "TK000", `name ""`},
		{"p_name => '  '", "TK000", "not only blanks"},
		{"p_name => '" + long + "'", "TK000", "1 to 200"},
		{`p_name => E'a\nb'`, "TK000", "control characters"},
		{`p_name => E'a\u0085b'`, "TK000", "control characters"},
		{"p_cron => null", "TK010", "cron null"},
		{"p_cron => '60 * * * *'", "TK012", "0-59"},
		{"p_cron => '0 0 30 2 *'", "TK016", "never fire"},
		{"p_task => null", "TK000", "task null"},
		{"p_task => ''", "TK000", `task ""`},
		{"p_task => '" + long + "'", "TK000", "1 to 200"},
		{`p_task => E'a\tb'`, "TK000", "control characters"},
		{"p_args => null", "TK000", "args null"},
		{"p_args => '[1]'", "TK000", `args "[1]"`},
		{"p_args => '7'", "TK000", "JSON object"},
		{"p_args => '" + big + "'", "TK000", "limit of 65536"},
		{"p_time_zone => null", "TK018", "time zone"},
		{"p_time_zone => 'CET'", "TK018", `time zone "CET"`},
		{"p_queue => null", "TK000", "queue null"},
		{"p_queue => ''", "TK000", `queue ""`},
		{"p_queue => '" + long + "'", "TK000", "1 to 200"},
		{"p_priority => null", "TK000", "priority null"},
		{"p_priority => -1", "TK000", `priority "-1"`},
		{"p_priority => 10", "TK000", "from 0 (first) to 9"},
		{"p_max_attempts => null", "TK000", "max_attempts null"},
		{"p_max_attempts => 0", "TK000", `max_attempts "0"`},
		{"p_max_attempts => 1001", "TK000", "1 to 1000"},
		{"p_timeout => null", "TK000", "timeout null"},
		{"p_timeout => '0'", "TK000", "timeout"},
		{"p_timeout => '-1 second'", "TK000", "more than 0"},
		{"p_timeout => '8 days'", "TK000", "at most 7 days"},
		{"p_on_missed => null", "TK000", "on_missed null"},
		{"p_on_missed => 'never'", "TK000", "skip, once or all"},
		{"p_catch_up_limit => null", "TK000", "catch_up_limit null"},
		{"p_catch_up_limit => -1", "TK000", `catch_up_limit "-1"`},
		{"p_catch_up_limit => 10001", "TK000", "0 to 10000"},
		{"p_catch_up_window => '0'", "TK000", "catch_up_window"},
		{"p_catch_up_window => '-1 day'", "TK000", "more than 0"},
		{"p_catch_up_window => '11 years'", "TK000", "3660 days"},
		{"p_on_overlap => 'nonsense'", "TK000", `on_overlap "nonsense" is refused: it is skip, allow, cancel or wait`},
		{"p_on_missed => 'all', p_on_overlap => 'skip'", "TK000", "with on_missed all it is wait or allow"},
		{"p_on_missed => 'all', p_on_overlap => 'cancel'", "TK000", "with on_missed all it is wait or allow"},
		{"p_on_gap => null", "TK000", "on_gap null"},
		{"p_on_gap => 'jump'", "TK000", "run or skip"},
		{"p_on_fold => null", "TK000", "on_fold null"},
		{"p_on_fold => 'twice'", "TK000", "first, last or both"},
		{"p_jitter => null", "TK000", "jitter null"},
		{"p_jitter => '-1 second'", "TK000", "0 to 1 day"},
		{"p_jitter => '25 hours'", "TK000", "0 to 1 day"},
		{"p_starts_at => 'infinity'", "TK000", `starts_at "infinity"`},
		{"p_starts_at => '-infinity'", "TK000", `starts_at "-infinity"`},
		{"p_ends_at => 'infinity'", "TK000", `ends_at "infinity"`},
		{"p_starts_at => '2030-01-02', p_ends_at => '2030-01-01'", "TK000", "later than starts_at"},
		{"p_starts_at => '2030-01-01', p_ends_at => '2030-01-01'", "TK000", "later than starts_at"},
		{"p_must_finish_within => '0'", "TK000", "must_finish_within"},
		{"p_must_finish_within => '-1 hour'", "TK000", "more than 0"},
		{"p_must_finish_within => '367 days'", "TK000", "366 days"},
		// each second Sunday of March, between two and three: New York's clock always skips it
		{"p_cron => '*/5 2 8-14 3 */7', p_time_zone => 'America/New_York'", "TK019", "never fires in time zone America/New_York"},
	} {
		settings := row.settings
		for name, value := range map[string]string{"p_name": "'x'", "p_cron": "'0 9 * * *'", "p_task": "'noop'"} {
			if !strings.Contains(settings, name+" ") {
				settings += ", " + name + " => " + value
			}
		}
		e := refused(t, db, "select pgtick.schedule("+settings+")")
		require.Equal(t, row.code, e.Code, "%.80s: %s", row.settings, e.Message)
		require.Contains(t, e.Message, row.says, "%.80s", row.settings)
	}
	require.Zero(t, one[int](t, db, "select count(*) from pgtick.schedules"))
}

func TestSchedule_WithEverySetting_PassesThemToItsJob(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, `select pgtick.schedule('Müll 🗑 abholen', '* * * * *', 'noop', '{"a": 1}', p_queue => 'slow', p_priority => 2, p_max_attempts => 7,
		p_timeout => '90 seconds', p_owner_id => '00000000-0000-0000-0000-000000000001')`)
	at(t, db, "2026-03-01T10:01:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, "noop slow 2 7 00:01:30 {\"a\": 1} 00000000-0000-0000-0000-000000000001 Müll 🗑 abholen 2026-03-01 10:01:00",
		one[string](t, db, `select concat_ws(' ', task, queue, priority, max_attempts, timeout, args, owner_id, schedule, slot at time zone 'UTC') from pgtick.jobs`))
}

func TestSchedule_WhenAppliedAgain_ChangesNothing(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	define := func(args string) int64 {
		return one[int64](t, db, `select pgtick.schedule('report', '0 9 * * *', 'noop', $1, p_time_zone => 'Europe/Berlin', p_on_missed => 'all')`, args)
	}
	id := define(`{"a": 1, "b": 2}`)
	before := one[string](t, db, "select s::text from pgtick.schedule_defs as s")
	require.Equal(t, id, define(`{"b": 2, "a": 1}`))
	require.Equal(t, before, one[string](t, db, "select s::text from pgtick.schedule_defs as s"))
	require.Equal(t, []string{"created"}, all[string](t, db, "select what from pgtick.schedule_versions"))
	require.Equal(t, id, define(`{"a": 2}`))
	require.Equal(t, []string{"created", "changed"}, all[string](t, db, "select what from pgtick.schedule_versions order by version"))
	require.Equal(t, 2, one[int](t, db, "select version from pgtick.schedules"))
	require.Equal(t, []string{"args {\"a\": 1, \"b\": 2} {\"a\": 2}"}, all[string](t, db, `select concat_ws(' ', n.key, v.previous -> n.key, n.value)
		from pgtick.schedule_versions as v, jsonb_each(v.definition) as n where v.version = 2 and n.value <> v.previous -> n.key`), "old and new")
}

func TestSchedule_WhenMadeByManyAtOnce_IsOne(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := db.Pool.Exec(t.Context(), "select pgtick.schedule('same', '0 9 * * *', 'noop')")
			errs <- err
		}()
	}
	for range 8 {
		require.NoError(t, <-errs)
	}
	require.Equal(t, []string{"created"}, all[string](t, db, "select what from pgtick.schedule_versions"))
}

func TestSchedule_WhenReplaced_LeavesThePastToTheOldVersion(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'skip')")
	at(t, db, "2026-03-01T10:25:00Z") // nobody ticked: 10:10 and 10:20 are due
	exec(t, db, "select pgtick.schedule('s', '*/5 * * * *', 'noop', p_on_missed => 'skip')")
	at(t, db, "2026-03-01T10:30:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"03-01 10:10 missed", "03-01 10:20 missed", "03-01 10:30 enqueued"}, fates(t, db, "s"), "10:25 had passed when the new version began")
	require.Equal(t, []int{1, 1, 2}, all[int](t, db, "select version from pgtick.slots order by slot"))
	// and back: nothing that has a row gets another
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'skip')")
	require.Zero(t, tick(t, db))
	require.Len(t, fates(t, db, "s"), 3)
}

func TestSchedule_WhenItsNextSlotComesNearer_TellsTheRunners(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), "listen pgtick_tick")
	require.NoError(t, err)
	exec(t, db, "select pgtick.schedule('s', '0 0 1 1 *', 'noop')")
	heard, err := notified(t, conn.Conn())
	require.NoError(t, err)
	require.Equal(t, "pgtick_tick", heard.Channel)
	require.Equal(t, one[time.Time](t, db, "select next_at from pgtick.schedules"), one[time.Time](t, db, "select pgtick.next_tick_at()"))
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop')")
	_, err = notified(t, conn.Conn())
	require.NoError(t, err)
}

func TestPause_AccountsForEachSlotInIt(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T10:10:30Z")
	exec(t, db, "select pgtick.pause_schedule('s')") // 10:10 lies before the pause
	at(t, db, "2026-03-01T10:20:00Z")
	require.Zero(t, tick(t, db))
	at(t, db, "2026-03-01T10:41:00Z") // 10:30 and 10:40 when nobody ticks
	exec(t, db, "select pgtick.resume_schedule('s')")
	at(t, db, "2026-03-01T10:50:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"03-01 10:10 enqueued", "03-01 10:20 skipped_paused", "03-01 10:30 skipped_paused", "03-01 10:40 skipped_paused", "03-01 10:50 enqueued"}, fates(t, db, "s"))
	require.Equal(t, []int{1, 2, 2, 2, 3}, all[int](t, db, "select version from pgtick.slots order by slot"))
	require.Equal(t, []string{"created", "paused", "resumed"}, all[string](t, db, "select what from pgtick.schedule_versions order by version"))
	require.Contains(t, one[string](t, db, "select reason from pgtick.slots where fate = 'skipped_paused' limit 1"), "paused since 2026-03-01 10:10:30 UTC")
}

func TestPause_WithAnEnd_ResumesByItself(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'skip', p_on_overlap => 'allow')")
	exec(t, db, "select pgtick.pause_schedule('s', '2026-03-01 10:30:00+00')")
	require.NotNil(t, one[*time.Time](t, db, "select paused_until from pgtick.schedules"))
	at(t, db, "2026-03-01T10:40:00Z")
	require.Equal(t, 1, tick(t, db))
	require.Equal(t, []string{"03-01 10:10 skipped_paused", "03-01 10:20 skipped_paused", "03-01 10:30 missed", "03-01 10:40 enqueued"}, fates(t, db, "s"))
	require.Nil(t, one[*time.Time](t, db, "select paused_at from pgtick.schedules"))
	require.Equal(t, "resumed pgtick.tick 10:30", one[string](t, db,
		"select concat_ws(' ', what, changed_by, to_char(changed_at at time zone 'UTC', 'HH24:MI')) from pgtick.schedule_versions where version = 3"))
	require.Equal(t, []int{2, 2, 3, 3}, all[int](t, db, "select version from pgtick.slots order by slot"))
}

func TestPause_WhenRepeatedOrWrong_IsClear(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop')")
	exec(t, db, "select pgtick.resume_schedule('s')") // not paused: nothing to do
	exec(t, db, "select pgtick.pause_schedule('s'), pgtick.pause_schedule('s')")
	require.Equal(t, 2, one[int](t, db, "select count(*) from pgtick.schedule_versions"))
	for _, until := range []string{"infinity", "-infinity", "2020-01-01"} {
		e := refused(t, db, "select pgtick.pause_schedule('s', $1::text::timestamptz)", until)
		require.Equal(t, "TK000", e.Code)
		require.Contains(t, e.Message, "until")
	}
}

func TestRename_KeepsTheHistory(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	id := one[int64](t, db, "select pgtick.schedule('old', '* * * * *', 'noop')")
	exec(t, db, "select pgtick.schedule('other', '0 9 * * *', 'noop')")
	at(t, db, "2026-03-01T10:01:00Z")
	tick(t, db)
	exec(t, db, "select pgtick.rename_schedule('old', 'new')")
	require.Equal(t, []string{"03-01 10:01 enqueued"}, fates(t, db, "new"))
	require.Equal(t, id, one[int64](t, db, "select id from pgtick.schedules where name = 'new'"))
	require.Equal(t, "new", one[string](t, db, "select schedule from pgtick.jobs"))
	require.Equal(t, "TK007", refused(t, db, "select pgtick.rename_schedule('new', 'other')").Code)
	require.Equal(t, "TK006", refused(t, db, "select pgtick.rename_schedule('old', 'newer')").Code)
	require.Equal(t, "TK000", refused(t, db, "select pgtick.rename_schedule('new', '')").Code)
	exec(t, db, "select pgtick.unschedule('other')")
	require.Equal(t, "TK007", refused(t, db, "select pgtick.rename_schedule('new', 'other')").Code, "a removed name stays with its history")
}

func TestUnschedule_KeepsTheHistory_AndTheNameComesBack(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	id := one[int64](t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'skip')")
	at(t, db, "2026-03-01T10:15:00Z")
	exec(t, db, "select pgtick.pause_schedule('s')")
	exec(t, db, "select pgtick.unschedule('s')")
	require.Equal(t, "TK006", refused(t, db, "select pgtick.unschedule('s')").Code)
	require.Zero(t, one[int](t, db, "select count(*) from pgtick.schedules"))
	at(t, db, "2026-03-01T10:55:00Z")
	require.Zero(t, tick(t, db))
	require.Equal(t, []string{"03-01 10:10 missed"}, fates(t, db, "s"))
	require.Equal(t, id, one[int64](t, db, "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'skip')"))
	at(t, db, "2026-03-01T11:00:00Z")
	require.Equal(t, 1, tick(t, db), "it comes back unpaused")
	require.Equal(t, []string{"03-01 10:10 missed", "03-01 11:00 enqueued"}, fates(t, db, "s"))
	require.Equal(t, []string{"created", "paused", "removed", "created"}, all[string](t, db, "select what from pgtick.schedule_versions order by version"))
}

func TestUnknownSchedule_SuggestsTheNearestName(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('daily-report', '0 9 * * *', 'noop'), pgtick.schedule('weekly-mail', '0 9 * * 1', 'noop')")
	for _, call := range []string{"unschedule('daly-report')", "pause_schedule('daly-report')", "resume_schedule('daly-report')", "run_now('daly-report')", "rename_schedule('daly-report', 'x')"} {
		e := refused(t, db, "select pgtick."+call)
		require.Equal(t, "TK006", e.Code, call)
		require.Contains(t, e.Message, "daly-report")
		require.Contains(t, e.Hint, `"daily-report"`)
	}
	require.Equal(t, "The names are in pgtick.schedules.", refused(t, db, "select pgtick.run_now('zzz')").Hint)
	for _, call := range []string{"unschedule(null)", "pause_schedule(null)", "resume_schedule(null)", "run_now(null)", "rename_schedule(null, 'x')"} {
		require.Equal(t, "TK006", refused(t, db, "select pgtick."+call).Code, call)
	}
}

func TestRunNow_MakesASlotOfItsOwnKind(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:00Z") // on a slot's own second, and the clock stands still
	exec(t, db, `select pgtick.schedule('s', '* * * * *', 'noop', '{"a": 1}', p_jitter => '1 hour')`)
	exec(t, db, "select pgtick.pause_schedule('s')")
	first := one[int64](t, db, "select pgtick.run_now('s')")
	second := one[int64](t, db, "select pgtick.run_now('s')")
	require.NotEqual(t, first, second, "it ignores overlap")
	require.Equal(t, 2, countOf(t, db, "s", "run_now"))
	require.Equal(t, []int64{first, second}, all[int64](t, db, "select job_id from pgtick.slots order by slot"))
	require.True(t, one[bool](t, db, "select bool_and(run_at = pgtick.now() and args = '{\"a\": 1}' and schedule = 's') from pgtick.jobs"))
	exec(t, db, "select pgtick.resume_schedule('s')")
	at(t, db, "2026-03-01T10:01:00Z")
	require.Zero(t, tick(t, db))
	require.Equal(t, 1, countOf(t, db, "s", "skipped_overlap"), "but a slot does not ignore it")
}

func TestRunNow_WhileATickHoldsTheSchedule_DoesNotWait(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T10:01:00Z")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), "select pgtick.tick()")
	require.NoError(t, err)
	exec(t, db, "set lock_timeout = '100ms'; select pgtick.run_now('s'); reset lock_timeout")
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, 2, one[int](t, db, "select count(*) from pgtick.jobs"))
}
