package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// The promises that do not hold now, each with what was seen and what to do.
func TestHealth_NamesEachPromiseThatDoesNotHold_AndNothingElse(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	register(t, db, "r", "echo")
	health := func() []string {
		return all[string](t, db.Pool, "select promise || ': ' || what || ': ' || evidence from pgtick.health order by 1")
	}
	require.Empty(t, health())

	old := session(t, db)
	exec(t, old, "set application_name = 'nightly report'")
	exec(t, old, "begin isolation level repeatable read")
	exec(t, old, "select count(*) from pgtick.live_jobs")
	pid := old.PgConn().PID()
	// As if it had been open for longer than the quarter of an hour that counts.
	db.Replace(t, "pgtick.old_transactions(interval)", "old_transactions", "real_old_transactions")
	exec(t, db.Pool, `create or replace function pgtick.old_transactions(p_older_than interval) returns table (pid integer, since timestamptz, who text, what text)
		language sql as $$ select o.* from pgtick.real_old_transactions(p_older_than - interval '15 minutes') as o where o.pid = `+fmt.Sprint(pid)+` $$`)
	found := health()
	require.Len(t, found, 1)
	require.Regexp(t, fmt.Sprintf("^speed does not decay with history: old transaction: pid %d, open since .* by postgres nightly report: idle in its transaction", pid), found[0])
	require.Contains(t, one[string](t, db.Pool, "select remedy from pgtick.health"), fmt.Sprintf("pg_terminate_backend(%d)", pid))
	exec(t, old, "rollback")
	require.Empty(t, health())

	freeze(t, db)
	maintain(t, db)
	r := register(t, db, "frozen", "echo")
	exec(t, db.Pool, "select pgtick.enqueue('nobody.has_it')")
	exec(t, db.Pool, "select pgtick.leave(id) from pgtick.runners where id <> $1", r.id)
	pgtest.Advance(t, db, time.Minute)
	require.Equal(t, []string{"a committed job runs: runner late: runner frozen", "a committed job runs: task without a runner: task nobody.has_it"},
		all[string](t, db.Pool, "select promise || ': ' || what || ': ' || regexp_replace(evidence, '( \\(|: ).*', '') from pgtick.health order by 1"))
}
