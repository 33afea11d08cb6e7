package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// Beside the one that is found dead there are others that live, idle or at work, and one that was dead before: none of theirs changes.
func TestRescue_ConcernsTheDeadAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "select pgtick.leave($1)", register(t, db, "long gone", "echo").id)
	register(t, db, "long dead", "echo")
	kill(t, db)
	enqueue(t, db, "echo", 6)
	dead := one[int64](t, db.Pool, "select pgtick.register('dead', '{default,second}', '{echo}', '30 seconds')")
	theirs := runner{dead, []string{"echo"}}.claim(t, db.Pool, 3)
	exec(t, db.Pool, "select pgtick.progress($1, $2, 0.5)", theirs[0].ID, theirs[0].Fence)
	require.Equal(t, "running", one[string](t, db.Pool, "select pgtick.cancel($1)", theirs[1].ID))
	exec(t, db.Pool, "select pgtick.sleep($1, '5 minutes')", dead)
	pgtest.Advance(t, db, lease/2)
	working, idle := register(t, db, "working", "echo"), register(t, db, "idle", "echo")
	for _, c := range working.claim(t, db.Pool, 2) {
		exec(t, db.Pool, "select pgtick.checkpoint($1, $2, '7')", c.ID, c.Fence)
	}
	exec(t, db.Pool, "select pgtick.sleep($1, '5 minutes')", idle.id)
	const others = `select to_jsonb(r)::text from pgtick.runner_leases as r where r.id <> $1
		union all select to_jsonb(s)::text from pgtick.sleepers as s where s.runner_id <> $1
		union all select to_jsonb(j)::text from pgtick.live_jobs as j where j.runner_id is distinct from $1
		union all select to_jsonb(n)::text from pgtick.job_notes as n where n.checkpoint is not null`
	before := all[string](t, db.Pool, others, dead)
	pgtest.Advance(t, db, lease/2)
	require.Zero(t, rescue(t, db))
	require.Equal(t, before, all[string](t, db.Pool, others, dead), "at the first look")
	pgtest.Advance(t, db, lease/3)
	require.Equal(t, 3, rescue(t, db))
	after := all[string](t, db.Pool, others, dead)
	require.Subset(t, after, before)
	require.Len(t, after, len(before)+2, "of the dead one's three jobs two wait again")
	require.Equal(t, []string{"ready 1 lost the runner died", "cancelled 1 cancelled", "ready 1 lost the runner died"}, all[string](t, db.Pool,
		`select concat_ws(' ', j.state, j.attempt, a.outcome, a.error ->> 'message') from pgtick.jobs as j join pgtick.attempts as a on a.job_id = j.id where j.id = any ($1) order by j.id`,
		idsOf(theirs)))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.sleepers where runner_id = $1", dead))
	const ended = "select ended_as || ' ' || ended_at || ' ' || freed_at from pgtick.runner_leases where id = $1"
	found := one[string](t, db.Pool, ended, dead)
	for _, id := range []int64{working.id, idle.id} {
		exec(t, db.Pool, "select pgtick.heartbeat($1)", id)
	}
	pgtest.Advance(t, db, lease/2)
	require.Zero(t, rescue(t, db))
	require.Equal(t, found, one[string](t, db.Pool, ended, dead), "it was done with")
}

// A runner that has ended while a task's transaction holds one of its jobs stays as it ended, however long that takes.
func TestRescue_OfARunnerThatIsNotFreeYet_KeepsWhenAndAsWhatItEnded(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"left", "dead"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			freeze(t, db)
			r, c := held(t, db)
			unlock := lockJob(t, db, c.ID)
			if how == "left" {
				exec(t, db.Pool, "select pgtick.leave($1)", r.id)
			} else {
				kill(t, db)
			}
			const ended = "select ended_as || ' ' || ended_at from pgtick.runner_leases where id = $1"
			before := one[string](t, db.Pool, ended, r.id)
			require.Contains(t, before, how)
			for range 3 {
				pgtest.Advance(t, db, lease)
				require.Zero(t, rescue(t, db))
				require.Equal(t, before, one[string](t, db.Pool, ended, r.id))
			}
			unlock()
			require.Equal(t, 1, rescue(t, db))
			require.Equal(t, before, one[string](t, db.Pool, ended, r.id))
		})
	}
}

// Its rows go one by one: the one that somebody holds goes later.
func TestRescue_OfADeadSleeper_WhoseOneQueueIsLocked_DeletesTheOthersWithoutWaiting(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := one[int64](t, db.Pool, "select pgtick.register('r', '{default,second,third}', '{echo}')")
	locking := session(t, db)
	exec(t, locking, "begin")
	exec(t, locking, "select from pgtick.sleepers where queue = 'second' for update")
	kill(t, db)
	rescue(t, db)
	const left = "select queue from pgtick.sleepers where runner_id = $1"
	require.Equal(t, []string{"second"}, all[string](t, db.Pool, left, id))
	require.Nil(t, one[*time.Time](t, db.Pool, "select freed_at from pgtick.runner_leases where id = $1", id))
	exec(t, locking, "rollback")
	rescue(t, db)
	require.Empty(t, all[string](t, db.Pool, left, id))
	require.NotNil(t, one[*time.Time](t, db.Pool, "select freed_at from pgtick.runner_leases where id = $1", id))
}

// A suspect for which two have died already: the third that holds it leaves in order, but a transaction holds the job just then, so that rescue
// gives it back. That is no third death.
func TestPoison_ARunnerThatLeavesWhileTheSuspectIsLocked_IsNoDeath(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 1)[0]
	for range 2 {
		register(t, db, "victim", "echo").claimOne(t, db.Pool)
		kill(t, db)
	}
	lost, deaths := losses(t, db, bad)
	require.Equal(t, []int{4, 2}, []int{lost, deaths})
	r := register(t, db, "r", "echo")
	r.claimOne(t, db.Pool)
	unlock := lockJob(t, db, bad)
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	require.Zero(t, rescue(t, db))
	unlock()
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, "ready 4", stateOf(t, db, bad))
	lost, deaths = losses(t, db, bad)
	require.Equal(t, []int{4, 2}, []int{lost, deaths})
}

// Of two dead runners' suspects one is locked: the other is blamed meanwhile, and each once.
func TestPoison_WhileADeadRunnersSuspectIsLocked_RescueDoesNotWait_AndBlamesEachOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 2)
	for range bad {
		register(t, db, "victim", "echo").claimOne(t, db.Pool)
	}
	unlock := lockJob(t, db, bad[0])
	pgtest.Advance(t, db, lease+time.Second)
	require.Zero(t, rescue(t, db))
	pgtest.Advance(t, db, lease/3+time.Second)
	require.Equal(t, 1, rescue(t, db))
	unlock()
	require.Equal(t, 1, rescue(t, db))
	for _, id := range bad {
		lost, deaths := losses(t, db, id)
		require.Equal(t, []int{3, 1}, []int{lost, deaths})
	}
}
