package supabase

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// The entries of pg_cron, as the provider sees them.
const entries = "select coalesce(string_agg(concat_ws(' ', c.jobname, c.schedule, c.command, c.username, c.database), ', '), '') from cron.job as c"

// pg_cron lives in the very database of a hosted project, and belongs to the provider, who lets postgres call it, or not. One server
// for all of it, in order.
func TestInstall_WherePgCronIsTheProviders(t *testing.T) {
	t.Parallel()
	db := pgtest.HostedWithCron(t, pgtest.Closed)
	t.Run("who does not let us call it, says so and is whole all the same", func(t *testing.T) {
		as(t, db.AdminURL(), "revoke execute on all functions in schema cron from postgres, public")
		notices := applied(t, db.URL)
		report, err := migrate(t, db.URL)
		require.NoError(t, err)
		for _, said := range []string{notices, strings.Join(report.Notes, "\n")} {
			require.Contains(t, said, "pg_cron is not to be had here: permission denied for function schedule")
			require.Contains(t, said, "the runner's own timer will serve as the clock")
		}
		require.Empty(t, ask[string](t, db.AdminURL(), entries))
		require.NotZero(t, ask[int64](t, db.URL, "select pgtick.enqueue('noop')"))
	})
	t.Run("who lets us call it, makes the entry once", func(t *testing.T) {
		as(t, db.AdminURL(), "grant execute on all functions in schema cron to postgres")
		newProject(t).push(t, db)
		require.Equal(t, "pgtick * * * * * call pgtick.run_ticks() postgres postgres", ask[string](t, db.AdminURL(), entries))
		report, err := migrate(t, db.URL)
		require.NoError(t, err)
		require.Empty(t, report.Installed)
		require.Empty(t, report.Notes)
		require.Equal(t, "pgtick * * * * * call pgtick.run_ticks() postgres postgres", ask[string](t, db.AdminURL(), entries))
	})
	t.Run("in another database: a file says so, migrate reaches it", func(t *testing.T) {
		as(t, db.AdminURL(), "create database app owner postgres")
		app := urlTo(t, db.URL, "app")
		require.Contains(t, applied(t, app), "no pg_cron in this database")
		report, err := migrate(t, app)
		require.NoError(t, err)
		require.Equal(t, []string{"pg_cron pgtick_app"}, report.Installed)
		require.Contains(t, ask[string](t, db.AdminURL(), entries), "pgtick_app * * * * * call pgtick.run_ticks() postgres app")
	})
	t.Run("in another database, which may not be reached: says so and is whole all the same", func(t *testing.T) {
		as(t, db.AdminURL(), "create database other owner postgres")
		as(t, db.AdminURL(), "revoke execute on function cron.schedule_in_database from postgres, public")
		report, err := migrate(t, urlTo(t, db.URL, "other"))
		require.NoError(t, err)
		require.Contains(t, strings.Join(report.Notes, "\n"), "pg_cron in database postgres cannot be used from here")
		require.Len(t, report.Migrations, int(migrations.Latest()))
	})
}
