package web

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
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
