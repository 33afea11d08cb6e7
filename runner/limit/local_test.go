package limit_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
)

// alone is a limiter without Redis, on a clock of the test's own.
type alone struct {
	*limit.Limiter
	now time.Duration
}

func newAlone() *alone {
	a := &alone{now: time.Hour}
	a.Limiter = limit.NewSimulated(limit.Options{}, time.Time{}, func() time.Duration { return a.now })
	return a
}

func (a *alone) ask(rule limit.Rule, key string) limit.Decision {
	return a.Decide(context.Background(), []limit.Request{{Rule: rule, Key: key}})[0]
}

var perMinute = limit.Rule{Task: "t", Rate: 60, Period: time.Minute, Burst: 6}

func TestLocal_StartsEmpty_AndNeverHoldsMoreThanTheBurst(t *testing.T) {
	t.Parallel()
	a := newAlone()
	require.Equal(t, limit.Decision{Wait: time.Second}, a.ask(perMinute, ""))
	a.now += time.Second
	require.True(t, a.ask(perMinute, "").OK)
	require.False(t, a.ask(perMinute, "").OK)
	a.now += time.Hour
	started := 0
	for range 100 {
		if a.ask(perMinute, "").OK {
			started++
		}
	}
	require.Equal(t, 6, started)
}

func TestLocal_OfSeveralRunners_HasItsShare(t *testing.T) {
	t.Parallel()
	a := newAlone()
	a.SetShare(3, false)
	a.ask(perMinute, "")
	started := 0
	for range 600 {
		a.now += 100 * time.Millisecond
		if a.ask(perMinute, "").OK {
			started++
		}
	}
	require.Equal(t, 20, started)
	a.now += time.Hour
	started = 0
	for range 100 {
		if a.ask(perMinute, "").OK {
			started++
		}
	}
	require.Equal(t, 2, started, "a third of the burst")
}

func TestLocal_ThoseThatArePutOff_ComeBackOneByOne_InOrder(t *testing.T) {
	t.Parallel()
	a := newAlone()
	for i := range 10 {
		require.Equal(t, limit.Decision{Wait: time.Duration(i+1) * time.Second}, a.ask(perMinute, ""))
	}
	for range 10 {
		a.now += time.Second
		require.True(t, a.ask(perMinute, "").OK)
	}
}

func TestLocal_EachKeyAndEachTask_HasABucketOfItsOwn(t *testing.T) {
	t.Parallel()
	a := newAlone()
	other := perMinute
	other.Task = "u"
	for range 2 {
		a.ask(perMinute, "ann")
		a.ask(perMinute, "bob")
		a.ask(other, "ann")
		a.now += time.Second
	}
	require.True(t, a.ask(perMinute, "ann").OK)
	require.True(t, a.ask(perMinute, "bob").OK)
	require.True(t, a.ask(other, "ann").OK)
	require.False(t, a.ask(perMinute, "eve").OK)
}

func TestLocal_WhenMoreRunnersCome_WaitsBecomeLonger_AndWhenTheyGoShorter(t *testing.T) {
	t.Parallel()
	a := newAlone()
	a.SetShare(10, false)
	require.Equal(t, 10*time.Second, a.ask(perMinute, "").Wait)
	a.SetShare(1, false)
	require.Equal(t, time.Second, a.ask(perMinute, "k").Wait)
	require.LessOrEqual(t, a.ask(perMinute, "").Wait, time.Second)
}

func TestLocal_OfAMillionKeys_KeepsABoundedNumber(t *testing.T) {
	t.Parallel()
	a := newAlone()
	for i := range 250_000 {
		a.ask(perMinute, strconv.Itoa(i))
	}
	require.LessOrEqual(t, a.Buckets(), 100_000)
	require.Greater(t, a.Buckets(), 80_000)
}

func TestLocal_WithARuleThatCannotBeKept_LetsNothingStart_AndSaysSo(t *testing.T) {
	t.Parallel()
	a := newAlone()
	require.Equal(t, limit.Decision{Wait: time.Minute}, a.ask(limit.Rule{Task: "t"}, ""))
}
