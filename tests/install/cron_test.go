package install_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/stretchr/testify/require"
)

func TestUp_WithoutPgCron_SaysThatTheRunnersTimerServes(t *testing.T) {
	t.Parallel()
	report := pgtest.NewEmpty(t).Migrate(t)
	require.Contains(t, strings.Join(report.Notes, "\n"), "the runner's own timer will serve")
}

// pg_cron lives in one database of a server, but ticks any.
func TestUp_WherePgCronIsInAnotherDatabase_MakesOneEntryThere(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmptyWithCron(t)
	report := db.Migrate(t)
	entries := entriesOf(t, db.URL, db.Name)
	require.Len(t, entries, 1)
	require.Contains(t, report.Installed, "pg_cron "+entries[0])
	require.Empty(t, db.Migrate(t).Installed)
	require.Len(t, entriesOf(t, db.URL, db.Name), 1)
}

func TestUp_OfSeveralDatabasesAtOnce_TakesNobodysEntry(t *testing.T) {
	t.Parallel()
	dbs := []*pgtest.DB{pgtest.NewEmptyWithCron(t), pgtest.NewEmptyWithCron(t), pgtest.NewEmptyWithCron(t)}
	var all sync.WaitGroup
	for _, db := range dbs {
		cfg := db.Config(t)
		all.Go(func() { _, _ = migrations.Up(t.Context(), cfg, migrations.Options{}) })
	}
	all.Wait()
	for _, db := range dbs {
		require.Len(t, entriesOf(t, db.URL, db.Name), 1)
	}
}

func TestUp_AfterAUserRemovedTheEntry_LeavesItRemoved(t *testing.T) {
	t.Parallel()
	db := pgtest.NewWithCron(t)
	home := cronHome(t, db.URL)
	_, err := home.Exec(t.Context(), "select cron.unschedule(c.jobid) from cron.job as c where c.database = $1", db.Name)
	require.NoError(t, err)
	require.True(t, db.Migrate(t).Empty())
	require.Empty(t, entriesOf(t, db.URL, db.Name))
}

// The extension itself is made as well, where this is the database for it.
func TestUp_WherePgCronBelongsInThisDatabase_MakesExtensionAndEntry(t *testing.T) {
	t.Parallel()
	cfg := config(t, cronServer(t, "app").URL("app"))
	require.Contains(t, up(t, cfg).Installed, "pg_cron pgtick")
	conn := newConn(t, cfg.ConnString())
	require.Equal(t, []string{"pgtick"}, entriesIn(t, conn, "app"))
	require.True(t, up(t, cfg).Empty())
	require.Equal(t, []string{"pgtick"}, entriesIn(t, conn, "app"))
}

func TestScript_WherePgCronBelongsInThisDatabase_MakesTheEntry(t *testing.T) {
	t.Parallel()
	server := cronServer(t, "app")
	conn := newConn(t, server.URL("app"))
	var script strings.Builder
	require.NoError(t, migrations.Script(&script))
	_, err := conn.PgConn().Exec(t.Context(), script.String()).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"pgtick"}, entriesIn(t, conn, "app"))
	require.Empty(t, up(t, config(t, server.URL("app"))).Installed)
}

// As on a hosted database: the extension is there, the owner of the schema may use it, but is no superuser.
func TestUp_AsAnOwnerWhoMayOnlyUsePgCron_MakesTheEntry(t *testing.T) {
	t.Parallel()
	server := cronServer(t, "app")
	_, err := newConn(t, server.URL("app")).PgConn().Exec(t.Context(), `create extension pg_cron with schema pg_catalog;
		create role owner login createrole password 'owner'; grant create on database app to owner; grant usage on schema cron to owner`).ReadAll()
	require.NoError(t, err)
	cfg := config(t, server.URL("app"))
	cfg.User, cfg.Password = "owner", "owner"
	require.Contains(t, up(t, cfg).Installed, "pg_cron pgtick")
	admin := newConn(t, server.URL("app"))
	require.Equal(t, []string{"pgtick"}, entriesIn(t, admin, "app"))
	require.True(t, up(t, cfg).Empty())

	// what pg_cron records of its runs for this owner is removed with the slots, and nobody else's
	_, err = admin.Exec(t.Context(), `insert into cron.job_run_details (jobid, runid, database, username, command, status, start_time, end_time)
		select 1, 1000000 + row_number() over (), d.database, u.username, c.command, 'succeeded', a.at, a.at
		from (values ('app'), ('another')) as d(database), (values ('owner'), (current_user)) as u(username), (values ('call pgtick.run_ticks()'), ('select 1')) as c(command),
			(values (now() - interval '61 days'), (now() - interval '59 days')) as a(at)`)
	require.NoError(t, err)
	_, err = newConn(t, cfg.ConnString()).Exec(t.Context(), "select pgtick.maintain()")
	require.NoError(t, err)
	var left, own, problems int
	require.NoError(t, admin.QueryRow(t.Context(), `select count(*), count(*) filter (where d.database = 'app' and d.username = 'owner' and d.command like 'call%'),
		(select count(*) from pgtick.upkeep as u where u.problem is not null) from cron.job_run_details as d where d.runid > 1000000`).Scan(&left, &own, &problems))
	require.Equal(t, []int{15, 1, 0}, []int{left, own, problems})
}

// From another database only a superuser may, unless he has granted it.
func TestUp_WherePgCronMayNotBeUsed_SaysSoAndGoesOn(t *testing.T) {
	t.Parallel()
	server := cronServer(t, "elsewhere")
	_, err := newConn(t, server.URL("elsewhere")).Exec(t.Context(), "create extension pg_cron with schema pg_catalog")
	require.NoError(t, err)
	admin := newConn(t, server.URL("postgres"))
	for _, statement := range []string{"create role owner login createrole password 'owner'", "create database app owner owner"} {
		_, err := admin.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	cfg := config(t, server.URL("app"))
	cfg.User, cfg.Password = "owner", "owner"
	require.Contains(t, strings.Join(up(t, cfg).Notes, "\n"), "the runner's own timer will serve")
	require.Empty(t, up(t, cfg).Installed)
}

// cronServer is a server whose pg_cron belongs in one database, which it has.
func cronServer(t *testing.T, database string) *localpg.Server {
	t.Helper()
	bin, err := localpg.FindBinaries(true)
	require.NoError(t, err)
	if !localpg.HasCron(bin) {
		t.Skip("the PostgreSQL in " + bin + " has no pg_cron")
	}
	server, err := pgtest.StartBare(localpg.Options{Cron: true, CronDatabase: database})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	_, err = newConn(t, server.URL("postgres")).Exec(t.Context(), "create database "+database)
	require.NoError(t, err)
	return server
}

func cronHome(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	cfg := config(t, url)
	cfg.Database = "postgres"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// entriesOf names the entries that tick a database.
func entriesOf(t *testing.T, url, database string) []string {
	t.Helper()
	return entriesIn(t, cronHome(t, url), database)
}

func entriesIn(t *testing.T, conn *pgx.Conn, database string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(),
		"select c.jobname from cron.job as c where c.database = $1 and c.command = 'call pgtick.run_ticks()' and c.schedule = '* * * * *'", database)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}
