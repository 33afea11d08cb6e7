package web

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

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
