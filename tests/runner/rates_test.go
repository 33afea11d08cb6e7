package runner

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// The most that wrote within any second. Between its start and what it writes a job may lose a part of a second on a busy machine, and
// another one none, so half as much again is let pass; tests/limits holds the bounds themselves, by Redis's own clock.
const densest = `select max(n)::int from (select count(*) over (partition by key order by at range between current row and interval '1 second' following) as n
	from (select e.at, coalesce(j.limit_key, '') as key from public.effects as e join pgtick.jobs as j on j.id = e.job_id) as x) as w`

const allDone = `select count(*)::int from pgtick.jobs where task = 'test.effect' and state = 'done'`

func TestRate_OfATask_HoldsOverAllRunners_InOrder_WithoutAnAttempt(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	redis := pgtest.Redis(t)
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 20, p_burst => 2)`)
	ids := ask[[]int64](t, db, `select array(select pgtick.enqueue_many('test.effect', array_fill('{}'::jsonb, array[50])))`)
	for range 2 {
		work(t, db, "--redis-url="+redis.URL, "--http=off")
	}
	becomes(t, db, 50, allDone)
	require.LessOrEqual(t, ask[int](t, db, densest), 30+2)
	require.Equal(t, 50, ask[int](t, db, "select count(*)::int from pgtick.jobs where id = any ($1) and attempt = 1 and uncounted = 0", ids))
	becomes(t, db, 2, "select count(*)::int from pgtick.runners where limits_local is false and state = 'alive'")
}

func TestRate_ByLimitKey_IsEachKeysOwn(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	redis := pgtest.Redis(t)
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 5, p_burst => 1, p_per_key => true)`)
	do(t, db, `select pgtick.enqueue_many('test.effect', array_fill('{}'::jsonb, array[30]), p_limit_keys => array(select 'key ' || i % 3 from generate_series(1, 30) as i))`)
	work(t, db, "--redis-url="+redis.URL)
	becomes(t, db, 30, allDone)
	require.LessOrEqual(t, ask[int](t, db, densest), 8+1)
}

func TestRate_WhenRedisDies_GoesOnLocally_FailsNoJob_AndSaysSoOnce(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	redis := pgtest.Redis(t)
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 50, p_burst => 5)`)
	p := work(t, db, "--redis-url="+redis.URL)
	becomes(t, db, 1, "select count(*)::int from pgtick.runners where limits_local is false and state = 'alive'")
	redis.Kill()
	do(t, db, `select pgtick.enqueue_many('test.effect', array_fill('{}'::jsonb, array[100]))`)
	becomes(t, db, 100, allDone)
	require.Equal(t, 100, ask[int](t, db, "select count(*)::int from pgtick.jobs where task = 'test.effect' and attempt = 1"))
	becomes(t, db, 1, "select count(*)::int from pgtick.health where what = 'runner without Redis'")
	require.LessOrEqual(t, ask[int](t, db, densest), 75+5)
	redis.Start()
	becomes(t, db, 0, "select count(*)::int from pgtick.health where what = 'runner without Redis'")
	p.says("(?i)redis")
}

func TestRate_WhenOnlyMaxRunningChanges_KeepsTheTimesOfItsJobs(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	redis := pgtest.Redis(t)
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 1, p_period => '1 day')`)
	work(t, db, "--redis-url="+redis.URL)
	do(t, db, `select pgtick.enqueue_many('test.effect', array_fill('{}'::jsonb, array[5]))`)
	const kept = `select count(*)::int from pgtick.live_jobs where reservation is not null and runner_id is null and run_at > now() + interval '1 hour'`
	becomes(t, db, 4, kept)
	times := ask[string](t, db, `select string_agg(run_at::text || reservation, ',' order by id) from pgtick.live_jobs`)
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 1, p_period => '1 day', p_max_running => 3)`)
	require.Equal(t, times, ask[string](t, db, `select string_agg(run_at::text || reservation, ',' order by id) from pgtick.live_jobs`))
}

func TestRate_ThatIsTakenAway_NeedsNoRedisAnyMore(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 1)`)
	work(t, db)
	becomes(t, db, 1, "select count(*)::int from pgtick.health where what = 'runner without Redis'")
	do(t, db, `select pgtick.remove_limit('test.effect')`)
	becomes(t, db, 0, "select count(*)::int from pgtick.health where what = 'runner without Redis'")
}

func TestRate_ThatIsChanged_HoldsAsSoonAsTheRunnerHearsOfIt(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 1, p_period => '31 days')`)
	work(t, db, "--poll=1h")
	first := enqueue(t, db, "test.effect", `{}`)
	becomes(t, db, "its rate allows it later", "select reason from pgtick.why($1) limit 1", first)
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 1000)`)
	becomes(t, db, "done", stateOf, first) // what was put off is looked at anew
	do(t, db, `select pgtick.set_limit('test.effect', p_rate => 1, p_period => '31 days')`)
	var second int64
	require.Eventually(t, func() bool { // what comes before the news of it has reached the runner may still start by the old rate, and one by the new
		enqueue(t, db, "test.effect", `{}`)
		second = ask[int64](t, db, `select coalesce(max(id), 0) from pgtick.live_jobs where reservation is not null and run_at > now() + interval '1 hour'`)
		return second > 0
	}, within, every)
	becomes(t, db, "its rate allows it later", "select reason from pgtick.why($1) limit 1", second)
	do(t, db, `select pgtick.remove_limit('test.effect')`)
	becomes(t, db, "done", stateOf, enqueue(t, db, "test.effect", `{}`))
	becomes(t, db, "done", stateOf, second)
}
