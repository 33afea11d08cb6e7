package schedules

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	zones = []string{"UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"}
	gaps  = []string{"run", "skip"}
	folds = []string{"first", "last", "both"}
)

// dice gives a number from 0 to n-1. Random tests roll a generator, the fuzz target the bytes that it is given.
type dice func(n int) int

func (d dice) oneIn(n int) bool { return d(n) == n-1 } // bytes that are used up roll 0, which is the plain choice

// set holds the values of a field: bit v is value v.
type set uint64

func (s set) has(v int) bool { return s>>v&1 == 1 }

func (s *set) add(from, to, step int) {
	for v := from; v <= to; v += step {
		*s |= 1 << v
	}
}

// expression is a cron expression as text, and what it means. The oracle never parses: it knows the sets from making the text.
type expression struct {
	text                              string
	every                             int64 // seconds; 0: five fields
	minute, hour, day, month, weekday set
	lastDay, bothDays, elapsed        bool
}

// field is one field of a text, and what it may hold.
type field struct {
	low, high int
	names     string // three letters each
	days      bool   // has L and $
	text      string
	values    set
	lastDay   bool
}

func fields() []*field {
	return []*field{{low: 0, high: 59}, {low: 0, high: 23}, {low: 1, high: 31, days: true}, {low: 1, high: 12, names: "janfebmaraprmayjunjulaugsepoctnovdec"},
		{low: 0, high: 7, names: "sunmontuewedthufrisat"}}
}

func randomExpression(roll dice) expression {
	switch {
	case roll.oneIn(20):
		return randomEvery(roll)
	case roll.oneIn(25):
		return randomMacro(roll)
	}
	f := fields()
	for i := range f {
		if i < 2 || roll(3) == 0 { // most schedules name few days
			f[i].fill(roll)
		} else {
			f[i].star()
		}
	}
	text := f[0].text
	for _, next := range f[1:] {
		text += blank(roll) + next.text
	}
	if roll.oneIn(20) {
		text = blank(roll) + text + blank(roll)
	}
	return meaning(text, f)
}

func meaning(text string, f []*field) expression {
	e := expression{text: text, minute: f[0].values, hour: f[1].values, day: f[2].values, month: f[3].values, weekday: f[4].values, lastDay: f[2].lastDay,
		bothDays: strings.HasPrefix(f[2].text, "*") || strings.HasPrefix(f[4].text, "*"), elapsed: strings.ContainsAny(f[0].text+f[1].text, "*/")}
	if e.weekday.has(7) {
		e.weekday = e.weekday&^(1<<7) | 1
	}
	return e
}

func blank(roll dice) string {
	if roll.oneIn(12) {
		return []string{"  ", "\t", " \t ", "\n"}[roll(4)]
	}
	return " "
}

func (f *field) star() {
	f.text = "*"
	f.values.add(f.low, f.high, 1)
}

func (f *field) fill(roll dice) {
	switch {
	case roll.oneIn(8):
		f.star()
		return
	case roll.oneIn(8):
		f.text = f.item(roll, 6)
		return
	}
	items := []string{}
	for range 1 + roll(2)*roll(4) {
		items = append(items, f.item(roll, roll(12)))
	}
	f.text = strings.Join(items, ",")
}

// item adds one item of the list to the values and returns its text.
func (f *field) item(roll dice, form int) string {
	size := f.high - f.low
	a, b := f.low+roll(size+1), f.low+roll(size+1)
	a, b = min(a, b), max(a, b)
	step := 1 + roll(size)
	switch form {
	case 6:
		f.values.add(f.low, f.high, step)
		return fmt.Sprintf("*/%d", step)
	case 7:
		f.values.add(a, b, 1)
		return f.value(roll, a) + "-" + f.value(roll, b)
	case 8, 9:
		f.values.add(a, b, step)
		return f.value(roll, a) + "-" + f.value(roll, b) + "/" + strconv.Itoa(step)
	case 10:
		if f.days {
			f.lastDay = true
			return []string{"L", "l", "$"}[roll(3)]
		}
	case 11:
		if roll.oneIn(4) {
			f.values.add(f.low, f.high, 1)
			return "*"
		}
	}
	f.values.add(a, a, 1)
	return f.value(roll, a)
}

func (f *field) value(roll dice, v int) string {
	if at := (v - f.low) * 3; at < len(f.names) && roll(3) == 0 {
		return anyCase(roll, f.names[at:at+3])
	}
	if roll.oneIn(12) {
		return fmt.Sprintf("%03d", v)
	}
	return strconv.Itoa(v)
}

func anyCase(roll dice, word string) string {
	letters := []byte(word)
	for i := range letters {
		if roll(2) == 0 && letters[i] >= 'a' && letters[i] <= 'z' {
			letters[i] -= 'a' - 'A'
		}
	}
	return string(letters)
}

func randomMacro(roll dice) expression {
	macros := [][2]string{{"@hourly", "0 * * * *"}, {"@daily", "0 0 * * *"}, {"@midnight", "0 0 * * *"}, {"@weekly", "0 0 * * 0"}, {"@monthly", "0 0 1 * *"},
		{"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}}
	macro := macros[roll(len(macros))]
	f := fields()
	for i, text := range strings.Fields(macro[1]) {
		if f[i].star(); text != "*" {
			v, _ := strconv.Atoi(text)
			f[i].text, f[i].values = text, 1<<v
		}
	}
	e := meaning(macro[1], f)
	e.text = anyCase(roll, macro[0])
	return e
}

func randomEvery(roll dice) expression {
	if roll(2) == 0 {
		n := int64(1 + roll([]int{60, 3600, 86400}[roll(3)]))
		text := fmt.Sprintf("%d%s%s", n, []string{" ", "", "  "}[roll(3)], anyCase(roll, []string{"second", "seconds", "sec", "secs"}[roll(4)]))
		if roll(2) == 0 {
			text = anyCase(roll, "@every") + blank(roll) + text
		}
		return expression{text: text, every: n}
	}
	e, most := expression{text: anyCase(roll, "@every") + blank(roll)}, []int{366, 100, 500, 5000}
	for i, unit := range []struct {
		name    string
		seconds int64
	}{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}} {
		if n := int64(1 + roll(most[i])); roll(2) == 0 && e.every+n*unit.seconds <= 366*86400 {
			e.text += strconv.FormatInt(n, 10) + anyCase(roll, unit.name)
			e.every += n * unit.seconds
		}
	}
	if e.every == 0 {
		e.text, e.every = e.text+"90s", 90
	}
	return e
}

// date is a day of the calendar. Days are numbered from 1970-01-01, which is day 0.
type date struct {
	day, month, weekday int8
	last                bool
}

var dates = sync.OnceValue(func() []date {
	all := []date{}
	for at := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 4000; at = at.AddDate(0, 0, 1) {
		all = append(all, date{int8(at.Day()), int8(at.Month()), int8(at.Weekday()), at.AddDate(0, 0, 1).Day() == 1})
	}
	return all
})

func (e expression) matchesDate(on date) bool {
	if !e.month.has(int(on.month)) {
		return false
	}
	day, weekday := e.day.has(int(on.day)) || e.lastDay && on.last, e.weekday.has(int(on.weekday))
	if e.bothDays {
		return day && weekday
	}
	return day || weekday
}

// fires says whether any day from 1970 to 2110 matches: all that a calendar has lies in there.
func (e expression) fires() bool {
	return e.every > 0 || slices.ContainsFunc(dates()[:140*365], e.matchesDate)
}

// place is a zone whose days are walked, each once for all expressions.
type place struct {
	zone *time.Location
	days map[int]localDay
}

func newPlace(t testing.TB, name string) *place {
	t.Helper()
	zone, err := time.LoadLocation(name)
	require.NoError(t, err)
	return &place{zone: zone, days: map[int]localDay{}}
}

// localDay is what the clocks of a zone show on a day. Where the offset is the same from a day before it to a day after, minute m of the day
// is shown once, offset minutes before m in UTC. Otherwise each minute of the day is listed, with each moment that shows or skips it.
type localDay struct {
	plain  bool
	offset int64 // minutes
	shown  []moment
}

// moment is one showing of a minute of the day. A minute that no clock shows has one too: the gap's end.
type moment struct {
	at          int64 // minutes since 1970-01-01 00:00 UTC
	minute      int
	gap         bool
	first, last bool
}

func (p *place) day(number int) localDay {
	walked, known := p.days[number]
	if !known {
		walked = p.walk(number)
		p.days[number] = walked
	}
	return walked
}

// walk looks at each minute of three days: no offset is more than 15 hours, so they hold all moments that show a minute of this day.
func (p *place) walk(number int) localDay {
	start := time.Unix(int64(number-1)*86400, 0)
	_, offset := start.In(p.zone).Zone()
	if _, until := start.In(p.zone).ZoneBounds(); until.IsZero() || !until.Before(start.Add(72*time.Hour)) {
		return localDay{plain: true, offset: int64(offset / 60)}
	}
	shown, seen := []moment{}, map[int]bool{}
	keep := func(at, wall int64, gap bool) {
		if wall/1440 == int64(number) {
			minute := int(wall % 1440)
			shown = append(shown, moment{at: at, minute: minute, gap: gap, first: !seen[minute]})
			seen[minute] = true
		}
	}
	before := start.Unix()/60 + int64(offset/60) - 1
	for at := start.Unix() / 60; at < start.Unix()/60+3*1440; at++ {
		_, offset := time.Unix(at*60, 0).In(p.zone).Zone()
		wall := at + int64(offset/60)
		for skipped := before + 1; skipped < wall; skipped++ {
			keep(at, skipped, true)
		}
		keep(at, wall, false)
		before = wall
	}
	seen = map[int]bool{}
	for i := len(shown) - 1; i >= 0; i-- {
		shown[i].last = !seen[shown[i].minute]
		seen[shown[i].minute] = true
	}
	return localDay{shown: shown}
}

// slots are the first so many slots (0: all) after from, up to and with to, in seconds since 1970. It walks the days, and the minutes of
// each day that matches. It gives up 41 years after the last slot.
func (p *place) slots(e expression, from, to time.Time, most int, gap, fold string) []int64 {
	found := []int64{}
	if e.every > 0 {
		for at := (from.Unix()/e.every + 1) * e.every; at <= to.Unix() && (most == 0 || len(found) < most); at += e.every {
			found = append(found, at)
		}
		return found
	}
	calendar := dates()
	first, end := int(from.Unix()/86400)-2, min(int(to.Unix()/86400)+2, len(calendar)-1)
	giveUp := first + 41*366
	for number := first; number <= end && number <= giveUp; number++ {
		if !e.matchesDate(calendar[number]) {
			continue
		}
		had := len(found)
		found = e.onDay(found, number, p.day(number), from.Unix(), to.Unix(), gap, fold)
		if len(found) > had {
			giveUp = number + 41*366
		}
		if most > 0 && len(found) >= most {
			slices.Sort(found)
			if found = slices.Compact(found); len(found) >= most {
				end = min(end, number+4) // a slot lies within two days of the day that names it: after four days none comes before these
			}
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	if most > 0 && len(found) > most {
		found = found[:most]
	}
	return found
}

func (e expression) onDay(found []int64, number int, shown localDay, from, to int64, gap, fold string) []int64 {
	if shown.plain {
		for minute := range 1440 {
			if at := (int64(number)*1440 + int64(minute) - shown.offset) * 60; e.matchesTime(minute) && at > from && at <= to {
				found = append(found, at)
			}
		}
		return found
	}
	for _, m := range shown.shown {
		if e.matchesTime(m.minute) && e.takes(m, gap, fold) && m.at*60 > from && m.at*60 <= to {
			found = append(found, m.at*60)
		}
	}
	return found
}

func (e expression) matchesTime(minute int) bool {
	return e.hour.has(minute/60) && e.minute.has(minute%60)
}

func (e expression) takes(m moment, gap, fold string) bool {
	switch {
	case m.gap:
		return !e.elapsed && gap == "run"
	case e.elapsed || fold == "both":
		return true
	case fold == "last":
		return m.last
	default:
		return m.first
	}
}

// slowSlots is the same without any short cut but one: it walks each real minute from three days before to three days after.
func slowSlots(e expression, zone *time.Location, from, to time.Time, gap, fold string) []int64 {
	shown, found := map[time.Time][]time.Time{}, []int64{} // wall time, as if it were UTC -> the real minutes that show it
	start, end := from.Truncate(time.Minute).Add(-72*time.Hour), to.Add(72*time.Hour)
	before := wallOf(start.Add(-time.Minute), zone)
	for at := start; at.Before(end); at = at.Add(time.Minute) {
		wall := wallOf(at, zone)
		shown[wall] = append(shown[wall], at)
		for skipped := before.Add(time.Minute); skipped.Before(wall); skipped = skipped.Add(time.Minute) {
			if e.matches(skipped) && !e.elapsed && gap == "run" {
				found = append(found, at.Unix()) // the gap's end
			}
		}
		before = wall
	}
	for wall, moments := range shown {
		switch {
		case !e.matches(wall):
			continue
		case e.elapsed || fold == "both":
		case fold == "last":
			moments = moments[len(moments)-1:]
		default:
			moments = moments[:1]
		}
		for _, at := range moments {
			found = append(found, at.Unix())
		}
	}
	found = slices.DeleteFunc(found, func(at int64) bool { return at <= from.Unix() || at > to.Unix() })
	slices.Sort(found)
	return slices.Compact(found)
}

// matches takes a wall time as if it were UTC.
func (e expression) matches(wall time.Time) bool {
	return e.matchesTime(wall.Hour()*60+wall.Minute()) &&
		e.matchesDate(date{int8(wall.Day()), int8(wall.Month()), int8(wall.Weekday()), wall.AddDate(0, 0, 1).Day() == 1})
}

func wallOf(at time.Time, zone *time.Location) time.Time {
	local := at.In(zone)
	return time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), 0, 0, time.UTC)
}

// shifts are the moments from 2010 to 2029 at which a zone's offset changes.
func (p *place) shifts() []time.Time {
	found := []time.Time{}
	for at := years[0]; at.Before(years[1]); at = at.Add(time.Minute) {
		_, until := at.In(p.zone).ZoneBounds()
		if until.IsZero() || !until.Before(years[1]) {
			break
		}
		_, before := until.Add(-time.Second).In(p.zone).Zone()
		if _, after := until.In(p.zone).Zone(); before != after {
			found = append(found, until)
		}
		at = until
	}
	return found
}

var years = [2]time.Time{time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}

// randomInstant lies within the twenty years, to the millisecond.
func randomInstant(roll dice) time.Time {
	day := roll(int(years[1].Sub(years[0]) / (24 * time.Hour)))
	return years[0].AddDate(0, 0, day).Add(time.Duration(roll(86400_000)) * time.Millisecond)
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

func TestOracle_WhenItTakesShortCuts_AgreesWithWalkingEachMinute(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(seed(t), 0))
	found := 0
	for _, name := range zones {
		p := newPlace(t, name)
		near := p.shifts()
		for range 25 {
			e := randomExpression(r.IntN)
			from := randomInstant(r.IntN)
			if len(near) > 0 && r.IntN(4) > 0 {
				from = near[r.IntN(len(near))].Add(time.Duration(r.IntN(4*86400)-3*86400) * time.Second)
			}
			if e.every > 0 {
				continue
			}
			to, gap, fold := from.Add(50*time.Hour), gaps[r.IntN(2)], folds[r.IntN(3)]
			want := slowSlots(e, p.zone, from, to, gap, fold)
			require.Equal(t, want, p.slots(e, from, to, 0, gap, fold), "%q in %s from %s, on_gap %s, on_fold %s", e.text, name, from, gap, fold)
			few := min(len(want), 5)
			require.Equal(t, want[:few], p.slots(e, from, to, 5, gap, fold), "the first five: %q in %s from %s, on_gap %s, on_fold %s", e.text, name, from, gap, fold)
			found += len(want)
		}
	}
	require.Greater(t, found, 500)
}
