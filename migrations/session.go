package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// lockKey is the session lock of all migrates of a database: the letters "pgtick" as a number.
const lockKey int64 = 0x70677469636b

// lostError is what is left to say when the one connection of a migrate has gone.
var errLost = errors.New("the connection was lost; whatever was not finished has been undone, so migrate may simply be run again")

// session is the one connection on which all of a migrate happens. The session lock lives on it: were the connection replaced
// silently, as a pool does, the rest would run without the lock.
type session struct {
	db    *sql.DB
	notes []string
	log   func(string)
}

func openSession(ctx context.Context, cfg *pgx.ConnConfig, log func(string)) (*session, error) {
	s := &session{log: log}
	mine := cfg.Copy()
	mine.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) { s.note(notice.Message) }
	// Nothing is prepared, so that a pooler in transaction mode is found out by our test and not by its effects.
	mine.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	if mine.RuntimeParams["application_name"] == "" {
		mine.RuntimeParams["application_name"] = "pgtick migrate"
	}
	var connected atomic.Bool
	s.db = stdlib.OpenDB(*mine, stdlib.OptionBeforeConnect(func(context.Context, *pgx.ConnConfig) error {
		if connected.Swap(true) {
			return errLost
		}
		return nil
	}))
	s.db.SetMaxOpenConns(1)
	if err := s.begin(ctx, mine); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return s, nil
}

func (s *session) begin(ctx context.Context, cfg *pgx.ConnConfig) error {
	if err := s.raw(ctx, func(conn *pgx.Conn) error { return refuseSharedConnection(ctx, conn, cfg) }); err != nil {
		return err
	}
	// The settings of the login role (hosted ones have a statement_timeout) are not meant for this.
	_, err := s.db.ExecContext(ctx, `set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = '10s';
		set client_min_messages = notice; set search_path = ''`)
	if err != nil {
		return err
	}
	return s.lock(ctx)
}

// note keeps what our own SQL has to say; PostgreSQL's "already exists, skipping" is of no use to anybody.
func (s *session) note(message string) {
	if text, ours := strings.CutPrefix(message, "pgtick: "); ours {
		s.notes = append(s.notes, text)
	}
}

// lock tries in a loop. To wait in the server for it would hold a snapshot, which another's "create index concurrently" waits for,
// while that other one holds the lock.
func (s *session) lock(ctx context.Context) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for tries := 0; ; tries++ {
		var locked bool
		if err := s.db.QueryRowContext(ctx, "select pg_try_advisory_lock($1)", lockKey).Scan(&locked); err != nil || locked {
			return err
		}
		if tries == 20 {
			s.log("another migrate is at work on this database; waiting for it to end")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for another migrate to end: %w", ctx.Err())
		case <-again.C:
		}
	}
}

// close ends the session, and with it the lock.
func (s *session) close() error { return s.db.Close() }

// raw gives f the session's connection itself. f must not use the session meanwhile.
func (s *session) raw(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	problem := conn.Raw(func(driver any) error { return f(driver.(*stdlib.Conn).Conn()) })
	return errors.Join(problem, conn.Close())
}

// run executes SQL text of any number of statements. Where it fails the error names the file and the line.
func run(ctx context.Context, conn *pgx.Conn, f file) error {
	_, err := conn.PgConn().Exec(ctx, f.text).ReadAll()
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Position > 0 {
		line := 1 + strings.Count(string([]rune(f.text)[:min(int(refused.Position)-1, len([]rune(f.text)))]), "\n")
		return fmt.Errorf("%s, line %d: %w", f.name, line, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}
