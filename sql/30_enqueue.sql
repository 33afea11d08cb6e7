-- From a wish to a row: checks, enqueue, and the wake-up of sleeping runners.

-- NOTIFY only where a runner sleeps past the moment at which the job may run: NOTIFY takes a lock over the whole server at commit.
-- Callers insert first and call this last, in a statement of its own, so that one of two things is sure: this statement sees that the
-- runner sleeps (or, by xmax, that it is just about to), or the runner's settling waits for this transaction (sleep(), settled()).
-- Outside READ COMMITTED the snapshot may be older than the sleep, so there it always notifies.
-- definer: enqueuers may not read the runners' tables.
create or replace function pgtick.wake(p_queues text[], p_run_at timestamptz)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
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

-- Says what is wrong with a job's settings; called only when something is. One place for the limits, used by enqueue and schedule.
create or replace function pgtick.refuse_job(p_task text, p_args jsonb, p_queue text, p_priority integer, p_max_attempts integer, p_timeout interval)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_name constant text := 'a name has 1 to 200 characters and no control characters';
begin
  if p_task is null or length(p_task) not between 1 and 200 or p_task ~ '[[:cntrl:]]' then perform pgtick.invalid('task', p_task, v_name); end if;
  if p_queue is null or length(p_queue) not between 1 and 200 or p_queue ~ '[[:cntrl:]]' then perform pgtick.invalid('queue', p_queue, v_name); end if;
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

-- definer: service_role and the runner may enqueue, but write no table.
create or replace function pgtick.enqueue(p_task text, p_args jsonb default '{}', p_queue text default 'default', p_priority integer default 5,
  p_run_at timestamptz default null, p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_run_at timestamptz := greatest(p_run_at, v_now);   -- never back-dated: a claim may then trust where it stopped
  v_id bigint;
begin
  perform pgtick.refuse_job(p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout);
  if not isfinite(p_run_at) then
    perform pgtick.invalid('run_at', p_run_at::text, 'it is a finite time', 'Leave it out for now.');
  end if;
  insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, owner_id, created_at)
  values (p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_args, p_owner_id, v_now)
  returning id into v_id;
  perform pgtick.wake(array[p_queue], v_run_at);
  return v_id;
end
$$;
comment on function pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid) is
  'Add a job in the caller''s transaction and return its id. p_args: an object of at most 64 KiB. p_priority: 0 (first) to 9. p_run_at: null or past = now. p_max_attempts: 1 to 1000. p_timeout: of one attempt, at most 7 days. p_owner_id: the end user who sees it in my_jobs. A task that no runner serves is accepted, and shows in pgtick.health. Raises TK000.';

-- definer: as enqueue.
create or replace function pgtick.enqueue_many(p_task text, p_args jsonb[], p_queue text default 'default', p_priority integer default 5,
  p_run_at timestamptz default null, p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null)
returns setof bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_run_at timestamptz := greatest(p_run_at, v_now);
  v_wrong integer;
begin
  perform pgtick.refuse_job(p_task, '{}', p_queue, p_priority, p_max_attempts, p_timeout);
  if p_args is null then
    perform pgtick.invalid('args', null, 'args are an array of JSON objects, one for each job');
  end if;
  if not isfinite(p_run_at) then
    perform pgtick.invalid('run_at', p_run_at::text, 'it is a finite time', 'Leave it out for now.');
  end if;
  select min(a.place) into v_wrong
  from unnest(p_args) with ordinality as a(args, place)
  where a.args is null or jsonb_typeof(a.args) <> 'object' or octet_length(a.args::text) > 65536;
  if v_wrong is not null then
    perform pgtick.refuse_job(p_task, p_args[array_lower(p_args, 1) + v_wrong - 1], p_queue, p_priority, p_max_attempts, p_timeout);
  end if;
  return query
  insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, owner_id, created_at)
  select p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, a.args, p_owner_id, v_now
  from unnest(p_args) with ordinality as a(args, place)
  order by a.place
  returning live_jobs.id;
  if found then perform pgtick.wake(array[p_queue], v_run_at); end if;
end
$$;
comment on function pgtick.enqueue_many(text, jsonb[], text, integer, timestamptz, integer, interval, uuid) is
  'Add a job for each element of p_args and return their ids in that order; all or none. The other parameters as in pgtick.enqueue. Raises TK000.';
