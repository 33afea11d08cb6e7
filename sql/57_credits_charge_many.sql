-- A usage feed: many charges in one call.

-- Definer: nobody but the owner writes the tables of credits.
-- What charge() decides one by one is decided here for all at once, in the order of the rows: windows by account follow what is left, the
-- seq and the hash. Each row is joined by key: a hash join would read the whole ledger for each feed. Rows that are out of the ordinary, and
-- all of a user whose key comes twice, go through charge() itself afterwards, each in a savepoint, so that both say the same.
create or replace function credits.charge_many(
  p_user_ids uuid[], p_amounts bigint[] default null, p_idempotency_keys text[] default null, p_endpoints text[] default null,
  p_descriptions text[] default null, p_reference_ids text[] default null)
returns table (place bigint, outcome text, transaction_id bigint, code text, message text)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
#variable_conflict use_column
declare
  v_n constant integer := cardinality(p_user_ids);
  v_now timestamptz;
  v_places bigint[];
  v_outcomes text[];
  v_ids bigint[];
  v_codes text[];
  v_messages text[];
  v_place bigint;
begin
  if (v_n between 1 and 20000) is not true then
    perform credits.invalid('user_ids', v_n::text, 'a call has 1 to 20000 rows', 'Send a longer feed in several calls.');
  end if;
  perform credits.check_length('amounts', cardinality(p_amounts), v_n), credits.check_length('idempotency_keys', coalesce(cardinality(p_idempotency_keys), 0), v_n),
    credits.check_length('endpoints', cardinality(p_endpoints), v_n), credits.check_length('descriptions', cardinality(p_descriptions), v_n),
    credits.check_length('reference_ids', cardinality(p_reference_ids), v_n);
  perform from credits.accounts as a where a.user_id = any (p_user_ids) order by a.user_id for no key update;
  v_now := pgtick.now();
  perform credits.release_expired(array(
    select h.id
    from (
      select i.user_id, sum(greatest(i.amount, 0)) as asked, bool_or(i.amount is null) as unknown
      from unnest(p_user_ids, p_amounts, p_idempotency_keys) as i(user_id, amount, key)
      group by i.user_id
      having count(*) = count(distinct array[i.key])) as i   -- of the others charge() takes care; two without a key are as two with the same
    join credits.accounts as a on a.user_id = i.user_id and a.held > 0 and (i.unknown or a.balance - a.held < i.asked)
    join credits.holds as h on h.user_id = a.user_id and h.status = 'open' and h.expires_at <= v_now), v_now, 'expired: released when its credits were needed');

  with asked as (
    select i.*, coalesce(i.amount, r.credits_per_request) as price, a.user_id is not null and coalesce(i.amount, r.credits_per_request) > 0
        and length(i.key) between 1 and 255
        and (i.endpoint is null or length(i.endpoint) between 1 and 255 and i.endpoint !~ '[[:cntrl:]]')
        and (i.description is null or length(i.description) <= 4000) and (i.reference_id is null or length(i.reference_id) <= 255) as is_plain,
      a.balance - a.held as available, a.held, a.seq as head, a.head_hash,
      record_send(row('charge'::bytea, i.user_id, i.amount, convert_to(i.endpoint, 'UTF8'), convert_to(i.description, 'UTF8'),
        convert_to(i.reference_id, 'UTF8'))) as request,
      row_number() over (partition by i.user_id, i.key order by i.place) > 1 as is_again
    from unnest(p_user_ids, p_amounts, p_idempotency_keys, p_endpoints, p_descriptions, p_reference_ids) with ordinality
      as i(user_id, amount, key, endpoint, description, reference_id, place)
    left join credits.accounts as a on a.user_id = i.user_id
    left join credits.usage_rates as r on r.endpoint = i.endpoint and r.is_active
  ), kept as (
    select a.*, bool_or(a.is_again) over (partition by a.user_id) as is_odd from asked as a   -- what comes of the second depends on the first
  ), seen as materialized (
    select a.*, t.id as seen_id, t.request_hash = sha256(t.salt || a.request) as is_same,
      coalesce(a.is_plain, false) and not a.is_odd and t.id is null as is_new, uuid_send(gen_random_uuid()) as salt
    from kept as a
    left join lateral (
      select x.id, x.salt, x.request_hash from credits.transactions as x where uuid_send(x.user_id) = uuid_send(a.user_id) and x.idempotency_key = a.key limit 1) as t on true
  ), spent as (
    select s.*, credits.spend_next(row_number() over w = 1, s.available, s.price, s.held) as left_after
    from seen as s
    where s.is_new
    window w as (partition by s.user_id order by s.place)
  ), judged as (
    select s.*, s.left_after <> coalesce(lag(s.left_after) over w, s.available) as is_ok, coalesce(lag(s.left_after) over w, s.available) as left_before
    from spent as s
    window w as (partition by s.user_id order by s.place)
  ), numbered as (
    select j.*, j.head + row_number() over w as seq, nextval('credits.transactions_id_seq') as id, lead(j.place) over w is null as is_last,
      sha256(j.salt || j.request) as request_hash,
      case when num_nonnulls(j.description, j.reference_id) > 0 then
        sha256(record_send(row(j.salt, convert_to(j.description, 'UTF8'), convert_to(j.reference_id, 'UTF8'), null::bytea))) end as text_hash
    from judged as j
    where j.is_ok
    window w as (partition by j.user_id order by j.place)
  ), chained as materialized (
    select n.*, credits.chain_next(row_number() over w = 1, n.head_hash, record_send(row(n.id, n.user_id, n.seq, 'deduction'::bytea, -n.price, 0::bigint,
      n.left_after + n.held, n.held, null::bigint, null::bigint, null::date, v_now, v_now, convert_to(n.endpoint, 'UTF8'), convert_to(n.key, 'UTF8'), n.request_hash, n.text_hash))) as hash
    from numbered as n
    window w as (partition by n.user_id order by n.place)
  ), moved as (
    update credits.accounts as a set balance = c.left_after + c.held, seq = c.seq, head_hash = c.hash from chained as c where c.is_last and a.user_id = c.user_id
  ), booked as (
    insert into credits.transactions (id, user_id, seq, type, status, amount, balance_after, held_after, created_at, final_at,
      endpoint, idempotency_key, description, reference_id, salt, request_hash, text_hash, hash)
    overriding system value
    select c.id, c.user_id, c.seq, 'deduction', 'COMPLETED', -c.price, c.left_after + c.held, c.held, v_now, v_now,
      c.endpoint, c.key, c.description, c.reference_id, c.salt, c.request_hash, c.text_hash, c.hash
    from chained as c
  ), told as (
    select c.place, 'charged' as outcome, c.id, null as code, null as message from chained as c
    union all
    select j.place, 'refused', null, 'TK101', credits.too_few(j.price, j.left_before) from judged as j where not j.is_ok
    union all
    select s.place, case when s.is_same and s.is_plain and not s.is_odd then 'repeated' end, case when s.is_same then s.seen_id end, null, null
    from seen as s
    where not s.is_new
  )
  select array_agg(t.place order by t.place), array_agg(t.outcome order by t.place), array_agg(t.id order by t.place), array_agg(t.code order by t.place),
    array_agg(t.message order by t.place)
  into v_places, v_outcomes, v_ids, v_codes, v_messages
  from told as t;

  if array_position(v_outcomes, null) is not null then
    for v_place in select o.place from unnest(v_outcomes) with ordinality as o(outcome, place) where o.outcome is null order by o.place loop
      v_outcomes[v_place] := case when exists (
        select from credits.transactions as t where uuid_send(t.user_id) = uuid_send(p_user_ids[v_place]) and t.idempotency_key = p_idempotency_keys[v_place])
        then 'repeated' else 'charged' end;
      begin
        v_ids[v_place] := credits.charge(p_user_ids[v_place], p_amounts[v_place], p_idempotency_keys[v_place], p_endpoints[v_place],
          p_descriptions[v_place], p_reference_ids[v_place]);
      exception when sqlstate 'TK100' or sqlstate 'TK101' or sqlstate 'TK102' or sqlstate 'TK105' or sqlstate 'TK106' then
        v_ids[v_place] := null;
        v_outcomes[v_place] := 'refused';
        v_codes[v_place] := sqlstate;
        v_messages[v_place] := sqlerrm;
      end;
    end loop;
  end if;
  return query
  select o.place, o.outcome, o.id, o.code, o.message
  from unnest(v_outcomes, v_ids, v_codes, v_messages) with ordinality as o(outcome, id, code, message, place);
end
$$;
comment on function credits.charge_many(uuid[], bigint[], text[], text[], text[], text[]) is
  'As many charges (1 to 20,000) as there are users, each as by credits.charge, in this order, in one transaction; the other arrays are null or as long. A row for each: its place from 1; outcome charged, repeated (the same request was booked before) or refused; the entry; and what charge() would have raised, as code and message. One that is refused keeps no other from being booked. All accounts are locked, in user_id order. Raises TK100 for arrays of another length.';

create or replace function credits.check_length(p_field text, p_length integer, p_n integer)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_length <> p_n then
    perform credits.invalid(p_field, p_length::text, format('as many as there are user_ids, %s', p_n), 'Give one for each row, null where there is none.');
  end if;
end
$$;
comment on function credits.check_length(text, integer, integer) is 'Raise TK100 where an array has another length than p_n; null is any.';
