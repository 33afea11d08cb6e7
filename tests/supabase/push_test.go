package supabase

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// asMigrated is the schema that "pgtick migrate" gives in a world, worked out once.
var asMigrated = map[pgtest.World]func(t *testing.T) string{pgtest.Open: once(pgtest.Open), pgtest.Closed: once(pgtest.Closed)}

func once(world pgtest.World) func(t *testing.T) string {
	var only sync.Mutex
	var text string
	return func(t *testing.T) string {
		t.Helper()
		only.Lock()
		defer only.Unlock()
		if text == "" {
			text = dump(t, pgtest.HostedMigrated(t, world))
			require.Contains(t, text, "CREATE FUNCTION pgtick.enqueue(")
		}
		return text
	}
}

func TestPush_GivesWhatMigrateGives_AndEachMayFollowTheOther(t *testing.T) {
	t.Parallel()
	for _, world := range []pgtest.World{pgtest.Open, pgtest.Closed} {
		t.Run("in a project whose grants are "+string(world), func(t *testing.T) {
			t.Parallel()
			want := asMigrated[world](t)
			pushed, p := pgtest.Hosted(t, world), newProject(t)
			p.push(t, pushed)
			require.Equal(t, want, dump(t, pushed))

			report, err := migrate(t, pushed.URL)
			require.NoError(t, err)
			require.Equal(t, "localhost/"+pushed.Name, report.Address, "what a file cannot know, and the first runner would see to")
			report.Address, report.Notes = "", nil
			require.True(t, report.Empty(), "%+v", report)
			require.Equal(t, want, dump(t, pushed))

			migrated := pgtest.HostedMigrated(t, world)
			before := state(t, migrated)
			p.write(t, "migrations/20260102000000_pgtick.sql", generated(t)) // as after an upgrade with nothing new in it
			p.push(t, migrated)
			require.Equal(t, want, dump(t, migrated))
			require.Equal(t, before, state(t, migrated))
		})
	}
}

// state is what an install writes that no dump of the schema shows.
func state(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	return ask[string](t, db.URL, `select concat_ws(e'\n', (select string_agg(v.version_id || ' ' || v.tstamp, ', ' order by v.id) from pgtick.goose_db_version as v),
		(select a.hash || a.api_roles::text || a.applied_at from pgtick.applied_sql as a), (select string_agg(i.kind || i.name || i.installed_at, ', ' order by i.kind, i.name) from pgtick.installed as i),
		(select string_agg(d.name || d.id, ', ' order by d.id) from pgtick.schedule_defs as d))`)
}

// Schemas as earlier releases left them, on a hosted project. The oldest by the CLI.
func TestPush_OnEachEarlierSchema_EndsInTheSameAsAFreshInstall(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob(filepath.Join(root(t), "tests", "install", "testdata", "schema-*.sql"))
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for i, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			t.Parallel()
			db := pgtest.Hosted(t, pgtest.Closed)
			text, err := os.ReadFile(script)
			require.NoError(t, err)
			as(t, db.URL, string(text))
			if i == 0 {
				newProject(t).push(t, db)
			} else {
				applied(t, db.URL)
			}
			require.Equal(t, asMigrated[pgtest.Closed](t), dump(t, db))
		})
	}
}

func TestPush_OnTheSchemaOfALaterRelease_ChangesNothing_AndSaysSo(t *testing.T) {
	t.Parallel()
	db := pgtest.HostedMigrated(t, pgtest.Closed)
	later := migrations.Latest() + 1
	as(t, db.URL, fmt.Sprintf(`insert into pgtick.goose_db_version (version_id, is_applied) values (%d, true); update pgtick.applied_sql set hash = 'of a later release';
		comment on function pgtick.now() is 'of a later release'`, later))
	before := state(t, db)
	require.Contains(t, applied(t, db.URL), fmt.Sprintf("nothing to do: this database has schema %d, and this file brings %d", later, later-1))
	require.Equal(t, before, state(t, db))
	require.Equal(t, "of a later release", ask[string](t, db.URL, "select obj_description('pgtick.now()'::regprocedure, 'pg_proc')"))
}

// "make supabase" replaces the file, and the CLI wants every version that it has pushed: docs/supabase.md says how to go on.
func TestPush_WhereTheFileOfBeforeHasGone_WantsItForgotten_AndThenChangesNothing(t *testing.T) {
	t.Parallel()
	db, p := pgtest.HostedMigrated(t, pgtest.Closed), newProject(t)
	p.push(t, db)
	before := state(t, db)
	require.NoError(t, os.Rename(filepath.Join(string(p), "supabase", "migrations", "20260101000000_pgtick.sql"), filepath.Join(string(p), "supabase", "migrations", "20260102000000_pgtick.sql")))
	require.Contains(t, p.refused(t, db), "migration repair --status reverted 20260101000000")
	out, talk, err := p.run(t, "migration", "repair", "--status", "reverted", "20260101000000", "--yes", "--remote="+db.URL)
	require.NoError(t, err, out+talk)
	p.push(t, db)
	require.Equal(t, before, state(t, db))
}

func TestPush_PutsTheSeedInPlace_AsOftenAsItComes(t *testing.T) {
	t.Parallel()
	db, p := pgtest.HostedMigrated(t, pgtest.Closed), newProject(t)
	p.push(t, db, "--include-seed")
	const schedules = "select count(*) from pgtick.schedules as s where s.name = 'example' and s.task = 'sql'"
	require.Equal(t, 1, ask[int](t, db.URL, schedules))
	as(t, db.URL, contents(t, "supabase", "seed.sql"))
	require.Equal(t, 1, ask[int](t, db.URL, schedules))
}

// holdLock takes the lock of a migrate in a session of the test's own.
func holdLock(t *testing.T, db *pgtest.DB) (release func()) {
	t.Helper()
	conn := connect(t, db.URL)
	_, err := conn.Exec(t.Context(), "select pg_advisory_lock(x'70677469636b'::bigint)")
	require.NoError(t, err)
	return func() {
		_, err := conn.Exec(t.Context(), "select pg_advisory_unlock_all()")
		require.NoError(t, err)
	}
}

// atWork counts the sessions of the database that are amid the file's last statement: they wait for the lock, or have it.
const atWork = "select count(*) from pg_stat_activity as a where a.datname = $1 and a.query like '%v_latest constant bigint%' and a.pid <> pg_backend_pid() and a.state = 'active'"

func awaitAtWork(t *testing.T, db *pgtest.DB, sessions int) {
	t.Helper()
	watch := connect(t, db.AdminURL())
	require.Eventually(t, func() bool {
		var found int
		return watch.QueryRow(t.Context(), atWork, db.Name).Scan(&found) == nil && found == sessions
	}, within, 20*time.Millisecond)
}

func TestPush_WhileAMigrateIsAtWork_WaitsForIt_AsMigrateDoesForAPush(t *testing.T) {
	t.Parallel()
	db, p := pgtest.Hosted(t, pgtest.Closed), newProject(t)
	release := holdLock(t, db)
	var all sync.WaitGroup
	var pushed, migrated error
	var talk string
	all.Go(func() { _, talk, pushed = p.run(t, "db", "push", "--yes", "--remote="+db.URL) })
	all.Go(func() { _, migrated = migrate(t, db.URL) })
	awaitAtWork(t, db, 1)
	release()
	all.Wait()
	require.NoError(t, pushed, talk)
	require.NoError(t, migrated)
	require.Equal(t, asMigrated[pgtest.Closed](t), dump(t, db))
}

// The CLI itself has no lock: of two that push the same file one may be told that the version is there already. Never is there half.
func TestPush_TwoAtOnce_OneInstalls_AndTheOtherChangesNothing(t *testing.T) {
	t.Parallel()
	db, p := pgtest.Hosted(t, pgtest.Closed), newProject(t)
	release := holdLock(t, db)
	var all sync.WaitGroup
	var released atomic.Bool
	errs, talks := make([]error, 2), make([]string, 2)
	for i := range errs {
		all.Go(func() { // before both are at work one may have met the other's CLI, or be tired of waiting
			for !released.Load() && !t.Failed() {
				_, talks[i], errs[i] = p.run(t, "db", "push", "--yes", "--remote="+db.URL)
			}
		})
	}
	awaitAtWork(t, db, 2)
	released.Store(true)
	release()
	all.Wait()
	good := 0
	for i, err := range errs {
		if err == nil {
			good++
		} else {
			require.Contains(t, talks[i], "schema_migrations_pkey", "the one of the CLI")
		}
	}
	require.NotZero(t, good, strings.Join(talks, "\n"))
	require.Equal(t, asMigrated[pgtest.Closed](t), dump(t, db))
	require.Equal(t, 1, ask[int](t, db.URL, "select count(*) from supabase_migrations.schema_migrations"))
}

// An index built concurrently waits for all older transactions, such as a push that waits for its builder: then the push gives way.
func TestPush_ThatTheOtherMigrateWaitsFor_GivesWay(t *testing.T) {
	t.Parallel()
	db, p := pgtest.Hosted(t, pgtest.Closed), newProject(t)
	as(t, db.URL, "create table public.big as select n from generate_series(1, 10) as n")
	conn := connect(t, db.URL)
	_, err := conn.Exec(t.Context(), "select pg_advisory_lock(x'70677469636b'::bigint)")
	require.NoError(t, err)
	said := make(chan string, 1)
	go func() {
		out, talk, err := p.run(t, "db", "push", "--yes", "--remote="+db.URL)
		said <- fmt.Sprint(out, talk, err)
	}()
	awaitAtWork(t, db, 1)
	_, err = conn.Exec(t.Context(), "create index concurrently big_n_idx on public.big (n)")
	require.NoError(t, err)
	require.Contains(t, <-said, "another migrate is at work in database")
	requireNothingThere(t, db)
}

func TestPush_KilledMidway_LeavesNothing_AndTheNextFinishesIt(t *testing.T) {
	t.Parallel()
	db, p := pgtest.Hosted(t, pgtest.Closed), newProject(t)
	ended := make(chan error, 1)
	go func() {
		_, _, err := p.run(t, "db", "push", "--yes", "--remote="+db.URL)
		ended <- err
	}()
	killer := connect(t, db.AdminURL())
	// Its tables exist, uncommitted, when it holds locks on that many.
	const kill = `select count(pg_terminate_backend(l.pid)) from (select l.pid from pg_locks as l join pg_database as d on d.oid = l.database
		where d.datname = $1 and l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.granted group by l.pid having count(*) > 20) as l`
	killed := 0
	require.Eventually(t, func() bool {
		return killer.QueryRow(t.Context(), kill, db.Name).Scan(&killed) == nil && killed > 0
	}, within, 2*time.Millisecond)
	require.Error(t, <-ended)
	requireNothingThere(t, db)
	p.push(t, db)
	require.Equal(t, asMigrated[pgtest.Closed](t), dump(t, db))
}

// A migrate commits each migration by itself, so a kill leaves the first ones: the file takes over from there.
func TestPush_AfterAMigrateThatWasKilledMidway_FinishesIt(t *testing.T) {
	t.Parallel()
	db := pgtest.Hosted(t, pgtest.Closed)
	killer := connect(t, db.AdminURL())
	ended := make(chan error, 1)
	go func() {
		_, err := migrate(t, db.URL)
		ended <- err
	}()
	killed := 0
	require.Eventually(t, func() bool {
		err := killer.QueryRow(t.Context(), `select count(pg_terminate_backend(a.pid)) from pg_stat_activity as a
			where a.datname = current_database() and a.application_name = 'pgtick migrate' and to_regclass('pgtick.live_jobs') is not null`).Scan(&killed)
		return err == nil && killed > 0
	}, within, time.Millisecond)
	require.Error(t, <-ended)
	require.Empty(t, ask[string](t, db.URL, "select coalesce(to_regprocedure('pgtick.now()')::text, '')"), "killed before sql/ was in force")
	applied(t, db.URL)
	require.Equal(t, asMigrated[pgtest.Closed](t), dump(t, db))
}
