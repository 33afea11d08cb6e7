package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgtick/pgtick/runner/jobs"
)

func jobsActions() []action {
	return []action{
		{Name: "jobs/retry", Run: someJobs("retry", jobs.Retry, func(id int64, state string) string { return fmt.Sprintf("Job %d is %s.", id, state) })},
		{Name: "jobs/cancel", Run: someJobs("cancel", jobs.Cancel, cancelledText)},
		{Name: "jobs/retry-all", Run: allJobs(true)},
		{Name: "jobs/cancel-all", Run: allJobs(false)},
		{Name: "jobs/resume-sequence", Run: resumeOneSequence},
		{Name: "jobs/new", Run: newJob, Again: func(d *doing) string {
			if id := d.Form.Get("copy"); id != "" {
				return "/jobs/new?" + url.Values{"copy": {id}}.Encode()
			}
			return "/jobs/new"
		}},
	}
}

func cancelledText(id int64, state string) string {
	if state == "running" {
		return fmt.Sprintf("Job %d has been asked to stop; it ends when its task does.", id)
	}
	return fmt.Sprintf("Job %d is %s.", id, state)
}

// mostAtOnce is how many jobs can be named in one form.
const mostAtOnce = 1000

// someJobs does something to jobs that are named, one after the other, whatever becomes of those before.
func someJobs(verb string, one func(context.Context, jobs.DB, int64) (string, error), tell func(int64, string) string) func(context.Context, *doing) (string, error) {
	return func(ctx context.Context, d *doing) (string, error) {
		ids, err := idsOf(d.Form["id"])
		if err != nil {
			return "", err
		}
		var last string
		var refused []error
		states := map[string]int{}
		for _, id := range ids {
			err := oneOfMany(ctx, d.DB, func() error {
				state, err := one(ctx, d.DB, id)
				if err == nil {
					last = tell(id, state)
					states[state]++
				}
				return err
			})
			if err != nil {
				refused = append(refused, err)
			}
		}
		d.Note(idsText(ids), map[string]any{"states": states, "refused": len(refused)})
		switch {
		case len(refused) == len(ids):
			return "", refused[0]
		case len(ids) == 1:
			return last, nil
		}
		return jobsSummary(verb, len(ids)-len(refused), refused), nil
	}
}

func jobsSummary(verb string, done int, refused []error) string {
	said := fmt.Sprintf("%s retried.", counted(done, "job"))
	if verb == "cancel" {
		said = fmt.Sprintf("%s cancelled, or asked to stop.", counted(done, "job"))
	}
	if len(refused) > 0 {
		said += fmt.Sprintf(" %s not: %s", counted(len(refused), "job"), problemOf(refused[0]).Message)
		if len(refused) > 1 {
			said += "; and so on"
		}
	}
	return said
}

func idsOf(texts []string) (ids []int64, err error) {
	for _, text := range texts {
		id, err := idOf(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	switch {
	case len(ids) == 0:
		return nil, errors.New("no job is chosen: tick the boxes of those that are meant")
	case len(ids) > mostAtOnce:
		return nil, fmt.Errorf("%d jobs are chosen, and %d is the most: use a filter, and all that fit", len(ids), mostAtOnce)
	}
	return ids, nil
}

// idsText is ids for the record.
func idsText(ids []int64) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = strconv.FormatInt(id, 10)
	}
	return strings.Join(texts, ", ")
}

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

func resumeOneSequence(ctx context.Context, d *doing) (string, error) {
	key := d.Form.Get("key")
	if key == "" {
		return "", errors.New("no sequence is named")
	}
	d.Note(key, nil)
	return fmt.Sprintf("Sequence %s goes on.", visibleText(key)), resumeSequence(ctx, d.DB, key)
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

// newShown is the form for a new job.
type newShown struct {
	Names  jobNames
	Copy   *jobs.JobView // whose settings it begins with
	Args   string
	Kept   shownJSON // the args of the job that is copied, where some are hidden
	Hides  bool
	Fields map[string]string
	Left   []string // what of the copied job is not copied
}

func loadNewJob(ctx context.Context, v *view) (any, error) {
	names, err := namesOfJobs(ctx, v.DB)
	if err != nil {
		return nil, err
	}
	s := &newShown{Names: names, Args: "{}", Fields: map[string]string{}}
	for name := range v.Query {
		if name == "copy" {
			continue
		}
		if !slices.ContainsFunc(newFields(), func(f newField) bool { return f.name == name }) {
			return nil, wrong("there is no field %q", cutText(100, name))
		}
		s.Fields[name] = v.Query.Get(name)
	}
	if args, given := s.Fields["args"]; given {
		s.Args = args
	}
	if v.Query.Get("copy") == "" {
		return s, nil
	}
	id, err := idOf(v.Query.Get("copy"))
	if err != nil {
		return nil, err
	}
	j, err := oneJob(ctx, v.DB, id)
	if err != nil {
		return nil, err
	}
	v.Title = fmt.Sprintf("Copy of job %d", id)
	s.begin(v, j)
	return s, nil
}

func (s *newShown) begin(v *view, j jobs.JobView) {
	s.Copy = &j
	args := v.JSON(j.Task, "args", j.Args)
	s.Args = args.Text
	if s.Hides = args.Hidden > 0 || args.Kept || !sameJSON(args.Text, j.Args); s.Hides {
		s.Args, s.Kept = "", args
	}
	for name, value := range map[string]string{"task": j.Task, "queue": j.Queue, "priority": strconv.Itoa(j.Priority), "max_attempts": strconv.Itoa(j.MaxAttempts),
		"timeout": j.Timeout, "owner_id": j.OwnerID, "limit_key": j.LimitKey} {
		s.Fields[name] = value
	}
	for _, left := range []struct {
		label string
		there bool
	}{{"its unique key", j.UniqueKey != ""}, {"its sequence", j.SequenceKey != ""}, {"its batch", j.BatchID != nil}, {"what it waits for", len(j.After) > 0}, {"its schedule and slot", j.Schedule != ""}} {
		if left.there {
			s.Left = append(s.Left, left.label)
		}
	}
}

// sameJSON tells whether nothing of a value is missing in what is shown of it: it may have been too much, or have letters that can't be seen.
func sameJSON(shown string, value []byte) bool {
	var a, b any
	return json.Unmarshal([]byte(shown), &a) == nil && json.Unmarshal(value, &b) == nil && reflect.DeepEqual(a, b)
}

// newField is one of the form, by the name of the parameter of pgtick.enqueue.
type newField struct{ name, kind string }

func newFields() []newField {
	return []newField{{"task", "text"}, {"args", "jsonb"}, {"queue", "text"}, {"priority", "integer"}, {"run_at", "timestamptz"}, {"max_attempts", "integer"}, {"timeout", "interval"},
		{"owner_id", "uuid"}, {"unique_key", "text"}, {"unique_for", "interval"}, {"limit_key", "text"}, {"sequence_key", "text"}, {"after", "bigint[]"}}
}

func newJob(ctx context.Context, d *doing) (string, error) {
	now, err := jobs.Now(ctx, d.DB)
	if err != nil {
		return "", err
	}
	if d.Form.Get("copy") != "" && strings.TrimSpace(d.Form.Get("args")) == "" { // also what is hidden of them
		id, err := idOf(d.Form.Get("copy"))
		if err != nil {
			return "", err
		}
		j, err := oneJob(ctx, d.DB, id)
		if err != nil {
			return "", err
		}
		d.Form = withField(d.Form, "args", string(j.Args))
		defer func(given url.Values) { d.Form = withField(given, "args", "") }(d.Form)
	}
	var arguments []jobs.Argument
	for _, f := range newFields() {
		value, err := f.read(d.Form.Get(f.name), now)
		if err != nil {
			return "", err
		}
		if value != "" {
			arguments = append(arguments, jobs.Argument{Parameter: jobs.Parameter{Name: f.name, Type: f.kind}, Text: &value})
		}
	}
	if d.Form.Get("task") == "" {
		return "", refuse("task", "a job needs one: it is the name of the code that runs it")
	}
	id, err := jobs.Enqueue(ctx, d.DB, arguments)
	if err != nil {
		return "", err
	}
	d.Note(strconv.FormatInt(id, 10), map[string]any{"task": d.Form.Get("task"), "copy_of": d.Form.Get("copy")})
	d.Go(fmt.Sprintf("/jobs/%d", id))
	return fmt.Sprintf("Job %d is enqueued.", id), nil
}

func withField(form url.Values, name, value string) url.Values {
	changed := url.Values{}
	for field, values := range form {
		changed[field] = values
	}
	changed.Set(name, value)
	return changed
}

// read is what a field says as its type's text, or nothing where it is left empty; it refuses what the database would refuse in words of its own.
func (f newField) read(value string, now time.Time) (string, error) {
	if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
		return "", refuse(f.name, "it is not UTF-8, or has a NUL in it")
	}
	if f.kind != "text" {
		value = strings.TrimSpace(value)
	}
	if value == "" {
		return "", nil
	}
	switch f.kind {
	case "jsonb":
		if problem := jobs.BadJSON([]byte(value)); problem != "" {
			return "", refuse(f.name, "%s", problem)
		}
	case "integer":
		if _, err := strconv.ParseInt(value, 10, 32); err != nil {
			return "", refuse(f.name, "%q is no whole number", cutText(100, value))
		}
	case "timestamptz":
		return f.moment(value, now)
	case "interval":
		return f.length(value)
	case "uuid":
		var owner pgtype.UUID
		if err := owner.Scan(value); err != nil {
			return "", refuse(f.name, "%q is no UUID, such as 6f9619ff-8b86-4d11-b42d-00c04fc964ff", cutText(100, value))
		}
	case "bigint[]":
		return f.ids(value)
	}
	return value, nil
}

func (f newField) moment(value string, now time.Time) (string, error) {
	w, known := jobs.ReadWhen(strings.TrimPrefix(value, "+"))
	if !known {
		return "", refuse(f.name, "%q is no time: give +10m, +24h or +7d from now, 2026-03-28 02:00 (UTC), or 2026-03-28T02:00:00Z", cutText(100, value))
	}
	at := now.Add(w.In)
	if given := w.UTC(); given != nil {
		at = *given
	}
	return at.UTC().Format(time.RFC3339Nano), nil
}

var clockLength = regexp.MustCompile(`^(\d+ days? ?)?(\d{1,3}:\d\d:\d\d(\.\d+)?)?$`)

func (f newField) length(value string) (string, error) {
	if clockLength.MatchString(value) { // as the database writes it
		return value, nil
	}
	d, err := jobs.ReadLength(value)
	if err != nil {
		return "", refuse(f.name, "%q is no length of time: give 90s, 20m, 2h or 7d", cutText(100, value))
	}
	return fmt.Sprintf("%d microseconds", d.Microseconds()), nil
}

func (f newField) ids(value string) (string, error) {
	all := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' })
	for _, id := range all {
		if n, err := strconv.ParseInt(id, 10, 64); err != nil || n < 1 {
			return "", refuse(f.name, "%q is no id of a job: give ids with commas between", cutText(100, id))
		}
	}
	return "{" + strings.Join(all, ",") + "}", nil
}
