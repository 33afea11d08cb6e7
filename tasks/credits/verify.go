package credits

import (
	"cmp"
	"context"
	"slices"
	gosync "sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Violation is a row of credits.violations.
type Violation struct {
	Kind          string  `json:"kind"`
	UserID        *string `json:"user_id"`
	TransactionID *int64  `json:"transaction_id"`
	HoldID        *int64  `json:"hold_id"`
	Detail        *string `json:"detail"`
}

// Verified is what Verify has looked at.
type Verified struct {
	Entries  int64
	Accounts int64
}

// verifyRows is how many entries a session looks at between two reports of its progress, about.
const verifyRows = 50000

// Verify works all invariants of the ledger out anew, by credits.violations, range by range of users, in as many sessions as there are
// connections. progress hears how many entries are done, of how many. What it found comes in the order of users and entries.
func Verify(ctx context.Context, conns []*pgx.Conn, progress func(done, all int64)) ([]Violation, Verified, error) {
	all, err := entryCount(ctx, conns[0])
	if err != nil {
		return nil, Verified{}, err
	}
	users, accounts, err := cuts(ctx, conns[0], verifyRows)
	if err != nil {
		return nil, Verified{}, err
	}
	v := verification{all: all, progress: progress, ranges: make(chan span)}
	err = v.run(ctx, conns, spans(users))
	slices.SortStableFunc(v.found, inOrder)
	return v.found, Verified{v.done, accounts}, err
}

// span is a range of users, both included.
type span struct{ first, last pgtype.UUID }

// spans are all users there can be, cut after these: what has no account is looked at, too.
func spans(cuts []pgtype.UUID) (all []span) {
	first := pgtype.UUID{Valid: true}
	for _, last := range cuts {
		all = append(all, span{first, last})
		first = successor(last)
	}
	end := pgtype.UUID{Valid: true}
	for i := range end.Bytes {
		end.Bytes[i] = 0xff
	}
	return append(all, span{first, end})
}

func successor(user pgtype.UUID) pgtype.UUID {
	for i := len(user.Bytes) - 1; i >= 0; i-- {
		if user.Bytes[i]++; user.Bytes[i] != 0 {
			break
		}
	}
	return user
}

type verification struct {
	all      int64
	progress func(done, all int64)
	ranges   chan span

	mu    gosync.Mutex
	done  int64
	found []Violation
}

func (v *verification) run(ctx context.Context, conns []*pgx.Conn, spans []span) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var sessions gosync.WaitGroup
	for _, conn := range conns {
		sessions.Go(func() {
			for s := range v.ranges {
				if err := v.look(ctx, conn, s); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	for _, s := range spans {
		select {
		case v.ranges <- s:
		case <-ctx.Done():
		}
	}
	close(v.ranges)
	sessions.Wait()
	return context.Cause(ctx)
}

func (v *verification) look(ctx context.Context, conn *pgx.Conn, s span) error {
	var found []Violation
	var entries int64
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
		if err = forReports(ctx, tx); err != nil {
			return err
		}
		if found, err = violationsBetween(ctx, tx, s.first, s.last); err != nil {
			return err
		}
		entries, err = countBetween(ctx, tx, s.first, s.last)
		return err
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.found = append(v.found, found...)
	v.done += entries
	v.progress(v.done, max(v.all, v.done))
	return nil
}

func inOrder(a, b Violation) int {
	return cmp.Or(cmp.Compare(deref(a.UserID), deref(b.UserID)), cmp.Compare(deref(a.TransactionID), deref(b.TransactionID)),
		cmp.Compare(deref(a.HoldID), deref(b.HoldID)), cmp.Compare(a.Kind, b.Kind))
}

// deref gives the zero value for nil.
func deref[V any](p *V) (value V) {
	if p != nil {
		value = *p
	}
	return value
}
