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
