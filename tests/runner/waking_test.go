package runner

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// With a poll of an hour, a job that starts soon was started by a notification or a timer.

func TestWork_ANewJob_IsAnnounced(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h")
	for range 5 {
		becomes(t, db, 1, `select count(*) from pgtick.sleepers where until > pgtick.now()`)
		becomes(t, db, "done", stateOf, enqueue(t, db, "test.noop", "{}"))
	}
}

func TestWork_ANewJobOfAnyOfItsQueues_IsAnnounced(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	p := work(t, db, "--poll=1h", "--queues=first,second,third")
	for _, queue := range []string{"second", "first", "third"} {
		becomes(t, db, 3, `select count(*) from pgtick.sleepers where until > pgtick.now()`)
		becomes(t, db, "done", stateOf, ask[int64](t, db, `select pgtick.enqueue('test.noop', p_queue => $1)`, queue))
	}
	require.NotContains(t, p.said(), "level=error")
	require.NotContains(t, p.said(), "level=warning")
}

func TestWork_ADelayedJob_StartsAtItsTime(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h")
	becomes(t, db, 1, `select count(*) from pgtick.sleepers where until > pgtick.now()`)
	id := ask[int64](t, db, `select pgtick.enqueue('test.noop', p_run_at => pgtick.now() + interval '1500 ms')`)
	becomes(t, db, "done", stateOf, id)
	require.Less(t, ask[float64](t, db, `select extract(epoch from started_at - run_at)::float8 from pgtick.jobs where id = $1`, id), 60.0, "the poll alone would have taken an hour")
}

func TestWork_ARetry_StartsAtItsTime(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := enqueue(t, db, "test.checkpoint", "{}")
	work(t, db, "--poll=1h")
	becomes(t, db, "done", stateOf, id) // the first retry is due after some five seconds
	require.Equal(t, 2, ask[int](t, db, `select attempt from pgtick.jobs where id = $1`, id))
}

func TestWork_TheRunnersOwnClock_TicksAtTheSlot(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h")
	ask[int64](t, db, `select pgtick.schedule('often', '@every 2s', 'test.noop')`)
	becomes(t, db, true, `select count(*) >= 2 from pgtick.slots as s join pgtick.jobs as j on j.id = s.job_id where s.schedule = 'often' and j.state = 'done'`)
	require.Less(t, ask[float64](t, db, `select extract(epoch from min(lateness))::float8 from pgtick.slots where schedule = 'often'`), 10.0, "pg_cron would tick once a minute")
}

func TestWork_WithOverlapWait_RunsOneJobOfTheScheduleAtATime_AndEachSlot(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h")
	ask[int64](t, db, `select pgtick.schedule('slow', '@every 1s', 'test.sleep', '{"ms": 1300}', p_on_overlap => 'wait')`)
	becomes(t, db, true, `select count(*) filter (where state = 'done') >= 4 and count(*) filter (where blocked_by = 'overlap') >= 1 from pgtick.jobs where schedule = 'slow'`)
	require.Equal(t, 0, ask[int](t, db, `select count(*) from pgtick.attempts as a join pgtick.attempts as b
		on a.job_id < b.job_id and a.started_at < coalesce(b.finished_at, 'infinity') and b.started_at < coalesce(a.finished_at, 'infinity')`), "attempts that ran at the same time")
	require.Equal(t, 0, ask[int](t, db, `select count(*) from (select started_at, lag(started_at) over (order by slot) as before from pgtick.jobs where state = 'done') as j where started_at < before`))
}

func TestWork_WithOverlapCancel_StopsTheJobThatRuns(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h")
	ask[int64](t, db, `select pgtick.schedule('endless', '@every 2s', 'test.sleep', '{"ms": 600000}', p_on_overlap => 'cancel')`)
	becomes(t, db, true, `select count(*) >= 2 from pgtick.jobs where schedule = 'endless' and state = 'cancelled' and started_at is not null`)
	becomes(t, db, 1, `select count(*) from pgtick.jobs where schedule = 'endless' and state = 'running'`)
}

func TestWork_AListenerWhoseConnectionDies_IsBackWithinSeconds(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h")
	becomes(t, db, 1, `select count(*) from pgtick.sleepers where until > pgtick.now()`)
	const listeners = `from pg_stat_activity where datname = current_database() and usename = 'pgtick_runner' and query ilike 'listen%'`
	old := ask[int](t, db, `select pid `+listeners)
	cut := time.Now()
	do(t, db, `select pg_terminate_backend($1)`, old)
	becomes(t, db, true, `select exists (select `+listeners+` and pid <> $1)`, old)
	require.Less(t, time.Since(cut), time.Minute, "the poll alone would have taken an hour")
	becomes(t, db, "done", stateOf, enqueue(t, db, "test.noop", "{}"))
}

func TestWork_BehindATransactionPooler_SaysThatItPolls_AndWorks(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	effects(t, db)
	pgtest.RunnerURL(t, db) // gives the role its password, which the pooler passes on
	pooled := pgtest.StartPgBouncer(t, db, "transaction")
	do(t, db, `insert into pgtick.addresses values ('localhost/`+db.Name+`', now(), 'test') on conflict do nothing`)
	p := start(t, []string{"DATABASE_URL=" + pooled}, "work", "--poll=200ms", "--lease=5s")
	p.says("polling every 200ms: no notification arrives")
	for _, task := range []string{"test.noop", "test.effect", "test.effect_in_tx"} {
		becomes(t, db, "done", stateOf, enqueue(t, db, task, "{}"))
	}
	require.Equal(t, "runner only polls", ask[string](t, db, `select what from pgtick.health where what = 'runner only polls'`))
}

func TestWork_AResumedQueue_IsWorkedOnAtOnce(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.pause_queue('default')`)
	p := work(t, db, "--poll=1h")
	id := enqueue(t, db, "test.noop", "{}")
	p.says("notifications arrive")
	becomes(t, db, true, `select until > pgtick.now() + interval '1 minute' from pgtick.sleepers`)
	require.Equal(t, "ready", ask[string](t, db, stateOf, id))
	do(t, db, `select pgtick.resume_queue('default')`)
	becomes(t, db, "done", stateOf, id)
}

const asleep = `select count(*) from pgtick.sleepers where until > pgtick.now()`

func TestWork_ForAJobNowAndThen_WhatItHasAnnouncedStands(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h")
	announcements := map[string]bool{}
	for range 20 {
		becomes(t, db, 1, asleep)
		becomes(t, db, "done", stateOf, enqueue(t, db, "test.noop", "{}"))
		announcements[ask[string](t, db, `select xmin::text from pgtick.sleepers`)] = true
	}
	require.Less(t, len(announcements), 12, "of 20 jobs, each of which is announced; a machine that is busy otherwise makes some of them long")
}

func TestWork_WhileItIsBusy_NobodyNotifiesIt(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h", "--workers=2")
	becomes(t, db, 1, asleep)
	do(t, db, `select count(pgtick.enqueue('test.sleep', '{"ms": 100}')) from generate_series(1, 100)`)
	becomes(t, db, 0, asleep)
	becomes(t, db, 1, asleep)
	becomes(t, db, 100, `select count(*) from pgtick.jobs where state = 'done'`)
	becomes(t, db, "done", stateOf, enqueue(t, db, "test.noop", "{}"))
}

func TestWork_WithNoWorkerFree_NobodyNotifiesItEither(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h", "--workers=2", "--lease=3s")
	becomes(t, db, 1, asleep)
	do(t, db, `select count(pgtick.enqueue('test.sleep', '{"ms": 600000}')) from generate_series(1, 2)`)
	becomes(t, db, 0, asleep)
}

// The runner falls asleep again and again while transactions that enqueue are open, commit late or roll back. It never polls: a job whose
// notification is lost would stay.
func TestWork_AmongSlowAndRolledBackTransactions_NoWakeUpIsLost(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	work(t, db, "--poll=1h", "--lease=1h")
	const sessions, rounds = 6, 120
	kept := make(chan int, sessions)
	for s := range sessions {
		go func() {
			n := 0
			defer func() { kept <- n }()
			conn, err := db.Pool.Acquire(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Release()
			dice := rand.New(rand.NewPCG(uint64(s), 7))
			for range rounds {
				pause, end := dice.Float64()*0.04, "commit"
				held := 0.0
				switch d := dice.IntN(20); {
				case d < 2:
					end = "rollback"
				case d < 5:
					held = 0.01 + dice.Float64()*0.19
				}
				_, err := conn.Exec(t.Context(), fmt.Sprintf(`select pg_sleep(%f); begin; select pgtick.enqueue('test.noop'); select pg_sleep(%f); %s`, pause, held, end))
				if err != nil {
					t.Error(err)
					return
				}
				if end == "commit" {
					n++
				}
			}
		}()
	}
	total := 0
	for range sessions {
		total += <-kept
	}
	becomes(t, db, total, `select count(*) from pgtick.jobs where state = 'done'`)
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.live_jobs`))
}

// Probes of all runners go over one channel, and a fleet that starts sends many at once.
func TestWork_AmongTheProbesOfAThousandRunners_HearsItsOwn(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	ctx, end := context.WithCancel(t.Context())
	noise := make(chan error, 1)
	go func() {
		next := time.NewTicker(50 * time.Millisecond) // without a pause the noise alone would keep a processor busy
		defer next.Stop()
		for ; ctx.Err() == nil; <-next.C {
			if _, err := db.Pool.Exec(ctx, `select count(pg_notify('pgtick_probe', 'other.' || i)) from generate_series(1, 1000) as i`); err != nil && ctx.Err() == nil {
				noise <- err
				return
			}
		}
		noise <- nil
	}()
	p := start(t, []string{"DATABASE_URL=" + pgtest.RunnerURL(t, db), "LISTEN_DATABASE_URL=" + pgtest.ListenURL(t, db)}, "work")
	p.says("notifications arrive|polling every")
	end()
	require.NoError(t, <-noise)
	require.NotContains(t, p.said(), "polling every")
}
