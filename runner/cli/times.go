package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// readWhen reads RFC 3339, 2026-03-28 or 2026-03-28 02:00 (wall time), or a length such as 90m, 24h or 7d.
func readWhen(flag, value string) (jobs.When, error) {
	w, known := jobs.ReadWhen(value)
	if !known {
		return w, usageError{fmt.Errorf("--%s %q is no time: give 2026-03-28T02:00:00Z, 2026-03-28 02:00, or a length from now such as 90m, 24h, 7d", flag, value)}
	}
	return w, nil
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
