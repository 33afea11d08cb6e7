-- All of it. Nothing above has touched the database: it is here that the parts are run, each only where it is missing.
do $pgtick$
declare
  v_latest constant bigint := {latest};
  v_hash constant text := '{hash}';
  v_names constant text[] := array[{names}];
  v_in_force boolean := false;
  v_have bigint;
  v_version bigint;
  v_holder integer;
  v_tired constant timestamptz := clock_timestamp() + interval '5 minutes';
  v_part record;
  v_detail text;
  v_hint text;
begin
  -- One at a time, by the lock of "pgtick migrate". Tried for, not waited for, so that nobody is taken for part of a deadlock; and where
  -- the other one waits for us (it builds an index concurrently, which waits for all older transactions), it goes first.
  while not pg_try_advisory_xact_lock({lock}) loop
    select l.pid into v_holder from pg_catalog.pg_locks as l
    where l.locktype = 'advisory' and l.granted and l.classid = ({lock} >> 32)::oid and l.objid = ({lock} & 4294967295)::oid and l.objsubid = 1
      and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database());
    if clock_timestamp() > v_tired or pg_backend_pid() = any (pg_blocking_pids(v_holder)) then
      raise exception using errcode = 'TK000', message = format('another migrate is at work in database %I (process %s)', current_database(), v_holder),
        hint = 'Nothing has been changed. Wait until it has ended, then run this again.';
    end if;
    perform pg_sleep(0.05);
  end loop;

  if to_regclass('{versions}') is not null then
    select max(v.version_id) into v_have from {versions} as v where v.is_applied;
  end if;
  if v_have > v_latest then
    raise notice 'pgtick: nothing to do: this database has schema %, and this file brings %', v_have, v_latest;
    return;
  end if;

  execute current_setting('pgtick.part_1');   -- steps/first.sql, whose words need no others around them
  if to_regnamespace('pgtick') is null then
    create schema pgtick;
  end if;
  if to_regclass('{versions}') is null then
    {create versions};
    insert into {versions} (version_id, is_applied) values (0, true);
  end if;
  if to_regclass('pgtick.applied_sql') is not null then
    select exists (select from pgtick.applied_sql as a where a.hash = v_hash and a.api_roles = {roles}) into v_in_force;
  end if;

  for v_part in select p.name, p.n from unnest(v_names) with ordinality as p(name, n) where p.n > 1 order by p.n loop
    v_version := substring(v_part.name from '^migrations/([0-9]+)')::bigint;
    continue when v_version is not null and exists (select from {versions} as v where v.version_id = v_version and v.is_applied);
    continue when v_in_force and (v_part.name like 'sql/%' or v_part.name = 'steps/versions.sql');
    begin
      execute current_setting('pgtick.part_' || v_part.n);
    exception when others then   -- said anew, since the context of the error would be the whole part
      get stacked diagnostics v_detail = pg_exception_detail, v_hint = pg_exception_hint;
      raise exception using errcode = sqlstate, message = format('%s: %s%s', v_part.name, sqlerrm, ' (' || nullif(v_detail, '') || ')'),
        hint = coalesce(nullif(v_hint, ''), 'Nothing has been changed. When that is put right, run this again.');
    end;
    if v_version is not null then
      insert into {versions} (version_id, is_applied) values (v_version, true);
      v_in_force := false;
    elsif v_part.name = 'steps/versions.sql' then
      {record};
    end if;
  end loop;

  if not exists (select from pgtick.installed as i where i.kind = 'pg_cron') then
    raise notice 'pgtick: no pg_cron in this database: {no cron}';
  end if;
end
$pgtick$;
