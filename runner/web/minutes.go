package web

import (
	"math"
	"sync"
	"time"
)

// keptMinutes is how far the overview's charts go back.
const keptMinutes = 60

// Minutes counts what this process's runner finished, minute by minute, for the last hour: counting the rows of the history would cost the
// database more the more there is to see.
type Minutes struct {
	mu   sync.Mutex
	ring [keptMinutes + 1]minute
}

type minute struct {
	at     int64 // minutes since 1970
	done   int
	failed int // for good
	errors int // tried again
	waited spread
	ran    spread
}

// MinuteCounts are those of one minute.
type MinuteCounts struct {
	At               time.Time
	Done, Failed     int
	Errors           int
	Waited, Waited95 float64 // seconds: the half, and 95 of 100, waited no longer; NaN where nothing ended
	Ran, Ran95       float64
}

// Finished counts an attempt that has ended, as engine.Observer tells of it.
func (m *Minutes) Finished(outcome string, waited, ran time.Duration) {
	at := time.Now().Unix() / 60
	m.mu.Lock()
	defer m.mu.Unlock()
	now := &m.ring[at%int64(len(m.ring))]
	if now.at != at {
		*now = minute{at: at}
	}
	switch outcome {
	case "done":
		now.done++
	case "failed":
		now.failed++
	case "error":
		now.errors++
	default:
		return
	}
	now.waited.add(waited)
	now.ran.add(ran)
}

// Counts are those of the last hour, the earliest first; the present minute is the last.
func (m *Minutes) Counts() []MinuteCounts {
	at := time.Now().Unix() / 60
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]MinuteCounts, 0, keptMinutes)
	for i := at - keptMinutes + 1; i <= at; i++ {
		c := MinuteCounts{At: time.Unix(i*60, 0), Waited: math.NaN(), Waited95: math.NaN(), Ran: math.NaN(), Ran95: math.NaN()}
		if was := &m.ring[i%int64(len(m.ring))]; was.at == i {
			c.Done, c.Failed, c.Errors = was.done, was.failed, was.errors
			c.Waited, c.Waited95, c.Ran, c.Ran95 = was.waited.quantile(0.5), was.waited.quantile(0.95), was.ran.quantile(0.5), was.ran.quantile(0.95)
		}
		all = append(all, c)
	}
	return all
}

// spread counts lengths of time in steps of a quarter each, from 0.1 ms to some two hours.
type spread [82]int32

const (
	firstStep = 0.0001
	stepRatio = 1.25
)

func (s *spread) add(d time.Duration) {
	i := 0
	if seconds := d.Seconds(); seconds > firstStep {
		i = min(int(math.Log(seconds/firstStep)/math.Log(stepRatio))+1, len(s)-1)
	}
	s[i]++
}

// quantile is the length that this share of all does not pass, up to an eighth; NaN where there are none.
func (s *spread) quantile(share float64) float64 {
	all := int32(0)
	for _, n := range s {
		all += n
	}
	if all == 0 {
		return math.NaN()
	}
	left := int32(math.Ceil(float64(all) * share))
	for i, n := range s {
		if left -= n; left <= 0 {
			return firstStep * math.Pow(stepRatio, float64(i)-0.5)
		}
	}
	return math.NaN()
}
