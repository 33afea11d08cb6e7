package queue

import (
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const (
	waiting = " where runner_id is null and schedule_id is null"
	held1   = " where runner_id is not null"
	long    = "repeat('x', 201)"
)

// breaks are, for each constraint but the primary keys, changes that each break one term of it and nothing else. They meet every row, but where they
// say which.
var breaks = map[string]struct {
	table   string
	changes []string
}{
	"attempt_count_not_negative": {"attempt_counts", []string{"done = -1", "errors = -1", "failed = -1"}},
	"attempt_count_span_known":   {"attempt_counts", []string{"span = '3 minutes'"}},
	"live_job_lawful": {"live_jobs", []string{"priority = -1", "priority = 10", "max_attempts = 0", "uncounted = -1", "uncounted = attempt + 1", "deaths = -1", "deaths = losses + 1",
		"timeout = '0'", "args = '[]'", "slot = now()" + waiting, "task = ''", "task = " + long, "queue = ''", "queue = " + long, "run_at = '-infinity'"}},
	"live_job_claimed_whole": {"live_jobs", []string{"started_at = now()" + waiting, "fence = null" + held1, "blocked_by = 'after', wanted_at = now()" + waiting,
		"blocked_by = 'after', run_at = 'infinity', wanted_at = now()" + held1, "blocked_by = 'after', run_at = 'infinity'" + waiting,
		"blocked_by = 'overlap', run_at = 'infinity'" + waiting, "blocked_by = 'after', run_at = 'infinity' where schedule_id is not null"}},
	"live_jobs_slot_key":       {"live_jobs", []string{"schedule_id = 1, slot = '2026-01-01'" + waiting}},
	"history_state_final":      {"history", []string{"state = 'ready'"}},
	"job_note_done_is_share":   {"job_notes", []string{"done = -0.1", "done = 1.1"}},
	"limit_positive":           {"limit_defs", []string{"rate = 0", "burst = 0", "period = '0'", "max_running = 0", "rate = null, period = null, burst = null, max_running = null"}},
	"limit_rate_whole":         {"limit_defs", []string{"period = null", "burst = null"}},
	"outage_lasts":             {"outages", []string{"ended_at = began_at"}},
	"overdue_schedule_id_fkey": {"overdue", []string{"schedule_id = -1"}},
	"allowed_task_job_lawful": {"allowed_tasks", []string{"task = ''", "task = " + long, "queue = ''", "queue = " + long, "priority = -1", "priority = 10", "max_attempts = 0",
		"max_attempts = 1001", "timeout = '0'", "timeout = '7 days 1 second'"}},
	"allowed_task_quota_within":         {"allowed_tasks", []string{"quota = 0", "quota = 1000001", "period = '0.9 seconds'", "period = '31 days 1 second'"}},
	"request_lawful":                    {"requests", []string{"task = ''", "task = " + long, "args = '[]'", "args = jsonb_build_object('x', repeat('x', 65536))", "run_at = 'infinity'"}},
	"request_place_taken_once":          {"requests", []string{"place = 7"}},
	"applied_sql_one_row":               {"applied_sql", []string{"only_row = false"}},
	"retention_state_final":             {"retentions", []string{"state = 'ready'"}},
	"retention_within":                  {"retentions", []string{"days = 0", "days = 401"}},
	"runner_ended_whole":                {"runner_leases", []string{"ended_at = now()", "ended_as = 'left'", "ended_at = now(), ended_as = 'tired'", "freed_at = now()"}},
	"runner_lease_within":               {"runner_leases", []string{"lease = '0.9 seconds'", "lease = '61 minutes'"}},
	"runner_named":                      {"runner_leases", []string{"name = ''", "name = " + long}},
	"runner_workers_positive":           {"runner_leases", []string{"workers = 0"}},
	"schedule_change_known":             {"schedule_changes", []string{"what = 'seen'"}},
	"schedule_changes_schedule_id_fkey": {"schedule_changes", []string{"schedule_id = -schedule_id"}},
	"schedule_broken_whole": {"schedule_defs", []string{"broken_at = now(), retry_at = now()", "broken_at = now(), broken_why = 'x'",
		"broken_at = now(), broken_why = 'x', retry_at = now(), next_at = null"}},
	"schedule_lawful": {"schedule_defs", []string{"priority = -1", "priority = 10", "max_attempts = 0", "timeout = '0'", "args = '[]'", "catch_up_limit = -1", "catch_up_limit = 10001",
		"jitter = '-1 second'", "starts_at = now(), ends_at = now()"}},
	"schedule_named":               {"schedule_defs", []string{"name = ''", "name = " + long}},
	"schedule_defs_name_key":       {"schedule_defs", []string{"name = 'same'"}},
	"schedule_pause_has_start":     {"schedule_defs", []string{"paused_until = now()"}},
	"schedule_policies_known":      {"schedule_defs", []string{"on_missed = 'x'", "on_missed = 'once', on_overlap = 'x'", "on_missed = 'all', on_overlap = 'skip'", "on_gap = 'x'", "on_fold = 'x'"}},
	"schedule_removed_has_no_next": {"schedule_defs", []string{"removed_at = now()"}},
	"sequence_stopped_whole":       {"sequences", []string{"stops = '{1}'", "stops = '{}', stopped_at = now()"}},
	"sleepers_runner_id_fkey":      {"sleepers", []string{"runner_id = -1"}},
	"slot_cause_known":             {"slot_log", []string{"cause = 'mood'"}},
	"slot_fate_known":              {"slot_log", []string{"fate = 'lost', job_id = null"}},
	"slot_job_named":               {"slot_log", []string{"job_id = null", "fate = 'missed'"}},
	"slot_range_whole":             {"slot_log", []string{"last_slot = slot", "fate = 'missed_range', job_id = null, last_slot = slot, slots = 0", "slots = 2"}},
	"task_most_rows_positive":      {"task_rules", []string{"most_rows = 0"}},
}

// rowsOfEachKind are lawful, two where something must differ between them.
const rowsOfEachKind = `
select pgtick.enqueue('echo'), pgtick.enqueue('echo');
select pgtick.register('r', '{default}', '{echo}');
select pgtick.claim((select max(id) from pgtick.runner_leases), '{default}', '{echo}', 1);
insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, created_at, schedule_id, slot)
  values ('slow', 'default', 5, now(), 1, '1 hour', '{}', now(), 1, '2026-01-01'), ('slow', 'default', 5, now(), 1, '1 hour', '{}', now(), 1, '2026-01-02');
insert into pgtick.history select h.* from (select (jsonb_populate_record(null::pgtick.history, to_jsonb(j) || '{"state": "done", "finished_at": "2026-01-01", "expires_on": "2026-01-08"}')).*
  from pgtick.live_jobs as j limit 1) as h;
insert into pgtick.job_notes (job_id) values (1);
select pgtick.set_limit('limited', 10, p_max_running => 3);
insert into pgtick.outages values ('2026-01-01', '2026-01-02');
select pgtick.schedule('one', '0 9 * * *', 'echo'), pgtick.schedule('two', '0 9 * * *', 'echo');
select pgtick.run_now('one');
insert into pgtick.overdue select s.id, now(), now() from pgtick.schedule_defs as s limit 1;
select pgtick.allow_task('asked', 10);
insert into pgtick.requests (owner_id, task, args, created_at, job_id, place)
  select '6f9619ff-8b86-4d11-b42d-00c04fc964ff', 'asked', '{}', now(), 0, n from generate_series(1, 2) as n;
select pgtick.set_retention(null, 'done', '7 days');
insert into pgtick.attempt_counts values ('1 minute', '2026-01-01', 1, 0, 0, '{}', '{}');
insert into pgtick.sequences (key) values ('s');
insert into pgtick.task_rules (task, most_rows, declared, set_at, set_by) values ('x', 7, false, now(), 'me');
update pgtick.applied_sql set hash = hash;`

// What no function does, a hand with psql may try; and a function that comes later may have a mistake.
func TestConstraints_EachTermOfEach_RefusesWhatBreaksIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "alter table pgtick.requests disable trigger user")
	_, err := db.Pool.Exec(t.Context(), rowsOfEachKind)
	require.NoError(t, err)
	for name, b := range breaks {
		for _, change := range b.changes {
			require.Equal(t, name, constraintOf(t, db, "update pgtick."+b.table+" set "+change), "%s: %s", b.table, change)
		}
	}
	require.Equal(t, all[string](t, db.Pool, `
		select c.conname::text collate "C" from pg_constraint as c
		where c.connamespace = 'pgtick'::regnamespace and c.contype in ('c', 'f', 'u') and c.conparentid = 0 and c.conislocal
		union
		select k.relname::text from pg_index as i join pg_class as k on k.oid = i.indexrelid
		where k.relnamespace = 'pgtick'::regnamespace and i.indisunique and not i.indisprimary and not k.relispartition
		order by 1`), slices.Sorted(maps.Keys(breaks)), "each constraint of the schema has its breaks")
}

// constraintOf is what refuses a statement.
func constraintOf(t *testing.T, db *pgtest.DB, sql string) string {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql)
	pg := new(pgconn.PgError)
	require.ErrorAs(t, err, &pg, sql)
	require.Equal(t, "23", pg.Code[:2], "%s: %s", sql, pg.Message)
	return pg.ConstraintName
}

// rowsOfTheRest are of the tables that have nothing but a primary key.
const rowsOfTheRest = `
select pgtick.adopt('here/db'), pgtick.pause_queue('quiet'), pgtick.create_batch('echo'), pgtick.set_retry_policy('echo', '{"kind": "list", "delays": ["1 s"]}');
select pgtick.enqueue('echo', p_after => array[2]), pgtick.enqueue('once', p_unique_key => 'k'), pgtick.allow_gate('empty', 'select 1 where false');
select pgtick.tick(), pgtick.maintain();
insert into pgtick.attempt_counts values ('1 minute', '2026-01-01', 1, 0, 0, '{}', '{}');
insert into pgtick.outages values ('2026-01-01', '2026-01-02');
insert into pgtick.installed values ('schedule', 'nightly', now()) on conflict do nothing;
insert into pgtick.settings values ('x', '1', now(), 'me');
insert into pgtick.allowed_functions values ('a.b', 'a.b()', 'me', now(), 'me');
insert into pgtick.limit_places values ('limited', '', '{1}');
insert into pgtick.unsettled (kind, what, noted_at) values ('job', '1', now());`

func TestPrimaryKeys_EachRefusesASecondRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool, "alter table pgtick.requests disable trigger user")
	for _, rows := range []string{rowsOfEachKind, rowsOfTheRest} {
		_, err := db.Pool.Exec(t.Context(), rows)
		require.NoError(t, err)
	}
	tables := all[string](t, db.Pool, `select t.relname::text from pg_class as t
		where t.relnamespace = 'pgtick'::regnamespace and t.relkind in ('r', 'p') and not t.relispartition and t.relname not in ('history', 'goose_db_version')`)
	require.Greater(t, len(tables), 30)
	for _, table := range tables {
		if !assert.NotZero(t, one[int](t, db.Pool, "select count(*) from pgtick."+table), "%s is empty", table) {
			continue
		}
		require.Regexp(t, "^"+table+"(_[0-9]+|_default)?_pkey$", constraintOf(t, db, "insert into pgtick."+table+" overriding system value select * from pgtick."+table+" limit 1"))
	}
}
