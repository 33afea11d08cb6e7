package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNoBaseBackup says that the PostgreSQL that was found has no pg_basebackup, without which there is no standby.
var ErrNoBaseBackup = errors.New("pg_basebackup is not installed for this PostgreSQL")

// Standby starts a copy of this server, which runs, that follows it: what is committed here arrives there. The copy has the same
// password; its options are its own. Promote makes it a server of its own.
func (s *Server) Standby(ctx context.Context, opt Options) (*Server, error) {
	standby := &Server{bin: s.bin, opt: opt, password: s.password}
	if !isFile(s.bin, "pg_basebackup") {
		return nil, ErrNoBaseBackup
	}
	err := standby.makeHome()
	if err == nil {
		err = standby.copyOf(ctx, s)
	}
	if err == nil {
		err = standby.launch(ctx)
	}
	if err != nil {
		standby.removeTemporary()
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	return standby, nil
}

// copyOf fills the folder. The copy's postgresql.conf includes the settings beside it, its own.
func (s *Server) copyOf(ctx context.Context, primary *Server) error {
	if err := os.WriteFile(s.path("password"), []byte(s.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := s.who.own(s.home); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "pg_basebackup"), "-D", s.DataDir(), "-h", "127.0.0.1", "-p", strconv.Itoa(primary.Port()), //nolint:gosec // the operator's own PostgreSQL
		"-U", "postgres", "--checkpoint", "fast", "--wal-method", "stream", "--write-recovery-conf", "--no-sync")
	cmd.Dir, cmd.SysProcAttr, cmd.Env = "/", apart(s.who), append(os.Environ(), "PGPASSWORD="+primary.password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Promote makes a standby a server of its own, which takes writes, and returns when it does.
func (s *Server) Promote(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "pg_ctl"), "promote", "-D", s.DataDir(), "--wait", "--timeout", "60") //nolint:gosec // the operator's own PostgreSQL
	cmd.Dir, cmd.SysProcAttr = "/", apart(s.who)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_ctl promote: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Kill ends the server as the loss of its machine would: SIGKILL to the postmaster and to each of its processes. It returns when they
// are gone. Where there is no /proc, the others end by themselves once they notice. Restart starts it again, and takes away the shared
// memory that is left behind.
func (s *Server) Kill() error {
	pid := s.Pid()
	if pid == 0 {
		return nil
	}
	family := append([]int{pid}, children(pid)...)
	for _, member := range family {
		if s.isServer(member) {
			_ = syscall.Kill(member, syscall.SIGKILL) // it may have ended just now
		}
	}
	for _, member := range family {
		if !s.ends(context.Background(), member, 30*time.Second) {
			return fmt.Errorf("process %d of the server in %s does not end", member, s.home)
		}
	}
	return s.forgetChild(30 * time.Second)
}

func children(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		if child, err := strconv.Atoi(field); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}
