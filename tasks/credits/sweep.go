package credits

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/tasks"
)

const (
	defaultChunk = 2000
	largestChunk = 20000
	// What others have locked is tried again so often, after so long.
	passes      = 3
	betweenPass = 200 * time.Millisecond
)

// Args are the arguments of all four tasks. None is needed.
type Args struct {
	ChunkSize int `json:"chunk_size"` // rows a transaction, 1 to 20000; 0 means 2000
}

func (a Args) chunkSize() (int, error) {
	if a.ChunkSize < 0 || a.ChunkSize > largestChunk {
		return 0, tasks.Permanent(fmt.Errorf("chunk_size %d is refused: 1 to %d, or 0 for %d", a.ChunkSize, largestChunk, defaultChunk))
	}
	if a.ChunkSize == 0 {
		return defaultChunk, nil
	}
	return a.ChunkSize, nil
}

// sweep is how far a task is, the part that all four have in common.
type sweep struct {
	Todo int64 `json:"todo"` // rows at the start
	Seen int64 `json:"seen"` // rows looked at, in this pass
	Busy int64 `json:"busy"` // of those, left because somebody else had their account locked
	Pass int   `json:"pass"` // completed passes
}

func (s *sweep) add(c chunk) {
	if c.Todo != nil {
		s.Todo = *c.Todo
	}
	s.Seen += c.Seen
	s.Busy += c.Busy
}

func (s *sweep) done() float64 {
	if s.Todo == 0 {
		return 0
	}
	return min(float64(s.Seen)/float64(s.Todo), 1)
}

// state is what a task keeps between its chunks, and in its checkpoint.
type state interface {
	common() *sweep
	// next does one chunk from where the state is, and moves the state on. Where it fails, the state is not kept.
	next(ctx context.Context, in transaction, size int) error
	// rewind goes back to the start, for another pass over what was busy.
	rewind()
	result() any
}

// transaction runs f in a transaction of its own that commits only while the runner still holds the job: tasks.Handle.InTx.
type transaction func(ctx context.Context, f func(pgx.Tx) error) error

// inOne does a chunk that is one transaction.
func inOne[C any](ctx context.Context, in transaction, f func(pgx.Tx) (C, error)) (c C, err error) {
	err = in(ctx, func(tx pgx.Tx) (err error) {
		c, err = f(tx)
		return err
	})
	return c, err
}

// pointer ties a state to its methods, so that a chunk can work on a copy: what its transaction did not commit, the state does not show.
type pointer[S any] interface {
	*S
	state
}

// run does chunk after chunk until nothing is left, from the checkpoint of an earlier attempt where there is one. It returns how many
// rows were busy to the end.
func run[S any, P pointer[S]](ctx context.Context, job *tasks.Job[Args], start S) (busy int64, err error) {
	size, err := job.Args.chunkSize()
	if err != nil {
		return 0, err
	}
	s := start
	if err := resume(job, &s); err != nil {
		return 0, err
	}
	for {
		seen, err := oneChunk[S, P](ctx, job, &s, size)
		if err != nil {
			return 0, err
		}
		if seen > 0 {
			continue
		}
		common := P(&s).common()
		common.Pass++
		if busy = common.Busy; busy == 0 || common.Pass >= passes {
			return busy, finish[S, P](ctx, job, &s)
		}
		startAgain[S, P](&s)
		if err := wait(ctx, betweenPass); err != nil {
			return 0, err
		}
	}
}

// A checkpoint that can't be read is a mistake, but no reason to leave the work undone: all of it can be done again.
func resume[S any](job *tasks.Job[Args], s *S) error {
	if len(job.Checkpoint) == 0 {
		return nil
	}
	kept := *s
	if err := json.Unmarshal(job.Checkpoint, s); err != nil {
		job.Log.WithError(err).Warn("checkpoint not readable, starting again")
		*s = kept
	}
	return nil
}

func oneChunk[S any, P pointer[S]](ctx context.Context, job *tasks.Job[Args], s *S, size int) (seen int64, err error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	next := *s
	if err := P(&next).next(ctx, job.InTx, size); err != nil {
		return 0, err
	}
	seen = P(&next).common().Seen - P(s).common().Seen
	*s = next
	if seen == 0 {
		return 0, nil
	}
	return seen, report[S, P](ctx, job, s)
}

func report[S any, P pointer[S]](ctx context.Context, job *tasks.Job[Args], s *S) error {
	if err := job.SaveCheckpoint(ctx, s); err != nil {
		return err
	}
	common := P(s).common()
	return job.Progress(ctx, common.done(), fmt.Sprintf("%d of %d", common.Seen, max(common.Todo, common.Seen)))
}

func finish[S any, P pointer[S]](ctx context.Context, job *tasks.Job[Args], s *S) error {
	if err := job.SetResult(P(s).result()); err != nil {
		return err
	}
	// An attempt after this one, if there is one, begins at the start, with the sums so far.
	startAgain[S, P](s)
	P(s).common().Pass = 0
	return job.SaveCheckpoint(ctx, s)
}

func startAgain[S any, P pointer[S]](s *S) {
	common := P(s).common()
	common.Seen, common.Busy = 0, 0
	P(s).rewind()
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
