-- What end users may do for themselves, where the owner of the application allows it: off until then.

-- It grants, so only the owner may call it.
create or replace function credits.allow_own(p_operation text, p_allowed boolean default true)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if (p_operation in ('charge', 'hold', 'capture', 'release')) is not true then
    perform credits.invalid('operation', p_operation, 'charge, hold, capture or release');
  end if;
  if p_allowed is null then
    perform credits.invalid('allowed', null, 'true allows it, false forbids it');
  end if;
  if p_allowed then
    insert into credits.own_operations (operation, allowed_at, allowed_by) values (p_operation, pgtick.now(), session_user) on conflict (operation) do nothing;
  else
    delete from credits.own_operations as o where o.operation = p_operation;
  end if;
  perform credits.grant_own();
end
$$;
comment on function credits.allow_own(text, boolean) is
  'Let the role authenticated charge, hold, capture or release (p_operation) credits of the user''s own account, by credits.my_charge and so on, or forbid it again. For the owner of the schema. Stays through upgrades. Raises TK100.';

create or replace function credits.grant_own()
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_one record;
begin
  if not exists (select from pg_catalog.pg_roles as r where r.rolname = 'authenticated') then
    return;
  end if;
  for v_one in
    select p.oid::regprocedure as function, o.operation is not null as allowed
    from pg_catalog.pg_proc as p
    left join credits.own_operations as o on 'my_' || o.operation = p.proname
    where p.pronamespace = 'credits'::regnamespace and p.proname in ('my_charge', 'my_hold', 'my_capture', 'my_release')
  loop
    execute format(case when v_one.allowed then 'grant execute on function %s to authenticated' else 'revoke execute on function %s from authenticated' end, v_one.function);
  end loop;
end
$$;
comment on function credits.grant_own() is 'Grant and revoke as credits.own_operations says.';

create or replace function credits.me()
returns uuid
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_user_id constant uuid := pgtick.user_id();
begin
  if v_user_id is null then
    perform credits.unknown_account(null);
  end if;
  return v_user_id;
end
$$;
comment on function credits.me() is 'The end user who asks. Raises TK102 where the request names none.';

-- An end user's hold: that of another one is as if it did not exist.
create or replace function credits.check_own_hold(p_hold_id bigint)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  if not exists (select from credits.holds as h where h.id = p_hold_id and h.user_id = credits.me()) then
    perform credits.unknown_hold(p_hold_id);
  end if;
end
$$;
comment on function credits.check_own_hold(bigint) is 'Raise TK103 unless the hold is the asking end user''s.';

-- Definer, all four: end users have no other rights to book than these.
create or replace function credits.my_charge(
  p_amount bigint default null, p_idempotency_key text default null, p_endpoint text default null, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  return credits.charge(credits.me(), p_amount, p_idempotency_key, p_endpoint, p_description, p_reference_id);
end
$$;
comment on function credits.my_charge(bigint, text, text, text, text) is 'credits.charge for the end user who asks, where credits.allow_own allows it.';

create or replace function credits.my_hold(
  p_amount bigint, p_expires_in interval, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  return credits.hold(credits.me(), p_amount, p_expires_in, p_idempotency_key, p_description, p_reference_id);
end
$$;
comment on function credits.my_hold(bigint, interval, text, text, text) is 'credits.hold for the end user who asks, where credits.allow_own allows it.';

create or replace function credits.my_capture(p_hold_id bigint, p_amount bigint default null, p_description text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform credits.check_own_hold(p_hold_id);
  return credits.capture(p_hold_id, p_amount, p_description);
end
$$;
comment on function credits.my_capture(bigint, bigint, text) is 'credits.capture for a hold of the end user who asks, where credits.allow_own allows it.';

create or replace function credits.my_release(p_hold_id bigint, p_description text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform credits.check_own_hold(p_hold_id);
  return credits.release(p_hold_id, p_description);
end
$$;
comment on function credits.my_release(bigint, text) is 'credits.release for a hold of the end user who asks, where credits.allow_own allows it.';
