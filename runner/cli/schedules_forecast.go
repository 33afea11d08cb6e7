package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

func forecastCommand() *cobra.Command {
	var until string
	cmd := &cobra.Command{
		Use:   "forecast",
		Short: "What all schedules will do, as a strip chart; nothing is run",
		Long: `Draw what all schedules will do: a line a schedule, and a last one with the load of all of them. How long jobs take is known from history,
and so is which slots will overlap. With --json one row a slot, as pgtick.forecast in SQL gives them.`,
		Example: "  pgtick schedules forecast\n  pgtick schedules forecast --until 7d\n  pgtick schedules forecast --json | jq -r 'select(.overlapping) | .slot + \" \" + .schedule'",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&until, "until", "24h", "look ahead as far as this: a length such as 90m, 24h, 7d, or a moment such as 2026-03-28T02:00:00Z")
	asJSON := jsonFlag(cmd)
	return scheduleCommand(cmd, func(ctx context.Context, tx pgx.Tx, _ []string) error {
		end, err := readWhen("until", until)
		if err != nil {
			return err
		}
		now, err := jobs.Now(ctx, tx)
		if err != nil {
			return err
		}
		to := now.Add(end.In)
		if end.In == 0 {
			to = *end.UTC()
		}
		if !to.After(now) {
			return usageError{fmt.Errorf("--until %q is not later than now, %s UTC", until, minute(now))}
		}
		if *asJSON {
			return jobs.Forecast(ctx, tx, to, func(e jobs.Expected) error { return printJSON(cmd.OutOrStdout(), e.JSON) })
		}
		s := newScreen(cmd.OutOrStdout())
		if s.width == 0 {
			s.width = 100
		}
		chart := newChart(now, to)
		if err := jobs.Forecast(ctx, tx, to, chart.see); err != nil {
			return err
		}
		if len(chart.slots) == 0 {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "no schedule has a slot until %s UTC\n", minute(to))
			return nil
		}
		return chart.print(s)
	})
}

// chart gathers the slots of a forecast; how wide a mark is, is known only when all names are.
type chart struct {
	from, to time.Time
	slots    map[string][]mark
	most     int       // jobs in the busiest minute
	busiest  time.Time // the first such minute
	loads    map[time.Time]int
}

// mark is one slot.
type mark struct {
	at       time.Time
	fate     string
	overlaps bool
}

func newChart(from, to time.Time) *chart {
	return &chart{from: from, to: to, slots: map[string][]mark{}, loads: map[time.Time]int{}}
}

func (c *chart) see(e jobs.Expected) error {
	c.slots[e.Schedule] = append(c.slots[e.Schedule], mark{e.Slot, e.Fate, e.Overlaps})
	if e.RunAt == nil || strings.HasPrefix(e.Fate, "skipped") {
		return nil
	}
	at := e.RunAt.UTC().Truncate(time.Minute)
	c.loads[at] = max(c.loads[at], e.Load)
	if e.Load > c.most || e.Load == c.most && at.Before(c.busiest) {
		c.most, c.busiest = e.Load, at
	}
	return nil
}

// The narrowest strip that still shows something.
const leastStrip = 24

func (c *chart) print(s screen) error {
	names := slices.Sorted(maps.Keys(c.slots))
	label := len("load")
	for _, name := range names {
		label = max(label, wide(printable(name)))
	}
	label = min(label, max(s.width/3, len("load")))
	strip := max(s.width-label-len(gap), leastStrip)
	lines := s.wrap(bold, fmt.Sprintf("from %s to %s UTC, a mark is %s", minute(c.from.Truncate(time.Minute)), minute(c.to.Truncate(time.Minute)),
		about(c.to.Sub(c.from)/time.Duration(strip))))
	lines = append(lines, s.paint(dim, pad("", label)+gap+c.axis(strip)))
	for _, name := range names {
		lines = append(lines, pad(shorten(name, label), label)+gap+c.strip(s, c.slots[name], strip))
	}
	lines = append(lines, pad("load", label)+gap+c.load(strip), "")
	lines = append(lines, c.legend(s)...)
	_, err := io.WriteString(s, strings.Join(lines, "\n")+"\n")
	return err
}

func pad(text string, width int) string { return text + strings.Repeat(" ", max(width-wide(text), 0)) }

// column is where on a strip a moment lies.
func (c *chart) column(at time.Time, strip int) int {
	share := float64(at.Sub(c.from)) / float64(c.to.Sub(c.from))
	return min(max(int(share*float64(strip)), 0), strip-1)
}

// What a mark can say, the more important later: of several slots in one mark the most important is shown.
const (
	nothing = iota
	paused
	runs
	overlapping
	skipped
)

func weigh(m mark) int {
	switch {
	case m.fate == "skipped_paused":
		return paused
	case strings.HasPrefix(m.fate, "skipped"):
		return skipped
	case m.overlaps || m.fate != "enqueued":
		return overlapping
	default:
		return runs
	}
}

func (c *chart) strip(s screen, marks []mark, strip int) string {
	weights, counts := make([]int, strip), make([]int, strip)
	for _, m := range marks {
		at := c.column(m.at, strip)
		weights[at] = max(weights[at], weigh(m))
		counts[at]++
	}
	var line strings.Builder
	for i, weight := range weights {
		line.WriteString(glyph(s, weight, counts[i]))
	}
	return line.String()
}

func glyph(s screen, weight, count int) string {
	switch weight {
	case skipped:
		return s.paint(red, "x")
	case overlapping:
		return s.paint(yellow, "!")
	case paused:
		return s.paint(dim, "p")
	case nothing:
		return s.paint(dim, "·")
	}
	switch {
	case count == 1:
		return "|"
	case count < 10:
		return fmt.Sprint(count)
	default:
		return "#"
	}
}

// heights are the steps of the load line.
const heights = "▁▂▃▄▅▆▇█"

func (c *chart) load(strip int) string {
	most := make([]int, strip)
	for at, load := range c.loads {
		most[c.column(at, strip)] = max(most[c.column(at, strip)], load)
	}
	line, steps := "", []rune(heights)
	for _, load := range most {
		if load == 0 {
			line += " "
			continue
		}
		line += string(steps[(load*len(steps)-1)/max(c.most, 1)])
	}
	return strings.TrimRight(line, " ")
}

// axis names moments under which their marks begin.
func (c *chart) axis(strip int) string {
	form, apart := "15:04", 9
	if c.to.Sub(c.from) > 4*24*time.Hour {
		form, apart = "01-02", 8
	}
	step := c.step(form, time.Duration(float64(c.to.Sub(c.from))*float64(apart)/float64(strip)))
	line := ""
	for at := c.from.UTC().Truncate(step).Add(step); at.Before(c.to); at = at.Add(step) {
		label := at.Format(form)
		if form == "15:04" && label == "00:00" {
			label = at.Format("01-02")
		}
		column := c.column(at, strip)
		if column < len(line) || column+len(label) > strip {
			continue
		}
		line += strings.Repeat(" ", column-len(line)) + label
	}
	return line
}

// step is the shortest round time that is not shorter than least.
func (c *chart) step(form string, least time.Duration) time.Duration {
	const day = 24 * time.Hour
	round := []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 12 * time.Hour, day}
	if form == "01-02" {
		round = []time.Duration{day, 2 * day, 5 * day, 7 * day, 14 * day, 30 * day, 90 * day}
	}
	for _, step := range round {
		if step >= least {
			return step
		}
	}
	return 366 * day
}

func (c *chart) legend(s screen) []string {
	busiest := "no job starts"
	if c.most > 0 {
		busiest = fmt.Sprintf("busiest minute %s UTC: %s", minute(c.busiest), jobCount(c.most))
	}
	words := "| one slot   2-9 so many   # ten or more   ! overlaps an earlier run   x skipped: an earlier run is still live   p paused   · none"
	lines := s.wrap("", busiest)
	line := ""
	for _, word := range strings.Split(words, "   ") {
		if line != "" && wide(line+"   "+word) > s.width {
			lines, line = append(lines, s.paint(dim, line)), ""
		}
		line = strings.TrimPrefix(line+"   "+word, "   ")
	}
	lines = append(lines, s.paint(dim, line))
	return append(lines, s.wrap(dim, fmt.Sprintf("load: most jobs that start in one minute, █ is %d", c.most))...)
}

func jobCount(n int) string {
	if n == 1 {
		return "1 job starts"
	}
	return fmt.Sprintf("%d jobs start", n)
}
