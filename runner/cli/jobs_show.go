package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

func jobsShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Everything of one job: settings, attempts, result, what it is tied to, why it does not run",
		Long: `Show all columns of a job in pgtick.jobs that are not null, its args, result and last error, each of its attempts, the jobs that it
waits for and those that wait for it, its batch and sequence, and, while it is ready, why it is not running. With --json it is one object:
the row of pgtick.jobs, with attempts, why, waits_for, waited_by, batches, ahead and stopped added.`,
		Example:           "  pgtick jobs show 4711\n  pgtick jobs show 4711 --json | jq .attempts",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		id, err := readID(args[0])
		if err != nil {
			return err
		}
		all, err := readJob(ctx, tx, id)
		if err != nil {
			return err
		}
		if *asJSON {
			return all.printJSON(cmd.OutOrStdout())
		}
		now, err := jobs.Now(ctx, tx)
		if err != nil {
			return err
		}
		return all.print(newScreen(cmd.OutOrStdout()), now)
	})
}

// wholeJob is what show knows of a job.
type wholeJob struct {
	job      jobs.JobView
	attempts []json.RawMessage
	why      []jobs.Why
	ties     jobs.Ties
}

func readJob(ctx context.Context, tx pgx.Tx, id int64) (w wholeJob, err error) {
	if w.job, err = job(ctx, tx, id); err != nil {
		return w, err
	}
	if w.attempts, err = jobs.Attempts(ctx, tx, id); err != nil {
		return w, err
	}
	if w.ties, err = jobs.TiesOf(ctx, tx, w.job); err != nil {
		return w, err
	}
	if w.job.State == "ready" {
		w.why, err = jobs.WhyJob(ctx, tx, id)
	}
	return w, err
}

func (w wholeJob) printJSON(out io.Writer) error {
	more, err := json.Marshal(struct {
		Attempts []json.RawMessage `json:"attempts"`
		Why      []jobs.Why        `json:"why"`
		jobs.Ties
	}{append([]json.RawMessage{}, w.attempts...), append([]jobs.Why{}, w.why...), w.ties.Whole()})
	if err != nil {
		return err
	}
	row := append(bytes.TrimSuffix(slices.Clone(w.job.JSON), []byte("}")), ',')
	return printJSON(out, json.RawMessage(append(row, more[1:]...)))
}

// shownApart are the columns that stand below the table of the others.
var shownApart = []string{"args", "result", "last_error"}

func (w wholeJob) print(s screen, now time.Time) error {
	columns, err := w.columns(now)
	if err != nil {
		return err
	}
	if err := columns.print(s); err != nil {
		return err
	}
	if err := w.printTexts(s); err != nil {
		return err
	}
	attempts, err := attemptsTable(w.attempts, now)
	if err != nil {
		return err
	}
	for _, t := range append([]table{attempts, whyTable("WHY IT DOES NOT RUN", w.why)}, w.tieTables()...) {
		if len(t.rows) == 0 {
			continue
		}
		if _, err := io.WriteString(s, "\n"); err != nil {
			return err
		}
		if err := t.print(s); err != nil {
			return err
		}
	}
	return nil
}

// columns has a row for each column of pgtick.jobs that is not null.
func (w wholeJob) columns(now time.Time) (table, error) {
	t := table{titles: []string{"JOB", whole(w.job.ID)}}
	fields, err := inOrder(w.job.JSON)
	if err != nil {
		return t, err
	}
	for _, f := range fields {
		switch {
		case f.name == "id" || string(f.value) == "null" || slices.Contains(shownApart, f.name):
		case f.name == "state":
			t.add(text(f.name), stateCell(w.job.State))
		case f.name == "run_at" || f.name == "created_at" || f.name == "started_at" || f.name == "finished_at" || f.name == "wanted_at":
			t.add(text(f.name), text(momentWords(f.value, now)))
		default:
			t.add(text(f.name), text(plain(f.value)))
		}
	}
	return t, nil
}

// momentWords is a moment and how far it is from now.
func momentWords(value json.RawMessage, now time.Time) string {
	var at jobs.Moment
	if json.Unmarshal(value, &at) != nil || at.Infinite {
		return plain(value)
	}
	return fmt.Sprintf("%s UTC (%s)", at.UTC().Format(time.DateTime), fromNow(at.Time, now))
}

func (w wholeJob) printTexts(s screen) error {
	fields, err := inOrder(w.job.JSON)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if !slices.Contains(shownApart, f.name) || string(f.value) == "null" {
			continue
		}
		lines := []string{"", s.paint(bold, strings.ToUpper(strings.ReplaceAll(f.name, "_", " ")))}
		for _, line := range prettyLines(f) {
			lines = append(lines, s.fold(line)...)
		}
		if _, err := io.WriteString(s, strings.Join(lines, "\n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// prettyLines is a JSON value for people. An error is its message, and its stack as that was.
func prettyLines(f field) []string {
	if f.name == "last_error" {
		var e map[string]json.RawMessage
		if json.Unmarshal(f.value, &e) == nil && e["message"] != nil {
			lines := strings.Split(jobs.ErrorMessage(f.value), "\n")
			if e["stack"] != nil {
				lines = append(lines, strings.Split(plain(e["stack"]), "\n")...)
			}
			return lines
		}
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, f.value, "", "  ") != nil {
		return []string{string(f.value)}
	}
	return strings.Split(pretty.String(), "\n")
}

// fold breaks a line that is wider than the terminal, and keeps its blanks.
func (s screen) fold(line string) (lines []string) {
	line = printable(strings.ReplaceAll(line, "\t", "    "))
	for s.width > 0 && wide(line) > s.width {
		head, rest := cut(line, s.width)
		lines, line = append(lines, head), rest
	}
	return append(lines, line)
}

func attemptsTable(rows []json.RawMessage, now time.Time) (table, error) {
	t := table{titles: []string{"ATTEMPT", "STARTED (UTC)", "TOOK", "RUNNER", "OUTCOME", "ERROR"}}
	for _, row := range rows {
		var a struct {
			Attempt    int             `json:"attempt"`
			StartedAt  *time.Time      `json:"started_at"`
			FinishedAt *time.Time      `json:"finished_at"`
			Runner     string          `json:"runner"`
			Outcome    string          `json:"outcome"`
			Error      json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(row, &a); err != nil {
			return t, err
		}
		started, took := none, none
		if a.StartedAt != nil {
			started = a.StartedAt.UTC().Format(time.DateTime)
			end := now
			if a.FinishedAt != nil {
				end = *a.FinishedAt
			}
			took = about(max(end.Sub(*a.StartedAt), 0))
		}
		t.add(text(fmt.Sprint(a.Attempt)), text(started), text(took), what(a.Runner), outcomeCell(a.Outcome), text(cmp.Or(jobs.ErrorMessage(a.Error), none)))
	}
	return t, nil
}

func outcomeCell(outcome string) cell {
	if outcome == "error" || outcome == "lost" {
		return cell{[]string{outcome}, yellow}
	}
	return stateCell(outcome)
}

// tieTables tell what a job has to do with others.
func (w wholeJob) tieTables() []table {
	waitsFor, waitedBy := tieTable("IT WAITS FOR", w.ties.WaitsFor), tieTable("THESE WAIT FOR IT", w.ties.WaitedBy)
	if w.job.State != "ready" {
		waitsFor.titles[0] = "IT WAITED FOR"
	}
	batches := table{titles: []string{"BATCH", "LIVE", "DONE", "FAILED", "CANCELLED", "CALLBACK"}}
	var rows []struct {
		ID, Live, Done, Failed, Cancelled int64
		JobID                             int64 `json:"job_id"`
	}
	if json.Unmarshal(w.ties.Batches, &rows) == nil {
		for _, b := range rows {
			batches.add(text(whole(b.ID)), text(whole(b.Live)), text(whole(b.Done)), text(whole(b.Failed)), text(whole(b.Cancelled)), text("job "+whole(b.JobID)))
		}
	}
	sequence := table{titles: []string{"SEQUENCE", "AHEAD OF IT", "STOPPED BY"}}
	if w.ties.Ahead != nil {
		stopped := none
		if w.ties.Stopped != nil {
			stopped = "job " + whole(*w.ties.Stopped)
		}
		sequence.add(text(w.job.SequenceKey), text(count(*w.ties.Ahead, "live job")), text(stopped))
	}
	return []table{waitsFor, waitedBy, batches, sequence}
}

func tieTable(title string, ties []jobs.Tie) table {
	t := table{titles: []string{title, "TASK", "STATE"}}
	for _, tie := range ties {
		t.add(text("job "+whole(tie.ID)), what(tie.Task), stateCell(tie.State))
	}
	return t
}
