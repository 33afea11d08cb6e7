-- Accounts: open one, change its tier, ask for its balance and its statement.

create or replace function credits.check_tier(p_tier text)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  if not exists (select from credits.tiers as t where t.name = p_tier) then
    raise exception using errcode = 'TK109', message = format('tier %s is refused: no such tier', coalesce('"' || left(p_tier, 100) || '"', 'null')),
      hint = format('Use one of: %s.', (select string_agg(t.name, ', ' order by t.monthly_credits, t.name) from credits.tiers as t));
  end if;
end
$$;
comment on function credits.check_tier(text) is 'Raise TK109 unless there is such a tier.';

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
  perform credits.check_tier(p_tier);
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

create or replace function credits.month_share(p_monthly_credits bigint, p_created_at timestamptz, p_period date, p_for_new text)
returns bigint
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_opened constant date := (p_created_at at time zone 'UTC')::date;
  v_end constant date := (p_period + interval '1 month')::date;
begin
  return case
    when v_opened >= v_end then 0
    when v_opened < p_period or p_for_new = 'full' then p_monthly_credits
    when p_for_new = 'pro_rata' then trunc(p_monthly_credits::numeric * (v_end - v_opened) / (v_end - p_period))::bigint
    else 0 end;
end
$$;
comment on function credits.month_share(bigint, timestamptz, date, text) is
  'What an account opened at p_created_at gets for the month that begins on p_period, where its tier gives p_monthly_credits: all; for the month of its opening by p_for_new (full, pro_rata, none); nothing for months before. Days are UTC.';

create or replace function credits.allocation_for_new()
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return coalesce((select s.value from credits.settings as s where s.name = 'allocation_for_new'), 'full');
end
$$;
comment on function credits.allocation_for_new() is 'The setting allocation_for_new: full, pro_rata or none.';

-- Definer: nobody but the owner writes the tables of credits.
-- The rule: a higher tier counts at once, a lower one from next month on. So where this month's allocation has been given already, what
-- the new tier gives beyond all that was given for it is booked as an adjustment of it; down and up again gives nothing twice.
create or replace function credits.set_tier(p_user_id uuid, p_tier text)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_account credits.accounts;
  v_now timestamptz;
  v_given credits.transactions;
  v_more bigint;
  e credits.transactions;
begin
  if p_user_id is null then
    perform credits.invalid('user_id', null, 'an operation names its user');
  end if;
  perform credits.check_tier(p_tier);
  v_account := credits.lock_account(p_user_id);
  if v_account.tier = p_tier then
    return null;
  end if;
  update credits.accounts as a set tier = p_tier where a.user_id = p_user_id;
  v_now := pgtick.now();
  select * into v_given from credits.transactions as t
  where uuid_send(t.user_id) = uuid_send(p_user_id) and t.period = date_trunc('month', v_now at time zone 'UTC')::date;
  if not found then
    return null;   -- it is still to come, by the new tier
  end if;
  v_more := credits.month_share((select t.monthly_credits from credits.tiers as t where t.name = p_tier), v_account.created_at, v_given.period,
      credits.allocation_for_new()) - v_given.amount
    - (select coalesce(sum(t.amount), 0) from credits.transactions as t where t.related_id = v_given.id and t.type = 'adjustment' and t.user_id = p_user_id);
  if v_more <= 0 then
    return null;
  end if;
  e := credits.next_entry(v_account, 'adjustment', v_more, v_now, p_description => format('tier %s instead of %s', p_tier, v_account.tier), p_related_id => v_given.id);
  perform credits.write_entry(e);
  return e.id;
end
$$;
comment on function credits.set_tier(uuid, text) is
  'Put a user into another tier. What a higher one gives this month (UTC) beyond all that was given for it is booked at once, as an adjustment of the month''s allocation, whose id is returned; null when there is nothing to book: a lower tier takes nothing back, and an allocation that is still to come goes by the new tier. Raises TK100 without a user, TK102 for an unknown one, TK109 for an unknown tier.';

-- Definer: callers have no rights on the tables.
create or replace function credits.statement(p_user_id uuid, p_from_at timestamptz default null, p_to_at timestamptz default null)
returns table (seq bigint, at timestamptz, type text, amount bigint, held_amount bigint, balance bigint, held bigint, transaction_id bigint,
  hold_id bigint, related_id bigint, endpoint text, description text, reference_id text)
language plpgsql stable parallel safe security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
  if not exists (select from credits.accounts as a where a.user_id = p_user_id) then
    perform credits.unknown_account(p_user_id);
  end if;
  if p_from_at >= p_to_at then
    perform credits.invalid('to_at', p_to_at::text, format('it comes after from_at, %s', p_from_at));
  end if;
  return query
  select t.seq, t.final_at, t.type, t.amount, t.held_amount, t.balance_after, t.held_after, t.id, t.hold_id, t.related_id, t.endpoint, t.description, t.reference_id
  from credits.transactions as t
  where t.user_id = p_user_id and t.status = 'COMPLETED' and t.final_at >= coalesce(p_from_at, '-infinity') and t.final_at < coalesce(p_to_at, 'infinity')
  order by t.seq;
end
$$;
comment on function credits.statement(uuid, timestamptz, timestamptz) is
  'A user''s completed entries from p_from_at on and before p_to_at (null: without a bound), in the order of booking, each with the balance and held after it. Raises TK100 for bounds that are not in order, TK102 for an unknown user.';
