package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// Live jobs and history are two tables; whoever looks at pgtick.jobs must not notice, however many sessions move jobs to and fro.
func TestJobs_ManySessionsMoveThem_EachLookShowsEachOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ids := enqueue(t, db, "echo", 60)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var movers, readers sync.WaitGroup
	problems := make(chan error, 5)
	looks := make(chan int, 2)
	for range 2 {
		conn := session(t, db)
		readers.Go(func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				var rows, distinct int
				err := conn.QueryRow(context.Background(), "select count(*), count(distinct id) from pgtick.jobs").Scan(&rows, &distinct)
				if err == nil && (rows != len(ids) || distinct != len(ids)) {
					err = fmt.Errorf("%d rows, %d ids", rows, distinct)
				}
				if err != nil {
					problems <- err
					break
				}
			}
			looks <- n
		})
	}
	for n := range 3 {
		conn, r, random := session(t, db), register(t, db, "r", "echo"), rand.New(rand.NewSource(seed+int64(n)))
		movers.Go(func() {
			for range 50 {
				if err := move(t.Context(), conn, r, random); err != nil {
					problems <- err
					return
				}
			}
		})
	}
	movers.Wait()
	stop()
	readers.Wait()
	close(problems)
	require.NoError(t, <-problems)
	require.Greater(t, <-looks+<-looks, 20)
	require.Equal(t, len(ids), one[int](t, db.Pool, "select count(*) from pgtick.jobs where id = any ($1)", ids))
}

// move is one step of a job from one table to the other, or of some back.
func move(ctx context.Context, conn *pgx.Conn, r runner, random *rand.Rand) error {
	var err error
	switch random.Intn(7) {
	case 0:
		_, err = conn.Exec(ctx, `select pgtick.retry_where('{"task": "echo"}')`)
	case 1:
		_, err = conn.Exec(ctx, `select pgtick.retry_where('{"state": "cancelled"}')`)
	case 2:
		_, err = conn.Exec(ctx, "select pgtick.cancel_where(jsonb_build_object('id', (select min(id) from pgtick.jobs where state = 'ready'))) where exists (select from pgtick.jobs where state = 'ready')")
	default:
		_, err = conn.Exec(ctx, `select pgtick.finish($1, array_agg(c.id), array_agg(c.fence), array_agg($2::text), p_retry_at => array_agg(pgtick.now()))
			from pgtick.claim($1, '{default}', '{echo}', 5) as c having count(*) > 0`, r.id, []string{"done", "failed", "failed", "cancelled", "error", "snoozed"}[random.Intn(6)])
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("move: %w", err)
	}
	return nil
}

// planOf is how a question would be answered where reading a whole table is the last resort.
func planOf(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	return strings.Join(all[string](t, conn, "explain "+sql), "\n")
}

func TestJobs_StatusQueries_UseAnIndex_OnBothSides(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.maintain()")
	conn := session(t, db)
	exec(t, conn, "set enable_seqscan = off")
	for _, where := range []string{"id = 7", "id in (7, 8)", "owner_id = '" + anna + "'", "task = 'echo'", "task = 'echo' and queue = 'default'",
		"owner_id = '" + anna + "' and created_at > now() - interval '1 day'", "id = 7 and state = 'running'"} {
		plan := planOf(t, conn, "select * from pgtick.jobs where "+where)
		require.NotContains(t, plan, "Seq Scan", where)
		require.Contains(t, plan, "live_jobs", where)
	}
	for _, state := range []string{"failed", "cancelled"} {
		plan := planOf(t, conn, "select * from pgtick.jobs where state = '"+state+"' order by finished_at desc limit 50")
		require.NotContains(t, plan, "Seq Scan")
		require.NotContains(t, plan, "live_jobs", "nothing there has failed")
		require.Contains(t, plan, "state")
	}
	for _, state := range []string{"ready", "running"} {
		plan := planOf(t, conn, "select * from pgtick.jobs where state = '"+state+"' and task = 'echo'")
		require.NotContains(t, plan, "history", state)
		require.NotContains(t, plan, "Seq Scan", state)
	}
	request := session(t, db)
	exec(t, request, "set enable_seqscan = off")
	exec(t, request, `select set_config('request.jwt.claims', '{"sub": "`+anna+`"}', false)`)
	require.NotContains(t, planOf(t, request, "select * from pgtick.my_jobs"), "Seq Scan")
}

func TestRunners_CountRefusedReports(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	other := register(t, db, "other", "echo")
	refusals := func(r runner) int {
		return one[int](t, db.Pool, "select refused from pgtick.runners where id = $1", r.id)
	}
	stale, none := c, c
	stale.Fence--
	none.ID = 4711
	r.finish(t, db.Pool, stale.is("done"), none.is("error"), stale.is("done"))
	require.Equal(t, 3, refusals(r))
	other.finish(t, db.Pool, c.is("done"))
	require.Equal(t, []int{3, 1}, []int{refusals(r), refusals(other)}, "each its own")
	unlock := lockJob(t, db, c.ID)
	require.Equal(t, []string{"ask again"}, r.finish(t, db.Pool, c.is("done")))
	unlock()
	for range 2 {
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("done")))
	}
	require.Equal(t, 3, refusals(r), "neither what is to be asked again nor what is sent twice")
	require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, stale.is("done")), "it has ended under another fence")
	require.Equal(t, 4, refusals(r))
	enqueue(t, db, "echo", 1)
	again := r.claimOne(t, db.Pool)
	for range 2 {
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, again.is("error")))
	}
	require.Equal(t, 4, refusals(r), "nor what waits again by the same report")

	frozen, impatient := session(t, db), session(t, db)
	exec(t, frozen, "begin")
	exec(t, frozen, "select from pgtick.runner_leases for update")
	exec(t, impatient, pgtest.WaitForNobody)
	require.Equal(t, []string{"refused"}, r.finish(t, impatient, none.is("done")), "and a count is not worth waiting for")
	exec(t, frozen, "rollback")
}

func TestRunners_TellHowManyWorkersTheyHave(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := one[int64](t, db.Pool, "select pgtick.register('r', '{default}', '{echo}', p_workers => 7)")
	require.Equal(t, 7, one[int](t, db.Pool, "select workers from pgtick.runners where id = $1", id))
	silent := register(t, db, "silent", "echo")
	require.Nil(t, one[*int](t, db.Pool, "select workers from pgtick.runners where id = $1", silent.id))
	for _, workers := range []int{0, -1} {
		require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick.register('r', '{default}', '{echo}', p_workers => $1)", workers).Message, "workers ")
	}
}

func TestQueues_CountWhatWaitsRunsAndServes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	noon := freeze(t, db)
	enqueue(t, db, "echo", 3)
	pgtest.Advance(t, db, time.Second)
	exec(t, db.Pool, "select pgtick.enqueue('echo'), pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '1 hour'), pgtick.enqueue('mail', p_queue => 'unserved')")
	register(t, db, "r", "echo").claim(t, db.Pool, 2)
	exec(t, db.Pool, "select pgtick.register('s', '{default,idle}', '{echo}')")
	require.Equal(t, []string{"default 2 00:00:00 1 2 2", "idle 0 0 0 1", "unserved 1 00:00:01 0 0 0"}, all[string](t, db.Pool,
		"select concat_ws(' ', queue, depth, oldest - $1::timestamptz, scheduled, running, runners) from pgtick.queues order by queue", noon))
}
