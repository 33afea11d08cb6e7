package jobscli

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestShow_TellsAllOfOneJob(t *testing.T) {
	t.Parallel()
	db := office(t)
	r := well(t, db, "jobs", "show", "2")
	for _, like := range []string{
		`^JOB +2$`, `^task +mail.send$`, `^state +failed$`, `^owner_id +` + owner + `$`, `^finished_at +2026-12-01 12:01:00 UTC \(1m ago\)$`,
		`^ARGS\n\{\n  "to": "bob"\n\}$`, `^LAST ERROR\nconnection REFUSED$`,
		`^ATTEMPT  STARTED \(UTC\) +TOOK  RUNNER  OUTCOME  ERROR\n1 +2026-12-01 12:00:00  1m +crew +failed +connection REFUSED$`,
	} {
		require.Regexp(t, `(?m)`+like, r.out)
	}
	require.NotContains(t, r.out, "schedule", "null says nothing")
	require.NotContains(t, r.out, "WHY", "it has ended")

	r = well(t, db, "jobs", "show", "7")
	require.Regexp(t, `(?m)^run_at +infinity$`, r.out)
	require.Regexp(t, `(?s)\nWHY IT DOES NOT RUN .*it waits for other jobs`, r.out)
	require.Regexp(t, `(?m)^IT WAITS FOR  TASK +STATE\njob 5 +mail.send  ready$`, r.out)
	require.Regexp(t, `(?m)^THESE WAIT FOR IT  TASK +STATE\njob 7 +mail.send  ready$`, well(t, db, "jobs", "show", "5").out)
	require.Contains(t, well(t, db, "jobs", "show", "1").out, "RESULT\n{\n  \"sent\": 1\n}\n")
	require.Regexp(t, `(?m)^progress +0.5\nnote +half way$`, well(t, db, "jobs", "show", "4").out)
}

func TestShow_AsJSON_IsTheRow_WithWhatBelongsToIt(t *testing.T) {
	t.Parallel()
	db := office(t)
	out := well(t, db, "jobs", "show", "7", "--json").out
	require.Equal(t, append(columns(t, db, "pgtick.jobs"), "attempts", "why", "waits_for", "waited_by", "batches", "ahead", "stopped"), keys(t, out))
	row := objects(t, out)[0]
	require.Equal(t, "infinity", row["run_at"])
	require.Empty(t, row["attempts"])
	require.Equal(t, []any{map[string]any{"id": 5.0, "task": "mail.send", "state": "ready"}}, row["waits_for"])
	require.Equal(t, "it waits for other jobs", row["why"].([]any)[0].(map[string]any)["reason"])
	attempts := objects(t, well(t, db, "jobs", "show", "2", "--json").out)[0]["attempts"].([]any)
	require.Equal(t, "failed", attempts[0].(map[string]any)["outcome"])
}

func TestShow_OfABatchAndASequence(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	batch := one[int64](t, db, `select pgtick.create_batch('test.noop')`)
	do(t, db, `select pgtick.enqueue('test.noop', p_batch_id => $1), pgtick.enqueue('test.noop', p_sequence_key => 'ann'), pgtick.enqueue('test.noop', p_sequence_key => 'ann')`, batch)
	callback := one[int64](t, db, `select job_id from pgtick.batches where id = $1`, batch)
	for _, id := range []int64{callback, one[int64](t, db, `select id from pgtick.jobs where batch_id = $1`, batch)} {
		require.Regexp(t, `(?m)^BATCH  LIVE  DONE  FAILED  CANCELLED  CALLBACK\n1 +1 +0 +0 +0 +job `+itoa(callback)+`$`, well(t, db, "jobs", "show", itoa(id)).out)
	}
	first, second := one[int64](t, db, `select min(id) from pgtick.jobs where sequence_key = 'ann'`), one[int64](t, db, `select max(id) from pgtick.jobs where sequence_key = 'ann'`)
	require.Regexp(t, `(?m)^SEQUENCE  AHEAD OF IT  STOPPED BY\nann +1 live job +-$`, well(t, db, "jobs", "show", itoa(second)).out)
	c := newCrew(t, db, []string{"default"}, []string{"test.noop"})
	do(t, db, `select pgtick.pause_queue('none')`)
	do(t, db, `update pgtick.live_jobs set run_at = 'infinity' where batch_id is not null`)
	c.claim(t, 1)
	c.end(t, "failed", "", `{"message": "no"}`, first)
	require.Regexp(t, `(?m)^ann +0 live jobs +job `+itoa(first)+`$`, well(t, db, "jobs", "show", itoa(second)).out)
}

// A worker in another language may report any JSON as an error, or as a result.
func TestOddErrorsAndResults_HideNoJob(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, `select pgtick.enqueue_many('a', array_fill('{}'::jsonb, array[5]))`)
	c := newCrew(t, db, []string{"default"}, []string{"a"})
	c.claim(t, 5)
	for i, problem := range []string{`"just words"`, `{"message": {"code": 5}}`, `[1, 2]`, `{"code": "E5"}`} {
		c.end(t, "failed", "", problem, int64(i+1))
	}
	c.end(t, "done", `"words"`, "", 5)
	out := well(t, db, "jobs", "list").out
	for id, says := range map[int]string{1: "just words", 2: `\{"code": 5\}`, 3: `\[1, 2\]`, 4: `\{"code": "E5"\}`, 5: `"words"`} {
		require.Regexp(t, `(?m)^`+itoa(int64(id))+` .* `+says+`$`, out)
		require.Regexp(t, says, strings.ReplaceAll(well(t, db, "jobs", "show", itoa(int64(id))).out, "\n", " "))
	}
}

func TestWhy_PrintsTheReasonsOfTheDatabase(t *testing.T) {
	t.Parallel()
	db := office(t)
	for _, id := range []string{"1", "4", "5", "6", "7"} {
		want := all[string](t, db, `select reason from pgtick.why($1::text::bigint)`, id)
		r := well(t, db, "jobs", "why", id)
		require.Regexp(t, `^REASON +EVIDENCE +REMEDY\n`, r.out)
		rows := objects(t, well(t, db, "jobs", "why", id, "--json").out)
		require.Len(t, rows, len(want))
		for i, reason := range want {
			require.Contains(t, r.out, reason)
			require.Equal(t, reason, rows[i]["reason"])
		}
		require.Equal(t, []string{"rank", "reason", "evidence", "remedy"}, keys(t, well(t, db, "jobs", "why", id, "--json").out))
	}
}

func TestUnknownJob_IsSaid_WithExit1(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	for _, verb := range []string{"show", "why", "retry", "cancel", "watch"} {
		r := run(t, db, "jobs", verb, "4711")
		require.Equal(t, 1, r.code, verb)
		require.Regexp(t, `^pgtick: there is no job 4711 \(TK004\)\n  hint: Finished jobs are dropped after 7 days .*\n$`, r.talk, verb)
		require.Empty(t, r.out, verb)
	}
}

// What somebody wrote into args, errors, notes and names must not move the cursor on an operator's terminal; JSON holds it exactly.
func TestHostileText_ReachesNoTerminal_AndJSONIsExact(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	const evil = "\x1b[31mred\x07\r\u009b31m\u202egnp.exe\u2066 and \n more"
	do(t, db, `select pgtick.enqueue('test.noop', jsonb_build_object('a', $1::text), p_unique_key => 'k')`, evil)
	c := newCrew(t, db, []string{"default"}, []string{"test.noop"})
	c.claim(t, 1)
	do(t, db, `select pgtick.progress(1, (select fence from pgtick.live_jobs), 0.1, $1)`, evil)
	running := []string{well(t, db, "jobs", "list").out, well(t, db, "jobs", "show", "1").out}
	do(t, db, `select pgtick.finish($1, '{1}', array(select fence from pgtick.live_jobs), '{failed}', null, array[jsonb_build_object('message', $2::text, 'stack', $2::text)])`, c.runner, evil)
	r := run(t, db, "jobs", "watch", "1")
	require.Equal(t, 1, r.code)
	printed := append(running, r.out, r.talk, well(t, db, "jobs", "list").out, well(t, db, "jobs", "show", "1").out, well(t, db, "jobs", "why", "1").out,
		run(t, db, "jobs", "enqueue", "x\u009b\u202e").talk, run(t, db, "queues", "pause", "x\x1b[31m").talk, run(t, db, "jobs", "list", "--task", "x\u009b31m").talk)
	for _, json := range []string{well(t, db, "jobs", "list", "--json").out, well(t, db, "jobs", "show", "1", "--json").out} {
		printed = append(printed, json)
		row := objects(t, json)[0]
		require.Equal(t, evil, row["args"].(map[string]any)["a"])
		require.Equal(t, evil, row["last_error"].(map[string]any)["message"])
		require.Equal(t, evil, row["note"])
	}
	for _, text := range printed {
		require.NotEmpty(t, text)
		for _, bad := range []string{"\x1b", "\x07", "\r", "\u009b", "\u202e", "\u2066"} {
			require.NotContains(t, text, bad)
		}
	}
	require.Contains(t, strings.Join(printed, ""), "gnp.exe", "what is harmless stays")
}

func TestQueues_AreListedPausedAndResumed(t *testing.T) {
	t.Parallel()
	db := office(t)
	pgtest.Advance(t, db, 3*time.Minute)
	r := well(t, db, "queues", "list")
	require.Regexp(t, `^QUEUE    DEPTH  OLDEST  SCHEDULED  RUNNING  RUNNERS  STATE\ndefault  1      3m ago  1          0        1        active\nreports  0      -       1          1        1        active\n$`, r.out)
	for line := range strings.Lines(well(t, db, "queues", "list", "--json").out) {
		require.Equal(t, columns(t, db, "pgtick.queues"), keys(t, line))
	}
	require.Equal(t, "default is paused until it is resumed: pgtick queues resume default\n", well(t, db, "queues", "pause", "default", "--reason", "the mail server moves").talk)
	require.Equal(t, "default is paused already, by postgres since 2026-12-01 12:05 UTC: the mail server moves\n", well(t, db, "queues", "pause", "default", "--reason", "other").talk)
	require.Regexp(t, `(?m)^default .* paused  by postgres since 2026-12-01 12:05 UTC: the mail server moves$`, well(t, db, "queues", "list").out)
	require.Equal(t, "default is resumed; 1 job could run now\n", well(t, db, "queues", "resume", "default").talk)
	require.Equal(t, "default was not paused; 1 job could run now\n", well(t, db, "queues", "resume", "default").talk)
	require.Zero(t, one[int](t, db, `select count(*) from pgtick.paused_queues`))

	for _, verb := range []string{"pause", "resume"} {
		r := run(t, db, "queues", verb, "deflt")
		require.Equal(t, 1, r.code)
		require.Equal(t, "pgtick: no live job, runner, schedule or pause has queue deflt; did you mean default?\n", r.talk)
	}
	require.Contains(t, well(t, db, "queues", "pause", "later", "--anyway").talk, "later is paused until")
	require.Contains(t, well(t, db, "queues", "resume", "later").talk, "later is resumed; 0 jobs")
	pgtest.Advance(t, db, 2*time.Hour)
	require.Regexp(t, `(?m)^reports .* no runner$`, well(t, db, "queues", "list").out, "its lease has run out")
}
