-- Holds: set credits aside, then capture or release them. The account's lock guards its holds as well.

-- The chain of each account is followed in memory; then all is written at once.
create or replace function credits.release_expired(p_hold_ids bigint[], p_now timestamptz, p_reason text, out released bigint, out credits numeric)
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_hold record;
  v_account credits.accounts;
  v_entries credits.transactions[] := '{}';
  e credits.transactions;
begin
  released := 0;
  credits := 0;
  for v_hold in
    select h.id, h.user_id, h.amount
    from credits.holds as h
    where h.id = any (p_hold_ids) and h.status = 'open' and h.expires_at <= p_now
    order by h.user_id, h.id
  loop
    if v_hold.user_id is distinct from v_account.user_id then
      select * into v_account from credits.accounts as a where a.user_id = v_hold.user_id;
    end if;
    e := credits.next_entry(v_account, 'release', 0, p_now, -v_hold.amount, v_hold.id, p_notes => p_reason);
    v_account.seq := e.seq;
    v_account.held := e.held_after;
    v_account.head_hash := e.hash;
    released := released + 1;
    credits := credits + v_hold.amount;
    v_entries[released] := e;
  end loop;
  if released = 0 then
    return;
  end if;
  with entries as materialized (
    select * from unnest(v_entries)
  ), closed as (
    update credits.holds as h set status = 'expired', closed_seq = n.seq, closed_at = p_now, reason = p_reason from entries as n where h.id = n.hold_id
  ), moved as (
    update credits.accounts as a set seq = l.seq, held = l.held_after, head_hash = l.hash
    from (select distinct on (n.user_id) n.user_id, n.seq, n.held_after, n.hash from entries as n order by n.user_id, n.seq desc) as l
    where a.user_id = l.user_id
  )
  insert into credits.transactions overriding system value select * from entries;
end
$$;
comment on function credits.release_expired(bigint[], timestamptz, text) is
  'Release those of the holds that are open and have expired, and say why. Their accounts must be locked. How many they were, and of how many credits.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.hold(
  p_user_id uuid, p_amount bigint, p_expires_in interval, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_account credits.accounts;
  e credits.transactions;
  v_now timestamptz;
  v_request bytea;
begin
  perform credits.check_amount(p_amount);
  perform credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id);
  perform credits.check_expires_in(p_expires_in);
  v_request := record_send(row('hold'::bytea, p_user_id, p_amount, p_expires_in, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8')));
  v_account := credits.lock_account(p_user_id);
  e := credits.replayed(p_user_id, p_idempotency_key, v_request);
  if e.id is not null then
    return e.hold_id;
  end if;
  v_now := pgtick.now();
  v_account := credits.make_available(v_account, p_amount, v_now);
  e := credits.next_entry(v_account, 'hold', 0, v_now, p_amount, nextval('credits.holds_id_seq'), p_idempotency_key, v_request,
    p_description => p_description, p_reference_id => p_reference_id);
  with opened as (
    insert into credits.holds (id, user_id, amount, opened_seq, created_at, expires_at)
    overriding system value values (e.hold_id, p_user_id, p_amount, e.seq, v_now, v_now + p_expires_in)
  ), moved as (
    update credits.accounts as a set balance = e.balance_after, held = e.held_after, seq = e.seq, head_hash = e.hash where a.user_id = p_user_id
  )
  insert into credits.transactions overriding system value values (e.*);
  return e.hold_id;
end
$$;
comment on function credits.hold(uuid, bigint, interval, text, text, text) is
  'Set p_amount (1 or more) credits aside until they are captured or released, or p_expires_in (more than 0, at most a year) has passed. The id of the hold; the same request again gives the same id. Raises TK100 for a bad value, TK101 for too few credits, TK102 for an unknown user, TK105 when the key was used for something else.';

-- Intervals are compared as sums with one moment: as such, '365 days' would be more than '1 year'.
create or replace function credits.check_expires_in(p_expires_in interval)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_year timestamptz := '2001-01-01 00:00:00+00';
begin
  if p_expires_in > interval '400 days' or p_expires_in < interval '-400 days'
    or (v_year + p_expires_in > v_year and v_year + p_expires_in <= v_year + interval '366 days') is not true then
    perform credits.invalid('expires_in', p_expires_in::text, 'a hold lasts more than no time and at most a year', 'Give an interval such as ''30 minutes''.');
  end if;
end
$$;
comment on function credits.check_expires_in(interval) is 'Raise TK100 unless p_expires_in is more than 0 and at most a year (366 days).';

-- The closing entry of a hold that is closed already: closing it again in the same way gives the first result.
create or replace function credits.closed_by(p_hold credits.holds)
returns bigint
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return (select t.id from credits.transactions as t where t.user_id = p_hold.user_id and t.seq = p_hold.closed_seq);
end
$$;
comment on function credits.closed_by(credits.holds) is 'The id of the entry that closed the hold; null while it is open.';

create or replace function credits.lock_hold(p_hold_id bigint)
returns credits.holds
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_hold credits.holds;
  v_user_id uuid;
begin
  select h.user_id into v_user_id from credits.holds as h where h.id = p_hold_id;   -- never changes, so it can be read before the lock
  if not found then
    raise exception using errcode = 'TK103', message = format('there is no hold %s', coalesce(p_hold_id::text, 'null')), hint = 'Use the id that credits.hold gave.';
  end if;
  perform credits.lock_account(v_user_id);
  select * into v_hold from credits.holds as h where h.id = p_hold_id;
  return v_hold;
end
$$;
comment on function credits.lock_hold(bigint) is 'Lock the account of a hold until the transaction ends, and give the hold. Raises TK103 for an unknown one.';

create or replace function credits.close_hold(p_hold credits.holds, p_take bigint, p_now timestamptz, p_description text, p_reason text)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_account credits.accounts;
  e credits.transactions;
begin
  select * into v_account from credits.accounts as a where a.user_id = p_hold.user_id;
  e := credits.next_entry(v_account, case when p_take > 0 then 'capture' else 'release' end, -p_take, p_now, -p_hold.amount, p_hold.id,
    p_description => p_description);
  with closed as (
    update credits.holds as h
    set status = case when p_take > 0 then 'captured' else 'released' end, captured = p_take, closed_seq = e.seq, closed_at = p_now, reason = p_reason
    where h.id = p_hold.id
  ), moved as (
    update credits.accounts as a set balance = e.balance_after, held = e.held_after, seq = e.seq, head_hash = e.hash where a.user_id = e.user_id
  )
  insert into credits.transactions overriding system value values (e.*);
  return e.id;
end
$$;
comment on function credits.close_hold(credits.holds, bigint, timestamptz, text, text) is
  'Close an open hold whose account is locked: charge p_take of it (0 = none) and release the rest. The id of the entry.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.capture(p_hold_id bigint, p_amount bigint default null, p_description text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_hold credits.holds;
  v_now timestamptz;
begin
  if p_amount is not null then
    perform credits.check_amount(p_amount);
  end if;
  if length(p_description) > 4000 then
    perform credits.invalid('description', p_description, 'at most 4000 characters');
  end if;
  v_hold := credits.lock_hold(p_hold_id);
  v_now := pgtick.now();
  if v_hold.status = 'captured' and v_hold.captured = coalesce(p_amount, v_hold.amount) then
    return credits.closed_by(v_hold);
  end if;
  if v_hold.status = 'expired' or v_hold.status = 'open' and v_hold.expires_at <= v_now then
    raise exception using errcode = 'TK104', message = format('hold %s expired at %s', p_hold_id, v_hold.expires_at), hint = 'Charge the account, or open another hold.';
  end if;
  if v_hold.status <> 'open' then
    raise exception using errcode = 'TK103', message = format('hold %s is %s, %s of its %s credits captured', p_hold_id, v_hold.status, v_hold.captured, v_hold.amount),
      hint = 'A hold is closed once; charge the account, or open another hold.';
  end if;
  if p_amount > v_hold.amount then
    perform credits.invalid('amount', p_amount::text, format('at most what the hold is for, %s', v_hold.amount), 'Capture the hold, and charge the rest.');
  end if;
  return credits.close_hold(v_hold, coalesce(p_amount, v_hold.amount), v_now, p_description, 'captured');
end
$$;
comment on function credits.capture(bigint, bigint, text) is
  'Charge what a hold has set aside: all of it, or p_amount (1 to all), and the rest is released. The id of the entry; the same capture again gives the same id. Raises TK100 for a bad value, TK103 for a hold that is unknown or closed, TK104 for one that has expired.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.release(p_hold_id bigint, p_description text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_hold credits.holds;
begin
  if length(p_description) > 4000 then
    perform credits.invalid('description', p_description, 'at most 4000 characters');
  end if;
  v_hold := credits.lock_hold(p_hold_id);
  if v_hold.status in ('released', 'expired') then
    return credits.closed_by(v_hold);
  end if;
  if v_hold.status = 'captured' then
    raise exception using errcode = 'TK103', message = format('hold %s is captured', p_hold_id), hint = 'Credits that were captured are charged.';
  end if;
  return credits.close_hold(v_hold, 0, pgtick.now(), p_description, 'released');
end
$$;
comment on function credits.release(bigint, text) is
  'Give back what a hold has set aside. The id of the entry; for a hold that is released or expired already, the id of the entry that did it. Raises TK103 for a hold that is unknown or captured.';
