package supabase

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// What makes an install impossible ends in words that name it and the remedy, by either way, and leaves nothing behind.
func TestInstall_WhereItCannotBe_SaysWhyAndHow_AndLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before string // as the provider
		words  string
		remedy string
	}{
		"no right to create schemas": {"alter database %DB% owner to supabase_admin",
			"schema pgtick is missing, and postgres may create none in database %DB%", "As one who may: grant create on database %DB% to postgres"},
		"a schema of somebody else's": {"create schema pgtick",
			"schema pgtick belongs to supabase_admin, and postgres may not change it", "alter schema pgtick owner to postgres"},
		"a schema for the credits of somebody else's": {"create schema credits authorization supabase_auth_admin",
			"schema credits belongs to supabase_auth_admin, and postgres may not change it", "alter schema credits owner to postgres"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Hosted(t, pgtest.Closed)
			here := func(text string) string { return strings.ReplaceAll(text, "%DB%", db.Name) }
			as(t, db.AdminURL(), here(c.before))
			_, err := migrate(t, db.URL)
			require.ErrorContains(t, err, here(c.words))
			require.ErrorContains(t, err, here(c.remedy))
			_, err = apply(t, db.URL)
			require.ErrorContains(t, err, here(c.words))
			require.NotEmpty(t, hint(err))
			requireNothingThere(t, db)
		})
	}
}

// One who installed as somebody else before, and upgrades now.
func TestInstall_WhereATableIsSomebodyElses_SaysWhich(t *testing.T) {
	t.Parallel()
	db := pgtest.HostedMigrated(t, pgtest.Closed)
	as(t, db.AdminURL(), "alter table pgtick.gates owner to supabase_admin; update pgtick.applied_sql set hash = 'of an earlier release'")
	before := state(t, db)
	const words = "table pgtick.gates belongs to supabase_admin, and postgres may not change it"
	_, err := migrate(t, db.URL)
	require.ErrorContains(t, err, words)
	require.ErrorContains(t, err, "alter table pgtick.gates owner to postgres")
	said := newProject(t).refused(t, db)
	require.Contains(t, said, words)
	require.Less(t, len(said), 20_000, "the last statement of the file, and not all of it")
	require.Equal(t, before, state(t, db))
	as(t, db.AdminURL(), "alter table pgtick.gates owner to postgres")
	applied(t, db.URL)
}

// What a migration says goes out with the migration's name, and without its text.
func TestPush_WhereAMigrationFails_NamesIt_AndLeavesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Hosted(t, pgtest.Closed)
	as(t, db.URL, "create schema credits; create table credits.accounts (mine int)")
	_, err := apply(t, db.URL)
	require.ErrorContains(t, err, `migrations/00003_credits.sql: relation "accounts" already exists`)
	require.NotEmpty(t, hint(err))
	require.Equal(t, "credits.accounts", ask[string](t, db.AdminURL(), leftovers), "what was there")
}

func hint(err error) string {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return ""
	}
	return refused.Hint
}
