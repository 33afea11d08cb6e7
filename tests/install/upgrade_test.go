package install_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// testdata/schema-N.sql is what "pgtick migrate sql" printed in the last state of the code whose newest migration was N.

func TestUp_FromEachEarlierSchema_EndsInTheSameAsAFreshInstall(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/schema-*.sql")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			t.Parallel()
			db := earlier(t, script)
			db.Migrate(t)
			require.NoError(t, migrations.Check(t.Context(), db.Pool))
			require.Equal(t, dump(t, pgtest.New(t)), dump(t, db))
		})
	}
}

// earlier is a database with pgtick as it was.
func earlier(t *testing.T, script string) *pgtest.DB {
	t.Helper()
	text, err := os.ReadFile(script)
	require.NoError(t, err)
	db := pgtest.NewEmpty(t)
	_, err = newConn(t, db.URL).PgConn().Exec(t.Context(), string(text)).ReadAll()
	require.NoError(t, err)
	return db
}

func TestUp_FromSchema3_KeepsSchedulesSlotsAndJobs(t *testing.T) {
	t.Parallel()
	db := earlier(t, "testdata/schema-3.sql")
	db.Quiet(t)
	pgtest.SetNow(t, db, time.Now().UTC().Truncate(time.Hour).Add(-2*time.Hour+30*time.Second)) // migrate itself uses the real clock, retention included
	exec1(t, db, `select pgtick.schedule('all', '*/10 * * * *', 'noop', p_on_missed => 'all'), pgtick.schedule('skip', '*/10 * * * *', 'noop'), pgtick.schedule('long', '@every 1s', 'noop')`)
	pgtest.Advance(t, db, 20*time.Minute)
	exec1(t, db, "call pgtick.run_ticks()")
	exec1(t, db, "select pgtick.pause_schedule('skip')")
	slots, jobs := ask1[int](t, db, "select sum(slots)::int from pgtick.slots"), ask1[int](t, db, "select count(*) from pgtick.jobs")
	require.Equal(t, 1200+2+2, slots)
	db.Migrate(t) // which puts the real clock back
	pgtest.Advance(t, db, 20*time.Minute)
	require.Equal(t, slots, ask1[int](t, db, "select sum(slots)::int from pgtick.slots"))
	require.Equal(t, jobs, ask1[int](t, db, "select count(*) from pgtick.jobs"))
	require.Equal(t, "allow", ask1[string](t, db, "select on_overlap from pgtick.schedules where name = 'all'"), "what was chosen stays, also by default")
	exec1(t, db, "delete from pgtick.live_jobs where schedule_id = (select id from pgtick.schedules where name = 'skip')")
	exec1(t, db, "select pgtick.resume_schedule('skip', p_catch_up => true)")
	exec1(t, db, "call pgtick.run_ticks()")
	require.Zero(t, ask1[int](t, db, "select count(*) from pgtick.unaccounted_slots('60 days')"))
	require.Equal(t, slots+1200+2+2, ask1[int](t, db, "select sum(slots)::int from pgtick.slots"))
	require.Equal(t, 1, ask1[int](t, db, "select count(*) from pgtick.slots where schedule = 'skip' and fate = 'caught_up' and cause = 'paused'"))
}

// A runner of the release before works on: its claims are good, and it claims and reports as it did.
func TestUp_FromSchema4_WhileARunnerHoldsJobs_ChangesNothingForIt(t *testing.T) {
	t.Parallel()
	db := earlier(t, "testdata/schema-4.sql")
	db.Quiet(t)
	exec1(t, db, "select pgtick.enqueue_many('noop', array_fill('{}'::jsonb, array[4]))")
	runner := ask1[int64](t, db, "select pgtick.register('before', '{default}', '{noop}')")
	require.Equal(t, 3, ask1[int](t, db, "select count(*) from pgtick.claim($1, '{default}', '{noop}', 3)", runner))
	exec1(t, db, "select pgtick.finish($1, array[1], array[1], '{done}'), pgtick.finish($1, array[2], array[1], '{failed}')", runner)
	db.Migrate(t)
	require.True(t, ask1[bool](t, db, "select accepted from pgtick.finish($1, array[3], array[1], '{done}')", runner))
	require.Equal(t, 1, ask1[int](t, db, "select count(*) from pgtick.claim($1, '{default}', '{noop}', 3)", runner))
	require.Equal(t, "ready", ask1[string](t, db, "select pgtick.retry(2)"))
	require.Equal(t, "done ready done running", ask1[string](t, db, "select string_agg(state, ' ' order by id) from pgtick.jobs"))
}

// What was booked before can be refunded, extended and redacted afterwards, and its chain goes on.
func TestUp_FromSchema5_TheLedgerGoesOn(t *testing.T) {
	t.Parallel()
	db := earlier(t, "testdata/schema-5.sql")
	const user = "'00000000-0000-4000-8000-000000000001'"
	exec1(t, db, "select credits.open_account("+user+"), credits.grant("+user+", 100, 'g', 'welcome'), credits.charge("+user+", 30, 'c'), credits.hold("+user+", 10, '1 hour', 'h')")
	exec1(t, db, "select credits.submit("+user+", 'addition', 5, 'p')")
	db.Migrate(t)
	exec1(t, db, "select credits.refund(2, 'r'), credits.extend(1, '2 hours'), credits.redact(1), credits.resolve(4, true), credits.capture(1)")
	require.Equal(t, "95 0", ask1[string](t, db, "select format('%s %s', b.balance, b.held) from credits.balance("+user+") as b"))
	require.Zero(t, ask1[int](t, db, "select count(*) from credits.violations"))
}
