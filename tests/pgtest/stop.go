package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// StopAt returns a session whose next statement of one kind, such as "update on pgtick.live_jobs", stops once it has its snapshot, and before it has
// locked or changed anything: what others commit meanwhile it has not seen. Stopped waits until it stands there, and goOn lets it go on.
func (db *DB) StopAt(t testing.TB, statement string) (conn *pgx.Conn, stopped, goOn func()) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), `
		create function public.stop_here() returns trigger language plpgsql as $$
		begin
			if current_setting('test.stop', true) = 'on' then
				perform set_config('test.stop', 'off', false);
				perform pg_advisory_xact_lock(4711);
			end if;
			return null;
		end $$;
		create trigger stop_here before `+statement+` for each statement execute function public.stop_here()`)
	require.NoError(t, err)
	holder := db.connect(t)
	_, err = holder.Exec(t.Context(), "select pg_advisory_lock(4711)")
	require.NoError(t, err)
	conn = db.connect(t)
	_, err = conn.Exec(t.Context(), "set test.stop = 'on'")
	require.NoError(t, err)
	stopped = func() {
		t.Helper()
		require.Eventually(t, func() bool {
			var waits bool
			err := db.Pool.QueryRow(t.Context(), "select exists (select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock' and wait_event = 'advisory')", conn.PgConn().PID()).Scan(&waits)
			return err == nil && waits
		}, Patience, 2*time.Millisecond, "no such statement came")
	}
	goOn = func() {
		t.Helper()
		_, err := holder.Exec(t.Context(), "select pg_advisory_unlock(4711)")
		require.NoError(t, err)
	}
	return conn, stopped, goOn
}

func (db *DB) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
