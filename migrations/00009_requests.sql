-- Jobs that end users ask for themselves, and which tasks they may ask for. Creates only; no lock that anybody could wait for.
-- +goose Up

create table pgtick.allowed_tasks (
  task text primary key,
  quota integer not null,
  period interval not null,
  queue text not null,
  priority smallint not null,
  max_attempts integer not null,
  timeout interval not null,
  allowed_at timestamptz not null,
  allowed_by text not null,
  constraint allowed_task_quota_within check (quota between 1 and 1000000 and period between interval '1 second' and interval '31 days'),
  constraint allowed_task_job_lawful check (length(task) between 1 and 200 and length(queue) between 1 and 200 and priority between 0 and 9
    and max_attempts between 1 and 1000 and timeout > interval '0' and timeout <= interval '7 days')
);
comment on table pgtick.allowed_tasks is 'The tasks that end users may ask for by inserting into pgtick.requests. Write through pgtick.allow_task and disallow_task.';
comment on column pgtick.allowed_tasks.quota is 'How many requests each user has within the period.';
comment on column pgtick.allowed_tasks.queue is 'The job''s settings, from here on: the user chooses none of them.';

-- A row is counted by its place, which rises by one for each request of a user for a task: whether a place is free is one look at the row
-- that lies a quota before it, however large the quota is. The unique constraint stands behind the lock under which places are taken.
create table pgtick.requests (
  id bigint generated always as identity primary key,
  owner_id uuid not null,
  task text not null,
  args jsonb not null default '{}',
  run_at timestamptz,
  created_at timestamptz not null,
  job_id bigint not null,
  place bigint,
  constraint request_lawful check (length(task) between 1 and 200 and jsonb_typeof(args) = 'object' and octet_length(args::text) <= 65536
    and (run_at is null or isfinite(run_at))),
  constraint request_place_taken_once unique (owner_id, task, place)
);
comment on table pgtick.requests is 'What end users asked for: insert task, args and run_at, and the job is there when the transaction commits. For tasks that pgtick.allow_task allows. maintain() drops a row when no quota counts it any more, after seven days at the earliest; the job is kept as every other.';
comment on column pgtick.requests.owner_id is 'Who asked: the subject of the JWT.';
comment on column pgtick.requests.run_at is 'Null = at once.';
comment on column pgtick.requests.job_id is 'The job, as pgtick.my_jobs has it.';
comment on column pgtick.requests.place is 'The how-manieth request of this user for this task, among those that are kept. Set by the trigger that takes the request.';
-- maintain() finds by it what is old.
create index requests_created_idx on pgtick.requests (created_at);

alter table pgtick.allowed_tasks enable row level security;
alter table pgtick.requests enable row level security;
