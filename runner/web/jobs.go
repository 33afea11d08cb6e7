package web

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

func jobsPages() []page {
	return []page{
		{Path: "/jobs", Nav: "/jobs", Title: "Jobs", Template: "jobs.html", Live: true, Load: loadJobs},
		{Path: "/jobs/kinds", Nav: "/jobs", Title: "Kinds of jobs", Template: "jobs_kinds.html", Load: loadKinds},
		{Path: "/jobs/all", Nav: "/jobs", Title: "Many jobs at once", Template: "jobs_all.html", Operator: true, Load: loadMany},
		{Path: "/jobs/new", Nav: "/jobs", Title: "New job", Template: "jobs_new.html", Operator: true, Load: loadNewJob},
		{Path: "/jobs/{id}/retry", Nav: "/jobs", Title: "Retry a job with other arguments", Template: "jobs_retry.html", Operator: true, Load: loadRetry},
		{Path: "/jobs/{id}", Nav: "/jobs", Title: "Job", Template: "job.html", Live: true, Load: loadJob},
	}
}

// linesPerPage is how many jobs a page of the list has.
const linesPerPage = 50

// jobsShown is the page of the list.
type jobsShown struct {
	Asked    jobFilter
	States   []link
	Spans    []link // of time
	Names    jobNames
	More     bool // a filter is set that only the long form has
	Searches bool // texts can be asked for
	Lines    []jobLine
	Pager    jobPager
	Window   int    // rows that were looked through, where that is why the page ends
	Looked   int    // rows that a text was looked for in, at most
	Kinds    string // where they are counted
	Retry    jobBulk
	Cancel   jobBulk
	Job      *link  // which is probably meant
	Refused  bool   // the filter makes no sense
	Mend     string // the field to correct, where the form has it
}

// jobBulk leads to the page that asks whether to do something to all that fit, or says why that can't be.
type jobBulk struct{ Address, Why string }

type jobPager struct{ First, Back, Next string }

// jobLine is a row of the list.
type jobLine struct {
	jobs.JobView
	Address  string
	Attempts string
	Verb     string // of the time: ended, started, due
	At       any
	Took     string
	Share    *float64
	What     string
	Kept     bool   // there is more, but not for this person
	Alike    string // where others with the same error are
	Retries  bool   // it can be retried
	Cancels  bool   // it can be cancelled
}

func loadJobs(ctx context.Context, v *view) (any, error) {
	now, err := v.clock(ctx)
	if err != nil {
		return nil, err
	}
	g, err := readJobFilter(v.Query, now, atField, trailField)
	if err == nil {
		err = mayAsk(v, g)
	}
	if err != nil {
		return refusedJobs(ctx, v, err)
	}
	spot, err := readSpot(v.Query.Get(atField))
	if err != nil {
		return nil, err
	}
	back, err := readTrail(v.Query.Get(trailField))
	if err != nil {
		return nil, err
	}
	found, err := jobs.FindJobs(ctx, v.DB, g.filter, spot, linesPerPage)
	if err != nil {
		return nil, err
	}
	s := formOfJobs(v, g)
	s.Kinds, s.Pager, s.Job = v.Base+g.at("/jobs/kinds"), pagerOf(v, g, back, found.Next), meantJob(v, g)
	if err := s.readLines(ctx, v, found.IDs, now); err != nil {
		return nil, err
	}
	if found.Window {
		s.Window = jobs.Window
	}
	s.Retry, s.Cancel = bulksOf(v, g)
	s.Names, err = namesOfJobs(ctx, v.DB)
	return s, err
}

// formOfJobs is the page's filter.
func formOfJobs(v *view, g jobFilter) *jobsShown {
	return &jobsShown{Asked: g, States: statesOf(v.Base, g), Spans: spansOf(v.Base, g), Searches: v.SeesArgs(), More: g.has(moreFields()...)}
}

// moreFields are those of the long form.
func moreFields() []string { return []string{"schedule", "owner", "batch", "until", "error"} }

// refusedJobs is the page of a filter that makes no sense: the form as it was filled in, and no job.
func refusedJobs(ctx context.Context, v *view, why error) (any, error) {
	if err := v.refuse(why); err != nil {
		return nil, err
	}
	field := v.refused.Field
	s := formOfJobs(v, askedFor(v.Query, field))
	s.Refused, s.More = true, s.More || slices.Contains(moreFields(), field)
	if field != "state" && (v.SeesArgs() || field != "search" && field != "error") {
		s.Mend = field
	}
	var err error
	s.Names, err = namesOfJobs(ctx, v.DB)
	return s, err
}

func (s *jobsShown) readLines(ctx context.Context, v *view, ids []int64, now time.Time) error {
	searched := s.Asked.has("search", "error")
	rows, err := jobLines(ctx, v.DB, ids, searched)
	if err != nil {
		return err
	}
	if searched {
		s.Looked = jobs.Window
		rows = slices.DeleteFunc(rows, func(j jobs.JobView) bool { return !showsWhy(v, s.Asked.filter, j) })
	}
	for _, j := range rows {
		s.Lines = append(s.Lines, lineOf(v, j, now))
	}
	return nil
}

// clock makes the page go by the database's.
func (v *view) clock(ctx context.Context) (now time.Time, err error) {
	v.Now, err = jobs.Now(ctx, v.DB)
	return v.Now, err
}

// mayAsk refuses to search through what the person may not see: whether something is found would tell it.
func mayAsk(v *view, g jobFilter) error {
	for _, name := range []string{"search", "error"} {
		if g.has(name) && !v.SeesArgs() {
			return wrongIn(name, "%s: you may not see arguments, results and errors, and so not search through them", name)
		}
	}
	return nil
}

// showsWhy tells whether what was searched for stands in what the person sees of a job, and not only in what is hidden.
func showsWhy(v *view, f jobs.Filter, j jobs.JobView) bool {
	problem := v.Error(j.Task, j.LastError)
	if f.Error != "" && !strings.Contains(problem.Message, f.Error) {
		return false
	}
	hidden := v.JSON(j.Task, "args", j.Args).Hidden + v.JSON(j.Task, "result", j.Result).Hidden + problem.Rest.Hidden
	whole := hidden == 0 && v.Text(j.Task, "note", j.Note) == j.Note && v.Text(j.Task, "unique_key", j.UniqueKey) == j.UniqueKey && problem.Message == jobs.ErrorMessage(j.LastError)
	return whole || f.Search == "" || v.Found(f.Search, j)
}

func statesOf(base string, g jobFilter) []link {
	all := []link{{"All", base + g.address("state", ""), g.filter.State == ""}}
	for _, state := range jobs.States() {
		all = append(all, link{strings.ToUpper(state[:1]) + state[1:], base + g.address("state", state), g.filter.State == state})
	}
	return all
}

func spansOf(base string, g jobFilter) []link {
	all := []link{{"any time", base + g.address("since", "", "until", ""), !g.has("since", "until")}}
	for _, span := range []string{"15m", "1h", "24h", "7d"} {
		all = append(all, link{span, base + g.address("since", span, "until", ""), g.Value("since") == span && !g.has("until")})
	}
	return all
}

func lineOf(v *view, j jobs.JobView, now time.Time) jobLine {
	l := jobLine{JobView: j, Address: jobAddress(v.Base, j.ID), Attempts: fmt.Sprintf("%d/%d", j.Attempt-j.Uncounted, j.MaxAttempts),
		Took: tookOf(j, now), Retries: retries(j), Cancels: cancels(j), Alike: alikeAddress(v, j)}
	l.Verb, l.At = whenOf(j)
	l.What, l.Kept = whatOf(v, j)
	if j.State == "running" {
		l.Share = j.Progress
	}
	return l
}

func jobAddress(base string, id int64) string { return fmt.Sprintf("%s/jobs/%d", base, id) }

// alikeAddress is the list of those that have failed for the same reason.
func alikeAddress(v *view, j jobs.JobView) string {
	seen, raw := v.Error(j.Task, j.LastError).Message, jobs.ErrorMessage(j.LastError)
	if j.State == "done" || seen == "" || seen != raw {
		return ""
	}
	return v.Base + jobFilter{}.with("state", j.State, "task", j.Task, "error", alike(raw)).address()
}

// alike is the part of an error's message that others of its kind have as well: what comes before the first figure, where that says enough.
func alike(message string) string {
	line, _, _ := strings.Cut(message, "\n")
	if at := strings.IndexAny(line, "0123456789"); at >= 12 {
		line = line[:at]
	}
	return strings.TrimRight(string([]rune(line)[:min(len([]rune(line)), 80)]), " ")
}

func retries(j jobs.JobView) bool {
	return j.State == "failed" || j.State == "cancelled" || j.State == "ready" && !j.RunAt.Infinite
}

func cancels(j jobs.JobView) bool { return j.State == "ready" || j.State == "running" }

// whenOf is the time that matters most of a job, and what it is of.
func whenOf(j jobs.JobView) (verb string, at any) {
	switch {
	case j.FinishedAt != nil:
		return "ended", j.FinishedAt
	case j.State == "running" && j.StartedAt != nil:
		return "started", j.StartedAt
	case j.RunAt.Infinite:
		return "blocked", nil
	default:
		return "due", j.RunAt
	}
}

func tookOf(j jobs.JobView, now time.Time) string {
	switch {
	case j.StartedAt == nil || j.State == "ready":
		return ""
	case j.FinishedAt != nil:
		return lasting(j.FinishedAt.Sub(*j.StartedAt))
	default:
		return lasting(max(now.Sub(*j.StartedAt), 0))
	}
}

// whatOf is what else there is to say in a few words.
func whatOf(v *view, j jobs.JobView) (what string, kept bool) {
	switch {
	case j.State == "running":
		return v.Text(j.Task, "note", j.Note), false
	case j.State == "done":
		result := v.JSON(j.Task, "result", j.Result)
		return cutText(200, oneLine(result.Text)), result.Kept
	case j.BlockedBy != "":
		return "waits: " + j.BlockedBy, false
	default:
		problem := v.Error(j.Task, j.LastError)
		return cutText(200, oneLine(problem.Message)), problem.Kept
	}
}

func pagerOf(v *view, g jobFilter, back jobTrail, next jobs.Spot) (p jobPager) {
	at := v.Query.Get(atField)
	if at != "" {
		place, before := back.back()
		p.First, p.Back = v.Base+g.address(), v.Base+g.address(atField, place, trailField, before)
	}
	if next.ID != 0 {
		p.Next = v.Base + g.address(atField, spotText(next), trailField, back.behind(at))
	}
	return p
}

// bulksOf are the ways to do something to all that fit.
func bulksOf(v *view, g jobFilter) (retry, cancel jobBulk) {
	retry, cancel = jobBulk{Address: v.Base + g.at("/jobs/all", "do", "retry")}, jobBulk{Address: v.Base + g.at("/jobs/all", "do", "cancel")}
	if err := mayAll(g, true); err != nil {
		retry = jobBulk{Why: err.Error()}
	}
	if err := mayAll(g, false); err != nil {
		cancel = jobBulk{Why: err.Error()}
	}
	return retry, cancel
}

// meantJob is the job whose id was searched for, perhaps.
func meantJob(v *view, g jobFilter) *link {
	id, err := strconv.ParseInt(strings.TrimSpace(g.filter.Search), 10, 64)
	if err != nil || id < 1 {
		return nil
	}
	return &link{Label: fmt.Sprintf("job %d", id), Address: jobAddress(v.Base, id)}
}

// kindsShown is the page that counts what fits a filter.
type kindsShown struct {
	Asked  jobFilter
	Count  string
	All    bool
	Looked int
	Kinds  []kindLine
	List   string // the address of the list
	Retry  jobBulk
	Cancel jobBulk
}

// kindLine is one kind of jobs.
type kindLine struct {
	N       int
	Share   float64 // of all that were counted
	Task    string
	State   string
	Error   string
	Address string
}

// mostJobsCounted is where counting ends.
const mostJobsCounted = jobs.Window

func loadKinds(ctx context.Context, v *view) (any, error) {
	now, err := v.clock(ctx)
	if err != nil {
		return nil, err
	}
	g, err := readJobFilter(v.Query, now)
	if err != nil {
		return nil, err
	}
	if err := mayAsk(v, g); err != nil {
		return nil, err
	}
	if g.has("search") { // what is hidden would count as well
		return nil, wrong("search: jobs with a text in them are not counted, only listed")
	}
	k, err := jobs.KindsOfJobs(ctx, v.DB, g.filter)
	if err != nil {
		return nil, err
	}
	s := &kindsShown{Asked: g, Count: counted(k.Fit, "job"), All: k.All, Looked: jobs.Window, List: v.Base + g.address()}
	if k.Fit >= mostJobsCounted {
		s.Count = number(mostJobsCounted) + "+ jobs"
	}
	for _, one := range k.Kinds {
		s.Kinds = append(s.Kinds, kindOf(v, g, one, k.Fit))
	}
	s.Retry, s.Cancel = bulksOf(v, g)
	return s, nil
}

func kindOf(v *view, g jobFilter, one jobs.KindOfJobs, all int) kindLine {
	l := kindLine{N: one.N, Share: float64(one.N) / float64(max(all, 1)), Task: one.Task, State: one.State}
	changes := []string{"task", one.Task, "state", one.State}
	if one.Error != "" {
		raw, _ := json.Marshal(map[string]string{"message": one.Error})
		if l.Error = v.Error(one.Task, raw).Message; l.Error == one.Error {
			changes = append(changes, "error", one.Error)
		} else {
			l.Error = hiddenValue
		}
	}
	l.Address = v.Base + g.address(changes...)
	return l
}
