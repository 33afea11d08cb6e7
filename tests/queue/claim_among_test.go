package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// manyLanes has eight jobs in each of 72 lanes, of the kinds that are named at its end: of tasks without a limit and with each kind of one, and of one that
// nobody serves, in queues that are asked for, one of which is paused, and in one that is not, in three priorities.
const manyLanes = `select count(pgtick.enqueue(t.task, jsonb_build_object('kind', k.kind), p_queue => q.queue, p_priority => p.priority,
	p_limit_key => case when t.task = 'keyed' then 'key ' || k.n % 2 end,
	p_run_at => pgtick.now() + case when k.kind = 'later' then interval '1 hour' else interval '0' end + k.n * interval '1 millisecond'))
from unnest('{foreign,plain,other,few,keyed,rated}'::text[]) as t(task), unnest('{elsewhere,paused,default,second}'::text[]) as q(queue), unnest('{1,5,9}'::int[]) as p(priority),
	unnest('{locked,held,suspect,later,due,due,held,due}'::text[]) with ordinality as k(kind, n)`

const (
	asked      = `'{default,second,paused}', '{plain,other,few,keyed,rated}'`
	maybeGiven = `j.task = any ('{plain,other,few,keyed,rated}') and j.queue in ('default', 'second')`
)

// What a claim must leave lies in front of, between and behind what it may give: whatever way it takes to a job, it gives no other, and gives all.
func TestClaim_AmongAllThatItMustLeave_GivesTheRest_EachOnce(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3, 10, 40} {
		t.Run(fmt.Sprint("by ", n), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			freeze(t, db)
			exec(t, db.Pool, "select pgtick.set_limit('few', p_max_running => 4), pgtick.set_limit('keyed', p_max_running => 2, p_per_key => true), pgtick.set_limit('rated', 1000)")
			exec(t, db.Pool, "select pgtick.pause_queue('paused')")
			exec(t, db.Pool, manyLanes)
			other := register(t, db, "other", "echo")
			exec(t, db.Pool, `update pgtick.live_jobs set runner_id = $1, fence = nextval('pgtick.fence_seq'), attempt = 1, started_at = pgtick.now() where args ->> 'kind' = 'held'`, other.id)
			exec(t, db.Pool, `update pgtick.live_jobs set losses = 2 where args ->> 'kind' = 'suspect'`)
			exec(t, db.Pool, `update pgtick.live_jobs set reservation = 'kept' where task = 'rated' and id % 2 = 0`)
			locking := session(t, db)
			exec(t, locking, "begin")
			exec(t, locking, `select from pgtick.live_jobs where args ->> 'kind' = 'locked' for update`)
			pgtest.Advance(t, db, time.Second)

			const others = `select to_jsonb(j)::text from pgtick.live_jobs as j where not (` + maybeGiven + ` and args ->> 'kind' in ('due', 'suspect')) order by j.id`
			before := all[string](t, db.Pool, others)
			may := all[int64](t, db.Pool, `select j.id from pgtick.live_jobs as j where `+maybeGiven+` and args ->> 'kind' in ('due', 'suspect') order by j.id`)
			require.Len(t, may, 5*2*3*4)
			require.ElementsMatch(t, may, claimAll(t, db, n))
			require.Equal(t, before, all[string](t, db.Pool, others), "all else is as it was")

			exec(t, locking, "rollback")
			locked := all[int64](t, db.Pool, `select j.id from pgtick.live_jobs as j where `+maybeGiven+` and args ->> 'kind' = 'locked'`)
			require.ElementsMatch(t, locked, claimAll(t, db, n))
		})
	}
}

// claimAll has two runners claim and report in turn, one from the beginning, one in the lanes that are due, until there is nothing left, and returns what
// they were given. No claim may go over its number, have two suspects or exceed a limit.
func claimAll(t *testing.T, db *pgtest.DB, n int) (given []int64) {
	t.Helper()
	ways := []string{
		`select c.id, c.fence from pgtick.claim($1, ` + asked + `, $2) as c`,
		`select c.id, c.fence
		from (select array_agg(d.task) as tasks, array_agg(d.queue) as queues, array_agg(d.priority::int) as priorities, array_agg(d.run_at) as run_at, array_agg(d.id) as ids
			from pgtick.due_lanes(` + asked + `, 100) as d) as l
		cross join lateral pgtick.claim_lanes($1, ` + asked + `, $2, l.tasks, l.queues, l.priorities, l.run_at, l.ids) as c`,
	}
	runners := []runner{register(t, db, "a", "echo"), register(t, db, "b", "echo")}
	impatient := session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	for round := 0; ; round++ {
		require.Less(t, round, 1000)
		claims := make([][]claim, len(ways))
		for i, way := range ways {
			rows, err := impatient.Query(t.Context(), way, runners[i].id, n)
			require.NoError(t, err)
			claims[i], err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c claim, err error) { return c, row.Scan(&c.ID, &c.Fence) })
			require.NoError(t, err)
			require.LessOrEqual(t, len(claims[i]), n)
			given = append(given, idsOf(claims[i])...)
			require.LessOrEqual(t, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs where runner_id = $1 and losses >= 2", runners[i].id), 1, "suspects")
		}
		ours := []int64{runners[0].id, runners[1].id}
		require.LessOrEqual(t, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs where runner_id = any ($1) and task = 'few'", ours), 4)
		require.LessOrEqual(t, one[int](t, db.Pool, `select coalesce(max(x.n), 0) from (
			select count(*) as n from pgtick.live_jobs where runner_id = any ($1) and task = 'keyed' group by limit_key) as x`, ours), 2)
		if len(claims[0])+len(claims[1]) == 0 {
			return given
		}
		for i, r := range runners {
			reports := make([]report, len(claims[i]))
			for k, c := range claims[i] {
				reports[k] = c.is("done")
			}
			for _, answer := range r.finish(t, db.Pool, reports...) {
				require.Equal(t, "accepted", answer)
			}
		}
	}
}
