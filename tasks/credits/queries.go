package credits

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// All SQL of this package stands here: one function a statement, each a call of one chunk. Sums beyond bigint are shown as the
// largest one, so that a report can never fail a chunk.

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

type synced struct {
	chunk
	Last     *int64
	Added    int64
	Deducted int64
}

func syncChunk(ctx context.Context, tx pgx.Tx, after *int64, size int) (c synced, err error) {
	err = tx.QueryRow(ctx, `select c.todo, c.last_id, c.synced, least(c.credits_added, 9223372036854775807)::bigint,
		least(c.credits_deducted, 9223372036854775807)::bigint from credits.sync_chunk($1, $2) as c`, after, size).
		Scan(&c.Todo, &c.Last, &c.Seen, &c.Added, &c.Deducted)
	return c, err
}
