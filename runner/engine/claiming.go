package engine

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/tasks"
)

// idle says when to look for jobs, and how far the runner has gone to sleep.
//
//	awake ─ nothing to claim ─> settling ─ settled, and still nothing ─> asleep
//	  ^──────── jobs ───────────────┴──────────────────────────────────────┘
//
// While it settles it looks again and again, at growing distances, until every transaction that may not have seen it sleep has ended.
//
// Who wakes up for a job or two does not say so: as long as the announcement stands, whatever comes is notified, and going back to sleep takes
// no more than a look at what is due next. Only who has been busy for a moment says that he is awake, so that producers need not notify in vain.
type idle struct {
	look     bool      // at once
	nextLook time.Time // otherwise
	state    sleepState
	number   string        // of the announcement that stands, to settle on
	settled  bool          // it has
	woke     time.Time     // when
	pause    time.Duration // between two looks while settling
	until    time.Time     // when to look although nobody has called
	armed    time.Time     // until when it is announced that the runner sleeps
	next     time.Time     // when the next job is due that was there when last asked; whatever comes before that is notified
	locked   time.Duration // how long to wait for a job that is due and was not to be had
}

// How long a runner is busy before it says so: it writes a row for each of its queues, and again when it falls asleep.
const (
	sayAwakeAfter    = 2 * time.Millisecond
	sayAwakePerQueue = 100 * time.Microsecond
)

const undefinedFunction = "42883"

// usualLook: an empty claim takes less, unless much is in its way. Then who settles waits so many times as long as it took longer.
const (
	usualLook   = 10 * time.Millisecond
	settleShare = 10
)

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
	if rate > s.rate {
		s.rate += (rate - s.rate) * 0.8 // what was too much goes back
	} else {
		s.rate += (rate - s.rate) * 0.3
	}
	s.since, s.ended = now, 0
}

// begin: nothing was running, so the time until now does not count.
func (s *speed) begin(now time.Time) { s.since, s.ended = now, 0 }

// in is how many jobs will end within d, at the present speed. When nothing has ended for some time, that is at most what it would be if
// something did now.
func (s *speed) in(d time.Duration, now time.Time) int {
	rate := s.rate
	if silent := now.Sub(s.since); silent > stuckAfter/2 {
		rate = min(rate, 1/silent.Seconds())
	}
	return min(int(rate*d.Seconds()), mostAhead)
}

// ahead is how many claims may wait for a worker: as many as end in a moment. Long tasks get none, and stay free for other runners.
func (s *speed) ahead(now time.Time) int { return s.in(aheadOf, now) }

// running counts the claims that no worker has ended yet.
func (c *control) running() int { return len(c.held.list) - c.unreported() - c.e.ends.len() }

// most is how many claims the runner wants to hold at present.
func (c *control) most(now time.Time) int { return c.e.opt.Workers + c.speed.ahead(now) }

// wantsMore: small claims cost as much as large ones, so while workers still have something to do a claim waits for some room. And nobody
// is served by claims that run ahead of the reports.
func (c *control) wantsMore(now time.Time) bool {
	most := c.most(now)
	room := most - c.running()
	return room > 0 && c.unreported() < mostEnded && (room >= most/4 || c.e.backlog.len() == 0)
}

// giveBackStuck releases claims that wait for a worker longer than they should: what has been running turned out slow, and another
// runner may be idle.
func (c *control) giveBackStuck(now time.Time) {
	oldest := c.e.backlog.oldest()
	if oldest == nil || now.Sub(oldest.claimedAt) < stuckAfter {
		return
	}
	back := c.e.backlog.takeBack(c.speed.in(stuckAfter, now))
	for _, a := range back {
		c.pending = append(c.pending, c.e.notStarted(a, tasks.ErrShutdown))
	}
	if len(back) > 0 {
		c.e.log.WithField("state", "released").Infof("gave back %d claims that no worker was free to begin", len(back))
	}
}

// claim looks for jobs where that is due, and goes a step further to sleep where there are none.
func (c *control) claim(ctx context.Context) error {
	now := time.Now()
	ctx, end := c.call(ctx)
	defer end()
	if !c.wantsMore(now) {
		return c.sayAwake(ctx)
	}
	if c.idle.lookAt(now).After(now) {
		return nil
	}
	if c.idle.state == settling {
		return c.settle(ctx)
	}
	if err := c.learnLanes(ctx); err != nil {
		return err
	}
	called := c.idle.look
	byPoll := c.idle.state == asleep && !called && !now.Before(c.idle.until)
	got, late, err := c.take(ctx)
	switch {
	case err != nil:
		return err
	case got > 0:
		if byPoll && late > time.Second && c.wakes() {
			c.e.opt.Observer.FoundByPoll(got)
		}
		return c.wakeUp(ctx)
	case c.idle.state == awake && c.marks.onward:
		return nil
	case c.idle.state == asleep && now.Before(c.idle.until):
		return c.sleepOn(ctx, called) // woken for another's job, or too early
	case c.idle.state == asleep && now.Add(c.e.opt.Poll).Before(c.idle.armed):
		c.idle.until = now.Add(c.e.opt.Poll)
		return c.sleepOn(ctx, called)
	default:
		return c.fallAsleep(ctx)
	}
}

// learnLanes asks for lanes with jobs when those that are known have none left, and there are more.
func (c *control) learnLanes(ctx context.Context) error {
	if !c.marks.unknown {
		return nil
	}
	lanes, err := jobs.DueLanes(ctx, c.conn, c.e.opt.Queues, c.e.tasks, lanesAsked)
	if missing := new(pgconn.PgError); errors.As(err, &missing) && missing.Code == undefinedFunction {
		lanes, err = nil, nil // the functions are those of an earlier release; rescans find the lanes, as it did
	}
	if err != nil {
		return err
	}
	c.marks.learn(lanes)
	return nil
}

// want is what the next claim shall ask for. Who goes to sleep has to be sure that there is nothing, so looks without bounds; and so does a poll,
// which is there for what no notification has announced.
func (c *control) want(now time.Time) jobs.Wanted {
	w := jobs.Wanted{Runner: c.runner, Queues: c.e.opt.Queues, Tasks: c.e.tasks, N: min(c.most(now)-c.running()+c.limits.back, 10000)}
	if c.idle.state == awake || c.idle.state == asleep && now.Before(c.idle.until) {
		w.From = c.marks.from(now, c.e.opt.Poll)
	}
	return w
}

// take claims what there is room for. It returns how many, and how long the longest has been due.
func (c *control) take(ctx context.Context) (got int, late time.Duration, err error) {
	began := time.Now()
	want := c.want(began)
	claims, err := jobs.TakeClaims(ctx, c.conn, want)
	if err != nil {
		c.claimFailed(err)
		return 0, 0, err
	}
	return len(claims), c.given(ctx, claims, want, began), nil
}

// claimFailed: unless the claim was refused for what the runner is, it may be good although its answer did not come. An error of the server
// is no proof of the contrary: a session that is ended between its commit and the end of its answer leaves one, too.
func (c *control) claimFailed(err error) {
	if errors.Is(err, jobs.ErrLeaseRunOut) || errors.Is(err, jobs.ErrRunnerGone) {
		return
	}
	now := time.Now()
	c.reconcileAt = []time.Time{now, now.Add(c.e.opt.Lease)}
}

// given hands claims to the workers, and returns how long the longest has been due.
func (c *control) given(ctx context.Context, claims []jobs.Claim, want jobs.Wanted, began time.Time) (late time.Duration) {
	now := time.Now()
	c.marks.note(want.From == nil, want.N, claims, began, now.Sub(began))
	c.troubles = 0 // it answers: the next trouble is a new one
	claims = c.allowed(ctx, claims)
	if len(claims) == 0 {
		return 0
	}
	if c.running() == 0 {
		c.speed.begin(now)
	}
	attempts := make([]attempt, len(claims))
	list := make([]*attempt, len(claims))
	for i := range claims {
		a := &attempts[i]
		a.claim, a.claimedAt, a.deadline = &claims[i], now, now.Add(claims[i].Timeout)
		late = max(late, claims[i].Waited)
		c.held.add(a)
		list[i] = a
	}
	c.e.backlog.put(list)
	c.e.opt.Observer.Claimed(len(claims))
	return late
}

// exchange reports a batch and claims, in one transaction. When the database refuses it, the two go apart for some time, so that each
// shows what is the matter with it.
func (c *control) exchange(ctx context.Context, batch []report) (again []report, err error) {
	began := time.Now()
	want := c.want(began)
	refused, claims, err := jobs.FinishAndClaim(ctx, c.conn, outcomesOf(batch), want)
	if err != nil {
		c.claimFailed(err)
		if refusal := new(pgconn.PgError); !errors.As(err, &refusal) {
			return nil, err
		}
		c.apartUntil = began.Add(troubleMost)
		return batch, nil
	}
	again = c.settleReports(batch, refused)
	c.given(ctx, claims, want, began)
	switch {
	case len(claims) > 0:
		return again, c.wakeUp(ctx)
	case want.From == nil:
		return again, c.fallAsleep(ctx)
	default:
		return again, nil
	}
}

// mayExchange: a claim is due as well, and no step of falling asleep.
func (c *control) mayExchange(now time.Time) bool {
	return !c.stopping && c.idle.state == awake && !c.marks.unknown && !c.idle.lookAt(now).After(now) && c.wantsMore(now) && now.After(c.apartUntil) && len(c.reconcileAt) == 0
}

// wakeUp: there is work.
func (c *control) wakeUp(ctx context.Context) error {
	was := c.idle
	c.idle = idle{look: true, number: was.number, settled: was.settled, armed: was.armed, woke: was.woke}
	if was.state != awake {
		c.idle.settled, c.idle.woke = was.state == asleep, time.Now()
	}
	return c.sayAwake(ctx)
}

// sayAwake ends the announcement of a runner that has been busy for a moment: nobody need notify it.
func (c *control) sayAwake(ctx context.Context) error {
	if c.idle.state != awake || c.idle.number == "" || time.Since(c.idle.woke) < max(sayAwakeAfter, time.Duration(len(c.e.opt.Queues))*sayAwakePerQueue) {
		return nil
	}
	c.idle.number = ""
	return jobs.Awake(ctx, c.conn, c.runner)
}

// fallAsleep announces that the runner sleeps, for long enough that it need not say so at each poll, nor when the announcement still stands. Where
// no notification reaches it, it says nothing, and polls.
func (c *control) fallAsleep(ctx context.Context) error {
	was, now := c.idle, time.Now()
	c.idle = idle{state: asleep, until: now.Add(c.e.opt.Poll)}
	if !c.wakes() {
		return c.sleepOn(ctx, true)
	}
	if was.number != "" && now.Add(c.e.opt.Poll/2).Before(was.armed) {
		c.idle.number, c.idle.armed = was.number, was.armed
		if was.armed.Before(c.idle.until) {
			c.idle.until = was.armed
		}
		if was.settled {
			return c.sleepOn(ctx, true)
		}
	} else {
		lasts := max(c.e.opt.Poll, armFor)
		number, err := jobs.Sleep(ctx, c.conn, c.runner, lasts)
		if err != nil {
			return err
		}
		c.idle.number, c.idle.armed = number, now.Add(lasts)
	}
	c.idle.state, c.idle.look, c.idle.pause = settling, true, time.Millisecond
	return nil
}

// settle looks once more, after asking whether every transaction that may have missed the announcement had ended by then.
func (c *control) settle(ctx context.Context) error {
	settled, err := jobs.Settled(ctx, c.conn, c.idle.number)
	if err != nil {
		return err
	}
	began := time.Now()
	got, _, err := c.take(ctx)
	took := time.Since(began)
	switch {
	case err != nil:
		return err
	case got > 0:
		return c.wakeUp(ctx)
	case settled:
		c.idle.state = asleep
		return c.sleepOn(ctx, true)
	}
	// A look that is dear, since some transaction holds back cleaning, takes a tenth of the time.
	pause := min(max(c.idle.pause, settleShare*(took-usualLook)), c.e.opt.Poll)
	c.idle.look, c.idle.nextLook = false, time.Now().Add(pause)
	c.idle.pause = min(2*c.idle.pause, 100*time.Millisecond)
	return nil
}

// sleepOn sleeps until the next job may run, at most until the poll. It asks for that job again when somebody has called, or when the
// one it knew of is due.
func (c *control) sleepOn(ctx context.Context, ask bool) error {
	c.idle.look = false
	now := time.Now()
	if ask || !now.Before(c.idle.next) {
		next, err := jobs.NextRun(ctx, c.conn, c.runner)
		if err != nil {
			return err
		}
		if next <= 0 { // it became due just now; or, if it is so again, somebody has it locked
			if c.idle.locked == 0 {
				c.marks.forget() // or it lies before what has been seen of its lane, or in a new one
			}
			next = c.idle.locked
			c.idle.locked = min(2*c.idle.locked+time.Millisecond, 100*time.Millisecond)
		} else {
			c.idle.locked = 0
		}
		c.idle.next = time.Now().Add(min(next, 24*time.Hour))
	}
	c.idle.nextLook = c.idle.until
	if c.idle.next.Before(c.idle.until) {
		c.idle.nextLook = c.idle.next
	}
	return nil
}
