package install_test

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgtick/pgtick/sql"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/stretchr/testify/require"
)

// Each query names what breaks a rule of ours, and so returns nothing. Ours are the three schemas; not: what an extension brought.
var catalogRules = map[string]string{
	"every table, view and sequence has a comment": `
		select c.oid::regclass::text from pg_class as c
		where c.relnamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and c.relkind in ('r', 'p', 'v', 'm', 'S') and not c.relispartition and obj_description(c.oid, 'pg_class') is null
		  and not exists (select from pg_depend as d where d.objid = c.oid and d.deptype in ('i', 'a'))`,
	"every column of a view has a comment": `
		select c.oid::regclass || '.' || a.attname from pg_class as c
		join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
		where c.relnamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and c.relkind in ('v', 'm') and col_description(c.oid, a.attnum) is null`,
	"every function has a comment": `
		select p.oid::regprocedure::text from pg_proc as p
		where p.pronamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and obj_description(p.oid, 'pg_proc') is null`,
	"every type has a comment": `
		select t.oid::regtype::text from pg_type as t left join pg_class as c on c.oid = t.typrelid
		where t.typnamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and (t.typtype in ('e', 'd', 'r') or t.typtype = 'c' and c.relkind = 'c') and obj_description(t.oid, 'pg_type') is null`,
	"every schema has a comment": `
		select n.nspname::text from pg_namespace as n
		where n.nspname in ('pgtick', 'credits', 'analytics') and obj_description(n.oid, 'pg_namespace') is null`,
	"every function sets search_path to nothing, but for the procedure that commits (and aggregates, which set nothing)": `
		select p.oid::regprocedure::text from pg_proc as p
		where p.pronamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and not coalesce('search_path=""' = any (p.proconfig), false) and p.prokind <> 'a' and p.oid is distinct from to_regprocedure('pgtick.run_ticks()')`,
	"every table has row level security": `
		select c.oid::regclass::text from pg_class as c
		where c.relnamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and c.relkind in ('r', 'p') and not c.relrowsecurity`,
	"every view checks the rights of who reads it": `
		select c.oid::regclass::text from pg_class as c
		where c.relnamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and c.relkind = 'v' and not coalesce('security_invoker=true' = any (c.reloptions), false)`,
	"nothing may be executed, read or written by everybody": `
		select format('%s: %s', o.name, a.privilege_type) from (
		  select p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.pronamespace from pg_proc as p
		  union all
		  select c.oid::regclass::text, c.relacl, c.relnamespace from pg_class as c where c.relkind in ('r', 'p', 'v', 'm', 'S')
		  union all
		  select n.nspname::text, n.nspacl, n.oid from pg_namespace as n
		) as o(name, acl, namespace), aclexplode(o.acl) as a
		where o.namespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and (a.grantee = 0 or a.grantee = coalesce(to_regrole('anon'), 0))`,
	"the runner writes no table itself": `
		select format('%s: %s', c.oid::regclass, a.privilege_type) from pg_class as c, aclexplode(c.relacl) as a
		where c.relnamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and a.grantee = to_regrole('pgtick_runner') and a.privilege_type <> 'SELECT'`,
	"every foreign key has an index under it": `
		select format('%s: %s', f.conrelid::regclass, f.conname) from pg_constraint as f
		where f.contype = 'f' and f.connamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
		  and not exists (select from pg_index as i where i.indrelid = f.conrelid and i.indkey[0] = f.conkey[1])`,
}

func TestCatalog_KeepsOurRules(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for rule, query := range catalogRules {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			require.Empty(t, column(t, db, query))
		})
	}
}

// The rules that speak of anon and the other roles of Supabase, where these exist.
func TestCatalog_WithTheRolesOfSupabase_KeepsOurRules(t *testing.T) {
	t.Parallel()
	db := pgtest.NewOn(t, pgtest.Server(t))
	exec1(t, db, "create role anon; create role authenticated; create role service_role; create role authenticator; grant anon, authenticated to authenticator")
	db.Migrate(t)
	for rule, query := range catalogRules {
		require.Empty(t, column(t, db, query), rule)
	}
	require.Empty(t, column(t, db, `select p.oid::regprocedure::text from pg_proc as p
		where p.pronamespace in ('pgtick'::regnamespace, to_regnamespace('credits')) and has_function_privilege('anon', p.oid, 'execute')`))
	// Definer functions that a browser could call would be a way around row level security.
	require.Empty(t, column(t, db, `select p.oid::regprocedure::text from pg_proc as p
		where p.pronamespace in ('pgtick'::regnamespace, to_regnamespace('credits')) and p.prosecdef and has_function_privilege('authenticated', p.oid, 'execute')`))
}

var created = regexp.MustCompile(`(?mi)^create or replace (?:function|procedure|aggregate) ([a-z_]+\.[a-z_0-9]+)\(`)

// A function that migrations had made, or that sql/ no longer has, would never be replaced by an upgrade.
func TestSchema_HasNoFunctionThatSQLLacks(t *testing.T) {
	t.Parallel()
	var ours []string
	names, err := fs.Glob(sql.Files, "*.sql")
	require.NoError(t, err)
	for _, name := range names {
		text, err := sql.Files.ReadFile(name)
		require.NoError(t, err)
		for _, found := range created.FindAllStringSubmatch(string(text), -1) {
			ours = append(ours, strings.ToLower(found[1]))
		}
	}
	there := column(t, pgtest.New(t), `select distinct p.pronamespace::regnamespace || '.' || p.proname from pg_proc as p
		where p.pronamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))`)
	require.Empty(t, without(there, ours), "in the schema, but not in sql/")
	require.Empty(t, without(ours, there), "in sql/, but not in the schema")
}

func without(all, these []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(these, name) })
}
