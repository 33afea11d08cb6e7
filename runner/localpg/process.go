package localpg

import (
	_ "embed"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

//go:embed supervise.sh
var supervisor string

// Process is a server process that ends with us, even when we are killed.
type Process struct {
	cmd  *exec.Cmd
	hold *os.File      // the supervisor stops the server when this closes; nil: there is none
	done chan struct{} // closed when the process has ended
	once sync.Once
}

// Supervise starts another server (a pooler, say) the way the private PostgreSQL is started: in a process group of its own, as an
// unprivileged user where we are root, ended with us. The folder becomes that user's, and is where the log goes. Signal is what
// stops the server: INT, TERM.
func Supervise(folder, signal string, args ...string) (*Process, error) {
	who, err := serverAccount(args[0], folder)
	if err != nil {
		return nil, err
	}
	if err := who.own(folder); err != nil {
		return nil, err
	}
	return supervised(who, filepath.Join(folder, "log"), "", signal, args...)
}

func supervised(who *account, logFile, remove, signal string, args ...string) (*Process, error) {
	input, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer input.Close()
	p, err := begin(who, logFile, input, append([]string{"sh", "-c", supervisor, "supervise.sh", remove, signal}, args...)...)
	if err != nil {
		return nil, errors.Join(err, hold.Close())
	}
	p.hold = hold
	return p, nil
}

func begin(who *account, logFile string, input *os.File, args ...string) (*Process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &Process{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})} //nolint:gosec // to start programs is what it is for
	p.cmd.Dir, p.cmd.SysProcAttr = "/", apart(who)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if input != nil {
		p.cmd.Stdin = input
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in the log
		close(p.done)
	}()
	return p, nil
}

// Stop ends the server and returns when it is gone. It may be called twice.
func (p *Process) Stop() error {
	p.release()
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("it does not stop")
	}
}

// release lets the supervisor know that the server is to stop.
func (p *Process) release() {
	p.once.Do(func() {
		if p.hold != nil {
			_ = p.hold.Close()
		}
	})
}
