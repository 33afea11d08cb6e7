package faults

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/tests/faults/proxy"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// What a schema is: its functions with their texts and rights, tables with their columns, constraints, indexes, policies and views.
const fingerprint = `select string_agg(x.line, e'\n' order by x.line) from (
	select format('%s %s %s', p.oid::regprocedure, md5(pg_get_functiondef(p.oid)), p.proacl) as line from pg_proc as p where p.pronamespace::regnamespace::text in ('pgtick', 'credits', 'analytics')
	union all select format('%s %s %s %s', a.attrelid::regclass, a.attname, a.atttypid::regtype, a.attnotnull) from pg_attribute as a join pg_class as c on c.oid = a.attrelid
		where c.relnamespace::regnamespace::text in ('pgtick', 'credits', 'analytics') and a.attnum > 0 and not a.attisdropped and c.relname !~ '_20[0-9]{2}' and c.relkind in ('r', 'p', 'v')
	union all select format('%s %s', c.oid::regclass, c.relacl) from pg_class as c where c.relnamespace::regnamespace::text in ('pgtick', 'credits', 'analytics') and c.relname !~ '_20[0-9]{2}'
	union all select pg_get_viewdef(c.oid) from pg_class as c where c.relnamespace::regnamespace::text in ('pgtick', 'credits', 'analytics') and c.relkind = 'v'
	union all select format('%s %s', c.conrelid::regclass, pg_get_constraintdef(c.oid)) from pg_constraint as c
		where c.connamespace::regnamespace::text in ('pgtick', 'credits', 'analytics') and c.conrelid::regclass::text !~ '_20[0-9]{2}'
	union all select format('%s %s %s', p.tablename, p.policyname, p.qual) from pg_policies as p) as x`

// killMigrations upgrades a database of an earlier release with jobs in it, and cuts migrate's connection at each of the messages that it sends:
// before it arrives, and after, before its answer. Migrate run again ends in the schema that it would have come to at once, and the jobs are there.
func killMigrations(t *testing.T, _ int) *world {
	w := &world{t: t, db: pgtest.New(t)}
	want := ask[string](w, fingerprint)
	messages, err := migrateThrough(t, earlier(t), math.MaxInt, false)
	require.NoError(t, err)
	require.Greater(t, messages, 20)
	step, said := 1, 0
	if part := share(); part < 1 {
		step = int(math.Ceil(1 / part))
	}
	for at := 1; at <= messages; at += step {
		for _, arrives := range []bool{false, true} {
			w.injected++
			t.Run(fmt.Sprintf("message %d, arrives %t", at, arrives), func(t *testing.T) {
				db := earlier(t)
				got := &world{t: t, db: db}
				if _, err := migrateThrough(t, db, at, arrives); err == nil { // it was the last but a goodbye
					require.Empty(t, difference(want, ask[string](got, fingerprint)), "migrate said that all was well")
					said++
				}
				db.Migrate(t)
				require.Empty(t, difference(want, ask[string](got, fingerprint)))
				require.Equal(t, 7, ask[int](got, "select count(*) from pgtick.live_jobs where task = 'fault.effect'"))
			})
		}
	}
	require.Less(t, said, 8, "who lost the connection learns of it, but at the end")
	last := earlier(t)
	_, err = migrateThrough(t, last, messages/2, true)
	require.Error(t, err)
	last.Migrate(t)
	_, err = last.Pool.Exec(t.Context(), "delete from pgtick.live_jobs")
	require.NoError(t, err)
	after := busy(t, last)
	after.injected = w.injected
	after.fleet(1)
	after.probe()
	after.took = nil
	after.note("migrate sends %d messages from schema 8 on", messages)
	return after
}

// difference are the lines that only one of two texts has.
func difference(one, other string) (lines []string) {
	have := map[string]int{}
	for line := range strings.Lines(one) {
		have[line]++
	}
	for line := range strings.Lines(other) {
		have[line]--
	}
	for line, n := range have {
		if n != 0 {
			lines = append(lines, fmt.Sprintf("%+d %s", -n, line))
		}
	}
	return lines
}

// earlier is a database as schema 8 left it, with seven jobs.
func earlier(t *testing.T) *pgtest.DB {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "install", "testdata", "schema-8.sql"))
	require.NoError(t, err)
	db := pgtest.NewEmpty(t)
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.PgConn().Exec(t.Context(), string(text)).ReadAll()
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "delete from pgtick.live_jobs")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "select pgtick.enqueue('fault.effect') from generate_series(1, 7)")
	require.NoError(t, err)
	return db
}

// migrateThrough cuts the connection at the message of that number, and returns how many came, and what migrate said.
func migrateThrough(t *testing.T, db *pgtest.DB, at int, arrives bool) (int, error) {
	t.Helper()
	var sent atomic.Int64
	var dead atomic.Bool
	way := proxy.StartWith(t, db.URL, func(_ *proxy.Link, from proxy.Side, piece []byte) (pass []byte, cut bool) {
		switch {
		case dead.Load():
			return nil, true
		case from == proxy.FromServer || sent.Add(1) < int64(at):
			return piece, false
		case arrives:
			dead.Store(true)
			return piece, false
		}
		dead.Store(true)
		return nil, true
	})
	cfg, err := pgx.ParseConfig(way.URL(db.URL))
	require.NoError(t, err)
	_, err = migrations.Up(t.Context(), cfg, migrations.Options{})
	return int(sent.Load()), err
}

// killTwoVersions has runners of the last release and of this one side by side, on this schema.
func killTwoVersions(t *testing.T, n int) *world {
	old := lastRelease(t)
	w := busy(t, pgtest.New(t))
	fleet := []*process{w.workOf(old), w.work(), w.workOf(old), w.work()}
	w.killSome(fleet, n, func() *process {
		if rand.IntN(2) == 0 {
			return w.workOf(old)
		}
		return w.work()
	})
	return w
}

var commitLine = regexp.MustCompile(`(?m)^-- commit ([0-9a-f]{40})$`)

// lastRelease builds the test runner of the release that tests/deploy names, with the tasks of today.
func lastRelease(t *testing.T) (program string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "deploy", "testdata", "last-release.sql"))
	require.NoError(t, err)
	commit := commitLine.FindSubmatch(text)
	require.NotNil(t, commit)
	top := run(t, "git", "rev-parse", "--show-toplevel")
	if exec.CommandContext(t.Context(), "git", "-C", top, "cat-file", "-e", string(commit[1])+"^{commit}").Run() != nil {
		t.Skipf("the history here does not hold the last release, %s: git fetch --unshallow", commit[1])
	}
	tree := t.TempDir()
	run(t, "git", "-C", top, "archive", "--output", filepath.Join(tree, "tree.tar"), string(commit[1]))
	run(t, "tar", "-xf", filepath.Join(tree, "tree.tar"), "-C", tree)
	for _, name := range []string{"main.go", "faults.go"} {
		source, err := os.ReadFile(filepath.Join("..", "testrunner", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(tree, "tests", "testrunner", name), source, 0o600))
	}
	program = filepath.Join(tree, "released")
	require.NoError(t, build(tree, program, "-buildvcs=false"))
	return program
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).Output()
	require.NoError(t, err, "%s %s", program, args)
	return strings.TrimSpace(string(out))
}
