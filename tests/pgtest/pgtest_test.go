package pgtest_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestNew_GivesEachTestADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	first, second := pgtest.New(t), pgtest.New(t)
	_, err := first.Pool.Exec(t.Context(), "select pgtick.adopt('elsewhere/db')")
	require.NoError(t, err)
	require.Equal(t, []string{"elsewhere/db", "localhost/" + first.Name}, addresses(t, first))
	require.Equal(t, []string{"localhost/" + second.Name}, addresses(t, second))
}

func TestAdvance_MovesOnlyPgticksClock_AndAddsUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Advance(t, db, time.Hour)
	pgtest.Advance(t, db, 30*time.Minute)
	require.Equal(t, 90*time.Minute, ahead(t, db).Round(time.Minute))
	pgtest.Advance(t, db, -2*time.Hour)
	require.Equal(t, -30*time.Minute, ahead(t, db).Round(time.Minute))
	pgtest.RealTime(t, db)
	require.Zero(t, ahead(t, db).Round(time.Minute))
}

func TestSetNow_StandsStillUntilAdvanced(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	noon := time.Date(2031, 5, 6, 12, 0, 0, 123456000, time.UTC)
	pgtest.SetNow(t, db, noon)
	require.Equal(t, noon, now(t, db))
	pgtest.Advance(t, db, time.Second)
	require.Equal(t, noon.Add(time.Second), now(t, db))
}

func TestRunnerURL_LogsInAsTheRunner(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, url := range []string{pgtest.RunnerURL(t, db), pgtest.RunnerURL(t, db)} {
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		var who string
		require.NoError(t, conn.QueryRow(t.Context(), "select current_user").Scan(&who))
		require.Equal(t, "pgtick_runner", who)
		require.NoError(t, conn.Close(t.Context()))
	}
}

func TestServer_MayBeCrashedAndRestarted(t *testing.T) {
	t.Parallel()
	own := pgtest.Server(t)
	db := pgtest.NewOn(t, own)
	_, err := db.Pool.Exec(t.Context(), "select pgtick.adopt('kept/db')")
	require.NoError(t, err)
	require.NoError(t, own.Crash())
	require.NoError(t, own.Restart(t.Context()))
	db.Pool.Reset()
	require.Contains(t, addresses(t, db), "kept/db")
}

func addresses(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), "select a.address from pgtick.addresses as a order by 1")
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

func now(t *testing.T, db *pgtest.DB) time.Time {
	t.Helper()
	var at time.Time
	require.NoError(t, db.Pool.QueryRow(t.Context(), "select pgtick.now()").Scan(&at))
	return at.UTC()
}

func ahead(t *testing.T, db *pgtest.DB) time.Duration {
	t.Helper()
	return time.Until(now(t, db))
}
