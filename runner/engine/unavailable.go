package engine

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/runner/jobs"
)

// readOnly is the SQLSTATE of a server that takes no writes: a standby, or one whose disk is full.
const readOnly = "25006"

// ReadOnly tells whether a session's server takes no writes, as it said with its last answer.
func ReadOnly(conn *pgx.Conn) bool {
	return conn.PgConn().ParameterStatus("in_hot_standby") == "on" || conn.PgConn().ParameterStatus("default_transaction_read_only") == "on"
}

// Advice is what to do about an error of a connection, to go behind a log's message.
func Advice(err error) string {
	if remedy := jobs.Remedy(err); remedy != "" {
		return ": " + remedy
	}
	return ""
}

// unavailable is the database's failure, not the task's: there was no session to be had, or its server took no writes. The job goes back
// for a moment, without counting an attempt: one that is tried but once must not fail for that.
type unavailable struct{ cause error }

func (u *unavailable) Error() string { return "the database is not available: " + u.cause.Error() }
func (u *unavailable) Unwrap() error { return u.cause }

// noSession marks the failure of a begin, unless it is the attempt itself that has ended, or the server had something against it.
func noSession(ctx context.Context, err error) error {
	var pg *pgconn.PgError
	connecting := errors.As(err, new(*pgconn.ConnectError))
	if err == nil || ctx.Err() != nil || !connecting && errors.As(err, &pg) && !away(pg) {
		return err
	}
	return &unavailable{err}
}

// lull keeps the worker for a moment: a full queue would otherwise be claimed and given back as fast as the server can refuse.
func lull(ctx context.Context) {
	timer := time.NewTimer(troubleMost / 2)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// away: the session has ended, or it is one of connection exceptions, insufficient resources and operator intervention.
func away(pg *pgconn.PgError) bool {
	return pg.Severity == "FATAL" || strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "53") || strings.HasPrefix(pg.Code, "57")
}

// noWrites marks a write that was refused by a server that takes none. A transaction that the task has made read-only is the task's mistake.
func noWrites(conn *pgx.Conn, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == readOnly && ReadOnly(conn) {
		return &unavailable{err}
	}
	return err
}
