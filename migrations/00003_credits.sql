-- The credit ledger: accounts, their entries and holds, and what the four credit tasks need. Creates only; no lock that anybody could wait for.
-- +goose Up

create schema if not exists credits;
comment on schema credits is 'The credit ledger. Write through its functions; read the tables and views.';
create schema if not exists analytics;
comment on schema analytics is 'What the ledger hands over for reporting.';

create table credits.tiers (
  name text primary key,
  monthly_credits bigint not null,
  constraint tier_named check (length(name) between 1 and 100),
  constraint tier_gives_credits check (monthly_credits >= 0)
);
comment on table credits.tiers is 'What an account of each tier is given once a calendar month. 0 gives nothing.';
insert into credits.tiers (name, monthly_credits) values ('standard', 100), ('premium', 500);

create table credits.usage_rates (
  endpoint text primary key,
  credits_per_request bigint not null,
  is_active boolean not null default true,
  constraint rate_endpoint_named check (length(endpoint) between 1 and 255 and endpoint !~ '[[:cntrl:]]'),
  constraint rate_positive check (credits_per_request > 0)
);
comment on table credits.usage_rates is 'What one request to an endpoint costs. charge() by endpoint reads it; an inactive rate is refused.';

create table credits.settings (
  name text primary key,
  value text not null,
  constraint setting_known check (name = 'allocation_for_new' and value in ('full', 'pro_rata', 'none'))
);
comment on table credits.settings is
  'allocation_for_new: what an account gets for the month in which it was opened: full (the default, also without a row), pro_rata (by the days left, the opening day included, rounded down), none.';
insert into credits.settings (name, value) values ('allocation_for_new', 'full');

create table credits.pending_rules (
  type text primary key,
  after interval not null,
  action text not null,
  constraint pending_rule_type_known check (type in ('deduction', 'addition', 'refund')),
  constraint pending_rule_after_positive check (after > interval '0'),
  constraint pending_rule_action_known check (action in ('commit', 'revert'))
);
comment on table credits.pending_rules is 'What becomes of a PENDING entry of each type, and after how long. A type without a row stays PENDING until resolve().';
insert into credits.pending_rules (type, after, action)
values ('addition', '24 hours', 'commit'), ('refund', '24 hours', 'commit'), ('deduction', '24 hours', 'revert');

-- One row a user: the head of that user's chain of entries. Every operation locks it first.
-- Half of each page is left free, and no index covers a column that moves, so that each charge is a HOT update.
create table credits.accounts (
  user_id uuid primary key,
  tier text not null references credits.tiers (name),
  balance bigint not null default 0,
  held bigint not null default 0,
  seq bigint not null default 0,
  submitted bigint not null default 0,
  created_at timestamptz not null,
  head_hash bytea not null default '\x',
  constraint account_held_within_balance check (held between 0 and balance)
) with (fillfactor = 50);
comment on table credits.accounts is 'The head of each user''s chain of entries. Always: 0 <= held <= balance, and balance, held, seq and head_hash are those of the last entry.';
comment on column credits.accounts.held is 'The sum of the open holds. available = balance - held.';
comment on column credits.accounts.seq is 'The seq of the last entry; 0 before the first.';
comment on column credits.accounts.submitted is
  'How many PENDING entries were ever submitted. It rises with each, so that whoever waited for the row sees that something was booked meanwhile.';
create index accounts_tier_idx on credits.accounts (tier);

-- The journal. It only grows: holds, captures and releases are entries too, so one chain an account proves both balance and held.
-- PENDING and FAILED entries have no seq and stand outside the chain, so that it has no gaps.
-- No foreign key to accounts (a trigger checks it, without a lock) and no CHECKs: with twelve of them single inserts fell from
-- 13,900 to 7,900 a second, since each is read anew from its stored text for every statement. One trigger function holds the rules.
create table credits.transactions (
  id bigint generated always as identity primary key,
  user_id uuid not null,
  seq bigint,
  amount bigint not null,
  held_amount bigint not null default 0,
  balance_after bigint,
  held_after bigint,
  hold_id bigint,
  related_id bigint,
  created_at timestamptz not null,
  final_at timestamptz,
  synced_at timestamptz,
  redacted_at timestamptz,
  period date,
  synced_to_supabase boolean not null default false,
  type text not null,
  status text not null,
  endpoint text,
  idempotency_key text,
  description text,
  reference_id text,
  notes text,
  salt bytea not null,
  request_hash bytea,
  text_hash bytea,
  hash bytea
);
comment on table credits.transactions is 'The entries of all accounts. Never deleted, and never changed but for PENDING becoming COMPLETED or FAILED, once, and the sync mark.';
comment on column credits.transactions.seq is 'Place in the account''s chain, from 1, without gaps. Null unless COMPLETED.';
comment on column credits.transactions.amount is 'What the entry adds to the balance: negative for deduction, capture and transfer_out, 0 for hold and release.';
comment on column credits.transactions.held_amount is 'What the entry adds to held: positive for a hold, negative for the capture or release that closes it, otherwise 0.';
comment on column credits.transactions.related_id is 'The entry that a refund gives back, or the other half of a transfer.';
comment on column credits.transactions.period is 'First day of the month that an allocation is for; null for all others.';
comment on column credits.transactions.final_at is 'When it became COMPLETED or FAILED.';
comment on column credits.transactions.synced_to_supabase is 'Whether the analytics target has it.';
comment on column credits.transactions.endpoint is 'A name out of usage_rates, or any other. Part of the chain, so never blanked: no personal data here.';
comment on column credits.transactions.idempotency_key is 'The caller''s name for the request. Part of the chain, so never blanked: no personal data here.';
comment on column credits.transactions.description is 'The caller''s words. Free text: description, reference_id and notes can be blanked without breaking the chain.';
comment on column credits.transactions.notes is 'The ledger''s words: why it failed, why it was released.';
comment on column credits.transactions.redacted_at is 'When the free text was blanked.';
comment on column credits.transactions.salt is 'Sixteen random bytes, so that neither request_hash nor text_hash can be guessed from likely texts.';
comment on column credits.transactions.request_hash is 'Digest of the salt and what was asked for under the key; the same request again is told from another by it.';
comment on column credits.transactions.text_hash is 'Digest of the salt and the free text; null when there never was any.';
comment on column credits.transactions.hash is 'Digest of the entry before and of this one, the free text through text_hash. The formula stands in sql/50_credits_base.sql.';
create unique index transactions_seq_key on credits.transactions (user_id, seq);
create unique index transactions_key_key on credits.transactions (user_id, idempotency_key) where idempotency_key is not null;
create unique index transactions_one_allocation_a_month on credits.transactions (user_id, period) where period is not null;
create index transactions_pending_idx on credits.transactions (created_at, id) where status = 'PENDING';
create index transactions_unsynced_idx on credits.transactions (id) where not synced_to_supabase and status = 'COMPLETED';
create index transactions_related_idx on credits.transactions (related_id) where related_id is not null;

-- A hold is opened by one entry and closed by one other.
create table credits.holds (
  id bigint generated always as identity primary key,
  user_id uuid not null,
  amount bigint not null,
  captured bigint not null default 0,
  opened_seq bigint not null,
  closed_seq bigint,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  closed_at timestamptz,
  status text not null default 'open',
  reason text,
  constraint hold_positive check (amount > 0),
  constraint hold_status_known check (status in ('open', 'captured', 'released', 'expired')),
  constraint hold_closed_whole check (num_nonnulls(closed_seq, closed_at, reason) = case status when 'open' then 0 else 3 end),
  constraint hold_captured_within check (case status when 'captured' then captured between 1 and amount else captured = 0 end),
  constraint hold_closed_in_time check (case status when 'captured' then closed_at < expires_at when 'expired' then closed_at >= expires_at else true end),
  constraint hold_expires_later check (expires_at > created_at and isfinite(expires_at))
) with (fillfactor = 70);
comment on table credits.holds is 'Credits set aside. status: open, then once captured, released or expired.';
comment on column credits.holds.captured is 'How much of it was charged; the rest was released by the same entry.';
comment on column credits.holds.opened_seq is 'The seq of the account''s entry that opened it; closed_seq, of the one that closed it.';
comment on column credits.holds.expires_at is 'From this moment on it can not be captured, and does not keep credits from a charge.';
comment on column credits.holds.reason is 'Why it was closed, in the ledger''s words; the caller''s words are in the entry.';
create index holds_expiry_idx on credits.holds (expires_at, id) where status = 'open';
create index holds_user_idx on credits.holds (user_id, status);

create table analytics.credit_usage (
  transaction_id bigint primary key,
  user_id uuid not null,
  type text not null,
  amount bigint not null,
  held_amount bigint not null,
  balance_after bigint not null,
  endpoint text,
  period date,
  created_at timestamptz not null,
  completed_at timestamptz not null,
  synced_at timestamptz not null
);
comment on table analytics.credit_usage is
  'Completed entries, each once, as the task credits.sync_credit_usage_with_supabase handed them over. Without the free text, so that blanking it in the ledger leaves no copy.';
