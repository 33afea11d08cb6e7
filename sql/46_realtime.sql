-- Realtime: the owner of a job hears what becomes of it, on a private topic of their own, where the database has Supabase's realtime.send.
-- Elsewhere nothing happens: the triggers are there only where that function is (sql/99_realtime.sql).
--
-- Triggers, not calls in the functions that change jobs, so that no change is missed, and nothing is paid for where there is no Realtime.
-- A message must neither fail nor hold up what it tells of. So whatever goes wrong ends the messages of its transaction, and nothing else; a
-- lock is waited for once, for a tenth of a second; and what happens to many jobs at once is not told job by job.

-- to_regprocedure raises where the schema may not be used, so that is asked first. migrations/up.go asks the same of the owner.
create or replace function pgtick.realtime_found()
returns boolean
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return coalesce(case when pg_catalog.has_schema_privilege(to_regnamespace('realtime')::oid, 'usage')
    then pg_catalog.has_function_privilege(to_regprocedure('realtime.send(jsonb, text, text, boolean)')::oid, 'execute') end, false);
end
$$;
comment on function pgtick.realtime_found() is 'Whether this database has realtime.send and this role may call it.';

-- definer: it is the owner's rights that count, whoever asks.
create or replace function pgtick.realtime_state()
returns text
language plpgsql stable parallel safe security definer
set search_path = ''
as $$
begin
  if not pgtick.realtime_found() then return format('off: there is no realtime.send that %s may call', current_user); end if;
  if exists (select from pgtick.settings as s where s.name = 'realtime' and s.value = 'false') then return 'off: by pgtick.set_realtime'; end if;
  if not exists (select from pg_catalog.pg_trigger as t where t.tgrelid = 'pgtick.live_jobs'::regclass and t.tgname = 'announce_added') then
    return 'off: run pgtick migrate, realtime.send came after it';
  end if;
  if to_regclass('realtime.messages') is not null then   -- send() writes there with our rights, and only warns where it may not
    if not pg_catalog.has_table_privilege(to_regclass('realtime.messages')::oid, 'insert') then
      return format('off: %s may not insert into realtime.messages', current_user);
    end if;
    if pg_catalog.row_security_active(to_regclass('realtime.messages')::oid) then
      return format('on, where a policy of realtime.messages lets %s insert', current_user);
    end if;
  end if;
  return 'on';
end
$$;
comment on function pgtick.realtime_state() is 'Whether owners of jobs are told by Realtime what becomes of them: on, or off and why.';

-- definer: service_role may set it, and writes no table.
create or replace function pgtick.set_realtime(p_on boolean)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_on is null then perform pgtick.invalid('on', null, 'it is true or false'); end if;
  insert into pgtick.settings as s (name, value, set_at, set_by) values ('realtime', to_jsonb(p_on), pgtick.now(), pgtick.caller())
  on conflict (name) do update set value = excluded.value, set_at = excluded.set_at, set_by = excluded.set_by;
  perform pgtick.note_action('set_realtime', 'realtime', to_jsonb(p_on));
  return pgtick.realtime_state();
end
$$;
comment on function pgtick.set_realtime(boolean) is
  'Tell owners of jobs by Realtime what becomes of them (the default, where the database has realtime.send), or no more. Returns pgtick.realtime_state(). Raises TK000.';

-- What this transaction has told is in a setting of its own, so that a rollback, also to a savepoint, takes it back with the messages: the
-- owner's id and a comma for each message, or "off".
create or replace function pgtick.next_message(p_owner_id uuid)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_told constant text := coalesce(current_setting('pgtick.told', true), '');
begin
  if v_told = 'off' or octet_length(v_told) >= 1000 * 37 then return null; end if;
  if v_told = '' and (not pgtick.realtime_found() or exists (select from pgtick.settings as s where s.name = 'realtime' and s.value = 'false')) then
    perform set_config('pgtick.told', 'off', true);
    return null;
  end if;
  if octet_length(v_told) < 20 * 37 then return 'job'; end if;
  return case sign(octet_length(v_told) - octet_length(replace(v_told, p_owner_id::text, '')) - 20 * 36) when -1 then 'job' when 0 then 'jobs_changed' end;
end
$$;
comment on function pgtick.next_message(uuid) is
  'Which message this owner gets next in this transaction: job for the first 20, then once jobs_changed (look for yourself); null for none: no Realtime, it failed, or there were 1,000 messages.';

-- realtime.send makes warnings of its own errors; the caller of pgtick can do nothing about them. One that was slow had better be the last.
create or replace function pgtick.tell_owner(p_owner_id uuid, p_event text, p_payload jsonb)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set client_min_messages = error
set lock_timeout = '100ms'
as $$
declare
  v_began constant timestamptz := clock_timestamp();
begin
  perform realtime.send(p_payload, p_event, 'pgtick:' || p_owner_id, true);
  perform set_config('pgtick.told', case when clock_timestamp() < v_began + interval '100 ms'
    then coalesce(current_setting('pgtick.told', true), '') || p_owner_id || ',' else 'off' end, true);
exception when others then
  raise log 'pgtick: realtime.send: % (%)', sqlerrm, sqlstate;
  perform set_config('pgtick.told', 'off', true);
end
$$;
comment on function pgtick.tell_owner(uuid, text, jsonb) is 'Send a message to the owner''s private topic, pgtick:<owner_id>. Never fails.';

-- A row of my_jobs and no more: no arguments, no result, no error.
create or replace function pgtick.job_message(p_job pgtick.live_jobs)
returns jsonb
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_note pgtick.job_notes;
begin
  if p_job.attempt > 0 then select * into v_note from pgtick.job_notes as n where n.job_id = p_job.id; end if;
  return jsonb_build_object('id', p_job.id, 'task', p_job.task, 'state', case when p_job.runner_id is null then 'ready' else 'running' end,
    'progress', v_note.done, 'note', v_note.note, 'created_at', p_job.created_at, 'started_at', p_job.started_at, 'finished_at', null);
end
$$;
comment on function pgtick.job_message(pgtick.live_jobs) is 'A live job''s row of my_jobs, as JSON.';

create or replace function pgtick.announce_live_job()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_event constant text := pgtick.next_message(new.owner_id);
begin
  if v_event is null then return null; end if;
  perform pgtick.tell_owner(new.owner_id, v_event, case when v_event = 'job' then pgtick.job_message(new) else '{}' end);
  return null;
end
$$;
comment on function pgtick.announce_live_job() is 'Trigger: tell the owner of a job that it waits, or runs.';

create or replace function pgtick.announce_ended_job()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_event constant text := pgtick.next_message(new.owner_id);
begin
  if v_event is null then return null; end if;
  perform pgtick.tell_owner(new.owner_id, v_event, case when v_event = 'job'
    then jsonb_build_object('id', new.id, 'task', new.task, 'state', new.state, 'progress', new.done, 'note', new.note,
      'created_at', new.created_at, 'started_at', new.started_at, 'finished_at', new.finished_at)
    else '{}' end);
  return null;
end
$$;
comment on function pgtick.announce_ended_job() is 'Trigger: tell the owner of a job that it has ended.';

-- progress() has just written the job's row of notes, so to write it again waits for nobody.
create or replace function pgtick.announce_progress(p_job_id bigint, p_owner_id uuid, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  if pgtick.next_message(p_owner_id) is distinct from 'job' then return; end if;
  update pgtick.job_notes as n set announced_at = p_now
  where n.job_id = p_job_id and (n.announced_at > p_now - interval '1 second' and n.announced_at <= p_now) is not true;
  if not found then return; end if;
  perform pgtick.tell_owner(p_owner_id, 'job', pgtick.job_message(j)) from pgtick.live_jobs as j where j.id = p_job_id;
end
$$;
comment on function pgtick.announce_progress(bigint, uuid, timestamptz) is 'Tell the owner of a running job how far it is, unless they were told within the last second.';

create or replace function pgtick.place_realtime()
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_found constant boolean := pgtick.realtime_found();
  v_there constant boolean := exists (select from pg_catalog.pg_trigger as t where t.tgrelid = 'pgtick.live_jobs'::regclass and t.tgname = 'announce_added');
begin
  if v_found and not v_there then
    create trigger announce_added after insert on pgtick.live_jobs for each row when (new.owner_id is not null) execute function pgtick.announce_live_job();
    create trigger announce_moved after update of runner_id on pgtick.live_jobs for each row
      when (new.owner_id is not null and new.runner_id is distinct from old.runner_id) execute function pgtick.announce_live_job();
    create trigger announce_ended after insert on pgtick.history for each row when (new.owner_id is not null) execute function pgtick.announce_ended_job();
  elsif v_there and not v_found then
    drop trigger announce_added on pgtick.live_jobs;
    drop trigger announce_moved on pgtick.live_jobs;
    drop trigger announce_ended on pgtick.history;
  end if;
end
$$;
comment on function pgtick.place_realtime() is 'For migrate: put the triggers of Realtime in place where realtime.send is to be had, and take them out where it is not any more.';
