package limit_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// world is the real script in a real Redis, and real limiters, on a clock that the test moves.
type world struct {
	t      *testing.T
	server *pgtest.RedisServer
	client *redis.Client
	now    time.Duration
	random *rand.Rand
}

var epoch = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)

func newWorld(t *testing.T) *world {
	t.Helper()
	server := pgtest.Redis(t)
	options, err := redis.ParseURL(server.URL)
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return &world{t: t, server: server, client: client, now: 24 * time.Hour, random: rand.New(rand.NewPCG(seed(t), 0))}
}

func seed(t *testing.T) uint64 {
	t.Helper()
	chosen := rand.Uint64()
	if asked := os.Getenv("PGTICK_SEED"); asked != "" {
		var err error
		chosen, err = strconv.ParseUint(asked, 10, 64)
		require.NoError(t, err, "PGTICK_SEED")
	}
	t.Logf("PGTICK_SEED=%d", chosen)
	return chosen
}

// limiter returns one of the world's.
func (w *world) limiter(opt limit.Options) *limit.Limiter {
	log := logrus.New()
	log.SetOutput(io.Discard)
	opt.Redis, opt.Log, opt.Timeout = w.client, logrus.NewEntry(log), time.Minute
	l := limit.NewSimulated(opt, epoch, func() time.Duration { return w.now })
	w.t.Cleanup(l.Close)
	return l
}

// ask is a request of one job.
func (w *world) ask(l *limit.Limiter, rule limit.Rule, token string) limit.Decision {
	return l.Decide(context.Background(), []limit.Request{{Rule: rule, Reserved: token}})[0]
}

func (w *world) wipe() { require.NoError(w.t, w.client.FlushAll(context.Background()).Err()) }

// starts are the moments at which jobs started, in order.
type starts []time.Duration

// most is how many there were in any window of that length, its end included.
func (s starts) most(window time.Duration) (n int) {
	from := 0
	for i, at := range s {
		for at-s[from] > window {
			from++
		}
		n = max(n, i-from+1)
	}
	return n
}

// requireBound holds all windows against rate × t + burst, or what counts instead of a small burst, as many times as there were memories.
func (s starts) requireBound(t *testing.T, rule limit.Rule, memories int) {
	t.Helper()
	period, rate := rule.Period.Microseconds(), rule.Rate
	extra := max((rule.Burst-1)*period, rate*limit.MinSlack.Microseconds()) // in intervals × rate, each a period
	for i := range s {
		for _, j := range []int{i, min(i+1, len(s)-1), min(i+int(rule.Burst), len(s)-1), min(i+2*int(rule.Burst)+1, len(s)-1), min(i+int(rate), len(s)-1), len(s) - 1} {
			span := (s[j] - s[i]).Microseconds()
			most := (span*rate+int64(memories)*extra)/period + int64(memories)
			require.LessOrEqual(t, int64(j-i+1), most, "of %v: %d jobs from %s to %s", rule, j-i+1, s[i], s[j])
		}
	}
}

func (w *world) rule() limit.Rule {
	periods := []time.Duration{time.Second, 7 * time.Second, time.Minute, time.Hour}
	rule := limit.Rule{Task: "t", Rate: 1 + w.random.Int64N(300), Period: periods[w.random.IntN(len(periods))]}
	rule.Burst = 1 + w.random.Int64N(max(1, rule.Rate/5))
	return rule
}

// job waits for its time, and may come late to it.
type job struct {
	at    time.Duration
	token string
}

// flow lets jobs arrive, wait, come late and start. Jobs that come late come all together: that is what an outage of the runners does.
type flow struct {
	*world
	rule    limit.Rule
	waiting []job
	starts  starts
	asked   int
}

func (f *flow) arrive(n int) {
	for range n {
		f.waiting = append(f.waiting, job{at: f.now})
	}
}

// run asks for all whose time has come, in order.
func (f *flow) run(l *limit.Limiter) {
	slices.SortStableFunc(f.waiting, func(a, b job) int { return int(a.at - b.at) })
	var still []job
	for _, j := range f.waiting {
		if j.at > f.now {
			still = append(still, j)
			continue
		}
		d := f.ask(l, f.rule, j.token)
		f.asked++
		if d.OK {
			f.starts = append(f.starts, f.now)
			continue
		}
		require.Positive(f.t, d.Wait)
		still = append(still, job{at: f.now + d.Wait, token: d.Reserved})
	}
	f.waiting = still
}

func (w *world) flow(n int) *flow {
	require.NoError(w.t, w.client.FlushAll(context.Background()).Err())
	rule := w.rule()
	rule.Task = fmt.Sprintf("t%d", n)
	return &flow{world: w, rule: rule}
}

// step is some time, of the order of the rule's interval.
func (f *flow) step() time.Duration {
	interval := f.rule.Interval()
	return time.Duration(f.random.Int64N(int64(3*interval))) / time.Duration(1+f.random.IntN(20))
}

func TestScript_WhateverComesLate_NeverStartsMoreThanRateAndBurst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 60 {
		f, l := w.flow(n), w.limiter(limit.Options{})
		for range 60 {
			w.now += f.step()
			switch w.random.IntN(10) {
			case 0: // nobody was there for a while: all that waited is late
				w.now += time.Duration(w.random.Int64N(int64(20 * f.rule.Interval())))
			case 1, 2, 3:
				f.arrive(w.random.IntN(2 + int(f.rule.Burst)))
			case 4: // some are cancelled
				f.waiting = f.waiting[:len(f.waiting)/2]
			}
			f.run(l)
		}
		f.starts.requireBound(t, f.rule, 1)
	}
}

func TestScript_AfterAWipe_StartsOneMoreBurst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 40 {
		f, l := w.flow(n), w.limiter(limit.Options{})
		for step := range 60 {
			w.now += f.step()
			if step == 30 {
				w.wipe()
			}
			f.arrive(w.random.IntN(2 + int(f.rule.Burst)))
			f.run(l)
		}
		f.starts.requireBound(t, f.rule, 2)
	}
}

func TestScript_WithJobsWaiting_StartsAllThatTheRateAllows_InOrder_AskedTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 20 {
		f, l := w.flow(n), w.limiter(limit.Options{})
		jobs := 3*int(f.rule.Burst) + 40
		f.arrive(jobs)
		f.run(l)
		require.Len(t, f.starts, int(min(f.rule.Burst, int64(jobs))))
		begun, last := w.now, time.Duration(0)
		for len(f.waiting) > 0 {
			next := slices.MinFunc(f.waiting, func(a, b job) int { return int(a.at - b.at) })
			require.GreaterOrEqual(t, next.at, last)
			last = next.at
			w.now = max(w.now, next.at) + time.Duration(w.random.Int64N(int64(5*time.Millisecond))) // as runners are late
			f.run(l)
		}
		require.LessOrEqual(t, f.asked, 2*jobs)
		ideal := time.Duration(int64(f.rule.Period) * (int64(jobs) - f.rule.Burst) / f.rule.Rate)
		require.InDelta(t, ideal, w.now-begun, float64(10*time.Millisecond), "%v", f.rule)
	}
}

func TestScript_JobsThatComeAnHourLate_AreNotAllStartedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 6}
	f, l := &flow{world: w, rule: rule}, w.limiter(limit.Options{})
	f.arrive(1000)
	f.run(l)
	w.now += time.Hour
	before := len(f.starts)
	f.run(l)
	require.Equal(t, 6, len(f.starts)-before)
	for len(f.waiting) > 0 {
		w.now += time.Second
		f.run(l)
	}
	require.Len(t, f.starts, 1000)
	f.starts.requireBound(t, rule, 1)
}

func TestScript_OfOddRates_DoesNotDrift(t *testing.T) {
	t.Parallel()
	for _, rule := range []limit.Rule{
		{"t", 7, time.Minute, 1}, {"t", 1, 31 * 24 * time.Hour, 1}, {"t", 999_983, time.Second, 1}, {"t", 1_000_000, time.Second, 1_000_000}, {"t", 3, 1000001 * time.Microsecond, 3},
	} {
		require.NoError(t, rule.Check())
		w := newWorld(t)
		l := w.limiter(limit.Options{})
		requests := make([]limit.Request, rule.Burst+7000*min(1, rule.Rate-1)+10)
		for i := range requests {
			requests[i] = limit.Request{Rule: rule}
		}
		if len(requests) > 100_000 { // the burst of a million is taken for granted
			requests = requests[:8000]
			full := epoch.Add(w.now + time.Second).UnixMicro()
			state := fmt.Sprintf("%s gen %d 0 %d 0", rule.Name(), full, full)
			require.NoError(t, w.client.Set(t.Context(), l.Key(requests[0]), state, 0).Err())
		}
		decisions := l.Decide(t.Context(), requests)
		var first, last, n int64
		for _, d := range decisions {
			if !d.OK {
				last = limit.TimeOf(d.Reserved)
				if n == 0 {
					first = last
				}
				n++
			}
		}
		require.Greater(t, n, int64(5))
		exact := float64(rule.Period.Microseconds()) * float64(n-1) / float64(rule.Rate)
		require.InDelta(t, exact, float64(last-first), 1, "%v over %d", rule, n)
	}
}

func TestScript_WhenRedissClockIsSetBack_StartsAgainEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.limiter(limit.Options{})
	rule := limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 5}
	require.True(t, w.ask(l, rule, "").OK)
	token := ""
	for range 10 {
		token = w.ask(l, rule, token).Reserved
	}
	w.now -= time.Hour
	d := w.ask(l, rule, token)
	require.False(t, d.OK)
	require.Equal(t, time.Second, d.Wait, "not an hour")
}

func TestScript_WithANewRule_CountsWhatStarted_AndForgetsWhatWasHandedOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.limiter(limit.Options{})
	slow := limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 1}
	require.True(t, w.ask(l, slow, "").OK)
	var late limit.Decision
	for range 100 {
		late = w.ask(l, slow, "")
	}
	require.Equal(t, 100*time.Second, late.Wait)
	fast := limit.Rule{Task: "t", Rate: 120, Period: time.Minute, Burst: 1}
	d := w.ask(l, fast, late.Reserved)
	require.Equal(t, limit.Decision{Wait: time.Second / 2, Reserved: d.Reserved}, d)
	require.NotEqual(t, late.Reserved, d.Reserved)
	w.now += time.Second / 2
	require.True(t, w.ask(l, fast, d.Reserved).OK)
}

func TestScript_OfWhatIsHandedOut_NothingLiesBeyondFiftyYears(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.limiter(limit.Options{})
	rule := limit.Rule{Task: "t", Rate: 1, Period: limit.MaxPeriod, Burst: 1}
	requests := make([]limit.Request, 700)
	for i := range requests {
		requests[i] = limit.Request{Rule: rule}
	}
	decisions := l.Decide(t.Context(), requests)
	require.NotEmpty(t, decisions[500].Reserved)
	require.Empty(t, decisions[699].Reserved)
	require.Equal(t, decisions[698].Wait, decisions[699].Wait)
}

// fleet is several runners that share a limit.
type fleet struct {
	*flow
	runners  []*limit.Limiter
	handover time.Duration
}

// tell is what the runners' rows in the database do: each learns how it stands with the others.
func (f *fleet) tell() {
	some := slices.ContainsFunc(f.runners, func(l *limit.Limiter) bool { return !l.HasRedis() })
	for _, l := range f.runners {
		l.SetShare(len(f.runners), some)
	}
}

func (f *fleet) find(i int) { require.True(f.t, f.runners[i].Find()) }

// turn lets each runner ask, with jobs always waiting.
func (f *fleet) turn() {
	for _, i := range f.random.Perm(len(f.runners)) {
		f.arrive(max(0, 20-len(f.waiting)))
		f.run(f.runners[i])
	}
}

func (w *world) fleet(runners int, rule limit.Rule) *fleet {
	f := &fleet{flow: &flow{world: w, rule: rule}, handover: 15 * time.Second}
	for range runners {
		f.runners = append(f.runners, w.limiter(limit.Options{Handover: f.handover}))
	}
	f.tell()
	return f
}

// Redis goes and comes, for all at about the same time, while everybody asks all the time, and after a rest, so that every bucket that can be full is. What
// each runner finds out the others learn within 5 s.
func TestFleet_WhileRedisGoesAndComes_StartsAtMost120Percent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for round := range 6 {
		rule := limit.Rule{Task: fmt.Sprintf("f%d", round), Rate: 200, Period: time.Minute, Burst: 20}
		f := w.fleet(2+w.random.IntN(5), rule)
		w.now += time.Hour
		f.during(20 * time.Second)
		for range 3 {
			outage := time.Duration(1+w.random.IntN(40)) * time.Second
			for i := range f.runners {
				f.runners[i].Lose()
			}
			f.during(outage)
			for _, i := range w.random.Perm(len(f.runners)) { // each finds it again by itself
				f.find(i)
				f.during(time.Duration(w.random.IntN(3000)) * time.Millisecond)
			}
			f.during(time.Duration(w.random.IntN(40)) * time.Second)
		}
		most := f.starts.most(time.Minute)
		t.Logf("%d runners: at most %d of %d in a minute, %d in all", len(f.runners), most, rule.Rate, len(f.starts))
		require.LessOrEqual(t, most, int(rule.Rate*12/10))
		// And it goes on: a limiter that starts nothing keeps every limit.
		require.Greater(t, float64(len(f.starts)), 0.6*float64(rule.Rate)*(w.now-f.starts[0]).Minutes())
	}
}

// One alone loses Redis; the others learn of it after 5 s.
func TestFleet_WhenOneLosesRedis_AllShareTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := limit.Rule{Task: "one", Rate: 200, Period: time.Minute, Burst: 20}
	f := w.fleet(4, rule)
	w.now += time.Hour
	f.during(30 * time.Second)
	f.runners[0].Lose()
	f.during(2 * time.Minute)
	for _, l := range f.runners {
		local, _, _ := l.Local()
		require.True(t, local)
	}
	f.find(0)
	f.during(2 * time.Minute)
	for _, l := range f.runners {
		local, _, _ := l.Local()
		require.False(t, local)
	}
	require.LessOrEqual(t, f.starts.most(time.Minute), int(rule.Rate*12/10))
	require.Greater(t, len(f.starts), 4*int(rule.Rate))
}

func TestFleet_WithoutRedisForGood_KeepsTheRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := limit.Rule{Task: "none", Rate: 300, Period: time.Minute, Burst: 30}
	f := w.fleet(3, rule)
	for i := range f.runners {
		f.runners[i].Lose()
	}
	f.during(5 * time.Minute)
	require.LessOrEqual(t, f.starts.most(time.Minute), int(rule.Rate+rule.Burst))
	require.InDelta(t, 5*300, len(f.starts), 0.05*5*300)
}

// during lets time pass, a tenth of a second at a time; every 5 s all learn of each other.
func (f *fleet) during(d time.Duration) {
	const tenth = 100 * time.Millisecond
	for end := f.now + d; f.now < end; f.now += tenth {
		if f.now.Truncate(5*time.Second) == f.now.Truncate(tenth) {
			f.tell()
		}
		f.turn()
	}
}

func TestFleet_BackWithRedis_StartsEmptyOnce_AndHasItsBurstAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 6}
	l := w.limiter(limit.Options{Handover: time.Minute})
	l.Lose()
	require.False(t, w.ask(l, rule, "").OK)
	w.now += 20 * time.Second
	for range 6 {
		require.True(t, w.ask(l, rule, "").OK)
	}
	require.True(t, l.Find())
	w.now += time.Second
	require.False(t, w.ask(l, rule, "").OK, "Redis knows of six")
	w.now += 2 * time.Second
	require.True(t, w.ask(l, rule, "").OK, "and was told but once")
	w.now += 10 * time.Second
	for range 6 {
		require.True(t, w.ask(l, rule, "").OK)
	}
	require.False(t, w.ask(l, rule, "").OK)
}

func TestFleet_JustBack_LosesNothingOfItsShareToWhatRedisPutsOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 6}
	back, other := w.limiter(limit.Options{Handover: time.Hour}), w.limiter(limit.Options{})
	back.SetShare(2, true)
	back.SetShare(2, false)
	w.ask(back, rule, "")
	w.now += time.Minute
	for range 6 {
		require.True(t, w.ask(other, rule, "").OK)
	}
	var tokens []string
	for range 3 {
		d := w.ask(back, rule, "")
		require.False(t, d.OK)
		tokens = append(tokens, d.Reserved)
	}
	w.now += 3 * time.Second
	for _, token := range tokens {
		require.True(t, w.ask(back, rule, token).OK)
	}
}

func TestFleet_JustBack_LosesNothingOfItsShareToAnAnswerThatDoesNotCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 6}
	l := w.limiter(limit.Options{Handover: time.Hour})
	l.SetShare(2, true)
	l.SetShare(2, false)
	w.ask(l, rule, "")
	w.now += time.Minute
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, d := range l.Decide(gone, []limit.Request{{Rule: rule}, {Rule: rule}, {Rule: rule}}) {
		require.False(t, d.OK)
	}
	for range 3 {
		require.True(t, w.ask(l, rule, "").OK)
	}
	require.False(t, w.ask(l, rule, "").OK)
}

func TestFleet_InItsSecondOutage_StartsEmptyAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 6}
	l := w.limiter(limit.Options{})
	for range 2 {
		l.Lose()
		require.False(t, w.ask(l, rule, "").OK)
		w.now += time.Hour
		require.True(t, l.Find())
		w.now += time.Hour
	}
}

func TestFleet_WithFailuresFarBetween_StaysWithRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.limiter(limit.Options{})
	rule := limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 60}
	for range 10 {
		l.Fail()
		require.True(t, w.ask(l, rule, "").OK)
	}
	require.True(t, l.HasRedis())
}

// A busy runner claims every 40 ms, whatever has come due meanwhile.
func TestScript_WithABurstOfOne_JobsThatAreALittleLate_KeepTheirTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f, l := &flow{world: w, rule: limit.Rule{Task: "t", Rate: 100, Period: time.Second, Burst: 1}}, w.limiter(limit.Options{})
	f.arrive(200)
	begun := w.now
	for len(f.waiting) > 0 {
		f.run(l)
		w.now += 40 * time.Millisecond
	}
	require.LessOrEqual(t, f.asked, 2*200)
	require.LessOrEqual(t, w.now-begun, 2*time.Second+80*time.Millisecond)
	f.starts.requireBound(t, f.rule, 1)
}

// Each job that comes late by more than what is let pass would else cost the one behind it its time, and the limit a start that nobody makes up for.
func TestScript_BehindJobsThatComeLate_TheOthersKeepTheirPlaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 5 {
		f, l := w.flow(0), w.limiter(limit.Options{})
		f.rule = limit.Rule{Task: "t", Rate: 3, Period: time.Second, Burst: 1}
		f.arrive(100)
		begun := w.now
		var late time.Duration // what the latest came later than is let pass, each time
		for len(f.waiting) > 0 {
			wait := 20*time.Millisecond + time.Duration(w.random.Int64N(int64(100*time.Millisecond)))
			if w.random.IntN(50) == 0 {
				wait = limit.MinSlack + 100*time.Millisecond
				late += wait - limit.MinSlack
			}
			w.now += wait
			f.run(l)
		}
		require.LessOrEqual(t, w.now-begun, 33*time.Second+late+200*time.Millisecond)
		require.LessOrEqual(t, f.asked, 3*100)
		f.starts.requireBound(t, f.rule, 1)
	}
}

// Who is in time may wait for those before it, but only in the order of their times, and a crowd that is late goes behind it.
func TestScript_InTimeBehindALateOne_WaitsForTheRestOfItsInterval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l, rule := w.limiter(limit.Options{}), limit.Rule{Task: "t", Rate: 1, Period: time.Second, Burst: 1}
	require.True(t, w.ask(l, rule, "").OK)
	first, second, third := w.ask(l, rule, "").Reserved, w.ask(l, rule, "").Reserved, w.ask(l, rule, "").Reserved
	w.now += 1600 * time.Millisecond
	require.True(t, w.ask(l, rule, first).OK)
	w.now += 400 * time.Millisecond // the second one's time
	require.Equal(t, limit.Decision{Wait: 500 * time.Millisecond, Reserved: second}, w.ask(l, rule, second), "until the 100 ms before the end of the interval that has begun")
	w.now += 500 * time.Millisecond
	require.True(t, w.ask(l, rule, second).OK)
	w.now += 500 * time.Millisecond
	require.Equal(t, limit.Decision{Wait: 500 * time.Millisecond, Reserved: third}, w.ask(l, rule, third))
	w.now += time.Hour
	require.True(t, w.ask(l, rule, third).OK)
}
