package schedules

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// session is a connection of its own, for what several sessions do at once.
func session(t *testing.T, db *pgtest.DB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func do(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

// afterwards begins a statement in one session while another one has a transaction open, lets it wait, ends that, and returns how it went.
func afterwards(t *testing.T, db *pgtest.DB, open *pgx.Conn, sql string) error {
	t.Helper()
	conn, ended := session(t, db), make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), sql)
		ended <- err
	}()
	require.Eventually(t, func() bool {
		return one[bool](t, db, "select exists (select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock')", conn.PgConn().PID())
	}, pgtest.Patience, 2*time.Millisecond, "it never waited")
	do(t, open, "commit")
	return <-ended
}

func changes(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return all[string](t, db, "select concat_ws(' ', schedule, what, definition ->> 'cron') from pgtick.schedule_versions order by schedule, version")
}

// Who comes second sees what the first one did: the same once more is no change, and something else is one on top of it.
func TestChange_OfTwoAtOnce_TheSecondGoesByWhatTheFirstDid(t *testing.T) {
	t.Parallel()
	const made, later = "select pgtick.schedule('s', '0 9 * * *', 'noop')", "select pgtick.schedule('s', '0 10 * * *', 'noop')"
	for name, c := range map[string]struct {
		before, first, second string
		want                  []string
	}{
		"made twice":       {"", made, made, []string{"s created 0 9 * * *"}},
		"made and changed": {"", made, later, []string{"s created 0 9 * * *", "s changed 0 10 * * *"}},
		"changed alike":    {made, later, later, []string{"s created 0 9 * * *", "s changed 0 10 * * *"}},
		"changed and back": {made, later, made, []string{"s created 0 9 * * *", "s changed 0 10 * * *", "s changed 0 9 * * *"}},
		"paused twice":     {made, "select pgtick.pause_schedule('s')", "select pgtick.pause_schedule('s')", []string{"s created 0 9 * * *", "s paused 0 9 * * *"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			if c.before != "" {
				exec(t, db, c.before)
			}
			open := session(t, db)
			do(t, open, "begin")
			do(t, open, c.first)
			require.NoError(t, afterwards(t, db, open, c.second))
			require.Equal(t, c.want, changes(t, db))
		})
	}
}

func TestChange_WhileItIsBeingRemoved_SaysThatItIsGone(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop')")
	open := session(t, db)
	do(t, open, "begin")
	do(t, open, "select pgtick.unschedule('s')")
	require.ErrorContains(t, afterwards(t, db, open, "select pgtick.pause_schedule('s')"), "TK006")
}

// Each is changed by its own name, however alike they are.
func TestChange_OfOne_LeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, name := range []string{"a", "b", "c"} {
		exec(t, db, "select pgtick.schedule($1, '0 9 * * *', 'noop')", name)
	}
	others := func() []string {
		return all[string](t, db, "select s::text from pgtick.schedule_defs as s where name in ('a', 'c') order by name")
	}
	before := others()
	for _, change := range []string{
		"schedule('b', '0 10 * * *', 'noop')", "pause_schedule('b')", "pause_schedule('b', '2999-01-01')", "resume_schedule('b')", "run_now('b')", "unschedule('b')", "schedule('b', '0 11 * * *', 'noop')",
		"rename_schedule('b', 'd')", "rename_schedule('d', 'b')",
	} {
		exec(t, db, "select pgtick."+change)
		require.Equal(t, before, others(), change)
	}
	require.Equal(t, 1, one[int](t, db, "select count(*) from pgtick.schedules where name = 'b' and cron = '0 11 * * *'"))
}

// What was removed is not suggested, and is named as what it is.
func TestUnknownSchedule_ThatWasRemoved_SaysSo_AndIsNotSuggested(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('daily-report', '0 9 * * *', 'noop')")
	exec(t, db, "select pgtick.unschedule('daily-report')")
	for _, call := range []string{"pause_schedule('daily-report')", "resume_schedule('daily-report')", "run_now('daily-report')", "rename_schedule('daily-report', 'x')", "unschedule('daily-report')"} {
		e := refused(t, db, "select pgtick."+call)
		require.Equal(t, "TK006", e.Code, call)
		require.Contains(t, e.Message, "it was unscheduled at ")
		require.Equal(t, "pgtick.schedule with this name brings it back.", e.Hint)
	}
	require.Equal(t, "The names are in pgtick.schedules.", refused(t, db, "select pgtick.pause_schedule('daly-report')").Hint)
}

// A slot that is due and that nobody has ticked for is made by the change, and wakes who waits for its job.
func TestChange_ThatMakesAJobOfADueSlot_WakesWhoSleeps(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop')")
	at(t, db, "2026-03-01T10:01:10Z")
	runner := one[int64](t, db, "select pgtick.register('r', '{default}', '{noop}')")
	number := one[string](t, db, "select pgtick.sleep($1, '1 minute')::text", runner)
	require.Eventually(t, func() bool { return one[bool](t, db, "select pgtick.settled($1::text::xid8)", number) }, pgtest.Patience, time.Millisecond)
	conn := session(t, db)
	do(t, conn, "listen pgtick")
	exec(t, db, "select pgtick.pause_schedule('s')")
	require.Equal(t, []string{"03-01 10:01 enqueued"}, fates(t, db, "s"))
	heard, err := notified(t, conn)
	require.NoError(t, err)
	require.Equal(t, "default", heard.Payload)
}

// A lock that could not be had, or a server that stops, does not make a schedule a broken one: nothing of the change is kept.
func TestChange_ThatFailsForWhatPasses_LeavesEverythingAsItWas(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"40001", "40P01", "53200", "55P03", "57014", "58030"} {
		db := newDB(t)
		at(t, db, "2026-03-01T10:00:30Z")
		exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop')")
		at(t, db, "2026-03-01T10:01:10Z")
		exec(t, db, `create function public.fail() returns trigger language plpgsql as $$ begin raise exception using errcode = '`+code+`', message = 'passes'; end $$;
			create trigger fail before insert on pgtick.live_jobs for each row execute function public.fail()`)
		before := one[string](t, db, "select s::text from pgtick.schedule_defs as s")
		for _, change := range []string{"unschedule('s')", "schedule('s', '*/2 * * * *', 'noop')", "pause_schedule('s')"} {
			_, err := db.Pool.Exec(t.Context(), "select pgtick."+change)
			require.ErrorContains(t, err, code, change)
		}
		require.Equal(t, before, one[string](t, db, "select s::text from pgtick.schedule_defs as s"), code)
		require.Empty(t, fates(t, db, "s"), code)
		require.Len(t, changes(t, db), 1, code)
	}
}

// Whose next slot comes no earlier wakes nobody.
func TestChange_WhoseNextSlotComesLater_TellsNobody(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop')")
	conn := session(t, db)
	do(t, conn, "listen pgtick_tick")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_priority => 1)")
	exec(t, db, "select pgtick.schedule('s', '0 0 1 1 *', 'noop')")
	exec(t, db, "select pg_notify('pgtick_tick', 'the end')")
	heard, err := notified(t, conn)
	require.NoError(t, err)
	require.Equal(t, "the end", heard.Payload)
}

// pgtick schedules apply learns so what a file declares, changed or not.
func TestSchedule_WhereNamesAreCollected_AddsItsOwn(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	conn := session(t, db)
	declared := func() (names *string) {
		t.Helper()
		require.NoError(t, conn.QueryRow(t.Context(), "select nullif(current_setting('pgtick.declared', true), '')").Scan(&names))
		return names
	}
	do(t, conn, "begin")
	do(t, conn, "select pgtick.schedule('a', '0 9 * * *', 'noop')")
	require.Nil(t, declared())
	do(t, conn, "set local pgtick.declared = '[]'")
	do(t, conn, "select pgtick.schedule('b', '0 9 * * *', 'noop'), pgtick.schedule('a', '0 9 * * *', 'noop')")
	require.JSONEq(t, `["b", "a"]`, *declared())
	do(t, conn, "commit")
}

// Slots that lie ahead of a clock which was put right are given up by a change, each schedule's own and no others.
func TestChange_AfterTheClockWasAhead_TakesItsOwnSlotsBackAlone(t *testing.T) {
	t.Parallel()
	for _, ahead := range []string{"2026-03-01T10:06:00Z", "2026-03-03T10:00:30Z"} {
		db := newDB(t)
		at(t, db, "2026-03-01T10:00:30Z")
		for _, name := range []string{"a", "b", "c"} {
			exec(t, db, "select pgtick.schedule($1, '* * * * *', 'noop', p_on_missed => 'all'), pgtick.pause_schedule($1)", name)
		}
		at(t, db, ahead)
		tick(t, db)
		at(t, db, "2026-03-01T10:03:30Z")
		a, c := rows(t, db, "a"), rows(t, db, "c")
		exec(t, db, "select pgtick.schedule('b', '* * * * *', 'noop', p_on_missed => 'all', p_priority => 1)")
		require.Equal(t, a, rows(t, db, "a"))
		require.Equal(t, c, rows(t, db, "c"))
		require.Equal(t, 3, one[int](t, db, "select sum(slots)::int from pgtick.slots where schedule = 'b'"), "%v", fates(t, db, "b"))
		at(t, db, "2026-03-01T10:04:30Z")
		tick(t, db)
		require.Equal(t, 4, one[int](t, db, "select sum(slots)::int from pgtick.slots where schedule = 'b'"))
	}
}

// A rename waits for whoever has the schedule in hand, and goes by what they have made of it.
func TestRename_OfTwoAtOnce_TheSecondDoesNotFindTheOldName(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop')")
	open := session(t, db)
	do(t, open, "begin")
	do(t, open, "select pgtick.rename_schedule('s', 'first')")
	require.ErrorContains(t, afterwards(t, db, open, "select pgtick.rename_schedule('s', 'second')"), "TK006")
	require.Equal(t, []string{"first"}, all[string](t, db, "select name from pgtick.schedules"))
	exec(t, db, "select pgtick.unschedule('first')")
	require.Equal(t, "TK006", refused(t, db, "select pgtick.rename_schedule('first', 'second')").Code, "it was removed")
}

// To pause until another time is a change, also where it is paused already.
func TestPause_UntilAnotherTime_IsAChange(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop')")
	for _, until := range []string{"null", "'2026-03-02'", "'2026-03-02'", "'2026-03-03'", "null"} {
		exec(t, db, "select pgtick.pause_schedule('s', "+until+")")
	}
	require.Len(t, changes(t, db), 5)
	require.Nil(t, one[*time.Time](t, db, "select paused_until from pgtick.schedules"))
}

// Slots that have a job stay when the clock is put right, and are told already; those between them are not, also where an outage makes a range of
// all. Another schedule has its own, at other times.
func TestTick_OfARangeWithSlotsThatAreTold_TellsTheOthersAndNoneTwice(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '*/2 * * * *', 'noop', p_on_missed => 'skip', p_on_overlap => 'allow'), pgtick.schedule('other', '*/3 * * * *', 'noop', p_on_missed => 'skip', p_on_overlap => 'allow')")
	for _, ahead := range []string{"10:02", "10:03", "10:04", "10:06", "10:08", "10:09"} {
		at(t, db, "2026-03-01T"+ahead+":00Z")
		tick(t, db)
	}
	at(t, db, "2026-03-01T10:03:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'skip', p_on_overlap => 'allow')")
	require.Equal(t, []string{"2026-03-01 10:08:00"}, all[string](t, db, "select (told_until at time zone 'UTC')::text from pgtick.schedule_defs where told_until is not null"))
	at(t, db, "2026-03-03T10:03:30Z")
	tick(t, db)
	require.Equal(t, 1+2880, one[int](t, db, "select sum(slots)::int from pgtick.slots where schedule = 's'"), "that of 10:02, and each minute from 10:04 on")
	require.Equal(t, 6, countOf(t, db, "s", "enqueued"), "the four that were told, and the two that are not late")
	requireNothingUnaccounted(t, db)
}

// A change without slots ahead of the clock leaves nothing that was told, whatever others have.
func TestChange_WithoutSlotsAhead_KnowsOfNoneThatAreTold(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '0 * * * *', 'noop', p_on_overlap => 'allow'), pgtick.schedule('other', '* * * * *', 'noop', p_on_overlap => 'allow')")
	at(t, db, "2026-03-01T11:00:00Z")
	tick(t, db)
	exec(t, db, "update pgtick.schedule_defs set next_at = '2026-03-01 13:00Z' where name = 's'") // so that what lies ahead is looked for
	at(t, db, "2026-03-01T11:00:30Z")
	exec(t, db, "insert into pgtick.slot_log (schedule_id, slot, fate, version, reason, job_id, recorded_at, clock) select id, '2026-03-01 11:30Z', 'enqueued', 1, 'ahead', 4711, pgtick.now(), 'test' from pgtick.schedule_defs where name = 'other'")
	exec(t, db, "select pgtick.schedule('s', '0 * * * *', 'noop', p_on_overlap => 'allow', p_priority => 1)")
	require.Nil(t, one[*time.Time](t, db, "select told_until from pgtick.schedule_defs where name = 's'"))
}

// To look for what is probably not meant is most of what a schedule costs, so it is not done where nobody would read it.
func TestSchedule_Warnings_AreWorkedOutWhereSomebodySeesThem(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	conn := session(t, db)
	looks := func() (n int) { // of earlier transactions, too, until the session sends its counts away
		require.NoError(t, conn.QueryRow(t.Context(), "select coalesce(sum(calls), 0)::int from pg_stat_xact_user_functions where schemaname = 'pgtick' and funcname = 'schedule_warnings'").Scan(&n))
		return n
	}
	for client, logs := range map[string]map[string]bool{
		"notice":  {"warning": true, "notice": true, "info": true, "debug1": true, "error": true},
		"warning": {"warning": false, "notice": true, "info": true, "debug1": true, "debug5": true, "error": false},
		"error":   {"warning": false, "notice": true, "error": false},
	} {
		for log, seen := range logs {
			do(t, conn, "begin")
			do(t, conn, "set local track_functions = 'all'")
			do(t, conn, "set local client_min_messages = "+client)
			do(t, conn, "set local log_min_messages = "+log)
			before := looks()
			do(t, conn, "select pgtick.schedule('s', '0 9 * * *', 'noop')")
			require.Equal(t, seen, looks() > before, "client_min_messages %s, log_min_messages %s", client, log)
			do(t, conn, "rollback")
		}
	}
}
