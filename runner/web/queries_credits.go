package web

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/runner/jobs"
)

// The SQL of the pages of credits: one function a statement. Each finds by an index what it shows, or looks through a bounded number of rows and says
// so.

// ledgerState is what can be known of the ledger at no cost.
type ledgerState struct {
	Installed bool
	Readable  bool
	Used      bool
}

// stateOfLedger looks whether there is one, whether this login may read it, and whether it has an account.
func stateOfLedger(ctx context.Context, db jobs.DB) (s ledgerState, err error) {
	err = db.QueryRow(ctx, `select to_regclass('credits.accounts') is not null,
		coalesce(has_schema_privilege('credits', 'usage') and has_table_privilege(to_regclass('credits.accounts'), 'select') and has_table_privilege(to_regclass('credits.transactions'), 'select'), false)
		where to_regnamespace('credits') is not null`).Scan(&s.Installed, &s.Readable)
	if errors.Is(err, pgx.ErrNoRows) {
		return ledgerState{}, nil
	}
	if err == nil && s.Readable {
		err = db.QueryRow(ctx, `select exists (select from credits.accounts)`).Scan(&s.Used)
	}
	return s, failedTo("look at the ledger", err)
}

// ledgerAccount is a user's in the ledger.
type ledgerAccount struct {
	User      string
	Tier      string
	Balance   int64
	Held      int64 // by open holds that have not expired
	Available int64
	Booked    int64 // entries
	CreatedAt time.Time
}

// accountOf reads one by the user's id; nil: there is none.
func accountOf(ctx context.Context, db jobs.DB, user string) (*ledgerAccount, error) {
	var a ledgerAccount
	err := db.QueryRow(ctx, `select a.user_id::text, a.tier, b.balance, b.held, b.available, a.seq, a.created_at
		from credits.accounts as a cross join lateral credits.balance(a.user_id) as b where a.user_id = $1::text::uuid`, user).
		Scan(&a.User, &a.Tier, &a.Balance, &a.Held, &a.Available, &a.Booked, &a.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &a, failedTo("read the account", err)
}

// ledgerHold is credit set aside.
type ledgerHold struct {
	ID        int64     `json:"id"`
	User      string    `json:"user_id"`
	Amount    int64     `json:"amount"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Expired   bool      `json:"expired"`
	May       bool      `json:"may"` // this login release it
}

const holdColumns = `h.id, h.user_id, h.amount, h.created_at, h.expires_at, h.expires_at <= pgtick.now() as expired, has_function_privilege('credits.release(bigint, text)', 'execute') as may`

// openHolds are those of a user, of the first jobs.Window ones the n that expire next.
func openHolds(ctx context.Context, db jobs.DB, user string, n int) ([]ledgerHold, error) {
	return collectRows(ctx, db, "read the holds", fromJSON[ledgerHold], `select row_to_json(r)::text from (
			select `+holdColumns+` from (select x.* from credits.holds as x where x.user_id = $1::text::uuid and x.status = 'open' limit $3::int) as h
			order by h.expires_at, h.id limit $2::int) as r`, user, n, jobs.Window)
}

// overdueHolds are open ones of all users that have expired, the oldest n.
func overdueHolds(ctx context.Context, db jobs.DB, n int) ([]ledgerHold, error) {
	return collectRows(ctx, db, "read the expired holds", fromJSON[ledgerHold], `select row_to_json(r)::text from (
			select `+holdColumns+` from (select pgtick.now() as now offset 0) as n
			cross join lateral (select x.* from credits.holds as x where x.status = 'open' and x.expires_at <= n.now order by x.expires_at, x.id limit $1::int) as h
			order by h.expires_at, h.id) as r`, n)
}

// holdNow reads one; nil: there is none.
func holdNow(ctx context.Context, db jobs.DB, id int64) (h *ledgerHold, status string, err error) {
	h = &ledgerHold{ID: id}
	err = db.QueryRow(ctx, `select h.user_id::text, h.amount, h.expires_at, h.expires_at <= pgtick.now(), h.status from credits.holds as h where h.id = $1::bigint`, id).
		Scan(&h.User, &h.Amount, &h.ExpiresAt, &h.Expired, &status)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", nil
	}
	return h, status, failedTo("read the hold", err)
}

// releaseHold gives back what an open hold has set aside.
func releaseHold(ctx context.Context, db jobs.DB, id int64, why string) error {
	_, err := db.Exec(ctx, `select credits.release($1::bigint, $2::text)`, id, why)
	return failedTo("release the hold", err)
}

// ledgerEntry is a line of a statement.
type ledgerEntry struct {
	ID          int64      `json:"id"`
	Seq         int64      `json:"seq"` // 0: it is no part of the chain
	Type        string     `json:"type"`
	Status      string     `json:"status"`
	Amount      int64      `json:"amount"`
	HeldAmount  int64      `json:"held_amount"`
	Balance     int64      `json:"balance_after"`
	HeldAfter   int64      `json:"held_after"`
	HoldID      int64      `json:"hold_id"`
	RelatedID   int64      `json:"related_id"`
	Endpoint    string     `json:"endpoint"`
	Description string     `json:"description"`
	Reference   string     `json:"reference_id"`
	Notes       string     `json:"notes"`
	Redacted    bool       `json:"redacted"`
	CreatedAt   time.Time  `json:"created_at"`
	FinalAt     *time.Time `json:"final_at"`
}

const entryColumns = `t.id, coalesce(t.seq, 0) as seq, t.type, t.status, t.amount, t.held_amount, coalesce(t.balance_after, 0) as balance_after, coalesce(t.held_after, 0) as held_after,
	coalesce(t.hold_id, 0) as hold_id, coalesce(t.related_id, 0) as related_id, coalesce(t.endpoint, '') as endpoint, coalesce(t.description, '') as description,
	coalesce(t.reference_id, '') as reference_id, coalesce(t.notes, '') as notes, t.redacted_at is not null as redacted, t.created_at, t.final_at`

// statementPage are the newest n entries of a user's chain before one of them.
func statementPage(ctx context.Context, db jobs.DB, user string, before int64, n int) ([]ledgerEntry, error) {
	return collectRows(ctx, db, "read the statement", fromJSON[ledgerEntry], `select row_to_json(r)::text from (
			select `+entryColumns+` from credits.transactions as t where t.user_id = $1::text::uuid and t.seq < $2::bigint order by t.seq desc limit $3::int) as r`, user, before, n)
}

// unchained are a user's entries that are pending or have failed, n of them: those have no place in the chain.
func unchained(ctx context.Context, db jobs.DB, user string, n int) ([]ledgerEntry, error) {
	return collectRows(ctx, db, "read the pending entries", fromJSON[ledgerEntry], `select row_to_json(r)::text from (
			select `+entryColumns+` from (select x.* from credits.transactions as x where x.user_id = $1::text::uuid and x.seq is null limit $3::int) as t
			order by t.status desc, t.id desc limit $2::int) as r`, user, n, jobs.Window)
}

// ledgerTotals are sums over all accounts. They may be more than a bigint holds.
type ledgerTotals struct {
	Accounts int64
	Balance  string
	Held     string
	Pending  int64
}

// totalsOfLedger reads all accounts.
func totalsOfLedger(ctx context.Context, db jobs.DB) (t ledgerTotals, err error) {
	err = db.QueryRow(ctx, `select count(*), coalesce(sum(a.balance), 0)::text, coalesce(sum(a.held), 0)::text,
		(select count(*) from credits.transactions as t where t.status = 'PENDING') from credits.accounts as a`).Scan(&t.Accounts, &t.Balance, &t.Held, &t.Pending)
	return t, failedTo("add up the accounts", err)
}

// noteChecked writes down what came of verifying the ledger.
func noteChecked(ctx context.Context, db jobs.DB, action, details string) error {
	_, err := db.Exec(ctx, `select pgtick.note_action($1::text, 'credits', $2::text::jsonb)`, action, details)
	return failedTo("write down what was found", err)
}

// notedCheck is the last time that the ledger was verified from a dashboard; nil: never. It is looked for among the last thousand actions on it.
func notedCheck(ctx context.Context, db jobs.DB) (*ledgerCheck, error) {
	c := &ledgerCheck{Found: &ledgerFound{}}
	var details []byte
	err := db.QueryRow(ctx, `select a.at, a.by_whom, a.details::text
		from (select x.* from pgtick.audit as x where x.subject = 'credits' order by x.at desc limit 1000) as a where a.action = $1::text order by a.at desc limit 1`, checkedAction).
		Scan(&c.EndedAt, &c.By, &details)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, failedTo("read what was found", err)
	}
	return c, failedTo("read what was found", json.Unmarshal(details, c.Found))
}
