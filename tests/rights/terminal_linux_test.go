package rights

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// terminal is one with a person at it, and a program that reads from it.
type terminal struct {
	t    *testing.T
	ours *os.File
	fd   int

	mu   sync.Mutex
	seen strings.Builder
}

// onTerminal starts pgtick roles with its input and its talk on a terminal. stdout goes elsewhere, as in a pipe to psql.
func onTerminal(t *testing.T, args ...string) (*terminal, *exec.Cmd, *strings.Builder) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ours.Close() })
	fd := int(ours.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"roles"}, args...)...)
	cmd.Env = append(cmd.Environ(), "PGTICK_ROLE_PASSWORD=", "TERM=xterm")
	var out strings.Builder
	cmd.Stdin, cmd.Stderr, cmd.Stdout = theirs, theirs, &out
	require.NoError(t, cmd.Start())
	require.NoError(t, theirs.Close())
	terminal := &terminal{t: t, ours: ours, fd: fd}
	go terminal.watch()
	return terminal, cmd, &out
}

func (term *terminal) watch() {
	buffer := make([]byte, 1024)
	for {
		n, err := term.ours.Read(buffer)
		term.mu.Lock()
		term.seen.Write(buffer[:n])
		term.mu.Unlock()
		if err != nil { // its last user has gone
			return
		}
	}
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.seen.String()
}

func (term *terminal) echoes() bool {
	state, err := unix.IoctlGetTermios(term.fd, unix.TCGETS)
	require.NoError(term.t, err)
	return state.Lflag&unix.ECHO != 0
}

// answer types a line once the question is there and the terminal shows nothing any more.
func (term *terminal) answer(question, line string) {
	term.t.Helper()
	require.Eventually(term.t, func() bool { return strings.Count(term.text(), question) == 1 && !term.echoes() }, patience, time.Millisecond, term.text())
	_, err := term.ours.WriteString(line + "\n")
	require.NoError(term.t, err)
}

func TestRoles_OnATerminal_AskTwice_AndShowNothing(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	term, cmd, sql := onTerminal(t, "reader", "--name", "typed")
	term.answer("Password of the login: ", plainPassword)
	term.answer("The same again: ", plainPassword)
	require.NoError(t, cmd.Wait(), term.text())
	require.NotContains(t, term.text()+sql.String(), plainPassword)
	apply(t, connect(t, db.URL), printed{sql: sql.String()})
	connect(t, pgtest.URLAs(db, "typed", plainPassword))
}

func TestRoles_OnATerminal_WithTwoDifferentPasswords_PrintNothing(t *testing.T) {
	t.Parallel()
	term, cmd, sql := onTerminal(t, "runner")
	term.answer("Password of the login: ", plainPassword)
	term.answer("The same again: ", plainPassword+"!")
	require.Error(t, cmd.Wait())
	require.Equal(t, 2, cmd.ProcessState.ExitCode())
	require.Empty(t, sql.String())
	require.Eventually(t, func() bool { return strings.Contains(term.text(), "the two passwords differ") }, patience, time.Millisecond)
}

// Ctrl-C while the terminal shows nothing must not leave it so.
func TestRoles_OnATerminal_Interrupted_GiveItsEchoBack(t *testing.T) {
	t.Parallel()
	term, cmd, sql := onTerminal(t, "runner")
	require.Eventually(t, func() bool { return strings.Contains(term.text(), "Password") && !term.echoes() }, patience, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.True(t, term.echoes())
	require.Empty(t, sql.String())
}
