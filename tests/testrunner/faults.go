package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/tasks"
)

// errand is a job of tests/faults. Its token is by what the producer knows it.
type errand struct {
	Token  int64  `json:"token"`
	MS     int    `json:"ms"`
	Steps  int    `json:"steps"`
	Fails  int    `json:"fails"`
	UserID string `json:"user_id"`
}

func (e errand) takesTime() { <-time.After(time.Duration(e.MS) * time.Millisecond) }

// faults: the mixed work of tests/faults, whose tables lie in schema faults. What happens outside of the database is a line in the file that
// FAULTS_JOURNAL names.
func faults(r *tasks.Registry) {
	for _, name := range []string{"fault.effect", "fault.limited", "fault.slot"} {
		tasks.RegisterTx(r, name, func(ctx context.Context, tx pgx.Tx, job *tasks.Job[errand]) error {
			_, err := tx.Exec(ctx, `insert into faults.effects (token, job_id, attempt) values ($1, $2, $3)`, job.Args.Token, job.ID, job.Attempt)
			job.Args.takesTime()
			return err
		})
	}
	tasks.Register(r, "fault.probe", func(context.Context, *tasks.Job[none]) error { return nil })
	tasks.Register(r, "fault.plain", func(_ context.Context, job *tasks.Job[errand]) error {
		err := writeDown(job.Info)
		job.Args.takesTime()
		return err
	})
	tasks.Register(r, "fault.failing", func(_ context.Context, job *tasks.Job[errand]) error {
		if job.Attempt <= job.Args.Fails {
			return tasks.RetryAfter(errors.New("not yet"), 100*time.Millisecond)
		}
		return writeDown(job.Info)
	})
	tasks.Register(r, "fault.long", stepByStep)
	tasks.RegisterTx(r, "fault.ledger", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[errand]) error {
		if err := chargeOnce(ctx, tx, job.Args); err != nil {
			return err
		}
		return holdAndCapture(ctx, tx, job.Args)
	})
	tasks.Register(r, "fault.ledger_plain", func(ctx context.Context, job *tasks.Job[errand]) error {
		if err := job.InTx(ctx, func(tx pgx.Tx) error { return chargeOnce(ctx, tx, job.Args) }); err != nil {
			return err
		}
		return job.InTx(ctx, func(tx pgx.Tx) error { return holdAndCapture(ctx, tx, job.Args) })
	})
}

// writeDown appends one line in one write, so that lines of several processes do not mix.
func writeDown(job tasks.Info) error {
	file, err := os.OpenFile(os.Getenv("FAULTS_JOURNAL"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintf(file, "%d\t%d\t%d\n", job.ID, job.Attempt, job.Fence)
	return err
}

// stepByStep goes on behind the step that an earlier attempt has noted. One that was done and not noted is done again.
func stepByStep(ctx context.Context, job *tasks.Job[errand]) error {
	last := 0
	if job.Checkpoint != nil {
		if err := json.Unmarshal(job.Checkpoint, &last); err != nil {
			return err
		}
	}
	for step := last + 1; step <= job.Args.Steps; step++ {
		err := job.InTx(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into faults.steps (job_id, step, attempt) values ($1, $2, $3) on conflict do nothing`, job.ID, step, job.Attempt)
			return err
		})
		if err != nil {
			return err
		}
		job.Args.takesTime()
		if err := job.SaveCheckpoint(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func chargeOnce(ctx context.Context, tx pgx.Tx, e errand) error {
	_, err := tx.Exec(ctx, `select credits.charge(p_user_id => $1, p_amount => 1, p_idempotency_key => 'charge ' || $2::bigint)`, e.UserID, e.Token)
	return err
}

func holdAndCapture(ctx context.Context, tx pgx.Tx, e errand) error {
	_, err := tx.Exec(ctx, `select credits.capture(credits.hold($1, 3, '1 hour', 'hold ' || $2::bigint), 2)`, e.UserID, e.Token)
	return err
}
