package engine

import "github.com/pgtick/pgtick/runner/jobs"

// holds are the attempts whose claims the runner holds. Each knows its place in the list, so that to add or drop one costs no look-up: it
// happens twice for each job. Only the control loop touches it.
type holds struct{ list []*attempt }

func (h *holds) add(a *attempt) {
	h.list = append(h.list, a)
	a.place = len(h.list)
}

func (h *holds) drop(a *attempt) {
	if a.place == 0 {
		return
	}
	last := len(h.list) - 1
	moved := h.list[last]
	h.list[a.place-1], moved.place = moved, a.place
	h.list[last] = nil
	h.list, a.place = h.list[:last], 0
}

// find looks through them all: it is asked for the few that shall stop.
func (h *holds) find(held jobs.Held) *attempt {
	for _, a := range h.list {
		if a.claim.Held == held {
			return a
		}
	}
	return nil
}

func (a *attempt) held() bool { return a.place > 0 }
