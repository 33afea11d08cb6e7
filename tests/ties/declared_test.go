package ties

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func declare(t *testing.T, q asker, task, defaults string) {
	t.Helper()
	exec(t, q, "select pgtick.declare_task($1, $2)", task, defaults)
}

// limitsOf are the limits of all tasks, with when each was set, in minutes.
func limitsOf(t *testing.T, q asker) []string {
	t.Helper()
	return all[string](t, q, `select concat_ws(' ', d.task, case when d.per_key then 'by key' end, d.rate || ' in ' || date_part('epoch', d.period) || ', ' || d.burst || ' at once', 'max ' || d.max_running,
		case when d.declared then 'by code' else 'by hand' end, 'at :' || to_char(d.set_at at time zone 'UTC', 'MI')) from pgtick.limit_defs as d order by d.task, d.per_key`)
}

// Each of the numbers by itself; what is as it was stays as it was written, so that nobody is told.
func TestDeclareTask_EachNumberThatChanges_IsKeptAndTold_AndNothingElseIs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC))
	told := listenTo(t, db, "pgtick_limits")
	for _, step := range []struct {
		defaults, want string
		told           []string
	}{
		{`{"rate": 100}`, "limited 100 in 1, 10 at once by code at :00", []string{"limited"}},
		{`{"rate": 100}`, "limited 100 in 1, 10 at once by code at :00", []string{}},
		{`{"rate": 101}`, "limited 101 in 1, 10 at once by code at :02", []string{"limited"}},
		{`{"rate": 101, "period_seconds": 2.5}`, "limited 101 in 2.5, 10 at once by code at :03", []string{"limited"}},
		{`{"rate": 101, "period_seconds": 2.5, "burst": 3}`, "limited 101 in 2.5, 3 at once by code at :04", []string{"limited"}},
		{`{"rate": 101, "period_seconds": 2.5, "burst": 3, "max_running": 4}`, "limited 101 in 2.5, 3 at once max 4 by code at :05", []string{"limited"}},
		{`{"rate": 101, "period_seconds": 2.5, "burst": 3, "max_running": 5}`, "limited 101 in 2.5, 3 at once max 5 by code at :06", []string{"limited"}},
		{`{"max_running": 5, "per_key": null}`, "limited max 5 by code at :07", []string{"limited"}},
		{`{"max_running": 5, "rate": null}`, "limited max 5 by code at :07", []string{}},
	} {
		declare(t, db.Pool, "limited", step.defaults)
		require.Equal(t, []string{step.want}, limitsOf(t, db.Pool), step.defaults)
		require.Equal(t, step.told, told.heard(t), step.defaults)
		pgtest.Advance(t, db, time.Minute)
	}
}

func TestDeclareTask_WhatIsSetByHandToTheSame_IsByHandFromThenOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC))
	declare(t, db.Pool, "limited", `{"max_running": 2}`)
	limit(t, db.Pool, twoAtOnce)
	declare(t, db.Pool, "limited", `{"max_running": 7}`)
	require.Equal(t, []string{"limited max 2 by hand at :00"}, limitsOf(t, db.Pool))
	limit(t, db.Pool, "p_max_running => 3, p_period => null")
	require.Equal(t, []string{"limited max 3 by hand at :00"}, limitsOf(t, db.Pool), "a period is of a rate")
}

func TestDeclareTask_ThatDeclaresNoMore_TakesItsOwnAway_AndTellsOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC))
	declare(t, db.Pool, "limited", `{"rate": 5, "per_key": {"rate": 6}}`)
	declare(t, db.Pool, "other", `{"rate": 7, "per_key": {"max_running": 8}}`)
	told := listenTo(t, db, "pgtick_limits")
	declare(t, db.Pool, "limited", `{"per_key": {"rate": 6}}`)
	rest := []string{"limited by key 6 in 1, 1 at once by code at :00", "other 7 in 1, 1 at once by code at :00", "other by key max 8 by code at :00"}
	require.Equal(t, rest, limitsOf(t, db.Pool))
	require.Equal(t, []string{"limited"}, told.heard(t))
	declare(t, db.Pool, "limited", `{"per_key": {"rate": 6}}`)
	require.Empty(t, told.heard(t))
	declare(t, db.Pool, "limited", `{}`)
	require.Equal(t, rest[1:], limitsOf(t, db.Pool))
	require.Equal(t, []string{"limited"}, told.heard(t))
}

func TestRemoveLimit_WhereThereIsNone_DoesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	limit(t, db.Pool, twoAtOnce)
	told := listenTo(t, db, "pgtick_limits")
	exec(t, db.Pool, "select pgtick.remove_limit('limited', true), pgtick.remove_limit('other')")
	require.Empty(t, told.heard(t))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.audit where action = 'remove_limit'"))
	exec(t, db.Pool, "select pgtick.remove_limit('limited')")
	require.Equal(t, []string{"limited"}, told.heard(t))
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.audit where action = 'remove_limit'"))
}

// policiesOf are the retry policies of all tasks, with when each was set, in minutes.
func policiesOf(t *testing.T, q asker) []string {
	t.Helper()
	return all[string](t, q, `select concat_ws(' ', r.task, r.policy ->> 'step', case when r.declared then 'by code' else 'by hand' end, 'at :' || to_char(r.set_at at time zone 'UTC', 'MI'))
		from pgtick.retry_policies as r order by r.task`)
}

func TestDeclareTask_OfARetryPolicy_ComesChangesAndGoes_AndGivesWayToOneSetByHand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC))
	declare(t, db.Pool, "other", `{"retry_policy": {"kind": "linear", "step": "1 s"}}`)
	exec(t, db.Pool, `select pgtick.set_retry_policy('echo', '{"kind": "linear", "step": "2 s"}')`)
	rest := []string{"echo 2 s by hand at :00", "other 1 s by code at :00"}
	for _, step := range []struct {
		defaults string
		want     []string
	}{
		{`{"retry_policy": {"kind": "linear", "step": "3 s"}}`, []string{"limited 3 s by code at :00"}},
		{`{"retry_policy": {"kind": "linear", "step": "3 s"}}`, []string{"limited 3 s by code at :00"}},
		{`{"retry_policy": {"kind": "linear", "step": "4 s"}}`, []string{"limited 4 s by code at :02"}},
		{`{"retry_policy": null}`, nil},
		{`{"retry_policy": {"kind": "linear", "step": "5 s"}}`, []string{"limited 5 s by code at :04"}},
		{`{}`, nil},
	} {
		declare(t, db.Pool, "limited", step.defaults)
		require.ElementsMatch(t, append(step.want, rest...), policiesOf(t, db.Pool), step.defaults)
		pgtest.Advance(t, db, time.Minute)
	}
	for _, defaults := range []string{`{"retry_policy": {"kind": "linear", "step": "9 s"}}`, `{"retry_policy": null}`, `{}`} {
		declare(t, db.Pool, "echo", defaults)
		require.Equal(t, rest, policiesOf(t, db.Pool), defaults)
	}
	refused(t, db.Pool, "TK000", `select pgtick.declare_task('limited', '{"retry_policy": {"kind": "linear", "step": "soon"}}')`)
	require.Equal(t, rest, policiesOf(t, db.Pool))
}
