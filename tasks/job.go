package tasks

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

// Info is what a claim tells about a job, without its arguments.
type Info struct {
	ID          int64
	Task        string
	Queue       string
	Priority    int
	Attempt     int   // claims so far, this one included
	MaxAttempts int   // attempts that count, before the job fails for good
	Fence       int64 // of this claim: a report under an older one is refused
	RunAt       time.Time
	CreatedAt   time.Time
	Timeout     time.Duration
	Schedule    string          // name of the schedule, or empty
	Slot        time.Time       // the planned time of the schedule, or zero
	OwnerID     string          // UUID of the end user, or empty
	Checkpoint  json.RawMessage // what an earlier attempt left with SaveCheckpoint, or nil

	TraceContext map[string]string // the trace of whoever enqueued it, as a W3C carrier (traceparent, tracestate), or nil
}

// Job is one attempt of a job as its task sees it.
type Job[A any] struct {
	Info
	Args A
	Log  *logrus.Entry // carries the job's fields
	*Handle
}

// Handle is what a task can do about the attempt that runs it. It is safe for concurrent use.
type Handle struct {
	host   Host
	result resultBox
}

// NewHandle joins an attempt to the engine, or the test, that runs it.
func NewHandle(host Host) *Handle { return &Handle{host: host} }

// Host does for an attempt what needs the database. The engine implements it; so may a test.
type Host interface {
	// InTx runs f in a transaction of its own. The last thing before the commit is to check the claim: when the job has been
	// given to another runner in the meantime, nothing of f stays, and the error is ErrFenced.
	InTx(ctx context.Context, f func(pgx.Tx) error) error
	// EndInTx runs f in a transaction and ends the job in it, with what f returns as the result: both commit together, or neither.
	EndInTx(ctx context.Context, f func(pgx.Tx) (json.RawMessage, error)) error
	// WithConn lends f a connection of the tasks, without a transaction.
	WithConn(ctx context.Context, f func(*pgx.Conn) error) error
	// Progress reports the share done (0 to 1) and a note. It is advisory: it may be dropped when reports come fast.
	Progress(ctx context.Context, done float64, note string) error
	// Checkpoint stores state (JSON, at most 64 KiB) for the next attempt, should this one not end the job.
	Checkpoint(ctx context.Context, state json.RawMessage) error
}

// InTx runs f in a transaction that commits only while this attempt still holds its job: of a runner that was declared dead,
// no row stays. The error is then ErrFenced. Use it where a task writes in several transactions; where one is enough,
// RegisterTx commits the effects and the completion together.
func (h *Handle) InTx(ctx context.Context, f func(pgx.Tx) error) error { return h.host.InTx(ctx, f) }

// EndInTx runs f in a transaction and ends the job in it, done, with what f returns as its result: effects and completion commit
// together, as those of RegisterTx do, but the task says when. Return nil at once after it has returned nil. When the job was given to
// another runner in the meantime the error is ErrFenced, and nothing stays.
func (h *Handle) EndInTx(ctx context.Context, f func(pgx.Tx) (json.RawMessage, error)) error {
	return h.host.EndInTx(ctx, f)
}

// WithConn lends f a connection of the pool that transactional tasks use, until f returns. What f does there is its own: at least once.
func (h *Handle) WithConn(ctx context.Context, f func(*pgx.Conn) error) error {
	return h.host.WithConn(ctx, f)
}

// Progress reports the share done, 0 to 1, and a note for people; both show in pgtick.jobs.
func (h *Handle) Progress(ctx context.Context, done float64, note string) error {
	return h.host.Progress(ctx, done, note)
}

// SaveCheckpoint stores state as JSON, at most 64 KiB. The next attempt of this job finds it in Info.Checkpoint.
func (h *Handle) SaveCheckpoint(ctx context.Context, state any) error {
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return h.host.Checkpoint(ctx, text)
}

// SetResult keeps v as the job's result, in JSON, should this attempt end it. The last call counts.
func (h *Handle) SetResult(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h.result.set(text)
	return nil
}

// Result is what SetResult kept, or nil.
func (h *Handle) Result() json.RawMessage { return h.result.get() }
