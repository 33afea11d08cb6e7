-- Copies of a database: a branch, a clone, a restore. A runner works only at an address that is recorded.

-- definer: the runner's role writes no table, and the first runner records where nothing is recorded.
create or replace function pgtick.check_address(p_address text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_known text;
begin
  if (length(p_address) between 1 and 500) is not true then
    perform pgtick.invalid('address', p_address, 'host or Supabase project, a slash, and the database''s name: of 1 to 500 characters');
  end if;
  if exists (select from pgtick.addresses as a where a.address = p_address) then return; end if;
  insert into pgtick.addresses (address, adopted_at, adopted_by)
  select p_address, pgtick.now(), pgtick.caller() where not exists (select from pgtick.addresses)
  on conflict do nothing;
  if found or exists (select from pgtick.addresses as a where a.address = p_address) then return; end if;
  select string_agg(a.address, ', ' order by a.adopted_at) into v_known from pgtick.addresses as a;
  raise exception using errcode = 'TK009', message = format('this database belongs to %s, not to %s', v_known, p_address),
    hint = format('If it is a copy, leave its jobs alone. To let runners work under this address too: pgtick adopt. If it has moved: pgtick adopt --only.');
end
$$;
comment on function pgtick.check_address(text) is 'Raise TK009 unless runners may work on this database under this address. Where none is recorded, record it.';

create or replace function pgtick.adopt(p_address text, p_only boolean default false)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if (length(p_address) between 1 and 500) is not true then
    perform pgtick.invalid('address', p_address, 'host or Supabase project, a slash, and the database''s name: of 1 to 500 characters');
  end if;
  if p_only then delete from pgtick.addresses as a where a.address <> p_address; end if;
  insert into pgtick.addresses (address, adopted_at, adopted_by) values (p_address, pgtick.now(), pgtick.caller()) on conflict do nothing;
end
$$;
comment on function pgtick.adopt(text, boolean) is 'Let runners work on this database under this address; p_only: under no other. For the owner. Raises TK000.';
