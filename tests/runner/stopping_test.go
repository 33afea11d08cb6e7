package runner

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStop_RunningJobsEnd_WithinTheGrace(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := enqueue(t, db, "test.sleep", `{"ms": 1000}`)
	p := work(t, db)
	becomes(t, db, "running", stateOf, id)
	p.signal(syscall.SIGTERM)
	require.Zero(t, p.ends())
	require.Equal(t, "done", ask[string](t, db, stateOf, id))
	require.Equal(t, "left", ask[string](t, db, `select state from pgtick.runners`))
}

func TestStop_JobsThatTakeLonger_GoBack_AndTheAttemptDoesNotCount(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	long := enqueue(t, db, "test.sleep", `{"ms": 600000}`)
	stubborn := enqueue(t, db, "test.stubborn", `{"ms": 600000}`)
	unstarted := enqueue(t, db, "test.sleep", `{"ms": 600000}`)
	p := work(t, db, "--workers=2", "--grace=300ms")
	becomes(t, db, 2, `select count(*) from pgtick.jobs where state = 'running'`)
	p.signal(syscall.SIGTERM)
	require.Zero(t, p.ends())
	require.Equal(t, 3, ask[int](t, db, `select count(*) from pgtick.jobs where state = 'ready' and attempt = uncounted and id = any ($1)`, []int64{long, stubborn, unstarted}))
	require.Equal(t, 2, ask[int](t, db, `select count(*) from pgtick.attempts where outcome = 'released' and error ->> 'message' like '%the runner is stopping%'`))
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.live_jobs where runner_id is not null`))
}

func TestStop_ASecondSignal_EndsAtOnce(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := enqueue(t, db, "test.stubborn", `{"ms": 600000}`)
	p := work(t, db, "--grace=1h")
	becomes(t, db, "running", stateOf, id)
	p.signal(syscall.SIGTERM)
	p.says("stopping: 1 claims held")
	p.signal(syscall.SIGTERM)
	require.Equal(t, 128+int(syscall.SIGTERM), p.ends())
}
