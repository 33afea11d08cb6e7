-- The same as credits.yaml, in SQL: pgtick schedules apply credits.sql --source credits --dry-run

select pgtick.schedule('cleanup-expired-credit-holds', '0 */3 * * *', 'credits.cleanup_expired_credit_holds', p_timeout => '1 hour');

-- Each month is allocated once, however long no clock ticked.
select pgtick.schedule('periodic-credit-allocation', '0 0 1 * *', 'credits.periodic_credit_allocation', p_timeout => '1 hour',
  p_on_missed => 'all', p_catch_up_limit => 24);

select pgtick.schedule('process-pending-credit-transactions', '*/15 * * * *', 'credits.process_pending_transactions', p_timeout => '1 hour');

select pgtick.schedule('sync-credit-usage-with-supabase', '*/10 * * * *', 'credits.sync_credit_usage_with_supabase', p_timeout => '1 hour');
