package runner

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// What it costs is counted in pages, so that it does not depend on the machine. A runner that looked at each queue for each handful of jobs would
// read eight times as many for a job of 400 queues as for one of 50.
func TestWork_ThroughManyQueuesThatAllHaveJobs_AJobCostsAsMuchAsThroughFew(t *testing.T) {
	if os.Getenv(pgtest.PoolerEnv) != "" {
		t.Skip("a pooler keeps its sessions, and they have not said yet what they read")
	}
	t.Parallel()
	pages := map[int]float64{}
	for _, queues := range []int{60, 600} {
		db := fresh(t)
		db.Quiet(t)
		names := make([]string, queues)
		for i := range names {
			names[i] = fmt.Sprintf("q%d", i)
		}
		do(t, db, `select count(*) from unnest($1::text[]) as q, pgtick.enqueue_many('test.sleep', array_fill('{"ms": 5}'::jsonb, array[3]), p_queue => q)`, names)
		p := work(t, db, "--workers=4", "--queues="+strings.Join(names, ","))
		becomes(t, db, false, `select exists (select from pgtick.live_jobs)`)
		p.signal(syscall.SIGTERM)
		require.Zero(t, p.ends())
		require.Equal(t, queues, ask[int](t, db, `select count(distinct queue) from pgtick.jobs where state = 'done'`))
		becomes(t, db, 0, `select count(*) from pg_stat_activity where datname = current_database() and usename = 'pgtick_runner'`) // its sessions have said what they read
		pages[queues] = ask[float64](t, db, `select (blks_hit + blks_read)::float8 from pg_stat_database where datname = current_database()`) / float64(3*queues)
	}
	t.Logf("pages a job: %.0f of 60 queues, %.0f of 600", pages[60], pages[600])
	require.Less(t, pages[600], 2*pages[60])
}

// Functions are not counted by the version of the schema, so a runner may come before them.
func TestWork_ThroughManyQueues_BesideFunctionsOfAnEarlierRelease_DoesAllJobs(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `drop function pgtick.due_lanes`)
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf("q%d", i)
	}
	do(t, db, `select count(*) from unnest($1::text[]) as q, pgtick.enqueue_many('test.noop', array_fill('{}'::jsonb, array[3]), p_queue => q)`, names)
	p := work(t, db, "--workers=4", "--queues="+strings.Join(names, ","))
	becomes(t, db, 300, `select count(*) from pgtick.jobs where state = 'done'`)
	require.NotContains(t, p.said(), "42883")
}
