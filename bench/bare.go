package main

import (
	"context"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
)

// bare is the same claim and finish statements in a loop, without an engine: two connections, 500 jobs at a time.
type bare struct{ pool *pgxpool.Pool }

func (*bare) name() string                              { return "bare" }
func (*bare) hasEngine() bool                           { return false }
func (*bare) setup(context.Context) error               { return nil }
func (b *bare) fill(ctx context.Context, n int) error   { return (&ours{pool: b.pool}).fill(ctx, n) }
func (b *bare) enqueue(context.Context, int64) error    { return nil }
func (b *bare) empty(ctx context.Context) (bool, error) { return (&ours{pool: b.pool}).empty(ctx) }
func (b *bare) work(ctx context.Context, c *counter) (func(), error) {
	var group sync.WaitGroup
	for range 2 {
		var runner int64
		if err := b.pool.QueryRow(ctx, `select pgtick.register('bare', '{default}', '{noop}')`).Scan(&runner); err != nil {
			return nil, err
		}
		group.Go(func() { b.drain(ctx, runner, c) })
	}
	return group.Wait, nil
}

// drain claims and finishes until nothing is left. A finish passes over a row that the other loop's claim happens to have locked, and
// says so: it is sent again with the next batch.
func (b *bare) drain(ctx context.Context, runner int64, c *counter) {
	var ids, fences []int64
	for {
		var newIDs, newFences []int64
		err := b.pool.QueryRow(ctx, `select array_agg(id), array_agg(fence) from pgtick.claim($1, '{default}', '{noop}', 500)`, runner).Scan(&newIDs, &newFences)
		if err != nil {
			return
		}
		for range newIDs {
			c.started(0)
		}
		ids, fences = append(ids, newIDs...), append(fences, newFences...)
		if len(ids) == 0 {
			return
		}
		err = b.pool.QueryRow(ctx, `select array_agg(f.job_id) filter (where f.accepted is null), array_agg(x.fence) filter (where f.accepted is null)
			from pgtick.finish($1, $2, $3, array_fill('done'::text, array[cardinality($2::bigint[])])) with ordinality as f(job_id, accepted, place)
			join unnest($3::bigint[]) with ordinality as x(fence, place) using (place)`, runner, ids, fences).Scan(&ids, &fences)
		if err != nil {
			return
		}
	}
}

func exec(ctx context.Context, pool *pgxpool.Pool, statements ...string) error {
	for _, s := range statements {
		if _, err := pool.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func itoa(n int) string { return strconv.Itoa(n) }
