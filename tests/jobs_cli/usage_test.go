package jobscli

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestUsage_IsRefusedWithExit2_InOneLine(t *testing.T) {
	t.Parallel()
	// Nothing listens there: each of these is refused before anything is connected to.
	const nowhere = "postgres://u:hunter2@127.0.0.1:1/x"
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"command":                {[]string{"job"}, "did you mean jobs?"},
		"command below jobs":     {[]string{"jobs", "lst"}, "did you mean list?"},
		"command below queues":   {[]string{"queues", "puase", "x"}, "did you mean pause?"},
		"command below migrate":  {[]string{"migrate", "statsu"}, "did you mean status?"},
		"command below schedule": {[]string{"schedules", "previw"}, "did you mean preview?"},
		"shell":                  {[]string{"completion", "bahs"}, "did you mean bash?"},
		"topic":                  {[]string{"help", "jbos"}, "did you mean jobs?"},
		"topic below":            {[]string{"help", "jobs", "lst"}, "did you mean list?"},
		"flag":                   {[]string{"jobs", "list", "--sate", "failed"}, "unknown flag: --sate; did you mean --state?"},
		"state":                  {[]string{"jobs", "list", "--state", "faild"}, `--state "faild" is none of ready, running, done, failed, cancelled; did you mean failed?`},
		"state of retry":         {[]string{"jobs", "retry", "--state", "running"}, `--state "running" is none of failed, cancelled`},
		"state of cancel":        {[]string{"jobs", "cancel", "--state", "redy"}, "did you mean ready?"},
		"owner":                  {[]string{"jobs", "list", "--owner", "ann"}, `--owner "ann" is no UUID`},
		"since":                  {[]string{"jobs", "list", "--since", "yesterday"}, `--since "yesterday" is no time`},
		"limit":                  {[]string{"jobs", "list", "--limit", "0"}, "from 1 to 10000"},
		"before":                 {[]string{"jobs", "list", "--before", "-1"}, "is no id of a job"},
		"watch":                  {[]string{"jobs", "list", "--watch=10ms"}, `--watch "10ms" is no length from 1s to 1h`},
		"id":                     {[]string{"jobs", "watch", "abc"}, `"abc" is no id of a job`},
		"id of retry":            {[]string{"jobs", "retry", "1", "-0"}, "unknown shorthand flag"},
		"too large an id":        {[]string{"jobs", "cancel", "99999999999999999999"}, "is no id of a job"},
		"neither ids nor filter": {[]string{"jobs", "retry", "--yes"}, "name jobs by their ids, or give a filter"},
		"ids and filter":         {[]string{"jobs", "cancel", "1", "--task", "a"}, "give ids or a filter, not both"},
		"no task":                {[]string{"jobs", "enqueue"}, "pgtick jobs enqueue --help"},
		"priority":               {[]string{"jobs", "enqueue", "a", "--priority", "high"}, `--priority "high" is no whole number`},
		"timeout":                {[]string{"jobs", "enqueue", "a", "--timeout", "soon"}, `--timeout "soon" is no length of time`},
		"run-at":                 {[]string{"jobs", "enqueue", "a", "--run-at", "later"}, `--run-at "later" is no time`},
		"after":                  {[]string{"jobs", "enqueue", "a", "--after", "b"}, "--after"},
		"owner of a new job":     {[]string{"jobs", "enqueue", "a", "--owner", "ann"}, `--owner "ann" is no UUID`},
		"seconds":                {[]string{"bench", "--seconds", "1"}, "from 2 to 600"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := call{}.run(t, nowhere, c.args...)
			require.Equal(t, 2, r.code, r.talk)
			require.Contains(t, r.talk, c.says)
			require.Equal(t, 1, strings.Count(r.talk, "\n"), r.talk)
			require.Empty(t, r.out)
		})
	}
}

func TestEachVerb_WithoutADatabase_SaysSo(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"jobs list", "jobs show 1", "jobs why 1", "jobs retry 1", "jobs retry --task a --yes", "jobs cancel 1", "jobs watch", "jobs watch 1", "jobs enqueue a",
		"queues list", "queues pause a", "queues resume a", "bench"} {
		r := call{}.run(t, "", strings.Fields(line)...)
		require.Equal(t, 2, r.code, line)
		require.Contains(t, r.talk, "DATABASE_URL (or --database-url): is not set", line)
		r = call{}.run(t, "postgres://u:hunter2@127.0.0.1:1/x", strings.Fields(line)...)
		require.Equal(t, 1, r.code, line)
		require.Contains(t, r.talk, "the database at 127.0.0.1, port 1, can't be reached", line)
		require.NotContains(t, r.talk, "hunter2", line)
		require.Empty(t, r.out, line)
	}
}

// Who may only read gets everything that shows, and a clear refusal for the rest.
func TestAReader_MayLook_AndChangesNothing(t *testing.T) {
	t.Parallel()
	db := office(t)
	do(t, db, `do $$ begin
		create role reader_of_jobs login password 'reader-of-jobs' in role pgtick_reader;
	exception when duplicate_object or unique_violation then null; -- another test has made it
	end $$`)
	url := pgtest.URLAs(db, "reader_of_jobs", "reader-of-jobs")
	for _, line := range []string{"jobs list", "jobs list --state running", "jobs list --task mail.send", "jobs list --search x --until 1s", "jobs list --task nothing", "jobs show 7", "jobs why 5", "queues list"} {
		r := call{}.run(t, url, strings.Fields(line)...)
		require.Zero(t, r.code, "%s: %s", line, r.talk)
	}
	for _, line := range []string{"jobs retry 2", "jobs cancel 5", "jobs cancel --task mail.send --yes", "jobs enqueue a", "queues pause default", "bench"} {
		r := call{}.run(t, url, strings.Fields(line)...)
		require.Equal(t, 1, r.code, line)
		require.Contains(t, r.talk, "permission denied for function", line)
	}
	require.Equal(t, "done failed cancelled running ready ready ready", one[string](t, db, states))
}

func TestHelp_OfEachCommand_HasAnExample(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"jobs list", "jobs show", "jobs why", "jobs retry", "jobs cancel", "jobs watch", "jobs enqueue", "queues list", "queues pause", "queues resume", "bench"} {
		r := call{}.run(t, "", append(strings.Fields(path), "--help")...)
		require.Zero(t, r.code)
		require.Contains(t, r.out, "Examples:\n  pgtick "+path)
	}
}

// inBash completes a command line in a real shell that knows nothing but our script, and returns what it offers.
func inBash(t *testing.T, url, setup, line string) []string {
	t.Helper()
	script := setup + `
source <(pgtick completion bash) || exit 1
line=$1
read -ra COMP_WORDS <<<"${line//=/ = }"
[[ $line == *[[:space:]=] ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9
__start_pgtick
for word in "${COMPREPLY[@]}"; do printf '%s\n' "${word%% *}"; done`
	cmd := exec.CommandContext(t.Context(), "bash", "--norc", "-c", script, "bash", line)
	cmd.Env = append(cmd.Environ(), "DATABASE_URL="+url, "PATH="+filepath.Dir(binary)+":/usr/bin:/bin")
	var talk strings.Builder
	cmd.Stderr = &talk
	out, err := cmd.Output()
	require.NoError(t, err, talk.String())
	require.NotContains(t, talk.String(), "not found") // compopt complains that no completion is under way, and rightly
	return strings.Fields(string(out))
}

func TestCompletion_InBash_KnowsCommandsFlagsAndNames(t *testing.T) {
	t.Parallel()
	db := office(t)
	do(t, db, `select pgtick.schedule('nightly-report', '@daily', 'report.make')`)
	for line, want := range map[string][]string{
		"pgtick jobs ":                            {"cancel", "enqueue", "list", "retry", "show", "watch", "why"},
		"pgtick jobs re":                          {"retry"},
		"pgtick queues pause ":                    {"default", "reports"},
		"pgtick queues resume re":                 {"reports"},
		"pgtick jobs enqueue mail":                {"mail.send"},
		"pgtick jobs list --task ":                {"mail.send", "report.make"},
		"pgtick jobs list --queue=rep":            {"reports"},
		"pgtick jobs list --state ":               {"cancelled", "done", "failed", "ready", "running"},
		"pgtick jobs retry --state ":              {"cancelled", "failed"},
		"pgtick schedules pause night":            {"nightly-report"},
		"pgtick jobs list --schedule n":           {"nightly-report"},
		"pgtick jobs show ":                       nil,
		"pgtick jobs list --task mail.send --sin": {"--since"},
		"pgtick completion ":                      {"bash", "fish", "powershell", "zsh"},
	} {
		require.ElementsMatch(t, want, inBash(t, db.URL, "", line), line)
	}
	require.Empty(t, inBash(t, "", "", "pgtick queues pause "), "no database, no names, no complaint")
	require.Empty(t, inBash(t, "postgres://u@127.0.0.1:1/x", "", "pgtick queues pause "))
	require.Empty(t, call{}.run(t, "postgres://u@127.0.0.1:1/x", "__complete", "queues", "pause", "").talk[len("Completion ended with directive: ShellCompDirectiveNoFileComp\n"):])
}

// The scripts of the other shells are made too; where the shell is there, it reads its own.
func TestCompletion_ForTheOtherShells_IsAScriptOfTheirs(t *testing.T) {
	t.Parallel()
	for shell, begins := range map[string]string{"zsh": "#compdef pgtick", "fish": "# fish completion for pgtick", "powershell": "# powershell completion for pgtick", "bash": "if ! declare -F _get_comp_words_by_ref"} {
		r := call{}.run(t, "", "completion", shell)
		require.Zero(t, r.code)
		require.True(t, strings.HasPrefix(r.out, begins), shell)
		if path, err := exec.LookPath(shell); err == nil && shell != "powershell" {
			check := exec.CommandContext(t.Context(), path, "-n")
			check.Stdin = strings.NewReader(r.out)
			out, err := check.CombinedOutput()
			require.NoError(t, err, "%s: %s", shell, out)
		}
	}
	if path, err := exec.LookPath("fish"); err == nil {
		cmd := exec.CommandContext(t.Context(), path, "--no-config", "-c", `pgtick completion fish | source; complete -C "pgtick jobs retry --state "`)
		cmd.Env = append(cmd.Environ(), "DATABASE_URL=", "PATH="+filepath.Dir(binary)+":/usr/bin:/bin")
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, []string{"cancelled", "failed"}, strings.Fields(string(out)))
	}
}
