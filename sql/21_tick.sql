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
    when v_application like 'pg\_cron%' then 'pg_cron'
    when exists (select from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) as a where a.backend_type like 'pg\_cron%') then 'pg_cron'
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
language sql immutable parallel safe
set search_path = ''
as $$ select left(p_sqlstate, 2) in ('08', '40', '53', '57', '58') or p_sqlstate = '55P03' $$;
comment on function pgtick.is_passing(text) is 'Whether an error has a cause that passes: transaction rolled back, resources, operator, system or lock timeout.';

create or replace function pgtick.why_paused(p_schedule pgtick.schedule_defs)
returns text
language sql stable parallel safe
set search_path = ''
as $$
  select 'paused since ' || pgtick.utc(p_schedule.paused_at) || coalesce(' until ' || pgtick.utc(p_schedule.paused_until), '')
$$;
comment on function pgtick.why_paused(pgtick.schedule_defs) is 'The reason of a slot that lay in a pause.';

create or replace function pgtick.why_missed(p_schedule pgtick.schedule_defs, p_now timestamptz, p_quiet_since timestamptz)
returns text
language sql stable parallel safe
set search_path = ''
as $$
  select case
      when p_schedule.broken_at is not null then format('the schedule was broken from %s on: %s', pgtick.utc(p_schedule.broken_at), p_schedule.broken_why)
      when p_quiet_since is null then 'no clock had ticked yet'
      when p_quiet_since < p_now - interval '2 minutes' then format('no clock ticked from %s to %s', pgtick.utc(p_quiet_since), pgtick.utc(p_now))
      else format('no tick had reached it by %s', pgtick.utc(p_now)) end
    || '; on_missed ' || p_schedule.on_missed
    || case when p_schedule.on_missed = 'all'
      then format(', catch_up_limit %s', p_schedule.catch_up_limit) || coalesce(', catch_up_window ' || p_schedule.catch_up_window, '') else '' end
$$;
comment on function pgtick.why_missed(pgtick.schedule_defs, timestamptz, timestamptz) is 'The reason of a slot that was not taken in time: the cause as far as it is known, and the policy. p_quiet_since: when a clock last ticked before p_now.';

-- An interval's slots are counted, not listed: a year of seconds has 31 million. Those of five fields are listed (0.3 to 1.6 µs each).
create or replace function pgtick.newest_slots(p_schedule pgtick.schedule_defs, p_from timestamptz, p_to timestamptz, p_keep integer,
  out total integer, out first_slot timestamptz, out last_dropped timestamptz, out newest timestamptz[])
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_seconds constant integer := (p_schedule.parsed).every_seconds;
  v_dropped integer;
begin
  total := 0;
  newest := '{}';
  if not (p_from < p_to) then return; end if;
  if v_seconds is not null then
    first_slot := pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone, p_from);
    if first_slot > p_to then return; end if;
    total := floor(extract(epoch from p_to - first_slot) / v_seconds) + 1;
    v_dropped := greatest(total - p_keep, 0);
    last_dropped := first_slot + make_interval(secs => (v_dropped - 1)::double precision * v_seconds);
    newest := array(select s.slot from generate_series(last_dropped + make_interval(secs => v_seconds), p_to, make_interval(secs => v_seconds)) as s(slot));
    return;
  end if;
  newest := array(select s.slot from pgtick.slots_between(p_schedule.parsed, p_schedule.time_zone, p_from, p_to, null, p_schedule.on_gap, p_schedule.on_fold) as s(slot));
  total := cardinality(newest);
  first_slot := newest[1];
  v_dropped := greatest(total - p_keep, 0);
  last_dropped := newest[v_dropped];
  newest := newest[v_dropped + 1:];
end
$$;
comment on function pgtick.newest_slots(pgtick.schedule_defs, timestamptz, timestamptz, integer) is
  'The slots of a schedule after p_from up to and with p_to: how many, the first, the newest p_keep in order, and the last one before those.';

-- Fates. Within 2 minutes of its time a slot is on time: pg_cron ticks once a minute, and may be late. After that it is missed, and
-- on_missed decides. A slot in a pause is skipped, whenever a clock comes by. Only 1,000 slots of one outage are told singly, the newest;
-- the older ones become one row, so that forty days of every minute are 1,001 rows and not 57,600.
create or replace function pgtick.account(p_schedule_id bigint, p_now timestamptz, p_quiet_since timestamptz,
  out jobs integer, out slots integer, out run_at timestamptz)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_singly constant integer := 1000;
  v_grace_from constant timestamptz := p_now - interval '2 minutes';
  v_instant constant interval := interval '1 microsecond';
  v_clock constant text := pgtick.clock_name();
  v_schedule pgtick.schedule_defs;
  v_pause_end timestamptz := '-infinity';   -- slots before it lie in the pause
  v_pause_over boolean;
  v_version integer;                        -- of slots before the pause's end
  v_from timestamptz;
  v_to timestamptz;
  v_paused record;
  v_missed record;
  v_missed_slots timestamptz[] := '{}';
  v_caught_slots timestamptz[] := '{}';
  v_on_time timestamptz[] := '{}';
  v_kept integer;
  v_dropped integer;
  v_why_paused text;
  v_why_missed text;
  v_live record;
begin
  jobs := 0;
  slots := 0;
  select s.* into v_schedule from pgtick.schedule_defs as s where s.id = p_schedule_id;   -- the caller has locked it
  v_pause_over := coalesce(v_schedule.paused_until <= p_now, false);
  if v_schedule.paused_at is not null then
    v_pause_end := case when v_pause_over then v_schedule.paused_until else 'infinity' end;
    v_why_paused := pgtick.why_paused(v_schedule);
  end if;
  v_from := v_schedule.next_at - v_instant;
  v_to := least(p_now, v_schedule.ends_at - v_instant);

  if v_schedule.next_at <= p_now and pgtick.has_moved(v_schedule) then
    -- The zone's rules have changed since next_at was worked out. Go back to where the slots are known to be accounted for; no change of
    -- rules moves a slot by two days, and no version reaches back before its start.
    v_from := greatest(v_schedule.next_at - interval '48 hours',
      (select max(coalesce(l.last_slot, l.slot)) from pgtick.slot_log as l where l.schedule_id = p_schedule_id and l.fate <> 'run_now'),
      (select c.changed_at from pgtick.schedule_changes as c where c.schedule_id = p_schedule_id and c.version = v_schedule.version),
      v_schedule.starts_at - v_instant);
    update pgtick.schedule_defs as s set version = s.version + 1 where s.id = p_schedule_id returning s.version into v_schedule.version;
    perform pgtick.record_version(p_schedule_id, 'moved', v_from,
      format('the rules of %s have changed: %s is no slot any more', v_schedule.time_zone, pgtick.utc(v_schedule.next_at)), 'pgtick.tick');
  end if;

  v_version := v_schedule.version;
  if v_pause_over then
    update pgtick.schedule_defs as s set version = s.version + 1, paused_at = null, paused_until = null
    where s.id = p_schedule_id returning s.version into v_schedule.version;
    perform pgtick.record_version(p_schedule_id, 'resumed', v_pause_end, 'the pause was to end here', 'pgtick.tick');
  end if;
  if v_schedule.next_at is null or v_schedule.next_at > p_now then return; end if;

  -- In the pause.
  v_paused := pgtick.newest_slots(v_schedule, v_from, least(v_to, v_pause_end - v_instant), v_singly);
  if v_paused.total > v_singly then
    insert into pgtick.slot_log (schedule_id, slot, last_slot, slots, fate, version, reason, recorded_at, clock)
    values (p_schedule_id, v_paused.first_slot, v_paused.last_dropped, v_paused.total - v_singly, 'skipped_range', v_version, v_why_paused, p_now, v_clock)
    on conflict do nothing;
    slots := slots + 1;
  end if;
  v_from := greatest(v_from, v_pause_end - v_instant);

  -- Missed. The newest ones are caught up, as many as on_missed says.
  v_kept := v_singly + case v_schedule.on_missed when 'skip' then 0 when 'once' then 1 else v_schedule.catch_up_limit end;
  v_missed := pgtick.newest_slots(v_schedule, v_from, least(v_to, v_grace_from - v_instant), v_kept);
  if v_missed.total > 0 then
    v_missed_slots := v_missed.newest;
    v_caught_slots := v_missed_slots[greatest(cardinality(v_missed_slots) - (v_kept - v_singly), 0) + 1:];
    if v_schedule.on_missed = 'all' and v_schedule.catch_up_window is not null then
      v_caught_slots := array(select c.slot from unnest(v_caught_slots) as c(slot)
        where c.slot >= p_now - make_interval(secs => extract(epoch from v_schedule.catch_up_window)::double precision) order by c.slot);
    end if;
    v_missed_slots := v_missed_slots[:cardinality(v_missed_slots) - cardinality(v_caught_slots)];
    v_dropped := v_missed.total - cardinality(v_caught_slots) - v_singly;
    v_why_missed := pgtick.why_missed(v_schedule, p_now, p_quiet_since);
    if v_dropped > 0 then
      v_dropped := v_dropped - (v_missed.total - cardinality(v_missed.newest));   -- of the range's slots, those that were listed
      insert into pgtick.slot_log (schedule_id, slot, last_slot, slots, fate, version, reason, recorded_at, clock)
      values (p_schedule_id, v_missed.first_slot, coalesce(v_missed_slots[v_dropped], v_missed.last_dropped),
        v_missed.total - cardinality(v_caught_slots) - v_singly, 'missed_range', v_schedule.version, v_why_missed, p_now, v_clock)
      on conflict do nothing;
      v_missed_slots := v_missed_slots[v_dropped + 1:];
      slots := slots + 1;
    end if;
  end if;

  -- On time.
  v_from := greatest(v_from, v_grace_from - v_instant);
  if v_from < v_to then
    v_on_time := array(select s.slot from pgtick.slots_between(v_schedule.parsed, v_schedule.time_zone, v_from, v_to, null, v_schedule.on_gap, v_schedule.on_fold) as s(slot));
  end if;

  if v_schedule.on_overlap = 'skip' then
    select j.id, j.slot into v_live from pgtick.live_jobs as j where j.schedule_id = p_schedule_id order by j.slot limit 1;
  else
    select null::bigint as id, null::timestamptz as slot into v_live;
  end if;
  with listed as (
    select u.slot, 'skipped_paused' as fate, v_why_paused as reason, false as wants_job from unnest(v_paused.newest) as u(slot)
    union all
    select u.slot, 'missed', v_why_missed, false from unnest(v_missed_slots) as u(slot)
    union all
    select u.slot, 'caught_up', v_why_missed, true from unnest(v_caught_slots) as u(slot)
    union all
    select u.slot, 'enqueued', null, true from unnest(v_on_time) as u(slot)
  ), fresh as (
    select l.*, first_value(l.slot) over (partition by l.wants_job order by l.slot) as first_slot
    from listed as l
    where not exists (select from pgtick.slot_log as g where g.schedule_id = p_schedule_id and g.slot = l.slot)
  ), decided as (
    select f.slot, f.wants_job and not x.clashes as has_job, case when x.clashes then 'skipped_overlap' else f.fate end as fate,
      case when not x.clashes then f.reason
        when v_live.id is not null then format('job %s of slot %s was still live', v_live.id, pgtick.utc(v_live.slot))
        else format('slot %s, accounted for at the same moment, has the job', pgtick.utc(f.first_slot)) end as reason
    from fresh as f
    cross join lateral (select f.wants_job and v_schedule.on_overlap = 'skip' and (v_live.id is not null or f.slot <> f.first_slot)) as x(clashes)
  ), logged as (
    insert into pgtick.slot_log (schedule_id, slot, fate, version, reason, job_id, recorded_at, clock)
    select p_schedule_id, d.slot, d.fate, case when d.slot < v_pause_end then v_version else v_schedule.version end, d.reason,
      case when d.has_job then nextval('pgtick.live_jobs_id_seq') end, p_now, v_clock
    from decided as d
    order by d.slot
    on conflict do nothing
    returning slot, job_id
  ), made as (
    insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, schedule_id, slot, created_at)
    overriding system value
    select l.job_id, v_schedule.task, v_schedule.queue, v_schedule.priority, greatest(pgtick.slot_run_at(p_schedule_id, l.slot, v_schedule.jitter), p_now),
      v_schedule.max_attempts, v_schedule.timeout, v_schedule.args, v_schedule.owner_id, p_schedule_id, l.slot, p_now
    from logged as l
    where l.job_id is not null
    returning live_jobs.run_at
  )
  select (select count(*) from made), account.slots + (select count(*) from logged), (select min(m.run_at) from made as m)
  into account.jobs, account.slots, account.run_at;

  update pgtick.schedule_defs as s set next_at = pgtick.next_for(s, p_now), broken_at = null, broken_why = null, retry_at = null where s.id = p_schedule_id;
end
$$;
comment on function pgtick.account(bigint, timestamptz, timestamptz) is
  'Account for the slots of one schedule up to p_now; the caller has locked its row. p_quiet_since: when a clock last ticked before this. Returns how many jobs it made and slot rows it wrote, and the earliest run_at; the caller wakes the queue.';

create or replace function pgtick.has_moved(p_schedule pgtick.schedule_defs)
returns boolean
language sql stable parallel safe
set search_path = ''
as $$
  select p_schedule.time_zone <> 'UTC' and (p_schedule.parsed).every_seconds is null
    and pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone, p_schedule.next_at - interval '1 microsecond', p_schedule.on_gap, p_schedule.on_fold)
      is distinct from p_schedule.next_at
$$;
comment on function pgtick.has_moved(pgtick.schedule_defs) is 'Whether next_at is no slot any more, since the time zone''s rules have changed.';

-- The common case in one statement: schedules of which exactly one slot is due. It leaves the others (several slots due, just broken, at
-- the end of a pause, moved by new time zone rules) to account(), one by one.
create or replace function pgtick.tick_singles(p_ids bigint[], p_now timestamptz, p_quiet_since timestamptz,
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
    cross join lateral (select pgtick.next_slot(s.parsed, s.time_zone, s.next_at, s.on_gap, s.on_fold)) as f(following)
    where s.id = any (p_ids) and s.broken_at is null and (s.paused_until is null or s.paused_until > p_now)
      and (f.following is null or f.following > p_now)
      and (s.time_zone = 'UTC' or not pgtick.has_moved(s))
  ), fated as materialized (
    select d.*, live.job_id as live_job_id, live.slot as live_slot, case
      when d.paused_at is not null then 'skipped_paused'
      when d.next_at < v_grace_from and (d.on_missed = 'skip' or d.on_missed = 'all' and (d.catch_up_limit = 0
        or d.next_at < p_now - make_interval(secs => extract(epoch from d.catch_up_window)::double precision))) then 'missed'
      when live.job_id is not null then 'skipped_overlap'
      when d.next_at < v_grace_from then 'caught_up'
      else 'enqueued' end as fate
    from due as d
    left join lateral (
      select j.id, j.slot from pgtick.live_jobs as j
      where d.on_overlap = 'skip' and j.schedule_id = d.id
      order by j.slot
      limit 1) as live(job_id, slot) on true
  ), logged as (
    insert into pgtick.slot_log (schedule_id, slot, fate, version, reason, job_id, recorded_at, clock)
    select f.id, f.next_at, f.fate, f.version, case
        when f.fate = 'skipped_paused' then pgtick.why_paused(f.schedule)
        when f.fate = 'skipped_overlap' then format('job %s of slot %s was still live', f.live_job_id, pgtick.utc(f.live_slot))
        when f.fate in ('missed', 'caught_up') then pgtick.why_missed(f.schedule, p_now, p_quiet_since) end,
      case when f.fate in ('enqueued', 'caught_up') then nextval('pgtick.live_jobs_id_seq') end, p_now, v_clock
    from fated as f
    order by f.next_at, f.id
    on conflict do nothing
    returning schedule_id, slot, job_id
  ), made as (
    insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, schedule_id, slot, created_at)
    overriding system value
    select l.job_id, f.task, f.queue, f.priority, greatest(pgtick.slot_run_at(f.id, f.next_at, f.jitter), p_now), f.max_attempts, f.timeout, f.args,
      f.owner_id, f.id, f.next_at, p_now
    from logged as l
    join fated as f on f.id = l.schedule_id
    where l.job_id is not null
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
comment on function pgtick.tick_singles(bigint[], timestamptz, timestamptz) is
  'Account for those of the locked schedules p_ids of which exactly one slot is due. Returns how many jobs it made, the schedules it is done with, and what to wake.';

-- definer: pgtick_runner calls it, and writes no table directly.
-- A broken schedule is tried again a minute later, and the others go on. One that breaks the common statement is found by taking each by
-- itself, once: from then on it is marked. A chunk ends at 10,000 slots, or after half a second of single ones: its locks are short.
create or replace function pgtick.tick_chunk(out jobs integer, out schedules integer)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_most constant integer := 10000;
  v_quiet_since constant timestamptz := (select max(c.ticked_at) from pgtick.clocks as c);
  v_ids bigint[];
  v_id bigint;
  v_singles record;
  v_one record;
  v_slots integer := 0;
  v_queues text[] := '{}';
  v_run_at timestamptz;
begin
  jobs := 0;
  schedules := 0;
  perform pgtick.mark_clock(v_now);
  v_ids := array(
    select s.id
    from pgtick.schedule_defs as s
    where coalesce(s.retry_at, s.next_at) <= v_now and s.next_at is not null
    order by coalesce(s.retry_at, s.next_at)
    limit v_most
    for no key update skip locked);
  if cardinality(v_ids) = 0 then return; end if;

  begin
    v_singles := pgtick.tick_singles(v_ids, v_now, v_quiet_since);
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
    exit when schedules > 0 and (v_slots >= v_most or pgtick.now() - v_now > interval '500 milliseconds');   -- each call gets on
    begin
      v_one := pgtick.account(v_id, v_now, v_quiet_since);
      jobs := jobs + v_one.jobs;
      v_slots := v_slots + v_one.slots;
      if v_one.jobs > 0 then
        v_run_at := least(v_run_at, v_one.run_at);
        v_queues := v_queues || (select s.queue from pgtick.schedule_defs as s where s.id = v_id);
      end if;
    exception when others then
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
comment on function pgtick.tick_chunk() is 'One chunk of tick(): how many jobs it made, and how many schedules it looked at; 0 = nothing was due that another session does not hold.';

create or replace function pgtick.tick()
returns integer
language sql volatile parallel unsafe security definer   -- as tick_chunk
set search_path = ''
as $$ select t.jobs from pgtick.tick_chunk() as t $$;
comment on function pgtick.tick() is 'Account for what has become due, one chunk (at most 10,000 slots, but a schedule never in parts) in the caller''s transaction, and return how many jobs it made. Any number of sessions may call it at once: each slot happens once, and none waits for another. 0 does not mean that nothing is left: see pgtick.next_tick_at().';

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
  select not exists (select from pgtick.upkeep as u where u.what = p_what and u.done_at between pgtick.now() - p_every and pgtick.now())
$$;
comment on function pgtick.upkeep_due(text, interval) is 'Whether this kind of upkeep was last done longer ago than p_every, or never.';

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
    if pgtick.upkeep_due('maintain', '1 hour'::pg_catalog.interval) then
      perform pgtick.maintain();
    end if;
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.maintain: ', sqlerrm);
  end;
  commit;
end
$$;
comment on procedure pgtick.run_ticks() is 'For pg_cron and people: tick() and commit until nothing is due, at most 50 seconds; then rescue(), and once an hour maintain(), each in a transaction of its own, whatever became of the others. Not inside a transaction block.';
