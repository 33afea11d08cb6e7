package credits_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestPending_GoesOnFromItsPosition_AlsoAmongEntriesOfOneMoment(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	pgtest.SetNow(t, l.DB, time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC))
	ids := all[int64](l, "select credits.submit($1, 'addition', 1, g::text) from generate_series(1, 5) as g", user)
	require.EqualValues(t, 1, one[int64](l, "select count(distinct created_at) from credits.transactions where id = any ($1)", ids))
	pgtest.Advance(t, l.DB, 25*time.Hour)

	const after = "select array[c.seen, c.committed, c.last_id] from credits.resolve_chunk((select created_at from credits.transactions where id = $1), $1, 2) as c"
	require.Equal(t, []int64{2, 2, ids[3]}, one[[]int64](l, after, ids[1]), "neither what is before the position nor the position itself")
	require.Equal(t, []int64{1, 1, ids[4]}, one[[]int64](l, after, ids[3]))
	require.Equal(t, "0", one[string](l, "select c.seen::text from credits.resolve_chunk((select created_at from credits.transactions where id = $1), $1, 2) as c", ids[4]))
	require.Equal(t, []string{"PENDING", "PENDING", "COMPLETED", "COMPLETED", "COMPLETED"}, all[string](l, "select status from credits.transactions where id = any ($1) order by id", ids))
	require.Equal(t, []int64{2, 2, ids[1]}, one[[]int64](l, "select array[c.seen, c.committed, c.last_id] from credits.resolve_chunk(null, null, 10) as c"))
}

func TestSync_IntoThisDatabase_PassesOverWhatAnotherTargetHasRefused_UntilItIsToBeTriedAgain_AndThenForgetsTheRefusal(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	ids := all[int64](l, "select id from credits.transactions where user_id = $1", user)
	l.exec("select credits.set_aside($1, 'https://project.example', 'too large')", ids[0])
	l.exec("select credits.charge($1, 5, 'c')", user)
	const sync = "select array[coalesce(c.todo, -1), c.synced] from credits.sync_chunk(null, 100) as c"
	require.Equal(t, []int64{1, 1}, one[[]int64](l, sync))
	require.False(t, one[bool](l, "select synced_to_supabase from credits.transactions where id = $1", ids[0]))
	require.Equal(t, []int64{0, 0}, one[[]int64](l, sync))
	require.EqualValues(t, 1, one[int64](l, "select count(*) from credits.sync_refusals"))

	require.EqualValues(t, 1, one[int64](l, "select credits.retry_refused()"))
	require.Equal(t, []int64{1, 1}, one[[]int64](l, sync))
	require.True(t, one[bool](l, "select synced_to_supabase from credits.transactions where id = $1", ids[0]))
	require.EqualValues(t, 1, one[int64](l, "select count(*) from analytics.credit_usage where transaction_id = $1", ids[0]))
	require.Zero(t, one[int64](l, "select count(*) from credits.sync_refusals"))
}
