package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// answer is what came back for a call: the rows of its last statement.
type answer struct {
	rows [][]string
	err  error
}

// call is what a client asks. heard is told the answer, unless that is lost.
type call struct {
	sql   string
	heard func(a answer)
	lost  bool
}

type claim struct{ job, fence int64 }

// report is an answer of finish().
type report struct {
	runner, job, fence int64
	accepted           bool
}

// memory is what a client knows. What it learns in a transaction it forgets when that is rolled back.
type memory struct {
	runner     int64
	held       []claim
	told       []report
	unanswered []string // reports whose answer was lost, to be sent again
	heldAgain  []claim  // the claims of those
	checked    []claim  // claims that it has checked in this transaction
	telling    claim    // a job that it was told of in this transaction, and a number for that
}

func (m memory) clone() memory {
	m.held, m.told, m.unanswered, m.heldAgain, m.checked = slices.Clone(m.held), slices.Clone(m.told), slices.Clone(m.unanswered), slices.Clone(m.heldAgain), slices.Clone(m.checked)
	return m
}

type client struct {
	w      *world
	name   string
	conn   *pgconn.PgConn
	pid    uint32
	done   chan answer
	busy   bool // a call is under way
	stuck  bool // and waits for a lock
	waited bool // or did
	call   call
	line   int // of the trace
	memory
	saved memory // as it was when the transaction began
	open  bool   // whether one is
}

// begin makes a client new. R1, R2, … are runners, which the setup registers in this order.
func (c *client) begin(name string) error {
	c.name, c.memory, c.open, c.busy, c.stuck, c.waited = name, memory{}, false, false, false, false
	if number, isRunner := strings.CutPrefix(name, "R"); isRunner {
		c.runner, _ = strconv.ParseInt(number, 10, 64)
	}
	if name == "time" { // it has no connection
		return nil
	}
	if c.conn != nil && !c.conn.IsClosed() && c.conn.TxStatus() != 'I' {
		if _, err := c.conn.Exec(context.Background(), "rollback").ReadAll(); err != nil {
			return fmt.Errorf("%s: rollback: %w", name, err)
		}
	}
	return c.connect()
}

func (c *client) connect() error {
	if c.conn != nil && !c.conn.IsClosed() {
		return nil
	}
	conn, err := pgconn.Connect(context.Background(), c.w.url+"?application_name="+c.name)
	if err != nil {
		return fmt.Errorf("connect %s: %w", c.name, err)
	}
	c.conn, c.pid, c.done = conn, conn.PID(), make(chan answer, 1)
	return nil
}

// send begins a call. Its answer comes while settle() listens.
func (c *client) send(call call) {
	c.busy, c.stuck, c.waited, c.call = true, false, false, call
	if c.conn.TxStatus() == 'I' {
		c.saved, c.open = c.clone(), false
	}
	conn, done := c.conn, c.done
	go func() { done <- ask(conn, call.sql) }()
}

func ask(conn *pgconn.PgConn, sql string) (a answer) {
	results, err := conn.Exec(context.Background(), sql).ReadAll()
	a.err = err
	if len(results) > 0 && err == nil {
		for _, row := range results[len(results)-1].Rows {
			values := make([]string, len(row))
			for i, v := range row {
				values[i] = string(v)
			}
			a.rows = append(a.rows, values)
		}
	}
	return a
}

// heard takes the answer of the call under way.
func (c *client) heard(a answer) {
	c.busy = false
	if c.waited {
		c.w.stats.waits++
		c.w.trace[c.line].note("waited")
	}
	c.stuck, c.waited = false, false
	c.w.trace[c.line].answer(a)
	if code := codeOf(a.err); code == "40P01" {
		c.w.stats.deadlocks++
	}
	switch {
	case c.call.lost:
		c.w.trace[c.line].note("the answer is lost")
	case c.call.heard != nil:
		c.call.heard(a)
	}
	switch c.conn.TxStatus() {
	case 'E': // nothing of this transaction will be
		c.memory = c.saved.clone()
		c.open = true
	case 'T':
		c.open = true
	default:
		c.open = false
		c.w.told = append(c.w.told, c.told...)
		c.told = nil
	}
}

// rolledBack is for what ends a transaction without its effects.
func (c *client) rolledBack() { c.memory = c.saved.clone() }

// cut closes the connection. The server notices at once where the client is idle; a call that waits is ended by force.
func (c *client) cut() error {
	ctx := context.Background()
	c.w.stats.crashes++
	pid := c.pid
	if c.busy {
		if _, err := c.w.control.Exec(ctx, "select pg_terminate_backend($1)", int32(pid)); err != nil {
			return fmt.Errorf("terminate %s: %w", c.name, err)
		}
		<-c.done
		c.busy, c.stuck, c.waited = false, false, false
		c.w.trace[c.line].note("never answered")
	}
	if c.conn.TxStatus() != 'I' || c.open {
		c.rolledBack()
	}
	c.open = false
	_ = c.conn.Close(ctx)
	for deadline := time.Now().Add(30 * time.Second); ; {
		var gone bool
		if err := c.w.control.QueryRow(ctx, "select not exists (select from pg_stat_activity where pid = $1)", int32(pid)).Scan(&gone); err != nil {
			return fmt.Errorf("wait for the end of %s: %w", c.name, err)
		}
		if gone {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server never noticed that %s has gone", c.name)
		}
		<-time.After(time.Millisecond)
	}
	return c.connect()
}

func codeOf(err error) string {
	pg := new(pgconn.PgError)
	if errors.As(err, &pg) {
		return pg.Code
	}
	if err != nil {
		return "lost"
	}
	return ""
}

// line is one step of a trace.
type line struct {
	who, sql, said string
	code           string
}

func (l *line) note(text string) { l.said = strings.TrimPrefix(l.said+"; "+text, "; ") }

func (l *line) answer(a answer) {
	l.code = codeOf(a.err)
	if a.err != nil {
		text := a.err.Error()
		pg := new(pgconn.PgError)
		if errors.As(a.err, &pg) {
			text = pg.Code + " " + pg.Message
		}
		l.note(text)
		return
	}
	var rows []string
	for _, row := range a.rows {
		rows = append(rows, "("+strings.Join(row, ", ")+")")
	}
	l.note(strings.Join(rows, " "))
}

func (l line) String() string {
	said := l.said
	if said != "" {
		said = "   -- " + said
	}
	return fmt.Sprintf("%-4s %s%s", l.who, l.sql, said)
}
