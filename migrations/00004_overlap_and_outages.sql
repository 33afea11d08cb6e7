-- Jobs that wait for an earlier job of their schedule, outages, deadlines, and where a schedule was declared. New columns are null, so no
-- table is written anew; the one check on live jobs is made anew in a single pass over them, since each further one would cost every insert.
-- +goose Up

alter table pgtick.live_jobs add column blocked_by text;
comment on column pgtick.live_jobs.blocked_by is 'What it waits for besides its time: overlap (an earlier job of its schedule). Then run_at is infinity.';
alter table pgtick.live_jobs drop constraint live_job_claimed_whole;
alter table pgtick.live_jobs add constraint live_job_claimed_whole check (
  (runner_id is null) = (started_at is null) and (runner_id is null or fence is not null)
  and (blocked_by is null or (blocked_by = 'overlap' and schedule_id is not null and run_at = 'infinity' and runner_id is null)));
-- No claim changes a column of it, so a claim stays a HOT update.
create index live_jobs_overlap_idx on pgtick.live_jobs (schedule_id, slot) where blocked_by = 'overlap';

alter table pgtick.schedule_defs add column source text;
comment on column pgtick.schedule_defs.source is 'What declared it, such as a file (pgtick schedules apply --source); null = a call by hand.';
alter table pgtick.schedule_defs add column told_until timestamptz;
comment on column pgtick.schedule_defs.told_until is 'Up to here slots after next_at may have rows already: the clock was set back, and the schedule changed then. Null = that never was.';
-- The deadlines are checked often, and most schedules have none.
create index schedule_defs_deadline_idx on pgtick.schedule_defs (id) where must_finish_within is not null and removed_at is null;

alter table pgtick.slot_log add column cause text;
comment on column pgtick.slot_log.cause is 'The kind of the reason, for programs: server_down, no_clock, late, broken, paused, overlap; null where there is none.';
alter table pgtick.slot_log add constraint slot_cause_known check (cause in ('server_down', 'no_clock', 'late', 'broken', 'paused', 'overlap'));

create table pgtick.outages (
  began_at timestamptz primary key,
  ended_at timestamptz not null,
  server_started_at timestamptz,
  constraint outage_lasts check (began_at < ended_at)
);
comment on table pgtick.outages is 'Times of more than 2 minutes in which no clock ticked, noted by the tick that ended them; kept as long as slots.';
comment on column pgtick.outages.began_at is 'The last tick before.';
comment on column pgtick.outages.ended_at is 'The first tick after.';
comment on column pgtick.outages.server_started_at is 'When the server was started within that time: what lies before counts as server_down. Null = it ran all the time.';
create index outages_ended_idx on pgtick.outages (ended_at);

create table pgtick.overdue (
  schedule_id bigint primary key references pgtick.schedule_defs (id),
  slot timestamptz not null,
  found_at timestamptz not null
);
comment on table pgtick.overdue is 'Schedules that had no done job within must_finish_within when a clock last looked (pgtick.check_deadlines).';
comment on column pgtick.overdue.slot is 'The newest slot whose time is up.';

create table pgtick.settings (
  name text primary key,
  value jsonb not null,
  set_at timestamptz not null,
  set_by text not null
);
comment on table pgtick.settings is 'Settings that differ from their defaults: slot_retention_days. Write through the functions.';
