// Package ties tests what is promised about jobs that have to do with each other, from outside, through SQL: jobs that wait for others,
// batches, children, sequences, limits of how many may run at once, and the gates before a task's commit.
package ties

import (
	"context"
	"errors"
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

// refused runs a statement that must fail with this SQLSTATE, and returns what was said. Errors of our own tell what to do.
func refused(t *testing.T, q asker, code, sql string, args ...any) *pgconn.PgError {
	t.Helper()
	_, err := q.Exec(t.Context(), sql, args...)
	pg := new(pgconn.PgError)
	require.ErrorAs(t, err, &pg, sql)
	require.Equal(t, code, pg.Code, "%s: %s", sql, pg.Message)
	if strings.HasPrefix(code, "TK") {
		require.NotEmpty(t, pg.Hint, pg.Message)
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

// enqueue adds a job; settings are written as SQL, such as "p_after => '{7}'".
func enqueue(t *testing.T, q asker, task string, settings ...string) int64 {
	t.Helper()
	return one[int64](t, q, "select pgtick.enqueue("+strings.Join(append([]string{"'" + task + "'"}, settings...), ", ")+")")
}

// runner is a registered runner of the queue default and all the tasks of these tests.
type runner struct{ id int64 }

var everyTask = []string{"echo", "other", "parent", "child", "callback", "member", "limited"}

func register(t *testing.T, q asker) runner {
	t.Helper()
	return runner{one[int64](t, q, "select pgtick.register('r', '{default}', $1)", everyTask)}
}

type claim struct{ id, fence int64 }

func (r runner) claim(t *testing.T, q asker, n int, tasks ...string) (claims []claim) {
	t.Helper()
	claims, err := tryClaim(t.Context(), q, r.id, n, tasks...)
	require.NoError(t, err)
	return claims
}

func tryClaim(ctx context.Context, q asker, runnerID int64, n int, tasks ...string) ([]claim, error) {
	if len(tasks) == 0 {
		tasks = everyTask
	}
	rows, err := q.Query(ctx, "select id, fence from pgtick.claim($1, '{default}', $2, $3)", runnerID, tasks, n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c claim, err error) { return c, row.Scan(&c.id, &c.fence) })
}

// take claims the one job that there must be, and it must be this one.
func (r runner) take(t *testing.T, q asker, id int64) claim {
	t.Helper()
	claims := r.claim(t, q, 100)
	require.Equal(t, []int64{id}, idsOf(claims), "what can be claimed")
	return claims[0]
}

func idsOf(claims []claim) (ids []int64) {
	for _, c := range claims {
		ids = append(ids, c.id)
	}
	return ids
}

// finish sends a report; it must be accepted.
func (r runner) finish(t *testing.T, q asker, c claim, outcome string) {
	t.Helper()
	require.Equal(t, "accepted", r.tryFinish(t, q, c, outcome))
}

func (r runner) tryFinish(t *testing.T, q asker, c claim, outcome string) string {
	t.Helper()
	answer, err := report(t.Context(), q, r.id, c, outcome)
	require.NoError(t, err)
	return answer
}

func report(ctx context.Context, q asker, runnerID int64, c claim, outcome string) (answer string, err error) {
	err = q.QueryRow(ctx, `select case accepted when true then 'accepted' when false then 'refused' else 'ask again' end
		from pgtick.finish($1, array[$2::bigint], array[$3::bigint], array[$4], p_retry_at => array[pgtick.now()])`, runnerID, c.id, c.fence, outcome).Scan(&answer)
	return answer, err
}

// do claims this job, which must be the only one that can be claimed, and reports its outcome.
func (r runner) do(t *testing.T, q asker, id int64, outcome string) {
	t.Helper()
	r.finish(t, q, r.take(t, q, id), outcome)
}

// state is a job's state, with what it is blocked by.
func state(t *testing.T, q asker, id int64) string {
	t.Helper()
	return one[string](t, q, "select state || coalesce(' after ' || blocked_by, '') from pgtick.jobs where id = $1", id)
}

func states(t *testing.T, q asker, ids ...int64) (states []string) {
	t.Helper()
	for _, id := range ids {
		states = append(states, state(t, q, id))
	}
	return states
}

func lastError(t *testing.T, q asker, id int64) string {
	t.Helper()
	return one[string](t, q, "select coalesce(last_error ->> 'message', '') from pgtick.jobs where id = $1", id)
}

// rescue does what was left to it, and not the search of once a minute, which would find whatever was missed.
func rescue(t *testing.T, q asker) {
	t.Helper()
	exec(t, q, "insert into pgtick.upkeep (what, done_at) values ('ties', pgtick.now()) on conflict (what) do update set done_at = excluded.done_at")
	exec(t, q, "select pgtick.rescue()")
}

// sweep lets rescue() look at everything, as it does once a minute.
func sweep(t *testing.T, q asker) {
	t.Helper()
	exec(t, q, "delete from pgtick.upkeep where what = 'ties'")
	exec(t, q, "select pgtick.rescue()")
}

// clean says that nothing is left over when no job is live: no link, no note, no place. (A key without jobs goes with the next sweep.)
func clean(t *testing.T, db *pgtest.DB) {
	t.Helper()
	sweep(t, db.Pool)
	require.Empty(t, all[string](t, db.Pool, `select format('job %s %s, blocked by %s', j.id, j.state, j.blocked_by) from pgtick.jobs as j where j.state in ('ready', 'running')
		union all select format('link %s', l) from pgtick.job_links as l
		union all select format('note %s', u) from pgtick.unsettled as u
		union all select format('places %s', p) from pgtick.limit_places as p where p.holders <> '{}'
		union all select format('batch %s', b) from pgtick.batch_defs as b where b.finished_at is null`))
}

// ear hears the notifications of a channel.
type ear struct {
	conn    *pgx.Conn
	db      *pgtest.DB
	channel string
}

// listen hears the channel that wakes runners.
func listen(t *testing.T, db *pgtest.DB) ear {
	t.Helper()
	return listenTo(t, db, "pgtick")
}

func listenTo(t *testing.T, db *pgtest.DB, channel string) ear {
	t.Helper()
	e := ear{session(t, db), db, channel}
	exec(t, e.conn, "listen "+channel)
	return e
}

// heard returns what was notified since the last call. Notifications come in the order of the commits: one of our own marks the end.
func (e ear) heard(t *testing.T) []string {
	t.Helper()
	exec(t, e.db.Pool, "select pg_notify($1, 'the end')", e.channel)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	payloads := []string{}
	for {
		n, err := e.conn.WaitForNotification(ctx)
		require.NoError(t, err)
		if n.Payload == "the end" {
			return payloads
		}
		payloads = append(payloads, n.Payload)
	}
}

// asleep lets a runner go to sleep for a minute, so that what becomes claimable must wake it.
func (r runner) asleep(t *testing.T, db *pgtest.DB) {
	t.Helper()
	number := one[string](t, db.Pool, "select pgtick.sleep($1, '1 minute')::text", r.id)
	require.Eventually(t, func() bool { return one[bool](t, db.Pool, "select pgtick.settled($1::text::xid8)", number) }, patience, time.Millisecond)
}

func isCode(err error, codes ...string) bool {
	pg := new(pgconn.PgError)
	if !errors.As(err, &pg) {
		return false
	}
	for _, code := range codes {
		if pg.Code == code {
			return true
		}
	}
	return false
}
