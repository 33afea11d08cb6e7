package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

func listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "All schedules, when each runs next and how it has gone",
		Long: `List all schedules: the next slot by the clocks of the schedule's zone, what became of the last one, the share of its newest 20 jobs that
are done (of those that ended), how long they usually take, and whether it is active, paused, broken or at its end.`,
		Example: "  pgtick schedules list\n  pgtick schedules list --watch\n  pgtick schedules list --json | jq -r 'select(.success_rate < 1) | .name'",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(cmd)
	return watchable(cmd, func(ctx context.Context, tx pgx.Tx, v view) error {
		all, err := jobs.Schedules(ctx, tx, nil)
		if err != nil {
			return err
		}
		if *asJSON {
			return printRows(v, rowsOf(all))
		}
		now, err := jobs.Now(ctx, tx)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			_, _ = fmt.Fprintln(v.talk, "no schedule yet: see pgtick schedules apply --help, or pgtick.schedule in SQL")
			return nil
		}
		return printSchedules(v.screen, all, now)
	})
}

func rowsOf(all []jobs.ScheduleRow) []json.RawMessage {
	rows := make([]json.RawMessage, len(all))
	for i, s := range all {
		rows[i] = s.JSON
	}
	return rows
}

func printSchedules(s screen, all []jobs.ScheduleRow, now time.Time) error {
	t := table{titles: []string{"NAME", "CRON", "NEXT RUN", "LAST SLOT", "OK", "TAKES", "STATE"}}
	for _, row := range all {
		t.add(text(row.Name), text(row.Cron, row.TimeZone, row.Description), nextRun(row.NextAt, row.NextLocal, now), lastSlot(row, now),
			successRate(row.SuccessRate), typical(row.Typical), state(row))
	}
	return t.print(s)
}

// none stands in tables for what there is not.
const none = "-"

// nextRun is by the clocks of the schedule's zone where the server knows it.
func nextRun(at *time.Time, local string, now time.Time) cell {
	switch {
	case at == nil:
		return text(none)
	case local == "":
		return text(minute(*at)+" UTC", fromNow(*at, now))
	default:
		return text(shortClock(local), fromNow(*at, now))
	}
}

// nextWords is the same in one line, with the zone.
func nextWords(at *time.Time, local, zone string, now time.Time) string {
	if at == nil {
		return none
	}
	parts := nextRun(at, local, now).parts
	if local != "" {
		parts[0] += " " + zone
	}
	return fmt.Sprintf("%s (%s)", parts[0], parts[1])
}

func lastSlot(row jobs.ScheduleRow, now time.Time) cell {
	if row.LastSlot == nil {
		return text(none)
	}
	fate := row.LastFate
	if row.LastState != "" {
		fate += ", " + row.LastState
	}
	return cell{[]string{fromNow(*row.LastSlot, now), fate}, fateColour(row.LastFate, row.LastState)}
}

func fateColour(fate, state string) string {
	switch {
	case state == "failed" || fate == "missed" || fate == "missed_range":
		return red
	case strings.HasPrefix(fate, "skipped") || state == "cancelled":
		return yellow
	default:
		return ""
	}
}

func successRate(rate *float64) cell {
	if rate == nil {
		return text(none)
	}
	c := text(fmt.Sprintf("%.0f%%", *rate*100))
	if *rate < 1 {
		c.parts[0], c.colour = fmt.Sprintf("%.0f%%", min(*rate*100, 99)), yellow // 100 is a promise
	}
	return c
}

func typical(d time.Duration) cell {
	if d == 0 {
		return text(none)
	}
	return text(about(d))
}

func state(row jobs.ScheduleRow) cell {
	switch {
	case row.BrokenAt != nil:
		return cell{[]string{"broken"}, red}
	case row.PausedUntil != nil:
		return cell{[]string{"paused", "until " + minute(*row.PausedUntil) + " UTC"}, yellow}
	case row.PausedAt != nil:
		return cell{[]string{"paused"}, yellow}
	case row.NextAt == nil:
		return cell{[]string{"ended"}, dim}
	default:
		return cell{[]string{"active"}, green}
	}
}

func lintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "lint [NAME]",
		Short:   "What is legal in schedules but probably not meant",
		Long:    "Print what is legal in the schedules, or in one of them, but probably not meant. Nothing is printed when all is well.",
		Example: "  pgtick schedules lint\n  pgtick schedules lint nightly-report",
		Args:    cobra.MaximumNArgs(1),
	}
	asJSON := jsonFlag(cmd)
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		var name *string
		if len(args) == 1 {
			name = &args[0]
			if _, err := schedule(ctx, tx, *name); err != nil {
				return err
			}
		}
		warnings, err := jobs.LintSchedules(ctx, tx, name)
		if err != nil {
			return err
		}
		switch {
		case *asJSON:
			return printRows(cmd.OutOrStdout(), warnings)
		case len(warnings) == 0:
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "no warnings")
			return nil
		}
		t := table{titles: []string{"SCHEDULE", "WARNING"}}
		for _, w := range warnings {
			t.add(text(w.Schedule), text(w.Warning))
		}
		return t.print(newScreen(cmd.OutOrStdout()))
	})
}

// schedule reads one; where there is none of that name the database says so, and which one may be meant.
func schedule(ctx context.Context, tx pgx.Tx, name string) (row jobs.ScheduleRow, err error) {
	found, err := jobs.Schedules(ctx, tx, &name)
	if err != nil {
		return row, err
	}
	if len(found) == 0 {
		if _, err := jobs.WhySchedule(ctx, tx, name); err != nil {
			return row, err
		}
		return row, fmt.Errorf("no schedule is named %q: %w", name, jobs.ErrNoSchedule)
	}
	return found[0], nil
}

// everything is what show knows of a schedule.
type everything struct {
	schedule jobs.ScheduleRow
	slots    []json.RawMessage
	versions []json.RawMessage
	why      []jobs.Why
	warnings []jobs.Warning
}

func showCommand() *cobra.Command {
	var slots, versions int
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Everything of one schedule: settings, slots, versions, why it does not run",
		Long: `Show all settings of a schedule, what became of its latest slots, its versions and what each changed, why it does not run, and what about
it is probably not meant. With --json it is one object: the row of pgtick.schedules, with slots, versions, why and warnings added.`,
		Example: "  pgtick schedules show nightly-report\n  pgtick schedules show nightly-report --slots 50",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().IntVar(&slots, "slots", 10, "how many of the latest slots, 0 to 10000")
	cmd.Flags().IntVar(&versions, "versions", 10, "how many of the latest versions, 0 to 10000")
	asJSON := jsonFlag(cmd)
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) (err error) {
		if slots < 0 || slots > 10000 || versions < 0 || versions > 10000 {
			return usageError{fmt.Errorf("--slots and --versions go from 0 to 10000 (see: %s --help)", cmd.CommandPath())}
		}
		var e everything
		if e.schedule, err = schedule(ctx, tx, args[0]); err != nil {
			return err
		}
		if e.slots, err = jobs.LatestSlots(ctx, tx, args[0], slots); err != nil {
			return err
		}
		if e.versions, err = jobs.LatestVersions(ctx, tx, args[0], versions); err != nil {
			return err
		}
		if e.why, err = jobs.WhySchedule(ctx, tx, args[0]); err != nil {
			return err
		}
		if e.warnings, err = jobs.LintSchedules(ctx, tx, &args[0]); err != nil {
			return err
		}
		if *asJSON {
			return e.printJSON(cmd.OutOrStdout())
		}
		now, err := jobs.Now(ctx, tx)
		if err != nil {
			return err
		}
		return e.print(newScreen(cmd.OutOrStdout()), now)
	})
}

func (e everything) printJSON(out io.Writer) error {
	more, err := json.Marshal(struct {
		Slots    []json.RawMessage `json:"slots"`
		Versions []json.RawMessage `json:"versions"`
		Why      []jobs.Why        `json:"why"`
		Warnings []jobs.Warning    `json:"warnings"`
	}{append([]json.RawMessage{}, e.slots...), append([]json.RawMessage{}, e.versions...), append([]jobs.Why{}, e.why...), append([]jobs.Warning{}, e.warnings...)})
	if err != nil {
		return err
	}
	row := append(bytes.TrimSuffix(slices.Clone(e.schedule.JSON), []byte("}")), ',')
	return printJSON(out, json.RawMessage(append(row, more[1:]...)))
}

func (e everything) print(s screen, now time.Time) error {
	settings, err := settingsTable(e.schedule, now)
	if err != nil {
		return err
	}
	slots, err := slotsTable(e.slots)
	if err != nil {
		return err
	}
	history, err := versionsTable(e.versions)
	if err != nil {
		return err
	}
	why := table{titles: []string{"WHY IT DOES NOT RUN", "EVIDENCE", "REMEDY"}}
	for _, w := range e.why {
		why.add(cell{[]string{w.Reason}, yellow}, text(w.Evidence), text(w.Remedy))
	}
	warnings := table{titles: []string{"WARNING"}}
	for _, w := range e.warnings {
		warnings.add(cell{[]string{w.Warning}, yellow})
	}
	between := ""
	for _, t := range []table{settings, slots, history, why, warnings} {
		if len(t.rows) == 0 {
			continue
		}
		if _, err := io.WriteString(s, between); err != nil {
			return err
		}
		if err := t.print(s); err != nil {
			return err
		}
		between = "\n"
	}
	return nil
}

// settingsTable has a row for each column of pgtick.schedules that is not null.
func settingsTable(row jobs.ScheduleRow, now time.Time) (table, error) {
	t := table{titles: []string{"SCHEDULE", row.Name}}
	fields, err := inOrder(row.JSON)
	if err != nil {
		return t, err
	}
	for _, f := range fields {
		switch {
		case f.name == "name" || string(f.value) == "null":
		case f.name == "next_at":
			t.add(text(f.name), text(nextWords(row.NextAt, row.NextLocal, row.TimeZone, now)))
		default:
			t.add(text(f.name), text(plain(f.value)))
		}
	}
	t.add(text("state"), state(row))
	return t, nil
}

// field is a key of a JSON object with its value.
type field struct {
	name  string
	value json.RawMessage
}

// inOrder reads an object's fields in the order in which they stand there.
func inOrder(object json.RawMessage) ([]field, error) {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if _, err := decoder.Token(); err != nil {
		return nil, err
	}
	var all []field
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		f := field{name: fmt.Sprint(name)}
		if err := decoder.Decode(&f.value); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// plain is a JSON value for people: text without its quotes, moments in UTC.
func plain(value json.RawMessage) string {
	var words string
	if value == nil || string(value) == "null" {
		return none
	}
	if json.Unmarshal(value, &words) != nil {
		return string(value)
	}
	if at, err := time.Parse(time.RFC3339, words); err == nil {
		return minute(at) + " UTC"
	}
	return words
}

func slotsTable(rows []json.RawMessage) (table, error) {
	t := table{titles: []string{"SLOT (UTC)", "FATE", "LATE", "JOB", "REASON"}}
	for _, row := range rows {
		var slot struct {
			Slot     time.Time  `json:"slot"`
			LastSlot *time.Time `json:"last_slot"`
			Slots    int        `json:"slots"`
			Fate     string     `json:"fate"`
			Lateness string     `json:"lateness"`
			JobID    *int64     `json:"job_id"`
			Reason   string     `json:"reason"`
		}
		if err := json.Unmarshal(row, &slot); err != nil {
			return t, err
		}
		at, fate, job := text(minute(slot.Slot)), slot.Fate, none
		if slot.LastSlot != nil {
			at.parts = append(at.parts, "to "+minute(*slot.LastSlot))
			fate += fmt.Sprintf(", %d slots", slot.Slots)
		}
		if slot.JobID != nil {
			job = fmt.Sprint(*slot.JobID)
		}
		t.add(at, cell{[]string{fate}, fateColour(slot.Fate, "")}, text(slot.Lateness), text(job), text(slot.Reason))
	}
	return t, nil
}

// versionsTable shows the newest ones, each with what it changed.
func versionsTable(rows []json.RawMessage) (table, error) {
	t := table{titles: []string{"VERSION", "WHAT", "FROM (UTC)", "BY", "CHANGES"}}
	for _, row := range rows {
		var v struct {
			Version    int                        `json:"version"`
			What       string                     `json:"what"`
			ChangedAt  time.Time                  `json:"changed_at"`
			ChangedBy  string                     `json:"changed_by"`
			Reason     string                     `json:"reason"`
			Definition map[string]json.RawMessage `json:"definition"`
			Previous   map[string]json.RawMessage `json:"previous"`
		}
		if err := json.Unmarshal(row, &v); err != nil {
			return t, err
		}
		var changes []string
		if v.Previous != nil {
			for _, name := range slices.Sorted(maps.Keys(v.Definition)) {
				if old := v.Previous[name]; !bytes.Equal(old, v.Definition[name]) {
					changes = append(changes, fmt.Sprintf("%s %s → %s", name, plain(old), plain(v.Definition[name])))
				}
			}
		}
		if v.Reason != "" {
			changes = append(changes, v.Reason)
		}
		t.add(text(fmt.Sprint(v.Version)), text(v.What), text(minute(v.ChangedAt)), text(v.ChangedBy), text(changes...))
	}
	return t, nil
}
