-- The queue's rights, by role. Functions of the worker protocol are definer: the runner owns nothing and writes no table.

select pgtick.grant_to('{service_role,pgtick_runner}', 'execute', array[
  'function pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, text, text, bigint[], bigint, jsonb, text, text, jsonb)',
  'function pgtick.enqueue_many(text, jsonb[], text, integer, timestamptz, integer, interval, uuid, text[], interval, text[], text, text[], text[], bigint[], bigint, jsonb, text, text, jsonb)',
  'function pgtick.create_batch(text, jsonb, text, integer, integer, interval, uuid, text, jsonb, jsonb)']);
select pgtick.grant_to('{service_role}', 'execute', array[
  'function pgtick.cancel(bigint)',
  'function pgtick.retry(bigint)',
  'function pgtick.retry_with(bigint, jsonb, text)',
  'function pgtick.cancel_where(jsonb)',
  'function pgtick.retry_where(jsonb)',
  'function pgtick.pause_queue(text, text)',
  'function pgtick.resume_queue(text)',
  'function pgtick.set_retention(text, text, interval, text)',
  'function pgtick.set_retry_policy(text, jsonb)',
  'function pgtick.set_limit(text, bigint, interval, bigint, integer, boolean)',
  'function pgtick.remove_limit(text, boolean)',
  'function pgtick.resume_sequence(text)',
  'function pgtick.set_gates(text, text[], bigint)',
  'function pgtick.set_realtime(boolean)']);
select pgtick.grant_to('{pgtick_runner}', 'execute', array[
  'function pgtick.register(text, text[], text[], interval, text, integer)',
  'function pgtick.claim(bigint, text[], text[], integer)',
  'function pgtick.claim_lanes(bigint, text[], text[], integer, text[], text[], integer[], timestamptz[], bigint[])',
  'function pgtick.due_lanes(text[], text[], integer)',
  'function pgtick.reconcile(bigint, bigint[], bigint[])',
  'function pgtick.finish(bigint, bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[])',
  'function pgtick.check_claim(bigint, bigint)',
  'function pgtick.finish_in_transaction(bigint, bigint, jsonb)',
  'function pgtick.progress(bigint, bigint, real, text)',
  'function pgtick.checkpoint(bigint, bigint, jsonb)',
  'function pgtick.heartbeat(bigint, bigint[], bigint[])',
  'function pgtick.leave(bigint)',
  'function pgtick.sleep(bigint, interval)',
  'function pgtick.settled(xid8)',
  'function pgtick.awake(bigint)',
  'function pgtick.next_run_at(bigint)',
  'function pgtick.say_wakes(bigint, boolean)',
  'function pgtick.rescue()',
  'function pgtick.wait_for(bigint, bigint, bigint[], text)',
  'function pgtick.hold_back(bigint, bigint[], bigint[], timestamptz[], text[], timestamptz[])',
  'function pgtick.say_limits(bigint, boolean)',
  'function pgtick.count_attempts(bigint, bigint, integer, integer, integer, integer[], integer[], interval)',
  'function pgtick.limit_rules(bigint)',
  'function pgtick.declare_task(text, jsonb)',
  'function pgtick.watch_rows()',
  'function pgtick.rows_changed()',
  'function pgtick.counted_tasks(bigint)',
  'function pgtick.gate_refused(bigint, bigint, text)',
  'function pgtick.maintain()',
  'function pgtick.rebuild_indexes()',
  'function pgtick.function_call(jsonb)',
  'function pgtick.check_address(text)']);
select pgtick.grant_to('{service_role,pgtick_runner,pgtick_reader,authenticated}', 'execute', array['function pgtick.now()', 'function pgtick.user_id()']);

-- Readers see all rows; the API's service role reads as they do, so that a server can ask what became of its job.
select pgtick.grant_to('{service_role,pgtick_reader}', 'select', array['pgtick.jobs', 'pgtick.attempts', 'pgtick.runners', 'pgtick.queues', 'pgtick.health',
  'pgtick.live_jobs', 'pgtick.history', 'pgtick.job_notes', 'pgtick.runner_leases', 'pgtick.upkeep', 'pgtick.clocks', 'pgtick.paused_queues',
  'pgtick.unique_keys', 'pgtick.retry_policies', 'pgtick.retentions', 'pgtick.allowed_functions', 'pgtick.audit', 'pgtick.job_links', 'pgtick.batch_defs',
  'pgtick.sequences', 'pgtick.limit_defs', 'pgtick.limit_places', 'pgtick.gates', 'pgtick.task_rules', 'pgtick.batches', 'pgtick.limits', 'pgtick.sequence_stops', 'pgtick.attempt_counts']);
select pgtick.grant_to('{service_role,pgtick_reader}', 'execute', array[
  'function pgtick.waiting_tasks()',
  'function pgtick.why(bigint)',
  'function pgtick.old_transactions(interval)',
  'function pgtick.realtime_state()']);
-- End users: only their own rows, and of those only what my_jobs shows.
select pgtick.grant_to('{authenticated}', 'select', array['pgtick.my_jobs']);
select pgtick.grant_to('{authenticated}', 'select (id, task, runner_id, owner_id, created_at, started_at)', array['pgtick.live_jobs']);
select pgtick.grant_to('{authenticated}', 'select (id, task, state, owner_id, done, note, created_at, started_at, finished_at)', array['pgtick.history']);
select pgtick.grant_to('{authenticated}', 'select (job_id, done, note)', array['pgtick.job_notes']);

select pgtick.allow_rows(r.role, array['pgtick.live_jobs', 'pgtick.history', 'pgtick.job_notes', 'pgtick.runner_leases', 'pgtick.upkeep', 'pgtick.clocks',
  'pgtick.paused_queues', 'pgtick.unique_keys', 'pgtick.retry_policies', 'pgtick.retentions', 'pgtick.allowed_functions', 'pgtick.job_links',
  'pgtick.batch_defs', 'pgtick.sequences', 'pgtick.limit_defs', 'pgtick.limit_places', 'pgtick.gates', 'pgtick.task_rules', 'pgtick.audit', 'pgtick.attempt_counts'], 'true')
from unnest('{pgtick_reader,service_role}'::text[]) as r(role);
select pgtick.allow_rows('authenticated', array['pgtick.live_jobs', 'pgtick.history'], 'owner_id = (select pgtick.user_id())');
select pgtick.allow_rows('authenticated', array['pgtick.job_notes'], 'exists (select from pgtick.live_jobs as j where j.id = job_id)');
