package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

func applyCommand() *cobra.Command {
	a := &apply{}
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Declare schedules in a file, and see the difference before anything changes",
		Long: `Make the schedules what a file says, all in one transaction or not at all. The difference is printed first: what is created, changed and
removed, the next run before and after, and how many slots of the coming 30 days another cron or zone adds and drops. What is
the same already is left alone, so that the file can be applied at each deployment. A pause stays as it is.

A file that ends in .yaml or .yml lists schedules, each with the parameters of pgtick.schedule in SQL, without p_; what it leaves out
has its default. renamed_from names what a schedule was called before, so that its history goes with it:

  schedules:
    - name: nightly-report
      cron: 0 2 * * *
      task: reports.send
      args: {to: team}
      time_zone: Europe/Berlin
      timeout: 5 minutes

A file that ends in .sql is run as it is; it calls pgtick.schedule, and cannot commit. - reads stdin, with --format.

--prune removes what was declared under the same --source before and is not in the file any more; never what was made by hand,
by another source or by migrate. Give each file a source of its own.`,
		Example: `  pgtick schedules apply schedules.yaml --dry-run
  pgtick schedules apply schedules.yaml --prune --source billing
  cat schedules.sql | pgtick schedules apply - --format sql`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.file, a.out, a.talk = args[0], cmd.OutOrStdout(), cmd.ErrOrStderr()
			if err := a.check(); err != nil {
				return usageError{fmt.Errorf("%w (see: %s --help)", err, cmd.CommandPath())}
			}
			if err := a.read(cmd.InOrStdin()); err != nil {
				return err
			}
			return withConnection(cmd, a.hear, a.run)
		},
	}
	cmd.Flags().BoolVar(&a.prune, "prune", false, "remove schedules that this source declared before and the file does not declare")
	cmd.Flags().BoolVar(&a.dryRun, "dry-run", false, "show the difference and change nothing")
	cmd.Flags().BoolVar(&a.exitCode, "exit-code", false, "with --dry-run: exit 1 when there is a difference")
	cmd.Flags().StringVar(&a.source, "source", "apply", "who declares these schedules: what --prune goes by")
	cmd.Flags().StringVar(&a.format, "format", "", "yaml or sql; default: by the file's name")
	a.asJSON = jsonFlag(cmd)
	settings(cmd, "database-url")
	return cmd
}

// apply is one run of the command.
type apply struct {
	file     string
	format   string
	source   string
	prune    bool
	dryRun   bool
	exitCode bool
	asJSON   *bool
	out      io.Writer
	talk     io.Writer

	content string
	entries []entry // of a YAML file
	at      string  // the place in the file that is being applied; empty: nobody listens
	changes []change
}

// Who installs the schedules that come with pgtick.
const migrateSource = "migrate"

func (a *apply) check() error {
	if a.format == "" {
		switch filepath.Ext(a.file) {
		case ".yaml", ".yml":
			a.format = "yaml"
		case ".sql":
			a.format = "sql"
		}
	}
	switch {
	case a.format == "" && a.file == "-":
		return errors.New("stdin has no name: give --format yaml or --format sql")
	case a.format == "":
		return fmt.Errorf("%s ends neither in .yaml, .yml nor .sql: give --format yaml or --format sql", a.file)
	case a.format != "yaml" && a.format != "sql":
		return fmt.Errorf("--format %q is neither yaml nor sql", a.format)
	case strings.TrimSpace(a.source) == "":
		return errors.New("--source is empty")
	case a.source == migrateSource:
		return fmt.Errorf("--source %s is what pgtick migrate installs: choose another name", migrateSource)
	case a.exitCode && !a.dryRun:
		return errors.New("--exit-code goes with --dry-run")
	}
	return nil
}

func (a *apply) read(stdin io.Reader) error {
	var content []byte
	var err error
	if a.file == "-" {
		a.file = "stdin"
		content, err = io.ReadAll(stdin)
	} else {
		content, err = os.ReadFile(a.file)
	}
	if err != nil {
		return err
	}
	a.content = strings.TrimPrefix(string(content), "\ufeff")
	if a.format == "sql" {
		if strings.TrimSpace(a.content) == "" {
			return fmt.Errorf("%s:1: the file is empty", a.file)
		}
		return nil
	}
	a.entries, err = readSchedules(a.file, a.content)
	var wrong mistakes
	if errors.As(err, &wrong) && len(wrong) > 1 {
		for _, w := range wrong {
			_, _ = fmt.Fprintln(a.talk, w)
		}
		return fmt.Errorf("%s has %d mistakes: nothing is applied", a.file, len(wrong))
	}
	return err
}

// hear passes on what the database says of the place that is being applied, such as a warning of what is probably not meant.
func (a *apply) hear(notice string) {
	if a.at != "" {
		_, _ = fmt.Fprintf(a.talk, "%s: %s\n", a.at, lineBreak.ReplaceAllString(notice, "; "))
	}
}

// errDry rolls a dry run back.
var errDry = errors.New("a dry run")

func (a *apply) run(ctx context.Context, conn *pgx.Conn) error {
	err := inTransaction(ctx, conn, func(tx pgx.Tx) error {
		if err := a.inTransaction(ctx, tx); err != nil {
			return err
		}
		if a.dryRun {
			return errDry
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDry) {
		return err
	}
	a.sum()
	if a.exitCode && len(a.differences()) > 0 {
		return fmt.Errorf("the database differs from %s", a.file)
	}
	return nil
}

func (a *apply) inTransaction(ctx context.Context, tx pgx.Tx) error {
	if err := jobs.BeginDeclaring(ctx, tx, a.source); err != nil {
		return err
	}
	before, err := jobs.ScheduleStates(ctx, tx)
	if err != nil {
		return err
	}
	if err := a.declare(ctx, tx, before); err != nil {
		return err
	}
	declared, err := jobs.Declared(ctx, tx)
	if err != nil {
		return err
	}
	if err := a.removeOthers(ctx, tx, declared); err != nil {
		return err
	}
	after, err := jobs.ScheduleStates(ctx, tx)
	if err != nil {
		return err
	}
	a.changes = compare(before, after, declared)
	for i := range a.changes {
		if err := a.changes[i].count(ctx, tx); err != nil {
			return err
		}
	}
	now, err := jobs.Now(ctx, tx)
	if err != nil {
		return err
	}
	if *a.asJSON {
		return printRows(a.out, jsonOf(a.changes))
	}
	return printChanges(newScreen(a.out), a.differences(), now)
}

func (a *apply) declare(ctx context.Context, tx pgx.Tx, before map[int64]jobs.ScheduleState) error {
	defer func() { a.at = "" }()
	if a.format == "sql" {
		a.at = a.file
		return a.declareSQL(ctx, tx)
	}
	there := map[string]bool{}
	for _, s := range before {
		there[s.Name] = true
	}
	for _, e := range a.entries {
		a.at = fmt.Sprintf("%s:%d", a.file, e.line)
		if e.renamedFrom != "" && there[e.renamedFrom] {
			if there[e.name] {
				_, _ = fmt.Fprintf(a.talk, "%s: both %q and %q exist: neither is renamed\n", a.at, e.renamedFrom, e.name)
			} else if err := jobs.RenameSchedule(ctx, tx, e.renamedFrom, e.name); err != nil {
				return inFile{a.file, e.lineOf(renameKey), err}
			}
		}
		if err := jobs.Declare(ctx, tx, e.arguments); err != nil {
			return inFile{a.file, e.lineOf(e.blame(err)), err}
		}
	}
	return nil
}

// blame guesses which key of the entry an error is about, to name its line.
func (e entry) blame(err error) (key string) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ""
	}
	switch {
	case pg.Code == "TK000":
		key, _, _ = strings.Cut(pg.Message, " ") // pgtick.invalid begins with the field's name
	case pg.Code == "TK018":
		key = "time_zone"
	case pg.Code >= "TK010" && pg.Code <= "TK019":
		key = "cron"
	case strings.HasPrefix(pg.Code, "22"):
		for _, a := range e.arguments {
			if a.Text != nil && *a.Text != "" && strings.Contains(pg.Message, `"`+*a.Text+`"`) {
				key = a.Name
			}
		}
	}
	return key
}

// inFile is an error of the database at a line of the file; 0: the line is not known.
type inFile struct {
	file string
	line int
	err  error
}

func (f inFile) Unwrap() error { return f.err }

func (f inFile) Error() string {
	place := f.file
	if f.line > 0 {
		place = fmt.Sprintf("%s:%d", f.file, f.line)
	}
	var pg *pgconn.PgError
	if !errors.As(f.err, &pg) {
		return place + ": " + f.err.Error()
	}
	return fmt.Sprintf("%s: %s (%s)", place, pg.Message, pg.Code)
}

// removeOthers is about what this source declared before and does not any more.
func (a *apply) removeOthers(ctx context.Context, tx pgx.Tx, declared []string) error {
	states, err := jobs.ScheduleStates(ctx, tx)
	if err != nil {
		return err
	}
	var left []string
	for _, s := range states {
		if s.Source == a.source && !slices.Contains(declared, s.Name) {
			left = append(left, s.Name)
		}
	}
	slices.Sort(left)
	switch {
	case len(left) == 0:
		return nil
	case !a.prune:
		_, _ = fmt.Fprintf(a.talk, "not in %s, though source %s declared it (--prune removes it): %s\n", a.file, a.source, strings.Join(left, ", "))
		return nil
	case a.format == "sql" && len(declared) == 0:
		return fmt.Errorf("%s declares no schedule at all: --prune would remove %s", a.file, strings.Join(left, ", "))
	}
	for _, name := range left {
		if err := jobs.Unschedule(ctx, tx, name); err != nil {
			return err
		}
	}
	return nil
}

func (a *apply) differences() []change {
	return slices.DeleteFunc(slices.Clone(a.changes), func(c change) bool { return c.what == unchanged })
}

// sum says how it went.
func (a *apply) sum() {
	count := map[string]int{}
	for _, c := range a.changes {
		count[c.what]++
	}
	var parts []string
	for _, what := range []string{created, changed, removed, unchanged} {
		if count[what] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[what], what))
		}
	}
	if len(parts) == 0 {
		parts = []string{"no schedule is declared"}
	}
	end := "applied"
	switch {
	case len(a.differences()) == 0:
		end = "nothing to change"
	case a.dryRun:
		end = "a dry run: nothing is applied"
	}
	_, _ = fmt.Fprintf(a.talk, "%s; %s\n", strings.Join(parts, ", "), end)
}
