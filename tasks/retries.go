package tasks

import (
	"maps"
	"strconv"
	"time"
)

// RetryPolicy says when a job is tried again after an error. Exponential, Linear and Delays make one.
type RetryPolicy struct{ fields map[string]any }

// Exponential waits first, then factor times as long each time, at most most. What is 0 is the default: 5 seconds, 2, a day.
func Exponential(first time.Duration, factor float64, most time.Duration) RetryPolicy {
	p := RetryPolicy{map[string]any{"kind": "exponential"}}
	if factor != 0 {
		p.fields["factor"] = factor
	}
	return p.withTime("first", first).withTime("most", most)
}

// Linear waits step, then twice step, and so on, at most most; 0 stands for 30 days.
func Linear(step, most time.Duration) RetryPolicy {
	p := RetryPolicy{map[string]any{"kind": "linear", "step": seconds(step)}}
	return p.withTime("most", most)
}

// Delays waits as long as the list says, the last one again and again.
func Delays(delays ...time.Duration) RetryPolicy {
	texts := make([]string, len(delays))
	for i, d := range delays {
		texts[i] = seconds(d)
	}
	return RetryPolicy{map[string]any{"kind": "list", "delays": texts}}
}

// Jitter makes each wait longer or shorter by chance, by this share at most: 0.1 is a tenth.
func (p RetryPolicy) Jitter(share float64) RetryPolicy { return p.with("jitter", share) }

func (p RetryPolicy) withTime(field string, d time.Duration) RetryPolicy {
	if d == 0 {
		return p
	}
	return p.with(field, seconds(d))
}

func (p RetryPolicy) with(field string, value any) RetryPolicy {
	fields := maps.Clone(p.fields)
	if fields == nil {
		fields = map[string]any{}
	}
	fields[field] = value
	return RetryPolicy{fields}
}

// seconds is a duration as the database reads it.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " seconds"
}
