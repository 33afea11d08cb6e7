package ties

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/credits"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// ledger has three accounts that are due for this month's credits, and work for the other tasks.
func ledger(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	exec(t, db.Pool, "insert into credits.accounts (user_id, tier, created_at) select ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'standard', now() - interval '1 year' from generate_series(1, 3) as n")
	exec(t, db.Pool, "select credits.grant(a.user_id, 50, 'start') from credits.accounts as a")
	exec(t, db.Pool, "select credits.hold(a.user_id, 5, '1 millisecond', 'hold'), credits.submit(a.user_id, 'addition', 1, 'later') from credits.accounts as a")
	exec(t, db.Pool, "update credits.pending_rules set after = '1 millisecond'")
	return db
}

func work(t *testing.T, db *pgtest.DB) {
	t.Helper()
	registry := tasks.NewRegistry()
	credits.Register(registry)
	db.Work(t, registry)
}

// The four tasks come with their rules, keep them, and a person's change stays.
func TestCreditTasks_KeepTheirRules(t *testing.T) {
	t.Parallel()
	db := ledger(t)
	require.Equal(t, 4, one[int](t, db.Pool, "select count(*) from pgtick.task_rules as r join credits.default_schedules() as s using (task) where r.most_rows = 60000"))
	require.Equal(t, 3, one[int](t, db.Pool, "select count(*) from pgtick.task_rules where cardinality(gates) = 1"))
	for _, name := range all[string](t, db.Pool, "select name from credits.default_schedules()") {
		exec(t, db.Pool, "select pgtick.run_now($1)", name)
	}
	work(t, db)
	require.Equal(t, 4, one[int](t, db.Pool, "select count(*) from pgtick.jobs where task like 'credits.%' and state = 'done'"))
	require.Equal(t, []int64{151, 151, 151}, all[int64](t, db.Pool, "select balance from credits.accounts"))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from credits.violations"))

	exec(t, db.Pool, "select pgtick.set_gates('credits.periodic_credit_allocation', p_most_rows => 7)")
	exec(t, db.Pool, "delete from pgtick.gates")
	exec(t, db.Pool, "delete from pgtick.applied_sql")
	db.Migrate(t)
	require.Equal(t, int64(7), one[int64](t, db.Pool, "select most_rows from pgtick.task_rules where task = 'credits.periodic_credit_allocation'"))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.gates"))
}

// An account that somebody has changed behind the ledger's back, its guards switched off, is not booked on.
func TestCreditTasks_AnAccountThatDoesNotContinueItsEntries_LetsNothingOfTheChunkCommit(t *testing.T) {
	t.Parallel()
	for name, schedule := range map[string]string{
		credits.Allocate: "periodic-credit-allocation", credits.Cleanup: "cleanup-expired-credit-holds", credits.Pending: "process-pending-credit-transactions",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := ledger(t)
			exec(t, db.Pool, "alter table credits.accounts disable trigger user")
			exec(t, db.Pool, "alter table credits.transactions disable trigger user")
			exec(t, db.Pool, "update credits.accounts set balance = balance + 1000000 where user_id = '00000000-0000-0000-0000-000000000002'")
			entries := one[int](t, db.Pool, "select count(*) from credits.transactions where status = 'COMPLETED'")
			id := one[int64](t, db.Pool, "select pgtick.run_now($1)", schedule)
			work(t, db)
			require.Equal(t, "failed", state(t, db.Pool, id))
			require.Contains(t, lastError(t, db.Pool, id), `gate "credits: accounts continue their entries"`)
			require.Contains(t, lastError(t, db.Pool, id), "00000000-0000-0000-0000-000000000002")
			require.Equal(t, entries, one[int](t, db.Pool, "select count(*) from credits.transactions where status = 'COMPLETED'"), "nothing of the chunk stays")
			require.True(t, one[bool](t, db.Pool, "select paused_at is not null from pgtick.schedule_defs where name = $1", schedule))
		})
	}
}

func TestCreditTasks_MoreRowsThanAllowed_LetNothingCommit(t *testing.T) {
	t.Parallel()
	db := ledger(t)
	exec(t, db.Pool, "select pgtick.set_gates(task, p_most_rows => 1) from credits.default_schedules()")
	for _, name := range all[string](t, db.Pool, "select name from credits.default_schedules()") {
		exec(t, db.Pool, "select pgtick.run_now($1)", name)
	}
	work(t, db)
	require.Equal(t, 4, one[int](t, db.Pool, "select count(*) from pgtick.jobs where task like 'credits.%' and state = 'failed' and last_error ->> 'message' like '%rows in one transaction, and may change 1%'"))
	require.Equal(t, []int64{50, 50, 50}, all[int64](t, db.Pool, "select balance from credits.accounts"))
}
