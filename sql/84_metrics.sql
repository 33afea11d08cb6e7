-- What a runner tells Prometheus of its database. It reads this in the background, at most every 15 s and while somebody scrapes, so nothing
-- here counts a table: each part looks up an index, or the end of a log, and stops at a bound. Whatever history, backlog and ledger hold, it
-- takes some milliseconds.

-- Depths are counted up to 50,000 jobs, shared out among the lanes (10,000 each at most), of which the first 1,000 are looked at.
create or replace function pgtick.measure_queues(p_now timestamptz)
returns table (queue text, depth bigint, oldest timestamptz, more boolean)
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_tasks text[];
  v_queues text[];
  v_priorities smallint[];
  v_most integer;
begin
  with recursive lane as (
    (select j.task, j.queue, j.priority from pgtick.live_jobs as j order by j.task, j.queue, j.priority, j.run_at, j.id + 0 limit 1)
    union all
    select next.task, next.queue, next.priority
    from lane as l
    cross join lateral (
      select j.task, j.queue, j.priority from pgtick.live_jobs as j
      where (j.task, j.queue, j.priority) > (l.task, l.queue, l.priority)
      order by j.task, j.queue, j.priority, j.run_at, j.id + 0 limit 1) as next
  )
  select array_agg(f.task), array_agg(f.queue), array_agg(f.priority) into v_tasks, v_queues, v_priorities
  from (select l.task, l.queue, l.priority from lane as l limit 1000) as f;
  v_most := 50000 / greatest(cardinality(v_tasks), 5);
  return query
  select l.queue, sum(d.depth)::bigint, min(d.oldest), bool_or(d.depth = v_most) or cardinality(v_tasks) = 1000
  from unnest(v_tasks, v_queues, v_priorities) as l(task, queue, priority)
  cross join lateral (
    select count(*) as depth, min(w.run_at) as oldest
    from (
      select j.run_at from pgtick.live_jobs as j
      where j.task = l.task and j.queue = l.queue and j.priority = l.priority and j.run_at <= p_now and j.runner_id is null
      order by j.run_at, j.id + 0
      limit v_most) as w) as d
  group by l.queue;
end
$$;
comment on function pgtick.measure_queues(timestamptz) is 'How many jobs of each queue could run, and since when the oldest of them could; more: there are others that were not counted. Queues without a live job are left out.';

-- The log of slots has no index by the time at which they were accounted for, and needs none: rows are added at a partition's end, so it is read
-- backwards from there, by pages, until what it finds is old (never more than 1,024 pages). Of partitions it takes the default one and those
-- of the last week.
create or replace function pgtick.measure_slots(p_after timestamptz, p_until timestamptz)
returns table (fate text, part integer, slots bigint, late double precision)
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_part record;
  v_from bigint;
  v_step integer;
  v_oldest timestamptz;
begin
  for v_part in
    select format('%I.%I', n.nspname, c.relname) as name, pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::bigint as pages
    from pg_catalog.pg_inherits as i
    join pg_catalog.pg_class as c on c.oid = i.inhrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where i.inhparent = 'pgtick.slot_log'::regclass
    order by c.relname desc
    limit 12   -- the default one, those made ahead, and eight days
  loop
    continue when v_part.pages = 0;
    v_from := v_part.pages;
    v_step := 16;   -- sessions fill pages of their own beside one another
    loop
      v_from := greatest(v_from - v_step, 0);
      execute format('select min(l.recorded_at) from %s as l where l.ctid >= $1 and l.ctid < $2', v_part.name)
      into v_oldest using format('(%s,0)', v_from)::tid, format('(%s,0)', v_from + v_step)::tid;
      exit when v_from = 0 or v_oldest <= p_after or v_part.pages - v_from >= 1024;
      v_step := least(v_step * 2, 1024);
    end loop;
    return query execute format('
      select l.fate, l.part, sum(l.slots)::bigint, sum(l.late)::double precision
      from (
        select l.fate, l.slots, case when l.fate in (''enqueued'', ''caught_up'') then greatest(extract(epoch from l.recorded_at - l.slot), 0) end as late,
          case when l.fate in (''enqueued'', ''caught_up'')
            then width_bucket(greatest(extract(epoch from l.recorded_at - l.slot), 0)::double precision, $4) else -1 end as part
        from %s as l
        where l.ctid >= $1 and l.recorded_at > $2 and l.recorded_at <= $3) as l
      group by l.fate, l.part', v_part.name)
    using format('(%s,0)', v_from)::tid, p_after, p_until, pgtick.lateness_bounds();
  end loop;
end
$$;
comment on function pgtick.measure_slots(timestamptz, timestamptz) is
  'How many slots were accounted for after p_after and up to p_until, by fate; of those with a job also by part: between which two of lateness_bounds their lateness lies (0: below the first), and its sum in seconds.';

create or replace function pgtick.lateness_bounds()
returns double precision[]
language sql immutable parallel safe
set search_path = ''
as $$ select array[0.1, 1, 5, 15, 60, 120, 600, 3600, 86400]::double precision[] $$;
comment on function pgtick.lateness_bounds() is 'The bounds, in seconds, between which the lateness of slots is counted.';

-- Entries are counted by their ids, each once. Ids are given out before they are seen, so what is counted ends at an id that was the newest at an
-- earlier call, once each transaction that was open then (all below p_open) has ended.
-- The violations are those that can be seen at a glance: of the accounts of the newest 200 entries. To prove the ledger is for pgtick credits verify.
create or replace function pgtick.measure_credits(p_now timestamptz, p_after bigint, p_until bigint, p_open xid8)
returns table (what text, label text, value double precision)
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_until bigint := p_after;
begin
  if p_until > p_after and (p_open is null or pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= p_open) then
    v_until := least(p_until, p_after + 100000);
    return query
    select 'entries', t.type, count(*)::double precision from credits.transactions as t where t.id > p_after and t.id <= v_until group by t.type;
  end if;
  return query
  select 'entries_counted', null::text, coalesce(v_until, 0)::double precision
  union all
  select 'entries_newest', pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text, coalesce((select max(t.id) from credits.transactions as t), 0)
  union all
  select 'entries_pending', null, (select count(*) from (select from credits.transactions as t where t.status = 'PENDING' order by t.created_at, t.id limit 10000) as x)
  union all
  select 'entries_unsynced', null, (
    select count(*) from (select from credits.transactions as t where not t.synced_to_supabase and t.status = 'COMPLETED' order by t.id limit 10000) as x)
  union all
  select 'holds_open', null, (select count(*) from (select from credits.holds as h where h.status = 'open' order by h.expires_at, h.id limit 10000) as x)
  union all
  select 'holds_expired', null, (
    select count(*) from (select from credits.holds as h where h.status = 'open' and h.expires_at <= p_now order by h.expires_at, h.id limit 10000) as x)
  union all
  select 'violations', null, (
    select count(*)
    from (select distinct t.user_id from (select x.user_id from credits.transactions as x order by x.id desc limit 200) as t) as u
    left join lateral (select a.balance, a.held, a.seq, a.head_hash from credits.accounts as a where a.user_id = u.user_id) as a on true
    left join lateral (select t.balance_after, t.held_after, t.hash from credits.transactions as t where t.user_id = u.user_id and t.seq = a.seq limit 1) as e on true
    where a.seq is null or not a.held between 0 and a.balance
      or a.seq > 0 and (a.balance, a.held, a.head_hash) is distinct from (e.balance_after, e.held_after, e.hash));
end
$$;
comment on function pgtick.measure_credits(timestamptz, bigint, bigint, xid8) is
  'Figures of the ledger: entries by type with ids above p_after and up to p_until, 100,000 of them at most; and, each up to 10,000, what is pending, unsynced, held, and held too long.';

-- definer (both): pgtick_runner calls them, and reads no table.
create or replace function pgtick.measure(p_slots_after bigint default null, p_entries_after bigint default null, p_entries_until bigint default null,
  p_entries_open text default null)
returns table (what text, label text, part integer, value double precision)
language plpgsql stable parallel safe security definer
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
  -- A tick writes down when it began, and commits later.
  v_slots_until constant timestamptz := date_trunc('milliseconds', v_now) - interval '10 seconds';
  v_epoch constant timestamptz := to_timestamp(0);
begin
  if p_slots_after not between 0 and 253402300800000000 then   -- the year 10000
    perform pgtick.invalid('slots_after', p_slots_after::text, 'a moment in microseconds since 1970, as slots_until gave it');
  end if;
  if p_entries_open !~ '^[0-9]{1,19}$' then perform pgtick.invalid('entries_open', p_entries_open, 'the number of a transaction, as it was given'); end if;
  return query
  select x.what, q.queue, null::integer, x.value
  from pgtick.measure_queues(v_now) as q
  cross join lateral (values ('queue_depth', q.depth::double precision), ('queue_more', q.more::integer),
    ('queue_oldest', coalesce(extract(epoch from v_now - q.oldest), 0)::double precision)) as x(what, value)
  union all
  select 'queue_paused', p.queue, null, 1 from (select p.queue from pgtick.paused_queues as p limit 1000) as p
  union all
  select 'jobs_live', null, null, pg_catalog.pg_stat_get_live_tuples('pgtick.live_jobs'::regclass)
  union all
  select 'jobs_dead_rows', null, null, pg_catalog.pg_stat_get_dead_tuples('pgtick.live_jobs'::regclass)
  union all
  select 'runners', s.state, null, count(r.late)
  from (values ('alive', false), ('late', true)) as s(state, late)
  left join (
    select r.ended_at is not null or r.lease_until <= v_now as late from pgtick.runner_leases as r where r.freed_at is null) as r on r.late = s.late
  group by s.state
  union all
  select 'clock', c.clock, null, extract(epoch from c.ticked_at)::double precision from pgtick.clocks as c
  union all
  select 'slot_due', null, null, greatest(extract(epoch from v_now - pgtick.next_tick_at()), 0)::double precision
  union all
  select 'slots_until', null, null, (extract(epoch from v_slots_until) * 1000000)::double precision;

  if p_slots_after is not null then
    return query
    select x.what, s.fate, s.part, x.value
    from pgtick.measure_slots(v_epoch + p_slots_after * interval '1 microsecond', v_slots_until) as s
    cross join lateral (values ('slots', s.slots::double precision), ('slots_late', s.late)) as x(what, value)
    where x.value is not null;
  end if;

  return query
  select c.what, c.label, null::integer, c.value from pgtick.measure_credits(v_now, p_entries_after, p_entries_until, p_entries_open::xid8) as c;
end
$$;
comment on function pgtick.measure(bigint, bigint, bigint, text) is
  'What pgtick work tells Prometheus of the database, read by look-ups and within bounds. What it counts from call to call begins where the caller says: slots after a moment (microseconds since 1970), credit entries by id.';

-- Some of what is in danger shows only in all schedules, so this one is for once a minute.
create or replace function pgtick.measure_health()
returns table (what text, problems bigint)
language sql stable parallel unsafe security definer
set search_path = ''
set jit = off
as $$
  select h.what, count(*) from (select x.what from pgtick.health as x limit 1000) as h group by h.what
$$;
comment on function pgtick.measure_health() is 'How many rows pgtick.health has of each kind of problem, 1,000 together at most.';
