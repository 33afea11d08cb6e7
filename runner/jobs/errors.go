package jobs

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// What the database refuses, as errors that callers can tell apart.
var (
	ErrFenced         = errors.New("the claim is gone")
	ErrRunnerGone     = errors.New("the runner is unknown, has left or was declared dead")
	ErrLeaseRunOut    = errors.New("the runner's lease has run out")
	ErrNoJob          = errors.New("there is no such job")
	ErrNoSchedule     = errors.New("there is no such schedule")
	ErrForeignAddress = errors.New("this database belongs to another address")
	ErrBadValue       = errors.New("a value was refused")
	ErrGate           = errors.New("a gate of the task does not let it commit")
)

// bySQLState is only ever read.
var bySQLState = map[string]error{
	"TK000": ErrBadValue,
	"TK001": ErrFenced,
	"TK002": ErrRunnerGone,
	"TK003": ErrLeaseRunOut,
	"TK004": ErrNoJob,
	"TK006": ErrNoSchedule,
	"TK009": ErrForeignAddress,
	"TK022": ErrGate,
	"TK023": ErrGate,
}

// failed says what was being done, and joins the error that the database's SQLSTATE stands for.
func failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && bySQLState[pg.Code] != nil {
		err = fmt.Errorf("%w: %w", bySQLState[pg.Code], err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
