package connections

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// The smallest Supabase plan has 60 connections, and a runner with three for tasks takes one that listens and four more: whatever its jobs
// do, cancelled and timed-out ones included, and however many workers want a transaction at once.
func TestWork_WithThreeConnections_NeverHoldsMoreThanOneAndFour(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	p := work(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db)}, "--connections=3", "--workers=40", "--lease=2s")
	p.says("notifications arrive")
	for task, n := range map[string]int{"test.effect": 150, "test.effect_in_tx": 150} {
		enqueue(t, db, task, `{"ms": 15}`, n)
	}
	enqueue(t, db, "test.noop", "{}", 3000)
	enqueue(t, db, "test.chatter", "{}", 20)
	do(t, db, `select pgtick.enqueue('test.effect', '{"ms": 60000}', p_timeout => '300 ms', p_max_attempts => 1) from generate_series(1, 6)`)
	do(t, db, `select pgtick.enqueue('test.sleep', '{"ms": 60000}', p_unique_key => 'to be cancelled')`)
	do(t, db, `select pgtick.schedule('often', '@every 1s', 'test.effect')`)
	most, samples := 0, 0
	watch := session(t, db.URL)
	defer watch.Close(t.Context())
	look := time.NewTicker(5 * time.Millisecond) // a session lives longer; without a pause the look itself would take a whole processor
	defer look.Stop()
	for left := 1; left > 0; samples++ {
		var now int
		require.NoError(t, watch.QueryRow(t.Context(), `select (select count(*) from pg_stat_activity where datname = current_database() and usename = 'pgtick_runner'),
			(select count(*) from pgtick.live_jobs where schedule_id is null and task <> 'test.sleep')`).Scan(&now, &left))
		most = max(most, now)
		require.LessOrEqual(t, now, 5, "sessions of the runner")
		<-look.C
	}
	t.Logf("at most %d sessions in %d samples", most, samples)
	require.Equal(t, 5, most, "all that it may have were used")
	do(t, db, `select pgtick.unschedule('often')`)
	do(t, db, `select pgtick.cancel(id) from pgtick.live_jobs where task = 'test.sleep'`)
	becomes(t, db, 0, `select count(*) from pgtick.live_jobs`)
	require.Equal(t, 300, ask[int](t, db, `select count(*) from pgtick.jobs where task in ('test.effect', 'test.effect_in_tx') and state = 'done' and schedule is null`))
	require.Zero(t, ask[int](t, db, `select count(*) from (select job_id from public.effects group by job_id having count(*) <> 1) as doubled`))
	p.stops()
}

// fill takes connections as somebody else's application would, until so many are left.
func fill(t *testing.T, db *pgtest.DB, left int) (taken []*pgx.Conn) {
	t.Helper()
	do(t, db, "create role crowd login password 'crowd'")
	url := pgtest.URLAs(db, "crowd", "crowd")
	for {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			require.ErrorContains(t, err, "53300")
			break
		}
		taken = append(taken, conn)
	}
	for range left {
		release(t, db, taken[0])
		taken = taken[1:]
	}
	return taken
}

// release ends a session and waits until the server has its place back.
func release(t *testing.T, db *pgtest.DB, conn *pgx.Conn) {
	t.Helper()
	pid := conn.PgConn().PID()
	require.NoError(t, conn.Close(t.Context()))
	becomes(t, db, 0, "select count(*) from pg_stat_activity where pid = $1", pid)
}

func crowded(t *testing.T) *pgtest.DB {
	t.Helper()
	server := pgtest.ServerWith(t, localpg.Options{Settings: map[string]string{"max_connections": "60"}})
	db := pgtest.NewOn(t, server)
	furnish(t, db)
	return db
}

// With one place left, the runner has its control connection. It starts, says what is wrong, and has all it wants once there is room. No job
// fails for want of a connection, not even one that is tried but once.
func TestWork_WithOneOfSixtyConnectionsLeft_Starts_SaysSo_AndGoesOnWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	db := crowded(t)
	runner := pgtest.RunnerURL(t, db)
	taken := fill(t, db, 1)
	p := work(t, []string{"DATABASE_URL=" + runner}, "--poll=200ms", "--lease=5s")
	p.says("runner registered")
	p.says("listener lost its connection; polling until it is back: the server has no room for another connection: a runner needs 2 and --connections")
	const n = 30
	for range n {
		do(t, db, `select pgtick.enqueue('test.effect', '{}', p_max_attempts => 1)`)
	}
	p.says("the database is not available: .*53300")
	require.Zero(t, ask[int](t, db, "select count(*) from pgtick.jobs where state = 'failed'"))
	for _, conn := range taken[:10] {
		release(t, db, conn)
	}
	freed := time.Now()
	nothingLost(t, db, n)
	t.Logf("all %d jobs done %s after there was room", n, time.Since(freed).Round(time.Millisecond))
	p.says("notifications arrive")
	require.Zero(t, ask[int](t, db, "select count(*) from pgtick.attempts where outcome in ('error', 'failed')"), "to have no connection is no attempt that failed")
	p.stops()
}

func TestWork_WithoutRoom_WaitsForIt(t *testing.T) {
	t.Parallel()
	db := crowded(t)
	runner := pgtest.RunnerURL(t, db)
	taken := fill(t, db, 0)
	_, hint := fails(t, runner, "schedules", "list")
	require.Contains(t, hint, "the server has no room for another connection")
	p := work(t, []string{"DATABASE_URL=" + runner})
	p.says("trying again in 10s: the server has no room for another connection")
	enqueue(t, db, "test.effect", "{}", 3)
	for _, conn := range taken {
		release(t, db, conn)
	}
	nothingLost(t, db, 3)
	p.stops()
}
