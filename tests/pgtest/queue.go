package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Claimed is a job that a runner holds, under the fence of its claim.
type Claimed struct {
	RunnerID int64
	ID       int64
	Fence    int64
}

// AddJob enqueues a job of a task, without arguments, and returns its id.
func AddJob(t testing.TB, db *DB, task string) (id int64) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(context.Background(), "select pgtick.enqueue($1)", task).Scan(&id))
	return id
}

// Claim registers a runner of this name for these tasks, "echo" where none is named, and claims one job for it. There must be one.
func Claim(t testing.TB, db *DB, runner string, lease time.Duration, tasks ...string) Claimed {
	t.Helper()
	if len(tasks) == 0 {
		tasks = []string{"echo"}
	}
	var c Claimed
	require.NoError(t, db.Pool.QueryRow(context.Background(), "select pgtick.register($1, '{default}', $2, make_interval(secs => $3))",
		runner, tasks, lease.Seconds()).Scan(&c.RunnerID))
	require.NoError(t, db.Pool.QueryRow(context.Background(), "select c.id, c.fence from pgtick.claim($1, '{default}', $2, 1) as c",
		c.RunnerID, tasks).Scan(&c.ID, &c.Fence), "%s found no job to claim", runner)
	return c
}

// Expire lets pgtick find out that the runners whose leases have run out are dead, so that their claims are free again. It takes two
// looks, a third of a lease apart: the clock moves on by that much. Runners whose leases have not run out are not harmed.
func Expire(t testing.TB, db *DB) {
	t.Helper()
	var third float64
	require.NoError(t, db.Pool.QueryRow(context.Background(), `select coalesce(max(extract(epoch from r.lease)), 0)::float8 / 3
		from pgtick.runner_leases as r where r.ended_at is null and r.lease_until <= pgtick.now()`).Scan(&third))
	rescue(t, db)
	Advance(t, db, time.Duration(third*float64(time.Second))+time.Millisecond)
	rescue(t, db)
}

func rescue(t testing.TB, db *DB) {
	t.Helper()
	_, err := db.Pool.Exec(context.Background(), "select pgtick.rescue()")
	require.NoError(t, err)
}
