package library_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
)

// filled is a job's args of so many bytes, as the database counts them.
func filled(bytes int) greeting {
	return greeting{strings.Repeat("x", bytes-len(`{"name": ""}`))}
}

func TestValues_ArgsOf64KiB_AreTaken_AndLargerOnesRefused_WithFieldSizeAndRemedy(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := db.Enqueue(t, "mail", filled(65536))
	require.Equal(t, 65536, ask[int](t, db, `select octet_length(j.args::text) from pgtick.jobs as j where j.id = $1`, id))
	for bytes, says := range map[int]string{65537: "65537 bytes are over the limit of 65536", 1 << 20: "1048576 bytes are over the limit of 65536"} {
		_, err := tasks.Enqueue(t.Context(), db.Pool, "mail", filled(bytes))
		require.ErrorIs(t, err, tasks.ErrBadValue)
		requireCode(t, err, "TK000")
		for _, part := range []string{"args ", says, "Store the data in a table of yours and pass its key."} {
			require.ErrorContains(t, err, part)
		}
		require.Less(t, len(err.Error()), 500, "the value is not repeated in full")
		_, err = tasks.EnqueueMany(t.Context(), db.Pool, "mail", []greeting{{"ann"}, filled(bytes)})
		require.ErrorIs(t, err, tasks.ErrBadValue)
		require.ErrorContains(t, err, says)
	}
	require.Len(t, db.Jobs(t, "mail"), 1)
}

// The database can store U+0000 in no text, and its own error does not say where it was.
func TestValues_ZeroByteInArgs_IsRefused_BeforeTheDatabaseIsAsked(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	for _, args := range []any{greeting{"a\x00b"}, map[string]int{"a\x00b": 1}, greeting{`\` + "\x00"}} {
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tasks.Enqueue(t.Context(), tx, "mail", args)
		require.ErrorIs(t, err, tasks.ErrBadValue)
		require.ErrorContains(t, err, `enqueue a job of task "mail": a value was refused: args hold \u0000, which can be stored in no JSON of PostgreSQL: leave it out, or encode the text`)
		_, err = tasks.EnqueueMany(t.Context(), tx, "mail", []any{greeting{"ann"}, args})
		require.ErrorIs(t, err, tasks.ErrBadValue)
		require.ErrorContains(t, err, "args of job 1: ")
		_, err = tasks.Enqueue(t.Context(), tx, "mail", greeting{`\u0000 and \\u0000, as text`})
		require.NoError(t, err, "the transaction goes on, and a written one is none")
		require.NoError(t, tx.Commit(t.Context()))
	}
	for _, job := range db.Jobs(t, "mail") {
		require.JSONEq(t, `{"name": "\\u0000 and \\\\u0000, as text"}`, string(job.Args))
	}
	require.Len(t, db.Jobs(t, "mail"), 3)
}
