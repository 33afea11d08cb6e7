-- What the ledger needs beside its books: entries that a target of the sync refused, and what end users may do for themselves. And two
-- indexes that can not be mistaken for another. Writers wait while these are made.
-- +goose Up

-- By user and key, and by user and month, are looked for through uuid_send(user_id), which no other index has. With user_id itself the
-- index by user and seq seemed as good, once statistics said that users have few entries each, and a charge of the one user who has many
-- read all of them: 13 times slower after 12,000.
drop index credits.transactions_key_key;
create unique index transactions_key_key on credits.transactions (uuid_send(user_id), idempotency_key) where idempotency_key is not null;
drop index credits.transactions_one_allocation_a_month;
create unique index transactions_one_allocation_a_month on credits.transactions (uuid_send(user_id), period) where period is not null;

create table credits.sync_refusals (
  transaction_id bigint primary key,
  target text not null,
  reason text not null,
  attempts integer not null default 1,
  refused_at timestamptz not null,
  retried_at timestamptz,
  constraint sync_refusal_counted check (attempts > 0)
);
comment on table credits.sync_refusals is
  'Completed entries that a target of the sync has refused, each set aside so that it holds up no other. credits.retry_refused() hands them over again.';
comment on column credits.sync_refusals.target is 'Which target, without its secrets.';
comment on column credits.sync_refusals.reason is 'What the target said.';
comment on column credits.sync_refusals.attempts is 'How often it was refused.';
comment on column credits.sync_refusals.refused_at is 'The last time.';
comment on column credits.sync_refusals.retried_at is 'When retry_refused() let it go again, since it was refused last; null: it is set aside. The row goes when the target has the entry.';

create table credits.own_operations (
  operation text primary key,
  allowed_at timestamptz not null,
  allowed_by text not null,
  constraint own_operation_known check (operation in ('charge', 'hold', 'capture', 'release'))
);
comment on table credits.own_operations is
  'Which operations end users may call for their own account, through credits.my_charge and so on. Empty: none. Write through credits.allow_own.';
