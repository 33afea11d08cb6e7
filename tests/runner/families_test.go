package runner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWaitFor_HoldsNoWorker_AndGoesOnWhenAllChildrenHaveEnded(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	work(t, db, "--workers=1", "--poll=1h") // one worker: held by the parent, none would run the children; and nothing but a call wakes it
	parent := enqueue(t, db, "test.parent", `{}`)
	becomes(t, db, "done", stateOf, parent)
	require.Equal(t, 3, ask[int](t, db, "select count(*)::int from public.effects"))
	require.Equal(t, "2 1 the children have ended", ask[string](t, db, `select format('%s %s %s', attempt, uncounted, result #>> '{}') from pgtick.jobs where id = $1`, parent))
	require.Equal(t, "waiting,done", ask[string](t, db, `select string_agg(outcome, ',' order by attempt) from pgtick.attempts where job_id = $1`, parent))
	require.Equal(t, 3, ask[int](t, db, "select cardinality(after) from pgtick.jobs where id = $1", parent))
}

func TestWaitForDone_OfAChildThatFails_CancelsTheParent_WithTheReason(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	child := ask[int64](t, db, `select pgtick.enqueue('test.permanent', p_queue => 'later')`)
	parent := ask[int64](t, db, `select pgtick.enqueue('test.waits_for', jsonb_build_object('ids', array[$1::bigint]))`, child)
	work(t, db)
	becomes(t, db, "after", "select blocked_by from pgtick.jobs where id = $1", parent)
	work(t, db, "--queues=later", "--http=off")
	becomes(t, db, "cancelled", stateOf, parent)
	require.Contains(t, ask[string](t, db, "select last_error ->> 'message' from pgtick.jobs where id = $1", parent), "which it waited for, failed")
}

func TestWaitFor_AJobThatWaitsForIt_FailsForGood_AndSaysSo(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	next := ask[int64](t, db, "select nextval('pgtick.live_jobs_id_seq') + 1")
	parent := ask[int64](t, db, `select pgtick.enqueue('test.waits_for', jsonb_build_object('ids', array[$1::bigint + 1]))`, next)
	require.Equal(t, next, parent)
	ask[int64](t, db, `select pgtick.enqueue('test.noop', p_after => array[$1::bigint], p_after_outcome => 'any')`, parent)
	work(t, db)
	becomes(t, db, "failed", stateOf, parent)
	require.Contains(t, ask[string](t, db, "select last_error ->> 'message' from pgtick.jobs where id = $1", parent), "would wait for itself")
	becomes(t, db, "done", stateOf, parent+1)
}

func TestGate_ThatRefuses_LeavesNothing_FailsTheJobWithTheRows_AndPausesItsSchedule(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	do(t, db, `select pgtick.allow_gate('one at a time', 'select job_id from public.effects offset 1')`)
	do(t, db, `select pgtick.set_gates('test.effect', '{one at a time}')`)
	do(t, db, `select pgtick.schedule('writes', '0 0 1 1 *', 'test.effect')`)
	work(t, db)
	first := ask[int64](t, db, `select pgtick.run_now('writes')`)
	becomes(t, db, "done", stateOf, first)
	second := ask[int64](t, db, `select pgtick.run_now('writes')`)
	becomes(t, db, "failed", stateOf, second)
	require.Equal(t, 1, ask[int](t, db, "select count(*)::int from public.effects"))
	require.Equal(t, 1, ask[int](t, db, "select attempt from pgtick.jobs where id = $1", second))
	require.Contains(t, ask[string](t, db, "select last_error ->> 'message' from pgtick.jobs where id = $1", second), `"job_id"`)
	require.True(t, ask[bool](t, db, "select paused_at is not null from pgtick.schedules where name = 'writes'"))
	require.Equal(t, 1, ask[int](t, db, "select count(*)::int from pgtick.audit where action = 'gate_refused' and subject = 'writes'"))
}

func TestMostRows_CountsEachTransactionAlone(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	do(t, db, `select pgtick.set_gates('test.effect', p_most_rows => 1)`)
	work(t, db, "--connections=1") // all in one session: what the one before has changed must not count
	ids := []int64{}
	for range 5 {
		ids = append(ids, enqueue(t, db, "test.effect", `{}`))
	}
	becomes(t, db, len(ids), "select count(*)::int from pgtick.jobs where id = any ($1) and state = 'done'", ids)
	do(t, db, `create function public.twice() returns trigger language plpgsql as $$ begin
		if pg_trigger_depth() = 1 then insert into public.effects (job_id, attempt) values (new.job_id, 99); end if; return null; end $$`)
	do(t, db, `create trigger twice after insert on public.effects for each row execute function public.twice()`)
	id := enqueue(t, db, "test.effect", `{}`)
	becomes(t, db, "failed", stateOf, id)
	require.Contains(t, ask[string](t, db, "select last_error ->> 'message' from pgtick.jobs where id = $1", id), "changed 2 rows in one transaction, and may change 1")
	require.Equal(t, len(ids), ask[int](t, db, "select count(*)::int from public.effects"))
}
