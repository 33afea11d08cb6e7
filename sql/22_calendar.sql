-- Looking at schedules: whether every slot has its row, what a change would do, what is to come, and why nothing comes.

-- The version that names a slot is the one in force just before it was replaced, so each covers the time after changed_at, up to and with
-- the moment at which the next one took over. The present one is answerable for what lies before next_at: what comes after is still due.
-- pgtick.schedule decides anew about all that comes after it, also where the clock was set back before: then no earlier version answers for that, the one
-- that was made ahead of time as little as those before it. A pause or another name does not, so such a version answers for nothing that lies before the
-- one that it continues (era: from one pgtick.schedule to the next).
create or replace function pgtick.version_windows(p_from timestamptz, p_to timestamptz)
returns table (schedule_id bigint, schedule text, version integer, after_at timestamptz, until_at timestamptz)
language sql stable parallel safe
set search_path = ''
as $$
  select w.id, w.name, w.version, w.after_at, w.until_at
  from (
    select s.id, s.name, c.version,
      greatest(p_from, max(c.changed_at) over (partition by c.schedule_id, c.era order by c.version), (c.definition ->> 'starts_at')::timestamptz - interval '1 microsecond') as after_at,
      least(p_to, lead(c.changed_at) over (partition by c.schedule_id order by c.version),
        min(c.changed_at) filter (where c.what in ('created', 'changed')) over (partition by c.schedule_id order by c.version desc rows between unbounded preceding and 1 preceding),   -- a frame that begins anew at each row would cost the square of all versions
        (c.definition ->> 'ends_at')::timestamptz - interval '1 microsecond',
        case when c.version = s.version then s.next_at - interval '1 microsecond' end) as until_at,
      c.what
    from (
      select x.*, count(*) filter (where x.what in ('created', 'changed')) over (partition by x.schedule_id order by x.version) as era from pgtick.schedule_changes as x) as c
    join pgtick.schedule_defs as s on s.id = c.schedule_id
  ) as w
  where w.what <> 'removed' and w.after_at < w.until_at
$$;
comment on function pgtick.version_windows(timestamptz, timestamptz) is 'For each version of each schedule the time after p_from, up to and with p_to, whose slots it has to account for.';

create or replace function pgtick.unaccounted_in(p_schedule_id bigint, p_schedule text, p_version integer, p_after timestamptz, p_until timestamptz)
returns table (schedule text, slot timestamptz, version integer, why text)
language plpgsql stable parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan   -- to plan over all the days' partitions takes longer than to run
as $$
declare
  v_named pgtick.schedule_defs;
begin
  v_named := pgtick.in_version(p_schedule_id, p_version);
  return query
  with ranges as materialized (
    select l.slot, l.last_slot, l.slots, l.version
    from pgtick.slot_log as l
    where l.schedule_id = p_schedule_id and l.last_slot > p_after and l.slot <= p_until
  ), told as materialized (
    select l.slot from pgtick.slot_log as l
    where l.schedule_id = p_schedule_id and l.slot > p_after and l.slot <= p_until and l.fate <> 'run_now'
  )
  select p_schedule, c.slot, p_version, 'it has no row in pgtick.slots'
  from pgtick.slots_between(v_named.parsed, v_named.time_zone, p_after, p_until, null, v_named.on_gap, v_named.on_fold) as c(slot)
  where not exists (select from told as t where t.slot = c.slot)
    and not exists (select from ranges as r where c.slot between r.slot and r.last_slot)
  union all
  select p_schedule, r.slot, p_version, format('the range from here to %s counts %s slots, the calendar %s', pgtick.utc(r.last_slot), r.slots, n.slots)
  from ranges as r
  cross join lateral (
    select pgtick.count_slots(v_named.parsed, v_named.time_zone, r.slot - interval '1 microsecond', r.last_slot, v_named.on_gap, v_named.on_fold)) as n(slots)
  where r.version = p_version and n.slots <> r.slots
  order by 2;
exception when others then
  return query select p_schedule, null::timestamptz, p_version, format('the slots from %s to %s cannot be worked out any more: %s', pgtick.utc(p_after), pgtick.utc(p_until), sqlerrm)
  where not exists (   -- it was known to be broken, and has its one row
    select from pgtick.slot_log as l where l.schedule_id = p_schedule_id and l.version = p_version and l.cause = 'broken' and l.last_slot >= p_until);
end
$$;
comment on function pgtick.unaccounted_in(bigint, text, integer, timestamptz, timestamptz) is 'unaccounted_slots for the time of one version of one schedule.';

create or replace function pgtick.unaccounted_slots(p_since interval default '30 days')
returns table (schedule text, slot timestamptz, version integer, why text)
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_oldest constant timestamptz := ((v_now at time zone 'UTC')::date - pgtick.slot_retention_days())::timestamp at time zone 'UTC' - interval '1 microsecond';
begin
  if p_since is null or date_part('epoch', p_since) <= 0 then
    perform pgtick.invalid('since', p_since::text, 'it is more than 0', 'Say how far back to look, such as 30 days; slots older than their retention are not looked for.');
  end if;
  return query
  select u.schedule, u.slot, u.version, u.why
  from pgtick.version_windows(greatest(v_oldest, v_now - make_interval(secs => least(extract(epoch from p_since), 1e9)::double precision)), v_now) as w
  cross join lateral pgtick.unaccounted_in(w.schedule_id, w.schedule, w.version, w.after_at, w.until_at) as u
  order by u.schedule, u.slot;
end
$$;
comment on function pgtick.unaccounted_slots(interval) is
  'Work out the calendar of the last p_since (default 30 days; at most as long as slots are kept) anew from the versions of all schedules, and return each slot that has no row in pgtick.slots, a range with a wrong count, or a time that cannot be worked out: always empty. Slots from next_at on are due, not lost: pgtick.health tells of clocks that do not tick. Costs 1 to 2 µs a slot. Raises TK000.';

create or replace function pgtick.check_until(p_until_at timestamptz, p_now timestamptz)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if not isfinite(p_until_at) or p_until_at <= p_now or p_until_at > p_now + interval '366 days' then
    perform pgtick.invalid('until_at', p_until_at::text, 'it lies in the future, at most 366 days ahead');
  end if;
end
$$;
comment on function pgtick.check_until(timestamptz, timestamptz) is 'Raise TK000 unless p_until_at is null or lies within the 366 days after p_now.';

create or replace function pgtick.preview_change(p_name text, p_cron text default null, p_time_zone text default null, p_until_at timestamptz default null)
returns table (slot timestamptz, change text)
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_most constant integer := 10000;
  v_now constant timestamptz := pgtick.now();
  v_schedule pgtick.schedule_defs;
  v_from timestamptz;
  v_to timestamptz;
  v_zone text;
  v_old timestamptz[];
  v_new timestamptz[];
begin
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  perform pgtick.check_until(p_until_at, v_now);
  v_zone := coalesce(p_time_zone, v_schedule.time_zone);
  perform pgtick.check_time_zone(v_zone);
  v_from := greatest(v_now, v_schedule.starts_at - interval '1 microsecond');
  v_to := least(coalesce(p_until_at, v_now + interval '30 days'), v_schedule.ends_at - interval '1 microsecond');
  v_old := array(select s.slot from pgtick.slots_between(v_schedule.parsed, v_schedule.time_zone, v_from, v_to, v_most, v_schedule.on_gap, v_schedule.on_fold) as s(slot));
  v_new := array(select s.slot from pgtick.slots_between(pgtick.parse_cron(coalesce(p_cron, v_schedule.cron)), v_zone, v_from, v_to, v_most, v_schedule.on_gap, v_schedule.on_fold) as s(slot));
  v_to := least(v_to, v_old[v_most], v_new[v_most]);   -- beyond it one of them is not known
  return query
  select coalesce(o.slot, n.slot), case when o.slot is null then 'added' else 'dropped' end
  from unnest(v_old) as o(slot)
  full join unnest(v_new) as n(slot) on n.slot = o.slot
  where (o.slot is null or n.slot is null) and coalesce(o.slot, n.slot) <= v_to
  order by 1;
end
$$;
comment on function pgtick.preview_change(text, text, text, timestamptz) is
  'The slots that pgtick.schedule with another cron or time zone (null: as it is) would add to, or drop from, the time from now to p_until_at (default: 30 days, at most 366; for dense ones the time in which each side has 10,000). Changes nothing. Raises TK000, TK006, TK010 to TK016, TK018.';

-- Played through slot by slot: a job takes as long as its task usually does, and one that runs now is over when that time is.
create or replace function pgtick.forecast_of(p_schedule pgtick.schedule_defs, p_now timestamptz, p_until_at timestamptz, p_usual interval)
returns table (slot timestamptz, run_at timestamptz, ends_at timestamptz, expected text, overlapping boolean)
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_takes constant interval := coalesce(p_usual, interval '0');
  v_busy_until timestamptz := (
    select greatest(p_now, coalesce(min(j.started_at), p_now) + v_takes) + (count(*) - 1) * v_takes from pgtick.live_jobs as j where j.schedule_id = p_schedule.id having count(*) > 0);
begin
  for slot in
    select s.slot from pgtick.slots_between(p_schedule.parsed, p_schedule.time_zone, greatest(p_now, p_schedule.starts_at - interval '1 microsecond'),
      least(p_until_at, p_schedule.ends_at - interval '1 microsecond'), 10000, p_schedule.on_gap, p_schedule.on_fold) as s(slot)
  loop
    run_at := pgtick.slot_run_at(p_schedule.id, slot, p_schedule.jitter);
    overlapping := coalesce(slot < v_busy_until, false);
    expected := case
      when p_schedule.paused_at is not null and (p_schedule.paused_until is null or slot < p_schedule.paused_until) then 'skipped_paused'
      when not overlapping then 'enqueued'
      else case p_schedule.on_overlap when 'skip' then 'skipped_overlap' when 'wait' then 'waits' when 'cancel' then 'replaces' else 'enqueued' end end;
    overlapping := overlapping and expected <> 'skipped_paused';
    if expected = 'waits' then run_at := greatest(run_at, v_busy_until); end if;
    ends_at := case when expected not like 'skipped%' then run_at + p_usual end;
    if expected not like 'skipped%' then
      v_busy_until := case expected when 'replaces' then run_at + v_takes else greatest(v_busy_until, run_at + v_takes) end;
    end if;
    return next;
  end loop;
end
$$;
comment on function pgtick.forecast_of(pgtick.schedule_defs, timestamptz, timestamptz, interval) is 'The coming slots of one schedule up to p_until_at, at most 10,000, and what will probably become of them when a job takes p_usual.';

create or replace function pgtick.forecast(p_until_at timestamptz default null)
returns table (slot timestamptz, schedule text, task text, queue text, run_at timestamptz, usual_duration interval, ends_at timestamptz, expected text, overlapping boolean, load integer)
language plpgsql stable parallel safe
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
begin
  perform pgtick.check_until(p_until_at, v_now);
  return query
  with usual as materialized (
    select t.task, pgtick.usual_duration(t.task) as takes
    from (select distinct s.task from pgtick.schedule_defs as s where s.next_at is not null) as t
  ), coming as (
    select f.*, s.name, s.task, s.queue, u.takes, case when f.expected not like 'skipped%' then 1 end as starts
    from pgtick.schedule_defs as s
    join usual as u on u.task = s.task
    cross join lateral pgtick.forecast_of(s, v_now, coalesce(p_until_at, v_now + interval '1 day'), u.takes) as f
    where s.next_at is not null
  )
  select c.slot, c.name, c.task, c.queue, c.run_at, c.takes, c.ends_at, c.expected, c.overlapping,
    (count(c.starts) over (partition by date_trunc('minute', c.run_at)))::integer
  from coming as c
  order by c.slot, c.name;
end
$$;
comment on function pgtick.forecast(timestamptz) is
  'What will run from now to p_until_at (default: a day, at most 366), without running it; of a schedule at most 10,000 slots. usual_duration: of its task, the median of the newest 100 done jobs, null when there are none. ends_at: when its job would then end. expected: enqueued, waits, replaces (the job before it), skipped_overlap, skipped_paused. overlapping: whether an earlier job of the schedule would still be live. load: how many jobs are expected to start in the same minute. Raises TK000.';

create or replace function pgtick.why_schedule(p_name text)
returns table (rank integer, reason text, evidence text, remedy text)
language plpgsql stable parallel safe
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
  v_schedule pgtick.schedule_defs;
begin
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  return query
  with live as (
    select j.id, j.slot, j.runner_id, j.started_at, j.run_at, j.attempt
    from pgtick.live_jobs as j
    where j.schedule_id = v_schedule.id
    order by j.slot
    limit 1
  ), latest as (
    select l.slot, l.last_slot, l.fate, l.reason, l.job_id
    from pgtick.slot_log as l
    where l.schedule_id = v_schedule.id and l.fate <> 'run_now'
    order by l.slot desc
    limit 1
  ), found (place, reason, evidence, remedy) as (
    select 1, 'it is broken', format('since %s ticks fail: %s', pgtick.utc(v_schedule.broken_at), v_schedule.broken_why), 'Put it right with pgtick.schedule, or remove it with pgtick.unschedule.'
    where v_schedule.broken_at is not null
    union all
    select 2, 'it is paused', pgtick.why_paused(v_schedule), format('select pgtick.resume_schedule(%L);', p_name)
    where v_schedule.paused_at is not null and (v_schedule.paused_until is null or v_schedule.paused_until > v_now)
    union all
    select 3, 'it has no slot any more', coalesce('it ended at ' || pgtick.utc(v_schedule.ends_at), format('%s never comes again in %s', v_schedule.cron, v_schedule.time_zone)),
      'Give it a later ends_at, or another cron, with pgtick.schedule.'
    where v_schedule.next_at is null
    union all
    select 4, 'no clock ticks', format('slot %s is due, and %s', pgtick.utc(v_schedule.next_at),
        coalesce('the last tick was at ' || pgtick.utc((select max(c.ticked_at) from pgtick.clocks as c)), 'no clock has ever ticked')),
      'Start a runner (pgtick work), or see what pg_cron did: select * from cron.job_run_details order by runid desc limit 5.'
    where v_schedule.broken_at is null and v_schedule.next_at < v_now - interval '2 minutes'
    union all
    select 5, 'its last slot made no job', format('slot %s: %s%s', pgtick.utc(coalesce(l.last_slot, l.slot)), l.fate, coalesce(': ' || l.reason, '')),
      case when l.fate = 'skipped_overlap' then 'Let its jobs be faster than its slots come, or choose on_overlap wait, cancel or allow.'
        when l.fate in ('missed', 'missed_range') then 'on_missed once or all runs such slots late; a runner and pg_cron together miss fewer.'
        else 'Slots in a pause are caught up only by pgtick.resume_schedule(…, p_catch_up => true).' end
    from latest as l
    where l.job_id is null
    union all
    select 6, 'its job waits', format('job %s of slot %s is ready since %s, and no live runner serves task %s', j.id, pgtick.utc(j.slot), pgtick.utc(j.run_at), v_schedule.task),
      'Start a runner that has this task, or correct the schedule.'
    from live as j
    where j.runner_id is null and j.run_at <= v_now
      and not exists (select from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null and r.lease_until > v_now and v_schedule.task = any (r.tasks))
    union all
    select 7, 'an earlier job of it is live', format('job %s of slot %s %s; on_overlap %s', j.id, pgtick.utc(j.slot),
        case when j.runner_id is not null then format('runs since %s (attempt %s)', pgtick.utc(j.started_at), j.attempt)
          when isfinite(j.run_at) then format('waits for %s (attempt %s)', pgtick.utc(j.run_at), j.attempt + 1) else 'is blocked' end, v_schedule.on_overlap),
      format('select * from pgtick.jobs where id = %s; or select pgtick.cancel(%s);', j.id, j.id)
    from live as j
    union all
    select 8, 'its last job ' || h.state, format('job %s of slot %s: %s', h.id, pgtick.utc(l.slot), coalesce(h.error ->> 'message', 'no reason given')), format('select pgtick.retry(%s);', h.id)
    from latest as l
    join pgtick.history as h on h.id = l.job_id
    where h.state <> 'done'
    union all
    select 9, 'its next slot is still to come', format('%s, in %s', pgtick.utc(v_schedule.next_at), date_trunc('second', v_schedule.next_at - v_now)), format('select pgtick.run_now(%L); runs it at once.', p_name)
    where v_schedule.next_at > v_now
  )
  select (row_number() over (order by f.place))::integer, f.reason, f.evidence, f.remedy from found as f order by f.place;
end
$$;
comment on function pgtick.why_schedule(text) is 'Why a schedule makes no job just now, the weightiest reason first, with evidence and remedy. Raises TK006.';
