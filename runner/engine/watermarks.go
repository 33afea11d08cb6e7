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
//
// A rescan looks at each lane that has jobs, and takes as many jobs as there is room for: of thousands of lanes it has seen all and used a few. So
// when the lanes that it came to are empty, the others are asked for by name (DueLanes), and worked off a hundred at a time.
type watermarks struct {
	bounds  map[lane]jobs.Bound
	list    []jobs.Bound // the same, as claims want it
	others  []jobs.Bound // with jobs, for when those are empty
	cut     bool         // the last rescan may have left lanes with jobs that are not known
	unknown bool         // ask for them before the next claim
	onward  bool         // the last claim found nothing more in its lanes, but the next one may in others
	nothing bool         // no claim has found anything since they were asked for
	usual   time.Duration
	next    time.Time // rescan not before, as far as the budget goes
	last    time.Time
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

// fairShare: from so many jobs on each claim takes some from another lane than the first, where there is one with jobs.
const fairShare = 10

const (
	mostLanes   = 1000 // are remembered while nothing is left in them
	lanesAsked  = 5000 // so many at a time
	lanesAtOnce = 100  // in one claim
)

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
	short := len(claims) < max(1, n*3/4) // a claim may give some fewer than it was asked for
	cut := rescan && !short              // by n, so that it has not seen all
	reached := reached(claims)
	if len(claims) > 0 {
		w.nothing = false
	}
	w.onward = false
	if rescan {
		w.cut = cut && (len(reached) > 1 || n < fairShare)
		if !cut {
			w.others, w.unknown = nil, false
		}
		longer := max(0, took-w.usual)
		dear := max(0, longer-usualLook)
		w.last, w.next = at, at.Add(took+rescanShare*(longer-dear)+dearShare*dear)
		if !cut && (dear == 0 || len(w.bounds) > mostLanes) {
			clear(w.bounds)
		}
	} else {
		w.usual += (took - w.usual) / 8
	}
	for l, b := range reached {
		// A rescan that was cut short has not seen what lies between its end and the old bound.
		if old, ok := w.bounds[l]; cut || !ok || later(b.RunAt, b.ID, old) {
			w.bounds[l] = b
		}
	}
	if !rescan && short {
		w.goOn()
	}
	w.setList()
}

func (w *watermarks) setList() {
	w.list = w.list[:0]
	for _, b := range w.bounds {
		w.list = append(w.list, b)
	}
}

// goOn: nothing is left in the lanes of the last claim.
func (w *watermarks) goOn() {
	switch {
	case len(w.others) > 0:
		w.onward = true
		clear(w.bounds)
		n := min(lanesAtOnce, len(w.others))
		for _, b := range w.others[:n] {
			w.bounds[lane{b.Task, b.Queue, b.Priority}] = b
		}
		w.others = w.others[n:]
	case w.cut && w.nothing: // others hold what is left
		w.cut = false
	case w.cut:
		w.unknown, w.onward = true, true
	}
}

// learn takes in the lanes that were asked for. What is known of the ones before is kept when there are none.
func (w *watermarks) learn(lanes []jobs.Bound) {
	w.unknown, w.onward, w.nothing, w.others = false, false, true, lanes
	if len(lanes) == 0 {
		w.cut = false
	}
	w.goOn()
	w.setList()
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
