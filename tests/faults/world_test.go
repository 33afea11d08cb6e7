package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// world is one database with mixed work in it: a producer that keeps its own record, runners, and how long each fault took to be over.
type world struct {
	t        *testing.T
	db       *pgtest.DB
	runners  string   // the URL by which runners connect
	env      []string // and what else they are told
	args     []string
	journal  string
	producer *producer
	begun    time.Time // when the schedule was there, by the database's clock
	ended    time.Time // when it was taken away again
	moved    bool      // the database's clock was: a calendar of one's own does not help
	number   atomic.Int64
	killed   []killed
	setAside int // failed by rule 4, and retried by hand
	injected int // where more were than asked for
	took     []time.Duration
	notes    []string
}

// killed is a runner that shall be found dead.
type killed struct {
	name string
	at   time.Time
}

const users = 20

// The retries of what a fault has failed shall not take longer than the fault.
const furniture = `
create schema faults;
create table faults.effects (token bigint not null, job_id bigint not null, attempt integer not null, at timestamptz not null default clock_timestamp());
create table faults.steps (job_id bigint, step integer, attempt integer not null, primary key (job_id, step));
create table faults.orders (token bigint not null);
grant usage on schema faults, credits to pgtick_runner;
grant insert, select on faults.effects, faults.steps to pgtick_runner;
do $$ declare f regprocedure; begin
  for f in select p.oid from pg_proc as p where p.pronamespace = 'credits'::regnamespace and p.proname in ('charge', 'hold', 'capture') loop
    execute format('grant execute on function %s to pgtick_runner', f);
  end loop;
end $$;
select credits.open_account(('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid) from generate_series(1, 20) as i;
select credits.grant(a.user_id, 1000000, 'start') from credits.accounts as a;
select pgtick.set_retry_policy('fault.' || t.name, '{"kind": "list", "delays": ["200 milliseconds"]}') from unnest('{effect,limited,slot,probe,plain,failing,long,ledger,ledger_plain}'::text[]) as t(name);
select pgtick.set_limit('fault.limited', p_rate => 100, p_burst => 100, p_max_running => 3);
`

// newWorld furnishes a database. Nothing runs in it yet.
func newWorld(t *testing.T, db *pgtest.DB) *world {
	t.Helper()
	db.Quiet(t)
	w := &world{t: t, db: db, runners: pgtest.RunnerURL(t, db), journal: filepath.Join(t.TempDir(), "journal")}
	_, err := db.Pool.Exec(t.Context(), furniture)
	require.NoError(t, err)
	w.do(`select pgtick.schedule('each second', '@every 1s', 'fault.slot', p_on_missed => 'all', p_on_overlap => 'allow', p_catch_up_limit => 10000, p_max_attempts => 500,
		p_timeout => '20 seconds')`)
	w.begun = w.now()
	return w
}

// work starts a runner under a name of its own.
func (w *world) work(args ...string) *process {
	w.t.Helper()
	return w.workOf(binary, args...)
}

func (w *world) workOf(program string, args ...string) *process {
	w.t.Helper()
	name := fmt.Sprint("runner ", w.number.Add(1))
	env := append([]string{"DATABASE_URL=" + w.runners, "FAULTS_JOURNAL=" + w.journal}, w.env...)
	return start(w.t, program, name, env, append(append([]string{"work", "--name=" + name, "--workers=8"}, w.args...), args...)...)
}

func (w *world) fleet(n int) []*process {
	w.t.Helper()
	all := make([]*process, n)
	for i := range all {
		all[i] = w.work()
	}
	return all
}

// do runs a statement, again where the database is away just now.
func (w *world) do(sql string, args ...any) {
	w.t.Helper()
	w.until(sql, func(ctx context.Context) bool { _, err := w.db.Pool.Exec(ctx, sql, args...); return w.fine(err) })
}

// ask reads one value, in the same way.
func ask[V any](w *world, sql string, args ...any) (value V) {
	w.t.Helper()
	w.until(sql, func(ctx context.Context) bool { return w.fine(w.db.Pool.QueryRow(ctx, sql, args...).Scan(&value)) })
	return value
}

// fine: an error of the server that will not pass is the test's mistake.
func (w *world) fine(err error) bool {
	w.t.Helper()
	if code := codeOf(err); code != "" && !passes(code) {
		require.NoError(w.t, err)
	}
	return err == nil
}

func (w *world) now() time.Time {
	w.t.Helper()
	return ask[time.Time](w, "select clock_timestamp()")
}

// becomes waits until a query answers true.
func (w *world) becomes(sql string, args ...any) {
	w.t.Helper()
	w.until(sql, func(ctx context.Context) bool {
		var holds bool
		return w.fine(w.db.Pool.QueryRow(ctx, sql, args...).Scan(&holds)) && holds
	})
}

func (w *world) until(what string, holds func(ctx context.Context) bool) {
	w.t.Helper()
	ctx, end := context.WithTimeout(w.t.Context(), within)
	defer end()
	again := time.NewTicker(every)
	defer again.Stop()
	for !holds(ctx) {
		select {
		case <-ctx.Done():
			require.FailNow(w.t, "it does not become so", "%s\nlive jobs: %s", what, w.live())
		case <-again.C:
		}
	}
}

// live says what is left, for who has waited in vain.
func (w *world) live() string {
	rows, err := w.db.Pool.Query(context.Background(), `select format('%s %s: attempt %s, runner %s, run_at %s, blocked by %s, %s losses; %s', j.id, j.task, j.attempt, j.runner_id, j.run_at,
		j.blocked_by, j.losses, (select string_agg(y.reason || ' ' || y.evidence, '; ') from pgtick.why(j.id) as y)) from pgtick.live_jobs as j order by j.id limit 20`)
	if err != nil {
		return err.Error()
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return fmt.Sprint(lines, err)
}

// ready returns when somebody works.
func (w *world) ready() {
	w.t.Helper()
	w.probe()
	w.took = nil
}

// probe enqueues a job that comes before all others, as soon as the database takes it, and notes how long it then waited for its claim, by
// the database's clock.
func (w *world) probe() {
	w.t.Helper()
	id := ask[int64](w, "select pgtick.enqueue('fault.probe', p_priority => 0, p_max_attempts => 500)")
	const waited = `select extract(epoch from coalesce((j.earlier_attempts -> 0 ->> 'started_at')::timestamptz, j.started_at) - j.created_at)::float8 from (
		select l.started_at, l.created_at, l.earlier_attempts from pgtick.live_jobs as l where l.id = $1
		union all select h.started_at, h.created_at, h.earlier_attempts from pgtick.history as h where h.id = $1) as j limit 1`
	w.until("a probe is claimed", func(ctx context.Context) bool {
		var took *float64
		if !w.fine(w.db.Pool.QueryRow(ctx, waited, id).Scan(&took)) || took == nil {
			return false
		}
		w.took = append(w.took, time.Duration(*took*float64(time.Second)))
		return true
	})
	w.keepsItsRules()
	w.goOn(10)
}

// keepsItsRules looks at what must hold at every moment.
func (w *world) keepsItsRules() {
	w.t.Helper()
	require.Zero(w.t, ask[int](w, `select count(*) from pgtick.live_jobs as j left join pgtick.runner_leases as r on r.id = j.runner_id
		where j.runner_id is not null and (r.id is null or r.freed_at is not null)`), "claims without a runner")
	require.LessOrEqual(w.t, ask[int](w, `select coalesce(max(cardinality(p.holders)), 0) from pgtick.limit_places as p where p.task = 'fault.limited'`), 3, "more than may run at once")
}

// holding waits until a runner holds a claim.
func (w *world) holding(p *process) {
	w.t.Helper()
	w.becomes(`select exists (select from pgtick.live_jobs as j join pgtick.runner_leases as r on r.id = j.runner_id where r.name = $1 and r.ended_at is null)`, p.name)
}

// quiet ends the producer and the schedule, and waits until all that was asked for has been done, or has failed for good. It may be called twice.
func (w *world) quiet() {
	w.t.Helper()
	if !w.ended.IsZero() {
		return
	}
	if w.producer != nil {
		w.producer.stop()
	}
	w.ended = w.now()
	w.do(`select pgtick.unschedule(s.name) from pgtick.schedules as s where s.name = 'each second'`)
	w.becomes(`select not exists (select from pgtick.live_jobs)`)
	w.retrySetAside()
	w.becomes(`select not exists (select from pgtick.limit_places as p where cardinality(p.holders) > 0)`)
	for _, k := range w.killed {
		w.took = append(w.took, w.givenBack(k))
	}
}

// retrySetAside does what an operator would with jobs that rule 4 of the protocol has failed: who kills many runners kills some three times in a row
// with the same suspect. That they were lost so often must be on record.
func (w *world) retrySetAside() {
	w.t.Helper()
	const failed = `from pgtick.jobs as j where j.state = 'failed' and j.last_error ->> 'message' like 'three runners died%'`
	w.setAside = ask[int](w, "select count(*) "+failed)
	require.Zero(w.t, ask[int](w, "select count(*) "+failed+" and (select count(*) from pgtick.attempts as a where a.job_id = j.id and a.outcome = 'lost') < 4"))
	w.do("select pgtick.retry(j.id) " + failed)
	w.becomes(`select not exists (select from pgtick.live_jobs)`)
}

// givenBack is how long the claims of a dead runner took to be free again.
func (w *world) givenBack(k killed) time.Duration {
	w.t.Helper()
	const freed = `select extract(epoch from r.freed_at - $2)::float8 from pgtick.runner_leases as r where r.name = $1 and r.registered_at <= $2 order by r.id desc limit 1`
	w.becomes(`select coalesce((`+freed+`) is not null, false)`, k.name, k.at)
	return time.Duration(ask[float64](w, freed, k.name, k.at) * float64(time.Second))
}

// recovery is the median and the longest.
func (w *world) recovery() (p50, most time.Duration) {
	if len(w.took) == 0 {
		return 0, 0
	}
	slices.Sort(w.took)
	return w.took[len(w.took)/2], w.took[len(w.took)-1]
}

func readFile(folder, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(folder, name))
	return strings.TrimSpace(string(text)), err
}

func (w *world) note(format string, args ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}
