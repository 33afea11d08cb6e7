package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

const (
	probeEvery = time.Minute
	probeWait  = 3 * time.Second
)

// probe tests the listener by a notification to itself, from another connection. A pooler in transaction mode takes LISTEN and then
// delivers nothing; a connection that died without a word does the same.
type probe struct {
	wanted bool   // the listener has just connected
	token  string // on its way
	sentAt time.Time
	count  int
	said   *bool // what was last recorded
}

func (p *probe) due(e *Engine) time.Time {
	switch {
	case e.opt.Listen == nil:
		return time.Now().Add(time.Hour)
	case p.wanted:
		return time.Time{} // long ago
	case p.token != "":
		return p.sentAt.Add(probeWait)
	default:
		return p.sentAt.Add(probeEvery)
	}
}

// forget: what was found out was recorded for another registration, so it is found out anew, at once where it was known.
func (p *probe) forget() { p.wanted, p.said = p.wanted || p.said != nil, nil }

// wakes: whether a notification may be relied on. Until the first test has ended it may not.
func (c *control) wakes() bool { return c.probe.said != nil && *c.probe.said }

func (c *control) testListener(ctx context.Context) error {
	ctx, end := c.call(ctx)
	defer end()
	if c.e.opt.Listen == nil {
		return c.sayWakes(ctx, false)
	}
	if time.Now().Before(c.probe.due(c.e)) {
		return nil
	}
	if c.probe.token != "" && !c.probe.wanted { // the last one did not come back
		wasGood := c.wakes()
		c.probe.token = ""
		if wasGood {
			c.e.signals.cutListener()
		}
		return c.sayWakes(ctx, false)
	}
	c.probe.count++
	c.probe.wanted, c.probe.sentAt = false, time.Now()
	c.probe.token = fmt.Sprintf("%d.%d", c.runner, c.probe.count)
	c.e.signals.await(c.probe.token)
	return jobs.Notify(ctx, c.conn, channelProbe, c.probe.token)
}

// heardProbe: notifications arrive, and the listener listens on all channels; what was announced before that is looked for now.
func (c *control) heardProbe() {
	if c.probe.token == "" { // it came late
		return
	}
	c.probe.token = ""
	c.idle.look = true
	if c.idle.number == "" { // it sleeps as one that only polls
		c.idle = idle{look: true}
	}
	ctx, end := c.call(context.Background())
	defer end()
	if err := c.sayWakes(ctx, true); err != nil {
		c.trouble(err)
	}
}

func (c *control) sayWakes(ctx context.Context, wakes bool) error {
	if c.conn == nil || (c.probe.said != nil && *c.probe.said == wakes) {
		return nil
	}
	if err := jobs.SayWakes(ctx, c.conn, c.runner, wakes); err != nil {
		return err
	}
	c.probe.said = &wakes
	c.e.update(func(s *Status) { s.Wakes = &wakes })
	if wakes {
		c.e.log.Info("notifications arrive")
	} else {
		c.e.log.Warnf("polling every %s: no notification arrives (a pooler in transaction mode? set LISTEN_DATABASE_URL to a direct or session-mode connection)", c.e.opt.Poll)
	}
	return nil
}
