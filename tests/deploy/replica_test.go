package deploy

import (
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// What people look at costs the primary nothing: all views answer on a read replica.
func TestReplica_AnswersEveryView(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	db := pgtest.NewOn(t, primary)
	id := pgtest.AddJob(t, db, "test.noop")
	standby := pgtest.StandbyOf(t, primary, localpg.Options{})
	there := db.At(t, standby)
	becomes(t, there, "ready", `select state from pgtick.jobs where id = $1`, id)
	require.True(t, ask[bool](t, there, `select pg_is_in_recovery()`))
	views := column(t, there, `select c.oid::regclass::text from pg_class as c
		where c.relnamespace in ('pgtick'::regnamespace, 'credits'::regnamespace, 'analytics'::regnamespace) and c.relkind = 'v' order by 1`)
	require.Greater(t, len(views), 20)
	for _, view := range append(views, "pgtick.why(1)", "pgtick.why_schedule('periodic-credit-allocation')", "pgtick.forecast()") {
		rows, err := there.Pool.Query(t.Context(), "select row_to_json(x)::text from "+view+" as x")
		require.NoError(t, err, view)
		_, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, view)
	}
	for _, args := range [][]string{{"schedules", "list"}, {"schedules", "forecast"}, {"credits", "verify"}} {
		_, talk, code := call(t, program(t), []string{"DATABASE_URL=" + there.URL}, args...)
		require.Zero(t, code, "pgtick %v: %s", args, talk)
	}
	require.Equal(t, "periodic-credit-allocation", ask[string](t, there, `select name from pgtick.schedules where task = 'credits.periodic_credit_allocation'`))
}

// It may be a standby that is about to be promoted, so a runner does not give up; and who sent it there by mistake is told.
func TestReplica_ARunnerSentThere_SaysThatItCannotWrite_AndWaits(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	db := pgtest.NewOn(t, primary)
	there := db.At(t, pgtest.StandbyOf(t, primary, localpg.Options{}))
	p := start(t, program(t), []string{"DATABASE_URL=" + there.URL, "PGTICK_HTTP=off"}, "work")
	p.says("the database is read-only: it is a standby")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Zero(t, p.ends())
}
