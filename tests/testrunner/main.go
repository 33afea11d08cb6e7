// Command testrunner is a runner with tasks that do what the tests need: end in every way, hold on, write effects.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/runner/cli"
	"github.com/pgtick/pgtick/tasks"
)

type none struct{}

type wait struct {
	MS int `json:"ms"`
}

type charge struct {
	UserID string `json:"user_id"`
}

func main() {
	r := tasks.NewRegistry()
	endings(r)
	waiting(r)
	talking(r)
	effects(r)
	families(r)
	faults(r)
	cli.Main(r)
}

// endings: every way in which an attempt can end.
func endings(r *tasks.Registry) {
	tasks.Register(r, "test.noop", func(context.Context, *tasks.Job[none]) error { return nil })
	tasks.Register(r, "test.strict", func(_ context.Context, job *tasks.Job[charge]) error { return job.SetResult(job.Args) })
	tasks.Register(r, "test.fail", func(context.Context, *tasks.Job[none]) error { return errors.New("did not work \x00 this time") })
	tasks.Register(r, "test.panic", func(context.Context, *tasks.Job[none]) error { panic("out of order") })
	tasks.Register(r, "test.permanent", func(context.Context, *tasks.Job[none]) error { return tasks.Permanent(errors.New("never will")) })
	tasks.Register(r, "test.cancel", func(context.Context, *tasks.Job[none]) error { return tasks.Cancel("no longer wanted") })
	tasks.Register(r, "test.exit", func(context.Context, *tasks.Job[none]) error { os.Exit(3); return nil })
	tasks.Register(r, "test.snooze", func(_ context.Context, job *tasks.Job[none]) error {
		if job.Attempt == 1 {
			return tasks.Snooze(time.Second)
		}
		return nil
	})
	tasks.Register(r, "test.odd_result", func(_ context.Context, job *tasks.Job[none]) error {
		return job.SetResult(map[string]string{"nul": "a\x00b", "big": strings.Repeat("x", 70000)})
	})
	tasks.Register(r, "test.unstorable_result", func(_ context.Context, job *tasks.Job[none]) error {
		return job.SetResult(surrogate{})
	})
	tasks.Register(r, "test.checkpoint", func(ctx context.Context, job *tasks.Job[none]) error {
		if job.Checkpoint != nil {
			return job.SetResult(job.Checkpoint)
		}
		if err := job.Progress(ctx, 0.5, "half way"); err != nil {
			return err
		}
		if err := job.SaveCheckpoint(ctx, map[string]int{"at": 7}); err != nil {
			return err
		}
		return errors.New("to be continued")
	})
}

// surrogate is JSON that Go takes and the database does not.
type surrogate struct{}

// MarshalJSON implements json.Marshaler.
func (surrogate) MarshalJSON() ([]byte, error) { return []byte(`"\ud800"`), nil }

// waiting: tasks that take their time.
func waiting(r *tasks.Registry) {
	tasks.Register(r, "test.sleep", func(ctx context.Context, job *tasks.Job[wait]) error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(job.Args.MS) * time.Millisecond):
			return nil
		}
	})
	tasks.Register(r, "test.stubborn", func(_ context.Context, job *tasks.Job[wait]) error {
		<-time.After(time.Duration(job.Args.MS) * time.Millisecond)
		return nil
	})
}

// talking: tasks that say more than anybody wants to hear.
func talking(r *tasks.Registry) {
	tasks.Register(r, "test.chatter", func(ctx context.Context, job *tasks.Job[none]) error {
		for i := range 1000 {
			if err := job.Progress(ctx, float64(i)/1000, fmt.Sprintf("word %d", i)); err != nil {
				return err
			}
		}
		return job.Progress(ctx, 1, "the last word")
	})
	tasks.Register(r, "test.one_word", func(ctx context.Context, job *tasks.Job[none]) error {
		if err := job.Progress(ctx, 0.5, "a word"); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	tasks.RegisterTx(r, "test.chatter_tx", func(ctx context.Context, _ pgx.Tx, job *tasks.Job[none]) error {
		for i := range 1000 {
			if err := job.Progress(ctx, float64(i)/1000, ""); err != nil {
				return err
			}
		}
		return nil
	})
}

// effects: rows in the table effects (job_id, attempt), which the test has made.
func effects(r *tasks.Registry) {
	tasks.RegisterTx(r, "test.effect", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[wait]) error {
		if err := write(ctx, tx, job.Info); err != nil {
			return err
		}
		<-time.After(time.Duration(job.Args.MS) * time.Millisecond)
		return nil
	})
	tasks.Register(r, "test.effect_in_tx", func(ctx context.Context, job *tasks.Job[wait]) error {
		return job.InTx(ctx, func(tx pgx.Tx) error {
			if err := write(ctx, tx, job.Info); err != nil {
				return err
			}
			<-time.After(time.Duration(job.Args.MS) * time.Millisecond)
			return nil
		})
	})
	tasks.RegisterTx(r, "test.effect_then_fail", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[none]) error {
		if err := write(ctx, tx, job.Info); err != nil {
			return err
		}
		return errors.New("after the effect")
	})
	tasks.RegisterTx(r, "test.charge", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[charge]) error {
		_, err := tx.Exec(ctx, `select credits.charge(p_user_id => $1, p_amount => 1, p_idempotency_key => 'job ' || $2::bigint || ' attempt ' || $3::int)`,
			job.Args.UserID, job.ID, job.Attempt)
		return err
	})
}

// families: tasks that wait for others.
func families(r *tasks.Registry) {
	tasks.RegisterTx(r, "test.parent", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[none]) error {
		if job.Attempt > 1 {
			return job.SetResult("the children have ended")
		}
		children, err := tasks.EnqueueMany(ctx, tx, "test.effect", []wait{{}, {}, {}})
		if err != nil {
			return err
		}
		return tasks.WaitFor(children...)
	})
	tasks.Register(r, "test.waits_for", func(_ context.Context, job *tasks.Job[children]) error {
		if job.Attempt > 1 {
			return nil
		}
		return tasks.WaitForDone(job.Args.IDs...)
	})
}

type children struct {
	IDs []int64 `json:"ids"`
}

func write(ctx context.Context, tx pgx.Tx, job tasks.Info) error {
	_, err := tx.Exec(ctx, `insert into public.effects (job_id, attempt) values ($1, $2)`, job.ID, job.Attempt)
	return err
}
