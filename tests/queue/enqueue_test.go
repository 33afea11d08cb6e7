package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

var tooLong = "'" + strings.Repeat("x", 201) + "'"

// badValues are, for each parameter, SQL expressions that are refused, and the value as the message shows it.
var badValues = map[string]map[string]string{
	"task":         {"null": "null", "''": `""`, tooLong: `"xxx`, `e'a\nb'`: "\"a\nb\""},
	"queue":        {"null": "null", "''": `""`, tooLong: `"xxx`, `e'a\u0007b'`: "\"a\ab\""},
	"args":         {"null": "null", `'[1]'`: `"[1]"`, `'"text"'`: `"\"text\""`, "'null'": `"null"`, "'7'": `"7"`, `jsonb_build_object('k', repeat('x', 65536))`: `"{"k": "xxx`},
	"priority":     {"null": "null", "-1": `"-1"`, "10": `"10"`},
	"run_at":       {"'infinity'": `"infinity"`, "'-infinity'": `"-infinity"`},
	"max_attempts": {"null": "null", "0": `"0"`, "-3": `"-3"`, "1001": `"1001"`},
	"timeout":      {"null": "null", "'0'": `"00:00:00"`, "'-1 second'": `"-00:00:01"`, "'7 days 1 second'": `"7 days 00:00:01"`, "'1 month'": `"1 mon"`},
}

func TestEnqueue_BadInput_IsRefused_NamingFieldValueAndRule(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for field, values := range badValues {
		for value, shown := range values {
			given := value
			if field == "args" {
				shown = strings.ReplaceAll(shown, `\"`, `"`)
				given = value + "::jsonb"
			}
			requireNamed(t, db, callOf("enqueue", field, given), field, shown)
			if field == "args" {
				given = "array['{}', " + value + "]::jsonb[]"
			}
			requireNamed(t, db, callOf("enqueue_many", field, given), field, shown)
		}
	}
	requireNamed(t, db, "select pgtick.enqueue_many('echo', null)", "args", "null")
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.jobs"), "nothing was written")
}

// callOf is a call that is right but for one parameter.
func callOf(function, field, value string) string {
	arguments := map[string]string{"task": "'echo'"}
	if function == "enqueue_many" {
		arguments["args"] = "array['{}']::jsonb[]"
	}
	arguments[field] = value
	list := []string{}
	for name, argument := range arguments {
		list = append(list, "p_"+name+" => "+argument)
	}
	return fmt.Sprintf("select pgtick.%s(%s)", function, strings.Join(list, ", "))
}

func requireNamed(t *testing.T, db *pgtest.DB, sql, field, shown string) {
	t.Helper()
	pg := refused(t, db.Pool, "TK000", sql)
	value, rule, split := strings.Cut(strings.TrimPrefix(pg.Message, field+" "), " is refused: ")
	require.True(t, split, pg.Message)
	require.True(t, strings.HasPrefix(pg.Message, field+" "), pg.Message)
	require.True(t, strings.HasPrefix(value, shown), "%s shows %s", sql, value)
	require.NotEmpty(t, rule)
}

func TestEnqueue_ArgsOf64KiB_AreKept_AndOneByteMoreIsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const sized = "jsonb_build_object('k', repeat('x', $1 - octet_length('{\"k\": \"\"}')))"
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', "+sized+")", 65536)
	require.Equal(t, 65536, one[int](t, db.Pool, "select octet_length(args::text) from pgtick.jobs where id = $1", id))
	for _, size := range []int{65537, 1 << 20} {
		pg := refused(t, db.Pool, "TK000", "select pgtick.enqueue('echo', "+sized+")", size)
		require.Contains(t, pg.Message, fmt.Sprintf("%d bytes are over the limit of 65536", size))
		require.Less(t, len(pg.Message), 300, "the value is not repeated in full")
	}
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

func TestEnqueue_AnyUnicode_IsKeptByteForByte(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, text := range []string{"Grüße, 世界", "🧾👩‍👩‍👧", "e\u0301 is not é", "\u202eright to left", "\"quotes\" and \\ and '", "\t\n\r\u0001", strings.Repeat("\U0010ffff", 50)} {
		id := one[int64](t, db.Pool, "select pgtick.enqueue($1, jsonb_build_object('text', $2::text), p_queue => $1)", "tâche-日本", text)
		require.Equal(t, text, one[string](t, db.Pool, "select args ->> 'text' from pgtick.jobs where id = $1 and task = $2 and queue = $2", id, "tâche-日本"))
	}
}

func TestEnqueue_ZeroByteInArgs_IsRefusedByPostgres_AndNothingIsWritten(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	refused(t, db.Pool, "22P05", `select pgtick.enqueue('echo', $1::text::jsonb)`, `{"text": "a\u0000b"}`)
	refused(t, db.Pool, "22P05", `select pgtick.enqueue_many('echo', $1::text[]::jsonb[])`, []string{"{}", `{"text": "a\u0000b"}`})
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

func TestEnqueue_RunAt_IsNeverInThePast(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	for given, want := range map[*time.Time]time.Time{
		nil:                      now,
		new(now.Add(-time.Hour)): now,
		new(now):                 now,
		new(now.Add(time.Hour)):  now.Add(time.Hour),
	} {
		id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_run_at => $1)", given)
		require.Equal(t, want, one[time.Time](t, db.Pool, "select run_at from pgtick.jobs where id = $1", id).UTC())
		require.Equal(t, now, one[time.Time](t, db.Pool, "select created_at from pgtick.jobs where id = $1", id).UTC())
	}
}

func TestEnqueue_KeepsItsSettings(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const settings = `p_queue => 'mail', p_priority => 2, p_max_attempts => 3, p_timeout => '90 seconds', p_owner_id => '7f2c1c2e-5c6c-4b1e-9d9e-111111111111'`
	exec(t, db.Pool, `select pgtick.enqueue('echo', '{"a": 1}', `+settings+`)`)
	exec(t, db.Pool, `select pgtick.enqueue_many('echo', array['{"a": 1}']::jsonb[], `+settings+`)`)
	require.Equal(t, []string{`{"a": 1} mail 2 3 00:01:30 7f2c1c2e-5c6c-4b1e-9d9e-111111111111 ready 0`}, all[string](t, db.Pool,
		`select distinct concat_ws(' ', args, queue, priority, max_attempts, timeout, owner_id, state, attempt) from pgtick.jobs`))
	require.Equal(t, 2, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

func TestEnqueueMany_ReturnsTheIdsInTheOrderOfTheArgs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ids := all[int64](t, db.Pool, `select pgtick.enqueue_many('echo', (select array_agg(jsonb_build_object('n', n) order by n) from generate_series(1, 3000) as n))`)
	require.Len(t, ids, 3000)
	require.Equal(t, 3000, one[int](t, db.Pool, `select count(*) from unnest($1::bigint[]) with ordinality as i(id, n) join pgtick.jobs as j on j.id = i.id and (j.args ->> 'n')::int = i.n`, ids))
	require.IsIncreasing(t, ids)
	require.Empty(t, all[int64](t, db.Pool, "select pgtick.enqueue_many('echo', '{}')"))
}

func TestEnqueueMany_OneBadElement_RefusesAll(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, bad := range []string{"null", "'[]'", "jsonb_build_object('k', repeat('x', 70000))"} {
		refused(t, db.Pool, "TK000", "select pgtick.enqueue_many('echo', array['{}', '{}', "+bad+", '{}']::jsonb[])")
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

func TestEnqueue_RollsBackWithTheCallersTransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tx := session(t, db)
	exec(t, tx, "begin")
	exec(t, tx, "select pgtick.enqueue('echo')")
	exec(t, tx, "savepoint s")
	exec(t, tx, "select pgtick.enqueue_many('echo', array['{}', '{}']::jsonb[])")
	exec(t, tx, "rollback to savepoint s")
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.jobs"), "not visible before the commit")
	exec(t, tx, "commit")
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
	exec(t, tx, "begin")
	exec(t, tx, "select pgtick.enqueue('echo')")
	exec(t, tx, "rollback")
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
}

// Only what waits for others needs READ COMMITTED.
func TestEnqueue_OutsideReadCommitted_MayHaveAllThatTiesItToNoOther(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := session(t, db)
	exec(t, conn, "begin isolation level serializable")
	id := one[int64](t, conn, `select pgtick.enqueue('echo', p_unique_key => 'k', p_limit_key => 'l', p_retry_policy => '{"kind": "linear", "step": "1 minute"}',
		p_trace_context => '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}')`)
	exec(t, conn, "commit")
	require.Equal(t, "k l a=b", one[string](t, db.Pool, "select concat_ws(' ', uniqueness ->> 'key', limit_key, trace_context ->> 'tracestate') from pgtick.live_jobs where id = $1", id))
}
