package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/jobs"
)

func adoptCommand() *cobra.Command {
	var only bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Let runners work on this copy, or under this address",
		Long: `A runner works only on a database whose address is recorded in it, so that a branch, a clone or a restored backup does not call
production's webhooks. adopt records the address of DATABASE_URL: the Supabase project, or else the host, and the database's name.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			conn, err := connector(unprepared(cfg.Database))(cmd.Context())
			if err != nil {
				return unreachable(cfg.Database, err)
			}
			defer func() { _ = conn.Close(context.WithoutCancel(cmd.Context())) }()
			address := migrations.Address(cfg.Database)
			if err := jobs.Adopt(cmd.Context(), conn, address, only); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), address)
			return err
		},
	}
	cmd.Flags().BoolVar(&only, "only", false, "forget every other address: for a project that has moved")
	settings(cmd, "database-url")
	return cmd
}
