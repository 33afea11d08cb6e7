-- What to look at. security_invoker: each reader sees what the policies of the tables below give to that reader.

-- Three branches with the state as a constant: a question for one state reads only where it can be.
create or replace view pgtick.jobs with (security_invoker = true) as
select j.id, j.task, j.queue, 'ready' as state, j.args, j.priority, j.attempt, j.max_attempts,
  j.run_at, j.created_at, j.started_at, null::timestamptz as finished_at, s.name as schedule, j.slot, j.owner_id, n.done as progress, n.note,
  null::jsonb as result, j.earlier_attempts -> -1 -> 'error' as last_error, j.runner_id, j.uncounted, j.timeout, j.blocked_by,
  j.uniqueness ->> 'key' as unique_key, j.retry_policy, j.batch_id, j.sequence_key, j.limit_key, j.after_jobs as after, j.wanted_at, j.trace_context
from pgtick.live_jobs as j
left join pgtick.job_notes as n on n.job_id = j.id
left join pgtick.schedule_defs as s on s.id = j.schedule_id
where j.runner_id is null
union all
select j.id, j.task, j.queue, 'running', j.args, j.priority, j.attempt, j.max_attempts,
  j.run_at, j.created_at, j.started_at, null, s.name, j.slot, j.owner_id, n.done, n.note,
  null, j.earlier_attempts -> -1 -> 'error', j.runner_id, j.uncounted, j.timeout, null,
  j.uniqueness ->> 'key', j.retry_policy, j.batch_id, j.sequence_key, j.limit_key, j.after_jobs, null, j.trace_context
from pgtick.live_jobs as j
left join pgtick.job_notes as n on n.job_id = j.id
left join pgtick.schedule_defs as s on s.id = j.schedule_id
where j.runner_id is not null
union all
select h.id, h.task, h.queue, h.state, h.args, h.priority, h.attempt, h.max_attempts,
  h.run_at, h.created_at, h.started_at, h.finished_at, s.name, h.slot, h.owner_id, h.done, h.note,
  h.result, coalesce(h.error, h.earlier_attempts -> -1 -> 'error'), h.runner_id, h.uncounted, h.timeout, null,
  h.uniqueness ->> 'key', h.retry_policy, h.batch_id, h.sequence_key, h.limit_key, h.after_jobs, null, h.trace_context
from pgtick.history as h
left join pgtick.schedule_defs as s on s.id = h.schedule_id;
comment on view pgtick.jobs is 'Every job, live and finished, one row each; finished ones until they expire (done 7 days, failed and cancelled 30, or as set_retention said). By id, owner, task, and for failed and cancelled ones by state, a look-up in an index.';
comment on column pgtick.jobs.id is 'As returned by pgtick.enqueue.';
comment on column pgtick.jobs.task is 'The name of the code that runs it.';
comment on column pgtick.jobs.queue is 'Where it waits.';
comment on column pgtick.jobs.state is 'ready (also: waiting for run_at, or between attempts), running, done, failed, cancelled.';
comment on column pgtick.jobs.args is 'A JSON object for the task.';
comment on column pgtick.jobs.priority is '0 (first) to 9 (last).';
comment on column pgtick.jobs.attempt is 'Claims so far, the present one included.';
comment on column pgtick.jobs.max_attempts is 'Attempts that count before it fails; see uncounted.';
comment on column pgtick.jobs.run_at is 'When it may run, at the earliest; infinity while it is blocked.';
comment on column pgtick.jobs.created_at is 'When it was enqueued.';
comment on column pgtick.jobs.started_at is 'When the present, or the last, attempt started; null while it waits.';
comment on column pgtick.jobs.finished_at is 'When it ended; null while it is live.';
comment on column pgtick.jobs.schedule is 'The schedule that made it, or null.';
comment on column pgtick.jobs.slot is 'The planned time that it was made for, or null.';
comment on column pgtick.jobs.owner_id is 'The end user who may see it in my_jobs, or null.';
comment on column pgtick.jobs.progress is 'The share done, 0 to 1, as the task last said.';
comment on column pgtick.jobs.note is 'What the task last said.';
comment on column pgtick.jobs.result is 'What the task returned, at most 64 KiB.';
comment on column pgtick.jobs.last_error is 'The error of the latest attempt that had one: message, stack.';
comment on column pgtick.jobs.runner_id is 'The runner of the present, or the last, attempt; see pgtick.runners.';
comment on column pgtick.jobs.uncounted is 'How many of its attempts do not count towards max_attempts: snoozed, released, given back to wait for other jobs, or lost with their runner.';
comment on column pgtick.jobs.timeout is 'How long one attempt may take.';
comment on column pgtick.jobs.blocked_by is
  'What it waits for besides its time: overlap (an earlier job of its schedule), after (other jobs), batch (the jobs of the batch whose callback it is), sequence (an earlier job of its sequence), limit (a place among those of its limit key that may run); then run_at is infinity. Null = nothing.';
comment on column pgtick.jobs.unique_key is 'While it is in one of its unique states no other job of its task with this key is enqueued; null = it is not unique.';
comment on column pgtick.jobs.retry_policy is 'When to try again after an error; null = as pgtick.set_retry_policy said for its task, or the default.';
comment on column pgtick.jobs.batch_id is 'The batch that it is part of; see pgtick.batches.';
comment on column pgtick.jobs.sequence_key is 'Jobs with the same one run one at a time, in the order of their ids.';
comment on column pgtick.jobs.limit_key is 'What it counts for under the limits by key of its task.';
comment on column pgtick.jobs.after is 'The jobs that it was to wait for, its children included.';
comment on column pgtick.jobs.wanted_at is 'Of a blocked job: when it is to run once nothing is in its way.';
comment on column pgtick.jobs.trace_context is 'The trace in which it was enqueued: traceparent, tracestate.';

create or replace view pgtick.my_jobs with (security_invoker = true) as
select j.id, j.task, case when j.runner_id is null then 'ready' else 'running' end as state, n.done as progress, n.note,
  j.created_at, j.started_at, null::timestamptz as finished_at
from pgtick.live_jobs as j
left join pgtick.job_notes as n on n.job_id = j.id
where j.owner_id = (select pgtick.user_id())
union all
select h.id, h.task, h.state, h.done, h.note, h.created_at, h.started_at, h.finished_at
from pgtick.history as h
where h.owner_id = (select pgtick.user_id());
comment on view pgtick.my_jobs is 'The jobs of the end user who asks (owner_id = the JWT''s subject), without arguments, results and errors.';
comment on column pgtick.my_jobs.id is 'As returned by pgtick.enqueue.';
comment on column pgtick.my_jobs.task is 'The name of the code that runs it.';
comment on column pgtick.my_jobs.state is 'ready, running, done, failed, cancelled.';
comment on column pgtick.my_jobs.progress is 'The share done, 0 to 1.';
comment on column pgtick.my_jobs.note is 'What the task last said.';
comment on column pgtick.my_jobs.created_at is 'When it was enqueued.';
comment on column pgtick.my_jobs.started_at is 'When the present, or the last, attempt started.';
comment on column pgtick.my_jobs.finished_at is 'When it ended; null while it is live.';

create or replace view pgtick.attempts with (security_invoker = true) as
select a.job_id, a.attempt, a.started_at, a.finished_at, r.name as runner, a.outcome, a.error
from (
  select j.id as job_id, e.attempt, e.started_at, e.finished_at, e.runner_id, e.outcome, e.error
  from pgtick.live_jobs as j
  cross join lateral jsonb_to_recordset(j.earlier_attempts)
    as e(attempt integer, started_at timestamptz, finished_at timestamptz, runner_id bigint, outcome text, error jsonb)
  union all
  select j.id, j.attempt, j.started_at, null, j.runner_id, 'running', null
  from pgtick.live_jobs as j where j.runner_id is not null
  union all
  select h.id, e.attempt, e.started_at, e.finished_at, e.runner_id, e.outcome, e.error
  from pgtick.history as h
  cross join lateral jsonb_to_recordset(h.earlier_attempts)
    as e(attempt integer, started_at timestamptz, finished_at timestamptz, runner_id bigint, outcome text, error jsonb)
  union all
  select h.id, h.attempt, h.started_at, h.finished_at, h.runner_id, h.state, h.error
  from pgtick.history as h where h.started_at is not null
) as a
left join pgtick.runner_leases as r on r.id = a.runner_id;
comment on view pgtick.attempts is 'One row an attempt; of a job with more than a hundred, the latest. Ask by job_id.';
comment on column pgtick.attempts.job_id is 'The job.';
comment on column pgtick.attempts.attempt is 'Its number: 1 for the first claim.';
comment on column pgtick.attempts.started_at is 'When it was claimed.';
comment on column pgtick.attempts.finished_at is 'When its outcome was taken; null while it runs.';
comment on column pgtick.attempts.runner is 'The name of the runner; null for one that ended more than 60 days ago.';
comment on column pgtick.attempts.outcome is 'running, done, failed, cancelled; error (tried again), snoozed, released, waiting (for other jobs), lost (with its runner).';
comment on column pgtick.attempts.error is 'message and stack, cut at 8 KiB.';

create or replace view pgtick.runners with (security_invoker = true) as
select r.id, r.name, r.queues, r.tasks, r.version, r.lease_until, r.lease, r.registered_at, r.heartbeat_at, r.wakes,
  case when r.ended_as is not null then r.ended_as when r.lease_until <= pgtick.now() then 'late' else 'alive' end as state, r.ended_at,
  r.workers, r.refused, r.limits_local
from pgtick.runner_leases as r;
comment on view pgtick.runners is 'Runners, one row a registration, those that ended for 60 days.';
comment on column pgtick.runners.id is 'As returned by pgtick.register.';
comment on column pgtick.runners.name is 'As it calls itself; not unique.';
comment on column pgtick.runners.queues is 'The queues that it serves.';
comment on column pgtick.runners.tasks is 'The tasks that it serves.';
comment on column pgtick.runners.version is 'Of its program.';
comment on column pgtick.runners.lease_until is 'Until when its claims are safe without another heartbeat.';
comment on column pgtick.runners.lease is 'How far a heartbeat moves lease_until.';
comment on column pgtick.runners.registered_at is 'When it started.';
comment on column pgtick.runners.heartbeat_at is 'Its last heartbeat.';
comment on column pgtick.runners.wakes is 'false: no NOTIFY reaches it, it only polls (a pooler in transaction mode); null: not known.';
comment on column pgtick.runners.state is 'alive; late (the lease has run out, rescue will look twice); left; dead.';
comment on column pgtick.runners.ended_at is 'When it left or was found dead.';
comment on column pgtick.runners.workers is 'How many attempts it runs at a time; null = it did not say.';
comment on column pgtick.runners.limits_local is 'true: it has no Redis, so that all runners share out the rates among themselves; false: it has; null: it has no rate to keep.';
comment on column pgtick.runners.refused is 'How many of its reports came under an old fence, and changed nothing.';

create or replace view pgtick.queues with (security_invoker = true) as
with waiting as (
  select j.queue, count(*) filter (where j.runner_id is null and j.run_at <= n.now) as depth,
    count(*) filter (where j.runner_id is null and j.run_at > n.now) as scheduled, count(*) filter (where j.runner_id is not null) as running,
    min(j.run_at) filter (where j.runner_id is null and j.run_at <= n.now) as oldest
  from pgtick.live_jobs as j, (select pgtick.now() as now offset 0) as n
  group by j.queue
), served as (
  select q.queue, count(*) as runners
  from pgtick.runner_leases as r cross join unnest(r.queues) as q(queue)
  where r.freed_at is null and r.ended_at is null and r.lease_until > pgtick.now()
  group by q.queue
)
select q.queue, coalesce(w.depth, 0) as depth, w.oldest, coalesce(w.scheduled, 0) as scheduled, coalesce(w.running, 0) as running,
  coalesce(s.runners, 0) as runners, p.paused_at, p.paused_by, p.reason
from (select w.queue from waiting as w union select s.queue from served as s union select p.queue from pgtick.paused_queues as p) as q
left join waiting as w on w.queue = q.queue
left join served as s on s.queue = q.queue
left join pgtick.paused_queues as p on p.queue = q.queue;
comment on view pgtick.queues is 'Queues with live jobs, with a live runner, or paused. Counts all live jobs.';
comment on column pgtick.queues.queue is 'Its name.';
comment on column pgtick.queues.depth is 'Jobs that could run now.';
comment on column pgtick.queues.oldest is 'Since when the longest of them could.';
comment on column pgtick.queues.scheduled is 'Jobs that wait for their time, a retry or another job.';
comment on column pgtick.queues.running is 'Jobs that runners have claimed.';
comment on column pgtick.queues.runners is 'Live runners that serve it.';
comment on column pgtick.queues.paused_at is 'Since when it is paused; null = it is not.';
comment on column pgtick.queues.paused_by is 'Who paused it: the JWT''s subject, or the login role.';
comment on column pgtick.queues.reason is 'What they said.';

create or replace view pgtick.batches with (security_invoker = true) as
select b.id, b.job_id, b.created_at, b.finished_at, case when b.any_outcome then 'any' else 'done' end as outcome, l.live, h.done, h.failed, h.cancelled
from pgtick.batch_defs as b
cross join lateral (select count(*) as live from pgtick.live_jobs as j where j.batch_id = b.id) as l
cross join lateral (
  select count(*) filter (where x.state = 'done') as done, count(*) filter (where x.state = 'failed') as failed, count(*) filter (where x.state = 'cancelled') as cancelled
  from pgtick.history as x where x.batch_id = b.id) as h;
comment on view pgtick.batches is 'Batches, and what has become of their jobs. Ask by id or job_id: all jobs of a batch are counted. Kept for 400 days; finished jobs count as long as they are kept.';
comment on column pgtick.batches.id is 'As returned by pgtick.create_batch.';
comment on column pgtick.batches.job_id is 'The callback: the job that runs when all others have ended.';
comment on column pgtick.batches.created_at is 'When it was made.';
comment on column pgtick.batches.finished_at is 'When all its jobs had ended; null = not yet.';
comment on column pgtick.batches.outcome is 'any: the callback runs whatever became of them; done: only where all are done, otherwise it is cancelled.';
comment on column pgtick.batches.live is 'Jobs that have not ended.';
comment on column pgtick.batches.done is 'Jobs that are done.';
comment on column pgtick.batches.failed is 'Jobs that have failed for good.';
comment on column pgtick.batches.cancelled is 'Jobs that were cancelled.';

create or replace view pgtick.sequence_stops with (security_invoker = true) as
select s.key, s.stops[1] as stopped_by, s.stopped_at, x.waiting
from pgtick.sequences as s
cross join lateral (select count(*) as waiting from pgtick.live_jobs as j where j.sequence_key = s.key and j.id > s.stops[1]) as x
where s.stops is not null;
comment on view pgtick.sequence_stops is 'Sequences that a failed or cancelled job holds up. pgtick.retry of that job, or pgtick.resume_sequence, lets them go on.';
comment on column pgtick.sequence_stops.key is 'The sequence key.';
comment on column pgtick.sequence_stops.stopped_by is 'The job; after resume_sequence, the next one behind it that does so, if there is one.';
comment on column pgtick.sequence_stops.stopped_at is 'Since when.';
comment on column pgtick.sequence_stops.waiting is 'How many jobs wait behind it.';

create or replace view pgtick.limits with (security_invoker = true) as
select d.task, d.per_key, d.rate, d.period, d.burst, d.max_running, d.declared, d.set_at, d.set_by, cardinality(p.holders) as running
from pgtick.limit_defs as d
left join pgtick.limit_places as p on p.task = d.task and p.key = '' and not d.per_key and d.max_running is not null;
comment on view pgtick.limits is 'How many jobs of a task may start in a time, and run at once.';
comment on column pgtick.limits.task is 'The task.';
comment on column pgtick.limits.per_key is 'false: of all its jobs together; true: of each limit_key.';
comment on column pgtick.limits.rate is 'How many may start in a period; null = any number.';
comment on column pgtick.limits.period is 'The time that the rate is for.';
comment on column pgtick.limits.burst is 'How many of them may start at once.';
comment on column pgtick.limits.max_running is 'How many may run at once; null = any number.';
comment on column pgtick.limits.declared is 'true: by a runner''s code; false: by set_limit.';
comment on column pgtick.limits.set_at is 'Since when.';
comment on column pgtick.limits.set_by is 'By whom: the JWT''s subject, or the login role.';
comment on column pgtick.limits.running is 'How many run now, where max_running holds for the whole task.';

-- Tasks with ready jobs that wait and no live runner: found by steps over the lane index, whatever the number of rows.
create or replace function pgtick.waiting_tasks()
returns table (task text, since timestamptz)
language sql stable parallel safe
set search_path = ''
as $$
  with recursive step as (
    select (select min(j.task) from pgtick.live_jobs as j) as task
    union all
    select (select min(j.task) from pgtick.live_jobs as j where j.task > s.task) from step as s where s.task is not null
  )
  select s.task, first.run_at
  from step as s
  cross join lateral (
    select j.run_at from pgtick.live_jobs as j where j.task = s.task and j.runner_id is null and j.run_at <= pgtick.now() limit 1) as first
  where s.task is not null
$$;
comment on function pgtick.waiting_tasks() is 'The tasks of which at least one job could run now, and since when one of them could.';

create or replace view pgtick.health with (security_invoker = true) as
with alive as materialized (
  select r.id, r.name, r.tasks, r.wakes, r.limits_local from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null and r.lease_until > pgtick.now()
)
select 'a committed job runs' as promise, 'task without a runner' as what, format('task %s: a job waits since %s, and no live runner serves it', w.task, w.since) as evidence,
  'Start a runner that has this task, or cancel its jobs.' as remedy
from pgtick.waiting_tasks() as w
where not exists (select from alive as a where w.task = any (a.tasks))
union all
select 'a committed job runs', 'schedule without a runner', format('schedule %s: no live runner serves its task %s', s.name, s.task), 'Start a runner that has this task, or correct the schedule.'
from pgtick.schedule_defs as s
where s.next_at is not null and not exists (select from alive as a where s.task = any (a.tasks))
union all
select h.promise, h.what, h.evidence, h.remedy from pgtick.schedule_health() as h
union all
select 'a committed job runs', 'runner late', format('runner %s (%s): its lease ran out at %s', r.name, r.id, r.lease_until), 'It is frozen, cut off or dead; rescue() gives its jobs back.'
from pgtick.runner_leases as r
where r.freed_at is null and (r.ended_at is not null or r.lease_until <= pgtick.now())
union all
select 'a notification is a hint', 'runner only polls', format('runner %s (%s): no NOTIFY reaches it', a.name, a.id), 'Give it a direct or session-mode connection by LISTEN_DATABASE_URL.'
from alive as a where a.wakes is false
union all
select 'limits hold without Redis', 'runner without Redis', format('runner %s (%s): each live runner keeps its share of each rate by itself', a.name, a.id),
  'See its log. Set REDIS_URL, or put Redis right; rates are kept meanwhile, less evenly.'
from alive as a where a.limits_local
union all
select 'a committed job runs', 'sequence stopped', format('sequence %s: job %s has failed or was cancelled at %s, and the jobs behind it wait', s.key, s.stops[1], s.stopped_at),
  format('select pgtick.retry(%s); or go on without it: select pgtick.resume_sequence(%L);', s.stops[1], s.key)
from pgtick.sequences as s where s.stops is not null and exists (select from pgtick.live_jobs as j where j.sequence_key = s.key and j.id > s.stops[1])
union all
select 'speed does not decay with history', 'old transaction', format('%s, open since %s by %s: %s', coalesce('pid ' || o.pid, 'a prepared transaction'), o.since, o.who, o.what),
  coalesce(format('End it: select pg_terminate_backend(%s); until then what it may still see cannot be cleaned away.', o.pid), 'Commit it or roll it back.')
from pgtick.old_transactions('15 minutes') as o
union all
select 'speed does not decay with history', 'upkeep', format('%s, at %s: %s', u.what, u.done_at, coalesce(u.problem, 'not done for more than three hours')), 'call pgtick.run_ticks(), or select pgtick.maintain(); an open transaction on pgtick.history may be in its way.'
from pgtick.upkeep as u where u.problem is not null or (u.what = 'maintain' and u.done_at < pgtick.now() - interval '3 hours');
comment on view pgtick.health is 'What does not hold now, a row each; empty when all is well.';
comment on column pgtick.health.promise is 'The promise that is in danger.';
comment on column pgtick.health.what is 'The kind of problem.';
comment on column pgtick.health.evidence is 'What was seen.';
comment on column pgtick.health.remedy is 'What to do.';
