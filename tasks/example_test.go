package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/exampletest"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Order is what a job's args hold.
type Order struct {
	ID int64 `json:"id"`
}

// Those who enqueue an order's payment, and the program that runs it, share this definition.
var pay = tasks.Define[Order]("order.pay", tasks.Queue("orders"), tasks.Timeout(time.Minute), tasks.UniqueByArgs(),
	tasks.Retries(tasks.Exponential(30*time.Second, 3, 6*time.Hour)), tasks.MaxRunning(5))

func Example() {
	t, end := exampletest.New() // a database, and a runner for what is due: see package pgtest
	defer end()
	db := pgtest.New(t)

	registry := tasks.NewRegistry()
	tasks.Register(registry, "order.receipt", func(_ context.Context, job *tasks.Job[Order]) error {
		fmt.Println("receipt for order", job.Args.ID)
		return nil
	})
	pay.RegisterTx(registry, func(ctx context.Context, tx pgx.Tx, job *tasks.Job[Order]) error {
		fmt.Println("order", job.Args.ID, "is paid")
		_, err := tasks.Enqueue(ctx, tx, "order.receipt", job.Args) // there when this commits, and not before
		return err
	})

	// Job and order commit together, or neither does.
	err := pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
		_, err := pay.Enqueue(t.Context(), tx, Order{ID: 7})
		return err
	})
	fmt.Println(err, db.Work(t, registry))
	// Output:
	// order 7 is paid
	// receipt for order 7
	// <nil> 2
}

func ExampleDefinition_Enqueue() {
	t, end := exampletest.New()
	defer end()
	db := pgtest.New(t)

	first, _ := pay.Enqueue(t.Context(), db.Pool, Order{ID: 7}, tasks.Priority(1), tasks.Delay(time.Hour))
	again, _ := pay.Enqueue(t.Context(), db.Pool, Order{ID: 7})
	fmt.Println(first == again)
	fmt.Println(db.Job(t, first).Queue, db.Job(t, first).Priority, db.Job(t, first).Timeout)
	// Output:
	// true
	// orders 1 1m0s
}

// A value that is not allowed is refused before the database is asked, so that the transaction may go on.
func ExampleEnqueue() {
	t, end := exampletest.New()
	defer end()
	db := pgtest.New(t)

	id, err := tasks.Enqueue(t.Context(), db.Pool, "order.pay", Order{ID: 7}, tasks.Queue("orders"), tasks.MaxAttempts(3))
	fmt.Println(db.Job(t, id).MaxAttempts, err)

	_, err = tasks.Enqueue(t.Context(), db.Pool, "order.pay", Order{ID: 7}, tasks.Priority(10))
	fmt.Println(errors.Is(err, tasks.ErrBadValue), err)
	// Output:
	// 3 <nil>
	// true enqueue a job of task "order.pay": a value was refused: priority "10" is refused: it goes from 0 (first) to 9 (last)
}

func ExampleRegistry_Use() {
	t, end := exampletest.New()
	defer end()

	registry := tasks.NewRegistry()
	registry.Use(tasks.Logging(), func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			err := next(ctx, call)
			fmt.Println(call.Info.Task, "has ended as", tasks.Outcome(context.Cause(ctx), err))
			return err
		}
	})
	tasks.Register(registry, "order.pay", func(context.Context, *tasks.Job[Order]) error {
		return tasks.Snooze(5 * time.Minute)
	})
	pgtest.Run(t, registry, "order.pay", Order{ID: 7})
	// Output:
	// order.pay has ended as snoozed
}

// A long task says where it is, and the next attempt goes on from there.
func ExampleHandle_SaveCheckpoint() {
	t, end := exampletest.New()
	defer end()

	export := func(ctx context.Context, job *tasks.Job[Order]) error {
		if job.Checkpoint != nil {
			return job.SetResult("went on from " + string(job.Checkpoint))
		}
		if err := job.SaveCheckpoint(ctx, 500); err != nil {
			return err
		}
		return errors.Join(job.Progress(ctx, 0.5, "500 of 1000 rows"), errors.New("the connection broke"))
	}
	first := pgtest.RunFunc(t, export, Order{})
	fmt.Println(first.Outcome, first.Said)
	second := pgtest.RunFunc(t, export, Order{}, func(job *tasks.Info) { job.Checkpoint = first.Checkpoint })
	fmt.Println(second.Outcome, string(second.Result))
	// Output:
	// error [{0.5 500 of 1000 rows}]
	// done "went on from 500"
}
