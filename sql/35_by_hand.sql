-- What people do to a job.

create or replace function pgtick.refuse_job_id(p_job_id bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK004', message = format('there is no job %s', coalesce(p_job_id::text, 'null')),
    hint = 'Finished jobs are dropped after 7 days (done) or 30 (failed, cancelled), or as pgtick.set_retention said.';
end
$$;
comment on function pgtick.refuse_job_id(bigint) is 'Raise TK004: no such job.';

-- The row is only tried for: while a task's transaction or a claim holds it, the job counts as running, and the request is noted beside it.
create or replace function pgtick.stop_job(p_job_id bigint, p_why text, p_by text, p_now timestamptz)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_job pgtick.live_jobs;
begin
  select * into v_job from pgtick.live_jobs as j where j.id = p_job_id for update skip locked;
  if found and v_job.runner_id is null then
    perform pgtick.archive(array[p_job_id], array[v_job.fence], '{cancelled}', array[jsonb_build_object('message', p_why)], p_now);
    return 'cancelled';
  end if;
  if not found then select * into v_job from pgtick.live_jobs as j where j.id = p_job_id; end if;
  if not found then return null; end if;
  insert into pgtick.job_notes as n (job_id, cancel_requested_at, cancel_requested_by) values (p_job_id, p_now, p_by)
  on conflict (job_id) do update set cancel_requested_at = coalesce(n.cancel_requested_at, excluded.cancel_requested_at),
    cancel_requested_by = coalesce(n.cancel_requested_by, excluded.cancel_requested_by);
  perform pg_catalog.pg_notify('pgtick_stop', coalesce(v_job.runner_id::text, ''));
  return 'running';
end
$$;
comment on function pgtick.stop_job(bigint, text, text, timestamptz) is
  'Cancel a waiting job, or note the wish beside a running one and tell its runner. Returns cancelled, running, or null where no such job is live.';

-- definer: service_role may cancel, but write no table.
create or replace function pgtick.cancel(p_job_id bigint)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_state text := pgtick.stop_job(p_job_id, 'cancelled by ' || pgtick.caller(), pgtick.caller(), pgtick.now());
begin
  if v_state is not null then return v_state; end if;
  select h.state into v_state from pgtick.history as h where h.id = p_job_id;
  if not found then perform pgtick.refuse_job_id(p_job_id); end if;
  return v_state;
end
$$;
comment on function pgtick.cancel(bigint) is
  'Cancel a job and return its state after: cancelled; running (the request is noted and its runner told: it ends when the task stops); or, when it had ended before, that state. Raises TK004.';

-- The number of attempts goes on, and one more is allowed. Locks: history row, then the live one (the id is free to take: it was live
-- before), then its notes. Of two retries at once the second waits for the first, and finds the job waiting when it looks again.
-- definer: as cancel.
create or replace function pgtick.retry(p_job_id bigint)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_state text;
begin
  for v_look in 1 .. 2 loop
    if pgtick.hasten(p_job_id) or pgtick.revive(p_job_id) then return 'ready'; end if;
  end loop;
  select j.state into v_state from pgtick.jobs as j where j.id = p_job_id;
  if not found then perform pgtick.refuse_job_id(p_job_id); end if;
  raise exception using errcode = 'TK005', message = format('job %s is %s: only a failed, cancelled or waiting job can be retried', p_job_id, v_state),
    hint = case v_state when 'running' then 'Wait for it to end, or cancel it first.' when 'ready' then 'It waits for something else, or is being claimed just now.'
      else 'Enqueue a new job.' end;
end
$$;
comment on function pgtick.retry(bigint) is
  'Make a failed or cancelled job ready again, with its id and history and one more attempt, or a waiting one due now; returns ready. It waits again for those jobs that it was to wait for which live, and for its turn in its sequence. Raises TK004 (no such job), TK005 (running or done), TK008 (another job holds its unique key) and TK020 (one that is tied to others, outside READ COMMITTED).';

create or replace function pgtick.hasten(p_job_id bigint)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_queue text;
begin
  update pgtick.live_jobs as j set run_at = least(j.run_at, v_now)   -- one that is due already keeps its place
  where j.id = any (array(select l.id from pgtick.live_jobs as l where l.id = p_job_id and l.runner_id is null and l.run_at < 'infinity' for update skip locked))
  returning j.queue into v_queue;
  if not found then return false; end if;
  perform pgtick.wake(array[v_queue], v_now);
  return true;
end
$$;
comment on function pgtick.hasten(bigint) is 'Make a waiting job due now. False where there is none that waits for its time alone.';

-- The clock is read after the lock: of two retries at once one waits, and what it makes due must not be back-dated by that.
-- What was said of the job's earlier life, a late cancel request above all, is not meant for this one.
-- Its unique key has to be free, or still its own. What it waited for and lives (again) it waits for again; what has ended meanwhile, in
-- whatever way, does not keep it.
create or replace function pgtick.revive(p_job_id bigint)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_old pgtick.history;
  v_now timestamptz;
  v_waits bigint[];
  v_tied boolean;
begin
  select * into v_old from pgtick.history as h where h.id = p_job_id and h.state <> 'done' for update;
  if not found then return false; end if;
  v_tied := v_old.sequence_key is not null or v_old.batch_id is not null or coalesce(v_old.after_jobs <> '{}', false)
    or exists (select from pgtick.batch_defs as b where b.job_id = p_job_id and coalesce(b.finished_at, 'infinity') = 'infinity');
  if v_tied then v_waits := pgtick.lock_ties(v_old); end if;
  v_now := pgtick.now();
  perform pgtick.take_key_again(p_job_id, v_old.task, v_old.uniqueness, v_now);
  with gone as (
    delete from pgtick.history as h where h.id = p_job_id returning h.*
  )
  insert into pgtick.live_jobs (id, task, queue, priority, run_at, wanted_at, blocked_by, after_jobs, after_any, batch_id, sequence_key, sequence_skips, came_back, limit_key,
    trace_context, attempt, uncounted, max_attempts, losses, deaths, timeout, args, owner_id, schedule_id, slot, created_at, uniqueness, retry_policy, earlier_attempts)
  overriding system value
  select g.id, g.task, g.queue, g.priority, case when v_tied then 'infinity' else v_now end, case when v_tied then v_now end, case when v_tied then 'after' end,
    g.after_jobs, g.after_any, g.batch_id, g.sequence_key, g.sequence_skips, case when g.sequence_key is not null then true end, g.limit_key, g.trace_context, g.attempt, g.uncounted,
    greatest(g.max_attempts, g.attempt - g.uncounted + 1), 0, 0, g.timeout, g.args, g.owner_id, g.schedule_id, g.slot, g.created_at, g.uniqueness, g.retry_policy,
    case when g.started_at is null then g.earlier_attempts
      else pgtick.with_attempt(g.earlier_attempts, g.attempt, g.started_at, g.finished_at, g.runner_id, g.state, g.error) end
  from gone as g;
  delete from pgtick.job_notes as n where n.job_id = p_job_id;
  if not v_tied then
    perform pgtick.wake(array[v_old.queue], v_now);
    return true;
  end if;
  perform pgtick.link_jobs(array[p_job_id], v_waits, coalesce(v_old.after_any, true));
  perform pgtick.unblock(array[p_job_id], v_now);
  return true;
end
$$;
comment on function pgtick.revive(bigint) is 'Bring a failed or cancelled job back from history, with its id, its attempts and one more. False where there is none.';

create or replace function pgtick.take_key_again(p_job_id bigint, p_task text, p_unique jsonb, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_holder_id bigint;
begin
  if p_unique is null or (p_unique ->> 'until')::timestamptz <= p_now then return; end if;
  v_holder_id := pgtick.take_key(p_task, p_unique ->> 'key', p_job_id, array(select jsonb_array_elements_text(p_unique -> 'states')), (p_unique ->> 'until')::timestamptz, p_now);
  if v_holder_id <> p_job_id then
    raise exception using errcode = 'TK008', message = format('job %s has the unique key "%s", which job %s holds now', p_job_id, p_unique ->> 'key', v_holder_id),
      hint = format('Look at job %s: it does the same. Cancel it first if this one is to run instead.', v_holder_id);
  end if;
end
$$;
comment on function pgtick.take_key_again(bigint, text, jsonb, timestamptz) is 'Take the unique key of a job that comes back, where it still counts. Raises TK008.';

-- Locks: sequence, jobs, batches. Nothing that matters to it may end unseen, nor anything of its sequence be set free: whoever would do that
-- needs the lock of the sequence's first job.
create or replace function pgtick.lock_ties(p_old pgtick.history)
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_waits bigint[];
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using errcode = 'TK020', message = format('job %s is tied to others, and cannot be retried at isolation level %s', p_old.id, current_setting('transaction_isolation')),
      hint = 'What it waits for may have ended since the snapshot was taken, and it would wait for ever. Use READ COMMITTED.';
  end if;
  if p_old.sequence_key is not null then
    perform pgtick.lock_sequence(p_old.sequence_key);
    while pgtick.lock_first(p_old.sequence_key) loop null; end loop;
  end if;
  v_waits := array(select a.id from unnest(pgtick.lock_living(p_old.after_jobs)) as a(id) where not pgtick.waits_for(array[a.id], p_old.id));
  perform from pgtick.batch_defs as b where b.id = p_old.batch_id for key share;
  perform from pgtick.batch_defs as b where b.job_id = p_old.id and coalesce(b.finished_at, 'infinity') = 'infinity' for key share;
  return v_waits;
end
$$;
comment on function pgtick.lock_ties(pgtick.history) is 'Lock what an ended job, which is to come back, is tied to, and return the jobs that it has to wait for again.';

create or replace function pgtick.lock_first(p_sequence_key text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_id bigint;
begin
  select j.id into v_id from pgtick.live_jobs as j where j.sequence_key = p_sequence_key order by j.id + 0 limit 1 for no key update;
  perform from pgtick.live_jobs as j where j.sequence_key = p_sequence_key and (j.blocked_by is null or j.blocked_by = 'limit') order by j.id + 0 limit 1 for key share;
  return v_id is distinct from (select j.id from pgtick.live_jobs as j where j.sequence_key = p_sequence_key order by j.id + 0 limit 1);
end
$$;
comment on function pgtick.lock_first(text) is 'Lock the first live job of a locked sequence, and the one of it that nothing blocks. True when that has to be done again, since it has ended meanwhile.';

-- The one way to other arguments: a job's record would otherwise say that it did what it was never asked to.
-- definer: as cancel.
create or replace function pgtick.retry_with(p_job_id bigint, p_args jsonb, p_reason text)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_state text;
  v_before jsonb;
begin
  if coalesce(btrim(p_reason), '') = '' then perform pgtick.invalid('reason', p_reason, 'why the arguments change, for the record'); end if;
  v_state := pgtick.retry(p_job_id);   -- locks the live row, which waits
  select j.args into v_before from pgtick.live_jobs as j where j.id = p_job_id;
  perform pgtick.refuse_job(j.task, p_args, j.queue, j.priority, j.max_attempts, j.timeout) from pgtick.live_jobs as j where j.id = p_job_id;
  perform pgtick.check_function_call(p_args) from pgtick.live_jobs as j where j.id = p_job_id and j.task = 'sql';
  update pgtick.live_jobs as j set args = p_args where j.id = p_job_id;
  perform pgtick.note_action('retry_with', p_job_id::text, jsonb_build_object('reason', left(p_reason, 1000), 'before', v_before, 'after', p_args));
  return v_state;
end
$$;
comment on function pgtick.retry_with(bigint, jsonb, text) is
  'As retry, with other arguments; pgtick.audit keeps those before and after, who changed them, when, and the reason (not empty). Raises TK000, TK004, TK005 and TK008.';
