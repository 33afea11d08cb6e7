-- Many jobs at once, by a filter.

-- The conditions of a filter on pgtick.live_jobs or pgtick.history. Values are quoted, fields are known ones: no SQL comes from outside.
create or replace function pgtick.filter_sql(p_filter jsonb, p_live boolean)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_fields constant text[] := '{id,task,queue,state,schedule,owner_id,batch,limit_key,sequence_key,created_before,created_after}'::text[]
    || case when p_live then '{}' else '{finished_before,finished_after,error}' end::text[];
  v_states constant text[] := case when p_live then '{ready,running}' else '{failed,cancelled}' end;
  v_condition text := 'true';
  v_field text;
  v_value text;
begin
  if jsonb_typeof(p_filter) is distinct from 'object' or p_filter = '{}' then
    perform pgtick.invalid('filter', p_filter::text, 'a JSON object with at least one field', format('Fields: %s.', array_to_string(v_fields, ', ')));
  end if;
  for v_field, v_value in select f.key, f.value from jsonb_each_text(p_filter) as f(key, value) loop
    if v_field <> all (v_fields) or v_value is null or jsonb_typeof(p_filter -> v_field) in ('object', 'array') then
      perform pgtick.invalid('filter', v_field, format('one value for any of %s', array_to_string(v_fields, ', ')));
    end if;
    if v_field = 'state' and v_value <> all (v_states) then
      perform pgtick.invalid('filter.state', v_value, format('one of %s', array_to_string(v_states, ', ')));
    end if;
    begin
      v_condition := v_condition || ' and ' || case v_field
        when 'id' then format('j.id = %L::bigint', v_value::bigint)
        when 'batch' then format('j.batch_id = %L::bigint', v_value::bigint)
        when 'schedule' then format('j.schedule_id = (select s.id from pgtick.schedule_defs as s where s.name = %L)', v_value)
        when 'owner_id' then format('j.owner_id = %L::uuid', v_value::uuid)
        when 'created_before' then format('j.created_at < %L::timestamptz', v_value::timestamptz)
        when 'created_after' then format('j.created_at >= %L::timestamptz', v_value::timestamptz)
        when 'finished_before' then format('j.finished_at < %L::timestamptz', v_value::timestamptz)
        when 'finished_after' then format('j.finished_at >= %L::timestamptz', v_value::timestamptz)
        when 'error' then format('pg_catalog.strpos(j.error ->> ''message'', %L) > 0', v_value)
        when 'state' then case when p_live then format('(j.runner_id is null) = %L::boolean', v_value = 'ready') else format('j.state = %L', v_value) end
        else format('j.%I = %L', v_field, v_value) end;
    exception when data_exception then
      perform pgtick.invalid('filter.' || v_field, v_value, case v_field when 'id' then 'a number' when 'batch' then 'a number' when 'owner_id' then 'a uuid' else 'a time' end);
    end;
  end loop;
  return v_condition;
end
$$;
comment on function pgtick.filter_sql(jsonb, boolean) is 'A filter''s condition as SQL text, over a row j of live_jobs (p_live) or history. Raises TK000, naming the field.';

-- definer: as cancel.
create or replace function pgtick.cancel_where(p_filter jsonb)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_condition constant text := pgtick.filter_sql(p_filter, true);
  v_now constant timestamptz := pgtick.now();
  v_by constant text := pgtick.caller();
  v_ids bigint[];
  v_id bigint := 0;
  v_count bigint := 0;
begin
  loop
    execute format('select pg_catalog.array_agg(x.id) from (select j.id from pgtick.live_jobs as j where j.id > $1 and %s order by j.id limit 10000) as x', v_condition)
    into v_ids using v_id;
    exit when v_ids is null;
    v_count := v_count + pgtick.stop_jobs(v_ids, format('cancelled by %s', v_by), v_by, v_now);
    v_id := v_ids[cardinality(v_ids)];
  end loop;
  perform pgtick.note_action('cancel_where', p_filter::text, jsonb_build_object('jobs', v_count));
  return v_count;
end
$$;
comment on function pgtick.cancel_where(jsonb) is
  'Cancel all waiting and running jobs that a filter meets, as pgtick.cancel does, and return how many. Fields, all of which must fit: id, task, queue, state (ready, running), schedule, owner_id, batch, limit_key, sequence_key, created_before, created_after; at least one. pgtick.audit keeps it. Raises TK000.';

create or replace function pgtick.stop_jobs(p_ids bigint[], p_why text, p_by text, p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_ids bigint[];
  v_fences bigint[];
  v_cancelled integer := 0;
  v_running integer;
  v_runners text[];
begin
  select array_agg(x.id), array_agg(x.fence) into v_ids, v_fences from (
    select j.id, j.fence from pgtick.live_jobs as j where j.id = any (p_ids) and j.runner_id is null order by j.id for update skip locked) as x;
  if v_ids is not null then
    v_cancelled := pgtick.archive(v_ids, v_fences, array_fill('cancelled'::text, array[cardinality(v_ids)]),
      array_fill(jsonb_build_object('message', p_why), array[cardinality(v_ids)]), p_now);
  end if;
  with running as (
    select j.id, j.runner_id from pgtick.live_jobs as j where j.id = any (p_ids) order by j.id
  ), noted as (
    insert into pgtick.job_notes as n (job_id, cancel_requested_at, cancel_requested_by) select r.id, p_now, p_by from running as r
    on conflict (job_id) do update set cancel_requested_at = coalesce(n.cancel_requested_at, excluded.cancel_requested_at),
      cancel_requested_by = coalesce(n.cancel_requested_by, excluded.cancel_requested_by)
  )
  select count(*), array_agg(distinct coalesce(r.runner_id::text, '')) into v_running, v_runners from running as r;
  perform pg_catalog.pg_notify('pgtick_stop', r.runner) from unnest(v_runners) as r(runner);
  return v_cancelled + v_running;
end
$$;
comment on function pgtick.stop_jobs(bigint[], text, text, timestamptz) is 'Cancel those of these jobs that wait, note the wish beside those that run, and tell their runners. Returns how many.';

-- definer: as cancel. One by one, since each may clash with another job's unique key, and then stays as it is.
create or replace function pgtick.retry_where(p_filter jsonb)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_condition text;
  v_ids bigint[];
  v_id bigint;
  v_count bigint := 0;
  v_clashes bigint := 0;
begin
  v_condition := pgtick.filter_sql(p_filter, false) || case when p_filter ? 'state' then '' else ' and j.state = ''failed''' end;
  execute format('select array(select j.id from pgtick.history as j where %s order by j.id)', v_condition) into v_ids;
  foreach v_id in array v_ids loop
    begin
      if pgtick.revive(v_id) then v_count := v_count + 1; end if;
    exception when sqlstate 'TK008' then
      v_clashes := v_clashes + 1;
    end;
  end loop;
  if v_clashes > 0 then
    raise warning 'pgtick: % jobs stay as they are, since others hold their unique keys', v_clashes using hint = 'pgtick.retry of one of them says which.';
  end if;
  perform pgtick.note_action('retry_where', p_filter::text, jsonb_build_object('jobs', v_count, 'clashes', v_clashes));
  return v_count;
end
$$;
comment on function pgtick.retry_where(jsonb) is
  'Retry all failed jobs that a filter meets, as pgtick.retry does, and return how many. Fields, all of which must fit: id, task, queue, state (failed; or cancelled), schedule, owner_id, batch, limit_key, sequence_key, created_before, created_after, finished_before, finished_after, error (a part of its message); at least one. Jobs whose unique key another one holds stay as they are, with a warning. pgtick.audit keeps it. Raises TK000.';
