package httptask

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// originOf tells one database from another: its name, and the moment at which pgtick was installed. Both survive an upgrade, a failover and
// a restore.
func originOf(ctx context.Context, conn *pgx.Conn) (origin string, err error) {
	err = conn.QueryRow(ctx, `select current_database() || ' ' || coalesce(extract(epoch from min(v.tstamp))::text, '') from pgtick.goose_db_version as v`).Scan(&origin)
	return origin, err
}

// noVault says why Supabase Vault can't be asked here.
type noVault struct{ why string }

func (e *noVault) Error() string { return e.why }

// readVault returns those of the secrets that Supabase Vault has, by name; *noVault where there is none, or none for this role.
func readVault(ctx context.Context, conn *pgx.Conn, names []string) (map[string]string, error) {
	rows, err := conn.Query(ctx, `select name, coalesce(decrypted_secret, '') from vault.decrypted_secrets where name = any ($1::text[])`, names)
	if err != nil {
		return nil, vaultError(err)
	}
	found := map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error { found[name] = value; return nil })
	return found, vaultError(err)
}

func vaultError(err error) error {
	var pg *pgconn.PgError
	if err == nil || !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case "3F000", "42P01": // no such schema, no such relation
		return &noVault{"which this database does not have"}
	case "42501": // no right
		return &noVault{"which the runner's role may not read: " + pg.Message}
	}
	return fmt.Errorf("read vault.decrypted_secrets: %w", err)
}
