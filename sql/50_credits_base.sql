-- What the other credit files stand on: refusals, digests and what happened before under a key.
--
-- Three digests, all SHA-256 over record_send(row(…)): the number of fields, then for each its type, its length (-1 for null) and its
-- bytes. So no two different rows give the same input. Text goes in as bytea, by convert_to(…, 'UTF8'): text itself would be sent in
-- the client's encoding.
--   text_hash    = row(salt, description, reference_id, notes), or null when all three texts are null
--   request_hash = the salt, then row(operation, user, amount, …) of the request
--   hash         = the hash of the entry before ('' for the first), then row(id, user_id, seq, type, amount, held_amount, balance_after,
--                  held_after, hold_id, related_id, period, created_at, final_at, endpoint, idempotency_key, request_hash, text_hash)
-- Where every microsecond counts the last formula is written out (charge, next_entry, what books many rows, the trigger, violations), since a
-- function with "set search_path" can not be inlined. They can not drift apart: the trigger computes each hash once more, and refuses
-- what differs.

create or replace function credits.invalid(p_field text, p_value text, p_rule text, p_hint text default null)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK100',
    message = format('%s %s is refused: %s', p_field, coalesce('"' || left(p_value, 100) || '"', 'null'), p_rule),
    hint = coalesce(nullif(btrim(p_hint), ''), format('Give %s another value.', p_field));
end
$$;
comment on function credits.invalid(text, text, text, text) is 'Raise TK100 for a value that is not allowed.';

create or replace function credits.check_amount(p_amount bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_amount is null or p_amount <= 0 then
    perform credits.invalid('amount', p_amount::text, 'an amount is a whole number of credits, 1 or more', 'Give a positive amount; the operation says which way it goes.');
  end if;
end
$$;
comment on function credits.check_amount(bigint) is 'Raise TK100 unless p_amount is 1 or more.';

create or replace function credits.check_request(
  p_user_id uuid, p_idempotency_key text, p_description text default null, p_reference_id text default null, p_endpoint text default null)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_user_id is null then
    perform credits.invalid('user_id', null, 'an operation names its user');
  end if;
  if p_idempotency_key is null or length(p_idempotency_key) not between 1 and 255 then
    perform credits.invalid('idempotency_key', p_idempotency_key, 'a key has 1 to 255 characters',
      'Give each request a key of its own, such as a UUID, and the same key when it is sent again.');
  end if;
  if length(p_description) > 4000 then
    perform credits.invalid('description', p_description, 'at most 4000 characters');
  end if;
  if length(p_reference_id) > 255 then
    perform credits.invalid('reference_id', p_reference_id, 'at most 255 characters');
  end if;
  if length(p_endpoint) not between 1 and 255 or p_endpoint ~ '[[:cntrl:]]' then
    perform credits.invalid('endpoint', p_endpoint, '1 to 255 characters, none of them a control character');
  end if;
end
$$;
comment on function credits.check_request(uuid, text, text, text, text) is
  'Raise TK100 unless the user is given, the key has 1 to 255 characters, and the texts are null or within 4000, 255 and 255 characters.';

create or replace function credits.unknown_account(p_user_id uuid)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK102', message = format('user %s has no account', p_user_id), hint = 'Call credits.open_account first.';
end
$$;
comment on function credits.unknown_account(uuid) is 'Raise TK102.';

create or replace function credits.too_few(p_needed bigint, p_available bigint)
returns text
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  return format('not enough credits: %s needed, %s available', p_needed, p_available);
end
$$;
comment on function credits.too_few(bigint, bigint) is 'What is said when credits do not suffice.';

create or replace function credits.insufficient(p_needed bigint, p_available bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK101', message = credits.too_few(p_needed, p_available),
    detail = pg_catalog.json_build_object('needed', p_needed, 'available', p_available)::text,
    hint = 'Grant credits to the account, or ask for less.';
end
$$;
comment on function credits.insufficient(bigint, bigint) is 'Raise TK101, with needed and available as JSON in the detail.';

create or replace function credits.text_hash(p_salt bytea, p_description text, p_reference_id text, p_notes text)
returns bytea
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  if p_description is null and p_reference_id is null and p_notes is null then
    return null;
  end if;
  return sha256(record_send(row(p_salt, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8'), convert_to(p_notes, 'UTF8'))));
end
$$;
comment on function credits.text_hash(bytea, text, text, text) is 'The digest by which the chain covers an entry''s free text; null when there is none.';

-- The account must be locked: only then can nobody be booking under the same key at this moment.
create or replace function credits.replayed(p_user_id uuid, p_idempotency_key text, p_request bytea)
returns credits.transactions
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_entry credits.transactions;
begin
  select * into v_entry from credits.transactions as t where uuid_send(t.user_id) = uuid_send(p_user_id) and t.idempotency_key = p_idempotency_key;
  if v_entry.request_hash <> sha256(v_entry.salt || p_request) then
    raise exception using errcode = 'TK105',
      message = format('idempotency_key "%s" was used before for something else (transaction %s)', p_idempotency_key, v_entry.id),
      hint = 'Use a new key for a new request, and repeat a request word for word.';
  end if;
  return v_entry;
end
$$;
comment on function credits.replayed(uuid, text, bytea) is
  'The entry that this user booked before under this key, or null. p_request: record_send(row(operation, …)). Raises TK105 when it was for something else.';

-- Where many are booked at once: called for each entry in the window's order, account by account, with what the last call gave kept in a setting of
-- the transaction. An aggregate would keep it by itself, but can set no search_path, which Supabase's adviser would have to be told about each time.
-- p_is_first is row_number() over that window = 1: it makes PostgreSQL call in this order, and a value that somebody else has set is never looked at.

create or replace function credits.spend_next(p_is_first boolean, p_available bigint, p_amount bigint, p_held bigint)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_left bigint := p_available;
begin
  if not p_is_first then
    v_left := current_setting('credits.left')::bigint;
  end if;
  if p_amount <= v_left and (p_amount >= 0 or -p_amount <= 9223372036854775807 - p_held - v_left) then
    v_left := v_left - p_amount;
  end if;
  perform set_config('credits.left', v_left::text, true);
  return v_left;
end
$$;
comment on function credits.spend_next(boolean, bigint, bigint, bigint) is
  'In a window''s order: what is left of the first row''s p_available after each p_amount that fits (a negative one adds, as far as balance, p_held included, can hold it); one that does not fit changes nothing.';

create or replace function credits.chain_next(p_is_first boolean, p_head bytea, p_entry bytea)
returns bytea
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_hash bytea := p_head;
begin
  if not p_is_first then
    v_hash := current_setting('credits.hash')::bytea;
  end if;
  v_hash := sha256(v_hash || p_entry);
  perform set_config('credits.hash', v_hash::text, true);
  return v_hash;
end
$$;
comment on function credits.chain_next(boolean, bytea, bytea) is
  'In a window''s order: the hash of each entry (see above), from that of the account''s head and record_send() of the entries.';
