package web

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

const (
	slotsShown    = 20
	changesShown  = 10
	nextSlotShown = 10
)

// scheduleSetting is one of a schedule's, in words.
type scheduleSetting struct{ Name, Value string }

// slotRow is a slot in a table, with its job.
type slotRow struct {
	loggedSlot
	jobEnd
	Local  string
	Took   string
	Colour string
	Late   string
}

// Words is its fate as people say it, of a range with how many slots it stands for.
func (r slotRow) Words() string {
	if r.LastSlot != nil {
		return counted(r.Slots, "slot") + " " + fateWords(r.Fate)
	}
	return fateWords(r.Fate)
}

// changeRow is a version, with what it changed.
type changeRow struct {
	scheduleChange
	Changes []string
}

// scheduleShown is what the template of one schedule gets.
type scheduleShown struct {
	scheduleWhole
	Next     *localTime
	Ahead    []localTime
	Args     shownJSON
	Settings []scheduleSetting
	Heat     heatMap
	Slots    []slotRow
	Pager    pager
	Before   *time.Time
	Changes  []changeRow
	Older    bool // there are older changes
	Why      []jobs.Why
	Warnings []string
	Done     int // of the jobs of the slots shown
	Ended    int
	Typical  string
}

func (s *schedulePages) show(ctx context.Context, v *view) (any, error) {
	name := v.Query.Get("name")
	before, err := momentIn(v.Query, "before")
	if err != nil {
		return nil, err
	}
	days, err := heatDays(v.Query.Get("days"))
	if err != nil {
		return nil, err
	}
	whole, err := wholeSchedule(ctx, v.DB, name)
	if err != nil {
		return nil, err
	}
	v.Title, v.Now = name, whole.Now
	p := &scheduleShown{scheduleWhole: whole, Before: before}
	if err := s.describe(ctx, v, &p.scheduleItem); err != nil {
		return nil, err
	}
	p.Args = v.JSON(p.Task, "args", []byte(p.text("args")))
	p.Settings = p.settings()
	for _, part := range []func(context.Context, *view, *scheduleShown) error{s.addSlots, s.addChanges, s.addAdvice} {
		if err := part(ctx, v, p); err != nil {
			return nil, err
		}
	}
	p.Heat, err = s.heat(ctx, v, whole.scheduleItem, days)
	return p, err
}

func momentIn(query url.Values, field string) (*time.Time, error) {
	text := query.Get(field)
	if text == "" {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, wrong("%s %q is no moment such as 2026-03-28T02:00:00Z", field, text)
	}
	return &at, nil
}

func (s scheduleWhole) text(name string) string {
	if value := s.Settings[name]; value != nil {
		return *value
	}
	return ""
}

// settings leaves out what is shown elsewhere, and what is not set.
func (s scheduleWhole) settings() (all []scheduleSetting) {
	words := map[string]string{
		"task": "Task", "queue": "Queue", "priority": "Priority (0 first, 9 last)", "max_attempts": "Attempts at most", "timeout": "Timeout of an attempt", "on_missed": "Missed slots",
		"catch_up_limit": "Catch up at most", "catch_up_window": "Catch up within", "on_overlap": "While an earlier job lives", "on_gap": "Time that the clock skips", "on_fold": "Time that comes twice",
		"jitter": "Jitter", "starts_at": "From", "ends_at": "Until", "must_finish_within": "Must finish within", "owner_id": "Owner",
	}
	for _, p := range jobs.ScheduleParameters() {
		label, value := words[p.Name], s.text(p.Name)
		switch {
		case label == "" || value == "", p.Name == "jitter" && value == "00:00:00", strings.HasPrefix(p.Name, "catch_up") && s.text("on_missed") != "all":
			continue
		case p.Type == "interval":
			value = intervalWords(value)
		}
		all = append(all, scheduleSetting{label, value})
	}
	return all
}

var clockInterval = regexp.MustCompile(`^(\d+):(\d\d):(\d\d)$`)

// intervalWords is an interval as people write it, and as Postgres reads it again.
func intervalWords(value string) string {
	parts := clockInterval.FindStringSubmatch(value)
	if parts == nil {
		return value
	}
	h, _ := strconv.Atoi(parts[1])
	m, _ := strconv.Atoi(parts[2])
	sec, _ := strconv.Atoi(parts[3])
	switch {
	case h == 0 && m == 0:
		return amountOf(sec, "second")
	case sec > 0:
		return value
	case m == 0:
		return amountOf(h, "hour")
	case h == 0:
		return amountOf(m, "minute")
	}
	return value
}

// amountOf is a number of units, without the commas that Postgres would not read.
func amountOf(n int, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// nextTimes are the slots that come; of a zone that the server has lost only the next one is known.
func (s *schedulePages) nextTimes(ctx context.Context, v *view, p *scheduleShown) ([]time.Time, error) {
	zones, err := s.zonesOf(ctx, v)
	if err != nil || p.NextAt == nil {
		return nil, err
	}
	next := []time.Time{*p.NextAt}
	if !zones.knows(p.Zone) {
		return next, nil
	}
	more, err := nextSlots(ctx, v.DB, p.ID, nextSlotShown)
	return append(next, more...), err
}

// addSlots adds those that come and those that have been.
func (s *schedulePages) addSlots(ctx context.Context, v *view, p *scheduleShown) error {
	times, err := s.nextTimes(ctx, v, p)
	if err != nil {
		return err
	}
	next := len(times)
	logged, err := loggedSlots(ctx, v.DB, p.ID, p.Before, slotsShown+1)
	if err != nil {
		return err
	}
	logged = p.page(v, logged)
	var ids []int64
	for _, l := range logged {
		if l.JobID != 0 {
			ids = append(ids, l.JobID)
		}
		times = append(times, l.Slot)
	}
	ends, err := jobEnds(ctx, v.DB, ids)
	if err != nil {
		return err
	}
	local, err := s.localTimes(ctx, v, times, slices.Repeat([]string{p.Zone}, len(times)))
	if err != nil {
		return err
	}
	if p.Ahead = local[:next]; next > 0 {
		p.Next, p.Ahead = &local[0], local[1:next]
	}
	for i, l := range logged {
		p.Slots = append(p.Slots, slotRow{loggedSlot: l, Local: local[next+i].Local, Colour: fateColour(l.Fate), Late: lateness(l.RecordedAt.Sub(l.Slot)), jobEnd: ends[l.JobID]})
	}
	p.sumUp()
	return nil
}

// page cuts the rows to a page, and tells where the next one begins.
func (p *scheduleShown) page(v *view, logged []loggedSlot) []loggedSlot {
	if p.Before != nil {
		p.Pager.First = addressWith(v, "/schedule", "before", "") + "#slots"
	}
	if len(logged) <= slotsShown {
		return logged
	}
	logged = logged[:slotsShown]
	p.Pager.Next = addressWith(v, "/schedule", "before", logged[slotsShown-1].Slot.UTC().Format(time.RFC3339Nano)) + "#slots"
	return logged
}

// sumUp tells how the jobs of the slots shown went.
func (p *scheduleShown) sumUp() {
	var took []time.Duration
	for i := range p.Slots {
		row := &p.Slots[i]
		if row.FinishedAt == nil {
			continue
		}
		if p.Ended++; row.State == "done" {
			p.Done++
		}
		if row.StartedAt == nil { // cancelled before it ran
			continue
		}
		d := row.FinishedAt.Sub(*row.StartedAt)
		if row.Took = lasting(d); row.State == "done" {
			took = append(took, d)
		}
	}
	if slices.Sort(took); len(took) > 0 {
		p.Typical = lasting(took[len(took)/2])
	}
}

// lateness leaves out what nobody minds.
func lateness(d time.Duration) string {
	if d < time.Second {
		return ""
	}
	return lasting(d)
}

func (s *schedulePages) addChanges(ctx context.Context, v *view, p *scheduleShown) error {
	all, err := scheduleChanges(ctx, v.DB, p.ID, changesShown+1)
	for i, c := range all {
		if i == changesShown {
			p.Older = true
			break
		}
		row := changeRow{scheduleChange: c}
		if i+1 < len(all) {
			row.Changes = differences(all[i+1].Definition, c.Definition)
		}
		p.Changes = append(p.Changes, row)
	}
	return err
}

// differences names what a version changed; arguments are said to be others, and not shown.
func differences(before, after map[string]json.RawMessage) (changes []string) {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		old, now := before[name], after[name]
		switch {
		case string(old) == string(now) || name == "told_until":
		case name == "args":
			changes = append(changes, "args changed")
		default:
			changes = append(changes, fmt.Sprintf("%s %s → %s", name, settingText(old), settingText(now)))
		}
	}
	return changes
}

func settingText(value json.RawMessage) string {
	if len(value) == 0 || string(value) == "null" {
		return "none"
	}
	return visibleText(wordsOr(value))
}

func (s *schedulePages) addAdvice(ctx context.Context, v *view, p *scheduleShown) (err error) {
	if p.Why, err = jobs.WhySchedule(ctx, v.DB, p.Name); err != nil {
		return err
	}
	for i, w := range p.Why {
		if strings.HasPrefix(w.Reason, "its last job ") { // the evidence is that job's error
			p.Why[i].Evidence = v.Text(p.Task, "message", w.Evidence)
		}
	}
	p.Warnings, err = s.warnings(ctx, v, p.scheduleItem)
	return err
}

// adviceKey is a version of a schedule.
type adviceKey struct {
	schedule int64
	version  int
}

// advice is what there is to warn of.
type advice struct {
	warnings []string
	at       time.Time
}

// adviceKeptFor is short of what people notice: warnings go by how long the task usually takes, for which a thousand jobs are read.
const adviceKeptFor = time.Minute

// mostAdvice is remembered.
const mostAdvice = 500

func (s *schedulePages) warnings(ctx context.Context, v *view, i scheduleItem) ([]string, error) {
	key := adviceKey{i.ID, i.Version}
	s.mu.Lock()
	kept := s.advice[key]
	s.mu.Unlock()
	if time.Since(kept.at) < adviceKeptFor {
		return kept.warnings, nil
	}
	found, err := jobs.LintSchedules(ctx, v.DB, &i.Name)
	if err != nil {
		return nil, err
	}
	kept = advice{at: time.Now()}
	for _, w := range found {
		kept.warnings = append(kept.warnings, w.Warning)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.advice == nil || len(s.advice) >= mostAdvice {
		s.advice = map[adviceKey]advice{}
	}
	s.advice[key] = kept
	return kept.warnings, nil
}

// fateColour is that of a slot's fate; ranges count as what they stand for.
func fateColour(word string) string {
	switch word {
	case "missed_range":
		word = "missed"
	case "skipped_range":
		word = "skipped_paused"
	}
	return fate(word)
}
