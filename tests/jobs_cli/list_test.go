package jobscli

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/tests/pgtest"
)

const owner = "6f9619ff-8b86-4d11-b42d-00c04fc964ff"

// office has a job in each state, of two tasks in two queues. Ids: 1 done, 2 failed, 3 cancelled, 4 running, 5 ready, 6 ready later, 7 blocked.
func office(t *testing.T) *pgtest.DB {
	t.Helper()
	db := quiet(t)
	enqueue(t, db, "mail.send", `, '{"to": "ann"}'`)
	enqueue(t, db, "mail.send", `, '{"to": "bob"}', p_owner_id => '`+owner+`'`)
	enqueue(t, db, "mail.send", ``)
	enqueue(t, db, "report.make", `, '{}', 'reports'`)
	c := newCrew(t, db, []string{"default", "reports"}, []string{"mail.send", "report.make"})
	c.claim(t, 4)
	pgtest.Advance(t, db, time.Minute)
	c.end(t, "done", `{"sent": 1}`, "", 1)
	c.end(t, "failed", "", `{"message": "connection REFUSED"}`, 2)
	pgtest.Advance(t, db, time.Minute)
	c.end(t, "cancelled", "", `{"message": "not wanted"}`, 3)
	do(t, db, `select pgtick.progress(4, (select fence from pgtick.live_jobs where id = 4), 0.5, 'half way')`)
	enqueue(t, db, "mail.send", `, '{"to": "eve"}'`)
	enqueue(t, db, "report.make", `, '{}', 'reports', p_run_at => pgtick.now() + interval '1 hour', p_owner_id => '`+owner+`'`)
	enqueue(t, db, "mail.send", `, '{}', p_after => '{5}'`)
	return db
}

func TestList_HasAllJobs_TheNewestFirst(t *testing.T) {
	t.Parallel()
	db := office(t)
	lines := strings.Split(strings.TrimSpace(well(t, db, "jobs", "list").out), "\n")
	require.Len(t, lines, 8)
	for i, like := range []string{
		`^ID  TASK         QUEUE    STATE      ATTEMPT  WHEN +TOOK +WHAT$`,
		`^7   mail.send    default  ready      0/20     blocked +- +waits: after$`,
		`^6   report.make  reports  ready      0/20     due in 1h +- +-$`,
		`^5   mail.send    default  ready      0/20     due now +- +-$`,
		`^4   report.make  reports  running    1/20     started 2m ago +2m +50% half way$`,
		`^3   mail.send    default  cancelled  1/20     ended now +2m +not wanted$`,
		`^2   mail.send    default  failed     1/20     ended 1m ago +1m +connection REFUSED$`,
		`^1   mail.send    default  done       1/20     ended 1m ago +1m +sent 1$`,
	} {
		require.Regexp(t, like, lines[i])
	}
	require.NotContains(t, strings.Join(lines, ""), "\x1b", "no colours in a pipe")
}

func TestList_AsJSON_HasTheColumnsOfTheView_AndTheSameRows(t *testing.T) {
	t.Parallel()
	db := office(t)
	out := well(t, db, "jobs", "list", "--json").out
	for line := range strings.Lines(out) {
		require.Equal(t, columns(t, db, "pgtick.jobs"), keys(t, line))
	}
	require.Equal(t, all[string](t, db, `select row_to_json(j)::jsonb::text from pgtick.jobs as j order by id desc`),
		all[string](t, db, `select l::jsonb::text from unnest($1::text[]) as l`, strings.Split(strings.TrimSpace(out), "\n")))
}

func TestList_ByEachFilter(t *testing.T) {
	t.Parallel()
	db := office(t)
	do(t, db, `select pgtick.schedule('hourly', '@hourly', 'mail.send', p_on_overlap => 'allow')`)
	do(t, db, `select pgtick.run_now('hourly')`)
	pgtest.Advance(t, db, time.Hour)
	do(t, db, `select pgtick.tick()`)
	require.Equal(t, int64(9), one[int64](t, db, `select max(id) from pgtick.jobs`))
	for _, c := range []struct {
		flags string
		want  []int64
	}{
		{"", []int64{9, 8, 7, 6, 5, 4, 3, 2, 1}},
		{"--state ready", []int64{9, 8, 7, 6, 5}},
		{"--state running", []int64{4}},
		{"--state running --task mail.send", nil},
		{"--state running --queue reports", []int64{4}},
		{"--state done", []int64{1}},
		{"--state failed", []int64{2}},
		{"--state cancelled", []int64{3}},
		{"--state failed --task report.make", nil},
		{"--task report.make", []int64{6, 4}},
		{"--task mail.send", []int64{9, 8, 7, 5, 3, 2, 1}},
		{"--task mail.send --state done", []int64{1}},
		{"--task mail.send --state ready --queue default", []int64{9, 8, 7, 5}},
		{"--queue reports", []int64{6, 4}},
		{"--queue reports --state ready", []int64{6}},
		{"--owner " + owner, []int64{6, 2}},
		{"--owner " + owner + " --state ready", []int64{6}},
		{"--owner " + owner + " --state running", nil},
		{"--owner " + owner + " --task mail.send", []int64{2}},
		{"--schedule hourly", []int64{9, 8}},
		{"--schedule hourly --task report.make", nil},
		{"--schedule hourly --state ready --since 30m", []int64{9}},
		{"--search refused", []int64{2}},
		{"--search EVE", []int64{5}},
		{"--search half --state running", []int64{4}},
		{"--search sent --task mail.send", []int64{1}},
		{"--search nowhere", nil},
		{"--since 59m30s", []int64{9}},
		{"--until 60m30s", []int64{4, 2, 1}},
		{"--since 61m --until 60m", []int64{2, 1}},
		{"--state failed --since 61m30s", []int64{2}},
		{"--state failed --since 59m", nil},
		{"--task mail.send --state done --until 2h", nil},
		{"--task mail.send --state done --until 2026-12-01T13:00:00Z", []int64{1}},
	} {
		r := well(t, db, append([]string{"jobs", "list", "--json"}, strings.Fields(c.flags)...)...)
		require.Equal(t, c.want, ids(t, r.out), c.flags)
		if c.want == nil {
			require.Contains(t, r.talk, "no job fits\n", c.flags)
		}
	}
}

// crowd has so many live and ended jobs in thousands, their ends not in the order of their ids; of every thousandth one of each the task is rare.
func crowd(t *testing.T, thousands int) *pgtest.DB {
	t.Helper()
	db := quiet(t)
	do(t, db, `insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, owner_id, created_at,
			started_at, finished_at, result, error, expires_on)
		select i, case when i % 1000 = 7 then 'rare' else 'frequent' end, case when i % 1000 = 7 then 'side' else 'main' end, 5, case when i % 100 = 7 then 'failed' else 'done' end,
			x.at, 1, 0, 20, 0, 0, '5 minutes', jsonb_build_object('n', i), case when i % 1000 = 7 then $2::uuid end, x.at, x.at, x.at + (i % 13) * interval '1 minute', null,
			case when i % 100 = 7 then '{"message": "out of order"}'::jsonb end, (x.at + interval '7 days')::date
		from generate_series(1, $1::int * 1000) as i, lateral (select $3::timestamptz - (2 * $1::int * 1000 - i) * interval '1 second' as at) as x`, thousands, owner, noon)
	do(t, db, `insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, created_at)
		overriding system value
		select i, case when i % 1000 = 7 then 'rare' else 'frequent' end, case when i % 1000 = 7 then 'side' else 'main' end, 5, x.at, 20, '5 minutes', jsonb_build_object('n', i),
			case when i % 1000 = 7 then $2::uuid end, x.at
		from generate_series($1::int * 1000 + 1, $1::int * 2000) as i, lateral (select $3::timestamptz - (2 * $1::int * 1000 - i) * interval '1 second' as at) as x`, thousands, owner, noon)
	do(t, db, `select setval('pgtick.live_jobs_id_seq', $1)`, thousands*2000)
	do(t, db, `analyze pgtick.live_jobs, pgtick.history`)
	return db
}

// Whatever the filter, pages hold every job that fits once, in the order that the page of the docs promises.
func TestList_PageByPage_HasEachJobOnce(t *testing.T) {
	t.Parallel()
	db := crowd(t, 3)
	const byEnd = ` order by finished_at desc nulls first, id desc`
	ago := func(seconds int) *time.Time {
		at := noon.Add(-time.Duration(seconds) * time.Second)
		return &at
	}
	for _, c := range []struct {
		filter jobs.Filter
		sql    string
	}{
		{jobs.Filter{}, ` order by id desc`},
		{jobs.Filter{State: "done"}, ` where state = 'done' order by id desc`},
		{jobs.Filter{Queue: "main"}, ` where queue = 'main' order by id desc`},
		{jobs.Filter{Task: "frequent"}, ` where task = 'frequent'` + byEnd},
		{jobs.Filter{State: "failed"}, ` where state = 'failed'` + byEnd},
		{jobs.Filter{Task: "rare", State: "failed"}, ` where task = 'rare' and state = 'failed'` + byEnd},
		{jobs.Filter{OwnerID: owner}, ` where owner_id is not null` + byEnd},
		{jobs.Filter{Search: "77"}, ` where args::text like '%77%' order by id desc`},
		{jobs.Filter{Until: ago(4000)}, ` where coalesce(finished_at, created_at) < pgtick.now() - interval '4000 s' order by id desc`},
		{jobs.Filter{Task: "frequent", Since: ago(4000), Until: ago(2500)}, ` where task = 'frequent' and coalesce(finished_at, created_at) >= pgtick.now() - interval '4000 s'
			and coalesce(finished_at, created_at) < pgtick.now() - interval '2500 s'` + byEnd},
	} {
		var got []int64
		for page, before := (jobs.Page{Next: -1}), int64(0); page.Next != 0; before = page.Next {
			var err error
			page, err = jobs.ListJobs(t.Context(), db.Pool, c.filter, before, 300)
			require.NoError(t, err)
			require.NotEmpty(t, page.Jobs, "%+v behind %d", c.filter, before)
			for _, j := range page.Jobs {
				got = append(got, j.ID)
			}
		}
		require.Equal(t, all[int64](t, db, `select id from pgtick.jobs`+c.sql), got, "%+v", c.filter)
	}
	r := well(t, db, "jobs", "list", "--json", "--task", "rare", "--limit", "4")
	require.Equal(t, "there are more: --before 2007\n", r.talk)
	require.Equal(t, []int64{5007, 4007, 3007, 2007}, ids(t, r.out), "the live ones first, then those that have ended")
	r = well(t, db, "jobs", "list", "--json", "--task", "rare", "--limit", "4", "--before", "2007")
	require.Equal(t, []int64{1007, 7}, ids(t, r.out))
	require.Empty(t, r.talk)
}

// counted runs one look of ListJobs, and tells how many rows the server read for it at most in any one step, and whether it went through a
// large table from end to end.
func counted(t *testing.T, db *pgtest.DB, f jobs.Filter, before int64) (page jobs.Page, read int64, scans []string) {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	plans := &explaining{DB: tx, t: t}
	page, err = jobs.ListJobs(t.Context(), plans, f, before, 50)
	require.NoError(t, err)
	require.NotEmpty(t, plans.plans)
	for _, p := range plans.plans {
		p.walk(func(node plan) {
			rows := int64((node.ActualRows + node.Removed) * node.Loops)
			if node.Relation != "" {
				read += rows
			}
			if node.Type == "Seq Scan" && rows > 1000 {
				scans = append(scans, node.Relation)
			}
		})
	}
	return page, read, scans
}

// With 60,000 jobs, half of them live, no look reads more than it must, and none goes through a table.
func TestList_ReadsByIndexes_AndNoMoreThanAWindow(t *testing.T) {
	t.Parallel()
	db := crowd(t, 30)
	const looked = 4*jobs.Window + 1000 // a window of each storage, and the edge of each
	since, until := noon.Add(-40_000*time.Second), noon.Add(-35_000*time.Second)
	for name, c := range map[string]struct {
		filter jobs.Filter
		most   int64
	}{
		"everything":          {jobs.Filter{}, 500},
		"ready":               {jobs.Filter{State: "ready"}, 500},
		"done":                {jobs.Filter{State: "done"}, 500},
		"failed":              {jobs.Filter{State: "failed"}, 1500},
		"a frequent task":     {jobs.Filter{Task: "frequent"}, 1500},
		"its ended ones":      {jobs.Filter{Task: "frequent", State: "done"}, 1500},
		"a rare task":         {jobs.Filter{Task: "rare"}, 1500},
		"its failed ones":     {jobs.Filter{Task: "rare", State: "failed"}, 1500},
		"an owner":            {jobs.Filter{OwnerID: owner}, 1500},
		"a queue":             {jobs.Filter{Queue: "main"}, 500},
		"long ago":            {jobs.Filter{Until: &since}, 5000},
		"a task, long ago":    {jobs.Filter{Task: "frequent", Since: &since, Until: &until}, 1500},
		"a text":              {jobs.Filter{Search: "no such text"}, looked},
		"a text, in a task":   {jobs.Filter{Search: "no such text", Task: "frequent"}, looked},
		"a queue that is not": {jobs.Filter{Queue: "none"}, looked},
		"running":             {jobs.Filter{State: "running"}, looked},
	} {
		for _, before := range []int64{0, 45_000} {
			if before != 0 && (c.filter.State == "done" || c.filter.State == "failed") {
				before = 20_007 // an ended one
			}
			_, read, scans := counted(t, db, c.filter, before)
			require.Empty(t, scans, "%s, before %d", name, before)
			require.LessOrEqual(t, read, c.most, "%s, before %d", name, before)
			t.Logf("%-20s before %6d: %6d rows read", name, before, read)
		}
	}
}

func TestList_ThatLookedThroughAWindow_SaysWhereToGoOn(t *testing.T) {
	t.Parallel()
	db := crowd(t, 12)
	var got []int64
	before := "0"
	for rounds := 0; before != ""; rounds++ {
		require.Less(t, rounds, 5)
		r := well(t, db, "jobs", "list", "--json", "--queue", "side", "--search", `"n": 1007}`, "--before", before)
		got = append(got, ids(t, r.out)...)
		before = ""
		if strings.Contains(r.talk, "looked through the newest 10000 that fit the rest of the filter; to go on: --before ") {
			_, before, _ = strings.Cut(strings.TrimSpace(r.talk), "--before ")
		}
	}
	require.Equal(t, []int64{1007}, got, "it is the 23,000th newest")
}

func TestList_OfAnUnknownName_SaysWhichMayBeMeant(t *testing.T) {
	t.Parallel()
	db := office(t)
	r := well(t, db, "jobs", "list", "--task", "mail.sned", "--queue", "report")
	require.Empty(t, r.out)
	require.Equal(t, "no job fits\nno job, live runner or schedule has task mail.sned; did you mean mail.send?\nno live job, runner, schedule or pause has queue report; did you mean reports?\n", r.talk)
	r = run(t, db, "jobs", "list", "--schedule", "hourly")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "TK006")
	r = run(t, db, "jobs", "list", "--state", "failed", "--before", "5")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "job 5, to go on behind, is not failed any more")
	r = run(t, db, "jobs", "list", "--task", "mail.send", "--before", "4711")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.talk, "there is no such job: 4711")
}

// Names reads what completion and suggestions know.
func TestNames_AreThoseOfJobsRunnersSchedulesAndPauses(t *testing.T) {
	t.Parallel()
	db := office(t)
	do(t, db, `select pgtick.pause_queue('paused')`)
	do(t, db, `select pgtick.schedule('s', '@daily', 'scheduled.task', p_queue => 'nightly')`)
	names := func(kind jobs.Kind, begin string) []string {
		found, err := jobs.Names(t.Context(), db.Pool, kind, begin)
		require.NoError(t, err)
		return found
	}
	require.Equal(t, []string{"mail.send", "report.make", "scheduled.task"}, names(jobs.Tasks, ""))
	require.Equal(t, []string{"default", "nightly", "paused", "reports"}, names(jobs.QueueNames, ""))
	require.Equal(t, []string{"nightly"}, names(jobs.QueueNames, "ni"))
	require.Equal(t, []string{"s"}, names(jobs.ScheduleNames, ""))
	require.True(t, slices.IsSorted(names(jobs.Tasks, "")), fmt.Sprint(names(jobs.Tasks, "")))
}
