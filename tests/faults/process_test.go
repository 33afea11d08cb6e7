package faults

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// process is a running binary. Of what it says the end is kept.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu   sync.Mutex
	talk []byte
}

const mostTalk = 64 << 10

// start runs a program with these settings of the environment. It is ended with the test.
func start(t *testing.T, program, name string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), append([]string{"LISTEN_DATABASE_URL=", "REDIS_URL=", "PGTICK_LOG_FORMAT=text", "PGTICK_HTTP=off"}, env...)...)
	pipe, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatalf("start runner %s: %v", name, err)
	}
	read := make(chan struct{})
	go func() { p.read(pipe); close(read) }()
	go func() { <-read; _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(p.end)
	return p
}

func (p *process) read(pipe io.Reader) {
	piece := make([]byte, 4096)
	for {
		n, err := pipe.Read(piece)
		p.mu.Lock()
		p.talk = append(p.talk, piece[:n]...)
		p.talk = p.talk[max(0, len(p.talk)-mostTalk):]
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.talk)
}

func (p *process) says(what string) bool { return strings.Contains(p.said(), what) }

// signal: who has ended already is no news.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// kill ends it as kill -9 does, and returns when it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

func (p *process) end() {
	telling := false
	select {
	case <-p.done:
		telling = p.cmd.ProcessState.ExitCode() >= 0 // by itself; -1 where the test has killed it
	default:
		p.signal(syscall.SIGCONT)
		p.kill()
		telling = true
	}
	if p.t.Failed() && telling {
		said := p.said()
		p.t.Logf("runner %s said at last:\n%s", p.name, said[max(0, len(said)-3000):])
	}
}
