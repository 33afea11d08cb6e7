package creditscli

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// On a terminal a bar shows what is done, the rate and the time left, and is taken away at the end.
func TestTerminal_ShowsABar(t *testing.T) {
	t.Parallel()
	l := ledger(t, 20)
	for _, verb := range []string{"verify", "reconcile"} {
		ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
		require.NoError(t, err)
		defer ours.Close()
		fd := int(ours.Fd())
		require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
		number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		require.NoError(t, err)
		require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 120}))
		theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
		require.NoError(t, err)
		cmd := exec.CommandContext(t.Context(), binary, "credits", verb)
		cmd.Env = append(cmd.Environ(), "DATABASE_URL="+l.URL, "TERM=xterm")
		cmd.Stderr = theirs
		require.NoError(t, cmd.Start())
		require.NoError(t, theirs.Close())
		seen, _ := io.ReadAll(ours) // a terminal whose last user has gone answers with an error
		require.NoError(t, cmd.Wait(), string(seen))
		require.Regexp(t, `(verifying|comparing) +\d+% \|.*\| \(\d+/100, \d+ entries/\w+\) \[\d+s:\d+s\]`, string(seen))
		require.Regexp(t, `\r +\r\d+ entries `, string(seen))
	}
}
