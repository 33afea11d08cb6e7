-- The queue: live jobs, their history, the runners and what wakes them. Creates only; no lock that anybody could wait for.
-- +goose Up

-- One value a claim call, for all the jobs that it gives out. It only rises, so a report under an older one is known to be late.
create sequence pgtick.fence_seq as bigint;
comment on sequence pgtick.fence_seq is 'The next fence: a new one for each claim call.';

-- Waiting and running jobs, and only those: finishing a job moves it to history, so this table and its indexes stay small.
-- It has no state column: runner_id is null = waiting, otherwise running. A claim changes only columns that are in no index and no
-- predicate, and half of each page is left free for it, so that it is a HOT update (measured: a third faster, and no index bloat).
create table pgtick.live_jobs (
  id bigint generated always as identity primary key,
  task text not null,
  queue text not null,
  priority smallint not null,
  run_at timestamptz not null,
  attempt integer not null default 0,
  uncounted integer not null default 0,
  max_attempts integer not null,
  losses smallint not null default 0,
  deaths smallint not null default 0,
  timeout interval not null,
  args jsonb not null,
  owner_id uuid,
  schedule_id bigint,
  slot timestamptz,
  created_at timestamptz not null,
  runner_id bigint,
  fence bigint,
  started_at timestamptz,
  earlier_attempts jsonb,
  -- Two constraints, not ten: each one is read anew for every statement and costs an insert some 10 µs.
  constraint live_job_lawful check (
    priority between 0 and 9 and max_attempts > 0 and uncounted between 0 and attempt and deaths between 0 and losses
    and timeout > interval '0' and jsonb_typeof(args) = 'object' and (slot is null) = (schedule_id is null)
    and length(task) between 1 and 200 and length(queue) between 1 and 200 and run_at > '-infinity'),
  constraint live_job_claimed_whole check ((runner_id is null) = (started_at is null) and (runner_id is null or fence is not null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 5000);
comment on table pgtick.live_jobs is 'Waiting and running jobs. Read pgtick.jobs instead; write through the functions.';
comment on column pgtick.live_jobs.attempt is 'Claims so far, the present one included.';
comment on column pgtick.live_jobs.uncounted is 'How many of those do not count towards max_attempts: snoozed, released after a start, or lost with their runner.';
comment on column pgtick.live_jobs.losses is 'How often rescue() took this job from a dead runner. From the second time on it is a suspect.';
comment on column pgtick.live_jobs.deaths is 'How many runners died while this job was their one suspect. At 3 it fails.';
comment on column pgtick.live_jobs.fence is 'Of the present claim; on a waiting job, of the last report that put it back (so that the report can be repeated).';
comment on column pgtick.live_jobs.earlier_attempts is 'The attempts that did not end the job, oldest first, the latest 100: attempt, started_at, finished_at, runner_id, outcome, error.';

-- A lane is (task, queue, priority): a claim steps from lane to lane, so jobs of a task that nobody serves are never walked over.
create index live_jobs_lane_idx on pgtick.live_jobs (task, queue, priority, run_at, id);
-- Suspects are claimed one at a time, so they are looked for apart. The predicate's column never changes in a claim: it stays HOT.
create index live_jobs_suspect_idx on pgtick.live_jobs (task, queue, run_at, id) where losses >= 2;
-- A second belt for "each slot once", and the way to a schedule's live job.
create unique index live_jobs_slot_key on pgtick.live_jobs (schedule_id, slot) where schedule_id is not null;
create index live_jobs_owner_idx on pgtick.live_jobs (owner_id, created_at) where owner_id is not null;

-- Finished jobs. Partitioned by the day on which a row expires, so that retention drops partitions and deletes nothing.
-- maintain() makes the partitions ahead; the default one catches what it has not yet made, so that a finish never fails for it.
create table pgtick.history (
  id bigint not null,
  task text not null,
  queue text not null,
  priority smallint not null,
  state text not null,
  run_at timestamptz not null,
  attempt integer not null,
  uncounted integer not null,
  max_attempts integer not null,
  losses smallint not null,
  deaths smallint not null,
  timeout interval not null,
  args jsonb not null,
  owner_id uuid,
  schedule_id bigint,
  slot timestamptz,
  created_at timestamptz not null,
  runner_id bigint,
  fence bigint,
  started_at timestamptz,
  finished_at timestamptz not null,
  result jsonb,
  error jsonb,
  done real,
  note text,
  earlier_attempts jsonb,
  expires_on date not null,
  constraint history_state_final check (state in ('done', 'failed', 'cancelled'))
) partition by range (expires_on);
comment on table pgtick.history is 'Finished jobs until they expire. Read pgtick.jobs instead.';
comment on column pgtick.history.runner_id is 'The runner of the last attempt; null where none ever ran.';
comment on column pgtick.history.fence is 'The fence under which the job was finished; null where rescue(), cancel() or a timeout ended it, so that no report can claim to have done so.';
comment on column pgtick.history.expires_on is 'The day (UTC) on which maintain() drops this row: 7 days after the end of a done job, 30 of any other.';
create table pgtick.history_default partition of pgtick.history default;
create index history_id_idx on pgtick.history (id);
create index history_owner_idx on pgtick.history (owner_id, finished_at) where owner_id is not null;
create index history_task_idx on pgtick.history (task, finished_at);

-- What is said about a running job by others than its task's transaction. A row of its own and no foreign key, so that neither
-- a progress report nor a cancel request waits for a task that holds the live row, nor the other way round.
create table pgtick.job_notes (
  job_id bigint primary key,
  done real,
  note text,
  checkpoint jsonb,
  noted_at timestamptz,
  cancel_requested_at timestamptz,
  cancel_requested_by text,
  constraint job_note_done_is_share check (done between 0 and 1)
) with (fillfactor = 70);
comment on table pgtick.job_notes is 'Progress, checkpoint and cancel request of live jobs, at most a row each.';

-- The lease is the runner's, not the job's: one row to renew, however many jobs it runs.
create table pgtick.runner_leases (
  id bigint generated always as identity primary key,
  name text not null,
  queues text[] not null,
  tasks text[] not null,
  version text,
  lease interval not null,
  lease_until timestamptz not null,
  registered_at timestamptz not null,
  heartbeat_at timestamptz not null,
  suspected_at timestamptz,
  suspect_job_id bigint,
  wakes boolean,
  ended_at timestamptz,
  ended_as text,
  freed_at timestamptz,
  constraint runner_named check (length(name) between 1 and 200),
  constraint runner_lease_within check (lease between interval '1 second' and interval '1 hour'),
  constraint runner_ended_whole check ((ended_at is null) = (ended_as is null) and ended_as in ('left', 'dead') and (freed_at is null or ended_at is not null))
) with (fillfactor = 50);
comment on table pgtick.runner_leases is 'Runners, one row a registration, kept for a while after their end. Read pgtick.runners instead.';
comment on column pgtick.runner_leases.suspected_at is 'When rescue() first found the lease run out, with no heartbeat since.';
comment on column pgtick.runner_leases.suspect_job_id is 'The last job of the suspects'' list that this runner took: its death counts against that job alone.';
comment on column pgtick.runner_leases.wakes is 'Whether a NOTIFY reaches this runner: false = it only polls (a pooler in transaction mode); null = not known yet.';
comment on column pgtick.runner_leases.freed_at is 'When the last claim of the ended runner was given back; until then rescue() looks for them.';
create index runner_leases_open_idx on pgtick.runner_leases (id) where freed_at is null;   -- a heartbeat changes no column of it: HOT

-- Runners that sleep, and until when. Enqueuers only read it; a runner writes its own rows. Without it each enqueue would have to
-- notify, and NOTIFY takes a lock over the whole server at commit (measured: 12,300 enqueues a second with it, 4,300 without).
create table pgtick.sleepers (
  queue text not null,
  runner_id bigint not null references pgtick.runner_leases (id) on delete cascade,
  until timestamptz not null,
  primary key (queue, runner_id)
) with (fillfactor = 50);
comment on table pgtick.sleepers is 'Which runner sleeps on which queue, and until when; in the past: it is awake. register() makes the rows, so that wake() can see one being changed.';
create index sleepers_runner_idx on pgtick.sleepers (runner_id);

create table pgtick.addresses (
  address text primary key,
  adopted_at timestamptz not null,
  adopted_by text not null
);
comment on table pgtick.addresses is 'Where this database may be worked on: host or Supabase project, and database name. A runner elsewhere stops, so that no copy calls production''s webhooks.';

create table pgtick.installed (
  kind text not null,
  name text not null,
  installed_at timestamptz not null,
  primary key (kind, name)
);
comment on table pgtick.installed is 'What migrate has ever installed beside the schema (schedules, the pg_cron entry), so that it never puts back what a user has changed or removed.';

create table pgtick.applied_sql (
  only_row boolean primary key default true,
  hash text not null,
  api_roles text[] not null,
  applied_at timestamptz not null,
  constraint applied_sql_one_row check (only_row)
);
comment on table pgtick.applied_sql is 'Which state of sql/ is in force, and for which of the roles that get rights, where they exist, it was granted.';

create table pgtick.clocks (
  clock text primary key,
  ticked_at timestamptz not null
) with (fillfactor = 50);
comment on table pgtick.clocks is 'When each kind of clock (pg_cron, runner, other) last called tick(), to the second.';

create table pgtick.upkeep (
  what text primary key,
  done_at timestamptz not null,
  problem text
);
comment on table pgtick.upkeep is 'When each kind of upkeep was last done, and what it could not do.';
