-- What the simulator adds to a database: a clock that it moves, a log of what has become of each job, and the judge.
create schema sim;

-- Microseconds after 2026-03-01, a moment without a shift of clocks anywhere near. A sequence, so that all sessions see a move at once, open transactions too.
create sequence sim.clock;
create sequence sim.step;

create or replace function pgtick.now() returns timestamptz language plpgsql volatile parallel unsafe set search_path = '' as $$
begin
  return timestamptz '2026-03-01 00:00:00+00' + (select c.last_value from sim.clock as c) * interval '1 microsecond';
end $$;

create function sim.move(p_by interval) returns timestamptz language plpgsql as $$
begin
  perform setval('sim.clock', greatest((select last_value from sim.clock) + (extract(epoch from p_by) * 1000000)::bigint, 1));
  return pgtick.now();
end $$;

-- n is drawn while the row that it tells of is locked: so the order of a job's lines is the order in which they took effect.
create unlogged table sim.log (
  n bigint not null default nextval('sim.step'), job bigint not null, what text not null, runner bigint, fence bigint, attempt integer, detail text,
  task text, limit_key text, sequence_key text, unique_key text, at timestamptz not null default pgtick.now());
create unlogged table sim.effects (job bigint not null, fence bigint not null);
create unlogged table sim.reports (runner bigint, job bigint, fence bigint, accepted boolean);
create unlogged table sim.sent (job bigint, fence bigint);   -- reports that were sent, answered or not
create unlogged table sim.most (task text, per_key boolean, most integer);   -- the highest limit of how many may run that was ever set

create function sim.note() returns trigger language plpgsql as $$
declare
  v_what text;
begin
  if tg_argv[0] = 'history' then
    if tg_op = 'INSERT' then
      insert into sim.log (job, what, runner, fence, attempt, detail) values (new.id, 'ended', new.runner_id, new.fence, new.attempt, new.state);
    else
      insert into sim.log (job, what, runner, fence, attempt, detail) values (old.id, 'revived', old.runner_id, old.fence, old.attempt, old.state);
    end if;
    return null;
  end if;
  if tg_op = 'UPDATE' then
    v_what := case
      when old.runner_id is null and new.runner_id is not null then 'claim'
      when old.runner_id is not null and new.runner_id is null then 'back'
      when (old.runner_id, old.fence) is distinct from (new.runner_id, new.fence) and old.runner_id is not null then 'stolen' end;
    if v_what = 'claim' then
      insert into sim.log (job, what, runner, fence, attempt, task, limit_key, sequence_key, unique_key)
      values (new.id, v_what, new.runner_id, new.fence, new.attempt, new.task, new.limit_key, new.sequence_key, new.uniqueness ->> 'key');
    elsif v_what is not null then
      insert into sim.log (job, what, runner, fence, attempt, detail, task, limit_key, sequence_key, unique_key)
      values (old.id, v_what, old.runner_id, old.fence, new.attempt, case when new.fence = old.fence then 'kept' end, old.task, old.limit_key, old.sequence_key, old.uniqueness ->> 'key');
    end if;
  elsif tg_op = 'INSERT' then
    insert into sim.log (job, what, attempt, task, limit_key, sequence_key, unique_key)
    values (new.id, 'live', new.attempt, new.task, new.limit_key, new.sequence_key, new.uniqueness ->> 'key');
  else
    insert into sim.log (job, what, runner, fence, attempt, task, limit_key, sequence_key, unique_key)
    values (old.id, 'gone', old.runner_id, old.fence, old.attempt, old.task, old.limit_key, old.sequence_key, old.uniqueness ->> 'key');
  end if;
  return null;
end $$;
create trigger zz_sim after insert or update or delete on pgtick.live_jobs for each row execute function sim.note('live');
create trigger zz_sim after insert or delete on pgtick.history for each row execute function sim.note('history');

-- What is wrong with jobs and their history, at any moment at which no transaction is open. Most of it is read from the log, so that it tells of the whole run.
create function sim.wrong() returns setof text language plpgsql set plan_cache_mode = force_generic_plan set jit = off as $$
begin
  return query
  with l as (
    select x.*, lag(x.what) over w as before, lag(x.fence) over w as before_fence, lag(x.runner) over w as before_runner, lead(x.what) over w as next,
      max(x.fence) filter (where x.what = 'claim') over (w rows between unbounded preceding and 1 preceding) as highest
    from sim.log as x where x.what in ('live', 'claim', 'back', 'stolen', 'gone', 'ended', 'revived')
    window w as (partition by x.job order by x.n)
  )
  select format('job %s: %s after %s (line %s)', l.job, l.what, coalesce(l.before, 'nothing'), l.n) from l
  where coalesce(l.before, '') || '>' || l.what not in ('>live', 'live>claim', 'live>gone', 'claim>back', 'claim>gone', 'back>claim', 'back>gone', 'gone>ended', 'ended>revived', 'revived>live')
  union all
  select format('job %s: claimed under fence %s, and an earlier claim had %s', l.job, l.fence, l.highest) from l where l.what = 'claim' and l.fence <= l.highest
  union all
  select format('job %s: %s under fence %s of runner %s, but runner %s had claimed it under %s', l.job, l.what, l.fence, l.runner, l.before_runner, l.before_fence)
  from l where l.before = 'claim' and (l.fence, l.runner) is distinct from (l.before_fence, l.before_runner)
  union all
  select format('job %s: done, and back again', l.job) from l where l.what = 'revived' and l.detail = 'done'
  union all
  select format('job %s: it is nowhere, or in two places: live %s times, in history %s times, last seen %s', l.job, p.live, p.history, l.what)
  from l cross join lateral (
    select (select count(*) from pgtick.live_jobs as j where j.id = l.job) as live, (select count(*) from pgtick.history as h where h.id = l.job) as history) as p
  where l.next is null and (p.live + p.history <> 1 or (p.history = 1) <> (l.what = 'ended'));

  return query
  select format('job %s: %s attempts are recorded, and its number is %s', a.id, a.recorded, a.attempt) from (
    select j.id, j.attempt, coalesce(jsonb_array_length(j.earlier_attempts), 0) + case when j.runner_id is null then 0 else 1 end as recorded from pgtick.live_jobs as j
    union all
    select h.id, h.attempt, coalesce(jsonb_array_length(h.earlier_attempts), 0) + case when h.started_at is null then 0 else 1 end from pgtick.history as h) as a
  where a.recorded <> a.attempt
  union all
  select format('job %s: runs for runner %s, of which nobody will hear any more', j.id, j.runner_id) from pgtick.live_jobs as j
  where j.runner_id is not null and not exists (select from pgtick.runner_leases as r where r.id = j.runner_id and r.freed_at is null);

  return query
  select format('job %s: %s effects', e.job, count(*)) from sim.effects as e group by e.job having count(*) > 1
  union all
  select format('job %s: an effect under fence %s, and it has not ended as done under that', e.job, e.fence) from sim.effects as e
  where not exists (select from pgtick.history as h where h.id = e.job and h.fence = e.fence and h.state = 'done')
  union all
  select format('job %s: a checked effect under fence %s (line %s) while its last line was %s under %s', e.job, e.fence, e.n, last.what, last.fence)
  from sim.log as e
  cross join lateral (
    select x.what, x.fence from sim.log as x where x.job = e.job and x.n < e.n and x.what in ('live', 'claim', 'back', 'gone', 'ended', 'revived') order by x.n desc limit 1) as last
  where e.what = 'checked' and (last.what, last.fence) is distinct from ('claim', e.fence);

  return query
  select format('job %s: the report of runner %s under fence %s was accepted, and nothing has come of it', r.job, r.runner, r.fence) from sim.reports as r
  where r.accepted and not exists (
    select from sim.log as x where x.job = r.job and x.fence = r.fence and x.runner = r.runner and (x.what = 'ended' or (x.what = 'back' and x.detail = 'kept')))
  union all
  select format('job %s: the report of runner %s under fence %s was refused, and it has taken effect', r.job, r.runner, r.fence) from sim.reports as r
  where not r.accepted and exists (select from sim.log as x where x.job = r.job and x.fence = r.fence and x.what = 'ended' and x.runner = r.runner)
    and not exists (select from sim.log as x where x.job = r.job and x.what = 'revived');

  return query
  select format('job %s: ended or put back under fence %s, and runner %s never reported on that', x.job, x.fence, x.runner) from sim.log as x
  where (x.what = 'ended' and x.fence is not null or x.what = 'back' and x.detail = 'kept')
    and not exists (select from sim.sent as r where r.job = x.job and r.fence = x.fence)
    and not exists (select from pgtick.runner_leases as r where r.id = x.runner and r.name = 'drain');

  return query   -- limits, sequences, keys: counted along the log
  select format('job %s of task %s, key %s, is the %sth to run at once (line %s)', c.job, c.task, coalesce(c.key, '-'), c.running, c.n)
  from (
    select x.job, x.n, x.task, x.what, case when m.per_key then x.limit_key end as key, m.most,
      sum(case x.what when 'claim' then 1 else -1 end) over (partition by x.task, m.per_key, case when m.per_key then x.limit_key end order by x.n) as running
    from sim.log as x join sim.most as m on m.task = x.task
    where (x.what in ('claim', 'back') or (x.what = 'gone' and x.runner is not null)) and (x.limit_key is not null or not m.per_key)) as c
  where c.what = 'claim' and c.running > c.most
  union all
  select format('job %s, unique by %s, is one of %s that live (line %s)', c.job, c.unique_key, c.live, c.n)
  from (
    select x.*, sum(case x.what when 'live' then 1 else -1 end) over (partition by x.task, x.unique_key order by x.n) as live
    from sim.log as x where x.what in ('live', 'gone') and x.unique_key is not null and x.unique_key not like 'ready%') as c
  where c.what = 'live' and c.live > 1
  union all
  select format('job %s: claimed (line %s) while the one who was told of it (line %s) had not committed (line %s)', t.job, x.n, t.n, e.n)
  from sim.log as t
  join sim.log as e on e.job = t.job and e.what = 'telling' and e.fence = t.fence
  join sim.log as x on x.job = t.job and x.what = 'claim' and x.n > t.n and x.n < e.n
  where t.what = 'told'
  union all
  select format('job %s of sequence %s: claimed (line %s) before job %s, which is earlier, had ended', x.job, x.sequence_key, x.n, b.job)
  from sim.log as x
  join sim.log as b on b.sequence_key = x.sequence_key and b.what = 'live' and b.job < x.job and b.n < x.n
  where x.what = 'claim' and not exists (select from sim.log as r where r.job = b.job and r.what = 'revived')
    and not exists (select from sim.log as e where e.job = b.job and e.what = 'ended' and e.n < x.n)
  union all
  select format('job %s: claimed (line %s) before job %s, for which it waits, had ended', x.job, x.n, b.id)
  from sim.log as x
  cross join lateral (
    select j.after_jobs from pgtick.live_jobs as j where j.id = x.job union all select h.after_jobs from pgtick.history as h where h.id = x.job) as w
  cross join lateral unnest(w.after_jobs) as b(id)
  where x.what = 'claim' and not exists (select from sim.log as r where r.job in (b.id, x.job) and r.what = 'revived')
    and not exists (select from sim.log as e where e.job = b.id and e.what = 'ended' and e.n < x.n)
  union all
  select format('job %s: claimed (line %s) before job %s of its batch had ended', x.job, x.n, m.job)
  from sim.log as x
  join pgtick.batch_defs as b on b.job_id = x.job
  join (select j.id as job, j.batch_id from pgtick.live_jobs as j union all select h.id, h.batch_id from pgtick.history as h) as m on m.batch_id = b.id
  where x.what = 'claim' and not exists (select from sim.log as r where r.job in (m.job, x.job) and r.what = 'revived')
    and not exists (select from sim.log as e where e.job = m.job and e.what = 'ended' and e.n < x.n)
  union all
  select format('job %s is done, and job %s, which had to be, is %s', x.id, b.id, h.state)
  from pgtick.history as x cross join lateral unnest(x.after_jobs) as b(id) join pgtick.history as h on h.id = b.id
  where x.state = 'done' and not x.after_any and h.state <> 'done' and not exists (select from sim.log as r where r.job in (b.id, x.id) and r.what = 'revived');

  if exists (select from pgtick.schedule_defs) then
    return query
    select format('schedule %s: slot %s, version %s: %s', u.schedule, u.slot, u.version, u.why) from pgtick.unaccounted_slots('3 days') as u
    union all
    select format('schedule %s is broken: %s', s.name, s.broken_why) from pgtick.schedule_defs as s where s.broken_at is not null
    union all
    select format('slot %s is told by itself and in a range from %s to %s', s.slot, r.slot, r.last_slot) from pgtick.slot_log as r
    join pgtick.slot_log as s on s.schedule_id = r.schedule_id and s.slot <> r.slot and s.slot between r.slot and r.last_slot
    union all
    select format('slot %s says job %s, which there is not', l.slot, l.job_id) from pgtick.slot_log as l
    where l.job_id is not null and not exists (
      select from (select j.id, j.schedule_id, j.slot from pgtick.live_jobs as j union all select h.id, h.schedule_id, h.slot from pgtick.history as h) as j
      where j.id = l.job_id and j.schedule_id = l.schedule_id and j.slot = l.slot)
    union all
    select format('job %s says slot %s, which has another job or none', j.id, j.slot)
    from (select j.id, j.schedule_id, j.slot from pgtick.live_jobs as j union all select h.id, h.schedule_id, h.slot from pgtick.history as h) as j
    where j.schedule_id is not null and not exists (select from pgtick.slot_log as l where l.schedule_id = j.schedule_id and l.slot = j.slot and l.job_id = j.id)
    union all
    select format('slot %s has %s jobs', j.slot, count(*))
    from (select j.schedule_id, j.slot from pgtick.live_jobs as j union all select h.schedule_id, h.slot from pgtick.history as h) as j
    where j.schedule_id is not null group by j.schedule_id, j.slot having count(*) > 1;
  end if;

  if exists (select from credits.accounts) then
    return query select format('credits: %s: transaction %s, hold %s: %s', v.kind, v.transaction_id, v.hold_id, v.detail) from credits.violations as v;
  end if;
end $$;

-- Everything comes to its end: first what the ends of jobs have left behind is put right by one rescue(), without its search of once a minute; then all
-- runners are dead, and a new one does what there is.
create function sim.drain(p_tasks text[]) returns setof text language plpgsql set plan_cache_mode = force_generic_plan set jit = off as $$
declare
  v_runner bigint;
  v_idle integer := 0;
  v_ids bigint[];
  v_fences bigint[];
  v_refused bigint[];
begin
  return query
  select format('job %s runs, and has no place under the limit of task %s', j.id, j.task) from pgtick.live_jobs as j
  join pgtick.limit_defs as d on d.task = j.task and d.max_running is not null and (not d.per_key or j.limit_key is not null)
  where j.runner_id is not null and j.started_at > d.set_at   -- what is being claimed while a limit comes does not count under it
    and not exists (select from pgtick.limit_places as p where p.task = j.task and p.key = case when d.per_key then j.limit_key else '' end and j.id = any (p.holders));
  insert into pgtick.upkeep (what, done_at) values ('ties', pgtick.now()) on conflict (what) do update set done_at = excluded.done_at;
  perform pgtick.rescue();
  return query
  select format('job %s waits for job %s, which has ended', l.job_id, l.on_job_id) from pgtick.job_links as l where not exists (select from pgtick.live_jobs as j where j.id = l.on_job_id)
  union all
  select format('job %s is blocked by %s, and it should be by %s', j.id, j.blocked_by, coalesce(pgtick.blocked_by_now(j), 'nothing')) from pgtick.live_jobs as j
  where j.blocked_by in ('after', 'batch', 'sequence', 'overlap') and pgtick.blocked_by_now(j) is distinct from j.blocked_by
  union all
  select format('job %s is blocked by its schedule, of which it is the first job', j.id) from pgtick.live_jobs as j
  where j.blocked_by = 'overlap' and not exists (select from pgtick.live_jobs as b where b.schedule_id = j.schedule_id and b.slot < j.slot)
  union all
  select format('batch %s is open, and none of its jobs lives', b.id) from pgtick.batch_defs as b
  where b.finished_at is null and not exists (select from pgtick.live_jobs as j where j.batch_id = b.id);

  -- Every lease is over, those too that were renewed while the clock went ahead.
  delete from pgtick.upkeep where what = 'ties';   -- a limit may have changed while a claim, or an end, went by the old one: then the search has to find it
  perform sim.move(greatest(interval '10 minutes', (select greatest(max(r.lease_until), max(r.suspected_at)) from pgtick.runner_leases as r) - pgtick.now()) + interval '1 second'), pgtick.rescue();
  return query
  select format('job %s is blocked by its limit key %s, which has room', j.id, j.limit_key) from pgtick.live_jobs as j
  left join pgtick.limit_places as p on p.task = j.task and p.key = j.limit_key
  left join pgtick.limit_defs as d on d.task = j.task and d.per_key
  where j.blocked_by = 'limit' and coalesce(cardinality(p.holders), 0) + (   -- those that may take the places count as if they had them
      select count(*) from pgtick.live_jobs as f where f.task = j.task and f.limit_key = j.limit_key and f.runner_id is null and f.blocked_by is null)
    < coalesce(d.max_running, 1000000)
  union all
  select format('the limit of task %s, key "%s", is held by job %s, which does not run', p.task, p.key, h.id) from pgtick.limit_places as p cross join lateral unnest(p.holders) as h(id)
  where not exists (select from pgtick.live_jobs as j where j.id = h.id and j.runner_id is not null);

  perform sim.move('201 seconds'), pgtick.rescue();
  if exists (select from pgtick.schedule_defs as s where s.next_at <= pgtick.now()) then
    perform pgtick.tick(), pgtick.tick();
  end if;
  v_runner := pgtick.register('drain', '{default}', p_tasks);
  while exists (select from pgtick.live_jobs) loop
    select array_agg(c.id), array_agg(c.fence) into v_ids, v_fences from pgtick.claim(v_runner, '{default}', p_tasks, 100) as c;
    if v_ids is not null then
      v_refused := array(select f.job_id from pgtick.finish(v_runner, v_ids, v_fences, array_fill('done'::text, array[cardinality(v_ids)])) as f where f.accepted is not true);
      if v_refused <> '{}' then return next format('with nobody else about, the reports on jobs %s were not accepted', v_refused); return; end if;
      v_idle := 0;
      continue;
    end if;
    v_idle := v_idle + 1;
    if v_idle > 20 then
      return query select format('job %s never comes to its end: runner %s, run_at %s, blocked by %s, losses %s', j.id, j.runner_id, j.run_at, j.blocked_by, j.losses) from pgtick.live_jobs as j;
      return;
    end if;
    perform pgtick.resume_sequence(s.key) from pgtick.sequence_stops as s;
    perform sim.move(greatest(interval '61 seconds', (select min(j.run_at) from pgtick.live_jobs as j where j.run_at < 'infinity') - pgtick.now()));
    perform pgtick.heartbeat(v_runner), pgtick.rescue();
  end loop;
  perform pgtick.rescue();
  return query
  select 'left behind: ' || u::text from pgtick.unsettled as u
  union all select 'left behind: ' || l::text from pgtick.job_links as l
  union all select 'left behind: ' || p::text from pgtick.limit_places as p where p.holders <> '{}'
  union all select 'left behind: ' || n::text from pgtick.job_notes as n
  union all select 'left behind: ' || b::text from pgtick.batch_defs as b where b.finished_at is null
  union all select w from sim.wrong() as w;
end $$;
