package ties

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// gated is a database with accounts that must not go below zero, and a claim of the task that the gate is for.
func gated(t *testing.T) (*pgtest.DB, runner, claim) {
	t.Helper()
	db := pgtest.New(t)
	exec(t, db.Pool, "create table public.accounts (owner text, balance int); insert into public.accounts values ('ann', 5)")
	exec(t, db.Pool, "select pgtick.allow_gate('no debts', 'select a.owner, a.balance from public.accounts as a where a.balance < 0 -- nobody owes us')")
	exec(t, db.Pool, "select pgtick.set_gates('echo', '{no debts}')")
	r := register(t, db.Pool)
	return db, r, r.take(t, db.Pool, enqueue(t, db.Pool, "echo"))
}

var checks = map[string]string{"check_claim": "select pgtick.check_claim($1, $2)", "finish_in_transaction": "select pgtick.finish_in_transaction($1, $2)"}

func TestGate_AViolation_LetsNothingCommit_AndShowsTheRows(t *testing.T) {
	t.Parallel()
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, _, c := gated(t)
			task := session(t, db)
			exec(t, task, "begin")
			exec(t, task, "update public.accounts set balance = balance - 7")
			pg := refused(t, task, "TK022", check, c.id, c.fence)
			require.Contains(t, pg.Message, `gate "no debts" does not let task echo commit`)
			require.JSONEq(t, `[{"owner": "ann", "balance": -2}]`, pg.Detail)
			exec(t, task, "rollback")
			require.Equal(t, 5, one[int](t, db.Pool, "select balance from public.accounts"))
			require.Equal(t, "running", state(t, db.Pool, c.id))
		})
	}
}

func TestGate_ThatHolds_LetsPass(t *testing.T) {
	t.Parallel()
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, _, c := gated(t)
			task := session(t, db)
			exec(t, task, "begin")
			exec(t, task, "update public.accounts set balance = balance - 5")
			exec(t, task, check, c.id, c.fence)
			exec(t, task, "commit")
			require.Zero(t, one[int](t, db.Pool, "select balance from public.accounts"))
		})
	}
}

func TestGate_IsForItsTaskAlone_AndOnlyAsLongAsItIsSet(t *testing.T) {
	t.Parallel()
	db, r, c := gated(t)
	exec(t, db.Pool, "update public.accounts set balance = -1")
	other := enqueue(t, db.Pool, "other")
	free := r.take(t, db.Pool, other)
	exec(t, db.Pool, "select pgtick.check_claim($1, $2)", free.id, free.fence)
	refused(t, db.Pool, "TK022", "select pgtick.check_claim($1, $2)", c.id, c.fence)
	r.finish(t, db.Pool, c, "error")
	exec(t, db.Pool, "select pgtick.set_gates('echo')")
	c = r.take(t, db.Pool, c.id)
	exec(t, db.Pool, "select pgtick.check_claim($1, $2)", c.id, c.fence)
}

func TestGate_ManyRows_ShowTwenty(t *testing.T) {
	t.Parallel()
	db, _, c := gated(t)
	exec(t, db.Pool, "insert into public.accounts select repeat('x', 1000), -n from generate_series(1, 1000) as n")
	pg := refused(t, db.Pool, "TK022", "select pgtick.check_claim($1, $2)", c.id, c.fence)
	require.LessOrEqual(t, len(pg.Message), 2000)
	require.LessOrEqual(t, len(pg.Detail), 6000)
}

func TestMostRows_MoreThanAllowed_LetsNothingCommit(t *testing.T) {
	t.Parallel()
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, r, c := gated(t)
			exec(t, db.Pool, "select pgtick.set_gates('echo', p_most_rows => 10)")
			task := session(t, db)
			exec(t, task, "insert into public.accounts select 'before', 1 from generate_series(1, 100)") // of an earlier transaction
			exec(t, task, "begin")
			exec(t, task, "select pgtick.watch_rows()")
			exec(t, task, "insert into public.accounts select 'bob', n from generate_series(1, 6) as n")
			exec(t, task, "update public.accounts set balance = 0 where owner = 'bob' and balance > 3")
			exec(t, task, "delete from public.accounts where owner = 'bob' and balance = 1")
			exec(t, task, "savepoint here")
			exec(t, task, "select pgtick.check_claim($1, $2)", c.id, c.fence)
			exec(t, task, "insert into public.accounts values ('cat', 1)")
			pg := refused(t, task, "TK023", check, c.id, c.fence)
			require.Contains(t, pg.Message, "task echo changed 11 rows in one transaction, and may change 10")
			exec(t, task, "rollback")
			require.Zero(t, one[int](t, db.Pool, "select count(*) from public.accounts where owner in ('bob', 'cat')"))
			r.finish(t, db.Pool, c, "failed")
		})
	}
}

func TestMostRows_ATransactionThatDoesNotCount_IsRefused(t *testing.T) {
	t.Parallel()
	db, _, c := gated(t)
	exec(t, db.Pool, "select pgtick.set_gates('echo', p_most_rows => 10)")
	require.Contains(t, refused(t, db.Pool, "TK023", "select pgtick.check_claim($1, $2)", c.id, c.fence).Hint, "pgtick.watch_rows()")
}

// What a gate refuses it would refuse again, every minute.
func TestGate_Refused_PausesTheSchedule(t *testing.T) {
	t.Parallel()
	db, r, c := gated(t)
	require.Nil(t, one[*string](t, db.Pool, "select pgtick.gate_refused($1, $2, 'why')", c.id, c.fence), "it has none")
	r.finish(t, db.Pool, c, "done")
	exec(t, db.Pool, "select pgtick.schedule('daily', '@daily', 'echo')")
	c = r.take(t, db.Pool, one[int64](t, db.Pool, "select pgtick.run_now('daily')"))
	require.Nil(t, one[*string](t, db.Pool, "select pgtick.gate_refused($1, $2, 'why')", c.id, c.fence+1), "nor may who lost the claim")
	require.Equal(t, "daily", one[string](t, db.Pool, "select pgtick.gate_refused($1, $2, 'why')", c.id, c.fence))
	require.True(t, one[bool](t, db.Pool, "select paused_at is not null from pgtick.schedule_defs where name = 'daily'"))
	require.Equal(t, "why", one[string](t, db.Pool, "select details ->> 'why' from pgtick.audit where action = 'gate_refused' and subject = 'daily'"))
}

func TestGate_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.allow_gate('fine', 'select 1 where false')")
	for _, query := range []string{"null", "''", "' '", "'select 1;'", "'select * from nowhere'", "'select 1) as x; drop table pgtick.gates; --'", "'delete from pgtick.gates returning 1'",
		"'with gone as (delete from pgtick.gates returning 1) select * from gone'"} {
		pg := refused(t, db.Pool, "TK000", "select pgtick.allow_gate('g', "+query+")")
		require.True(t, strings.HasPrefix(pg.Message, "query "), pg.Message)
	}
	for field, call := range map[string]string{"name": "allow_gate('', 'select 1')", "gates": "set_gates('echo', '{fine,missing}')", "most_rows": "set_gates('echo', p_most_rows => 0)",
		"task": "set_gates('', '{fine}')"} {
		require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick."+call).Message, field)
	}
	for _, gates := range []string{`["missing"]`, `"missing"`, `{"missing": 1}`, `7`, `[null]`} {
		require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick.declare_task('echo', jsonb_build_object('gates', $1::jsonb))", gates).Message, "gates ")
	}
	require.Equal(t, []string{"fine"}, all[string](t, db.Pool, "select name from pgtick.gates where name not like 'credits:%'"))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.task_rules where task = 'echo'"))
}

func TestGate_WhatIsSetByHand_GoesBeforeWhatCodeDeclares(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "select pgtick.allow_gate('a', 'select 1 where false'), pgtick.allow_gate('b', 'select 1 where false')")
	declare := func(defaults string) string {
		exec(t, db.Pool, "select pgtick.declare_task('echo', $1)", defaults)
		return one[string](t, db.Pool, "select coalesce((select concat_ws(' ', gates, most_rows, declared) from pgtick.task_rules where task = 'echo'), 'none')")
	}
	const code = `{"gates": ["a"], "most_rows": 100}`
	require.Equal(t, "{a} 100 t", declare(code))
	require.Equal(t, "none", declare("{}"))
	exec(t, db.Pool, "select pgtick.set_gates('echo', '{b}')")
	require.Equal(t, "{b} f", declare(code))
	require.Equal(t, "{b} f", declare("{}"))
}

// What is as it was stays as it was written, so that nobody is told; and what is declared of one task is no other's.
func TestGate_OfADeclaration_ComesChangesAndGoes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC))
	exec(t, db.Pool, "select pgtick.allow_gate('a', 'select 1 where false'), pgtick.allow_gate('b', 'select 1 where false')")
	declare(t, db.Pool, "other", `{"gates": ["a", "b"], "most_rows": 7}`)
	told := listenTo(t, db, "pgtick_limits")
	for _, step := range []struct {
		defaults string
		want     []string
	}{
		{`{"gates": ["a"]}`, []string{"echo {a} by code at :00"}},
		{`{"gates": ["a"]}`, []string{"echo {a} by code at :00"}},
		{`{"gates": ["b"]}`, []string{"echo {b} by code at :02"}},
		{`{"gates": ["b"], "most_rows": 5}`, []string{"echo {b} 5 by code at :03"}},
		{`{"gates": null, "most_rows": 6}`, []string{"echo {} 6 by code at :04"}},
		{`{"most_rows": 6}`, []string{"echo {} 6 by code at :04"}},
		{`{"most_rows": null}`, nil},
		{`{"most_rows": 8}`, []string{"echo {} 8 by code at :07"}},
	} {
		before := rulesOf(t, db.Pool)
		declare(t, db.Pool, "echo", step.defaults)
		require.Equal(t, append(step.want, "other {a,b} 7 by code at :00"), rulesOf(t, db.Pool), step.defaults)
		if heard := told.heard(t); len(step.want) > 0 { // (who goes back to none hears of it within a minute)
			require.Equal(t, !slices.Equal(before, rulesOf(t, db.Pool)), slices.Equal(heard, []string{"echo"}), "%s: %s", step.defaults, heard)
		}
		pgtest.Advance(t, db, time.Minute)
	}
	exec(t, db.Pool, "select pgtick.set_gates('echo', p_most_rows => 8)")
	require.Equal(t, []string{"echo {} 8 by hand at :08", "other {a,b} 7 by code at :00"}, rulesOf(t, db.Pool), "the same, and by hand from now on")
	declare(t, db.Pool, "echo", `{"most_rows": 9}`)
	require.Equal(t, "echo {} 8 by hand at :08", rulesOf(t, db.Pool)[0])
}

func rulesOf(t *testing.T, q asker) []string {
	t.Helper()
	return all[string](t, q, `select concat_ws(' ', r.task, r.gates, r.most_rows, case when r.declared then 'by code' else 'by hand' end, 'at :' || to_char(r.set_at at time zone 'UTC', 'MI'))
		from pgtick.task_rules as r where r.task in ('echo', 'other') order by r.task`)
}

// pgtick's own rows are not the task's: what it enqueues and notes counts for nothing.
func TestMostRows_CountsTheTasksRowsAlone(t *testing.T) {
	t.Parallel()
	db, _, c := gated(t)
	exec(t, db.Pool, "select pgtick.set_gates('echo', p_most_rows => 2)")
	task := session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.watch_rows()")
	exec(t, task, "select pgtick.enqueue('other') from generate_series(1, 10)")
	exec(t, task, "insert into public.accounts values ('bob', 1), ('cat', 1)")
	exec(t, task, "select pgtick.check_claim($1, $2)", c.id, c.fence)
	exec(t, task, "commit")
}
