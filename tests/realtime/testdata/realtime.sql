-- The schema realtime of a Supabase project as far as pgtick meets it, written after the behaviour of supabase/realtime: a table of messages,
-- a partition a day, with row level security and no policy; send(), which writes there with the rights of its caller, sets realtime.topic,
-- adds an id where the payload has none, and makes a warning of whatever goes wrong; topic(), which policies ask.
do $$
declare
  v_role text;
begin
  foreach v_role in array '{anon,authenticated,service_role,supabase_realtime_admin}'::text[] loop
    if to_regrole(v_role) is null then
      begin
        execute format('create role %I nologin', v_role);
      exception when duplicate_object or unique_violation then null;   -- another test was faster
      end;
    end if;
  end loop;
end
$$;

create schema realtime;
grant usage on schema realtime to anon, authenticated, service_role;

create table realtime.messages (
  topic text not null,
  extension text not null,
  payload jsonb,
  event text,
  private boolean default false,
  updated_at timestamp not null default now(),
  inserted_at timestamp not null default now(),
  id uuid not null default gen_random_uuid(),
  primary key (id, inserted_at)
) partition by range (inserted_at);
create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic) where extension = 'broadcast' and private is true;
do $$
declare
  v_day date;
begin
  for v_day in select d::date from generate_series(localtimestamp::date - 1, localtimestamp::date + 2, interval '1 day') as d loop
    execute format('create table realtime.messages_%s partition of realtime.messages for values from (%L) to (%L)', to_char(v_day, 'YYYY_MM_DD'), v_day, v_day + 1);
  end loop;
end
$$;
alter table realtime.messages enable row level security;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

create function realtime.topic() returns text language sql stable as $$ select nullif(current_setting('realtime.topic', true), '') $$;

create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void language plpgsql as $$
declare
  new_id constant uuid := gen_random_uuid();
begin
  perform set_config('realtime.topic', topic, true);
  insert into realtime.messages (id, payload, event, topic, private, extension)
  values (new_id, case when payload ? 'id' then payload else payload || jsonb_build_object('id', new_id) end, event, topic, private, 'broadcast');
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$$;
alter table realtime.messages owner to supabase_realtime_admin;
alter function realtime.topic() owner to supabase_realtime_admin;
alter function realtime.send(jsonb, text, text, boolean) owner to supabase_realtime_admin;
grant usage on schema realtime to supabase_realtime_admin;

create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role;
create or replace function auth.uid() returns uuid language sql stable as $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
