-- Schedules to look at. security_invoker: each reader sees what the policies of the tables below give to that reader.

create or replace view pgtick.schedules with (security_invoker = true) as
select s.id, s.name, s.cron, s.time_zone, s.task, s.args, s.queue, s.priority, s.max_attempts, s.timeout, s.on_missed, s.catch_up_limit, s.catch_up_window,
  s.on_overlap, s.on_gap, s.on_fold, s.jitter, s.starts_at, s.ends_at, s.must_finish_within, s.owner_id, s.version, s.created_at, s.next_at,
  case when s.paused_until is null or s.paused_until > pgtick.now() then s.paused_at end as paused_at,
  case when s.paused_until > pgtick.now() then s.paused_until end as paused_until,
  s.broken_at, s.broken_why, latest.slot as last_slot, latest.fate as last_fate,
  (select j.state from pgtick.jobs as j where j.id = latest.job_id) as last_state,
  recent.done as recent_done, recent.failed as recent_failed, round(recent.done::numeric / nullif(recent.done + recent.failed, 0), 3) as success_rate,
  pgtick.describe(s.cron) as description, recent.typical_duration, s.source
from pgtick.schedule_defs as s
left join lateral (
  select coalesce(l.last_slot, l.slot) as slot, l.fate, l.job_id
  from pgtick.slot_log as l
  where l.schedule_id = s.id
  order by l.slot desc
  limit 1) as latest on true
left join lateral (
  select count(*) filter (where h.state = 'done') as done, count(*) filter (where h.state = 'failed') as failed,
    date_trunc('milliseconds', percentile_cont(0.5) within group (order by h.finished_at - h.started_at) filter (where h.state = 'done')) as typical_duration
  from (
    select l.job_id
    from pgtick.slot_log as l
    where l.schedule_id = s.id and l.job_id is not null
    order by l.slot desc
    limit 20) as newest
  cross join lateral (select f.state, f.started_at, f.finished_at from pgtick.history as f where f.id = newest.job_id limit 1) as h   -- by id, never by reading history
) as recent on true
where s.removed_at is null;
comment on view pgtick.schedules is 'Every schedule that is not removed, in its present version.';
comment on column pgtick.schedules.id is 'As returned by pgtick.schedule.';
comment on column pgtick.schedules.name is 'Unique; pgtick.rename_schedule changes it.';
comment on column pgtick.schedules.cron is 'As it was given.';
comment on column pgtick.schedules.time_zone is 'The zone of the expression''s wall times.';
comment on column pgtick.schedules.task is 'The task of its jobs.';
comment on column pgtick.schedules.args is 'The arguments of its jobs.';
comment on column pgtick.schedules.queue is 'The queue of its jobs.';
comment on column pgtick.schedules.priority is 'Of its jobs, 0 (first) to 9 (last).';
comment on column pgtick.schedules.max_attempts is 'Of its jobs.';
comment on column pgtick.schedules.timeout is 'Of one attempt of its jobs.';
comment on column pgtick.schedules.on_missed is 'What becomes of slots that no clock took within 2 minutes: skip, once, all.';
comment on column pgtick.schedules.catch_up_limit is 'With on_missed all: how many of the latest missed slots are caught up.';
comment on column pgtick.schedules.catch_up_window is 'With on_missed all: how old a slot may be that is caught up; null = any age.';
comment on column pgtick.schedules.on_overlap is 'What becomes of a slot while an earlier job of the schedule is live: skip, allow, cancel (that one), wait (for its end).';
comment on column pgtick.schedules.on_gap is 'A fixed time that the zone''s clock skips: run (at the gap''s end), skip.';
comment on column pgtick.schedules.on_fold is 'A fixed time that comes twice: first, last, both.';
comment on column pgtick.schedules.jitter is 'Over how much time its jobs'' starts are spread after their slots.';
comment on column pgtick.schedules.starts_at is 'The first moment that may be a slot, or null.';
comment on column pgtick.schedules.ends_at is 'The first moment that may not be a slot any more, or null.';
comment on column pgtick.schedules.must_finish_within is 'When no job is done so long after a slot, pgtick.health says so; null = no promise.';
comment on column pgtick.schedules.owner_id is 'The end user whose jobs these are, or null.';
comment on column pgtick.schedules.version is 'Which version this is: see pgtick.schedule_versions.';
comment on column pgtick.schedules.created_at is 'When the name was first scheduled.';
comment on column pgtick.schedules.next_at is 'The first slot not yet accounted for; null when none is to come.';
comment on column pgtick.schedules.paused_at is 'Since when it is paused; null = it is not.';
comment on column pgtick.schedules.paused_until is 'When the pause ends by itself; null = not before pgtick.resume_schedule.';
comment on column pgtick.schedules.broken_at is 'Since when ticks cannot account for it; null = all is well.';
comment on column pgtick.schedules.broken_why is 'The error of the last try.';
comment on column pgtick.schedules.last_slot is 'The latest slot in pgtick.slots, runs by hand included.';
comment on column pgtick.schedules.last_fate is 'What became of it.';
comment on column pgtick.schedules.last_state is 'The state of its job; null where it has none, or none any more.';
comment on column pgtick.schedules.recent_done is 'Of the newest 20 jobs, those that are done.';
comment on column pgtick.schedules.recent_failed is 'Of the newest 20 jobs, those that have failed.';
comment on column pgtick.schedules.success_rate is 'recent_done as a share of recent_done + recent_failed, 0 to 1; null when both are 0.';
comment on column pgtick.schedules.description is 'Its cron in plain English.';
comment on column pgtick.schedules.typical_duration is 'How long its jobs run: the median of the done ones among the newest 20; null when there are none.';
comment on column pgtick.schedules.source is 'What declared it, such as a file (pgtick schedules apply --source); null = a call by hand.';

create or replace view pgtick.schedule_versions with (security_invoker = true) as
select s.name as schedule, c.version, c.what, c.changed_at, c.changed_by, c.reason, c.definition,
  lead(c.changed_at) over (partition by c.schedule_id order by c.version) as replaced_at, c.schedule_id,
  lag(c.definition) over (partition by c.schedule_id order by c.version) as previous
from pgtick.schedule_changes as c
join pgtick.schedule_defs as s on s.id = c.schedule_id;
comment on view pgtick.schedule_versions is 'Every version of every schedule, removed ones included: from when it applied, who made it, and all its settings.';
comment on column pgtick.schedule_versions.schedule is 'The schedule''s present name; the name in this version is in definition.';
comment on column pgtick.schedule_versions.version is '1, 2, 3 … of each schedule; pgtick.slots.version refers to it.';
comment on column pgtick.schedule_versions.what is 'created (also: brought back), changed, paused, resumed, renamed, removed, moved (by new rules of its time zone).';
comment on column pgtick.schedule_versions.changed_at is 'Slots after this moment belong to this version, those up to it to the one before.';
comment on column pgtick.schedule_versions.changed_by is 'The JWT''s subject or the login role; pgtick.tick where it changed by itself.';
comment on column pgtick.schedule_versions.reason is 'Why, where the change was not asked for in so many words.';
comment on column pgtick.schedule_versions.definition is 'All settings, named as in pgtick.schedules.';
comment on column pgtick.schedule_versions.replaced_at is 'When the next version took over; null = it applies.';
comment on column pgtick.schedule_versions.schedule_id is 'pgtick.schedules.id.';
comment on column pgtick.schedule_versions.previous is 'All settings before this change; null in the first version.';

create or replace view pgtick.slots with (security_invoker = true) as
select s.name as schedule, l.slot, l.fate, l.version, l.reason, l.recorded_at - l.slot as lateness, l.job_id, l.recorded_at, l.last_slot, l.slots, l.clock, l.schedule_id, l.cause
from pgtick.slot_log as l
join pgtick.schedule_defs as s on s.id = l.schedule_id;
comment on view pgtick.slots is 'What became of each slot of each schedule, one row a slot, for 60 days (pgtick.set_slot_retention).';
comment on column pgtick.slots.schedule is 'The schedule''s present name.';
comment on column pgtick.slots.slot is 'The planned time.';
comment on column pgtick.slots.fate is 'enqueued, caught_up (late, by on_missed), run_now (by hand), skipped_overlap, skipped_paused, missed; missed_range and skipped_range (paused) stand for many.';
comment on column pgtick.slots.version is 'The version of the schedule that named this slot: see pgtick.schedule_versions.';
comment on column pgtick.slots.reason is 'Why it is not simply enqueued.';
comment on column pgtick.slots.lateness is 'How long after its time it was accounted for.';
comment on column pgtick.slots.job_id is 'Its job (pgtick.jobs.id), where it has one.';
comment on column pgtick.slots.recorded_at is 'When it was accounted for.';
comment on column pgtick.slots.last_slot is 'Of a range: its last slot; slot is its first.';
comment on column pgtick.slots.slots is 'Of a range: how many slots it stands for; otherwise 1.';
comment on column pgtick.slots.clock is 'Which kind of clock called: pg_cron, runner, other.';
comment on column pgtick.slots.schedule_id is 'pgtick.schedules.id.';
comment on column pgtick.slots.cause is 'The kind of the reason, for programs: server_down, no_clock, late, broken, paused, overlap; null where there is none.';

-- For end users: what runs on their behalf, without arguments and reasons.
create or replace view pgtick.my_schedules with (security_invoker = true) as
select s.id, s.name, s.cron, s.time_zone, s.task, s.next_at,
  case when s.paused_until is null or s.paused_until > pgtick.now() then s.paused_at end as paused_at, s.created_at
from pgtick.schedule_defs as s
where s.owner_id = (select pgtick.user_id()) and s.removed_at is null;
comment on view pgtick.my_schedules is 'The schedules of the end user who asks (owner_id = the JWT''s subject).';
comment on column pgtick.my_schedules.id is 'As in pgtick.my_slots.';
comment on column pgtick.my_schedules.name is 'Unique among all users.';
comment on column pgtick.my_schedules.cron is 'As it was given.';
comment on column pgtick.my_schedules.time_zone is 'The zone of the expression''s wall times.';
comment on column pgtick.my_schedules.task is 'The task of its jobs.';
comment on column pgtick.my_schedules.next_at is 'The next slot; null when none is to come.';
comment on column pgtick.my_schedules.paused_at is 'Since when it is paused; null = it is not.';
comment on column pgtick.my_schedules.created_at is 'When it was first scheduled.';

create or replace view pgtick.my_slots with (security_invoker = true) as
select s.name as schedule, l.slot, l.fate, l.job_id, l.last_slot, l.slots, l.recorded_at, l.schedule_id
from pgtick.slot_log as l
join pgtick.schedule_defs as s on s.id = l.schedule_id
where s.owner_id = (select pgtick.user_id());
comment on view pgtick.my_slots is 'What became of each slot of the schedules of the end user who asks.';
comment on column pgtick.my_slots.schedule is 'The schedule''s present name.';
comment on column pgtick.my_slots.slot is 'The planned time.';
comment on column pgtick.my_slots.fate is 'As in pgtick.slots.';
comment on column pgtick.my_slots.job_id is 'Its job (pgtick.my_jobs.id), where it has one.';
comment on column pgtick.my_slots.last_slot is 'Of a range: its last slot; slot is its first.';
comment on column pgtick.my_slots.slots is 'Of a range: how many slots it stands for; otherwise 1.';
comment on column pgtick.my_slots.recorded_at is 'When it was accounted for.';
comment on column pgtick.my_slots.schedule_id is 'pgtick.my_schedules.id.';
