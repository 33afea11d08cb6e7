package engine

import (
	"maps"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// watermarks remembers, for each lane that gave jobs, up to where. A claim that starts there does not walk again over what has been
// finished since, which some open transaction may keep in the index for hours (measured: without them, a fifth of the speed is left
// after 200,000 jobs). But what lies before, of a transaction that was slow to commit, and lanes that are new, are found only by a
// claim without them, a rescan. Rescans may take a tenth of the time, for all lanes together, and a fortieth where they are dear: while nothing is
// in their way nearly every claim is one. And one is due a poll interval after the last, whatever it costs, so that no job waits longer for it.
//
// Where a rescan is dear, what is known of the lanes is kept also when nothing is left: who is woken from sleep then need not walk over all that
// is dead before it finds the job that it was called for.
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

// How many times longer than a rescan took beyond what other claims take the next one waits: of what is dear in it, beyond usualLook, more. Below
// that it is chance, and jobs of producers that commit out of order wait for it.
const (
	rescanShare = 10
	dearShare   = 40
)

// mostLanes are remembered while nothing is left in them.
const mostLanes = 1000

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
	cut := rescan && len(claims) >= n*3/4 // by n, so that it has not seen all (a claim may give some fewer than it was asked for)
	if rescan {
		longer := max(0, took-w.usual)
		dear := max(0, longer-usualLook)
		w.last, w.next = at, at.Add(took+rescanShare*(longer-dear)+dearShare*dear)
		if !cut && (dear == 0 || len(w.bounds) > mostLanes) {
			clear(w.bounds)
		}
	} else {
		w.usual += (took - w.usual) / 8
	}
	for l, b := range reached(claims) {
		// A rescan that was cut short has not seen what lies between its end and the old bound.
		if old, ok := w.bounds[l]; cut || !ok || later(b.RunAt, b.ID, old) {
			w.bounds[l] = b
		}
	}
	w.list = w.list[:0]
	for _, b := range w.bounds {
		w.list = append(w.list, b)
	}
}

// reached is how far each lane has given its jobs in their order. Those for which a rate has kept a time come before it, and count only where
// nothing else came: then nothing else is due before them.
func reached(claims []jobs.Claim) map[lane]jobs.Bound {
	inOrder, kept := map[lane]jobs.Bound{}, map[lane]jobs.Bound{}
	for i := range claims {
		c := &claims[i]
		l, to := lane{c.Task, c.Queue, c.Priority}, inOrder
		if c.Reservation != "" {
			to = kept
		}
		if b, ok := to[l]; !ok || later(c.RunAt, c.ID, b) {
			to[l] = jobs.Bound{Task: c.Task, Queue: c.Queue, Priority: c.Priority, RunAt: c.RunAt, ID: c.ID}
		}
	}
	maps.Copy(kept, inOrder)
	return kept
}

// forget makes the next claim a rescan.
func (w *watermarks) forget() { w.last = time.Time{} }

func later(runAt time.Time, id int64, than jobs.Bound) bool {
	return runAt.After(than.RunAt) || (runAt.Equal(than.RunAt) && id > than.ID)
}
