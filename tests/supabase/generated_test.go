package supabase

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// theMigration is the one file that a folder of migrations holds.
func theMigration(t *testing.T, folder string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, "*.sql"))
	require.NoError(t, err)
	require.Len(t, found, 1, "one file, whose name says when it was written: run make supabase")
	require.Regexp(t, `^20[0-9]{12}_pgtick\.sql$`, filepath.Base(found[0]))
	return found[0]
}

func TestMigration_IsWhatMigrationsAndSQLSayNow(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(theMigration(t, filepath.Join(root(t), "supabase", "migrations")))
	require.NoError(t, err)
	// not require.Equal: half a megabyte of difference is of no use to anybody
	require.True(t, string(text) == generated(t), "supabase/migrations is stale: run make supabase")
}

// A name that "db push" knows is never run again, so new content needs a new name; and the same content none.
func TestMakeSupabase_GivesNewContentANewName_AndLeavesTheSameAlone(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	makeSupabase(t, folder)
	first := theMigration(t, folder)
	text, err := os.ReadFile(first)
	require.NoError(t, err)
	require.True(t, string(text) == generated(t), "it prints what the tests compare with")

	old := filepath.Join(folder, "20250101000000_pgtick.sql")
	require.NoError(t, os.Rename(first, old))
	makeSupabase(t, folder)
	require.Equal(t, old, theMigration(t, folder), "the same content")

	require.NoError(t, os.WriteFile(old, append(text, "-- of before\n"...), 0o600))
	makeSupabase(t, folder)
	again := theMigration(t, folder)
	require.NotEqual(t, old, again)
	now, err := os.ReadFile(again)
	require.NoError(t, err)
	require.True(t, string(now) == string(text))
}

func makeSupabase(t *testing.T, folder string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "supabase", "MIGRATIONS="+folder)
	cmd.Dir = root(t)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}
