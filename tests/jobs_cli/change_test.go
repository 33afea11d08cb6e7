package jobscli

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/faults/proxy"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func itoa(id int64) string { return strconv.FormatInt(id, 10) }

const states = `select string_agg(state, ' ' order by id) from pgtick.jobs`

func TestRetryAndCancel_OfNamedJobs_PrintTheStateAfter(t *testing.T) {
	t.Parallel()
	db := office(t)
	require.Equal(t, "ID  STATE\n2   ready\n3   ready\n", well(t, db, "jobs", "retry", "2", "3").out)
	require.Equal(t, "ID  STATE\n4   running\n5   cancelled\n1   done\n", well(t, db, "jobs", "cancel", "4", "5", "1").out)
	require.Equal(t, `{"id":2,"state":"cancelled"}`+"\n", well(t, db, "jobs", "cancel", "2", "--json").out)
	require.Equal(t, "done cancelled ready running cancelled ready cancelled", one[string](t, db, states), "7 waited for 5")

	r := run(t, db, "jobs", "retry", "1", "2", "4711")
	require.Equal(t, 1, r.code)
	require.Equal(t, "ID  STATE\n2   ready\n", r.out, "the others are tried all the same")
	require.Contains(t, r.talk, "pgtick: job 1 is done: only a failed, cancelled or waiting job can be retried (TK005)\n  hint: Enqueue a new job.\n")
	require.Contains(t, r.talk, "2 of 3 jobs could not be retried\npgtick: there is no job 4711 (TK004)\n  hint: ")
}

func TestRetryAndCancel_ByAFilter_CountWhatTheyDo(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	const n = 30
	do(t, db, `select pgtick.enqueue_many(case when i % 3 = 0 then 'a' else 'b' end, array['{}']::jsonb[], case when i % 2 = 0 then 'even' else 'odd' end,
		p_owner_id => case when i % 5 = 0 then $1::uuid end) from generate_series(1, 30) as i`, owner)
	c := newCrew(t, db, []string{"even", "odd"}, []string{"a", "b"})
	c.claim(t, n)
	pgtest.Advance(t, db, time.Minute)
	do(t, db, `select pgtick.finish($1, array(select id from pgtick.live_jobs order by id), array(select fence from pgtick.live_jobs order by id), array_fill('failed'::text, array[30]), null,
		array(select jsonb_build_object('message', case when id % 2 = 0 then 'refused' else 'timed out' end) from pgtick.live_jobs order by id))`, c.runner)
	pgtest.Advance(t, db, time.Hour)

	counts := func(talk string, args ...string) {
		t.Helper()
		require.Equal(t, talk, well(t, db, append(append([]string{"jobs"}, args...), "--yes")...).talk, args)
	}
	wish := func(args ...string) string {
		r := run(t, db, append([]string{"jobs"}, args...)...)
		require.Equal(t, 2, r.code, "off a terminal nobody can be asked")
		require.Empty(t, r.out)
		return r.talk
	}
	require.Equal(t, "pgtick: this would retry 10 jobs: say --yes to do it\n", wish("retry", "--task", "a"))
	require.Equal(t, n, one[int](t, db, `select count(*) from pgtick.jobs where state = 'failed'`))
	counts("5 jobs retried\n", "retry", "--task", "a", "--queue", "odd")
	require.Equal(t, 5, one[int](t, db, `select count(*) from pgtick.jobs where state = 'ready' and task = 'a' and queue = 'odd'`))
	counts("no job fits\n", "retry", "--task", "a", "--queue", "odd")
	counts("10 jobs retried\n", "retry", "--task", "b", "--error", "refused", "--state", "failed")
	counts("no job fits\n", "retry", "--since", "59m")
	counts("3 jobs cancelled, or asked to stop\n", "cancel", "--owner", owner, "--state", "ready", "--until", "1h")
	require.Equal(t, "{\"jobs\":3}\n", well(t, db, "jobs", "retry", "--state", "cancelled", "--json", "--yes").out)
	counts("15 jobs retried\n", "retry", "--since", "1h", "--until", "2026-12-01 14:00")
	do(t, db, `select pgtick.heartbeat($1)`, c.runner)
	c.claim(t, 4)
	require.Equal(t, "pgtick: this would cancel 4 jobs: say --yes to do it\n", wish("cancel", "--state", "running"))
	counts("30 jobs cancelled, or asked to stop\n", "cancel", "--since", "2h")
	require.Equal(t, 4, one[int](t, db, `select count(*) from pgtick.job_notes where cancel_requested_at is not null`))
	require.Equal(t, 26, one[int](t, db, `select count(*) from pgtick.jobs where state = 'cancelled'`))
	require.Equal(t, "no job fits\nno job, live runner or schedule has task c\n", well(t, db, "jobs", "cancel", "--task", "c").talk, "nothing is asked where there is nothing")
	require.Equal(t, "{\"jobs\":0}\n", well(t, db, "jobs", "cancel", "--task", "c", "--json").out)
}

func TestRetryByAFilter_TellsOfUniqueKeysThatOthersHold(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	first := enqueue(t, db, "a", `, p_unique_key => 'k'`)
	well(t, db, "jobs", "cancel", itoa(first))
	enqueue(t, db, "a", `, p_unique_key => 'k'`)
	r := well(t, db, "jobs", "retry", "--task", "a", "--state", "cancelled", "--yes")
	require.Contains(t, r.talk, "1 jobs stay as they are, since others hold their unique keys")
	require.Contains(t, r.talk, "0 jobs retried\n")
	r = run(t, db, "jobs", "retry", itoa(first))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "(TK008)")
}

func TestEnqueue_PrintsTheID_AndSetsWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	r := well(t, db, "jobs", "enqueue", "mail.send", "--args", `{"to": "ann", "n": 12345678901234567890.12}`, "--queue", "mail", "--priority", "0", "--max-attempts", "3",
		"--timeout", "90s", "--owner", owner, "--limit-key", "l", "--unique-key", "u", "--unique-for", "2h", "--run-at", "+10m")
	require.Equal(t, "1\n", r.out)
	require.Contains(t, r.talk, "job 1 of task mail.send waits: no live runner serves its task")
	require.JSONEq(t, `{"task": "mail.send", "args": {"to": "ann", "n": 12345678901234567890.12}, "queue": "mail", "priority": 0, "max_attempts": 3, "timeout": "00:01:30",
		"owner_id": "`+owner+`", "limit_key": "l", "unique_key": "u", "run_at": "2026-12-01T12:10:00+00:00"}`, one[string](t, db, `select json_build_object('task', task, 'args', args,
		'queue', queue, 'priority', priority, 'max_attempts', max_attempts, 'timeout', timeout, 'owner_id', owner_id, 'limit_key', limit_key, 'unique_key', unique_key,
		'run_at', run_at at time zone 'UTC' at time zone 'UTC')::text from pgtick.jobs`))
	require.Contains(t, one[string](t, db, `select args::text from pgtick.jobs`), "12345678901234567890.12", "no number goes through a float")
	require.Equal(t, "1\n", well(t, db, "jobs", "enqueue", "mail.send", "--unique-key", "u").out, "the one that is there")
	well(t, db, "jobs", "enqueue", "mail.send", "--after", "1", "--after-outcome", "any", "--run-at", "2026-12-02 06:00")
	require.Equal(t, "2026-12-02 06:00:00", one[string](t, db, `select (wanted_at at time zone 'UTC')::text from pgtick.jobs where after = '{1}'`))
	row := objects(t, well(t, db, "jobs", "enqueue", "mail.send", "--sequence-key", "s", "--json").out)[0]
	require.Equal(t, "s", row["sequence_key"])
	require.Equal(t, "ready", row["state"])
	r = well(t, db, "jobs", "enqueue", "mail.send", "--run-at", "2020-01-01T00:00:00Z")
	require.Equal(t, noon, one[time.Time](t, db, `select run_at from pgtick.jobs where id = $1::text::bigint`, strings.TrimSpace(r.out)).UTC(), "a past time is now")
}

func TestEnqueue_ReadsArgsFromAFileAndStdin(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	path := filepath.Join(t.TempDir(), "args.json")
	require.NoError(t, os.WriteFile(path, []byte("{\"from\": \"file\"}\n"), 0o600))
	well(t, db, "jobs", "enqueue", "a", "--args", "@"+path)
	r := call{stdin: `{"from": "stdin"}`}.run(t, db.URL, "jobs", "enqueue", "a", "--args", "-")
	require.Zero(t, r.code, r.talk)
	well(t, db, "jobs", "enqueue", "a")
	require.Equal(t, []string{`{"from": "file"}`, `{"from": "stdin"}`, `{}`}, all[string](t, db, `select args::text from pgtick.jobs order by id`))
}

func TestEnqueue_OfArgsThatDoNotGo_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	for name, c := range map[string]struct {
		args, stdin string
		code        int
		says        string
	}{
		"no JSON":              {`{"a": }`, "", 2, "--args: not JSON at line 1, column 7"},
		"cut off":              {`{"a": 1`, "", 2, "--args: not JSON at line 1, column"},
		"two values":           {`{} {}`, "", 2, "--args: not JSON: more follows at line 1, column"},
		"empty stdin":          {"-", "", 2, "--args from stdin: empty"},
		"second line":          {"-", "{\n\"a\": tru}\n", 2, "--args from stdin: not JSON at line 2, column"},
		"no UTF-8":             {"-", "{\"a\": \"\xff\"}", 2, "--args from stdin: not UTF-8"},
		"NUL":                  {`{"a": ["b\u0000c"]}`, "", 2, `--args: \u0000 can be stored in no JSON of PostgreSQL`},
		"NUL in a key":         {`{"b\u0000c": 1}`, "", 2, `--args: \u0000 can be stored in no JSON of PostgreSQL`},
		"a written one is not": {`{"a": "\\u0000"}`, "", 0, ""},
		"a list":               {`[1]`, "", 1, `args "[1]" is refused: args are a JSON object (TK000)`},
		"1 MB":                 {"-", `{"a": "` + strings.Repeat("x", 1<<20) + `"}`, 1, "1048585 bytes are over the limit of 65536 (TK000)\n  hint: Store the data in a table of yours and pass its key."},
		"5 MB":                 {"-", `{"a": "` + strings.Repeat("x", 5<<20) + `"}`, 2, "--args from stdin: more than 4 MiB, and a job's args have at most 64 KiB"},
		"no such file":         {"@/nowhere/args.json", "", 1, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := call{stdin: c.stdin}.run(t, db.URL, "jobs", "enqueue", "a", "--args", c.args)
			require.Equal(t, c.code, r.code, r.talk)
			require.Contains(t, r.talk, c.says)
			require.Less(t, len(r.talk), 600, "what is refused is not repeated in full")
			if c.code != 0 {
				require.Empty(t, r.out)
			}
		})
	}
}

func TestEnqueue_Wait_EndsAsTheJobDoes(t *testing.T) {
	t.Parallel()
	db := live(t)
	work(t, db)
	r := well(t, db, "jobs", "enqueue", "test.strict", "--args", `{"user_id": "ann"}`, "--wait")
	require.Regexp(t, `^\d+\n$`, r.out)
	require.Regexp(t, `^job \d+ is done in \S+: user_id ann\n$`, r.talk)
	require.Equal(t, "done", objects(t, well(t, db, "jobs", "enqueue", "test.noop", "--wait", "--json").out)[0]["state"])
	r = run(t, db, "jobs", "enqueue", "test.permanent", "--wait")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "is failed after 1 attempts: ")
	require.Empty(t, well(t, db, "jobs", "enqueue", "test.noop").talk, "a runner is there")
}

func TestWatch_OfAJob_TellsEachChange_AndEndsAsItDoes(t *testing.T) {
	t.Parallel()
	db := live(t)
	c := newCrew(t, db, []string{"default"}, []string{"slow"})
	for outcome, code := range map[string]int{"done": 0, "failed": 1, "cancelled": 1} {
		id := enqueue(t, db, "slow", "")
		cmd := call{}.command(t, db.URL, "jobs", "watch", itoa(id))
		var out, talk lockedText
		cmd.Stdout, cmd.Stderr = &out, &talk
		require.NoError(t, cmd.Start())
		says(t, &out, fmt.Sprintf("job %d slow is ready, attempt 0/20, due ", id))
		c.claim(t, 1)
		says(t, &out, fmt.Sprintf("job %d slow is running, attempt 1/20\n", id))
		do(t, db, `select pgtick.progress($1, (select fence from pgtick.live_jobs where id = $1), 0.25, 'a quarter')`, id)
		says(t, &out, "running, attempt 1/20: 25% a quarter\n")
		c.end(t, outcome, "", map[string]string{"done": ""}[outcome], id)
		_ = cmd.Wait()
		require.Equal(t, code, cmd.ProcessState.ExitCode(), talk.String())
		require.Contains(t, out.String(), "is "+outcome+", attempt 1/20")
		require.Equal(t, code == 1, strings.Contains(talk.String(), fmt.Sprintf("job %d is %s after 1 attempts", id, outcome)), talk.String())
	}
	ended := run(t, db, "jobs", "watch", "1", "--json")
	require.Len(t, objects(t, ended.out), 1, "of a job that has ended there is one row")
}

func TestWatch_OfTheNewestJobs_TellsChanges_UntilItIsInterrupted(t *testing.T) {
	t.Parallel()
	db := live(t)
	c := newCrew(t, db, []string{"default", "other"}, []string{"slow"})
	enqueue(t, db, "slow", "")
	c.claim(t, 1)
	c.end(t, "done", "", "", 1)
	enqueue(t, db, "slow", "")
	cmd := call{}.command(t, db.URL, "jobs", "watch", "--queue", "default", "--limit", "1")
	var out, talk lockedText
	cmd.Stdout, cmd.Stderr = &out, &talk
	require.NoError(t, cmd.Start())
	says(t, &out, "job 2 slow is ready, attempt 0/20, due ")
	enqueue(t, db, "slow", `, '{}', 'other'`)
	enqueue(t, db, "slow", "")
	says(t, &out, "job 4 slow is ready")
	c.claim(t, 3)
	c.end(t, "failed", "", `{"message": "no luck"}`, 2)
	says(t, &out, "job 2 slow is failed, attempt 1/20: no luck\n")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, cmd.Wait(), "that is how it ends: %s", talk.String())
	require.NotContains(t, out.String(), "job 1 ", "what has ended before is no news")
	require.NotContains(t, out.String(), "job 3 ", "it is in another queue")
	require.Empty(t, talk.String())
}

func TestWatch_OfAJob_Interrupted_SaysThatItGoesOn(t *testing.T) {
	t.Parallel()
	db := live(t)
	id := enqueue(t, db, "nobody.knows", "")
	cmd := call{}.command(t, db.URL, "jobs", "watch", itoa(id))
	var out, talk lockedText
	cmd.Stdout, cmd.Stderr = &out, &talk
	require.NoError(t, cmd.Start())
	says(t, &out, "is ready")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait()
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Contains(t, talk.String(), "goes on without us")
}

// A database that is restarted, fails over or is out of reach for a while does not end what waits for a job, nor what shows a list.
func TestWatch_WhileTheDatabaseIsAway_SaysSoOnce_AndGoesOn(t *testing.T) {
	t.Parallel()
	db := live(t)
	c := newCrew(t, db, []string{"default"}, []string{"slow"})
	id := enqueue(t, db, "slow", "")
	do(t, db, `select pgtick.schedule('s', '@daily', 'slow')`)
	way := proxy.Start(t, db.URL)
	type watcher struct {
		cmd       *exec.Cmd
		out, talk lockedText
	}
	start := func(shown string, args ...string) *watcher {
		w := &watcher{cmd: call{}.command(t, way.URL(db.URL), args...)}
		w.cmd.Stdout, w.cmd.Stderr = &w.out, &w.talk
		require.NoError(t, w.cmd.Start())
		says(t, &w.out, shown)
		return w
	}
	watch, list := start("is ready", "jobs", "watch", itoa(id)), start(`"state":"ready"`, "jobs", "list", "--watch=1s", "--json")
	waits := start("\n", "schedules", "run", "s", "--wait")
	all := []*watcher{watch, list, waits}

	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, nobody.Close())
	way.SwitchTo("postgres://" + nobody.Addr().String())
	way.Cut()
	for _, w := range all {
		says(t, &w.talk, "can't be reached")
	}
	way.SwitchTo(db.URL)
	for _, w := range all {
		says(t, &w.talk, "connected again\n")
		require.Regexp(t, `^the connection is lost: .+; connecting again \(Ctrl-C ends this\)\n(the database at 127.0.0.1, port \d+, can't be reached: .+\n)+connected again\n$`, w.talk.String())
	}
	c.claim(t, 2)
	c.end(t, "done", "", `"well"`, id, id+1)
	for _, w := range []*watcher{watch, waits} {
		require.NoError(t, w.cmd.Wait(), "%s", &w.talk)
	}
	require.Contains(t, watch.out.String(), "is done, attempt 1/20")
	require.Contains(t, waits.talk.String(), "is done in ")
	says(t, &list.out, `"state":"done"`)
	require.NoError(t, list.cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, list.cmd.Wait(), "%s", &list.talk)
}

func TestWatch_OfADatabaseThatIsGone_Ends(t *testing.T) {
	t.Parallel()
	db := live(t)
	id := enqueue(t, db, "slow", "")
	cmd := call{}.command(t, db.URL, "jobs", "watch", itoa(id))
	var out, talk lockedText
	cmd.Stdout, cmd.Stderr = &out, &talk
	require.NoError(t, cmd.Start())
	says(t, &out, "is ready")
	db.Pool.Close()
	do(t, pgtest.New(t), "drop database "+db.Name+" with (force)")
	_ = cmd.Wait()
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Contains(t, talk.String(), fmt.Sprintf("database %q does not exist (SQLSTATE 3D000)", db.Name))
}

// With --watch a list is shown again and again, as rows or as tables.
func TestList_Watched_IsShownAgain(t *testing.T) {
	t.Parallel()
	db := live(t)
	enqueue(t, db, "slow", "")
	do(t, db, `select pgtick.schedule('s', '@daily', 'slow')`)
	for _, args := range [][]string{{"jobs", "list", "--watch=1s"}, {"queues", "list", "--watch=1s", "--json"}, {"schedules", "list", "--watch=1s", "--json"}} {
		cmd := call{}.command(t, db.URL, args...)
		var out, talk lockedText
		cmd.Stdout, cmd.Stderr = &out, &talk
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return strings.Count(out.String(), "slow")+strings.Count(out.String(), `"depth":1`) >= 3 }, within, every, args)
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		require.NoError(t, cmd.Wait(), talk.String())
	}
}
