package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/credits"
)

func creditsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "credits",
		Short: "Ask for balances and statements, verify the ledger, compare it with the analytics target",
		Long: `Ask the credit ledger for a user's balance or statement, work out all its invariants anew, and compare it with what the analytics target
has. Nothing is changed. Tables fit the terminal; --json prints one object a line, its keys named as the columns in SQL.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(balanceCommand(), statementCommand(), verifyCommand(), reconcileCommand())
	return cmd
}

// withCredits adds the credit tasks, which depend on the settings, to the others.
func withCredits(others *tasks.Registry, cfg config.Config) *tasks.Registry {
	all := tasks.NewRegistry()
	credits.RegisterTo(all, syncTarget(cfg.Sync))
	all.Merge(others)
	return all
}

func syncTarget(s config.Sync) credits.Target {
	switch {
	case s.Database != nil:
		return credits.Postgres(s.Database)
	case s.REST != nil:
		return credits.REST(s.REST, s.Key)
	default:
		return credits.Local()
	}
}

// readUser reads a UUID as Postgres writes it.
func readUser(value string) (pgtype.UUID, error) {
	var user pgtype.UUID
	if err := user.Scan(value); err != nil || !user.Valid {
		return user, usageError{fmt.Errorf("user %q is no UUID: give it as 6f9619ff-8b86-4d11-b42d-00c04fc964ff", value)}
	}
	return user, nil
}

func balanceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "balance USER",
		Short:   "A user's credits: all, held, and available",
		Long:    "Print a user's credits: the balance, what open holds that have not expired keep of it, and what is available for a charge.",
		Example: "  pgtick credits balance 6f9619ff-8b86-4d11-b42d-00c04fc964ff",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(cmd)
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		user, err := readUser(args[0])
		if err != nil {
			return err
		}
		b, err := credits.BalanceOf(ctx, tx, user)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), b)
		}
		t := table{titles: []string{"BALANCE", "HELD", "AVAILABLE"}}
		t.add(text(whole(b.Balance)), text(whole(b.Held)), text(whole(b.Available)))
		return t.print(newScreen(cmd.OutOrStdout()))
	})
}

func whole(n int64) string { return strconv.FormatInt(n, 10) }

func signed(n int64) string {
	if n == 0 {
		return none
	}
	return fmt.Sprintf("%+d", n)
}

func statementCommand() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "statement USER",
		Short: "A user's completed entries, each with the balance after it",
		Long: `Print a user's completed entries in the order of booking, each with the balance and what was held after it. --from and --to are moments
(2026-03-28T02:00:00Z, or 2026-03-28 02:00 in UTC) or lengths back from now (90m, 24h, 7d); an entry at the moment of --to is not printed.`,
		Example: "  pgtick credits statement 6f9619ff-8b86-4d11-b42d-00c04fc964ff --from 30d\n  pgtick credits statement 6f9619ff-8b86-4d11-b42d-00c04fc964ff --from 2026-03-01 --to 2026-04-01 --json",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&from, "from", "", "only entries from this moment on; default: from the first")
	cmd.Flags().StringVar(&to, "to", "", "only entries before this moment; default: to the last")
	asJSON := jsonFlag(cmd)
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, args []string) error {
		user, err := readUser(args[0])
		if err != nil {
			return err
		}
		since, until, err := readPeriod(ctx, tx, from, to)
		if err != nil {
			return err
		}
		if *asJSON {
			return credits.StatementOf(ctx, tx, user, since, until, func(l credits.Line) error { return printJSON(cmd.OutOrStdout(), l.JSON) })
		}
		t := table{titles: []string{"SEQ", "AT (UTC)", "ENTRY", "TYPE", "AMOUNT", "HELD", "BALANCE", "HELD AFTER", "FOR"}}
		err = credits.StatementOf(ctx, tx, user, since, until, func(l credits.Line) error {
			t.add(text(whole(l.Seq)), text(l.At.UTC().Format("2006-01-02 15:04:05")), text(whole(l.TransactionID)), text(l.Type), text(signed(l.Amount)),
				text(signed(l.HeldAmount)), text(whole(l.Balance)), text(whole(l.Held)), what(l.Endpoint, l.Description, l.ReferenceID))
			return nil
		})
		if err != nil {
			return err
		}
		if len(t.rows) == 0 {
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "no entries")
			return nil
		}
		return t.print(newScreen(cmd.OutOrStdout()))
	})
}

func what(words ...string) cell {
	words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
	if len(words) == 0 {
		return text(none)
	}
	return text(words...)
}

// readPeriod reads the bounds of a statement; nil is none.
func readPeriod(ctx context.Context, tx pgx.Tx, from, to string) (since, until *time.Time, err error) {
	now, err := jobs.Now(ctx, tx)
	if err != nil {
		return nil, nil, err
	}
	if since, err = readPast("from", from, now); err != nil {
		return nil, nil, err
	}
	if until, err = readPast("to", to, now); err != nil {
		return nil, nil, err
	}
	if since != nil && until != nil && !since.Before(*until) {
		return nil, nil, usageError{fmt.Errorf("--to %q is not later than --from %q", to, from)}
	}
	return since, until, nil
}

func readPast(flag, value string, now time.Time) (*time.Time, error) {
	if value == "" {
		return nil, nil
	}
	w, err := readWhen(flag, value)
	if err != nil {
		return nil, usageError{fmt.Errorf("--%s %q is no time: give 2026-03-28T02:00:00Z, 2026-03-28 02:00, or a length back from now such as 90m, 24h, 7d", flag, value)}
	}
	if at := w.UTC(); at != nil {
		return at, nil
	}
	at := now.Add(-w.In)
	return &at, nil
}

// verifySessions is how many ranges of users are verified at a time.
const verifySessions = 2

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Work out every invariant of the ledger anew; exit 1 when one is broken",
		Long: `Work out every invariant of the ledger anew, out of all its rows, hashes included, range by range of users in two sessions, and print what is
broken: what credits.violations finds. In a chain the first wrong entry is named. Exit 0 when nothing is, 1 otherwise.`,
		Example: "  pgtick credits verify\n  pgtick credits verify --json | jq -r '.user_id' | sort -u",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withConnections(cmd, verifySessions, func(ctx context.Context, conns []*pgx.Conn) error { return verify(ctx, cmd, conns, *asJSON) })
	}
	settings(cmd, "database-url")
	return cmd
}

// withConnections gives f so many.
func withConnections(cmd *cobra.Command, n int, f func(context.Context, []*pgx.Conn) error) error {
	var conns []*pgx.Conn
	var more func(context.Context, *pgx.Conn) error
	more = func(ctx context.Context, conn *pgx.Conn) error {
		if conns = append(conns, conn); len(conns) == n {
			return f(ctx, conns)
		}
		return withConnection(cmd, nil, more)
	}
	return withConnection(cmd, nil, more)
}

func verify(ctx context.Context, cmd *cobra.Command, conns []*pgx.Conn, asJSON bool) error {
	started, bar := time.Now(), newBar(cmd.ErrOrStderr(), "verifying", "entries")
	found, looked, err := credits.Verify(ctx, conns, bar.at)
	bar.end()
	if err != nil {
		return fmt.Errorf("verify the ledger: %w", err)
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d entries of %d accounts in %s: %s\n", looked.Entries, looked.Accounts, about(time.Since(started)), count(len(found), "violation"))
	if asJSON {
		err = printRows(cmd.OutOrStdout(), found)
	} else if len(found) > 0 {
		err = printViolations(newScreen(cmd.OutOrStdout()), found)
	}
	if err != nil || len(found) == 0 {
		return err
	}
	return fmt.Errorf("the ledger breaks its rules: %s", count(len(found), "violation"))
}

// verifyFor verifies the ledger for the dashboard.
func verifyFor(ctx context.Context, conn *pgx.Conn, progress func(done, all int64)) (int64, []web.Violation, error) {
	found, looked, err := credits.Verify(ctx, []*pgx.Conn{conn}, progress)
	broken := make([]web.Violation, len(found))
	for i, v := range found {
		broken[i] = web.Violation{Kind: v.Kind, User: deref(v.UserID), Entry: deref(v.TransactionID), Hold: deref(v.HoldID), Detail: deref(v.Detail)}
	}
	return looked.Entries, broken, err
}

// deref gives the zero value for nil.
func deref[V any](p *V) (value V) {
	if p != nil {
		value = *p
	}
	return value
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// mostLines is how many lines a table of findings has; --json has all of them.
const mostLines = 1000

func printViolations(s screen, found []credits.Violation) error {
	t := table{titles: []string{"USER", "ENTRY", "HOLD", "VIOLATION", "DETAIL"}}
	for _, v := range found[:min(len(found), mostLines)] {
		t.add(text(or(v.UserID)), text(number(v.TransactionID)), text(number(v.HoldID)), cell{[]string{v.Kind}, red}, text(or(v.Detail)))
	}
	return printFindings(s, t, len(found))
}

func printFindings(s screen, t table, n int) error {
	if err := t.print(s); err != nil {
		return err
	}
	if n > mostLines {
		_, err := fmt.Fprintf(s, "… and %d more: see --json\n", n-mostLines)
		return err
	}
	return nil
}

func or(s *string) string {
	if s == nil {
		return none
	}
	return cmp.Or(*s, none)
}

func number(n *int64) string {
	if n == nil {
		return none
	}
	return whole(*n)
}

func reconcileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare the ledger with the analytics target; exit 1 when they differ",
		Long: `Compare the completed entries of the ledger with what the target of the sync has, and name each entry on which they differ:
  missing     marked as synced, but the target does not have it
  unknown     the target has it, but the ledger has no such completed entry
  different   both have it, with other values
  set_aside   the target has refused it, and why; credits.retry_refused() lets the sync try again
How many are not synced yet is told, but is no difference. Exit 0 when there is none, 1 otherwise.`,
		Example: "  pgtick credits reconcile\n  PGTICK_SYNC_KEY=… pgtick credits reconcile --sync-target https://REF.supabase.co --json",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load(cmd)
		if err != nil {
			return err
		}
		return withConnection(cmd, nil, func(ctx context.Context, conn *pgx.Conn) error {
			return reconcile(ctx, cmd, conn, syncTarget(cfg.Sync), *asJSON)
		})
	}
	settings(cmd, "database-url", "sync-target", "sync-key")
	return cmd
}

func reconcile(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn, target credits.Target, asJSON bool) error {
	bar := newBar(cmd.ErrOrStderr(), "comparing", "entries")
	t := table{titles: []string{"ENTRY", "USER", "DIFFERENCE", "DETAIL"}}
	done, err := credits.Reconcile(ctx, conn, target, bar.at, func(d credits.Difference) error {
		if asJSON {
			return printJSON(cmd.OutOrStdout(), d)
		}
		if len(t.rows) < mostLines {
			t.add(text(whole(d.TransactionID)), text(or(d.UserID)), cell{[]string{d.Kind}, red}, text(d.Detail))
		}
		return nil
	})
	bar.end()
	if err != nil {
		return fmt.Errorf("compare the ledger with its analytics target: %w", err)
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d entries compared with %s: %s, %d not synced yet\n", done.Entries, target, count(int(done.Differences), "difference"), done.Waiting)
	if done.Differences == 0 {
		return nil
	}
	if !asJSON {
		if err := printFindings(newScreen(cmd.OutOrStdout()), t, int(done.Differences)); err != nil {
			return err
		}
	}
	return errors.New("the ledger and its analytics target differ: " + count(int(done.Differences), "difference"))
}

// bar shows on a terminal how much is done, how fast, and how long it will take; elsewhere it shows nothing.
type bar struct {
	*progressbar.ProgressBar
}

func newBar(talk io.Writer, what, of string) bar {
	return bar{progressbar.NewOptions64(1, progressbar.OptionSetDescription(what), progressbar.OptionSetWriter(talk),
		progressbar.OptionSetVisibility(isTerminal(talk)), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(of), progressbar.OptionSetPredictTime(true))}
}

func (b bar) at(done, all int64) {
	if b.GetMax64() != all {
		b.ChangeMax64(all)
	}
	_ = b.Set64(done)
}

func (b bar) end() { _ = b.Clear() }
