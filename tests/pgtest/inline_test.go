package pgtest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/pgtest"
)

type report struct {
	Rows int `json:"rows"`
}

func TestRun_ShowsAllThatTheTaskDid(t *testing.T) {
	t.Parallel()
	registry := tasks.NewRegistry()
	tasks.Register(registry, "report", func(ctx context.Context, job *tasks.Job[report]) error {
		return errors.Join(job.Progress(ctx, 0.5, "half"), job.Progress(ctx, 1, "all"), job.SaveCheckpoint(ctx, job.Args.Rows),
			job.SetResult(map[string]any{"attempt": job.Attempt, "earlier": job.Checkpoint}))
	})
	ran := pgtest.Run(t, registry, "report", report{7}, func(job *tasks.Info) { job.Attempt, job.Checkpoint = 3, []byte("5") })
	require.NoError(t, ran.Err)
	require.Equal(t, "done", ran.Outcome)
	require.JSONEq(t, `{"attempt": 3, "earlier": 5}`, string(ran.Result))
	require.Equal(t, "7", string(ran.Checkpoint))
	require.Equal(t, []pgtest.Said{{Done: 0.5, Note: "half"}, {Done: 1, Note: "all"}}, ran.Said)
}

func TestRun_ArgsGoThroughJSON_AsThoseOfAJob(t *testing.T) {
	t.Parallel()
	run := func(context.Context, *tasks.Job[report]) error { return nil }
	registry := tasks.NewRegistry()
	tasks.Register(registry, "report", run)
	require.Equal(t, "done", pgtest.Run(t, registry, "report", nil).Outcome)
	ran := pgtest.Run(t, registry, "report", map[string]int{"row": 7})
	require.Equal(t, "failed", ran.Outcome)
	require.ErrorContains(t, ran.Err, `unknown field "row"`)
}

func TestRunFunc_ShowsHowEachEndingIsMeant(t *testing.T) {
	t.Parallel()
	for outcome, end := range map[string]func() error{
		"done": func() error { return nil }, "error": func() error { panic("out of order") }, "failed": func() error { return tasks.Permanent(errors.New("never")) },
		"snoozed": func() error { return tasks.Snooze(time.Hour) }, "cancelled": func() error { return tasks.Cancel("not wanted") },
	} {
		ran := pgtest.RunFunc(t, func(context.Context, *tasks.Job[report]) error { return end() }, report{})
		require.Equal(t, outcome, ran.Outcome)
	}
}

func TestRunFunc_AfterItsTimeout_EndsTheContextForTheCauseThatARunnerGives(t *testing.T) {
	t.Parallel()
	ran := pgtest.RunFunc(t, func(ctx context.Context, _ *tasks.Job[report]) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}, report{}, func(job *tasks.Info) { job.Timeout = time.Millisecond })
	require.ErrorIs(t, ran.Err, tasks.ErrTimeout)
	require.Equal(t, "error", ran.Outcome)
}

func TestRun_OfWhatNeedsADatabase_SaysWhereThereIsOne(t *testing.T) {
	t.Parallel()
	registry := tasks.NewRegistry()
	tasks.RegisterTx(registry, "tx", func(context.Context, pgx.Tx, *tasks.Job[report]) error { return nil })
	tasks.Register(registry, "in.tx", func(ctx context.Context, job *tasks.Job[report]) error {
		return job.InTx(ctx, func(pgx.Tx) error { return nil })
	})
	tasks.Register(registry, "conn", func(ctx context.Context, job *tasks.Job[report]) error {
		return job.WithConn(ctx, func(*pgx.Conn) error { return nil })
	})
	for _, task := range registry.Names() {
		require.ErrorContains(t, pgtest.Run(t, registry, task, nil).Err, "use pgtest.New", task)
	}
}

func TestRunFunc_ACheckpointOverTheLimit_IsRefused(t *testing.T) {
	t.Parallel()
	ran := pgtest.RunFunc(t, func(ctx context.Context, job *tasks.Job[report]) error {
		return job.SaveCheckpoint(ctx, strings.Repeat("x", 65536))
	}, report{})
	require.ErrorContains(t, ran.Err, "at most 65536 bytes")
	require.Nil(t, ran.Checkpoint)
}
