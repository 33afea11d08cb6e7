package ties

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// heldBack makes a hundred jobs with a rate, of which the first ten have been put off for a second.
func heldBack(t *testing.T, db *pgtest.DB, r runner, now time.Time) (ids []int64) {
	t.Helper()
	exec(t, db.Pool, "select pgtick.set_limit('limited', 10, '1 second')")
	ids = all[int64](t, db.Pool, "select * from pgtick.enqueue_many('limited', array_fill('{}'::jsonb, '{100}'))")
	asked := r.claim(t, db.Pool, 10, "limited")
	require.Equal(t, ids[:10], idsOf(asked))
	require.Equal(t, 10, one[int](t, db.Pool, `select pgtick.hold_back($1, $2, array_fill($3::bigint, '{10}'), array_fill($4::timestamptz, '{10}'), array_fill('t:1'::text, '{10}'),
		array_fill((select set_at from pgtick.limit_rules($1)), '{10}'))`, r.id, idsOf(asked), asked[0].fence, now.Add(time.Second)))
	return ids
}

func TestRate_JobsWhoseTimeHasCome_AreHalfOfAClaim_BeforeThoseThatNobodyHasAskedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	r := register(t, db.Pool)
	ids := heldBack(t, db, r, now)

	pgtest.SetNow(t, db, now.Add(time.Second-time.Microsecond))
	require.Equal(t, ids[10:20], idsOf(r.claim(t, db.Pool, 10, "limited")), "none of them has come to its time")
	pgtest.SetNow(t, db, now.Add(1100*time.Millisecond))
	require.ElementsMatch(t, append(ids[:5:5], ids[20:25]...), idsOf(r.claim(t, db.Pool, 10, "limited")))
}

func TestRate_JobsThatAreFiveSecondsLate_WaitInLineLikeAllOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	r := register(t, db.Pool)
	ids := heldBack(t, db, r, now)

	pgtest.SetNow(t, db, now.Add(6*time.Second))
	require.Equal(t, ids[10:90], idsOf(r.claim(t, db.Pool, 80, "limited")))
	require.ElementsMatch(t, append(ids[:10:10], ids[90:]...), idsOf(r.claim(t, db.Pool, 80, "limited")))
}

// Of jobs that run, or whose times are still to come, however many, none takes the place of one whose time is there.
func TestRate_JobsWhoseTimeHasCome_AreFoundAmongOthersWithKeptTimes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	r := register(t, db.Pool)
	ids := heldBack(t, db, r, now)
	exec(t, db.Pool, "update pgtick.live_jobs set reservation = 'mark', run_at = $2 where id = any ($1)", ids[80:], now.Add(time.Hour))
	pgtest.SetNow(t, db, now.Add(1100*time.Millisecond))
	require.ElementsMatch(t, append(ids[:5:5], ids[10:15]...), idsOf(r.claim(t, db.Pool, 10, "limited")))
	require.ElementsMatch(t, append(ids[5:10:10], ids[15:20]...), idsOf(r.claim(t, db.Pool, 10, "limited")))
}

// Jobs for which no time was kept, and that came a moment before, are not among that half.
func TestRate_JobsWhoseTimeHasCome_AreHalfOfAClaim_AlsoBesideNewOnes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	limit(t, db.Pool, "10, '1 second'")
	r := register(t, db.Pool)
	old := several(t, db.Pool, 20)
	pgtest.SetNow(t, db, now.Add(10*time.Second))
	several(t, db.Pool, 4)
	kept := several(t, db.Pool, 6)
	exec(t, db.Pool, "update pgtick.live_jobs set reservation = 'mark', run_at = $2 where id = any ($1)", kept, now.Add(11*time.Second))
	pgtest.SetNow(t, db, now.Add(11100*time.Millisecond))
	require.ElementsMatch(t, append(old[:5:5], kept[:5]...), idsOf(r.claim(t, db.Pool, 10, "limited")))
}

// Nor are those of other tasks, queues or priorities than are asked for.
func TestRate_JobsWhoseTimeHasCome_AreOfTheLanesThatAreAskedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	exec(t, db.Pool, "select pgtick.set_limit(t, 10) from unnest('{limited,other}'::text[]) as t")
	r := register(t, db.Pool)
	id := enqueue(t, db.Pool, "limited")
	for _, job := range []string{"'other'", "'limited', p_queue => 'elsewhere'", "'limited', p_priority => 7"} {
		exec(t, db.Pool, "select pgtick.enqueue("+job+")")
	}
	exec(t, db.Pool, "update pgtick.live_jobs set reservation = 'mark'")
	require.Equal(t, []int64{id}, all[int64](t, db.Pool, `select id from pgtick.claim_lanes($1, '{default}', '{limited,other}', 10, '{limited}', '{default}', '{5}', array[$2::timestamptz], '{0}')`, r.id, now))
}

// What a time was kept for has gone with the rate, so they are asked for anew, in the order of their ids; nothing else is touched.
func TestRate_ThatIsChanged_GivesUpTheTimesKeptForIt_AndNoOther(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	exec(t, db.Pool, "select pgtick.set_limit('limited', 10, p_max_running => 5)")
	kept, running, blocked := enqueue(t, db.Pool, "limited"), enqueue(t, db.Pool, "limited", "p_priority => 0"), enqueue(t, db.Pool, "limited", after(enqueue(t, db.Pool, "echo")))
	delayed, other := enqueue(t, db.Pool, "limited", "p_run_at => '2031-05-04 13:00Z'"), enqueue(t, db.Pool, "other")
	r := register(t, db.Pool)
	require.Equal(t, running, r.claim(t, db.Pool, 1, "limited")[0].id)
	exec(t, db.Pool, "update pgtick.live_jobs set reservation = 'mark' where id <> $1", delayed)
	exec(t, db.Pool, "update pgtick.live_jobs set run_at = '2031-05-04 12:01Z' where id = any ($1)", []int64{kept, other})
	times := func() []string {
		return all[string](t, db.Pool, "select concat_ws(' ', j.id, case when isfinite(j.run_at) then to_char(j.run_at at time zone 'UTC', 'HH24:MI') end, j.reservation) from pgtick.live_jobs as j where j.id = any ($1) order by j.id",
			[]int64{kept, running, blocked, delayed, other})
	}
	before := times()
	exec(t, db.Pool, "select pgtick.set_limit('limited', 10, p_max_running => 6)")
	require.Equal(t, before, times(), "the rate is as it was")

	r.asleep(t, db)
	ear := listen(t, db)
	exec(t, db.Pool, "select pgtick.set_limit('limited', 20, p_max_running => 6)")
	before[0] = strings.Replace(before[0], "12:01 mark", "12:00", 1)
	require.Equal(t, before, times())
	require.Contains(t, ear.heard(t), "default", "who slept until the time that was kept looks now")
}

// Whichever of the three it is that changes.
func TestRate_WhosePeriodOrBurstAloneIsChanged_GivesUpTheTimesKeptForIt(t *testing.T) {
	t.Parallel()
	for _, changed := range []string{"11, '2 seconds', 5", "10, '3 seconds', 5", "10, '2 seconds', 6"} {
		db := pgtest.New(t)
		now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
		pgtest.SetNow(t, db, now)
		limit(t, db.Pool, "10, '2 seconds', 5")
		r := register(t, db.Pool)
		several(t, db.Pool, 1)
		c := r.claim(t, db.Pool, 1)
		require.Equal(t, 1, holdBack(t, db.Pool, r, now.Add(time.Hour), put{c[0], now}))
		limit(t, db.Pool, changed)
		require.Equal(t, []string{"12:00:00"}, kept(t, db.Pool, c[0].id), changed)
	}
}

func TestRate_HoldBack_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db.Pool)
	c := r.take(t, db.Pool, enqueue(t, db.Pool, "limited"))
	call := func(fences, times, marks, setAt string) string {
		return "select pgtick.hold_back($1, array[$2::bigint], " + strings.Join([]string{fences, times, marks, setAt}, ", ") + ")"
	}
	for _, bad := range []string{
		call("'{}'", "array[now()]", "'{m}'", "'{null}'"), call("'{1}'", "'{}'", "'{m}'", "'{null}'"), call("'{1}'", "array[now()]", "'{}'", "'{null}'"),
		call("'{1}'", "array[now()]", "'{m}'", "'{}'"), call("null", "array[now()]", "'{m}'", "'{null}'"), call("'{1}'", "array[now()]", "'{m}'", "null"),
		call("'{1}'", "'{null}'", "'{m}'", "'{null}'"), call("'{1}'", "'{infinity}'", "'{m}'", "'{null}'"),
	} {
		refused(t, db.Pool, "TK000", bad, r.id, c.id)
	}
	r.finish(t, db.Pool, c, "done")
}

// put is a claim that hold_back is to put off, and the time at which its rate was set, as the runner knows it.
type put struct {
	claim
	setAt time.Time
}

func holdBack(t *testing.T, q asker, r runner, at time.Time, puts ...put) int {
	t.Helper()
	var ids, fences []int64
	var setAt []time.Time
	for _, p := range puts {
		ids, fences, setAt = append(ids, p.id), append(fences, p.fence), append(setAt, p.setAt)
	}
	n := len(puts)
	return one[int](t, q, "select pgtick.hold_back($1, $2, $3, array_fill($4::timestamptz, array[$5::int]), array_fill('mark'::text, array[$5::int]), $6)", r.id, ids, fences, at, n, setAt)
}

// kept is when jobs run, and what is kept for them.
func kept(t *testing.T, q asker, ids ...int64) []string {
	t.Helper()
	return all[string](t, q, "select concat_ws(' ', to_char(j.run_at at time zone 'UTC', 'HH24:MI:SS'), j.reservation, j.runner_id) from pgtick.live_jobs as j where j.id = any ($1) order by j.id", ids)
}

// A time counts only where it was given by the rate that this job's task has now.
func TestRate_HoldBack_KeepsNoTimeOfARateThatHasChanged(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	exec(t, db.Pool, "select pgtick.set_limit(t, 10) from unnest('{limited,other,echo}'::text[]) as t")
	r := register(t, db.Pool)
	for _, task := range []string{"limited", "limited", "other", "echo"} {
		enqueue(t, db.Pool, task)
	}
	c := r.claim(t, db.Pool, 10)
	pgtest.SetNow(t, db, now.Add(10*time.Second))
	limit(t, db.Pool, "20, p_per_key => true")
	exec(t, db.Pool, "select pgtick.set_limit('other', 20)")
	pgtest.SetNow(t, db, now)
	exec(t, db.Pool, "select pgtick.set_limit('echo', p_max_running => 20)") // at the same instant, and no rate any more
	pgtest.SetNow(t, db, now.Add(10*time.Second))
	require.Equal(t, 4, holdBack(t, db.Pool, r, now.Add(time.Hour), put{c[0], now}, put{c[1], now.Add(time.Second)}, put{c[2], now}, put{c[3], now}))
	require.Equal(t, []string{"13:00:00 mark", "12:00:11", "12:00:11", "12:00:11"}, kept(t, db.Pool, idsOf(c)...))
}

func TestRate_HoldBack_PassesOverWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	limit(t, db.Pool, "10")
	r, another := register(t, db.Pool), register(t, db.Pool)
	several(t, db.Pool, 3)
	c := r.claim(t, db.Pool, 3)
	before := kept(t, db.Pool, idsOf(c)...)
	require.Zero(t, holdBack(t, db.Pool, another, now.Add(time.Hour), put{c[0], now}))
	require.Zero(t, holdBack(t, db.Pool, r, now.Add(time.Hour), put{claim{c[0].id, c[0].fence + 1}, now}))
	require.Equal(t, before, kept(t, db.Pool, idsOf(c)...))

	lockJob(t, db, c[0].id)
	require.Equal(t, 1, holdBack(t, impatient(t, db), r, now.Add(time.Hour), put{c[0], now}, put{c[1], now}))
	before[1] = "13:00:00 mark"
	require.Equal(t, before, kept(t, db.Pool, idsOf(c)...))
}

// Of a change that has not committed nobody knows: the job asks again in a second, and nobody waits.
func TestRate_HoldBack_BesideAChangeThatIsOpen_KeepsNoTime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	limit(t, db.Pool, "10")
	r := register(t, db.Pool)
	several(t, db.Pool, 1)
	c := r.claim(t, db.Pool, 1)
	changing := session(t, db)
	exec(t, changing, "begin")
	limit(t, changing, "20")
	require.Equal(t, 1, holdBack(t, impatient(t, db), r, now.Add(time.Hour), put{c[0], now}))
	require.Equal(t, []string{"12:00:01"}, kept(t, db.Pool, c[0].id))
	exec(t, changing, "commit")
}

// A change waits for who is just putting jobs off by the old rate, and then finds them; what concerns other tasks waits for nobody.
func TestRate_AChangeBesideAnOpenHoldBack_GivesUpWhatItKeeps(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	limit(t, db.Pool, "10")
	pgtest.SetNow(t, db, now.Add(time.Second))
	exec(t, db.Pool, "select pgtick.set_limit('other', 10)")
	r := register(t, db.Pool)
	several(t, db.Pool, 1)
	c := r.claim(t, db.Pool, 1)
	holding, changing := session(t, db), session(t, db)
	exec(t, holding, "begin")
	require.Equal(t, 1, holdBack(t, holding, r, now.Add(time.Hour), put{c[0], now}))
	exec(t, impatient(t, db), "select pgtick.set_limit('other', 11)")
	ended := inBackground(t, changing, "select pgtick.set_limit('limited', 20)")
	awaitLock(t, db, changing)
	exec(t, holding, "commit")
	require.NoError(t, <-ended)
	require.Equal(t, []string{"12:00:01"}, kept(t, db.Pool, c[0].id))
}

// What another session has in its hands keeps its time, and holds nobody up; where nothing was kept, nobody is woken.
func TestRate_AChange_WaitsForNoJob_AndWakesForNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)
	pgtest.SetNow(t, db, now)
	limit(t, db.Pool, "10")
	r := register(t, db.Pool)
	several(t, db.Pool, 2)
	c := r.claim(t, db.Pool, 2)
	r.asleep(t, db)
	ear := listen(t, db)
	limit(t, db.Pool, "11")
	require.Empty(t, ear.heard(t))
	require.Equal(t, 2, holdBack(t, db.Pool, r, now.Add(time.Hour), put{c[0], now}, put{c[1], now}))
	lockJob(t, db, c[0].id)
	limit(t, impatient(t, db), "12")
	require.Equal(t, []string{"13:00:00 mark", "12:00:00"}, kept(t, db.Pool, idsOf(c)...))
}

// The runners keep a rate together, so they are told when one of them has to do it without Redis, or again with it.
func TestSayLimits_TellsAllRunners_WhenItChanges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, another := register(t, db.Pool), register(t, db.Pool)
	told := listenTo(t, db, "pgtick_limits")
	say := func(local string) []string {
		exec(t, db.Pool, "select pgtick.say_limits($1, $2::boolean)", r.id, local)
		return told.heard(t)
	}
	require.Equal(t, []string{""}, say("true"))
	require.Equal(t, []string{}, say("true"))
	require.Equal(t, []string{""}, say("false"))
	require.Nil(t, one[*bool](t, db.Pool, "select limits_local from pgtick.runner_leases where id = $1", another.id), "it has said nothing")
}
