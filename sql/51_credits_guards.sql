-- What no role but the owner can get around, whatever it was granted on the tables: an entry is lawful and continues its account's
-- chain, the account is its last entry, a hold agrees with its entries, and nothing of it is changed or deleted afterwards.
-- Triggers that read without locks: entries never change, and whoever books holds the account's row. They run after what they judge is written, so
-- that they judge what stays, and no other trigger comes between. Only who owns a table, or is superuser, can keep them from running.
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

-- All rules, entry by entry, in words where one is broken.
create or replace function credits.check_entry(e credits.transactions, p_is_new boolean)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_why text;
begin
  v_why := case
    when p_is_new and (e.status = 'FAILED' or e.synced_to_supabase or e.redacted_at is not null) then 'nothing starts as failed, synced or redacted'
    else credits.unlawful(e)
  end;
  if v_why is not null then
    raise exception using errcode = 'TK111', message = format('transaction %s is not lawful: %s', e.id, v_why), hint = 'Book through the functions of credits.';
  end if;
  if e.status <> 'COMPLETED' then
    if not exists (select from credits.accounts as a where a.user_id = e.user_id) then
      perform credits.unknown_account(e.user_id);
    end if;
    return;
  end if;
  perform from credits.accounts as a
  left join credits.transactions as p on p.user_id = e.user_id and p.seq = e.seq - 1
  where a.user_id = e.user_id and e.seq between 1 and a.seq and (p.id is null) = (e.seq = 1)
    and e.balance_after = coalesce(p.balance_after, 0) + e.amount
    and e.held_after = coalesce(p.held_after, 0) + e.held_amount
    and e.held_after between 0 and e.balance_after
    and e.hash = sha256(coalesce(p.hash, '') || record_send(row(e.id, e.user_id, e.seq, convert_to(e.type, 'UTF8'), e.amount, e.held_amount,
      e.balance_after, e.held_after, e.hold_id, e.related_id, e.period, e.created_at, e.final_at, convert_to(e.endpoint, 'UTF8'),
      convert_to(e.idempotency_key, 'UTF8'), e.request_hash, e.text_hash)));
  if not found then
    raise exception using errcode = 'TK111', message = format('transaction %s does not continue the chain of user %s at %s', e.id, e.user_id, e.seq),
      hint = 'Book through the functions of credits.';
  end if;
  if e.held_amount <> 0 then
    perform from credits.holds as h
    where h.id = e.hold_id and h.user_id = e.user_id and h.amount = abs(e.held_amount)
      and (case e.type when 'hold' then h.opened_seq = e.seq else h.closed_seq = e.seq and h.captured = -e.amount end);
    if not found then
      raise exception using errcode = 'TK113', message = format('transaction %s does not agree with hold %s', e.id, e.hold_id),
        hint = 'Book through the functions of credits.';
    end if;
  end if;
  if e.related_id is not null and not credits.fits_related(e) then
    raise exception using errcode = 'TK111', message = format('transaction %s, a %s, does not fit transaction %s', e.id, e.type, e.related_id),
      hint = 'Book through the functions of credits.';
  end if;
end
$$;
comment on function credits.check_entry(credits.transactions, boolean) is
  'Raise unless an entry, new or just ended, is lawful, its account exists, and a completed one continues the chain and agrees with its hold and with the entry that it names: TK111, TK102, TK113.';

-- One query for all rows of a statement, since to begin one for each takes most of the time where many are booked. What charges book is nearly all there
-- is, so it has a query of its own with as few expressions as can be: each is made ready anew every time. The second one has all that names no other
-- entry. Both pass only what check_entry would pass, and what they do not pass goes there.
create or replace function credits.check_entries()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  e credits.transactions;
begin
  perform from new_rows as n
  where (n.type = 'deduction' and n.status = 'COMPLETED' and n.amount < 0 and n.held_amount = 0
    and num_nonnulls(n.hold_id, n.related_id, n.period, n.redacted_at, n.synced_at, n.notes, n.description, n.reference_id, n.text_hash) = 0
    and not n.synced_to_supabase and length(n.salt) = 16 and n.final_at >= n.created_at and n.request_hash is not null
    and length(n.idempotency_key) between 1 and 255
    and exists (
      select from credits.accounts as a
      join credits.transactions as p on p.user_id = n.user_id and p.seq = n.seq - 1
      where a.user_id = n.user_id and n.seq between 2 and a.seq
        and n.balance_after = p.balance_after + n.amount and n.held_after = p.held_after and n.held_after between 0 and n.balance_after
        and n.hash = sha256(p.hash || record_send(row(n.id, n.user_id, n.seq, 'deduction'::bytea, n.amount, 0::bigint,
          n.balance_after, n.held_after, null::bigint, null::bigint, null::date, n.created_at, n.final_at, convert_to(n.endpoint, 'UTF8'),
          convert_to(n.idempotency_key, 'UTF8'), n.request_hash, null::bytea)))
      offset 0)) is not true;
  if not found then
    return null;
  end if;
  perform from new_rows as n
  where (n.status = 'COMPLETED' and not n.synced_to_supabase and num_nonnulls(n.synced_at, n.redacted_at, n.related_id) = 0
    and case n.type
      when 'deduction' then n.amount < 0 and n.held_amount = 0
      when 'addition' then n.amount > 0 and n.held_amount = 0
      when 'hold' then n.amount = 0 and n.held_amount > 0
      when 'capture' then n.amount < 0 and n.held_amount <= n.amount
      when 'release' then n.amount = 0 and n.held_amount < 0
      when 'allocation' then n.amount > 0 and n.held_amount = 0
    end
    and (n.hold_id is null) = (n.held_amount = 0) and (n.period is null) = (n.type <> 'allocation') and coalesce(extract(day from n.period), 1) = 1
    and (n.idempotency_key is null) = (n.request_hash is null) and coalesce(length(n.idempotency_key), 1) between 1 and 255
    and length(n.salt) = 16 and n.final_at >= n.created_at
    and n.text_hash is not distinct from case when num_nonnulls(n.description, n.reference_id, n.notes) > 0 then
      sha256(record_send(row(n.salt, convert_to(n.description, 'UTF8'), convert_to(n.reference_id, 'UTF8'), convert_to(n.notes, 'UTF8')))) end
    and exists (
      select from credits.accounts as a
      left join credits.transactions as p on p.user_id = n.user_id and p.seq = n.seq - 1
      where a.user_id = n.user_id and n.seq between 1 and a.seq and (p.id is null) = (n.seq = 1)
        and n.balance_after = coalesce(p.balance_after, 0) + n.amount
        and n.held_after = coalesce(p.held_after, 0) + n.held_amount
        and n.held_after between 0 and n.balance_after
        and n.hash = sha256(coalesce(p.hash, '') || record_send(row(n.id, n.user_id, n.seq, convert_to(n.type, 'UTF8'), n.amount, n.held_amount,
          n.balance_after, n.held_after, n.hold_id, n.related_id, n.period, n.created_at, n.final_at, convert_to(n.endpoint, 'UTF8'),
          convert_to(n.idempotency_key, 'UTF8'), n.request_hash, n.text_hash)))
      offset 0)
    and (n.held_amount = 0 or exists (
      select from credits.holds as h
      where h.id = n.hold_id and h.user_id = n.user_id and h.amount = abs(n.held_amount)
        and case n.type when 'hold' then h.opened_seq = n.seq else h.closed_seq = n.seq and h.captured = -n.amount end
      offset 0))) is not true;
  if not found then
    return null;
  end if;
  for e in select n.* from new_rows as n loop
    perform credits.check_entry(e, true);
  end loop;
  return null;
end
$$;
comment on function credits.check_entries() is 'Trigger: all entries of an insert are as credits.check_entry wants them. Raises TK111, TK102, TK113.';

create or replace function credits.check_ended_entry()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  perform credits.check_entry(new, false);
  return null;
end
$$;
comment on function credits.check_ended_entry() is 'Trigger: an entry that was PENDING is as credits.check_entry wants it. Raises TK111, TK102, TK113.';

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

-- The last entry, not just one that agrees: an account can not be set back to what it was. One query for all rows, as for entries.
create or replace function credits.check_heads()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_user_id uuid;
begin
  perform from new_rows as n
  where not exists (
    select from (
      select t.seq, t.balance_after, t.held_after, t.hash from credits.transactions as t
      where t.user_id = n.user_id and t.seq is not null order by t.seq desc limit 1) as last
    where last.seq = n.seq and last.balance_after = n.balance and last.held_after = n.held and last.hash = n.head_hash
    offset 0);
  if not found then
    return null;
  end if;
  select n.user_id into v_user_id
  from new_rows as n
  left join lateral (
    select t.seq, t.balance_after, t.held_after, t.hash from credits.transactions as t
    where t.user_id = n.user_id and t.seq is not null order by t.seq desc limit 1) as last on true
  where (n.seq, n.balance, n.held, n.head_hash) <> (coalesce(last.seq, 0), coalesce(last.balance_after, 0), coalesce(last.held_after, 0), coalesce(last.hash, ''));
  if found then
    raise exception using errcode = 'TK112', message = format('the account of user %s would not agree with its last entry', v_user_id),
      hint = 'Book through the functions of credits.';
  end if;
  return null;
end
$$;
comment on function credits.check_heads() is 'Trigger: each account that an update has touched is what its last entry says. Raises TK112.';

create or replace function credits.check_opening()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if new.seq <> 0 or new.balance <> 0 or new.held <> 0 or new.head_hash <> '' then
    raise exception using errcode = 'TK112', message = format('the account of user %s does not start empty', new.user_id),
      hint = 'Call credits.open_account and credits.grant.';
  end if;
  return null;
end
$$;
comment on function credits.check_opening() is 'Trigger: an account starts empty. Raises TK112.';

create or replace function credits.check_same_account()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if (new.user_id, new.created_at) <> (old.user_id, old.created_at) then
    raise exception using errcode = 'TK110', message = 'update on credits.accounts is refused: an account keeps its user and the time of its opening',
      hint = 'Open an account for the other user.';
  end if;
  return null;
end
$$;
comment on function credits.check_same_account() is 'Trigger: an account keeps its user and the time of its opening. Raises TK110.';

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

create or replace trigger transactions_entries after insert on credits.transactions
  referencing new table as new_rows for each statement execute function credits.check_entries();
create or replace trigger transactions_ended after update on credits.transactions
  for each row when (old.status = 'PENDING') execute function credits.check_ended_entry();
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

create or replace trigger accounts_opening after insert on credits.accounts
  for each row execute function credits.check_opening();
create or replace trigger accounts_same after update of user_id, created_at on credits.accounts
  for each row execute function credits.check_same_account();
create or replace trigger accounts_heads after update on credits.accounts
  referencing new table as new_rows for each statement execute function credits.check_heads();
create or replace trigger accounts_kept before delete or truncate on credits.accounts
  for each statement execute function credits.refuse('accounts are kept');

create or replace trigger holds_entry after insert or update on credits.holds
  for each row execute function credits.check_hold();
create or replace trigger holds_kept before delete or truncate on credits.holds
  for each statement execute function credits.refuse('holds are kept');
