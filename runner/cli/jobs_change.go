package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

// handling is retry or cancel: of the jobs that are named, or of all that fit a filter.
type handling struct {
	retry  bool
	verb   string // retry
	past   string // retried
	one    func(context.Context, jobs.DB, int64) (string, error)
	many   func(context.Context, jobs.DB, []byte) (int64, error)
	flags  *filterFlags
	part   string // of an error's message
	yes    bool
	asJSON *bool
}

func jobsRetryCommand() *cobra.Command {
	c := &handling{retry: true, verb: "retry", past: "retried", one: jobs.Retry, many: jobs.RetryWhere}
	cmd := c.command("Run failed or cancelled jobs again, or waiting ones at once", `Make failed or cancelled jobs ready again, each with its id, its attempts and one more, or waiting ones due now. Either name them, or give a
filter: then all failed jobs that fit are retried, or with --state cancelled those. How many that is, is asked about first, unless --yes
says to do it. For each job that is named its state after is printed.`,
		"  pgtick jobs retry 4711 4712\n  pgtick jobs retry --task mail.send --since 24h --error 'connection refused' --yes", "failed", "cancelled")
	cmd.Flags().StringVar(&c.part, "error", "", "only those with this text in the message of their error")
	return cmd
}

func jobsCancelCommand() *cobra.Command {
	c := &handling{verb: "cancel", past: "cancelled, or asked to stop", one: jobs.Cancel, many: jobs.CancelWhere}
	return c.command("Cancel jobs that have not ended", `Cancel jobs that have not ended: waiting ones at once; of running ones the runner is told, and the job ends when its task stops. Either name
them, or give a filter: then all that fit are cancelled. How many that is, is asked about first, unless --yes says to do it. For each job
that is named its state after is printed: cancelled, running (it has been asked to stop), or the state in which it had ended before.`,
		"  pgtick jobs cancel 4711\n  pgtick jobs cancel --queue reports --state ready --yes", "ready", "running")
}

func (c *handling) command(short, long, example string, states ...string) *cobra.Command {
	cmd := &cobra.Command{
		Use:               c.verb + " [ID...]",
		Short:             short,
		Long:              long,
		Example:           example,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.flags = addFilter(cmd, states...)
	cmd.Flags().BoolVar(&c.yes, "yes", false, "do it without asking")
	c.asJSON = jsonFlag(cmd)
	settings(cmd, "database-url")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.flags.check(); err != nil {
			return err
		}
		switch filtered := c.filtered(); {
		case len(args) > 0 && filtered:
			return usageError{fmt.Errorf("give ids or a filter, not both (see: %s --help)", cmd.CommandPath())}
		case len(args) > 0:
			return c.named(cmd, args)
		case filtered:
			return c.all(cmd)
		default:
			return usageError{fmt.Errorf("name jobs by their ids, or give a filter such as --task (see: %s --help)", cmd.CommandPath())}
		}
	}
	return cmd
}

func (c *handling) filtered() bool {
	return c.flags.filter != (jobs.Filter{}) || c.flags.since != "" || c.flags.until != "" || c.part != ""
}

// named does it to one job after the other, whatever became of those before.
func (c *handling) named(cmd *cobra.Command, args []string) error {
	ids := make([]int64, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = readID(arg); err != nil {
			return err
		}
	}
	return withConnection(cmd, nil, func(ctx context.Context, conn *pgx.Conn) error {
		t := table{titles: []string{"ID", "STATE"}}
		var problems []error
		for _, id := range ids {
			state, err := c.one(ctx, conn, id)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				problems = append(problems, inItsWords(err))
				continue
			}
			if *c.asJSON {
				err = printJSON(cmd.OutOrStdout(), struct {
					ID    int64  `json:"id"`
					State string `json:"state"`
				}{id, state})
			}
			if err != nil {
				return err
			}
			t.add(text(whole(id)), stateCell(state))
		}
		if !*c.asJSON && len(t.rows) > 0 {
			if err := t.print(newScreen(cmd.OutOrStdout())); err != nil {
				return err
			}
		}
		return c.tellAll(cmd.ErrOrStderr(), problems, len(ids))
	})
}

// tellAll leaves the last problem to whoever prints errors.
func (c *handling) tellAll(talk io.Writer, problems []error, n int) error {
	if len(problems) == 0 {
		return nil
	}
	last := len(problems) - 1
	for _, err := range problems[:last] {
		_, _ = fmt.Fprintln(talk, "pgtick:", printable(err.Error()))
		sayRemedy(talk, err)
	}
	if n > 1 {
		_, _ = fmt.Fprintf(talk, "%d of %s could not be %s\n", len(problems), count(n, "job"), strings.TrimSuffix(c.past, ", or asked to stop"))
	}
	return problems[last]
}

// all does it to all jobs that fit the filter.
func (c *handling) all(cmd *cobra.Command) error {
	talk := cmd.ErrOrStderr()
	notice := func(message string) { _, _ = fmt.Fprintln(talk, printable(message)) }
	return withConnection(cmd, notice, func(ctx context.Context, conn *pgx.Conn) error {
		var bulk jobs.Filter
		var n int
		err := inTransaction(ctx, conn, func(tx pgx.Tx) error {
			var err error
			if bulk, err = c.flags.read(ctx, tx); err != nil {
				return err
			}
			bulk.Error = c.part
			if n, err = jobs.CountBulk(ctx, tx, bulk, c.retry, mostToAskAbout); err == nil && n == 0 {
				_, _ = fmt.Fprintln(talk, "no job fits")
				sayUnknown(ctx, tx, view{talk: talk}, bulk)
			}
			return err
		})
		if err != nil {
			return err
		}
		changed := int64(0)
		if n > 0 {
			if err := c.ask(ctx, cmd, n); err != nil {
				return err
			}
			if changed, err = c.do(ctx, conn, bulk); err != nil {
				return err
			}
		}
		if *c.asJSON {
			return printJSON(cmd.OutOrStdout(), map[string]int64{"jobs": changed})
		}
		if n > 0 {
			_, _ = fmt.Fprintf(talk, "%s %s\n", count(int(changed), "job"), c.past)
		}
		return nil
	})
}

func (c *handling) do(ctx context.Context, conn *pgx.Conn, bulk jobs.Filter) (int64, error) {
	filter, err := bulk.BulkJSON(c.retry)
	if err != nil {
		return 0, err
	}
	return c.many(ctx, conn, filter)
}

// mostToAskAbout is where counting what is to be changed stops.
const mostToAskAbout = 100_000

// ask returns an error unless somebody says yes.
func (c *handling) ask(ctx context.Context, cmd *cobra.Command, n int) error {
	if c.yes {
		return nil
	}
	these := count(n, "job")
	if n == mostToAskAbout {
		these = fmt.Sprintf("%d jobs or more", n)
	}
	in, isFile := cmd.InOrStdin().(*os.File)
	if !isFile || !isTerminal(in) || !isTerminal(cmd.ErrOrStderr()) {
		return usageError{fmt.Errorf("this would %s %s: say --yes to do it", c.verb, these)}
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s? [y/N] ", c.verb, these)
	answer := make(chan string, 1)
	go func() { // a read knows nothing of signals
		line, _ := bufio.NewReader(in).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		_, _ = fmt.Fprintln(cmd.ErrOrStderr())
	case said := <-answer:
		if said == "y" || said == "yes" {
			return nil
		}
	}
	return errors.New("nothing was changed")
}

// wish is a job as the command line asks for it.
type wish struct {
	args         string
	runAt        string
	timeout      string
	uniqueFor    string
	owner        string
	after        []int64
	wait, asJSON bool
}

// sameNamed are the flags that go to the database as they are, by the name of its parameter and its type.
var sameNamed = []struct{ flag, kind, help string }{
	{"queue", "text", "where it waits; default: default"},
	{"priority", "integer", "0 (first) to 9 (last); default: 5"},
	{"max-attempts", "integer", "attempts before it fails, 1 to 1000; default: 20"},
	{"unique-key", "text", "add none while a job of this task with this key is ready or running: its id is printed"},
	{"limit-key", "text", "what it counts for under the task's limits by key"},
	{"sequence-key", "text", "jobs with the same one run one at a time, in the order of their ids"},
	{"after-outcome", "text", "what --after waits for: done (otherwise it is cancelled), or any end; default: done"},
	{"batch-id", "bigint", "the batch that it is part of"},
}

func jobsEnqueueCommand() *cobra.Command {
	var w wish
	cmd := &cobra.Command{
		Use:   "enqueue TASK",
		Short: "Add a job and print its id",
		Long: `Add a job of a task and print its id. The args are a JSON object of at most 64 KiB: as they are, @file, or - for stdin. What no flag says
has the default of pgtick.enqueue. With --wait the command ends when the job does: with exit code 0 when it is done, 1 when it has failed
or was cancelled. With --json the job's row of pgtick.jobs is printed instead.`,
		Example: "  pgtick jobs enqueue mail.welcome --args '{\"user\": \"ann@example.org\"}'\n  pgtick jobs enqueue report.make --args @report.json --run-at +10m --priority 8\n" +
			"  pgtick jobs enqueue cache.refresh --unique-key all --wait",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: firstNamed(jobs.Tasks),
	}
	cmd.Flags().StringVar(&w.args, "args", "", "a JSON object, @file, or - for stdin; default: {}")
	cmd.Flags().StringVar(&w.runAt, "run-at", "", "not before: a moment such as 2026-03-28T02:00:00Z, or 2026-03-28 02:00 in UTC, or a length from now such as +10m; default: now")
	cmd.Flags().StringVar(&w.timeout, "timeout", "", "how long one attempt may take, such as 90s, 20m, 2h; default: 5m")
	cmd.Flags().StringVar(&w.uniqueFor, "unique-for", "", "how long --unique-key counts at most, such as 1h, 7d")
	cmd.Flags().StringVar(&w.owner, "owner", "", "the end user who sees it in my_jobs, a UUID")
	cmd.Flags().Int64SliceVar(&w.after, "after", nil, "ids of jobs that must end before, separated by commas")
	for _, f := range sameNamed {
		cmd.Flags().String(f.flag, "", f.help)
	}
	completeFlag(cmd, "queue", named(jobs.QueueNames))
	completeFlag(cmd, "after-outcome", cobra.FixedCompletions([]string{"done", "any"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait until the job has ended")
	jsonFlag(cmd)
	settings(cmd, "database-url")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		w.asJSON, _ = cmd.Flags().GetBool("json")
		arguments, err := w.arguments(cmd, args[0])
		if err != nil {
			return err
		}
		return withConnection(cmd, nil, func(ctx context.Context, conn *pgx.Conn) error { return w.enqueue(ctx, cmd, conn, arguments) })
	}
	return cmd
}

// arguments are those of pgtick.enqueue, but for the time, which is the database's to tell.
func (w *wish) arguments(cmd *cobra.Command, task string) ([]jobs.Argument, error) {
	all := []jobs.Argument{argument("task", "text", task)}
	if w.args != "" {
		args, err := readArgs(w.args, cmd.InOrStdin())
		if err != nil {
			return nil, err
		}
		all = append(all, argument("args", "jsonb", args))
	}
	for _, f := range sameNamed {
		if value := cmd.Flags().Lookup(f.flag); value.Changed {
			if _, err := strconv.ParseInt(value.Value.String(), 10, 64); err != nil && f.kind != "text" {
				return nil, usageError{fmt.Errorf("--%s %q is no whole number", f.flag, value.Value)}
			}
			all = append(all, argument(strings.ReplaceAll(f.flag, "-", "_"), f.kind, value.Value.String()))
		}
	}
	for _, length := range []struct{ flag, value string }{{"timeout", w.timeout}, {"unique-for", w.uniqueFor}} {
		if length.value == "" {
			continue
		}
		d, err := jobs.ReadLength(length.value)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s %q is no length of time: give it as 90s, 20m, 2h, 7d", length.flag, length.value)}
		}
		all = append(all, argument(strings.ReplaceAll(length.flag, "-", "_"), "interval", fmt.Sprintf("%d microseconds", d.Microseconds())))
	}
	if w.owner != "" {
		var owner pgtype.UUID
		if err := owner.Scan(w.owner); err != nil {
			return nil, usageError{fmt.Errorf("--owner %q is no UUID: give it as 6f9619ff-8b86-4d11-b42d-00c04fc964ff", w.owner)}
		}
		all = append(all, argument("owner_id", "uuid", w.owner))
	}
	if len(w.after) > 0 {
		all = append(all, argument("after", "bigint[]", "{"+strings.Trim(strings.ReplaceAll(fmt.Sprint(w.after), " ", ","), "[]")+"}"))
	}
	if w.runAt != "" {
		if _, err := readWhen("run-at", strings.TrimPrefix(w.runAt, "+")); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func argument(name, kind, value string) jobs.Argument {
	return jobs.Argument{Parameter: jobs.Parameter{Name: name, Type: kind}, Text: &value}
}

func (w *wish) enqueue(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn, arguments []jobs.Argument) error {
	var id int64
	task := *arguments[0].Text
	err := inTransaction(ctx, conn, func(tx pgx.Tx) error {
		if w.runAt != "" {
			at, err := w.moment(ctx, tx)
			if err != nil {
				return err
			}
			arguments = append(arguments, argument("run_at", "timestamptz", at.Format(time.RFC3339Nano)))
		}
		var err error
		id, err = jobs.Enqueue(ctx, tx, arguments)
		return err
	})
	if err != nil {
		return err
	}
	h := handRun{schedule: task, id: id, out: cmd.OutOrStdout(), talk: cmd.ErrOrStderr(), asJSON: w.asJSON}
	if w.wait {
		return h.follow(ctx, newSession(cmd, conn))
	}
	if err := h.print(ctx, conn); err != nil {
		return err
	}
	sayNobody(ctx, conn, h.talk, id, task)
	return nil
}

func (w *wish) moment(ctx context.Context, tx pgx.Tx) (at time.Time, err error) {
	in, err := readWhen("run-at", strings.TrimPrefix(w.runAt, "+"))
	if err != nil {
		return at, err
	}
	if moment := in.UTC(); moment != nil {
		return *moment, nil
	}
	now, err := jobs.Now(ctx, tx)
	return now.Add(in.In), err
}

// sayNobody tells that a job may wait for long, where nobody has its task: it may be mistyped.
func sayNobody(ctx context.Context, db jobs.DB, talk io.Writer, id int64, task string) {
	reasons, err := jobs.WhyJob(ctx, db, id)
	if err != nil {
		return
	}
	for _, w := range reasons {
		if strings.HasPrefix(w.Reason, "no live runner") {
			_, _ = fmt.Fprintf(talk, "job %d of task %s waits: %s (%s)\n", id, printable(task), w.Reason, printable(w.Evidence))
		}
	}
}

// readArgs reads JSON as it is, from a file or from stdin, and refuses what the database could only refuse in words of its own.
func readArgs(value string, stdin io.Reader) (string, error) {
	text, where := []byte(value), "--args"
	if name, isFile := strings.CutPrefix(value, "@"); isFile || value == "-" {
		source := stdin
		if isFile {
			file, err := os.Open(name)
			if err != nil {
				return "", fmt.Errorf("read --args: %w", err)
			}
			defer file.Close()
			source, where = file, "--args "+value
		} else {
			where = "--args from stdin"
		}
		var err error
		if text, err = io.ReadAll(io.LimitReader(source, jobs.MostArgs+1)); err != nil {
			return "", fmt.Errorf("read --args: %w", err)
		}
	}
	if problem := jobs.BadJSON(text); problem != "" {
		return "", usageError{fmt.Errorf("%s: %s", where, problem)}
	}
	return string(text), nil
}
