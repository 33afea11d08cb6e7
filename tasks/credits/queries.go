package credits

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// All SQL of this package stands here, one function a statement. Sums beyond bigint are shown as the largest one, so that a report can
// never fail a chunk.

// position is where a chunk in the order of a time and an id ended; zero is the start.
type position struct {
	At *time.Time `json:"at,omitempty"`
	ID *int64     `json:"id,omitempty"`
}

// chunk is what every chunk tells. Todo is set by a pass's first chunk only, and Seen 0 says that there is no more.
type chunk struct {
	Todo *int64
	Seen int64
	Busy int64
}

type released struct {
	chunk
	Next     position
	Released int64
	Credits  int64
}

func cleanupChunk(ctx context.Context, tx pgx.Tx, after position, size int) (c released, err error) {
	err = tx.QueryRow(ctx, `select c.todo, c.last_at, c.last_id, c.seen, c.busy, c.released, least(c.credits, 9223372036854775807)::bigint
		from credits.cleanup_chunk($1, $2, $3) as c`, after.At, after.ID, size).
		Scan(&c.Todo, &c.Next.At, &c.Next.ID, &c.Seen, &c.Busy, &c.Released, &c.Credits)
	return c, err
}

type allocated struct {
	chunk
	Period      time.Time
	Last        *string
	Allocated   int64
	Credits     int64
	Overflowing int64
}

// allocateChunk takes the month as 2006-01-02; nil is the present one by the database's clock.
func allocateChunk(ctx context.Context, tx pgx.Tx, period, after *string, size int) (c allocated, err error) {
	err = tx.QueryRow(ctx, `select c.period, c.todo, c.last_user::text, c.seen, c.busy, c.allocated, least(c.credits, 9223372036854775807)::bigint,
		c.overflowing from credits.allocate_chunk($1::text::date, $2::text::uuid, $3) as c`, period, after, size).
		Scan(&c.Period, &c.Todo, &c.Last, &c.Seen, &c.Busy, &c.Allocated, &c.Credits, &c.Overflowing)
	return c, err
}

type resolved struct {
	chunk
	Next      position
	Committed int64
	Reverted  int64
	Failed    int64
	Added     int64
	Deducted  int64
}

func resolveChunk(ctx context.Context, tx pgx.Tx, after position, size int) (c resolved, err error) {
	err = tx.QueryRow(ctx, `select c.todo, c.last_at, c.last_id, c.seen, c.busy, c.committed, c.reverted, c.failed,
		least(c.credits_added, 9223372036854775807)::bigint, least(c.credits_deducted, 9223372036854775807)::bigint
		from credits.resolve_chunk($1, $2, $3) as c`, after.At, after.ID, size).
		Scan(&c.Todo, &c.Next.At, &c.Next.ID, &c.Seen, &c.Busy, &c.Committed, &c.Reverted, &c.Failed, &c.Added, &c.Deducted)
	return c, err
}

// handed is what a chunk of the sync did. The counts are those of entries that the target did not have before, as far as it tells.
type handed struct {
	chunk
	Last     *int64
	Synced   int64
	Refused  int64
	Added    int64
	Deducted int64
}

func syncChunk(ctx context.Context, tx pgx.Tx, after *int64, size int) (c handed, err error) {
	err = tx.QueryRow(ctx, `select c.todo, c.last_id, c.synced, c.synced, least(c.credits_added, 9223372036854775807)::bigint,
		least(c.credits_deducted, 9223372036854775807)::bigint from credits.sync_chunk($1, $2) as c`, after, size).
		Scan(&c.Todo, &c.Last, &c.Seen, &c.Synced, &c.Added, &c.Deducted)
	return c, err
}

func unsyncedCount(ctx context.Context, tx pgx.Tx) (n int64, err error) {
	err = tx.QueryRow(ctx, `select credits.unsynced_count()`).Scan(&n)
	return n, err
}

// usageColumns are those of analytics.credit_usage as u, as entry.scan takes them.
const usageColumns = `u.transaction_id, u.user_id::text, u.type, u.amount, u.held_amount, u.balance_after, u.endpoint, to_char(u.period, 'YYYY-MM-DD'),
	u.created_at, u.completed_at, u.synced_at`

func unsyncedChunk(ctx context.Context, tx pgx.Tx, after *int64, size int) ([]entry, error) {
	return entriesOf(tx.Query(ctx, `select `+usageColumns+` from credits.unsynced_chunk($1, $2) as u`, after, size))
}

// markSynced tells which of them were not marked before.
func markSynced(ctx context.Context, tx pgx.Tx, ids []int64) ([]int64, error) {
	rows, err := tx.Query(ctx, `select credits.mark_synced($1)`, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

func setAside(ctx context.Context, tx pgx.Tx, id int64, target, reason string) error {
	_, err := tx.Exec(ctx, `select credits.set_aside($1, $2, $3)`, id, target, reason)
	return err
}

// insertUsage writes entries, as JSON, into the target's table, and tells which were not there. One that is there already stays as it is,
// or becomes what the ledger says.
func insertUsage(ctx context.Context, conn *pgx.Conn, entries string) ([]int64, error) {
	rows, err := conn.Query(ctx, `
		insert into analytics.credit_usage as u (transaction_id, user_id, type, amount, held_amount, balance_after, endpoint, period, created_at, completed_at, synced_at)
		select e.transaction_id, e.user_id, e.type, e.amount, e.held_amount, e.balance_after, e.endpoint, e.period, e.created_at, e.completed_at, e.synced_at
		from json_to_recordset($1::text::json) as e(transaction_id bigint, user_id uuid, type text, amount bigint, held_amount bigint, balance_after bigint,
			endpoint text, period date, created_at timestamptz, completed_at timestamptz, synced_at timestamptz)
		on conflict (transaction_id) do update
		set user_id = excluded.user_id, type = excluded.type, amount = excluded.amount, held_amount = excluded.held_amount, balance_after = excluded.balance_after,
			endpoint = excluded.endpoint, period = excluded.period, created_at = excluded.created_at, completed_at = excluded.completed_at, synced_at = excluded.synced_at
		where (u.user_id, u.type, u.amount, u.held_amount, u.balance_after, u.endpoint, u.period, u.created_at, u.completed_at) is distinct from
			(excluded.user_id, excluded.type, excluded.amount, excluded.held_amount, excluded.balance_after, excluded.endpoint, excluded.period, excluded.created_at,
			excluded.completed_at)
		returning case when u.xmax = 0 then u.transaction_id end`, entries)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[*int64])
	inserted := make([]int64, 0, len(ids))
	for _, id := range ids {
		if id != nil {
			inserted = append(inserted, *id)
		}
	}
	return inserted, err
}

// total is what a range of ids adds up to. Two sides with the same total have the same entries there; print is the sum of a digest of
// each entry.
type total struct {
	Rows          int64
	Amount, Print string
}

// usageTotal adds up analytics.credit_usage above after, to upto where that is not nil.
func usageTotal(ctx context.Context, conn *pgx.Conn, after int64, upto *int64) (t total, err error) {
	err = conn.QueryRow(ctx, `select count(*), coalesce(sum(u.amount), 0)::text,
			coalesce(sum(`+digest("u.transaction_id, u.user_id, u.type, u.amount, u.held_amount, u.balance_after, u.endpoint", "u.period", "u.created_at", "u.completed_at")+`), 0)::text
		from analytics.credit_usage as u where u.transaction_id > $1 and u.transaction_id <= coalesce($2, 9223372036854775807)`, after, upto).
		Scan(&t.Rows, &t.Amount, &t.Print)
	return t, err
}

// digest is the same on every version of Postgres, whatever the session's settings.
func digest(columns, date, created, completed string) string {
	micros := func(column string) string { return "(extract(epoch from " + column + ") * 1000000)::bigint" }
	return "('x' || left(md5(row(" + columns + ", " + date + " - date '1970-01-01', " + micros(created) + ", " + micros(completed) + ")::text), 15))::bit(60)::bigint"
}

func usageRange(ctx context.Context, conn *pgx.Conn, after int64, upto *int64, limit int) ([]entry, error) {
	return entriesOf(conn.Query(ctx, `select `+usageColumns+` from analytics.credit_usage as u
		where u.transaction_id > $1 and u.transaction_id <= coalesce($2, 9223372036854775807) order by u.transaction_id limit $3`, after, upto, limit))
}

func entryCount(ctx context.Context, conn *pgx.Conn) (n int64, err error) {
	err = conn.QueryRow(ctx, `select count(*) from credits.transactions`).Scan(&n)
	return n, err
}

// nextRange is the range of so many entries above an id: its last id, nil for the end, and how many they are.
func nextRange(ctx context.Context, conn *pgx.Conn, after int64, size int) (upto *int64, rows int64, err error) {
	err = conn.QueryRow(ctx, `select case when count(*) = $2::bigint then max(r.id) end, count(*)
		from (select t.id from credits.transactions as t where t.id > $1 order by t.id limit $2::bigint) as r`, after, size).Scan(&upto, &rows)
	return upto, rows, err
}

// ledgerTotal adds up the entries of a range that are marked as synced, and counts those that wait to be.
func ledgerTotal(ctx context.Context, conn *pgx.Conn, after int64, upto *int64) (t total, waiting int64, err error) {
	err = conn.QueryRow(ctx, `select count(*) filter (where t.synced_to_supabase), coalesce(sum(t.amount) filter (where t.synced_to_supabase), 0)::text,
			coalesce(sum(`+digest("t.id, t.user_id, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint", "t.period", "t.created_at", "t.final_at")+`)
				filter (where t.synced_to_supabase), 0)::text,
			count(*) filter (where not t.synced_to_supabase
				and not exists (select from credits.sync_refusals as r where r.transaction_id = t.id and r.retried_at is null))
		from credits.transactions as t where t.id > $1 and t.id <= coalesce($2, 9223372036854775807) and t.status = 'COMPLETED'`, after, upto).
		Scan(&t.Rows, &t.Amount, &t.Print, &waiting)
	return t, waiting, err
}

// ledgerColumns are usageColumns of the ledger, and the mark.
const ledgerColumns = `t.id, t.user_id::text, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint, to_char(t.period, 'YYYY-MM-DD'), t.created_at, t.final_at,
	coalesce(t.synced_at, t.final_at), t.synced_to_supabase`

func ledgerRange(ctx context.Context, conn *pgx.Conn, after int64, upto *int64) ([]entry, error) {
	return entriesOf(conn.Query(ctx, `select `+ledgerColumns+` from credits.transactions as t
		where t.id > $1 and t.id <= coalesce($2, 9223372036854775807) and t.status = 'COMPLETED' order by t.id`, after, upto))
}

func ledgerEntries(ctx context.Context, conn *pgx.Conn, ids []int64) ([]entry, error) {
	return entriesOf(conn.Query(ctx, `select `+ledgerColumns+` from credits.transactions as t where t.id = any ($1) and t.status = 'COMPLETED' order by t.id`, ids))
}

func entriesOf(rows pgx.Rows, err error) ([]entry, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e entry, err error) {
		fields := []any{&e.TransactionID, &e.UserID, &e.Type, &e.Amount, &e.HeldAmount, &e.BalanceAfter, &e.Endpoint, &e.Period, &e.CreatedAt, &e.CompletedAt, &e.SyncedAt}
		if len(row.FieldDescriptions()) > len(fields) {
			fields = append(fields, &e.marked)
		}
		return e, row.Scan(fields...)
	})
}

func setAsideNow(ctx context.Context, conn *pgx.Conn) ([]Difference, error) {
	rows, err := conn.Query(ctx, `select '`+SetAside+`', r.transaction_id, t.user_id::text, format('%s: %s (refused %s times, last at %s)', r.target, r.reason, r.attempts,
			to_char(r.refused_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'))
		from credits.sync_refusals as r left join credits.transactions as t on t.id = r.transaction_id where r.retried_at is null order by r.transaction_id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Difference])
}

// forReports makes a transaction fit for credits.violations: its expressions are many and cheap, so that compiling them takes longer than
// they do, and the sessions are parallel already.
func forReports(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `select set_config('jit', 'off', true), set_config('work_mem', '64MB', true), set_config('max_parallel_workers_per_gather', '0', true)`)
	return err
}

// cuts divides the users into ranges of about so many entries: the last user of each but the last, in order, and how many accounts
// there are.
func cuts(ctx context.Context, conn *pgx.Conn, size int) (users []pgtype.UUID, accounts int64, err error) {
	err = conn.QueryRow(ctx, `
		select coalesce(array_agg(c.user_id order by c.user_id) filter (where c.is_cut), '{}'), count(*)
		from (
			select r.user_id, lead(r.part) over (order by r.user_id) > r.part as is_cut
			from (select a.user_id, div(sum(a.seq) over (order by a.user_id), $1::bigint) as part from credits.accounts as a) as r
		) as c`, size).Scan(&users, &accounts)
	return users, accounts, err
}

func countBetween(ctx context.Context, tx pgx.Tx, first, last pgtype.UUID) (n int64, err error) {
	err = tx.QueryRow(ctx, `select count(*) from credits.transactions as t where t.user_id between $1::uuid and $2::uuid`, first, last).Scan(&n)
	return n, err
}

func violationsBetween(ctx context.Context, tx pgx.Tx, first, last pgtype.UUID) ([]Violation, error) {
	rows, err := tx.Query(ctx, `select v.kind, v.user_id::text, v.transaction_id, v.hold_id, v.detail from credits.violations as v
		where v.user_id between $1::uuid and $2::uuid`, first, last)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Violation])
}

// BalanceOf asks for a user's credits.
func BalanceOf(ctx context.Context, tx pgx.Tx, user pgtype.UUID) (b Balance, err error) {
	err = tx.QueryRow(ctx, `select $1::uuid::text, b.balance, b.held, b.available from credits.balance($1::uuid) as b`, user).
		Scan(&b.UserID, &b.Balance, &b.Held, &b.Available)
	return b, err
}

// Balance is a user's credits.
type Balance struct {
	UserID    string `json:"user_id"`
	Balance   int64  `json:"balance"`
	Held      int64  `json:"held"`
	Available int64  `json:"available"`
}

// Line is an entry of a statement: its row as JSON, and what a person reads of it.
type Line struct {
	JSON          json.RawMessage
	Seq           int64
	At            time.Time
	Type          string
	Amount        int64
	HeldAmount    int64
	Balance       int64
	Held          int64
	TransactionID int64
	Endpoint      string
	Description   string
	ReferenceID   string
}

// StatementOf gives a user's completed entries to f, from a moment on and before another, in the order of booking; nil is without a bound.
func StatementOf(ctx context.Context, tx pgx.Tx, user pgtype.UUID, from, to *time.Time, f func(Line) error) error {
	rows, err := tx.Query(ctx, `select row_to_json(s)::text, s.seq, s.at, s.type, s.amount, s.held_amount, s.balance, s.held, s.transaction_id,
			coalesce(s.endpoint, ''), coalesce(s.description, ''), coalesce(s.reference_id, '')
		from credits.statement($1::uuid, $2, $3) as s order by s.seq`, user, from, to)
	if err != nil {
		return err
	}
	var l Line
	var text string
	_, err = pgx.ForEachRow(rows, []any{&text, &l.Seq, &l.At, &l.Type, &l.Amount, &l.HeldAmount, &l.Balance, &l.Held, &l.TransactionID, &l.Endpoint, &l.Description,
		&l.ReferenceID}, func() error {
		l.JSON = json.RawMessage(text)
		return f(l)
	})
	return err
}
