-- After the functions and grants of sql/. goose makes its version table without a comment, and a runner reads in it whether the schema
-- is new enough.
comment on schema pgtick is 'Durable jobs and cron: functions to schedule and enqueue work, views of what became of it. The tables are its own business.';
comment on table pgtick.goose_db_version is 'Which migrations of the schema have been applied.';
select pgtick.grant_to('{pgtick_runner,pgtick_reader}', 'select', '{pgtick.goose_db_version}');
select pgtick.allow_rows(r.role, array['pgtick.goose_db_version'], 'true') from unnest('{pgtick_runner,pgtick_reader}'::text[]) as r(role);
