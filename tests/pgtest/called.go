package pgtest

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// calledEnv names a file to which each test's database writes, before it goes, which functions were called in it and which tables written to:
// tests/mutants asks, on a server that tracks functions.
const calledEnv = "TEST_FUNCTIONS_CALLED"

func (db *DB) noteCalled(t testing.TB) {
	t.Helper()
	path := os.Getenv(calledEnv)
	if path == "" {
		return
	}
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, db.server.urlOf(db.Name))
	require.NoError(t, err)
	defer conn.Close(ctx)
	// A session tells what it has counted when it ends.
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until); {
		var others int
		require.NoError(t, conn.QueryRow(ctx, "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()").Scan(&others))
		if others == 0 {
			break
		}
	}
	var functions, tables []string
	require.NoError(t, conn.QueryRow(ctx, `select array(select distinct f.schemaname || '.' || f.funcname from pg_stat_user_functions as f where f.schemaname in ('pgtick', 'credits')),
		array(select c.schemaname || '.' || c.relname from pg_stat_user_tables as c where c.n_tup_ins + c.n_tup_upd + c.n_tup_del > 0)`).Scan(&functions, &tables))
	line, err := json.Marshal(map[string]any{"Test": t.Name(), "Functions": functions, "Tables": tables})
	require.NoError(t, err)
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Write(append(line, '\n'))
	require.NoError(t, err)
}
