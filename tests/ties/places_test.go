package ties

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func limit(t *testing.T, q asker, settings string) {
	t.Helper()
	exec(t, q, "select pgtick.set_limit('limited', "+settings+")")
}

const (
	twoAtOnce  = "p_max_running => 2"
	oneForEach = "p_max_running => 1, p_per_key => true"
)

func keyed(key string) string { return "p_limit_key => '" + key + "'" }

func several(t *testing.T, q asker, n int, settings ...string) (ids []int64) {
	t.Helper()
	for range n {
		ids = append(ids, enqueue(t, q, "limited", settings...))
	}
	return ids
}

func TestMaxRunning_OfATask_HoldsOverAllRunners(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, twoAtOnce)
	a, b := register(t, db.Pool), register(t, db.Pool)
	ids := several(t, db.Pool, 4)
	held := append(a.claim(t, db.Pool, 1), b.claim(t, db.Pool, 10)...)
	require.Equal(t, ids[:2], idsOf(held))
	require.Empty(t, a.claim(t, db.Pool, 10))
	require.Equal(t, 2, one[int](t, db.Pool, "select running from pgtick.limits where task = 'limited'"))
	require.Equal(t, "its limit is full", one[string](t, db.Pool, "select reason from pgtick.why($1) where rank = 1", ids[2]))
	require.Nil(t, one[*string](t, db.Pool, "select pgtick.next_run_at($1)::text", a.id), "so nobody looks again and again")

	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	a.finish(t, db.Pool, held[0], "done")
	require.Equal(t, []string{"default"}, ear.heard(t))
	require.Equal(t, ids[2:3], idsOf(a.claim(t, db.Pool, 10)))
}

// Whatever makes an attempt end gives its place to the next one at once, without rescue()'s search.
func TestMaxRunning_EachEndOfAnAttempt_GivesThePlaceBack(t *testing.T) {
	t.Parallel()
	report := func(outcome string) func(*testing.T, *pgtest.DB, runner, claim) {
		return func(t *testing.T, db *pgtest.DB, r runner, c claim) { r.finish(t, db.Pool, c, outcome) }
	}
	call := func(sql string) func(*testing.T, *pgtest.DB, runner, claim) {
		return func(t *testing.T, db *pgtest.DB, r runner, c claim) {
			exec(t, db.Pool, strings.NewReplacer("$runner", fmt.Sprint(r.id), "$job", fmt.Sprint(c.id), "$fence", fmt.Sprint(c.fence)).Replace("select "+sql))
		}
	}
	for _, byKey := range []bool{false, true} {
		for name, end := range map[string]func(*testing.T, *pgtest.DB, runner, claim){
			"done": report("done"), "failed": report("failed"), "cancelled": report("cancelled"), "error": report("error"), "snoozed": report("snoozed"), "released": report("released"),
			"finish_in_transaction": call("pgtick.finish_in_transaction($job, $fence)"),
			"leave":                 call("pgtick.leave($runner)"),
			"reconcile":             call("pgtick.reconcile($runner, '{}', '{}')"),
			"hold_back":             call("pgtick.hold_back($runner, '{$job}', '{$fence}', array[now() + interval '1 hour'], '{mark}', '{null}')"),
			"wait_for":              call("pgtick.wait_for($job, $fence, array[pgtick.enqueue('other')])"),
			"rescue": func(t *testing.T, db *pgtest.DB, _ runner, _ claim) {
				pgtest.Advance(t, db, time.Minute)
				pgtest.Expire(t, db)
			},
			"timeout": func(t *testing.T, db *pgtest.DB, r runner, c claim) {
				pgtest.Advance(t, db, 10*time.Minute)
				exec(t, db.Pool, "select pgtick.heartbeat($1, array[$2::bigint], array[$3::bigint])", r.id, c.id, c.fence)
				rescue(t, db.Pool)
			},
		} {
			t.Run(fmt.Sprintf("%s, by key %t", name, byKey), func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				limit(t, db.Pool, fmt.Sprintf("p_max_running => 1, p_per_key => %t", byKey))
				r := register(t, db.Pool)
				ids := several(t, db.Pool, 2, keyed("x"))
				c := r.take(t, db.Pool, ids[0])
				end(t, db, r, c)
				exec(t, db.Pool, "update pgtick.live_jobs set run_at = 'infinity' where id = $1", c.id) // or it may come first again
				next := register(t, db.Pool)
				require.Equal(t, ids[1:], idsOf(next.claim(t, db.Pool, 10, "limited")))
			})
		}
	}
}

func TestMaxRunning_ByKey_EachKeyHasItsOwn_AndWhatHasNoKeyIsFree(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	x, y, free := several(t, db.Pool, 3, keyed("x")), several(t, db.Pool, 2, keyed("y")), several(t, db.Pool, 2)
	elsewhere := enqueue(t, db.Pool, "other", keyed("x"))
	claims := r.claim(t, db.Pool, 100)
	require.ElementsMatch(t, []int64{x[0], y[0], free[0], free[1], elsewhere}, idsOf(claims))
	require.Equal(t, []string{"ready after limit", "ready after limit"}, states(t, db.Pool, x[1], y[1]))
	require.Equal(t, "its limit is full", one[string](t, db.Pool, "select reason from pgtick.why($1) where rank = 1", x[1]))
	for _, c := range claims {
		r.finish(t, db.Pool, c, "done")
	}
	claims = r.claim(t, db.Pool, 100)
	require.ElementsMatch(t, []int64{x[1], y[1]}, idsOf(claims))
	for _, c := range claims {
		r.finish(t, db.Pool, c, "done")
	}
	r.do(t, db.Pool, x[2], "done")
	clean(t, db)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.limit_places"), "a key that nobody uses leaves nothing")
}

func TestMaxRunning_OfTaskAndKey_BothHold(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, "p_max_running => 3")
	limit(t, db.Pool, "p_max_running => 2, p_per_key => true")
	r := register(t, db.Pool)
	x, y := several(t, db.Pool, 3, keyed("x")), several(t, db.Pool, 3, keyed("y"))
	require.Equal(t, []int64{x[0], x[1], y[0]}, idsOf(r.claim(t, db.Pool, 100)))
	require.Empty(t, r.claim(t, db.Pool, 100))
	require.Equal(t, "ready after limit", state(t, db.Pool, x[2]))
	_ = y
}

// A key with many jobs does not keep those of others from being found.
func TestMaxRunning_ByKey_AFullKeyIsNotInTheWay(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	exec(t, db.Pool, "select pgtick.enqueue_many('limited', array_fill('{}'::jsonb, '{3000}'), p_limit_keys => array_fill('x'::text, '{3000}'))")
	last := enqueue(t, db.Pool, "limited", keyed("y"))
	require.Eventually(t, func() bool {
		for _, c := range r.claim(t, db.Pool, 10) {
			if c.id == last {
				return true
			}
		}
		return false
	}, patience, time.Millisecond)
}

func TestMaxRunning_ChangedWhileJobsRun(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	several(t, db.Pool, 6, keyed("x"))
	held := r.claim(t, db.Pool, 2)
	limit(t, db.Pool, twoAtOnce)
	require.Empty(t, r.claim(t, db.Pool, 10), "what ran before counts")
	sleeper, ear := register(t, db.Pool), listen(t, db)
	sleeper.asleep(t, db)
	limit(t, db.Pool, "p_max_running => 3")
	require.Equal(t, []string{"default"}, ear.heard(t))
	held = append(held, r.claim(t, db.Pool, 10)...)
	require.Len(t, held, 3)
	limit(t, db.Pool, "p_max_running => 1")
	r.finish(t, db.Pool, held[0], "done")
	r.finish(t, db.Pool, held[1], "done")
	require.Empty(t, r.claim(t, db.Pool, 10))

	exec(t, db.Pool, "select pgtick.remove_limit('limited')")
	limit(t, db.Pool, oneForEach)
	require.Empty(t, r.claim(t, db.Pool, 10))
	require.Equal(t, 3, one[int](t, db.Pool, "select count(*) from pgtick.jobs where blocked_by = 'limit'"))
	exec(t, db.Pool, "select pgtick.remove_limit('limited', true)")
	require.Len(t, r.claim(t, db.Pool, 10), 3)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.limit_places"))
}

func TestMaxRunning_SetWhileJobsRunThatHaveNoKey_CountsThem(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	several(t, db.Pool, 3)
	held := r.claim(t, db.Pool, 2)
	limit(t, db.Pool, twoAtOnce)
	require.Empty(t, r.claim(t, db.Pool, 10), "what ran before counts")
	limit(t, db.Pool, oneForEach)
	require.Empty(t, r.claim(t, db.Pool, 10))
	exec(t, db.Pool, "select pgtick.remove_limit('limited')")
	require.Len(t, r.claim(t, db.Pool, 10), 1, "by key they count for nothing")
	r.finish(t, db.Pool, held[0], "done")
}

// A claim that began before the limit was raised still went by the old one.
func TestMaxRunning_ByKey_WhatWasBlockedByALimitThatIsHigherByNow_RescueFrees(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	ids := several(t, db.Pool, 2, keyed("x"))
	r := register(t, db.Pool)
	require.Equal(t, ids[:1], idsOf(r.claim(t, db.Pool, 10)))
	sweep(t, db.Pool)
	require.Equal(t, "ready after limit", state(t, db.Pool, ids[1]))
	exec(t, db.Pool, "update pgtick.limit_defs set max_running = 2")
	sweep(t, db.Pool)
	require.Equal(t, ids[1:], idsOf(r.claim(t, db.Pool, 10)))
}

func TestLimits_SetAsTheyAre_ChangeNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC))
	limit(t, db.Pool, "10, p_max_running => 2")
	before := one[string](t, db.Pool, "select d::text from pgtick.limit_defs as d")
	pgtest.Advance(t, db, time.Minute)
	limit(t, db.Pool, "10, p_max_running => 2")
	require.Equal(t, before, one[string](t, db.Pool, "select d::text from pgtick.limit_defs as d"))
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.audit where action = 'set_limit'"))
}

func TestMaxRunning_ByKey_IsOfItsTaskAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, "p_max_running => 5")
	exec(t, db.Pool, "select pgtick.set_limit('other', p_max_running => 1, p_per_key => true)")
	ids := several(t, db.Pool, 2, keyed("x"))
	require.Equal(t, ids, idsOf(register(t, db.Pool).claim(t, db.Pool, 10)))
}

// Whatever has become of the row that said who runs.
func TestMaxRunning_ByKey_WhatIsBlockedWhereNobodyHoldsAPlace_RescueFrees(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	ids := several(t, db.Pool, 2, keyed("x"))
	r := register(t, db.Pool)
	c := r.claim(t, db.Pool, 10)
	require.Equal(t, ids[:1], idsOf(c))
	exec(t, db.Pool, "delete from pgtick.limit_places")
	r.finish(t, db.Pool, c[0], "done")
	require.Equal(t, "ready after limit", state(t, db.Pool, ids[1]))
	sweep(t, db.Pool)
	r.do(t, db.Pool, ids[1], "done")
	clean(t, db)
}

// However many jobs with a limit wait, what has none is claimed beside them, and the other way round.
func TestMaxRunning_AFloodOnOneSide_LeavesTheOtherItsShare(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ limited, plain int }{"limited more urgent": {0, 9}, "equal": {5, 5}, "plain more urgent": {9, 0}} {
		for _, n := range []int{1, 20} {
			t.Run(fmt.Sprintf("%s, %d at a time", name, n), func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				limit(t, db.Pool, "p_max_running => 10000")
				for task, priority := range map[string]int{"limited": c.limited, "other": c.plain} {
					exec(t, db.Pool, "select pgtick.enqueue_many($1, array_fill('{}'::jsonb, '{2000}'), p_priority => $2)", task, priority)
				}
				r := register(t, db.Pool)
				tasks := map[string]int{}
				for range 2000 / n {
					if n == 1 && len(tasks) == 2 {
						break
					}
					for _, claimed := range r.claim(t, db.Pool, n) {
						tasks[one[string](t, db.Pool, "select task from pgtick.live_jobs where id = $1", claimed.id)]++
					}
					if n > 1 && tasks["limited"] > 0 && tasks["other"] > 0 {
						break
					}
				}
				require.Len(t, tasks, 2, "%v", tasks)
			})
		}
	}
}

// A suspect is claimed apart, and counts all the same.
func TestMaxRunning_HoldsForSuspects(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, "p_max_running => 1")
	limit(t, db.Pool, oneForEach)
	suspects := several(t, db.Pool, 2, keyed("x"))
	other := enqueue(t, db.Pool, "other", "p_run_at => now() + interval '1 second'")
	exec(t, db.Pool, "update pgtick.live_jobs set losses = 2, attempt = 2, uncounted = 2")
	exec(t, db.Pool, "update pgtick.live_jobs set run_at = created_at")
	_ = other
	a, b := register(t, db.Pool), register(t, db.Pool)
	c := a.claim(t, db.Pool, 10)
	require.Len(t, c, 1)
	next := b.claim(t, db.Pool, 10)
	require.Len(t, next, 1, "the suspect without a limit is not hidden by one that has to wait")
	require.ElementsMatch(t, []int64{suspects[0], other}, []int64{c[0].id, next[0].id})
	a.finish(t, db.Pool, c[0], "done")
	require.Len(t, register(t, db.Pool).claim(t, db.Pool, 10), 1)
}

// Without a key only the limit by key lets it pass.
func TestMaxRunning_OfATask_HoldsForSuspectsWithoutAKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, "p_max_running => 1")
	limit(t, db.Pool, oneForEach)
	several(t, db.Pool, 2)
	exec(t, db.Pool, "update pgtick.live_jobs set losses = 2, attempt = 2, uncounted = 2")
	require.Len(t, register(t, db.Pool).claim(t, db.Pool, 10), 1)
	require.Empty(t, register(t, db.Pool).claim(t, db.Pool, 10))
}

// The lane of the urgent jobs is emptied before the other one, also of what came between them.
func TestMaxRunning_OfATask_LowerPriorityNumbersFirst(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, "p_max_running => 5")
	urgent := several(t, db.Pool, 1, "p_priority => 0")
	between := several(t, db.Pool, 1)
	urgent = append(urgent, several(t, db.Pool, 1, "p_priority => 0")...)
	r := register(t, db.Pool)
	require.Equal(t, urgent, idsOf(r.claim(t, db.Pool, 2)))
	require.Equal(t, between, idsOf(r.claim(t, db.Pool, 2)))
}

func TestMaxRunning_AClaimThatIsOpen_IsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for _, settings := range []string{"p_max_running => 5", "p_max_running => 5, p_per_key => true"} {
		db := pgtest.New(t)
		limit(t, db.Pool, settings)
		a, b := register(t, db.Pool), register(t, db.Pool)
		ids := several(t, db.Pool, 3, keyed("x"))
		open := session(t, db)
		exec(t, open, "begin")
		first := a.claim(t, open, 1)
		require.Empty(t, b.claim(t, db.Pool, 10), "how many run is not known for now")
		sweep(t, db.Pool)
		exec(t, open, "commit")
		require.Equal(t, ids[1:], idsOf(b.claim(t, db.Pool, 10)))
		require.Equal(t, 3, one[int](t, db.Pool, "select cardinality(holders) from pgtick.limit_places"))
		_ = first
	}
}

func TestMaxRunning_WhatAnEndCouldNotGiveBack_RescueDoes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	ids := several(t, db.Pool, 2, keyed("x"))
	c := r.take(t, db.Pool, ids[0])
	require.Empty(t, r.claim(t, db.Pool, 1))
	holder := session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.limit_places for update")
	r.finish(t, db.Pool, c, "done")
	exec(t, holder, "commit")
	require.Empty(t, r.claim(t, db.Pool, 1))
	rescue(t, db.Pool)
	r.do(t, db.Pool, ids[1], "done")
	clean(t, db)
}

func TestMaxRunning_ABlockedJob_CanBeCancelledAndMoved(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	holder := several(t, db.Pool, 1, keyed("x"))[0]
	waits := several(t, db.Pool, 1, keyed("x"), "p_unique_key => 'u'")[0]
	gone := several(t, db.Pool, 1, keyed("x"))[0]
	c := r.take(t, db.Pool, holder)
	require.Empty(t, r.claim(t, db.Pool, 10))
	require.Equal(t, "cancelled", one[string](t, db.Pool, "select pgtick.cancel($1)", gone))
	several(t, db.Pool, 1, keyed("x"), "p_unique_key => 'u'", "p_on_conflict => 'move_run_at'", "p_run_at => now() + interval '1 hour'")
	r.finish(t, db.Pool, c, "done")
	require.True(t, one[bool](t, db.Pool, "select blocked_by is null and run_at > now() + interval '59 minutes' from pgtick.jobs where id = $1", waits))
}

func TestLimits_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for field, calls := range map[string][]string{
		"task":        {"set_limit('', 1)", "declare_task('', '{}')"},
		"rate":        {"set_limit('t')", "set_limit('t', 0)", "set_limit('t', 1000001)", `declare_task('t', '{"rate": "many"}')`, `declare_task('t', '{"rate": 1e300}')`, `declare_task('t', '{"rate": 1.5}')`},
		"period":      {"set_limit('t', 1, '0')", "set_limit('t', 1, null)", "set_limit('t', 1, '32 days')", "set_limit('t', 1, '-1 s')"},
		"burst":       {"set_limit('t', 5, p_burst => 6)", "set_limit('t', 5, p_burst => 0)", "set_limit('t', p_burst => 1, p_max_running => 1)"},
		"max_running": {"set_limit('t', p_max_running => 0)", "set_limit('t', p_max_running => 10001)", `declare_task('t', '{"per_key": {"max_running": true}}')`},
		"per_key":     {"set_limit('t', 1, p_per_key => null)"},
		"defaults":    {"declare_task('t', '[]')", "declare_task('t', null)", `declare_task('t', '{"per_key": 7}')`},
	} {
		for _, call := range calls {
			require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick."+call).Message, field, call)
		}
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.limits"))
}

// What code declares comes and goes with the code; what a person has set stays.
func TestLimits_WhatIsSetByHand_GoesBeforeWhatCodeDeclares(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	declare := func(defaults string) string {
		exec(t, db.Pool, "select pgtick.declare_task('limited', $1)", defaults)
		return strings.Join(all[string](t, db.Pool, "select concat_ws(' ', rate, max_running, per_key, declared) from pgtick.limits order by per_key"), ", ")
	}
	const code = `{"rate": 100, "period_seconds": 60, "max_running": 7, "per_key": {"max_running": 2}}`
	require.Equal(t, "100 7 f t, 2 t t", declare(code))
	require.Equal(t, "10 00:01:00", one[string](t, db.Pool, "select burst || ' ' || period from pgtick.limits where not per_key"))
	limit(t, db.Pool, "p_max_running => 3")
	require.Equal(t, "3 f f, 2 t t", declare(code))
	require.Equal(t, "3 f f", declare("{}"))
	exec(t, db.Pool, "select pgtick.remove_limit('limited')")
	require.Equal(t, "100 7 f t, 2 t t", declare(code))
}
