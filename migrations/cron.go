package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// noCron ends what is said where pg_cron cannot be had.
const noCron = "the runner's own timer will serve as the clock"

// reachCron sees to the pg_cron entry where the last step could not make it in this database: through the database that has pg_cron.
func (s *session) reachCron(ctx context.Context, cfg *pgx.ConnConfig) error {
	var done bool
	if err := s.db.QueryRowContext(ctx, "select exists (select from pgtick.installed as i where i.kind = 'pg_cron')").Scan(&done); err != nil || done {
		return err
	}
	home, err := s.cronDatabase(ctx)
	if err != nil {
		return err
	}
	if home == "" || home == cfg.Database {
		s.notes = append(s.notes, "no pg_cron on this server: "+noCron)
		return nil
	}
	name, err := scheduleFrom(ctx, home, cfg)
	if err != nil {
		s.notes = append(s.notes, fmt.Sprintf("pg_cron in database %s cannot be used from here (%s): %s", home, reason(err), noCron))
		return ctx.Err()
	}
	_, err = s.db.ExecContext(ctx, "insert into pgtick.installed (kind, name, installed_at) values ('pg_cron', $1, pgtick.now())", name)
	return err
}

// cronDatabase is the one database of this server that has pg_cron, or "" where it is not loaded.
func (s *session) cronDatabase(ctx context.Context) (string, error) {
	var home sql.NullString
	err := s.db.QueryRowContext(ctx, "select current_setting('cron.database_name', true)").Scan(&home)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42501" {
		return "postgres", nil // it is loaded, but only a superuser may read where; this is the default
	}
	return home.String, err
}

// scheduleFrom makes the entry from the database that has pg_cron, with the same login, and returns its name.
func scheduleFrom(ctx context.Context, home string, cfg *pgx.ConnConfig) (string, error) {
	there := cfg.Copy()
	there.Database = home
	conn, err := pgx.ConnectConfig(ctx, there)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var name string
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Databases that migrate at the same time choose their names one after the other.
		if _, err := tx.Exec(ctx, "select set_config('lock_timeout', '10s', true), pg_advisory_xact_lock($1)", lockKey); err != nil {
			return err
		}
		name, err = scheduleIn(ctx, tx, cfg.Database)
		return err
	})
	return name, err
}

func scheduleIn(ctx context.Context, tx pgx.Tx, database string) (string, error) {
	name, found, err := cronEntry(ctx, tx, database)
	if err != nil || found {
		return name, err
	}
	_, err = tx.Exec(ctx, "select cron.schedule_in_database($1, '* * * * *', 'call pgtick.run_ticks()', $2)", name, database)
	return name, err
}

// cronEntry finds the entry that ticks this database, or a name for it. Names are unique for each user, whatever the database, and
// scheduling one again would take over the entry of another database.
func cronEntry(ctx context.Context, tx pgx.Tx, database string) (name string, found bool, err error) {
	err = tx.QueryRow(ctx, `select coalesce(c.jobname, ''), true from cron.job as c where c.database = $1 and c.command = 'call pgtick.run_ticks()' limit 1`,
		database).Scan(&name, &found)
	if !errors.Is(err, pgx.ErrNoRows) {
		return name, found, err
	}
	err = tx.QueryRow(ctx, `select case when exists (select from cron.job as c where c.jobname = 'pgtick' and c.username = current_user)
		then 'pgtick_' || $1::text else 'pgtick' end`, database).Scan(&name)
	return name, false, err
}

// reason is the server's own words where it refused, which name no password.
func reason(err error) string {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return err.Error()
	}
	if refused.Code == "42P01" || refused.Code == "3F000" {
		return "there: create extension pg_cron"
	}
	return refused.Message
}
