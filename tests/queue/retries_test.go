package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// delays lets a job fail n times and returns how long it waited after each, in seconds. The clock must stand still.
func delays(t *testing.T, db *pgtest.DB, n int, settings string) []float64 {
	t.Helper()
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_max_attempts => 1000"+settings+")")
	r := register(t, db, "r", "echo")
	var waits []float64
	for range n {
		waits = append(waits, failOnce(t, db, r, id))
		pgtest.Advance(t, db, time.Duration(waits[len(waits)-1]*float64(time.Second)))
		r.heartbeat(t, db.Pool)
	}
	cancel(t, db.Pool, id)
	return waits
}

// failOnce claims the one job there is, reports an error, and returns for how many seconds it waits now.
func failOnce(t *testing.T, db *pgtest.DB, r runner, id int64) float64 {
	t.Helper()
	c := r.claimOne(t, db.Pool)
	require.Equal(t, id, c.ID)
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("error")))
	return one[float64](t, db.Pool, "select extract(epoch from run_at - pgtick.now())::float8 from pgtick.jobs where id = $1", id)
}

// (That the default is 5 s · 2^(n-1) within a tenth, and no more than a day, the tests of finish show.)
func TestRetryPolicy_EachKind_WaitsAsItSays(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string][]float64{
		`{"kind": "linear", "step": "30 seconds"}`:                                                     {30, 60, 90, 120},
		`{"kind": "linear", "step": "30 seconds", "most": "1 minute", "jitter": 0}`:                    {30, 60, 60, 60},
		`{"kind": "list", "delays": ["10 seconds", "5 minutes"]}`:                                      {10, 300, 300, 300},
		`{"kind": "list", "delays": ["1 hour"]}`:                                                       {3600, 3600},
		`{"kind": "list", "delays": ["30 days"]}`:                                                      {2592000},
		`{"kind": "linear", "step": "20 days"}`:                                                        {1728000, 2592000},
		`{"kind": "exponential", "first": "1 second", "factor": 3, "most": "20 seconds", "jitter": 0}`: {1, 3, 9, 20, 20},
		`{"kind": "exponential", "jitter": 0}`:                                                         {5, 10, 20, 40},
		`{"kind": "exponential", "first": "10 days", "factor": 10, "jitter": 0, "most": "30 days"}`:    {864000, 2592000, 2592000},
		`{"kind": "exponential", "first": "10 minutes", "factor": 1, "jitter": 0}`:                     {600, 600, 600},
		`{"kind": "exponential", "first": "20 hours", "jitter": 0}`:                                    {72000, 86400, 86400},
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			freeze(t, db)
			require.Equal(t, want, delays(t, db, len(want), ", p_retry_policy => '"+policy+"'"))
		})
	}
}

func TestRetryPolicy_Jitter_SpreadsEvenlyAroundTheDelay(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for policy, bounds := range map[string][2]float64{
		`{"kind": "linear", "step": "100 seconds", "jitter": 0.5}`:             {50, 150},
		`{"kind": "list", "delays": ["100 seconds"], "jitter": 1}`:             {0, 200},
		`{"kind": "exponential", "first": "100 seconds"}`:                      {90, 110},
		`{"kind": "exponential", "first": "100 seconds", "jitter": 0.01}`:      {99, 101},
		`{"kind": "linear", "step": "5 days", "most": "100 s", "jitter": 0.2}`: {80, 120},
	} {
		var least, most float64
		require.NoError(t, db.Pool.QueryRow(t.Context(), `select min(d)::float8, max(d)::float8
			from (select extract(epoch from pgtick.backoff(1, $1::jsonb)) from generate_series(1, 500)) as s(d)`, policy).Scan(&least, &most))
		require.GreaterOrEqual(t, least, bounds[0], policy)
		require.LessOrEqual(t, most, bounds[1], policy)
		require.Greater(t, most-least, (bounds[1]-bounds[0])/2, policy)
	}
}

func TestRetryPolicy_TheJobsGoesBeforeItsTasks_AndThatBeforeTheDefault(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, `select pgtick.set_retry_policy('mail', '{"kind": "list", "delays": ["7 seconds"]}')`)
	require.InDelta(t, 5, delays(t, db, 1, "")[0], 0.5, "another task's is not ours")
	exec(t, db.Pool, `select pgtick.set_retry_policy('echo', '{"kind": "linear", "step": "1 minute"}')`)
	require.Equal(t, []float64{60, 120}, delays(t, db, 2, ""))
	require.Equal(t, []float64{9, 9}, delays(t, db, 2, `, p_retry_policy => '{"kind": "list", "delays": ["9 seconds"]}'`))
	exec(t, db.Pool, `select pgtick.set_retry_policy('echo', '{"kind": "linear", "step": "2 minutes"}')`)
	require.Equal(t, []float64{120}, delays(t, db, 1, ""), "set again")
	exec(t, db.Pool, `select pgtick.set_retry_policy('echo', null)`)
	require.InDelta(t, 5, delays(t, db, 1, "")[0], 0.5, "taken back")
	require.Equal(t, []string{"mail"}, all[string](t, db.Pool, "select task from pgtick.retry_policies"), "and no other task's")
	exec(t, db.Pool, `select pgtick.set_retry_policy('echo', null)`)
	require.Equal(t, []string{"mail postgres set", "echo postgres set", "echo postgres set", "echo postgres null", "echo postgres null"}, all[string](t, db.Pool,
		"select concat_ws(' ', subject, by_whom, case when details is null then 'null' else 'set' end) from pgtick.audit where action = 'set_retry_policy' order by id"))
}

func TestRetryPolicy_OfEnqueueMany_IsOfEachJob_AndOfARetriedJobStays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	const policy = `{"kind": "list", "delays": ["11 seconds"]}`
	ids := all[int64](t, db.Pool, "select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[], p_retry_policy => $1)", policy)
	require.Equal(t, 2, one[int](t, db.Pool, "select count(*) from pgtick.jobs where retry_policy = $1", policy))
	cancel(t, db.Pool, ids[1])
	r := register(t, db, "r", "echo")
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))
	retry(t, db.Pool, ids[0])
	require.InDelta(t, 11, failOnce(t, db, r, ids[0]), 0)
}

func TestRetryPolicy_CountsFromTheNextErrorOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, `select pgtick.set_retry_policy('echo', '{"kind": "linear", "step": "1 minute"}')`)
	id := pgtest.AddJob(t, db, "echo")
	r := register(t, db, "r", "echo")
	require.InDelta(t, 60, failOnce(t, db, r, id), 0)
	before := everything(t, db, id)
	exec(t, db.Pool, `select pgtick.set_retry_policy('echo', '{"kind": "linear", "step": "1 second"}')`)
	require.Equal(t, before, everything(t, db, id), "what waits already keeps its time")
	pgtest.Advance(t, db, time.Minute)
	r.heartbeat(t, db.Pool)
	require.InDelta(t, 2, failOnce(t, db, r, id), 0, "its second error")
}

// A snooze is no error, so it does not make the next delay longer.
func TestRetryPolicy_OnlyAttemptsThatCount_MakeTheDelayLonger(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	id := one[int64](t, db.Pool, `select pgtick.enqueue('echo', p_retry_policy => '{"kind": "linear", "step": "1 minute"}')`)
	r := register(t, db, "r", "echo")
	for range 3 {
		r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("snoozed"))
	}
	require.InDelta(t, 60, failOnce(t, db, r, id), 0)
}

func TestRetryPolicy_Bad_IsRefused_NamingTheField(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for field, policies := range map[string][]string{
		"retry_policy":      {`7`, `[]`, `"linear"`, `null`, `{"kind": "linear", "step": "1 s", "first": "1 s"}`, `{"kind": "list", "delays": ["1 s"], "most": "1 s"}`, `{"kind": "exponential", "steps": 3}`},
		"retry_policy.kind": {`{}`, `{"kind": "random"}`, `{"kind": null}`, `{"kind": 7}`, `{"kind": "Linear", "step": "1 s"}`, `{"step": "1 s"}`},
		"retry_policy.step": {`{"kind": "linear"}`, `{"kind": "linear", "step": null}`, `{"kind": "linear", "step": "soon"}`, `{"kind": "linear", "step": "0"}`,
			`{"kind": "linear", "step": "-1 s"}`, `{"kind": "linear", "step": "31 days"}`, `{"kind": "linear", "step": {}}`, `{"kind": "linear", "step": "99999999999 years"}`},
		"retry_policy.first":     {`{"kind": "exponential", "first": "0"}`, `{"kind": "exponential", "first": null}`, `{"kind": "exponential", "first": "x"}`},
		"retry_policy.most":      {`{"kind": "exponential", "most": "31 days"}`, `{"kind": "linear", "step": "1 s", "most": "-1 s"}`},
		"retry_policy.factor":    {`{"kind": "exponential", "factor": 0.9}`, `{"kind": "exponential", "factor": 11}`, `{"kind": "exponential", "factor": "2"}`, `{"kind": "exponential", "factor": null}`},
		"retry_policy.jitter":    {`{"kind": "linear", "step": "1 s", "jitter": -0.1}`, `{"kind": "list", "delays": ["1 s"], "jitter": 1.1}`, `{"kind": "exponential", "jitter": true}`},
		"retry_policy.delays":    {`{"kind": "list"}`, `{"kind": "list", "delays": []}`, `{"kind": "list", "delays": "1 s"}`, `{"kind": "list", "delays": {}}`, `{"kind": "list", "delays": [` + strings.Repeat(`"1 s",`, 100) + `"1 s"]}`},
		"retry_policy.delays[0]": {`{"kind": "list", "delays": [null]}`, `{"kind": "list", "delays": [["1 s"]]}`},
		"retry_policy.delays[1]": {`{"kind": "list", "delays": ["1 s", "never"]}`, `{"kind": "list", "delays": ["1 s", "0", "x"]}`, `{"kind": "list", "delays": ["1 s", "30 days 1 s"]}`},
	} {
		for _, policy := range policies {
			for _, sql := range []string{"select pgtick.set_retry_policy('echo', $1)", "select pgtick.enqueue('echo', p_retry_policy => $1)",
				"select pgtick.enqueue_many('echo', array['{}']::jsonb[], p_retry_policy => $1)"} {
				_, err := db.Pool.Exec(t.Context(), sql, policy)
				pg := requireCode(t, err, "TK000", policy)
				require.True(t, strings.HasPrefix(pg.Message, field+" "), "%s: %s", policy, pg.Message)
			}
		}
	}
	require.Contains(t, refused(t, db.Pool, "TK000", `select pgtick.set_retry_policy('', '{"kind": "list", "delays": ["1 s"]}')`).Message, "task ")
	require.Zero(t, one[int](t, db.Pool, "select (select count(*) from pgtick.jobs) + (select count(*) from pgtick.retry_policies) + (select count(*) from pgtick.audit)"))
}
