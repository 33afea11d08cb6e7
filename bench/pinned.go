package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const pinnedBatches = 10

// pinned is what share of its speed a side keeps after a while in which a transaction has held on to an old snapshot, so that nothing
// dead is removed: the last two batches, against the same ones without such a transaction.
func (b *bench) pinned(ctx context.Context, taken samples) error {
	c, err := b.contest(ctx)
	if err != nil {
		return err
	}
	for i := range b.size.runs {
		sides := []runner{c.ours}
		if i == 0 {
			sides = c.engines()[:min(3, len(c.engines()))] // the others once, and not pg-boss
		}
		err := inTurns(ctx, b, 1, sides, func(r runner) error {
			kept, err := b.keptPinned(ctx, r)
			taken.add("pinned_kept", r.name(), kept)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) keptPinned(ctx context.Context, r runner) (percent float64, err error) {
	free, err := b.batches(ctx, r)
	if err != nil {
		return 0, err
	}
	if err := r.clear(ctx); err != nil {
		return 0, err
	}
	release, err := b.pin(ctx)
	if err != nil {
		return 0, err
	}
	held, err := b.batches(ctx, r)
	release()
	if err != nil {
		return 0, err
	}
	tell(r, "pinned %5.0f to %5.0f jobs/s, free %5.0f to %5.0f jobs/s", held[0], lastTwo(held), free[0], lastTwo(free))
	return 100 * lastTwo(held) / lastTwo(free), nil
}

// lastTwo is the speed of the last two batches together.
func lastTwo(rates []float64) float64 {
	x, y := rates[len(rates)-2], rates[len(rates)-1]
	return 2 * x * y / (x + y)
}

// batches fills the store and drains it again and again, without cleaning up between.
func (b *bench) batches(ctx context.Context, r runner) (rates []float64, err error) {
	size := b.size.pinned / pinnedBatches
	for i := range pinnedBatches {
		if err := r.bulk(ctx, size); err != nil {
			return nil, err
		}
		if i == 0 {
			if err := r.settle(ctx); err != nil {
				return nil, err
			}
		}
		rate, err := workOff(ctx, r, size)
		if err != nil {
			return nil, fmt.Errorf("batch %d: %w", i+1, err)
		}
		rates = append(rates, rate)
	}
	return rates, nil
}

// pin holds a snapshot of the queue's database, and a transaction's number, until it is released. It reads no table of a queue: that would
// lock it.
func (b *bench) pin(ctx context.Context) (release func(), err error) {
	conn, err := pgx.ConnectConfig(ctx, b.sides.ours.pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, `begin isolation level repeatable read; select count(*) from pgtick.installed; create temporary table pinned ()`)
	return func() { conn.Close(ctx) }, err
}
