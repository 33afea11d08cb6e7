package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestPause_NothingOfTheQueueIsClaimed_AndAllElseGoesOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	waiting := enqueue(t, db, "echo", 2)
	exec(t, db.Pool, "select pgtick.pause_queue('default')")
	require.Empty(t, r.claim(t, db.Pool, 10))
	elsewhere := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_queue => 'other')")
	require.Equal(t, []int64{elsewhere}, all[int64](t, db.Pool, "select id from pgtick.claim($1, '{default,other}', '{echo}', 10)", r.id), "another queue's are")
	require.Empty(t, r.heartbeat(t, db.Pool, c), "what runs goes on")
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("done")))
	later := pgtest.AddJob(t, db, "echo")
	require.Equal(t, "ready 0", stateOf(t, db, later), "what comes is taken in")
	require.Equal(t, "cancelled", cancel(t, db.Pool, later))
	exec(t, db.Pool, "select pgtick.resume_queue('default')")
	require.Equal(t, waiting, idsOf(r.claim(t, db.Pool, 10)))
}

func TestPause_AlsoOfSuspects(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad := suspects(t, db, 1)
	exec(t, db.Pool, "select pgtick.pause_queue('default')")
	r := register(t, db, "r", "echo")
	require.Empty(t, r.claim(t, db.Pool, 10))
	exec(t, db.Pool, "select pgtick.resume_queue('default')")
	require.Equal(t, bad, idsOf(r.claim(t, db.Pool, 10)))
}

func TestPause_ShowsSinceWhenByWhomAndWhy_AndTheFirstOneStays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	enqueue(t, db, "echo", 3)
	show := func(queue string) string {
		return one[string](t, db.Pool, "select concat_ws(' ', depth, paused_at - $2, paused_by, reason) from pgtick.queues where queue = $1", queue, noon)
	}
	require.Equal(t, "3", show("default"))
	request := session(t, db)
	exec(t, request, `select set_config('request.jwt.claims', '{"sub": "7f2c1c2e-5c6c-4b1e-9d9e-111111111111"}', false)`)
	exec(t, request, "select pgtick.pause_queue('default', 'the bank is down')")
	pgtest.Advance(t, db, time.Minute)
	exec(t, db.Pool, "select pgtick.pause_queue('default', 'me too')")
	require.Equal(t, "3 00:00:00 7f2c1c2e-5c6c-4b1e-9d9e-111111111111 the bank is down", show("default"))
	exec(t, db.Pool, "select pgtick.pause_queue('empty')")
	require.Equal(t, "0 00:01:00 postgres", show("empty"), "a queue without jobs, too")
	for range 2 {
		exec(t, db.Pool, "select pgtick.resume_queue('default')")
	}
	require.Equal(t, "3", show("default"))
	require.Equal(t, []string{
		`pause_queue default 7f2c1c2e-5c6c-4b1e-9d9e-111111111111 {"reason": "the bank is down"}`,
		`pause_queue empty postgres {"reason": null}`,
		`resume_queue default postgres`,
	}, all[string](t, db.Pool, "select concat_ws(' ', action, subject, by_whom, details) from pgtick.audit order by id"), "what changed something, once")
}

func TestPause_LastsUntilSomebodyResumes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.AddJob(t, db, "echo")
	exec(t, db.Pool, "select pgtick.pause_queue('default')")
	kill(t, db)
	pgtest.Advance(t, db, 400*24*time.Hour)
	exec(t, db.Pool, "select pgtick.maintain()")
	require.Empty(t, register(t, db, "r", "echo").claim(t, db.Pool, 10))
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.queues where queue = 'default' and paused_at is not null"))
}

func TestPause_NextRunAt_LeavesItOut(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	r := runner{one[int64](t, db.Pool, "select pgtick.register('r', '{default,slow}', '{echo}')"), []string{"echo"}}
	next := func() *time.Time {
		return one[*time.Time](t, db.Pool, "select pgtick.next_run_at($1) at time zone 'UTC'", r.id)
	}
	pgtest.AddJob(t, db, "echo")
	exec(t, db.Pool, "select pgtick.pause_queue('default')")
	require.Nil(t, next(), "a runner must not spin on what it may not have")
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_queue => 'slow', p_run_at => pgtick.now() + interval '1 hour')")
	require.Equal(t, now.Add(time.Hour), *next())
	exec(t, db.Pool, "select pgtick.resume_queue('default')")
	require.Equal(t, now, *next())
}

func TestResume_WakesASleeper_WhereSomethingWasPaused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	exec(t, db.Pool, "select pgtick.pause_queue('default')")
	pgtest.AddJob(t, db, "echo")
	settle(t, db, r.sleep(t, db.Pool, time.Minute))
	ear := listen(t, db, "pgtick")
	exec(t, db.Pool, "select pgtick.resume_queue('other')")
	require.Empty(t, ear.heard(t))
	exec(t, db.Pool, "select pgtick.resume_queue('default')")
	require.Equal(t, []string{"default"}, ear.heard(t))
	r.claimOne(t, db.Pool)
	exec(t, db.Pool, "select pgtick.resume_queue('default')")
	require.Empty(t, ear.heard(t), "nothing was paused any more")
}

func TestPauseAndResume_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, function := range []string{"pause_queue", "resume_queue"} {
		for _, queue := range []string{"null", "''", tooLong, `e'a\nb'`} {
			pg := refused(t, db.Pool, "TK000", "select pgtick."+function+"("+queue+")")
			require.True(t, strings.HasPrefix(pg.Message, "queue "), pg.Message)
		}
	}
	require.Zero(t, one[int](t, db.Pool, "select (select count(*) from pgtick.paused_queues) + (select count(*) from pgtick.audit)"))
	exec(t, db.Pool, "select pgtick.pause_queue('default', repeat('世', 5000))")
	require.Equal(t, 1000, one[int](t, db.Pool, "select length(reason) from pgtick.queues where queue = 'default'"))
}
