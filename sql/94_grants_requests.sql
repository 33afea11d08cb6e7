-- Requests of end users: the three columns that they may fill in, and their own rows. allow_task and disallow_task are the owner's.

select pgtick.grant_to('{authenticated}', 'insert (task, args, run_at)', '{pgtick.requests}');
select pgtick.grant_to('{authenticated}', 'select (id, owner_id, task, args, run_at, created_at, job_id, place)', '{pgtick.requests}');
select pgtick.grant_to('{authenticated}', 'execute', array['function pgtick.requester()', 'function pgtick.refuse_requester(text)']);
select pgtick.allow_rows('authenticated', '{pgtick.requests}', 'owner_id = (select pgtick.user_id())');

select pgtick.grant_to('{service_role,pgtick_reader}', 'select', array['pgtick.requests', 'pgtick.allowed_tasks']);
select pgtick.allow_rows(r.role, array['pgtick.requests', 'pgtick.allowed_tasks'], 'true') from unnest('{pgtick_reader,service_role}'::text[]) as r(role);

-- The policy says whose a row is and nothing more: task and quota are the trigger's, which sees the rows under a lock.
do $$
begin
  if to_regrole('authenticated') is null then return; end if;
  drop policy if exists ask_authenticated on pgtick.requests;
  create policy ask_authenticated on pgtick.requests for insert to authenticated with check (owner_id = (select pgtick.user_id()));
end
$$;
