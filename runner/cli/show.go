package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/tasks"
)

// The schedule that the demo adds, and its task.
const (
	demoSchedule = "demo-every-minute"
	demoTask     = "demo.hello"
)

// creditSchedules are those that migrate installs, in the order in which the demo runs them.
var creditSchedules = []string{
	"cleanup-expired-credit-holds", "periodic-credit-allocation", "process-pending-credit-transactions", "sync-credit-usage-with-supabase",
}

func addDemoTask(registry *tasks.Registry) {
	if _, there := registry.Lookup(demoTask); there {
		return
	}
	tasks.Register(registry, demoTask, func(_ context.Context, job *tasks.Job[struct{}]) error {
		return job.SetResult(map[string]any{"hello": "from slot " + job.Slot.UTC().Format(time.RFC3339)})
	})
}

// show is what the demo is for: a slot becomes a job and is done, and the four credit schedules do their work.
func (d *dev) show(ctx context.Context) error {
	if err := d.showTick(ctx); err != nil {
		return fmt.Errorf("show a tick: %w", err)
	}
	if err := d.showCredits(ctx); err != nil {
		return fmt.Errorf("run the credit schedules: %w", err)
	}
	if err := d.eachCreditSchedule(ctx, jobs.ResumeSchedule); err != nil {
		return err
	}
	d.suggest()
	return nil
}

func (d *dev) eachCreditSchedule(ctx context.Context, do func(context.Context, jobs.DB, string) error) error {
	for _, name := range creditSchedules {
		if err := do(ctx, d.pool, name); err != nil && !errors.Is(err, jobs.ErrNoSchedule) { // somebody may have removed it
			return err
		}
	}
	return nil
}

// showTick schedules a task for each minute and follows its first slot.
func (d *dev) showTick(ctx context.Context) error {
	began, err := jobs.Now(ctx, d.pool)
	if err != nil {
		return err
	}
	if err := jobs.Schedule(ctx, d.pool, demoSchedule, "* * * * *", demoTask); err != nil {
		return err
	}
	clock := map[bool]string{true: "pg_cron", false: "runner"}[d.cron]
	var slot jobs.Slot
	var job jobs.Job
	err = d.await(ctx, fmt.Sprintf("waiting for %s to tick at the full minute", clock), func() (bool, error) {
		slots, err := jobs.SlotsSince(ctx, d.pool, demoSchedule, began)
		if err != nil || len(slots) == 0 {
			return false, err
		}
		slot = slots[0]
		job, err = jobs.Get(ctx, d.pool, slot.JobID)
		return job.FinishedAt != nil, err
	})
	if err != nil {
		return err
	}
	ticked, err := jobs.ClockTicked(ctx, d.pool, clock)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.out, `
  %s  slot of schedule %s
  %s  %s ticked: job %d, %s
  %s  the runner claimed it
  %s  %s: %s

`, clockTime(slot.Slot), demoSchedule, clockTime(slot.RecordedAt), clock, slot.JobID, slot.Fate, clockTime(*job.StartedAt), clockTime(*job.FinishedAt), job.State, job.Result)
	if err == nil && ticked.IsZero() {
		err = fmt.Errorf("no tick of %s was recorded", clock)
	}
	return err
}

func clockTime(t time.Time) string { return t.Local().Format("15:04:05.000") }

// showCredits runs the four schedules at once, as an operator would, and prints what each did.
func (d *dev) showCredits(ctx context.Context) error {
	table := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SCHEDULE\tSTATE\tTOOK\tRESULT")
	for _, name := range creditSchedules {
		job, err := d.runNow(ctx, name)
		if errors.Is(err, jobs.ErrNoSchedule) {
			_, _ = fmt.Fprintf(table, "%s\tremoved\t\t\n", name)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took, result := job.FinishedAt.Sub(*job.StartedAt), job.Result
		if job.State != "done" {
			result = job.LastError
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d ms\t%s\n", name, job.State, took.Milliseconds(), oneLine(result))
	}
	return table.Flush()
}

func (d *dev) runNow(ctx context.Context, schedule string) (job jobs.Job, err error) {
	id, err := jobs.RunNow(ctx, d.pool, schedule)
	if err != nil {
		return job, err
	}
	err = d.await(ctx, schedule, func() (bool, error) {
		job, err = jobs.Get(ctx, d.pool, id)
		return job.FinishedAt != nil, err
	})
	return job, err
}

// oneLine is a result for people: its keys in order, each with its value.
func oneLine(result json.RawMessage) string {
	var values map[string]any
	decoder := json.NewDecoder(bytes.NewReader(result))
	decoder.UseNumber()
	if decoder.Decode(&values) != nil {
		return string(result)
	}
	parts := make([]string, 0, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		parts = append(parts, fmt.Sprintf("%s %v", key, values[key]))
	}
	return strings.Join(parts, ", ")
}

// await asks every 50 ms until the answer is yes, two minutes at most, with a sign of life on a terminal.
func (d *dev) await(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, end := context.WithTimeout(ctx, 2*time.Minute)
	defer end()
	bar := d.bar(-1, what)
	defer func() { _ = bar.Clear() }()
	ask := time.NewTicker(50 * time.Millisecond)
	defer ask.Stop()
	for {
		yes, err := done()
		if yes || err != nil {
			return err
		}
		_ = bar.Add(1)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ask.C:
		}
	}
}

// bar is a progress bar on a terminal, and nothing elsewhere. Of unknown length (-1) it is a spinner.
func (d *dev) bar(length int64, what string) *progressbar.ProgressBar {
	return progressbar.NewOptions64(length, progressbar.OptionSetDescription(what), progressbar.OptionSetWriter(d.talk),
		progressbar.OptionSetVisibility(isTerminal(d.talk)), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}

func (d *dev) suggest() {
	_, _ = fmt.Fprint(d.out, `
Queries to try next, in psql:

  select id, task, state, attempt, finished_at - started_at as took, result from pgtick.jobs order by id desc limit 10;
  select schedule, slot, fate, lateness, job_id from pgtick.slots order by slot desc limit 10;
  select name, cron, next_at, last_fate from pgtick.schedules;
  select pgtick.enqueue('demo.hello');
  select * from credits.balance((select user_id from credits.accounts limit 1));
  select * from credits.violations;   -- empty, always
  select * from pgtick.health;        -- empty when all is well
`)
	if d.once {
		_, _ = fmt.Fprintln(d.out, "\nbin/pgtick dev starts the same and stays up, with the dashboard at http://127.0.0.1:8640.")
	}
}
