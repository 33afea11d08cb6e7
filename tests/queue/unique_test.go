package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// unique enqueues a job of the task echo with a key, and with what more is said of it, such as "p_unique_states => '{ready}'".
func unique(t *testing.T, q asker, key string, more ...string) int64 {
	t.Helper()
	return one[int64](t, q, "select pgtick.enqueue("+strings.Join(append([]string{"'echo'", "p_unique_key => $1"}, more...), ", ")+")", key)
}

const (
	whileReady   = "p_unique_states => '{ready}'"
	alsoWhenDone = "p_unique_states => '{ready,running,done}'"
)

func TestUnique_WhileTheJobIsLive_NoOtherIsAdded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := unique(t, db.Pool, "k")
	require.Equal(t, id, unique(t, db.Pool, "k"), "it waits")
	r := register(t, db, "r", "echo")
	c := r.claimOne(t, db.Pool)
	require.Equal(t, id, unique(t, db.Pool, "k"), "it runs")
	r.finish(t, db.Pool, c.is("error"))
	require.Equal(t, id, unique(t, db.Pool, "k"), "it is to be tried again")
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
	require.Equal(t, "k", one[string](t, db.Pool, "select unique_key from pgtick.jobs where id = $1", id))

	require.NotEqual(t, id, unique(t, db.Pool, "K"), "another key")
	mail := one[int64](t, db.Pool, "select pgtick.enqueue('mail', p_unique_key => 'k')")
	require.NotEqual(t, id, mail, "another task")
	require.Equal(t, mail, one[int64](t, db.Pool, "select pgtick.enqueue('mail', p_unique_key => 'k')"))
	require.NotEqual(t, id, one[int64](t, db.Pool, "select pgtick.enqueue('echo')"), "no key")
	require.Equal(t, id, unique(t, db.Pool, "k", "p_queue => 'other'", "p_priority => 1"), "the queue makes no difference")
	require.Equal(t, 4, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

func TestUnique_OnceTheJobHasEnded_AddsANewOne(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	for how, end := range map[string]func(c claim){
		"done":                    func(c claim) { r.finish(t, db.Pool, c.is("done")) },
		"failed":                  func(c claim) { r.finish(t, db.Pool, c.is("failed")) },
		"cancelled by its task":   func(c claim) { r.finish(t, db.Pool, c.is("cancelled")) },
		"finished in transaction": func(c claim) { exec(t, db.Pool, "select pgtick.finish_in_transaction($1, $2)", c.ID, c.Fence) },
		"cancelled by hand": func(c claim) {
			r.finish(t, db.Pool, c.is("released"))
			cancel(t, db.Pool, c.ID)
		},
	} {
		id := unique(t, db.Pool, "k")
		c := r.claimOne(t, db.Pool)
		require.Equal(t, id, c.ID)
		end(c)
		next := unique(t, db.Pool, "k")
		require.NotEqual(t, id, next, how)
		require.Equal(t, "ready 0", stateOf(t, db, next), how)
		cancel(t, db.Pool, next)
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.unique_keys"), "and no key is left behind")
}

func TestUnique_OnlyWhileReady_ARunningOneIsNoConflict(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	first := unique(t, db.Pool, "k", whileReady)
	require.Equal(t, first, unique(t, db.Pool, "k", whileReady))
	c := r.claimOne(t, db.Pool)
	mail := one[int64](t, db.Pool, "select pgtick.enqueue('mail', p_unique_key => 'k')")
	other := unique(t, db.Pool, "other")
	second := unique(t, db.Pool, "k", whileReady)
	require.NotEqual(t, first, second)
	require.Equal(t, []int64{mail, other}, []int64{one[int64](t, db.Pool, "select pgtick.enqueue('mail', p_unique_key => 'k')"), unique(t, db.Pool, "other")}, "no other key is taken")
	require.Equal(t, second, unique(t, db.Pool, "k", whileReady))
	r.finish(t, db.Pool, c.is("done"))
	require.Equal(t, second, unique(t, db.Pool, "k", whileReady), "the end of the first does not free the key of the second")
}

func TestUnique_AlsoWhenDone_ConflictsUntilItsHistoryExpires(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	r := register(t, db, "r", "echo")
	id := unique(t, db.Pool, "k", alsoWhenDone)
	c := r.claimOne(t, db.Pool)
	other := unique(t, db.Pool, "other", alsoWhenDone)
	r.finish(t, db.Pool, c.is("done"))
	require.Equal(t, id, unique(t, db.Pool, "k", alsoWhenDone))
	expires := noon.Add(12*time.Hour + 6*24*time.Hour) // the midnight that begins the seventh day from then
	pgtest.SetNow(t, db, expires.Add(-time.Microsecond))
	exec(t, db.Pool, "select pgtick.maintain()")
	require.Equal(t, id, unique(t, db.Pool, "k", alsoWhenDone))
	require.Equal(t, "done 1", stateOf(t, db, id))
	pgtest.SetNow(t, db, expires)
	require.NotEqual(t, id, unique(t, db.Pool, "k", alsoWhenDone))
	require.Equal(t, other, unique(t, db.Pool, "other", alsoWhenDone), "this one waits still")
}

func TestUnique_InTheStatesNamed_NotInOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	id := unique(t, db.Pool, "k", alsoWhenDone)
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))
	next := unique(t, db.Pool, "k", "p_unique_states => '{ready,failed,cancelled}'")
	require.NotEqual(t, id, next, "done was named, not failed")
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))
	require.Equal(t, next, unique(t, db.Pool, "k"), "what the holder said counts, not what the next one says")
}

// A batch of reports has some with keys and some without, which are kept in different states and for different times.
func TestUnique_OfABatch_EachKeyHoldsAsItsOwnJobSaid(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	plain := enqueue(t, db, "echo", 1)
	whenDone := unique(t, db.Pool, "when done", alsoWhenDone)
	enqueue(t, db, "echo", 1)
	live := unique(t, db.Pool, "live")
	whenFailed := unique(t, db.Pool, "when failed", "p_unique_states => '{ready,failed}'")
	also := unique(t, db.Pool, "also when done", alsoWhenDone)
	r := register(t, db, "r", "echo")
	var reports []report
	for _, c := range r.claim(t, db.Pool, 6) {
		outcome := "done"
		if c.ID == plain[0] || c.ID == whenFailed {
			outcome = "failed"
		}
		reports = append(reports, c.is(outcome))
	}
	require.Len(t, reports, 6)
	r.finish(t, db.Pool, reports...)
	require.Equal(t, []int64{whenDone, whenFailed, also}, all[int64](t, db.Pool, `
		select k.job_id from pgtick.unique_keys as k join pgtick.history as h on h.id = k.job_id
		where k.until = h.expires_on::timestamp at time zone 'UTC' order by k.job_id`), "as long as the history that shows why")
	require.Equal(t, whenDone, unique(t, db.Pool, "when done", alsoWhenDone))
	require.Equal(t, whenFailed, unique(t, db.Pool, "when failed", alsoWhenDone))
	require.Equal(t, also, unique(t, db.Pool, "also when done", alsoWhenDone))
	require.NotEqual(t, live, unique(t, db.Pool, "live"))
}

func TestUnique_ForATime_ConflictsEndWithIt_EvenWhileTheJobIsLive(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	id := unique(t, db.Pool, "k", "p_unique_for => '1 hour'")
	pgtest.Advance(t, db, time.Hour-time.Microsecond)
	require.Equal(t, id, unique(t, db.Pool, "k", "p_unique_for => '1 hour'"))
	pgtest.Advance(t, db, time.Microsecond)
	next := unique(t, db.Pool, "k", "p_unique_for => '1 hour'")
	require.NotEqual(t, id, next)
	require.Equal(t, "ready 0", stateOf(t, db, id))
	pgtest.Advance(t, db, 59*time.Minute)
	require.Equal(t, next, unique(t, db.Pool, "k"), "counted from its own enqueue")
}

// Otherwise retention would let the same thing be done twice within the time for which it was to be unique.
func TestUnique_ForLongerThanTheRetention_TheHistoryStaysAsLong(t *testing.T) {
	t.Parallel()
	for _, days := range []int{3, 20, 90} {
		t.Run(fmt.Sprintf("%d days", days), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			noon := freeze(t, db)
			until := noon.AddDate(0, 0, days)
			r := register(t, db, "r", "echo")
			forDays := fmt.Sprintf("p_unique_for => '%d days'", days)
			id := unique(t, db.Pool, "k", alsoWhenDone, forDays)
			r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("done"))
			require.True(t, one[bool](t, db.Pool, "select expires_on >= $2 from pgtick.history where id = $1", id, until))
			free := unique(t, db.Pool, "free", forDays)
			r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("done"))
			require.Equal(t, 7, keptFor(t, db, free), "a key that the end frees needs no history")
			for day := noon.AddDate(0, 0, 1); day.Before(until); day = day.AddDate(0, 0, max(days/3, 1)) {
				pgtest.SetNow(t, db, day)
				exec(t, db.Pool, "select pgtick.maintain()")
			}
			pgtest.SetNow(t, db, until.Add(-time.Microsecond))
			exec(t, db.Pool, "select pgtick.maintain()")
			require.Equal(t, id, unique(t, db.Pool, "k", alsoWhenDone, forDays))
			require.Equal(t, "done 1", stateOf(t, db, id), "an id that was returned can be looked at")
			pgtest.SetNow(t, db, until)
			require.NotEqual(t, id, unique(t, db.Pool, "k", alsoWhenDone, forDays))
		})
	}
}

func TestUnique_OnConflict_WhatBecomesOfTheWaitingJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	const later = "p_run_at => pgtick.now() + interval '1 hour'"
	show := func(id int64) string {
		return one[string](t, db.Pool, "select concat_ws(' ', args, run_at - $2, wanted_at) from pgtick.live_jobs where id = $1", id, now)
	}
	id := unique(t, db.Pool, "k", `p_args => '{"n": 1}'`, later)
	other := unique(t, db.Pool, "other", `p_args => '{"n": 0}'`, later)
	again := func(more ...string) {
		t.Helper()
		require.Equal(t, id, unique(t, db.Pool, "k", append([]string{`p_args => '{"n": 2}'`}, more...)...))
	}
	again("p_priority => 0")
	require.Equal(t, `{"n": 1} 01:00:00`, show(id), "ignored by default")
	again("p_on_conflict => 'ignore'")
	require.Equal(t, `{"n": 1} 01:00:00`, show(id))
	again("p_on_conflict => 'replace_args'")
	require.Equal(t, `{"n": 2} 01:00:00`, show(id), "the time stays")
	again("p_on_conflict => 'move_run_at'", "p_run_at => pgtick.now() + interval '2 hours'")
	require.Equal(t, `{"n": 2} 02:00:00`, show(id), "later")
	again("p_on_conflict => 'move_run_at'", "p_run_at => pgtick.now() + interval '3 minutes'")
	require.Equal(t, `{"n": 2} 00:03:00`, show(id), "earlier")
	again("p_on_conflict => 'move_run_at'", "p_run_at => pgtick.now() - interval '3 minutes'")
	require.Equal(t, `{"n": 2} 00:00:00`, show(id), "never in the past")
	require.Equal(t, `{"n": 0} 01:00:00`, show(other), "no other job is changed by it")

	r := register(t, db, "r", "echo")
	require.Equal(t, id, r.claimOne(t, db.Pool).ID)
	before := everything(t, db, id)
	for _, what := range []string{"replace_args", "move_run_at"} {
		require.Equal(t, id, unique(t, db.Pool, "k", `p_args => '{"n": 3}'`, later, "p_on_conflict => '"+what+"'"))
	}
	require.Equal(t, before, everything(t, db, id), "what runs is not changed")
}

func TestUnique_OnConflict_OfAJobThatHasEnded_ChangesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	id := unique(t, db.Pool, "k", alsoWhenDone)
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("done"))
	before := everything(t, db, id)
	for _, what := range []string{"ignore", "replace_args", "move_run_at"} {
		require.Equal(t, id, unique(t, db.Pool, "k", `p_args => '{"n": 3}'`, "p_on_conflict => '"+what+"'"))
	}
	require.Equal(t, before, everything(t, db, id))
}

func TestUnique_MoveRunAt_WakesASleeper_WhereItWouldSleepPastIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	id := unique(t, db.Pool, "k", "p_run_at => pgtick.now() + interval '1 hour'")
	ear := listen(t, db, "pgtick")
	settle(t, db, register(t, db, "r", "echo").sleep(t, db.Pool, 5*time.Second))
	move := func(in string) []string {
		require.Equal(t, id, unique(t, db.Pool, "k", "p_on_conflict => 'move_run_at'", "p_run_at => pgtick.now() + interval '"+in+"'"))
		return ear.heard(t)
	}
	require.Empty(t, move("2 hours"))
	require.Equal(t, []string{"default"}, move("1 second"))
	require.Equal(t, id, unique(t, db.Pool, "k", "p_on_conflict => 'replace_args'"))
	require.Empty(t, ear.heard(t), "nothing became due by that")
}

// Whoever is told "it is enqueued already" may rely on it that the run sees what they have written.
func TestUnique_WhatTheEnqueuerWrote_IsSeenByTheRun(t *testing.T) {
	t.Parallel()
	for name, states := range map[string]string{"unique while ready": whileReady, "while ready or running": "p_unique_states => '{ready,running}'"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			exec(t, db.Pool, "create table orders (n int)")
			id := unique(t, db.Pool, "k", states)
			r := register(t, db, "r", "echo")
			for _, end := range []string{"rollback", "commit"} {
				a := session(t, db)
				exec(t, a, "begin")
				exec(t, a, "insert into orders values (1)")
				require.Equal(t, id, unique(t, a, "k", states))
				require.Empty(t, r.claim(t, db.Pool, 1), "a run that starts now would not see the order")
				exec(t, a, end)
			}
			require.Equal(t, id, r.claimOne(t, db.Pool).ID)
			require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from orders"))
		})
	}
}

// The end of a job never waits for an enqueue: it leaves the key's row behind, which then holds nothing.
func TestUnique_TheEndOfAJob_DoesNotWaitForAnOpenEnqueue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	impatient := session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	leave := func() (id int64) {
		id = unique(t, db.Pool, "k")
		c := r.claimOne(t, db.Pool)
		a := session(t, db)
		exec(t, a, "begin")
		require.Equal(t, id, unique(t, a, "k"))
		require.Equal(t, []string{"accepted"}, r.finish(t, impatient, c.is("done")))
		exec(t, impatient, "select pgtick.maintain()")
		require.Nil(t, one[*string](t, db.Pool, "select problem from pgtick.upkeep where what = 'maintain'"), "nor does upkeep")
		exec(t, a, "commit")
		require.Equal(t, []int64{id}, all[int64](t, db.Pool, "select job_id from pgtick.unique_keys"), "left behind")
		return id
	}
	first := leave()
	next := unique(t, db.Pool, "k")
	require.NotEqual(t, first, next)
	require.Equal(t, next, unique(t, db.Pool, "k"))
	cancel(t, db.Pool, next)
	leave()
	exec(t, db.Pool, "select pgtick.maintain()")
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.unique_keys"), "upkeep takes it away")
}

// The key's row does not say yet how its job has ended: history does.
func TestUnique_AlsoWhenDone_ThatEndedBehindAnOpenEnqueue_HoldsAsLongAsItsHistory(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	r := register(t, db, "r", "echo")
	id := unique(t, db.Pool, "k", alsoWhenDone)
	c := r.claimOne(t, db.Pool)
	a := session(t, db)
	exec(t, a, "begin")
	require.Equal(t, id, unique(t, a, "k", alsoWhenDone))
	r.finish(t, db.Pool, c.is("done"))
	exec(t, a, "commit")
	require.Nil(t, one[*string](t, db.Pool, "select ended_as from pgtick.unique_keys"))
	require.Equal(t, id, unique(t, db.Pool, "k", alsoWhenDone))

	pgtest.SetNow(t, db, noon.AddDate(0, 0, 5))
	end(t, db, "echo", "default", "done")
	for range 2 {
		maintain(t, db)
		require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.unique_keys"))
	}
	enqueue(t, db, "echo", 1)
	pgtest.SetNow(t, db, noon.AddDate(0, 0, 8))
	maintain(t, db) // which drops the history last
	maintain(t, db)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.unique_keys"), "though there are other jobs, live and done")
}

func TestUnique_WhileAClaimIsUnderWay_WhatBecomesOfItDecides(t *testing.T) {
	t.Parallel()
	for end, jobs := range map[string]int{"commit": 2, "rollback": 1} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			unique(t, db.Pool, "k", whileReady)
			exec(t, db.Pool, "select pgtick.enqueue('echo', p_run_at => pgtick.now() + interval '1 hour')")
			r := register(t, db, "r", "echo")
			claimer, asker := session(t, db), session(t, db)
			exec(t, claimer, "begin")
			r.claimOne(t, claimer)
			ended := inBackground(t, asker, "select pgtick.enqueue('echo', p_unique_key => 'k', p_unique_states => '{ready}')")
			awaitLock(t, db, asker)
			exec(t, claimer, end)
			require.NoError(t, <-ended)
			require.Equal(t, jobs, one[int](t, db.Pool, "select count(*) from pgtick.jobs where unique_key = 'k'"))
		})
	}
}

func TestUnique_Upkeep_KeepsTheKeysThatHoldSomething(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	r := register(t, db, "r", "echo")
	done := unique(t, db.Pool, "done", alsoWhenDone)
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("done"))
	running := unique(t, db.Pool, "running")
	r.claimOne(t, db.Pool)
	ready := unique(t, db.Pool, "ready")
	unique(t, db.Pool, "over", "p_unique_for => '1 second'")
	pgtest.Advance(t, db, time.Second)
	exec(t, db.Pool, "select pgtick.maintain()")
	require.Equal(t, []string{"done", "ready", "running"}, all[string](t, db.Pool, "select key from pgtick.unique_keys order by key"))
	require.Equal(t, []int64{done, running, ready}, []int64{unique(t, db.Pool, "done"), unique(t, db.Pool, "running"), unique(t, db.Pool, "ready")})
}

// Upkeep finds a key that holds nothing; before it comes to it, an enqueue takes the key over, for a job that upkeep cannot see yet.
func TestUnique_Upkeep_DoesNotFreeAKeyThatIsTakenMeanwhile(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, `insert into pgtick.unique_keys (task, key, job_id, states, until)
		select 'echo', n::text, n, '{ready}'::text[], 'infinity'::timestamptz from generate_series(900000, 930000) as n
		union all select 'echo', 'zzz', 899999, '{ready}', 'infinity'`)
	upkeep := session(t, db)
	ended := inBackground(t, upkeep, "select pgtick.sweep_keys(pgtick.now())")
	require.Eventually(t, func() bool {
		return one[bool](t, db.Pool, "select exists (select from pg_stat_activity where pid = $1 and state = 'active' and backend_xmin is not null) or not exists (select from pgtick.unique_keys)", upkeep.PgConn().PID())
	}, patience, time.Millisecond)
	id := unique(t, db.Pool, "zzz")
	require.NoError(t, <-ended)
	require.Equal(t, id, unique(t, db.Pool, "zzz"))
}

// As of a retry: what waited for the key must not be due before it was there.
func TestUnique_ThatWaited_IsNotBackDated(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	first, second := session(t, db), session(t, db)
	exec(t, first, "begin")
	unique(t, first, "k")
	ended := inBackground(t, second, "select pgtick.enqueue('echo', p_unique_key => 'k')")
	awaitLock(t, db, second)
	rolledBack := one[time.Time](t, first, "select clock_timestamp()")
	exec(t, first, "rollback")
	require.NoError(t, <-ended)
	require.True(t, one[bool](t, db.Pool, "select run_at >= $1 and created_at >= $1 from pgtick.jobs", rolledBack))
}

func TestUnique_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const key = "p_unique_key => 'k', "
	for field, values := range map[string][]string{
		"unique_for":    {"p_unique_for => '1 hour'", key + "p_unique_for => '0'", key + "p_unique_for => '-1 s'", key + "p_unique_for => '401 days'"},
		"unique_key":    {"p_unique_key => ''", "p_unique_key => repeat('x', 501)"},
		"unique_states": {key + "p_unique_states => '{}'", key + "p_unique_states => null", key + "p_unique_states => '{running,done}'", key + "p_unique_states => '{ready,finished}'", key + "p_unique_states => '{ready,null}'"},
		"on_conflict":   {key + "p_on_conflict => 'replace'", key + "p_on_conflict => null", key + "p_on_conflict => 'IGNORE'"},
	} {
		for _, value := range values {
			pg := refused(t, db.Pool, "TK000", "select pgtick.enqueue('echo', "+value+")")
			require.True(t, strings.HasPrefix(pg.Message, field+" "), "%s: %s", value, pg.Message)
			many := strings.NewReplacer("p_unique_key => 'k'", "p_unique_keys => '{k}'", "p_unique_key => ''", `p_unique_keys => array['']`,
				"p_unique_key => repeat('x', 501)", "p_unique_keys => array[repeat('x', 501)]").Replace(value)
			refused(t, db.Pool, "TK000", "select pgtick.enqueue_many('echo', array['{}']::jsonb[], "+many+")")
		}
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.unique_keys"))
	exec(t, db.Pool, "select pgtick.enqueue('echo', p_unique_key => repeat('x', 500), p_unique_for => '400 days', p_unique_states => '{ready,running,done,failed,cancelled}')")
}

func TestUnique_EnqueueMany_ReturnsTheIdsInTheOrderOfTheKeys(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	held := unique(t, db.Pool, "m")
	ids := all[int64](t, db.Pool, `select pgtick.enqueue_many('echo', array['{"n": 1}', '{"n": 2}', '{"n": 3}', '{"n": 4}', '{"n": 5}']::jsonb[],
		p_unique_keys => '{z,a,m,z,b}')`)
	require.Len(t, ids, 5)
	require.Equal(t, held, ids[2])
	require.Equal(t, ids[0], ids[3], "twice the same key: one job")
	require.Equal(t, []string{`z {"n": 1}`, `a {"n": 2}`, `m {}`, `z {"n": 1}`, `b {"n": 5}`}, all[string](t, db.Pool,
		"select j.unique_key || ' ' || j.args from unnest($1::bigint[]) with ordinality as i(id, place) join pgtick.jobs as j on j.id = i.id order by i.place", ids))
	require.Equal(t, 4, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
	require.Empty(t, all[int64](t, db.Pool, "select pgtick.enqueue_many('echo', '{}', p_unique_keys => '{}')"))
	require.Equal(t, ids[:1], all[int64](t, db.Pool, "select pgtick.enqueue_many('echo', array['{}']::jsonb[], p_unique_keys => '{z}', p_unique_for => '1 hour')"))
	for _, keys := range []string{"'{a}'", "'{a,b,c}'", "'{}'", "'{c,null}'", "null, p_unique_for => '1 hour'"} {
		pg := refused(t, db.Pool, "TK000", "select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[], p_unique_keys => "+keys+")")
		require.True(t, strings.HasPrefix(pg.Message, "unique_keys "), "%s: %s", keys, pg.Message)
	}
	require.Equal(t, 4, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

func TestUnique_EnqueueMany_TakesTheKeysInTheirOrder_ButASequenceAsItIsGiven(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	holder, many, impatient := session(t, db), session(t, db), session(t, db)
	exec(t, holder, "begin")
	unique(t, holder, "a")
	ended := inBackground(t, many, "select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[], p_unique_keys => '{b,a}')")
	awaitLock(t, db, many)
	exec(t, impatient, pgtest.WaitForNobody)
	unique(t, impatient, "b") // who comes to a first has not taken b yet: so nobody waits in a circle
	exec(t, holder, "commit")
	require.NoError(t, <-ended)

	ids := all[int64](t, db.Pool, "select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[], p_unique_keys => '{z,y}', p_sequence_keys => '{s,s}')")
	require.Equal(t, []int64{ids[0]}, all[int64](t, db.Pool, "select id from pgtick.live_jobs where id = any ($1) and blocked_by is null", ids))
	require.Less(t, ids[0], ids[1])
}

func TestUnique_Retry_TakesTheKeyAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	failed := unique(t, db.Pool, "k")
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))
	retry(t, db.Pool, failed)
	require.Equal(t, failed, unique(t, db.Pool, "k"), "it holds its key again")
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))

	live := unique(t, db.Pool, "k")
	before := everything(t, db, failed)
	pg := refused(t, db.Pool, "TK008", "select pgtick.retry($1)", failed)
	require.Contains(t, pg.Message, fmt.Sprintf("job %d holds now", live))
	require.Contains(t, pg.Hint, fmt.Sprintf("job %d", live))
	refused(t, db.Pool, "TK008", "select pgtick.retry_with($1, '{}', 'why')", failed)
	require.Equal(t, before, everything(t, db, failed))
	require.Equal(t, live, unique(t, db.Pool, "k"))

	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("done"))
	require.Equal(t, "ready", retry(t, db.Pool, failed), "the other has ended")
}

func TestUnique_Retry_OfAJobThatHeldItsKeyWhenItHadFailed_HoldsItWhileItIsLive(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := freeze(t, db)
	r := register(t, db, "r", "echo")
	const alsoWhenFailed = "p_unique_states => '{ready,running,failed}'"
	id := unique(t, db.Pool, "k", alsoWhenFailed)
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))
	retry(t, db.Pool, id)
	pgtest.SetNow(t, db, noon.AddDate(0, 0, 31)) // a day after what has failed is dropped
	require.Equal(t, id, unique(t, db.Pool, "k", alsoWhenFailed))
}

func TestUnique_Retry_OnceItsTimeIsOver_NeedsNoKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	r := register(t, db, "r", "echo")
	failed := unique(t, db.Pool, "k", "p_unique_for => '10 seconds'")
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))
	pgtest.Advance(t, db, 10*time.Second)
	live := unique(t, db.Pool, "k")
	require.Equal(t, "ready", retry(t, db.Pool, failed))
	require.Equal(t, live, unique(t, db.Pool, "k"))
}

func TestUnique_RetryWhere_LeavesWhatClashes_AndCountsTheOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	clashing := unique(t, db.Pool, "k")
	others := enqueue(t, db, "echo", 2)
	for _, c := range r.claim(t, db.Pool, 3) {
		r.finish(t, db.Pool, c.is("failed"))
	}
	live := unique(t, db.Pool, "k")
	var warnings []string
	cfg := db.Config(t)
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { warnings = append(warnings, n.Severity+": "+n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	require.Equal(t, 2, one[int](t, conn, `select pgtick.retry_where('{"task": "echo"}')`))
	require.Len(t, warnings, 1)
	require.True(t, strings.HasPrefix(warnings[0], "WARNING: pgtick: 1 "), warnings[0])
	require.Equal(t, []string{"failed 1", "ready 1", "ready 1", "ready 0"},
		[]string{stateOf(t, db, clashing), stateOf(t, db, others[0]), stateOf(t, db, others[1]), stateOf(t, db, live)})
	require.Equal(t, `{"jobs": 2, "clashes": 1}`, one[string](t, db.Pool, "select details::text from pgtick.audit where action = 'retry_where'"))
}

// Eight sessions, three keys, two isolation levels, upkeep between them. Where two jobs of a key ever lived at once, their times overlap.
func TestUnique_UnderAnyInterleaving_OneLiveJobAKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	var rivals sync.WaitGroup
	problems := make(chan error, 8)
	ids := &given{all: map[int64]bool{}}
	for n := range 8 {
		v := &rival{conn: session(t, db), runner: register(t, db, "r", "echo").id, random: rand.New(rand.NewSource(seed + int64(n))), serial: n%2 == 1, ids: ids}
		if v.serial {
			exec(t, v.conn, "set default_transaction_isolation = 'repeatable read'")
		}
		rivals.Go(func() {
			if err := v.run(t.Context()); err != nil {
				problems <- err
			}
		})
	}
	rivals.Wait()
	select {
	case err := <-problems:
		require.NoError(t, err)
	default:
	}
	require.Empty(t, all[string](t, db.Pool, `select format('%s: job %s [%s, %s) and job %s [%s, %s)', a.unique_key, a.id, a.created_at, a.finished_at, b.id, b.created_at, b.finished_at)
		from pgtick.jobs as a join pgtick.jobs as b on b.unique_key = a.unique_key and b.id <> a.id
		where a.created_at <= b.created_at and b.created_at < coalesce(a.finished_at, 'infinity')`), "two live jobs of one key")
	require.Empty(t, all[int64](t, db.Pool, `select j.id from pgtick.live_jobs as j where not exists (
		select from pgtick.unique_keys as k where k.job_id = j.id and k.key = j.uniqueness ->> 'key')`), "a live job without its key")
	returned := slices.Collect(maps.Keys(ids.all))
	require.Equal(t, len(returned), one[int](t, db.Pool, "select count(*) from pgtick.jobs where id = any ($1)", returned), "an id that was returned exists")
	require.Greater(t, len(returned), enough, "the sessions did meet")
}

// Each session goes on for so many rounds, and then until all together were given more ids than that: on a busy machine they meet less often.
const (
	rounds     = 50
	mostRounds = 20 * rounds
	enough     = 30
)

// given are the ids that enqueue has returned.
type given struct {
	mu  sync.Mutex
	all map[int64]bool
}

func (g *given) add(id int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all[id] = true
}

func (g *given) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

// rival is one of the sessions that enqueue and run jobs of the same few keys. Outside READ COMMITTED 40001 is no failure.
type rival struct {
	conn   *pgx.Conn
	runner int64
	random *rand.Rand
	serial bool
	ids    *given
}

func (v *rival) run(ctx context.Context) error {
	for round := 0; round < rounds || v.ids.count() <= enough && round < mostRounds; round++ {
		var err error
		switch n := v.random.Intn(10); {
		case n < 4:
			err = v.enqueue(ctx, "", "")
		case n < 6:
			err = v.enqueue(ctx, "begin", []string{"commit", "rollback"}[v.random.Intn(2)])
		case n < 9:
			err = v.work(ctx)
		default:
			_, err = v.conn.Exec(ctx, "select pgtick.sweep_keys(pgtick.now())")
		}
		if err != nil && !v.mayRepeat(err) {
			return err
		}
	}
	return nil
}

func (v *rival) mayRepeat(err error) bool {
	pg := new(pgconn.PgError)
	return v.serial && errors.As(err, &pg) && pg.Code == "40001"
}

func (v *rival) enqueue(ctx context.Context, begin, end string) error {
	var id int64
	if _, err := v.conn.Exec(ctx, begin); err != nil {
		return err
	}
	err := v.conn.QueryRow(ctx, "select pgtick.enqueue('echo', p_unique_key => $1)", string(rune('a'+v.random.Intn(3)))).Scan(&id)
	if err != nil {
		_, undo := v.conn.Exec(ctx, "rollback")
		return errors.Join(err, undo)
	}
	if _, err := v.conn.Exec(ctx, end); err != nil {
		return err
	}
	if end != "rollback" {
		v.ids.add(id)
	}
	return nil
}

// work claims one job and reports on it until the report is taken.
func (v *rival) work(ctx context.Context) error {
	var id, fence int64
	err := v.conn.QueryRow(ctx, "select id, fence from pgtick.claim($1, '{default}', '{echo}', 1)", v.runner).Scan(&id, &fence)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	outcome := []string{"done", "failed", "done", "cancelled", "error"}[v.random.Intn(5)]
	for {
		var accepted *bool
		err := v.conn.QueryRow(ctx, "select accepted from pgtick.finish($1, array[$2::bigint], array[$3::bigint], array[$4], p_retry_at => array[pgtick.now()])", v.runner, id, fence, outcome).Scan(&accepted)
		switch {
		case err != nil && !v.mayRepeat(err):
			return err
		case err == nil && accepted != nil && !*accepted:
			return fmt.Errorf("the report on job %d was refused", id)
		case err == nil && accepted != nil:
			return nil
		}
	}
}
