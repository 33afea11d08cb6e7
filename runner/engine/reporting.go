package engine

import (
	"context"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
)

// collect takes what the workers have ended so far, without waiting, and what the database answered to a report beside.
func (c *control) collect() {
	if c.e.ends.len() > 0 {
		ended := c.e.ends.takeAll(c.spare)
		c.speed.count(time.Now(), len(ended))
		for i := range ended {
			c.ended(ended[i])
		}
		clear(ended)
		c.spare = ended[:0]
	}
	for {
		select {
		case answer := <-c.answers:
			c.answered(answer)
		default:
			return
		}
	}
}

// ended notes one attempt's end. One that the task's own transaction has reported, or whose claim is gone, is done with.
func (c *control) ended(r report) {
	if r.outcome.Name == "" {
		c.over(r, r.silent)
		return
	}
	if !r.attempt.held() { // given up meanwhile: the runner was declared dead
		c.e.opt.Observer.Refused(1)
		return
	}
	c.pending = append(c.pending, r)
}

// report sends what has ended, all in one statement. Much of it goes over a connection of the tasks, where one is idle, so that claims
// need not wait for it.
func (c *control) report(ctx context.Context) error {
	c.sendAside()
	if !c.canReport() || time.Now().Before(c.reportAt) {
		return nil
	}
	ctx, end := c.call(ctx)
	defer end()
	batch := c.pending[:atOnce(c.pending)]
	send := c.finish
	if c.mayExchange(time.Now()) {
		send = c.exchange
	}
	again, err := send(ctx, batch)
	if err != nil {
		return err // all stay pending: a report may be repeated
	}
	c.pending, c.troubles = append(again, c.pending[len(batch):]...), 0 // it answers: the next trouble is a new one
	if len(again) > 0 {
		c.reportAt = time.Now().Add(askAgain)
	}
	return nil
}

// mostReportBytes is how much of results goes in one finish.
const mostReportBytes = 1 << 20

// atOnce is how many of the first reports go in one statement: large results are copied on their way, so there are fewer of those.
func atOnce(pending []report) int {
	bytes := 0
	for i := range pending {
		bytes += len(pending[i].outcome.Result)
		if i == mostReports || (bytes > mostReportBytes && i > 0) {
			return i
		}
	}
	return len(pending)
}

// canReport: while others are on their way, what has ended since gathers, until it is enough to lend a hand.
func (c *control) canReport() bool {
	return len(c.pending) > 0 && (len(c.sent) == 0 || len(c.pending) >= mostReports)
}

// unreported counts what has ended and the database has not yet taken.
func (c *control) unreported() int {
	n := len(c.pending)
	for _, batch := range c.sent {
		n += len(batch)
	}
	return n
}

// answer is what became of a batch that was sent aside.
type answer struct {
	refused []jobs.Answer
	err     error
}

// sendAside hands what is worth it to reportAside: at most mostAside batches, so that the next lies ready when one is done. Not while the
// tasks have all connections, nor shortly after trouble.
func (c *control) sendAside() {
	for len(c.pending) >= enoughAside && len(c.sent) < mostAside && !time.Now().Before(c.asideAt) && !time.Now().Before(c.reportAt) {
		if stat := c.e.opt.Pool.Stat(); len(c.sent) == 0 && stat.AcquiredConns() >= stat.MaxConns() {
			return
		}
		n := atOnce(c.pending)
		batch := slices.Clone(c.pending[:n])
		c.pending = append(c.pending[:0], c.pending[n:]...)
		c.sent = append(c.sent, batch)
		c.batches <- asideBatch{c.runner, outcomesOf(batch)}
	}
}

// asideBatch is a batch on its way.
type asideBatch struct {
	runner   int64
	outcomes []jobs.Outcome
}

// reportAside reports batches over connections of the tasks, one after the other, until there are no more to come.
func (c *control) reportAside() {
	for batch := range c.batches {
		refused, err := c.finishAside(batch)
		c.answers <- answer{refused, err}
	}
}

// finishAside waits but shortly for a connection: the tasks may have taken all meanwhile.
func (c *control) finishAside(batch asideBatch) ([]jobs.Answer, error) {
	ctx, end := c.call(context.Background())
	defer end()
	waiting, stop := context.WithTimeout(ctx, progressWait)
	defer stop()
	conn, err := c.e.opt.Pool.Acquire(waiting)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	return jobs.Finish(ctx, conn, batch.runner, batch.outcomes)
}

// answered takes in the answer to the batch that was sent first. After trouble it is reported again, by the control connection, which finds
// out more.
func (c *control) answered(a answer) {
	batch := c.sent[0]
	c.sent = c.sent[1:]
	if a.err != nil {
		c.asideAt = time.Now().Add(troubleMost)
		for i := range batch {
			if batch[i].attempt.held() {
				c.pending = append(c.pending, batch[i])
			}
		}
		return
	}
	again := c.settleReports(batch, a.refused)
	if len(again) > 0 {
		c.pending = append(c.pending, again...)
		c.reportAt = time.Now().Add(askAgain)
	}
}

func outcomesOf(batch []report) []jobs.Outcome {
	outcomes := make([]jobs.Outcome, len(batch))
	for i := range batch {
		outcomes[i] = batch[i].outcome
	}
	return outcomes
}

// finish sends a batch and returns the reports to be sent again. Where the database can't take what one of them says, it finds out
// which, so that the others are not held up.
func (c *control) finish(ctx context.Context, batch []report) (again []report, err error) {
	refused, err := jobs.Finish(ctx, c.conn, c.runner, outcomesOf(batch))
	if err != nil && dataError(err) {
		return c.isolate(ctx, batch, err)
	}
	if err != nil {
		return nil, err
	}
	return c.settleReports(batch, refused), nil
}

// settleReports notes what the database has taken and what it refused, and returns what is to be sent again. What was given up
// meanwhile, since the runner was declared dead, has been counted then.
func (c *control) settleReports(batch []report, refused []jobs.Answer) (again []report) {
	next := 0
	for i := range batch {
		r := batch[i]
		isRefused := next < len(refused) && refused[next].Place == i
		askAgain := isRefused && refused[next].AskAgain
		if isRefused {
			next++
		}
		switch {
		case !r.attempt.held():
		case askAgain:
			again = append(again, r)
		case isRefused:
			c.e.opt.Observer.Refused(1)
			c.e.log.WithFields(fields(r.attempt)).WithField("state", r.outcome.Name).Warn("outcome refused: the claim is gone")
			c.held.drop(r.attempt)
		default:
			c.over(r, r.outcome.Name)
		}
	}
	return again
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

// maxLosses is how many runners may be lost with a job before it is a suspect, of which each runner holds one at a time.
const maxLosses = 2

// over: the database has taken the outcome.
func (c *control) over(r report, outcome string) {
	a := r.attempt
	c.held.drop(a)
	if outcome == "released" { // it waits in its old place, which may lie before where this runner has been
		c.marks.forget()
	}
	if a.claim.Attempt > maxLosses && c.idle.state != awake {
		c.idle.look = true // it may have been the runner's one suspect, and the next one, which nobody announces, waits for its end
	}
	c.e.opt.Observer.Finished(a.claim.Task, a.claim.Queue, outcome, a.claim.Waited, r.ran)
	if outcome == "released" && r.outcome.Error == nil {
		if c.e.opt.Log.IsLevelEnabled(logrus.DebugLevel) {
			c.e.log.WithFields(fields(a)).WithField("state", outcome).Debug("claim given back, not started")
		}
		return
	}
	c.lines.over(a, outcome, r.outcome.Error, r.ran)
}

func fields(a *attempt) logrus.Fields {
	return logrus.Fields{"job_id": a.claim.ID, "task": a.claim.Task, "queue": a.claim.Queue, "attempt": a.claim.Attempt, "fence": a.claim.Fence}
}
