-- Jobs that wait for others: after named jobs, for a batch, in a sequence. A blocked job has run_at infinity and says by what; what ends a
-- job looks for those that it frees (settle()), and rescue() for what was missed (sweep_ties()).
--
-- Who waits for whom is decided under locks, so that nothing is missed: who enqueues locks what lives of the jobs it waits for, FOR KEY
-- SHARE, and reads in a later statement; the end of such a job passes over the locked row, and is asked for again.

create or replace function pgtick.refuse_keys(p_field text, p_keys text[], p_jobs integer)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_keys is not null and (cardinality(p_keys) <> p_jobs or num_nulls(variadic p_keys) > 0) then
    perform pgtick.invalid(p_field, left(p_keys::text, 200), format('one for each of the %s jobs, none of them null', p_jobs));
  end if;
  if array_ndims(p_keys) > 1 or array_lower(p_keys, 1) <> 1 then   -- p_keys[n] would be another one, or none
    perform pgtick.invalid(p_field, left(p_keys::text, 200), 'a plain list, counted from 1');
  end if;
end
$$;
comment on function pgtick.refuse_keys(text, text[], integer) is 'Raise TK000 unless there is a key for each job, or p_keys is null.';

create or replace function pgtick.refuse_key(p_field text, p_key text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if length(p_key) not between 1 and 200 then
    perform pgtick.invalid(p_field, left(p_key, 200), 'it has 1 to 200 characters', 'Take a digest of what is longer; leave it out for none.');
  end if;
end
$$;
comment on function pgtick.refuse_key(text, text) is 'Raise TK000 unless a key is null or has 1 to 200 characters.';

create or replace function pgtick.refuse_wish(p_wish pgtick.wish)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  if p_wish.retry_policy is not null then perform pgtick.check_retry_policy(p_wish.retry_policy); end if;
  perform pgtick.refuse_key('limit_key', p_wish.limit_key), pgtick.refuse_key('sequence_key', p_wish.sequence_key);
  if p_wish.sequence_failure is null or p_wish.sequence_failure not in ('stop', 'skip') then
    perform pgtick.invalid('sequence_failure', p_wish.sequence_failure, 'it is stop or skip');
  end if;
  if p_wish.after_outcome is null or p_wish.after_outcome not in ('done', 'any') then
    perform pgtick.invalid('after_outcome', p_wish.after_outcome, 'it is done or any');
  end if;
  if num_nulls(variadic p_wish.after_jobs) > 0 or cardinality(p_wish.after_jobs) > 10000 then
    perform pgtick.invalid('after', left(p_wish.after_jobs::text, 200), 'at most 10000 ids of jobs, none of them null', 'A batch (create_batch) waits for any number.');
  end if;
  if jsonb_typeof(p_wish.trace_context) <> 'object' or octet_length(p_wish.trace_context::text) > 2000
    or exists (select from jsonb_each(case when jsonb_typeof(p_wish.trace_context) = 'object' then p_wish.trace_context end) as f where jsonb_typeof(f.value) <> 'string')
  then
    perform pgtick.invalid('trace_context', left(p_wish.trace_context::text, 200), 'an object of texts, of at most 2000 bytes', 'It holds traceparent and tracestate, as W3C Trace Context has them.');
  end if;
  if (p_wish.after_jobs is not null or p_wish.sequence_key is not null or p_wish.batch_id is not null)
    and current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
  then
    raise exception using errcode = 'TK020', message = format('a job that waits for others cannot be enqueued at isolation level %s', current_setting('transaction_isolation')),
      hint = 'Its blockers may have ended since the snapshot was taken, and it would wait for ever. Use READ COMMITTED.';
  end if;
end
$$;
comment on function pgtick.refuse_wish(pgtick.wish) is 'Raise TK000 when a job may not be tied to others in this way, and TK020 when it cannot be in this transaction.';

-- Locks: sequence, unique key, jobs, batch.
create or replace function pgtick.enqueue_tied(p_wish pgtick.wish, p_now timestamptz)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_unique constant boolean := p_wish.unique_key is not null or p_wish.unique_for is not null;
  v_id bigint := nullif(p_wish.id, 0);
  v_until timestamptz;
  v_holder_id bigint;
  v_stopped boolean := false;
  v_waits bigint[];
  v_blocked_by text;
  v_now timestamptz := p_now;
  v_run_at timestamptz;
begin
  perform pgtick.refuse_wish(p_wish);
  if v_unique then perform pgtick.refuse_uniqueness(p_wish.unique_key, p_wish.unique_for, p_wish.unique_states, p_wish.on_conflict); end if;
  if p_wish.sequence_key is not null then v_stopped := pgtick.lock_sequence(p_wish.sequence_key); end if;
  v_id := coalesce(v_id, nextval('pgtick.live_jobs_id_seq'));   -- under the sequence's lock: ids are in the order of the commits
  if v_unique then
    v_until := coalesce(p_now + p_wish.unique_for, 'infinity');
    v_holder_id := pgtick.take_key(p_wish.task, p_wish.unique_key, v_id, p_wish.unique_states, v_until, p_now);
    v_now := pgtick.now();   -- the key may have been waited for
    if v_holder_id <> v_id then
      perform pgtick.change_waiting(v_holder_id, p_wish.on_conflict, p_wish.args, greatest(p_wish.run_at, v_now));
      return v_holder_id;
    end if;
  end if;
  if p_wish.after_jobs is not null then v_waits := pgtick.living_blockers(p_wish.after_jobs, p_wish.after_outcome = 'any'); end if;
  if p_wish.batch_id is not null then
    perform pgtick.join_batch(p_wish.batch_id);
    if v_waits <> '{}' or p_wish.sequence_key is not null then perform pgtick.refuse_loop(p_wish.batch_id, v_waits, p_wish.sequence_key); end if;
  end if;
  v_blocked_by := case when v_waits <> '{}' then 'after'
    when p_wish.sequence_key is not null and (v_stopped or pgtick.lock_predecessor(p_wish.sequence_key)) then 'sequence' end;
  v_run_at := greatest(p_wish.run_at, v_now);
  insert into pgtick.live_jobs (id, task, queue, priority, run_at, wanted_at, blocked_by, max_attempts, timeout, args, owner_id, uniqueness, retry_policy, created_at,
    limit_key, sequence_key, sequence_skips, after_jobs, after_any, batch_id, trace_context)
  overriding system value
  values (v_id, p_wish.task, p_wish.queue, p_wish.priority, case when v_blocked_by is null then v_run_at else 'infinity' end,
    case when v_blocked_by is not null then v_run_at end, v_blocked_by, p_wish.max_attempts, p_wish.timeout, p_wish.args, p_wish.owner_id,
    case when v_unique then jsonb_build_object('key', p_wish.unique_key, 'states', p_wish.unique_states, 'until', v_until) end, p_wish.retry_policy, v_now,
    p_wish.limit_key, p_wish.sequence_key, case when p_wish.sequence_key is not null then p_wish.sequence_failure = 'skip' end, p_wish.after_jobs,
    case when p_wish.after_jobs is not null then p_wish.after_outcome = 'any' end, p_wish.batch_id, p_wish.trace_context);
  if v_waits <> '{}' then perform pgtick.link_jobs(array[v_id], v_waits, p_wish.after_outcome = 'any'); end if;
  if v_blocked_by is null then perform pgtick.wake(array[p_wish.queue], v_run_at); end if;
  return v_id;
end
$$;
comment on function pgtick.enqueue_tied(pgtick.wish, timestamptz) is
  'The part of enqueue for jobs that are more than a task, its arguments and a time: unique, tied to others, traced. Returns the id of the job, or of the one that holds its unique key. Raises as enqueue does.';

-- After jobs.

-- A finish under way holds its row, and is waited for; one that comes later passes over the row, and comes again.
create or replace function pgtick.living_blockers(p_ids bigint[], p_any_outcome boolean)
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_alive constant bigint[] := pgtick.lock_living(p_ids);
  v_odd record;
begin
  if v_alive @> p_ids then return v_alive; end if;
  select i.id, h.state into v_odd
  from (select x.id from unnest(p_ids) as x(id) except select a.id from unnest(v_alive) as a(id)) as i
  left join lateral (select k.state from pgtick.history as k where k.id = i.id offset 0) as h on true
  where h.state is null or (h.state <> 'done' and not p_any_outcome)
  order by 1
  limit 1;
  if found and v_odd.state is null then perform pgtick.refuse_job_id(v_odd.id); end if;
  if found then
    raise exception using errcode = 'TK005', message = format('job %s, which is to be waited for, is %s', v_odd.id, v_odd.state),
      hint = 'Retry that job first; or wait for any outcome (p_after_outcome => ''any'').';
  end if;
  return v_alive;
end
$$;
comment on function pgtick.living_blockers(bigint[], boolean) is
  'Those of these jobs that have not ended, locked so that none ends before this transaction does. Raises TK004 when one does not exist, TK005 when one has failed or was cancelled and that matters.';

create or replace function pgtick.lock_living(p_ids bigint[])
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  perform from pgtick.live_jobs as j where j.id = any (p_ids) order by j.id for key share;
  return array(select j.id from pgtick.live_jobs as j where j.id = any (p_ids) order by j.id);
end
$$;
comment on function pgtick.lock_living(bigint[]) is 'Those of these jobs that are live, locked so that none ends before this transaction does.';

create or replace function pgtick.link_jobs(p_ids bigint[], p_on bigint[], p_any_outcome boolean)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
begin
  insert into pgtick.job_links (on_job_id, job_id, any_outcome)
  select o.id, i.id, p_any_outcome from unnest(p_ids) as i(id) cross join unnest(p_on) as o(id)
  on conflict (on_job_id, job_id) do update set any_outcome = excluded.any_outcome;
end
$$;
comment on function pgtick.link_jobs(bigint[], bigint[], boolean) is 'Write down that each of p_ids waits for each of p_on, which are live and locked.';

-- Batches.

-- definer: as enqueue.
create or replace function pgtick.create_batch(p_task text, p_args jsonb default '{}', p_queue text default 'default', p_priority integer default 5,
  p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null, p_outcome text default 'any',
  p_retry_policy jsonb default null, p_trace_context jsonb default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_job_id bigint;
  v_batch_id bigint;
begin
  perform pgtick.refuse_job(p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout);
  if p_task = 'sql' then perform pgtick.check_function_call(p_args); end if;
  if p_outcome is null or p_outcome not in ('any', 'done') then perform pgtick.invalid('outcome', p_outcome, 'it is any or done'); end if;
  perform pgtick.refuse_wish((0, p_task, p_queue, p_priority, v_now, p_max_attempts, p_timeout, p_args, p_owner_id, p_retry_policy, null, null, 'stop', null,
    'any', null, p_trace_context, null, null, null, null)::pgtick.wish);
  insert into pgtick.live_jobs (task, queue, priority, run_at, wanted_at, blocked_by, max_attempts, timeout, args, owner_id, retry_policy, created_at, trace_context)
  values (p_task, p_queue, p_priority, 'infinity', v_now, 'batch', p_max_attempts, p_timeout, p_args, p_owner_id, p_retry_policy, v_now, p_trace_context)
  returning id into v_job_id;
  insert into pgtick.batch_defs (job_id, any_outcome, created_at) values (v_job_id, p_outcome = 'any', v_now) returning id into v_batch_id;
  perform pgtick.note_unsettled('batch', v_batch_id::text, null, v_now);   -- if it stays without jobs, nobody else will end it
  return v_batch_id;
end
$$;
comment on function pgtick.create_batch(text, jsonb, text, integer, integer, interval, uuid, text, jsonb, jsonb) is
  'Make a batch and return its id: enqueue its jobs in the same transaction, with p_batch_id. When all have ended, the job described here (the callback) runs; it finds its batch in pgtick.batches by its own job_id. While a job of the batch is live more can be added, best by that job itself. A batch without jobs is at its end when it is committed, and the next rescue() sees that. p_outcome: any (default), or done: the callback is cancelled when one of them has failed or was cancelled. Raises TK000.';

create or replace function pgtick.join_batch(p_batch_id bigint)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_finished_at timestamptz;
begin
  select b.finished_at into v_finished_at from pgtick.batch_defs as b where b.id = p_batch_id for key share;
  if not found then perform pgtick.invalid('batch_id', p_batch_id::text, 'the id of a batch, as create_batch returned it'); end if;
  if v_finished_at is not null then
    raise exception using errcode = 'TK005', message = format('batch %s has ended at %s', p_batch_id, pgtick.utc(v_finished_at)),
      hint = 'Enqueue all its jobs in the transaction that creates it, or further ones from within its jobs, in their own transactions.';
  end if;
end
$$;
comment on function pgtick.join_batch(bigint) is 'Lock a batch so that it does not end before this transaction does. Raises TK000 (no such batch) and TK005 (it has ended).';

-- While one of its jobs waits the batch has not ended, and who ends another one need not lock anything. Only at the tail they take turns:
-- each of two that end the last jobs would otherwise still see the other's.
create or replace function pgtick.settle_batch(p_batch_id bigint, p_now timestamptz, p_patient boolean default true)
returns pgtick.ended[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '100ms'
as $$
declare
  v_batch pgtick.batch_defs;
  v_cancelled pgtick.ended[];
begin
  if exists (
    select from (select j.runner_id from pgtick.live_jobs as j where j.batch_id = p_batch_id order by j.id + 0 desc limit 1000) as j where j.runner_id is null)
  then
    return null;
  end if;
  if not p_patient then perform set_config('lock_timeout', '1ms', true); end if;
  select * into v_batch from pgtick.batch_defs as b where b.id = p_batch_id and b.finished_at is null for update;
  if not found or exists (select from pgtick.live_jobs as j where j.batch_id = p_batch_id) then return null; end if;
  update pgtick.batch_defs as b set finished_at = p_now where b.id = p_batch_id;
  -- (state || '': so that nobody may go through all failed jobs of the history instead)
  if not v_batch.any_outcome and exists (select from pgtick.history as h where h.batch_id = p_batch_id and h.state || '' <> 'done') then
    perform from pgtick.live_jobs as j where j.id = v_batch.job_id for update;
    v_cancelled := pgtick.cancel_waiting(array[v_batch.job_id], array[format('a job of batch %s has failed or was cancelled', p_batch_id)], p_now);
  else
    perform from pgtick.live_jobs as j where j.id = v_batch.job_id for no key update;
    perform pgtick.unblock(array[v_batch.job_id], p_now);
  end if;
  return v_cancelled;
exception when lock_not_available then
  perform pgtick.note_unsettled('batch', p_batch_id::text, null, p_now);
  return null;
end
$$;
comment on function pgtick.settle_batch(bigint, timestamptz, boolean) is
  'End a batch of which no job is live: free its callback, or cancel it (then it is returned, as ended). Waits for locks a tenth of a second, or, not p_patient, hardly at all; what it does not get is left to rescue().';

-- Sequences.

create or replace function pgtick.lock_sequence(p_key text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_stopped boolean;
begin
  insert into pgtick.sequences as s (key) values (p_key)
  on conflict (key) do update set stopped_at = s.stopped_at
  returning s.stops is not null into v_stopped;
  return v_stopped or exists (select from pgtick.unsettled as u where u.sequence_key = p_key);
end
$$;
comment on function pgtick.lock_sequence(text) is 'Lock a sequence until the transaction ends, and say whether it is stopped, or may turn out to be. Outside READ COMMITTED it raises 40001 where another one has enqueued meanwhile.';

-- The row may vanish while its lock is waited for: then the one before it is the last.
create or replace function pgtick.lock_predecessor(p_key text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  loop
    perform from pgtick.live_jobs as j where j.sequence_key = p_key order by j.id + 0 desc limit 1 for key share;
    if found then return true; end if;
    if not exists (select from pgtick.live_jobs as j where j.sequence_key = p_key) then return false; end if;
  end loop;
end
$$;
comment on function pgtick.lock_predecessor(text) is 'Lock the last live job of a locked sequence, so that it cannot end before this transaction does. False where there is none.';

-- No lock on the sequence: a job that is being enqueued at the end of it has locked the one before it, so it has yet to be freed by that.
create or replace function pgtick.settle_sequences(p_keys text[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_heads bigint[];
  v_locked bigint[];
begin
  -- Also one that waits for other jobs as well: what it waited for may be ending just now, and each of the two must see the other's end.
  v_heads := array(
    select first.id
    from unnest(p_keys) as k(key)
    cross join lateral (select j.id, j.blocked_by from pgtick.live_jobs as j where j.sequence_key = k.key order by j.id + 0 limit 1) as first
    where first.blocked_by in ('after', 'batch', 'sequence')
    order by first.id);
  if v_heads = '{}' then return; end if;
  v_locked := pgtick.unblock(v_heads, p_now);
  if cardinality(v_locked) < cardinality(v_heads) then
    perform pgtick.note_unsettled('sequence', j.sequence_key, null, p_now) from pgtick.live_jobs as j where j.id = any (v_heads) and j.id <> all (v_locked);
  end if;
end
$$;
comment on function pgtick.settle_sequences(text[], timestamptz) is 'Free the first live job of each of these sequences, where it waits for its turn alone and the sequence is not stopped.';

-- The row is only tried for: who enqueues holds it until they commit. What could not be noted is left to rescue(), and nobody is freed.
create or replace function pgtick.mark_sequences(p_ended pgtick.ended[], p_now timestamptz)
returns text[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '100ms'
as $$
declare
  v_keys constant text[] := array(select distinct e.sequence_key from unnest(p_ended) as e where e.sequence_key is not null order by 1);
  v_locked text[];
begin
  if not exists (select from unnest(p_ended) as e where e.sequence_key is not null and e.state <> 'done' and not e.sequence_skips)
    and not exists (select from pgtick.sequences as s where s.key = any (v_keys) and s.stops is not null)
  then
    return v_keys;
  end if;
  v_locked := array(select s.key from pgtick.sequences as s where s.key = any (v_keys) order by s.key for no key update skip locked);
  if cardinality(v_locked) < cardinality(v_keys) then   -- the row is there as long as there are jobs; should somebody have deleted it, it comes back
    insert into pgtick.sequences (key)
    select k.key from unnest(v_keys) as k(key) where not exists (select from pgtick.sequences as s where s.key = k.key) on conflict (key) do nothing;
    v_locked := array(select s.key from pgtick.sequences as s where s.key = any (v_keys) order by s.key for no key update skip locked);
    perform pgtick.note_unsettled('job', e.id::text, e.sequence_key, p_now) from unnest(p_ended) as e where e.sequence_key is not null and e.sequence_key <> all (v_locked);
  end if;
  with told as (
    select e.sequence_key as key, array_agg(e.id) filter (where e.state <> 'done' and not e.sequence_skips) as stops,
      coalesce(array_agg(e.id) filter (where e.state = 'done'), '{}') as done
    from unnest(p_ended) as e
    join unnest(v_locked) as l(key) on l.key = e.sequence_key
    group by e.sequence_key
  ), stopped as materialized (
    select t.key, array(select distinct i.id from unnest(s.stops || t.stops) as i(id) where i.id <> all (t.done) order by i.id) as stops
    from told as t
    cross join lateral (select q.stops from pgtick.sequences as q where q.key = t.key offset 0) as s
    where t.stops is not null or s.stops && t.done
  )
  update pgtick.sequences as s
  set stops = nullif(n.stops, '{}'), stopped_at = case when n.stops <> '{}' then coalesce(s.stopped_at, p_now) end
  from stopped as n
  where s.key = n.key;
  return v_locked;
end
$$;
comment on function pgtick.mark_sequences(pgtick.ended[], timestamptz) is
  'Note which sequences stop, since one of their jobs has failed or was cancelled, and which go on, since the job that had stopped them is done. Returns the keys for which that is settled.';

-- definer: service_role may, and writes no table.
create or replace function pgtick.resume_sequence(p_key text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_stops bigint[];
  v_next bigint;
begin
  select s.stops into v_stops from pgtick.sequences as s where s.key = p_key and s.stops is not null for no key update;
  if not found then return; end if;
  select j.id into v_next from pgtick.live_jobs as j where j.sequence_key = p_key and j.id + 0 > v_stops[1] order by j.id + 0 limit 1;
  v_stops := array(select i.id from unnest(v_stops) as i(id) where i.id > v_next order by i.id);
  update pgtick.sequences as s set stops = nullif(v_stops, '{}'), stopped_at = case when v_stops <> '{}' then pgtick.now() end where s.key = p_key;
  perform pgtick.note_action('resume_sequence', p_key);
  perform pgtick.settle_sequences(array[p_key], pgtick.now());
end
$$;
comment on function pgtick.resume_sequence(text) is
  'Let a sequence go on to its next waiting job without the one that has stopped it (pgtick.sequence_stops names it). pgtick.retry of that job does so, too, once it is done. Of a sequence that is not stopped: nothing.';

-- What the end of jobs means for others.

create or replace function pgtick.note_unsettled(p_kind text, p_what text, p_sequence_key text, p_now timestamptz)
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$ insert into pgtick.unsettled (kind, what, sequence_key, noted_at) values (p_kind, p_what, p_sequence_key, p_now) $$;
comment on function pgtick.note_unsettled(text, text, text, timestamptz) is 'Leave something to rescue(); see pgtick.unsettled.';

-- A job may wait for several things; the next one, or none, is worked out from the rows each time.
create or replace function pgtick.unblock(p_ids bigint[], p_now timestamptz)
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_locked bigint[];
  v_queues text[];
  v_run_at timestamptz;
begin
  -- NO KEY UPDATE: who enqueues behind such a job has it locked FOR KEY SHARE, and is no hindrance
  v_locked := array(select j.id from pgtick.live_jobs as j where j.id = any (p_ids) and j.blocked_by is not null order by j.id for no key update skip locked);
  if v_locked = '{}' then return v_locked; end if;
  with now_by as materialized (
    select j.id, pgtick.blocked_by_now(j) as blocked_by from unnest(v_locked) as i(id) cross join lateral (select l.* from pgtick.live_jobs as l where l.id = i.id offset 0) as j
  ), freed as (
    update pgtick.live_jobs as j
    set blocked_by = n.blocked_by,
      run_at = case when n.blocked_by is null then greatest(p_now, j.wanted_at) else 'infinity' end,
      wanted_at = case when n.blocked_by is not null then j.wanted_at end
    from now_by as n
    where j.id = n.id and n.blocked_by is distinct from j.blocked_by
    returning j.queue, j.run_at
  )
  select array_agg(distinct f.queue) filter (where f.run_at < 'infinity'), min(f.run_at) into v_queues, v_run_at from freed as f;
  if v_queues is not null then perform pgtick.wake(v_queues, v_run_at); end if;
  return v_locked;
end
$$;
comment on function pgtick.unblock(bigint[], timestamptz) is 'Free those of these blocked jobs that nothing blocks any more, and note what the others wait for now. Never waits for a lock; returns those that it could lock.';

create or replace function pgtick.blocked_by_now(p_job pgtick.live_jobs)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  if exists (select from pgtick.job_links as l where l.job_id = p_job.id) then return 'after'; end if;
  -- (not "is null": so that nobody may go through all open batches instead)
  if exists (select from pgtick.batch_defs as b where b.job_id = p_job.id and coalesce(b.finished_at, 'infinity') = 'infinity') then return 'batch'; end if;
  if p_job.sequence_key is not null and (
    exists (select from pgtick.live_jobs as j where j.sequence_key = p_job.sequence_key and j.id + 0 < p_job.id)
    -- (the one that runs is the first of those behind; where none does, all of them are looked at, so only where it may be)
    or (p_job.came_back and exists (
      select from pgtick.live_jobs as j where j.sequence_key = p_job.sequence_key and j.id + 0 > p_job.id and (j.blocked_by is null or j.blocked_by = 'limit')))
    or exists (select from pgtick.sequences as s where s.key = p_job.sequence_key and s.stops[1] < p_job.id)
    or exists (select from pgtick.unsettled as u where u.sequence_key = p_job.sequence_key))
  then
    return 'sequence';
  end if;
  return case when p_job.blocked_by = 'overlap' then 'overlap' end;
end
$$;
comment on function pgtick.blocked_by_now(pgtick.live_jobs) is 'What a locked job has to wait for at present, besides a place under a limit: after, batch, sequence, overlap; or null.';

-- What fails takes with it what waited for it to be done, and that in turn what waited for it: a chain is cancelled in rounds, not by
-- functions that call each other. Nor does one transaction do it all: a report must not take seconds since ten thousand jobs wait for it.
-- In all, locks are waited for a tenth of a second.
create or replace function pgtick.settle(p_ended pgtick.ended[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_impatient_from constant timestamptz := clock_timestamp() + interval '100 ms';
  v_ended pgtick.ended[] := p_ended;
  v_cancelled pgtick.ended[];
  v_batch_id bigint;
  v_rounds integer := 0;
  v_jobs integer := 0;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then   -- its snapshot may be too old to see them
    perform pgtick.note_unsettled('job', e.id::text, e.sequence_key, p_now) from unnest(p_ended) as e;
    return;
  end if;
  while v_ended is not null loop
    v_cancelled := pgtick.settle_links(v_ended, p_now, clock_timestamp() < v_impatient_from);
    for v_batch_id in select distinct e.batch_id from unnest(v_ended) as e where e.batch_id is not null order by 1 loop
      v_cancelled := v_cancelled || pgtick.settle_batch(v_batch_id, p_now, clock_timestamp() < v_impatient_from);
    end loop;
    if exists (select from unnest(v_ended) as e where e.sequence_key is not null) then
      perform pgtick.settle_sequences(pgtick.mark_sequences(v_ended, p_now), p_now);
    end if;
    perform pgtick.free_places(v_ended, p_now, clock_timestamp() < v_impatient_from);
    v_ended := v_cancelled;
    v_rounds := v_rounds + 1;
    v_jobs := v_jobs + coalesce(cardinality(v_cancelled), 0);
    if v_rounds >= 100 or v_jobs >= 2000 then
      perform pgtick.note_unsettled('more', e.id::text, e.sequence_key, p_now) from unnest(v_ended) as e;
      return;
    end if;
  end loop;
end
$$;
comment on function pgtick.settle(pgtick.ended[], timestamptz) is 'Free, or cancel, what waited for jobs that have just ended, in the same transaction; of much, a part, and rescue() the rest.';

-- Two that end the last two blockers of a job take turns at its row, for a moment; each would otherwise still see the other's link.
-- What is to be cancelled is locked as for that: an enqueue behind it may hold it, and a job that is not cancelled must keep its link.
create or replace function pgtick.settle_links(p_ended pgtick.ended[], p_now timestamptz, p_patient boolean default true)
returns pgtick.ended[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
set lock_timeout = '100ms'
as $$
declare
  v_most constant integer := 2000;
  v_links integer;
  v_waiting bigint[];
  v_doomed bigint[];
  v_why text[];
begin
  delete from pgtick.job_links as l
  where l.ctid = any (array(
    select own.ctid from unnest(p_ended) as e
    cross join lateral (select x.ctid from pgtick.job_links as x where x.job_id = e.id for update skip locked) as own));
  select count(*), array_agg(distinct w.job_id) into v_links, v_waiting from (
    select l.job_id from unnest(p_ended) as e cross join lateral (select x.job_id from pgtick.job_links as x where x.on_job_id = e.id offset 0) as l limit v_most) as w;
  if v_links = 0 then return null; end if;
  if not p_patient then perform set_config('lock_timeout', '1ms', true); end if;
  begin
    perform from pgtick.live_jobs as j where j.id = any (v_waiting) order by j.id for no key update;
    select array_agg(d.job_id order by d.job_id), array_agg(d.why order by d.job_id) into v_doomed, v_why from (
      select distinct on (l.job_id) l.job_id, format('job %s, which it waited for, %s', e.id, case e.state when 'failed' then 'failed' else 'was cancelled' end) as why
      from unnest(p_ended) as e
      cross join lateral (select x.job_id, x.any_outcome from pgtick.job_links as x where x.on_job_id = e.id offset 0) as l
      join unnest(v_waiting) as w(id) on w.id = l.job_id
      where e.state <> 'done' and not l.any_outcome
      order by l.job_id, e.id) as d;
    perform from pgtick.live_jobs as j where j.id = any (v_doomed) order by j.id for update;
    delete from pgtick.job_links as k
    where k.ctid = any (array(
      select l.ctid from unnest(p_ended) as e
      cross join lateral (select x.ctid, x.job_id from pgtick.job_links as x where x.on_job_id = e.id offset 0) as l
      join unnest(v_waiting) as w(id) on w.id = l.job_id));
  exception when lock_not_available then
    perform pgtick.note_unsettled('job', e.id::text, null, p_now) from unnest(p_ended) as e;
    return null;
  end;
  perform pgtick.unblock(array(select w.id from unnest(v_waiting) as w(id) except select d.id from unnest(v_doomed) as d(id)), p_now);
  if v_links = v_most then
    perform pgtick.note_unsettled('more', e.id::text, null, p_now) from unnest(p_ended) as e where exists (select from pgtick.job_links as l where l.on_job_id = e.id);
  end if;
  if v_doomed is null then return null; end if;
  return pgtick.cancel_waiting(v_doomed, v_why, p_now);
end
$$;
comment on function pgtick.settle_links(pgtick.ended[], timestamptz, boolean) is 'Free what waited for these jobs; cancel what waited for one of them to be done that is not, and return that, as ended. Waits for locks as settle_batch does.';

create or replace function pgtick.cancel_waiting(p_ids bigint[], p_why text[], p_now timestamptz)
returns pgtick.ended[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_rows tid[];
  v_errors jsonb[];
  v_ended pgtick.ended[];
begin
  select array_agg(x.ctid), array_agg(jsonb_build_object('message', x.why)),
    array_agg((x.id, x.task, 'cancelled', x.batch_id, x.sequence_key, x.sequence_skips, x.limit_key)::pgtick.ended)
  into v_rows, v_errors, v_ended
  from (
    select j.ctid, w.why, j.id, j.task, j.batch_id, j.sequence_key, j.sequence_skips, j.limit_key
    from unnest(p_ids, p_why) as w(id, why)
    cross join lateral (
      select l.ctid, l.id, l.task, l.batch_id, l.sequence_key, l.sequence_skips, l.limit_key
      from pgtick.live_jobs as l where l.id = w.id and l.runner_id is null for update skip locked) as j
    order by w.id) as x;
  if v_rows is not null then
    perform pgtick.archive_rows(v_rows, p_ids, array_fill('cancelled'::text, array[cardinality(v_rows)]), null, v_errors, false, p_now, false);
  end if;
  return v_ended;
end
$$;
comment on function pgtick.cancel_waiting(bigint[], text[], timestamptz) is 'Cancel waiting jobs, each with its reason, and return them as ended; what that means for others is the caller''s to settle.';

-- Called by rescue(). What was noted is looked at each time, as far as a second goes; everything once a minute, so that no mistake keeps a
-- job for ever.
create or replace function pgtick.sweep_ties(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '1 second';
  v_newest bigint;
  v_notes pgtick.unsettled[];
begin
  select max(u.id) into v_newest from pgtick.unsettled as u;
  while v_newest is not null and clock_timestamp() < v_until loop
    -- what somebody still has locked is noted anew, and is for the next call
    with gone as (
      delete from pgtick.unsettled as u
      where u.id = any (array(select x.id from pgtick.unsettled as x where x.id <= v_newest or x.kind = 'more' order by x.id limit 200 for update skip locked))
      returning u
    )
    select array_agg(g.u) into v_notes from gone as g;
    exit when v_notes is null;
    perform pgtick.settle_notes(v_notes, p_now);
  end loop;
  if (exists (select from pgtick.live_jobs as j where j.blocked_by in ('after', 'batch', 'sequence')) or exists (select from pgtick.limit_places)
      or exists (select from pgtick.sequences) or exists (select from pgtick.live_jobs as j where j.blocked_by = 'limit'))
    and pgtick.upkeep_due('ties', '1 minute') and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgtick.ties'))
  then
    insert into pgtick.upkeep (what, done_at) values ('ties', p_now) on conflict (what) do update set done_at = excluded.done_at;
    perform pgtick.sweep_blocked(p_now), pgtick.sweep_batches(p_now), pgtick.sweep_places(p_now), pgtick.sweep_sequences();
  end if;
end
$$;
comment on function pgtick.sweep_ties(timestamptz) is 'Do what the ends of jobs have left; once a minute free jobs whose blocker does not live any more, and end batches without live jobs.';

create or replace function pgtick.settle_notes(p_notes pgtick.unsettled[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_batch_id bigint;
begin
  perform pgtick.settle(array_agg((h.id, h.task, h.state, h.batch_id, h.sequence_key, h.sequence_skips, h.limit_key)::pgtick.ended), p_now)
  from (select distinct n.what::bigint as id from unnest(p_notes) as n where n.kind in ('job', 'more')) as i
  cross join lateral (select x.* from pgtick.history as x where x.id = i.id offset 0) as h
  having count(*) > 0;
  for v_batch_id in select distinct n.what::bigint from unnest(p_notes) as n where n.kind = 'batch' order by 1 loop
    perform pgtick.settle(pgtick.settle_batch(v_batch_id, p_now), p_now);
  end loop;
  perform pgtick.settle_sequences(array_agg(distinct coalesce(n.sequence_key, n.what)), p_now)
  from unnest(p_notes) as n where n.kind = 'sequence' or n.sequence_key is not null having count(*) > 0;
  if exists (select from unnest(p_notes) as n where n.kind = 'limit') then perform pgtick.sweep_places(p_now); end if;
end
$$;
comment on function pgtick.settle_notes(pgtick.unsettled[], timestamptz) is 'Do what is noted in these rows, which the caller has deleted.';

-- A part of the blocked jobs each time, from a place on that is drawn by lot: in the long run all. Nothing is locked but what is amiss.
create or replace function pgtick.sweep_blocked(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_from bigint;
  v_ids bigint[];
begin
  select min(j.id + 0) + (random() * (max(j.id + 0) - min(j.id + 0)))::bigint into v_from from pgtick.live_jobs as j where j.blocked_by in ('after', 'batch', 'sequence');
  if v_from is null then return; end if;
  v_ids := array(select j.id from pgtick.live_jobs as j where j.blocked_by in ('after', 'batch', 'sequence') and j.id + 0 >= v_from order by j.id + 0 limit 10000);
  if cardinality(v_ids) < 10000 then
    v_ids := v_ids || array(
      select j.id from pgtick.live_jobs as j where j.blocked_by in ('after', 'batch', 'sequence') and j.id + 0 < v_from order by j.id + 0 limit 10000 - cardinality(v_ids));
  end if;
  perform pgtick.settle(array_agg((l.on_job_id, coalesce(h.task, ''), coalesce(h.state, 'cancelled'), null, null, null, null)::pgtick.ended), p_now)
  from (
    select distinct x.on_job_id from unnest(v_ids) as i(id)
    cross join lateral (select k.on_job_id from pgtick.job_links as k where k.job_id = i.id offset 0) as x
    where not exists (select from pgtick.live_jobs as j where j.id = x.on_job_id)) as l
  left join lateral (select y.task, y.state from pgtick.history as y where y.id = l.on_job_id offset 0) as h on true
  having count(*) > 0;
  perform pgtick.unblock(array(
    select j.id from unnest(v_ids) as i(id) cross join lateral (select l.* from pgtick.live_jobs as l where l.id = i.id offset 0) as j
    where pgtick.blocked_by_now(j) is distinct from j.blocked_by), p_now);
end
$$;
comment on function pgtick.sweep_blocked(timestamptz) is 'Look at up to 10,000 blocked jobs, and free those that nothing blocks.';

create or replace function pgtick.sweep_batches(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_batch_id bigint;
begin
  for v_batch_id in select b.id from pgtick.batch_defs as b where b.finished_at is null order by random() limit 1000 loop
    perform pgtick.settle(pgtick.settle_batch(v_batch_id, p_now, false), p_now);
  end loop;
end
$$;
comment on function pgtick.sweep_batches(timestamptz) is 'Look at up to 1,000 open batches, drawn by lot, and end those without live jobs.';

-- Looked at again once it is locked, by a statement that sees what was committed up to then: an enqueue may have used it since the first
-- look. From a page on that is drawn by lot, so that a sequence that lives does not hide those behind it.
create or replace function pgtick.sweep_sequences()
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_from constant tid := format('(%s,0)', floor(random() * pg_catalog.pg_relation_size('pgtick.sequences') / current_setting('block_size')::integer)::bigint)::tid;
  v_keys text[];
begin
  v_keys := array(
    select s.key from pgtick.sequences as s
    where s.ctid = any (array(
        (select x.ctid from pgtick.sequences as x where x.ctid >= v_from limit 10000)
        union all
        (select x.ctid from pgtick.sequences as x where x.ctid < v_from limit 10000)))
      and s.stops is null and not exists (select from pgtick.live_jobs as j where j.sequence_key = s.key)
    for update skip locked);
  delete from pgtick.sequences as s
  where s.key = any (v_keys) and s.stops is null and not exists (select from pgtick.live_jobs as j where j.sequence_key = s.key)
    and not exists (select from pgtick.unsettled as u where u.sequence_key = s.key);
end
$$;
comment on function pgtick.sweep_sequences() is 'Forget sequences without jobs, of up to 20,000 at a time.';

-- Parents and children.

-- Cycles: who waits for whom goes by links, by batches (a callback waits for its members), by sequences and schedules (a job waits for
-- those before it).
-- union, not union all: it ends on a cycle that is there already.
create or replace function pgtick.waits_for(p_ids bigint[], p_on bigint)
returns boolean
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return (with recursive w as (
    select i.id from unnest(p_ids) as i(id)
    union
    select n.id from w cross join lateral (
      select l.on_job_id as id from pgtick.job_links as l where l.job_id = w.id
      union all
      select j.id from pgtick.batch_defs as b cross join lateral (select m.id from pgtick.live_jobs as m where m.batch_id = b.id offset 0) as j
      where b.job_id = w.id and coalesce(b.finished_at, 'infinity') = 'infinity'
      union all
      select (select p.id from pgtick.live_jobs as p where p.sequence_key = s.sequence_key and p.id + 0 < s.id order by p.id + 0 desc limit 1)
      from pgtick.live_jobs as s where s.id = w.id and s.sequence_key is not null
      union all
      select (select p.id from pgtick.live_jobs as p where p.schedule_id = s.schedule_id and p.slot < s.slot order by p.slot desc limit 1)
      from pgtick.live_jobs as s where s.id = w.id and s.blocked_by = 'overlap') as n
    where n.id is not null
  )
  select exists (select from w where w.id = p_on));
end
$$;
comment on function pgtick.waits_for(bigint[], bigint) is 'Whether one of these jobs is p_on or waits for it, directly or through others.';

-- The only way in which a new job could wait for itself: its batch's callback is among what it waits for. So it is looked for from there.
create or replace function pgtick.refuse_loop(p_batch_id bigint, p_waits bigint[], p_sequence_key text)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_id bigint;
begin
  with recursive d as (
    select b.job_id as id from pgtick.batch_defs as b where b.id = p_batch_id
    union
    select n.id from d cross join lateral (
      select l.job_id as id from pgtick.job_links as l where l.on_job_id = d.id
      union all
      select b.job_id from pgtick.live_jobs as j join pgtick.batch_defs as b on b.id = j.batch_id where j.id = d.id
      union all
      select (select x.id from pgtick.live_jobs as x where x.sequence_key = s.sequence_key and x.id + 0 > s.id order by x.id + 0 limit 1)
      from pgtick.live_jobs as s where s.id = d.id and s.sequence_key is not null) as n
    where n.id is not null
  )
  select d.id into v_id from d
  where d.id = any (p_waits) or exists (select from pgtick.live_jobs as j where j.id = d.id and j.sequence_key = p_sequence_key)
  limit 1;
  if found then
    raise exception using errcode = 'TK021', message = format('the job would wait for itself: it is to wait for job %s, which waits for batch %s, and so for it', v_id, p_batch_id),
      hint = 'Leave it out of the batch, or do not let it wait for what comes after the batch.';
  end if;
end
$$;
comment on function pgtick.refuse_loop(bigint, bigint[], text) is 'Raise TK021 when a new job of a batch would wait for that batch''s callback, directly or through others.';

-- The worker gives its claim away and keeps no place: it may be called in the transaction that enqueues the children, so that they and the
-- waiting commit together. Its own row is locked before the children's: of two jobs that begin to wait for each other at once, one sees the
-- other's link. Where the children wait for others themselves that would not do, so then one comes after the other.
-- definer: as the rest of the protocol.
create or replace function pgtick.wait_for(p_job_id bigint, p_fence bigint, p_ids bigint[], p_outcome text default 'any')
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_alive bigint[];
  v_now timestamptz;
  v_cancelled_by text;
  v_queue text;
begin
  if p_outcome is null or p_outcome not in ('any', 'done') then perform pgtick.invalid('outcome', p_outcome, 'it is any or done'); end if;
  if p_ids is null or num_nulls(variadic p_ids) > 0 or cardinality(p_ids) > 10000 then
    perform pgtick.invalid('ids', left(p_ids::text, 200), 'at most 10000 ids of jobs, none of them null', 'A batch (create_batch) has any number; wait for its callback.');
  end if;
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using errcode = 'TK020', message = format('a job cannot begin to wait for others at isolation level %s', current_setting('transaction_isolation')),
      hint = 'Its children may have ended since the snapshot was taken. Use READ COMMITTED.';
  end if;
  perform from pgtick.live_jobs as j where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null for update;
  if not found then perform pgtick.refuse_claim(p_job_id, p_fence); end if;
  v_alive := pgtick.living_blockers(p_ids, p_outcome = 'any');
  if exists (select from pgtick.live_jobs as j where j.id = any (v_alive) and j.blocked_by <> 'limit') then
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgtick.wait_for'));
  end if;
  if pgtick.waits_for(v_alive, p_job_id) then
    raise exception using errcode = 'TK021', message = format('job %s would wait for itself: one of %s waits for it', p_job_id, left(v_alive::text, 200)),
      hint = 'A child must not be enqueued after its parent (p_after), nor behind it in a sequence.';
  end if;
  perform pgtick.check_claim(p_job_id, p_fence);
  v_now := pgtick.now();
  select n.cancel_requested_by into v_cancelled_by from pgtick.job_notes as n where n.job_id = p_job_id and n.cancel_requested_at is not null;
  if found then
    perform pgtick.archive(array[p_job_id], array[p_fence], '{cancelled}', array[jsonb_build_object('message', 'cancelled by ' || v_cancelled_by)], v_now);
    return;
  end if;
  perform pgtick.link_jobs(array[p_job_id], v_alive, p_outcome = 'any');
  update pgtick.live_jobs as j
  set runner_id = null, started_at = null, reservation = null, uncounted = j.uncounted + 1,
    earlier_attempts = pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, v_now, j.runner_id, 'waiting', null),
    after_jobs = coalesce(j.after_jobs, '{}') || p_ids, after_any = p_outcome = 'any',
    blocked_by = case when v_alive <> '{}' then 'after' end,
    run_at = case when v_alive <> '{}' then 'infinity' else v_now end,
    wanted_at = case when v_alive <> '{}' then v_now end
  where j.id = p_job_id
  returning j.queue into v_queue;
  perform pgtick.free_places_of(array[p_job_id], v_now);
  if v_alive = '{}' then perform pgtick.wake(array[v_queue], v_now); end if;
end
$$;
comment on function pgtick.wait_for(bigint, bigint, bigint[], text) is
  'Give a running job back until these other ones have ended: the attempt ends without counting, and the next one begins then (it finds what it left with checkpoint). p_outcome: any (default); done: it is cancelled when one of them fails or is cancelled. One that somebody has asked to cancel is cancelled instead. Last before the commit, as finish_in_transaction. Raises TK000, TK001 (the claim is lost), TK004, TK005, TK020 and TK021 (it would wait for itself).';
