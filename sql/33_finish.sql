-- Reporting what became of a claim. Every report carries the fence of its claim; under any other nothing changes.

create or replace function pgtick.expires_on(p_state text, p_finished_at timestamptz)
returns date
language sql immutable parallel safe
set search_path = ''
as $$ select (p_finished_at at time zone 'UTC')::date + case p_state when 'done' then 7 else 30 end $$;
comment on function pgtick.expires_on(text, timestamptz) is 'The day (UTC) on which a finished job is dropped: 7 days after the end for done, 30 for failed and cancelled, which are retried by hand.';

-- 5 s, 10 s, 20 s … up to a day, a tenth more or less: twenty attempts take about a week, and what failed together does not come back together.
create or replace function pgtick.backoff(p_attempt integer)
returns interval
language sql volatile parallel safe
set search_path = ''
as $$ select make_interval(secs => least(5 * 2.0 ^ least(greatest(p_attempt, 1) - 1, 20), 86400) * (0.9 + 0.2 * random())) $$;
comment on function pgtick.backoff(integer) is 'How long to wait after the p_attempt-th counted attempt has failed: 5 s doubled each time, at most a day, ±10 % by chance.';

create or replace function pgtick.fit_result(p_result jsonb)
returns jsonb
language sql immutable parallel safe
set search_path = ''
as $$
  select case when octet_length(p_result::text) <= 65536 then p_result
    else jsonb_build_object('truncated', true, 'bytes', octet_length(p_result::text), 'start', left(p_result::text, 16000)) end
$$;
comment on function pgtick.fit_result(jsonb) is 'A result of at most 64 KiB; of a larger one its start, with a mark and its size: the job ends all the same.';

-- A character takes one to six bytes here (a control character is written out), so it is tried with fewer and fewer of them.
create or replace function pgtick.cut_text(p_text text, p_bytes integer)
returns text
language sql immutable parallel safe
set search_path = ''
as $$
  select left(p_text, (p_bytes - 2) * k / 24)
  from generate_series(24, 4, -1) as k
  where octet_length(to_jsonb(left(p_text, (p_bytes - 2) * k / 24))::text) <= p_bytes
  order by k desc
  limit 1
$$;
comment on function pgtick.cut_text(text, integer) is 'The start of a text that takes at most p_bytes as a JSON string, its quotes included.';

create or replace function pgtick.fit_error(p_error jsonb)
returns jsonb
language sql immutable parallel safe
set search_path = ''
as $$
  select case
    when p_error is null or octet_length(p_error::text) <= 8192 then p_error
    else jsonb_strip_nulls(jsonb_build_object('message', pgtick.cut_text(coalesce(p_error ->> 'message', p_error::text), 2000),
      'stack', pgtick.cut_text(p_error ->> 'stack', 6000), 'truncated', true)) end
$$;
comment on function pgtick.fit_error(jsonb) is 'An error of at most 8 KiB: a longer message or stack is cut, with a mark.';

create or replace function pgtick.with_attempt(p_earlier jsonb, p_attempt integer, p_started_at timestamptz, p_finished_at timestamptz,
  p_runner_id bigint, p_outcome text, p_error jsonb)
returns jsonb
language sql stable parallel safe
set search_path = ''
as $$
  select case when jsonb_array_length(p_earlier) >= 100 then p_earlier - 0 else coalesce(p_earlier, '[]') end
    || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('attempt', p_attempt, 'started_at', p_started_at, 'finished_at', p_finished_at,
      'runner_id', p_runner_id, 'outcome', p_outcome, 'error', pgtick.fit_error(p_error))))
$$;
comment on function pgtick.with_attempt(jsonb, integer, timestamptz, timestamptz, bigint, text, jsonb) is 'A job''s earlier attempts with one more; the latest 100 are kept.';

-- A job that waits for earlier ones of its schedule is free when it is the first that lives. Found anew from the rows each time, so that
-- nothing has to be kept right beside them: not who waits for whom, nor what becomes of that when one in the middle is cancelled.
create or replace function pgtick.unblock_overlap(p_schedule_ids bigint[], p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_ids bigint[];
  v_queues text[];
  v_run_at timestamptz;
  v_count integer;
begin
  if not exists (select from pgtick.live_jobs as j where j.schedule_id = any (p_schedule_ids) and j.blocked_by = 'overlap') then return 0; end if;
  v_ids := array(
    select first.id
    from (select distinct i.id from unnest(p_schedule_ids) as i(id)) as s
    cross join lateral (select j.id, j.blocked_by from pgtick.live_jobs as j where j.schedule_id = s.id order by j.slot limit 1) as first
    where first.blocked_by = 'overlap');
  with free as (
    update pgtick.live_jobs as j
    set blocked_by = null, run_at = greatest(p_now, pgtick.slot_run_at(j.schedule_id, j.slot, d.jitter))
    from pgtick.schedule_defs as d
    where d.id = j.schedule_id and j.blocked_by = 'overlap'
      and j.id = any (array(select l.id from pgtick.live_jobs as l where l.id = any (v_ids) order by l.id for update skip locked))
    returning j.queue, j.run_at
  )
  select count(*), array_agg(distinct f.queue), min(f.run_at) into v_count, v_queues, v_run_at from free as f;
  if v_count > 0 then perform pgtick.wake(v_queues, v_run_at); end if;
  return v_count;
end
$$;
comment on function pgtick.unblock_overlap(bigint[], timestamptz) is
  'Free those jobs of these schedules that waited for earlier ones of their schedule and are now the first. Never waits for a lock. Returns how many.';

-- The one way out of live_jobs: DELETE … RETURNING into history, so that a reader sees the job in exactly one of them.
-- (Moving it by an UPDATE of a partition key instead fails other sessions' locks with 40001.) The caller has locked the rows.
create or replace function pgtick.archive(p_ids bigint[], p_fences bigint[], p_states text[], p_results jsonb[], p_errors jsonb[],
  p_keep_fence boolean, p_now timestamptz)
returns setof bigint
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_noted constant boolean := exists (
    select from pgtick.job_notes as n
    where n.job_id between (select min(i.id) from unnest(p_ids) as i(id)) and (select max(i.id) from unnest(p_ids) as i(id)));
  v_moved bigint[];
  v_schedules bigint[];
begin
  with gone as (
    delete from pgtick.live_jobs as j
    using unnest(p_ids, p_fences, p_states, p_results, p_errors) as o(id, fence, state, result, error)
    where j.id = o.id and j.fence is not distinct from o.fence and o.state is not null
    returning j.*, o.state, o.result, o.error
  ), kept as (
    insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, owner_id,
      schedule_id, slot, created_at, runner_id, fence, started_at, finished_at, result, error, done, note, earlier_attempts, expires_on)
    select g.id, g.task, g.queue, g.priority, g.state, g.run_at, g.attempt, g.uncounted, g.max_attempts, g.losses, g.deaths, g.timeout, g.args, g.owner_id,
      g.schedule_id, g.slot, g.created_at, g.runner_id, case when p_keep_fence then g.fence end, g.started_at, p_now,
      case when g.result is not null then pgtick.fit_result(g.result) end, case when g.error is not null then pgtick.fit_error(g.error) end,
      n.done, n.note, g.earlier_attempts, pgtick.expires_on(g.state, p_now)
    from gone as g
    left join pgtick.job_notes as n on v_noted and n.job_id = g.id
    returning history.id, history.schedule_id
  )
  select array_agg(k.id), array_agg(k.schedule_id) filter (where k.schedule_id is not null) into v_moved, v_schedules from kept as k;
  if v_noted then
    delete from pgtick.job_notes as n
    where n.job_id = any (array(
      select x.job_id from pgtick.job_notes as x
      where x.job_id = any (p_ids) and not exists (select from pgtick.live_jobs as j where j.id = x.job_id)
      order by x.job_id
      for update skip locked));   -- one that is being written is left to rescue()
  end if;
  if v_schedules is not null then perform pgtick.unblock_overlap(v_schedules, p_now); end if;
  return query select m.id from unnest(v_moved) as m(id);
end
$$;
comment on function pgtick.archive(bigint[], bigint[], text[], jsonb[], jsonb[], boolean, timestamptz) is
  'Move locked live jobs, each under its present fence, to history in the given final states (null: not this one) and return their ids.';

create or replace function pgtick.refuse_report(p_job_ids bigint[], p_fences bigint[], p_outcomes text[], p_results jsonb[], p_errors jsonb[], p_retry_at timestamptz[])
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_n constant integer := coalesce(cardinality(p_job_ids), 0);
  v_odd text;
begin
  if p_fences is null or cardinality(p_fences) <> v_n then perform pgtick.invalid('fences', cardinality(p_fences)::text, format('as many as there are jobs: %s', v_n)); end if;
  if p_outcomes is null or cardinality(p_outcomes) <> v_n then perform pgtick.invalid('outcomes', cardinality(p_outcomes)::text, format('as many as there are jobs: %s', v_n)); end if;
  if cardinality(p_results) <> v_n then perform pgtick.invalid('results', cardinality(p_results)::text, format('null, or as many as there are jobs: %s', v_n)); end if;
  if cardinality(p_errors) <> v_n then perform pgtick.invalid('errors', cardinality(p_errors)::text, format('null, or as many as there are jobs: %s', v_n)); end if;
  if cardinality(p_retry_at) <> v_n then perform pgtick.invalid('retry_at', cardinality(p_retry_at)::text, format('null, or as many as there are jobs: %s', v_n)); end if;
  select o.outcome into v_odd from unnest(p_outcomes) as o(outcome)
  where o.outcome is null or o.outcome not in ('done', 'failed', 'error', 'snoozed', 'released', 'cancelled') limit 1;
  if found then
    perform pgtick.invalid('outcomes', v_odd, 'one of done, failed, error, snoozed, released, cancelled');
  end if;
  if exists (select from unnest(p_retry_at) as r(at) where not isfinite(r.at)) then
    perform pgtick.invalid('retry_at', 'infinity', 'finite times, or null for now (after an error: by the retry policy)');
  end if;
end
$$;
comment on function pgtick.refuse_report(bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[]) is 'Raise TK000 when the arrays of a report do not fit each other or hold an unknown outcome.';

-- It never waits: a row that somebody has locked is passed over, and the answer for it is null, "ask again". Locks in id order.
create or replace function pgtick.finish(p_runner_id bigint, p_job_ids bigint[], p_fences bigint[], p_outcomes text[], p_results jsonb[] default null,
  p_errors jsonb[] default null, p_retry_at timestamptz[] default null)
returns table (job_id bigint, accepted boolean)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_locked bigint[];
  v_states text[] := p_outcomes;
  v_ended bigint[];
begin
  perform pgtick.refuse_report(p_job_ids, p_fences, p_outcomes, p_results, p_errors, p_retry_at);
  v_locked := array(
    select j.id from pgtick.live_jobs as j
    where j.id = any (p_job_ids) and j.runner_id = p_runner_id
    order by j.id
    for update skip locked);
  v_now := pgtick.now();
  -- Which of them end here: all but errors with attempts left, snoozed and released ones, and of these too what somebody has cancelled.
  if cardinality(v_locked) < cardinality(p_job_ids) or p_outcomes && '{error,snoozed,released}' then
    v_states := array(
      select case
        when j.id is null then null
        when o.outcome in ('done', 'failed', 'cancelled') then o.outcome
        when n.job_id is not null then 'cancelled'
        when o.outcome = 'error' and j.attempt - j.uncounted >= j.max_attempts then 'failed' end
      from unnest(p_job_ids, p_fences, p_outcomes) with ordinality as o(id, fence, outcome, place)
      left join pgtick.live_jobs as j on j.id = o.id and j.fence = o.fence and j.id = any (v_locked)
      left join pgtick.job_notes as n on n.job_id = j.id and n.cancel_requested_at is not null
      order by o.place);
  end if;
  v_ended := array(select pgtick.archive(p_job_ids, p_fences, v_states, p_results, p_errors, true, v_now));
  if cardinality(v_ended) < cardinality(v_locked) then
    perform pgtick.put_back(p_runner_id, v_locked, p_job_ids, p_fences, p_outcomes, p_errors, p_retry_at, v_now);
  end if;
  if cardinality(v_ended) = cardinality(p_job_ids) then
    return query select i.id, true from unnest(p_job_ids) as i(id);
  else
    return query
    select o.id, case
      when j.id is null then exists (select from pgtick.history as h where h.id = o.id and h.fence = o.fence)
      when j.runner_id is null then true          -- it waits under this very fence: put back now, or by the same report before
      when j.runner_id is distinct from p_runner_id then false
    end                                            -- still claimed: somebody has the row locked
    from unnest(p_job_ids, p_fences) with ordinality as o(id, fence, place)
    left join pgtick.live_jobs as j on j.id = o.id and j.fence = o.fence
    order by o.place;
  end if;
end
$$;
comment on function pgtick.finish(bigint, bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[]) is
  'Report the outcomes of claims; one row for each, in order. accepted: true (also when the same report was taken before), false (the claim is not this runner''s any more: nothing changed), null (ask again). Outcomes: done; failed (for good); error (again by the retry policy or at retry_at, failed when the attempts are used up); snoozed and released (again at retry_at, attempt not counted; released without an error: it never started); cancelled. An error is {"message", "stack", …}, cut at 8 KiB; results are cut at 64 KiB. Raises TK000.';

-- The other half of finish: errors with attempts left, snoozed and released jobs wait again. They keep the fence, so that the same
-- report is known when it comes twice.
create or replace function pgtick.put_back(p_runner_id bigint, p_locked bigint[], p_job_ids bigint[], p_fences bigint[], p_outcomes text[],
  p_errors jsonb[], p_retry_at timestamptz[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_queues text[];
  v_run_at timestamptz;
begin
  with back as (
    update pgtick.live_jobs as j
    set runner_id = null, started_at = null,
      run_at = greatest(p_now, coalesce(o.retry_at, p_now + case when o.outcome = 'error' then pgtick.backoff(j.attempt - j.uncounted) else interval '0' end)),
      -- released without an error: it never started, so there was no attempt
      attempt = j.attempt - case when o.outcome = 'released' and o.error is null then 1 else 0 end,
      uncounted = j.uncounted + case when o.outcome = 'error' or (o.outcome = 'released' and o.error is null) then 0 else 1 end,
      earlier_attempts = case when o.outcome = 'released' and o.error is null then j.earlier_attempts
        else pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, p_now, j.runner_id, o.outcome, o.error) end
    from unnest(p_job_ids, p_fences, p_outcomes, p_errors, p_retry_at) as o(id, fence, outcome, error, retry_at)
    where j.id = o.id and j.fence = o.fence and j.runner_id = p_runner_id and j.id = any (p_locked)
    returning j.queue, j.run_at
  )
  select array_agg(distinct b.queue), min(b.run_at) into v_queues, v_run_at from back as b;
  if v_queues is not null then perform pgtick.wake(v_queues, v_run_at); end if;
end
$$;
comment on function pgtick.put_back(bigint, bigint[], bigint[], bigint[], text[], jsonb[], timestamptz[], timestamptz) is 'Make locked claims wait again after an error, a snooze or a release.';

create or replace function pgtick.refuse_claim(p_job_id bigint, p_fence bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK001', message = format('job %s is not claimed under fence %s any more', p_job_id, p_fence),
    hint = 'Another runner has it, or it has ended. Roll back, drop the result, and report nothing.';
end
$$;
comment on function pgtick.refuse_claim(bigint, bigint) is 'Raise TK001: the claim is lost.';

-- Both lock the live row, so they come last before the commit. A worker frozen between here and its commit would hold the row for ever:
-- the session's own timeout, set to the lease, ends it.
create or replace function pgtick.check_claim(p_job_id bigint, p_fence bigint)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_runner_id bigint;
begin
  select j.runner_id into v_runner_id
  from pgtick.live_jobs as j
  where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null
  for no key update;
  if not found then perform pgtick.refuse_claim(p_job_id, p_fence); end if;
  perform pg_catalog.set_config('idle_in_transaction_session_timeout',
    (select ceil(extract(epoch from r.lease) * 1000)::bigint::text from pgtick.runner_leases as r where r.id = v_runner_id), true);
end
$$;
comment on function pgtick.check_claim(bigint, bigint) is
  'In the task''s own transaction, last before the commit: raise TK001 unless the job is still claimed under this fence, and keep it so until the transaction ends.';

create or replace function pgtick.finish_in_transaction(p_job_id bigint, p_fence bigint, p_result jsonb default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.check_claim(p_job_id, p_fence);
  perform pgtick.archive(array[p_job_id], array[p_fence], '{done}', array[p_result], array[null::jsonb], true, pgtick.now());
end
$$;
comment on function pgtick.finish_in_transaction(bigint, bigint, jsonb) is
  'In the task''s own transaction, last before the commit: end the job as done, so that its effects and its completion commit together or not at all. Raises TK001 when the claim is lost. p_result is cut at 64 KiB.';

create or replace function pgtick.progress(p_job_id bigint, p_fence bigint, p_done real, p_note text default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_done is null or p_done not between 0 and 1 then perform pgtick.invalid('done', p_done::text, 'the share done, from 0 to 1'); end if;
  if not exists (select from pgtick.live_jobs as j where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null) then
    perform pgtick.refuse_claim(p_job_id, p_fence);
  end if;
  insert into pgtick.job_notes as n (job_id, done, note, noted_at) values (p_job_id, p_done, left(p_note, 1000), pgtick.now())
  on conflict (job_id) do update set done = excluded.done, note = excluded.note, noted_at = excluded.noted_at;
end
$$;
comment on function pgtick.progress(bigint, bigint, real, text) is 'Say what share of a running job is done (0 to 1), and a note of at most 1,000 characters. Outside the task''s transaction, where others see it at once. Raises TK001 when the claim is lost.';

create or replace function pgtick.checkpoint(p_job_id bigint, p_fence bigint, p_state jsonb)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if octet_length(p_state::text) > 65536 then
    perform pgtick.invalid('state', left(p_state::text, 40) || '…', format('%s bytes are over the limit of 65536', octet_length(p_state::text)));
  end if;
  if not exists (select from pgtick.live_jobs as j where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null) then
    perform pgtick.refuse_claim(p_job_id, p_fence);
  end if;
  insert into pgtick.job_notes as n (job_id, checkpoint, noted_at) values (p_job_id, p_state, pgtick.now())
  on conflict (job_id) do update set checkpoint = excluded.checkpoint, noted_at = excluded.noted_at;
end
$$;
comment on function pgtick.checkpoint(bigint, bigint, jsonb) is 'Keep a state of at most 64 KiB for the next attempt of a running job; claim() hands it out. Raises TK001 when the claim is lost.';
