package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

func queuesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queues",
		Short: "Look at queues, pause and resume them",
		Long: `Look at queues: how many jobs wait in each, for how long, and who serves it; pause and resume them. A queue is a name: it is there when a
live job, a runner, a schedule or a pause has it.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(queuesListCommand(), queuesPauseCommand(), queuesResumeCommand())
	return cmd
}

func queuesListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "All queues, what waits in each and who serves it",
		Long: `List the queues that have live jobs or a live runner, or are paused: how many jobs could run now (depth) and for how long the oldest could,
how many wait for their time or other jobs (scheduled), how many run, how many runners serve it, and who paused it, and why. It counts all
live jobs.`,
		Example:           "  pgtick queues list\n  pgtick queues list --watch\n  pgtick queues list --json | jq -r 'select(.paused_at) | .queue'",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	return watchable(cmd, func(ctx context.Context, tx pgx.Tx, v view) error {
		all, err := jobs.Queues(ctx, tx, nil)
		if err != nil {
			return err
		}
		if *asJSON {
			for _, q := range all {
				if err := printJSON(v, q.JSON); err != nil {
					return err
				}
			}
			return nil
		}
		if len(all) == 0 {
			_, _ = fmt.Fprintln(v.talk, "no queue has live jobs or a live runner, and none is paused")
			return nil
		}
		now, err := jobs.Now(ctx, tx)
		if err != nil {
			return err
		}
		t := table{titles: []string{"QUEUE", "DEPTH", "OLDEST", "SCHEDULED", "RUNNING", "RUNNERS", "STATE"}, cuts: true}
		for _, q := range all {
			t.add(text(q.Queue), text(whole(q.Depth)), text(oldest(q, now)), text(whole(q.Scheduled)), text(whole(q.Running)), text(fmt.Sprint(q.Runners)), queueState(q))
		}
		return t.print(v.screen)
	})
}

func oldest(q jobs.QueueView, now time.Time) string {
	if q.Oldest == nil {
		return none
	}
	return fromNow(*q.Oldest, now)
}

func queueState(q jobs.QueueView) cell {
	switch {
	case q.PausedAt != nil:
		return cell{[]string{"paused", pausedWords(q)}, yellow}
	case q.Runners == 0 && q.Depth+q.Scheduled > 0:
		return cell{[]string{"no runner"}, red}
	default:
		return cell{[]string{"active"}, green}
	}
}

func pausedWords(q jobs.QueueView) string {
	words := fmt.Sprintf("by %s since %s UTC", q.PausedBy, minute(*q.PausedAt))
	if q.Reason != "" {
		words += ": " + q.Reason
	}
	return words
}

func queuesPauseCommand() *cobra.Command {
	var reason string
	var anyway bool
	cmd := &cobra.Command{
		Use:   "pause QUEUE",
		Short: "Let no more jobs of a queue be claimed until it is resumed",
		Long: `Let no more jobs of a queue be claimed, by any runner, until it is resumed; those that run go on. Pausing it again changes nothing. A name
that nothing has is refused, since it is probably mistyped; --anyway pauses it all the same, before its first job.`,
		Example:           "  pgtick queues pause mail --reason 'the mail server moves'",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: firstNamed(jobs.QueueNames),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who find it paused")
	cmd.Flags().BoolVar(&anyway, "anyway", false, "also where nothing has that name yet")
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		before, err := queue(ctx, tx, args[0], anyway)
		if err != nil {
			return err
		}
		if err := jobs.PauseQueue(ctx, tx, args[0], reason); err != nil {
			return err
		}
		if before.PausedAt != nil {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s is paused already, %s\n", printable(args[0]), printable(pausedWords(before)))
			return nil
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s is paused until it is resumed: pgtick queues resume %s\n", printable(args[0]), printable(quoteArg(args[0])))
		return nil
	})
}

func queuesResumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "resume QUEUE",
		Short:             "End a queue's pause",
		Long:              "End a queue's pause and wake its runners. A queue that is not paused is left as it is.",
		Example:           "  pgtick queues resume mail",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: firstNamed(jobs.QueueNames),
	}
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		before, err := queue(ctx, tx, args[0], false)
		if err != nil {
			return err
		}
		if err := jobs.ResumeQueue(ctx, tx, args[0]); err != nil {
			return err
		}
		was := "is resumed"
		if before.PausedAt == nil {
			was = "was not paused"
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s; %s\n", printable(args[0]), was, count(int(before.Depth), "job")+" could run now")
		return nil
	})
}

// queue reads one. A name that nothing has is refused, unless anyway.
func queue(ctx context.Context, tx pgx.Tx, name string, anyway bool) (q jobs.QueueView, err error) {
	found, err := jobs.Queues(ctx, tx, &name)
	if err != nil {
		return q, err
	}
	if len(found) > 0 {
		return found[0], nil
	}
	q.Queue = name
	if anyway {
		return q, nil
	}
	known, near, err := jobs.Nearest(ctx, tx, jobs.QueueNames, name)
	if err == nil && !known {
		err = fmt.Errorf("%s has queue %s%s", nobodysQueue, quoteArg(name), didYouMean(near))
	}
	return q, err
}
