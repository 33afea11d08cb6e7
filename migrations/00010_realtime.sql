-- When a job's owner was last told of its progress. The new column is null, so no table is written anew.
-- +goose Up

alter table pgtick.job_notes add column announced_at timestamptz;
comment on column pgtick.job_notes.announced_at is 'When the job''s owner was last told of its progress by Realtime; null = not yet, or there is nobody to tell.';
comment on table pgtick.settings is 'Settings that differ from their defaults: slot_retention_days, realtime. Write through the functions.';
