-- What a job may say of itself (unique, retried by a policy of its own), what people may say of queues and tasks (paused, retention, retry
-- policy), and the record of what they did. New columns are null, so no table is written anew.
-- +goose Up

alter table pgtick.live_jobs add column uniqueness jsonb, add column retry_policy jsonb;
comment on column pgtick.live_jobs.uniqueness is 'Of a unique job: key, states (in which another one with this key is not enqueued) and until (infinity = as long as it is in one of them). See pgtick.unique_keys.';
comment on column pgtick.live_jobs.retry_policy is 'When to try again after an error; null = as its task''s policy says, or the default.';
alter table pgtick.history add column uniqueness jsonb, add column retry_policy jsonb;
comment on column pgtick.history.expires_on is 'The day (UTC) on which maintain() drops this row: 7 days after the end of a done job, 30 of any other, or as set_retention said when it ended; the first of a month where that is more than 40 days off.';
-- A lane's last column is id + 0, so that nobody who looks for an id may be given this index: it would be read from end to end for each
-- look. (A plan that was made while the table was empty did so, since all indexes cost the same then, and was kept.)
drop index pgtick.live_jobs_lane_idx;
create index live_jobs_lane_idx on pgtick.live_jobs (task, queue, priority, run_at, (id + 0));
-- Failed and cancelled jobs are few, and looked for by state; done ones are nearly all, so an index would not help to find them.
create index history_state_idx on pgtick.history (state, finished_at) where state <> 'done';

-- Uniqueness cannot be an index on jobs: it may outlive the job's row in live_jobs, and history has no unique index across its partitions.
create table pgtick.unique_keys (
  task text not null,
  key text not null,
  job_id bigint not null,
  states text[] not null,
  until timestamptz not null,
  ended_as text,
  primary key (task, key)
) with (fillfactor = 70);
comment on table pgtick.unique_keys is 'Which job holds a unique key of its task. A row whose job is in none of the states any more, or whose time is past, holds nothing: the next enqueue takes it over, and maintain() deletes it.';
-- The end of a job finds its key by it.
create index unique_keys_job_idx on pgtick.unique_keys (job_id);
comment on column pgtick.unique_keys.states is 'In these states of the job no other one with this key is enqueued.';
comment on column pgtick.unique_keys.until is 'After this moment the key is free whatever the job''s state; infinity = never by time.';
comment on column pgtick.unique_keys.ended_as is 'The state in which the job has ended, where its end could note it; null = look at the job.';

create table pgtick.paused_queues (
  queue text primary key,
  paused_at timestamptz not null,
  paused_by text not null,
  reason text
);
comment on table pgtick.paused_queues is 'Queues of which no job is claimed, until pgtick.resume_queue deletes the row.';

create table pgtick.retry_policies (
  task text primary key,
  policy jsonb not null,
  set_at timestamptz not null,
  set_by text not null
);
comment on table pgtick.retry_policies is 'When to try jobs of a task again after an error, where that is not the default. Write through pgtick.set_retry_policy.';

create table pgtick.retentions (
  task text not null,
  queue text not null,
  state text not null,
  days integer not null,
  set_at timestamptz not null,
  set_by text not null,
  primary key (state, task, queue),
  constraint retention_state_final check (state in ('done', 'failed', 'cancelled')),
  constraint retention_within check (days between 1 and 400)
);
comment on table pgtick.retentions is 'How long finished jobs are kept where that is not the default. The empty name stands for every task, or queue. Write through pgtick.set_retention.';

create table pgtick.audit (
  id bigint generated always as identity primary key,
  at timestamptz not null,
  by_whom text not null,
  action text not null,
  subject text not null,
  details jsonb
);
comment on table pgtick.audit is 'What people did to queues and jobs: who, what, when. maintain() keeps it for 400 days.';
comment on column pgtick.audit.by_whom is 'The JWT''s subject, or the login role.';
comment on column pgtick.audit.action is 'The function that was called.';
comment on column pgtick.audit.subject is 'The queue, the task, the job''s id, or the filter.';
comment on column pgtick.audit.details is 'What was said or changed; how many jobs it met.';
create index audit_subject_idx on pgtick.audit (subject, at);

alter table pgtick.runner_leases add column workers integer, add column deadline_at timestamptz, add column refused bigint not null default 0,
  add constraint runner_workers_positive check (workers > 0);
comment on column pgtick.runner_leases.workers is 'How many attempts it runs at a time; null = it did not say.';
comment on column pgtick.runner_leases.deadline_at is 'The earliest end of a timeout among the claims it named in its last heartbeat; infinity = it has none; null = it named none, so rescue() looks by itself.';
comment on column pgtick.runner_leases.refused is 'Reports that came under an old fence.';
