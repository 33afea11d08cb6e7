package runner

import (
	"cmp"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/faults/proxy"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// Promise 4: who loses every notification finds its jobs at the next poll, and counts them, so that somebody sees it.
func TestWork_WhileNotificationsAreLost_FindsItsJobsByPoll_AndCountsThem(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	var times atomic.Int64
	times.Store(1)
	direct := cmp.Or(pgtest.ListenURL(t, db), pgtest.RunnerURL(t, db))
	way := proxy.StartWith(t, direct, proxy.NewNotifications(func(channel string) int {
		if channel != "pgtick" { // by which jobs are announced: were the runner's tests of its listener lost too, it would poll, and count nothing
			return 1
		}
		return int(times.Load())
	}).Look)
	p := start(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db), "LISTEN_DATABASE_URL=" + way.URL(direct)}, "work", "--poll=3s", "--http=127.0.0.1:0")
	p.says("notifications arrive")
	url := p.says(`health and metrics at (http://[0-9.:]+)"`)[1]
	found := func() int {
		_, body := get(t, url+"/metrics")
		n, err := strconv.Atoi(regexp.MustCompile(`(?m)^pgtick_jobs_found_by_poll_total\S* (\d+)$`).FindStringSubmatch(body)[1])
		require.NoError(t, err)
		return n
	}
	require.Zero(t, found())
	becomes(t, db, 1, `select count(*)::int from pgtick.sleepers where until > pgtick.now()`)
	times.Store(0)
	done := 0
	require.Eventually(t, func() bool { // one that came a moment before a poll has not waited long enough to tell
		becomes(t, db, "done", stateOf, enqueue(t, db, "test.noop", "{}"))
		done++
		return found() > 0
	}, within, every)
	require.LessOrEqual(t, found(), done)
}

// Rule 2: from its start the server ends a task's transaction that is idle for as long as the job's timeout still lasts.
func TestWork_ATasksTransaction_IsGuardedFromItsStart_ForTheRestOfItsTimeout(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	role := clerk(t, db)
	do(t, db, `create function public.guard() returns text language sql as $$ select extract(epoch from current_setting('idle_in_transaction_session_timeout')::interval)::text $$`)
	do(t, db, `grant execute on function public.guard() to `+role)
	allow(t, db, "public.guard()")
	work(t, db)
	id := ask[int64](t, db, `select pgtick.enqueue('sql', '{"function": "public.guard"}', p_timeout => '7 minutes')`)
	becomes(t, db, "done", stateOf, id)
	seconds := ask[float64](t, db, `select (result #>> '{}')::float8 from pgtick.jobs where id = $1`, id)
	require.LessOrEqual(t, seconds, 420.0)
	require.Greater(t, seconds, 420-within.Seconds(), "what has gone by since the claim")
}

// Rule 6: a job that two runners were lost with, and that then fails, is tried again when it may, though the runner is asleep by then.
func TestWork_ARetryOfASuspect_StartsAtItsTime(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := enqueue(t, db, "test.checkpoint", "{}")
	for range 2 {
		require.Equal(t, id, pgtest.Claim(t, db, "victim", time.Second, "test.checkpoint").ID)
		pgtest.Advance(t, db, 2*time.Second)
		pgtest.Expire(t, db)
	}
	work(t, db, "--poll=1h")
	becomes(t, db, "done", stateOf, id) // the first retry is due after some five seconds
	require.Equal(t, 4, ask[int](t, db, `select attempt from pgtick.jobs where id = $1`, id))
	// Not by the clock of the machine: what else would find it is the test of the listener, a minute after the one at the start.
	require.Less(t, ask[float64](t, db, `select extract(epoch from started_at - run_at)::float8 from pgtick.jobs where id = $1`, id), 30.0)
}

// Promise 6: without pg_cron it is a runner that makes the days' partitions, drops old ones, and looks whether an index has become far too large.
func TestWork_DoesTheUpkeep_WhereNoOtherClockDoes(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, "delete from pgtick.upkeep")
	work(t, db)
	becomes(t, db, "indexes maintain", `select coalesce(string_agg(what, ' ' order by what), '') from pgtick.upkeep where what in ('indexes', 'maintain') and problem is null`)
}
