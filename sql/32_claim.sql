-- Taking jobs.

-- A lane is a task, queue and priority with at least one live job. Each step is one look-up in the index: to the next lane that exists,
-- and from one that was not asked for to the next that was. So the rows in a lane cost nothing, nor do tasks and queues that are empty,
-- nor a million jobs of a task that is not asked for.
create or replace function pgtick.lanes(p_tasks text[], p_queues text[])
returns table (task text, queue text, priority smallint, run_at timestamptz, id bigint)
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_queues constant text[] := array(select distinct q.queue from unnest(p_queues) as q(queue) where q.queue is not null order by q.queue);   -- looked up by halves
begin
  return query
  with recursive lane as (
    select t.task, first.queue, first.priority, first.run_at, first.id, v_queues[width_bucket(first.queue, v_queues)] = first.queue as asked
    from (select distinct a.task from unnest(p_tasks) as a(task)) as t
    cross join lateral (
      select j.queue, j.priority, j.run_at, j.id from pgtick.live_jobs as j
      where j.task = t.task and j.queue >= v_queues[1]
      order by j.queue, j.priority, j.run_at, j.id + 0 limit 1) as first
    union all
    select l.task, next.queue, next.priority, next.run_at, next.id, v_queues[width_bucket(next.queue, v_queues)] = next.queue
    from lane as l
    cross join lateral (
      select j.queue, j.priority, j.run_at, j.id from pgtick.live_jobs as j
      where j.task = l.task
        and (j.queue, j.priority) > (
          case when l.asked then l.queue else v_queues[width_bucket(l.queue, v_queues) + 1] end,
          case when l.asked then l.priority else -1::smallint end)
      order by j.queue, j.priority, j.run_at, j.id + 0 limit 1) as next
  )
  select l.task, l.queue, l.priority, l.run_at, l.id from lane as l where l.asked;
end
$$;
comment on function pgtick.lanes(text[], text[]) is 'The lanes of these tasks and queues with live jobs, found by steps over the index, each with its first live job, running or not.';

-- A job that two dead runners have held is a suspect, and a runner takes one at a time, with its row locked and the job written on it:
-- when that runner dies too, it is known which job to blame, and the hundreds beside it are not.
-- "is true", here and wherever suspects are looked for: go through the suspects, of which there are hardly ever any. By the index alone it would be
-- a look-up for each task in each queue, sixty thousand of them in each claim of a runner with ten thousand queues.
create or replace function pgtick.claim_suspect(p_runner_id bigint, p_queues text[], p_tasks text[], p_now timestamptz)
returns tid
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_job record;
  v_full bigint[] := '{}';
begin
  if exists (
    select from pgtick.live_jobs as j
    where j.id = (select r.suspect_job_id from pgtick.runner_leases as r where r.id = p_runner_id) and j.runner_id = p_runner_id)
  then
    return null;
  end if;
  for v_try in 1 .. 20 loop   -- the first one whose limits, if it has any, have room
    select j.id, j.ctid as place, j.task, j.limit_key into v_job
    from pgtick.live_jobs as j
    where j.losses >= 2 and j.runner_id is null and j.run_at <= p_now and (j.task = any (p_tasks)) is true and (j.queue = any (p_queues)) is true and j.id <> all (v_full)
    order by j.run_at, j.id
    limit 1
    for update skip locked;
    exit when not found;
    if pgtick.take_places(v_job.task, v_job.limit_key, v_job.id) then
      update pgtick.runner_leases as r set suspect_job_id = v_job.id where r.id = p_runner_id;
      return v_job.place;
    end if;
    v_full := v_full || v_job.id;
  end loop;
  return null;
end
$$;
comment on function pgtick.claim_suspect(bigint, text[], text[], timestamptz) is 'Pick and lock at most one job that runners died with, for a runner that holds none such; its row must be locked.';

-- Two runners never get the same job: rows are locked as they are picked, and locked ones are passed over.
-- array(...) on purpose: a join with the picked rows made the planner's claim three to eleven times slower, and depend on statistics.
-- So may a plan made while the table was empty; therefore no scan but by index. What is picked is locked, so its ctid stays as it is, and
-- the update goes by that. The runner's row is locked first, with a lock that makes rescue() pass it over; the clock is read after that.
-- Who comes first: lanes by their priority, those of one priority in turn. But a tenth of each claim is shared out among all lanes but the
-- first, whatever their priority (of claims too small for that, every tenth is), so that no flood starves another lane. Whose turn it is
-- is drawn from fence and runner: by the fence alone, two runners that claim one after the other would each always have the same turn.
-- The lanes, each from its first due job on, are read before anything is locked: a runner that finds none writes nothing.
-- A runner that has seen a lane up to a job may say so, and the scan starts there: what others have finished since, but some open
-- transaction still sees, is not walked over again at each claim.
-- Jobs for which a rate has kept a time come first when it has come: behind a million that have never been asked for they would start late, and
-- what starts late has lost its time to all that follow. Half of a claim at most, of the jobs that became due last, and for five seconds after
-- that time, so that where workers are too few it is first come, first served again.
create or replace function pgtick.claim_lanes(p_runner_id bigint, p_queues text[], p_tasks text[], p_n integer, p_lane_tasks text[] default null,
  p_lane_queues text[] default null, p_lane_priorities integer[] default null, p_from_run_at timestamptz[] default null, p_from_id bigint[] default null)
returns table (id bigint, fence bigint, task text, queue text, priority smallint, attempt integer, max_attempts integer, args jsonb,
  run_at timestamptz, created_at timestamptz, timeout interval, schedule text, slot timestamptz, owner_id uuid, checkpoint jsonb,
  started_at timestamptz, limit_key text, reservation text, trace_context jsonb)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_suspects boolean;
  v_lease_until timestamptz;
  v_now timestamptz;
  v_fence bigint;
  v_suspect tid;
  v_queues text[] := p_queues;
  v_free_tasks text[] := p_tasks;
  v_rated text[] := '{}';
  v_timely tid[];
  v_limited text[] := '{}';
  v_limited_due boolean := false;
  v_limited_rows tid[];
  v_tasks text[];
  v_lane_queues text[];
  v_priorities integer[];
  v_run_at timestamptz[];
  v_id bigint[];
  v_lanes integer;
  v_turn bigint;
  v_share integer;
  v_shared tid[];
  v_picked tid[];
begin
  if p_n is null or p_n not between 1 and 10000 then perform pgtick.invalid('n', p_n::text, 'it goes from 1 to 10000'); end if;
  if cardinality(p_lane_queues) is distinct from cardinality(p_lane_tasks) or cardinality(p_lane_priorities) is distinct from cardinality(p_lane_tasks)
    or cardinality(p_from_run_at) is distinct from cardinality(p_lane_tasks) or cardinality(p_from_id) is distinct from cardinality(p_lane_tasks)
  then
    perform pgtick.invalid('lanes', cardinality(p_lane_tasks)::text, 'as many queues, priorities, run_at and id as there are tasks', 'Or all five null.');
  end if;
  if exists (select from pgtick.paused_queues) then
    v_queues := array(select q.queue from unnest(p_queues) as q(queue) where not exists (select from pgtick.paused_queues as p where p.queue = q.queue));
  end if;
  v_now := pgtick.now();
  if exists (select from pgtick.limit_defs) then
    v_limited := array(select t.task from unnest(p_tasks) as t(task) where exists (select from pgtick.limit_defs as d where d.task = t.task and d.max_running is not null));
    v_rated := array(select t.task from unnest(p_tasks) as t(task) where exists (select from pgtick.limit_defs as d where d.task = t.task and d.rate is not null));
    v_free_tasks := array(select t.task from unnest(p_tasks) as t(task) where t.task <> all (v_limited));
    v_limited_due := v_limited <> '{}' and pgtick.limited_due(v_limited, v_queues, v_now);
  end if;
  v_suspects := exists (
    select from pgtick.live_jobs as j
    where j.losses >= 2 and j.runner_id is null and j.run_at <= v_now and (j.task = any (p_tasks)) is true and (j.queue = any (v_queues)) is true);
  if p_lane_tasks is null then
    select array_agg(l.task), array_agg(l.queue), array_agg(l.priority), array_agg(first.run_at), array_agg(first.id)
    into v_tasks, v_lane_queues, v_priorities, v_run_at, v_id
    from pgtick.lanes(v_free_tasks, v_queues) as l
    cross join lateral (
      select due.run_at, due.id
      from pgtick.live_jobs as due
      where due.task = l.task and due.queue = l.queue and due.priority = l.priority and (due.run_at, due.id + 0) >= (l.run_at, l.id)
        and due.run_at <= v_now and due.runner_id is null and due.losses < 2
      order by due.run_at, due.id + 0
      limit 1) as first;
  else
    select array_agg(l.task), array_agg(l.queue), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id)
    into v_tasks, v_lane_queues, v_priorities, v_run_at, v_id
    from unnest(p_lane_tasks, p_lane_queues, p_lane_priorities, p_from_run_at, p_from_id) as l(task, queue, priority, run_at, id)
    where l.task <> all (v_limited) and not exists (select from pgtick.paused_queues as p where p.queue = l.queue);   -- (to look each up among ten thousand queues would take longer than all else)
  end if;
  v_lanes := coalesce(cardinality(v_tasks), 0);

  if v_suspects then
    select r.lease_until into v_lease_until from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for no key update;
  elsif v_lanes > 0 or v_limited_due then
    select r.lease_until into v_lease_until from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for key share;
  else
    select r.lease_until into v_lease_until from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null;
  end if;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  v_now := pgtick.now();
  if v_lease_until <= v_now then
    raise exception using errcode = 'TK003', message = format('the lease of runner %s ran out at %s', p_runner_id, v_lease_until),
      hint = 'Call pgtick.heartbeat, then claim again.';
  end if;
  if v_lanes = 0 and not v_suspects and not v_limited_due then return; end if;   -- nothing was written or locked, so there is nothing to flush at the commit
  v_fence := nextval('pgtick.fence_seq');
  if v_suspects then v_suspect := pgtick.claim_suspect(p_runner_id, v_queues, p_tasks, v_now); end if;
  v_turn := pg_catalog.hashint8extended(v_fence, p_runner_id) & 9223372036854775807;
  if v_lanes > 1 then
    select array_agg(l.task), array_agg(l.queue), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id)
    into v_tasks, v_lane_queues, v_priorities, v_run_at, v_id
    from (
      select x.* from unnest(v_tasks, v_lane_queues, v_priorities, v_run_at, v_id) as x(task, queue, priority, run_at, id)
      order by x.priority,
        (row_number() over (partition by x.priority order by x.task, x.queue) + v_turn) % count(*) over (partition by x.priority)) as l;
    v_share := case when p_n >= 10 then p_n / 10 when v_turn / 1024 % 10 = 0 then p_n else 0 end;
  end if;
  if v_share > 0 then
    v_shared := array(
      select picked.ctid
      from (
        select x.* from unnest(v_tasks, v_lane_queues, v_priorities, v_run_at, v_id) with ordinality as x(task, queue, priority, run_at, id, place)
        where x.place > 1
        order by (x.place + v_turn / 16384) % (v_lanes - 1)) as l
      cross join lateral (
        select due.ctid
        from pgtick.live_jobs as due
        where due.task = l.task and due.queue = l.queue and due.priority = l.priority and (due.run_at, due.id + 0) >= (l.run_at, l.id)
          and due.run_at <= v_now and due.runner_id is null and due.losses < 2
        order by due.run_at, due.id + 0
        limit greatest(v_share / (v_lanes - 1), 1)
        for update skip locked) as picked
      limit v_share);
  end if;
  if v_rated && v_tasks then
    v_timely := array(
      select kept.ctid
      from unnest(v_tasks, v_lane_queues, v_priorities) as l(task, queue, priority)
      cross join lateral (
        select due.ctid, due.run_at, due.id, due.reservation
        from pgtick.live_jobs as due
        where due.task = l.task and due.queue = l.queue and due.priority = l.priority and due.run_at > v_now - interval '5 seconds' and due.run_at <= v_now
          and due.runner_id is null and due.losses < 2
        order by due.run_at desc, due.id + 0 desc
        limit p_n) as kept
      where l.task = any (v_rated) and kept.reservation is not null
      order by kept.run_at, kept.id
      limit p_n / 2);
    v_timely := array(
      select j.ctid from pgtick.live_jobs as j
      where j.ctid = any (v_timely) and j.reservation is not null and j.run_at <= v_now and j.runner_id is null
      for update skip locked);
  end if;
  v_picked := array(
    select picked.ctid
    from unnest(v_tasks, v_lane_queues, v_priorities, v_run_at, v_id) as l(task, queue, priority, run_at, id)
    cross join lateral (
      select due.ctid
      from pgtick.live_jobs as due
      where due.task = l.task and due.queue = l.queue and due.priority = l.priority and (due.run_at, due.id + 0) >= (l.run_at, l.id)
        and due.run_at <= v_now and due.runner_id is null and due.losses < 2
      order by due.run_at, due.id + 0
      limit p_n
      for update skip locked) as picked
    limit p_n);
  if v_limited_due then
    v_limited_rows := pgtick.pick_limited(v_limited, v_queues, p_n - case when v_suspect is null then 0 else 1 end, v_now, cardinality(v_picked),
      (select j.priority from pgtick.live_jobs as j where j.ctid = v_picked[1]), v_turn);
  end if;
  if v_shared is not null or v_suspect is not null or v_limited_rows is not null or v_timely is not null then   -- these first, then the others as far as there is room
    v_shared := array_remove(v_suspect || v_timely || v_limited_rows || v_shared, null);
    v_picked := (v_shared || array(
      select p.ctid from unnest(v_picked) with ordinality as p(ctid, place)
      where not exists (select from unnest(v_shared) as s(ctid) where s.ctid = p.ctid) order by p.place))[1:p_n];
  end if;
  return query
  with claimed as (
    update pgtick.live_jobs as j
    set runner_id = p_runner_id, fence = v_fence, attempt = j.attempt + 1, started_at = v_now
    where j.ctid = any (v_picked)
    returning j.id, j.fence, j.task, j.queue, j.priority, j.attempt, j.max_attempts, j.args, j.run_at, j.created_at, j.timeout, j.schedule_id, j.slot,
      j.owner_id, j.started_at, j.limit_key, j.reservation, j.trace_context
  )
  select c.id, c.fence, c.task, c.queue, c.priority, c.attempt, c.max_attempts, c.args, c.run_at, c.created_at, c.timeout,
    case when c.schedule_id is not null then (select s.name from pgtick.schedule_defs as s where s.id = c.schedule_id) end,
    c.slot, c.owner_id,
    case when c.attempt > 1 then (select n.checkpoint from pgtick.job_notes as n where n.job_id = c.id) end, c.started_at,
    c.limit_key, c.reservation, c.trace_context
  from claimed as c
  order by c.priority, c.run_at, c.id;
end
$$;
comment on function pgtick.claim_lanes(bigint, text[], text[], integer, text[], text[], integer[], timestamptz[], bigint[]) is
  'As pgtick.claim, but only in the lanes that are named, each from the given run_at and id on, whatever p_queues says; null lanes = all of p_queues, from the beginning. A job before that (of a transaction that was slow to commit) is found by a claim without lanes, so make one at least every poll interval. Raises TK002 and TK003.';

create or replace function pgtick.claim(p_runner_id bigint, p_queues text[], p_tasks text[], p_n integer)
returns table (id bigint, fence bigint, task text, queue text, priority smallint, attempt integer, max_attempts integer, args jsonb,
  run_at timestamptz, created_at timestamptz, timeout interval, schedule text, slot timestamptz, owner_id uuid, checkpoint jsonb,
  started_at timestamptz, limit_key text, reservation text, trace_context jsonb)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  return query select * from pgtick.claim_lanes(p_runner_id, p_queues, p_tasks, p_n);
end
$$;
comment on function pgtick.claim(bigint, text[], text[], integer) is
  'Give up to p_n (1 to 10,000) ready jobs of these queues and tasks to the runner, under one new fence, lower priority numbers first; but a tenth is shared out among all queues, tasks and priorities that have any. Jobs of paused queues are left. One call at a time for a runner. Raises TK002 (unknown, left or dead runner) and TK003 (its lease has run out: heartbeat first).';

-- For a runner of thousands of queues that all have jobs. A claim from the beginning looks at every lane, to be fair to all, and takes as many jobs
-- as there is room for, some twenty: so the runner asks for the lanes once, and claims in a hundred of them at a time (see claim_lanes).
-- Half of them by priority, in between the others whatever their priority, so that none starves; those of one priority in a new order each time,
-- so that two runners do not go for the same ones.
create or replace function pgtick.due_lanes(p_queues text[], p_tasks text[], p_n integer)
returns table (task text, queue text, priority smallint, run_at timestamptz, id bigint)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
begin
  if (p_n between 1 and 10000) is not true then perform pgtick.invalid('n', p_n::text, 'it goes from 1 to 10000'); end if;
  return query
  select x.task, x.queue, x.priority, x.run_at, x.id
  from (
    select due.*, row_number() over (order by due.priority, due.turn) as by_priority, row_number() over (order by due.turn) as by_turn
    from (
      select l.task, l.queue, l.priority, first.run_at, first.id, random() as turn
      from pgtick.lanes(
        array(select t.task from unnest(p_tasks) as t(task) where not exists (select from pgtick.limit_defs as d where d.task = t.task and d.max_running is not null)),
        array(select q.queue from unnest(p_queues) as q(queue) where not exists (select from pgtick.paused_queues as p where p.queue = q.queue))) as l
      cross join lateral (
        select j.run_at, j.id
        from pgtick.live_jobs as j
        where j.task = l.task and j.queue = l.queue and j.priority = l.priority and (j.run_at, j.id + 0) >= (l.run_at, l.id)
          and j.run_at <= v_now and j.runner_id is null and j.losses < 2
        order by j.run_at, j.id + 0
        limit 1) as first) as due) as x
  order by least(2 * x.by_priority, 2 * x.by_turn + 1)
  limit p_n;
end
$$;
comment on function pgtick.due_lanes(text[], text[], integer) is
  'Up to p_n (1 to 10,000) lanes of these queues and tasks in which a job is due, each with its first such job, for claim_lanes; those in which a claim should look first come first. Without paused queues, and without tasks that may run only so many at a time. Raises TK000.';

-- A lane's first waiting row is its earliest; blocked jobs have infinity. A suspect counts for who holds none. But whoever cannot have it all the same,
-- since a limit by key is full, would look again and again: one that has been due for more than a second is left to the poll.
create or replace function pgtick.next_run_at(p_runner_id bigint)
returns timestamptz
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_tasks text[];
  v_queues text[];
  v_suspect_job_id bigint;
begin
  select case when exists (select from pgtick.limit_defs as d where d.max_running is not null)
      then array(select t.task from unnest(r.tasks) as t(task) where not pgtick.is_full(t.task)) else r.tasks end,
    array(select q.queue from unnest(r.queues) as q(queue) where not exists (select from pgtick.paused_queues as p where p.queue = q.queue)),
    r.suspect_job_id
  into v_tasks, v_queues, v_suspect_job_id
  from pgtick.runner_leases as r where r.id = p_runner_id;
  return least(
    (select min(first.run_at)
    from pgtick.lanes(v_tasks, v_queues) as l
    cross join lateral (
      select j.run_at from pgtick.live_jobs as j
      where j.task = l.task and j.queue = l.queue and j.priority = l.priority and (j.run_at, j.id + 0) >= (l.run_at, l.id)
        and j.runner_id is null and j.losses < 2 and j.run_at < 'infinity'
      order by j.run_at, j.id + 0
      limit 1) as first),
    (select min(s.run_at)
    from pgtick.live_jobs as s
    where s.losses >= 2 and (s.task = any (v_tasks)) is true and (s.queue = any (v_queues)) is true and s.runner_id is null
      and s.run_at > v_now - interval '1 second' and s.run_at < 'infinity'
      and not exists (select from pgtick.live_jobs as h where h.id = v_suspect_job_id and h.runner_id = p_runner_id)));
end
$$;
comment on function pgtick.next_run_at(bigint) is 'When the next waiting job of the runner''s queues and tasks may run (in the past: now), or null. Jobs of paused queues do not count. Read it after settled().';
