package ties

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// as runs in a session that has taken on a role.
func as(t *testing.T, db *pgtest.DB, role string) *pgx.Conn {
	t.Helper()
	conn := session(t, db)
	exec(t, conn, "set role "+role)
	return conn
}

// A runner's login may do all that the protocol needs, with all kinds of ties in use, and no more.
func TestRights_TheRunner_DoesItsWork_AndSetsNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, twoAtOnce)
	limit(t, db.Pool, oneForEach)
	exec(t, db.Pool, "select pgtick.allow_gate('g', 'select 1 where false'), pgtick.set_gates('limited', '{g}', 10)")
	conn := connect(t, pgtest.RunnerURL(t, db))
	exec(t, conn, `select pgtick.declare_task('other', '{"max_running": 3, "rate": 5, "gates": ["g"], "retry_policy": {"kind": "linear", "step": "1 s"}}')`)
	r := register(t, conn)
	id := one[int64](t, conn, "select pgtick.create_batch('callback')")
	first := enqueue(t, conn, "limited", inBatch(id), inSequence, keyed("x"))
	enqueue(t, conn, "limited", inBatch(id), inSequence, keyed("x"), after(first))
	c := r.take(t, conn, first)
	exec(t, conn, "begin")
	exec(t, conn, "select pgtick.watch_rows()")
	waitFor(t, conn, c, "any", enqueue(t, conn, "child"))
	exec(t, conn, "commit")
	for range 4 {
		for _, c := range r.claim(t, conn, 10) {
			exec(t, conn, "begin")
			exec(t, conn, "select pgtick.watch_rows()")
			exec(t, conn, "select pgtick.finish_in_transaction($1, $2)", c.id, c.fence)
			exec(t, conn, "commit")
		}
		exec(t, conn, "select pgtick.rescue()")
	}
	clean(t, db)
	exec(t, conn, "select pgtick.hold_back($1, '{}', '{}', '{}', '{}', '{}'), pgtick.say_limits($1, true)", r.id)
	require.Len(t, all[string](t, conn, "select task from pgtick.limit_rules($1)", r.id), 1)
	for _, call := range []string{"set_limit('other', 1)", "remove_limit('other')", "set_gates('other')", "allow_gate('h', 'select 1')", "resume_sequence('k')", "settle(null, now())",
		"sweep_ties(now())", "unblock('{1}', now())", "check_rules('other')", "write_rules('other', '{}', 1, true)", "free_places(null, now())"} {
		refused(t, conn, "42501", "select pgtick."+call)
	}
	for _, table := range []string{"job_links", "batch_defs", "sequences", "limit_defs", "limit_places", "unsettled", "gates", "task_rules"} {
		refused(t, conn, "42501", "select from pgtick."+table)
	}
}

func TestRights_ServiceRole_SetsLimitsAndGates_ButWritesNoQuery(t *testing.T) {
	t.Parallel()
	db := pgtest.NewOn(t, pgtest.Server(t)) // a server of its own: roles belong to the whole of it
	exec(t, db.Pool, "create role anon; create role authenticated; create role service_role")
	db.Migrate(t)
	exec(t, db.Pool, "select pgtick.allow_gate('g', 'select 1 where false')")
	service := as(t, db, "service_role")
	exec(t, service, "select pgtick.set_limit('echo', 5, p_max_running => 2), pgtick.remove_limit('echo'), pgtick.set_gates('echo', '{g}', 5)")
	first := enqueue(t, service, "echo", inSequence)
	enqueue(t, service, "echo", inSequence, after(first), inBatch(one[int64](t, service, "select pgtick.create_batch('callback')")))
	exec(t, service, "select pgtick.cancel($1), pgtick.resume_sequence('k')", first)
	for _, view := range []string{"jobs", "batches", "limits", "sequence_stops", "health", "job_links", "gates", "task_rules"} {
		exec(t, service, "select * from pgtick."+view)
	}
	for _, call := range []string{"allow_gate('h', 'select 1')", "declare_task('echo', '{}')", "wait_for(1, 1, '{}')", "gate_refused(1, 1, 'why')", "hold_back(1, '{}', '{}', '{}', '{}', '{}')", "watch_rows()"} {
		refused(t, service, "42501", "select pgtick."+call)
	}
	for _, role := range []string{"anon", "authenticated"} {
		conn := as(t, db, role)
		for _, call := range []string{"enqueue('echo', p_sequence_key => 'k')", "create_batch('echo')", "set_limit('echo', 1)", "resume_sequence('k')", "set_gates('echo')", "wait_for(1, 1, '{}')"} {
			refused(t, conn, "42501", "select pgtick."+call)
		}
		for _, view := range []string{"batches", "limits", "sequence_stops", "job_links", "sequences", "limit_places", "gates"} {
			refused(t, conn, "42501", "select * from pgtick."+view)
		}
	}
}
