package migrations

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"regexp"
	"strings"

	sqlfiles "github.com/pgtick/pgtick/sql"
	"github.com/pressly/goose/v3/database"
)

// Script writes the whole installation as one SQL file, for people who install by hand (psql -v ON_ERROR_STOP=1 -f, or the SQL
// editor of a hosting service). It is for a database without pgtick; "pgtick migrate" upgrades what it has installed.
func Script(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, scriptHead, Latest())
	text.WriteString(versionTableSQL() + ";\n")
	fmt.Fprintf(&text, "insert into %s (version_id, is_applied) values (0, true);\n", versionTable)
	for _, f := range read(files) {
		fmt.Fprintf(&text, "\n-- migrations/%s\n%s\n", f.name, plain(f.text))
		fmt.Fprintf(&text, "insert into %s (version_id, is_applied) values (%d, true);\n", versionTable, versionOf(f.name))
	}
	for _, f := range read(sqlfiles.Files) {
		fmt.Fprintf(&text, "\n-- sql/%s\n%s", f.name, f.text)
	}
	fmt.Fprintf(&text, "\n%s\n%s;\n", versionsStep, strings.Replace(recordSQL, "$1", "'"+sqlHash()+"'", 1))
	fmt.Fprintf(&text, "\n%s%s", lastStep, scriptTail)
	_, err := io.WriteString(w, text.String())
	return err
}

const scriptHead = `-- pgtick, schema %d, for a database that does not have it yet:
--   psql -v ON_ERROR_STOP=1 -f pgtick.sql "$DATABASE_URL"
-- All of it happens in one transaction, or nothing. Upgrades are for "pgtick migrate", which takes over from here.
begin;
set local search_path = '';
set local client_min_messages = notice;
do $$
begin
  if to_regclass('pgtick.goose_db_version') is not null then
    raise exception using errcode = 'TK000', message = 'pgtick is installed in this database already', hint = 'Run pgtick migrate.';
  end if;
end
$$;
create schema if not exists pgtick;
`

const scriptTail = `
do $$
begin
  if not exists (select from pgtick.installed as i where i.kind = 'pg_cron') then
    raise notice 'pgtick: no pg_cron in this database: ` + "the runner''s own timer will serve as the clock" + `';
  end if;
end
$$;
commit;
`

var (
	annotation   = regexp.MustCompile(`(?m)^-- \+goose .*\n?`)
	concurrently = regexp.MustCompile(`(?i)(index) concurrently\b`)
)

// plain makes of a migration what psql understands. Tables are still empty, so no index need be built concurrently, and none could
// be in a transaction.
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
