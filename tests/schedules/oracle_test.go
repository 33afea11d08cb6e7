package schedules

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

var zones = []string{"UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"}

// field is one random cron field, as text and as the set it means. The oracle never parses: it knows the set from making the text.
type field struct {
	text string
	has  map[int]bool
}

func randomField(r *rand.Rand, low, high int) field {
	f := field{has: map[int]bool{}}
	if r.IntN(4) == 0 {
		f.text = "*"
		f.add(low, high, 1)
		return f
	}
	var items []string
	for range 1 + r.IntN(3) {
		items = append(items, f.item(r, low, high))
	}
	f.text = strings.Join(items, ",")
	return f
}

func (f field) item(r *rand.Rand, low, high int) string {
	a, b := low+r.IntN(high-low+1), low+r.IntN(high-low+1)
	a, b = min(a, b), max(a, b)
	step := 1 + r.IntN(max((high-low)/2, 1))
	switch r.IntN(5) {
	case 0:
		f.add(a, b, 1)
		return fmt.Sprintf("%d-%d", a, b)
	case 1:
		f.add(a, b, step)
		return fmt.Sprintf("%d-%d/%d", a, b, step)
	case 2:
		f.add(low, high, step)
		return fmt.Sprintf("*/%d", step)
	default:
		f.add(a, a, 1)
		return strconv.Itoa(a)
	}
}

func (f field) add(from, to, step int) {
	for v := from; v <= to; v += step {
		f.has[v] = true
	}
}

type expression struct {
	minute, hour, day, month, weekday field
	lastDay                           bool
}

func randomExpression(r *rand.Rand) expression {
	e := expression{minute: randomField(r, 0, 59), hour: randomField(r, 0, 23), day: randomField(r, 1, 31), month: randomField(r, 1, 12), weekday: randomField(r, 0, 7)}
	if r.IntN(3) > 0 { // most schedules name few days
		e.day, e.month, e.weekday = star(1, 31), star(1, 12), star(0, 7)
	}
	if r.IntN(8) == 0 {
		e.lastDay = true
		e.day.text += ",L"
	}
	return e
}

func star(low, high int) field {
	f := field{text: "*", has: map[int]bool{}}
	f.add(low, high, 1)
	return f
}

func (e expression) String() string {
	return strings.Join([]string{e.minute.text, e.hour.text, e.day.text, e.month.text, e.weekday.text}, " ")
}

func (e expression) elapsed() bool { return strings.ContainsAny(e.minute.text+e.hour.text, "*/") }

// matches says whether a wall time, given as if it were UTC, is named by the expression.
func (e expression) matches(wall time.Time) bool {
	if !e.minute.has[wall.Minute()] || !e.hour.has[wall.Hour()] || !e.month.has[int(wall.Month())] {
		return false
	}
	day := e.day.has[wall.Day()] || e.lastDay && wall.AddDate(0, 0, 1).Day() == 1
	weekday := e.weekday.has[int(wall.Weekday())] || wall.Weekday() == time.Sunday && e.weekday.has[7]
	if strings.HasPrefix(e.day.text, "*") || strings.HasPrefix(e.weekday.text, "*") {
		return day && weekday
	}
	return day || weekday
}

func wallOf(at time.Time, zone *time.Location) time.Time {
	local := at.In(zone)
	return time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), 0, 0, time.UTC)
}

// slots walks each real minute in (from, to]. What a fixed time comes to is settled by all real minutes within two days around.
func (e expression) slots(zone *time.Location, from, to time.Time, gap, fold string) []time.Time {
	shown := map[time.Time][]time.Time{} // wall time -> the real minutes that show it
	found := map[time.Time]bool{}
	start, end := from.Truncate(time.Minute).Add(-48*time.Hour), to.Add(48*time.Hour)
	before := wallOf(start.Add(-time.Minute), zone)
	for at := start; at.Before(end); at = at.Add(time.Minute) {
		wall := wallOf(at, zone)
		shown[wall] = append(shown[wall], at)
		for skipped := before.Add(time.Minute); skipped.Before(wall) && !e.elapsed() && gap == "run"; skipped = skipped.Add(time.Minute) {
			if e.matches(skipped) {
				found[at] = true // the gap's end
			}
		}
		before = wall
	}
	for wall, moments := range shown {
		if e.matches(wall) {
			for _, at := range pick(moments, e.elapsed(), fold) {
				found[at] = true
			}
		}
	}
	return within(found, from, to)
}

func pick(moments []time.Time, elapsed bool, fold string) []time.Time {
	switch {
	case elapsed || fold == "both":
		return moments
	case fold == "last":
		return moments[len(moments)-1:]
	default:
		return moments[:1]
	}
}

func within(found map[time.Time]bool, from, to time.Time) []time.Time {
	kept := []time.Time{}
	for at := range found {
		if at.After(from) && !at.After(to) {
			kept = append(kept, at.UTC())
		}
	}
	slices.SortFunc(kept, time.Time.Compare)
	return kept
}

// shifts are the moments, to the hour, at which a zone's offset changes.
func shifts(zone *time.Location) []time.Time {
	var found []time.Time
	for at := time.Date(2006, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2046; at = at.Add(time.Hour) {
		_, before := at.In(zone).Zone()
		if _, after := at.Add(time.Hour).In(zone).Zone(); before != after {
			found = append(found, at)
		}
	}
	return found
}

func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("PGTICK_SEED"); text != "" {
		parsed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		n = parsed
	}
	t.Logf("PGTICK_SEED=%d", n)
	return n
}

func TestSlotsBetween_ForRandomExpressions_AgreesWithWalkingTheMinutes(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	n := seed(t)
	for i, name := range zones {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			zone, err := time.LoadLocation(name)
			require.NoError(t, err)
			compareZone(t, db, rand.New(rand.NewPCG(n, uint64(i))), zone)
		})
	}
}

func compareZone(t *testing.T, db *pgtest.DB, r *rand.Rand, zone *time.Location) {
	t.Helper()
	near := shifts(zone)
	for range 50 {
		e := randomExpression(r)
		from := time.Date(2006, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.Int64N(40*365*24*3600)) * time.Second)
		if len(near) > 0 && r.IntN(2) == 0 {
			from = near[r.IntN(len(near))].Add(time.Duration(r.Int64N(4*24*3600)-2*24*3600-24*3600) * time.Second)
		}
		to := from.Add(60 * time.Hour)
		gap, fold := []string{"run", "skip"}[r.IntN(2)], []string{"first", "last", "both"}[r.IntN(3)]
		want := e.slots(zone, from, to, gap, fold)
		got, neverFires := slotsOf(t, db, e, zone, from, to, gap, fold)
		if neverFires {
			require.Empty(t, want, "%s was refused, but fires", e)
			continue
		}
		require.Equal(t, want, got, "%q in %s from %s, on_gap %s, on_fold %s", e, zone, from.Format(time.RFC3339), gap, fold)
	}
}

// slotsOf asks the database, and also that each slot is what next_slot finds just before it: ticks take that as the sign that a zone's
// rules have not moved it.
func slotsOf(t *testing.T, db *pgtest.DB, e expression, zone *time.Location, from, to time.Time, gap, fold string) ([]time.Time, bool) {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), `
		with parsed as (select pgtick.parse_cron($1) as cron)
		select s, pgtick.next_slot(p.cron, $2, s - interval '1 microsecond', $5, $6) = s
		from parsed as p cross join lateral pgtick.slots_between(p.cron, $2, $3, $4, null, $5, $6) as s`, e.String(), zone.String(), from, to, gap, fold)
	require.NoError(t, err)
	got := []time.Time{}
	var at time.Time
	var same bool
	_, err = pgx.ForEachRow(rows, []any{&at, &same}, func() error {
		require.True(t, same, "%q in %s: %s", e, zone, at)
		got = append(got, at.UTC())
		return nil
	})
	if err != nil && strings.Contains(err.Error(), "TK016") {
		return nil, true
	}
	require.NoError(t, err)
	return got, false
}
