package fuzz

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// What random calls have found, once for all.
func TestFound_IsRefusedInOurWords(t *testing.T) {
	const as = "begin; set local role "
	for name, row := range map[string]struct{ role, call, code, says string }{
		"an address that no index takes":       {"pgtick_runner", "select pgtick.check_address(string_agg(md5(i::text), '')) from generate_series(1, 300) as i", "TK000", "address "},
		"and one to adopt":                     {"", "select pgtick.adopt(string_agg(md5(i::text), '')) from generate_series(1, 300) as i", "TK000", "address "},
		"queues in two dimensions with a null": {"pgtick_runner", "select pgtick.register('r', '{{a,null}}', '{}')", "TK000", "queues "},
		"a queue without a name":               {"pgtick_runner", "select pgtick.register('r', array[''], '{}')", "TK000", "queues "},
		"a task that has no name":              {"pgtick_runner", "select pgtick.register('r', '{a}', array[repeat('x', 300)])", "TK000", "tasks "},
		"keys in two dimensions":               {"service_role", "select pgtick.enqueue_many('fuzz.run', array['{}', '{}']::jsonb[], p_unique_keys => '{{a,b}}')", "TK000", "unique_keys "},
		"keys counted from 0":                  {"service_role", "select pgtick.enqueue_many('fuzz.run', array['{}', '{}']::jsonb[], p_sequence_keys => '[0:1]={a,b}')", "TK000", "sequence_keys "},
		"jobs to wait for, with a null":        {"service_role", "select pgtick.enqueue('fuzz.run', p_after => '{{1,null}}')", "TK000", "after "},
		"a subject that is no UUID":            {"authenticated", "select set_config('request.jwt.claims', '{\"sub\": \"user_2abc\"}', true); select count(*) from pgtick.my_jobs", "TK024", "user_2abc"},
		"that of one who would pay":            {"authenticated", "select set_config('request.jwt.claims', '{\"sub\": {\"a\": 1}}', true); select credits.my_charge(1, 'k')", "TK024", "is no UUID"},
		"claims that are no JSON":              {"authenticated", "select set_config('request.jwt.claims', '{\"sub\": ', true); select count(*) from pgtick.my_jobs", "TK024", "request.jwt.claims is not JSON"},
		"those of one who asks for a job":      {"authenticated", "select set_config('request.jwt.claims', 'ann', true); select count(*) from pgtick.requests", "TK024", "request.jwt.claims is not JSON"},
		"those of one who acts":                {"service_role", "select set_config('request.jwt.claims', '{\"sub\": \"\\u0000\"}', true); select pgtick.pause_queue('mail')", "TK024", "request.jwt.claims is not JSON"},
		"claims deeper than a stack":           {"authenticated", "select set_config('request.jwt.claims', repeat('[', 1000000), true); select count(*) from pgtick.my_jobs", "TK024", "request.jwt.claims is not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t)
			begin := "begin;"
			if row.role != "" {
				begin = as + row.role + ";"
			}
			_, err := conn.PgConn().Exec(t.Context(), begin+row.call).ReadAll()
			refusal := new(pgconn.PgError)
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, row.code, refusal.Code, refusal.Message)
			require.Contains(t, refusal.Message, row.says)
			require.NotEmpty(t, refusal.Hint)
			require.Less(t, len(refusal.Message), 500)
		})
	}
	conn := connect(t)
	require.Equal(t, []int64{0}, all[int64](t, conn, "select count(*) from pgtick.old_transactions('178000000 years')"))
	require.Equal(t, []bool{true}, all[bool](t, conn, "select count(*) >= 0 from pgtick.old_transactions('-178000000 years')"))
	require.Equal(t, []*string{nil}, all[*string](t, conn, "select pgtick.user_id()::text from set_config('request.jwt.claims', '{\"sub\": \"\"}', true)"))
}

// A runner of several queues could never say that it sleeps: each try ended in an error that is PostgreSQL's own.
func TestSleep_OfARunnerWithSeveralQueues_IsWokenInEach(t *testing.T) {
	conn := connect(t)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	require.Equal(t, []bool{true}, all[bool](t, conn, "select pgtick.sleep(1, '1 minute') >= pg_current_xact_id()"))
	require.Equal(t, []string{"default", "mail"}, all[string](t, conn, "select s.queue from pgtick.sleepers as s where s.runner_id = 1 and s.until > pgtick.now() order by 1"))
}
