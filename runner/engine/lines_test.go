package engine

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/jobs"
)

func anAttempt() *attempt {
	return &attempt{claim: &jobs.Claim{Held: jobs.Held{ID: 7, Fence: 70}, Task: "mail", Queue: "default", Attempt: 1, Waited: 3 * time.Millisecond}}
}

func TestLines_OfASecond_AreSoMany_OfEachKind_AndTheNextSecondSaysWhatIsMissing(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	l := lines{log: logrus.NewEntry(log), most: 2}
	now := time.Now()
	l.flush(now)
	for range 5 {
		l.over(anAttempt(), "done", nil, time.Second)
		l.over(anAttempt(), "error", json.RawMessage(`{"message": "`+strings.Repeat("no ", 300)+`", "stack": "of the panic"}`), time.Second)
	}
	require.Len(t, hook.AllEntries(), 4)
	require.Equal(t, now.Add(time.Second), l.due())
	failed := hook.AllEntries()[1]
	require.Equal(t, "attempt failed", failed.Message)
	require.Less(t, len(failed.Data["error"].(string)), 510)
	require.NotContains(t, failed.Data["error"], "panic")
	l.flush(now.Add(999 * time.Millisecond))
	require.Len(t, hook.AllEntries(), 4, "not yet")
	l.flush(now.Add(time.Second))
	last := hook.LastEntry()
	require.Equal(t, logrus.Fields{"left_out": 6, "left_out_failed": 3}, last.Data)
	require.Equal(t, logrus.WarnLevel, last.Level)
	require.Zero(t, l.due())
	l.over(anAttempt(), "done", nil, time.Second)
	require.Len(t, hook.AllEntries(), 6, "a new second, new lines")
}

func TestLines_AtLevelDebug_LeaveNothingOut_AndAtLevelWarningTellOfFailuresAlone(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	l := lines{log: logrus.NewEntry(log), most: 0}
	log.SetLevel(logrus.DebugLevel)
	now := time.Now()
	for range 3 {
		l.over(anAttempt(), "done", nil, 0)
	}
	l.flush(now.Add(time.Minute))
	require.Len(t, hook.AllEntries(), 3)
	hook.Reset()
	log.SetLevel(logrus.WarnLevel)
	l.over(anAttempt(), "done", nil, 0)
	l.over(anAttempt(), "failed", nil, 0)
	l.flush(now.Add(time.Hour))
	require.Len(t, hook.AllEntries(), 1)
	require.Equal(t, logrus.Fields{"left_out": 1, "left_out_failed": 1}, hook.LastEntry().Data)
}

// What an attempt costs the control loop: one that has a line, and one that has none.
func BenchmarkLines(b *testing.B) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetFormatter(&logrus.JSONFormatter{})
	for name, most := range map[string]int{"line": 1 << 40, "none": 0} {
		b.Run(name, func(b *testing.B) {
			l := lines{log: logrus.NewEntry(log).WithField("runner", "bench"), most: most}
			a := anAttempt()
			for b.Loop() {
				l.over(a, "done", nil, time.Millisecond)
			}
		})
	}
}
