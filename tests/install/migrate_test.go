package install_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/stretchr/testify/require"
)

func TestUp_OnAnEmptyDatabase_InstallsAll(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	require.Equal(t, &migrations.OlderSchemaError{Have: 0, Need: migrations.Latest()}, checkError(t, db))
	report := db.Migrate(t)
	require.Len(t, report.Migrations, int(migrations.Latest()))
	require.True(t, report.SQL)
	require.Equal(t, "localhost/"+db.Name, report.Address)
	require.NoError(t, migrations.Check(t.Context(), db.Pool))
	require.Equal(t, []string{"migrate"}, column(t, db, "select distinct source from pgtick.schedules"))
}

func TestUp_Again_ChangesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	before := dump(t, db)
	report := db.Migrate(t)
	require.True(t, report.Empty(), "%+v", report)
	require.Equal(t, before, dump(t, db))
}

func TestUp_TwentyAtOnce_AllSucceed_AndOneDoesTheWork(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	reports := make([]migrations.Report, 20)
	errs := make([]error, len(reports))
	cfg := db.Config(t)
	var all sync.WaitGroup
	for i := range reports {
		all.Go(func() { reports[i], errs[i] = migrations.Up(t.Context(), cfg, migrations.Options{}) })
	}
	all.Wait()
	workers := 0
	for i, report := range reports {
		require.NoError(t, errs[i])
		if !report.Empty() {
			workers++
		}
	}
	require.Equal(t, 1, workers)
	require.Equal(t, dump(t, pgtest.New(t)), dump(t, db))
}

// The points at which a migrate is killed, as another session sees them: each lies behind the one before.
var killPoints = []string{
	"true", // connected
	"to_regnamespace('pgtick') is not null",
	"to_regclass('pgtick.goose_db_version') is not null",
	"to_regclass('pgtick.live_jobs') is not null",
	"to_regclass('pgtick.schedule_defs') is not null",
	"a.query like '%create or replace function%'", // amid the files of sql/
	"a.query like '%create or replace view%'",
	"to_regprocedure('pgtick.now()') is not null",                                                 // sql/ is in force
	"to_regclass('pgtick.history_' || to_char(now() at time zone 'UTC', 'YYYYMMDD')) is not null", // amid the last step
}

func TestUp_KilledMidway_IsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	killer := newConn(t, db.URL)
	killed := 0
	for _, point := range killPoints {
		if upAndKill(t, db, killer, point) {
			killed++
		}
	}
	require.GreaterOrEqual(t, killed, len(killPoints)-3, "the late ones may come when it has ended")
	db.Migrate(t)
	require.Equal(t, dump(t, pgtest.New(t)), dump(t, db))
}

// upAndKill ends the session of a migrate as soon as it is at a point, and tells whether that came before its end.
func upAndKill(t *testing.T, db *pgtest.DB, killer *pgx.Conn, point string) bool {
	t.Helper()
	cfg := db.Config(t)
	ended := make(chan error, 1)
	go func() {
		_, err := migrations.Up(t.Context(), cfg, migrations.Options{})
		ended <- err
	}()
	for {
		select {
		case err := <-ended:
			return err != nil
		default:
			_, err := killer.Exec(t.Context(), `select pg_terminate_backend(a.pid) from pg_stat_activity as a
				where a.datname = current_database() and a.application_name = 'pgtick migrate' and `+point)
			require.NoError(t, err)
		}
	}
}

func TestUp_WhileAViewIsInUse_TriesAgainUntilItIsFree(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec1(t, db, "update pgtick.applied_sql set hash = 'of an earlier release'")
	reader := newConn(t, db.URL)
	_, err := reader.Exec(t.Context(), "begin; lock table pgtick.live_jobs in access exclusive mode")
	require.NoError(t, err)
	heard := make(chan string, 100)
	ended := make(chan error, 1)
	cfg := db.Config(t)
	go func() {
		_, err := migrations.Up(t.Context(), cfg, migrations.Options{Log: func(line string) { heard <- line }})
		ended <- err
	}()
	require.Contains(t, <-heard, "another session is in the way")
	_, err = reader.Exec(t.Context(), "rollback")
	require.NoError(t, err)
	require.NoError(t, <-ended)
}

func TestUp_WhileAnotherHoldsTheLock_WaitsForIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	other := newConn(t, db.URL)
	_, err := other.Exec(t.Context(), "select pg_advisory_lock(x'70677469636b'::bigint)")
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = migrations.Up(short, db.Config(t), migrations.Options{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = other.Exec(t.Context(), "select pg_advisory_unlock_all()")
	require.NoError(t, err)
	db.Migrate(t)
}

func TestUp_OnASchemaOfALaterRelease_Refuses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	later := migrations.Latest() + 1
	exec1(t, db, "insert into pgtick.goose_db_version (version_id, is_applied) values ($1, true)", later)
	_, err := migrations.Up(t.Context(), db.Config(t), migrations.Options{})
	var newer *migrations.NewerSchemaError
	require.ErrorAs(t, err, &newer)
	require.NoError(t, migrations.Check(t.Context(), db.Pool), "a runner goes on: what it calls stays for one release")
}

func TestCheck_OnASchemaOfAnEarlierRelease_NamesTheCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec1(t, db, "delete from pgtick.goose_db_version as v where v.version_id = $1", migrations.Latest())
	err := checkError(t, db)
	require.EqualError(t, err, fmt.Sprintf("schema %d, need %d: run pgtick migrate", migrations.Latest()-1, migrations.Latest()))
}

func TestCheck_AsTheRunner_IsAllowed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	require.NoError(t, migrations.Check(t.Context(), newConn(t, pgtest.RunnerURL(t, db))))
}

func checkError(t *testing.T, db *pgtest.DB) error {
	t.Helper()
	err := migrations.Check(t.Context(), db.Pool)
	var older *migrations.OlderSchemaError
	require.ErrorAs(t, err, &older)
	return older
}

func TestStatus_TellsWhatIsPending(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	before, err := migrations.Status(t.Context(), db.Config(t))
	require.NoError(t, err)
	require.False(t, before.SQL)
	db.Migrate(t)
	after, err := migrations.Status(t.Context(), db.Config(t))
	require.NoError(t, err)
	require.True(t, after.SQL)
	require.Len(t, after.Migrations, len(before.Migrations))
	for i := range after.Migrations {
		require.True(t, before.Migrations[i].AppliedAt.IsZero())
		require.WithinDuration(t, time.Now(), after.Migrations[i].AppliedAt, time.Minute)
	}
}

func TestScript_LoadedByHand_GivesWhatMigrateGives(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	var script bytes.Buffer
	require.NoError(t, migrations.Script(&script))
	require.NoError(t, load(t, db, script.String()))
	require.Equal(t, dump(t, pgtest.New(t)), dump(t, db))

	report := db.Migrate(t)
	require.Empty(t, report.Migrations)
	require.False(t, report.SQL)
	require.Empty(t, report.Installed)
	require.NoError(t, load(t, db, script.String()), "it may come again")
	require.True(t, db.Migrate(t).Empty())
}

func TestScript_OnAnEarlierSchema_GivesWhatMigrateGives(t *testing.T) {
	t.Parallel()
	db := earlier(t, "testdata/schema-5.sql")
	var script bytes.Buffer
	require.NoError(t, migrations.Script(&script))
	require.NoError(t, load(t, db, script.String()))
	require.Equal(t, dump(t, pgtest.New(t)), dump(t, db))
	report := db.Migrate(t)
	require.Empty(t, report.Migrations)
	require.False(t, report.SQL)
}

func load(t *testing.T, db *pgtest.DB, script string) error {
	t.Helper()
	psql := exec.CommandContext(t.Context(), program(t, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", db.URL)
	psql.Stdin = strings.NewReader(script)
	if out, err := psql.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// As docs/install.md says.
func TestRemove_LeavesNothingBehind_AndUpInstallsAnew(t *testing.T) {
	t.Parallel()
	db := pgtest.NewOn(t, pgtest.Server(t))
	text := contents(t, "docs", "install.md")
	_, after, found := strings.Cut(text, "## Remove\n\n```sql\n")
	require.True(t, found)
	statements, _, _ := strings.Cut(after, "```")
	_, err := newConn(t, db.URL).PgConn().Exec(t.Context(), statements).ReadAll()
	require.NoError(t, err)
	exec1(t, db, "drop role pgtick_runner, pgtick_reader, pgtick_operator")
	require.Empty(t, column(t, db, "select n.nspname from pg_namespace as n where n.nspname in ('pgtick', 'credits', 'analytics')"))
	require.True(t, db.Migrate(t).SQL)
}

// A server of its own: roles belong to the whole server, and other tests look at what is in force.
func TestUp_WhenTheRolesOfSupabaseComeLater_GrantsToThem(t *testing.T) {
	t.Parallel()
	db := pgtest.NewOn(t, pgtest.Server(t))
	exec1(t, db, "create role anon; create role authenticated; create role service_role")
	require.False(t, may(t, db, "service_role"))
	report := db.Migrate(t)
	require.True(t, report.SQL)
	require.True(t, may(t, db, "service_role"))
	require.False(t, may(t, db, "anon"))
	require.True(t, db.Migrate(t).Empty())
	exec1(t, db, "drop owned by anon; drop role anon")
	require.True(t, db.Migrate(t).SQL, "one has gone")
}

func may(t *testing.T, db *pgtest.DB, role string) bool {
	t.Helper()
	var may bool
	require.NoError(t, db.Pool.QueryRow(t.Context(), `select has_schema_privilege($1, 'pgtick', 'usage') and exists (select from pg_proc as p
		where p.pronamespace = 'pgtick'::regnamespace and p.proname = 'enqueue' and has_function_privilege($1, p.oid, 'execute'))`, role).Scan(&may))
	return may
}

// Hosted databases give their users no superuser.
func TestUp_AsAnOwnerWhoIsNoSuperuser_Works(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ attributes, note string }{
		"who may create roles":     {"createrole", "no pg_cron"},
		"who may not create roles": {"nocreaterole", "role pgtick_runner is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := pgtest.BareServer(t)
			admin := newConn(t, own.URL("postgres"))
			for _, statement := range []string{"create role app login password 'app' nosuperuser " + c.attributes, "create database app owner app"} {
				_, err := admin.Exec(t.Context(), statement)
				require.NoError(t, err)
			}
			cfg := config(t, own.URL("app"))
			cfg.User, cfg.Password = "app", "app"
			report := up(t, cfg)
			require.Contains(t, strings.Join(report.Notes, "\n"), c.note)
			require.True(t, up(t, cfg).Empty())
		})
	}
}

// Roles belong to the whole server: while one database's migrate makes them, another one's has to wait for it, and then goes on with those that it made
// and those that nobody has made.
func TestUp_WhileAnotherDatabaseMakesARole_HasThemAll(t *testing.T) {
	t.Parallel()
	own := pgtest.BareServer(t)
	other, watch := newConn(t, own.URL("postgres")), newConn(t, own.URL("postgres"))
	_, err := watch.Exec(t.Context(), "create database app")
	require.NoError(t, err)
	_, err = other.Exec(t.Context(), "begin; create role pgtick_reader nologin")
	require.NoError(t, err)
	cfg, done := config(t, own.URL("app")), make(chan error, 1)
	go func() {
		_, err := migrations.Up(context.Background(), cfg, migrations.Options{})
		done <- err
	}()
	require.Eventually(t, func() bool {
		var waits bool
		return watch.QueryRow(t.Context(), "select exists (select from pg_stat_activity where datname = 'app' and wait_event_type = 'Lock')").Scan(&waits) == nil && waits
	}, time.Minute, 10*time.Millisecond, "it does not wait for the role")
	_, err = other.Exec(t.Context(), "commit")
	require.NoError(t, err)
	require.NoError(t, <-done)
	app := newConn(t, own.URL("app"))
	var may string
	require.NoError(t, app.QueryRow(t.Context(), `select concat_ws(' ', has_function_privilege('pgtick_runner', 'pgtick.leave(bigint)', 'execute'),
		has_table_privilege('pgtick_reader', 'pgtick.jobs', 'select'), has_function_privilege('pgtick_operator', 'pgtick.retry(bigint)', 'execute'),
		(select string_agg(p.polname::text, ' ' order by p.polname) from pg_policy as p where p.polrelid = 'credits.accounts'::regclass))`).Scan(&may))
	require.Equal(t, "t t t read_pgtick_operator read_pgtick_reader", may)
}

func TestUp_ThroughAPooler(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "statement"} {
		t.Run("in "+mode+" mode is refused", func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewEmpty(t)
			_, err := migrations.Up(t.Context(), config(t, pgtest.StartPgBouncer(t, db, mode)), migrations.Options{})
			var pooler *migrations.PoolerError
			require.ErrorAs(t, err, &pooler)
			require.ErrorContains(t, err, "needs a direct or session-mode connection")
			require.Empty(t, column(t, db, "select n.nspname from pg_namespace as n where n.nspname = 'pgtick'"))
		})
	}
	t.Run("in session mode works", func(t *testing.T) {
		t.Parallel()
		db := pgtest.NewEmpty(t)
		require.True(t, up(t, config(t, pgtest.StartPgBouncer(t, db, "session"))).SQL)
	})
}

func TestAddress_IsTheProjectOrTheHost_AndTheDatabase(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://postgres:x@db.abcdefghijklmnop.supabase.co:5432/postgres":                         "abcdefghijklmnop/postgres",
		"postgres://postgres.abcdefghijklmnop:x@aws-0-eu-central-1.pooler.supabase.com:6543/postgres": "abcdefghijklmnop/postgres",
		"postgres://a:x@Example.org:5433/app":                                                         "example.org/app",
		"postgres://a:x@127.0.0.1:5433/app":                                                           "localhost/app",
		"postgres://a:x@[::1]/app":                                                                    "localhost/app",
		"postgres://a:x@localhost/app":                                                                "localhost/app",
		"host=/var/run/postgresql dbname=app":                                                         "localhost/app",
		"postgres://name.part:x@example.org/app":                                                      "example.org/app",
		"postgres://a:x@10.0.0.7/app":                                                                 "10.0.0.7/app",
	} {
		cfg, err := pgx.ParseConfig(url)
		require.NoError(t, err)
		require.Equal(t, want, migrations.Address(cfg), url)
	}
}
