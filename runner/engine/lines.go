package engine

import (
	"encoding/json"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
)

// NoLines gives no attempt a line of its own in the log.
const NoLines = -1

// mostErrorBytes of an error stand in a line; all of it, and the stack of a panic, is in the database.
const mostErrorBytes = 500

// lines are those of the log about attempts: one for each, until there are more in a second than anybody reads; then one a second says how many
// had none. Failures are counted apart, so that no flood of others hides them. Only the control loop touches it.
type lines struct {
	log    *logrus.Entry
	most   int // a second, of each kind
	since  time.Time
	ended  told
	failed told
}

// told counts what had a line since the second began, and what had none.
type told struct{ lines, left int }

func (t *told) one(most int) bool {
	if t.lines >= most {
		t.left++
		return false
	}
	t.lines++
	return true
}

// over tells of an attempt that has ended.
func (l *lines) over(a *attempt, outcome string, failure json.RawMessage, ran time.Duration) {
	failed := outcome == "error" || outcome == "failed"
	level, of, words := logrus.InfoLevel, &l.ended, "attempt ended"
	switch {
	case failed:
		level, of, words = logrus.WarnLevel, &l.failed, "attempt failed"
	case outcome == "done":
		words = "attempt finished"
	}
	if !l.log.Logger.IsLevelEnabled(level) {
		return
	}
	if !of.one(l.most) && !l.log.Logger.IsLevelEnabled(logrus.DebugLevel) {
		return
	}
	entry := l.log.WithFields(fields(a)).WithFields(logrus.Fields{"state": outcome, "waited_ms": a.claim.Waited.Milliseconds(), "elapsed_ms": ran.Milliseconds()})
	if failure != nil {
		entry = entry.WithField("error", cut(jobs.ErrorMessage(failure), mostErrorBytes))
	}
	entry.Log(level, words)
}

// due is when flush has something to say; the zero time: it has not.
func (l *lines) due() time.Time {
	if l.ended.left+l.failed.left == 0 {
		return time.Time{}
	}
	return l.since.Add(time.Second)
}

// flush begins a new second where one has passed, and says what had no line in the old one. Each turn of the loop calls it: for each attempt, the
// clock would cost more than all the rest.
func (l *lines) flush(now time.Time) {
	if now.Sub(l.since) < time.Second {
		return
	}
	level := logrus.InfoLevel
	if l.failed.left > 0 {
		level = logrus.WarnLevel
	}
	if left := l.ended.left + l.failed.left; left > 0 && !l.log.Logger.IsLevelEnabled(logrus.DebugLevel) {
		l.log.WithFields(logrus.Fields{"left_out": left, "left_out_failed": l.failed.left}).Log(level, "more attempts ended than have a line of their own (--log-rate)")
	}
	l.since, l.ended, l.failed = now, told{}, told{}
}
