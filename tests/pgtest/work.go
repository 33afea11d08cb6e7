package pgtest

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/tasks"
)

// Enqueue adds a job and returns its id; see tasks.Enqueue.
func (db *DB) Enqueue(t testing.TB, task string, args any, options ...tasks.Option) int64 {
	t.Helper()
	id, err := tasks.Enqueue(context.Background(), db.Pool, task, args, options...)
	require.NoError(t, err)
	return id
}

// Work does what is due by the database's clock, until nothing is left: it ticks, so that slots of schedules that have come due become jobs, and
// runs the due jobs of the registry's tasks in all queues that are not paused, and those that they enqueue, by the engine that runners have,
// twenty at a time. It returns how many attempts have ended. What is to come later stays: Advance, and Work again.
//
// Tasks work as the database's owner here, so that a test needs no grants; a runner logs in as pgtick_runner (RunnerURL).
func (db *DB) Work(t testing.TB, registry *tasks.Registry) int {
	t.Helper()
	db.tick(t)
	ended := new(ended)
	for queues := db.dueQueues(t, registry); len(queues) > 0; queues = db.dueQueues(t, registry) {
		db.workOn(t, registry, queues, ended)
	}
	return int(ended.Load())
}

// tick goes on until no slot is due, chunk by chunk.
func (db *DB) tick(t testing.TB) {
	t.Helper()
	for due := true; due; {
		_, err := db.Pool.Exec(context.Background(), "select pgtick.tick()")
		require.NoError(t, err)
		require.NoError(t, db.Pool.QueryRow(context.Background(), "select coalesce(pgtick.next_tick_at() <= pgtick.now(), false)").Scan(&due))
	}
}

const dueJobs = `from pgtick.live_jobs as j
	where j.task = any ($1::text[]) and j.runner_id is null and j.run_at <= pgtick.now()
	  and not exists (select from pgtick.paused_queues as p where p.queue = j.queue)`

func (db *DB) dueQueues(t testing.TB, registry *tasks.Registry) []string {
	t.Helper()
	rows, err := db.Pool.Query(context.Background(), "select distinct j.queue "+dueJobs, registry.Names())
	require.NoError(t, err)
	queues, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return queues
}

// ended counts attempts. The engine's other news is nobody's here.
type ended struct{ atomic.Int64 }

func (e *ended) Claimed(int)                                                   {}
func (e *ended) Finished(string, string, string, time.Duration, time.Duration) { e.Add(1) }
func (e *ended) Refused(int)                                                   {}
func (e *ended) Ticked(int)                                                    {}
func (e *ended) FoundByPoll(int)                                               {}
func (e *ended) Rescued(int)                                                   {}
func (e *ended) Overdue([]string)                                              {}
func (e *ended) HeldBack(int)                                                  {}

// stuckAfter is how long nothing may end before Work gives up.
const stuckAfter = 2 * time.Minute

// workOn runs an engine for these queues until none of their jobs is due or running.
func (db *DB) workOn(t testing.TB, registry *tasks.Registry, queues []string, ended *ended) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	connect := func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, db.Pool.Config().ConnConfig)
	}
	direct := db.Config(t)
	listen := func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, direct) }
	e, err := engine.New(engine.Options{Name: "pgtest", Queues: queues, Registry: registry, Poll: 50 * time.Millisecond, NoClock: true,
		Log: logTo(t), Observer: ended, Pool: db.Pool, Connect: connect, Listen: listen})
	require.NoError(t, err)
	stopped := make(chan error, 1)
	go func() { stopped <- e.Run(ctx) }()
	busy := db.awaitIdle(t, registry, queues, e, stopped, ended)
	stop()
	require.NoError(t, <-stopped)
	require.Empty(t, busy, "nothing has ended for %s, but these jobs are due or running", stuckAfter)
}

// awaitIdle returns what keeps the engine busy when that does not end.
func (db *DB) awaitIdle(t testing.TB, registry *tasks.Registry, queues []string, e *engine.Engine, stopped chan error, ended *ended) []string {
	t.Helper()
	looks := time.NewTicker(5 * time.Millisecond)
	defer looks.Stop()
	before, since := ended.Load(), time.Now()
	for {
		busy := db.busy(t, registry, queues, e.Status().RunnerID)
		if now := ended.Load(); now != before {
			before, since = now, time.Now()
		}
		if len(busy) == 0 || time.Since(since) > stuckAfter {
			return busy
		}
		select {
		case err := <-stopped:
			stopped <- err
			require.NoError(t, err, "the engine has stopped")
			return busy
		case <-looks.C:
		}
	}
}

func (db *DB) busy(t testing.TB, registry *tasks.Registry, queues []string, runner int64) []string {
	t.Helper()
	rows, err := db.Pool.Query(context.Background(), `select format('%s %s', j.id, j.task) `+dueJobs+` and j.queue = any ($2::text[])
		union all select format('%s %s', j.id, j.task) from pgtick.live_jobs as j where j.runner_id = $3::bigint limit 10`, registry.Names(), queues, runner)
	require.NoError(t, err)
	busy, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return busy
}

// Job is a job as pgtick.jobs shows it.
type Job struct {
	ID          int64
	Task        string
	Queue       string
	State       string // ready, running, done, failed, cancelled
	Args        json.RawMessage
	Priority    int
	Attempt     int
	MaxAttempts int
	RunAt       time.Time // zero while it is blocked
	Timeout     time.Duration
	OwnerID     string
	UniqueKey   string
	Schedule    string
	Progress    float64
	Note        string
	Result      json.RawMessage
	Error       string // the message of the latest attempt that had one
}

const readJob = `select j.id, j.task, j.queue, j.state, j.args, j.priority, j.attempt, j.max_attempts,
	coalesce(nullif(j.run_at, 'infinity'), '0001-01-01 00:00:00+00') as run_at, j.timeout, coalesce(j.owner_id::text, '') as owner_id,
	coalesce(j.unique_key, '') as unique_key, coalesce(j.schedule, '') as schedule, coalesce(j.progress, 0)::float8 as progress, coalesce(j.note, '') as note,
	j.result, coalesce(j.last_error ->> 'message', '') as error
	from pgtick.jobs as j `

// Job reads a job, live or finished.
func (db *DB) Job(t testing.TB, id int64) Job {
	t.Helper()
	found := db.read(t, "where j.id = $1", id)
	require.Len(t, found, 1, "there is no job %d", id)
	return found[0]
}

// Jobs reads all jobs of a task, live and finished, in the order of their ids.
func (db *DB) Jobs(t testing.TB, task string) []Job {
	t.Helper()
	return db.read(t, "where j.task = $1 order by j.id", task)
}

func (db *DB) read(t testing.TB, which string, arg any) []Job {
	t.Helper()
	rows, err := db.Pool.Query(context.Background(), readJob+which, arg)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Job])
	require.NoError(t, err)
	return all
}
