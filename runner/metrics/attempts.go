package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of names. A registry has some dozens of tasks; who makes up names, one for each user say, gets so many series and no more.
const (
	mostTasks     = 200
	mostQueues    = 50
	mostPairs     = 300 // of a task and a queue
	mostSchedules = 100
	other         = "other"
)

// names lets the first ones through, and puts "other" in place of the rest.
type names struct {
	most  int
	known map[string]struct{}
}

func (n *names) bounded(name string) string {
	if _, known := n.known[name]; known {
		return name
	}
	if len(n.known) >= n.most {
		return other
	}
	if n.known == nil {
		n.known = map[string]struct{}{}
	}
	n.known[name] = struct{}{}
	return name
}

// attempts are the metrics of what has ended. What belongs to a task and a queue is looked up once: it is asked for at each job's end.
type attempts struct {
	finished    *prometheus.CounterVec
	waited, ran *prometheus.HistogramVec

	mu     *sync.RWMutex
	tasks  *names
	queues *names
	pairs  map[pair]*series
}

type pair struct{ task, queue string }

// series are those of a pair.
type series struct {
	finished    *prometheus.CounterVec // but for the outcome
	done        prometheus.Counter
	waited, ran prometheus.Observer
}

func newAttempts() attempts {
	return attempts{
		finished: counters("attempts_finished_total", "Attempts ended, by outcome: done, failed, error, snoozed, waiting, released, cancelled, fenced.", "task", "queue", "outcome"),
		waited:   prometheus.NewHistogramVec(histogram("job_wait_seconds", "Time between the moment a job could run and its claim.", seconds()), []string{"queue"}),
		ran:      prometheus.NewHistogramVec(histogram("attempt_duration_seconds", "Time that attempts ran.", seconds()), []string{"task"}),
		mu:       &sync.RWMutex{},
		tasks:    &names{most: mostTasks},
		queues:   &names{most: mostQueues},
		pairs:    map[pair]*series{},
	}
}

func (a *attempts) count(task, queue, outcome string, waited, ran time.Duration) {
	s := a.of(task, queue)
	if outcome == "done" {
		s.done.Inc()
	} else {
		s.finished.WithLabelValues(outcome).Inc()
	}
	s.waited.Observe(waited.Seconds())
	s.ran.Observe(ran.Seconds())
}

func (a *attempts) of(task, queue string) *series {
	p := pair{task, queue}
	a.mu.RLock()
	s := a.pairs[p]
	a.mu.RUnlock()
	if s != nil {
		return s
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p = pair{a.tasks.bounded(task), a.queues.bounded(queue)}
	if a.pairs[p] == nil && len(a.pairs) >= mostPairs {
		p = pair{other, other}
	}
	if a.pairs[p] == nil {
		a.pairs[p] = a.make(p)
	}
	return a.pairs[p]
}

func (a *attempts) make(p pair) *series {
	finished := a.finished.MustCurryWith(prometheus.Labels{"task": p.task, "queue": p.queue})
	return &series{finished: finished, done: finished.WithLabelValues("done"), waited: a.waited.WithLabelValues(p.queue), ran: a.ran.WithLabelValues(p.task)}
}
