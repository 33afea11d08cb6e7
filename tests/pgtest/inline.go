package pgtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
)

// Ran is what one attempt did, and what would become of its job.
type Ran struct {
	Err        error           // what the task returned
	Outcome    string          // done, error (tried again), failed, snoozed, …; see tasks.Outcome
	Result     json.RawMessage // what it said with SetResult, or nil
	Checkpoint json.RawMessage // what the next attempt would find: the last of SaveCheckpoint, or what was there before
	Said       []Said          // each word of Progress
}

// Said is a word of Progress.
type Said struct {
	Done float64
	Note string
}

// errNoDatabase is the answer to what needs one.
var errNoDatabase = errors.New("pgtest.Run and RunFunc have no database: use pgtest.New, and Work, for a task with transactions")

// Run runs one attempt of a registered task in this process, with its middleware and without a database. The args pass through JSON, as those of
// a job do; nil is {}. What the task knows of its job is that of a first attempt, and may be changed:
//
//	ran := pgtest.Run(t, registry, "report.make", Report{Month: "2031-05"}, func(job *tasks.Info) { job.Attempt = 3 })
//
// A transactional task, and one that calls InTx, EndInTx or WithConn, gets an error here: see DB.Work.
func Run(t testing.TB, registry *tasks.Registry, task string, args any, change ...func(*tasks.Info)) Ran {
	t.Helper()
	found, ok := registry.Lookup(task)
	require.True(t, ok, "the registry has no task %q, but %q", task, registry.Names())
	return attempt(t, found, args, change)
}

// RunFunc is Run for a function, without a registry.
func RunFunc[A any](t testing.TB, run func(ctx context.Context, job *tasks.Job[A]) error, args A, change ...func(*tasks.Info)) Ran {
	t.Helper()
	registry := tasks.NewRegistry()
	tasks.Register(registry, "under.test", run)
	return Run(t, registry, "under.test", args, change...)
}

func attempt(t testing.TB, task tasks.Task, args any, change []func(*tasks.Info)) Ran {
	t.Helper()
	text := json.RawMessage("{}")
	if args != nil {
		var err error
		text, err = json.Marshal(args)
		require.NoError(t, err, "args of task %q", task.Name)
	}
	now := time.Now()
	job := tasks.Info{ID: 1, Task: task.Name, Queue: "default", Priority: 5, Attempt: 1, MaxAttempts: 20, Fence: 1, RunAt: now, CreatedAt: now, Timeout: 5 * time.Minute}
	for _, f := range change {
		f(&job)
	}
	host := &inline{checkpoint: job.Checkpoint}
	call := tasks.Call{Info: job, Args: text, Log: logTo(t).WithFields(logrus.Fields{"job_id": job.ID, "task": job.Task}), Handle: tasks.NewHandle(host)}
	ctx, end := context.WithTimeoutCause(t.Context(), job.Timeout, tasks.ErrTimeout)
	defer end()
	err := tasks.Protect(func() error { return task.Attempt(ctx, call) })
	host.mu.Lock()
	defer host.mu.Unlock()
	return Ran{Err: err, Outcome: tasks.Outcome(context.Cause(ctx), err), Result: call.Handle.Result(), Checkpoint: host.checkpoint, Said: slices.Clone(host.said)}
}

// logTo logs into the test's output, which shows when it fails, or is asked for by -v.
func logTo(t testing.TB) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(t.Output())
	log.SetFormatter(&logrus.TextFormatter{DisableColors: true, DisableTimestamp: true})
	return log
}

// inline is an attempt's host that remembers.
type inline struct {
	mu         sync.Mutex
	checkpoint json.RawMessage
	said       []Said
}

func (h *inline) Progress(_ context.Context, done float64, note string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, Said{done, note})
	return nil
}

func (h *inline) Checkpoint(_ context.Context, state json.RawMessage) error {
	if len(state) > 65536 {
		return fmt.Errorf("a checkpoint has at most 65536 bytes, and this one %d", len(state))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checkpoint = slices.Clone(state)
	return nil
}

func (*inline) InTx(context.Context, func(pgx.Tx) error) error { return errNoDatabase }

func (*inline) EndInTx(context.Context, func(pgx.Tx) (json.RawMessage, error)) error {
	return errNoDatabase
}

func (*inline) WithConn(context.Context, func(*pgx.Conn) error) error { return errNoDatabase }
