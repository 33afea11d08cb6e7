package faults

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/faults/proxy"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// What is here completes the tests of other packages: docs/faults.md lists, rule by rule, which test holds it.

// still is a database in which only what a test asks for happens.
func still(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, pgtest.New(t))
	w.do("select pgtick.unschedule('each second')")
	w.db.Quiet(t)
	w.args = usual
	return w
}

func (w *world) enqueue(task, args string) int64 {
	w.t.Helper()
	return ask[int64](w, "select pgtick.enqueue($1, $2::jsonb)", task, args)
}

// outcomes of a job's attempts, in order.
func (w *world) outcomes(id int64) string {
	w.t.Helper()
	return ask[string](w, "select string_agg(format('%s %s', a.attempt, a.outcome), ', ' order by a.attempt) from pgtick.attempts as a where a.job_id = $1", id)
}

const isDone = "select exists (select from pgtick.history as h where h.id = $1 and h.state = 'done')"

// calls finds the requests that run a statement with this text: the message after the one that prepares it, on the same link.
type calls struct {
	text []byte

	mu       sync.Mutex
	prepared map[*proxy.Link]bool
}

func (c *calls) is(l *proxy.Link, piece []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Contains(piece, c.text) {
		c.prepared[l] = true
		return false
	}
	was := c.prepared[l]
	delete(c.prepared, l)
	return was
}

// Rule 1: the worker gives up waiting for the answer to a claim, asks what it holds, and only then the claim reaches the server, which gives a job
// to nobody who listens. A lease later the runner asks again.
func TestRule1_AClaimThatReachesTheServerLate_IsGivenBackALeaseLater(t *testing.T) {
	t.Parallel()
	w := still(t)
	claims := &calls{text: []byte("pgtick.claim_lanes("), prepared: map[*proxy.Link]bool{}}
	held := make(chan chan struct{}, 10)
	way := proxy.StartWith(t, w.db.URL, func(l *proxy.Link, from proxy.Side, piece []byte) (pass []byte, cut bool) {
		if from == proxy.FromClient && claims.is(l, piece) {
			goOn := make(chan struct{})
			select {
			case held <- goOn:
				<-goOn
			case <-t.Context().Done():
			}
		}
		return piece, false
	})
	w.runners = way.URL(w.runners)
	p := w.work("--lease=6s")
	late := <-held
	next := <-held // it has given up the first one, and asked at once what it holds
	id := w.enqueue("fault.plain", "{}")
	close(late)
	w.becomes("select j.runner_id is not null from pgtick.live_jobs as j where j.id = $1", id)
	close(next)
	go func() {
		for goOn := range held {
			close(goOn)
		}
	}()
	t.Cleanup(func() { p.end(); close(held) })
	w.becomes(isDone, id)
	require.Equal(t, "1 done", w.outcomes(id), "what it never heard of was no attempt")
	require.Equal(t, 1, ask[int](w, "select count(*) from pgtick.runner_leases"), "it was not declared dead")
	w.until("the runner says so", func(context.Context) bool { return p.says("gave back 1 claims whose answer was lost") })
}

// Rule 1: the database has taken a report, and the runner does not know. It reports again, and nothing changes.
func TestRule1_AReportWhoseAnswerIsLost_IsSentAgain_AndCountsOnce(t *testing.T) {
	t.Parallel()
	w := still(t)
	reports := &calls{text: []byte("pgtick.finish"), prepared: map[*proxy.Link]bool{}}
	var dropped atomic.Int64
	var victim atomic.Pointer[proxy.Link]
	way := proxy.StartWith(t, w.db.URL, func(l *proxy.Link, from proxy.Side, piece []byte) (pass []byte, cut bool) {
		if from == proxy.FromClient {
			if reports.is(l, piece) && dropped.Load() == 0 {
				victim.Store(l)
			}
			return piece, false
		}
		if victim.CompareAndSwap(l, nil) {
			dropped.Add(1)
			return nil, true
		}
		return piece, false
	})
	w.runners = way.URL(w.runners)
	w.work()
	id := w.enqueue("fault.plain", "{}")
	w.becomes(isDone, id)
	w.until("the answer is lost", func(context.Context) bool { return dropped.Load() == 1 })
	next := w.enqueue("fault.plain", "{}")
	w.becomes(isDone, next)
	for _, job := range []int64{id, next} {
		require.Equal(t, "1 done", w.outcomes(job))
	}
	text, err := readFile(filepath.Dir(w.journal), filepath.Base(w.journal))
	require.NoError(t, err)
	require.Len(t, strings.Split(text, "\n"), 2, "each ran once: %s", text)
	require.Zero(t, ask[int](w, "select coalesce(sum(r.refused), 0)::int from pgtick.runner_leases as r"), "a report sent again is accepted")
}

// Rules 2 and 3: the task has written, the claim was checked under lock, and the runner freezes before its commit leaves it. The server ends its
// session after a lease, so that the job goes to another, and what the zombie sends afterwards meets nobody.
func TestRule2_ARunnerFrozenBetweenCheckAndCommit_KeepsNoLock_AndWritesNothing(t *testing.T) {
	t.Parallel()
	w := still(t)
	direct := w.runners
	atCommit, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	way := proxy.StartWith(t, w.db.URL, func(_ *proxy.Link, from proxy.Side, piece []byte) (pass []byte, cut bool) {
		if from == proxy.FromClient && bytes.Contains(piece, commitMessage) {
			once.Do(func() {
				close(atCommit)
				<-goOn
			})
		}
		return piece, false
	})
	w.runners = way.URL(direct)
	zombie := w.work()
	id := w.enqueue("fault.effect", `{"token": 1}`)
	<-atCommit
	zombie.signal(syscall.SIGSTOP)
	require.Equal(t, 1, ask[int](w, `select count(*) from pg_stat_activity as a join pg_locks as l using (pid)
		where a.datname = current_database() and a.state = 'idle in transaction' and l.relation = 'pgtick.live_jobs'::regclass and l.mode = 'RowShareLock' and l.granted`), "it holds the job's row")
	w.runners = direct
	healthy := w.work()
	w.becomes(isDone, id)
	zombie.signal(syscall.SIGCONT)
	close(goOn)
	w.until("the zombie has heard of it", func(context.Context) bool { return zombie.says("declared dead") })
	w.becomes(isDone, w.enqueue("fault.effect", `{"token": 2}`))
	require.Equal(t, "1 lost, 2 done", w.outcomes(id))
	require.Equal(t, 1, ask[int](w, "select count(*) from faults.effects where job_id = $1 and attempt = 2", id))
	require.Equal(t, 2, ask[int](w, "select count(*) from faults.effects"))
	require.Equal(t, healthy.name, ask[string](w, "select a.runner from pgtick.attempts as a where a.job_id = $1 and a.attempt = 2", id))
}

// Rule 4: one job that ends its runner, in the middle of five hundred that are held with it. It fails in the end, with the reason, and takes none of
// the others with it. Those are suspects then, too, and taken one at a time; the next as soon as one has ended, not with the next poll.
func TestRule4_APoisonJobAmongFiveHundred_FailsAlone(t *testing.T) {
	t.Parallel()
	w := still(t)
	w.do("select pgtick.enqueue(case when i = 250 then 'test.exit' else 'fault.plain' end, case when i <> 250 then '{\"ms\": 10}' else '{}' end::jsonb) from generate_series(1, 500) as i")
	poison := ask[int64](w, "select j.id from pgtick.live_jobs as j where j.task = 'test.exit'")
	deaths := 0
	for over := false; !over; {
		p := w.work("--lease=1s", "--poll=1m", "--workers=500")
		w.until("the runner dies, or nothing is left to do", func(context.Context) bool {
			select {
			case <-p.done:
				deaths++
				return true
			default:
				over = ask[bool](w, "select not exists (select from pgtick.live_jobs)")
				return over
			}
		})
		require.LessOrEqual(t, deaths, 6, "it kills for ever")
	}
	require.Contains(t, ask[string](w, "select j.last_error ->> 'message' from pgtick.jobs as j where j.id = $1 and j.state = 'failed'", poison), "three runners died")
	require.Equal(t, 499, ask[int](w, "select count(*) from pgtick.jobs as j where j.task = 'fault.plain' and j.state = 'done'"))
	require.GreaterOrEqual(t, ask[int](w, "select count(distinct a.job_id) from pgtick.attempts as a where a.outcome = 'lost'"), 100, "many were held with it when it first killed")
	t.Logf("%d runners died", deaths)
}

// Rule 4: a job that kills nobody, but was held each time as its runner's one suspect when that was killed, can't be told from one that does. It is
// set aside with its losses on record, and done when somebody retries it.
func TestRule4_AnInnocentJob_OfWhichFiveRunnersWereKilled_IsSetAside_AndDoneWhenRetried(t *testing.T) {
	t.Parallel()
	w := still(t)
	w.args = []string{"--lease=1s", "--poll=500ms"}
	id := w.enqueue("fault.plain", `{"ms": 1000}`)
	for range 5 {
		p := w.work()
		w.holding(p)
		p.kill()
	}
	w.work()
	w.quiet()
	require.Equal(t, 1, w.setAside)
	require.Equal(t, "1 lost, 2 lost, 3 lost, 4 lost, 5 failed, 6 done", w.outcomes(id))
}

// The page that says which tests hold a rule names tests that exist.
func TestRules_TheTestsThatThePageNames_Exist(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "faults.md"))
	require.NoError(t, err)
	there := map[string]bool{}
	definition := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)
	for _, folder := range []string{"..", filepath.Join("..", "..", "runner")} {
		files, err := filepath.Glob(filepath.Join(folder, "*", "*_test.go"))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, found := range definition.FindAllStringSubmatch(string(text), -1) {
				there[found[1]] = true
			}
		}
	}
	named := regexp.MustCompile("`(Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(named), 50)
	for _, found := range named {
		require.True(t, there[found[1]], "docs/faults.md names %s, and there is no such test", found[1])
	}
	for _, f := range all() {
		require.Contains(t, string(page), "| "+f.name+" |", "the table of docs/faults.md has no row for it")
	}
}
