package sqltask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// All SQL of this package stands here, but for the call itself, which the database puts together.

type db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// call is what pgtick.function_call says.
type call struct {
	asRole      string // quoted
	isProcedure bool
	statement   string
	texts       *string
}

var (
	errNoCall = errors.New("the call can not be made")
	errNoRole = errors.New("the role can not be taken")
)

func readCall(ctx context.Context, tx pgx.Tx, args Args) (c call, err error) {
	text, err := json.Marshal(args)
	if err != nil {
		return c, err
	}
	err = tx.QueryRow(ctx, `select c.as_role, c.is_procedure, c.statement, c.texts from pgtick.function_call($1::text::jsonb) as c`, string(text)).
		Scan(&c.asRole, &c.isProcedure, &c.statement, &c.texts)
	if refused := new(pgconn.PgError); errors.As(err, &refused) && refused.Code == "TK000" {
		err = errors.Join(errNoCall, err)
	}
	return c, err
}

func become(ctx context.Context, db db, local, role string) error {
	if _, err := db.Exec(ctx, "set "+local+"role "+role); err != nil {
		return errors.Join(errNoRole, fmt.Errorf("role %s: %w", role, err))
	}
	return nil
}

// beRunner undoes become and limitStatements, whatever the call has set itself.
func beRunner(ctx context.Context, db db) error {
	if _, err := db.Exec(ctx, "reset role"); err != nil {
		return err
	}
	_, err := db.Exec(ctx, "reset statement_timeout")
	return err
}

func limitStatements(ctx context.Context, db db, local, milliseconds string) error {
	_, err := db.Exec(ctx, "set "+local+"statement_timeout = "+milliseconds)
	return err
}

func callFunction(ctx context.Context, tx pgx.Tx, statement string, args json.RawMessage) (result json.RawMessage, err error) {
	var text *string
	if err := tx.QueryRow(ctx, "select c.result::text from ("+statement+") as c(result)", string(args)).Scan(&text); err != nil || text == nil {
		return nil, err
	}
	return json.RawMessage(*text), nil
}

func readTexts(ctx context.Context, conn *pgx.Conn, query *string, args json.RawMessage) (texts []*string, err error) {
	if query == nil {
		return nil, nil
	}
	err = conn.QueryRow(ctx, *query, string(args)).Scan(&texts)
	return texts, err
}

// callProcedure passes all values as text, by the simple protocol's own parameters: the statement casts them.
func callProcedure(ctx context.Context, conn *pgx.Conn, statement string, texts []*string) error {
	values := make([][]byte, len(texts))
	types := make([]uint32, len(texts))
	for i, text := range texts {
		types[i] = 25 // text
		if text != nil {
			values[i] = []byte(*text)
		}
	}
	_, err := conn.PgConn().ExecParams(ctx, statement, values, types, nil, nil).Close()
	return err
}

func serverPID(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	err = conn.QueryRow(ctx, `select pg_catalog.pg_backend_pid()`).Scan(&pid)
	return pid, err
}
