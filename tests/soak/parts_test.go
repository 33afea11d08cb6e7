package soak

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// measured has bench measure figures, and returns pgtick's. What is measured there is not measured once more here.
func measured(t *testing.T, only string, settings ...string) map[string]float64 {
	t.Helper()
	folder := filepath.Join("..", "..", "bench")
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", ".", "-only", only}, settings...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = folder, os.Stdout, os.Stderr
	require.NoError(t, cmd.Run())
	text, err := os.ReadFile(filepath.Join(folder, "out", "latest.json"))
	require.NoError(t, err)
	var all map[string]struct{ PgTick float64 }
	require.NoError(t, json.Unmarshal(text, &all))
	values := map[string]float64{}
	for name, figure := range all {
		values[name] = figure.PgTick
	}
	return values
}

func TestBacklog_OfAMillion_DrainsAsFastAsAnEmptyQueue(t *testing.T) {
	if full() {
		jobs := share(1000000)
		kept := measured(t, "^backlog_kept$", "-waiting", fmt.Sprint(jobs))["backlog_kept"]
		seen.add("\na backlog of %d drains at %.0f %% of the speed of one of 50,000", jobs, kept)
		require.InDelta(t, 100, kept, 15)
		return
	}
	t.Parallel()
	const jobs = 4000
	db := pgtest.New(t)
	db.Quiet(t)
	do(t, db, `select count(*) from pgtick.enqueue_many('test.noop', array_fill('{}'::jsonb, array[$1::int]))`, jobs)
	r := work(t, withTasks, pgtest.RunnerURL(t, db), "alone", nil)
	becomes(t, db, within, `select not exists (select from pgtick.live_jobs)`)
	r.stop()
	require.Equal(t, jobs, ask[int](t, db, `select count(distinct h.id) from pgtick.history as h where h.state = 'done'`))
}

// The effects of a runner's jobs are rows that the test reads, whatever pgtick says of them.
const effects = `create table public.effects (job_id bigint not null, attempt int not null); grant insert on public.effects to pgtick_runner`

func TestRunners_FiftyOfThem_DoEachJobOnce(t *testing.T) {
	if !full() {
		t.Parallel()
		db := pgtest.New(t)
		db.Quiet(t)
		crew{db: db, url: pgtest.RunnerURL(t, db), size: 4, jobs: 400}.work(t, "")
		return
	}
	t.Run("direct", func(t *testing.T) {
		db := pgtest.NewOn(t, server(t, false, map[string]string{"max_connections": "400", "shared_buffers": "256MB", "max_wal_size": "2GB"}))
		db.Quiet(t)
		crew{db: db, url: pgtest.RunnerURL(t, db), size: 50, jobs: share(100000)}.work(t, "max_connections 400")
	})
	// The smallest project of a hosted provider has 60 connections, which is not enough for fifty runners of five each. A pooler in front of it has.
	t.Run("pooler", func(t *testing.T) {
		db := pgtest.NewOn(t, server(t, false, map[string]string{"max_connections": "60", "shared_buffers": "256MB", "max_wal_size": "2GB"}))
		db.Quiet(t)
		runner := pgtest.RunnerURL(t, db)
		pooled := pgtest.StartPgBouncer(t, db, "transaction")
		crew{db: db, url: withHostOf(t, runner, pooled), size: 50, jobs: share(100000)}.work(t, "max_connections 60, PgBouncer in transaction mode")
	})
}

func withHostOf(t *testing.T, login, place string) string {
	t.Helper()
	from, err := pgx.ParseConfig(login)
	require.NoError(t, err)
	to, err := pgx.ParseConfig(place)
	require.NoError(t, err)
	return strings.Replace(login, fmt.Sprintf("%s:%d", from.Host, from.Port), fmt.Sprintf("%s:%d", to.Host, to.Port), 1)
}

// crew is some runners on one database.
type crew struct {
	db         *pgtest.DB
	url        string
	size, jobs int
}

func (c crew) work(t *testing.T, how string) {
	t.Helper()
	do(t, c.db, effects)
	all := make([]*process, c.size)
	for i := range all {
		all[i] = work(t, withTasks, c.url, fmt.Sprint("runner ", i+1), nil)
	}
	awaitRunners(t, c.db, c.size)
	begun := time.Now()
	for done := 0; done < c.jobs; done += 10000 {
		do(t, c.db, `select count(*) from pgtick.enqueue_many('test.effect', array_fill('{}'::jsonb, array[$1::int]))`, min(10000, c.jobs-done))
	}
	connections := 0
	for ask[bool](t, c.db, `select exists (select from pgtick.live_jobs)`) {
		connections = max(connections, ask[int](t, c.db, `select count(*) from pg_stat_activity as a where a.datname = current_database()`))
		require.Less(t, time.Since(begun), 20*time.Minute, live(t, c.db))
	}
	took := time.Since(begun)
	require.Equal(t, []int{c.jobs, c.jobs}, list[int](t, c.db, `select unnest(array[count(*), count(distinct e.job_id)])::int from public.effects as e`), "effects, and jobs that had one")
	require.Equal(t, c.jobs, ask[int](t, c.db, `select count(*) from pgtick.jobs as j where j.state = 'done'`))
	again := ask[int](t, c.db, `select count(*) from pgtick.jobs as j where j.attempt > 1`) // where a machine is so busy that a connection times out
	shares := list[float64](t, c.db, `select count(h.id)::float8 from pgtick.runner_leases as r left join pgtick.history as h on h.runner_id = r.id group by r.id order by 1`)
	require.Len(t, shares, c.size)
	require.Zero(t, ask[int](t, c.db, `select count(*) from pgtick.runner_leases as r where r.ended_at is not null`), "runners that were found dead")
	hear := ask[int](t, c.db, `select count(*) from pgtick.runner_leases as r where r.wakes`)
	for _, p := range all {
		p.stop()
	}
	even := float64(c.jobs) / float64(c.size)
	seen.add("\n%d runners, %s: %d jobs, each done once, %d at a later attempt, %.0f a second; shares of %.0f (%.0f %% of an equal one) to %.0f (%.0f %%), median %.0f; connections to the server at most %d; notifications reach %d",
		c.size, how, c.jobs, again, float64(c.jobs)/took.Seconds(), shares[0], 100*shares[0]/even, shares[len(shares)-1], 100*shares[len(shares)-1]/even, quantile(shares, 0.5), connections, hear)
}

func TestQueues_TenThousand_AreAllWorkedOff_AndAskedForNothing(t *testing.T) {
	if !full() {
		t.Parallel()
	}
	queues, each := of(share(10000), 100), 3
	var db *pgtest.DB
	if full() {
		db = pgtest.NewOn(t, server(t, false, map[string]string{"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all", "shared_buffers": "256MB"}))
		do(t, db, `create extension pg_stat_statements`)
	} else {
		db = pgtest.New(t)
	}
	db.Quiet(t)
	do(t, db, effects)
	names := make([]string, queues)
	for i := range names {
		names[i] = fmt.Sprintf("q%d", i)
	}
	r := work(t, withTasks, pgtest.RunnerURL(t, db), "alone", []string{"PGTICK_QUEUES=" + strings.Join(names, ",")})
	awaitRunners(t, db, 1)
	begun := time.Now()
	do(t, db, `select count(*) from unnest($1::text[]) as q, pgtick.enqueue_many('test.effect', array_fill('{}'::jsonb, array[$2::int]), p_queue => q)`, names, each)
	enqueued := time.Since(begun)
	becomes(t, db, 30*time.Minute, `select not exists (select from pgtick.live_jobs)`)
	took := time.Since(begun)
	require.Equal(t, []int{queues * each, queues * each}, list[int](t, db, `select unnest(array[count(*), count(distinct e.job_id)])::int from public.effects as e`))
	require.Equal(t, queues, ask[int](t, db, `select count(distinct j.queue) from pgtick.jobs as j where j.state = 'done'`))
	if full() {
		seen.add("\n%d queues with %d jobs each, one runner: enqueued in %.1f s, done in %.1f s (%.0f jobs/s)", queues, each, enqueued.Seconds(), took.Seconds(), float64(queues*each)/took.Seconds())
	}
	do(t, db, `vacuum pgtick.live_jobs`) // what has just been done would be looked at
	pages := map[int]int{}
	for _, n := range []int{1, queues} {
		pages[n] = pagesOfAClaim(t, db, names[:n])
	}
	require.Less(t, pages[queues], 10*pages[1]+500, "pages of a claim that finds nothing in %d queues; in one queue it reads %d", queues, pages[1])
	if full() {
		seen.add("an empty claim: %d pages of 1 queue, %d of %d; %s", pages[1], pages[queues], queues, statementsOfAClaim(t, db, names))
		seen.add("%s", idling(t, db))
	}
	r.stop()
}

const emptyClaim = "select count(*) from pgtick.claim(%d, $1::text[], '{test.effect}', 100)"

// pagesOfAClaim is how many pages a claim that finds nothing touches, at best of four.
func pagesOfAClaim(t *testing.T, db *pgtest.DB, queues []string) int {
	t.Helper()
	id := ask[int64](t, db, `select pgtick.register('asks', $1, '{test.effect}')`, queues)
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	best := math.MaxInt
	for range 4 {
		var text string
		var plan []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			} `json:"Plan"`
		}
		require.NoError(t, conn.QueryRow(t.Context(), "explain (analyze, buffers, format json) "+fmt.Sprintf(emptyClaim, id), queues).Scan(&text))
		require.NoError(t, json.Unmarshal([]byte(text), &plan))
		best = min(best, plan[0].Plan.Hit+plan[0].Plan.Read)
	}
	do(t, db, `select pgtick.leave($1)`, id)
	return best
}

// statementsOfAClaim counts those within the functions as well.
func statementsOfAClaim(t *testing.T, db *pgtest.DB, queues []string) string {
	t.Helper()
	id := ask[int64](t, db, `select pgtick.register('counts', $1, '{test.effect}')`, queues)
	sql := fmt.Sprintf(emptyClaim, id)
	const soFar = `select coalesce(sum(s.calls) filter (where s.toplevel), 0)::bigint, coalesce(sum(s.calls) filter (where not s.toplevel), 0)::bigint,
		coalesce(sum(s.total_exec_time) filter (where s.toplevel), 0) from pg_stat_statements as s where s.userid = current_user::regrole and s.query not like '%pg_stat_statements%'`
	var before, after struct {
		top, within int64
		ms          float64
	}
	do(t, db, sql, queues)
	require.NoError(t, db.Pool.QueryRow(t.Context(), soFar).Scan(&before.top, &before.within, &before.ms))
	const times = 10
	for range times {
		do(t, db, sql, queues)
	}
	require.NoError(t, db.Pool.QueryRow(t.Context(), soFar).Scan(&after.top, &after.within, &after.ms))
	do(t, db, `select pgtick.leave($1)`, id)
	require.EqualValues(t, times, after.top-before.top)
	return fmt.Sprintf("1 statement, %.1f within it, %.2f ms", float64(after.within-before.within)/times, (after.ms-before.ms)/times)
}

// idling is what the runner asks of the server while there is nothing to do.
func idling(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	const soFar = `select coalesce(sum(s.calls), 0)::bigint, coalesce(sum(s.shared_blks_hit + s.shared_blks_read), 0)::bigint, coalesce(sum(s.shared_blks_dirtied), 0)::bigint, coalesce(sum(s.total_exec_time), 0)
		from pg_stat_statements as s where s.toplevel and s.userid = 'pgtick_runner'::regrole`
	type asked struct {
		calls, pages, dirtied int64
		ms                    float64
	}
	look := func() (a asked) {
		require.NoError(t, db.Pool.QueryRow(t.Context(), soFar).Scan(&a.calls, &a.pages, &a.dirtied, &a.ms))
		return a
	}
	becomes(t, db, within, `select exists (select from pgtick.sleepers as s where s.until > pgtick.now())`)
	const watched = time.Minute
	before := look()
	<-time.After(watched)
	after := look()
	per := watched.Seconds()
	return fmt.Sprintf("idle: %.2f statements a second, %.0f pages a second, %.0f of them written to, %.1f ms of the server's time a second",
		float64(after.calls-before.calls)/per, float64(after.pages-before.pages)/per, float64(after.dirtied-before.dirtied)/per, (after.ms-before.ms)/per)
}

func TestSchedules_AHundredThousand_AreAccountedFor(t *testing.T) {
	if full() {
		// Each run of these ends with an error unless every schedule that was due has exactly one row for its slot.
		schedules := share(100000)
		f := measured(t, "^tick_(none_)?100k$", "-runs", "1", "-schedules", fmt.Sprint(schedules))
		var lines []string // bench names its figures by the full count
		for name, value := range f {
			lines = append(lines, fmt.Sprintf("%s %s", name, short(value)))
		}
		slices.Sort(lines)
		seen.add("\n%d schedules: %s", schedules, strings.Join(lines, ", "))
		require.Less(t, f["tick_100k"], 60.0, "seconds until all that were due in one minute are accounted for")
		return
	}
	t.Parallel()
	const schedules = 100
	db := pgtest.New(t)
	db.Quiet(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 6, 11, 59, 30, 0, time.UTC))
	do(t, db, `select count(pgtick.schedule('s' || i, case i % 3 when 0 then '* * * * *' when 1 then '0 12 * * *' else '*/5 * * * *' end, 'noop')) from generate_series(1, $1::int) as i`, schedules)
	do(t, db, "select pgtick.tick()")
	require.Zero(t, ask[int](t, db, "select count(*) from pgtick.slots"), "none is due")
	pgtest.SetNow(t, db, time.Date(2031, 5, 6, 12, 0, 1, 0, time.UTC))
	both := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := db.Pool.Exec(t.Context(), "call pgtick.run_ticks()")
			both <- err
		}()
	}
	require.NoError(t, <-both)
	require.NoError(t, <-both)
	do(t, db, "call pgtick.run_ticks()") // what one left to the other
	require.Equal(t, []int{schedules, schedules, schedules}, list[int](t, db, `select unnest(array[count(*), count(distinct s.schedule), count(distinct s.job_id)])::int from pgtick.slots as s
		where s.slot = '2031-05-06 12:00+00' and s.fate = 'enqueued'`))
	require.Empty(t, list[string](t, db, `select u.schedule from pgtick.unaccounted_slots('1 day') as u`))
}
