package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// contest is one database with the tables of all sides.
type contest struct {
	ours    *ours
	river   *riverPeer
	node    []*nodePeer // graphile-worker and pg-boss, or none where Node is missing
	inserts *inserts    // the bare side of enqueueing
}

// engines are the sides that are whole job runners.
func (c *contest) engines() []runner {
	all := []runner{c.ours, c.river}
	for _, n := range c.node {
		all = append(all, n)
	}
	return all
}

// peers are the same, where they only enqueue.
func (c *contest) peers() []peer {
	var all []peer
	for _, e := range c.engines() {
		all = append(all, e)
	}
	return all
}

func (b *bench) contest(ctx context.Context) (*contest, error) {
	if b.sides != nil {
		return b.sides, nil
	}
	s, err := b.store(ctx, "queue")
	if err != nil {
		return nil, err
	}
	c := &contest{ours: &ours{pool: s.pool}}
	if c.river, err = newRiver(ctx, s.pool); err != nil {
		return nil, fmt.Errorf("river: %w", err)
	}
	if c.inserts, err = newInserts(ctx, s.pool); err != nil {
		return nil, err
	}
	if c.node, err = nodePeers(ctx, s.pool); err != nil {
		return nil, err
	}
	b.sides = c
	return c, nil
}

func (c *contest) close() {
	for _, n := range c.node {
		n.close()
	}
}

// inTurn takes the sides in turn within each run, so that a change of the machine's speed meets all of them. What a side leaves behind
// is cleared, so that no vacuum of it meets the next.
func inTurn[P peer](ctx context.Context, b *bench, peers []P, measure func(P) error) error {
	return inTurns(ctx, b, b.size.runs, peers, measure)
}

func inTurns[P peer](ctx context.Context, b *bench, runs int, peers []P, measure func(P) error) error {
	for range runs {
		for _, p := range peers {
			if b.size.sides != nil && !b.size.sides.MatchString(p.name()) {
				continue
			}
			if err := errors.Join(measure(p), p.clear(ctx)); err != nil {
				return fmt.Errorf("%s: %w", p.name(), err)
			}
		}
	}
	return nil
}

func tell(p peer, format string, values ...any) {
	fmt.Fprintf(os.Stderr, "%-8s "+format+"\n", append([]any{p.name()}, values...)...)
}
