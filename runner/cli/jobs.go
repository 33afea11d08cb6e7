package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

func jobsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "Look at jobs, watch them, enqueue, retry and cancel them",
		Long: `Look at jobs, ask why one does not run, watch them, enqueue new ones, retry and cancel them, one by one or many at once.
Tables fit the terminal; --json prints one object a line, its keys named as the columns of pgtick.jobs.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(jobsListCommand(), jobsShowCommand(), jobsWhyCommand(), jobsRetryCommand(), jobsCancelCommand(), jobsWatchCommand(), jobsEnqueueCommand())
	return cmd
}

// filterFlags are those by which jobs are chosen.
type filterFlags struct {
	filter       jobs.Filter
	since, until string
	states       []string // that may be asked for
}

// addFilter adds them to a command.
func addFilter(cmd *cobra.Command, states ...string) *filterFlags {
	f := &filterFlags{states: states}
	cmd.Flags().StringVar(&f.filter.State, "state", "", "only those that are "+inWords(states))
	cmd.Flags().StringVar(&f.filter.Task, "task", "", "only those of this task")
	cmd.Flags().StringVar(&f.filter.Queue, "queue", "", "only those of this queue")
	cmd.Flags().StringVar(&f.filter.OwnerID, "owner", "", "only those of this end user, a UUID")
	cmd.Flags().StringVar(&f.filter.Schedule, "schedule", "", "only those of this schedule")
	cmd.Flags().StringVar(&f.since, "since", "", "only those that have ended (live ones: were enqueued) since: a length back from now such as 90m, 24h, 7d, or a moment such as 2026-03-28T02:00:00Z")
	cmd.Flags().StringVar(&f.until, "until", "", "only those that have ended (live ones: were enqueued) before that")
	completeStates(cmd, states)
	completeFlag(cmd, "task", named(jobs.Tasks))
	completeFlag(cmd, "queue", named(jobs.QueueNames))
	completeFlag(cmd, "schedule", named(jobs.ScheduleNames))
	return f
}

func inWords(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// check refuses what can be refused without a database.
func (f *filterFlags) check() error {
	if f.filter.State != "" && !slices.Contains(f.states, f.filter.State) {
		return usageError{fmt.Errorf("--state %q is none of %s%s", f.filter.State, strings.Join(f.states, ", "), didYouMean(nearest(f.filter.State, f.states)))}
	}
	var owner pgtype.UUID
	if err := owner.Scan(f.filter.OwnerID); f.filter.OwnerID != "" && (err != nil || !owner.Valid) {
		return usageError{fmt.Errorf("--owner %q is no UUID: give it as 6f9619ff-8b86-4d11-b42d-00c04fc964ff", f.filter.OwnerID)}
	}
	for flag, value := range map[string]string{"since": f.since, "until": f.until} {
		if _, err := readPast(flag, value, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

func didYouMean(near string) string {
	if near == "" {
		return ""
	}
	return "; did you mean " + near + "?"
}

// read fills in the times, by the database's clock, and refuses a schedule that there is not.
func (f *filterFlags) read(ctx context.Context, tx pgx.Tx) (filter jobs.Filter, err error) {
	filter = f.filter
	if filter.Since, filter.Until, err = readSpan(ctx, tx, f.since, f.until); err != nil {
		return filter, err
	}
	if filter.Schedule != "" {
		_, err = schedule(ctx, tx, filter.Schedule)
	}
	return filter, err
}

// readSpan is readPeriod for flags that are called otherwise.
func readSpan(ctx context.Context, tx pgx.Tx, since, until string) (from, to *time.Time, err error) {
	if since == "" && until == "" {
		return nil, nil, nil
	}
	now, err := jobs.Now(ctx, tx)
	if err != nil {
		return nil, nil, err
	}
	if from, err = readPast("since", since, now); err != nil {
		return nil, nil, err
	}
	if to, err = readPast("until", until, now); err != nil {
		return nil, nil, err
	}
	if from != nil && to != nil && !from.Before(*to) {
		return nil, nil, usageError{fmt.Errorf("--until %q is not later than --since %q", until, since)}
	}
	return from, to, nil
}

// nobodysQueue is who could have a queue, but does not; of ended jobs that would take long to say.
const nobodysQueue = "no live job, runner, schedule or pause"

// sayUnknown tells of names in a filter that nothing is known by, where that may be why nothing was found.
func sayUnknown(ctx context.Context, tx pgx.Tx, v view, f jobs.Filter) {
	for _, name := range []struct {
		kind         jobs.Kind
		value, where string
	}{{jobs.Tasks, f.Task, "no job, live runner or schedule"}, {jobs.QueueNames, f.Queue, nobodysQueue}} {
		if name.value == "" {
			continue
		}
		if known, near, err := jobs.Nearest(ctx, tx, name.kind, name.value); err == nil && !known {
			_, _ = fmt.Fprintf(v.talk, "%s has %s %s%s\n", name.where, name.kind, printable(quoteArg(name.value)), didYouMean(printable(near)))
		}
	}
}

// mostListed is how many jobs a list may have.
const mostListed = 10_000

func jobsListCommand() *cobra.Command {
	var before int64
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Jobs that fit a filter, the newest first",
		Long: `List the jobs that fit all of the flags, a page at a time, the newest (highest id) first. With --task, --owner, --state failed or
cancelled the live ones come first and then the others, the last to end first; with --schedule they go by their slots. The next page
begins behind the job that --before names. What no index answers (--queue, --search, ...) is tried on the newest 10,000 jobs that fit
the rest; when that is why a list ends, it says so, and where to go on.`,
		Example: "  pgtick jobs list\n  pgtick jobs list --state failed --since 24h\n  pgtick jobs list --task mail.send --search 'connection refused'\n" +
			"  pgtick jobs list --state running --watch=5s\n  pgtick jobs list --json | jq -r 'select(.attempt > 1) | .id'",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := addFilter(cmd, jobs.States()...)
	cmd.Flags().StringVar(&flags.filter.Search, "search", "", "only those with this text in their args, result, note, unique key or last error")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most, 1 to 10000")
	cmd.Flags().Int64Var(&before, "before", 0, "go on behind the job with this id: the next page")
	asJSON := jsonFlag(cmd)
	cmd = watchable(cmd, func(ctx context.Context, tx pgx.Tx, v view) error {
		filter, err := flags.read(ctx, tx)
		if err != nil {
			return err
		}
		page, err := jobs.ListJobs(ctx, tx, filter, before, limit)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJobRows(v, page.Jobs)
		} else {
			err = printJobTable(ctx, tx, v, page.Jobs)
		}
		if err == nil {
			sayMore(ctx, tx, v, filter, page)
		}
		return err
	})
	return checked(cmd, func() error {
		if limit < 1 || limit > mostListed {
			return usageError{fmt.Errorf("--limit %d does not go: from 1 to %d", limit, mostListed)}
		}
		if before < 0 {
			return usageError{fmt.Errorf("--before %d is no id of a job", before)}
		}
		return flags.check()
	})
}

// checked makes a command look at its flags before it connects.
func checked(cmd *cobra.Command, check func() error) *cobra.Command {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := check(); err != nil {
			return err
		}
		return run(cmd, args)
	}
	return cmd
}

func sayMore(ctx context.Context, tx pgx.Tx, v view, f jobs.Filter, page jobs.Page) {
	if len(page.Jobs) == 0 && page.Next == 0 {
		_, _ = fmt.Fprintln(v.talk, "no job fits")
		sayUnknown(ctx, tx, v, f)
	}
	switch {
	case page.Window:
		_, _ = fmt.Fprintf(v.talk, "looked through the newest %d that fit the rest of the filter; to go on: --before %d\n", jobs.Window, page.Next)
	case page.Next != 0:
		_, _ = fmt.Fprintf(v.talk, "there are more: --before %d\n", page.Next)
	}
}

func printJobRows(v view, all []jobs.JobView) error {
	for _, j := range all {
		if err := printJSON(v, j.JSON); err != nil {
			return err
		}
	}
	return nil
}

// printJobTable has a line for each job.
func printJobTable(ctx context.Context, tx jobs.DB, v view, all []jobs.JobView) error {
	if len(all) == 0 {
		return nil
	}
	now, err := jobs.Now(ctx, tx)
	if err != nil {
		return err
	}
	t := table{titles: []string{"ID", "TASK", "QUEUE", "STATE", "ATTEMPT", "WHEN", "TOOK", "WHAT"}, cuts: true}
	for _, j := range all {
		t.add(text(whole(j.ID)), text(j.Task), text(j.Queue), stateCell(j.State), text(attempts(j)), text(jobWhen(j, now)), text(jobTook(j, now)), text(jobWhat(j)))
	}
	return t.print(v.screen)
}

func stateCell(state string) cell {
	return cell{[]string{state}, map[string]string{"running": cyan, "done": green, "failed": red, "cancelled": yellow}[state]}
}

// attempts are those that count, of those that may.
func attempts(j jobs.JobView) string {
	return fmt.Sprintf("%d/%d", j.Attempt-j.Uncounted, j.MaxAttempts)
}

func jobWhen(j jobs.JobView, now time.Time) string {
	switch {
	case j.FinishedAt != nil:
		return "ended " + fromNow(*j.FinishedAt, now)
	case j.State == "running" && j.StartedAt != nil:
		return "started " + fromNow(*j.StartedAt, now)
	case j.RunAt.Infinite:
		return "blocked"
	default:
		return "due " + fromNow(j.RunAt.Time, now)
	}
}

func jobTook(j jobs.JobView, now time.Time) string {
	switch {
	case j.StartedAt == nil || j.State == "ready":
		return none
	case j.FinishedAt != nil:
		return about(j.FinishedAt.Sub(*j.StartedAt))
	default:
		return about(max(now.Sub(*j.StartedAt), 0))
	}
}

// jobWhat is what else there is to say in a few words.
func jobWhat(j jobs.JobView) string {
	switch {
	case j.State == "running":
		return strings.TrimSpace(share(j) + " " + j.Note)
	case j.State == "done":
		return orNone(notNull(j.Result))
	case j.BlockedBy != "":
		return "waits: " + j.BlockedBy
	default:
		return cmp.Or(jobs.ErrorMessage(j.LastError), none)
	}
}

func share(j jobs.JobView) string {
	if j.Progress == nil {
		return ""
	}
	return fmt.Sprintf("%.0f%%", *j.Progress*100)
}

func notNull(value []byte) []byte {
	if string(value) == "null" {
		return nil
	}
	return value
}

// readID reads the id of a job.
func readID(value string) (int64, error) {
	id, err := strconv.ParseInt(value, 10, 64)
	if err != nil || id < 1 {
		return 0, usageError{fmt.Errorf("%q is no id of a job: ids are whole numbers, such as 4711", printable(value))}
	}
	return id, nil
}

// job reads one; where there is none of that id the database says so.
func job(ctx context.Context, db jobs.DB, id int64) (j jobs.JobView, err error) {
	found, err := jobs.JobViews(ctx, db, []int64{id})
	if err != nil {
		return j, err
	}
	if len(found) == 0 {
		if _, err := jobs.WhyJob(ctx, db, id); err != nil {
			return j, err
		}
		return j, fmt.Errorf("job %d: %w", id, jobs.ErrNoJob)
	}
	return found[0], nil
}

func jobsWhyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why ID",
		Short: "Why a job is not running (yet), and what to do",
		Long: `Say why a job is not running (yet), the weightiest reason first, each with what was seen and what to do: its queue is paused, it waits
for other jobs, its limit is full, it is not due, no runner serves its task, all workers are busy, others come first, ...`,
		Example:           "  pgtick jobs why 4711",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		id, err := readID(args[0])
		if err != nil {
			return err
		}
		reasons, err := jobs.WhyJob(ctx, tx, id)
		if err != nil {
			return err
		}
		if *asJSON {
			return printRows(cmd.OutOrStdout(), reasons)
		}
		t := whyTable("REASON", reasons)
		return t.print(newScreen(cmd.OutOrStdout()))
	})
}

func whyTable(title string, reasons []jobs.Why) table {
	t := table{titles: []string{title, "EVIDENCE", "REMEDY"}}
	for _, w := range reasons {
		t.add(cell{[]string{w.Reason}, yellow}, text(w.Evidence), text(w.Remedy))
	}
	return t
}

func jobsWatchCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "watch [ID]",
		Short: "Follow a job to its end, or the newest jobs",
		Long: `Follow a job: what state it is in and how far it is, until it has ended; then exit with 0 when it is done, 1 when it has failed or was
cancelled. Without an id follow the newest jobs that fit the flags, until Ctrl-C. On a terminal the view is drawn anew each second;
elsewhere there is a line for each change, and with --json the row of pgtick.jobs.`,
		Example:           "  pgtick jobs watch 4711\n  pgtick jobs watch --queue mail\n  pgtick jobs watch --json | jq -c '[.id, .state]'",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := addFilter(cmd, jobs.States()...)
	cmd.Flags().IntVar(&limit, "limit", 20, "how many of the newest jobs, 1 to 500")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return watchOne(cmd, args[0], *asJSON)
		}
		w := watchMany{flags: flags, limit: limit, asJSON: *asJSON, seen: map[int64]string{}}
		return again(cmd, time.Second, w.show)
	}
	settings(cmd, "database-url")
	return checked(cmd, func() error {
		if limit < 1 || limit > 500 {
			return usageError{fmt.Errorf("--limit %d does not go: from 1 to 500", limit)}
		}
		return flags.check()
	})
}

// watchMany follows the newest jobs.
type watchMany struct {
	flags  *filterFlags
	limit  int
	asJSON bool
	seen   map[int64]string // what was last said of each job that has not ended
	begun  bool
}

func (w *watchMany) show(ctx context.Context, tx pgx.Tx, v view) error {
	filter, err := w.flags.read(ctx, tx)
	if err != nil {
		return err
	}
	page, err := jobs.ListJobs(ctx, tx, filter, 0, w.limit)
	if err != nil {
		return err
	}
	if v.terminal && !w.asJSON {
		if len(page.Jobs) == 0 {
			_, _ = fmt.Fprintln(v.talk, "no job fits")
		}
		return printJobTable(ctx, tx, v, page.Jobs)
	}
	return w.changes(ctx, tx, v, page.Jobs)
}

// changes tells what is new of the jobs on the list, the oldest first, and of those that were on it and had not ended. What had ended before
// the watch began is no news.
func (w *watchMany) changes(ctx context.Context, tx pgx.Tx, v view, listed []jobs.JobView) error {
	ids, onList := []int64{}, map[int64]bool{}
	for _, j := range listed {
		onList[j.ID] = true
	}
	for id := range w.seen {
		if !onList[id] {
			ids = append(ids, id)
		}
	}
	others, err := jobs.JobViews(ctx, tx, ids)
	if err != nil {
		return err
	}
	begun := w.begun
	w.begun = true
	all := append(others, listed...)
	slices.SortFunc(all, func(a, b jobs.JobView) int { return int(a.ID - b.ID) })
	next := map[int64]string{}
	for _, j := range all {
		line := changeLine(j)
		next[j.ID] = line
		if w.seen[j.ID] == line || !begun && j.FinishedAt != nil {
			continue
		}
		if err := sayChange(ctx, tx, v, j, line, w.asJSON); err != nil {
			return err
		}
	}
	for _, j := range all { // one that has ended is over once it is off the list
		if j.FinishedAt != nil && !onList[j.ID] {
			delete(next, j.ID)
		}
	}
	w.seen = next
	return nil
}

// changeLine is what can change of a job.
func changeLine(j jobs.JobView) string {
	line := fmt.Sprintf("job %d %s is %s, attempt %s", j.ID, j.Task, j.State, attempts(j))
	if j.State == "ready" {
		line += map[bool]string{true: ", blocked", false: ", due " + j.RunAt.UTC().Format(time.DateTime)}[j.RunAt.Infinite]
	}
	if what := jobWhat(j); what != none && what != "" {
		line += ": " + what
	}
	return printable(line)
}

func sayChange(ctx context.Context, db jobs.DB, v view, j jobs.JobView, line string, asJSON bool) error {
	if asJSON {
		return printJSON(v, j.JSON)
	}
	now, err := jobs.Now(ctx, db)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(v, "%s  %s\n", now.UTC().Format(time.TimeOnly), line)
	return err
}

// watchOne follows one job to its end.
func watchOne(cmd *cobra.Command, arg string, asJSON bool) error {
	id, err := readID(arg)
	if err != nil {
		return err
	}
	var last jobs.JobView
	said := ""
	err = again(cmd, time.Second, func(ctx context.Context, tx pgx.Tx, v view) (err error) {
		if last, err = job(ctx, tx, id); err != nil {
			return err
		}
		if v.terminal && !asJSON {
			err = drawJob(ctx, tx, v, last)
		} else if line := changeLine(last); line != said {
			said, err = line, sayChange(ctx, tx, v, last, line, asJSON)
		}
		return err
	}, func() bool { return last.FinishedAt != nil })
	switch {
	case err != nil:
		return err
	case last.FinishedAt == nil:
		return fmt.Errorf("job %d goes on without us: %w", id, context.Cause(cmd.Context()))
	case last.State != "done":
		return fmt.Errorf("job %d is %s after %d attempts: %s", id, last.State, last.Attempt, jobWhat(last))
	}
	return nil
}

// drawJob is what a terminal shows of a job that is watched.
func drawJob(ctx context.Context, db jobs.DB, v view, j jobs.JobView) error {
	if err := printJobTable(ctx, db, v, []jobs.JobView{j}); err != nil {
		return err
	}
	if j.Progress != nil && j.State == "running" {
		length := max(min(v.width-10, 60), 10)
		full := int(*j.Progress * float64(length))
		_, _ = fmt.Fprintf(v, "\n%s%s %s\n", v.paint(green, strings.Repeat("█", full)), v.paint(dim, strings.Repeat("░", length-full)), share(j))
	}
	if j.State != "ready" {
		return nil
	}
	reasons, err := jobs.WhyJob(ctx, db, j.ID)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(v)
	t := whyTable("WHY IT DOES NOT RUN", reasons)
	return t.print(v.screen)
}
