-- Handing completed entries to a target outside of this database: what it does not have yet, the mark once it has confirmed, and what it
-- refuses. The target in this database needs none of it: sync_chunk() copies and marks in one statement.
-- Nothing is locked between reading and marking, and no transaction stays open while the target is asked: entries never change, and the
-- target keeps each once, however often and by whomever it is sent. A runner that is killed in between leaves it to be sent again.

-- Definer: the runner has no rights on the tables.
create or replace function credits.unsynced_count()
returns bigint
language plpgsql stable parallel safe security definer
set search_path = ''
as $$
begin
  return (
    select count(*)
    from credits.transactions as t
    where not t.synced_to_supabase and t.status = 'COMPLETED'
      and not exists (select from credits.sync_refusals as r where r.transaction_id = t.id and r.retried_at is null));
end
$$;
comment on function credits.unsynced_count() is 'How many completed entries the analytics target does not have yet, those that are set aside not counted.';

-- Definer: the runner has no rights on the tables. Found by the mark, not by a time or an id: what commits late is not passed over.
create or replace function credits.unsynced_chunk(p_after bigint, p_limit integer)
returns setof analytics.credit_usage
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_now timestamptz;
begin
  perform credits.check_chunk(p_limit);
  v_now := pgtick.now();
  return query
  select t.id, t.user_id, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint, t.period, t.created_at, t.final_at, v_now
  from credits.transactions as t
  where not t.synced_to_supabase and t.status = 'COMPLETED' and t.id > coalesce(p_after, 0)
    and not exists (select from credits.sync_refusals as r where r.transaction_id = t.id and r.retried_at is null)
  order by t.id
  limit p_limit;
end
$$;
comment on function credits.unsynced_chunk(bigint, integer) is
  'Up to p_limit (1 to 20000) completed entries with an id above p_after (null for the start) that are neither synced nor set aside, in the order of their ids, as rows for the analytics target. Raises TK100.';

-- Definer: the runner has no rights on the tables. Locked in id order, so that two copies do not wait for each other in a circle.
create or replace function credits.mark_synced(p_ids bigint[])
returns setof bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_now timestamptz;
  v_ids bigint[] := array(
    select t.id
    from credits.transactions as t
    where t.id = any (p_ids) and not t.synced_to_supabase and t.status = 'COMPLETED'
    order by t.id
    for no key update);
begin
  v_now := pgtick.now();
  return query
  with forgotten as (
    delete from credits.sync_refusals as r where r.transaction_id = any (p_ids)
  )
  update credits.transactions as t set synced_to_supabase = true, synced_at = v_now
  where t.id = any (v_ids)
  returning t.id;
end
$$;
comment on function credits.mark_synced(bigint[]) is
  'Mark these entries as synced, once the analytics target has confirmed that it has them, and forget that it ever refused them. The ids of those that were not marked before.';

-- Definer: the runner has no rights on the tables.
create or replace function credits.set_aside(p_id bigint, p_target text, p_reason text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_target is null or length(p_target) not between 1 and 500 then
    perform credits.invalid('target', p_target, 'a target has a name of 1 to 500 characters');
  end if;
  if p_reason is null or length(p_reason) not between 1 and 4000 then
    perform credits.invalid('reason', p_reason, 'a refusal has a reason of 1 to 4000 characters');
  end if;
  insert into credits.sync_refusals as r (transaction_id, target, reason, refused_at)
  select t.id, p_target, p_reason, pgtick.now()
  from credits.transactions as t
  where t.id = p_id and t.status = 'COMPLETED' and not t.synced_to_supabase
  on conflict (transaction_id) do update
  set target = excluded.target, reason = excluded.reason, attempts = r.attempts + 1, refused_at = excluded.refused_at, retried_at = null;
end
$$;
comment on function credits.set_aside(bigint, text, text) is
  'Note that the analytics target p_target has refused an entry, and why. Later runs of the sync pass it over until retry_refused(). Nothing happens for an entry that is synced, or not completed. Raises TK100.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.retry_refused()
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_count bigint;
begin
  update credits.sync_refusals as r set retried_at = pgtick.now() where r.retried_at is null;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function credits.retry_refused() is 'Let the sync hand over again what its target has refused: all entries that are set aside. How many they were.';
