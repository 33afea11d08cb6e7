package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

// RunFunc runs one attempt.
type RunFunc func(ctx context.Context, call Call) error

// Middleware puts something around one attempt: it returns a function that calls next once, with this context or one made from it, and
// that returns what next returned. Of a transactional task next is the whole transaction: once it has returned nil, effects and completion
// have committed. A panic of the task arrives as a *PanicError. Where a middleware returns another error than it got, that one counts, so
// nil in place of an error would end the job as done.
type Middleware func(next RunFunc) RunFunc

// Use puts middleware around all tasks of this registry, those that are registered later included; the first one is the outermost. Inside
// of it is what Around says for a task alone. Tasks that come by Merge bring along what their own registry puts around them.
func (r *Registry) Use(middleware ...Middleware) {
	r.around = append(r.around, middleware...)
	for name, task := range r.byName {
		r.byName[name] = task.within(r.around)
	}
}

// Attempt runs the task once, with its middleware, and a transactional one in a transaction that also ends the job. It is what an engine
// calls.
func (t Task) Attempt(ctx context.Context, call Call) error {
	if t.attempt == nil { // made by hand
		return t.itself()(ctx, call)
	}
	return t.attempt(ctx, call)
}

// within is the task with what its registry puts around it.
func (t Task) within(around []Middleware) Task {
	t.attempt = wrap(t.inner, around)
	return t
}

func wrap(run RunFunc, around []Middleware) RunFunc {
	for _, middleware := range slices.Backward(around) {
		run = middleware(run)
	}
	return run
}

// itself is the task without any middleware.
func (t Task) itself() RunFunc {
	run := t.Run
	if t.RunTx != nil {
		run = t.inTx
	}
	return func(ctx context.Context, call Call) error {
		return Protect(func() error { return run(ctx, call) })
	}
}

func (t Task) inTx(ctx context.Context, call Call) error {
	return call.Handle.EndInTx(ctx, func(tx pgx.Tx) (json.RawMessage, error) {
		err := t.RunTx(ctx, tx, call)
		return call.Handle.Result(), err
	})
}

// Outcome says what becomes of an attempt that returned err in a context that ended for cause (context.Cause; nil while it has not): done,
// error (tried again, or failed when its attempts are used up), failed, snoozed, waiting (for other jobs), cancelled, released (its runner
// stops), or fenced (the claim is gone, and nothing is reported).
func Outcome(cause, err error) string {
	var snooze *SnoozeError
	var permanent *PermanentError
	var cancel *CancelError
	var wait *WaitError
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, ErrFenced) || errors.Is(cause, ErrFenced):
		return "fenced"
	case errors.As(err, &cancel):
		return "cancelled"
	case errors.As(err, &snooze):
		return "snoozed"
	case errors.As(err, &wait):
		return "waiting"
	case errors.As(err, &permanent):
		return "failed"
	case errors.Is(cause, ErrCancelled):
		return "cancelled"
	case errors.Is(cause, ErrShutdown):
		return "released"
	default:
		return "error"
	}
}

// Logging logs the start and the end of each attempt, with its outcome and its time, and never args. (A runner logs the ends by itself, but not
// more in a second than --log-rate says.)
func Logging() Middleware {
	return func(next RunFunc) RunFunc {
		return func(ctx context.Context, call Call) error {
			call.Log.Info("attempt started")
			started := time.Now()
			err := next(ctx, call)
			outcome := Outcome(context.Cause(ctx), err)
			entry := call.Log.WithFields(logrus.Fields{"state": outcome, "elapsed_ms": time.Since(started).Milliseconds()})
			if err != nil {
				entry = entry.WithError(err)
			}
			if outcome == "error" || outcome == "failed" {
				entry.Warn("attempt ended")
			} else {
				entry.Info("attempt ended")
			}
			return err
		}
	}
}
