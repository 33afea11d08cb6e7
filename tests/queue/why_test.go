package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

type answer struct {
	Rank                     int
	Reason, Evidence, Remedy string
}

func why(t *testing.T, q asker, id int64) (answers []answer) {
	t.Helper()
	rows := all[string](t, q, "select concat_ws(chr(31), rank, reason, evidence, remedy) from pgtick.why($1) order by rank", id)
	for i, row := range rows {
		parts := strings.Split(row, "\x1f")
		require.Len(t, parts, 4, "each answer has evidence and a remedy: %s", row)
		require.Equal(t, fmt.Sprint(i+1), parts[0])
		answers = append(answers, answer{i + 1, parts[1], parts[2], parts[3]})
	}
	return answers
}

// whyOnly is the one reason there must be.
func whyOnly(t *testing.T, q asker, id int64) answer {
	t.Helper()
	answers := why(t, q, id)
	require.Len(t, answers, 1, "%v", answers)
	return answers[0]
}

func reasons(answers []answer) (reasons []string) {
	for _, a := range answers {
		reasons = append(reasons, a.Reason)
	}
	return reasons
}

func utc(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }

func TestWhy_ItsQueueIsPaused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	id := pgtest.AddJob(t, db, "echo")
	register(t, db, "r", "echo")
	exec(t, db.Pool, "select pgtick.pause_queue('default', 'the bank is down')")
	a := whyOnly(t, db.Pool, id)
	require.Equal(t, "its queue is paused", a.Reason)
	require.Equal(t, "queue default, by postgres since "+utc(noon)+": the bank is down", a.Evidence)
	exec(t, db.Pool, a.Remedy)
	require.Equal(t, "it is about to be claimed", whyOnly(t, db.Pool, id).Reason, "the remedy is the statement that helps")
}

func TestWhy_AnEarlierJobOfItsSchedule(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	noon := freeze(t, db)
	exec(t, db.Pool, "select pgtick.schedule('s', '* * * * *', 'echo', p_on_overlap => 'wait')")
	for range 3 {
		pgtest.Advance(t, db, time.Minute)
		exec(t, db.Pool, "select pgtick.tick()")
	}
	ids := all[int64](t, db.Pool, "select id from pgtick.jobs order by slot")
	require.Len(t, ids, 3)
	r := register(t, db, "r", "echo")
	a := whyOnly(t, db.Pool, ids[1])
	require.Equal(t, "it waits for an earlier job of its schedule", a.Reason)
	require.Equal(t, fmt.Sprintf("job %d of slot %s, which waits itself", ids[0], utc(noon.Add(time.Minute))), a.Evidence)
	r.claimOne(t, db.Pool)
	require.Contains(t, whyOnly(t, db.Pool, ids[1]).Evidence, "which runs since "+utc(noon.Add(3*time.Minute)))
	require.Contains(t, whyOnly(t, db.Pool, ids[2]).Evidence, fmt.Sprintf("job %d of slot", ids[1]), "the one just before it")
	require.Contains(t, a.Remedy, fmt.Sprintf("pgtick.cancel(%d)", ids[0]))
}

func TestWhy_ItIsNotDue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '90 minutes')")
	r := register(t, db, "r", "echo")
	a := whyOnly(t, db.Pool, id)
	require.Equal(t, "it is not due", a.Reason)
	require.Equal(t, "until "+utc(noon.Add(90*time.Minute))+", for another 90 minutes", a.Evidence)
	exec(t, db.Pool, strings.SplitAfter(a.Remedy, ";")[0])
	c := r.claimOne(t, db.Pool)
	r.finish(t, db.Pool, c.is("snoozed").again(noon.Add(time.Hour)))
	require.Equal(t, "its task has put it off", whyOnly(t, db.Pool, id).Reason)
}

// What will matter once it is due is not why it does not run now.
func TestWhy_ItIsNotDue_WhileItsLimitIsFull_TwoRunnersHaveDiedWithIt_AndItsRowIsLocked_SaysOnlyThat(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.set_limit('echo', p_max_running => 1)")
	held(t, db)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '90 minutes')")
	exec(t, db.Pool, "update pgtick.live_jobs set losses = 2, attempt = 2, uncounted = 2 where id = $1", id)
	lockJob(t, db, id)
	require.Equal(t, "it is not due", whyOnly(t, db.Pool, id).Reason)
}

func TestWhy_ItsRetryBackOff_WithTheError(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	r, c := held(t, db)
	r.finish(t, db.Pool, c.is("error").because("no route to host").again(noon.Add(time.Hour)))
	a := whyOnly(t, db.Pool, c.ID)
	require.Contains(t, a.Reason, "retry back-off")
	require.Equal(t, "until "+utc(noon.Add(time.Hour))+", for another 1 hour; attempt 1 of 20 failed: no route to host", a.Evidence)
	require.Contains(t, a.Remedy, fmt.Sprintf("pgtick.retry(%d)", c.ID))
}

func TestWhy_ALockedRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := unique(t, db.Pool, "k")
	register(t, db, "r", "echo")
	a := session(t, db)
	exec(t, a, "begin")
	require.Equal(t, id, unique(t, a, "k"))
	require.Contains(t, reasons(why(t, db.Pool, id)), "a transaction has its row locked")
	exec(t, a, "commit")
	require.Equal(t, "it is about to be claimed", whyOnly(t, db.Pool, id).Reason)
}

// Who asks in a transaction that stays open must not be the reason.
func TestWhy_TheQuestion_LocksNothing_AndMayBeAskedWhereNothingMayBeLocked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.AddJob(t, db, "echo")
	r := register(t, db, "r", "echo")
	asking := session(t, db)
	exec(t, asking, "begin")
	require.Equal(t, "it is about to be claimed", whyOnly(t, asking, id).Reason)
	require.Equal(t, id, r.claimOne(t, db.Pool).ID)
	exec(t, asking, "rollback")
	waiting := pgtest.AddJob(t, db, "echo")
	exec(t, asking, "begin read only")
	require.Equal(t, "it is about to be claimed", whyOnly(t, asking, waiting).Reason)
}

func TestWhy_TwoRunnersHaveDiedWithIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 1)[0]
	register(t, db, "r", "echo")
	a := whyOnly(t, db.Pool, bad)
	require.Equal(t, "two runners have died with it", a.Reason)
	require.Equal(t, "lost 2 times, 0 of them while it was their only suspect", a.Evidence)
}

func TestWhy_NoLiveRunnerForItsTask_WithTheNearestName(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.AddJob(t, db, "send_email")
	a := whyOnly(t, db.Pool, id)
	require.Equal(t, []string{"no live runner serves its task", "task send_email; no runner is alive"}, []string{a.Reason, a.Evidence})
	require.Contains(t, a.Remedy, "pgtick work")
	exec(t, db.Pool, "select pgtick.register('r', '{default}', '{xyz}')")
	require.Equal(t, "task send_email; none that one serves is like it", whyOnly(t, db.Pool, id).Evidence)
	exec(t, db.Pool, "select pgtick.register('r', '{other}', '{echo,send_mail,mail}')")
	a = whyOnly(t, db.Pool, id)
	require.Equal(t, "task send_email; the nearest that one does serve is send_mail", a.Evidence)
	require.Contains(t, a.Remedy, "if it was meant to be send_mail")
	kill(t, db)
	require.Equal(t, "task send_email; no runner is alive", whyOnly(t, db.Pool, id).Evidence, "dead ones serve nothing")
}

func TestWhy_NoLiveRunnerForItsQueue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_queue => 'slow')")
	register(t, db, "r", "echo")
	exec(t, db.Pool, "select pgtick.register('s', '{slow}', '{mail}')")
	a := whyOnly(t, db.Pool, id)
	require.Equal(t, "no live runner serves its queue", a.Reason)
	require.Equal(t, "queue slow; the runners that have its task serve default", a.Evidence)
	require.Contains(t, a.Remedy, "--queues slow")
}

func TestWhy_AllWorkersAreBusy_WithWhatTheyDo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	r := runner{one[int64](t, db.Pool, "select pgtick.register('r', '{default}', '{echo,mail}', p_workers => 3)"), []string{"echo", "mail"}}
	enqueue(t, db, "mail", 2)
	enqueue(t, db, "echo", 1)
	require.Len(t, r.claim(t, db.Pool, 3), 3)
	id := pgtest.AddJob(t, db, "echo")
	a := whyOnly(t, db.Pool, id)
	require.Equal(t, "all workers of its runners are busy", a.Reason)
	since := utc(noon)
	require.Equal(t, "1 runners with 3 workers hold 3: 2 mail (since "+since+"), 1 echo (since "+since+")", a.Evidence)
	more := one[int64](t, db.Pool, "select pgtick.register('more', '{default}', '{echo}')")
	require.Equal(t, "it is about to be claimed", whyOnly(t, db.Pool, id).Reason, "of that one nobody knows how many workers it has")
	exec(t, db.Pool, "select pgtick.leave($1)", more)
	require.Equal(t, "all workers of its runners are busy", whyOnly(t, db.Pool, id).Reason)
	exec(t, db.Pool, "select pgtick.register('more', '{default}', '{echo}', p_workers => 1)")
	require.Equal(t, "it is about to be claimed", whyOnly(t, db.Pool, id).Reason, "one worker is free")
}

func TestWhy_OthersComeFirst(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_priority => 9), pgtick.enqueue('mail'), pgtick.enqueue('echo', p_queue => 'other')")
	enqueue(t, db, "echo", 4)
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_priority => 0)")
	id := pgtest.AddJob(t, db, "echo")
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_priority => 0, p_run_at => pgtick.now() + interval '1 hour')")
	enqueue(t, db, "echo", 3)
	register(t, db, "r", "echo")
	a := whyOnly(t, db.Pool, id)
	require.Equal(t, []string{"others come first", "5 jobs of its task and queue are due before it"}, []string{a.Reason, a.Evidence})
}

func TestWhy_ItsRunnerPollsOnly(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.AddJob(t, db, "echo")
	deaf := register(t, db, "deaf", "echo")
	exec(t, db.Pool, "select pgtick.say_wakes($1, false)", deaf.id)
	a := whyOnly(t, db.Pool, id)
	require.Equal(t, "its runner polls only", a.Reason)
	require.Equal(t, fmt.Sprintf("runner deaf (%d): no NOTIFY reaches it, so it looks at its next poll", deaf.id), a.Evidence)
	require.Contains(t, a.Remedy, "LISTEN_DATABASE_URL")
	exec(t, db.Pool, "select pgtick.say_wakes($1, true)", register(t, db, "good", "echo").id)
	require.Equal(t, "it is about to be claimed", whyOnly(t, db.Pool, id).Reason, "another hears for it")
}

func TestWhy_AnOldTransaction_WithWhoHasIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "create table anything (n int)")
	old := session(t, db)
	exec(t, old, "set application_name = 'nightly report'")
	exec(t, old, "begin")
	exec(t, old, "insert into anything values (1)")
	pid := old.PgConn().PID()
	const found = "select concat_ws('; ', who, what) from pgtick.old_transactions($1) where pid = $2"
	require.Regexp(t, "^postgres nightly report; idle in its transaction since ", one[string](t, db.Pool, found, "0 seconds", pid))
	require.Empty(t, all[string](t, db.Pool, found, "1 hour", pid))

	id := pgtest.AddJob(t, db, "echo")
	register(t, db, "r", "echo")
	// As if it had been open for longer than the five minutes that count.
	exec(t, db.Pool, "alter function pgtick.old_transactions(interval) rename to real_old_transactions")
	exec(t, db.Pool, `create function pgtick.old_transactions(p_older_than interval) returns table (pid integer, since timestamptz, who text, what text)
		language sql as $$ select o.pid, o.since, o.who, o.what from pgtick.real_old_transactions('0') as o where o.pid = `+fmt.Sprint(pid)+` and p_older_than between '1 minute' and '1 hour' $$`)
	a := whyOnly(t, db.Pool, id)
	require.Equal(t, "an old transaction holds back cleaning", a.Reason)
	require.Regexp(t, fmt.Sprintf("^pid %d, open since .* by postgres nightly report: idle in its transaction", pid), a.Evidence)
	require.Contains(t, a.Remedy, fmt.Sprintf("pg_terminate_backend(%d)", pid))
	exec(t, old, "rollback")
	require.Equal(t, "it is about to be claimed", whyOnly(t, db.Pool, id).Reason)
}

func TestWhy_ItIsRunning_AndHowThatGoes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_timeout => '10 seconds')")
	r := register(t, db, "worker", "echo")
	c := r.claimOne(t, db.Pool)
	exec(t, db.Pool, "select pgtick.progress($1, $2, 0.25, 'page 7')", c.ID, c.Fence)
	a := whyOnly(t, db.Pool, c.ID)
	require.Equal(t, "it is running", a.Reason)
	require.Equal(t, fmt.Sprintf("attempt 1 on runner worker (%d) since %s, for at most 10 seconds; 25 %% done: page 7", r.id, utc(noon)), a.Evidence)
	require.Contains(t, a.Remedy, fmt.Sprintf("pgtick.cancel(%d)", c.ID))

	pgtest.Advance(t, db, 10*time.Second)
	require.Equal(t, "it is running beyond its timeout", whyOnly(t, db.Pool, c.ID).Reason)
	cancel(t, db.Pool, c.ID)
	a = whyOnly(t, db.Pool, c.ID)
	require.Equal(t, "it is being cancelled", a.Reason)
	require.Contains(t, a.Remedy, "Requested by postgres at "+utc(noon.Add(10*time.Second)))

	pgtest.Advance(t, db, lease)
	a = whyOnly(t, db.Pool, c.ID)
	require.Equal(t, "its runner does not answer", a.Reason)
	require.Contains(t, a.Remedy, "rescue()")
	unlock := lockJob(t, db, c.ID)
	pgtest.Expire(t, db)
	require.Equal(t, "its runner is dead, and it will be freed", whyOnly(t, db.Pool, c.ID).Reason)
	unlock()
}

func TestWhy_ItHasEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	r, c := held(t, db)
	r.finish(t, db.Pool, c.is("failed").because("no such user"))
	a := whyOnly(t, db.Pool, c.ID)
	require.Equal(t, []string{"it has ended", "failed at " + utc(noon) + ": no such user"}, []string{a.Reason, a.Evidence})
	exec(t, db.Pool, a.Remedy)
	c = r.claimOne(t, db.Pool)
	r.finish(t, db.Pool, c.is("done"))
	a = whyOnly(t, db.Pool, c.ID)
	require.Equal(t, []string{"it has ended", "done at " + utc(noon)}, []string{a.Reason, a.Evidence})
	require.NotContains(t, a.Remedy, "retry")
}

func TestWhy_SeveralReasons_TheWeightiestFirst(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, "select pgtick.pause_queue('default')")
	later := one[int64](t, db.Pool, "select pgtick.enqueue('mail', p_run_at => pgtick.now() + interval '1 hour')")
	require.Equal(t, []string{"its queue is paused", "it is not due", "no live runner serves its task"}, reasons(why(t, db.Pool, later)))

	due := enqueue(t, db, "echo", 3)
	require.Equal(t, []string{"its queue is paused"}, reasons(why(t, db.Pool, due[2])), "what runners do matters after that")
	exec(t, db.Pool, "select pgtick.resume_queue('default')")
	r := runner{one[int64](t, db.Pool, "select pgtick.register('r', '{default}', '{echo}', p_workers => 1)"), []string{"echo"}}
	exec(t, db.Pool, "select pgtick.say_wakes($1, false)", r.id)
	r.claimOne(t, db.Pool)
	unlock := lockJob(t, db, due[2])
	require.Equal(t, []string{"a transaction has its row locked", "all workers of its runners are busy", "others come first", "its runner polls only"}, reasons(why(t, db.Pool, due[2])))
	unlock()
}

func TestWhy_OfNoJob_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, id := range []any{4711, -1, nil} {
		refused(t, db.Pool, "TK004", "select * from pgtick.why($1)", id)
	}
}
