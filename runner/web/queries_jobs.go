package web

import (
	"cmp"
	"context"
	"slices"

	"github.com/pgtick/pgtick/runner/jobs"
)

// What a list shows of a job. Of what may be large it reads the beginning, or nothing.
const (
	jobLineSQL = `select coalesce(json_agg(x), '[]') from (
		select j.id, j.task, j.queue, j.state, j.attempt, j.uncounted, j.max_attempts, j.run_at, j.created_at, j.started_at, j.finished_at, j.progress, j.note, j.blocked_by,
			case when pg_column_size(j.result) <= 1000 then j.result end as result,
			case when j.last_error is not null then jsonb_build_object('message', left(case jsonb_typeof(j.last_error) when 'object' then coalesce(j.last_error ->> 'message', j.last_error::text)
				else j.last_error #>> '{}' end, 500)) end as last_error
		from pgtick.jobs as j where j.id = any ($1::bigint[])) as x`
	jobWholeSQL = `select coalesce(json_agg(x), '[]') from pgtick.jobs as x where x.id = any ($1::bigint[])`
)

// jobLines reads jobs for a list, in the order of their ids there; whole, with all that was searched through. One that has been dropped is left out.
func jobLines(ctx context.Context, db jobs.DB, ids []int64, whole bool) (lines []jobs.JobView, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	sql := jobLineSQL
	if whole {
		sql = jobWholeSQL
	}
	if lines, err = jsonRow[[]jobs.JobView](ctx, db, sql, ids); err != nil {
		return nil, err
	}
	place := make(map[int64]int, len(ids))
	for i, id := range ids {
		place[id] = i
	}
	slices.SortFunc(lines, func(a, b jobs.JobView) int { return cmp.Compare(place[a.ID], place[b.ID]) })
	return lines, nil
}

// jobNames are names to choose from: those of live jobs, found by steps from one to the next, of live runners and of schedules.
type jobNames struct {
	Tasks     []string `json:"tasks"`
	Queues    []string `json:"queues"`
	Schedules []string `json:"schedules"`
}

func namesOfJobs(ctx context.Context, db jobs.DB) (jobNames, error) {
	return jsonRow[jobNames](ctx, db, `with recursive lane(task, queue) as (
			(select j.task, j.queue from pgtick.live_jobs as j order by j.task, j.queue limit 1)
			union all
			select n.task, n.queue from lane as l cross join lateral (
				select j.task, j.queue from pgtick.live_jobs as j where (j.task, j.queue) > (l.task, l.queue) order by j.task, j.queue limit 1) as n
		), few as materialized (
			select l.task, l.queue from lane as l limit 300
		), runners as (
			select r.tasks, r.queues from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null order by r.id limit 100
		), schedules as (
			select s.name, s.task, s.queue from pgtick.schedule_defs as s where s.removed_at is null order by s.id limit 300
		)
		select json_build_object(
			'tasks', array(select s.task from few as s union select unnest(r.tasks) from runners as r union select s.task from schedules as s order by 1 limit 300),
			'queues', array(select s.queue from few as s union select unnest(r.queues) from runners as r union select s.queue from schedules as s order by 1 limit 300),
			'schedules', array(select s.name from schedules as s order by 1))`)
}

// relative is a job beside another: one that it waits for, or that waits for it.
type relative struct {
	ID    int64   `json:"id"`
	Of    int64   `json:"of"` // of those that wait: for which
	Task  string  `json:"task"`
	State string  `json:"state"`
	After []int64 `json:"after"`
}

// jobsNamed reads jobs by their ids; what is not there has been dropped.
func jobsNamed(ctx context.Context, db jobs.DB, ids []int64) ([]relative, error) {
	return jsonRow[[]relative](ctx, db, `select coalesce(json_agg(x), '[]') from (
		select j.id, j.task, case when j.runner_id is null then 'ready' else 'running' end as state, j.after_jobs as after from pgtick.live_jobs as j where j.id = any ($1::bigint[])
		union all
		select h.id, h.task, h.state, h.after_jobs from pgtick.history as h where h.id = any ($1::bigint[])) as x`, ids)
}

// jobsWaitingFor reads live jobs that wait for any of these.
func jobsWaitingFor(ctx context.Context, db jobs.DB, ids []int64, most int) ([]relative, error) {
	return jsonRow[[]relative](ctx, db, `select coalesce(json_agg(x), '[]') from (
		select j.id, l.on_job_id as of, j.task, case when j.runner_id is null then 'ready' else 'running' end as state
		from (select k.on_job_id, k.job_id from pgtick.job_links as k where k.on_job_id = any ($1::bigint[]) order by k.on_job_id, k.job_id limit $2::int) as l
		join pgtick.live_jobs as j on j.id = l.job_id order by j.id) as x`, ids, most)
}

// besideJob is what stands around one job.
type besideJob struct {
	Runner  string       `json:"runner"`
	Batches []batchShown `json:"batches"` // the one that it is part of, and the one whose callback it is
	Ahead   *int         `json:"ahead"`   // of its sequence: how many live jobs come before it
	Stopped *int64       `json:"stopped"` // and the job that holds the sequence up
	Cancel  string       `json:"cancel"`  // who has asked a running job to stop
}

// batchShown has counts up to mostInBatch.
type batchShown struct {
	ID         int64          `json:"id"`
	JobID      *int64         `json:"job_id"`
	FinishedAt *string        `json:"finished_at"`
	Any        bool           `json:"any"`
	Live       int            `json:"live"`
	Ended      map[string]int `json:"ended"`
}

const (
	mostInBatch = 10_000
	mostAhead   = 1000
)

// readBeside counts what may be many only so far.
func readBeside(ctx context.Context, db jobs.DB, j jobs.JobView) (b besideJob, err error) {
	return jsonRow[besideJob](ctx, db, `select json_build_object(
		'runner', (select r.name from pgtick.runner_leases as r where r.id = $4::bigint),
		'batches', (select coalesce(json_agg(x order by x.id), '[]') from (
			select b.id, b.job_id, b.finished_at::text, b.any_outcome as any,
				(select count(*) from (select from pgtick.live_jobs as j where j.batch_id = b.id limit $5::int + 1) as l) as live,
				(select coalesce(json_object_agg(e.state, e.n), '{}') from (
					select h.state, count(*) as n from (select h.state from pgtick.history as h where h.batch_id = b.id limit $5::int + 1) as h group by h.state) as e) as ended
			from pgtick.batch_defs as b where b.id = any (array(select d.id from pgtick.batch_defs as d where d.id = $2::bigint or d.job_id = $1::bigint limit 10))) as x),
		'ahead', case when $3::text <> '' then (select count(*) from (select from pgtick.live_jobs as x where x.sequence_key = $3::text and x.id + 0 < $1::bigint limit $6::int) as y) end,
		'stopped', (select s.stops[1] from pgtick.sequences as s where s.key = $3::text),
		'cancel', (select coalesce(n.cancel_requested_by, '') from pgtick.job_notes as n where n.job_id = $1::bigint))`, j.ID, j.BatchID, j.SequenceKey, j.RunnerID, mostInBatch, mostAhead)
}

func resumeSequence(ctx context.Context, db jobs.DB, key string) error {
	_, err := db.Exec(ctx, `select pgtick.resume_sequence($1::text)`, key)
	return err
}

// oneOfMany runs f so that what it changes can be taken back alone.
func oneOfMany(ctx context.Context, db jobs.DB, f func() error) error {
	if _, err := db.Exec(ctx, `savepoint pgtick_one`); err != nil {
		return err
	}
	refused := f()
	end := `release savepoint pgtick_one`
	if refused != nil {
		end = `rollback to savepoint pgtick_one`
	}
	if _, err := db.Exec(ctx, end); err != nil {
		return err
	}
	return refused
}
