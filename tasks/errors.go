package tasks

import (
	"errors"
	"fmt"
	"time"
)

// ErrFenced says that the attempt no longer holds its job: the runner's lease ran out and another runner has it, or it was
// cancelled. Whatever the attempt still does is refused; it should return at once.
var ErrFenced = errors.New("the claim is gone")

// ErrShutdown is the cause (context.Cause) of an attempt's cancelled context when its runner stops.
// The job goes back to its queue, and the attempt does not count.
var ErrShutdown = errors.New("the runner is stopping")

// ErrCancelled is the cause of an attempt's cancelled context when somebody has cancelled the job.
var ErrCancelled = errors.New("the job was cancelled")

// ErrTimeout is the cause of an attempt's cancelled context when its timeout has passed. The attempt counts as failed.
var ErrTimeout = errors.New("the attempt took longer than its timeout")

// SnoozeError asks for the job to run again later. The attempt does not count.
type SnoozeError struct{ Delay time.Duration }

func (e *SnoozeError) Error() string { return fmt.Sprintf("snoozed for %s", e.Delay) }

// Snooze returns an error that puts the job back for the given time, at least a second, without counting the attempt.
func Snooze(delay time.Duration) error { return &SnoozeError{Delay: max(delay, time.Second)} }

// PermanentError fails the job for good, whatever attempts are left.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// Permanent returns an error that fails the job for good.
func Permanent(err error) error { return &PermanentError{Err: err} }

// RetryError is a failed attempt that knows when the next one is worth it.
type RetryError struct {
	Err   error
	Delay time.Duration // 0 or less: as the retry policy says
}

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// RetryAfter returns an error that is tried again after this delay, instead of when the retry policy says. The attempt counts; the last one
// fails the job.
func RetryAfter(err error, delay time.Duration) error { return &RetryError{Err: err, Delay: delay} }

// WaitError gives the job back until other ones have ended.
type WaitError struct {
	IDs  []int64
	Done bool // until they are done: the job is cancelled when one of them fails or is cancelled
}

func (e *WaitError) Error() string { return fmt.Sprintf("waits for %d jobs", len(e.IDs)) }

// WaitFor returns an error that gives the job back until all these other jobs have ended, done or not; no worker is held meanwhile. Then it
// runs again, with what it left by SaveCheckpoint. The attempt does not count. The transaction of a transactional task commits, so that
// the children that it has enqueued and the waiting for them are there together, or not at all.
func WaitFor(ids ...int64) error { return &WaitError{IDs: ids} }

// WaitForDone is as WaitFor, but the job is cancelled when one of the others fails or is cancelled.
func WaitForDone(ids ...int64) error { return &WaitError{IDs: ids, Done: true} }

// CancelError ends the job as cancelled.
type CancelError struct{ Reason string }

func (e *CancelError) Error() string { return "cancelled: " + e.Reason }

// Cancel returns an error that ends the job as cancelled, with this reason.
func Cancel(reason string) error { return &CancelError{Reason: reason} }

// PanicError is a panic of a task, turned into the error of one failed attempt.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }
