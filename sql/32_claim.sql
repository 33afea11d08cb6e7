-- Taking jobs.

-- A lane is a task, queue and priority with at least one live job. Each step is one index look-up, so the rows in a lane cost nothing,
-- nor do tasks and queues that are empty, nor a million jobs of a task that is not asked for.
create or replace function pgtick.lanes(p_tasks text[], p_queues text[])
returns table (task text, queue text, priority smallint, place bigint)
language sql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
  with recursive lane as (
    select t.task, q.queue, (select min(j.priority) from pgtick.live_jobs as j where j.task = t.task and j.queue = q.queue) as priority,
      row_number() over () as place
    from unnest(p_tasks) as t(task), unnest(p_queues) as q(queue)
    union all
    select l.task, l.queue, (select min(j.priority) from pgtick.live_jobs as j where j.task = l.task and j.queue = l.queue and j.priority > l.priority),
      l.place
    from lane as l where l.priority is not null
  )
  select l.task, l.queue, l.priority, l.place from lane as l where l.priority is not null
$$;
comment on function pgtick.lanes(text[], text[]) is 'The priorities at which there are live jobs, by task and queue, found by steps over the index.';

-- A job that two dead runners have held is a suspect, and a runner takes one at a time, with its row locked and the job written on it:
-- when that runner dies too, it is known which job to blame, and the hundreds beside it are not.
create or replace function pgtick.claim_suspect(p_runner_id bigint, p_queues text[], p_tasks text[], p_now timestamptz)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_id bigint;
begin
  if exists (
    select from pgtick.runner_leases as r
    join pgtick.live_jobs as j on j.id = r.suspect_job_id and j.runner_id = r.id
    where r.id = p_runner_id)
  then
    return null;
  end if;
  select j.id into v_id
  from pgtick.live_jobs as j
  where j.losses >= 2 and j.runner_id is null and j.run_at <= p_now and j.task = any (p_tasks) and j.queue = any (p_queues)
  order by j.run_at, j.id
  limit 1
  for update skip locked;
  if found then
    update pgtick.runner_leases as r set suspect_job_id = v_id where r.id = p_runner_id;
  end if;
  return v_id;
end
$$;
comment on function pgtick.claim_suspect(bigint, text[], text[], timestamptz) is 'Pick at most one job that runners died with, for a runner that holds none such; its row must be locked.';

-- Two runners never get the same job: rows are locked as they are picked, and locked ones are passed over.
-- array(...) on purpose: a join with the picked rows made the planner's claim three to eleven times slower, and depend on statistics.
-- So may a plan made while the table was empty; therefore no scan but by index. The runner's row is locked first, with a lock that makes
-- rescue() pass it over; the clock is read after that. Lanes of one priority take turns by the fence, so that none starves another.
create or replace function pgtick.claim(p_runner_id bigint, p_queues text[], p_tasks text[], p_n integer)
returns table (id bigint, fence bigint, task text, queue text, priority smallint, attempt integer, max_attempts integer, args jsonb,
  run_at timestamptz, created_at timestamptz, timeout interval, schedule text, slot timestamptz, owner_id uuid, checkpoint jsonb)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_suspects boolean;
  v_lease_until timestamptz;
  v_now timestamptz;
  v_fence bigint;
  v_suspect bigint;
begin
  if p_n is null or p_n not between 1 and 10000 then perform pgtick.invalid('n', p_n::text, 'it goes from 1 to 10000'); end if;
  v_now := pgtick.now();
  v_suspects := exists (
    select from pgtick.live_jobs as j
    where j.losses >= 2 and j.runner_id is null and j.run_at <= v_now and j.task = any (p_tasks) and j.queue = any (p_queues));
  if v_suspects then
    select r.lease_until into v_lease_until from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for no key update;
  else
    select r.lease_until into v_lease_until from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for key share;
  end if;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  v_now := pgtick.now();
  if v_lease_until <= v_now then
    raise exception using errcode = 'TK003', message = format('the lease of runner %s ran out at %s', p_runner_id, v_lease_until),
      hint = 'Call pgtick.heartbeat, then claim again.';
  end if;
  v_fence := nextval('pgtick.fence_seq');
  if v_suspects then v_suspect := pgtick.claim_suspect(p_runner_id, p_queues, p_tasks, v_now); end if;
  return query
  with claimed as (
    update pgtick.live_jobs as j
    set runner_id = p_runner_id, fence = v_fence, attempt = j.attempt + 1, started_at = v_now
    where j.id = any (v_suspect || array(
      select picked.id
      from (
        select lane.* from pgtick.lanes(p_tasks, p_queues) as lane
        order by lane.priority, (lane.place + v_fence) % greatest(cardinality(p_tasks) * cardinality(p_queues), 1)) as l
      cross join lateral (
        select due.id
        from pgtick.live_jobs as due
        where due.task = l.task and due.queue = l.queue and due.priority = l.priority and due.run_at <= v_now
          and due.runner_id is null and due.losses < 2
        order by due.run_at, due.id
        limit p_n
        for update skip locked) as picked
      limit p_n - case when v_suspect is null then 0 else 1 end))
    returning j.*
  )
  select c.id, c.fence, c.task, c.queue, c.priority, c.attempt, c.max_attempts, c.args, c.run_at, c.created_at, c.timeout,
    case when c.schedule_id is not null then (select s.name from pgtick.schedule_defs as s where s.id = c.schedule_id) end,
    c.slot, c.owner_id,
    case when c.attempt > 1 then (select n.checkpoint from pgtick.job_notes as n where n.job_id = c.id) end
  from claimed as c
  order by c.priority, c.run_at, c.id;
end
$$;
comment on function pgtick.claim(bigint, text[], text[], integer) is
  'Give up to p_n (1 to 10,000) ready jobs of these queues and tasks to the runner, under one new fence, lower priority numbers first. One call at a time for a runner. Raises TK002 (unknown, left or dead runner) and TK003 (its lease has run out: heartbeat first).';

-- A lane's first waiting row is its earliest; blocked jobs have infinity. Suspects are left to the poll: this runner may hold one already.
create or replace function pgtick.next_run_at(p_runner_id bigint)
returns timestamptz
language sql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
  select min(first.run_at)
  from pgtick.runner_leases as r
  cross join lateral pgtick.lanes(r.tasks, r.queues) as l
  cross join lateral (
    select j.run_at from pgtick.live_jobs as j
    where j.task = l.task and j.queue = l.queue and j.priority = l.priority and j.runner_id is null and j.losses < 2 and j.run_at < 'infinity'
    order by j.run_at, j.id
    limit 1) as first
  where r.id = p_runner_id
$$;
comment on function pgtick.next_run_at(bigint) is 'When the next waiting job of the runner''s queues and tasks may run (in the past: now), or null. Read it after settled().';
