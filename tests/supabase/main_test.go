// Package supabase tests that pgtick installs on a hosted project, by its own CLI (the real one, from npm) and by "pgtick migrate", and
// what both say where they cannot. The project is an emulation on a private server (pgtest.Hosted).
package supabase

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// within is how long a condition may take to come true on a slow machine.
const within = 3 * time.Minute

func TestMain(m *testing.M) { pgtest.Main(m) }

// root is the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	top, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	return top
}

func contents(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root(t)}, path...)...))
	require.NoError(t, err)
	return string(text)
}

// generated is the migration as "make supabase" would write it now.
func generated(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	require.NoError(t, migrations.Supabase(&text))
	return text.String()
}

// project is a folder with the files of a Supabase project.
type project string

// newProject is our folder supabase, its migration as of now: what is checked in may be stale, which is for a test of its own to say.
func newProject(t *testing.T) project {
	t.Helper()
	p := project(t.TempDir())
	for _, name := range []string{"config.toml", "seed.sql"} {
		p.write(t, name, contents(t, "supabase", name))
	}
	p.write(t, "migrations/20260101000000_pgtick.sql", generated(t))
	return p
}

func (p project) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(string(p), "supabase", filepath.FromSlash(name))
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// supabaseCLI is the program that "make prepare" has fetched; npm has this release for one kind of machine alone.
func supabaseCLI(t *testing.T) string {
	t.Helper()
	if runtime.GOOS+"/"+runtime.GOARCH != "linux/amd64" {
		t.Skip("the Supabase CLI is fetched for linux/amd64 alone")
	}
	program := filepath.Join(root(t), ".pgtick", "supabase", "node_modules", "@supabase", "cli-linux-x64", "bin", "supabase")
	require.FileExists(t, program, "the Supabase CLI is missing: make prepare")
	return program
}

// command is the Supabase CLI in the project's folder. It has a home of its own, and tells nobody.
func (p project) command(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, supabaseCLI(t), append([]string{"--agent", "no"}, args...)...)
	cmd.Dir = string(p)
	cmd.Env = append(os.Environ(), "HOME="+string(p), "DO_NOT_TRACK=1", "SUPABASE_TELEMETRY_DISABLED=1", "NO_COLOR=1", "CI=1", "PGSSLMODE=disable")
	return cmd
}

// run returns what the CLI printed, what it said beside that, and the error of its exit.
func (p project) run(t *testing.T, args ...string) (out, talk string, err error) {
	t.Helper()
	cmd := p.command(t.Context(), t, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		require.NoError(t, err)
	}
	return stdout.String(), stderr.String(), err
}

// push must succeed.
func (p project) push(t *testing.T, db *pgtest.DB, more ...string) string {
	t.Helper()
	out, talk, err := p.run(t, append([]string{"db", "push", "--yes", "--remote=" + db.URL}, more...)...)
	require.NoError(t, err, "%s%s", out, talk)
	return out + talk
}

// refused is what a push that must fail says.
func (p project) refused(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	out, talk, err := p.run(t, "db", "push", "--yes", "--remote="+db.URL)
	require.Error(t, err, "%s%s", out, talk)
	return out + talk
}

// apply runs the file as the CLI does, in one transaction, and returns its notices, which the CLI keeps to itself. It is for tests that
// are about what the file does, and not how it gets there: the CLI takes a second to start.
func apply(t *testing.T, login string) (notices string, err error) {
	t.Helper()
	cfg, err := pgx.ParseConfig(login)
	require.NoError(t, err)
	var all strings.Builder
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { all.WriteString(n.Message + "\n") }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.PgConn().Exec(t.Context(), generated(t)).ReadAll()
	return all.String(), err
}

// applied must succeed.
func applied(t *testing.T, login string) string {
	t.Helper()
	notices, err := apply(t, login)
	require.NoError(t, err)
	return notices
}

// migrate is "pgtick migrate" as the login of a URL.
func migrate(t *testing.T, url string) (migrations.Report, error) {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	return migrations.Up(t.Context(), cfg, migrations.Options{})
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// urlTo is the same login to another database.
func urlTo(t *testing.T, login, database string) string {
	t.Helper()
	u, err := url.Parse(login)
	require.NoError(t, err)
	u.Path = "/" + database
	return u.String()
}

// as runs statements as the login of a URL.
func as(t *testing.T, url, statements string) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(context.Background())
	_, err := conn.PgConn().Exec(t.Context(), statements).ReadAll()
	require.NoError(t, err, statements)
}

func ask[T any](t *testing.T, url, query string, args ...any) (value T) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(context.Background())
	require.NoError(t, conn.QueryRow(t.Context(), query, args...).Scan(&value), query)
	return value
}

// leftovers are what a refused install must not leave behind. The CLI's own table of what it has pushed may stay.
const leftovers = `select coalesce(string_agg(o.name, ', ' order by o.name), '') from (
	select c.oid::regclass::text from pg_class as c where c.relnamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
	union all
	select p.oid::regprocedure::text from pg_proc as p where p.pronamespace = any (array(select to_regnamespace(s) from unnest('{pgtick,credits,analytics}'::text[]) as s))
) as o(name)`

func requireNothingThere(t *testing.T, db *pgtest.DB) {
	t.Helper()
	require.Empty(t, ask[string](t, db.AdminURL(), leftovers))
}

var (
	// randomLine is a safeguard that pg_dump writes anew each time.
	randomLine = regexp.MustCompile(`(?m)^\\(un)?restrict .*\n`)
	versions   = regexp.MustCompile(`(?m)^-- Dumped (from|by) .*\n`)
)

// dump is the whole schema as text, owners and rights included. Left out are the partitions of single days (midnight may come between
// two dumps) and the CLI's record of what it has pushed.
func dump(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	bin, err := localpg.FindBinaries(false)
	require.NoError(t, err)
	program := filepath.Join(bin, "pg_dump")
	if _, err := os.Stat(program); err != nil {
		t.Skipf("pg_dump does not come with the server in %s", bin)
	}
	cmd := exec.CommandContext(t.Context(), program, "--schema-only", "--exclude-table=pgtick.*_20[0-9][0-9]*", "--exclude-schema=supabase_migrations", db.AdminURL())
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, said.String())
	return versions.ReplaceAllString(randomLine.ReplaceAllString(string(out), ""), "")
}
