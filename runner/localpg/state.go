package localpg

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Pid is the server's process, 0 where none runs. It is read from the cluster's own postmaster.pid and believed only where that
// process is alive and, where it can be seen, at home in this cluster: a number left by a crash may be somebody else's by now.
func (s *Server) Pid() int {
	text, err := os.ReadFile(filepath.Join(s.DataDir(), "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 || !s.isServer(pid) {
		return 0
	}
	return pid
}

func (s *Server) isServer(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	at, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if errors.Is(err, fs.ErrNotExist) { // ended just now, or there is no /proc here at all
		_, noProc := os.Stat("/proc/self")
		return noProc != nil
	}
	if err != nil {
		return true // root in a container may not look, so the signal has to do
	}
	return at == s.DataDir()
}

func (s *Server) readState() error {
	password, err := os.ReadFile(s.path("password"))
	if err != nil {
		return err
	}
	s.password = strings.TrimSpace(string(password))
	port, err := os.ReadFile(s.path("port"))
	if err != nil {
		return nil // it has never run
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(port)))
	if err != nil {
		return fmt.Errorf("%s: %w", s.path("port"), err)
	}
	s.setPort(number)
	return nil
}

// writeSettings writes what postgresql.conf includes, before each start.
func (s *Server) writeSettings() error {
	settings := s.settings()
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	if err := os.WriteFile(s.path("settings.conf"), []byte(text.String()), 0o644); err != nil { //nolint:gosec // the server has another account, and no secret is in it
		return err
	}
	return os.WriteFile(s.path("port"), []byte(strconv.Itoa(s.Port())+"\n"), 0o600)
}

func (s *Server) settings() map[string]string {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.Port()),
		"unix_socket_directories": "",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"log_line_prefix":         "%m [%p] %d %a ",
		"max_worker_processes":    "32",
	}
	if !s.opt.Durable {
		maps.Copy(settings, map[string]string{"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})
	}
	if s.opt.Cron {
		// Background workers need no pg_hba entry and no password. The default of five at once would be too few for many databases.
		maps.Copy(settings, map[string]string{
			"shared_preload_libraries":    "pg_cron",
			"cron.database_name":          cmp.Or(s.opt.CronDatabase, "postgres"),
			"cron.use_background_workers": "on",
			"cron.max_running_jobs":       "20",
		})
	}
	maps.Copy(settings, s.opt.Settings)
	return settings
}

// freePort returns the port that was used before where it is still free, or another one.
func freePort(before int) (int, error) {
	for _, port := range []int{before, 0} {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		free := listener.Addr().(*net.TCPAddr).Port
		return free, listener.Close()
	}
	return 0, errors.New("no port is free on 127.0.0.1")
}
