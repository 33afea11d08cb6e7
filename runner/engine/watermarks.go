package engine

import (
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// watermarks remembers, for each lane that gave jobs, up to where. A claim that starts there does not walk again over what has been
// finished since, which some open transaction may keep in the index for hours (measured: without them, a fifth of the speed is left
// after 200,000 jobs). But what lies before, of a transaction that was slow to commit, and lanes that are new, are found only by a
// claim without them, a rescan. Rescans may take a tenth of the time, for all lanes together: while nothing is in their way nearly
// every claim is one. And one is due a poll interval after the last, whatever it costs, so that no job waits longer for it.
type watermarks struct {
	bounds map[lane]jobs.Bound
	list   []jobs.Bound // the same, as claims want it
	usual  time.Duration
	next   time.Time // rescan not before, as far as the budget goes
	last   time.Time
}

type lane struct {
	task, queue string
	priority    int
}

// full: a rescan looks ten times as seldom as it takes longer than other claims.
const rescanShare = 10

// from is what the next claim shall pass: nil for a rescan.
func (w *watermarks) from(now time.Time, poll time.Duration) []jobs.Bound {
	if len(w.list) == 0 || !now.Before(w.next) || now.Sub(w.last) >= poll {
		return nil
	}
	return w.list
}

// note takes in what a claim gave that asked for n jobs at the given moment and took that long.
func (w *watermarks) note(rescan bool, n int, claims []jobs.Claim, at time.Time, took time.Duration) {
	if w.bounds == nil {
		w.bounds = map[lane]jobs.Bound{}
	}
	if rescan {
		w.last, w.next = at, at.Add(took+rescanShare*max(0, took-w.usual))
		if len(claims) < n*3/4 { // it saw all that there is (a claim may give some fewer than it was asked for)
			clear(w.bounds)
		}
	} else {
		w.usual += (took - w.usual) / 8
	}
	reached := map[lane]jobs.Bound{}
	for i := range claims {
		c := &claims[i]
		l := lane{c.Task, c.Queue, c.Priority}
		if b, ok := reached[l]; !ok || later(c.RunAt, c.ID, b) {
			reached[l] = jobs.Bound{Task: c.Task, Queue: c.Queue, Priority: c.Priority, RunAt: c.RunAt, ID: c.ID}
		}
	}
	for l, b := range reached {
		// A rescan that was cut short by n has not seen what lies between its end and the old bound.
		if old, ok := w.bounds[l]; rescan || !ok || later(b.RunAt, b.ID, old) {
			w.bounds[l] = b
		}
	}
	w.list = w.list[:0]
	for _, b := range w.bounds {
		w.list = append(w.list, b)
	}
}

// forget makes the next claim a rescan.
func (w *watermarks) forget() { w.last = time.Time{} }

func later(runAt time.Time, id int64, than jobs.Bound) bool {
	return runAt.After(than.RunAt) || (runAt.Equal(than.RunAt) && id > than.ID)
}
