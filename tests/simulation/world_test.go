package simulation

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

//go:embed testdata/sim.sql
var simSchema string

// mode says what becomes of a wait for a lock where pgtick bounds it, by a lock_timeout of a tenth of a second or so. How long a step takes must not decide:
// a patient database waits until the lock is free, an impatient one gives up at once.
type mode string

const (
	patient   mode = "patient"
	impatient mode = "impatient"
)

// world is a database with the clients that work on it. One goroutine drives it.
type world struct {
	*pgtest.DB
	mode    mode
	control *pgx.Conn // moves the clock, looks who waits for whom, judges
	clients []*client
	url     string
	tables  []string // that a reset empties
	resets  int
	trace   []line
	told    []report // answers of finish()
	sent    []claim  // on which reports were sent
	jobs    []int64  // all ids that any client was given
	holds   []int64
	keys    int // requests to the ledger so far
	stats   *stats
}

// stats counts what was done in a test.
type stats struct {
	runs, steps, waits, deadlocks, crashes, pruned, strayed int
}

func newWorld(t *testing.T, m mode) *world {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	w := &world{DB: db, mode: m, url: db.URL, stats: &stats{}}
	w.exec(t, simSchema)
	w.exec(t, onePartition)
	w.exec(t, w.boundWaits(t))
	w.exec(t, w.resetFunction(t))
	// The server finds a circle of waits soon, but not before a bounded wait has ended.
	w.exec(t, fmt.Sprintf("alter database %[1]s set deadlock_timeout = '%[2]s'; alter database %[1]s set jit = off", w.Name, map[mode]string{patient: "2ms", impatient: "60ms"}[m]))
	control, err := pgx.Connect(t.Context(), w.url)
	require.NoError(t, err)
	w.control = control
	t.Cleanup(func() {
		for _, c := range w.clients {
			if c.conn != nil {
				_ = c.conn.Close(context.Background())
			}
		}
		_ = control.Close(context.Background())
	})
	return w
}

// onePartition leaves the default partitions alone, which take everything: a look at history for each day that has a partition costs most of a run's time.
const onePartition = `do $$ declare v_name text; begin
	for v_name in select i.inhrelid::regclass from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
		where i.inhparent in ('pgtick.history'::regclass, 'pgtick.slot_log'::regclass) and c.relname !~ 'default' loop
		execute 'drop table ' || v_name;
	end loop;
end $$`

func (w *world) exec(t *testing.T, sql string) {
	t.Helper()
	_, err := w.Pool.Exec(context.Background(), sql)
	require.NoError(t, err)
}

// boundWaits changes how long functions wait, and nothing else. What two of them measure in real time is given an hour.
func (w *world) boundWaits(t *testing.T) string {
	t.Helper()
	rows, err := w.Pool.Query(context.Background(), `select format('alter function %s set lock_timeout = %L;', p.oid::regprocedure, $1::text)
		from pg_proc as p where p.pronamespace in ('pgtick'::regnamespace, 'credits'::regnamespace) and p.proconfig::text like '%lock_timeout=%'
		  and p.proname <> 'maintain' order by 1`, map[mode]string{patient: "0", impatient: "1ms"}[w.mode])
	require.NoError(t, err)
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, statements)
	w.Replace(t, "pgtick.sweep_ties(timestamptz)", "clock_timestamp() + interval '1 second'", "clock_timestamp() + interval '1 hour'")
	if w.mode == patient {
		w.Replace(t, "pgtick.settle(pgtick.ended[], timestamptz)", "interval '100 ms'", "interval '1 hour'")
		for _, name := range []string{"pgtick.settle_batch(bigint, timestamptz, boolean)", "pgtick.settle_links(pgtick.ended[], timestamptz, boolean)", "pgtick.free_places(pgtick.ended[], timestamptz, boolean)"} {
			w.Replace(t, name, "set_config('lock_timeout', '1ms', true)", "set_config('lock_timeout', '0', true)")
		}
	}
	return strings.Join(statements, "\n")
}

// kept are the tables that say what an installation is, not what happens in it.
var kept = regexp.MustCompile(`\.(addresses|installed|applied_sql|tiers|usage_rates|settings|pending_rules|allowed_functions|gates|task_rules|allowed_tasks)$`)

// resetFunction writes the function that takes a database back to its beginning: 2 ms, where a copy of a template takes 80.
func (w *world) resetFunction(t *testing.T) string {
	t.Helper()
	rows, err := w.Pool.Query(context.Background(), `select format('%I.%I', n.nspname, c.relname), c.relkind = 'S' from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
		where n.nspname in ('pgtick', 'credits', 'analytics', 'sim') and c.relkind in ('r', 'p', 'S') and not c.relispartition order by 1`)
	require.NoError(t, err)
	var name string
	var isSequence bool
	body := "perform set_config('session_replication_role', 'replica', true);\n" // no trigger: the ledger refuses to be emptied
	_, err = pgx.ForEachRow(rows, []any{&name, &isSequence}, func() error {
		switch {
		case isSequence:
			body += fmt.Sprintf("perform setval('%s', 1, false);\n", name)
		case !kept.MatchString(name):
			body += fmt.Sprintf("delete from %s;\n", name)
			w.tables = append(w.tables, name)
		}
		return nil
	})
	require.NoError(t, err)
	return "create function sim.reset() returns void language plpgsql set plan_cache_mode = force_generic_plan as $$ begin\n" + body +
		"perform setval('sim.clock', 864000000000);\nend $$;\n" + // ten days on, so that it can be set back
		"create function sim.set_replica_off() returns void language sql as $$ select set_config('session_replication_role', 'origin', false) $$"
}

// reset begins a new run: an empty database, in which the setup is done, and clients that know nothing.
func (w *world) reset(setup string, names []string) error {
	ctx := context.Background()
	w.trace, w.told, w.sent, w.jobs, w.holds, w.keys = nil, nil, nil, nil, nil, 0
	w.resets++
	w.stats.runs++
	if w.resets%200 == 0 {
		if _, err := w.control.PgConn().Exec(ctx, "vacuum "+strings.Join(w.tables, ", ")).ReadAll(); err != nil {
			return fmt.Errorf("vacuum: %w", err)
		}
	}
	if _, err := w.control.PgConn().Exec(ctx, "begin; select sim.reset(); commit; "+setup).ReadAll(); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	for i, name := range names {
		if i >= len(w.clients) {
			w.clients = append(w.clients, &client{w: w})
		}
		if err := w.clients[i].begin(name); err != nil {
			return err
		}
	}
	return nil
}

// judge looks at the end of a run, at which no transaction is open, and brings all there is to its end.
func (w *world) judge(tasks []string) ([]string, error) {
	ctx := context.Background()
	var answered, sent []string
	for _, r := range w.told {
		answered = append(answered, fmt.Sprintf("(%d, %d, %d, %v)", r.runner, r.job, r.fence, r.accepted))
	}
	for _, c := range w.sent {
		sent = append(sent, fmt.Sprintf("(%d, %d)", c.job, c.fence))
	}
	text := ""
	if len(answered) > 0 {
		text += "insert into sim.reports values " + strings.Join(answered, ", ") + ";"
	}
	if len(sent) > 0 {
		text += "insert into sim.sent values " + strings.Join(sent, ", ") + ";"
	}
	if _, err := w.control.PgConn().Exec(ctx, text).ReadAll(); err != nil {
		return nil, fmt.Errorf("write down the reports: %w", err)
	}
	rows, _ := w.control.Query(ctx, "select sim.drain($1)", tasks)
	wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("judge: %w", err)
	}
	return wrong, nil
}

// settle returns when each client is idle, or waits for a lock that one of the others holds while it does nothing: from then on nothing happens by itself.
func (w *world) settle() error {
	deadline := time.Now().Add(time.Minute)
	pause := 5 * time.Millisecond // most statements take less, and then nobody need be asked
	before, since := "", time.Now()
	for {
		busy := w.listen(pause)
		if len(busy) == 0 {
			return nil
		}
		waits, err := w.waiting(busy)
		if err != nil {
			return err
		}
		for _, c := range busy {
			c.stuck = slices.ContainsFunc(waits, func(wait string) bool { return strings.HasPrefix(wait, fmt.Sprint(c.pid, "<")) })
		}
		now := strings.Join(waits, " ")
		if now != before || len(waits) < len(busy) {
			before, since = now, time.Now()
		}
		// A wait that is bounded ends after a millisecond; and one look may have seen a lock that was held for a moment.
		if len(waits) == len(busy) && time.Since(since) > w.mode.patience() && !inCircle(waits) {
			for _, c := range busy {
				c.waited = true
			}
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("neither done nor waiting after a minute: %v", waits)
		}
		pause = min(2*pause, 20*time.Millisecond)
		if len(waits) == len(busy) {
			pause = w.mode.patience()
			<-time.After(pause)
		}
	}
}

func (m mode) patience() time.Duration {
	return map[mode]time.Duration{patient: 500 * time.Microsecond, impatient: 8 * time.Millisecond}[m]
}

// listen takes the answers that have come, or come before the pause is over, and returns the clients that still have none. Of those that wait
// for a lock only the answers that are there are taken: they go on when another one does.
func (w *world) listen(pause time.Duration) (busy []*client) {
	over := time.After(pause)
	for again := true; again; {
		again, busy = false, busy[:0]
		for _, c := range w.clients {
			switch {
			case !c.busy:
			case c.stuck:
				select {
				case a := <-c.done:
					c.heard(a)
					again = true
				default:
					busy = append(busy, c)
				}
			default:
				select {
				case a := <-c.done:
					c.heard(a)
					again = true
				case <-over:
					over = time.After(0)
					busy = append(busy, c)
				}
			}
		}
	}
	return busy
}

// waiting tells of each busy client that waits for a lock: "its pid<the pids that have it".
func (w *world) waiting(busy []*client) (waits []string, err error) {
	pids := make([]int32, len(busy))
	for i, c := range busy {
		pids[i] = int32(c.pid)
	}
	rows, err := w.control.Query(context.Background(), "select p || '<' || b::text from unnest($1::int[]) as p cross join lateral pg_blocking_pids(p) as b where b <> '{}'", pids)
	if err != nil {
		return nil, fmt.Errorf("who waits: %w", err)
	}
	waits, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("who waits: %w", err)
	}
	return waits, nil
}

// inCircle says whether some of these wait for one another: the server ends that by itself.
func inCircle(waits []string) bool {
	by := map[string][]string{}
	for _, wait := range waits {
		who, whom, _ := strings.Cut(wait, "<")
		by[who] = strings.Split(strings.Trim(whom, "{}"), ",")
	}
	var reaches func(from, to string, left int) bool
	reaches = func(from, to string, left int) bool {
		for _, next := range by[from] {
			if next == to || left > 0 && reaches(next, to, left-1) {
				return true
			}
		}
		return false
	}
	for who := range by {
		if reaches(who, who, len(by)) {
			return true
		}
	}
	return false
}
