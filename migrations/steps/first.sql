-- Before anything is changed: what would stop a migrate halfway, each with the remedy.
do $$
declare
  v_found record;
  v_me constant text := quote_ident(current_user);
begin
  for v_found in
    select s.name from unnest('{pgtick,credits,analytics}'::text[]) with ordinality as s(name, n)
    where to_regnamespace(s.name) is null and not has_database_privilege(current_database(), 'create') order by s.n
  loop
    raise exception using errcode = 'TK000', message = format('schema %s is missing, and %s may create none in database %I', v_found.name, v_me, current_database()),
      hint = format('As one who may: grant create on database %I to %s', current_database(), v_me);
  end loop;
  for v_found in
    select n.nspname as name, n.nspowner::regrole as owner from pg_catalog.pg_namespace as n
    where n.nspname in ('pgtick', 'credits', 'analytics') and not pg_has_role(n.nspowner, 'usage') order by n.nspname = 'pgtick' desc
  loop
    raise exception using errcode = 'TK000', message = format('schema %I belongs to %s, and %s may not change it', v_found.name, v_found.owner, v_me),
      hint = format('Migrate as %s; or as one who may: alter schema %I owner to %s', v_found.owner, v_found.name, v_me);
  end loop;
  for v_found in
    select o.kind, o.name, o.owner::regrole as owner from (
      select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, c.oid::regclass::text, c.relowner from pg_catalog.pg_class as c
      where c.relnamespace in (to_regnamespace('pgtick'), to_regnamespace('credits')) and c.relkind in ('r', 'p', 'v', 'S')
      union all
      select 'routine', p.oid::regprocedure::text, p.proowner from pg_catalog.pg_proc as p
      where p.pronamespace in (to_regnamespace('pgtick'), to_regnamespace('credits')) and p.prokind <> 'a'
    ) as o(kind, name, owner)
    where not pg_has_role(o.owner, 'usage') order by o.name limit 1
  loop
    raise exception using errcode = 'TK000', message = format('%s %s belongs to %s, and %s may not change it', v_found.kind, v_found.name, v_found.owner, v_me),
      hint = format('Migrate as %s; or as one who may: alter %s %s owner to %s (and so for all others of %1$s)', v_found.owner, v_found.kind, v_found.name, v_me);
  end loop;
end
$$;
