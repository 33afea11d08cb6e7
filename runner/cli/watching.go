package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

// view is where a command shows what it has found: data, and what is said about them.
type view struct {
	screen
	talk io.Writer
}

// watchable finishes a command that reads: it shows once, or with --watch again and again until it is interrupted. On a terminal what is
// shown takes the place of what was before.
func watchable(cmd *cobra.Command, show func(ctx context.Context, tx pgx.Tx, v view) error) *cobra.Command {
	every := cmd.Flags().String("watch", "", "show it again and again, every so often: 1s to 1h")
	cmd.Flags().Lookup("watch").NoOptDefVal = "2s"
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		pause, err := readEvery(*every)
		if err != nil {
			return err
		}
		if pause == 0 {
			return withConnection(cmd, nil, func(ctx context.Context, conn *pgx.Conn) error {
				v := view{newScreen(cmd.OutOrStdout()), cmd.ErrOrStderr()}
				return inTransaction(ctx, conn, func(tx pgx.Tx) error { return show(ctx, tx, v) })
			})
		}
		return again(cmd, pause, show)
	}
	settings(cmd, "database-url")
	return cmd
}

// readEvery reads how often to look; empty: once.
func readEvery(value string) (time.Duration, error) {
	if value == "" {
		return 0, nil
	}
	pause, err := jobs.ReadLength(value)
	if err != nil || pause < time.Second || pause > time.Hour {
		return 0, usageError{fmt.Errorf("--watch %q is no length from 1s to 1h: give it as --watch or --watch=5s", value)}
	}
	return pause, nil
}

// again calls show until the first signal, which is how such a command ends well, or until one of over says so. A database that goes away is waited for.
func again(cmd *cobra.Command, pause time.Duration, show func(ctx context.Context, tx pgx.Tx, v view) error, over ...func() bool) error {
	return withSession(cmd, func(ctx context.Context, s *session) error {
		look := time.NewTicker(pause)
		defer look.Stop()
		for first := true; ; first = false {
			v := view{newScreen(cmd.OutOrStdout()), cmd.ErrOrStderr()}
			err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
				return v.replace(first, func(v view) error {
					return inTransaction(ctx, conn, func(tx pgx.Tx) error { return show(ctx, tx, v) })
				})
			})
			if ctx.Err() != nil {
				return nil
			}
			if err != nil || slices.ContainsFunc(over, func(is func() bool) bool { return is() }) {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-look.C:
			}
		}
	})
}

// replace draws over what stands on a terminal; elsewhere one view follows the other.
func (v view) replace(first bool, show func(v view) error) error {
	if !v.terminal || os.Getenv("TERM") == "dumb" {
		return show(v)
	}
	out := v.Writer
	var drawn bytes.Buffer
	v.Writer, v.talk = &drawn, &drawn
	if err := show(v); err != nil {
		return err
	}
	begin := "\x1b[H"
	if first {
		begin = "\x1b[2J" + begin
	}
	_, err := io.WriteString(out, begin+v.crop(drawn.String())+"\x1b[J")
	return err
}

// crop leaves the last line of the terminal empty, and says how much did not fit.
func (v view) crop(text string) string {
	all := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if most := v.height - 1; len(all) > most && most > 1 {
		all = append(all[:most-1:most-1], v.paint(dim, fmt.Sprintf("… %d lines more", len(all)-most+1)))
	}
	return strings.Join(all, "\x1b[K\r\n") + "\x1b[K\r\n"
}
