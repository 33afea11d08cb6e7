-- What runners have finished, for charts of all of them together. Counting the rows of the history instead would cost more the more there is to see.

create or replace function pgtick.add_counts(p_one integer[], p_other integer[])
returns integer[]
language sql immutable parallel safe
set search_path = ''
as $$
  select coalesce(array_agg(least(coalesce(b.one, 0)::bigint + coalesce(b.other, 0), 2147483647)::integer order by b.place), '{}')
  from unnest(p_one, p_other) with ordinality as b(one, other, place)
$$;
comment on function pgtick.add_counts(integer[], integer[]) is 'Add up two lists of numbers, place by place. A sum stops at the largest integer: one that raised would refuse the reports of all runners until its stretch of time is over.';

create or replace function pgtick.refuse_counts(p_field text, p_counts integer[], p_attempts bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_sum bigint;
begin
  if p_counts is null then return; end if;
  if coalesce(array_ndims(p_counts), 1) > 1 or cardinality(p_counts) > 82 or num_nulls(variadic p_counts) > 0 or 0 > any (p_counts) then
    perform pgtick.invalid(p_field, p_counts::text, 'a list of at most 82 numbers, none of them null or below 0');
  end if;
  select coalesce(sum(c.n), 0) into v_sum from unnest(p_counts) as c(n);
  if v_sum <> p_attempts then
    perform pgtick.invalid(p_field, p_counts::text, format('its numbers make %s, and the attempts are %s', v_sum, p_attempts), 'Count each attempt once, or leave the list out.');
  end if;
end
$$;
comment on function pgtick.refuse_counts(text, integer[], bigint) is 'Raise TK000 unless this may be how long so many attempts waited, or ran.';

-- A report that is sent again, since its answer was lost, is known by its number. Locks: the runner's row, then the spans', the shortest first;
-- all runners add to the same rows, and each for a moment.
-- definer: as register.
create or replace function pgtick.count_attempts(p_runner_id bigint, p_report bigint, p_done integer, p_errors integer default 0, p_failed integer default 0,
  p_waited integer[] default null, p_ran integer[] default null, p_ago interval default '0')
returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '1s'
as $$
declare
  v_at timestamptz;
  v_attempts bigint;
begin
  if p_report is null or p_report < 1 then perform pgtick.invalid('report', p_report::text, 'a number from 1 on, which rises with each report of a runner'); end if;
  if p_done is null or p_done < 0 then perform pgtick.invalid('done', p_done::text, 'at least 0'); end if;
  if p_errors is null or p_errors < 0 then perform pgtick.invalid('errors', p_errors::text, 'at least 0'); end if;
  if p_failed is null or p_failed < 0 then perform pgtick.invalid('failed', p_failed::text, 'at least 0'); end if;
  if p_ago is null or date_part('epoch', p_ago) not between 0 and 3600 then perform pgtick.invalid('ago', p_ago::text, 'it goes from 0 to 1 hour'); end if;
  v_attempts := p_done::bigint + p_errors + p_failed;
  perform pgtick.refuse_counts('waited', p_waited, v_attempts);
  perform pgtick.refuse_counts('ran', p_ran, v_attempts);
  update pgtick.runner_leases as r set counted = p_report where r.id = p_runner_id and r.counted < p_report;
  if not found then
    if not exists (select from pgtick.runner_leases as r where r.id = p_runner_id) then perform pgtick.refuse_runner(p_runner_id); end if;
    return false;
  end if;
  v_at := pgtick.now() - p_ago;
  insert into pgtick.attempt_counts as c (span, at, done, errors, failed, waited, ran)
  select s.span, date_bin(s.span, v_at, '2000-01-01 00:00:00+00'), p_done, p_errors, p_failed, coalesce(p_waited, '{}'), coalesce(p_ran, '{}')
  from unnest('{1 minute,15 minutes,2 hours}'::interval[]) as s(span)
  order by s.span
  on conflict (span, at) do update
  set done = c.done + excluded.done, errors = c.errors + excluded.errors, failed = c.failed + excluded.failed,
    waited = pgtick.add_counts(c.waited, excluded.waited), ran = pgtick.add_counts(c.ran, excluded.ran);
  return true;
end
$$;
comment on function pgtick.count_attempts(bigint, bigint, integer, integer, integer, integer[], integer[], interval) is
  'Say how many attempts of this runner have ended since its last report: done, errors (to be tried again), failed for good; and of how many each waited and ran how long (as pgtick.attempt_counts has it; null = not known). p_report rises with each report: one with a number that is not above the last one''s was taken before, counts for nothing and returns false. p_ago: how long ago they ended, 0 to 1 hour. Also for a runner that has left or is dead. Raises TK000, TK002.';

create or replace function pgtick.drop_counts(p_now timestamptz)
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$
  delete from pgtick.attempt_counts as c using (values (interval '1 minute', interval '3 hours'), (interval '15 minutes', interval '2 days'), (interval '2 hours', interval '15 days')) as k(span, keep)
  where c.span = k.span and c.at < p_now - k.keep
$$;
comment on function pgtick.drop_counts(timestamptz) is 'Delete of pgtick.attempt_counts what no chart shows any more.';
