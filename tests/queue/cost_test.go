package queue

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// Speed does not decay with history, nor while a transaction elsewhere keeps all of it from being cleaned away: a runner says up to where it has seen a
// lane, and what was done before that is not walked over again. Not parallel to others, since tables that they make and drop cost every session its plans.
func TestCost_OfAClaimAndItsReport_DoesNotGrowWithWhatIsDone_NorWhileNothingCanBeCleanedAway(t *testing.T) {
	const many = 5_000
	db := pgtest.New(t)
	db.Quiet(t)
	conn, old := session(t, db), session(t, db)
	exec(t, old, "begin isolation level repeatable read")
	exec(t, old, "select count(*) from pgtick.live_jobs")
	r := register(t, db, "r", "echo")
	report := func(claim string) string {
		return fmt.Sprintf("select f.accepted from %s as c, pgtick.finish(%d, array[c.id], array[c.fence], '{done}') as f", claim, r.id)
	}
	seen := func() string { // by a runner that has seen the lane up to the last job that is done
		return report(one[string](t, conn, `select format('pgtick.claim_lanes(%s, ''{default}'', ''{echo}'', 1, ''{echo}'', ''{default}'', ''{5}'', array[%L::timestamptz], ''{%s}'')', $1::bigint, max(run_at), max(id)) from pgtick.history`, r.id))
	}
	enqueue(t, db, "echo", 10)
	exec(t, conn, report(fmt.Sprintf("pgtick.claim(%d, '{default}', '{echo}', 1)", r.id)))
	before := pagesOf(t, conn, seen())

	enqueue(t, db, "echo", many)
	exec(t, conn, fmt.Sprintf(`select count(*) from (select array_agg(c.id) as ids, array_agg(c.fence) as fences from pgtick.claim(%d, '{default}', '{echo}', %d) as c) as c,
		pgtick.finish(%[1]d, c.ids, c.fences, array_fill('done'::text, array[cardinality(c.ids)])) as f`, r.id, many))
	enqueue(t, db, "echo", 10)
	require.Greater(t, one[int](t, conn, "select count(*) from pgtick.history"), many-10)
	pinned := pagesOf(t, conn, seen())
	walked := pagesOf(t, conn, report(fmt.Sprintf("pgtick.claim(%d, '{default}', '{echo}', 1)", r.id)))
	exec(t, old, "rollback")
	exec(t, conn, "vacuum pgtick.live_jobs")
	cleaned := pagesOf(t, conn, report(fmt.Sprintf("pgtick.claim(%d, '{default}', '{echo}', 1)", r.id)))
	t.Logf("pages: %d at first, %d beside %d done jobs that nobody can clean away (%d for who walks over them), %d when they are", before, pinned, many, walked, cleaned)
	require.Less(t, pinned, 2*before)
	require.Less(t, cleaned, 2*before)
	require.Greater(t, walked, 3*before, "so that this test could fail")
}
