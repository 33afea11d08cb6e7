package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/runner/doctor"
	"github.com/pgtick/pgtick/runner/limit"
)

func doctorCommand() *cobra.Command {
	var only []string
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "What is wrong with this installation, and the command that repairs it",
		Long: `Look at the database, its clocks, runners and all that pgtick needs, with the settings of a runner (the same flags and environment), and say
what is wrong, why it matters and what mends it. Nothing is changed. Exit 1 when a check fails; a warning is none. As the owner of the
schema it sees all; a login that may see less is told what it could not look at, and that is a warning, too.

The checks:
  ` + strings.Join(wrapText(strings.Join(doctor.Names(), ", "), 130), "\n  "),
		Example: "  pgtick doctor\n  pgtick doctor --only listen,pooler\n  pgtick doctor --json | jq -r 'select(.status == \"fail\") | .remedy'",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringSliceVar(&only, "only", nil, "only these checks, separated by commas")
	cmd.Flags().BoolVar(&all, "all", false, "show also what is well, a line each")
	asJSON := cmd.Flags().Bool("json", false, "one JSON object a line for each finding, well or not: check, status (ok, warn, fail), what, why, remedy")
	settings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := knownChecks(only); err != nil {
			return err
		}
		cfg, err := config.LoadRunner(flagsOf(cmd), os.LookupEnv)
		if err != nil {
			return err
		}
		found, err := examine(cmd.Context(), cfg, cmd.ErrOrStderr(), only)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printRows(cmd.OutOrStdout(), found)
		} else {
			err = printFound(newScreen(cmd.OutOrStdout()), cmd.ErrOrStderr(), found, all)
		}
		if failed := having(found, doctor.Fail); err == nil && len(failed) > 0 {
			err = fmt.Errorf("%s", count(len(failed), "failure"))
		}
		return err
	}
	return cmd
}

func knownChecks(names []string) error {
	known := doctor.Names()
	for _, name := range names {
		if slices.Contains(known, name) {
			continue
		}
		near := slices.DeleteFunc(slices.Clone(known), func(k string) bool { return !strings.Contains(k, name) && !strings.Contains(name, k) })
		if name == "" || len(near) == 0 {
			near = known
		}
		return usageError{fmt.Errorf("--only %q is no check; did you mean %s?", name, strings.Join(near, ", "))}
	}
	return nil
}

// finding is one of a database, which is named where there are several.
type finding struct {
	Database string `json:"database,omitempty"`
	doctor.Finding
}

func examine(ctx context.Context, cfg config.Config, talk io.Writer, only []string) (all []finding, err error) {
	limit.LogLibrary(logrus.NewEntry(newLog(cfg, talk)))
	bar := newBar(talk, "looking", "checks")
	defer bar.end()
	if cfg.Redis != nil {
		defer func() { _ = cfg.Redis.Close() }()
	}
	for _, a := range append([]config.Addresses{{Database: cfg.Database, Listen: cfg.Listen}}, cfg.More...) {
		name := ""
		if len(cfg.More) > 0 {
			name = migrations.Address(a.Database)
		}
		found, err := doctor.Examine(ctx, doctor.Options{Database: a.Database, Listen: a.Listen, Connections: cfg.Connections, Lease: cfg.Lease, Redis: cfg.Redis,
			Sync: syncTarget(cfg.Sync), Version: buildVersion(), See: func(made, all int) { bar.at(int64(made), int64(all)) }}, only...)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			all = append(all, finding{name, f})
		}
	}
	return all, nil
}

func having(all []finding, status doctor.Status) (some []finding) {
	for _, f := range all {
		if f.Status == status && !f.Unseen {
			some = append(some, f)
		}
	}
	return some
}

// printFound puts what is worst first.
func printFound(s screen, talk io.Writer, found []finding, all bool) error {
	fails, warns, oks := having(found, doctor.Fail), having(found, doctor.Warn), having(found, doctor.OK)
	var page strings.Builder
	for _, f := range fails {
		page.WriteString(s.finding(f, red))
	}
	for _, f := range warns {
		page.WriteString(s.finding(f, yellow))
	}
	page.WriteString(s.unseen(found))
	if _, err := io.WriteString(s, page.String()); err != nil {
		return err
	}
	if all && len(oks) > 0 {
		t := table{titles: []string{"WELL", "WHAT"}}
		for _, f := range oks {
			t.add(cell{[]string{f.title()}, green}, text(f.What))
		}
		if err := t.print(s); err != nil {
			return err
		}
	}
	unseen := len(found) - len(fails) - len(warns) - len(oks)
	_, _ = fmt.Fprintf(talk, "%d well, %s, %s, %d not looked at\n", len(oks), count(len(warns), "warning"), count(len(fails), "failure"), unseen)
	return nil
}

func (f finding) title() string {
	if f.Database == "" {
		return f.Check
	}
	return f.Database + " " + f.Check
}

// What is said of a finding stands so far in.
const indent = "      "

// finding is a paragraph. A remedy is a line of its own, however long, so that it can be copied.
func (s screen) finding(f finding, colour string) string {
	lines := []string{s.paint(colour, fmt.Sprintf("%-4s", f.Status)) + "  " + s.paint(bold, printable(f.title()))}
	for _, text := range []string{f.What, "why: " + f.Why} {
		for _, line := range s.broken(printable(text), len(indent)) {
			lines = append(lines, indent+line)
		}
	}
	return strings.Join(append(lines, indent+"do:  "+printable(f.Remedy), "", ""), "\n")
}

// broken breaks a text into lines where they have to fit.
func (s screen) broken(text string, taken int) []string {
	if s.width == 0 {
		return []string{text}
	}
	return wrapText(text, max(s.width-taken, narrow))
}

// unseen is one paragraph: mostly it is one thing that is missing.
func (s screen) unseen(found []finding) string {
	var reasons, remedies []string
	checks := map[string][]string{}
	for _, f := range found {
		if !f.Unseen {
			continue
		}
		reason := strings.TrimPrefix(printable(f.What), "not looked at: ")
		if checks[reason] == nil {
			reasons = append(reasons, reason)
		}
		checks[reason] = append(checks[reason], f.title())
		remedy := "do:  " + printable(strings.ReplaceAll(f.Remedy, " --only "+f.Check, ""))
		if !slices.Contains(remedies, remedy) {
			remedies = append(remedies, remedy)
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	lines := []string{s.paint(yellow, "warn") + "  " + s.paint(bold, "not looked at")}
	for _, reason := range reasons {
		for _, line := range s.broken(strings.Join(checks[reason], ", ")+": "+reason, len(indent)) {
			lines = append(lines, indent+line)
		}
	}
	for _, remedy := range remedies {
		lines = append(lines, indent+remedy)
	}
	return strings.Join(append(lines, "", ""), "\n")
}
