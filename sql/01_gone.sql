-- Functions of earlier releases that have gone, or have other parameters now: "create or replace" would leave the old ones beside the new.

drop function if exists pgtick.resume_schedule(text);
drop function if exists pgtick.account(bigint, timestamptz, timestamptz);
drop function if exists pgtick.tick_singles(bigint[], timestamptz, timestamptz);
drop function if exists pgtick.newest_slots(pgtick.schedule_defs, timestamptz, timestamptz, integer);
drop function if exists pgtick.why_missed(pgtick.schedule_defs, timestamptz, timestamptz);
drop function if exists pgtick.tick_chunk();
drop function if exists pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid);
drop function if exists pgtick.enqueue_many(text, jsonb[], text, integer, timestamptz, integer, interval, uuid);
drop function if exists pgtick.register(text, text[], text[], interval, text);
drop function if exists pgtick.backoff(integer);
drop function if exists pgtick.expires_on(text, timestamptz);
drop function if exists pgtick.archive(bigint[], bigint[], text[], jsonb[], jsonb[], boolean, timestamptz);
drop function if exists credits.entry_hash(bytea, credits.transactions);
drop function if exists credits.next_entry(credits.accounts, text, bigint, timestamptz, bigint, bigint, text, bytea, text, text, text, text, bigint);
drop function if exists pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, jsonb);
drop function if exists pgtick.enqueue_many(text, jsonb[], text, integer, timestamptz, integer, interval, uuid, text[], interval, text[], text, jsonb);
drop function if exists pgtick.enqueue_unique(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, jsonb, timestamptz);
drop aggregate if exists credits.spend(bigint, bigint, bigint);
drop function if exists credits.spend_step(bigint, bigint, bigint, bigint);
drop aggregate if exists credits.chain(bytea, bytea);
drop function if exists credits.chain_step(bytea, bytea, bytea);
drop function if exists pgtick.archive_rows(tid[], bigint[], text[], jsonb[], jsonb[], boolean, timestamptz);
drop function if exists pgtick.put_back(bigint, bigint[], bigint[], bigint[], text[], jsonb[], timestamptz[], timestamptz);
drop trigger if exists transactions_entry_insert on credits.transactions;
drop trigger if exists transactions_entry_update on credits.transactions;
drop trigger if exists accounts_head on credits.accounts;
drop function if exists credits.check_entry();
drop function if exists credits.check_head();

-- Nor does it change a function's columns.
do $$
declare
  v_old regprocedure;
begin
  for v_old in
    select p.oid from pg_catalog.pg_proc as p
    where (p.oid = to_regprocedure('pgtick.claim(bigint, text[], text[], integer)') and 'trace_context' <> all (p.proargnames))
      or (p.oid = to_regprocedure('pgtick.claim_lanes(bigint, text[], text[], integer, text[], text[], integer[], timestamptz[], bigint[])')
        and 'trace_context' <> all (p.proargnames))
      or (p.oid = to_regprocedure('pgtick.claim_suspect(bigint, text[], text[], timestamptz)') and p.prorettype <> 'tid'::regtype)
      or (p.oid = to_regprocedure('pgtick.lanes(text[], text[])') and 'run_at' <> all (p.proargnames))
  loop
    execute format('drop function %s', v_old);
  end loop;
end
$$;
