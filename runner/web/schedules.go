package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// schedulesShown is how many a page of the list has.
const schedulesShown = 50

func schedulesPages() []page {
	on := func(load func(*schedulePages, context.Context, *view) (any, error)) func(context.Context, *view) (any, error) {
		return func(ctx context.Context, v *view) (any, error) { return load(&v.database.schedules, ctx, v) }
	}
	return []page{
		{Path: "/schedules", Nav: "/schedules", Title: "Schedules", Template: "schedules.html", Live: true, Load: on((*schedulePages).list)},
		{Path: "/schedule", Nav: "/schedules", Title: "Schedule", Template: "schedule.html", Live: true, Load: on((*schedulePages).show)},
		{Path: "/schedules/new", Nav: "/schedules", Title: "New schedule", Template: "schedule_form.html", Operator: true, Load: on((*schedulePages).fresh)},
		{Path: "/schedules/edit", Nav: "/schedules", Title: "Edit a schedule", Template: "schedule_form.html", Operator: true, Load: on((*schedulePages).edit)},
		{Path: "/schedules/preview", Template: "schedule_form.html", Fragment: true, Load: on((*schedulePages).preview)},
	}
}

func schedulesActions() []action {
	return []action{
		{Name: "schedules/pause", Run: pauseSchedule},
		{Name: "schedules/resume", Run: resumeSchedule},
		{Name: "schedules/run", Run: runSchedule},
		{Name: "schedules/skip", Run: skipSlot},
		{Name: "schedules/rename", Run: renameSchedule},
		{Name: "schedules/remove", Run: removeSchedule},
		{Name: "schedules/save", Run: saveSchedule, Again: func(d *doing) string {
			if d.Form.Get("version") == "" {
				return "/schedules/new"
			}
			return "/schedules/edit?" + url.Values{"name": {d.Form.Get("name")}}.Encode()
		}},
	}
}

// schedulePages remembers of a database what is dear to find out and seldom changes.
type schedulePages struct {
	mu     sync.Mutex
	zones  zoneList
	strips map[stripKey][]int64
	words  map[string]string // expressions in English
	advice map[adviceKey]advice
}

// zoneList is what time zones a server knows.
type zoneList struct {
	names []string
	known map[string]bool // in small letters
	at    time.Time
}

const zonesKeptFor = time.Hour

func (s *schedulePages) zonesOf(ctx context.Context, v *view) (zoneList, error) {
	s.mu.Lock()
	list := s.zones
	s.mu.Unlock()
	if list.known != nil && time.Since(list.at) < zonesKeptFor {
		return list, nil
	}
	names, err := zoneNames(ctx, v.DB)
	if err != nil {
		return list, err
	}
	list = zoneList{names: names, known: map[string]bool{}, at: time.Now()}
	for _, name := range names {
		list.known[strings.ToLower(name)] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zones = list
	return list, nil
}

// knows tells whether the server can say what this zone's clocks show: one that it has lost would fail the page.
func (z zoneList) knows(zone string) bool { return z.known[strings.ToLower(zone)] }

// mostWords are remembered.
const mostWords = 5000

// describe adds the English of their expressions to schedules. To find it out takes longer than all else of a list.
func (s *schedulePages) describe(ctx context.Context, v *view, items ...*scheduleItem) error {
	var unknown []string
	s.mu.Lock()
	for _, i := range items {
		if i.Description = s.words[i.Cron]; i.Description == "" {
			unknown = append(unknown, i.Cron)
		}
	}
	s.mu.Unlock()
	if len(unknown) == 0 {
		return nil
	}
	found, err := describeAll(ctx, v.DB, unknown)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.words == nil || len(s.words)+len(found) > mostWords {
		s.words = map[string]string{}
	}
	for at, words := range found {
		s.words[unknown[at]] = words
	}
	for _, i := range items {
		if i.Description == "" {
			i.Description = s.words[i.Cron]
		}
	}
	return nil
}

// localTime is a moment as a zone's clocks show it.
type localTime struct {
	At    time.Time
	Local string // Sun 25 Oct 2026, 02:30 UTC+1
	Zone  string
}

// Text is what the zone's clocks show, and which zone that is.
func (l localTime) Text() string {
	if l.Zone == "UTC" {
		return l.Local
	}
	return l.Local + " (" + l.Zone + ")"
}

func (s *schedulePages) localTimes(ctx context.Context, v *view, at []time.Time, zones []string) ([]localTime, error) {
	known, err := s.zonesOf(ctx, v)
	if err != nil {
		return nil, err
	}
	all := make([]localTime, len(at))
	asked := slices.Clone(zones)
	for i, zone := range zones {
		all[i] = localTime{At: at[i], Zone: zone}
		if !known.knows(zone) {
			asked[i], all[i].Zone = "UTC", "the server does not know "+zone
		}
	}
	clocks, err := wallClocks(ctx, v.DB, at, asked)
	for i, w := range clocks {
		all[i].Local = w.Words + " " + offsetText(w.Offset)
	}
	return all, err
}

// offsetText is how far a zone's clocks are from UTC.
func offsetText(minutes int) string {
	switch {
	case minutes == 0:
		return "UTC"
	case minutes%60 == 0:
		return fmt.Sprintf("UTC%+d", minutes/60)
	}
	sign := "+"
	if minutes < 0 {
		sign, minutes = "−", -minutes
	}
	return fmt.Sprintf("UTC%s%d:%02d", sign, minutes/60, minutes%60)
}

func (i scheduleItem) State() string {
	switch {
	case i.BrokenAt != nil:
		return "broken"
	case i.PausedAt != nil:
		return "paused"
	case i.NextAt == nil:
		return "ended"
	}
	return "active"
}

// StateFate is the colour of its state.
func (i scheduleItem) StateFate() string {
	return map[string]string{"broken": "bad", "paused": "held", "ended": "plain", "active": "good"}[i.State()]
}

// Address is that of its page, without the base: a name may have slashes and dots in it.
func (i scheduleItem) Address() string { return scheduleAddress(i.Name) }

// EditAddress is that of the form.
func (i scheduleItem) EditAddress() string {
	return "/schedules/edit?" + url.Values{"name": {i.Name}}.Encode()
}

// CopyAddress is that of the form of another one with its settings.
func (i scheduleItem) CopyAddress() string {
	return "/schedules/new?" + url.Values{"copy": {i.Name}}.Encode()
}

// JobsAddress is that of its jobs.
func (i scheduleItem) JobsAddress() string {
	return "/jobs?" + url.Values{"schedule": {i.Name}}.Encode()
}

// LastFateWords is the fate of its last slot as people say it.
func (i scheduleItem) LastFateWords() string { return fateWords(i.LastFate) }

func scheduleAddress(name string) string {
	return "/schedule?" + url.Values{"name": {name}}.Encode()
}

// The list ----------------------------------------------------------------------------------------------------------------------

// scheduleRow is a schedule in the list.
type scheduleRow struct {
	scheduleItem
	Next      *localTime
	LastState string // of the job of its last slot
	Cells     []stripCell
}

// LastFateColour is that of the last slot: of its job where it has one that ended badly, otherwise of the slot.
func (r scheduleRow) LastFateColour() string {
	if r.LastState == "failed" || r.LastState == "cancelled" {
		return fate(r.LastState)
	}
	return fateColour(r.LastFate)
}

// schedulesList is what the template of the list gets.
type schedulesList struct {
	Rows    []scheduleRow
	Filter  scheduleFilter
	Choices map[string][]string
	Strip   strip
	Pager   pager
	None    bool // there is no schedule at all
}

func (s *schedulePages) list(ctx context.Context, v *view) (any, error) {
	states := []string{"", "active", "paused", "broken", "ended"}
	l := schedulesList{Choices: map[string][]string{"state": states}}
	l.Filter = scheduleFilter{State: v.Query.Get("state"), Words: strings.TrimSpace(v.Query.Get("q")), After: v.Query.Get("after")}
	if !slices.Contains(states, l.Filter.State) {
		return nil, wrong("state %q is none of %s", l.Filter.State, strings.Join(states[1:], ", "))
	}
	now, err := jobs.Now(ctx, v.DB)
	if err != nil {
		return nil, err
	}
	v.Now = now
	if l.Strip, err = stripAt(v.Query.Get("ahead"), now); err != nil {
		return nil, err
	}
	items, err := listSchedules(ctx, v.DB, l.Filter, schedulesShown+1)
	if err != nil {
		return nil, err
	}
	if l.Pager, err = schedulesPager(ctx, v, l.Filter, &items); err != nil {
		return nil, err
	}
	l.None = len(items) == 0 && l.Filter == scheduleFilter{}
	if l.Rows, err = s.rows(ctx, v, items); err != nil {
		return nil, err
	}
	if err := s.fill(ctx, v, &l.Strip, l.Rows); err != nil {
		return nil, err
	}
	return l, nil
}

// schedulesPager cuts items to a page, and tells where the next one begins.
func schedulesPager(ctx context.Context, v *view, f scheduleFilter, items *[]scheduleItem) (p pager, err error) {
	next := ""
	switch {
	case len(*items) > schedulesShown:
		*items = (*items)[:schedulesShown]
		next = (*items)[schedulesShown-1].Name
	case f.State != "" || f.Words != "":
		if next, err = schedulesEdge(ctx, v.DB, f.After); err != nil {
			return p, err
		}
		if next != "" {
			p.Note = fmt.Sprintf("%s schedules were looked through; there are more.", number(jobs.Window))
		}
	}
	if next != "" {
		p.Next = addressWith(v, "/schedules", "after", next)
	}
	if f.After != "" {
		p.First = addressWith(v, "/schedules", "after", "")
	}
	return p, nil
}

// addressWith is an address of a page with one field of the query changed; empty takes it out.
func addressWith(v *view, path, field, value string) string {
	query := maps.Clone(v.Query)
	if query == nil {
		query = url.Values{}
	}
	if query.Set(field, value); value == "" {
		query.Del(field)
	}
	return v.Base + path + "?" + query.Encode()
}

func (s *schedulePages) rows(ctx context.Context, v *view, items []scheduleItem) ([]scheduleRow, error) {
	rows := make([]scheduleRow, len(items))
	var at []time.Time
	var zones []string
	var ids []int64
	for i, item := range items {
		rows[i].scheduleItem = item
		if item.NextAt != nil {
			at, zones = append(at, *item.NextAt), append(zones, item.Zone)
		}
		if item.LastJob != 0 {
			ids = append(ids, item.LastJob)
		}
	}
	ends, err := jobEnds(ctx, v.DB, ids)
	if err != nil {
		return nil, err
	}
	local, err := s.localTimes(ctx, v, at, zones)
	if err != nil {
		return nil, err
	}
	all := make([]*scheduleItem, len(rows))
	for i := range rows {
		all[i] = &rows[i].scheduleItem
	}
	if err := s.describe(ctx, v, all...); err != nil {
		return nil, err
	}
	for i := range rows {
		rows[i].LastState = ends[rows[i].LastJob].State
		if rows[i].NextAt != nil {
			rows[i].Next, local = &local[0], local[1:]
		}
	}
	return rows, nil
}

// The strip of what comes --------------------------------------------------------------------------------------------------------

// strip is a stretch of time from the present hour on, in equal parts.
type strip struct {
	Ahead  string // 24h or 7d
	From   time.Time
	Length time.Duration
	Parts  []time.Time
	Sums   []int64
	Marks  []stripMark
}

// stripMark is a caption above several cells.
type stripMark struct {
	At   time.Time
	Span int
}

// stripCell is a part of the strip of one schedule.
type stripCell struct {
	Slots int64
	Class string // empty, some, many, held
	Text  string
}

// Mark is what fits into a cell.
func (c stripCell) Mark() string {
	if c.Slots > 999 {
		return fmt.Sprintf("%dk", c.Slots/1000)
	}
	return strconv.FormatInt(c.Slots, 10)
}

type stripKey struct {
	schedule int64
	version  int
	from     int64
	ahead    string
}

func stripAt(ahead string, now time.Time) (s strip, err error) {
	s = strip{Ahead: cmp.Or(ahead, "24h")}
	cells, marked := 24, 6
	switch s.Ahead {
	case "24h":
		s.Length = time.Hour
	case "7d":
		s.Length, cells, marked = 6*time.Hour, 28, 4
	default:
		return s, wrong("ahead %q is neither 24h nor 7d", ahead)
	}
	s.From = now.UTC().Truncate(s.Length)
	s.Sums = make([]int64, cells)
	for i := range cells {
		s.Parts = append(s.Parts, s.From.Add(time.Duration(i)*s.Length))
		if i%marked == 0 {
			s.Marks = append(s.Marks, stripMark{s.Parts[i], min(marked, cells-i)})
		}
	}
	return s, nil
}

func (s strip) until() time.Time { return s.From.Add(time.Duration(len(s.Parts)) * s.Length) }

// Name is a part as it is read out.
func (s strip) Name(i int) string {
	from, to := s.Parts[i], s.Parts[i].Add(s.Length)
	return from.Format("Mon 15:04") + "–" + to.Format("15:04") + " UTC"
}

// stripListed slots are listed one by one; a schedule that has more is counted part by part, which takes longer.
const stripListed = 200

// mostStrips are remembered.
const mostStrips = 2000

// fill works out the strip of each schedule, once an hour and version.
func (s *schedulePages) fill(ctx context.Context, v *view, strip *strip, rows []scheduleRow) error {
	counts, missing := s.remembered(*strip, rows)
	if len(missing) > 0 {
		found, err := s.count(ctx, v, *strip, missing)
		if err != nil {
			return err
		}
		s.remember(*strip, rows, found)
		maps.Copy(counts, found)
	}
	for i := range rows {
		rows[i].Cells = make([]stripCell, len(strip.Parts))
		for cell := range strip.Parts {
			rows[i].Cells[cell] = strip.cell(rows[i].scheduleItem, cell, slotsIn(counts[rows[i].ID], cell))
			if rows[i].Cells[cell].Class != "held" {
				strip.Sums[cell] += rows[i].Cells[cell].Slots
			}
		}
	}
	return nil
}

func slotsIn(counts []int64, i int) int64 {
	if i >= len(counts) {
		return 0
	}
	return counts[i]
}

func (s *schedulePages) remembered(strip strip, rows []scheduleRow) (counts map[int64][]int64, missing []scheduleItem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts = map[int64][]int64{}
	for _, r := range rows {
		if known, ok := s.strips[strip.key(r.scheduleItem)]; ok {
			counts[r.ID] = known
		} else if r.NextAt != nil {
			missing = append(missing, r.scheduleItem)
		}
	}
	return counts, missing
}

func (s strip) key(i scheduleItem) stripKey {
	return stripKey{i.ID, i.Version, s.From.Unix(), s.Ahead}
}

func (s *schedulePages) remember(strip strip, rows []scheduleRow, found map[int64][]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.strips)+len(found) > mostStrips || s.strips == nil {
		s.strips = map[stripKey][]int64{}
	}
	for _, r := range rows {
		if counts, ok := found[r.ID]; ok {
			s.strips[strip.key(r.scheduleItem)] = counts
		}
	}
}

// count works out how many slots each of these has in each part. A schedule whose zone the server has lost has none that it can tell.
func (s *schedulePages) count(ctx context.Context, v *view, strip strip, items []scheduleItem) (map[int64][]int64, error) {
	zones, err := s.zonesOf(ctx, v)
	if err != nil {
		return nil, err
	}
	counts := map[int64][]int64{}
	var ids []int64
	for _, item := range items {
		if counts[item.ID] = make([]int64, len(strip.Parts)); zones.knows(item.Zone) {
			ids = append(ids, item.ID)
		}
	}
	planned, err := slotsAhead(ctx, v.DB, ids, strip.From, strip.until(), stripListed)
	if err != nil {
		return nil, err
	}
	for _, p := range planned {
		if len(p.Slots) == stripListed {
			continue
		}
		ids = slices.DeleteFunc(ids, func(id int64) bool { return id == p.ID })
		for _, slot := range p.Slots {
			counts[p.ID][(slot-strip.From.Unix())/int64(strip.Length.Seconds())]++
		}
	}
	if len(ids) == 0 {
		return counts, nil
	}
	counted, err := countAhead(ctx, v.DB, ids, strip.From, strip.Length, len(strip.Parts))
	for _, c := range counted {
		counts[c.ID][c.Cell] = c.Slots
	}
	return counts, err
}

func (s strip) cell(i scheduleItem, part int, slots int64) stripCell {
	c := stripCell{Slots: slots, Class: "empty", Text: s.Name(part) + ": no slot"}
	if slots == 0 {
		return c
	}
	c.Text = fmt.Sprintf("%s: %s", s.Name(part), counted(int(slots), "slot"))
	switch end := s.Parts[part].Add(s.Length); {
	case i.PausedAt != nil && (i.PausedUntil == nil || !end.After(*i.PausedUntil)):
		c.Class, c.Text = "held", c.Text+", paused"
	case slots > 12:
		c.Class = "many"
	default:
		c.Class = "some"
	}
	return c
}

// One schedule ---------------------------------------------------------------------------------------------------------------------

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

// Actions --------------------------------------------------------------------------------------------------------------------------

func pauseSchedule(ctx context.Context, d *doing) (string, error) {
	name := d.Form.Get("name")
	until, length, err := readUntil(d.Form.Get("until"))
	if err != nil {
		return "", err
	}
	d.Note(name, map[string]string{"until": d.Form.Get("until")})
	if err := jobs.PauseUntil(ctx, d.DB, name, until, length); err != nil {
		return "", err
	}
	switch {
	case until != nil:
		return fmt.Sprintf("%s is paused until %s.", visibleText(name), until.UTC().Format("2006-01-02 15:04:05 UTC")), nil
	case length != 0:
		return fmt.Sprintf("%s is paused for %s.", visibleText(name), lasting(length)), nil
	}
	return fmt.Sprintf("%s is paused until it is resumed.", visibleText(name)), nil
}

var lengthWords = regexp.MustCompile(`^(\d{1,5}) ?(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)$`)

// readUntil reads a moment (in UTC unless it says otherwise) or a length from now; neither: for good.
func readUntil(text string) (*time.Time, time.Duration, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, 0, nil
	}
	if w, known := jobs.ReadWhen(text); known {
		return w.UTC(), w.In, nil
	}
	if parts := lengthWords.FindStringSubmatch(strings.ToLower(text)); parts != nil {
		n, _ := strconv.Atoi(parts[1])
		unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[parts[2][0]]
		if n > 0 {
			return nil, time.Duration(n) * unit, nil
		}
	}
	return nil, 0, refuse("until", "until %q is no time: write 2 hours, 1 day, or a moment in UTC such as 2026-12-27 06:00; or nothing, for a pause until it is resumed", text)
}

func resumeSchedule(ctx context.Context, d *doing) (string, error) {
	name, catchUp := d.Form.Get("name"), d.Form.Get("catch_up") != ""
	paused, err := isPaused(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	d.Note(name, map[string]bool{"catch_up": catchUp})
	if err := jobs.Resume(ctx, d.DB, name, catchUp); err != nil {
		return "", err
	}
	switch {
	case !paused:
		return fmt.Sprintf("%s was not paused.", visibleText(name)), nil
	case catchUp:
		return fmt.Sprintf("%s is resumed; what lay in the pause is caught up as on_missed says.", visibleText(name)), nil
	}
	return fmt.Sprintf("%s is resumed; what lay in the pause stays skipped.", visibleText(name)), nil
}

func runSchedule(ctx context.Context, d *doing) (string, error) {
	name := d.Form.Get("name")
	id, err := jobs.RunNow(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	d.Note(name, map[string]int64{"job": id})
	return fmt.Sprintf("Job %d of %s is enqueued.", id, visibleText(name)), nil
}

// skipSlot is a pause that ends just after the next slot.
func skipSlot(ctx context.Context, d *doing) (string, error) {
	name := d.Form.Get("name")
	paused, err := isPaused(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	if paused {
		return "", refuse("name", "%s is paused: its slots are skipped already. Resume it first.", visibleText(name))
	}
	slot, err := skipNext(ctx, d.DB, name)
	if err != nil {
		return "", err
	}
	if slot == nil {
		return "", refuse("name", "%s has no slot to come that could be skipped.", visibleText(name))
	}
	d.Note(name, map[string]time.Time{"slot": *slot})
	return fmt.Sprintf("%s is paused until just after its next slot, %s, and goes on by itself then.", visibleText(name), slot.UTC().Format("2006-01-02 15:04:05 UTC")), nil
}

func renameSchedule(ctx context.Context, d *doing) (string, error) {
	name, to := d.Form.Get("name"), d.Form.Get("new_name")
	d.Note(name, map[string]string{"new_name": to})
	if err := jobs.RenameSchedule(ctx, d.DB, name, to); err != nil {
		return "", err
	}
	d.Go(scheduleAddress(to))
	return fmt.Sprintf("%s is named %s now; its slots, versions and jobs went with it.", visibleText(name), visibleText(to)), nil
}

func removeSchedule(ctx context.Context, d *doing) (string, error) {
	name := d.Form.Get("name")
	d.Note(name, nil)
	if err := jobs.Unschedule(ctx, d.DB, name); err != nil {
		return "", err
	}
	d.Go("/schedules")
	return fmt.Sprintf("%s is unscheduled. Its slots, versions and jobs stay; a new schedule of that name brings it back.", visibleText(name)), nil
}
