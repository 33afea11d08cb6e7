package credits_model_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// row is an entry as the database has it.
type row struct {
	ID, Seq                                int64
	User, Kind, Status                     string
	Amount, Held, BalanceAfter, HeldAfter  int64
	HoldID, RelatedID                      int64
	Created                                time.Time
	Final                                  *time.Time
	Period                                 string
	Endpoint, Key, Description, Ref, Notes *string
	Synced, Redacted                       bool
	Reason                                 string // of its hold
}

type place struct {
	user string
	seq  int64
}

type named struct{ user, key string }

// rows are the entries of the database, found as the model asks for them.
type rows struct {
	byID   map[int64]*row
	bySeq  map[place]*row
	byKey  map[named]*row
	opened map[string]*time.Time // accounts
	lastID int64
}

func newRows() *rows {
	return &rows{byID: map[int64]*row{}, bySeq: map[place]*row{}, byKey: map[named]*row{}}
}

const selectRows = `select t.id, coalesce(t.seq, 0), t.user_id::text, t.type, t.status, t.amount, t.held_amount, coalesce(t.balance_after, 0), coalesce(t.held_after, 0),
	coalesce(t.hold_id, 0), coalesce(t.related_id, 0), t.created_at, t.final_at, coalesce(t.period::text, ''), t.endpoint, t.idempotency_key, t.description,
	t.reference_id, t.notes, t.synced_to_supabase, t.redacted_at is not null, coalesce(h.reason, '')
	from credits.transactions as t left join credits.holds as h on h.id = t.hold_id where t.id > $1 or t.id = any ($2)`

// load reads the entries that are new, and those named.
func (r *rows) load(db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, changed []int64) error {
	found, err := db.Query(context.Background(), selectRows, r.lastID, changed)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(found, pgx.RowToAddrOfStructByPos[row])
	for _, x := range all {
		r.byID[x.ID] = x
		if x.Seq > 0 {
			r.bySeq[place{x.User, x.Seq}] = x
		}
		if x.Key != nil {
			r.byKey[named{x.User, *x.Key}] = x
		}
		r.lastID = max(r.lastID, x.ID)
	}
	return err
}

// find returns the database's row of an entry that the model books.
func (r *rows) find(e *entry) *row {
	switch {
	case e.seq > 0:
		return r.bySeq[place{e.user, e.seq}]
	case e.id > 0:
		return r.byID[e.id]
	}
	return r.byKey[named{e.user, *e.key}]
}

// name compares what an entry says when it is booked, and gives it the database's id.
func (r *rows) name(e *entry) error {
	x := r.find(e)
	if x == nil {
		return fmt.Errorf("the database has no %s of %d of user %s at %d", e.kind, e.amount, e.user, e.seq)
	}
	if e.id == 0 {
		e.id = x.ID
	}
	if e.hold != nil && e.hold.id == 0 {
		e.hold.id = x.HoldID
	}
	return e.compare(x, false)
}

func idOf(e *entry) int64 {
	if e == nil {
		return 0
	}
	return e.id
}

// compare says what is different, at the time of booking or, later, in the end.
func (e *entry) compare(x *row, end bool) error {
	c := &comparison{}
	different(c, "id", e.id, x.ID)
	different(c, "user", e.user, x.User)
	different(c, "type", e.kind, x.Kind)
	different(c, "amount", e.amount, x.Amount)
	different(c, "held_amount", e.held, x.Held)
	differentTime(c, "created_at", e.created, x.Created)
	different(c, "period", e.period, x.Period)
	differentText(c, "endpoint", e.endpoint, x.Endpoint)
	differentText(c, "key", e.key, x.Key)
	if e.hold != nil || x.HoldID != 0 {
		different(c, "hold_id", e.hold != nil && e.hold.id == x.HoldID, true)
	}
	if end || e.related == nil || e.related.id != 0 {
		different(c, "related_id", idOf(e.related), x.RelatedID)
	}
	if end || !x.Redacted {
		differentText(c, "description", e.description, x.Description)
		differentText(c, "reference_id", e.ref, x.Ref)
	}
	if end {
		different(c, "synced", e.synced, x.Synced)
		different(c, "redacted", e.redacted, x.Redacted)
	}
	if end || e.status != "PENDING" {
		different(c, "status", e.status, x.Status)
		different(c, "seq", e.seq, x.Seq)
		different(c, "balance_after", e.balanceAfter, x.BalanceAfter)
		different(c, "held_after", e.heldAfter, x.HeldAfter)
		if e.status != "PENDING" && x.Final != nil {
			differentTime(c, "final_at", e.final, *x.Final)
		}
		different(c, "final_at is null", e.status == "PENDING", x.Final == nil)
		if end || !x.Redacted {
			differentText(c, "notes", e.notes, x.Notes)
		}
	}
	if c.said != "" {
		return fmt.Errorf("transaction %d, a %s of user %s at %d:%s", x.ID, x.Kind, x.User, x.Seq, c.said)
	}
	return nil
}

type comparison struct{ said string }

func different[T comparable](c *comparison, field string, model, database T) {
	if model != database {
		c.said += fmt.Sprintf(" %s is %v, by the model %v;", field, database, model)
	}
}

func differentText(c *comparison, field string, model, database *string) {
	if (model == nil) != (database == nil) || model != nil && *model != *database {
		different(c, field, quoted(model), quoted(database))
	}
}

func differentTime(c *comparison, field string, model, database time.Time) {
	if !model.Equal(database) {
		different(c, field, stamp(model), stamp(database))
	}
}
