// Command bench measures pgtick beside River and the bare SQL, on one private PostgreSQL in one run, and writes out/latest.json.
// Every figure is of the whole system: runner, producer and server share this machine's cores.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
)

// figure is one row of the result: the median of each side, and its unit.
type figure struct {
	PgTick float64 `json:"pgtick"`
	River  float64 `json:"river,omitempty"`
	Bare   float64 `json:"bare,omitempty"`
	Unit   string  `json:"unit"`
}

// sizes are what a run can be made shorter by.
type sizes struct {
	runs    int
	jobs    int
	samples int
}

func main() {
	var size sizes
	flag.IntVar(&size.runs, "runs", 3, "runs of each figure; the median counts")
	flag.IntVar(&size.jobs, "jobs", 50000, "jobs in a drain")
	flag.IntVar(&size.samples, "samples", 500, "jobs enqueued one by one for the latency")
	flag.Parse()
	if err := run(context.Background(), size); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, size sizes) error {
	server, err := localpg.Start(ctx, localpg.Options{Durable: true, Settings: map[string]string{"shared_buffers": "1GB", "max_wal_size": "4GB", "max_connections": "200"}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	pool, err := prepare(ctx, server.URL("postgres"))
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
	figures, err := measure(ctx, peers, size)
	if err != nil {
		return err
	}
	return write(figures)
}

func prepare(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	if _, err := migrations.Up(ctx, cfg.ConnConfig, migrations.Options{}); err != nil {
		return nil, err
	}
	cfg.MaxConns = 20
	return pgxpool.NewWithConfig(ctx, cfg)
}

// measure takes the sides in turn within each run, so that a change of the machine's speed meets all of them.
func measure(ctx context.Context, peers []peer, size sizes) (map[string]figure, error) {
	drains, fifties, ninetynines := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for n := range size.runs {
		for _, p := range peers {
			rate, err := drain(ctx, p, size.jobs)
			if err != nil {
				return nil, fmt.Errorf("%s: drain: %w", p.name(), err)
			}
			drains[p.name()] = append(drains[p.name()], rate)
			fmt.Fprintf(os.Stderr, "run %d  %-8s drain %8.0f jobs/s\n", n+1, p.name(), rate)
			if !p.hasEngine() {
				continue
			}
			p50, p99, err := latency(ctx, p, size.samples)
			if err != nil {
				return nil, fmt.Errorf("%s: latency: %w", p.name(), err)
			}
			fifties[p.name()] = append(fifties[p.name()], p50)
			ninetynines[p.name()] = append(ninetynines[p.name()], p99)
			fmt.Fprintf(os.Stderr, "run %d  %-8s latency p50 %.2f ms, p99 %.2f ms\n", n+1, p.name(), p50, p99)
		}
	}
	return map[string]figure{
		"drain":       medians(drains, "jobs/s"),
		"latency_p50": medians(fifties, "ms"),
		"latency_p99": medians(ninetynines, "ms"),
	}, nil
}

func medians(by map[string][]float64, unit string) figure {
	median := func(name string) float64 {
		values := slices.Sorted(slices.Values(by[name]))
		if len(values) == 0 {
			return 0
		}
		return values[len(values)/2]
	}
	return figure{PgTick: median("pgtick"), River: median("river"), Bare: median("bare"), Unit: unit}
}

func write(figures map[string]figure) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "figure\tpgtick\triver\tbare\tunit\t")
	for _, name := range []string{"drain", "latency_p50", "latency_p99"} {
		f := figures[name]
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t%s\t\n", name, f.PgTick, f.River, f.Bare, f.Unit)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join("out", "latest.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// quantiles of latencies in milliseconds.
func quantiles(took []time.Duration) (p50, p99 float64) {
	slices.Sort(took)
	at := func(q float64) float64 {
		return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
	}
	return at(0.50), at(0.99)
}
