package dashboard_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// schedulePage is the address of a schedule's page.
func schedulePage(name string, more ...string) string {
	query := url.Values{"name": {name}}
	for i := 0; i < len(more); i += 2 {
		query.Set(more[i], more[i+1])
	}
	return "/schedule?" + query.Encode()
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return at
}

// says is what a page says, as people read it.
func says(body string) string { return html.UnescapeString(words(body)) }

// element is the first one with an id, up to the end of its kind.
func element(t *testing.T, body, kind, id string) string {
	t.Helper()
	found := regexp.MustCompile(`(?s)<` + kind + `\b[^>]* id="` + regexp.QuoteMeta(id) + `".*?</` + kind + `>`).FindString(body)
	require.NotEmpty(t, found, "%s %s in %s", kind, id, words(body))
	return found
}

var spoken = regexp.MustCompile(`<span class="sr">([^<]*)</span>`)

// cells are the texts that a row's cells have for screen readers.
func cells(row string) (texts []string) {
	for _, found := range spoken.FindAllStringSubmatch(row, -1) {
		texts = append(texts, html.UnescapeString(found[1]))
	}
	return texts
}

// A list says of each schedule when it runs next, by its own clock and in UTC, what became of its last slot, and how it stands.
func TestSchedules_ListTellsNextRunLastSlotAndState(t *testing.T) {
	t.Parallel()
	d := open(t)
	pgtest.SetNow(t, d.DB, moment(t, "2026-10-24T12:00:00Z"))
	run(t, d.DB, `select pgtick.schedule('nightly', '30 2 * * *', 'reports.make', p_time_zone => 'Europe/Berlin', p_queue => 'slow');
		select pgtick.schedule('quarter', '*/15 * * * *', 'sync.run'); select pgtick.pause_schedule('quarter', '2026-10-24 18:00+00');
		select pgtick.schedule('over', '0 0 * * *', 'old.task', p_ends_at => '2026-10-24 13:00+00')`)
	pgtest.SetNow(t, d.DB, moment(t, "2026-10-25T00:29:00Z"))
	run(t, d.DB, `select pgtick.tick(); select pgtick.run_now('nightly')`)
	status, body := d.get(t, "/schedules")
	require.Equal(t, http.StatusOK, status, words(body))
	row := func(name string) string {
		return says(element(t, body, "tr", fmt.Sprint("schedule-", ask[int64](t, d.DB, `select id from pgtick.schedules where name = $1`, name))))
	}
	require.Contains(t, row("nightly"), "reports.make, queue slow every day at 02:30 30 2 * * * Europe/Berlin in 1 min Sun 25 Oct 2026, 02:30 UTC+2 (Europe/Berlin) 2026-10-25 00:30:00 UTC run by hand job")
	require.Contains(t, row("nightly"), "ready now active Run now Pause")
	require.Contains(t, row("quarter"), "active", "the pause has ended by itself")
	require.Contains(t, row("over"), "ended")

	for address, names := range map[string]string{"/schedules?state=ended": "over", "/schedules?q=SLOW": "nightly", "/schedules?q=sync&state=active": "quarter"} {
		_, found := d.get(t, address)
		require.Equal(t, 1, strings.Count(found, `data-href="`), address)
		require.Contains(t, found, schedulePage(names), address)
	}
	status, body = d.get(t, "/schedules?state=odd")
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, says(body), `state "odd" is none of active, paused, broken, ended`)
	_, body = d.reader().get(t, "/schedules")
	require.NotContains(t, body, "/do/schedules/")
}

func TestSchedules_Paging_LeadsThroughAllAndBackToTheFirst(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.schedule(format('s%s', lpad(g::text, 3, '0')), '@daily', 'x') from generate_series(1, 120) as g`)
	seen, address := 0, "/schedules"
	next := regexp.MustCompile(`<a href="([^"]*)" rel="next"`)
	for {
		_, body := d.get(t, address)
		for _, found := range regexp.MustCompile(`<a href="/schedule\?name=s(\d{3})">`).FindAllStringSubmatch(body, -1) {
			seen++
			require.Equal(t, fmt.Sprintf("%03d", seen), found[1])
		}
		require.Equal(t, seen > 50, strings.Contains(body, `<a href="/schedules?" rel="first"`))
		found := next.FindStringSubmatch(body)
		if found == nil {
			break
		}
		address = html.UnescapeString(found[1])
	}
	require.Equal(t, 120, seen)

	run(t, d.DB, `insert into pgtick.schedule_defs (name, cron, parsed, time_zone, task, args, queue, priority, max_attempts, timeout, on_missed, catch_up_limit, on_overlap, on_gap, on_fold, jitter, created_at)
		select format('t%s', lpad(g::text, 6, '0')), s.cron, s.parsed, s.time_zone, case when g = 10100 then 'needle' else s.task end, s.args, s.queue, s.priority, s.max_attempts, s.timeout, s.on_missed, s.catch_up_limit,
			s.on_overlap, s.on_gap, s.on_fold, s.jitter, s.created_at from pgtick.schedule_defs as s, generate_series(1, 10200) as g where s.name = 's001'`)
	_, body := d.get(t, "/schedules?q=needle")
	require.Contains(t, says(body), "No schedule fits.")
	require.Contains(t, says(body), "10,000 schedules were looked through; there are more.")
	_, body = d.get(t, html.UnescapeString(next.FindStringSubmatch(body)[1]))
	require.Contains(t, body, `<a href="/schedule?name=t010100">`)
}

// Each cell of the strip has as many slots as the schedule itself will have in that time, also where a zone's clock is moved.
func TestSchedules_StripHasEachSlotToCome_AlsoWhereClocksAreMoved(t *testing.T) {
	t.Parallel()
	d := open(t)
	now := moment(t, "2026-10-24T15:00:00Z")
	pgtest.SetNow(t, d.DB, now)
	run(t, d.DB, `select pgtick.schedule('both', '30 2 * * *', 'x', p_time_zone => 'Europe/Berlin', p_on_fold => 'both'); select pgtick.schedule('first', '30 2 * * *', 'x', p_time_zone => 'Europe/Berlin');
		select pgtick.schedule('dense', '1-59/2 * * * *', 'x', p_time_zone => 'Europe/Berlin'); select pgtick.schedule('grid', '@every 7s', 'x');
		select pgtick.schedule('bound', '5 * * * *', 'x', p_starts_at => '2026-10-24 20:00+00', p_ends_at => '2026-10-25 03:00+00')`)
	run(t, d.DB, `select pgtick.pause_schedule('dense', '2026-10-24 18:00+00')`)
	for ahead, length := range map[string]time.Duration{"24h": time.Hour, "7d": 6 * time.Hour} {
		_, body := d.get(t, "/schedules?ahead="+ahead)
		for _, name := range []string{"both", "first", "dense", "grid", "bound"} {
			texts := cells(element(t, body, "tr", fmt.Sprint("strip-", ask[int64](t, d.DB, `select id from pgtick.schedules where name = $1`, name))))
			from := now.Truncate(length)
			for i, text := range texts {
				begin := from.Add(time.Duration(i) * length)
				n := ask[int](t, d.DB, `select count(*) from pgtick.schedule_defs as s, pgtick.slots_between(s.parsed, s.time_zone, greatest($2::timestamptz, s.starts_at) - interval '1 us',
					least($3::timestamptz, s.ends_at) - interval '1 us', null, s.on_gap, s.on_fold) where s.name = $1`, name, begin, begin.Add(length))
				require.Contains(t, text, begin.Format("Mon 15:04"), "%s, part %d", name, i)
				said := 0
				if found := regexp.MustCompile(`([\d,]+) slots?`).FindStringSubmatch(text); found != nil {
					said, _ = strconv.Atoi(strings.ReplaceAll(found[1], ",", ""))
				}
				require.Equal(t, n, said, "%s, part %d: %s", name, i, text)
			}
		}
	}
	_, body := d.get(t, "/schedules")
	dense := cells(element(t, body, "tr", fmt.Sprint("strip-", ask[int64](t, d.DB, `select id from pgtick.schedules where name = 'dense'`))))
	require.Contains(t, dense[2], "paused")
	require.NotContains(t, dense[3], "paused")
}

// ticked has a schedule live through a day with a moved clock: slots that ran, a pause, an outage, and one by hand.
func ticked(t *testing.T, d *dash, name, from string) {
	t.Helper()
	at := moment(t, from)
	pgtest.SetNow(t, d.DB, at)
	run(t, d.DB, `select pgtick.schedule($1, '0 * * * *', 'x', p_time_zone => 'Europe/Berlin', p_on_overlap => 'allow')`, name)
	step := func(hours int) {
		at = at.Add(time.Duration(hours) * time.Hour)
		pgtest.SetNow(t, d.DB, at)
		run(t, d.DB, `select pgtick.tick()`)
	}
	for range 8 {
		step(1)
	}
	run(t, d.DB, `select pgtick.pause_schedule($1)`, name)
	step(1)
	step(1)
	run(t, d.DB, `select pgtick.resume_schedule($1)`, name)
	step(4) // nothing ticked in between: the latest is caught up, the others are missed
	step(1)
	run(t, d.DB, `select pgtick.run_now($1)`, name)
}

// The heat map says what pgtick.slots says, hour by hour of the schedule's zone; an hour that the clock skips is marked, and one that comes twice
// counts both.
func TestSchedule_HeatMapIsWhatTheSlotsSay_AlsoOnDaysOf23And25Hours(t *testing.T) {
	t.Parallel()
	d := open(t)
	for name, day := range map[string]struct{ from, day, odd string }{
		"spring": {"2026-03-28T22:00:30Z", "2026-03-29", "02:00: the clock skips this hour"},
		"autumn": {"2026-10-24T21:00:30Z", "2026-10-25", "02:00 (this hour has 120 minutes: the clock is set back): 2 enqueued"},
	} {
		ticked(t, d, name, day.from)
		status, body := d.get(t, schedulePage(name, "days", "7"))
		require.Equal(t, http.StatusOK, status, words(body))
		require.Equal(t, day.odd, cells(element(t, body, "tr", "heat-"+day.day))[2])
		require.Equal(t, fatesOf(t, d, name), fatesShown(t, body), name)
		require.Contains(t, says(body), fmt.Sprintf("%d slots in 7 days", ask[int](t, d.DB, `select sum(slots) from pgtick.slots where schedule = $1`, name)))
	}
}

// fatesOf is what pgtick.slots says, by day, hour and fate.
func fatesOf(t *testing.T, d *dash, name string) map[string]int {
	t.Helper()
	rows, err := d.DB.Pool.Query(t.Context(), `select to_char(slot at time zone 'Europe/Berlin', 'YYYY-MM-DD HH24') || ' ' || fate, count(*)::int from pgtick.slots where schedule = $1 group by 1`, name)
	require.NoError(t, err)
	defer rows.Close()
	all := map[string]int{}
	for rows.Next() {
		var key string
		var n int
		require.NoError(t, rows.Scan(&key, &n))
		all[key] = n
	}
	require.NoError(t, rows.Err())
	return all
}

var (
	heatRow  = regexp.MustCompile(`(?s)<tr id="heat-(\d{4}-\d\d-\d\d)">.*?</tr>`)
	cellFate = regexp.MustCompile(`(\d+) (enqueued|missed|run by hand|caught up|skipped in a pause|skipped for an earlier job)`)
	fateName = map[string]string{"run by hand": "run_now", "caught up": "caught_up", "skipped in a pause": "skipped_paused", "skipped for an earlier job": "skipped_overlap"}
)

func fatesShown(t *testing.T, body string) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, row := range heatRow.FindAllStringSubmatch(body, -1) {
		texts := cells(row[0])
		require.Len(t, texts, 24)
		for hour, text := range texts {
			for _, f := range cellFate.FindAllStringSubmatch(text, -1) {
				name := f[2]
				if other := fateName[name]; other != "" {
					name = other
				}
				n, _ := strconv.Atoi(f[1])
				all[fmt.Sprintf("%s %02d %s", row[1], hour, name)] = n
			}
		}
	}
	return all
}

func TestSchedule_RangeOfMissedSlots_MarksEachOfItsHours(t *testing.T) {
	t.Parallel()
	d := open(t)
	pgtest.SetNow(t, d.DB, moment(t, "2026-05-04T10:30:00Z"))
	run(t, d.DB, `select pgtick.schedule('minutely', '* * * * *', 'x')`)
	pgtest.SetNow(t, d.DB, moment(t, "2026-05-06T10:30:00Z"))
	run(t, d.DB, `select pgtick.tick()`)
	missed := ask[string](t, d.DB, `select format('%s slots missed from %s to %s UTC', to_char(slots, 'FM9,999'), to_char(slot at time zone 'UTC', 'FMDD Mon HH24:MI'), to_char(last_slot at time zone 'UTC', 'FMDD Mon HH24:MI'))
		from pgtick.slots where fate = 'missed_range'`)
	_, body := d.get(t, schedulePage("minutely", "days", "7"))
	require.Equal(t, "23:00: part of "+missed, cells(element(t, body, "tr", "heat-2026-05-05"))[23])
	require.Equal(t, "09:00: no slot", cells(element(t, body, "tr", "heat-2026-05-04"))[9])
	require.Equal(t, "11:00: no slot", cells(element(t, body, "tr", "heat-2026-05-06"))[11])
	require.Contains(t, says(body), "2,880 slots in 7 days")
}

// A page of one schedule has all about it, its slots page by page, each with its job.
func TestSchedule_PageTellsSettingsSlotsVersionsAndWhy(t *testing.T) {
	t.Parallel()
	d := open(t, func(o *web.Options) { o.Rules.Hide = []web.Hidden{{Task: "reports.*", Key: "iban"}} })
	pgtest.SetNow(t, d.DB, moment(t, "2026-06-01T00:00:30Z"))
	run(t, d.DB, `select pgtick.schedule('nightly', '* * * * *', 'reports.make', '{"to": "team", "iban": "DE02", "password": "geheim"}', p_on_overlap => 'allow')`)
	run(t, d.DB, `select pgtick.schedule('nightly', '* * * * *', 'reports.make', '{"to": "team", "iban": "DE02", "password": "geheim"}', p_on_overlap => 'allow', p_priority => 3)`)
	for i := range 25 {
		pgtest.SetNow(t, d.DB, moment(t, "2026-06-01T00:01:00Z").Add(time.Duration(i)*time.Minute))
		run(t, d.DB, `select pgtick.tick()`)
	}
	job := ask[int64](t, d.DB, `select min(job_id) from pgtick.slots`)
	run(t, d.DB, `select pgtick.cancel(min(job_id)), pgtick.cancel(max(job_id)) from pgtick.slots`)
	run(t, d.DB, `update pgtick.history set state = 'failed', error = '{"message": "no such table: sesame"}' where id > $1`, job)
	status, body := d.get(t, schedulePage("nightly"))
	require.Equal(t, http.StatusOK, status, words(body))
	said := says(body)
	for _, text := range []string{"every minute", "Priority (0 first, 9 last) 3", "Timeout of an attempt 5 minutes", "While an earlier job lives allow", "changed", "priority 5 → 3", "iban : hidden", "password : hidden", `to : "team"`,
		"an earlier job of it is live", "its last job failed", "sesame", "its next slot is still to come", "Mon 01 Jun 2026, 00:25 UTC"} {
		require.Contains(t, said, text)
	}
	require.NotContains(t, body, "DE02")
	require.NotContains(t, body, "geheim")
	next := regexp.MustCompile(`<a href="([^"]*)" rel="next"`).FindStringSubmatch(body)
	require.NotNil(t, next)
	_, older := d.get(t, strings.TrimSuffix(html.UnescapeString(next[1]), "#slots"))
	require.Equal(t, 5, strings.Count(older, `<tr id="slot-`))
	require.Contains(t, says(older), fmt.Sprintf("%d cancelled", job))

	_, body = d.reader().get(t, schedulePage("nightly"))
	require.Contains(t, says(body), "Not shown to readers.")
	require.NotContains(t, body, `"team"`)
	require.Contains(t, says(body), "its last job failed hidden")
	require.NotContains(t, body, "sesame", "errors are not for readers")
	status, body = d.get(t, schedulePage("nighty"))
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, says(body), "Did you mean \"nightly\"?")
}

// While somebody types, the page says what the expression means and when it fires; what is refused is said in the database's words, at its field.
func TestSchedule_FormPreviewsWhileOneTypes_AndRefusesAtTheField(t *testing.T) {
	t.Parallel()
	d := open(t)
	b := d.browse(t)
	b.visit("/schedules/new")
	b.fill("#f-name", "weekly")
	b.fill("#f-cron", "30 9 * * MON")
	b.until(`document.querySelector('#preview-description')?.innerText === 'at 09:30 on Mondays'`)
	b.fill("#f-time_zone", "Asia/Kolkata")
	b.until(`document.querySelectorAll('#preview-slots li').length === 5 && document.querySelector('#preview-slots').innerText.includes('09:30 UTC+5:30 (Asia/Kolkata)')`)
	b.fill("#f-cron", "60 9 * * MON")
	b.until(`document.querySelector('#preview-problem')?.innerText.includes('TK0')`)
	require.Contains(t, b.text("#preview-problem"), refusal(t, d, `select pgtick.describe('60 9 * * MON')`))
	b.fill("#f-task", "reports.make")
	b.press("#save")
	require.Contains(t, b.text("#e-cron"), refusal(t, d, `select pgtick.describe('60 9 * * MON')`))
	require.Zero(t, ask[int](t, d.DB, `select count(*) from pgtick.schedules`))

	b.fill("#f-cron", "30 9 * * MON")
	b.fill("#f-args", `{"to": "team"`)
	b.press("#save")
	require.Contains(t, b.text("#e-args"), "no JSON object: line 1, character 13")
	b.fill("#f-args", `{"to": "team"}`)
	b.eval(`document.querySelector('#more').open = true`, nil)
	b.fill("#f-timeout", "soon")
	b.press("#save")
	require.Contains(t, b.text("#e-timeout"), `timeout "soon" can't be read`)
	b.axe()
	b.eval(`document.querySelector('#more').open = true`, nil)
	b.fill("#f-timeout", "2 minutes")
	b.press("#save")
	require.Equal(t, schedulePage("weekly"), b.address())
	require.Contains(t, b.text("#notices"), "weekly is scheduled.")
	require.Equal(t, "30 9 * * MON|Asia/Kolkata|reports.make|{\"to\": \"team\"}|00:02:00", ask[string](t, d.DB, `select concat_ws('|', cron, time_zone, task, args, timeout) from pgtick.schedules where name = 'weekly'`))
	require.Equal(t, "dashboard: operator's token", ask[string](t, d.DB, `select changed_by from pgtick.schedule_versions where schedule = 'weekly'`))
	b.axe()
	b.phone()
}

// refusal is what the database says to a statement.
func refusal(t *testing.T, d *dash, sql string) string {
	t.Helper()
	var message string
	run(t, d.DB, `create or replace function pg_temp_refusal(p_sql text) returns text language plpgsql as $$ begin execute p_sql; return ''; exception when others then return sqlerrm; end $$`)
	message = ask[string](t, d.DB, `select pg_temp_refusal($1)`, sql)
	require.NotEmpty(t, message)
	return message
}

// saved is what a form of a schedule sends.
func saved(name string, changes ...string) url.Values {
	form := url.Values{"name": {name}, "cron": {"0 3 * * *"}, "time_zone": {"UTC"}, "task": {"x"}, "args": {"{}"}, "queue": {"default"}, "priority": {"5"}, "max_attempts": {"20"}, "timeout": {"5 minutes"},
		"on_missed": {"once"}, "catch_up_limit": {"100"}, "on_overlap": {"skip"}, "on_gap": {"run"}, "on_fold": {"first"}, "jitter": {"0"}}
	for i := 0; i < len(changes); i += 2 {
		form.Set(changes[i], changes[i+1])
	}
	return form
}

// Nobody overwrites unawares what another has just changed: the form comes back, says what that was, and saves over it only when asked again.
func TestSchedule_SavedOverAnothersChange_SaysWhatChanged_AndSavesTheSecondTime(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.schedule('nightly', '0 3 * * *', 'x'); select pgtick.schedule('nightly', '0 4 * * *', 'x')`)
	_, body := d.get(t, "/schedules/preview?"+saved("nightly", "version", "2", "cron", "0 4,16 * * *").Encode())
	require.Contains(t, says(body), "In the coming 30 days: 30 slots more, 0 slots fewer than now.")
	form := saved("nightly", "version", "1", "cron", "0 5 * * *")
	status, body := d.post(t, "/do/schedules/save", form)
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.Contains(t, says(body), "it was version 1 then, and is version 2 now")
	require.Contains(t, says(body), "Changed meanwhile: version 2, changed by postgres at")
	require.Contains(t, says(body), "cron 0 3 * * * → 0 4 * * *")
	require.Contains(t, body, `value="0 5 * * *"`)
	require.Equal(t, "0 4 * * *", ask[string](t, d.DB, `select cron from pgtick.schedules`))

	form.Set("version", regexp.MustCompile(`name="version" value="(\d+)"`).FindStringSubmatch(body)[1])
	status, body = d.post(t, "/do/schedules/save", form)
	require.Equal(t, http.StatusOK, status, words(body))
	require.Contains(t, says(body), "nightly is changed: version 3.")
	require.Equal(t, "0 5 * * *", ask[string](t, d.DB, `select cron from pgtick.schedules`))

	run(t, d.DB, `select pgtick.unschedule('nightly')`)
	form.Set("version", "3")
	status, body = d.post(t, "/do/schedules/save", form)
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, says(body), "nightly")
	require.Zero(t, ask[int](t, d.DB, `select count(*) from pgtick.schedules`), "a form of what is gone brings it back")
}

func TestSchedule_NewOneWithATakenName_ReplacesNothing(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.schedule('nightly', '0 3 * * *', 'x')`)
	status, body := d.post(t, "/do/schedules/save", saved("nightly", "cron", "0 5 * * *"))
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.Contains(t, says(body), "There is a schedule named \"nightly\" already")
	require.Equal(t, "0 3 * * *", ask[string](t, d.DB, `select cron from pgtick.schedules`))
}

// Values that are not shown are not lost either: an edit keeps them, unless all are replaced.
func TestSchedule_EditOfHiddenArguments_KeepsThem(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.schedule('nightly', '0 3 * * *', 'x', '{"password": "geheim"}')`)
	status, body := d.get(t, "/schedules/edit?name=nightly")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, says(body), "They stay as they are")
	require.NotContains(t, body, "geheim")
	status, body = d.post(t, "/do/schedules/save", saved("nightly", "version", "1", "args_kept", "1", "args", "", "priority", "2"))
	require.Equal(t, http.StatusOK, status, words(body))
	require.Contains(t, says(body), "nightly is changed")
	require.Equal(t, `{"password": "geheim"}|2`, ask[string](t, d.DB, `select concat_ws('|', args, priority) from pgtick.schedules`))
	require.NotContains(t, says(body), "geheim")
}

// What is to be done with a schedule is done by its functions, under the person's name, and leaves a row in pgtick.audit.
func TestSchedule_PauseResumeSkipRunRenameAndUnschedule(t *testing.T) {
	t.Parallel()
	d := open(t)
	now := moment(t, "2026-06-01T12:00:00Z")
	pgtest.SetNow(t, d.DB, now)
	run(t, d.DB, `select pgtick.schedule('hourly', '0 * * * *', 'x', p_on_overlap => 'allow')`)
	do := func(action string, form ...string) string {
		values := url.Values{"name": {"hourly"}, "back": {schedulePage("hourly")}}
		for i := 0; i < len(form); i += 2 {
			values.Set(form[i], form[i+1])
		}
		status, _ := d.reader().post(t, "/do/schedules/"+action, values)
		require.Equal(t, http.StatusForbidden, status, action)
		status, body := d.post(t, "/do/schedules/"+action, values)
		require.Equal(t, http.StatusOK, status, words(body))
		return says(body)
	}
	const paused = `select concat_ws('|', paused_at is not null, to_char(paused_until at time zone 'UTC', 'YYYY-MM-DD HH24:MI')) from pgtick.schedules`
	require.Contains(t, do("pause", "until", "90m"), "hourly is paused for 1 h 30 min.")
	require.Equal(t, "t|2026-06-01 13:30", ask[string](t, d.DB, paused))
	require.Contains(t, do("skip"), "its slots are skipped already")
	require.Contains(t, do("resume"), "hourly is resumed; what lay in the pause stays skipped.")
	require.Equal(t, "f", ask[string](t, d.DB, paused))
	require.Contains(t, do("pause", "until", "2026-06-01 15:15"), "paused until 2026-06-01 15:15:00 UTC")
	require.Equal(t, "t|2026-06-01 15:15", ask[string](t, d.DB, paused))
	require.Contains(t, do("pause", "until", "tomorrow, perhaps"), "is no time: write 2 hours")
	do("resume")

	require.Contains(t, do("skip"), "is paused until just after its next slot, 2026-06-01 13:00:00 UTC")
	for hour := range 2 {
		pgtest.SetNow(t, d.DB, now.Add(time.Duration(hour+1)*time.Hour+time.Second))
		run(t, d.DB, `select pgtick.tick()`)
	}
	require.Equal(t, "13 skipped_paused, 14 enqueued", ask[string](t, d.DB, `select string_agg(format('%s %s', extract(hour from slot at time zone 'UTC'), fate), ', ' order by slot) from pgtick.slots`))

	require.Contains(t, do("run"), "of hourly is enqueued.")
	require.Equal(t, "asked for by dashboard: operator's token", ask[string](t, d.DB, `select reason from pgtick.slots where fate = 'run_now'`))
	require.Contains(t, do("rename", "new_name", "each hour"), "hourly is named each hour now")
	status, body := d.post(t, "/do/schedules/remove", url.Values{"name": {"each hour"}})
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, says(body), "each hour is unscheduled.")
	require.Zero(t, ask[int](t, d.DB, `select count(*) from pgtick.schedules`))
	require.Equal(t, "pause resume pause resume skip run rename remove", ask[string](t, d.DB, `select string_agg(replace(action, 'schedules/', ''), ' ' order by id) from pgtick.audit`), "one row each, of what was refused none")
	require.Equal(t, 1, ask[int](t, d.DB, `select count(distinct by_whom) from pgtick.audit where by_whom = 'dashboard: operator''s token'`))
}

// A name may be anything: it is shown, and nothing of it runs or leads elsewhere.
func TestSchedule_OfAHostileName_IsShownAndActedOn(t *testing.T) {
	t.Parallel()
	d := open(t)
	name := `../"><script>alert(1)</script>&name=x#' onmouseover='alert(2)' ` + "\u202eevil %2F?"
	run(t, d.DB, `select pgtick.schedule($1, '0 3 * * *', $1, p_queue => 'q"><img src=x onerror=alert(3)>')`, name)
	b := d.browse(t)
	b.visit("/schedules")
	require.Contains(t, b.text("#schedules"), `<script>alert(1)</script>`)
	b.axe()
	b.phone()
	b.desk()
	b.press("#schedules th a")
	require.Contains(t, b.text("h1"), `⟨U+202E⟩evil %2F?`)
	b.axe()
	b.click("#rename summary")
	require.Contains(t, b.confirm("#rename button.danger"), `"><script>`)
	require.Zero(t, ask[int](t, d.DB, `select count(*) from pgtick.schedules`))
}

// To look, the login of readers is enough; to act, the database says what is missing.
func TestPagesOfSchedulesQueuesAndCredits_WithTheReadersLogin_AreWhole(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, fmt.Sprintf(`select pgtick.schedule('nightly', '30 2 * * *', 'x', p_time_zone => 'Europe/Berlin'); select pgtick.run_now('nightly'); select pgtick.set_limit('x', 5); select credits.open_account('%s')`, alice))
	cfg, err := pgx.ParseConfig(pgtest.URLAs(d.DB, "pgtick_reader", "to-read"))
	require.NoError(t, err)
	run(t, d.DB, `alter role pgtick_reader login password 'to-read'`)
	d = openOn(t, d.DB, func(o *web.Options) { o.Databases[0].Config = cfg })
	for _, address := range []string{"/schedules", schedulePage("nightly"), "/schedules/new", "/schedules/edit?name=nightly", "/schedules/preview?cron=0+3+*+*+*&time_zone=Europe/Rome&name=nightly&version=1", "/queues", "/credits", accountPage(alice)} {
		status, body := d.get(t, address)
		require.Equal(t, http.StatusOK, status, "%s: %s", address, says(body))
	}
	_, body := d.post(t, "/do/schedules/pause", url.Values{"name": {"nightly"}, "back": {"/schedules"}})
	require.Contains(t, says(body), "permission denied for function pause_schedule")
}

// The pages read what they show: whatever there is besides, no table of jobs, slots or schedules is read as a whole.
func TestSchedules_PagesReadByIndexAlone(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.schedule(format('s%s', g), '0 * * * *', 'x') from generate_series(1, 200) as g;
		insert into pgtick.slot_log (schedule_id, slot, fate, version, job_id, recorded_at) select s.id, g, 'enqueued', 1, s.id * 100000 + extract(epoch from g)::bigint / 3600 % 100000, g
			from pgtick.schedule_defs as s, generate_series(date_trunc('hour', now()) - interval '8 days', now(), '1 hour') as g where s.name like 's%5';
		insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, created_at, started_at, finished_at, expires_on)
			select l.job_id, 'x', 'default', 5, 'done', l.slot, 1, 0, 20, 0, 0, '5 minutes', '{}', l.slot, l.slot, l.slot, '2100-01-01' from pgtick.slot_log as l;
		analyze pgtick.slot_log, pgtick.history, pgtick.schedule_defs`)
	for _, address := range []string{"/schedules", "/schedules?q=s19", schedulePage("s5"), schedulePage("s5", "before", "2026-01-01T00:00:00Z", "days", "60"), "/schedules/edit?name=s5"} {
		for _, p := range d.plans(t, address) {
			readsLittle(t, p, address, 24*9, "slot_log", "history", "live_jobs", "schedule_changes")
		}
	}
}

var scanned = regexp.MustCompile(`(Seq|Index|Index Only|Bitmap Heap) Scan[^\n]* on (\w+)[^\n]*actual rows=(\d+) loops=(\d+)\)((?:\n +[A-Z][^>\n]*)*)`)

// fewPages of a table are read as a whole at less cost than by an index: today's partition has some 160 of these rows.
const fewPages = 200

// readsLittle checks that a plan reads at most so many rows of each of these tables (or of their partitions) at a time, and those by an index
// but for tables of a few pages.
func readsLittle(t *testing.T, p plan, address string, most int, tables ...string) {
	t.Helper()
	for _, scan := range scanned.FindAllStringSubmatch(p.Text, -1) {
		if !slices.ContainsFunc(tables, func(table string) bool { return strings.HasPrefix(scan[2], table) }) {
			continue
		}
		rows, _ := strconv.Atoi(scan[3])
		if removed := regexp.MustCompile(`Rows Removed by (?:Filter|Index Recheck): (\d+)`).FindStringSubmatch(scan[5]); removed != nil {
			n, _ := strconv.Atoi(removed[1])
			rows += n
		}
		if scan[1] == "Seq" {
			require.LessOrEqual(t, rows, fewPages, "%s reads all of %s: %s", address, scan[2], p.Text)
		}
		require.LessOrEqual(t, rows, most, "%s reads much of %s: %s", address, scan[2], p.Text)
	}
}
