package rights

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const ask = "insert into pgtick.requests (task, args) values ($1, $2)"

// asked is a request of which the insert returns what came of it.
func asked(t *testing.T, q asker, task, args string) (job int64) {
	t.Helper()
	return one[int64](t, q, ask+" returning job_id", task, args)
}

func jobsOf(t *testing.T, db *pgtest.DB, owner string) int {
	t.Helper()
	return one[int](t, db.Pool, "select count(*) from pgtick.live_jobs where owner_id = $1", owner)
}

func TestRequest_OfAnAllowedTask_BecomesAJobOfItsUser_WithTheOwnersSettings(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('report.make', 3, '1 day', 'reports', 8, 4, '30 seconds')")
	user := asUser(t, db, ann)
	id := asked(t, user, "report.make", `{"month": "2026-10"}`)

	job := db.Job(t, id)
	require.Equal(t, []any{"report.make", "reports", "ready", 8, 4, 30 * time.Second, ann},
		[]any{job.Task, job.Queue, job.State, job.Priority, job.MaxAttempts, job.Timeout, job.OwnerID})
	require.JSONEq(t, `{"month": "2026-10"}`, string(job.Args))
	require.Equal(t, ann, one[string](t, db.Pool, "select limit_key from pgtick.jobs where id = $1", id), "set_limit can hold each user to so many at once")
	require.Equal(t, "ready", one[string](t, user, "select state from pgtick.my_jobs where id = $1 and task = 'report.make'", id))
	require.Equal(t, id, one[int64](t, user, "select job_id from pgtick.requests where task = 'report.make' and args ->> 'month' = '2026-10' and run_at is null"))

	other := asUser(t, db, ben)
	require.Zero(t, one[int](t, other, "select count(*) from pgtick.requests"))
	require.Zero(t, one[int](t, other, "select count(*) from pgtick.my_jobs"))
	require.Equal(t, 1, one[int](t, connectAs(t, db, "service_role"), "select count(*) from pgtick.requests join pgtick.allowed_tasks using (task)"))
}

// What supabase-js does with .insert(…).select(): all columns come back.
func TestRequest_ThatAsksForItsRow_GetsIt(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('report.make')")
	rows, err := asUser(t, db, ann).Query(t.Context(), ask+" returning *", "report.make", "{}")
	require.NoError(t, err)
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
	require.NoError(t, err)
	require.Equal(t, "ready", db.Job(t, row["job_id"].(int64)).State)

	// And as PostgREST writes it.
	id := one[int64](t, asUser(t, db, ann), `with pgrst_source as (insert into pgtick.requests (args, task)
		select b.args, b.task from (select $1::json as json_data) as p, lateral (select * from json_to_record(p.json_data) as _(args jsonb, task text)) as b returning requests.job_id)
		select job_id from pgrst_source`, `{"task": "report.make", "args": {"n": 1}}`)
	require.JSONEq(t, `{"n": 1}`, string(db.Job(t, id).Args))
}

func TestRequest_RunsWhenItIsWanted(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('remind', 100)")
	user := asUser(t, db, ann)
	const at = "insert into pgtick.requests (task, run_at) values ('remind', $1::timestamptz) returning job_id"
	now := db.Now(t)
	soon := one[int64](t, user, at, now.Add(time.Hour))
	require.WithinDuration(t, now.Add(time.Hour), db.Job(t, soon).RunAt, time.Millisecond)
	past := one[int64](t, user, at, now.Add(-time.Hour))
	require.False(t, db.Job(t, past).RunAt.Before(now), "a past time is now")
	for _, wrong := range []string{"infinity", "-infinity", "2999-01-01 00:00:00+00"} {
		pg := refused(t, user, "TK000", "insert into pgtick.requests (task, run_at) values ('remind', '"+wrong+"')")
		require.Contains(t, pg.Message, "run_at")
	}
	require.Equal(t, 2, jobsOf(t, db, ann))
}

func TestRequest_OfATaskThatIsNotAllowed_IsRefused(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	user := asUser(t, db, ann)
	pg := refused(t, user, "TK025", ask, "report.make", "{}")
	require.Contains(t, pg.Message, `"report.make"`)
	require.Contains(t, pg.Hint, "pgtick.allow_task('report.make')")

	do(t, db.Pool, "select pgtick.allow_task('report.make')")
	asked(t, user, "report.make", "{}")
	refused(t, user, "TK025", "insert into pgtick.requests (task) values ('report.make'), ('other')")
	require.Equal(t, 1, jobsOf(t, db, ann), "all rows or none")

	require.True(t, one[bool](t, db.Pool, "select pgtick.disallow_task('report.make')"))
	require.False(t, one[bool](t, db.Pool, "select pgtick.disallow_task('report.make')"))
	refused(t, user, "TK025", ask, "report.make", "{}")
	require.Equal(t, []string{"allow_task", "disallow_task"}, all[string](t, db.Pool, "select action from pgtick.audit where subject = 'report.make' order by id"))
}

// A user's quota for a task is not used up by others, nor by other tasks; and to disallow one is to disallow no other.
func TestRequest_QuotaAndPermission_AreOfTheirOwnUserAndTask(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	pgtest.SetNow(t, db, time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))
	do(t, db.Pool, "select pgtick.allow_task('report.make', 2, '1 hour'), pgtick.allow_task('other', 2, '1 hour')")
	anns, bens := asUser(t, db, ann), asUser(t, db, ben)
	asked(t, anns, "report.make", "{}")
	asked(t, anns, "report.make", "{}")
	pgtest.Advance(t, db, 50*time.Minute)
	for range 2 {
		asked(t, bens, "report.make", "{}")
		asked(t, anns, "other", "{}")
	}
	pgtest.Advance(t, db, 10*time.Minute)
	asked(t, anns, "report.make", "{}")
	refused(t, bens, "TK026", ask, "report.make", "{}")
	refused(t, anns, "TK026", ask, "other", "{}")
	do(t, db.Pool, "select pgtick.disallow_task('other')")
	asked(t, anns, "report.make", "{}")
}

func TestRequest_BeyondTheQuota_IsRefused_UntilThePeriodFreesAPlace(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	pgtest.SetNow(t, db, time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))
	do(t, db.Pool, "select pgtick.allow_task('report.make', 2, '1 hour'), pgtick.allow_task('other', 1)")
	user := asUser(t, db, ann)
	asked(t, user, "report.make", "{}")
	pgtest.Advance(t, db, 10*time.Minute)
	asked(t, user, "report.make", "{}")
	pg := refused(t, user, "TK026", ask, "report.make", "{}")
	require.Contains(t, pg.Message, `"report.make"`)
	require.Contains(t, pg.Hint, "2026-11-25 13:00:00 UTC")
	var details struct {
		Quota  int       `json:"quota"`
		Period int       `json:"period_seconds"`
		FreeAt time.Time `json:"free_at"`
	}
	require.NoError(t, json.Unmarshal([]byte(pg.Detail), &details))
	require.Equal(t, 2, details.Quota)
	require.Equal(t, 3600, details.Period)
	require.True(t, details.FreeAt.Equal(time.Date(2026, 11, 25, 13, 0, 0, 0, time.UTC)), details.FreeAt)
	asked(t, user, "other", "{}")
	asked(t, asUser(t, db, ben), "report.make", "{}")

	pgtest.Advance(t, db, 50*time.Minute) // the first one's hour is over, the second one's is not
	asked(t, user, "report.make", "{}")
	refused(t, user, "TK026", ask, "report.make", "{}")
	require.Equal(t, 4, jobsOf(t, db, ann), "what was refused has left nothing")

	do(t, db.Pool, "select pgtick.allow_task('report.make', 3, '1 hour')")
	asked(t, user, "report.make", "{}")
	do(t, db.Pool, "select pgtick.allow_task('report.make', 1, '1 minute')")
	refused(t, user, "TK026", ask, "report.make", "{}")
	pgtest.Advance(t, db, time.Minute)
	asked(t, user, "report.make", "{}")
}

func TestRequest_OfManyRows_CountsEach(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('report.make', 3)")
	user := asUser(t, db, ann)
	const many = "insert into pgtick.requests (task, args) select 'report.make', jsonb_build_object('n', n) from generate_series(1, $1) as n returning job_id"
	refused(t, user, "TK026", many, 4)
	require.Zero(t, jobsOf(t, db, ann))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.requests"))
	ids := all[int64](t, user, many, 3)
	require.Equal(t, ids, all[int64](t, db.Pool, "select id from pgtick.live_jobs where owner_id = $1 order by (args ->> 'n')::int", ann))
	refused(t, user, "TK026", many, 1)
}

func TestRequest_ThatRacesForTheLastPlace_WinsOnlyOnce(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		first     string
		meanwhile string // done by the owner
		code      string // of the second one
	}{
		"the first one commits":            {"commit", "select 1", "TK026"},
		"the first one takes it back":      {"rollback", "select 1", ""},
		"the owner says no meanwhile":      {"rollback", "select pgtick.disallow_task('report.make')", "TK025"},
		"the owner allows more meanwhile":  {"commit", "select pgtick.allow_task('report.make', 2)", ""},
		"the owner shortens it, no matter": {"commit", "select pgtick.allow_task('report.make', 1, '1 minute')", "TK026"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newProject(t)
			do(t, db.Pool, "select pgtick.allow_task('report.make', 1)")
			first, second := asUser(t, db, ann), asUser(t, db, ann)
			do(t, first, "begin")
			asked(t, first, "report.make", "{}")
			ended := make(chan error, 1)
			go func() {
				_, err := second.Exec(t.Context(), ask, "report.make", "{}")
				ended <- err
			}()
			awaitLock(t, db, second)
			asked(t, asUser(t, db, ben), "report.make", "{}") // nobody else waits
			do(t, db.Pool, end.meanwhile)
			do(t, first, end.first)
			err := <-ended
			require.Equal(t, one[int](t, db.Pool, "select count(*) from pgtick.requests where owner_id = $1", ann), jobsOf(t, db, ann))
			if end.code == "" {
				require.NoError(t, err)
				return
			}
			requireCode(t, err, end.code, "the second one")
			require.LessOrEqual(t, jobsOf(t, db, ann), 1)
		})
	}
}

func awaitLock(t *testing.T, db *pgtest.DB, conn *pgx.Conn) {
	t.Helper()
	require.Eventually(t, func() bool {
		return one[bool](t, db.Pool, "select exists (select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock')", conn.PgConn().PID())
	}, patience, 2*time.Millisecond, "the session never waited")
}

// Locks are taken in the order of the tasks, not of the rows: who waits for one holds none that comes after it, so nobody waits in a circle.
func TestRequest_OfSeveralTasks_TakesTheirLocksInOrder(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('a'), pgtick.allow_task('b')")
	first, waiting, third := asUser(t, db, ann), asUser(t, db, ann), asUser(t, db, ann)
	do(t, first, "begin")
	asked(t, first, "a", "{}")
	ended := make(chan error, 1)
	go func() {
		_, err := waiting.Exec(t.Context(), "insert into pgtick.requests (task) values ('b'), ('a')")
		ended <- err
	}()
	awaitLock(t, db, waiting)
	do(t, third, "set lock_timeout = '20s'") // so that a lock that is held shows as an error
	asked(t, third, "b", "{}")
	do(t, first, "commit")
	require.NoError(t, <-ended)
	require.Equal(t, 4, jobsOf(t, db, ann))
}

func TestRequest_OfTwentySessionsAtOnce_KeepsTheQuota(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('a', 7), pgtick.allow_task('b', 5)")
	var sessions []*pgx.Conn
	for range 20 {
		sessions = append(sessions, asUser(t, db, ann))
	}
	failures := make(chan error, 3*len(sessions))
	var wait sync.WaitGroup
	for _, session := range sessions {
		wait.Go(func() {
			for _, tasks := range []string{"('a')", "('b'), ('a')", "('a'), ('b')"} {
				if _, err := session.Exec(t.Context(), "insert into pgtick.requests (task) values "+tasks); err != nil {
					failures <- err
				}
			}
		})
	}
	wait.Wait()
	close(failures)
	for err := range failures {
		requireCode(t, err, "TK026", "one of many")
	}
	require.Equal(t, 7, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs where task = 'a'"))
	require.LessOrEqual(t, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs where task = 'b'"), 5)
	require.Equal(t, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs"), one[int](t, db.Pool, "select count(*) from pgtick.requests join pgtick.live_jobs on live_jobs.id = job_id"))
}

// With a snapshot that is older than another request, the place that looks free is taken.
func TestRequest_UnderAnOldSnapshot_IsToBeTriedAgain(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		db := newProject(t)
		do(t, db.Pool, "select pgtick.allow_task('report.make', 1)")
		user := asUser(t, db, ann)
		do(t, user, "begin isolation level "+level)
		require.Zero(t, one[int](t, user, "select count(*) from pgtick.requests"))
		asked(t, asUser(t, db, ann), "report.make", "{}")
		pg := refused(t, user, "40001", ask, "report.make", "{}")
		require.NotEmpty(t, pg.Hint)
		do(t, user, "rollback")
		refused(t, user, "TK026", ask, "report.make", "{}")
		require.Equal(t, 1, jobsOf(t, db, ann))
	}
}

// Rule 14 of the protocol: the right is on three columns, the owner is the token's, the policy checks that, the trigger all else.
func TestRule14_ARequest_SaysNothingButTaskArgsAndTime(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('report.make')")
	user := asUser(t, db, ann)
	require.Equal(t, []string{"args", "run_at", "task"}, all[string](t, db.Pool, `select a.attname::text from pg_attribute as a
		where a.attrelid = 'pgtick.requests'::regclass and a.attnum > 0 and not a.attisdropped and has_column_privilege('authenticated', a.attrelid, a.attnum, 'insert') order by 1`))
	for column, value := range map[string]string{"owner_id": "'" + ben + "'", "job_id": "1", "place": "1", "created_at": "now()", "id": "default"} {
		refused(t, user, "42501", fmt.Sprintf("insert into pgtick.requests (task, %s) values ('report.make', %s)", column, value))
	}
	for _, statement := range []string{"update pgtick.requests set task = 'x'", "delete from pgtick.requests", "truncate pgtick.requests", "select from pgtick.allowed_tasks",
		"select pgtick.allow_task('x')", "select pgtick.disallow_task('report.make')", "select pgtick.enqueue('report.make')", "select pgtick.take_requests()", "select pgtick.check_request()",
		"insert into pgtick.requests (task) values ('report.make') on conflict (id) do update set task = 'x'", "alter table pgtick.requests disable trigger all"} {
		refused(t, user, "42501", statement)
	}
	require.Equal(t, []string{"a (owner_id = ( SELECT pgtick.user_id() AS user_id))", "r (owner_id = ( SELECT pgtick.user_id() AS user_id))"},
		all[string](t, db.Pool, `select polcmd::text || ' ' || pg_get_expr(coalesce(polqual, polwithcheck), polrelid) from pg_policy
			where polrelid = 'pgtick.requests'::regclass and to_regrole('authenticated') = any (polroles) order by 1`))
	require.Equal(t, []string{"requests_taken: definer, after insert"}, all[string](t, db.Pool, `select t.tgname || ': ' || case when p.prosecdef then 'definer' end || case when t.tgtype & 2 = 0 then ', after' end
			|| case when t.tgtype & 4 <> 0 then ' insert' end
		from pg_trigger as t join pg_proc as p on p.oid = t.tgfoid where t.tgrelid = 'pgtick.requests'::regclass and not t.tgisinternal and t.tgtype & 2 = 0`))
	asked(t, user, "report.make", "{}")
	require.Equal(t, []string{ann}, all[string](t, db.Pool, "select owner_id::text from pgtick.live_jobs"))
}

// The policy is a second belt: with a right on owner_id it still holds.
func TestRule14_WithAGrantTooMany_TheOwnerIsStillTheCaller(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('report.make'); grant insert on pgtick.requests to authenticated")
	user := asUser(t, db, ann)
	refused(t, user, "42501", "insert into pgtick.requests (task, owner_id) values ('report.make', $1)", ben)
	job := one[int64](t, user, "insert into pgtick.requests (task, owner_id, job_id, place) values ('report.make', $1, 4711, 5) returning job_id", ann)
	require.NotEqual(t, int64(4711), job)
	require.Equal(t, int64(1), one[int64](t, user, "select place from pgtick.requests"))
	require.Zero(t, jobsOf(t, db, ben))
}

func TestRequest_OfNobody_IsRefused(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('report.make')")
	for claims, says := range map[string]string{
		"":                      "the token names none",
		"{}":                    "the token names none",
		"null":                  "the token names none",
		`[]`:                    "the token names none",
		`{"sub": null}`:         "the token names none",
		`{"sub": ""}`:           "no UUID",
		`{"sub": "user_2abc"}`:  "no UUID",
		`{"sub": {"id": 1}}`:    "no UUID",
		"not json":              "not JSON",
		`{"sub": "\u0000"}`:     "not JSON",
		`{"sub": "` + ann + `"`: "not JSON",
	} {
		pg := refused(t, withClaims(t, db, claims), "TK024", ask, "report.make", "{}")
		require.Contains(t, pg.Message, says, claims)
	}
	refused(t, db.Pool, "TK024", ask, "report.make", "{}")
	refused(t, db.Pool, "TK024", "insert into pgtick.requests (task, owner_id) values ('report.make', null)")
	refused(t, connectAs(t, db, "anon"), "42501", ask, "report.make", "{}")
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.live_jobs"))
}

func TestAuthenticated_WithATokenThatNamesNoUser_IsToldSo_OrSeesNothing(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.enqueue('report.make', p_owner_id => $1)", ann)
	for claims, says := range map[string]string{`{"sub": "user_2abc"}`: `"user_2abc", the subject of the token, is no UUID`, "not json": "not JSON", `{"sub": "\u0000"}`: "not JSON"} {
		require.Contains(t, refused(t, withClaims(t, db, claims), "TK024", "select count(*) from pgtick.my_jobs").Message, says)
	}
	for _, claims := range []string{"", "{}", `{"sub": ""}`} {
		require.Zero(t, one[int](t, withClaims(t, db, claims), "select count(*) from pgtick.my_jobs"), claims)
	}
	require.Equal(t, 1, one[int](t, asUser(t, db, ann), "select count(*) from pgtick.my_jobs"))
}

// Who did it is written down: an action of somebody whose claims cannot be read is none.
func TestAudit_UnderClaimsThatAreNotJSON_RefusesTheAction(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	owner := connect(t, db.URL)
	do(t, owner, "set request.jwt.claims = 'not json'")
	require.Contains(t, refused(t, owner, "TK024", "select pgtick.pause_queue('mail')").Message, "not JSON")
	require.Equal(t, 0, one[int](t, db.Pool, "select (select count(*) from pgtick.audit) + (select count(*) from pgtick.queues where paused_at is not null)"))
	do(t, owner, `set request.jwt.claims = '{"sub": "ann"}'`)
	do(t, owner, "select pgtick.pause_queue('mail')")
	require.Equal(t, "ann", one[string](t, db.Pool, "select by_whom from pgtick.audit"))
}

func TestRequest_OfWhatNoJobMayHave_IsRefused(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('report.make')")
	user := asUser(t, db, ann)
	for _, wrong := range []struct{ code, task, args, names string }{
		{"TK000", "report.make", `{"much": "` + strings.Repeat("x", 1<<20) + `"}`, "args"},
		{"TK000", "report.make", `[1]`, "args"},
		{"TK000", "report.make", `7`, "args"},
		{"TK000", "report.make", `null`, "args"},
		{"TK000", "", `{}`, "task"},
		{"TK000", strings.Repeat("x", 201), `{}`, "task"},
		{"TK000", "two\nlines", `{}`, "task"},
		{"22P05", "report.make", `{"n": "\u0000"}`, "Unicode"},
		{"22P02", "report.make", `{`, "json"},
	} {
		pg := refused(t, user, wrong.code, "insert into pgtick.requests (task, args) values ($1, $2::text::jsonb)", wrong.task, wrong.args)
		require.Contains(t, pg.Message, wrong.names)
		require.Less(t, len(pg.Message), 500)
	}
	for _, statement := range []string{"insert into pgtick.requests (task, args) values ('report.make', null)", "insert into pgtick.requests (task) values (null)", "insert into pgtick.requests (args) values ('{}')"} {
		refused(t, user, "TK000", statement)
	}
	require.Zero(t, jobsOf(t, db, ann))
	asked(t, user, "report.make", `{"much": "`+strings.Repeat("x", 65000)+`"}`)
}

func TestAllowTask_RefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for call, names := range map[string]string{
		"null":                           "task",
		"''":                             "task",
		"'x', 0":                         "per_owner_quota",
		"'x', -1":                        "per_owner_quota",
		"'x', null":                      "per_owner_quota",
		"'x', 1000001":                   "per_owner_quota",
		"'x', 1, '0'":                    "period",
		"'x', 1, '0.5 seconds'":          "period",
		"'x', 1, '-1 hour'":              "period",
		"'x', 1, '32 days'":              "period",
		"'x', 1, '2 months'":             "period",
		"'x', 1, null":                   "period",
		"'x', p_queue => ''":             "queue",
		"'x', p_priority => 10":          "priority",
		"'x', p_max_attempts => 0":       "max_attempts",
		"'x', p_timeout => '0'":          "timeout",
		"'x', p_timeout => '8 days'":     "timeout",
		"'sql'":                          "task",
		"'http'":                         "task",
		"'credits.sync_credit_usage'":    "task",
		"'credits.anything', 1, '1 day'": "task",
	} {
		pg := refused(t, db.Pool, "TK000", "select pgtick.allow_task("+call+")")
		require.True(t, strings.HasPrefix(pg.Message, names+" "), pg.Message)
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.allowed_tasks"))
	do(t, db.Pool, "select pgtick.allow_task('x', 1000000, '1 month')")
	do(t, db.Pool, "select pgtick.allow_task('x', 1, '1 second', 'q', 0, 1, '7 days')")
	require.Equal(t, "1 00:00:01 q 0 1 7 days", one[string](t, db.Pool, "select concat_ws(' ', quota, period, queue, priority, max_attempts, timeout) from pgtick.allowed_tasks"), "again replaces")
}

// What a task may be allowed for was decided by allow_task, and is decided again: the row may have been written by hand.
func TestRequest_OfSQLOrHTTP_IsRefused_WhateverTheTableSays(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	user := asUser(t, db, ann)
	for _, task := range []string{"sql", "http", "credits.periodic_credit_allocation"} {
		do(t, db.Pool, "insert into pgtick.allowed_tasks values ($1, 10, '1 hour', 'default', 5, 20, '5 minutes', now(), 'by hand')", task)
		refused(t, user, "TK025", ask, task, "{}")
	}
}

func TestMaintain_KeepsRequestsForAsLongAsAQuotaCountsThem(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	pgtest.SetNow(t, db, time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	do(t, db.Pool, "select pgtick.allow_task('a', 1, '1 hour')")
	user := asUser(t, db, ann)
	left := func() int {
		do(t, db.Pool, "select pgtick.maintain()")
		return one[int](t, db.Pool, "select count(*) from pgtick.requests")
	}
	asked(t, user, "a", "{}")
	pgtest.Advance(t, db, 7*24*time.Hour-time.Minute)
	asked(t, user, "a", "{}")
	require.Equal(t, 2, left())
	pgtest.Advance(t, db, 2*time.Minute)
	require.Equal(t, 1, left(), "seven days are over")
	refused(t, user, "TK026", ask, "a", "{}")

	do(t, db.Pool, "select pgtick.allow_task('b', 1, '30 days')")
	asked(t, user, "b", "{}")
	pgtest.Advance(t, db, 29*24*time.Hour)
	require.Equal(t, 2, left())
	refused(t, user, "TK026", ask, "b", "{}")
	pgtest.Advance(t, db, 24*time.Hour+time.Minute)
	require.Equal(t, 0, left())
	asked(t, user, "b", "{}")
	require.Empty(t, one[string](t, db.Pool, "select coalesce(problem, '') from pgtick.upkeep where what = 'maintain'"))
}

// A quota of a million must not cost a million rows of each request.
func TestRequest_UnderALargeQuota_LooksAtOneRow(t *testing.T) {
	t.Parallel()
	db := newProject(t)
	do(t, db.Pool, "select pgtick.allow_task('a', 50000)")
	do(t, db.Pool, `begin; set local session_replication_role = replica; insert into pgtick.requests (owner_id, task, created_at, job_id, place)
		select '`+ann+`', 'a', pgtick.now(), -n, n from generate_series(1, 49990) as n; commit`)
	do(t, db.Pool, "vacuum analyze pgtick.requests")
	user := asUser(t, db, ann)
	do(t, user, "begin")
	asked(t, user, "a", "{}")
	do(t, user, "reset role")
	require.Less(t, one[int64](t, user, "select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables where relid = 'pgtick.requests'::regclass"), int64(20))
	do(t, user, "commit")
	do(t, user, "set role authenticated")
	for range 9 {
		asked(t, user, "a", "{}")
	}

	// Nor does it cost a dead row when the quota is used up.
	const written = "select n_tup_ins from pg_stat_xact_user_tables where schemaname = 'pgtick' and relname = 'requests'"
	do(t, user, "begin")
	before := one[int64](t, user, written) // of the whole session, as far as it was not yet reported
	do(t, user, "savepoint try")
	refused(t, user, "TK026", ask, "a", "{}")
	do(t, user, "rollback to try")
	require.Equal(t, before, one[int64](t, user, written))
	do(t, user, "rollback")
}
