package soak

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// told is what the task test.strict has for args, and gives back as its result.
type told struct {
	Text string `json:"user_id"`
}

// everyCodePoint is all of Unicode but U+0000, in pieces that fit into args.
func everyCodePoint() (pieces []string, n int) {
	const most = 60000
	var piece strings.Builder
	for r := rune(1); r <= utf8.MaxRune; r++ {
		if !utf8.ValidRune(r) { // half of a surrogate pair is no code point
			continue
		}
		if piece.Len() > most {
			pieces = append(pieces, piece.String())
			piece.Reset()
		}
		piece.WriteRune(r)
		n++
	}
	return append(pieces, piece.String()), n
}

func TestValues_EveryCodePoint_IsKeptByteForByte_FromTheEnqueueToTheResultAndTheCommandLine(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	r := work(t, withTasks, pgtest.RunnerURL(t, db), "alone", nil)
	pieces, n := everyCodePoint()
	require.Equal(t, 0x110000-2048-1, n)
	ids := list[int64](t, db, `select pgtick.enqueue_many('test.strict', (select array_agg(jsonb_build_object('user_id', p.piece) order by p.place) from unnest($1::text[]) with ordinality as p(piece, place)))`, pieces)
	becomes(t, db, within, `select not exists (select from pgtick.live_jobs)`)
	r.stop()

	require.Equal(t, pieces, list[string](t, db, `select j.result ->> 'user_id' from pgtick.jobs as j where j.state = 'done' order by j.id`), "what the task was given, and gave back")
	shown := jsonLines[struct {
		ID           int64
		Args, Result told
	}](t, db, "jobs", "list", "--task", "test.strict", "--limit", fmt.Sprint(len(pieces)), "--json")
	require.Len(t, shown, len(ids))
	for _, job := range shown {
		place := job.ID - ids[0]
		require.True(t, job.Args.Text == pieces[place], "args of job %d on the command line", job.ID)
		require.True(t, job.Result.Text == pieces[place], "result of job %d on the command line", job.ID)
	}
}

// jsonLines runs a command with --json, whose output must be UTF-8.
func jsonLines[T any](t *testing.T, db *pgtest.DB, args ...string) (all []T) {
	t.Helper()
	out, talk, code := call(t, db, "", args...)
	require.Zero(t, code, talk)
	require.True(t, utf8.ValidString(out))
	for line := range strings.Lines(out) {
		var one T
		require.NoError(t, json.Unmarshal([]byte(line), &one), "%.200s", line)
		all = append(all, one)
	}
	return all
}

// What two writings of a text have in common is nothing to a database that keeps bytes.
var writings = []string{
	"é", "e\u0301", "Å", "\u212b", "A\u030a", "ﬁ", "fi", "ß", "ẞ", "ss", "İ", "i\u0307", "ı", "٣", "3", "\u202e3", "\u20663\u2069", "\ufeff3", "3\u200d", "3\ufe0f", "👩‍👩‍👧", "👩👩👧", "\u2028", "\u2029", "\u00a0", "\u3000",
	"\ufdd0", "\ufffe", "\uffff", "\U0001fffe", "\U0010ffff", "\ue000", "\ufffd", "日本語", "שלום", "مرحبا",
}

func TestValues_NamesAndKeys_ThatLookAlike_AreNotTheSame(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	for _, w := range writings {
		do(t, db, `select pgtick.enqueue('task ' || $1, p_queue => 'queue ' || $1, p_unique_key => 'key', p_limit_key => 'limit ' || $1, p_sequence_key => 'sequence ' || $1)`, w)
		do(t, db, `select pgtick.enqueue('one task', p_unique_key => $1)`, w)
	}
	require.Equal(t, len(writings), ask[int](t, db, `select count(*) from pgtick.jobs as j where j.task = 'one task'`), "keys")
	for column, prefix := range map[string]string{"task": "task ", "queue": "queue ", "limit_key": "limit ", "sequence_key": "sequence "} {
		var want []string
		for _, w := range writings {
			want = append(want, prefix+w)
		}
		require.Equal(t, want, list[string](t, db, `select j.`+column+` from pgtick.live_jobs as j where j.task <> 'one task' order by j.id`), column)
	}
	listed := map[string]int{}
	for _, job := range jsonLines[struct{ Queue string }](t, db, "jobs", "list", "--limit", fmt.Sprint(2*len(writings)), "--json") {
		listed[job.Queue]++
	}
	for _, w := range writings {
		require.Equal(t, 1, listed["queue "+w], "%+q on the command line", w)
	}
	for _, w := range []string{"e\u0301", "\u202e3", "\U0010ffff"} {
		require.Len(t, jsonLines[map[string]any](t, db, "jobs", "list", "--queue", "queue "+w, "--json"), 1, "%+q as an argument", w)
	}
}

// JSON may write a code point beyond U+FFFF as two halves. Two of them are one; one alone is nothing.
func TestValues_SurrogatePairs_AreOneCodePoint_AndHalvesAreRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	id := ask[int64](t, db, `select pgtick.enqueue('echo', '{"text": "\ud83e\uddfe", "\ud83d\ude00": 1}'::text::jsonb)`)
	require.Equal(t, []string{"🧾", "😀"}, list[string](t, db, `select unnest(array[j.args ->> 'text', (select k from jsonb_object_keys(j.args) as k where k <> 'text')]) from pgtick.jobs as j where j.id = $1`, id))
	out, talk, code := call(t, db, `{"text": "\ud83e\uddfe"}`, "jobs", "enqueue", "echo", "--args", "-")
	require.Zero(t, code, talk)
	require.Equal(t, "🧾", ask[string](t, db, `select j.args ->> 'text' from pgtick.jobs as j where j.id = $1::text::bigint`, strings.TrimSpace(out)))
	for _, half := range []string{`\ud83e`, `\uddfe`, `\uddfe\ud83e`, `\ud83ex`} {
		_, err := db.Pool.Exec(t.Context(), `select pgtick.enqueue('echo', $1::text::jsonb)`, `{"text": "`+half+`"}`)
		pg := new(pgconn.PgError)
		require.ErrorAs(t, err, &pg, half)
		require.Equal(t, "22P02", pg.Code, half)
		require.Contains(t, pg.Detail, "surrogate", half)
		out, talk, code := call(t, db, `{"text": "`+half+`"}`, "jobs", "enqueue", "echo", "--args", "-")
		require.NotZero(t, code, half)
		require.Empty(t, out, half)
		require.Contains(t, talk, "surrogate", half)
	}
	require.Equal(t, 2, ask[int](t, db, `select count(*) from pgtick.jobs`))
}

// 1 MB and 64 KiB by SQL and by the library are held in tests/queue and tests/library; by the command line 64 KiB is held here.
func TestValues_ArgsOf64KiB_AreTakenByTheCommandLine_AndOneByteMoreIsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	sized := func(n int) string { return `{"k": "` + strings.Repeat("x", n-len(`{"k": ""}`)) + `"}` }
	for _, from := range []func(text string) (stdin, arg string){
		func(text string) (string, string) { return text, "-" },
		func(text string) (string, string) {
			path := filepath.Join(t.TempDir(), "args.json")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			return "", "@" + path
		},
	} {
		stdin, arg := from(sized(65536))
		out, talk, code := call(t, db, stdin, "jobs", "enqueue", "echo", "--args", arg)
		require.Zero(t, code, talk)
		require.Equal(t, 65536, ask[int](t, db, `select octet_length(j.args::text) from pgtick.jobs as j where j.id = $1::text::bigint`, strings.TrimSpace(out)))
		stdin, arg = from(sized(65537))
		out, talk, code = call(t, db, stdin, "jobs", "enqueue", "echo", "--args", arg)
		require.Equal(t, 1, code, talk)
		require.Empty(t, out)
		require.Contains(t, talk, "args")
		require.Contains(t, talk, "65537 bytes are over the limit of 65536 (TK000)\n  hint: Store the data in a table of yours and pass its key.")
	}
}
