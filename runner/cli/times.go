package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// when is a moment as people give one on the command line.
type when struct {
	at   *time.Time    // a moment
	wall *string       // or what a clock shows, its zone left open
	in   time.Duration // or how long from now
}

var wallTime = regexp.MustCompile(`^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?$`)

// readWhen reads RFC 3339, 2026-03-28 or 2026-03-28 02:00 (wall time), or a length such as 90m, 24h or 7d.
func readWhen(flag, value string) (when, error) {
	if at, err := time.Parse(time.RFC3339, value); err == nil {
		return when{at: &at}, nil
	}
	if wallTime.MatchString(value) {
		wall := strings.Replace(value, "T", " ", 1)
		if _, err := parseWall(wall); err == nil {
			return when{wall: &wall}, nil
		}
	}
	if in, err := readLength(value); err == nil && in > 0 {
		return when{in: in}, nil
	}
	return when{}, usageError{fmt.Errorf("--%s %q is no time: give 2026-03-28T02:00:00Z, 2026-03-28 02:00, or a length from now such as 90m, 24h, 7d", flag, value)}
}

func parseWall(wall string) (time.Time, error) {
	return time.Parse("2006-01-02 15:04:05"[:len(wall)], wall)
}

// utc is the moment where a wall time is meant in UTC, or nil for a length.
func (w when) utc() *time.Time {
	if w.wall == nil {
		return w.at
	}
	at, _ := parseWall(*w.wall) // readWhen has tried it
	return &at
}

var days = regexp.MustCompile(`^(\d{1,4})([dw])`)

// readLength knows days and weeks besides what Go knows: 7d, 1d12h.
func readLength(value string) (time.Duration, error) {
	var length time.Duration
	rest := value
	for {
		found := days.FindStringSubmatch(rest)
		if found == nil {
			break
		}
		n, _ := strconv.Atoi(found[1]) // four digits
		length += time.Duration(n) * 24 * time.Hour * map[string]time.Duration{"d": 1, "w": 7}[found[2]]
		rest = rest[len(found[0]):]
	}
	if rest == "" && value != "" {
		return length, nil
	}
	more, err := time.ParseDuration(rest)
	return length + more, err
}

// about is a length in two units at most.
func about(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + about(-d)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return units(d, time.Minute, "m", time.Second, "s", 5)
	case d < 24*time.Hour:
		return units(d, time.Hour, "h", time.Minute, "m", 24)
	default:
		return units(d, 24*time.Hour, "d", time.Hour, "h", 10)
	}
}

// units leaves the smaller unit out where it is 0, or the larger one counts at least few.
func units(d, large time.Duration, largeName string, small time.Duration, smallName string, few int64) string {
	n, rest := int64(d/large), int64(d%large/small)
	if rest == 0 || n >= few {
		return fmt.Sprintf("%d%s", n, largeName)
	}
	return fmt.Sprintf("%d%s %d%s", n, largeName, rest, smallName)
}

// fromNow says how far a moment is from now.
func fromNow(at, now time.Time) string {
	switch d := at.Sub(now); {
	case d >= time.Second:
		return "in " + about(d)
	case d <= -time.Second:
		return about(-d) + " ago"
	default:
		return "now"
	}
}

// minute is a moment in UTC, with its seconds where it has some.
func minute(at time.Time) string { return shortClock(at.UTC().Format("2006-01-02 15:04:05")) }

// shortClock leaves seconds out that are none.
func shortClock(clock string) string { return strings.TrimSuffix(clock, ":00") }
