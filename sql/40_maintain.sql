-- Upkeep: partitions ahead, retention. Never inside tick(), and never long behind somebody's lock: it tries again later.

-- Makes the partition of one day, and takes the rows for it out of the default one. Rows lie there only when upkeep was late.
create or replace function pgtick.make_partition(p_parent text, p_day date)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_key constant text := case p_parent when 'history' then 'expires_on' else 'slot' end;
  v_name constant text := format('%s_%s', p_parent, to_char(p_day, 'YYYYMMDD'));
  v_from constant text := case p_parent when 'history' then p_day::text else p_day::text || ' 00:00:00+00' end;
  v_to constant text := case p_parent when 'history' then (p_day + 1)::text else (p_day + 1)::text || ' 00:00:00+00' end;
  v_role text;
begin
  if to_regclass('pgtick.' || v_name) is not null then return; end if;
  execute format('create table pgtick.%I (like pgtick.%I including defaults including constraints)', v_name, p_parent);
  execute format('alter table pgtick.%I enable row level security', v_name);
  -- Default privileges may have granted it to others. Whoever reads the parent needs nothing here.
  for v_role in
    select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end
    from pg_catalog.pg_class as c, aclexplode(c.relacl) as a
    where c.oid = to_regclass('pgtick.' || v_name) and a.grantee <> c.relowner
  loop
    execute format('revoke all on pgtick.%I from %s', v_name, v_role);
  end loop;
  execute format('with moved as (delete from pgtick.%I where %I >= %L and %I < %L returning *) insert into pgtick.%I select * from moved',
    p_parent || '_default', v_key, v_from, v_key, v_to, v_name);
  execute format('alter table pgtick.%I attach partition pgtick.%I for values from (%L) to (%L)', p_parent, v_name, v_from, v_to);
end
$$;
comment on function pgtick.make_partition(text, date) is 'Make the partition of one day (UTC) of pgtick.history or pgtick.slot_log where it is missing.';

create or replace function pgtick.drop_partitions(p_parent text, p_before date)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_name text;
  v_count integer := 0;
begin
  for v_name in
    select c.relname from pg_catalog.pg_inherits as i
    join pg_catalog.pg_class as c on c.oid = i.inhrelid
    where i.inhparent = to_regclass('pgtick.' || p_parent) and c.relname ~ '_[0-9]{8}$' and right(c.relname, 8)::date < p_before
    order by c.relname
  loop
    execute format('alter table pgtick.%I detach partition pgtick.%I', p_parent, v_name);
    if p_parent = 'slot_log' then   -- a range lies with its first slot, and may reach far beyond: it stays until its last one is past
      execute format('insert into pgtick.slot_log select * from pgtick.%I where last_slot >= %L', v_name, p_before::text || ' 00:00:00+00');
    end if;
    execute format('drop table pgtick.%I', v_name);
    v_count := v_count + 1;
  end loop;
  return v_count;
end
$$;
comment on function pgtick.drop_partitions(text, date) is 'Drop the partitions of days before p_before, and return how many.';

create or replace function pgtick.slot_retention_days()
returns integer
language sql stable parallel safe
set search_path = ''
as $$ select coalesce((select (s.value #>> '{}')::integer from pgtick.settings as s where s.name = 'slot_retention_days'), 60) $$;
comment on function pgtick.slot_retention_days() is 'How many days maintain() keeps slots, outages, ended runners and pg_cron''s record of pgtick''s own runs; 60 unless set_slot_retention said otherwise.';

-- definer: service_role may set it, and writes no table.
create or replace function pgtick.set_slot_retention(p_keep interval)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_keep is null or date_part('epoch', p_keep) not between 86400 and 400 * 86400 then
    perform pgtick.invalid('keep', p_keep::text, 'it goes from 1 day to 400 days');
  end if;
  insert into pgtick.settings as s (name, value, set_at, set_by)
  values ('slot_retention_days', to_jsonb(ceil(date_part('epoch', p_keep) / 86400)::integer), pgtick.now(), pgtick.caller())
  on conflict (name) do update set value = excluded.value, set_at = excluded.set_at, set_by = excluded.set_by;
end
$$;
comment on function pgtick.set_slot_retention(interval) is
  'Keep slots, outages, ended runners and pg_cron''s record of pgtick''s own runs for so long: 1 to 400 days, in whole days (default 60). Raises TK000.';

-- pg_cron itself never removes what it records of its runs, nor does a hosted project. What others have it run is not ours to touch.
create or replace function pgtick.purge_cron_log(p_before timestamptz)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_count bigint := 0;
begin
  if to_regclass('cron.job_run_details') is null then return 0; end if;
  execute 'delete from cron.job_run_details as d
    where d.database = current_database() and d.command = ''call pgtick.run_ticks()'' and coalesce(d.end_time, d.start_time) < $1' using p_before;
  get diagnostics v_count = row_count;
  return v_count;
exception when insufficient_privilege then
  return 0;
end
$$;
comment on function pgtick.purge_cron_log(timestamptz) is 'Delete what pg_cron recorded of pgtick''s own runs before p_before, where this role may, and return how many rows.';

-- What ends tomorrow and the day after needs its partitions: those of each retention in use. And what lies in the default partition, since
-- upkeep was late or a unique key holds a job for longer, gets one of its own.
create or replace function pgtick.history_days(p_today date)
returns setof date
language sql stable parallel safe
set search_path = ''
as $$
  select pgtick.partition_day(p_today + r.days + a.ahead, p_today + a.ahead)
  from (select 7 as days union select 30 union select x.days from pgtick.retentions as x) as r, generate_series(0, 2) as a(ahead)
  union
  select h.expires_on from pgtick.history_default as h where h.expires_on >= p_today
$$;
comment on function pgtick.history_days(date) is 'The days whose partitions of history are needed on p_today and the two days after it.';

-- Each kind of upkeep in a block of its own: one that meets a lock does not keep the others from their work. The lock on a parent is
-- wanted for a moment only, but whoever waits for it holds up all who come after: so it waits for half a second, and tells the next call,
-- a minute later. Once it is had, nothing slow may follow: partitions are dropped last.
-- First of all come claims that their worker has forgotten: it lives and names others, or an empty list, so that no lease and no heartbeat gives them
-- away. To find them takes a look at all of live_jobs, which a runner's control connection has no time for.
-- definer: partitions belong to the owner, and the runner's role may call this.
create or replace function pgtick.maintain()
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_today constant date := (v_now at time zone 'UTC')::date;
  v_slots_from constant date := v_today - pgtick.slot_retention_days();
  v_problem text;
begin
  if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgtick.maintain')) then return; end if;
  begin
    perform pgtick.take_overdue(array(select r.id from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null), v_now);
  exception when others then
    v_problem := format('overdue claims: %s', sqlerrm);
  end;
  begin
    perform pgtick.purge_cron_log(v_slots_from::timestamp at time zone 'UTC');
    perform pgtick.sweep_keys(v_now);
    delete from pgtick.history_default as h where h.expires_on < v_today;
    delete from pgtick.slot_log_default as s where coalesce(s.last_slot, s.slot) < v_slots_from::timestamp at time zone 'UTC';
    delete from pgtick.outages as o where o.ended_at < v_slots_from::timestamp at time zone 'UTC';
    delete from pgtick.runner_leases as r where r.freed_at < v_slots_from::timestamp at time zone 'UTC';
    delete from pgtick.batch_defs as b where b.finished_at < v_now - interval '400 days';
    delete from pgtick.audit as a where a.at < v_now - interval '400 days';
    perform pgtick.prune_requests(v_now);
    perform pgtick.drop_counts(v_now);
  exception when others then
    v_problem := concat_ws('; ', v_problem, format('retention: %s', sqlerrm));
  end;
  begin
    perform pgtick.make_partition('history', d.day) from pgtick.history_days(v_today) as d(day);
    for v_ahead in -1 .. 2 loop perform pgtick.make_partition('slot_log', v_today + v_ahead); end loop;
  exception when others then
    v_problem := concat_ws('; ', v_problem, format('partitions ahead: %s', sqlerrm));
  end;
  insert into pgtick.upkeep as u (what, done_at, problem) values ('maintain', v_now, v_problem)
  on conflict (what) do update set done_at = excluded.done_at, problem = excluded.problem;
  begin
    perform pgtick.drop_partitions('history', v_today);
    perform pgtick.drop_partitions('slot_log', v_slots_from);
  exception when others then
    v_problem := concat_ws('; ', v_problem, format('old partitions: %s', sqlerrm));
    update pgtick.upkeep as u set problem = v_problem where u.what = 'maintain';
  end;
end
$$;
comment on function pgtick.maintain() is
  'Make the partitions of the coming days and drop what is past its retention (history by its expiry; slots, outages, ended runners and pg_cron''s record of pgtick''s runs after 60 days, or as set_slot_retention says; audit and batches after 400; counts of attempts after 3 hours to 15 days; requests of end users after 7, or the longest period of a quota). End attempts that are a lease beyond their timeout, named by their runner or not. Waits at most half a second for a lock; what it could not do shows in pgtick.health, and the clocks try again a minute later.';

-- A table's empty end is cut off by vacuum, an index keeps the size that it once had: of a backlog, or of what could not be cleaned away beside an old
-- transaction. To build those of a small table anew takes some tenths of a second at most, in which nothing is claimed (decision 0030). Not the index of
-- the table's toast: that may be large.
-- The lock is only tried for, again and again for two seconds: whoever waits for it makes all others wait behind. While some transaction that uses the
-- table is open all that time, it is left for the next call, and is no problem that anybody must hear of. In a transaction of its own, since reports
-- lock their live jobs, and then wait for whoever changes the partitions of history.
-- definer: indexes belong to the owner, and the runner's role may call this.
create or replace function pgtick.rebuild_indexes()
returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '100ms'
as $$
declare
  v_table constant bigint := pg_catalog.pg_relation_size('pgtick.live_jobs');
  v_indexes constant bigint := pg_catalog.pg_indexes_size('pgtick.live_jobs');
  v_until constant timestamptz := clock_timestamp() + interval '2 seconds';
  v_name text;
  v_count integer := 0;
  v_problem text;
begin
  if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgtick.indexes')) then return 0; end if;
  while v_table <= 32 * 1024 * 1024 and v_indexes >= 8 * 1024 * 1024 + v_table and clock_timestamp() < v_until loop
    begin
      lock table pgtick.live_jobs in access exclusive mode nowait;
      for v_name in
        select i.indexrelid::regclass::text from pg_catalog.pg_index as i
        where i.indrelid = 'pgtick.live_jobs'::regclass and pg_catalog.pg_relation_size(i.indexrelid) > 1024 * 1024
        order by 1
      loop
        execute format('reindex index %s', v_name);
        v_count := v_count + 1;
      end loop;
      exit;
    exception
      when lock_not_available then
        v_count := 0;
        perform pg_catalog.pg_sleep(0.02);
      when others then
        v_count := 0;
        v_problem := sqlerrm;
        exit;
    end;
  end loop;
  if v_count > 0 then
    raise log 'pgtick: % indexes of live_jobs built anew: % before, % now', v_count,
      pg_catalog.pg_size_pretty(v_indexes), pg_catalog.pg_size_pretty(pg_catalog.pg_indexes_size('pgtick.live_jobs'));
  end if;
  insert into pgtick.upkeep as u (what, done_at, problem) values ('indexes', pgtick.now(), v_problem)
  on conflict (what) do update set done_at = excluded.done_at, problem = excluded.problem;
  return v_count;
end
$$;
comment on function pgtick.rebuild_indexes() is
  'Build the indexes of pgtick.live_jobs anew where they have 8 MiB more than the table, and that has at most 32 MiB: an old transaction or a large backlog has left them behind. Returns how many; 0 also while another call is at it, where for two seconds there was no moment at which nobody used the table, and where it failed, which pgtick.health then tells. The clocks call it every five minutes.';
