-- tick: what has become due since it was last looked at is worked out from the schedules alone, so that it does not matter which clock
-- calls, how many call at once, nor how long none did. One row a slot says what became of it; the job, where there is one, is made with it.
-- It waits for no lock: schedules are taken FOR NO KEY UPDATE SKIP LOCKED, and who holds a schedule accounts for it himself.

-- pg_cron says who it is by the backend's type where it runs jobs as background workers, and by the application's name where it connects.
create or replace function pgtick.clock_name()
returns text
language plpgsql stable parallel restricted
set search_path = ''
as $$
declare
  v_application constant text := current_setting('application_name');
begin
  return case
    when v_application like 'pgtick%' then 'runner'
    when v_application like E'pg\\_cron%' then 'pg_cron'
    when exists (select from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) as a where a.backend_type like E'pg\\_cron%') then 'pg_cron'
    else 'other' end;
end
$$;
comment on function pgtick.clock_name() is 'Which kind of clock this session is: pg_cron, runner (its application name starts with pgtick) or other.';

-- At most one write a second for each kind of clock. A first row would make a second caller wait for the first one's commit, hence the
-- advisory lock, which is only tried.
create or replace function pgtick.mark_clock(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_clock constant text := pgtick.clock_name();
  v_ticked_at timestamptz;
begin
  select c.ticked_at into v_ticked_at from pgtick.clocks as c where c.clock = v_clock;
  if v_ticked_at between p_now - interval '1 second' and p_now then
    return;
  elsif v_ticked_at is not null then
    update pgtick.clocks as c set ticked_at = p_now
    where c.clock = (select k.clock from pgtick.clocks as k where k.clock = v_clock for no key update skip locked);
  elsif pg_try_advisory_xact_lock(hashtextextended('pgtick.clocks', 0)) then
    insert into pgtick.clocks (clock, ticked_at) values (v_clock, p_now) on conflict do nothing;
  end if;
end
$$;
comment on function pgtick.mark_clock(timestamptz) is 'Note in pgtick.clocks that this kind of clock has ticked; never waits.';

-- What another try may cure is no fault of the schedule at hand: lost races, a full disk or memory, a shutdown, a lock timeout.
create or replace function pgtick.is_passing(p_sqlstate text)
returns boolean
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  return left(p_sqlstate, 2) in ('08', '40', '53', '57', '58') or p_sqlstate = '55P03';
end
$$;
comment on function pgtick.is_passing(text) is 'Whether an error has a cause that passes: transaction rolled back, resources, operator, system or lock timeout.';

create or replace function pgtick.server_started_at()
returns timestamptz
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return pg_catalog.pg_postmaster_start_time();
end
$$;
comment on function pgtick.server_started_at() is 'When the server was started. Tests replace this function.';

-- An outage is a time of more than 2 minutes in which no clock ticked. The tick that ends one writes it down, so that those after it, which
-- account for the rest of the schedules, know the cause as well.
create or replace function pgtick.latest_outage(p_now timestamptz)
returns pgtick.outages
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_outage pgtick.outages;
begin
  v_outage.began_at := coalesce((select max(c.ticked_at) from pgtick.clocks as c), '-infinity');
  if v_outage.began_at < p_now - interval '2 minutes' then
    v_outage.ended_at := p_now;
    v_outage.server_started_at := (select u.up_at from (select pgtick.server_started_at()) as u(up_at) where u.up_at > v_outage.began_at and u.up_at <= p_now);
  else
    select o.* into v_outage from pgtick.outages as o order by o.ended_at desc limit 1;
  end if;
  return v_outage;
end
$$;
comment on function pgtick.latest_outage(timestamptz) is 'The outage that a tick at p_now would end, or else the latest one noted; began_at -infinity: no clock had ever ticked.';

create or replace function pgtick.note_outage(p_outage pgtick.outages)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if isfinite(p_outage.began_at) and pg_try_advisory_xact_lock(hashtextextended('pgtick.outages', 0)) then
    insert into pgtick.outages values (p_outage.*) on conflict (began_at) do update set ended_at = greatest(outages.ended_at, excluded.ended_at);
  end if;
end
$$;
comment on function pgtick.note_outage(pgtick.outages) is 'Write an outage down; never waits: of several sessions that end it at once, one does.';

create or replace function pgtick.why_paused(p_schedule pgtick.schedule_defs)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return 'paused since ' || pgtick.utc(p_schedule.paused_at) || coalesce(' until ' || pgtick.utc(p_schedule.paused_until), '');
end
$$;
comment on function pgtick.why_paused(pgtick.schedule_defs) is 'The reason of a slot that lay in a pause.';

create or replace function pgtick.cause_missed(p_schedule pgtick.schedule_defs, p_slot timestamptz, p_outage pgtick.outages)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return case
    when p_schedule.broken_at is not null then 'broken'
    when p_slot > p_outage.began_at and p_slot < p_outage.server_started_at then 'server_down'
    when p_slot > p_outage.began_at and p_slot <= p_outage.ended_at then 'no_clock'
    else 'late' end;
end
$$;
comment on function pgtick.cause_missed(pgtick.schedule_defs, timestamptz, pgtick.outages) is
  'Why a slot was not taken in time, as far as it is known: broken; server_down (before the server''s start, and nothing had ticked since before the slot); no_clock; late (clocks ticked, but none reached it).';

create or replace function pgtick.why_missed(p_schedule pgtick.schedule_defs, p_slot timestamptz, p_now timestamptz, p_outage pgtick.outages)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return case
      when p_schedule.broken_at is not null then format('the schedule was broken from %s on: %s', pgtick.utc(p_schedule.broken_at), p_schedule.broken_why)
      when p_slot > p_outage.began_at and p_slot <= p_outage.ended_at then
        case when isfinite(p_outage.began_at) then format('no clock ticked from %s to %s', pgtick.utc(p_outage.began_at), pgtick.utc(p_outage.ended_at)) else 'no clock had ticked yet' end
        || coalesce('; the server was started at ' || pgtick.utc(p_outage.server_started_at), '')
      else format('no tick had reached it by %s', pgtick.utc(p_now)) end
    || '; on_missed ' || p_schedule.on_missed
    || case when p_schedule.on_missed = 'all'
      then format(', catch_up_limit %s', p_schedule.catch_up_limit) || coalesce(', catch_up_window ' || p_schedule.catch_up_window, '') else '' end;
end
$$;
comment on function pgtick.why_missed(pgtick.schedule_defs, timestamptz, timestamptz, pgtick.outages) is 'The reason of a slot that was not taken in time: the cause as far as it is known, and the policy.';

-- Up to 1,000 slots are told singly, more of them as one range that is counted and not listed: so forty days of every minute, or a year of
-- every second, are one row.
create or replace function pgtick.passed_slots(p_schedule pgtick.schedule_defs, p_from timestamptz, p_to timestamptz,
  out singles timestamptz[], out first_slot timestamptz, out last_slot timestamptz, out slots integer)
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  slots := pgtick.count_slots(p_schedule.parsed, p_schedule.time_zone, p_from, p_to, p_schedule.on_gap, p_schedule.on_fold);
  singles := '{}';
  if slots > 1000 then
    first_slot := pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone, p_from, p_schedule.on_gap, p_schedule.on_fold);
    last_slot := (pgtick.last_slots(p_schedule.parsed, p_schedule.time_zone, p_from, p_to, 1, p_schedule.on_gap, p_schedule.on_fold))[1];
  elsif slots > 0 then
    singles := array(select s.slot from pgtick.slots_between(p_schedule.parsed, p_schedule.time_zone, p_from, p_to, null, p_schedule.on_gap, p_schedule.on_fold) as s(slot));
  end if;
end
$$;
comment on function pgtick.passed_slots(pgtick.schedule_defs, timestamptz, timestamptz) is
  'The slots of a schedule after p_from, up to and with p_to, that make no job: up to 1,000 singly, otherwise the first, the last and how many.';

create or replace function pgtick.log_range(p_schedule_id bigint, p_first timestamptz, p_last timestamptz, p_slots integer, p_fate text, p_version integer, p_reason text,
  p_cause text, p_now timestamptz, p_clock text)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  insert into pgtick.slot_log (schedule_id, slot, last_slot, slots, fate, version, reason, cause, recorded_at, clock)
  values (p_schedule_id, p_first, p_last, p_slots, p_fate, p_version, p_reason, p_cause, p_now, p_clock)
  on conflict do nothing;
  return case when found then 1 else 0 end;
end
$$;
comment on function pgtick.log_range(bigint, timestamptz, timestamptz, integer, text, integer, text, text, timestamptz, text) is 'Write the one row of a range of slots. Returns how many rows.';

-- Slots have rows of their own in the time of a range only where the clock was set back and the schedule changed then.
create or replace function pgtick.log_untold(p_schedule pgtick.schedule_defs, p_first timestamptz, p_last timestamptz, p_slots integer, p_fate text, p_version integer,
  p_reason text, p_cause text, p_now timestamptz, p_clock text)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_instant constant interval := interval '1 microsecond';
  v_told timestamptz[];
  v_from timestamptz := p_first - v_instant;
  v_until timestamptz;
  v_slots integer;
  v_written integer := 0;
begin
  if p_schedule.told_until is null or p_schedule.told_until < p_first then
    return pgtick.log_range(p_schedule.id, p_first, p_last, p_slots, p_fate, p_version, p_reason, p_cause, p_now, p_clock);
  end if;
  v_told := array(select l.slot from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.slot between p_first and p_last order by l.slot);
  foreach v_until in array v_told || (p_last + v_instant) loop
    v_slots := pgtick.count_slots(p_schedule.parsed, p_schedule.time_zone, v_from, v_until - v_instant, p_schedule.on_gap, p_schedule.on_fold);
    if v_slots > 0 then
      v_written := v_written + pgtick.log_range(p_schedule.id, pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone, v_from, p_schedule.on_gap, p_schedule.on_fold),
        (pgtick.last_slots(p_schedule.parsed, p_schedule.time_zone, v_from, v_until - v_instant, 1, p_schedule.on_gap, p_schedule.on_fold))[1],
        v_slots, p_fate, p_version, p_reason, p_cause, p_now, p_clock);
    end if;
    v_from := v_until;
  end loop;
  return v_written;
end
$$;
comment on function pgtick.log_untold(pgtick.schedule_defs, timestamptz, timestamptz, integer, text, integer, text, text, timestamptz, text) is
  'Write a range of slots, or, where some of them have rows already, a range for each stretch between those. Returns how many rows.';

-- What on_overlap says of the slots that want a job, and the rows for all. Under skip the first of them has the job, if no earlier one
-- lives; under cancel the last one, and what lives is cancelled; under wait each has one, and all but the first wait their turn.
-- A job that waits is freed by what ends the one before it (unblock_overlap). So that neither misses the other, that one is locked FOR KEY
-- SHARE until this transaction ends. Where it is locked already it may end unseen: then rescue() frees the waiting one.
create or replace function pgtick.settle_slots(p_schedule pgtick.schedule_defs, p_slots timestamptz[], p_fates text[], p_causes text[], p_reasons text[], p_versions integer[],
  p_now timestamptz, p_clock text, out jobs integer, out slots integer, out run_at timestamptz)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_wants constant boolean := p_fates && '{enqueued,caught_up}';
  v_overlap constant text := p_schedule.on_overlap;
  v_live_id bigint;
  v_live_slot timestamptz;
  v_newest timestamptz;
begin
  if v_wants and v_overlap in ('wait', 'cancel') then
    perform from pgtick.live_jobs as j where j.schedule_id = p_schedule.id order by j.slot limit 1 for key share skip locked;
  end if;
  if v_wants and v_overlap <> 'allow' then   -- a new statement: what ended just before the lock is not seen any more
    select j.id, j.slot into v_live_id, v_live_slot from pgtick.live_jobs as j where j.schedule_id = p_schedule.id order by j.slot limit 1;
  end if;
  with fresh as (
    select l.*, l.fate in ('enqueued', 'caught_up') as wants_job,
      min(l.slot) over wanting as first_slot, max(l.slot) over wanting as newest_slot
    from unnest(p_slots, p_fates, p_causes, p_reasons, p_versions) as l(slot, fate, cause, reason, version)
    where not exists (select from pgtick.slot_log as g where g.schedule_id = p_schedule.id and g.slot = l.slot)
    window wanting as (partition by l.fate in ('enqueued', 'caught_up'))
  ), placed as (
    select f.*,
      f.wants_job and (v_overlap = 'skip' and (v_live_id is not null or f.slot <> f.first_slot) or v_overlap = 'cancel' and f.slot <> f.newest_slot) as clashes,
      f.wants_job and (v_overlap = 'wait' and (v_live_id is not null or f.slot <> f.first_slot) or v_overlap = 'cancel' and v_live_id is not null) as waits
    from fresh as f
    order by f.slot
  ), decided as materialized (
    select p.*, case when p.wants_job and not p.clashes then nextval('pgtick.live_jobs_id_seq') end as job_id
    from placed as p
  ), logged as (
    insert into pgtick.slot_log (schedule_id, slot, fate, version, cause, reason, job_id, recorded_at, clock)
    select p_schedule.id, d.slot, case when d.clashes then 'skipped_overlap' else d.fate end, d.version,
      case when d.clashes then 'overlap' else d.cause end,
      case
        when d.clashes and v_overlap = 'cancel' then format('slot %s, accounted for at the same moment, replaces it', pgtick.utc(d.newest_slot))
        when d.clashes and v_live_id is not null then format('job %s of slot %s was still live', v_live_id, pgtick.utc(v_live_slot))
        when d.clashes then format('slot %s, accounted for at the same moment, has the job', pgtick.utc(d.first_slot))
        when d.waits and v_live_id is null then concat_ws('; ', d.reason, 'it waits for the slot before it')
        when d.waits then concat_ws('; ', d.reason, format(case v_overlap when 'wait' then 'it waits for job %s of slot %s' else 'job %s of slot %s is cancelled for it' end, v_live_id, pgtick.utc(v_live_slot)))
        else d.reason end,
      d.job_id, p_now, p_clock
    from decided as d
    returning 1
  ), made as (
    insert into pgtick.live_jobs (id, task, queue, priority, run_at, blocked_by, max_attempts, timeout, args, owner_id, schedule_id, slot, created_at)
    overriding system value
    select d.job_id, p_schedule.task, p_schedule.queue, p_schedule.priority,
      case when d.waits then 'infinity' else greatest(pgtick.slot_run_at(p_schedule.id, d.slot, p_schedule.jitter), p_now) end,
      case when d.waits then 'overlap' end,
      p_schedule.max_attempts, p_schedule.timeout, p_schedule.args, p_schedule.owner_id, p_schedule.id, d.slot, p_now
    from decided as d
    where d.job_id is not null
    returning live_jobs.run_at, live_jobs.slot
  )
  select (select count(*) from made), (select count(*) from logged), (select min(m.run_at) from made as m), (select max(m.slot) from made as m)
  into settle_slots.jobs, settle_slots.slots, settle_slots.run_at, v_newest;
  if v_overlap = 'cancel' and v_newest is not null and v_live_id is not null then
    perform pgtick.stop_job(j.id, format('replaced by slot %s of its schedule (on_overlap cancel)', pgtick.utc(v_newest)), 'schedule ' || p_schedule.name, p_now)
    from pgtick.live_jobs as j
    where j.schedule_id = p_schedule.id and j.slot < v_newest;
  end if;
end
$$;
comment on function pgtick.settle_slots(pgtick.schedule_defs, timestamptz[], text[], text[], text[], integer[], timestamptz, text) is
  'Write what became of these slots (in order) of a locked schedule, as on_overlap lets them, and make their jobs. Returns how many jobs and rows, and the earliest run_at; the caller wakes the queue.';

-- Where the zone's rules have changed since next_at was worked out, go back to where the slots are known to be accounted for. No change of
-- rules moves a slot by two days, and no version reaches back before its start.
create or replace function pgtick.move_with_zone(p_schedule pgtick.schedule_defs, out p_from timestamptz, out p_version integer)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  p_from := greatest(p_schedule.next_at - interval '48 hours',
    (select max(coalesce(l.last_slot, l.slot)) from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.fate <> 'run_now'),
    (select c.changed_at from pgtick.schedule_changes as c where c.schedule_id = p_schedule.id and c.version = p_schedule.version),
    p_schedule.starts_at - interval '1 microsecond');
  update pgtick.schedule_defs as s set version = s.version + 1 where s.id = p_schedule.id returning s.version into p_version;
  perform pgtick.record_version(p_schedule.id, 'moved', p_from,
    format('the rules of %s have changed: %s is no slot any more', p_schedule.time_zone, pgtick.utc(p_schedule.next_at)), 'pgtick.tick');
end
$$;
comment on function pgtick.move_with_zone(pgtick.schedule_defs) is 'Begin a new version of a locked schedule whose next_at is no slot any more. Returns the moment from which on its slots are to be accounted for, and the version.';

-- Fates. Within 2 minutes of its time a slot is on time: pg_cron ticks once a minute, and may be late. After that it is missed, and
-- on_missed decides. A slot in a pause is skipped, whenever a clock comes by.
create or replace function pgtick.account(p_schedule_id bigint, p_now timestamptz, p_outage pgtick.outages, p_clock text,
  out jobs integer, out slots integer, out run_at timestamptz)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_instant constant interval := interval '1 microsecond';
  v_grace_from constant timestamptz := p_now - interval '2 minutes';
  v_schedule pgtick.schedule_defs;
  v_pause_end timestamptz := '-infinity';   -- slots before it lie in the pause
  v_paused_version integer;                  -- of those
  v_why_paused text;
  v_from timestamptz;
  v_to timestamptz;
  v_paused record;
  v_missed record;
  v_caught timestamptz[] := '{}';
  v_on_time timestamptz[] := '{}';
  v_settled record;
begin
  jobs := 0;
  slots := 0;
  select s.* into v_schedule from pgtick.schedule_defs as s where s.id = p_schedule_id;   -- the caller has locked it
  v_from := v_schedule.next_at - v_instant;
  v_to := least(p_now, v_schedule.ends_at - v_instant);
  if v_schedule.next_at <= p_now and pgtick.has_moved(v_schedule) then
    select m.p_from, m.p_version into v_from, v_schedule.version from pgtick.move_with_zone(v_schedule) as m;
  end if;
  v_paused_version := v_schedule.version;
  if v_schedule.paused_at is not null then
    v_why_paused := pgtick.why_paused(v_schedule);
    v_pause_end := case when v_schedule.paused_until <= p_now then v_schedule.paused_until else 'infinity' end;
  end if;
  if isfinite(v_pause_end) then
    update pgtick.schedule_defs as s set version = s.version + 1, paused_at = null, paused_until = null
    where s.id = p_schedule_id returning s.version into v_schedule.version;
    perform pgtick.record_version(p_schedule_id, 'resumed', v_pause_end, 'the pause was to end here', 'pgtick.tick');
  end if;
  if v_schedule.next_at is null or v_schedule.next_at > p_now then return; end if;

  v_paused := pgtick.passed_slots(v_schedule, v_from, least(v_to, v_pause_end - v_instant));
  if v_paused.first_slot is not null then
    slots := slots + pgtick.log_untold(v_schedule, v_paused.first_slot, v_paused.last_slot, v_paused.slots, 'skipped_range', v_paused_version, v_why_paused, 'paused', p_now, p_clock);
  end if;
  v_from := greatest(v_from, v_pause_end - v_instant);

  if v_schedule.on_missed <> 'skip' then
    v_caught := pgtick.last_slots(v_schedule.parsed, v_schedule.time_zone,
      case when v_schedule.on_missed = 'all' then greatest(v_from, p_now - make_interval(secs => extract(epoch from v_schedule.catch_up_window)::double precision) - v_instant) else v_from end,
      least(v_to, v_grace_from - v_instant), case v_schedule.on_missed when 'once' then 1 else v_schedule.catch_up_limit end, v_schedule.on_gap, v_schedule.on_fold);
  end if;
  v_missed := pgtick.passed_slots(v_schedule, v_from, least(v_to, v_grace_from - v_instant, v_caught[1] - v_instant));
  if v_missed.first_slot is not null then
    slots := slots + pgtick.log_untold(v_schedule, v_missed.first_slot, v_missed.last_slot, v_missed.slots, 'missed_range', v_schedule.version,
      pgtick.why_missed(v_schedule, v_missed.last_slot, p_now, p_outage), pgtick.cause_missed(v_schedule, v_missed.last_slot, p_outage), p_now, p_clock);
  end if;

  v_from := greatest(v_from, v_grace_from - v_instant);
  if v_from < v_to then
    v_on_time := array(select s.slot from pgtick.slots_between(v_schedule.parsed, v_schedule.time_zone, v_from, v_to, null, v_schedule.on_gap, v_schedule.on_fold) as s(slot));
  end if;

  select s.jobs, account.slots + s.slots, s.run_at into account.jobs, account.slots, account.run_at
  from (
    select array_agg(x.slot order by x.slot) as slots, array_agg(x.fate order by x.slot) as fates, array_agg(x.version order by x.slot) as versions,
      array_agg(case when x.fate = 'skipped_paused' then 'paused' when x.fate <> 'enqueued' then pgtick.cause_missed(v_schedule, x.slot, p_outage) end order by x.slot) as causes,
      array_agg(case when x.fate = 'skipped_paused' then v_why_paused when x.fate <> 'enqueued' then pgtick.why_missed(v_schedule, x.slot, p_now, p_outage) end order by x.slot) as reasons
    from (
      select u.slot, 'skipped_paused', v_paused_version from unnest(v_paused.singles) as u(slot)
      union all
      select u.slot, 'missed', v_schedule.version from unnest(v_missed.singles) as u(slot)
      union all
      select u.slot, 'caught_up', v_schedule.version from unnest(v_caught) as u(slot)
      union all
      select u.slot, 'enqueued', v_schedule.version from unnest(v_on_time) as u(slot)
    ) as x(slot, fate, version)) as a
  cross join lateral pgtick.settle_slots(v_schedule, a.slots, a.fates, a.causes, a.reasons, a.versions, p_now, p_clock) as s;

  update pgtick.schedule_defs as s set next_at = pgtick.next_for(s, p_now), broken_at = null, broken_why = null, retry_at = null where s.id = p_schedule_id;
end
$$;
comment on function pgtick.account(bigint, timestamptz, pgtick.outages, text) is
  'Account for the slots of one schedule up to p_now; the caller has locked its row. p_outage: as from latest_outage, p_clock: as from clock_name. Returns how many jobs it made and slot rows it wrote, and the earliest run_at; the caller wakes the queue.';

create or replace function pgtick.has_moved(p_schedule pgtick.schedule_defs)
returns boolean
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return p_schedule.time_zone <> 'UTC' and (p_schedule.parsed).every_seconds is null
    and pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone, p_schedule.next_at - interval '1 microsecond', p_schedule.on_gap, p_schedule.on_fold)
      is distinct from p_schedule.next_at;
end
$$;
comment on function pgtick.has_moved(pgtick.schedule_defs) is 'Whether next_at is no slot any more, since the time zone''s rules have changed.';

-- The common case in one statement: schedules of which exactly one slot is due. It leaves the others (several slots due, just broken, at
-- the end of a pause, moved by new time zone rules, a job to wait for or to cancel) to account(), one by one.
-- It joins nothing that it has made: such rows are guessed to be few, and each would be compared with each. Nor can rows clash: under the
-- lock of the schedule nobody else writes its slots.
create or replace function pgtick.tick_singles(p_ids bigint[], p_now timestamptz, p_outage pgtick.outages,
  out jobs integer, out done bigint[], out queues text[], out run_at timestamptz)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_clock constant text := pgtick.clock_name();
  v_grace_from constant timestamptz := p_now - interval '2 minutes';
begin
  with due as materialized (
    select s.*, s as schedule, f.following
    from pgtick.schedule_defs as s
    cross join lateral (select pgtick.next_slot(s.parsed, s.time_zone, s.next_at, s.on_gap, s.on_fold) offset 0) as f(following)   -- offset 0: worked out once
    where s.id = any (p_ids) and s.broken_at is null and (s.paused_until is null or s.paused_until > p_now)
      and (f.following is null or f.following > p_now)
      and (s.time_zone = 'UTC' or not pgtick.has_moved(s))
    order by s.next_at, s.id
  ), placed as (
    select d.*, live.job_id as live_job_id, live.slot as live_slot, case
      when exists (select from pgtick.slot_log as g where g.schedule_id = d.id and g.slot = d.next_at) then null   -- it has its row
      when d.paused_at is not null then 'skipped_paused'
      when d.next_at < v_grace_from and (d.on_missed = 'skip' or d.on_missed = 'all' and (d.catch_up_limit = 0
        or d.next_at < p_now - make_interval(secs => extract(epoch from d.catch_up_window)::double precision))) then 'missed'
      when live.job_id is not null then 'skipped_overlap'
      when d.next_at < v_grace_from then 'caught_up'
      else 'enqueued' end as fate
    from due as d
    left join lateral (
      select j.id, j.slot from pgtick.live_jobs as j
      where d.on_overlap <> 'allow' and j.schedule_id = d.id
      order by j.slot
      limit 1) as live(job_id, slot) on true
    where live.job_id is null or d.on_overlap = 'skip'
  ), fated as materialized (
    select p.*, case when p.fate in ('enqueued', 'caught_up') then nextval('pgtick.live_jobs_id_seq') end as job_id
    from placed as p
  ), logged as (
    insert into pgtick.slot_log (schedule_id, slot, fate, version, cause, reason, job_id, recorded_at, clock)
    select f.id, f.next_at, f.fate, f.version, case
        when f.fate = 'skipped_paused' then 'paused'
        when f.fate = 'skipped_overlap' then 'overlap'
        when f.fate in ('missed', 'caught_up') then pgtick.cause_missed(f.schedule, f.next_at, p_outage) end,
      case
        when f.fate = 'skipped_paused' then pgtick.why_paused(f.schedule)
        when f.fate = 'skipped_overlap' then format('job %s of slot %s was still live', f.live_job_id, pgtick.utc(f.live_slot))
        when f.fate in ('missed', 'caught_up') then pgtick.why_missed(f.schedule, f.next_at, p_now, p_outage) end,
      f.job_id, p_now, v_clock
    from fated as f
    where f.fate is not null
  ), made as (
    insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, schedule_id, slot, created_at)
    overriding system value
    select f.job_id, f.task, f.queue, f.priority, greatest(pgtick.slot_run_at(f.id, f.next_at, f.jitter), p_now), f.max_attempts, f.timeout, f.args,
      f.owner_id, f.id, f.next_at, p_now
    from fated as f
    where f.job_id is not null
    returning live_jobs.queue, live_jobs.run_at
  ), moved_on as (
    update pgtick.schedule_defs as s set next_at = case when f.following >= f.ends_at then null else f.following end
    from fated as f
    where s.id = f.id
    returning s.id
  )
  select (select count(*) from made), array(select m.id from moved_on as m), array(select distinct m.queue from made as m), (select min(m.run_at) from made as m)
  into tick_singles.jobs, tick_singles.done, tick_singles.queues, tick_singles.run_at;
end
$$;
comment on function pgtick.tick_singles(bigint[], timestamptz, pgtick.outages) is
  'Account for those of the locked schedules p_ids of which exactly one slot is due. Returns how many jobs it made, the schedules it is done with, and what to wake.';

-- definer: pgtick_runner calls it, and writes no table directly.
-- A broken schedule is tried again a minute later, and the others go on. One that breaks the common statement is found by taking each by
-- itself, once: from then on it is marked. A chunk ends at p_most slots, or where single ones take longer than so many do together (0.1 ms
-- each): its locks are short. A runner asks for few, since it claims between them.
-- A plan may be made while the tables are empty: so each row is looked up by index, one by one, and nothing that looks dear (clocks has
-- no index that helps) is compiled for it.
-- It waits for none but, for a moment, what a job to be cancelled says of its progress; in vain, that schedule is left to the next call.
create or replace function pgtick.tick_chunk(p_most integer default 5000, out jobs integer, out schedules integer)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '200ms'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_outage constant pgtick.outages := pgtick.latest_outage(v_now);
  v_clock constant text := pgtick.clock_name();
  v_ids bigint[];
  v_id bigint;
  v_singles record;
  v_one record;
  v_slots integer := 0;
  v_queues text[] := '{}';
  v_run_at timestamptz;
begin
  if p_most is null or p_most not between 1 and 10000 then perform pgtick.invalid('most', p_most::text, 'it goes from 1 to 10000'); end if;
  jobs := 0;
  schedules := 0;
  if v_outage.ended_at = v_now then perform pgtick.note_outage(v_outage); end if;
  perform pgtick.mark_clock(v_now);
  v_ids := array(
    select s.id
    from pgtick.schedule_defs as s
    where coalesce(s.retry_at, s.next_at) <= v_now and s.next_at is not null
    order by coalesce(s.retry_at, s.next_at)
    limit p_most
    for no key update skip locked);
  if cardinality(v_ids) = 0 then return; end if;

  begin
    v_singles := pgtick.tick_singles(v_ids, v_now, v_outage);
    jobs := v_singles.jobs;
    schedules := cardinality(v_singles.done);
    v_slots := schedules;
    v_queues := v_singles.queues;
    v_run_at := v_singles.run_at;
    v_ids := array(
      select u.id from unnest(v_ids) with ordinality as u(id, place)
      where u.id not in (select d.id from unnest(v_singles.done) as d(id))
      order by u.place);
  exception when others then
    if pgtick.is_passing(sqlstate) then raise; end if;   -- otherwise one by one, to find the one at fault
  end;

  foreach v_id in array v_ids loop
    exit when schedules > 0 and (v_slots >= p_most or pgtick.now() - v_now > p_most * interval '100 microseconds');   -- each call gets on
    begin
      v_one := pgtick.account(v_id, v_now, v_outage, v_clock);
      jobs := jobs + v_one.jobs;
      v_slots := v_slots + v_one.slots;
      if v_one.jobs > 0 then
        v_run_at := least(v_run_at, v_one.run_at);
        v_queues := v_queues || (select s.queue from pgtick.schedule_defs as s where s.id = v_id);
      end if;
    exception
    when lock_not_available then null;
    when others then
      if pgtick.is_passing(sqlstate) then raise; end if;
      update pgtick.schedule_defs as s
      set broken_at = coalesce(s.broken_at, v_now), broken_why = format('%s (%s)', sqlerrm, sqlstate), retry_at = v_now + interval '1 minute'
      where s.id = v_id;
    end;
    schedules := schedules + 1;
  end loop;

  if jobs > 0 then
    v_queues := array(select distinct q.queue from unnest(v_queues) as q(queue));
    perform pgtick.wake(v_queues, v_run_at);
  end if;
end
$$;
comment on function pgtick.tick_chunk(integer) is 'One chunk of tick(), of at most p_most slots (1 to 10,000; default 5,000), but a schedule never in parts: how many jobs it made, and how many schedules it looked at; 0 = nothing was due that another session does not hold. Raises TK000.';

create or replace function pgtick.tick()
returns integer
language sql volatile parallel unsafe security definer   -- as tick_chunk
set search_path = ''
as $$ select t.jobs from pgtick.tick_chunk() as t $$;
comment on function pgtick.tick() is 'Account for what has become due, one chunk (at most 5,000 slots, but a schedule never in parts) in the caller''s transaction, and return how many jobs it made. Any number of sessions may call it at once: each slot happens once, and none waits for another. 0 does not mean that nothing is left: see pgtick.next_tick_at().';

-- definer: as tick.
create or replace function pgtick.next_tick_at()
returns timestamptz
language sql stable parallel safe security definer
set search_path = ''
as $$
  select coalesce(s.retry_at, s.next_at)
  from pgtick.schedule_defs as s
  where s.next_at is not null
  order by coalesce(s.retry_at, s.next_at)
  limit 1
$$;
comment on function pgtick.next_tick_at() is 'When the next slot is due (or a broken schedule to be tried again); null when no schedule has one. In the past: call tick(). A change that brings it nearer is notified on the channel pgtick_tick.';

-- definer: as tick; run_ticks cannot be, since it commits.
create or replace function pgtick.upkeep_due(p_what text, p_every interval)
returns boolean
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  select not exists (
    select from pgtick.upkeep as u
    where u.what = p_what and u.done_at between pgtick.now() - case when u.problem is null then p_every else least(p_every, interval '1 minute') end and pgtick.now())
$$;
comment on function pgtick.upkeep_due(text, interval) is 'Whether this kind of upkeep was last done longer ago than p_every, or never; after one with a problem, than a minute.';

-- Commits, so it can neither be definer nor have a search_path of its own: every name is written in full. A failure is a warning, which
-- pg_cron writes into the server's log, and what follows goes on. No exception block may hold a commit, hence each commit after its block.
create or replace procedure pgtick.run_ticks()
language plpgsql
as $$
declare
  v_until constant pg_catalog.timestamptz := pgtick.now() operator(pg_catalog.+) '50 seconds'::pg_catalog.interval;
  v_schedules pg_catalog.int4;
begin
  loop
    begin
      v_schedules := (select t.schedules from pgtick.tick_chunk() as t);
    exception when others then
      raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.tick: ', sqlerrm);
      v_schedules := 0;
    end;
    commit;
    exit when v_schedules operator(pg_catalog.=) 0 or pgtick.now() operator(pg_catalog.>=) v_until;
  end loop;

  begin
    perform pgtick.rescue();
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.rescue: ', sqlerrm);
  end;
  commit;

  begin
    perform pgtick.check_deadlines();
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.check_deadlines: ', sqlerrm);
  end;
  commit;

  begin
    if pgtick.upkeep_due('maintain', '1 hour'::pg_catalog.interval) then
      perform pgtick.maintain();
    end if;
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.maintain: ', sqlerrm);
  end;
  commit;

  begin
    if pgtick.upkeep_due('indexes', '5 minutes'::pg_catalog.interval) then
      perform pgtick.rebuild_indexes();
    end if;
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.rebuild_indexes: ', sqlerrm);
  end;
  commit;
end
$$;
comment on procedure pgtick.run_ticks() is 'For pg_cron and people: tick() and commit until nothing is due, at most 50 seconds; then rescue(), check_deadlines(), once an hour maintain(), and every five minutes rebuild_indexes(), each in a transaction of its own, whatever became of the others. Not inside a transaction block.';
