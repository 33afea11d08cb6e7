// Package limits tests the rate limiter from outside, with a real redis-server that is killed, paused, wiped and started again.
package limits

import (
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Conditions are looked at this often, and waited for that long.
const (
	every  = 5 * time.Millisecond
	within = time.Minute
)

// hourly is so slow that nothing comes back while a test runs.
var hourly = limit.Rule{Task: "mail.send", Rate: 1, Period: time.Hour, Burst: 3}

// limiter is one of a runner's, with what it says.
type limiter struct {
	*limit.Limiter
	t    *testing.T
	logs *test.Hook
	seen *seen
}

// seen counts what an observer is told.
type seen struct {
	mu       sync.Mutex
	decided  map[string]int
	later    map[string]int
	failures int
	switches []bool
}

func (s *seen) Decided(source string, requests, later int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decided[source] += requests
	s.later[source] += later
}

func (s *seen) RedisFailed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures++
}

func (s *seen) Switched(local bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.switches = append(s.switches, local)
}

// from returns how many were decided by redis or local, and how many of them put off.
func (s *seen) from(source string) (requests, later int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decided[source], s.later[source]
}

// newLimiter returns one that may have to wait longer for Redis than a runner does: on a busy machine 50 ms mean nothing.
func newLimiter(t *testing.T, server *pgtest.RedisServer) *limiter {
	t.Helper()
	return newLimiterWith(t, server, limit.Options{Timeout: 10 * time.Second})
}

// newLimiterWith returns when it has found Redis.
func newLimiterWith(t *testing.T, server *pgtest.RedisServer, opt limit.Options) *limiter {
	t.Helper()
	l := open(t, server, opt)
	l.awaitRedis()
	return l
}

func open(t *testing.T, server *pgtest.RedisServer, opt limit.Options) *limiter {
	t.Helper()
	client, err := limit.ConnectTrusting(server.URL, server.Roots)
	require.NoError(t, err)
	log, hook := test.NewNullLogger()
	l := &limiter{t: t, logs: hook, seen: &seen{decided: map[string]int{}, later: map[string]int{}}}
	limit.LogLibrary(logrus.NewEntry(log))
	opt.Redis, opt.Log, opt.Observer = client, logrus.NewEntry(log), l.seen
	l.Limiter = limit.New(opt)
	t.Cleanup(func() {
		l.Close()
		require.NoError(t, client.Close())
	})
	return l
}

func (l *limiter) awaitRedis() {
	l.t.Helper()
	require.Eventually(l.t, l.HasRedis, within, every, "%s", lazily(func() string { _, _, why := l.Local(); return why }))
}

// lazily is asked for its text only when it is printed.
type lazily func() string

func (l lazily) String() string { return l() }

func (l *limiter) awaitLocal(ask func()) {
	l.t.Helper()
	require.Eventually(l.t, func() bool {
		ask()
		return !l.HasRedis()
	}, within, every)
}

// ask is one request of one job.
func (l *limiter) ask(rule limit.Rule, token string) limit.Decision {
	l.t.Helper()
	return l.askKey(rule, "", token)
}

func (l *limiter) askKey(rule limit.Rule, key, token string) limit.Decision {
	l.t.Helper()
	return l.Decide(l.t.Context(), []limit.Request{{Rule: rule, Key: key, Reserved: token}})[0]
}

// batch asks for so many jobs at once.
func (l *limiter) batch(rule limit.Rule, n int) []limit.Decision {
	l.t.Helper()
	requests := make([]limit.Request, n)
	for i := range requests {
		requests[i] = limit.Request{Rule: rule, JobID: int64(i)}
	}
	return l.Decide(l.t.Context(), requests)
}

func started(decisions []limit.Decision) (n int) {
	for _, d := range decisions {
		if d.OK {
			n++
		}
	}
	return n
}

// said lists the messages of a level.
func (l *limiter) said(level logrus.Level) (all []string) {
	for _, entry := range l.logs.AllEntries() {
		if entry.Level == level {
			all = append(all, entry.Message)
		}
	}
	return all
}
