package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

// session is the connection of a command that lasts. When the database goes away meanwhile, because it is restarted or fails over, or the network breaks,
// the command says so once, and goes on when it is back.
type session struct {
	conn *pgx.Conn
	talk io.Writer
}

// withSession is withConnection for a command that lasts.
func withSession(cmd *cobra.Command, f func(ctx context.Context, s *session) error) error {
	return withConnection(cmd, nil, func(ctx context.Context, conn *pgx.Conn) error {
		s := newSession(cmd, conn)
		defer s.close(ctx)
		return f(ctx, s)
	})
}

// newSession goes on with a connection that is there. Who makes a session closes it; to close a connection twice does nothing.
func newSession(cmd *cobra.Command, conn *pgx.Conn) *session {
	return &session{conn: conn, talk: cmd.ErrOrStderr()}
}

func (s *session) close(ctx context.Context) { _ = s.conn.Close(context.WithoutCancel(ctx)) }

// How long a command waits for one look at the database, since a network that has lost a connection says nothing, and before it tries again to connect.
const (
	lookTimeout    = time.Minute
	reconnectPause = time.Second
)

// do calls f, which only reads, until it has ended on a connection that has lasted. Its last error counts.
func (s *session) do(ctx context.Context, f func(ctx context.Context, conn *pgx.Conn) error) error {
	for {
		bounded, cancel := context.WithTimeout(ctx, lookTimeout)
		err := f(bounded, s.conn)
		cancel()
		if err == nil || ctx.Err() != nil || !s.conn.IsClosed() {
			return err
		}
		if err := s.reconnect(ctx, err); err != nil {
			return err
		}
	}
}

// reconnect tries until there is a connection, ctx ends, or no waiting will help.
func (s *session) reconnect(ctx context.Context, lost error) error {
	database := s.conn.Config()
	_, _ = fmt.Fprintf(s.talk, "the connection is lost: %s; connecting again (Ctrl-C ends this)\n", printable(lost.Error()))
	for said := ""; ; {
		select { // before the first try, too: a server that ends each session at once is not to be asked without a pause
		case <-ctx.Done():
		case <-time.After(reconnectPause):
		}
		conn, err := connector(database)(ctx)
		if err == nil {
			s.conn = conn
			_, _ = fmt.Fprintln(s.talk, "connected again")
			return nil
		}
		if ctx.Err() != nil || !mayComeBack(err) {
			return unreachable(database, err)
		}
		if text := unreachable(database, err).Error(); text != said {
			said = text
			_, _ = fmt.Fprintln(s.talk, printable(text))
		}
	}
}

// mayComeBack: a server that knows the role or the database no more is not waited for, and one that refuses a login might lock it out.
func mayComeBack(err error) bool {
	var pg *pgconn.PgError
	gone := errors.As(err, &pg) && pg.Code == "3D000"
	return !gone && !jobs.RefusedLogin(err)
}
