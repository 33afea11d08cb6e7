// Package metrics holds what a runner tells Prometheus: what its engine and its limiter do, and what the database knows.
//
// A scrape is answered from memory alone: no request costs the database a statement, and while nobody scrapes nothing is asked. How many series
// there are is bounded, whatever names tasks, queues and schedules have: those beyond a bound count under the name "other".
package metrics

import (
	"runtime"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/limit"
)

// Metrics counts what an engine does. It implements engine.Observer and limit.Observer.
type Metrics struct {
	registry prometheus.Registerer
	attempts attempts
	reading  *reading

	claimed  prometheus.Counter
	perClaim prometheus.Histogram
	heldBack prometheus.Counter
	decided  *prometheus.CounterVec
	late     *prometheus.CounterVec
	redis    prometheus.Counter
	local    prometheus.Gauge
	refused  prometheus.Counter
	ticked   prometheus.Counter
	byPoll   prometheus.Counter
	rescued  prometheus.Counter
	overdue  *prometheus.GaugeVec
}

var (
	_ engine.Observer = (*Metrics)(nil)
	_ limit.Observer  = (*Metrics)(nil)
)

// NewRegistry is one with the metrics of the process; version is the program's.
func NewRegistry(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgtick", Name: "build_info", Help: "Always 1: which program this is.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()}})
	build.Set(1)
	r.MustRegister(build)
	return r
}

// New makes the metrics of one engine; the methods Watch… add those that are read from its state. Where there are several engines, each metric
// carries the address of its database, as the label database.
func New(registry prometheus.Registerer, database string) *Metrics {
	if database != "" {
		registry = prometheus.WrapRegistererWith(prometheus.Labels{"database": database}, registry)
	}
	m := &Metrics{
		registry: registry,
		attempts: newAttempts(),
		reading:  newReading(),
		claimed:  counter("jobs_claimed_total", "Jobs claimed by this runner."),
		perClaim: prometheus.NewHistogram(histogram("claim_jobs", "How many jobs a claim gave, of those that gave any.", []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000})),
		heldBack: counter("jobs_held_back_total", "Claims that went back until their rate allows them."),
		decided:  counters("limit_decisions_total", "Decisions about rates, by who made them: redis, local.", "source"),
		late:     counters("limit_later_total", "Those of them that put a job off.", "source"),
		redis:    counter("limit_redis_failures_total", "Questions about rates that Redis did not answer in time, or with an error."),
		local: prometheus.NewGauge(gauge("limits_local",
			"1 while this runner keeps its share of each rate by itself, 0 while Redis keeps them for all.")),
		refused: counter("outcomes_refused_total", "Outcomes refused because the claim was gone."),
		ticked:  counter("tick_jobs_total", "Jobs that this runner's ticks made of slots."),
		byPoll:  counter("jobs_found_by_poll_total", "Jobs found by poll that a notification should have announced."),
		rescued: counter("claims_rescued_total", "Claims of dead runners that this runner gave back."),
		overdue: prometheus.NewGaugeVec(gauge("schedule_overdue",
			"1 for each schedule that had no done job within must_finish_within when this runner last looked; other: how many more."), []string{"schedule"}),
	}
	m.local.Set(1) // until Redis is reached
	for _, source := range []string{"redis", "local"} {
		m.decided.WithLabelValues(source)
		m.late.WithLabelValues(source)
	}
	registry.MustRegister(m.heldBack, m.decided, m.late, m.redis, m.local, m.claimed, m.perClaim, m.refused, m.ticked, m.byPoll, m.rescued, m.overdue)
	registry.MustRegister(m.attempts.finished, m.attempts.waited, m.attempts.ran, m.reading)
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgtick", Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgtick", Name: name, Help: help}, labels)
}

func gauge(name, help string) prometheus.GaugeOpts {
	return prometheus.GaugeOpts{Namespace: "pgtick", Name: name, Help: help}
}

func histogram(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Namespace: "pgtick", Name: name, Help: help, Buckets: buckets}
}

// seconds are buckets from 1 ms to 17 minutes.
func seconds() []float64 { return prometheus.ExponentialBuckets(0.001, 4, 11) }

// WatchEngine adds gauges that are read from the engine's state at each scrape.
func (m *Metrics) WatchEngine(status func() engine.Status) {
	m.watch("claims_held", "Claims that this runner holds.", func() float64 { return float64(status().Held) })
	m.watch("listener_hears", "1 when notifications arrive, 0 when the runner only polls.", func() float64 {
		if s := status(); s.Wakes != nil && *s.Wakes {
			return 1
		}
		return 0
	})
	m.watch("last_contact_timestamp_seconds", "When the database last took a heartbeat.", func() float64 {
		return float64(status().LastContact.UnixMilli()) / 1000
	})
}

func (m *Metrics) watch(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(gauge(name, help), value))
}

// WatchPool adds what is known of the connections for tasks.
func (m *Metrics) WatchPool(pool *pgxpool.Pool) { m.registry.MustRegister(poolCollector{pool}) }

// Claimed implements engine.Observer.
func (m *Metrics) Claimed(jobs int) {
	m.claimed.Add(float64(jobs))
	m.perClaim.Observe(float64(jobs))
}

// HeldBack implements engine.Observer.
func (m *Metrics) HeldBack(jobs int) { m.heldBack.Add(float64(jobs)) }

// Decided implements limit.Observer.
func (m *Metrics) Decided(source string, requests, later int) {
	m.decided.WithLabelValues(source).Add(float64(requests))
	m.late.WithLabelValues(source).Add(float64(later))
}

// RedisFailed implements limit.Observer.
func (m *Metrics) RedisFailed() { m.redis.Inc() }

// Switched implements limit.Observer.
func (m *Metrics) Switched(local bool) {
	m.local.Set(0)
	if local {
		m.local.Set(1)
	}
}

// Finished implements engine.Observer.
func (m *Metrics) Finished(task, queue, outcome string, waited, ran time.Duration) {
	m.attempts.count(task, queue, outcome, waited, ran)
}

// Refused implements engine.Observer.
func (m *Metrics) Refused(outcomes int) { m.refused.Add(float64(outcomes)) }

// Ticked implements engine.Observer.
func (m *Metrics) Ticked(jobs int) { m.ticked.Add(float64(jobs)) }

// FoundByPoll implements engine.Observer.
func (m *Metrics) FoundByPoll(jobs int) { m.byPoll.Add(float64(jobs)) }

// Rescued implements engine.Observer.
func (m *Metrics) Rescued(claims int) { m.rescued.Add(float64(claims)) }

// Overdue implements engine.Observer.
func (m *Metrics) Overdue(schedules []string) {
	m.overdue.Reset()
	known := names{most: mostSchedules}
	for _, name := range schedules {
		m.overdue.WithLabelValues(known.bounded(name)).Inc()
	}
}
