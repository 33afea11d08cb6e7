package queue

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const (
	anna = "7f2c1c2e-5c6c-4b1e-9d9e-111111111111"
	bert = "7f2c1c2e-5c6c-4b1e-9d9e-222222222222"
)

// crowd is four jobs that differ in each field of a filter: a minute lies between one and the next.
//
//	a: task echo, queue default, of anna, running      b: task mail, queue default, of bert
//	c: task echo, queue other, of anna                 d: task noop, queue default, made by the schedule hourly
type crowd struct {
	a, b, c, d int64
	start      time.Time
	runner     runner
	running    claim
}

func gather(t *testing.T, db *pgtest.DB) crowd {
	t.Helper()
	db.Quiet(t)
	start := freeze(t, db)
	j := crowd{start: start, runner: register(t, db, "r", "echo")}
	add := func(settings string) int64 {
		id := one[int64](t, db.Pool, "select pgtick.enqueue("+settings+")")
		pgtest.Advance(t, db, time.Minute)
		return id
	}
	j.a = add("'echo', p_owner_id => '" + anna + "'")
	j.b = add("'mail', p_owner_id => '" + bert + "'")
	j.c = add("'echo', p_queue => 'other', p_owner_id => '" + anna + "'")
	exec(t, db.Pool, "select pgtick.schedule('hourly', '0 * * * *', 'noop')")
	j.d = one[int64](t, db.Pool, "select pgtick.run_now('hourly')")
	j.runner.heartbeat(t, db.Pool)
	j.running = j.runner.claimOne(t, db.Pool)
	require.Equal(t, j.a, j.running.ID)
	return j
}

// moment is that many minutes after the first job's.
func (j crowd) moment(minutes int) string {
	return j.start.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339)
}

func TestCancelWhere_MeetsWhatAllFieldsOfTheFilterFit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		filter func(j crowd) string
		want   func(j crowd) []int64
	}{
		"id":             {func(j crowd) string { return fmt.Sprintf(`{"id": %d}`, j.b) }, func(j crowd) []int64 { return []int64{j.b} }},
		"id as text":     {func(j crowd) string { return fmt.Sprintf(`{"id": "%d"}`, j.b) }, func(j crowd) []int64 { return []int64{j.b} }},
		"task":           {func(crowd) string { return `{"task": "echo"}` }, func(j crowd) []int64 { return []int64{j.a, j.c} }},
		"queue":          {func(crowd) string { return `{"queue": "other"}` }, func(j crowd) []int64 { return []int64{j.c} }},
		"state ready":    {func(crowd) string { return `{"state": "ready"}` }, func(j crowd) []int64 { return []int64{j.b, j.c, j.d} }},
		"state running":  {func(crowd) string { return `{"state": "running"}` }, func(j crowd) []int64 { return []int64{j.a} }},
		"schedule":       {func(crowd) string { return `{"schedule": "hourly"}` }, func(j crowd) []int64 { return []int64{j.d} }},
		"owner_id":       {func(crowd) string { return `{"owner_id": "` + anna + `"}` }, func(j crowd) []int64 { return []int64{j.a, j.c} }},
		"created_before": {func(j crowd) string { return `{"created_before": "` + j.moment(1) + `"}` }, func(j crowd) []int64 { return []int64{j.a} }},
		"created_after":  {func(j crowd) string { return `{"created_after": "` + j.moment(1) + `"}` }, func(j crowd) []int64 { return []int64{j.b, j.c, j.d} }},
		"two fields":     {func(crowd) string { return `{"task": "echo", "queue": "default"}` }, func(j crowd) []int64 { return []int64{j.a} }},
		"none":           {func(crowd) string { return `{"task": "ech"}` }, func(crowd) []int64 { return nil }},
		"no schedule":    {func(crowd) string { return `{"schedule": "daily"}` }, func(crowd) []int64 { return nil }},
		"a try at SQL":   {func(crowd) string { return `{"task": "' or true --"}` }, func(crowd) []int64 { return nil }},
		"another try": {func(crowd) string {
			return `{"queue": "\\'; delete from pgtick.live_jobs; --", "schedule": "%s $1 %L"}`
		}, func(crowd) []int64 { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			j := gather(t, db)
			want := c.want(j)
			require.Equal(t, len(want), one[int](t, db.Pool, "select pgtick.cancel_where($1)", c.filter(j)))
			require.Equal(t, want, nilWhenEmpty(all[int64](t, db.Pool, `select id from pgtick.jobs as j where state = 'cancelled'
				or exists (select from pgtick.job_notes as n where n.job_id = j.id and n.cancel_requested_at is not null) order by id`)))
			require.Equal(t, 4, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
			require.Equal(t, fmt.Sprintf(`postgres {"jobs": %d}`, len(want)), one[string](t, db.Pool,
				"select by_whom || ' ' || details::text from pgtick.audit where action = 'cancel_where' and subject::jsonb = $1", c.filter(j)))
		})
	}
}

func nilWhenEmpty(ids []int64) []int64 {
	if len(ids) == 0 {
		return nil
	}
	return ids
}

func TestCancelWhere_RunningOnes_GetTheRequest_AndTheirRunnersAreTold(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	waiting := enqueue(t, db, "mail", 2)
	enqueue(t, db, "echo", 4)
	alice, bob := register(t, db, "alice", "echo"), register(t, db, "bob", "echo")
	first, second := alice.claim(t, db.Pool, 2), bob.claim(t, db.Pool, 2)
	stops := listen(t, db, "pgtick_stop")
	require.Equal(t, 6, one[int](t, db.Pool, `select pgtick.cancel_where('{"queue": "default"}')`))
	require.ElementsMatch(t, []string{strconv.FormatInt(alice.id, 10), strconv.FormatInt(bob.id, 10)}, stops.heard(t), "each once")
	require.Equal(t, map[int64]string{first[0].ID: "cancelled", first[1].ID: "cancelled"}, alice.heartbeat(t, db.Pool, first...))
	require.Equal(t, "running 1", stateOf(t, db, second[0].ID))
	require.Equal(t, []string{"accepted"}, bob.finish(t, db.Pool, second[0].is("error")))
	require.Equal(t, "cancelled 1", stateOf(t, db, second[0].ID))
	for _, id := range waiting {
		require.Equal(t, "cancelled by postgres", one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1 and state = 'cancelled'", id))
	}
}

func TestCancelWhere_ALockedJob_IsNotWaitedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	ids := enqueue(t, db, "echo", 2)
	unlock := lockJob(t, db, ids[0])
	task, impatient := session(t, db), session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
	exec(t, impatient, pgtest.WaitForNobody)
	require.Equal(t, 3, one[int](t, impatient, `select pgtick.cancel_where('{"task": "echo"}')`))
	exec(t, task, "commit")
	unlock()
	require.Equal(t, map[int64]string{c.ID: "cancelled"}, r.heartbeat(t, db.Pool, c))
	require.Equal(t, "cancelled 0", stateOf(t, db, ids[1]))
	next := r.claimOne(t, db.Pool)
	require.Equal(t, ids[0], next.ID)
	require.Equal(t, map[int64]string{ids[0]: "cancelled"}, r.heartbeat(t, db.Pool, next), "the wish is noted beside it")
}

func TestCancelWhere_ManyJobs_AllAndOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 10001) // one more than it takes at a time
	enqueue(t, db, "mail", 1)
	require.Equal(t, 10001, one[int](t, db.Pool, `select pgtick.cancel_where('{"task": "echo"}')`))
	require.Equal(t, 10001, one[int](t, db.Pool, "select count(*) from pgtick.history where state = 'cancelled'"))
	require.Equal(t, 1, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs"))
}

// failures is the same crowd, ended: a and c failed with an error each, b cancelled, d done.
func failures(t *testing.T, db *pgtest.DB) crowd {
	t.Helper()
	j := gather(t, db)
	j.runner.finish(t, db.Pool, j.running.is("failed").because("card declined: 100 % of it"))
	pgtest.Advance(t, db, time.Minute)
	exec(t, db.Pool, "select pgtick.cancel($1)", j.b)
	pgtest.Advance(t, db, time.Minute)
	r := register(t, db, "r", "echo", "noop")
	for task, outcome := range map[string]string{"echo": "failed", "noop": "done"} {
		c := claim{Fence: one[int64](t, db.Pool, "select fence from pgtick.claim($1, '{default,other}', array[$2], 1)", r.id, task)}
		c.ID = map[string]int64{"echo": j.c, "noop": j.d}[task]
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is(outcome).because("it's \"gone\"")))
	}
	return j
}

func TestRetryWhere_MeetsFailedOnes_ThatAllFieldsOfTheFilterFit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		filter func(j crowd) string
		want   func(j crowd) []int64
	}{
		"id":                      {func(j crowd) string { return fmt.Sprintf(`{"id": %d}`, j.a) }, func(j crowd) []int64 { return []int64{j.a} }},
		"id of a cancelled one":   {func(j crowd) string { return fmt.Sprintf(`{"id": %d}`, j.b) }, func(crowd) []int64 { return nil }},
		"id of a done one":        {func(j crowd) string { return fmt.Sprintf(`{"id": %d}`, j.d) }, func(crowd) []int64 { return nil }},
		"task":                    {func(crowd) string { return `{"task": "echo"}` }, func(j crowd) []int64 { return []int64{j.a, j.c} }},
		"queue":                   {func(crowd) string { return `{"queue": "default"}` }, func(j crowd) []int64 { return []int64{j.a} }},
		"state failed":            {func(crowd) string { return `{"state": "failed"}` }, func(j crowd) []int64 { return []int64{j.a, j.c} }},
		"state cancelled":         {func(crowd) string { return `{"state": "cancelled"}` }, func(j crowd) []int64 { return []int64{j.b} }},
		"schedule":                {func(crowd) string { return `{"schedule": "hourly"}` }, func(crowd) []int64 { return nil }},
		"owner_id":                {func(crowd) string { return `{"owner_id": "` + anna + `"}` }, func(j crowd) []int64 { return []int64{j.a, j.c} }},
		"created_before":          {func(j crowd) string { return `{"created_before": "` + j.moment(2) + `"}` }, func(j crowd) []int64 { return []int64{j.a} }},
		"created_after":           {func(j crowd) string { return `{"created_after": "` + j.moment(2) + `"}` }, func(j crowd) []int64 { return []int64{j.c} }},
		"finished_before":         {func(j crowd) string { return `{"finished_before": "` + j.moment(4) + `"}` }, func(j crowd) []int64 { return []int64{j.a} }},
		"finished_after":          {func(j crowd) string { return `{"finished_after": "` + j.moment(4) + `"}` }, func(j crowd) []int64 { return []int64{j.c} }},
		"a part of the error":     {func(crowd) string { return `{"error": "declined: 100 %"}` }, func(j crowd) []int64 { return []int64{j.a} }},
		"quotes of the error":     {func(crowd) string { return `{"error": "it's \"gone\""}` }, func(j crowd) []int64 { return []int64{j.c} }},
		"an error is no pattern":  {func(crowd) string { return `{"error": "%"}` }, func(j crowd) []int64 { return []int64{j.a} }},
		"a try at SQL":            {func(crowd) string { return `{"error": "') > 0 or true --"}` }, func(crowd) []int64 { return nil }},
		"two fields":              {func(crowd) string { return `{"error": "gone", "queue": "default"}` }, func(crowd) []int64 { return nil }},
		"cancelled and its queue": {func(crowd) string { return `{"state": "cancelled", "queue": "default"}` }, func(j crowd) []int64 { return []int64{j.b} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			j := failures(t, db)
			want := c.want(j)
			require.Equal(t, len(want), one[int](t, db.Pool, "select pgtick.retry_where($1)", c.filter(j)))
			require.Equal(t, want, nilWhenEmpty(all[int64](t, db.Pool, "select id from pgtick.jobs where state = 'ready' order by id")))
			require.Equal(t, 4, one[int](t, db.Pool, "select count(*) from pgtick.jobs"))
			require.Equal(t, fmt.Sprintf(`{"jobs": %d, "clashes": 0}`, len(want)), one[string](t, db.Pool,
				"select details::text from pgtick.audit where action = 'retry_where' and subject::jsonb = $1", c.filter(j)))
		})
	}
}

func TestBulk_BadFilters_AreRefused_AndNothingChanges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	j := gather(t, db)
	j.runner.finish(t, db.Pool, j.running.is("failed"))
	both := map[string][]string{
		"filter":                {"null", "'{}'", "'[]'", `'"task"'`, "'7'", "'null'", `'{"tasks": "echo"}'`, `'{"args": "x"}'`, `'{"task": null}'`, `'{"task": ["echo"]}'`, `'{"task": "echo", "true or j.id": "1"}'`, `'{"owner_id": {"a": 1}}'`},
		"filter.id":             {`'{"id": "seven"}'`, `'{"id": "1 or 1=1"}'`, `'{"id": 99999999999999999999}'`, `'{"id": 1.5}'`},
		"filter.owner_id":       {`'{"owner_id": "anna"}'`, `'{"owner_id": ""}'`},
		"filter.created_before": {`'{"created_before": "yesteryear"}'`, `'{"created_before": "2026-13-01"}'`},
		"filter.created_after":  {`'{"created_after": "2026-02-30", "task": "echo"}'`},
	}
	refuse := func(function string, filters map[string][]string) {
		for field, values := range filters {
			for _, filter := range values {
				pg := refused(t, db.Pool, "TK000", "select pgtick."+function+"("+filter+")")
				require.True(t, strings.HasPrefix(pg.Message, field+" "), "%s: %s", filter, pg.Message)
			}
		}
	}
	before := one[string](t, db.Pool, "select string_agg(j::text, ';' order by id) from pgtick.jobs as j")
	refuse("cancel_where", both)
	refuse("retry_where", both)
	refuse("cancel_where", map[string][]string{
		"filter.state": {`'{"state": "done"}'`, `'{"state": "failed"}'`, `'{"state": "READY"}'`, `'{"state": ""}'`},
		"filter":       {`'{"error": "x"}'`, `'{"finished_before": "2026-01-01"}'`},
	})
	refuse("retry_where", map[string][]string{
		"filter.state":           {`'{"state": "done"}'`, `'{"state": "ready"}'`, `'{"state": "running"}'`},
		"filter.finished_before": {`'{"finished_before": "x"}'`},
		"filter.finished_after":  {`'{"finished_after": true}'`},
	})
	require.Equal(t, before, one[string](t, db.Pool, "select string_agg(j::text, ';' order by id) from pgtick.jobs as j"))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.audit where action like '%where'"))
}

func TestRetryWith_OtherArguments_AreOnRecord(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	id := one[int64](t, db.Pool, `select pgtick.enqueue('echo', '{"to": "anna"}')`)
	r := register(t, db, "r", "echo")
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))
	require.Equal(t, "ready", one[string](t, db.Pool, `select pgtick.retry_with($1, '{"to": "bert"}', 'anna has left')`, id))
	require.Equal(t, `ready {"to": "bert"}`, one[string](t, db.Pool, "select state || ' ' || args::text from pgtick.jobs where id = $1", id))
	require.Equal(t, `{"after": {"to": "bert"}, "before": {"to": "anna"}, "reason": "anna has left"} postgres 00:00:00`, one[string](t, db.Pool,
		"select concat_ws(' ', details, by_whom, at - pgtick.now()) from pgtick.audit where action = 'retry_with' and subject = $1::bigint::text", id))
	require.Equal(t, `{"to": "bert"}`, one[string](t, db.Pool, "select args::text from pgtick.claim($1, '{default}', '{echo}', 1)", r.id))
}

func TestRetryWith_BadInput_IsRefused_AndNothingChanges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	refused(t, db.Pool, "TK005", "select pgtick.retry_with($1, '{}', 'why')", c.ID)
	r.finish(t, db.Pool, c.is("failed"))
	before := everything(t, db, c.ID)
	for field, arguments := range map[string][]string{
		"reason": {"'{}', null", "'{}', ''", "'{}', '  '"},
		"args":   {"null, 'why'", "'[1]', 'why'", "'7', 'why'", "jsonb_build_object('k', repeat('x', 65536)), 'why'"},
	} {
		for _, argument := range arguments {
			pg := refused(t, db.Pool, "TK000", "select pgtick.retry_with($1, "+argument+")", c.ID)
			require.True(t, strings.HasPrefix(pg.Message, field+" "), "%s: %s", argument, pg.Message)
		}
	}
	refused(t, db.Pool, "TK004", "select pgtick.retry_with(4711, '{}', 'why')")
	require.Equal(t, before, everything(t, db, c.ID))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.audit"))
	exec(t, db.Pool, "select pgtick.retry($1)", c.ID)
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("done"))
	refused(t, db.Pool, "TK005", "select pgtick.retry_with($1, '{}', 'why')", c.ID)
}

// Also where others wait, of which one calls a function: that is judged by its own job alone.
func TestRetryWith_AmongOthers_ConcernsItsJobAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	exec(t, db.Pool, `select pgtick.enqueue('echo', '{"other": 1}')`)
	other := one[int64](t, db.Pool, "select max(id) from pgtick.live_jobs")
	exec(t, db.Pool, "update pgtick.live_jobs set task = 'sql'") // in the words of whoever allowed the function, and has taken that back
	r := register(t, db, "r", "echo", "sql")
	id := one[int64](t, db.Pool, `select pgtick.enqueue('echo', '{"to": "anna"}', p_priority => 0)`)
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("failed"))
	require.Equal(t, "ready", one[string](t, db.Pool, `select pgtick.retry_with($1, '{"to": "bert"}', 'anna has left')`, id))
	require.Equal(t, []string{`{"other": 1}`, `{"to": "bert"}`}, all[string](t, db.Pool, "select args::text from pgtick.live_jobs order by id"))
	require.Equal(t, `{"to": "anna"}`, one[string](t, db.Pool, "select (details -> 'before')::text from pgtick.audit where action = 'retry_with'"))
	pg := refused(t, db.Pool, "TK000", `select pgtick.retry_with($1, '{"function": "public.gone"}', 'why')`, other)
	require.True(t, strings.HasPrefix(pg.Message, "args.function "), pg.Message)
	require.Equal(t, `{"other": 1}`, one[string](t, db.Pool, "select args::text from pgtick.live_jobs where id = $1", other))
}
