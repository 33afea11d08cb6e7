package runner

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// shop is an application beside pgtick: a table, a role that may write to it, and functions.
func shop(t *testing.T) *pgtest.DB {
	t.Helper()
	db := fresh(t)
	url := pgtest.RunnerURL(t, db) // makes the runner's role one that can log in
	require.NotEmpty(t, url)
	role := clerk(t, db)
	for _, statement := range []string{
		`create schema shop`, `create table shop.orders (id bigint primary key, tags text[], paid_at timestamptz, by_role text not null default current_user)`,
		`create type shop.size as enum ('small', 'large')`,
		`create function shop.pay(order_id bigint, tags text[] default '{}', at timestamptz default null, size shop.size default 'small') returns jsonb language sql
			as $$ insert into shop.orders (id, tags, paid_at) values (order_id, tags, at) returning jsonb_build_object('id', id, 'role', current_user, 'size', size) $$`,
		`create function shop.clear() returns void language sql as $$ delete from shop.orders $$`,
		`create function shop.list() returns setof shop.orders language sql as $$ select * from shop.orders order by id $$`,
		`create function shop.slow() returns void language sql as $$ select pg_sleep(600) $$`,
		`create function shop.fail(why text) returns void language plpgsql as $$ begin insert into shop.orders values (99); raise exception 'no: %', why; end $$`,
		`create function shop.sneak() returns text language plpgsql as $$ begin perform set_config('role', 'none', false); return current_user; end $$`,
		`create procedure shop.close_day(day date, tags text[]) language plpgsql as $$
			begin insert into shop.orders (id, tags) values (extract(day from day), tags); commit; insert into shop.orders (id) values (1000); end $$`,
		`grant usage on schema shop to ` + role, `grant all on shop.orders to ` + role, `grant execute on all routines in schema shop to ` + role,
	} {
		do(t, db, statement)
	}
	return db
}

// clerk is the role of a database that functions run as; roles belong to the server, so each database has its own.
func clerk(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	role := "clerk_" + ask[string](t, db, "select current_database()")
	do(t, db, "create role "+role)
	do(t, db, "grant "+role+" to pgtick_runner")
	dropRole(t, db, role)
	return role
}

// dropRole has a role end with the test: the server would keep it.
func dropRole(t *testing.T, db *pgtest.DB, role string) {
	t.Helper()
	t.Cleanup(func() {
		for _, statement := range []string{"drop owned by " + role + " cascade", "drop role " + role} {
			_, err := db.Pool.Exec(context.WithoutCancel(t.Context()), statement)
			assert.NoError(t, err, statement)
		}
	})
}

func allow(t *testing.T, db *pgtest.DB, functions ...string) {
	t.Helper()
	for _, function := range functions {
		do(t, db, `select pgtick.allow_function($1::text::regprocedure, ('clerk_' || current_database())::name)`, function)
	}
}

// refused is the error with which the database answers.
func refused(t *testing.T, db *pgtest.DB, sql string, args ...any) *pgconn.PgError {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg, sql)
	return pg
}

const pay = "shop.pay(bigint,text[],timestamptz,shop.size)"

func TestSQLTask_CallsTheFunctionAsItsRole_AndKeepsWhatItReturns(t *testing.T) {
	t.Parallel()
	db := shop(t)
	allow(t, db, pay, "shop.list()", "shop.clear()")
	work(t, db)
	id := enqueue(t, db, "sql", `{"function": "shop.pay", "args": {"order_id": 7, "tags": ["a,b", "c\"d"], "at": "2026-01-01T00:00:00Z", "size": "large"}}`)
	becomes(t, db, "done", stateOf, id)
	require.Equal(t, "7 large t", ask[string](t, db, `select format('%s %s %s', result ->> 'id', result ->> 'size', result ->> 'role' like 'clerk_%') from pgtick.jobs where id = $1`, id))
	require.Equal(t, []string{"a,b", `c"d`}, ask[[]string](t, db, "select tags from shop.orders"))
	becomes(t, db, "done", stateOf, enqueue(t, db, "sql", `{"function": "shop.pay", "args": {"order_id": 8, "tags": null}}`))
	require.True(t, ask[bool](t, db, "select tags is null and paid_at is null from shop.orders where id = 8"))
	list := enqueue(t, db, "sql", `{"function": "shop.list"}`)
	becomes(t, db, "done", stateOf, list)
	require.Equal(t, 2, ask[int](t, db, "select jsonb_array_length(result) from pgtick.jobs where id = $1", list))
	cleared := enqueue(t, db, "sql", `{"function": "shop.clear"}`)
	becomes(t, db, "done", stateOf, cleared)
	require.True(t, ask[bool](t, db, "select result is null from pgtick.jobs where id = $1", cleared))
	require.Zero(t, ask[int](t, db, "select count(*) from shop.orders"))
}

func TestSQLTask_AFunctionThatFails_LeavesNothing_AndIsTriedAgain(t *testing.T) {
	t.Parallel()
	db := shop(t)
	allow(t, db, "shop.fail(text)")
	work(t, db)
	id := ask[int64](t, db, `select pgtick.enqueue('sql', '{"function": "shop.fail", "args": {"why": "closed"}}', p_max_attempts => 2, p_retry_policy => '{"kind": "list", "delays": ["1 ms"]}')`)
	becomes(t, db, "failed", stateOf, id)
	require.Equal(t, 2, ask[int](t, db, "select attempt from pgtick.jobs where id = $1", id))
	require.Contains(t, ask[string](t, db, "select last_error ->> 'message' from pgtick.jobs where id = $1", id), "no: closed")
	require.Zero(t, ask[int](t, db, "select count(*) from shop.orders"))
}

func TestSQLTask_AFunctionThatTakesTheRunnersRole_StillEndsItsJobOnly(t *testing.T) {
	t.Parallel()
	db := shop(t)
	allow(t, db, "shop.sneak()", pay)
	work(t, db, "--connections=1")
	becomes(t, db, "done", stateOf, enqueue(t, db, "sql", `{"function": "shop.sneak"}`))
	next := enqueue(t, db, "sql", `{"function": "shop.pay", "args": {"order_id": 1}}`)
	becomes(t, db, "done", stateOf, next)
	require.True(t, ask[bool](t, db, "select by_role like 'clerk_%' from shop.orders"))
}

func TestSQLTask_PastItsTimeout_IsEndedByTheServer(t *testing.T) {
	t.Parallel()
	db := shop(t)
	allow(t, db, "shop.slow()")
	work(t, db)
	id := ask[int64](t, db, `select pgtick.enqueue('sql', '{"function": "shop.slow"}', p_timeout => '300 ms', p_max_attempts => 1)`)
	becomes(t, db, "failed", stateOf, id)
	becomes(t, db, 0, "select count(*)::int from pg_stat_activity where query like '%pg_sleep(600)%' and datname = current_database() and state = 'active' and pid <> pg_backend_pid()")
}

func TestSQLTask_AProcedureMayCommit_AndTheSessionIsTheRunnersAgain(t *testing.T) {
	t.Parallel()
	pgtest.NotThroughPooler(t, "a procedure that commits by itself needs a session of its own; that it is refused is tested below")
	db := shop(t)
	allow(t, db, "shop.close_day(date,text[])", pay)
	work(t, db, "--connections=1")
	becomes(t, db, "done", stateOf, enqueue(t, db, "sql", `{"function": "shop.close_day", "args": {"day": "2026-05-17", "tags": ["x", "y z"]}}`))
	require.Equal(t, "17 1000", ask[string](t, db, "select string_agg(id::text, ' ' order by id) from shop.orders where by_role like 'clerk_%'"))
	require.Equal(t, []string{"x", "y z"}, ask[[]string](t, db, "select tags from shop.orders where id = 17"))
	becomes(t, db, "done", stateOf, enqueue(t, db, "sql", `{"function": "shop.pay", "args": {"order_id": 5}}`))
}

func TestSQLTask_WhatCanNotBeCalled_IsRefusedAtEnqueue_ByFieldValueAndRule(t *testing.T) {
	t.Parallel()
	db := shop(t)
	allow(t, db, pay, "shop.fail(text)")
	for args, says := range map[string]string{
		`{}`:                                   "args.function null",
		`{"function": "shop.nothing"}`:         `args.function "shop.nothing"`,
		`{"function": "pg_catalog.pg_sleep"}`:  `args.function "pg_catalog.pg_sleep"`,
		`{"function": "shop.pay"}`:             "args.args.order_id null",
		`{"function": "shop.pay", "args": []}`: "args.args",
		`{"function": "shop.pay", "args": {"order_id": "seven"}}`:                        `args.args.order_id "seven"`,
		`{"function": "shop.pay", "args": {"order_id": 99999999999999999999}}`:           `args.args.order_id`,
		`{"function": "shop.pay", "args": {"order_id": 7, "tip": 1}}`:                    `args.args.tip "1"`,
		`{"function": "shop.pay", "args": {"order_id": 7, "size": "huge"}}`:              `args.args.size "huge"`,
		`{"function": "shop.pay", "args": {"order_id": 7, "tags": "a"}}`:                 `args.args.tags "a"`,
		`{"function": "shop.pay", "args": {"order_id": 7}, "sql": "drop table x"}`:       `args.sql "drop table x"`,
		`{"function": "shop.pay; drop table shop.orders", "args": {"order_id": 7}}`:      "args.function",
		`{"function": "shop.pay", "args": {"order_id) from x; --": 7, "order_id": "8"}}`: "args.args.order_id) from x; --",
	} {
		for _, statement := range []string{`select pgtick.enqueue('sql', $1)`, `select pgtick.enqueue_many('sql', array[$1::jsonb])`, `select pgtick.schedule('s', '@hourly', 'sql', $1)`} {
			pg := refused(t, db, statement, args)
			require.Equal(t, "TK000", pg.Code, args)
			require.Contains(t, pg.Message, says, args)
		}
	}
	require.Zero(t, ask[int](t, db, "select count(*) from pgtick.jobs"))
	list := refused(t, db, `select pgtick.check_function_call('["shop.pay"]')`)
	require.Equal(t, "TK000", list.Code)
	require.Contains(t, list.Message, `args "["shop.pay"]"`)
}

func TestSQLTask_AFunctionThatIsForbiddenMeanwhile_FailsForGood(t *testing.T) {
	t.Parallel()
	db := shop(t)
	allow(t, db, pay, "shop.clear()")
	forbidden := enqueue(t, db, "sql", `{"function": "shop.pay", "args": {"order_id": 1}}`)
	gone := enqueue(t, db, "sql", `{"function": "shop.clear"}`)
	require.True(t, ask[bool](t, db, "select pgtick.disallow_function('shop.pay')"))
	require.False(t, ask[bool](t, db, "select pgtick.disallow_function('shop.pay')"))
	do(t, db, "drop function shop.clear()")
	work(t, db)
	for _, id := range []int64{forbidden, gone} {
		becomes(t, db, "failed", stateOf, id)
		require.Equal(t, 1, ask[int](t, db, "select attempt from pgtick.jobs where id = $1", id))
	}
	require.Contains(t, ask[string](t, db, "select last_error ->> 'message' from pgtick.jobs where id = $1", gone), "is gone")
}

func TestSQLTask_ARoleThatTheRunnerMayNotTake_FailsForGood(t *testing.T) {
	t.Parallel()
	db := shop(t)
	allow(t, db, pay)
	do(t, db, "revoke clerk_"+ask[string](t, db, "select current_database()")+" from pgtick_runner")
	work(t, db)
	id := enqueue(t, db, "sql", `{"function": "shop.pay", "args": {"order_id": 1}}`)
	becomes(t, db, "failed", stateOf, id)
	require.Contains(t, ask[string](t, db, "select last_error ->> 'message' from pgtick.jobs where id = $1", id), "grant that role")
}

func TestAllowFunction_RefusesWhatJobsShouldNotCall(t *testing.T) {
	t.Parallel()
	db := shop(t)
	role := "clerk_" + ask[string](t, db, "select current_database()")
	for _, statement := range []string{
		`create function shop.nameless(bigint) returns void language sql as ''`,
		`create function shop.many(variadic ids bigint[]) returns void language sql as ''`,
		`create function shop.out(out x bigint) language sql as 'select 1'`,
		`create function shop.any(x anyelement) returns void language sql as ''`,
		`create function shop.row(x shop.orders) returns void language sql as ''`,
		`create domain shop.positive as bigint check (value > 0)`, `create function shop.domain(x shop.positive) returns void language sql as ''`,
		`create domain shop.words as text[]`, `create function shop.words(x shop.words) returns void language sql as ''`,
		`create type shop.span as range (subtype = bigint)`, `create function shop.span(x shop.span) returns void language sql as ''`,
		`create function shop.catalog(x pg_class) returns void language sql as ''`,
		`create function shop.half(named bigint, bigint) returns void language sql as ''`,
		`create type shop.point`, `create function shop.point_in(cstring) returns shop.point language internal immutable strict as 'point_in'`, // no array, but it has elements
		`create function shop.point_out(shop.point) returns cstring language internal immutable strict as 'point_out'`,
		`create type shop.point (input = shop.point_in, output = shop.point_out, like = point, element = float8, subscript = raw_array_subscript_handler)`,
		`create function shop.move(x shop.point) returns void language sql as ''`,
		`create schema closed`, `create function closed.open() returns void language sql as ''`,
		`create aggregate shop.total(amount bigint) (sfunc = int8pl, stype = bigint)`,
		`create role crowd_` + role + ` in role pgtick_runner`, // nobody logs in as it, so nothing is missing for it
		`create role passer_` + role + ` login`,                // and this one has to do with something else
		`create function shop.trigger() returns trigger language plpgsql as 'begin return new; end'`,
		`grant execute on all routines in schema shop to ` + role,
		`create function shop.private() returns void language sql as ''`, `revoke execute on function shop.private() from public`,
		`create role stranger_` + role, `grant usage on schema shop to stranger_` + role, `grant execute on all routines in schema shop to stranger_` + role,
	} {
		do(t, db, statement)
	}
	dropRole(t, db, "stranger_"+role)
	dropRole(t, db, "crowd_"+role)
	dropRole(t, db, "passer_"+role)
	for function, field := range map[string]string{
		"shop.nameless(bigint)": "function", "shop.many(bigint[])": "function", "shop.out()": "function", "shop.any(anyelement)": "function", "shop.row(shop.orders)": "function",
		"shop.domain(shop.positive)": "function", "shop.trigger()": "function", "pg_catalog.sum(bigint)": "function", "shop.private()": "as_role", "shop.words(shop.words)": "function",
		"shop.span(shop.span)": "function", "shop.catalog(pg_class)": "function", "shop.half(bigint,bigint)": "function", "shop.move(shop.point)": "function", "closed.open()": "as_role",
		"shop.total(bigint)": "function",
	} {
		pg := refused(t, db, "select pgtick.allow_function(to_regprocedure($1), $2)", function, role)
		require.Equal(t, "TK000", pg.Code)
		require.Contains(t, pg.Message, field+" ", function)
	}
	require.Contains(t, refused(t, db, "select pgtick.allow_function('shop.clear()', null)").Message, "as_role null")
	require.Contains(t, refused(t, db, "select pgtick.allow_function(null, $1)", role).Message, "function null")
	require.Contains(t, refused(t, db, "select pgtick.allow_function('shop.clear()', 'postgres')").Message, "superuser")
	require.Contains(t, refused(t, db, "select pgtick.allow_function('shop.clear()', 'nobody_here')").Message, "as_role")
	stranger := refused(t, db, "select pgtick.allow_function('shop.clear()', $1)", "stranger_"+role)
	require.Contains(t, stranger.Hint, "grant stranger_"+role+" to pgtick_runner;")
	require.Contains(t, refused(t, db, "select pgtick.allow_function('shop.private()', $1)", role).Hint, "grant execute on routine shop.private() to "+role)
	require.Zero(t, ask[int](t, db, "select count(*) from pgtick.allowed_functions"))
	allow(t, db, "shop.clear()")
}

func TestSQLTask_BehindATransactionPooler_CallsFunctions_AndNoProcedure(t *testing.T) {
	t.Parallel()
	db := shop(t)
	allow(t, db, "shop.close_day(date,text[])", pay)
	pooled := pgtest.StartPgBouncer(t, db, "transaction")
	start(t, []string{"DATABASE_URL=" + pooled}, "work", "--poll=100ms").says("runner registered")
	function := enqueue(t, db, "sql", `{"function": "shop.pay", "args": {"order_id": 7}}`)
	procedure := enqueue(t, db, "sql", `{"function": "shop.close_day", "args": {"day": "2026-05-17", "tags": []}}`)
	becomes(t, db, "done", stateOf, function)
	becomes(t, db, "failed", stateOf, procedure)
	require.Contains(t, ask[string](t, db, "select last_error ->> 'message' from pgtick.jobs where id = $1", procedure), "pooler")
	require.Equal(t, 1, ask[int](t, db, "select count(*) from shop.orders"))
}
