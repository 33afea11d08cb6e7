package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

func previewCommand() *cobra.Command {
	var zone, from string
	var n int
	cmd := &cobra.Command{
		Use:   "preview CRON",
		Short: "What a cron expression means, and its next slots; nothing is scheduled",
		Long: `Say what a cron expression means, in plain English, and list its next slots in its time zone and in UTC, with on_gap run and on_fold first.
Warnings of what is probably not meant go to stderr. Quote the expression, so that the shell leaves its stars alone.`,
		Example: `  pgtick schedules preview '0 9 * * MON-FRI' --time-zone Europe/Berlin
  pgtick schedules preview '30 2 * * *' --time-zone Europe/Berlin --from 2027-03-27 -n 3`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().StringVar(&zone, "time-zone", "UTC", "the zone of the expression's wall times")
	cmd.Flags().StringVar(&from, "from", "", "list slots after this moment: 2026-03-28T02:00:00Z, a wall time of the zone such as 2026-03-28 02:00, or a length from now; default: now")
	cmd.Flags().IntVarP(&n, "count", "n", 5, "how many slots")
	asJSON := jsonFlag(cmd)
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		cron := strings.Join(args, " ") // quoted or not
		var start jobs.When
		if from != "" {
			var err error
			if start, err = readWhen("from", from); err != nil {
				return err
			}
		}
		now, err := jobs.Now(ctx, tx)
		if err != nil {
			return err
		}
		if start.In > 0 {
			at := now.Add(start.In)
			start.At = &at
		}
		warnings, err := jobs.LintCron(ctx, tx, cron, zone)
		if err != nil {
			return err
		}
		description, err := jobs.Describe(ctx, tx, cron)
		if err != nil {
			return err
		}
		slots, err := jobs.Preview(ctx, tx, cron, zone, start.At, start.Wall, n)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printPreviewJSON(cmd, slots, description)
		} else {
			err = printPreview(newScreen(cmd.OutOrStdout()), slots, description, zone, now)
		}
		for _, warning := range warnings {
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "warning:", warning)
		}
		return err
	})
}

func printPreviewJSON(cmd *cobra.Command, slots []jobs.PlannedSlot, description string) error {
	type row struct {
		Slot        time.Time `json:"slot"`
		Local       string    `json:"local"`
		Description string    `json:"description"`
	}
	rows := make([]row, len(slots))
	for i, s := range slots {
		rows[i] = row{s.Slot.UTC(), s.Local, description}
	}
	return printRows(cmd.OutOrStdout(), rows)
}

func printPreview(s screen, slots []jobs.PlannedSlot, description, zone string, now time.Time) error {
	if _, err := fmt.Fprintln(s, s.paint(bold, printable(description))); err != nil {
		return err
	}
	t := table{titles: []string{zone, "UTC", "IN"}}
	if zone == "UTC" {
		t.titles = t.titles[1:]
	}
	for _, slot := range slots {
		row := []cell{text(shortClock(slot.Local)), text(minute(slot.Slot)), text(fromNow(slot.Slot, now))}
		if zone == "UTC" {
			row = []cell{row[0], row[2]}
		}
		t.add(row...)
	}
	return t.print(s)
}
