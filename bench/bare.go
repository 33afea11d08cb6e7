package main

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// bare is the runner's own claim and finish statements in a loop, without an engine: two connections, a thousand jobs at a time, at which
// the loop is fastest. As a runner does, each goes on in its lane from where it has been.
type bare struct{ *ours }

func (*bare) name() string { return "bare" }

const bareBatch = 1000

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
	at, id := time.Unix(0, 0), int64(0)
	for {
		var newIDs, newFences []int64
		err := b.pool.QueryRow(ctx, `select array_agg(id), array_agg(fence), coalesce(max(run_at), $3), coalesce(max(id), $4)
			from pgtick.claim_lanes($1, '{default}', '{noop}', $2, '{noop}', '{default}', '{5}', array[$3::timestamptz], array[$4::bigint])`,
			runner, bareBatch, at, id).Scan(&newIDs, &newFences, &at, &id)
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

// poolOf is another pool of so many connections to the same database.
func poolOf(ctx context.Context, like *pgxpool.Pool, connections int32) (*pgxpool.Pool, error) {
	cfg := like.Config()
	cfg.MaxConns = connections
	return pgxpool.NewWithConfig(ctx, cfg)
}

func itoa(n int) string { return strconv.Itoa(n) }
