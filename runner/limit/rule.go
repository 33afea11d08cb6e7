package limit

import (
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// What a rule may hold. Within these the script's numbers are exact.
const (
	maxTask   = 200
	maxRate   = 1_000_000
	maxBurst  = 1_000_000
	minPeriod = time.Second
	maxPeriod = 31 * 24 * time.Hour
	maxRefill = 366 * 24 * time.Hour
)

// minSlack is how late the jobs that wait for their time may be, all of them, without any being put off again. A runner claims several at a time,
// some ten milliseconds apart. Where a burst gives more room than that, it counts instead.
const minSlack = 100 * time.Millisecond

// Rule lets Rate jobs of a task start in each Period, and Burst of them at once.
type Rule struct {
	Task   string
	Rate   int64
	Period time.Duration
	Burst  int64
}

// RuleError says which field of a rule is wrong.
type RuleError struct{ Task, Field, Value, Must string }

func (e *RuleError) Error() string {
	return fmt.Sprintf("limit of task %q: %s %s: it must be %s", e.Task, e.Field, e.Value, e.Must)
}

// Check returns a *RuleError for a rule that cannot be kept.
func (r Rule) Check() error {
	wrong := func(field string, value any, must string) error {
		return &RuleError{Task: r.Task, Field: field, Value: fmt.Sprint(value), Must: must}
	}
	switch length := utf8.RuneCountInString(r.Task); {
	case length < 1 || length > maxTask:
		return wrong("task", strconv.Quote(r.Task), "a name of 1 to 200 characters")
	case r.Rate < 1 || r.Rate > maxRate:
		return wrong("rate", r.Rate, "1 to 1000000 jobs a period; for none at all pause the queue")
	case r.Period < minPeriod || r.Period > maxPeriod || r.Period%time.Microsecond != 0:
		return wrong("period", r.Period, "1 second to 31 days, in whole microseconds")
	case r.Burst < 1 || r.Burst > maxBurst:
		return wrong("burst", r.Burst, "1 to 1000000 jobs at once")
	case float64(r.Burst)*float64(r.Period)/float64(r.Rate) > float64(maxRefill):
		return wrong("burst", r.Burst, fmt.Sprintf("at most %d at this rate, what 366 days bring back", int64(float64(maxRefill)*float64(r.Rate)/float64(r.Period))))
	}
	return nil
}

// interval of one job of this many runners' shares: the local counterpart of the script's whole and rest, rounded up.
func (r Rule) interval(runners int) time.Duration {
	return time.Duration(min(math.Ceil(float64(r.Period)*float64(runners)/float64(r.Rate)), float64(100*maxRefill)))
}

// share of the burst that one of so many runners has: together they have no more than the burst, but one each.
func (r Rule) share(runners int) int64 { return max(1, r.Burst/int64(runners)) }

// terms are a rule as the script takes it. In microseconds: an interval is whole + rest/rate.
type terms struct {
	name                string // tells rules apart
	whole, rest, rate   int64
	spread, slack, full int64
}

func (r Rule) terms() terms {
	period := r.Period.Microseconds()
	spread := (r.Burst - 1) * period / r.Rate
	return terms{
		name:  fmt.Sprintf("%d/%d/%d", r.Rate, period, r.Burst),
		whole: period / r.Rate, rest: period % r.Rate, rate: r.Rate,
		spread: spread, slack: max(spread, minSlack.Microseconds()), full: (r.Burst*period + r.Rate - 1) / r.Rate,
	}
}
