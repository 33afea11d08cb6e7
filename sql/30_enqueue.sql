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
  -- Its length counts, here and in all other places: where intervals are compared, '-1 year 361 days' is a day, and it ends before it begins.
  if p_timeout is null or date_part('epoch', p_timeout) <= 0 or date_part('epoch', p_timeout) > 7 * 86400 then
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
  p_on_conflict text default 'ignore', p_limit_key text default null, p_sequence_key text default null, p_after bigint[] default null,
  p_batch_id bigint default null, p_retry_policy jsonb default null, p_after_outcome text default 'done', p_sequence_failure text default 'stop',
  p_trace_context jsonb default null)
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
    and p_max_attempts between 1 and 100 and date_part('epoch', p_timeout) between 0.001 and 86400
    and jsonb_typeof(p_args) = 'object' and octet_length(p_args::text) <= 60000 and p_task <> 'sql') is not true
  then
    perform pgtick.refuse_job(p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout);
    if p_task = 'sql' then perform pgtick.check_function_call(p_args); end if;
  end if;
  if p_run_at is not null then perform pgtick.refuse_run_at(p_run_at); end if;
  if coalesce(p_unique_key, p_limit_key, p_sequence_key) is not null or p_unique_for is not null or p_after is not null or p_batch_id is not null
    or p_retry_policy is not null or p_trace_context is not null
  then
    return pgtick.enqueue_tied((0, p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_args, p_owner_id, p_retry_policy, p_limit_key,
      p_sequence_key, p_sequence_failure, p_after, p_after_outcome, p_batch_id, p_trace_context, p_unique_key, p_unique_for, p_unique_states, p_on_conflict)::pgtick.wish, v_now);
  end if;
  insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, owner_id, created_at)
  values (p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_args, p_owner_id, v_now)
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
comment on function pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, text, text, bigint[], bigint, jsonb, text, text, jsonb) is
  'Add a job in the caller''s transaction and return its id. p_args: an object of at most 64 KiB. p_priority: 0 (first) to 9. p_run_at: null or past = now. p_max_attempts: 1 to 1000. p_timeout: of one attempt, at most 7 days. p_owner_id: the end user who sees it in my_jobs. p_unique_key: while a job of this task with this key is in one of p_unique_states, and no longer than p_unique_for after its enqueue, no other is added: its id is returned, and p_on_conflict says what becomes of it while it waits: ignore, replace_args, move_run_at. p_limit_key: what it counts for under the task''s limits by key (set_limit). p_sequence_key: jobs with the same one run one at a time, in the order of their enqueueing; when this one fails or is cancelled those behind it wait (p_sequence_failure stop: until it is retried, or resume_sequence) or go on (skip). p_after: jobs that must end before; with p_after_outcome done (the default) it is cancelled when one of them fails or is cancelled, with any it runs all the same. p_batch_id: see create_batch. p_retry_policy: see set_retry_policy. p_trace_context: a W3C carrier, {"traceparent": …}. A task that no runner serves is accepted, and shows in pgtick.health. Raises TK000, TK004 (p_after names no job), TK005 (a job of p_after has failed, or the batch has ended) TK020 (p_after, p_sequence_key or p_batch_id outside READ COMMITTED) and TK021 (it would wait for itself, by its batch).';

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
    update pgtick.live_jobs as j
    set run_at = case when j.blocked_by is null then p_run_at else j.run_at end, wanted_at = case when j.blocked_by is not null then p_run_at end
    where j.id = p_job_id and j.runner_id is null
    returning case when j.blocked_by is null then j.queue end into v_queue;
    if v_queue is not null then perform pgtick.wake(array[v_queue], p_run_at); end if;
  end if;
end
$$;
comment on function pgtick.change_waiting(bigint, text, jsonb, timestamptz) is 'Give a job that waits, and is locked, other args or another time; of one that runs or has ended nothing is changed.';

-- definer: as enqueue. With keys the jobs are added one by one, in the order of the keys, so that two callers never wait for each other.
-- (With both unique and sequence keys they may: then the second to wait is told so by the server, 40P01.)
create or replace function pgtick.enqueue_many(p_task text, p_args jsonb[], p_queue text default 'default', p_priority integer default 5,
  p_run_at timestamptz default null, p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null,
  p_unique_keys text[] default null, p_unique_for interval default null, p_unique_states text[] default '{ready,running}',
  p_on_conflict text default 'ignore', p_limit_keys text[] default null, p_sequence_keys text[] default null, p_after bigint[] default null,
  p_batch_id bigint default null, p_retry_policy jsonb default null, p_after_outcome text default 'done', p_sequence_failure text default 'stop',
  p_trace_context jsonb default null)
returns setof bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_run_at constant timestamptz := greatest(p_run_at, v_now);
  v_wrong jsonb;
  v_waits bigint[];
  v_blocked_by text;
  v_ids bigint[];
  v_one record;
begin
  perform pgtick.refuse_job(p_task, '{}', p_queue, p_priority, p_max_attempts, p_timeout), pgtick.refuse_run_at(p_run_at);
  if p_args is null then
    perform pgtick.invalid('args', null, 'args are an array of JSON objects, one for each job');
  end if;
  select a.args into v_wrong from unnest(p_args) as a(args)
  where a.args is null or jsonb_typeof(a.args) <> 'object' or octet_length(a.args::text) > 65536 limit 1;
  if found then perform pgtick.refuse_job(p_task, v_wrong, p_queue, p_priority, p_max_attempts, p_timeout); end if;
  if p_task = 'sql' then perform pgtick.check_function_call(a.args) from unnest(p_args) as a(args); end if;
  perform pgtick.refuse_keys('unique_keys', p_unique_keys, cardinality(p_args)), pgtick.refuse_keys('limit_keys', p_limit_keys, cardinality(p_args)),
    pgtick.refuse_keys('sequence_keys', p_sequence_keys, cardinality(p_args));
  if p_unique_for is not null and p_unique_keys is null then
    perform pgtick.invalid('unique_keys', null, format('unique_for needs them: one for each of the %s jobs', cardinality(p_args)));
  end if;
  if p_unique_keys is null and p_sequence_keys is null then
    perform pgtick.refuse_wish((0, p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, null, p_owner_id, p_retry_policy, k.key,
      null, p_sequence_failure, p_after, p_after_outcome, p_batch_id, p_trace_context, null, null, p_unique_states, p_on_conflict)::pgtick.wish)
    from (select l.key from unnest(p_limit_keys) as l(key) order by length(l.key) desc limit 1) as k right join (select) as one on true;
    if p_after is not null then
      if cardinality(p_after)::bigint * cardinality(p_args) > 1000000 then
        perform pgtick.invalid('after', format('%s jobs', cardinality(p_after)), format('%s jobs that wait for %s each are more than 1000000 links', cardinality(p_args), cardinality(p_after)),
          'Let them wait for one job, which waits for the others.');
      end if;
      v_waits := pgtick.living_blockers(p_after, p_after_outcome = 'any');
    end if;
    if p_batch_id is not null then
      perform pgtick.join_batch(p_batch_id);
      if v_waits <> '{}' then perform pgtick.refuse_loop(p_batch_id, v_waits, null); end if;
    end if;
    if p_limit_keys is null and p_after is null and p_batch_id is null then   -- as nearly all are
      return query
      insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, owner_id, retry_policy, created_at, trace_context)
      select p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, a.args, p_owner_id, p_retry_policy, v_now, p_trace_context
      from unnest(p_args) as a(args)
      returning live_jobs.id;
      if found then perform pgtick.wake(array[p_queue], v_run_at); end if;
      return;
    end if;
    v_blocked_by := case when v_waits <> '{}' then 'after' end;
    v_ids := array(select nextval('pgtick.live_jobs_id_seq') from generate_series(1, cardinality(p_args)));
    insert into pgtick.live_jobs (id, task, queue, priority, run_at, wanted_at, blocked_by, max_attempts, timeout, args, owner_id, retry_policy, created_at, limit_key,
      after_jobs, after_any, batch_id, trace_context)
    overriding system value
    select v_ids[a.place], p_task, p_queue, p_priority, case when v_blocked_by is null then v_run_at else 'infinity' end, case when v_blocked_by is not null then v_run_at end,
      v_blocked_by, p_max_attempts, p_timeout, a.args, p_owner_id, p_retry_policy, v_now, p_limit_keys[a.place], p_after, case when p_after is not null then p_after_outcome = 'any' end,
      p_batch_id, p_trace_context
    from unnest(p_args) with ordinality as a(args, place);
    if not found then return; end if;
    if v_blocked_by is not null then
      perform pgtick.link_jobs(v_ids, v_waits, p_after_outcome = 'any');
    else
      perform pgtick.wake(array[p_queue], v_run_at);
    end if;
    return query select i.id from unnest(v_ids) as i(id);
    return;
  end if;
  v_ids := array_fill(null::bigint, array[cardinality(p_args)]);
  for v_one in
    select a.args, a.place, p_unique_keys[a.place] as unique_key, p_limit_keys[a.place] as limit_key, p_sequence_keys[a.place] as sequence_key
    from unnest(p_args) with ordinality as a(args, place)
    order by 5, case when p_sequence_keys is null then p_unique_keys[a.place] end, a.place
  loop
    v_ids[v_one.place] := pgtick.enqueue_tied((0, p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, v_one.args, p_owner_id, p_retry_policy,
      v_one.limit_key, v_one.sequence_key, p_sequence_failure, p_after, p_after_outcome, p_batch_id, p_trace_context, v_one.unique_key, p_unique_for,
      p_unique_states, p_on_conflict)::pgtick.wish, v_now);
  end loop;
  return query select i.id from unnest(v_ids) with ordinality as i(id, place) order by i.place;
end
$$;
comment on function pgtick.enqueue_many(text, jsonb[], text, integer, timestamptz, integer, interval, uuid, text[], interval, text[], text, text[], text[], bigint[], bigint, jsonb, text, text, jsonb) is
  'Add a job for each element of p_args and return their ids in that order; all or none. p_unique_keys, p_limit_keys, p_sequence_keys: null, or one for each; within a sequence the jobs are in the order of p_args. The other parameters as in pgtick.enqueue. Raises TK000, TK004, TK005, TK020 and TK021.';
