package main

import (
	"context"
	"fmt"
	"os"
)

// queue takes the sides in turn within each run, so that a change of the machine's speed meets all of them.
func (b *bench) queue(ctx context.Context, taken samples) error {
	pool, err := prepare(ctx, b.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer pool.Close()
	peers := []peer{&ours{pool: pool}, &riverPeer{pool: pool}, &bare{pool: pool}}
	for _, p := range peers {
		if err := p.setup(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
	}
	for n := range b.size.runs {
		for _, p := range peers {
			if err := b.queueOf(ctx, p, n+1, taken); err != nil {
				return fmt.Errorf("%s: %w", p.name(), err)
			}
		}
	}
	return nil
}

func (b *bench) queueOf(ctx context.Context, p peer, n int, taken samples) error {
	rate, err := drain(ctx, p, b.size.jobs)
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	taken.add("drain", p.name(), rate)
	fmt.Fprintf(os.Stderr, "run %d  %-8s drain %8.0f jobs/s\n", n, p.name(), rate)
	if !p.hasEngine() {
		return nil
	}
	p50, p99, err := latency(ctx, p, b.size.samples)
	if err != nil {
		return fmt.Errorf("latency: %w", err)
	}
	taken.add("latency_p50", p.name(), p50)
	taken.add("latency_p99", p.name(), p99)
	fmt.Fprintf(os.Stderr, "run %d  %-8s latency p50 %.2f ms, p99 %.2f ms\n", n, p.name(), p50, p99)
	return nil
}
