-- A cron expression in words. The words are exact: two expressions whose slots differ (in UTC) never read alike. So each phrase either
-- lists what it names, or gives first, last and step of what goes on evenly. Of zones nothing is said: lint does that.
-- Loops over small arrays, not queries: a query in plpgsql is planned anew for each array (several times slower, measured).

-- 1. Lists -----------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.english_list(p_items text[])
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
begin
  return case when cardinality(p_items) < 2 then p_items[1]
    else array_to_string(p_items[:cardinality(p_items) - 1], ', ') || ' and ' || p_items[cardinality(p_items)] end;
end
$$;
comment on function pgtick.english_list(text[]) is 'The items as a list: "a, b and c".';

create or replace function pgtick.time_of_day(p_minute integer)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
begin
  return to_char(make_interval(mins => (p_minute % 1440 + 1440) % 1440), 'HH24:MI');
end
$$;
comment on function pgtick.time_of_day(integer) is 'Minutes since midnight as 09:30; what is beyond a day wraps around.';

create or replace function pgtick.cron_values(p_bits varbit, p_low integer)
returns integer[]
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_values integer[] := '{}';
begin
  for v_bit in 0 .. length(p_bits) - 1 loop
    if get_bit(p_bits, v_bit) = 1 then v_values := v_values || (v_bit + p_low); end if;
  end loop;
  return v_values;
end
$$;
comment on function pgtick.cron_values(varbit, integer) is 'The values of a parsed field, in order; p_low is the value of its first bit.';

create or replace function pgtick.even_step(p_values integer[])
returns integer
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_step constant integer := p_values[2] - p_values[1];
begin
  for v_at in 3 .. cardinality(p_values) loop
    if p_values[v_at] - p_values[v_at - 1] <> v_step then return null; end if;
  end loop;
  return v_step;
end
$$;
comment on function pgtick.even_step(integer[]) is 'The distance from each value to the next where it is always the same; otherwise, and for fewer than two values, null.';

create or replace function pgtick.value_runs(p_values integer[])
returns integer[]
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_runs integer[] := '{}';
  v_low integer := p_values[1];
begin
  for v_at in 1 .. cardinality(p_values) loop
    if p_values[v_at + 1] is distinct from p_values[v_at] + 1 then
      v_runs := v_runs || array[array[v_low, p_values[v_at]]];
      v_low := p_values[v_at + 1];
    end if;
  end loop;
  return v_runs;
end
$$;
comment on function pgtick.value_runs(integer[]) is 'The runs of values without a gap between them, in order, each as {first, last}.';

-- Three or more in a row become '1 to 5', and seven or more that are evenly spaced '0, 7, 14 … 56'.
create or replace function pgtick.number_items(p_values integer[])
returns text[]
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_items text[] := '{}';
  v_runs integer[];
begin
  if cardinality(p_values) >= 7 and pgtick.even_step(p_values) > 1 then
    return array[format('%s, %s, %s … %s', p_values[1], p_values[2], p_values[3], p_values[cardinality(p_values)])];
  end if;
  v_runs := pgtick.value_runs(p_values);
  for v_at in 1 .. cardinality(v_runs) / 2 loop
    v_items := v_items || case v_runs[v_at][2] - v_runs[v_at][1] when 0 then array[v_runs[v_at][1]::text]
      when 1 then array[v_runs[v_at][1]::text, v_runs[v_at][2]::text] else array[format('%s to %s', v_runs[v_at][1], v_runs[v_at][2])] end;
  end loop;
  return v_items;
end
$$;
comment on function pgtick.number_items(integer[]) is 'Numbers as the items of an English list.';

-- Names go round: from Friday to Monday, from November to February.
create or replace function pgtick.describe_names(p_values integer[], p_names text[], p_plural text)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_size constant integer := cardinality(p_names);
  v_firsts integer[] := '{}';
  v_last integer;
  v_items text[] := '{}';
begin
  for v_at in 1 .. cardinality(p_values) loop
    v_items := v_items || (p_names[p_values[v_at]] || p_plural);
    if (p_values[v_at] + v_size - 2) % v_size + 1 <> all (p_values) then v_firsts := v_firsts || p_values[v_at]; end if;
    if p_values[v_at] % v_size + 1 <> all (p_values) then v_last := p_values[v_at]; end if;
  end loop;
  return case when cardinality(p_values) >= 3 and cardinality(v_firsts) = 1 then format('%s to %s', p_names[v_firsts[1]], p_names[v_last])
    else pgtick.english_list(v_items) end;
end
$$;
comment on function pgtick.describe_names(integer[], text[], text) is 'Weekdays or months (1 = the first of p_names) as an English list, or as "A to B" where they are three or more in a row, the end and the start of p_names being neighbours.';

-- 2. Times -----------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.describe_span(p_seconds bigint)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_units constant text[] := '{day,hour,minute,second}';
  v_sizes constant integer[] := '{86400,3600,60,1}';
  v_left bigint := p_seconds;
  v_items text[] := '{}';
begin
  for v_at in 1 .. 4 loop
    -- the largest unit is one that goes in without a rest, or more than twice
    if v_left >= v_sizes[v_at] and (cardinality(v_items) > 0 or v_left % v_sizes[v_at] = 0 or v_left > 2 * v_sizes[v_at]) then
      v_items := v_items || format('%s %s%s', v_left / v_sizes[v_at], v_units[v_at], case when v_left / v_sizes[v_at] > 1 then 's' else '' end);
      v_left := v_left % v_sizes[v_at];
    end if;
  end loop;
  return pgtick.english_list(v_items);
end
$$;
comment on function pgtick.describe_span(bigint) is 'A number of seconds (1 or more) in words: 90 seconds, 5 minutes, 2 hours and 30 minutes.';

create or replace function pgtick.describe_every(p_seconds integer)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
begin
  return case when p_seconds = 86400 then 'every day at 00:00 UTC'
    else 'every ' || regexp_replace(pgtick.describe_span(p_seconds), '^1 (second|minute|hour)$', E'\\1')
      || case when 86400 % p_seconds <> 0 then ', counted from 1970-01-01 00:00 UTC' || case when p_seconds % 604800 = 0 then ', a Thursday' else '' end
              when 3600 % p_seconds <> 0 then ', counted from 00:00 UTC' else '' end end;
end
$$;
comment on function pgtick.describe_every(integer) is 'An @every expression in words. Its grid is in UTC, which is said where it shows: where it does not divide an hour.';

-- The minutes, as part of hours that p_hours names ('each hour from 9 to 17'); null = every hour.
create or replace function pgtick.describe_minutes(p_minutes integer[], p_hours text)
returns text
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_count constant integer := cardinality(p_minutes);
  v_first constant integer := p_minutes[1];
  v_step constant integer := pgtick.even_step(p_minutes);
  v_every constant text := 'every ' || case when v_step > 1 then v_step || ' minutes' else 'minute' end;
  v_of constant text := coalesce(p_hours, 'every hour');
begin
  if v_step * v_count = 60 and v_first = 0 then
    return v_every || coalesce(' in ' || p_hours, '');
  elsif v_step * v_count = 60 and p_hours is null then
    return format('%s, starting at %s minute%s past the hour', v_every, v_first, case when v_first > 1 then 's' else '' end);
  elsif v_step is not null and v_count >= 4 then
    return format('%s from minute %s to minute %s of %s', v_every, v_first, p_minutes[v_count], v_of);
  elsif v_count = 1 and v_first = 0 and p_hours is null then
    return 'every hour';
  elsif v_count <= 6 and v_first > 0 and p_hours is null and v_step is distinct from 1 then
    return format('at %s minute%s past every hour', pgtick.english_list(p_minutes::text[]), case when p_minutes[v_count] > 1 then 's' else '' end);
  end if;
  return format('at minute%s %s of %s', case when v_count > 1 then 's' else '' end, pgtick.english_list(pgtick.number_items(p_minutes)), v_of);
end
$$;
comment on function pgtick.describe_minutes(integer[], text) is 'The minutes of a cron expression in words, of the hours that p_hours names; null = of every hour.';

-- 'from 09:00 to 17:45 and from 20:00 to 20:45': the hours' runs, from the first minute of each to its last. Null where they are more
-- than three, or shorter than p_least hours. Over midnight only where every day is alike.
create or replace function pgtick.describe_hour_runs(p_minutes integer[], p_hours integer[], p_least integer, p_every_day boolean)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_runs integer[] := pgtick.value_runs(p_hours);
  v_items text[] := '{}';
begin
  if p_every_day and p_hours @> '{0,23}' then   -- the run at midnight comes last
    v_runs[cardinality(v_runs) / 2][2] := v_runs[1][2] + 24;
    v_runs := v_runs[2:];
  end if;
  for v_at in 1 .. array_length(v_runs, 1) loop
    if v_at > 3 or v_runs[v_at][2] - v_runs[v_at][1] + 1 < p_least then return null; end if;
    v_items := v_items || format('from %s to %s', pgtick.time_of_day(v_runs[v_at][1] * 60 + p_minutes[1]),
      pgtick.time_of_day(v_runs[v_at][2] * 60 + p_minutes[cardinality(p_minutes)]));
  end loop;
  return pgtick.english_list(v_items);
end
$$;
comment on function pgtick.describe_hour_runs(integer[], integer[], integer, boolean) is 'The spans of the day that the hours make, or null where a list says it better.';

create or replace function pgtick.describe_times(p_minutes integer[], p_hours integer[], p_elapsed boolean, p_every_day boolean)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_first constant integer := p_hours[1] * 60 + p_minutes[1];
  v_last constant integer := p_hours[cardinality(p_hours)] * 60 + p_minutes[cardinality(p_minutes)];
  v_times constant integer := cardinality(p_minutes) * cardinality(p_hours);
  v_once constant boolean := cardinality(p_minutes) = 1;
  v_step constant integer := pgtick.even_step(p_minutes);
  v_hour_step constant integer := pgtick.even_step(p_hours);
  v_runs text;
  v_hour integer;
  v_minute integer;
  v_list text[] := '{}';
begin
  if cardinality(p_hours) = 24 then
    return pgtick.describe_minutes(p_minutes, null);
  elsif v_first = 0 and v_once and v_hour_step * cardinality(p_hours) = 24 and p_elapsed then
    return format('every %s hours', v_hour_step);
  end if;
  if v_times > 6 and (v_once or v_step * cardinality(p_minutes) = 60) then   -- what goes on evenly from one hour to the next
    v_runs := pgtick.describe_hour_runs(p_minutes, p_hours, case when v_once then 2 else 1 end, p_every_day);
    if v_runs is not null then
      return case when v_once then 'every hour' else 'every ' || case when v_step = 1 then 'minute' else v_step || ' minutes' end end || ' ' || v_runs;
    end if;
  end if;
  if v_times > 6 and v_once and v_hour_step is not null then
    return format('every %s hours from %s to %s', v_hour_step, pgtick.time_of_day(v_first), pgtick.time_of_day(v_last));
  elsif v_times > 6 and cardinality(p_hours) = 1 and v_step is not null then
    return format('every %s from %s to %s', case when v_step = 1 then 'minute' else v_step || ' minutes' end, pgtick.time_of_day(v_first), pgtick.time_of_day(v_last));
  elsif v_times <= 12 then
    foreach v_hour in array p_hours loop
      foreach v_minute in array p_minutes loop v_list := v_list || pgtick.time_of_day(v_hour * 60 + v_minute); end loop;
    end loop;
    return 'at ' || pgtick.english_list(v_list);
  end if;
  return pgtick.describe_minutes(p_minutes, case
    when cardinality(p_hours) = 1 then 'hour ' || p_hours[1]
    when v_hour_step = 1 and cardinality(p_hours) >= 3 then format('each hour from %s to %s', p_hours[1], p_hours[cardinality(p_hours)])
    else 'the hours ' || pgtick.english_list(pgtick.number_items(p_hours)) end);
end
$$;
comment on function pgtick.describe_times(integer[], integer[], boolean, boolean) is
  'The times of day of a cron expression in words. p_elapsed: elapsed time rules, so that "every 6 hours" may be said. p_every_day: it runs on every day of the year, so that a span may go over midnight.';

-- 3. Days ------------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.describe_dates(p_days integer[], p_last_day boolean, p_months integer[], p_month_list text)
returns text
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_count constant integer := cardinality(p_days);
  v_step constant integer := pgtick.even_step(p_days);
  v_one constant integer := case when v_count = 1 and not p_last_day then p_days[1] end;
  v_months constant text := case when v_one > 28 and p_month_list is null then 'every month that has one' when p_month_list is null then 'every month'
    when p_month_list ~ ' to ' then 'every month from ' || p_month_list else p_month_list end;
  v_items text[] := pgtick.number_items(p_days);
  v_day integer;
begin
  if v_one is not null and cardinality(p_months) = 1 then
    return format('on %s %s %s', v_one, p_month_list, case when v_one = 29 and p_months = '{2}' then 'in leap years' else 'every year' end);
  elsif v_count < 7 and cardinality(v_items) = v_count then   -- few, and no three in a row
    v_items := '{}';
    foreach v_day in array p_days loop
      v_items := v_items || (v_day || case when v_day in (1, 21, 31) then 'st' when v_day in (2, 22) then 'nd' when v_day in (3, 23) then 'rd' else 'th' end);
    end loop;
    if p_last_day then v_items := v_items || 'last day'::text; end if;
    return format('on the %s of %s', pgtick.english_list(v_items), v_months);
  end if;
  if v_step = 2 and p_days[1] <= 2 and p_days[v_count] >= 30 then
    v_items := array[case p_days[1] when 1 then 'the odd days' else 'the even days' end];
  else
    v_items[1] := 'days ' || v_items[1];
  end if;
  if p_last_day then v_items := v_items || 'the last day'::text; end if;
  return format('on %s of %s', pgtick.english_list(v_items), v_months);
end
$$;
comment on function pgtick.describe_dates(integer[], boolean, integer[], text) is 'Days of the month in words: on the 1st and last day of every month. p_month_list: the months as describe_names puts them.';

-- Only where the days of both fields count does a description need both. A field that names every day settles it: with "or" every day
-- matches, with "and" the other field decides.
create or replace function pgtick.describe(p_cron text)
returns text
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_cron constant pgtick.cron := pgtick.parse_cron(p_cron);
  v_hours constant integer[] := pgtick.cron_values(v_cron.hours, 0);
  v_days constant integer[] := pgtick.cron_values(v_cron.days, 1);
  v_months constant integer[] := pgtick.cron_values(v_cron.months, 1);
  v_week constant integer[] := pgtick.cron_values(substring(v_cron.weekdays from 2 for 7), 1);   -- Monday first
  v_by_date boolean := cardinality(v_days) < 31;
  v_by_weekday boolean := cardinality(v_week) < 7;
  v_month_list text;
  v_weekdays text;
  v_text text;
begin
  if v_cron.every_seconds is not null then return pgtick.describe_every(v_cron.every_seconds); end if;
  if v_cron.either_day and not (v_by_date and v_by_weekday) then
    v_by_date := false;
    v_by_weekday := false;
  end if;
  v_month_list := case when cardinality(v_months) < 12 then
    pgtick.describe_names(v_months, '{January,February,March,April,May,June,July,August,September,October,November,December}', '') end;
  v_weekdays := pgtick.describe_names(v_week, '{Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday}', 's');
  v_weekdays := case when v_weekdays ~ ' to ' then 'from ' else 'on ' end || v_weekdays;

  v_text := pgtick.describe_times(pgtick.cron_values(v_cron.minutes, 0), v_hours, v_cron.elapsed, not v_by_date and not v_by_weekday and v_month_list is null);
  if v_by_date then
    v_text := format('%s %s', v_text, pgtick.describe_dates(v_days, v_cron.last_day, v_months, v_month_list));
    if v_by_weekday and v_cron.either_day then
      v_text := format('%s, and also %s', v_text, v_weekdays)
        || case when v_month_list is null then '' when cardinality(v_months) = 1 then ' in that month' else ' in those months' end;
    elsif v_by_weekday then
      v_text := format('%s, but only %s', v_text, v_weekdays);
    end if;
  else
    v_text := case when not v_by_weekday and cardinality(v_hours) < 24 and v_text ~ '^at [0-9]' then 'every day ' else '' end || v_text
      || case when v_by_weekday then regexp_replace(' ' || v_weekdays, '^ from ', ', ') else '' end
      || case when v_month_list is null then ''
              when v_month_list ~ ' to ' then ', ' || v_month_list
              when v_by_weekday and v_weekdays ~ ' to ' then ', in ' || v_month_list
              else ' in ' || v_month_list end;
  end if;
  return v_text || case when cardinality(v_hours) = 24 and not v_cron.elapsed then ' (by the wall clock)' else '' end;
end
$$;
comment on function pgtick.describe(text) is
  'A cron expression in plain English: "every 15 minutes", "at 09:00, Monday to Friday". Expressions with different slots read differently; "(by the wall clock)": its times are fixed ones, so that an hour that comes twice counts once. Raises TK010 to TK016.';
