-- What is legal but probably not meant, a row each: the text names field and value, and says what to write instead.
-- parallel unsafe: check_time_zone and lint_schedules catch errors, which PostgreSQL before 17 refuses in a parallel query.

-- 1. One field -------------------------------------------------------------------------------------------------------------------

-- A step starts again with each hour, day, month, year or week, so only one that divides it goes on evenly. Ranges that do not span the
-- field have an end on purpose.
create or replace function pgtick.lint_steps(p_cron text, p_field integer, p_text text)
returns setof text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_lows constant integer[] := '{0,0,1,1,0}';
  v_highs constant integer[] := '{59,23,31,12,7}';
  v_sizes constant integer[] := '{60,24,31,12,7}';
  v_names constant text[] := '{minute,hour,day-of-month,month,weekday}';
  v_units constant text[] := '{minute,hour,day,month,day}';
  v_wholes constant text[] := '{hour,day,month,year,week}';
  v_low constant integer := v_lows[p_field];
  v_size constant integer := v_sizes[p_field];
  v_item text;
  v_parts text[];
  v_from integer;
  v_to integer;
  v_step integer;
  v_rest integer;
begin
  foreach v_item in array string_to_array(p_text, ',') loop
    v_parts := regexp_match(v_item, E'^(?:\\*|(\\w+)-(\\w+))/(\\d+)$');
    continue when v_parts is null;
    v_step := v_parts[3];
    v_from := case when v_parts[1] is null then v_low else pgtick.cron_number(p_cron, p_field, v_item, v_parts[1]) end;
    v_to := case when v_parts[2] is null then v_highs[p_field] else pgtick.cron_number(p_cron, p_field, v_item, v_parts[2]) end;
    if v_step > v_to - v_from then
      return next format('%s field "%s": the step is longer than the range, so that only %s is met; write %s, or a longer range',
        v_names[p_field], v_item, v_parts[1], v_parts[1]);
      continue;
    end if;
    if p_field = 5 then v_to := least(v_to, v_from + 6); end if;   -- 0 and 7 are the same day
    continue when v_step = 1 or v_from - v_low >= v_step or v_to - v_low < v_size - 1;
    if p_field = 3 then
      return next format('day-of-month field "%s": steps start again on the 1st, so the one around the end of a month is not %s days; name the days, such as 1,15, or write @every %sd for an even rhythm (in UTC)',
        v_item, v_step, v_step);
      continue;
    end if;
    v_rest := v_size + v_from - (v_to - (v_to - v_from) % v_step);
    continue when v_rest = v_step;
    return next format('%s field "%s": %s does not divide %s, so the last step of each %s is %s %s%s; ', v_names[p_field], v_item, v_step, v_size,
        v_wholes[p_field], v_rest, v_units[p_field], case when v_rest > 1 then 's' else '' end)
      || case when p_field = 5 then 'name the days, such as MON,WED,FRI'
        else 'write a step that divides it, such as ' || (
            select string_agg(near.step::text, ' or ' order by near.step)
            from (select max(d) filter (where d < v_step), min(d) filter (where d > v_step) from generate_series(1, v_size / 2) as d where v_size % d = 0) as s(below, above),
              unnest(array[s.below, s.above]) as near(step))
          || case p_field when 1 then format(', or @every %sm for an even rhythm', v_step)
                          when 2 then format(', or @every %sh for an even rhythm (in UTC)', v_step) else '' end end;
  end loop;
end
$$;
comment on function pgtick.lint_steps(text, integer, text) is 'What is odd about the steps of one field (1 = minute … 5 = weekday) of a lawful cron expression.';

create or replace function pgtick.lint_fields(p_parsed pgtick.cron, p_cron text, p_words text[])
returns setof text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_names constant text[] := '{minute,hour}';
begin
  for v_field in 1 .. 5 loop
    return query select s from pgtick.lint_steps(p_cron, v_field, p_words[v_field]) as s;
  end loop;
  for v_field in 1 .. 2 loop
    if position(B'0' in (case v_field when 1 then p_parsed.minutes::varbit else p_parsed.hours::varbit end)) = 0 and p_words[v_field] !~ '[*]' then
      return next format('%s field "%s" names every %s, ', v_names[v_field], p_words[v_field], v_names[v_field])
        || case when p_parsed.elapsed then 'as * does; write *'
          else format('each as a fixed time of its own, so on_gap and on_fold decide when the clock is put forward or back; write * for every %s that passes', v_names[v_field]) end;
    end if;
  end loop;
  if p_words[1] in ('*', '*/1') and position(B'0' in p_parsed.hours) > 0 then
    return next format('minute field "%s" with hour field "%s" is every minute of these hours, %s times a day; for once an hour write minute 0: "0 %s"',
      p_words[1], p_words[2], 60 * bit_count(p_parsed.hours), array_to_string(p_words[2:], ' '));
  end if;
end
$$;
comment on function pgtick.lint_fields(pgtick.cron, text, text[]) is 'What is odd about single fields, and about minute and hour together.';

-- 2. Days ------------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.lint_day_fields(p_parsed pgtick.cron, p_words text[])
returns setof text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_every_date constant boolean := position(B'0' in p_parsed.days) = 0;
  v_every_weekday constant boolean := position(B'0' in substring(p_parsed.weekdays from 1 for 7)) = 0;
  v_both constant text := format('day-of-month field "%s" and weekday field "%s" are both set', p_words[3], p_words[5]);
begin
  if p_parsed.either_day and (v_every_date or v_every_weekday) then
    return next format('%s: a day that matches either one runs, and %s matches every day; write * there for the other one alone',
      v_both, case when v_every_date then 'the first' else 'the second' end);
  elsif p_parsed.either_day then
    return next v_both || ': a day that matches either one runs; write * in one of them, and let the task check the other, for days that match both';
  elsif not v_every_date and not v_every_weekday then
    return next format('%s, and "%s" starts with *: only a day that matches both runs; write its values as a list for days that match either one, or * in one of them',
      v_both, case when left(p_words[3], 1) = '*' then p_words[3] else p_words[5] end);
  end if;
end
$$;
comment on function pgtick.lint_day_fields(pgtick.cron, text[]) is 'What is odd about day of the month and weekday together.';

-- Days 29 to 31 that are named one by one, or as a range of the last days. A longer range or a step that ends there means the rest of the month.
create or replace function pgtick.lint_late_days(p_parsed pgtick.cron, p_words text[])
returns setof text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_months constant text[] := '{January,February,March,April,May,June,July,August,September,October,November,December}';
  v_item text;
  v_day integer;
  v_short text[] := '{}';
  v_month integer;
begin
  if p_parsed.last_day then return; end if;
  foreach v_item in array string_to_array(p_words[3], ',') loop
    if v_item ~ '^(28|29|30)-(29|30|31)$' then
      return next format('day-of-month field "%s": it is up to %s days of each month; for the last day alone write L', v_item, right(v_item, 2)::integer - left(v_item, 2)::integer + 1);
      return;
    elsif v_item ~ '^(29|30|31)$' then
      v_day := greatest(v_day, v_item::integer);
    end if;
  end loop;
  foreach v_month in array pgtick.cron_values(p_parsed.months, 1) loop
    if v_month = 2 and v_day >= 29 or v_month in (4, 6, 9, 11) and v_day = 31 then v_short := v_short || v_months[v_month]; end if;
  end loop;
  if cardinality(v_short) = 0 then return; end if;
  return next format('day-of-month field "%s": ', p_words[3])
    || case when v_day = 29 then 'February has a 29th in leap years only; for its last day write L'
      else format('%s no %s, and no other day stands in for it; for the last day of each month write L',
        pgtick.english_list(v_short) || case when cardinality(v_short) > 1 then ' have' else ' has' end, case v_day when 30 then '30th' else '31st' end) end;
end
$$;
comment on function pgtick.lint_late_days(pgtick.cron, text[]) is 'Whether days 29 to 31 are named in months that do not have them.';

-- 3. Intervals and zones ---------------------------------------------------------------------------------------------------------

create or replace function pgtick.every_text(p_seconds integer)
returns text
language sql immutable strict parallel safe
set search_path = ''
as $$
  select '@every ' || concat(nullif(p_seconds / 86400, 0) || 'd', nullif(p_seconds % 86400 / 3600, 0) || 'h', nullif(p_seconds % 3600 / 60, 0) || 'm', nullif(p_seconds % 60, 0) || 's')
$$;
comment on function pgtick.every_text(integer) is 'An interval as a cron expression: @every 1h30m.';

-- In steps of 6 days: no zone shifts twice in so short a time (see zone_shift).
create or replace function pgtick.zone_shifts(p_time_zone text, p_from timestamp, p_to timestamp)
returns table (shift timestamp, wall_before timestamp, wall_after timestamp)
language sql stable strict parallel safe
set search_path = ''
as $$
  select s.shift, s.shift + (((s.shift - interval '1 second') at time zone 'UTC' at time zone p_time_zone) - (s.shift - interval '1 second')),
    s.shift at time zone 'UTC' at time zone p_time_zone
  from generate_series(p_from, p_to, interval '6 days') as f(low)
  cross join lateral pgtick.zone_shift(p_time_zone, f.low, f.low + interval '6 days') as s(shift)
  where p_time_zone not in ('UTC', 'GMT', 'Etc/UTC') and s.shift is not null
    and (f.low at time zone 'UTC' at time zone p_time_zone) - f.low   -- a call of zone_shift costs more
      <> ((f.low + interval '6 days') at time zone 'UTC' at time zone p_time_zone) - (f.low + interval '6 days')
  order by s.shift
$$;
comment on function pgtick.zone_shifts(text, timestamp, timestamp) is
  'The shifts of a zone from p_from to 6 days after p_to at most: the moment (UTC, as timestamp), what its clock would have shown then, and what it shows.';

create or replace function pgtick.lint_every(p_cron text, p_seconds integer, p_time_zone text, p_now timestamptz)
returns setof text
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_unit constant integer := case when p_seconds % 3600 = 0 then 3600 when p_seconds % 60 = 0 then 60 else 1 end;
  v_now constant timestamp := p_now at time zone 'UTC';
  v_near text;
begin
  if p_seconds % 86400 = 0 and p_seconds > 86400 then
    return next format('"%s" counts its days from 1970-01-01 00:00 UTC, whatever the month and the time zone: the next one is %s; for days of your choice write five fields, such as 0 0 * * MON or 0 0 1,15 * *',
      p_cron, to_char(to_timestamp((floor(extract(epoch from p_now) / p_seconds) + 1) * p_seconds) at time zone 'UTC', 'FMDay, YYYY-MM-DD'));
  elsif 86400 % p_seconds <> 0 then
    if p_seconds > 86400 then
      v_near := format('%s or %s', pgtick.every_text(p_seconds / 86400 * 86400), pgtick.every_text((p_seconds / 86400 + 1) * 86400));
    else
      select string_agg(pgtick.every_text(near.seconds), ' or ' order by near.seconds) into v_near
      from (
        select max(d.seconds) filter (where d.seconds < p_seconds), min(d.seconds) filter (where d.seconds > p_seconds)
        from generate_series(1, 293) as i   -- the smaller one of each pair of divisors
        cross join lateral (values (i), (86400 / i)) as d(seconds)
        where 86400 % i = 0 and d.seconds % v_unit = 0) as s(below, above),
        unnest(array[s.below, s.above]) as near(seconds);
    end if;
    return next format('"%s" does not divide a day, so that its times differ from day to day (they are counted from 1970-01-01 00:00 UTC); for the same times each day write %s', p_cron, v_near);
  elsif exists (   -- a zone shows only where its clock is not ahead of UTC by a multiple of the interval
    select from (
      select (p_now at time zone p_time_zone) - v_now
      union all
      select z.wall_after - z.shift from pgtick.zone_shifts(p_time_zone, v_now, v_now + interval '13 months') as z) as o(ahead)
    where extract(epoch from o.ahead)::integer % p_seconds <> 0)
  then
    return next format('"%s" takes no notice of time zone %s: its times are counted from 00:00 UTC; for times of that zone write ', p_cron, p_time_zone)
      || case when p_seconds = 86400 then '0 0 * * *' when p_seconds = 3600 then '0 * * * *' when p_seconds % 3600 = 0 then format('0 */%s * * *', p_seconds / 3600)
        when p_seconds % 60 = 0 and 3600 % p_seconds = 0 then format('*/%s * * * *', p_seconds / 60) else 'five fields' end;
  end if;
end
$$;
comment on function pgtick.lint_every(text, integer, text, timestamptz) is 'What is odd about an @every expression: it does not divide a day, is longer than one, or is not seen at round times in the zone.';

-- The first gap and the first fold of the coming 13 months that hold one of the times. Where elapsed time rules, and it also runs in the
-- hours before and after, it goes on in its rhythm: nothing is odd then.
create or replace function pgtick.lint_shifts(p_parsed pgtick.cron, p_cron text, p_hour text, p_time_zone text, p_now timestamptz)
returns setof text
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_from constant timestamp := date_trunc('day', p_now at time zone 'UTC');
  v_what constant text := case when p_hour = '' then format('"%s"', p_cron) else format('hour field "%s"', p_hour) end;
  v_shift record;
  v_wall timestamp;
  v_gap text;
  v_fold text;
  v_low integer;
  v_high integer;
  v_start integer;
begin
  for v_shift in
    select z.wall_before < z.wall_after as is_gap, least(z.wall_before, z.wall_after) as low, greatest(z.wall_before, z.wall_after) as high
    from pgtick.zone_shifts(p_time_zone, v_from, v_from + interval '13 months') as z
    where z.shift > p_now at time zone 'UTC' and z.shift <= p_now at time zone 'UTC' + interval '13 months'
  loop
    -- the times of day that some shift touches, from the nearest midnight on
    v_start := extract(epoch from v_shift.low::time) / 60;
    v_start := v_start - case when v_start > 720 then 1440 else 0 end;
    v_low := least(v_low, v_start);
    v_high := greatest(v_high, v_start + (extract(epoch from v_shift.high - v_shift.low) / 60)::integer);
    v_wall := pgtick.cron_next_wall(p_parsed, v_shift.low - interval '1 microsecond');
    continue when v_wall is null or v_wall >= v_shift.high or (p_parsed.elapsed
      and pgtick.cron_next_wall(p_parsed, v_shift.low - interval '1 hour 1 microsecond') < v_shift.low
      and pgtick.cron_next_wall(p_parsed, v_shift.high - interval '1 microsecond') < v_shift.high + interval '1 hour');
    if v_shift.is_gap then
      v_gap := coalesce(v_gap, format('%s: %s does not exist in %s on %s, when the clock goes forward from %s to %s; ', v_what, to_char(v_wall, 'HH24:MI'),
        p_time_zone, to_char(v_wall, 'YYYY-MM-DD'), to_char(v_shift.low, 'HH24:MI'), to_char(v_shift.high, 'HH24:MI'))
        || case when p_parsed.elapsed then 'with * or / in minute or hour it is left out then; write both as lists to have on_gap decide'
          else format('it runs at %s, or with on_gap skip not at all; ', to_char(v_shift.high, 'HH24:MI')) end);
    else
      v_fold := coalesce(v_fold, format('%s: %s comes twice in %s on %s, when the clock goes back from %s to %s; ', v_what, to_char(v_wall, 'HH24:MI'),
        p_time_zone, to_char(v_wall, 'YYYY-MM-DD'), to_char(v_shift.high, 'HH24:MI'), to_char(v_shift.low, 'HH24:MI'))
        || case when p_parsed.elapsed then 'with * or / in minute or hour it runs twice then; write both as lists to have on_fold decide'
          else 'it runs the first time, or as on_fold says (first, last, both); ' end);
    end if;
  end loop;
  return query
  select t.text || case when p_parsed.elapsed then '' when position(B'0' in p_parsed.hours) = 0 then 'write * for every hour that passes'
    else format('write a time outside %s to %s', pgtick.time_of_day(v_low), pgtick.time_of_day(v_high - 1)) end
  from unnest(array[v_gap, v_fold]) as t(text)
  where t.text is not null;
end
$$;
comment on function pgtick.lint_shifts(pgtick.cron, text, text, text, timestamptz) is
  'Whether a shift of the zone in the 13 months after p_now takes or doubles a time of the expression. p_hour: the text of its hour field, or empty for a macro.';

-- 4. All of it -------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.lint(p_cron text, p_time_zone text default 'UTC')
returns setof text
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_parsed constant pgtick.cron := pgtick.parse_cron(p_cron);
  v_cron constant text := btrim(p_cron, E' \t\n\r\f\v');
  v_words constant text[] := regexp_split_to_array(v_cron, E'\\s+');
  v_now constant timestamptz := pgtick.now();
begin
  perform pgtick.check_time_zone(p_time_zone);
  if v_parsed.every_seconds is not null then
    return query select e from pgtick.lint_every(v_cron, v_parsed.every_seconds, p_time_zone, v_now) as e;
    return;
  end if;
  if cardinality(v_words) = 5 then
    return query select f from pgtick.lint_fields(v_parsed, v_cron, v_words) as f;
    return query select d from pgtick.lint_day_fields(v_parsed, v_words) as d;
    return query select d from pgtick.lint_late_days(v_parsed, v_words) as d;
  end if;
  return query select s from pgtick.lint_shifts(v_parsed, v_cron, case cardinality(v_words) when 5 then v_words[2] else '' end, p_time_zone, v_now) as s;
  if pgtick.next_slot(v_parsed, p_time_zone, v_now) is null then
    return next format('"%s" never fires in %s: the clock there skips each of its times; write another time', v_cron, p_time_zone);
  end if;
end
$$;
comment on function pgtick.lint(text, text) is
  'What is legal about a cron expression in a time zone but probably not meant, a row each, with what to write instead; no row: nothing. Looks 13 months ahead for times that the zone''s clock skips or repeats. Raises TK010 to TK016, TK018.';

-- 5. Schedules -------------------------------------------------------------------------------------------------------------------

-- Newest first by index, a partition each, merged: it reads no more than it needs, and never more than the newest 1000 (of a task that
-- only fails).
create or replace function pgtick.usual_duration(p_task text)
returns interval
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return (   -- plpgsql, because it keeps the plan: over all partitions that takes longer to make than to run
    select percentile_cont(0.5) within group (order by d.took)
    from (
      select n.finished_at - n.started_at as took
      from (
        select h.state, h.started_at, h.finished_at
        from pgtick.history as h
        where h.task = p_task
        order by h.finished_at desc
        limit 1000) as n
      where n.state = 'done'
      order by n.finished_at desc
      limit 100) as d);
end
$$;
comment on function pgtick.usual_duration(text) is
  'How long a task usually takes: the median run time of its newest 100 done jobs, looked for among its newest 1000 finished ones; null where there is none.';

create or replace function pgtick.duration_text(p_duration interval)
returns text
language sql immutable strict parallel safe
set search_path = ''
as $$
  select case when p_duration < interval '1 second' then 'less than a second' else pgtick.describe_span(round(extract(epoch from p_duration))::bigint) end
$$;
comment on function pgtick.duration_text(interval) is 'A duration as people read it: 90 seconds, 2 hours and 30 minutes.';

create or replace function pgtick.schedule_warnings(p_schedule pgtick.schedule_defs)
returns setof text
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_usual constant interval := pgtick.usual_duration(p_schedule.task);
  v_endless pgtick.schedule_defs := p_schedule;
  v_slot timestamptz;
  v_minute timestamptz;
  v_next timestamptz;
  v_gap interval;
begin
  return query select l from pgtick.lint(p_schedule.cron, p_schedule.time_zone) as l;   -- first, for it checks the zone
  v_slot := pgtick.next_for(p_schedule, v_now);
  v_minute := date_trunc('minute', coalesce(p_schedule.next_at, v_slot));

  if v_slot is null and p_schedule.ends_at is not null then
    v_endless.ends_at := null;
    v_next := pgtick.next_for(v_endless, v_now);
    if v_next is not null then
      return next format('ends_at %s leaves no slot: the next one would be %s; write a later p_ends_at', pgtick.utc(p_schedule.ends_at), pgtick.utc(v_next));
    end if;
  end if;
  for v_at in 2 .. 8 loop
    exit when v_slot is null or (v_usual is null and p_schedule.jitter = interval '0');
    v_next := pgtick.next_for(p_schedule, v_slot);
    v_gap := least(v_gap, v_next - v_slot);
    v_slot := v_next;
  end loop;

  if v_gap < v_usual then
    return next format('cron "%s": its slots come as close as %s, and task "%s" usually takes %s, so that %s; write a longer interval', p_schedule.cron,
      pgtick.duration_text(v_gap), p_schedule.task, pgtick.duration_text(v_usual),
      case p_schedule.on_overlap when 'skip' then 'slots will be skipped' when 'allow' then 'its jobs will run side by side'
        when 'wait' then 'its jobs will wait longer and longer' else 'its jobs will be cancelled before they are done' end);
  end if;
  if p_schedule.jitter >= v_gap then
    return next format('jitter %s is not shorter than the least time between two slots, %s, so that a job may start after that of the next slot; write a shorter p_jitter',
      p_schedule.jitter, pgtick.duration_text(v_gap));
  end if;
  if p_schedule.must_finish_within < v_usual then
    return next format('must_finish_within %s is shorter than task "%s" usually takes, %s; write a longer p_must_finish_within', p_schedule.must_finish_within,
      p_schedule.task, pgtick.duration_text(v_usual));
  end if;
  if p_schedule.jitter < interval '1 minute' and (
    select count(*) from (
      select
      from pgtick.schedule_defs as s
      where coalesce(s.retry_at, s.next_at) >= v_minute and coalesce(s.retry_at, s.next_at) < v_minute + interval '1 minute' and s.next_at is not null
        and s.id is distinct from p_schedule.id
      limit 100) as crowd) = 100
  then
    return next format('cron "%s": at least 100 other schedules are due in the same minute, %s; write p_jitter => ''5 minutes'', or another minute', p_schedule.cron, pgtick.utc(v_minute));
  end if;
end
$$;
comment on function pgtick.schedule_warnings(pgtick.schedule_defs) is
  'What pgtick.lint says of a schedule''s cron and time zone, and what its next 8 slots, the usual duration of its task, its settings and the other schedules add. p_schedule need not be stored. Raises TK010 to TK016, TK018.';

create or replace function pgtick.lint_schedules(p_name text default null)
returns table (schedule text, warning text)
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
begin
  for v_schedule in
    select s.* from pgtick.schedule_defs as s where s.removed_at is null and (p_name is null or s.name = p_name) order by s.name
  loop
    begin
      return query select v_schedule.name, w from pgtick.schedule_warnings(v_schedule) as w;
    exception when sqlstate 'TK018' then   -- its zone is gone from the server: no reason to keep the others' warnings back
      return query select v_schedule.name, sqlerrm || '; write one that is in pg_timezone_names';
    end;
  end loop;
  if p_name is not null and not found then perform pgtick.refuse_schedule(p_name); end if;
end
$$;
comment on function pgtick.lint_schedules(text) is
  'What is legal but probably not meant about a schedule, or about all that are not removed (p_name null, the default): a row a warning, by name. Raises TK006.';
