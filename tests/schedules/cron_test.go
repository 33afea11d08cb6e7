package schedules

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNextRun_WhenExpressionIsMalformed_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	seen := map[string]bool{}
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
		{"@daily extra", "TK010", "unknown name", "five fields"},
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
		{"0,15,60 * * * *", "TK012", `minute field "60" (field 1, character 6): 60 is out of range 0-59`, "minute 0"},
		{"1-60 * * * *", "TK012", `minute field "1-60" (field 1, character 1): 60 is out of range 0-59`, "minute 0"},
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
		{"0 9 * L *", "TK014", "only in the day-of-month", "Name the value"},
		{"5/15 * * * *", "TK014", "a step needs a range", "5-59/15"},
		{"H * * * *", "TK014", "random times", "p_jitter"},
		{"0~30 * * * *", "TK014", "random times", "p_jitter"},
		{"x * * * *", "TK011", `minute field "x"`, "numbers"},
		{"* * * ju *", "TK011", `"ju" is not a value here`, "names for months"}, // June, or July?
		{"-1 * * * *", "TK011", `minute field "-1" (field 1, character 1): a number has no sign`, "0 to 59"},
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
		{"@every 0s", "TK015", "an interval of 0 seconds is out of range 1-31622400", "five fields"},
		{"@every 367d", "TK015", "out of range", "five fields"},
		{"@every 90", "TK015", "is not an interval", "@every 90s"},
		{"@every 1.5h", "TK015", "is not an interval", "1h30m"},
		{"@every 5m 1h", "TK015", "is not an interval", "largest first"},
		{"@every -5m", "TK015", `"-5m" is not an interval`, "whole numbers"},
		{"0 seconds", "TK015", "out of range 1-31622400", "five fields"},
		{"0 0 30 2 *", "TK016", `no month of "2" has such a day`, "write L"},
		{"0 0 31 4,6,9,11 *", "TK016", `no month of "4,6,9,11"`, "write L"},
		{"0 0 31 FEB-FEB *", "TK016", "never fire", "write L"},
		{"\t\n", "TK010", "empty", "Five fields"},
		{"9 * *", "TK010", "3 fields, but five", "0 9 * * MON-FRI"},
		{"90", "TK010", "1 field,", "0 9 * * MON-FRI"},
		{"*/10 * * * * *", "TK010", "6 fields", "no field for seconds"},
		{"0 30 9 * * MON-FRI", "TK010", "6 fields", "write 30 9 * * MON-FRI"},
		{"* * * * * * *", "TK010", "7 fields", "Seconds and year"},
		{"0 9 * * MON-FRI America/New_York", "TK010", "time zone does not belong", "p_time_zone"},
		{"0 9 * * * UTC", "TK010", "time zone does not belong", "p_time_zone"},
		{"CRON_TZ=UTC 0 9 * * *", "TK010", "time zone does not belong", "p_time_zone"},
		{"0 9 * * * root /usr/bin/job", "TK010", "7 fields", "p_task"},
		{"0 9 * * * /usr/bin/job", "TK010", "6 fields", "p_task"},
		{"0 9 * * * # nightly", "TK010", "7 fields", "comment"},
		{"0 9 * * 1 - 5", "TK010", "7 fields", "no spaces inside"},
		{"0 9 1 , 15 * *", "TK010", "7 fields", "no spaces inside"},
		{"0 9 * *\u00a0*", "TK010", "4 fields", "blanks that are not plain"},
		{"0\u20039 * * *", "TK010", "4 fields", "blanks that are not plain"},
		{"daily", "TK010", "1 field,", "@daily"},
		{"@day", "TK010", "unknown name", "@daily"},
		{"@week", "TK010", "unknown name", "@weekly"},
		{"@annual", "TK010", "unknown name", "@annually"},
		{"@every_minute", "TK010", "unknown name", "* * * * *"},
		{"@secondly", "TK010", "unknown name", "@every 1s"},
		{"@fortnightly", "TK010", "unknown name", "@every 14d"},
		{"@noon", "TK010", "unknown name", "0 12 * * *"},
		{"@weekdays", "TK010", "unknown name", "MON-FRI"},
		{"@every5m", "TK010", "unknown name", "blank after it: @every 5m"},
		{"@wee\u212aly", "TK010", "unknown name", "five fields"},
		{"every minute", "TK010", "2 fields", "* * * * *"},
		{"every hour", "TK010", "2 fields", "@hourly"},
		{"every 2 hours", "TK010", "3 fields", "0 */2 * * *"},
		{"every day at 9", "TK010", "4 fields", "Words are not known"},
		{"2 hours", "TK010", "2 fields", "@every 2h"},
		{"1 day", "TK010", "2 fields", "@every 1d"},
		{"1h30m", "TK010", "1 field,", "@every 1h30m"},
		{"9am", "TK010", "1 field,", "0 9 * * *"},
		{"12am", "TK010", "1 field,", "0 0 * * *"},
		{"2026-01-01 09:00", "TK010", "2 fields", "pgtick.enqueue"},
		{"R/PT1H", "TK010", "ISO 8601", "@every"},
		{"P1D", "TK010", "ISO 8601", "@every"},
		{"0 * * * *v", "TK011", `weekday field "*v" (field 5, character 9)`, "* or */5"},
		{strings.Repeat("0,", 500) + "0 * * * *", "TK010", "1009 characters are too many (at most 1000)", "several schedules"},
		{strings.Repeat(" ", 300) + "0 9 * *", "TK010", `cron "0 9 * *": 4 fields`, "perhaps 0 9 * * *"},
		{"70 * * * *", "TK012", `minute field "70" (field 1, character 1): 70 is out of range 0-59`, "@every 4200s"},
		{"1441 * * * *", "TK012", "1441 is out of range 0-59", "0 to 59"},
		{"1-99999999999 * * * *", "TK012", `minute field "1-99999999999"`, "0 to 59"},
		{"0 24-26 * * *", "TK012", `hour field "24-26" (field 2, character 3)`, "Midnight is hour 0"},
		{"0 0 1-32 * *", "TK012", `day-of-month field "1-32" (field 3, character 5): 32 is out of range 1-31`, "write L"},
		{"0 0 * 1-13 *", "TK012", `month field "1-13" (field 4, character 7): 13 is out of range 1-12`, "1 to 12"},
		{"0 0 * JAN,13 *", "TK012", `month field "13" (field 4, character 11)`, "1 to 12"},
		{"  0  0  *  *  MON,8", "TK012", `weekday field "8" (field 5, character 17)`, "0 to 7"},
		{"1-5/60 * * * *", "TK012", "step 60 is out of range 1-59", "hour *"},
		{"1-5/0 * * * *", "TK012", "step 0 is out of range 1-59", "never moves"},
		{"*/1440 * * * *", "TK012", "step 1440", "@every 86400s"},
		{"0 0 * * */8", "TK012", "step 8 is out of range 1-7", "only ever meet 0"},
		{"0 0 * * MON-FRI/9", "TK012", "step 9 is out of range 1-7", "only ever meet"},
		{"0 23-0 * * *", "TK013", `hour field "23-0" (field 2, character 3): the range runs backwards`, "23,0"},
		{"0 0 31-1 * *", "TK013", `day-of-month field "31-1"`, "31,1"},
		{"0 0 * DEC-JAN *", "TK013", `month field "DEC-JAN" (field 4, character 7)`, "12,1"},
		{"0 0 * * SAT-SUN", "TK013", "SUN is 0", "6-7"},
		{"0 0 * * sat-mon", "TK013", `weekday field "sat-mon"`, "SAT,SUN,MON"},
		{"? ? ? ? ?", "TK014", `minute field "?" (field 1, character 1)`, "* instead of ?"},
		{"0 0 ?/2 * *", "TK014", `day-of-month field "?/2"`, "* instead of ?"},
		{"0 0 * * 6#3", "TK014", `weekday field "6#3" (field 5, character 9): "#"`, "week"},
		{"0 0 WL * *", "TK014", `"W" (the nearest working day)`, "MON-FRI"},
		{"0 0 1W * *", "TK014", `day-of-month field "1W" (field 3, character 5)`, "MON-FRI"},
		{"0 0 1-L * *", "TK014", "not in a range", "15,L"},
		{"0 0 L/2 * *", "TK014", "with a step", "15,L"},
		{"0 0 * * FRIL", "TK014", `weekday field "FRIL"`, "check the date"},
		{"0 0 * * $", "TK014", `"L" is not known for weekdays`, "Saturday is 6"},
		{"L * * * *", "TK014", "only in the day-of-month", "Name the value"},
		{"0 0 * * MON/2", "TK014", "a step needs a range", "MON-6/2, or MON alone"},
		{"H/15 * * * *", "TK014", "random times", "p_jitter"},
		{"H(0-29) * * * *", "TK014", "random times", "p_jitter"},
		{"\"0 9 * * *\"", "TK011", `minute field ""0" (field 1, character 1)`, "quotes"},
		{"'0 9 * * *'", "TK011", `minute field "'0"`, "quotes"},
		{"0 9 * * [1-5]", "TK011", `weekday field "[1-5]" (field 5, character 9)`, "Brackets"},
		{"0 9 * * {1,2}", "TK011", `weekday field "{1" (field 5, character 9)`, "Brackets"},
		{"0 9 * * MON..FRI", "TK011", `"MON..FRI" is not a range`, "MON-FRI"},
		{"0 9 * * MON|TUE", "TK011", `weekday field "MON|TUE"`, "MON,TUE"},
		{"0 9 * * MON;TUE", "TK011", `weekday field "MON;TUE"`, "MON,TUE"},
		{"0 9 * * MON–FRI", "TK011", "this dash is not the plain", "hyphen"},
		{"0 9 * * Mo-Fr", "TK011", `"Mo" is not a known name`, "three letters: MON"},
		{"0 9 * * MON-FRIDAY", "TK011", `"FRIDAY" is not a known name`, "three letters: FRI"},
		{"0 9 * * FR\u0130", "TK011", `weekday field "FR` + "\u0130" + `"`, "no plain letter"},
		{"0 9 * * lun", "TK011", `"lun" is not a value here`, "names for months and weekdays"},
		{"0 0 MON * *", "TK011", `day-of-month field "MON" (field 3, character 5): MON is a weekday`, "weekdays come last"},
		{"0 0 JAN * *", "TK011", "JAN is a month", "months come fourth"},
		{"0 0 * SEPT *", "TK011", `"SEPT" is not a known name`, "SEP"},
		{"0 0 last * *", "TK011", `day-of-month field "last"`, "is L"},
		{"0 0 1st * *", "TK011", `"1st" is not a value here`, "alone: 1"},
		{"0 9am * * *", "TK011", `hour field "9am" (field 2, character 3)`, "here 9"},
		{"0 12am * * *", "TK011", `hour field "12am"`, "here 0"},
		{"0 3pm * * *", "TK011", `hour field "3pm"`, "here 15"},
		{"0 9:00 * * *", "TK011", "time of day takes two fields", `here "0 9"`},
		{"1--5 * * * *", "TK011", "one dash", "1-5,10-15"},
		{"/5 * * * *", "TK011", "a value is missing", "both sides"},
		{", * * * *", "TK011", `minute field "" (field 1, character 1): a value is missing`, "both sides"},
		{"0 9 * * 1-5,", "TK011", `weekday field "" (field 5, character 13)`, "both sides"},
		{"*/1.5 * * * *", "TK011", "one whole number", "*/5"},
		{"*/-5 * * * *", "TK011", "one whole number", "*/5"},
		{"*/5-10 * * * *", "TK011", `minute field "*/5-10"`, "*/5"},
		{"5* * * * *", "TK011", "stands alone", "*/5"},
		{"1-* * * * *", "TK011", "stands alone", "*/5"},
		{"0x10 * * * *", "TK011", `minute field "0x10" (field 1, character 1)`, "numbers"},
		{"٣ * * * *", "TK011", `minute field "٣"`, "no plain letter"},
		{"🦊 * * * *", "TK011", `minute field "🦊" (field 1, character 1)`, "no plain letter"},
		{"%s * * * *", "TK011", `minute field "%s"`, "numbers"},
		{"@every 5 minutes", "TK015", `"5 minutes" is not an interval`, "@every 90s"},
		{"@every 1w", "TK015", `"1w" is not an interval`, "d, h, m, s"},
		{"@every 100ms", "TK015", `"100ms" is not an interval`, "whole numbers"},
		{"@every 366d1s", "TK015", "31622401 seconds is out of range 1-31622400", "five fields"},
		{"@every 99999999999999999999s", "TK015", "is not an interval", "@every 90s"},
		{"5s", "TK015", `"5s" is not an interval`, "@every 90s"},
		{"0 0 31 2 *", "TK016", `day-of-month field "31" (field 3, character 5): no month of "2" has such a day`, "write L"},
		{"0 0 30-31 FEB */2", "TK016", `no month of "FEB"`, "write L"},
		// what only looks like something with a hint of its own
		{"* 5W * * *", "TK011", `hour field "5W"`, "Allowed are"},
		{"* * * * hello", "TK011", `"hello" is not a value here`, "Allowed are"},
		{"* * * * m", "TK011", `"m" is not a value here`, "Allowed are"},
		{"* * * * xy", "TK011", `"xy" is not a value here`, "Allowed are"},
		{"* * mo * *", "TK011", `"mo" is not a value here`, "Allowed are"},
		{"* * abc * *", "TK011", `"abc" is not a value here`, "Allowed are"},
		{"* ja * * *", "TK011", `"ja" is not a value here`, "Allowed are"},
		{"* abc * * *", "TK011", `"abc" is not a value here`, "Allowed are"},
		{"* last * * *", "TK011", `"last" is not a value here`, "Allowed are"},
		{"* 1st * * *", "TK011", `"1st" is not a value here`, "Allowed are"},
		{"9am * * * *", "TK011", `"9am" is not a value here`, "Allowed are"},
		{"*/5/ * * * *", "TK011", `minute field "*/5/"`, "*/5"},
	} {
		e := refused(t, db, "select pgtick.next_run($1)", row.cron)
		require.Equal(t, row.code, e.Code, "%q: %s", row.cron, e.Message)
		require.Contains(t, e.Message, row.says, "%q", row.cron)
		require.Contains(t, e.Hint, row.hint, "%q", row.cron)
		if strings.Contains(row.says, "field \"") {
			require.Regexp(t, `^(Minutes|Hours|Days of the month|Months|Weekdays) go from [01] to [0-9]+`, e.Detail, "%q: the allowed range", row.cron)
		}
		require.False(t, seen[row.cron], "%q is here twice", row.cron)
		seen[row.cron] = true
	}
	require.Greater(t, len(seen), 200)
	e := refused(t, db, "select pgtick.next_run(null)")
	require.Equal(t, "TK010", e.Code)
}

func TestNextRun_WhenZoneIsNoFullName_SuggestsOne(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for zone, says := range map[string]string{
		"": "", "Mars/Base": "", "UTC+99": "", "05:00": "", "localtime": "", "posix/Europe/Berlin": "", "GMT-5": "Etc/GMT+5", "UTC+2": "Etc/GMT-2", "+02:00": "Etc/GMT-2", "GMT-14": "", "Etc/GMT-20": "Etc/GMT-2",
		"CET": "", "PDT": "", "EST": "", "Europe/Berln": "Europe/Berlin", "America/NewYork": "America/New_York", "<X>5": "", "Abc5Def": "",
		"america/newyork": "America/New_York", "Asia/Katmandu2": "Asia/Katmandu", "Berlin": "Europe/Berlin", "New York": "America/New_York", "Los Angeles": "America/Los_Angeles",
		"lord howe": "Australia/Lord_Howe", "Casablanca": "Africa/Casablanca", "St Johns": "America/St_Johns", "Kathmandu": "Asia/Kathmandu", "Apia": "Pacific/Apia",
		"Tokio": "Asia/Tokyo", "Europe/Berlin ": "Europe/Berlin", " UTC": "Etc/UTC", "America/St.Johns": "America/St_Johns", "Eastern Time": "US/Eastern",
		"Deutschland": "for example Europe/Berlin", "🦊": "for example Europe/Berlin", "right/Europe/Berlin": "", "Factory": "", "posixrules": "",
		"Cubaa": "Did you mean Asia/Dubai", // of the names with a continent
	} {
		e := refused(t, db, "select pgtick.next_run('0 9 * * *', p_time_zone => $1)", zone)
		require.Equal(t, "TK018", e.Code, "%q: %s", zone, e.Message)
		require.Contains(t, e.Message, "time zone \""+zone+"\"")
		require.Contains(t, e.Hint, says, "%q", zone)
		require.NotRegexp(t, "posix/|right/", e.Hint, "%q", zone)
	}
	for zone, why := range map[string]string{"CET": "is an abbreviation with a fixed offset", "pdt": "is an abbreviation", "+02:00": "is a fixed offset", "Mars/Base": "is not known here"} {
		require.Contains(t, refused(t, db, "select pgtick.next_run('0 9 * * *', p_time_zone => $1)", zone).Message, why, zone)
	}
	require.Contains(t, refused(t, db, "select pgtick.next_run('0 9 * * *', p_time_zone => $1)", strings.Repeat("Europe/Berlin", 5)).Hint, "for example Europe/Berlin", "too long for a slip of the pen")
	for _, sql := range []string{"select pgtick.next_run('0 9 * * *', p_time_zone => null)", "select pgtick.preview('0 9 * * *', 'CET')", "select pgtick.preview('0 9 * * *', 'Mars/Base')"} {
		require.Equal(t, "TK018", refused(t, db, sql).Code, sql)
	}
	for _, zone := range []string{"UTC", "Etc/UTC", "Etc/GMT-14", "Etc/GMT+12", "Europe/Berlin", "America/Argentina/Buenos_Aires", "America/Port-au-Prince", "Asia/Kathmandu", "europe/berlin", "Japan", "japan", "CST6CDT"} {
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
		{"30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", "2026-10-26T01:30:00Z"},        // seen from within the second
		{"30 2 25-31 10 */7", "Europe/Berlin", "2025-11-10T00:00:00Z", "2026-10-25T00:30:00Z"}, // the next fold, seen from behind the one before
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
		{"30 2 * * *", "run", "first", "2026-10-25T01:10:00Z", "2026-10-26T12:00:00Z", []string{"10-26 01:30"}},
		{"30 2 * * *", "run", "last", "2026-10-25T01:10:00Z", "2026-10-26T12:00:00Z", []string{"10-25 01:30", "10-26 01:30"}},
		{"30 2 * * *", "run", "both", "2026-10-25T01:10:00Z", "2026-10-26T12:00:00Z", []string{"10-25 01:30", "10-26 01:30"}},
		{"*/30 2 * * *", "run", "first", "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z", []string{"10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30"}},
	} {
		got := all[string](t, db, `select to_char(s at time zone 'UTC', 'MM-DD HH24:MI')
			from pgtick.slots_between(pgtick.parse_cron($1), 'Europe/Berlin', $2, $3, null, $4, $5) as s`,
			row.cron, instant(t, row.from), instant(t, row.to), row.gap, row.fold)
		require.Equal(t, row.want, got, "%s, on_gap %s, on_fold %s", row.cron, row.gap, row.fold)
	}
}

// On these days 02:00 to 02:59 is always skipped, and elapsed time runs nothing for it.
func TestNextRun_OfTimesThatAreAlwaysSkipped_IsNone(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	require.True(t, one[bool](t, db, "select pgtick.next_run('*/30 2 25-31 3 */7', '2026-01-01', 'Europe/Berlin') is null"))
	require.Zero(t, one[int](t, db, "select count(*) from pgtick.preview('*/30 2 25-31 3 */7', 'Europe/Berlin', '2026-01-01', 250)"))
	require.True(t, one[bool](t, db, "select pgtick.next_slot(pgtick.parse_cron('@daily'), 'UTC', 'infinity') is null"), "nor is there any after the end of time")
}

func TestNextRun_InAParallelWorker_IsNotTried(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	setting := map[bool]string{true: "debug_parallel_query", false: "force_parallel_mode"}[one[int](t, db, "select current_setting('server_version_num')::int") >= 160000]
	exec(t, db, "set "+setting+" = on; select pgtick.next_run('0 9 * * *', '2026-01-01', 'Europe/Berlin'), pgtick.describe('0 9 * * *'), pgtick.lint('0 9 * * *', 'Europe/Berlin'); reset "+setting)
}

func TestName_OfASchedule_IsUpTo200CharactersOfAnyKindButControls(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	before := "first"
	exec(t, db, "select pgtick.schedule($1, '0 9 * * *', 'noop')", before)
	for _, name := range []string{
		strings.Repeat("🦊", 200), strings.Repeat("x", 200), "x", "تقرير يومي", "דו״ח יומי \u202e", "日報", "e\u0301té", "a b", " a ", "\u00a0", "\u200b", "\u2028", `'"; drop table x; --`, `%s\`, "FIRST", "First",
	} {
		id := one[int64](t, db, "select pgtick.schedule($1, '0 9 * * *', 'noop')", name)
		require.Equal(t, name, one[string](t, db, "select name from pgtick.schedules where name = $1", name))
		require.Equal(t, id, one[int64](t, db, "select pgtick.schedule($1, '0 10 * * *', 'noop')", name), "%q is one schedule", name)
		e := refused(t, db, "select pgtick.rename_schedule($1, $2)", before, name)
		require.Equal(t, "TK007", e.Code, "%q is taken: %s", name, e.Message)
		exec(t, db, "select pgtick.unschedule($1)", name)

		letters := []rune(name)
		renamed := string(letters[:len(letters)-1]) + "~"
		exec(t, db, "select pgtick.rename_schedule($1, $2)", before, renamed)
		before = renamed
	}
	for _, name := range []string{
		"", " ", "     ", strings.Repeat("x", 201), strings.Repeat("🦊", 201), "a\u0007", "\u0085", "a\u009fb", "two\nlines", "a\tb", "\r", "\u001b[31m", "\u007f",
	} {
		for _, sql := range []string{"select pgtick.schedule($1, '0 9 * * *', 'noop')", "select pgtick.rename_schedule('" + strings.ReplaceAll(before, "'", "''") + "', $1)"} {
			e := refused(t, db, sql, name)
			require.Equal(t, "TK000", e.Code, "%q: %s", name, e.Message)
			require.Contains(t, e.Message, "name", "%q", name)
			require.Contains(t, e.Message, "1 to 200 characters", "%q", name)
		}
	}
	require.Equal(t, "TK000", refused(t, db, "select pgtick.schedule(null, '0 9 * * *', 'noop')").Code)
	require.Equal(t, "TK000", refused(t, db, "select pgtick.rename_schedule($1, null)", before).Code)
}

func TestSlotsBetween_OfNoSlots_OrWithoutAnEnd_GivesNone(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for most, want := range map[string]int{"0": 0, "-1": 0, "1": 1, "3": 3, "null": 0} {
		for _, text := range []string{"* * * * *", "@every 1m"} {
			require.Equal(t, want, one[int](t, db, "select count(*) from pgtick.slots_between(pgtick.parse_cron('"+text+"'), 'UTC', '2026-03-01', 'infinity', "+most+")"), "%s %s", most, text)
		}
	}
}
