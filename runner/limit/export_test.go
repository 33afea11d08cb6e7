package limit

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// What the tests of this folder need of the inside. They are a package of their own, since tests/pgtest knows the engine, which knows this one.

const (
	MinSlack  = minSlack
	MaxPeriod = maxPeriod
)

// NewSimulated returns a limiter whose clock is the given one, and Redis's too: its script is the real one but for where it reads the time. It is as after
// its first probe, and nothing goes on in the background.
func NewSimulated(opt Options, epoch time.Time, now func() time.Duration) *Limiter {
	l := newLimiter(opt)
	l.now = now
	l.retry = func(time.Duration) {}
	if l.script != nil {
		l.link.up, l.link.met = true, true
		l.script = newScript(opt.Redis, strings.Replace(decideLua, "redis.call('TIME')", "{ARGV[12], ARGV[13]}", 1), nonce())
		l.script.extra = func() []any {
			at := epoch.Add(now()).UnixMicro()
			return []any{at / 1_000_000, at % 1_000_000}
		}
	}
	return l
}

// Fail is what a batch without an answer does.
func (l *Limiter) Fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed(errors.New("down"))
}

// Lose is what several in a row do.
func (l *Limiter) Lose() {
	for range failuresInARow {
		l.Fail()
	}
}

// Find is what the background does now and then.
func (l *Limiter) Find() bool { return l.tryAgain(l.ctx) }

// Key of a request in Redis.
func (l *Limiter) Key(r Request) string { return l.key(&r) }

// Buckets is how many there are.
func (l *Limiter) Buckets() int { return len(l.buckets.all) }

// Interval of a rule.
func (r Rule) Interval() time.Duration { return r.interval(1) }

// Name of a rule in Redis.
func (r Rule) Name() string { return r.terms().name }

// TimeOf is the time that a token reserves, in microseconds.
func TimeOf(token string) int64 {
	_, at := parseToken(token)
	n, _ := strconv.ParseInt(at, 10, 64)
	return n
}
