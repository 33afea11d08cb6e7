package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWork_EachEnding_IsRecorded: whatever a task returns, panics with or can't store, the job ends in the state that the docs name.
func TestWork_EachEnding_IsRecorded(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	rows := map[string]struct{ task, args, settings, state, message string }{
		"nil is done":                               {task: "test.noop", state: "done"},
		"a failure is tried again, later":           {task: "test.fail", state: "ready", message: "did not work"},
		"a failure of the last attempt is for good": {task: "test.fail", settings: ", p_max_attempts => 1", state: "failed", message: "did not work"},
		"a panic is one failed attempt":             {task: "test.panic", settings: ", p_max_attempts => 1", state: "failed", message: "panic: out of order"},
		"permanent fails at once":                   {task: "test.permanent", state: "failed", message: "never will"},
		"cancel cancels":                            {task: "test.cancel", state: "cancelled", message: "cancelled: no longer wanted"},
		"unknown args fail for good":                {task: "test.strict", args: `{"user": "x"}`, state: "failed", message: `unknown field "user"`},
		"args of another type fail for good":        {task: "test.strict", args: `{"user_id": 7}`, state: "failed", message: "cannot unmarshal number"},
		"a result that can't be stored fails":       {task: "test.unstorable_result", state: "failed", message: "invalid input syntax for type json"},
		"an effect before a failure is undone":      {task: "test.effect_then_fail", settings: ", p_max_attempts => 1", state: "failed", message: "after the effect"},
	}
	ids := map[string]int64{}
	for name, row := range rows {
		args := row.args
		if args == "" {
			args = "{}"
		}
		ids[name] = ask[int64](t, db, `select pgtick.enqueue($1, $2::jsonb`+row.settings+`)`, row.task, args)
	}
	work(t, db)
	for name, row := range rows {
		becomes(t, db, row.state, `select state from pgtick.jobs where id = $1 and attempt = 1 and (state <> 'ready' or last_error is not null)`, ids[name])
		if row.message != "" {
			require.Contains(t, ask[string](t, db, `select last_error ->> 'message' from pgtick.jobs where id = $1`, ids[name]), row.message, name)
		}
	}
	require.Contains(t, ask[string](t, db, `select last_error ->> 'stack' from pgtick.jobs where id = $1`, ids["a panic is one failed attempt"]), "testrunner/main.go")
	require.Zero(t, ask[int](t, db, `select count(*) from public.effects`))
}

func TestWork_ASnoozedJob_ComesBack_AndTheAttemptDoesNotCount(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := ask[int64](t, db, `select pgtick.enqueue('test.snooze', p_max_attempts => 1)`)
	work(t, db, "--poll=1h")
	becomes(t, db, "done", stateOf, id)
	require.Equal(t, 2, ask[int](t, db, `select attempt from pgtick.jobs where id = $1`, id))
	require.Equal(t, 1, ask[int](t, db, `select uncounted from pgtick.jobs where id = $1`, id))
}

func TestWork_ACheckpoint_ReachesTheNextAttempt_AndProgressShows(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := enqueue(t, db, "test.checkpoint", "{}")
	work(t, db)
	becomes(t, db, "half way", `select note from pgtick.jobs where id = $1 and progress = 0.5 and state = 'ready'`, id)
	require.Equal(t, "ready", ask[string](t, db, `select pgtick.retry($1)`, id))
	becomes(t, db, "done", stateOf, id)
	require.JSONEq(t, `{"at": 7}`, ask[string](t, db, `select result::text from pgtick.jobs where id = $1`, id))
}

func TestWork_AResultTooLargeOrWithNUL_StillEndsTheJob(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := enqueue(t, db, "test.odd_result", "{}")
	work(t, db)
	becomes(t, db, "done", stateOf, id)
	require.True(t, ask[bool](t, db, `select (result ->> 'truncated')::boolean from pgtick.jobs where id = $1`, id))
}

func TestWork_ATransactionalTask_CommitsItsEffectAndItsEndTogether(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	ids := []int64{enqueue(t, db, "test.effect", "{}"), enqueue(t, db, "test.effect_in_tx", "{}")}
	work(t, db)
	for _, id := range ids {
		becomes(t, db, "done", stateOf, id)
		require.Equal(t, 1, ask[int](t, db, `select count(*) from public.effects where job_id = $1`, id))
	}
	require.Equal(t, ask[string](t, db, `select xmin::text from public.effects where job_id = $1`, ids[0]),
		ask[string](t, db, `select xmin::text from pgtick.history where id = $1`, ids[0]), "one transaction for both")
}

func TestWork_ACancelledJob_StopsWithinASecond(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := enqueue(t, db, "test.sleep", `{"ms": 60000}`)
	work(t, db, "--poll=1h", "--lease=1h")
	becomes(t, db, "running", stateOf, id)
	asked := time.Now()
	require.Equal(t, "running", ask[string](t, db, `select pgtick.cancel($1)`, id))
	becomes(t, db, "cancelled", stateOf, id)
	require.Less(t, time.Since(asked), time.Minute, "the heartbeat alone would have taken a third of an hour")
}

func TestWork_ATimeout_EndsTheAttempt_AndItCounts(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := ask[int64](t, db, `select pgtick.enqueue('test.sleep', '{"ms": 60000}', p_timeout => '300 ms', p_max_attempts => 1)`)
	work(t, db)
	becomes(t, db, "failed", stateOf, id)
	require.Contains(t, ask[string](t, db, `select last_error ->> 'message' from pgtick.jobs where id = $1`, id), "longer than its timeout")
}

func TestWork_AThousandWordsOfProgress_AreAFewWrites_AndTheLastOneStays(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `create table public.words (n int)`)
	do(t, db, `create function public.count_word() returns trigger language plpgsql security definer as 'begin insert into public.words values (1); return new; end'`)
	do(t, db, `create trigger count_word after insert or update on pgtick.job_notes for each row execute function public.count_word()`)
	id := enqueue(t, db, "test.chatter", "{}")
	work(t, db)
	becomes(t, db, "done", stateOf, id)
	require.Equal(t, "the last word", ask[string](t, db, `select note from pgtick.jobs where id = $1 and progress = 1`, id))
	require.Less(t, ask[int](t, db, `select count(*) from public.words`), 100)
}

// Each holds one of the connections for tasks, all there are, while it wants another to say how far it is.
func TestWork_ProgressInTransactions_NeverWaitsForAConnectionThatOthersHold(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.enqueue_many('test.chatter_tx', array_fill('{}'::jsonb, array[4]), p_timeout => '1 hour')`)
	work(t, db, "--connections=2")
	becomes(t, db, 4, `select count(*) from pgtick.jobs where state = 'done' and attempt = 1`)
}

// One worker has been fast, so its runner claimed ahead; what comes then is slow.
func TestWork_ClaimsAheadOfASlowJob_GoToAnIdleRunner(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.enqueue_many('test.sleep', array_fill('{"ms": 0}'::jsonb, array[3000]))`)
	do(t, db, `select pgtick.enqueue_many('test.sleep', array_fill('{"ms": 600000}'::jsonb, array[50]), p_timeout => '1 hour')`)
	work(t, db, "--name=busy", "--workers=1")
	// On a busy machine it gives back some quick ones, too, which slow ones may then overtake.
	becomes(t, db, true, `select exists (select from pgtick.live_jobs as j where j.runner_id is not null and j.args ->> 'ms' = '600000')`)
	work(t, db, "--name=idle", "--workers=49")
	becomes(t, db, 49, `select count(*) from pgtick.live_jobs as j join pgtick.runners as r on r.id = j.runner_id where r.name = 'idle' and j.args ->> 'ms' = '600000'`)
	require.Equal(t, 50, ask[int](t, db, `select sum(attempt) from pgtick.live_jobs`), "what was given back was no attempt")
}

func TestProgress_SaidOnceWhileAllConnectionsAreTaken_IsWrittenWhenOneIsFree(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	work(t, db, "--connections=1")
	taken := enqueue(t, db, "test.effect", `{"ms": 1500}`)
	becomes(t, db, 1, `select count(*)::int from pg_stat_activity where datname = current_database() and state = 'idle in transaction' and query like 'insert into public.effects%'`)
	id := enqueue(t, db, "test.one_word", `{}`)
	becomes(t, db, "done", stateOf, taken)
	becomes(t, db, "a word", `select coalesce(note, '') from pgtick.jobs where id = $1 and state = 'running'`, id)
	do(t, db, `select pgtick.cancel($1)`, id)
}
