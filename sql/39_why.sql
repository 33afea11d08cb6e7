-- Why a job does not run.

-- definer: only those who may read all of pg_stat_activity see since when a transaction is open, as the owner of a hosted project does.
create or replace function pgtick.old_transactions(p_older_than interval)
returns table (pid integer, since timestamptz, who text, what text)
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  with length_of as (select greatest(least(p_older_than, interval '1000 years'), interval '0') as older_than)   -- more would be before the calendar begins
  select a.pid, a.xact_start, concat_ws(' ', a.usename, nullif(a.application_name, '')),
    case when a.state like 'idle in transaction%' then 'idle in its transaction since ' || a.state_change else 'running a statement since ' || a.query_start end
  from pg_catalog.pg_stat_activity as a cross join length_of as l
  where a.datname = pg_catalog.current_database() and (a.backend_xmin is not null or a.backend_xid is not null)
    and a.xact_start < pg_catalog.clock_timestamp() - l.older_than
  union all
  select null, p.prepared, p.owner || ' ' || p.gid, 'prepared, and neither committed nor rolled back'
  from pg_catalog.pg_prepared_xacts as p cross join length_of as l
  where p.database = pg_catalog.current_database() and p.prepared < pg_catalog.clock_timestamp() - l.older_than
  order by 2
$$;
comment on function pgtick.old_transactions(interval) is
  'Transactions of this database that have been open for longer than that, so that what was deleted since cannot be cleaned away; by the real clock. Empty where pgtick''s owner may not see other sessions.';

-- Why a due job is not claimed, by the runners: nobody has its task, nobody its queue, or all are busy.
create or replace function pgtick.why_unclaimed(p_job pgtick.live_jobs, p_now timestamptz)
returns table (reason text, evidence text, remedy text)
language plpgsql stable parallel safe
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_task bigint[];   -- live runners with its task
  v_both bigint[];   -- and its queue
  v_names text[];
  v_near text;
begin
  select array_agg(r.id) filter (where p_job.task = any (r.tasks)), array_agg(r.id) filter (where p_job.task = any (r.tasks) and p_job.queue = any (r.queues))
  into v_task, v_both
  from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null and r.lease_until > p_now;
  if v_both is null then
    v_names := array(select distinct t.name from pgtick.runner_leases as r cross join unnest(case when v_task is null then r.tasks else r.queues end) as t(name)
      where r.freed_at is null and r.ended_at is null and r.lease_until > p_now and (v_task is null or r.id = any (v_task)));
    v_near := pgtick.nearest_name(case when v_task is null then p_job.task else p_job.queue end, v_names);
    if v_task is null then
      return query select 'no live runner serves its task',
        format('task %s; %s', p_job.task, case when v_near is not null then 'the nearest that one does serve is ' || v_near
          when cardinality(v_names) > 0 then 'none that one serves is like it' else 'no runner is alive' end),
        coalesce('Start a runner that has this task; or, if it was meant to be ' || v_near || ', cancel the job and enqueue that.',
          'Start a runner that has this task: pgtick work, or a program of yours with cli.Main.');
    else
      return query select 'no live runner serves its queue', format('queue %s; the runners that have its task serve %s', p_job.queue, array_to_string(v_names, ', ')),
        format('Start a runner with --queues %s.', p_job.queue);
    end if;
    return;
  end if;
  return query
  with held as (
    select j.runner_id, j.task, count(*) as jobs, min(j.started_at) as since from pgtick.live_jobs as j where j.runner_id = any (v_both) group by 1, 2
  )
  select 'all workers of its runners are busy',
    format('%s runners with %s workers hold %s: %s', cardinality(v_both), (select sum(r.workers) from pgtick.runner_leases as r where r.id = any (v_both)),
      (select sum(h.jobs) from held as h),
      (select string_agg(format('%s %s (since %s)', t.jobs, t.task, t.since), ', ')
       from (select h.task, sum(h.jobs) as jobs, pgtick.utc(min(h.since)) as since from held as h group by h.task order by sum(h.jobs) desc, h.task limit 3) as t)),
    'Wait, give the runners more workers (--workers), or start another runner.'
  where (select case when bool_and(r.workers is not null) then sum(r.workers) end from pgtick.runner_leases as r where r.id = any (v_both))
    <= (select sum(h.jobs) from held as h);
  return query
  select 'others come first', format('%s%s jobs of its task and queue are due before it', case when x.n > 10000 then 'more than ' else '' end, least(x.n, 10000)),
    'Wait, start another runner, or enqueue what cannot wait with a lower priority number.'
  from (
    select count(*) as n from (
      select from pgtick.live_jobs as j
      where j.task = p_job.task and j.queue = p_job.queue and j.priority <= p_job.priority and j.runner_id is null and j.run_at <= p_now
        and (j.priority, j.run_at, j.id) < (p_job.priority, p_job.run_at, p_job.id)
      limit 10001) as ahead) as x
  where x.n > 0;
  return query
  select 'its runner polls only', format('runner %s (%s): no NOTIFY reaches it, so it looks at its next poll', r.name, r.id),
    'Give it a direct or session-mode connection by LISTEN_DATABASE_URL.'
  from pgtick.runner_leases as r
  where r.id = any (v_both) and r.wakes is false and not exists (select from pgtick.runner_leases as o where o.id = any (v_both) and o.wakes);
end
$$;
comment on function pgtick.why_unclaimed(pgtick.live_jobs, timestamptz) is 'The part of why() about a due job and its runners.';

create or replace function pgtick.why_blocked(p_job pgtick.live_jobs)
returns table (reason text, evidence text, remedy text)
language plpgsql stable parallel safe
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query
  select 'it waits for other jobs', format('%s of them live: %s', count(*), string_agg(format('%s (%s)', j.id, case when j.runner_id is not null then 'running' when j.blocked_by is not null
      then 'blocked by ' || j.blocked_by else 'ready' end), ', ' order by j.id) filter (where l.place <= 10)),
    format('select * from pgtick.why(%s);', min(j.id))
  from (select x.on_job_id, row_number() over (order by x.on_job_id) as place from pgtick.job_links as x where x.job_id = p_job.id) as l
  join pgtick.live_jobs as j on j.id = l.on_job_id
  where p_job.blocked_by = 'after'
  having count(*) > 0;
  return query
  select 'it waits for the jobs of its batch', format('batch %s: %s live', b.id, b.live), format('select * from pgtick.jobs where batch_id = %s;', b.id)
  from pgtick.batches as b where p_job.blocked_by = 'batch' and b.job_id = p_job.id;
  return query
  select case when s.key is not null then 'its sequence is stopped' else 'it waits for an earlier job of its sequence' end,
    case when s.key is not null then format('sequence %s: job %s has failed or was cancelled at %s', s.key, s.stops[1], pgtick.utc(s.stopped_at))
      else format('sequence %s: %s', p_job.sequence_key, coalesce('job ' || first.id || case when first.runner_id is not null then ' is running' else ' comes first' end, 'none lives; it is freed within a minute')) end,
    case when s.key is not null then format('select pgtick.retry(%s); or go on without it: select pgtick.resume_sequence(%L);', s.stops[1], s.key)
      else coalesce(format('select * from pgtick.why(%s);', first.id), 'Look again.') end
  from (select) as one
  left join pgtick.sequences as s on s.key = p_job.sequence_key and s.stops[1] < p_job.id
  left join lateral (
    select j.id, j.runner_id from pgtick.live_jobs as j where j.sequence_key = p_job.sequence_key and (j.id < p_job.id or j.blocked_by is null) and j.id <> p_job.id
    order by j.blocked_by is not null, j.id + 0 limit 1) as first on true
  where p_job.blocked_by = 'sequence';
  return query
  select 'its limit is full', format('%s of %s jobs of limit key %s that may run at once do: %s', coalesce(cardinality(p.holders), 0), coalesce(d.max_running::text, 'any number of'),
      p_job.limit_key, coalesce((select string_agg(h.id::text, ', ') from unnest(p.holders[1:10]) as h(id)), 'none')),
    format('Wait, or raise it: select pgtick.set_limit(%L, p_max_running => …, p_per_key => true);', p_job.task)
  from (select) as one
  left join pgtick.limit_defs as d on d.task = p_job.task and d.per_key
  left join pgtick.limit_places as p on p.task = p_job.task and p.key = p_job.limit_key
  where p_job.blocked_by = 'limit';
end
$$;
comment on function pgtick.why_blocked(pgtick.live_jobs) is 'The part of why() about a job that waits for others.';

create or replace function pgtick.why_waiting(p_job pgtick.live_jobs, p_now timestamptz)
returns table (reason text, evidence text, remedy text)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_locked boolean := false;
begin
  return query
  select 'its queue is paused', format('queue %s, by %s since %s%s', p.queue, p.paused_by, pgtick.utc(p.paused_at), coalesce(': ' || p.reason, '')),
    format('select pgtick.resume_queue(%L);', p.queue)
  from pgtick.paused_queues as p where p.queue = p_job.queue;
  return query
  select 'it waits for an earlier job of its schedule', format('job %s of slot %s, %s', j.id, pgtick.utc(j.slot),
      case when j.runner_id is null then 'which waits itself' else 'which runs since ' || pgtick.utc(j.started_at) end),
    format('select * from pgtick.why(%s); or select pgtick.cancel(%s);', j.id, j.id)
  from pgtick.live_jobs as j
  where p_job.blocked_by = 'overlap' and j.schedule_id = p_job.schedule_id and j.slot < p_job.slot
  order by j.slot desc limit 1;
  return query select w.reason, w.evidence, w.remedy from pgtick.why_blocked(p_job) as w;
  if p_job.run_at > p_now and isfinite(p_job.run_at) then
    return query select
      case when p_job.reservation is not null then 'its rate allows it later' else null end, format('until %s, for another %s', pgtick.utc(p_job.run_at), pgtick.duration_text(p_job.run_at - p_now)),
      format('See pgtick.limits for task %s.', p_job.task)
    where p_job.reservation is not null;
    return query select
      case p_job.earlier_attempts -> -1 ->> 'outcome' when 'error' then 'its retry back-off is not over' when 'snoozed' then 'its task has put it off' else 'it is not due' end,
      format('until %s, for another %s%s', pgtick.utc(p_job.run_at), pgtick.duration_text(p_job.run_at - p_now),
        case when p_job.earlier_attempts -> -1 ->> 'outcome' = 'error' then format('; attempt %s of %s failed: %s', p_job.attempt - p_job.uncounted, p_job.max_attempts,
          coalesce(p_job.earlier_attempts -> -1 -> 'error' ->> 'message', 'no message')) else '' end),
      format('select pgtick.retry(%s); makes it due now.', p_job.id)
    where p_job.reservation is null;
  end if;
  if p_job.run_at <= p_now then
    begin
      perform from pgtick.live_jobs as j where j.id = p_job.id for update skip locked;
      v_locked := not found;
      if not v_locked then raise exception 'free'; end if;   -- rolls the lock back: who asks must not be the reason
    exception
      when raise_exception then null;
      when read_only_sql_transaction then null;   -- there it cannot be tried
    end;
    if v_locked then
      return query select 'a transaction has its row locked', 'such as one that enqueued a job with the same unique key, or changed it by hand, and has not ended'::text,
        'Wait for it to commit; pg_stat_activity shows open transactions.'::text;
    end if;
  end if;
  return query
  select 'its limit is full', format('%s of %s jobs of task %s that may run at once do: %s', cardinality(p.holders), d.max_running, d.task,
      (select string_agg(h.id::text, ', ') from unnest(p.holders[1:10]) as h(id))), format('Wait, or raise it: select pgtick.set_limit(%L, p_max_running => …);', d.task)
  from pgtick.limit_defs as d join pgtick.limit_places as p on p.task = d.task and p.key = ''
  where d.task = p_job.task and not d.per_key and cardinality(p.holders) >= d.max_running and p_job.run_at <= p_now;
  if p_job.losses >= 2 and p_job.run_at <= p_now then
    return query select 'two runners have died with it', format('lost %s times, %s of them while it was their only suspect', p_job.losses, p_job.deaths),
      'A runner takes one such job at a time; at 3 deaths it fails. See pgtick.attempts.'::text;
  end if;
  if not exists (select from pgtick.paused_queues as p where p.queue = p_job.queue) or p_job.run_at > p_now then
    return query select u.reason, u.evidence, u.remedy from pgtick.why_unclaimed(p_job, p_now) as u
    where p_job.run_at <= p_now or u.reason like 'no live runner%';
  end if;
  return query
  select 'an old transaction holds back cleaning', format('%s, open since %s by %s: %s', coalesce('pid ' || o.pid, 'a prepared transaction'), o.since, o.who, o.what),
    coalesce(format('End it: select pg_terminate_backend(%s);', o.pid), 'Commit it or roll it back.')
  from pgtick.old_transactions('5 minutes') as o
  where p_job.run_at <= p_now
  limit 1;
end
$$;
comment on function pgtick.why_waiting(pgtick.live_jobs, timestamptz) is 'The part of why() about a job that waits.';

-- definer: it tries the job's row for a lock, and readers may lock nothing.
create or replace function pgtick.why(p_job_id bigint)
returns table (rank integer, reason text, evidence text, remedy text)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
  v_job pgtick.live_jobs;
  v_rank integer := 0;
begin
  select * into v_job from pgtick.live_jobs as j where j.id = p_job_id;
  if not found then
    return query
    select 1, 'it has ended', format('%s at %s%s', h.state, pgtick.utc(h.finished_at), coalesce(': ' || (h.error ->> 'message'), '')),
      case when h.state = 'done' then 'Nothing is to be done. Enqueue a new job to do it again.' else format('select pgtick.retry(%s);', h.id) end
    from pgtick.history as h where h.id = p_job_id;
    if not found then perform pgtick.refuse_job_id(p_job_id); end if;
    return;
  end if;
  if v_job.runner_id is not null then
    return query
    select 1, case when r.ended_at is not null then 'its runner is dead, and it will be freed' when r.lease_until <= v_now then 'its runner does not answer'
        when n.cancel_requested_at is not null then 'it is being cancelled' when v_job.started_at + v_job.timeout <= v_now then 'it is running beyond its timeout'
        else 'it is running' end,
      format('attempt %s on runner %s (%s) since %s, for at most %s%s', v_job.attempt, r.name, r.id, pgtick.utc(v_job.started_at), pgtick.duration_text(v_job.timeout),
        coalesce('; ' || round(n.done::numeric * 100) || ' % done', '') || coalesce(': ' || n.note, '')),
      case when r.ended_at is not null or r.lease_until <= v_now then 'rescue() gives it to another runner.'
        when n.cancel_requested_at is not null then format('Requested by %s at %s; it ends when its task stops, at the latest a lease after its timeout.', n.cancel_requested_by, pgtick.utc(n.cancel_requested_at))
        when v_job.started_at + v_job.timeout <= v_now then 'Its runner ends it, or rescue() a lease later.'
        else format('Wait, or select pgtick.cancel(%s);', v_job.id) end
    from (select v_job.runner_id as id) as x
    left join pgtick.runner_leases as r on r.id = x.id
    left join pgtick.job_notes as n on n.job_id = v_job.id;
    return;
  end if;
  return query
  select (row_number() over (order by w.place))::integer, w.reason, w.evidence, w.remedy
  from pgtick.why_waiting(v_job, v_now) with ordinality as w(reason, evidence, remedy, place);
  get diagnostics v_rank = row_count;
  if v_rank = 0 then
    return query select 1, 'it is about to be claimed', format('due since %s, and a live runner serves it', pgtick.utc(v_job.run_at)), 'Look again.'::text;
  end if;
end
$$;
comment on function pgtick.why(bigint) is
  'Why a job is not running (yet), the weightiest reason first, with evidence and remedy: paused queue, jobs that it waits for (of its schedule, after, batch, sequence), a full limit, a rate, not due, retry back-off, a locked row, no runner for its task or queue, busy workers, others before it, a runner that only polls, an old transaction. Of a running or ended job: that it is. Raises TK004.';
