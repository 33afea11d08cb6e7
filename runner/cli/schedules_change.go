package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

func pauseCommand() *cobra.Command {
	var until string
	cmd := &cobra.Command{
		Use:   "pause NAME",
		Short: "Make no jobs for a schedule's slots until it is resumed",
		Long: `Make no jobs for the slots of a schedule from now on: each is accounted for as skipped_paused. With --until the schedule runs again by
itself. A pause that is on already gets the new end.`,
		Example: "  pgtick schedules pause nightly-report\n  pgtick schedules pause nightly-report --until 2h\n  pgtick schedules pause nightly-report --until 2026-12-27T06:00:00Z",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&until, "until", "", "end the pause then: a length such as 90m, 24h, 7d, or a moment such as 2026-03-28T02:00:00Z")
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		var end jobs.When
		if until != "" {
			var err error
			if end, err = readWhen("until", until); err != nil {
				return err
			}
		}
		before, err := schedule(ctx, tx, args[0])
		if err != nil {
			return err
		}
		if err := jobs.PauseUntil(ctx, tx, args[0], end.UTC(), end.In); err != nil {
			return err
		}
		after, err := schedule(ctx, tx, args[0])
		if err != nil {
			return err
		}
		was := "is paused"
		switch {
		case before.PausedAt != nil && sameMoment(before.PausedUntil, after.PausedUntil):
			was = "is paused already,"
		case before.PausedAt != nil:
			was = "stays paused, now"
		}
		ends := "until it is resumed: pgtick schedules resume " + quoteArg(args[0])
		if after.PausedUntil != nil {
			ends = fmt.Sprintf("until %s UTC", minute(*after.PausedUntil))
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s %s\n", args[0], was, ends)
		return nil
	})
}

func sameMoment(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

var plainWord = regexp.MustCompile(`^[\w.:@/+-]+$`)

// quoteArg makes a name safe to be typed into a shell.
func quoteArg(name string) string {
	if plainWord.MatchString(name) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

func resumeCommand() *cobra.Command {
	var catchUp bool
	cmd := &cobra.Command{
		Use:   "resume NAME",
		Short: "End a schedule's pause",
		Long: `End a schedule's pause now. The slots in it stay skipped; with --catch-up they are treated as missed ones, and run as on_missed of the
schedule says. A schedule that is not paused is left as it is.`,
		Example: "  pgtick schedules resume nightly-report\n  pgtick schedules resume nightly-report --catch-up",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&catchUp, "catch-up", false, "run what the pause held up, as on_missed says")
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		before, err := schedule(ctx, tx, args[0])
		if err != nil {
			return err
		}
		if err := jobs.Resume(ctx, tx, args[0], catchUp); err != nil {
			return err
		}
		after, err := schedule(ctx, tx, args[0])
		if err != nil {
			return err
		}
		next := "it has no slot to come"
		if after.NextAt != nil {
			next = fmt.Sprintf("its next slot is %s UTC", minute(*after.NextAt))
		}
		was := "is resumed"
		if before.PausedAt == nil {
			was = "was not paused"
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s; %s\n", args[0], was, next)
		return nil
	})
}

func runCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Make a job of a schedule now, paused or not, and print its id",
		Long: `Make a job of a schedule now, paused or not, and print the job's id. A runner has to do it. With --wait the command ends when the job does:
with exit code 0 when it is done, 1 when it has failed or was cancelled. With --json the job's row of pgtick.jobs is printed instead.`,
		Example: "  pgtick schedules run nightly-report\n  pgtick schedules run nightly-report --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, _ := cmd.Flags().GetBool("json")
			return withConnection(cmd, nil, func(ctx context.Context, conn *pgx.Conn) error {
				id, err := jobs.RunNow(ctx, conn, args[0])
				if err != nil {
					return err
				}
				h := handRun{schedule: args[0], id: id, out: cmd.OutOrStdout(), talk: cmd.ErrOrStderr(), asJSON: asJSON}
				if wait {
					return h.follow(ctx, newSession(cmd, conn))
				}
				return h.print(ctx, conn)
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the job has ended")
	jsonFlag(cmd)
	settings(cmd, "database-url")
	return cmd
}

// handRun is one run of a schedule by hand.
type handRun struct {
	schedule string
	id       int64
	out      io.Writer
	talk     io.Writer
	asJSON   bool
}

func (h handRun) print(ctx context.Context, conn *pgx.Conn) error {
	if !h.asJSON {
		_, err := fmt.Fprintln(h.out, h.id)
		return err
	}
	return inTransaction(ctx, conn, func(tx pgx.Tx) error {
		row, err := jobs.JobRow(ctx, tx, h.id)
		if err != nil {
			return err
		}
		return printJSON(h.out, row)
	})
}

// Between two looks at a job, and before it is said that no runner is there for it.
const (
	look     = 200 * time.Millisecond
	patience = 5 * time.Second
)

// follow waits for the job's end, and for a database that goes away meanwhile. The id comes first, so that it is known whatever becomes of this program.
func (h handRun) follow(ctx context.Context, s *session) error {
	defer s.close(ctx)
	if !h.asJSON {
		if err := h.print(ctx, s.conn); err != nil {
			return err
		}
	}
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetDescription(h.schedule), progressbar.OptionSetWriter(h.talk),
		progressbar.OptionSetVisibility(isTerminal(h.talk)), progressbar.OptionClearOnFinish())
	again := time.NewTicker(look)
	defer again.Stop()
	impatient := time.After(patience)
	for {
		var job jobs.Job
		err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
			job, err = jobs.Get(ctx, conn, h.id)
			return err
		})
		if ctx.Err() != nil {
			return fmt.Errorf("job %d goes on without us: %w", h.id, context.Cause(ctx))
		}
		if err != nil {
			return err
		}
		if job.FinishedAt != nil {
			_ = bar.Clear()
			return h.ended(ctx, s, job)
		}
		_ = bar.Add(1)
		select {
		case <-ctx.Done(): // the next look says so
		case <-impatient:
			h.sayUnserved(ctx, s.conn, job)
		case <-again.C:
		}
	}
}

// sayUnserved tells why nothing happens, where it is known.
func (h handRun) sayUnserved(ctx context.Context, conn *pgx.Conn, job jobs.Job) {
	if served, err := jobs.Served(ctx, conn, h.id); err == nil && !served && job.State == "ready" {
		_, _ = fmt.Fprintf(h.talk, "job %d waits: no runner is there for task %s (pgtick work starts one)\n", h.id, job.Task)
	}
}

func (h handRun) ended(ctx context.Context, s *session, job jobs.Job) error {
	if h.asJSON {
		if err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error { return h.print(ctx, conn) }); err != nil {
			return err
		}
	}
	if job.State != "done" {
		return fmt.Errorf("job %d is %s after %d attempts: %s", h.id, job.State, job.Attempt, orNone(job.LastError))
	}
	took := ""
	if job.StartedAt != nil {
		took = " in " + about(job.FinishedAt.Sub(*job.StartedAt))
	}
	_, _ = fmt.Fprintf(h.talk, "job %d is done%s: %s\n", h.id, took, orNone(job.Result))
	return nil
}

func orNone(result json.RawMessage) string {
	if len(result) == 0 {
		return none
	}
	return printable(oneLine(result))
}
