-- Cron: text -> parsed once -> next slot by jumps over bits. The type pgtick.cron is in migrations/00002_schedules.sql.
--
-- Rules in one place:
--   five fields: minute hour day-of-month month weekday; lists, ranges, steps, names in any case, 7 = Sunday, L or $ = last day.
--   day fields: a day must match both when either field's text starts with '*' (so also '*/2'), otherwise either one is enough.
--   elapsed time rules where the text of minute or hour holds '*' or '/': every real minute whose wall time matches.
--   otherwise the times are fixed: on_gap run (once, at the gap's end) | skip; on_fold first | last | both.
--   @every N / N seconds: multiples of N since 1970-01-01 00:00 UTC; no zone, no gap, no fold.
-- One idea makes the DST rules exact: "first" is the first moment at which the clock has reached a wall time, "last" the last moment
-- before which it had not. Both only ever move forward with the wall time, also over a fold, so the first hit is the next slot;
-- "both" is the earlier of the two, and elapsed time is "both" with gaps skipped.

-- 1. Parsing ---------------------------------------------------------------------------------------------------------------------

-- Texts are compared under collation "C", that is as ASCII: under that of a database the Kelvin sign may be a k and an em space a blank, and
-- what is accepted would hang on the database.

-- Every parse error leaves through here, so that each names the field, its place, the offending text and what is allowed.
create or replace function pgtick.cron_error(p_code text, p_cron text, p_field integer, p_token text, p_why text, p_hint text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_names constant text[] := '{minute,hour,day-of-month,month,weekday}';
  v_allowed constant text[] := array['minutes go from 0 to 59', 'hours go from 0 to 23',
    'days of the month go from 1 to 31, or L for the last', 'months go from 1 to 12 or JAN to DEC',
    'weekdays go from 0 to 7 (0 and 7 are Sunday) or SUN to SAT'];
  v_place integer := 0;
  v_before text;
begin
  if p_field is null then
    raise exception using errcode = p_code, message = format('cron %s: %s', coalesce('"' || left(p_cron, 200) || '"', 'null'), p_why),
      hint = p_hint;
  end if;
  -- the place: where the field starts, and within it the first list item with this text
  v_before := (regexp_match(p_cron collate "C", format(E'^(\\s*(?:\\S+\\s+){%s})', p_field - 1)))[1];
  v_place := length(v_before)
    + greatest(strpos(',' || (regexp_match(substr(p_cron, length(v_before) + 1) collate "C", E'^\\S+'))[1] || ',', ',' || p_token || ','), 1);
  raise exception using errcode = p_code,
    message = format('cron "%s": %s field "%s" (field %s, character %s): %s', left(p_cron, 200), v_names[p_field], p_token, p_field, v_place, p_why),
    detail = initcap(left(v_allowed[p_field], 1)) || substr(v_allowed[p_field], 2) || '.',
    hint = p_hint;
end
$$;
comment on function pgtick.cron_error(text, text, integer, text, text, text) is 'Raise the error for a malformed cron expression.';

-- One number or name of a field; raises when it is neither, or out of range.
create or replace function pgtick.cron_number(p_cron text, p_field integer, p_item text, p_text text)
returns integer
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_lows constant integer[] := '{0,0,1,1,0}';
  v_highs constant integer[] := '{59,23,31,12,7}';
  v_names constant text := case p_field when 4 then 'janfebmaraprmayjunjulaugsepoctnovdec' when 5 then 'sunmontuewedthufrisat' else '' end;
  v_low constant integer := v_lows[p_field];
  v_high constant integer := v_highs[p_field];
  v_number integer;
  v_at integer;
begin
  if p_text ~ '^[0-9]{1,9}$' then
    v_number := p_text::integer;
    if v_number between v_low and v_high then return v_number; end if;
    perform pgtick.cron_error('TK012', p_cron, p_field, p_item, format('%s is out of range %s-%s', p_text, v_low, v_high),
      case when p_field = 1 and v_number = 60 then 'For the full hour write minute 0.'
           when p_field = 2 and v_number = 24 then 'Midnight is hour 0.'
           when p_field = 3 and v_number = 0 then 'The first day is 1; the last day is L.'
           when p_field = 3 then 'For the last day of each month write L.'
           when p_field = 4 and v_number = 0 then 'January is 1.'
           when p_field = 1 and v_number > 59 and v_number <= 1440 then format('For every %s minutes write @every %ss.', v_number, v_number * 60)
           else format('Use a number from %s to %s.', v_low, v_high) end);
  end if;
  if length(p_text) = 3 and v_names <> '' then
    v_at := strpos(v_names, lower(p_text collate "C"));
    if v_at % 3 = 1 then return v_at / 3 + case p_field when 4 then 1 else 0 end; end if;
  end if;
  -- not a value: say what it probably was meant to be
  if p_text = '' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'a value is missing',
      'A comma, dash or slash needs a value on both sides; negative numbers do not exist here.');
  elsif p_text ~ '[?]' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, '"?" is Quartz syntax', 'Write * instead of ?.');
  elsif p_text ~ '#' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, '"#" (the nth weekday) is Quartz syntax',
      'Run on that weekday, and let the task return early unless the day of the month is in the wanted week.');
  elsif p_field = 3 and p_text ~* '^(L?W|WL|[0-9]+W)$' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, '"W" (the nearest working day) is Quartz syntax',
      'Name the days, or run on MON-FRI and let the task decide.');
  elsif p_field = 3 and p_text in ('L', 'l', '$') then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, 'L stands alone or in a list, not in a range or with a step',
      'Write for example 15,L. For the days before the last one run on 27-31 and let the task decide.');
  elsif p_field = 5 and p_text ~* '^([0-7]|sun|mon|tue|wed|thu|fri|sat)?[L$]$' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, '"L" is not known for weekdays',
      'Saturday is 6. For a month''s last such weekday run on that weekday and let the task check the date.');
  elsif p_text ~* '^[L$]$' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, 'L is known only in the day-of-month field', 'Name the value.');
  elsif p_item ~* E'^H(\\(|/|$)' or p_text ~ '~' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, 'random times ("H", "~") are not known here', 'Name the time, and set p_jitter to spread the load.');
  elsif p_text ~ '["''`]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), 'There are quotes too many: leave them out of the expression.');
  elsif p_item ~ '[][(){}]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), 'Brackets are not known: write 1-5 or 1,2,3 alone.');
  elsif p_text ~ '[.][.]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a range', left(p_text, 40)), format('A range has a dash: %s.', left(regexp_replace(p_text, '[.]+', '-'), 40)));
  elsif p_text ~ '.[|;&+].' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), format('A list has commas: %s.', left(regexp_replace(p_text, '[|;&+]+', ',', 'g'), 40)));
  elsif p_text ~ '[–—−‐‑]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'this dash is not the plain "-"', 'Write the range with the hyphen from the keyboard.');
  elsif p_text ~ '[*]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, '"*" stands alone, or as */step', 'Write * or */5, without digits before or after the star.');
  elsif p_text ~ '^[0-9]{10,}$' then
    perform pgtick.cron_error('TK012', p_cron, p_field, p_item, format('%s is out of range %s-%s', left(p_text, 40), v_low, v_high), format('Use a number from %s to %s.', v_low, v_high));
  elsif p_text ~ '^[+]?[0-9]+[.][0-9]+$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'a whole number is needed', 'Use the next field for the finer part.');
  elsif p_text ~ '^[0-9]+:[0-9]+$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'a time of day takes two fields',
      format('09:30 is "30 9 * * *": minute first, then hour; here "%s %s".', regexp_replace(split_part(p_text, ':', 2), '^0+(?=.)', ''), split_part(p_text, ':', 1)));
  elsif p_text ~ '^[-+][0-9]+$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'a number has no sign', format('Use a number from %s to %s.', v_low, v_high));
  elsif p_field in (4, 5) and length(p_text) > 3 and strpos(v_names, lower(left(p_text, 3))) % 3 = 1 then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a known name', left(p_text, 40)), format('Names have three letters: %s.', upper(left(p_text, 3))));
  elsif p_field = 5 and length(p_text) = 2 and strpos(v_names, lower(p_text)) % 3 = 1 then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a known name', p_text),
      format('Names have three letters: %s.', upper(substr(v_names, strpos(v_names, lower(p_text)), 3))));
  elsif p_field <> 5 and length(p_text) = 3 and strpos('sunmontuewedthufrisat', lower(p_text)) % 3 = 1 then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('%s is a weekday', upper(p_text)), 'The order is minute, hour, day of month, month, weekday: weekdays come last.');
  elsif p_field <> 4 and length(p_text) = 3 and strpos('janfebmaraprmayjunjulaugsepoctnovdec', lower(p_text)) % 3 = 1 then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('%s is a month', upper(p_text)), 'The order is minute, hour, day of month, month, weekday: months come fourth.');
  elsif p_field = 3 and lower(p_text) = 'last' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', p_text), 'The last day of the month is L.');
  elsif p_field = 3 and p_text ~ '^[0-9]{1,2}(st|nd|rd|th)$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', p_text), format('Write the number alone: %s.', substring(p_text from '[0-9]+')));
  elsif p_field = 2 and p_text ~* '^[0-9]{1,2}(am|pm|h)$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', p_text), format('Hours are numbers from 0 to 23: here %s.',
      case when p_text ~* 'h$' then substring(p_text from '[0-9]+')::integer
           else substring(p_text from '[0-9]+')::integer % 12 + case when p_text ~* 'pm$' then 12 else 0 end end));
  elsif p_text ~ E'[^\\u0001-\\u007f]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), 'It has a character that is no plain letter or digit, perhaps from a copied text: type it anew.');
  end if;
  perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), 'Allowed are numbers, lists 1,2, ranges 1-5, steps */5 or 10-50/5, and names for months and weekdays.');
end
$$;
comment on function pgtick.cron_number(text, integer, text, text) is 'The value of one number or name in a cron field; raises when it is none.';

-- The bits of one field; bit 1 is the field's lowest value. Weekdays come back as eight bits (0 to 7), last days as bit 32 of field 3.
create or replace function pgtick.cron_field(p_cron text, p_field integer, p_text text)
returns varbit
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_lows constant integer[] := '{0,0,1,1,0}';
  v_highs constant integer[] := '{59,23,31,12,7}';
  v_low constant integer := v_lows[p_field];
  v_high constant integer := v_highs[p_field];
  v_bits varbit := repeat('0', v_high - v_low + case p_field when 3 then 2 else 1 end)::varbit;
  v_item text;
  v_span text;
  v_step integer;
  v_from integer;
  v_to integer;
begin
  foreach v_item in array string_to_array(p_text, ',') loop
    v_step := 1;
    v_span := v_item;
    if strpos(v_item, '/') > 0 then
      v_span := split_part(v_item, '/', 1);
      if split_part(v_item, '/', 2) !~ '^[0-9]{1,9}$' or v_item ~ '/.*/' then
        perform pgtick.cron_error('TK011', p_cron, p_field, v_item, 'the step after "/" must be one whole number, of at most nine digits', format('Write for example */%s.', least(5, v_high - v_low)));
      end if;
      v_step := split_part(v_item, '/', 2)::integer;
      if v_step < 1 or v_step > v_high - v_low then
        perform pgtick.cron_error('TK012', p_cron, p_field, v_item, format('step %s is out of range 1-%s', v_step, v_high - v_low),
          case when v_step = 0 then 'A step of 0 never moves; leave the step out for every value.'
               when p_field = 1 and v_step = 60 then 'For every hour write minute 0 and hour *.'
               when p_field = 1 and v_step % 60 = 0 and v_step <= 720 then format('For every %s hours write 0 */%s * * *.', v_step / 60, v_step / 60)
               when p_field = 1 then format('Steps start again each hour. For every %s minutes write @every %ss.', v_step, v_step * 60::bigint)
               when p_field = 2 and v_step = 24 then 'For once a day write hour 0.'
               when p_field = 2 then format('Steps start again each day. For every %s hours write @every %sh.', v_step, v_step)
               else format('Such a step would only ever meet %s; write that value.', v_low) end);
      end if;
    end if;
    if v_span = '*' then
      v_from := v_low;
      v_to := v_high;
    elsif p_field = 3 and v_item in ('L', 'l', '$') then
      v_bits := set_bit(v_bits, 31, 1);
      continue;
    elsif v_span ~ '.-' then
      if v_span ~ '-.*-' then
        perform pgtick.cron_error('TK011', p_cron, p_field, v_item, 'a range has one dash', 'Write two ranges as a list: 1-5,10-15.');
      end if;
      v_from := pgtick.cron_number(p_cron, p_field, v_item, split_part(v_span, '-', 1));
      v_to := pgtick.cron_number(p_cron, p_field, v_item, split_part(v_span, '-', 2));
      if p_field = 5 and v_from > v_to and v_to = 0 then
        perform pgtick.cron_error('TK013', p_cron, p_field, v_item, 'the range runs backwards: SUN is 0', format('As the end of a range Sunday is 7: write %s-7.', v_from));
      elsif v_from > v_to then
        perform pgtick.cron_error('TK013', p_cron, p_field, v_item, 'the range runs backwards',
          case when p_field = 5 and v_from = 7 then format('As the start of a range Sunday is 0: write 0-%s.', v_to)
               when p_field = 5 then format('Over the week''s end write a list: %s.', (select string_agg((array['SUN','MON','TUE','WED','THU','FRI','SAT'])[d % 7 + 1], ',' order by d) from generate_series(v_from, v_to + 7) as d))
               else format('Over the end write both parts: %s,%s.', concat_ws('-', v_from, nullif(v_high, v_from)), concat_ws('-', v_low, nullif(v_to, v_low))) end);
      end if;
    else
      v_from := pgtick.cron_number(p_cron, p_field, v_item, v_span);
      v_to := v_from;
      if v_item <> v_span then
        perform pgtick.cron_error('TK014', p_cron, p_field, v_item, 'a step needs a range or "*" before it (some crons read this as a range to the end, others as one value)',
          format('Write %s-%s/%s, or %s alone.', v_span, case when p_field = 5 then 6 else v_high end, v_step, v_span));
      end if;
    end if;
    if v_step = 1 then
      v_bits := v_bits | (repeat('0', v_from - v_low) || repeat('1', v_to - v_from + 1) || repeat('0', length(v_bits) - (v_to - v_low + 1)))::varbit;
    else
      for v_at in 0 .. (v_to - v_from) / v_step loop
        v_bits := set_bit(v_bits, v_from - v_low + v_at * v_step, 1);
      end loop;
    end if;
  end loop;
  return v_bits;
end
$$;
comment on function pgtick.cron_field(text, integer, text) is 'The values of one cron field as bits.';

create or replace function pgtick.parse_cron(p_cron text)
returns pgtick.cron
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_given constant text collate "C" := btrim(p_cron, E' \t\n\x0b\f\r');   -- errors name this: they show 200 characters, which may all be blank
  v_lower constant text collate "C" := lower(v_given);
  v_text text collate "C" := v_given;
  v_words text[] collate "C";
  v_match text[];
  v_seconds numeric;
  v_bits varbit;
  v_cron pgtick.cron;
  v_most constant integer[] := '{31,29,31,30,31,30,31,31,30,31,30,31}';
begin
  if coalesce(v_text, '') = '' then
    perform pgtick.cron_error('TK010', v_given, null, null, 'the expression is empty', 'Five fields: minute hour day-of-month month weekday, for example 0 9 * * MON-FRI.');
  elsif length(v_text) > 1000 then
    perform pgtick.cron_error('TK010', v_given, null, null, format('%s characters are too many (at most 1000)', length(v_text)), 'Split it into several schedules.');
  end if;

  if left(v_text, 1) = '@' and v_lower !~ E'^@every\\M' then
    v_text := case v_lower when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *'
      when '@weekly' then '0 0 * * 0' when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *' when '@annually' then '0 0 1 1 *' end;
    if v_text is null then
      perform pgtick.cron_error('TK010', v_given, null, null,
        case v_lower when '@reboot' then '@reboot names an event, not a time' else 'unknown name; known are @hourly @daily @midnight @weekly @monthly @yearly @annually and @every' end,
        case v_lower when '@reboot' then 'Enqueue the job where the application starts: pgtick.enqueue(...).'
          when '@minutely' then 'Write * * * * *.' when '@every_minute' then 'Write * * * * *.' when '@secondly' then 'Write @every 1s.'
          when '@fortnightly' then 'Write 0 0 1,15 * *, or @every 14d.' when '@quarterly' then 'Write 0 0 1 */3 *.'
          when '@weekdays' then 'Write 0 0 * * MON-FRI.' when '@noon' then 'Write 0 12 * * *.'
          when '@hour' then 'Write @hourly.' when '@day' then 'Write @daily.' when '@week' then 'Write @weekly.' when '@month' then 'Write @monthly.'
          when '@year' then 'Write @yearly.' when '@annual' then 'Write @annually.' when '@minute' then 'Write * * * * *.'
          else case when v_lower ~ '^@every[0-9]' then format('Put a blank after it: @every %s.', left(substr(v_lower, 7), 40)) else 'Write the five fields.' end end);
    end if;
  elsif left(v_text, 1) = '@' or v_lower ~ E'^[0-9]+\\s*(s|sec|secs|second|seconds)$' then
    v_match := regexp_match(v_lower, E'^(?:@every\\s+)?(?:(\\d{1,9})d)?(?:(\\d{1,9})h)?(?:(\\d{1,9})m)?(?:(\\d{1,9})s)?$');
    if v_match is null or left(v_text, 1) <> '@' then
      v_match := array[null, null, null, (regexp_match(v_lower, E'^(?:@every\\s+)?(\\d{1,18})\\s*(?:sec|second)s?$'))[1]];
    end if;
    v_seconds := coalesce(v_match[1]::numeric, 0) * 86400 + coalesce(v_match[2]::numeric, 0) * 3600 + coalesce(v_match[3]::numeric, 0) * 60 + coalesce(v_match[4]::numeric, 0);
    if v_match = '{NULL,NULL,NULL,NULL}' then
      perform pgtick.cron_error('TK015', v_given, null, null, format('"%s" is not an interval', left(regexp_replace(v_text, E'^@every\\s*', '', 'i'), 40)),
        'Write whole numbers with d, h, m, s, largest first: @every 90s, @every 1h30m; or 90 seconds.');
    elsif v_seconds not between 1 and 31622400 then
      perform pgtick.cron_error('TK015', v_given, null, null, format('an interval of %s seconds is out of range 1-31622400 (366 days)', v_seconds), 'Use five fields for anything rarer than once a year.');
    end if;
    v_cron.every_seconds := v_seconds;
    return v_cron;
  end if;

  v_words := regexp_split_to_array(v_text, E'\\s+');
  if cardinality(v_words) <> 5 then
    perform pgtick.cron_error('TK010', v_given, null, null,
      case when v_lower ~ '^(cron_)?tz=' or v_lower ~ E'\\s([a-z_]+/[a-z_/-]+|utc|gmt)$' and cardinality(v_words) = 6 then 'a time zone does not belong into the expression'
           when v_lower ~ E'^(cron|rate)\\(' then 'this is AWS syntax'
           when v_lower ~ '^(r[0-9]*/)?p(t|[0-9])' then 'this is an ISO 8601 duration'
           else format('%s field%s, but five are needed: minute hour day-of-month month weekday', cardinality(v_words), case when cardinality(v_words) = 1 then '' else 's' end) end,
      case when v_lower ~ '^(cron_)?tz=' or v_lower ~ E'\\s([a-z_]+/[a-z_/-]+|utc|gmt)$' and cardinality(v_words) = 6 then 'Give it as p_time_zone.'
           when v_lower ~ E'^[0-9]+\\s*(m|min|mins|minute|minutes)$' then format('Write @every %sm.', substring(v_lower from E'\\d+'))
           when v_lower ~ E'^[0-9]+\\s*(h|hour|hours)$' then format('Write @every %sh.', substring(v_lower from E'\\d+'))
           when v_lower ~ E'^every\\s+[0-9]+\\s*min' then format('Write */%s * * * *.', substring(v_lower from E'\\d+'))
           when v_lower ~ E'^[0-9]+\\s*(d|day|days)$' then format('Write @every %sd.', substring(v_lower from E'\\d+'))
           when v_lower ~ '^([0-9]+[dhms]){2,}$' then format('Write @every %s.', left(v_lower, 40))
           when v_lower ~ E'^every\\s+[0-9]+\\s*h' then format('Write 0 */%s * * *.', substring(v_lower from E'\\d+'))
           when v_lower ~ E'^every\\s*hour' then 'Write @hourly.'
           when v_lower ~ E'^every\\s*day$' then 'Write @daily.'
           when v_lower ~ E'^every\\s*min' then 'Write * * * * *.'
           when v_lower ~ E'^every\\s' then 'Words are not known: write for example 0 9 * * MON-FRI, or @every 2h.'
           when v_lower ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}' then 'For one moment alone enqueue a job: pgtick.enqueue(…, p_run_at => …).'
           when v_lower in ('hourly', 'daily', 'weekly', 'monthly', 'yearly', 'annually', 'midnight') then format('Write @%s.', v_lower)
           when v_lower ~ E'^(cron|rate)\\(' then 'Write five fields without year and parentheses, or @every 5m.'
           when v_lower ~ '^(r[0-9]*/)?p(t|[0-9])' then 'Write it as @every 1h30m.'
           when v_lower ~ '^[0-9]{1,2}:[0-9]{2}$' then format('Every day at that time is %s %s * * *.', split_part(v_lower, ':', 2)::integer, split_part(v_lower, ':', 1)::integer)
           when v_lower ~ '^[0-9]{1,2}(am|pm)$' then format('Every day at that hour is 0 %s * * *.', substring(v_lower from E'\\d+')::integer % 12 + case when v_lower ~ 'pm$' then 12 else 0 end)
           when v_text ~ E'\\s#' then 'A comment is not part of the expression: leave it out.'
           when cardinality(v_words) > 5 and v_lower ~ E'^([0-9*?/,-]+\\s+){3}[0-9a-z*?/,-]+\\s+[0-9a-z*?#/,-]+\\s+[./]?[a-z]{2,}' and v_words[6] !~* '^(mon|tue|wed|thu|fri|sat|sun)' then 'The command is not part of the expression: give the task as p_task.'
           when v_text ~ E'(^|[,/-])\\s+[,/-]|[,/-]\\s|\\s[,/-]' then 'Put no spaces inside a field.'
           when v_text ~ E'[\\u00a0\\u1680\\u2000-\\u200b\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff]' then 'It has blanks that are not plain ones, perhaps from a copied text: type it anew.'
           when cardinality(v_words) = 6 and v_words[6] ~ '^[12][0-9]{3}' then 'There is no field for the year: leave it out, and set p_ends_at.'
           when cardinality(v_words) = 6 and v_words[1] ~ '^0+$' then format('The first field seems to be seconds: write %s.', replace(array_to_string(v_words[2:6], ' '), '?', '*'))
           when cardinality(v_words) = 6 then 'There is no field for seconds: leave it out, or write @every 30s.'
           when cardinality(v_words) = 7 then 'Seconds and year (Quartz) are not known: leave the first and the last field out.'
           when cardinality(v_words) = 4 and v_text ~ '^[0-9*?]' then format('One field is missing; perhaps %s *.', array_to_string(v_words, ' '))
           when cardinality(v_words) > 7 then 'Put no spaces inside a field; the command is not part of the expression.'
           else 'For example 0 9 * * MON-FRI: at 09:00 from Monday to Friday.' end);
  end if;

  v_cron.minutes := pgtick.cron_field(v_text, 1, v_words[1])::bit(60);
  v_cron.hours := pgtick.cron_field(v_text, 2, v_words[2])::bit(24);
  v_bits := pgtick.cron_field(v_text, 3, v_words[3]);
  v_cron.days := substring(v_bits from 1 for 31)::bit(31);
  v_cron.last_day := get_bit(v_bits, 31) = 1;
  v_cron.months := pgtick.cron_field(v_text, 4, v_words[4])::bit(12);
  v_bits := pgtick.cron_field(v_text, 5, v_words[5]);
  if get_bit(v_bits, 7) = 1 then v_bits := set_bit(v_bits, 0, 1); end if;
  v_cron.weekdays := repeat(substring(v_bits from 1 for 7)::text, 6)::bit(42);
  v_cron.either_day := left(v_words[3], 1) <> '*' and left(v_words[5], 1) <> '*';
  v_cron.elapsed := v_words[1] ~ '[*/]' or v_words[2] ~ '[*/]';

  -- Only a day that none of the months has can make it never fire: every date falls on every weekday sooner or later.
  if not v_cron.either_day and not v_cron.last_day and not exists (
    select from generate_series(1, 12) as month
    where get_bit(v_cron.months, month - 1) = 1 and position(B'1' in v_cron.days) <= v_most[month]
  ) then
    perform pgtick.cron_error('TK016', v_text, 3, v_words[3], format('no month of "%s" has such a day, so it would never fire', v_words[4]), 'For the last day of each month write L.');
  end if;
  return v_cron;
end
$$;
comment on function pgtick.parse_cron(text) is 'Parse a cron expression into pgtick.cron; raises TK010 to TK016, naming field, place, text and remedy.';

-- 2. The next slot ---------------------------------------------------------------------------------------------------------------

-- The first matching wall time strictly after another one: the calendar alone, no zone. Jumps by month, day, hour and minute.
-- Null when there is none for 41 years, which is longer than any calendar needs (29 February on a Sunday over 2100: 40 years).
create or replace function pgtick.cron_next_wall(p_cron pgtick.cron, p_after timestamp)
returns timestamp
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_year integer := date_part('year', p_after);
  v_month integer := date_part('month', p_after);
  v_day integer := date_part('day', p_after);
  v_hour integer := date_part('hour', p_after);
  v_minute integer := date_part('minute', p_after);   -- the last minute that is too early; -1: none is
  v_last_year constant integer := v_year + 41;
  v_jump integer;
  v_length integer;
  v_days bit(31);
  v_week bit(31);
begin
  if p_cron.months is null then return null; end if;   -- an @every has no calendar; without this the loop would not end
  loop
    v_jump := position(B'1' in substring(p_cron.months from v_month));
    if v_jump <> 1 then
      if v_jump > 1 then
        v_month := v_month + v_jump - 1;
      else
        v_year := v_year + 1;
        v_month := position(B'1' in p_cron.months);
        if v_year > v_last_year then return null; end if;
      end if;
      v_day := 1; v_hour := 0; v_minute := -1;
    end if;

    v_length := case when v_month <> 2 then 30 + (v_month + v_month / 8) % 2
      when v_year % 4 = 0 and (v_year % 100 <> 0 or v_year % 400 = 0) then 29 else 28 end;
    v_days := p_cron.days;
    if p_cron.last_day then v_days := set_bit(v_days, v_length - 1, 1); end if;
    v_week := substring(p_cron.weekdays from (make_date(v_year, v_month, 1) - '1600-01-02'::date) % 7 + 1 for 31);   -- a Sunday
    v_days := case when p_cron.either_day then v_days | v_week else v_days & v_week end;

    loop
      v_jump := position(B'1' in substring(v_days from v_day for v_length - v_day + 1));
      exit when v_jump = 0;
      if v_jump > 1 then
        v_day := v_day + v_jump - 1; v_hour := 0; v_minute := -1;
      end if;
      v_jump := position(B'1' in substring(p_cron.hours from v_hour + 1));
      if v_jump = 1 then
        v_jump := position(B'1' in substring(p_cron.minutes from v_minute + 2));
        if v_jump > 0 then return make_timestamp(v_year, v_month, v_day, v_hour, v_minute + v_jump, 0); end if;
        v_jump := position(B'1' in substring(p_cron.hours from v_hour + 2));
        if v_jump > 0 then v_jump := v_jump + 1; end if;
      end if;
      if v_jump > 0 then
        return make_timestamp(v_year, v_month, v_day, v_hour + v_jump - 1, position(B'1' in p_cron.minutes) - 1, 0);
      end if;
      v_day := v_day + 1; v_hour := 0; v_minute := -1;
    end loop;
    v_month := v_month + 1; v_day := 1; v_hour := 0; v_minute := -1;
  end loop;
end
$$;
comment on function pgtick.cron_next_wall(pgtick.cron, timestamp) is 'The first wall time after p_after that the expression matches, whatever the zone.';

-- The moment (UTC) between two others at which a zone's offset changes; null when it is the same at both ends.
-- Callers keep the two less than 6.9 days apart: since 1970 no two shifts of any zone are closer (tzdata 2025b, Asia/Gaza).
create or replace function pgtick.zone_shift(p_time_zone text, p_low timestamp, p_high timestamp)
returns timestamp
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_low timestamp := date_trunc('second', p_low);
  v_high timestamp := date_trunc('second', p_high);
  v_middle timestamp;
  v_old constant interval := (v_low at time zone 'UTC' at time zone p_time_zone) - v_low;
begin
  if (v_high at time zone 'UTC' at time zone p_time_zone) - v_high = v_old then return null; end if;
  loop
    v_middle := date_trunc('second', v_low + (v_high - v_low) / 2);
    exit when v_middle = v_low;
    if (v_middle at time zone 'UTC' at time zone p_time_zone) - v_middle = v_old then v_low := v_middle; else v_high := v_middle; end if;
  end loop;
  return v_high;
end
$$;
comment on function pgtick.zone_shift(text, timestamp, timestamp) is 'The moment (UTC, as timestamp) of a zone''s shift between two others, or null.';

-- The exact form, for the neighbourhood of shifts. Times are UTC, as timestamp: adding days to a timestamptz would use the session's zone.
-- p_last false: each wall time's first moment; true: its last. A skipped wall time runs at the shift, or not at all.
create or replace function pgtick.cron_resolve(p_cron pgtick.cron, p_time_zone text, p_after timestamp, p_skip_gap boolean, p_last boolean)
returns timestamp
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_wall timestamp := p_after at time zone 'UTC' at time zone p_time_zone;   -- look strictly after this wall time
  v_far constant timestamp := v_wall + interval '41 years';
  v_offset interval := v_wall - p_after;
  v_shift timestamp;
  v_before interval;
  v_after interval;
  v_slot timestamp;
begin
  -- Near a fold the wall times still to come are not just those after now's: with "first" those already seen before the fold are
  -- behind us, with "last" those that a coming fold repeats are ahead. No fold since 1970 is longer than 7 hours.
  if p_last then
    v_after := ((p_after + interval '25 hours') at time zone 'UTC' at time zone p_time_zone) - (p_after + interval '25 hours');
    if v_after < v_offset then
      v_shift := pgtick.zone_shift(p_time_zone, p_after, p_after + interval '25 hours 1 second');
      if v_shift + v_after <= v_wall then v_wall := v_shift + v_after - interval '1 microsecond'; end if;
    end if;
  else
    v_before := ((p_after - interval '25 hours') at time zone 'UTC' at time zone p_time_zone) - (p_after - interval '25 hours');
    if v_before > v_offset then
      v_shift := pgtick.zone_shift(p_time_zone, p_after - interval '25 hours 1 second', p_after + interval '1 second');
      if v_shift <= p_after and v_shift + v_before > v_wall then v_wall := v_shift + v_before - interval '1 microsecond'; end if;
    end if;
  end if;

  loop
    v_wall := pgtick.cron_next_wall(p_cron, v_wall);
    if v_wall is null or v_wall > v_far then return null; end if;
    -- Whatever the zone, the moment lies within 16 hours of the wall time read as UTC, and so does a shift that touches it.
    v_before := ((v_wall - interval '16 hours') at time zone 'UTC' at time zone p_time_zone) - (v_wall - interval '16 hours');
    v_after := ((v_wall + interval '16 hours') at time zone 'UTC' at time zone p_time_zone) - (v_wall + interval '16 hours');
    if v_before = v_after then
      v_slot := v_wall - v_before;
    else
      v_shift := pgtick.zone_shift(p_time_zone, v_wall - interval '16 hours', v_wall + interval '16 hours');
      v_slot := case
        when p_last and v_wall - v_after >= v_shift then v_wall - v_after
        when v_wall - v_before < v_shift then v_wall - v_before
        when v_wall - v_after >= v_shift then v_wall - v_after
        when not p_skip_gap then v_shift
      end;
      if v_slot is null then   -- skipped: go on at the gap's end
        v_wall := v_shift + v_after - interval '1 microsecond';
        continue;
      end if;
    end if;
    if v_slot > p_after then return v_slot; end if;
  end loop;
end
$$;
comment on function pgtick.cron_resolve(pgtick.cron, text, timestamp, boolean, boolean) is 'The next slot near a shift of the zone: each wall time''s first or last moment.';

create or replace function pgtick.next_slot(p_cron pgtick.cron, p_time_zone text, p_after timestamptz, p_on_gap text default 'run', p_on_fold text default 'first')
returns timestamptz
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_utc timestamp;
  v_wall timestamp;
  v_next timestamp;
  v_near timestamp;
  v_first timestamp;
  v_last timestamp;
begin
  if not isfinite(p_after) then
    return null;
  elsif p_cron.every_seconds is not null then
    return to_timestamp((floor(extract(epoch from p_after) / p_cron.every_seconds) + 1) * p_cron.every_seconds);
  elsif p_time_zone = 'UTC' then
    return pgtick.cron_next_wall(p_cron, p_after at time zone 'UTC') at time zone 'UTC';
  end if;

  -- Most slots are near and no shift is: the same offset from a day before now to a day after the slot, and that within 6 days,
  -- in which no zone shifts twice (see zone_shift). Then the calendar's answer stands under every policy.
  v_utc := p_after at time zone 'UTC';
  v_wall := p_after at time zone p_time_zone;
  v_next := pgtick.cron_next_wall(p_cron, v_wall);
  if v_next is null then return null; end if;
  if v_next - v_wall < interval '4 days' then
    v_near := v_utc + (v_next - v_wall);
    if (v_utc - interval '25 hours') at time zone 'UTC' at time zone p_time_zone = v_wall - interval '25 hours'
      and (v_near + interval '25 hours') at time zone 'UTC' at time zone p_time_zone = v_next + interval '25 hours'
    then
      return v_near at time zone 'UTC';
    end if;
  end if;

  if p_cron.elapsed or p_on_fold <> 'last' then
    v_first := pgtick.cron_resolve(p_cron, p_time_zone, v_utc, p_cron.elapsed or p_on_gap = 'skip', false);
    if v_first is null or (p_on_fold = 'first' and not p_cron.elapsed) then return v_first at time zone 'UTC'; end if;
  end if;
  v_last := pgtick.cron_resolve(p_cron, p_time_zone, v_utc, p_cron.elapsed or p_on_gap = 'skip', true);
  return least(v_first, v_last) at time zone 'UTC';
end
$$;
comment on function pgtick.next_slot(pgtick.cron, text, timestamptz, text, text) is 'The first slot strictly after p_after, or null when there is none in 41 years.';

-- A slot after the other, and where a plain day holds many, the rest of that day at once (1 µs a slot, not 5).
create or replace function pgtick.slots_between(p_cron pgtick.cron, p_time_zone text, p_from timestamptz, p_to timestamptz,
  p_limit integer default null, p_on_gap text default 'run', p_on_fold text default 'first')
returns setof timestamptz
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_slot timestamptz := p_from;
  v_left bigint := coalesce(p_limit, 9223372036854775807);
  v_times integer[];
  v_wall timestamp;
  v_utc timestamp;
  v_day timestamp;
  v_rest timestamptz[];
begin
  if coalesce(p_limit, 1) < 1 or (p_limit is null and not isfinite(p_to)) then return; end if;
  if p_cron.every_seconds is not null then
    v_slot := pgtick.next_slot(p_cron, p_time_zone, p_from);   -- the end is bounded here, because generate_series makes all its rows first
    return query select s.slot from generate_series(v_slot,
      least(p_to, v_slot + (p_limit - 1) * make_interval(secs => p_cron.every_seconds)), make_interval(secs => p_cron.every_seconds)) as s(slot);
    return;
  end if;
  -- The day's times, in minutes. To make the list takes as long as some 200 single slots do.
  if bit_count(p_cron.minutes) * bit_count(p_cron.hours) >= 8 and v_left > 200 and p_to - p_from > interval '3 hours' then
    select array_agg(h * 60 + m order by h, m) into v_times
    from generate_series(0, 23) as h, generate_series(0, 59) as m
    where get_bit(p_cron.hours, h) = 1 and get_bit(p_cron.minutes, m) = 1;
  end if;
  while v_left > 0 loop
    v_slot := pgtick.next_slot(p_cron, p_time_zone, v_slot, p_on_gap, p_on_fold);
    exit when v_slot is null or v_slot > p_to;
    return next v_slot;
    v_left := v_left - 1;
    if v_times is not null then
      v_utc := v_slot at time zone 'UTC';
      v_wall := v_slot at time zone p_time_zone;
      v_day := date_trunc('day', v_wall);
      if (v_utc - interval '25 hours') at time zone 'UTC' at time zone p_time_zone = v_wall - interval '25 hours'
        and (v_utc + interval '49 hours') at time zone 'UTC' at time zone p_time_zone = v_wall + interval '49 hours'
      then
        v_rest := array(
          select (v_utc + (v_day + make_interval(mins => t.minute) - v_wall)) at time zone 'UTC'
          from unnest(v_times) as t(minute)
          where v_day + make_interval(mins => t.minute) > v_wall
          order by t.minute limit v_left);
        return query select r.slot from unnest(v_rest) as r(slot) where r.slot <= p_to;
        v_left := v_left - cardinality(v_rest);
        v_slot := coalesce(v_rest[cardinality(v_rest)], v_slot);
      end if;
    end if;
  end loop;
end
$$;
comment on function pgtick.slots_between(pgtick.cron, text, timestamptz, timestamptz, integer, text, text) is 'The slots after p_from up to and with p_to, in order, at most p_limit.';

-- Counting and the newest ones, without listing what lies between: an outage of forty days of every minute has 57,600 slots.

create or replace function pgtick.cron_month_days(p_cron pgtick.cron, p_year integer, p_month integer)
returns bit(31)
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_length constant integer := case when p_month <> 2 then 30 + (p_month + p_month / 8) % 2
    when p_year % 4 = 0 and (p_year % 100 <> 0 or p_year % 400 = 0) then 29 else 28 end;
  v_days bit(31) := p_cron.days;
  v_week bit(31);
begin
  if get_bit(p_cron.months, p_month - 1) = 0 then return repeat('0', 31)::bit(31); end if;
  if p_cron.last_day then v_days := set_bit(v_days, v_length - 1, 1); end if;
  v_week := substring(p_cron.weekdays from (make_date(p_year, p_month, 1) - '1600-01-02'::date) % 7 + 1 for 31);   -- a Sunday
  v_days := case when p_cron.either_day then v_days | v_week else v_days & v_week end;
  return v_days & (repeat('1', v_length) || repeat('0', 31 - v_length))::bit(31);
end
$$;
comment on function pgtick.cron_month_days(pgtick.cron, integer, integer) is 'The days of one month on which the expression fires, bit 1 for the 1st. For five fields, not @every.';

create or replace function pgtick.cron_count_walls(p_cron pgtick.cron, p_after timestamp, p_until timestamp)
returns bigint
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_first constant date := p_after::date;
  v_last constant date := p_until::date;
  v_month date := date_trunc('month', p_after);
  v_days bit(31);
  v_count bigint := 0;
  v_before bigint := 0;   -- times of the first day up to p_after
  v_beyond bigint := 0;   -- times of the last day after p_until
begin
  if p_until <= p_after then return 0; end if;
  while v_month <= v_last loop
    v_days := pgtick.cron_month_days(p_cron, date_part('year', v_month)::integer, date_part('month', v_month)::integer);
    if v_first > v_month then v_days := v_days & (~ (B'1111111111111111111111111111111' << (31 - (v_first - v_month)))); end if;
    if v_last - v_month < 30 then v_days := v_days & (B'1111111111111111111111111111111' << (30 - (v_last - v_month))); end if;
    v_count := v_count + bit_count(v_days);
    if v_month = date_trunc('month', p_after) and get_bit(v_days, v_first - v_month) = 1 then
      v_before := bit_count(p_cron.minutes) * bit_count(p_cron.hours) - pgtick.cron_times_after(p_cron, p_after);
    end if;
    if v_last - v_month < 31 and v_month = date_trunc('month', p_until) and get_bit(v_days, v_last - v_month) = 1 then
      v_beyond := pgtick.cron_times_after(p_cron, p_until);
    end if;
    v_month := v_month + interval '1 month';
  end loop;
  return v_count * bit_count(p_cron.minutes) * bit_count(p_cron.hours) - v_before - v_beyond;
end
$$;
comment on function pgtick.cron_count_walls(pgtick.cron, timestamp, timestamp) is 'How many wall times after p_after, up to and with p_until, the expression matches: the calendar alone, no zone.';

create or replace function pgtick.cron_times_after(p_cron pgtick.cron, p_wall timestamp)
returns bigint
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_hour constant integer := date_part('hour', p_wall);
  v_minute constant integer := date_part('minute', p_wall);
begin
  return get_bit(p_cron.hours, v_hour) * bit_count(substring(p_cron.minutes from v_minute + 2)) + bit_count(p_cron.minutes) * bit_count(substring(p_cron.hours from v_hour + 2));
end
$$;
comment on function pgtick.cron_times_after(pgtick.cron, timestamp) is 'How many times of day the expression has after the one of p_wall.';

-- Away from a zone's shifts slots are wall times, and those are counted. At a shift elapsed time goes on with the other offset at once;
-- of fixed times the slots around it are listed, since what a gap or fold does to them reaches a day far.
create or replace function pgtick.count_slots(p_cron pgtick.cron, p_time_zone text, p_from timestamptz, p_to timestamptz, p_on_gap text default 'run', p_on_fold text default 'first')
returns bigint
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_near constant interval := case when p_cron.elapsed then interval '0' else interval '26 hours' end;
  v_to constant timestamp := p_to at time zone 'UTC';
  v_done timestamp := p_from at time zone 'UTC';           -- counted up to here
  v_done_wall timestamp := p_from at time zone p_time_zone;
  v_at timestamp := v_done - v_near;                       -- looked for shifts up to here
  v_end timestamp;
  v_shift timestamp;
  v_count bigint := 0;
begin
  if p_from >= p_to then return 0; end if;
  if p_cron.every_seconds is not null then
    return floor(extract(epoch from p_to) / p_cron.every_seconds) - floor(extract(epoch from p_from) / p_cron.every_seconds);
  elsif p_time_zone = 'UTC' then
    return pgtick.cron_count_walls(p_cron, v_done, v_to);
  end if;
  while v_at < v_to + v_near loop
    v_end := least(v_at + interval '6 days', v_to + v_near + interval '1 second');
    v_shift := pgtick.zone_shift(p_time_zone, v_at, v_end);
    v_at := coalesce(v_shift, v_end);
    continue when v_shift is null or v_shift - v_near > v_to;
    v_end := case when p_cron.elapsed then v_shift - interval '1 microsecond' else greatest(v_shift - v_near, v_done) end;
    v_count := v_count + pgtick.cron_count_walls(p_cron, v_done_wall, v_end at time zone 'UTC' at time zone p_time_zone);
    if p_cron.elapsed then
      v_done := v_end;
      v_done_wall := (v_shift at time zone 'UTC' at time zone p_time_zone) - interval '1 microsecond';   -- by the new offset
    else
      v_done := least(v_shift + v_near, v_to);
      v_done_wall := v_done at time zone 'UTC' at time zone p_time_zone;
      v_count := v_count + (select count(*) from pgtick.slots_between(p_cron, p_time_zone, v_end at time zone 'UTC', v_done at time zone 'UTC', null, p_on_gap, p_on_fold));
    end if;
  end loop;
  return v_count + pgtick.cron_count_walls(p_cron, v_done_wall, v_to at time zone 'UTC' at time zone p_time_zone);
end
$$;
comment on function pgtick.count_slots(pgtick.cron, text, timestamptz, timestamptz, text, text) is 'How many slots there are after p_from, up to and with p_to; by counting, so that years of every minute take a moment.';

create or replace function pgtick.last_slots(p_cron pgtick.cron, p_time_zone text, p_from timestamptz, p_to timestamptz, p_n integer, p_on_gap text default 'run', p_on_fold text default 'first')
returns timestamptz[]
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_look interval := interval '10 minutes';   -- how far back; seconds and days alone, so that the session's zone has no say
  v_from timestamptz;
  v_slots timestamptz[];
begin
  if p_from >= p_to or p_n < 1 then return '{}'; end if;
  loop
    v_from := greatest(p_from, p_to - v_look);
    v_slots := array(select s.slot from pgtick.slots_between(p_cron, p_time_zone, v_from, p_to, null, p_on_gap, p_on_fold) as s(slot));
    exit when cardinality(v_slots) >= p_n or v_from = p_from;
    v_look := v_look * 12;
  end loop;
  return v_slots[greatest(cardinality(v_slots) - p_n, 0) + 1:];
end
$$;
comment on function pgtick.last_slots(pgtick.cron, text, timestamptz, timestamptz, integer, text, text) is 'The newest p_n slots after p_from, up to and with p_to, in order.';

-- 3. Zones -----------------------------------------------------------------------------------------------------------------------

-- "at time zone" alone is no check: it takes UTC+99 and Mars/Base+3 (POSIX, sign reversed), 05:00, and CET as an abbreviation, which has
-- no summer time, where the zone of that name has. pg_timezone_names takes 27 ms, so it is read only for the names that need it.
-- Not parallel safe, nor is what calls it: an exception block is a subtransaction, which no parallel worker may begin (until PostgreSQL 17).
-- Etc/GMT goes from -14 to +12: past that PostgreSQL reads the name as POSIX text and takes any number of hours.
create or replace function pgtick.check_time_zone(p_time_zone text)
returns void
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_why text := 'is not known here';
  v_hint text;
begin
  if p_time_zone in ('UTC', 'GMT', 'Etc/UTC') then return; end if;
  if p_time_zone ~ '^[A-Za-z_]+(/[A-Za-z_-]+){1,2}$|^Etc/GMT([+]([0-9]|1[0-2])|-([0-9]|1[0-4]))$' and p_time_zone !~* '^(posix|right)/' then
    begin
      perform '2000-01-01'::timestamp at time zone p_time_zone;
      return;
    exception when invalid_parameter_value then null;
    end;
  elsif exists (select from pg_catalog.pg_timezone_abbrevs as a where a.abbrev = upper(p_time_zone)) then
    v_why := 'is an abbreviation with a fixed offset, without summer time';
  elsif p_time_zone !~* '^(posix|right)/|^(localtime|posixrules|factory)$'
    and exists (select from pg_catalog.pg_timezone_names as n where lower(n.name) = lower(p_time_zone)) then
    return;
  end if;
  -- UTC+2 is meant as two hours east of Greenwich, but Etc/GMT+2 is west
  if p_time_zone ~* '^(UTC|GMT)?([+](0?[0-9]|1[0-4])|-(0?[0-9]|1[0-2]))(:?00)?$' then
    raise exception using errcode = 'TK018', message = format('time zone "%s" is a fixed offset, without summer time', p_time_zone),
      hint = format('Name a place, such as Europe/Berlin; where a fixed offset is meant, Etc/GMT%s%s, which has the sign the other way round.',
        translate(substring(p_time_zone from '[+-]'), '+-', '-+'), substring(p_time_zone from '[+-]([0-9]{1,2})')::integer);
  end if;
  select string_agg(near.name, ', ') into v_hint from (
    select n.name
    from pg_catalog.pg_timezone_names as n,
      lateral (select count(*) from generate_series(1, length(p_time_zone) - 2) as i
        where strpos(lower(n.name), lower(substr(p_time_zone, i, 3))) > 0) as same(parts)
    where length(p_time_zone) <= 60 and n.name like '%/%' and n.name !~ '^(posix|right)/' and same.parts >= greatest(1, (length(p_time_zone) - 2) / 3)
    order by same.parts desc, abs(length(n.name) - length(p_time_zone)), n.name
    limit 3) as near;
  raise exception using errcode = 'TK018', message = format('time zone "%s" %s', coalesce(left(p_time_zone, 60), 'null'), v_why),
    hint = coalesce('Did you mean ' || v_hint || '?', 'Use a name as in pg_timezone_names, for example Europe/Berlin or UTC.');
end
$$;
comment on function pgtick.check_time_zone(text) is 'Raise TK018, with the nearest names, unless this is the full name of a time zone.';

-- The moments for which the rules above are known to be exact, and which a timestamp can still hold some slots later.
create or replace function pgtick.check_moment(p_field text, p_value timestamptz)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_value is null or p_value < '1970-01-01 00:00+00' or p_value >= '9999-01-01 00:00+00' then
    perform pgtick.invalid(p_field, p_value::text, 'it is a moment from 1970 to 9998', format('Leave %s out for now.', p_field));
  end if;
end
$$;
comment on function pgtick.check_moment(text, timestamptz) is 'Raise TK000, naming p_field, unless p_value is a moment from 1970 to 9998.';

create or replace function pgtick.next_run(p_cron text, p_after timestamptz default pgtick.now(), p_time_zone text default 'UTC')
returns timestamptz
language plpgsql stable parallel unsafe
set search_path = ''
as $$
begin
  perform pgtick.check_time_zone(p_time_zone);
  perform pgtick.check_moment('after', p_after);
  return pgtick.next_slot(pgtick.parse_cron(p_cron), p_time_zone, p_after);
end
$$;
comment on function pgtick.next_run(text, timestamptz, text) is 'The first slot of a cron expression strictly after p_after (from 1970 to 9998; default: now) in p_time_zone (default: UTC), with on_gap run and on_fold first; null when the zone has none within 41 years. Raises TK000, TK010 to TK016, TK018.';

create or replace function pgtick.preview(p_cron text, p_time_zone text default 'UTC', p_from_at timestamptz default pgtick.now(), p_n integer default 5)
returns setof timestamptz
language plpgsql stable parallel unsafe
set search_path = ''
as $$
begin
  perform pgtick.check_time_zone(p_time_zone);
  perform pgtick.check_moment('from_at', p_from_at);
  if p_n is null or p_n not between 1 and 10000 then
    perform pgtick.invalid('n', p_n::text, 'it goes from 1 to 10000');
  end if;
  return query select s.slot from pgtick.slots_between(pgtick.parse_cron(p_cron), p_time_zone, p_from_at, '9999-12-31 00:00+00', p_n) as s(slot);
end
$$;
comment on function pgtick.preview(text, text, timestamptz, integer) is 'The first p_n (1 to 10000, default 5) slots of a cron expression strictly after p_from_at (default: now) and before the end of the year 9999, in order, with on_gap run and on_fold first. Raises TK000, TK010 to TK016, TK018.';
