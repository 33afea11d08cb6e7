package jobscli

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal is a person's: what the program shows there, and what the person types.
type terminal struct {
	t    *testing.T
	ours *os.File
	cmd  *exec.Cmd
	seen lockedText
	read chan struct{}
}

// onTerminal starts the program on a terminal of this size.
func onTerminal(t *testing.T, url string, width, height uint16, env []string, args ...string) *terminal {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ours.Close() })
	fd := int(ours.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}))
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)

	s := &terminal{t: t, ours: ours, cmd: exec.CommandContext(t.Context(), binary, args...), read: make(chan struct{})}
	s.cmd.Env = append(s.cmd.Environ(), append([]string{"DATABASE_URL=" + url, "LISTEN_DATABASE_URL=", "COLUMNS=", "TERM=xterm", "NO_COLOR="}, env...)...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = theirs, theirs, theirs
	require.NoError(t, s.cmd.Start())
	require.NoError(t, theirs.Close())
	go func() {
		defer close(s.read)
		part := make([]byte, 4096)
		for {
			n, err := ours.Read(part) // a terminal whose last user has gone answers with an error
			_, _ = s.seen.Write(part[:n])
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *terminal) types(text string) {
	s.t.Helper()
	_, err := s.ours.WriteString(text)
	require.NoError(s.t, err)
}

// ends waits for the program's end and returns all that was to be seen.
func (s *terminal) ends(code int) string {
	s.t.Helper()
	<-s.read
	_ = s.cmd.Wait()
	text := strings.ReplaceAll(s.seen.String(), "\r\n", "\n")
	require.Equal(s.t, code, s.cmd.ProcessState.ExitCode(), text)
	return text
}

var colour = regexp.MustCompile(`\x1b\[[0-9]+m`)

func TestTerminal_TablesAreCutToItsWidth_AndNeverElsewhere(t *testing.T) {
	t.Parallel()
	db := office(t)
	long := strings.Repeat("long-", 39)
	enqueue(t, db, long, "")
	enqueue(t, db, "short", `, '{}', '夜間の集計レポートを作成して全員に送信する'`)
	for _, width := range []uint16{40, 60, 100} {
		coloured := onTerminal(t, db.URL, width, 50, nil, "jobs", "list").ends(0)
		bare := colour.ReplaceAllString(coloured, "")
		require.NotEqual(t, bare, coloured, "states have colours")
		require.Contains(t, coloured, "\x1b[31m")
		fits(t, int(width), bare)
		require.Equal(t, 10, strings.Count(bare, "\n"), "a line a job")
		require.Contains(t, bare, "…")
		for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
			require.Equal(t, bare, onTerminal(t, db.URL, width, 50, []string{env}, "jobs", "list").ends(0), "colours add nothing to the words")
		}
		fits(t, int(width), colour.ReplaceAllString(onTerminal(t, db.URL, width, 50, nil, "queues", "list").ends(0), ""))
		if width >= 60 { // a column that is wrapped has ten
			fits(t, int(width), colour.ReplaceAllString(onTerminal(t, db.URL, width, 50, nil, "jobs", "show", "2").ends(0), ""))
		}
	}
	piped := well(t, db, "jobs", "list").out
	require.Contains(t, piped, long)
	require.NotContains(t, piped, "…")
	require.NotContains(t, piped, "\x1b")
}

func TestTerminal_IsAskedBeforeManyAreChanged(t *testing.T) {
	t.Parallel()
	db := office(t)
	for answer, code := range map[string]int{"n\n": 1, "\n": 1, "later\n": 1, "y\n": 0, "YES\n": 0} {
		do(t, db, `select pgtick.enqueue('mail.send', '{}', 'asked')`)
		s := onTerminal(t, db.URL, 100, 50, nil, "jobs", "cancel", "--queue", "asked")
		says(t, &s.seen, "cancel 1 job? [y/N] ")
		s.types(answer)
		text := s.ends(code)
		require.Equal(t, code == 0, strings.Contains(text, "1 job cancelled, or asked to stop"), text)
		require.Equal(t, code == 1, strings.Contains(text, "pgtick: nothing was changed"), text)
		require.Equal(t, code, one[int](t, db, `select count(*) from pgtick.live_jobs where queue = 'asked'`), "exit 1: it is still there")
		do(t, db, `select pgtick.cancel_where('{"queue": "asked"}')`)
	}
	do(t, db, `select pgtick.enqueue('mail.send', '{}', 'asked')`)
	s := onTerminal(t, db.URL, 100, 50, nil, "jobs", "cancel", "--queue", "asked")
	says(t, &s.seen, "[y/N] ")
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGINT))
	require.Contains(t, s.ends(1), "nothing was changed", "Ctrl-C is no yes")
	require.Contains(t, onTerminal(t, db.URL, 100, 50, nil, "jobs", "cancel", "--queue", "asked", "--yes").ends(0), "1 job cancelled")
}

// A view takes the place of the one before, and is no longer than the terminal.
func TestTerminal_WatchesInPlace(t *testing.T) {
	t.Parallel()
	db := live(t)
	do(t, db, `select pgtick.enqueue_many('slow', array_fill('{}'::jsonb, array[30]))`)
	s := onTerminal(t, db.URL, 100, 12, nil, "jobs", "watch")
	says(t, &s.seen, "lines more")
	first := s.seen.String()
	require.True(t, strings.HasPrefix(first, "\x1b[2J\x1b[H"), "%q", first)
	require.LessOrEqual(t, strings.Count(first[:strings.Index(first, "\x1b[J")], "\n"), 11)
	id := one[int64](t, db, `select pgtick.enqueue('newest')`)
	says(t, &s.seen, "newest")
	require.Equal(t, 1, strings.Count(s.seen.String(), "\x1b[2J"), "it is cleared once, and then drawn over")
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGINT))
	s.ends(0)

	c := newCrew(t, db, []string{"default"}, []string{"newest"})
	s = onTerminal(t, db.URL, 100, 24, nil, "jobs", "watch", itoa(id))
	says(t, &s.seen, "it is about to be claimed")
	c.claim(t, 1)
	do(t, db, `select pgtick.progress($1, (select fence from pgtick.live_jobs where id = $1), 0.5, 'half way')`, id)
	says(t, &s.seen, "█")
	says(t, &s.seen, "50% half way")
	c.end(t, "done", `{"n": 1}`, "", id)
	require.Regexp(t, `done.* 1/20 .*n 1`, s.ends(0))

	s = onTerminal(t, db.URL, 100, 24, nil, "queues", "list", "--watch=1s")
	says(t, &s.seen, "SCHEDULED")
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	s.ends(0)
}

func TestTerminal_OfBench_ShowsABar_ThatGoesAway(t *testing.T) {
	t.Parallel()
	db := live(t)
	seen := onTerminal(t, db.URL, 120, 50, nil, "bench", "--seconds", "2").ends(0)
	require.Regexp(t, `(commits|enqueued one by one), \d+/s +\d+% \|.*\| +\[\d+s:\d+s\]`, seen)
	require.Contains(t, seen, "Expect of one runner at most about ")
}
