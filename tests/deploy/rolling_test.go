package deploy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// release is what testdata/last-release.sql says of the release before.
type release struct {
	commit     string
	schema     string
	statements []string
}

var (
	commitLine = regexp.MustCompile(`(?m)^-- commit ([0-9a-f]{40})$`)
	schemaLine = regexp.MustCompile(`(?m)^-- schema ([0-9]+)$`)
	placeLine  = regexp.MustCompile(`(?m)^-- .*\n`)
)

func lastRelease(t *testing.T) release {
	t.Helper()
	text, err := os.ReadFile("testdata/last-release.sql")
	require.NoError(t, err)
	commit, schema := commitLine.FindSubmatch(text), schemaLine.FindSubmatch(text)
	require.NotNil(t, commit)
	require.NotNil(t, schema)
	r := release{commit: string(commit[1]), schema: string(schema[1])}
	for _, s := range strings.Split(placeLine.ReplaceAllString(string(text), ""), ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			r.statements = append(r.statements, s)
		}
	}
	require.Greater(t, len(r.statements), 50)
	return r
}

// database is one with the schema of that release, in which nothing happens but what the test does.
func (r release) database(t *testing.T) *pgtest.DB {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "install", "testdata", "schema-"+r.schema+".sql"))
	require.NoError(t, err)
	db := pgtest.NewEmpty(t)
	_, err = connect(t, db.URL).PgConn().Exec(t.Context(), string(text)).ReadAll()
	require.NoError(t, err)
	db.Quiet(t)
	return db
}

// calling is the one statement that calls this function.
func (r release) calling(t *testing.T, function string) string {
	t.Helper()
	var found []string
	for _, s := range r.statements {
		if strings.Contains(s, function+"(") {
			found = append(found, s)
		}
	}
	require.Len(t, found, 1, function)
	return found[0]
}

// session has all statements of the release prepared, as a runner that has been at work for a while.
type session struct {
	conn  *pgx.Conn
	slots []int // how many parameters each has; -1: it lies in a schema that this role may not enter
}

func prepare(t *testing.T, url string, statements []string) *session {
	t.Helper()
	s := &session{conn: connect(t, url)}
	for i, text := range statements {
		prepared, err := s.conn.Prepare(t.Context(), fmt.Sprint("s", i), text)
		if raised := new(pgconn.PgError); errors.As(err, &raised) && raised.Code == "42501" {
			s.slots = append(s.slots, -1)
			continue
		}
		require.NoError(t, err, "what the last release asks is not understood any more: %s", text)
		s.slots = append(s.slots, len(prepared.ParamOIDs))
	}
	return s
}

// refused has the server plan and begin each statement without running it, which is where it looks at rights; and says which it refused, and why.
func (s *session) refused(t *testing.T) map[int]string {
	t.Helper()
	refused := map[int]string{}
	for i, slots := range s.slots {
		if slots < 0 {
			refused[i] = "no right to its schema"
			continue
		}
		values := strings.TrimSuffix(strings.Repeat("null, ", slots), ", ")
		if values != "" {
			values = "(" + values + ")"
		}
		_, err := s.conn.PgConn().Exec(t.Context(), fmt.Sprintf("explain execute s%d%s", i, values)).ReadAll()
		if err != nil {
			var raised *pgconn.PgError
			require.ErrorAs(t, err, &raised)
			if strings.HasPrefix(raised.Code, "TK") || raised.Code == "22004" {
				continue // a pure function was called while planning: it is there, and does not like a null
			}
			refused[i] = raised.Code + ": " + raised.Message
		}
	}
	return refused
}

// Functions, views and columns that the last release asks for stay for one release, with its rights, and also for sessions that have prepared
// their statements before.
func TestRollingUpgrade_WhatTheLastReleaseAsks_IsAnswered(t *testing.T) {
	t.Parallel()
	last := lastRelease(t)
	db := last.database(t)
	urls := map[string]string{"owner": db.URL, "pgtick_runner": pgtest.RunnerURL(t, db)}
	running, before := map[string]*session{}, map[string]map[int]string{}
	for role, url := range urls {
		running[role] = prepare(t, url, last.statements)
		before[role] = running[role].refused(t)
	}
	require.Empty(t, before["owner"])
	require.NotEmpty(t, before["pgtick_runner"], "what is the owner's is refused to it, so rights are looked at")
	require.Less(t, len(before["pgtick_runner"]), len(last.statements)/2)
	db.Migrate(t)
	for role, url := range urls {
		for kind, s := range map[string]*session{"running": running[role], "new": prepare(t, url, last.statements)} {
			for i, why := range s.refused(t) {
				require.Contains(t, before[role], i, "%s, a %s session: %s: %s", role, kind, last.statements[i], why)
			}
		}
	}
}

// worker is a runner of the last release in its own words: its statements, its role.
type worker struct {
	t    *testing.T
	last release
	conn *pgx.Conn
	id   int64
}

func (w *worker) value(function string, to any, args ...any) {
	w.t.Helper()
	require.NoError(w.t, w.conn.QueryRow(w.t.Context(), w.last.calling(w.t, function), args...).Scan(to), function)
}

func (w *worker) exec(function string, args ...any) {
	w.t.Helper()
	_, err := w.conn.Exec(w.t.Context(), w.last.calling(w.t, function), args...)
	require.NoError(w.t, err, function)
}

// claim returns the ids and fences of at most n jobs.
func (w *worker) claim(n int) (ids, fences []int64) {
	w.t.Helper()
	rows, err := w.conn.Query(w.t.Context(), w.last.calling(w.t, "pgtick.claim_lanes"), w.id, []string{"default"}, []string{"test.effect"}, n, nil, nil, nil, nil, nil)
	require.NoError(w.t, err)
	for rows.Next() {
		values, err := rows.Values()
		require.NoError(w.t, err)
		ids, fences = append(ids, values[0].(int64)), append(fences, values[1].(int64))
	}
	require.NoError(w.t, rows.Err())
	return ids, fences
}

// finish reports all as done; each must be taken.
func (w *worker) finish(ids, fences []int64) {
	w.t.Helper()
	outcomes := make([]string, len(ids))
	for i := range outcomes {
		outcomes[i] = "done"
	}
	rows, err := w.conn.Query(w.t.Context(), w.last.calling(w.t, "pgtick.finish"), w.id, ids, fences, outcomes, nil, nil, nil)
	require.NoError(w.t, err)
	require.False(w.t, rows.Next(), "a report that was not taken")
	require.NoError(w.t, rows.Err())
}

// A worker that claims, is upgraded under its feet and goes on, beside a runner of the present release, both with their own claims.
func TestRollingUpgrade_AWorkerOfTheLastRelease_GoesOnBesideANewRunner(t *testing.T) {
	t.Parallel()
	last := lastRelease(t)
	db := last.database(t)
	effects(t, db)
	w := &worker{t: t, last: last, conn: connect(t, pgtest.RunnerURL(t, db))}
	w.value("pgtick.register", &w.id, "before", []string{"default"}, []string{"test.effect"}, 3600.0, "last", 20)
	do(t, db, `select pgtick.enqueue_many('test.effect', array_fill('{}'::jsonb, array[6]))`)
	held, fences := w.claim(3)
	require.Len(t, held, 3)

	db.Migrate(t)
	var gone int
	require.NoError(t, w.conn.QueryRow(t.Context(), `select count(*) from (`+last.calling(t, "pgtick.heartbeat")+`) as h`, w.id, held, fences).Scan(&gone))
	require.Zero(t, gone, "claims of before hold")
	w.exec("pgtick.progress", held[0], fences[0], 0.5, "half way")
	w.exec("pgtick.checkpoint", held[0], fences[0], `{"at": 1}`)
	require.NoError(t, pgx.BeginFunc(t.Context(), w.conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), last.calling(t, "pgtick.check_claim"), held[0], fences[0])
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), last.calling(t, "pgtick.finish_in_transaction"), held[0], fences[0], nil)
		return err
	}))
	w.finish(held[1:], fences[1:])
	held, fences = w.claim(2)
	require.Len(t, held, 2)

	next := start(t, program(t), []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db)}, "work", "--name", "after")
	becomes(t, db, 1, `select count(*) from public.effects`)
	w.finish(held, fences)
	var number string
	var settled bool
	w.value("pgtick.sleep", &number, w.id, 5.0)
	require.Eventually(t, func() bool { w.value("pgtick.settled", &settled, number); return settled }, within, every)
	w.exec("pgtick.awake", w.id)
	var n int
	w.value("pgtick.tick_chunk", &n, 100)
	w.value("pgtick.rescue", &n)
	w.value("pgtick.reconcile", &n, w.id, []int64{}, []int64{})
	require.Zero(t, n)
	w.exec("pgtick.maintain")
	w.exec("pgtick.leave", w.id)
	require.NoError(t, next.cmd.Process.Signal(syscall.SIGTERM))
	require.Zero(t, next.ends())
	require.Equal(t, []string{"after 1", "before 5"},
		column(t, db, `select format('%s %s', a.runner, count(*)) from pgtick.attempts as a where a.outcome = 'done' group by a.runner order by 1`))
}

// The last release itself, built from the history of this repository, at work while the schema is upgraded and a new runner comes.
func TestRollingUpgrade_TheLastReleaseAndANewRunner_WorkSideBySide(t *testing.T) {
	t.Parallel()
	last := lastRelease(t)
	old := last.build(t)
	db := last.database(t)
	effects(t, db)
	do(t, db, `select pgtick.schedule('each second', '@every 1s', 'test.effect', p_on_missed => 'all')`)
	env := []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db)}
	before := start(t, old, env, "work", "--name", "before", "--workers", "4")
	before.says("notifications arrive")
	enqueue := func() {
		do(t, db, `select pgtick.enqueue_many('test.effect', array_fill('{"ms": 5}'::jsonb, array[300]))`)
	}
	enqueue()
	becomes(t, db, true, `select count(*) > 20 from public.effects`)
	db.Migrate(t)
	after := start(t, program(t), env, "work", "--name", "after", "--workers", "4")
	after.says("notifications arrive")
	const both = `select count(*) from (select distinct a.runner from pgtick.attempts as a where a.started_at > $1) as r`
	upgraded := ask[any](t, db, `select now()`)
	require.Eventually(t, func() bool { enqueue(); return ask[int](t, db, both, upgraded) == 2 }, within, every*10, "both take jobs on the new schema")
	do(t, db, `select pgtick.unschedule('each second')`)
	becomes(t, db, 0, `select count(*) from pgtick.live_jobs`)
	for _, p := range []*process{before, after} {
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
		require.Zero(t, p.ends())
		require.NotContains(t, p.said(), "level=error")
	}
	require.Equal(t, []string{"done"}, column(t, db, `select distinct outcome from pgtick.attempts`), "no attempt has failed or was lost")
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.jobs as j full join public.effects as e on e.job_id = j.id where j.id is null or e.job_id is null`))
	require.Zero(t, ask[int](t, db, `select count(*) - count(distinct job_id) from public.effects`), "each effect once")
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.unaccounted_slots('1 hour')`))
}

// effects makes the table into which the test runner's tasks write.
func effects(t *testing.T, db *pgtest.DB) {
	t.Helper()
	do(t, db, `create table public.effects (job_id bigint not null, attempt int not null, at timestamptz not null default clock_timestamp())`)
	do(t, db, `grant insert on public.effects to pgtick_runner`)
}

// build makes the test runner of the release, where git still has it: a shallow clone may not.
func (r release) build(t *testing.T) string {
	t.Helper()
	top := root(t)
	if err := exec.CommandContext(t.Context(), "git", "-C", top, "cat-file", "-e", r.commit+"^{commit}").Run(); err != nil {
		t.Skipf("the history here does not hold the last release, %s: git fetch --unshallow", r.commit)
	}
	tree := t.TempDir()
	archive := filepath.Join(tree, "tree.tar")
	output(t, exec.CommandContext(t.Context(), "git", "-C", top, "archive", "--output", archive, r.commit))
	output(t, exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", tree))
	program := filepath.Join(tree, "released")
	require.NoError(t, buildIn(tree, program))
	return program
}
