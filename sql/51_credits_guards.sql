-- What no role but the owner can get around, whatever it was granted on the tables: an entry is lawful and continues its account's
-- chain, the account is its last entry, a hold agrees with its entries, and nothing of it is changed or deleted afterwards.
-- Row triggers that read without locks: entries never change, and whoever books holds the account's row. They run after the row is
-- written, so that they judge what stays, and no other trigger comes between.
-- They run as the caller (definer would cost more) and see what the caller sees: rows hidden from it make them refuse, never pass.

create or replace function credits.refuse()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK110', message = format('%s on %s.%s is refused: %s', lower(tg_op), tg_table_schema, tg_table_name, tg_argv[0]),
    hint = 'Book a correcting entry instead.';
end
$$;
comment on function credits.refuse() is 'Trigger that raises TK110; its argument is the rule.';

-- One change of an entry that has ended is lawful: the owner's redact() blanks its texts, once.
create or replace function credits.refuse_change()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_blank credits.transactions := old;
begin
  v_blank.description := null;
  v_blank.reference_id := null;
  v_blank.notes := null;
  v_blank.redacted_at := new.redacted_at;
  if old.redacted_at is null and new.redacted_at is not null and old.status <> 'PENDING' and new is not distinct from v_blank
    and current_user = (select pg_catalog.pg_get_userbyid(c.relowner) from pg_catalog.pg_class as c where c.oid = tg_relid)
  then
    return null;
  end if;
  raise exception using errcode = 'TK110',
    message = 'update on credits.transactions is refused: an entry changes once, from PENDING to COMPLETED or FAILED, is marked as synced once, and redacted once',
    hint = 'Book a correcting entry instead; call credits.redact to blank texts.';
end
$$;
comment on function credits.refuse_change() is 'Trigger on a change that is neither the end of a PENDING entry nor the sync mark: raises TK110 unless it is that of credits.redact.';

-- What is wrong with an entry by itself, or null. One expression: each further one costs every charge a microsecond or two.
create or replace function credits.unlawful(e credits.transactions)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return case
    when (case e.status
        when 'COMPLETED' then num_nonnulls(e.seq, e.balance_after, e.held_after, e.hash, e.final_at) = 5
        when 'PENDING' then num_nonnulls(e.seq, e.balance_after, e.held_after, e.hash, e.final_at) = 0 and not e.synced_to_supabase
        when 'FAILED' then num_nonnulls(e.seq, e.balance_after, e.held_after, e.hash) = 0 and e.final_at is not null and not e.synced_to_supabase
      end) is not true then 'its status does not fit the columns that are set'
    when (case e.type
        when 'deduction' then e.amount < 0 and e.held_amount = 0
        when 'addition' then e.amount > 0 and e.held_amount = 0
        when 'hold' then e.amount = 0 and e.held_amount > 0
        when 'capture' then e.amount < 0 and e.held_amount <= e.amount
        when 'release' then e.amount = 0 and e.held_amount < 0
        when 'allocation' then e.amount > 0 and e.held_amount = 0
        when 'refund' then e.amount > 0 and e.held_amount = 0
        when 'adjustment' then e.amount <> 0 and e.held_amount = 0 and num_nonnulls(e.description, e.redacted_at) > 0
        when 'transfer_out' then e.amount < 0 and e.held_amount = 0
        when 'transfer_in' then e.amount > 0 and e.held_amount = 0
      end) is not true then 'its amounts do not fit its type'
    when e.status <> 'COMPLETED' and e.type not in ('deduction', 'addition', 'refund') then 'only a deduction, an addition or a refund can be pending'
    when (e.hold_id is null) <> (e.held_amount = 0) then 'an entry that changes held, and no other, names its hold'
    when e.related_id is not null and e.type not in ('refund', 'adjustment', 'transfer_out', 'transfer_in')
      or e.related_id is null and e.type in ('transfer_out', 'transfer_in') then 'a refund or an adjustment may name another entry, a transfer names one, and nothing else does'
    when (e.type = 'allocation') <> (e.period is not null) or extract(day from e.period) <> 1
      then 'an allocation, and no other entry, names its month by its first day'
    when (e.idempotency_key is null) <> (e.request_hash is null) or length(e.idempotency_key) not between 1 and 255
      then 'a key has 1 to 255 characters and the digest of its request'
    when length(e.salt) <> 16 or (e.synced_at is null) = e.synced_to_supabase or e.final_at < e.created_at then 'its salt, its sync mark or its times are not whole'
    when num_nonnulls(e.text_hash, e.description, e.reference_id, e.notes) > 0 and e.redacted_at is null
      and e.text_hash is distinct from credits.text_hash(e.salt, e.description, e.reference_id, e.notes) then 'text_hash is not the digest of its texts'
  end;
end
$$;
comment on function credits.unlawful(credits.transactions) is 'What is wrong with an entry, looked at without its neighbours; null when nothing is.';

-- What charges book is nearly all there is, so it has a path of its own with as few expressions as can be: each is made ready anew in
-- every transaction. It passes what the other path would pass, and nothing else; what it does not pass goes there.
create or replace function credits.check_entry()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_why text;
begin
  if new.type = 'deduction' and new.status = 'COMPLETED' and new.amount < 0 and new.held_amount = 0
    and num_nonnulls(new.hold_id, new.related_id, new.period, new.redacted_at, new.synced_at, new.notes, new.description, new.reference_id, new.text_hash) = 0
    and not new.synced_to_supabase and length(new.salt) = 16 and new.final_at >= new.created_at and new.request_hash is not null
    and length(new.idempotency_key) between 1 and 255
  then
    perform from credits.accounts as a
    join credits.transactions as p on p.user_id = new.user_id and p.seq = new.seq - 1
    where a.user_id = new.user_id and new.seq between 2 and a.seq
      and new.balance_after = p.balance_after + new.amount and new.held_after = p.held_after and new.held_after between 0 and new.balance_after
      and new.hash = sha256(p.hash || record_send(row(new.id, new.user_id, new.seq, 'deduction'::bytea, new.amount, 0::bigint,
        new.balance_after, new.held_after, null::bigint, null::bigint, null::date, new.created_at, new.final_at, convert_to(new.endpoint, 'UTF8'),
        convert_to(new.idempotency_key, 'UTF8'), new.request_hash, null::bytea)));
    if found then
      return null;
    end if;
  end if;
  v_why := case
    when tg_op = 'INSERT' and (new.status = 'FAILED' or new.synced_to_supabase or new.redacted_at is not null) then 'nothing starts as failed, synced or redacted'
    else credits.unlawful(new)
  end;
  if v_why is not null then
    raise exception using errcode = 'TK111', message = format('transaction %s is not lawful: %s', new.id, v_why), hint = 'Book through the functions of credits.';
  end if;
  if new.status <> 'COMPLETED' then
    if not exists (select from credits.accounts as a where a.user_id = new.user_id) then
      perform credits.unknown_account(new.user_id);
    end if;
    return null;
  end if;
  perform from credits.accounts as a
  left join credits.transactions as p on p.user_id = new.user_id and p.seq = new.seq - 1
  where a.user_id = new.user_id and new.seq between 1 and a.seq and (p.id is null) = (new.seq = 1)
    and new.balance_after = coalesce(p.balance_after, 0) + new.amount
    and new.held_after = coalesce(p.held_after, 0) + new.held_amount
    and new.held_after between 0 and new.balance_after
    and new.hash = sha256(coalesce(p.hash, '') || record_send(row(new.id, new.user_id, new.seq, convert_to(new.type, 'UTF8'), new.amount, new.held_amount,
      new.balance_after, new.held_after, new.hold_id, new.related_id, new.period, new.created_at, new.final_at, convert_to(new.endpoint, 'UTF8'),
      convert_to(new.idempotency_key, 'UTF8'), new.request_hash, new.text_hash)));
  if not found then
    raise exception using errcode = 'TK111', message = format('transaction %s does not continue the chain of user %s at %s', new.id, new.user_id, new.seq),
      hint = 'Book through the functions of credits.';
  end if;
  if new.held_amount <> 0 then
    perform from credits.holds as h
    where h.id = new.hold_id and h.user_id = new.user_id and h.amount = abs(new.held_amount)
      and (case new.type when 'hold' then h.opened_seq = new.seq else h.closed_seq = new.seq and h.captured = -new.amount end);
    if not found then
      raise exception using errcode = 'TK113', message = format('transaction %s does not agree with hold %s', new.id, new.hold_id),
        hint = 'Book through the functions of credits.';
    end if;
  end if;
  if new.related_id is not null and not credits.fits_related(new) then
    raise exception using errcode = 'TK111', message = format('transaction %s, a %s, does not fit transaction %s', new.id, new.type, new.related_id),
      hint = 'Book through the functions of credits.';
  end if;
  return null;
end
$$;
comment on function credits.check_entry() is 'Trigger: an entry is lawful, its account exists, and a completed one continues the chain and agrees with its hold and with the entry that it names. Raises TK111, TK102, TK113.';

-- Refunds of one entry come one after the other, since each moves the head of the same account: none misses the one before it.
create or replace function credits.fits_related(e credits.transactions)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  return exists (
    select from credits.transactions as o
    where o.id = e.related_id and o.status = 'COMPLETED' and case e.type
      when 'refund' then o.user_id = e.user_id and o.type in ('deduction', 'capture') and o.seq < e.seq
        and -o.amount >= (select sum(r.amount) from credits.transactions as r where r.related_id = o.id and r.type = 'refund' and r.status = 'COMPLETED')
      when 'adjustment' then o.user_id = e.user_id and o.seq < e.seq
      else o.user_id <> e.user_id and o.related_id = e.id and o.amount = -e.amount and o.type = case e.type when 'transfer_in' then 'transfer_out' else 'transfer_in' end
    end);
end
$$;
comment on function credits.fits_related(credits.transactions) is
  'Whether a completed entry fits the one that it names: a refund, with all others of it, gives back at most what was taken; an adjustment is of an earlier entry of the same user; the halves of a transfer name each other.';

-- No WHEN: it would be read anew from its stored text in each charge.
create or replace function credits.check_head()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' then
    perform from credits.transactions as t
    where t.user_id = new.user_id and t.seq = new.seq and t.balance_after = new.balance and t.held_after = new.held and t.hash = new.head_hash
      and new.seq > old.seq and new.user_id = old.user_id and new.created_at = old.created_at;
    if found then
      return null;
    end if;
    if new.user_id <> old.user_id or new.created_at <> old.created_at then
      raise exception using errcode = 'TK110', message = 'update on credits.accounts is refused: an account keeps its user and the time of its opening',
        hint = 'Open an account for the other user.';
    end if;
    if (new.seq, new.balance, new.held, new.head_hash) = (old.seq, old.balance, old.held, old.head_hash) then
      return null;
    end if;
    raise exception using errcode = 'TK112', message = format('the account of user %s would not agree with its last entry', new.user_id),
      hint = 'Book through the functions of credits.';
  end if;
  if new.seq <> 0 or new.balance <> 0 or new.held <> 0 or new.head_hash <> '' then
    raise exception using errcode = 'TK112', message = format('the account of user %s does not start empty', new.user_id),
      hint = 'Call credits.open_account and credits.grant.';
  end if;
  return null;
end
$$;
comment on function credits.check_head() is 'Trigger: an account starts empty, keeps its user, and is what its last entry says. Raises TK112, TK110.';

create or replace function credits.is_extension(p_old credits.holds, p_new credits.holds, p_table oid)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_longer credits.holds := p_old;
begin
  v_longer.expires_at := p_new.expires_at;
  if p_new.expires_at <= p_old.expires_at or p_new.expires_at > v_now + interval '366 days' or p_new is distinct from v_longer
    or current_user <> (select pg_catalog.pg_get_userbyid(c.relowner) from pg_catalog.pg_class as c where c.oid = p_table)
  then
    return false;
  end if;
  if p_old.expires_at <= v_now then
    raise exception using errcode = 'TK104', message = format('hold %s expired at %s', p_old.id, p_old.expires_at), hint = 'Open another hold.';
  end if;
  return true;
end
$$;
comment on function credits.is_extension(credits.holds, credits.holds, oid) is
  'Whether a change of an open hold is that of credits.extend: it lasts longer, at most a year from now, and the owner of the table does it. Raises TK104 when it has expired.';

create or replace function credits.check_hold()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_now timestamptz;
begin
  if tg_op = 'UPDATE' then
    if old.status = 'open' and new.status = 'open' and credits.is_extension(old, new, tg_relid) then
      return null;
    end if;
    if old.status <> 'open' or new.status = 'open'
      or (new.id, new.user_id, new.amount, new.opened_seq, new.created_at, new.expires_at)
        <> (old.id, old.user_id, old.amount, old.opened_seq, old.created_at, old.expires_at) then
      raise exception using errcode = 'TK110', message = format('update on credits.holds is refused: hold %s is closed once, and nothing else of it changes', old.id),
        hint = 'Open another hold.';
    end if;
    v_now := pgtick.now();
    if new.status = 'captured' and v_now >= new.expires_at then
      raise exception using errcode = 'TK104', message = format('hold %s expired at %s', new.id, new.expires_at), hint = 'Charge the account, or open another hold.';
    end if;
    if new.closed_at > v_now then
      raise exception using errcode = 'TK113', message = format('hold %s would be closed in the future', new.id), hint = 'Close it through the functions of credits.';
    end if;
  end if;
  perform from credits.transactions as o
  where o.user_id = new.user_id and o.seq = new.opened_seq and o.type = 'hold' and o.hold_id = new.id and o.held_amount = new.amount;
  if found and new.status <> 'open' then
    perform from credits.transactions as c
    where c.user_id = new.user_id and c.seq = new.closed_seq and c.hold_id = new.id and c.held_amount = -new.amount and c.amount = -new.captured
      and c.type = case new.status when 'captured' then 'capture' else 'release' end;
  end if;
  if not found then
    raise exception using errcode = 'TK113', message = format('hold %s does not agree with its entries', new.id), hint = 'Use credits.hold, capture and release.';
  end if;
  return null;
end
$$;
comment on function credits.check_hold() is 'Trigger: a hold agrees with the entries that opened and closed it, and is closed once, in time. Raises TK113, TK110, TK104.';

create or replace trigger transactions_entry_insert after insert on credits.transactions
  for each row execute function credits.check_entry();
create or replace trigger transactions_entry_update after update on credits.transactions
  for each row when (old.status = 'PENDING') execute function credits.check_entry();
-- What may change: PENDING to COMPLETED or FAILED, with what that sets; the sync mark of a completed entry, once; and what redact() does.
create or replace trigger transactions_immutable after update on credits.transactions
  for each row when (
    (new.id, new.user_id, new.type, new.amount, new.held_amount, new.created_at, new.salt) is distinct from
      (old.id, old.user_id, old.type, old.amount, old.held_amount, old.created_at, old.salt)
    or (new.hold_id, new.related_id, new.period, new.endpoint, new.idempotency_key, new.request_hash, new.description, new.reference_id, new.redacted_at)
      is distinct from
      (old.hold_id, old.related_id, old.period, old.endpoint, old.idempotency_key, old.request_hash, old.description, old.reference_id, old.redacted_at)
    or case old.status
      when 'PENDING' then new.status = 'PENDING' or new.synced_to_supabase
      when 'COMPLETED' then old.synced_to_supabase or not new.synced_to_supabase or new.synced_at is null
        or (new.status, new.seq, new.balance_after, new.held_after, new.final_at, new.notes, new.text_hash, new.hash) is distinct from
          (old.status, old.seq, old.balance_after, old.held_after, old.final_at, old.notes, old.text_hash, old.hash)
      else true
    end)
  execute function credits.refuse_change();
create or replace trigger transactions_kept before delete or truncate on credits.transactions
  for each statement execute function credits.refuse('entries are kept');

create or replace trigger accounts_head after insert or update on credits.accounts
  for each row execute function credits.check_head();
create or replace trigger accounts_kept before delete or truncate on credits.accounts
  for each statement execute function credits.refuse('accounts are kept');

create or replace trigger holds_entry after insert or update on credits.holds
  for each row execute function credits.check_hold();
create or replace trigger holds_kept before delete or truncate on credits.holds
  for each statement execute function credits.refuse('holds are kept');
