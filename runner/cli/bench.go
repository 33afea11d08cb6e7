package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/runner/jobs"
)

// What is measured with belongs to these names, by which it is removed. The runner's name is also in pgtick.forget_bench.
const (
	benchQueue  = "pgtick_bench"
	benchTask   = "pgtick.bench"
	benchRunner = "pgtick bench"
)

// benchClients enqueue at a time.
const benchClients = 4

// benchBatch is how many jobs a claim takes: what a busy runner asks for.
const benchBatch = 100

// How many jobs are made in all, at most, so that what has to be removed stays small.
const (
	mostSingles = 30_000
	mostBulk    = 30_000
)

func benchCommand() *cobra.Command {
	var seconds int
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure this database, and say what to expect of it",
		Long: `Measure what this database does: a round trip, a commit, enqueueing one by one and in bulk, claiming and finishing by one runner, how soon
a notification arrives and a job starts; then say what to expect. It works through the real functions, on the queue pgtick_bench, and
removes its jobs and its runner afterwards, also when it is interrupted; so it needs the login that owns the schema. It takes a part of
what the server can do while it runs, and refuses where a runner serves that queue.`,
		Example:           "  pgtick bench\n  pgtick bench --seconds 30 --json | jq -r '[.figure, .value, .unit] | @tsv'",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().IntVar(&seconds, "seconds", 10, "how long to measure, 2 to 600")
	asJSON := jsonFlag(cmd)
	settings(cmd, "database-url", "listen-database-url")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if seconds < 2 || seconds > 600 {
			return usageError{fmt.Errorf("--seconds %d does not go: from 2 to 600", seconds)}
		}
		cfg, err := load(cmd, "database-url", "listen-database-url")
		if err != nil {
			return err
		}
		for _, database := range []*pgx.ConnConfig{cfg.Database, cfg.Listen} {
			database.RuntimeParams["application_name"] = "bench of pgtick"
		}
		b := &bench{cfg: cfg, lasts: time.Duration(seconds) * time.Second, talk: cmd.ErrOrStderr()}
		err = withConnection(cmd, nil, func(ctx context.Context, conn *pgx.Conn) error { return b.run(ctx, conn) })
		if err != nil {
			return err
		}
		if *asJSON {
			return printRows(cmd.OutOrStdout(), b.figures)
		}
		return b.print(newScreen(cmd.OutOrStdout()))
	}
	return cmd
}

// figure is one thing measured.
type figure struct {
	Figure  string  `json:"figure"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Samples int     `json:"samples"` // how many times that was done
	What    string  `json:"what"`
}

// bench is one run of the command.
type bench struct {
	cfg     config.Config
	lasts   time.Duration
	talk    io.Writer
	figures []figure

	conns    []*pgx.Conn // the first is the runner's
	listener *pgx.Conn
	runner   int64
	bar      *progressbar.ProgressBar
	started  time.Time
}

func (b *bench) run(ctx context.Context, conn *pgx.Conn) error {
	if err := b.mayMeasure(ctx, conn); err != nil {
		return err
	}
	if err := plainBehindPooler(ctx, conn, b.cfg.Database); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.talk, "measuring for about %s on queue %s; what is made for it is removed afterwards\n", about(b.lasts), benchQueue)
	err := b.measure(ctx)
	if b.bar != nil {
		_ = b.bar.Clear()
	}
	err = errors.Join(err, b.clean(context.WithoutCancel(ctx)))
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	return err
}

// mayMeasure refuses where somebody else works on the queue, and removes what a bench has left that was killed.
func (b *bench) mayMeasure(ctx context.Context, conn *pgx.Conn) error {
	serving, err := jobs.ServersOf(ctx, conn, benchQueue)
	if err != nil {
		return err
	}
	if len(serving) > 0 {
		return fmt.Errorf("a live runner serves queue %s (%s), so that the figures would be its own: stop it, or, if that is another bench, wait", benchQueue, printable(strings.Join(serving, ", ")))
	}
	if _, err := jobs.ForgetBench(ctx, conn, benchQueue); err != nil {
		return fmt.Errorf("bench removes what it makes, so it needs the login that owns the schema: %w", err)
	}
	return nil
}

func (b *bench) measure(ctx context.Context) (err error) {
	defer b.closeAll(context.WithoutCancel(ctx))
	for range benchClients {
		conn, err := connector(b.cfg.Database)(ctx)
		if err != nil {
			return unreachable(b.cfg.Database, err)
		}
		b.conns = append(b.conns, conn)
	}
	if b.listener, err = connector(b.cfg.Listen)(ctx); err != nil {
		return unreachable(b.cfg.Listen, err)
	}
	b.runner, err = jobs.Register(ctx, b.conns[0], jobs.Runner{Name: benchRunner, Queues: []string{benchQueue}, Tasks: []string{benchTask}, Lease: min(b.lasts+time.Minute, time.Hour), Workers: 1})
	if err != nil {
		return err
	}
	b.bar = progressbar.NewOptions64(b.lasts.Milliseconds(), progressbar.OptionSetWriter(b.talk), progressbar.OptionSetVisibility(isTerminal(b.talk)),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true))
	b.started = time.Now()
	for _, phase := range []func(context.Context) error{b.roundTrip, b.commit, b.enqueue, b.enqueueMany, b.work, b.notify, b.start} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) closeAll(ctx context.Context) {
	for _, conn := range append(b.conns, b.listener) {
		if conn != nil {
			conn.Close(ctx)
		}
	}
}

// clean works on a connection of its own: an interrupt has ended the others in the middle of something.
func (b *bench) clean(ctx context.Context) error {
	ctx, end := context.WithTimeout(ctx, time.Minute)
	defer end()
	conn, err := connector(b.cfg.Database)(ctx)
	if err != nil {
		return fmt.Errorf("what was made for the measurement is still there, and the next bench removes it: %w", unreachable(b.cfg.Database, err))
	}
	defer conn.Close(ctx)
	if b.runner != 0 {
		err = jobs.Leave(ctx, conn, b.runner)
	}
	_, forgetting := jobs.ForgetBench(ctx, conn, benchQueue)
	return errors.Join(err, forgetting)
}

// during does something again and again for a share of the time, or until it says that there is no more, and returns how long each took.
func (b *bench) during(ctx context.Context, what string, share float64, do func() (more bool, err error)) (took samples, err error) {
	began, more := time.Now(), true
	until := began.Add(time.Duration(share * float64(b.lasts)))
	for more && (len(took) == 0 || time.Now().Before(until)) {
		if err := ctx.Err(); err != nil {
			return took, err
		}
		before := time.Now()
		if more, err = do(); err != nil {
			return took, err
		}
		took = append(took, time.Since(before))
		b.tell(what, float64(len(took))/time.Since(began).Seconds())
	}
	return took, nil
}

func (b *bench) tell(what string, rate float64) {
	b.bar.Describe(fmt.Sprintf("%s, %.0f/s", what, rate))
	_ = b.bar.Set64(min(time.Since(b.started).Milliseconds(), b.lasts.Milliseconds()-1)) // a full bar is taken away
}

type samples []time.Duration

// quantile of at least one.
func (s samples) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (b *bench) note(name string, value float64, unit string, n int, what string) {
	b.figures = append(b.figures, figure{name, value, unit, n, what})
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (b *bench) roundTrip(ctx context.Context) error {
	took, err := b.during(ctx, "round trips", 0.05, func() (bool, error) {
		_, err := jobs.Now(ctx, b.conns[0])
		return true, err
	})
	if err == nil {
		b.note("round_trip", milliseconds(took.quantile(0.5)), "ms", len(took), "the way to the database and back, median")
	}
	return err
}

// commit is a heartbeat: a row is changed, and flushed to disk before the answer.
func (b *bench) commit(ctx context.Context) error {
	took, err := b.during(ctx, "commits", 0.15, func() (bool, error) {
		_, err := jobs.Heartbeat(ctx, b.conns[0], b.runner, nil)
		return true, err
	})
	if err == nil {
		b.note("commit", milliseconds(took.quantile(0.5)), "ms", len(took), "a small transaction, flushed to disk, the way included, median")
	}
	return err
}

// enqueue has some clients enqueue at a time, each job in a transaction of its own.
func (b *bench) enqueue(ctx context.Context) error {
	var made atomic.Int64
	ctx, end := context.WithTimeout(ctx, time.Duration(0.2*float64(b.lasts)))
	defer end()
	began, problems := time.Now(), make([]error, len(b.conns))
	var clients sync.WaitGroup
	for i, conn := range b.conns {
		clients.Go(func() {
			for ctx.Err() == nil && made.Load() < mostSingles {
				// The call is not cut off: its connection would go with it.
				if _, err := jobs.Enqueue(context.WithoutCancel(ctx), conn, []jobs.Argument{argument("task", "text", benchTask), argument("queue", "text", benchQueue)}); err != nil {
					problems[i] = err
					return
				}
				b.tell("enqueued one by one", float64(made.Add(1))/time.Since(began).Seconds())
			}
		})
	}
	clients.Wait()
	if err := errors.Join(problems...); err != nil {
		return err
	}
	n := int(made.Load())
	b.note("enqueue", float64(n)/time.Since(began).Seconds(), "jobs/s", n, fmt.Sprintf("one by one, each committed, by %d clients at a time", len(b.conns)))
	return nil
}

func (b *bench) enqueueMany(ctx context.Context) error {
	began, made := time.Now(), 0
	_, err := b.during(ctx, "enqueued in bulk, thousands", 0.1, func() (bool, error) {
		n, err := jobs.EnqueueMany(ctx, b.conns[0], benchTask, benchQueue, 1000)
		made += n
		return made < mostBulk, err
	})
	if err == nil {
		b.note("enqueue_many", float64(made)/time.Since(began).Seconds(), "jobs/s", made, "a thousand in a call, by one client")
	}
	return err
}

// work claims and finishes as a runner does: what is done is reported with the next claim, in one transaction.
func (b *bench) work(ctx context.Context) error {
	want := b.wanted(benchBatch)
	var held []jobs.Claim
	began, done := time.Now(), 0
	_, err := b.during(ctx, "batches of jobs worked off", 0.25, func() (more bool, err error) {
		if len(held) == 0 {
			held, err = jobs.TakeClaims(ctx, b.conns[0], want)
			want.From = behind(held, want.From)
			return len(held) > 0, err
		}
		refused, claims, err := jobs.FinishAndClaim(ctx, b.conns[0], allDone(held), want)
		if err == nil && len(refused) > 0 {
			err = fmt.Errorf("%d reports were refused", len(refused))
		}
		done += len(held)
		held, want.From = claims, behind(claims, want.From)
		return len(claims) > 0, err
	})
	if err == nil && len(held) > 0 {
		_, err = jobs.Finish(ctx, b.conns[0], b.runner, allDone(held))
		done += len(held)
	}
	if err == nil {
		b.note("work", float64(done)/time.Since(began).Seconds(), "jobs/s", done, fmt.Sprintf("claimed and finished by one runner, %d at a time, without any work", benchBatch))
	}
	return err
}

func (b *bench) wanted(n int) jobs.Wanted {
	return jobs.Wanted{Runner: b.runner, Queues: []string{benchQueue}, Tasks: []string{benchTask}, N: n}
}

// behind is where the next claim begins, as a runner's does: what has ended, and is not cleaned away yet, is not walked over again.
func behind(claims []jobs.Claim, before []jobs.Bound) []jobs.Bound {
	if len(claims) == 0 {
		return before
	}
	last := claims[len(claims)-1]
	return []jobs.Bound{{Task: last.Task, Queue: last.Queue, Priority: last.Priority, RunAt: last.RunAt, ID: last.ID}}
}

func allDone(held []jobs.Claim) []jobs.Outcome {
	outcomes := make([]jobs.Outcome, len(held))
	for i, c := range held {
		outcomes[i] = jobs.Outcome{Held: c.Held, Name: "done"}
	}
	return outcomes
}

// hearing is how long a notification may take before it counts as lost.
const hearing = 3 * time.Second

// notify measures from the call that notifies to its arrival. Where none arrives there is no figure.
func (b *bench) notify(ctx context.Context) error {
	if err := errors.Join(jobs.Listen(ctx, b.listener, benchQueue), jobs.Listen(ctx, b.listener, "pgtick")); err != nil {
		return err
	}
	hears := false
	took, err := b.during(ctx, "notifications", 0.1, func() (bool, error) {
		if err := jobs.Notify(ctx, b.conns[1], benchQueue, ""); err != nil {
			return false, err
		}
		heard, err := b.hear(ctx, benchQueue, "")
		hears = hears || heard
		return heard, err
	})
	if err == nil && hears {
		b.note("notify", milliseconds(took.quantile(0.5)), "ms", len(took), "until a notification arrives, its commit included, median")
	}
	return err
}

// hear waits for a notification, and tells whether it came.
func (b *bench) hear(ctx context.Context, channel, payload string) (bool, error) {
	waiting, end := context.WithTimeout(ctx, hearing)
	defer end()
	for {
		n, err := b.listener.WaitForNotification(waiting)
		switch {
		case err != nil && waiting.Err() != nil && ctx.Err() == nil:
			return false, nil
		case err != nil:
			return false, err
		case n.Channel == channel && n.Payload == payload:
			return true, nil
		}
	}
}

// start measures from an enqueue to the claim, where the runner sleeps and is woken.
func (b *bench) start(ctx context.Context) error {
	if b.figures[len(b.figures)-1].Figure != "notify" {
		return nil
	}
	if _, err := jobs.ForgetBench(ctx, b.conns[0], benchQueue); err != nil { // what was not worked off would be claimed first
		return err
	}
	if _, err := jobs.Sleep(ctx, b.conns[0], b.runner, time.Hour); err != nil {
		return err
	}
	want := b.wanted(1)
	var took samples
	_, err := b.during(ctx, "jobs started", 0.15, func() (bool, error) {
		before := time.Now()
		if _, err := jobs.Enqueue(ctx, b.conns[1], []jobs.Argument{argument("task", "text", benchTask), argument("queue", "text", benchQueue)}); err != nil {
			return false, err
		}
		if _, err := b.hear(ctx, "pgtick", benchQueue); err != nil {
			return false, err
		}
		claims, err := jobs.TakeClaims(ctx, b.conns[0], want)
		if err != nil || len(claims) == 0 {
			return err == nil, err
		}
		took, want.From = append(took, time.Since(before)), behind(claims, want.From)
		_, err = jobs.Finish(ctx, b.conns[0], b.runner, allDone(claims))
		return true, err
	})
	if err == nil && len(took) > 0 {
		b.note("start", milliseconds(took.quantile(0.5)), "ms", len(took), "from an enqueue until an idle runner has the job, median")
		b.note("start_slow", milliseconds(took.quantile(0.95)), "ms", len(took), "the same, of 95 in a hundred")
	}
	return err
}

func (b *bench) value(name string) (float64, bool) {
	for _, f := range b.figures {
		if f.Figure == name {
			return f.Value, true
		}
	}
	return 0, false
}

func (b *bench) print(s screen) error {
	t := table{titles: []string{"FIGURE", "VALUE", "SAMPLES", "WHAT"}}
	for _, f := range b.figures {
		form := "%.0f %s"
		if f.Unit == "ms" {
			form = "%.2f %s"
		}
		t.add(text(f.Figure), text(fmt.Sprintf(form, f.Value, f.Unit)), text(fmt.Sprint(f.Samples)), text(f.What))
	}
	if err := t.print(s); err != nil {
		return err
	}
	for _, sentence := range b.expectations() {
		lines := []string{sentence}
		if s.width > 0 {
			lines = wrapText(sentence, s.width)
		}
		if _, err := fmt.Fprintf(s, "\n%s\n", strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// expectations say what the figures mean for who uses this database. They are ceilings: tasks take time of their own, and other work too.
func (b *bench) expectations() []string {
	work, _ := b.value("work")
	enqueue, _ := b.value("enqueue")
	commit, _ := b.value("commit")
	trip, _ := b.value("round_trip")
	all := []string{fmt.Sprintf("Expect of one runner at most about %s jobs/s, and of clients that enqueue one by one about %s jobs/s. With --workers 20 and tasks that take 100 ms it is %s jobs/s: then more workers help, not a faster database.",
		rounded(work), rounded(enqueue), rounded(min(work, 200)))}
	if start, there := b.value("start"); there {
		slow, _ := b.value("start_slow")
		all = append(all, fmt.Sprintf("A job starts about %s ms after its enqueue when a worker is free, and 95 in a hundred within %s ms.", rounded(start), rounded(slow)))
	} else {
		all = append(all, "No notification arrives here, as behind a pooler in transaction mode: a job starts at its runner's next poll, within 5 seconds. LISTEN_DATABASE_URL can name a direct or session-mode connection.")
	}
	switch {
	case trip > commit/2:
		all = append(all, fmt.Sprintf("Of the %s ms of a commit the way to the database takes %s: a runner that is nearer to it does more.", rounded(commit), rounded(min(trip, commit))))
	default:
		all = append(all, fmt.Sprintf("Of the %s ms of a commit nearly all is the server's, most of it the flush to disk: a faster disk does more, and so do enqueues that share a transaction.", rounded(commit)))
	}
	return all
}

// rounded leaves two digits that mean something.
func rounded(v float64) string {
	switch {
	case v < 1:
		return fmt.Sprintf("%.2g", v)
	case v < 10:
		return fmt.Sprintf("%.1f", v)
	}
	unit := 1.0
	for v/unit >= 100 {
		unit *= 10
	}
	return fmt.Sprintf("%.0f", float64(int(v/unit+0.5))*unit)
}
