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
	for _, sql := range []string{"select pgtick.tick()", "select pgtick.next_tick_at()", "call pgtick.run_ticks()", "select pgtick.next_run('0 9 * * *')"} {
		require.Empty(t, as(t, db, "pgtick_runner", sql), sql)
	}
	for _, sql := range []string{"select * from pgtick.schedules", "select * from pgtick.slots", "select * from pgtick.schedule_versions",
		"select * from pgtick.schedule_health()", "select pgtick.preview('0 9 * * MON', 'Europe/Berlin')"} {
		require.Empty(t, as(t, db, "pgtick_reader", sql), sql)
	}
	for _, sql := range []string{"select pgtick.schedule('x', '* * * * *', 'noop')", "select pgtick.run_now('s')", "select pgtick.unschedule('s')", "select pgtick.tick()",
		"delete from pgtick.slot_log", "update pgtick.schedule_defs set name = 'x'", "select pgtick.account(1, now(), null)"} {
		require.Equal(t, "42501", as(t, db, "pgtick_reader", sql), sql)
	}
	for _, sql := range []string{"select pgtick.schedule('x', '* * * * *', 'noop')", "insert into pgtick.slot_log default values", "select * from pgtick.schedules",
		"select pgtick.account(1, now(), null)", "select pgtick.tick_singles('{1}', now(), null)"} {
		require.Equal(t, "42501", as(t, db, "pgtick_runner", sql), sql)
	}
	require.Equal(t, 1, one[int](t, db, "select count(*) from pgtick.slots"))
}
