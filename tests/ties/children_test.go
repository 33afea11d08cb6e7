package ties

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// waitFor is what a worker does with a claim that is to go on when these jobs have ended.
func waitFor(t *testing.T, q asker, c claim, outcome string, ids ...int64) {
	t.Helper()
	exec(t, q, "select pgtick.wait_for($1, $2, $3, $4)", c.id, c.fence, append([]int64{}, ids...), outcome)
}

func TestChildren_TheParentGivesItsClaimAway_AndGoesOnWhenTheyHaveEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	parent := enqueue(t, db.Pool, "parent", "p_max_attempts => 1")
	c := r.take(t, db.Pool, parent)
	exec(t, db.Pool, `select pgtick.checkpoint($1, $2, '{"at": 7}')`, c.id, c.fence)
	task := session(t, db)
	exec(t, task, "begin")
	a, b := enqueue(t, task, "child"), enqueue(t, task, "child")
	waitFor(t, task, c, "any", a, b)
	require.Equal(t, "running", state(t, db.Pool, parent), "it commits with the children, or not at all")
	exec(t, task, "commit")
	require.Equal(t, "ready after after", state(t, db.Pool, parent))
	require.Equal(t, "refused", register(t, db.Pool).tryFinish(t, db.Pool, claim{c.id, c.fence + 1000}, "done"))
	refused(t, db.Pool, "TK001", "select pgtick.check_claim($1, $2)", c.id, c.fence)
	claims := r.claim(t, db.Pool, 10)
	require.Len(t, claims, 2)
	r.finish(t, db.Pool, claims[0], "done")
	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	r.finish(t, db.Pool, claims[1], "failed")
	require.Equal(t, []string{"default"}, ear.heard(t))
	require.Equal(t, "2 7", one[string](t, db.Pool, "select attempt || ' ' || (checkpoint ->> 'at') from pgtick.claim($1, '{default}', '{parent}', 1)", r.id))
	require.Equal(t, []string{"1 waiting", "2 running"}, all[string](t, db.Pool, "select attempt || ' ' || outcome from pgtick.attempts where job_id = $1 order by attempt", parent))
	require.Equal(t, []int64{a, b}, one[[]int64](t, db.Pool, "select after from pgtick.jobs where id = $1", parent))
	c.fence = one[int64](t, db.Pool, "select fence from pgtick.live_jobs where id = $1", parent)
	r.finish(t, db.Pool, c, "done")
	clean(t, db)
}

func TestChildren_WithoutTheCommit_NothingHasHappened(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	parent := enqueue(t, db.Pool, "parent")
	c := r.take(t, db.Pool, parent)
	task := session(t, db)
	exec(t, task, "begin")
	waitFor(t, task, c, "any", enqueue(t, task, "child"))
	exec(t, task, "rollback")
	exec(t, db.Pool, "select pgtick.check_claim($1, $2)", c.id, c.fence)
	r.finish(t, db.Pool, c, "done")
	clean(t, db)
}

func TestChildren_WaitedForToBeDone_OneThatFails_CancelsTheParent(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	parent := enqueue(t, db.Pool, "parent")
	behind := enqueue(t, db.Pool, "echo", after(parent))
	c := r.take(t, db.Pool, parent)
	child := enqueue(t, db.Pool, "child")
	waitFor(t, db.Pool, c, "done", child)
	r.do(t, db.Pool, child, "failed")
	require.Equal(t, []string{"cancelled", "cancelled"}, states(t, db.Pool, parent, behind))
	require.Equal(t, fmt.Sprintf("job %d, which it waited for, failed", child), lastError(t, db.Pool, parent))
	clean(t, db)
}

func TestChildren_ThatHaveEnded_AreNotWaitedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	failed := enqueue(t, db.Pool, "child")
	r.do(t, db.Pool, failed, "failed")
	parent := enqueue(t, db.Pool, "parent")
	c := r.take(t, db.Pool, parent)
	refused(t, db.Pool, "TK005", "select pgtick.wait_for($1, $2, array[$3::bigint], 'done')", c.id, c.fence, failed)
	refused(t, db.Pool, "TK004", "select pgtick.wait_for($1, $2, '{987654}')", c.id, c.fence)
	waitFor(t, db.Pool, c, "any", failed)
	require.Nil(t, one[*string](t, db.Pool, "select wanted_at::text from pgtick.jobs where id = $1", parent), "it is not blocked")
	c = r.take(t, db.Pool, parent)
	waitFor(t, db.Pool, c, "any")
	r.do(t, db.Pool, parent, "done")
	clean(t, db)
}

func TestChildren_AParentThatWouldWaitForItself_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	parent := enqueue(t, db.Pool, "parent", "p_sequence_key => 'k'", inBatch(one[int64](t, db.Pool, "select pgtick.create_batch('callback')")))
	c := r.take(t, db.Pool, parent)
	behind := enqueue(t, db.Pool, "child", after(parent))
	for what, id := range map[string]int64{
		"itself":                    parent,
		"what waits for it":         behind,
		"what waits for that":       enqueue(t, db.Pool, "child", after(enqueue(t, db.Pool, "child", after(behind)))),
		"one behind it in sequence": enqueue(t, db.Pool, "child", "p_sequence_key => 'k'"),
		"its batch's callback":      one[int64](t, db.Pool, "select max(job_id) from pgtick.batches"),
	} {
		require.Contains(t, refused(t, db.Pool, "TK021", "select pgtick.wait_for($1, $2, array[$3::bigint])", c.id, c.fence, id).Message, fmt.Sprint(parent), what)
	}
	waitFor(t, db.Pool, c, "any", enqueue(t, db.Pool, "child"))
}

func TestChildren_ASlotBehindItsOwn_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	r := register(t, db.Pool)
	noon := one[string](t, db.Pool, "select (now() - interval '1 hour')::text")
	exec(t, db.Pool, "select pgtick.schedule('often', '@every 1m', 'parent', p_on_overlap => 'wait', p_on_missed => 'all', p_starts_at => $1::text::timestamptz)", noon)
	exec(t, db.Pool, "update pgtick.schedule_defs set next_at = next_at - interval '5 minutes' where name = 'often'")
	exec(t, db.Pool, "select pgtick.tick()")
	jobs := all[int64](t, db.Pool, "select id from pgtick.live_jobs where task = 'parent' order by slot")
	require.Greater(t, len(jobs), 2)
	c := r.take(t, db.Pool, jobs[0])
	refused(t, db.Pool, "TK021", "select pgtick.wait_for($1, $2, array[$3::bigint])", c.id, c.fence, jobs[2])
}

// Two that begin to wait for each other in the same moment: each alone would see nothing amiss.
func TestChildren_TwoThatWaitForEachOther_AtOnce_OneIsRefused(t *testing.T) {
	t.Parallel()
	for name, through := range map[string]bool{"directly": false, "through others": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := register(t, db.Pool)
			a, b := enqueue(t, db.Pool, "parent"), enqueue(t, db.Pool, "parent")
			claims := r.claim(t, db.Pool, 2)
			forA, forB := b, a
			if through {
				forA, forB = enqueue(t, db.Pool, "child", after(b)), enqueue(t, db.Pool, "child", after(a))
			}
			first, second := session(t, db), session(t, db)
			exec(t, first, "begin")
			waitFor(t, first, claims[0], "any", forA)
			ended := inBackground(t, second, "select pgtick.wait_for($1, $2, array[$3::bigint])", claims[1].id, claims[1].fence, forB)
			awaitLock(t, db, second)
			exec(t, first, "commit")
			require.True(t, isCode(<-ended, "TK021"))
			r.finish(t, db.Pool, claims[1], "done")
			for {
				claims := r.claim(t, db.Pool, 10)
				if len(claims) == 0 {
					break
				}
				for _, c := range claims {
					r.finish(t, db.Pool, c, "done")
				}
			}
			clean(t, db)
		})
	}
}

func TestChildren_AParentThatIsBeingCancelled_DoesNotBeginToWait(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	parent := enqueue(t, db.Pool, "parent")
	c := r.take(t, db.Pool, parent)
	require.Equal(t, "running", one[string](t, db.Pool, "select pgtick.cancel($1)", parent))
	child := enqueue(t, db.Pool, "child")
	waitFor(t, db.Pool, c, "any", child)
	require.Equal(t, "cancelled", state(t, db.Pool, parent))
	require.Contains(t, lastError(t, db.Pool, parent), "cancelled by ")
	r.do(t, db.Pool, child, "done")
	clean(t, db)
}

func TestChildren_AWaitingParent_CanBeCancelled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	parent := enqueue(t, db.Pool, "parent")
	c := r.take(t, db.Pool, parent)
	child := enqueue(t, db.Pool, "child")
	waitFor(t, db.Pool, c, "any", child)
	require.Equal(t, "cancelled", one[string](t, db.Pool, "select pgtick.cancel($1)", parent))
	r.do(t, db.Pool, child, "done")
	clean(t, db)
}

func TestChildren_WhoLostTheClaim_CannotGiveItAway(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	parent := enqueue(t, db.Pool, "parent")
	c := r.take(t, db.Pool, parent)
	child := enqueue(t, db.Pool, "child")
	for _, wrong := range []claim{{c.id, c.fence + 1}, {child, c.fence}, {987654, c.fence}} {
		refused(t, db.Pool, "TK001", "select pgtick.wait_for($1, $2, array[$3::bigint])", wrong.id, wrong.fence, child)
	}
	for _, bad := range []string{"null", "'{1,null}'", "array_fill(1::bigint, '{10001}')", "'{1}', 'some'", "'{1}', null"} {
		refused(t, db.Pool, "TK000", "select pgtick.wait_for($1, $2, "+bad+")", c.id, c.fence)
	}
	conn := session(t, db)
	exec(t, conn, "begin isolation level repeatable read")
	refused(t, conn, "TK020", "select pgtick.wait_for($1, $2, array[$3::bigint])", c.id, c.fence, child)
	exec(t, db.Pool, "select pgtick.check_claim($1, $2)", c.id, c.fence)
}

// The parent keeps its turn in its sequence, and its batch stays open.
func TestChildren_AWaitingParent_KeepsItsSequenceAndItsBatch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	id, callback, _ := batch(t, db, 0, "")
	parent := enqueue(t, db.Pool, "parent", inBatch(id), "p_sequence_key => 'k'")
	next := enqueue(t, db.Pool, "other", "p_sequence_key => 'k'")
	c := r.take(t, db.Pool, parent)
	child := enqueue(t, db.Pool, "child")
	waitFor(t, db.Pool, c, "any", child)
	sweep(t, db.Pool)
	require.Equal(t, []string{"ready after after", "ready after batch", "ready after sequence"}, states(t, db.Pool, parent, callback, next))
	r.do(t, db.Pool, child, "done")
	r.do(t, db.Pool, parent, "done")
	require.ElementsMatch(t, []int64{callback, next}, idsOf(r.claim(t, db.Pool, 10)))
}
