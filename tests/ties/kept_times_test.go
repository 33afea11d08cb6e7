package ties

import (
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
