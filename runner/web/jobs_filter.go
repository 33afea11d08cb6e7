package web

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgtick/pgtick/runner/jobs"
)

// filterFields are what a list of jobs can be asked for, as they stand in its address, and how people call them.
func filterFields() []jobField {
	return []jobField{{"state", "State"}, {"task", "Task"}, {"queue", "Queue"}, {"schedule", "Schedule"}, {"owner", "Owner"}, {"batch", "Batch"}, {"since", "Since"},
		{"until", "Until"}, {"error", "Error"}, {"search", "Text"}}
}

type jobField struct{ Name, Label string }

// What else an address of a list may have: where in it one is, and the pages before that.
const (
	atField    = "after"
	trailField = "trail"
)

// mostGiven is how long a value of a filter may be.
const mostGiven = 1000

// given is a filter as the address has it.
type jobFilter struct {
	values url.Values // of filterFields alone, none empty
	filter jobs.Filter
}

// readJobFilter refuses what makes no sense, naming field and value. Lengths of time go back from now.
func readJobFilter(query url.Values, now time.Time, more ...string) (g jobFilter, err error) {
	g.values = url.Values{}
	for name, values := range query {
		known := slices.ContainsFunc(filterFields(), func(f jobField) bool { return f.Name == name })
		switch {
		case !known && slices.Contains(more, name):
			continue
		case !known:
			return g, wrong("there is no filter %q: there are %s", name, fieldNames())
		case len(values) > 1 && !allSame(values):
			return g, wrongIn(name, "%s is given %d times: one value goes", name, len(values))
		}
		value := values[0]
		if !slices.Contains([]string{"task", "queue", "schedule", "error", "search"}, name) { // those may well begin with a blank
			value = strings.TrimSpace(value)
		}
		if problem := unfit(value); problem != "" {
			return g, wrongIn(name, "%s: %s", name, problem)
		}
		if value != "" {
			g.values.Set(name, value)
		}
	}
	g.filter, err = filterOf(g.values, now)
	return g, err
}

// askedFor is the filter as it was typed, but for a field: what is refused of it goes into no further address.
func askedFor(query url.Values, but string) (g jobFilter) {
	g.values = url.Values{}
	for _, f := range filterFields() {
		if value := query.Get(f.Name); value != "" && f.Name != but {
			g.values.Set(f.Name, value)
		}
	}
	return g
}

func allSame(values []string) bool { return len(slices.Compact(slices.Clone(values))) == 1 }

func fieldNames() string {
	names := []string{}
	for _, f := range filterFields() {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// unfit says why a text can't be asked for.
func unfit(value string) string {
	switch {
	case !utf8.ValidString(value):
		return "the value is not UTF-8"
	case strings.ContainsRune(value, 0):
		return "the value has a NUL in it, which no text of PostgreSQL has"
	case utf8.RuneCountInString(value) > mostGiven:
		return fmt.Sprintf("the value has %d letters, and %d is the most", utf8.RuneCountInString(value), mostGiven)
	}
	return ""
}

func filterOf(values url.Values, now time.Time) (f jobs.Filter, err error) {
	f = jobs.Filter{State: values.Get("state"), Task: values.Get("task"), Queue: values.Get("queue"), OwnerID: values.Get("owner"), Schedule: values.Get("schedule"),
		Search: values.Get("search"), Error: values.Get("error")}
	if f.State != "" && !slices.Contains(jobs.States(), f.State) {
		return f, wrongIn("state", "state %q is none of %s", f.State, strings.Join(jobs.States(), ", "))
	}
	var owner pgtype.UUID
	if err := owner.Scan(f.OwnerID); f.OwnerID != "" && (err != nil || !owner.Valid) {
		return f, wrongIn("owner", "owner %q is no UUID, such as 6f9619ff-8b86-4d11-b42d-00c04fc964ff", f.OwnerID)
	}
	if batch := values.Get("batch"); batch != "" {
		if f.Batch, err = strconv.ParseInt(batch, 10, 64); err != nil || f.Batch < 1 {
			return f, wrongIn("batch", "batch %q is no id of a batch: ids are whole numbers, such as 12", batch)
		}
	}
	if f.Since, err = pastOf("since", values.Get("since"), now); err != nil {
		return f, err
	}
	if f.Until, err = pastOf("until", values.Get("until"), now); err != nil {
		return f, err
	}
	if f.Since != nil && f.Until != nil && !f.Since.Before(*f.Until) {
		return f, wrongIn("until", "until %q is not later than since %q", values.Get("until"), values.Get("since"))
	}
	return f, nil
}

// pastOf is a moment, or a length back from now.
func pastOf(name, value string, now time.Time) (*time.Time, error) {
	if value == "" {
		return nil, nil
	}
	w, known := jobs.ReadWhen(value)
	if !known {
		return nil, wrongIn(name, "%s %q is no time: give 90m, 24h or 7d back from now, 2026-03-28 02:00 (UTC), or 2026-03-28T02:00:00Z", name, value)
	}
	if at := w.UTC(); at != nil {
		return at, nil
	}
	at := now.Add(-w.In)
	return &at, nil
}

// has tells whether any of these is asked for.
func (g jobFilter) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return g.values.Get(name) != "" })
}

// Value is a field as it was asked for.
func (g jobFilter) Value(name string) string { return g.values.Get(name) }

// with is a filter of these fields alone.
func (g jobFilter) with(pairs ...string) jobFilter {
	g.values = url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		g.values.Set(pairs[i], pairs[i+1])
	}
	return g
}

// address is the list's, with some fields changed; empty takes one out.
func (g jobFilter) address(changes ...string) string { return g.at("/jobs", changes...) }

func (g jobFilter) at(path string, changes ...string) string {
	values := maps.Clone(g.values)
	for i := 0; i+1 < len(changes); i += 2 {
		if values.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			values.Del(changes[i])
		}
	}
	if len(values) == 0 {
		return path
	}
	return path + "?" + values.Encode()
}

// fixed is the filter with its times as moments, and none later than now: what it meets does not grow while somebody thinks about it.
func (g jobFilter) fixed(now time.Time) jobFilter {
	g.values = maps.Clone(g.values)
	if edge := now.Add(time.Microsecond); g.filter.Until == nil || g.filter.Until.After(edge) { // what is of this very moment is there
		g.filter.Until = &edge
	}
	g.values.Set("until", g.filter.Until.UTC().Format(time.RFC3339Nano))
	if g.filter.Since != nil {
		g.values.Set("since", g.filter.Since.UTC().Format(time.RFC3339Nano))
	}
	return g
}

// Words are the filter for people.
func (g jobFilter) Words() (all []jobField) {
	for _, f := range filterFields() {
		if value := g.values.Get(f.Name); value != "" {
			all = append(all, jobField{f.Label, value})
		}
	}
	return all
}

// spotText is where in a list one is: the id of a job and, where it stood by its time, that in microseconds.
func spotText(s jobs.Spot) string {
	text := strconv.FormatInt(s.ID, 10)
	if s.At != nil {
		text += "t" + strconv.FormatInt(s.At.UnixMicro(), 10)
	}
	return text
}

func readSpot(text string) (s jobs.Spot, err error) {
	if text == "" {
		return s, nil
	}
	id, at, timed := strings.Cut(text, "t")
	if s.ID, err = strconv.ParseInt(id, 10, 64); err != nil || s.ID < 1 {
		return s, wrong("%s %q is no place in a list: begin at its start", atField, cutText(100, text))
	}
	if timed {
		micros, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return s, wrong("%s %q is no place in a list: begin at its start", atField, cutText(100, text))
		}
		when := time.UnixMicro(micros).UTC()
		s.At = &when
	}
	return s, nil
}

// mostTrail is how many pages one can go back.
const mostTrail = 50

// trail are the places of the pages before this one, the first page left out.
type jobTrail []string

func readTrail(text string) (t jobTrail, err error) {
	for place := range strings.SplitSeq(text, ".") {
		if place == "" {
			continue
		}
		if _, err := readSpot(place); err != nil {
			return nil, wrong("%s %q has no place in a list in it: begin at its start", trailField, cutText(100, text))
		}
		t = append(t, place)
	}
	return t[max(0, len(t)-mostTrail):], nil
}

// behind is the trail of the next page.
func (t jobTrail) behind(at string) string {
	if at == "" {
		return ""
	}
	t = append(slices.Clone(t), at)
	return strings.Join(t[max(0, len(t)-mostTrail):], ".")
}

// back is the page before, and its trail.
func (t jobTrail) back() (at, before string) {
	if len(t) == 0 {
		return "", ""
	}
	return t[len(t)-1], strings.Join(t[:len(t)-1], ".")
}
