-- The ledger's rights, by role. Nobody but the owner writes a table: the functions are definer.

select pgtick.grant_to('{authenticated,service_role,pgtick_runner,pgtick_reader}', 'usage', '{schema credits}');
select pgtick.grant_to('{service_role,pgtick_reader}', 'usage', '{schema analytics}');

select pgtick.grant_to('{service_role}', 'execute', array[
  'function credits.open_account(uuid, text)',
  'function credits.balance(uuid)',
  'function credits.grant(uuid, bigint, text, text, text)',
  'function credits.charge(uuid, bigint, text, text, text, text)',
  'function credits.hold(uuid, bigint, interval, text, text, text)',
  'function credits.capture(bigint, bigint, text)',
  'function credits.release(bigint, text)',
  'function credits.submit(uuid, text, bigint, text, text, text)',
  'function credits.resolve(bigint, boolean, text)',
  'function credits.charge_many(uuid[], bigint[], text[], text[], text[], text[])',
  'function credits.extend(bigint, interval)',
  'function credits.refund(bigint, text, bigint, text, text)',
  'function credits.adjust(uuid, bigint, text, text, text)',
  'function credits.transfer(uuid, uuid, bigint, text, text, text)',
  'function credits.set_tier(uuid, text)',
  'function credits.allocate(uuid)',
  'function credits.statement(uuid, timestamptz, timestamptz)',
  'function credits.redact(bigint)',
  'function credits.retry_refused()']);
select pgtick.grant_to('{pgtick_runner}', 'execute', array[
  'function credits.cleanup_chunk(timestamptz, bigint, integer)',
  'function credits.allocate_chunk(date, uuid, integer)',
  'function credits.resolve_chunk(timestamptz, bigint, integer)',
  'function credits.sync_chunk(bigint, integer)',
  'function credits.unsynced_count()',
  'function credits.unsynced_chunk(bigint, integer)',
  'function credits.mark_synced(bigint[])',
  'function credits.set_aside(bigint, text, text)']);

select pgtick.grant_to('{pgtick_reader}', 'execute', array[
  'function credits.balance(uuid)',
  'function credits.statement(uuid, timestamptz, timestamptz)']);

-- Readers see all rows; the API's service role reads as they do, so that a server can ask what became of a request.
select pgtick.grant_to('{service_role,pgtick_reader}', 'select', array['credits.tiers', 'credits.usage_rates', 'credits.settings', 'credits.pending_rules',
  'credits.accounts', 'credits.transactions', 'credits.holds', 'credits.sync_refusals', 'credits.own_operations', 'credits.allocations', 'credits.rates',
  'credits.violations', 'analytics.credit_usage', 'analytics.credit_usage_by_day', 'analytics.credit_usage_by_endpoint', 'analytics.credit_usage_by_user']);
select pgtick.allow_rows(r.role, array['credits.tiers', 'credits.usage_rates', 'credits.settings', 'credits.pending_rules', 'credits.accounts',
  'credits.transactions', 'credits.holds', 'credits.sync_refusals', 'credits.own_operations', 'analytics.credit_usage'], 'true')
from unnest('{pgtick_reader,service_role}'::text[]) as r(role);

-- End users: their own rows, of those what the my_ views show, and the prices.
select pgtick.grant_to('{authenticated}', 'select', array['credits.my_account', 'credits.my_transactions', 'credits.my_holds', 'credits.rates']);
select pgtick.grant_to('{authenticated}', 'select (user_id, tier, balance, held, created_at)', array['credits.accounts']);
select pgtick.grant_to('{authenticated}',
  'select (id, user_id, type, amount, held_amount, status, balance_after, held_after, hold_id, description, endpoint, reference_id, created_at, final_at)',
  array['credits.transactions']);
select pgtick.grant_to('{authenticated}', 'select (id, user_id, amount, captured, status, created_at, expires_at, closed_at)', array['credits.holds']);
select pgtick.grant_to('{authenticated}', 'select (endpoint, credits_per_request, is_active)', array['credits.usage_rates']);
select pgtick.allow_rows('authenticated', array['credits.accounts', 'credits.transactions', 'credits.holds'], 'user_id = (select pgtick.user_id())');
select pgtick.allow_rows('authenticated', array['credits.usage_rates'], 'is_active');
select credits.grant_own();
