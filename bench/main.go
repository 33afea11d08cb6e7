// Command bench measures pgtick beside River, graphile-worker, pg-boss and the bare SQL, on one private PostgreSQL in one run, and writes
// out/latest.json.
// Every figure is of the whole system: runner, producer and server share this machine's cores.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
)

// sizes are what a run can be made shorter by. The names of the figures stay, so the figures of a shorter run compare with no other's.
type sizes struct {
	runs      int
	jobs      int
	txJobs    int
	enqueue   int // seconds
	sustained int // seconds
	samples   int
	pinned    int
	keptRuns  int
	history   int
	waiting   int
	idle      int // seconds
	memory    int
	shared    int
	schedules int
	backlog   int
	seconds   int
	outage    int
	charges   int // seconds
	accounts  int
	perRow    int
	limits    int            // seconds
	sides     *regexp.Regexp // whom to measure; nil: all
}

// bench is one run: a server, and on it a database for each group of figures.
type bench struct {
	server *localpg.Server
	size   sizes
	crowd  *crowd   // once a figure has asked for it
	sides  *contest // likewise
	bin    string   // the programs that were built, or empty
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
		{"queue", []spec{{"drain", "jobs/s"}}, b.drain},
		{"queue", []spec{{"drain_tx", "jobs/s"}}, b.drainTx},
		{"queue", []spec{{"enqueue", "jobs/s"}}, b.enqueue},
		{"queue", []spec{{"enqueue_sleeping", "jobs/s"}, {"enqueue_notifications", "notifications"}}, b.enqueueSleeping},
		{"queue", []spec{{"enqueue_bulk", "jobs/s"}}, b.enqueueBulk},
		{"queue", []spec{{"latency_p50", "ms"}, {"latency_p99", "ms"}}, b.latency},
		{"queue", []spec{{"sustained", "jobs/s"}, {"sustained_p99", "ms"}, {"sustained_backlog", "jobs"}}, b.sustained},
		{"queue", []spec{{"delayed_p50", "ms"}, {"delayed_p99", "ms"}}, b.delayed},
		{"queue", []spec{{"retried_p99", "ms"}}, b.retried},
		{"queue", []spec{{"unblocked_after_p50", "ms"}, {"unblocked_after_p99", "ms"}, {"unblocked_sequence_p50", "ms"}, {"unblocked_sequence_p99", "ms"},
			{"unblocked_limit_p50", "ms"}, {"unblocked_limit_p99", "ms"}}, b.unblocked},
		{"queue_kept", []spec{{"pinned_kept", "%"}}, b.pinned},
		{"queue_kept", []spec{{"pinned_restarts_kept", "%"}}, b.pinnedRestarts},
		{"queue_kept", []spec{{"history_kept", "%"}}, b.keptHistory},
		{"queue_kept", []spec{{"future_kept", "%"}}, b.keptFuture},
		{"queue_kept", []spec{{"unserved_kept", "%"}}, b.keptUnserved},
		{"queue_kept", []spec{{"backlog_kept", "%"}}, b.keptBacklog},
		{"queue_runners", []spec{{"idle_statements", "statements/s"}, {"idle_cpu", "%"}}, b.idle},
		{"queue_runners", []spec{{"rss", "MiB"}}, b.memory},
		{"queue_runners", []spec{{"runners_total_1", "jobs/s"}, {"runners_total_2", "jobs/s"}, {"runners_total_4", "jobs/s"}, {"runners_total_8", "jobs/s"},
			{"runners_share_worst", "%"}}, b.runners},
		{"limits", []spec{{"limited_rate", "%"}, {"limited_waiting_cpu", "%"}}, b.limited},
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
		{"credits", []spec{{"charge", "charges/s"}, {"charge_hot", "charges/s"}, {"hold_capture", "pairs/s"}}, b.charges},
		{"credits", []spec{{"charge_many", "charges/s"}, {"charge_many_two", "charges/s"}}, b.chargeMany},
		{"credits", []spec{{"allocate", "rows/s"}, {"allocate_longest_chunk", "ms"}, {"sync", "rows/s"}, {"sync_longest_chunk", "ms"}, {"release", "rows/s"},
			{"release_longest_chunk", "ms"}, {"pending", "rows/s"}, {"pending_longest_chunk", "ms"}}, b.ledgerTasks},
		{"credits", []spec{{"tasks_rss", "MiB"}}, b.tasksMemory},
		{"credits", []spec{{"verify", "s"}}, b.verify},
		{"limits", []spec{{"limiter_decisions", "decisions/s"}, {"limiter_p99", "ms"}}, b.limiter},
		{"limits", []spec{{"limiter_accuracy", "% off"}}, b.accuracy},
	}
}

func main() {
	debug.SetGCPercent(200) // as pgtick work does
	if len(os.Args) > 1 && other[os.Args[1]] != nil {
		end(other[os.Args[1]](os.Args[2:]))
		return
	}
	var size sizes
	var only string
	flag.IntVar(&size.runs, "runs", 3, "runs of each figure; the median counts")
	flag.IntVar(&size.jobs, "jobs", 50000, "jobs in a drain")
	flag.IntVar(&size.txJobs, "tx-jobs", 10000, "jobs in a drain whose tasks have a transaction each")
	flag.IntVar(&size.enqueue, "enqueue", 5, "seconds of enqueueing flat out, without a runner")
	flag.IntVar(&size.sustained, "sustained", 10, "seconds of enqueueing flat out, with a runner")
	flag.IntVar(&size.samples, "samples", 500, "jobs enqueued one by one for the latency")
	flag.IntVar(&size.pinned, "pinned", 200000, "jobs drained in ten batches while a transaction stays open")
	flag.IntVar(&size.keptRuns, "kept-runs", 5, "runs of the figures whose names end in _kept")
	flag.IntVar(&size.history, "history", 5000000, "finished jobs of history_kept")
	flag.IntVar(&size.waiting, "waiting", 1000000, "jobs of future_kept and unserved_kept that no runner takes, and of backlog_kept's backlog")
	flag.IntVar(&size.idle, "idle", 30, "seconds of watching an idle runner")
	flag.IntVar(&size.memory, "memory-jobs", 1000000, "jobs of rss")
	flag.IntVar(&size.shared, "shared-jobs", 400000, "jobs that several runners drain together")
	flag.IntVar(&size.schedules, "schedules", 100000, "schedules of the tick_… figures, at least 1000; pgtick.schedule makes a tenth of them")
	flag.IntVar(&size.backlog, "backlog", 200000, "jobs that wait when all schedules become due at once")
	flag.IntVar(&size.seconds, "seconds", 100, "how long the lateness of slots is watched")
	flag.IntVar(&size.outage, "outage", 10000, "schedules that an outage of 40 days meets")
	flag.IntVar(&size.charges, "charges", 5, "seconds of charging flat out")
	flag.IntVar(&size.accounts, "accounts", 1000000, "accounts, holds and pending entries that the credit tasks find")
	flag.IntVar(&size.perRow, "per-row", 5000, "rows that the loop over an ORM works through")
	flag.Func("sides", "measure only the `sides` whose name (pgtick, river, graphile, pgboss, bare) this regular expression matches: for a profile of one", func(s string) (err error) {
		size.sides, err = regexp.Compile(s)
		return err
	})
	flag.IntVar(&size.limits, "limits", 60, "seconds in which four limiters share a limit; a twelfth of it for each run of limiter_decisions")
	flag.StringVar(&only, "only", "", "measure only `figures` whose name, or whose group's (queue, queue_kept, queue_runners, schedules, credits, limits), this regular expression matches")
	late := flag.Bool("zombies", false, "measure nothing, but freeze workers and count doubled effects (docs/zombies.md); comes first, and has flags of its own")
	flag.Parse()
	if *late {
		end(errors.New("-zombies comes first"))
	}
	end(run(context.Background(), size, only))
}

// other is what this program does besides measuring, by its first argument. The worker is started by -zombies alone.
var other = map[string]func(args []string) error{"-zombies": runZombies, "zombie-worker": runZombieWorker}

func end(err error) {
	if err != nil {
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
	defer b.close()
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

func (b *bench) close() {
	if b.sides != nil {
		b.sides.close()
	}
	if b.bin != "" {
		_ = os.RemoveAll(b.bin) // it is below the system's temporary folder
	}
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
