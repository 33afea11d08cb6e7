-- The task sql: jobs that call a function of the owner's. What may be called is registered here, by the owner; args only ever carry values.

-- Types whose values can be made from JSON without running anybody's code: those of pg_catalog, enums, and arrays of both.
create or replace function pgtick.is_plain_type(p_type oid)
returns boolean
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return (
    select case
      when t.typtype = 'e' then true
      when t.typcategory = 'A' and t.typelem <> 0 then pgtick.is_plain_type(t.typelem)
      else t.typtype in ('b', 'r', 'm') and t.typnamespace = 'pg_catalog'::regnamespace end
    from pg_catalog.pg_type as t
    where t.oid = p_type);
end
$$;
comment on function pgtick.is_plain_type(oid) is 'Whether a parameter of the task sql may have this type: one of pg_catalog, an enum, or an array of such.';

-- One row for each parameter that a caller gives.
create or replace function pgtick.parameters_of(p_function oid)
returns table (name text, type text, is_plain boolean, is_optional boolean)
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return query
  select p.proargnames[i.n], pg_catalog.format_type(i.type, null), pgtick.is_plain_type(i.type), i.n > p.pronargs - p.pronargdefaults
  from pg_catalog.pg_proc as p
  cross join lateral unnest(p.proargtypes::oid[]) with ordinality as i(type, n)
  where p.oid = p_function
  order by i.n;
end
$$;
comment on function pgtick.parameters_of(oid) is 'The input parameters of a function: name, type, whether jobs may give it, and whether it has a default.';

create or replace function pgtick.allow_function(p_function regprocedure, p_as_role name)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_proc pg_catalog.pg_proc;
  v_name text;
  v_wrong text;
  v_logins text;
begin
  select * into v_proc from pg_catalog.pg_proc as p where p.oid = p_function;
  if not found then perform pgtick.invalid('function', null, 'a function or procedure of this database'); end if;
  v_name := (select n.nspname from pg_catalog.pg_namespace as n where n.oid = v_proc.pronamespace) || '.' || v_proc.proname;
  if v_proc.prokind not in ('f', 'p') or v_proc.prorettype in ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype) then
    perform pgtick.invalid('function', v_name, 'a plain function or a procedure, no aggregate, window function or trigger');
  end if;
  if v_proc.proargmodes && '{o,b,v}'::"char"[] then
    perform pgtick.invalid('function', v_name, 'its parameters are plain input: none is out, inout or variadic', 'Wrap it in a function that returns what it gives.');
  end if;
  select a.type into v_wrong from pgtick.parameters_of(p_function) as a where a.name is null or a.name = '' or not a.is_plain limit 1;
  if found then
    perform pgtick.invalid('function', v_name, format('each parameter has a name, and a type of pg_catalog, an enum, or an array of these; one is %s', v_wrong),
      'Wrap it in a function with such parameters.');
  end if;
  if not exists (select from pg_catalog.pg_roles as r where r.rolname = p_as_role) then
    perform pgtick.invalid('as_role', p_as_role, 'a role of this server');
  end if;
  if exists (select from pg_catalog.pg_roles as r where r.rolname = p_as_role and r.rolsuper) then
    perform pgtick.invalid('as_role', p_as_role, 'it is no superuser', 'Make a role that may do just what the function needs.');
  end if;
  if not pg_catalog.has_schema_privilege(p_as_role, v_proc.pronamespace, 'usage') or not pg_catalog.has_function_privilege(p_as_role, v_proc.oid, 'execute') then
    perform pgtick.invalid('as_role', p_as_role, format('it may call %s', v_name),
      format('grant usage on schema %I to %I; grant execute on routine %s to %I;', (select n.nspname from pg_catalog.pg_namespace as n where n.oid = v_proc.pronamespace),
        p_as_role, p_function, p_as_role));
  end if;
  select string_agg(quote_ident(r.rolname), ', ' order by r.rolname) into v_logins
  from pg_catalog.pg_roles as r
  where r.rolcanlogin and exists (select from pg_catalog.pg_roles as x where x.rolname = 'pgtick_runner' and pg_catalog.pg_has_role(r.oid, x.oid, 'member'))
    and not pg_catalog.pg_has_role(r.oid, p_as_role, 'member');
  if v_logins is not null then
    perform pgtick.invalid('as_role', p_as_role, format('the runner''s login is a member of it; not so: %s', v_logins), format('grant %I to %s;', p_as_role, v_logins));
  end if;
  insert into pgtick.allowed_functions as a (name, function, as_role, allowed_at, allowed_by)
  values (v_name, v_name || '(' || pg_catalog.array_to_string(array(select pg_catalog.format_type(t.type, null) from unnest(v_proc.proargtypes::oid[]) with ordinality as t(type, n) order by t.n), ', ') || ')',
    p_as_role, pgtick.now(), session_user)
  on conflict (name) do update set function = excluded.function, as_role = excluded.as_role, allowed_at = excluded.allowed_at, allowed_by = excluded.allowed_by;
  return v_name;
end
$$;
comment on function pgtick.allow_function(regprocedure, name) is
  'Let jobs of the task sql call a function, or a procedure, as a role; by schema.name, which it returns. Of functions with the same name only the last one allowed may be called. For the owner of the schema. The parameters have names, and types of pg_catalog, enums, or arrays of these. Raises TK000, also where the role may not call it, or the runner''s login is no member of the role: the hint is the grant.';

create or replace function pgtick.disallow_function(p_name text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  delete from pgtick.allowed_functions as a where a.name = p_name;
  return found;
end
$$;
comment on function pgtick.disallow_function(text) is 'Let no job call the function schema.name any more. False when none could. For the owner of the schema.';

-- A wrong value is found by the very cast that the call will make; so it is said at enqueue which argument it is.
create or replace function pgtick.check_function_call(p_args jsonb)
returns void
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_allowed pgtick.allowed_functions;
  v_function oid;
  v_given constant jsonb := coalesce(p_args -> 'args', '{}');
  v_wrong text;
  v_one record;
begin
  if jsonb_typeof(p_args) <> 'object' then perform pgtick.invalid('args', p_args::text, 'args are a JSON object'); end if;
  select k.key into v_wrong from jsonb_object_keys(p_args) as k(key) where k.key not in ('function', 'args') limit 1;
  if found then perform pgtick.invalid('args.' || v_wrong, p_args ->> v_wrong, 'the task sql knows only function and args'); end if;
  select * into v_allowed from pgtick.allowed_functions as a where a.name = p_args ->> 'function';
  if not found then
    perform pgtick.invalid('args.function', p_args ->> 'function', 'a function that pgtick.allow_function allows, as schema.name', 'The owner of the schema may allow it.');
  end if;
  v_function := to_regprocedure(v_allowed.function)::oid;
  if v_function is null then
    perform pgtick.invalid('args.function', v_allowed.name, format('%s is gone, or has other parameters now', v_allowed.function), 'Call pgtick.allow_function again.');
  end if;
  if jsonb_typeof(v_given) <> 'object' then perform pgtick.invalid('args.args', v_given::text, 'an object: a value for each parameter, by its name'); end if;
  select k.key into v_wrong from jsonb_object_keys(v_given) as k(key) where k.key not in (select p.name from pgtick.parameters_of(v_function) as p) limit 1;
  if found then
    perform pgtick.invalid('args.args.' || v_wrong, v_given ->> v_wrong, format('%s has no such parameter', v_allowed.function));
  end if;
  for v_one in select p.name, p.type, p.is_optional from pgtick.parameters_of(v_function) as p loop
    if not v_given ? v_one.name then
      if not v_one.is_optional then perform pgtick.invalid('args.args.' || v_one.name, null, format('%s needs it: %s', v_allowed.function, v_one.type)); end if;
      continue;
    end if;
    begin
      execute format('select r.value::text from pg_catalog.jsonb_to_record($1) as r(value %s)', v_one.type)
      into v_wrong using jsonb_build_object('value', v_given -> v_one.name);
    exception when data_exception then
      perform pgtick.invalid('args.args.' || v_one.name, v_given ->> v_one.name, format('a value of type %s (%s)', v_one.type, sqlerrm));
    end;
  end loop;
end
$$;
comment on function pgtick.check_function_call(jsonb) is 'Raise TK000 unless these are args of the task sql: {"function": "schema.name", "args": {…}}, of an allowed function, with values that its parameters take.';

-- Definer: the runner reads no table. The text is made of names in the catalog; values travel as parameters.
create or replace function pgtick.function_call(
  p_args jsonb, out as_role text, out is_procedure boolean, out statement text, out texts text)
language plpgsql stable parallel unsafe security definer
set search_path = ''
as $$
declare
  v_allowed pgtick.allowed_functions;
  v_proc pg_catalog.pg_proc;
  v_called text;
  v_columns text;
  v_passed text;
  v_from text;
begin
  perform pgtick.check_function_call(p_args);
  select * into v_allowed from pgtick.allowed_functions as a where a.name = p_args ->> 'function';
  select * into v_proc from pg_catalog.pg_proc as p where p.oid = to_regprocedure(v_allowed.function);
  as_role := quote_ident(v_allowed.as_role);
  is_procedure := v_proc.prokind = 'p';
  v_called := (select format('%I.%I', n.nspname, v_proc.proname) from pg_catalog.pg_namespace as n where n.oid = v_proc.pronamespace);
  select string_agg(format('%I %s', p.name, p.type), ', ' order by p.n),
    string_agg(case when is_procedure then format('%I => $%s::%s', p.name, p.n, p.type) else format('%I => a.%I', p.name, p.name) end, ', ' order by p.n),
    'select array[' || string_agg(format('a.%I::text', p.name), ', ' order by p.n) || ']'
  into v_columns, v_passed, texts
  from (
    select x.name, x.type, row_number() over () as n from pgtick.parameters_of(v_proc.oid) as x where p_args -> 'args' ? x.name) as p;
  v_from := case when v_columns is null then 'from (select $1::jsonb) as a' else format('from pg_catalog.jsonb_to_record($1) as a(%s)', v_columns) end;
  if is_procedure then
    statement := format('call %s(%s)', v_called, v_passed);
    texts := texts || ' ' || v_from;
  elsif v_proc.proretset then
    statement := format('select pg_catalog.jsonb_agg(x.r) from (select pg_catalog.to_jsonb(f) as r %s cross join lateral %s(%s) as f limit 1000) as x', v_from, v_called, v_passed);
    texts := null;
  else
    statement := format('select %s %s cross join lateral (select %s(%s) as r offset 0) as f',
      case when v_proc.prorettype = 'void'::regtype then 'case when f.r::text is null then null::jsonb end' else 'pg_catalog.to_jsonb(f.r)' end, v_from, v_called, v_passed);
    texts := null;
  end if;
end
$$;
comment on function pgtick.function_call(jsonb) is
  'How a runner makes the call that a job of the task sql asks for. as_role: to set first, quoted. statement: the call; of a function with args.args as its one parameter, jsonb, and the result as jsonb; of a procedure with the texts as parameters that the query texts gives for args.args (null: none). Of a set 1,000 rows are kept. Raises TK000.';
