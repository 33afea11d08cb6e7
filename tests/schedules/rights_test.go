package schedules

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// as runs a statement under a role and returns the SQLSTATE, or nothing when it worked.
func as(t *testing.T, db *pgtest.DB, role, sql string) string {
	t.Helper()
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), "set role "+role)
	require.NoError(t, err)
	_, failed := conn.Exec(t.Context(), sql)
	_, err = conn.Exec(t.Context(), "reset role")
	require.NoError(t, err)
	if failed == nil {
		return ""
	}
	pg := new(pgconn.PgError)
	require.ErrorAs(t, failed, &pg)
	return pg.Code
}

func TestRights_EachRoleMayDoItsPart(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop')")
	at(t, db, "2026-03-01T10:01:00Z")
	for _, sql := range []string{"select pgtick.tick()", "select pgtick.next_tick_at()", "select pgtick.check_deadlines()", "call pgtick.run_ticks()", "select pgtick.next_run('0 9 * * *')"} {
		require.Empty(t, as(t, db, "pgtick_runner", sql), sql)
	}
	for _, sql := range []string{"select * from pgtick.schedules", "select * from pgtick.slots", "select * from pgtick.schedule_versions",
		"select * from pgtick.schedule_health()", "select * from pgtick.unaccounted_slots()", "select * from pgtick.forecast()", "select * from pgtick.why_schedule('s')",
		"select * from pgtick.preview_change('s', '*/2 * * * *')", "select description, typical_duration from pgtick.schedules", "select * from pgtick.outages", "select pgtick.preview('0 9 * * MON', 'Europe/Berlin')"} {
		require.Empty(t, as(t, db, "pgtick_reader", sql), sql)
	}
	for _, sql := range []string{"select pgtick.schedule('x', '* * * * *', 'noop')", "select pgtick.run_now('s')", "select pgtick.unschedule('s')", "select pgtick.tick()",
		"delete from pgtick.slot_log", "update pgtick.schedule_defs set name = 'x'", "select pgtick.account(1, now(), null, null)"} {
		require.Equal(t, "42501", as(t, db, "pgtick_reader", sql), sql)
	}
	for _, sql := range []string{"select pgtick.schedule('x', '* * * * *', 'noop')", "insert into pgtick.slot_log default values", "select * from pgtick.schedules",
		"select pgtick.account(1, now(), null, null)", "select pgtick.tick_singles('{1}', now(), null)", "select pgtick.forecast()"} {
		require.Equal(t, "42501", as(t, db, "pgtick_runner", sql), sql)
	}
	require.Equal(t, 1, one[int](t, db, "select count(*) from pgtick.slots"))
}

func TestOwners_SeeTheirOwnSchedulesAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.NewOn(t, pgtest.Server(t)) // a server of its own: roles belong to the whole of it
	exec(t, db, "create role authenticated; create role service_role")
	db.Migrate(t)
	db.Quiet(t)
	const ann, ben = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('of ann', '* * * * *', 'noop', '{\"secret\": 1}', p_owner_id => $1), pgtick.schedule('of nobody', '* * * * *', 'noop')", ann)
	exec(t, db, "select pgtick.schedule('of ben', '* * * * *', 'noop', p_owner_id => $1)", ben)
	at(t, db, "2026-03-01T10:01:00Z")
	require.Equal(t, 3, tick(t, db))
	see := func(user, sql string) string {
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(t.Context()) }()
		_, err = tx.Exec(t.Context(), "set local role authenticated; set local request.jwt.claims = '{\"sub\": \""+user+"\"}'")
		require.NoError(t, err)
		var text string
		require.NoError(t, tx.QueryRow(t.Context(), sql).Scan(&text), sql)
		return text
	}
	for user, want := range map[string]string{ann: "of ann", ben: "of ben", "00000000-0000-0000-0000-00000000000c": ""} {
		require.Equal(t, want, see(user, "select coalesce(string_agg(name, ','), '') from pgtick.my_schedules"))
		require.Equal(t, want, see(user, "select coalesce(string_agg(schedule, ','), '') from pgtick.my_slots"))
		require.Equal(t, want, see(user, "select coalesce(string_agg(name, ','), '') from pgtick.schedule_defs"), "nor are there more rows below the views")
	}
	require.Equal(t, "1", see(ann, "select count(*)::text from pgtick.my_jobs"))
	for _, sql := range []string{"select args from pgtick.schedule_defs", "select reason from pgtick.slot_log", "select * from pgtick.schedules", "select * from pgtick.slots",
		"select * from pgtick.schedule_versions", "select pgtick.schedule('x', '* * * * *', 'noop')", "select pgtick.pause_schedule('of ann')", "select * from pgtick.forecast()"} {
		require.Equal(t, "42501", as(t, db, "authenticated", sql), sql)
	}
	require.Empty(t, as(t, db, "service_role", "select pgtick.pause_schedule('of ann'), pgtick.resume_schedule('of ann'), pgtick.set_slot_retention('90 days'), pgtick.unschedule('of ann')"))
	require.Equal(t, "", see(ann, "select coalesce(string_agg(name, ','), '') from pgtick.my_schedules"))
	require.Equal(t, "of ann", see(ann, "select coalesce(string_agg(schedule, ','), '') from pgtick.my_slots"), "its history stays")
}
