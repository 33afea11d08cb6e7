package credits_model_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// chunks are the four tasks' functions: what of their answers is compared.
var chunks = map[string]string{
	"cleanup_chunk":  "select concat_ws(' ', coalesce(todo, -1), coalesce(last_id, -1), seen, busy, released, credits) from credits.cleanup_chunk(%[1]s, %[2]s, %[4]d)",
	"allocate_chunk": "select concat_ws(' ', coalesce(todo, -1), coalesce(last_user::text, '-'), seen, busy, allocated, credits, overflowing, period) from credits.allocate_chunk(%[5]s, %[3]s, %[4]d)",
	"resolve_chunk":  "select concat_ws(' ', coalesce(todo, -1), coalesce(last_id, -1), seen, busy, committed, reverted, failed, credits_added, credits_deducted) from credits.resolve_chunk(%[1]s, %[2]s, %[4]d)",
	"sync_chunk":     "select concat_ws(' ', coalesce(todo, -1), coalesce(last_id, -1), synced, credits_added, credits_deducted) from credits.sync_chunk(%[2]s, %[4]d)",
}

var calls = map[string]string{
	"open_account": "credits.open_account($2, $3)",
	"set_tier":     "credits.set_tier($2, $3)",
	"grant":        "credits.grant($2, $3, $4, $5, $6)",
	"adjust":       "credits.adjust($2, $3, $5, $4, $6)",
	"charge":       "credits.charge($2, $3, $4, $5, $6, $7)",
	"hold":         "credits.hold($2, $3, $4, $5, $6, $7)",
	"capture":      "credits.capture($2, $3, $4)",
	"release":      "credits.release($2, $3)",
	"extend":       "to_char(credits.extend($2, $3) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
	"submit":       "credits.submit($2, $3, $4, $5, $6, $7)",
	"resolve":      "credits.resolve($2, $3, $4)",
	"refund":       "credits.refund($2, $3, $4, $5, $6)",
	"transfer":     "credits.transfer($2, $3, $4, $5, $6, $7)",
	"redact":       "credits.redact($2)",
	"allocate":     "credits.allocate($2)",
	"charge_many": `(select json_agg(json_build_object('outcome', m.outcome, 'id', m.transaction_id, 'code', m.code, 'message', m.message) order by m.place)
		from credits.charge_many($2, $3, $4, $5, $6, $7) as m)`,
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func literal[T any](value *T, format func(T) string) string {
	if value == nil {
		return "null"
	}
	return "'" + format(*value) + "'"
}

// statement is the call, with the turn it came in, in one statement: the turn is taken when the call is over.
func (o *operation) statement() (string, []any) {
	const around = `with done as materialized (select (%s)::text as answer)
		insert into model.calls (turn, attempt, answer, last_id)
		select nextval('model.turn'), $1, coalesce(d.answer, ''), currval('credits.transactions_id_seq') from done as d returning answer`
	if query, ok := chunks[o.kind]; ok {
		query = fmt.Sprintf(query, literal(o.afterAt, stamp), literal(o.afterID, func(n int64) string { return fmt.Sprint(n) }),
			literal(orNull(o.afterUser), text), o.limit, literal(orNull(o.period), text))
		return fmt.Sprintf(around, "model.chunk($2)"), []any{query}
	}
	return fmt.Sprintf(around, calls[o.kind]), o.arguments()
}

func text(s string) string { return s }

func (o *operation) arguments() []any {
	switch o.kind {
	case "open_account", "set_tier":
		return []any{orNull(o.user), orNull(o.tier)}
	case "grant", "adjust":
		return []any{orNull(o.user), o.amount, o.key, o.description, o.ref}
	case "charge":
		return []any{orNull(o.user), o.amount, o.key, o.endpoint, o.description, o.ref}
	case "hold":
		return []any{orNull(o.user), o.amount, o.expiresIn, o.key, o.description, o.ref}
	case "capture":
		return []any{o.hold, o.amount, o.description}
	case "release":
		return []any{o.hold, o.description}
	case "extend":
		return []any{o.hold, o.expiresIn}
	case "submit":
		return []any{orNull(o.user), orNull(o.entryType), o.amount, o.key, o.description, o.ref}
	case "resolve":
		return []any{o.transaction, o.commit, o.description}
	case "refund":
		return []any{o.transaction, o.key, o.amount, o.description, o.ref}
	case "transfer":
		return []any{orNull(o.user), orNull(o.to), o.amount, o.key, o.description, o.ref}
	case "redact":
		return []any{o.transaction}
	case "allocate":
		return []any{orNull(o.user)}
	}
	return o.columns()
}

// columns are the arrays of charge_many.
func (o *operation) columns() []any {
	n := len(o.rows)
	users, keys, endpoints, descriptions, refs := make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n)
	amounts := make([]*int64, n)
	hasEndpoint, hasText := false, false
	for i, row := range o.rows {
		users[i], amounts[i], keys[i], endpoints[i], descriptions[i], refs[i] = orNull(row.user), row.amount, row.key, row.endpoint, row.description, row.ref
		hasEndpoint = hasEndpoint || row.endpoint != nil
		hasText = hasText || row.description != nil || row.ref != nil
	}
	arguments := []any{users, amounts, keys, nil, nil, nil}
	if hasEndpoint {
		arguments[3] = endpoints
	}
	if hasText {
		arguments[4], arguments[5] = descriptions, refs
	}
	return arguments
}

// answered is a row of charge_many's answer.
type answered struct {
	Outcome, Code, Message string
	ID                     int64
}

func parseRows(answer string) (rows []answered, err error) {
	err = json.Unmarshal([]byte(answer), &rows)
	return rows, err
}

// answer is what a call said: text, or why it was refused, or err where it said nothing.
type answer struct {
	text string
	out  outcome // of a refusal
	err  error   // anything but a refusal of the ledger's own
}

type executor interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// call does the operation. attempt is the number under which its turn is written down.
func call(db executor, attempt int64, o *operation) (a answer) {
	statement, arguments := o.statement()
	err := db.QueryRow(context.Background(), statement, append([]any{attempt}, arguments...)...).Scan(&a.text)
	if err == nil {
		return a
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code[:2] != "TK" {
		return answer{err: err}
	}
	a.out.code = pg.Code
	switch {
	case pg.Hint == "":
		a.err = fmt.Errorf("no hint: %w", err)
	case pg.Code == "TK101":
		var detail struct{ Needed, Available int64 }
		if json.Unmarshal([]byte(pg.Detail), &detail) != nil || pg.Message != tooFew(detail.Needed, detail.Available) {
			a.err = fmt.Errorf("detail %s: %w", pg.Detail, err)
		}
		a.out.needed, a.out.available = detail.Needed, detail.Available
	}
	return a
}

func sqlState(err error) string {
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// lostAnswer is that of a connection that is no more, whatever became of the call.
func lostAnswer(err error) bool {
	code := sqlState(err)
	return err != nil && (code == "" || code == "57P01")
}

func ptr[T any](value T) *T { return &value }
