-- Operators: they read what readers do (00_base.sql sees to it), and act on jobs, schedules and queues. Not theirs: what the owner allows others,
-- settings that hold for good (retention, gates, Realtime), the worker protocol, and the ledger.

select pgtick.grant_to('{pgtick_operator}', 'execute', array[
  'function pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, text, text, bigint[], bigint, jsonb, text, text, jsonb)',
  'function pgtick.cancel(bigint)',
  'function pgtick.retry(bigint)',
  'function pgtick.retry_with(bigint, jsonb, text)',
  'function pgtick.cancel_where(jsonb)',
  'function pgtick.retry_where(jsonb)',
  'function pgtick.resume_sequence(text)',
  'function pgtick.pause_queue(text, text)',
  'function pgtick.resume_queue(text)',
  'function pgtick.set_limit(text, bigint, interval, bigint, integer, boolean)',
  'function pgtick.remove_limit(text, boolean)',
  'function pgtick.schedule(text, text, text, jsonb, text, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid)',
  'function pgtick.unschedule(text)',
  'function pgtick.rename_schedule(text, text)',
  'function pgtick.pause_schedule(text, timestamptz)',
  'function pgtick.resume_schedule(text, boolean)',
  'function pgtick.run_now(text)',
  'function pgtick.note_action(text, text, jsonb)']);
