package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// examination is one visit: its session, and what was found out at the door.
type examination struct {
	opt         Options
	conn        *pgx.Conn
	unreachable error
	roundTrip   time.Duration // the shortest of some
	ahead       time.Duration // how far the server's clock is ahead of ours
	replaced    time.Duration // how far pgtick.now() is ahead of the server's clock
	pooled      bool
	byStatement bool   // the pooler lets nobody have a transaction
	version     int64  // of the schema; 0: there is none; -1: there is one, but this login may not read which
	owner       string // of the schema
	cron        *cron
}

const knocking = 15 * time.Second

// open connects and finds out what all checks stand on.
func (x *examination) open(ctx context.Context) {
	ctx, end := context.WithTimeout(ctx, knocking)
	defer end()
	if x.conn, x.unreachable = pgx.ConnectConfig(ctx, x.opt.Database); x.unreachable == nil {
		x.unreachable = x.lookAround(ctx)
	}
}

func (x *examination) lookAround(ctx context.Context) error {
	pid, err := serverPID(ctx, x.conn)
	if err != nil {
		return err
	}
	if x.pooled = pid != x.conn.PgConn().PID(); x.pooled {
		if x.byStatement, err = refusesTransactions(ctx, x.conn); err != nil || x.byStatement {
			return err
		}
	}
	if x.version, x.owner, err = installed(ctx, x.conn); err != nil {
		return err
	}
	return x.compareClocks(ctx)
}

// session is the visit's own, made anew where a check that was cut off has cost it.
func (x *examination) session(ctx context.Context) (_ *pgx.Conn, err error) {
	if x.conn == nil || x.conn.IsClosed() {
		x.conn, err = pgx.ConnectConfig(ctx, x.opt.Database)
	}
	return x.conn, err
}

func (x *examination) close() {
	if x.conn != nil {
		leave(x.conn)
	}
}

// leave ends a session, without waiting long for a server that does not answer.
func leave(conn *pgx.Conn) {
	ctx, end := context.WithTimeout(context.Background(), 2*time.Second)
	defer end()
	_ = conn.Close(ctx)
}

// reading calls f in a transaction that can change nothing and waits for nothing long.
func (x *examination) reading(ctx context.Context, f func(tx pgx.Tx) error) error {
	conn, err := x.session(ctx)
	if err != nil {
		return err
	}
	return readingOn(ctx, conn, f)
}

func readingOn(ctx context.Context, conn *pgx.Conn, f func(tx pgx.Tx) error) error {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginReading})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	return f(tx)
}

// rows makes a check of a query with the columns status, what and remedy. No row means that all is well.
func rows(query string, args ...func(*examination) any) func(context.Context, *exam) error {
	return func(ctx context.Context, e *exam) error {
		return e.reading(ctx, func(tx pgx.Tx) error { return e.ask(ctx, tx, query, args...) })
	}
}

// together is one check of several.
func together(looks ...func(context.Context, *exam) error) func(context.Context, *exam) error {
	return func(ctx context.Context, e *exam) error {
		for _, look := range looks {
			if err := look(ctx, e); err != nil {
				return err
			}
		}
		return nil
	}
}

func (e *exam) ask(ctx context.Context, db querier, query string, args ...func(*examination) any) error {
	values := make([]any, len(args))
	for i, arg := range args {
		values[i] = arg(e.examination)
	}
	rows, err := db.Query(ctx, query, values...)
	if err != nil {
		return err
	}
	var f Finding
	_, err = pgx.ForEachRow(rows, []any{&f.Status, &f.What, &f.Remedy}, func() error {
		e.add(f)
		return nil
	})
	return err
}

func stateOf(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// message is the server's own words where it said some, in one line. Neither they nor other errors name a password.
func message(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Message
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// url is how a role connects to this database, without its password.
func (x *examination) url(role string) string {
	return urlOf(x.opt.Database, role, x.opt.Database.Port)
}

func urlOf(cfg *pgx.ConnConfig, role string, port uint16) string {
	if _, project, has := strings.Cut(cfg.User, "."); has && strings.Contains(cfg.Host, ".pooler.supabase.") && !strings.Contains(role, ".") {
		role += "." + project
	}
	u := url.URL{Scheme: "postgres", User: url.User(role), Host: net.JoinHostPort(cfg.Host, strconv.Itoa(int(port))), Path: "/" + cfg.Database}
	if isSocket(cfg.Host) {
		u.Host, u.RawQuery = "", fmt.Sprintf("host=%s&port=%d", url.QueryEscape(cfg.Host), port)
	}
	return "'" + u.String() + "'"
}

func isSocket(host string) bool { return host == "" || host[0] == '/' || host[0] == '@' }
