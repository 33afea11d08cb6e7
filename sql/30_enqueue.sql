-- From a wish to a row: checks, enqueue, and the wake-up of sleeping runners.

-- NOTIFY only where a runner sleeps past the moment at which the job may run: NOTIFY takes a lock over the whole server at commit.
-- Callers insert first and call this last, in a statement of its own, so that one of two things is sure: this statement sees that the
-- runner sleeps (or, by xmax, that it is just about to), or the runner's settling waits for this transaction (sleep(), settled()).
-- Outside READ COMMITTED the snapshot may be older than the sleep, so there it always notifies.
-- definer: enqueuers may not read the runners' tables.
-- force_generic_plan: a plan of its own for each array would cost ten times as much as the look (a quarter of all enqueues a second).
create or replace function pgtick.wake(p_queues text[], p_run_at timestamptz)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    perform pg_catalog.pg_notify('pgtick', q.queue) from unnest(p_queues) as q(queue);
  else
    perform pg_catalog.pg_notify('pgtick', s.queue)
    from pgtick.sleepers as s
    where s.queue = any (p_queues) and (s.until > p_run_at or s.xmax <> '0'::xid);
  end if;
end
$$;
comment on function pgtick.wake(text[], timestamptz) is 'Notify channel pgtick, payload = the queue, for each of the queues on which a runner sleeps past p_run_at. Call it after the rows are written, in a statement of its own.';

-- Says what is wrong with a job's settings. One place for the limits, used by enqueue and schedule.
create or replace function pgtick.refuse_job(p_task text, p_args jsonb, p_queue text, p_priority integer, p_max_attempts integer, p_timeout interval)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('task', p_task);
  perform pgtick.refuse_name('queue', p_queue);
  if p_args is null or jsonb_typeof(p_args) <> 'object' then
    perform pgtick.invalid('args', p_args::text, 'args are a JSON object', 'Wrap the value: {"value": …}.');
  end if;
  if octet_length(p_args::text) > 65536 then
    perform pgtick.invalid('args', left(p_args::text, 40) || '…', format('%s bytes are over the limit of 65536', octet_length(p_args::text)),
      'Store the data in a table of yours and pass its key.');
  end if;
  if p_priority is null or p_priority not between 0 and 9 then perform pgtick.invalid('priority', p_priority::text, 'it goes from 0 (first) to 9 (last)'); end if;
  if p_max_attempts is null or p_max_attempts not between 1 and 1000 then perform pgtick.invalid('max_attempts', p_max_attempts::text, 'it goes from 1 to 1000'); end if;
  if p_timeout is null or p_timeout <= interval '0' or p_timeout > interval '7 days' then
    perform pgtick.invalid('timeout', p_timeout::text, 'it is more than 0 and at most 7 days', 'Cut longer work into several jobs.');
  end if;
end
$$;
comment on function pgtick.refuse_job(text, jsonb, text, integer, integer, interval) is 'Raise TK000, naming field, value and rule, when a job may not have these settings; otherwise do nothing.';

create or replace function pgtick.refuse_run_at(p_run_at timestamptz)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if not isfinite(p_run_at) then perform pgtick.invalid('run_at', p_run_at::text, 'it is a finite time', 'Leave it out for now.'); end if;
end
$$;
comment on function pgtick.refuse_run_at(timestamptz) is 'Raise TK000 when a job cannot be due then.';

-- definer: service_role and the runner may enqueue, but write no table.
create or replace function pgtick.enqueue(p_task text, p_args jsonb default '{}', p_queue text default 'default', p_priority integer default 5,
  p_run_at timestamptz default null, p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null,
  p_unique_key text default null, p_unique_for interval default null, p_unique_states text[] default '{ready,running}',
  p_on_conflict text default 'ignore', p_retry_policy jsonb default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_run_at constant timestamptz := greatest(p_run_at, v_now);   -- never back-dated: a claim may then trust where it stopped
  v_id bigint;
begin
  -- Nearly every job is plainly within the limits, and a call costs as much as the insert's own work; refuse_job decides about the rest.
  if (length(p_task) between 1 and 100 and length(p_queue) between 1 and 100 and (p_task || p_queue) ~ '^[[:graph:]]+$' and p_priority between 0 and 9
    and p_max_attempts between 1 and 100 and p_timeout between interval '1 ms' and interval '1 day'
    and jsonb_typeof(p_args) = 'object' and octet_length(p_args::text) <= 60000 and p_task <> 'sql') is not true
  then
    perform pgtick.refuse_job(p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout);
    if p_task = 'sql' then perform pgtick.check_function_call(p_args); end if;
  end if;
  if p_run_at is not null then perform pgtick.refuse_run_at(p_run_at); end if;
  if p_retry_policy is not null then perform pgtick.check_retry_policy(p_retry_policy); end if;
  if p_unique_key is not null or p_unique_for is not null then
    perform pgtick.refuse_uniqueness(p_unique_key, p_unique_for, p_unique_states, p_on_conflict);
    return pgtick.enqueue_unique(p_task, p_args, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_owner_id,
      p_unique_key, p_unique_for, p_unique_states, p_on_conflict, p_retry_policy, v_now);
  end if;
  insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, owner_id, retry_policy, created_at)
  values (p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_args, p_owner_id, p_retry_policy, v_now)
  returning id into v_id;
  -- wake() decides; that no runner of this queue sleeps, nor is about to, can be seen here at half the cost
  if exists (select from pgtick.sleepers as s where s.queue = p_queue and (s.until > v_run_at or s.xmax <> '0'::xid))
    or current_setting('transaction_isolation') <> 'read committed'
  then
    perform pgtick.wake(array[p_queue], v_run_at);
  end if;
  return v_id;
end
$$;
comment on function pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, jsonb) is
  'Add a job in the caller''s transaction and return its id. p_args: an object of at most 64 KiB. p_priority: 0 (first) to 9. p_run_at: null or past = now. p_max_attempts: 1 to 1000. p_timeout: of one attempt, at most 7 days. p_owner_id: the end user who sees it in my_jobs. p_unique_key: while a job of this task with this key is in one of p_unique_states, and no longer than p_unique_for after its enqueue, no other is added: its id is returned, and p_on_conflict says what becomes of it while it waits: ignore, replace_args, move_run_at. p_retry_policy: see set_retry_policy. A task that no runner serves is accepted, and shows in pgtick.health. Raises TK000.';

create or replace function pgtick.enqueue_unique(p_task text, p_args jsonb, p_queue text, p_priority integer, p_run_at timestamptz, p_max_attempts integer,
  p_timeout interval, p_owner_id uuid, p_key text, p_for interval, p_states text[], p_on_conflict text, p_retry_policy jsonb, p_now timestamptz)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_until constant timestamptz := coalesce(p_now + p_for, 'infinity');
  v_id constant bigint := nextval('pgtick.live_jobs_id_seq');
  v_holder_id bigint;
  v_now timestamptz;
  v_run_at timestamptz;
begin
  v_holder_id := pgtick.take_key(p_task, p_key, v_id, p_states, v_until, p_now);
  v_now := pgtick.now();   -- the key may have been waited for
  v_run_at := greatest(p_run_at, v_now);
  if v_holder_id <> v_id then
    perform pgtick.change_waiting(v_holder_id, p_on_conflict, p_args, v_run_at);
    return v_holder_id;
  end if;
  insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, uniqueness, retry_policy, created_at)
  overriding system value
  values (v_id, p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_args, p_owner_id,
    jsonb_build_object('key', p_key, 'states', p_states, 'until', v_until), p_retry_policy, v_now);
  perform pgtick.wake(array[p_queue], v_run_at);
  return v_id;
end
$$;
comment on function pgtick.enqueue_unique(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, jsonb, timestamptz) is
  'The part of enqueue for jobs with a unique key: take the key and add the job, or do to the job that holds it what p_on_conflict says. Returns the one that holds it now.';

create or replace function pgtick.change_waiting(p_job_id bigint, p_on_conflict text, p_args jsonb, p_run_at timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_queue text;
begin
  if p_on_conflict = 'replace_args' then
    update pgtick.live_jobs as j set args = p_args where j.id = p_job_id and j.runner_id is null;
  elsif p_on_conflict = 'move_run_at' then
    update pgtick.live_jobs as j set run_at = p_run_at where j.id = p_job_id and j.runner_id is null and j.blocked_by is null
    returning j.queue into v_queue;
    if found then perform pgtick.wake(array[v_queue], p_run_at); end if;
  end if;
end
$$;
comment on function pgtick.change_waiting(bigint, text, jsonb, timestamptz) is 'Give a job that waits, and is locked, other args or another time; of one that runs or has ended nothing is changed.';

-- definer: as enqueue. With keys the jobs are added one by one, in the order of the keys, so that two callers never wait for each other.
create or replace function pgtick.enqueue_many(p_task text, p_args jsonb[], p_queue text default 'default', p_priority integer default 5,
  p_run_at timestamptz default null, p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null,
  p_unique_keys text[] default null, p_unique_for interval default null, p_unique_states text[] default '{ready,running}',
  p_on_conflict text default 'ignore', p_retry_policy jsonb default null)
returns setof bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_run_at constant timestamptz := greatest(p_run_at, v_now);
  v_wrong jsonb;
  v_ids bigint[];
  v_one record;
begin
  perform pgtick.refuse_job(p_task, '{}', p_queue, p_priority, p_max_attempts, p_timeout), pgtick.refuse_run_at(p_run_at);
  if p_retry_policy is not null then perform pgtick.check_retry_policy(p_retry_policy); end if;
  if p_args is null then
    perform pgtick.invalid('args', null, 'args are an array of JSON objects, one for each job');
  end if;
  select a.args into v_wrong from unnest(p_args) as a(args)
  where a.args is null or jsonb_typeof(a.args) <> 'object' or octet_length(a.args::text) > 65536 limit 1;
  if found then perform pgtick.refuse_job(p_task, v_wrong, p_queue, p_priority, p_max_attempts, p_timeout); end if;
  if p_task = 'sql' then perform pgtick.check_function_call(a.args) from unnest(p_args) as a(args); end if;
  if p_unique_keys is null and p_unique_for is null then
    return query
    insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, owner_id, retry_policy, created_at)
    select p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, a.args, p_owner_id, p_retry_policy, v_now
    from unnest(p_args) as a(args)
    returning live_jobs.id;
    if found then perform pgtick.wake(array[p_queue], v_run_at); end if;
    return;
  end if;
  if cardinality(p_unique_keys) is distinct from cardinality(p_args) or array_position(p_unique_keys, null) is not null then
    perform pgtick.invalid('unique_keys', p_unique_keys::text, format('one for each of the %s jobs, none of them null', cardinality(p_args)));
  end if;
  v_ids := array_fill(null::bigint, array[cardinality(p_args)]);
  for v_one in select a.args, k.key, a.place from unnest(p_args) with ordinality as a(args, place) join unnest(p_unique_keys) with ordinality as k(key, place) using (place)
    order by k.key, a.place
  loop
    perform pgtick.refuse_uniqueness(v_one.key, p_unique_for, p_unique_states, p_on_conflict);
    v_ids[v_one.place] := pgtick.enqueue_unique(p_task, v_one.args, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_owner_id,
      v_one.key, p_unique_for, p_unique_states, p_on_conflict, p_retry_policy, v_now);
  end loop;
  return query select i.id from unnest(v_ids) with ordinality as i(id, place) order by i.place;
end
$$;
comment on function pgtick.enqueue_many(text, jsonb[], text, integer, timestamptz, integer, interval, uuid, text[], interval, text[], text, jsonb) is
  'Add a job for each element of p_args and return their ids in that order; all or none. p_unique_keys: null, or one for each. The other parameters as in pgtick.enqueue. Raises TK000.';
