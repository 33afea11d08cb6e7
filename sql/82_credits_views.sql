-- What to look at in the ledger. security_invoker: whoever reads needs the right to the rows underneath.

create or replace view credits.allocations with (security_invoker = true) as
select t.user_id, t.period, t.amount, t.id as transaction_id, t.created_at
from credits.transactions as t
where t.period is not null;
comment on view credits.allocations is 'Which user was given the credits of which month: at most one row a user and month, ever.';
comment on column credits.allocations.user_id is 'The user.';
comment on column credits.allocations.period is 'First day of the month.';
comment on column credits.allocations.amount is 'How many credits.';
comment on column credits.allocations.transaction_id is 'The entry.';
comment on column credits.allocations.created_at is 'When it was given.';

-- For end users: own rows, by row level security, and of those what is theirs to see.
create or replace view credits.my_account with (security_invoker = true) as
select a.user_id, a.tier, a.balance, a.held, a.balance - a.held as available, a.created_at
from credits.accounts as a
where a.user_id = (select pgtick.user_id());
comment on view credits.my_account is 'The account of the end user who asks.';
comment on column credits.my_account.user_id is 'The user.';
comment on column credits.my_account.tier is 'The tier, which says how many credits each month brings.';
comment on column credits.my_account.balance is 'All credits.';
comment on column credits.my_account.held is 'Those that open holds have set aside, expired ones until they are cleaned up.';
comment on column credits.my_account.available is 'The others.';
comment on column credits.my_account.created_at is 'When the account was opened.';

create or replace view credits.my_transactions with (security_invoker = true) as
select t.id, t.type, t.amount, t.held_amount, t.status, t.balance_after, t.held_after, t.hold_id, t.description, t.endpoint, t.reference_id, t.created_at, t.final_at
from credits.transactions as t
where t.user_id = (select pgtick.user_id());
comment on view credits.my_transactions is 'The entries of the end user who asks.';
comment on column credits.my_transactions.id is 'The entry.';
comment on column credits.my_transactions.type is 'deduction, addition, allocation, refund, adjustment, hold, capture, release, transfer_out or transfer_in.';
comment on column credits.my_transactions.amount is 'What it adds to the balance.';
comment on column credits.my_transactions.held_amount is 'What it adds to held.';
comment on column credits.my_transactions.status is 'PENDING, COMPLETED or FAILED.';
comment on column credits.my_transactions.balance_after is 'The balance after it; null unless completed.';
comment on column credits.my_transactions.held_after is 'What is held after it; null unless completed.';
comment on column credits.my_transactions.hold_id is 'The hold that it opens or closes.';
comment on column credits.my_transactions.description is 'What it was for.';
comment on column credits.my_transactions.endpoint is 'The endpoint that was used.';
comment on column credits.my_transactions.reference_id is 'The application''s own reference.';
comment on column credits.my_transactions.created_at is 'When it was booked.';
comment on column credits.my_transactions.final_at is 'When it was completed or failed.';

create or replace view credits.my_holds with (security_invoker = true) as
select h.id, h.amount, h.captured, h.status, h.created_at, h.expires_at, h.closed_at
from credits.holds as h
where h.user_id = (select pgtick.user_id());
comment on view credits.my_holds is 'The holds of the end user who asks.';
comment on column credits.my_holds.id is 'The hold.';
comment on column credits.my_holds.amount is 'How many credits it sets aside.';
comment on column credits.my_holds.captured is 'How many of them were charged.';
comment on column credits.my_holds.status is 'open, captured, released or expired.';
comment on column credits.my_holds.created_at is 'When it was opened.';
comment on column credits.my_holds.expires_at is 'Until when it can be captured.';
comment on column credits.my_holds.closed_at is 'When it was closed.';

create or replace view credits.rates with (security_invoker = true) as
select r.endpoint, r.credits_per_request
from credits.usage_rates as r
where r.is_active;
comment on view credits.rates is 'What one request to each endpoint costs now.';
comment on column credits.rates.endpoint is 'The endpoint.';
comment on column credits.rates.credits_per_request is 'Its price in credits.';

-- Every invariant once more, out of the rows alone. The hash is written out, and looks at the stored hash of the entry before, so that
-- the first wrong entry is named, and only that.
-- A condition on user_id reaches the scans of every branch, for pgtick credits verify reads range by range: each branch gives the user of
-- the table that it reads first, groups and windows are by user, and other rows are looked up by scalar subqueries, or by lateral ones
-- with a limit, which no plan can turn into a join of whole tables. What an entry tells by itself is asked in one scan: a range of 63,000
-- entries takes 0.5 s; with a scan a question it took 1.1 s.
create or replace view credits.violations with (security_invoker = true) as
select 'account: held is not between 0 and balance'::text as kind, a.user_id, null::bigint as transaction_id, null::bigint as hold_id,
  format('balance %s, held %s', a.balance, a.held) as detail
from credits.accounts as a
where not a.held between 0 and a.balance
union all
select 'account: not the sum of its entries', a.user_id, null, null,
  format('balance %s, held %s, seq %s; its %s completed entries say balance %s, held %s, seq %s', a.balance, a.held, a.seq, e.entries, e.amount, e.held_amount, e.seq)
from credits.accounts as a
cross join lateral (
  select coalesce(sum(t.amount), 0) as amount, coalesce(sum(t.held_amount), 0) as held_amount, count(*) as entries, coalesce(max(t.seq), 0) as seq
  from credits.transactions as t
  where t.user_id = a.user_id and t.status = 'COMPLETED' and t.seq > 0
) as e
where (a.balance, a.held, a.seq, a.seq) is distinct from (e.amount, e.held_amount, e.entries, e.seq)
union all
select 'account: held is not the sum of its open holds', a.user_id, null, null, format('held %s, open holds %s', a.held, h.amount)
from credits.accounts as a
cross join lateral (
  select coalesce(sum(x.amount), 0) as amount from credits.holds as x where x.user_id = a.user_id and x.status = 'open'
) as h
where a.held <> h.amount
union all
select 'account: not its last entry', a.user_id, t.id, null,
  format('balance %s, held %s; the entry at %s says %s, %s%s', a.balance, a.held, a.seq, t.balance_after, t.held_after,
    case when a.head_hash is distinct from t.hash then ', and has another hash' end)
from credits.accounts as a
left join lateral (
  select x.id, x.balance_after, x.held_after, x.hash from credits.transactions as x where x.user_id = a.user_id and x.seq = a.seq limit 1
) as t on true
where case when a.seq = 0 then a.head_hash <> '' else (a.balance, a.held, a.head_hash) is distinct from (t.balance_after, t.held_after, t.hash) end
union all
select 'entry: its account is missing', u.user_id, t.id, null, t.type
from (select distinct x.user_id from credits.transactions as x) as u
cross join lateral (select x.id, x.type from credits.transactions as x where x.user_id = u.user_id offset 0) as t
where (select a.user_id from credits.accounts as a where a.user_id = u.user_id) is null
union all
select 'entry: ' || f.kind, c.user_id, c.id, f.hold_id, f.detail
from (
  select t.id, t.user_id, t.hold_id, t.related_id, t.type, t.status, t.seq, t.amount, t.held_amount, t.balance_after, t.held_after,
    case
      when t.status <> 'COMPLETED' then null
      when t.seq is distinct from row_number() over w then 'its place in the chain is wrong'
      when t.balance_after is distinct from coalesce(lag(t.balance_after) over w, 0) + t.amount
        or t.held_after is distinct from coalesce(lag(t.held_after) over w, 0) + t.held_amount then 'it does not continue the one before'
      when not t.held_after between 0 and t.balance_after then 'held is not between 0 and balance'
      when t.hash is distinct from sha256(coalesce(lag(t.hash) over w, '') || record_send(row(t.id, t.user_id, t.seq, convert_to(t.type, 'UTF8'), t.amount,
        t.held_amount, t.balance_after, t.held_after, t.hold_id, t.related_id, t.period, t.created_at, t.final_at, convert_to(t.endpoint, 'UTF8'),
        convert_to(t.idempotency_key, 'UTF8'), t.request_hash, t.text_hash))) then 'its hash is wrong'
    end as wrong_place,
    case
      when case
        when t.redacted_at is not null then num_nonnulls(t.description, t.reference_id, t.notes) > 0
        when num_nonnulls(t.description, t.reference_id, t.notes) = 0 then t.text_hash is not null
        else t.text_hash is distinct from sha256(record_send(row(t.salt, convert_to(t.description, 'UTF8'), convert_to(t.reference_id, 'UTF8'),
          convert_to(t.notes, 'UTF8'))))
      end then 'its texts do not agree with their digest'
    end as wrong_texts,
    case
      when case t.status
        when 'COMPLETED' then num_nonnulls(t.seq, t.balance_after, t.held_after, t.hash, t.final_at) < 5
        when 'PENDING' then num_nonnulls(t.seq, t.balance_after, t.held_after, t.hash, t.final_at) > 0 or t.synced_to_supabase
        when 'FAILED' then num_nonnulls(t.seq, t.balance_after, t.held_after, t.hash) > 0 or t.final_at is null or t.synced_to_supabase
        else true
      end then 'its status does not fit the columns that are set'
    end as wrong_status,
    case
      when (case t.type
        when 'deduction' then t.amount < 0 and t.held_amount = 0
        when 'hold' then t.amount = 0 and t.held_amount > 0
        when 'capture' then t.amount < 0 and t.held_amount <= t.amount
        when 'release' then t.amount = 0 and t.held_amount < 0
        when 'adjustment' then t.amount <> 0 and t.held_amount = 0
        when 'transfer_out' then t.amount < 0 and t.held_amount = 0
        when 'addition' then t.amount > 0 and t.held_amount = 0
        when 'allocation' then t.amount > 0 and t.held_amount = 0
        when 'refund' then t.amount > 0 and t.held_amount = 0
        when 'transfer_in' then t.amount > 0 and t.held_amount = 0
      end) is not true then 'its amounts do not fit its type'
    end as wrong_amounts,
    case
      when t.status = 'COMPLETED' and (t.related_id is not null or t.type in ('transfer_out', 'transfer_in')) and (
        select case t.type
          when 'refund' then o.user_id = t.user_id and o.type in ('deduction', 'capture') and o.seq < t.seq
            and -o.amount >= (select sum(r.amount) from credits.transactions as r where r.related_id = o.id and r.type = 'refund' and r.status = 'COMPLETED')
          when 'adjustment' then o.user_id = t.user_id and o.seq < t.seq
          when 'transfer_out' then o.type = 'transfer_in' and o.related_id = t.id and o.amount = -t.amount
          when 'transfer_in' then o.type = 'transfer_out' and o.related_id = t.id and o.amount = -t.amount
        end
        from credits.transactions as o where o.id = t.related_id
      ) is not true then 'it does not fit the one that it names'
    end as wrong_related,
    case
      when t.status = 'COMPLETED' and t.held_amount <> 0 and (
        select h.user_id = t.user_id and t.seq = case t.type when 'hold' then h.opened_seq else h.closed_seq end from credits.holds as h where h.id = t.hold_id
      ) is not true then 'its hold does not agree with it'
    end as wrong_hold,
    case when (t.type = 'allocation') <> (t.period is not null) then 'a month or a key twice' end as wrong_period,
    t.period, t.idempotency_key
  from credits.transactions as t
  window w as (partition by t.user_id, t.status = 'COMPLETED' order by t.seq)
) as c
cross join lateral (values
  (c.wrong_place, c.hold_id, format('%s at %s: amount %s, held_amount %s, balance_after %s, held_after %s', c.type, c.seq, c.amount, c.held_amount,
    c.balance_after, c.held_after)),
  (c.wrong_texts, null, c.type),
  (c.wrong_status, null, c.status),
  (c.wrong_amounts, c.hold_id, format('%s: amount %s, held_amount %s', c.type, c.amount, c.held_amount)),
  (c.wrong_period, null, coalesce(c.period::text, c.idempotency_key)),
  (c.wrong_related, null, format('%s of %s, names %s', c.type, c.amount, c.related_id)),
  (c.wrong_hold, c.hold_id, format('%s of %s', c.type, c.held_amount))
) as f(kind, hold_id, detail)
where num_nonnulls(c.wrong_place, c.wrong_texts, c.wrong_status, c.wrong_amounts, c.wrong_period, c.wrong_related, c.wrong_hold) > 0 and f.kind is not null
union all
select 'entry: a month or a key twice', d.user_id, t.id, null, d.idempotency_key
from (
  select x.user_id, x.idempotency_key from credits.transactions as x where x.idempotency_key is not null group by x.user_id, x.idempotency_key having count(*) > 1
) as d
cross join lateral (select x.id from credits.transactions as x where uuid_send(x.user_id) = uuid_send(d.user_id) and x.idempotency_key = d.idempotency_key offset 0) as t
union all
select 'entry: a month or a key twice', d.user_id, t.id, null, d.period::text
from (
  select x.user_id, x.period from credits.transactions as x where x.period is not null group by x.user_id, x.period having count(*) > 1
) as d
cross join lateral (select x.id from credits.transactions as x where uuid_send(x.user_id) = uuid_send(d.user_id) and x.period = d.period offset 0) as t
union all
select 'hold: it does not agree with its entries', h.user_id, null, h.id,
  format('%s: amount %s, captured %s, opened at %s, closed at %s', h.status, h.amount, h.captured, h.opened_seq, h.closed_seq)
from credits.holds as h
left join lateral (
  select x.type, x.hold_id, x.held_amount from credits.transactions as x where x.user_id = h.user_id and x.seq = h.opened_seq limit 1
) as o on true
left join lateral (
  select x.id, x.type, x.hold_id, x.held_amount, x.amount from credits.transactions as x where x.user_id = h.user_id and x.seq = h.closed_seq limit 1
) as c on true
where (o.type, o.hold_id, o.held_amount) is distinct from ('hold', h.id, h.amount)
  or case when h.status = 'open' then c.id is not null or h.closed_seq is not null else
    (c.type, c.hold_id, c.held_amount, c.amount) is distinct from (case h.status when 'captured' then 'capture' else 'release' end, h.id, -h.amount, -h.captured) end
  or h.status = 'captured' and h.closed_at >= h.expires_at;
comment on view credits.violations is 'What breaks an invariant of the ledger, worked out anew from all its rows. Always empty. Every read goes through the whole ledger.';
comment on column credits.violations.kind is 'What is wrong, with which kind of row.';
comment on column credits.violations.user_id is 'The user whose account it is.';
comment on column credits.violations.transaction_id is 'The entry, where it is about one.';
comment on column credits.violations.hold_id is 'The hold, where it is about one.';
comment on column credits.violations.detail is 'What the rows say.';
