-- Holds: set credits aside, then capture or release them. The account's lock guards its holds as well.

-- All at once: windows by account follow held, the seq and the hash.
create or replace function credits.release_expired(p_hold_ids bigint[], p_now timestamptz, p_reason text, out released bigint, out credits numeric)
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
begin
  released := 0;
  credits := 0;
  if cardinality(p_hold_ids) = 0 then
    return;
  end if;
  with due as (
    select h.id as hold_id, h.user_id, h.amount, a.balance, a.head_hash, a.seq + row_number() over w as seq,
      (a.held - sum(h.amount) over (w rows unbounded preceding))::bigint as held_after, lead(h.id) over w is null as is_last,
      nextval('credits.transactions_id_seq') as id, uuid_send(gen_random_uuid()) as salt
    from credits.holds as h
    join credits.accounts as a on a.user_id = h.user_id
    where h.id = any (p_hold_ids) and h.status = 'open' and h.expires_at <= p_now
    window w as (partition by h.user_id order by h.id)
  ), digested as (
    select d.*, sha256(record_send(row(d.salt, null::bytea, null::bytea, convert_to(p_reason, 'UTF8')))) as text_hash from due as d
  ), entries as materialized (
    select d.*, credits.chain_next(row_number() over (partition by d.user_id order by d.hold_id) = 1, d.head_hash, record_send(row(d.id, d.user_id,
      d.seq, 'release'::bytea, 0::bigint, -d.amount, d.balance, d.held_after, d.hold_id, null::bigint, null::date, p_now, p_now, null::bytea, null::bytea, null::bytea, d.text_hash))) as hash
    from digested as d
  ), closed as (
    update credits.holds as h set status = 'expired', closed_seq = e.seq, closed_at = p_now, reason = p_reason from entries as e where h.id = e.hold_id
  ), moved as (
    update credits.accounts as a set seq = e.seq, held = e.held_after, head_hash = e.hash from entries as e where e.is_last and a.user_id = e.user_id
  ), booked as (
    insert into credits.transactions (id, user_id, seq, type, status, amount, held_amount, balance_after, held_after, hold_id, created_at, final_at, notes,
      salt, text_hash, hash)
    overriding system value
    select e.id, e.user_id, e.seq, 'release', 'COMPLETED', 0, -e.amount, e.balance, e.held_after, e.hold_id, p_now, p_now, p_reason, e.salt, e.text_hash, e.hash
    from entries as e
  )
  select count(*), coalesce(sum(e.amount), 0) into released, credits from entries as e;
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
  -- as in charge: what is plainly right is found so by one expression
  if (p_amount > 0 and p_user_id is not null and length(p_idempotency_key) between 1 and 255 and num_nonnulls(p_description, p_reference_id) = 0
    and p_expires_in between interval '1 second' and interval '1 day'
    and timestamptz '2001-02-01 12:00:00+00' + p_expires_in between '2001-02-01 12:00:01+00' and '2001-02-02 12:00:00+00') is not true   -- see check_expires_in
  then
    perform credits.check_amount(p_amount), credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id), credits.check_expires_in(p_expires_in);
  end if;
  v_request := record_send(row('hold'::bytea, p_user_id, p_amount, p_expires_in, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8')));
  v_account := credits.lock_account(p_user_id);
  e := credits.replayed(p_user_id, p_idempotency_key, v_request);
  if e.id is not null then
    return e.hold_id;
  end if;
  v_now := pgtick.now();
  if v_account.balance - v_account.held < p_amount then
    v_account := credits.make_available(v_account, p_amount, v_now);
  end if;
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

-- An interval of months has no length of its own: as such, '365 days' would be more than '1 year', and '-1 year 361 days' a day. So it is judged by the
-- time to which it leads from a first of February: from there no months are shorter, nor any that go back longer.
create or replace function credits.check_expires_in(p_expires_in interval)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_start constant timestamptz := '2001-02-01 12:00:00+00';
begin
  if p_expires_in > interval '400 days' or p_expires_in < interval '-400 days'
    or (v_start + p_expires_in > v_start and v_start + p_expires_in <= v_start + interval '366 days') is not true then
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

create or replace function credits.unknown_hold(p_hold_id bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK103', message = format('there is no hold %s', coalesce(p_hold_id::text, 'null')), hint = 'Use the id that credits.hold gave.';
end
$$;
comment on function credits.unknown_hold(bigint) is 'Raise TK103.';

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
    perform credits.unknown_hold(p_hold_id);
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

-- Definer: nobody but the owner writes the tables of credits. It books nothing, so it needs no key: twice is as once.
create or replace function credits.extend(p_hold_id bigint, p_expires_in interval)
returns timestamptz
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_hold credits.holds;
  v_now timestamptz;
begin
  perform credits.check_expires_in(p_expires_in);
  v_hold := credits.lock_hold(p_hold_id);
  v_now := pgtick.now();
  if v_hold.status = 'expired' or v_hold.status = 'open' and v_hold.expires_at <= v_now then
    raise exception using errcode = 'TK104', message = format('hold %s expired at %s', p_hold_id, v_hold.expires_at), hint = 'Open another hold.';
  end if;
  if v_hold.status <> 'open' then
    raise exception using errcode = 'TK103', message = format('hold %s is %s', p_hold_id, v_hold.status), hint = 'A hold is closed once; open another hold.';
  end if;
  if v_now + p_expires_in > v_hold.expires_at then
    update credits.holds as h set expires_at = v_now + p_expires_in where h.id = p_hold_id returning h.expires_at into v_hold.expires_at;
  end if;
  return v_hold.expires_at;
end
$$;
comment on function credits.extend(bigint, interval) is
  'Let an open hold last p_expires_in (more than 0, at most a year) from now; never shorter than it did. When it expires now. Raises TK100 for a bad value, TK103 for a hold that is unknown or closed, TK104 for one that has expired.';
