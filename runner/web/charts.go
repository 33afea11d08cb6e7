package web

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// chartSpan is how far back the overview's charts go. Each attempt is counted in one stretch of each length (pgtick.attempt_counts), so all of
// them read as many rows as they show points, whatever there is in the history.
type chartSpan struct {
	Name   string // in the address
	Label  string
	Each   string // stretch, in words
	length time.Duration
	points int64
}

func chartSpans() []chartSpan {
	return []chartSpan{
		{"hour", "Last hour", "minute", time.Minute, 60},
		{"day", "Last day", "quarter of an hour", 15 * time.Minute, 96},
		{"week", "Last 7 days", "two hours", 2 * time.Hour, 84},
	}
}

// spanOf is the one that the address asks for.
func spanOf(name string) (chartSpan, error) {
	all := chartSpans()
	at := slices.IndexFunc(all, func(s chartSpan) bool { return s.Name == cmp.Or(name, all[0].Name) })
	if at < 0 {
		return chartSpan{}, wrong("span %q is none of hour, day, week", cutText(100, name))
	}
	return all[at], nil
}

// spanLinks lead to the others.
func spanLinks(base string, now chartSpan) (links []link) {
	for i, s := range chartSpans() {
		address := base + "/?span=" + s.Name
		if i == 0 {
			address = base + "/"
		}
		links = append(links, link{Label: s.Label, Address: address + "#lately", Current: s.Name == now.Name})
	}
	return links
}

// attemptCounts is a row of pgtick.attempt_counts.
type attemptCounts struct {
	At     int64   `json:"at"` // seconds since 1970
	Done   int64   `json:"done"`
	Errors int64   `json:"errors"`
	Failed int64   `json:"failed"`
	Waited []int64 `json:"waited"`
	Ran    []int64 `json:"ran"`
}

// charts draws what all runners did in a span up to now. Where nothing is counted nothing ended.
func (s chartSpan) charts(counts []attemptCounts, now time.Time) []chart {
	lines := func() []series {
		return []series{{Name: "half of them at most", Colour: "busy"}, {Name: "95 of 100 at most", Colour: "held"}}
	}
	ended := chart{ID: "finished-" + s.Name, Title: "Attempts ended, by " + s.Each, Bars: true, Series: []series{{Name: "done", Colour: "good"}, {Name: "to be tried again", Colour: "held"}, {Name: "failed", Colour: "bad"}}}
	waited := chart{ID: "waited-" + s.Name, Title: "How long jobs waited for a worker", Unit: "s", Series: lines()}
	ran := chart{ID: "ran-" + s.Name, Title: "How long attempts ran", Unit: "s", Series: lines()}
	step := int64(s.length.Seconds())
	for last, at := now.Unix()/step, now.Unix()/step-s.points+1; at <= last; at++ {
		for len(counts) > 0 && counts[0].At < at*step {
			counts = counts[1:]
		}
		var c attemptCounts
		if len(counts) > 0 && counts[0].At == at*step {
			c = counts[0]
		}
		ended.add(at*step, float64(c.Done), float64(c.Errors), float64(c.Failed))
		waited.add(at*step, quantile(c.Waited, 0.5), quantile(c.Waited, 0.95))
		ran.add(at*step, quantile(c.Ran, 0.5), quantile(c.Ran, 0.95))
	}
	return []chart{ended, waited, ran}
}

// add is a moment with a value for each series; NaN is none.
func (c *chart) add(at int64, values ...float64) {
	c.Times = append(c.Times, at)
	for i, value := range values {
		var shown *float64
		if !math.IsNaN(value) {
			shown = &value
		}
		c.Series[i].Values = append(c.Series[i].Values, shown)
	}
}

// chartRow is one of the table that says the same as a chart.
type chartRow struct {
	At     time.Time
	Values []string
}

// Rows are the chart's numbers, the latest first.
func (c chart) Rows() (rows []chartRow) {
	for i := len(c.Times) - 1; i >= 0; i-- {
		row := chartRow{At: time.Unix(c.Times[i], 0)}
		for _, s := range c.Series {
			row.Values = append(row.Values, c.value(s.Values, i))
		}
		rows = append(rows, row)
	}
	return rows
}

func (c chart) value(values []*float64, i int) string {
	switch {
	case i >= len(values) || values[i] == nil:
		return "–"
	case c.Unit == "s":
		return lasting(time.Duration(*values[i] * float64(time.Second)))
	}
	return number(trimZeros(*values[i]))
}

func trimZeros(v float64) string {
	text := fmt.Sprintf("%.2f", v)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}
