package pgtest

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Replace changes a part of a function, such as "pgtick.tick_chunk(integer)", in this database alone; the part must be there. It returns the function as
// it was, to be run as a statement where that is wanted back.
func (db *DB) Replace(t testing.TB, function, old, replacement string) (before string) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(context.Background(), "select pg_get_functiondef($1::regprocedure)", function).Scan(&before), function)
	require.Contains(t, before, old, function)
	_, err := db.Pool.Exec(context.Background(), strings.ReplaceAll(before, old, replacement))
	require.NoError(t, err, function)
	return before
}
