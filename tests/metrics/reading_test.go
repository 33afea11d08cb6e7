package metrics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/runner/metrics"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// measured are the values of pgtick.measure, by what and label.
func measured(t *testing.T, db *pgtest.DB, from jobs.MeasureFrom) map[string]float64 {
	t.Helper()
	values, err := jobs.ReadMeasures(t.Context(), db.Pool, from)
	require.NoError(t, err)
	all := map[string]float64{}
	for _, v := range values {
		key := v.What
		if v.Label != "" && v.What != "entries_newest" {
			key += " " + v.Label
		}
		if v.Part >= 0 {
			key += fmt.Sprint(" ", v.Part)
		}
		all[key] += v.Value
	}
	return all
}

func TestMeasure_TellsOfQueuesRunnersAndClocks(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	pgtest.SetNow(t, db, time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC))
	do(t, db, `select pgtick.enqueue('a', p_priority => p) from generate_series(0, 9) as p`)
	do(t, db, `select pgtick.enqueue('b', p_queue => 'mail')`)
	do(t, db, `select pgtick.enqueue('b', p_queue => 'later', p_run_at => pgtick.now() + interval '1 day')`)
	pgtest.Advance(t, db, 100*time.Second)
	do(t, db, `select pgtick.enqueue('a')`)
	do(t, db, `select pgtick.pause_queue('mail')`)
	do(t, db, `select pgtick.register('one', '{default}', '{a}', '1 hour'), pgtick.register('two', '{default}', '{a}', '10 seconds')`)
	require.Equal(t, 2, ask[int](t, db, `select count(*) from pgtick.claim((select min(id) from pgtick.runner_leases), '{default}', '{a}', 2)`))
	do(t, db, `select pgtick.schedule('hourly', '0 * * * *', 'a')`)
	do(t, db, `select pgtick.tick()`)
	pgtest.Advance(t, db, time.Minute)

	m := measured(t, db, jobs.MeasureFrom{})
	for key, want := range map[string]float64{
		"queue_depth default": 9, "queue_more default": 0, "queue_oldest default": 160,
		"queue_depth mail": 1, "queue_oldest mail": 160, "queue_paused mail": 1,
		"queue_depth later": 0, "queue_oldest later": 0,
		"runners alive": 1, "runners late": 1, "slot_due": 0,
		"clock other": float64(time.Date(2030, 1, 1, 12, 1, 40, 0, time.UTC).Unix()),
	} {
		require.Contains(t, m, key)
		require.InDelta(t, want, m[key], 0.001, key)
	}
	pgtest.Advance(t, db, time.Hour)
	require.InDelta(t, 160, measured(t, db, jobs.MeasureFrom{})["slot_due"], 0.001, "since 13:00")
	require.Equal(t, float64(2), measured(t, db, jobs.MeasureFrom{})["runners late"])
}

func TestMeasure_FromWhereNobodyWas_IsRefused(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	for arguments, says := range map[string]string{
		"p_slots_after => -1":                 `slots_after "-1"`,
		"p_slots_after => 253402300800000001": `slots_after "253402300800000001"`,
		"p_entries_open => ''":                `entries_open ""`,
		"p_entries_open => '1,2'":             `entries_open "1,2"`,
		"p_entries_open => '-1'":              `entries_open "-1"`,
	} {
		_, err := db.Pool.Exec(t.Context(), "select * from pgtick.measure("+arguments+")")
		var pg *pgconn.PgError
		require.ErrorAs(t, err, &pg, arguments)
		require.Equal(t, "TK000", pg.Code, "%s: %s", arguments, pg.Message)
		require.Contains(t, pg.Message, says)
	}
}

// A backlog is counted up to a bound, and what lies behind it costs nothing.
func TestMeasure_CountsNoTableInFull(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.enqueue_many('a', array_fill('{}'::jsonb, array[11000]))`)
	do(t, db, `select pgtick.enqueue_many('a', array_fill('{}'::jsonb, array[5000]), 'later', p_run_at => pgtick.now() + interval '1 day')`)
	do(t, db, `select credits.open_account('00000000-0000-0000-0000-000000000001')`)
	do(t, db, `select credits.grant(`+user+`, 1000, 'g')`)
	do(t, db, `select credits.charge_many(array_fill('00000000-0000-0000-0000-000000000001'::uuid, array[20]), array_fill(1::bigint, array[20]), array(select 'k' || i from generate_series(1, 20) as i))`)
	do(t, db, `select pgtick.schedule('s' || i, '@every 1m', 'a') from generate_series(1, 300) as i`)
	pgtest.Advance(t, db, 5*time.Minute)
	do(t, db, `call pgtick.run_ticks()`)

	session, err := pgx.Connect(t.Context(), db.URL) // a new one: what a session has read lately is counted with its next transaction
	require.NoError(t, err)
	defer func() { _ = session.Close(context.WithoutCancel(t.Context())) }()
	tx, err := session.Begin(t.Context())
	require.NoError(t, err)
	values, err := jobs.ReadMeasures(t.Context(), tx, jobs.MeasureFrom{Begun: true, EntriesUntil: 1000000})
	require.NoError(t, err)
	depth := map[string]float64{}
	for _, v := range values {
		depth[v.What+" "+v.Label] = v.Value
	}
	require.Equal(t, float64(10000), depth["queue_depth default"])
	require.Equal(t, float64(1), depth["queue_more default"])
	require.Zero(t, depth["queue_depth later"])
	rows, err := tx.Query(t.Context(), `select s.relname, s.seq_scan, s.seq_tup_read + coalesce(s.idx_tup_fetch, 0) from pg_stat_xact_user_tables as s
		where s.schemaname in ('pgtick', 'credits') and (s.seq_scan > 0 or s.idx_tup_fetch > 0 or s.seq_tup_read > 0)`)
	require.NoError(t, err)
	var name string
	var scans, read int
	_, err = pgx.ForEachRow(rows, []any{&name, &scans, &read}, func() error {
		t.Logf("%s: %d rows read", name, read)
		switch name {
		case "clocks", "paused_queues", "runner_leases": // of a few rows each
		default:
			require.Zero(t, scans, "%s was read from its beginning", name)
		}
		require.Less(t, read, 12000, name)
		return nil
	})
	require.NoError(t, err)
}

func TestMeasure_CountsEachSlotOnce_ByFateAndLateness(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	pgtest.SetNow(t, db, time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC))
	do(t, db, `select pgtick.schedule('minutely', '* * * * *', 'a', p_on_missed => 'skip', p_on_overlap => 'allow')`)
	from := jobs.MeasureFrom{Begun: true, SlotsAfter: int64(measured(t, db, jobs.MeasureFrom{})["slots_until"])}
	total := map[string]float64{}
	read := func() {
		m := measured(t, db, from)
		from.SlotsAfter = int64(m["slots_until"])
		maps.DeleteFunc(m, func(what string, _ float64) bool { return !strings.HasPrefix(what, "slots") || what == "slots_until" })
		for what, n := range m {
			total[what] += n
		}
	}
	tick := func(after time.Duration) {
		pgtest.Advance(t, db, after)
		do(t, db, `select pgtick.tick()`)
		read()
		read()
	}
	tick(60*time.Second + 500*time.Millisecond) // half a second late
	tick(60 * time.Second)
	tick(time.Hour - time.Second)
	do(t, db, `select pgtick.run_now('minutely')`)
	tick(25 * time.Hour) // more than a thousand are one row
	pgtest.Advance(t, db, 10*time.Second)
	read()
	read()
	want := map[string]float64{}
	rows, err := db.Pool.Query(t.Context(), `select 'slots ' || fate || case when fate in ('enqueued', 'caught_up')
		then ' ' || width_bucket(greatest(extract(epoch from lateness), 0)::float8, pgtick.lateness_bounds()) else '' end, sum(slots)::float8 from pgtick.slots group by 1`)
	require.NoError(t, err)
	var what string
	var n float64
	_, err = pgx.ForEachRow(rows, []any{&what, &n}, func() error { want[what] = n; return nil })
	require.NoError(t, err)
	late := ask[float64](t, db, `select sum(extract(epoch from lateness))::float8 from pgtick.slots where fate in ('enqueued', 'caught_up')`)
	got := maps.Clone(total)
	maps.DeleteFunc(got, func(what string, _ float64) bool { return strings.HasPrefix(what, "slots_late") })
	require.Equal(t, want, got)
	require.Greater(t, want["slots missed_range"], 1000.0)
	require.Equal(t, 1.0, want["slots run_now"])
	require.InDelta(t, late, total["slots_late enqueued 0"]+total["slots_late enqueued 1"]+total["slots_late enqueued 2"]+total["slots_late enqueued 3"]+total["slots_late enqueued 4"]+total["slots_late enqueued 5"], 0.001)
}

const user = `'00000000-0000-0000-0000-000000000001'`

// Ids are given out in one order, and entries seen in another.
func TestMeasure_CountsEachCreditEntryOnce_AlsoOneThatCommitsLate(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select credits.open_account(('00000000-0000-0000-0000-00000000000' || i)::uuid) from generate_series(1, 2) as i`)
	do(t, db, `select credits.grant(('00000000-0000-0000-0000-00000000000' || i)::uuid, 1000, 'before') from generate_series(1, 2) as i`)
	m := metricsOf(t)
	read := reader(t, m, db)
	read()
	late, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = late.Exec(t.Context(), `select credits.charge('00000000-0000-0000-0000-000000000002', 1, 'late')`)
	require.NoError(t, err)
	do(t, db, `select credits.charge(`+user+`, 1, 'c' || i) from generate_series(1, 3) as i`)
	do(t, db, `select credits.hold(`+user+`, 10, '1 minute', 'h')`)
	for range 3 {
		read()
	}
	require.Zero(t, m.value(t, "pgtick_credit_transactions_total", "deduction"), "one of them is still open")
	require.NoError(t, late.Commit(t.Context()))
	do(t, db, `select credits.submit(`+user+`, 'addition', 5, 's')`)
	pgtest.Advance(t, db, time.Hour)
	// Others that are open on the server, in other databases as well, are waited for, too.
	require.Eventually(t, func() bool { read(); return m.value(t, "pgtick_credit_transactions_total", "addition") == 1 }, within, time.Millisecond)
	read()
	for kind, want := range map[string]float64{"deduction": 4, "hold": 1, "addition": 1, "release": 0} {
		require.Equal(t, want, m.value(t, "pgtick_credit_transactions_total", kind), kind)
	}
	require.Equal(t, 1.0, m.value(t, "pgtick_credit_transactions_pending"))
	require.Equal(t, 1.0, m.value(t, "pgtick_credit_holds_open"))
	require.Equal(t, 1.0, m.value(t, "pgtick_credit_holds_expired"))
	require.Equal(t, ask[float64](t, db, `select count(*)::float8 from credits.transactions where not synced_to_supabase and status = 'COMPLETED'`), m.value(t, "pgtick_credit_transactions_unsynced"))
	require.Zero(t, m.value(t, "pgtick_credit_violations"))

	do(t, db, `set session_replication_role = replica; update credits.accounts set balance = balance + 1 where user_id = `+user+`; reset session_replication_role`)
	read()
	require.Equal(t, 1.0, m.value(t, "pgtick_credit_violations"))
}

func TestReading_TheBoundsOfLateness_AreTheDatabases(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	m := metricsOf(t)
	reader(t, m, db)()
	var bounds []float64
	for _, b := range m.family(t, "pgtick_slot_lateness_seconds").Metric[0].Histogram.Bucket {
		bounds = append(bounds, b.GetUpperBound())
	}
	require.Equal(t, ask[[]float64](t, db, `select pgtick.lateness_bounds()`), bounds)
}

func TestReading_KindsOfProblems_AreThoseOfPgtickHealth(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.enqueue('nobody has it')`)
	do(t, db, `select pgtick.register('deaf', '{default}', '{a}', '1 hour')`)
	do(t, db, `select pgtick.say_wakes((select max(id) from pgtick.runner_leases), false)`)
	m := metricsOf(t)
	reader(t, m, db)()
	require.Equal(t, 1.0, m.value(t, "pgtick_health_problems", "task without a runner"))
	require.Equal(t, 1.0, m.value(t, "pgtick_health_problems", "runner only polls"))
	require.Len(t, m.family(t, "pgtick_health_problems").Metric, ask[int](t, db, `select count(distinct what) from pgtick.health`))
}

// counting passes statements on, and counts them.
type counting struct {
	jobs.DB
	n    atomic.Int64
	fail atomic.Bool
}

func (c *counting) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.n.Add(1)
	if c.fail.Load() {
		return nil, errors.New("the line is cut")
	}
	return c.DB.Query(ctx, sql, args...)
}

func TestReading_WhileNobodyScrapes_AsksNothing(t *testing.T) {
	t.Parallel()
	db := &counting{DB: fresh(t).Pool}
	m := metricsOf(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { m.Read(ctx, db, logrus.NewEntry(logrus.New()), 5*time.Millisecond); close(ended) }()
	require.Eventually(t, func() bool { return db.n.Load() == 2 }, within, every, "once, at the start: figures and health")
	require.Never(t, func() bool { return db.n.Load() > 2 }, 300*time.Millisecond, every)
	m.gather(t)
	require.Eventually(t, func() bool { return db.n.Load() >= 5 }, within, every, "and on and on, without another scrape")
	stop()
	<-ended
}

func TestReading_ThatFails_IsCounted_AndSaidOnce_AndTriedAgain(t *testing.T) {
	t.Parallel()
	db := &counting{DB: fresh(t).Pool}
	db.fail.Store(true)
	m := metricsOf(t)
	log, hook := logtest.NewNullLogger()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { m.Read(ctx, db, logrus.NewEntry(log), 5*time.Millisecond); close(ended) }()
	require.Eventually(t, func() bool { return m.value(t, "pgtick_database_read_failures_total") >= 3 }, within, every)
	require.Nil(t, m.family(t, "pgtick_queue_depth"))
	db.fail.Store(false)
	require.Eventually(t, func() bool { return m.family(t, "pgtick_runners") != nil }, within, every)
	stop()
	<-ended
	require.Len(t, hook.AllEntries(), 1)
	require.Equal(t, "could not read for /metrics what the database knows; trying again", hook.LastEntry().Message)
}

// told are metrics of the test's own, with their registry.
type told struct {
	*metrics.Metrics
	registry *prometheus.Registry
}

func metricsOf(t *testing.T) told {
	t.Helper()
	registry := metrics.NewRegistry("test")
	return told{metrics.New(registry, ""), registry}
}

// reader returns a function that reads once.
func reader(t *testing.T, m told, db *pgtest.DB) func() {
	t.Helper()
	begin := make(chan chan struct{})
	step := &stepping{DB: db.Pool, begin: begin}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { m.Read(ctx, step, logrus.NewEntry(logrus.New()), time.Microsecond); close(ended) }()
	t.Cleanup(func() { stop(); <-ended })
	return func() {
		m.gather(t) // somebody wants to know
		before := m.reads(t)
		done := make(chan struct{})
		begin <- done
		<-done
		require.Eventually(t, func() bool { return m.reads(t) > before }, within, time.Millisecond)
	}
}

// stepping lets a reading begin when the test says so.
type stepping struct {
	jobs.DB
	begin chan chan struct{}
}

func (s *stepping) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if strings.Contains(sql, "pgtick.measure(") {
		select {
		case done := <-s.begin:
			close(done)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.DB.Query(ctx, sql, args...)
}

func (m told) gather(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	all, err := m.registry.Gather()
	require.NoError(t, err)
	return all
}

func (m told) family(t *testing.T, name string) *dto.MetricFamily {
	t.Helper()
	for _, f := range m.gather(t) {
		if f.GetName() == name {
			return f
		}
	}
	return nil
}

func (m told) reads(t *testing.T) uint64 {
	t.Helper()
	return m.family(t, "pgtick_database_read_seconds").Metric[0].Histogram.GetSampleCount()
}

// value of a metric, by the values of its labels in the order of their names; one that is not there is -1.
func (m told) value(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	f := m.family(t, name)
	for _, one := range f.GetMetric() {
		var have []string
		for _, l := range one.Label {
			have = append(have, l.GetValue())
		}
		if strings.Join(have, "\n") == strings.Join(labels, "\n") {
			return one.GetCounter().GetValue() + one.GetGauge().GetValue()
		}
	}
	return -1
}
