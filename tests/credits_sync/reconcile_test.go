package creditssync

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks/credits"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// reconcile runs the command with a target in the environment.
func reconcile(t *testing.T, l *pgtest.DB, env []string, args ...string) (out, talk string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"credits", "reconcile"}, args...)...)
	cmd.Env = append(cmd.Environ(), append([]string{"DATABASE_URL=" + l.URL, "COLUMNS=", "PGTICK_SYNC_TARGET=", "PGTICK_SYNC_KEY="}, env...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// eachTarget runs a test for all three: the environment that names it, and where its table is.
func eachTarget(t *testing.T, users int, f func(t *testing.T, l, there *pgtest.DB, to credits.Target, env []string)) {
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		l := ledger(t, users)
		f(t, l, l, credits.Local(), nil)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		l, there := ledger(t, users), usage(t)
		f(t, l, there, credits.Postgres(there.Config(t)), []string{"PGTICK_SYNC_TARGET=" + there.URL})
	})
	t.Run("rest", func(t *testing.T) {
		t.Parallel()
		l, there := ledger(t, users), usage(t)
		r := newREST(t, there)
		f(t, l, there, r.target(t), []string{"PGTICK_SYNC_TARGET=" + r.server.URL, "PGTICK_SYNC_KEY=" + serviceKey})
	})
}

func TestReconcile_NamesEachKindOfDifference(t *testing.T) {
	t.Parallel()
	eachTarget(t, 20, func(t *testing.T, l, there *pgtest.DB, to credits.Target, env []string) {
		before, talk, code := reconcile(t, l, env)
		require.Empty(t, before)
		require.Zero(t, code, "nothing synced is no difference")
		require.Contains(t, talk, "100 entries compared with "+to.String()+": 0 differences, 80 not synced yet")

		ids := all[int64](t, l, `select id from credits.transactions where status = 'COMPLETED' order by id`)
		do(t, l, `select credits.set_aside($1, 'https://there.example', 'it says no')`, ids[70])
		run(t, l, to)
		do(t, l, `select credits.charge('00000000-0000-4000-8000-000000000001', 1, 'newer')`)
		out, talk, code := reconcile(t, l, env, "--json")
		require.Equal(t, 1, code)
		require.Contains(t, talk, "101 entries compared with "+to.String()+": 1 difference, 1 not synced yet")
		require.Equal(t, 1, strings.Count(out, "\n"))

		do(t, there, `delete from analytics.credit_usage where transaction_id = $1`, ids[3])
		do(t, there, `insert into analytics.credit_usage select 1000000, user_id, type, amount, held_amount, balance_after, endpoint, period, created_at, completed_at, synced_at
			from analytics.credit_usage where transaction_id = $1`, ids[0])
		pending := one[int64](t, l, `select min(id) from credits.transactions where status = 'PENDING'`)
		do(t, there, `update analytics.credit_usage set transaction_id = $2 where transaction_id = $1`, ids[5], pending)
		// The first two swap their amounts, so that no sum differs.
		do(t, there, `update analytics.credit_usage as a set amount = b.amount from analytics.credit_usage as b
			where (a.transaction_id, b.transaction_id) in (($1, $2), ($2, $1))`, ids[0], ids[1])
		do(t, there, `update analytics.credit_usage set endpoint = '/v2', completed_at = completed_at + interval '1 microsecond' where transaction_id = $1`, ids[10])
		out, _, code = reconcile(t, l, env, "--json")
		require.Equal(t, 1, code)
		type difference struct {
			Kind          string `json:"kind"`
			TransactionID int64  `json:"transaction_id"`
			UserID        string `json:"user_id"`
			Detail        string `json:"detail"`
		}
		found := map[string]string{}
		for line := range strings.Lines(out) {
			var d difference
			require.NoError(t, json.Unmarshal([]byte(line), &d), line)
			require.NotEmpty(t, d.UserID)
			found[fmt.Sprintf("%s %d", d.Kind, d.TransactionID)] = d.Detail
		}
		require.Len(t, found, 8, out)
		for kind, says := range map[string]string{
			fmt.Sprint("missing ", ids[3]):    "marked as synced at 20",
			fmt.Sprint("missing ", ids[5]):    "but not at the target",
			fmt.Sprint("unknown ", pending):   "at the target as deduction of -7",
			fmt.Sprint("unknown ", 1000000):   "at the target as addition of 100, but not completed in the ledger",
			fmt.Sprint("different ", ids[0]):  "amount 100, at the target -7",
			fmt.Sprint("different ", ids[1]):  "amount -7, at the target 100",
			fmt.Sprint("different ", ids[10]): `endpoint null, at the target "/v2"; completed_at 20`,
			fmt.Sprint("set_aside ", ids[70]): "https://there.example: it says no (refused 1 times, last at 20",
		} {
			require.Contains(t, found[kind], says, "%s: %s", kind, out)
		}

		out, talk, code = reconcile(t, l, env)
		require.Equal(t, 1, code)
		require.Regexp(t, `^ENTRY +USER +DIFFERENCE +DETAIL\n`, out)
		require.Equal(t, 9, strings.Count(out, "\n"), out)
		require.Contains(t, talk, "pgtick: the ledger and its analytics target differ: 8 differences")
		require.NotContains(t, talk, serviceKey)
	})
}

// What is at the target and not marked yet is on its way: a runner was killed in between, or is at it now.
func TestReconcile_BetweenTargetAndMark_IsNoDifference(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 5), usage(t)
	to := credits.Postgres(there.Config(t))
	run(t, l, to)
	do(t, l, `begin; set local session_replication_role = replica;
		update credits.transactions set synced_to_supabase = false, synced_at = null where type = 'hold'; commit`)
	out, talk, code := reconcile(t, l, []string{"PGTICK_SYNC_TARGET=" + there.URL})
	require.Zero(t, code, out)
	require.Contains(t, talk, "0 differences, 5 not synced yet")
}

func TestReconcile_WithoutATarget_SaysSo(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 1), usage(t)
	r := newREST(t, there)
	do(t, there, `drop table analytics.credit_usage`)
	for says, env := range map[string][]string{
		"has no table analytics.credit_usage: create it there":   {"PGTICK_SYNC_TARGET=" + there.URL},
		"shows no table analytics.credit_usage: create it there": {"PGTICK_SYNC_TARGET=" + r.server.URL, "PGTICK_SYNC_KEY=" + serviceKey},
		"refuses access: check PGTICK_SYNC_KEY":                  {"PGTICK_SYNC_TARGET=" + r.server.URL, "PGTICK_SYNC_KEY=another"},
		"can't be reached":                                       {"PGTICK_SYNC_TARGET=postgres://u:hunter2@127.0.0.1:1/x"},
	} {
		out, talk, code := reconcile(t, l, env)
		require.Equal(t, 1, code, talk)
		require.Contains(t, talk, says)
		require.NotContains(t, talk, "hunter2")
		require.Empty(t, out)
	}
	_, talk, code := reconcile(t, l, []string{"PGTICK_SYNC_TARGET=ftp://there.example"})
	require.Equal(t, 2, code)
	require.Contains(t, talk, "PGTICK_SYNC_TARGET (or --sync-target)")
}
