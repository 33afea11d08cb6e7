package credits

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/tasks"
)

// Target is where completed entries are handed over: Local, Postgres or REST. It has each entry exactly once, whatever is killed: an entry
// is marked as synced only after the target has confirmed it, and one that is sent again is there already.
type Target interface {
	// String names the target, without its secrets.
	String() string
	// open begins one run of the task.
	open(ctx context.Context) (session, error)
	// read looks at what the target has; here is a session with the ledger's database.
	read(ctx context.Context, here *pgx.Conn) (reader, error)
}

// session hands over chunks.
type session interface {
	// chunk hands over at most size entries above an id, nil for the start, and marks those that the target has confirmed.
	chunk(ctx context.Context, in transaction, after *int64, size int) (handed, error)
	close()
}

// reader reads the target's side.
type reader interface {
	// total adds up the entries above an id, to upto where that is not nil; false where the target can't.
	total(ctx context.Context, after int64, upto *int64) (total, bool, error)
	// page returns some of these entries by id, at least one where there is one.
	page(ctx context.Context, after int64, upto *int64) ([]entry, error)
	close()
}

// entry is a row of analytics.credit_usage, in a target or on its way there.
type entry struct {
	TransactionID int64     `json:"transaction_id"`
	UserID        string    `json:"user_id"`
	Type          string    `json:"type"`
	Amount        int64     `json:"amount"`
	HeldAmount    int64     `json:"held_amount"`
	BalanceAfter  int64     `json:"balance_after"`
	Endpoint      *string   `json:"endpoint"`
	Period        *string   `json:"period"`
	CreatedAt     time.Time `json:"created_at"`
	CompletedAt   time.Time `json:"completed_at"`
	SyncedAt      time.Time `json:"synced_at"`
	marked        bool      // of an entry of the ledger
}

// Local is analytics.credit_usage in the ledger's own database: copy and mark are one statement.
func Local() Target { return local{} }

type local struct{}

func (local) String() string                        { return "analytics.credit_usage in this database" }
func (local) open(context.Context) (session, error) { return local{}, nil }
func (local) close()                                {}

func (local) chunk(ctx context.Context, in transaction, after *int64, size int) (handed, error) {
	return inOne(ctx, in, func(tx pgx.Tx) (handed, error) { return syncChunk(ctx, tx, after, size) })
}

func (local) read(_ context.Context, here *pgx.Conn) (reader, error) { return table{conn: here}, nil }

// sink takes entries, outside of the ledger's database.
type sink interface {
	// send makes the target have these entries, all or none. It tells which are new there; nil where the target does not tell. Its error
	// is a refusal where it is about the entries themselves.
	send(ctx context.Context, entries []entry) (inserted []int64, err error)
	close()
}

// refusal is a target's word that something is wrong with an entry, or with one of several.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

// refuse makes a refusal whose reason can be stored: without what text in the database can't hold, and not endless.
func refuse(reason string) error {
	runes := []rune(strings.ReplaceAll(strings.ToValidUTF8(reason, "?"), "\x00", "?"))
	return &refusal{string(runes[:min(len(runes), 2000)])}
}

// targetFault is an error that another attempt would only meet again: somebody has to change the target, or the settings.
func targetFault(target, format string, args ...any) error {
	return tasks.Permanent(fmt.Errorf("sync target %s %w", target, fmt.Errorf(format, args...)))
}

// mostRefused: a target that refuses so many entries of a chunk and takes none does not mean the entries.
const mostRefused = 100

// remote hands over to a sink. No transaction is open while the sink is asked.
type remote struct {
	name string
	sink
}

func (r remote) chunk(ctx context.Context, in transaction, after *int64, size int) (c handed, err error) {
	var entries []entry
	err = in(ctx, func(tx pgx.Tx) (err error) {
		if after == nil {
			todo, err := unsyncedCount(ctx, tx)
			if err != nil {
				return err
			}
			c.Todo = &todo
		}
		entries, err = unsyncedChunk(ctx, tx, after, size)
		return err
	})
	if err != nil || len(entries) == 0 {
		return c, err
	}
	c.Seen, c.Last = int64(len(entries)), &entries[len(entries)-1].TransactionID
	d := delivery{remote: r}
	if err := d.deliver(ctx, entries); err != nil {
		return c, err
	}
	err = in(ctx, func(tx pgx.Tx) error { return d.settle(ctx, tx, &c) })
	return c, err
}

// delivery is one chunk on its way.
type delivery struct {
	remote
	taken    []entry
	inserted []int64
	told     bool // the target tells which are new
	refused  []refusedEntry
}

type refusedEntry struct {
	id     int64
	reason string
}

// deliver sends entries; where the target refuses them, their halves, down to the ones that it means.
func (d *delivery) deliver(ctx context.Context, entries []entry) error {
	inserted, err := d.send(ctx, entries)
	var no *refusal
	switch {
	case err == nil:
		d.taken = append(d.taken, entries...)
		d.inserted, d.told = append(d.inserted, inserted...), inserted != nil
		return nil
	case !errors.As(err, &no):
		return err
	case len(entries) == 1:
		d.refused = append(d.refused, refusedEntry{entries[0].TransactionID, no.reason})
		if len(d.refused) == mostRefused && len(d.taken) == 0 {
			return targetFault(d.name, "has refused %d entries and taken none, so that none is set aside; of transaction %d it says: %w",
				len(d.refused), d.refused[0].id, errors.New(d.refused[0].reason))
		}
		return nil
	}
	half := len(entries) / 2
	if err := d.deliver(ctx, entries[:half]); err != nil {
		return err
	}
	return d.deliver(ctx, entries[half:])
}

// settle writes down what the target has said.
func (d *delivery) settle(ctx context.Context, tx pgx.Tx, c *handed) error {
	ids := make([]int64, len(d.taken))
	for i, e := range d.taken {
		ids[i] = e.TransactionID
	}
	counted, err := markSynced(ctx, tx, ids)
	if err != nil {
		return err
	}
	if d.told {
		counted = d.inserted
	}
	d.count(counted, c)
	for _, r := range d.refused {
		if err := setAside(ctx, tx, r.id, d.name, r.reason); err != nil {
			return err
		}
	}
	c.Refused = int64(len(d.refused))
	return nil
}

func (d *delivery) count(ids []int64, c *handed) {
	counts := make(map[int64]bool, len(ids))
	for _, id := range ids {
		counts[id] = true
	}
	c.Synced, c.Added, c.Deducted = int64(len(ids)), 0, 0
	for _, e := range d.taken {
		switch {
		case !counts[e.TransactionID]:
		case e.Amount > 0:
			c.Added = plus(c.Added, e.Amount)
		default:
			c.Deducted = plus(c.Deducted, -e.Amount)
		}
	}
}

// plus adds numbers that are not negative; what is too large for the sum shows as the largest one.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
