package install_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// up migrates as whoever the configuration names.
func up(t *testing.T, cfg *pgx.ConnConfig) migrations.Report {
	t.Helper()
	report, err := migrations.Up(t.Context(), cfg, migrations.Options{})
	require.NoError(t, err)
	return report
}

func config(t *testing.T, url string) *pgx.ConnConfig {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	return cfg
}

func exec1(t *testing.T, db *pgtest.DB, statement string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), statement, args...)
	require.NoError(t, err, statement)
}

func ask1[T any](t *testing.T, db *pgtest.DB, query string, args ...any) (value T) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), query, args...).Scan(&value), query)
	return value
}

// column returns the first column of all rows.
func column(t *testing.T, db *pgtest.DB, query string, args ...any) []string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), query, args...)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

var (
	// randomLine is a safeguard that pg_dump writes anew each time.
	randomLine = regexp.MustCompile(`(?m)^\\(un)?restrict .*\n`)
	versions   = regexp.MustCompile(`(?m)^-- Dumped (from|by) .*\n`)
)

// dump is the whole schema as text. The partitions of single days are left out: midnight may come between two dumps.
func dump(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program(t, "pg_dump"), "--schema-only", "--exclude-table=pgtick.*_20[0-9][0-9]*", db.URL).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		t.Fatal(err, string(failed.Stderr))
	}
	require.NoError(t, err)
	return versions.ReplaceAllString(randomLine.ReplaceAllString(string(out), ""), "")
}

// program finds a PostgreSQL client program beside the server's; the packages of the server alone do not bring it.
func program(t *testing.T, name string) string {
	t.Helper()
	bin, err := localpg.FindBinaries(false)
	require.NoError(t, err)
	beside := filepath.Join(bin, name)
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	t.Skipf("%s does not come with the server in %s", name, bin)
	return ""
}

func newConn(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// root is the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}
