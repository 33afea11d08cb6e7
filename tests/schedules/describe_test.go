package schedules

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestDescribe_OfEachForm_IsWhatAPersonWouldSay(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for cron, want := range map[string]string{
		// names and intervals
		"@hourly":         "every hour",
		"@daily":          "every day at 00:00",
		"@midnight":       "every day at 00:00",
		"@weekly":         "at 00:00 on Sundays",
		"@monthly":        "at 00:00 on the 1st of every month",
		"@yearly":         "at 00:00 on 1 January every year",
		"@annually":       "at 00:00 on 1 January every year",
		"@every 1s":       "every second",
		"@every 90s":      "every 90 seconds",
		"90 seconds":      "every 90 seconds",
		"@every 60s":      "every minute",
		"@every 200s":     "every 3 minutes and 20 seconds",
		"@every 45m":      "every 45 minutes, counted from 00:00 UTC",
		"@every 300s":     "every 5 minutes",
		"@every 7m":       "every 7 minutes, counted from 1970-01-01 00:00 UTC",
		"@every 1h":       "every hour",
		"@every 1h30m":    "every 90 minutes, counted from 00:00 UTC",
		"@every 6h":       "every 6 hours, counted from 00:00 UTC",
		"@every 24h":      "every day at 00:00 UTC",
		"@every 36h30m":   "every 36 hours and 30 minutes, counted from 1970-01-01 00:00 UTC",
		"@every 2d":       "every 2 days, counted from 1970-01-01 00:00 UTC",
		"@every 14d":      "every 14 days, counted from 1970-01-01 00:00 UTC, a Thursday",
		"@every 3d4h5m6s": "every 3 days, 4 hours, 5 minutes and 6 seconds, counted from 1970-01-01 00:00 UTC",
		// minutes of every hour
		"* * * * *":       "every minute",
		"0-59 * * * *":    "every minute",
		"*/15 * * * *":    "every 15 minutes",
		"0,30 * * * *":    "every 30 minutes",
		"5-59/10 * * * *": "every 10 minutes, starting at 5 minutes past the hour",
		"1-59/2 * * * *":  "every 2 minutes, starting at 1 minute past the hour",
		"*/7 * * * *":     "every 7 minutes from minute 0 to minute 56 of every hour",
		"10-40 * * * *":   "every minute from minute 10 to minute 40 of every hour",
		"0 * * * *":       "every hour",
		"1 * * * *":       "at 1 minute past every hour",
		"5 * * * *":       "at 5 minutes past every hour",
		"5,20,50 * * * *": "at 5, 20 and 50 minutes past every hour",
		"0,15 * * * *":    "at minutes 0 and 15 of every hour",
		"0-5,30 * * * *":  "at minutes 0 to 5 and 30 of every hour",
		// fixed times in each hour of the day: not quite what * says
		"0 0-23 * * *":     "every hour (by the wall clock)",
		"0-59 0-23 * * *":  "every minute (by the wall clock)",
		"30 0-23 * * 1":    "at 30 minutes past every hour on Mondays (by the wall clock)",
		"*/30 0-23 * * *":  "every 30 minutes",
		"0,30 0-23 * 12 *": "every 30 minutes in December (by the wall clock)",
		// times of day
		"30 2 * * *":                  "every day at 02:30",
		"0 9,17 * * *":                "every day at 09:00 and 17:00",
		"0,10 8,12,18 * * *":          "every day at 08:00, 08:10, 12:00, 12:10, 18:00 and 18:10",
		"0 */2 * * *":                 "every 2 hours",
		"0 */12 * * *":                "every 12 hours",
		"0 0,12 * * *":                "every day at 00:00 and 12:00",
		"0 */5 * * *":                 "every day at 00:00, 05:00, 10:00, 15:00 and 20:00",
		"15 */2 * * *":                "every 2 hours from 00:15 to 22:15",
		"0 1-23/2 * * *":              "every 2 hours from 01:00 to 23:00",
		"0 9-17 * * *":                "every hour from 09:00 to 17:00",
		"0 22-23,0-6 * * *":           "every hour from 22:00 to 06:00",
		"0 22-23,0-6 * * MON":         "every hour from 00:00 to 06:00 and from 22:00 to 23:00 on Mondays",
		"*/10 22-23,0-5 * * *":        "every 10 minutes from 22:00 to 05:50",
		"* 9 * * *":                   "every minute from 09:00 to 09:59",
		"* 9-17 * * *":                "every minute from 09:00 to 17:59",
		"10-40 9 * * *":               "every minute from 09:10 to 09:40",
		"*/20 8,12,18 * * *":          "every 20 minutes from 08:00 to 08:40, from 12:00 to 12:40 and from 18:00 to 18:40",
		"* */2 * * *":                 "every minute in the hours 0, 2, 4 … 22",
		"*/7 9-17 * * *":              "every 7 minutes from minute 0 to minute 56 of each hour from 9 to 17",
		"3,17 9-17 * * *":             "at minutes 3 and 17 of each hour from 9 to 17",
		"3,17 1,4,7,9,11,13,20 * * *": "at minutes 3 and 17 of the hours 1, 4, 7, 9, 11, 13 and 20",
		// weekdays
		"0 9 * * MON-FRI":       "at 09:00, Monday to Friday",
		"15 */6 * * 1-5":        "at 00:15, 06:15, 12:15 and 18:15, Monday to Friday",
		"*/15 9-17 * * MON-FRI": "every 15 minutes from 09:00 to 17:45, Monday to Friday",
		"*/15 * * * 1":          "every 15 minutes on Mondays",
		"0 0 * * 7":             "at 00:00 on Sundays",
		"0 0 * * 0,7":           "at 00:00 on Sundays",
		"0 0 * * 5-7":           "at 00:00, Friday to Sunday",
		"0 0 * * 5,6,7,1":       "at 00:00, Friday to Monday",
		"0 0 * * 6,7":           "at 00:00 on Saturdays and Sundays",
		"30 8 * * TUE,THU":      "at 08:30 on Tuesdays and Thursdays",
		"0 0 * * */2":           "at 00:00 on Tuesdays, Thursdays, Saturdays and Sundays",
		// days of the month
		"0 0 1,L * *":       "at 00:00 on the 1st and last day of every month",
		"0 0 L * *":         "at 00:00 on the last day of every month",
		"0 0 L 2,4 *":       "at 00:00 on the last day of February and April",
		"0 0 1,15 * *":      "at 00:00 on the 1st and 15th of every month",
		"0 0 2,3,22,23 * *": "at 00:00 on the 2nd, 3rd, 22nd and 23rd of every month",
		"0 0 31 * *":        "at 00:00 on the 31st of every month that has one",
		"0 0 29 2 *":        "at 00:00 on 29 February in leap years",
		"0 0 25 12 *":       "at 00:00 on 25 December every year",
		"0 0 */2 * *":       "at 00:00 on the odd days of every month",
		"0 0 2-30/2,L * *":  "at 00:00 on the even days and the last day of every month",
		"0 0 */3 * *":       "at 00:00 on days 1, 4, 7 … 31 of every month",
		"0 0 1-7 * *":       "at 00:00 on days 1 to 7 of every month",
		"0 0 1,10-15,L * *": "at 00:00 on days 1, 10 to 15 and the last day of every month",
		// months
		"0 0 * 7 *":         "every day at 00:00 in July",
		"*/5 * * 1,7 *":     "every 5 minutes in January and July",
		"0 0 * 6-8 *":       "every day at 00:00, June to August",
		"0 12 1 */3 *":      "at 12:00 on the 1st of January, April, July and October",
		"0 9 1 6-8 *":       "at 09:00 on the 1st of every month from June to August",
		"0 0 * 11-12,1-2 1": "at 00:00 on Mondays, November to February",
		"*/10 * * 1,7 1-5":  "every 10 minutes, Monday to Friday, in January and July",
		"0 9 * 6-8 1-5":     "at 09:00, Monday to Friday, June to August",
		"0 9 1 1,3-5,12 *":  "at 09:00 on the 1st of January, March, April, May and December",
		// both day fields: or, and
		"0 0 13 * FRI":      "at 00:00 on the 13th of every month, and also on Fridays",
		"0 0 13 1,7 1-5":    "at 00:00 on the 13th of January and July, and also from Monday to Friday in those months",
		"0 0 13 1 FRI":      "at 00:00 on 13 January every year, and also on Fridays in that month",
		"0 0 1-31 * MON":    "every day at 00:00",
		"0 0 */2 * MON":     "at 00:00 on the odd days of every month, but only on Mondays",
		"0 0 13 * */5":      "at 00:00 on the 13th of every month, but only on Fridays and Sundays",
		"0 0 */1 * MON-FRI": "at 00:00, Monday to Friday",
	} {
		require.Equal(t, want, one[string](t, db, "select pgtick.describe($1)", cron), "%q", cron)
	}
}

func TestDescribe_WhenExpressionIsMalformed_RaisesAsNextRunDoes(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for cron, code := range map[string]string{
		"": "TK010", "* * * *": "TK010", "@minutely": "TK010", "x * * * *": "TK011", "60 * * * *": "TK012", "0 9 * * FRI-MON": "TK013", "0 9 ? * *": "TK014",
		"@every 0s": "TK015", "0 0 30 2 *": "TK016",
	} {
		require.Equal(t, code, refused(t, db, "select pgtick.describe($1)", cron).Code, "%q", cron)
	}
	require.Equal(t, "TK010", refused(t, db, "select pgtick.describe(null)").Code)
}

// plainExpression is one of few, so that many of them come out alike: that is where a description can be too short.
func plainExpression(roll dice) expression {
	f, texts := fields(), []string{}
	for i, choices := range [][]string{
		{"0", "30", "*", "*/30", "0,30", "15,45", "0-59", "*/7", "0-56/7", "0-56", "*/10", "5-59/10", "5-55/10", "10-50/10", "0,10,20", "0-30"},
		{"0", "*", "0-23", "*/2", "0-22/2", "1-23/2", "*/6", "0,6,12,18", "9-17", "22-23,0-6", "0-6,22,23", "0-6,21-23", "9,10,11", "*/5", "6,7,8,20,21,22"},
		{"*", "*", "*", "1", "1-31", "*/2", "1-31/2", "1-29/2", "2-30/2", "1,15", "1,2,3", "31", "13", "*/3", "28-31"},
		{"*", "*", "*", "1", "1-12", "2", "*/3", "1,4,7,10", "6-8", "11-12,1-2", "1-11"},
		{"*", "*", "*", "0", "7", "0,7", "1-5", "5-7", "0,5,6", "0-6", "*/2", "*/7", "1,3,5", "6,7,1"},
	} {
		f[i].text = choices[roll(len(choices))]
		if f[i].days && f[i].text != "*" && roll.oneIn(4) {
			f[i].text += ",L"
		}
		for _, item := range strings.Split(f[i].text, ",") {
			f[i].parse(item)
		}
		texts = append(texts, f[i].text)
	}
	return meaning(strings.Join(texts, " "), f)
}

func TestDescribe_OfExpressionsWithOtherSlots_Differs(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	r := rand.New(rand.NewPCG(seed(t), 1))
	meant := map[string]expression{}
	for i := range 5000 {
		e := plainExpression(r.IntN)
		if i%4 == 0 {
			e = randomExpression(r.IntN)
		}
		if e.fires() && e.every == 0 && !strings.HasPrefix(strings.TrimSpace(e.text), "@") {
			meant[e.text] = e
		}
	}
	require.Greater(t, len(meant), 3000)
	alike := byDescription(t, db, slicesOfKeys(meant))
	pairs := map[pair]bool{}
	for _, crons := range alike {
		for _, cron := range crons[1:] {
			if p, needed := distinct(meant[crons[0]], meant[cron]); needed {
				pairs[p] = true
			}
		}
	}
	require.Greater(t, len(meant)-len(alike), 200, "too few read alike for this to be a test")
	require.NotEmpty(t, pairs, "only expressions that are plainly the same read alike")
	requireSameSlots(t, db, pairs)
}

func TestDescribe_OfIntervals_DiffersFromAllOthers(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	r := rand.New(rand.NewPCG(seed(t), 2))
	crons := map[string]bool{"*/5 * * * *": true, "*/15 * * * *": true, "0 * * * *": true, "0 0 * * *": true, "0 */2 * * *": true, "0 */6 * * *": true, "*/30 * * * *": true}
	for range 3000 {
		n := 1 + r.IntN(31622400)
		if r.IntN(2) == 0 {
			n = 1 + r.IntN(1<<(1+r.IntN(17)))
		}
		n *= []int{1, 1, 60, 300, 3600, 86400}[r.IntN(6)]
		if n <= 31622400 {
			crons[fmt.Sprintf("@every %ds", n)] = true
		}
	}
	for n := range 130 {
		crons[fmt.Sprintf("@every %dm", n+1)] = true
	}
	for description, same := range byDescription(t, db, slicesOfKeys(crons)) {
		seen := map[string]bool{}
		for _, cron := range same {
			first := one[string](t, db, "select array(select pgtick.preview($1, 'UTC', '2026-01-01 00:00:30+00', 30))::text", cron)
			seen[first] = true
		}
		require.Len(t, seen, 1, "%s: %v", description, same)
	}
}

func slicesOfKeys[V any](m map[string]V) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// byDescription asks for all of them in one statement.
func byDescription(t *testing.T, db *pgtest.DB, crons []string) map[string][]string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), "select c, pgtick.describe(c) from unnest($1::text[]) as c", crons)
	require.NoError(t, err)
	alike := map[string][]string{}
	var cron, description string
	_, err = pgx.ForEachRow(rows, []any{&cron, &description}, func() error {
		require.NotEmpty(t, description, "%q", cron)
		alike[description] = append(alike[description], cron)
		return nil
	})
	require.NoError(t, err)
	return alike
}

type pair struct{ one, other string }

// distinct is the pair of expressions to compare: only their days where their times are the same, and none where all values are.
func distinct(a, b expression) (p pair, needed bool) {
	sameTimes := a.minute == b.minute && a.hour == b.hour
	if sameTimes && a.day == b.day && a.month == b.month && a.weekday == b.weekday && a.lastDay == b.lastDay && a.bothDays == b.bothDays {
		return p, false
	}
	if !sameTimes {
		return pair{a.text, b.text}, true
	}
	daysOf := func(e expression) string { return "0 0 " + strings.Join(strings.Fields(e.text)[2:], " ") }
	return pair{daysOf(a), daysOf(b)}, true
}

func requireSameSlots(t *testing.T, db *pgtest.DB, pairs map[pair]bool) {
	t.Helper()
	var ones, others []string
	for p := range pairs {
		ones, others = append(ones, p.one), append(others, p.other)
	}
	require.Empty(t, all[string](t, db, `
		select format('%s | %s: %s', p.one, p.other, pgtick.describe(p.one))
		from unnest($1::text[], $2::text[]) as p(one, other)
		cross join unnest('{2026-01-01 00:00+00,2027-12-06 12:34+00}'::timestamptz[]) as start
		where array(select pgtick.slots_between(pgtick.parse_cron(p.one), 'UTC', start, start + interval '9600 hours'))
			<> array(select pgtick.slots_between(pgtick.parse_cron(p.other), 'UTC', start, start + interval '9600 hours'))`, ones, others))
}
