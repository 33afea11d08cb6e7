-- An example, put in by "supabase db push --include-seed": a schedule whose job, each hour, calls a function. It may come any number of
-- times: schedule() and allow_function() replace by name.

create schema if not exists example;

create or replace function example.count_connections() returns bigint
language sql volatile
set search_path = ''
as $$ select count(*) from pg_catalog.pg_stat_activity $$;
comment on function example.count_connections() is 'What the example in pgtick''s seed.sql does.';

revoke execute on function example.count_connections() from public;
grant usage on schema example to pgtick_runner;
grant execute on function example.count_connections() to pgtick_runner;

select pgtick.allow_function('example.count_connections()', 'pgtick_runner');
select pgtick.schedule('example', '0 * * * *', 'sql', '{"function": "example.count_connections"}');
