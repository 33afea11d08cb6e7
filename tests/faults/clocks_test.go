package faults

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// stepDatabaseClock moves what pgtick.now() answers, by which leases, run_at and slots are judged. What waits for a time that has been there once
// waits until it is there again, so the last step goes beyond all of them.
func stepDatabaseClock(t *testing.T, n int) *world {
	db := pgtest.New(t)
	w := busy(t, db)
	w.moved = true
	w.do(`select pgtick.schedule('each second', '@every 1s', 'fault.slot', p_on_missed => 'once', p_on_overlap => 'allow', p_max_attempts => 500, p_timeout => '20 seconds')`)
	w.fleet(2)
	w.ready()
	var at, farthest time.Duration
	for range n {
		step := time.Duration(rand.Int64N(int64(2*time.Hour))) - time.Hour
		at += step
		farthest = max(farthest, at)
		db.Advance(t, step)
		w.answers()
	}
	db.Advance(t, farthest-at+time.Minute)
	w.answers()
	return w
}

// answers is a probe by this process's own clock.
func (w *world) answers() {
	w.t.Helper()
	from, before := time.Now(), len(w.took)
	w.probe()
	w.took[before] = time.Since(from)
}

// stepRunnerClock moves the runners' wall clocks, and leaves those of the server and of the machine alone. Go asks the kernel without the C
// library, where libfaketime would be heard; so the runner is built with a package time whose Now adds what a file says. As on a machine
// whose clock is set, the monotonic clock, by which Go waits, goes on.
func stepRunnerClock(t *testing.T, n int) *world {
	program := withStepsOfTheClock(t)
	offset := filepath.Join(t.TempDir(), "offset")
	set := func(seconds int64) {
		require.NoError(t, os.WriteFile(offset+".new", fmt.Appendf(nil, "%d", seconds), 0o600))
		require.NoError(t, os.Rename(offset+".new", offset))
	}
	set(0)
	w := busy(t, pgtest.New(t))
	w.env = []string{"PGTICK_CLOCK_OFFSET=" + offset}
	first := w.workOf(program)
	w.workOf(program)
	w.ready()
	set(400 * 24 * 3600)
	w.probe()
	require.Eventually(t, func() bool { // the time of a log's line
		return strings.Contains(w.logs(first), time.Now().AddDate(0, 0, 400).Format("time=\"2006-01-02"))
	}, within, every, "the runner does not see the step")
	for range n {
		set(rand.Int64N(2*24*3600) - 24*3600)
		w.probe()
	}
	return w
}

// logs makes the runner say something.
func (w *world) logs(p *process) string {
	w.t.Helper()
	w.do(`select pg_terminate_backend(a.pid) from pg_stat_activity as a where a.datname = current_database() and a.usename = 'pgtick_runner'`)
	return p.said()
}

const (
	nowOfGo  = "	sec, nsec, mono := runtimeNow()\n	if mono == 0 {\n		return Time{uint64(nsec), sec + unixToInternal, Local}"
	stepOfGo = `
var step atomic.Int64

// A timer that fires asks for the time where no file may be read.
func init() {
	go func() {
		path, _ := syscall.Getenv("PGTICK_CLOCK_OFFSET")
		for ; path != ""; Sleep(5 * Millisecond) {
			if fd, err := open(path); err == nil {
				step.Store(number(fd))
				closefd(fd)
			}
		}
	}()
}

func number(fd uintptr) (n int64) {
	var text [24]byte
	size, _ := read(fd, text[:])
	sign := int64(1)
	for _, c := range text[:max(size, 0)] {
		if c == '-' {
			sign = -1
		} else if '0' <= c && c <= '9' {
			n = 10*n + int64(c-'0')
		}
	}
	return sign * n
}
`
)

func withStepsOfTheClock(t *testing.T) (program string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	require.NoError(t, err)
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	require.NoError(t, err)
	if strings.Count(string(text), nowOfGo) != 1 {
		t.Skip("this Go's time.Now is not the one that this test knows")
	}
	patched := strings.Replace(string(text), nowOfGo, strings.Replace(nowOfGo, "runtimeNow()\n", "runtimeNow()\n	sec += step.Load()\n", 1), 1)
	patched = strings.Replace(patched, "	\"math/bits\"\n", "	\"math/bits\"\n	\"sync/atomic\"\n	\"syscall\"\n", 1) + stepOfGo
	dir := t.TempDir()
	replacement, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(replacement, []byte(patched), 0o600))
	said, err := json.Marshal(map[string]map[string]string{"Replace": {original: replacement}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, said, 0o600))
	program = filepath.Join(dir, "stepped")
	require.NoError(t, build(".", program, "-overlay="+overlay))
	return program
}
