package realtime

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMessages_OfAJobsLife_AreOneAChange_InOrder(t *testing.T) {
	t.Parallel()
	db := project(t)
	id := enqueue(t, db.Pool, ann)
	first := claim(t, db)
	do(t, db.Pool, `select pgtick.progress($1, $2, 0.25, 'a quarter')`, first.ID, first.Fence)
	finish(t, db.Pool, first, "error")
	db.Advance(t, time.Hour)
	second := claim(t, db)
	do(t, db.Pool, `select pgtick.progress($1, $2, 1, 'all')`, second.ID, second.Fence)
	finish(t, db.Pool, second, "done")

	require.Equal(t, []string{"ready", "running", "running", "ready", "running", "running", "done"}, states(t, db))
	var told []string
	for _, m := range messages(t, db) {
		job := m.job(t)
		require.Equal(t, id, job.ID)
		if job.Progress == nil {
			told = append(told, "-")
			continue
		}
		told = append(told, fmt.Sprintf("%g %s", *job.Progress, *job.Note))
	}
	require.Equal(t, []string{"-", "-", "0.25 a quarter", "0.25 a quarter", "0.25 a quarter", "1 all", "1 all"}, told)
}

func TestMessages_GoPrivately_ToTheOwnersTopicAlone(t *testing.T) {
	t.Parallel()
	db := project(t)
	enqueue(t, db.Pool, ann)
	finish(t, db.Pool, claim(t, db), "done")
	enqueue(t, db.Pool, bob)
	topics := map[string]int{}
	for _, m := range messages(t, db) {
		require.True(t, m.Private)
		require.Equal(t, "broadcast", m.Extension)
		topics[m.Topic]++
	}
	require.Equal(t, map[string]int{"pgtick:" + ann: 3, "pgtick:" + bob: 1}, topics)
}

func TestMessages_OfAJobWithoutOwner_AreNone(t *testing.T) {
	t.Parallel()
	db := project(t)
	enqueue(t, db.Pool, "")
	c := claim(t, db)
	do(t, db.Pool, `select pgtick.progress($1, $2, 0.5)`, c.ID, c.Fence)
	finish(t, db.Pool, c, "done")
	require.Empty(t, messages(t, db))
}

// A topic is authorised once, when it is joined, so what is sent to it must be what the owner may read anyway.
func TestMessages_HoldTheRowOfMyJobs_AndNothingElse(t *testing.T) {
	t.Parallel()
	db := project(t)
	id := one[int64](t, db.Pool, `select pgtick.enqueue('echo', '{"card": "hush-args"}', p_owner_id => $1)`, ann)
	check := func() {
		t.Helper()
		mine := one[string](t, as(t, db, "authenticated", ann), `select to_jsonb(m)::text from pgtick.my_jobs as m where m.id = $1`, id)
		all := messages(t, db)
		require.JSONEq(t, mine, string(all[len(all)-1].Payload))
	}
	check()
	c := claim(t, db)
	check()
	do(t, db.Pool, `select pgtick.checkpoint($1, $2, '{"at": "hush-checkpoint"}')`, c.ID, c.Fence)
	do(t, db.Pool, `select pgtick.progress($1, $2, 0.1::real, 'one of ten')`, c.ID, c.Fence)
	check()
	do(t, db.Pool, `select pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{failed}', array['{"n": "hush-result"}'::jsonb], array['{"message": "hush-error"}'::jsonb])`,
		c.RunnerID, c.ID, c.Fence)
	check()
	for _, m := range messages(t, db) {
		require.NotContains(t, string(m.Payload), "hush")
	}
}

// Every function that changes a job, so that a new one that is not told of is found here.
func TestMessages_WhateverChangesAJob_TheLastOneIsWhatMyJobsShows(t *testing.T) {
	t.Parallel()
	db := project(t)
	beUnhurried(t, db)
	owned := func(sql string, args ...any) { // $1 is the owner
		t.Helper()
		do(t, db.Pool, sql, append([]any{ann}, args...)...)
	}
	claimOne := func() pgtest.Claimed {
		t.Helper()
		do(t, db.Pool, `select pgtick.cancel_where('{"task": "echo", "state": "ready"}')`)
		enqueue(t, db.Pool, ann)
		return claim(t, db)
	}
	report := func(outcome string) func() {
		return func() { finish(t, db.Pool, claimOne(), outcome) }
	}
	var last pgtest.Claimed
	changes := []struct {
		name string
		do   func()
	}{
		{"enqueue_many", func() { owned(`select pgtick.enqueue_many('echo', '{"{}", "{}"}', p_owner_id => $1::uuid)`) }},
		{"enqueue, unique", func() { owned(`select pgtick.enqueue('echo', p_owner_id => $1::uuid, p_unique_key => 'k')`) }},
		{"enqueue_many, unique", func() {
			owned(`select pgtick.enqueue_many('echo', '{"{}", "{}"}', p_owner_id => $1::uuid, p_unique_keys => '{m,n}')`)
		}},
		{"create_batch", func() { owned(`select pgtick.create_batch('echo', p_owner_id => $1::uuid)`) }},
		{"a slot", func() {
			owned(`select pgtick.schedule('each', '* * * * *', 'echo', p_owner_id => $1::uuid)`)
			db.Advance(t, 2*time.Minute)
			do(t, db.Pool, `select pgtick.tick()`)
			do(t, db.Pool, `select pgtick.unschedule('each')`)
		}},
		{"run_now", func() {
			owned(`select pgtick.schedule('once', '0 0 1 1 *', 'echo', p_owner_id => $1::uuid)`)
			do(t, db.Pool, `select pgtick.run_now('once')`)
		}},
		{"cancel of a waiting one", func() { do(t, db.Pool, `select pgtick.cancel($1)`, enqueue(t, db.Pool, ann)) }},
		{"cancel_where", func() { do(t, db.Pool, `select pgtick.cancel_where('{"task": "echo", "state": "ready"}')`) }},
		{"retry", func() {
			do(t, db.Pool, `select pgtick.retry(max(h.id)) from pgtick.history as h where h.state = 'cancelled'`)
		}},
		{"retry_where", func() { do(t, db.Pool, `select pgtick.retry_where('{"task": "echo", "state": "cancelled"}')`) }},
		{"claim", func() { last = claimOne() }},
		{"reconcile", func() { do(t, db.Pool, `select pgtick.reconcile($1, '{}', '{}')`, last.RunnerID) }},
		{"leave", func() { do(t, db.Pool, `select pgtick.leave($1)`, claimOne().RunnerID) }},
		{"rescue of a dead runner's", func() {
			claimOne()
			db.Advance(t, 2*time.Hour)
			pgtest.Expire(t, db)
		}},
		{"rescue of a cancelled one", func() {
			do(t, db.Pool, `select pgtick.cancel($1)`, claimOne().ID)
			db.Advance(t, 2*time.Hour)
			pgtest.Expire(t, db)
		}},
		{"rescue of an overdue one", func() {
			c := claimOne()
			do(t, db.Pool, `select pgtick.heartbeat($1, array[$2::bigint], array[$3::bigint])`, c.RunnerID, c.ID, c.Fence)
			for range 5 {
				db.Advance(t, 20*time.Minute)
				do(t, db.Pool, `select pgtick.heartbeat($1, array[$2::bigint], array[$3::bigint])`, c.RunnerID, c.ID, c.Fence)
			}
			do(t, db.Pool, `select pgtick.rescue()`)
			require.Equal(t, "ready", one[string](t, db.Pool, `select state from pgtick.jobs where id = $1`, c.ID))
		}},
		{"done", report("done")}, {"failed", report("failed")}, {"error", report("error")}, {"snoozed", report("snoozed")},
		{"released", report("released")}, {"cancelled", report("cancelled")},
		{"finish_in_transaction", func() {
			c := claimOne()
			do(t, db.Pool, `select pgtick.finish_in_transaction($1, $2)`, c.ID, c.Fence)
		}},
		{"wait_for", func() {
			c := claimOne()
			do(t, db.Pool, `select pgtick.wait_for($1, $2, array[pgtick.enqueue('child', p_owner_id => $3)])`, c.ID, c.Fence, ann)
		}},
		{"the end of what was waited for, which cancels", func() {
			do(t, db.Pool, `select pgtick.enqueue('after', p_owner_id => $1, p_after => array[pgtick.enqueue('first', p_owner_id => $1)])`, ann)
			do(t, db.Pool, `select pgtick.cancel_where('{"task": "first"}')`)
			require.Equal(t, "cancelled", one[string](t, db.Pool, `select state from pgtick.jobs where task = 'after'`))
		}},
		{"hold_back", func() {
			c := claimOne()
			do(t, db.Pool, `select pgtick.hold_back($1, array[$2::bigint], array[$3::bigint], array[pgtick.now() + interval '1 minute'], array[null::text], array[null::timestamptz])`,
				c.RunnerID, c.ID, c.Fence)
		}},
	}
	for _, change := range changes {
		change.do()
		requireUpToDate(t, db, change.name)
	}
}

// beUnhurried lets a message take an hour: one that took a tenth of a second would be its transaction's last, and on a busy machine any may.
func beUnhurried(t *testing.T, db *pgtest.DB) {
	t.Helper()
	db.Replace(t, "pgtick.tell_owner(uuid, text, jsonb)", "interval '100 ms'", "interval '1 hour'")
}

// requireUpToDate holds the last message of each of ann's jobs against my_jobs.
func requireUpToDate(t *testing.T, db *pgtest.DB, after string) {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	do(t, tx, `select set_config('request.jwt.claims', $1, true)`, `{"sub": "`+ann+`"}`)
	rows, err := tx.Query(t.Context(), `
		select format('%s, and told was %s', m, coalesce(told.payload::text, 'nothing'))
		from pgtick.my_jobs as j
		cross join lateral (select to_jsonb(j)) as row(m)
		left join lateral (
			select x.payload from realtime.messages as x where x.event = 'job' and x.payload ->> 'id' = j.id::text and x.topic = $1 order by x.inserted_at desc, x.ctid desc limit 1
		) as told on true
		where told.payload is distinct from row.m`, "pgtick:"+ann)
	require.NoError(t, err)
	stale, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Empty(t, stale, after)
	require.NotZero(t, one[int](t, tx, `select count(*) from pgtick.my_jobs`))
}

func TestProgress_IsToldAtMostOnceASecond(t *testing.T) {
	t.Parallel()
	db := project(t)
	db.SetNow(t, time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC))
	enqueue(t, db.Pool, ann)
	c := claim(t, db)
	forget(t, db)
	report := func(done float64) { do(t, db.Pool, `select pgtick.progress($1, $2, $3::real)`, c.ID, c.Fence, done) }
	told := func() (all []float64) {
		for _, m := range messages(t, db) {
			all = append(all, *m.job(t).Progress)
		}
		return all
	}
	report(0.125)
	report(0.25)
	db.Advance(t, 999*time.Millisecond)
	do(t, db.Pool, `select pgtick.checkpoint($1, $2, '{}')`, c.ID, c.Fence)
	report(0.375)
	require.Equal(t, []float64{0.125}, told())
	db.Advance(t, time.Millisecond)
	do(t, db.Pool, `select pgtick.checkpoint($1, $2, '{}')`, c.ID, c.Fence)
	report(0.5)
	report(0.625)
	require.Equal(t, []float64{0.125, 0.5}, told())

	// The end tells of the rest, however soon it comes; and a clock that was put back does not keep the owner waiting.
	db.Advance(t, -time.Hour)
	report(0.75)
	require.Equal(t, []float64{0.125, 0.5, 0.75}, told())
	report(1)
	finish(t, db.Pool, c, "done")
	require.Equal(t, []float64{0.125, 0.5, 0.75, 1}, told())
}

func TestProgress_OfEachJob_HasASecondOfItsOwn(t *testing.T) {
	t.Parallel()
	db := project(t)
	db.SetNow(t, time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC))
	enqueue(t, db.Pool, ann)
	enqueue(t, db.Pool, ann)
	a, b := claim(t, db), claim(t, db)
	forget(t, db)
	for range 3 {
		do(t, db.Pool, `select pgtick.progress($1, $2, 0.5)`, a.ID, a.Fence)
		do(t, db.Pool, `select pgtick.progress($1, $2, 0.5)`, b.ID, b.Fence)
	}
	require.Len(t, messages(t, db), 2)

	db.Advance(t, time.Second)
	do(t, db.Pool, `select pgtick.progress($1, $2, 0.25, 'a')`, a.ID, a.Fence)
	do(t, db.Pool, `select pgtick.progress($1, $2, 0.75, 'b')`, b.ID, b.Fence)
	told := map[int64]string{}
	for _, m := range messages(t, db)[2:] {
		told[m.job(t).ID] = fmt.Sprint(*m.job(t).Progress, *m.job(t).Note)
	}
	require.Equal(t, map[int64]string{a.ID: "0.25a", b.ID: "0.75b"}, told)
}

// undisturbed does something until a message count is as it should be: on a machine that stands still for a tenth of a second, the messages of
// that transaction end, as they should.
func undisturbed(t *testing.T, db *pgtest.DB, want int, attempt func()) {
	t.Helper()
	var have int
	for range 10 {
		forget(t, db)
		attempt()
		if have = one[int](t, db.Pool, `select count(*) from realtime.messages`); have == want {
			return
		}
		require.Less(t, have, want)
	}
	require.Equal(t, want, have)
}

func TestMessages_OfManyJobsOfOneOwnerAtOnce_AreTwenty_AndAWordToLook(t *testing.T) {
	t.Parallel()
	db := project(t)
	undisturbed(t, db, 21, func() {
		do(t, db.Pool, `select pgtick.enqueue_many('echo', array_agg('{}'::jsonb), p_owner_id => $1) from generate_series(1, 500)`, ann)
	})
	all := messages(t, db)
	for _, m := range all[:20] {
		require.Equal(t, "ready", m.job(t).State)
	}
	require.Equal(t, "jobs_changed", all[20].Event)
	require.Equal(t, "pgtick:"+ann, all[20].Topic)
	undisturbed(t, db, 21, func() {
		do(t, db.Pool, `select pgtick.claim(pgtick.register('r', '{default}', '{echo}'), '{default}', '{echo}', 100)`)
	})

	// Others whose jobs change in the same transaction are told all the same.
	undisturbed(t, db, 22, func() {
		require.NoError(t, pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
			do(t, tx, `select pgtick.enqueue_many('echo', array_agg('{}'::jsonb), p_owner_id => $1) from generate_series(1, 50)`, ann)
			enqueue(t, tx, bob)
			return nil
		}))
	})
}

func TestMessages_OfManyOwnersAtOnce_ReachEach(t *testing.T) {
	t.Parallel()
	db := project(t)
	const reached = `select count(distinct m.topic) from realtime.messages as m where m.payload ->> 'state' = $1`
	undisturbed(t, db, 300, func() {
		do(t, db.Pool, `delete from pgtick.live_jobs`)
		do(t, db.Pool, `select pgtick.enqueue('echo', p_owner_id => gen_random_uuid()) from generate_series(1, 300)`)
	})
	require.Equal(t, 300, one[int](t, db.Pool, reached, "ready"))
	for range 10 {
		forget(t, db)
		do(t, db.Pool, `select pgtick.cancel_where('{"task": "echo"}')`)
		if one[int](t, db.Pool, reached, "cancelled") == 300 {
			break
		}
		do(t, db.Pool, `select pgtick.retry_where('{"task": "echo", "state": "cancelled"}')`)
	}
	require.Equal(t, 300, one[int](t, db.Pool, reached, "cancelled"))
}

func TestMessages_OfOneTransaction_AreAtMostAThousand(t *testing.T) {
	t.Parallel()
	db := project(t)
	jobs := 0
	undisturbed(t, db, 1000, func() {
		do(t, db.Pool, `select pgtick.enqueue('echo', p_owner_id => gen_random_uuid()) from generate_series(1, 1100)`)
		jobs += 1100
	})
	require.Equal(t, jobs, one[int](t, db.Pool, `select count(*) from pgtick.live_jobs`))
}

func TestMessages_OfWhatIsRolledBack_AreNone(t *testing.T) {
	t.Parallel()
	db := project(t)
	undisturbed(t, db, 20, func() {
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(context.Background()) }()
		do(t, tx, `savepoint s`)
		do(t, tx, `select pgtick.enqueue_many('echo', array_agg('{}'::jsonb), p_owner_id => $1) from generate_series(1, 30)`, ann)
		do(t, tx, `rollback to s`)
		do(t, tx, `select pgtick.enqueue_many('echo', array_agg('{}'::jsonb), p_owner_id => $1) from generate_series(1, 20)`, ann)
		require.NoError(t, tx.Commit(t.Context()))
	})
	forget(t, db)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	enqueue(t, tx, ann)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Empty(t, messages(t, db))
}

// life takes a job of ann's through everything that is told of, and says what the client was told on the way.
func life(t *testing.T, db *pgtest.DB) (notices []string) {
	t.Helper()
	cfg := db.Config(t)
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	do(t, conn, `set statement_timeout = '30s'`)
	id := enqueue(t, conn, ann)
	c := pgtest.Claimed{RunnerID: one[int64](t, conn, `select pgtick.register('r', '{default}', '{echo}')`)}
	require.NoError(t, conn.QueryRow(t.Context(), `select c.id, c.fence from pgtick.claim($1, '{default}', '{echo}', 1) as c`, c.RunnerID).Scan(&c.ID, &c.Fence))
	require.Equal(t, id, c.ID)
	do(t, conn, `select pgtick.progress($1, $2, 0.5, 'half')`, c.ID, c.Fence)
	finish(t, conn, c, "done")
	require.Equal(t, "done 0.5 half", one[string](t, conn, `select concat_ws(' ', state, progress, note) from pgtick.jobs where id = $1`, id))
	return notices
}

func TestSend_ThatFails_FailsNoJob_AndTroublesNoCaller(t *testing.T) {
	t.Parallel()
	failures := map[string]string{
		"it raises":                       `create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void language plpgsql as $$ begin raise 'no'; end $$`,
		"it makes a warning of its error": `drop table realtime.messages cascade; create table realtime.messages (topic text check (false))`,
		"it is gone":                      `drop function realtime.send(jsonb, text, text, boolean)`,
		"the schema is gone":              `drop schema realtime cascade`,
	}
	for failure, sql := range failures {
		t.Run(failure, func(t *testing.T) {
			t.Parallel()
			db := project(t)
			do(t, db.Pool, sql)
			require.Empty(t, life(t, db))
		})
	}
}

// Realtime locks its table when it makes or drops a partition. One wait a transaction, not one a message: 300 would take half a minute.
func TestSend_ThatWouldWaitForALock_IsGivenUp(t *testing.T) {
	t.Parallel()
	db := project(t)
	locker, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	do(t, locker, `lock table realtime.messages in access exclusive mode`)
	require.Empty(t, life(t, db))
	conn, err := pgx.ConnectConfig(t.Context(), db.Config(t))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	do(t, conn, `set statement_timeout = '20s'`)
	do(t, conn, `select pgtick.enqueue('echo', p_owner_id => gen_random_uuid()) from generate_series(1, 300)`)
	require.NoError(t, locker.Rollback(t.Context()))
	require.Empty(t, messages(t, db))
	enqueue(t, db.Pool, ann)
	require.Len(t, messages(t, db), 1)
}

func TestSetRealtime_Off_TellsNobody_AndOnAgain(t *testing.T) {
	t.Parallel()
	db := project(t)
	require.Equal(t, "on", one[string](t, db.Pool, `select pgtick.realtime_state()`))
	require.Equal(t, "off: by pgtick.set_realtime", one[string](t, db.Pool, `select pgtick.set_realtime(false)`))
	require.Empty(t, life(t, db))
	require.Empty(t, messages(t, db))
	server := as(t, db, "service_role", ann)
	require.Equal(t, "on", one[string](t, server, `select pgtick.set_realtime(true)`))
	require.NoError(t, server.Commit(t.Context()))
	life(t, db)
	require.Len(t, messages(t, db), 4)
	_, err := db.Pool.Exec(t.Context(), `select pgtick.set_realtime(null)`)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "TK000", refused.Code)
	require.Equal(t, 2, one[int](t, db.Pool, `select count(*) from pgtick.audit where action = 'set_realtime'`))
}

// The columns that a claim changes are in no index, so that it writes none; a trigger must not end that.
func TestClaims_WithRealtime_StayHeapOnlyUpdates(t *testing.T) {
	t.Parallel()
	db := project(t)
	for range 10 {
		enqueue(t, db.Pool, ann)
		enqueue(t, db.Pool, "")
	}
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	require.Equal(t, 20, one[int](t, tx, `select count(*) from pgtick.claim(pgtick.register('r', '{default}', '{echo}'), '{default}', '{echo}', 20)`))
	require.Equal(t, 20, one[int](t, tx, `select pg_stat_get_xact_tuples_hot_updated('pgtick.live_jobs'::regclass)`))
}
