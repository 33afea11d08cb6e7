package web

import (
	"context"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// The SQL of the pages of queues and limits: one function a statement. Each finds by an index what it shows, or looks through a bounded number of rows and says
// so. pgtick.queues reads more than a page has, so pages read the tables below.

// queueDepth is what waits and runs in a queue. Each lane (a task and a priority of the queue) is counted up to countedMost; AtLeast says that
// some had more.
type queueDepth struct {
	Queue    string     `json:"queue"`
	Due      int64      `json:"due"`
	Retries  int64      `json:"retries"`
	Later    int64      `json:"later"`
	Blocked  int64      `json:"blocked"`
	Running  int64      `json:"running"`
	AtLeast  bool       `json:"at_least"`
	Oldest   *time.Time `json:"oldest"`
	Runners  int        `json:"runners"`
	PausedAt *time.Time `json:"paused_at"`
	PausedBy string     `json:"paused_by"`
	Reason   string     `json:"reason"`
	Tasks    []string   `json:"tasks"`
}

// countedMost is how many jobs of a lane are counted.
const countedMost = 10_000

// queueDepths lists the queues with live jobs, with a live runner, with a schedule, or paused. Lanes are found by steps over their index.
func queueDepths(ctx context.Context, db jobs.DB) ([]queueDepth, error) {
	// The planner thinks lanes short, and would read and sort all of one to have its first jobs.
	if _, err := db.Exec(ctx, `select set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)`); err != nil {
		return nil, failedTo("read the queues", err)
	}
	return collectRows(ctx, db, "read the queues", fromJSON[queueDepth], `with recursive lane as (
			(select j.task, j.queue, j.priority from pgtick.live_jobs as j order by j.task, j.queue, j.priority limit 1)
			union all
			select n.task, n.queue, n.priority from lane as l
			cross join lateral (select j.task, j.queue, j.priority from pgtick.live_jobs as j
				where (j.task, j.queue, j.priority) > (l.task, l.queue, l.priority) order by j.task, j.queue, j.priority limit 1) as n
		), clock as materialized (select pgtick.now() as now
		), counted as (
			select l.queue, l.task, c.*
			from lane as l
			cross join clock as n
			cross join lateral (
				select count(*) as jobs, count(*) filter (where x.runner_id is not null) as running,
					count(*) filter (where x.runner_id is null and x.run_at <= n.now) as due, min(x.run_at) filter (where x.runner_id is null and x.run_at <= n.now) as oldest,
					count(*) filter (where x.runner_id is null and x.run_at > n.now and x.run_at < 'infinity' and x.attempt = 0) as later,
					count(*) filter (where x.runner_id is null and x.run_at > n.now and x.run_at < 'infinity' and x.attempt > 0) as retries,
					count(*) filter (where x.runner_id is null and x.run_at = 'infinity') as blocked
				from (select j.runner_id, j.run_at, j.attempt from pgtick.live_jobs as j where j.task = l.task and j.queue = l.queue and j.priority = l.priority
					order by j.task, j.queue, j.priority, j.run_at, j.id + 0 limit $1::int) as x) as c
		), waiting as (
			select c.queue, sum(c.due)::bigint as due, sum(c.retries)::bigint as retries, sum(c.later)::bigint as later, sum(c.blocked)::bigint as blocked,
				sum(c.running)::bigint as running, bool_or(c.jobs = $1::int) as at_least, min(c.oldest) as oldest, array_agg(distinct c.task) as tasks
			from counted as c group by c.queue
		), served as (
			select q.queue, count(*)::int as runners from pgtick.runner_leases as r cross join clock as n cross join unnest(r.queues) as q(queue)
			where r.freed_at is null and r.ended_at is null and r.lease_until > n.now group by q.queue
		)
		select row_to_json(r)::text from (
			select q.queue, coalesce(w.due, 0) as due, coalesce(w.retries, 0) as retries, coalesce(w.later, 0) as later, coalesce(w.blocked, 0) as blocked, coalesce(w.running, 0) as running,
				coalesce(w.at_least, false) as at_least, w.oldest, coalesce(s.runners, 0) as runners, p.paused_at, coalesce(p.paused_by, '') as paused_by, coalesce(p.reason, '') as reason,
				coalesce(w.tasks, '{}') as tasks
			from (select w.queue from waiting as w union select s.queue from served as s union select p.queue from pgtick.paused_queues as p) as q
			left join waiting as w on w.queue = q.queue
			left join served as s on s.queue = q.queue
			left join pgtick.paused_queues as p on p.queue = q.queue
			order by q.queue limit 1000) as r`, countedMost)
}

// pauseOf tells since when, by whom and why a queue is paused; nil: it is not.
func pauseOf(ctx context.Context, db jobs.DB, queue string) (*queueDepth, error) {
	found, err := collectRows(ctx, db, "read the pause", fromJSON[queueDepth], `select row_to_json(r)::text from (
		select p.queue, p.paused_at, p.paused_by, coalesce(p.reason, '') as reason from pgtick.paused_queues as p where p.queue = $1::text) as r`, queue)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// taskLimit is a row of pgtick.limits, with the keys in use.
type taskLimit struct {
	Task       string    `json:"task"`
	PerKey     bool      `json:"per_key"`
	Rate       int64     `json:"rate"`
	Period     string    `json:"period"`
	Burst      int64     `json:"burst"`
	MaxRunning int       `json:"max_running"`
	Declared   bool      `json:"declared"`
	SetAt      time.Time `json:"set_at"`
	SetBy      string    `json:"set_by"`
	Running    *int      `json:"running"`
	Keys       []keyUse  `json:"keys"`
}

// keyUse is how many jobs of a limit key run.
type keyUse struct {
	Key     string `json:"key"`
	Running int    `json:"running"`
}

// mostKeys is how many keys of a limit are shown.
const mostKeys = 20

// taskLimits lists the limits, the first thousand, each by key with its first keys in use.
func taskLimits(ctx context.Context, db jobs.DB) ([]taskLimit, error) {
	return collectRows(ctx, db, "read the limits", fromJSON[taskLimit], `select row_to_json(r)::text from (
			select d.task, d.per_key, coalesce(d.rate, 0) as rate, coalesce(d.period::text, '') as period, coalesce(d.burst, 0) as burst, coalesce(d.max_running, 0) as max_running, d.declared, d.set_at, d.set_by,
				case when not d.per_key and d.max_running is not null then coalesce(cardinality(p.holders), 0) end as running,
				case when d.per_key and d.max_running is not null then (select json_agg(k) from (
					select h.key, cardinality(h.holders) as running from pgtick.limit_places as h where h.task = d.task and h.key > '' order by h.key limit $1::int) as k) end as keys
			from (select x.* from pgtick.limit_defs as x order by x.task, x.per_key limit 1000) as d
			left join pgtick.limit_places as p on p.task = d.task and p.key = ''
			order by d.task, d.per_key) as r`, mostKeys+1)
}

// setLimit limits a task; an empty text leaves that part out.
func setLimit(ctx context.Context, db jobs.DB, task string, rate, burst, maxRunning *int64, period *string, perKey bool) error {
	_, err := db.Exec(ctx, `select pgtick.set_limit($1::text, $2::bigint, coalesce($3::text::interval, interval '1 second'), $4::bigint, $5::bigint::int, $6::boolean)`, task, rate, period, burst, maxRunning, perKey)
	return failedTo("set the limit", err)
}

// removeLimit takes one away.
func removeLimit(ctx context.Context, db jobs.DB, task string, perKey bool) error {
	_, err := db.Exec(ctx, `select pgtick.remove_limit($1::text, $2::boolean)`, task, perKey)
	return failedTo("remove the limit", err)
}
