-- Functions of earlier releases that have gone, or have other parameters now: "create or replace" would leave the old ones beside the new.

drop function if exists pgtick.resume_schedule(text);
drop function if exists pgtick.account(bigint, timestamptz, timestamptz);
drop function if exists pgtick.tick_singles(bigint[], timestamptz, timestamptz);
drop function if exists pgtick.newest_slots(pgtick.schedule_defs, timestamptz, timestamptz, integer);
drop function if exists pgtick.why_missed(pgtick.schedule_defs, timestamptz, timestamptz);
drop function if exists pgtick.tick_chunk();
