package library_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
)

func TestEnqueue_FromATransactionalTask_RollsBackWithIt(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	registry := noted(t, db)
	tasks.RegisterTx(registry, "parent", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[none]) error {
		if _, err := tasks.Enqueue(ctx, tx, "note", greeting{"from its parent"}); err != nil {
			return err
		}
		if job.Attempt == 1 {
			return errNotNow
		}
		return nil
	})
	id := db.Enqueue(t, "parent", nil)

	require.Equal(t, 1, db.Work(t, registry))
	require.Equal(t, "ready", db.Job(t, id).State)
	require.Empty(t, db.Jobs(t, "note"))

	db.Advance(t, time.Minute)
	require.Equal(t, 2, db.Work(t, registry), "the second attempt, and the job that it has enqueued")
	require.Equal(t, "done", db.Job(t, id).State)
	require.Len(t, db.Jobs(t, "note"), 1)
	require.Equal(t, "from its parent", ask[string](t, db, `select note from public.notes`))
}

func TestEnqueue_FromAPlainTask_InTx_RollsBackWithIt(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	registry := noted(t, db)
	tasks.Register(registry, "parent", func(ctx context.Context, job *tasks.Job[none]) error {
		for _, fails := range []error{errNotNow, nil} {
			err := job.InTx(ctx, func(tx pgx.Tx) error {
				_, err := tasks.Enqueue(ctx, tx, "note", greeting{"once"})
				return errors.Join(err, fails)
			})
			if !errors.Is(err, fails) {
				return err
			}
		}
		return nil
	})
	db.Enqueue(t, "parent", nil)
	require.Equal(t, 2, db.Work(t, registry))
	require.Equal(t, 1, ask[int](t, db, `select count(*) from public.notes`))
}

// A runner whose job was given to another may not know it yet. What it enqueues then does not stay.
func TestEnqueue_InTxOfARunnerThatHasLostItsJob_IsRefused(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	registry := tasks.NewRegistry()
	var runs atomic.Int32
	outcomes := make(chan string, 2)
	registry.Use(func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			err := next(ctx, call)
			outcomes <- tasks.Outcome(context.Cause(ctx), err)
			return err
		}
	})
	tasks.Register(registry, "parent", func(ctx context.Context, job *tasks.Job[none]) error {
		if runs.Add(1) > 1 {
			return nil
		}
		do(t, db, `select pgtick.leave(j.runner_id) from pgtick.live_jobs as j where j.id = $1`, job.ID)
		return job.InTx(ctx, func(tx pgx.Tx) error {
			_, err := tasks.Enqueue(ctx, tx, "child", nil)
			return err
		})
	})
	id := db.Enqueue(t, "parent", nil)
	db.Work(t, registry)
	require.ElementsMatch(t, []string{"fenced", "done"}, []string{<-outcomes, <-outcomes})
	require.Empty(t, db.Jobs(t, "child"))
	require.Equal(t, "done", db.Job(t, id).State, "by the next attempt")
}

func TestEnqueue_InTheCallersTransaction_CommitsWithIt(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	for name, row := range map[string]struct {
		end  error
		jobs int
	}{"rolled back": {errNotNow, 0}, "committed": {nil, 1}} {
		err := pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
			_, err := tasks.Enqueue(t.Context(), tx, name, greeting{"ann"})
			return errors.Join(err, row.end)
		})
		require.ErrorIs(t, err, row.end)
		require.Len(t, db.Jobs(t, name), row.jobs, name)
	}
}

// Behind a pooler statements are sent otherwise. What arrives is the same.
func TestEnqueue_ByEachWayToSendAStatement_AddsTheSameJob(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	owner := "6f9619ff-8b86-4d11-b42d-00c04fc964ff"
	at := time.Date(2131, 5, 6, 12, 0, 0, 123456000, time.UTC)
	args := greeting{`it's "Ann" \ {a,b} 名`}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		cfg := db.Config(t)
		cfg.DefaultQueryExecMode = mode
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		require.NoError(t, err)
		defer conn.Close(context.Background())
		options := []tasks.Option{tasks.Queue("mail"), tasks.Priority(3), tasks.RunAt(at), tasks.MaxAttempts(7), tasks.Timeout(90 * time.Second), tasks.OwnerID(owner),
			tasks.UniqueFor(time.Hour), tasks.UniqueStates("ready", "done"), tasks.OnConflict("replace_args"), tasks.Retries(tasks.Linear(time.Minute, 0).Jitter(0.5))}
		one, err := tasks.Enqueue(t.Context(), conn, mode.String(), args, append(options, tasks.UniqueKey("{a,b} 1"))...)
		require.NoError(t, err, mode)
		many, err := tasks.EnqueueMany(t.Context(), conn, mode.String(), []greeting{args, args}, append(options, tasks.UniqueKeys("{a,b} 2", "3"))...)
		require.NoError(t, err, mode)
		for i, id := range append([]int64{one}, many...) {
			job := db.Job(t, id)
			require.Equal(t, []string{"{a,b} 1", "{a,b} 2", "3"}[i], job.UniqueKey, mode)
			require.JSONEq(t, `{"name": "it's \"Ann\" \\ {a,b} 名"}`, string(job.Args), mode)
			require.True(t, at.Equal(job.RunAt), mode)
			require.Equal(t, []any{"mail", 3, 7, 90 * time.Second, owner}, []any{job.Queue, job.Priority, job.MaxAttempts, job.Timeout, job.OwnerID}, mode)
			require.JSONEq(t, `{"kind": "linear", "step": "60 seconds", "jitter": 0.5}`, ask[string](t, db, `select retry_policy::text from pgtick.jobs where id = $1`, job.ID))
			require.JSONEq(t, `{"states": ["ready", "done"], "hours": 1}`, ask[string](t, db, `select jsonb_build_object('states', uniqueness -> 'states',
				'hours', round(extract(epoch from (uniqueness ->> 'until')::timestamptz - created_at) / 3600))::text from pgtick.live_jobs where id = $1`, job.ID))
		}
	}
}

func TestEnqueue_WithoutOptions_HasTheDatabasesDefaults(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id := db.Enqueue(t, "plain", nil)
	bySQL := ask[int64](t, db, `select pgtick.enqueue('plain')`)
	one, two := db.Job(t, id), db.Job(t, bySQL)
	two.ID, two.RunAt = one.ID, one.RunAt
	require.Equal(t, two, one)
}

func TestEnqueue_WithADelay_IsDueByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	registry := noted(t, db)
	noon := time.Date(2131, 5, 6, 12, 0, 0, 0, time.UTC)
	db.SetNow(t, noon)
	id := db.Enqueue(t, "note", greeting{"later"}, tasks.Delay(90*time.Minute))
	require.Equal(t, noon.Add(90*time.Minute), db.Job(t, id).RunAt.UTC())
	db.Advance(t, 90*time.Minute-time.Microsecond)
	require.Zero(t, db.Work(t, registry))
	db.Advance(t, time.Microsecond)
	require.Equal(t, 1, db.Work(t, registry))
}

func TestEnqueueMany_ReturnsTheIDsInTheOrderOfArgs(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	args := []greeting{{"c"}, {"a"}, {"b"}, {"a"}}
	for name, options := range map[string][]tasks.Option{"plain": nil, "unique": {tasks.UniqueByArgs()}} {
		ids, err := tasks.EnqueueMany(t.Context(), db.Pool, name, args, options...)
		require.NoError(t, err)
		require.Len(t, ids, len(args))
		for i, id := range ids {
			require.JSONEq(t, `{"name": "`+args[i].Name+`"}`, string(db.Job(t, id).Args))
		}
		require.Equal(t, options != nil, ids[1] == ids[3], "equal args are one job where args make the key")
	}
	none, err := tasks.EnqueueMany(t.Context(), db.Pool, "plain", []greeting{})
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestEnqueue_UniqueByArgs_GoesByWhatTheArgsSay(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	first := db.Enqueue(t, "report", map[string]any{"rows": 12345678901234567890.0, "of": "may"}, tasks.UniqueByArgs())
	type sameArgs struct {
		Rows uint64 `json:"rows"`
		Of   string `json:"of"`
	}
	require.NotEqual(t, first, db.Enqueue(t, "report", sameArgs{7, "may"}, tasks.UniqueByArgs()))
	second := db.Enqueue(t, "report", sameArgs{8, "may"}, tasks.UniqueByArgs())
	require.Equal(t, second, db.Enqueue(t, "report", map[string]any{"of": "may", "rows": 8}, tasks.UniqueByArgs()), "the order of keys is nothing")
	require.NotEqual(t, second, db.Enqueue(t, "other", sameArgs{8, "may"}, tasks.UniqueByArgs()), "keys of different tasks do not meet")
	require.NotEqual(t, second, db.Enqueue(t, "report", sameArgs{8, "may"}), "and who asks for no uniqueness gets none")
}

func TestEnqueue_WithTiesToOtherJobs_IsTied(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	first := db.Enqueue(t, "first", nil, tasks.SequenceKey("s"), tasks.LimitKey("ann"))
	second := db.Enqueue(t, "second", nil, tasks.SequenceKey("s"), tasks.SequenceFailure("skip"))
	third, err := tasks.EnqueueMany(t.Context(), db.Pool, "third", []none{{}, {}}, tasks.After(first, second), tasks.AfterOutcome("any"), tasks.LimitKey("bob"))
	require.NoError(t, err)
	for id, want := range map[int64]string{
		first:    `{"limit_key": "ann", "sequence_key": "s", "sequence_skips": false}`,
		second:   `{"blocked_by": "sequence", "sequence_key": "s", "sequence_skips": true}`,
		third[0]: fmt.Sprintf(`{"blocked_by": "after", "after_jobs": [%d, %d], "limit_key": "bob"}`, first, second),
		third[1]: fmt.Sprintf(`{"blocked_by": "after", "after_jobs": [%d, %d], "limit_key": "bob"}`, first, second),
	} {
		require.JSONEq(t, want, ask[string](t, db, `select jsonb_strip_nulls(jsonb_build_object('blocked_by', blocked_by, 'after_jobs', after_jobs, 'limit_key', limit_key,
			'sequence_key', sequence_key, 'sequence_skips', sequence_skips))::text from pgtick.live_jobs where id = $1`, id))
	}
	require.True(t, ask[bool](t, db, `select bool_and(l.any_outcome) from pgtick.job_links as l where l.job_id = $1`, third[0]))
	require.True(t, db.Job(t, third[0]).RunAt.IsZero(), "while it is blocked")
}
