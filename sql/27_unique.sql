-- Unique jobs: who holds a key, and until when. The table decides; that a row is deleted when its job is through is tidiness only, so the
-- end of a job never waits for an enqueue that has the key's row locked, and claims need not look at it at all.

create or replace function pgtick.refuse_uniqueness(p_key text, p_for interval, p_states text[], p_on_conflict text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_key is null and p_for is not null then
    perform pgtick.invalid('unique_for', p_for::text, 'it needs a unique_key', 'Give the key too, or leave it out.');
  end if;
  if length(p_key) not between 1 and 500 then
    perform pgtick.invalid('unique_key', p_key, 'it has 1 to 500 characters', 'Take a digest of what is longer.');
  end if;
  if date_part('epoch', p_for) <= 0 or date_part('epoch', p_for) > 400 * 86400 then
    perform pgtick.invalid('unique_for', p_for::text, 'it is more than 0 and at most 400 days', 'Leave it out for as long as the job is in one of unique_states.');
  end if;
  if p_states is null or not 'ready' = any (p_states) or not p_states <@ '{ready,running,done,failed,cancelled}' then
    perform pgtick.invalid('unique_states', p_states::text, 'ready, and any of running, done, failed, cancelled');
  end if;
  if p_on_conflict is null or p_on_conflict not in ('ignore', 'replace_args', 'move_run_at') then
    perform pgtick.invalid('on_conflict', p_on_conflict, 'one of ignore, replace_args, move_run_at');
  end if;
end
$$;
comment on function pgtick.refuse_uniqueness(text, interval, text[], text) is 'Raise TK000 when a job may not be unique in this way.';

-- A waiting job is locked, so that it is not claimed before the caller commits: who is told "it is enqueued already" must be sure that what
-- they have written is seen by its run. (That waits for a claim under way, a moment; a running job's row is never waited for.)
create or replace function pgtick.state_of_holder(p_job_id bigint, p_ended_as text)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_runner_id bigint;
begin
  for v_look in 1 .. 2 loop
    select j.runner_id into v_runner_id from pgtick.live_jobs as j where j.id = p_job_id;
    exit when not found;
    if v_runner_id is not null then return 'running'; end if;
    perform from pgtick.live_jobs as j where j.id = p_job_id and j.runner_id is null for key share;
    if found then return 'ready'; end if;   -- otherwise it was claimed, or ended, just now
  end loop;
  return coalesce(p_ended_as, (select h.state from pgtick.history as h where h.id = p_job_id));
end
$$;
comment on function pgtick.state_of_holder(bigint, text) is 'The present state of the job that holds a unique key, locked where it waits; null where it is no more.';

-- The key's row is locked by the insert, taken or not. Outside READ COMMITTED a row changed since the snapshot raises 40001 here.
create or replace function pgtick.take_key(p_task text, p_key text, p_job_id bigint, p_states text[], p_until timestamptz, p_now timestamptz)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_holder pgtick.unique_keys;
begin
  insert into pgtick.unique_keys as k (task, key, job_id, states, until) values (p_task, p_key, p_job_id, p_states, p_until)
  on conflict (task, key) do update set job_id = excluded.job_id, states = excluded.states, until = excluded.until, ended_as = null
  where k.until <= p_now or k.job_id = excluded.job_id;
  if found then return p_job_id; end if;
  select * into v_holder from pgtick.unique_keys as k where k.task = p_task and k.key = p_key;
  if pgtick.state_of_holder(v_holder.job_id, v_holder.ended_as) = any (v_holder.states) then return v_holder.job_id; end if;
  update pgtick.unique_keys as k set job_id = p_job_id, states = p_states, until = p_until, ended_as = null where k.task = p_task and k.key = p_key;
  return p_job_id;
end
$$;
comment on function pgtick.take_key(text, text, bigint, text[], timestamptz, timestamptz) is 'Take a unique key for a job and return its id, or the id of the job that holds it.';

-- Called by archive_rows(), which has moved the jobs.
create or replace function pgtick.settle_keys(p_job_ids bigint[], p_states text[], p_expires_on date[])
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  with ended as materialized (
    select k.ctid, e.state, e.expires_on, e.state = any (k.states) as holds
    from unnest(p_job_ids, p_states, p_expires_on) as e(job_id, state, expires_on)
    cross join lateral (select u.ctid, u.states from pgtick.unique_keys as u where u.job_id = e.job_id for update skip locked) as k
  ), dated as (
    update pgtick.unique_keys as k set ended_as = e.state, until = least(k.until, e.expires_on::timestamp at time zone 'UTC')
    from ended as e where k.ctid = e.ctid and e.holds
  )
  delete from pgtick.unique_keys as k using ended as e where k.ctid = e.ctid and not e.holds;
end
$$;
comment on function pgtick.settle_keys(bigint[], text[], date[]) is 'Free the unique keys of jobs that have ended, or say until when they are held on. Never waits for a lock.';

-- Looked at again once it is locked, by a statement that sees what was committed up to then: an enqueue may have taken the key since the
-- first look, for a job that this one does not see.
create or replace function pgtick.sweep_keys(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_keys pgtick.unique_keys[];
begin
  v_keys := array(
    select k from pgtick.unique_keys as k
    where k.until <= p_now
      or (k.ended_as is null and not exists (select from pgtick.live_jobs as j where j.id = k.job_id)
        and not exists (select from pgtick.history as h where h.id = k.job_id and h.state = any (k.states)))
    order by k.task, k.key
    for update skip locked);
  delete from pgtick.unique_keys as k
  using unnest(v_keys) as l
  where k.task = l.task and k.key = l.key
    and (k.until <= p_now
      or (k.ended_as is null and not exists (select from pgtick.live_jobs as j where j.id = k.job_id)
        and not exists (select from pgtick.history as h where h.id = k.job_id and h.state = any (k.states))));
end
$$;
comment on function pgtick.sweep_keys(timestamptz) is 'Delete the unique keys that hold nothing any more.';
