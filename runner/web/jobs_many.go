package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/runner/jobs"
)

// mayAll says why not all jobs that fit a filter can be retried, or cancelled.
func mayAll(g jobFilter, retry bool) error {
	f := g.filter
	states, verb := []string{"ready", "running"}, "cancelled"
	if retry {
		states, verb = []string{"failed", "cancelled"}, "retried"
	}
	switch {
	case f.State != "" && !slices.Contains(states, f.State):
		return wrong("state %s: only %s jobs can be %s", f.State, strings.Join(states, " and "), verb)
	case f.Search != "":
		return wrong("search: all jobs with a text in them can't be %s at once, since no more than %s are looked through; tick them, or filter by a part of the error's message", verb, number(jobs.Window))
	case f.Error != "" && !retry:
		return wrong("error: it is of jobs that have ended, and those can't be cancelled")
	}
	return nil
}

// manyShown is the page that asks before something is done to many jobs.
type manyShown struct {
	Asked  jobFilter
	Fixed  jobFilter
	Retry  bool
	Verb   string
	State  string // which of them are meant
	Count  string
	None   bool
	Number int
	Lines  []jobLine
	Until  time.Time
	List   string // the address of the list
	Fields []actField
}

// samples are how many of the jobs are shown.
const samples = 10

func loadMany(ctx context.Context, v *view) (any, error) {
	now, err := v.clock(ctx)
	if err != nil {
		return nil, err
	}
	g, err := readJobFilter(v.Query, now, "do")
	if err != nil {
		return nil, err
	}
	s := &manyShown{Asked: g, Retry: v.Query.Get("do") == "retry", Verb: "Cancel", State: cmp.Or(g.filter.State, "ready and running"), List: v.Base + g.address()}
	if do := v.Query.Get("do"); do != "retry" && do != "cancel" {
		return nil, wrong("do %q is neither retry nor cancel", cutText(100, do))
	}
	if s.Retry {
		s.Verb, s.State = "Retry", cmp.Or(g.filter.State, "failed")
		g.filter.State = s.State
		g.values.Set("state", s.State)
	}
	if err := mayAll(g, s.Retry); err != nil {
		return nil, err
	}
	v.Title = s.Verb + " many jobs"
	s.Fixed = g.fixed(now)
	s.Until = *s.Fixed.filter.Until
	if s.Number, err = jobs.CountBulk(ctx, v.DB, s.Fixed.filter, s.Retry, mostJobsCounted+1); err != nil {
		return nil, err
	}
	s.None, s.Count = s.Number == 0, counted(s.Number, "job")
	if s.Number > mostJobsCounted {
		s.Count = number(mostJobsCounted) + "+ jobs"
	}
	for _, name := range slices.Sorted(maps.Keys(s.Fixed.values)) {
		s.Fields = append(s.Fields, actField{name, s.Fixed.values.Get(name)})
	}
	return s, s.readSamples(ctx, v, now)
}

func (s *manyShown) readSamples(ctx context.Context, v *view, now time.Time) error {
	if s.None {
		return nil
	}
	f := s.Fixed.filter
	states := []string{f.State}
	if f.State == "" {
		states = []string{"ready", "running"}
	}
	for _, state := range states {
		f.State = state
		found, err := jobs.FindJobs(ctx, v.DB, f, jobs.Spot{}, samples)
		if err != nil {
			return err
		}
		rows, err := jobLines(ctx, v.DB, found.IDs, false)
		if err != nil {
			return err
		}
		for _, j := range rows[:min(len(rows), samples-len(s.Lines))] {
			s.Lines = append(s.Lines, lineOf(v, j, now))
		}
	}
	return nil
}

// allJobs does something to all that fit the filter that was counted with.
func allJobs(retry bool) func(context.Context, *doing) (string, error) {
	return func(ctx context.Context, d *doing) (string, error) {
		now, err := jobs.Now(ctx, d.DB)
		if err != nil {
			return "", err
		}
		g, err := readJobFilter(d.Form, now, "back", "counted", "do")
		if err != nil {
			return "", err
		}
		if err := mayAll(g, retry); err != nil {
			return "", err
		}
		if g.filter.Until == nil {
			return "", wrong("until is missing: it says which jobs were counted")
		}
		filter, err := g.filter.BulkJSON(retry)
		if err != nil {
			return "", err
		}
		if retry {
			n, err := jobs.RetryWhere(ctx, d.DB, filter)
			return toldAll(n, d.Form.Get("counted"), "retried", "others hold their unique keys, or they have changed since"), inParts(err, "retry")
		}
		n, err := jobs.CancelWhere(ctx, d.DB, filter)
		return toldAll(n, d.Form.Get("counted"), "cancelled, or asked to stop", "they have ended since"), inParts(err, "cancel")
	}
}

// inParts says what to do where there were too many for one transaction.
func inParts(err error, verb string) error {
	if pg := new(pgconn.PgError); errors.As(err, &pg) && pg.Code == "57014" {
		return fmt.Errorf("these are too many for one minute, so nothing was done: narrow the filter, by time for instance, and take them in parts; or call pgtick jobs %s, which takes the time that it needs", verb)
	}
	return err
}

func toldAll(n int64, countedText, done, why string) string {
	said := fmt.Sprintf("%s %s.", counted(int(n), "job"), done)
	before, err := strconv.ParseInt(countedText, 10, 64)
	if err == nil && before <= mostJobsCounted && before > n {
		said += fmt.Sprintf(" %s of those counted stay as they are: %s.", number(before-n), why)
	}
	return said
}
