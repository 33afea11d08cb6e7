package dashboard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/pgtest"
)

const jobsOwner = "6f9619ff-8b86-4d11-b42d-00c04fc964ff"

// jobsNoon is when the clock of the office stands still.
var jobsNoon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// jobsCrew is a runner by SQL.
type jobsCrew struct {
	db     *pgtest.DB
	runner int64
}

func newJobsCrew(t *testing.T, db *pgtest.DB) jobsCrew {
	t.Helper()
	return jobsCrew{db, ask[int64](t, db, `select pgtick.register('crew', '{default,reports}', '{mail.send,report.make}', '1 hour')`)}
}

func (c jobsCrew) claim(t *testing.T, n int) {
	t.Helper()
	require.Equal(t, n, ask[int](t, c.db, `select count(*) from pgtick.claim($1, '{default,reports}', '{mail.send,report.make}', $2)`, c.runner, n))
}

func (c jobsCrew) end(t *testing.T, id int64, outcome, result, problem string) {
	t.Helper()
	require.True(t, ask[bool](t, c.db, `select accepted from pgtick.finish($1, array[$2::bigint], array(select fence from pgtick.live_jobs where id = $2), array[$3], array[nullif($4, '')::jsonb],
		array[nullif($5, '')::jsonb])`, c.runner, id, outcome, result, problem))
}

// office has a job in each state. 1 done, 2 failed, 3 cancelled, 4 running and half way, 5 ready, 6 ready in an hour, 7 waits for 5, 8 for 7; 9 is to be tried again.
func office(t *testing.T) *dash {
	t.Helper()
	d := open(t)
	pgtest.SetNow(t, d.DB, jobsNoon)
	run(t, d.DB, `select pgtick.enqueue('mail.send', '{"to": "ann", "password": "swordfish"}')`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', '{"to": "bob"}', p_owner_id => '`+jobsOwner+`')`)
	run(t, d.DB, `select pgtick.enqueue('mail.send')`)
	run(t, d.DB, `select pgtick.enqueue('report.make', '{}', 'reports')`)
	c := newJobsCrew(t, d.DB)
	c.claim(t, 4)
	pgtest.Advance(t, d.DB, time.Minute)
	c.end(t, 1, "done", `{"sent": 1}`, "")
	c.end(t, 2, "failed", "", `{"message": "connection REFUSED by 10.0.0.1", "stack": "at mail.go:12"}`)
	pgtest.Advance(t, d.DB, time.Minute)
	c.end(t, 3, "cancelled", "", `{"message": "not wanted"}`)
	run(t, d.DB, `select pgtick.progress(4, (select fence from pgtick.live_jobs where id = 4), 0.5, 'half way')`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', '{"to": "eve"}')`)
	run(t, d.DB, `select pgtick.enqueue('report.make', '{}', 'reports', p_run_at => pgtick.now() + interval '1 hour', p_owner_id => '`+jobsOwner+`')`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', '{}', p_after => '{5}')`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', '{}', p_after => '{7}')`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', '{"to": "zoe"}', p_priority => 0)`)
	c.claim(t, 1)
	c.end(t, 9, "error", "", `{"message": "greylisted"}`)
	return d
}

var jobRow = regexp.MustCompile(`<tr id="job-(\d+)"`)

// listed are the ids of a list, in its order.
func listed(body string) (ids []int64) {
	for _, found := range jobRow.FindAllStringSubmatch(body, -1) {
		id, _ := strconv.ParseInt(found[1], 10, 64)
		ids = append(ids, id)
	}
	return ids
}

var linkOf = regexp.MustCompile(`<a href="([^"]*)"[^>]*\bid="([\w-]+)"|<a [^>]*\bid="([\w-]+)"[^>]* href="([^"]*)"`)

// linked is where the link with that id leads; empty: there is none.
func linked(body, id string) string {
	for _, found := range linkOf.FindAllStringSubmatch(body, -1) {
		if found[2]+found[3] == id {
			return html.UnescapeString(found[1] + found[4])
		}
	}
	return ""
}

// part is what stands between the beginning of the element with an id and a mark.
func part(t *testing.T, body, id, end string) string {
	t.Helper()
	_, rest, found := strings.Cut(body, `id="`+id+`"`)
	require.True(t, found, "there is no %s in %s", id, words(body))
	text, _, _ := strings.Cut(rest, end)
	return words("<" + text)
}

// forget has the dashboard read all pages anew, as it does after each action, refused ones as well.
func (d *dash) forget(t *testing.T) {
	t.Helper()
	d.post(t, "/do/jobs/retry", url.Values{"back": {"/keys"}})
	d.get(t, "/keys") // the notice
}

func (d *dash) page(t *testing.T, address string) string {
	t.Helper()
	status, body := d.get(t, address)
	require.Equal(t, http.StatusOK, status, words(body))
	return body
}

func TestJobs_TheList_SaysOfEachJobWhatMatters(t *testing.T) {
	t.Parallel()
	d := office(t)
	body := d.page(t, "/jobs")
	require.Equal(t, []int64{9, 8, 7, 6, 5, 4, 3, 2, 1}, listed(body))
	for id, says := range map[int64]string{
		9: "9 mail.send default ready 1/20 due in 5 s – greylisted alike",
		8: "8 mail.send default ready 0/20 blocked – waits: after",
		6: "6 report.make reports ready 0/20 due in 1 h – –",
		5: "5 mail.send default ready 0/20 due now – –",
		4: "4 report.make reports running 1/20 started 2 min ago 2 min 50 % 50 % half way",
		3: "3 mail.send default cancelled 1/20 ended now 2 min not wanted alike",
		2: "2 mail.send default failed 1/20 ended 1 min ago 1 min connection REFUSED by 10.0.0.1 alike",
		1: `1 mail.send default done 1/20 ended 1 min ago 1 min { &#34;sent&#34;: 1 }`,
	} {
		row := part(t, body, fmt.Sprintf("job-%d", id), "</tr>")
		_, row, _ = strings.Cut(row, fmt.Sprintf("%d ", id))
		if id == 9 { // its back-off is a tenth more or less
			row = regexp.MustCompile(`in \S+ s`).ReplaceAllString(row, "in 5 s")
		}
		require.Equal(t, says, fmt.Sprintf("%d ", id)+row)
	}
}

func TestJobs_EachFilter_HasAnAddress(t *testing.T) {
	t.Parallel()
	d := office(t)
	run(t, d.DB, `select pgtick.schedule('hourly', '@hourly', 'mail.send', p_on_overlap => 'allow')`)
	run(t, d.DB, `select pgtick.run_now('hourly')`)
	run(t, d.DB, `select pgtick.create_batch('report.make')`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', p_batch_id => 1)`)
	for query, want := range map[string][]int64{
		"":                                   {12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1},
		"state=ready":                        {12, 11, 10, 9, 8, 7, 6, 5},
		"state=running":                      {4},
		"state=done":                         {1},
		"state=failed":                       {2},
		"state=cancelled":                    {3},
		"task=report.make":                   {11, 6, 4},
		"task=mail.send&state=done":          {1},
		"queue=reports":                      {6, 4},
		"owner=" + jobsOwner:                 {6, 2},
		"schedule=hourly":                    {10},
		"batch=1":                            {12},
		"batch=1&state=running":              nil,
		"since=90s&state=failed":             {2},
		"since=10s&state=failed":             nil,
		"until=2026-12-01+12:01&state=done":  nil,
		"until=2026-12-01T12:01:01Z":         {4, 2, 1},
		"search=refused":                     {2},
		"search=EVE":                         {5},
		"search=half&state=running":          {4},
		"search=nowhere":                     nil,
		"error=REFUSED":                      {2},
		"error=refused":                      nil,
		"error=greylisted":                   {9},
		"error=REFUSED&task=mail.send":       {2},
		"error=REFUSED&state=failed&batch=1": nil,
	} {
		body := d.page(t, "/jobs?"+query)
		require.Equal(t, want, listed(body), query)
		if want == nil {
			require.Contains(t, words(body), "No job fits", query)
		}
	}
	body := d.page(t, "/jobs?state=failed&task=mail.send")
	require.Contains(t, body, `<a href="/jobs?state=failed&amp;task=mail.send" aria-current="true">Failed</a>`)
	require.Contains(t, body, `<input type="hidden" name="state" value="failed">`, "the form keeps what is chosen beside it")
	require.Contains(t, body, `name="task" value="mail.send"`)
}

func TestJobs_AnAddressThatMakesNoSense_IsRefusedWithFieldAndValue(t *testing.T) {
	t.Parallel()
	d := office(t)
	for query, says := range map[string]string{
		"state=faild":                       `state "faild" is none of ready, running, done, failed, cancelled`,
		"stat=failed":                       `there is no filter "stat"`,
		"owner=bob":                         `owner "bob" is no UUID`,
		"batch=x":                           `batch "x" is no id of a batch`,
		"since=yesterday":                   `since "yesterday" is no time: give 90m, 24h or 7d back from now`,
		"since=1h&until=2h":                 `until "2h" is not later than since "1h"`,
		"after=x":                           `after "x" is no place in a list`,
		"trail=1.x":                         `trail "1.x" has no place in a list in it`,
		"task=a&task=b":                     `task is given 2 times`,
		"task=%00":                          `task: the value has a NUL`,
		"task=%ff":                          `task: the value is not UTF-8`,
		"task=" + strings.Repeat("x", 1001): `task: the value has 1001 letters`,
	} {
		status, body := d.get(t, "/jobs?"+query)
		require.Equal(t, http.StatusBadRequest, status, query)
		require.Contains(t, html.UnescapeString(words(body)), says, query)
	}
	for address, want := range map[string]int{"/jobs/4711": 404, "/jobs/x": 400, "/jobs/0": 400, "/jobs/99999999999999999999": 400, "/jobs/all?do=x": 400, "/jobs/new?copy=4711": 404, "/jobs/new?x=1": 400} {
		status, body := d.get(t, address)
		require.Equal(t, want, status, "%s: %s", address, words(body))
	}
}

// manyJobs has so many live jobs and ended ones, every tenth of those failed, and the ends not in the order of the ids. All are of one partition at
// whatever time of day: of one with a few rows the server reads all.
func manyJobs(t *testing.T, db *pgtest.DB, live, ended int) {
	t.Helper()
	run(t, db, `insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, created_at, started_at, finished_at, error, expires_on)
		select i, 'mail.send', 'main', 5, case when i % 10 = 7 then 'failed' else 'done' end, x.at, 1, 0, 20, 0, 0, '5 minutes', jsonb_build_object('n', i), x.at, x.at, x.at + (i % 13) * interval '1 minute',
			case when i % 10 = 7 then jsonb_build_object('message', case when i % 20 = 7 then 'connection refused by ' else 'deadline exceeded after ' end || i) end, (pgtick.now() + interval '7 days')::date
		from generate_series(1, $1::int) as i, lateral (select pgtick.now() - ($1::int - i + 1000) * interval '1 second' as at) as x`, ended)
	run(t, db, `insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, created_at) overriding system value
		select i, 'mail.send', 'main', 5, pgtick.now(), 20, '5 minutes', jsonb_build_object('n', i), pgtick.now() from generate_series($1::int + 1, $1::int + $2::int) as i`, ended, live)
	run(t, db, `select setval('pgtick.live_jobs_id_seq', $1)`, live+ended)
	run(t, db, `analyze pgtick.live_jobs, pgtick.history`)
}

func TestJobs_Pages_GoToTheEndAndBack_WithEachJobOnce(t *testing.T) {
	t.Parallel()
	d := open(t)
	pgtest.SetNow(t, d.DB, jobsNoon)
	manyJobs(t, d.DB, 70, 160)
	for query, order := range map[string]string{
		"":                    ` order by id desc`,
		"task=mail.send":      ` order by finished_at desc nulls first, id desc`,
		"state=done":          ` where state = 'done' order by id desc`,
		"search=%22n%22":      ` order by id desc`,
		"queue=main&since=1h": ` order by id desc`,
	} {
		want := ask[[]int64](t, d.DB, `select array(select id from pgtick.jobs`+order+`)`)
		address, addresses, got := "/jobs?"+query, []string{}, []int64{}
		for address != "" {
			body := d.page(t, address)
			addresses, got = append(addresses, address), append(got, listed(body)...)
			address = linked(body, "next")
		}
		require.Equal(t, want, got, query)
		for i := len(addresses) - 1; i > 0; i-- {
			body := d.page(t, addresses[i])
			back := linked(body, "back")
			require.Equal(t, listed(d.page(t, addresses[i-1])), listed(d.page(t, back)), "the page before %s", addresses[i])
			require.Equal(t, listed(d.page(t, addresses[0])), listed(d.page(t, linked(body, "first"))))
		}
		require.Empty(t, linked(d.page(t, addresses[0]), "back"))
	}
}

// The job where a page ended may have gone elsewhere since.
func TestJobs_TheNextPage_IsTheSame_WhenTheJobWhereThePageEndedHasEndedToo(t *testing.T) {
	t.Parallel()
	d := open(t)
	pgtest.SetNow(t, d.DB, jobsNoon)
	manyJobs(t, d.DB, 120, 10)
	first := d.page(t, "/jobs?task=mail.send")
	last := listed(first)[49]
	want := listed(d.page(t, linked(first, "next")))
	require.Len(t, want, 50)
	run(t, d.DB, `select pgtick.cancel($1)`, last)
	require.Equal(t, want, listed(d.as(operatorToken).page(t, linked(first, "next")+"&since=2h")))
}

func TestJobs_ATextSearch_SaysHowFarItLooked_AndWhereItGoesOn(t *testing.T) {
	t.Parallel()
	d := open(t)
	pgtest.SetNow(t, d.DB, jobsNoon)
	manyJobs(t, d.DB, 0, 10_050)
	body := d.page(t, "/jobs?state=done&search=%22n%22:+11%7D")
	require.Contains(t, part(t, body, "looked", "</p>"), "Texts are looked for in the newest 10,000 jobs that fit the rest of the filter")
	require.Empty(t, listed(body))
	require.Contains(t, part(t, body, "window", "</p>"), "The newest 10,000 that fit the rest of the filter were looked through. There are older ones")
	require.Equal(t, []int64{11}, listed(d.page(t, linked(body, "next"))))
	require.NotContains(t, d.page(t, "/jobs"), `id="looked"`)
}

func TestJobs_ATextThatIsHidden_IsNotFoundBySearching(t *testing.T) {
	t.Parallel()
	d := office(t)
	require.Empty(t, listed(d.page(t, "/jobs?search=swordfish")), "it stands in what nobody is shown")
	require.Equal(t, []int64{1}, listed(d.page(t, "/jobs?search=ann")))
	require.Equal(t, []int64{1}, listed(d.page(t, "/jobs?search=%22to%22:+%22ann%22")))
}

func TestJobs_ByKind_TellsWhatFailsMost_AndLeadsThere(t *testing.T) {
	t.Parallel()
	d := open(t)
	pgtest.SetNow(t, d.DB, jobsNoon)
	manyJobs(t, d.DB, 30, 1000)
	body := d.page(t, "/jobs/kinds?state=failed")
	require.Contains(t, part(t, body, "count", "</p>"), "100 jobs in all.")
	require.Contains(t, part(t, body, "kinds", "</table>"), "50 50 % mail.send failed connection refused by 50 50 % mail.send failed deadline exceeded after")
	require.Len(t, listed(d.page(t, "/jobs?"+url.Values{"state": {"failed"}, "task": {"mail.send"}, "error": {"connection refused by"}}.Encode())), 50)
	require.Contains(t, html.UnescapeString(body), `href="/jobs?`+url.Values{"state": {"failed"}, "task": {"mail.send"}, "error": {"connection refused by"}}.Encode()+`"`)
	require.Contains(t, part(t, d.page(t, "/jobs/kinds"), "count", "</p>"), "1,030 jobs in all.")
	run(t, d.DB, `insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, created_at) select 'x', 'x', 5, pgtick.now(), 1, '1 s', '{}', pgtick.now() from generate_series(1, 10001)`)
	require.Contains(t, html.UnescapeString(part(t, d.page(t, "/jobs/kinds?state=ready"), "count", "</p>")), "10,000+ jobs among the newest 10,000 live ones")
	status, body := d.get(t, "/jobs/kinds?search=x")
	require.Equal(t, http.StatusBadRequest, status, words(body))
}

func lastAudit(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	return ask[string](t, db, `select concat_ws(' | ', by_whom, action, subject, details) from pgtick.audit order by id desc limit 1`)
}

var hiddenField = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)

// formOf are the hidden fields of the form with an id.
func formOf(t *testing.T, body, id string) url.Values {
	t.Helper()
	_, rest, found := strings.Cut(body, `id="`+id+`"`)
	require.True(t, found, words(body))
	rest, _, _ = strings.Cut(rest, "</form>")
	form := url.Values{}
	for _, field := range hiddenField.FindAllStringSubmatch(rest, -1) {
		form.Add(field[1], html.UnescapeString(field[2]))
	}
	return form
}

func TestJobs_RetryOfAllThatFit_SaysHowManyBefore_AndTakesThoseAlone(t *testing.T) {
	t.Parallel()
	d := open(t)
	pgtest.SetNow(t, d.DB, jobsNoon)
	manyJobs(t, d.DB, 0, 1000)
	list := d.page(t, "/jobs?state=failed&error=connection+refused")
	body := d.page(t, linked(list, "retry-all"))
	require.Contains(t, part(t, body, "count", "</p>"), "50 jobs that are failed fit. What ends after 2026-12-01 12:00:00 UTC is left alone")
	form := formOf(t, body, "all")
	pgtest.Advance(t, d.DB, time.Second)
	run(t, d.DB, `update pgtick.history set finished_at = pgtick.now() where id = 987`) // it fails while somebody thinks about it
	run(t, d.DB, `update pgtick.history set state = 'failed', error = '{"message": "connection refused"}', finished_at = pgtick.now() where id = 2`)
	status, body := d.post(t, "/do/jobs/retry-all", form)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, words(body), "49 jobs retried. 1 of those counted stay as they are: others hold their unique keys, or they have changed since.")
	require.Equal(t, 49, ask[int](t, d.DB, `select count(*) from pgtick.jobs where state = 'ready'`))
	require.Equal(t, []string{"2", "987"}, ask[[]string](t, d.DB, `select array(select id::text from pgtick.jobs where state = 'failed' and last_error ->> 'message' like 'connection%' order by id)`))
	require.Equal(t, 50, ask[int](t, d.DB, `select count(*) from pgtick.jobs where state = 'failed' and last_error ->> 'message' like 'deadline%'`))
	require.Contains(t, lastAudit(t, d.DB), "dashboard: operator's token | retry_where | ")
	require.Contains(t, lastAudit(t, d.DB), `{"jobs": 49, "clashes": 0}`)
}

func TestJobs_CancelOfAllThatFit_SaysHowManyBefore_AndTakesThoseAlone(t *testing.T) {
	t.Parallel()
	d := office(t)
	body := d.page(t, linked(d.page(t, "/jobs?task=mail.send&state=ready"), "cancel-all"))
	require.Contains(t, part(t, body, "count", "</p>"), "4 jobs that are ready fit.")
	form := formOf(t, body, "all")
	pgtest.Advance(t, d.DB, time.Second)
	run(t, d.DB, `select pgtick.enqueue('mail.send')`)
	_, body = d.post(t, "/do/jobs/cancel-all", form)
	require.Contains(t, words(body), "4 jobs cancelled, or asked to stop.")
	require.Equal(t, []int64{4, 6, 10}, ask[[]int64](t, d.DB, `select array(select id from pgtick.live_jobs order by id)`), "the other task's, and the one that came later")
	require.Contains(t, lastAudit(t, d.DB), "dashboard: operator's token | cancel_where | ")
	require.Contains(t, words(d.page(t, "/jobs/all?do=cancel")), "There is no filter: these are all jobs that are ready and running.")
	require.Contains(t, words(d.page(t, "/jobs/all?do=cancel&task=none")), "There is nothing to do.")
}

func TestJobs_WhatCannotBeDoneToAllThatFit_IsNotOffered_AndRefused(t *testing.T) {
	t.Parallel()
	d := office(t)
	for query, says := range map[string]string{
		"do=retry&state=done":     "state done: only failed and cancelled jobs can be retried",
		"do=cancel&state=failed":  "state failed: only ready and running jobs can be cancelled",
		"do=retry&search=refused": "search: all jobs with a text in them can't be retried at once",
		"do=cancel&error=x":       "error: it is of jobs that have ended",
	} {
		status, body := d.get(t, "/jobs/all?"+query)
		require.Equal(t, http.StatusBadRequest, status, query)
		require.Contains(t, html.UnescapeString(words(body)), says)
		values, _ := url.ParseQuery(query)
		list := d.page(t, "/jobs?"+strings.Join(strings.Split(query, "&")[1:], "&"))
		require.Empty(t, linked(list, values.Get("do")+"-all"), query)
		_, body = d.post(t, "/do/jobs/"+values.Get("do")+"-all", values)
		require.Contains(t, html.UnescapeString(words(body)), says)
	}
	_, body := d.post(t, "/do/jobs/cancel-all", url.Values{"task": {"mail.send"}})
	require.Contains(t, words(body), "until is missing")
	require.Equal(t, 6, ask[int](t, d.DB, `select count(*) from pgtick.live_jobs`), "nothing was done")
}

func TestJobs_TheTickedOnes_AreRetriedOrCancelled_WhateverBecomesOfOthers(t *testing.T) {
	t.Parallel()
	d := office(t)
	_, body := d.post(t, "/do/jobs/retry", url.Values{"id": {"1", "2", "3"}, "back": {"/jobs?state=failed"}})
	require.Contains(t, words(body), "2 jobs retried. 1 job not: job 1 is done: only a failed, cancelled or waiting job can be retried")
	require.Equal(t, `dashboard: operator's token | jobs/retry | 1, 2, 3 | {"states": {"ready": 2}, "refused": 1}`, lastAudit(t, d.DB))
	require.Empty(t, listed(body), "it leads back to the list, which is read anew")
	_, body = d.post(t, "/do/jobs/cancel", url.Values{"id": {"2", "4"}, "back": {"/jobs"}})
	require.Contains(t, words(body), "2 jobs cancelled, or asked to stop.")
	require.Equal(t, "cancelled", ask[string](t, d.DB, `select state from pgtick.jobs where id = 2`))
	require.Equal(t, "dashboard: operator's token", ask[string](t, d.DB, `select cancel_requested_by from pgtick.job_notes where job_id = 4`))
	for _, form := range []url.Values{{}, {"id": {"x"}}, {"id": {"1"}}} {
		before := ask[int](t, d.DB, `select count(*) from pgtick.audit`)
		_, body = d.post(t, "/do/jobs/retry", form)
		require.Contains(t, body, `class="notice bad"`, "%v", form)
		require.Equal(t, before, ask[int](t, d.DB, `select count(*) from pgtick.audit`), "what was refused is not recorded as done")
	}
}

func TestJobs_OneJob_ShowsAllOfIt_InEachState(t *testing.T) {
	t.Parallel()
	d := office(t)
	for id, says := range map[int64][]string{
		1: {"Job 1: mail.send", "done", "to : &#34;ann&#34; password : hidden", "sent : 1", "Attempt 1 done", "took 1 min, on crew", "Took 1 min"},
		2: {"failed", "Error connection REFUSED by 10.0.0.1", "at mail.go:12", "Others like this", "Retry", "Attempts 1 of 20", jobsOwner},
		3: {"cancelled", "not wanted", "Retry"},
		4: {"running", "50 %", "half way", "What it does it is running", "attempt 1 on runner crew", "Attempt 1 running", "Cancel"},
		5: {"Why it is not running", "it is about to be claimed", "These wait for it job 7 mail.send ready job 8 mail.send ready", "Run now"},
		6: {"it is not due", "Due 2026-12-01 13:02:00 UTC"},
		7: {"it waits for other jobs", "1 of them live: 5 (ready)", "It waits for job 5 mail.send ready", "Due once unblocked 2026-12-01 12:02:00 UTC"},
		9: {"its retry back-off is not over", "attempt 1 of 20 failed: greylisted", "Latest error greylisted", "Attempt 1 error"},
	} {
		body := words(d.page(t, path("/jobs/%d", id)))
		for _, text := range says {
			require.Contains(t, body, text, "job %d", id)
		}
	}
	require.NotContains(t, d.page(t, "/jobs/1"), "swordfish")
	require.Contains(t, d.page(t, "/jobs/7"), `<a href="/jobs/5">pgtick.why(5)</a>`)
}

func TestJobs_OneJob_LeadsToItsScheduleBatchAndSequence_AndRepairsWhatHoldsItUp(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.schedule('hourly', '@hourly', 'mail.send')`)
	run(t, d.DB, `select pgtick.run_now('hourly')`)                                                                             // 1
	run(t, d.DB, `select pgtick.create_batch('report.make')`)                                                                   // 2, batch 1
	run(t, d.DB, `select pgtick.enqueue_many('mail.send', array['{}', '{}']::jsonb[], p_batch_id => 1)`)                        // 3, 4
	run(t, d.DB, `select pgtick.enqueue('report.make', '{}', 'reports', p_sequence_key => 'it''s') from generate_series(1, 2)`) // 5, 6
	body := d.page(t, "/jobs/1")
	require.Contains(t, body, `<a href="/schedule?name=hourly">hourly</a>`)
	require.Contains(t, body, `<a href="/jobs?schedule=hourly">`)
	require.Contains(t, words(d.page(t, "/jobs/2")), "It runs when batch 1 has ended 2 live · 0 done · 0 failed · 0 cancelled · it goes on")
	require.Contains(t, d.page(t, "/jobs/3"), `<a href="/jobs/2">the job that runs then</a>`)
	require.Equal(t, []int64{4, 3}, listed(d.page(t, "/jobs?batch=1")))
	require.Contains(t, words(d.page(t, "/jobs/6")), "Its sequence 1 live job comes before it.")
	run(t, d.DB, `select pgtick.cancel(5)`)
	d.forget(t)
	body = d.page(t, "/jobs/6")
	require.Contains(t, words(body), "its sequence is stopped")
	require.Contains(t, words(body), `job 5 has stopped the sequence`)
	require.Contains(t, body, `<button>Retry job 5</button>`)
	_, body = d.post(t, "/do/jobs/resume-sequence", url.Values{"key": {"it's"}, "back": {"/jobs/6"}})
	require.Contains(t, html.UnescapeString(words(body)), "Sequence it's goes on.")
	require.NotContains(t, words(body), "its sequence is stopped")
	run(t, d.DB, `select pgtick.pause_queue('reports')`)
	d.forget(t)
	require.Contains(t, d.page(t, "/jobs/6"), `<input type="hidden" name="queue" value="reports"><button>Resume queue reports</button>`)
}

// A remedy is text of the database's in which names stand that anybody may have chosen.
func TestJobs_AQueueNamedLikeARemedy_GetsNoButtonOfItsOwn(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.enqueue('mail.send', p_queue => 'x''); select pgtick.cancel(1); --')`)
	run(t, d.DB, `select pgtick.pause_queue('x''); select pgtick.cancel(1); --')`)
	body := d.page(t, "/jobs/1")
	require.Contains(t, words(body), "its queue is paused")
	require.Contains(t, body, `name="queue" value="`+html.EscapeString(`x'); select pgtick.cancel(1); --`)+`"`)
	require.Equal(t, 1, strings.Count(body, `action="/do/jobs/cancel"`), "the page's own alone")
}

func TestJobs_ATreeOfJobsThatWait_ShowsCirclesAndCrowdsInPart(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.enqueue('mail.send') from generate_series(1, 30)`)
	run(t, d.DB, `select pgtick.enqueue('report.make', p_after => array(select generate_series(1, 30)::bigint))`) // 31
	run(t, d.DB, `select pgtick.enqueue('report.make', p_after => '{31,1}')`)                                     // 32
	run(t, d.DB, `update pgtick.live_jobs set after_jobs = '{32}' where id = 1`)                                  // a circle, which no function makes
	run(t, d.DB, `update pgtick.live_jobs set after_jobs = '{4711}' where id = 2`)
	body := words(d.page(t, "/jobs/32"))
	require.Contains(t, body, "It waits for job 31 report.make ready")
	require.Contains(t, body, "and 10 more")
	require.Contains(t, body, "job 4711 gone")
	require.Contains(t, body, "job 1 mail.send ready")
	require.Contains(t, words(d.page(t, "/jobs/1")), "These wait for it job 31")
}

func TestJobs_ANewJob_IsMadeByAForm_ThatKeepsWhatWasRefused(t *testing.T) {
	t.Parallel()
	d := office(t)
	for field, c := range map[string]struct{ value, says string }{
		"args":         {`{"to": }`, "not JSON at line 1, column 8"},
		"run_at":       {"soon", `"soon" is no time: give +10m`},
		"priority":     {"high", `"high" is no whole number`},
		"max_attempts": {"0", "it goes from 1 to 1000"},
		"timeout":      {"long", `"long" is no length of time`},
		"owner_id":     {"bob", `"bob" is no UUID`},
		"after":        {"4711", "4711"},
		"task":         {"", "a job needs one"},
	} {
		form := url.Values{"task": {"mail.send"}, "args": {`{"to": "kim"}`}, "queue": {"kept"}, field: {c.value}}
		status, body := d.post(t, "/do/jobs/new", form)
		require.Equal(t, http.StatusUnprocessableEntity, status, "%s: %s", field, words(body))
		require.Contains(t, html.UnescapeString(words(body)), c.says, field)
		require.Contains(t, body, `name="queue" value="kept"`, "what was given stays")
	}
	_, body := d.post(t, "/do/jobs/new", url.Values{"task": {"mail.send"}, "args": {`{"to": "kim"}`}, "run_at": {"+10m"}, "timeout": {"90s"}, "priority": {"2"}, "after": {"5, 6"}})
	found := regexp.MustCompile(`Job (\d+) is enqueued\.`).FindStringSubmatch(body) // each try that was refused may have taken an id
	require.NotNil(t, found, words(body))
	id := found[1]
	require.Contains(t, words(body), "Job "+id+": mail.send")
	require.Equal(t, `{"to": "kim"} 2 2026-12-01 12:12:00+00 00:01:30 {5,6}`, ask[string](t, d.DB, `select concat_ws(' ', args, priority, wanted_at at time zone 'UTC' || '+00', timeout, after) from pgtick.jobs where id = $1::text::bigint`, id))
	require.Equal(t, `dashboard: operator's token | jobs/new | `+id+` | {"task": "mail.send", "copy_of": ""}`, lastAudit(t, d.DB))
}

func TestJobs_ACopy_HasWhatIsHiddenToo(t *testing.T) {
	t.Parallel()
	d := office(t)
	body := d.page(t, "/jobs/new?copy=1")
	require.NotContains(t, body, "swordfish")
	require.Contains(t, words(body), "1 value hidden")
	require.Contains(t, words(body), "left empty they are those of that job, with what is hidden")
	form := formOf(t, body, "new")
	form.Set("task", "mail.send")
	form.Set("queue", "default")
	form.Set("args", "")
	_, body = d.post(t, "/do/jobs/new", form)
	require.Contains(t, words(body), "Job 10 is enqueued.")
	require.NotContains(t, body, "swordfish")
	require.JSONEq(t, `{"to": "ann", "password": "swordfish"}`, ask[string](t, d.DB, `select args::text from pgtick.jobs where id = 10`))
	form.Set("priority", "x")
	status, body := d.post(t, "/do/jobs/new", form)
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.NotContains(t, body, "swordfish", "a refused form does not tell either")
	body = d.page(t, "/jobs/new?copy=5")
	require.Contains(t, body, html.EscapeString("{\n  \"to\": \"eve\"\n}"), "where nothing is hidden the args are there to be changed")
}

func TestJobs_AReader_HasNoButtons_SeesNoArguments_AndIsRefused(t *testing.T) {
	t.Parallel()
	d := office(t)
	r := d.reader()
	for _, address := range []string{"/jobs", "/jobs?state=failed", "/jobs/1", "/jobs/2", "/jobs/4", "/jobs/5", "/jobs/9", "/jobs/kinds"} {
		body := r.page(t, address)
		require.NotContains(t, body, "/do/", address)
		require.NotContains(t, body, "type=\"checkbox\"", address)
		for _, secret := range []string{"swordfish", "&#34;ann&#34;", "REFUSED", "half way", "greylisted", "mail.go:12", "sent", "not wanted"} {
			require.NotContains(t, body, secret, address)
		}
	}
	require.NotContains(t, r.page(t, "/jobs"), `name="search"`)
	for _, query := range []string{"search=ann", "error=REFUSED"} {
		status, body := r.get(t, "/jobs?"+query)
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, words(body), "you may not see arguments, results and errors, and so not search through them")
	}
	before := ask[string](t, d.DB, `select string_agg(j::text, ' ' order by j.id) from pgtick.jobs as j`)
	for _, action := range []string{"retry", "cancel", "retry-all", "cancel-all", "new", "resume-sequence"} {
		status, _ := r.post(t, "/do/jobs/"+action, url.Values{"id": {"2", "5"}, "task": {"mail.send"}, "until": {"2027-01-01"}, "key": {"x"}})
		require.Equal(t, http.StatusForbidden, status, action)
	}
	for _, address := range []string{"/jobs/new", "/jobs/all?do=cancel"} {
		status, _ := r.get(t, address)
		require.Equal(t, http.StatusForbidden, status, address)
	}
	require.Equal(t, before, ask[string](t, d.DB, `select string_agg(j::text, ' ' order by j.id) from pgtick.jobs as j`))
}

// hostileJobs have names, arguments, results, notes and errors that try to be more than text.
func hostileJobs(t *testing.T, d *dash) {
	t.Helper()
	const evil = `"'><script>window.pwned=1</script><img src=x onerror="window.pwned=1"><a href="javascript:window.pwned=1">x</a>{{.}}${1}`
	bidi := "\u202egnp.exe\u2066 \u0007\u001b[31m\u200bend"
	deep := strings.Repeat(`{"a":`, 300) + `1` + strings.Repeat(`}`, 300)
	args := func(value any) string {
		text, err := json.Marshal(value)
		require.NoError(t, err)
		return string(text)
	}
	name := evil[:120] + "\u202egnp.exe" // a control character is refused
	add := func(task, more string) int64 {
		return ask[int64](t, d.DB, `select pgtick.enqueue($1, $2::jsonb, p_queue => $1, p_unique_key => $1)`, task, more)
	}
	for i, more := range []string{args(map[string]string{evil: evil, "b" + bidi: bidi}), args(map[string]string{"big": strings.Repeat("<b>", 20_000)}), deep} {
		id := add(fmt.Sprintf("%d%s", i, name), more)
		run(t, d.DB, `with r as (select pgtick.register($2, array[$1], array[$1], '1 hour') as id), c as materialized (select c.id, c.fence, r.id as runner from r, pgtick.claim(r.id, array[$1], array[$1], 1) as c)
			select pgtick.progress(c.id, c.fence, 0.3::real, $2) from c`, fmt.Sprintf("%d%s", i, name), evil[:100])
		if i == 0 {
			run(t, d.DB, `select f.* from pgtick.live_jobs as j, pgtick.finish(j.runner_id, array[j.id], array[j.fence], '{error}', p_errors => array[jsonb_build_object('message', $2::text, 'stack', $2::text, $2::text, $2::text)]) as f where j.id = $1`,
				id, evil+"\u202e\u0007")
		}
	}
}

func TestJobs_InTheBrowser_HostileJobsStayText(t *testing.T) {
	t.Parallel()
	d := open(t)
	hostileJobs(t, d)
	b := d.browse(t)
	for _, address := range []string{"/jobs", "/jobs/1", "/jobs/2", "/jobs/3", "/jobs/kinds", "/jobs/all?do=cancel", "/jobs/new?copy=1", "/jobs/new?copy=3"} {
		b.visit(address)
		var found []string
		b.eval(`[window.pwned ? 'a script ran' : '', ...[...document.querySelectorAll('main img, main script, main iframe, main [onerror], main a[href^="javascript" i]')].map(e => e.outerHTML)].filter(x => x)`, &found)
		require.Empty(t, found, address)
		var text string
		b.eval(`document.querySelector('main').textContent`, &text)
		require.NotRegexp(t, "[\u202a-\u202e\u2066-\u2069\u0000-\u0008\u000b-\u001f]", text, "%s: what can't be seen is shown by its number", address)
	}
	b.visit("/jobs")
	require.Contains(t, b.text("#job-1"), "<script>window.pwned=1</script>")
	b.press("#job-1 td[data-label=task] a")
	b.until(`document.querySelectorAll('#jobs tbody tr').length === 1`) // the task's own address finds it, and it alone
	b.press("#job-1 th a")
	require.Contains(t, b.text("#error"), "⟨U+202E⟩")
	b.phone()
}

type reportArgs struct {
	Month string `json:"month"`
	Parts []int  `json:"parts"`
}

// progressing is a task that says how far it is whenever the test says so.
type progressing struct{ steps chan float64 }

func (p progressing) registry() *tasks.Registry {
	registry := tasks.NewRegistry()
	tasks.Register(registry, "report.make", func(ctx context.Context, job *tasks.Job[reportArgs]) error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case share := <-p.steps:
				if share >= 1 {
					return nil
				}
				if err := job.Progress(ctx, share, fmt.Sprintf("step %.0f", share*10)); err != nil {
					return err
				}
			}
		}
	})
	return registry
}

func (p progressing) step(t *testing.T, d *dash, share float64) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	select {
	case p.steps <- share:
	case <-limit.C:
		require.Fail(t, "no runner has the job", d.log.String())
	}
}

func TestJobs_InTheBrowser_ARunningJobsProgressComesWithoutReloading(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := progressing{make(chan float64)}
	run(t, d.DB, `select pgtick.enqueue('report.make', '{"month": "2031-05", "parts": [1, 2]}')`)
	d.work(t, p.registry())
	p.step(t, d, 0.2)
	b := d.browse(t)
	b.visit("/jobs/1")
	b.until(`document.querySelector('#note') && document.querySelector('#note').textContent === 'step 2'`)
	b.eval(`window.same = true; document.querySelector('#args details.json').open = false`, nil)
	p.step(t, d, 0.7)
	b.until(`document.querySelector('#note').textContent === 'step 7'`)
	b.until(`document.querySelector('#share').textContent === '70 %' && document.querySelector('#progress progress').value === 0.7`)
	p.step(t, d, 1)
	b.until(`document.querySelector('#state').textContent.trim() === 'done'`)
	b.until(`window.same && document.querySelector('#args details.json').open === false`)
	b.until(`document.title.startsWith('Job 1 done')`)
}

func TestJobs_InTheBrowser_SomebodyFindsWhatFails_AndRepairsIt(t *testing.T) {
	t.Parallel()
	d := office(t)
	b := d.browse(t)
	b.visit("/jobs")
	b.axe()
	b.press(`nav[aria-label=State] li:nth-child(5) a`)
	require.Equal(t, "/jobs?state=failed", b.address())
	b.press("#job-2 th a")
	b.dark()
	b.axe()
	b.light()
	require.Contains(t, b.text("#error"), "connection REFUSED")
	b.press("#lead form button.primary")
	require.Contains(t, b.text("#notices"), "Job 2 is ready.")
	require.Contains(t, b.confirm("#lead form button.danger"), "Cancel job 2?")
	require.Contains(t, b.text("#notices"), "Job 2 is cancelled.")

	b.visit("/jobs?task=mail.send")
	b.click("#pick-2")
	b.click("#pick-3")
	b.press("#retry-picked")
	require.Contains(t, b.text("#notices"), "2 jobs retried.")
	b.click("#pick-2")
	b.click("#pick-5")
	require.Contains(t, b.confirm("#cancel-picked"), "Cancel the ticked jobs?")
	require.Contains(t, b.text("#notices"), "2 jobs cancelled, or asked to stop.")

	b.fill("#f-search", "zoe")
	b.keys("\r")
	b.until(`location.search.includes('search=zoe') && document.querySelectorAll('#jobs tbody tr').length === 1 && document.body.dataset.ready`)
	b.axe()
	b.phone()
	b.desk()
	for _, address := range []string{"/jobs/kinds", "/jobs/4", "/jobs/7"} {
		b.visit(address)
		b.axe()
	}
	b.visit("/jobs?state=ready")
	b.press("#cancel-all")
	b.axe()
	b.press("#do")
	require.Contains(t, b.text("#notices"), "cancelled, or asked to stop.")
	require.Contains(t, b.text("main"), "No job fits")
	b.visit("/jobs/new?copy=5")
	b.axe()
	b.phone()
	b.press("#enqueue")
	require.Contains(t, b.text("#notices"), "Job 10 is enqueued.")
	require.Contains(t, b.text("#args"), "eve")
	b.phone()
}

func TestJobs_InTheBrowser_TickedBoxesAndTypedTextStay_WhileTheListChanges(t *testing.T) {
	t.Parallel()
	d := office(t)
	b := d.browse(t)
	b.visit("/jobs")
	b.click("#pick-5")
	b.fill("#f-queue", "rep")
	run(t, d.DB, `select pgtick.enqueue('mail.send')`)
	b.until(`document.querySelector('#job-10')`)
	b.until(`document.querySelector('#pick-5').checked && document.querySelector('#f-queue').value === 'rep' && document.activeElement.id === 'f-queue'`)
}

var (
	scanOf    = regexp.MustCompile(`(Seq Scan|Index Scan|Index Only Scan|Bitmap Heap Scan)[^\n]* on (live_jobs|history\w*)\b[^\n]*\(actual rows=(\d+) loops=(\d+)\)`)
	removedOf = regexp.MustCompile(`Rows Removed by Filter: (\d+)`)
)

// reads is how many rows of jobs a page had the server read, and which tables of those it went through from end to end.
func (d *dash) reads(t *testing.T, address string) (rows int, through []string) {
	t.Helper()
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		return n
	}
	for _, p := range d.plans(t, address) {
		scan, loops := []string(nil), 0
		for line := range strings.Lines(p.Text) {
			here := 0
			if strings.Contains(line, "(actual rows=") {
				if scan = scanOf.FindStringSubmatch(line); scan != nil {
					loops = number(scan[4])
					here = number(scan[3]) * loops
				}
			} else if removed := removedOf.FindStringSubmatch(line); removed != nil && scan != nil {
				here = number(removed[1]) * loops
			}
			rows += here
			if scan != nil && scan[1] == "Seq Scan" && here > 200 {
				through = append(through, scan[2])
			}
		}
	}
	return rows, through
}

// With 40,000 jobs: a page reads what it shows, and where a text is looked for, what it says.
func TestJobs_Pages_ReadWhatTheyShow(t *testing.T) {
	t.Parallel()
	d := open(t)
	manyJobs(t, d.DB, 20_000, 20_000)
	for address, most := range map[string]int{
		"/jobs":                           600,
		"/jobs?state=ready":               600,
		"/jobs?state=done":                600,
		"/jobs?state=failed":              1500,
		"/jobs?task=mail.send":            1500,
		"/jobs?queue=main":                600,
		"/jobs?since=1h&state=failed":     1500,
		"/jobs?after=10000":               600,
		"/jobs?search=nowhere":            2*10_000 + 600,
		"/jobs?state=running":             10_000 + 600,
		"/jobs/kinds?state=failed":        10_000 + 600,
		"/jobs/7":                         100,
		"/jobs/30000":                     10_500, // how many come before it is counted so far
		"/jobs/new":                       100,
		"/jobs/all?do=retry&state=failed": 10_000 + 600,
	} {
		rows, through := d.reads(t, address)
		t.Logf("%-34s %6d rows", address, rows)
		require.LessOrEqual(t, rows, most, address)
		require.Empty(t, through, address)
	}
}
