-- Reporting what became of a claim. Every report carries the fence of its claim; under any other nothing changes.

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
set plan_cache_mode = force_generic_plan
set jit = off
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
-- (Moving it by an UPDATE of a partition key instead fails other sessions' locks with 40001.) The caller has locked the rows, so their ctid
-- is enough to find them, and stays as it is.
-- force_generic_plan, here and in whatever runs for each claim and report: to plan an insert into history, with its partitions, takes ten
-- times as long as the insert of one job, and the planner would do so each time, since its guess for an unknown array is a bad one. And
-- jit off: a guess that is far too high would have it compile for a second and a half what runs for ten milliseconds.
create or replace function pgtick.archive_rows(p_rows tid[], p_ids bigint[], p_states text[], p_results jsonb[], p_errors jsonb[],
  p_keep_fence boolean, p_now timestamptz, p_settle boolean default true)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_noted constant boolean := exists (
    select from pgtick.job_notes as n
    where n.job_id between (select min(i.id) from unnest(p_ids) as i(id)) and (select max(i.id) from unnest(p_ids) as i(id)));
  v_ruled constant boolean := exists (select from pgtick.retentions);
  -- Outside READ COMMITTED they may be there and not be seen: then rescue() has to look.
  v_linked constant boolean := current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
    or exists (select from pgtick.job_links as l where l.on_job_id between (select min(i.id) from unnest(p_ids) as i(id)) and (select max(i.id) from unnest(p_ids) as i(id)))
    or exists (select from pgtick.job_links as l where l.job_id between (select min(i.id) from unnest(p_ids) as i(id)) and (select max(i.id) from unnest(p_ids) as i(id)));
  v_limited constant text[] := array(select d.task from pgtick.limit_defs as d where d.max_running is not null);
  -- Worked out once: a call for each row (of a function with a search_path, which is never inlined) took a sixth of all the time.
  v_done_until constant date := pgtick.default_expiry('done', p_now);
  v_other_until constant date := pgtick.default_expiry('failed', p_now);
  v_moved integer;
  v_schedules bigint[];
  v_unique bigint[];
  v_unique_states text[];
  v_unique_days date[];
  v_ended pgtick.ended[];
begin
  with gone as (
    delete from pgtick.live_jobs as j
    using unnest(p_rows, p_states, p_results, p_errors) as o(ctid, state, result, error)
    where j.ctid = o.ctid
    returning j.*, coalesce(o.state, 'done') as state, o.result, o.error
  ), kept as (
    insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, owner_id,
      schedule_id, slot, created_at, runner_id, fence, started_at, finished_at, result, error, done, note, earlier_attempts, uniqueness, retry_policy,
      after_jobs, after_any, batch_id, sequence_key, sequence_skips, limit_key, trace_context, expires_on)
    select g.id, g.task, g.queue, g.priority, g.state, coalesce(g.wanted_at, g.run_at), g.attempt, g.uncounted, g.max_attempts, g.losses, g.deaths, g.timeout, g.args, g.owner_id,
      g.schedule_id, g.slot, g.created_at, g.runner_id, case when p_keep_fence then g.fence end, g.started_at, p_now,
      case when g.result is not null then pgtick.fit_result(g.result) end, case when g.error is not null then pgtick.fit_error(g.error) end,
      case when v_noted then (select n.done from pgtick.job_notes as n where n.job_id = g.id) end,
      case when v_noted then (select n.note from pgtick.job_notes as n where n.job_id = g.id) end,
      g.earlier_attempts, g.uniqueness, g.retry_policy, g.after_jobs, g.after_any, g.batch_id, g.sequence_key, g.sequence_skips, g.limit_key, g.trace_context,
      case when v_ruled or g.uniqueness is not null then pgtick.expires_on(g.task, g.queue, g.state, g.uniqueness, p_now)
        when g.state = 'done' then v_done_until else v_other_until end
    from gone as g
    returning history.id, history.task, history.schedule_id, history.state, history.uniqueness, history.expires_on, history.batch_id, history.sequence_key,
      history.sequence_skips, history.limit_key
  )
  select count(*), array_agg(k.schedule_id) filter (where k.schedule_id is not null), array_agg(k.id) filter (where k.uniqueness is not null),
    array_agg(k.state) filter (where k.uniqueness is not null), array_agg(k.expires_on) filter (where k.uniqueness is not null),
    array_agg((k.id, k.task, k.state, k.batch_id, k.sequence_key, k.sequence_skips, k.limit_key)::pgtick.ended)
      filter (where v_linked or k.batch_id is not null or k.sequence_key is not null or k.task = any (v_limited))
  into v_moved, v_schedules, v_unique, v_unique_states, v_unique_days, v_ended from kept as k;
  if v_noted then
    delete from pgtick.job_notes as n
    where n.job_id = any (array(
      select x.job_id from pgtick.job_notes as x
      where x.job_id = any (p_ids) and not exists (select from pgtick.live_jobs as j where j.id = x.job_id)
      order by x.job_id
      for update skip locked));   -- one that is being written is left to rescue()
  end if;
  if v_unique is not null then perform pgtick.settle_keys(v_unique, v_unique_states, v_unique_days); end if;
  if v_schedules is not null then perform pgtick.unblock_overlap(v_schedules, p_now); end if;
  if v_ended is not null and p_settle then perform pgtick.settle(v_ended, p_now); end if;
  return v_moved;
end
$$;
comment on function pgtick.archive_rows(tid[], bigint[], text[], jsonb[], jsonb[], boolean, timestamptz, boolean) is
  'Move locked live jobs to history, each in its final state with its result and error (p_states, p_results, p_errors in the order of p_rows; null: all done, none), and return how many. p_ids holds at least their ids. p_settle false: the caller sees to those that waited for them.';

create or replace function pgtick.archive(p_ids bigint[], p_fences bigint[], p_states text[], p_errors jsonb[], p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_rows tid[];
  v_states text[];
  v_errors jsonb[];
begin
  select array_agg(j.ctid), array_agg(o.state), array_agg(o.error) into v_rows, v_states, v_errors
  from unnest(p_ids, p_fences, p_states, p_errors) as o(id, fence, state, error)
  cross join lateral (select l.ctid from pgtick.live_jobs as l where l.id = o.id and l.fence is not distinct from o.fence offset 0) as j
  where o.state is not null;
  if v_rows is null then return 0; end if;
  return pgtick.archive_rows(v_rows, p_ids, v_states, null, v_errors, false, p_now);
end
$$;
comment on function pgtick.archive(bigint[], bigint[], text[], jsonb[], timestamptz) is
  'Move locked live jobs that no report has ended, each under its present fence, to history in the given final states (null: not this one), and return how many.';

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
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_rows tid[];
  v_states text[] := p_outcomes;
  v_results jsonb[] := p_results;
  v_errors jsonb[] := p_errors;
  v_back tid[];
  v_back_outcomes text[];
  v_back_errors jsonb[];
  v_back_at timestamptz[];
  v_ended integer := 0;
begin
  perform pgtick.refuse_report(p_job_ids, p_fences, p_outcomes, p_results, p_errors, p_retry_at);
  v_rows := array(   -- in the order of the report, as long as it holds all of it
    select j.ctid
    from unnest(p_job_ids, p_fences) as o(id, fence)
    cross join lateral (
      select l.ctid from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence and l.runner_id = p_runner_id for update skip locked) as j);
  v_now := pgtick.now();
  if cardinality(v_rows) < cardinality(p_job_ids) or p_outcomes && '{error,snoozed,released}' then
    -- Which of them end here: all but errors with attempts left, snoozed and released ones, and of these too what somebody has cancelled.
    select array_agg(x.ctid) filter (where x.state is not null), array_agg(x.state) filter (where x.state is not null),
      array_agg(x.result) filter (where x.state is not null), array_agg(x.error) filter (where x.state is not null),
      array_agg(x.ctid) filter (where x.state is null), array_agg(x.outcome) filter (where x.state is null),
      array_agg(x.error) filter (where x.state is null), array_agg(x.retry_at) filter (where x.state is null)
    into v_rows, v_states, v_results, v_errors, v_back, v_back_outcomes, v_back_errors, v_back_at
    from (
      select j.ctid, o.outcome, o.result, o.error, o.retry_at, case
        when o.outcome in ('done', 'failed', 'cancelled') then o.outcome
        when exists (select from pgtick.job_notes as n where n.job_id = j.id and n.cancel_requested_at is not null) then 'cancelled'
        when o.outcome = 'error' and j.attempt - j.uncounted >= j.max_attempts then 'failed' end as state
      from unnest(p_job_ids, p_fences, p_outcomes, p_results, p_errors, p_retry_at) as o(id, fence, outcome, result, error, retry_at)
      cross join lateral (
        select l.ctid, l.* from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence and l.runner_id = p_runner_id for update skip locked) as j) as x;
  end if;
  if cardinality(v_rows) > 0 then
    v_ended := pgtick.archive_rows(v_rows, p_job_ids, v_states, v_results, v_errors, true, v_now);
  end if;
  if v_back is not null then perform pgtick.put_back(v_back, v_back_outcomes, v_back_errors, v_back_at, v_now); end if;
  if v_ended = cardinality(p_job_ids) then
    return query select i.id, true from unnest(p_job_ids) as i(id);
  else
    return query
    select o.id, case
      when j.id is null then exists (select from pgtick.history as h where h.id = o.id and h.fence = o.fence)
      when j.runner_id is null then true          -- it waits under this very fence: put back now, or by the same report before
      when j.runner_id is distinct from p_runner_id then false
    end                                            -- still claimed: somebody has the row locked
    from unnest(p_job_ids, p_fences) with ordinality as o(id, fence, place)
    left join lateral (select l.* from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence offset 0) as j on true
    order by o.place;
    perform pgtick.count_refused(p_runner_id, p_job_ids, p_fences);
  end if;
end
$$;
comment on function pgtick.finish(bigint, bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[]) is
  'Report the outcomes of claims; one row for each, in order. accepted: true (also when the same report was taken before), false (the claim is not this runner''s any more: nothing changed), null (ask again). Outcomes: done; failed (for good); error (again by the retry policy or at retry_at, failed when the attempts are used up); snoozed and released (again at retry_at, attempt not counted; released without an error: it never started); cancelled. An error is {"message", "stack", …}, cut at 8 KiB; results are cut at 64 KiB. Raises TK000.';

-- Counted where it is no trouble: a row that somebody has locked is passed over.
create or replace function pgtick.count_refused(p_runner_id bigint, p_job_ids bigint[], p_fences bigint[])
returns void
language sql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
  update pgtick.runner_leases as r set refused = r.refused + x.refused
  from (
    select count(*) as refused
    from unnest(p_job_ids, p_fences) as o(id, fence)
    left join lateral (select l.* from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence offset 0) as j on true
    where case when j.id is null then not exists (select from pgtick.history as h where h.id = o.id and h.fence = o.fence)
      else j.runner_id is distinct from p_runner_id and j.runner_id is not null end) as x
  where x.refused > 0 and r.id = (select l.id from pgtick.runner_leases as l where l.id = p_runner_id for no key update skip locked)
$$;
comment on function pgtick.count_refused(bigint, bigint[], bigint[]) is 'Add those of these reports that finish() refused to the runner''s count.';

-- The other half of finish: errors with attempts left, snoozed and released jobs wait again. They keep the fence, so that the same
-- report is known when it comes twice.
create or replace function pgtick.put_back(p_rows tid[], p_outcomes text[], p_errors jsonb[], p_retry_at timestamptz[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_queues text[];
  v_run_at timestamptz;
  v_ids bigint[];
begin
  with back as (
    update pgtick.live_jobs as j
    set runner_id = null, started_at = null, reservation = null,
      -- one that never started keeps its place, too
      run_at = case
        when o.outcome = 'released' and o.error is null and o.retry_at is null then j.run_at
        when o.outcome = 'error' and o.retry_at is null then p_now
          + pgtick.backoff(j.attempt - j.uncounted, coalesce(j.retry_policy, (select r.policy from pgtick.retry_policies as r where r.task = j.task)))
        else greatest(p_now, o.retry_at) end,
      -- released without an error: it never started, so there was no attempt
      attempt = j.attempt - case when o.outcome = 'released' and o.error is null then 1 else 0 end,
      uncounted = j.uncounted + case when o.outcome = 'error' or (o.outcome = 'released' and o.error is null) then 0 else 1 end,
      earlier_attempts = case when o.outcome = 'released' and o.error is null then j.earlier_attempts
        else pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, p_now, j.runner_id, o.outcome, o.error) end
    from unnest(p_rows, p_outcomes, p_errors, p_retry_at) as o(ctid, outcome, error, retry_at)
    where j.ctid = o.ctid
    returning j.id, j.queue, j.run_at
  )
  select array_agg(distinct b.queue), min(b.run_at), array_agg(b.id) into v_queues, v_run_at, v_ids from back as b;
  perform pgtick.free_places_of(v_ids, p_now);
  if v_queues is not null then perform pgtick.wake(v_queues, v_run_at); end if;
end
$$;
comment on function pgtick.put_back(tid[], text[], jsonb[], timestamptz[], timestamptz) is 'Make locked claims wait again after an error, a snooze or a release.';

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
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_runner_id bigint;
  v_task text;
begin
  select j.runner_id, j.task into v_runner_id, v_task
  from pgtick.live_jobs as j
  where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null
  for no key update;
  if not found then perform pgtick.refuse_claim(p_job_id, p_fence); end if;
  if exists (select from pgtick.task_rules as r where r.task = v_task) then perform pgtick.check_rules(v_task); end if;
  perform pg_catalog.set_config('idle_in_transaction_session_timeout',
    (select ceil(extract(epoch from r.lease) * 1000)::bigint::text from pgtick.runner_leases as r where r.id = v_runner_id), true);
end
$$;
comment on function pgtick.check_claim(bigint, bigint) is
  'In the task''s own transaction, last before the commit: raise TK001 unless the job is still claimed under this fence, and keep it so until the transaction ends, whoever else comes (what follows in the same transaction may give it away: leave, reconcile, a report, rescue, maintain). Raises TK022 and TK023 where a gate of its task refuses.';

create or replace function pgtick.finish_in_transaction(p_job_id bigint, p_fence bigint, p_result jsonb default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  perform pgtick.check_claim(p_job_id, p_fence);
  -- for update: so that from here on nobody enqueues a job to wait for this one
  perform pgtick.archive_rows(array(select j.ctid from pgtick.live_jobs as j where j.id = p_job_id for update), array[p_job_id], null,
    case when p_result is not null then array[p_result] end, null, true, pgtick.now());
end
$$;
comment on function pgtick.finish_in_transaction(bigint, bigint, jsonb) is
  'In the task''s own transaction, last before the commit: end the job as done, so that its effects and its completion commit together or not at all. Raises TK001 when the claim is lost, TK022 and TK023 where a gate of its task refuses. p_result is cut at 64 KiB.';

create or replace function pgtick.progress(p_job_id bigint, p_fence bigint, p_done real, p_note text default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_owner_id uuid;
begin
  if p_done is null or p_done not between 0 and 1 then perform pgtick.invalid('done', p_done::text, 'the share done, from 0 to 1'); end if;
  select j.owner_id into v_owner_id from pgtick.live_jobs as j where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null;
  if not found then perform pgtick.refuse_claim(p_job_id, p_fence); end if;
  insert into pgtick.job_notes as n (job_id, done, note, noted_at) values (p_job_id, p_done, left(p_note, 1000), v_now)
  on conflict (job_id) do update set done = excluded.done, note = excluded.note, noted_at = excluded.noted_at;
  if v_owner_id is not null then perform pgtick.announce_progress(p_job_id, v_owner_id, v_now); end if;
end
$$;
comment on function pgtick.progress(bigint, bigint, real, text) is 'Say what share of a running job is done (0 to 1), and a note of at most 1,000 characters. Outside the task''s transaction, where others see it at once. Raises TK001 when the claim is lost.';

create or replace function pgtick.checkpoint(p_job_id bigint, p_fence bigint, p_state jsonb)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
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
