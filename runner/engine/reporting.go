package engine

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
)

// collect takes what the workers have ended so far, without waiting.
func (c *control) collect() {
	for {
		select {
		case r := <-c.e.outcomes:
			c.ended(r)
		default:
			return
		}
	}
}

// ended notes one attempt's end. One that the task's own transaction has reported, or whose claim is gone, is done with.
func (c *control) ended(r report) {
	c.speed.count(time.Now(), 1)
	if r.outcome.Name == "" {
		c.over(r, r.silent)
		return
	}
	if c.held[r.attempt.claim.Held] == nil { // given up meanwhile: the runner was declared dead
		c.e.opt.Observer.Refused(1)
		return
	}
	c.pending = append(c.pending, r)
}

// report sends what has ended, all in one statement.
func (c *control) report(ctx context.Context) error {
	if len(c.pending) == 0 || time.Now().Before(c.reportAt) {
		return nil
	}
	ctx, end := c.call(ctx)
	defer end()
	batch := c.pending[:min(len(c.pending), mostReports)]
	left := c.pending[len(batch):]
	again, err := c.finish(ctx, batch)
	if err != nil {
		return err // all stay pending: a report may be repeated
	}
	c.pending, c.troubles = append(again, left...), 0 // it answers: the next trouble is a new one
	if len(again) > 0 {
		c.reportAt = time.Now().Add(askAgain)
	}
	return nil
}

// finish sends a batch and returns the reports to be sent again. Where the database can't take what one of them says, it finds out
// which, so that the others are not held up.
func (c *control) finish(ctx context.Context, batch []report) (again []report, err error) {
	outcomes := make([]jobs.Outcome, len(batch))
	for i := range batch {
		outcomes[i] = batch[i].outcome
	}
	answers, err := jobs.Finish(ctx, c.conn, c.runner, outcomes)
	if err != nil && dataError(err) {
		return c.isolate(ctx, batch, err)
	}
	if err != nil {
		return nil, err
	}
	for i, answer := range answers {
		switch {
		case answer.AskAgain:
			again = append(again, batch[i])
		case answer.Accepted:
			c.over(batch[i], batch[i].outcome.Name)
		default:
			c.e.opt.Observer.Refused(1)
			c.e.log.WithFields(fields(batch[i].attempt)).WithField("state", batch[i].outcome.Name).Warn("outcome refused: the claim is gone")
			delete(c.held, batch[i].attempt.claim.Held)
		}
	}
	return again, nil
}

func (c *control) isolate(ctx context.Context, batch []report, why error) ([]report, error) {
	if len(batch) == 1 {
		batch[0].outcome = jobs.Outcome{Held: batch[0].outcome.Held, Name: "failed", Error: describe(why)}
		return c.finish(ctx, batch)
	}
	half := len(batch) / 2
	first, err := c.finish(ctx, batch[:half])
	if err != nil {
		return nil, err
	}
	second, err := c.finish(ctx, batch[half:])
	return append(first, second...), err
}

// over: the database has taken the outcome.
func (c *control) over(r report, outcome string) {
	a := r.attempt
	delete(c.held, a.claim.Held)
	c.e.opt.Observer.Finished(a.claim.Task, a.claim.Queue, outcome, a.claim.Waited, r.ran)
	if outcome == "done" && !c.e.opt.Log.IsLevelEnabled(logrus.DebugLevel) {
		return
	}
	entry := c.e.log.WithFields(fields(a)).WithFields(logrus.Fields{"state": outcome, "elapsed_ms": r.ran.Milliseconds()})
	if r.outcome.Error != nil {
		entry = entry.WithField("error", string(r.outcome.Error))
	}
	switch outcome {
	case "done":
		entry.Debug("attempt finished")
	case "error", "failed":
		entry.Warn("attempt failed")
	default:
		entry.Info("attempt ended")
	}
}

func fields(a *attempt) logrus.Fields {
	return logrus.Fields{"job_id": a.claim.ID, "task": a.claim.Task, "queue": a.claim.Queue, "attempt": a.claim.Attempt, "fence": a.claim.Fence}
}
