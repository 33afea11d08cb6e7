package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// sleep announces that the runner sleeps for this long, and returns the number to settle on.
func (r runner) sleep(t *testing.T, q asker, poll time.Duration) string {
	t.Helper()
	return one[string](t, q, "select pgtick.sleep($1, make_interval(secs => $2))::text", r.id, poll.Seconds())
}

func settled(t *testing.T, db *pgtest.DB, number string) bool {
	t.Helper()
	return one[bool](t, db.Pool, "select pgtick.settled($1::text::xid8)", number)
}

// settle returns when the sleep has settled. Transactions of other databases count too, so it may take a moment.
func settle(t *testing.T, db *pgtest.DB, number string) {
	t.Helper()
	require.Eventually(t, func() bool { return settled(t, db, number) }, patience, time.Millisecond)
}

func TestWake_NobodySleeps_NobodyIsNotified(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ear := listen(t, db, "pgtick")
	pgtest.AddJob(t, db, "echo")
	r := register(t, db, "r", "echo")
	pgtest.AddJob(t, db, "echo")
	r.sleep(t, db.Pool, time.Minute)
	exec(t, db.Pool, "select pgtick.awake($1)", r.id)
	pgtest.AddJob(t, db, "echo")
	enqueue(t, db, "echo", 10)
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("error"))
	require.Empty(t, ear.heard(t))
}

func TestWake_WhatAJobIsDueFor_DecidesWhetherASleeperIsNotified(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	ear := listen(t, db, "pgtick")
	r := register(t, db, "r", "echo")
	settle(t, db, r.sleep(t, db.Pool, 5*time.Second))
	add := func(sql string) []string {
		exec(t, db.Pool, sql)
		return ear.heard(t)
	}
	require.Equal(t, []string{"default"}, add("select pgtick.enqueue('echo')"))
	require.Equal(t, []string{"default"}, add("select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '4 seconds')"))
	require.Empty(t, add("select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '5 seconds')"), "it looks by itself by then")
	require.Empty(t, add("select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '1 hour')"))
	require.Empty(t, add("select pgtick.enqueue('echo', p_queue => 'other')"), "nobody sleeps on that queue")
	require.Equal(t, []string{"default"}, add("select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[])"))
	require.Equal(t, []string{"default"}, add("select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[], p_limit_keys => '{a,b}')"))
	require.Zero(t, one[int](t, db.Pool, "select count(wanted_at) from pgtick.jobs"), "none of these is blocked")
	require.Empty(t, add("select pgtick.enqueue_many('echo', '{}')"))
	require.Empty(t, add("select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[], p_queue => 'other')"))
	pgtest.Advance(t, db, 6*time.Second)
	require.Empty(t, add("select pgtick.enqueue('echo')"), "its poll is over: it looks by itself")
}

// Everything that makes a job claimable wakes a sleeper.
func TestWake_IsCalledByAllThatMakesAJobClaimable(t *testing.T) {
	t.Parallel()
	soon := time.Unix(0, 0)
	for name, make := range map[string]func(t *testing.T, db *pgtest.DB, r runner) func(){
		"an error that is tried again": func(t *testing.T, db *pgtest.DB, r runner) func() {
			c := r.claimOne(t, db.Pool)
			return func() { r.finish(t, db.Pool, c.is("error").again(soon)) }
		},
		"a snooze": func(t *testing.T, db *pgtest.DB, r runner) func() {
			c := r.claimOne(t, db.Pool)
			return func() { r.finish(t, db.Pool, c.is("snoozed").again(soon)) }
		},
		"a release": func(t *testing.T, db *pgtest.DB, r runner) func() {
			c := r.claimOne(t, db.Pool)
			return func() { r.finish(t, db.Pool, c.is("released")) }
		},
		"a reconcile": func(t *testing.T, db *pgtest.DB, r runner) func() {
			r.claimOne(t, db.Pool)
			return func() { exec(t, db.Pool, "select pgtick.reconcile($1, '{}', '{}')", r.id) }
		},
		"a leave": func(t *testing.T, db *pgtest.DB, r runner) func() {
			r.claimOne(t, db.Pool)
			return func() { exec(t, db.Pool, "select pgtick.leave($1)", r.id) }
		},
		"a retry": func(t *testing.T, db *pgtest.DB, r runner) func() {
			c := r.claimOne(t, db.Pool)
			r.finish(t, db.Pool, c.is("failed"))
			return func() { retry(t, db.Pool, c.ID) }
		},
		"a retry of a waiting job": func(t *testing.T, db *pgtest.DB, _ runner) func() {
			id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '1 hour')")
			return func() { retry(t, db.Pool, id) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			ear := listen(t, db, "pgtick")
			pgtest.AddJob(t, db, "echo")
			wake := make(t, db, register(t, db, "r", "echo"))
			register(t, db, "sleeper", "echo").sleep(t, db.Pool, time.Minute)
			require.Empty(t, ear.heard(t))
			wake()
			require.Equal(t, []string{"default"}, ear.heard(t))
		})
	}
}

func TestWake_ARescue_WakesASleeper(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	held(t, db)
	pgtest.Advance(t, db, lease+time.Second)
	rescue(t, db)
	pgtest.Advance(t, db, lease)
	ear := listen(t, db, "pgtick")
	register(t, db, "sleeper", "echo").sleep(t, db.Pool, time.Minute)
	require.Equal(t, 1, rescue(t, db))
	require.Equal(t, []string{"default"}, ear.heard(t))
}

func TestWake_OutsideReadCommitted_AlwaysNotifies(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ear := listen(t, db, "pgtick")
	for _, level := range []string{"repeatable read", "serializable"} {
		conn := session(t, db)
		exec(t, conn, "begin isolation level "+level)
		exec(t, conn, "select pgtick.enqueue('echo', p_queue => $1)", level)
		exec(t, conn, "commit")
		require.Equal(t, []string{level}, ear.heard(t))
	}
}

// The runner has not yet said so to all, but it may be past its last look.
func TestWake_WhileSomebodyIsJustFallingAsleep_Notifies(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ear := listen(t, db, "pgtick")
	r := register(t, db, "r", "echo")
	falling := session(t, db)
	exec(t, falling, "begin")
	r.sleep(t, falling, time.Minute)
	pgtest.AddJob(t, db, "echo")
	require.Equal(t, []string{"default"}, ear.heard(t))
	exec(t, falling, "commit")
}

func TestSettled_IsFalseWhileAnOlderWritingTransactionIsOpen(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "create table anything (n int)")
	r := register(t, db, "r", "echo")
	older := session(t, db)
	exec(t, older, "begin")
	exec(t, older, "insert into anything values (1)")
	number := r.sleep(t, db.Pool, time.Minute)
	require.False(t, settled(t, db, number))
	younger := session(t, db)
	exec(t, younger, "begin")
	exec(t, younger, "insert into anything values (2)")
	exec(t, older, "rollback")
	settle(t, db, number)
	exec(t, younger, "rollback")
}

func TestSettled_IsFalseBeforeTheSleepIsCommitted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	falling := session(t, db)
	exec(t, falling, "begin")
	number := r.sleep(t, falling, time.Minute)
	require.False(t, settled(t, db, number))
	exec(t, falling, "commit")
	settle(t, db, number)
}

// The race that would cost a poll: an enqueue sees nobody asleep, the runner looks once more and sees no job, and both commit.
func TestSettled_ClosesTheRaceOfTheLostWakeUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ear := listen(t, db, "pgtick")
	r := register(t, db, "r", "echo")
	enqueuer := session(t, db)
	exec(t, enqueuer, "begin")
	id := one[int64](t, enqueuer, "select pgtick.enqueue('echo')")
	number := r.sleep(t, db.Pool, time.Minute)
	require.Empty(t, r.claim(t, db.Pool, 1))
	require.False(t, settled(t, db, number))
	exec(t, enqueuer, "commit")
	require.Empty(t, ear.heard(t), "so it is up to the runner")
	settle(t, db, number)
	require.Equal(t, id, r.claimOne(t, db.Pool).ID)
}

// The same with the insert first and the look at the sleepers last, as a transaction that enqueues many does.
func TestSettled_WhateverIsEnqueuedLater_Notifies(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ear := listen(t, db, "pgtick")
	r := register(t, db, "r", "echo")
	enqueuer := session(t, db)
	exec(t, enqueuer, "begin")
	exec(t, enqueuer, "select pgtick.enqueue('echo')")
	number := r.sleep(t, db.Pool, time.Minute)
	require.False(t, settled(t, db, number))
	exec(t, enqueuer, "select pgtick.enqueue('echo')")
	exec(t, enqueuer, "commit")
	require.Equal(t, []string{"default"}, ear.heard(t))
}

func TestSleep_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	for _, poll := range []any{"-1 s", "1 hour 1 s", nil} {
		require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick.sleep($1, $2)", r.id, poll).Message, "poll ")
	}
	for _, id := range []any{4711, nil} {
		refused(t, db.Pool, "TK002", "select pgtick.sleep($1, '1 s')", id)
	}
	exec(t, db.Pool, "select pgtick.awake(4711)")
}

func TestNextRunAt_IsThatOfTheRunnersOwnNextJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	r := register(t, db, "r", "echo", "mail")
	next := func() *time.Time {
		return one[*time.Time](t, db.Pool, "select pgtick.next_run_at($1) at time zone 'UTC'", r.id)
	}
	add := func(task, queue, in string, priority int) int64 {
		return one[int64](t, db.Pool, "select pgtick.enqueue($1, p_queue => $2, p_run_at => pgtick.now() + $3::interval, p_priority => $4)", task, queue, in, priority)
	}
	require.Nil(t, next())
	add("other", "default", "1 s", 5)
	add("echo", "elsewhere", "1 s", 5)
	exec(t, db.Pool, "update pgtick.live_jobs set run_at = 'infinity' where id = $1", add("echo", "default", "1 s", 5))
	require.Nil(t, next(), "another's task, another's queue, a blocked job")
	add("mail", "default", "1 hour", 0)
	require.Equal(t, now.Add(time.Hour), *next())
	add("echo", "default", "1 minute", 9)
	require.Equal(t, now.Add(time.Minute), *next())
	add("echo", "default", "0", 9)
	require.Equal(t, now, *next())
	r.claimOne(t, db.Pool)
	require.Equal(t, now.Add(time.Minute), *next(), "what runs does not wait")
	require.Nil(t, one[*time.Time](t, db.Pool, "select pgtick.next_run_at(4711)"))
}

// A suspect that waits, as after a failed attempt, has its time like all others. Whoever cannot have it need not look.
func TestNextRunAt_OfASuspect_CountsForWhoMayTakeIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 2)
	now := freeze(t, db)
	exec(t, db.Pool, "update pgtick.live_jobs set run_at = pgtick.now() + interval '7 seconds'")
	a := register(t, db, "a", "echo")
	next := func(r runner) *time.Time {
		return one[*time.Time](t, db.Pool, "select pgtick.next_run_at($1) at time zone 'UTC'", r.id)
	}
	require.Equal(t, now.Add(7*time.Second), *next(a))
	require.Nil(t, next(register(t, db, "other", "mail")), "another's task")
	exec(t, db.Pool, "select pgtick.pause_queue('default')")
	require.Nil(t, next(a), "its queue is paused")
	exec(t, db.Pool, "select pgtick.resume_queue('default')")
	pgtest.Advance(t, db, 7*time.Second)
	require.Equal(t, now.Add(7*time.Second), *next(a), "it became due just now")

	c := a.claimOne(t, db.Pool)
	require.Equal(t, bad[0], c.ID)
	require.Nil(t, next(a), "it holds one, and may take no other")
	require.Equal(t, now.Add(7*time.Second), *next(register(t, db, "b", "echo")))
	require.Equal(t, []string{"accepted"}, a.finish(t, db.Pool, c.is("error").again(now.Add(time.Minute))))
	require.Equal(t, now.Add(7*time.Second), *next(a))
	pgtest.Advance(t, db, time.Second)
	require.Equal(t, now.Add(time.Minute), *next(a), "what nobody has taken for a second is left to the poll")
	require.Equal(t, bad[1], a.claimOne(t, db.Pool).ID, "which finds it")
}
