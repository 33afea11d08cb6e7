package migrations

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// State is one migration in a database.
type State struct {
	Version   int64
	Name      string
	AppliedAt time.Time // zero: pending
}

// Standing is what a database has of what this program brings.
type Standing struct {
	Migrations []State
	SQL        bool // the functions, views and grants in force are this program's
}

// Querier is a connection, a pool or a transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Status tells which migrations are applied and whether sql/ is in force. It changes nothing.
func Status(ctx context.Context, cfg *pgx.ConnConfig) (Standing, error) {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return Standing{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	applied, err := appliedMigrations(ctx, conn)
	if err != nil {
		return Standing{}, fmt.Errorf("read the migrations: %w", err)
	}
	var standing Standing
	for _, f := range read(files) {
		version := versionOf(f.name)
		standing.Migrations = append(standing.Migrations, State{Version: version, Name: f.name, AppliedAt: applied[version]})
	}
	if len(applied) > 0 {
		standing.SQL, err = sqlInForce(ctx, conn)
	}
	return standing, err
}

func sqlInForce(ctx context.Context, conn Querier) (same bool, err error) {
	there, err := exists(ctx, conn, "pgtick.applied_sql")
	if err != nil || !there {
		return false, err
	}
	err = conn.QueryRow(ctx, "select exists (select from pgtick.applied_sql as a where a.hash = $1 and a.api_roles = "+rolesOfInterest+")", sqlHash()).Scan(&same)
	return same, err
}

func appliedMigrations(ctx context.Context, conn Querier) (map[int64]time.Time, error) {
	there, err := exists(ctx, conn, versionTable)
	if err != nil || !there {
		return nil, err
	}
	rows, err := conn.Query(ctx, "select v.version_id, max(v.tstamp at time zone current_setting('TimeZone')) from "+versionTable+
		" as v where v.is_applied and v.version_id > 0 group by v.version_id")
	if err != nil {
		return nil, err
	}
	applied := map[int64]time.Time{}
	var version int64
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&version, &at}, func() error {
		applied[version] = at
		return nil
	})
	return applied, err
}

func exists(ctx context.Context, conn Querier, table string) (there bool, err error) {
	err = conn.QueryRow(ctx, "select to_regclass($1::text) is not null", table).Scan(&there)
	return there, err
}

// OlderSchemaError says that the database has not been migrated to what this program needs.
type OlderSchemaError struct{ Have, Need int64 }

func (e *OlderSchemaError) Error() string {
	return fmt.Sprintf("schema %d, need %d: run pgtick migrate", e.Have, e.Need)
}

// Check returns *OlderSchemaError where the schema is older than this program. A newer one is fine: what an earlier release calls
// stays for one release.
func Check(ctx context.Context, conn Querier) error {
	have, err := installedVersion(ctx, conn)
	if err != nil {
		return fmt.Errorf("read the version of the schema: %w", err)
	}
	if have < Latest() {
		return &OlderSchemaError{Have: have, Need: Latest()}
	}
	return nil
}

// installedVersion is 0 where nothing is installed.
func installedVersion(ctx context.Context, conn Querier) (version int64, err error) {
	there, err := exists(ctx, conn, versionTable)
	if err != nil || !there {
		return 0, err
	}
	err = conn.QueryRow(ctx, "select coalesce(max(v.version_id), 0) from "+versionTable+" as v where v.is_applied").Scan(&version)
	return version, err
}
