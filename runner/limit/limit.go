// Package limit keeps rate limits: so many jobs of a task, or of a task and a key, in a period, whoever starts them.
//
//   - All limiters that share a Redis and a prefix share each limit. In any time t, rate × t + burst jobs start at most, whatever comes late; where
//     the burst is less than what the rate gives in 100 ms, that much counts instead. A Redis that forgets allows one more burst.
//   - Jobs over their limit get the time at which they may start, in the order in which they asked, and a token that reserves it.
//   - No decision fails. Without Redis each limiter goes on by itself, at its share of the limit (SetShare), from an empty bucket; and so it does
//     for a while after Redis is back (Options.Handover), since others may not have noticed yet.
//   - Nothing that is decided waits for Redis longer than Options.Timeout.
package limit

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
)

// Options of a limiter; the zero value is one without Redis.
type Options struct {
	Redis    redis.UniversalClient // nil: there is none. It stays the caller's, who closes it after the limiter
	Log      *logrus.Entry         // nil: the standard logger
	Prefix   string                // of the keys in Redis: what tells databases apart; "" means "pgtick:"
	Timeout  time.Duration         // for a whole batch; 0 means 50 ms
	Handover time.Duration         // how long the local share counts as well when Redis is back: longer than it takes all to learn of it; 0 means 15 s
	Observer Observer              // nil: nobody is told
}

// Observer is told what a limiter does. Its methods must not block.
type Observer interface {
	// Decided: so many requests were decided, by "redis" or "local"; that many of them may not start yet.
	Decided(source string, requests, later int)
	// RedisFailed: a batch got no answer, or an error for one.
	RedisFailed()
	// Switched: from now on decisions are made locally, or by Redis.
	Switched(local bool)
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	o.Prefix = cmp.Or(o.Prefix, "pgtick:")
	o.Timeout = cmp.Or(o.Timeout, 50*time.Millisecond)
	o.Handover = cmp.Or(o.Handover, 15*time.Second)
	return o
}

type nobody struct{}

func (nobody) Decided(string, int, int) {}
func (nobody) RedisFailed()             {}
func (nobody) Switched(bool)            {}

// Request asks whether a job may start now.
type Request struct {
	Rule     Rule
	Key      string // what jobs of the task are told apart by, each with the whole rule to itself; "" for all
	JobID    int64
	Reserved string // the token of the job's last decision, or ""
}

// Decision answers a request.
type Decision struct {
	OK       bool
	Wait     time.Duration // when not OK: ask again so much later
	Reserved string        // when not OK: the token to bring along then, or ""
}

const (
	// Where Redis may be back at any moment, no job is put off for longer: the time that it gets from Redis is better.
	longestLocal = time.Minute
	// After an answer that did not come, and before Redis is given up.
	afterFailure = 250 * time.Millisecond
	// A rule that cannot be kept. Whoever made it has been told; the log says it once more.
	afterBadRule = time.Minute
)

// Limiter decides; it may be used by many at once.
type Limiter struct {
	opt     Options
	script  *script
	started time.Time
	now     func() time.Duration // since started; monotonic

	ctx   context.Context // of what goes on in the background, until Close
	stop  context.CancelFunc
	wait  sync.WaitGroup
	retry func(pause time.Duration) // has Redis probed until it answers

	mu      sync.Mutex
	runners int
	link    link
	buckets buckets
	rules   map[Rule]*terms // nil: it cannot be kept
}

// New returns a limiter that looks for its Redis in the background. Close ends that.
func New(opt Options) *Limiter {
	l := newLimiter(opt)
	l.retry = l.background
	if l.script != nil {
		l.retry(0)
	}
	return l
}

func newLimiter(opt Options) *Limiter {
	l := &Limiter{opt: opt.withDefaults(), started: time.Now(), runners: 1, rules: map[Rule]*terms{}, buckets: buckets{all: map[place]*bucket{}}}
	l.now = func() time.Duration { return time.Since(l.started) }
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.link = link{first: make(chan struct{}), why: "no Redis is configured"}
	if opt.Redis != nil {
		l.script = newScript(opt.Redis, decideLua, nonce())
		l.link.why = "Redis has not been reached yet"
	}
	return l
}

func nonce() string {
	bytes := make([]byte, 8)
	_, _ = rand.Read(bytes) // never fails
	return hex.EncodeToString(bytes)
}

// Close ends what goes on in the background, and returns when it has. Decisions are still answered.
func (l *Limiter) Close() {
	l.mu.Lock()
	l.stop()
	l.mu.Unlock()
	l.wait.Wait()
}

// SetShare says how many live runners share the limits, this one included, and whether one of them is without Redis, so that all must decide
// locally. Until the first call there is one.
func (l *Limiter) SetShare(runners int, forceLocal bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runners = max(1, runners)
	if l.link.forced != forceLocal {
		l.change(func(k *link) { k.forced = forceLocal })
	}
}

// Local tells whether decisions are made locally at present, since when, and why.
func (l *Limiter) Local() (local bool, since time.Time, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.local() {
		return false, time.Time{}, ""
	}
	if l.link.up {
		why = "another runner is without Redis"
	} else {
		why = l.link.why
	}
	return true, l.started.Add(l.link.localSince), why
}

// HasRedis tells whether this limiter's own Redis answers: what its runner is to say of itself to the others. (Local is also true when others have
// none; to report that would keep all of them local for ever.)
func (l *Limiter) HasRedis() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.link.up
}

// Decide answers each request, in order, after one round trip to Redis. It never fails.
func (l *Limiter) Decide(ctx context.Context, requests []Request) []Decision {
	decisions := make([]Decision, len(requests))
	if len(requests) == 0 {
		return decisions
	}
	l.meet(ctx)
	calls, asked := l.prepare(requests, decisions)
	if len(calls) > 0 {
		l.ask(ctx, requests, decisions, calls, asked)
	}
	return decisions
}

// prepare decides what is decided here, and returns what Redis is to be asked, with its places among the requests.
func (l *Limiter) prepare(requests []Request, decisions []Decision) (calls []call, asked []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, local := l.now(), l.local()
	handover := !local && now < l.link.handover
	if !local && !handover && len(l.buckets.all) > 0 {
		l.buckets.tidy(now)
	}
	here, later := 0, 0
	for i := range requests {
		r := &requests[i]
		t := l.terms(r.Rule)
		if t == nil {
			decisions[i] = Decision{Wait: afterBadRule, Reserved: r.Reserved}
			continue
		}
		if local || handover {
			decisions[i] = l.decideHere(r, now)
			if local || !decisions[i].OK {
				here++
				later += count(!decisions[i].OK)
				continue
			}
		}
		if calls == nil {
			calls, asked = make([]call, 0, len(requests)-i), make([]int, 0, len(requests)-i)
		}
		c := call{key: l.key(r), terms: *t, empty: l.buckets.owes(placeOf(r), now)}
		c.generation, c.at = parseToken(r.Reserved)
		calls, asked = append(calls, c), append(asked, i)
	}
	if here > 0 {
		l.opt.Observer.Decided("local", here, later)
	}
	return calls, asked
}

// decideHere: the token that a job brings is of no use here, but may be when Redis is back, so the job keeps it.
func (l *Limiter) decideHere(r *Request, now time.Duration) Decision {
	longest := time.Duration(1<<63 - 1)
	if l.script != nil {
		longest = longestLocal
		if rest := l.link.handover - now; rest > 0 {
			longest = min(longest, rest)
		}
	}
	ok, wait := l.buckets.take(placeOf(r), r.Rule, l.runners, now, longest)
	if ok {
		if l.local() { // in a handover Redis is asked as well
			l.buckets.owe(placeOf(r))
		}
		return Decision{OK: true}
	}
	return Decision{Wait: wait, Reserved: r.Reserved}
}

// ask fills in what Redis says, or what is to be done where it says nothing.
func (l *Limiter) ask(ctx context.Context, requests []Request, decisions []Decision, calls []call, asked []int) {
	within, end := context.WithTimeout(ctx, l.opt.Timeout)
	defer end()
	answers, err := l.script.decide(within, calls)
	if err == nil {
		l.take(requests, decisions, answers, calls, asked)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() == nil { // otherwise the caller has lost patience, which says nothing of Redis
		l.failed(err)
	}
	now := l.now()
	for _, i := range asked {
		if decisions[i].OK { // by the share, in a handover: let it not be lost
			l.buckets.giveBack(placeOf(&requests[i]))
		}
		decisions[i] = Decision{Wait: afterFailure, Reserved: requests[i].Reserved}
		if l.local() {
			decisions[i] = l.decideHere(&requests[i], now)
		}
	}
	if l.local() {
		l.opt.Observer.Decided("local", len(asked), later(decisions, asked))
	}
}

func (l *Limiter) take(requests []Request, decisions []Decision, answers []answer, calls []call, asked []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link.failures = 0
	for n, i := range asked {
		at := placeOf(&requests[i])
		if calls[n].empty {
			l.buckets.settled(at)
		}
		if answers[n].ok {
			decisions[i] = Decision{OK: true}
			continue
		}
		if decisions[i].OK {
			l.buckets.giveBack(at)
		}
		decisions[i] = Decision{Wait: answers[n].delay(), Reserved: cmp.Or(answers[n].token, requests[i].Reserved)}
	}
	l.opt.Observer.Decided("redis", len(asked), later(decisions, asked))
}

func later(decisions []Decision, which []int) (n int) {
	for _, i := range which {
		n += count(!decisions[i].OK)
	}
	return n
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// terms of a rule, worked out once; nil where it cannot be kept.
func (l *Limiter) terms(r Rule) *terms {
	if t, known := l.rules[r]; known {
		return t
	}
	if len(l.rules) >= 10_000 { // rules of long ago
		clear(l.rules)
	}
	if err := r.Check(); err != nil {
		l.opt.Log.WithField("task", r.Task).WithError(err).Error("a limit that cannot be kept: its jobs wait")
		l.rules[r] = nil
		return nil
	}
	t := r.terms()
	l.rules[r] = &t
	return &t
}

func placeOf(r *Request) place { return place{r.Rule.Task, r.Key} }

// key names a place. The length keeps task "a:b" and key "c" apart from task "a" and key "b:c".
func (l *Limiter) key(r *Request) string {
	return l.opt.Prefix + "limit:" + strconv.Itoa(len(r.Rule.Task)) + ":" + r.Rule.Task + ":" + r.Key
}
