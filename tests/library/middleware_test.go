package library_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/taskmetrics"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// diary is written by middleware and tasks.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

// entries writes before and after an attempt.
func (d *diary) entries(name string) tasks.Middleware {
	return func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			d.write("into " + name)
			defer d.write("out of " + name)
			return next(ctx, call)
		}
	}
}

func TestMiddleware_RunsInItsOrder_TheRegistrysAroundTheTasksOwn(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	var d diary
	own, other := tasks.NewRegistry(), tasks.NewRegistry()
	own.Use(d.entries("first"), d.entries("second"))
	tasks.Define[none]("job", tasks.Around(d.entries("task's first"), d.entries("task's second"))).
		Register(own, func(context.Context, *tasks.Job[none]) error { d.write("task"); return nil })
	own.Use(d.entries("third"))
	tasks.Register(other, "not.wrapped", func(context.Context, *tasks.Job[none]) error { d.write("other task"); return nil })
	all := tasks.NewRegistry()
	all.Merge(own, other)

	db.Enqueue(t, "job", nil)
	require.Equal(t, 1, db.Work(t, all))
	require.Equal(t, []string{"into first", "into second", "into third", "into task's first", "into task's second", "task",
		"out of task's second", "out of task's first", "out of third", "out of second", "out of first"}, d.lines)

	d.lines = nil
	db.Enqueue(t, "not.wrapped", nil)
	require.Equal(t, 1, db.Work(t, all))
	require.Equal(t, []string{"other task"}, d.lines)
}

type nameKey struct{}

// Each way in which an attempt can end is seen by middleware, under the name that the database keeps it by.
func TestMiddleware_SeesEachOutcome_AndAddsToTheContext(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	registry := tasks.NewRegistry()
	endings := map[string]func() error{
		"done":           func() error { return nil },
		"error":          func() error { return errNotNow },
		"error later":    func() error { return tasks.RetryAfter(errNotNow, time.Hour) },
		"error by panic": func() error { panic("out of order") },
		"failed":         func() error { return tasks.Permanent(errNotNow) },
		"cancelled":      func() error { return tasks.Cancel("no longer wanted") },
		"snoozed":        func() error { return tasks.Snooze(time.Hour) },
	}
	var mu sync.Mutex
	seen, errs, names := map[string]string{}, map[string]error{}, map[string]any{}
	registry.Use(func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			err := next(context.WithValue(ctx, nameKey{}, "for "+call.Info.Task), call)
			mu.Lock()
			defer mu.Unlock()
			seen[call.Info.Task], errs[call.Info.Task] = tasks.Outcome(context.Cause(ctx), err), err
			return err
		}
	})
	ids := map[string]int64{}
	for name, end := range endings {
		for _, inTx := range []bool{false, true} {
			task := name
			if inTx {
				task += " in a transaction"
				tasks.RegisterTx(registry, task, func(ctx context.Context, _ pgx.Tx, _ *tasks.Job[none]) error {
					mu.Lock()
					names[task] = ctx.Value(nameKey{})
					mu.Unlock()
					return end()
				})
			} else {
				tasks.Register(registry, task, func(ctx context.Context, _ *tasks.Job[none]) error {
					mu.Lock()
					names[task] = ctx.Value(nameKey{})
					mu.Unlock()
					return end()
				})
			}
			ids[task] = db.Enqueue(t, task, nil)
		}
	}
	require.Equal(t, len(ids), db.Work(t, registry))
	for task, id := range ids {
		require.Equal(t, ask[string](t, db, `select outcome from pgtick.attempts where job_id = $1`, id), seen[task], task)
		require.Equal(t, "for "+task, names[task])
	}
	var panicked *tasks.PanicError
	require.ErrorAs(t, errs["error by panic"], &panicked)
	require.Contains(t, string(panicked.Stack), "middleware_test.go")
	require.ErrorAs(t, errs["error by panic in a transaction"], &panicked)
}

func TestMiddleware_AroundATransactionalTask_SeesItsCommit(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `create table public.parents (id int primary key)`)
	do(t, db, `create table public.children (parent_id int references public.parents deferrable initially deferred)`)
	registry := tasks.NewRegistry()
	tasks.RegisterTx(registry, "child", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[struct{ Parent int }]) error {
		_, err := tx.Exec(ctx, `insert into public.children values ($1)`, job.Args.Parent)
		return err
	})
	var errs []error
	var children []int
	registry.Use(func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			err := next(ctx, call)
			errs = append(errs, err)
			children = append(children, ask[int](t, db, `select count(*) from public.children`))
			return err
		}
	})
	do(t, db, `insert into public.parents values (1)`)

	db.Enqueue(t, "child", map[string]int{"Parent": 1})
	db.Work(t, registry)
	orphan := db.Enqueue(t, "child", map[string]int{"Parent": 2})
	db.Work(t, registry)

	require.Equal(t, []int{1, 1}, children, "what was written is there when next has returned")
	require.NoError(t, errs[0])
	requireCode(t, errs[1], "23503")
	require.Equal(t, "ready", db.Job(t, orphan).State)
}

func TestMiddleware_ThatPanics_IsOneFailedAttempt(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	registry := noted(t, db)
	registry.Use(func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			if call.Info.Attempt == 1 {
				panic("the middleware is out of order")
			}
			return next(ctx, call)
		}
	})
	id := db.Enqueue(t, "note", greeting{"ann"})
	require.Equal(t, 1, db.Work(t, registry))
	require.Contains(t, db.Job(t, id).Error, "panic: the middleware is out of order")
	db.Advance(t, time.Minute)
	require.Equal(t, 1, db.Work(t, registry))
	require.Equal(t, "done", db.Job(t, id).State)
}

func TestLogging_TellsOfStartAndEnd_NeverOfArgs(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	log := logrus.New()
	log.SetOutput(&said)
	log.SetFormatter(&logrus.JSONFormatter{})
	registry := tasks.NewRegistry()
	registry.Use(func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			call.Log = log.WithFields(call.Log.Data)
			return next(ctx, call)
		}
	}, tasks.Logging())
	tasks.Register(registry, "greet", func(_ context.Context, job *tasks.Job[greeting]) error {
		if job.Attempt > 1 {
			return errNotNow
		}
		return nil
	})
	pgtest.Run(t, registry, "greet", greeting{"a secret"})
	pgtest.Run(t, registry, "greet", greeting{"a secret"}, func(job *tasks.Info) { job.Attempt = 2 })
	lines := bytes.Split(bytes.TrimSpace(said.Bytes()), []byte("\n"))
	require.Len(t, lines, 4)
	require.Contains(t, string(lines[0]), `"msg":"attempt started"`)
	require.Contains(t, string(lines[1]), `"state":"done","task":"greet"`)
	require.Contains(t, string(lines[1]), `"elapsed_ms":`)
	require.Contains(t, string(lines[3]), `"error":"not now"`)
	require.Contains(t, string(lines[3]), `"level":"warning"`)
	require.Contains(t, string(lines[3]), `"state":"error"`)
	require.NotContains(t, said.String(), "secret")
}

func TestMetrics_CountAndTimeAttempts_ByTaskAndOutcome(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	into := prometheus.NewRegistry()
	registry := tasks.NewRegistry()
	registry.Use(taskmetrics.Middleware(into))
	tasks.Register(registry, "greet", func(_ context.Context, job *tasks.Job[greeting]) error {
		require.InDelta(t, 1, figure(t, into, "pgtick_task_attempts_running", "greet").GetGauge().GetValue(), 0)
		if job.Args.Name == "" {
			return tasks.Permanent(errors.New("nobody to greet"))
		}
		return nil
	})
	second := tasks.NewRegistry()
	second.Use(taskmetrics.Middleware(into)) // shares them
	tasks.Register(second, "other", func(context.Context, *tasks.Job[none]) error { return errNotNow })
	all := tasks.NewRegistry()
	all.Merge(registry, second)
	for _, name := range []string{"ann", "bob", ""} {
		db.Enqueue(t, "greet", greeting{name})
		require.Equal(t, 1, db.Work(t, all))
	}
	db.Enqueue(t, "other", nil)
	require.Equal(t, 1, db.Work(t, all))

	require.InDelta(t, 2, figure(t, into, "pgtick_task_attempts_total", "greet", "done").GetCounter().GetValue(), 0)
	require.InDelta(t, 1, figure(t, into, "pgtick_task_attempts_total", "greet", "failed").GetCounter().GetValue(), 0)
	require.InDelta(t, 1, figure(t, into, "pgtick_task_attempts_total", "other", "error").GetCounter().GetValue(), 0)
	require.Equal(t, uint64(2), figure(t, into, "pgtick_task_attempt_seconds", "greet", "done").GetHistogram().GetSampleCount())
	require.InDelta(t, 0, figure(t, into, "pgtick_task_attempts_running", "greet").GetGauge().GetValue(), 0)
}

// figure finds a metric by its name and its labels' values.
func figure(t *testing.T, registry *prometheus.Registry, name string, labels ...string) *dto.Metric {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var values []string
			for _, pair := range metric.GetLabel() {
				values = append(values, pair.GetValue())
			}
			slices.Sort(values)
			wanted := slices.Clone(labels)
			slices.Sort(wanted)
			if family.GetName() == name && slices.Equal(values, wanted) {
				return metric
			}
		}
	}
	require.Fail(t, "there is no such metric", "%s %v", name, labels)
	return nil
}
