package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/runner/jobs"
)

// What became of a schedule.
const (
	created   = "created"
	changed   = "changed"
	removed   = "removed"
	unchanged = "unchanged"
)

// change is the difference of one schedule, before and after a file was applied.
type change struct {
	what    string
	before  *jobs.ScheduleState
	after   *jobs.ScheduleState
	fields  []difference
	counted bool // of the slots, since cron or zone has changed
	added   int
	dropped int
}

// difference is a setting with another value.
type difference struct {
	name string
	old  json.RawMessage
	new  json.RawMessage
}

func (c change) name() string {
	if c.after != nil {
		return c.after.Name
	}
	return c.before.Name
}

// renamedFrom is the old name, or empty.
func (c change) renamedFrom() string {
	if c.before == nil || c.after == nil || c.before.Name == c.after.Name {
		return ""
	}
	return c.before.Name
}

// compare lists what differs, and what is declared and does not, by name. A schedule is known by its id, whatever it is called.
func compare(before, after map[int64]jobs.ScheduleState, declared []string) []change {
	var all []change
	for id, a := range after {
		c := change{what: created, after: &a}
		if b, there := before[id]; there {
			c.what, c.before = changed, &b
		}
		c.fields = differences(c.before, c.after)
		if c.what == changed && len(c.fields) == 0 && c.renamedFrom() == "" {
			if c.what = unchanged; !slices.Contains(declared, a.Name) {
				continue
			}
		}
		all = append(all, c)
	}
	for id, b := range before {
		if _, there := after[id]; !there {
			all = append(all, change{what: removed, before: &b})
		}
	}
	slices.SortFunc(all, func(a, b change) int { return strings.Compare(a.name(), b.name()) })
	return all
}

func differences(before, after *jobs.ScheduleState) []difference {
	var all []difference
	for _, name := range jobs.ScheduleSettings() {
		d := difference{name: name, new: after.Settings[name]}
		if before != nil {
			d.old = before.Settings[name]
		}
		if !bytes.Equal(d.old, d.new) {
			all = append(all, d)
		}
	}
	return all
}

// count asks how many slots another cron or zone adds and drops. It asks after the change what going back would do, and takes that the
// other way round, since of a file in SQL nobody knows before what it will change. Where the old times can't be worked out any more,
// as when their zone is gone, there is nothing to count.
func (c *change) count(ctx context.Context, tx pgx.Tx) error {
	if c.what != changed || c.before.Cron() == c.after.Cron() && c.before.Zone() == c.after.Zone() {
		return nil
	}
	sp, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	c.dropped, c.added, err = jobs.CountChange(ctx, sp, c.after.Name, c.before.Cron(), c.before.Zone())
	if c.counted = err == nil; !c.counted && ctx.Err() == nil {
		return sp.Rollback(ctx)
	}
	if err != nil {
		return err
	}
	return sp.Commit(ctx)
}

// mostCounted is where pgtick.preview_change stops on each side.
const mostCounted = 10_000

func (c change) slots() string {
	if c.added+c.dropped == 0 {
		return "the same over the next 30 days"
	}
	atLeast := ""
	if max(c.added, c.dropped) >= mostCounted {
		atLeast = "at least "
	}
	return fmt.Sprintf("%s%d added, %d dropped over the next 30 days", atLeast, c.added, c.dropped)
}

// changeRow is a change for programs.
type changeRow struct {
	Name         string           `json:"name"`
	Change       string           `json:"change"`
	RenamedFrom  string           `json:"renamed_from,omitempty"`
	Fields       map[string]sides `json:"fields"`
	NextAtBefore *time.Time       `json:"next_at_before"`
	NextAtAfter  *time.Time       `json:"next_at_after"`
	SlotsAdded   *int             `json:"slots_added"`
	SlotsDropped *int             `json:"slots_dropped"`
}

type sides struct {
	Old json.RawMessage `json:"old"`
	New json.RawMessage `json:"new"`
}

func jsonOf(changes []change) []changeRow {
	rows := make([]changeRow, len(changes))
	for i, c := range changes {
		row := changeRow{Name: c.name(), Change: c.what, RenamedFrom: c.renamedFrom(), Fields: map[string]sides{}}
		for _, f := range c.fields {
			row.Fields[f.name] = sides{f.old, f.new}
		}
		if c.before != nil {
			row.NextAtBefore = inUTC(c.before.NextAt)
		}
		if c.after != nil {
			row.NextAtAfter = inUTC(c.after.NextAt)
		}
		if c.counted {
			row.SlotsAdded, row.SlotsDropped = &changes[i].added, &changes[i].dropped
		}
		rows[i] = row
	}
	return rows
}

func inUTC(at *time.Time) *time.Time {
	if at == nil {
		return nil
	}
	utc := at.UTC()
	return &utc
}

// printChanges shows a block for each change: + created, ~ changed, - removed.
func printChanges(s screen, changes []change, now time.Time) error {
	signs := map[string]cell{created: {[]string{"+"}, green}, changed: {[]string{"~"}, yellow}, removed: {[]string{"-"}, red}}
	for _, c := range changes {
		sign := signs[c.what]
		title := fmt.Sprintf("%s %s  %s", sign.parts[0], printable(c.name()), c.what)
		if old := c.renamedFrom(); old != "" {
			title += ", was named " + printable(old)
		}
		if _, err := fmt.Fprintln(s, s.paint(sign.colour, title)); err != nil {
			return err
		}
		if err := c.print(s, now); err != nil {
			return err
		}
	}
	return nil
}

// print lists what differs. Of a new schedule all settings differ from nothing: the main ones are enough.
func (c change) print(s screen, now time.Time) error {
	var lines [][2]string
	add := func(name, value string) { lines = append(lines, [2]string{name, printable(value)}) }
	for _, f := range c.fields {
		switch {
		case c.what == changed:
			add(f.name, plain(f.old)+" → "+plain(f.new))
		case f.name == "cron" || f.name == "time_zone" || f.name == "task" || f.name == "args" && string(f.new) != "{}":
			add(f.name, plain(f.new))
		}
	}
	switch before, after := nextOf(c.before, now), nextOf(c.after, now); {
	case c.before == nil:
		add("next run", after)
	case before != after:
		add("next run", before+" → "+after)
	}
	if c.counted {
		add("slots", c.slots())
	}
	names := 0
	for _, line := range lines {
		names = max(names, wide(line[0]))
	}
	margin := strings.Repeat(" ", 4+names+len(gap))
	for _, line := range lines {
		values := []string{line[1]}
		if s.width > 0 {
			values = wrapText(line[1], max(s.width-len(margin), narrow))
		}
		if _, err := io.WriteString(s, "    "+pad(line[0], names)+gap+strings.Join(values, "\n"+margin)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func nextOf(state *jobs.ScheduleState, now time.Time) string {
	if state == nil {
		return none
	}
	return nextWords(state.NextAt, state.NextLocal, state.Zone(), now)
}
