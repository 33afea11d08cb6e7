package engine

import "sync"

// backlog holds the claims that no worker has begun, oldest first. A lock around a slice instead of a channel: tens of thousands of
// claims pass here in a second, and a channel that twenty workers wait on spends longer on waking them than they on their jobs.
type backlog struct {
	mu      sync.Mutex
	filled  *sync.Cond
	waiting []*attempt
	closed  bool
}

func newBacklog() *backlog {
	b := &backlog{}
	b.filled = sync.NewCond(&b.mu)
	return b
}

// put adds claims and wakes as many workers as they can keep busy.
func (b *backlog) put(claims []*attempt) {
	b.mu.Lock()
	b.waiting = append(b.waiting, claims...)
	b.mu.Unlock()
	for range claims {
		b.filled.Signal()
	}
}

// take waits for a claim. False: there are none and none will come.
func (b *backlog) take() (*attempt, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.waiting) == 0 {
		if b.closed {
			return nil, false
		}
		b.filled.Wait()
	}
	a := b.waiting[0]
	b.waiting[0] = nil
	b.waiting = b.waiting[1:]
	return a, true
}

// takeBack removes all but the oldest claims.
func (b *backlog) takeBack(keep int) []*attempt {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) <= keep {
		return nil
	}
	back := append([]*attempt(nil), b.waiting[keep:]...)
	clear(b.waiting[keep:])
	b.waiting = b.waiting[:keep]
	return back
}

func (b *backlog) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting)
}

// oldest is the claim that waits for a worker longest, or nil.
func (b *backlog) oldest() *attempt {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		return nil
	}
	return b.waiting[0]
}

// close ends the workers once nothing waits.
func (b *backlog) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.filled.Broadcast()
}

// ends holds the reports of attempts that have ended, until the control loop takes them all.
type ends struct {
	mu     sync.Mutex
	list   []report
	signal chan struct{}
}

func newEnds() *ends { return &ends{signal: make(chan struct{}, 1)} }

func (e *ends) add(r report) {
	e.mu.Lock()
	first := len(e.list) == 0
	e.list = append(e.list, r)
	e.mu.Unlock()
	if first {
		raise(e.signal)
	}
}

// takeAll hands the list over in exchange for an empty one.
func (e *ends) takeAll(empty []report) []report {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.list
	e.list = empty
	return list
}

func (e *ends) len() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.list)
}
