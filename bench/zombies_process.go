package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// puppet is a worker in a process of its own, of Go or of Node. It says what its tasks do in lines of JSON on stdout, "go" on its stdin
// lets them go on, and it stops in its orderly way when its stdin ends.
type puppet struct {
	cmd    *osexec.Cmd
	in     io.WriteCloser
	exited chan struct{}

	mu     sync.Mutex
	held   map[string]bool
	ended  map[string]string // what each task heard
	logged []string
	woken  bool
}

// puppetLine is one line of its stdout.
type puppetLine struct {
	Held  string `json:"held,omitempty"`  // this job's task waits at the point
	Ended string `json:"ended,omitempty"` // this job's task has ended
	Said  string `json:"said,omitempty"`  // with this
}

func startPuppet(cmd *osexec.Cmd) (*puppet, error) {
	p := &puppet{cmd: cmd, exited: make(chan struct{}), held: map[string]bool{}, ended: map[string]string{}}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	talk, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.read(out, p.hear) })
	readers.Go(func() { p.read(talk, p.log) })
	go func() { readers.Wait(); _ = cmd.Wait(); close(p.exited) }()
	return p, nil
}

func (p *puppet) read(from io.Reader, take func(string)) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		take(lines.Text())
		p.mu.Unlock()
	}
}

func (p *puppet) hear(text string) {
	var line puppetLine
	if err := json.Unmarshal([]byte(text), &line); err != nil {
		p.logged = append(p.logged, text)
		return
	}
	if line.Held != "" {
		p.held[line.Held] = true
	}
	if line.Ended != "" {
		p.ended[line.Ended] = line.Said
	}
}

func (p *puppet) log(text string) {
	if !p.woken {
		text = "before: " + text
	}
	p.logged = append(p.logged, text)
}

// reaches waits until the process has come so far.
func (p *puppet) reaches(ctx context.Context, what string, n int, count func() int) error {
	seen := 0
	err := untilEvery(ctx, 20*time.Millisecond, 3*time.Minute, func() (bool, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		seen = count()
		select {
		case <-p.exited:
			return seen == n, errors.New("it has ended by itself")
		default:
			return seen == n, nil
		}
	})
	if err != nil {
		return fmt.Errorf("the worker %s %d jobs, not %d: %w; it said: %v", what, seen, n, err, p.talk())
	}
	return nil
}

func (p *puppet) holds(ctx context.Context, n int) error {
	return p.reaches(ctx, "holds", n, func() int { return len(p.held) })
}

func (p *puppet) endsAll(ctx context.Context, n int) error {
	return p.reaches(ctx, "has ended", n, func() int { return len(p.ended) })
}

// freeze returns when the kernel says that the process has stopped.
func (p *puppet) freeze(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return until(ctx, 10*time.Second, func() (bool, error) {
		fields, err := stat(p.cmd.Process.Pid)
		return err == nil && fields[0] == "T", err
	})
}

// wake has its tasks go on in the moment in which it wakes: whatever its library does about the lost time has no head start.
func (p *puppet) wake() error {
	p.mu.Lock()
	p.woken = true
	p.mu.Unlock()
	_, err := io.WriteString(p.in, "go\n")
	return errors.Join(err, p.cmd.Process.Signal(syscall.SIGCONT))
}

// stop returns when the process has ended, all its reports made.
func (p *puppet) stop() error {
	_ = p.in.Close()
	select {
	case <-p.exited:
		return nil
	case <-time.After(2 * time.Minute):
		return fmt.Errorf("process %d does not stop; it said: %v", p.cmd.Process.Pid, p.talk())
	}
}

func (p *puppet) kill() {
	_ = p.cmd.Process.Kill() // ends a frozen process as well
	<-p.exited
}

func (p *puppet) talk() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logged[max(0, len(p.logged)-5):]
}

var (
	someID     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	someNumber = regexp.MustCompile(`TK[0-9]+|[0-9]+(\.[0-9]+)?`) // but for pgtick's codes
)

// tally counts what was said and logged, whatever the numbers in it.
func (p *puppet) tally(said, logged map[string]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, text := range p.ended {
		said[alike(text)]++
	}
	for _, text := range p.logged {
		logged[alike(text)]++
	}
}

func alike(text string) string {
	text = someNumber.ReplaceAllStringFunc(someID.ReplaceAllString(text, "ID"), func(number string) string {
		if number[0] == 'T' {
			return number
		}
		return "N"
	})
	return text[:min(len(text), 300)]
}

// stage is the other end: what a worker in Go uses to be such a puppet.
type stage struct {
	point string // where to wait; "" nowhere
	gone  chan struct{}
	over  context.Context
	mu    sync.Mutex
}

func newStage(point string) *stage {
	over, end := context.WithCancel(context.Background())
	s := &stage{point: point, gone: make(chan struct{}), over: over}
	go func() {
		defer end()
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if lines.Text() == "go" {
				close(s.gone)
			}
		}
	}()
	return s
}

// at waits here where this is the point.
func (s *stage) at(point string, job int64) {
	if s.point != point {
		return
	}
	s.say(puppetLine{Held: fmt.Sprint(job)})
	<-s.gone
}

func (s *stage) ended(job int64, err error) {
	said := "committed"
	if err != nil {
		said = err.Error()
	}
	s.say(puppetLine{Ended: fmt.Sprint(job), Said: said})
}

func (s *stage) say(line puppetLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(line)
}
