-- Jobs that end users ask for: a row in pgtick.requests becomes a job, where the owner has allowed the task, and within its quota.
-- The right to insert is on task, args and run_at alone, owner_id is the JWT's subject, and the policy checks only that; all else is
-- decided by triggers that work as the owner, since an end user may read neither the rules nor the jobs.

-- What each of the refused tasks would give away. A null is a task that may be allowed.
create or replace function pgtick.not_for_users(p_task text)
returns text
language sql immutable parallel safe
set search_path = ''
as $$
  select case
    when p_task = 'sql' then 'its args name the function that is called: every user could call every allowed function'
    when p_task = 'http' then 'its args name the URL that is called, and the secrets that go with it: every user could have them sent anywhere'
    when p_task like 'credits.%' then 'it works on the accounts of all users'
  end
$$;
comment on function pgtick.not_for_users(text) is 'Why end users may not ask for a task, whatever the owner says; null when they may be allowed to.';

create or replace function pgtick.allow_task(p_task text, p_per_owner_quota integer default 10, p_period interval default '1 hour', p_queue text default 'default',
  p_priority integer default 5, p_max_attempts integer default 20, p_timeout interval default '5 minutes')
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_seconds constant numeric := extract(epoch from p_period);   -- a month is 30 days here, on every day of the year
begin
  perform pgtick.refuse_job(p_task, '{}', p_queue, p_priority, p_max_attempts, p_timeout);
  if pgtick.not_for_users(p_task) is not null then
    perform pgtick.invalid('task', p_task, format('end users may never ask for it, since %s', pgtick.not_for_users(p_task)),
      'Allow a task of your own that takes only what a user may choose, or enqueue this one in a trigger of a table of yours.');
  end if;
  if (p_per_owner_quota between 1 and 1000000) is not true then
    perform pgtick.invalid('per_owner_quota', p_per_owner_quota::text, 'it goes from 1 to 1000000', 'To allow none: pgtick.disallow_task.');
  end if;
  if (v_seconds between 1 and 31 * 86400) is not true then
    perform pgtick.invalid('period', p_period::text, 'it goes from 1 second to 31 days');
  end if;
  insert into pgtick.allowed_tasks as a (task, quota, period, queue, priority, max_attempts, timeout, allowed_at, allowed_by)
  values (p_task, p_per_owner_quota, make_interval(secs => v_seconds::double precision), p_queue, p_priority, p_max_attempts, p_timeout, pgtick.now(), pgtick.caller())
  on conflict (task) do update set quota = excluded.quota, period = excluded.period, queue = excluded.queue, priority = excluded.priority,
    max_attempts = excluded.max_attempts, timeout = excluded.timeout, allowed_at = excluded.allowed_at, allowed_by = excluded.allowed_by;
  perform pgtick.note_action('allow_task', p_task, jsonb_build_object('quota', p_per_owner_quota, 'period', p_period, 'queue', p_queue, 'priority', p_priority,
    'max_attempts', p_max_attempts, 'timeout', p_timeout));
end
$$;
comment on function pgtick.allow_task(text, integer, interval, text, integer, integer, interval) is
  'Let end users (the role authenticated) ask for jobs of a task by inserting into pgtick.requests. p_per_owner_quota: how many each user may ask for within p_period, 1 to 1000000; p_period: 1 second to 31 days. The others are the job''s, as in pgtick.enqueue: a user chooses none of them. Again replaces what was said before. For the owner of the schema. Raises TK000, also for sql, http and credits.*, which are for no end user.';

create or replace function pgtick.disallow_task(p_task text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  delete from pgtick.allowed_tasks as a where a.task = p_task;
  if not found then return false; end if;
  perform pgtick.note_action('disallow_task', p_task);
  return true;
end
$$;
comment on function pgtick.disallow_task(text) is 'Let no end user ask for a task any more; jobs that were asked for stay. False when none could. For the owner of the schema.';

create or replace function pgtick.refuse_requester(p_why text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK024', message = format('a request needs a signed-in user: %s', p_why),
    hint = 'Sign in and send the user''s token: its subject (sub) is the UUID of the user. A server enqueues with pgtick.enqueue instead.';
end
$$;
comment on function pgtick.refuse_requester(text) is 'Raise TK024.';

-- As pgtick.user_id(), but it never answers with null or an error that says nothing: the default comes before the policy, which would say
-- only that it is violated.
create or replace function pgtick.requester()
returns uuid
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_sub text;
begin
  begin
    v_sub := nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';
  exception when data_exception or program_limit_exceeded then
    perform pgtick.refuse_requester('request.jwt.claims is not JSON');
  end;
  if v_sub is null then perform pgtick.refuse_requester('the token names none'); end if;
  return v_sub::uuid;
exception when invalid_text_representation then
  perform pgtick.refuse_requester(format('"%s", the subject of the token, is no UUID', left(v_sub, 100)));
end
$$;
comment on function pgtick.requester() is 'The end user who asks for a job: the JWT''s subject. Raises TK024 where there is none.';

-- The other two are set by the trigger below, whatever is said; their defaults tell generated types that nobody need say it.
alter table pgtick.requests alter column owner_id set default pgtick.requester(), alter column created_at set default pgtick.now(), alter column job_id set default 0;

create or replace function pgtick.rule_for_users(p_task text)
returns pgtick.allowed_tasks
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_rule pgtick.allowed_tasks;
begin
  select * into v_rule from pgtick.allowed_tasks as a where a.task = p_task;
  if not found or pgtick.not_for_users(p_task) is not null then
    raise exception using errcode = 'TK025', message = format('task "%s" is not one that end users may ask for', p_task),
      hint = format('The owner of the database may allow it: select pgtick.allow_task(%L);', p_task);
  end if;
  return v_rule;
end
$$;
comment on function pgtick.rule_for_users(text) is 'What the owner has said of a task that end users may ask for. Raises TK025 where that is nothing.';

create or replace function pgtick.next_place(p_owner_id uuid, p_rule pgtick.allowed_tasks, p_now timestamptz)
returns bigint
language plpgsql volatile parallel safe
set search_path = ''
as $$
declare
  v_place bigint;
  v_free_at timestamptz;
begin
  select coalesce(max(r.place), 0) + 1 into v_place from pgtick.requests as r where r.owner_id = p_owner_id and r.task = p_rule.task;
  select r.created_at + p_rule.period into v_free_at
  from pgtick.requests as r
  where r.owner_id = p_owner_id and r.task = p_rule.task and r.place = v_place - p_rule.quota;
  if v_free_at > p_now then
    raise exception using errcode = 'TK026',
      message = format('the quota for task "%s" is used up: %s in %s', p_rule.task, p_rule.quota, pgtick.duration_text(p_rule.period)),
      detail = jsonb_build_object('quota', p_rule.quota, 'period_seconds', extract(epoch from p_rule.period)::bigint, 'free_at', v_free_at)::text,
      hint = format('The next one is free at %s.', pgtick.utc(v_free_at));
  end if;
  return v_place;
end
$$;
comment on function pgtick.next_place(uuid, pgtick.allowed_tasks, timestamptz) is 'The place of a user''s next request for a task. Raises TK026, with the time at which one is free in details, when the quota is used up.';

-- Before the row is written: what it may hold, and what is sure to be refused, so that whoever goes on asking leaves no dead rows behind. The
-- job's id is drawn here, so that the insert can return it.
-- definer: an end user may read no rule, and draw no number from the jobs' sequence.
create or replace function pgtick.check_request()
returns trigger
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if new.owner_id is null then perform pgtick.refuse_requester('owner_id is null'); end if;
  perform pgtick.refuse_job(new.task, new.args, 'default', 5, 1, '1 second');
  if new.run_at is not null then perform pgtick.refuse_run_at(new.run_at); end if;
  new.created_at := pgtick.now();
  if new.run_at > new.created_at + interval '1 year' then
    perform pgtick.invalid('run_at', new.run_at::text, 'it is at most a year ahead', 'Leave it out for now.');
  end if;
  perform pgtick.next_place(new.owner_id, pgtick.rule_for_users(new.task), new.created_at);
  new.job_id := nextval('pgtick.live_jobs_id_seq');
  new.place := null;
  return new;
end
$$;
comment on function pgtick.check_request() is 'Trigger of pgtick.requests, before each row: raise TK000, TK024, TK025 or TK026 when no job can come of it, and give it the id of its job.';

-- What counts is decided here, under the lock, in statements that see what was committed while it was waited for: the rule, the clock, the
-- place. Only names of allowed tasks come as far as the lock: others could fill the table of locks, which is the whole server's. Outside
-- READ COMMITTED the statements see no more than the snapshot; then two take the same place, and the constraint stops the second.
create or replace function pgtick.take_request(p_request pgtick.requests)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_rule pgtick.allowed_tasks;
  v_now timestamptz;
  v_place bigint;
begin
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(format('pgtick.requests %s %s', p_request.owner_id, p_request.task), 0));
  v_rule := pgtick.rule_for_users(p_request.task);
  v_now := pgtick.now();
  v_place := pgtick.next_place(p_request.owner_id, v_rule, v_now);
  begin
    update pgtick.requests as r set place = v_place, created_at = v_now where r.id = p_request.id;
  exception when unique_violation then
    raise exception using errcode = '40001', message = format('another request of this user for task "%s" was made meanwhile', p_request.task),
      hint = 'Try the transaction again; at READ COMMITTED this does not happen.';
  end;
  perform pgtick.enqueue_tied((p_request.job_id, p_request.task, v_rule.queue, v_rule.priority, coalesce(p_request.run_at, v_now), v_rule.max_attempts, v_rule.timeout,
    p_request.args, p_request.owner_id, null, p_request.owner_id::text, null, 'stop', null, 'any', null, null, null, null, null, null)::pgtick.wish, v_now);
end
$$;
comment on function pgtick.take_request(pgtick.requests) is
  'Make a request that has been written a job of its user''s, with the queue, priority, attempts and timeout that allow_task gave and the user''s id as its limit_key. Raises TK025 (no such task for end users) and TK026 (quota used up).';

-- After the statement, so that the rows are those that stay, and the locks of several tasks are taken in one order.
-- definer: an end user may read no rule and add no job.
create or replace function pgtick.take_requests()
returns trigger
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_request pgtick.requests;
begin
  for v_request in select n.* from inserted as n order by n.owner_id, n.task, n.id loop
    perform pgtick.take_request(v_request);
  end loop;
  return null;
end
$$;
comment on function pgtick.take_requests() is 'Trigger of pgtick.requests, after each insert: make jobs of all its rows, or of none.';

create or replace trigger requests_checked before insert on pgtick.requests
  for each row execute function pgtick.check_request();
create or replace trigger requests_taken after insert on pgtick.requests
  referencing new table as inserted for each statement execute function pgtick.take_requests();

-- Of one call of maintain() at most so many, so that it does not become a long transaction; the next comes within the hour.
create or replace function pgtick.prune_requests(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_before constant timestamptz := p_now - greatest(interval '7 days', (select max(a.period) from pgtick.allowed_tasks as a));
begin
  delete from pgtick.requests as r
  where r.id = any (array(select o.id from pgtick.requests as o where o.created_at < v_before order by o.created_at limit 100000));
end
$$;
comment on function pgtick.prune_requests(timestamptz) is 'Delete requests that no quota counts any more and that are older than seven days, 100,000 at most, the oldest first.';
