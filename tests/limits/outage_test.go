package limits

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tests/pgtest"
)

var quick = limit.Rule{Task: "t", Rate: 1000, Period: time.Second, Burst: 10}

func TestLimiter_WhenRedisIsKilled_GoesOnLocally_AndBackWhenItIsThere(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	l := newLimiterWith(t, server, limit.Options{Timeout: 10 * time.Second, Handover: time.Millisecond})
	require.True(t, l.ask(quick, "").OK)
	server.Kill()
	l.awaitLocal(func() { l.ask(quick, "") })
	local, since, why := l.Local()
	require.True(t, local)
	require.WithinRange(t, since, time.Now().Add(-within), time.Now())
	require.Contains(t, why, "connect")
	require.Eventually(t, func() bool { return l.ask(quick, "").OK }, within, every, "at its share, from an empty bucket")
	require.Len(t, l.said(logrus.WarnLevel), 1)
	require.Contains(t, l.said(logrus.WarnLevel)[0], "limits go on locally")

	server.Start()
	l.awaitRedis()
	local, _, why = l.Local()
	require.False(t, local)
	require.Empty(t, why)
	require.Len(t, l.said(logrus.WarnLevel), 1, "one, however often it looked")
	require.Len(t, l.said(logrus.InfoLevel), 1)
	before, _ := l.seen.from("redis")
	require.Eventually(t, func() bool { return l.ask(quick, "").OK }, within, every)
	after, _ := l.seen.from("redis")
	require.Greater(t, after, before)
	require.Equal(t, []bool{false, true, false}, l.seen.switches)
	require.GreaterOrEqual(t, l.seen.failures, 2)
}

func TestLimiter_WhenRedisDoesNotAnswer_WaitsForNobody_AndGoesOnLocally(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	l := newLimiterWith(t, server, limit.Options{Timeout: 2 * time.Second})
	reserved := l.batch(hourly, 4)[3]
	server.Pause()
	first := l.ask(hourly, reserved.Reserved)
	require.Equal(t, limit.Decision{Wait: 250 * time.Millisecond, Reserved: reserved.Reserved}, first, "one answer that does not come sends nobody local")
	require.True(t, l.HasRedis())
	second := l.ask(hourly, reserved.Reserved)
	require.False(t, l.HasRedis())
	require.Equal(t, limit.Decision{Wait: time.Minute, Reserved: reserved.Reserved}, second, "Redis may be back before that")
	server.Resume()
	l.awaitRedis()
	require.Len(t, l.said(logrus.WarnLevel), 1)
}

// What started without Redis counts when it is back: its memory of long before would let a whole burst go.
func TestLimiter_BackWithRedis_HasNoSecondBurst(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	l := newLimiterWith(t, server, limit.Options{Timeout: 2 * time.Second, Handover: time.Millisecond})
	rule := limit.Rule{Task: "t", Rate: 20, Period: 20 * time.Second, Burst: 20}
	server.Pause()
	l.awaitLocal(func() { l.ask(rule, "") })
	require.Eventually(t, func() bool { return l.ask(rule, "").OK }, within, every)
	server.Resume()
	l.awaitRedis()
	require.LessOrEqual(t, started(l.batch(rule, 100)), 1)
}

func TestLimiter_JustBack_KeepsToItsShareAsWell(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	l := newLimiterWith(t, server, limit.Options{Timeout: 10 * time.Second, Handover: time.Hour})
	l.SetShare(1000, false)
	rule := limit.Rule{Task: "t", Rate: 1, Period: time.Second, Burst: 1000}
	l.SetShare(1000, true)
	l.SetShare(1000, false)
	local, _, _ := l.Local()
	require.False(t, local)
	require.Zero(t, started(l.batch(rule, 10)), "a thousand seconds for its first")
	other := newLimiter(t, server)
	require.Equal(t, 10, started(other.batch(rule, 10)))
}

func TestLimiter_WhenAnotherHasNoRedis_DecidesLocally_AndStillHasItsOwn(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, pgtest.Redis(t))
	l.SetShare(4, true)
	local, _, why := l.Local()
	require.True(t, local)
	require.Contains(t, why, "another runner")
	require.True(t, l.HasRedis(), "else all would wait for each other")
	require.Zero(t, started(l.batch(hourly, 5)))
	requests, _ := l.seen.from("local")
	require.Equal(t, 5, requests)
	l.SetShare(4, false)
	local, _, _ = l.Local()
	require.False(t, local)
	require.Empty(t, l.said(logrus.WarnLevel))
}

func TestLimiter_WithoutRedis_SaysSo_AndWarnsOfNothing(t *testing.T) {
	t.Parallel()
	l := limit.New(limit.Options{})
	t.Cleanup(l.Close)
	local, _, why := l.Local()
	require.True(t, local)
	require.Equal(t, "no Redis is configured", why)
	require.False(t, l.HasRedis())
	ask := func() bool { return l.Decide(t.Context(), []limit.Request{{Rule: quick}})[0].OK }
	require.Eventually(t, ask, within, every)
	waits := l.Decide(t.Context(), []limit.Request{{Rule: hourly}})
	require.Equal(t, []limit.Decision{{Wait: waits[0].Wait}}, waits)
	require.InDelta(t, time.Hour, waits[0].Wait, float64(within))
}

func TestLimiter_StartedWithoutItsRedis_FindsItLater(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	server.Kill()
	l := open(t, server, limit.Options{Timeout: 10 * time.Second, Handover: time.Millisecond})
	require.False(t, l.ask(quick, "").OK)
	require.Eventually(t, func() bool { return len(l.said(logrus.WarnLevel)) == 1 }, within, every)
	server.Start()
	l.awaitRedis()
	require.Eventually(t, func() bool { return l.ask(quick, "").OK }, within, every)
}

// A Redis that answers and does not do what it is asked is none.
func TestLimiter_WithARedisThatTakesNoWrites_GoesOnLocally(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	if info, _ := server.Do("info", "server").(string); strings.Contains(info, "redis_version:6.") {
		t.Skip("until Redis 7 a script may write although there are too few replicas")
	}
	l := newLimiter(t, server)
	server.Do("config", "set", "min-replicas-to-write", "3")
	l.awaitLocal(func() { l.ask(quick, "") })
	_, _, why := l.Local()
	require.Contains(t, why, "NOREPLICAS")
	require.Contains(t, why, "too few replicas")
	server.Do("config", "set", "min-replicas-to-write", "0")
	l.awaitRedis()
}

func TestLimiter_WhoseCallerHasNoMorePatience_BlamesNobody(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, pgtest.Redis(t))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 5 {
		d := l.Decide(gone, []limit.Request{{Rule: hourly, Reserved: "1-f:7"}})[0]
		require.Equal(t, limit.Decision{Wait: 250 * time.Millisecond, Reserved: "1-f:7"}, d)
	}
	require.True(t, l.HasRedis())
	require.Zero(t, l.seen.failures)
}

func TestClose_WhileRedisIsAway_EndsTheLooking(t *testing.T) {
	t.Parallel()
	server := pgtest.Redis(t)
	server.Kill()
	l := open(t, server, limit.Options{})
	require.Eventually(t, func() bool { return len(l.said(logrus.WarnLevel)) == 1 }, within, every)
	l.Close()
	server.Start()
	l.Close()
	require.False(t, l.HasRedis())
	require.Len(t, l.Decide(t.Context(), []limit.Request{{Rule: quick}}), 1, "it is still answered")
}
