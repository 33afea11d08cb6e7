package schedules

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestTick_ByPgCron_ArrivesWithinTheMinute(t *testing.T) {
	t.Parallel()
	db := pgtest.NewWithCron(t)
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_overlap => 'allow')")
	exec(t, db, "create table public.told as select current_setting('application_name') as application, pgtick.clock_name() as clock limit 0")
	config, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	config.Database = "postgres" // where pg_cron lives
	home, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	_, err = home.Exec(t.Context(), `select cron.schedule_in_database('told', '* * * * *',
		$$ select set_config('application_name', 'mine', false); insert into public.told select current_setting('application_name'), pgtick.clock_name() $$, $1)`, db.Name)
	require.NoError(t, err)
	require.NoError(t, home.Close(t.Context()))
	require.Eventually(t, func() bool {
		return one[int](t, db, "select count(*) from pgtick.slots where schedule = 's' and clock = 'pg_cron' and fate = 'enqueued'") > 0
	}, 130*time.Second, 250*time.Millisecond, "pg_cron calls at each full minute, and the first one may come just before the schedule's first slot")
	require.Equal(t, 1, one[int](t, db, "select count(*) from pgtick.clocks where clock = 'pg_cron' and ticked_at > now() - interval '2 minutes'"))
	require.Equal(t, "noop", one[string](t, db, "select task from pgtick.jobs where schedule = 's' limit 1"))
	require.Eventually(t, func() bool { return one[int](t, db, "select count(*) from public.told") > 0 }, 130*time.Second, 250*time.Millisecond)
	require.Equal(t, "mine pg_cron", one[string](t, db, "select application || ' ' || clock from public.told limit 1"), "known by its process, whatever it calls itself")
}

func TestClocks_AreToldApart_AndNotedAtMostOnceASecond(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	config, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	for application, clock := range map[string]string{"pgtick": "runner", "pgtick-control": "runner", "pg_cron": "pg_cron", "psql": "other", "": "other"} {
		config.RuntimeParams["application_name"] = application
		conn, err := pgx.ConnectConfig(t.Context(), config)
		require.NoError(t, err)
		var got string
		require.NoError(t, conn.QueryRow(t.Context(), "select pgtick.clock_name()").Scan(&got))
		require.Equal(t, clock, got, application)
		_, err = conn.Exec(t.Context(), "select pgtick.tick()")
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	}
	require.Equal(t, []string{"other", "pg_cron", "runner"}, all[string](t, db, "select clock from pgtick.clocks order by clock"))
	row := "select xmin::text || ' ' || ticked_at from pgtick.clocks where clock = 'other'"
	before := one[string](t, db, row)
	pgtest.Advance(t, db, time.Second)
	tick(t, db)
	require.Equal(t, before, one[string](t, db, row))
	pgtest.Advance(t, db, time.Second)
	tick(t, db)
	require.NotEqual(t, before, one[string](t, db, row))
}

func TestRunTicks_DoesAllThatIsDue_ThenRescuesAndMaintains(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s' || i, '* * * * *', 'noop') from generate_series(1, 50) as i")
	exec(t, db, "delete from pgtick.upkeep")
	at(t, db, "2026-03-01T10:01:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Equal(t, 50, one[int](t, db, "select count(*) from pgtick.slots"))
	done := func() []string {
		return all[string](t, db, "select what from pgtick.upkeep where done_at = pgtick.now() and what in ('maintain', 'indexes') order by what")
	}
	require.Equal(t, []string{"indexes", "maintain"}, done())
	at(t, db, "2026-03-01T10:06:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Empty(t, done(), "maintain is due once an hour, a look at the indexes after five minutes")
	at(t, db, "2026-03-01T10:06:01Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Equal(t, []string{"indexes"}, done())
}

func TestRunTicks_WhenOneOfItsPartsFails_DoesTheOthers(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop')")
	exec(t, db, "delete from pgtick.upkeep")
	exec(t, db, "create or replace function pgtick.rescue() returns integer language plpgsql set search_path = '' as $$ begin raise 'no rescue today'; end $$")
	at(t, db, "2026-03-01T10:01:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Equal(t, []string{"03-01 10:01 enqueued"}, fates(t, db, "s"))
	require.Equal(t, []string{"indexes", "maintain"}, all[string](t, db, "select what from pgtick.upkeep order by what"))
	exec(t, db, "create or replace function pgtick.wake(p_queues text[], p_run_at timestamptz) returns void language plpgsql set search_path = '' as $$ begin raise 'no wake today'; end $$")
	exec(t, db, "delete from pgtick.upkeep")
	at(t, db, "2026-03-01T10:02:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	require.Equal(t, []string{"indexes", "maintain"}, all[string](t, db, "select what from pgtick.upkeep order by what"))
	require.Len(t, fates(t, db, "s"), 2, "a slot that makes no job needs no wake-up")
}

func TestTick_WithAHundredThousandSchedules_ReadsNoneOfThemWhenNoneIsDue(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.schedule('s', '0 0 1 1 *', 'noop')")
	exec(t, db, `insert into pgtick.schedule_defs (name, cron, parsed, time_zone, task, args, queue, priority, max_attempts, timeout, on_missed, catch_up_limit,
			on_overlap, on_gap, on_fold, jitter, next_at, created_at)
		select name || i, cron, parsed, time_zone, task, args, queue, priority, max_attempts, timeout, on_missed, catch_up_limit,
			on_overlap, on_gap, on_fold, jitter, next_at + make_interval(secs => i), created_at
		from pgtick.schedule_defs, generate_series(1, 100000) as i`)
	exec(t, db, "vacuum analyze pgtick.schedule_defs")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	rowsRead := func() (n int) { // by this session, also by earlier transactions of it that are not yet in the cumulative statistics
		require.NoError(t, tx.QueryRow(t.Context(), `select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables
			where relid = 'pgtick.schedule_defs'::regclass`).Scan(&n))
		return n
	}
	before := rowsRead()
	_, err = tx.Exec(t.Context(), "select pgtick.tick()")
	require.NoError(t, err)
	require.LessOrEqual(t, rowsRead()-before, 1, "rows of the schedules' table that this tick has read")
}

// Of two that tick at once neither waits for what the other one notes, also where nobody has ever ticked; and a clock is no other one's.
func TestClocks_ThatTickAtOnce_DoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]string{
		"the first of all":         "delete from pgtick.clocks",
		"after an outage":          "delete from pgtick.clocks; insert into pgtick.clocks (clock, ticked_at) values ('other', '2026-03-01 09:00Z'), ('pg_cron', '2026-03-01 09:30Z')",
		"after one a moment ago":   "delete from pgtick.clocks; insert into pgtick.clocks (clock, ticked_at) values ('other', '2026-03-01 10:00:20Z'), ('pg_cron', '2026-03-01 10:00:25Z')",
		"the first of its kind is": "delete from pgtick.clocks; insert into pgtick.clocks (clock, ticked_at) values ('pg_cron', '2026-03-01 10:00:25Z')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			exec(t, db, "delete from pgtick.outages")
			exec(t, db, prepare)
			at(t, db, "2026-03-01T10:00:30Z")
			others := all[string](t, db, "select c::text from pgtick.clocks as c where clock <> 'other'")
			open, impatient := session(t, db), session(t, db)
			do(t, impatient, pgtest.WaitForNobody)
			do(t, open, "begin")
			do(t, open, "select pgtick.tick()")
			do(t, impatient, "select pgtick.tick()")
			do(t, open, "commit")
			require.Equal(t, others, all[string](t, db, "select c::text from pgtick.clocks as c where clock <> 'other'"))
			require.Equal(t, 1, one[int](t, db, "select count(*) from pgtick.clocks where clock = 'other' and ticked_at = pgtick.now()"))
			want := []string{}
			if name == "after an outage" {
				want = append(want, "09:30 10:00")
			}
			require.Equal(t, want, all[string](t, db, "select to_char(began_at at time zone 'UTC', 'HH24:MI') || to_char(ended_at at time zone 'UTC', ' HH24:MI') from pgtick.outages"))
		})
	}
}

// An outage that began when the server was up already has nothing to do with its start.
func TestOutage_WhileTheServerWasUp_DoesNotNameItsStart(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	started := one[time.Time](t, db, "select pg_postmaster_start_time()").Truncate(time.Second)
	for _, c := range []struct {
		from, to time.Duration
		want     bool
	}{{-time.Hour, time.Hour, true}, {2 * time.Hour, 3 * time.Hour, false}, {-4 * time.Hour, -3 * time.Hour, false}} {
		exec(t, db, "delete from pgtick.clocks; delete from pgtick.outages")
		pgtest.SetNow(t, db, started.Add(c.from))
		tick(t, db)
		pgtest.SetNow(t, db, started.Add(c.to))
		tick(t, db)
		require.Equal(t, []bool{c.want}, all[bool](t, db, "select server_started_at is not null from pgtick.outages"), "%v", c)
	}
}
