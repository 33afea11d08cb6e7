package engine

import (
	"context"
	"errors"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// idle says when to look for jobs, and how far the runner has gone to sleep.
//
//	awake ─ nothing to claim ─> settling ─ settled, and still nothing ─> asleep
//	  ^──────── jobs ───────────────┴──────────────────────────────────────┘
//
// While it settles it looks again and again, at growing distances, until every transaction that may not have seen it sleep has ended.
type idle struct {
	look     bool      // at once
	nextLook time.Time // otherwise
	state    sleepState
	number   string        // to settle on
	pause    time.Duration // between two looks while settling
	until    time.Time     // when the sleep that was announced ends
}

type sleepState int

const (
	awake sleepState = iota
	settling
	asleep
)

func (i *idle) lookAt(now time.Time) time.Time {
	if i.look {
		return now
	}
	return i.nextLook
}

// speed measures how many jobs end in a second, to know how far ahead it is worth claiming.
type speed struct {
	since time.Time
	ended int
	rate  float64 // jobs a second
}

func (s *speed) count(now time.Time, ended int) {
	s.ended += ended
	took := now.Sub(s.since)
	if took < 2*time.Millisecond {
		return
	}
	rate := float64(s.ended) / took.Seconds()
	s.rate += (rate - s.rate) * 0.3
	s.since, s.ended = now, 0
}

// ahead is how many claims may wait for a worker: as many as end in a moment. Long tasks get none, and stay free for other runners.
func (s *speed) ahead() int { return min(int(s.rate*aheadOf.Seconds()), mostAhead) }

// running counts the claims that no worker has ended yet.
func (c *control) running() int { return len(c.held) - len(c.pending) - len(c.e.outcomes) }

func (c *control) room() int { return c.e.opt.Workers + c.speed.ahead() - c.running() }

// wantsMore: small claims cost as much as large ones, so while workers still have something to do a claim waits for some room.
func (c *control) wantsMore() bool {
	room := c.room()
	return room > 0 && (len(c.e.ready) == 0 || room >= (c.e.opt.Workers+c.speed.ahead())/4)
}

// claim looks for jobs where that is due, and goes a step further to sleep where there are none.
func (c *control) claim(ctx context.Context) error {
	now := time.Now()
	if !c.wantsMore() || c.idle.lookAt(now).After(now) {
		return nil
	}
	ctx, end := c.call(ctx)
	defer end()
	if c.idle.state == settling {
		return c.settle(ctx)
	}
	byPoll := c.idle.state == asleep && !c.idle.look && !now.Before(c.idle.until)
	got, late, err := c.take(ctx)
	switch {
	case err != nil:
		return err
	case got > 0:
		if byPoll && late > time.Second && c.wakes() {
			c.e.opt.Observer.FoundByPoll(got)
		}
		return c.wakeUp(ctx)
	case c.idle.state == asleep && now.Before(c.idle.until):
		return c.sleepOn(ctx) // woken for another's job, or too early
	default:
		return c.fallAsleep(ctx)
	}
}

// take claims what there is room for and hands it to the workers. It returns how many, and how long the longest has been due.
func (c *control) take(ctx context.Context) (got int, late time.Duration, err error) {
	claims, err := jobs.TakeClaims(ctx, c.conn, c.runner, c.e.opt.Queues, c.e.tasks, min(c.room(), 10000))
	if err != nil {
		if !errors.Is(err, jobs.ErrLeaseRunOut) && !errors.Is(err, jobs.ErrRunnerGone) {
			now := time.Now() // the answer may be lost, and the claim be good
			c.reconcileAt = []time.Time{now, now.Add(c.e.opt.Lease)}
		}
		return 0, 0, err
	}
	now := time.Now()
	c.troubles = 0 // it answers: the next trouble is a new one
	for i := range claims {
		a := &attempt{claim: claims[i], deadline: now.Add(claims[i].Timeout)}
		late = max(late, claims[i].Waited)
		c.held[claims[i].Held] = a
		c.e.ready <- a
	}
	if len(claims) > 0 {
		c.e.opt.Observer.Claimed(len(claims))
	}
	return len(claims), late, nil
}

// wakeUp: there is work, so nobody need notify this runner.
func (c *control) wakeUp(ctx context.Context) error {
	announced := c.idle.state != awake && c.idle.number != ""
	c.idle = idle{look: true}
	if announced {
		return jobs.Awake(ctx, c.conn, c.runner)
	}
	return nil
}

// fallAsleep announces that the runner sleeps; where no notification reaches it, it need not say so, and polls.
func (c *control) fallAsleep(ctx context.Context) error {
	now := time.Now()
	c.idle = idle{state: asleep, until: now.Add(c.e.opt.Poll)}
	if !c.wakes() {
		return c.sleepOn(ctx)
	}
	number, err := jobs.Sleep(ctx, c.conn, c.runner, c.e.opt.Poll)
	if err != nil {
		return err
	}
	c.idle.state, c.idle.number, c.idle.look, c.idle.pause = settling, number, true, time.Millisecond
	return nil
}

// settle looks once more, after asking whether every transaction that may have missed the announcement had ended by then.
func (c *control) settle(ctx context.Context) error {
	settled, err := jobs.Settled(ctx, c.conn, c.idle.number)
	if err != nil {
		return err
	}
	got, _, err := c.take(ctx)
	switch {
	case err != nil:
		return err
	case got > 0:
		return c.wakeUp(ctx)
	case settled:
		c.idle.state = asleep
		return c.sleepOn(ctx)
	}
	c.idle.look, c.idle.nextLook = false, time.Now().Add(c.idle.pause)
	c.idle.pause = min(2*c.idle.pause, 100*time.Millisecond)
	return nil
}

// sleepOn sleeps until the next job may run, at most until the announced end.
func (c *control) sleepOn(ctx context.Context) error {
	c.idle.look = false
	next, err := jobs.NextRun(ctx, c.conn, c.runner)
	if err != nil {
		return err
	}
	if next <= 0 { // it is locked by somebody just now
		next = 100 * time.Millisecond
	}
	c.idle.nextLook = c.idle.until
	if at := time.Now().Add(next); next != jobs.Forever && at.Before(c.idle.until) {
		c.idle.nextLook = at
	}
	return nil
}
