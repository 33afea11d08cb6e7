-- Accounts: open one, ask for its balance.

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.open_account(p_user_id uuid, p_tier text default 'standard')
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_user_id is null then
    perform credits.invalid('user_id', null, 'an account names its user');
  end if;
  if not exists (select from credits.tiers as t where t.name = p_tier) then
    raise exception using errcode = 'TK109', message = format('tier %s is refused: no such tier', coalesce('"' || left(p_tier, 100) || '"', 'null')),
      hint = format('Use one of: %s.', (select string_agg(t.name, ', ' order by t.monthly_credits, t.name) from credits.tiers as t));
  end if;
  insert into credits.accounts (user_id, tier, created_at) values (p_user_id, p_tier, pgtick.now()) on conflict (user_id) do nothing;
end
$$;
comment on function credits.open_account(uuid, text) is
  'Open the account of a user, empty, in tier p_tier (standard by default). An account that exists stays as it is. Raises TK100 without a user, TK109 for an unknown tier.';

-- Definer: callers have no rights on the tables.
create or replace function credits.balance(p_user_id uuid, out balance bigint, out held bigint, out available bigint)
language plpgsql volatile parallel safe security definer
set search_path = ''
as $$
declare
  v_now timestamptz;
begin
  select a.balance, a.held into balance, held from credits.accounts as a where a.user_id = p_user_id;
  if not found then
    perform credits.unknown_account(p_user_id);
  end if;
  if held > 0 then
    v_now := pgtick.now();
    held := held - (select coalesce(sum(h.amount), 0) from credits.holds as h where h.user_id = p_user_id and h.status = 'open' and h.expires_at <= v_now);
  end if;
  available := balance - held;
end
$$;
comment on function credits.balance(uuid) is
  'A user''s credits: balance, held by open holds that have not expired, and available = balance - held, which is what can be charged. Raises TK102 for an unknown user.';
