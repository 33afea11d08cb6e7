package supabase

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// finding is one of the adviser's.
type finding struct {
	Name   string `json:"name"`
	Level  string `json:"level"`
	Detail string `json:"detail"`
	Key    string `json:"cache_key"`
}

// advise asks the adviser at level warn, and returns what it finds, the keys in order.
func advise(t *testing.T, url string) []string {
	t.Helper()
	out, talk, err := newProject(t).run(t, "db", "advisors", "--remote="+url, "--type", "all", "--level", "warn", "--fail-on", "none")
	require.NoError(t, err, out+talk)
	if strings.TrimSpace(out) == "" {
		require.Contains(t, talk, "No issues found")
		return nil
	}
	var all []finding
	require.NoError(t, json.Unmarshal([]byte(out), &all), out)
	keys := make([]string, len(all))
	for i, f := range all {
		require.NotEmpty(t, f.Key, out)
		keys[i] = f.Key
	}
	slices.Sort(keys)
	return keys
}

// A procedure that commits can have no set clause. docs/supabase.md says so. The key ends in a digest of its body.
const runTicks = "function_search_path_mutable_pgtick_run_ticks_"

func TestAdvisors_FindTheOneThatCannotBeAvoided_AndNothingElse(t *testing.T) {
	t.Parallel()
	for world, exposed := range map[pgtest.World]string{pgtest.Open: "public, graphql_public, pgtick, credits, analytics", pgtest.Closed: "public, graphql_public"} {
		t.Run("in a project whose grants are "+string(world)+", and which exposes "+exposed, func(t *testing.T) {
			t.Parallel()
			db := pgtest.HostedMigrated(t, world)
			as(t, db.AdminURL(), "alter role postgres in database "+db.Name+" set pgrst.db_schemas = '"+exposed+"'") // where the adviser reads it
			found := advise(t, db.URL)
			require.Len(t, found, 1)
			require.True(t, strings.HasPrefix(found[0], runTicks), found[0])
		})
	}
}

// What the dashboard's adviser finds beyond this release of the CLI (its lints 0026 to 0029), asked of the catalog: where pg_graphql is
// installed, each relation of which a role of the API may read a column; and definer functions that such a role may call.
const (
	readableBy = `select coalesce(string_agg(c.oid::regclass::text, ' ' order by c.oid::regclass::text), '') from pg_class as c
		where c.relkind in ('r', 'v', 'm', 'f') and c.relnamespace in ('pgtick'::regnamespace, 'credits'::regnamespace, 'analytics'::regnamespace) and has_any_column_privilege($1, c.oid, 'select')`
	definersFor = `select coalesce(string_agg(p.oid::regprocedure::text, ' '), '') from pg_proc as p
		where p.prosecdef and p.pronamespace in ('pgtick'::regnamespace, 'credits'::regnamespace, 'analytics'::regnamespace) and has_function_privilege($1, p.oid, 'execute')`
)

// Their rows are the asker's own; their names and columns are seen through GraphQL by all who are signed in.
var readable = []string{
	"credits.accounts", "credits.holds", "credits.my_account", "credits.my_holds", "credits.my_transactions", "credits.rates", "credits.transactions", "credits.usage_rates",
	"pgtick.job_notes", "pgtick.live_jobs", "pgtick.my_jobs", "pgtick.my_schedules", "pgtick.my_slots", "pgtick.requests", "pgtick.schedule_defs",
}

func TestDashboard_WouldFindWhatEndUsersMayRead_AndNothingElse(t *testing.T) {
	t.Parallel()
	db := pgtest.Hosted(t, pgtest.Open)
	// not only for schema public, but everywhere
	as(t, db.URL, "alter default privileges grant all on tables to anon, authenticated; alter default privileges grant all on functions to anon, authenticated")
	applied(t, db.URL)
	as(t, db.URL, "select pgtick.make_partition('history', current_date + 500)")
	require.Empty(t, ask[string](t, db.URL, readableBy, "anon"))
	require.Equal(t, strings.Join(readable, " "), ask[string](t, db.URL, readableBy, "authenticated"))
	for _, role := range []string{"anon", "authenticated"} {
		require.Empty(t, ask[string](t, db.URL, definersFor, role), role)
	}
}

// The comparison can fail.
func TestAdvisors_FindWhatIsWrong(t *testing.T) {
	t.Parallel()
	db := pgtest.Hosted(t, pgtest.Closed)
	as(t, db.URL, "create function public.loose() returns int language sql as $$ select 1 $$")
	found := advise(t, db.URL)
	require.Len(t, found, 1)
	require.Contains(t, found[0], "function_search_path_mutable_public_loose")
}

// The CLI looks by the extension plpgsql_check, which a hosted project has at hand; here the provider puts it in. It tries pure
// functions with nulls, and so meets our refusals of them, and it looks for schemas that other projects have.
func TestLint_FindsNoMistakeInOurFunctions(t *testing.T) {
	t.Parallel()
	db := pgtest.HostedMigrated(t, pgtest.Closed)
	if !ask[bool](t, db.URL, "select exists (select from pg_available_extensions as e where e.name = 'plpgsql_check')") {
		t.Skip("the server has no plpgsql_check")
	}
	as(t, db.AdminURL(), "create extension plpgsql_check with schema extensions")
	as(t, db.URL, "create function credits.broken() returns int language plpgsql as $$ begin return (select nothing from pgtick.live_jobs); end $$")
	out, talk, err := newProject(t).run(t, "db", "lint", "--remote="+db.URL, "--schema", "pgtick,credits,analytics", "--level", "error")
	require.NoError(t, err, out+talk)
	var found []struct {
		Function string
		Issues   []struct{ Message, SQLState string }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &found), out)
	var wrong []string
	for _, f := range found {
		for _, issue := range f.Issues {
			if !strings.HasPrefix(issue.SQLState, "TK") && !elsewhere.MatchString(issue.Message) {
				wrong = append(wrong, f.Function+": "+issue.Message)
			}
		}
	}
	require.Equal(t, []string{`credits.broken: column "nothing" does not exist`}, wrong)
}

var elsewhere = regexp.MustCompile(`^(relation "cron\.|schema "(cron|realtime)" does not exist)`)

func TestTypes_NameWhatAClientCalls(t *testing.T) {
	t.Parallel()
	db := pgtest.HostedMigrated(t, pgtest.Closed)
	out, talk, err := newProject(t).run(t, "gen", "types", "--lang", "typescript", "--schema", "pgtick,credits", "--remote="+db.URL)
	require.NoError(t, err, talk)
	for _, name := range []string{"pgtick", "credits", "enqueue", "schedule", "cancel", "my_jobs", "charge", "hold", "my_account"} {
		require.Contains(t, out, `"`+name+`":`)
	}
	_, enqueue, _ := strings.Cut(out, `"enqueue":`)
	enqueue, _, _ = strings.Cut(enqueue, "Returns: number")
	for _, argument := range []string{`"p_task": string`, `"p_run_at"?: string`, `"p_args"?: Json`} {
		require.Contains(t, enqueue, argument)
	}
}
