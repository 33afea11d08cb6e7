-- Limits: how many jobs of a task may start in a time (kept by the runners, with Redis), and how many may run at once (kept here).
--
-- What runs under such a limit is written down by id, so that no claim counts jobs: a row of limit_places for each task, or limit key, in
-- use. A claim takes places under the row's lock, tried for only; the end of an attempt gives them back. Of a key that is full, jobs are
-- blocked, so that no claim walks over them twice; of a task that is full, nothing is claimed.

create or replace function pgtick.refuse_limit(p_task text, p_rate bigint, p_period interval, p_burst bigint, p_max_running integer)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('task', p_task);
  if p_rate is null and p_max_running is null then
    perform pgtick.invalid('rate', null, 'a limit has a rate, or max_running, or both', 'remove_limit takes a limit away.');
  end if;
  if p_rate not between 1 and 1000000 then perform pgtick.invalid('rate', p_rate::text, 'it goes from 1 to 1000000 jobs a period', 'pause_queue stops a queue.'); end if;
  if p_rate is not null and (p_period is null or date_part('epoch', p_period) not between 1 and 31 * 86400) then
    perform pgtick.invalid('period', p_period::text, 'it goes from 1 second to 31 days');
  end if;
  if p_burst not between 1 and p_rate then perform pgtick.invalid('burst', p_burst::text, 'it goes from 1 to the rate'); end if;
  if p_burst is not null and p_rate is null then perform pgtick.invalid('burst', p_burst::text, 'it needs a rate'); end if;
  if p_max_running not between 1 and 10000 then perform pgtick.invalid('max_running', p_max_running::text, 'it goes from 1 to 10000', 'pause_queue stops a queue.'); end if;
end
$$;
comment on function pgtick.refuse_limit(text, bigint, interval, bigint, integer) is 'Raise TK000, naming field, value and rule, when there can be no such limit.';

create or replace function pgtick.write_limit(p_task text, p_per_key boolean, p_rate bigint, p_period interval, p_burst bigint, p_max_running integer, p_declared boolean)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_old pgtick.limit_defs;
  v_new pgtick.limit_defs;
begin
  perform pgtick.refuse_limit(p_task, p_rate, p_period, p_burst, p_max_running);
  select * into v_old from pgtick.limit_defs as d where d.task = p_task and d.per_key = p_per_key;
  insert into pgtick.limit_defs as d (task, per_key, rate, period, burst, max_running, declared, set_at, set_by)
  values (p_task, p_per_key, p_rate, case when p_rate is not null then p_period end, case when p_rate is not null then coalesce(p_burst, greatest(p_rate / 10, 1)) end,
    p_max_running, p_declared, pgtick.now(), pgtick.caller())
  on conflict (task, per_key) do update
  set rate = excluded.rate, period = excluded.period, burst = excluded.burst, max_running = excluded.max_running, declared = excluded.declared,
    set_at = excluded.set_at, set_by = excluded.set_by
  where (d.declared or not excluded.declared)
    and (d.rate, d.period, d.burst, d.max_running, d.declared) is distinct from (excluded.rate, excluded.period, excluded.burst, excluded.max_running, excluded.declared)
  returning * into v_new;
  if not found then return false; end if;
  perform pg_catalog.pg_notify('pgtick_limits', p_task);   -- first: who is woken then knows of it
  if v_new.max_running is distinct from v_old.max_running then perform pgtick.change_places(p_task, p_per_key, v_new.max_running is not null); end if;
  -- A time that was kept for a job is given up with what it was kept for, and not otherwise: the job would go to the end of the line.
  if (v_new.rate, v_new.period, v_new.burst) is distinct from (v_old.rate, v_old.period, v_old.burst) then perform pgtick.forget_reservations(p_task, pgtick.now()); end if;
  return true;
end
$$;
comment on function pgtick.write_limit(text, boolean, bigint, interval, bigint, integer, boolean) is 'Keep a limit, unless it is a declared one and set_limit has said otherwise; tell the runners, and let the blocked jobs of the task be looked at anew.';

-- What runs already counts, but for what is being claimed in this very moment.
create or replace function pgtick.change_places(p_task text, p_per_key boolean, p_limited boolean)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  delete from pgtick.limit_places as p where p.task = p_task and (p.key <> '') = p_per_key;
  if p_limited then
    insert into pgtick.limit_places as p (task, key, holders)
    select p_task, case when p_per_key then j.limit_key else '' end, array_agg(j.id) from pgtick.live_jobs as j
    where j.task = p_task and j.runner_id is not null and (j.limit_key is not null or not p_per_key)
    group by 2
    order by 2
    on conflict (task, key) do update set holders = array(select h.id from unnest(p.holders || excluded.holders) as h(id) group by h.id order by h.id);
  end if;
  perform pgtick.free_limited(p_task, p_per_key, pgtick.now());
end
$$;
comment on function pgtick.change_places(text, boolean, boolean) is 'Write down anew who runs under a limit, which has come, gone or changed, and let its blocked jobs be looked at anew.';

-- definer: service_role may set limits, and writes no table.
create or replace function pgtick.set_limit(p_task text, p_rate bigint default null, p_period interval default '1 second', p_burst bigint default null,
  p_max_running integer default null, p_per_key boolean default false)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_per_key is null then perform pgtick.invalid('per_key', null, 'it is true or false'); end if;
  if pgtick.write_limit(p_task, p_per_key, p_rate, p_period, p_burst, p_max_running, false) then
    perform pgtick.note_action('set_limit', p_task, jsonb_strip_nulls(jsonb_build_object('rate', p_rate, 'period', p_period, 'burst', p_burst, 'max_running', p_max_running, 'per_key', p_per_key)));
  end if;
end
$$;
comment on function pgtick.set_limit(text, bigint, interval, bigint, integer, boolean) is
  'Limit a task, from now on, on all runners together: at most p_rate (1 to 1,000,000) jobs start in a p_period (1 second, the default, to 31 days), of which p_burst (default a tenth of the rate, at least 1) may start at once; and at most p_max_running (1 to 10,000) run at a time. p_per_key: so many of each limit_key instead of all together; a task may have both. Replaces what was set before, or declared in code. Raises TK000.';

-- definer: as set_limit.
create or replace function pgtick.remove_limit(p_task text, p_per_key boolean default false)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  delete from pgtick.limit_defs as d where d.task = p_task and d.per_key = p_per_key;
  if not found then return; end if;
  perform pgtick.note_action('remove_limit', p_task, jsonb_build_object('per_key', p_per_key));
  perform pg_catalog.pg_notify('pgtick_limits', p_task);
  perform pgtick.change_places(p_task, p_per_key, false);
  perform pgtick.forget_reservations(p_task, pgtick.now());
end
$$;
comment on function pgtick.remove_limit(text, boolean) is 'Take a limit away, by key or of the whole task; one that is declared in code comes back with the next start of a runner. Where there is none: nothing.';

-- Code declares; what people set by hand stays. definer: the runner's role writes no table.
create or replace function pgtick.declare_task(p_task text, p_defaults jsonb)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_policy constant jsonb := p_defaults -> 'retry_policy';
  v_key constant jsonb := p_defaults -> 'per_key';
begin
  perform pgtick.refuse_name('task', p_task);
  if jsonb_typeof(p_defaults) is distinct from 'object' then perform pgtick.invalid('defaults', p_defaults::text, 'an object'); end if;
  perform pgtick.refuse_numbers(p_defaults, '{rate,period_seconds,burst,max_running,most_rows}'), pgtick.refuse_numbers(v_key, '{rate,period_seconds,burst,max_running}');
  perform pgtick.declare_limit(p_task, false, p_defaults), pgtick.declare_limit(p_task, true, v_key);
  if v_policy is null or jsonb_typeof(v_policy) = 'null' then
    delete from pgtick.retry_policies as r where r.task = p_task and r.declared;
  else
    perform pgtick.check_retry_policy(v_policy);
    insert into pgtick.retry_policies as r (task, policy, set_at, set_by, declared) values (p_task, v_policy, pgtick.now(), pgtick.caller(), true)
    on conflict (task) do update set policy = excluded.policy, set_at = excluded.set_at, set_by = excluded.set_by
    where r.declared and r.policy <> excluded.policy;
  end if;
  perform pgtick.declare_rules(p_task, p_defaults);
end
$$;
comment on function pgtick.declare_task(text, jsonb) is
  'What a runner''s code says of a task, told at its start: {"retry_policy", "rate", "period_seconds", "burst", "max_running", "per_key": {the same four}, "gates", "most_rows"}, all optional. What set_retry_policy, set_limit and set_gates said counts more. What is no longer declared goes. Raises TK000.';

create or replace function pgtick.refuse_numbers(p_object jsonb, p_fields text[])
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_field text;
begin
  if p_object is null or jsonb_typeof(p_object) = 'null' then return; end if;
  if jsonb_typeof(p_object) <> 'object' then perform pgtick.invalid('defaults', p_object::text, 'an object'); end if;
  select f.field into v_field from unnest(p_fields) as f(field)
  where jsonb_typeof(p_object -> f.field) not in ('number', 'null')
    or (jsonb_typeof(p_object -> f.field) = 'number' and ((p_object ->> f.field)::numeric not between 0 and 1e9 or (f.field <> 'period_seconds' and (p_object ->> f.field)::numeric % 1 <> 0)))
  limit 1;
  if found then perform pgtick.invalid(v_field, p_object ->> v_field, 'a whole number up to 1000000000, or none'); end if;
end
$$;
comment on function pgtick.refuse_numbers(jsonb, text[]) is 'Raise TK000 unless each of these fields of a declaration is a number that can be one, null or missing.';

create or replace function pgtick.declare_limit(p_task text, p_per_key boolean, p_limit jsonb)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if (p_limit ->> 'rate') is null and (p_limit ->> 'max_running') is null then
    delete from pgtick.limit_defs as d where d.task = p_task and d.per_key = p_per_key and d.declared;
    if found then
      perform pg_catalog.pg_notify('pgtick_limits', p_task);
      perform pgtick.change_places(p_task, p_per_key, false);
      perform pgtick.forget_reservations(p_task, pgtick.now());
    end if;
    return;
  end if;
  perform pgtick.write_limit(p_task, p_per_key, (p_limit ->> 'rate')::bigint, make_interval(secs => coalesce((p_limit ->> 'period_seconds')::float8, 1)),
    (p_limit ->> 'burst')::bigint, (p_limit ->> 'max_running')::integer, true);
end
$$;
comment on function pgtick.declare_limit(text, boolean, jsonb) is 'The limit of a declaration: kept, or taken away where it has none. Raises TK000.';

-- Places.

create or replace function pgtick.is_full(p_task text)
returns boolean
language sql stable parallel safe
set search_path = ''
as $$
  select exists (
    select from pgtick.limit_defs as d join pgtick.limit_places as p on p.task = d.task and p.key = ''
    where d.task = p_task and not d.per_key and cardinality(p.holders) >= d.max_running)
$$;
comment on function pgtick.is_full(text) is 'Whether as many jobs of a task run as may run at once.';

create or replace function pgtick.limited_due(p_tasks text[], p_queues text[], p_now timestamptz)
returns boolean
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  return exists (
    select from pgtick.lanes(array(select t.task from unnest(p_tasks) as t(task) where not pgtick.is_full(t.task)), p_queues) as l
    cross join lateral (
      select from pgtick.live_jobs as due
      where due.task = l.task and due.queue = l.queue and due.priority = l.priority and (due.run_at, due.id + 0) >= (l.run_at, l.id)
        and due.run_at <= p_now and due.runner_id is null and due.losses < 2
      limit 1) as first);
end
$$;
comment on function pgtick.limited_due(text[], text[], timestamptz) is 'Whether a job is due of one of these tasks that is not full.';

-- What a claim picks of the tasks that have a limit of how many may run: rows locked, places taken. By priority, then by time, but every
-- tenth claim in another order, so that no flood starves another lane. Where there is other work (p_plain jobs of the claim, the first of
-- them of p_priority) lanes that are more urgent leave a tenth of the claim to it, lanes as urgent take half, and the others a tenth.
create or replace function pgtick.pick_limited(p_tasks text[], p_queues text[], p_n integer, p_now timestamptz, p_plain integer, p_priority smallint, p_turn bigint)
returns tid[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_tenth constant integer := case when p_n >= 10 then p_n / 10 when p_turn / 1024 % 10 = 0 then p_n else 0 end;
  v_half constant integer := (p_n + p_turn % 2) / 2;
  v_lane record;
  v_room integer;
  v_holders bigint[];
  v_rows tid[];
  v_ids bigint[];
  v_picked tid[] := '{}';
begin
  for v_lane in
    select l.*, d.max_running as task_max, k.max_running as key_max
    from pgtick.lanes(p_tasks, p_queues) as l
    left join pgtick.limit_defs as d on d.task = l.task and not d.per_key
    left join pgtick.limit_defs as k on k.task = l.task and k.per_key
    where l.run_at <= p_now
    order by case when p_turn / 32 % 10 = 0 then pg_catalog.hashtextextended(l.task || l.queue, p_turn) else l.priority end, l.run_at, l.id
  loop
    v_room := greatest(p_n - p_plain, case when p_priority is null then p_n when v_lane.priority < p_priority then p_n - v_tenth
      when v_lane.priority = p_priority then v_half else v_tenth end) - cardinality(v_picked);
    continue when v_room <= 0;
    if v_lane.task_max is not null then
      v_holders := pgtick.lock_places(v_lane.task, '');
      continue when v_holders is null;   -- another claim is at it
      v_room := least(v_room, v_lane.task_max - cardinality(v_holders));
      continue when v_room <= 0;
    end if;
    if v_lane.key_max is not null then
      select p.picked, p.ids into v_rows, v_ids
      from pgtick.pick_by_key(v_lane.task, v_lane.queue, v_lane.priority, v_lane.run_at, v_lane.id, v_lane.key_max, v_room, p_now) as p;
    else
      select array_agg(x.ctid), array_agg(x.id) into v_rows, v_ids from (
        select due.ctid, due.id from pgtick.live_jobs as due
        where due.task = v_lane.task and due.queue = v_lane.queue and due.priority = v_lane.priority and (due.run_at, due.id + 0) >= (v_lane.run_at, v_lane.id)
          and due.run_at <= p_now and due.runner_id is null and due.losses < 2
        order by due.run_at, due.id + 0
        limit v_room
        for update skip locked) as x;
    end if;
    continue when v_ids is null or v_ids = '{}';
    if v_lane.task_max is not null then
      update pgtick.limit_places as p set holders = p.holders || v_ids where p.task = v_lane.task and p.key = '';
    end if;
    v_picked := v_picked || v_rows;
  end loop;
  return v_picked;
end
$$;
comment on function pgtick.pick_limited(text[], text[], integer, timestamptz, integer, smallint, bigint) is
  'Pick and lock due jobs of tasks with a limit of how many may run, up to p_n and not more than is fair beside p_plain others, and take their places.';

create or replace function pgtick.lock_places(p_task text, p_key text)
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '100ms'
as $$
declare
  v_holders bigint[];
begin
  select p.holders into v_holders from pgtick.limit_places as p where p.task = p_task and p.key = p_key for update skip locked;
  if found or exists (select from pgtick.limit_places as p where p.task = p_task and p.key = p_key) then return v_holders; end if;
  begin
    insert into pgtick.limit_places (task, key, holders) values (p_task, p_key, '{}') on conflict (task, key) do nothing returning holders into v_holders;
  exception when lock_not_available then null;   -- another session makes it, and has not committed
  end;
  return v_holders;
end
$$;
comment on function pgtick.lock_places(text, text) is 'Lock the places of a limit and return who holds them; null where another session has them locked.';

-- Jobs whose key is full are blocked, and looked at again when a place of that key is free: not at each claim.
create or replace function pgtick.pick_by_key(p_task text, p_queue text, p_priority smallint, p_from_run_at timestamptz, p_from_id bigint, p_max integer, p_room integer,
  p_now timestamptz, out picked tid[], out ids bigint[])
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_seen bigint[] := '{}';
  v_full bigint[];
  v_rows bigint;
  v_key record;
  v_holders bigint[];
  v_free integer;
  v_take integer;
begin
  picked := '{}';
  ids := '{}';
  for v_round in 1 .. 20 loop
    v_full := '{}';
    v_rows := 0;
    for v_key in
      select x.limit_key as key, array_agg(x.id order by x.run_at, x.id) as ids, array_agg(x.ctid order by x.run_at, x.id) as rows
      from (
        select due.ctid, due.id, due.run_at, due.limit_key from pgtick.live_jobs as due
        where due.task = p_task and due.queue = p_queue and due.priority = p_priority and (due.run_at, due.id + 0) >= (p_from_run_at, p_from_id)
          and due.run_at <= p_now and due.runner_id is null and due.losses < 2 and due.id <> all (v_seen)
        order by due.run_at, due.id + 0
        limit least(greatest(2 * p_room, 50), 500)
        for update skip locked) as x
      group by x.limit_key
      order by x.limit_key
    loop
      v_rows := v_rows + cardinality(v_key.ids);
      v_seen := v_seen || v_key.ids;
      continue when cardinality(picked) >= p_room;
      v_holders := case when v_key.key is not null then pgtick.lock_places(p_task, v_key.key) end;
      continue when v_key.key is not null and v_holders is null;
      v_free := case when v_key.key is null then cardinality(v_key.ids) else greatest(p_max - cardinality(v_holders), 0) end;
      v_take := least(v_free, p_room - cardinality(picked));
      picked := picked || v_key.rows[1:v_take];
      ids := ids || v_key.ids[1:v_take];
      v_full := v_full || v_key.ids[v_free + 1:];
      if v_key.key is not null and v_take > 0 then
        update pgtick.limit_places as p set holders = p.holders || v_key.ids[1:v_take] where p.task = p_task and p.key = v_key.key;
      end if;
    end loop;
    if v_full <> '{}' then
      update pgtick.live_jobs as j set blocked_by = 'limit', wanted_at = j.run_at, run_at = 'infinity' where j.id = any (v_full);
      v_seen := array(select s.id from unnest(v_seen) as s(id) except select f.id from unnest(v_full) as f(id));   -- those are out of the way
    end if;
    exit when v_rows = 0 or cardinality(picked) >= p_room;
  end loop;
end
$$;
comment on function pgtick.pick_by_key(text, text, smallint, timestamptz, bigint, integer, integer, timestamptz) is
  'Pick and lock up to p_room due jobs of a lane, from one on, whose limit keys have places, take those, and block what has none.';

create or replace function pgtick.take_places(p_task text, p_key text, p_job_id bigint)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_limit record;
  v_keys text[] := '{}';
  v_holders bigint[];
begin
  for v_limit in select d.per_key, d.max_running from pgtick.limit_defs as d where d.task = p_task and d.max_running is not null order by d.per_key loop
    continue when v_limit.per_key and p_key is null;
    v_holders := pgtick.lock_places(p_task, case when v_limit.per_key then p_key else '' end);
    if v_holders is null or cardinality(v_holders) >= v_limit.max_running then return false; end if;
    v_keys := v_keys || case when v_limit.per_key then p_key else '' end;
  end loop;
  update pgtick.limit_places as p set holders = p.holders || p_job_id where p.task = p_task and p.key = any (v_keys);
  return true;
end
$$;
comment on function pgtick.take_places(text, text, bigint) is 'Take the places that one job needs, or none: false where they are not free.';

-- What stops running, by its end or otherwise, gives its places back. A claim that has the row locked is waited for, for a moment; what
-- cannot be given back then, rescue() finds.
create or replace function pgtick.free_places(p_ended pgtick.ended[], p_now timestamptz, p_patient boolean default true)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '100ms'
as $$
declare
  v_ids bigint[];
  v_tasks text[];
  v_keys text[];
begin
  if not exists (select from pgtick.limit_places) then return; end if;
  select array_agg(p.task order by p.task, p.key), array_agg(p.key order by p.task, p.key) into v_tasks, v_keys from (
    select distinct x.task, x.key
    from unnest(p_ended) as e
    cross join lateral (
      select l.task, l.key from pgtick.limit_places as l where l.task = e.task and l.key = any (array['', e.limit_key]) and l.holders @> array[e.id] offset 0) as x) as p;
  if v_tasks is null then return; end if;
  v_ids := array(select e.id from unnest(p_ended) as e);
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then   -- the rows change all the time
    perform pgtick.note_unsettled('limit', t.task, null, p_now) from (select distinct x.task from unnest(v_tasks) as x(task)) as t;
    return;
  end if;
  if not p_patient then perform set_config('lock_timeout', '1ms', true); end if;
  perform from unnest(v_tasks, v_keys) as k(task, key)
  cross join lateral (select from pgtick.limit_places as p where p.task = k.task and p.key = k.key for update) as l;
  update pgtick.limit_places as p set holders = array(select h.id from unnest(p.holders) as h(id) where h.id <> all (v_ids))
  from unnest(v_tasks, v_keys) as k(task, key)
  where p.task = k.task and p.key = k.key;
  perform pgtick.offer_places(v_tasks, v_keys, p_now);
exception when lock_not_available then
  perform pgtick.note_unsettled('limit', t.task, null, p_now) from (select distinct x.task from unnest(v_tasks) as x(task)) as t;
end
$$;
comment on function pgtick.free_places(pgtick.ended[], timestamptz, boolean) is 'Give back the places of jobs that do not run any more, and let the next ones have them. Waits for locks as settle_batch does.';

create or replace function pgtick.free_places_of(p_ids bigint[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  if not exists (select from pgtick.limit_places) then return; end if;
  perform pgtick.free_places(array_agg((j.id, j.task, 'ready', null, null, null, j.limit_key)::pgtick.ended), p_now)
  from unnest(p_ids) as i(id) cross join lateral (select l.id, l.task, l.limit_key from pgtick.live_jobs as l where l.id = i.id offset 0) as j
  having count(*) > 0;
end
$$;
comment on function pgtick.free_places_of(bigint[], timestamptz) is 'As free_places, for jobs that are live: they were put back.';

-- Freed jobs keep their old run_at, so that their order stays: limited tasks are always claimed from the beginning, without watermarks.
create or replace function pgtick.offer_places(p_tasks text[], p_keys text[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_queues text[];
begin
  with next as materialized (
    select first.id
    from unnest(p_tasks, p_keys) as k(task, key)
    join pgtick.limit_places as p on p.task = k.task and p.key = k.key
    left join pgtick.limit_defs as d on d.task = k.task and d.per_key
    cross join lateral (
      select j.id from pgtick.live_jobs as j
      where j.task = k.task and j.limit_key = k.key and j.blocked_by = 'limit'
      order by j.id + 0
      limit greatest(coalesce(d.max_running, 1000) - cardinality(p.holders), 0)
      for no key update skip locked) as first
    where k.key <> ''
  ), freed as (
    update pgtick.live_jobs as j set blocked_by = null, run_at = j.wanted_at, wanted_at = null
    from next as n where j.id = n.id and j.blocked_by = 'limit'
    returning j.queue
  )
  select array_agg(distinct f.queue) into v_queues from freed as f;
  delete from pgtick.limit_places as p using unnest(p_tasks, p_keys) as k(task, key)
  where p.task = k.task and p.key = k.key and k.key <> '' and p.holders = '{}';
  if array_position(p_keys, '') is not null then
    v_queues := v_queues || array(
      select distinct l.queue
      from pgtick.lanes(array(select k.task from unnest(p_tasks, p_keys) as k(task, key) where k.key = ''), array(select distinct s.queue from pgtick.sleepers as s)) as l);
  end if;
  if v_queues <> '{}' then perform pgtick.wake(v_queues, p_now); end if;
end
$$;
comment on function pgtick.offer_places(text[], text[], timestamptz) is 'Free as many blocked jobs of these limit keys as there are places, and wake those who may claim what is due of these tasks (key empty).';

create or replace function pgtick.free_limited(p_task text, p_per_key boolean, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  if p_per_key then
    update pgtick.live_jobs as j set blocked_by = null, run_at = j.wanted_at, wanted_at = null
    where j.blocked_by = 'limit'
      and j.id = any (array(select l.id from pgtick.live_jobs as l where l.task = p_task and l.blocked_by = 'limit' order by l.limit_key, l.id + 0 for no key update skip locked));
  end if;
  perform pgtick.wake(array(select distinct s.queue from pgtick.sleepers as s), p_now);
end
$$;
comment on function pgtick.free_limited(text, boolean, timestamptz) is 'Let all jobs of a task that a limit by key blocks be looked at anew, and wake the runners: its limits have changed.';

create or replace function pgtick.sweep_places(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_tasks text[];
  v_keys text[];
begin
  -- Locked first, and read in a later statement: who is among the holders then has been claimed by a transaction that has committed.
  select array_agg(l.task order by l.task, l.key), array_agg(l.key order by l.task, l.key) into v_tasks, v_keys
  from (
    select p.task, p.key from pgtick.limit_places as p
    where p.holders = '{}' or exists (
        select from unnest(p.holders) as h(id) where not exists (select from pgtick.live_jobs as j where j.id = h.id and j.task = p.task and j.runner_id is not null))
      -- a claim that still went by a limit which was just being raised, or taken away, has blocked what has room now
      or (p.key <> '' and cardinality(p.holders) < coalesce((select d.max_running from pgtick.limit_defs as d where d.task = p.task and d.per_key), 1000)
        and exists (select from pgtick.live_jobs as j where j.task = p.task and j.limit_key = p.key and j.blocked_by = 'limit'))
    order by p.task, p.key
    for update skip locked) as l;
  if v_tasks is not null then
    update pgtick.limit_places as p set holders = array(
      select h.id from unnest(p.holders) as h(id) where exists (select from pgtick.live_jobs as j where j.id = h.id and j.task = p.task and j.runner_id is not null))
    from unnest(v_tasks, v_keys) as k(task, key)
    where p.task = k.task and p.key = k.key;
    perform pgtick.offer_places(v_tasks, v_keys, p_now);
  end if;
  if exists (select from pgtick.live_jobs as j where j.blocked_by = 'limit') then   -- none can be left behind by a key that nobody holds
    perform pgtick.free_limited_keys(p_now);
  end if;
end
$$;
comment on function pgtick.sweep_places(timestamptz) is 'Give back the places of jobs that do not run any more, wherever their end could not.';

create or replace function pgtick.free_limited_keys(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_queues text[];
begin
  with recursive k as (
    (select j.task, j.limit_key from pgtick.live_jobs as j where j.blocked_by = 'limit' order by j.task, j.limit_key limit 1)
    union all
    select n.task, n.limit_key from k
    cross join lateral (select j.task, j.limit_key from pgtick.live_jobs as j where j.blocked_by = 'limit' and (j.task, j.limit_key) > (k.task, k.limit_key)
      order by j.task, j.limit_key limit 1) as n
  ), freed as (
    update pgtick.live_jobs as j set blocked_by = null, run_at = j.wanted_at, wanted_at = null
    where j.blocked_by = 'limit' and j.id = any (array(
      select first.id from k
      cross join lateral (select l.id from pgtick.live_jobs as l where l.task = k.task and l.limit_key = k.limit_key and l.blocked_by = 'limit' order by l.id + 0 limit 1
        for no key update skip locked) as first
      where not exists (select from pgtick.limit_places as p where p.task = k.task and p.key = k.limit_key)))
    returning j.queue
  )
  select array_agg(distinct f.queue) into v_queues from freed as f;
  if v_queues is not null then perform pgtick.wake(v_queues, p_now); end if;
end
$$;
comment on function pgtick.free_limited_keys(timestamptz) is 'Free the first blocked job of each limit key of which none runs.';

-- Rates: kept by the runners.

create or replace function pgtick.forget_reservations(p_task text, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  update pgtick.live_jobs as j set run_at = p_now, reservation = null
  where j.id = any (array(
    select l.id from pgtick.live_jobs as l
    where l.task = p_task and l.reservation is not null and l.runner_id is null and l.blocked_by is null
    order by l.id
    for no key update skip locked));
  if found then perform pgtick.wake(array(select distinct s.queue from pgtick.sleepers as s), p_now); end if;
end
$$;
comment on function pgtick.forget_reservations(text, timestamptz) is 'Let all jobs of a task that a rate has put off be asked for anew, in the order of their ids: its limits have changed.';

-- definer (and the next two): the worker protocol.
create or replace function pgtick.hold_back(p_runner_id bigint, p_job_ids bigint[], p_fences bigint[], p_retry_at timestamptz[], p_reservations text[],
  p_set_at timestamptz[])
returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_n constant integer := cardinality(p_job_ids);
  v_now timestamptz;
  v_tasks text[];
  v_set_at timestamptz[];
  v_rows tid[];
  v_run_at timestamptz[];
  v_reservations text[];
  v_ids bigint[];
  v_queues text[];
  v_next timestamptz;
begin
  if (cardinality(p_fences) = v_n and cardinality(p_retry_at) = v_n and cardinality(p_reservations) = v_n and cardinality(p_set_at) = v_n) is not true then
    perform pgtick.invalid('job_ids', v_n::text, 'as many fences, retry_at, reservations and set_at as there are jobs');
  end if;
  if exists (select from unnest(p_retry_at) as r(at) where r.at is null or not isfinite(r.at)) then
    perform pgtick.invalid('retry_at', null, 'finite times');
  end if;
  -- Locked against a change, which looks for what was put off by the old rate: it waits for this, or this sees that it is at it.
  select array_agg(d.task), array_agg(d.set_at) into v_tasks, v_set_at
  from (select l.task, l.set_at from pgtick.limit_defs as l where l.rate is not null and l.set_at = any (p_set_at) order by l.task, l.per_key for share skip locked) as d;
  v_now := pgtick.now();
  select array_agg(j.ctid), array_agg(case when j.holds then o.retry_at else v_now + interval '1 second' end), array_agg(case when j.holds then o.reservation end), array_agg(j.id)
  into v_rows, v_run_at, v_reservations, v_ids
  from unnest(p_job_ids, p_fences, p_retry_at, p_reservations, p_set_at) as o(id, fence, retry_at, reservation, set_at)
  cross join lateral (
    select l.ctid, l.id, exists (select from unnest(v_tasks, v_set_at) as d(task, set_at) where d.task = l.task and d.set_at = o.set_at) as holds
    from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence and l.runner_id = p_runner_id for update skip locked) as j;
  if v_rows is null then return 0; end if;
  with back as (
    update pgtick.live_jobs as j
    set runner_id = null, fence = null, started_at = null, attempt = j.attempt - 1, run_at = greatest(v_now, o.retry_at), reservation = left(o.reservation, 100)
    from unnest(v_rows, v_run_at, v_reservations) as o(ctid, retry_at, reservation)
    where j.ctid = o.ctid
    returning j.queue, j.run_at
  )
  select array_agg(distinct b.queue), min(b.run_at) into v_queues, v_next from back as b;
  perform pgtick.free_places_of(v_ids, v_now);
  perform pgtick.wake(v_queues, v_next);
  return cardinality(v_ids);
end
$$;
comment on function pgtick.hold_back(bigint, bigint[], bigint[], timestamptz[], text[], timestamptz[]) is
  'Give claims back that a rate does not allow yet: they run at p_retry_at, with what the limiter wants to know again (p_reservations, at most 100 characters each; claim returns it). No attempt. p_set_at: of the rate that put each off, as limit_rules told it; where that has changed meanwhile, the job is asked for again in a second. Claims that are not this runner''s any more, or locked, are passed over; when fewer are returned than were given, call reconcile. Raises TK000.';

create or replace function pgtick.say_limits(p_runner_id bigint, p_local boolean)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  update pgtick.runner_leases as r set limits_local = p_local where r.id = p_runner_id and r.limits_local is distinct from p_local;
  if found then perform pg_catalog.pg_notify('pgtick_limits', ''); end if;
end
$$;
comment on function pgtick.say_limits(bigint, boolean) is 'Record whether a runner keeps rates by itself, without Redis: then all do, each its share.';

create or replace function pgtick.limit_rules(p_runner_id bigint)
returns table (task text, per_key boolean, rate bigint, period interval, burst bigint, runners integer, any_local boolean, set_at timestamptz)
language sql stable parallel safe security definer
set search_path = ''
as $$
  with alive as (
    select count(*)::integer as runners, coalesce(bool_or(r.limits_local), false) as any_local
    from pgtick.runner_leases as r
    where r.freed_at is null and r.ended_at is null and r.lease_until > pgtick.now()
  )
  select d.task, d.per_key, d.rate, d.period, d.burst, greatest(a.runners, 1), a.any_local, d.set_at
  from alive as a
  left join pgtick.limit_defs as d on d.rate is not null and d.task = any (select unnest(r.tasks) from pgtick.runner_leases as r where r.id = p_runner_id)
$$;
comment on function pgtick.limit_rules(bigint) is
  'The rates of a runner''s tasks, and among how many live runners they are shared where one has no Redis (any_local); at least one row, its task null where there is no rate. Read it again when channel pgtick_limits says so, and every minute.';
