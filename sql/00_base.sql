-- What every other file stands on: the clock, how bad input is refused, and the three roles.

-- plpgsql, since a function in SQL with a search_path is not inlined but planned anew in each statement: some 10 µs.
create or replace function pgtick.now()
returns timestamptz
language plpgsql volatile parallel safe
set search_path = ''
as $$
begin
  return pg_catalog.clock_timestamp();
end
$$;
comment on function pgtick.now() is 'The one clock of pgtick, leases and credits included: the moment of the call, not of the transaction. Read it once, after the locks. Tests replace this function.';

-- Every refusal of a bad value leaves through here, so that each names the field, the value and what is allowed.
create or replace function pgtick.invalid(p_field text, p_value text, p_rule text, p_hint text default null)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK000',
    message = format('%s %s is refused: %s', left(p_field, 60), coalesce('"' || left(p_value, 100) || '"', 'null'), left(p_rule, 600)),
    hint = case when left(p_hint, 600) ~ '[[:alnum:]]' then left(p_hint, 600) else format('Give %s another value.', left(p_field, 60)) end;
end
$$;
comment on function pgtick.invalid(text, text, text, text) is 'Raise TK000 for a value that is not allowed.';

create or replace function pgtick.refuse_name(p_field text, p_name text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_name is null or length(p_name) not between 1 and 200 or p_name ~ E'[\\u0001-\\u001f\\u007f-\\u009f]' or btrim(p_name) = '' then
    perform pgtick.invalid(p_field, p_name, 'a name has 1 to 200 characters, not only blanks, and no control characters');
  end if;
end
$$;
comment on function pgtick.refuse_name(text, text) is 'Raise TK000 unless this may be the name of a task, a queue, a runner or a schedule.';

create or replace function pgtick.nearest_name(p_name text, p_names text[])
returns text
language sql immutable parallel safe
set search_path = ''
as $$
  select near.name
  from unnest(p_names) as near(name),
    lateral (select count(*) from generate_series(1, least(length(p_name), 200) - 1) as i
      where strpos(lower(near.name), lower(substr(p_name, i, 2))) > 0) as same(parts)
  where same.parts >= 2
  order by same.parts desc, abs(length(near.name) - length(p_name)), near.name
  limit 1
$$;
comment on function pgtick.nearest_name(text, text[]) is 'Which of these names looks most like this one, by the pairs of letters that they share; null where none does.';

-- Who asks: the end user of a Supabase request where there is one, otherwise the role that logged in. Any login can say what it likes in the
-- claims: beside those of one that is neither the API's nor the owner's, its own name stands as well.
create or replace function pgtick.caller()
returns text
language plpgsql stable parallel restricted
set search_path = ''
as $$
declare
  v_sub text;
begin
  begin
    v_sub := nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';
  exception when data_exception or program_limit_exceeded then   -- nobody's, so that nothing is recorded under a name that is not the caller's
    raise exception using errcode = 'TK024', message = 'request.jwt.claims is not JSON', hint = 'Set it to the claims of the user''s token, as PostgREST does, or to nothing.';
  end;
  return case
    when v_sub is null then session_user::text
    when session_user in ('authenticator', (select pg_catalog.pg_get_userbyid(n.nspowner) from pg_catalog.pg_namespace as n where n.nspname = 'pgtick')) then v_sub
    else format('%s (login %s)', v_sub, session_user)
  end;
end
$$;
comment on function pgtick.caller() is 'Who asks, for the record: the JWT''s subject, or the login role; both where the login is neither that of Supabase''s API nor the owner''s.';

-- definer: a dashboard writes down what an operator did with it, and writes no table.
create or replace function pgtick.note_action(p_action text, p_subject text, p_details jsonb default null)
returns void
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  insert into pgtick.audit (at, by_whom, action, subject, details) values (pgtick.now(), pgtick.caller(), p_action, p_subject, p_details)
$$;
comment on function pgtick.note_action(text, text, jsonb) is 'Write down what somebody did: who, what, when.';

-- The roles belong to the whole server. They get no login here: "alter role pgtick_runner login password …" is the owner's to say.
do $$
declare
  v_role text;
begin
  foreach v_role in array '{pgtick_runner,pgtick_reader,pgtick_operator}'::text[] loop
    begin   -- a block for each: what befalls one role is no reason to leave out the next, or to undo the one before
      if not exists (select from pg_catalog.pg_roles as r where r.rolname = v_role) then
        execute format('create role %I nologin', v_role);
      end if;
    exception
      when duplicate_object or unique_violation then null;   -- another database's migrate was faster
      when insufficient_privilege then
        raise notice 'pgtick: role % is missing and % may not create roles; as one who may: create role % nologin', v_role, current_user, v_role;
    end;
  end loop;
end
$$;

-- Whoever acts has to see what on: what readers may, operators may. (As a member of pgtick_reader an operator would depend on who made the roles.)
create or replace function pgtick.grant_to(p_roles text[], p_privilege text, p_objects text[])
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_role text;
  v_object text;
begin
  for v_role in
    select r.rolname from pg_catalog.pg_roles as r
    where r.rolname = any (p_roles) or r.rolname = 'pgtick_operator' and 'pgtick_reader' = any (p_roles)
    order by 1
  loop
    foreach v_object in array p_objects loop
      execute format('grant %s on %s to %I', p_privilege, v_object, v_role);
    end loop;
  end loop;
end
$$;
comment on function pgtick.grant_to(text[], text, text[]) is 'Grant a privilege on objects to those of the roles that exist, and what pgtick_reader gets to pgtick_operator as well. For migrate; p_privilege and p_objects are SQL text.';

-- The subject of somebody else's token need not be a UUID, and what a session has set by itself need not be JSON: it is told so here, since the policies
-- on every table call this first. (Restricted, since a parallel worker could not run the block with a handler.)
create or replace function pgtick.user_id()
returns uuid
language plpgsql stable parallel restricted
set search_path = ''
as $$
declare
  v_sub text;
begin
  begin
    v_sub := nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', '');
  exception when data_exception or program_limit_exceeded then
    raise exception using errcode = 'TK024', message = 'request.jwt.claims is not JSON', hint = 'Set it to the claims of the user''s token, as PostgREST does, or to nothing.';
  end;
  if v_sub !~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then
    raise exception using errcode = 'TK024', message = format('"%s", the subject of the token, is no UUID', left(v_sub, 100)),
      hint = 'Rows of an end user are known by a UUID: sign in with Supabase Auth, or have the token''s issuer put the user''s UUID into sub.';
  end if;
  return v_sub::uuid;
end
$$;
comment on function pgtick.user_id() is 'The end user of the present Supabase request: the JWT''s subject, as auth.uid() gives it; null outside of one. Raises TK024 where it is no UUID, or the claims are not JSON.';

-- One policy a table and role, made anew: a role may have come since.
create or replace function pgtick.allow_rows(p_role text, p_tables text[], p_condition text)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_table text;
begin
  if p_role = 'pgtick_reader' then perform pgtick.allow_rows('pgtick_operator', p_tables, p_condition); end if;
  if to_regrole(p_role) is null then return; end if;
  foreach v_table in array p_tables loop
    execute format('drop policy if exists %I on %s', 'read_' || p_role, v_table);
    execute format('create policy %I on %s for select to %I using (%s)', 'read_' || p_role, v_table, p_role, p_condition);
  end loop;
end
$$;
comment on function pgtick.allow_rows(text, text[], text) is 'Let a role, where it exists, read the rows of these tables that fulfil a condition; what pgtick_reader sees, pgtick_operator does as well. For migrate; the condition is SQL text.';
