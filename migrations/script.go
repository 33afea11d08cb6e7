package migrations

import (
	"context"
	"database/sql"
	_ "embed" // the step that runs the parts
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	sqlfiles "github.com/pgtick/pgtick/sql"
	"github.com/pressly/goose/v3/database"
)

//go:embed steps/script.sql
var scriptStep string

// Script writes the whole installation as one SQL file, for people who install by hand (psql -v ON_ERROR_STOP=1 -f, or the SQL editor
// of a hosting service). It does what Up does, whatever state the database is in, in one transaction. What it cannot do is to record
// the address, and to reach a pg_cron in another database.
func Script(w io.Writer) error {
	_, err := fmt.Fprintf(w, scriptHead, Latest(), "begin;\n"+script()+"commit;\n")
	return err
}

// Supabase writes the same as a migration for "supabase db push". That sends the statements of a file, and the row that says that it
// did, as one transaction of its own: so there is neither begin nor commit.
func Supabase(w io.Writer) error {
	_, err := fmt.Fprintf(w, supabaseHead, Latest(), script())
	return err
}

const scriptHead = `-- pgtick, schema %d: installs it, or brings it up to date, from any state; "pgtick migrate" and this file may follow each other.
--   psql -v ON_ERROR_STOP=1 -f pgtick.sql "$DATABASE_URL"
-- All of it happens in one transaction, or nothing.
%s`

const supabaseHead = `-- pgtick, schema %d, as a migration for "supabase db push". Written by "make supabase" (in your own project: pgtick migrate sql --supabase);
-- do not edit it. It installs pgtick, or brings it up to date, from any state; "pgtick migrate" and this file may follow each other.
%s`

// script first puts the text of each part into a setting that ends with the transaction, and then runs those that are missing in one
// short statement: a client that shows the statement that failed then shows that one, not half a megabyte.
func script() string {
	var text strings.Builder
	text.WriteString(settingsBlock)
	var names []string
	for i, f := range parts() {
		names = append(names, "'"+f.name+"'")
		fmt.Fprintf(&text, "\n-- %s\ndo $pgtick$\nbegin\n  perform set_config('pgtick.part_%d', %s, true);\nend\n$pgtick$;\n", f.name, i+1, inDollars(f))
	}
	text.WriteString("\n" + strings.NewReplacer("{latest}", strconv.FormatInt(Latest(), 10), "{hash}", sqlHash(), "{names}", strings.Join(names, ", "),
		"{lock}", strconv.FormatInt(lockKey, 10), "{versions}", versionTable, "{create versions}", versionTableSQL(), "{roles}", rolesOfInterest,
		"{record}", strings.Replace(recordSQL, "$1", "v_hash", 1), "{no cron}", strings.ReplaceAll(noCron, "'", "''")).Replace(scriptStep))
	return text.String()
}

// A block each, since a select would make psql print its result. search_path: as migrate has it. The login's own limits (hosted ones
// have a statement_timeout) are not meant for this.
const settingsBlock = `
do $pgtick$
begin
  perform set_config('search_path', '', true), set_config('client_min_messages', 'notice', true), set_config('statement_timeout', '0', true),
    set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '0', true);
end
$pgtick$;
`

// parts are all SQL of an installation, in the order in which it runs.
func parts() []file {
	all := []file{{name: "steps/first.sql", text: firstStep}}
	for _, f := range read(files) {
		all = append(all, file{name: "migrations/" + f.name, text: plain(f.text)})
	}
	for _, f := range read(sqlfiles.Files) {
		all = append(all, file{name: "sql/" + f.name, text: f.text})
	}
	return append(all, file{name: "steps/versions.sql", text: versionsStep}, file{name: "steps/last.sql", text: lastStep})
}

// inDollars quotes a text that is quoted once more around it.
func inDollars(f file) string {
	const tag = "$part$"
	if strings.Contains(f.text, tag) || strings.Contains(f.text, "$pgtick$") {
		panic(f.name + " contains a quote of the script's own")
	}
	return tag + "\n" + f.text + tag
}

var (
	annotation   = regexp.MustCompile(`(?m)^-- \+goose .*\n?`)
	concurrently = regexp.MustCompile(`(?i)(index) concurrently\b`)
)

// plain makes of a migration what goes into one transaction with all others, where no index can be built concurrently.
func plain(migration string) string {
	return concurrently.ReplaceAllString(annotation.ReplaceAllString(migration, ""), "$1")
}

// versionTableSQL asks goose for its statement, so that a script makes the table just as migrate does.
func versionTableSQL() string {
	store := must(database.NewStore(database.DialectPostgres, versionTable))
	var heard listener
	if err := store.CreateVersionTable(context.Background(), &heard); err != nil {
		panic(err)
	}
	return heard.statement
}

// listener is a database that only remembers what it was told.
type listener struct{ statement string }

func (l *listener) ExecContext(_ context.Context, statement string, _ ...any) (sql.Result, error) {
	l.statement = statement
	return nil, nil
}

func (l *listener) QueryContext(context.Context, string, ...any) (*sql.Rows, error) {
	return nil, sql.ErrNoRows
}

func (l *listener) QueryRowContext(context.Context, string, ...any) *sql.Row { return nil }
