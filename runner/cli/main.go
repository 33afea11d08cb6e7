// Package cli is the command line of pgtick, one file a verb. Data goes to stdout, talk to stderr; exit 0 is well, 1 failed, 2 wrong
// usage. Main with registries of your own makes a runner that serves your tasks beside pgtick's.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/sqltask"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
	exitSignal = 128 // and the signal's number, as shells have it
)

// version is set by the build: -ldflags "-X github.com/pgtick/pgtick/runner/cli.version=…".
var version string

// Main runs the command line of this process with the tasks of the registries, besides those that every runner has, and exits.
// The first SIGINT or SIGTERM stops what runs in an orderly way; a second one ends the process at once.
func Main(registries ...*tasks.Registry) {
	os.Exit(run(untilSignal(), os.Args[1:], os.Stdout, os.Stderr, registries...))
}

// untilSignal returns a context that ends at the first signal. One channel takes both signals, so that none is lost between the first
// and the moment at which somebody waits for the second.
func untilSignal() context.Context {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		if second, is := (<-signals).(syscall.Signal); is {
			os.Exit(exitSignal + int(second))
		}
		os.Exit(exitFailed)
	}()
	return ctx
}

func run(ctx context.Context, args []string, out, talk io.Writer, registries ...*tasks.Registry) int {
	all := tasks.NewRegistry()
	sqltask.Register(all)
	all.Merge(registries...)
	root := newRoot(all)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(talk)
	finishHelpers(root) // cobra's own take the output as it is now
	wrapArgs(root)
	err := root.ExecuteContext(ctx)
	if err != nil {
		_, _ = fmt.Fprintln(talk, "pgtick:", printable(lineBreak.ReplaceAllString(err.Error(), "; ")))
		sayRemedy(talk, err)
	}
	return exitCode(err)
}

// lineBreak is what some errors put between their parts.
var lineBreak = regexp.MustCompile(`:?\s*\n\s*`)

// usageError is a call that can't work, whatever the database says.
type usageError struct{ error }

func exitCode(err error) int {
	var setting *config.Error
	var usage usageError
	var pooler *migrations.PoolerError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &setting), errors.As(err, &usage), errors.As(err, &pooler):
		return exitUsage
	default:
		return exitFailed
	}
}

func newRoot(registry *tasks.Registry) *cobra.Command {
	root := &cobra.Command{
		Use:           "pgtick",
		Short:         "Durable jobs and cron for Supabase and any Postgres",
		Version:       buildVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w%s (see: %s --help)", err, perhapsFlag(cmd, err), cmd.CommandPath())}
	})
	root.AddCommand(workCommand(registry), webCommand(), healthCommand(), migrateCommand(), adoptCommand(), doctorCommand(), devCommand(registry), schedulesCommand(), creditsCommand(), configTopic())
	root.AddCommand(rolesCommand())
	root.AddCommand(jobsCommand(), queuesCommand(), benchCommand())
	return root
}

// wrapArgs makes every complaint about arguments one of usage.
func wrapArgs(cmd *cobra.Command) {
	check := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check == nil {
			check = cobra.NoArgs
		}
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w%s (see: %s --help)", err, perhaps(cmd, args), cmd.CommandPath())}
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		wrapArgs(sub)
	}
}

// perhaps names the command below cmd that may be meant.
func perhaps(cmd *cobra.Command, args []string) string {
	if !cmd.HasSubCommands() || len(args) == 0 {
		return ""
	}
	cmd.SuggestionsMinimumDistance = 2
	near := cmd.SuggestionsFor(args[0])
	if begun := slices.DeleteFunc(slices.Clone(near), func(name string) bool { return !strings.HasPrefix(name, args[0]) }); len(begun) > 0 {
		near = begun // of three letters, two are soon changed
	}
	if len(near) == 0 {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
}

// perhapsFlag names the flag that may be meant.
func perhapsFlag(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest(unknown.GetSpecifiedName(), names); near != "" && len(unknown.GetSpecifiedName()) > 1 {
		return didYouMean("--" + near)
	}
	return ""
}

// buildVersion is what the build says of itself, or the module's version when somebody else's program imports us.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "dev"
}

// settings adds the flags of the table to a command; load reads them.
func settings(cmd *cobra.Command, names ...string) {
	for _, s := range config.Table() {
		if len(names) > 0 && !contains(names, s.Flag) {
			continue
		}
		help := fmt.Sprintf("%s (%s)", s.Help, s.Env)
		if s.Repeated() {
			cmd.Flags().Var(new(lines), s.Flag, help)
			continue
		}
		cmd.Flags().String(s.Flag, s.Default, help)
	}
}

// lines is the value of a flag that may be repeated: a line for each time.
type lines struct{ text string }

func (l *lines) String() string { return l.text }
func (l *lines) Type() string   { return "name" }
func (l *lines) Set(value string) error {
	l.text += value + "\n"
	return nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// load reads the settings; with names only those, where a command needs no database.
func load(cmd *cobra.Command, only ...string) (config.Config, error) {
	return config.Load(flagsOf(cmd), os.LookupEnv, only...)
}

func flagsOf(cmd *cobra.Command) func(name string) (value string, given bool) {
	return func(name string) (string, bool) {
		flag := cmd.Flags().Lookup(name)
		if flag == nil {
			return "", false
		}
		return flag.Value.String(), flag.Changed
	}
}

func configTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "All settings: flag, environment variable, default",
		Long:  configText(),
	}
}

func configText() string {
	text := "A flag counts more than the environment, and that more than the default.\n"
	for _, s := range config.Table() {
		def := s.Default
		if def == "" {
			def = "-"
		}
		text += fmt.Sprintf("\n  --%-22s %-22s default %s\n      %s\n", s.Flag, s.Env, def, s.Help)
	}
	return text
}
