package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is where a job is enqueued: a transaction (pgx.Tx), so that job and data commit together or not at all, a connection or a pool.
type DB interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ErrBadValue says that a value was refused, and no job enqueued. The error names field, value and rule. Most are refused before the
// database is asked, so that a transaction may go on; one that the database itself has refused ends the transaction, as any error does.
var ErrBadValue = errors.New("a value was refused")

// Enqueue adds a job of a task and returns its id. args are what the task's type has, as JSON an object; nil is {}. Where it has a
// UniqueKey, the id may be that of the job that is there already.
func Enqueue(ctx context.Context, db DB, task string, args any, options ...Option) (id int64, err error) {
	return enqueue(ctx, db, task, args, collect(options))
}

// EnqueueMany adds a job for each element of args, all in one statement, and returns their ids in that order. Options go for each of them.
func EnqueueMany[A any](ctx context.Context, db DB, task string, args []A, options ...Option) (ids []int64, err error) {
	return enqueueMany(ctx, db, task, args, collect(options))
}

func collect(options []Option) *wish {
	w := new(wish)
	for _, option := range options {
		option.ofJob(w)
	}
	return w
}

func enqueue(ctx context.Context, db DB, task string, args any, w *wish) (id int64, err error) {
	text, err := argsText(args)
	if err == nil {
		err = w.settleOne(ctx, text)
	}
	if err == nil {
		id, err = callEnqueue(ctx, db, task, text, w.set)
	}
	return id, explain(task, err)
}

func enqueueMany[A any](ctx context.Context, db DB, task string, args []A, w *wish) (ids []int64, err error) {
	texts := make([]string, len(args))
	for i := range args {
		if texts[i], err = argsText(args[i]); err != nil {
			return nil, explain(task, fmt.Errorf("args of job %d: %w", i, err))
		}
	}
	err = w.settleMany(ctx, texts)
	if err == nil && len(texts) > 0 {
		ids, err = callEnqueueMany(ctx, db, task, texts, w.set)
	}
	return ids, explain(task, err)
}

// settleOne sets what depends on the job's args and its context.
func (w *wish) settleOne(ctx context.Context, args string) error {
	w.carryTrace(ctx)
	switch u := w.unique; {
	case u.key != nil:
		w.put("unique_key", asText, *u.key)
	case u.byArgs:
		key, err := digest(args)
		if err != nil {
			return err
		}
		w.put("unique_key", asText, key)
	case u.keys != nil:
		w.check(false, "unique_keys", u.keys, "that is for EnqueueMany; give UniqueKey")
	}
	return w.problem
}

// settleMany is settleOne for many jobs. The keys that are the same for all are said for each.
func (w *wish) settleMany(ctx context.Context, args []string) error {
	w.carryTrace(ctx)
	switch u := w.unique; {
	case u.keys != nil:
		w.check(len(u.keys) == len(args), "unique_keys", u.keys, fmt.Sprintf("one for each of the %d jobs", len(args)))
		w.put("unique_keys", asTexts, u.keys)
	case u.byArgs:
		keys := make([]string, len(args))
		for i := range args {
			var err error
			if keys[i], err = digest(args[i]); err != nil {
				return err
			}
		}
		w.put("unique_keys", asTexts, keys)
	case u.key != nil:
		w.check(false, "unique_key", *u.key, "it would let one job pass; give UniqueKeys, one for each, or UniqueByArgs")
	}
	w.repeat("limit_key", len(args))
	w.repeat("sequence_key", len(args))
	return w.problem
}

func (w *wish) repeat(name string, n int) {
	for i, p := range w.set {
		if key, is := p.value.(string); is && p.name == name {
			w.set[i] = parameter{name + "s", asTexts, slices.Repeat([]string{key}, n)}
		}
	}
}

func (w *wish) carryTrace(ctx context.Context) {
	carrier := w.trace
	if carrier == nil {
		carrier, _ = ctx.Value(carrierKey{}).(func(context.Context) map[string]string)
	}
	if carrier == nil {
		return
	}
	if fields := carrier(ctx); len(fields) > 0 {
		text, _ := json.Marshal(fields) // a map of strings: it cannot fail
		w.put("trace_context", asJSON, string(text))
	}
}

func argsText(args any) (string, error) {
	if args == nil {
		return "{}", nil
	}
	text, err := json.Marshal(args)
	if err != nil {
		return "", fmt.Errorf("%w: args of type %T are no JSON: %w", ErrBadValue, args, err)
	}
	if hasNUL(text) {
		return "", fmt.Errorf(`%w: args hold \u0000, which can be stored in no JSON of PostgreSQL: leave it out, or encode the text`, ErrBadValue)
	}
	return string(text), nil
}

// hasNUL looks for an escape of U+0000 that is none of a backslash. The database's own error names neither the field nor a remedy, and ends the transaction.
func hasNUL(text []byte) bool {
	for from := 0; ; {
		at := bytes.Index(text[from:], []byte(`\u0000`))
		if at < 0 {
			return false
		}
		before := bytes.TrimRight(text[:from+at], `\`)
		if (from+at-len(before))%2 == 0 {
			return true
		}
		from += at + 1
	}
}

func decodeNumbers(text string, into any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber() // a number of 20 digits stays what it is
	return d.Decode(into)
}

// explain says what was being done, and what helps: the database's hint does not show in its errors.
func explain(task string, err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &pg):
	case pg.Code == "TK000":
		err = fmt.Errorf("%w: %w (%s)", ErrBadValue, err, pg.Hint)
	case pg.Code == "42883" || pg.Code == "3F000": // no such function, no such schema
		err = fmt.Errorf("%w (this database's pgtick is missing, or older than this program: run pgtick migrate)", err)
	case pg.Hint != "":
		err = fmt.Errorf("%w (%s)", err, pg.Hint)
	}
	return fmt.Errorf("enqueue a job of task %q: %w", task, err)
}
