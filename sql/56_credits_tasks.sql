-- The four credit tasks, one chunk a call; the runner loops, a transaction a chunk. Every chunk may run twice at once: accounts are
-- locked in user_id order and locked ones are passed over, so that a chunk never waits with thousands of accounts in its hands;
-- what is due is read again under the locks. Each takes a keyset position, so that no chunk walks over what earlier ones have done
-- (the dead index entries too), and gives the next one.
--
-- plan_cache_mode: where rows are looked for, a generic plan would not know how long the arrays are. Where they are written it must be
-- generic, since the triggers run under it as well, and would plan anew for each row (an allocation once took 6 s). There all joins are by
-- key, and hash and merge joins off: right after a bulk load, before ANALYZE, they would read whole tables for each chunk.

create or replace function credits.check_chunk(p_limit integer)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if (p_limit between 1 and 20000) is not true then
    perform credits.invalid('limit', p_limit::text, 'a chunk has 1 to 20000 rows');
  end if;
end
$$;
comment on function credits.check_chunk(integer) is 'Raise TK100 unless p_limit is 1 to 20000.';

-- Of the users named, those whose accounts nobody else holds, now locked.
create or replace function credits.lock_free_accounts(p_user_ids uuid[])
returns uuid[]
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_locked constant uuid[] := array(select a.user_id from credits.accounts as a where a.user_id = any (p_user_ids) order by a.user_id for no key update skip locked);
begin
  perform set_config('credits.chunk_users', (coalesce(nullif(current_setting('credits.chunk_users', true), '')::uuid[], '{}') || v_locked)::text, true);
  return v_locked;
end
$$;
comment on function credits.lock_free_accounts(uuid[]) is 'Lock the accounts of these users in order, passing over those that are locked by others. Which were locked; chunk_faults() looks at them.';

-- The gate of the tasks that book: what the rules beside the tables keep is seen here from the other side, account by account, before the
-- chunk commits. Two entries an account, by the index, so that it costs a chunk the same however long the ledger is.
create or replace function credits.chunk_faults()
returns table (user_id uuid, what text, balance bigint, held bigint, seq bigint, last_entry bigint)
language plpgsql stable parallel safe
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
begin
  return query
  select a.user_id, f.what, a.balance, a.held, a.seq, t.id
  from unnest(nullif(current_setting('credits.chunk_users', true), '')::uuid[]) as u(user_id)
  cross join lateral (select x.* from credits.accounts as x where x.user_id = u.user_id offset 0) as a
  left join lateral (
    select x.id, x.seq, x.amount, x.held_amount, x.balance_after, x.held_after, x.hash
    from credits.transactions as x where x.user_id = a.user_id and x.seq is not null order by x.seq desc limit 1) as t on true
  left join lateral (
    select x.balance_after, x.held_after from credits.transactions as x where x.user_id = a.user_id and x.seq = t.seq - 1 limit 1) as b on true
  cross join lateral (select case
    when (a.seq, a.balance, a.held, a.head_hash) is distinct from (coalesce(t.seq, 0), coalesce(t.balance_after, 0), coalesce(t.held_after, 0), coalesce(t.hash, ''))
      then 'the account is not what its last entry says'
    when t.seq > 1 and b.balance_after is null then 'the entry before the last is missing'
    when t.balance_after <> coalesce(b.balance_after, 0) + t.amount or t.held_after <> coalesce(b.held_after, 0) + t.held_amount
      then 'the last entry does not continue the one before' end as what) as f
  where f.what is not null;
end
$$;
comment on function credits.chunk_faults() is
  'What is wrong with the accounts that this transaction''s chunks have locked: empty, or the transaction must not commit. The query of the gate "credits: accounts continue their entries".';

-- Definer: the runner has no rights on the tables.
create or replace function credits.cleanup_chunk(
  p_after_at timestamptz, p_after_id bigint, p_limit integer,
  out todo bigint, out last_at timestamptz, out last_id bigint, out seen bigint, out busy bigint, out released bigint, out credits numeric)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_due_at timestamptz := pgtick.now();
  v_ids bigint[];
  v_locked uuid[];
begin
  perform credits.check_chunk(p_limit);
  if p_after_id is null then
    todo := (select count(*) from credits.holds as h where h.status = 'open' and h.expires_at <= v_due_at);
  end if;
  v_ids := array(
    select h.id
    from credits.holds as h
    where h.status = 'open' and h.expires_at <= v_due_at and (h.expires_at, h.id) > (coalesce(p_after_at, '-infinity'), coalesce(p_after_id, 0))
    order by h.expires_at, h.id
    limit p_limit);
  seen := cardinality(v_ids);
  select h.expires_at, h.id into last_at, last_id from credits.holds as h where h.id = v_ids[seen];
  v_locked := credits.lock_free_accounts(array(select distinct h.user_id from credits.holds as h where h.id = any (v_ids)));
  busy := (select count(*) from credits.holds as h where h.id = any (v_ids) and h.user_id <> all (v_locked));
  select r.released, r.credits into released, credits
  from credits.release_expired(
    array(select h.id from credits.holds as h where h.id = any (v_ids) and h.user_id = any (v_locked)), pgtick.now(), 'expired: released by cleanup') as r;
end
$$;
comment on function credits.cleanup_chunk(timestamptz, bigint, integer) is
  'Release up to p_limit (1 to 20000) expired holds that come after the position (p_after_at, p_after_id), null for the start. The next position; how many were seen (0: the end), left because their account was busy, and released, of how many credits; at the start also how many there are to do. Raises TK100.';

-- Definer: the runner has no rights on the tables.
create or replace function credits.allocate_chunk(
  p_period date, p_after uuid, p_limit integer,
  out period date, out todo bigint, out last_user uuid, out seen bigint, out busy bigint, out allocated bigint, out credits numeric, out overflowing bigint)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_this_month date := date_trunc('month', pgtick.now() at time zone 'UTC')::date;
  v_users uuid[];
  v_due uuid[];
  v_locked uuid[];
begin
  perform credits.check_chunk(p_limit);
  period := coalesce(p_period, v_this_month);
  if extract(day from period) <> 1 or period > v_this_month then
    perform credits.invalid('period', period::text, 'the first day of this month (UTC) or of an earlier one');
  end if;
  if p_after is null then
    todo := (select count(*) from credits.accounts);
  end if;
  v_users := array(select a.user_id from credits.accounts as a where p_after is null or a.user_id > p_after order by a.user_id limit p_limit);
  seen := cardinality(v_users);
  last_user := v_users[seen];
  v_due := array(select d.user_id from credits.allocations_due(period, v_users) as d);
  v_locked := credits.lock_free_accounts(v_due);
  busy := cardinality(v_due) - cardinality(v_locked);
  select g.allocated, g.credits into allocated, credits from credits.allocate_locked(period, v_locked) as g;
  overflowing := (select count(*) from credits.allocations_due(period, v_locked));
end
$$;
comment on function credits.allocate_chunk(date, uuid, integer) is
  'Give the accounts after user p_after (null for the start), at most p_limit (1 to 20000) of them, what their tiers give for the month that begins on p_period (null: this month, UTC), where they have not got it. The month; the last user; how many were seen (0: the end), left because they were busy, given to, with how many credits, and passed over because their balance can not hold it; at the start also how many accounts there are. Raises TK100, also for a month to come.';

-- What is due is read here, by a statement that began after the locks: another session may have been faster.
create or replace function credits.allocate_locked(p_period date, p_user_ids uuid[], out allocated bigint, out credits numeric)
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
declare
  v_now constant timestamptz := pgtick.now();
begin
  with due as materialized (
    select d.user_id, d.amount, a.balance + d.amount as balance_after, a.held, a.seq + 1 as seq, a.head_hash,
      nextval('credits.transactions_id_seq') as id, uuid_send(gen_random_uuid()) as salt
    from credits.allocations_due(p_period, p_user_ids) as d
    join credits.accounts as a on a.user_id = d.user_id
    where a.balance <= 9223372036854775807 - d.amount
  ), hashed as materialized (
    select d.*, sha256(d.head_hash || record_send(row(d.id, d.user_id, d.seq, 'allocation'::bytea, d.amount, 0::bigint, d.balance_after, d.held, null::bigint,
      null::bigint, p_period, v_now, v_now, null::bytea, null::bytea, null::bytea, null::bytea))) as hash
    from due as d
  ), moved as (
    update credits.accounts as a set balance = h.balance_after, seq = h.seq, head_hash = h.hash from hashed as h where a.user_id = h.user_id
  ), booked as (
    insert into credits.transactions (id, user_id, seq, type, status, amount, balance_after, held_after, period, created_at, final_at, salt, hash)
    overriding system value
    select h.id, h.user_id, h.seq, 'allocation', 'COMPLETED', h.amount, h.balance_after, h.held, p_period, v_now, v_now, h.salt, h.hash
    from hashed as h
  )
  select count(*), coalesce(sum(h.amount), 0) into allocated, credits from hashed as h;
end
$$;
comment on function credits.allocate_locked(date, uuid[]) is
  'Give these users, whose accounts are locked, what their tiers give for the month that begins on p_period, where they have not got it and their balance can hold it. To how many, and how many credits.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.allocate(p_user_id uuid)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_period constant date := date_trunc('month', pgtick.now() at time zone 'UTC')::date;
begin
  if p_user_id is null then
    perform credits.invalid('user_id', null, 'an operation names its user');
  end if;
  perform credits.lock_account(p_user_id), credits.allocate_locked(v_period, array[p_user_id]);
  return (select t.id from credits.transactions as t where uuid_send(t.user_id) = uuid_send(p_user_id) and t.period = v_period);
end
$$;
comment on function credits.allocate(uuid) is
  'Give a user this month''s (UTC) credits now, by tier and the setting allocation_for_new, unless that is done: for an account that is opened after the month''s run. The id of the month''s allocation; null where there is nothing to give. Raises TK100 without a user, TK102 for an unknown one.';

create or replace function credits.allocations_due(p_period date, p_user_ids uuid[])
returns table (user_id uuid, amount bigint)
language plpgsql stable parallel safe
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_for_new constant text := credits.allocation_for_new();
begin
  return query
  select d.user_id, d.amount
  from (
    select a.user_id, case
        when a.created_at < p_period at time zone 'UTC' then t.monthly_credits
        else credits.month_share(t.monthly_credits, a.created_at, p_period, v_for_new) end as amount
    from credits.accounts as a
    join credits.tiers as t on t.name = a.tier
    where a.user_id = any (p_user_ids)
  ) as d
  where d.amount > 0
    -- The limit keeps this a look-up in the index for each account; a join would read the whole table where statistics are old.
    and not coalesce((select true from credits.transactions as x where uuid_send(x.user_id) = uuid_send(d.user_id) and x.period = p_period limit 1), false);
end
$$;
comment on function credits.allocations_due(date, uuid[]) is
  'Which of these users get an allocation for the month, and how much: by tier, for the month of its opening by the setting allocation_for_new, nothing for months before, and nothing twice.';

-- Definer: the runner has no rights on the tables.
create or replace function credits.resolve_chunk(
  p_after_at timestamptz, p_after_id bigint, p_limit integer,
  out todo bigint, out last_at timestamptz, out last_id bigint, out seen bigint, out busy bigint, out committed bigint, out reverted bigint, out failed bigint,
  out credits_added numeric, out credits_deducted numeric)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_due_at timestamptz := pgtick.now();
  v_ids bigint[];
  v_commits boolean[];
  v_notes text[];
  v_locked uuid[];
begin
  perform credits.check_chunk(p_limit);
  if p_after_id is null then
    todo := (
      select count(*)
      from credits.transactions as t
      join credits.pending_rules as r on r.type = t.type
      where t.status = 'PENDING' and t.created_at <= v_due_at - r.after);
  end if;
  v_ids := array(
    select t.id
    from credits.transactions as t
    join credits.pending_rules as r on r.type = t.type
    where t.status = 'PENDING' and t.created_at <= v_due_at - r.after
      and t.created_at <= v_due_at - (select min(x.after) from credits.pending_rules as x)
      and (t.created_at, t.id) > (coalesce(p_after_at, '-infinity'), coalesce(p_after_id, 0))
    order by t.created_at, t.id
    limit p_limit);
  seen := cardinality(v_ids);
  select t.created_at, t.id into last_at, last_id from credits.transactions as t where t.id = v_ids[seen];
  v_locked := credits.lock_free_accounts(array(select distinct t.user_id from credits.transactions as t where t.id = any (v_ids)));
  busy := (select count(*) from credits.transactions as t where t.id = any (v_ids) and t.user_id <> all (v_locked));
  select array_agg(t.id), array_agg(r.action = 'commit'),
    array_agg(format('%s: pending for longer than %s', case r.action when 'commit' then 'committed' else 'reverted' end, r.after))
  into v_ids, v_commits, v_notes
  from credits.transactions as t
  join credits.pending_rules as r on r.type = t.type
  where t.id = any (v_ids) and t.user_id = any (v_locked) and t.status = 'PENDING';
  select r.committed, r.reverted, r.failed, r.credits_added, r.credits_deducted
  into committed, reverted, failed, credits_added, credits_deducted
  from credits.resolve_locked(v_ids, v_commits, v_notes, pgtick.now()) as r;
end
$$;
comment on function credits.resolve_chunk(timestamptz, bigint, integer) is
  'Commit or revert, by credits.pending_rules, up to p_limit (1 to 20000) entries that have been PENDING for too long and come after the position (p_after_at, p_after_id), null for the start. The next position; how many were seen (0: the end), left because their account was busy, committed, reverted, and failed because the balance did not allow the commit; the credits added and deducted; at the start also how many there are to do. Raises TK100.';

-- Definer: the runner has no rights on the tables. Found by the mark, not by a time or an id: what commits late is not passed over.
create or replace function credits.sync_chunk(
  p_after bigint, p_limit integer, out todo bigint, out last_id bigint, out synced bigint, out credits_added numeric, out credits_deducted numeric)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_now timestamptz;
begin
  perform credits.check_chunk(p_limit);
  v_now := pgtick.now();
  if p_after is null then
    todo := credits.unsynced_count();
  end if;
  with marked as (
    update credits.transactions as t set synced_to_supabase = true, synced_at = v_now
    where t.id = any (array(
      select x.id
      from credits.transactions as x
      where not x.synced_to_supabase and x.status = 'COMPLETED' and x.id > coalesce(p_after, 0)
        and not exists (select from credits.sync_refusals as r where r.transaction_id = x.id and r.retried_at is null)
      order by x.id
      limit p_limit
      for no key update of x skip locked))
    returning t.id, t.user_id, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint, t.period, t.created_at, t.final_at
  ), inserted as (
    insert into analytics.credit_usage (transaction_id, user_id, type, amount, held_amount, balance_after, endpoint, period, created_at, completed_at, synced_at)
    select m.id, m.user_id, m.type, m.amount, m.held_amount, m.balance_after, m.endpoint, m.period, m.created_at, m.final_at, v_now from marked as m
    on conflict (transaction_id) do nothing
  ), forgotten as (
    delete from credits.sync_refusals as r using marked as m where r.transaction_id = m.id
  )
  select max(m.id), count(*), coalesce(sum(m.amount) filter (where m.amount > 0), 0), coalesce(-sum(m.amount) filter (where m.amount < 0), 0)
  into last_id, synced, credits_added, credits_deducted
  from marked as m;
end
$$;
comment on function credits.sync_chunk(bigint, integer) is
  'Copy up to p_limit (1 to 20000) completed entries with an id above p_after (null for the start) that are neither synced nor set aside into analytics.credit_usage, and mark them, in one statement. The last id; how many there were (0: the end), and the credits they added and deducted; at the start also how many there are to do. Raises TK100.';

create or replace function credits.default_schedules()
returns table (name text, cron text, task text, on_missed text, catch_up_limit integer, timeout interval)
language sql immutable parallel safe
set search_path = ''
as $$
  values
    ('cleanup-expired-credit-holds', '0 */3 * * *', 'credits.cleanup_expired_credit_holds', 'once', 100, interval '1 hour'),
    ('periodic-credit-allocation', '0 0 1 * *', 'credits.periodic_credit_allocation', 'all', 24, interval '1 hour'),
    ('process-pending-credit-transactions', '*/15 * * * *', 'credits.process_pending_transactions', 'once', 100, interval '1 hour'),
    ('sync-credit-usage-with-supabase', '*/10 * * * *', 'credits.sync_credit_usage_with_supabase', 'once', 100, interval '1 hour')
$$;
comment on function credits.default_schedules() is 'The schedules (UTC) that migrate installs where their names have never existed.';
