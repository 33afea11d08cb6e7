package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/doctor"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// installed is as docs/install.md makes it, on a server that keeps what is committed: with pg_cron where that is to be had, the credit
// schedules and a runner at work.
func installed(t *testing.T) *patient {
	t.Helper()
	bin, err := localpg.FindBinaries(true)
	require.NoError(t, err)
	p := &patient{db: pgtest.NewOn(t, pgtest.ServerWith(t, localpg.Options{Cron: localpg.HasCron(bin), Durable: true})), env: map[string]string{}}
	if !localpg.HasCron(bin) {
		p.ofTheMachine = []string{"pg-cron"}
	}
	p.env["DATABASE_URL"] = pgtest.RunnerURL(t, p.db)
	p.work(t, "work --name at-work")
	delete(p.env, "DATABASE_URL")
	require.Eventually(t, func() bool {
		return one[bool](t, p.db, `select coalesce(bool_or(r.wakes), false) from pgtick.runners as r where r.state = 'alive'`)
	}, within, every)
	return p
}

// checked leaves out what is no matter of a test: how full this machine's disk is, and what its server lacks.
func (p *patient) checked(all []finding) []finding {
	return slices.DeleteFunc(slices.Clone(all), func(f finding) bool { return f.Check == "disk" || slices.Contains(p.ofTheMachine, f.Check) })
}

func TestDoctor_OfAWholeInstallation_FindsNothing(t *testing.T) {
	t.Parallel()
	p := installed(t)
	t.Run("as the owner", func(t *testing.T) {
		found := p.look(t)
		require.Empty(t, sick(p.checked(found)))
		var checks []string
		for _, f := range found {
			checks = append(checks, f.Check)
		}
		require.Equal(t, doctor.Names(), checks, "each check has one line")
	})
	t.Run("for people", func(t *testing.T) {
		checks := slices.DeleteFunc(doctor.Names(), func(name string) bool { return name == "disk" || slices.Contains(p.ofTheMachine, name) })
		out, talk, code := p.call(t, "doctor", "--only", strings.Join(checks, ","))
		require.Zero(t, code)
		require.Empty(t, out)
		require.Equal(t, fmt.Sprintf("%d well, 0 warnings, 0 failures, 0 not looked at\n", len(checks)), talk)
		out, _, _ = p.call(t, "doctor", "--all", "--only", "schema,runners")
		require.Regexp(t, `(?s)^WELL +WHAT\nschema +schema \d+\nrunners +1 alive: at-work \(1\)\n$`, out)
	})
	// What a login may not see it is told, and how to; that is no failure.
	for role, sees := range map[string][]string{
		"pgtick_runner": {"reachable", "schema", "address", "listen", "clock-skew", "runner-rights", "open-rights", "row-security", "durability", "connections"},
		"pgtick_reader": {"schema", "ticking", "runners", "tasks-served", "schedules", "slots", "sequences", "backlog", "suspects", "failures", "pauses", "old-transactions", "sync-refused", "ledger", "health"},
	} {
		t.Run("as "+role, func(t *testing.T) {
			p := &patient{db: p.db, env: map[string]string{"DATABASE_URL": login(t, p.db, "one_of_"+role, "in role "+role)}, ofTheMachine: p.ofTheMachine}
			unseen := 0
			for _, f := range p.checked(p.look(t)) {
				if f.Status == "ok" {
					continue
				}
				unseen++
				require.Equal(t, "warn", f.Status, f)
				require.Contains(t, f.What, "not looked at: ", f)
				require.Contains(t, f.Remedy, "pgtick doctor", f)
				require.NotContains(t, sees, f.Check, f)
			}
			require.NotZero(t, unseen)
			out, talk, code := p.call(t, "doctor")
			require.Zero(t, code)
			require.Equal(t, 1, strings.Count(out, "not looked at"), out)
			require.Contains(t, out, "do:  look as postgres, who owns pgtick's schema: `DATABASE_URL='postgres://postgres@127.0.0.1:")
			require.Regexp(t, fmt.Sprintf(`\b(%d|%d) not looked at`, unseen, unseen+len(p.ofTheMachine)), talk)
			require.NotContains(t, out+talk, "of-tests", "no password")
		})
	}
	t.Run("as the page shows", func(t *testing.T) {
		page, err := os.ReadFile(filepath.Join("..", "..", "docs", "doctor.md"))
		require.NoError(t, err)
		_, shown, found := strings.Cut(string(page), "```\nfail  tasks-served\n")
		require.True(t, found)
		shown, _, _ = strings.Cut(shown, "\n\n")
		id := pgtest.AddJob(t, p.db, "test.nop")
		defer do(t, p.db, "select pgtick.cancel($1)", id)
		out, _, code := p.call(t, "doctor", "--only", "tasks-served")
		require.Equal(t, 1, code)
		moment := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)
		require.Equal(t, "fail  tasks-served\n"+moment.ReplaceAllString(shown, "T")+"\n\n", moment.ReplaceAllString(out, "T"))
		require.Contains(t, string(page), fmt.Sprintf("\n%d well, 0 warnings, 1 failure, 0 not looked at\n", len(doctor.Names())-1))
	})
	t.Run("by a login that can change nothing", func(t *testing.T) {
		p := &patient{db: p.db, env: map[string]string{"DATABASE_URL": login(t, p.db, "reads_only", "superuser")}, ofTheMachine: p.ofTheMachine}
		do(t, p.db, "alter role reads_only set default_transaction_read_only = on")
		bad := sick(p.checked(p.look(t)))
		require.Len(t, bad, 1, bad)
		require.Equal(t, "writable", bad[0].Check)
	})
}

// As on a hosted project: the owner is no superuser, and may only use pg_cron.
func TestDoctor_AsTheOwnerOfAHostedProject_SeesAll(t *testing.T) {
	t.Parallel()
	db := pgtest.HostedWithCron(t, pgtest.Closed)
	db.Migrate(t)
	p := whole(t, db)
	for _, f := range p.checked(p.look(t)) {
		if f.Check != "durability" { // of the tests' server
			require.Equal(t, "ok", f.Status, f)
		}
	}
}

var calls = regexp.MustCompile(`\b(?:pgtick|credits)\.[a-z_]+\(`)

// The check runner-rights names each function that the runner's code calls and that its role may.
func TestRunnerRights_AreAllThatARunnerCalls(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	text, err := os.ReadFile(filepath.Join("..", "..", "runner", "doctor", "queries.go"))
	require.NoError(t, err)
	_, known, found := strings.Cut(string(text), "const runnerCalls = `'{")
	require.True(t, found)
	known, _, _ = strings.Cut(known, "}'`")
	seen := 0
	for _, file := range []string{"runner/jobs", "tasks", "tasks/credits", "tasks/sqltask"} {
		text, err := os.ReadFile(filepath.Join("..", "..", file, "queries.go"))
		require.NoError(t, err)
		for _, call := range calls.FindAllString(string(text), -1) {
			name := strings.TrimSuffix(call, "(")
			if one[bool](t, db, `select coalesce(bool_or(has_function_privilege('pgtick_runner', p.oid, 'execute')), false) from pg_proc as p where p.pronamespace::regnamespace || '.' || p.proname = $1`, name) && !forPeople[name] {
				seen++
				require.Contains(t, strings.FieldsFunc(known, func(r rune) bool { return r == ',' || r <= ' ' }), name)
			}
		}
	}
	require.Greater(t, seen, 30)
}

// forPeople are called by the command line alone, and open to a runner as to others.
var forPeople = map[string]bool{"pgtick.describe": true, "pgtick.lint": true, "pgtick.preview": true}

func TestDoctor_WithoutTheDatabase_NamesEachCheckThatItCouldNotMake(t *testing.T) {
	t.Parallel()
	p := whole(t, pgtest.New(t))
	p.env["DATABASE_URL"] = nowhere(t, p)
	found := p.look(t)
	require.Len(t, found, len(doctor.Names()))
	for _, f := range found {
		if f.Check == "reachable" {
			require.Equal(t, "fail", f.Status)
			require.Contains(t, f.Remedy, "nothing listens there")
			continue
		}
		require.Equal(t, "warn", f.Status, f)
		require.Equal(t, "not looked at: the database can't be reached", f.What)
	}
	out, talk, code := p.call(t, "doctor")
	require.Equal(t, 1, code)
	require.Contains(t, talk, "pgtick: 1 failure\n")
	password := p.db.Config(t).Password
	require.NotContains(t, out+talk, password)
}

func TestDoctor_OfADatabaseWithoutPgtick_SaysHowToInstallIt(t *testing.T) {
	t.Parallel()
	p := &patient{db: pgtest.NewEmpty(t), env: map[string]string{}}
	unseen := 0
	for _, f := range sick(p.look(t)) {
		if strings.HasPrefix(f.What, "not looked at: ") {
			unseen++
			require.Equal(t, "warn", f.Status, f)
			require.Equal(t, "not looked at: pgtick is not installed in this database", f.What, f)
			require.Equal(t, "first `pgtick migrate`", f.Remedy)
		}
	}
	require.Greater(t, unseen, 30)
}

func TestDoctor_WithACheckThatDoesNotExist_IsWrongUsage(t *testing.T) {
	t.Parallel()
	p := whole(t, pgtest.New(t))
	_, talk, code := p.call(t, "doctor", "--only", "listen,cron")
	require.Equal(t, 2, code)
	require.Equal(t, "pgtick: --only \"cron\" is no check; did you mean pg-cron, pg-cron-runs, pg-cron-entries?\n", talk)
	_, talk, code = p.call(t, "doctor", "--only", "xyzzy")
	require.Equal(t, 2, code)
	require.Contains(t, talk, "did you mean reachable, ")
	_, talk, code = (&patient{db: p.db, env: map[string]string{"DATABASE_URL": ""}}).call(t, "doctor")
	require.Equal(t, 2, code)
	require.Contains(t, talk, "DATABASE_URL (or --database-url): is not set")
}

// A failure among many warnings is not left out silently.
func TestDoctor_WithManyFindingsOfACheck_CountsTheRest(t *testing.T) {
	t.Parallel()
	p := whole(t, pgtest.New(t))
	do(t, p.db, `select pgtick.schedule('s' || i, '0 0 1 1 *', 'nobody.has.it') from generate_series(1, 12) as i`)
	do(t, p.db, `update pgtick.schedule_defs set broken_at = now(), broken_why = 'by hand', retry_at = now() where name = 's7'`)
	found := p.look(t, "schedules")
	require.Len(t, found, 11)
	require.Equal(t, "warn", found[9].Status)
	require.Equal(t, "fail", found[10].Status)
	require.Equal(t, "and 3 more", found[10].What)
	require.Equal(t, "mend these, and look again: `pgtick doctor --only schedules`", found[10].Remedy)
}

// A lock that somebody holds keeps nobody waiting.
func TestDoctor_WhereATableIsLocked_CutsTheCheckOff(t *testing.T) {
	t.Parallel()
	p := whole(t, pgtest.New(t))
	conn, err := pgx.Connect(t.Context(), p.db.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), "begin; lock table pgtick.live_jobs in access exclusive mode")
	require.NoError(t, err)
	found := p.look(t, "backlog", "schema")
	require.Len(t, found, 2)
	require.Equal(t, "ok", found[0].Status)
	require.Equal(t, "warn", found[1].Status)
	require.Contains(t, found[1].What, "not looked at: cut off, it took too long (canceling statement due to lock timeout)")
	require.Contains(t, found[1].Remedy, "`pgtick doctor --only backlog`")
}

// What comes from the database may be anybody's: it moves nothing on a terminal.
func TestDoctor_WithAHostileText_PrintsItAsText(t *testing.T) {
	t.Parallel()
	p := whole(t, pgtest.New(t))
	hostile := "down\x1b[2J\u202ebad"
	do(t, p.db, `select pgtick.pause_queue('default', $1)`, hostile)
	p.db.Advance(t, 48*time.Hour)
	out, _, code := p.call(t, "doctor", "--only", "pauses")
	require.Zero(t, code)
	require.NotContains(t, out, "\x1b")
	require.NotContains(t, out, "\u202e")
	require.Contains(t, out, "down")
	require.Contains(t, p.look(t, "pauses")[0].What, hostile)
}

// Lines fit, but for what is to be copied.
func TestDoctor_ForANarrowTerminal_BreaksAllButRemedies(t *testing.T) {
	t.Parallel()
	p := whole(t, pgtest.New(t))
	do(t, p.db, `select pgtick.enqueue('a.task.that.nobody.has')`)
	p.env["COLUMNS"] = "60"
	out, _, code := p.call(t, "doctor", "--only", "tasks-served")
	require.Equal(t, 1, code)
	require.Contains(t, out, "fail  tasks-served\n")
	remedies := 0
	for line := range strings.Lines(out) {
		if strings.Contains(line, "do:  ") {
			remedies++
			require.Contains(t, line, "`select pgtick.cancel_where('{\"task\": \"a.task.that.nobody.has\"}');`")
			continue
		}
		require.LessOrEqual(t, len(line), 61, line)
	}
	require.Equal(t, 1, remedies)
}

func TestDoctor_OfSeveralDatabases_NamesEach(t *testing.T) {
	t.Parallel()
	one, other := whole(t, pgtest.New(t)), whole(t, pgtest.New(t))
	one.env["PGTICK_DATABASES"], one.env["ONE_URL"], one.env["OTHER_URL"] = "ONE_URL,OTHER_URL", one.db.URL, other.db.URL
	found := one.look(t, "schema", "address")
	require.Len(t, found, 4)
	require.Equal(t, []string{"localhost/" + one.db.Name, "localhost/" + other.db.Name}, []string{found[0].Database, found[3].Database})
	var keys map[string]any
	out, _, _ := other.call(t, "doctor", "--json", "--only", "schema")
	require.NoError(t, json.Unmarshal([]byte(out), &keys))
	require.NotContains(t, keys, "database")
}
