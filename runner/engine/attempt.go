package engine

import (
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
	claim    jobs.Claim
	deadline time.Time

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
	timed, endTimer := context.WithDeadlineCause(parent, a.deadline, tasks.ErrTimeout)
	ctx, cancel := context.WithCancelCause(timed)
	a.cancel = cancel
	return ctx, func() { cancel(nil); endTimer() }, nil
}

// report is an attempt's outcome on its way to the database. Without a name there is nothing to say: the task's own transaction has
// ended the job, or the claim is gone.
type report struct {
	attempt *attempt
	outcome jobs.Outcome
	ran     time.Duration
	silent  string // the outcome to count and log where none is sent
}

// work runs attempts one after the other until ready is closed.
func (e *Engine) work(parent context.Context) {
	for a := range e.ready {
		e.outcomes <- e.runAttempt(parent, a)
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
	call, committed := e.call(a), false
	err := tasks.Protect(func() (err error) {
		if task.RunTx == nil {
			return task.Run(ctx, call)
		}
		committed, err = e.runInTransaction(ctx, task, a, call)
		return err
	})
	r := report{attempt: a, ran: time.Since(started)}
	if committed {
		r.silent = "done"
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

func (e *Engine) call(a *attempt) tasks.Call {
	c := a.claim
	return tasks.Call{
		Info: tasks.Info{
			ID: c.ID, Task: c.Task, Queue: c.Queue, Priority: c.Priority, Attempt: c.Attempt, MaxAttempts: c.MaxAttempts, Fence: c.Fence,
			RunAt: c.RunAt, CreatedAt: c.CreatedAt, Timeout: c.Timeout, Schedule: c.Schedule, Slot: c.Slot, OwnerID: c.OwnerID,
			Checkpoint: c.Checkpoint,
		},
		Args:   c.Args,
		Log:    e.log.WithFields(logrus.Fields{"job_id": c.ID, "task": c.Task, "queue": c.Queue, "attempt": c.Attempt, "fence": c.Fence}),
		Handle: tasks.NewHandle(&host{engine: e, attempt: a}),
	}
}

// runInTransaction runs a transactional task: its effects and the job's completion commit together, or not at all.
func (e *Engine) runInTransaction(ctx context.Context, task tasks.Task, a *attempt, call tasks.Call) (committed bool, err error) {
	tx, err := e.begin(ctx, a)
	if err != nil {
		return false, err
	}
	defer rollback(ctx, tx)
	if err := task.RunTx(ctx, tx, call); err != nil {
		return false, err
	}
	if err := jobs.FinishInTransaction(ctx, tx, a.claim.Held, call.Handle.Result()); err != nil {
		return false, fenced(err)
	}
	if err := commit(ctx, tx); err != nil {
		return false, err
	}
	return true, nil
}

func (e *Engine) begin(ctx context.Context, a *attempt) (pgx.Tx, error) {
	tx, err := e.opt.Pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := jobs.GuardTransaction(ctx, tx, time.Until(a.deadline)); err != nil {
		rollback(ctx, tx)
		return nil, err
	}
	return tx, nil
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
}

func (h *host) InTx(ctx context.Context, f func(pgx.Tx) error) error {
	tx, err := h.engine.begin(ctx, h.attempt)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	if err := f(tx); err != nil {
		return err
	}
	if err := jobs.CheckClaim(ctx, tx, h.attempt.claim.Held); err != nil {
		return fenced(err)
	}
	return commit(ctx, tx)
}

func (h *host) Progress(ctx context.Context, done float64, note string) error {
	return fenced(jobs.Progress(ctx, h.engine.opt.Pool, h.attempt.claim.Held, done, note))
}

func (h *host) Checkpoint(ctx context.Context, state json.RawMessage) error {
	return fenced(jobs.Checkpoint(ctx, h.engine.opt.Pool, h.attempt.claim.Held, state))
}

// dataError tells a statement that failed because of what it was given from one that may succeed another time.
func dataError(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && len(pg.Code) == 5 && pg.Code[:2] == "22"
}
