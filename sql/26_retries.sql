-- When a job is tried again after an error.

create or replace function pgtick.policy_seconds(p_policy jsonb, p_field text, p_value text)
returns double precision
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_interval interval;
begin
  begin
    v_interval := p_value::interval;
  exception when invalid_datetime_format or datetime_field_overflow or interval_field_overflow then
    v_interval := null;
  end;
  if v_interval is null or date_part('epoch', v_interval) <= 0 or date_part('epoch', v_interval) > 30 * 86400 then
    perform pgtick.invalid('retry_policy.' || p_field, coalesce(p_value, p_policy::text), 'a time of more than 0 and at most 30 days', 'Write for example "30 seconds".');
  end if;
  return extract(epoch from v_interval);
end
$$;
comment on function pgtick.policy_seconds(jsonb, text, text) is 'A time of a retry policy in seconds. Raises TK000.';

create or replace function pgtick.policy_number(p_policy jsonb, p_field text, p_from numeric, p_to numeric)
returns numeric
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if jsonb_typeof(p_policy -> p_field) <> 'number' or (p_policy ->> p_field)::numeric not between p_from and p_to then
    perform pgtick.invalid('retry_policy.' || p_field, p_policy ->> p_field, format('a number from %s to %s', p_from, p_to));
  end if;
  return (p_policy ->> p_field)::numeric;
end
$$;
comment on function pgtick.policy_number(jsonb, text, numeric, numeric) is 'A number of a retry policy, or null where it has none. Raises TK000.';

create or replace function pgtick.check_retry_policy(p_policy jsonb)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_kind text;
  v_fields text[];
  v_field text;
  v_delay record;
begin
  if jsonb_typeof(p_policy) is distinct from 'object' then
    perform pgtick.invalid('retry_policy', p_policy::text, 'a JSON object', 'Write for example {"kind": "linear", "step": "30 seconds"}.');
  end if;
  v_kind := p_policy ->> 'kind';
  v_fields := case v_kind
    when 'exponential' then '{kind,first,factor,most,jitter}'
    when 'linear' then '{kind,step,most,jitter}'
    when 'list' then '{kind,delays,jitter}' end;
  if v_fields is null then
    perform pgtick.invalid('retry_policy.kind', v_kind, 'one of exponential, linear, list');
  end if;
  for v_field in select k.field from jsonb_object_keys(p_policy) as k(field) where k.field <> all (v_fields) loop
    perform pgtick.invalid('retry_policy', v_field, format('a policy of kind %s has the fields %s', v_kind, array_to_string(v_fields, ', ')));
  end loop;
  for v_field in select f.field from unnest('{first,step,most}'::text[]) as f(field) where p_policy ? f.field or (v_kind = 'linear' and f.field = 'step') loop
    perform pgtick.policy_seconds(p_policy, v_field, case when jsonb_typeof(p_policy -> v_field) in ('string', 'number') then p_policy ->> v_field end);
  end loop;
  perform pgtick.policy_number(p_policy, 'factor', 1, 10), pgtick.policy_number(p_policy, 'jitter', 0, 1);
  if v_kind = 'list' then
    if jsonb_typeof(p_policy -> 'delays') is distinct from 'array' or jsonb_array_length(p_policy -> 'delays') not between 1 and 100 then
      perform pgtick.invalid('retry_policy.delays', p_policy ->> 'delays', 'a list of 1 to 100 times', 'Write for example ["10 seconds", "5 minutes"].');
    end if;
    for v_delay in select case when jsonb_typeof(d.value) in ('string', 'number') then d.value #>> '{}' end as value, d.place from jsonb_array_elements(p_policy -> 'delays') with ordinality as d(value, place) loop
      perform pgtick.policy_seconds(p_policy, format('delays[%s]', v_delay.place - 1), v_delay.value);
    end loop;
  end if;
end
$$;
comment on function pgtick.check_retry_policy(jsonb) is
  'Raise TK000 unless this is a retry policy: {"kind": "exponential", "first": "5 seconds", "factor": 2, "most": "1 day", "jitter": 0.1} (these are the defaults), {"kind": "linear", "step": time, "most", "jitter"}, or {"kind": "list", "delays": [time, …], "jitter"}.';

-- The default: 5 s, 10 s, 20 s … up to a day, a tenth more or less: twenty attempts take about a week, and what failed together does not
-- come back together.
create or replace function pgtick.backoff(p_attempt integer, p_policy jsonb default null)
returns interval
language sql volatile parallel safe
set search_path = ''
as $$
  select make_interval(secs =>
    least(
      case p_policy ->> 'kind'
        when 'linear' then extract(epoch from (p_policy ->> 'step')::interval) * a.n
        when 'list' then extract(epoch from (p_policy -> 'delays' ->> (least(a.n, jsonb_array_length(p_policy -> 'delays')) - 1))::interval)
        else extract(epoch from coalesce((p_policy ->> 'first')::interval, '5 seconds'))
          * coalesce((p_policy ->> 'factor')::double precision, 2) ^ least(a.n - 1, 60) end,
      extract(epoch from coalesce((p_policy ->> 'most')::interval, case when p_policy ->> 'kind' in ('linear', 'list') then '30 days' else '1 day' end::interval)))
    * (1 + coalesce((p_policy ->> 'jitter')::double precision, case when p_policy ->> 'kind' in ('linear', 'list') then 0 else 0.1 end) * (2 * random() - 1)))
  from (select greatest(p_attempt, 1) as n) as a
$$;
comment on function pgtick.backoff(integer, jsonb) is
  'How long to wait after the p_attempt-th counted attempt has failed. Without a policy: 5 s doubled each time, at most a day, ±10 % by chance. A list''s last delay is repeated.';

-- definer: service_role may set it, and writes no table.
create or replace function pgtick.set_retry_policy(p_task text, p_policy jsonb)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('task', p_task);
  if p_policy is null then
    delete from pgtick.retry_policies as r where r.task = p_task;
  else
    perform pgtick.check_retry_policy(p_policy);
    insert into pgtick.retry_policies as r (task, policy, set_at, set_by) values (p_task, p_policy, pgtick.now(), pgtick.caller())
    on conflict (task) do update set policy = excluded.policy, set_at = excluded.set_at, set_by = excluded.set_by, declared = false;
  end if;
  perform pgtick.note_action('set_retry_policy', p_task, p_policy);
end
$$;
comment on function pgtick.set_retry_policy(text, jsonb) is
  'Say when jobs of a task are tried again after an error; null = by the default. A job''s own policy (enqueue, p_retry_policy) goes before it. It counts from the next error on. Raises TK000: see pgtick.check_retry_policy.';
