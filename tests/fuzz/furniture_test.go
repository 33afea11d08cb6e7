package fuzz

const (
	ann = "00000000-0000-4000-8000-00000000000a"
	ben = "00000000-0000-4000-8000-00000000000b"
)

// furniture is something of each kind, so that a random call also finds what it asks for. It draws no number by chance.
const furniture = `
delete from pgtick.slot_log; delete from pgtick.live_jobs; delete from pgtick.schedule_changes; delete from pgtick.schedule_defs;
create table public.notes (id bigint generated always as identity primary key, text text);
create function public.twice(n integer) returns integer language sql immutable as 'select n * 2';
create function public.write_note(text text, at timestamptz default null) returns void language sql as 'insert into public.notes (text) values (text)';
create function public.bad(inout x integer) language plpgsql as 'begin x := x / 0; end';
create procedure public.tidy() language plpgsql as 'begin commit; end';

select pgtick.schedule('nightly', '0 3 * * *', 'fuzz.report', '{"a": 1}');
select pgtick.schedule('often', '*/5 * * * *', 'fuzz.report', p_time_zone => 'Europe/Berlin', p_on_missed => 'all', p_must_finish_within => '1 hour');
select pgtick.schedule('every', '@every 90s', 'fuzz.tick', p_on_overlap => 'cancel', p_jitter => '10 seconds');
select pgtick.schedule('gone', '@daily', 'fuzz.tick'); select pgtick.unschedule('gone');
select pgtick.pause_schedule('every');
select pgtick.allow_task('fuzz.wish', 5), pgtick.allow_function('public.twice(integer)', 'service_role'), pgtick.allow_function('public.write_note(text,timestamptz)', 'service_role'),
  pgtick.allow_gate('no_notes', 'select * from public.notes'), pgtick.set_gates('fuzz.gated', '{no_notes}', 5), pgtick.set_limit('fuzz.limited', 10, '1 second', 5, 2),
  pgtick.set_limit('fuzz.limited', 5, '1 minute', p_per_key => true), pgtick.set_retry_policy('fuzz.report', '{"kind": "linear", "step": "30 seconds"}'),
  pgtick.set_retention('fuzz.report', 'done', '30 days'), pgtick.pause_queue('paused', 'a reason');
select pgtick.register('one', '{default,mail}', '{fuzz.report,fuzz.run,fuzz.gated,fuzz.limited}', '1 hour', 'v1', 10), pgtick.register('two', '{default}', '{fuzz.run}', '1 hour'),
  pgtick.register('gone', '{default}', '{fuzz.run}');
select pgtick.leave(3);
select pgtick.enqueue('fuzz.run', '{"n": 1}'); -- a job
select pgtick.enqueue('fuzz.run', '{"n": 2}', p_owner_id => '` + ann + `'); -- a job
select pgtick.enqueue('fuzz.run', '{"n": 3}', p_max_attempts => 1); -- a job
select pgtick.enqueue('fuzz.run', '{"n": 4}', p_unique_key => 'key', p_unique_for => '1 day'); -- a job
select count(*) from pgtick.claim(1, '{default}', '{fuzz.run}', 3);
select count(*) from pgtick.finish(1, array[(select min(j.id) from pgtick.live_jobs as j)], array[(select max(j.fence) from pgtick.live_jobs as j)], '{done}', array['{"ok": true}'::jsonb]);
select count(*) from pgtick.finish(1, array[(select j.id from pgtick.live_jobs as j where j.max_attempts = 1)], array[(select max(j.fence) from pgtick.live_jobs as j)], '{error}', null, array['{"message": "broken"}'::jsonb]);
select pgtick.enqueue('fuzz.report', '{}', 'mail', 1, p_run_at => '2100-01-01'); -- a job
select pgtick.enqueue('fuzz.limited', '{}', p_limit_key => 'k1'); -- a job
select pgtick.enqueue('fuzz.gated', '{}'); -- a job
select pgtick.enqueue('fuzz.seq', '{}', p_sequence_key => 's1'); -- a job
select pgtick.enqueue('fuzz.seq', '{}', p_sequence_key => 's1'); -- a job
select pgtick.create_batch('fuzz.batched', '{}'); -- a job
select pgtick.enqueue('fuzz.after', '{}', p_after => array[(select max(j.id) from pgtick.live_jobs as j where j.task = 'fuzz.report')]); -- a job
select pgtick.enqueue('sql', '{"function": "public.twice", "args": {"n": 4}}');
select pgtick.enqueue('fuzz.report', '{}'); -- a job
select count(*) from pgtick.claim(2, '{default}', '{fuzz.gated,fuzz.report}', 1);
select pgtick.adopt('here/project');

insert into credits.usage_rates (endpoint, credits_per_request, is_active) values ('/fuzz', 3, true), ('/fuzz/off', 3, false);
select credits.open_account('` + ann + `'), credits.open_account('` + ben + `', 'premium');
select credits.grant('` + ann + `', 1000, 'g1'), credits.grant('` + ben + `', 9223372036854775000, 'g2');
select credits.hold('` + ann + `', 100, '1 day', 'h1'), credits.hold('` + ann + `', 10, '1 day', 'h2');
select credits.release(2);
select credits.charge('` + ann + `', 5, 'c1'), credits.charge('` + ann + `', p_idempotency_key => 'c2', p_endpoint => '/fuzz'),
  credits.submit('` + ann + `', 'addition', 7, 's1'), credits.submit('` + ben + `', 'deduction', 7, 's2');
select credits.allow_own(o.name) from unnest('{charge,hold,capture,release}'::text[]) as o(name);
begin;
select set_config('request.jwt.claims', '{"sub": "` + ann + `"}', true);
set local role authenticated;
insert into pgtick.requests (task, args) values ('fuzz.wish', '{}'); -- a job
commit;
analyze;
`
