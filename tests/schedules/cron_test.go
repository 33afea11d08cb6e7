package schedules

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNextRun_WhenExpressionIsMalformed_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, row := range []struct{ cron, code, says, hint string }{
		{"", "TK010", "empty", "Five fields"},
		{"   ", "TK010", "empty", "Five fields"},
		{"*", "TK010", "1 field,", "0 9 * * MON-FRI"},
		{"* * * *", "TK010", "4 fields, but five", "perhaps * * * * *"},
		{"* * * * * *", "TK010", "6 fields, but five", "no field for seconds"},
		{"0 0 9 * * ?", "TK010", "6 fields", "write 0 9 * * *"},
		{"0 9 * * * 2027", "TK010", "6 fields", "year"},
		{"0 0 9 * * ? 2027", "TK010", "7 fields", "Quartz"},
		{"0 9 * * * run the thing now", "TK010", "fields", "command"},
		{"1, 2 * * * *", "TK010", "6 fields", "no spaces inside"},
		{"hourly", "TK010", "1 field,", "@hourly"},
		{"09:30", "TK010", "1 field,", "30 9 * * *"},
		{"5 minutes", "TK010", "2 fields", "@every 5m"},
		{"every 5 minutes", "TK010", "3 fields", "*/5 * * * *"},
		{"TZ=Europe/Berlin 0 9 * * *", "TK010", "time zone does not belong", "p_time_zone"},
		{"cron(0 9 * * ? *)", "TK010", "AWS", "five fields"},
		{"rate(5 minutes)", "TK010", "AWS", "@every 5m"},
		{"PT5M", "TK010", "ISO 8601", "@every"},
		{"@minutely", "TK010", "unknown name", "* * * * *"},
		{"@reboot", "TK010", "names an event", "pgtick.enqueue"},
		{"@quarterly", "TK010", "unknown name", "0 0 1 */3 *"},
		{"@", "TK010", "unknown name", "five fields"},
		{"@daily extra", "TK010", "unknown name", ""},
		{"60 * * * *", "TK012", `minute field "60" (field 1, character 1): 60 is out of range 0-59`, "minute 0"},
		{"90 * * * *", "TK012", `minute field "90"`, "@every 5400s"},
		{"* 24 * * *", "TK012", `hour field "24" (field 2, character 3)`, "Midnight is hour 0"},
		{"* 25 * * *", "TK012", "25 is out of range 0-23", "0 to 23"},
		{"* * 0 * *", "TK012", `day-of-month field "0"`, "first day is 1"},
		{"* * 32 * *", "TK012", "32 is out of range 1-31", "write L"},
		{"* * * 0 *", "TK012", `month field "0"`, "January is 1"},
		{"* * * 13 *", "TK012", "13 is out of range 1-12", "1 to 12"},
		{"* * * * 8", "TK012", `weekday field "8" (field 5, character 9)`, "0 to 7"},
		{"99999999999 * * * *", "TK012", "out of range 0-59", "0 to 59"},
		{"0,15,60 * * * *", "TK012", `minute field "60" (field 1, character 6)`, ""},
		{"1-60 * * * *", "TK012", `minute field "1-60"`, ""},
		{"*/60 * * * *", "TK012", "step 60 is out of range 1-59", "minute 0 and hour *"},
		{"*/90 * * * *", "TK012", "step 90", "@every 5400s"},
		{"*/120 * * * *", "TK012", "step 120", "0 */2 * * *"},
		{"*/0 * * * *", "TK012", "step 0", "never moves"},
		{"* */24 * * *", "TK012", "step 24", "hour 0"},
		{"* */36 * * *", "TK012", "step 36", "@every 36h"},
		{"* * */31 * *", "TK012", "step 31", "only ever meet 1"},
		{"* * * */12 *", "TK012", "step 12", "only ever meet 1"},
		{"5-1 * * * *", "TK013", "backwards", "5-59,0-1"},
		{"* 22-6 * * *", "TK013", `hour field "22-6"`, "22-23,0-6"},
		{"* * * * FRI-MON", "TK013", "backwards", "FRI,SAT,SUN,MON"},
		{"* * * * FRI-SUN", "TK013", "SUN is 0", "5-7"},
		{"* * * * 7-2", "TK013", "backwards", "0-2"},
		{"* * * NOV-FEB *", "TK013", "backwards", "11-12,1-2"},
		{"0 9 ? * *", "TK014", `"?" is Quartz`, "* instead of ?"},
		{"0 9 * * MON#2", "TK014", `weekday field "MON#2"`, "week"},
		{"0 9 15W * *", "TK014", `"W"`, "MON-FRI"},
		{"0 9 LW * *", "TK014", `"W"`, "MON-FRI"},
		{"0 9 L-3 * *", "TK014", "L stands alone", "15,L"},
		{"0 9 * * 5L", "TK014", `"L" is not known for weekdays`, "date"},
		{"0 9 * L *", "TK014", "only in the day-of-month", ""},
		{"5/15 * * * *", "TK014", "a step needs a range", "5-59/15"},
		{"H * * * *", "TK014", "random times", "p_jitter"},
		{"0~30 * * * *", "TK014", "random times", "p_jitter"},
		{"x * * * *", "TK011", `minute field "x"`, "numbers"},
		{"-1 * * * *", "TK011", "minute field", ""},
		{"+5 * * * *", "TK011", "no sign", "0 to 59"},
		{"1.5 * * * *", "TK011", "whole number", "next field"},
		{"1,,2 * * * *", "TK011", "a value is missing", "both sides"},
		{"1- * * * *", "TK011", "a value is missing", "both sides"},
		{"1-2-3 * * * *", "TK011", "one dash", "1-5,10-15"},
		{"*/ * * * *", "TK011", "step", "*/5"},
		{"*/5/2 * * * *", "TK011", "step", "*/5"},
		{"*/x * * * *", "TK011", "step", "*/5"},
		{"** * * * *", "TK011", "stands alone", "*/5"},
		{"1–5 * * * *", "TK011", "dash", "hyphen"},
		{"0 9:30 * * *", "TK011", "time of day takes two fields", "30 9"},
		{"* * * * MONDAY", "TK011", `"MONDAY" is not a known name`, "MON"},
		{"* * * JANUARY *", "TK011", "not a known name", "JAN"},
		{"* * * MON *", "TK011", "MON is a weekday", "weekdays come last"},
		{"* * * * JAN", "TK011", "JAN is a month", "months come fourth"},
		{"@every", "TK015", "is not an interval", "@every 90s"},
		{"@every 0s", "TK015", "out of range 1-31622400", ""},
		{"@every 367d", "TK015", "out of range", "five fields"},
		{"@every 90", "TK015", "is not an interval", "@every 90s"},
		{"@every 1.5h", "TK015", "is not an interval", "1h30m"},
		{"@every 5m 1h", "TK015", "is not an interval", "largest first"},
		{"@every -5m", "TK015", "is not an interval", ""},
		{"0 seconds", "TK015", "out of range", ""},
		{"0 0 30 2 *", "TK016", `no month of "2" has such a day`, "write L"},
		{"0 0 31 4,6,9,11 *", "TK016", `no month of "4,6,9,11"`, "write L"},
		{"0 0 31 FEB-FEB *", "TK016", "never fire", "write L"},
	} {
		e := refused(t, db, "select pgtick.next_run($1)", row.cron)
		require.Equal(t, row.code, e.Code, "%q: %s", row.cron, e.Message)
		require.Contains(t, e.Message, row.says, "%q", row.cron)
		require.Contains(t, e.Hint, row.hint, "%q", row.cron)
	}
	e := refused(t, db, "select pgtick.next_run(null)")
	require.Equal(t, "TK010", e.Code)
}

func TestNextRun_WhenZoneIsNoFullName_SuggestsOne(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for zone, says := range map[string]string{
		"": "", "Mars/Base": "", "UTC+99": "", "05:00": "", "localtime": "", "posix/Europe/Berlin": "", "GMT-5": "Etc/GMT-5", "Etc/GMT-20": "Etc/GMT-2",
		"CET": "", "PDT": "", "EST": "", "Europe/Berln": "Europe/Berlin", "America/NewYork": "America/New_York", "<X>5": "", "Abc5Def": "",
	} {
		e := refused(t, db, "select pgtick.next_run('0 9 * * *', p_time_zone => $1)", zone)
		require.Equal(t, "TK018", e.Code, "%q: %s", zone, e.Message)
		require.Contains(t, e.Message, "time zone \""+zone+"\"")
		require.Contains(t, e.Hint, says, "%q", zone)
	}
	require.Equal(t, "TK018", refused(t, db, "select pgtick.next_run('0 9 * * *', p_time_zone => null)").Code)
	for _, zone := range []string{"UTC", "Etc/UTC", "Etc/GMT-14", "Etc/GMT+12", "Europe/Berlin", "America/Argentina/Buenos_Aires", "America/Port-au-Prince", "Asia/Kathmandu"} {
		exec(t, db, "select pgtick.next_run('0 9 * * *', p_time_zone => $1)", zone)
	}
}

func TestNextRunAndPreview_WhenBoundsAreWrong_NameThem(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for sql, says := range map[string]string{
		"select pgtick.next_run('* * * * *', null)":                   "after null",
		"select pgtick.next_run('* * * * *', 'infinity')":             `after "infinity"`,
		"select pgtick.next_run('* * * * *', '-infinity')":            `after "-infinity"`,
		"select pgtick.next_run('* * * * *', '1969-12-31 00:00+00')":  "from 1970 to 9998",
		"select pgtick.next_run('* * * * *', '20000-01-01 00:00+00')": "from 1970 to 9998",
		"select pgtick.preview('* * * * *', p_n => 0)":                `n "0"`,
		"select pgtick.preview('* * * * *', p_n => -1)":               `n "-1"`,
		"select pgtick.preview('* * * * *', p_n => 10001)":            "1 to 10000",
		"select pgtick.preview('* * * * *', p_n => null)":             "n null",
		"select pgtick.preview('* * * * *', p_from_at => 'infinity')": `from_at "infinity"`,
		"select pgtick.preview('* * * * *', p_from_at => null)":       "from_at null",
	} {
		e := refused(t, db, sql)
		require.Equal(t, "TK000", e.Code, "%s: %s", sql, e.Message)
		require.Contains(t, e.Message, says, sql)
	}
	require.Len(t, all[time.Time](t, db, "select pgtick.preview('@every 1s', p_n => 10000)"), 10000)
	require.Less(t, len(all[time.Time](t, db, "select pgtick.preview('0 0 29 2 */7', p_n => 10000)")), 1000, "it ends with the year 9999")
}

func TestNextRun_InEachZone_IsTheKnownMoment(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, row := range []struct{ cron, zone, after, want string }{
		{"*/15 * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"},
		{"*/15 * * * *", "UTC", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00Z"},
		{"0 9 * * MON-FRI", "UTC", "2026-01-02T09:00:00Z", "2026-01-05T09:00:00Z"},
		{"0 9 * * mon-fri", "Asia/Kathmandu", "2026-01-02T09:00:00Z", "2026-01-05T03:15:00Z"},
		{"5-59/10 * * * *", "UTC", "2026-01-01T00:05:00Z", "2026-01-01T00:15:00Z"},
		{"0 0 * * 7", "UTC", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"},
		{"0 0 L * *", "UTC", "2028-02-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"0 0 1,L * *", "UTC", "2026-04-02T00:00:00Z", "2026-04-30T00:00:00Z"},
		{"0 0 $ * *", "UTC", "2026-04-02T00:00:00Z", "2026-04-30T00:00:00Z"},
		{"0 0 29 2 *", "UTC", "2097-01-01T00:00:00Z", "2104-02-29T00:00:00Z"},
		{"0 0 13 * FRI", "UTC", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"},  // either day field
		{"0 0 */2 * MON", "UTC", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z"}, // both, for one starts with *
		{"0 0 13 * */5", "UTC", "2026-01-01T00:00:00Z", "2026-02-13T00:00:00Z"},  // both: Sunday or Friday, the 13th
		{"@hourly", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"},
		{"@monthly", "America/New_York", "2026-03-01T05:00:00Z", "2026-04-01T04:00:00Z"},
		{"@every 90s", "Europe/Berlin", "2026-01-01T00:00:01Z", "2026-01-01T00:01:30Z"},
		{"30 seconds", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:00:30Z"},
		{"@every 1h30m", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"},
		// gaps: a fixed time runs at the gap's end, one with * or / is left out
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"},
		{"30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", "2026-03-08T07:00:00Z"},
		{"*/30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", "2026-03-09T06:00:00Z"},
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-03T15:30:00Z"}, // a gap of half an hour
		{"0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", "2011-12-30T10:00:00Z"},      // a day that never was: at its end
		// folds: the first of the two
		{"30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", "2026-11-01T05:30:00Z"},
		{"30 1 * * *", "America/New_York", "2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"},
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"},
		{"*/30 1 * * *", "America/New_York", "2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z"}, // elapsed time: both
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", "2026-04-04T14:45:00Z"},
		{"30 2 * * *", "Africa/Casablanca", "2026-03-21T12:00:00Z", "2026-03-22T02:00:00Z"}, // negative summer time: the gap is Ramadan's end
		{"30 2 * * *", "Africa/Casablanca", "2026-02-14T12:00:00Z", "2026-02-15T01:30:00Z"}, // and its start a fold
		{"30 0 * * *", "America/St_Johns", "2026-03-07T12:00:00Z", "2026-03-08T04:00:00Z"},
	} {
		got := one[time.Time](t, db, "select pgtick.next_run($1, $2, $3)", row.cron, instant(t, row.after), row.zone)
		require.Equal(t, row.want, got.UTC().Format(time.RFC3339), "%s in %s after %s", row.cron, row.zone, row.after)
	}
}

func TestNextSlot_AtGapAndFold_FollowsThePolicies(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, row := range []struct {
		cron, gap, fold, from, to string
		want                      []string
	}{
		{"30 2 * * *", "run", "first", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", []string{"03-29 01:00", "03-30 00:30"}},
		{"30 2 * * *", "skip", "first", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", []string{"03-30 00:30"}},
		{"15,45 2 * * *", "run", "first", "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z", []string{"03-29 01:00"}},
		{"30 2,3 * * *", "run", "first", "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z", []string{"03-29 01:00", "03-29 01:30"}},
		{"30 2 * * *", "run", "first", "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z", []string{"10-25 00:30"}},
		{"30 2 * * *", "run", "last", "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z", []string{"10-25 01:30"}},
		{"30 2 * * *", "run", "both", "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z", []string{"10-25 00:30", "10-25 01:30"}},
		{"*/30 2 * * *", "run", "first", "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z", []string{"10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30"}},
	} {
		got := all[string](t, db, `select to_char(s at time zone 'UTC', 'MM-DD HH24:MI')
			from pgtick.slots_between(pgtick.parse_cron($1), 'Europe/Berlin', $2, $3, null, $4, $5) as s`,
			row.cron, instant(t, row.from), instant(t, row.to), row.gap, row.fold)
		require.Equal(t, row.want, got, "%s, on_gap %s, on_fold %s", row.cron, row.gap, row.fold)
	}
}

func TestNextRun_InAParallelWorker_IsNotTried(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	setting := map[bool]string{true: "debug_parallel_query", false: "force_parallel_mode"}[one[int](t, db, "select current_setting('server_version_num')::int") >= 160000]
	exec(t, db, "set "+setting+" = on; select pgtick.next_run('0 9 * * *', '2026-01-01', 'Europe/Berlin'), pgtick.describe('0 9 * * *'), pgtick.lint('0 9 * * *', 'Europe/Berlin'); reset "+setting)
}
