package migrations

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	sqlfiles "github.com/pgtick/pgtick/sql"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

// Options says how to migrate. The zero value does it silently.
type Options struct {
	Log func(string) // told of what takes long; nil: nobody
}

// Report says what a migrate has done.
type Report struct {
	Migrations []string // file names, as applied
	SQL        bool     // functions, views and grants were put in force anew
	Installed  []string // what the last step has put in place: "schedule x", "pg_cron pgtick"
	Address    string   // recorded just now as where runners may work, or ""
	Notes      []string // what the user should know, such as that pg_cron cannot be had
}

// Empty says that there was nothing to do.
func (r Report) Empty() bool {
	return len(r.Migrations) == 0 && !r.SQL && len(r.Installed) == 0 && r.Address == ""
}

// NewerSchemaError says that a later release has migrated this database: its functions must not be replaced by older ones.
type NewerSchemaError struct{ Have, Known int64 }

func (e *NewerSchemaError) Error() string {
	return fmt.Sprintf("schema %d, this program knows %d: upgrade pgtick", e.Have, e.Known)
}

// rolesOfInterest get grants where they exist. When one comes or goes sql/ is applied anew. The last three come with pgtick, but a
// dump restored on another server lacks them. So it is with realtime.send, where the owner may call it (sql/46_realtime.sql). Whoever asks
// gets the same answer, so the catalog is read: to_regprocedure raises for those who may not use the schema.
const rolesOfInterest = `array(select r.rolname::text from pg_catalog.pg_roles as r
	where r.rolname in ('anon', 'authenticated', 'service_role', 'pgtick_runner', 'pgtick_reader', 'pgtick_operator')
	union all
	select 'realtime.send' from pg_catalog.pg_namespace as own, pg_catalog.pg_proc as p
	join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
	where own.nspname = 'pgtick' and n.nspname = 'realtime' and p.proname = 'send' and oidvectortypes(p.proargtypes) = 'jsonb, text, text, boolean'
		and has_schema_privilege(own.nspowner, n.oid, 'usage') and has_function_privilege(own.nspowner, p.oid, 'execute')
	order by 1)`

// Up installs the schema, or brings it up to date. It needs a direct or a session-mode connection: *PoolerError otherwise.
func Up(ctx context.Context, cfg *pgx.ConnConfig, opt Options) (Report, error) {
	if opt.Log == nil {
		opt.Log = func(string) {}
	}
	s, err := openSession(ctx, cfg, opt.Log)
	if err != nil {
		return Report{}, fmt.Errorf("migrate: %w", err)
	}
	report, err := s.up(ctx, cfg)
	report.Notes = s.notes
	if err := errors.Join(err, s.close()); err != nil {
		return report, fmt.Errorf("migrate: %w", err)
	}
	return report, nil
}

func (s *session) up(ctx context.Context, cfg *pgx.ConnConfig) (report Report, err error) {
	if err := s.refuseNewer(ctx); err != nil {
		return report, err
	}
	if err := s.lookAhead(ctx); err != nil {
		return report, err
	}
	if report.Migrations, err = s.applyMigrations(ctx); err != nil {
		return report, err
	}
	if report.SQL, err = s.applySQL(ctx); err != nil {
		return report, err
	}
	if report.Installed, err = s.lastStep(ctx, cfg); err != nil {
		return report, fmt.Errorf("last step: %w", err)
	}
	report.Address, err = s.recordAddress(ctx, Address(cfg))
	return report, err
}

func (s *session) refuseNewer(ctx context.Context) error {
	return s.raw(ctx, func(conn *pgx.Conn) error {
		have, err := installedVersion(ctx, conn)
		if err == nil && have > Latest() {
			return &NewerSchemaError{Have: have, Known: Latest()}
		}
		return err
	})
}

// lookAhead refuses, with the remedy, what would stop us halfway: a schema or a table of somebody else's.
func (s *session) lookAhead(ctx context.Context) error {
	return s.raw(ctx, func(conn *pgx.Conn) error {
		_, err := conn.PgConn().Exec(ctx, firstStep).ReadAll()
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Hint != "" {
			return fmt.Errorf("%w: %s", err, refused.Hint)
		}
		return err
	})
}

func (s *session) applyMigrations(ctx context.Context) ([]string, error) {
	if err := s.makeSchema(ctx); err != nil {
		return nil, fmt.Errorf("create schema pgtick: %w", err)
	}
	provider, err := newProvider(s.db)
	if err != nil {
		return nil, err
	}
	results, err := provider.Up(ctx)
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		results = partial.Applied
	}
	var applied []string
	for _, result := range results {
		applied = append(applied, result.Source.Path)
	}
	return applied, err
}

// makeSchema asks first: "create schema if not exists" wants the right to create one even where there is nothing to create.
func (s *session) makeSchema(ctx context.Context) error {
	var there bool
	err := s.db.QueryRowContext(ctx, "select to_regnamespace('pgtick') is not null").Scan(&there)
	if err == nil && !there {
		_, err = s.db.ExecContext(ctx, "create schema pgtick")
	}
	return err
}

// newProvider has no locker of its own: the session holds the lock for all that a migrate does, and is the one connection there is.
func newProvider(db *sql.DB) (*goose.Provider, error) {
	store, err := database.NewStore(database.DialectPostgres, versionTable)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectCustom, db, files, goose.WithStore(store), goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
}

// applySQL puts the functions, views and grants in force where they or the roles they are granted to have changed.
func (s *session) applySQL(ctx context.Context) (bool, error) {
	var same bool
	err := s.db.QueryRowContext(ctx, "select exists (select from pgtick.applied_sql as a where a.hash = $1 and a.api_roles = "+rolesOfInterest+")", sqlHash()).Scan(&same)
	if err != nil || same {
		return false, err
	}
	return true, s.retried(ctx, func() error { return s.raw(ctx, func(conn *pgx.Conn) error { return applySQLOnce(ctx, conn) }) })
}

// applySQLOnce is one transaction, so that nobody ever sees half of an upgrade.
func applySQLOnce(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// To replace a view or a trigger takes a lock that holds up all who come after. Rather give way and try again.
		if _, err := tx.Exec(ctx, "set local lock_timeout = '2s'"); err != nil {
			return err
		}
		for _, f := range append(read(sqlfiles.Files), file{name: "versions.sql", text: versionsStep}) {
			if err := run(ctx, conn, f); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, recordSQL, sqlHash())
		return err
	})
}

const recordSQL = `insert into pgtick.applied_sql as a (hash, api_roles, applied_at) values ($1, ` + rolesOfInterest + `, pgtick.now())
	on conflict (only_row) do update set hash = excluded.hash, api_roles = excluded.api_roles, applied_at = excluded.applied_at`

// passing are the SQLSTATEs that another try may mend: lock_timeout, deadlock, serialization, and "tuple concurrently updated"
// (XX000), which two grants at once may meet.
var passing = map[string]bool{"55P03": true, "40P01": true, "40001": true, "XX000": true}

// retried calls f up to ten times, with pauses that grow to two seconds, for as long as it fails for what may pass.
func (s *session) retried(ctx context.Context, f func() error) error {
	pause := 100 * time.Millisecond
	for try := 1; ; try++ {
		err := f()
		var refused *pgconn.PgError
		if err == nil || try == 10 || !errors.As(err, &refused) || !passing[refused.Code] {
			return err
		}
		s.log(fmt.Sprintf("another session is in the way (%s); trying again", refused.Message))
		select {
		case <-ctx.Done():
			return cmp.Or(err, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// lastStep returns what it has put in place for the first time.
func (s *session) lastStep(ctx context.Context, cfg *pgx.ConnConfig) ([]string, error) {
	before, err := s.installed(ctx)
	if err != nil {
		return nil, err
	}
	err = s.retried(ctx, func() error {
		return s.raw(ctx, func(conn *pgx.Conn) error { return run(ctx, conn, file{name: "last.sql", text: lastStep}) })
	})
	if err != nil {
		return nil, err
	}
	if err := s.reachCron(ctx, cfg); err != nil {
		return nil, err
	}
	after, err := s.installed(ctx)
	return slices.DeleteFunc(after, func(what string) bool { return slices.Contains(before, what) }), err
}

func (s *session) installed(ctx context.Context) ([]string, error) {
	var all string
	err := s.db.QueryRowContext(ctx, "select coalesce(string_agg(i.kind || ' ' || i.name, e'\\n' order by i.kind, i.name), '') from pgtick.installed as i").Scan(&all)
	if all == "" {
		return nil, err
	}
	return strings.Split(all, "\n"), err
}

// recordAddress makes the place of a new installation the one where runners may work. A copy has its record already, and keeps it.
func (s *session) recordAddress(ctx context.Context, address string) (string, error) {
	var recorded bool
	if err := s.db.QueryRowContext(ctx, "select exists (select from pgtick.addresses)").Scan(&recorded); err != nil || recorded {
		return "", err
	}
	if _, err := s.db.ExecContext(ctx, "select pgtick.adopt($1)", address); err != nil {
		return "", fmt.Errorf("record the address: %w", err)
	}
	return address, nil
}
