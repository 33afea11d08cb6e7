package schedulescli

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// onTerminal runs the program with its stdout on a terminal of this width, and returns what a person would see there.
func onTerminal(t *testing.T, db *pgtest.DB, width uint16, env []string, args ...string) string {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer ours.Close()
	fd := int(ours.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: width}))
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)

	cmd := exec.CommandContext(t.Context(), binary, append([]string{"schedules"}, args...)...)
	cmd.Env = append(cmd.Environ(), append([]string{"DATABASE_URL=" + db.URL, "COLUMNS=", "TERM=xterm", "NO_COLOR="}, env...)...)
	cmd.Stdout = theirs
	require.NoError(t, cmd.Start())
	require.NoError(t, theirs.Close())
	out, _ := io.ReadAll(ours) // a terminal whose last user has gone answers with an error
	require.NoError(t, cmd.Wait(), string(out))
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

var colour = regexp.MustCompile(`\x1b\[[0-9]+m`)

func TestTerminal_GivesWidthAndColours_UnlessNO_COLOR(t *testing.T) {
	t.Parallel()
	db := quiet(t)
	do(t, db, reports)
	do(t, db, `select pgtick.pause_schedule('daily-report')`)
	for _, args := range [][]string{{"list"}, {"forecast", "--until", "7d"}, {"show", "daily-report"}} {
		coloured := onTerminal(t, db, 70, nil, args...)
		require.Regexp(t, colour, coloured, args)
		bare := colour.ReplaceAllString(coloured, "")
		fits(t, 70, bare)
		for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
			require.Equal(t, bare, onTerminal(t, db, 70, []string{env}, args...), "%v %s: colours add nothing to the words", args, env)
		}
		fits(t, 110, colour.ReplaceAllString(onTerminal(t, db, 110, nil, args...), ""))
	}
}
