package faults

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fault is one way in which something breaks. run injects it n times into a world of its own.
type fault struct {
	name  string
	short int           // how often in "make test"; 0: only at length
	full  int           // and in "make faults"
	bound time.Duration // of the recovery from each
	run   func(t *testing.T, n int) *world
}

// The runners of most faults: a lease that is over soon, and a poll that is not.
const lease = 2 * time.Second

var (
	usual      = []string{"--lease=2s", "--poll=1s"}
	deadWithin = lease*3/2 + 10*time.Second
)

const (
	backWithin     = 5 * time.Second  // the first claim, once the server is back
	halfOpenWithin = 15 * time.Second // and over connections that died without a word
)

func all() []fault {
	return []fault{
		{"SIGKILL of a runner", 3, 1000, deadWithin, killRunners},
		{"SIGSTOP of a runner past its lease, and SIGCONT", 2, 500, deadWithin, freezeRunners},
		{"pg_terminate_backend of a random session", 15, 1000, backWithin, terminateSessions},
		{"immediate stop and restart of the server", 2, 200, backWithin, restartServer},
		{"SIGKILL of one process of the server", 0, 100, backWithin, killBackends},
		{"connection cut at each byte of a commit and of its answer", bytesOfCommit, 10 * bytesOfCommit, backWithin, cutCommits},
		{"the server's answer lost", 10, 500, backWithin, loseAnswers},
		{"connections half open", 0, 50, halfOpenWithin, forgetConnections},
		{"connections slow (20 ms each way), and cut", 0, 50, backWithin, slowConnections},
		{"notifications lost", 3, 100, backWithin, notified(0)},
		{"notifications lost or tripled by chance", 3, 100, backWithin, notified(0, 3)},
		{"notification queue full", 0, 5, backWithin, fillNotifications},
		{"PgBouncer restarted (transaction mode)", 0, 50, backWithin, restartPgBouncer},
		{"Redis killed, paused, wiped", 0, 30, backWithin, breakRedis},
		{"disk full", 0, 5, backWithin, fillDisk},
		{"max_connections used up", 0, 20, backWithin, takeConnections},
		{"statement_timeout and lock_timeout of 100 ms, rows locked", 0, 200, backWithin, lockRows},
		{"steps of pgtick.now() by up to an hour", 0, 50, backWithin, stepDatabaseClock},
		{"steps of the runners' clocks by up to a day", 0, 50, backWithin, stepRunnerClock},
		{"primary lost, synchronous standby promoted", 0, 10, backWithin, promoteStandby},
		{"SIGKILL of a runner beside a transaction that pins xmin", 0, 50, deadWithin, killBesideOldSnapshot},
		{"migrate killed at each of its messages", 0, 0, 0, killMigrations},
		{"SIGKILL of runners of two versions", 0, 50, deadWithin, killTwoVersions},
	}
}

func TestFaults_NothingIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	part := share()
	for _, f := range all() {
		n := f.short
		if part > 0 {
			n = int(math.Ceil(part * float64(f.full)))
		}
		if part == 0 && n == 0 {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			if part == 0 {
				t.Parallel() // at length each has the machine, since it is timed
			}
			w := f.run(t, n)
			w.quiet()
			r := w.examine(f.name, max(n, w.injected))
			r.bound = f.bound
			t.Log(r)
			for _, note := range w.notes {
				t.Log(note)
			}
			table.add(r)
			require.Equal(t, []int{0, 0, 0, 0}, []int{r.lost, r.doubled, r.slots, r.violations}, "lost, doubled, slots unaccounted, violations")
			require.Positive(t, r.jobs)
			if part > 0 && r.bound > 0 { // beside other tests no time says anything
				require.LessOrEqual(t, r.most, r.bound)
			}
		})
	}
}
