package pgtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestWork_DoesWhatIsDue_AndWhatThatEnqueues_InAllQueues(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	registry := tasks.NewRegistry()
	tasks.RegisterTx(registry, "parent", func(ctx context.Context, tx pgx.Tx, _ *tasks.Job[report]) error {
		_, err := tasks.EnqueueMany(ctx, tx, "child", []report{{1}, {2}, {3}}, tasks.Queue("elsewhere"))
		return err
	})
	tasks.Register(registry, "child", func(ctx context.Context, job *tasks.Job[report]) error {
		return errors.Join(job.Progress(ctx, 1, "seen"), job.SetResult(job.Args.Rows))
	})
	db.Enqueue(t, "parent", nil)
	later := db.Enqueue(t, "parent", nil, tasks.Delay(time.Hour))
	nobodys := db.Enqueue(t, "of.nobody", nil)

	require.Equal(t, 4, db.Work(t, registry))
	require.Zero(t, db.Work(t, registry))
	for i, child := range db.Jobs(t, "child") {
		require.Equal(t, "done", child.State)
		require.Equal(t, string(rune('1'+i)), string(child.Result))
		require.InDelta(t, 1, child.Progress, 0)
		require.Equal(t, "seen", child.Note)
	}
	require.Equal(t, "ready", db.Job(t, later).State)
	require.Equal(t, "ready", db.Job(t, nobodys).State)

	db.Advance(t, time.Hour)
	require.Equal(t, 4, db.Work(t, registry))
	require.Equal(t, "done", db.Job(t, later).State)
}

func TestWork_ARetry_IsDueWhenTheClockSaysSo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.SetNow(t, time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC))
	registry := tasks.NewRegistry()
	tasks.Register(registry, "flaky", func(context.Context, *tasks.Job[report]) error { return errors.New("not yet") })
	id := db.Enqueue(t, "flaky", nil, tasks.MaxAttempts(3), tasks.Retries(tasks.Linear(time.Minute, 0)))
	for attempt, wait := range []time.Duration{0, time.Minute, 2 * time.Minute} {
		db.Advance(t, wait)
		require.Equal(t, 1, db.Work(t, registry))
		require.Zero(t, db.Work(t, registry))
		require.Equal(t, attempt+1, db.Job(t, id).Attempt)
	}
	job := db.Job(t, id)
	require.Equal(t, "failed", job.State)
	require.Equal(t, "not yet", job.Error)
}

func TestWork_ASlot_IsDueWhenTheClockSaysSo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.SetNow(t, time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC))
	registry := tasks.NewRegistry()
	tasks.Register(registry, "daily", func(_ context.Context, job *tasks.Job[report]) error { return job.SetResult(job.Slot) })
	_, err := db.Pool.Exec(t.Context(), `select pgtick.schedule('every morning', '30 7 * * *', 'daily')`)
	require.NoError(t, err)
	require.Zero(t, db.Work(t, registry))
	for day := range 3 {
		db.Advance(t, 24*time.Hour)
		require.Equal(t, 1, db.Work(t, registry))
		job := db.Jobs(t, "daily")[day]
		require.Equal(t, "every morning", job.Schedule)
		require.Equal(t, `"`+time.Date(2031, 5, 7+day, 7, 30, 0, 0, time.UTC).Format(time.RFC3339)+`"`, string(job.Result))
	}
}

func TestWork_LeavesAPausedQueue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	registry := tasks.NewRegistry()
	tasks.Register(registry, "report", func(context.Context, *tasks.Job[report]) error { return nil })
	id := db.Enqueue(t, "report", nil)
	for want, change := range []string{`select pgtick.pause_queue('default')`, `select pgtick.resume_queue('default')`} {
		_, err := db.Pool.Exec(t.Context(), change)
		require.NoError(t, err)
		require.Equal(t, want, db.Work(t, registry))
	}
	require.Equal(t, "done", db.Job(t, id).State)
}
