package docs_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/stretchr/testify/require"
)

// Marks in SQL that people read as well:
//
//	-- error: TK000   in the first line of a block: its last statement raises this code
//	-- => 70 | 0      after a statement: its first row
var (
	errorMark  = regexp.MustCompile(`(?m)^-- error: ([0-9A-Z]{5})$|^error=([0-9A-Z]{5})$`)
	resultMark = regexp.MustCompile(`-- => (.*)$`)
	comment    = regexp.MustCompile(`(?m)--.*$`)
	// What belongs to the whole server is tried and taken back: other tests use it at the same time.
	ofTheServer = regexp.MustCompile(`(?i)^\s*(create|alter|drop)\s+role\b`)
)

// Not parallel with the other tests of this package, only among its own pages.
func TestSQL_OfEachPage_RunsInOrder(t *testing.T) {
	t.Run("pages", func(t *testing.T) {
		for _, p := range pages(t) {
			if blocks := p.blocks(t, "sql"); len(blocks) > 0 {
				t.Run(p.name, func(t *testing.T) {
					t.Parallel()
					runPage(t, p, blocks)
				})
			}
		}
	})
}

// runPage runs a page's blocks as the owner, on one connection of a fresh database.
func runPage(t *testing.T, p page, blocks []block) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseFor(t, blocks))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	for _, b := range blocks {
		where := fmt.Sprintf("%s:%d", p.name, b.line)
		wanted := ""
		if mark := errorMark.FindStringSubmatch(b.marks + "\n" + b.code); mark != nil {
			wanted = mark[1] + mark[2]
		}
		statements := split(b.code)
		require.NotEmpty(t, statements, where)
		require.Equal(t, strings.Count(b.code, "-- => "), promises(statements), "%s: a result stands beside no statement's end", where)
		for i, s := range statements {
			row, err := run(t, conn, s.text)
			if wanted != "" && i == len(statements)-1 {
				requireCode(t, err, wanted, where)
				continue
			}
			require.NoError(t, err, "%s: %s", where, s.text)
			if s.result != "" {
				require.Equal(t, s.result, row, "%s: %s", where, s.text)
			}
		}
		require.Equal(t, byte('I'), conn.PgConn().TxStatus(), "%s: a transaction is left open", where)
	}
}

var callsCron = regexp.MustCompile(`\bcron\.[a-z_]+\(`)

// databaseFor is a fresh database with pgtick, and with pg_cron in it where the page calls that.
func databaseFor(t *testing.T, blocks []block) string {
	t.Helper()
	if !slices.ContainsFunc(blocks, func(b block) bool { return callsCron.MatchString(b.code) }) {
		return pgtest.New(t).URL
	}
	server, err := pgtest.StartBare(localpg.Options{Cron: true})
	if errors.Is(err, localpg.ErrNoCron) {
		t.Skip("this page calls pg_cron, which is not installed")
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	cfg, err := pgx.ParseConfig(server.URL("postgres"))
	require.NoError(t, err)
	_, err = migrations.Up(t.Context(), cfg, migrations.Options{})
	require.NoError(t, err)
	return server.URL("postgres")
}

func requireCode(t *testing.T, err error, wanted, where string) {
	t.Helper()
	var raised *pgconn.PgError
	require.ErrorAs(t, err, &raised, where)
	require.Equal(t, wanted, raised.Code, "%s: %s", where, raised.Message)
	require.NotEmpty(t, raised.Hint, where)
}

// statement is one of a block, with the first row that the page promises, if it does.
type statement struct{ text, result string }

// split cuts a block at each line that ends a statement: by a semicolon, and perhaps a comment, outside of $$.
func split(code string) []statement {
	var all []statement
	var text strings.Builder
	quoted := false
	for line := range strings.Lines(code) {
		text.WriteString(line)
		quoted = quoted != (strings.Count(line, "$$")%2 == 1)
		bare := strings.TrimSpace(comment.ReplaceAllString(strings.TrimRight(line, "\n"), ""))
		if quoted || !strings.HasSuffix(bare, ";") {
			continue
		}
		s := statement{text: text.String()}
		if mark := resultMark.FindStringSubmatch(strings.TrimRight(line, "\n")); mark != nil {
			s.result = strings.TrimSpace(mark[1])
		}
		all = append(all, s)
		text.Reset()
	}
	if rest := strings.TrimSpace(comment.ReplaceAllString(text.String(), "")); rest != "" {
		all = append(all, statement{text: rest})
	}
	return all
}

func promises(statements []statement) (n int) {
	for _, s := range statements {
		if s.result != "" {
			n++
		}
	}
	return n
}

// run returns a statement's first row as people write it: null, true and false in words, columns with bars between.
func run(t *testing.T, conn *pgx.Conn, sql string) (string, error) {
	t.Helper()
	if ofTheServer.MatchString(comment.ReplaceAllString(sql, "")) {
		sql = "begin;\n" + sql + ";\nrollback;"
	}
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil && conn.PgConn().TxStatus() == 'E' {
		_, _ = conn.Exec(t.Context(), "rollback")
	}
	for _, result := range results {
		if len(result.Rows) > 0 {
			return rowText(result), err
		}
	}
	return "", err
}

func rowText(result *pgconn.Result) string {
	words := make([]string, len(result.Rows[0]))
	for i, value := range result.Rows[0] {
		words[i] = string(value)
		switch {
		case value == nil:
			words[i] = "null"
		case result.FieldDescriptions[i].DataTypeOID == pgtype.BoolOID:
			words[i] = map[string]string{"t": "true", "f": "false"}[words[i]]
		}
	}
	return strings.Join(words, " | ")
}
