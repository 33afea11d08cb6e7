package dashboard_test

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// What the figures of the dashboard are measured with.
const (
	provedLive  = 10_000
	provedEnded = 5_000_000
	provedTimes = 40
)

// TestProof_Pages_BesideFiveMillionFinishedJobs prints for each page, none of which was made a moment ago, what it costs the database's processors
// (the median) and how long it takes until it is there. PGTICK_PROOF=full
// runs it: filling takes minutes, and some 3 GB of disk. PGTICK_ROWS is another number of finished jobs.
func TestProof_Pages_BesideFiveMillionFinishedJobs(t *testing.T) {
	if os.Getenv("PGTICK_PROOF") != "full" {
		t.Skip("PGTICK_PROOF=full runs it")
	}
	ended, err := strconv.Atoi(cmp.Or(os.Getenv("PGTICK_ROWS"), strconv.Itoa(provedEnded)))
	require.NoError(t, err)
	db := pgtest.NewOn(t, pgtest.ServerWith(t, localpg.Options{Temp: t.TempDir()}))
	db.Quiet(t)
	began := time.Now()
	fillForProof(t, db, ended)
	fmt.Printf("%d live and %d finished jobs, filled in %s\n", provedLive, ended, time.Since(began).Round(time.Second))
	var used processorTime
	d := openOn(t, db, used.watch(t, db))
	fmt.Printf("%-78s %8s %8s %8s %8s\n", "page", "database", "least", "p50", "p95")
	for _, address := range provedPages(ended) {
		took, worked := make([]time.Duration, provedTimes), make([]time.Duration, provedTimes)
		for i := range took {
			d.forget(t)
			used.take()
			start := time.Now()
			status, body := d.get(t, address)
			took[i], worked[i] = time.Since(start), used.take()
			require.Equal(t, http.StatusOK, status, "%s: %s", address, words(body))
		}
		slices.Sort(took)
		slices.Sort(worked)
		fmt.Printf("%-78s %6.1fms %6.1fms %6.1fms %6.1fms\n", address, ms(worked[provedTimes/2]), ms(took[0]), ms(took[provedTimes/2]), ms(took[provedTimes*95/100]))
	}
}

// provedPages are all pages, and the filters of the list of jobs.
func provedPages(ended int) []string {
	recent := url.QueryEscape(time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
	job := func(id int) string { return path("/jobs/%d", id) }
	return []string{
		"/jobs", "/jobs?state=ready", "/jobs?state=running", "/jobs?state=done", "/jobs?state=failed", "/jobs?state=cancelled", "/jobs?task=task-3", "/jobs?task=rare", "/jobs?task=task-3&state=done",
		"/jobs?task=rare&state=failed", "/jobs?queue=queue-2", "/jobs?queue=nobody", "/jobs?owner=" + jobsOwner, "/jobs?batch=1", "/jobs?since=1h", "/jobs?state=failed&since=1h", "/jobs?until=" + recent,
		"/jobs?search=needle", "/jobs?state=failed&error=refused", "/jobs?search=nowhere", path("/jobs?after=%d", ended/2), "/jobs/kinds", "/jobs/kinds?state=failed", "/jobs/all?do=retry&state=failed&since=24h",
		"/jobs/all?do=retry&state=failed", "/jobs/all?do=cancel&task=task-3", "/jobs/new", job(5), job(ended / 2), job(ended + 7), job(ended + provedLive/2), job(ended + provedLive),
		"/", "/runners", "/schedules", "/schedule?name=hourly", "/queues", "/credits", "/actions", "/keys",
	}
}

// processorTime is what statements of the dashboard have taken of the server's processors: unlike the time until an answer, it does not tell of
// what else the machine has to do.
type processorTime struct {
	mu   sync.Mutex
	used time.Duration
}

var processorTimes = regexp.MustCompile(`([0-9.]+) s user, ([0-9.]+) s system`)

func (p *processorTime) watch(t *testing.T, db *pgtest.DB) func(*web.Options) {
	cfg := db.Config(t)
	cfg.RuntimeParams["options"] = "-c log_statement_stats=on -c client_min_messages=log"
	cfg.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		found := processorTimes.FindStringSubmatch(notice.Detail)
		if found == nil {
			return
		}
		user, err := strconv.ParseFloat(found[1], 64)
		require.NoError(t, err)
		system, err := strconv.ParseFloat(found[2], 64)
		require.NoError(t, err)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.used += time.Duration((user + system) * float64(time.Second))
	}
	return func(o *web.Options) { o.Databases[0].Config = cfg }
}

func (p *processorTime) take() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := p.used
	p.used = 0
	return used
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// fillForProof writes what a week of work leaves, straight into the tables: 20 tasks and a rare one, 5 queues, failures of some kinds, owners, a batch of 10,000.
func fillForProof(t *testing.T, db *pgtest.DB, ended int) {
	t.Helper()
	do := func(sql string, args ...any) {
		_, err := db.Pool.Exec(t.Context(), sql, args...)
		require.NoError(t, err, sql)
	}
	do(`select pgtick.maintain()`) // makes the partitions of the days to come
	do(`select pgtick.schedule('hourly', '@hourly', 'task-1')`)
	do(`insert into pgtick.runner_leases (name, queues, tasks, lease, lease_until, registered_at, heartbeat_at, workers)
		select 'runner ' || i, array(select 'queue-' || n from generate_series(0, 4) as n), array(select 'task-' || n from generate_series(0, 19) as n), '1 hour', now() + interval '1 hour', now(), now(), 20
		from generate_series(1, 5) as i`)
	do(`insert into pgtick.batch_defs (job_id, any_outcome, created_at) values (1, true, now())`)
	do(`insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, owner_id, created_at, runner_id, fence, started_at, finished_at,
			result, error, batch_id, earlier_attempts, expires_on)
		select i, case when i % 1000 = 7 then 'rare' else 'task-' || i % 20 end, 'queue-' || i % 5, 5, s.state, x.at, 1 + (i % 50 = 0)::int, 0, 20, 0, 0, '5 minutes',
			jsonb_build_object('n', i, 'pad', repeat('x', 60)), case when i % 1000 = 7 then $2::uuid when i % 3 = 0 then md5((i % 100000)::text)::uuid end, x.at, 1 + i % 5, i, x.at, x.at + (i % 13) * interval '1 second',
			case when s.state = 'done' then jsonb_build_object('took', i % 100) end,
			case when s.state = 'failed' then jsonb_build_object('message', (array['connection refused by 10.0.0.', 'deadline exceeded after ', 'no such user '])[1 + i % 3] || i, 'stack', repeat('at some.place:12 ', 20))
				when s.state = 'cancelled' then '{"message": "cancelled by somebody"}'::jsonb end,
			case when i > $1::int - 10000 then 1 end,
			case when i % 50 = 0 then jsonb_build_array(jsonb_build_object('attempt', 1, 'started_at', x.at, 'finished_at', x.at, 'runner_id', 1, 'outcome', 'error', 'error', jsonb_build_object('message', 'try again'))) end,
			(x.at at time zone 'UTC')::date + case when s.state = 'done' then 7 else 30 end
		from generate_series(1, $1::int) as i
		cross join lateral (select now() - interval '6 days 20 hours' * (1 - i / $1::float8) as at) as x
		cross join lateral (select case when i % 200 in (7, 8, 9) then 'failed' when i % 200 = 10 then 'cancelled' else 'done' end as state) as s`, ended, jobsOwner)
	do(`insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, created_at, runner_id, fence, started_at, attempt, batch_id)
		overriding system value
		select $1::int + i, case when i % 1000 = 7 then 'rare' else 'task-' || i % 20 end, 'queue-' || i % 5, 5, now() - ($3::int - i) * interval '1 second', 20, '5 minutes',
			jsonb_build_object('n', i, 'pad', case when i = 5000 then 'needle' else repeat('x', 60) end), case when i % 1000 = 7 then $2::uuid end, now() - ($3::int - i) * interval '1 second',
			case when i <= 100 then 1 + i % 5 end, case when i <= 100 then i end, case when i <= 100 then now() end, (i <= 100)::int, case when i % 100 = 0 then 1 end
		from generate_series(1, $3::int) as i`, ended, jobsOwner, provedLive)
	do(`insert into pgtick.job_notes (job_id, done, note) select $1::int + i, 0.5, 'half way' from generate_series(1, 100) as i`, ended)
	do(`update pgtick.live_jobs set run_at = 'infinity', blocked_by = 'after', wanted_at = now(), after_jobs = array[id - 1, id - 2] where id = $1::int`, ended+provedLive)
	do(`insert into pgtick.job_links (job_id, on_job_id, any_outcome) select $1::int, $1::int - i, false from generate_series(1, 2) as i`, ended+provedLive)
	do(`select setval('pgtick.live_jobs_id_seq', $1)`, ended+provedLive)
	do(`vacuum (analyze) pgtick.live_jobs, pgtick.history`)
}
