package jobscli

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func remains(t *testing.T, db *pgtest.DB) int {
	t.Helper()
	return one[int](t, db, `select (select count(*) from pgtick.live_jobs where task = 'pgtick.bench') + (select count(*) from pgtick.history where task = 'pgtick.bench')
		+ (select count(*) from pgtick.runner_leases where name = 'pgtick bench') + (select count(*) from pgtick.sleepers where queue = 'pgtick_bench')`)
}

func TestBench_TellsEachFigure_AndLeavesNothing(t *testing.T) {
	t.Parallel()
	db := live(t)
	mine := enqueue(t, db, "pgtick.bench", `, '{}', 'mine'`)
	r := well(t, db, "bench", "--seconds", "2", "--json")
	var names []string
	for _, f := range objects(t, r.out) {
		names = append(names, f["figure"].(string))
		require.Positive(t, f["value"], f["figure"])
		require.Positive(t, f["samples"], f["figure"])
	}
	require.Equal(t, []string{"round_trip", "commit", "enqueue", "enqueue_many", "work", "notify", "start", "start_slow"}, names)
	require.Equal(t, []string{"figure", "value", "unit", "samples", "what"}, keys(t, r.out))
	require.Equal(t, "measuring for about 2.0s on queue pgtick_bench; what is made for it is removed afterwards\n", r.talk)
	require.Equal(t, 1, remains(t, db), "but what is not its own")
	require.Equal(t, "ready", one[string](t, db, `select state from pgtick.jobs where id = $1`, mine))
}

func TestBench_BehindATransactionPooler_SaysThatNoNotificationArrives(t *testing.T) {
	t.Parallel()
	db := live(t)
	url := pgtest.StartPgBouncer(t, db, "transaction")
	r := call{}.run(t, url, "bench", "--seconds", "2")
	require.Zero(t, r.code, r.talk)
	require.Contains(t, r.out, "No notification arrives here")
	require.NotContains(t, r.out, "A job starts about")
	r = call{env: []string{"LISTEN_DATABASE_URL=" + db.URL}}.run(t, url, "bench", "--seconds", "2")
	require.Zero(t, r.code, r.talk)
	require.Contains(t, r.out, "A job starts about")
	require.Zero(t, remains(t, db))
}

func TestBench_Interrupted_CleansUp_AndKilled_IsCleanedUpByTheNext(t *testing.T) {
	t.Parallel()
	db := live(t)
	begin := func() (*exec.Cmd, *lockedText) {
		cmd := call{}.command(t, db.URL, "bench", "--seconds", "600")
		var talk lockedText
		cmd.Stderr = &talk
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return remains(t, db) > 1 }, 2*within, every, talk.String())
		return cmd, &talk
	}
	cmd, talk := begin()
	r := run(t, db, "bench", "--seconds", "2")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "a live runner serves queue pgtick_bench (pgtick bench)")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait()
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Contains(t, talk.String(), "interrupted")
	require.Zero(t, remains(t, db))

	cmd, _ = begin()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NotZero(t, remains(t, db))
	pgtest.Advance(t, db, time.Hour) // its lease runs out
	well(t, db, "bench", "--seconds", "2", "--json")
	require.Zero(t, remains(t, db))
}
