-- The last step of each migrate, after tables and functions. It puts each thing in place only where it has never been before, so
-- that what a user has changed or removed stays so.

do $$
begin
  perform pgtick.maintain();
end
$$;

do $$
declare
  v_new record;
begin
  if to_regprocedure('credits.default_schedules()') is null then return; end if;
  perform set_config('pgtick.source', 'migrate', true);   -- what pgtick schedules apply --prune leaves alone
  for v_new in
    select s.* from credits.default_schedules() as s
    where not exists (select from pgtick.installed as i where i.kind = 'schedule' and i.name = s.name)
      and not exists (select from pgtick.schedule_defs as d where d.name = s.name)
  loop
    perform pgtick.schedule(v_new.name, v_new.cron, v_new.task, p_on_missed => v_new.on_missed,
      p_catch_up_limit => v_new.catch_up_limit, p_timeout => v_new.timeout);
    insert into pgtick.installed (kind, name, installed_at) values ('schedule', v_new.name, pgtick.now());
  end loop;
end
$$;

-- What a transaction of the credit tasks has to keep to: a chunk changes at most three rows for each of the 20,000 that it may have at most.
do $$
declare
  v_new record;
begin
  if to_regprocedure('credits.chunk_faults()') is null then return; end if;
  insert into pgtick.gates (name, query, set_at, set_by)
  select 'credits: accounts continue their entries', 'select * from credits.chunk_faults()', pgtick.now(), pgtick.caller()
  where not exists (select from pgtick.installed as i where i.kind = 'gate' and i.name = 'credits: accounts continue their entries')
  on conflict (name) do nothing;
  insert into pgtick.installed (kind, name, installed_at) values ('gate', 'credits: accounts continue their entries', pgtick.now()) on conflict (kind, name) do nothing;
  for v_new in
    select s.task, case when s.task <> 'credits.sync_credit_usage_with_supabase' then '{credits: accounts continue their entries}' else '{}' end::text[] as gates
    from credits.default_schedules() as s
    where not exists (select from pgtick.installed as i where i.kind = 'rules' and i.name = s.task)
  loop
    if not exists (select from pgtick.task_rules as r where r.task = v_new.task) and v_new.gates <@ array(select g.name from pgtick.gates as g) then
      perform pgtick.write_rules(v_new.task, v_new.gates, 60000, false);
    end if;
    insert into pgtick.installed (kind, name, installed_at) values ('rules', v_new.task, pgtick.now());
  end loop;
end
$$;

-- pg_cron in this very database. A server has it in one database only (cron.database_name); from another one it is reached through
-- cron.schedule_in_database, which takes a connection there: that is for "pgtick migrate" to do.
do $$
declare
  v_name text := 'pgtick';
  v_home text;
begin
  if exists (select from pgtick.installed as i where i.kind = 'pg_cron') then return; end if;
  begin
    v_home := current_setting('cron.database_name', true);   -- null: not loaded
  exception when insufficient_privilege then
    v_home := current_database();   -- it is loaded, but we may not know where: trying shows
  end;
  if not exists (select from pg_catalog.pg_extension as e where e.extname = 'pg_cron') then
    if v_home is distinct from current_database() then return; end if;
    if not exists (select from pg_catalog.pg_available_extensions as a where a.name = 'pg_cron') then return; end if;
    create extension pg_cron with schema pg_catalog;
  end if;
  if not exists (select from cron.job as c where c.database = current_database() and c.command = 'call pgtick.run_ticks()') then
    -- Names are unique for each user, whatever the database: the entry of another one is not ours to take over.
    if exists (select from cron.job as c where c.jobname = 'pgtick' and c.username = current_user and c.database <> current_database()) then
      v_name := 'pgtick_' || current_database();
    end if;
    perform cron.schedule(v_name, '* * * * *', 'call pgtick.run_ticks()');
  end if;
  insert into pgtick.installed (kind, name, installed_at) values ('pg_cron', v_name, pgtick.now());
exception when others then
  raise notice 'pgtick: pg_cron is not to be had here: %', sqlerrm;
end
$$;
