package credits_model_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// A forger knows everything: it computes balances and hashes as the ledger does, moves the head, and writes the hold with the entry. It
// owns the tables. Only one thing about each forgery is wrong.
const forger = `
create function model.entry_hash(p_previous bytea, e credits.transactions) returns bytea language sql stable as $$
  select sha256(p_previous || record_send(row(e.id, e.user_id, e.seq, convert_to(e.type, 'UTF8'), e.amount, e.held_amount, e.balance_after, e.held_after,
    e.hold_id, e.related_id, e.period, e.created_at, e.final_at, convert_to(e.endpoint, 'UTF8'), convert_to(e.idempotency_key, 'UTF8'), e.request_hash,
    e.text_hash)))
$$;
create function model.forge(p_user uuid, p_entry jsonb, p_hold jsonb default null, p_moves boolean default true) returns void language plpgsql as $$
declare
  a credits.accounts;
  e credits.transactions;
  h credits.holds;
  plain credits.transactions;
begin
  select * into a from credits.accounts where user_id = p_user;
  e.id := nextval('credits.transactions_id_seq');
  e.user_id := p_user; e.type := 'addition'; e.amount := 0; e.held_amount := 0; e.status := 'COMPLETED'; e.seq := a.seq + 1;
  e.created_at := pgtick.now(); e.final_at := pgtick.now(); e.synced_to_supabase := false; e.salt := uuid_send(gen_random_uuid());
  if p_entry->>'status' = 'PENDING' and not p_entry ? 'plain' then
    e.seq := null; e.final_at := null;
  end if;
  e := jsonb_populate_record(e, p_entry);
  if (e.status = 'COMPLETED' or p_entry ? 'plain') and not p_entry ? 'balance_after' then e.balance_after := a.balance + e.amount; end if;
  if (e.status = 'COMPLETED' or p_entry ? 'plain') and not p_entry ? 'held_after' then e.held_after := a.held + e.held_amount; end if;
  if not p_entry ? 'text_hash' then e.text_hash := credits.text_hash(e.salt, e.description, e.reference_id, e.notes); end if;
  if e.status = 'COMPLETED' and not p_entry ? 'hash' then e.hash := model.entry_hash(a.head_hash, e); end if;
  if p_entry ? 'plain' and not p_entry ? 'hash' then -- the hash is that of a plain charge, whatever else it says
    plain := e;
    plain.type := 'deduction'; plain.held_amount := 0; plain.hold_id := null; plain.related_id := null; plain.period := null; plain.text_hash := null;
    e.hash := model.entry_hash(a.head_hash, plain);
  end if;
  if p_hold is not null then
    h.id := coalesce(e.hold_id, nextval('credits.holds_id_seq')); h.user_id := p_user; h.amount := e.held_amount; h.captured := 0; h.opened_seq := e.seq;
    h.created_at := e.created_at; h.expires_at := e.created_at + interval '1 hour'; h.status := 'open';
    if not p_entry ? 'hold_id' then e.hold_id := h.id; e.hash := model.entry_hash(a.head_hash, e); end if;
    h := jsonb_populate_record(h, p_hold);
  end if;
  with moved as (
    update credits.accounts set balance = e.balance_after, held = e.held_after, seq = e.seq, head_hash = e.hash
    where user_id = p_user and p_moves and (e.status = 'COMPLETED' or p_entry ? 'plain')
  ), opened as (
    insert into credits.holds overriding system value select h.* where p_hold is not null
  )
  insert into credits.transactions overriding system value values (e.*);
end $$;
-- Closes hold p_id with an entry; what p_entry and p_hold say is otherwise.
create function model.close(p_id bigint, p_status text, p_take bigint, p_entry jsonb, p_hold jsonb) returns void language plpgsql as $$
declare
  a credits.accounts;
  e credits.transactions;
  h credits.holds;
begin
  select * into h from credits.holds where id = p_id;
  select * into a from credits.accounts where user_id = h.user_id;
  e.id := nextval('credits.transactions_id_seq');
  e.user_id := h.user_id; e.type := case p_status when 'captured' then 'capture' else 'release' end; e.amount := -p_take; e.held_amount := -h.amount;
  e.status := 'COMPLETED'; e.seq := a.seq + 1; e.hold_id := h.id;
  e.created_at := pgtick.now(); e.final_at := pgtick.now(); e.synced_to_supabase := false; e.salt := uuid_send(gen_random_uuid());
  e := jsonb_populate_record(e, p_entry);
  e.balance_after := a.balance + e.amount; e.held_after := a.held + e.held_amount; e.hash := model.entry_hash(a.head_hash, e);
  h.status := p_status; h.captured := p_take; h.closed_seq := e.seq; h.closed_at := e.final_at; h.reason := 'forged';
  h := jsonb_populate_record(h, p_hold);
  with moved as (
    update credits.accounts set balance = e.balance_after, held = e.held_after, seq = e.seq, head_hash = e.hash where user_id = e.user_id
  ), closed as (
    update credits.holds set (user_id, amount, captured, opened_seq, closed_seq, created_at, expires_at, closed_at, status, reason) =
      (h.user_id, h.amount, h.captured, h.opened_seq, h.closed_seq, h.created_at, h.expires_at, h.closed_at, h.status, h.reason) where id = p_id
  )
  insert into credits.transactions overriding system value values (e.*);
end $$;
-- Closes hold p_id as if p_user had opened it just before: with an entry that opens it, one that captures all of it, and the hold's row changed to fit.
create function model.close_as(p_id bigint, p_user uuid) returns void language plpgsql as $$
declare
  h credits.holds;
  a credits.accounts;
  o credits.transactions;
  c credits.transactions;
begin
  select * into h from credits.holds where id = p_id;
  select * into a from credits.accounts where user_id = p_user;
  o := credits.next_entry(a, 'hold', 0, pgtick.now(), h.amount, h.id);
  a.seq := o.seq; a.held := o.held_after; a.head_hash := o.hash;
  c := credits.next_entry(a, 'capture', -h.amount, pgtick.now(), -h.amount, h.id);
  with moved as (
    update credits.accounts set balance = c.balance_after, held = c.held_after, seq = c.seq, head_hash = c.hash where user_id = p_user
  ), closed as (
    update credits.holds set user_id = p_user, opened_seq = o.seq, closed_seq = c.seq, captured = amount, closed_at = c.final_at, status = 'captured', reason = 'forged' where id = p_id
  )
  insert into credits.transactions overriding system value values (o.*), (c.*);
end $$;
-- Transfers p_amount from user 1 to user 2 in two entries, with what p_out and p_in say otherwise.
create function model.forge_transfer(p_to uuid, p_out jsonb, p_in jsonb) returns void language plpgsql as $$
declare
  a credits.accounts;
  b credits.accounts;
  o credits.transactions;
  i credits.transactions;
begin
  select * into a from credits.accounts where user_id = '00000000-0000-4000-8000-000000000001';
  select * into b from credits.accounts where user_id = p_to;
  if p_to = a.user_id then b.seq := a.seq + 1; b.balance := a.balance - 5; end if;
  o := credits.next_entry(a, 'transfer_out', -5, pgtick.now());
  i := credits.next_entry(b, 'transfer_in', 5, pgtick.now());
  o.related_id := i.id; i.related_id := o.id;
  o := jsonb_populate_record(o, p_out); i := jsonb_populate_record(i, p_in);
  o.balance_after := a.balance + o.amount; i.balance_after := b.balance + i.amount;
  o.hash := model.entry_hash(a.head_hash, o);
  i.hash := model.entry_hash(case when p_to = a.user_id then o.hash else b.head_hash end, i);
  with moved as (
    update credits.accounts as x set balance = n.balance_after, seq = n.seq, head_hash = n.hash
    from (select distinct on (n.user_id) n.* from (values (o.user_id, o.balance_after, o.seq, o.hash), (i.user_id, i.balance_after, i.seq, i.hash))
      as n(user_id, balance_after, seq, hash) order by n.user_id, n.seq desc) as n where x.user_id = n.user_id
  )
  insert into credits.transactions overriding system value values (o.*), (i.*);
end $$;
-- Two charges of user 1 in one statement; what p_first and p_second say is otherwise.
create function model.forge_two(p_first jsonb, p_second jsonb) returns void language plpgsql as $$
declare
  a credits.accounts;
  e credits.transactions;
  f credits.transactions;
begin
  select * into a from credits.accounts where user_id = '00000000-0000-4000-8000-000000000001';
  e := jsonb_populate_record(credits.next_entry(a, 'deduction', -1, pgtick.now(), p_idempotency_key => 'one', p_request => ''), p_first);
  e.hash := model.entry_hash(a.head_hash, e);
  a.seq := e.seq; a.balance := e.balance_after; a.held := e.held_after; a.head_hash := e.hash;
  f := jsonb_populate_record(credits.next_entry(a, 'deduction', -1, pgtick.now(), p_idempotency_key => 'two', p_request => ''), p_second);
  f.hash := model.entry_hash(e.hash, f);
  with moved as (
    update credits.accounts set balance = f.balance_after, held = f.held_after, seq = f.seq, head_hash = f.hash where user_id = e.user_id
  )
  insert into credits.transactions overriding system value values (e.*), (f.*);
end $$`

const (
	forged1 = "00000000-0000-4000-8000-000000000001"
	forged2 = "00000000-0000-4000-8000-000000000002"
)

// newForged has: user 1 with a grant of 1000 (1), holds 1 to 3 of 10 (2, 3, 4; hold 3 expires after a second), a charge of 7 under key c with
// words (5), one of 9 at an endpoint, synced (6), hold 1 captured with 4 (7), a refund of 2 of the charge of 7 (8); a pending addition of 5 under key
// pa, a pending deduction of 5 under key pd with words, a failed addition under key f; user 2 with a grant of 50 and a charge of 20.
func newForged(t *testing.T) *world {
	w := newWorld(t)
	w.exec(forger)
	w.exec(`do $$
	declare
	  u uuid := '` + forged1 + `';
	  v uuid := '` + forged2 + `';
	  first bigint;
	  n bigint;
	begin
	  perform credits.open_account(u), credits.open_account(v);
	  perform credits.grant(u, 1000, 'g');
	  first := credits.hold(u, 10, '1 hour', 'h1');
	  perform credits.hold(u, 10, '1 hour', 'h2'), credits.hold(u, 10, '1 second', 'h3');
	  n := credits.charge(u, 7, 'c', p_description => 'words', p_reference_id => 'ref');
	  perform credits.charge(u, 9, 'e', '/v1/a');
	  perform credits.sync_chunk(null, 20000);
	  perform credits.capture(first, 4);
	  perform credits.refund(n, 'r', 2);
	  perform credits.submit(u, 'addition', 5, 'pa'), credits.submit(u, 'deduction', 5, 'pd', 'words', 'ref');
	  perform credits.resolve(credits.submit(u, 'addition', 5, 'f'), false);
	  perform credits.grant(v, 50, 'g'), credits.charge(v, 20, 'c');
	end $$`)
	return w
}

func entryOf(changes string) string {
	return "select model.forge('" + forged1 + "', '{" + changes + "}')"
}

// unmoved leaves the head as it is.
func unmoved(changes string) string {
	return "select model.forge('" + forged1 + "', '{" + changes + "}', null, false)"
}

func holdOf(changes, hold string) string {
	return "select model.forge('" + forged1 + "', '{" + changes + "}', '{" + hold + "}')"
}

func closing(hold int, status string, take int, changes, holdChanges string) string {
	return fmt.Sprintf("select model.close(%d, '%s', %d, '{%s}', '{%s}')", hold, status, take, changes, holdChanges)
}

func idIn(user, key string) string {
	return "(select id from credits.transactions where user_id = '" + user + "' and idempotency_key = '" + key + "')"
}

// lawful shows that the forger can do what the ledger does: what is refused below is refused for the one thing that is wrong.
var lawful = []string{
	entryOf(`"type": "addition", "amount": 5`), entryOf(`"type": "deduction", "amount": -5`), entryOf(`"type": "allocation", "amount": 5, "period": "2026-01-01"`),
	entryOf(`"type": "adjustment", "amount": -5, "description": "why"`), entryOf(`"amount": 5, "description": "d", "reference_id": "r", "notes": "n"`),
	entryOf(`"amount": 5, "idempotency_key": "new", "request_hash": "\\x00"`), entryOf(`"status": "PENDING", "amount": 5`),
	entryOf(`"status": "PENDING", "amount": -5, "type": "deduction"`), holdOf(`"type": "hold", "held_amount": 5`, ``),
	closing(2, "captured", 10, "", ""), closing(2, "captured", 1, "", ""), closing(2, "released", 0, "", ""),
	"select model.forge_transfer('" + forged2 + "', '{}', '{}')",
	"update credits.transactions set status = 'FAILED', final_at = pgtick.now() where idempotency_key = 'pa'",
	"update credits.transactions set synced_to_supabase = true, synced_at = pgtick.now() where seq = 7",
	"update credits.holds set expires_at = expires_at + interval '1 hour' where id = 2",
	"update credits.transactions set description = null, reference_id = null, redacted_at = pgtick.now() where seq = 5",
	related(`"type": "refund", "amount": 5`, forged1, "c"), related(`"type": "adjustment", "amount": 5, "description": "why"`, forged1, "g"),
	related(`"type": "adjustment", "amount": 5, "description": "why"`, forged1, "c") + "; " + related(`"type": "refund", "amount": 5`, forged1, "c"), // only refunds count
	related(`"status": "PENDING", "type": "refund", "amount": 5`, forged1, "c") + "; " + related(`"type": "refund", "amount": 5`, forged1, "c"),      // nor do pending ones
	pendingTo(`status = 'COMPLETED', seq = a.seq + 1, balance_after = a.balance + 5, held_after = a.held, final_at = pgtick.now()`),
	asCharge(entryOf(`"amount": 5`)), "select model.forge_two('{}', '{}')",
	"insert into credits.accounts (user_id, tier, created_at) values ('" + forged1 + "', 'standard', pgtick.now()) on conflict (user_id) do update set tier = excluded.tier",
	"update credits.accounts set tier = tier", "update credits.accounts set user_id = user_id, created_at = created_at",
	"select credits.open_account('00000000-0000-4000-8000-000000000003'); update credits.accounts set tier = tier",
}

const anAddition = `'{"amount": 5`

// asCharge makes of an addition a plain charge, whose checks are others: with a key, and a hash that says nothing but that.
func asCharge(statement string) string {
	return strings.Replace(statement, anAddition, `'{"type": "deduction", "idempotency_key": "new", "request_hash": "\\x00", "plain": 1, "amount": -5`, 1)
}

func related(changes, user, key string) string {
	return "select model.forge('" + forged1 + "', jsonb_build_object('related_id', " + idIn(user, key) + ") || '{" + changes + "}')"
}

// pendingTo completes the pending addition, moving the head.
func pendingTo(set string) string {
	return `do $do$ declare a credits.accounts; t credits.transactions; begin
		select * into a from credits.accounts where user_id = '` + forged1 + `';
		select * into t from credits.transactions where idempotency_key = 'pa';
		t.status := 'COMPLETED'; t.seq := a.seq + 1; t.balance_after := a.balance + 5; t.held_after := a.held; t.final_at := pgtick.now();
		t.hash := model.entry_hash(a.head_hash, t);
		with moved as (update credits.accounts set balance = t.balance_after, seq = t.seq, head_hash = t.hash where user_id = t.user_id)
		update credits.transactions set hash = t.hash, ` + strings.ReplaceAll(strings.ReplaceAll(set, "a.seq", "t.seq - 1"), "a.balance", "t.balance_after - 5") + ` where id = t.id; end $do$`
}

var forgeries = map[string][]string{
	"TK111": {
		// The status and what is set with it.
		unmoved(`"amount": 5, "seq": null`), unmoved(`"amount": 5, "balance_after": null`), unmoved(`"amount": 5, "held_after": null`),
		unmoved(`"amount": 5, "hash": null`), unmoved(`"amount": 5, "final_at": null`), unmoved(`"amount": 5, "status": "DONE"`),
		entryOf(`"status": "PENDING", "amount": 5, "seq": 100`), entryOf(`"status": "PENDING", "amount": 5, "balance_after": 1`),
		entryOf(`"status": "PENDING", "amount": 5, "held_after": 1`), entryOf(`"status": "PENDING", "amount": 5, "hash": "\\x00"`),
		entryOf(`"status": "PENDING", "amount": 5, "final_at": "2027-01-01"`),
		"update credits.transactions set synced_to_supabase = true, synced_at = pgtick.now(), status = 'FAILED', final_at = pgtick.now() where idempotency_key = 'pa'",
		"update credits.transactions set status = 'FAILED', final_at = pgtick.now(), seq = 100 where idempotency_key = 'pa'",
		"update credits.transactions set status = 'FAILED', final_at = pgtick.now(), balance_after = 1 where idempotency_key = 'pa'",
		"update credits.transactions set status = 'FAILED', final_at = pgtick.now(), held_after = 1 where idempotency_key = 'pa'",
		"update credits.transactions set status = 'FAILED', final_at = pgtick.now(), hash = '\\x00' where idempotency_key = 'pa'",
		"update credits.transactions set status = 'FAILED' where idempotency_key = 'pa'",
		// The amounts and the type.
		entryOf(`"type": "hold"`), entryOf(`"type": "release"`), entryOf(`"type": "capture", "amount": -5`), related(`"status": "PENDING", "amount": 5`, forged1, "g"),
		entryOf(`"amount": 5, "hold_id": 2`), entryOf(`"amount": 5, "related_id": 1`), asCharge(entryOf(`"amount": 5, "type": "adjustment"`)), asCharge(entryOf(`"amount": 5, "type": "refund"`)),
		asCharge(entryOf(`"amount": 5, "amount": 5`)), asCharge(entryOf(`"amount": 5, "amount": 0`)), asCharge(entryOf(`"amount": 5, "status": "PENDING"`)),
		asCharge(entryOf(`"amount": 5, "status": "DONE"`)), asCharge(entryOf(`"amount": 5, "held_amount": 5, "held_after": 20`)), asCharge(entryOf(`"amount": 5, "request_hash": null`)),
		asCharge(entryOf(`"amount": 5, "idempotency_key": null`)), asCharge(entryOf(`"amount": 5, "period": "2026-01-01"`)), asCharge(entryOf(`"amount": 5, "synced_to_supabase": true`)),
		asCharge(entryOf(`"amount": 5, "redacted_at": "2026-01-10"`)), asCharge(entryOf(`"amount": 5, "description": "d"`)), asCharge(entryOf(`"amount": 5, "reference_id": "d"`)),
		asCharge(entryOf(`"amount": 5, "notes": "d"`)),
		entryOf(`"type": "addition", "amount": 0`), entryOf(`"type": "addition", "amount": -5`), entryOf(`"type": "deduction", "amount": 0`),
		entryOf(`"type": "deduction", "amount": 5`), entryOf(`"type": "allocation", "amount": 0, "period": "2026-01-01"`),
		entryOf(`"type": "allocation", "amount": -5, "period": "2026-01-01"`), entryOf(`"type": "refund", "amount": 0`), entryOf(`"type": "refund", "amount": -5`),
		entryOf(`"type": "adjustment", "amount": 0, "description": "why"`), entryOf(`"type": "adjustment", "amount": 5`), entryOf(`"type": "gift", "amount": 5`),
		holdOf(`"type": "addition", "amount": 5, "held_amount": 5`, ``), holdOf(`"type": "deduction", "amount": -5, "held_amount": 5`, ``),
		holdOf(`"type": "allocation", "amount": 5, "period": "2026-01-01", "held_amount": 5`, ``), holdOf(`"type": "refund", "amount": 5, "held_amount": 5`, ``),
		holdOf(`"type": "adjustment", "amount": 5, "description": "why", "held_amount": 5`, ``), holdOf(`"type": "hold", "amount": 5, "held_amount": 5`, ``),
		holdOf(`"type": "hold", "amount": -5, "held_amount": 5`, ``), unmoved(`"type": "hold", "held_amount": 0`), unmoved(`"type": "hold", "held_amount": -5, "hold_id": 2`),
		unmoved(`"type": "capture", "amount": 0, "held_amount": -10, "hold_id": 2`), unmoved(`"type": "capture", "amount": 5, "held_amount": -10, "hold_id": 2`),
		unmoved(`"type": "capture", "amount": -11, "held_amount": -10, "hold_id": 2`), unmoved(`"type": "release", "amount": -1, "held_amount": -10, "hold_id": 2`),
		unmoved(`"type": "release", "amount": 0, "held_amount": 0`), unmoved(`"type": "release", "held_amount": 5, "hold_id": 2`),
		entryOf(`"type": "transfer_in", "amount": -5, "related_id": 1`), entryOf(`"type": "transfer_out", "amount": 5, "related_id": 1`),
		entryOf(`"type": "transfer_in", "amount": 0, "related_id": 1`), entryOf(`"type": "transfer_out", "amount": 0, "related_id": 1`),
		holdOf(`"type": "transfer_in", "amount": 5, "held_amount": 5, "related_id": 1`, ``), holdOf(`"type": "transfer_out", "amount": -5, "held_amount": 5, "related_id": 1`, ``),
		// What else goes with a type.
		entryOf(`"status": "PENDING", "type": "adjustment", "amount": 5, "description": "why"`), entryOf(`"status": "PENDING", "type": "transfer_in", "amount": 5, "related_id": 1`),
		entryOf(`"status": "PENDING", "type": "allocation", "amount": 5, "period": "2026-01-01"`), entryOf(`"status": "PENDING", "type": "release", "held_amount": -5, "hold_id": 2`),
		unmoved(`"amount": 5, "hold_id": 2`), unmoved(`"type": "hold", "held_amount": 5`),
		related(`"type": "addition", "amount": 5`, forged1, "g"), related(`"type": "deduction", "amount": -5`, forged1, "g"),
		related(`"type": "allocation", "amount": 5, "period": "2026-01-01"`, forged1, "g"), entryOf(`"type": "transfer_in", "amount": 5`), entryOf(`"type": "transfer_out", "amount": -5`),
		entryOf(`"amount": 5, "period": "2026-01-01"`), entryOf(`"type": "allocation", "amount": 5`), entryOf(`"type": "allocation", "amount": 5, "period": "2026-01-02"`),
		entryOf(`"amount": 5, "idempotency_key": "new"`), entryOf(`"amount": 5, "request_hash": "\\x00"`), entryOf(`"amount": 5, "idempotency_key": "", "request_hash": "\\x00"`),
		entryOf(`"amount": 5, "idempotency_key": "` + strings.Repeat("k", 256) + `", "request_hash": "\\x00"`),
		entryOf(`"amount": 5, "salt": "\\x000102030405060708090a0b0c0d0e"`), entryOf(`"amount": 5, "salt": "\\x000102030405060708090a0b0c0d0e0f10"`),
		entryOf(`"amount": 5, "synced_at": "2026-01-10"`), entryOf(`"amount": 5, "final_at": "2026-01-10 07:59:59"`),
		entryOf(`"amount": 5, "synced_to_supabase": true`),
		entryOf(`"amount": 5, "description": "d", "text_hash": null`), entryOf(`"amount": 5, "reference_id": "d", "text_hash": null`), entryOf(`"amount": 5, "notes": "d", "text_hash": null`),
		entryOf(`"amount": 5, "description": "d", "text_hash": "\\x00"`), entryOf(`"amount": 5, "text_hash": "\\x00"`),
		// How it starts.
		entryOf(`"amount": 5, "status": "FAILED", "seq": null`), entryOf(`"amount": 5, "synced_to_supabase": true, "synced_at": "2026-01-10"`),
		entryOf(`"amount": 5, "redacted_at": "2026-01-10"`),
		// The chain.
		unmoved(`"amount": 5`), entryOf(`"amount": 5, "balance_after": 900`), entryOf(`"amount": 5, "held_after": 21`), entryOf(`"amount": 5, "held_after": 19`),
		entryOf(`"amount": 5, "seq": 100`), entryOf(`"amount": 5, "hash": "\\x00"`), unmoved(`"amount": 5, "seq": 0, "balance_after": 5, "held_after": 0`),
		pendingTo(`status = 'COMPLETED', seq = a.seq + 1, balance_after = a.balance + 6, held_after = a.held, final_at = pgtick.now()`),
		// Beyond its own head, not beyond another's; and a first entry that is not the first.
		"select model.forge('" + forged2 + "', '{\"amount\": 5}', null, false)",
		"select credits.open_account('00000000-0000-4000-8000-000000000003'); select model.forge('00000000-0000-4000-8000-000000000003', '{\"seq\": 5, \"amount\": 5}')",
		// Each of several: the one before, or behind, is right.
		"select model.forge_two('{}', '{\"balance_after\": 900}')", "select model.forge_two('{\"balance_after\": 900}', '{}')", "select model.forge_two('{}', '{\"amount\": -2}')",
		"select model.forge_two('{}', '{\"salt\": \"\\\\x00\"}')", "select model.forge_two('{\"salt\": \"\\\\x00\"}', '{}')", "select model.forge_two('{}', '{\"request_hash\": null}')",
		"select model.forge_two('{}', '{\"type\": \"gift\"}')", "select model.forge_two('{\"type\": \"gift\"}', '{}')",
		// What it names.
		entryOf(`"type": "refund", "amount": 5, "related_id": 100000`), related(`"type": "refund", "amount": 6`, forged1, "c"), related(`"type": "refund", "amount": 5`, forged1, "g"),
		"select credits.adjust('" + forged1 + "', -5, 'why', 'adj'); " + related(`"type": "refund", "amount": 5`, forged1, "adj"),
		"select credits.transfer('" + forged1 + "', '" + forged2 + "', 5, 'tr'); " + related(`"type": "refund", "amount": 5`, forged1, "tr"),
		"select credits.transfer('" + forged1 + "', '" + forged2 + "', 5, 'tr'); " + strings.Replace(related(`"type": "transfer_in", "amount": 5`, forged1, "tr"), forged1, forged2, 1),
		`select model.forge_two('{"id": 500000, "type": "refund", "amount": 1, "balance_after": 983, "related_id": 500001}', '{"id": 500001}')`,
		related(`"type": "refund", "amount": 5`, forged2, "c"), related(`"type": "refund", "amount": 5`, forged1, "pd"), related(`"type": "refund", "amount": 1`, forged1, "h2"),
		entryOf(`"type": "adjustment", "amount": 5, "description": "why", "related_id": 100000`), related(`"type": "adjustment", "amount": 5, "description": "why"`, forged2, "g"),
		related(`"type": "adjustment", "amount": 5, "description": "why"`, forged1, "pa"),
		"select model.forge('" + forged1 + "', jsonb_build_object('id', 500000, 'related_id', 500000) || '{\"type\": \"adjustment\", \"amount\": 5, \"description\": \"why\"}')",
		"select model.forge_transfer('" + forged2 + "', '{}', '{\"amount\": 6}')", "select model.forge_transfer('" + forged2 + "', '{}', '{\"related_id\": 1}')",
		"select model.forge_transfer('" + forged2 + "', '{\"related_id\": 1}', '{}')", "select model.forge_transfer('" + forged2 + "', '{}', '{\"type\": \"addition\", \"related_id\": null}')",
		"select model.forge_transfer('" + forged1 + "', '{}', '{}')", related(`"type": "transfer_out", "amount": -5`, forged2, "g"), related(`"type": "transfer_in", "amount": 20`, forged2, "c"),
		"select model.forge_transfer('" + forged2 + "', '{\"type\": \"deduction\", \"related_id\": null}', '{}')",
	},
	"TK102": {"insert into credits.transactions (user_id, amount, created_at, type, status, salt) values (gen_random_uuid(), 5, pgtick.now(), 'addition', 'PENDING', uuid_send(gen_random_uuid()))"},
	"TK112": {
		"insert into credits.accounts (user_id, tier, created_at, seq) values (gen_random_uuid(), 'standard', pgtick.now(), 1)",
		"insert into credits.accounts (user_id, tier, created_at, balance) values (gen_random_uuid(), 'standard', pgtick.now(), 1)",
		"insert into credits.accounts (user_id, tier, created_at, balance, held) values (gen_random_uuid(), 'standard', pgtick.now(), 1, 1)",
		"insert into credits.accounts (user_id, tier, created_at, head_hash) values (gen_random_uuid(), 'standard', pgtick.now(), '\\x00')",
		"update credits.accounts set balance = balance + 1", "update credits.accounts set held = held + 1", "update credits.accounts set head_hash = '\\x00'",
		"update credits.accounts set seq = seq + 1", "update credits.accounts set seq = seq - 1",
		"update credits.accounts set balance = balance + case when user_id = '" + forged2 + "' then 1 else 0 end", "update credits.accounts set seq = 0, balance = 0, held = 0, head_hash = ''",
		"insert into credits.accounts (user_id, tier, created_at) values ('" + forged1 + "', 'standard', pgtick.now()) on conflict (user_id) do update set balance = accounts.balance + 1",
		"merge into credits.accounts as a using (values (1)) as v on a.user_id = '" + forged1 + "' when matched then update set held = 0",
		"with one as (update credits.accounts set tier = tier where user_id = '" + forged1 + "') update credits.accounts set balance = balance + 1 where user_id = '" + forged2 + "'",
		"with one as (update credits.accounts set balance = balance + 1 where user_id = '" + forged1 + "') update credits.accounts set tier = tier where user_id = '" + forged2 + "'",
		"update credits.accounts as a set (seq, balance, held, head_hash) = (select t.seq, t.balance_after, t.held_after, t.hash from credits.transactions as t where t.user_id = a.user_id and t.seq = 1)",
		"update credits.accounts as a set (seq, balance, held, head_hash) = (select t.seq, t.balance_after, t.held_after, t.hash from credits.transactions as t where t.user_id = '" + forged2 + "' and t.seq = 2) where user_id = '" + forged1 + "'",
	},
	"TK113": {
		closing(2, "captured", 4, ``, `"status": "open", "captured": 0, "closed_seq": null, "closed_at": null, "reason": null`), closing(2, "captured", 4, ``, `"user_id": "`+forged2+`"`),
		holdOf(`"type": "hold", "held_amount": 5`, `"amount": 6`), holdOf(`"type": "hold", "held_amount": 5`, `"opened_seq": 2`), holdOf(`"type": "hold", "held_amount": 5`, `"id": 90`),
		holdOf(`"type": "hold", "held_amount": 5`, `"user_id": "`+forged2+`"`), entryOf(`"type": "hold", "held_amount": 10, "hold_id": 2`),
		entryOf(`"type": "hold", "held_amount": 5, "hold_id": 90`),
		holdOf(`"type": "hold", "held_amount": 5`, `"status": "released", "closed_seq": 9, "closed_at": "2026-01-10 08:00:00", "reason": "x"`),
		closing(2, "captured", 4, `"amount": -5`, ``), closing(2, "captured", 4, `"held_amount": -9`, ``), closing(2, "captured", 4, `"hold_id": 3`, ``),
		closing(2, "captured", 4, ``, `"closed_seq": 7`), closing(2, "captured", 4, `"type": "release", "amount": 0`, ``), closing(2, "released", 0, `"type": "capture", "amount": -4`, ``),
		closing(2, "released", 0, ``, `"closed_at": "2026-01-10 09:30:00"`), closing(2, "captured", 4, ``, `"captured": 5`),
		closing(2, "captured", 4, ``, ``) + `; update credits.holds set (status, captured, closed_seq, closed_at, reason) =
			(select h.status, h.captured, h.closed_seq, h.closed_at, h.reason from credits.holds as h where h.id = 2) where id = 3`,
		holdOf(`"type": "capture", "amount": -5, "held_amount": -10`, `"amount": 10, "status": "captured", "captured": 5, "opened_seq": 1, "closed_seq": 9, "closed_at": "2026-01-10 08:00:00", "reason": "x"`),
		entryOf(`"type": "release", "held_amount": -10, "hold_id": 2`), entryOf(`"type": "release", "held_amount": -10, "hold_id": 1`), entryOf(`"type": "capture", "amount": -4, "held_amount": -10, "hold_id": 1`),
	},
	"TK110": {
		closing(1, "captured", 5, ``, ``), closing(1, "released", 0, ``, ``),
		closing(2, "captured", 4, ``, `"expires_at": "2026-01-10 09:30:00"`), closing(2, "captured", 4, ``, `"created_at": "2026-01-10 07:00:00"`), closing(2, "captured", 4, ``, `"opened_seq": 2`),
		closing(2, "captured", 4, `"held_amount": -9`, `"amount": 9`),
		"select model.close_as(2, '" + forged2 + "')", "select model.close_as(2, '" + forged1 + "')", // all the entries fit: of another user, whose next seq is that of the hold; of another seq
		"update credits.holds set expires_at = expires_at where id = 2", "update credits.holds set expires_at = expires_at - interval '1 second' where id = 2",
		"update credits.holds set expires_at = pgtick.now() + interval '366 days 1 microsecond' where id = 2", "update credits.holds set expires_at = expires_at + interval '1 hour', amount = 11 where id = 2",
		"update credits.holds set expires_at = expires_at + interval '1 hour', created_at = created_at - interval '1 hour' where id = 2",
		"update credits.holds set expires_at = expires_at + interval '1 hour' where id = 1", "update credits.holds set reason = 'x' where id = 1",
		"update credits.accounts set user_id = gen_random_uuid()", "update credits.accounts set created_at = created_at + interval '1 second'",
		"delete from credits.accounts", "delete from credits.holds", "delete from credits.transactions", "truncate credits.transactions", "truncate credits.holds, credits.transactions",
		"truncate credits.accounts", "truncate credits.holds",
		"update credits.transactions set notes = 'x', text_hash = credits.text_hash(salt, description, reference_id, 'x') where idempotency_key = 'pa'",
		// Two of the lawful changes at once.
		pendingTo(`status = 'COMPLETED', seq = a.seq + 1, balance_after = a.balance + 5, held_after = a.held, final_at = pgtick.now(), synced_to_supabase = true, synced_at = pgtick.now()`),
		"update credits.transactions set redacted_at = pgtick.now(), synced_to_supabase = true, synced_at = pgtick.now() where seq = 7",
		"update credits.transactions set id = default, synced_to_supabase = true, synced_at = pgtick.now() where seq = 7",
		// What only redact may do, and what it may not.
		"update credits.transactions set redacted_at = pgtick.now(), description = null where seq = 5", "update credits.transactions set redacted_at = pgtick.now(), reference_id = null where seq = 5",
		"update credits.transactions set description = null, reference_id = null where seq = 5",
		"update credits.transactions set redacted_at = pgtick.now(), description = null, reference_id = null, endpoint = '/x' where seq = 5",
		"update credits.transactions set redacted_at = pgtick.now(), description = null, reference_id = null where idempotency_key = 'pd'",
		"select credits.redact(id) from credits.transactions where seq = 5 and user_id = '" + forged1 + "'; update credits.transactions set redacted_at = redacted_at + interval '1 second' where redacted_at is not null",
		"select credits.redact(id) from credits.transactions where seq = 5 and user_id = '" + forged1 + "'; update credits.transactions set redacted_at = null where redacted_at is not null",
	},
	"TK104": {"select setval('model.clock', 1000001); update credits.holds set expires_at = expires_at + interval '1 hour' where id = 3",
		"select setval('model.clock', 1000001); " + closing(3, "captured", 4, ``, `"closed_at": "2026-01-10 08:00:00.5"`)},
	"23514": {
		closing(2, "captured", 11, ``, ``), closing(2, "captured", 0, `"type": "release"`, ``), closing(2, "released", 4, `"type": "release", "amount": 0`, ``), closing(2, "expired", 0, ``, ``),
		"select setval('model.clock', 1000001); " + closing(3, "captured", 4, ``, ``), closing(2, "gone", 0, `"type": "release"`, ``), closing(2, "released", 0, ``, `"reason": null`),
		closing(2, "released", 0, ``, `"closed_seq": null`), closing(2, "released", 0, ``, `"closed_at": null`),
		holdOf(`"type": "hold", "held_amount": 5`, `"amount": 0`), holdOf(`"type": "hold", "held_amount": 5`, `"expires_at": "infinity"`),
		holdOf(`"type": "hold", "held_amount": 5`, `"expires_at": "2026-01-10 08:00:00"`), holdOf(`"type": "hold", "held_amount": 5`, `"reason": "x"`),
		entryOf(`"type": "deduction", "amount": -1000`), holdOf(`"type": "hold", "held_amount": 1000`, ``),
		"insert into credits.tiers values ('', 5)", "insert into credits.tiers values (repeat('x', 101), 5)", "insert into credits.tiers values ('x', -1)", "insert into credits.usage_rates values ('', 5)", "insert into credits.usage_rates values (repeat('x', 256), 5)", "insert into credits.usage_rates values (E'a\\nb', 5)",
		"insert into credits.usage_rates values ('/x', 0)", "update credits.settings set value = 'some'", "insert into credits.settings values ('other', 'full')",
		"update credits.pending_rules set type = 'hold' where type = 'refund'", "update credits.pending_rules set after = '0'", "update credits.pending_rules set action = 'x'",
		"insert into credits.sync_refusals values (1, 'x', 'x', 0, now())", "insert into credits.own_operations values ('grant', now(), 'x')",
	},
	"23505": {
		entryOf(`"type": "addition", "amount": 5, "idempotency_key": "c", "request_hash": "\\x00"`), entryOf(`"status": "PENDING", "amount": 5, "idempotency_key": "pa", "request_hash": "\\x00"`),
		"select credits.allocate_chunk(null, null, 10); " + entryOf(`"type": "allocation", "amount": 5, "period": "2026-01-01"`), unmoved(`"amount": 5, "seq": 8`), unmoved(`"amount": 5, "id": 1`),
		holdOf(`"type": "hold", "held_amount": 5`, `"id": 2`), "insert into credits.accounts select * from credits.accounts",
		"insert into credits.tiers values ('standard', 5)", "insert into credits.settings values ('allocation_for_new', 'full')", "insert into credits.pending_rules values ('refund', '1 hour', 'commit')",
		"insert into credits.usage_rates values ('/x', 1), ('/x', 1)", "insert into credits.sync_refusals values (1, 'x', 'x', 1, now()), (1, 'x', 'x', 1, now())",
		"insert into credits.own_operations values ('charge', now(), 'x'), ('charge', now(), 'x')",
	},
	"23503": {"update credits.accounts set tier = 'gold'", "delete from credits.tiers where name = 'standard'"},
}

// columns that no update may change, whatever state the entry is in, and another value for each.
var columns = map[string]string{
	"user_id": "gen_random_uuid()", "seq": "coalesce(seq, 0) + 100", "amount": "amount + 1", "held_amount": "held_amount + 1", "balance_after": "coalesce(balance_after, 0) + 1",
	"held_after": "coalesce(held_after, 0) + 1", "hold_id": "coalesce(hold_id, 0) + 1", "related_id": "coalesce(related_id, 0) + 1", "created_at": "created_at - interval '1 second'",
	"final_at": "coalesce(final_at, created_at) + interval '1 second'", "synced_at": "coalesce(synced_at, created_at) + interval '1 second'", "period": "'2025-01-01'",
	"type": "case type when 'addition' then 'refund' else 'addition' end", "status": "case status when 'FAILED' then 'PENDING' else 'DONE' end", "endpoint": "'/x'", "idempotency_key": "'other'",
	"description": "'x'", "reference_id": "'x'", "notes": "'x'", "salt": "uuid_send(gen_random_uuid())", "request_hash": "'\\x00'", "text_hash": "'\\x00'", "hash": "'\\x00'",
}

// attempts are the forgeries, and every change of one column of an entry in each state, with the sync mark too, and with its end.
func attempts() map[string][]string {
	all := map[string][]string{}
	for code, list := range forgeries {
		all[code] = list
	}
	for _, statement := range forgeries["TK111"] {
		isCharge := strings.Contains(statement, `_key": "new"}`) || strings.Contains(statement, `5, "request_hash"`) // it lacks nothing any more
		if strings.Contains(statement, anAddition) && !isCharge && !strings.Contains(statement, "FAILED") {
			all["TK111"] = append(all["TK111"], asCharge(statement))
		}
	}
	for column, value := range columns {
		set := "update credits.transactions set " + column + " = " + value
		for _, which := range []string{"seq = 5", "synced_to_supabase and seq = 6", "seq = 7", "idempotency_key = 'pa'", "idempotency_key = 'f'"} {
			all["TK"] = append(all["TK"], set+" where user_id = '"+forged1+"' and "+which)
		}
		if column != "synced_at" {
			all["TK"] = append(all["TK"], set+", synced_to_supabase = true, synced_at = pgtick.now() where user_id = '"+forged1+"' and seq = 7")
		}
		if !strings.Contains(" notes final_at status ", " "+column+" ") {
			all["TK"] = append(all["TK"], set+", status = 'FAILED', final_at = pgtick.now() where idempotency_key = 'pa'")
		}
	}
	all["TK"] = append(all["TK"], "update credits.transactions set synced_to_supabase = false, synced_at = null where seq = 6",
		"update credits.transactions set synced_to_supabase = true where seq = 7", "update credits.transactions set synced_at = null where seq = 6", "update credits.transactions set amount = amount where seq = 6")
	return all
}

func TestForger_WhoIsRightInAllButOneThing_IsRefused(t *testing.T) {
	t.Parallel()
	w := newForged(t)
	conn, err := w.Pool.Acquire(context.Background())
	require.NoError(t, err)
	defer conn.Release()
	for _, statement := range lawful {
		require.NoError(t, undone(conn.Conn(), statement), statement)
	}
	n := 0
	for code, list := range attempts() {
		for _, statement := range list {
			n++
			err := undone(conn.Conn(), statement)
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || !strings.HasPrefix(pg.Code, code) {
				t.Errorf("%s: %v, not %s", statement, err, code)
			}
		}
	}
	w.requireNoViolations()
	t.Logf("%d forgeries", n)
}

// undone does it in a transaction and takes it back.
func undone(conn *pgx.Conn, statement string) error {
	ctx := context.Background()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	_, err = conn.PgConn().Exec(ctx, statement).ReadAll()
	err = errors.Join(err, tx.Rollback(ctx))
	if strings.Contains(statement, "model.clock") {
		_, _ = conn.Exec(ctx, "select setval('model.clock', 1, false)")
	}
	return err
}
