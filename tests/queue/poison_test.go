package queue

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// suspects makes n jobs of which two runners have died.
func suspects(t *testing.T, db *pgtest.DB, n int) []int64 {
	t.Helper()
	ids := enqueue(t, db, "echo", n)
	for range 2 {
		require.Len(t, register(t, db, "victim", "echo").claim(t, db.Pool, n), n)
		kill(t, db)
	}
	return ids
}

func losses(t *testing.T, db *pgtest.DB, id int64) (losses, deaths int) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), `select losses, deaths from pgtick.live_jobs where id = $1
		union all select losses, deaths from pgtick.history where id = $1`, id).Scan(&losses, &deaths))
	return losses, deaths
}

func TestPoison_ARunnerTakesOneSuspectAtATime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 3)
	good := enqueue(t, db, "echo", 2)
	a, b := register(t, db, "a", "echo"), register(t, db, "b", "echo")
	first := a.claim(t, db.Pool, 10)
	require.ElementsMatch(t, append(good, bad[0]), idsOf(first), "innocent jobs are not held up")
	require.Empty(t, a.claim(t, db.Pool, 10), "it holds one already")
	require.Equal(t, bad[1:2], idsOf(b.claim(t, db.Pool, 10)), "another runner may take the next")
	require.Empty(t, a.claim(t, db.Pool, 10), "whatever the other one has")
	for _, c := range first {
		a.finish(t, db.Pool, c.is("done"))
	}
	require.Equal(t, bad[2:], idsOf(a.claim(t, db.Pool, 10)), "one after the other")
}

// Neither older jobs nor what the runner holds already keep it from the one suspect that it may have; one that is due later is not it.
func TestPoison_ASuspect_IsGivenBesideOtherJobs_WhenItIsDue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	bad := suspects(t, db, 2)
	exec(t, db.Pool, "update pgtick.live_jobs set run_at = pgtick.now() + interval '1 hour' where id = $1", bad[1])
	mine := enqueue(t, db, "echo", 1)
	holder := register(t, db, "holder", "echo")
	unlock := lockJob(t, db, bad[0])
	require.Equal(t, mine, idsOf(holder.claim(t, db.Pool, 1)))
	require.Empty(t, holder.claim(t, db.Pool, 10), "the one is locked, the other not due")
	unlock()
	older := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_run_at => pgtick.now() - interval '1 hour')")
	require.ElementsMatch(t, []int64{older, bad[0]}, idsOf(holder.claim(t, db.Pool, 10)))
}

func TestPoison_AfterOneLoss_IsNoSuspect(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 3)
	require.Len(t, register(t, db, "victim", "echo").claim(t, db.Pool, 3), 3)
	kill(t, db)
	require.Len(t, register(t, db, "next", "echo").claim(t, db.Pool, 3), 3)
}

func TestPoison_OnlyTheSuspectsDeathsCount_TheThirdFailsIt_AndTheInnocentGoOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 1)[0]
	for died := 1; died <= 2; died++ {
		innocent := enqueue(t, db, "echo", 5)
		require.Len(t, register(t, db, "victim", "echo").claim(t, db.Pool, 10), 6)
		kill(t, db)
		_, deaths := losses(t, db, bad)
		require.Equal(t, died, deaths)
		for _, id := range innocent {
			lost, deaths := losses(t, db, id)
			require.Equal(t, []int{1, 0}, []int{lost, deaths})
		}
		finishAllBut(t, db, bad)
	}
	innocent := enqueue(t, db, "echo", 5)
	require.Len(t, register(t, db, "victim", "echo").claim(t, db.Pool, 10), 6)
	kill(t, db)
	require.Equal(t, "failed 5", stateOf(t, db, bad))
	require.Contains(t, one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1", bad), "three runners died")
	_, deaths := losses(t, db, bad)
	require.Equal(t, 3, deaths)
	for _, id := range innocent {
		require.Equal(t, "ready 1", stateOf(t, db, id))
	}
	require.Len(t, register(t, db, "next", "echo").claim(t, db.Pool, 10), 5)
}

// finishAllBut ends the jobs beside one that a long-lived runner of another task keeps out of the way.
func finishAllBut(t *testing.T, db *pgtest.DB, bad int64) {
	t.Helper()
	unlock := lockJob(t, db, bad)
	defer unlock()
	r := register(t, db, "well", "echo")
	for _, c := range r.claim(t, db.Pool, 100) {
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("done")))
	}
	exec(t, db.Pool, "select pgtick.leave($1)", r.id)
}

// A runner that dies after its suspect has ended, or after it went to another, blames nobody.
func TestPoison_WhoNoLongerHoldsTheSuspect_BlamesNobody(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 1)[0]
	r := register(t, db, "r", "echo")
	c := r.claimOne(t, db.Pool)
	require.Equal(t, bad, c.ID)
	r.finish(t, db.Pool, c.is("snoozed"))
	innocent := enqueue(t, db, "echo", 1)[0]
	unlock := lockJob(t, db, bad)
	require.Equal(t, innocent, r.claimOne(t, db.Pool).ID)
	unlock()
	kill(t, db)
	lost, deaths := losses(t, db, bad)
	require.Equal(t, []int{2, 0}, []int{lost, deaths})
	lost, deaths = losses(t, db, innocent)
	require.Equal(t, []int{1, 0}, []int{lost, deaths})
}

// A runner that leaves in order has not died of its suspect.
func TestPoison_ARunnerThatLeaves_IsNoDeath(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 1)[0]
	for range 4 {
		r := register(t, db, "r", "echo")
		require.Equal(t, bad, r.claimOne(t, db.Pool).ID)
		exec(t, db.Pool, "select pgtick.leave($1)", r.id)
	}
	lost, deaths := losses(t, db, bad)
	require.Equal(t, []int{2, 0}, []int{lost, deaths})
}

// A suspect that has done its work is a job like any other; so is one that a person retries.
func TestPoison_Retry_StartsAnew(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 1)[0]
	for range 3 {
		require.Equal(t, bad, register(t, db, "victim", "echo").claimOne(t, db.Pool).ID)
		kill(t, db)
	}
	require.Equal(t, "failed 5", stateOf(t, db, bad))
	require.Equal(t, "ready", one[string](t, db.Pool, "select pgtick.retry($1)", bad))
	lost, deaths := losses(t, db, bad)
	require.Equal(t, []int{0, 0}, []int{lost, deaths})
	r := register(t, db, "r", "echo")
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("done"))
	require.Equal(t, []string{"1 lost", "2 lost", "3 lost", "4 lost", "5 failed", "6 done"}, attemptsOf(t, db, bad))
}

// The claim that takes a suspect locks its runner's row, so that the blame is never written beside another claim's.
func TestPoison_ASecondClaimOfTheSameRunner_TakesNoSecondSuspect(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 2)
	r := register(t, db, "r", "echo")
	one, two := session(t, db), session(t, db)
	exec(t, one, "begin")
	require.Equal(t, bad[:1], idsOf(r.claim(t, one, 10)))
	late := make(chan []claim, 1)
	go func() { late <- r.claim(t, two, 10) }()
	awaitLock(t, db, two)
	exec(t, one, "commit")
	require.Empty(t, <-late)
	require.Equal(t, "ready 2", stateOf(t, db, bad[1]))
}
