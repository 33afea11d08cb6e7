package deploy

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const user = "'00000000-0000-4000-8000-000000000001'"

// lived in: jobs in each state, one of them claimed by a runner that will not be heard of again, schedules with slots, a ledger.
func livedIn(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	do(t, db, `select pgtick.schedule('each second', '@every 1s', 'test.noop', p_on_missed => 'all')`)
	require.Eventually(t, func() bool {
		do(t, db, `select pgtick.tick()`)
		return ask[int](t, db, `select count(*) from pgtick.slots where schedule = 'each second'`) > 1
	}, within, every)
	do(t, db, `select pgtick.pause_schedule('each second')`)
	runner := ask[int64](t, db, `select pgtick.register('gone', '{default}', '{test.noop}', '1 second')`)
	do(t, db, `select pgtick.enqueue_many('test.noop', array_fill('{}'::jsonb, array[4]), p_priority => 0)`)
	do(t, db, `select f.* from pgtick.claim($1, '{default}', '{test.noop}', 3) as c, pgtick.finish($1, array[c.id], array[c.fence], '{done}') as f`, runner)
	require.Equal(t, 1, ask[int](t, db, `select count(*) from pgtick.claim($1, '{default}', '{test.noop}', 1)`, runner))
	do(t, db, `select pgtick.enqueue('test.noop', p_unique_key => 'once'), pgtick.enqueue('test.noop', p_run_at => now() + interval '1 day')`)
	do(t, db, `select pgtick.cancel(pgtick.enqueue('test.noop')), pgtick.pause_queue('mail', 'closed'), pgtick.set_retention('test.noop', 'done', '3 days')`)
	do(t, db, `select credits.open_account(`+user+`), credits.grant(`+user+`, 100, 'g'), credits.charge(`+user+`, 30, 'c'), credits.hold(`+user+`, 10, '1 hour', 'h')`)
	return db
}

// contents are all rows of all our tables, a line a table.
func contents(t *testing.T, db *pgtest.DB) (lines []string) {
	t.Helper()
	for _, table := range column(t, db, `select c.oid::regclass::text from pg_class as c
		where c.relnamespace in ('pgtick'::regnamespace, 'credits'::regnamespace, 'analytics'::regnamespace) and c.relkind = 'r' order by 1`) {
		lines = append(lines, ask[string](t, db, fmt.Sprintf(`select format('%%s: %%s rows, %%s', %s, count(*), md5(string_agg(x::text, e'\n' order by x::text))) from %s as x`,
			"'"+table+"'", table)))
	}
	return append(lines, column(t, db, `select format('sequence %s.%s: %s', schemaname, sequencename, last_value) from pg_sequences
		where schemaname in ('pgtick', 'credits', 'analytics') order by 1`)...)
}

var (
	// What pg_dump writes anew each time, and what differs between servers.
	noise = regexp.MustCompile(`(?m)^(\\(un)?restrict .*|-- Dumped (from|by) .*)\n`)
	// What is restored from text is said a little differently: nested ANDs and ORs lose their brackets, columns without a name get that of their type.
	wording = regexp.MustCompile(`[()]| AS (timestamptz|text|jsonb)\b`)
)

// schemaOf is the whole schema as text: functions, row level security, policies, rights.
func schemaOf(t *testing.T, db *pgtest.DB, options ...string) string {
	t.Helper()
	text := output(t, exec.CommandContext(t.Context(), client(t, "pg_dump"), append(options, "--schema-only", "--no-owner", db.URL)...))
	return wording.ReplaceAllString(noise.ReplaceAllString(text, ""), "")
}

func dump(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "app.dump")
	output(t, exec.CommandContext(t.Context(), client(t, "pg_dump"), "--format=custom", "--file="+file, db.URL))
	return file
}

func TestRestore_OfADump_KeepsEverything_AndRunsOnlyWhenAdopted(t *testing.T) {
	t.Parallel()
	db, copied := livedIn(t), pgtest.NewEmpty(t)
	output(t, exec.CommandContext(t.Context(), client(t, "pg_restore"), "--exit-on-error", "--dbname="+copied.URL, dump(t, db)))
	require.Equal(t, contents(t, db), contents(t, copied))
	require.Equal(t, schemaOf(t, db), schemaOf(t, copied))
	require.Zero(t, ask[int](t, copied, `select count(*) from pg_class as c where c.relkind in ('r', 'p') and not c.relrowsecurity
		and c.relnamespace in ('pgtick'::regnamespace, 'credits'::regnamespace, 'analytics'::regnamespace)`), "tables without row level security")
	require.Zero(t, ask[int](t, copied, `select count(*) from credits.violations`))

	// Numbers go on, and what was unique is.
	newest := ask[int64](t, copied, `select max(id) from pgtick.jobs`)
	require.Equal(t, newest+1, ask[int64](t, copied, `select pgtick.enqueue('test.noop')`))
	require.LessOrEqual(t, ask[int64](t, copied, `select pgtick.enqueue('test.noop', p_unique_key => 'once')`), newest)
	require.Equal(t, int64(50), ask[int64](t, copied, `select b.balance from credits.charge(`+user+`, 20, 'c2'), credits.balance(`+user+`) as b`))

	env := []string{"DATABASE_URL=" + pgtest.RunnerURL(t, copied), "PGTICK_HTTP=off"}
	out, talk, code := call(t, program(t), []string{"DATABASE_URL=" + copied.URL}, "migrate")
	require.Zero(t, code, talk)
	require.Equal(t, "nothing to do\n", out)
	before := contents(t, copied)
	_, talk, code = call(t, program(t), env, "work")
	require.Equal(t, 1, code)
	require.Contains(t, talk, "this database belongs to localhost/"+db.Name+", not to localhost/"+copied.Name)
	require.Equal(t, before, contents(t, copied), "a runner that may not work changes nothing")
	_, talk, code = call(t, program(t), []string{"DATABASE_URL=" + copied.URL}, "adopt", "--only")
	require.Zero(t, code, talk)
	untouched := contents(t, db)
	runner := start(t, program(t), env, "work", "--poll", "100ms")
	becomes(t, copied, 0, `select count(*) from pgtick.live_jobs where task = 'test.noop' and run_at <= now()`)
	require.Equal(t, "lost", ask[string](t, copied, `select outcome from pgtick.attempts where runner = 'gone' and outcome <> 'done'`),
		"what was running when the dump was made runs here too")
	require.NoError(t, runner.cmd.Process.Signal(syscall.SIGTERM))
	require.Zero(t, runner.ends())
	require.Equal(t, untouched, contents(t, db))
	require.Zero(t, ask[int](t, copied, `select count(*) from credits.violations`))
}

var aboutRoles = regexp.MustCompile(`role "pgtick_(runner|reader|operator)" does not exist`)

// Roles are the server's, and in no dump of a database. migrate puts them there, and their rights.
func TestRestore_OnAServerWithoutTheRoles_IsMendedByMigrate(t *testing.T) {
	t.Parallel()
	db := livedIn(t)
	server := pgtest.BareServer(t)
	_, err := connect(t, server.URL("postgres")).Exec(t.Context(), "create database "+db.Name+" template template0")
	require.NoError(t, err)
	copied := db.At(t, server)
	out, err := exec.CommandContext(t.Context(), client(t, "pg_restore"), "--no-owner", "--dbname="+copied.URL, dump(t, db)).CombinedOutput()
	var failed *exec.ExitError
	require.True(t, errors.As(err, &failed), "pg_restore says what it could not do")
	complaints := regexp.MustCompile(`(?m)^pg_restore: error: .*$`).FindAllString(string(out), -1)
	require.NotEmpty(t, complaints)
	for _, complaint := range complaints {
		require.Regexp(t, aboutRoles, complaint)
	}
	copied.Migrate(t)
	// It makes the partitions of the coming days as well, which may be one more than there were.
	const withoutDays = "--exclude-table=pgtick.*_20[0-9][0-9]*"
	require.Equal(t, schemaOf(t, db, withoutDays), schemaOf(t, copied, withoutDays))
	require.Zero(t, ask[int](t, copied, `select count(*) from credits.violations`))
}
