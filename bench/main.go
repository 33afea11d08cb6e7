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
	"regexp"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
)

// sizes are what a run can be made shorter by. The names of the figures stay, so the figures of a shorter run compare with no other's.
type sizes struct {
	runs      int
	jobs      int
	samples   int
	schedules int
	backlog   int
	seconds   int
	outage    int
}

// bench is one run: a server, and on it a database for each group of figures.
type bench struct {
	server *localpg.Server
	size   sizes
	crowd  *crowd // once a figure has asked for it
}

// part measures figures that share what is dear to set up.
type part struct {
	group   string
	figures []spec
	measure func(context.Context, samples) error
}

type spec struct{ name, unit string }

func (b *bench) parts() []part {
	return []part{
		{"queue", []spec{{"drain", "jobs/s"}, {"latency_p50", "ms"}, {"latency_p99", "ms"}}, b.queue},
		{"schedules", []spec{{"next_slot", "µs"}, {"next_slot_slowest", "µs"}, {"next_slot_shift_day", "µs"}, {"next_slot_worst", "µs"}}, b.nextSlot},
		{"schedules", []spec{{"slot_lateness_p50", "ms"}, {"slot_lateness_p99", "ms"}, {"job_start_p99", "ms"}}, b.lateness},
		{"schedules", []spec{{"slot_lateness_busy_p99", "ms"}}, b.busyLateness},
		{"schedules", []spec{{"schedule_create", "schedules/s"}}, b.create},
		{"schedules", []spec{{"tick_none_100k", "ms"}}, b.tickNone},
		{"schedules", []spec{{"tick_1000", "ms"}}, b.tickThousand},
		{"schedules", []spec{{"tick_100k", "s"}, {"tick_100k_two_callers", "s"}, {"tick_100k_longest_chunk", "ms"}, {"tick_100k_claims", "jobs/s"},
			{"tick_100k_by_runner", "s"}, {"tick_100k_by_runner_claims", "jobs/s"}}, b.tickAll},
		{"schedules", []spec{{"outage_40d_10k", "s"}, {"outage_40d_10k_rows", "rows"}}, b.outage},
		{"schedules", []spec{{"forecast_day_100", "ms"}, {"forecast_day_1000", "ms"}, {"unaccounted_30d_100", "ms"}, {"unaccounted_30d_1000", "ms"}}, b.calendar},
	}
}

func main() {
	var size sizes
	var only string
	flag.IntVar(&size.runs, "runs", 3, "runs of each figure; the median counts")
	flag.IntVar(&size.jobs, "jobs", 50000, "jobs in a drain")
	flag.IntVar(&size.samples, "samples", 500, "jobs enqueued one by one for the latency")
	flag.IntVar(&size.schedules, "schedules", 100000, "schedules of the tick_… figures, at least 1000; pgtick.schedule makes a tenth of them")
	flag.IntVar(&size.backlog, "backlog", 200000, "jobs that wait when all schedules become due at once")
	flag.IntVar(&size.seconds, "seconds", 100, "how long the lateness of slots is watched")
	flag.IntVar(&size.outage, "outage", 10000, "schedules that an outage of 40 days meets")
	flag.StringVar(&only, "only", "", "measure only `figures` whose name, or whose group's (queue, schedules), this regular expression matches")
	flag.Parse()
	if err := run(context.Background(), size, only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, size sizes, only string) error {
	b := &bench{size: size}
	wanted, err := b.wanted(only)
	if err != nil {
		return err
	}
	b.server, err = localpg.Start(ctx, localpg.Options{Durable: true, Settings: map[string]string{"shared_buffers": "1GB", "max_wal_size": "4GB", "max_connections": "200"}})
	if err != nil {
		return err
	}
	defer func() { _ = b.server.Close() }()
	taken := samples{}
	for _, p := range wanted {
		if err := p.measure(ctx, taken); err != nil {
			return fmt.Errorf("%s: %w", p.figures[0].name, err)
		}
		for _, s := range p.figures {
			taken.tell(s)
		}
	}
	return write(wanted, taken)
}

func (b *bench) wanted(only string) ([]part, error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	wanted := slices.DeleteFunc(b.parts(), func(p part) bool {
		return !pattern.MatchString(p.group) && !slices.ContainsFunc(p.figures, func(s spec) bool { return pattern.MatchString(s.name) })
	})
	if len(wanted) == 0 {
		return nil, fmt.Errorf("no figure and no group of figures matches %q", only)
	}
	return wanted, nil
}

// prepare migrates a database. The sessions are named as a runner's are: that is how tick() knows which clock calls.
func prepare(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	if _, err := migrations.Up(ctx, cfg.ConnConfig, migrations.Options{}); err != nil {
		return nil, err
	}
	cfg.MaxConns = 20
	cfg.ConnConfig.RuntimeParams["application_name"] = "pgtick-bench"
	return pgxpool.NewWithConfig(ctx, cfg)
}

// samples are the measured values, by figure and side: pgtick, river, bare. Of each the median counts.
type samples map[string]map[string][]float64

func (s samples) add(name, side string, value float64) {
	if s[name] == nil {
		s[name] = map[string][]float64{}
	}
	s[name][side] = append(s[name][side], value)
}

func (s samples) median(name, side string) float64 {
	values := slices.Sorted(slices.Values(s[name][side]))
	if len(values) == 0 {
		return 0
	}
	return values[len(values)/2]
}

// tell shows, while others are still to come, how far apart the values of a figure lie.
func (s samples) tell(f spec) {
	for _, side := range []string{"pgtick", "river", "bare"} {
		if values := s[f.name][side]; len(values) > 0 {
			fmt.Fprintf(os.Stderr, "%-26s %-7s %10.2f %s, from %.2f to %.2f in %d\n",
				f.name, side, s.median(f.name, side), f.unit, slices.Min(values), slices.Max(values), len(values))
		}
	}
}

// figure is one row of the result: the median of each side, and its unit.
type figure struct {
	PgTick float64 `json:"pgtick"`
	River  float64 `json:"river,omitempty"`
	Bare   float64 `json:"bare,omitempty"`
	Unit   string  `json:"unit"`
}

func write(parts []part, taken samples) error {
	figures := map[string]figure{}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "figure\tpgtick\triver\tbare\tunit\t")
	for _, p := range parts {
		for _, s := range p.figures {
			f := figure{PgTick: taken.median(s.name, "pgtick"), River: taken.median(s.name, "river"), Bare: taken.median(s.name, "bare"), Unit: s.unit}
			figures[s.name] = f
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t\n", s.name, shown(f.PgTick), shown(f.River), shown(f.Bare), f.Unit)
		}
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

func shown(value float64) string {
	if value == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", value)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// quantiles of latencies in milliseconds.
func quantiles(took []time.Duration) (p50, p99 float64) {
	slices.Sort(took)
	at := func(q float64) float64 {
		return milliseconds(took[min(len(took)-1, int(q*float64(len(took))))])
	}
	return at(0.50), at(0.99)
}
