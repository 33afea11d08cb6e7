// Command orders is a runner with tasks that belong together: a definition with defaults, a transactional task that enqueues another one,
// logging and traces around both. Its test is beside it.
package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/runner/cli"
	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/tasktrace"
)

// Order is what a job's args hold.
type Order struct {
	ID int64 `json:"id"`
}

// The shop enqueues by these definitions: Pay.Enqueue(ctx, tx, Order{ID: 7}).
var (
	Pay = tasks.Define[Order]("order.pay", tasks.Timeout(time.Minute), tasks.UniqueByArgs(), tasktrace.Carry(),
		tasks.Retries(tasks.Exponential(30*time.Second, 3, 6*time.Hour)))
	Receipt = tasks.Define[Order]("order.receipt", tasks.Priority(7), tasks.MaxAttempts(5))
)

func registry() *tasks.Registry {
	r := tasks.NewRegistry()
	r.Use(tasks.Logging(), tasktrace.Middleware(tasktrace.Options{})) // spans go to OpenTelemetry's global provider, once you set one
	Pay.RegisterTx(r, pay)
	Receipt.Register(r, receipt)
	return r
}

// pay marks the order as paid and asks for its receipt: both, or neither, and once.
func pay(ctx context.Context, tx pgx.Tx, job *tasks.Job[Order]) error {
	if _, err := tx.Exec(ctx, `update public.orders set paid_at = now() where id = $1`, job.Args.ID); err != nil {
		return err
	}
	_, err := Receipt.Enqueue(ctx, tx, job.Args)
	return err
}

func receipt(_ context.Context, job *tasks.Job[Order]) error {
	job.Log.Info("here the receipt would be sent")
	return job.SetResult(map[string]int64{"order": job.Args.ID})
}

func main() { cli.Main(registry()) }
