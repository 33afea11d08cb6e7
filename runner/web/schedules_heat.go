package web

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// heatMap shows what became of a schedule's slots, by the days and hours of its zone.
type heatMap struct {
	Days    []heatDay
	Asked   int
	Choices []int
	Zone    string
	Total   int
	Fates   []fateCount
	Note    string
}

// Hours are the columns.
func (heatMap) Hours() (hours [24]int) {
	for i := range hours {
		hours[i] = i
	}
	return hours
}

// heatDay is a row of it.
type heatDay struct {
	Day   string
	Label string
	Until string // the moment at which the day after it begins; empty: it is the last one
	begin time.Time
	Cells []heatCell
}

// heatCell is an hour of a day.
type heatCell struct {
	Hour  int
	Slots int
	Mark  string
	Class string // as of fate; empty: no slot; gone: the clock skips the hour
	Text  string

	minutes int
	fates   []fateCount
	notes   []string
}

// fateCount is how many slots met a fate.
type fateCount struct {
	Fate  string
	Slots int
}

// heatMost rows of slots are read for it at most: a week of every minute.
const heatMost = 11_000

func heatChoices() []int { return []int{7, 14, 30, 60} }

func heatDays(text string) (int, error) {
	if text == "" {
		return 14, nil
	}
	days, err := strconv.Atoi(text)
	if err != nil || !slices.Contains(heatChoices(), days) {
		return 0, wrong("days %q is none of 7, 14, 30, 60", text)
	}
	return days, nil
}

func (s *schedulePages) heat(ctx context.Context, v *view, schedule scheduleItem, days int) (h heatMap, err error) {
	h = heatMap{Asked: days, Choices: heatChoices(), Zone: schedule.Zone}
	zones, err := s.zonesOf(ctx, v)
	if err != nil {
		return h, err
	}
	if !zones.knows(h.Zone) {
		h.Zone = "UTC"
	}
	found, err := fatesByHour(ctx, v.DB, schedule.ID, h.Zone, days, heatMost, schedule.Now)
	if err != nil {
		return h, err
	}
	h.layOut(found.Hours)
	h.put(found.Fates)
	h.putRanges(found.Ranges)
	h.finish()
	if found.Oldest != nil {
		h.Note = fmt.Sprintf("The newest %s slots are counted, back to %s; there are older ones in this time.", number(heatMost), found.Oldest.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	return h, nil
}

// layOut makes the days, the newest first, each with 24 hours, of which the clock may skip some.
func (h *heatMap) layOut(hours []wallHour) {
	for _, hour := range hours {
		if len(h.Days) == 0 || h.Days[len(h.Days)-1].Day != hour.Day {
			h.Days = append(h.Days, newHeatDay(hour.Day))
		}
		if d := &h.Days[len(h.Days)-1]; d.begin.IsZero() || hour.Begins.Before(d.begin) {
			d.begin = hour.Begins
		}
		h.Days[len(h.Days)-1].Cells[hour.Hour].minutes = hour.Minutes
	}
	for i := range len(h.Days) - 1 {
		h.Days[i].Until = h.Days[i+1].begin.UTC().Format(time.RFC3339)
	}
	slices.Reverse(h.Days)
}

func newHeatDay(day string) heatDay {
	d := heatDay{Day: day, Label: day, Cells: make([]heatCell, 24)}
	if at, err := time.Parse(time.DateOnly, day); err == nil {
		d.Label = at.Format("Mon 2 Jan")
	}
	for hour := range d.Cells {
		d.Cells[hour].Hour = hour
	}
	return d
}

func (h *heatMap) cell(day string, hour int) *heatCell {
	for i := range h.Days {
		if h.Days[i].Day == day {
			return &h.Days[i].Cells[hour]
		}
	}
	return nil
}

func (h *heatMap) put(fates []hourFates) {
	for _, f := range fates {
		h.add(f.Fate, f.Slots)
		if c := h.cell(f.Day, f.Hour); c != nil {
			c.Slots += f.Slots
			c.fates = append(c.fates, fateCount{f.Fate, f.Slots})
		}
	}
}

func (h *heatMap) add(word string, slots int) {
	h.Total += slots
	for i := range h.Fates {
		if h.Fates[i].Fate == word {
			h.Fates[i].Slots += slots
			return
		}
	}
	h.Fates = append(h.Fates, fateCount{word, slots})
}

// putRanges marks all hours of a range: how many of its slots lay in which hour is not kept.
func (h *heatMap) putRanges(ranges []passedRange) {
	for _, r := range ranges {
		h.add(r.Fate, r.Slots)
		words := map[string]string{"missed_range": "missed", "skipped_range": "skipped_paused"}[r.Fate]
		note := fmt.Sprintf("part of %s %s from %s to %s", counted(r.Slots, "slot"), fateWords(words), r.From.UTC().Format("2 Jan 15:04"), r.To.UTC().Format("2 Jan 15:04 UTC"))
		for i := range h.Days {
			d := &h.Days[i]
			for hour := range d.Cells {
				if r.covers(d.Day, hour) && d.Cells[hour].minutes > 0 {
					d.Cells[hour].fates = append(d.Cells[hour].fates, fateCount{words, 0})
					d.Cells[hour].notes = append(d.Cells[hour].notes, note)
				}
			}
		}
	}
}

// covers tells whether an hour lies between the first and the last one of the range.
func (r passedRange) covers(day string, hour int) bool {
	before := func(dayA string, hourA int, dayB string, hourB int) bool {
		return dayA < dayB || dayA == dayB && hourA < hourB
	}
	return !before(day, hour, r.FirstDay, r.FirstHour) && !before(r.LastDay, r.LastHour, day, hour)
}

// severity orders fates: of an hour with several the gravest is shown.
func severity() []string {
	return []string{"enqueued", "run_now", "caught_up", "skipped_paused", "skipped_overlap", "missed"}
}

func (h *heatMap) finish() {
	slices.SortFunc(h.Fates, func(a, b fateCount) int { return b.Slots - a.Slots })
	for i := range h.Days {
		for hour := range h.Days[i].Cells {
			h.Days[i].Cells[hour].finish()
		}
	}
}

func (c *heatCell) finish() {
	var words []string
	worst := -1
	for _, f := range c.fates {
		worst = max(worst, slices.Index(severity(), f.Fate))
		if f.Slots > 0 {
			words = append(words, fmt.Sprintf("%d %s", f.Slots, fateWords(f.Fate)))
		}
	}
	words = append(words, c.notes...)
	clock := fmt.Sprintf("%02d:00", c.Hour)
	switch {
	case c.minutes == 0:
		c.Class, c.Mark, c.Text = "gone", "–", clock+": the clock skips this hour"
		return
	case c.minutes > 60:
		clock += fmt.Sprintf(" (this hour has %d minutes: the clock is set back)", c.minutes)
	case c.minutes < 60:
		clock += fmt.Sprintf(" (this hour has %d minutes: the clock is moved)", c.minutes)
	}
	if worst < 0 {
		c.Class, c.Text = "empty", clock+": no slot"
		return
	}
	gravest := severity()[worst]
	c.Class, c.Text = fate(gravest), clock+": "+strings.Join(words, ", ")
	c.Mark = map[string]string{"missed": "!", "skipped_overlap": "o", "skipped_paused": "p", "caught_up": "+"}[gravest]
	if c.Slots > 0 {
		c.Mark = strconv.Itoa(c.Slots) + c.Mark
	}
}

// fateWords is a fate as people say it.
func fateWords(word string) string {
	if words, ok := map[string]string{"run_now": "run by hand", "caught_up": "caught up", "skipped_paused": "skipped in a pause", "skipped_overlap": "skipped for an earlier job",
		"missed_range": "missed", "skipped_range": "skipped in a pause"}[word]; ok {
		return words
	}
	return word
}

// Words is how many slots met the fate, in words.
func (f fateCount) Words() string { return number(f.Slots) + " " + fateWords(f.Fate) }

// Colour is that of the fate.
func (f fateCount) Colour() string { return fateColour(f.Fate) }
