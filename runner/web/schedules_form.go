package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtick/pgtick/runner/jobs"
)

// scheduleForm is what the template of the form gets.
type scheduleForm struct {
	New      bool
	Name     string
	Version  int
	Source   string // what declared it; empty: a call by hand
	Values   url.Values
	ArgsKept bool   // they hold values that are hidden, so they stay as they are unless others are given
	Changed  string // what somebody else did since the form was opened
	Zones    []string
	Tasks    []string
	Queues   []string
	Preview  *schedulePreview
}

// Part is false: this is a whole page.
func (scheduleForm) Part() bool { return false }

// Part is true: this is a part of the form.
func (schedulePreview) Part() bool { return true }

// Choices are those of the fields that have some; nothing stands for what pgtick.schedule does by default.
func (scheduleForm) Choices() map[string][]string {
	return map[string][]string{"on_missed": {"once", "skip", "all"}, "on_overlap": {"", "skip", "wait", "cancel", "allow"}, "on_gap": {"run", "skip"}, "on_fold": {"first", "last", "both"}}
}

// OpenMore tells whether a setting that is folded away differs from the default.
func (f scheduleForm) OpenMore() bool {
	usual := newSchedule()
	return !f.New || slices.ContainsFunc(jobs.ScheduleParameters(), func(p jobs.Parameter) bool {
		return !slices.Contains([]string{"name", "cron", "time_zone", "task", "args", "queue"}, p.Name) && f.Values.Get(p.Name) != usual.Get(p.Name)
	})
}

// Address and EditAddress are those of the schedule's page and of this form.
func (f scheduleForm) Address() string     { return scheduleAddress(f.Name) }
func (f scheduleForm) EditAddress() string { return scheduleItem{Name: f.Name}.EditAddress() }

// Value is what a field holds.
func (f scheduleForm) Value(field string) string { return f.Values.Get(field) }

// newSchedule are the defaults of pgtick.schedule.
func newSchedule() url.Values {
	return url.Values{
		"args": {"{}"}, "time_zone": {"UTC"}, "queue": {"default"}, "priority": {"5"}, "max_attempts": {"20"}, "timeout": {"5 minutes"}, "on_missed": {"once"},
		"catch_up_limit": {"100"}, "on_gap": {"run"}, "on_fold": {"first"}, "jitter": {"0"},
	}
}

// fresh is the form of a new schedule, perhaps with the settings of another one.
func (s *schedulePages) fresh(ctx context.Context, v *view) (any, error) {
	f := &scheduleForm{New: true, Values: newSchedule()}
	if other := v.Query.Get("copy"); other != "" && v.Form == nil {
		whole, err := wholeSchedule(ctx, v.DB, other)
		if err != nil {
			return nil, err
		}
		f.take(v, whole)
		f.Values.Del("name")
		f.Values.Del("replace_args")
		if f.ArgsKept {
			f.Values.Set("args", "{}")
		}
		f.ArgsKept = false
	}
	f.takeQuery(v.Query)
	return f, s.complete(ctx, v, f)
}

// edit is the form of one that exists. It knows the version that was read, so that nobody overwrites what another has just changed.
func (s *schedulePages) edit(ctx context.Context, v *view) (any, error) {
	whole, err := wholeSchedule(ctx, v.DB, v.Query.Get("name"))
	if err != nil {
		return nil, err
	}
	v.Title = "Edit " + whole.Name
	f := &scheduleForm{Name: whole.Name, Version: whole.Version, Source: whole.Source, Values: url.Values{}}
	f.take(v, whole)
	f.takeQuery(v.Query)
	if v.Form != nil {
		if f.Changed, err = s.changedSince(ctx, v, whole); err != nil {
			return nil, err
		}
	}
	return f, s.complete(ctx, v, f)
}

// take fills the form with the settings of a schedule.
func (f *scheduleForm) take(v *view, whole scheduleWhole) {
	for _, p := range jobs.ScheduleParameters() {
		value := whole.text(p.Name)
		if p.Type == "interval" {
			value = intervalWords(value)
		}
		f.Values.Set(p.Name, value)
	}
	if shown := v.JSON(whole.Task, "args", []byte(whole.text("args"))); shown.Hidden > 0 || shown.Kept {
		f.ArgsKept = true
		f.Values.Set("args", "")
	} else {
		f.Values.Set("args", shown.Text)
	}
}

// takeQuery is for the button that previews without a script: the form comes as the query.
func (f *scheduleForm) takeQuery(query url.Values) {
	for _, p := range jobs.ScheduleParameters() {
		if query.Has(p.Name) && query.Has("cron") {
			f.Values.Set(p.Name, query.Get(p.Name))
		}
	}
}

// complete adds what was given to a refused form, the names to choose from, and the preview.
func (s *schedulePages) complete(ctx context.Context, v *view, f *scheduleForm) (err error) {
	if v.Form != nil {
		f.Values = v.Form
	}
	zones, err := s.zonesOf(ctx, v)
	if err != nil {
		return err
	}
	f.Zones = zones.names
	if f.Tasks, err = jobs.Names(ctx, v.DB, jobs.Tasks, ""); err != nil {
		return err
	}
	if f.Queues, err = jobs.Names(ctx, v.DB, jobs.QueueNames, ""); err != nil {
		return err
	}
	if f.Value("cron") != "" {
		f.Preview, err = s.previewOf(ctx, v, f.Values, f.Name)
	}
	return err
}

// changedSince says what was done to a schedule after the version that a form was filled from.
func (s *schedulePages) changedSince(ctx context.Context, v *view, whole scheduleWhole) (string, error) {
	seen, err := strconv.Atoi(v.Form.Get("version"))
	if err != nil || seen >= whole.Version {
		return "", nil //nolint:nilerr // a form without a version is refused when it is saved
	}
	all, err := scheduleChanges(ctx, v.DB, whole.ID, changesShown+1)
	if err != nil {
		return "", err
	}
	var said []string
	for i, c := range all {
		if c.Version <= seen || i+1 >= len(all) {
			break
		}
		words := fmt.Sprintf("version %d, %s by %s at %s", c.Version, c.What, visibleText(c.ChangedBy), c.ChangedAt.UTC().Format("2006-01-02 15:04:05 UTC"))
		if changes := differences(all[i+1].Definition, c.Definition); len(changes) > 0 {
			words += ": " + strings.Join(changes, "; ")
		}
		said = append(said, words)
	}
	return strings.Join(said, ". "), nil
}

// The preview ----------------------------------------------------------------------------------------------------------------------

// schedulePreview is what an expression means, and what it would do.
type schedulePreview struct {
	Description string
	Slots       []localTime
	Never       bool
	Warnings    []string
	Added       int // of an existing schedule's slots in the coming 30 days
	Dropped     int
	Compared    bool
	Problem     *problem
}

const previewed = 5

// preview is the part of the form that is fetched while somebody types.
func (s *schedulePages) preview(ctx context.Context, v *view) (any, error) {
	if strings.TrimSpace(v.Query.Get("cron")) == "" {
		return &schedulePreview{}, nil
	}
	name := v.Query.Get("name")
	if v.Query.Get("version") == "" {
		name = ""
	}
	return s.previewOf(ctx, v, v.Query, name)
}

// previewOf asks the database step by step, and stops at the first one that is refused.
func (s *schedulePages) previewOf(ctx context.Context, v *view, form url.Values, name string) (*schedulePreview, error) {
	p := &schedulePreview{}
	err := oneOfMany(ctx, v.DB, func() error { return s.tryPreview(ctx, v, form, name, p) })
	if pg := new(pgconn.PgError); errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "TK") || strings.HasPrefix(pg.Code, "22")) || errors.As(err, new(fieldError)) {
		*p = schedulePreview{Problem: problemOf(err)}
		return p, nil
	}
	return p, err
}

func (s *schedulePages) tryPreview(ctx context.Context, v *view, form url.Values, name string, p *schedulePreview) (err error) {
	cron, zone := strings.TrimSpace(form.Get("cron")), strings.TrimSpace(form.Get("time_zone"))
	if p.Description, err = jobs.Describe(ctx, v.DB, cron); err != nil {
		return err
	}
	zones, err := s.zonesOf(ctx, v)
	if err != nil {
		return err
	}
	if err := checkZone(ctx, v.DB, zone); err != nil {
		return err
	}
	if !zones.knows(zone) {
		return refuse("time_zone", "The server does not know time zone %q.", zone)
	}
	starts, ends, err := scheduleBounds(ctx, v.DB, form)
	if err != nil {
		return err
	}
	gap, fold := chosenOf(form.Get("on_gap"), "run", "skip"), chosenOf(form.Get("on_fold"), "first", "last", "both")
	slots, err := previewSlots(ctx, v.DB, cron, zone, gap, fold, starts, ends, previewed)
	if err != nil {
		return err
	}
	p.Never = len(slots) == 0
	if p.Slots, err = s.localTimes(ctx, v, slots, slices.Repeat([]string{zone}, len(slots))); err != nil {
		return err
	}
	if p.Warnings, err = jobs.LintCron(ctx, v.DB, cron, zone); err != nil || name == "" {
		return err
	}
	p.Compared = true
	p.Added, p.Dropped, err = jobs.CountChange(ctx, v.DB, name, cron, zone)
	return err
}

// chosenOf is what was chosen, or the first choice.
func chosenOf(chosen string, choices ...string) string {
	if slices.Contains(choices, chosen) {
		return chosen
	}
	return choices[0]
}

// scheduleBounds reads starts_at and ends_at; nil is none.
func scheduleBounds(ctx context.Context, db jobs.DB, form url.Values) (starts, ends *string, err error) {
	for _, f := range []struct {
		field string
		to    **string
	}{{"starts_at", &starts}, {"ends_at", &ends}} {
		text := strings.TrimSpace(form.Get(f.field))
		if text == "" {
			continue
		}
		if err := readField(ctx, db, f.field, text, "timestamptz"); err != nil {
			return nil, nil, err
		}
		*f.to = &text
	}
	return starts, ends, nil
}

// Saving ---------------------------------------------------------------------------------------------------------------------------

// saveSchedule makes a schedule, or changes one from the version that the form was filled from.
func saveSchedule(ctx context.Context, d *doing) (string, error) {
	name, version := d.Form.Get("name"), d.Form.Get("version")
	id, present, err := lockSchedule(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	if err := mayReplace(name, version, id, present); err != nil {
		return "", err
	}
	arguments, err := scheduleArguments(ctx, d, version != "")
	if err != nil {
		return "", err
	}
	if err := jobs.Declare(ctx, d.DB, arguments); err != nil {
		return "", err
	}
	what, now, err := latestChange(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	if version == "" && what != "created" { // somebody made it after we had looked
		return "", refuse("name", "There is a schedule named %q already: choose another name, or edit that one.", name)
	}
	d.Go(scheduleAddress(name))
	d.Note(name, map[string]int{"version": now})
	switch {
	case version == "":
		return fmt.Sprintf("%s is scheduled.", visibleText(name)), nil
	case now == present:
		return fmt.Sprintf("%s was like that already; nothing is changed.", visibleText(name)), nil
	}
	return fmt.Sprintf("%s is changed: version %d.", visibleText(name), now), nil
}

// mayReplace compares what the form was filled from with what there is now.
func mayReplace(name, version string, id int64, present int) error {
	switch seen, err := strconv.Atoi(version); {
	case version == "" && id != 0:
		return refuse("name", "There is a schedule named %q already: choose another name, or edit that one.", name)
	case version == "":
		return nil
	case err != nil:
		return refuse("version", "version %q is no number: open the form anew.", version)
	case id == 0:
		return refuse("name", "No schedule is named %q any more: somebody renamed or unscheduled it since you opened this form.", name)
	case seen != present:
		return refuse("version", "Somebody changed it since you opened this form: it was version %d then, and is version %d now. Look at what changed; to save yours all the same, save again.", seen, present)
	}
	return nil
}

// scheduleArguments reads the form. The database judges the values; what it could not read at all is refused here, at its field.
func scheduleArguments(ctx context.Context, d *doing, exists bool) ([]jobs.Argument, error) {
	var all []jobs.Argument
	for _, p := range jobs.ScheduleParameters() {
		text := d.Form.Get(p.Name)
		if p.Type != "text" || p.Name == "cron" || p.Name == "time_zone" {
			text = strings.TrimSpace(text)
		}
		switch {
		case p.Name == "args" && text == "" && exists && d.Form.Get("args_kept") != "":
			kept, err := argsOf(ctx, d.DB, d.Form.Get("name"))
			if err != nil {
				return nil, err
			}
			text = kept
		case p.Name == "args" && text == "":
			text = "{}"
		case text == "" && p.Nullable:
			all = append(all, jobs.Argument{Parameter: p})
			continue
		}
		if err := readField(ctx, d.DB, p.Name, text, p.Type); err != nil {
			return nil, err
		}
		all = append(all, jobs.Argument{Parameter: p, Text: &text})
	}
	return all, nil
}

// readField refuses a text that is no value of its field's type.
func readField(ctx context.Context, db jobs.DB, field, text, kind string) error {
	switch kind {
	case "integer":
		if _, err := strconv.ParseInt(text, 10, 32); err != nil {
			return refuse(field, "%s %q is no whole number.", field, text)
		}
	case "jsonb":
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
			return refuse(field, "%s is no JSON object: %s", field, jsonFault(text, err))
		}
	case "interval", "timestamptz", "uuid":
		if err := readable(ctx, db, text, kind); err != nil {
			if pg := new(pgconn.PgError); errors.As(err, &pg) && strings.HasPrefix(pg.Code, "22") {
				return refuse(field, "%s %q can't be read: write %s.", field, text, map[string]string{"interval": "a length such as 90 seconds, 5 minutes or 1 day 12 hours",
					"timestamptz": "a moment such as 2026-12-27 06:00 (in UTC) or 2026-12-27T06:00:00+01:00", "uuid": "a UUID such as 6f9619ff-8b86-4d11-b42d-00c04fc964ff"}[kind])
			}
			return err
		}
	}
	return nil
}

// jsonFault says where a text stops being JSON.
func jsonFault(text string, err error) string {
	if at := new(json.SyntaxError); errors.As(err, &at) {
		before := text[:min(int(at.Offset), len(text))]
		return fmt.Sprintf("line %d, character %d: %s", strings.Count(before, "\n")+1, len([]rune(before[strings.LastIndex(before, "\n")+1:])), at)
	}
	return `write one such as {"to": "team"}`
}
