-- Gates: what must hold when a task commits. Checked by check_claim and finish_in_transaction, so in the very transaction whose effects are
-- to be judged: where a gate's query returns a row, nothing of it stays.

create or replace function pgtick.allow_gate(p_name text, p_query text)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('name', p_name);
  if coalesce(btrim(p_query), '') = '' then perform pgtick.invalid('query', p_query, 'a query that returns a row for each thing that must not be'); end if;
  begin
    execute format(E'select from (%s\n) as q limit 0', p_query);   -- the line's end: a comment may stand before it
  exception when others then
    perform pgtick.invalid('query', left(p_query, 200), format('it does not run: %s', left(sqlerrm, 500)), 'Write one select, without a semicolon, names with their schema.');
  end;
  insert into pgtick.gates (name, query, set_at, set_by) values (p_name, p_query, pgtick.now(), pgtick.caller())
  on conflict (name) do update set query = excluded.query, set_at = excluded.set_at, set_by = excluded.set_by;
  perform pgtick.note_action('allow_gate', p_name, jsonb_build_object('query', left(p_query, 2000)));
end
$$;
comment on function pgtick.allow_gate(text, text) is
  'Name a query that must return no row, for set_gates. It runs as pgtick''s owner, so only the owner may call this; write names with their schema. A second call replaces it. Raises TK000 when it does not run.';

-- definer: service_role may, and writes no table.
create or replace function pgtick.set_gates(p_task text, p_gates text[] default '{}', p_most_rows bigint default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.write_rules(p_task, coalesce(p_gates, '{}'), p_most_rows, false);
  perform pgtick.note_action('set_gates', p_task, jsonb_strip_nulls(jsonb_build_object('gates', p_gates, 'most_rows', p_most_rows)));
end
$$;
comment on function pgtick.set_gates(text, text[], bigint) is
  'Say what a transaction of a task has to keep to, to commit: p_gates, names of allow_gate, of which none may return a row then; p_most_rows, how many rows it may insert, update and delete at most. A violation rolls its effects back, fails the job for good with the rows as evidence (at most 20), and pauses its schedule. Replaces what was set before, or declared in code; no gates and no most_rows: nothing is checked. Raises TK000.';

create or replace function pgtick.write_rules(p_task text, p_gates text[], p_most_rows bigint, p_declared boolean)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_odd text;
begin
  perform pgtick.refuse_name('task', p_task);
  if p_most_rows < 1 then perform pgtick.invalid('most_rows', p_most_rows::text, 'at least 1, or null for any number'); end if;
  select g.name into v_odd from unnest(p_gates) as g(name) where g.name is null or not exists (select from pgtick.gates as x where x.name = g.name) limit 1;
  if found then
    perform pgtick.invalid('gates', v_odd, 'names of pgtick.gates', 'Make it first: select pgtick.allow_gate(name, query);');
  end if;
  insert into pgtick.task_rules as r (task, gates, most_rows, declared, set_at, set_by) values (p_task, p_gates, p_most_rows, p_declared, pgtick.now(), pgtick.caller())
  on conflict (task) do update
  set gates = excluded.gates, most_rows = excluded.most_rows, declared = excluded.declared, set_at = excluded.set_at, set_by = excluded.set_by
  where (r.declared or not excluded.declared) and (r.gates, r.most_rows, r.declared) is distinct from (excluded.gates, excluded.most_rows, excluded.declared);
  if found then perform pg_catalog.pg_notify('pgtick_limits', p_task); end if;
end
$$;
comment on function pgtick.write_rules(text, text[], bigint, boolean) is 'Keep a task''s rules, unless they are declared ones and set_gates has said otherwise. Raises TK000.';

create or replace function pgtick.declare_rules(p_task text, p_defaults jsonb)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_given constant jsonb := nullif(p_defaults -> 'gates', 'null');
  v_gates constant text[] := array(select g.value from jsonb_array_elements_text(case when jsonb_typeof(v_given) = 'array' then v_given end) as g(value));
begin
  if jsonb_typeof(v_given) <> 'array' then perform pgtick.invalid('gates', v_given::text, 'a list of names of pgtick.gates'); end if;
  if v_gates = '{}' and (p_defaults ->> 'most_rows') is null then
    delete from pgtick.task_rules as r where r.task = p_task and r.declared;
  else
    perform pgtick.write_rules(p_task, v_gates, (p_defaults ->> 'most_rows')::bigint, true);
  end if;
end
$$;
comment on function pgtick.declare_rules(text, jsonb) is 'The gates and most_rows of a declaration: kept, or taken away where it has none. Raises TK000.';

-- The statistics of the running transaction hold, until they are sent away, those of the session's earlier ones, too; so a count is only worth
-- something against one taken at the beginning.
create or replace function pgtick.rows_changed()
returns bigint
language sql volatile parallel unsafe
set search_path = ''
as $$
  select coalesce(sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del), 0)::bigint
  from pg_catalog.pg_stat_xact_user_tables as s
  where s.schemaname <> 'pgtick'
$$;
comment on function pgtick.rows_changed() is 'How many rows of tables outside the schema pgtick this transaction has inserted, updated and deleted so far, and perhaps earlier ones of its session: take the difference.';

-- definer: the worker protocol.
create or replace function pgtick.watch_rows()
returns void
language sql volatile parallel unsafe security definer
set search_path = ''
as $$ select pg_catalog.set_config('pgtick.rows_before', pgtick.rows_changed()::text, true) $$;
comment on function pgtick.watch_rows() is 'At the beginning of the transaction of a task with most_rows: from here on the rows that it changes are counted.';

-- definer: the gates run as the owner, who has written them.
create or replace function pgtick.check_rules(p_task text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_rules pgtick.task_rules;
  v_gate pgtick.gates;
  v_rows jsonb;
  v_changed bigint;
begin
  select * into v_rules from pgtick.task_rules as r where r.task = p_task;
  if not found then return; end if;
  if v_rules.most_rows is not null then
    v_changed := pgtick.rows_changed() - nullif(current_setting('pgtick.rows_before', true), '')::bigint;
    if v_changed is null then
      raise exception using errcode = 'TK023', message = format('task %s may change at most %s rows, and its transaction does not count them', p_task, v_rules.most_rows),
        hint = 'Call pgtick.watch_rows() at the beginning of the transaction.';
    end if;
    if v_changed > v_rules.most_rows then
      raise exception using errcode = 'TK023', message = format('task %s changed %s rows in one transaction, and may change %s', p_task, v_changed, v_rules.most_rows),
        hint = 'Nothing of it was kept. See whether the task does what it should; then retry the job, or allow more with pgtick.set_gates.';
    end if;
  end if;
  for v_gate in select g.* from pgtick.gates as g where g.name = any (v_rules.gates) order by g.name loop
    execute format(E'select pg_catalog.jsonb_agg(x.r) from (select pg_catalog.to_jsonb(q) as r from (%s\n) as q limit 20) as x', v_gate.query) into v_rows;
    if v_rows is not null then
      raise exception using errcode = 'TK022', message = format('gate "%s" does not let task %s commit: %s', v_gate.name, p_task, left(v_rows::text, 1500)),
        detail = left(v_rows::text, 6000), hint = 'Nothing of the transaction was kept. The rows are what the gate''s query found at its end.';
    end if;
  end loop;
end
$$;
comment on function pgtick.check_rules(text) is 'In a task''s transaction, when its effects are written: raise TK022 where a gate of the task returns rows, TK023 where it has changed too many. check_claim and finish_in_transaction call it.';

-- definer: the runner may pause no schedule but for this.
create or replace function pgtick.gate_refused(p_job_id bigint, p_fence bigint, p_why text)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_name text;
begin
  select s.name into v_name
  from pgtick.live_jobs as j
  join pgtick.schedule_defs as s on s.id = j.schedule_id and s.removed_at is null and s.paused_at is null
  where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null and exists (select from pgtick.task_rules as r where r.task = j.task);
  if not found then return null; end if;
  perform pgtick.pause_schedule(v_name);
  perform pgtick.note_action('gate_refused', v_name, jsonb_build_object('job', p_job_id, 'why', left(p_why, 2000)));
  return v_name;
end
$$;
comment on function pgtick.gate_refused(bigint, bigint, text) is 'Pause the schedule of a claimed job that TK022 or TK023 has refused, and return its name; null where it has none. pgtick.audit keeps why.';

create or replace function pgtick.counted_tasks(p_runner_id bigint)
returns setof text
language sql stable parallel safe security definer
set search_path = ''
as $$
  select t.task from pgtick.runner_leases as r cross join unnest(r.tasks) as t(task)
  where r.id = p_runner_id and exists (select from pgtick.task_rules as x where x.task = t.task and x.most_rows is not null)
$$;
comment on function pgtick.counted_tasks(bigint) is 'Those of a runner''s tasks whose transactions begin with watch_rows(). Read it again when channel pgtick_limits says so, and every minute.';
