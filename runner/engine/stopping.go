package engine

import (
	"context"
	"slices"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/tasks"
)

// obey is how long attempts have to return once they are told that the runner stops.
const obey = 5 * time.Second

// drain lets running attempts end, within the grace; then tells them to; then gives back what still has not ended.
func (c *control) drain(endAttempts context.CancelCauseFunc) {
	c.stopping = true
	c.e.log.WithField("state", "stopping").Infof("stopping: %d claims held, %s for them to end", len(c.held.list), c.e.opt.Grace)
	c.giveBackUnstarted()
	c.serve(time.Now().Add(c.e.opt.Grace))
	if c.running() > 0 {
		endAttempts(tasks.ErrShutdown)
		c.serve(time.Now().Add(obey))
	}
	c.abandon()
	c.serve(time.Now().Add(obey))
	c.lines.flush(time.Now().Add(time.Second))
}

// serve goes on reporting and renewing the lease until nothing is held, or the time is up.
func (c *control) serve(deadline time.Time) {
	ctx, end := context.WithDeadline(context.Background(), deadline)
	defer end()
	for len(c.held.list) > 0 && ctx.Err() == nil {
		if err := c.serveOnce(ctx); err != nil && ctx.Err() == nil {
			c.trouble(err)
		}
		if len(c.held.list) > 0 {
			c.wait(ctx)
		}
	}
}

func (c *control) serveOnce(ctx context.Context) error {
	c.collect()
	c.lines.flush(time.Now())
	if time.Now().Before(c.retryAt) {
		return nil
	}
	for _, step := range []func(context.Context) error{c.connect, c.heartbeat, c.report} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	c.rescueAt, c.upkeepAt = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
	c.reconcileAt, c.probe.token, c.probe.wanted, c.probe.sentAt = nil, "", false, time.Now()
	return nil
}

// giveBackUnstarted takes the claims that no worker has begun.
func (c *control) giveBackUnstarted() {
	for _, a := range c.e.backlog.takeBack(0) {
		c.pending = append(c.pending, c.e.notStarted(a, tasks.ErrShutdown))
	}
}

// abandon gives back the claims of attempts that do not stop: whatever they still do in the database is refused.
func (c *control) abandon() {
	c.collect()
	reported := map[*attempt]bool{}
	for _, r := range slices.Concat(append(c.sent, c.pending)...) {
		reported[r.attempt] = true
	}
	for _, a := range c.held.list {
		if !reported[a] {
			c.e.log.WithFields(fields(a)).Warn("attempt does not stop; its job goes back")
			c.pending = append(c.pending, report{attempt: a, outcome: jobs.Outcome{Held: a.claim.Held, Name: "released", Error: describe(tasks.ErrShutdown)}})
		}
	}
}

// leave ends the runner in the database and closes the connection.
func (c *control) leave() error {
	ctx, end := context.WithTimeout(context.Background(), obey)
	defer end()
	defer c.disconnect()
	if err := c.connect(ctx); err != nil {
		return err
	}
	if c.runner == 0 {
		return nil
	}
	err := jobs.Leave(ctx, c.conn, c.runner)
	if err == nil || !c.conn.IsClosed() {
		return err
	}
	c.disconnect() // it was dead already: a runner that sleeps need not have noticed
	if err := c.connect(ctx); err != nil {
		return err
	}
	return jobs.Leave(ctx, c.conn, c.runner)
}
