package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/runner/cli"
	"github.com/pgtick/pgtick/tasks"
)

type none struct{}

type echo struct {
	Say string `json:"say"`
}

type gate struct {
	Gate string `json:"gate"`
}

type busy struct {
	MS int `json:"ms"`
}

type made struct {
	Attempt int `json:"attempt"`
}

// goRunner is pgtick's own runner with the tasks of the conformance test: the test binary itself, started once more.
func goRunner() {
	r := tasks.NewRegistry()
	tasks.Register(r, "conf.echo", func(_ context.Context, job *tasks.Job[echo]) error {
		return job.SetResult(map[string]string{"said": job.Args.Say})
	})
	tasks.Register(r, "conf.flaky", func(ctx context.Context, job *tasks.Job[none]) error {
		if job.Attempt > 1 {
			return job.SetResult(job.Checkpoint)
		}
		return errors.Join(job.SaveCheckpoint(ctx, json.RawMessage(`{"at": 7}`)), errors.New("did not work \x00 this time"))
	})
	tasks.Register(r, "conf.permanent", func(context.Context, *tasks.Job[none]) error { return tasks.Permanent(errors.New("never will")) })
	tasks.Register(r, "conf.snooze", func(_ context.Context, job *tasks.Job[none]) error {
		if job.Attempt > 1 {
			return nil
		}
		return tasks.Snooze(time.Second)
	})
	tasks.Register(r, "conf.unstorable", func(_ context.Context, job *tasks.Job[none]) error {
		return job.SetResult(map[string]string{"text": "a\x00b"})
	})
	tasks.Register(r, "conf.busy", func(_ context.Context, job *tasks.Job[busy]) error {
		for until := time.Now().Add(time.Duration(job.Args.MS) * time.Millisecond); time.Now().Before(until); {
			continue
		}
		return nil
	})
	tasks.Register(r, "conf.gate", func(ctx context.Context, job *tasks.Job[gate]) error {
		return errors.Join(waitAtGate(ctx, job), job.SetResult(made{job.Attempt}))
	})
	tasks.RegisterTx(r, "conf.effect", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[gate]) error {
		return errors.Join(write(ctx, tx, job.Info), waitAtGate(ctx, job), job.SetResult(made{job.Attempt}))
	})
	tasks.RegisterTx(r, "conf.effect_then_fail", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[none]) error {
		return errors.Join(write(ctx, tx, job.Info), errors.New("after the effect"))
	})
	cli.Main(r)
}

// waitAtGate says where it is again and again: a word for which no connection is free at the moment is not written later by itself.
func waitAtGate(ctx context.Context, job *tasks.Job[gate]) error {
	for {
		if err := job.Progress(ctx, 0.5, "at the gate"); err != nil {
			return err
		}
		if _, err := os.Stat(job.Args.Gate); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func write(ctx context.Context, tx pgx.Tx, job tasks.Info) error {
	_, err := tx.Exec(ctx, `insert into public.effects (job_id, attempt) values ($1, $2)`, job.ID, job.Attempt)
	return err
}
