package queue

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestClaim_GivesOnlyTheTasksAndQueuesNamed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	echo := pgtest.AddJob(t, db, "echo")
	mail := pgtest.AddJob(t, db, "mail")
	elsewhere := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_queue => 'slow')")
	r := register(t, db, "r", "echo")
	require.Equal(t, []int64{echo}, idsOf(r.claim(t, db.Pool, 10)))
	require.Equal(t, []int64{elsewhere}, all[int64](t, db.Pool, "select id from pgtick.claim($1, '{none,slow,null}', '{echo}', 10)", r.id))
	require.Empty(t, all[int64](t, db.Pool, "select id from pgtick.claim($1, '{default}', '{}', 10)", r.id))
	require.Empty(t, all[int64](t, db.Pool, "select id from pgtick.claim($1, '{default}', null, 10)", r.id))
	require.Equal(t, []int64{mail}, all[int64](t, db.Pool, "select id from pgtick.claim($1, '{default}', '{echo,mail,mail}', 10)", r.id))
}

func TestClaim_GivesOnlyWhatIsDue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '10 seconds')")
	r := register(t, db, "r", "echo")
	pgtest.Advance(t, db, 10*time.Second-time.Microsecond)
	require.Empty(t, r.claim(t, db.Pool, 1))
	pgtest.Advance(t, db, time.Microsecond)
	require.Equal(t, []int64{id}, idsOf(r.claim(t, db.Pool, 1)))
}

func TestClaim_LowerPriorityNumbersFirst_ThenTheLongestDue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	add := func(priority int, in string) int64 {
		return one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_priority => $1, p_run_at => pgtick.now() + $2::interval)", priority, in)
	}
	last, third, second, first, notDue := add(9, "0"), add(5, "2 s"), add(5, "1 s"), add(0, "3 s"), add(0, "1 hour")
	pgtest.Advance(t, db, 5*time.Second)
	r := register(t, db, "r", "echo")
	require.Equal(t, []int64{first, second}, idsOf(r.claim(t, db.Pool, 2)))
	require.Equal(t, []int64{third, last}, idsOf(r.claim(t, db.Pool, 10)))
	require.Equal(t, "ready 0", stateOf(t, db, notDue))
}

func TestClaim_ByPages_GivesAllOnce_InOrder(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ids := enqueue(t, db, "echo", 25)
	r := register(t, db, "r", "echo")
	var got []int64
	var pages []int
	for claims := r.claim(t, db.Pool, 10); len(claims) > 0; claims = r.claim(t, db.Pool, 10) {
		pages = append(pages, len(claims))
		got = append(got, idsOf(claims)...)
	}
	require.Equal(t, ids, got)
	require.Equal(t, []int{10, 10, 5}, pages)
}

func TestClaim_EachCallHasANewFence_ForAllItsJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 6)
	r := register(t, db, "r", "echo")
	var before int64
	for range 3 {
		claims := r.claim(t, db.Pool, 2)
		require.Len(t, claims, 2)
		require.Equal(t, claims[0].Fence, claims[1].Fence)
		require.Greater(t, claims[0].Fence, before)
		before = claims[0].Fence
	}
}

func TestClaim_FromEightConnectionsAtOnce_GivesEachJobOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const jobs = 2000
	enqueue(t, db, "echo", jobs)
	type mine struct{ id, fence int64 }
	given := make(chan mine, 2*jobs)
	var workers sync.WaitGroup
	for range 8 {
		conn, r := session(t, db), register(t, db, "r", "echo")
		workers.Go(func() {
			for claims := r.claim(t, conn, 20); len(claims) > 0; claims = r.claim(t, conn, 20) {
				for _, c := range claims {
					given <- mine{c.ID, c.Fence}
				}
			}
		})
	}
	workers.Wait()
	close(given)
	fences := map[int64]int64{}
	for g := range given {
		require.NotContains(t, fences, g.id, "given out twice")
		fences[g.id] = g.fence
	}
	require.Len(t, fences, jobs)
	require.Equal(t, jobs, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs where runner_id is not null and attempt = 1"))
	calls := map[int64]int{}
	for _, fence := range fences {
		calls[fence]++
		require.LessOrEqual(t, calls[fence], 20, "a fence belongs to one call")
	}
}

func TestClaim_PassesOverALockedRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ids := enqueue(t, db, "echo", 3)
	unlock := lockJob(t, db, ids[0])
	r := register(t, db, "r", "echo")
	require.Equal(t, ids[1:], idsOf(r.claim(t, db.Pool, 3)))
	unlock()
	require.Equal(t, ids[:1], idsOf(r.claim(t, db.Pool, 3)))
}

func TestClaim_AFloodOfOneTask_DoesNotStarveAnother(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "flood", 5000)
	enqueue(t, db, "rare", 3)
	exec(t, db.Pool, "select pgtick.enqueue_many('rare', array['{}', '{}']::jsonb[], p_queue => 'other')")
	r := register(t, db, "r", "flood", "rare")
	rare := 0
	for range 24 { // three lanes of equal priority take turns
		rare += one[int](t, db.Pool, "select count(*) from pgtick.claim($1, '{default,other}', '{flood,rare}', 5) where task = 'rare'", r.id)
	}
	require.Equal(t, 5, rare)
}

func TestClaim_TellsWhatATaskNeeds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	id := one[int64](t, db.Pool, `select pgtick.enqueue('echo', '{"a": 1}', p_max_attempts => 3, p_timeout => '1 minute', p_owner_id => '7f2c1c2e-5c6c-4b1e-9d9e-111111111111')`)
	r := register(t, db, "r", "echo")
	var got struct {
		ID, Fence                      int64
		Task, Queue                    string
		Priority, Attempt, MaxAttempts int
		Args                           string
		RunAt, CreatedAt               time.Time
		Timeout                        time.Duration
		Schedule                       *string
		Slot                           *time.Time
		OwnerID                        string
		Checkpoint                     *string
	}
	require.NoError(t, db.Pool.QueryRow(t.Context(), `select id, fence, task, queue, priority, attempt, max_attempts, args::text, run_at, created_at, timeout,
		schedule, slot, owner_id::text, checkpoint::text from pgtick.claim($1, '{default}', '{echo}', 1)`, r.id).Scan(
		&got.ID, &got.Fence, &got.Task, &got.Queue, &got.Priority, &got.Attempt, &got.MaxAttempts, &got.Args, &got.RunAt, &got.CreatedAt, &got.Timeout,
		&got.Schedule, &got.Slot, &got.OwnerID, &got.Checkpoint))
	require.Equal(t, id, got.ID)
	require.Equal(t, []any{"echo", "default", 5, 1, 3, `{"a": 1}`}, []any{got.Task, got.Queue, got.Priority, got.Attempt, got.MaxAttempts, got.Args})
	require.Equal(t, []any{now, now, time.Minute}, []any{got.RunAt.UTC(), got.CreatedAt.UTC(), got.Timeout})
	require.Equal(t, "7f2c1c2e-5c6c-4b1e-9d9e-111111111111", got.OwnerID)
	require.Nil(t, got.Schedule)
	require.Nil(t, got.Slot)
	require.Nil(t, got.Checkpoint)
}

func TestClaim_OfASchedulesJob_NamesTheScheduleAndTheSlot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "select pgtick.schedule('each minute', '* * * * *', 'echo'), pgtick.schedule('also each minute', '* * * * *', 'echo')")
	pgtest.Advance(t, db, time.Minute)
	exec(t, db.Pool, "select pgtick.tick()")
	enqueue(t, db, "echo", 1)
	r := register(t, db, "r", "echo")
	require.ElementsMatch(t, []string{"each minute true", "also each minute true", "none"}, all[string](t, db.Pool,
		"select coalesce(schedule || ' ' || (slot = pgtick.now()), 'none') from pgtick.claim($1, '{default}', '{echo}', 5)", r.id))
}

func TestClaim_ByARunnerThatMayNot_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.AddJob(t, db, "echo")
	const claimOne = "select pgtick.claim($1, '{default}', '{echo}', 1)"
	refused(t, db.Pool, "TK002", claimOne, 4711)
	refused(t, db.Pool, "TK002", claimOne, nil)
	left := register(t, db, "left", "echo")
	exec(t, db.Pool, "select pgtick.leave($1)", left.id)
	require.Contains(t, refused(t, db.Pool, "TK002", claimOne, left.id).Message, "has left")
	alive := register(t, db, "alive", "echo")
	for _, n := range []any{0, -1, 10001, nil} {
		require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick.claim($1, '{default}', '{echo}', $2)", alive.id, n).Message, "n ")
	}
	require.Equal(t, "ready 0", stateOf(t, db, id))
	exec(t, db.Pool, "update pgtick.live_jobs set losses = 2 where id = $1", id) // a suspect has a way of its own
	refused(t, db.Pool, "TK002", claimOne, 4711)
	require.Contains(t, refused(t, db.Pool, "TK002", claimOne, left.id).Message, "has left")
	require.Equal(t, []int64{id}, all[int64](t, db.Pool, "select id from pgtick.claim($1, '{default}', '{echo}', 1)", alive.id))
}

func TestRegister_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for field, values := range map[string][]string{
		"name":   {"null", "''", "repeat('x', 201)", `e'a\nb'`},
		"queues": {"null", "'{}'", "'{a,null}'", `'{a,""}'`, "array['a', repeat('x', 201)]"},
		"tasks":  {"null", "'{a,null}'", `'{a,""}'`, `array['a', e'b\n']`},
		"lease":  {"null", "'0.9 seconds'", "'1 hour 1 second'", "'-1 minute'"},
	} {
		for _, value := range values {
			arguments := map[string]string{"name": "'r'", "queues": "'{default}'", "tasks": "'{echo}'", "lease": "'30 s'", field: value}
			call := "select pgtick.register(" + arguments["name"] + ", " + arguments["queues"] + ", " + arguments["tasks"] + ", " + arguments["lease"] + ")"
			require.Contains(t, refused(t, db.Pool, "TK000", call).Message, field+" ", call)
		}
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.runners"))
	for _, edge := range []string{"1 second", "1 hour"} {
		exec(t, db.Pool, "select pgtick.register('r', '{default,default}', '{}', $1)", edge)
	}
}

// A session keeps its plans. One that was made while the table was empty, when all ways cost the same, must not go through an index from
// end to end for each job that it looks up later.
func TestLookups_PlannedWhileTheTableWasEmpty_StayLookups(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := session(t, db)
	r := register(t, db, "r", "echo")
	for range 4 { // the indexes have had many rows, and have none now
		enqueue(t, db, "echo", 10000)
		exec(t, conn, "create temp table done as select id, fence from pgtick.claim($1, '{default}', '{echo}', 10000)", r.id)
		exec(t, conn, "select pgtick.finish($1, (select array_agg(id) from done), (select array_agg(fence) from done), array_fill('done'::text, array[10000]))", r.id)
		exec(t, conn, "drop table done")
	}
	exec(t, conn, "vacuum analyze pgtick.live_jobs")
	for range 8 { // then a plan is kept for good
		exec(t, conn, "select pgtick.heartbeat($1, '{1,2}', '{1,1}')", r.id)
		exec(t, conn, "select pgtick.finish($1, '{1,2}', '{1,1}', '{done,error}')", r.id)
		exec(t, conn, "select pgtick.claim($1, '{default}', '{echo}', 10)", r.id)
		refused(t, conn, "TK001", "select pgtick.check_claim(1, 1)")
	}
	enqueue(t, db, "echo", 20000)
	exec(t, conn, "create temp table held as select id, fence from pgtick.claim($1, '{default}', '{echo}', 1000)", r.id)
	const ids, fences = "(select array_agg(id order by id) from held)", "(select array_agg(fence order by id) from held)"
	require.Less(t, pagesOf(t, conn, fmt.Sprintf("select count(*) from pgtick.heartbeat(%d, %s, %s)", r.id, ids, fences)), 20000)
	require.Less(t, pagesOf(t, conn, fmt.Sprintf("select count(*) from pgtick.finish(%d, %s, %s, array_fill('error'::text, array[1000]))", r.id, ids, fences)), 40000)
	require.Less(t, pagesOf(t, conn, "select count(*) from held as h, lateral (select pgtick.cancel(h.id)) as c where h.id % 100 = 0"), 10000)
}
