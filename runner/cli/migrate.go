package cli

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/migrations"
)

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Install the schema, or bring it up to date",
		Long: `Run the migrations that are missing, put functions, views and grants in force, and install the four credit schedules and the pg_cron
entry, each only where that name has never existed. Running it twice changes nothing. It needs a direct or session-mode connection.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			talk := cmd.ErrOrStderr()
			report, err := migrations.Up(cmd.Context(), cfg.Database, migrations.Options{Log: func(line string) { _, _ = fmt.Fprintln(talk, line) }})
			if err != nil {
				return located(cfg.Database, err)
			}
			for _, note := range report.Notes {
				_, _ = fmt.Fprintln(talk, note)
			}
			return printReport(cmd.OutOrStdout(), report)
		},
	}
	settings(cmd, "database-url")
	cmd.AddCommand(migrateStatusCommand(), migrateSQLCommand())
	return cmd
}

func printReport(out io.Writer, report migrations.Report) error {
	if report.Empty() {
		_, err := fmt.Fprintln(out, "nothing to do")
		return err
	}
	for _, name := range report.Migrations {
		_, _ = fmt.Fprintln(out, "migrated ", name)
	}
	if report.SQL {
		_, _ = fmt.Fprintln(out, "in force  functions, views and grants")
	}
	for _, what := range report.Installed {
		_, _ = fmt.Fprintln(out, "installed", what)
	}
	if report.Address != "" {
		_, _ = fmt.Fprintln(out, "adopted  ", report.Address)
	}
	return nil
}

func migrateStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which migrations are applied; exit 1 when something is missing",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			standing, err := migrations.Status(cmd.Context(), unprepared(cfg.Database))
			if err != nil {
				return located(cfg.Database, err)
			}
			return printStanding(cmd.OutOrStdout(), standing)
		},
	}
	settings(cmd, "database-url")
	return cmd
}

func printStanding(out io.Writer, standing migrations.Standing) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "VERSION\tMIGRATION\tAPPLIED")
	pending := 0
	for _, m := range standing.Migrations {
		applied := "pending"
		if m.AppliedAt.IsZero() {
			pending++
		} else {
			applied = m.AppliedAt.UTC().Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\n", m.Version, m.Name, applied)
	}
	inForce := "in force"
	if !standing.SQL {
		inForce = "pending"
	}
	_, _ = fmt.Fprintf(table, "-\tfunctions, views, grants\t%s\n", inForce)
	if err := table.Flush(); err != nil {
		return err
	}
	if pending > 0 || !standing.SQL {
		return fmt.Errorf("the schema is not up to date: run pgtick migrate")
	}
	return nil
}

func migrateSQLCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sql",
		Short: "Print everything as one SQL file, to install or upgrade by hand",
		Long: `Print everything as one SQL file. It installs pgtick or brings it up to date, whatever state the database is in, in one transaction;
"pgtick migrate" and this file may follow each other.`,
		Args: cobra.NoArgs,
	}
	supabase := cmd.Flags().Bool("supabase", false, "as a migration for supabase db push, which brings a transaction of its own")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *supabase {
			return migrations.Supabase(cmd.OutOrStdout())
		}
		return migrations.Script(cmd.OutOrStdout())
	}
	return cmd
}
