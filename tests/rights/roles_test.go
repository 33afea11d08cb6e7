package rights

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

const plainPassword = "correct horse battery staple"

// Passwords of all kinds that are allowed: what PostgreSQL keeps of them must be what its clients make of them.
var passwords = []string{
	plainPassword,
	`it's a "quoted" one; $$ \ : %s #?&/@`,
	"schöne Grüße aus Köln",
	"пароль на каждый день",
	"密码密码密码密码密码密码",
	"with a fox 🦊 in it",
	"שלום-שלום-1234",
	"  blanks at both ends  ",
}

type printed struct {
	sql, talk string
	code      int
}

// printRole runs pgtick roles with an input and settings in the environment.
func printRole(t *testing.T, input string, env []string, args ...string) printed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"roles"}, args...)...)
	cmd.Env = append(cmd.Environ(), append([]string{"PGTICK_ROLE_PASSWORD="}, env...)...)
	cmd.Stdin = strings.NewReader(input)
	var out, talk strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &talk
	_ = cmd.Run()
	return printed{out.String(), talk.String(), cmd.ProcessState.ExitCode()}
}

// apply runs what was printed, as it is.
func apply(t *testing.T, owner *pgx.Conn, p printed) {
	t.Helper()
	require.Zero(t, p.code, p.talk)
	_, err := owner.PgConn().Exec(t.Context(), p.sql).ReadAll()
	require.NoError(t, err, p.sql)
}

func TestRoles_WithAnyPassword_MakeALogin_AndNeverShowIt(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	owner := connect(t, db.URL)
	file := filepath.Join(t.TempDir(), "password")
	for i, password := range passwords {
		for j, way := range []func(verb, name string) printed{
			func(verb, name string) printed { return printRole(t, password+"\n", nil, verb, "--name", name) },
			func(verb, name string) printed {
				return printRole(t, "", []string{"PGTICK_ROLE_PASSWORD=" + password}, verb, "--name", name)
			},
			func(verb, name string) printed {
				require.NoError(t, os.WriteFile(file, []byte(password+"\r\n"), 0o600))
				return printRole(t, "another one, of no effect", []string{"PGTICK_ROLE_PASSWORD=of no effect either"}, verb, "--password-file", file, "--name", name)
			},
		} {
			for _, verb := range []string{"runner", "reader"} {
				name := fmt.Sprintf("%s_%d_%d", verb, i, j)
				p := way(verb, name)
				apply(t, owner, p)
				require.NotContains(t, p.sql+p.talk, password)
				conn := connect(t, pgtest.URLAs(db, name, password))
				require.Equal(t, name, one[string](t, conn, "select current_user::text"))
				require.NotEmpty(t, one[time.Time](t, conn, "select pgtick.now()"))
				_, err := pgx.Connect(t.Context(), pgtest.URLAs(db, name, password+"x"))
				requireCode(t, err, "28P01", "another password")
			}
		}
	}
}

// libpq brings a password into a form of its own before it hashes it, and so do programs that are built on it.
func TestRoles_WithAnyPassword_MakeALoginForLibpq(t *testing.T) {
	t.Parallel()
	bin, err := localpg.FindBinaries(false)
	require.NoError(t, err)
	psql := filepath.Join(bin, "psql")
	if _, err := os.Stat(psql); err != nil {
		t.Skipf("psql does not come with the server in %s", bin)
	}
	db := newProject(t)
	owner := connect(t, db.URL)
	for i, password := range passwords {
		name := fmt.Sprintf("libpq_%d", i)
		apply(t, owner, printRole(t, password, nil, "reader", "--name", name))
		cfg := db.Config(t)
		cmd := exec.CommandContext(t.Context(), psql, "-X", "-A", "-t", "-h", cfg.Host, "-p", fmt.Sprint(cfg.Port), "-U", name, "-d", db.Name, "-c", "select count(*) from pgtick.health")
		cmd.Env = append(cmd.Environ(), "PGPASSWORD="+password)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", password, out)
	}
}

// The server makes the same of a password, given its salt: so the login's password can also be changed by any other means.
func TestRoles_PrintWhatTheServerItselfWouldKeep(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	owner := connect(t, db.URL)
	apply(t, owner, printRole(t, plainPassword, nil, "reader", "--name", "kept"))
	do(t, owner, "create role kept_by_server login password '"+plainPassword+"'")
	const shape = `select regexp_replace(regexp_replace(rolpassword, '[A-Za-z0-9+/]{43}=', 'key', 'g'), '[A-Za-z0-9+/]{22}==', 'salt') from pg_authid where rolname = $1`
	require.Equal(t, "SCRAM-SHA-256$4096:salt$key:key", one[string](t, owner, shape, "kept"))
	require.Equal(t, one[string](t, owner, shape, "kept_by_server"), one[string](t, owner, shape, "kept"))
}

func TestRoles_RunAgain_SetANewPassword_AndTheSameSettings(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	owner := connect(t, db.URL)
	for _, password := range passwords[:2] {
		apply(t, owner, printRole(t, password, nil, "runner", "--name", "again", "--connection-limit", "7"))
	}
	connect(t, pgtest.URLAs(db, "again", passwords[1]))
	_, err := pgx.Connect(t.Context(), pgtest.URLAs(db, "again", passwords[0]))
	requireCode(t, err, "28P01", "the old password")
	require.Equal(t, 7, one[int](t, owner, "select rolconnlimit from pg_roles where rolname = 'again'"))
	require.Equal(t, []string{"default_transaction_isolation=read committed", "idle_in_transaction_session_timeout=15min", "idle_session_timeout=0", "statement_timeout=0",
		"tcp_keepalives_count=3", "tcp_keepalives_idle=1min", "tcp_keepalives_interval=10s"},
		all[string](t, owner, "select unnest(setconfig) from pg_db_role_setting where setrole = 'again'::regrole order by 1"))
}

func TestRoles_WithGenerate_WriteThePasswordIntoANewFile(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	file := filepath.Join(t.TempDir(), "password")
	p := printRole(t, "", nil, "reader", "--name", "generated", "--generate", file)
	apply(t, connect(t, db.URL), p)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	password := strings.TrimSuffix(contents(t, file), "\n")
	require.GreaterOrEqual(t, len(password), 26)
	require.NotContains(t, p.sql+p.talk, password)
	connect(t, pgtest.URLAs(db, "generated", password))

	again := printRole(t, "", nil, "reader", "--name", "generated", "--generate", file)
	require.Equal(t, 2, again.code)
	require.Contains(t, again.talk, "is there already")
	require.Equal(t, password+"\n", contents(t, file))
}

func TestRoles_OfWhatMakesNoSense_SayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		input string
		args  []string
		says  string
	}{
		"no password":                       {"", nil, "is empty"},
		"an empty line":                     {"\n", nil, "is empty"},
		"a short one":                       {"hunter2hunt", nil, "has 11 characters: 12 to 200 are allowed"},
		"a long one":                        {strings.Repeat("x", 201), nil, "has 201 characters"},
		"two lines":                         {"the first line\nand another one", nil, "U+000A"},
		"a tab":                             {"the first\tand the second", nil, "U+0009"},
		"not UTF-8":                         {"\xff\xfe\xfd 0123456789", nil, "not UTF-8"},
		"an accent by itself":               {"Gru\u0308ße aus der Ferne", nil, "in several ways"},
		"a ligature":                        {"a \ufb01ne password it is", nil, "in several ways"},
		"a blank that is none":              {"no\u00a0break, no password", nil, "in several ways"},
		"a soft hyphen":                     {"pass\u00adword, pass\u00adword", nil, "U+00AD"},
		"a joiner":                          {"family 👩\u200d👩 and more", nil, "U+200D"},
		"a variation selector":              {"with a heart \u2764\ufe0f in it", nil, "U+FE0F"},
		"a name in capitals":                {plainPassword, []string{"--name", "Runner"}, `--name "Runner" is no name`},
		"a name that ends the statement":    {plainPassword, []string{"--name", `x"; drop role y; --`}, "is no name"},
		"a name of PostgreSQL's":            {plainPassword, []string{"--name", "pg_monitor"}, "is no name"},
		"no name":                           {plainPassword, []string{"--name", ""}, "is no name"},
		"the name of the owner":             {plainPassword, []string{"--name", "postgres"}, "a meaning of its own"},
		"the name of the API's role":        {plainPassword, []string{"--name", "authenticated"}, "a meaning of its own"},
		"no connections":                    {plainPassword, []string{"--connection-limit", "0"}, "is not from 1 to 10000"},
		"a file that is not there":          {"", []string{"--password-file", filepath.Join(t.TempDir(), "none")}, "--password-file"},
		"a folder that is not there":        {"", []string{"--generate", filepath.Join(t.TempDir(), "none", "file")}, "--generate"},
		"two passwords":                     {"", []string{"--generate", "a", "--password-file", "b"}, "give one of them"},
		"an argument":                       {plainPassword, []string{"pgtick_runner"}, "unknown command"},
		"another flag, such as --password=": {"", []string{"--password=secret"}, "unknown flag"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := printRole(t, c.input, nil, append([]string{"runner"}, c.args...)...)
			require.Equal(t, 2, p.code, p.talk)
			require.Empty(t, p.sql)
			require.Contains(t, p.talk, c.says)
			if c.input != "" && len(c.input) > 5 {
				require.NotContains(t, p.talk, c.input)
			}
		})
	}
}

// A login that is something else besides would make its rights ours.
func TestRoles_ForARoleThatMayDoMore_AreRefusedByTheDatabase(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	owner := connect(t, db.URL)
	for i, power := range []string{"superuser", "createrole", "createdb", "replication", "bypassrls", "an owner"} {
		name := fmt.Sprintf("mighty_%d", i)
		if power == "an owner" {
			do(t, owner, "create role "+name)
			do(t, owner, "create schema of_somebody authorization "+name)
		} else {
			do(t, owner, "create role "+name+" "+power)
		}
		_, err := owner.PgConn().Exec(t.Context(), printRole(t, plainPassword, nil, "runner", "--name", name).sql).ReadAll()
		requireCode(t, err, "P0001", power)
		do(t, owner, "rollback")
		require.False(t, one[bool](t, owner, "select rolcanlogin from pg_roles where rolname = $1", name))
	}
}

// hosted is a database whose owner is no superuser, as the role postgres of a hosted project: on a server of its own, since what that owner
// may do with a role hangs, from PostgreSQL 16 on, on its having made it.
func hosted(t *testing.T) (db *pgtest.DB, url string) {
	t.Helper()
	own := pgtest.BareServer(t)
	admin := connect(t, own.URL("postgres"))
	do(t, admin, "create role hosted login createrole bypassrls password 'of-tests'")
	do(t, admin, "create database project owner hosted")
	db = &pgtest.DB{Name: "project", URL: own.URL("project")}
	url = pgtest.URLAs(db, "hosted", "of-tests")
	cfg, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	_, err = migrations.Up(t.Context(), cfg, migrations.Options{})
	require.NoError(t, err)
	return db, url
}

// The whole way, as docs/rights.md has it: made by an owner who is no superuser, the login runs jobs and can do nothing else.
func TestRoles_OfTheRunner_MadeByAHostedOwner_RunsJobs_AndTouchesNoTable(t *testing.T) {
	t.Parallel()
	db, ownerURL := hosted(t)
	owner := connect(t, ownerURL)
	for _, name := range []string{"pgtick_runner", "worker_eu"} {
		apply(t, owner, printRole(t, plainPassword, nil, "runner", "--name", name))
		url := pgtest.URLAs(db, name, plainPassword)
		runner := connect(t, url)
		for _, statement := range all[string](t, connect(t, db.URL), everyAct) {
			if reads(statement) && strings.Contains(statement, "goose_db_version") {
				continue // which version the schema has
			}
			refused(t, runner, "42501", statement)
		}
		for _, statement := range []string{"create table pgtick.mine (n int)", "create table public.mine (n int)", "create schema mine", "create role mine",
			"select pgtick.enqueue_tied(null, null)", "select pgtick.allow_function('pg_catalog.now()', 'pgtick_runner')", "select pgtick.allow_task('x')", "alter role pgtick_reader login"} {
			refused(t, runner, "42501", statement)
		}
		require.Zero(t, one[int](t, connect(t, db.URL), "select count(*) from pg_shdepend where deptype = 'o' and refobjid = $1::text::regrole", name))
		require.Equal(t, "done", runAJob(t, url, owner))
	}
}

// reads tells the statements of everyAct that change nothing.
func reads(statement string) bool {
	return strings.HasPrefix(statement, "select ") && !strings.Contains(statement, "val(")
}

// runAJob has a runner with this login run a job of the task sql, and returns the job's state.
func runAJob(t *testing.T, url string, owner asker) string {
	t.Helper()
	do(t, owner, "create or replace function public.greet() returns text language sql as $$ select 'hello from ' || session_user $$")
	do(t, owner, "select pgtick.allow_function('public.greet()', 'pgtick_runner')")
	id := one[int64](t, owner, `select pgtick.enqueue('sql', '{"function": "public.greet"}')`)
	work := exec.Command(binary, "work", "--http", "off")
	work.Env = append(os.Environ(), "DATABASE_URL="+url)
	said := new(bytes.Buffer)
	work.Stderr = said
	require.NoError(t, work.Start())
	ended := make(chan error, 1)
	go func() { ended <- work.Wait() }()
	t.Cleanup(func() { _ = work.Process.Kill() })
	require.Eventually(t, func() bool {
		return one[bool](t, owner, "select state in ('done', 'failed') from pgtick.jobs where id = $1", id)
	}, patience, 20*time.Millisecond)
	require.NoError(t, work.Process.Signal(syscall.SIGTERM))
	require.NoError(t, <-ended, said.String())
	return one[string](t, owner, "select state from pgtick.jobs where id = $1", id)
}

func TestRoles_OfTheReader_ReadsTheViews_AndChangesNothing_ThatOfTheOperatorActsByFunctionsAlone(t *testing.T) {
	t.Parallel()
	db, ownerURL := hosted(t)
	owner := connect(t, ownerURL)
	id := one[int64](t, owner, "select pgtick.enqueue('echo')")
	for _, name := range []string{"pgtick_operator", "oncall"} {
		apply(t, owner, printRole(t, plainPassword, nil, "operator", "--name", name))
		requireOperator(t, db, name, one[int64](t, owner, "select pgtick.enqueue('echo', p_queue => 'others')"))
	}
	for _, name := range []string{"pgtick_reader", "dashboard"} {
		apply(t, owner, printRole(t, plainPassword, nil, "reader", "--name", name))
		reader := connect(t, pgtest.URLAs(db, name, plainPassword))
		require.Equal(t, "ready", one[string](t, reader, "select state from pgtick.jobs where id = $1", id))
		require.Equal(t, "on 30s 1min 5s", one[string](t, reader, `select concat_ws(' ', current_setting('default_transaction_read_only'), current_setting('statement_timeout'),
			current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout'))`))
		do(t, reader, "set default_transaction_read_only = off") // a setting is no right
		for _, statement := range all[string](t, connect(t, db.URL), everyAct) {
			if !reads(statement) {
				refused(t, reader, "42501", statement)
			}
		}
		for _, statement := range []string{"select pgtick.enqueue('echo')", "select pgtick.cancel(1)", "select pgtick.claim(1, '{}', '{}', 1)", "select pgtick.tick()", "create table public.mine (n int)"} {
			refused(t, reader, "42501", statement)
		}
	}
}

// requireOperator logs in, acts, and tries what is not an operator's.
func requireOperator(t *testing.T, db *pgtest.DB, name string, id int64) {
	t.Helper()
	operator := connect(t, pgtest.URLAs(db, name, plainPassword))
	require.Equal(t, "2min 10s 1min", one[string](t, operator, `select concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'))`))
	require.Equal(t, "ready", one[string](t, operator, "select state from pgtick.jobs where id = $1", id))
	require.Equal(t, "cancelled", one[string](t, operator, "select pgtick.cancel($1)", id))
	require.Equal(t, "ready", one[string](t, operator, `select pgtick.retry_with($1, '{"n": 1}', 'it was none')`, id))
	do(t, operator, "select pgtick.pause_queue('others', 'why'), pgtick.resume_queue('others')")
	require.Equal(t, name, one[string](t, operator, "select string_agg(distinct by_whom, ' ') from pgtick.audit where at > (select max(at) from pgtick.audit) - interval '1 minute' and by_whom like $1 || '%'", name))
	do(t, operator, `select set_config('request.jwt.claims', '{"sub": "the owner"}', false)`)
	do(t, operator, "select pgtick.note_action('tested', 'claims')")
	require.Equal(t, "the owner (login "+name+")", one[string](t, operator, "select by_whom from pgtick.audit order by id desc limit 1"), "a login can't pass itself off as another one")
	for _, statement := range all[string](t, connect(t, db.URL), everyAct) {
		if !reads(statement) {
			refused(t, operator, "42501", statement)
		}
	}
	user := "'00000000-0000-4000-8000-000000000001'"
	for _, statement := range []string{"select credits.open_account(" + user + ")", "select credits.grant(" + user + ", 1, 'k')", "select credits.charge(" + user + ", 1, 'k')", "select credits.release(1)", "select credits.resolve(1, true)",
		"select credits.redact(1)", "select pgtick.allow_task('x')", "select pgtick.allow_function('pg_catalog.now()', 'pgtick_runner')", "select pgtick.allow_gate('g', 'select 1')", "select credits.allow_own('charge')",
		"select pgtick.set_retention('x', 'done', '1 day')", "select pgtick.set_retry_policy('x', '{}')", "select pgtick.set_gates('x', '{}')", "select pgtick.set_realtime(true)", "select pgtick.register('r', '{q}', '{t}')",
		"select pgtick.claim(1, '{}', '{}', 1)", "select pgtick.finish(1, '{}', '{}', '{}')", "select pgtick.count_attempts(1, 1, 1)", "select pgtick.tick()", "select pgtick.maintain()", "select pgtick.adopt('x')",
		"create table pgtick.mine (n int)", "create table public.mine (n int)", "create schema mine", "create role mine", "alter role pgtick_reader login", "set role pgtick_reader"} {
		refused(t, operator, "42501", statement)
	}
}

// Rights start from nothing each time: what a hand, or an earlier version, has granted on pgtick's own is gone after migrate, and what it grants is there.
func TestMigrate_TakesAwayWhatItDoesNotGrant(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	const rights = `select format('%s %s %s', c.oid::regclass, a.grantee::regrole, a.privilege_type) from pg_class as c cross join aclexplode(c.relacl) as a
			where c.relnamespace::regnamespace::text in ('pgtick', 'credits', 'analytics') and a.grantee not in (0, c.relowner)
		union all select format('%s public %s', c.oid::regclass, a.privilege_type) from pg_class as c cross join aclexplode(c.relacl) as a
			where c.relnamespace::regnamespace::text in ('pgtick', 'credits', 'analytics') and a.grantee = 0
		union all select format('%s %s %s', p.oid::regprocedure, a.grantee, a.privilege_type) from pg_proc as p cross join aclexplode(p.proacl) as a
			where p.pronamespace::regnamespace::text in ('pgtick', 'credits', 'analytics') and a.grantee <> p.proowner
		union all select format('%s %s %s', n.nspname, a.grantee, a.privilege_type) from pg_namespace as n cross join aclexplode(n.nspacl) as a
			where n.nspname in ('pgtick', 'credits', 'analytics') and a.grantee <> n.nspowner
		order by 1`
	before := all[string](t, db.Pool, rights)
	for _, role := range []string{"public", "anon", "authenticated", "service_role"} {
		do(t, db.Pool, "grant all on schema pgtick, credits, analytics to "+role)
		for _, what := range []string{"tables", "sequences", "routines"} {
			do(t, db.Pool, "grant all on all "+what+" in schema pgtick, credits, analytics to "+role)
		}
	}
	require.Greater(t, len(all[string](t, db.Pool, rights)), len(before)+1000)
	do(t, db.Pool, "update pgtick.applied_sql set hash = 'another'")
	require.True(t, db.Migrate(t).SQL)
	require.Equal(t, before, all[string](t, db.Pool, rights))
}
