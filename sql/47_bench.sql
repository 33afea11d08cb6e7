-- What "pgtick bench" leaves behind, and how it is removed.

-- Nothing is granted: who measures removes rows, and so is the schema's owner. By task and queue, so that no mistyped name meets real jobs.
create or replace function pgtick.forget_bench(p_queue text)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_jobs bigint;
  v_ended bigint;
begin
  if p_queue is null or not starts_with(p_queue, 'pgtick_bench') then
    perform pgtick.invalid('queue', p_queue, 'a queue of pgtick bench begins with pgtick_bench');
  end if;
  delete from pgtick.runner_leases as r where p_queue = any (r.queues) and r.name = 'pgtick bench' and (r.ended_at is not null or r.lease_until <= pgtick.now());
  delete from pgtick.live_jobs as j where j.task = 'pgtick.bench' and j.queue = p_queue and j.priority between 0 and 9
    and not exists (select from pgtick.runner_leases as r where r.id = j.runner_id);
  get diagnostics v_jobs = row_count;
  delete from pgtick.history as h where h.task = 'pgtick.bench' and h.queue = p_queue;
  get diagnostics v_ended = row_count;
  return v_jobs + v_ended;
end
$$;
comment on function pgtick.forget_bench(text) is
  'Remove the jobs of a queue of pgtick bench, live and ended, and its runners that have left or whose lease has run out; returns how many jobs. For pgtick bench, as the owner. Raises TK000.';
