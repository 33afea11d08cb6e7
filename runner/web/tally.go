package web

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
)

// TellEvery is how often a runner tells the database what has ended since, where anything has.
const TellEvery = 15 * time.Second

// Tally counts what this process's runner finished, until the database has added it to what all runners did. While nothing ends, nothing is told.
type Tally struct {
	mu      sync.Mutex
	since   tally // the last report
	latest  time.Time
	reports int64

	telling sync.Mutex
	told    *report // on its way, or to be sent again
}

// tally is how many attempts ended.
type tally struct {
	done, errors, failed int
	waited, ran          spread
}

// report keeps number and runner until it is known to have been taken, so that it counts once.
type report struct {
	tally
	number, runner int64
	at             time.Time // when the last of them ended
}

// Finished counts an attempt that has ended, as engine.Observer tells of it.
func (t *Tally) Finished(outcome string, waited, ran time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch outcome {
	case "done":
		t.since.done++
	case "failed":
		t.since.failed++
	case "error":
		t.since.errors++
	default:
		return
	}
	t.since.waited.add(waited)
	t.since.ran.add(ran)
	t.latest = time.Now()
}

// Run tells the database every TellEvery, until ctx ends.
func (t *Tally) Run(ctx context.Context, db jobs.DB, runner func() int64, log *logrus.Entry) {
	tick := time.NewTicker(TellEvery)
	defer tick.Stop()
	for well := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := t.tellSoon(ctx, db, runner())
		if err != nil && well && ctx.Err() == nil {
			log.WithError(err).Warn("the database does not know what has ended lately, which the dashboard's charts are made of; it is told again")
		}
		well = err == nil
	}
}

// tellFor is how long it may take: the tasks may have all connections.
const tellFor = 10 * time.Second

func (t *Tally) tellSoon(ctx context.Context, db jobs.DB, runner int64) error {
	ctx, end := context.WithTimeout(ctx, tellFor)
	defer end()
	return t.Tell(ctx, db, runner)
}

// Tell tells the database what has ended, once. After an error the same is told again by the next call, before anything else.
func (t *Tally) Tell(ctx context.Context, db jobs.DB, runner int64) error {
	t.telling.Lock()
	defer t.telling.Unlock()
	for {
		if t.told == nil {
			t.told = t.next(runner)
		}
		if t.told == nil {
			return nil
		}
		if ago := time.Since(t.told.at); ago <= time.Hour {
			err := jobs.CountAttempts(ctx, db, t.told.runner, t.told.ended(ago))
			if err != nil && !errors.Is(err, jobs.ErrRunnerGone) && !errors.Is(err, jobs.ErrBadValue) { // those will not pass
				return err
			}
		}
		t.told = nil
	}
}

// next is what has ended since the last report; nil: nothing, or there is no runner in whose name to tell it.
func (t *Tally) next(runner int64) *report {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since == (tally{}) || runner == 0 {
		return nil
	}
	t.reports++
	r := &report{tally: t.since, number: t.reports, runner: runner, at: t.latest}
	t.since = tally{}
	return r
}

func (r *report) ended(ago time.Duration) jobs.Ended {
	return jobs.Ended{Report: r.number, Done: r.done, Errors: r.errors, Failed: r.failed, Waited: r.waited.list(), Ran: r.ran.list(), Ago: ago}
}

// spread counts lengths of time in steps of a quarter each, from 0.1 ms to some two hours: as pgtick.attempt_counts has them.
type spread [82]int32

const (
	firstStep = 0.0001
	stepRatio = 1.25
)

func (s *spread) add(d time.Duration) {
	i := 0
	if seconds := d.Seconds(); seconds > firstStep {
		i = min(int(math.Ceil(math.Log(seconds/firstStep)/math.Log(stepRatio))), len(s)-1)
	}
	s[i]++
}

// list is without the zeros at its end.
func (s *spread) list() []int32 {
	n := len(s)
	for n > 0 && s[n-1] == 0 {
		n--
	}
	return s[:n]
}

// quantile is the length that this share of all does not pass, up to an eighth; NaN where there are none.
func quantile(counts []int64, share float64) float64 {
	all := int64(0)
	for _, n := range counts {
		all += n
	}
	if all == 0 {
		return math.NaN()
	}
	left := int64(math.Ceil(float64(all) * share))
	for i, n := range counts {
		if left -= n; left <= 0 {
			return firstStep * math.Pow(stepRatio, float64(i)-0.5)
		}
	}
	return math.NaN()
}
