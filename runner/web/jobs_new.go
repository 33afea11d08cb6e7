package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgtick/pgtick/runner/jobs"
)

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
	s.Args, s.Kept, s.Hides = v.argsToEdit(j)
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
	return exactly([]byte(shown), &a) == nil && exactly(value, &b) == nil && reflect.DeepEqual(a, b)
}

// exactly reads JSON with its numbers as they are written.
func exactly(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(into)
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
