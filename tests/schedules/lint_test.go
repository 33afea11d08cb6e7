package schedules

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func lint(t *testing.T, db *pgtest.DB, cron, zone string) []string {
	t.Helper()
	return all[string](t, db, "select pgtick.lint($1, $2)", cron, zone)
}

// requireWarnings wants as many warnings as there are texts, each with its text; dots in a text stand for anything between.
func requireWarnings(t *testing.T, want, got []string, about ...any) {
	t.Helper()
	require.Len(t, got, len(want), append([]any{"%v: %s"}, fmt.Sprint(about...), strings.Join(got, "\n"))...)
	for i, text := range want {
		rest := got[i]
		for _, part := range strings.Split(text, " … ") {
			_, after, found := strings.Cut(rest, part)
			require.True(t, found, "%v: %q is not in %q", about, part, got[i])
			rest = after
		}
	}
}

func TestLint_OfWhatIsProbablyNotMeant_NamesFieldAndValueAndWhatToWrite(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-01-15T10:00:00Z")
	for _, row := range []struct {
		cron, zone string
		want       []string
	}{
		// both day fields
		{"0 0 13 * FRI", "UTC", []string{`day-of-month field "13" and weekday field "FRI" are both set: a day that matches either one runs; write * in one of them`}},
		{"0 0 L * 1-5", "UTC", []string{`day-of-month field "L" and weekday field "1-5" are both set: a day that matches either`}},
		{"0 0 13 * */7", "UTC", []string{`day-of-month field "13" and weekday field "*/7" are both set, and "*/7" starts with *: only a day that matches both runs; write its values as a list`}},
		{"0 0 */2 * MON", "UTC", []string{`day-of-month field "*/2": steps start again on the 1st … write @every 2d`, `are both set, and "*/2" starts with *: only`}},
		{"0 0 1-31 * MON", "UTC", []string{`"1-31" and weekday field "MON" are both set: a day that matches either one runs, and the first matches every day; write *`}},
		{"0 0 1 * 0-6", "UTC", []string{`the second matches every day; write *`}},
		{"0 0 */1 * MON", "UTC", nil},
		// ranges that cover their field
		{"0-59 * * * *", "UTC", []string{`minute field "0-59" names every minute, as * does; write *`}},
		{"0 0-23 * * *", "UTC", []string{`hour field "0-23" names every hour, each as a fixed time of its own, so on_gap and on_fold decide … write * for every hour that passes`}},
		{"0-59 0-23 * * *", "UTC", []string{`minute field "0-59" … on_gap`, `hour field "0-23" … on_gap`}},
		{"0 0-11,12-23 * * *", "Europe/Berlin", []string{`hour field "0-11,12-23" names every hour, each as`, `02:00 does not exist … write * for every hour that passes`, `02:00 comes twice`}},
		// gaps and folds, the next of each
		{"30 2 * * *", "Europe/Berlin", []string{
			`hour field "2": 02:30 does not exist in Europe/Berlin on 2026-03-29, when the clock goes forward from 02:00 to 03:00; it runs at 03:00, or with on_gap skip not at all; write a time outside 02:00 to 02:59`,
			`hour field "2": 02:30 comes twice in Europe/Berlin on 2026-10-25, when the clock goes back from 03:00 to 02:00; it runs the first time, or as on_fold says (first, last, both); write a time outside 02:00 to 02:59`}},
		{"30 2 * * *", "America/New_York", []string{`02:30 does not exist in America/New_York on 2026-03-08 … outside 01:00 to 02:59`}},
		{"30 1 * * *", "America/New_York", []string{`01:30 comes twice in America/New_York on 2026-11-01 … outside 01:00 to 02:59`}},
		{"30 2 * * MON", "Europe/Berlin", nil}, // clocks change on Sundays
		{"30 2 29 3 *", "Europe/Berlin", []string{`02:30 does not exist in Europe/Berlin on 2026-03-29`}},
		{"15 2 * * *", "Australia/Lord_Howe", []string{`02:15 does not exist in Australia/Lord_Howe on 2026-10-04, when the clock goes forward from 02:00 to 02:30 … outside 01:30 to 02:29`}},
		{"@daily", "Asia/Beirut", []string{`"@daily": 00:00 does not exist in Asia/Beirut on 2026-03-29 … write a time outside 23:00 to 00:59`}},
		{"30 23 * * *", "Asia/Beirut", []string{`23:30 comes twice in Asia/Beirut on 2026-10-24 … outside 23:00 to 00:59`}},
		{"0 */2 * * *", "Europe/Berlin", []string{`hour field "*/2": 02:00 does not exist … it is left out then; write both as lists`, `02:00 comes twice … it runs twice then; write both as lists`}},
		{"* 2 * * *", "Europe/Berlin", []string{`every minute of these hours`, `does not exist`, `comes twice`}},
		{"*/5 0-6 * * *", "Europe/Berlin", nil}, // its rhythm goes on over the shift
		// days that not every month has
		{"0 0 31 * *", "UTC", []string{`day-of-month field "31": February, April, June, September and November have no 31st, and no other day stands in for it; for the last day of each month write L`}},
		{"0 0 30 * *", "UTC", []string{`day-of-month field "30": February has no 30th`}},
		{"0 0 15,30,31 9,10 *", "UTC", []string{`day-of-month field "15,30,31": September has no 31st`}},
		{"0 0 29 2 *", "UTC", []string{`day-of-month field "29": February has a 29th in leap years only; for its last day write L`}},
		{"0 0 28-31 * *", "UTC", []string{`day-of-month field "28-31": it is up to 4 days of each month; for the last day alone write L`}},
		{"0 0 31 1,3 *", "UTC", nil},
		{"0 0 30,L * *", "UTC", nil},
		{"0 0 15-31 * *", "UTC", nil},
		// steps
		{"*/7 * * * *", "UTC", []string{`minute field "*/7": 7 does not divide 60, so the last step of each hour is 4 minutes; write a step that divides it, such as 6 or 10, or @every 7m`}},
		{"3-59/7 * * * *", "UTC", []string{`minute field "3-59/7": 7 does not divide 60`}},
		{"*/45 * * * *", "UTC", []string{`minute field "*/45" … the last step of each hour is 15 minutes; write a step that divides it, such as 30, or @every 45m`}},
		{"*/59 * * * *", "UTC", []string{`the last step of each hour is 1 minute;`}},
		{"0 */5 * * *", "UTC", []string{`hour field "*/5": 5 does not divide 24, so the last step of each day is 4 hours … 4 or 6, or @every 5h`}},
		{"0 0 1 */5 *", "UTC", []string{`month field "*/5": 5 does not divide 12, so the last step of each year is 2 months … 4 or 6`}},
		{"0 0 * * */2", "UTC", []string{`weekday field "*/2": 2 does not divide 7, so the last step of each week is 1 day; name the days, such as MON,WED,FRI`}},
		{"0 0 * * 1-7/2", "UTC", []string{`weekday field "1-7/2"`}},
		{"0 0 */10 * *", "UTC", []string{`day-of-month field "*/10": steps start again on the 1st, so the one around the end of a month is not 10 days`}},
		{"0 0 * * 1-5/2", "UTC", nil},
		{"10-40/7 * * * *", "UTC", nil},
		{"0 8-23/5 * * *", "UTC", nil},
		{"5-59/10 * * * *", "UTC", nil},
		{"0 10-12/5 * * *", "UTC", []string{`hour field "10-12/5": the step is longer than the range, so that only 10 is met; write 10`}},
		{"0 0 * JAN-MAR/6 MON-WED/4", "UTC", []string{`month field "JAN-MAR/6" … only JAN is met`, `weekday field "MON-WED/4" … only MON is met`}},
		// every minute of named hours
		{"* 9 * * *", "UTC", []string{`minute field "*" with hour field "9" is every minute of these hours, 60 times a day; for once an hour write minute 0: "0 9 * * *"`}},
		{"* 9-17 * * MON-FRI", "UTC", []string{`540 times a day … "0 9-17 * * MON-FRI"`}},
		// intervals
		{"@every 7m", "UTC", []string{`"@every 7m" does not divide a day … for the same times each day write @every 6m or @every 8m`}},
		{"@every 100m", "UTC", []string{`@every 1h36m or @every 2h`}},
		{"7 seconds", "UTC", []string{`"7 seconds" does not divide a day … @every 6s or @every 8s`}},
		{"@every 25h", "Europe/Berlin", []string{`@every 1d or @every 2d`}},
		{"@every 7d", "UTC", []string{`"@every 7d" counts its days from 1970-01-01 00:00 UTC … the next one is Thursday, 2026-01-22; for days of your choice write five fields`}},
		{"@every 6h", "Europe/Berlin", []string{`"@every 6h" takes no notice of time zone Europe/Berlin: its times are counted from 00:00 UTC; for times of that zone write 0 */6 * * *`}},
		{"@every 1d", "America/New_York", []string{`write 0 0 * * *`}},
		{"@every 30m", "Asia/Kathmandu", []string{`write */30 * * * *`}},
		{"@every 1h", "Australia/Lord_Howe", []string{`write 0 * * * *`}},
		{"@every 90m", "Europe/Berlin", []string{`write five fields`}},
		// never: each second Sunday of March, between two and three
		{"*/5 2 8-14 3 */7", "America/New_York", []string{`are both set`, `02:00 does not exist`, `"*/5 2 8-14 3 */7" never fires in America/New_York … write another time`}},
	} {
		requireWarnings(t, row.want, lint(t, db, row.cron, row.zone), row.cron, " in ", row.zone)
	}
}

func TestLint_OfOrdinaryExpressions_SaysNothing(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, cron := range []string{"* * * * *", "*/5 * * * *", "*/15 * * * *", "0 9 * * MON-FRI", "0 0 1 * *", "0 0 L * *", "0 0 1,15 * *", "@hourly", "@daily", "@weekly",
		"@monthly", "@yearly", "0 * * * *", "30 * * * *", "0 */3 * * *", "0 9,17 * * *", "*/10 9-17 * * 1-5", "0 0 1 */3 *", "@every 1s", "@every 30s", "@every 90s", "@every 5m",
		"@every 1h", "90 seconds"} {
		for _, zone := range []string{"UTC", "Europe/Berlin"} {
			require.Empty(t, lint(t, db, cron, zone), "%q in %s", cron, zone)
		}
	}
	require.Empty(t, all[string](t, db, "select pgtick.lint('30 2 * * *')"), "UTC is the default")
}

func TestLint_WhenZoneOrExpressionIsWrong_RefusesIt(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	e := refused(t, db, "select pgtick.lint('0 9 * * *', 'Europe/Berln')")
	require.Equal(t, "TK018", e.Code)
	require.Contains(t, e.Hint, "Europe/Berlin")
	require.Equal(t, "TK018", refused(t, db, "select pgtick.lint('@every 5m', null)").Code)
	require.Equal(t, "TK012", refused(t, db, "select pgtick.lint('60 9 * * *', 'UTC')").Code)
	require.Equal(t, "TK010", refused(t, db, "select pgtick.lint(null, 'UTC')").Code)
}

// The oracle walks the minutes around each shift of the coming 13 months.
func TestLint_OfFixedTimes_NamesTheNextGapAndFoldThatHoldsOne(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	r := rand.New(rand.NewPCG(seed(t), 3))
	places := map[string]*place{}
	for _, name := range zones {
		places[name] = newPlace(t, name)
	}
	for range 8 {
		now := time.Date(2010+r.IntN(18), time.Month(1+r.IntN(12)), 1+r.IntN(28), r.IntN(24), r.IntN(60), 0, 0, time.UTC)
		pgtest.SetNow(t, db, now)
		for _, name := range zones {
			for range 4 {
				e := fixedTimes(r.IntN)
				gap, fold := e.oddWalls(places[name], now, now.AddDate(0, 13, 0))
				var gotGap, gotFold string
				for _, warning := range lint(t, db, e.text, name) {
					_, after, _ := strings.Cut(warning, ": ")
					switch wall, rest, _ := strings.Cut(after, " "); {
					case strings.HasPrefix(rest, "does not exist in "+name+" on "):
						gotGap = strings.Split(rest, " ")[6][:10] + " " + wall
					case strings.HasPrefix(rest, "comes twice in "+name+" on "):
						gotFold = strings.Split(rest, " ")[5][:10] + " " + wall
					}
				}
				require.Equal(t, [2]string{gap, fold}, [2]string{gotGap, gotFold}, "%q in %s at %s", e.text, name, now)
			}
		}
	}
}

// fixedTimes is an expression of one to three minutes and hours of the night, on all days or on some weekdays.
func fixedTimes(roll dice) expression {
	f, texts := fields(), []string{}
	for i, most := range []int{60, 6, 0, 0, 7} {
		switch {
		case most == 0, i == 4 && roll(3) > 0:
			f[i].star()
		default:
			items := []string{}
			for range 1 + roll(3) {
				items = append(items, strconv.Itoa(roll(most)))
				f[i].parse(items[len(items)-1])
			}
			f[i].text = strings.Join(items, ",")
		}
		texts = append(texts, f[i].text)
	}
	return meaning(strings.Join(texts, " "), f)
}

// oddWalls are the first matching wall time that a zone's clock skips between two moments, and the first that it shows twice.
func (e expression) oddWalls(p *place, from, to time.Time) (gap, fold string) {
	for _, shift := range p.shifts() {
		if !shift.After(from) || shift.After(to) {
			continue
		}
		old, now := wallOf(shift.Add(-time.Minute), p.zone).Add(time.Minute), wallOf(shift, p.zone)
		forward, low, high := old.Before(now), old, now
		if !forward {
			low, high = now, old
		}
		for wall := low; wall.Before(high); wall = wall.Add(time.Minute) {
			if !e.matches(wall) {
				continue
			}
			text := wall.Format("2006-01-02 15:04")
			if forward && gap == "" {
				gap = text
			} else if !forward && fold == "" {
				fold = text
			}
			break
		}
	}
	return gap, fold
}

func TestLint_OfRandomExpressions_NeverFails(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	r := rand.New(rand.NewPCG(seed(t), 4))
	var crons []string
	for range 400 {
		if e := randomExpression(r.IntN); e.fires() {
			crons = append(crons, e.text)
		}
	}
	require.Zero(t, one[int](t, db, `select count(*) from unnest($1::text[], $2::text[]) with ordinality as c(cron, zone, n), pgtick.lint(c.cron, c.zone) as warning
		where warning is null or warning = '' or warning !~ '; (write|name|for) '`, crons, repeated(zones, len(crons))))
}

func repeated(texts []string, n int) []string {
	var many []string
	for i := range n {
		many = append(many, texts[i%len(texts)])
	}
	return many
}

// addHistory writes finished jobs of a task, a second apart, the newest at p_now; how long each took comes from an expression of i.
func addHistory(t *testing.T, db *pgtest.DB, task, state string, n int, seconds string) {
	t.Helper()
	exec(t, db, fmt.Sprintf(`
		insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, created_at, started_at, finished_at, expires_on)
		select nextval('pgtick.live_jobs_id_seq'), $1, 'default', 5, $2, d.finished_at, 1, 0, 1, 0, 0, '1 hour', '{}', d.finished_at,
			d.finished_at - make_interval(secs => (%s)::double precision), d.finished_at, (pgtick.now() at time zone 'UTC')::date + (i %% 8)::integer
		from generate_series(1, $3::integer) as i cross join lateral (select pgtick.now() - make_interval(secs => i) as finished_at) as d`, seconds), task, state, n)
}

func TestUsualDuration_IsTheMedianOfTheNewestDoneJobs(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	usual := func(task string) *string {
		return one[*string](t, db, "select pgtick.usual_duration($1)::text", task)
	}
	require.Nil(t, usual("none"))
	addHistory(t, db, "failing", "failed", 5, "10")
	require.Nil(t, usual("failing"))
	addHistory(t, db, "three", "done", 3, "10 * i * i")
	addHistory(t, db, "three", "failed", 50, "1000")
	addHistory(t, db, "three", "cancelled", 50, "1000")
	require.Equal(t, "00:00:40", *usual("three"))
	addHistory(t, db, "four", "done", 4, "10 * i * i")
	require.Equal(t, "00:01:05", *usual("four"), "between the two in the middle")
	addHistory(t, db, "slower", "done", 300, "case when i <= 100 then 60 else 1 end")
	require.Equal(t, "00:01:00", *usual("slower"), "the newest hundred")
	exec(t, db, "select pgtick.maintain()")
	require.Equal(t, "00:01:00", *usual("slower"), "over partitions as well")
}

func TestUsualDuration_OfATaskWithMuchHistory_ReadsLittleOfIt(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "select pgtick.maintain()")
	addHistory(t, db, "busy", "done", 5000, "5")
	addHistory(t, db, "failing", "failed", 5000, "5")
	addHistory(t, db, "other", "done", 5000, "5")
	exec(t, db, "analyze pgtick.history")
	for task, most := range map[string]int{"busy": 150, "failing": 1050, "none": 10} {
		require.LessOrEqual(t, rowsRead(t, db, "history%", "select pgtick.usual_duration('"+task+"')"), most, task)
	}
}

// rowsRead counts the rows of some tables that a statement has read. The counters may hold what the session did before.
func rowsRead(t *testing.T, db *pgtest.DB, tables, sql string) int {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	read := func() (n int) {
		require.NoError(t, tx.QueryRow(t.Context(), `select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::integer from pg_stat_xact_user_tables
			where schemaname = 'pgtick' and relname like $1`, tables).Scan(&n))
		return n
	}
	before := read()
	_, err = tx.Exec(t.Context(), sql)
	require.NoError(t, err)
	return read() - before
}

func warnings(t *testing.T, db *pgtest.DB, name string) []string {
	t.Helper()
	return all[string](t, db, "select warning from pgtick.lint_schedules($1)", name)
}

func TestLintSchedules_TellsWhatEachScheduleAddsToItsExpression(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-02T10:00:30Z")
	addHistory(t, db, "seven minutes", "done", 9, "420")
	for _, row := range []struct {
		name, cron, settings string
		want                 []string
	}{
		{"good", "*/10 * * * *", "p_jitter => '1 minute', p_must_finish_within => '8 minutes'", nil},
		{"of its expression", "*/7 * * * *", "p_task => 'noop'", []string{`minute field "*/7"`}},
		{"of its zone", "30 2 * * *", "p_time_zone => 'Europe/Berlin'", []string{"02:30 does not exist in Europe/Berlin", "02:30 comes twice"}},
		{"too often", "*/5 * * * *", "", []string{`cron "*/5 * * * *": its slots come as close as 5 minutes, and task "seven minutes" usually takes 7 minutes, so that slots will be skipped; write a longer interval`}},
		{"side by side", "@every 90s", "p_on_overlap => 'allow'", []string{`as close as 90 seconds … its jobs will run side by side`}},
		{"close at times", "0,3 10 * * *", "", []string{`as close as 3 minutes … usually takes 7 minutes`}},
		{"task not known", "*/5 * * * *", "p_task => 'noop'", nil},
		{"jitter", "*/10 * * * *", "p_jitter => '10 minutes'", []string{`jitter 00:10:00 is not shorter than the least time between two slots, 10 minutes … write a shorter p_jitter`}},
		{"promise", "*/10 * * * *", "p_must_finish_within => '6 minutes'", []string{`must_finish_within 00:06:00 is shorter than task "seven minutes" usually takes, 7 minutes; write a longer p_must_finish_within`}},
		{"ended", "0 9 * * *", "p_ends_at => '2026-03-03 09:00+00'", []string{`ends_at 2026-03-03 09:00:00 UTC leaves no slot: the next one would be 2026-03-03 09:00:00 UTC; write a later p_ends_at`}},
		{"ends before it begins", "0 9 * * MON", "p_starts_at => '2026-03-10', p_ends_at => '2026-03-15'", []string{`the next one would be 2026-03-16 09:00:00 UTC`}},
		{"ends late", "0 9 * * *", "p_ends_at => '2026-03-03 09:00:01+00'", nil},
	} {
		settings := row.settings
		if !strings.Contains(settings, "p_task") {
			settings = strings.TrimSuffix("p_task => 'seven minutes', "+settings, ", ")
		}
		exec(t, db, fmt.Sprintf("select pgtick.schedule($1, $2, %s)", settings), row.name, row.cron)
		requireWarnings(t, row.want, warnings(t, db, row.name), row.name)
	}
}

// addCrowd copies a schedule, its next slot moved.
func addCrowd(t *testing.T, db *pgtest.DB, of, prefix string, n int, later string) {
	t.Helper()
	exec(t, db, `insert into pgtick.schedule_defs (name, cron, parsed, time_zone, task, args, queue, priority, max_attempts, timeout, on_missed, catch_up_limit,
			on_overlap, on_gap, on_fold, jitter, next_at, created_at)
		select $2 || i, cron, parsed, time_zone, task, args, queue, priority, max_attempts, timeout, on_missed, catch_up_limit,
			on_overlap, on_gap, on_fold, jitter, next_at + $4::interval, created_at
		from pgtick.schedule_defs, generate_series(1, $3::integer) as i where name = $1`, of, prefix, n, later)
}

func TestLintSchedules_WhenAHundredOthersAreDueInTheSameMinute_SaysSo(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-02T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '0 12 * * *', 'noop')")
	addCrowd(t, db, "s", "same ", 99, "0")
	addCrowd(t, db, "s", "before ", 10, "-1 second")
	addCrowd(t, db, "s", "after ", 10, "1 minute")
	require.Empty(t, warnings(t, db, "s"))
	addCrowd(t, db, "s", "hundredth ", 1, "59 seconds")
	requireWarnings(t, []string{`cron "0 12 * * *": at least 100 other schedules are due in the same minute, 2026-03-02 12:00:00 UTC; write p_jitter => '5 minutes', or another minute`}, warnings(t, db, "s"))
	exec(t, db, "update pgtick.schedule_defs set jitter = '59 seconds' where name = 's'")
	require.Len(t, warnings(t, db, "s"), 1)
	exec(t, db, "update pgtick.schedule_defs set jitter = '1 minute' where name = 's'")
	require.Empty(t, warnings(t, db, "s"))
}

func TestLintSchedules_InALargeCrowd_CountsNoMoreThanAHundred(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-02T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '0 12 * * *', 'noop')")
	addCrowd(t, db, "s", "elsewhere ", 20000, "3 hours")
	addCrowd(t, db, "s", "same ", 3000, "0")
	exec(t, db, "vacuum analyze pgtick.schedule_defs")
	require.Len(t, warnings(t, db, "s"), 1)
	require.LessOrEqual(t, rowsRead(t, db, "schedule_defs", "select pgtick.lint_schedules('s')"), 110)
}

func TestLintSchedules_OfAll_GoesByName_AndPassesOverRemovedOnes(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for name, cron := range map[string]string{"b": "*/7 * * * *", "a": "0 0 31 * *", "c": "* 9 * * *", "d": "0 9 * * *", "e": "*/9 * * * *"} {
		exec(t, db, "select pgtick.schedule($1, $2, 'noop')", name, cron)
	}
	exec(t, db, "select pgtick.unschedule('e')")
	// a zone may go with an update of the system: that schedule says so, and the others' warnings are not lost
	exec(t, db, "update pgtick.schedule_defs set time_zone = 'Europe/Atlantis' where name = 'd'")
	require.Equal(t, []string{"a", "b", "c", "d"}, all[string](t, db, "select schedule from pgtick.lint_schedules()"))
	requireWarnings(t, []string{`time zone "Europe/Atlantis" is not known here; write`}, warnings(t, db, "d"))
	e := refused(t, db, "select pgtick.lint_schedules('e')")
	require.Equal(t, "TK006", e.Code)
	require.Contains(t, e.Message, "it was unscheduled")
	require.Equal(t, "TK006", refused(t, db, "select pgtick.lint_schedules('')").Code)
}

func TestDescribeAndLint_MayBeAskedByTheirReaders(t *testing.T) {
	t.Parallel()
	db := pgtest.NewOn(t, pgtest.Server(t))
	exec(t, db, "create role anon; create role authenticated; create role service_role")
	db.Migrate(t)
	db.Quiet(t)
	at(t, db, "2026-03-02T10:00:30Z")
	addHistory(t, db, "noop", "done", 9, "420")
	exec(t, db, "select pgtick.schedule('s', '*/5 * * * *', 'noop', p_must_finish_within => '1 minute', p_time_zone => 'Europe/Berlin')")
	exec(t, db, "select pgtick.schedule('over', '30 2 * * *', 'noop', p_ends_at => '2026-03-03', p_time_zone => 'Europe/Berlin')")
	addCrowd(t, db, "s", "same ", 100, "0")

	pure := []string{"select pgtick.describe('15 */6 31 1,7 1-5'), pgtick.describe('*/7 9-17 1-9 6-8 *'), pgtick.describe('@every 36h30m'), pgtick.describe('0 22-23,0-6 * * *')",
		"select pgtick.lint('*/7 2 31 * MON', 'Europe/Berlin'), pgtick.lint('@every 7h', 'Europe/Berlin')"}
	ofSchedules := []string{"select pgtick.usual_duration('noop')", "select w from pgtick.schedule_defs as s, pgtick.schedule_warnings(s) as w where s.name = 's'"}
	for _, role := range []string{"pgtick_reader", "service_role"} {
		for _, sql := range append(pure, ofSchedules...) {
			require.Empty(t, as(t, db, role, sql), "%s: %s", role, sql)
		}
		require.Equal(t, "TK006", as(t, db, role, "select pgtick.lint_schedules('none')"), role)
		require.Equal(t, one[int](t, db, "select count(*) from pgtick.lint_schedules()"), countAs(t, db, role, "select count(*) from pgtick.lint_schedules()"), role)
	}
	require.Equal(t, 3, countAs(t, db, "pgtick_reader", "select count(*) from pgtick.lint_schedules('s')"), "too often, promised too soon, crowded")
	for _, role := range []string{"pgtick_runner", "authenticated"} {
		for _, sql := range pure {
			require.Empty(t, as(t, db, role, sql), "%s: %s", role, sql)
		}
		require.Equal(t, "42501", as(t, db, role, "select * from pgtick.lint_schedules()"), role)
		require.Equal(t, "42501", as(t, db, role, "select pgtick.usual_duration('noop')"), role)
	}
	for _, sql := range append(pure, ofSchedules...) {
		require.Equal(t, "42501", as(t, db, "anon", sql), sql)
	}
}

func countAs(t *testing.T, db *pgtest.DB, role, sql string) (n int) {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), "set local role "+role)
	require.NoError(t, err)
	require.NoError(t, tx.QueryRow(t.Context(), sql).Scan(&n), "%s: %s", role, sql)
	return n
}
