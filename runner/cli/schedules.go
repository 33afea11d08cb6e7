package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/jobs"
)

func schedulesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schedules",
		Short: "Look at schedules, foresee them, declare them in a file, pause and run them",
		Long: `Look at schedules, foresee what they will do, declare them in a file, pause, resume and run them.
Tables fit the terminal; --json prints one object a line, its keys named as the columns in SQL.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, named := range []*cobra.Command{showCommand(), lintCommand(), pauseCommand(), resumeCommand(), runCommand()} {
		named.ValidArgsFunction = firstNamed(jobs.ScheduleNames)
		cmd.AddCommand(named)
	}
	cmd.AddCommand(listCommand(), previewCommand(), forecastCommand(), applyCommand())
	return cmd
}

// scheduleCommand finishes a command below schedules: it works in one transaction, committed where f returns no error.
func scheduleCommand(cmd *cobra.Command, f func(ctx context.Context, tx pgx.Tx, args []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withConnection(cmd, nil, func(ctx context.Context, conn *pgx.Conn) error {
			return inTransaction(ctx, conn, func(tx pgx.Tx) error { return f(ctx, tx, args) })
		})
	}
	settings(cmd, "database-url")
	return cmd
}

// withConnection connects, makes sure that the schema is there, and calls f. Notices of the database go to notice.
func withConnection(cmd *cobra.Command, notice func(string), f func(ctx context.Context, conn *pgx.Conn) error) error {
	ctx := cmd.Context()
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	if notice != nil {
		cfg.Database.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n.Message) }
	}
	if name := cfg.Database.RuntimeParams; name["application_name"] == "pgtick" {
		name["application_name"] = "command line of pgtick" // what begins with pgtick is the clock of a runner
	}
	cfg.Database.DefaultQueryExecMode = pgx.QueryExecModeExec // half the round trips, and any pooler will do
	conn, err := connector(cfg.Database)(ctx)
	if err != nil {
		return unreachable(cfg.Database, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var older *migrations.OlderSchemaError
	if err := migrations.Check(ctx, conn); errors.As(err, &older) { // not every role may look
		return err
	}
	return inItsWords(f(ctx, conn))
}

func inTransaction(ctx context.Context, conn *pgx.Conn, f func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := jobs.SpeakPlainly(ctx, tx); err != nil {
			return err
		}
		return f(tx)
	})
}

// refusal is an error that pgtick raised in the database. Its message says all, so that nothing is put before it.
type refusal struct {
	*pgconn.PgError
	all error
}

func (r refusal) Error() string { return fmt.Sprintf("%s (%s)", r.Message, r.Code) }
func (r refusal) Unwrap() error { return r.all }

func inItsWords(err error) error {
	var pg *pgconn.PgError
	var placed inFile // has said it already
	if errors.As(err, &pg) && strings.HasPrefix(pg.Code, "TK") && !errors.As(err, &placed) {
		return refusal{pg, err}
	}
	return err
}

// sayRemedy prints what the database says beside an error's message, and what we know to do about one of its connection.
func sayRemedy(talk io.Writer, err error) {
	pg := new(pgconn.PgError)
	errors.As(err, &pg)
	if pg.Detail != "" {
		_, _ = fmt.Fprintln(talk, "  detail:", printable(lineBreak.ReplaceAllString(pg.Detail, "; ")))
	}
	if hint := cmp.Or(pg.Hint, jobs.Remedy(err)); hint != "" {
		_, _ = fmt.Fprintln(talk, "  hint:", printable(lineBreak.ReplaceAllString(hint, "; ")))
	}
}

func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "one JSON object a line, its keys named as the columns in SQL")
}

// printJSON prints a value on a line of its own. What a terminal could obey is escaped, as JSON may have it: the value is the same.
func printJSON(out io.Writer, value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	_, err := io.WriteString(out, harmless(text.String()))
	return err
}

// harmless escapes in a JSON text what may stand there as it is, but moves the cursor or turns the direction of writing on a terminal.
func harmless(text string) string {
	if !strings.ContainsFunc(text, obeyed) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if obeyed(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func obeyed(r rune) bool {
	return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
}

// printRows prints each row on a line of its own.
func printRows[V any](out io.Writer, rows []V) error {
	for _, row := range rows {
		if err := printJSON(out, row); err != nil {
			return err
		}
	}
	return nil
}
