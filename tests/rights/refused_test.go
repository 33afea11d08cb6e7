package rights

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// callsQuery writes a call of each function of ours. The arguments come from a subquery that the planner must not take apart: a call of
// a strict function with a null that is known beforehand is left out, and asks for no right. $1 is JSON with the values by type; where a
// type has none it is null.
const callsQuery = `
select case
    when p.prokind = 'p' then format('call %I.%I(%s)', n.nspname, p.proname, coalesce(string_agg(v.value, ', ' order by a.place), ''))
    when count(a.place) = 0 then format('select %I.%I()', n.nspname, p.proname)
    else format('select %I.%I(%s) from (select %s offset 0) as v', n.nspname, p.proname,
      string_agg(case when a.place = cardinality(p.proargtypes::oid[]) and p.provariadic <> 0 then 'variadic ' else '' end || format('v.a%s', a.place), ', ' order by a.place),
      string_agg(format('%s as a%s', v.value, a.place), ', ' order by a.place))
  end
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
left join lateral unnest(p.proargtypes::oid[]) with ordinality as a(type, place) on true
left join lateral (select coalesce(quote_literal($1::jsonb ->> format_type(a.type, null)), 'null') || '::' || format_type(a.type, null) as value) as v on true
where n.nspname in ('pgtick', 'credits', 'analytics') and ($2::text is null or has_function_privilege(($2::text)::name, p.oid, 'execute'))
group by p.oid, n.nspname
order by 1`

// everyAct is what could be done with each table, view and sequence. Views can't be written at all, so that is refused for another reason.
const everyAct = `
select format(act.sql, c.oid::regclass, (select quote_ident(a.attname) from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum limit 1))
from pg_class as c
join (values ('r', 'select from %1$s'), ('r', 'select %2$s from %1$s'), ('v', 'select from %1$s'), ('v', 'select %2$s from %1$s'), ('r', 'insert into %1$s default values'),
  ('r', 'update %1$s set %2$s = default'), ('r', 'delete from %1$s'), ('r', 'truncate %1$s'),
  ('S', 'select last_value from %1$s'), ('S', 'select nextval(''%1$s'')'), ('S', 'select setval(''%1$s'', 1)')) as act(kind, sql)
  on act.kind = case c.relkind when 'p' then 'r' when 'm' then 'v' else c.relkind end
where c.relnamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
order by 1`

// tried runs a statement under a role in a transaction, and takes all back but the transaction.
func tried(t *testing.T, tx pgx.Tx, role, statement string) error {
	t.Helper()
	do(t, tx, "savepoint try")
	do(t, tx, "set local role "+role)
	_, err := tx.Exec(t.Context(), statement)
	do(t, tx, "rollback to try")
	return err
}

func requireAllRefused(t *testing.T, tx pgx.Tx, role string) {
	t.Helper()
	do(t, tx, "set local search_path = ''")
	statements := append(all[string](t, tx, callsQuery, "{}", nil), all[string](t, tx, everyAct)...)
	require.Greater(t, len(statements), 500)
	for _, statement := range statements {
		requireCode(t, tried(t, tx, role, statement), "42501", role+": "+statement)
	}
}

// Each function is called and each table, view and sequence tried. The second time with a right that Supabase's guide to custom schemas has
// people grant: the schemas are then open, and each object refuses by itself.
func TestAnon_AndAnybodyElse_AreRefusedEverything(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	for _, role := range []string{"anon", "nobody_of_tests"} {
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		requireAllRefused(t, tx, role)
		do(t, tx, "grant usage on schema pgtick, credits, analytics to "+role)
		requireAllRefused(t, tx, role)
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// The test above can fail: what is granted is found.
func TestAnon_WithAGrantTooMany_IsNoticed(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	do(t, tx, "grant usage on schema pgtick to anon; grant execute on function pgtick.every_text(integer) to anon; grant select on pgtick.audit to anon")
	for _, statement := range []string{"select pgtick.every_text(v.a1) from (select null::integer as a1 offset 0) as v", "select from pgtick.audit"} {
		require.NoError(t, tried(t, tx, "anon", statement), statement)
	}
	require.Contains(t, all[string](t, tx, callsQuery, "{}", nil), "select pgtick.every_text(v.a1) from (select null::integer as a1 offset 0) as v")
	require.NoError(t, tx.Rollback(t.Context()))
}

// fill gives a user a row of everything that can be a user's, with a word in it that nobody else may read.
func fill(t *testing.T, db *pgtest.DB, user, word string) {
	t.Helper()
	do(t, db.Pool, "select pgtick.allow_task('of.users')")
	asked(t, asUser(t, db, user), "of.users", `{"word": "`+word+`"}`)
	do(t, db.Pool, "select pgtick.schedule($1 || '-schedule', '* * * * *', $1 || '.task', jsonb_build_object('word', $1), p_owner_id => $2)", word, user)
	pgtest.Advance(t, db, 2*time.Minute)
	do(t, db.Pool, "select pgtick.tick()")
	do(t, db.Pool, "select pgtick.enqueue($1 || '.ended', p_owner_id => $2)", word, user)
	do(t, db.Pool, "select pgtick.cancel((select max(id) from pgtick.live_jobs))")
	do(t, db.Pool, "select pgtick.enqueue($1 || '.running', p_owner_id => $2)", word, user)
	held := pgtest.Claim(t, db, word, time.Hour, word+".running")
	do(t, db.Pool, "select pgtick.progress($1, $2, 0.5, $3)", held.ID, held.Fence, word+"-note")
	do(t, db.Pool, "select credits.open_account($1)", user)
	do(t, db.Pool, "select credits.grant($1, 100, 'g', $2 || '-grant')", user, word)
	do(t, db.Pool, "select credits.hold($1, 10, '1 hour', 'h', $2 || '-hold')", user, word)
}

// What everybody who is signed in may read: it is nobody's.
var openToAll = []string{"credits.rates", "credits.usage_rates"}

func TestAuthenticated_SeesItsOwnRows_AndNothingOfAnother(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	fill(t, db, ann, "secret")
	const readable = `select format('%s', c.oid::regclass) as name, format('select count(*) from (select %s from %s) as x', string_agg(quote_ident(a.attname), ', '), c.oid::regclass) as sql
		from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.relnamespace::regnamespace::text in ('pgtick', 'credits', 'analytics') and c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
		  and has_column_privilege('authenticated', c.oid, a.attnum, 'select')
		group by c.oid order by 1`
	rows, err := db.Pool.Query(t.Context(), readable)
	require.NoError(t, err)
	type relation struct{ Name, SQL string }
	relations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
	require.NoError(t, err)
	require.Greater(t, len(relations), 10)
	sessions := map[string]*pgx.Conn{"ann": asUser(t, db, ann), "ben": asUser(t, db, ben), "nobody": withClaims(t, db, "")}
	for _, r := range relations {
		if slices.Contains(openToAll, r.Name) {
			continue
		}
		require.Positive(t, one[int](t, sessions["ann"], r.SQL), "ann reads nothing of %s: this test shows nothing of it", r.Name)
		require.Zero(t, one[int](t, sessions["ben"], r.SQL), "ben reads rows of ann: %s", r.SQL)
		require.Zero(t, one[int](t, sessions["nobody"], r.SQL), r.SQL)
	}
}

// Each function that an end user may call is called with what belongs to another one: her id, her jobs, her names.
func TestAuthenticated_ByNoCall_LearnsOrChangesWhatIsAnothers(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	fill(t, db, ann, "secret")
	do(t, db.Pool, "select credits.allow_own(o) from unnest('{charge,hold,capture,release}'::text[]) as o")
	jobs := all[int64](t, db.Pool, "select id from pgtick.jobs where owner_id = $1 union select id from pgtick.schedule_defs where owner_id = $1 union select id from credits.holds", ann)
	state := func() string {
		return one[string](t, db.Pool, `select md5(concat((select jsonb_agg(j order by id) from pgtick.jobs as j), (select jsonb_agg(s order by id) from pgtick.schedule_defs as s),
			(select jsonb_agg(a order by user_id) from credits.accounts as a), (select jsonb_agg(t order by id) from credits.transactions as t), (select jsonb_agg(h order by id) from credits.holds as h),
			(select jsonb_agg(r order by id) from pgtick.requests as r)))`)
	}
	before := state()
	user := asUser(t, db, ben)
	do(t, user, "set search_path = ''")
	called := 0
	for _, job := range jobs {
		values := fmt.Sprintf(`{"uuid": "%s", "bigint": "%d", "bigint[]": "{%d}", "integer": "1", "text": "secret-schedule", "text[]": "{secret-schedule}", "jsonb": "{}", "interval": "1 hour"}`, ann, job, job)
		for _, call := range all[string](t, db.Pool, callsQuery, values, "authenticated") {
			var answer *string
			err := user.QueryRow(t.Context(), "select string_agg(x::text, ' ') from ("+call+") as x").Scan(&answer)
			if err == nil && answer != nil {
				called++
				require.NotContains(t, *answer, "secret-n", call)
				require.NotContains(t, *answer, "secret.", call)
				require.NotContains(t, *answer, ann, call)
			}
		}
	}
	require.Positive(t, called)
	require.Equal(t, before, state())
}
