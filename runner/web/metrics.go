package web

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/limit"
)

// Metrics counts what an engine does. It implements engine.Observer.
type Metrics struct {
	registry prometheus.Registerer
	claimed  prometheus.Counter
	heldBack prometheus.Counter
	decided  *prometheus.CounterVec
	late     *prometheus.CounterVec
	redis    prometheus.Counter
	local    prometheus.Gauge
	finished *prometheus.CounterVec
	waited   *prometheus.HistogramVec
	ran      *prometheus.HistogramVec
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

// NewRegistry is one with the metrics of the process.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// NewMetrics makes the metrics of one engine; Watch adds those that are read from its state. Where there are several engines, each metric
// carries the address of its database, as the label database.
func NewMetrics(registry prometheus.Registerer, database string) *Metrics {
	if database != "" {
		registry = prometheus.WrapRegistererWith(prometheus.Labels{"database": database}, registry)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgtick", Name: name, Help: help})
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "pgtick", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 11)}, labels)
	}
	m := &Metrics{
		registry: registry,
		claimed:  counter("jobs_claimed_total", "Jobs claimed by this runner."),
		heldBack: counter("jobs_held_back_total", "Claims that went back until their rate allows them."),
		decided: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgtick", Name: "limit_decisions_total",
			Help: "Decisions about rates, by who made them: redis, local."}, []string{"source"}),
		late: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgtick", Name: "limit_later_total",
			Help: "Those of them that put a job off."}, []string{"source"}),
		redis: counter("limit_redis_failures_total", "Questions about rates that Redis did not answer in time, or with an error."),
		local: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgtick", Name: "limits_local",
			Help: "1 while this runner keeps its share of each rate by itself, 0 while Redis keeps them for all."}),
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgtick", Name: "attempts_finished_total",
			Help: "Attempts ended, by outcome: done, failed, error, snoozed, waiting, released, cancelled, fenced."}, []string{"task", "queue", "outcome"}),
		waited:  histogram("job_wait_seconds", "Time between the moment a job could run and its claim.", "queue"),
		ran:     histogram("attempt_duration_seconds", "Time that attempts ran.", "task"),
		refused: counter("outcomes_refused_total", "Outcomes refused because the claim was gone."),
		ticked:  counter("tick_jobs_total", "Jobs that this runner's ticks made of slots."),
		byPoll:  counter("jobs_found_by_poll_total", "Jobs found by poll that a notification should have announced."),
		rescued: counter("claims_rescued_total", "Claims of dead runners that this runner gave back."),
		overdue: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pgtick", Name: "schedule_overdue",
			Help: "1 for each schedule that had no done job within must_finish_within when this runner last looked."}, []string{"schedule"}),
	}
	m.local.Set(1) // until Redis is reached
	m.registry.MustRegister(m.heldBack, m.decided, m.late, m.redis, m.local, m.claimed, m.finished, m.waited, m.ran, m.refused, m.ticked, m.byPoll, m.rescued, m.overdue)
	return m
}

// Watch adds gauges that are read from the engine's state at each scrape.
func (m *Metrics) Watch(status func() engine.Status) {
	gauge := func(name, help string, value func(engine.Status) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "pgtick", Name: name, Help: help},
			func() float64 { return value(status()) }))
	}
	gauge("claims_held", "Claims that this runner holds.", func(s engine.Status) float64 { return float64(s.Held) })
	gauge("listener_hears", "1 when notifications arrive, 0 when the runner only polls.", func(s engine.Status) float64 {
		if s.Wakes != nil && *s.Wakes {
			return 1
		}
		return 0
	})
	gauge("last_contact_timestamp_seconds", "When the database last took a heartbeat.", func(s engine.Status) float64 {
		return float64(s.LastContact.UnixMilli()) / 1000
	})
}

// Claimed implements engine.Observer.
func (m *Metrics) Claimed(jobs int) { m.claimed.Add(float64(jobs)) }

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
	m.finished.WithLabelValues(task, queue, outcome).Inc()
	m.waited.WithLabelValues(queue).Observe(waited.Seconds())
	m.ran.WithLabelValues(task).Observe(ran.Seconds())
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
	for _, name := range schedules {
		m.overdue.WithLabelValues(name).Set(1)
	}
}
