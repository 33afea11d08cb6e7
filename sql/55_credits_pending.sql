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
-- All at once: windows by account follow what is left, the seq and the hash.
create or replace function credits.resolve_locked(
  p_ids bigint[], p_commits boolean[], p_notes text[], p_now timestamptz,
  out committed bigint, out reverted bigint, out failed bigint, out credits_added numeric, out credits_deducted numeric)
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
  perform credits.release_expired(array(
    select h.id
    from unnest(p_ids, p_commits) as i (id, is_commit)
    join credits.transactions as t on t.id = i.id and t.amount < 0 and t.status = 'PENDING'
    join credits.holds as h on h.user_id = t.user_id and h.status = 'open' and h.expires_at <= p_now
    where i.is_commit
  ), p_now, 'expired: released when its credits were needed');
  with asked as materialized (
    select t.*, i.is_commit, i.notes as asked_notes, a.balance, a.held, a.seq as head, a.head_hash
    from unnest(p_ids, p_commits, p_notes) as i (id, is_commit, notes)
    join credits.transactions as t on t.id = i.id and t.status = 'PENDING'
    join credits.accounts as a on a.user_id = t.user_id
  ), spent as (
    select s.*, credits.spend_next(row_number() over (partition by s.user_id order by s.id) = 1, s.balance - s.held, -s.amount, s.held) as left_after
    from asked as s
    where s.is_commit
  ), judged as (
    select s.*, coalesce(lag(s.left_after) over w, s.balance - s.held) as left_before, s.left_after <> coalesce(lag(s.left_after) over w, s.balance - s.held) as is_ok
    from spent as s
    window w as (partition by s.user_id order by s.id)
  ), numbered as (
    select j.*, j.head + row_number() over w as new_seq, j.left_after + j.held as new_balance, lead(j.id) over w is null as is_last,
      case when num_nonnulls(j.description, j.reference_id, j.asked_notes) > 0 then sha256(record_send(row(j.salt, convert_to(j.description, 'UTF8'),
        convert_to(j.reference_id, 'UTF8'), convert_to(j.asked_notes, 'UTF8')))) end as new_text_hash
    from judged as j
    where j.is_ok
    window w as (partition by j.user_id order by j.id)
  ), chained as materialized (
    select n.*, credits.chain_next(row_number() over (partition by n.user_id order by n.id) = 1, n.head_hash, record_send(row(n.id, n.user_id,
      n.new_seq, convert_to(n.type, 'UTF8'), n.amount, 0::bigint, n.new_balance, n.held, null::bigint, n.related_id, null::date, n.created_at, p_now, convert_to(n.endpoint, 'UTF8'), convert_to(n.idempotency_key, 'UTF8'), n.request_hash,
      n.new_text_hash))) as new_hash
    from numbered as n
  ), moved as (
    update credits.accounts as a set balance = c.new_balance, seq = c.new_seq, head_hash = c.new_hash from chained as c where c.is_last and a.user_id = c.user_id
  ), completed as (
    update credits.transactions as t
    set status = 'COMPLETED', final_at = p_now, notes = c.asked_notes, text_hash = c.new_text_hash, seq = c.new_seq, balance_after = c.new_balance,
      held_after = c.held, hash = c.new_hash
    from chained as c
    where t.id = c.id
  ), unfit as (
    select j.id, j.salt, j.description, j.reference_id, true as is_commit, case
      when j.amount < 0 then credits.too_few(-j.amount, j.left_before) else 'the balance would be beyond what it can hold' end as new_notes
    from judged as j
    where not j.is_ok
    union all
    select s.id, s.salt, s.description, s.reference_id, false, s.asked_notes from asked as s where not s.is_commit
  ), ended as (
    update credits.transactions as t
    set status = 'FAILED', final_at = p_now, notes = u.new_notes, text_hash = credits.text_hash(u.salt, u.description, u.reference_id, u.new_notes)
    from unfit as u
    where t.id = u.id
  )
  select count(*) filter (where o.is_ok), count(*) filter (where not o.is_commit), count(*) filter (where o.is_commit and not o.is_ok),
    coalesce(sum(greatest(o.amount, 0)) filter (where o.is_ok), 0), coalesce(sum(greatest(-o.amount, 0)) filter (where o.is_ok), 0)
  into committed, reverted, failed, credits_added, credits_deducted
  from (
    select true as is_ok, true as is_commit, c.amount from chained as c
    union all
    select false, u.is_commit, 0 from unfit as u) as o;
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
    perform credits.unknown_transaction(p_transaction_id);
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
