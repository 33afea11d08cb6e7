package pgtest_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// Under "make test" the first is the copy of a template that was made a while ago, and the second is installed anew. Nobody shall see that.
func TestNewOn_OneServer_Twice_GivesTwoDatabasesWhoseSchedulesBeginNow(t *testing.T) {
	t.Parallel()
	begun := time.Now().Add(-time.Second)
	own := pgtest.Server(t)
	dbs := []*pgtest.DB{pgtest.NewOn(t, own), pgtest.NewOn(t, own)}
	require.NotEqual(t, dbs[0].Name, dbs[1].Name)
	for _, db := range dbs {
		require.True(t, value[bool](t, db.URL, "select count(*) = 4 and min(changed_at) > $1 and max(schedule_id) = 4 from pgtick.schedule_changes", begun))
		require.False(t, value[bool](t, db.URL, "select exists (select from pgtick.schedule_defs where next_at < $1)", begun), "no slot is left over from before")
		require.Len(t, value[[]string](t, db.URL, "select array_agg(name) from pgtick.installed where kind = 'schedule'"), 4)
		require.Empty(t, value[[]string](t, db.URL, "select coalesce(array_agg(datname::text), '{}') from pg_database where datname ~ 'template' and not datistemplate"))
		require.Positive(t, db.Enqueue(t, "echo", nil))
	}
}

func TestBareServer_HasNeverSeenPgtick(t *testing.T) {
	t.Parallel()
	own := pgtest.BareServer(t)
	require.Zero(t, value[int](t, own.URL("postgres"), "select count(*) from pg_roles where rolname like 'pgtick%'"))
	require.Equal(t, []string{"postgres"}, value[[]string](t, own.URL("postgres"), "select array_agg(datname::text) from pg_database where not datistemplate"))
}

func TestShared_IsMadeOnce_AndAnewWhereThatFailed(t *testing.T) {
	t.Setenv(programs.FolderEnv, t.TempDir())
	_, err := programs.Shared("thing", func(path string) error {
		return errors.Join(os.WriteFile(path, nil, 0o600), errors.New("halfway"))
	})
	require.ErrorContains(t, err, "halfway")
	var made atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			path, err := programs.Shared("thing", func(path string) error {
				made.Add(1)
				return os.WriteFile(path, []byte("whole"), 0o600)
			})
			text, wrong := os.ReadFile(path)
			if err := errors.Join(err, wrong); err != nil || string(text) != "whole" {
				t.Errorf("%s: %q, %v", path, text, err)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, made.Load())
	t.Setenv(programs.FolderEnv, "")
	path, err := programs.Shared("thing", func(string) error { return errors.New("nobody asks for it") })
	require.NoError(t, err)
	require.Empty(t, path, "outside of a run nothing is shared")
}

func value[V any](t *testing.T, url, sql string, args ...any) (v V) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&v), sql)
	return v
}
