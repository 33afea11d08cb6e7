package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/tasks"
)

const (
	mostAhead   = 2000             // claims beyond the workers, at most
	enoughAside = 100              // outcomes that are worth a connection of the tasks
	mostAside   = 3                // batches on their way there
	mostEnded   = 3 * mostReports  // unreported, before claims wait
	gather      = time.Millisecond // what ends within it is reported together, while much is to be done
	stuckAfter  = 200 * time.Millisecond
	mostReports = 2000                  // outcomes in one finish
	mostSlots   = 500                   // in one tick: it holds up the claims for some 30 ms
	aheadOf     = 50 * time.Millisecond // how long the claims ahead shall last, at the present speed
	askAgain    = 20 * time.Millisecond // after "somebody has the row locked"
	troubleWait = 50 * time.Millisecond // after an error of the database, doubled up to
	troubleMost = 2 * time.Second
	armFor      = 5 * time.Minute // a sleep that is announced, at least
	tickAtLeast = time.Minute     // look for due slots that often, whatever was said of the next; without notifications, at each poll
	upkeepEvery = time.Minute     // look whether it is due, for all runners together
	lookEvery   = time.Minute     // for schedules without a done job in time
	settleIn    = time.Second     // the first look for what others left can wait until the first jobs run
)

// control is the one goroutine that owns the control connection. Only it touches these fields.
type control struct {
	e        *Engine
	conn     *pgx.Conn
	runner   int64
	held     holds           // claims whose outcome the database has not yet taken
	pending  []report        // ended, to be reported
	sent     [][]report      // on their way over a task's connection, in this order
	batches  chan asideBatch // the same, for reportAside
	answers  chan answer     // to them
	spare    []report        // for ends
	speed    speed
	marks    watermarks
	idle     idle
	limits   limits
	probe    probe
	lines    lines
	stopping bool

	troubles    int
	advised     string    // with the last of them that was
	retryAt     time.Time // of the connection
	reportAt    time.Time // not before
	asideAt     time.Time // not before
	apartUntil  time.Time // reports and claims
	heartbeatAt time.Time
	tickAt      time.Time
	slotAt      time.Time // of the next slot, as last read
	ticked      bool      // in this turn
	rescueAt    time.Time
	upkeepAt    time.Time
	deadlinesAt time.Time
	aside       aside
	reconcileAt []time.Time
}

func newControl(e *Engine) *control {
	now := time.Now()
	later := now.Add(settleIn)
	return &control{e: e, batches: make(chan asideBatch, mostAside), answers: make(chan answer, mostAside), tickAt: now, rescueAt: later, upkeepAt: later, deadlinesAt: later, idle: idle{look: true},
		lines: lines{log: e.log, most: max(e.opt.LogRate, 0)}}
}

// start makes the first contact; its errors end the engine.
func (c *control) start(ctx context.Context) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	return c.register(ctx)
}

// pause waits until the connection may be tried again; false: ctx has ended.
func (c *control) pause(ctx context.Context) bool {
	timer := time.NewTimer(time.Until(c.retryAt))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		c.disconnect()
		return false
	case <-timer.C:
		return true
	}
}

// loop serves until ctx ends.
func (c *control) loop(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.turn(ctx); err != nil && ctx.Err() == nil {
			c.trouble(err)
		}
		c.wait(ctx)
	}
}

// turn does all that is due, each step after a due heartbeat. A due tick waits for one report or claim at most, but there is one in a turn.
func (c *control) turn(ctx context.Context) error {
	c.collect()
	c.lines.flush(time.Now())
	c.giveBackStuck(time.Now())
	c.ticked = false
	c.e.update(func(s *Status) { s.LastTurn, s.Held, s.RunnerID = time.Now(), len(c.held.list), c.runner })
	if time.Now().Before(c.retryAt) {
		return nil
	}
	for _, step := range []func(context.Context) error{c.connect, c.register, c.tick, c.report, c.tick, c.reconcile, c.readLimits, c.claim, c.rescue, c.testListener} {
		if err := c.heartbeat(ctx); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	c.upkeep(ctx)
	c.deadlines(ctx)
	c.troubles = 0
	return nil
}

// call gives one statement of the control connection its time: a sixth of the lease, so that no wait endangers the next heartbeat; but
// at least a second, since with the shortest leases every hiccup would otherwise cost the connection.
func (c *control) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), max(c.e.opt.Lease/6, time.Second))
}

func (c *control) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	ctx, end := context.WithTimeout(ctx, 10*time.Second)
	defer end()
	conn, err := c.e.opt.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	c.conn, c.heartbeatAt, c.idle = conn, time.Now(), idle{look: true}
	c.marks.forget()
	return nil
}

func (c *control) register(ctx context.Context) error {
	if c.runner != 0 {
		return nil
	}
	ctx, end := c.call(ctx)
	defer end()
	if err := c.declare(ctx); err != nil {
		return err
	}
	id, err := jobs.Register(ctx, c.conn, c.e.runner())
	if err != nil {
		return err
	}
	c.runner, c.heartbeatAt, c.idle = id, time.Now().Add(c.beat()), idle{look: true}
	c.probe.forget()
	c.limits = limits{}
	c.e.update(func(s *Status) { s.RunnerID, s.LastContact = id, time.Now() })
	c.e.log.WithField("runner", fmt.Sprintf("%s (%d)", c.e.opt.Name, id)).Info("runner registered")
	return nil
}

// beat is a little less than a third of the lease, so that a beat lies between any two looks of rescue() that are a third apart.
func (c *control) beat() time.Duration { return c.e.opt.Lease * 3 / 10 }

func (c *control) heartbeat(ctx context.Context) error {
	if c.conn == nil || c.runner == 0 || time.Now().Before(c.heartbeatAt) {
		return nil
	}
	ctx, end := c.call(ctx)
	defer end()
	stops, err := jobs.Heartbeat(ctx, c.conn, c.runner, c.heldList())
	if err != nil {
		return err
	}
	c.heartbeatAt = time.Now().Add(c.beat())
	c.e.update(func(s *Status) { s.LastContact = time.Now() })
	for _, s := range stops {
		if a := c.held.find(s.Held); a != nil {
			c.e.log.WithFields(fields(a)).WithField("state", s.Reason).Debug("attempt told to stop")
			a.stop(causes[s.Reason])
		}
	}
	return nil
}

// causes of a stop, by what the database calls them.
var causes = map[string]error{"cancelled": tasks.ErrCancelled, "timed_out": tasks.ErrTimeout, "fenced": tasks.ErrFenced}

func (c *control) heldList() []jobs.Held {
	list := make([]jobs.Held, 0, len(c.held.list))
	for _, a := range c.held.list {
		list = append(list, a.claim.Held)
	}
	return list
}

// reconcile gives back what a lost answer may have given: at once, and a lease later, when no claim can be on its way any more.
func (c *control) reconcile(ctx context.Context) error {
	if len(c.reconcileAt) == 0 || time.Now().Before(c.reconcileAt[0]) {
		return nil
	}
	ctx, end := c.call(ctx)
	defer end()
	n, err := jobs.Reconcile(ctx, c.conn, c.runner, c.heldList())
	if err != nil {
		return err
	}
	c.reconcileAt = c.reconcileAt[1:]
	if n > 0 {
		c.idle.look = true
		c.e.log.Infof("gave back %d claims whose answer was lost", n)
	}
	return nil
}

func (c *control) tick(ctx context.Context) error {
	if c.e.opt.NoClock || c.ticked || time.Now().Before(c.tickAt) {
		return nil
	}
	c.ticked = true
	ctx, end := c.call(ctx)
	defer end()
	if time.Now().Before(c.slotAt) { // a look only: another schedule's slot may be nearer now
		return c.readNextTick(ctx, true)
	}
	made, err := jobs.Tick(ctx, c.conn, mostSlots)
	if err != nil {
		c.tickAt = time.Now().Add(time.Second)
		return err
	}
	c.e.opt.Observer.Ticked(made)
	if made > 0 {
		c.idle.look = true
	}
	return c.readNextTick(ctx, made > 0)
}

// readNextTick sets the time of the next tick. When slots are due that this runner's tick did not take (atOnce false), another clock is at
// it, or a schedule is broken.
func (c *control) readNextTick(ctx context.Context, atOnce bool) error {
	next, err := jobs.NextTick(ctx, c.conn)
	if err != nil {
		return err
	}
	if next <= 0 && !atOnce {
		next = time.Second
	}
	now, atLeast := time.Now(), tickAtLeast
	if !c.wakes() {
		atLeast = c.e.opt.Poll // nobody says that a schedule has changed
	}
	c.slotAt = now.Add(min(max(next, 0), 24*time.Hour))
	c.tickAt = now.Add(min(max(next, 0), atLeast))
	return nil
}

func (c *control) rescue(ctx context.Context) error {
	if time.Now().Before(c.rescueAt) {
		return nil
	}
	ctx, end := c.call(ctx)
	defer end()
	n, err := jobs.Rescue(ctx, c.conn)
	if err != nil {
		c.rescueAt = time.Now().Add(time.Second)
		return err
	}
	c.rescueAt = time.Now().Add(c.e.opt.Lease / 3)
	if n > 0 {
		c.idle.look = true
		c.e.opt.Observer.Rescued(n)
		c.e.log.Warnf("gave back %d claims of dead runners", n)
	}
	return nil
}

// upkeep and deadlines may take longer than the control connection allows, so they use a task's.
func (c *control) upkeep(ctx context.Context) {
	if time.Now().Before(c.upkeepAt) {
		return
	}
	c.upkeepAt = time.Now().Add(upkeepEvery)
	c.aside.start(ctx, &c.aside.upkeep, func(ctx context.Context) {
		if err := jobs.MaintainWhereDue(ctx, c.e.opt.Pool); err != nil && ctx.Err() == nil {
			c.e.log.WithError(err).Warn("upkeep failed; it is tried again in a minute")
		}
	})
}

// deadlines is a clock's duty.
func (c *control) deadlines(ctx context.Context) {
	if c.e.opt.NoClock || time.Now().Before(c.deadlinesAt) {
		return
	}
	c.deadlinesAt = time.Now().Add(lookEvery)
	c.aside.start(ctx, &c.aside.deadlines, func(ctx context.Context) {
		overdue, err := jobs.CheckDeadlines(ctx, c.e.opt.Pool)
		if err != nil {
			if ctx.Err() == nil {
				c.e.log.WithError(err).Warn("could not look for overdue schedules")
			}
			return
		}
		c.e.opt.Observer.Overdue(overdue)
	})
}

// aside is work beside the control loop, each kind at most once at a time.
type aside struct{ upkeep, deadlines atomic.Bool }

func (*aside) start(ctx context.Context, busy *atomic.Bool, work func(context.Context)) {
	if !busy.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer busy.Store(false)
		ctx, end := context.WithTimeout(ctx, 5*time.Minute)
		defer end()
		work(ctx)
	}()
}

// trouble decides what an error of the control connection means.
func (c *control) trouble(err error) {
	now := time.Now()
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, jobs.ErrRunnerGone):
		c.lost()
		return
	case errors.Is(err, jobs.ErrLeaseRunOut):
		c.heartbeatAt = now
		return
	case !errors.As(err, &pg) || c.conn == nil || c.conn.IsClosed() || pg.Code == readOnly:
		c.disconnect() // of a server that takes no writes, too: after a failover the next session meets another one
	}
	wait, advice := min(troubleWait<<min(c.troubles, 6), troubleMost), Advice(err)
	if c.troubles%30 != 0 && advice == c.advised { // once a minute will do
		advice = ""
	} else {
		c.advised = advice
	}
	c.troubles++
	c.retryAt = now.Add(wait)
	entry := c.e.log.WithError(err)
	if pg != nil {
		entry = entry.WithField("sqlstate", pg.Code)
	}
	entry.Warnf("the database refused or did not answer; trying again in %s%s", wait, advice)
}

func (c *control) disconnect() {
	if c.conn == nil {
		return
	}
	ctx, end := context.WithTimeout(context.Background(), time.Second)
	defer end()
	_ = c.conn.Close(ctx)
	c.conn = nil
}

// lost: this runner was declared dead, so its claims are others' now. Attempts are told, and it registers anew.
func (c *control) lost() {
	c.e.log.Warnf("this runner was declared dead, with %d claims; registering anew", len(c.held.list))
	for _, a := range c.held.list {
		a.stop(tasks.ErrFenced)
	}
	c.e.opt.Observer.Refused(c.unreported())
	for _, r := range slices.Concat(append(c.sent, c.pending)...) {
		c.held.drop(r.attempt)
	}
	c.pending, c.runner, c.reconcileAt = nil, 0, nil
}

// wait sleeps until something is due or somebody calls. While there is more to do than the workers can begin, it is not called for each
// attempt that ends: what has ended in a moment makes one batch.
func (c *control) wait(ctx context.Context) {
	due, ended := c.nextDue(), c.e.ends.signal
	if c.e.backlog.len() > c.e.opt.Workers {
		ended = nil
		if soon := time.Now().Add(gather); soon.Before(due) {
			due = soon
		}
	}
	timer := time.NewTimer(max(time.Until(due), 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-ended:
	case answer := <-c.answers:
		c.answered(answer)
	case <-c.e.signals.look:
		c.idle.look = true
	case <-c.e.signals.stop:
		c.heartbeatAt = time.Now()
	case <-c.e.signals.tick:
		c.tickAt = time.Now()
	case <-c.e.signals.probe:
		c.probe.wanted = true
	case <-c.e.signals.limits:
		c.limits.at = time.Time{}
	case <-c.e.signals.heard:
		c.heardProbe()
	}
}

// nextDue is the earliest moment at which turn has something to do.
func (c *control) nextDue() time.Time {
	now := time.Now()
	if c.retryAt.After(now) {
		return c.retryAt
	}
	due := c.heartbeatAt
	earlier := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	for _, t := range []time.Time{c.rescueAt, c.upkeepAt, c.probe.due(c.e)} {
		earlier(t)
	}
	if len(c.reconcileAt) > 0 {
		earlier(c.reconcileAt[0])
	}
	if c.canReport() {
		earlier(c.reportAt)
	}
	if !c.stopping {
		earlier(c.limits.at)
	}
	if !c.stopping && !c.e.opt.NoClock {
		earlier(c.tickAt)
		earlier(c.deadlinesAt)
	}
	if !c.stopping && c.wantsMore(now) {
		earlier(c.idle.lookAt(now))
	}
	if oldest := c.e.backlog.oldest(); !c.stopping && oldest != nil {
		earlier(oldest.claimedAt.Add(stuckAfter))
	}
	if say := c.lines.due(); !c.stopping && !say.IsZero() {
		earlier(say)
	}
	return due
}
