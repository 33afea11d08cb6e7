// Package queue tests what is promised about jobs, from outside, through SQL: that a committed job is never lost, that one runner at a
// time has it, and that who has lost a claim changes nothing any more.
package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience is how long a condition may take to come true on a slow machine. None is expected to.
var patience = pgtest.Patience

// asker is a pool, a connection or a transaction.
type asker interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func exec(t *testing.T, q asker, sql string, args ...any) {
	t.Helper()
	_, err := q.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func one[T any](t *testing.T, q asker, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, q.QueryRow(t.Context(), sql, args...).Scan(&v), sql)
	return v
}

func all[T any](t *testing.T, q asker, sql string, args ...any) []T {
	t.Helper()
	rows, err := q.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	vs, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return vs
}

// refused runs a statement that must fail with this SQLSTATE. Errors of our own tell what to do.
func refused(t *testing.T, q asker, code, sql string, args ...any) *pgconn.PgError {
	t.Helper()
	_, err := q.Exec(t.Context(), sql, args...)
	return requireCode(t, err, code, sql)
}

func requireCode(t *testing.T, err error, code, doing string) *pgconn.PgError {
	t.Helper()
	pg := new(pgconn.PgError)
	require.ErrorAs(t, err, &pg, doing)
	require.Equal(t, code, pg.Code, "%s: %s", doing, pg.Message)
	if strings.HasPrefix(code, "TK") {
		require.NotEmpty(t, pg.Hint, "%s: no hint", pg.Message)
	}
	return pg
}

// session is a connection of its own, for what several sessions do at once.
func session(t *testing.T, db *pgtest.DB) *pgx.Conn {
	t.Helper()
	return connect(t, db.URL)
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// lockJob keeps a job's row locked until the returned function is called.
func lockJob(t *testing.T, db *pgtest.DB, id int64) (unlock func()) {
	t.Helper()
	holder := session(t, db)
	exec(t, holder, "begin")
	require.Equal(t, id, one[int64](t, holder, "select id from pgtick.live_jobs where id = $1 for update", id))
	return func() { exec(t, holder, "rollback") }
}

// inBackground runs a statement that is expected to wait, and returns where its end will be told.
func inBackground(t *testing.T, conn *pgx.Conn, sql string, args ...any) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), sql, args...)
		ended <- err
	}()
	return ended
}

// awaitLock returns when the session waits for a lock.
func awaitLock(t *testing.T, db *pgtest.DB, conn *pgx.Conn) {
	t.Helper()
	require.Eventually(t, func() bool {
		return one[bool](t, db.Pool, "select exists (select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock')", conn.PgConn().PID())
	}, patience, 2*time.Millisecond, "the session never waited")
}

// freeze stops the database's clock at a noon, so that times can be compared exactly.
func freeze(t *testing.T, db *pgtest.DB) time.Time {
	t.Helper()
	noon := time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)
	pgtest.SetNow(t, db, noon)
	return noon
}

// enqueue adds jobs with the default settings.
func enqueue(t *testing.T, db *pgtest.DB, task string, n int) []int64 {
	t.Helper()
	return all[int64](t, db.Pool, "select pgtick.enqueue_many($1, array_fill('{}'::jsonb, array[$2::int]))", task, n)
}

// runner is a registered runner of the queue default.
type runner struct {
	id    int64
	tasks []string
}

const lease = 30 * time.Second

func register(t *testing.T, db *pgtest.DB, name string, tasks ...string) runner {
	t.Helper()
	return runner{one[int64](t, db.Pool, "select pgtick.register($1, '{default}', $2, make_interval(secs => $3))", name, tasks, lease.Seconds()), tasks}
}

// claim is what pgtick.claim gives out.
type claim struct {
	ID, Fence  int64
	Task       string
	Priority   int
	Attempt    int
	Checkpoint *string
}

func (r runner) claim(t *testing.T, q asker, n int) []claim {
	t.Helper()
	rows, err := q.Query(t.Context(), "select id, fence, task, priority, attempt, checkpoint::text from pgtick.claim($1, '{default}', $2, $3)", r.id, r.tasks, n)
	require.NoError(t, err)
	claims, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claim])
	require.NoError(t, err)
	return claims
}

// claimOne takes the one job there must be.
func (r runner) claimOne(t *testing.T, q asker) claim {
	t.Helper()
	claims := r.claim(t, q, 1)
	require.Len(t, claims, 1, "nothing to claim")
	return claims[0]
}

// held is one job, claimed by a runner.
func held(t *testing.T, db *pgtest.DB) (runner, claim) {
	t.Helper()
	enqueue(t, db, "echo", 1)
	r := register(t, db, "holder", "echo")
	return r, r.claimOne(t, db.Pool)
}

// report is one outcome, as a worker sends it.
type report struct {
	id, fence     int64
	outcome       string
	result, error *string
	retryAt       *time.Time
}

func (c claim) is(outcome string) report { return report{id: c.ID, fence: c.Fence, outcome: outcome} }

func (p report) because(message string) report {
	text := fmt.Sprintf(`{"message": %q}`, message)
	p.error = &text
	return p
}

func (p report) again(at time.Time) report {
	p.retryAt = &at
	return p
}

func (p report) with(result string) report {
	p.result = &result
	return p
}

// finish sends reports and returns what is answered to each: accepted, refused or ask again.
func (r runner) finish(t *testing.T, q asker, reports ...report) []string {
	t.Helper()
	ids, fences, outcomes := []int64{}, []int64{}, []string{}
	var results, errs []*string
	var retries []*time.Time
	for _, p := range reports {
		ids, fences, outcomes = append(ids, p.id), append(fences, p.fence), append(outcomes, p.outcome)
		results, errs, retries = append(results, p.result), append(errs, p.error), append(retries, p.retryAt)
	}
	rows, err := q.Query(t.Context(), `select job_id, case accepted when true then 'accepted' when false then 'refused' else 'ask again' end
		from pgtick.finish($1, $2, $3, $4, $5::text[]::jsonb[], $6::text[]::jsonb[], $7)`, r.id, ids, fences, outcomes, results, errs, retries)
	require.NoError(t, err)
	var answers []string
	var id int64
	var answer string
	_, err = pgx.ForEachRow(rows, []any{&id, &answer}, func() error {
		require.Equal(t, ids[len(answers)], id, "the answers are in the order of the reports")
		answers = append(answers, answer)
		return nil
	})
	require.NoError(t, err)
	require.Len(t, answers, len(reports))
	return answers
}

// heartbeat returns the reasons for which claims must stop, by job.
func (r runner) heartbeat(t *testing.T, q asker, claims ...claim) map[int64]string {
	t.Helper()
	ids, fences := columns(claims)
	rows, err := q.Query(t.Context(), "select job_id, reason from pgtick.heartbeat($1, $2, $3)", r.id, ids, fences)
	require.NoError(t, err)
	reasons := map[int64]string{}
	var id int64
	var reason string
	_, err = pgx.ForEachRow(rows, []any{&id, &reason}, func() error {
		reasons[id] = reason
		return nil
	})
	require.NoError(t, err)
	return reasons
}

func columns(claims []claim) (ids, fences []int64) {
	ids, fences = []int64{}, []int64{}
	for _, c := range claims {
		ids, fences = append(ids, c.ID), append(fences, c.Fence)
	}
	return ids, fences
}

func idsOf(claims []claim) []int64 {
	ids, _ := columns(claims)
	return ids
}

// stateOf is "state attempt", as pgtick.jobs shows them.
func stateOf(t *testing.T, db *pgtest.DB, id int64) string {
	t.Helper()
	return one[string](t, db.Pool, "select state || ' ' || attempt from pgtick.jobs where id = $1", id)
}

// attemptsOf tells a job's attempts as "number outcome".
func attemptsOf(t *testing.T, db *pgtest.DB, id int64) []string {
	t.Helper()
	return all[string](t, db.Pool, "select attempt || ' ' || outcome from pgtick.attempts where job_id = $1 order by attempt, started_at", id)
}

// rescue never waits for a lock, whatever else goes on.
func rescue(t *testing.T, db *pgtest.DB) int {
	t.Helper()
	return one[int](t, db.Pool, "with impatient as materialized (select set_config('lock_timeout', '5s', true)) select pgtick.rescue() from impatient")
}

// kill lets all runners that are alive be found dead.
func kill(t *testing.T, db *pgtest.DB) {
	t.Helper()
	pgtest.Advance(t, db, lease+time.Second)
	pgtest.Expire(t, db)
}

// everything is all that is written about one job, to see that nothing has changed.
func everything(t *testing.T, db *pgtest.DB, id int64) string {
	t.Helper()
	return one[string](t, db.Pool, `select coalesce((select j::text from pgtick.live_jobs as j where j.id = $1), 'not live') || ' ' ||
		coalesce((select h::text from pgtick.history as h where h.id = $1), 'no history')`, id)
}

// ear hears the notifications of one channel.
type ear struct {
	channel string
	conn    *pgx.Conn
	db      *pgtest.DB
	marks   int
}

func listen(t *testing.T, db *pgtest.DB, channel string) *ear {
	t.Helper()
	e := &ear{channel: channel, conn: session(t, db), db: db}
	exec(t, e.conn, "listen "+channel)
	return e
}

// heard returns what was notified since the last call. Notifications come in the order of the commits: one of our own marks the end.
func (e *ear) heard(t *testing.T) []string {
	t.Helper()
	e.marks++
	mark := fmt.Sprintf("mark %d", e.marks)
	exec(t, e.db.Pool, "select pg_notify($1, $2)", e.channel, mark)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	payloads := []string{}
	for {
		n, err := e.conn.WaitForNotification(ctx)
		require.NoError(t, err)
		if n.Payload == mark {
			return payloads
		}
		payloads = append(payloads, n.Payload)
	}
}
