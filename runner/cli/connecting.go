package cli

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/runner/jobs"
)

// located says of an error of a connection that was opened elsewhere where it should have gone. What to do about it is in one table,
// runner/jobs/remedy.go: sayRemedy prints it, and the engine's log has it.
func located(database *pgx.ConnConfig, err error) error {
	if errors.As(err, new(*pgconn.ConnectError)) {
		return unreachable(database, err)
	}
	return err
}

// loginPause is how long a runner tries no login after one was refused. With a password that was changed, control, listener and tasks would try
// some ten in a second, and a pooler that counts them would lock out everybody.
const loginPause = 30 * time.Second

// logins watches the logins to one address.
type logins struct {
	mu      sync.Mutex
	refused error
	until   time.Time
}

// watchLogins has the connections of both configurations watched, and of their copies: together where it is the same login.
func watchLogins(database, listen *pgx.ConnConfig) {
	database.Tracer, listen.Tracer = new(logins), new(logins)
	if listen.Host == database.Host && listen.Port == database.Port && listen.User == database.User && listen.Password == database.Password {
		listen.Tracer = database.Tracer
	}
}

// refusedLately is the error of a login to the same address that was refused a moment ago, or nil.
func refusedLately(database *pgx.ConnConfig) error {
	l, watched := database.Tracer.(*logins)
	if !watched {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.until) {
		return l.refused
	}
	return nil
}

// TraceConnectStart implements pgx.ConnectTracer.
func (*logins) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

// TraceConnectEnd implements pgx.ConnectTracer.
func (l *logins) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	if !jobs.RefusedLogin(data.Err) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused, l.until = data.Err, time.Now().Add(loginPause)
}

// TraceQueryStart implements pgx.QueryTracer, which every tracer must.
func (*logins) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (*logins) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
