package migrations

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// PoolerError says that the connection goes through a pooler in transaction (or statement) mode, where a session lock means nothing.
type PoolerError struct{ Host string }

func (e *PoolerError) Error() string {
	return fmt.Sprintf("migrate needs a direct or session-mode connection, but %s is a pooler in transaction mode: use the database's own host and port, "+
		"or the pooler's port for session mode (Supabase: 5432 instead of 6543)", e.Host)
}

// refuseSharedConnection refuses a pooler in transaction or statement mode.
func refuseSharedConnection(ctx context.Context, conn *pgx.Conn, cfg *pgx.ConnConfig) error {
	_, shared, err := Pooled(ctx, conn, cfg)
	if err == nil && shared {
		return &PoolerError{Host: cfg.Host}
	}
	return err
}

// Pooled tells whether a pooler is between, and whether that is in transaction or statement mode. It does so by what the pooler does, not by
// its port: it lets two clients use one server process in turn, or one client several.
func Pooled(ctx context.Context, conn *pgx.Conn, cfg *pgx.ConnConfig) (pooled, shared bool, err error) {
	pid, err := serverPid(ctx, conn)
	if err != nil || pid == conn.PgConn().PID() {
		return false, false, err // the process that we were told of at the start is the one that serves us: no pooler at all
	}
	if shared, err = sharesProcesses(ctx, conn, cfg, pid); err != nil {
		return true, false, fmt.Errorf("find out what kind of pooler this is: %w", err)
	}
	return true, shared, nil
}

func sharesProcesses(ctx context.Context, first *pgx.Conn, cfg *pgx.ConnConfig, pid uint32) (bool, error) {
	// A pool in session mode with no room for a second client would keep us waiting; one in transaction mode has room by now.
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	second, err := pgx.ConnectConfig(short, cfg)
	if err != nil {
		return false, ifNotExpired(short, err)
	}
	defer second.Close(context.WithoutCancel(ctx))
	for range 5 {
		taken, err := holdProcess(short, second)
		if refused := new(pgconn.PgError); errors.As(err, &refused) {
			return true, nil // a pooler in statement mode allows no transaction at all
		}
		if err != nil {
			return false, ifNotExpired(short, err)
		}
		if taken == pid {
			return true, nil
		}
		if now, err := serverPid(ctx, first); err != nil || now != pid {
			return err == nil, err
		}
		if _, err := second.Exec(ctx, "rollback"); err != nil {
			return false, err
		}
	}
	return false, nil
}

// holdProcess begins a transaction, so that the server process stays taken, and tells which it is.
func holdProcess(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return 0, err
	}
	return serverPid(ctx, conn)
}

func serverPid(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	err = conn.QueryRow(ctx, "select pg_backend_pid()::bigint").Scan(&pid)
	return pid, err
}

func ifNotExpired(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil
	}
	return err
}
