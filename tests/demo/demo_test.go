// Package demo_test runs what a newcomer runs first: the program that "make demo" builds, as "make demo" calls it.
package demo_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/programs"
)

const readme = "../../README.md"

// build makes the program as "make build" does, but for its version.
func build(t *testing.T) string {
	t.Helper()
	program, err := programs.Build(t.TempDir(), programs.Pgtick)
	require.NoError(t, err)
	return program
}

// start runs the program in a folder of its own, as a newcomer would, without any setting.
func start(t *testing.T, program, folder string, args ...string) (*exec.Cmd, *os.File) {
	t.Helper()
	talk, err := os.Create(filepath.Join(t.TempDir(), "talk"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = talk.Close() })
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stderr = folder, talk
	cmd.Env = append(os.Environ(), "DATABASE_URL=", "PGTICK_HTTP=127.0.0.1:0")
	return cmd, talk
}

func textOf(t *testing.T, file *os.File) string {
	t.Helper()
	text, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	return string(text)
}

// nothingRuns: no server is left in the folder.
func nothingRuns(t *testing.T, folder string) {
	t.Helper()
	left, err := localpg.Find(t.Context(), filepath.Join(folder, ".pgtick", "dev"))
	require.NoError(t, err)
	require.Nil(t, left, "a server is left running")
}

var (
	number = regexp.MustCompile(`[0-9]+`)
	blanks = regexp.MustCompile(` +`)
)

// shape is a text without its figures, so that two runs can be compared.
func shape(text string) string {
	return strings.TrimSpace(blanks.ReplaceAllString(number.ReplaceAllString(text, "0"), " "))
}

// TestDemo_ShowsATickBecomeADoneJob_AndTheFourCreditTasks: with pg_cron where it is installed, and all of it is what the README shows. Ctrl-C may come
// at any moment: what was half done before is done anew.
func TestDemo_ShowsATickBecomeADoneJob_AndTheFourCreditTasks_AndFindsItsDataAgain(t *testing.T) {
	t.Parallel()
	program, folder := build(t), t.TempDir()
	dev, said := start(t, program, folder, "dev", "--workers=3")
	require.Equal(t, 1, ctrlC(t, dev, said, "schema up to date"), textOf(t, said)) // while it fills the ledger
	nothingRuns(t, folder)
	showsTheDemo(t, program, folder)
	for _, until := range []string{"It stays up until Ctrl-C", "notifications arrive"} {
		dev, talk := start(t, program, folder, "dev", "--workers=3")
		require.Equal(t, 0, ctrlC(t, dev, talk, until), textOf(t, talk))
		require.NotContains(t, textOf(t, talk), filled)
		nothingRuns(t, folder)
	}
}

// filled is what it says when it has filled the ledger.
const filled = "10,000 accounts with"

func showsTheDemo(t *testing.T, program, folder string) {
	t.Helper()
	var out strings.Builder
	demo, talk := start(t, program, folder, "dev", "--once")
	demo.Stdout = &out
	require.NoError(t, demo.Run(), "%s\n%s", out.String(), textOf(t, talk))
	nothingRuns(t, folder)
	require.Contains(t, textOf(t, talk), filled)
	for _, line := range []string{
		`slot of schedule demo-every-minute`, `the runner claimed it`, `done: \{"hello": "from slot `,
		`cleanup-expired-credit-holds +done .*released 4000`, `periodic-credit-allocation +done .*allocated 10000`,
		`process-pending-credit-transactions +done .*committed 2000, .*reverted 1000`, `sync-credit-usage-with-supabase +done .*synced 10[0-9]{4}`,
	} {
		require.Regexp(t, line, out.String())
	}
	if strings.Contains(textOf(t, talk), "pg_cron is not installed here") {
		require.Contains(t, out.String(), "runner ticked")
		return // the README shows the other
	}
	require.Contains(t, out.String(), "pg_cron ticked")
	page, err := os.ReadFile(readme)
	require.NoError(t, err)
	_, shown, found := strings.Cut(string(page), "<!-- demo output -->\n```\n")
	require.True(t, found, "the README shows no output")
	shown, _, found = strings.Cut(shown, "```\n<!-- /demo output -->")
	require.True(t, found)
	require.Equal(t, shape(shown), shape(textOf(t, talk)+out.String()), "the README shows something else than the demo prints")
}

// ctrlC interrupts the process once it has said something, and returns its exit code.
func ctrlC(t *testing.T, dev *exec.Cmd, talk *os.File, says string) int {
	t.Helper()
	require.NoError(t, dev.Start())
	ended := make(chan struct{})
	go func() { _ = dev.Wait(); close(ended) }()
	t.Cleanup(func() { _ = dev.Process.Kill() })
	require.Eventually(t, func() bool { return strings.Contains(textOf(t, talk), says) }, 4*time.Minute, 20*time.Millisecond, says)
	select {
	case <-ended:
		require.Fail(t, "it did not stay up", textOf(t, talk))
	default:
	}
	require.NoError(t, dev.Process.Signal(syscall.SIGINT))
	select {
	case <-ended:
	case <-time.After(time.Minute):
		require.Fail(t, "it does not stop", textOf(t, talk))
	}
	return dev.ProcessState.ExitCode()
}
