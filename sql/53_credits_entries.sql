-- Booking single entries: grant and charge. Lock order here and in all files of credits: accounts in user_id order, then holds, then the rest.

-- The next entry of an account that the caller has locked, with its digests. Written by the caller, together with the account's new head.
create or replace function credits.next_entry(
  p_account credits.accounts, p_type text, p_amount bigint, p_now timestamptz, p_held_amount bigint default 0, p_hold_id bigint default null,
  p_idempotency_key text default null, p_request bytea default null, p_endpoint text default null, p_description text default null,
  p_reference_id text default null, p_notes text default null, p_related_id bigint default null, p_id bigint default null)
returns credits.transactions
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_id constant bigint := coalesce(p_id, nextval('credits.transactions_id_seq'));
  v_salt constant bytea := uuid_send(gen_random_uuid());
  v_request_hash constant bytea := sha256(v_salt || p_request);
  v_text_hash bytea;
begin
  if p_amount > 9223372036854775807 - p_account.balance then
    perform credits.invalid('amount', p_amount::text, format('with the balance of %s it is beyond what a balance can hold', p_account.balance));
  end if;
  if num_nonnulls(p_description, p_reference_id, p_notes) > 0 then
    v_text_hash := credits.text_hash(v_salt, p_description, p_reference_id, p_notes);
  end if;
  -- One expression for all columns, in their order: one for each would take longer than the look-ups (see charge).
  return row(v_id, p_account.user_id, p_account.seq + 1, p_amount, p_held_amount, p_account.balance + p_amount, p_account.held + p_held_amount,
    p_hold_id, p_related_id, p_now, p_now, null::timestamptz, null::timestamptz, null::date, false, p_type, 'COMPLETED'::text, p_endpoint, p_idempotency_key,
    p_description, p_reference_id, p_notes, v_salt, v_request_hash, v_text_hash,
    sha256(p_account.head_hash || record_send(row(v_id, p_account.user_id, p_account.seq + 1, convert_to(p_type, 'UTF8'), p_amount, p_held_amount,
      p_account.balance + p_amount, p_account.held + p_held_amount, p_hold_id, p_related_id, null::date, p_now, p_now, convert_to(p_endpoint, 'UTF8'),
      convert_to(p_idempotency_key, 'UTF8'), v_request_hash, v_text_hash))))::credits.transactions;
end
$$;
comment on function credits.next_entry(credits.accounts, text, bigint, timestamptz, bigint, bigint, text, bytea, text, text, text, text, bigint, bigint) is
  'The next entry of a locked account, complete but not written; its id is p_id, or a new one. Raises TK100 when the balance would be beyond bigint.';

-- Locks the account, answers a known key with its first entry, then writes the entry and the account's head in one statement.
-- Credits of holds that have expired but are not cleaned up yet are released there and then, when they are needed.
create or replace function credits.book(
  p_user_id uuid, p_type text, p_amount bigint, p_idempotency_key text, p_request bytea, p_endpoint text default null,
  p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_account credits.accounts;
  e credits.transactions;
  v_now timestamptz;
begin
  v_account := credits.lock_account(p_user_id);
  e := credits.replayed(p_user_id, p_idempotency_key, p_request);
  if e.id is not null then
    return e.id;
  end if;
  v_now := pgtick.now();
  if p_amount < 0 then
    v_account := credits.make_available(v_account, -p_amount, v_now);
  end if;
  e := credits.next_entry(v_account, p_type, p_amount, v_now, p_idempotency_key => p_idempotency_key, p_request => p_request,
    p_endpoint => p_endpoint, p_description => p_description, p_reference_id => p_reference_id);
  perform credits.write_entry(e);
  return e.id;
end
$$;
comment on function credits.book(uuid, text, bigint, text, bytea, text, text, text) is
  'Book one entry that touches no hold, or give the id of the one booked before under the key. Raises TK101, TK102, TK105.';

create or replace function credits.lock_account(p_user_id uuid)
returns credits.accounts
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_account credits.accounts;
begin
  select * into v_account from credits.accounts as a where a.user_id = p_user_id for no key update;
  if not found then
    perform credits.unknown_account(p_user_id);
  end if;
  return v_account;
end
$$;
comment on function credits.lock_account(uuid) is 'Lock a user''s account until the transaction ends, and give its row. Raises TK102.';

create or replace function credits.make_available(p_account credits.accounts, p_needed bigint, p_now timestamptz)
returns credits.accounts
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if p_account.balance - p_account.held < p_needed and p_account.held > 0 then
    perform credits.release_expired(array(
      select h.id from credits.holds as h where h.user_id = p_account.user_id and h.status = 'open' and h.expires_at <= p_now
    ), p_now, 'expired: released when its credits were needed');
    select * into p_account from credits.accounts as a where a.user_id = p_account.user_id;
  end if;
  if p_account.balance - p_account.held < p_needed then
    perform credits.insufficient(p_needed, p_account.balance - p_account.held);
  end if;
  return p_account;
end
$$;
comment on function credits.make_available(credits.accounts, bigint, timestamptz) is
  'The locked account with at least p_needed credits available, after releasing its expired holds where that is needed. Raises TK101.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.grant(
  p_user_id uuid, p_amount bigint, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform credits.check_amount(p_amount);
  perform credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id);
  return credits.book(p_user_id, 'addition', p_amount, p_idempotency_key,
    record_send(row('grant'::bytea, p_user_id, p_amount, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8'))),
    p_description => p_description, p_reference_id => p_reference_id);
end
$$;
comment on function credits.grant(uuid, bigint, text, text, text) is
  'Add p_amount (1 or more) credits to a user''s balance. The id of the entry; the same request again gives the same id. Raises TK100 for a bad value, TK102 for an unknown user, TK105 when the key was used for something else.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.charge(
  p_user_id uuid, p_amount bigint default null, p_idempotency_key text default null, p_endpoint text default null,
  p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_amount bigint := p_amount;
  v_id bigint;
  v_now timestamptz;
  v_salt bytea;
  v_request bytea;
  v_request_hash bytea;
  v_text_hash bytea;
begin
  -- Each expression costs every charge a microsecond or two, so that what is plainly right is found so by one.
  if (p_amount > 0 and p_user_id is not null and length(p_idempotency_key) between 1 and 255
    and num_nonnulls(p_endpoint, p_description, p_reference_id) = 0) is not true
  then
    perform credits.check_charge(p_user_id, p_amount, p_idempotency_key, p_endpoint, p_description, p_reference_id);
    if p_amount is null then
      v_amount := (select r.credits_per_request from credits.usage_rates as r where r.endpoint = p_endpoint and r.is_active);
    end if;
  end if;
  v_request := record_send(row('charge'::bytea, p_user_id, p_amount, convert_to(p_endpoint, 'UTF8'), convert_to(p_description, 'UTF8'),
    convert_to(p_reference_id, 'UTF8')));
  v_salt := uuid_send(gen_random_uuid());
  v_request_hash := sha256(v_salt || v_request);
  if num_nonnulls(p_description, p_reference_id) > 0 then
    v_text_hash := credits.text_hash(v_salt, p_description, p_reference_id, null);
  end if;
  -- The fast path, one statement: test, move the head, book. It must not act on a snapshot from before a wait: another call under the
  -- same key may have booked meanwhile. Whoever books changes the account's row, so its xmin then differs from the one in the snapshot,
  -- and no row comes back. But the row is locked then, so a second try has a snapshot that holds. Where that gives nothing either, the slow
  -- path finds out why: it locks first, and looks afterwards.
  for v_try in 1 .. 2 loop
    v_id := nextval('credits.transactions_id_seq');
    v_now := pgtick.now();
    with moved as (
      update credits.accounts as a set balance = a.balance - v_amount, seq = a.seq + 1,
        head_hash = sha256(a.head_hash || record_send(row(v_id, a.user_id, a.seq + 1, 'deduction'::bytea, -v_amount, 0::bigint, a.balance - v_amount, a.held,
          null::bigint, null::bigint, null::date, v_now, v_now, convert_to(p_endpoint, 'UTF8'), convert_to(p_idempotency_key, 'UTF8'), v_request_hash,
          v_text_hash)))
      where a.user_id = p_user_id and a.xmin = (select seen.xmin from credits.accounts as seen where seen.user_id = p_user_id) and a.balance - a.held >= v_amount
        and not exists (select from credits.transactions as t where uuid_send(t.user_id) = uuid_send(p_user_id) and t.idempotency_key = p_idempotency_key)
      returning a.seq, a.balance, a.held, a.head_hash
    )
    insert into credits.transactions (id, user_id, seq, type, status, amount, balance_after, held_after, created_at, final_at,
      endpoint, idempotency_key, description, reference_id, salt, request_hash, text_hash, hash)
    overriding system value
    select v_id, p_user_id, m.seq, 'deduction', 'COMPLETED', -v_amount, m.balance, m.held, v_now, v_now,
      p_endpoint, p_idempotency_key, p_description, p_reference_id, v_salt, v_request_hash, v_text_hash, m.head_hash
    from moved as m;
    if found then
      return v_id;
    end if;
  end loop;
  if v_amount is null then
    return credits.charged_before(p_user_id, p_endpoint, p_idempotency_key, v_request);
  end if;
  return credits.book(p_user_id, 'deduction', -v_amount, p_idempotency_key, v_request, p_endpoint, p_description, p_reference_id);
end
$$;
comment on function credits.charge(uuid, bigint, text, text, text, text) is
  'Take credits from a user: p_amount (1 or more), or what usage_rates says for p_endpoint; with both, the amount counts and the endpoint is recorded. The id of the entry; the same request again gives the same id. Raises TK100 for a bad value, TK101 for too few credits, TK102 for an unknown user, TK105 when the key was used for something else, TK106 for an endpoint without an active rate.';

create or replace function credits.check_charge(
  p_user_id uuid, p_amount bigint, p_idempotency_key text, p_endpoint text, p_description text, p_reference_id text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_amount is null and p_endpoint is null then
    perform credits.invalid('amount', null, 'either the amount or the endpoint says what to charge');
  end if;
  perform credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id, p_endpoint);
  if p_amount is not null then
    perform credits.check_amount(p_amount);
  end if;
end
$$;
comment on function credits.check_charge(uuid, bigint, text, text, text, text) is 'Raise TK100 unless these are the values of a charge.';

create or replace function credits.charged_before(p_user_id uuid, p_endpoint text, p_idempotency_key text, p_request bytea)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_id bigint;
begin
  perform credits.lock_account(p_user_id);
  v_id := (credits.replayed(p_user_id, p_idempotency_key, p_request)).id;
  if v_id is null then
    raise exception using errcode = 'TK106', message = format('endpoint "%s" has no active rate', left(p_endpoint, 100)),
      hint = 'Add it to credits.usage_rates, or charge an amount.';
  end if;
  return v_id;
end
$$;
comment on function credits.charged_before(uuid, text, text, bytea) is
  'The charge booked under this key while the endpoint still had a rate: a repeated request gives its first result whatever has changed since. Raises TK106 when there is none.';
