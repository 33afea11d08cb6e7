package credits_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// tampered has the rows that the statements below name: user 1 with entries 1 … 8, hold 1 open, 2 captured, 3 released, 4 expired but
// open; user 2, with a refund and a transfer; a pending and a failed entry; an allocation; a synced entry.
func tampered(t *testing.T) *ledger {
	l := newLedger(t)
	l.exec(`select credits.open_account(u) from unnest('{00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000002}'::uuid[]) as u`)
	l.exec(`do $$
	declare
	  u uuid := '00000000-0000-0000-0000-000000000001';
	begin
	  perform credits.grant(u, 1000, 'g', 'welcome');
	  perform credits.grant('00000000-0000-0000-0000-000000000002', 1000, 'g');
	  perform credits.sync_chunk(null, 1);
	  perform credits.hold(u, 10, '1 hour', 'h1');
	  perform credits.hold(u, 20, '1 hour', 'h2');
	  perform credits.hold(u, 30, '1 hour', 'h3');
	  perform credits.hold(u, 40, '1 second', 'h4');
	  perform credits.capture(2, 5);
	  perform credits.release(3);
	  perform credits.charge(u, 7, 'c', '/v1', 'words');
	  perform credits.submit(u, 'addition', 9, 'p');
	  perform credits.resolve(credits.submit(u, 'addition', 9, 'f'), false);
	  perform credits.allocate_chunk(null, null, 10);
	  perform credits.refund(credits.charge('00000000-0000-0000-0000-000000000002', 3, 'd'), 'r', 2);
	  perform credits.open_account('00000000-0000-0000-0000-000000000003'), credits.transfer('00000000-0000-0000-0000-000000000002', '00000000-0000-0000-0000-000000000003', 5, 't');
	end $$`)
	pgtest.Advance(t, l.DB, time.Minute)
	return l
}

// Where a statement books an entry of its own, $e stands for all of it but what is in the select list; the numbers are those of user 1.
const (
	user1 = "'00000000-0000-0000-0000-000000000001'"
	entry = `insert into credits.transactions (user_id, seq, type, status, amount, held_amount, balance_after, held_after, hold_id, period, idempotency_key,
		request_hash, created_at, final_at, salt, hash) select a.user_id, `
	// The account's head is moved first, as the ledger does, so that the entry after it is not refused for standing beyond the head.
	moved = `with moved as (update credits.accounts set seq = seq + 1, balance = balance + %d where user_id = ` + user1 + ` returning *) `
	from1 = ` from credits.accounts as a where a.user_id = ` + user1
)

// byHand books an entry of user 1 that continues the chain in every respect, and names the entry that which tells.
func byHand(kind string, amount int, which string) string {
	return fmt.Sprintf(`with e as (
		select a.user_id, a.seq + 1 as seq, %[2]d::bigint as amount, a.balance + %[2]d as balance, a.held, a.head_hash, 100000::bigint as id, now() as at,
			coalesce((select t.id from credits.transactions as t where %[3]s limit 1), %[5]s) as related,
			uuid_send(gen_random_uuid()) as salt, case when '%[1]s' = 'adjustment' then 'x' end as description
		from credits.accounts as a where a.user_id = %[4]s
	), t as (
		select e.*, case when e.description is not null then sha256(record_send(row(e.salt, convert_to(e.description, 'UTF8'), null::bytea, null::bytea))) end as text_hash from e
	), h as (
		select t.*, sha256(t.head_hash || record_send(row(t.id, t.user_id, t.seq, '%[1]s'::bytea, t.amount, 0::bigint, t.balance, t.held, null::bigint, t.related,
			null::date, t.at, t.at, null::bytea, null::bytea, null::bytea, t.text_hash))) as hash from t
	), moved as (
		update credits.accounts as a set seq = h.seq, balance = h.balance, head_hash = h.hash from h where a.user_id = h.user_id
	)
	insert into credits.transactions (id, user_id, seq, type, status, amount, balance_after, held_after, related_id, created_at, final_at, description, salt, text_hash, hash)
	overriding system value
	select h.id, h.user_id, h.seq, '%[1]s', 'COMPLETED', h.amount, h.balance, h.held, h.related, h.at, h.at, h.description, h.salt, h.text_hash, h.hash from h`,
		kind, amount, which, user1, map[bool]string{true: "null", false: "9999"}[which == "false"])
}

// That byHand's entries are refused for what they name, and for nothing else: a lawful one passes.
func TestByHand_ALawfulRefund_Passes(t *testing.T) {
	t.Parallel()
	l := tampered(t)
	l.exec(byHand("refund", 7, "t.idempotency_key = 'c'"))
	require.Empty(t, l.violations())
}

var tamperings = map[string]struct{ code, statement string }{
	"amount of an entry":             {"TK110", "update credits.transactions set amount = amount + 1 where seq = 1"},
	"balance_after of an entry":      {"TK110", "update credits.transactions set balance_after = 5000 where seq = 1"},
	"held_after of an entry":         {"TK110", "update credits.transactions set held_after = 1 where seq = 1"},
	"hash of an entry":               {"TK110", "update credits.transactions set hash = '\\x00' where seq = 1"},
	"seq of an entry":                {"TK110", "update credits.transactions set seq = 100 where type = 'deduction' and seq is not null"},
	"user of an entry":               {"TK110", "update credits.transactions set user_id = '00000000-0000-0000-0000-000000000002', seq = 50 where seq = 8"},
	"description of an entry":        {"TK110", "update credits.transactions set description = 'x' where seq = 1"},
	"notes of an entry":              {"TK110", "update credits.transactions set notes = 'x' where seq = 1"},
	"endpoint of an entry":           {"TK110", "update credits.transactions set endpoint = '/v2' where endpoint = '/v1'"},
	"key of an entry":                {"TK110", "update credits.transactions set idempotency_key = 'other' where idempotency_key = 'c'"},
	"request of an entry":            {"TK110", "update credits.transactions set request_hash = '\\x00' where idempotency_key = 'c'"},
	"salt of an entry":               {"TK110", "update credits.transactions set salt = uuid_send(gen_random_uuid()) where seq = 1"},
	"time of an entry":               {"TK110", "update credits.transactions set created_at = created_at - interval '1 day' where seq = 1"},
	"end of an entry":                {"TK110", "update credits.transactions set final_at = final_at + interval '1 day' where seq = 1"},
	"month of an allocation":         {"TK110", "update credits.transactions set period = period - interval '1 month' where period is not null"},
	"redaction by hand":              {"TK110", "update credits.transactions set redacted_at = now(), description = null where seq = 1"},
	"type of an entry":               {"TK110", "update credits.transactions set type = 'refund' where seq = 1"},
	"completed to pending":           {"TK110", "update credits.transactions set status = 'PENDING' where seq = 1"},
	"completed to failed":            {"TK110", "update credits.transactions set status = 'FAILED' where seq = 1"},
	"failed to completed":            {"TK110", "update credits.transactions set status = 'COMPLETED' where status = 'FAILED'"},
	"failed to pending":              {"TK110", "update credits.transactions set status = 'PENDING', final_at = null where status = 'FAILED'"},
	"amount of a pending entry":      {"TK110", "update credits.transactions set amount = 900 where status = 'PENDING'"},
	"text of a pending entry":        {"TK111", "update credits.transactions set description = 'x' where status = 'PENDING'"},
	"pending completed by hand":      {"TK111", "update credits.transactions set status = 'COMPLETED', final_at = now() + interval '1 day' where status = 'PENDING'"},
	"pending completed without head": {"TK111", "update credits.transactions set status = 'COMPLETED', final_at = now() + interval '1 day', seq = 10, balance_after = 1097, held_after = 50, hash = sha256('') where status = 'PENDING'"},
	"pending that is synced":         {"TK111", "update credits.transactions set synced_to_supabase = true, synced_at = now() where status = 'PENDING'"},
	"sync mark taken back":           {"TK110", "update credits.transactions set synced_to_supabase = false, synced_at = null where synced_to_supabase"},
	"sync mark without a time":       {"TK110", "update credits.transactions set synced_to_supabase = true where not synced_to_supabase and seq = 2"},
	"sync mark moved":                {"TK110", "update credits.transactions set synced_at = now() + interval '1 day' where synced_to_supabase"},
	"sync mark and an amount":        {"TK110", "update credits.transactions set synced_to_supabase = true, synced_at = now(), amount = 1 where seq = 2"},
	"sync mark and a hash":           {"TK110", "update credits.transactions set synced_to_supabase = true, synced_at = now(), hash = '' where seq = 2"},
	"delete an entry":                {"TK110", "delete from credits.transactions where seq = 9"},
	"delete no entry":                {"TK110", "delete from credits.transactions where false"},
	"truncate the entries":           {"TK110", "truncate credits.transactions"},
	"truncate everything":            {"TK110", "truncate credits.accounts, credits.holds, credits.transactions"},
	"delete an account":              {"TK110", "delete from credits.accounts"},
	"delete a hold":                  {"TK110", "delete from credits.holds where status <> 'open'"},
	"merge into the entries":         {"TK110", "merge into credits.transactions as t using (values (1)) as v on t.seq = 1 when matched then update set amount = 5000"},
	"upsert an entry": {"TK110", "insert into credits.transactions (id, user_id, amount, created_at, type, status, salt) overriding system value values (1, " + user1 +
		", 1, now(), 'addition', 'PENDING', uuid_send(gen_random_uuid())) on conflict (id) do update set amount = 5000"},

	"balance of an account":   {"TK112", "update credits.accounts set balance = balance + 1"},
	"held of an account":      {"TK112", "update credits.accounts set held = 0"},
	"head put back":           {"TK112", "update credits.accounts as a set (seq, balance, held, head_hash) = (select t.seq, t.balance_after, t.held_after, t.hash from credits.transactions as t where t.user_id = a.user_id and t.seq = 1)"},
	"seq of an account":       {"TK112", "update credits.accounts set seq = seq + 1"},
	"head hash":               {"TK112", "update credits.accounts set head_hash = ''"},
	"account emptied":         {"TK112", "update credits.accounts set seq = 0, balance = 0, held = 0, head_hash = ''"},
	"account overdrawn":       {"23514", "update credits.accounts set balance = -1"},
	"held beyond the balance": {"23514", "update credits.accounts set held = balance + 1"},
	"user of an account":      {"TK110", "update credits.accounts set user_id = gen_random_uuid() where seq > 5"},
	"opening of an account":   {"TK110", "update credits.accounts set created_at = now() - interval '1 year'"},
	"a rich account":          {"TK112", "insert into credits.accounts (user_id, tier, created_at, balance) values (gen_random_uuid(), 'standard', now(), 1000)"},
	"tier that is none":       {"23503", "update credits.accounts set tier = 'gold'"},
	"user of two accounts":    {"23505", "insert into credits.accounts (user_id, tier, created_at) values (" + user1 + ", 'standard', now())"},
	"rate that gives":         {"23514", "insert into credits.usage_rates values ('/gift', -5)"},
	"tier that takes":         {"23514", "update credits.tiers set monthly_credits = -1"},

	"prolong an open hold":       {"TK110", "update credits.holds set expires_at = expires_at + interval '1 day' where id = 1"},
	"shorten a hold":             {"TK110", "update credits.holds set expires_at = expires_at - interval '1 minute' where id = 1"},
	"reopen a hold":              {"TK110", "update credits.holds set status = 'open', captured = 0, closed_seq = null, closed_at = null, reason = null where id = 2"},
	"release what is captured":   {"TK110", "update credits.holds set status = 'released', captured = 0 where id = 2"},
	"resize a hold":              {"TK110", "update credits.holds set amount = 1 where id = 1"},
	"prolong a hold":             {"TK110", "update credits.holds set expires_at = expires_at + interval '1 day' where id = 4"},
	"capture more":               {"TK110", "update credits.holds set captured = 20 where id = 2"},
	"close without an entry":     {"TK113", "update credits.holds set status = 'released', closed_seq = 9, closed_at = now(), reason = 'x' where id = 1"},
	"capture without an entry":   {"TK113", "update credits.holds set status = 'captured', captured = 7, closed_seq = 8, closed_at = now(), reason = 'x' where id = 1"},
	"capture too late":           {"TK104", "update credits.holds set status = 'captured', captured = 7, closed_seq = 8, closed_at = created_at, reason = 'x' where id = 4"},
	"expire too early":           {"23514", "update credits.holds set status = 'expired', closed_seq = 8, closed_at = now(), reason = 'x' where id = 1"},
	"close in the future":        {"TK113", "update credits.holds set status = 'expired', closed_seq = 8, closed_at = expires_at + interval '1 day', reason = 'x' where id = 1"},
	"a hold without an entry":    {"TK113", "insert into credits.holds (user_id, amount, opened_seq, created_at, expires_at) values (" + user1 + ", 5, 1, now(), now() + interval '1 hour')"},
	"a second hold of one entry": {"TK113", "insert into credits.holds (user_id, amount, opened_seq, created_at, expires_at) select user_id, amount, opened_seq, created_at, expires_at from credits.holds where id = 1"},
	"hold of another user":       {"TK110", "update credits.holds set user_id = '00000000-0000-0000-0000-000000000002' where id = 1"},

	"entry with a wrong balance": {"TK111", fmt.Sprintf(moved, 500) + entry + "a.seq, 'addition', 'COMPLETED', 5, 0, a.balance, a.held, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), a.head_hash from moved as a"},
	"entry beyond the head":      {"TK111", entry + "a.seq + 1, 'addition', 'COMPLETED', 5, 0, a.balance + 5, a.held, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), sha256('')" + from1},
	"entry that leaves a gap":    {"TK111", entry + "a.seq + 2, 'addition', 'COMPLETED', 5, 0, a.balance + 5, a.held, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), sha256('')" + from1},
	"entry at a used place":      {"23505", entry + "a.seq, 'addition', 'COMPLETED', 5, 0, a.balance + 5, a.held, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), sha256('')" + from1},
	"entry without a place":      {"TK111", entry + "null, 'addition', 'COMPLETED', 5, 0, null, null, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), null" + from1},
	"entry with the wrong sign":  {"TK111", entry + "a.seq + 1, 'deduction', 'COMPLETED', 5, 0, a.balance + 5, a.held, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), sha256('')" + from1},
	"entry of a strange type":    {"TK111", entry + "null, 'gift', 'PENDING', 5, 0, null, null, null, null, null, null, now(), null, uuid_send(gen_random_uuid()), null" + from1},
	"entry of a strange status":  {"TK111", entry + "null, 'addition', 'DONE', 5, 0, null, null, null, null, null, null, now(), null, uuid_send(gen_random_uuid()), null" + from1},
	"pending hold":               {"TK111", entry + "null, 'hold', 'PENDING', 0, 5, null, null, 1, null, null, null, now(), null, uuid_send(gen_random_uuid()), null" + from1},
	"allocation without a month": {"TK111", entry + "a.seq + 1, 'allocation', 'COMPLETED', 5, 0, a.balance + 5, a.held, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), sha256('')" + from1},
	"allocation in mid-month":    {"TK111", entry + "a.seq + 1, 'allocation', 'COMPLETED', 5, 0, a.balance + 5, a.held, null, '2020-01-02', null, null, now(), now(), uuid_send(gen_random_uuid()), sha256('')" + from1},
	"second allocation":          {"23505", entry + "a.seq + 1, 'allocation', 'COMPLETED', 5, 0, a.balance + 5, a.held, null, (select max(period) from credits.transactions), null, null, now(), now(), uuid_send(gen_random_uuid()), sha256('')" + from1},
	"key without its request":    {"TK111", entry + "null, 'addition', 'PENDING', 5, 0, null, null, null, null, 'x', null, now(), null, uuid_send(gen_random_uuid()), null" + from1},
	"key used twice":             {"23505", entry + "null, 'addition', 'PENDING', 5, 0, null, null, null, null, 'c', '', now(), null, uuid_send(gen_random_uuid()), null" + from1},
	"pending for nobody":         {"TK102", entry + "null, 'addition', 'PENDING', 5, 0, null, null, null, null, null, null, now(), null, uuid_send(gen_random_uuid()), null from (select gen_random_uuid() as user_id) as a"},
	"entry that starts failed":   {"TK111", entry + "null, 'addition', 'FAILED', 5, 0, null, null, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), null" + from1},
	"head and entry with a wrong hash": {"TK111", "with moved as (update credits.accounts set seq = seq + 1, balance = balance + 5, head_hash = sha256('') where user_id = " + user1 + " returning *) " +
		entry + "a.seq, 'addition', 'COMPLETED', 5, 0, a.balance, a.held, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), a.head_hash from moved as a"},
	"refund of what took nothing": {"TK111", byHand("refund", 1, "t.type = 'addition' and t.user_id = "+user1)},
	"refund of more":              {"TK111", byHand("refund", 8, "t.idempotency_key = 'c'")},
	"refund of another user's":    {"TK111", byHand("refund", 8, "t.user_id <> "+user1)},
	"refund of no entry":          {"TK111", byHand("refund", 8, "t.id = 9999")},
	"adjustment of another's":     {"TK111", byHand("adjustment", 8, "t.user_id <> "+user1)},
	"transfer by half":            {"TK111", byHand("transfer_in", 8, "t.user_id <> "+user1)},
	"transfer from nowhere":       {"TK111", byHand("transfer_in", 8, "false")},
	"release of no hold": {"TK111", "with moved as (update credits.accounts set seq = seq + 1, held = held - 5, head_hash = sha256('') where user_id = " + user1 + " returning *) " +
		entry + "a.seq, 'release', 'COMPLETED', 0, -5, a.balance, a.held, null, null, null, null, now(), now(), uuid_send(gen_random_uuid()), a.head_hash from moved as a"},

	"disable the triggers":   {"42501", "alter table credits.transactions disable trigger all"},
	"drop a trigger":         {"42501", "drop trigger transactions_kept on credits.transactions"},
	"drop a constraint":      {"42501", "alter table credits.accounts drop constraint account_held_within_balance"},
	"drop an index":          {"42501", "drop index credits.transactions_one_allocation_a_month"},
	"replace a function":     {"42501", "create or replace function credits.unlawful(e credits.transactions) returns text language sql as 'select null::text'"},
	"set the clock":          {"42501", "create or replace function pgtick.now() returns timestamptz language sql as 'select now()'"},
	"call an inner function": {"42501", "select credits.book(" + user1 + ", 'addition', 5, 'x', '')"},
	"act as a replica":       {"42501", "set session_replication_role = replica"},
	"drop the table":         {"42501", "drop table credits.holds"},
	"a rule instead":         {"42501", "create rule r as on insert to credits.transactions do instead nothing"},
}

// A role with every right on the tables, exempt from row level security, but not their owner.
func TestTampering_ByWhoeverIsNotTheOwner_IsRefused(t *testing.T) {
	t.Parallel()
	l := tampered(t)
	ctx := context.Background()
	l.exec(`do $$ begin create role ledger_tamperer nologin bypassrls; exception when duplicate_object then null; end $$`)
	l.exec("grant usage on schema credits, pgtick to ledger_tamperer; grant all on all tables in schema credits to ledger_tamperer; grant all on all sequences in schema credits to ledger_tamperer; grant execute on function pgtick.now(), credits.text_hash, credits.unlawful, credits.check_entry, credits.unknown_account, credits.fits_related, credits.is_extension to ledger_tamperer; grant create on schema public to ledger_tamperer")
	t.Cleanup(func() { l.exec("drop owned by ledger_tamperer") })
	before := l.everything()
	for _, path := range []string{"''", "public", "pg_temp, credits, public"} {
		for _, name := range sortedKeys(tamperings) {
			c := tamperings[name]
			conn, err := l.Pool.Acquire(ctx)
			require.NoError(t, err)
			err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "set local role ledger_tamperer"); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, "set local search_path = "+path); err != nil {
					return err
				}
				tag, err := tx.Exec(ctx, c.statement)
				if err == nil {
					t.Errorf("%s, search_path %s: not refused, %s", name, path, tag)
					return pgx.ErrTxClosed
				}
				return err
			})
			conn.Release()
			require.Error(t, err, name)
			if !errors.Is(err, pgx.ErrTxClosed) {
				requireCodeOf(t, name, c.code, err)
			}
		}
	}
	require.Equal(t, before, l.everything())
}

func requireCodeOf(t *testing.T, name, code string, err error) {
	t.Helper()
	t.Run(name, func(t *testing.T) { requireCode(t, code, err) })
}

// everything is a digest of all rows.
func (l *ledger) everything() string {
	l.t.Helper()
	return one[string](l, `select md5(string_agg(r.line, E'\n' order by r.line)) from (
		select t::text as line from credits.transactions as t union all select a::text from credits.accounts as a union all select h::text from credits.holds as h
	) as r`)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Operators of the tamperer's own, found first by its search_path, must not stand in for those that the guards mean.
func TestTampering_WithOperatorsOfItsOwn_IsRefused(t *testing.T) {
	t.Parallel()
	l := tampered(t)
	l.exec(`create function public.always(bigint, bigint) returns boolean language sql immutable as 'select true';
		create operator public.= (leftarg = bigint, rightarg = bigint, function = public.always)`)
	l.exec("set search_path = public, pg_catalog")
	conn, err := l.Pool.Acquire(context.Background())
	require.NoError(t, err)
	defer conn.Release()
	for _, statement := range []string{"set search_path = public, pg_catalog", "update credits.accounts set balance = balance + 1"} {
		_, err = conn.Exec(context.Background(), statement)
	}
	requireCode(t, "TK112", err)
	_, err = conn.Exec(context.Background(), "reset search_path")
	require.NoError(t, err)
}

// The owner can switch the triggers off. Then violations names what was done.
func TestViolations_NameWhatTheOwnerDidBehindTheGuards(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ statement, kind string }{
		"an amount":              {"update credits.transactions set amount = amount + 1 where seq = 3 and user_id = " + user1, "entry: it does not continue the one before"},
		"an amount, made to fit": {"update credits.transactions set amount = amount + 1, balance_after = balance_after + 1 where seq = 9; update credits.accounts set balance = balance + 1 where seq = 9", "entry: its hash is wrong"},
		"a hash":                 {"update credits.transactions set hash = sha256('') where seq = 3", "entry: its hash is wrong"},
		"a time":                 {"update credits.transactions set final_at = final_at + interval '1 day' where seq = 3", "entry: its hash is wrong"},
		"an endpoint":            {"update credits.transactions set endpoint = '/v2' where endpoint = '/v1'", "entry: its hash is wrong"},
		"a request":              {"update credits.transactions set request_hash = sha256('') where idempotency_key = 'c'", "entry: its hash is wrong"},
		"a text":                 {"update credits.transactions set description = 'other' where description = 'words'", "entry: its texts do not agree with their digest"},
		"a text taken away":      {"update credits.transactions set description = null where description = 'words'", "entry: its texts do not agree with their digest"},
		"a type":                 {"update credits.transactions set type = 'adjustment' where idempotency_key = 'c'", "entry: its hash is wrong"},
		"the head":               {"update credits.accounts set head_hash = sha256('')", "account: not its last entry"},
		"the balance":            {"update credits.accounts set balance = balance + 1", "account: not the sum of its entries"},
		"held":                   {"update credits.accounts set held = held - 1 where held > 0", "account: held is not the sum of its open holds"},
		"the last entry gone":    {"delete from credits.transactions where seq = 9", "account: not its last entry"},
		"a middle entry gone":    {"delete from credits.transactions where seq = 4", "entry: its place in the chain is wrong"},
		"a hold reopened":        {"update credits.holds set status = 'open', captured = 0, closed_seq = null, closed_at = null, reason = null where id = 2", "entry: its hold does not agree with it"},
		"a hold gone":            {"delete from credits.holds where id = 3", "entry: its hold does not agree with it"},
		"more refunded":          {"update credits.transactions set amount = -1 where idempotency_key = 'd'", "entry: it does not fit the one that it names"},
		"half a transfer":        {"update credits.transactions set amount = 4 where type = 'transfer_in'", "entry: it does not fit the one that it names"},
		"a sign":                 {"update credits.transactions set amount = 7 where idempotency_key = 'c'", "entry: its amounts do not fit its type"},
		"an allocation":          {"update credits.transactions set type = 'addition' where period is not null", "entry: a month or a key twice"},
		"an account gone":        {"delete from credits.accounts where user_id = " + user1, "entry: its account is missing"},
		"a failed entry revived": {"update credits.transactions set status = 'COMPLETED' where status = 'FAILED'", "entry: its status does not fit the columns that are set"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := tampered(t)
			require.Empty(t, l.violations())
			ctx := context.Background()
			tx, err := l.Pool.Begin(ctx)
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(ctx) }() // so that the ledger is in order again at the end
			for _, statement := range append([]string{"set local session_replication_role = replica"}, strings.Split(c.statement, "; ")...) {
				tag, err := tx.Exec(ctx, statement)
				require.NoError(t, err)
				if strings.HasPrefix(statement, "update") || strings.HasPrefix(statement, "delete") {
					require.NotZero(t, tag.RowsAffected(), statement)
				}
			}
			rows, err := tx.Query(ctx, "select kind from credits.violations")
			require.NoError(t, err)
			kinds, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			require.Contains(t, kinds, c.kind)
		})
	}
}
