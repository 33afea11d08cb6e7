// Package sqltask has the task sql, which every runner has: a job that calls one function of the database's owner, as a role that the owner
// chose. What may be called, and as whom, pgtick.allow_function says; a job's args only carry values. The rules are SQL's
// (sql/41_functions.sql); here is only the call.
//
// A function runs in a transaction in which the job ends: both commit, or neither. A procedure may commit by itself, so it runs outside of
// one, at least once.
package sqltask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/tasks"
)

// Name of the task.
const Name = "sql"

// Args of a job.
type Args struct {
	Function string          `json:"function"` // schema.name, as pgtick.allow_function returned it
	Args     json.RawMessage `json:"args"`     // an object: values by the names of the parameters; those with a default may be left out
}

// Register adds the task.
func Register(r *tasks.Registry) { tasks.Register(r, Name, run) }

func run(ctx context.Context, job *tasks.Job[Args]) error {
	if len(job.Args.Args) == 0 {
		job.Args.Args = json.RawMessage("{}")
	}
	var procedure *call
	err := job.EndInTx(ctx, func(tx pgx.Tx) (json.RawMessage, error) {
		c, err := readCall(ctx, tx, job.Args)
		if err != nil {
			return nil, err
		}
		if c.isProcedure {
			procedure = &c
			return nil, errProcedure
		}
		return c.inTransaction(ctx, tx, job.Args.Args)
	})
	if errors.Is(err, errProcedure) {
		err = job.WithConn(ctx, func(conn *pgx.Conn) error { return procedure.alone(ctx, conn, job.Args.Args) })
	}
	return judged(err)
}

// errProcedure leaves the transaction: a procedure needs none around it.
var errProcedure = errors.New("a procedure")

// inTransaction calls the function as its role, and is the runner again when it returns.
func (c *call) inTransaction(ctx context.Context, tx pgx.Tx, args json.RawMessage) (result json.RawMessage, err error) {
	if err := become(ctx, tx, "local ", c.asRole); err != nil {
		return nil, err
	}
	if err := limit(ctx, tx, "local "); err != nil {
		return nil, err
	}
	if result, err = callFunction(ctx, tx, c.statement, args); err != nil {
		return nil, err
	}
	return result, beRunner(ctx, tx)
}

// alone calls the procedure outside of a transaction. The session is the runner's again at the end, or is closed.
func (c *call) alone(ctx context.Context, conn *pgx.Conn, args json.RawMessage) (err error) {
	if err := ownSession(ctx, conn); err != nil {
		return err
	}
	values, err := readTexts(ctx, conn, c.texts, args)
	if err != nil {
		return err
	}
	defer func() {
		ctx, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer end()
		if beRunner(ctx, conn) != nil {
			_ = conn.Close(ctx)
		}
	}()
	if err := become(ctx, conn, "", c.asRole); err != nil {
		return err
	}
	if err := limit(ctx, conn, ""); err != nil {
		return err
	}
	return callProcedure(ctx, conn, c.statement, values)
}

// ownSession refuses a connection through a pooler, which may give each statement another session: the procedure would run as the runner.
func ownSession(ctx context.Context, conn *pgx.Conn) error {
	pid, err := serverPID(ctx, conn)
	if err == nil && pid != conn.PgConn().PID() {
		err = tasks.Permanent(errors.New("a procedure is not called through a pooler: give the runner a direct connection as DATABASE_URL, or allow a function instead"))
	}
	return err
}

// limit has the server end the call when the attempt's time is over, even if the runner is gone by then.
func limit(ctx context.Context, db db, local string) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil
	}
	return limitStatements(ctx, db, local, strconv.FormatInt(max(time.Until(deadline).Milliseconds(), 1), 10))
}

// judged: a call that can not be made at all is not tried again; what the function itself raises is.
func judged(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch {
	case errors.Is(err, errNoRole):
		return tasks.Permanent(fmt.Errorf("%w: the owner of the schema may grant that role to the runner's login", err))
	case errors.Is(err, errNoCall):
		return tasks.Permanent(err)
	}
	return err
}
