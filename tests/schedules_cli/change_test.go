package schedulescli

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestPauseAndResume_MayBeSaidTwice_AndTellWhatIs(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, reports)
	const paused = `select paused_at is not null from pgtick.schedules`
	steps := []struct {
		args   []string
		talk   string
		paused bool
	}{
		{[]string{"resume", "daily-report"}, "daily-report was not paused; its next slot is 2026-12-02 08:00 UTC\n", false},
		{[]string{"pause", "daily-report"}, "daily-report is paused until it is resumed: pgtick schedules resume daily-report\n", true},
		{[]string{"pause", "daily-report"}, "daily-report is paused already, until it is resumed: pgtick schedules resume daily-report\n", true},
		{[]string{"pause", "daily-report", "--until", "36h"}, "daily-report stays paused, now until 2026-12-03 00:00 UTC\n", true},
		{[]string{"pause", "daily-report", "--until", "2026-12-24T18:00:00+01:00"}, "daily-report stays paused, now until 2026-12-24 17:00 UTC\n", true},
		{[]string{"resume", "daily-report"}, "daily-report is resumed; its next slot is 2026-12-02 08:00 UTC\n", false},
		{[]string{"pause", "daily-report", "--until", "1d12h"}, "daily-report is paused until 2026-12-03 00:00 UTC\n", true},
	}
	for _, step := range steps {
		r := well(t, db, step.args...)
		require.Equal(t, step.talk, r.talk, step.args)
		require.Empty(t, r.out)
		require.Equal(t, step.paused, one[bool](t, db, paused), step.args)
	}
	r := schedules(t, db, "pause", "daily-report", "--until", "2026-11-30")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "it lies in the future (TK000)\n  hint: ")
}

func TestResume_CatchUp_RunsWhatThePauseHeldUp(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"", "--catch-up"} {
		db := quiet(t)
		do(t, db, `select pgtick.schedule('hourly', '0 * * * *', 'test.noop')`)
		well(t, db, "pause", "hourly")
		pgtest.Advance(t, db, 150*time.Minute)
		well(t, db, strings.Fields("resume hourly "+flag)...)
		do(t, db, `select pgtick.tick()`)
		require.Equal(t, map[string]int{"": 0, "--catch-up": 1}[flag], one[int](t, db, `select count(*) from pgtick.jobs`), "on_missed is once")
	}
}

// work starts a runner, which is stopped at the test's end.
func work(t *testing.T, db *pgtest.DB) {
	t.Helper()
	runner := exec.Command(binary, "work", "--http", "off", "--poll", "100ms")
	runner.Env = append(runner.Environ(), "DATABASE_URL="+pgtest.RunnerURL(t, db))
	require.NoError(t, runner.Start())
	t.Cleanup(func() {
		_ = runner.Process.Signal(syscall.SIGTERM)
		_ = runner.Wait()
	})
}

func TestRun_PrintsTheJobsID_AndWaitTellsHowItEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	for name, task := range map[string]string{"good": "test.noop", "bad": "test.permanent", "off": "test.cancel", "strict": "test.strict"} {
		do(t, db, `select pgtick.schedule($1, '0 0 1 1 *', $2, case when $1 = 'strict' then '{"user_id": "ann"}'::jsonb else '{}' end)`, name, task)
	}
	well(t, db, "pause", "good")
	r := well(t, db, "run", "good")
	id := strings.TrimSpace(r.out)
	require.Equal(t, "test.noop", one[string](t, db, `select task from pgtick.jobs where id = $1::text::bigint`, id), "paused or not")
	require.Equal(t, "other", one[string](t, db, `select clock from pgtick.slots where job_id = $1::text::bigint`, id), "a person is no clock")
	row := objects(t, well(t, db, "run", "good", "--json").out)[0]
	require.Equal(t, "ready", row["state"])

	work(t, db)
	r = well(t, db, "run", "strict", "--wait")
	require.Regexp(t, `^\d+\n$`, r.out)
	require.Regexp(t, `^job \d+ is done in \S+: user_id ann\n$`, r.talk)
	require.Equal(t, "done", objects(t, well(t, db, "run", "good", "--wait", "--json").out)[0]["state"])
	for name, says := range map[string]string{"bad": "is failed after 1 attempts: ", "off": "is cancelled after 1 attempts: "} {
		r = schedules(t, db, "run", name, "--wait")
		require.Equal(t, 1, r.code, r.talk)
		require.Contains(t, r.talk, says)
		require.Regexp(t, `^\d+\n$`, r.out)
	}
}

func TestRun_Wait_WithoutARunner_SaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, `select pgtick.schedule('lonely', '@daily', 'nobody.knows')`)
	cmd := exec.Command(binary, "schedules", "run", "lonely", "--wait")
	cmd.Env = append(cmd.Environ(), "DATABASE_URL="+db.URL)
	var talk lockedText
	cmd.Stderr = &talk
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(talk.String(), "no runner is there for task nobody.knows") }, time.Minute, 20*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Contains(t, talk.String(), "goes on without us")
	require.Equal(t, "ready", one[string](t, db, `select state from pgtick.jobs`))
}
