package metrics

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
)

// ReadEvery is how often a runner reads.
const ReadEvery = 15 * time.Second

const (
	healthEvery = time.Minute      // it goes through all schedules
	readWithin  = 5 * time.Second  // a connection and an answer, or it is left
	scrapedFor  = 2 * time.Minute  // after the last scrape it goes on reading so long
	staleAfter  = time.Minute      // and what is older is not told
	sayEvery    = 10 * time.Minute // that it could not read
	openAtMost  = 5 * time.Minute  // a transaction, before entries are counted without it
)

// lateness is pgtick.lateness_bounds(), in seconds; a test compares them.
func lateness() []float64 { return []float64{0.1, 1, 5, 15, 60, 120, 600, 3600, 86400} }

// reading is what the database was last found to say. Collect tells it from memory, and that somebody wants to know; Read asks the database while
// somebody does.
type reading struct {
	scraped chan struct{}
	took    prometheus.Histogram
	failed  prometheus.Counter

	mu      sync.Mutex
	at      time.Time // of the last one; zero: there was none
	wanted  time.Time // when it was last asked for
	values  []jobs.Measure
	health  map[string]int64
	slots   map[string]float64 // counted since the start, by fate
	late    []uint64           // by bucket, not cumulated; the last one is above all bounds
	lateSum float64
	entries map[string]float64 // counted since the start, by type
}

// position is up to where slots and entries have been counted.
type position struct {
	from   jobs.MeasureFrom
	openAt time.Time // when the newest entry was seen that has not been counted
	health time.Time // when that was last read
	said   time.Time // when it was last said that it could not
}

// The fates of slots and the types of entries, so that each is told from the start, with 0.
func fates() []string {
	return []string{"enqueued", "caught_up", "run_now", "skipped_overlap", "skipped_paused", "skipped_range", "missed", "missed_range"}
}

func types() []string {
	return []string{"deduction", "addition", "allocation", "refund", "adjustment", "hold", "capture", "release", "transfer_out", "transfer_in"}
}

func newReading() *reading {
	return &reading{
		scraped: make(chan struct{}, 1),
		took: prometheus.NewHistogram(histogram("database_read_seconds", "Time that it took to read what the database knows.",
			[]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5})),
		failed:  counter("database_read_failures_total", "Times that what the database knows could not be read."),
		slots:   zeros(fates()),
		late:    make([]uint64, len(lateness())+1),
		entries: zeros(types()),
	}
}

func zeros(of []string) map[string]float64 {
	all := map[string]float64{}
	for _, name := range of {
		all[name] = 0
	}
	return all
}

// Read asks the database, once at the start and then so often while somebody scrapes, until ctx ends.
func (m *Metrics) Read(ctx context.Context, db jobs.DB, log *logrus.Entry, every time.Duration) {
	var p position
	for ctx.Err() == nil {
		began := time.Now()
		m.reading.once(ctx, db, log, &p)
		select {
		case <-ctx.Done():
		case <-time.After(every - time.Since(began)):
		}
		m.reading.awaitScrape(ctx)
	}
}

// awaitScrape returns at once when there was one lately.
func (r *reading) awaitScrape(ctx context.Context) {
	for {
		r.mu.Lock()
		wanted := time.Since(r.wanted) < scrapedFor
		r.mu.Unlock()
		if wanted {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-r.scraped:
		}
	}
}

// once reads once. Where the tasks have all connections for longer, or the database is away, that is all right: the next one follows.
func (r *reading) once(ctx context.Context, db jobs.DB, log *logrus.Entry, p *position) {
	within, end := context.WithTimeout(ctx, readWithin)
	defer end()
	began := time.Now()
	values, err := jobs.ReadMeasures(within, db, p.from)
	if err == nil && began.Sub(p.health) >= healthEvery {
		p.health = began
		err = r.readHealth(within, db)
	}
	if values != nil {
		r.take(values, p, began)
		r.took.Observe(time.Since(began).Seconds())
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	r.failed.Inc()
	if time.Since(p.said) >= sayEvery {
		p.said = time.Now()
		log.WithError(err).Warn("could not read for /metrics what the database knows; trying again")
	}
}

func (r *reading) readHealth(ctx context.Context, db jobs.DB) error {
	health, err := jobs.ReadHealth(ctx, db)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.health = health // nothing, where it is not known
	return err
}

// take adds what was counted, and says from where to count on.
func (r *reading) take(values []jobs.Measure, p *position, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.values = now, r.values[:0]
	var newest int64
	var open string
	for _, v := range values {
		switch v.What {
		case "slots":
			r.slots[v.Label] += v.Value
			if v.Part >= 0 {
				r.late[min(v.Part, len(r.late)-1)] += uint64(v.Value)
			}
		case "slots_late":
			r.lateSum += v.Value
		case "slots_until":
			p.from.SlotsAfter = int64(v.Value)
		case "entries":
			r.entries[v.Label] += v.Value
		case "entries_counted":
			p.from.EntriesAfter = max(p.from.EntriesAfter, int64(v.Value))
		case "entries_newest":
			newest, open = int64(v.Value), v.Label
		default:
			r.values = append(r.values, v)
		}
	}
	p.entriesSeen(newest, open, now)
}

// entriesSeen: what is there at the first reading is not counted. Later on, what was the newest is counted once all that was open when it was
// seen has ended; a transaction that stays open for minutes does not hold that up for ever.
func (p *position) entriesSeen(newest int64, open string, now time.Time) {
	switch {
	case !p.from.Begun:
		p.from.Begun, p.from.EntriesAfter, p.from.EntriesUntil = true, newest, newest
	case p.from.EntriesAfter >= p.from.EntriesUntil:
		p.from.EntriesUntil, p.from.EntriesOpen, p.openAt = newest, open, now
	case now.Sub(p.openAt) > openAtMost:
		p.from.EntriesOpen = ""
	}
}

var (
	readAt         = desc("database_read_timestamp_seconds", "When the database was last read for what it knows; the figures below are of then, and are left out when that is more than a minute ago.")
	queueDepth     = desc("queue_depth", "Jobs that could run now, counted up to 10,000 for each task and priority, and 50,000 in all.", "queue")
	queueMore      = desc("queue_depth_is_more", "1 where the depth is more than what was counted.", "queue")
	queueOldest    = desc("queue_oldest_job_age_seconds", "How long the longest of them could have run.", "queue")
	queuePaused    = desc("queue_paused", "1 for each queue that is paused.", "queue")
	jobsLive       = desc("live_jobs", "Jobs that have not ended, as the server's statistics have it.")
	jobsDead       = desc("live_jobs_dead_rows", "Dead rows among them that vacuum has not taken away yet.")
	runners        = desc("runners", "Runners that have not left, by state: alive, late.", "state")
	clocks         = desc("clock_ticked_timestamp_seconds", "When each kind of clock (runner, pg_cron, other) last ticked.", "clock")
	slotDue        = desc("slot_due_age_seconds", "How long the oldest slot has been due that no clock has taken; 0: none is.")
	slotsTotal     = desc("slots_total", "Slots accounted for since this runner began to read, by any clock: enqueued, caught_up, run_now, skipped_overlap, skipped_paused, skipped_range, missed, missed_range.", "fate")
	slotLateness   = desc("slot_lateness_seconds", "How long after their time slots were taken that have a job (enqueued, caught_up).")
	health         = desc("health_problems", "Rows of pgtick.health by kind of problem; none when all is well.", "what")
	creditEntries  = desc("credit_transactions_total", "Credit transactions made since this runner began to read, by type.", "type")
	creditPending  = desc("credit_transactions_pending", "Credit transactions that are PENDING, counted up to 10,000.")
	creditUnsynced = desc("credit_transactions_unsynced", "Completed credit transactions that the analytics target does not have, counted up to 10,000.")
	creditHolds    = desc("credit_holds_open", "Open holds, counted up to 10,000.")
	creditExpired  = desc("credit_holds_expired", "Those of them that have expired and were not cleaned up, counted up to 10,000.")
	creditWrong    = desc("credit_violations", "Accounts with an entry among the newest 200 that do not agree with their last entry. All of the ledger is proved by pgtick credits verify.")
)

// Of each kind of value the metric, and whether its label is the name of a queue.
var byWhat = map[string]*prometheus.Desc{
	"queue_depth": queueDepth, "queue_more": queueMore, "queue_oldest": queueOldest, "queue_paused": queuePaused, "jobs_live": jobsLive, "jobs_dead_rows": jobsDead,
	"runners": runners, "clock": clocks, "slot_due": slotDue, "entries_pending": creditPending, "entries_unsynced": creditUnsynced,
	"holds_open": creditHolds, "holds_expired": creditExpired, "violations": creditWrong,
}

// Describe implements prometheus.Collector.
func (r *reading) Describe(to chan<- *prometheus.Desc) {
	r.took.Describe(to)
	r.failed.Describe(to)
	for _, d := range append(slices.Collect(maps.Values(byWhat)), readAt, slotsTotal, slotLateness, health, creditEntries) {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (r *reading) Collect(to chan<- prometheus.Metric) {
	r.took.Collect(to)
	r.failed.Collect(to)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = time.Now()
	select {
	case r.scraped <- struct{}{}:
	default:
	}
	if r.at.IsZero() {
		return
	}
	to <- prometheus.MustNewConstMetric(readAt, prometheus.GaugeValue, float64(r.at.UnixMilli())/1000)
	r.collectCounted(to)
	if time.Since(r.at) > staleAfter {
		return
	}
	r.collectQueues(to)
	for _, v := range r.values {
		if d := byWhat[v.What]; d != nil && !ofQueue(v) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v.Value, labels(v)...)
		}
	}
	for what, n := range r.health {
		to <- prometheus.MustNewConstMetric(health, prometheus.GaugeValue, float64(n), what)
	}
}

func (r *reading) collectCounted(to chan<- prometheus.Metric) {
	for fate, n := range r.slots {
		to <- prometheus.MustNewConstMetric(slotsTotal, prometheus.CounterValue, n, fate)
	}
	for kind, n := range r.entries {
		to <- prometheus.MustNewConstMetric(creditEntries, prometheus.CounterValue, n, kind)
	}
	buckets, sum := map[float64]uint64{}, uint64(0)
	for i, bound := range lateness() {
		sum += r.late[i]
		buckets[bound] = sum
	}
	to <- prometheus.MustNewConstHistogram(slotLateness, sum+r.late[len(r.late)-1], r.lateSum, buckets)
}

func ofQueue(v jobs.Measure) bool {
	return v.What == "queue_depth" || v.What == "queue_more" || v.What == "queue_oldest" || v.What == "queue_paused"
}

func labels(v jobs.Measure) []string {
	if v.Label == "" {
		return nil
	}
	return []string{v.Label}
}

// collectQueues tells of the first queues by name, and of the rest together: their depths added up, otherwise the largest of them.
func (r *reading) collectQueues(to chan<- prometheus.Metric) {
	known := names{most: mostQueues}
	sums := map[*prometheus.Desc]map[string]float64{}
	for _, v := range r.values {
		if !ofQueue(v) {
			continue
		}
		d, queue := byWhat[v.What], known.bounded(v.Label)
		if sums[d] == nil {
			sums[d] = map[string]float64{}
		}
		if v.What == "queue_depth" {
			sums[d][queue] += v.Value
		} else {
			sums[d][queue] = max(sums[d][queue], v.Value)
		}
	}
	for d, byQueue := range sums {
		for queue, value := range byQueue {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, queue)
		}
	}
}
