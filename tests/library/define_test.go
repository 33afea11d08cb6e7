package library_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
)

var welcome = tasks.Define[greeting]("email.welcome", tasks.Queue("mail"), tasks.Priority(3), tasks.Timeout(time.Minute), tasks.MaxAttempts(4),
	tasks.UniqueByArgs(), tasks.UniqueFor(time.Hour), tasks.Retries(tasks.Delays(10*time.Second, time.Hour)), tasks.RateLimit(100, time.Minute), tasks.Burst(10), tasks.MaxRunning(5))

func TestDefine_ItsDefaults_AreThoseOfEachJob_UnlessTheEnqueueSaysOtherwise(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	id, err := welcome.Enqueue(t.Context(), db.Pool, greeting{"ann"})
	require.NoError(t, err)
	again, err := welcome.Enqueue(t.Context(), db.Pool, greeting{"ann"}, tasks.Queue("other"))
	require.NoError(t, err)
	require.Equal(t, id, again)
	job := db.Job(t, id)
	require.Equal(t, []any{"mail", 3, time.Minute, 4}, []any{job.Queue, job.Priority, job.Timeout, job.MaxAttempts})
	require.Nil(t, ask[*string](t, db, `select retry_policy::text from pgtick.jobs where id = $1`, id), "the policy is the task's, not this job's")

	other, err := welcome.Enqueue(t.Context(), db.Pool, greeting{"bob"}, tasks.Priority(0), tasks.UniqueKey("bob"), tasks.Retries(tasks.Linear(time.Minute, 0)))
	require.NoError(t, err)
	job = db.Job(t, other)
	require.Equal(t, []any{"mail", 0, time.Minute, "bob"}, []any{job.Queue, job.Priority, job.Timeout, job.UniqueKey})
	require.NotNil(t, ask[*string](t, db, `select retry_policy::text from pgtick.jobs where id = $1`, other))

	many, err := welcome.EnqueueMany(t.Context(), db.Pool, []greeting{{"eve"}, {"ann"}})
	require.NoError(t, err)
	require.Equal(t, id, many[1])
	require.Equal(t, "mail", db.Job(t, many[0]).Queue)
}

func TestDefine_RegistersPlainAndTransactionalFunctions(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `create table public.greeted (name text)`)
	plain, inTx := tasks.Define[greeting]("greet"), tasks.Define[greeting]("greet.tx", tasks.Queue("elsewhere"))
	registry := tasks.NewRegistry()
	inTx.RegisterTx(registry, func(ctx context.Context, tx pgx.Tx, job *tasks.Job[greeting]) error {
		_, err := tx.Exec(ctx, `insert into public.greeted values ($1)`, job.Args.Name)
		return err
	})
	plain.Register(registry, func(ctx context.Context, job *tasks.Job[greeting]) error {
		return job.InTx(ctx, func(tx pgx.Tx) error {
			_, err := inTx.Enqueue(ctx, tx, job.Args)
			return err
		})
	})
	require.Equal(t, []string{plain.Name(), inTx.Name()}, registry.Names())
	_, err := plain.Enqueue(t.Context(), db.Pool, greeting{"ann"})
	require.NoError(t, err)
	require.Equal(t, 2, db.Work(t, registry))
	require.Equal(t, "ann", ask[string](t, db, `select name from public.greeted`))
	require.Panics(t, func() { plain.Register(registry, nil) }, "a name is taken once")
}

// What goes for all jobs of a task is not in the jobs: a runner declares it when it starts.
func TestDefine_WhatGoesForAllJobs_IsDeclared(t *testing.T) {
	t.Parallel()
	registry := tasks.NewRegistry()
	welcome.Register(registry, func(context.Context, *tasks.Job[greeting]) error { return nil })
	tasks.Register(registry, "plain", func(context.Context, *tasks.Job[none]) error { return nil })
	tasks.Define[none]("defined", tasks.Queue("mail")).Register(registry, func(context.Context, *tasks.Job[none]) error { return nil })
	all := tasks.NewRegistry()
	all.Merge(registry)

	task, _ := all.Lookup("email.welcome")
	require.JSONEq(t, `{"retry_policy": {"kind": "list", "delays": ["10 seconds", "3600 seconds"]}, "rate": 100, "period_seconds": 60, "burst": 10, "max_running": 5}`,
		string(task.Declared))
	task, _ = all.Lookup("defined")
	require.JSONEq(t, `{}`, string(task.Declared), "so that what it declared before goes")
	task, _ = all.Lookup("plain")
	require.Nil(t, task.Declared)
}

func TestDefine_ItsLimitsAndGates_AreTheDatabases_UntilTheyAreDeclaredNoMore(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.allow_gate('nothing odd', 'select 1 where false')`)
	start := func(options ...tasks.DefineOption) {
		registry := tasks.NewRegistry()
		tasks.Define[none]("limited", options...).Register(registry, func(context.Context, *tasks.Job[none]) error { return nil })
		do(t, db, `select pgtick.enqueue('limited')`)
		require.Equal(t, 1, db.Work(t, registry))
	}
	const said = `select coalesce(string_agg(format('%s %s/%s burst %s, %s', per_key, rate, period, burst, max_running), '; ' order by per_key), '') from pgtick.limits where declared`
	const rules = `select coalesce((select format('%s %s', gates, most_rows) from pgtick.task_rules where declared), '')`
	start(tasks.MaxRunning(5), tasks.PerKey(tasks.RateLimit(10, time.Minute), tasks.Burst(2)), tasks.Gates("nothing odd"), tasks.MostRows(100))
	require.Equal(t, "f / burst , 5; t 10/00:01:00 burst 2, ", ask[string](t, db, said))
	require.Equal(t, `{"nothing odd"} 100`, ask[string](t, db, rules))
	start()
	require.Empty(t, ask[string](t, db, said))
	require.Empty(t, ask[string](t, db, rules))
}

func TestDefine_WithABadValue_PanicsWhenTheProgramStarts(t *testing.T) {
	t.Parallel()
	for says, option := range map[string]tasks.DefineOption{
		`priority "12" is refused`:                                     tasks.Priority(12),
		`timeout "0s" is refused`:                                      tasks.Timeout(0),
		`rate "0" is refused: it is 1 or more`:                         tasks.RateLimit(0, time.Minute),
		`period "1ms" is refused: it is a second or more`:              tasks.RateLimit(1, time.Millisecond),
		`burst "5" is refused: it goes with RateLimit`:                 tasks.Burst(5),
		`max_running "-1" is refused`:                                  tasks.MaxRunning(-1),
		`rate "-2" is refused`:                                         tasks.PerKey(tasks.RateLimit(-2, time.Second)),
		`burst "3" is refused: it goes with RateLimit`:                 tasks.PerKey(tasks.MaxRunning(1), tasks.Burst(3)),
		`per_key "0" is refused: it has a RateLimit or MaxRunning`:     tasks.PerKey(),
		`most_rows "0" is refused`:                                     tasks.MostRows(0),
		`retry_policy "" is refused: make it with Exponential, Linear`: tasks.Retries(tasks.RetryPolicy{}),
	} {
		func() {
			defer func() {
				require.Contains(t, recover(), `tasks: define "mail": a value was refused: `+says)
			}()
			tasks.Define[none]("mail", option)
		}()
	}
	require.Panics(t, func() { tasks.Define[none]("") })
}

func TestDefine_ItsRetryPolicy_GoesForJobsFromSQL_AndYieldsToWhatSQLSays(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	db.SetNow(t, time.Date(2131, 5, 6, 12, 0, 0, 0, time.UTC))
	registry := tasks.NewRegistry()
	tasks.Define[none]("flaky", tasks.Retries(tasks.Linear(time.Minute, 0))).Register(registry, func(context.Context, *tasks.Job[none]) error { return errNotNow })
	wait := func() time.Duration {
		id := ask[int64](t, db, `select pgtick.enqueue('flaky')`)
		require.Equal(t, 1, db.Work(t, registry))
		return db.Job(t, id).RunAt.Sub(db.Now(t))
	}
	require.Equal(t, time.Minute, wait())
	do(t, db, `select pgtick.set_retry_policy('flaky', '{"kind": "linear", "step": "5 seconds"}')`)
	require.Equal(t, 5*time.Second, wait(), "the runner has started anew, and declared its own")
}
