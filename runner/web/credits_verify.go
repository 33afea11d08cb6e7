package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/runner/jobs"
)

// VerifyLedger works all invariants of a ledger out anew. progress hears how many entries are done, of how many. It comes with the options, as
// this package knows no family of tasks.
type VerifyLedger func(ctx context.Context, conn *pgx.Conn, progress func(done, all int64)) (entries int64, broken []Violation, err error)

// Violation is what breaks an invariant of the ledger: an entry, a hold, or an account as a whole.
type Violation struct {
	Kind   string
	User   string
	Entry  int64 // 0: it is about none
	Hold   int64
	Detail string
}

// To verify the ledger reads all of it, range by range of users, which takes seconds and more: never for a page. Somebody asks for it, it runs
// on a connection of its own, and pages show how far it is and what came of it. What came of it is also a row of pgtick.audit, so that it is
// there for other runners and after a restart.

// ledgerCheck is what was found the last time, or how far it is.
type ledgerCheck struct {
	Running   bool
	StartedAt time.Time
	Done      int64 // entries
	All       int64
	Share     float64

	EndedAt    *time.Time
	By         string
	Found      *ledgerFound
	Violations []Violation // the first of them, where this process looked
	Problem    string
}

// ledgerFound is what the row of pgtick.audit has.
type ledgerFound struct {
	Entries    int64  `json:"entries"`
	Accounts   int64  `json:"accounts"`
	Balance    string `json:"balance"`
	Held       string `json:"held"`
	Pending    int64  `json:"pending"`
	Violations int    `json:"violations"`
	Took       int64  `json:"took_ms"`
}

// Lasted is how long it took.
func (f ledgerFound) Lasted() string { return lasting(time.Duration(f.Took) * time.Millisecond) }

const (
	violationsShown = 100
	checkTimeout    = 30 * time.Minute
	checkedAction   = "credits/verified"
)

// ledgerChecks is the one that runs, or the last one.
type ledgerChecks struct {
	mu   sync.Mutex
	last ledgerCheck
}

func (l *ledgerChecks) state() ledgerCheck {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *ledgerChecks) change(f func(*ledgerCheck)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.last)
}

// begin is false where one runs already.
func (l *ledgerChecks) begin(by string) (begun bool) {
	l.change(func(c *ledgerCheck) {
		if begun = !c.Running; begun {
			*c = ledgerCheck{Running: true, StartedAt: time.Now(), By: by}
		}
	})
	return begun
}

// lastCheck is the one of this process, unless another one has ended later.
func lastCheck(ctx context.Context, v *view) (ledgerCheck, error) {
	own := v.database.ledger.state()
	if own.Running {
		return own, nil
	}
	noted, err := notedCheck(ctx, v.DB)
	if err != nil || noted == nil || own.EndedAt != nil && !noted.EndedAt.After(own.EndedAt.Add(time.Second)) {
		return own, err
	}
	return *noted, nil
}

// verifyLedger begins; one runs at a time.
func verifyLedger(_ context.Context, d *doing) (string, error) {
	if d.database.options.Verify == nil {
		return "", refuse("ledger", "This dashboard can't verify the ledger: pgtick credits verify does.")
	}
	d.Note("credits", nil)
	if !d.database.ledger.begin(d.Person.recorded()) {
		return "The ledger is being verified already.", nil
	}
	go d.database.verifyLedger(d.Person) //nolint:gosec // it outlives the request, and ends with the dashboard
	return "The ledger is being verified; what comes of it is shown here.", nil
}

func (d *database) verifyLedger(who person) {
	ctx, end := context.WithTimeout(context.Background(), checkTimeout)
	defer end()
	go func() {
		select {
		case <-d.live.closed:
			end()
		case <-ctx.Done():
		}
	}()
	started := time.Now()
	found, violations, err := d.checkLedger(ctx)
	found.Took = time.Since(started).Milliseconds()
	if err == nil {
		err = d.noteCheck(ctx, who, found)
	}
	now := time.Now()
	d.ledger.change(func(c *ledgerCheck) {
		c.Running, c.EndedAt, c.Found, c.Violations = false, &now, &found, violations[:min(len(violations), violationsShown)]
		if err != nil {
			c.Found, c.Problem = nil, problemOf(err).Message
		}
	})
	d.forget()
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		d.options.Log.WithError(err).Warn("the ledger could not be verified")
	}
}

func (d *database) checkLedger(ctx context.Context) (f ledgerFound, violations []Violation, err error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return f, nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	totals, err := totalsOfLedger(ctx, conn)
	if err != nil {
		return f, nil, err
	}
	entries, violations, err := d.options.Verify(ctx, conn, func(done, all int64) {
		d.ledger.change(func(c *ledgerCheck) {
			if c.Done, c.All = done, all; all > 0 {
				c.Share = float64(done) / float64(all)
			}
		})
	})
	return ledgerFound{Entries: entries, Accounts: totals.Accounts, Balance: totals.Balance, Held: totals.Held, Pending: totals.Pending, Violations: len(violations)}, violations, err
}

// connect makes a connection beside the pool, which pages need meanwhile.
func (d *database) connect(ctx context.Context) (*pgx.Conn, error) {
	if d.Before != nil {
		if err := d.Before(); err != nil {
			return nil, err
		}
	}
	config := d.Config.Copy()
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.StatementCacheCapacity, config.DescriptionCacheCapacity = 0, 0
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

func (d *database) noteCheck(ctx context.Context, who person, f ledgerFound) error {
	details, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return d.write(ctx, who, func(ctx context.Context, db jobs.DB) error {
		return noteChecked(ctx, db, checkedAction, string(details))
	})
}
