// Package credits has the four periodic tasks of the credit ledger. Each works in chunks, a transaction each, that commit only while
// the runner still holds the job; each shows its progress, goes on after a crash from its last checkpoint, and may run twice at once:
// what one has done, the other passes over. The rules are SQL's (sql/56_credits_tasks.sql); here is only the loop around them.
//
// A job's result has counts and sums. After a crash between a chunk's commit and its checkpoint they miss that one chunk; the ledger
// misses nothing.
//
// The sync hands entries over to a Target: a table of this database, another Postgres, or a Supabase project. Reconcile compares the two
// sides, and Verify the ledger with itself.
package credits

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/tasks"
)

// The tasks' names.
const (
	Cleanup  = "credits.cleanup_expired_credit_holds"
	Allocate = "credits.periodic_credit_allocation"
	Pending  = "credits.process_pending_transactions"
	Sync     = "credits.sync_credit_usage_with_supabase"
)

// allocateAgain is when an allocation looks again at accounts that were locked the whole time.
const allocateAgain = 30 * time.Second

// Register adds the four tasks. The sync hands over to analytics.credit_usage in the same database.
func Register(r *tasks.Registry) { RegisterTo(r, Local()) }

// RegisterTo adds the four tasks, with the target of the sync.
func RegisterTo(r *tasks.Registry, target Target) {
	tasks.Register(r, Cleanup, cleanup)
	tasks.Register(r, Allocate, allocate)
	tasks.Register(r, Pending, pending)
	tasks.Register(r, Sync, func(ctx context.Context, job *tasks.Job[Args]) error { return sync(ctx, job, target) })
}

type cleanupState struct {
	sweep
	After    position `json:"after"`
	Released int64    `json:"released"`
	Credits  int64    `json:"credits"`
}

// cleanup releases every expired hold. One whose account stays locked is left to the next run, or to the charge that needs it.
func cleanup(ctx context.Context, job *tasks.Job[Args]) error {
	_, err := run(ctx, job, cleanupState{})
	return err
}

func (s *cleanupState) common() *sweep { return &s.sweep }
func (s *cleanupState) rewind()        { s.After = position{} }

func (s *cleanupState) next(ctx context.Context, in transaction, size int) error {
	c, err := inOne(ctx, in, func(tx pgx.Tx) (released, error) { return cleanupChunk(ctx, tx, s.After, size) })
	s.add(c.chunk)
	s.After = c.Next
	s.Released += c.Released
	s.Credits += c.Credits
	return err
}

func (s *cleanupState) result() any {
	return map[string]any{"released": s.Released, "credits": s.Credits, "busy": s.Busy}
}

type allocateState struct {
	sweep
	Period      *string `json:"period,omitempty"`
	After       *string `json:"after,omitempty"`
	Allocated   int64   `json:"allocated"`
	Credits     int64   `json:"credits"`
	Overflowing int64   `json:"overflowing"`
}

// allocate gives each account what its tier brings for the month of the job's slot. It does not end before every account has it.
func allocate(ctx context.Context, job *tasks.Job[Args]) error {
	busy, err := run(ctx, job, allocateState{Period: monthOf(job.Slot)})
	if err == nil && busy > 0 {
		return tasks.Snooze(allocateAgain)
	}
	return err
}

// monthOf is the slot's month in UTC; nil, which stands for the present month, where there is no slot.
func monthOf(slot time.Time) *string {
	if slot.IsZero() {
		return nil
	}
	slot = slot.UTC()
	month := time.Date(slot.Year(), slot.Month(), 1, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
	return &month
}

func (s *allocateState) common() *sweep { return &s.sweep }
func (s *allocateState) rewind()        { s.After, s.Overflowing = nil, 0 }

func (s *allocateState) next(ctx context.Context, in transaction, size int) error {
	c, err := inOne(ctx, in, func(tx pgx.Tx) (allocated, error) { return allocateChunk(ctx, tx, s.Period, s.After, size) })
	if err != nil {
		return err
	}
	s.add(c.chunk)
	month := c.Period.Format(time.DateOnly)
	s.Period, s.After = &month, c.Last
	s.Allocated += c.Allocated
	s.Credits += c.Credits
	s.Overflowing += c.Overflowing
	return nil
}

func (s *allocateState) result() any {
	return map[string]any{"period": s.Period, "accounts": s.Seen, "allocated": s.Allocated, "credits": s.Credits, "overflowing": s.Overflowing}
}

type pendingState struct {
	sweep
	After     position `json:"after"`
	Committed int64    `json:"committed"`
	Reverted  int64    `json:"reverted"`
	Failed    int64    `json:"failed"`
	Added     int64    `json:"credits_added"`
	Deducted  int64    `json:"credits_deducted"`
}

// pending decides entries that have been PENDING for too long. One whose account stays locked is left to the next run.
func pending(ctx context.Context, job *tasks.Job[Args]) error {
	_, err := run(ctx, job, pendingState{})
	return err
}

func (s *pendingState) common() *sweep { return &s.sweep }
func (s *pendingState) rewind()        { s.After = position{} }

func (s *pendingState) next(ctx context.Context, in transaction, size int) error {
	c, err := inOne(ctx, in, func(tx pgx.Tx) (resolved, error) { return resolveChunk(ctx, tx, s.After, size) })
	s.add(c.chunk)
	s.After = c.Next
	s.Committed += c.Committed
	s.Reverted += c.Reverted
	s.Failed += c.Failed
	s.Added += c.Added
	s.Deducted += c.Deducted
	return err
}

func (s *pendingState) result() any {
	return map[string]any{"committed": s.Committed, "reverted": s.Reverted, "failed": s.Failed, "credits_added": s.Added,
		"credits_deducted": s.Deducted, "busy": s.Busy}
}

type syncState struct {
	sweep
	After    *int64 `json:"after,omitempty"`
	Synced   int64  `json:"synced"`
	Refused  int64  `json:"refused"`
	Added    int64  `json:"credits_added"`
	Deducted int64  `json:"credits_deducted"`
	to       session
}

// sync hands completed entries over to the target. What it refuses is set aside; what another copy hands over at this moment is there once.
func sync(ctx context.Context, job *tasks.Job[Args], target Target) error {
	to, err := target.open(ctx)
	if err != nil {
		return err
	}
	defer to.close()
	_, err = run(ctx, job, syncState{to: to})
	return err
}

func (s *syncState) common() *sweep { return &s.sweep }
func (s *syncState) rewind()        { s.After = nil }

func (s *syncState) next(ctx context.Context, in transaction, size int) error {
	c, err := s.to.chunk(ctx, in, s.After, size)
	s.add(c.chunk)
	s.After = c.Last
	s.Synced += c.Synced
	s.Refused += c.Refused
	s.Added += c.Added
	s.Deducted += c.Deducted
	return err
}

func (s *syncState) result() any {
	return map[string]any{"synced": s.Synced, "refused": s.Refused, "credits_added": s.Added, "credits_deducted": s.Deducted}
}
