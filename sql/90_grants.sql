-- Rights start from nothing: each file 9x_grants_*.sql after this one grants by name what its subject needs.
-- "alter default privileges" has no effect on functions' grant to public, so it is revoked function by function, here, each time.

do $$
declare
  v_schema text;
  v_table text;
  v_role text;
begin
  foreach v_schema in array array['pgtick', 'credits', 'analytics']::text[] loop
    continue when to_regnamespace(v_schema) is null;
    for v_table in
      select c.oid::regclass::text
      from pg_catalog.pg_class as c
      where c.relnamespace = to_regnamespace(v_schema) and c.relkind in ('r', 'p') and not c.relrowsecurity
        and pg_catalog.pg_has_role(c.relowner, 'usage')
    loop
      execute format('alter table %s enable row level security', v_table);
    end loop;
    for v_role in
      select 'public'
      union all
      select quote_ident(r.rolname) from pg_catalog.pg_roles as r
      where r.rolname in ('anon', 'authenticated', 'service_role', 'pgtick_runner', 'pgtick_reader', 'pgtick_operator')
    loop
      execute format('revoke all on schema %I from %s', v_schema, v_role);
      execute format('revoke all on all tables in schema %I from %s', v_schema, v_role);
      execute format('revoke all on all sequences in schema %I from %s', v_schema, v_role);
      execute format('revoke all on all routines in schema %I from %s', v_schema, v_role);
    end loop;
  end loop;
end
$$;

select pgtick.grant_to('{authenticated,service_role,pgtick_runner,pgtick_reader}', 'usage', '{schema pgtick}');
