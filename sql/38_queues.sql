-- Queues are names; nothing has to be made. Only what is out of the ordinary is kept: that one is paused.

-- definer (both): service_role may pause, and writes no table.
create or replace function pgtick.pause_queue(p_queue text, p_reason text default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('queue', p_queue);
  insert into pgtick.paused_queues (queue, paused_at, paused_by, reason) values (p_queue, pgtick.now(), pgtick.caller(), left(p_reason, 1000))
  on conflict (queue) do nothing;
  if found then perform pgtick.note_action('pause_queue', p_queue, jsonb_build_object('reason', left(p_reason, 1000))); end if;
end
$$;
comment on function pgtick.pause_queue(text, text) is
  'Let no more jobs of a queue be claimed until resume_queue; running ones go on. Pausing it again changes nothing. pgtick.queues shows since when, by whom and why. Raises TK000.';

create or replace function pgtick.resume_queue(p_queue text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('queue', p_queue);
  delete from pgtick.paused_queues as p where p.queue = p_queue;
  if not found then return; end if;
  perform pgtick.note_action('resume_queue', p_queue);
  perform pgtick.wake(array[p_queue], pgtick.now());
end
$$;
comment on function pgtick.resume_queue(text) is 'End the pause of a queue and wake its runners. Of a queue that is not paused: nothing. Raises TK000.';
