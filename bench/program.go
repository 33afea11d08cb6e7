package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// program is a runner in a process of its own, as users start it.
type program struct {
	cmd    *osexec.Cmd
	talk   *bytes.Buffer
	exited chan error
}

// built compiles a command of this repository, once a run.
func (b *bench) built(ctx context.Context, folder string) (path string, err error) {
	if b.bin == "" {
		if b.bin, err = os.MkdirTemp("", "pgtick-bench-"); err != nil {
			return "", err
		}
	}
	path = filepath.Join(b.bin, filepath.Base(folder))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := osexec.CommandContext(ctx, "go", "build", "-o", path, "./"+folder)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", folder, err, out)
	}
	return path, nil
}

func startProgram(path string, s *store) (*program, error) {
	p := &program{cmd: osexec.Command(path, "work", "--http", "off"), talk: &bytes.Buffer{}, exited: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), "DATABASE_URL="+s.pool.Config().ConnString())
	p.cmd.Stderr = p.talk
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.exited <- p.cmd.Wait() }()
	return p, nil
}

// once runs a command of the program to its end.
func once(ctx context.Context, path string, s *store, args ...string) error {
	cmd := osexec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+s.pool.Config().ConnString())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// stop has it end in its orderly way.
func (p *program) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("the runner has ended by itself: %s", p.talk)
	}
	select {
	case err := <-p.exited:
		return err
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("the runner does not stop"), p.cmd.Process.Kill())
	}
}

// asleep waits until so many runners have found nothing to do.
func asleep(ctx context.Context, pool *pgxpool.Pool, runners int) error {
	return untilEvery(ctx, 20*time.Millisecond, 30*time.Second, func() (bool, error) {
		var sleeping int
		err := pool.QueryRow(ctx, `select count(*) from pgtick.sleepers where until > now()`).Scan(&sleeping)
		return sleeping == runners, err
	})
}

// peakMemory is the most that a process has had in memory, in MiB.
func peakMemory(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kilobytes, err := strconv.ParseFloat(fields[1], 64)
			return kilobytes / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d does not tell its memory", pid)
}

// processorTime is what a process has used, with those of its children that have ended.
func processorTime(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100, nil // a tick is a hundredth on every Linux
}

// stat is what the kernel tells of a process, from its state on; its parent is the second field.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])), nil
}

// familyTime is the processor time of a process and of all its children.
func familyTime(pid int) (time.Duration, error) {
	total, err := processorTime(pid)
	if err != nil {
		return 0, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fields, err := stat(child)
		if err != nil || fields[1] != strconv.Itoa(pid) {
			continue // not a child, or gone by now
		}
		if used, err := processorTime(child); err == nil {
			total += used
		}
	}
	return total, nil
}
