package creditssync

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// within is how long a condition is waited for.
const within = 3 * time.Minute

func becomes[V comparable](t *testing.T, db *pgtest.DB, want V, sql string, args ...any) {
	t.Helper()
	pgtest.Becomes(t, db, within, want, sql, args...)
}

// lockedText gathers what a process says while it runs.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// runner is a running pgtick, with the role that a runner shall have.
type runner struct {
	cmd  *exec.Cmd
	said *lockedText
	once sync.Once
}

func work(t *testing.T, l *pgtest.DB, env ...string) *runner {
	t.Helper()
	r := &runner{cmd: exec.Command(binary, "work", "--lease=2s", "--log-level=debug"), said: &lockedText{}}
	r.cmd.Env = append(os.Environ(), append([]string{"DATABASE_URL=" + pgtest.RunnerURL(t, l), "PGTICK_HTTP=off", "PGTICK_SYNC_TARGET=", "PGTICK_SYNC_KEY="}, env...)...)
	r.cmd.Stderr = r.said
	require.NoError(t, r.cmd.Start())
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Log(r.said.String())
		}
	})
	return r
}

func (r *runner) kill() {
	r.once.Do(func() {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	})
}

const enqueue = `select pgtick.enqueue('credits.sync_credit_usage_with_supabase', '{"chunk_size": 20}')`

// The runner is killed with an answer of the target on its way, and once more by chance; the next one goes on.
func TestRunnerKilled_REST_HasEachEntryOnce(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 100), usage(t)
	r := newREST(t, there)
	reached := make(chan struct{})
	killed := make(chan struct{})
	r.after = func(n int) {
		if n == 4 {
			close(reached)
			<-killed
		}
	}
	env := []string{"PGTICK_SYNC_TARGET=" + r.server.URL + "/", "PGTICK_SYNC_KEY=" + serviceKey}
	first := work(t, l, env...)
	job := one[int64](t, l, enqueue)
	<-reached
	first.kill()
	close(killed)
	require.EqualValues(t, 80, one[int64](t, there, `select count(*) from analytics.credit_usage`))
	require.EqualValues(t, 340, one[int64](t, l, unsynced), "what was confirmed to nobody is not marked")

	second := work(t, l, env...)
	becomes(t, l, "done", `select state from pgtick.jobs where id = $1`, job)
	requireSame(t, l, there)
	require.EqualValues(t, 400, one[int64](t, there, `select count(*) from analytics.credit_usage`))
	for _, said := range []string{first.said.String(), second.said.String(), one[string](t, l, `select string_agg(to_jsonb(j)::text, '') from pgtick.jobs as j`)} {
		require.NotContains(t, said, serviceKey)
	}
}

func TestRunnerKilled_Postgres_HasEachEntryOnce(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 200), usage(t)
	// The insert of one chunk waits, so that the runner is killed while it is under way.
	lock, err := there.Pool.Begin(t.Context())
	require.NoError(t, err)
	do(t, there, `create function public.hold_on() returns trigger language plpgsql as $$ begin
		if new.transaction_id % 100 = 1 then perform pg_advisory_xact_lock(1); end if; return new; end $$;
		create trigger hold_on before insert on analytics.credit_usage for each row execute function public.hold_on()`)
	_, err = lock.Exec(t.Context(), `select pg_advisory_xact_lock(1)`)
	require.NoError(t, err)
	first := work(t, l, "PGTICK_SYNC_TARGET="+there.URL)
	job := one[int64](t, l, enqueue)
	becomes(t, there, true, `select exists (select from pg_locks where locktype = 'advisory' and not granted)`)
	first.kill()
	require.NoError(t, lock.Rollback(t.Context()))
	require.Positive(t, one[int64](t, l, unsynced), "killed in the middle")

	second := work(t, l, "PGTICK_SYNC_TARGET="+there.URL)
	becomes(t, l, true, `select count(*) < 400 from (`+strings.Replace(unsynced, "count(*)", "id", 1)+`) as left_over`)
	second.kill()
	work(t, l, "PGTICK_SYNC_TARGET="+there.URL)
	becomes(t, l, "done", `select state from pgtick.jobs where id = $1`, job)
	requireSame(t, l, there)
	require.EqualValues(t, 800, one[int64](t, there, `select count(*) from analytics.credit_usage`))
}

func TestRunnerKilled_Local_HasEachEntryOnce(t *testing.T) {
	t.Parallel()
	l := ledger(t, 500)
	first := work(t, l)
	job := one[int64](t, l, enqueue)
	becomes(t, l, true, `select count(*) > 0 from analytics.credit_usage`)
	first.kill()
	work(t, l)
	becomes(t, l, "done", `select state from pgtick.jobs where id = $1`, job)
	requireSame(t, l, l)
	require.EqualValues(t, 2000, one[int64](t, l, `select count(*) from analytics.credit_usage`))
}

func TestRunner_WithAWrongKey_FailsTheJob_AndSaysSo(t *testing.T) {
	t.Parallel()
	l, there := ledger(t, 1), usage(t)
	r := newREST(t, there)
	w := work(t, l, "PGTICK_SYNC_TARGET="+r.server.URL, "PGTICK_SYNC_KEY=not-the-key")
	job := one[int64](t, l, enqueue)
	becomes(t, l, "failed", `select state from pgtick.jobs where id = $1`, job)
	said := one[string](t, l, `select last_error from pgtick.jobs where id = $1`, job)
	require.Contains(t, said, "sync target "+r.server.URL+" refuses access: check PGTICK_SYNC_KEY")
	require.NotContains(t, said+w.said.String(), "not-the-key")
	require.EqualValues(t, 4, one[int64](t, l, unsynced))
	require.Zero(t, one[int64](t, l, setAside))
}

func TestSettings_ThatAreWrong_AreRefusedAtStart_WithoutSecrets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ target, key, says string }{
		"scheme":             {"mysql://u:hunter2@h/x", "", "PGTICK_SYNC_TARGET (or --sync-target): is neither local, nor a postgres://, nor an https:// URL: write local, postgres://"},
		"no URL":             {"supabase", "", "PGTICK_SYNC_TARGET (or --sync-target): is neither local"},
		"Postgres, mistyped": {"postgres://u:hunter2@h:port/x", "", "PGTICK_SYNC_TARGET (or --sync-target): is not a PostgreSQL URL"},
		"no host":            {"https:///rest", "k", "is not the URL of a Supabase project: write https://REF.supabase.co"},
		"unencrypted":        {"http://db.example", "hunter2", "would send the service key unencrypted: write https://db.example"},
		"password":           {"https://service:hunter2@db.example", "k", "holds a user or a password"},
		"query":              {"https://db.example?apikey=hunter2", "k", "has something behind ? or #"},
		"no key":             {"https://db.example", "", "PGTICK_SYNC_KEY (or --sync-key): is not set: give the service key of the Supabase project"},
		"key of nothing":     {"local", "hunter2", "PGTICK_SYNC_KEY (or --sync-key): is set, but PGTICK_SYNC_TARGET is not the https:// URL"},
		"key with a break":   {"https://db.example", "hun\nhunter2", "holds what no key has"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), binary, "work")
			cmd.Env = append(cmd.Environ(), "DATABASE_URL=postgres://u@127.0.0.1:1/x", "PGTICK_SYNC_TARGET="+c.target, "PGTICK_SYNC_KEY="+c.key)
			out, _ := cmd.CombinedOutput()
			require.Equal(t, 2, cmd.ProcessState.ExitCode(), string(out))
			require.Contains(t, string(out), c.says)
			require.NotContains(t, string(out), "hunter2")
		})
	}
}

func TestRollUps_AddUpWhatTheTargetHas(t *testing.T) {
	t.Parallel()
	l := ledger(t, 4)
	user := `'00000000-0000-4000-8000-000000000001'`
	do(t, l, `select credits.refund((select id from credits.transactions where idempotency_key = 'c' and user_id = `+user+`), 'r', 3),
		credits.adjust(`+user+`, -2, 'a mistake', 'a'), credits.transfer(`+user+`, '00000000-0000-4000-8000-000000000002', 20, 't')`)
	do(t, l, `select credits.sync_chunk(null, 1000)`)
	// An hour before midnight in New York is the next day in UTC.
	do(t, l, `update analytics.credit_usage set completed_at = '2026-03-01 23:00:00-05'; set timezone = 'UTC'`)
	do(t, l, `update analytics.credit_usage set completed_at = '2026-03-01 12:00:00Z' where user_id <> `+user)
	const day = `select format('%s: charged %s, refunded %s, added %s, adjusted %s, net %s, %s requests of %s users, %s entries', day, charged, refunded, added,
		adjusted, net, requests, users, entries) from analytics.credit_usage_by_day order by day`
	require.Equal(t, []string{
		"2026-03-01: charged 33, refunded 0, added 300, adjusted 0, net 287, 6 requests of 3 users, 13 entries",
		"2026-03-02: charged 11, refunded 3, added 100, adjusted -2, net 70, 2 requests of 1 users, 7 entries",
	}, all[string](t, l, day))
	require.Equal(t, []string{"/v1/\"chat\": 14 in 2 of 2, 7.00 each", "none: 30 in 6 of 4, 5.00 each"}, all[string](t, l,
		`select format('%s: %s in %s of %s, %s each', coalesce(endpoint, 'none'), charged, requests, users, credits_per_request) from analytics.credit_usage_by_endpoint order by charged`))
	require.Equal(t, "charged 11, refunded 3, added 100, adjusted -2, transferred -20, net 70, 2 requests, 7 entries", one[string](t, l,
		`select format('charged %s, refunded %s, added %s, adjusted %s, transferred %s, net %s, %s requests, %s entries', charged, refunded, added, adjusted, transferred, net,
			requests, entries) from analytics.credit_usage_by_user where user_id = `+user))
	require.Zero(t, one[int64](t, l, `select count(*) from analytics.credit_usage_by_user as u join credits.accounts as a on a.user_id = u.user_id where a.balance <> u.net`))
	for _, view := range []string{"credit_usage_by_day", "credit_usage_by_endpoint", "credit_usage_by_user"} {
		do(t, l, `begin; set local role pgtick_reader; select * from analytics.`+view+`; rollback`)
	}
}
