package limits

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestDecide_StartsABurst_AndGivesEachOtherItsTime_InOrder(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, pgtest.Redis(t))
	decisions := l.batch(hourly, 10)
	tokens := map[string]bool{}
	for i, d := range decisions {
		if i < 3 {
			require.Equal(t, limit.Decision{OK: true}, d)
			continue
		}
		require.False(t, d.OK)
		require.InDelta(t, time.Duration(i-2)*time.Hour, d.Wait, float64(within), "the %d. job", i+1)
		require.NotEmpty(t, d.Reserved)
		tokens[d.Reserved] = true
	}
	require.Len(t, tokens, 7, "each has a reservation of its own")
	requests, later := l.seen.from("redis")
	require.Equal(t, []int{10, 7}, []int{requests, later})
}

func TestDecide_WithAReservation_WaitsForItsTime_AndThenStarts(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, pgtest.Redis(t))
	rule := limit.Rule{Task: "t", Rate: 2, Period: time.Second, Burst: 1}
	require.True(t, l.ask(rule, "").OK)
	mine, next := l.ask(rule, ""), l.ask(rule, "")
	early := l.ask(rule, mine.Reserved)
	require.False(t, early.OK)
	require.Equal(t, mine.Reserved, early.Reserved, "who is early keeps his place")
	require.LessOrEqual(t, early.Wait, mine.Wait)
	require.Greater(t, next.Wait, early.Wait)
	require.Eventually(t, func() bool { return l.ask(rule, mine.Reserved).OK }, within, every)
	require.Eventually(t, func() bool { return l.ask(rule, next.Reserved).OK }, within, every)
}

func TestDecide_OfLimitersThatShareARedis_KeepsOneLimit(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	rule := hourly
	rule.Burst = 100
	var group sync.WaitGroup
	counts := make([]int, 4)
	for i := range counts {
		l := newLimiter(t, server)
		group.Go(func() {
			for range 10 {
				counts[i] += started(l.batch(rule, 10))
			}
		})
	}
	group.Wait()
	require.Equal(t, 100, counts[0]+counts[1]+counts[2]+counts[3], "of %v", counts)
}

func TestDecide_OfEachTaskKeyAndDatabase_HasALimitOfItsOwn(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	l := newLimiter(t, server)
	one := hourly
	one.Burst = 1
	other := one
	other.Task = "mail"
	longer := one
	longer.Task = "mail.send:a"
	for _, ask := range []func() limit.Decision{
		func() limit.Decision { return l.ask(one, "") },
		func() limit.Decision { return l.ask(other, "") },
		func() limit.Decision { return l.askKey(one, "ann", "") },
		func() limit.Decision { return l.askKey(one, "bob {x} \x00 ü", "") },
		func() limit.Decision { return l.askKey(one, "a:b", "") },
		func() limit.Decision { return l.askKey(longer, "b", "") },
	} {
		require.True(t, ask().OK)
		require.False(t, ask().OK)
	}
	elsewhere := newLimiterWith(t, server, limit.Options{Timeout: 10 * time.Second, Prefix: "another:"})
	require.True(t, elsewhere.ask(one, "").OK)
}

func TestDecide_WithAChangedRule_DecidesItsReservationsAnew(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, pgtest.Redis(t))
	decisions := l.batch(hourly, 10)
	faster := hourly
	faster.Rate = 3600
	d := l.ask(faster, decisions[9].Reserved)
	require.False(t, d.OK, "the burst was used up")
	require.LessOrEqual(t, d.Wait, time.Second, "not seven hours")
	require.NotEqual(t, decisions[9].Reserved, d.Reserved)
}

func TestDecide_WithATokenThatNobodyGave_DecidesAnew(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, pgtest.Redis(t))
	for _, token := range []string{"x", ":", "a:b", "1-f:-1", "1-f:99999999999999999999", "1-f:1", "%s:%d", " "} {
		require.True(t, l.askKey(hourly, token, token).OK, "%q", token)
	}
}

func TestDecide_AfterAWipe_StartsOneMoreBurst_AndDecidesReservationsAnew(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	l := newLimiter(t, server)
	before := l.batch(hourly, 5)
	require.Equal(t, 3, started(before))
	server.Do("flushall")
	require.True(t, l.ask(hourly, before[4].Reserved).OK, "it was five hours off, and the limit is new")
	require.Equal(t, 2, started(l.batch(hourly, 5)))
	require.True(t, l.HasRedis())
}

func TestDecide_WhenRedisHasForgottenTheScript_LoadsItAgain(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	l := newLimiter(t, server)
	require.Equal(t, 3, started(l.batch(hourly, 4)))
	server.Do("script", "flush")
	require.Equal(t, 0, started(l.batch(hourly, 4)))
	require.True(t, l.HasRedis())
	require.Zero(t, l.seen.failures)
}

func TestDecide_OfWhatIsIdle_LeavesNothingInRedis(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	l := newLimiter(t, server)
	l.batch(limit.Rule{Task: "t", Rate: 1000, Period: time.Second, Burst: 10}, 100)
	keys, isList := server.Do("keys", "*").([]any)
	require.True(t, isList)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		left, isNumber := server.Do("pttl", key).(int64)
		require.True(t, isNumber)
		require.Positive(t, left, "%s never goes", key)
		require.LessOrEqual(t, left, (62 * time.Second).Milliseconds(), key)
	}
}

func TestDecide_WithARuleThatCannotBeKept_LetsItsJobsWait_AndSaysSoOnce(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, pgtest.Redis(t))
	bad := limit.Rule{Task: "t", Rate: 0, Period: time.Second, Burst: 1}
	for range 3 {
		decisions := l.Decide(t.Context(), []limit.Request{{Rule: bad}, {Rule: hourly}})
		require.Equal(t, limit.Decision{Wait: time.Minute}, decisions[0])
		require.True(t, decisions[1].OK, "the others are decided")
	}
	require.Len(t, l.logs.AllEntries(), 1)
	require.ErrorContains(t, l.logs.LastEntry().Data["error"].(error), "rate 0")
}

func TestDecide_OfNothing_AsksNobody(t *testing.T) {
	t.Parallel()
	l := open(t, pgtest.Redis(t), limit.Options{})
	require.Empty(t, l.Decide(t.Context(), nil))
}

// In real time: whatever the machine does, no more than rate × time and the burst start between the first question and the last answer.
func TestDecide_ByFourThatAskAllTheTime_NeverStartsMoreThanTheRate(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	rule := limit.Rule{Task: "t", Rate: 500, Period: time.Second, Burst: 50}
	ctx, end := context.WithTimeout(t.Context(), 3*time.Second)
	defer end()
	limiters := make([]*limiter, 4)
	for i := range limiters {
		limiters[i] = newLimiter(t, server)
	}
	counts := make([]int, len(limiters))
	begun := time.Now()
	var group sync.WaitGroup
	for i, l := range limiters {
		group.Go(func() {
			tokens := make([]string, 20)
			for ctx.Err() == nil {
				requests := make([]limit.Request, len(tokens))
				for n := range tokens {
					requests[n] = limit.Request{Rule: rule, Reserved: tokens[n]}
				}
				for n, d := range l.Decide(context.WithoutCancel(ctx), requests) {
					tokens[n] = d.Reserved
					if d.OK {
						counts[i]++
					}
				}
			}
		})
	}
	group.Wait()
	took := time.Since(begun)
	total := 0
	for _, n := range counts {
		total += n
	}
	require.LessOrEqual(t, float64(total), 500*took.Seconds()+50, fmt.Sprint(counts))
	require.Greater(t, total, 50)
}
