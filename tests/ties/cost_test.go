package ties

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// None of these tests is parallel to others: those make and drop databases and tables, of which every session of the server is told, and one
// that is told of too much at once forgets all of its catalog and its plans, and reads thousands of pages to plan anew.

// pagesOf is how many pages a query touches, at best of four times in a session: when it has to be planned anew, it also reads the catalog.
func pagesOf(t *testing.T, conn *pgx.Conn, sql string) int {
	t.Helper()
	best := math.MaxInt
	for range 4 {
		var text string
		var plan []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			} `json:"Plan"`
		}
		require.NoError(t, conn.QueryRow(t.Context(), "explain (analyze, buffers, format json) "+sql, pgx.QueryExecModeSimpleProtocol).Scan(&text))
		require.NoError(t, json.Unmarshal([]byte(text), &plan))
		best = min(best, plan[0].Plan.Hit+plan[0].Plan.Read)
	}
	return best
}

// planned is a session that has made its plans while the tables were empty, when all ways cost the same: a plan is kept for good.
func planned(t *testing.T, db *pgtest.DB) *pgx.Conn {
	t.Helper()
	conn := session(t, db)
	r := register(t, conn)
	for range 8 {
		id := one[int64](t, conn, "select pgtick.create_batch('callback')")
		a := enqueue(t, conn, "echo", inBatch(id), inSequence)
		enqueue(t, conn, "echo", inBatch(id), inSequence, after(a))
		enqueue(t, conn, "limited", keyed("x"))
		limit(t, conn, oneForEach)
		for range 4 {
			for _, c := range r.claim(t, conn, 2) {
				r.finish(t, conn, c, "done")
			}
		}
		exec(t, conn, "select pgtick.remove_limit('limited', true)")
		sweep(t, conn)
	}
	require.Zero(t, one[int](t, conn, "select count(*) from pgtick.live_jobs"))
	return conn
}

// fill adds what is not concerned: plain jobs, and many that are tied to others of their own.
func fill(t *testing.T, db *pgtest.DB) {
	t.Helper()
	exec(t, db.Pool, "select pgtick.enqueue_many('elsewhere', array_fill('{}'::jsonb, '{20000}'))")
	exec(t, db.Pool, "select pgtick.enqueue_many('elsewhere', array_fill('{}'::jsonb, '{5000}'), p_after => array[pgtick.enqueue('elsewhere')])")
	exec(t, db.Pool, "select pgtick.enqueue_many('elsewhere', array_fill('{}'::jsonb, '{5000}'), p_batch_id => pgtick.create_batch('elsewhere'))")
	exec(t, db.Pool, "select pgtick.enqueue_many('elsewhere', array_fill('{}'::jsonb, '{5000}'), p_sequence_keys => array_fill('other key'::text, '{5000}'))")
	exec(t, db.Pool, "insert into pgtick.sequences (key) select 'idle ' || n from generate_series(1, 100000) as n")
	exec(t, db.Pool, "delete from pgtick.unsettled")
}

const oneReport = "(select (pgtick.finish(%d, array[c.id], array[c.fence], '{done}')).accepted from pgtick.claim(%[1]d, '{default}', '{echo,limited}', 1) as c)"

// Whatever else lives, the end of a job looks up what is tied to it, and nothing else.
func TestCost_TheEndOfATiedJob_DoesNotGrowWithWhatIsNotTiedToIt(t *testing.T) {
	db := pgtest.New(t)
	conn := planned(t, db)
	r := register(t, conn)
	fill(t, db)
	for name, add := range map[string]func(){
		"plain": func() { enqueue(t, conn, "echo") },
		"after": func() { enqueue(t, conn, "echo", after(enqueue(t, conn, "echo"))) },
		"batch": func() {
			enqueue(t, conn, "echo", inBatch(one[int64](t, conn, "select pgtick.create_batch('callback')")))
		},
		"sequence": func() { enqueue(t, conn, "echo", inSequence); enqueue(t, conn, "echo", inSequence) },
	} {
		for range 5 {
			add()
		}
		pages := pagesOf(t, conn, fmt.Sprintf("select "+oneReport, r.id))
		t.Log(name, pages)
		require.Less(t, pages, 500, name)
		for claims := r.claim(t, conn, 100); len(claims) > 0; claims = r.claim(t, conn, 100) {
			for _, c := range claims {
				r.finish(t, conn, c, "done")
			}
		}
	}
}

// The last of a sequence, of a batch and of those that wait for one job cost what the first did.
func TestCost_OfOneAmongThousands_IsThatOfOne(t *testing.T) {
	db := pgtest.New(t)
	conn := planned(t, db)
	r := register(t, conn)
	const many = "select pgtick.enqueue_many('echo', array_fill('{}'::jsonb, '{5000}'), "
	for name, add := range map[string]string{
		"a sequence": many + "p_sequence_keys => array_fill('k'::text, '{5000}'))",
		"a batch":    many + "p_batch_id => pgtick.create_batch('callback'))",
		"a chain": `do $$ declare v bigint := pgtick.enqueue('echo'); begin
			for n in 1 .. 2000 loop v := pgtick.enqueue('echo', p_after => array[v]); end loop; end $$`,
	} {
		exec(t, conn, add)
		pages := pagesOf(t, conn, fmt.Sprintf("select "+oneReport, r.id))
		t.Log(name, pages)
		require.Less(t, pages, 500, name)
		exec(t, conn, "delete from pgtick.live_jobs where task in ('echo', 'callback')")
		exec(t, conn, "delete from pgtick.job_links")
		exec(t, conn, "update pgtick.batch_defs set finished_at = now()")
		exec(t, conn, "delete from pgtick.sequences")
	}
}

func TestCost_IdleSequences_CostAClaimAndAReportNothing(t *testing.T) {
	db := pgtest.New(t)
	conn := planned(t, db)
	r := register(t, conn)
	idle := fmt.Sprintf("select count(*) from pgtick.claim(%d, '{default}', '{echo}', 10)", r.id)
	before := pagesOf(t, conn, idle)
	exec(t, db.Pool, "insert into pgtick.sequences (key) select 'idle ' || n from generate_series(1, 100000) as n")
	require.LessOrEqual(t, pagesOf(t, conn, idle), before+2)
}

// How many run is written down, not counted: neither what has run nor what waits matters.
func TestCost_OfALimitedClaim_DoesNotGrowWithHistoryOrWhatIsBlocked(t *testing.T) {
	db := pgtest.New(t)
	conn := planned(t, db)
	r := register(t, conn)
	limit(t, conn, "p_max_running => 50")
	limit(t, conn, oneForEach)
	exec(t, conn, "select pgtick.enqueue_many('limited', array_fill('{}'::jsonb, '{3000}'), p_limit_keys => array_fill('x'::text, '{3000}'))")
	for range 30 { // all but one are put aside
		r.claim(t, conn, 50)
	}
	require.Equal(t, 2999, one[int](t, conn, "select count(*) from pgtick.live_jobs where blocked_by = 'limit'"))
	idle := fmt.Sprintf("select count(*) from pgtick.claim(%d, '{default}', '{limited}', 10)", r.id)
	before := pagesOf(t, conn, idle)
	require.Less(t, before, 400)
	for range 300 {
		c := one[int64](t, conn, "select id from pgtick.live_jobs where runner_id is not null")
		r.finish(t, conn, claim{c, one[int64](t, conn, "select fence from pgtick.live_jobs where id = $1", c)}, "done")
		require.Len(t, r.claim(t, conn, 10), 1)
	}
	require.Less(t, pagesOf(t, conn, idle), before+400)
}
