package metrics

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// lines are those of a runner's log, which is JSON.
func (p *process) lines() []map[string]any {
	p.t.Helper()
	var all []map[string]any
	for line := range strings.Lines(p.said()) {
		var one map[string]any
		require.NoError(p.t, json.Unmarshal([]byte(line), &one), line)
		all = append(all, one)
	}
	return all
}

func (p *process) linesOf(messages ...string) []map[string]any {
	p.t.Helper()
	return slices.DeleteFunc(p.lines(), func(line map[string]any) bool { return !slices.Contains(messages, line["msg"].(string)) })
}

func allEnded(t *testing.T, db *pgtest.DB) {
	t.Helper()
	becomes(t, db, 0, `select count(*) from pgtick.live_jobs as j where j.runner_id is not null or j.run_at <= pgtick.now() + interval '2 seconds'`)
}

func TestLog_OfEachAttempt_HasOneLine_WithTheSameFields_AndNoArguments(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	want := map[string][]string{ // message, level, state
		"test.noop":      {"attempt finished", "info", "done"},
		"test.fail":      {"attempt failed", "warning", "error"},
		"test.panic":     {"attempt failed", "warning", "error"},
		"test.permanent": {"attempt failed", "warning", "failed"},
		"test.cancel":    {"attempt ended", "info", "cancelled"},
	}
	for task := range want {
		do(t, db, `select pgtick.enqueue($1, '{}', p_unique_key => 'hunter2')`, task)
	}
	do(t, db, `select pgtick.enqueue('test.strict', '{"user_id": "hunter2"}')`) // which is its result as well
	do(t, db, `select pgtick.enqueue('test.snooze', '{}')`)
	want["test.strict"] = want["test.noop"]
	want["test.snooze"] = []string{"attempt ended", "info", "snoozed"}
	r := work(t, db, nil, "--name=logger")
	allEnded(t, db)
	r.stops()

	seen := map[string]int{}
	for _, line := range r.linesOf("attempt finished", "attempt failed", "attempt ended") {
		task, _ := line["task"].(string)
		seen[task]++
		if seen[task] > 1 {
			require.Equal(t, "test.snooze", task, "one line for an attempt")
			require.Equal(t, "done", line["state"])
			continue
		}
		require.Equal(t, want[task], []string{line["msg"].(string), line["level"].(string), line["state"].(string)}, task)
		fields := []string{"attempt", "elapsed_ms", "fence", "job_id", "level", "msg", "queue", "runner", "state", "task", "time", "waited_ms"}
		if _, has := line["error"]; has {
			require.NotEqual(t, "done", line["state"])
			fields = append(fields, "error")
		}
		slices.Sort(fields)
		require.Equal(t, fields, slices.Sorted(maps.Keys(line)), task)
		require.Equal(t, "logger", line["runner"])
		require.Equal(t, 1.0, line["attempt"])
		require.Equal(t, "default", line["queue"])
		require.GreaterOrEqual(t, line["waited_ms"], 0.0)
	}
	require.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(seen)))
	for _, line := range r.linesOf("attempt failed") {
		require.NotContains(t, line["error"], "goroutine", "the stack of a panic is in the database")
		require.LessOrEqual(t, len(line["error"].(string)), 505)
	}
	require.NotContains(t, r.said(), "hunter2")
}

// However many jobs end, a second has so many lines; nothing is missing from the sum, and failures are not lost among the rest.
func TestLog_AboveTheRate_SaysHowManyHaveNoLine(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	const well, failed, rate = 3000, 40, 5
	do(t, db, `select pgtick.enqueue_many('test.noop', array_fill('{}'::jsonb, array[$1::int]))`, well)
	do(t, db, `select pgtick.enqueue_many('test.permanent', array_fill('{}'::jsonb, array[$1::int]), p_run_at => pgtick.now() - interval '1 second')`, failed)
	r := work(t, db, nil, "--log-rate=5")
	allEnded(t, db)
	r.stops()
	finished, failures, leftOut, leftFailed, seconds := 0, 0, 0.0, 0.0, 1
	for _, line := range r.lines() {
		switch line["msg"] {
		case "attempt finished":
			finished++
		case "attempt failed":
			failures++
		case "more attempts ended than have a line of their own (--log-rate)":
			seconds++
			leftOut += line["left_out"].(float64)
			leftFailed += line["left_out_failed"].(float64)
			require.Equal(t, map[bool]string{true: "warning", false: "info"}[line["left_out_failed"].(float64) > 0], line["level"])
		}
	}
	require.Equal(t, float64(failed), float64(failures)+leftFailed)
	require.Equal(t, float64(well+failed), float64(finished+failures)+leftOut)
	require.GreaterOrEqual(t, failures, rate)
	require.LessOrEqual(t, finished, rate*seconds*2, "a second in which all have a line says nothing more")
	require.Less(t, finished, well/10)
}
