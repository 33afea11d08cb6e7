-- Dead runners. By the lease alone, never by a job's age; and only when two looks, at least a third of the lease apart, found it run out
-- with no heartbeat between: a clock that jumps kills nobody.

create or replace function pgtick.find_dead(p_now timestamptz)
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$
  update pgtick.runner_leases as r
  set suspected_at = coalesce(r.suspected_at, p_now),
    ended_at = case when r.suspected_at <= p_now - r.lease / 3 then p_now end,
    ended_as = case when r.suspected_at <= p_now - r.lease / 3 then 'dead' end
  where r.id = any (array(
    select l.id from pgtick.runner_leases as l
    where l.freed_at is null and l.ended_at is null and l.lease_until <= p_now and (l.suspected_at is null or l.suspected_at <= p_now - l.lease / 3)
    order by l.id
    for update skip locked))
$$;
comment on function pgtick.find_dead(timestamptz) is 'Note whose lease has run out, and end those for whom this is the second time.';

-- definer: pg_cron's job and the runner's role call it, and write no table.
create or replace function pgtick.rescue()
returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set jit = off
as $$
declare
  v_now timestamptz := pgtick.now();
  v_ended bigint[];
  v_count integer := 0;
begin
  perform pgtick.find_dead(v_now);
  -- New statements from here on: they see those just ended, and claims that committed before the runner's row was locked. What another
  -- session holds, another rescue() included, is left to the next call.
  v_ended := array(select r.id from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is not null order by r.id for update skip locked);
  if cardinality(v_ended) > 0 then
    v_count := pgtick.free_claims(v_ended, v_now);
    delete from pgtick.sleepers as s
    using (
      select l.queue, l.runner_id from pgtick.sleepers as l where l.runner_id = any (v_ended) order by l.queue, l.runner_id for update skip locked) as free
    where s.queue = free.queue and s.runner_id = free.runner_id;
    update pgtick.runner_leases as r set freed_at = v_now
    where r.id = any (v_ended) and not exists (select from pgtick.live_jobs as j where j.runner_id = r.id)
      and not exists (select from pgtick.sleepers as s where s.runner_id = r.id);
  end if;
  v_count := v_count + pgtick.end_overdue(v_now);
  perform pgtick.sweep_notes();
  perform pgtick.sweep_overlaps(v_now);
  perform pgtick.sweep_ties(v_now);
  return v_count;
end
$$;
comment on function pgtick.rescue() is
  'Give back the claims of runners that are dead: the lease found run out twice, at least a third of it apart, with no heartbeat between. Their attempts show as lost and do not count; a job under which three runners died, each holding it as its one suspect, fails. Also take from a living runner what it has not ended a lease after its timeout; that attempt counts. Also free jobs whose blocker has ended. Returns how many claims. Never waits for a lock; anybody may call it, at any time.';

create or replace function pgtick.free_claims(p_runner_ids bigint[], p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_ids bigint[];
  v_fences bigint[];
  v_states text[];
  v_queues text[];
begin
  select array_agg(x.id), array_agg(x.fence),
    array_agg(case when x.cancelled then 'cancelled' when x.blamed and x.deaths >= 2 then 'failed' end)
  into v_ids, v_fences, v_states
  from (
    select j.id, j.fence, j.deaths,
      r.suspect_job_id is not distinct from j.id and r.ended_as = 'dead' as blamed,
      exists (select from pgtick.job_notes as n where n.job_id = j.id and n.cancel_requested_at is not null) as cancelled
    from pgtick.live_jobs as j
    join pgtick.runner_leases as r on r.id = j.runner_id
    where j.runner_id = any (p_runner_ids)
    order by j.id
    for update of j skip locked) as x;
  if v_ids is null then return 0; end if;

  update pgtick.live_jobs as j
  set deaths = j.deaths + 1
  from pgtick.runner_leases as r
  where j.id = any (v_ids) and r.id = j.runner_id and r.suspect_job_id = j.id and r.ended_as = 'dead' and j.deaths < j.losses;
  if array_position(v_states, 'failed') is not null or array_position(v_states, 'cancelled') is not null then
    perform pgtick.archive(v_ids, v_fences, v_states,
      array(select case when s.state = 'failed' then
          '{"message": "three runners died while this job was the only suspect among those they held"}'::jsonb end
        from unnest(v_states) with ordinality as s(state, place) order by s.place),
      p_now);
  end if;
  with freed as (
    update pgtick.live_jobs as j
    set runner_id = null, fence = null, started_at = null, run_at = p_now,
      -- a runner that left says by that that it runs nothing: no attempt
      attempt = j.attempt - case r.ended_as when 'left' then 1 else 0 end,
      uncounted = j.uncounted + case r.ended_as when 'left' then 0 else 1 end,
      losses = least(j.losses + case r.ended_as when 'left' then 0 else 1 end, 32767),
      earlier_attempts = case r.ended_as when 'left' then j.earlier_attempts
        else pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, p_now, j.runner_id, 'lost', '{"message": "the runner died"}') end
    from pgtick.runner_leases as r
    where j.id = any (v_ids) and r.id = j.runner_id
    returning j.queue
  )
  select array_agg(distinct f.queue) into v_queues from freed as f;
  perform pgtick.free_places_of(v_ids, p_now);
  if v_queues is not null then perform pgtick.wake(v_queues, p_now); end if;
  return cardinality(v_ids);
end
$$;
comment on function pgtick.free_claims(bigint[], timestamptz) is 'Make the claims of ended runners ready again, but fail a proven poison job and end what somebody had cancelled. Returns how many.';

-- A runner stops an attempt whose time is up; this is for one that does not, though it lives. There is no index by which to find its claims
-- (a claim would no longer be a HOT update), so live_jobs is read only where a heartbeat has told of such a deadline, or, for workers that
-- do not tell what they hold, once a minute. A claim that a worker has forgotten, and so never names, is maintain()'s to find.
create or replace function pgtick.end_overdue(p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_silent constant boolean := exists (
    select from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null and r.deadline_at is null and r.heartbeat_at > r.registered_at)
    and pgtick.upkeep_due('timeouts', '1 minute')
    and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgtick.timeouts'));   -- so that nobody waits for that row below
begin
  if v_silent then
    insert into pgtick.upkeep (what, done_at) values ('timeouts', p_now)
    on conflict (what) do update set done_at = excluded.done_at;
  end if;
  return pgtick.take_overdue(array(
    select r.id from pgtick.runner_leases as r
    where r.freed_at is null and r.ended_at is null
      and (r.deadline_at + r.lease <= p_now or (v_silent and r.deadline_at is null))), p_now);
end
$$;
comment on function pgtick.end_overdue(timestamptz) is
  'End the attempts that living runners have let run for more than a lease beyond their timeout, as far as they have told of them, or tell of nothing. Returns how many.';

-- It reads all of live_jobs, unless no runner is given. The lease on top of the timeout is the time that the runner has to notice for itself.
create or replace function pgtick.take_overdue(p_runner_ids bigint[], p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_ids bigint[];
  v_fences bigint[];
  v_states text[];
  v_errors jsonb[];
  v_queues text[];
  v_run_at timestamptz;
begin
  if cardinality(p_runner_ids) = 0 then return 0; end if;
  select array_agg(x.id), array_agg(x.fence),
    array_agg(case when x.cancelled then 'cancelled' when x.attempt - x.uncounted >= x.max_attempts then 'failed' end),
    array_agg(jsonb_build_object('message', format('the attempt took longer than its timeout of %s, and its runner did not end it', x.timeout)))
  into v_ids, v_fences, v_states, v_errors
  from (
    select j.*, exists (select from pgtick.job_notes as n where n.job_id = j.id and n.cancel_requested_at is not null) as cancelled
    from pgtick.live_jobs as j
    join pgtick.runner_leases as r on r.id = j.runner_id
    where j.runner_id = any (p_runner_ids) and j.started_at + j.timeout + r.lease <= p_now
    order by j.id
    for update of j skip locked) as x;
  if v_ids is null then return 0; end if;
  perform pgtick.archive(v_ids, v_fences, v_states, v_errors, p_now);
  with freed as (
    update pgtick.live_jobs as j
    set runner_id = null, fence = null, started_at = null,
      run_at = p_now + pgtick.backoff(j.attempt - j.uncounted, coalesce(j.retry_policy, (select r.policy from pgtick.retry_policies as r where r.task = j.task))),
      earlier_attempts = pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, p_now, j.runner_id, 'error', o.error)
    from unnest(v_ids, v_fences, v_errors) as o(id, fence, error)
    where j.id = o.id and j.fence = o.fence
    returning j.queue, j.run_at
  )
  select array_agg(distinct f.queue), min(f.run_at) into v_queues, v_run_at from freed as f;
  perform pgtick.free_places_of(v_ids, p_now);
  if v_queues is not null then perform pgtick.wake(v_queues, v_run_at); end if;
  return cardinality(v_ids);
end
$$;
comment on function pgtick.take_overdue(bigint[], timestamptz) is
  'End those attempts of these runners that are a lease beyond their timeout: tried again by the retry policy, or failed when that was the last one. Returns how many.';

-- A cancel request or a progress report may come in just as its job ends.
create or replace function pgtick.sweep_notes()
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$
  delete from pgtick.job_notes as n
  where n.job_id = any (array(
    select x.job_id from pgtick.job_notes as x
    where not exists (select from pgtick.live_jobs as j where j.id = x.job_id)
    order by x.job_id
    limit 1000
    for update skip locked))
$$;
comment on function pgtick.sweep_notes() is 'Delete the notes of jobs that are no longer live.';

-- The tick that made a job wait, and what ended the job before it, may have missed each other: the one passed over a row that the other
-- had locked. And a transaction that ends a job under an old snapshot sees no job that came since.
create or replace function pgtick.sweep_overlaps(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  if not exists (select from pgtick.live_jobs as j where j.blocked_by = 'overlap') then return; end if;
  perform pgtick.unblock_overlap(array(
    with recursive step as (
      select (select min(j.schedule_id) from pgtick.live_jobs as j where j.blocked_by = 'overlap') as id
      union all
      select (select min(j.schedule_id) from pgtick.live_jobs as j where j.blocked_by = 'overlap' and j.schedule_id > s.id) from step as s where s.id is not null
    )
    select s.id from step as s where s.id is not null), p_now);
end
$$;
comment on function pgtick.sweep_overlaps(timestamptz) is 'Free jobs that wait for an earlier job of their schedule which no longer lives.';
