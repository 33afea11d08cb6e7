-- What sets earlier entries right, or moves credits between users: refund, adjust, transfer; and redact, which blanks free text.

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.refund(
  p_transaction_id bigint, p_idempotency_key text, p_amount bigint default null, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_of credits.transactions;
  v_left bigint;
  v_account credits.accounts;
  e credits.transactions;
  v_request bytea;
begin
  if p_amount is not null then
    perform credits.check_amount(p_amount);
  end if;
  select * into v_of from credits.transactions as t where t.id = p_transaction_id;   -- what is read of it here never changes
  if not found then
    perform credits.unknown_transaction(p_transaction_id);
  end if;
  perform credits.check_request(v_of.user_id, p_idempotency_key, p_description, p_reference_id);
  v_request := record_send(row('refund'::bytea, p_transaction_id, p_amount, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8')));
  v_account := credits.lock_account(v_of.user_id);
  e := credits.replayed(v_of.user_id, p_idempotency_key, v_request);
  if e.id is not null then
    return e.id;
  end if;
  select t.status into v_of.status from credits.transactions as t where t.id = p_transaction_id;
  if v_of.type not in ('deduction', 'capture') or v_of.status <> 'COMPLETED' then
    raise exception using errcode = 'TK107',
      message = format('transaction %s is a %s that is %s, and can not be refunded', p_transaction_id, v_of.type, v_of.status),
      hint = 'Refund a completed deduction or capture, or book an adjustment.';
  end if;
  v_left := -v_of.amount - credits.refunded(p_transaction_id);
  if v_left = 0 then
    raise exception using errcode = 'TK107', message = format('transaction %s is refunded already, all %s of it', p_transaction_id, -v_of.amount),
      hint = 'Book an adjustment, if more is to be given.';
  end if;
  if p_amount > v_left then
    perform credits.invalid('amount', p_amount::text, format('at most what is not refunded yet, %s of %s', v_left, -v_of.amount), 'Refund less, or all that is left by giving no amount.');
  end if;
  e := credits.next_entry(v_account, 'refund', coalesce(p_amount, v_left), pgtick.now(), p_idempotency_key => p_idempotency_key, p_request => v_request,
    p_description => p_description, p_reference_id => p_reference_id, p_related_id => p_transaction_id);
  perform credits.write_entry(e);
  return e.id;
end
$$;
comment on function credits.refund(bigint, text, bigint, text, text) is
  'Give back p_amount credits of one completed deduction or capture, or all that is not refunded yet. All refunds of one entry together are at most its amount. The id of the refund; the same request again gives the same id. Raises TK100 for a bad value, also for more than is left; TK105 when the key was used for something else; TK107 for an entry that is unknown, not of that kind, or refunded.';

create or replace function credits.unknown_transaction(p_transaction_id bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK107', message = format('there is no transaction %s', coalesce(p_transaction_id::text, 'null')),
    hint = 'Use the id that the booking gave.';
end
$$;
comment on function credits.unknown_transaction(bigint) is 'Raise TK107.';

create or replace function credits.refunded(p_transaction_id bigint)
returns bigint
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return (select coalesce(sum(t.amount), 0) from credits.transactions as t where t.related_id = p_transaction_id and t.type = 'refund' and t.status = 'COMPLETED');
end
$$;
comment on function credits.refunded(bigint) is 'How many credits of an entry have been refunded.';

create or replace function credits.write_entry(e credits.transactions)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  with moved as (
    update credits.accounts as a set balance = e.balance_after, held = e.held_after, seq = e.seq, head_hash = e.hash where a.user_id = e.user_id
  )
  insert into credits.transactions overriding system value values (e.*);
end
$$;
comment on function credits.write_entry(credits.transactions) is 'Write a next_entry() and the head of its locked account, in one statement.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.adjust(p_user_id uuid, p_amount bigint, p_reason text, p_idempotency_key text, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_amount is null or p_amount in (0, -9223372036854775808) then
    perform credits.invalid('amount', p_amount::text, 'an adjustment adds or, below 0, takes a whole number of credits', 'Give the difference that is to be booked.');
  end if;
  if p_reason is null or p_reason !~ '[[:graph:]]' then
    perform credits.invalid('reason', p_reason, 'an adjustment says why', 'Give a reason that an auditor understands.');
  end if;
  if length(p_reason) > 4000 then
    perform credits.invalid('reason', p_reason, 'at most 4000 characters');
  end if;
  perform credits.check_request(p_user_id, p_idempotency_key, null, p_reference_id);
  return credits.book(p_user_id, 'adjustment', p_amount, p_idempotency_key,
    record_send(row('adjust'::bytea, p_user_id, p_amount, convert_to(p_reason, 'UTF8'), convert_to(p_reference_id, 'UTF8'))),
    p_description => p_reason, p_reference_id => p_reference_id);
end
$$;
comment on function credits.adjust(uuid, bigint, text, text, text) is
  'Correct a balance by p_amount, which may be negative, down to what is available, for a reason that must be given and becomes the description. The id of the entry; the same request again gives the same id. Raises TK100 for a bad value, TK101 for too few credits, TK102 for an unknown user, TK105 when the key was used for something else.';

-- Definer: nobody but the owner writes the tables of credits. Both halves are written by one statement, so that each finds the other.
create or replace function credits.transfer(
  p_from_user_id uuid, p_to_user_id uuid, p_amount bigint, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_from credits.accounts;
  v_to credits.accounts;
  v_out credits.transactions;
  v_in credits.transactions;
  v_now timestamptz;
  v_request bytea;
begin
  perform credits.check_amount(p_amount);
  perform credits.check_request(p_from_user_id, p_idempotency_key, p_description, p_reference_id);
  if p_to_user_id is null or p_to_user_id = p_from_user_id then
    perform credits.invalid('to_user_id', p_to_user_id::text, 'a transfer goes to another user');
  end if;
  v_request := record_send(row('transfer'::bytea, p_from_user_id, p_to_user_id, p_amount, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8')));
  if p_from_user_id < p_to_user_id then
    v_from := credits.lock_account(p_from_user_id);
    v_to := credits.lock_account(p_to_user_id);
  else
    v_to := credits.lock_account(p_to_user_id);
    v_from := credits.lock_account(p_from_user_id);
  end if;
  v_out := credits.replayed(p_from_user_id, p_idempotency_key, v_request);
  if v_out.id is not null then
    return v_out.id;
  end if;
  v_now := pgtick.now();
  v_from := credits.make_available(v_from, p_amount, v_now);
  v_out.id := nextval('credits.transactions_id_seq');
  v_in := credits.next_entry(v_to, 'transfer_in', p_amount, v_now, p_description => p_description, p_reference_id => p_reference_id, p_related_id => v_out.id);
  v_out := credits.next_entry(v_from, 'transfer_out', -p_amount, v_now, p_idempotency_key => p_idempotency_key, p_request => v_request,
    p_description => p_description, p_reference_id => p_reference_id, p_related_id => v_in.id, p_id => v_out.id);
  with moved as (
    update credits.accounts as a set balance = n.balance_after, seq = n.seq, head_hash = n.hash
    from (values (v_out.user_id, v_out.balance_after, v_out.seq, v_out.hash), (v_in.user_id, v_in.balance_after, v_in.seq, v_in.hash)) as n(user_id, balance_after, seq, hash)
    where a.user_id = n.user_id
  )
  insert into credits.transactions overriding system value values (v_out.*), (v_in.*);
  return v_out.id;
end
$$;
comment on function credits.transfer(uuid, uuid, bigint, text, text, text) is
  'Move p_amount (1 or more) credits from one user to another: an entry transfer_out and an entry transfer_in, each naming the other as related_id. The id of the first; the same request again gives the same id. The key is one of the user who gives. Raises TK100 for a bad value, TK101 for too few credits, TK102 for an unknown user, TK105 when the key was used for something else.';

-- Definer: nobody but the owner writes the tables of credits. The digest of the texts stays, and with it the chain.
create or replace function credits.redact(p_transaction_id bigint)
returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_user_id uuid;
  v_entry credits.transactions;
begin
  select t.user_id into v_user_id from credits.transactions as t where t.id = p_transaction_id;   -- never changes
  if not found then
    perform credits.unknown_transaction(p_transaction_id);
  end if;
  perform credits.lock_account(v_user_id);
  select * into v_entry from credits.transactions as t where t.id = p_transaction_id;
  if v_entry.status = 'PENDING' then
    raise exception using errcode = 'TK107', message = format('transaction %s is PENDING and can not be redacted yet', p_transaction_id),
      hint = 'Call credits.resolve first.';
  end if;
  if v_entry.redacted_at is not null then
    return false;
  end if;
  update credits.transactions as t set description = null, reference_id = null, notes = null, redacted_at = pgtick.now() where t.id = p_transaction_id;
  return true;
end
$$;
comment on function credits.redact(bigint) is
  'Blank the free text of an entry: description, reference_id and notes. Its place in the chain still verifies, since that covers a salted digest of them. False when it was redacted before. Endpoint and key stay: no personal data belongs there. Raises TK107 for an entry that is unknown or PENDING.';
