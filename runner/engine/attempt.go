package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/tasks"
)

// attempt is one claim from the moment it arrives until its outcome is taken.
type attempt struct {
	claim     *jobs.Claim
	claimedAt time.Time
	deadline  time.Time
	place     int // among those held, from 1 on; 0: not held (any more)

	mu      sync.Mutex
	cancel  context.CancelCauseFunc // nil until it runs
	stopped error                   // why it must stop, perhaps before it runs
}

// stop ends the attempt's context with a cause; the first cause counts.
func (a *attempt) stop(cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped != nil {
		return
	}
	a.stopped = cause
	if a.cancel != nil {
		a.cancel(cause)
	}
}

// begin gives the attempt its context, or the cause for which it shall not run at all.
func (a *attempt) begin(parent context.Context) (context.Context, func(), error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped != nil {
		return nil, nil, a.stopped
	}
	if cause := context.Cause(parent); cause != nil {
		return nil, nil, cause
	}
	ctx, cancel := context.WithCancelCause(parent)
	a.cancel = cancel
	timer := time.AfterFunc(time.Until(a.deadline), func() { cancel(tasks.ErrTimeout) })
	return timed{ctx, a.deadline}, func() { timer.Stop(); cancel(nil) }, nil
}

// timed is a context with a deadline, which is kept by a timer that cancels it with tasks.ErrTimeout. (One context of the standard
// library would be wanted for the deadline and another for the cause of a stop; each attempt would pay for both.)
type timed struct {
	context.Context
	deadline time.Time
}

// Deadline implements context.Context.
func (t timed) Deadline() (time.Time, bool) { return t.deadline, true }

// Err implements context.Context.
func (t timed) Err() error {
	err := t.Context.Err()
	if err != nil && errors.Is(context.Cause(t.Context), tasks.ErrTimeout) {
		return context.DeadlineExceeded
	}
	return err
}

// report is an attempt's outcome on its way to the database. Without a name there is nothing to say: the task's own transaction has
// ended the job, or the claim is gone.
type report struct {
	attempt *attempt
	outcome jobs.Outcome
	ran     time.Duration
	silent  string // the outcome to count and log where none is sent
}

// work runs attempts one after the other until the backlog is closed.
func (e *Engine) work(parent context.Context) {
	for {
		a, ok := e.backlog.take()
		if !ok {
			return
		}
		e.ends.add(e.runAttempt(parent, a))
	}
}

func (e *Engine) runAttempt(parent context.Context, a *attempt) report {
	ctx, end, why := a.begin(parent)
	if why != nil {
		return e.notStarted(a, why)
	}
	defer end()
	started := time.Now()
	task, _ := e.opt.Registry.Lookup(a.claim.Task)
	host := &host{engine: e, attempt: a}
	call := e.call(a, host)
	err := tasks.Protect(func() error { return task.Attempt(ctx, call) })
	if wait := new(tasks.WaitError); errors.As(err, &wait) && !host.ended {
		err = host.wait(ctx, e.opt.Pool, wait)
	}
	if errors.Is(err, jobs.ErrGate) {
		err = host.refusedByGate(ctx, err)
	}
	if !host.ended {
		_ = host.writeProgress(ctx, lastWordWait) // what was said last; where the claim is gone, the report will say so
	}
	r := report{attempt: a, ran: time.Since(started)}
	if host.ended {
		r.silent = cmp.Or(host.endedAs, "done")
		return r
	}
	r.outcome, r.silent = judge(context.Cause(ctx), err, call.Handle.Result())
	r.outcome.Held = a.claim.Held
	return r
}

// notStarted is the report of a claim whose attempt never began: it goes back as if it had not been given.
func (e *Engine) notStarted(a *attempt, why error) report {
	r := report{attempt: a, outcome: jobs.Outcome{Held: a.claim.Held, Name: "released"}}
	switch {
	case errors.Is(why, tasks.ErrFenced):
		r.outcome, r.silent = jobs.Outcome{}, "fenced"
	case errors.Is(why, tasks.ErrCancelled):
		r.outcome.Name = "cancelled"
	}
	return r
}

func (e *Engine) call(a *attempt, host tasks.Host) tasks.Call {
	c := a.claim
	return tasks.Call{
		Info: tasks.Info{
			ID: c.ID, Task: c.Task, Queue: c.Queue, Priority: c.Priority, Attempt: c.Attempt, MaxAttempts: c.MaxAttempts, Fence: c.Fence,
			RunAt: c.RunAt, CreatedAt: c.CreatedAt, Timeout: c.Timeout, Schedule: c.Schedule, Slot: c.Slot, OwnerID: c.OwnerID,
			Checkpoint: c.Checkpoint, TraceContext: c.Trace,
		},
		Args: c.Args,
		// made by hand: WithFields would copy the runner's fields one by one, for each job
		Log: &logrus.Entry{Logger: e.log.Logger, Data: logrus.Fields{
			"runner": e.opt.Name, "job_id": c.ID, "task": c.Task, "queue": c.Queue, "attempt": c.Attempt, "fence": c.Fence}},
		Handle: tasks.NewHandle(host),
	}
}

// begin starts a transaction that the server ends when its session is idle for as long as the attempt has left: that of a frozen runner
// would otherwise keep its locks for ever.
func (e *Engine) begin(ctx context.Context, a *attempt) (pgx.Tx, error) {
	tx, err := jobs.BeginGuarded(ctx, e.opt.Pool, time.Until(a.deadline), e.counts(a.claim.Task))
	err = noSession(ctx, err)
	if gone := new(unavailable); errors.As(err, &gone) {
		lull(ctx)
	}
	return tx, err
}

// commit is not cut short by the attempt's own end: a commit that was sent is better waited for than unknown. Should its answer be
// lost, the error goes on as that of a failed attempt, never as done; the database knows which, and answers accordingly.
func commit(ctx context.Context, tx pgx.Tx) error {
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer end()
	return tx.Commit(ctx)
}

func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer end()
	_ = tx.Rollback(ctx) // after a commit, or on a lost connection, there is nothing left to roll back
}

// fenced gives tasks the error that they know.
func fenced(err error) error {
	if errors.Is(err, jobs.ErrFenced) {
		return errors.Join(tasks.ErrFenced, err)
	}
	return err
}

// host does for a running attempt what needs the database.
type host struct {
	engine  *Engine
	attempt *attempt
	said    progress
	ended   bool // by a transaction that has committed
	endedAs string
}

// EndInTx is also how transactional tasks run.
func (h *host) EndInTx(ctx context.Context, f func(pgx.Tx) (json.RawMessage, error)) (failed error) {
	tx, err := h.engine.begin(ctx, h.attempt)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	defer func() { failed = noWrites(tx.Conn(), failed) }()
	result, err := f(tx)
	if wait := new(tasks.WaitError); errors.As(err, &wait) {
		if err := h.wait(ctx, tx, wait); err != nil {
			return err
		}
		if err := h.commitEnd(ctx, tx); err != nil {
			return err
		}
		return wait // for middleware, which would otherwise take the job for done
	}
	if err != nil {
		return err
	}
	_ = h.writeProgress(ctx, progressWait) // what was said last: the job is about to end
	if err := jobs.FinishInTransaction(ctx, tx, h.attempt.claim.Held, result); err != nil {
		return fenced(err)
	}
	return h.commitEnd(ctx, tx)
}

func (h *host) commitEnd(ctx context.Context, tx pgx.Tx) error {
	err := commit(ctx, tx)
	h.ended = err == nil
	return err
}

// wait gives the claim away; within a transaction, with its commit.
func (h *host) wait(ctx context.Context, db jobs.DB, wait *tasks.WaitError) error {
	outcome := "any"
	if wait.Done {
		outcome = "done"
	}
	_ = h.writeProgress(ctx, progressWait)
	if err := jobs.WaitFor(ctx, db, h.attempt.claim.Held, wait.IDs, outcome); err != nil {
		if errors.Is(err, jobs.ErrFenced) || !refused(err) {
			return fenced(err)
		}
		return tasks.Permanent(err) // such children can't be waited for, however often it is tried
	}
	_, inTx := db.(pgx.Tx)
	h.endedAs, h.ended = "waiting", !inTx
	return nil
}

// refusedByGate: what a gate refuses it will refuse again, so the job fails for good, and its schedule makes no more of it.
func (h *host) refusedByGate(ctx context.Context, why error) error {
	schedule, err := jobs.GateRefused(ctx, h.engine.opt.Pool, h.attempt.claim.Held, why.Error())
	switch {
	case err != nil:
		h.engine.log.WithFields(fields(h.attempt)).WithError(err).Warn("a gate refused; the schedule could not be paused")
	case schedule != "":
		h.engine.log.WithFields(fields(h.attempt)).Warnf("a gate refused; schedule %s is paused", schedule)
	}
	return tasks.Permanent(why)
}

func (h *host) WithConn(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := h.engine.opt.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return f(conn.Conn())
}

func (h *host) InTx(ctx context.Context, f func(pgx.Tx) error) (failed error) {
	tx, err := h.engine.begin(ctx, h.attempt)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	defer func() { failed = noWrites(tx.Conn(), failed) }()
	if err := f(tx); err != nil {
		return err
	}
	if err := jobs.CheckClaim(ctx, tx, h.attempt.claim.Held); err != nil {
		return fenced(err)
	}
	return commit(ctx, tx)
}

func (h *host) Checkpoint(ctx context.Context, state json.RawMessage) error {
	return fenced(jobs.Checkpoint(ctx, h.engine.opt.Pool, h.attempt.claim.Held, state))
}

// refused: by pgtick itself, for what was asked.
func refused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && len(pg.Code) == 5 && pg.Code[:2] == "TK"
}

// dataError tells a statement that failed because of what it was given from one that may succeed another time.
func dataError(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && len(pg.Code) == 5 && pg.Code[:2] == "22"
}
