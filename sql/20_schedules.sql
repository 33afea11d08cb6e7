-- Schedules: every change is checked, accounts for what is past under the old version, and leaves a row in schedule_changes.
-- What a tick calls for each schedule is plpgsql even where one expression is enough: a function in SQL that has a search_path is never
-- inlined, and planned anew for each statement that calls it (measured: 0.1 ms and more a call).
-- Locks: each function takes one schedule's row, then writes slots, then jobs. FOR NO KEY UPDATE: run_now and the rows that refer to
-- the schedule need no more than its key.

create or replace function pgtick.utc(p_at timestamptz)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return pg_catalog.to_char(p_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS" UTC"');
end
$$;
comment on function pgtick.utc(timestamptz) is 'A moment as people read it in reasons and messages: to the second, in UTC.';

-- The share depends on nothing but schedule and slot, so that all clocks agree on it. Seconds, not an interval times the share: days of
-- an interval would be added in the session's time zone.
create or replace function pgtick.slot_run_at(p_schedule_id bigint, p_slot timestamptz, p_jitter interval)
returns timestamptz
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
begin
  return case when p_jitter = interval '0' then p_slot
    else p_slot + make_interval(secs => extract(epoch from p_jitter)::double precision
      * (hashint8extended(extract(epoch from p_slot)::bigint, p_schedule_id) & 4294967295) / 4294967296.0) end;
end
$$;
comment on function pgtick.slot_run_at(bigint, timestamptz, interval) is 'When the job of a slot may run: the slot, plus a share of p_jitter that is always the same for this schedule and slot.';

create or replace function pgtick.next_for(p_schedule pgtick.schedule_defs, p_after timestamptz)
returns timestamptz
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_slot constant timestamptz := pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone,
    greatest(p_after, p_schedule.starts_at - interval '1 microsecond'), p_schedule.on_gap, p_schedule.on_fold);
begin
  return case when v_slot >= p_schedule.ends_at then null else v_slot end;
end
$$;
comment on function pgtick.next_for(pgtick.schedule_defs, timestamptz) is 'The first slot of a schedule strictly after p_after, from starts_at on and before ends_at; null when there is none.';

create or replace function pgtick.record_version(p_schedule_id bigint, p_what text, p_at timestamptz, p_reason text default null, p_by text default null)
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$
  insert into pgtick.schedule_changes (schedule_id, version, changed_at, changed_by, what, definition, reason)
  select s.id, s.version, p_at, coalesce(p_by, pgtick.caller()), p_what,
    to_jsonb(s) - '{id,version,parsed,next_at,told_until,removed_at,broken_at,broken_why,retry_at,created_at}'::text[], p_reason
  from pgtick.schedule_defs as s
  where s.id = p_schedule_id
$$;
comment on function pgtick.record_version(bigint, text, timestamptz, text, text) is 'Write down the present version of a schedule, which applies from p_at on. p_by: null = the caller.';

create or replace function pgtick.refuse_schedule(p_name text)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_removed_at timestamptz;
  v_near text;
begin
  select s.removed_at into v_removed_at from pgtick.schedule_defs as s where s.name = p_name;
  v_near := pgtick.nearest_name(p_name, array(select x.name from pgtick.schedule_defs as x where x.removed_at is null limit 10000));
  raise exception using errcode = 'TK006',
    message = format('no schedule is named %s', coalesce('"' || left(p_name, 200) || '"', 'null')) || coalesce(': it was unscheduled at ' || pgtick.utc(v_removed_at), ''),
    hint = case when v_removed_at is not null then 'pgtick.schedule with this name brings it back.'
      when v_near is not null then format('Did you mean "%s"?', v_near) else 'The names are in pgtick.schedules.' end;
end
$$;
comment on function pgtick.refuse_schedule(text) is 'Raise TK006: no such schedule, with the nearest name as hint.';

create or replace function pgtick.locked_schedule(p_name text)
returns pgtick.schedule_defs
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
begin
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null for no key update;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  return v_schedule;
end
$$;
comment on function pgtick.locked_schedule(text) is 'The schedule of this name, its row locked until the transaction ends. Raises TK006.';

-- What is past belongs to the old version, so it is accounted for before anything changes. When that cannot be done (the schedule is
-- broken), p_give_up says whether the change goes on all the same: then one row stands for all its slots up to now.
create or replace function pgtick.account_before_change(p_schedule_id bigint, p_now timestamptz, p_give_up boolean)
returns pgtick.schedule_defs
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
  v_jobs integer;
  v_run_at timestamptz;
begin
  begin
    select a.jobs, a.run_at into v_jobs, v_run_at
    from pgtick.account(p_schedule_id, p_now, pgtick.latest_outage(p_now), pgtick.clock_name()) as a;
  exception when others then
    if pgtick.is_passing(sqlstate) then raise; end if;
    select s.* into v_schedule from pgtick.schedule_defs as s where s.id = p_schedule_id;
    if not p_give_up then
      raise exception using errcode = 'TK005', message = format('schedule "%s" is broken: %s', v_schedule.name, sqlerrm),
        hint = 'Put it right with pgtick.schedule, or remove it with pgtick.unschedule.';
    end if;
    perform pgtick.log_range(p_schedule_id, v_schedule.next_at, p_now, pgtick.guess_slots(v_schedule, p_now), 'missed_range', v_schedule.version,
      format('the schedule was broken: %s; what its slots from this one to %s were is not known for sure', sqlerrm, pgtick.utc(p_now)), 'broken', p_now, pgtick.clock_name());
  end;
  select s.* into v_schedule from pgtick.schedule_defs as s where s.id = p_schedule_id;
  if v_jobs > 0 then perform pgtick.wake(array[v_schedule.queue], v_run_at); end if;
  return v_schedule;
end
$$;
comment on function pgtick.account_before_change(bigint, timestamptz, boolean) is 'Account for the slots of a locked schedule up to p_now under its present version, and return its row. Raises TK005 where it is broken, unless p_give_up.';

create or replace function pgtick.guess_slots(p_schedule pgtick.schedule_defs, p_now timestamptz)
returns integer
language plpgsql stable parallel unsafe
set search_path = ''
as $$
begin
  return greatest(pgtick.count_slots(pgtick.parse_cron(p_schedule.cron), p_schedule.time_zone, p_schedule.next_at - interval '1 microsecond', p_now, p_schedule.on_gap, p_schedule.on_fold), 1);
exception when others then
  return 1;   -- its time zone, say, is gone
end
$$;
comment on function pgtick.guess_slots(pgtick.schedule_defs, timestamptz) is 'How many slots a broken schedule had from next_at to p_now, by its expression parsed anew; 1 where even that fails.';

-- Says what is wrong with the settings that only schedules have; those of their jobs are refuse_job's.
create or replace function pgtick.refuse_policies(p_on_missed text, p_catch_up_limit integer, p_catch_up_window interval, p_on_overlap text, p_on_gap text,
  p_on_fold text, p_jitter interval, p_starts_at timestamptz, p_ends_at timestamptz, p_must_finish_within interval)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_on_missed is null or p_on_missed not in ('skip', 'once', 'all') then
    perform pgtick.invalid('on_missed', p_on_missed, 'it is skip, once or all');
  end if;
  if p_catch_up_limit is null or p_catch_up_limit not between 0 and 10000 then
    perform pgtick.invalid('catch_up_limit', p_catch_up_limit::text, 'it goes from 0 to 10000');
  end if;
  if date_part('epoch', p_catch_up_window) <= 0 or date_part('epoch', p_catch_up_window) > 3660 * 86400 then
    perform pgtick.invalid('catch_up_window', p_catch_up_window::text, 'it is more than 0 and at most 3660 days', 'Leave it out for no bound in time.');
  end if;
  if p_on_overlap not in ('skip', 'allow', 'cancel', 'wait') then
    perform pgtick.invalid('on_overlap', p_on_overlap, 'it is skip, allow, cancel or wait');
  end if;
  if p_on_missed = 'all' and p_on_overlap in ('skip', 'cancel') then
    perform pgtick.invalid('on_overlap', p_on_overlap, 'with on_missed all it is wait or allow',
      'The slots that are caught up would skip or cancel one another: leave on_overlap out, and each waits for the one before it.');
  end if;
  if p_on_gap is null or p_on_gap not in ('run', 'skip') then
    perform pgtick.invalid('on_gap', p_on_gap, 'it is run or skip');
  end if;
  if p_on_fold is null or p_on_fold not in ('first', 'last', 'both') then
    perform pgtick.invalid('on_fold', p_on_fold, 'it is first, last or both');
  end if;
  if p_jitter is null or date_part('epoch', p_jitter) not between 0 and 86400 then
    perform pgtick.invalid('jitter', p_jitter::text, 'it goes from 0 to 1 day');
  end if;
  if p_starts_at is not null then perform pgtick.check_moment('starts_at', p_starts_at); end if;
  if p_ends_at is not null then perform pgtick.check_moment('ends_at', p_ends_at); end if;
  if p_starts_at >= p_ends_at then
    perform pgtick.invalid('ends_at', p_ends_at::text, format('it is later than starts_at, %s', p_starts_at));
  end if;
  if date_part('epoch', p_must_finish_within) <= 0 or date_part('epoch', p_must_finish_within) > 366 * 86400 then
    perform pgtick.invalid('must_finish_within', p_must_finish_within::text, 'it is more than 0 and at most 366 days', 'Leave it out to promise nothing.');
  end if;
end
$$;
comment on function pgtick.refuse_policies(text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval) is
  'Raise TK000, naming field, value and rule, when a schedule may not have these settings; otherwise do nothing.';

-- definer (this and the other functions that change schedules): service_role may manage schedules, but writes no table directly.
create or replace function pgtick.schedule(p_name text, p_cron text, p_task text, p_args jsonb default '{}', p_time_zone text default 'UTC',
  p_queue text default 'default', p_priority integer default 5, p_max_attempts integer default 20, p_timeout interval default '5 minutes',
  p_on_missed text default 'once', p_catch_up_limit integer default 100, p_catch_up_window interval default null, p_on_overlap text default null,
  p_on_gap text default 'run', p_on_fold text default 'first', p_jitter interval default '0', p_starts_at timestamptz default null,
  p_ends_at timestamptz default null, p_must_finish_within interval default null, p_owner_id uuid default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_old pgtick.schedule_defs;
  v_new pgtick.schedule_defs;
  v_now timestamptz;
  v_next_before timestamptz;
  v_told_until timestamptz;
begin
  perform pgtick.refuse_name('name', p_name);
  perform pgtick.note_declared(p_name);
  v_new.parsed := pgtick.parse_cron(p_cron);
  perform pgtick.check_time_zone(p_time_zone);
  perform pgtick.refuse_job(p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout);
  if p_task = 'sql' then perform pgtick.check_function_call(p_args); end if;
  perform pgtick.refuse_policies(p_on_missed, p_catch_up_limit, p_catch_up_window, p_on_overlap, p_on_gap, p_on_fold, p_jitter, p_starts_at,
    p_ends_at, p_must_finish_within);
  if pgtick.next_slot(v_new.parsed, p_time_zone, greatest(pgtick.now(), p_starts_at), p_on_gap, p_on_fold) is null then
    raise exception using errcode = 'TK019', message = format('cron "%s" never fires in time zone %s', left(p_cron, 200), p_time_zone),
      hint = 'The zone''s clock skips these times, or the calendar has no such day in the coming 41 years: choose another time, or on_gap run.';
  end if;

  loop
    select s.* into v_old from pgtick.schedule_defs as s where s.name = p_name for no key update;
    exit when found;
    v_now := pgtick.now();
    insert into pgtick.schedule_defs (name, cron, parsed, time_zone, task, args, queue, priority, max_attempts, timeout, on_missed, catch_up_limit,
      catch_up_window, on_overlap, on_gap, on_fold, jitter, starts_at, ends_at, must_finish_within, owner_id, source, created_at, removed_at)
    values (p_name, p_cron, v_new.parsed, p_time_zone, p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout, p_on_missed, p_catch_up_limit,
      p_catch_up_window, coalesce(p_on_overlap, case p_on_missed when 'all' then 'wait' else 'skip' end), p_on_gap, p_on_fold, p_jitter,
      p_starts_at, p_ends_at, p_must_finish_within, p_owner_id, pgtick.source(), v_now, null)
    on conflict (name) do nothing
    returning * into v_old;
    continue when not found;   -- another session has just made it
    update pgtick.schedule_defs as s set next_at = pgtick.next_for(v_old, v_now) where s.id = v_old.id returning s.* into v_old;
    perform pgtick.record_version(v_old.id, 'created', v_now);
    perform pg_catalog.pg_notify('pgtick_tick', '');
    perform pgtick.warn_of(v_old);
    return v_old.id;
  end loop;

  v_now := pgtick.now();
  v_next_before := v_old.next_at;
  if v_old.removed_at is null and pgtick.with_settings(v_old, v_new.parsed, p_cron, p_time_zone, p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout,
    p_on_missed, p_catch_up_limit, p_catch_up_window, p_on_overlap, p_on_gap, p_on_fold, p_jitter, p_starts_at, p_ends_at, p_must_finish_within,
    p_owner_id) is not distinct from v_old
  then
    return v_old.id;   -- so that a file of schedules can be applied again and again
  end if;
  v_old := pgtick.account_before_change(v_old.id, v_now, true);
  v_told_until := pgtick.take_back(v_old, v_now);
  v_new := pgtick.with_settings(v_old, v_new.parsed, p_cron, p_time_zone, p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout,
    p_on_missed, p_catch_up_limit, p_catch_up_window, p_on_overlap, p_on_gap, p_on_fold, p_jitter, p_starts_at, p_ends_at, p_must_finish_within,
    p_owner_id);
  update pgtick.schedule_defs as s
  set version = s.version + 1, cron = v_new.cron, parsed = v_new.parsed, time_zone = v_new.time_zone, task = v_new.task, args = v_new.args,
      queue = v_new.queue, priority = v_new.priority, max_attempts = v_new.max_attempts, timeout = v_new.timeout, on_missed = v_new.on_missed,
      catch_up_limit = v_new.catch_up_limit, catch_up_window = v_new.catch_up_window, on_overlap = v_new.on_overlap, on_gap = v_new.on_gap,
      on_fold = v_new.on_fold, jitter = v_new.jitter, starts_at = v_new.starts_at, ends_at = v_new.ends_at,
      must_finish_within = v_new.must_finish_within, owner_id = v_new.owner_id, source = v_new.source, next_at = pgtick.next_for(v_new, v_now),
      told_until = greatest(s.told_until, v_told_until), removed_at = null, broken_at = null, broken_why = null, retry_at = null
  where s.id = v_old.id
  returning s.* into v_new;
  perform pgtick.record_version(v_old.id, case when v_old.removed_at is null then 'changed' else 'created' end, v_now);
  if v_new.next_at < coalesce(v_next_before, 'infinity') then perform pg_catalog.pg_notify('pgtick_tick', ''); end if;
  perform pgtick.warn_of(v_new);
  return v_new.id;
end
$$;
comment on function pgtick.schedule(text, text, text, jsonb, text, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid) is
  'Create the schedule p_name, or replace it, and return its id. What is past stays accounted for under the old version; the new one applies from now on; the same definition again changes nothing.
p_cron: five fields, @hourly … @yearly, @every 90s. p_time_zone: a full name. p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout: of its jobs, as in pgtick.enqueue.
p_on_missed (slots that no clock took within 2 minutes): skip, once (the latest; default), all (the latest p_catch_up_limit, 0 to 10000, not older than p_catch_up_window).
p_on_overlap (while an earlier job of the schedule is ready or running): skip (default); allow; cancel (that one, and run when it has ended); wait (until it has ended; default with on_missed all, which else takes only allow).
p_on_gap (a fixed time that the zone skips): run (at the gap''s end), skip. p_on_fold (one that comes twice): first, last, both.
p_jitter: 0 to 1 day, spread over jobs by schedule and slot. p_starts_at: the first moment that may be a slot. p_ends_at: the first that may not. p_must_finish_within: shows in pgtick.health when no job is done so long after a slot. p_owner_id: goes to its jobs.
What is legal but probably not meant is said in a notice each (pgtick.lint_schedules). Raises TK000, TK010 to TK016, TK018, TK019.';

create or replace function pgtick.warn_of(p_schedule pgtick.schedule_defs)
returns void
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_warning text;
begin
  if current_setting('client_min_messages') in ('warning', 'error') and current_setting('log_min_messages') not like 'debug%'
    and current_setting('log_min_messages') not in ('info', 'notice')
  then
    return;   -- nobody would see it, and it is most of what pgtick.schedule costs
  end if;
  for v_warning in select w.warning from pgtick.schedule_warnings(p_schedule) as w(warning) loop
    raise notice 'schedule "%": %', p_schedule.name, v_warning;
  end loop;
end
$$;
comment on function pgtick.warn_of(pgtick.schedule_defs) is 'Say what is legal in a schedule but probably not meant, a notice each.';

create or replace function pgtick.source()
returns text
language sql stable parallel safe
set search_path = ''
as $$ select nullif(current_setting('pgtick.source', true), '') $$;
comment on function pgtick.source() is 'What declares schedules in this transaction: the setting pgtick.source, as pgtick schedules apply sets it; null = calls by hand.';

create or replace function pgtick.note_declared(p_name text)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_declared constant text := nullif(current_setting('pgtick.declared', true), '');
begin
  if v_declared is not null then perform set_config('pgtick.declared', (v_declared::jsonb || to_jsonb(p_name))::text, true); end if;
end
$$;
comment on function pgtick.note_declared(text) is 'Add a name to the setting pgtick.declared, a JSON array, where it is set: so that pgtick schedules apply knows what a file declares, changed or not.';

create or replace function pgtick.with_settings(p_schedule pgtick.schedule_defs, p_parsed pgtick.cron, p_cron text, p_time_zone text, p_task text, p_args jsonb,
  p_queue text, p_priority integer, p_max_attempts integer, p_timeout interval, p_on_missed text, p_catch_up_limit integer, p_catch_up_window interval,
  p_on_overlap text, p_on_gap text, p_on_fold text, p_jitter interval, p_starts_at timestamptz, p_ends_at timestamptz, p_must_finish_within interval,
  p_owner_id uuid)
returns pgtick.schedule_defs
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  p_schedule.parsed := p_parsed;
  p_schedule.cron := p_cron;
  p_schedule.time_zone := p_time_zone;
  p_schedule.task := p_task;
  p_schedule.args := p_args;
  p_schedule.queue := p_queue;
  p_schedule.priority := p_priority;
  p_schedule.max_attempts := p_max_attempts;
  p_schedule.timeout := p_timeout;
  p_schedule.on_missed := p_on_missed;
  p_schedule.catch_up_limit := p_catch_up_limit;
  p_schedule.catch_up_window := p_catch_up_window;
  p_schedule.on_overlap := coalesce(p_on_overlap, case p_on_missed when 'all' then 'wait' else 'skip' end);
  p_schedule.on_gap := p_on_gap;
  p_schedule.on_fold := p_on_fold;
  p_schedule.jitter := p_jitter;
  p_schedule.starts_at := p_starts_at;
  p_schedule.ends_at := p_ends_at;
  p_schedule.must_finish_within := p_must_finish_within;
  p_schedule.owner_id := p_owner_id;
  p_schedule.source := coalesce(pgtick.source(), p_schedule.source);   -- a change by hand does not take it from its file
  return p_schedule;
end
$$;
comment on function pgtick.with_settings(pgtick.schedule_defs, pgtick.cron, text, text, text, jsonb, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid) is
  'The row of a schedule with new settings; writes nothing.';

create or replace function pgtick.unschedule(p_name text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs := pgtick.locked_schedule(p_name);
  v_now constant timestamptz := pgtick.now();
begin
  v_schedule := pgtick.account_before_change(v_schedule.id, v_now, true);
  update pgtick.schedule_defs as s
  set version = s.version + 1, removed_at = v_now, next_at = null, paused_at = null, paused_until = null, broken_at = null, broken_why = null, retry_at = null
  where s.id = v_schedule.id;
  perform pgtick.record_version(v_schedule.id, 'removed', v_now);
end
$$;
comment on function pgtick.unschedule(text) is 'End a schedule: no slot after now. Its slots, versions and jobs stay, jobs not yet run included; pgtick.schedule with the same name brings it back. Raises TK006.';

create or replace function pgtick.rename_schedule(p_name text, p_new_name text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
  v_now timestamptz;
begin
  perform pgtick.refuse_name('new_name', p_new_name);
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null for update;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  if p_new_name = p_name then return; end if;
  v_now := pgtick.now();
  v_schedule := pgtick.account_before_change(v_schedule.id, v_now, true);
  begin
    update pgtick.schedule_defs as s set version = s.version + 1, name = p_new_name where s.id = v_schedule.id;
  exception when unique_violation then
    raise exception using errcode = 'TK007', message = format('the name "%s" is taken', p_new_name),
      hint = 'Choose another one. The name of a removed schedule stays with its history.';
  end;
  perform pgtick.record_version(v_schedule.id, 'renamed', v_now, format('it was named "%s"', p_name));
end
$$;
comment on function pgtick.rename_schedule(text, text) is 'Give a schedule another name (1 to 200 characters); its slots, versions and jobs go with it. Raises TK000, TK006, TK007 (taken).';

create or replace function pgtick.pause_schedule(p_name text, p_until timestamptz default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs := pgtick.locked_schedule(p_name);
  v_now constant timestamptz := pgtick.now();
begin
  if p_until is not null then
    perform pgtick.check_moment('until', p_until);
    if p_until <= v_now then
      perform pgtick.invalid('until', p_until::text, 'it lies in the future', 'Leave it out to pause until pgtick.resume_schedule.');
    end if;
  end if;
  v_schedule := pgtick.account_before_change(v_schedule.id, v_now, false);
  if v_schedule.paused_at is not null and v_schedule.paused_until is not distinct from p_until then return; end if;
  update pgtick.schedule_defs as s
  set version = s.version + 1, paused_at = coalesce(s.paused_at, v_now), paused_until = p_until
  where s.id = v_schedule.id;
  perform pgtick.record_version(v_schedule.id, 'paused', v_now);
end
$$;
comment on function pgtick.pause_schedule(text, timestamptz) is 'Make no jobs for the slots from now on: each is accounted for as skipped_paused. p_until: from that moment on it runs again by itself; null = until pgtick.resume_schedule. Raises TK000, TK005 (broken), TK006.';

create or replace function pgtick.resume_schedule(p_name text, p_catch_up boolean default false)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs := pgtick.locked_schedule(p_name);
  v_now constant timestamptz := pgtick.now();
begin
  if p_catch_up and v_schedule.on_missed = 'skip' then
    perform pgtick.invalid('catch_up', 'true', format('on_missed of schedule "%s" is skip, so that nothing is ever caught up', p_name),
      'Resume without catching up, or give the schedule on_missed once or all first.');
  end if;
  v_schedule := pgtick.account_before_change(v_schedule.id, v_now, false);
  if v_schedule.paused_at is null then return; end if;
  update pgtick.schedule_defs as s set version = s.version + 1, paused_at = null, paused_until = null where s.id = v_schedule.id;
  perform pgtick.record_version(v_schedule.id, 'resumed', v_now, case when p_catch_up then 'with catching up' end);
  if p_catch_up then perform pgtick.catch_up_pause(v_schedule, v_now); end if;
end
$$;
comment on function pgtick.resume_schedule(text, boolean) is
  'End a pause now. Slots that lay in it stay skipped (default); with p_catch_up on_missed decides about them as about missed ones: once runs the latest, all those within catch_up_limit and catch_up_window. A schedule that is not paused is left as it is. Raises TK000 (catch_up with on_missed skip), TK005 (broken), TK006.';

-- The slots of the pause have their rows already, skipped_paused: those that run after all get new ones, caught_up. Of a range the newest
-- are taken off, and the rest stays a range, by the version that named its slots.
create or replace function pgtick.catch_up_pause(p_schedule pgtick.schedule_defs, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_most constant integer := case p_schedule.on_missed when 'once' then 1 else p_schedule.catch_up_limit end;
  v_from constant timestamptz := greatest(p_schedule.paused_at, case when p_schedule.on_missed = 'all'
    then p_now - make_interval(secs => extract(epoch from p_schedule.catch_up_window)::double precision) end);
  v_taken timestamptz[] := '{}';
  v_row record;
  v_settled record;
begin
  for v_row in
    select l.slot, l.last_slot, l.version from pgtick.slot_log as l
    where l.schedule_id = p_schedule.id and l.fate in ('skipped_paused', 'skipped_range') and coalesce(l.last_slot, l.slot) >= v_from
    order by l.slot desc
  loop
    exit when cardinality(v_taken) >= v_most;
    if v_row.last_slot is null then
      delete from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.slot = v_row.slot;
      v_taken := v_row.slot || v_taken;
    else
      v_taken := pgtick.take_from_range(p_schedule.id, v_row.slot, v_from, v_most - cardinality(v_taken)) || v_taken;
    end if;
  end loop;
  if cardinality(v_taken) = 0 then return; end if;
  v_settled := pgtick.settle_slots(p_schedule, v_taken, array_fill('caught_up'::text, array[cardinality(v_taken)]), array_fill('paused'::text, array[cardinality(v_taken)]),
    array_fill(pgtick.why_paused(p_schedule) || '; resumed with catching up by ' || pgtick.caller(), array[cardinality(v_taken)]),
    array_fill(p_schedule.version, array[cardinality(v_taken)]), p_now, pgtick.clock_name());
  if v_settled.jobs > 0 then perform pgtick.wake(array[p_schedule.queue], v_settled.run_at); end if;
end
$$;
comment on function pgtick.catch_up_pause(pgtick.schedule_defs, timestamptz) is 'Run slots of the pause of a locked schedule (its row as it was while paused) after all, as on_missed and on_overlap say.';

create or replace function pgtick.take_from_range(p_schedule_id bigint, p_slot timestamptz, p_from timestamptz, p_most integer)
returns timestamptz[]
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_instant constant interval := interval '1 microsecond';
  v_range pgtick.slot_log;
  v_named pgtick.schedule_defs;   -- the schedule in the version that named these slots
  v_taken timestamptz[];
begin
  delete from pgtick.slot_log as l where l.schedule_id = p_schedule_id and l.slot = p_slot returning l.* into v_range;
  v_named := pgtick.in_version(p_schedule_id, v_range.version);
  v_taken := pgtick.last_slots(v_named.parsed, v_named.time_zone, greatest(p_from, p_slot) - v_instant, v_range.last_slot, p_most, v_named.on_gap, v_named.on_fold);
  perform pgtick.log_rest(v_named, v_range, coalesce(v_taken[1] - v_instant, v_range.last_slot));
  return v_taken;
end
$$;
comment on function pgtick.take_from_range(bigint, timestamptz, timestamptz, integer) is 'Take the newest p_most slots from p_from on off a range of skipped slots, and return them in order; what is left stays skipped.';

create or replace function pgtick.log_rest(p_named pgtick.schedule_defs, p_range pgtick.slot_log, p_until timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_left constant record := pgtick.passed_slots(p_named, p_range.slot - interval '1 microsecond', p_until);
begin
  if v_left.first_slot is not null then
    perform pgtick.log_range(p_named.id, v_left.first_slot, v_left.last_slot, v_left.slots, p_range.fate, p_range.version, p_range.reason, p_range.cause, p_range.recorded_at, p_range.clock);
  end if;
  insert into pgtick.slot_log (schedule_id, slot, fate, version, reason, cause, recorded_at, clock)
  select p_named.id, u.slot, case p_range.fate when 'missed_range' then 'missed' else 'skipped_paused' end, p_range.version, p_range.reason, p_range.cause,
    p_range.recorded_at, p_range.clock
  from unnest(v_left.singles) as u(slot);
end
$$;
comment on function pgtick.log_rest(pgtick.schedule_defs, pgtick.slot_log, timestamptz) is 'Write what is left, up to p_until, of a range that was deleted; p_named: the schedule in the version that named its slots.';

-- After a clock that was wrong is put right, slots to come may have their rows already. Those with a job keep them, so that none is done
-- twice; about the others the version that begins now decides anew.
create or replace function pgtick.take_back(p_schedule pgtick.schedule_defs, p_now timestamptz)
returns timestamptz
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_range pgtick.slot_log;
begin
  if coalesce(p_schedule.next_at, 'infinity') <= pgtick.next_for(p_schedule, p_now) then return null; end if;   -- nothing beyond now is accounted for
  delete from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.slot > p_now and l.job_id is null;
  for v_range in
    delete from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.last_slot > p_now returning l.*
  loop
    perform pgtick.log_rest(pgtick.in_version(p_schedule.id, v_range.version), v_range, p_now);
  end loop;
  return (select max(l.slot) from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.slot > p_now);
exception when others then
  if pgtick.is_passing(sqlstate) then raise; end if;
  return 'infinity';   -- it is broken, and its rows stay as they are
end
$$;
comment on function pgtick.take_back(pgtick.schedule_defs, timestamptz) is
  'Forget what became of those slots of a locked schedule that lie after p_now and made no job; p_schedule: its row before the change. Returns the newest slot after p_now that still has a row; null = none.';

create or replace function pgtick.in_version(p_schedule_id bigint, p_version integer)
returns pgtick.schedule_defs
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
begin
  select s.* into v_schedule
  from pgtick.schedule_changes as c
  cross join lateral jsonb_populate_record(null::pgtick.schedule_defs, c.definition) as s
  where c.schedule_id = p_schedule_id and c.version = p_version;
  v_schedule.id := p_schedule_id;
  v_schedule.version := p_version;
  v_schedule.parsed := pgtick.parse_cron(v_schedule.cron);
  return v_schedule;
end
$$;
comment on function pgtick.in_version(bigint, integer) is 'A schedule with the settings of one of its versions, its expression parsed anew; next_at and what only the present version has are null.';

-- A run by hand is a slot of its own kind. It never lies on a whole second, as every slot of a cron expression does, so it can take the
-- place of none. Only the key is locked: a tick of the same schedule does not wait for this transaction, nor it for the tick.
create or replace function pgtick.run_now(p_name text)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
  v_now timestamptz;
  v_slot timestamptz;
  v_job_id bigint;
begin
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null for key share;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  v_now := pgtick.now();
  v_slot := v_now;
  loop
    if v_slot = date_trunc('second', v_slot) then v_slot := v_slot + interval '1 microsecond'; end if;
    insert into pgtick.slot_log (schedule_id, slot, fate, version, reason, job_id, recorded_at, clock)
    values (v_schedule.id, v_slot, 'run_now', v_schedule.version, 'asked for by ' || pgtick.caller(), nextval('pgtick.live_jobs_id_seq'), v_now, pgtick.clock_name())
    on conflict do nothing
    returning job_id into v_job_id;
    exit when found;
    v_slot := v_slot + interval '1 microsecond';
  end loop;
  insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, schedule_id, slot, created_at)
  overriding system value
  values (v_job_id, v_schedule.task, v_schedule.queue, v_schedule.priority, v_now, v_schedule.max_attempts, v_schedule.timeout, v_schedule.args,
    v_schedule.owner_id, v_schedule.id, v_slot, v_now);
  perform pgtick.wake(array[v_schedule.queue], v_now);
  return v_job_id;
end
$$;
comment on function pgtick.run_now(text) is 'Make a job of this schedule now, paused or not and whatever else of it is live, and return the job''s id. The slot shows as run_now. Raises TK006.';

-- The newest slot whose time is up needs a done job, its own or that of a later slot. A job that history no longer holds is no evidence.
create or replace function pgtick.overdue_schedules(p_now timestamptz)
returns table (schedule_id bigint, name text, slot timestamptz, fate text, must_finish_within interval)
language sql stable parallel safe
set search_path = ''
as $$
  select s.id, s.name, due.slot, due.fate, s.must_finish_within
  from pgtick.schedule_defs as s
  cross join lateral (
    select l.slot, l.fate
    from pgtick.slot_log as l
    where l.schedule_id = s.id and l.slot <= p_now - make_interval(secs => extract(epoch from s.must_finish_within)::double precision)
      and l.fate not in ('skipped_paused', 'skipped_range', 'run_now')
    order by l.slot desc
    limit 1) as due
  where s.must_finish_within is not null and s.removed_at is null
    and not exists (
      select
      from pgtick.slot_log as l
      where l.schedule_id = s.id and l.slot >= due.slot and l.job_id is not null
        and not exists (select from pgtick.live_jobs as j where j.id = l.job_id)
        and not exists (select from pgtick.history as h where h.id = l.job_id and h.state <> 'done'))
$$;
comment on function pgtick.overdue_schedules(timestamptz) is 'The schedules whose newest slot that is older than must_finish_within has no done job, nor has any later one.';

-- Each kind of clock calls it, so that it is noticed as long as one of them lives.
-- definer: pg_cron's job and the runner's role call it, and write no table.
create or replace function pgtick.check_deadlines()
returns setof text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_late record;
begin
  if pg_try_advisory_xact_lock(hashtextextended('pgtick.overdue', 0)) then
    delete from pgtick.overdue as o where not exists (select from pgtick.overdue_schedules(v_now) as l where l.schedule_id = o.schedule_id);
    for v_late in
      insert into pgtick.overdue as o (schedule_id, slot, found_at)
      select l.schedule_id, l.slot, v_now from pgtick.overdue_schedules(v_now) as l order by l.schedule_id
      on conflict (schedule_id) do update set slot = excluded.slot where o.slot <> excluded.slot
      returning o.schedule_id, o.slot, o.found_at
    loop
      continue when v_late.found_at <> v_now;
      raise warning 'pgtick: schedule "%" has no done job for slot %, and its time is up', (select s.name from pgtick.schedule_defs as s where s.id = v_late.schedule_id), pgtick.utc(v_late.slot);
    end loop;
  end if;
  return query select s.name from pgtick.overdue as o join pgtick.schedule_defs as s on s.id = o.schedule_id order by s.name;
end
$$;
comment on function pgtick.check_deadlines() is
  'Look which schedules have had no done job within must_finish_within, write them to pgtick.overdue, warn once of each in the server''s log, and return their names. The clocks call it; never waits.';

create or replace function pgtick.schedule_health()
returns table (promise text, what text, evidence text, remedy text)
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
begin
  return query
  select 'every slot of a schedule is accounted for', 'schedule broken',
    format('schedule %s: since %s: %s; no slot from %s on is accounted for yet', s.name, pgtick.utc(s.broken_at), s.broken_why, pgtick.utc(s.next_at)),
    'Put it right with pgtick.schedule, or remove it with pgtick.unschedule.'
  from pgtick.schedule_defs as s
  where s.broken_at is not null;

  return query
  select 'every slot of a schedule is accounted for', 'no clock ticks',
    format('%s schedule%s due for more than 5 minutes, the oldest slot is %s; %s', count(*), case when count(*) > 1 then 's are' else ' is' end,
      pgtick.utc(min(s.next_at)), coalesce('the last tick was at ' || pgtick.utc((select max(c.ticked_at) from pgtick.clocks as c)), 'no clock has ever ticked')),
    'Start a runner (pgtick work), or see what pg_cron did: select * from cron.job_run_details order by runid desc limit 5.'
  from pgtick.schedule_defs as s
  where s.next_at is not null and coalesce(s.retry_at, s.next_at) < v_now - interval '5 minutes'
  having count(*) > 0;

  return query
  select 'a schedule''s job is done in time', 'schedule without a done job',
    format('schedule %s: slot %s (%s) is older than must_finish_within, %s, and no job of it or of a later slot is done', o.name, pgtick.utc(o.slot), o.fate, o.must_finish_within),
    format('See what became of its slots: select * from pgtick.slots where schedule = %L order by slot desc limit 10;', o.name)
  from pgtick.overdue_schedules(v_now) as o;
end
$$;
comment on function pgtick.schedule_health() is 'What is wrong with schedules now, a row each: broken ones, slots that no clock takes, and must_finish_within passed without a done job. Part of pgtick.health.';
