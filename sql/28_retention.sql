-- How long a finished job is kept. It is fixed when the job ends, as the day on which its partition of history is dropped.

create or replace function pgtick.default_expiry(p_state text, p_finished_at timestamptz)
returns date
language sql immutable parallel safe
set search_path = ''
as $$ select (p_finished_at at time zone 'UTC')::date + case p_state when 'done' then 7 else 30 end $$;
comment on function pgtick.default_expiry(text, timestamptz) is 'The day (UTC) on which a finished job is dropped where nothing else was set: 7 days after the end for done, 30 for failed and cancelled, which are retried by hand.';

-- A partition a day for 400 days would make each look for an id dear, so what is kept for longer than 40 days goes with the first of a month.
create or replace function pgtick.partition_day(p_day date, p_today date)
returns date
language sql immutable parallel safe
set search_path = ''
as $$
  select case when p_day <= p_today + 40 then p_day
    else (date_trunc('month', (p_day - 1)::timestamp) + interval '1 month')::date end
$$;
comment on function pgtick.partition_day(date, date) is 'The day whose partition takes what may be dropped on p_day at the earliest: that day, or, more than 40 days off, the first of a month.';

-- The rule for task and queue goes before that for the task, that before the one for the queue, and that before the one for all. A job is
-- never dropped while its unique key is held by it.
create or replace function pgtick.expires_on(p_task text, p_queue text, p_state text, p_uniqueness jsonb, p_finished_at timestamptz)
returns date
language sql stable parallel safe
set search_path = ''
as $$
  select pgtick.partition_day(greatest(
    coalesce(
      (select e.today + r.days from pgtick.retentions as r
       where r.state = p_state and r.task in (p_task, '') and r.queue in (p_queue, '')
       order by r.task = '', r.queue = '' limit 1),
      pgtick.default_expiry(p_state, p_finished_at)),
    case when p_uniqueness -> 'states' ? p_state and p_uniqueness ->> 'until' <> 'infinity'
      then ((p_uniqueness ->> 'until')::timestamptz at time zone 'UTC')::date + 1 end), e.today)
  from (select (p_finished_at at time zone 'UTC')::date as today) as e
$$;
comment on function pgtick.expires_on(text, text, text, jsonb, timestamptz) is 'The day (UTC) on which maintain() drops a job that ends now.';

-- definer: service_role may set it, and writes no table.
create or replace function pgtick.set_retention(p_task text, p_state text, p_keep interval, p_queue text default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_days integer;
begin
  if p_task is not null then perform pgtick.refuse_name('task', p_task); end if;
  if p_queue is not null then perform pgtick.refuse_name('queue', p_queue); end if;
  if p_state is not null and p_state not in ('done', 'failed', 'cancelled') then
    perform pgtick.invalid('state', p_state, 'one of done, failed, cancelled, or null for all three');
  end if;
  if date_part('epoch', p_keep) not between 86400 and 400 * 86400 then
    perform pgtick.invalid('keep', p_keep::text, 'it goes from 1 day to 400 days', 'Null takes the rule back.');
  end if;
  v_days := ceil(date_part('epoch', p_keep) / 86400);
  delete from pgtick.retentions as r
  where r.task = coalesce(p_task, '') and r.queue = coalesce(p_queue, '') and (p_state is null or r.state = p_state);
  insert into pgtick.retentions (task, queue, state, days, set_at, set_by)
  select coalesce(p_task, ''), coalesce(p_queue, ''), s.state, v_days, pgtick.now(), pgtick.caller()
  from unnest('{done,failed,cancelled}'::text[]) as s(state)
  where v_days is not null and (p_state is null or s.state = p_state);
  perform pgtick.note_action('set_retention', coalesce(p_task, ''), jsonb_build_object('queue', p_queue, 'state', p_state, 'days', v_days));
end
$$;
comment on function pgtick.set_retention(text, text, interval, text) is
  'Keep jobs that end from now on for so long: 1 to 400 days, in whole days; beyond 40 days until the first of the month after. p_task, p_state and p_queue: null = all. Task and queue go before task alone, that before queue alone. p_keep null takes the rule back: done 7 days, failed and cancelled 30. Raises TK000.';
