package ties

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// lockPlaces is a session that holds the places of all limits but these, each written "task/key".
func lockPlaces(t *testing.T, db *pgtest.DB, but ...string) *pgx.Conn {
	t.Helper()
	holder := session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.limit_places as p where p.task || '/' || p.key <> all ($1) for update", append([]string{}, but...))
	return holder
}

func lockJob(t *testing.T, db *pgtest.DB, id int64) *pgx.Conn {
	t.Helper()
	holder := session(t, db)
	exec(t, holder, "begin")
	exec(t, holder, "select from pgtick.live_jobs where id = $1 for update", id)
	return holder
}

func impatient(t *testing.T, db *pgtest.DB) *pgx.Conn {
	t.Helper()
	conn := session(t, db)
	exec(t, conn, pgtest.WaitForNobody)
	return conn
}

// blocked are the jobs that a limit keeps from running, in the order of their ids.
func blocked(t *testing.T, q asker) []int64 {
	t.Helper()
	return all[int64](t, q, "select j.id from pgtick.live_jobs as j where j.blocked_by = 'limit' order by j.id")
}

func nothingLeftToRescue(t *testing.T, q asker) {
	t.Helper()
	require.Empty(t, all[string](t, q, "select u.kind || ' ' || u.what from pgtick.unsettled as u"), "left to rescue")
}

// perKey makes n jobs of a task and a key, and has them claimed as far as its limit lets them.
func perKey(t *testing.T, db *pgtest.DB, r runner, task, key string, n int) (ids []int64, held []claim) {
	t.Helper()
	for range n {
		ids = append(ids, enqueue(t, db.Pool, task, keyed(key)))
	}
	return ids, r.claim(t, db.Pool, 100, task)
}

// Other keys of the task, and the same key of other tasks, have more room, less, or none, and are in use.
func TestMaxRunning_ByKey_AnEnd_ConcernsItsOwnKeyAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, "p_max_running => 10")
	limit(t, db.Pool, "p_max_running => 3, p_per_key => true")
	exec(t, db.Pool, "select pgtick.set_limit('other', p_max_running => 1, p_per_key => true), pgtick.set_limit('echo', p_max_running => 9, p_per_key => true)")
	r := register(t, db.Pool)
	x, held := perKey(t, db, r, "limited", "x", 6)
	require.Len(t, held, 3)
	perKey(t, db, r, "limited", "y", 1)
	perKey(t, db, r, "echo", "x", 1)
	others, _ := perKey(t, db, r, "other", "x", 2)
	exec(t, db.Pool, "insert into pgtick.limit_places (task, key, holders) values ('limited', 'empty', '{}'), ('gone', 'x', '{}')")
	require.Equal(t, append(x[3:6:6], others[1]), blocked(t, db.Pool))

	lockPlaces(t, db, "limited/x", "limited/")
	r.finish(t, impatient(t, db), held[0], "done")
	require.Equal(t, append(x[4:6:6], others[1]), blocked(t, db.Pool))
	nothingLeftToRescue(t, db.Pool)
}

func TestMaxRunning_ByKey_AnEnd_GoesPastABlockedJobThatIsHeld(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	ids, held := perKey(t, db, r, "limited", "x", 3)
	lockJob(t, db, ids[1])
	r.finish(t, impatient(t, db), held[0], "done")
	require.Equal(t, ids[1:2], blocked(t, db.Pool))
	nothingLeftToRescue(t, db.Pool)
}

// It had no place, so it is no matter who holds them.
func TestMaxRunning_CancelOfAJobThatDoesNotRun_LeavesThePlacesAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	ids, _ := perKey(t, db, r, "limited", "x", 3)
	ready := enqueue(t, db.Pool, "limited", keyed("x"))
	lockPlaces(t, db)
	require.Equal(t, "cancelled", one[string](t, impatient(t, db), "select pgtick.cancel($1)", ids[1]))
	require.Equal(t, "cancelled", one[string](t, impatient(t, db), "select pgtick.cancel($1)", ready))
	nothingLeftToRescue(t, db.Pool)
}

// A transaction that sees the state of its beginning cannot change a row that changes all the time; rescue() can.
func TestMaxRunning_AnEndInARepeatableRead_LeavesThePlaceToRescue(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{
		"done": "select pgtick.finish_in_transaction($1, $2), $3::bigint", "an error": "select pgtick.finish($3, array[$1::bigint], array[$2::bigint], '{error}', p_retry_at => '{2999-01-01 00:00Z}')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			limit(t, db.Pool, twoAtOnce)
			r := register(t, db.Pool)
			ids := several(t, db.Pool, 3)
			first := r.claim(t, db.Pool, 1)
			conn := session(t, db)
			exec(t, conn, "begin isolation level repeatable read")
			exec(t, conn, "select from pgtick.limit_places")
			require.Equal(t, ids[1:2], idsOf(r.claim(t, db.Pool, 1)))
			exec(t, conn, end, first[0].id, first[0].fence, r.id)
			exec(t, conn, "commit")
			require.Empty(t, r.claim(t, db.Pool, 1))
			rescue(t, db.Pool)
			require.Equal(t, ids[2:], idsOf(r.claim(t, db.Pool, 1)))
		})
	}
}

func TestMaxRunning_OfSuspects_ByARateAlone_NeedsNoPlace(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, "100")
	several(t, db.Pool, 1)
	exec(t, db.Pool, "update pgtick.live_jobs set losses = 2, attempt = 2, uncounted = 2")
	require.Len(t, register(t, db.Pool).claim(t, db.Pool, 10), 1)
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.limit_places"))
}

func TestMaxRunning_OfSuspects_BesideAnOpenClaim_IsNotWaitedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, twoAtOnce)
	r := register(t, db.Pool)
	several(t, db.Pool, 1)
	require.Len(t, r.claim(t, db.Pool, 1), 1)
	several(t, db.Pool, 1)
	exec(t, db.Pool, "update pgtick.live_jobs set losses = 2, attempt = 2, uncounted = 2 where runner_id is null")
	holder := lockPlaces(t, db)
	require.Empty(t, r.claim(t, impatient(t, db), 10), "whether there is a place is not known")
	exec(t, holder, "rollback")
	require.Len(t, r.claim(t, db.Pool, 10), 1)
}

// What other limits' places are is no business of a sweep that has one to set right.
func TestSweep_OfPlaces_SetsRightWhatIsWrong_AndGoesPastWhatIsHeld(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, task := range []string{"limited", "other"} {
		exec(t, db.Pool, "select pgtick.set_limit($1, p_max_running => 8), pgtick.set_limit($1, p_max_running => 2, p_per_key => true)", task)
	}
	r := register(t, db.Pool)
	x, held := perKey(t, db, r, "limited", "x", 4)
	y, _ := perKey(t, db, r, "limited", "y", 1)
	other, _ := perKey(t, db, r, "other", "x", 1)
	waits := enqueue(t, db.Pool, "limited", "p_run_at => now() + interval '1 hour'", keyed("x"))
	exec(t, db.Pool, "insert into pgtick.limit_places (task, key, holders) values ('limited', 'empty', '{}'), ('limited', 'held', '{}')")
	exec(t, db.Pool, "update pgtick.limit_places set holders = array[$1, $2]::bigint[] where task = 'limited' and key = 'x'", held[0].id, waits) // one that runs is missing
	lockPlaces(t, db, "limited/x", "limited/empty")
	sweep(t, impatient(t, db))
	require.Equal(t, []string{
		fmt.Sprintf("limited/ {%d,%d,%d}", x[0], x[1], y[0]), "limited/held {}", fmt.Sprintf("limited/x {%d}", x[0]), fmt.Sprintf("limited/y {%d}", y[0]),
		fmt.Sprintf("other/ {%d}", other[0]), fmt.Sprintf("other/x {%d}", other[0]),
	}, all[string](t, db.Pool, "select p.task || '/' || p.key || ' ' || p.holders::text from pgtick.limit_places as p order by p.task, p.key"))
	require.Equal(t, x[3:], blocked(t, db.Pool), "there was room for one")
}

// A claim that still went by the old limit has blocked what has room by the new one of its key; how many run of the task, or of another's key, is
// no matter. A place is not kept for a job that is given back.
func TestSweep_OfPlaces_GoesByTheLimitOfTheirKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.set_limit('limited', p_max_running => 2), pgtick.set_limit('limited', p_max_running => 2, p_per_key => true), pgtick.set_limit('other', p_max_running => 1, p_per_key => true)")
	x, _ := perKey(t, db, register(t, db.Pool), "limited", "x", 3)
	require.Equal(t, x[2:], blocked(t, db.Pool))
	back := enqueue(t, db.Pool, "limited", "p_run_at => now() + interval '1 hour'", keyed("y"))
	exec(t, db.Pool, "insert into pgtick.limit_places (task, key, holders) values ('limited', 'y', array[$1]::bigint[])", back)
	exec(t, db.Pool, "update pgtick.limit_defs set max_running = 5 where task = 'limited' and per_key")
	sweep(t, db.Pool)
	require.Empty(t, blocked(t, db.Pool))
	require.Empty(t, all[string](t, db.Pool, "select p.holders::text from pgtick.limit_places as p where p.key = 'y' and p.holders <> '{}'"))
}

// Nobody holds a place of these keys, whatever has become of it, so nobody's end will free them.
func TestSweep_OfBlockedJobs_FreesTheFirstOfEachKeyThatNobodyHolds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.set_limit(t, p_max_running => 1, p_per_key => true) from unnest('{limited,other}'::text[]) as t")
	r := register(t, db.Pool)
	enqueue(t, db.Pool, "echo")
	ids := map[string][]int64{}
	for _, key := range []string{"limited/x", "limited/y", "limited/z", "other/w", "other/x", "other/y"} {
		for range 3 {
			ids[key] = append(ids[key], enqueue(t, db.Pool, key[:len(key)-2], keyed(key[len(key)-1:])))
		}
	}
	r.claim(t, db.Pool, 100)
	require.Len(t, blocked(t, db.Pool), 12)
	exec(t, db.Pool, "delete from pgtick.limit_places where task || '/' || key <> all ('{limited/x,other/y}')")
	r.asleep(t, db)
	ear := listen(t, db)
	lockJob(t, db, ids["limited/z"][1])
	sweep(t, impatient(t, db))
	want := append(ids["limited/x"][1:3:3], ids["limited/y"][2], ids["limited/z"][1], ids["other/w"][2], ids["other/x"][2])
	require.Equal(t, append(want, ids["other/y"][1:]...), blocked(t, db.Pool))
	require.Contains(t, ear.heard(t), "default")
}

func TestSetLimit_LetsItsOwnBlockedJobsBeLookedAtAnew_AndNoOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	exec(t, db.Pool, "select pgtick.set_limit('other', p_max_running => 1, p_per_key => true)")
	r := register(t, db.Pool)
	ids, held := perKey(t, db, r, "limited", "x", 4)
	others, _ := perKey(t, db, r, "other", "x", 2)
	require.Equal(t, append(ids[1:4:4], others[1]), blocked(t, db.Pool))
	limit(t, db.Pool, "5, p_max_running => 1, p_per_key => true")
	limit(t, db.Pool, "p_max_running => 3")
	require.Equal(t, append(ids[1:4:4], others[1]), blocked(t, db.Pool), "how many of a key may run at once is as it was")

	lockJob(t, db, ids[3])
	changing := impatient(t, db)
	exec(t, changing, "begin")
	limit(t, changing, "p_max_running => 3, p_per_key => true")
	r.finish(t, db.Pool, held[0], "done") // it may have to wait for the places, not for the job
	exec(t, changing, "commit")
	require.Equal(t, []int64{ids[3], others[1]}, blocked(t, db.Pool))
}

// Of twenty: a tenth is left to the lane with the higher number, and what is as urgent has half.
func TestMaxRunning_BesideOtherWork_HasItsShare(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limited, echo, other int // priorities; echo has a limit as well
		shares               string
	}{
		"more urgent":           {0, 9, 5, "18 2"},
		"as urgent":             {5, 9, 5, "10 10"},
		"less urgent":           {9, 9, 0, "2 18"},
		"more and as urgent":    {0, 5, 5, "18 2"},
		"more and less, urgent": {3, 4, 2, "2 18"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			exec(t, db.Pool, "select pgtick.set_limit(t, p_max_running => 1000) from unnest('{limited,echo}'::text[]) as t")
			for task, priority := range map[string]int{"limited": c.limited, "echo": c.echo, "other": c.other} {
				exec(t, db.Pool, "select pgtick.enqueue_many($1, array_fill('{}'::jsonb, '{200}'), p_priority => $2)", task, priority)
			}
			r := register(t, db.Pool)
			for range 5 {
				require.Equal(t, c.shares, one[string](t, db.Pool, `with c as (select c.task from pgtick.claim($1, '{default}', $2, 20) as c)
					select count(*) filter (where c.task <> 'other') || ' ' || count(*) filter (where c.task = 'other') from c`, r.id, everyTask))
			}
		})
	}
}

// One at a time, so that nothing can be shared within a claim: then some claims look elsewhere first.
func TestMaxRunning_AFloodOfUrgentJobsWithALimit_DoesNotHoldUpOthersWithALimit(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.set_limit(t, p_max_running => 10000) from unnest('{limited,echo}'::text[]) as t")
	exec(t, db.Pool, "select pgtick.enqueue_many('limited', array_fill('{}'::jsonb, '{1000}'), p_priority => 0)")
	last := enqueue(t, db.Pool, "echo", "p_priority => 9")
	r := register(t, db.Pool)
	for range 1000 {
		if slices.Equal(idsOf(r.claim(t, db.Pool, 1)), []int64{last}) {
			return
		}
	}
	require.Fail(t, "it came last")
}

// Who blocks a job must be one that runs, or the job waits for the next sweep.
func TestMaxRunning_ByKey_AClaimThatIsFull_BlocksNothingOfOtherKeys(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	x := several(t, db.Pool, 2, keyed("x"))
	y := several(t, db.Pool, 2, keyed("y"))
	require.Equal(t, x[:1], idsOf(r.claim(t, db.Pool, 1)))
	require.Equal(t, x[1:], blocked(t, db.Pool))
	require.Equal(t, []string{"ready", "ready"}, states(t, db.Pool, y...))
}

// What is limited by how many may run at once does not hide what is due later from who asks when to look again.
func TestMaxRunning_ATaskThatIsFull_IsNotLookedFor_UntilAnEndWakes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	limit(t, db.Pool, twoAtOnce)
	r := register(t, db.Pool)
	several(t, db.Pool, 3)
	held := r.claim(t, db.Pool, 10)
	require.Len(t, held, 2)
	enqueue(t, db.Pool, "other", "p_run_at => '2031-05-04 12:10Z'")
	require.Equal(t, now.Add(10*time.Minute), one[time.Time](t, db.Pool, "select pgtick.next_run_at($1)", r.id).UTC())
	r.finish(t, db.Pool, held[0], "done")
	require.Equal(t, now, one[time.Time](t, db.Pool, "select pgtick.next_run_at($1)", r.id).UTC())
}

// A claim holds no more rows than it needs to choose from: what it does not take is there for others while it is open.
func TestMaxRunning_ByKey_AnOpenClaim_LeavesTheRestToOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, oneForEach)
	exec(t, db.Pool, "select pgtick.enqueue('limited', p_limit_key => n::text) from generate_series(1, 200) as n")
	a, b := register(t, db.Pool), register(t, db.Pool)
	open := session(t, db)
	exec(t, open, "begin")
	require.Len(t, a.claim(t, open, 1), 1)
	require.Len(t, b.claim(t, impatient(t, db), 100), 100)
	exec(t, open, "commit")
}
