package credits

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Kinds of difference between the ledger and the target of the sync.
const (
	Missing   = "missing"   // marked as synced, but the target does not have it
	Unknown   = "unknown"   // the target has it, but the ledger has no such completed entry
	Different = "different" // both have it, with other values
	SetAside  = "set_aside" // the target has refused it
)

// Difference is one entry on which the ledger and the target do not agree.
type Difference struct {
	Kind          string  `json:"kind"`
	TransactionID int64   `json:"transaction_id"`
	UserID        *string `json:"user_id"`
	Detail        string  `json:"detail"`
}

// Reconciled is what a comparison has found.
type Reconciled struct {
	Entries     int64 // of the ledger, in whatever state
	Waiting     int64 // completed and neither synced nor set aside: the next run hands them over
	Differences int64
}

// reconcileRows is how many entries of the ledger are compared at a time. Where both sides add up to the same, no entry is read.
const reconcileRows = 5000

// Reconcile compares the ledger behind conn with the target, range by range of transaction ids, and gives each difference to report, in
// the order of ids within a range. progress hears how many entries are done, of how many. It may run while entries are booked and synced.
func Reconcile(ctx context.Context, conn *pgx.Conn, target Target, progress func(done, all int64), report func(Difference) error) (r Reconciled, err error) {
	there, err := target.read(ctx, conn)
	if err != nil {
		return r, err
	}
	defer there.close()
	all, err := entryCount(ctx, conn)
	if err != nil {
		return r, err
	}
	c := comparison{ctx: ctx, conn: conn, there: there}
	if err := c.setAside(); err != nil {
		return r, err
	}
	tell := func() error {
		r.Differences += int64(len(c.found))
		for _, d := range c.found {
			if err := report(d); err != nil {
				return err
			}
		}
		c.found = nil
		return nil
	}
	if err := tell(); err != nil {
		return r, err
	}
	for after := int64(0); ; {
		upto, rows, err := nextRange(ctx, conn, after, reconcileRows)
		if err != nil {
			return r, err
		}
		if err := c.compare(after, upto); err != nil {
			return r, err
		}
		if err := tell(); err != nil {
			return r, err
		}
		r.Entries += rows
		progress(r.Entries, max(all, r.Entries))
		if upto == nil {
			r.Waiting = c.waiting
			return r, nil
		}
		after = *upto
	}
}

// comparison is of one range at a time.
type comparison struct {
	ctx     context.Context
	conn    *pgx.Conn
	there   reader
	waiting int64
	found   []Difference
}

func (c *comparison) setAside() (err error) {
	c.found, err = setAsideNow(c.ctx, c.conn)
	return err
}

// compare adds both sides up first. The ledger is always read before the target: what it had marked by then, the target had.
func (c *comparison) compare(after int64, upto *int64) error {
	ours, waiting, err := ledgerTotal(c.ctx, c.conn, after, upto)
	if err != nil {
		return err
	}
	c.waiting += waiting
	theirs, told, err := c.there.total(c.ctx, after, upto)
	if err != nil || told && ours == theirs {
		return err
	}
	return c.compareEntries(after, upto)
}

func (c *comparison) compareEntries(after int64, upto *int64) error {
	entries, err := ledgerRange(c.ctx, c.conn, after, upto)
	if err != nil {
		return err
	}
	ours := make(map[int64]entry, len(entries))
	for _, e := range entries {
		ours[e.TransactionID] = e
	}
	for {
		page, err := c.there.page(c.ctx, after, upto)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		last := page[len(page)-1].TransactionID
		if last <= after {
			return fmt.Errorf("the target gives its entries out of order: %d after %d", last, after)
		}
		after = last
		if err := c.comparePage(ours, page); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if _, left := ours[e.TransactionID]; left && e.marked {
			c.add(Missing, e, fmt.Sprintf("marked as synced at %s, but not at the target", e.SyncedAt.UTC().Format("2006-01-02 15:04:05")))
		}
	}
	slices.SortStableFunc(c.found, func(a, b Difference) int { return cmp.Compare(a.TransactionID, b.TransactionID) })
	return nil
}

// comparePage takes what the target has out of ours. What the ledger seemed not to have may have been completed since.
func (c *comparison) comparePage(ours map[int64]entry, page []entry) error {
	var strange []int64
	for _, e := range page {
		if own, ok := ours[e.TransactionID]; ok {
			c.compareEntry(own, e)
			delete(ours, e.TransactionID)
			continue
		}
		strange = append(strange, e.TransactionID)
	}
	if len(strange) == 0 {
		return nil
	}
	since, err := ledgerEntries(c.ctx, c.conn, strange)
	if err != nil {
		return err
	}
	late := make(map[int64]entry, len(since))
	for _, e := range since {
		late[e.TransactionID] = e
	}
	for _, e := range page {
		if !slices.Contains(strange, e.TransactionID) {
			continue
		}
		if own, ok := late[e.TransactionID]; ok {
			c.compareEntry(own, e)
			continue
		}
		c.add(Unknown, e, fmt.Sprintf("at the target as %s of %d, but not completed in the ledger", e.Type, e.Amount))
	}
	return nil
}

func (c *comparison) compareEntry(ours, theirs entry) {
	var differs []string
	for _, f := range []struct{ name, ours, theirs string }{
		{"user_id", ours.UserID, theirs.UserID},
		{"type", ours.Type, theirs.Type},
		{"amount", fmt.Sprint(ours.Amount), fmt.Sprint(theirs.Amount)},
		{"held_amount", fmt.Sprint(ours.HeldAmount), fmt.Sprint(theirs.HeldAmount)},
		{"balance_after", fmt.Sprint(ours.BalanceAfter), fmt.Sprint(theirs.BalanceAfter)},
		{"endpoint", orNull(ours.Endpoint), orNull(theirs.Endpoint)},
		{"period", orNull(ours.Period), orNull(theirs.Period)},
		{"created_at", micros(ours.CreatedAt), micros(theirs.CreatedAt)},
		{"completed_at", micros(ours.CompletedAt), micros(theirs.CompletedAt)},
	} {
		if f.ours != f.theirs {
			differs = append(differs, fmt.Sprintf("%s %s, at the target %s", f.name, f.ours, f.theirs))
		}
	}
	if len(differs) > 0 {
		c.add(Different, ours, strings.Join(differs, "; "))
	}
}

func (c *comparison) add(kind string, e entry, detail string) {
	c.found = append(c.found, Difference{kind, e.TransactionID, &e.UserID, detail})
}

func orNull(s *string) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", *s)
}

func micros(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
