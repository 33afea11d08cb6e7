package rights

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// go test ./tests/rights -run TestReach_OfEachRole -write writes the page's lists anew. Read the difference: it is who may do what.
var write = flag.Bool("write", false, "write what each role reaches into docs/rights.md")

const (
	reachBegin = "<!-- what each role reaches -->\n"
	reachEnd   = "<!-- /what each role reaches -->\n"
)

var roles = []string{"public", "anon", "authenticated", "service_role", "pgtick_runner", "pgtick_reader", "pgtick_operator"}

// What a role may do, by the server's own answer, so that what it has by way of public or another role counts too. Functions with several
// forms are named with their parameters.
const reachQuery = `
with ours as (
  select n.oid, n.nspname::text as name from pg_namespace as n where n.nspname in ('pgtick', 'credits', 'analytics')
), relations as (
  select c.oid, format('%I.%I', o.name, c.relname) as name, c.relkind from pg_class as c join ours as o on o.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
), functions as (
  select p.oid, p.prosecdef,
    case when count(*) over (partition by p.pronamespace, p.proname) = 1 then format('%I.%I', o.name, p.proname) else p.oid::regprocedure::text end as name
  from pg_proc as p join ours as o on o.oid = p.pronamespace
)
select 'usage of the schemas' as what, o.name as name, '' as only from ours as o where has_schema_privilege(($1::text)::name, o.oid, 'usage')
union all
select 'makes objects in the schemas', o.name, '' from ours as o where has_schema_privilege(($1::text)::name, o.oid, 'create')
union all
select w.what, r.name, ''
from relations as r, (values ('reads', 'select'), ('adds rows to', 'insert'), ('changes rows of', 'update'), ('deletes rows of', 'delete'), ('truncates', 'truncate'),
  ('refers to', 'references'), ('puts triggers on', 'trigger')) as w(what, privilege)
where r.relkind <> 'S' and has_table_privilege(($1::text)::name, r.oid, w.privilege)
union all
select w.what, r.name, (select string_agg(a.attname, ', ' order by a.attnum) from pg_attribute as a
  where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped and has_column_privilege(($1::text)::name, r.oid, a.attnum, w.privilege))
from relations as r, (values ('reads some columns of', 'select'), ('fills in some columns of', 'insert'), ('changes some columns of', 'update'),
  ('refers to some columns of', 'references')) as w(what, privilege)
where r.relkind <> 'S' and not has_table_privilege(($1::text)::name, r.oid, w.privilege) and has_any_column_privilege(($1::text)::name, r.oid, w.privilege)
union all
select 'uses the sequences', r.name, '' from relations as r where case when r.relkind = 'S' then has_sequence_privilege(($1::text)::name, r.oid, 'usage, select, update') end
union all
select case when f.prosecdef then 'calls, with the rights of the owner' else 'calls, with its own rights' end, f.name, '' from functions as f where has_function_privilege(($1::text)::name, f.oid, 'execute')
union all
select format('rows that it %s', case p.polcmd when 'r' then 'sees' when 'a' then 'adds' else 'touches (' || p.polcmd::text || ')' end), r.name,
  coalesce(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
from pg_policy as p join relations as r on r.oid = p.polrelid
where case when $1::text = 'public' then 0 = any (p.polroles) else 0 = any (p.polroles) or to_regrole($1::text)::oid = any (p.polroles) end
order by 1, 2, 3`

type reached struct{ What, Name, Only string }

// The order in which people want to know it.
var kinds = []string{"usage of the schemas", "makes objects in the schemas", "reads", "reads some columns of", "adds rows to", "fills in some columns of", "changes rows of",
	"changes some columns of", "deletes rows of", "truncates", "refers to", "refers to some columns of", "puts triggers on", "uses the sequences", "rows that it sees", "rows that it adds",
	"calls, with the rights of the owner", "calls, with its own rights"}

func TestReach_OfEachRole_IsWhatThePageSays(t *testing.T) {
	t.Parallel()
	page := filepath.Join(top(t), "docs", "rights.md")
	text := contents(t, page)
	before, rest, found := strings.Cut(text, reachBegin)
	require.True(t, found, "the page has no place for it")
	said, after, found := strings.Cut(rest, reachEnd)
	require.True(t, found)
	now := reachOfAll(t, newProject(t))
	if *write {
		require.NoError(t, os.WriteFile(page, []byte(before+reachBegin+now+reachEnd+after), 0o600))
		return
	}
	require.Equal(t, said, now, "who may do what has changed. If that is meant: go test ./tests/rights -run TestReach_OfEachRole -write, and read the difference")
}

// Roles of a whole server come and go: what comes after pgtick gets the same at the next migrate.
func TestReach_OfRolesThatCameLater_IsTheSame(t *testing.T) {
	t.Parallel()
	own := pgtest.Server(t)
	later := pgtest.NewOn(t, own)
	do(t, later.Pool, projectRoles)
	require.Empty(t, strings.TrimSpace(reachOf(t, later, "authenticated")))
	later.Migrate(t)
	require.Equal(t, reachOfAll(t, pgtest.NewOn(t, own)), reachOfAll(t, later))
}

func reachOfAll(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	var all strings.Builder
	for _, role := range roles {
		text := reachOf(t, db, role)
		if text == "" {
			text = "Nothing.\n"
		}
		_, _ = fmt.Fprintf(&all, "\n### %s\n\n%s", role, text)
	}
	return all.String() + "\n"
}

func reachOf(t *testing.T, db *pgtest.DB, role string) string {
	t.Helper()
	conn := connect(t, db.URL)
	do(t, conn, "set search_path = ''")
	rows, err := conn.Query(t.Context(), reachQuery, role)
	require.NoError(t, err)
	byKind := map[string][]reached{}
	for rows.Next() {
		var r reached
		require.NoError(t, rows.Scan(&r.What, &r.Name, &r.Only))
		byKind[r.What] = append(byKind[r.What], r)
	}
	require.NoError(t, rows.Err())
	var text strings.Builder
	for _, kind := range kinds {
		text.WriteString(bullets(kind, byKind[kind]))
		delete(byKind, kind)
	}
	require.Empty(t, byKind, "a kind of right that this test has no words for")
	return text.String()
}

// bullets is one point for each condition, one for each table of which a role has some columns, and one for all that is whole.
func bullets(kind string, these []reached) string {
	text := ""
	names := map[string][]string{}
	for _, r := range these {
		start := kind + ": "
		switch only := oneLine(r.Only); {
		case strings.HasPrefix(kind, "rows") && only != "true":
			start = kind + " where `" + only + "`: "
		case only != "" && only != "true":
			text += wrapped(kind + " `" + r.Name + "`: " + only)
			continue
		}
		names[start] = append(names[start], "`"+r.Name+"`")
	}
	for _, start := range slices.Sorted(maps.Keys(names)) {
		text += wrapped(start + strings.Join(names[start], ", "))
	}
	return text
}

var spaces = regexp.MustCompile(`\s+`)

func oneLine(text string) string { return strings.TrimSpace(spaces.ReplaceAllString(text, " ")) }

// wrapped is a point of a list, in lines of some 160 characters. It breaks only between the things that are listed.
func wrapped(text string) string {
	const width = 160
	lines, line := "", "-"
	for i, part := range strings.Split(text, ", ") {
		if i > 0 {
			line += ","
			if len(line)+1+len(part) > width {
				lines, line = lines+line+"\n", " "
			}
		}
		line += " " + part
	}
	return lines + line + "\n"
}

// The page gives a reason for each function that works with the owner's rights, and for none that does not.
func TestDefiners_HaveTheirReasonOnThePage(t *testing.T) {
	t.Parallel()
	section, _, found := strings.Cut(afterHeading(t, contents(t, filepath.Join(top(t), "docs", "rights.md")), "## With the owner's rights"), "\n## ")
	require.True(t, found)
	var reasoned []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| ([^|]+) \|$`).FindAllStringSubmatch(section, -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			require.Greater(t, len(strings.Fields(row[1])), 3, "%s: no reason", name[1])
			reasoned = append(reasoned, name[1])
		}
	}
	slices.Sort(reasoned)
	require.Equal(t, all[string](t, newProject(t).Pool, `select distinct format('%s.%s', p.pronamespace::regnamespace, p.proname) collate "C" from pg_proc as p
		where p.pronamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s)) and p.prosecdef order by 1`), reasoned)
}

func afterHeading(t *testing.T, text, heading string) string {
	t.Helper()
	_, after, found := strings.Cut(text, "\n"+heading+"\n")
	require.True(t, found, heading)
	return after
}

// What a role has on the whole server is not pgtick's to give, so it gives none of it.
func TestRoles_OfPgtick_OwnNothing_AndAreNothingElse(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	const ours = "('pgtick_runner', 'pgtick_reader', 'pgtick_operator', 'anon', 'authenticated', 'service_role')"
	require.Empty(t, all[string](t, db.Pool, `select format('%s owns %s %s', r.rolname, d.classid::regclass, d.objid) from pg_shdepend as d
		join pg_roles as r on r.oid = d.refobjid where d.deptype = 'o' and r.rolname in `+ours))
	require.Empty(t, all[string](t, db.Pool, `select r.rolname::text from pg_roles as r where r.rolname in ('pgtick_runner', 'pgtick_reader', 'pgtick_operator')
		and (r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls)`))
	require.Empty(t, all[string](t, db.Pool, `select format('%s is a member of %s', m.member::regrole, m.roleid::regrole) from pg_auth_members as m
		join pg_roles as r on r.oid = m.member where r.rolname in `+ours))
	require.Empty(t, all[string](t, db.Pool, `select c.oid::regclass::text from pg_class as c where c.relnamespace::regnamespace::text in ('pgtick', 'credits', 'analytics')
		and c.relkind in ('r', 'p') and not c.relrowsecurity`), "every table has row level security")
	require.Empty(t, all[string](t, db.Pool, `select c.oid::regclass::text from pg_class as c where c.relnamespace::regnamespace::text in ('pgtick', 'credits', 'analytics')
		and c.relkind = 'v' and not coalesce('security_invoker=true' = any (c.reloptions), false)`), "every view asks with the rights of its reader")
}

// top is the folder of go.mod.
func top(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

func contents(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}
