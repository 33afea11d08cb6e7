-- PENDING entries: submit, and resolve to COMPLETED or FAILED, once.

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.submit(
  p_user_id uuid, p_type text, p_amount bigint, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  e credits.transactions;
  v_request bytea;
begin
  if (p_type in ('deduction', 'addition', 'refund')) is not true then
    perform credits.invalid('type', p_type, 'deduction, addition or refund');
  end if;
  perform credits.check_amount(p_amount);
  perform credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id);
  v_request := record_send(row('submit'::bytea, p_user_id, convert_to(p_type, 'UTF8'), p_amount, convert_to(p_description, 'UTF8'),
    convert_to(p_reference_id, 'UTF8')));
  perform credits.lock_account(p_user_id);
  e := credits.replayed(p_user_id, p_idempotency_key, v_request);
  if e.id is not null then
    return e.id;
  end if;
  e.id := nextval('credits.transactions_id_seq');
  e.salt := uuid_send(gen_random_uuid());
  -- The account's row changes with it, although its head does not move: charge() tells by that that it has waited for a booking.
  with counted as (
    update credits.accounts as a set submitted = a.submitted + 1 where a.user_id = p_user_id
  )
  insert into credits.transactions (id, user_id, type, status, amount, created_at, idempotency_key, description, reference_id, salt, request_hash, text_hash)
  overriding system value
  values (e.id, p_user_id, p_type, 'PENDING', case p_type when 'deduction' then -p_amount else p_amount end, pgtick.now(), p_idempotency_key, p_description,
    p_reference_id, e.salt, sha256(e.salt || v_request), credits.text_hash(e.salt, p_description, p_reference_id, null));
  return e.id;
end
$$;
comment on function credits.submit(uuid, text, bigint, text, text, text) is
  'Book a PENDING entry of p_type (deduction, addition, refund) over p_amount, always positive. It changes no balance before resolve(), or before credits.pending_rules decides it. The id of the entry; the same request again gives the same id. Raises TK100 for a bad value, TK102 for an unknown user, TK105 when the key was used for something else.';

-- In id order for each account; a commit that the balance does not allow fails, and says so. The accounts must be locked.
-- The chain of each account is followed in memory; then all is written at once.
create or replace function credits.resolve_locked(
  p_ids bigint[], p_commits boolean[], p_notes text[], p_now timestamptz,
  out committed bigint, out reverted bigint, out failed bigint, out credits_added numeric, out credits_deducted numeric)
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_row record;
  v_account credits.accounts;
  v_entries credits.transactions[] := '{}';
  n integer := 0;
  e credits.transactions;
begin
  committed := 0;
  reverted := 0;
  failed := 0;
  credits_added := 0;
  credits_deducted := 0;
  perform credits.release_expired(array(
    select h.id
    from unnest(p_ids, p_commits) as i (id, is_commit)
    join credits.transactions as t on t.id = i.id and t.amount < 0 and t.status = 'PENDING'
    join credits.holds as h on h.user_id = t.user_id and h.status = 'open' and h.expires_at <= p_now
    where i.is_commit
  ), p_now, 'expired: released when its credits were needed');
  for v_row in
    select t as entry, i.is_commit, i.notes
    from unnest(p_ids, p_commits, p_notes) as i (id, is_commit, notes)
    join credits.transactions as t on t.id = i.id and t.status = 'PENDING'
    order by t.user_id, t.id
  loop
    e := v_row.entry;
    if e.user_id is distinct from v_account.user_id then
      select * into v_account from credits.accounts as a where a.user_id = e.user_id;
    end if;
    e.status := 'FAILED';
    e.final_at := p_now;
    e.notes := v_row.notes;
    if not v_row.is_commit then
      reverted := reverted + 1;
    elsif e.amount < 0 and v_account.balance - v_account.held < -e.amount then
      e.notes := format('not enough credits: %s needed, %s available', -e.amount, v_account.balance - v_account.held);
      failed := failed + 1;
    elsif e.amount > 9223372036854775807 - v_account.balance then
      e.notes := 'the balance would be beyond what it can hold';
      failed := failed + 1;
    else
      e.status := 'COMPLETED';
      e.seq := v_account.seq + 1;
      e.balance_after := v_account.balance + e.amount;
      e.held_after := v_account.held;
      committed := committed + 1;
    end if;
    e.text_hash := credits.text_hash(e.salt, e.description, e.reference_id, e.notes);
    if e.status = 'COMPLETED' then
      e.hash := credits.entry_hash(v_account.head_hash, e);
      v_account.seq := e.seq;
      v_account.balance := e.balance_after;
      v_account.head_hash := e.hash;
      credits_added := credits_added + greatest(e.amount, 0);
      credits_deducted := credits_deducted + greatest(-e.amount, 0);
    end if;
    n := n + 1;
    v_entries[n] := e;
  end loop;
  if n = 0 then
    return;
  end if;
  with entries as materialized (
    select * from unnest(v_entries)
  ), moved as (
    update credits.accounts as a set balance = l.balance_after, seq = l.seq, head_hash = l.hash
    from (
      select distinct on (r.user_id) r.user_id, r.balance_after, r.seq, r.hash
      from entries as r
      where r.status = 'COMPLETED'
      order by r.user_id, r.seq desc
    ) as l
    where a.user_id = l.user_id
  )
  update credits.transactions as t
  set status = r.status, final_at = r.final_at, notes = r.notes, text_hash = r.text_hash, seq = r.seq, balance_after = r.balance_after,
    held_after = r.held_after, hash = r.hash
  from entries as r
  where t.id = r.id;
end
$$;
comment on function credits.resolve_locked(bigint[], boolean[], text[], timestamptz) is
  'Resolve those of the entries that are PENDING: commit or revert each, with its note. Their accounts must be locked. What became of them, and the credits that moved.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.resolve(p_transaction_id bigint, p_commit boolean, p_notes text default null)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_user_id uuid;
  v_status text;
begin
  if p_commit is null then
    perform credits.invalid('commit', null, 'true commits, false reverts');
  end if;
  if length(p_notes) > 4000 then
    perform credits.invalid('notes', p_notes, 'at most 4000 characters');
  end if;
  select t.user_id into v_user_id from credits.transactions as t where t.id = p_transaction_id;   -- never changes
  if not found then
    raise exception using errcode = 'TK107', message = format('there is no transaction %s', coalesce(p_transaction_id::text, 'null')),
      hint = 'Use the id that credits.submit gave.';
  end if;
  perform credits.lock_account(v_user_id);
  perform credits.resolve_locked(array[p_transaction_id], array[p_commit], array[coalesce(p_notes, case when not p_commit then 'reverted' end)], pgtick.now());
  select t.status into v_status from credits.transactions as t where t.id = p_transaction_id;
  if v_status = 'COMPLETED' and not p_commit then
    raise exception using errcode = 'TK107', message = format('transaction %s is COMPLETED and can not be reverted', p_transaction_id),
      hint = 'Book a correcting entry instead.';
  end if;
  return v_status;
end
$$;
comment on function credits.resolve(bigint, boolean, text) is
  'Commit a PENDING entry, or revert it (p_commit false). Its status: COMPLETED, or FAILED when it was reverted or the balance did not allow it (notes say which). Resolved before: the status it has. Raises TK100 for a null p_commit, TK107 for an unknown entry or one to be reverted that is COMPLETED.';
