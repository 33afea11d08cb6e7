package limit

import (
	"context"
	"time"
)

const (
	failuresInARow = 2 // one answer that is late, say for a lost packet, sends nobody local
	shortestPause  = time.Second
	longestPause   = 30 * time.Second
	steady         = time.Minute     // Redis is trusted again when it has answered so long
	connecting     = 5 * time.Second // a probe may take this long to connect; then Redis must answer in time
	dialing        = 4 * time.Second // of that, to reach the server, TLS included: what has failed there tells more than that time is over
)

// link is what a limiter knows of its Redis. Times are since the limiter's start.
type link struct {
	up         bool   // our Redis answers
	why        string // when not
	forced     bool   // somebody else's does not
	told       bool   // the log knows that it does not
	failures   int    // in a row
	back       time.Duration
	pause      time.Duration // before the next probe
	localSince time.Duration
	handover   time.Duration // until then the local share counts as well
	first      chan struct{} // closed after the first probe
	met        bool          // likewise
}

func (l *Limiter) local() bool { return !l.link.up || l.link.forced }

// change goes local or back where the link's change means so.
//
// Why there are never too many starts: who goes local starts empty, so that in each part of a local time no more than the share of that part
// starts. Who comes back is held to the share as well, until all others are back too, so that Redis's limit and the shares of those who have not noticed yet
// do not add up; and Redis hears of each place that jobs were started there, and takes its burst as used up. So each time adds up to rate × time, and only one
// burst stands at the beginning, when Redis was still there and rested.
// Who loses Redis alone tells the others by way of SetShare; until they know, their Redis lets the whole rate go beside our share.
func (l *Limiter) change(change func(*link)) {
	was := l.local()
	change(&l.link)
	is := l.local()
	now := l.now()
	switch {
	case is && !was:
		l.link.localSince = now
		if now >= l.link.handover { // else the buckets have counted on
			l.buckets.outage++
		}
		l.link.handover = 0
	case was && !is && l.link.met:
		l.link.handover = now + l.opt.Handover
	}
	if is != was {
		l.opt.Observer.Switched(is)
	}
}

// failed counts a batch without an answer, and gives Redis up after a few.
func (l *Limiter) failed(err error) {
	l.opt.Observer.RedisFailed()
	l.link.failures++
	if !l.link.up || l.link.failures < failuresInARow {
		return
	}
	l.change(func(k *link) { k.up, k.why, k.failures = false, err.Error(), 0 })
	l.warn()
	if l.now()-l.link.back >= steady {
		l.link.pause = 0
	}
	l.link.longer()
	l.retry(l.link.pause)
}

func (l *Limiter) warn() {
	l.link.told = true
	l.opt.Log.WithField("error", l.link.why).Warn("Redis does not answer: limits go on locally, at this runner's share")
}

// longer doubles the pause before the next probe.
func (k *link) longer() { k.pause = min(max(2*k.pause, shortestPause), longestPause) }

// background probes Redis until it answers.
func (l *Limiter) background(pause time.Duration) {
	if l.ctx.Err() != nil { // closed
		return
	}
	l.wait.Go(func() {
		for l.sleep(pause) && !l.tryAgain(l.ctx) {
			l.mu.Lock()
			l.link.longer()
			pause = l.link.pause
			l.mu.Unlock()
		}
	})
}

func (l *Limiter) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// tryAgain asks for a real decision, which also finds out a Redis that answers but takes no writes: once with time to connect, and then in time.
func (l *Limiter) tryAgain(ctx context.Context) bool {
	err := l.probe(ctx, connecting)
	if err == nil {
		err = l.probe(ctx, l.opt.Timeout)
	}
	if ctx.Err() != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.cameBack()
	} else {
		l.link.why = err.Error()
		if !l.link.told {
			l.warn()
		}
	}
	if !l.link.met {
		l.link.met = true
		close(l.link.first)
	}
	return err == nil
}

func (l *Limiter) probe(ctx context.Context, within time.Duration) error {
	ctx, end := context.WithTimeout(ctx, within)
	defer end()
	return l.script.probe(ctx, l.opt.Prefix)
}

func (l *Limiter) cameBack() {
	if l.link.told {
		l.opt.Log.Info("Redis answers again: it keeps the limits")
	}
	l.change(func(k *link) { k.up, k.told, k.why, k.back = true, false, "", l.now() })
}

// meet gives the first probe the time that a batch may take, so that what is asked at a runner's start is not put off for nothing.
func (l *Limiter) meet(ctx context.Context) {
	l.mu.Lock()
	met := l.link.met || l.script == nil
	l.mu.Unlock()
	if met {
		return
	}
	timer := time.NewTimer(l.opt.Timeout)
	defer timer.Stop()
	select {
	case <-l.link.first:
	case <-timer.C:
	case <-ctx.Done():
	}
}
