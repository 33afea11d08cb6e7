-- Runners: their lease, what they hold, and how they sleep without missing a job.

-- definer (this and all of the worker protocol): the runner's role owns nothing and writes no table directly.
create or replace function pgtick.register(p_name text, p_queues text[], p_tasks text[], p_lease interval default '30 seconds', p_version text default null,
  p_workers integer default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_id bigint;
begin
  perform pgtick.refuse_name('name', p_name);
  if coalesce(cardinality(p_queues), 0) = 0 then
    perform pgtick.invalid('queues', p_queues::text, 'at least one queue', 'Name for example {default}.');
  end if;
  if p_tasks is null then
    perform pgtick.invalid('tasks', p_tasks::text, 'the names of the tasks that this runner serves');
  end if;
  perform pgtick.refuse_name('queues', q.queue) from unnest(p_queues) as q(queue);
  perform pgtick.refuse_name('tasks', t.task) from unnest(p_tasks) as t(task);
  if p_lease is null or date_part('epoch', p_lease) not between 1 and 3600 then
    perform pgtick.invalid('lease', p_lease::text, 'it goes from 1 second to 1 hour');
  end if;
  if p_workers < 1 then perform pgtick.invalid('workers', p_workers::text, 'at least 1, or null for unknown'); end if;
  insert into pgtick.runner_leases (name, queues, tasks, version, lease, lease_until, registered_at, heartbeat_at, workers)
  values (p_name, p_queues, p_tasks, p_version, p_lease, v_now + p_lease, v_now, v_now, p_workers)
  returning id into v_id;
  insert into pgtick.sleepers (queue, runner_id, until)
  select distinct q.queue, v_id, '-infinity'::timestamptz from unnest(p_queues) as q(queue);
  return v_id;
end
$$;
comment on function pgtick.register(text, text[], text[], interval, text, integer) is
  'Make a runner known and return its id. p_lease: 1 second to 1 hour; renew it with heartbeat() every third of it. p_workers: how many attempts it runs at a time, for pgtick.why. Names need not be unique. Raises TK000.';

create or replace function pgtick.refuse_runner(p_runner_id bigint)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK002',
    message = format('runner %s %s', coalesce(p_runner_id::text, 'null'), coalesce(
      (select case r.ended_as when 'dead' then 'was declared dead at ' else 'has left at ' end || r.ended_at
       from pgtick.runner_leases as r where r.id = p_runner_id), 'is not known')),
    hint = 'Drop the claims that it held and call pgtick.register again.';
end
$$;
comment on function pgtick.refuse_runner(bigint) is 'Raise TK002: the runner is unknown, has left or is dead.';

-- lateral … offset 0, here and wherever a list is joined with live_jobs: look each one up, by an index. Left to itself the planner, when it
-- plans at a moment at which the table is empty, goes through the whole table for each of the list, and does so ever after.
create or replace function pgtick.heartbeat(p_runner_id bigint, p_held bigint[] default null, p_fences bigint[] default null)
returns table (job_id bigint, fence bigint, reason text)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
begin
  if cardinality(p_held) is distinct from cardinality(p_fences) then
    perform pgtick.invalid('fences', cardinality(p_fences)::text, format('one for each of the %s jobs held', coalesce(cardinality(p_held), 0)));
  end if;
  perform from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for no key update;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  v_now := pgtick.now();
  update pgtick.runner_leases as r
  set lease_until = v_now + r.lease, heartbeat_at = v_now, suspected_at = null,
    deadline_at = case when p_held is not null then coalesce((
      select min(j.deadline)
      from unnest(p_held) as h(job_id)
      cross join lateral (select l.started_at + l.timeout as deadline from pgtick.live_jobs as l where l.id = h.job_id and l.runner_id = p_runner_id offset 0) as j),
      'infinity') end
  where r.id = p_runner_id;
  return query
  select h.job_id, h.fence,
    case when j.id is null then 'fenced' when n.cancel_requested_at is not null then 'cancelled' else 'timed_out' end
  from unnest(p_held, p_fences) as h(job_id, fence)
  left join lateral (
    select l.* from pgtick.live_jobs as l where l.id = h.job_id and l.fence = h.fence and l.runner_id = p_runner_id offset 0) as j on true
  left join pgtick.job_notes as n on n.job_id = h.job_id and n.cancel_requested_at is not null
  where j.id is null or n.job_id is not null or j.started_at + j.timeout <= v_now;
end
$$;
comment on function pgtick.heartbeat(bigint, bigint[], bigint[]) is
  'Renew the runner''s lease and return those of the claims it names that must stop, with the reason: cancelled, timed_out, or fenced (no longer its own). Raises TK002.';

-- The runner's row is locked against its own claims: one that is still on its way is waited for (shortly), or comes later and is found
-- by the next call. Therefore the rows are read in a later statement.
create or replace function pgtick.reconcile(p_runner_id bigint, p_held bigint[], p_fences bigint[])
returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '1s'
as $$
begin
  if cardinality(p_held) is distinct from cardinality(p_fences) then
    perform pgtick.invalid('fences', cardinality(p_fences)::text, format('one for each of the %s jobs held', coalesce(cardinality(p_held), 0)));
  end if;
  perform from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for update;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  return pgtick.give_back(p_runner_id, p_held, p_fences);
end
$$;
comment on function pgtick.reconcile(bigint, bigint[], bigint[]) is
  'Give back the runner''s claims that are not among those it names, attempt not counted, and return how many. For after a claim whose answer was lost, and once a lease later. Raises TK002, or 55P03 when its own claim is still running: call again.';

-- What a worker never heard of, or says it does not run, was not an attempt: the number goes back, and no trace is left.
create or replace function pgtick.give_back(p_runner_id bigint, p_held bigint[], p_fences bigint[])
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_queues text[];
  v_ids bigint[];
begin
  with back as (
    update pgtick.live_jobs as j
    set runner_id = null, fence = null, started_at = null, attempt = j.attempt - 1, run_at = v_now
    where j.id = any (array(
      select l.id from pgtick.live_jobs as l
      where l.runner_id = p_runner_id
        and not exists (select from unnest(p_held, p_fences) as h(id, fence) where h.id = l.id and h.fence = l.fence)
      order by l.id
      for update skip locked))
    returning j.id, j.queue
  )
  select array_agg(b.id), array_agg(distinct b.queue) into v_ids, v_queues from back as b;
  if v_ids is null then return 0; end if;
  perform pgtick.free_places_of(v_ids, v_now);
  perform pgtick.wake(v_queues, v_now);
  return cardinality(v_ids);
end
$$;
comment on function pgtick.give_back(bigint, bigint[], bigint[]) is 'Make a runner''s claims ready again, but for those named, without counting the attempt.';

create or replace function pgtick.leave(p_runner_id bigint)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '1s'
as $$
declare
  v_now timestamptz;
begin
  perform from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for update;
  if not found then return; end if;
  v_now := pgtick.now();
  perform pgtick.give_back(p_runner_id, '{}', '{}');
  delete from pgtick.sleepers as s where s.runner_id = p_runner_id;
  update pgtick.runner_leases as r
  set ended_at = v_now, ended_as = 'left',
    freed_at = case when not exists (select from pgtick.live_jobs as j where j.runner_id = p_runner_id) then v_now end
  where r.id = p_runner_id;
end
$$;
comment on function pgtick.leave(bigint) is 'End a runner: what it still holds goes back, attempt not counted. Calling it again, or for an unknown runner, does nothing.';

-- Sleep and wake. What must not happen: an enqueue sees no sleeper, the runner looks once more and sees no job, both commit, and the job
-- waits for the poll. So the runner looks again after all transactions that may not have seen it have ended: those with a number below the
-- one returned here. Any enqueue that began to read sleepers before the first update below has its number already, and the second one, in
-- a block of its own, draws a number after that; any that reads later sees by xmax that the row is being changed, and notifies.
-- (An update, not a lock, begins it: the mark of a lock would stay on the new row, and look like a change that never ends.)
create or replace function pgtick.sleep(p_runner_id bigint, p_poll interval)
returns xid8
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_outer bigint;
  v_inner bigint;
begin
  if p_poll is null or date_part('epoch', p_poll) not between 0 and 3600 then
    perform pgtick.invalid('poll', p_poll::text, 'it goes from 0 to 1 hour');
  end if;
  update pgtick.sleepers as s set until = v_now + p_poll where s.runner_id = p_runner_id;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  v_outer := pg_catalog.pg_current_xact_id()::text::bigint;
  begin   -- a transaction within: it gets its number at its first write, after the update above. A runner has a row for each of its queues
    with again as (
      update pgtick.sleepers as s set until = v_now + p_poll where s.runner_id = p_runner_id returning s.xmin
    )
    select a.xmin::text::bigint into v_inner from again as a limit 1;
  exception when division_by_zero then null;   -- (a block is a transaction only where it has a handler)
  end;
  -- xmin has 32 bits; the outer number, drawn just before, has the epoch
  return (v_outer + ((v_inner - v_outer % 4294967296 + 4294967296) % 4294967296))::text::xid8;
end
$$;
comment on function pgtick.sleep(bigint, interval) is
  'Say that the runner sleeps for p_poll (0 to 1 hour) unless it is notified; commit it at once. Then claim until settled(the returned number) is true, read next_run_at(), and wait for channel pgtick. Raises TK002.';

create or replace function pgtick.settled(p_number xid8)
returns boolean
language sql volatile parallel unsafe
set search_path = ''
as $$ select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= p_number $$;
comment on function pgtick.settled(xid8) is 'True when every transaction that may not have seen the sleeping runner has ended; a claim after that misses nothing, and every later job notifies.';

create or replace function pgtick.awake(p_runner_id bigint)
returns void
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  update pgtick.sleepers as s set until = '-infinity' where s.runner_id = p_runner_id and s.until > '-infinity'
$$;
comment on function pgtick.awake(bigint) is 'Say that the runner is awake and looks for jobs by itself, so that nobody need notify it.';

create or replace function pgtick.say_wakes(p_runner_id bigint, p_wakes boolean)
returns void
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  update pgtick.runner_leases as r set wakes = p_wakes where r.id = p_runner_id and r.wakes is distinct from p_wakes
$$;
comment on function pgtick.say_wakes(bigint, boolean) is 'Record whether notifications reach this runner: false shows in pgtick.health.';
