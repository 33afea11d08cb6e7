-- The schedules' rights, by role.

select pgtick.grant_to('{service_role}', 'execute', array[
  'function pgtick.schedule(text, text, text, jsonb, text, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid)',
  'function pgtick.unschedule(text)',
  'function pgtick.rename_schedule(text, text)',
  'function pgtick.pause_schedule(text, timestamptz)',
  'function pgtick.resume_schedule(text, boolean)',
  'function pgtick.set_slot_retention(interval)',
  'function pgtick.run_now(text)']);
-- run_ticks is no definer, so that who calls it needs what it calls; rescue, maintain and rebuild_indexes are granted with the queue.
select pgtick.grant_to('{pgtick_runner}', 'execute', array[
  'function pgtick.tick()',
  'function pgtick.tick_chunk(integer)',
  'function pgtick.next_tick_at()',
  'function pgtick.upkeep_due(text, interval)',
  'function pgtick.check_deadlines()',
  'procedure pgtick.run_ticks()']);
-- Nor are the pure functions, for the same reason: definer functions that an end user may call are what Supabase's adviser warns of.
select pgtick.grant_to('{service_role,pgtick_reader,pgtick_runner,authenticated}', 'execute', array[
  'function pgtick.next_run(text, timestamptz, text)',
  'function pgtick.preview(text, text, timestamptz, integer)',
  'function pgtick.invalid(text, text, text, text)',
  'function pgtick.check_moment(text, timestamptz)',
  'function pgtick.check_time_zone(text)',
  'function pgtick.cron_error(text, text, integer, text, text, text)',
  'function pgtick.cron_number(text, integer, text, text)',
  'function pgtick.cron_field(text, integer, text)',
  'function pgtick.parse_cron(text)',
  'function pgtick.cron_next_wall(pgtick.cron, timestamp)',
  'function pgtick.zone_shift(text, timestamp, timestamp)',
  'function pgtick.cron_resolve(pgtick.cron, text, timestamp, boolean, boolean)',
  'function pgtick.next_slot(pgtick.cron, text, timestamptz, text, text)',
  'function pgtick.slots_between(pgtick.cron, text, timestamptz, timestamptz, integer, text, text)']);

select pgtick.grant_to('{service_role,pgtick_reader}', 'select', array['pgtick.schedules', 'pgtick.schedule_versions', 'pgtick.slots',
  'pgtick.schedule_defs', 'pgtick.schedule_changes', 'pgtick.slot_log', 'pgtick.outages', 'pgtick.overdue', 'pgtick.settings']);
select pgtick.grant_to('{service_role,pgtick_reader}', 'execute', array[
  'function pgtick.nearest_name(text, text[])',
  'function pgtick.schedule_health()',
  'function pgtick.overdue_schedules(timestamptz)',
  'function pgtick.utc(timestamptz)',
  'function pgtick.slot_retention_days()',
  'function pgtick.slot_run_at(bigint, timestamptz, interval)',
  'function pgtick.cron_month_days(pgtick.cron, integer, integer)',
  'function pgtick.cron_times_after(pgtick.cron, timestamp)',
  'function pgtick.cron_count_walls(pgtick.cron, timestamp, timestamp)',
  'function pgtick.count_slots(pgtick.cron, text, timestamptz, timestamptz, text, text)',
  'function pgtick.in_version(bigint, integer)',
  'function pgtick.version_windows(timestamptz, timestamptz)',
  'function pgtick.unaccounted_in(bigint, text, integer, timestamptz, timestamptz)',
  'function pgtick.unaccounted_slots(interval)',
  'function pgtick.check_until(timestamptz, timestamptz)',
  'function pgtick.preview_change(text, text, text, timestamptz)',
  'function pgtick.forecast_of(pgtick.schedule_defs, timestamptz, timestamptz, interval)',
  'function pgtick.forecast(timestamptz)',
  'function pgtick.why_paused(pgtick.schedule_defs)',
  'function pgtick.why_schedule(text)']);
select pgtick.allow_rows(r.role, array['pgtick.schedule_defs', 'pgtick.schedule_changes', 'pgtick.slot_log', 'pgtick.outages', 'pgtick.overdue', 'pgtick.settings'], 'true')
from unnest('{pgtick_reader,service_role}'::text[]) as r(role);

-- Words and warnings. Warnings about schedules read other tables, so they are for those who may read these.
select pgtick.grant_to('{service_role,pgtick_reader,pgtick_runner,authenticated}', 'execute', array[
  'function pgtick.describe(text)',
  'function pgtick.describe_every(integer)',
  'function pgtick.describe_span(bigint)',
  'function pgtick.describe_times(integer[], integer[], boolean, boolean)',
  'function pgtick.describe_minutes(integer[], text)',
  'function pgtick.describe_hour_runs(integer[], integer[], integer, boolean)',
  'function pgtick.describe_dates(integer[], boolean, integer[], text)',
  'function pgtick.describe_names(integer[], text[], text)',
  'function pgtick.english_list(text[])',
  'function pgtick.number_items(integer[])',
  'function pgtick.value_runs(integer[])',
  'function pgtick.even_step(integer[])',
  'function pgtick.cron_values(varbit, integer)',
  'function pgtick.time_of_day(integer)',
  'function pgtick.lint(text, text)',
  'function pgtick.lint_steps(text, integer, text)',
  'function pgtick.lint_fields(pgtick.cron, text, text[])',
  'function pgtick.lint_day_fields(pgtick.cron, text[])',
  'function pgtick.lint_late_days(pgtick.cron, text[])',
  'function pgtick.lint_every(text, integer, text, timestamptz)',
  'function pgtick.lint_shifts(pgtick.cron, text, text, text, timestamptz)',
  'function pgtick.every_text(integer)',
  'function pgtick.zone_shifts(text, timestamp, timestamp)']);
select pgtick.grant_to('{service_role,pgtick_reader}', 'execute', array[
  'function pgtick.lint_schedules(text)',
  'function pgtick.schedule_warnings(pgtick.schedule_defs)',
  'function pgtick.usual_duration(text)',
  'function pgtick.duration_text(interval)',
  'function pgtick.next_for(pgtick.schedule_defs, timestamptz)',
  'function pgtick.refuse_schedule(text)']);

-- End users: their own rows, of those what the my_ views show.
select pgtick.grant_to('{authenticated}', 'select', array['pgtick.my_schedules', 'pgtick.my_slots']);
select pgtick.grant_to('{authenticated}', 'select (id, name, cron, time_zone, task, next_at, paused_at, paused_until, owner_id, created_at, removed_at)', array['pgtick.schedule_defs']);
select pgtick.grant_to('{authenticated}', 'select (schedule_id, slot, last_slot, slots, fate, job_id, recorded_at)', array['pgtick.slot_log']);
select pgtick.allow_rows('authenticated', array['pgtick.schedule_defs'], 'owner_id = (select pgtick.user_id())');
select pgtick.allow_rows('authenticated', array['pgtick.slot_log'],
  'exists (select from pgtick.schedule_defs as d where d.id = schedule_id and d.owner_id = (select pgtick.user_id()))');
