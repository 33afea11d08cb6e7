-- pgtick, schema 11, as a migration for "supabase db push". Written by "make supabase" (in your own project: pgtick migrate sql --supabase);
-- do not edit it. It installs pgtick, or brings it up to date, from any state; "pgtick migrate" and this file may follow each other.

do $pgtick$
begin
  perform set_config('search_path', '', true), set_config('client_min_messages', 'notice', true), set_config('statement_timeout', '0', true),
    set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '0', true);
end
$pgtick$;

-- steps/first.sql
do $pgtick$
begin
  perform set_config('pgtick.part_1', $part$
-- Before anything is changed: what would stop a migrate halfway, each with the remedy.
do $$
declare
  v_found record;
  v_me constant text := quote_ident(current_user);
begin
  for v_found in
    select s.name from unnest('{pgtick,credits,analytics}'::text[]) with ordinality as s(name, n)
    where to_regnamespace(s.name) is null and not has_database_privilege(current_database(), 'create') order by s.n
  loop
    raise exception using errcode = 'TK000', message = format('schema %s is missing, and %s may create none in database %I', v_found.name, v_me, current_database()),
      hint = format('As one who may: grant create on database %I to %s', current_database(), v_me);
  end loop;
  for v_found in
    select n.nspname as name, n.nspowner::regrole as owner from pg_catalog.pg_namespace as n
    where n.nspname in ('pgtick', 'credits', 'analytics') and not pg_has_role(n.nspowner, 'usage') order by n.nspname = 'pgtick' desc
  loop
    raise exception using errcode = 'TK000', message = format('schema %I belongs to %s, and %s may not change it', v_found.name, v_found.owner, v_me),
      hint = format('Migrate as %s; or as one who may: alter schema %I owner to %s', v_found.owner, v_found.name, v_me);
  end loop;
  for v_found in
    select o.kind, o.name, o.owner::regrole as owner from (
      select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, c.oid::regclass::text, c.relowner from pg_catalog.pg_class as c
      where c.relnamespace in (to_regnamespace('pgtick'), to_regnamespace('credits')) and c.relkind in ('r', 'p', 'v', 'S')
      union all
      select 'routine', p.oid::regprocedure::text, p.proowner from pg_catalog.pg_proc as p
      where p.pronamespace in (to_regnamespace('pgtick'), to_regnamespace('credits')) and p.prokind <> 'a'
    ) as o(kind, name, owner)
    where not pg_has_role(o.owner, 'usage') order by o.name limit 1
  loop
    raise exception using errcode = 'TK000', message = format('%s %s belongs to %s, and %s may not change it', v_found.kind, v_found.name, v_found.owner, v_me),
      hint = format('Migrate as %s; or as one who may: alter %s %s owner to %s (and so for all others of %1$s)', v_found.owner, v_found.kind, v_found.name, v_me);
  end loop;
end
$$;
$part$, true);
end
$pgtick$;

-- migrations/00001_queue.sql
do $pgtick$
begin
  perform set_config('pgtick.part_2', $part$
-- The queue: live jobs, their history, the runners and what wakes them. Creates only; no lock that anybody could wait for.

-- One value a claim call, for all the jobs that it gives out. It only rises, so a report under an older one is known to be late.
create sequence pgtick.fence_seq as bigint;
comment on sequence pgtick.fence_seq is 'The next fence: a new one for each claim call.';

-- Waiting and running jobs, and only those: finishing a job moves it to history, so this table and its indexes stay small.
-- It has no state column: runner_id is null = waiting, otherwise running. A claim changes only columns that are in no index and no
-- predicate, and half of each page is left free for it, so that it is a HOT update (measured: a third faster, and no index bloat).
create table pgtick.live_jobs (
  id bigint generated always as identity primary key,
  task text not null,
  queue text not null,
  priority smallint not null,
  run_at timestamptz not null,
  attempt integer not null default 0,
  uncounted integer not null default 0,
  max_attempts integer not null,
  losses smallint not null default 0,
  deaths smallint not null default 0,
  timeout interval not null,
  args jsonb not null,
  owner_id uuid,
  schedule_id bigint,
  slot timestamptz,
  created_at timestamptz not null,
  runner_id bigint,
  fence bigint,
  started_at timestamptz,
  earlier_attempts jsonb,
  -- Two constraints, not ten: each one is read anew for every statement and costs an insert some 10 µs.
  constraint live_job_lawful check (
    priority between 0 and 9 and max_attempts > 0 and uncounted between 0 and attempt and deaths between 0 and losses
    and timeout > interval '0' and jsonb_typeof(args) = 'object' and (slot is null) = (schedule_id is null)
    and length(task) between 1 and 200 and length(queue) between 1 and 200 and run_at > '-infinity'),
  constraint live_job_claimed_whole check ((runner_id is null) = (started_at is null) and (runner_id is null or fence is not null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 5000);
comment on table pgtick.live_jobs is 'Waiting and running jobs. Read pgtick.jobs instead; write through the functions.';
comment on column pgtick.live_jobs.attempt is 'Claims so far, the present one included.';
comment on column pgtick.live_jobs.uncounted is 'How many of those do not count towards max_attempts: snoozed, released after a start, or lost with their runner.';
comment on column pgtick.live_jobs.losses is 'How often rescue() took this job from a dead runner. From the second time on it is a suspect.';
comment on column pgtick.live_jobs.deaths is 'How many runners died while this job was their one suspect. At 3 it fails.';
comment on column pgtick.live_jobs.fence is 'Of the present claim; on a waiting job, of the last report that put it back (so that the report can be repeated).';
comment on column pgtick.live_jobs.earlier_attempts is 'The attempts that did not end the job, oldest first, the latest 100: attempt, started_at, finished_at, runner_id, outcome, error.';

-- A lane is (task, queue, priority): a claim steps from lane to lane, so jobs of a task that nobody serves are never walked over.
create index live_jobs_lane_idx on pgtick.live_jobs (task, queue, priority, run_at, id);
-- Suspects are claimed one at a time, so they are looked for apart. The predicate's column never changes in a claim: it stays HOT.
create index live_jobs_suspect_idx on pgtick.live_jobs (task, queue, run_at, id) where losses >= 2;
-- A second belt for "each slot once", and the way to a schedule's live job.
create unique index live_jobs_slot_key on pgtick.live_jobs (schedule_id, slot) where schedule_id is not null;
create index live_jobs_owner_idx on pgtick.live_jobs (owner_id, created_at) where owner_id is not null;

-- Finished jobs. Partitioned by the day on which a row expires, so that retention drops partitions and deletes nothing.
-- maintain() makes the partitions ahead; the default one catches what it has not yet made, so that a finish never fails for it.
create table pgtick.history (
  id bigint not null,
  task text not null,
  queue text not null,
  priority smallint not null,
  state text not null,
  run_at timestamptz not null,
  attempt integer not null,
  uncounted integer not null,
  max_attempts integer not null,
  losses smallint not null,
  deaths smallint not null,
  timeout interval not null,
  args jsonb not null,
  owner_id uuid,
  schedule_id bigint,
  slot timestamptz,
  created_at timestamptz not null,
  runner_id bigint,
  fence bigint,
  started_at timestamptz,
  finished_at timestamptz not null,
  result jsonb,
  error jsonb,
  done real,
  note text,
  earlier_attempts jsonb,
  expires_on date not null,
  constraint history_state_final check (state in ('done', 'failed', 'cancelled'))
) partition by range (expires_on);
comment on table pgtick.history is 'Finished jobs until they expire. Read pgtick.jobs instead.';
comment on column pgtick.history.runner_id is 'The runner of the last attempt; null where none ever ran.';
comment on column pgtick.history.fence is 'The fence under which the job was finished; null where rescue(), cancel() or a timeout ended it, so that no report can claim to have done so.';
comment on column pgtick.history.expires_on is 'The day (UTC) on which maintain() drops this row: 7 days after the end of a done job, 30 of any other.';
create table pgtick.history_default partition of pgtick.history default;
create index history_id_idx on pgtick.history (id);
create index history_owner_idx on pgtick.history (owner_id, finished_at) where owner_id is not null;
create index history_task_idx on pgtick.history (task, finished_at);

-- What is said about a running job by others than its task's transaction. A row of its own and no foreign key, so that neither
-- a progress report nor a cancel request waits for a task that holds the live row, nor the other way round.
create table pgtick.job_notes (
  job_id bigint primary key,
  done real,
  note text,
  checkpoint jsonb,
  noted_at timestamptz,
  cancel_requested_at timestamptz,
  cancel_requested_by text,
  constraint job_note_done_is_share check (done between 0 and 1)
) with (fillfactor = 70);
comment on table pgtick.job_notes is 'Progress, checkpoint and cancel request of live jobs, at most a row each.';

-- The lease is the runner's, not the job's: one row to renew, however many jobs it runs.
create table pgtick.runner_leases (
  id bigint generated always as identity primary key,
  name text not null,
  queues text[] not null,
  tasks text[] not null,
  version text,
  lease interval not null,
  lease_until timestamptz not null,
  registered_at timestamptz not null,
  heartbeat_at timestamptz not null,
  suspected_at timestamptz,
  suspect_job_id bigint,
  wakes boolean,
  ended_at timestamptz,
  ended_as text,
  freed_at timestamptz,
  constraint runner_named check (length(name) between 1 and 200),
  constraint runner_lease_within check (lease between interval '1 second' and interval '1 hour'),
  constraint runner_ended_whole check ((ended_at is null) = (ended_as is null) and ended_as in ('left', 'dead') and (freed_at is null or ended_at is not null))
) with (fillfactor = 50);
comment on table pgtick.runner_leases is 'Runners, one row a registration, kept for a while after their end. Read pgtick.runners instead.';
comment on column pgtick.runner_leases.suspected_at is 'When rescue() first found the lease run out, with no heartbeat since.';
comment on column pgtick.runner_leases.suspect_job_id is 'The last job of the suspects'' list that this runner took: its death counts against that job alone.';
comment on column pgtick.runner_leases.wakes is 'Whether a NOTIFY reaches this runner: false = it only polls (a pooler in transaction mode); null = not known yet.';
comment on column pgtick.runner_leases.freed_at is 'When the last claim of the ended runner was given back; until then rescue() looks for them.';
create index runner_leases_open_idx on pgtick.runner_leases (id) where freed_at is null;   -- a heartbeat changes no column of it: HOT

-- Runners that sleep, and until when. Enqueuers only read it; a runner writes its own rows. Without it each enqueue would have to
-- notify, and NOTIFY takes a lock over the whole server at commit (measured: 12,300 enqueues a second with it, 4,300 without).
create table pgtick.sleepers (
  queue text not null,
  runner_id bigint not null references pgtick.runner_leases (id) on delete cascade,
  until timestamptz not null,
  primary key (queue, runner_id)
) with (fillfactor = 50);
comment on table pgtick.sleepers is 'Which runner sleeps on which queue, and until when; in the past: it is awake. register() makes the rows, so that wake() can see one being changed.';
create index sleepers_runner_idx on pgtick.sleepers (runner_id);

create table pgtick.addresses (
  address text primary key,
  adopted_at timestamptz not null,
  adopted_by text not null
);
comment on table pgtick.addresses is 'Where this database may be worked on: host or Supabase project, and database name. A runner elsewhere stops, so that no copy calls production''s webhooks.';

create table pgtick.installed (
  kind text not null,
  name text not null,
  installed_at timestamptz not null,
  primary key (kind, name)
);
comment on table pgtick.installed is 'What migrate has ever installed beside the schema (schedules, the pg_cron entry), so that it never puts back what a user has changed or removed.';

create table pgtick.applied_sql (
  only_row boolean primary key default true,
  hash text not null,
  api_roles text[] not null,
  applied_at timestamptz not null,
  constraint applied_sql_one_row check (only_row)
);
comment on table pgtick.applied_sql is 'Which state of sql/ is in force, and for which of the roles that get rights, where they exist, it was granted.';

create table pgtick.clocks (
  clock text primary key,
  ticked_at timestamptz not null
) with (fillfactor = 50);
comment on table pgtick.clocks is 'When each kind of clock (pg_cron, runner, other) last called tick(), to the second.';

create table pgtick.upkeep (
  what text primary key,
  done_at timestamptz not null,
  problem text
);
comment on table pgtick.upkeep is 'When each kind of upkeep was last done, and what it could not do.';
$part$, true);
end
$pgtick$;

-- migrations/00002_schedules.sql
do $pgtick$
begin
  perform set_config('pgtick.part_3', $part$
-- Schedules, every change of them, and what became of each slot. Creates only; no lock that anybody could wait for.

-- A cron expression is parsed once, when it is stored; the next slot is then found by jumps over bits (4 to 12 µs, measured).
create type pgtick.cron as (
  every_seconds integer,   -- set for @every; then all others are null
  minutes bit(60),         -- bit 1 is minute 0
  hours bit(24),           -- bit 1 is hour 0
  days bit(31),            -- bit 1 is day 1
  last_day boolean,        -- L or $
  months bit(12),          -- bit 1 is January
  weekdays bit(42),        -- the week, Sunday first, six times over: one substring lays it over any month
  either_day boolean,      -- a day matches by either field; otherwise it must match both
  elapsed boolean          -- elapsed time rules; otherwise fixed times with on_gap and on_fold
);
comment on type pgtick.cron is 'A parsed cron expression: one bit for each minute, hour, day, month and weekday, and how they combine.';

create table pgtick.schedule_defs (
  id bigint generated always as identity primary key,
  name text not null unique,
  version integer not null default 1,
  cron text not null,
  parsed pgtick.cron not null,
  time_zone text not null,
  task text not null,
  args jsonb not null,
  queue text not null,
  priority smallint not null,
  max_attempts integer not null,
  timeout interval not null,
  on_missed text not null,
  catch_up_limit integer not null,
  catch_up_window interval,
  on_overlap text not null,
  on_gap text not null,
  on_fold text not null,
  jitter interval not null,
  starts_at timestamptz,
  ends_at timestamptz,
  must_finish_within interval,
  owner_id uuid,
  next_at timestamptz,
  paused_at timestamptz,
  paused_until timestamptz,
  removed_at timestamptz,
  broken_at timestamptz,
  broken_why text,
  retry_at timestamptz,
  created_at timestamptz not null,
  constraint schedule_named check (length(name) between 1 and 200),
  constraint schedule_policies_known check (
    on_missed in ('skip', 'once', 'all') and on_overlap in ('skip', 'allow', 'cancel', 'wait')
    and (on_missed <> 'all' or on_overlap in ('allow', 'wait')) and on_gap in ('run', 'skip') and on_fold in ('first', 'last', 'both')),
  constraint schedule_lawful check (
    priority between 0 and 9 and max_attempts > 0 and timeout > interval '0' and jsonb_typeof(args) = 'object'
    and catch_up_limit between 0 and 10000 and jitter >= interval '0' and starts_at < ends_at),
  constraint schedule_removed_has_no_next check (removed_at is null or next_at is null),
  constraint schedule_broken_whole check ((broken_at is null) = (broken_why is null) and (broken_at is null) = (retry_at is null) and (broken_at is null or next_at is not null)),
  constraint schedule_pause_has_start check (paused_until is null or paused_at is not null)
) with (fillfactor = 50);
comment on table pgtick.schedule_defs is 'Schedules in their present version. Read pgtick.schedules instead; write through the functions.';
comment on column pgtick.schedule_defs.next_at is 'The first slot not yet accounted for; null when none is to come.';
comment on column pgtick.schedule_defs.retry_at is 'When tick tries a broken schedule again. next_at stays the first slot not accounted for, so that none is lost.';
comment on column pgtick.schedule_defs.removed_at is 'When it was unscheduled. The row stays, so that its slots keep their name; scheduling the name again brings it back.';
comment on column pgtick.schedule_defs.broken_why is 'Why the last tick could not account for this schedule; the others went on.';
-- In the order in which tick takes them. A broken schedule queues by its next try, so that no number of them starves the others.
create index schedule_defs_due_idx on pgtick.schedule_defs ((coalesce(retry_at, next_at))) where next_at is not null;

create table pgtick.schedule_changes (
  schedule_id bigint not null references pgtick.schedule_defs (id),
  version integer not null,
  changed_at timestamptz not null,
  changed_by text not null,
  what text not null,
  definition jsonb not null,
  reason text,
  primary key (schedule_id, version),
  constraint schedule_change_known check (what in ('created', 'changed', 'paused', 'resumed', 'renamed', 'removed', 'moved'))
);
comment on table pgtick.schedule_changes is 'Each version of each schedule: from when it applied, who made it, and all its settings. Read pgtick.schedule_versions instead.';
comment on column pgtick.schedule_changes.changed_at is 'From this moment the version applies: slots up to it are accounted for under the one before.';

-- One row a slot, whichever clock called and however many did. Partitioned by the day of the slot; maintain() drops what is older than 60 days.
create table pgtick.slot_log (
  schedule_id bigint not null,
  slot timestamptz not null,
  last_slot timestamptz,
  slots integer not null default 1,
  fate text not null,
  version integer not null,
  reason text,
  job_id bigint,
  recorded_at timestamptz not null,
  clock text,
  primary key (schedule_id, slot),
  constraint slot_fate_known check (
    fate in ('enqueued', 'caught_up', 'run_now', 'skipped_paused', 'skipped_overlap', 'missed', 'missed_range', 'skipped_range')),
  constraint slot_range_whole check ((fate in ('missed_range', 'skipped_range')) = (last_slot is not null) and slots > 0 and (slots = 1 or last_slot is not null)),
  constraint slot_job_named check ((fate in ('enqueued', 'caught_up', 'run_now')) = (job_id is not null))
) partition by range (slot);
comment on table pgtick.slot_log is 'What became of each slot of each schedule. Read pgtick.slots instead.';
comment on column pgtick.slot_log.clock is 'Which kind of clock called: pg_cron, runner or other.';
comment on column pgtick.slot_log.last_slot is 'For a range of slots passed over in one outage: its last one; slot is its first.';
create table pgtick.slot_log_default partition of pgtick.slot_log default;
$part$, true);
end
$pgtick$;

-- migrations/00003_credits.sql
do $pgtick$
begin
  perform set_config('pgtick.part_4', $part$
-- The credit ledger: accounts, their entries and holds, and what the four credit tasks need. Creates only; no lock that anybody could wait for.

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
$part$, true);
end
$pgtick$;

-- migrations/00004_overlap_and_outages.sql
do $pgtick$
begin
  perform set_config('pgtick.part_5', $part$
-- Jobs that wait for an earlier job of their schedule, outages, deadlines, and where a schedule was declared. New columns are null, so no
-- table is written anew; the one check on live jobs is made anew in a single pass over them, since each further one would cost every insert.

alter table pgtick.live_jobs add column blocked_by text;
comment on column pgtick.live_jobs.blocked_by is 'What it waits for besides its time: overlap (an earlier job of its schedule). Then run_at is infinity.';
alter table pgtick.live_jobs drop constraint live_job_claimed_whole;
alter table pgtick.live_jobs add constraint live_job_claimed_whole check (
  (runner_id is null) = (started_at is null) and (runner_id is null or fence is not null)
  and (blocked_by is null or (blocked_by = 'overlap' and schedule_id is not null and run_at = 'infinity' and runner_id is null)));
-- No claim changes a column of it, so a claim stays a HOT update.
create index live_jobs_overlap_idx on pgtick.live_jobs (schedule_id, slot) where blocked_by = 'overlap';

alter table pgtick.schedule_defs add column source text;
comment on column pgtick.schedule_defs.source is 'What declared it, such as a file (pgtick schedules apply --source); null = a call by hand.';
alter table pgtick.schedule_defs add column told_until timestamptz;
comment on column pgtick.schedule_defs.told_until is 'Up to here slots after next_at may have rows already: the clock was set back, and the schedule changed then. Null = that never was.';
-- The deadlines are checked often, and most schedules have none.
create index schedule_defs_deadline_idx on pgtick.schedule_defs (id) where must_finish_within is not null and removed_at is null;

alter table pgtick.slot_log add column cause text;
comment on column pgtick.slot_log.cause is 'The kind of the reason, for programs: server_down, no_clock, late, broken, paused, overlap; null where there is none.';
alter table pgtick.slot_log add constraint slot_cause_known check (cause in ('server_down', 'no_clock', 'late', 'broken', 'paused', 'overlap'));

create table pgtick.outages (
  began_at timestamptz primary key,
  ended_at timestamptz not null,
  server_started_at timestamptz,
  constraint outage_lasts check (began_at < ended_at)
);
comment on table pgtick.outages is 'Times of more than 2 minutes in which no clock ticked, noted by the tick that ended them; kept as long as slots.';
comment on column pgtick.outages.began_at is 'The last tick before.';
comment on column pgtick.outages.ended_at is 'The first tick after.';
comment on column pgtick.outages.server_started_at is 'When the server was started within that time: what lies before counts as server_down. Null = it ran all the time.';
create index outages_ended_idx on pgtick.outages (ended_at);

create table pgtick.overdue (
  schedule_id bigint primary key references pgtick.schedule_defs (id),
  slot timestamptz not null,
  found_at timestamptz not null
);
comment on table pgtick.overdue is 'Schedules that had no done job within must_finish_within when a clock last looked (pgtick.check_deadlines).';
comment on column pgtick.overdue.slot is 'The newest slot whose time is up.';

create table pgtick.settings (
  name text primary key,
  value jsonb not null,
  set_at timestamptz not null,
  set_by text not null
);
comment on table pgtick.settings is 'Settings that differ from their defaults: slot_retention_days. Write through the functions.';
$part$, true);
end
$pgtick$;

-- migrations/00005_queue_core.sql
do $pgtick$
begin
  perform set_config('pgtick.part_6', $part$
-- What a job may say of itself (unique, retried by a policy of its own), what people may say of queues and tasks (paused, retention, retry
-- policy), and the record of what they did. New columns are null, so no table is written anew.

alter table pgtick.live_jobs add column uniqueness jsonb, add column retry_policy jsonb;
comment on column pgtick.live_jobs.uniqueness is 'Of a unique job: key, states (in which another one with this key is not enqueued) and until (infinity = as long as it is in one of them). See pgtick.unique_keys.';
comment on column pgtick.live_jobs.retry_policy is 'When to try again after an error; null = as its task''s policy says, or the default.';
alter table pgtick.history add column uniqueness jsonb, add column retry_policy jsonb;
comment on column pgtick.history.expires_on is 'The day (UTC) on which maintain() drops this row: 7 days after the end of a done job, 30 of any other, or as set_retention said when it ended; the first of a month where that is more than 40 days off.';
-- A lane's last column is id + 0, so that nobody who looks for an id may be given this index: it would be read from end to end for each
-- look. (A plan that was made while the table was empty did so, since all indexes cost the same then, and was kept.)
drop index pgtick.live_jobs_lane_idx;
create index live_jobs_lane_idx on pgtick.live_jobs (task, queue, priority, run_at, (id + 0));
-- Failed and cancelled jobs are few, and looked for by state; done ones are nearly all, so an index would not help to find them.
create index history_state_idx on pgtick.history (state, finished_at) where state <> 'done';

-- Uniqueness cannot be an index on jobs: it may outlive the job's row in live_jobs, and history has no unique index across its partitions.
create table pgtick.unique_keys (
  task text not null,
  key text not null,
  job_id bigint not null,
  states text[] not null,
  until timestamptz not null,
  ended_as text,
  primary key (task, key)
) with (fillfactor = 70);
comment on table pgtick.unique_keys is 'Which job holds a unique key of its task. A row whose job is in none of the states any more, or whose time is past, holds nothing: the next enqueue takes it over, and maintain() deletes it.';
-- The end of a job finds its key by it.
create index unique_keys_job_idx on pgtick.unique_keys (job_id);
comment on column pgtick.unique_keys.states is 'In these states of the job no other one with this key is enqueued.';
comment on column pgtick.unique_keys.until is 'After this moment the key is free whatever the job''s state; infinity = never by time.';
comment on column pgtick.unique_keys.ended_as is 'The state in which the job has ended, where its end could note it; null = look at the job.';

create table pgtick.paused_queues (
  queue text primary key,
  paused_at timestamptz not null,
  paused_by text not null,
  reason text
);
comment on table pgtick.paused_queues is 'Queues of which no job is claimed, until pgtick.resume_queue deletes the row.';

create table pgtick.retry_policies (
  task text primary key,
  policy jsonb not null,
  set_at timestamptz not null,
  set_by text not null
);
comment on table pgtick.retry_policies is 'When to try jobs of a task again after an error, where that is not the default. Write through pgtick.set_retry_policy.';

create table pgtick.retentions (
  task text not null,
  queue text not null,
  state text not null,
  days integer not null,
  set_at timestamptz not null,
  set_by text not null,
  primary key (state, task, queue),
  constraint retention_state_final check (state in ('done', 'failed', 'cancelled')),
  constraint retention_within check (days between 1 and 400)
);
comment on table pgtick.retentions is 'How long finished jobs are kept where that is not the default. The empty name stands for every task, or queue. Write through pgtick.set_retention.';

create table pgtick.audit (
  id bigint generated always as identity primary key,
  at timestamptz not null,
  by_whom text not null,
  action text not null,
  subject text not null,
  details jsonb
);
comment on table pgtick.audit is 'What people did to queues and jobs: who, what, when. maintain() keeps it for 400 days.';
comment on column pgtick.audit.by_whom is 'The JWT''s subject, or the login role.';
comment on column pgtick.audit.action is 'The function that was called.';
comment on column pgtick.audit.subject is 'The queue, the task, the job''s id, or the filter.';
comment on column pgtick.audit.details is 'What was said or changed; how many jobs it met.';
create index audit_subject_idx on pgtick.audit (subject, at);

alter table pgtick.runner_leases add column workers integer, add column deadline_at timestamptz, add column refused bigint not null default 0,
  add constraint runner_workers_positive check (workers > 0);
comment on column pgtick.runner_leases.workers is 'How many attempts it runs at a time; null = it did not say.';
comment on column pgtick.runner_leases.deadline_at is 'The earliest end of a timeout among the claims it named in its last heartbeat; infinity = it has none; null = it named none, so rescue() looks by itself.';
comment on column pgtick.runner_leases.refused is 'Reports that came under an old fence.';
$part$, true);
end
$pgtick$;

-- migrations/00006_ledger.sql
do $pgtick$
begin
  perform set_config('pgtick.part_7', $part$
-- What the ledger needs beside its books: entries that a target of the sync refused, and what end users may do for themselves. And two
-- indexes that can not be mistaken for another. Writers wait while these are made.

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
$part$, true);
end
$pgtick$;

-- migrations/00007_functions.sql
do $pgtick$
begin
  perform set_config('pgtick.part_8', $part$
-- Which functions of the owner's the task sql may call.

create table pgtick.allowed_functions (
  name text primary key,
  function text not null,
  as_role name not null,
  allowed_at timestamptz not null,
  allowed_by text not null
);
comment on table pgtick.allowed_functions is 'Functions and procedures that jobs of the task sql may call. Write through pgtick.allow_function and disallow_function.';
comment on column pgtick.allowed_functions.name is 'schema.name, as args.function has it.';
comment on column pgtick.allowed_functions.function is 'The same with the types of its parameters: as text, so that it outlives a function that is dropped and made anew.';
comment on column pgtick.allowed_functions.as_role is 'The role that it runs as.';
$part$, true);
end
$pgtick$;

-- migrations/00008_ties.sql
do $pgtick$
begin
  perform set_config('pgtick.part_9', $part$

-- Jobs that wait for others (after, children, batches, sequences), limits, gates, and the trace that a job belongs to.

alter table pgtick.live_jobs
  add column wanted_at timestamptz,
  add column after_jobs bigint[],
  add column after_any boolean,
  add column batch_id bigint,
  add column sequence_key text,
  add column sequence_skips boolean,
  add column came_back boolean,
  add column limit_key text,
  add column reservation text,
  add column trace_context jsonb;
comment on column pgtick.live_jobs.blocked_by is
  'What it waits for besides its time: overlap (an earlier job of its schedule), after (jobs of its own choice), batch (the jobs of the batch whose callback it is), sequence (an earlier job with its sequence key), limit (a place among those of its limit key that may run). Then run_at is infinity.';
comment on column pgtick.live_jobs.wanted_at is 'Of a blocked job: when it is to run once nothing is in its way.';
comment on column pgtick.live_jobs.after_jobs is 'The jobs that it was to wait for, those that have ended included.';
comment on column pgtick.live_jobs.after_any is 'Whether their outcome does not matter to it.';
comment on column pgtick.live_jobs.batch_id is 'The batch that it is part of.';
comment on column pgtick.live_jobs.sequence_key is 'Jobs with the same key run one at a time, in the order of their ids.';
comment on column pgtick.live_jobs.sequence_skips is 'Whether its sequence goes on when it fails or is cancelled.';
comment on column pgtick.live_jobs.came_back is 'true: retried by hand, so that later jobs of its sequence may be running already.';
comment on column pgtick.live_jobs.limit_key is 'What it counts for under the limits by key of its task.';
comment on column pgtick.live_jobs.reservation is 'The rate limiter''s mark: run_at is a time that it has kept for this job.';
comment on column pgtick.live_jobs.trace_context is 'The trace in which it was enqueued, as a W3C carrier: traceparent, tracestate.';

alter table pgtick.history
  add column after_jobs bigint[],
  add column after_any boolean,
  add column batch_id bigint,
  add column sequence_key text,
  add column sequence_skips boolean,
  add column limit_key text,
  add column trace_context jsonb;

-- Short: its text is read anew for each statement. With the kinds of block in it, an enqueue took a fifth longer (66 us in place of 56).
alter table pgtick.live_jobs drop constraint live_job_claimed_whole;
alter table pgtick.live_jobs add constraint live_job_claimed_whole check (
  (runner_id is null) = (started_at is null) and (runner_id is null or fence is not null)
  and (blocked_by is null or (run_at = 'infinity' and runner_id is null and (wanted_at is null) = (schedule_id is not null and blocked_by = 'overlap'))));

-- id + 0, as in the lane's index: who looks for one of them in the order of ids is never given the primary key, which would be read from
-- end to end.
create index live_jobs_blocked_idx on pgtick.live_jobs ((id + 0)) where blocked_by in ('after', 'batch', 'sequence');
create index live_jobs_batch_idx on pgtick.live_jobs (batch_id, (id + 0)) where batch_id is not null;
create index live_jobs_sequence_idx on pgtick.live_jobs (sequence_key, (id + 0)) where sequence_key is not null;
create index live_jobs_limit_idx on pgtick.live_jobs (task, limit_key, (id + 0)) where blocked_by = 'limit';
create index history_batch_idx on pgtick.history (batch_id) where batch_id is not null;

create table pgtick.job_links (
  on_job_id bigint not null,
  job_id bigint not null,
  any_outcome boolean not null,
  primary key (on_job_id, job_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
comment on table pgtick.job_links is 'Which live job waits for which other one to end; the row goes when that has ended.';
comment on column pgtick.job_links.any_outcome is 'false: it waits for that job to be done, and is cancelled when it fails or is cancelled.';
create index job_links_job_idx on pgtick.job_links (job_id);

create table pgtick.batch_defs (
  id bigint generated always as identity primary key,
  job_id bigint not null,
  any_outcome boolean not null,
  created_at timestamptz not null,
  finished_at timestamptz
);
comment on table pgtick.batch_defs is 'Batches: jobs whose common end starts another one, the callback. Read pgtick.batches instead.';
comment on column pgtick.batch_defs.job_id is 'The callback.';
comment on column pgtick.batch_defs.any_outcome is 'false: the callback is cancelled when a job of the batch has failed or was cancelled.';
comment on column pgtick.batch_defs.finished_at is 'When all its jobs had ended; from then on it takes no more.';
create index batch_defs_open_idx on pgtick.batch_defs (id) where finished_at is null;
create index batch_defs_job_idx on pgtick.batch_defs (job_id);

create table pgtick.sequences (
  key text primary key,
  stops bigint[],
  stopped_at timestamptz,
  constraint sequence_stopped_whole check ((stops is null) = (stopped_at is null) and stops <> '{}')
) with (fillfactor = 70);
comment on table pgtick.sequences is 'A row for each sequence key in use: who enqueues locks it, so that ids are in the order of the commits.';
comment on column pgtick.sequences.stops is 'The jobs that failed or were cancelled, in the order of their ids; each holds up those behind it until it is done after all (pgtick.retry), or resume_sequence.';
create index sequences_stopped_idx on pgtick.sequences (key) where stops is not null;

create table pgtick.limit_defs (
  task text not null,
  per_key boolean not null,
  rate bigint,
  period interval,
  burst bigint,
  max_running integer,
  declared boolean not null,
  set_at timestamptz not null,
  set_by text not null,
  primary key (task, per_key),
  constraint limit_rate_whole check ((rate is null) = (period is null) and (rate is null) = (burst is null)),
  constraint limit_positive check (rate > 0 and burst > 0 and period > interval '0' and max_running > 0 and (rate is not null or max_running is not null))
);
comment on table pgtick.limit_defs is 'How many jobs of a task may start in a time, and run at once; of all its jobs together, or of each limit_key. Write through pgtick.set_limit; read pgtick.limits.';
comment on column pgtick.limit_defs.declared is 'true: by a runner''s code (declare_task), which set_limit overrides.';

create table pgtick.limit_places (
  task text not null,
  key text not null,
  holders bigint[] not null,
  primary key (task, key)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table pgtick.limit_places is 'Who runs under a limit of how many may run at once: a row for each limit in use. The empty key stands for the whole task.';
comment on column pgtick.limit_places.holders is 'The running jobs'' ids.';

create table pgtick.unsettled (
  id bigint generated always as identity primary key,
  kind text not null,
  what text not null,
  sequence_key text,
  noted_at timestamptz not null
);
comment on table pgtick.unsettled is 'What the end of a job could not set free, since another session had it locked or there was too much of it; the next rescue() does.';
comment on column pgtick.unsettled.kind is 'What stands in what: job (an ended one), more (likewise; there was more than one transaction should do), batch, sequence, limit (a task).';
comment on column pgtick.unsettled.sequence_key is 'Until it is known whether this sequence is stopped, nothing of it is set free.';
create index unsettled_sequence_idx on pgtick.unsettled (sequence_key) where sequence_key is not null;

create table pgtick.gates (
  name text primary key,
  query text not null,
  set_at timestamptz not null,
  set_by text not null
);
comment on table pgtick.gates is 'Named queries that must return no row; tasks that name one in pgtick.task_rules cannot commit while it does. Write through pgtick.allow_gate.';

create table pgtick.task_rules (
  task text primary key,
  gates text[] not null default '{}',
  most_rows bigint,
  declared boolean not null,
  set_at timestamptz not null,
  set_by text not null,
  constraint task_most_rows_positive check (most_rows > 0)
);
comment on table pgtick.task_rules is 'What a transaction of a task has to keep to, to commit: gates, and the most rows that it may change. Write through pgtick.set_gates.';

alter table pgtick.runner_leases add column limits_local boolean;
comment on column pgtick.runner_leases.limits_local is 'true: it cannot reach Redis, so that all runners share out the rates among themselves; false: it can; null: it has no rate to keep.';
alter table pgtick.retry_policies add column declared boolean not null default false;
comment on column pgtick.retry_policies.declared is 'true: by a runner''s code (declare_task), which set_retry_policy overrides.';

-- Types of the functions' own.
create type pgtick.wish as (
  id bigint, task text, queue text, priority integer, run_at timestamptz, max_attempts integer, timeout interval, args jsonb, owner_id uuid, retry_policy jsonb,
  limit_key text, sequence_key text, sequence_failure text, after_jobs bigint[], after_outcome text, batch_id bigint, trace_context jsonb,
  unique_key text, unique_for interval, unique_states text[], on_conflict text
);
comment on type pgtick.wish is 'A job as it is asked for: the parameters of pgtick.enqueue.';
create type pgtick.ended as (
  id bigint, task text, state text, batch_id bigint, sequence_key text, sequence_skips boolean, limit_key text
);
comment on type pgtick.ended is 'A job that has just ended, with what may tie others to it.';
$part$, true);
end
$pgtick$;

-- migrations/00009_requests.sql
do $pgtick$
begin
  perform set_config('pgtick.part_10', $part$
-- Jobs that end users ask for themselves, and which tasks they may ask for. Creates only; no lock that anybody could wait for.

create table pgtick.allowed_tasks (
  task text primary key,
  quota integer not null,
  period interval not null,
  queue text not null,
  priority smallint not null,
  max_attempts integer not null,
  timeout interval not null,
  allowed_at timestamptz not null,
  allowed_by text not null,
  constraint allowed_task_quota_within check (quota between 1 and 1000000 and period between interval '1 second' and interval '31 days'),
  constraint allowed_task_job_lawful check (length(task) between 1 and 200 and length(queue) between 1 and 200 and priority between 0 and 9
    and max_attempts between 1 and 1000 and timeout > interval '0' and timeout <= interval '7 days')
);
comment on table pgtick.allowed_tasks is 'The tasks that end users may ask for by inserting into pgtick.requests. Write through pgtick.allow_task and disallow_task.';
comment on column pgtick.allowed_tasks.quota is 'How many requests each user has within the period.';
comment on column pgtick.allowed_tasks.queue is 'The job''s settings, from here on: the user chooses none of them.';

-- A row is counted by its place, which rises by one for each request of a user for a task: whether a place is free is one look at the row
-- that lies a quota before it, however large the quota is. The unique constraint stands behind the lock under which places are taken.
create table pgtick.requests (
  id bigint generated always as identity primary key,
  owner_id uuid not null,
  task text not null,
  args jsonb not null default '{}',
  run_at timestamptz,
  created_at timestamptz not null,
  job_id bigint not null,
  place bigint,
  constraint request_lawful check (length(task) between 1 and 200 and jsonb_typeof(args) = 'object' and octet_length(args::text) <= 65536
    and (run_at is null or isfinite(run_at))),
  constraint request_place_taken_once unique (owner_id, task, place)
);
comment on table pgtick.requests is 'What end users asked for: insert task, args and run_at, and the job is there when the transaction commits. For tasks that pgtick.allow_task allows. maintain() drops a row when no quota counts it any more, after seven days at the earliest; the job is kept as every other.';
comment on column pgtick.requests.owner_id is 'Who asked: the subject of the JWT.';
comment on column pgtick.requests.run_at is 'Null = at once.';
comment on column pgtick.requests.job_id is 'The job, as pgtick.my_jobs has it.';
comment on column pgtick.requests.place is 'The how-manieth request of this user for this task, among those that are kept. Set by the trigger that takes the request.';
-- maintain() finds by it what is old.
create index requests_created_idx on pgtick.requests (created_at);

alter table pgtick.allowed_tasks enable row level security;
alter table pgtick.requests enable row level security;
$part$, true);
end
$pgtick$;

-- migrations/00010_realtime.sql
do $pgtick$
begin
  perform set_config('pgtick.part_11', $part$
-- When a job's owner was last told of its progress. The new column is null, so no table is written anew.

alter table pgtick.job_notes add column announced_at timestamptz;
comment on column pgtick.job_notes.announced_at is 'When the job''s owner was last told of its progress by Realtime; null = not yet, or there is nobody to tell.';
comment on table pgtick.settings is 'Settings that differ from their defaults: slot_retention_days, realtime. Write through the functions.';
$part$, true);
end
$pgtick$;

-- migrations/00011_attempt_counts.sql
do $pgtick$
begin
  perform set_config('pgtick.part_12', $part$
-- What runners have finished, added up by time, for charts of all of them together. Creates a table; the new column's default is no value that
-- is stored, so no table is written anew, and the lock on the runners' rows is held for a moment.

-- Each attempt is counted in one row of each span. However many runners there are, a chart reads as many rows as it has points. Half of each page
-- stays free, so that a row that is added to stays where it is.
create table pgtick.attempt_counts (
  span interval not null,
  at timestamptz not null,
  done bigint not null,
  errors bigint not null,
  failed bigint not null,
  waited integer[] not null,
  ran integer[] not null,
  primary key (span, at),
  constraint attempt_count_span_known check (span in (interval '1 minute', interval '15 minutes', interval '2 hours')),
  constraint attempt_count_not_negative check (done >= 0 and errors >= 0 and failed >= 0)
) with (fillfactor = 50);
comment on table pgtick.attempt_counts is 'How many attempts ended in each stretch of time, and how long they waited and ran, as the runners said by count_attempts. maintain() keeps minutes for 3 hours, quarters of an hour for 2 days, and stretches of 2 hours for 15 days.';
comment on column pgtick.attempt_counts.span is 'The length of the stretch: 1 minute, 15 minutes or 2 hours. Each attempt is counted in one of each.';
comment on column pgtick.attempt_counts.at is 'Its beginning.';
comment on column pgtick.attempt_counts.errors is 'Those that are tried again.';
comment on column pgtick.attempt_counts.failed is 'Those after which the job has failed for good.';
comment on column pgtick.attempt_counts.waited is 'How many waited for a worker for how long: the first number counts those up to 0.1 ms, and each further one those up to 1.25 times as long as the one before; the 82nd all that waited longer.';
comment on column pgtick.attempt_counts.ran is 'How many ran for how long, likewise.';

alter table pgtick.runner_leases add column counted bigint not null default 0;
comment on column pgtick.runner_leases.counted is 'The number of its last report that count_attempts took.';

alter table pgtick.attempt_counts enable row level security;
$part$, true);
end
$pgtick$;

-- sql/00_base.sql
do $pgtick$
begin
  perform set_config('pgtick.part_13', $part$
-- What every other file stands on: the clock, how bad input is refused, and the three roles.

-- plpgsql, since a function in SQL with a search_path is not inlined but planned anew in each statement: some 10 µs.
create or replace function pgtick.now()
returns timestamptz
language plpgsql volatile parallel safe
set search_path = ''
as $$
begin
  return pg_catalog.clock_timestamp();
end
$$;
comment on function pgtick.now() is 'The one clock of pgtick, leases and credits included: the moment of the call, not of the transaction. Read it once, after the locks. Tests replace this function.';

-- Every refusal of a bad value leaves through here, so that each names the field, the value and what is allowed.
create or replace function pgtick.invalid(p_field text, p_value text, p_rule text, p_hint text default null)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK000',
    message = format('%s %s is refused: %s', left(p_field, 60), coalesce('"' || left(p_value, 100) || '"', 'null'), left(p_rule, 600)),
    hint = case when left(p_hint, 600) ~ '[[:alnum:]]' then left(p_hint, 600) else format('Give %s another value.', left(p_field, 60)) end;
end
$$;
comment on function pgtick.invalid(text, text, text, text) is 'Raise TK000 for a value that is not allowed.';

create or replace function pgtick.refuse_name(p_field text, p_name text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_name is null or length(p_name) not between 1 and 200 or p_name ~ E'[\\u0001-\\u001f\\u007f-\\u009f]' or btrim(p_name) = '' then
    perform pgtick.invalid(p_field, p_name, 'a name has 1 to 200 characters, not only blanks, and no control characters');
  end if;
end
$$;
comment on function pgtick.refuse_name(text, text) is 'Raise TK000 unless this may be the name of a task, a queue, a runner or a schedule.';

create or replace function pgtick.nearest_name(p_name text, p_names text[])
returns text
language sql immutable parallel safe
set search_path = ''
as $$
  select near.name
  from unnest(p_names) as near(name),
    lateral (select count(*) from generate_series(1, least(length(p_name), 200) - 1) as i
      where strpos(lower(near.name), lower(substr(p_name, i, 2))) > 0) as same(parts)
  where same.parts >= 2
  order by same.parts desc, abs(length(near.name) - length(p_name)), near.name
  limit 1
$$;
comment on function pgtick.nearest_name(text, text[]) is 'Which of these names looks most like this one, by the pairs of letters that they share; null where none does.';

-- Who asks: the end user of a Supabase request where there is one, otherwise the role that logged in. Any login can say what it likes in the
-- claims: beside those of one that is neither the API's nor the owner's, its own name stands as well.
create or replace function pgtick.caller()
returns text
language plpgsql stable parallel restricted
set search_path = ''
as $$
declare
  v_sub text;
begin
  begin
    v_sub := nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';
  exception when data_exception or program_limit_exceeded then   -- nobody's, so that nothing is recorded under a name that is not the caller's
    raise exception using errcode = 'TK024', message = 'request.jwt.claims is not JSON', hint = 'Set it to the claims of the user''s token, as PostgREST does, or to nothing.';
  end;
  return case
    when v_sub is null then session_user::text
    when session_user in ('authenticator', (select pg_catalog.pg_get_userbyid(n.nspowner) from pg_catalog.pg_namespace as n where n.nspname = 'pgtick')) then v_sub
    else format('%s (login %s)', v_sub, session_user)
  end;
end
$$;
comment on function pgtick.caller() is 'Who asks, for the record: the JWT''s subject, or the login role; both where the login is neither that of Supabase''s API nor the owner''s.';

-- definer: a dashboard writes down what an operator did with it, and writes no table.
create or replace function pgtick.note_action(p_action text, p_subject text, p_details jsonb default null)
returns void
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  insert into pgtick.audit (at, by_whom, action, subject, details) values (pgtick.now(), pgtick.caller(), p_action, p_subject, p_details)
$$;
comment on function pgtick.note_action(text, text, jsonb) is 'Write down what somebody did: who, what, when.';

-- The roles belong to the whole server. They get no login here: "alter role pgtick_runner login password …" is the owner's to say.
do $$
declare
  v_role text;
begin
  foreach v_role in array '{pgtick_runner,pgtick_reader,pgtick_operator}'::text[] loop
    begin   -- a block for each: what befalls one role is no reason to leave out the next, or to undo the one before
      if not exists (select from pg_catalog.pg_roles as r where r.rolname = v_role) then
        execute format('create role %I nologin', v_role);
      end if;
    exception
      when duplicate_object or unique_violation then null;   -- another database's migrate was faster
      when insufficient_privilege then
        raise notice 'pgtick: role % is missing and % may not create roles; as one who may: create role % nologin', v_role, current_user, v_role;
    end;
  end loop;
end
$$;

-- Whoever acts has to see what on: what readers may, operators may. (As a member of pgtick_reader an operator would depend on who made the roles.)
create or replace function pgtick.grant_to(p_roles text[], p_privilege text, p_objects text[])
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_role text;
  v_object text;
begin
  for v_role in
    select r.rolname from pg_catalog.pg_roles as r
    where r.rolname = any (p_roles) or r.rolname = 'pgtick_operator' and 'pgtick_reader' = any (p_roles)
    order by 1
  loop
    foreach v_object in array p_objects loop
      execute format('grant %s on %s to %I', p_privilege, v_object, v_role);
    end loop;
  end loop;
end
$$;
comment on function pgtick.grant_to(text[], text, text[]) is 'Grant a privilege on objects to those of the roles that exist, and what pgtick_reader gets to pgtick_operator as well. For migrate; p_privilege and p_objects are SQL text.';

-- The subject of somebody else's token need not be a UUID, and what a session has set by itself need not be JSON: it is told so here, since the policies
-- on every table call this first. (Restricted, since a parallel worker could not run the block with a handler.)
create or replace function pgtick.user_id()
returns uuid
language plpgsql stable parallel restricted
set search_path = ''
as $$
declare
  v_sub text;
begin
  begin
    v_sub := nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', '');
  exception when data_exception or program_limit_exceeded then
    raise exception using errcode = 'TK024', message = 'request.jwt.claims is not JSON', hint = 'Set it to the claims of the user''s token, as PostgREST does, or to nothing.';
  end;
  if v_sub !~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then
    raise exception using errcode = 'TK024', message = format('"%s", the subject of the token, is no UUID', left(v_sub, 100)),
      hint = 'Rows of an end user are known by a UUID: sign in with Supabase Auth, or have the token''s issuer put the user''s UUID into sub.';
  end if;
  return v_sub::uuid;
end
$$;
comment on function pgtick.user_id() is 'The end user of the present Supabase request: the JWT''s subject, as auth.uid() gives it; null outside of one. Raises TK024 where it is no UUID, or the claims are not JSON.';

-- One policy a table and role, made anew: a role may have come since.
create or replace function pgtick.allow_rows(p_role text, p_tables text[], p_condition text)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_table text;
begin
  if p_role = 'pgtick_reader' then perform pgtick.allow_rows('pgtick_operator', p_tables, p_condition); end if;
  if to_regrole(p_role) is null then return; end if;
  foreach v_table in array p_tables loop
    execute format('drop policy if exists %I on %s', 'read_' || p_role, v_table);
    execute format('create policy %I on %s for select to %I using (%s)', 'read_' || p_role, v_table, p_role, p_condition);
  end loop;
end
$$;
comment on function pgtick.allow_rows(text, text[], text) is 'Let a role, where it exists, read the rows of these tables that fulfil a condition; what pgtick_reader sees, pgtick_operator does as well. For migrate; the condition is SQL text.';
$part$, true);
end
$pgtick$;

-- sql/01_gone.sql
do $pgtick$
begin
  perform set_config('pgtick.part_14', $part$
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
$part$, true);
end
$pgtick$;

-- sql/10_cron.sql
do $pgtick$
begin
  perform set_config('pgtick.part_15', $part$
-- Cron: text -> parsed once -> next slot by jumps over bits. The type pgtick.cron is in migrations/00002_schedules.sql.
--
-- Rules in one place:
--   five fields: minute hour day-of-month month weekday; lists, ranges, steps, names in any case, 7 = Sunday, L or $ = last day.
--   day fields: a day must match both when either field's text starts with '*' (so also '*/2'), otherwise either one is enough.
--   elapsed time rules where the text of minute or hour holds '*' or '/': every real minute whose wall time matches.
--   otherwise the times are fixed: on_gap run (once, at the gap's end) | skip; on_fold first | last | both.
--   @every N / N seconds: multiples of N since 1970-01-01 00:00 UTC; no zone, no gap, no fold.
-- One idea makes the DST rules exact: "first" is the first moment at which the clock has reached a wall time, "last" the last moment
-- before which it had not. Both only ever move forward with the wall time, also over a fold, so the first hit is the next slot;
-- "both" is the earlier of the two, and elapsed time is "both" with gaps skipped.

-- 1. Parsing ---------------------------------------------------------------------------------------------------------------------

-- Texts are compared under collation "C", that is as ASCII: under that of a database the Kelvin sign may be a k and an em space a blank, and
-- what is accepted would hang on the database.

-- Every parse error leaves through here, so that each names the field, its place, the offending text and what is allowed.
create or replace function pgtick.cron_error(p_code text, p_cron text, p_field integer, p_token text, p_why text, p_hint text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_names constant text[] := '{minute,hour,day-of-month,month,weekday}';
  v_allowed constant text[] := array['minutes go from 0 to 59', 'hours go from 0 to 23',
    'days of the month go from 1 to 31, or L for the last', 'months go from 1 to 12 or JAN to DEC',
    'weekdays go from 0 to 7 (0 and 7 are Sunday) or SUN to SAT'];
  v_place integer := 0;
  v_before text;
begin
  if p_field is null then
    raise exception using errcode = p_code, message = format('cron %s: %s', coalesce('"' || left(p_cron, 200) || '"', 'null'), p_why),
      hint = p_hint;
  end if;
  -- the place: where the field starts, and within it the first list item with this text
  v_before := (regexp_match(p_cron collate "C", format(E'^(\\s*(?:\\S+\\s+){%s})', p_field - 1)))[1];
  v_place := length(v_before)
    + greatest(strpos(',' || (regexp_match(substr(p_cron, length(v_before) + 1) collate "C", E'^\\S+'))[1] || ',', ',' || p_token || ','), 1);
  raise exception using errcode = p_code,
    message = format('cron "%s": %s field "%s" (field %s, character %s): %s', left(p_cron, 200), v_names[p_field], p_token, p_field, v_place, p_why),
    detail = initcap(left(v_allowed[p_field], 1)) || substr(v_allowed[p_field], 2) || '.',
    hint = p_hint;
end
$$;
comment on function pgtick.cron_error(text, text, integer, text, text, text) is 'Raise the error for a malformed cron expression.';

-- One number or name of a field; raises when it is neither, or out of range.
create or replace function pgtick.cron_number(p_cron text, p_field integer, p_item text, p_text text)
returns integer
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_lows constant integer[] := '{0,0,1,1,0}';
  v_highs constant integer[] := '{59,23,31,12,7}';
  v_names constant text := case p_field when 4 then 'janfebmaraprmayjunjulaugsepoctnovdec' when 5 then 'sunmontuewedthufrisat' else '' end;
  v_low constant integer := v_lows[p_field];
  v_high constant integer := v_highs[p_field];
  v_number integer;
  v_at integer;
begin
  if p_text ~ '^[0-9]{1,9}$' then
    v_number := p_text::integer;
    if v_number between v_low and v_high then return v_number; end if;
    perform pgtick.cron_error('TK012', p_cron, p_field, p_item, format('%s is out of range %s-%s', p_text, v_low, v_high),
      case when p_field = 1 and v_number = 60 then 'For the full hour write minute 0.'
           when p_field = 2 and v_number = 24 then 'Midnight is hour 0.'
           when p_field = 3 and v_number = 0 then 'The first day is 1; the last day is L.'
           when p_field = 3 then 'For the last day of each month write L.'
           when p_field = 4 and v_number = 0 then 'January is 1.'
           when p_field = 1 and v_number > 59 and v_number <= 1440 then format('For every %s minutes write @every %ss.', v_number, v_number * 60)
           else format('Use a number from %s to %s.', v_low, v_high) end);
  end if;
  if length(p_text) = 3 and v_names <> '' then
    v_at := strpos(v_names, lower(p_text collate "C"));
    if v_at % 3 = 1 then return v_at / 3 + case p_field when 4 then 1 else 0 end; end if;
  end if;
  -- not a value: say what it probably was meant to be
  if p_text = '' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'a value is missing',
      'A comma, dash or slash needs a value on both sides; negative numbers do not exist here.');
  elsif p_text ~ '[?]' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, '"?" is Quartz syntax', 'Write * instead of ?.');
  elsif p_text ~ '#' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, '"#" (the nth weekday) is Quartz syntax',
      'Run on that weekday, and let the task return early unless the day of the month is in the wanted week.');
  elsif p_field = 3 and p_text ~* '^(L?W|WL|[0-9]+W)$' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, '"W" (the nearest working day) is Quartz syntax',
      'Name the days, or run on MON-FRI and let the task decide.');
  elsif p_field = 3 and p_text in ('L', 'l', '$') then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, 'L stands alone or in a list, not in a range or with a step',
      'Write for example 15,L. For the days before the last one run on 27-31 and let the task decide.');
  elsif p_field = 5 and p_text ~* '^([0-7]|sun|mon|tue|wed|thu|fri|sat)?[L$]$' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, '"L" is not known for weekdays',
      'Saturday is 6. For a month''s last such weekday run on that weekday and let the task check the date.');
  elsif p_text ~* '^[L$]$' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, 'L is known only in the day-of-month field', 'Name the value.');
  elsif p_item ~* E'^H(\\(|/|$)' or p_text ~ '~' then
    perform pgtick.cron_error('TK014', p_cron, p_field, p_item, 'random times ("H", "~") are not known here', 'Name the time, and set p_jitter to spread the load.');
  elsif p_text ~ '["''`]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), 'There are quotes too many: leave them out of the expression.');
  elsif p_item ~ '[][(){}]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), 'Brackets are not known: write 1-5 or 1,2,3 alone.');
  elsif p_text ~ '[.][.]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a range', left(p_text, 40)), format('A range has a dash: %s.', left(regexp_replace(p_text, '[.]+', '-'), 40)));
  elsif p_text ~ '.[|;&+].' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), format('A list has commas: %s.', left(regexp_replace(p_text, '[|;&+]+', ',', 'g'), 40)));
  elsif p_text ~ '[–—−‐‑]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'this dash is not the plain "-"', 'Write the range with the hyphen from the keyboard.');
  elsif p_text ~ '[*]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, '"*" stands alone, or as */step', 'Write * or */5, without digits before or after the star.');
  elsif p_text ~ '^[0-9]{10,}$' then
    perform pgtick.cron_error('TK012', p_cron, p_field, p_item, format('%s is out of range %s-%s', left(p_text, 40), v_low, v_high), format('Use a number from %s to %s.', v_low, v_high));
  elsif p_text ~ '^[+]?[0-9]+[.][0-9]+$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'a whole number is needed', 'Use the next field for the finer part.');
  elsif p_text ~ '^[0-9]+:[0-9]+$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'a time of day takes two fields',
      format('09:30 is "30 9 * * *": minute first, then hour; here "%s %s".', regexp_replace(split_part(p_text, ':', 2), '^0+(?=.)', ''), split_part(p_text, ':', 1)));
  elsif p_text ~ '^[-+][0-9]+$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, 'a number has no sign', format('Use a number from %s to %s.', v_low, v_high));
  elsif p_field in (4, 5) and length(p_text) > 3 and strpos(v_names, lower(left(p_text, 3))) % 3 = 1 then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a known name', left(p_text, 40)), format('Names have three letters: %s.', upper(left(p_text, 3))));
  elsif p_field = 5 and length(p_text) = 2 and strpos(v_names, lower(p_text)) % 3 = 1 then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a known name', p_text),
      format('Names have three letters: %s.', upper(substr(v_names, strpos(v_names, lower(p_text)), 3))));
  elsif p_field <> 5 and length(p_text) = 3 and strpos('sunmontuewedthufrisat', lower(p_text)) % 3 = 1 then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('%s is a weekday', upper(p_text)), 'The order is minute, hour, day of month, month, weekday: weekdays come last.');
  elsif p_field <> 4 and length(p_text) = 3 and strpos('janfebmaraprmayjunjulaugsepoctnovdec', lower(p_text)) % 3 = 1 then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('%s is a month', upper(p_text)), 'The order is minute, hour, day of month, month, weekday: months come fourth.');
  elsif p_field = 3 and lower(p_text) = 'last' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', p_text), 'The last day of the month is L.');
  elsif p_field = 3 and p_text ~ '^[0-9]{1,2}(st|nd|rd|th)$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', p_text), format('Write the number alone: %s.', substring(p_text from '[0-9]+')));
  elsif p_field = 2 and p_text ~* '^[0-9]{1,2}(am|pm|h)$' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', p_text), format('Hours are numbers from 0 to 23: here %s.',
      case when p_text ~* 'h$' then substring(p_text from '[0-9]+')::integer
           else substring(p_text from '[0-9]+')::integer % 12 + case when p_text ~* 'pm$' then 12 else 0 end end));
  elsif p_text ~ E'[^\\u0001-\\u007f]' then
    perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), 'It has a character that is no plain letter or digit, perhaps from a copied text: type it anew.');
  end if;
  perform pgtick.cron_error('TK011', p_cron, p_field, p_item, format('"%s" is not a value here', left(p_text, 40)), 'Allowed are numbers, lists 1,2, ranges 1-5, steps */5 or 10-50/5, and names for months and weekdays.');
end
$$;
comment on function pgtick.cron_number(text, integer, text, text) is 'The value of one number or name in a cron field; raises when it is none.';

-- The bits of one field; bit 1 is the field's lowest value. Weekdays come back as eight bits (0 to 7), last days as bit 32 of field 3.
create or replace function pgtick.cron_field(p_cron text, p_field integer, p_text text)
returns varbit
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_lows constant integer[] := '{0,0,1,1,0}';
  v_highs constant integer[] := '{59,23,31,12,7}';
  v_low constant integer := v_lows[p_field];
  v_high constant integer := v_highs[p_field];
  v_bits varbit := repeat('0', v_high - v_low + case p_field when 3 then 2 else 1 end)::varbit;
  v_item text;
  v_span text;
  v_step integer;
  v_from integer;
  v_to integer;
begin
  foreach v_item in array string_to_array(p_text, ',') loop
    v_step := 1;
    v_span := v_item;
    if strpos(v_item, '/') > 0 then
      v_span := split_part(v_item, '/', 1);
      if split_part(v_item, '/', 2) !~ '^[0-9]{1,9}$' or v_item ~ '/.*/' then
        perform pgtick.cron_error('TK011', p_cron, p_field, v_item, 'the step after "/" must be one whole number, of at most nine digits', format('Write for example */%s.', least(5, v_high - v_low)));
      end if;
      v_step := split_part(v_item, '/', 2)::integer;
      if v_step < 1 or v_step > v_high - v_low then
        perform pgtick.cron_error('TK012', p_cron, p_field, v_item, format('step %s is out of range 1-%s', v_step, v_high - v_low),
          case when v_step = 0 then 'A step of 0 never moves; leave the step out for every value.'
               when p_field = 1 and v_step = 60 then 'For every hour write minute 0 and hour *.'
               when p_field = 1 and v_step % 60 = 0 and v_step <= 720 then format('For every %s hours write 0 */%s * * *.', v_step / 60, v_step / 60)
               when p_field = 1 then format('Steps start again each hour. For every %s minutes write @every %ss.', v_step, v_step * 60::bigint)
               when p_field = 2 and v_step = 24 then 'For once a day write hour 0.'
               when p_field = 2 then format('Steps start again each day. For every %s hours write @every %sh.', v_step, v_step)
               else format('Such a step would only ever meet %s; write that value.', v_low) end);
      end if;
    end if;
    if v_span = '*' then
      v_from := v_low;
      v_to := v_high;
    elsif p_field = 3 and v_item in ('L', 'l', '$') then
      v_bits := set_bit(v_bits, 31, 1);
      continue;
    elsif v_span ~ '.-' then
      if v_span ~ '-.*-' then
        perform pgtick.cron_error('TK011', p_cron, p_field, v_item, 'a range has one dash', 'Write two ranges as a list: 1-5,10-15.');
      end if;
      v_from := pgtick.cron_number(p_cron, p_field, v_item, split_part(v_span, '-', 1));
      v_to := pgtick.cron_number(p_cron, p_field, v_item, split_part(v_span, '-', 2));
      if p_field = 5 and v_from > v_to and v_to = 0 then
        perform pgtick.cron_error('TK013', p_cron, p_field, v_item, 'the range runs backwards: SUN is 0', format('As the end of a range Sunday is 7: write %s-7.', v_from));
      elsif v_from > v_to then
        perform pgtick.cron_error('TK013', p_cron, p_field, v_item, 'the range runs backwards',
          case when p_field = 5 and v_from = 7 then format('As the start of a range Sunday is 0: write 0-%s.', v_to)
               when p_field = 5 then format('Over the week''s end write a list: %s.', (select string_agg((array['SUN','MON','TUE','WED','THU','FRI','SAT'])[d % 7 + 1], ',' order by d) from generate_series(v_from, v_to + 7) as d))
               else format('Over the end write both parts: %s,%s.', concat_ws('-', v_from, nullif(v_high, v_from)), concat_ws('-', v_low, nullif(v_to, v_low))) end);
      end if;
    else
      v_from := pgtick.cron_number(p_cron, p_field, v_item, v_span);
      v_to := v_from;
      if v_item <> v_span then
        perform pgtick.cron_error('TK014', p_cron, p_field, v_item, 'a step needs a range or "*" before it (some crons read this as a range to the end, others as one value)',
          format('Write %s-%s/%s, or %s alone.', v_span, case when p_field = 5 then 6 else v_high end, v_step, v_span));
      end if;
    end if;
    if v_step = 1 then
      v_bits := v_bits | (repeat('0', v_from - v_low) || repeat('1', v_to - v_from + 1) || repeat('0', length(v_bits) - (v_to - v_low + 1)))::varbit;
    else
      for v_at in 0 .. (v_to - v_from) / v_step loop
        v_bits := set_bit(v_bits, v_from - v_low + v_at * v_step, 1);
      end loop;
    end if;
  end loop;
  return v_bits;
end
$$;
comment on function pgtick.cron_field(text, integer, text) is 'The values of one cron field as bits.';

create or replace function pgtick.parse_cron(p_cron text)
returns pgtick.cron
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_given constant text collate "C" := btrim(p_cron, E' \t\n\x0b\f\r');   -- errors name this: they show 200 characters, which may all be blank
  v_lower constant text collate "C" := lower(v_given);
  v_text text collate "C" := v_given;
  v_words text[] collate "C";
  v_match text[];
  v_seconds numeric;
  v_bits varbit;
  v_cron pgtick.cron;
  v_most constant integer[] := '{31,29,31,30,31,30,31,31,30,31,30,31}';
begin
  if coalesce(v_text, '') = '' then
    perform pgtick.cron_error('TK010', v_given, null, null, 'the expression is empty', 'Five fields: minute hour day-of-month month weekday, for example 0 9 * * MON-FRI.');
  elsif length(v_text) > 1000 then
    perform pgtick.cron_error('TK010', v_given, null, null, format('%s characters are too many (at most 1000)', length(v_text)), 'Split it into several schedules.');
  end if;

  if left(v_text, 1) = '@' and v_lower !~ E'^@every\\M' then
    v_text := case v_lower when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *'
      when '@weekly' then '0 0 * * 0' when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *' when '@annually' then '0 0 1 1 *' end;
    if v_text is null then
      perform pgtick.cron_error('TK010', v_given, null, null,
        case v_lower when '@reboot' then '@reboot names an event, not a time' else 'unknown name; known are @hourly @daily @midnight @weekly @monthly @yearly @annually and @every' end,
        case v_lower when '@reboot' then 'Enqueue the job where the application starts: pgtick.enqueue(...).'
          when '@minutely' then 'Write * * * * *.' when '@every_minute' then 'Write * * * * *.' when '@secondly' then 'Write @every 1s.'
          when '@fortnightly' then 'Write 0 0 1,15 * *, or @every 14d.' when '@quarterly' then 'Write 0 0 1 */3 *.'
          when '@weekdays' then 'Write 0 0 * * MON-FRI.' when '@noon' then 'Write 0 12 * * *.'
          when '@hour' then 'Write @hourly.' when '@day' then 'Write @daily.' when '@week' then 'Write @weekly.' when '@month' then 'Write @monthly.'
          when '@year' then 'Write @yearly.' when '@annual' then 'Write @annually.' when '@minute' then 'Write * * * * *.'
          else case when v_lower ~ '^@every[0-9]' then format('Put a blank after it: @every %s.', left(substr(v_lower, 7), 40)) else 'Write the five fields.' end end);
    end if;
  elsif left(v_text, 1) = '@' or v_lower ~ E'^[0-9]+\\s*(s|sec|secs|second|seconds)$' then
    v_match := regexp_match(v_lower, E'^(?:@every\\s+)?(?:(\\d{1,9})d)?(?:(\\d{1,9})h)?(?:(\\d{1,9})m)?(?:(\\d{1,9})s)?$');
    if v_match is null or left(v_text, 1) <> '@' then
      v_match := array[null, null, null, (regexp_match(v_lower, E'^(?:@every\\s+)?(\\d{1,18})\\s*(?:sec|second)s?$'))[1]];
    end if;
    v_seconds := coalesce(v_match[1]::numeric, 0) * 86400 + coalesce(v_match[2]::numeric, 0) * 3600 + coalesce(v_match[3]::numeric, 0) * 60 + coalesce(v_match[4]::numeric, 0);
    if v_match = '{NULL,NULL,NULL,NULL}' then
      perform pgtick.cron_error('TK015', v_given, null, null, format('"%s" is not an interval', left(regexp_replace(v_text, E'^@every\\s*', '', 'i'), 40)),
        'Write whole numbers with d, h, m, s, largest first: @every 90s, @every 1h30m; or 90 seconds.');
    elsif v_seconds not between 1 and 31622400 then
      perform pgtick.cron_error('TK015', v_given, null, null, format('an interval of %s seconds is out of range 1-31622400 (366 days)', v_seconds), 'Use five fields for anything rarer than once a year.');
    end if;
    v_cron.every_seconds := v_seconds;
    return v_cron;
  end if;

  v_words := regexp_split_to_array(v_text, E'\\s+');
  if cardinality(v_words) <> 5 then
    perform pgtick.cron_error('TK010', v_given, null, null,
      case when v_lower ~ '^(cron_)?tz=' or v_lower ~ E'\\s([a-z_]+/[a-z_/-]+|utc|gmt)$' and cardinality(v_words) = 6 then 'a time zone does not belong into the expression'
           when v_lower ~ E'^(cron|rate)\\(' then 'this is AWS syntax'
           when v_lower ~ '^(r[0-9]*/)?p(t|[0-9])' then 'this is an ISO 8601 duration'
           else format('%s field%s, but five are needed: minute hour day-of-month month weekday', cardinality(v_words), case when cardinality(v_words) = 1 then '' else 's' end) end,
      case when v_lower ~ '^(cron_)?tz=' or v_lower ~ E'\\s([a-z_]+/[a-z_/-]+|utc|gmt)$' and cardinality(v_words) = 6 then 'Give it as p_time_zone.'
           when v_lower ~ E'^[0-9]+\\s*(m|min|mins|minute|minutes)$' then format('Write @every %sm.', substring(v_lower from E'\\d+'))
           when v_lower ~ E'^[0-9]+\\s*(h|hour|hours)$' then format('Write @every %sh.', substring(v_lower from E'\\d+'))
           when v_lower ~ E'^every\\s+[0-9]+\\s*min' then format('Write */%s * * * *.', substring(v_lower from E'\\d+'))
           when v_lower ~ E'^[0-9]+\\s*(d|day|days)$' then format('Write @every %sd.', substring(v_lower from E'\\d+'))
           when v_lower ~ '^([0-9]+[dhms]){2,}$' then format('Write @every %s.', left(v_lower, 40))
           when v_lower ~ E'^every\\s+[0-9]+\\s*h' then format('Write 0 */%s * * *.', substring(v_lower from E'\\d+'))
           when v_lower ~ E'^every\\s*hour' then 'Write @hourly.'
           when v_lower ~ E'^every\\s*day$' then 'Write @daily.'
           when v_lower ~ E'^every\\s*min' then 'Write * * * * *.'
           when v_lower ~ E'^every\\s' then 'Words are not known: write for example 0 9 * * MON-FRI, or @every 2h.'
           when v_lower ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}' then 'For one moment alone enqueue a job: pgtick.enqueue(…, p_run_at => …).'
           when v_lower in ('hourly', 'daily', 'weekly', 'monthly', 'yearly', 'annually', 'midnight') then format('Write @%s.', v_lower)
           when v_lower ~ E'^(cron|rate)\\(' then 'Write five fields without year and parentheses, or @every 5m.'
           when v_lower ~ '^(r[0-9]*/)?p(t|[0-9])' then 'Write it as @every 1h30m.'
           when v_lower ~ '^[0-9]{1,2}:[0-9]{2}$' then format('Every day at that time is %s %s * * *.', split_part(v_lower, ':', 2)::integer, split_part(v_lower, ':', 1)::integer)
           when v_lower ~ '^[0-9]{1,2}(am|pm)$' then format('Every day at that hour is 0 %s * * *.', substring(v_lower from E'\\d+')::integer % 12 + case when v_lower ~ 'pm$' then 12 else 0 end)
           when v_text ~ E'\\s#' then 'A comment is not part of the expression: leave it out.'
           when cardinality(v_words) > 5 and v_lower ~ E'^([0-9*?/,-]+\\s+){3}[0-9a-z*?/,-]+\\s+[0-9a-z*?#/,-]+\\s+[./]?[a-z]{2,}' and v_words[6] !~* '^(mon|tue|wed|thu|fri|sat|sun)' then 'The command is not part of the expression: give the task as p_task.'
           when v_text ~ E'(^|[,/-])\\s+[,/-]|[,/-]\\s|\\s[,/-]' then 'Put no spaces inside a field.'
           when v_text ~ E'[\\u00a0\\u1680\\u2000-\\u200b\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff]' then 'It has blanks that are not plain ones, perhaps from a copied text: type it anew.'
           when cardinality(v_words) = 6 and v_words[6] ~ '^[12][0-9]{3}' then 'There is no field for the year: leave it out, and set p_ends_at.'
           when cardinality(v_words) = 6 and v_words[1] ~ '^0+$' then format('The first field seems to be seconds: write %s.', replace(array_to_string(v_words[2:6], ' '), '?', '*'))
           when cardinality(v_words) = 6 then 'There is no field for seconds: leave it out, or write @every 30s.'
           when cardinality(v_words) = 7 then 'Seconds and year (Quartz) are not known: leave the first and the last field out.'
           when cardinality(v_words) = 4 and v_text ~ '^[0-9*?]' then format('One field is missing; perhaps %s *.', array_to_string(v_words, ' '))
           when cardinality(v_words) > 7 then 'Put no spaces inside a field; the command is not part of the expression.'
           else 'For example 0 9 * * MON-FRI: at 09:00 from Monday to Friday.' end);
  end if;

  v_cron.minutes := pgtick.cron_field(v_text, 1, v_words[1])::bit(60);
  v_cron.hours := pgtick.cron_field(v_text, 2, v_words[2])::bit(24);
  v_bits := pgtick.cron_field(v_text, 3, v_words[3]);
  v_cron.days := substring(v_bits from 1 for 31)::bit(31);
  v_cron.last_day := get_bit(v_bits, 31) = 1;
  v_cron.months := pgtick.cron_field(v_text, 4, v_words[4])::bit(12);
  v_bits := pgtick.cron_field(v_text, 5, v_words[5]);
  if get_bit(v_bits, 7) = 1 then v_bits := set_bit(v_bits, 0, 1); end if;
  v_cron.weekdays := repeat(substring(v_bits from 1 for 7)::text, 6)::bit(42);
  v_cron.either_day := left(v_words[3], 1) <> '*' and left(v_words[5], 1) <> '*';
  v_cron.elapsed := v_words[1] ~ '[*/]' or v_words[2] ~ '[*/]';

  -- Only a day that none of the months has can make it never fire: every date falls on every weekday sooner or later.
  if not v_cron.either_day and not v_cron.last_day and not exists (
    select from generate_series(1, 12) as month
    where get_bit(v_cron.months, month - 1) = 1 and position(B'1' in v_cron.days) <= v_most[month]
  ) then
    perform pgtick.cron_error('TK016', v_text, 3, v_words[3], format('no month of "%s" has such a day, so it would never fire', v_words[4]), 'For the last day of each month write L.');
  end if;
  return v_cron;
end
$$;
comment on function pgtick.parse_cron(text) is 'Parse a cron expression into pgtick.cron; raises TK010 to TK016, naming field, place, text and remedy.';

-- 2. The next slot ---------------------------------------------------------------------------------------------------------------

-- The first matching wall time strictly after another one: the calendar alone, no zone. Jumps by month, day, hour and minute.
-- Null when there is none for 41 years, which is longer than any calendar needs (29 February on a Sunday over 2100: 40 years).
create or replace function pgtick.cron_next_wall(p_cron pgtick.cron, p_after timestamp)
returns timestamp
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_year integer := date_part('year', p_after);
  v_month integer := date_part('month', p_after);
  v_day integer := date_part('day', p_after);
  v_hour integer := date_part('hour', p_after);
  v_minute integer := date_part('minute', p_after);   -- the last minute that is too early; -1: none is
  v_last_year constant integer := v_year + 41;
  v_jump integer;
  v_length integer;
  v_days bit(31);
  v_week bit(31);
begin
  if p_cron.months is null then return null; end if;   -- an @every has no calendar; without this the loop would not end
  loop
    v_jump := position(B'1' in substring(p_cron.months from v_month));
    if v_jump <> 1 then
      if v_jump > 1 then
        v_month := v_month + v_jump - 1;
      else
        v_year := v_year + 1;
        v_month := position(B'1' in p_cron.months);
        if v_year > v_last_year then return null; end if;
      end if;
      v_day := 1; v_hour := 0; v_minute := -1;
    end if;

    v_length := case when v_month <> 2 then 30 + (v_month + v_month / 8) % 2
      when v_year % 4 = 0 and (v_year % 100 <> 0 or v_year % 400 = 0) then 29 else 28 end;
    v_days := p_cron.days;
    if p_cron.last_day then v_days := set_bit(v_days, v_length - 1, 1); end if;
    v_week := substring(p_cron.weekdays from (make_date(v_year, v_month, 1) - '1600-01-02'::date) % 7 + 1 for 31);   -- a Sunday
    v_days := case when p_cron.either_day then v_days | v_week else v_days & v_week end;

    loop
      v_jump := position(B'1' in substring(v_days from v_day for v_length - v_day + 1));
      exit when v_jump = 0;
      if v_jump > 1 then
        v_day := v_day + v_jump - 1; v_hour := 0; v_minute := -1;
      end if;
      v_jump := position(B'1' in substring(p_cron.hours from v_hour + 1));
      if v_jump = 1 then
        v_jump := position(B'1' in substring(p_cron.minutes from v_minute + 2));
        if v_jump > 0 then return make_timestamp(v_year, v_month, v_day, v_hour, v_minute + v_jump, 0); end if;
        v_jump := position(B'1' in substring(p_cron.hours from v_hour + 2));
        if v_jump > 0 then v_jump := v_jump + 1; end if;
      end if;
      if v_jump > 0 then
        return make_timestamp(v_year, v_month, v_day, v_hour + v_jump - 1, position(B'1' in p_cron.minutes) - 1, 0);
      end if;
      v_day := v_day + 1; v_hour := 0; v_minute := -1;
    end loop;
    v_month := v_month + 1; v_day := 1; v_hour := 0; v_minute := -1;
  end loop;
end
$$;
comment on function pgtick.cron_next_wall(pgtick.cron, timestamp) is 'The first wall time after p_after that the expression matches, whatever the zone.';

-- The moment (UTC) between two others at which a zone's offset changes; null when it is the same at both ends.
-- Callers keep the two less than 6.9 days apart: since 1970 no two shifts of any zone are closer (tzdata 2025b, Asia/Gaza).
create or replace function pgtick.zone_shift(p_time_zone text, p_low timestamp, p_high timestamp)
returns timestamp
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_low timestamp := date_trunc('second', p_low);
  v_high timestamp := date_trunc('second', p_high);
  v_middle timestamp;
  v_old constant interval := (v_low at time zone 'UTC' at time zone p_time_zone) - v_low;
begin
  if (v_high at time zone 'UTC' at time zone p_time_zone) - v_high = v_old then return null; end if;
  loop
    v_middle := date_trunc('second', v_low + (v_high - v_low) / 2);
    exit when v_middle = v_low;
    if (v_middle at time zone 'UTC' at time zone p_time_zone) - v_middle = v_old then v_low := v_middle; else v_high := v_middle; end if;
  end loop;
  return v_high;
end
$$;
comment on function pgtick.zone_shift(text, timestamp, timestamp) is 'The moment (UTC, as timestamp) of a zone''s shift between two others, or null.';

-- The exact form, for the neighbourhood of shifts. Times are UTC, as timestamp: adding days to a timestamptz would use the session's zone.
-- p_last false: each wall time's first moment; true: its last. A skipped wall time runs at the shift, or not at all.
create or replace function pgtick.cron_resolve(p_cron pgtick.cron, p_time_zone text, p_after timestamp, p_skip_gap boolean, p_last boolean)
returns timestamp
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_wall timestamp := p_after at time zone 'UTC' at time zone p_time_zone;   -- look strictly after this wall time
  v_far constant timestamp := v_wall + interval '41 years';
  v_offset interval := v_wall - p_after;
  v_shift timestamp;
  v_before interval;
  v_after interval;
  v_slot timestamp;
begin
  -- Near a fold the wall times still to come are not just those after now's: with "first" those already seen before the fold are
  -- behind us, with "last" those that a coming fold repeats are ahead. No fold since 1970 is longer than 7 hours.
  if p_last then
    v_after := ((p_after + interval '25 hours') at time zone 'UTC' at time zone p_time_zone) - (p_after + interval '25 hours');
    if v_after < v_offset then
      v_shift := pgtick.zone_shift(p_time_zone, p_after, p_after + interval '25 hours 1 second');
      if v_shift + v_after <= v_wall then v_wall := v_shift + v_after - interval '1 microsecond'; end if;
    end if;
  else
    v_before := ((p_after - interval '25 hours') at time zone 'UTC' at time zone p_time_zone) - (p_after - interval '25 hours');
    if v_before > v_offset then
      v_shift := pgtick.zone_shift(p_time_zone, p_after - interval '25 hours 1 second', p_after + interval '1 second');
      if v_shift <= p_after and v_shift + v_before > v_wall then v_wall := v_shift + v_before - interval '1 microsecond'; end if;
    end if;
  end if;

  loop
    v_wall := pgtick.cron_next_wall(p_cron, v_wall);
    if v_wall is null or v_wall > v_far then return null; end if;
    -- Whatever the zone, the moment lies within 16 hours of the wall time read as UTC, and so does a shift that touches it.
    v_before := ((v_wall - interval '16 hours') at time zone 'UTC' at time zone p_time_zone) - (v_wall - interval '16 hours');
    v_after := ((v_wall + interval '16 hours') at time zone 'UTC' at time zone p_time_zone) - (v_wall + interval '16 hours');
    if v_before = v_after then
      v_slot := v_wall - v_before;
    else
      v_shift := pgtick.zone_shift(p_time_zone, v_wall - interval '16 hours', v_wall + interval '16 hours');
      v_slot := case
        when p_last and v_wall - v_after >= v_shift then v_wall - v_after
        when v_wall - v_before < v_shift then v_wall - v_before
        when v_wall - v_after >= v_shift then v_wall - v_after
        when not p_skip_gap then v_shift
      end;
      if v_slot is null then   -- skipped: go on at the gap's end
        v_wall := v_shift + v_after - interval '1 microsecond';
        continue;
      end if;
    end if;
    if v_slot > p_after then return v_slot; end if;
  end loop;
end
$$;
comment on function pgtick.cron_resolve(pgtick.cron, text, timestamp, boolean, boolean) is 'The next slot near a shift of the zone: each wall time''s first or last moment.';

create or replace function pgtick.next_slot(p_cron pgtick.cron, p_time_zone text, p_after timestamptz, p_on_gap text default 'run', p_on_fold text default 'first')
returns timestamptz
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_utc timestamp;
  v_wall timestamp;
  v_next timestamp;
  v_near timestamp;
  v_first timestamp;
  v_last timestamp;
begin
  if not isfinite(p_after) then
    return null;
  elsif p_cron.every_seconds is not null then
    return to_timestamp((floor(extract(epoch from p_after) / p_cron.every_seconds) + 1) * p_cron.every_seconds);
  elsif p_time_zone = 'UTC' then
    return pgtick.cron_next_wall(p_cron, p_after at time zone 'UTC') at time zone 'UTC';
  end if;

  -- Most slots are near and no shift is: the same offset from a day before now to a day after the slot, and that within 6 days,
  -- in which no zone shifts twice (see zone_shift). Then the calendar's answer stands under every policy.
  v_utc := p_after at time zone 'UTC';
  v_wall := p_after at time zone p_time_zone;
  v_next := pgtick.cron_next_wall(p_cron, v_wall);
  if v_next is null then return null; end if;
  if v_next - v_wall < interval '4 days' then
    v_near := v_utc + (v_next - v_wall);
    if (v_utc - interval '25 hours') at time zone 'UTC' at time zone p_time_zone = v_wall - interval '25 hours'
      and (v_near + interval '25 hours') at time zone 'UTC' at time zone p_time_zone = v_next + interval '25 hours'
    then
      return v_near at time zone 'UTC';
    end if;
  end if;

  if p_cron.elapsed or p_on_fold <> 'last' then
    v_first := pgtick.cron_resolve(p_cron, p_time_zone, v_utc, p_cron.elapsed or p_on_gap = 'skip', false);
    if v_first is null or (p_on_fold = 'first' and not p_cron.elapsed) then return v_first at time zone 'UTC'; end if;
  end if;
  v_last := pgtick.cron_resolve(p_cron, p_time_zone, v_utc, p_cron.elapsed or p_on_gap = 'skip', true);
  return least(v_first, v_last) at time zone 'UTC';
end
$$;
comment on function pgtick.next_slot(pgtick.cron, text, timestamptz, text, text) is 'The first slot strictly after p_after, or null when there is none in 41 years.';

-- A slot after the other, and where a plain day holds many, the rest of that day at once (1 µs a slot, not 5).
create or replace function pgtick.slots_between(p_cron pgtick.cron, p_time_zone text, p_from timestamptz, p_to timestamptz,
  p_limit integer default null, p_on_gap text default 'run', p_on_fold text default 'first')
returns setof timestamptz
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_slot timestamptz := p_from;
  v_left bigint := coalesce(p_limit, 9223372036854775807);
  v_times integer[];
  v_wall timestamp;
  v_utc timestamp;
  v_day timestamp;
  v_rest timestamptz[];
begin
  if coalesce(p_limit, 1) < 1 or (p_limit is null and not isfinite(p_to)) then return; end if;
  if p_cron.every_seconds is not null then
    v_slot := pgtick.next_slot(p_cron, p_time_zone, p_from);   -- the end is bounded here, because generate_series makes all its rows first
    return query select s.slot from generate_series(v_slot,
      least(p_to, v_slot + (p_limit - 1) * make_interval(secs => p_cron.every_seconds)), make_interval(secs => p_cron.every_seconds)) as s(slot);
    return;
  end if;
  -- The day's times, in minutes. To make the list takes as long as some 200 single slots do.
  if bit_count(p_cron.minutes) * bit_count(p_cron.hours) >= 8 and v_left > 200 and p_to - p_from > interval '3 hours' then
    select array_agg(h * 60 + m order by h, m) into v_times
    from generate_series(0, 23) as h, generate_series(0, 59) as m
    where get_bit(p_cron.hours, h) = 1 and get_bit(p_cron.minutes, m) = 1;
  end if;
  while v_left > 0 loop
    v_slot := pgtick.next_slot(p_cron, p_time_zone, v_slot, p_on_gap, p_on_fold);
    exit when v_slot is null or v_slot > p_to;
    return next v_slot;
    v_left := v_left - 1;
    if v_times is not null then
      v_utc := v_slot at time zone 'UTC';
      v_wall := v_slot at time zone p_time_zone;
      v_day := date_trunc('day', v_wall);
      if (v_utc - interval '25 hours') at time zone 'UTC' at time zone p_time_zone = v_wall - interval '25 hours'
        and (v_utc + interval '49 hours') at time zone 'UTC' at time zone p_time_zone = v_wall + interval '49 hours'
      then
        v_rest := array(
          select (v_utc + (v_day + make_interval(mins => t.minute) - v_wall)) at time zone 'UTC'
          from unnest(v_times) as t(minute)
          where v_day + make_interval(mins => t.minute) > v_wall
          order by t.minute limit v_left);
        return query select r.slot from unnest(v_rest) as r(slot) where r.slot <= p_to;
        v_left := v_left - cardinality(v_rest);
        v_slot := coalesce(v_rest[cardinality(v_rest)], v_slot);
      end if;
    end if;
  end loop;
end
$$;
comment on function pgtick.slots_between(pgtick.cron, text, timestamptz, timestamptz, integer, text, text) is 'The slots after p_from up to and with p_to, in order, at most p_limit.';

-- Counting and the newest ones, without listing what lies between: an outage of forty days of every minute has 57,600 slots.

create or replace function pgtick.cron_month_days(p_cron pgtick.cron, p_year integer, p_month integer)
returns bit(31)
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_length constant integer := case when p_month <> 2 then 30 + (p_month + p_month / 8) % 2
    when p_year % 4 = 0 and (p_year % 100 <> 0 or p_year % 400 = 0) then 29 else 28 end;
  v_days bit(31) := p_cron.days;
  v_week bit(31);
begin
  if get_bit(p_cron.months, p_month - 1) = 0 then return repeat('0', 31)::bit(31); end if;
  if p_cron.last_day then v_days := set_bit(v_days, v_length - 1, 1); end if;
  v_week := substring(p_cron.weekdays from (make_date(p_year, p_month, 1) - '1600-01-02'::date) % 7 + 1 for 31);   -- a Sunday
  v_days := case when p_cron.either_day then v_days | v_week else v_days & v_week end;
  return v_days & (repeat('1', v_length) || repeat('0', 31 - v_length))::bit(31);
end
$$;
comment on function pgtick.cron_month_days(pgtick.cron, integer, integer) is 'The days of one month on which the expression fires, bit 1 for the 1st. For five fields, not @every.';

create or replace function pgtick.cron_count_walls(p_cron pgtick.cron, p_after timestamp, p_until timestamp)
returns bigint
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_first constant date := p_after::date;
  v_last constant date := p_until::date;
  v_month date := date_trunc('month', p_after);
  v_days bit(31);
  v_count bigint := 0;
  v_before bigint := 0;   -- times of the first day up to p_after
  v_beyond bigint := 0;   -- times of the last day after p_until
begin
  if p_until <= p_after then return 0; end if;
  while v_month <= v_last loop
    v_days := pgtick.cron_month_days(p_cron, date_part('year', v_month)::integer, date_part('month', v_month)::integer);
    if v_first > v_month then v_days := v_days & (~ (B'1111111111111111111111111111111' << (31 - (v_first - v_month)))); end if;
    if v_last - v_month < 30 then v_days := v_days & (B'1111111111111111111111111111111' << (30 - (v_last - v_month))); end if;
    v_count := v_count + bit_count(v_days);
    if v_month = date_trunc('month', p_after) and get_bit(v_days, v_first - v_month) = 1 then
      v_before := bit_count(p_cron.minutes) * bit_count(p_cron.hours) - pgtick.cron_times_after(p_cron, p_after);
    end if;
    if v_last - v_month < 31 and v_month = date_trunc('month', p_until) and get_bit(v_days, v_last - v_month) = 1 then
      v_beyond := pgtick.cron_times_after(p_cron, p_until);
    end if;
    v_month := v_month + interval '1 month';
  end loop;
  return v_count * bit_count(p_cron.minutes) * bit_count(p_cron.hours) - v_before - v_beyond;
end
$$;
comment on function pgtick.cron_count_walls(pgtick.cron, timestamp, timestamp) is 'How many wall times after p_after, up to and with p_until, the expression matches: the calendar alone, no zone.';

create or replace function pgtick.cron_times_after(p_cron pgtick.cron, p_wall timestamp)
returns bigint
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_hour constant integer := date_part('hour', p_wall);
  v_minute constant integer := date_part('minute', p_wall);
begin
  return get_bit(p_cron.hours, v_hour) * bit_count(substring(p_cron.minutes from v_minute + 2)) + bit_count(p_cron.minutes) * bit_count(substring(p_cron.hours from v_hour + 2));
end
$$;
comment on function pgtick.cron_times_after(pgtick.cron, timestamp) is 'How many times of day the expression has after the one of p_wall.';

-- Away from a zone's shifts slots are wall times, and those are counted. At a shift elapsed time goes on with the other offset at once;
-- of fixed times the slots around it are listed, since what a gap or fold does to them reaches a day far.
create or replace function pgtick.count_slots(p_cron pgtick.cron, p_time_zone text, p_from timestamptz, p_to timestamptz, p_on_gap text default 'run', p_on_fold text default 'first')
returns bigint
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_near constant interval := case when p_cron.elapsed then interval '0' else interval '26 hours' end;
  v_to constant timestamp := p_to at time zone 'UTC';
  v_done timestamp := p_from at time zone 'UTC';           -- counted up to here
  v_done_wall timestamp := p_from at time zone p_time_zone;
  v_at timestamp := v_done - v_near;                       -- looked for shifts up to here
  v_end timestamp;
  v_shift timestamp;
  v_count bigint := 0;
begin
  if p_from >= p_to then return 0; end if;
  if p_cron.every_seconds is not null then
    return floor(extract(epoch from p_to) / p_cron.every_seconds) - floor(extract(epoch from p_from) / p_cron.every_seconds);
  elsif p_time_zone = 'UTC' then
    return pgtick.cron_count_walls(p_cron, v_done, v_to);
  end if;
  while v_at < v_to + v_near loop
    v_end := least(v_at + interval '6 days', v_to + v_near + interval '1 second');
    v_shift := pgtick.zone_shift(p_time_zone, v_at, v_end);
    v_at := coalesce(v_shift, v_end);
    continue when v_shift is null or v_shift - v_near > v_to;
    v_end := case when p_cron.elapsed then v_shift - interval '1 microsecond' else greatest(v_shift - v_near, v_done) end;
    v_count := v_count + pgtick.cron_count_walls(p_cron, v_done_wall, v_end at time zone 'UTC' at time zone p_time_zone);
    if p_cron.elapsed then
      v_done := v_end;
      v_done_wall := (v_shift at time zone 'UTC' at time zone p_time_zone) - interval '1 microsecond';   -- by the new offset
    else
      v_done := least(v_shift + v_near, v_to);
      v_done_wall := v_done at time zone 'UTC' at time zone p_time_zone;
      v_count := v_count + (select count(*) from pgtick.slots_between(p_cron, p_time_zone, v_end at time zone 'UTC', v_done at time zone 'UTC', null, p_on_gap, p_on_fold));
    end if;
  end loop;
  return v_count + pgtick.cron_count_walls(p_cron, v_done_wall, v_to at time zone 'UTC' at time zone p_time_zone);
end
$$;
comment on function pgtick.count_slots(pgtick.cron, text, timestamptz, timestamptz, text, text) is 'How many slots there are after p_from, up to and with p_to; by counting, so that years of every minute take a moment.';

create or replace function pgtick.last_slots(p_cron pgtick.cron, p_time_zone text, p_from timestamptz, p_to timestamptz, p_n integer, p_on_gap text default 'run', p_on_fold text default 'first')
returns timestamptz[]
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_look interval := interval '10 minutes';   -- how far back; seconds and days alone, so that the session's zone has no say
  v_from timestamptz;
  v_slots timestamptz[];
begin
  if p_from >= p_to or p_n < 1 then return '{}'; end if;
  loop
    v_from := greatest(p_from, p_to - v_look);
    v_slots := array(select s.slot from pgtick.slots_between(p_cron, p_time_zone, v_from, p_to, null, p_on_gap, p_on_fold) as s(slot));
    exit when cardinality(v_slots) >= p_n or v_from = p_from;
    v_look := v_look * 12;
  end loop;
  return v_slots[greatest(cardinality(v_slots) - p_n, 0) + 1:];
end
$$;
comment on function pgtick.last_slots(pgtick.cron, text, timestamptz, timestamptz, integer, text, text) is 'The newest p_n slots after p_from, up to and with p_to, in order.';

-- 3. Zones -----------------------------------------------------------------------------------------------------------------------

-- "at time zone" alone is no check: it takes UTC+99 and Mars/Base+3 (POSIX, sign reversed), 05:00, and CET as an abbreviation, which has
-- no summer time, where the zone of that name has. pg_timezone_names takes 27 ms, so it is read only for the names that need it.
-- Not parallel safe, nor is what calls it: an exception block is a subtransaction, which no parallel worker may begin (until PostgreSQL 17).
-- Etc/GMT goes from -14 to +12: past that PostgreSQL reads the name as POSIX text and takes any number of hours.
create or replace function pgtick.check_time_zone(p_time_zone text)
returns void
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_why text := 'is not known here';
  v_hint text;
begin
  if p_time_zone in ('UTC', 'GMT', 'Etc/UTC') then return; end if;
  if p_time_zone ~ '^[A-Za-z_]+(/[A-Za-z_-]+){1,2}$|^Etc/GMT([+]([0-9]|1[0-2])|-([0-9]|1[0-4]))$' and p_time_zone !~* '^(posix|right)/' then
    begin
      perform '2000-01-01'::timestamp at time zone p_time_zone;
      return;
    exception when invalid_parameter_value then null;
    end;
  elsif exists (select from pg_catalog.pg_timezone_abbrevs as a where a.abbrev = upper(p_time_zone)) then
    v_why := 'is an abbreviation with a fixed offset, without summer time';
  elsif p_time_zone !~* '^(posix|right)/|^(localtime|posixrules|factory)$'
    and exists (select from pg_catalog.pg_timezone_names as n where lower(n.name) = lower(p_time_zone)) then
    return;
  end if;
  -- UTC+2 is meant as two hours east of Greenwich, but Etc/GMT+2 is west
  if p_time_zone ~* '^(UTC|GMT)?([+](0?[0-9]|1[0-4])|-(0?[0-9]|1[0-2]))(:?00)?$' then
    raise exception using errcode = 'TK018', message = format('time zone "%s" is a fixed offset, without summer time', p_time_zone),
      hint = format('Name a place, such as Europe/Berlin; where a fixed offset is meant, Etc/GMT%s%s, which has the sign the other way round.',
        translate(substring(p_time_zone from '[+-]'), '+-', '-+'), substring(p_time_zone from '[+-]([0-9]{1,2})')::integer);
  end if;
  select string_agg(near.name, ', ') into v_hint from (
    select n.name
    from pg_catalog.pg_timezone_names as n,
      lateral (select count(*) from generate_series(1, length(p_time_zone) - 2) as i
        where strpos(lower(n.name), lower(substr(p_time_zone, i, 3))) > 0) as same(parts)
    where length(p_time_zone) <= 60 and n.name like '%/%' and n.name !~ '^(posix|right)/' and same.parts >= greatest(1, (length(p_time_zone) - 2) / 3)
    order by same.parts desc, abs(length(n.name) - length(p_time_zone)), n.name
    limit 3) as near;
  raise exception using errcode = 'TK018', message = format('time zone "%s" %s', coalesce(left(p_time_zone, 60), 'null'), v_why),
    hint = coalesce('Did you mean ' || v_hint || '?', 'Use a name as in pg_timezone_names, for example Europe/Berlin or UTC.');
end
$$;
comment on function pgtick.check_time_zone(text) is 'Raise TK018, with the nearest names, unless this is the full name of a time zone.';

-- The moments for which the rules above are known to be exact, and which a timestamp can still hold some slots later.
create or replace function pgtick.check_moment(p_field text, p_value timestamptz)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_value is null or p_value < '1970-01-01 00:00+00' or p_value >= '9999-01-01 00:00+00' then
    perform pgtick.invalid(p_field, p_value::text, 'it is a moment from 1970 to 9998', format('Leave %s out for now.', p_field));
  end if;
end
$$;
comment on function pgtick.check_moment(text, timestamptz) is 'Raise TK000, naming p_field, unless p_value is a moment from 1970 to 9998.';

create or replace function pgtick.next_run(p_cron text, p_after timestamptz default pgtick.now(), p_time_zone text default 'UTC')
returns timestamptz
language plpgsql stable parallel unsafe
set search_path = ''
as $$
begin
  perform pgtick.check_time_zone(p_time_zone);
  perform pgtick.check_moment('after', p_after);
  return pgtick.next_slot(pgtick.parse_cron(p_cron), p_time_zone, p_after);
end
$$;
comment on function pgtick.next_run(text, timestamptz, text) is 'The first slot of a cron expression strictly after p_after (from 1970 to 9998; default: now) in p_time_zone (default: UTC), with on_gap run and on_fold first; null when the zone has none within 41 years. Raises TK000, TK010 to TK016, TK018.';

create or replace function pgtick.preview(p_cron text, p_time_zone text default 'UTC', p_from_at timestamptz default pgtick.now(), p_n integer default 5)
returns setof timestamptz
language plpgsql stable parallel unsafe
set search_path = ''
as $$
begin
  perform pgtick.check_time_zone(p_time_zone);
  perform pgtick.check_moment('from_at', p_from_at);
  if p_n is null or p_n not between 1 and 10000 then
    perform pgtick.invalid('n', p_n::text, 'it goes from 1 to 10000');
  end if;
  return query select s.slot from pgtick.slots_between(pgtick.parse_cron(p_cron), p_time_zone, p_from_at, '9999-12-31 00:00+00', p_n) as s(slot);
end
$$;
comment on function pgtick.preview(text, text, timestamptz, integer) is 'The first p_n (1 to 10000, default 5) slots of a cron expression strictly after p_from_at (default: now) and before the end of the year 9999, in order, with on_gap run and on_fold first. Raises TK000, TK010 to TK016, TK018.';
$part$, true);
end
$pgtick$;

-- sql/11_describe.sql
do $pgtick$
begin
  perform set_config('pgtick.part_16', $part$
-- A cron expression in words. The words are exact: two expressions whose slots differ (in UTC) never read alike. So each phrase either
-- lists what it names, or gives first, last and step of what goes on evenly. Of zones nothing is said: lint does that.
-- Loops over small arrays, not queries: a query in plpgsql is planned anew for each array (several times slower, measured).

-- 1. Lists -----------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.english_list(p_items text[])
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
begin
  return case when cardinality(p_items) < 2 then p_items[1]
    else array_to_string(p_items[:cardinality(p_items) - 1], ', ') || ' and ' || p_items[cardinality(p_items)] end;
end
$$;
comment on function pgtick.english_list(text[]) is 'The items as a list: "a, b and c".';

create or replace function pgtick.time_of_day(p_minute integer)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
begin
  return to_char(make_interval(mins => (p_minute % 1440 + 1440) % 1440), 'HH24:MI');
end
$$;
comment on function pgtick.time_of_day(integer) is 'Minutes since midnight as 09:30; what is beyond a day wraps around.';

create or replace function pgtick.cron_values(p_bits varbit, p_low integer)
returns integer[]
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_values integer[] := '{}';
begin
  for v_bit in 0 .. length(p_bits) - 1 loop
    if get_bit(p_bits, v_bit) = 1 then v_values := v_values || (v_bit + p_low); end if;
  end loop;
  return v_values;
end
$$;
comment on function pgtick.cron_values(varbit, integer) is 'The values of a parsed field, in order; p_low is the value of its first bit.';

create or replace function pgtick.even_step(p_values integer[])
returns integer
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_step constant integer := p_values[2] - p_values[1];
begin
  for v_at in 3 .. cardinality(p_values) loop
    if p_values[v_at] - p_values[v_at - 1] <> v_step then return null; end if;
  end loop;
  return v_step;
end
$$;
comment on function pgtick.even_step(integer[]) is 'The distance from each value to the next where it is always the same; otherwise, and for fewer than two values, null.';

create or replace function pgtick.value_runs(p_values integer[])
returns integer[]
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_runs integer[] := '{}';
  v_low integer := p_values[1];
begin
  for v_at in 1 .. cardinality(p_values) loop
    if p_values[v_at + 1] is distinct from p_values[v_at] + 1 then
      v_runs := v_runs || array[array[v_low, p_values[v_at]]];
      v_low := p_values[v_at + 1];
    end if;
  end loop;
  return v_runs;
end
$$;
comment on function pgtick.value_runs(integer[]) is 'The runs of values without a gap between them, in order, each as {first, last}.';

-- Three or more in a row become '1 to 5', and seven or more that are evenly spaced '0, 7, 14 … 56'.
create or replace function pgtick.number_items(p_values integer[])
returns text[]
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_items text[] := '{}';
  v_runs integer[];
begin
  if cardinality(p_values) >= 7 and pgtick.even_step(p_values) > 1 then
    return array[format('%s, %s, %s … %s', p_values[1], p_values[2], p_values[3], p_values[cardinality(p_values)])];
  end if;
  v_runs := pgtick.value_runs(p_values);
  for v_at in 1 .. cardinality(v_runs) / 2 loop
    v_items := v_items || case v_runs[v_at][2] - v_runs[v_at][1] when 0 then array[v_runs[v_at][1]::text]
      when 1 then array[v_runs[v_at][1]::text, v_runs[v_at][2]::text] else array[format('%s to %s', v_runs[v_at][1], v_runs[v_at][2])] end;
  end loop;
  return v_items;
end
$$;
comment on function pgtick.number_items(integer[]) is 'Numbers as the items of an English list.';

-- Names go round: from Friday to Monday, from November to February.
create or replace function pgtick.describe_names(p_values integer[], p_names text[], p_plural text)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_size constant integer := cardinality(p_names);
  v_firsts integer[] := '{}';
  v_last integer;
  v_items text[] := '{}';
begin
  for v_at in 1 .. cardinality(p_values) loop
    v_items := v_items || (p_names[p_values[v_at]] || p_plural);
    if (p_values[v_at] + v_size - 2) % v_size + 1 <> all (p_values) then v_firsts := v_firsts || p_values[v_at]; end if;
    if p_values[v_at] % v_size + 1 <> all (p_values) then v_last := p_values[v_at]; end if;
  end loop;
  return case when cardinality(p_values) >= 3 and cardinality(v_firsts) = 1 then format('%s to %s', p_names[v_firsts[1]], p_names[v_last])
    else pgtick.english_list(v_items) end;
end
$$;
comment on function pgtick.describe_names(integer[], text[], text) is 'Weekdays or months (1 = the first of p_names) as an English list, or as "A to B" where they are three or more in a row, the end and the start of p_names being neighbours.';

-- 2. Times -----------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.describe_span(p_seconds bigint)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_units constant text[] := '{day,hour,minute,second}';
  v_sizes constant integer[] := '{86400,3600,60,1}';
  v_left bigint := p_seconds;
  v_items text[] := '{}';
begin
  for v_at in 1 .. 4 loop
    -- the largest unit is one that goes in without a rest, or more than twice
    if v_left >= v_sizes[v_at] and (cardinality(v_items) > 0 or v_left % v_sizes[v_at] = 0 or v_left > 2 * v_sizes[v_at]) then
      v_items := v_items || format('%s %s%s', v_left / v_sizes[v_at], v_units[v_at], case when v_left / v_sizes[v_at] > 1 then 's' else '' end);
      v_left := v_left % v_sizes[v_at];
    end if;
  end loop;
  return pgtick.english_list(v_items);
end
$$;
comment on function pgtick.describe_span(bigint) is 'A number of seconds (1 or more) in words: 90 seconds, 5 minutes, 2 hours and 30 minutes.';

create or replace function pgtick.describe_every(p_seconds integer)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
begin
  return case when p_seconds = 86400 then 'every day at 00:00 UTC'
    else 'every ' || regexp_replace(pgtick.describe_span(p_seconds), '^1 (second|minute|hour)$', E'\\1')
      || case when 86400 % p_seconds <> 0 then ', counted from 1970-01-01 00:00 UTC' || case when p_seconds % 604800 = 0 then ', a Thursday' else '' end
              when 3600 % p_seconds <> 0 then ', counted from 00:00 UTC' else '' end end;
end
$$;
comment on function pgtick.describe_every(integer) is 'An @every expression in words. Its grid is in UTC, which is said where it shows: where it does not divide an hour.';

-- The minutes, as part of hours that p_hours names ('each hour from 9 to 17'); null = every hour.
create or replace function pgtick.describe_minutes(p_minutes integer[], p_hours text)
returns text
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_count constant integer := cardinality(p_minutes);
  v_first constant integer := p_minutes[1];
  v_step constant integer := pgtick.even_step(p_minutes);
  v_every constant text := 'every ' || case when v_step > 1 then v_step || ' minutes' else 'minute' end;
  v_of constant text := coalesce(p_hours, 'every hour');
begin
  if v_step * v_count = 60 and v_first = 0 then
    return v_every || coalesce(' in ' || p_hours, '');
  elsif v_step * v_count = 60 and p_hours is null then
    return format('%s, starting at %s minute%s past the hour', v_every, v_first, case when v_first > 1 then 's' else '' end);
  elsif v_step is not null and v_count >= 4 then
    return format('%s from minute %s to minute %s of %s', v_every, v_first, p_minutes[v_count], v_of);
  elsif v_count = 1 and v_first = 0 and p_hours is null then
    return 'every hour';
  elsif v_count <= 6 and v_first > 0 and p_hours is null and v_step is distinct from 1 then
    return format('at %s minute%s past every hour', pgtick.english_list(p_minutes::text[]), case when p_minutes[v_count] > 1 then 's' else '' end);
  end if;
  return format('at minute%s %s of %s', case when v_count > 1 then 's' else '' end, pgtick.english_list(pgtick.number_items(p_minutes)), v_of);
end
$$;
comment on function pgtick.describe_minutes(integer[], text) is 'The minutes of a cron expression in words, of the hours that p_hours names; null = of every hour.';

-- 'from 09:00 to 17:45 and from 20:00 to 20:45': the hours' runs, from the first minute of each to its last. Null where they are more
-- than three, or shorter than p_least hours. Over midnight only where every day is alike.
create or replace function pgtick.describe_hour_runs(p_minutes integer[], p_hours integer[], p_least integer, p_every_day boolean)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_runs integer[] := pgtick.value_runs(p_hours);
  v_items text[] := '{}';
begin
  if p_every_day and p_hours @> '{0,23}' then   -- the run at midnight comes last
    v_runs[cardinality(v_runs) / 2][2] := v_runs[1][2] + 24;
    v_runs := v_runs[2:];
  end if;
  for v_at in 1 .. array_length(v_runs, 1) loop
    if v_at > 3 or v_runs[v_at][2] - v_runs[v_at][1] + 1 < p_least then return null; end if;
    v_items := v_items || format('from %s to %s', pgtick.time_of_day(v_runs[v_at][1] * 60 + p_minutes[1]),
      pgtick.time_of_day(v_runs[v_at][2] * 60 + p_minutes[cardinality(p_minutes)]));
  end loop;
  return pgtick.english_list(v_items);
end
$$;
comment on function pgtick.describe_hour_runs(integer[], integer[], integer, boolean) is 'The spans of the day that the hours make, or null where a list says it better.';

create or replace function pgtick.describe_times(p_minutes integer[], p_hours integer[], p_elapsed boolean, p_every_day boolean)
returns text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_first constant integer := p_hours[1] * 60 + p_minutes[1];
  v_last constant integer := p_hours[cardinality(p_hours)] * 60 + p_minutes[cardinality(p_minutes)];
  v_times constant integer := cardinality(p_minutes) * cardinality(p_hours);
  v_once constant boolean := cardinality(p_minutes) = 1;
  v_step constant integer := pgtick.even_step(p_minutes);
  v_hour_step constant integer := pgtick.even_step(p_hours);
  v_runs text;
  v_hour integer;
  v_minute integer;
  v_list text[] := '{}';
begin
  if cardinality(p_hours) = 24 then
    return pgtick.describe_minutes(p_minutes, null);
  elsif v_first = 0 and v_once and v_hour_step * cardinality(p_hours) = 24 and p_elapsed then
    return format('every %s hours', v_hour_step);
  end if;
  if v_times > 6 and (v_once or v_step * cardinality(p_minutes) = 60) then   -- what goes on evenly from one hour to the next
    v_runs := pgtick.describe_hour_runs(p_minutes, p_hours, case when v_once then 2 else 1 end, p_every_day);
    if v_runs is not null then
      return case when v_once then 'every hour' else 'every ' || case when v_step = 1 then 'minute' else v_step || ' minutes' end end || ' ' || v_runs;
    end if;
  end if;
  if v_times > 6 and v_once and v_hour_step is not null then
    return format('every %s hours from %s to %s', v_hour_step, pgtick.time_of_day(v_first), pgtick.time_of_day(v_last));
  elsif v_times > 6 and cardinality(p_hours) = 1 and v_step is not null then
    return format('every %s from %s to %s', case when v_step = 1 then 'minute' else v_step || ' minutes' end, pgtick.time_of_day(v_first), pgtick.time_of_day(v_last));
  elsif v_times <= 12 then
    foreach v_hour in array p_hours loop
      foreach v_minute in array p_minutes loop v_list := v_list || pgtick.time_of_day(v_hour * 60 + v_minute); end loop;
    end loop;
    return 'at ' || pgtick.english_list(v_list);
  end if;
  return pgtick.describe_minutes(p_minutes, case
    when cardinality(p_hours) = 1 then 'hour ' || p_hours[1]
    when v_hour_step = 1 and cardinality(p_hours) >= 3 then format('each hour from %s to %s', p_hours[1], p_hours[cardinality(p_hours)])
    else 'the hours ' || pgtick.english_list(pgtick.number_items(p_hours)) end);
end
$$;
comment on function pgtick.describe_times(integer[], integer[], boolean, boolean) is
  'The times of day of a cron expression in words. p_elapsed: elapsed time rules, so that "every 6 hours" may be said. p_every_day: it runs on every day of the year, so that a span may go over midnight.';

-- 3. Days ------------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.describe_dates(p_days integer[], p_last_day boolean, p_months integer[], p_month_list text)
returns text
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_count constant integer := cardinality(p_days);
  v_step constant integer := pgtick.even_step(p_days);
  v_one constant integer := case when v_count = 1 and not p_last_day then p_days[1] end;
  v_months constant text := case when v_one > 28 and p_month_list is null then 'every month that has one' when p_month_list is null then 'every month'
    when p_month_list ~ ' to ' then 'every month from ' || p_month_list else p_month_list end;
  v_items text[] := pgtick.number_items(p_days);
  v_day integer;
begin
  if v_one is not null and cardinality(p_months) = 1 then
    return format('on %s %s %s', v_one, p_month_list, case when v_one = 29 and p_months = '{2}' then 'in leap years' else 'every year' end);
  elsif v_count < 7 and cardinality(v_items) = v_count then   -- few, and no three in a row
    v_items := '{}';
    foreach v_day in array p_days loop
      v_items := v_items || (v_day || case when v_day in (1, 21, 31) then 'st' when v_day in (2, 22) then 'nd' when v_day in (3, 23) then 'rd' else 'th' end);
    end loop;
    if p_last_day then v_items := v_items || 'last day'::text; end if;
    return format('on the %s of %s', pgtick.english_list(v_items), v_months);
  end if;
  if v_step = 2 and p_days[1] <= 2 and p_days[v_count] >= 30 then
    v_items := array[case p_days[1] when 1 then 'the odd days' else 'the even days' end];
  else
    v_items[1] := 'days ' || v_items[1];
  end if;
  if p_last_day then v_items := v_items || 'the last day'::text; end if;
  return format('on %s of %s', pgtick.english_list(v_items), v_months);
end
$$;
comment on function pgtick.describe_dates(integer[], boolean, integer[], text) is 'Days of the month in words: on the 1st and last day of every month. p_month_list: the months as describe_names puts them.';

-- Only where the days of both fields count does a description need both. A field that names every day settles it: with "or" every day
-- matches, with "and" the other field decides.
create or replace function pgtick.describe(p_cron text)
returns text
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_cron constant pgtick.cron := pgtick.parse_cron(p_cron);
  v_hours constant integer[] := pgtick.cron_values(v_cron.hours, 0);
  v_days constant integer[] := pgtick.cron_values(v_cron.days, 1);
  v_months constant integer[] := pgtick.cron_values(v_cron.months, 1);
  v_week constant integer[] := pgtick.cron_values(substring(v_cron.weekdays from 2 for 7), 1);   -- Monday first
  v_by_date boolean := cardinality(v_days) < 31;
  v_by_weekday boolean := cardinality(v_week) < 7;
  v_month_list text;
  v_weekdays text;
  v_text text;
begin
  if v_cron.every_seconds is not null then return pgtick.describe_every(v_cron.every_seconds); end if;
  if v_cron.either_day and not (v_by_date and v_by_weekday) then
    v_by_date := false;
    v_by_weekday := false;
  end if;
  v_month_list := case when cardinality(v_months) < 12 then
    pgtick.describe_names(v_months, '{January,February,March,April,May,June,July,August,September,October,November,December}', '') end;
  v_weekdays := pgtick.describe_names(v_week, '{Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday}', 's');
  v_weekdays := case when v_weekdays ~ ' to ' then 'from ' else 'on ' end || v_weekdays;

  v_text := pgtick.describe_times(pgtick.cron_values(v_cron.minutes, 0), v_hours, v_cron.elapsed, not v_by_date and not v_by_weekday and v_month_list is null);
  if v_by_date then
    v_text := format('%s %s', v_text, pgtick.describe_dates(v_days, v_cron.last_day, v_months, v_month_list));
    if v_by_weekday and v_cron.either_day then
      v_text := format('%s, and also %s', v_text, v_weekdays)
        || case when v_month_list is null then '' when cardinality(v_months) = 1 then ' in that month' else ' in those months' end;
    elsif v_by_weekday then
      v_text := format('%s, but only %s', v_text, v_weekdays);
    end if;
  else
    v_text := case when not v_by_weekday and cardinality(v_hours) < 24 and v_text ~ '^at [0-9]' then 'every day ' else '' end || v_text
      || case when v_by_weekday then regexp_replace(' ' || v_weekdays, '^ from ', ', ') else '' end
      || case when v_month_list is null then ''
              when v_month_list ~ ' to ' then ', ' || v_month_list
              when v_by_weekday and v_weekdays ~ ' to ' then ', in ' || v_month_list
              else ' in ' || v_month_list end;
  end if;
  return v_text || case when cardinality(v_hours) = 24 and not v_cron.elapsed then ' (by the wall clock)' else '' end;
end
$$;
comment on function pgtick.describe(text) is
  'A cron expression in plain English: "every 15 minutes", "at 09:00, Monday to Friday". Expressions with different slots read differently; "(by the wall clock)": its times are fixed ones, so that an hour that comes twice counts once. Raises TK010 to TK016.';
$part$, true);
end
$pgtick$;

-- sql/12_lint.sql
do $pgtick$
begin
  perform set_config('pgtick.part_17', $part$
-- What is legal but probably not meant, a row each: the text names field and value, and says what to write instead.
-- parallel unsafe: check_time_zone and lint_schedules catch errors, which PostgreSQL before 17 refuses in a parallel query.

-- 1. One field -------------------------------------------------------------------------------------------------------------------

-- A step starts again with each hour, day, month, year or week, so only one that divides it goes on evenly. Ranges that do not span the
-- field have an end on purpose.
create or replace function pgtick.lint_steps(p_cron text, p_field integer, p_text text)
returns setof text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_lows constant integer[] := '{0,0,1,1,0}';
  v_highs constant integer[] := '{59,23,31,12,7}';
  v_sizes constant integer[] := '{60,24,31,12,7}';
  v_names constant text[] := '{minute,hour,day-of-month,month,weekday}';
  v_units constant text[] := '{minute,hour,day,month,day}';
  v_wholes constant text[] := '{hour,day,month,year,week}';
  v_low constant integer := v_lows[p_field];
  v_size constant integer := v_sizes[p_field];
  v_item text;
  v_parts text[];
  v_from integer;
  v_to integer;
  v_step integer;
  v_rest integer;
begin
  foreach v_item in array string_to_array(p_text, ',') loop
    v_parts := regexp_match(v_item, E'^(?:\\*|(\\w+)-(\\w+))/(\\d+)$');
    continue when v_parts is null;
    v_step := v_parts[3];
    v_from := case when v_parts[1] is null then v_low else pgtick.cron_number(p_cron, p_field, v_item, v_parts[1]) end;
    v_to := case when v_parts[2] is null then v_highs[p_field] else pgtick.cron_number(p_cron, p_field, v_item, v_parts[2]) end;
    if v_step > v_to - v_from then
      return next format('%s field "%s": the step is longer than the range, so that only %s is met; write %s, or a longer range',
        v_names[p_field], v_item, v_parts[1], v_parts[1]);
      continue;
    end if;
    if p_field = 5 then v_to := least(v_to, v_from + 6); end if;   -- 0 and 7 are the same day
    continue when v_step = 1 or v_from - v_low >= v_step or v_to - v_low < v_size - 1;
    if p_field = 3 then
      return next format('day-of-month field "%s": steps start again on the 1st, so the one around the end of a month is not %s days; name the days, such as 1,15, or write @every %sd for an even rhythm (in UTC)',
        v_item, v_step, v_step);
      continue;
    end if;
    v_rest := v_size + v_from - (v_to - (v_to - v_from) % v_step);
    continue when v_rest = v_step;
    return next format('%s field "%s": %s does not divide %s, so the last step of each %s is %s %s%s; ', v_names[p_field], v_item, v_step, v_size,
        v_wholes[p_field], v_rest, v_units[p_field], case when v_rest > 1 then 's' else '' end)
      || case when p_field = 5 then 'name the days, such as MON,WED,FRI'
        else 'write a step that divides it, such as ' || (
            select string_agg(near.step::text, ' or ' order by near.step)
            from (select max(d) filter (where d < v_step), min(d) filter (where d > v_step) from generate_series(1, v_size / 2) as d where v_size % d = 0) as s(below, above),
              unnest(array[s.below, s.above]) as near(step))
          || case p_field when 1 then format(', or @every %sm for an even rhythm', v_step)
                          when 2 then format(', or @every %sh for an even rhythm (in UTC)', v_step) else '' end end;
  end loop;
end
$$;
comment on function pgtick.lint_steps(text, integer, text) is 'What is odd about the steps of one field (1 = minute … 5 = weekday) of a lawful cron expression.';

create or replace function pgtick.lint_fields(p_parsed pgtick.cron, p_cron text, p_words text[])
returns setof text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_names constant text[] := '{minute,hour}';
begin
  for v_field in 1 .. 5 loop
    return query select s from pgtick.lint_steps(p_cron, v_field, p_words[v_field]) as s;
  end loop;
  for v_field in 1 .. 2 loop
    if position(B'0' in (case v_field when 1 then p_parsed.minutes::varbit else p_parsed.hours::varbit end)) = 0 and p_words[v_field] !~ '[*]' then
      return next format('%s field "%s" names every %s, ', v_names[v_field], p_words[v_field], v_names[v_field])
        || case when p_parsed.elapsed then 'as * does; write *'
          else format('each as a fixed time of its own, so on_gap and on_fold decide when the clock is put forward or back; write * for every %s that passes', v_names[v_field]) end;
    end if;
  end loop;
  if p_words[1] in ('*', '*/1') and position(B'0' in p_parsed.hours) > 0 then
    return next format('minute field "%s" with hour field "%s" is every minute of these hours, %s times a day; for once an hour write minute 0: "0 %s"',
      p_words[1], p_words[2], 60 * bit_count(p_parsed.hours), array_to_string(p_words[2:], ' '));
  end if;
end
$$;
comment on function pgtick.lint_fields(pgtick.cron, text, text[]) is 'What is odd about single fields, and about minute and hour together.';

-- 2. Days ------------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.lint_day_fields(p_parsed pgtick.cron, p_words text[])
returns setof text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_every_date constant boolean := position(B'0' in p_parsed.days) = 0;
  v_every_weekday constant boolean := position(B'0' in substring(p_parsed.weekdays from 1 for 7)) = 0;
  v_both constant text := format('day-of-month field "%s" and weekday field "%s" are both set', p_words[3], p_words[5]);
begin
  if p_parsed.either_day and (v_every_date or v_every_weekday) then
    return next format('%s: a day that matches either one runs, and %s matches every day; write * there for the other one alone',
      v_both, case when v_every_date then 'the first' else 'the second' end);
  elsif p_parsed.either_day then
    return next v_both || ': a day that matches either one runs; write * in one of them, and let the task check the other, for days that match both';
  elsif not v_every_date and not v_every_weekday then
    return next format('%s, and "%s" starts with *: only a day that matches both runs; write its values as a list for days that match either one, or * in one of them',
      v_both, case when left(p_words[3], 1) = '*' then p_words[3] else p_words[5] end);
  end if;
end
$$;
comment on function pgtick.lint_day_fields(pgtick.cron, text[]) is 'What is odd about day of the month and weekday together.';

-- Days 29 to 31 that are named one by one, or as a range of the last days. A longer range or a step that ends there means the rest of the month.
create or replace function pgtick.lint_late_days(p_parsed pgtick.cron, p_words text[])
returns setof text
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  v_months constant text[] := '{January,February,March,April,May,June,July,August,September,October,November,December}';
  v_item text;
  v_day integer;
  v_short text[] := '{}';
  v_month integer;
begin
  if p_parsed.last_day then return; end if;
  foreach v_item in array string_to_array(p_words[3], ',') loop
    if v_item ~ '^(28|29|30)-(29|30|31)$' then
      return next format('day-of-month field "%s": it is up to %s days of each month; for the last day alone write L', v_item, right(v_item, 2)::integer - left(v_item, 2)::integer + 1);
      return;
    elsif v_item ~ '^(29|30|31)$' then
      v_day := greatest(v_day, v_item::integer);
    end if;
  end loop;
  foreach v_month in array pgtick.cron_values(p_parsed.months, 1) loop
    if v_month = 2 and v_day >= 29 or v_month in (4, 6, 9, 11) and v_day = 31 then v_short := v_short || v_months[v_month]; end if;
  end loop;
  if cardinality(v_short) = 0 then return; end if;
  return next format('day-of-month field "%s": ', p_words[3])
    || case when v_day = 29 then 'February has a 29th in leap years only; for its last day write L'
      else format('%s no %s, and no other day stands in for it; for the last day of each month write L',
        pgtick.english_list(v_short) || case when cardinality(v_short) > 1 then ' have' else ' has' end, case v_day when 30 then '30th' else '31st' end) end;
end
$$;
comment on function pgtick.lint_late_days(pgtick.cron, text[]) is 'Whether days 29 to 31 are named in months that do not have them.';

-- 3. Intervals and zones ---------------------------------------------------------------------------------------------------------

create or replace function pgtick.every_text(p_seconds integer)
returns text
language sql immutable strict parallel safe
set search_path = ''
as $$
  select '@every ' || concat(nullif(p_seconds / 86400, 0) || 'd', nullif(p_seconds % 86400 / 3600, 0) || 'h', nullif(p_seconds % 3600 / 60, 0) || 'm', nullif(p_seconds % 60, 0) || 's')
$$;
comment on function pgtick.every_text(integer) is 'An interval as a cron expression: @every 1h30m.';

-- In steps of 6 days: no zone shifts twice in so short a time (see zone_shift).
create or replace function pgtick.zone_shifts(p_time_zone text, p_from timestamp, p_to timestamp)
returns table (shift timestamp, wall_before timestamp, wall_after timestamp)
language sql stable strict parallel safe
set search_path = ''
as $$
  select s.shift, s.shift + (((s.shift - interval '1 second') at time zone 'UTC' at time zone p_time_zone) - (s.shift - interval '1 second')),
    s.shift at time zone 'UTC' at time zone p_time_zone
  from generate_series(p_from, p_to, interval '6 days') as f(low)
  cross join lateral pgtick.zone_shift(p_time_zone, f.low, f.low + interval '6 days') as s(shift)
  where p_time_zone not in ('UTC', 'GMT', 'Etc/UTC') and s.shift is not null
    and (f.low at time zone 'UTC' at time zone p_time_zone) - f.low   -- a call of zone_shift costs more
      <> ((f.low + interval '6 days') at time zone 'UTC' at time zone p_time_zone) - (f.low + interval '6 days')
  order by s.shift
$$;
comment on function pgtick.zone_shifts(text, timestamp, timestamp) is
  'The shifts of a zone from p_from to 6 days after p_to at most: the moment (UTC, as timestamp), what its clock would have shown then, and what it shows.';

create or replace function pgtick.lint_every(p_cron text, p_seconds integer, p_time_zone text, p_now timestamptz)
returns setof text
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_unit constant integer := case when p_seconds % 3600 = 0 then 3600 when p_seconds % 60 = 0 then 60 else 1 end;
  v_now constant timestamp := p_now at time zone 'UTC';
  v_near text;
begin
  if p_seconds % 86400 = 0 and p_seconds > 86400 then
    return next format('"%s" counts its days from 1970-01-01 00:00 UTC, whatever the month and the time zone: the next one is %s; for days of your choice write five fields, such as 0 0 * * MON or 0 0 1,15 * *',
      p_cron, to_char(to_timestamp((floor(extract(epoch from p_now) / p_seconds) + 1) * p_seconds) at time zone 'UTC', 'FMDay, YYYY-MM-DD'));
  elsif 86400 % p_seconds <> 0 then
    if p_seconds > 86400 then
      v_near := format('%s or %s', pgtick.every_text(p_seconds / 86400 * 86400), pgtick.every_text((p_seconds / 86400 + 1) * 86400));
    else
      select string_agg(pgtick.every_text(near.seconds), ' or ' order by near.seconds) into v_near
      from (
        select max(d.seconds) filter (where d.seconds < p_seconds), min(d.seconds) filter (where d.seconds > p_seconds)
        from generate_series(1, 293) as i   -- the smaller one of each pair of divisors
        cross join lateral (values (i), (86400 / i)) as d(seconds)
        where 86400 % i = 0 and d.seconds % v_unit = 0) as s(below, above),
        unnest(array[s.below, s.above]) as near(seconds);
    end if;
    return next format('"%s" does not divide a day, so that its times differ from day to day (they are counted from 1970-01-01 00:00 UTC); for the same times each day write %s', p_cron, v_near);
  elsif exists (   -- a zone shows only where its clock is not ahead of UTC by a multiple of the interval
    select from (
      select (p_now at time zone p_time_zone) - v_now
      union all
      select z.wall_after - z.shift from pgtick.zone_shifts(p_time_zone, v_now, v_now + interval '13 months') as z) as o(ahead)
    where extract(epoch from o.ahead)::integer % p_seconds <> 0)
  then
    return next format('"%s" takes no notice of time zone %s: its times are counted from 00:00 UTC; for times of that zone write ', p_cron, p_time_zone)
      || case when p_seconds = 86400 then '0 0 * * *' when p_seconds = 3600 then '0 * * * *' when p_seconds % 3600 = 0 then format('0 */%s * * *', p_seconds / 3600)
        when p_seconds % 60 = 0 and 3600 % p_seconds = 0 then format('*/%s * * * *', p_seconds / 60) else 'five fields' end;
  end if;
end
$$;
comment on function pgtick.lint_every(text, integer, text, timestamptz) is 'What is odd about an @every expression: it does not divide a day, is longer than one, or is not seen at round times in the zone.';

-- The first gap and the first fold of the coming 13 months that hold one of the times. Where elapsed time rules, and it also runs in the
-- hours before and after, it goes on in its rhythm: nothing is odd then.
create or replace function pgtick.lint_shifts(p_parsed pgtick.cron, p_cron text, p_hour text, p_time_zone text, p_now timestamptz)
returns setof text
language plpgsql stable strict parallel safe
set search_path = ''
as $$
declare
  v_from constant timestamp := date_trunc('day', p_now at time zone 'UTC');
  v_what constant text := case when p_hour = '' then format('"%s"', p_cron) else format('hour field "%s"', p_hour) end;
  v_shift record;
  v_wall timestamp;
  v_gap text;
  v_fold text;
  v_low integer;
  v_high integer;
  v_start integer;
begin
  for v_shift in
    select z.wall_before < z.wall_after as is_gap, least(z.wall_before, z.wall_after) as low, greatest(z.wall_before, z.wall_after) as high
    from pgtick.zone_shifts(p_time_zone, v_from, v_from + interval '13 months') as z
    where z.shift > p_now at time zone 'UTC' and z.shift <= p_now at time zone 'UTC' + interval '13 months'
  loop
    -- the times of day that some shift touches, from the nearest midnight on
    v_start := extract(epoch from v_shift.low::time) / 60;
    v_start := v_start - case when v_start > 720 then 1440 else 0 end;
    v_low := least(v_low, v_start);
    v_high := greatest(v_high, v_start + (extract(epoch from v_shift.high - v_shift.low) / 60)::integer);
    v_wall := pgtick.cron_next_wall(p_parsed, v_shift.low - interval '1 microsecond');
    continue when v_wall is null or v_wall >= v_shift.high or (p_parsed.elapsed
      and pgtick.cron_next_wall(p_parsed, v_shift.low - interval '1 hour 1 microsecond') < v_shift.low
      and pgtick.cron_next_wall(p_parsed, v_shift.high - interval '1 microsecond') < v_shift.high + interval '1 hour');
    if v_shift.is_gap then
      v_gap := coalesce(v_gap, format('%s: %s does not exist in %s on %s, when the clock goes forward from %s to %s; ', v_what, to_char(v_wall, 'HH24:MI'),
        p_time_zone, to_char(v_wall, 'YYYY-MM-DD'), to_char(v_shift.low, 'HH24:MI'), to_char(v_shift.high, 'HH24:MI'))
        || case when p_parsed.elapsed then 'with * or / in minute or hour it is left out then; write both as lists to have on_gap decide'
          else format('it runs at %s, or with on_gap skip not at all; ', to_char(v_shift.high, 'HH24:MI')) end);
    else
      v_fold := coalesce(v_fold, format('%s: %s comes twice in %s on %s, when the clock goes back from %s to %s; ', v_what, to_char(v_wall, 'HH24:MI'),
        p_time_zone, to_char(v_wall, 'YYYY-MM-DD'), to_char(v_shift.high, 'HH24:MI'), to_char(v_shift.low, 'HH24:MI'))
        || case when p_parsed.elapsed then 'with * or / in minute or hour it runs twice then; write both as lists to have on_fold decide'
          else 'it runs the first time, or as on_fold says (first, last, both); ' end);
    end if;
  end loop;
  return query
  select t.text || case when p_parsed.elapsed then '' when position(B'0' in p_parsed.hours) = 0 then 'write * for every hour that passes'
    else format('write a time outside %s to %s', pgtick.time_of_day(v_low), pgtick.time_of_day(v_high - 1)) end
  from unnest(array[v_gap, v_fold]) as t(text)
  where t.text is not null;
end
$$;
comment on function pgtick.lint_shifts(pgtick.cron, text, text, text, timestamptz) is
  'Whether a shift of the zone in the 13 months after p_now takes or doubles a time of the expression. p_hour: the text of its hour field, or empty for a macro.';

-- 4. All of it -------------------------------------------------------------------------------------------------------------------

create or replace function pgtick.lint(p_cron text, p_time_zone text default 'UTC')
returns setof text
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_parsed constant pgtick.cron := pgtick.parse_cron(p_cron);
  v_cron constant text := btrim(p_cron, E' \t\n\r\f\v');
  v_words constant text[] := regexp_split_to_array(v_cron, E'\\s+');
  v_now constant timestamptz := pgtick.now();
begin
  perform pgtick.check_time_zone(p_time_zone);
  if v_parsed.every_seconds is not null then
    return query select e from pgtick.lint_every(v_cron, v_parsed.every_seconds, p_time_zone, v_now) as e;
    return;
  end if;
  if cardinality(v_words) = 5 then
    return query select f from pgtick.lint_fields(v_parsed, v_cron, v_words) as f;
    return query select d from pgtick.lint_day_fields(v_parsed, v_words) as d;
    return query select d from pgtick.lint_late_days(v_parsed, v_words) as d;
  end if;
  return query select s from pgtick.lint_shifts(v_parsed, v_cron, case cardinality(v_words) when 5 then v_words[2] else '' end, p_time_zone, v_now) as s;
  if pgtick.next_slot(v_parsed, p_time_zone, v_now) is null then
    return next format('"%s" never fires in %s: the clock there skips each of its times; write another time', v_cron, p_time_zone);
  end if;
end
$$;
comment on function pgtick.lint(text, text) is
  'What is legal about a cron expression in a time zone but probably not meant, a row each, with what to write instead; no row: nothing. Looks 13 months ahead for times that the zone''s clock skips or repeats. Raises TK010 to TK016, TK018.';

-- 5. Schedules -------------------------------------------------------------------------------------------------------------------

-- Newest first by index, a partition each, merged: it reads no more than it needs, and never more than the newest 1000 (of a task that
-- only fails).
create or replace function pgtick.usual_duration(p_task text)
returns interval
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return (   -- plpgsql, because it keeps the plan: over all partitions that takes longer to make than to run
    select percentile_cont(0.5) within group (order by d.took)
    from (
      select n.finished_at - n.started_at as took
      from (
        select h.state, h.started_at, h.finished_at
        from pgtick.history as h
        where h.task = p_task
        order by h.finished_at desc
        limit 1000) as n
      where n.state = 'done'
      order by n.finished_at desc
      limit 100) as d);
end
$$;
comment on function pgtick.usual_duration(text) is
  'How long a task usually takes: the median run time of its newest 100 done jobs, looked for among its newest 1000 finished ones; null where there is none.';

create or replace function pgtick.duration_text(p_duration interval)
returns text
language sql immutable strict parallel safe
set search_path = ''
as $$
  select case when p_duration < interval '1 second' then 'less than a second' else pgtick.describe_span(round(extract(epoch from p_duration))::bigint) end
$$;
comment on function pgtick.duration_text(interval) is 'A duration as people read it: 90 seconds, 2 hours and 30 minutes.';

create or replace function pgtick.schedule_warnings(p_schedule pgtick.schedule_defs)
returns setof text
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_usual constant interval := pgtick.usual_duration(p_schedule.task);
  v_endless pgtick.schedule_defs := p_schedule;
  v_slot timestamptz;
  v_minute timestamptz;
  v_next timestamptz;
  v_gap interval;
begin
  return query select l from pgtick.lint(p_schedule.cron, p_schedule.time_zone) as l;   -- first, for it checks the zone
  v_slot := pgtick.next_for(p_schedule, v_now);
  v_minute := date_trunc('minute', coalesce(p_schedule.next_at, v_slot));

  if v_slot is null and p_schedule.ends_at is not null then
    v_endless.ends_at := null;
    v_next := pgtick.next_for(v_endless, v_now);
    if v_next is not null then
      return next format('ends_at %s leaves no slot: the next one would be %s; write a later p_ends_at', pgtick.utc(p_schedule.ends_at), pgtick.utc(v_next));
    end if;
  end if;
  for v_at in 2 .. 8 loop
    exit when v_slot is null or (v_usual is null and p_schedule.jitter = interval '0');
    v_next := pgtick.next_for(p_schedule, v_slot);
    v_gap := least(v_gap, v_next - v_slot);
    v_slot := v_next;
  end loop;

  if v_gap < v_usual then
    return next format('cron "%s": its slots come as close as %s, and task "%s" usually takes %s, so that %s; write a longer interval', p_schedule.cron,
      pgtick.duration_text(v_gap), p_schedule.task, pgtick.duration_text(v_usual),
      case p_schedule.on_overlap when 'skip' then 'slots will be skipped' when 'allow' then 'its jobs will run side by side'
        when 'wait' then 'its jobs will wait longer and longer' else 'its jobs will be cancelled before they are done' end);
  end if;
  if p_schedule.jitter >= v_gap then
    return next format('jitter %s is not shorter than the least time between two slots, %s, so that a job may start after that of the next slot; write a shorter p_jitter',
      p_schedule.jitter, pgtick.duration_text(v_gap));
  end if;
  if p_schedule.must_finish_within < v_usual then
    return next format('must_finish_within %s is shorter than task "%s" usually takes, %s; write a longer p_must_finish_within', p_schedule.must_finish_within,
      p_schedule.task, pgtick.duration_text(v_usual));
  end if;
  if p_schedule.jitter < interval '1 minute' and (
    select count(*) from (
      select
      from pgtick.schedule_defs as s
      where coalesce(s.retry_at, s.next_at) >= v_minute and coalesce(s.retry_at, s.next_at) < v_minute + interval '1 minute' and s.next_at is not null
        and s.id is distinct from p_schedule.id
      limit 100) as crowd) = 100
  then
    return next format('cron "%s": at least 100 other schedules are due in the same minute, %s; write p_jitter => ''5 minutes'', or another minute', p_schedule.cron, pgtick.utc(v_minute));
  end if;
end
$$;
comment on function pgtick.schedule_warnings(pgtick.schedule_defs) is
  'What pgtick.lint says of a schedule''s cron and time zone, and what its next 8 slots, the usual duration of its task, its settings and the other schedules add. p_schedule need not be stored. Raises TK010 to TK016, TK018.';

create or replace function pgtick.lint_schedules(p_name text default null)
returns table (schedule text, warning text)
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
begin
  for v_schedule in
    select s.* from pgtick.schedule_defs as s where s.removed_at is null and (p_name is null or s.name = p_name) order by s.name
  loop
    begin
      return query select v_schedule.name, w from pgtick.schedule_warnings(v_schedule) as w;
    exception when sqlstate 'TK018' then   -- its zone is gone from the server: no reason to keep the others' warnings back
      return query select v_schedule.name, sqlerrm || '; write one that is in pg_timezone_names';
    end;
  end loop;
  if p_name is not null and not found then perform pgtick.refuse_schedule(p_name); end if;
end
$$;
comment on function pgtick.lint_schedules(text) is
  'What is legal but probably not meant about a schedule, or about all that are not removed (p_name null, the default): a row a warning, by name. Raises TK006.';
$part$, true);
end
$pgtick$;

-- sql/20_schedules.sql
do $pgtick$
begin
  perform set_config('pgtick.part_18', $part$
-- Schedules: every change is checked, accounts for what is past under the old version, and leaves a row in schedule_changes.
-- What a tick calls for each schedule is plpgsql even where one expression is enough: a function in SQL that has a search_path is never
-- inlined, and planned anew for each statement that calls it (measured: 0.1 ms and more a call).
-- Locks: each function takes one schedule's row, then writes slots, then jobs. FOR NO KEY UPDATE: run_now and the rows that refer to
-- the schedule need no more than its key.

create or replace function pgtick.utc(p_at timestamptz)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return pg_catalog.to_char(p_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS" UTC"');
end
$$;
comment on function pgtick.utc(timestamptz) is 'A moment as people read it in reasons and messages: to the second, in UTC.';

-- The share depends on nothing but schedule and slot, so that all clocks agree on it. Seconds, not an interval times the share: days of
-- an interval would be added in the session's time zone.
create or replace function pgtick.slot_run_at(p_schedule_id bigint, p_slot timestamptz, p_jitter interval)
returns timestamptz
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
begin
  return case when p_jitter = interval '0' then p_slot
    else p_slot + make_interval(secs => extract(epoch from p_jitter)::double precision
      * (hashint8extended(extract(epoch from p_slot)::bigint, p_schedule_id) & 4294967295) / 4294967296.0) end;
end
$$;
comment on function pgtick.slot_run_at(bigint, timestamptz, interval) is 'When the job of a slot may run: the slot, plus a share of p_jitter that is always the same for this schedule and slot.';

create or replace function pgtick.next_for(p_schedule pgtick.schedule_defs, p_after timestamptz)
returns timestamptz
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_slot constant timestamptz := pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone,
    greatest(p_after, p_schedule.starts_at - interval '1 microsecond'), p_schedule.on_gap, p_schedule.on_fold);
begin
  return case when v_slot >= p_schedule.ends_at then null else v_slot end;
end
$$;
comment on function pgtick.next_for(pgtick.schedule_defs, timestamptz) is 'The first slot of a schedule strictly after p_after, from starts_at on and before ends_at; null when there is none.';

create or replace function pgtick.record_version(p_schedule_id bigint, p_what text, p_at timestamptz, p_reason text default null, p_by text default null)
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$
  insert into pgtick.schedule_changes (schedule_id, version, changed_at, changed_by, what, definition, reason)
  select s.id, s.version, p_at, coalesce(p_by, pgtick.caller()), p_what,
    to_jsonb(s) - '{id,version,parsed,next_at,told_until,removed_at,broken_at,broken_why,retry_at,created_at}'::text[], p_reason
  from pgtick.schedule_defs as s
  where s.id = p_schedule_id
$$;
comment on function pgtick.record_version(bigint, text, timestamptz, text, text) is 'Write down the present version of a schedule, which applies from p_at on. p_by: null = the caller.';

create or replace function pgtick.refuse_schedule(p_name text)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_removed_at timestamptz;
  v_near text;
begin
  select s.removed_at into v_removed_at from pgtick.schedule_defs as s where s.name = p_name;
  v_near := pgtick.nearest_name(p_name, array(select x.name from pgtick.schedule_defs as x where x.removed_at is null limit 10000));
  raise exception using errcode = 'TK006',
    message = format('no schedule is named %s', coalesce('"' || left(p_name, 200) || '"', 'null')) || coalesce(': it was unscheduled at ' || pgtick.utc(v_removed_at), ''),
    hint = case when v_removed_at is not null then 'pgtick.schedule with this name brings it back.'
      when v_near is not null then format('Did you mean "%s"?', v_near) else 'The names are in pgtick.schedules.' end;
end
$$;
comment on function pgtick.refuse_schedule(text) is 'Raise TK006: no such schedule, with the nearest name as hint.';

create or replace function pgtick.locked_schedule(p_name text)
returns pgtick.schedule_defs
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
begin
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null for no key update;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  return v_schedule;
end
$$;
comment on function pgtick.locked_schedule(text) is 'The schedule of this name, its row locked until the transaction ends. Raises TK006.';

-- What is past belongs to the old version, so it is accounted for before anything changes. When that cannot be done (the schedule is
-- broken), p_give_up says whether the change goes on all the same: then one row stands for all its slots up to now.
create or replace function pgtick.account_before_change(p_schedule_id bigint, p_now timestamptz, p_give_up boolean)
returns pgtick.schedule_defs
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
  v_jobs integer;
  v_run_at timestamptz;
begin
  begin
    select a.jobs, a.run_at into v_jobs, v_run_at
    from pgtick.account(p_schedule_id, p_now, pgtick.latest_outage(p_now), pgtick.clock_name()) as a;
  exception when others then
    if pgtick.is_passing(sqlstate) then raise; end if;
    select s.* into v_schedule from pgtick.schedule_defs as s where s.id = p_schedule_id;
    if not p_give_up then
      raise exception using errcode = 'TK005', message = format('schedule "%s" is broken: %s', v_schedule.name, sqlerrm),
        hint = 'Put it right with pgtick.schedule, or remove it with pgtick.unschedule.';
    end if;
    perform pgtick.log_range(p_schedule_id, v_schedule.next_at, p_now, pgtick.guess_slots(v_schedule, p_now), 'missed_range', v_schedule.version,
      format('the schedule was broken: %s; what its slots from this one to %s were is not known for sure', sqlerrm, pgtick.utc(p_now)), 'broken', p_now, pgtick.clock_name());
  end;
  select s.* into v_schedule from pgtick.schedule_defs as s where s.id = p_schedule_id;
  if v_jobs > 0 then perform pgtick.wake(array[v_schedule.queue], v_run_at); end if;
  return v_schedule;
end
$$;
comment on function pgtick.account_before_change(bigint, timestamptz, boolean) is 'Account for the slots of a locked schedule up to p_now under its present version, and return its row. Raises TK005 where it is broken, unless p_give_up.';

create or replace function pgtick.guess_slots(p_schedule pgtick.schedule_defs, p_now timestamptz)
returns integer
language plpgsql stable parallel unsafe
set search_path = ''
as $$
begin
  return greatest(pgtick.count_slots(pgtick.parse_cron(p_schedule.cron), p_schedule.time_zone, p_schedule.next_at - interval '1 microsecond', p_now, p_schedule.on_gap, p_schedule.on_fold), 1);
exception when others then
  return 1;   -- its time zone, say, is gone
end
$$;
comment on function pgtick.guess_slots(pgtick.schedule_defs, timestamptz) is 'How many slots a broken schedule had from next_at to p_now, by its expression parsed anew; 1 where even that fails.';

-- Says what is wrong with the settings that only schedules have; those of their jobs are refuse_job's.
create or replace function pgtick.refuse_policies(p_on_missed text, p_catch_up_limit integer, p_catch_up_window interval, p_on_overlap text, p_on_gap text,
  p_on_fold text, p_jitter interval, p_starts_at timestamptz, p_ends_at timestamptz, p_must_finish_within interval)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_on_missed is null or p_on_missed not in ('skip', 'once', 'all') then
    perform pgtick.invalid('on_missed', p_on_missed, 'it is skip, once or all');
  end if;
  if p_catch_up_limit is null or p_catch_up_limit not between 0 and 10000 then
    perform pgtick.invalid('catch_up_limit', p_catch_up_limit::text, 'it goes from 0 to 10000');
  end if;
  if date_part('epoch', p_catch_up_window) <= 0 or date_part('epoch', p_catch_up_window) > 3660 * 86400 then
    perform pgtick.invalid('catch_up_window', p_catch_up_window::text, 'it is more than 0 and at most 3660 days', 'Leave it out for no bound in time.');
  end if;
  if p_on_overlap not in ('skip', 'allow', 'cancel', 'wait') then
    perform pgtick.invalid('on_overlap', p_on_overlap, 'it is skip, allow, cancel or wait');
  end if;
  if p_on_missed = 'all' and p_on_overlap in ('skip', 'cancel') then
    perform pgtick.invalid('on_overlap', p_on_overlap, 'with on_missed all it is wait or allow',
      'The slots that are caught up would skip or cancel one another: leave on_overlap out, and each waits for the one before it.');
  end if;
  if p_on_gap is null or p_on_gap not in ('run', 'skip') then
    perform pgtick.invalid('on_gap', p_on_gap, 'it is run or skip');
  end if;
  if p_on_fold is null or p_on_fold not in ('first', 'last', 'both') then
    perform pgtick.invalid('on_fold', p_on_fold, 'it is first, last or both');
  end if;
  if p_jitter is null or date_part('epoch', p_jitter) not between 0 and 86400 then
    perform pgtick.invalid('jitter', p_jitter::text, 'it goes from 0 to 1 day');
  end if;
  if p_starts_at is not null then perform pgtick.check_moment('starts_at', p_starts_at); end if;
  if p_ends_at is not null then perform pgtick.check_moment('ends_at', p_ends_at); end if;
  if p_starts_at >= p_ends_at then
    perform pgtick.invalid('ends_at', p_ends_at::text, format('it is later than starts_at, %s', p_starts_at));
  end if;
  if date_part('epoch', p_must_finish_within) <= 0 or date_part('epoch', p_must_finish_within) > 366 * 86400 then
    perform pgtick.invalid('must_finish_within', p_must_finish_within::text, 'it is more than 0 and at most 366 days', 'Leave it out to promise nothing.');
  end if;
end
$$;
comment on function pgtick.refuse_policies(text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval) is
  'Raise TK000, naming field, value and rule, when a schedule may not have these settings; otherwise do nothing.';

-- definer (this and the other functions that change schedules): service_role may manage schedules, but writes no table directly.
create or replace function pgtick.schedule(p_name text, p_cron text, p_task text, p_args jsonb default '{}', p_time_zone text default 'UTC',
  p_queue text default 'default', p_priority integer default 5, p_max_attempts integer default 20, p_timeout interval default '5 minutes',
  p_on_missed text default 'once', p_catch_up_limit integer default 100, p_catch_up_window interval default null, p_on_overlap text default null,
  p_on_gap text default 'run', p_on_fold text default 'first', p_jitter interval default '0', p_starts_at timestamptz default null,
  p_ends_at timestamptz default null, p_must_finish_within interval default null, p_owner_id uuid default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_old pgtick.schedule_defs;
  v_new pgtick.schedule_defs;
  v_now timestamptz;
  v_next_before timestamptz;
  v_told_until timestamptz;
begin
  perform pgtick.refuse_name('name', p_name);
  perform pgtick.note_declared(p_name);
  v_new.parsed := pgtick.parse_cron(p_cron);
  perform pgtick.check_time_zone(p_time_zone);
  perform pgtick.refuse_job(p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout);
  if p_task = 'sql' then perform pgtick.check_function_call(p_args); end if;
  perform pgtick.refuse_policies(p_on_missed, p_catch_up_limit, p_catch_up_window, p_on_overlap, p_on_gap, p_on_fold, p_jitter, p_starts_at,
    p_ends_at, p_must_finish_within);
  if pgtick.next_slot(v_new.parsed, p_time_zone, greatest(pgtick.now(), p_starts_at), p_on_gap, p_on_fold) is null then
    raise exception using errcode = 'TK019', message = format('cron "%s" never fires in time zone %s', left(p_cron, 200), p_time_zone),
      hint = 'The zone''s clock skips these times, or the calendar has no such day in the coming 41 years: choose another time, or on_gap run.';
  end if;

  loop
    select s.* into v_old from pgtick.schedule_defs as s where s.name = p_name for no key update;
    exit when found;
    v_now := pgtick.now();
    insert into pgtick.schedule_defs (name, cron, parsed, time_zone, task, args, queue, priority, max_attempts, timeout, on_missed, catch_up_limit,
      catch_up_window, on_overlap, on_gap, on_fold, jitter, starts_at, ends_at, must_finish_within, owner_id, source, created_at, removed_at)
    values (p_name, p_cron, v_new.parsed, p_time_zone, p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout, p_on_missed, p_catch_up_limit,
      p_catch_up_window, coalesce(p_on_overlap, case p_on_missed when 'all' then 'wait' else 'skip' end), p_on_gap, p_on_fold, p_jitter,
      p_starts_at, p_ends_at, p_must_finish_within, p_owner_id, pgtick.source(), v_now, null)
    on conflict (name) do nothing
    returning * into v_old;
    continue when not found;   -- another session has just made it
    update pgtick.schedule_defs as s set next_at = pgtick.next_for(v_old, v_now) where s.id = v_old.id returning s.* into v_old;
    perform pgtick.record_version(v_old.id, 'created', v_now);
    perform pg_catalog.pg_notify('pgtick_tick', '');
    perform pgtick.warn_of(v_old);
    return v_old.id;
  end loop;

  v_now := pgtick.now();
  v_next_before := v_old.next_at;
  if v_old.removed_at is null and pgtick.with_settings(v_old, v_new.parsed, p_cron, p_time_zone, p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout,
    p_on_missed, p_catch_up_limit, p_catch_up_window, p_on_overlap, p_on_gap, p_on_fold, p_jitter, p_starts_at, p_ends_at, p_must_finish_within,
    p_owner_id) is not distinct from v_old
  then
    return v_old.id;   -- so that a file of schedules can be applied again and again
  end if;
  v_old := pgtick.account_before_change(v_old.id, v_now, true);
  v_told_until := pgtick.take_back(v_old, v_now);
  v_new := pgtick.with_settings(v_old, v_new.parsed, p_cron, p_time_zone, p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout,
    p_on_missed, p_catch_up_limit, p_catch_up_window, p_on_overlap, p_on_gap, p_on_fold, p_jitter, p_starts_at, p_ends_at, p_must_finish_within,
    p_owner_id);
  update pgtick.schedule_defs as s
  set version = s.version + 1, cron = v_new.cron, parsed = v_new.parsed, time_zone = v_new.time_zone, task = v_new.task, args = v_new.args,
      queue = v_new.queue, priority = v_new.priority, max_attempts = v_new.max_attempts, timeout = v_new.timeout, on_missed = v_new.on_missed,
      catch_up_limit = v_new.catch_up_limit, catch_up_window = v_new.catch_up_window, on_overlap = v_new.on_overlap, on_gap = v_new.on_gap,
      on_fold = v_new.on_fold, jitter = v_new.jitter, starts_at = v_new.starts_at, ends_at = v_new.ends_at,
      must_finish_within = v_new.must_finish_within, owner_id = v_new.owner_id, source = v_new.source, next_at = pgtick.next_for(v_new, v_now),
      told_until = greatest(s.told_until, v_told_until), removed_at = null, broken_at = null, broken_why = null, retry_at = null
  where s.id = v_old.id
  returning s.* into v_new;
  perform pgtick.record_version(v_old.id, case when v_old.removed_at is null then 'changed' else 'created' end, v_now);
  if v_new.next_at < coalesce(v_next_before, 'infinity') then perform pg_catalog.pg_notify('pgtick_tick', ''); end if;
  perform pgtick.warn_of(v_new);
  return v_new.id;
end
$$;
comment on function pgtick.schedule(text, text, text, jsonb, text, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid) is
  'Create the schedule p_name, or replace it, and return its id. What is past stays accounted for under the old version; the new one applies from now on; the same definition again changes nothing.
p_cron: five fields, @hourly … @yearly, @every 90s. p_time_zone: a full name. p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout: of its jobs, as in pgtick.enqueue.
p_on_missed (slots that no clock took within 2 minutes): skip, once (the latest; default), all (the latest p_catch_up_limit, 0 to 10000, not older than p_catch_up_window).
p_on_overlap (while an earlier job of the schedule is ready or running): skip (default); allow; cancel (that one, and run when it has ended); wait (until it has ended; default with on_missed all, which else takes only allow).
p_on_gap (a fixed time that the zone skips): run (at the gap''s end), skip. p_on_fold (one that comes twice): first, last, both.
p_jitter: 0 to 1 day, spread over jobs by schedule and slot. p_starts_at: the first moment that may be a slot. p_ends_at: the first that may not. p_must_finish_within: shows in pgtick.health when no job is done so long after a slot. p_owner_id: goes to its jobs.
What is legal but probably not meant is said in a notice each (pgtick.lint_schedules). Raises TK000, TK010 to TK016, TK018, TK019.';

create or replace function pgtick.warn_of(p_schedule pgtick.schedule_defs)
returns void
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_warning text;
begin
  if current_setting('client_min_messages') in ('warning', 'error') and current_setting('log_min_messages') not like 'debug%'
    and current_setting('log_min_messages') not in ('info', 'notice')
  then
    return;   -- nobody would see it, and it is most of what pgtick.schedule costs
  end if;
  for v_warning in select w.warning from pgtick.schedule_warnings(p_schedule) as w(warning) loop
    raise notice 'schedule "%": %', p_schedule.name, v_warning;
  end loop;
end
$$;
comment on function pgtick.warn_of(pgtick.schedule_defs) is 'Say what is legal in a schedule but probably not meant, a notice each.';

create or replace function pgtick.source()
returns text
language sql stable parallel safe
set search_path = ''
as $$ select nullif(current_setting('pgtick.source', true), '') $$;
comment on function pgtick.source() is 'What declares schedules in this transaction: the setting pgtick.source, as pgtick schedules apply sets it; null = calls by hand.';

create or replace function pgtick.note_declared(p_name text)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_declared constant text := nullif(current_setting('pgtick.declared', true), '');
begin
  if v_declared is not null then perform set_config('pgtick.declared', (v_declared::jsonb || to_jsonb(p_name))::text, true); end if;
end
$$;
comment on function pgtick.note_declared(text) is 'Add a name to the setting pgtick.declared, a JSON array, where it is set: so that pgtick schedules apply knows what a file declares, changed or not.';

create or replace function pgtick.with_settings(p_schedule pgtick.schedule_defs, p_parsed pgtick.cron, p_cron text, p_time_zone text, p_task text, p_args jsonb,
  p_queue text, p_priority integer, p_max_attempts integer, p_timeout interval, p_on_missed text, p_catch_up_limit integer, p_catch_up_window interval,
  p_on_overlap text, p_on_gap text, p_on_fold text, p_jitter interval, p_starts_at timestamptz, p_ends_at timestamptz, p_must_finish_within interval,
  p_owner_id uuid)
returns pgtick.schedule_defs
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  p_schedule.parsed := p_parsed;
  p_schedule.cron := p_cron;
  p_schedule.time_zone := p_time_zone;
  p_schedule.task := p_task;
  p_schedule.args := p_args;
  p_schedule.queue := p_queue;
  p_schedule.priority := p_priority;
  p_schedule.max_attempts := p_max_attempts;
  p_schedule.timeout := p_timeout;
  p_schedule.on_missed := p_on_missed;
  p_schedule.catch_up_limit := p_catch_up_limit;
  p_schedule.catch_up_window := p_catch_up_window;
  p_schedule.on_overlap := coalesce(p_on_overlap, case p_on_missed when 'all' then 'wait' else 'skip' end);
  p_schedule.on_gap := p_on_gap;
  p_schedule.on_fold := p_on_fold;
  p_schedule.jitter := p_jitter;
  p_schedule.starts_at := p_starts_at;
  p_schedule.ends_at := p_ends_at;
  p_schedule.must_finish_within := p_must_finish_within;
  p_schedule.owner_id := p_owner_id;
  p_schedule.source := coalesce(pgtick.source(), p_schedule.source);   -- a change by hand does not take it from its file
  return p_schedule;
end
$$;
comment on function pgtick.with_settings(pgtick.schedule_defs, pgtick.cron, text, text, text, jsonb, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid) is
  'The row of a schedule with new settings; writes nothing.';

create or replace function pgtick.unschedule(p_name text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs := pgtick.locked_schedule(p_name);
  v_now constant timestamptz := pgtick.now();
begin
  v_schedule := pgtick.account_before_change(v_schedule.id, v_now, true);
  update pgtick.schedule_defs as s
  set version = s.version + 1, removed_at = v_now, next_at = null, paused_at = null, paused_until = null, broken_at = null, broken_why = null, retry_at = null
  where s.id = v_schedule.id;
  perform pgtick.record_version(v_schedule.id, 'removed', v_now);
end
$$;
comment on function pgtick.unschedule(text) is 'End a schedule: no slot after now. Its slots, versions and jobs stay, jobs not yet run included; pgtick.schedule with the same name brings it back. Raises TK006.';

create or replace function pgtick.rename_schedule(p_name text, p_new_name text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
  v_now timestamptz;
begin
  perform pgtick.refuse_name('new_name', p_new_name);
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null for update;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  if p_new_name = p_name then return; end if;
  v_now := pgtick.now();
  v_schedule := pgtick.account_before_change(v_schedule.id, v_now, true);
  begin
    update pgtick.schedule_defs as s set version = s.version + 1, name = p_new_name where s.id = v_schedule.id;
  exception when unique_violation then
    raise exception using errcode = 'TK007', message = format('the name "%s" is taken', p_new_name),
      hint = 'Choose another one. The name of a removed schedule stays with its history.';
  end;
  perform pgtick.record_version(v_schedule.id, 'renamed', v_now, format('it was named "%s"', p_name));
end
$$;
comment on function pgtick.rename_schedule(text, text) is 'Give a schedule another name (1 to 200 characters); its slots, versions and jobs go with it. Raises TK000, TK006, TK007 (taken).';

create or replace function pgtick.pause_schedule(p_name text, p_until timestamptz default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs := pgtick.locked_schedule(p_name);
  v_now constant timestamptz := pgtick.now();
begin
  if p_until is not null then
    perform pgtick.check_moment('until', p_until);
    if p_until <= v_now then
      perform pgtick.invalid('until', p_until::text, 'it lies in the future', 'Leave it out to pause until pgtick.resume_schedule.');
    end if;
  end if;
  v_schedule := pgtick.account_before_change(v_schedule.id, v_now, false);
  if v_schedule.paused_at is not null and v_schedule.paused_until is not distinct from p_until then return; end if;
  update pgtick.schedule_defs as s
  set version = s.version + 1, paused_at = coalesce(s.paused_at, v_now), paused_until = p_until
  where s.id = v_schedule.id;
  perform pgtick.record_version(v_schedule.id, 'paused', v_now);
end
$$;
comment on function pgtick.pause_schedule(text, timestamptz) is 'Make no jobs for the slots from now on: each is accounted for as skipped_paused. p_until: from that moment on it runs again by itself; null = until pgtick.resume_schedule. Raises TK000, TK005 (broken), TK006.';

create or replace function pgtick.resume_schedule(p_name text, p_catch_up boolean default false)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs := pgtick.locked_schedule(p_name);
  v_now constant timestamptz := pgtick.now();
begin
  if p_catch_up and v_schedule.on_missed = 'skip' then
    perform pgtick.invalid('catch_up', 'true', format('on_missed of schedule "%s" is skip, so that nothing is ever caught up', p_name),
      'Resume without catching up, or give the schedule on_missed once or all first.');
  end if;
  v_schedule := pgtick.account_before_change(v_schedule.id, v_now, false);
  if v_schedule.paused_at is null then return; end if;
  update pgtick.schedule_defs as s set version = s.version + 1, paused_at = null, paused_until = null where s.id = v_schedule.id;
  perform pgtick.record_version(v_schedule.id, 'resumed', v_now, case when p_catch_up then 'with catching up' end);
  if p_catch_up then perform pgtick.catch_up_pause(v_schedule, v_now); end if;
end
$$;
comment on function pgtick.resume_schedule(text, boolean) is
  'End a pause now. Slots that lay in it stay skipped (default); with p_catch_up on_missed decides about them as about missed ones: once runs the latest, all those within catch_up_limit and catch_up_window. A schedule that is not paused is left as it is. Raises TK000 (catch_up with on_missed skip), TK005 (broken), TK006.';

-- The slots of the pause have their rows already, skipped_paused: those that run after all get new ones, caught_up. Of a range the newest
-- are taken off, and the rest stays a range, by the version that named its slots.
create or replace function pgtick.catch_up_pause(p_schedule pgtick.schedule_defs, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_most constant integer := case p_schedule.on_missed when 'once' then 1 else p_schedule.catch_up_limit end;
  v_from constant timestamptz := greatest(p_schedule.paused_at, case when p_schedule.on_missed = 'all'
    then p_now - make_interval(secs => extract(epoch from p_schedule.catch_up_window)::double precision) end);
  v_taken timestamptz[] := '{}';
  v_row record;
  v_settled record;
begin
  for v_row in
    select l.slot, l.last_slot, l.version from pgtick.slot_log as l
    where l.schedule_id = p_schedule.id and l.fate in ('skipped_paused', 'skipped_range') and coalesce(l.last_slot, l.slot) >= v_from
    order by l.slot desc
  loop
    exit when cardinality(v_taken) >= v_most;
    if v_row.last_slot is null then
      delete from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.slot = v_row.slot;
      v_taken := v_row.slot || v_taken;
    else
      v_taken := pgtick.take_from_range(p_schedule.id, v_row.slot, v_from, v_most - cardinality(v_taken)) || v_taken;
    end if;
  end loop;
  if cardinality(v_taken) = 0 then return; end if;
  v_settled := pgtick.settle_slots(p_schedule, v_taken, array_fill('caught_up'::text, array[cardinality(v_taken)]), array_fill('paused'::text, array[cardinality(v_taken)]),
    array_fill(pgtick.why_paused(p_schedule) || '; resumed with catching up by ' || pgtick.caller(), array[cardinality(v_taken)]),
    array_fill(p_schedule.version, array[cardinality(v_taken)]), p_now, pgtick.clock_name());
  if v_settled.jobs > 0 then perform pgtick.wake(array[p_schedule.queue], v_settled.run_at); end if;
end
$$;
comment on function pgtick.catch_up_pause(pgtick.schedule_defs, timestamptz) is 'Run slots of the pause of a locked schedule (its row as it was while paused) after all, as on_missed and on_overlap say.';

create or replace function pgtick.take_from_range(p_schedule_id bigint, p_slot timestamptz, p_from timestamptz, p_most integer)
returns timestamptz[]
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_instant constant interval := interval '1 microsecond';
  v_range pgtick.slot_log;
  v_named pgtick.schedule_defs;   -- the schedule in the version that named these slots
  v_taken timestamptz[];
begin
  delete from pgtick.slot_log as l where l.schedule_id = p_schedule_id and l.slot = p_slot returning l.* into v_range;
  v_named := pgtick.in_version(p_schedule_id, v_range.version);
  v_taken := pgtick.last_slots(v_named.parsed, v_named.time_zone, greatest(p_from, p_slot) - v_instant, v_range.last_slot, p_most, v_named.on_gap, v_named.on_fold);
  perform pgtick.log_rest(v_named, v_range, coalesce(v_taken[1] - v_instant, v_range.last_slot));
  return v_taken;
end
$$;
comment on function pgtick.take_from_range(bigint, timestamptz, timestamptz, integer) is 'Take the newest p_most slots from p_from on off a range of skipped slots, and return them in order; what is left stays skipped.';

create or replace function pgtick.log_rest(p_named pgtick.schedule_defs, p_range pgtick.slot_log, p_until timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_left constant record := pgtick.passed_slots(p_named, p_range.slot - interval '1 microsecond', p_until);
begin
  if v_left.first_slot is not null then
    perform pgtick.log_range(p_named.id, v_left.first_slot, v_left.last_slot, v_left.slots, p_range.fate, p_range.version, p_range.reason, p_range.cause, p_range.recorded_at, p_range.clock);
  end if;
  insert into pgtick.slot_log (schedule_id, slot, fate, version, reason, cause, recorded_at, clock)
  select p_named.id, u.slot, case p_range.fate when 'missed_range' then 'missed' else 'skipped_paused' end, p_range.version, p_range.reason, p_range.cause,
    p_range.recorded_at, p_range.clock
  from unnest(v_left.singles) as u(slot);
end
$$;
comment on function pgtick.log_rest(pgtick.schedule_defs, pgtick.slot_log, timestamptz) is 'Write what is left, up to p_until, of a range that was deleted; p_named: the schedule in the version that named its slots.';

-- After a clock that was wrong is put right, slots to come may have their rows already. Those with a job keep them, so that none is done
-- twice; about the others the version that begins now decides anew.
create or replace function pgtick.take_back(p_schedule pgtick.schedule_defs, p_now timestamptz)
returns timestamptz
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_range pgtick.slot_log;
begin
  if coalesce(p_schedule.next_at, 'infinity') <= pgtick.next_for(p_schedule, p_now) then return null; end if;   -- nothing beyond now is accounted for
  delete from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.slot > p_now and l.job_id is null;
  for v_range in
    delete from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.last_slot > p_now returning l.*
  loop
    perform pgtick.log_rest(pgtick.in_version(p_schedule.id, v_range.version), v_range, p_now);
  end loop;
  return (select max(l.slot) from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.slot > p_now);
exception when others then
  if pgtick.is_passing(sqlstate) then raise; end if;
  return 'infinity';   -- it is broken, and its rows stay as they are
end
$$;
comment on function pgtick.take_back(pgtick.schedule_defs, timestamptz) is
  'Forget what became of those slots of a locked schedule that lie after p_now and made no job; p_schedule: its row before the change. Returns the newest slot after p_now that still has a row; null = none.';

create or replace function pgtick.in_version(p_schedule_id bigint, p_version integer)
returns pgtick.schedule_defs
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
begin
  select s.* into v_schedule
  from pgtick.schedule_changes as c
  cross join lateral jsonb_populate_record(null::pgtick.schedule_defs, c.definition) as s
  where c.schedule_id = p_schedule_id and c.version = p_version;
  v_schedule.id := p_schedule_id;
  v_schedule.version := p_version;
  v_schedule.parsed := pgtick.parse_cron(v_schedule.cron);
  return v_schedule;
end
$$;
comment on function pgtick.in_version(bigint, integer) is 'A schedule with the settings of one of its versions, its expression parsed anew; next_at and what only the present version has are null.';

-- A run by hand is a slot of its own kind. It never lies on a whole second, as every slot of a cron expression does, so it can take the
-- place of none. Only the key is locked: a tick of the same schedule does not wait for this transaction, nor it for the tick.
create or replace function pgtick.run_now(p_name text)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_schedule pgtick.schedule_defs;
  v_now timestamptz;
  v_slot timestamptz;
  v_job_id bigint;
begin
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null for key share;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  v_now := pgtick.now();
  v_slot := v_now;
  loop
    if v_slot = date_trunc('second', v_slot) then v_slot := v_slot + interval '1 microsecond'; end if;
    insert into pgtick.slot_log (schedule_id, slot, fate, version, reason, job_id, recorded_at, clock)
    values (v_schedule.id, v_slot, 'run_now', v_schedule.version, 'asked for by ' || pgtick.caller(), nextval('pgtick.live_jobs_id_seq'), v_now, pgtick.clock_name())
    on conflict do nothing
    returning job_id into v_job_id;
    exit when found;
    v_slot := v_slot + interval '1 microsecond';
  end loop;
  insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, schedule_id, slot, created_at)
  overriding system value
  values (v_job_id, v_schedule.task, v_schedule.queue, v_schedule.priority, v_now, v_schedule.max_attempts, v_schedule.timeout, v_schedule.args,
    v_schedule.owner_id, v_schedule.id, v_slot, v_now);
  perform pgtick.wake(array[v_schedule.queue], v_now);
  return v_job_id;
end
$$;
comment on function pgtick.run_now(text) is 'Make a job of this schedule now, paused or not and whatever else of it is live, and return the job''s id. The slot shows as run_now. Raises TK006.';

-- The newest slot whose time is up needs a done job, its own or that of a later slot. A job that history no longer holds is no evidence.
create or replace function pgtick.overdue_schedules(p_now timestamptz)
returns table (schedule_id bigint, name text, slot timestamptz, fate text, must_finish_within interval)
language sql stable parallel safe
set search_path = ''
as $$
  select s.id, s.name, due.slot, due.fate, s.must_finish_within
  from pgtick.schedule_defs as s
  cross join lateral (
    select l.slot, l.fate
    from pgtick.slot_log as l
    where l.schedule_id = s.id and l.slot <= p_now - make_interval(secs => extract(epoch from s.must_finish_within)::double precision)
      and l.fate not in ('skipped_paused', 'skipped_range', 'run_now')
    order by l.slot desc
    limit 1) as due
  where s.must_finish_within is not null and s.removed_at is null
    and not exists (
      select
      from pgtick.slot_log as l
      where l.schedule_id = s.id and l.slot >= due.slot and l.job_id is not null
        and not exists (select from pgtick.live_jobs as j where j.id = l.job_id)
        and not exists (select from pgtick.history as h where h.id = l.job_id and h.state <> 'done'))
$$;
comment on function pgtick.overdue_schedules(timestamptz) is 'The schedules whose newest slot that is older than must_finish_within has no done job, nor has any later one.';

-- Each kind of clock calls it, so that it is noticed as long as one of them lives.
-- definer: pg_cron's job and the runner's role call it, and write no table.
create or replace function pgtick.check_deadlines()
returns setof text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_late record;
begin
  if pg_try_advisory_xact_lock(hashtextextended('pgtick.overdue', 0)) then
    delete from pgtick.overdue as o where not exists (select from pgtick.overdue_schedules(v_now) as l where l.schedule_id = o.schedule_id);
    for v_late in
      insert into pgtick.overdue as o (schedule_id, slot, found_at)
      select l.schedule_id, l.slot, v_now from pgtick.overdue_schedules(v_now) as l order by l.schedule_id
      on conflict (schedule_id) do update set slot = excluded.slot where o.slot <> excluded.slot
      returning o.schedule_id, o.slot, o.found_at
    loop
      continue when v_late.found_at <> v_now;
      raise warning 'pgtick: schedule "%" has no done job for slot %, and its time is up', (select s.name from pgtick.schedule_defs as s where s.id = v_late.schedule_id), pgtick.utc(v_late.slot);
    end loop;
  end if;
  return query select s.name from pgtick.overdue as o join pgtick.schedule_defs as s on s.id = o.schedule_id order by s.name;
end
$$;
comment on function pgtick.check_deadlines() is
  'Look which schedules have had no done job within must_finish_within, write them to pgtick.overdue, warn once of each in the server''s log, and return their names. The clocks call it; never waits.';

create or replace function pgtick.schedule_health()
returns table (promise text, what text, evidence text, remedy text)
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
begin
  return query
  select 'every slot of a schedule is accounted for', 'schedule broken',
    format('schedule %s: since %s: %s; no slot from %s on is accounted for yet', s.name, pgtick.utc(s.broken_at), s.broken_why, pgtick.utc(s.next_at)),
    'Put it right with pgtick.schedule, or remove it with pgtick.unschedule.'
  from pgtick.schedule_defs as s
  where s.broken_at is not null;

  return query
  select 'every slot of a schedule is accounted for', 'no clock ticks',
    format('%s schedule%s due for more than 5 minutes, the oldest slot is %s; %s', count(*), case when count(*) > 1 then 's are' else ' is' end,
      pgtick.utc(min(s.next_at)), coalesce('the last tick was at ' || pgtick.utc((select max(c.ticked_at) from pgtick.clocks as c)), 'no clock has ever ticked')),
    'Start a runner (pgtick work), or see what pg_cron did: select * from cron.job_run_details order by runid desc limit 5.'
  from pgtick.schedule_defs as s
  where s.next_at is not null and coalesce(s.retry_at, s.next_at) < v_now - interval '5 minutes'
  having count(*) > 0;

  return query
  select 'a schedule''s job is done in time', 'schedule without a done job',
    format('schedule %s: slot %s (%s) is older than must_finish_within, %s, and no job of it or of a later slot is done', o.name, pgtick.utc(o.slot), o.fate, o.must_finish_within),
    format('See what became of its slots: select * from pgtick.slots where schedule = %L order by slot desc limit 10;', o.name)
  from pgtick.overdue_schedules(v_now) as o;
end
$$;
comment on function pgtick.schedule_health() is 'What is wrong with schedules now, a row each: broken ones, slots that no clock takes, and must_finish_within passed without a done job. Part of pgtick.health.';
$part$, true);
end
$pgtick$;

-- sql/21_tick.sql
do $pgtick$
begin
  perform set_config('pgtick.part_19', $part$
-- tick: what has become due since it was last looked at is worked out from the schedules alone, so that it does not matter which clock
-- calls, how many call at once, nor how long none did. One row a slot says what became of it; the job, where there is one, is made with it.
-- It waits for no lock: schedules are taken FOR NO KEY UPDATE SKIP LOCKED, and who holds a schedule accounts for it himself.

-- pg_cron says who it is by the backend's type where it runs jobs as background workers, and by the application's name where it connects.
create or replace function pgtick.clock_name()
returns text
language plpgsql stable parallel restricted
set search_path = ''
as $$
declare
  v_application constant text := current_setting('application_name');
begin
  return case
    when v_application like 'pgtick%' then 'runner'
    when v_application like E'pg\\_cron%' then 'pg_cron'
    when exists (select from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) as a where a.backend_type like E'pg\\_cron%') then 'pg_cron'
    else 'other' end;
end
$$;
comment on function pgtick.clock_name() is 'Which kind of clock this session is: pg_cron, runner (its application name starts with pgtick) or other.';

-- At most one write a second for each kind of clock. A first row would make a second caller wait for the first one's commit, hence the
-- advisory lock, which is only tried.
create or replace function pgtick.mark_clock(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_clock constant text := pgtick.clock_name();
  v_ticked_at timestamptz;
begin
  select c.ticked_at into v_ticked_at from pgtick.clocks as c where c.clock = v_clock;
  if v_ticked_at between p_now - interval '1 second' and p_now then
    return;
  elsif v_ticked_at is not null then
    update pgtick.clocks as c set ticked_at = p_now
    where c.clock = (select k.clock from pgtick.clocks as k where k.clock = v_clock for no key update skip locked);
  elsif pg_try_advisory_xact_lock(hashtextextended('pgtick.clocks', 0)) then
    insert into pgtick.clocks (clock, ticked_at) values (v_clock, p_now) on conflict do nothing;
  end if;
end
$$;
comment on function pgtick.mark_clock(timestamptz) is 'Note in pgtick.clocks that this kind of clock has ticked; never waits.';

-- What another try may cure is no fault of the schedule at hand: lost races, a full disk or memory, a shutdown, a lock timeout.
create or replace function pgtick.is_passing(p_sqlstate text)
returns boolean
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  return left(p_sqlstate, 2) in ('08', '40', '53', '57', '58') or p_sqlstate = '55P03';
end
$$;
comment on function pgtick.is_passing(text) is 'Whether an error has a cause that passes: transaction rolled back, resources, operator, system or lock timeout.';

create or replace function pgtick.server_started_at()
returns timestamptz
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return pg_catalog.pg_postmaster_start_time();
end
$$;
comment on function pgtick.server_started_at() is 'When the server was started. Tests replace this function.';

-- An outage is a time of more than 2 minutes in which no clock ticked. The tick that ends one writes it down, so that those after it, which
-- account for the rest of the schedules, know the cause as well.
create or replace function pgtick.latest_outage(p_now timestamptz)
returns pgtick.outages
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_outage pgtick.outages;
begin
  v_outage.began_at := coalesce((select max(c.ticked_at) from pgtick.clocks as c), '-infinity');
  if v_outage.began_at < p_now - interval '2 minutes' then
    v_outage.ended_at := p_now;
    v_outage.server_started_at := (select u.up_at from (select pgtick.server_started_at()) as u(up_at) where u.up_at > v_outage.began_at and u.up_at <= p_now);
  else
    select o.* into v_outage from pgtick.outages as o order by o.ended_at desc limit 1;
  end if;
  return v_outage;
end
$$;
comment on function pgtick.latest_outage(timestamptz) is 'The outage that a tick at p_now would end, or else the latest one noted; began_at -infinity: no clock had ever ticked.';

create or replace function pgtick.note_outage(p_outage pgtick.outages)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if isfinite(p_outage.began_at) and pg_try_advisory_xact_lock(hashtextextended('pgtick.outages', 0)) then
    insert into pgtick.outages values (p_outage.*) on conflict (began_at) do update set ended_at = greatest(outages.ended_at, excluded.ended_at);
  end if;
end
$$;
comment on function pgtick.note_outage(pgtick.outages) is 'Write an outage down; never waits: of several sessions that end it at once, one does.';

create or replace function pgtick.why_paused(p_schedule pgtick.schedule_defs)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return 'paused since ' || pgtick.utc(p_schedule.paused_at) || coalesce(' until ' || pgtick.utc(p_schedule.paused_until), '');
end
$$;
comment on function pgtick.why_paused(pgtick.schedule_defs) is 'The reason of a slot that lay in a pause.';

create or replace function pgtick.cause_missed(p_schedule pgtick.schedule_defs, p_slot timestamptz, p_outage pgtick.outages)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return case
    when p_schedule.broken_at is not null then 'broken'
    when p_slot > p_outage.began_at and p_slot < p_outage.server_started_at then 'server_down'
    when p_slot > p_outage.began_at and p_slot <= p_outage.ended_at then 'no_clock'
    else 'late' end;
end
$$;
comment on function pgtick.cause_missed(pgtick.schedule_defs, timestamptz, pgtick.outages) is
  'Why a slot was not taken in time, as far as it is known: broken; server_down (before the server''s start, and nothing had ticked since before the slot); no_clock; late (clocks ticked, but none reached it).';

create or replace function pgtick.why_missed(p_schedule pgtick.schedule_defs, p_slot timestamptz, p_now timestamptz, p_outage pgtick.outages)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return case
      when p_schedule.broken_at is not null then format('the schedule was broken from %s on: %s', pgtick.utc(p_schedule.broken_at), p_schedule.broken_why)
      when p_slot > p_outage.began_at and p_slot <= p_outage.ended_at then
        case when isfinite(p_outage.began_at) then format('no clock ticked from %s to %s', pgtick.utc(p_outage.began_at), pgtick.utc(p_outage.ended_at)) else 'no clock had ticked yet' end
        || coalesce('; the server was started at ' || pgtick.utc(p_outage.server_started_at), '')
      else format('no tick had reached it by %s', pgtick.utc(p_now)) end
    || '; on_missed ' || p_schedule.on_missed
    || case when p_schedule.on_missed = 'all'
      then format(', catch_up_limit %s', p_schedule.catch_up_limit) || coalesce(', catch_up_window ' || p_schedule.catch_up_window, '') else '' end;
end
$$;
comment on function pgtick.why_missed(pgtick.schedule_defs, timestamptz, timestamptz, pgtick.outages) is 'The reason of a slot that was not taken in time: the cause as far as it is known, and the policy.';

-- Up to 1,000 slots are told singly, more of them as one range that is counted and not listed: so forty days of every minute, or a year of
-- every second, are one row.
create or replace function pgtick.passed_slots(p_schedule pgtick.schedule_defs, p_from timestamptz, p_to timestamptz,
  out singles timestamptz[], out first_slot timestamptz, out last_slot timestamptz, out slots integer)
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  slots := pgtick.count_slots(p_schedule.parsed, p_schedule.time_zone, p_from, p_to, p_schedule.on_gap, p_schedule.on_fold);
  singles := '{}';
  if slots > 1000 then
    first_slot := pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone, p_from, p_schedule.on_gap, p_schedule.on_fold);
    last_slot := (pgtick.last_slots(p_schedule.parsed, p_schedule.time_zone, p_from, p_to, 1, p_schedule.on_gap, p_schedule.on_fold))[1];
  elsif slots > 0 then
    singles := array(select s.slot from pgtick.slots_between(p_schedule.parsed, p_schedule.time_zone, p_from, p_to, null, p_schedule.on_gap, p_schedule.on_fold) as s(slot));
  end if;
end
$$;
comment on function pgtick.passed_slots(pgtick.schedule_defs, timestamptz, timestamptz) is
  'The slots of a schedule after p_from, up to and with p_to, that make no job: up to 1,000 singly, otherwise the first, the last and how many.';

create or replace function pgtick.log_range(p_schedule_id bigint, p_first timestamptz, p_last timestamptz, p_slots integer, p_fate text, p_version integer, p_reason text,
  p_cause text, p_now timestamptz, p_clock text)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  insert into pgtick.slot_log (schedule_id, slot, last_slot, slots, fate, version, reason, cause, recorded_at, clock)
  values (p_schedule_id, p_first, p_last, p_slots, p_fate, p_version, p_reason, p_cause, p_now, p_clock)
  on conflict do nothing;
  return case when found then 1 else 0 end;
end
$$;
comment on function pgtick.log_range(bigint, timestamptz, timestamptz, integer, text, integer, text, text, timestamptz, text) is 'Write the one row of a range of slots. Returns how many rows.';

-- Slots have rows of their own in the time of a range only where the clock was set back and the schedule changed then.
create or replace function pgtick.log_untold(p_schedule pgtick.schedule_defs, p_first timestamptz, p_last timestamptz, p_slots integer, p_fate text, p_version integer,
  p_reason text, p_cause text, p_now timestamptz, p_clock text)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_instant constant interval := interval '1 microsecond';
  v_told timestamptz[];
  v_from timestamptz := p_first - v_instant;
  v_until timestamptz;
  v_slots integer;
  v_written integer := 0;
begin
  if p_schedule.told_until is null or p_schedule.told_until < p_first then
    return pgtick.log_range(p_schedule.id, p_first, p_last, p_slots, p_fate, p_version, p_reason, p_cause, p_now, p_clock);
  end if;
  v_told := array(select l.slot from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.slot between p_first and p_last order by l.slot);
  foreach v_until in array v_told || (p_last + v_instant) loop
    v_slots := pgtick.count_slots(p_schedule.parsed, p_schedule.time_zone, v_from, v_until - v_instant, p_schedule.on_gap, p_schedule.on_fold);
    if v_slots > 0 then
      v_written := v_written + pgtick.log_range(p_schedule.id, pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone, v_from, p_schedule.on_gap, p_schedule.on_fold),
        (pgtick.last_slots(p_schedule.parsed, p_schedule.time_zone, v_from, v_until - v_instant, 1, p_schedule.on_gap, p_schedule.on_fold))[1],
        v_slots, p_fate, p_version, p_reason, p_cause, p_now, p_clock);
    end if;
    v_from := v_until;
  end loop;
  return v_written;
end
$$;
comment on function pgtick.log_untold(pgtick.schedule_defs, timestamptz, timestamptz, integer, text, integer, text, text, timestamptz, text) is
  'Write a range of slots, or, where some of them have rows already, a range for each stretch between those. Returns how many rows.';

-- What on_overlap says of the slots that want a job, and the rows for all. Under skip the first of them has the job, if no earlier one
-- lives; under cancel the last one, and what lives is cancelled; under wait each has one, and all but the first wait their turn.
-- A job that waits is freed by what ends the one before it (unblock_overlap). So that neither misses the other, that one is locked FOR KEY
-- SHARE until this transaction ends. Where it is locked already it may end unseen: then rescue() frees the waiting one.
create or replace function pgtick.settle_slots(p_schedule pgtick.schedule_defs, p_slots timestamptz[], p_fates text[], p_causes text[], p_reasons text[], p_versions integer[],
  p_now timestamptz, p_clock text, out jobs integer, out slots integer, out run_at timestamptz)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_wants constant boolean := p_fates && '{enqueued,caught_up}';
  v_overlap constant text := p_schedule.on_overlap;
  v_live_id bigint;
  v_live_slot timestamptz;
  v_newest timestamptz;
begin
  if v_wants and v_overlap in ('wait', 'cancel') then
    perform from pgtick.live_jobs as j where j.schedule_id = p_schedule.id order by j.slot limit 1 for key share skip locked;
  end if;
  if v_wants and v_overlap <> 'allow' then   -- a new statement: what ended just before the lock is not seen any more
    select j.id, j.slot into v_live_id, v_live_slot from pgtick.live_jobs as j where j.schedule_id = p_schedule.id order by j.slot limit 1;
  end if;
  with fresh as (
    select l.*, l.fate in ('enqueued', 'caught_up') as wants_job,
      min(l.slot) over wanting as first_slot, max(l.slot) over wanting as newest_slot
    from unnest(p_slots, p_fates, p_causes, p_reasons, p_versions) as l(slot, fate, cause, reason, version)
    where not exists (select from pgtick.slot_log as g where g.schedule_id = p_schedule.id and g.slot = l.slot)
    window wanting as (partition by l.fate in ('enqueued', 'caught_up'))
  ), placed as (
    select f.*,
      f.wants_job and (v_overlap = 'skip' and (v_live_id is not null or f.slot <> f.first_slot) or v_overlap = 'cancel' and f.slot <> f.newest_slot) as clashes,
      f.wants_job and (v_overlap = 'wait' and (v_live_id is not null or f.slot <> f.first_slot) or v_overlap = 'cancel' and v_live_id is not null) as waits
    from fresh as f
    order by f.slot
  ), decided as materialized (
    select p.*, case when p.wants_job and not p.clashes then nextval('pgtick.live_jobs_id_seq') end as job_id
    from placed as p
  ), logged as (
    insert into pgtick.slot_log (schedule_id, slot, fate, version, cause, reason, job_id, recorded_at, clock)
    select p_schedule.id, d.slot, case when d.clashes then 'skipped_overlap' else d.fate end, d.version,
      case when d.clashes then 'overlap' else d.cause end,
      case
        when d.clashes and v_overlap = 'cancel' then format('slot %s, accounted for at the same moment, replaces it', pgtick.utc(d.newest_slot))
        when d.clashes and v_live_id is not null then format('job %s of slot %s was still live', v_live_id, pgtick.utc(v_live_slot))
        when d.clashes then format('slot %s, accounted for at the same moment, has the job', pgtick.utc(d.first_slot))
        when d.waits and v_live_id is null then concat_ws('; ', d.reason, 'it waits for the slot before it')
        when d.waits then concat_ws('; ', d.reason, format(case v_overlap when 'wait' then 'it waits for job %s of slot %s' else 'job %s of slot %s is cancelled for it' end, v_live_id, pgtick.utc(v_live_slot)))
        else d.reason end,
      d.job_id, p_now, p_clock
    from decided as d
    returning 1
  ), made as (
    insert into pgtick.live_jobs (id, task, queue, priority, run_at, blocked_by, max_attempts, timeout, args, owner_id, schedule_id, slot, created_at)
    overriding system value
    select d.job_id, p_schedule.task, p_schedule.queue, p_schedule.priority,
      case when d.waits then 'infinity' else greatest(pgtick.slot_run_at(p_schedule.id, d.slot, p_schedule.jitter), p_now) end,
      case when d.waits then 'overlap' end,
      p_schedule.max_attempts, p_schedule.timeout, p_schedule.args, p_schedule.owner_id, p_schedule.id, d.slot, p_now
    from decided as d
    where d.job_id is not null
    returning live_jobs.run_at, live_jobs.slot
  )
  select (select count(*) from made), (select count(*) from logged), (select min(m.run_at) from made as m), (select max(m.slot) from made as m)
  into settle_slots.jobs, settle_slots.slots, settle_slots.run_at, v_newest;
  if v_overlap = 'cancel' and v_newest is not null and v_live_id is not null then
    perform pgtick.stop_job(j.id, format('replaced by slot %s of its schedule (on_overlap cancel)', pgtick.utc(v_newest)), 'schedule ' || p_schedule.name, p_now)
    from pgtick.live_jobs as j
    where j.schedule_id = p_schedule.id and j.slot < v_newest;
  end if;
end
$$;
comment on function pgtick.settle_slots(pgtick.schedule_defs, timestamptz[], text[], text[], text[], integer[], timestamptz, text) is
  'Write what became of these slots (in order) of a locked schedule, as on_overlap lets them, and make their jobs. Returns how many jobs and rows, and the earliest run_at; the caller wakes the queue.';

-- Where the zone's rules have changed since next_at was worked out, go back to where the slots are known to be accounted for. No change of
-- rules moves a slot by two days, and no version reaches back before its start.
create or replace function pgtick.move_with_zone(p_schedule pgtick.schedule_defs, out p_from timestamptz, out p_version integer)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  p_from := greatest(p_schedule.next_at - interval '48 hours',
    (select max(coalesce(l.last_slot, l.slot)) from pgtick.slot_log as l where l.schedule_id = p_schedule.id and l.fate <> 'run_now'),
    (select c.changed_at from pgtick.schedule_changes as c where c.schedule_id = p_schedule.id and c.version = p_schedule.version),
    p_schedule.starts_at - interval '1 microsecond');
  update pgtick.schedule_defs as s set version = s.version + 1 where s.id = p_schedule.id returning s.version into p_version;
  perform pgtick.record_version(p_schedule.id, 'moved', p_from,
    format('the rules of %s have changed: %s is no slot any more', p_schedule.time_zone, pgtick.utc(p_schedule.next_at)), 'pgtick.tick');
end
$$;
comment on function pgtick.move_with_zone(pgtick.schedule_defs) is 'Begin a new version of a locked schedule whose next_at is no slot any more. Returns the moment from which on its slots are to be accounted for, and the version.';

-- Fates. Within 2 minutes of its time a slot is on time: pg_cron ticks once a minute, and may be late. After that it is missed, and
-- on_missed decides. A slot in a pause is skipped, whenever a clock comes by.
create or replace function pgtick.account(p_schedule_id bigint, p_now timestamptz, p_outage pgtick.outages, p_clock text,
  out jobs integer, out slots integer, out run_at timestamptz)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_instant constant interval := interval '1 microsecond';
  v_grace_from constant timestamptz := p_now - interval '2 minutes';
  v_schedule pgtick.schedule_defs;
  v_pause_end timestamptz := '-infinity';   -- slots before it lie in the pause
  v_paused_version integer;                  -- of those
  v_why_paused text;
  v_from timestamptz;
  v_to timestamptz;
  v_paused record;
  v_missed record;
  v_caught timestamptz[] := '{}';
  v_on_time timestamptz[] := '{}';
  v_settled record;
begin
  jobs := 0;
  slots := 0;
  select s.* into v_schedule from pgtick.schedule_defs as s where s.id = p_schedule_id;   -- the caller has locked it
  v_from := v_schedule.next_at - v_instant;
  v_to := least(p_now, v_schedule.ends_at - v_instant);
  if v_schedule.next_at <= p_now and pgtick.has_moved(v_schedule) then
    select m.p_from, m.p_version into v_from, v_schedule.version from pgtick.move_with_zone(v_schedule) as m;
  end if;
  v_paused_version := v_schedule.version;
  if v_schedule.paused_at is not null then
    v_why_paused := pgtick.why_paused(v_schedule);
    v_pause_end := case when v_schedule.paused_until <= p_now then v_schedule.paused_until else 'infinity' end;
  end if;
  if isfinite(v_pause_end) then
    update pgtick.schedule_defs as s set version = s.version + 1, paused_at = null, paused_until = null
    where s.id = p_schedule_id returning s.version into v_schedule.version;
    perform pgtick.record_version(p_schedule_id, 'resumed', v_pause_end, 'the pause was to end here', 'pgtick.tick');
  end if;
  if v_schedule.next_at is null or v_schedule.next_at > p_now then return; end if;

  v_paused := pgtick.passed_slots(v_schedule, v_from, least(v_to, v_pause_end - v_instant));
  if v_paused.first_slot is not null then
    slots := slots + pgtick.log_untold(v_schedule, v_paused.first_slot, v_paused.last_slot, v_paused.slots, 'skipped_range', v_paused_version, v_why_paused, 'paused', p_now, p_clock);
  end if;
  v_from := greatest(v_from, v_pause_end - v_instant);

  if v_schedule.on_missed <> 'skip' then
    v_caught := pgtick.last_slots(v_schedule.parsed, v_schedule.time_zone,
      case when v_schedule.on_missed = 'all' then greatest(v_from, p_now - make_interval(secs => extract(epoch from v_schedule.catch_up_window)::double precision) - v_instant) else v_from end,
      least(v_to, v_grace_from - v_instant), case v_schedule.on_missed when 'once' then 1 else v_schedule.catch_up_limit end, v_schedule.on_gap, v_schedule.on_fold);
  end if;
  v_missed := pgtick.passed_slots(v_schedule, v_from, least(v_to, v_grace_from - v_instant, v_caught[1] - v_instant));
  if v_missed.first_slot is not null then
    slots := slots + pgtick.log_untold(v_schedule, v_missed.first_slot, v_missed.last_slot, v_missed.slots, 'missed_range', v_schedule.version,
      pgtick.why_missed(v_schedule, v_missed.last_slot, p_now, p_outage), pgtick.cause_missed(v_schedule, v_missed.last_slot, p_outage), p_now, p_clock);
  end if;

  v_from := greatest(v_from, v_grace_from - v_instant);
  if v_from < v_to then
    v_on_time := array(select s.slot from pgtick.slots_between(v_schedule.parsed, v_schedule.time_zone, v_from, v_to, null, v_schedule.on_gap, v_schedule.on_fold) as s(slot));
  end if;

  select s.jobs, account.slots + s.slots, s.run_at into account.jobs, account.slots, account.run_at
  from (
    select array_agg(x.slot order by x.slot) as slots, array_agg(x.fate order by x.slot) as fates, array_agg(x.version order by x.slot) as versions,
      array_agg(case when x.fate = 'skipped_paused' then 'paused' when x.fate <> 'enqueued' then pgtick.cause_missed(v_schedule, x.slot, p_outage) end order by x.slot) as causes,
      array_agg(case when x.fate = 'skipped_paused' then v_why_paused when x.fate <> 'enqueued' then pgtick.why_missed(v_schedule, x.slot, p_now, p_outage) end order by x.slot) as reasons
    from (
      select u.slot, 'skipped_paused', v_paused_version from unnest(v_paused.singles) as u(slot)
      union all
      select u.slot, 'missed', v_schedule.version from unnest(v_missed.singles) as u(slot)
      union all
      select u.slot, 'caught_up', v_schedule.version from unnest(v_caught) as u(slot)
      union all
      select u.slot, 'enqueued', v_schedule.version from unnest(v_on_time) as u(slot)
    ) as x(slot, fate, version)) as a
  cross join lateral pgtick.settle_slots(v_schedule, a.slots, a.fates, a.causes, a.reasons, a.versions, p_now, p_clock) as s;

  update pgtick.schedule_defs as s set next_at = pgtick.next_for(s, p_now), broken_at = null, broken_why = null, retry_at = null where s.id = p_schedule_id;
end
$$;
comment on function pgtick.account(bigint, timestamptz, pgtick.outages, text) is
  'Account for the slots of one schedule up to p_now; the caller has locked its row. p_outage: as from latest_outage, p_clock: as from clock_name. Returns how many jobs it made and slot rows it wrote, and the earliest run_at; the caller wakes the queue.';

create or replace function pgtick.has_moved(p_schedule pgtick.schedule_defs)
returns boolean
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return p_schedule.time_zone <> 'UTC' and (p_schedule.parsed).every_seconds is null
    and pgtick.next_slot(p_schedule.parsed, p_schedule.time_zone, p_schedule.next_at - interval '1 microsecond', p_schedule.on_gap, p_schedule.on_fold)
      is distinct from p_schedule.next_at;
end
$$;
comment on function pgtick.has_moved(pgtick.schedule_defs) is 'Whether next_at is no slot any more, since the time zone''s rules have changed.';

-- The common case in one statement: schedules of which exactly one slot is due. It leaves the others (several slots due, just broken, at
-- the end of a pause, moved by new time zone rules, a job to wait for or to cancel) to account(), one by one.
-- It joins nothing that it has made: such rows are guessed to be few, and each would be compared with each. Nor can rows clash: under the
-- lock of the schedule nobody else writes its slots.
create or replace function pgtick.tick_singles(p_ids bigint[], p_now timestamptz, p_outage pgtick.outages,
  out jobs integer, out done bigint[], out queues text[], out run_at timestamptz)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_clock constant text := pgtick.clock_name();
  v_grace_from constant timestamptz := p_now - interval '2 minutes';
begin
  with due as materialized (
    select s.*, s as schedule, f.following
    from pgtick.schedule_defs as s
    cross join lateral (select pgtick.next_slot(s.parsed, s.time_zone, s.next_at, s.on_gap, s.on_fold) offset 0) as f(following)   -- offset 0: worked out once
    where s.id = any (p_ids) and s.broken_at is null and (s.paused_until is null or s.paused_until > p_now)
      and (f.following is null or f.following > p_now)
      and (s.time_zone = 'UTC' or not pgtick.has_moved(s))
    order by s.next_at, s.id
  ), placed as (
    select d.*, live.job_id as live_job_id, live.slot as live_slot, case
      when exists (select from pgtick.slot_log as g where g.schedule_id = d.id and g.slot = d.next_at) then null   -- it has its row
      when d.paused_at is not null then 'skipped_paused'
      when d.next_at < v_grace_from and (d.on_missed = 'skip' or d.on_missed = 'all' and (d.catch_up_limit = 0
        or d.next_at < p_now - make_interval(secs => extract(epoch from d.catch_up_window)::double precision))) then 'missed'
      when live.job_id is not null then 'skipped_overlap'
      when d.next_at < v_grace_from then 'caught_up'
      else 'enqueued' end as fate
    from due as d
    left join lateral (
      select j.id, j.slot from pgtick.live_jobs as j
      where d.on_overlap <> 'allow' and j.schedule_id = d.id
      order by j.slot
      limit 1) as live(job_id, slot) on true
    where live.job_id is null or d.on_overlap = 'skip'
  ), fated as materialized (
    select p.*, case when p.fate in ('enqueued', 'caught_up') then nextval('pgtick.live_jobs_id_seq') end as job_id
    from placed as p
  ), logged as (
    insert into pgtick.slot_log (schedule_id, slot, fate, version, cause, reason, job_id, recorded_at, clock)
    select f.id, f.next_at, f.fate, f.version, case
        when f.fate = 'skipped_paused' then 'paused'
        when f.fate = 'skipped_overlap' then 'overlap'
        when f.fate in ('missed', 'caught_up') then pgtick.cause_missed(f.schedule, f.next_at, p_outage) end,
      case
        when f.fate = 'skipped_paused' then pgtick.why_paused(f.schedule)
        when f.fate = 'skipped_overlap' then format('job %s of slot %s was still live', f.live_job_id, pgtick.utc(f.live_slot))
        when f.fate in ('missed', 'caught_up') then pgtick.why_missed(f.schedule, f.next_at, p_now, p_outage) end,
      f.job_id, p_now, v_clock
    from fated as f
    where f.fate is not null
  ), made as (
    insert into pgtick.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, owner_id, schedule_id, slot, created_at)
    overriding system value
    select f.job_id, f.task, f.queue, f.priority, greatest(pgtick.slot_run_at(f.id, f.next_at, f.jitter), p_now), f.max_attempts, f.timeout, f.args,
      f.owner_id, f.id, f.next_at, p_now
    from fated as f
    where f.job_id is not null
    returning live_jobs.queue, live_jobs.run_at
  ), moved_on as (
    update pgtick.schedule_defs as s set next_at = case when f.following >= f.ends_at then null else f.following end
    from fated as f
    where s.id = f.id
    returning s.id
  )
  select (select count(*) from made), array(select m.id from moved_on as m), array(select distinct m.queue from made as m), (select min(m.run_at) from made as m)
  into tick_singles.jobs, tick_singles.done, tick_singles.queues, tick_singles.run_at;
end
$$;
comment on function pgtick.tick_singles(bigint[], timestamptz, pgtick.outages) is
  'Account for those of the locked schedules p_ids of which exactly one slot is due. Returns how many jobs it made, the schedules it is done with, and what to wake.';

-- definer: pgtick_runner calls it, and writes no table directly.
-- A broken schedule is tried again a minute later, and the others go on. One that breaks the common statement is found by taking each by
-- itself, once: from then on it is marked. A chunk ends at p_most slots, or where single ones take longer than so many do together (0.1 ms
-- each): its locks are short. A runner asks for few, since it claims between them.
-- A plan may be made while the tables are empty: so each row is looked up by index, one by one, and nothing that looks dear (clocks has
-- no index that helps) is compiled for it.
-- It waits for none but, for a moment, what a job to be cancelled says of its progress; in vain, that schedule is left to the next call.
create or replace function pgtick.tick_chunk(p_most integer default 5000, out jobs integer, out schedules integer)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '200ms'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_outage constant pgtick.outages := pgtick.latest_outage(v_now);
  v_clock constant text := pgtick.clock_name();
  v_ids bigint[];
  v_id bigint;
  v_singles record;
  v_one record;
  v_slots integer := 0;
  v_queues text[] := '{}';
  v_run_at timestamptz;
begin
  if p_most is null or p_most not between 1 and 10000 then perform pgtick.invalid('most', p_most::text, 'it goes from 1 to 10000'); end if;
  jobs := 0;
  schedules := 0;
  if v_outage.ended_at = v_now then perform pgtick.note_outage(v_outage); end if;
  perform pgtick.mark_clock(v_now);
  v_ids := array(
    select s.id
    from pgtick.schedule_defs as s
    where coalesce(s.retry_at, s.next_at) <= v_now and s.next_at is not null
    order by coalesce(s.retry_at, s.next_at)
    limit p_most
    for no key update skip locked);
  if cardinality(v_ids) = 0 then return; end if;

  begin
    v_singles := pgtick.tick_singles(v_ids, v_now, v_outage);
    jobs := v_singles.jobs;
    schedules := cardinality(v_singles.done);
    v_slots := schedules;
    v_queues := v_singles.queues;
    v_run_at := v_singles.run_at;
    v_ids := array(
      select u.id from unnest(v_ids) with ordinality as u(id, place)
      where u.id not in (select d.id from unnest(v_singles.done) as d(id))
      order by u.place);
  exception when others then
    if pgtick.is_passing(sqlstate) then raise; end if;   -- otherwise one by one, to find the one at fault
  end;

  foreach v_id in array v_ids loop
    exit when schedules > 0 and (v_slots >= p_most or pgtick.now() - v_now > p_most * interval '100 microseconds');   -- each call gets on
    begin
      v_one := pgtick.account(v_id, v_now, v_outage, v_clock);
      jobs := jobs + v_one.jobs;
      v_slots := v_slots + v_one.slots;
      if v_one.jobs > 0 then
        v_run_at := least(v_run_at, v_one.run_at);
        v_queues := v_queues || (select s.queue from pgtick.schedule_defs as s where s.id = v_id);
      end if;
    exception
    when lock_not_available then null;
    when others then
      if pgtick.is_passing(sqlstate) then raise; end if;
      update pgtick.schedule_defs as s
      set broken_at = coalesce(s.broken_at, v_now), broken_why = format('%s (%s)', sqlerrm, sqlstate), retry_at = v_now + interval '1 minute'
      where s.id = v_id;
    end;
    schedules := schedules + 1;
  end loop;

  if jobs > 0 then
    v_queues := array(select distinct q.queue from unnest(v_queues) as q(queue));
    perform pgtick.wake(v_queues, v_run_at);
  end if;
end
$$;
comment on function pgtick.tick_chunk(integer) is 'One chunk of tick(), of at most p_most slots (1 to 10,000; default 5,000), but a schedule never in parts: how many jobs it made, and how many schedules it looked at; 0 = nothing was due that another session does not hold. Raises TK000.';

create or replace function pgtick.tick()
returns integer
language sql volatile parallel unsafe security definer   -- as tick_chunk
set search_path = ''
as $$ select t.jobs from pgtick.tick_chunk() as t $$;
comment on function pgtick.tick() is 'Account for what has become due, one chunk (at most 5,000 slots, but a schedule never in parts) in the caller''s transaction, and return how many jobs it made. Any number of sessions may call it at once: each slot happens once, and none waits for another. 0 does not mean that nothing is left: see pgtick.next_tick_at().';

-- definer: as tick.
create or replace function pgtick.next_tick_at()
returns timestamptz
language sql stable parallel safe security definer
set search_path = ''
as $$
  select coalesce(s.retry_at, s.next_at)
  from pgtick.schedule_defs as s
  where s.next_at is not null
  order by coalesce(s.retry_at, s.next_at)
  limit 1
$$;
comment on function pgtick.next_tick_at() is 'When the next slot is due (or a broken schedule to be tried again); null when no schedule has one. In the past: call tick(). A change that brings it nearer is notified on the channel pgtick_tick.';

-- definer: as tick; run_ticks cannot be, since it commits.
create or replace function pgtick.upkeep_due(p_what text, p_every interval)
returns boolean
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  select not exists (
    select from pgtick.upkeep as u
    where u.what = p_what and u.done_at between pgtick.now() - case when u.problem is null then p_every else least(p_every, interval '1 minute') end and pgtick.now())
$$;
comment on function pgtick.upkeep_due(text, interval) is 'Whether this kind of upkeep was last done longer ago than p_every, or never; after one with a problem, than a minute.';

-- Commits, so it can neither be definer nor have a search_path of its own: every name is written in full. A failure is a warning, which
-- pg_cron writes into the server's log, and what follows goes on. No exception block may hold a commit, hence each commit after its block.
create or replace procedure pgtick.run_ticks()
language plpgsql
as $$
declare
  v_until constant pg_catalog.timestamptz := pgtick.now() operator(pg_catalog.+) '50 seconds'::pg_catalog.interval;
  v_schedules pg_catalog.int4;
begin
  loop
    begin
      v_schedules := (select t.schedules from pgtick.tick_chunk() as t);
    exception when others then
      raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.tick: ', sqlerrm);
      v_schedules := 0;
    end;
    commit;
    exit when v_schedules operator(pg_catalog.=) 0 or pgtick.now() operator(pg_catalog.>=) v_until;
  end loop;

  begin
    perform pgtick.rescue();
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.rescue: ', sqlerrm);
  end;
  commit;

  begin
    perform pgtick.check_deadlines();
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.check_deadlines: ', sqlerrm);
  end;
  commit;

  begin
    if pgtick.upkeep_due('maintain', '1 hour'::pg_catalog.interval) then
      perform pgtick.maintain();
    end if;
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.maintain: ', sqlerrm);
  end;
  commit;

  begin
    if pgtick.upkeep_due('indexes', '5 minutes'::pg_catalog.interval) then
      perform pgtick.rebuild_indexes();
    end if;
  exception when others then
    raise warning using errcode = sqlstate, message = pg_catalog.concat('pgtick.rebuild_indexes: ', sqlerrm);
  end;
  commit;
end
$$;
comment on procedure pgtick.run_ticks() is 'For pg_cron and people: tick() and commit until nothing is due, at most 50 seconds; then rescue(), check_deadlines(), once an hour maintain(), and every five minutes rebuild_indexes(), each in a transaction of its own, whatever became of the others. Not inside a transaction block.';
$part$, true);
end
$pgtick$;

-- sql/22_calendar.sql
do $pgtick$
begin
  perform set_config('pgtick.part_20', $part$
-- Looking at schedules: whether every slot has its row, what a change would do, what is to come, and why nothing comes.

-- The version that names a slot is the one in force just before it was replaced, so each covers the time after changed_at, up to and with
-- the moment at which the next one took over. The present one is answerable for what lies before next_at: what comes after is still due.
-- pgtick.schedule decides anew about all that comes after it, also where the clock was set back before: then no earlier version answers for that, the one
-- that was made ahead of time as little as those before it. A pause or another name does not, so such a version answers for nothing that lies before the
-- one that it continues (era: from one pgtick.schedule to the next).
create or replace function pgtick.version_windows(p_from timestamptz, p_to timestamptz)
returns table (schedule_id bigint, schedule text, version integer, after_at timestamptz, until_at timestamptz)
language sql stable parallel safe
set search_path = ''
as $$
  select w.id, w.name, w.version, w.after_at, w.until_at
  from (
    select s.id, s.name, c.version,
      greatest(p_from, max(c.changed_at) over (partition by c.schedule_id, c.era order by c.version), (c.definition ->> 'starts_at')::timestamptz - interval '1 microsecond') as after_at,
      least(p_to, lead(c.changed_at) over (partition by c.schedule_id order by c.version),
        min(c.changed_at) filter (where c.what in ('created', 'changed')) over (partition by c.schedule_id order by c.version desc rows between unbounded preceding and 1 preceding),   -- a frame that begins anew at each row would cost the square of all versions
        (c.definition ->> 'ends_at')::timestamptz - interval '1 microsecond',
        case when c.version = s.version then s.next_at - interval '1 microsecond' end) as until_at,
      c.what
    from (
      select x.*, count(*) filter (where x.what in ('created', 'changed')) over (partition by x.schedule_id order by x.version) as era from pgtick.schedule_changes as x) as c
    join pgtick.schedule_defs as s on s.id = c.schedule_id
  ) as w
  where w.what <> 'removed' and w.after_at < w.until_at
$$;
comment on function pgtick.version_windows(timestamptz, timestamptz) is 'For each version of each schedule the time after p_from, up to and with p_to, whose slots it has to account for.';

create or replace function pgtick.unaccounted_in(p_schedule_id bigint, p_schedule text, p_version integer, p_after timestamptz, p_until timestamptz)
returns table (schedule text, slot timestamptz, version integer, why text)
language plpgsql stable parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan   -- to plan over all the days' partitions takes longer than to run
as $$
declare
  v_named pgtick.schedule_defs;
begin
  v_named := pgtick.in_version(p_schedule_id, p_version);
  return query
  with ranges as materialized (
    select l.slot, l.last_slot, l.slots, l.version
    from pgtick.slot_log as l
    where l.schedule_id = p_schedule_id and l.last_slot > p_after and l.slot <= p_until
  ), told as materialized (
    select l.slot from pgtick.slot_log as l
    where l.schedule_id = p_schedule_id and l.slot > p_after and l.slot <= p_until and l.fate <> 'run_now'
  )
  select p_schedule, c.slot, p_version, 'it has no row in pgtick.slots'
  from pgtick.slots_between(v_named.parsed, v_named.time_zone, p_after, p_until, null, v_named.on_gap, v_named.on_fold) as c(slot)
  where not exists (select from told as t where t.slot = c.slot)
    and not exists (select from ranges as r where c.slot between r.slot and r.last_slot)
  union all
  select p_schedule, r.slot, p_version, format('the range from here to %s counts %s slots, the calendar %s', pgtick.utc(r.last_slot), r.slots, n.slots)
  from ranges as r
  cross join lateral (
    select pgtick.count_slots(v_named.parsed, v_named.time_zone, r.slot - interval '1 microsecond', r.last_slot, v_named.on_gap, v_named.on_fold)) as n(slots)
  where r.version = p_version and n.slots <> r.slots
  order by 2;
exception when others then
  return query select p_schedule, null::timestamptz, p_version, format('the slots from %s to %s cannot be worked out any more: %s', pgtick.utc(p_after), pgtick.utc(p_until), sqlerrm)
  where not exists (   -- it was known to be broken, and has its one row
    select from pgtick.slot_log as l where l.schedule_id = p_schedule_id and l.version = p_version and l.cause = 'broken' and l.last_slot >= p_until);
end
$$;
comment on function pgtick.unaccounted_in(bigint, text, integer, timestamptz, timestamptz) is 'unaccounted_slots for the time of one version of one schedule.';

create or replace function pgtick.unaccounted_slots(p_since interval default '30 days')
returns table (schedule text, slot timestamptz, version integer, why text)
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_oldest constant timestamptz := ((v_now at time zone 'UTC')::date - pgtick.slot_retention_days())::timestamp at time zone 'UTC' - interval '1 microsecond';
begin
  if p_since is null or date_part('epoch', p_since) <= 0 then
    perform pgtick.invalid('since', p_since::text, 'it is more than 0', 'Say how far back to look, such as 30 days; slots older than their retention are not looked for.');
  end if;
  return query
  select u.schedule, u.slot, u.version, u.why
  from pgtick.version_windows(greatest(v_oldest, v_now - make_interval(secs => least(extract(epoch from p_since), 1e9)::double precision)), v_now) as w
  cross join lateral pgtick.unaccounted_in(w.schedule_id, w.schedule, w.version, w.after_at, w.until_at) as u
  order by u.schedule, u.slot;
end
$$;
comment on function pgtick.unaccounted_slots(interval) is
  'Work out the calendar of the last p_since (default 30 days; at most as long as slots are kept) anew from the versions of all schedules, and return each slot that has no row in pgtick.slots, a range with a wrong count, or a time that cannot be worked out: always empty. Slots from next_at on are due, not lost: pgtick.health tells of clocks that do not tick. Costs 1 to 2 µs a slot. Raises TK000.';

create or replace function pgtick.check_until(p_until_at timestamptz, p_now timestamptz)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if not isfinite(p_until_at) or p_until_at <= p_now or p_until_at > p_now + interval '366 days' then
    perform pgtick.invalid('until_at', p_until_at::text, 'it lies in the future, at most 366 days ahead');
  end if;
end
$$;
comment on function pgtick.check_until(timestamptz, timestamptz) is 'Raise TK000 unless p_until_at is null or lies within the 366 days after p_now.';

create or replace function pgtick.preview_change(p_name text, p_cron text default null, p_time_zone text default null, p_until_at timestamptz default null)
returns table (slot timestamptz, change text)
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_most constant integer := 10000;
  v_now constant timestamptz := pgtick.now();
  v_schedule pgtick.schedule_defs;
  v_from timestamptz;
  v_to timestamptz;
  v_zone text;
  v_old timestamptz[];
  v_new timestamptz[];
begin
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  perform pgtick.check_until(p_until_at, v_now);
  v_zone := coalesce(p_time_zone, v_schedule.time_zone);
  perform pgtick.check_time_zone(v_zone);
  v_from := greatest(v_now, v_schedule.starts_at - interval '1 microsecond');
  v_to := least(coalesce(p_until_at, v_now + interval '30 days'), v_schedule.ends_at - interval '1 microsecond');
  v_old := array(select s.slot from pgtick.slots_between(v_schedule.parsed, v_schedule.time_zone, v_from, v_to, v_most, v_schedule.on_gap, v_schedule.on_fold) as s(slot));
  v_new := array(select s.slot from pgtick.slots_between(pgtick.parse_cron(coalesce(p_cron, v_schedule.cron)), v_zone, v_from, v_to, v_most, v_schedule.on_gap, v_schedule.on_fold) as s(slot));
  v_to := least(v_to, v_old[v_most], v_new[v_most]);   -- beyond it one of them is not known
  return query
  select coalesce(o.slot, n.slot), case when o.slot is null then 'added' else 'dropped' end
  from unnest(v_old) as o(slot)
  full join unnest(v_new) as n(slot) on n.slot = o.slot
  where (o.slot is null or n.slot is null) and coalesce(o.slot, n.slot) <= v_to
  order by 1;
end
$$;
comment on function pgtick.preview_change(text, text, text, timestamptz) is
  'The slots that pgtick.schedule with another cron or time zone (null: as it is) would add to, or drop from, the time from now to p_until_at (default: 30 days, at most 366; for dense ones the time in which each side has 10,000). Changes nothing. Raises TK000, TK006, TK010 to TK016, TK018.';

-- Played through slot by slot: a job takes as long as its task usually does, and one that runs now is over when that time is.
create or replace function pgtick.forecast_of(p_schedule pgtick.schedule_defs, p_now timestamptz, p_until_at timestamptz, p_usual interval)
returns table (slot timestamptz, run_at timestamptz, ends_at timestamptz, expected text, overlapping boolean)
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_takes constant interval := coalesce(p_usual, interval '0');
  v_busy_until timestamptz := (
    select greatest(p_now, coalesce(min(j.started_at), p_now) + v_takes) + (count(*) - 1) * v_takes from pgtick.live_jobs as j where j.schedule_id = p_schedule.id having count(*) > 0);
begin
  for slot in
    select s.slot from pgtick.slots_between(p_schedule.parsed, p_schedule.time_zone, greatest(p_now, p_schedule.starts_at - interval '1 microsecond'),
      least(p_until_at, p_schedule.ends_at - interval '1 microsecond'), 10000, p_schedule.on_gap, p_schedule.on_fold) as s(slot)
  loop
    run_at := pgtick.slot_run_at(p_schedule.id, slot, p_schedule.jitter);
    overlapping := coalesce(slot < v_busy_until, false);
    expected := case
      when p_schedule.paused_at is not null and (p_schedule.paused_until is null or slot < p_schedule.paused_until) then 'skipped_paused'
      when not overlapping then 'enqueued'
      else case p_schedule.on_overlap when 'skip' then 'skipped_overlap' when 'wait' then 'waits' when 'cancel' then 'replaces' else 'enqueued' end end;
    overlapping := overlapping and expected <> 'skipped_paused';
    if expected = 'waits' then run_at := greatest(run_at, v_busy_until); end if;
    ends_at := case when expected not like 'skipped%' then run_at + p_usual end;
    if expected not like 'skipped%' then
      v_busy_until := case expected when 'replaces' then run_at + v_takes else greatest(v_busy_until, run_at + v_takes) end;
    end if;
    return next;
  end loop;
end
$$;
comment on function pgtick.forecast_of(pgtick.schedule_defs, timestamptz, timestamptz, interval) is 'The coming slots of one schedule up to p_until_at, at most 10,000, and what will probably become of them when a job takes p_usual.';

create or replace function pgtick.forecast(p_until_at timestamptz default null)
returns table (slot timestamptz, schedule text, task text, queue text, run_at timestamptz, usual_duration interval, ends_at timestamptz, expected text, overlapping boolean, load integer)
language plpgsql stable parallel safe
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
begin
  perform pgtick.check_until(p_until_at, v_now);
  return query
  with usual as materialized (
    select t.task, pgtick.usual_duration(t.task) as takes
    from (select distinct s.task from pgtick.schedule_defs as s where s.next_at is not null) as t
  ), coming as (
    select f.*, s.name, s.task, s.queue, u.takes, case when f.expected not like 'skipped%' then 1 end as starts
    from pgtick.schedule_defs as s
    join usual as u on u.task = s.task
    cross join lateral pgtick.forecast_of(s, v_now, coalesce(p_until_at, v_now + interval '1 day'), u.takes) as f
    where s.next_at is not null
  )
  select c.slot, c.name, c.task, c.queue, c.run_at, c.takes, c.ends_at, c.expected, c.overlapping,
    (count(c.starts) over (partition by date_trunc('minute', c.run_at)))::integer
  from coming as c
  order by c.slot, c.name;
end
$$;
comment on function pgtick.forecast(timestamptz) is
  'What will run from now to p_until_at (default: a day, at most 366), without running it; of a schedule at most 10,000 slots. usual_duration: of its task, the median of the newest 100 done jobs, null when there are none. ends_at: when its job would then end. expected: enqueued, waits, replaces (the job before it), skipped_overlap, skipped_paused. overlapping: whether an earlier job of the schedule would still be live. load: how many jobs are expected to start in the same minute. Raises TK000.';

create or replace function pgtick.why_schedule(p_name text)
returns table (rank integer, reason text, evidence text, remedy text)
language plpgsql stable parallel safe
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
  v_schedule pgtick.schedule_defs;
begin
  select s.* into v_schedule from pgtick.schedule_defs as s where s.name = p_name and s.removed_at is null;
  if not found then perform pgtick.refuse_schedule(p_name); end if;
  return query
  with live as (
    select j.id, j.slot, j.runner_id, j.started_at, j.run_at, j.attempt
    from pgtick.live_jobs as j
    where j.schedule_id = v_schedule.id
    order by j.slot
    limit 1
  ), latest as (
    select l.slot, l.last_slot, l.fate, l.reason, l.job_id
    from pgtick.slot_log as l
    where l.schedule_id = v_schedule.id and l.fate <> 'run_now'
    order by l.slot desc
    limit 1
  ), found (place, reason, evidence, remedy) as (
    select 1, 'it is broken', format('since %s ticks fail: %s', pgtick.utc(v_schedule.broken_at), v_schedule.broken_why), 'Put it right with pgtick.schedule, or remove it with pgtick.unschedule.'
    where v_schedule.broken_at is not null
    union all
    select 2, 'it is paused', pgtick.why_paused(v_schedule), format('select pgtick.resume_schedule(%L);', p_name)
    where v_schedule.paused_at is not null and (v_schedule.paused_until is null or v_schedule.paused_until > v_now)
    union all
    select 3, 'it has no slot any more', coalesce('it ended at ' || pgtick.utc(v_schedule.ends_at), format('%s never comes again in %s', v_schedule.cron, v_schedule.time_zone)),
      'Give it a later ends_at, or another cron, with pgtick.schedule.'
    where v_schedule.next_at is null
    union all
    select 4, 'no clock ticks', format('slot %s is due, and %s', pgtick.utc(v_schedule.next_at),
        coalesce('the last tick was at ' || pgtick.utc((select max(c.ticked_at) from pgtick.clocks as c)), 'no clock has ever ticked')),
      'Start a runner (pgtick work), or see what pg_cron did: select * from cron.job_run_details order by runid desc limit 5.'
    where v_schedule.broken_at is null and v_schedule.next_at < v_now - interval '2 minutes'
    union all
    select 5, 'its last slot made no job', format('slot %s: %s%s', pgtick.utc(coalesce(l.last_slot, l.slot)), l.fate, coalesce(': ' || l.reason, '')),
      case when l.fate = 'skipped_overlap' then 'Let its jobs be faster than its slots come, or choose on_overlap wait, cancel or allow.'
        when l.fate in ('missed', 'missed_range') then 'on_missed once or all runs such slots late; a runner and pg_cron together miss fewer.'
        else 'Slots in a pause are caught up only by pgtick.resume_schedule(…, p_catch_up => true).' end
    from latest as l
    where l.job_id is null
    union all
    select 6, 'its job waits', format('job %s of slot %s is ready since %s, and no live runner serves task %s', j.id, pgtick.utc(j.slot), pgtick.utc(j.run_at), v_schedule.task),
      'Start a runner that has this task, or correct the schedule.'
    from live as j
    where j.runner_id is null and j.run_at <= v_now
      and not exists (select from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null and r.lease_until > v_now and v_schedule.task = any (r.tasks))
    union all
    select 7, 'an earlier job of it is live', format('job %s of slot %s %s; on_overlap %s', j.id, pgtick.utc(j.slot),
        case when j.runner_id is not null then format('runs since %s (attempt %s)', pgtick.utc(j.started_at), j.attempt)
          when isfinite(j.run_at) then format('waits for %s (attempt %s)', pgtick.utc(j.run_at), j.attempt + 1) else 'is blocked' end, v_schedule.on_overlap),
      format('select * from pgtick.jobs where id = %s; or select pgtick.cancel(%s);', j.id, j.id)
    from live as j
    union all
    select 8, 'its last job ' || h.state, format('job %s of slot %s: %s', h.id, pgtick.utc(l.slot), coalesce(h.error ->> 'message', 'no reason given')), format('select pgtick.retry(%s);', h.id)
    from latest as l
    join pgtick.history as h on h.id = l.job_id
    where h.state <> 'done'
    union all
    select 9, 'its next slot is still to come', format('%s, in %s', pgtick.utc(v_schedule.next_at), date_trunc('second', v_schedule.next_at - v_now)), format('select pgtick.run_now(%L); runs it at once.', p_name)
    where v_schedule.next_at > v_now
  )
  select (row_number() over (order by f.place))::integer, f.reason, f.evidence, f.remedy from found as f order by f.place;
end
$$;
comment on function pgtick.why_schedule(text) is 'Why a schedule makes no job just now, the weightiest reason first, with evidence and remedy. Raises TK006.';
$part$, true);
end
$pgtick$;

-- sql/26_retries.sql
do $pgtick$
begin
  perform set_config('pgtick.part_21', $part$
-- When a job is tried again after an error.

create or replace function pgtick.policy_seconds(p_policy jsonb, p_field text, p_value text)
returns double precision
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_interval interval;
begin
  begin
    v_interval := p_value::interval;
  exception when invalid_datetime_format or datetime_field_overflow or interval_field_overflow then
    v_interval := null;
  end;
  if v_interval is null or date_part('epoch', v_interval) <= 0 or date_part('epoch', v_interval) > 30 * 86400 then
    perform pgtick.invalid('retry_policy.' || p_field, coalesce(p_value, p_policy::text), 'a time of more than 0 and at most 30 days', 'Write for example "30 seconds".');
  end if;
  return extract(epoch from v_interval);
end
$$;
comment on function pgtick.policy_seconds(jsonb, text, text) is 'A time of a retry policy in seconds. Raises TK000.';

create or replace function pgtick.policy_number(p_policy jsonb, p_field text, p_from numeric, p_to numeric)
returns numeric
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if jsonb_typeof(p_policy -> p_field) <> 'number' or (p_policy ->> p_field)::numeric not between p_from and p_to then
    perform pgtick.invalid('retry_policy.' || p_field, p_policy ->> p_field, format('a number from %s to %s', p_from, p_to));
  end if;
  return (p_policy ->> p_field)::numeric;
end
$$;
comment on function pgtick.policy_number(jsonb, text, numeric, numeric) is 'A number of a retry policy, or null where it has none. Raises TK000.';

create or replace function pgtick.check_retry_policy(p_policy jsonb)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_kind text;
  v_fields text[];
  v_field text;
  v_delay record;
begin
  if jsonb_typeof(p_policy) is distinct from 'object' then
    perform pgtick.invalid('retry_policy', p_policy::text, 'a JSON object', 'Write for example {"kind": "linear", "step": "30 seconds"}.');
  end if;
  v_kind := p_policy ->> 'kind';
  v_fields := case v_kind
    when 'exponential' then '{kind,first,factor,most,jitter}'
    when 'linear' then '{kind,step,most,jitter}'
    when 'list' then '{kind,delays,jitter}' end;
  if v_fields is null then
    perform pgtick.invalid('retry_policy.kind', v_kind, 'one of exponential, linear, list');
  end if;
  for v_field in select k.field from jsonb_object_keys(p_policy) as k(field) where k.field <> all (v_fields) loop
    perform pgtick.invalid('retry_policy', v_field, format('a policy of kind %s has the fields %s', v_kind, array_to_string(v_fields, ', ')));
  end loop;
  for v_field in select f.field from unnest('{first,step,most}'::text[]) as f(field) where p_policy ? f.field or (v_kind = 'linear' and f.field = 'step') loop
    perform pgtick.policy_seconds(p_policy, v_field, case when jsonb_typeof(p_policy -> v_field) in ('string', 'number') then p_policy ->> v_field end);
  end loop;
  perform pgtick.policy_number(p_policy, 'factor', 1, 10), pgtick.policy_number(p_policy, 'jitter', 0, 1);
  if v_kind = 'list' then
    if jsonb_typeof(p_policy -> 'delays') is distinct from 'array' or jsonb_array_length(p_policy -> 'delays') not between 1 and 100 then
      perform pgtick.invalid('retry_policy.delays', p_policy ->> 'delays', 'a list of 1 to 100 times', 'Write for example ["10 seconds", "5 minutes"].');
    end if;
    for v_delay in select case when jsonb_typeof(d.value) in ('string', 'number') then d.value #>> '{}' end as value, d.place from jsonb_array_elements(p_policy -> 'delays') with ordinality as d(value, place) loop
      perform pgtick.policy_seconds(p_policy, format('delays[%s]', v_delay.place - 1), v_delay.value);
    end loop;
  end if;
end
$$;
comment on function pgtick.check_retry_policy(jsonb) is
  'Raise TK000 unless this is a retry policy: {"kind": "exponential", "first": "5 seconds", "factor": 2, "most": "1 day", "jitter": 0.1} (these are the defaults), {"kind": "linear", "step": time, "most", "jitter"}, or {"kind": "list", "delays": [time, …], "jitter"}.';

-- The default: 5 s, 10 s, 20 s … up to a day, a tenth more or less: twenty attempts take about a week, and what failed together does not
-- come back together.
create or replace function pgtick.backoff(p_attempt integer, p_policy jsonb default null)
returns interval
language sql volatile parallel safe
set search_path = ''
as $$
  select make_interval(secs =>
    least(
      case p_policy ->> 'kind'
        when 'linear' then extract(epoch from (p_policy ->> 'step')::interval) * a.n
        when 'list' then extract(epoch from (p_policy -> 'delays' ->> (least(a.n, jsonb_array_length(p_policy -> 'delays')) - 1))::interval)
        else extract(epoch from coalesce((p_policy ->> 'first')::interval, '5 seconds'))
          * coalesce((p_policy ->> 'factor')::double precision, 2) ^ least(a.n - 1, 60) end,
      extract(epoch from coalesce((p_policy ->> 'most')::interval, case when p_policy ->> 'kind' in ('linear', 'list') then '30 days' else '1 day' end::interval)))
    * (1 + coalesce((p_policy ->> 'jitter')::double precision, case when p_policy ->> 'kind' in ('linear', 'list') then 0 else 0.1 end) * (2 * random() - 1)))
  from (select greatest(p_attempt, 1) as n) as a
$$;
comment on function pgtick.backoff(integer, jsonb) is
  'How long to wait after the p_attempt-th counted attempt has failed. Without a policy: 5 s doubled each time, at most a day, ±10 % by chance. A list''s last delay is repeated.';

-- definer: service_role may set it, and writes no table.
create or replace function pgtick.set_retry_policy(p_task text, p_policy jsonb)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('task', p_task);
  if p_policy is null then
    delete from pgtick.retry_policies as r where r.task = p_task;
  else
    perform pgtick.check_retry_policy(p_policy);
    insert into pgtick.retry_policies as r (task, policy, set_at, set_by) values (p_task, p_policy, pgtick.now(), pgtick.caller())
    on conflict (task) do update set policy = excluded.policy, set_at = excluded.set_at, set_by = excluded.set_by, declared = false;
  end if;
  perform pgtick.note_action('set_retry_policy', p_task, p_policy);
end
$$;
comment on function pgtick.set_retry_policy(text, jsonb) is
  'Say when jobs of a task are tried again after an error; null = by the default. A job''s own policy (enqueue, p_retry_policy) goes before it. It counts from the next error on. Raises TK000: see pgtick.check_retry_policy.';
$part$, true);
end
$pgtick$;

-- sql/27_unique.sql
do $pgtick$
begin
  perform set_config('pgtick.part_22', $part$
-- Unique jobs: who holds a key, and until when. The table decides; that a row is deleted when its job is through is tidiness only, so the
-- end of a job never waits for an enqueue that has the key's row locked, and claims need not look at it at all.

create or replace function pgtick.refuse_uniqueness(p_key text, p_for interval, p_states text[], p_on_conflict text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_key is null and p_for is not null then
    perform pgtick.invalid('unique_for', p_for::text, 'it needs a unique_key', 'Give the key too, or leave it out.');
  end if;
  if length(p_key) not between 1 and 500 then
    perform pgtick.invalid('unique_key', p_key, 'it has 1 to 500 characters', 'Take a digest of what is longer.');
  end if;
  if date_part('epoch', p_for) <= 0 or date_part('epoch', p_for) > 400 * 86400 then
    perform pgtick.invalid('unique_for', p_for::text, 'it is more than 0 and at most 400 days', 'Leave it out for as long as the job is in one of unique_states.');
  end if;
  if p_states is null or not 'ready' = any (p_states) or not p_states <@ '{ready,running,done,failed,cancelled}' then
    perform pgtick.invalid('unique_states', p_states::text, 'ready, and any of running, done, failed, cancelled');
  end if;
  if p_on_conflict is null or p_on_conflict not in ('ignore', 'replace_args', 'move_run_at') then
    perform pgtick.invalid('on_conflict', p_on_conflict, 'one of ignore, replace_args, move_run_at');
  end if;
end
$$;
comment on function pgtick.refuse_uniqueness(text, interval, text[], text) is 'Raise TK000 when a job may not be unique in this way.';

-- A waiting job is locked, so that it is not claimed before the caller commits: who is told "it is enqueued already" must be sure that what
-- they have written is seen by its run. (That waits for a claim under way, a moment; a running job's row is never waited for.)
create or replace function pgtick.state_of_holder(p_job_id bigint, p_ended_as text)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_runner_id bigint;
begin
  for v_look in 1 .. 2 loop
    select j.runner_id into v_runner_id from pgtick.live_jobs as j where j.id = p_job_id;
    exit when not found;
    if v_runner_id is not null then return 'running'; end if;
    perform from pgtick.live_jobs as j where j.id = p_job_id and j.runner_id is null for key share;
    if found then return 'ready'; end if;   -- otherwise it was claimed, or ended, just now
  end loop;
  return coalesce(p_ended_as, (select h.state from pgtick.history as h where h.id = p_job_id));
end
$$;
comment on function pgtick.state_of_holder(bigint, text) is 'The present state of the job that holds a unique key, locked where it waits; null where it is no more.';

-- The key's row is locked by the insert, taken or not. Outside READ COMMITTED a row changed since the snapshot raises 40001 here.
create or replace function pgtick.take_key(p_task text, p_key text, p_job_id bigint, p_states text[], p_until timestamptz, p_now timestamptz)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_holder pgtick.unique_keys;
begin
  insert into pgtick.unique_keys as k (task, key, job_id, states, until) values (p_task, p_key, p_job_id, p_states, p_until)
  on conflict (task, key) do update set job_id = excluded.job_id, states = excluded.states, until = excluded.until, ended_as = null
  where k.until <= p_now or k.job_id = excluded.job_id;
  if found then return p_job_id; end if;
  select * into v_holder from pgtick.unique_keys as k where k.task = p_task and k.key = p_key;
  if pgtick.state_of_holder(v_holder.job_id, v_holder.ended_as) = any (v_holder.states) then return v_holder.job_id; end if;
  update pgtick.unique_keys as k set job_id = p_job_id, states = p_states, until = p_until, ended_as = null where k.task = p_task and k.key = p_key;
  return p_job_id;
end
$$;
comment on function pgtick.take_key(text, text, bigint, text[], timestamptz, timestamptz) is 'Take a unique key for a job and return its id, or the id of the job that holds it.';

-- Called by archive_rows(), which has moved the jobs.
create or replace function pgtick.settle_keys(p_job_ids bigint[], p_states text[], p_expires_on date[])
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  with ended as materialized (
    select k.ctid, e.state, e.expires_on, e.state = any (k.states) as holds
    from unnest(p_job_ids, p_states, p_expires_on) as e(job_id, state, expires_on)
    cross join lateral (select u.ctid, u.states from pgtick.unique_keys as u where u.job_id = e.job_id for update skip locked) as k
  ), dated as (
    update pgtick.unique_keys as k set ended_as = e.state, until = least(k.until, e.expires_on::timestamp at time zone 'UTC')
    from ended as e where k.ctid = e.ctid and e.holds
  )
  delete from pgtick.unique_keys as k using ended as e where k.ctid = e.ctid and not e.holds;
end
$$;
comment on function pgtick.settle_keys(bigint[], text[], date[]) is 'Free the unique keys of jobs that have ended, or say until when they are held on. Never waits for a lock.';

-- Looked at again once it is locked, by a statement that sees what was committed up to then: an enqueue may have taken the key since the
-- first look, for a job that this one does not see.
create or replace function pgtick.sweep_keys(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_keys pgtick.unique_keys[];
begin
  v_keys := array(
    select k from pgtick.unique_keys as k
    where k.until <= p_now
      or (k.ended_as is null and not exists (select from pgtick.live_jobs as j where j.id = k.job_id)
        and not exists (select from pgtick.history as h where h.id = k.job_id and h.state = any (k.states)))
    order by k.task, k.key
    for update skip locked);
  delete from pgtick.unique_keys as k
  using unnest(v_keys) as l
  where k.task = l.task and k.key = l.key
    and (k.until <= p_now
      or (k.ended_as is null and not exists (select from pgtick.live_jobs as j where j.id = k.job_id)
        and not exists (select from pgtick.history as h where h.id = k.job_id and h.state = any (k.states))));
end
$$;
comment on function pgtick.sweep_keys(timestamptz) is 'Delete the unique keys that hold nothing any more.';
$part$, true);
end
$pgtick$;

-- sql/28_retention.sql
do $pgtick$
begin
  perform set_config('pgtick.part_23', $part$
-- How long a finished job is kept. It is fixed when the job ends, as the day on which its partition of history is dropped.

create or replace function pgtick.default_expiry(p_state text, p_finished_at timestamptz)
returns date
language sql immutable parallel safe
set search_path = ''
as $$ select (p_finished_at at time zone 'UTC')::date + case p_state when 'done' then 7 else 30 end $$;
comment on function pgtick.default_expiry(text, timestamptz) is 'The day (UTC) on which a finished job is dropped where nothing else was set: 7 days after the end for done, 30 for failed and cancelled, which are retried by hand.';

-- A partition a day for 400 days would make each look for an id dear, so what is kept for longer than 40 days goes with the first of a month.
create or replace function pgtick.partition_day(p_day date, p_today date)
returns date
language sql immutable parallel safe
set search_path = ''
as $$
  select case when p_day <= p_today + 40 then p_day
    else (date_trunc('month', (p_day - 1)::timestamp) + interval '1 month')::date end
$$;
comment on function pgtick.partition_day(date, date) is 'The day whose partition takes what may be dropped on p_day at the earliest: that day, or, more than 40 days off, the first of a month.';

-- The rule for task and queue goes before that for the task, that before the one for the queue, and that before the one for all. A job is
-- never dropped while its unique key is held by it.
create or replace function pgtick.expires_on(p_task text, p_queue text, p_state text, p_uniqueness jsonb, p_finished_at timestamptz)
returns date
language sql stable parallel safe
set search_path = ''
as $$
  select pgtick.partition_day(greatest(
    coalesce(
      (select e.today + r.days from pgtick.retentions as r
       where r.state = p_state and r.task in (p_task, '') and r.queue in (p_queue, '')
       order by r.task = '', r.queue = '' limit 1),
      pgtick.default_expiry(p_state, p_finished_at)),
    case when p_uniqueness -> 'states' ? p_state and p_uniqueness ->> 'until' <> 'infinity'
      then ((p_uniqueness ->> 'until')::timestamptz at time zone 'UTC')::date + 1 end), e.today)
  from (select (p_finished_at at time zone 'UTC')::date as today) as e
$$;
comment on function pgtick.expires_on(text, text, text, jsonb, timestamptz) is 'The day (UTC) on which maintain() drops a job that ends now.';

-- definer: service_role may set it, and writes no table.
create or replace function pgtick.set_retention(p_task text, p_state text, p_keep interval, p_queue text default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_days integer;
begin
  if p_task is not null then perform pgtick.refuse_name('task', p_task); end if;
  if p_queue is not null then perform pgtick.refuse_name('queue', p_queue); end if;
  if p_state is not null and p_state not in ('done', 'failed', 'cancelled') then
    perform pgtick.invalid('state', p_state, 'one of done, failed, cancelled, or null for all three');
  end if;
  if date_part('epoch', p_keep) not between 86400 and 400 * 86400 then
    perform pgtick.invalid('keep', p_keep::text, 'it goes from 1 day to 400 days', 'Null takes the rule back.');
  end if;
  v_days := ceil(date_part('epoch', p_keep) / 86400);
  delete from pgtick.retentions as r
  where r.task = coalesce(p_task, '') and r.queue = coalesce(p_queue, '') and (p_state is null or r.state = p_state);
  insert into pgtick.retentions (task, queue, state, days, set_at, set_by)
  select coalesce(p_task, ''), coalesce(p_queue, ''), s.state, v_days, pgtick.now(), pgtick.caller()
  from unnest('{done,failed,cancelled}'::text[]) as s(state)
  where v_days is not null and (p_state is null or s.state = p_state);
  perform pgtick.note_action('set_retention', coalesce(p_task, ''), jsonb_build_object('queue', p_queue, 'state', p_state, 'days', v_days));
end
$$;
comment on function pgtick.set_retention(text, text, interval, text) is
  'Keep jobs that end from now on for so long: 1 to 400 days, in whole days; beyond 40 days until the first of the month after. p_task, p_state and p_queue: null = all. Task and queue go before task alone, that before queue alone. p_keep null takes the rule back: done 7 days, failed and cancelled 30. Raises TK000.';
$part$, true);
end
$pgtick$;

-- sql/30_enqueue.sql
do $pgtick$
begin
  perform set_config('pgtick.part_24', $part$
-- From a wish to a row: checks, enqueue, and the wake-up of sleeping runners.

-- NOTIFY only where a runner sleeps past the moment at which the job may run: NOTIFY takes a lock over the whole server at commit.
-- Callers insert first and call this last, in a statement of its own, so that one of two things is sure: this statement sees that the
-- runner sleeps (or, by xmax, that it is just about to), or the runner's settling waits for this transaction (sleep(), settled()).
-- Outside READ COMMITTED the snapshot may be older than the sleep, so there it always notifies.
-- definer: enqueuers may not read the runners' tables.
-- force_generic_plan: a plan of its own for each array would cost ten times as much as the look (a quarter of all enqueues a second).
create or replace function pgtick.wake(p_queues text[], p_run_at timestamptz)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    perform pg_catalog.pg_notify('pgtick', q.queue) from unnest(p_queues) as q(queue);
  else
    perform pg_catalog.pg_notify('pgtick', s.queue)
    from pgtick.sleepers as s
    where s.queue = any (p_queues) and (s.until > p_run_at or s.xmax <> '0'::xid);
  end if;
end
$$;
comment on function pgtick.wake(text[], timestamptz) is 'Notify channel pgtick, payload = the queue, for each of the queues on which a runner sleeps past p_run_at. Call it after the rows are written, in a statement of its own.';

-- Says what is wrong with a job's settings. One place for the limits, used by enqueue and schedule.
create or replace function pgtick.refuse_job(p_task text, p_args jsonb, p_queue text, p_priority integer, p_max_attempts integer, p_timeout interval)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('task', p_task);
  perform pgtick.refuse_name('queue', p_queue);
  if p_args is null or jsonb_typeof(p_args) <> 'object' then
    perform pgtick.invalid('args', p_args::text, 'args are a JSON object', 'Wrap the value: {"value": …}.');
  end if;
  if octet_length(p_args::text) > 65536 then
    perform pgtick.invalid('args', left(p_args::text, 40) || '…', format('%s bytes are over the limit of 65536', octet_length(p_args::text)),
      'Store the data in a table of yours and pass its key.');
  end if;
  if p_priority is null or p_priority not between 0 and 9 then perform pgtick.invalid('priority', p_priority::text, 'it goes from 0 (first) to 9 (last)'); end if;
  if p_max_attempts is null or p_max_attempts not between 1 and 1000 then perform pgtick.invalid('max_attempts', p_max_attempts::text, 'it goes from 1 to 1000'); end if;
  -- Its length counts, here and in all other places: where intervals are compared, '-1 year 361 days' is a day, and it ends before it begins.
  if p_timeout is null or date_part('epoch', p_timeout) <= 0 or date_part('epoch', p_timeout) > 7 * 86400 then
    perform pgtick.invalid('timeout', p_timeout::text, 'it is more than 0 and at most 7 days', 'Cut longer work into several jobs.');
  end if;
end
$$;
comment on function pgtick.refuse_job(text, jsonb, text, integer, integer, interval) is 'Raise TK000, naming field, value and rule, when a job may not have these settings; otherwise do nothing.';

create or replace function pgtick.refuse_run_at(p_run_at timestamptz)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if not isfinite(p_run_at) then perform pgtick.invalid('run_at', p_run_at::text, 'it is a finite time', 'Leave it out for now.'); end if;
end
$$;
comment on function pgtick.refuse_run_at(timestamptz) is 'Raise TK000 when a job cannot be due then.';

-- definer: service_role and the runner may enqueue, but write no table.
create or replace function pgtick.enqueue(p_task text, p_args jsonb default '{}', p_queue text default 'default', p_priority integer default 5,
  p_run_at timestamptz default null, p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null,
  p_unique_key text default null, p_unique_for interval default null, p_unique_states text[] default '{ready,running}',
  p_on_conflict text default 'ignore', p_limit_key text default null, p_sequence_key text default null, p_after bigint[] default null,
  p_batch_id bigint default null, p_retry_policy jsonb default null, p_after_outcome text default 'done', p_sequence_failure text default 'stop',
  p_trace_context jsonb default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_run_at constant timestamptz := greatest(p_run_at, v_now);   -- never back-dated: a claim may then trust where it stopped
  v_id bigint;
begin
  -- Nearly every job is plainly within the limits, and a call costs as much as the insert's own work; refuse_job decides about the rest.
  if (length(p_task) between 1 and 100 and length(p_queue) between 1 and 100 and (p_task || p_queue) ~ '^[[:graph:]]+$' and p_priority between 0 and 9
    and p_max_attempts between 1 and 100 and date_part('epoch', p_timeout) between 0.001 and 86400
    and jsonb_typeof(p_args) = 'object' and octet_length(p_args::text) <= 60000 and p_task <> 'sql') is not true
  then
    perform pgtick.refuse_job(p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout);
    if p_task = 'sql' then perform pgtick.check_function_call(p_args); end if;
  end if;
  if p_run_at is not null then perform pgtick.refuse_run_at(p_run_at); end if;
  if coalesce(p_unique_key, p_limit_key, p_sequence_key) is not null or p_unique_for is not null or p_after is not null or p_batch_id is not null
    or p_retry_policy is not null or p_trace_context is not null
  then
    return pgtick.enqueue_tied((0, p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_args, p_owner_id, p_retry_policy, p_limit_key,
      p_sequence_key, p_sequence_failure, p_after, p_after_outcome, p_batch_id, p_trace_context, p_unique_key, p_unique_for, p_unique_states, p_on_conflict)::pgtick.wish, v_now);
  end if;
  insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, owner_id, created_at)
  values (p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, p_args, p_owner_id, v_now)
  returning id into v_id;
  -- wake() decides; that no runner of this queue sleeps, nor is about to, can be seen here at half the cost
  if exists (select from pgtick.sleepers as s where s.queue = p_queue and (s.until > v_run_at or s.xmax <> '0'::xid))
    or current_setting('transaction_isolation') <> 'read committed'
  then
    perform pgtick.wake(array[p_queue], v_run_at);
  end if;
  return v_id;
end
$$;
comment on function pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, text, text, bigint[], bigint, jsonb, text, text, jsonb) is
  'Add a job in the caller''s transaction and return its id. p_args: an object of at most 64 KiB. p_priority: 0 (first) to 9. p_run_at: null or past = now. p_max_attempts: 1 to 1000. p_timeout: of one attempt, at most 7 days. p_owner_id: the end user who sees it in my_jobs. p_unique_key: while a job of this task with this key is in one of p_unique_states, and no longer than p_unique_for after its enqueue, no other is added: its id is returned, and p_on_conflict says what becomes of it while it waits: ignore, replace_args, move_run_at. p_limit_key: what it counts for under the task''s limits by key (set_limit). p_sequence_key: jobs with the same one run one at a time, in the order of their enqueueing; when this one fails or is cancelled those behind it wait (p_sequence_failure stop: until it is retried, or resume_sequence) or go on (skip). p_after: jobs that must end before; with p_after_outcome done (the default) it is cancelled when one of them fails or is cancelled, with any it runs all the same. p_batch_id: see create_batch. p_retry_policy: see set_retry_policy. p_trace_context: a W3C carrier, {"traceparent": …}. A task that no runner serves is accepted, and shows in pgtick.health. Raises TK000, TK004 (p_after names no job), TK005 (a job of p_after has failed, or the batch has ended) TK020 (p_after, p_sequence_key or p_batch_id outside READ COMMITTED) and TK021 (it would wait for itself, by its batch).';

create or replace function pgtick.change_waiting(p_job_id bigint, p_on_conflict text, p_args jsonb, p_run_at timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_queue text;
begin
  if p_on_conflict = 'replace_args' then
    update pgtick.live_jobs as j set args = p_args where j.id = p_job_id and j.runner_id is null;
  elsif p_on_conflict = 'move_run_at' then
    update pgtick.live_jobs as j
    set run_at = case when j.blocked_by is null then p_run_at else j.run_at end, wanted_at = case when j.blocked_by is not null then p_run_at end
    where j.id = p_job_id and j.runner_id is null
    returning case when j.blocked_by is null then j.queue end into v_queue;
    if v_queue is not null then perform pgtick.wake(array[v_queue], p_run_at); end if;
  end if;
end
$$;
comment on function pgtick.change_waiting(bigint, text, jsonb, timestamptz) is 'Give a job that waits, and is locked, other args or another time; of one that runs or has ended nothing is changed.';

-- definer: as enqueue. With keys the jobs are added one by one, in the order of the keys, so that two callers never wait for each other.
-- (With both unique and sequence keys they may: then the second to wait is told so by the server, 40P01.)
create or replace function pgtick.enqueue_many(p_task text, p_args jsonb[], p_queue text default 'default', p_priority integer default 5,
  p_run_at timestamptz default null, p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null,
  p_unique_keys text[] default null, p_unique_for interval default null, p_unique_states text[] default '{ready,running}',
  p_on_conflict text default 'ignore', p_limit_keys text[] default null, p_sequence_keys text[] default null, p_after bigint[] default null,
  p_batch_id bigint default null, p_retry_policy jsonb default null, p_after_outcome text default 'done', p_sequence_failure text default 'stop',
  p_trace_context jsonb default null)
returns setof bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_run_at constant timestamptz := greatest(p_run_at, v_now);
  v_wrong jsonb;
  v_waits bigint[];
  v_blocked_by text;
  v_ids bigint[];
  v_one record;
begin
  perform pgtick.refuse_job(p_task, '{}', p_queue, p_priority, p_max_attempts, p_timeout), pgtick.refuse_run_at(p_run_at);
  if p_args is null then
    perform pgtick.invalid('args', null, 'args are an array of JSON objects, one for each job');
  end if;
  select a.args into v_wrong from unnest(p_args) as a(args)
  where a.args is null or jsonb_typeof(a.args) <> 'object' or octet_length(a.args::text) > 65536 limit 1;
  if found then perform pgtick.refuse_job(p_task, v_wrong, p_queue, p_priority, p_max_attempts, p_timeout); end if;
  if p_task = 'sql' then perform pgtick.check_function_call(a.args) from unnest(p_args) as a(args); end if;
  perform pgtick.refuse_keys('unique_keys', p_unique_keys, cardinality(p_args)), pgtick.refuse_keys('limit_keys', p_limit_keys, cardinality(p_args)),
    pgtick.refuse_keys('sequence_keys', p_sequence_keys, cardinality(p_args));
  if p_unique_for is not null and p_unique_keys is null then
    perform pgtick.invalid('unique_keys', null, format('unique_for needs them: one for each of the %s jobs', cardinality(p_args)));
  end if;
  if p_unique_keys is null and p_sequence_keys is null then
    perform pgtick.refuse_wish((0, p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, null, p_owner_id, p_retry_policy, k.key,
      null, p_sequence_failure, p_after, p_after_outcome, p_batch_id, p_trace_context, null, null, p_unique_states, p_on_conflict)::pgtick.wish)
    from (select l.key from unnest(p_limit_keys) as l(key) order by length(l.key) desc limit 1) as k right join (select) as one on true;
    if p_after is not null then
      if cardinality(p_after)::bigint * cardinality(p_args) > 1000000 then
        perform pgtick.invalid('after', format('%s jobs', cardinality(p_after)), format('%s jobs that wait for %s each are more than 1000000 links', cardinality(p_args), cardinality(p_after)),
          'Let them wait for one job, which waits for the others.');
      end if;
      v_waits := pgtick.living_blockers(p_after, p_after_outcome = 'any');
    end if;
    if p_batch_id is not null then
      perform pgtick.join_batch(p_batch_id);
      if v_waits <> '{}' then perform pgtick.refuse_loop(p_batch_id, v_waits, null); end if;
    end if;
    if p_limit_keys is null and p_after is null and p_batch_id is null then   -- as nearly all are
      return query
      insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, owner_id, retry_policy, created_at, trace_context)
      select p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, a.args, p_owner_id, p_retry_policy, v_now, p_trace_context
      from unnest(p_args) as a(args)
      returning live_jobs.id;
      if found then perform pgtick.wake(array[p_queue], v_run_at); end if;
      return;
    end if;
    v_blocked_by := case when v_waits <> '{}' then 'after' end;
    v_ids := array(select nextval('pgtick.live_jobs_id_seq') from generate_series(1, cardinality(p_args)));
    insert into pgtick.live_jobs (id, task, queue, priority, run_at, wanted_at, blocked_by, max_attempts, timeout, args, owner_id, retry_policy, created_at, limit_key,
      after_jobs, after_any, batch_id, trace_context)
    overriding system value
    select v_ids[a.place], p_task, p_queue, p_priority, case when v_blocked_by is null then v_run_at else 'infinity' end, case when v_blocked_by is not null then v_run_at end,
      v_blocked_by, p_max_attempts, p_timeout, a.args, p_owner_id, p_retry_policy, v_now, p_limit_keys[a.place], p_after, case when p_after is not null then p_after_outcome = 'any' end,
      p_batch_id, p_trace_context
    from unnest(p_args) with ordinality as a(args, place);
    if not found then return; end if;
    if v_blocked_by is not null then
      perform pgtick.link_jobs(v_ids, v_waits, p_after_outcome = 'any');
    else
      perform pgtick.wake(array[p_queue], v_run_at);
    end if;
    return query select i.id from unnest(v_ids) as i(id);
    return;
  end if;
  v_ids := array_fill(null::bigint, array[cardinality(p_args)]);
  for v_one in
    select a.args, a.place, p_unique_keys[a.place] as unique_key, p_limit_keys[a.place] as limit_key, p_sequence_keys[a.place] as sequence_key
    from unnest(p_args) with ordinality as a(args, place)
    order by 5, case when p_sequence_keys is null then p_unique_keys[a.place] end, a.place
  loop
    v_ids[v_one.place] := pgtick.enqueue_tied((0, p_task, p_queue, p_priority, v_run_at, p_max_attempts, p_timeout, v_one.args, p_owner_id, p_retry_policy,
      v_one.limit_key, v_one.sequence_key, p_sequence_failure, p_after, p_after_outcome, p_batch_id, p_trace_context, v_one.unique_key, p_unique_for,
      p_unique_states, p_on_conflict)::pgtick.wish, v_now);
  end loop;
  return query select i.id from unnest(v_ids) with ordinality as i(id, place) order by i.place;
end
$$;
comment on function pgtick.enqueue_many(text, jsonb[], text, integer, timestamptz, integer, interval, uuid, text[], interval, text[], text, text[], text[], bigint[], bigint, jsonb, text, text, jsonb) is
  'Add a job for each element of p_args and return their ids in that order; all or none. p_unique_keys, p_limit_keys, p_sequence_keys: null, or one for each; within a sequence the jobs are in the order of p_args. The other parameters as in pgtick.enqueue. Raises TK000, TK004, TK005, TK020 and TK021.';
$part$, true);
end
$pgtick$;

-- sql/31_runners.sql
do $pgtick$
begin
  perform set_config('pgtick.part_25', $part$
-- Runners: their lease, what they hold, and how they sleep without missing a job.

-- definer (this and all of the worker protocol): the runner's role owns nothing and writes no table directly.
create or replace function pgtick.register(p_name text, p_queues text[], p_tasks text[], p_lease interval default '30 seconds', p_version text default null,
  p_workers integer default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_id bigint;
begin
  perform pgtick.refuse_name('name', p_name);
  if coalesce(cardinality(p_queues), 0) = 0 then
    perform pgtick.invalid('queues', p_queues::text, 'at least one queue', 'Name for example {default}.');
  end if;
  if p_tasks is null then
    perform pgtick.invalid('tasks', p_tasks::text, 'the names of the tasks that this runner serves');
  end if;
  perform pgtick.refuse_name('queues', q.queue) from unnest(p_queues) as q(queue);
  perform pgtick.refuse_name('tasks', t.task) from unnest(p_tasks) as t(task);
  if p_lease is null or date_part('epoch', p_lease) not between 1 and 3600 then
    perform pgtick.invalid('lease', p_lease::text, 'it goes from 1 second to 1 hour');
  end if;
  if p_workers < 1 then perform pgtick.invalid('workers', p_workers::text, 'at least 1, or null for unknown'); end if;
  insert into pgtick.runner_leases (name, queues, tasks, version, lease, lease_until, registered_at, heartbeat_at, workers)
  values (p_name, p_queues, p_tasks, p_version, p_lease, v_now + p_lease, v_now, v_now, p_workers)
  returning id into v_id;
  insert into pgtick.sleepers (queue, runner_id, until)
  select distinct q.queue, v_id, '-infinity'::timestamptz from unnest(p_queues) as q(queue);
  return v_id;
end
$$;
comment on function pgtick.register(text, text[], text[], interval, text, integer) is
  'Make a runner known and return its id. p_lease: 1 second to 1 hour; renew it with heartbeat() every third of it. p_workers: how many attempts it runs at a time, for pgtick.why. Names need not be unique. Raises TK000.';

create or replace function pgtick.refuse_runner(p_runner_id bigint)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK002',
    message = format('runner %s %s', coalesce(p_runner_id::text, 'null'), coalesce(
      (select case r.ended_as when 'dead' then 'was declared dead at ' else 'has left at ' end || r.ended_at
       from pgtick.runner_leases as r where r.id = p_runner_id), 'is not known')),
    hint = 'Drop the claims that it held and call pgtick.register again.';
end
$$;
comment on function pgtick.refuse_runner(bigint) is 'Raise TK002: the runner is unknown, has left or is dead.';

-- lateral … offset 0, here and wherever a list is joined with live_jobs: look each one up, by an index. Left to itself the planner, when it
-- plans at a moment at which the table is empty, goes through the whole table for each of the list, and does so ever after.
create or replace function pgtick.heartbeat(p_runner_id bigint, p_held bigint[] default null, p_fences bigint[] default null)
returns table (job_id bigint, fence bigint, reason text)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
begin
  if cardinality(p_held) is distinct from cardinality(p_fences) then
    perform pgtick.invalid('fences', cardinality(p_fences)::text, format('one for each of the %s jobs held', coalesce(cardinality(p_held), 0)));
  end if;
  perform from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for no key update;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  v_now := pgtick.now();
  update pgtick.runner_leases as r
  set lease_until = v_now + r.lease, heartbeat_at = v_now, suspected_at = null,
    deadline_at = case when p_held is not null then coalesce((
      select min(j.deadline)
      from unnest(p_held) as h(job_id)
      cross join lateral (select l.started_at + l.timeout as deadline from pgtick.live_jobs as l where l.id = h.job_id and l.runner_id = p_runner_id offset 0) as j),
      'infinity') end
  where r.id = p_runner_id;
  return query
  select h.job_id, h.fence,
    case when j.id is null then 'fenced' when n.cancel_requested_at is not null then 'cancelled' else 'timed_out' end
  from unnest(p_held, p_fences) as h(job_id, fence)
  left join lateral (
    select l.* from pgtick.live_jobs as l where l.id = h.job_id and l.fence = h.fence and l.runner_id = p_runner_id offset 0) as j on true
  left join pgtick.job_notes as n on n.job_id = h.job_id and n.cancel_requested_at is not null
  where j.id is null or n.job_id is not null or j.started_at + j.timeout <= v_now;
end
$$;
comment on function pgtick.heartbeat(bigint, bigint[], bigint[]) is
  'Renew the runner''s lease and return those of the claims it names that must stop, with the reason: cancelled, timed_out, or fenced (no longer its own). Raises TK002.';

-- The runner's row is locked against its own claims: one that is still on its way is waited for (shortly), or comes later and is found
-- by the next call. Therefore the rows are read in a later statement.
create or replace function pgtick.reconcile(p_runner_id bigint, p_held bigint[], p_fences bigint[])
returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '1s'
as $$
begin
  if cardinality(p_held) is distinct from cardinality(p_fences) then
    perform pgtick.invalid('fences', cardinality(p_fences)::text, format('one for each of the %s jobs held', coalesce(cardinality(p_held), 0)));
  end if;
  perform from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for update;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  return pgtick.give_back(p_runner_id, p_held, p_fences);
end
$$;
comment on function pgtick.reconcile(bigint, bigint[], bigint[]) is
  'Give back the runner''s claims that are not among those it names, attempt not counted, and return how many. For after a claim whose answer was lost, and once a lease later. Raises TK002, or 55P03 when its own claim is still running: call again.';

-- What a worker never heard of, or says it does not run, was not an attempt: the number goes back, and no trace is left.
create or replace function pgtick.give_back(p_runner_id bigint, p_held bigint[], p_fences bigint[])
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_queues text[];
  v_ids bigint[];
begin
  with back as (
    update pgtick.live_jobs as j
    set runner_id = null, fence = null, started_at = null, attempt = j.attempt - 1, run_at = v_now
    where j.id = any (array(
      select l.id from pgtick.live_jobs as l
      where l.runner_id = p_runner_id
        and not exists (select from unnest(p_held, p_fences) as h(id, fence) where h.id = l.id and h.fence = l.fence)
      order by l.id
      for update skip locked))
    returning j.id, j.queue
  )
  select array_agg(b.id), array_agg(distinct b.queue) into v_ids, v_queues from back as b;
  if v_ids is null then return 0; end if;
  perform pgtick.free_places_of(v_ids, v_now);
  perform pgtick.wake(v_queues, v_now);
  return cardinality(v_ids);
end
$$;
comment on function pgtick.give_back(bigint, bigint[], bigint[]) is 'Make a runner''s claims ready again, but for those named, without counting the attempt.';

create or replace function pgtick.leave(p_runner_id bigint)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '1s'
as $$
declare
  v_now timestamptz;
begin
  perform from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for update;
  if not found then return; end if;
  v_now := pgtick.now();
  perform pgtick.give_back(p_runner_id, '{}', '{}');
  delete from pgtick.sleepers as s where s.runner_id = p_runner_id;
  update pgtick.runner_leases as r
  set ended_at = v_now, ended_as = 'left',
    freed_at = case when not exists (select from pgtick.live_jobs as j where j.runner_id = p_runner_id) then v_now end
  where r.id = p_runner_id;
end
$$;
comment on function pgtick.leave(bigint) is 'End a runner: what it still holds goes back, attempt not counted. Calling it again, or for an unknown runner, does nothing.';

-- Sleep and wake. What must not happen: an enqueue sees no sleeper, the runner looks once more and sees no job, both commit, and the job
-- waits for the poll. So the runner looks again after all transactions that may not have seen it have ended: those with a number below the
-- one returned here. Any enqueue that began to read sleepers before the first update below has its number already, and the second one, in
-- a block of its own, draws a number after that; any that reads later sees by xmax that the row is being changed, and notifies.
-- (An update, not a lock, begins it: the mark of a lock would stay on the new row, and look like a change that never ends.)
create or replace function pgtick.sleep(p_runner_id bigint, p_poll interval)
returns xid8
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_outer bigint;
  v_inner bigint;
begin
  if p_poll is null or date_part('epoch', p_poll) not between 0 and 3600 then
    perform pgtick.invalid('poll', p_poll::text, 'it goes from 0 to 1 hour');
  end if;
  update pgtick.sleepers as s set until = v_now + p_poll where s.runner_id = p_runner_id;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  v_outer := pg_catalog.pg_current_xact_id()::text::bigint;
  begin   -- a transaction within: it gets its number at its first write, after the update above. A runner has a row for each of its queues
    with again as (
      update pgtick.sleepers as s set until = v_now + p_poll where s.runner_id = p_runner_id returning s.xmin
    )
    select a.xmin::text::bigint into v_inner from again as a limit 1;
  exception when division_by_zero then null;   -- (a block is a transaction only where it has a handler)
  end;
  -- xmin has 32 bits; the outer number, drawn just before, has the epoch
  return (v_outer + ((v_inner - v_outer % 4294967296 + 4294967296) % 4294967296))::text::xid8;
end
$$;
comment on function pgtick.sleep(bigint, interval) is
  'Say that the runner sleeps for p_poll (0 to 1 hour) unless it is notified; commit it at once. Then claim until settled(the returned number) is true, read next_run_at(), and wait for channel pgtick. Raises TK002.';

create or replace function pgtick.settled(p_number xid8)
returns boolean
language sql volatile parallel unsafe
set search_path = ''
as $$ select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= p_number $$;
comment on function pgtick.settled(xid8) is 'True when every transaction that may not have seen the sleeping runner has ended; a claim after that misses nothing, and every later job notifies.';

create or replace function pgtick.awake(p_runner_id bigint)
returns void
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  update pgtick.sleepers as s set until = '-infinity' where s.runner_id = p_runner_id and s.until > '-infinity'
$$;
comment on function pgtick.awake(bigint) is 'Say that the runner is awake and looks for jobs by itself, so that nobody need notify it.';

create or replace function pgtick.say_wakes(p_runner_id bigint, p_wakes boolean)
returns void
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  update pgtick.runner_leases as r set wakes = p_wakes where r.id = p_runner_id and r.wakes is distinct from p_wakes
$$;
comment on function pgtick.say_wakes(bigint, boolean) is 'Record whether notifications reach this runner: false shows in pgtick.health.';
$part$, true);
end
$pgtick$;

-- sql/32_claim.sql
do $pgtick$
begin
  perform set_config('pgtick.part_26', $part$
-- Taking jobs.

-- A lane is a task, queue and priority with at least one live job. Each step is one look-up in the index: to the next lane that exists,
-- and from one that was not asked for to the next that was. So the rows in a lane cost nothing, nor do tasks and queues that are empty,
-- nor a million jobs of a task that is not asked for.
create or replace function pgtick.lanes(p_tasks text[], p_queues text[])
returns table (task text, queue text, priority smallint, run_at timestamptz, id bigint)
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_queues constant text[] := array(select distinct q.queue from unnest(p_queues) as q(queue) where q.queue is not null order by q.queue);   -- looked up by halves
begin
  return query
  with recursive lane as (
    select t.task, first.queue, first.priority, first.run_at, first.id, v_queues[width_bucket(first.queue, v_queues)] = first.queue as asked
    from (select distinct a.task from unnest(p_tasks) as a(task)) as t
    cross join lateral (
      select j.queue, j.priority, j.run_at, j.id from pgtick.live_jobs as j
      where j.task = t.task and j.queue >= v_queues[1]
      order by j.queue, j.priority, j.run_at, j.id + 0 limit 1) as first
    union all
    select l.task, next.queue, next.priority, next.run_at, next.id, v_queues[width_bucket(next.queue, v_queues)] = next.queue
    from lane as l
    cross join lateral (
      select j.queue, j.priority, j.run_at, j.id from pgtick.live_jobs as j
      where j.task = l.task
        and (j.queue, j.priority) > (
          case when l.asked then l.queue else v_queues[width_bucket(l.queue, v_queues) + 1] end,
          case when l.asked then l.priority else -1::smallint end)
      order by j.queue, j.priority, j.run_at, j.id + 0 limit 1) as next
  )
  select l.task, l.queue, l.priority, l.run_at, l.id from lane as l where l.asked;
end
$$;
comment on function pgtick.lanes(text[], text[]) is 'The lanes of these tasks and queues with live jobs, found by steps over the index, each with its first live job, running or not.';

-- A job that two dead runners have held is a suspect, and a runner takes one at a time, with its row locked and the job written on it:
-- when that runner dies too, it is known which job to blame, and the hundreds beside it are not.
-- "is true", here and wherever suspects are looked for: go through the suspects, of which there are hardly ever any. By the index alone it would be
-- a look-up for each task in each queue, sixty thousand of them in each claim of a runner with ten thousand queues.
create or replace function pgtick.claim_suspect(p_runner_id bigint, p_queues text[], p_tasks text[], p_now timestamptz)
returns tid
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_job record;
  v_full bigint[] := '{}';
begin
  if exists (
    select from pgtick.live_jobs as j
    where j.id = (select r.suspect_job_id from pgtick.runner_leases as r where r.id = p_runner_id) and j.runner_id = p_runner_id)
  then
    return null;
  end if;
  for v_try in 1 .. 20 loop   -- the first one whose limits, if it has any, have room
    select j.id, j.ctid as place, j.task, j.limit_key into v_job
    from pgtick.live_jobs as j
    where j.losses >= 2 and j.runner_id is null and j.run_at <= p_now and (j.task = any (p_tasks)) is true and (j.queue = any (p_queues)) is true and j.id <> all (v_full)
    order by j.run_at, j.id
    limit 1
    for update skip locked;
    exit when not found;
    if pgtick.take_places(v_job.task, v_job.limit_key, v_job.id) then
      update pgtick.runner_leases as r set suspect_job_id = v_job.id where r.id = p_runner_id;
      return v_job.place;
    end if;
    v_full := v_full || v_job.id;
  end loop;
  return null;
end
$$;
comment on function pgtick.claim_suspect(bigint, text[], text[], timestamptz) is 'Pick and lock at most one job that runners died with, for a runner that holds none such; its row must be locked.';

-- Two runners never get the same job: rows are locked as they are picked, and locked ones are passed over.
-- array(...) on purpose: a join with the picked rows made the planner's claim three to eleven times slower, and depend on statistics.
-- So may a plan made while the table was empty; therefore no scan but by index. What is picked is locked, so its ctid stays as it is, and
-- the update goes by that. The runner's row is locked first, with a lock that makes rescue() pass it over; the clock is read after that.
-- Who comes first: lanes by their priority, those of one priority in turn. But a tenth of each claim is shared out among all lanes but the
-- first, whatever their priority (of claims too small for that, every tenth is), so that no flood starves another lane. Whose turn it is
-- is drawn from fence and runner: by the fence alone, two runners that claim one after the other would each always have the same turn.
-- The lanes, each from its first due job on, are read before anything is locked: a runner that finds none writes nothing.
-- A runner that has seen a lane up to a job may say so, and the scan starts there: what others have finished since, but some open
-- transaction still sees, is not walked over again at each claim.
-- Jobs for which a rate has kept a time come first when it has come: behind a million that have never been asked for they would start late, and
-- what starts late has lost its time to all that follow. Half of a claim at most, of the jobs that became due last, and for five seconds after
-- that time, so that where workers are too few it is first come, first served again.
create or replace function pgtick.claim_lanes(p_runner_id bigint, p_queues text[], p_tasks text[], p_n integer, p_lane_tasks text[] default null,
  p_lane_queues text[] default null, p_lane_priorities integer[] default null, p_from_run_at timestamptz[] default null, p_from_id bigint[] default null)
returns table (id bigint, fence bigint, task text, queue text, priority smallint, attempt integer, max_attempts integer, args jsonb,
  run_at timestamptz, created_at timestamptz, timeout interval, schedule text, slot timestamptz, owner_id uuid, checkpoint jsonb,
  started_at timestamptz, limit_key text, reservation text, trace_context jsonb)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_suspects boolean;
  v_lease_until timestamptz;
  v_now timestamptz;
  v_fence bigint;
  v_suspect tid;
  v_queues text[] := p_queues;
  v_free_tasks text[] := p_tasks;
  v_rated text[] := '{}';
  v_timely tid[];
  v_limited text[] := '{}';
  v_limited_due boolean := false;
  v_limited_rows tid[];
  v_tasks text[];
  v_lane_queues text[];
  v_priorities integer[];
  v_run_at timestamptz[];
  v_id bigint[];
  v_lanes integer;
  v_turn bigint;
  v_share integer;
  v_shared tid[];
  v_picked tid[];
begin
  if p_n is null or p_n not between 1 and 10000 then perform pgtick.invalid('n', p_n::text, 'it goes from 1 to 10000'); end if;
  if cardinality(p_lane_queues) is distinct from cardinality(p_lane_tasks) or cardinality(p_lane_priorities) is distinct from cardinality(p_lane_tasks)
    or cardinality(p_from_run_at) is distinct from cardinality(p_lane_tasks) or cardinality(p_from_id) is distinct from cardinality(p_lane_tasks)
  then
    perform pgtick.invalid('lanes', cardinality(p_lane_tasks)::text, 'as many queues, priorities, run_at and id as there are tasks', 'Or all five null.');
  end if;
  if exists (select from pgtick.paused_queues) then
    v_queues := array(select q.queue from unnest(p_queues) as q(queue) where not exists (select from pgtick.paused_queues as p where p.queue = q.queue));
  end if;
  v_now := pgtick.now();
  if exists (select from pgtick.limit_defs) then
    v_limited := array(select t.task from unnest(p_tasks) as t(task) where exists (select from pgtick.limit_defs as d where d.task = t.task and d.max_running is not null));
    v_rated := array(select t.task from unnest(p_tasks) as t(task) where exists (select from pgtick.limit_defs as d where d.task = t.task and d.rate is not null));
    v_free_tasks := array(select t.task from unnest(p_tasks) as t(task) where t.task <> all (v_limited));
    v_limited_due := v_limited <> '{}' and pgtick.limited_due(v_limited, v_queues, v_now);
  end if;
  v_suspects := exists (
    select from pgtick.live_jobs as j
    where j.losses >= 2 and j.runner_id is null and j.run_at <= v_now and (j.task = any (p_tasks)) is true and (j.queue = any (v_queues)) is true);
  if p_lane_tasks is null then
    select array_agg(l.task), array_agg(l.queue), array_agg(l.priority), array_agg(first.run_at), array_agg(first.id)
    into v_tasks, v_lane_queues, v_priorities, v_run_at, v_id
    from pgtick.lanes(v_free_tasks, v_queues) as l
    cross join lateral (
      select due.run_at, due.id
      from pgtick.live_jobs as due
      where due.task = l.task and due.queue = l.queue and due.priority = l.priority and (due.run_at, due.id + 0) >= (l.run_at, l.id)
        and due.run_at <= v_now and due.runner_id is null and due.losses < 2
      order by due.run_at, due.id + 0
      limit 1) as first;
  else
    select array_agg(l.task), array_agg(l.queue), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id)
    into v_tasks, v_lane_queues, v_priorities, v_run_at, v_id
    from unnest(p_lane_tasks, p_lane_queues, p_lane_priorities, p_from_run_at, p_from_id) as l(task, queue, priority, run_at, id)
    where l.task <> all (v_limited) and not exists (select from pgtick.paused_queues as p where p.queue = l.queue);   -- (to look each up among ten thousand queues would take longer than all else)
  end if;
  v_lanes := coalesce(cardinality(v_tasks), 0);

  if v_suspects then
    select r.lease_until into v_lease_until from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for no key update;
  elsif v_lanes > 0 or v_limited_due then
    select r.lease_until into v_lease_until from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null for key share;
  else
    select r.lease_until into v_lease_until from pgtick.runner_leases as r where r.id = p_runner_id and r.ended_at is null;
  end if;
  if not found then perform pgtick.refuse_runner(p_runner_id); end if;
  v_now := pgtick.now();
  if v_lease_until <= v_now then
    raise exception using errcode = 'TK003', message = format('the lease of runner %s ran out at %s', p_runner_id, v_lease_until),
      hint = 'Call pgtick.heartbeat, then claim again.';
  end if;
  if v_lanes = 0 and not v_suspects and not v_limited_due then return; end if;   -- nothing was written or locked, so there is nothing to flush at the commit
  v_fence := nextval('pgtick.fence_seq');
  if v_suspects then v_suspect := pgtick.claim_suspect(p_runner_id, v_queues, p_tasks, v_now); end if;
  v_turn := pg_catalog.hashint8extended(v_fence, p_runner_id) & 9223372036854775807;
  if v_lanes > 1 then
    select array_agg(l.task), array_agg(l.queue), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id)
    into v_tasks, v_lane_queues, v_priorities, v_run_at, v_id
    from (
      select x.* from unnest(v_tasks, v_lane_queues, v_priorities, v_run_at, v_id) as x(task, queue, priority, run_at, id)
      order by x.priority,
        (row_number() over (partition by x.priority order by x.task, x.queue) + v_turn) % count(*) over (partition by x.priority)) as l;
    v_share := case when p_n >= 10 then p_n / 10 when v_turn / 1024 % 10 = 0 then p_n else 0 end;
  end if;
  if v_share > 0 then
    v_shared := array(
      select picked.ctid
      from (
        select x.* from unnest(v_tasks, v_lane_queues, v_priorities, v_run_at, v_id) with ordinality as x(task, queue, priority, run_at, id, place)
        where x.place > 1
        order by (x.place + v_turn / 16384) % (v_lanes - 1)) as l
      cross join lateral (
        select due.ctid
        from pgtick.live_jobs as due
        where due.task = l.task and due.queue = l.queue and due.priority = l.priority and (due.run_at, due.id + 0) >= (l.run_at, l.id)
          and due.run_at <= v_now and due.runner_id is null and due.losses < 2
        order by due.run_at, due.id + 0
        limit greatest(v_share / (v_lanes - 1), 1)
        for update skip locked) as picked
      limit v_share);
  end if;
  if v_rated && v_tasks then
    v_timely := array(
      select kept.ctid
      from unnest(v_tasks, v_lane_queues, v_priorities) as l(task, queue, priority)
      cross join lateral (
        select due.ctid, due.run_at, due.id, due.reservation
        from pgtick.live_jobs as due
        where due.task = l.task and due.queue = l.queue and due.priority = l.priority and due.run_at > v_now - interval '5 seconds' and due.run_at <= v_now
          and due.runner_id is null and due.losses < 2
        order by due.run_at desc, due.id + 0 desc
        limit p_n) as kept
      where l.task = any (v_rated) and kept.reservation is not null
      order by kept.run_at, kept.id
      limit p_n / 2);
    v_timely := array(
      select j.ctid from pgtick.live_jobs as j
      where j.ctid = any (v_timely) and j.reservation is not null and j.run_at <= v_now and j.runner_id is null
      for update skip locked);
  end if;
  v_picked := array(
    select picked.ctid
    from unnest(v_tasks, v_lane_queues, v_priorities, v_run_at, v_id) as l(task, queue, priority, run_at, id)
    cross join lateral (
      select due.ctid
      from pgtick.live_jobs as due
      where due.task = l.task and due.queue = l.queue and due.priority = l.priority and (due.run_at, due.id + 0) >= (l.run_at, l.id)
        and due.run_at <= v_now and due.runner_id is null and due.losses < 2
      order by due.run_at, due.id + 0
      limit p_n
      for update skip locked) as picked
    limit p_n);
  if v_limited_due then
    v_limited_rows := pgtick.pick_limited(v_limited, v_queues, p_n - case when v_suspect is null then 0 else 1 end, v_now, cardinality(v_picked),
      (select j.priority from pgtick.live_jobs as j where j.ctid = v_picked[1]), v_turn);
  end if;
  if v_shared is not null or v_suspect is not null or v_limited_rows is not null or v_timely is not null then   -- these first, then the others as far as there is room
    v_shared := array_remove(v_suspect || v_timely || v_limited_rows || v_shared, null);
    v_picked := (v_shared || array(
      select p.ctid from unnest(v_picked) with ordinality as p(ctid, place)
      where not exists (select from unnest(v_shared) as s(ctid) where s.ctid = p.ctid) order by p.place))[1:p_n];
  end if;
  return query
  with claimed as (
    update pgtick.live_jobs as j
    set runner_id = p_runner_id, fence = v_fence, attempt = j.attempt + 1, started_at = v_now
    where j.ctid = any (v_picked)
    returning j.id, j.fence, j.task, j.queue, j.priority, j.attempt, j.max_attempts, j.args, j.run_at, j.created_at, j.timeout, j.schedule_id, j.slot,
      j.owner_id, j.started_at, j.limit_key, j.reservation, j.trace_context
  )
  select c.id, c.fence, c.task, c.queue, c.priority, c.attempt, c.max_attempts, c.args, c.run_at, c.created_at, c.timeout,
    case when c.schedule_id is not null then (select s.name from pgtick.schedule_defs as s where s.id = c.schedule_id) end,
    c.slot, c.owner_id,
    case when c.attempt > 1 then (select n.checkpoint from pgtick.job_notes as n where n.job_id = c.id) end, c.started_at,
    c.limit_key, c.reservation, c.trace_context
  from claimed as c
  order by c.priority, c.run_at, c.id;
end
$$;
comment on function pgtick.claim_lanes(bigint, text[], text[], integer, text[], text[], integer[], timestamptz[], bigint[]) is
  'As pgtick.claim, but only in the lanes that are named, each from the given run_at and id on, whatever p_queues says; null lanes = all of p_queues, from the beginning. A job before that (of a transaction that was slow to commit) is found by a claim without lanes, so make one at least every poll interval. Raises TK002 and TK003.';

create or replace function pgtick.claim(p_runner_id bigint, p_queues text[], p_tasks text[], p_n integer)
returns table (id bigint, fence bigint, task text, queue text, priority smallint, attempt integer, max_attempts integer, args jsonb,
  run_at timestamptz, created_at timestamptz, timeout interval, schedule text, slot timestamptz, owner_id uuid, checkpoint jsonb,
  started_at timestamptz, limit_key text, reservation text, trace_context jsonb)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  return query select * from pgtick.claim_lanes(p_runner_id, p_queues, p_tasks, p_n);
end
$$;
comment on function pgtick.claim(bigint, text[], text[], integer) is
  'Give up to p_n (1 to 10,000) ready jobs of these queues and tasks to the runner, under one new fence, lower priority numbers first; but a tenth is shared out among all queues, tasks and priorities that have any. Jobs of paused queues are left. One call at a time for a runner. Raises TK002 (unknown, left or dead runner) and TK003 (its lease has run out: heartbeat first).';

-- For a runner of thousands of queues that all have jobs. A claim from the beginning looks at every lane, to be fair to all, and takes as many jobs
-- as there is room for, some twenty: so the runner asks for the lanes once, and claims in a hundred of them at a time (see claim_lanes).
-- Half of them by priority, in between the others whatever their priority, so that none starves; those of one priority in a new order each time,
-- so that two runners do not go for the same ones.
create or replace function pgtick.due_lanes(p_queues text[], p_tasks text[], p_n integer)
returns table (task text, queue text, priority smallint, run_at timestamptz, id bigint)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
begin
  if (p_n between 1 and 10000) is not true then perform pgtick.invalid('n', p_n::text, 'it goes from 1 to 10000'); end if;
  return query
  select x.task, x.queue, x.priority, x.run_at, x.id
  from (
    select due.*, row_number() over (order by due.priority, due.turn) as by_priority, row_number() over (order by due.turn) as by_turn
    from (
      select l.task, l.queue, l.priority, first.run_at, first.id, random() as turn
      from pgtick.lanes(
        array(select t.task from unnest(p_tasks) as t(task) where not exists (select from pgtick.limit_defs as d where d.task = t.task and d.max_running is not null)),
        array(select q.queue from unnest(p_queues) as q(queue) where not exists (select from pgtick.paused_queues as p where p.queue = q.queue))) as l
      cross join lateral (
        select j.run_at, j.id
        from pgtick.live_jobs as j
        where j.task = l.task and j.queue = l.queue and j.priority = l.priority and (j.run_at, j.id + 0) >= (l.run_at, l.id)
          and j.run_at <= v_now and j.runner_id is null and j.losses < 2
        order by j.run_at, j.id + 0
        limit 1) as first) as due) as x
  order by least(2 * x.by_priority, 2 * x.by_turn + 1)
  limit p_n;
end
$$;
comment on function pgtick.due_lanes(text[], text[], integer) is
  'Up to p_n (1 to 10,000) lanes of these queues and tasks in which a job is due, each with its first such job, for claim_lanes; those in which a claim should look first come first. Without paused queues, and without tasks that may run only so many at a time. Raises TK000.';

-- A lane's first waiting row is its earliest; blocked jobs have infinity. A suspect counts for who holds none. But whoever cannot have it all the same,
-- since a limit by key is full, would look again and again: one that has been due for more than a second is left to the poll.
create or replace function pgtick.next_run_at(p_runner_id bigint)
returns timestamptz
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_tasks text[];
  v_queues text[];
  v_suspect_job_id bigint;
begin
  select case when exists (select from pgtick.limit_defs as d where d.max_running is not null)
      then array(select t.task from unnest(r.tasks) as t(task) where not pgtick.is_full(t.task)) else r.tasks end,
    array(select q.queue from unnest(r.queues) as q(queue) where not exists (select from pgtick.paused_queues as p where p.queue = q.queue)),
    r.suspect_job_id
  into v_tasks, v_queues, v_suspect_job_id
  from pgtick.runner_leases as r where r.id = p_runner_id;
  return least(
    (select min(first.run_at)
    from pgtick.lanes(v_tasks, v_queues) as l
    cross join lateral (
      select j.run_at from pgtick.live_jobs as j
      where j.task = l.task and j.queue = l.queue and j.priority = l.priority and (j.run_at, j.id + 0) >= (l.run_at, l.id)
        and j.runner_id is null and j.losses < 2 and j.run_at < 'infinity'
      order by j.run_at, j.id + 0
      limit 1) as first),
    (select min(s.run_at)
    from pgtick.live_jobs as s
    where s.losses >= 2 and (s.task = any (v_tasks)) is true and (s.queue = any (v_queues)) is true and s.runner_id is null
      and s.run_at > v_now - interval '1 second' and s.run_at < 'infinity'
      and not exists (select from pgtick.live_jobs as h where h.id = v_suspect_job_id and h.runner_id = p_runner_id)));
end
$$;
comment on function pgtick.next_run_at(bigint) is 'When the next waiting job of the runner''s queues and tasks may run (in the past: now), or null. Jobs of paused queues do not count. Read it after settled().';
$part$, true);
end
$pgtick$;

-- sql/33_finish.sql
do $pgtick$
begin
  perform set_config('pgtick.part_27', $part$
-- Reporting what became of a claim. Every report carries the fence of its claim; under any other nothing changes.

create or replace function pgtick.fit_result(p_result jsonb)
returns jsonb
language sql immutable parallel safe
set search_path = ''
as $$
  select case when octet_length(p_result::text) <= 65536 then p_result
    else jsonb_build_object('truncated', true, 'bytes', octet_length(p_result::text), 'start', left(p_result::text, 16000)) end
$$;
comment on function pgtick.fit_result(jsonb) is 'A result of at most 64 KiB; of a larger one its start, with a mark and its size: the job ends all the same.';

-- A character takes one to six bytes here (a control character is written out), so it is tried with fewer and fewer of them.
create or replace function pgtick.cut_text(p_text text, p_bytes integer)
returns text
language sql immutable parallel safe
set search_path = ''
as $$
  select left(p_text, (p_bytes - 2) * k / 24)
  from generate_series(24, 4, -1) as k
  where octet_length(to_jsonb(left(p_text, (p_bytes - 2) * k / 24))::text) <= p_bytes
  order by k desc
  limit 1
$$;
comment on function pgtick.cut_text(text, integer) is 'The start of a text that takes at most p_bytes as a JSON string, its quotes included.';

create or replace function pgtick.fit_error(p_error jsonb)
returns jsonb
language sql immutable parallel safe
set search_path = ''
as $$
  select case
    when p_error is null or octet_length(p_error::text) <= 8192 then p_error
    else jsonb_strip_nulls(jsonb_build_object('message', pgtick.cut_text(coalesce(p_error ->> 'message', p_error::text), 2000),
      'stack', pgtick.cut_text(p_error ->> 'stack', 6000), 'truncated', true)) end
$$;
comment on function pgtick.fit_error(jsonb) is 'An error of at most 8 KiB: a longer message or stack is cut, with a mark.';

create or replace function pgtick.with_attempt(p_earlier jsonb, p_attempt integer, p_started_at timestamptz, p_finished_at timestamptz,
  p_runner_id bigint, p_outcome text, p_error jsonb)
returns jsonb
language sql stable parallel safe
set search_path = ''
as $$
  select case when jsonb_array_length(p_earlier) >= 100 then p_earlier - 0 else coalesce(p_earlier, '[]') end
    || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('attempt', p_attempt, 'started_at', p_started_at, 'finished_at', p_finished_at,
      'runner_id', p_runner_id, 'outcome', p_outcome, 'error', pgtick.fit_error(p_error))))
$$;
comment on function pgtick.with_attempt(jsonb, integer, timestamptz, timestamptz, bigint, text, jsonb) is 'A job''s earlier attempts with one more; the latest 100 are kept.';

-- A job that waits for earlier ones of its schedule is free when it is the first that lives. Found anew from the rows each time, so that
-- nothing has to be kept right beside them: not who waits for whom, nor what becomes of that when one in the middle is cancelled.
create or replace function pgtick.unblock_overlap(p_schedule_ids bigint[], p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_ids bigint[];
  v_queues text[];
  v_run_at timestamptz;
  v_count integer;
begin
  if not exists (select from pgtick.live_jobs as j where j.schedule_id = any (p_schedule_ids) and j.blocked_by = 'overlap') then return 0; end if;
  v_ids := array(
    select first.id
    from (select distinct i.id from unnest(p_schedule_ids) as i(id)) as s
    cross join lateral (select j.id, j.blocked_by from pgtick.live_jobs as j where j.schedule_id = s.id order by j.slot limit 1) as first
    where first.blocked_by = 'overlap');
  with free as (
    update pgtick.live_jobs as j
    set blocked_by = null, run_at = greatest(p_now, pgtick.slot_run_at(j.schedule_id, j.slot, d.jitter))
    from pgtick.schedule_defs as d
    where d.id = j.schedule_id and j.blocked_by = 'overlap'
      and j.id = any (array(select l.id from pgtick.live_jobs as l where l.id = any (v_ids) order by l.id for update skip locked))
    returning j.queue, j.run_at
  )
  select count(*), array_agg(distinct f.queue), min(f.run_at) into v_count, v_queues, v_run_at from free as f;
  if v_count > 0 then perform pgtick.wake(v_queues, v_run_at); end if;
  return v_count;
end
$$;
comment on function pgtick.unblock_overlap(bigint[], timestamptz) is
  'Free those jobs of these schedules that waited for earlier ones of their schedule and are now the first. Never waits for a lock. Returns how many.';

-- The one way out of live_jobs: DELETE … RETURNING into history, so that a reader sees the job in exactly one of them.
-- (Moving it by an UPDATE of a partition key instead fails other sessions' locks with 40001.) The caller has locked the rows, so their ctid
-- is enough to find them, and stays as it is.
-- force_generic_plan, here and in whatever runs for each claim and report: to plan an insert into history, with its partitions, takes ten
-- times as long as the insert of one job, and the planner would do so each time, since its guess for an unknown array is a bad one. And
-- jit off: a guess that is far too high would have it compile for a second and a half what runs for ten milliseconds.
create or replace function pgtick.archive_rows(p_rows tid[], p_ids bigint[], p_states text[], p_results jsonb[], p_errors jsonb[],
  p_keep_fence boolean, p_now timestamptz, p_settle boolean default true)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_noted constant boolean := exists (
    select from pgtick.job_notes as n
    where n.job_id between (select min(i.id) from unnest(p_ids) as i(id)) and (select max(i.id) from unnest(p_ids) as i(id)));
  v_ruled constant boolean := exists (select from pgtick.retentions);
  -- Outside READ COMMITTED they may be there and not be seen: then rescue() has to look.
  v_linked constant boolean := current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
    or exists (select from pgtick.job_links as l where l.on_job_id between (select min(i.id) from unnest(p_ids) as i(id)) and (select max(i.id) from unnest(p_ids) as i(id)))
    or exists (select from pgtick.job_links as l where l.job_id between (select min(i.id) from unnest(p_ids) as i(id)) and (select max(i.id) from unnest(p_ids) as i(id)));
  v_limited constant text[] := array(select d.task from pgtick.limit_defs as d where d.max_running is not null);
  -- Worked out once: a call for each row (of a function with a search_path, which is never inlined) took a sixth of all the time.
  v_done_until constant date := pgtick.default_expiry('done', p_now);
  v_other_until constant date := pgtick.default_expiry('failed', p_now);
  v_moved integer;
  v_schedules bigint[];
  v_unique bigint[];
  v_unique_states text[];
  v_unique_days date[];
  v_ended pgtick.ended[];
begin
  with gone as (
    delete from pgtick.live_jobs as j
    using unnest(p_rows, p_states, p_results, p_errors) as o(ctid, state, result, error)
    where j.ctid = o.ctid
    returning j.*, coalesce(o.state, 'done') as state, o.result, o.error
  ), kept as (
    insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, owner_id,
      schedule_id, slot, created_at, runner_id, fence, started_at, finished_at, result, error, done, note, earlier_attempts, uniqueness, retry_policy,
      after_jobs, after_any, batch_id, sequence_key, sequence_skips, limit_key, trace_context, expires_on)
    select g.id, g.task, g.queue, g.priority, g.state, coalesce(g.wanted_at, g.run_at), g.attempt, g.uncounted, g.max_attempts, g.losses, g.deaths, g.timeout, g.args, g.owner_id,
      g.schedule_id, g.slot, g.created_at, g.runner_id, case when p_keep_fence then g.fence end, g.started_at, p_now,
      case when g.result is not null then pgtick.fit_result(g.result) end, case when g.error is not null then pgtick.fit_error(g.error) end,
      case when v_noted then (select n.done from pgtick.job_notes as n where n.job_id = g.id) end,
      case when v_noted then (select n.note from pgtick.job_notes as n where n.job_id = g.id) end,
      g.earlier_attempts, g.uniqueness, g.retry_policy, g.after_jobs, g.after_any, g.batch_id, g.sequence_key, g.sequence_skips, g.limit_key, g.trace_context,
      case when v_ruled or g.uniqueness is not null then pgtick.expires_on(g.task, g.queue, g.state, g.uniqueness, p_now)
        when g.state = 'done' then v_done_until else v_other_until end
    from gone as g
    returning history.id, history.task, history.schedule_id, history.state, history.uniqueness, history.expires_on, history.batch_id, history.sequence_key,
      history.sequence_skips, history.limit_key
  )
  select count(*), array_agg(k.schedule_id) filter (where k.schedule_id is not null), array_agg(k.id) filter (where k.uniqueness is not null),
    array_agg(k.state) filter (where k.uniqueness is not null), array_agg(k.expires_on) filter (where k.uniqueness is not null),
    array_agg((k.id, k.task, k.state, k.batch_id, k.sequence_key, k.sequence_skips, k.limit_key)::pgtick.ended)
      filter (where v_linked or k.batch_id is not null or k.sequence_key is not null or k.task = any (v_limited))
  into v_moved, v_schedules, v_unique, v_unique_states, v_unique_days, v_ended from kept as k;
  if v_noted then
    delete from pgtick.job_notes as n
    where n.job_id = any (array(
      select x.job_id from pgtick.job_notes as x
      where x.job_id = any (p_ids) and not exists (select from pgtick.live_jobs as j where j.id = x.job_id)
      order by x.job_id
      for update skip locked));   -- one that is being written is left to rescue()
  end if;
  if v_unique is not null then perform pgtick.settle_keys(v_unique, v_unique_states, v_unique_days); end if;
  if v_schedules is not null then perform pgtick.unblock_overlap(v_schedules, p_now); end if;
  if v_ended is not null and p_settle then perform pgtick.settle(v_ended, p_now); end if;
  return v_moved;
end
$$;
comment on function pgtick.archive_rows(tid[], bigint[], text[], jsonb[], jsonb[], boolean, timestamptz, boolean) is
  'Move locked live jobs to history, each in its final state with its result and error (p_states, p_results, p_errors in the order of p_rows; null: all done, none), and return how many. p_ids holds at least their ids. p_settle false: the caller sees to those that waited for them.';

create or replace function pgtick.archive(p_ids bigint[], p_fences bigint[], p_states text[], p_errors jsonb[], p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_rows tid[];
  v_states text[];
  v_errors jsonb[];
begin
  select array_agg(j.ctid), array_agg(o.state), array_agg(o.error) into v_rows, v_states, v_errors
  from unnest(p_ids, p_fences, p_states, p_errors) as o(id, fence, state, error)
  cross join lateral (select l.ctid from pgtick.live_jobs as l where l.id = o.id and l.fence is not distinct from o.fence offset 0) as j
  where o.state is not null;
  if v_rows is null then return 0; end if;
  return pgtick.archive_rows(v_rows, p_ids, v_states, null, v_errors, false, p_now);
end
$$;
comment on function pgtick.archive(bigint[], bigint[], text[], jsonb[], timestamptz) is
  'Move locked live jobs that no report has ended, each under its present fence, to history in the given final states (null: not this one), and return how many.';

create or replace function pgtick.refuse_report(p_job_ids bigint[], p_fences bigint[], p_outcomes text[], p_results jsonb[], p_errors jsonb[], p_retry_at timestamptz[])
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_n constant integer := coalesce(cardinality(p_job_ids), 0);
  v_odd text;
begin
  if p_fences is null or cardinality(p_fences) <> v_n then perform pgtick.invalid('fences', cardinality(p_fences)::text, format('as many as there are jobs: %s', v_n)); end if;
  if p_outcomes is null or cardinality(p_outcomes) <> v_n then perform pgtick.invalid('outcomes', cardinality(p_outcomes)::text, format('as many as there are jobs: %s', v_n)); end if;
  if cardinality(p_results) <> v_n then perform pgtick.invalid('results', cardinality(p_results)::text, format('null, or as many as there are jobs: %s', v_n)); end if;
  if cardinality(p_errors) <> v_n then perform pgtick.invalid('errors', cardinality(p_errors)::text, format('null, or as many as there are jobs: %s', v_n)); end if;
  if cardinality(p_retry_at) <> v_n then perform pgtick.invalid('retry_at', cardinality(p_retry_at)::text, format('null, or as many as there are jobs: %s', v_n)); end if;
  select o.outcome into v_odd from unnest(p_outcomes) as o(outcome)
  where o.outcome is null or o.outcome not in ('done', 'failed', 'error', 'snoozed', 'released', 'cancelled') limit 1;
  if found then
    perform pgtick.invalid('outcomes', v_odd, 'one of done, failed, error, snoozed, released, cancelled');
  end if;
  if exists (select from unnest(p_retry_at) as r(at) where not isfinite(r.at)) then
    perform pgtick.invalid('retry_at', 'infinity', 'finite times, or null for now (after an error: by the retry policy)');
  end if;
end
$$;
comment on function pgtick.refuse_report(bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[]) is 'Raise TK000 when the arrays of a report do not fit each other or hold an unknown outcome.';

-- It never waits: a row that somebody has locked is passed over, and the answer for it is null, "ask again". Locks in id order.
create or replace function pgtick.finish(p_runner_id bigint, p_job_ids bigint[], p_fences bigint[], p_outcomes text[], p_results jsonb[] default null,
  p_errors jsonb[] default null, p_retry_at timestamptz[] default null)
returns table (job_id bigint, accepted boolean)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_rows tid[];
  v_states text[] := p_outcomes;
  v_results jsonb[] := p_results;
  v_errors jsonb[] := p_errors;
  v_back tid[];
  v_back_outcomes text[];
  v_back_errors jsonb[];
  v_back_at timestamptz[];
  v_ended integer := 0;
begin
  perform pgtick.refuse_report(p_job_ids, p_fences, p_outcomes, p_results, p_errors, p_retry_at);
  v_rows := array(   -- in the order of the report, as long as it holds all of it
    select j.ctid
    from unnest(p_job_ids, p_fences) as o(id, fence)
    cross join lateral (
      select l.ctid from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence and l.runner_id = p_runner_id for update skip locked) as j);
  v_now := pgtick.now();
  if cardinality(v_rows) < cardinality(p_job_ids) or p_outcomes && '{error,snoozed,released}' then
    -- Which of them end here: all but errors with attempts left, snoozed and released ones, and of these too what somebody has cancelled.
    select array_agg(x.ctid) filter (where x.state is not null), array_agg(x.state) filter (where x.state is not null),
      array_agg(x.result) filter (where x.state is not null), array_agg(x.error) filter (where x.state is not null),
      array_agg(x.ctid) filter (where x.state is null), array_agg(x.outcome) filter (where x.state is null),
      array_agg(x.error) filter (where x.state is null), array_agg(x.retry_at) filter (where x.state is null)
    into v_rows, v_states, v_results, v_errors, v_back, v_back_outcomes, v_back_errors, v_back_at
    from (
      select j.ctid, o.outcome, o.result, o.error, o.retry_at, case
        when o.outcome in ('done', 'failed', 'cancelled') then o.outcome
        when exists (select from pgtick.job_notes as n where n.job_id = j.id and n.cancel_requested_at is not null) then 'cancelled'
        when o.outcome = 'error' and j.attempt - j.uncounted >= j.max_attempts then 'failed' end as state
      from unnest(p_job_ids, p_fences, p_outcomes, p_results, p_errors, p_retry_at) as o(id, fence, outcome, result, error, retry_at)
      cross join lateral (
        select l.ctid, l.* from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence and l.runner_id = p_runner_id for update skip locked) as j) as x;
  end if;
  if cardinality(v_rows) > 0 then
    v_ended := pgtick.archive_rows(v_rows, p_job_ids, v_states, v_results, v_errors, true, v_now);
  end if;
  if v_back is not null then perform pgtick.put_back(v_back, v_back_outcomes, v_back_errors, v_back_at, v_now); end if;
  if v_ended = cardinality(p_job_ids) then
    return query select i.id, true from unnest(p_job_ids) as i(id);
  else
    return query
    select o.id, case
      when j.id is null then exists (select from pgtick.history as h where h.id = o.id and h.fence = o.fence)
      when j.runner_id is null then true          -- it waits under this very fence: put back now, or by the same report before
      when j.runner_id is distinct from p_runner_id then false
    end                                            -- still claimed: somebody has the row locked
    from unnest(p_job_ids, p_fences) with ordinality as o(id, fence, place)
    left join lateral (select l.* from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence offset 0) as j on true
    order by o.place;
    perform pgtick.count_refused(p_runner_id, p_job_ids, p_fences);
  end if;
end
$$;
comment on function pgtick.finish(bigint, bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[]) is
  'Report the outcomes of claims; one row for each, in order. accepted: true (also when the same report was taken before), false (the claim is not this runner''s any more: nothing changed), null (ask again). Outcomes: done; failed (for good); error (again by the retry policy or at retry_at, failed when the attempts are used up); snoozed and released (again at retry_at, attempt not counted; released without an error: it never started); cancelled. An error is {"message", "stack", …}, cut at 8 KiB; results are cut at 64 KiB. Raises TK000.';

-- Counted where it is no trouble: a row that somebody has locked is passed over.
create or replace function pgtick.count_refused(p_runner_id bigint, p_job_ids bigint[], p_fences bigint[])
returns void
language sql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
  update pgtick.runner_leases as r set refused = r.refused + x.refused
  from (
    select count(*) as refused
    from unnest(p_job_ids, p_fences) as o(id, fence)
    left join lateral (select l.* from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence offset 0) as j on true
    where case when j.id is null then not exists (select from pgtick.history as h where h.id = o.id and h.fence = o.fence)
      else j.runner_id is distinct from p_runner_id and j.runner_id is not null end) as x
  where x.refused > 0 and r.id = (select l.id from pgtick.runner_leases as l where l.id = p_runner_id for no key update skip locked)
$$;
comment on function pgtick.count_refused(bigint, bigint[], bigint[]) is 'Add those of these reports that finish() refused to the runner''s count.';

-- The other half of finish: errors with attempts left, snoozed and released jobs wait again. They keep the fence, so that the same
-- report is known when it comes twice.
create or replace function pgtick.put_back(p_rows tid[], p_outcomes text[], p_errors jsonb[], p_retry_at timestamptz[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_queues text[];
  v_run_at timestamptz;
  v_ids bigint[];
begin
  with back as (
    update pgtick.live_jobs as j
    set runner_id = null, started_at = null, reservation = null,
      -- one that never started keeps its place, too
      run_at = case
        when o.outcome = 'released' and o.error is null and o.retry_at is null then j.run_at
        when o.outcome = 'error' and o.retry_at is null then p_now
          + pgtick.backoff(j.attempt - j.uncounted, coalesce(j.retry_policy, (select r.policy from pgtick.retry_policies as r where r.task = j.task)))
        else greatest(p_now, o.retry_at) end,
      -- released without an error: it never started, so there was no attempt
      attempt = j.attempt - case when o.outcome = 'released' and o.error is null then 1 else 0 end,
      uncounted = j.uncounted + case when o.outcome = 'error' or (o.outcome = 'released' and o.error is null) then 0 else 1 end,
      earlier_attempts = case when o.outcome = 'released' and o.error is null then j.earlier_attempts
        else pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, p_now, j.runner_id, o.outcome, o.error) end
    from unnest(p_rows, p_outcomes, p_errors, p_retry_at) as o(ctid, outcome, error, retry_at)
    where j.ctid = o.ctid
    returning j.id, j.queue, j.run_at
  )
  select array_agg(distinct b.queue), min(b.run_at), array_agg(b.id) into v_queues, v_run_at, v_ids from back as b;
  perform pgtick.free_places_of(v_ids, p_now);
  if v_queues is not null then perform pgtick.wake(v_queues, v_run_at); end if;
end
$$;
comment on function pgtick.put_back(tid[], text[], jsonb[], timestamptz[], timestamptz) is 'Make locked claims wait again after an error, a snooze or a release.';

create or replace function pgtick.refuse_claim(p_job_id bigint, p_fence bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK001', message = format('job %s is not claimed under fence %s any more', p_job_id, p_fence),
    hint = 'Another runner has it, or it has ended. Roll back, drop the result, and report nothing.';
end
$$;
comment on function pgtick.refuse_claim(bigint, bigint) is 'Raise TK001: the claim is lost.';

-- Both lock the live row, so they come last before the commit. A worker frozen between here and its commit would hold the row for ever:
-- the session's own timeout, set to the lease, ends it.
create or replace function pgtick.check_claim(p_job_id bigint, p_fence bigint)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_runner_id bigint;
  v_task text;
begin
  select j.runner_id, j.task into v_runner_id, v_task
  from pgtick.live_jobs as j
  where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null
  for no key update;
  if not found then perform pgtick.refuse_claim(p_job_id, p_fence); end if;
  if exists (select from pgtick.task_rules as r where r.task = v_task) then perform pgtick.check_rules(v_task); end if;
  perform pg_catalog.set_config('idle_in_transaction_session_timeout',
    (select ceil(extract(epoch from r.lease) * 1000)::bigint::text from pgtick.runner_leases as r where r.id = v_runner_id), true);
end
$$;
comment on function pgtick.check_claim(bigint, bigint) is
  'In the task''s own transaction, last before the commit: raise TK001 unless the job is still claimed under this fence, and keep it so until the transaction ends, whoever else comes (what follows in the same transaction may give it away: leave, reconcile, a report, rescue, maintain). Raises TK022 and TK023 where a gate of its task refuses.';

create or replace function pgtick.finish_in_transaction(p_job_id bigint, p_fence bigint, p_result jsonb default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  perform pgtick.check_claim(p_job_id, p_fence);
  -- for update: so that from here on nobody enqueues a job to wait for this one
  perform pgtick.archive_rows(array(select j.ctid from pgtick.live_jobs as j where j.id = p_job_id for update), array[p_job_id], null,
    case when p_result is not null then array[p_result] end, null, true, pgtick.now());
end
$$;
comment on function pgtick.finish_in_transaction(bigint, bigint, jsonb) is
  'In the task''s own transaction, last before the commit: end the job as done, so that its effects and its completion commit together or not at all. Raises TK001 when the claim is lost, TK022 and TK023 where a gate of its task refuses. p_result is cut at 64 KiB.';

create or replace function pgtick.progress(p_job_id bigint, p_fence bigint, p_done real, p_note text default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_owner_id uuid;
begin
  if p_done is null or p_done not between 0 and 1 then perform pgtick.invalid('done', p_done::text, 'the share done, from 0 to 1'); end if;
  select j.owner_id into v_owner_id from pgtick.live_jobs as j where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null;
  if not found then perform pgtick.refuse_claim(p_job_id, p_fence); end if;
  insert into pgtick.job_notes as n (job_id, done, note, noted_at) values (p_job_id, p_done, left(p_note, 1000), v_now)
  on conflict (job_id) do update set done = excluded.done, note = excluded.note, noted_at = excluded.noted_at;
  if v_owner_id is not null then perform pgtick.announce_progress(p_job_id, v_owner_id, v_now); end if;
end
$$;
comment on function pgtick.progress(bigint, bigint, real, text) is 'Say what share of a running job is done (0 to 1), and a note of at most 1,000 characters. Outside the task''s transaction, where others see it at once. Raises TK001 when the claim is lost.';

create or replace function pgtick.checkpoint(p_job_id bigint, p_fence bigint, p_state jsonb)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  if octet_length(p_state::text) > 65536 then
    perform pgtick.invalid('state', left(p_state::text, 40) || '…', format('%s bytes are over the limit of 65536', octet_length(p_state::text)));
  end if;
  if not exists (select from pgtick.live_jobs as j where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null) then
    perform pgtick.refuse_claim(p_job_id, p_fence);
  end if;
  insert into pgtick.job_notes as n (job_id, checkpoint, noted_at) values (p_job_id, p_state, pgtick.now())
  on conflict (job_id) do update set checkpoint = excluded.checkpoint, noted_at = excluded.noted_at;
end
$$;
comment on function pgtick.checkpoint(bigint, bigint, jsonb) is 'Keep a state of at most 64 KiB for the next attempt of a running job; claim() hands it out. Raises TK001 when the claim is lost.';
$part$, true);
end
$pgtick$;

-- sql/34_rescue.sql
do $pgtick$
begin
  perform set_config('pgtick.part_28', $part$
-- Dead runners. By the lease alone, never by a job's age; and only when two looks, at least a third of the lease apart, found it run out
-- with no heartbeat between: a clock that jumps kills nobody.

create or replace function pgtick.find_dead(p_now timestamptz)
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$
  update pgtick.runner_leases as r
  set suspected_at = coalesce(r.suspected_at, p_now),
    ended_at = case when r.suspected_at <= p_now - r.lease / 3 then p_now end,
    ended_as = case when r.suspected_at <= p_now - r.lease / 3 then 'dead' end
  where r.id = any (array(
    select l.id from pgtick.runner_leases as l
    where l.freed_at is null and l.ended_at is null and l.lease_until <= p_now and (l.suspected_at is null or l.suspected_at <= p_now - l.lease / 3)
    order by l.id
    for update skip locked))
$$;
comment on function pgtick.find_dead(timestamptz) is 'Note whose lease has run out, and end those for whom this is the second time.';

-- definer: pg_cron's job and the runner's role call it, and write no table.
create or replace function pgtick.rescue()
returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set jit = off
as $$
declare
  v_now timestamptz := pgtick.now();
  v_ended bigint[];
  v_count integer := 0;
begin
  perform pgtick.find_dead(v_now);
  -- New statements from here on: they see those just ended, and claims that committed before the runner's row was locked. What another
  -- session holds, another rescue() included, is left to the next call.
  v_ended := array(select r.id from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is not null order by r.id for update skip locked);
  if cardinality(v_ended) > 0 then
    v_count := pgtick.free_claims(v_ended, v_now);
    delete from pgtick.sleepers as s
    using (
      select l.queue, l.runner_id from pgtick.sleepers as l where l.runner_id = any (v_ended) order by l.queue, l.runner_id for update skip locked) as free
    where s.queue = free.queue and s.runner_id = free.runner_id;
    update pgtick.runner_leases as r set freed_at = v_now
    where r.id = any (v_ended) and not exists (select from pgtick.live_jobs as j where j.runner_id = r.id)
      and not exists (select from pgtick.sleepers as s where s.runner_id = r.id);
  end if;
  v_count := v_count + pgtick.end_overdue(v_now);
  perform pgtick.sweep_notes();
  perform pgtick.sweep_overlaps(v_now);
  perform pgtick.sweep_ties(v_now);
  return v_count;
end
$$;
comment on function pgtick.rescue() is
  'Give back the claims of runners that are dead: the lease found run out twice, at least a third of it apart, with no heartbeat between. Their attempts show as lost and do not count; a job under which three runners died, each holding it as its one suspect, fails. Also take from a living runner what it has not ended a lease after its timeout; that attempt counts. Also free jobs whose blocker has ended. Returns how many claims. Never waits for a lock; anybody may call it, at any time.';

create or replace function pgtick.free_claims(p_runner_ids bigint[], p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_ids bigint[];
  v_fences bigint[];
  v_states text[];
  v_queues text[];
begin
  select array_agg(x.id), array_agg(x.fence),
    array_agg(case when x.cancelled then 'cancelled' when x.blamed and x.deaths >= 2 then 'failed' end)
  into v_ids, v_fences, v_states
  from (
    select j.id, j.fence, j.deaths,
      r.suspect_job_id is not distinct from j.id and r.ended_as = 'dead' as blamed,
      exists (select from pgtick.job_notes as n where n.job_id = j.id and n.cancel_requested_at is not null) as cancelled
    from pgtick.live_jobs as j
    join pgtick.runner_leases as r on r.id = j.runner_id
    where j.runner_id = any (p_runner_ids)
    order by j.id
    for update of j skip locked) as x;
  if v_ids is null then return 0; end if;

  update pgtick.live_jobs as j
  set deaths = j.deaths + 1
  from pgtick.runner_leases as r
  where j.id = any (v_ids) and r.id = j.runner_id and r.suspect_job_id = j.id and r.ended_as = 'dead' and j.deaths < j.losses;
  if array_position(v_states, 'failed') is not null or array_position(v_states, 'cancelled') is not null then
    perform pgtick.archive(v_ids, v_fences, v_states,
      array(select case when s.state = 'failed' then
          '{"message": "three runners died while this job was the only suspect among those they held"}'::jsonb end
        from unnest(v_states) with ordinality as s(state, place) order by s.place),
      p_now);
  end if;
  with freed as (
    update pgtick.live_jobs as j
    set runner_id = null, fence = null, started_at = null, run_at = p_now,
      -- a runner that left says by that that it runs nothing: no attempt
      attempt = j.attempt - case r.ended_as when 'left' then 1 else 0 end,
      uncounted = j.uncounted + case r.ended_as when 'left' then 0 else 1 end,
      losses = least(j.losses + case r.ended_as when 'left' then 0 else 1 end, 32767),
      earlier_attempts = case r.ended_as when 'left' then j.earlier_attempts
        else pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, p_now, j.runner_id, 'lost', '{"message": "the runner died"}') end
    from pgtick.runner_leases as r
    where j.id = any (v_ids) and r.id = j.runner_id
    returning j.queue
  )
  select array_agg(distinct f.queue) into v_queues from freed as f;
  perform pgtick.free_places_of(v_ids, p_now);
  if v_queues is not null then perform pgtick.wake(v_queues, p_now); end if;
  return cardinality(v_ids);
end
$$;
comment on function pgtick.free_claims(bigint[], timestamptz) is 'Make the claims of ended runners ready again, but fail a proven poison job and end what somebody had cancelled. Returns how many.';

-- A runner stops an attempt whose time is up; this is for one that does not, though it lives. There is no index by which to find its claims
-- (a claim would no longer be a HOT update), so live_jobs is read only where a heartbeat has told of such a deadline, or, for workers that
-- do not tell what they hold, once a minute. A claim that a worker has forgotten, and so never names, is maintain()'s to find.
create or replace function pgtick.end_overdue(p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_silent constant boolean := exists (
    select from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null and r.deadline_at is null and r.heartbeat_at > r.registered_at)
    and pgtick.upkeep_due('timeouts', '1 minute')
    and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgtick.timeouts'));   -- so that nobody waits for that row below
begin
  if v_silent then
    insert into pgtick.upkeep (what, done_at) values ('timeouts', p_now)
    on conflict (what) do update set done_at = excluded.done_at;
  end if;
  return pgtick.take_overdue(array(
    select r.id from pgtick.runner_leases as r
    where r.freed_at is null and r.ended_at is null
      and (r.deadline_at + r.lease <= p_now or (v_silent and r.deadline_at is null))), p_now);
end
$$;
comment on function pgtick.end_overdue(timestamptz) is
  'End the attempts that living runners have let run for more than a lease beyond their timeout, as far as they have told of them, or tell of nothing. Returns how many.';

-- It reads all of live_jobs, unless no runner is given. The lease on top of the timeout is the time that the runner has to notice for itself.
create or replace function pgtick.take_overdue(p_runner_ids bigint[], p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_ids bigint[];
  v_fences bigint[];
  v_states text[];
  v_errors jsonb[];
  v_queues text[];
  v_run_at timestamptz;
begin
  if cardinality(p_runner_ids) = 0 then return 0; end if;
  select array_agg(x.id), array_agg(x.fence),
    array_agg(case when x.cancelled then 'cancelled' when x.attempt - x.uncounted >= x.max_attempts then 'failed' end),
    array_agg(jsonb_build_object('message', format('the attempt took longer than its timeout of %s, and its runner did not end it', x.timeout)))
  into v_ids, v_fences, v_states, v_errors
  from (
    select j.*, exists (select from pgtick.job_notes as n where n.job_id = j.id and n.cancel_requested_at is not null) as cancelled
    from pgtick.live_jobs as j
    join pgtick.runner_leases as r on r.id = j.runner_id
    where j.runner_id = any (p_runner_ids) and j.started_at + j.timeout + r.lease <= p_now
    order by j.id
    for update of j skip locked) as x;
  if v_ids is null then return 0; end if;
  perform pgtick.archive(v_ids, v_fences, v_states, v_errors, p_now);
  with freed as (
    update pgtick.live_jobs as j
    set runner_id = null, fence = null, started_at = null,
      run_at = p_now + pgtick.backoff(j.attempt - j.uncounted, coalesce(j.retry_policy, (select r.policy from pgtick.retry_policies as r where r.task = j.task))),
      earlier_attempts = pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, p_now, j.runner_id, 'error', o.error)
    from unnest(v_ids, v_fences, v_errors) as o(id, fence, error)
    where j.id = o.id and j.fence = o.fence
    returning j.queue, j.run_at
  )
  select array_agg(distinct f.queue), min(f.run_at) into v_queues, v_run_at from freed as f;
  perform pgtick.free_places_of(v_ids, p_now);
  if v_queues is not null then perform pgtick.wake(v_queues, v_run_at); end if;
  return cardinality(v_ids);
end
$$;
comment on function pgtick.take_overdue(bigint[], timestamptz) is
  'End those attempts of these runners that are a lease beyond their timeout: tried again by the retry policy, or failed when that was the last one. Returns how many.';

-- A cancel request or a progress report may come in just as its job ends.
create or replace function pgtick.sweep_notes()
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$
  delete from pgtick.job_notes as n
  where n.job_id = any (array(
    select x.job_id from pgtick.job_notes as x
    where not exists (select from pgtick.live_jobs as j where j.id = x.job_id)
    order by x.job_id
    limit 1000
    for update skip locked))
$$;
comment on function pgtick.sweep_notes() is 'Delete the notes of jobs that are no longer live.';

-- The tick that made a job wait, and what ended the job before it, may have missed each other: the one passed over a row that the other
-- had locked. And a transaction that ends a job under an old snapshot sees no job that came since.
create or replace function pgtick.sweep_overlaps(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  if not exists (select from pgtick.live_jobs as j where j.blocked_by = 'overlap') then return; end if;
  perform pgtick.unblock_overlap(array(
    with recursive step as (
      select (select min(j.schedule_id) from pgtick.live_jobs as j where j.blocked_by = 'overlap') as id
      union all
      select (select min(j.schedule_id) from pgtick.live_jobs as j where j.blocked_by = 'overlap' and j.schedule_id > s.id) from step as s where s.id is not null
    )
    select s.id from step as s where s.id is not null), p_now);
end
$$;
comment on function pgtick.sweep_overlaps(timestamptz) is 'Free jobs that wait for an earlier job of their schedule which no longer lives.';
$part$, true);
end
$pgtick$;

-- sql/35_by_hand.sql
do $pgtick$
begin
  perform set_config('pgtick.part_29', $part$
-- What people do to a job.

create or replace function pgtick.refuse_job_id(p_job_id bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK004', message = format('there is no job %s', coalesce(p_job_id::text, 'null')),
    hint = 'Finished jobs are dropped after 7 days (done) or 30 (failed, cancelled), or as pgtick.set_retention said.';
end
$$;
comment on function pgtick.refuse_job_id(bigint) is 'Raise TK004: no such job.';

-- The row is only tried for: while a task's transaction or a claim holds it, the job counts as running, and the request is noted beside it.
create or replace function pgtick.stop_job(p_job_id bigint, p_why text, p_by text, p_now timestamptz)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_job pgtick.live_jobs;
begin
  select * into v_job from pgtick.live_jobs as j where j.id = p_job_id for update skip locked;
  if found and v_job.runner_id is null then
    perform pgtick.archive(array[p_job_id], array[v_job.fence], '{cancelled}', array[jsonb_build_object('message', p_why)], p_now);
    return 'cancelled';
  end if;
  if not found then select * into v_job from pgtick.live_jobs as j where j.id = p_job_id; end if;
  if not found then return null; end if;
  insert into pgtick.job_notes as n (job_id, cancel_requested_at, cancel_requested_by) values (p_job_id, p_now, p_by)
  on conflict (job_id) do update set cancel_requested_at = coalesce(n.cancel_requested_at, excluded.cancel_requested_at),
    cancel_requested_by = coalesce(n.cancel_requested_by, excluded.cancel_requested_by);
  perform pg_catalog.pg_notify('pgtick_stop', coalesce(v_job.runner_id::text, ''));
  return 'running';
end
$$;
comment on function pgtick.stop_job(bigint, text, text, timestamptz) is
  'Cancel a waiting job, or note the wish beside a running one and tell its runner. Returns cancelled, running, or null where no such job is live.';

-- definer: service_role may cancel, but write no table.
create or replace function pgtick.cancel(p_job_id bigint)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_state text := pgtick.stop_job(p_job_id, 'cancelled by ' || pgtick.caller(), pgtick.caller(), pgtick.now());
begin
  if v_state is not null then return v_state; end if;
  select h.state into v_state from pgtick.history as h where h.id = p_job_id;
  if not found then perform pgtick.refuse_job_id(p_job_id); end if;
  return v_state;
end
$$;
comment on function pgtick.cancel(bigint) is
  'Cancel a job and return its state after: cancelled; running (the request is noted and its runner told: it ends when the task stops); or, when it had ended before, that state. Raises TK004.';

-- The number of attempts goes on, and one more is allowed. Locks: history row, then the live one (the id is free to take: it was live
-- before), then its notes. Of two retries at once the second waits for the first, and finds the job waiting when it looks again.
-- definer: as cancel.
create or replace function pgtick.retry(p_job_id bigint)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_state text;
begin
  for v_look in 1 .. 2 loop
    if pgtick.hasten(p_job_id) or pgtick.revive(p_job_id) then return 'ready'; end if;
  end loop;
  select j.state into v_state from pgtick.jobs as j where j.id = p_job_id;
  if not found then perform pgtick.refuse_job_id(p_job_id); end if;
  raise exception using errcode = 'TK005', message = format('job %s is %s: only a failed, cancelled or waiting job can be retried', p_job_id, v_state),
    hint = case v_state when 'running' then 'Wait for it to end, or cancel it first.' when 'ready' then 'It waits for something else, or is being claimed just now.'
      else 'Enqueue a new job.' end;
end
$$;
comment on function pgtick.retry(bigint) is
  'Make a failed or cancelled job ready again, with its id and history and one more attempt, or a waiting one due now; returns ready. It waits again for those jobs that it was to wait for which live, and for its turn in its sequence. Raises TK004 (no such job), TK005 (running or done), TK008 (another job holds its unique key) and TK020 (one that is tied to others, outside READ COMMITTED).';

create or replace function pgtick.hasten(p_job_id bigint)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_queue text;
begin
  update pgtick.live_jobs as j set run_at = least(j.run_at, v_now)   -- one that is due already keeps its place
  where j.id = any (array(select l.id from pgtick.live_jobs as l where l.id = p_job_id and l.runner_id is null and l.run_at < 'infinity' for update skip locked))
  returning j.queue into v_queue;
  if not found then return false; end if;
  perform pgtick.wake(array[v_queue], v_now);
  return true;
end
$$;
comment on function pgtick.hasten(bigint) is 'Make a waiting job due now. False where there is none that waits for its time alone.';

-- The clock is read after the lock: of two retries at once one waits, and what it makes due must not be back-dated by that.
-- What was said of the job's earlier life, a late cancel request above all, is not meant for this one.
-- Its unique key has to be free, or still its own. What it waited for and lives (again) it waits for again; what has ended meanwhile, in
-- whatever way, does not keep it.
create or replace function pgtick.revive(p_job_id bigint)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_old pgtick.history;
  v_now timestamptz;
  v_waits bigint[];
  v_tied boolean;
begin
  select * into v_old from pgtick.history as h where h.id = p_job_id and h.state <> 'done' for update;
  if not found then return false; end if;
  v_tied := v_old.sequence_key is not null or v_old.batch_id is not null or coalesce(v_old.after_jobs <> '{}', false)
    or exists (select from pgtick.batch_defs as b where b.job_id = p_job_id and coalesce(b.finished_at, 'infinity') = 'infinity');
  if v_tied then v_waits := pgtick.lock_ties(v_old); end if;
  v_now := pgtick.now();
  perform pgtick.take_key_again(p_job_id, v_old.task, v_old.uniqueness, v_now);
  with gone as (
    delete from pgtick.history as h where h.id = p_job_id returning h.*
  )
  insert into pgtick.live_jobs (id, task, queue, priority, run_at, wanted_at, blocked_by, after_jobs, after_any, batch_id, sequence_key, sequence_skips, came_back, limit_key,
    trace_context, attempt, uncounted, max_attempts, losses, deaths, timeout, args, owner_id, schedule_id, slot, created_at, uniqueness, retry_policy, earlier_attempts)
  overriding system value
  select g.id, g.task, g.queue, g.priority, case when v_tied then 'infinity' else v_now end, case when v_tied then v_now end, case when v_tied then 'after' end,
    g.after_jobs, g.after_any, g.batch_id, g.sequence_key, g.sequence_skips, case when g.sequence_key is not null then true end, g.limit_key, g.trace_context, g.attempt, g.uncounted,
    greatest(g.max_attempts, g.attempt - g.uncounted + 1), 0, 0, g.timeout, g.args, g.owner_id, g.schedule_id, g.slot, g.created_at, g.uniqueness, g.retry_policy,
    case when g.started_at is null then g.earlier_attempts
      else pgtick.with_attempt(g.earlier_attempts, g.attempt, g.started_at, g.finished_at, g.runner_id, g.state, g.error) end
  from gone as g;
  delete from pgtick.job_notes as n where n.job_id = p_job_id;
  if not v_tied then
    perform pgtick.wake(array[v_old.queue], v_now);
    return true;
  end if;
  perform pgtick.link_jobs(array[p_job_id], v_waits, coalesce(v_old.after_any, true));
  perform pgtick.unblock(array[p_job_id], v_now);
  return true;
end
$$;
comment on function pgtick.revive(bigint) is 'Bring a failed or cancelled job back from history, with its id, its attempts and one more. False where there is none.';

create or replace function pgtick.take_key_again(p_job_id bigint, p_task text, p_unique jsonb, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_holder_id bigint;
begin
  if p_unique is null or (p_unique ->> 'until')::timestamptz <= p_now then return; end if;
  v_holder_id := pgtick.take_key(p_task, p_unique ->> 'key', p_job_id, array(select jsonb_array_elements_text(p_unique -> 'states')), (p_unique ->> 'until')::timestamptz, p_now);
  if v_holder_id <> p_job_id then
    raise exception using errcode = 'TK008', message = format('job %s has the unique key "%s", which job %s holds now', p_job_id, p_unique ->> 'key', v_holder_id),
      hint = format('Look at job %s: it does the same. Cancel it first if this one is to run instead.', v_holder_id);
  end if;
end
$$;
comment on function pgtick.take_key_again(bigint, text, jsonb, timestamptz) is 'Take the unique key of a job that comes back, where it still counts. Raises TK008.';

-- Locks: sequence, jobs, batches. Nothing that matters to it may end unseen, nor anything of its sequence be set free: whoever would do that
-- needs the lock of the sequence's first job.
create or replace function pgtick.lock_ties(p_old pgtick.history)
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_waits bigint[];
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using errcode = 'TK020', message = format('job %s is tied to others, and cannot be retried at isolation level %s', p_old.id, current_setting('transaction_isolation')),
      hint = 'What it waits for may have ended since the snapshot was taken, and it would wait for ever. Use READ COMMITTED.';
  end if;
  if p_old.sequence_key is not null then
    perform pgtick.lock_sequence(p_old.sequence_key);
    while pgtick.lock_first(p_old.sequence_key) loop null; end loop;
  end if;
  v_waits := array(select a.id from unnest(pgtick.lock_living(p_old.after_jobs)) as a(id) where not pgtick.waits_for(array[a.id], p_old.id));
  perform from pgtick.batch_defs as b where b.id = p_old.batch_id for key share;
  perform from pgtick.batch_defs as b where b.job_id = p_old.id and coalesce(b.finished_at, 'infinity') = 'infinity' for key share;
  return v_waits;
end
$$;
comment on function pgtick.lock_ties(pgtick.history) is 'Lock what an ended job, which is to come back, is tied to, and return the jobs that it has to wait for again.';

create or replace function pgtick.lock_first(p_sequence_key text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_id bigint;
begin
  select j.id into v_id from pgtick.live_jobs as j where j.sequence_key = p_sequence_key order by j.id + 0 limit 1 for no key update;
  perform from pgtick.live_jobs as j where j.sequence_key = p_sequence_key and (j.blocked_by is null or j.blocked_by = 'limit') order by j.id + 0 limit 1 for key share;
  return v_id is distinct from (select j.id from pgtick.live_jobs as j where j.sequence_key = p_sequence_key order by j.id + 0 limit 1);
end
$$;
comment on function pgtick.lock_first(text) is 'Lock the first live job of a locked sequence, and the one of it that nothing blocks. True when that has to be done again, since it has ended meanwhile.';

-- The one way to other arguments: a job's record would otherwise say that it did what it was never asked to.
-- definer: as cancel.
create or replace function pgtick.retry_with(p_job_id bigint, p_args jsonb, p_reason text)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_state text;
  v_before jsonb;
begin
  if coalesce(btrim(p_reason), '') = '' then perform pgtick.invalid('reason', p_reason, 'why the arguments change, for the record'); end if;
  v_state := pgtick.retry(p_job_id);   -- locks the live row, which waits
  select j.args into v_before from pgtick.live_jobs as j where j.id = p_job_id;
  perform pgtick.refuse_job(j.task, p_args, j.queue, j.priority, j.max_attempts, j.timeout) from pgtick.live_jobs as j where j.id = p_job_id;
  perform pgtick.check_function_call(p_args) from pgtick.live_jobs as j where j.id = p_job_id and j.task = 'sql';
  update pgtick.live_jobs as j set args = p_args where j.id = p_job_id;
  perform pgtick.note_action('retry_with', p_job_id::text, jsonb_build_object('reason', left(p_reason, 1000), 'before', v_before, 'after', p_args));
  return v_state;
end
$$;
comment on function pgtick.retry_with(bigint, jsonb, text) is
  'As retry, with other arguments; pgtick.audit keeps those before and after, who changed them, when, and the reason (not empty). Raises TK000, TK004, TK005 and TK008.';
$part$, true);
end
$pgtick$;

-- sql/36_addresses.sql
do $pgtick$
begin
  perform set_config('pgtick.part_30', $part$
-- Copies of a database: a branch, a clone, a restore. A runner works only at an address that is recorded.

-- definer: the runner's role writes no table, and the first runner records where nothing is recorded.
create or replace function pgtick.check_address(p_address text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_known text;
begin
  if (length(p_address) between 1 and 500) is not true then
    perform pgtick.invalid('address', p_address, 'host or Supabase project, a slash, and the database''s name: of 1 to 500 characters');
  end if;
  if exists (select from pgtick.addresses as a where a.address = p_address) then return; end if;
  insert into pgtick.addresses (address, adopted_at, adopted_by)
  select p_address, pgtick.now(), pgtick.caller() where not exists (select from pgtick.addresses)
  on conflict do nothing;
  if found or exists (select from pgtick.addresses as a where a.address = p_address) then return; end if;
  select string_agg(a.address, ', ' order by a.adopted_at) into v_known from pgtick.addresses as a;
  raise exception using errcode = 'TK009', message = format('this database belongs to %s, not to %s', v_known, p_address),
    hint = format('If it is a copy, leave its jobs alone. To let runners work under this address too: pgtick adopt. If it has moved: pgtick adopt --only.');
end
$$;
comment on function pgtick.check_address(text) is 'Raise TK009 unless runners may work on this database under this address. Where none is recorded, record it.';

create or replace function pgtick.adopt(p_address text, p_only boolean default false)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if (length(p_address) between 1 and 500) is not true then
    perform pgtick.invalid('address', p_address, 'host or Supabase project, a slash, and the database''s name: of 1 to 500 characters');
  end if;
  if p_only then delete from pgtick.addresses as a where a.address <> p_address; end if;
  insert into pgtick.addresses (address, adopted_at, adopted_by) values (p_address, pgtick.now(), pgtick.caller()) on conflict do nothing;
end
$$;
comment on function pgtick.adopt(text, boolean) is 'Let runners work on this database under this address; p_only: under no other. For the owner. Raises TK000.';
$part$, true);
end
$pgtick$;

-- sql/37_bulk.sql
do $pgtick$
begin
  perform set_config('pgtick.part_31', $part$
-- Many jobs at once, by a filter.

-- The conditions of a filter on pgtick.live_jobs or pgtick.history. Values are quoted, fields are known ones: no SQL comes from outside.
create or replace function pgtick.filter_sql(p_filter jsonb, p_live boolean)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_fields constant text[] := '{id,task,queue,state,schedule,owner_id,batch,limit_key,sequence_key,created_before,created_after}'::text[]
    || case when p_live then '{}' else '{finished_before,finished_after,error}' end::text[];
  v_states constant text[] := case when p_live then '{ready,running}' else '{failed,cancelled}' end;
  v_condition text := 'true';
  v_field text;
  v_value text;
begin
  if jsonb_typeof(p_filter) is distinct from 'object' or p_filter = '{}' then
    perform pgtick.invalid('filter', p_filter::text, 'a JSON object with at least one field', format('Fields: %s.', array_to_string(v_fields, ', ')));
  end if;
  for v_field, v_value in select f.key, f.value from jsonb_each_text(p_filter) as f(key, value) loop
    if v_field <> all (v_fields) or v_value is null or jsonb_typeof(p_filter -> v_field) in ('object', 'array') then
      perform pgtick.invalid('filter', v_field, format('one value for any of %s', array_to_string(v_fields, ', ')));
    end if;
    if v_field = 'state' and v_value <> all (v_states) then
      perform pgtick.invalid('filter.state', v_value, format('one of %s', array_to_string(v_states, ', ')));
    end if;
    begin
      v_condition := v_condition || ' and ' || case v_field
        when 'id' then format('j.id = %L::bigint', v_value::bigint)
        when 'batch' then format('j.batch_id = %L::bigint', v_value::bigint)
        when 'schedule' then format('j.schedule_id = (select s.id from pgtick.schedule_defs as s where s.name = %L)', v_value)
        when 'owner_id' then format('j.owner_id = %L::uuid', v_value::uuid)
        when 'created_before' then format('j.created_at < %L::timestamptz', v_value::timestamptz)
        when 'created_after' then format('j.created_at >= %L::timestamptz', v_value::timestamptz)
        when 'finished_before' then format('j.finished_at < %L::timestamptz', v_value::timestamptz)
        when 'finished_after' then format('j.finished_at >= %L::timestamptz', v_value::timestamptz)
        when 'error' then format('pg_catalog.strpos(j.error ->> ''message'', %L) > 0', v_value)
        when 'state' then case when p_live then format('(j.runner_id is null) = %L::boolean', v_value = 'ready') else format('j.state = %L', v_value) end
        else format('j.%I = %L', v_field, v_value) end;
    exception when data_exception then
      perform pgtick.invalid('filter.' || v_field, v_value, case v_field when 'id' then 'a number' when 'batch' then 'a number' when 'owner_id' then 'a uuid' else 'a time' end);
    end;
  end loop;
  return v_condition;
end
$$;
comment on function pgtick.filter_sql(jsonb, boolean) is 'A filter''s condition as SQL text, over a row j of live_jobs (p_live) or history. Raises TK000, naming the field.';

-- definer: as cancel.
create or replace function pgtick.cancel_where(p_filter jsonb)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_condition constant text := pgtick.filter_sql(p_filter, true);
  v_now constant timestamptz := pgtick.now();
  v_by constant text := pgtick.caller();
  v_ids bigint[];
  v_id bigint := 0;
  v_count bigint := 0;
begin
  loop
    execute format('select pg_catalog.array_agg(x.id) from (select j.id from pgtick.live_jobs as j where j.id > $1 and %s order by j.id limit 10000) as x', v_condition)
    into v_ids using v_id;
    exit when v_ids is null;
    v_count := v_count + pgtick.stop_jobs(v_ids, format('cancelled by %s', v_by), v_by, v_now);
    v_id := v_ids[cardinality(v_ids)];
  end loop;
  perform pgtick.note_action('cancel_where', p_filter::text, jsonb_build_object('jobs', v_count));
  return v_count;
end
$$;
comment on function pgtick.cancel_where(jsonb) is
  'Cancel all waiting and running jobs that a filter meets, as pgtick.cancel does, and return how many. Fields, all of which must fit: id, task, queue, state (ready, running), schedule, owner_id, batch, limit_key, sequence_key, created_before, created_after; at least one. pgtick.audit keeps it. Raises TK000.';

create or replace function pgtick.stop_jobs(p_ids bigint[], p_why text, p_by text, p_now timestamptz)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_ids bigint[];
  v_fences bigint[];
  v_cancelled integer := 0;
  v_running integer;
  v_runners text[];
begin
  select array_agg(x.id), array_agg(x.fence) into v_ids, v_fences from (
    select j.id, j.fence from pgtick.live_jobs as j where j.id = any (p_ids) and j.runner_id is null order by j.id for update skip locked) as x;
  if v_ids is not null then
    v_cancelled := pgtick.archive(v_ids, v_fences, array_fill('cancelled'::text, array[cardinality(v_ids)]),
      array_fill(jsonb_build_object('message', p_why), array[cardinality(v_ids)]), p_now);
  end if;
  with running as (
    select j.id, j.runner_id from pgtick.live_jobs as j where j.id = any (p_ids) order by j.id
  ), noted as (
    insert into pgtick.job_notes as n (job_id, cancel_requested_at, cancel_requested_by) select r.id, p_now, p_by from running as r
    on conflict (job_id) do update set cancel_requested_at = coalesce(n.cancel_requested_at, excluded.cancel_requested_at),
      cancel_requested_by = coalesce(n.cancel_requested_by, excluded.cancel_requested_by)
  )
  select count(*), array_agg(distinct coalesce(r.runner_id::text, '')) into v_running, v_runners from running as r;
  perform pg_catalog.pg_notify('pgtick_stop', r.runner) from unnest(v_runners) as r(runner);
  return v_cancelled + v_running;
end
$$;
comment on function pgtick.stop_jobs(bigint[], text, text, timestamptz) is 'Cancel those of these jobs that wait, note the wish beside those that run, and tell their runners. Returns how many.';

-- definer: as cancel. One by one, since each may clash with another job's unique key, and then stays as it is.
create or replace function pgtick.retry_where(p_filter jsonb)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_condition text;
  v_ids bigint[];
  v_id bigint;
  v_count bigint := 0;
  v_clashes bigint := 0;
begin
  v_condition := pgtick.filter_sql(p_filter, false) || case when p_filter ? 'state' then '' else ' and j.state = ''failed''' end;
  execute format('select array(select j.id from pgtick.history as j where %s order by j.id)', v_condition) into v_ids;
  foreach v_id in array v_ids loop
    begin
      if pgtick.revive(v_id) then v_count := v_count + 1; end if;
    exception when sqlstate 'TK008' then
      v_clashes := v_clashes + 1;
    end;
  end loop;
  if v_clashes > 0 then
    raise warning 'pgtick: % jobs stay as they are, since others hold their unique keys', v_clashes using hint = 'pgtick.retry of one of them says which.';
  end if;
  perform pgtick.note_action('retry_where', p_filter::text, jsonb_build_object('jobs', v_count, 'clashes', v_clashes));
  return v_count;
end
$$;
comment on function pgtick.retry_where(jsonb) is
  'Retry all failed jobs that a filter meets, as pgtick.retry does, and return how many. Fields, all of which must fit: id, task, queue, state (failed; or cancelled), schedule, owner_id, batch, limit_key, sequence_key, created_before, created_after, finished_before, finished_after, error (a part of its message); at least one. Jobs whose unique key another one holds stay as they are, with a warning. pgtick.audit keeps it. Raises TK000.';
$part$, true);
end
$pgtick$;

-- sql/38_queues.sql
do $pgtick$
begin
  perform set_config('pgtick.part_32', $part$
-- Queues are names; nothing has to be made. Only what is out of the ordinary is kept: that one is paused.

-- definer (both): service_role may pause, and writes no table.
create or replace function pgtick.pause_queue(p_queue text, p_reason text default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('queue', p_queue);
  insert into pgtick.paused_queues (queue, paused_at, paused_by, reason) values (p_queue, pgtick.now(), pgtick.caller(), left(p_reason, 1000))
  on conflict (queue) do nothing;
  if found then perform pgtick.note_action('pause_queue', p_queue, jsonb_build_object('reason', left(p_reason, 1000))); end if;
end
$$;
comment on function pgtick.pause_queue(text, text) is
  'Let no more jobs of a queue be claimed until resume_queue; running ones go on. Pausing it again changes nothing. pgtick.queues shows since when, by whom and why. Raises TK000.';

create or replace function pgtick.resume_queue(p_queue text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('queue', p_queue);
  delete from pgtick.paused_queues as p where p.queue = p_queue;
  if not found then return; end if;
  perform pgtick.note_action('resume_queue', p_queue);
  perform pgtick.wake(array[p_queue], pgtick.now());
end
$$;
comment on function pgtick.resume_queue(text) is 'End the pause of a queue and wake its runners. Of a queue that is not paused: nothing. Raises TK000.';
$part$, true);
end
$pgtick$;

-- sql/39_why.sql
do $pgtick$
begin
  perform set_config('pgtick.part_33', $part$
-- Why a job does not run.

-- definer: only those who may read all of pg_stat_activity see since when a transaction is open, as the owner of a hosted project does.
create or replace function pgtick.old_transactions(p_older_than interval)
returns table (pid integer, since timestamptz, who text, what text)
language sql volatile parallel unsafe security definer
set search_path = ''
as $$
  with length_of as (select greatest(least(p_older_than, interval '1000 years'), interval '0') as older_than)   -- more would be before the calendar begins
  select a.pid, a.xact_start, concat_ws(' ', a.usename, nullif(a.application_name, '')),
    case when a.state like 'idle in transaction%' then 'idle in its transaction since ' || a.state_change else 'running a statement since ' || a.query_start end
  from pg_catalog.pg_stat_activity as a cross join length_of as l
  where a.datname = pg_catalog.current_database() and (a.backend_xmin is not null or a.backend_xid is not null)
    and a.xact_start < pg_catalog.clock_timestamp() - l.older_than
  union all
  select null, p.prepared, p.owner || ' ' || p.gid, 'prepared, and neither committed nor rolled back'
  from pg_catalog.pg_prepared_xacts as p cross join length_of as l
  where p.database = pg_catalog.current_database() and p.prepared < pg_catalog.clock_timestamp() - l.older_than
  order by 2
$$;
comment on function pgtick.old_transactions(interval) is
  'Transactions of this database that have been open for longer than that, so that what was deleted since cannot be cleaned away; by the real clock. Empty where pgtick''s owner may not see other sessions.';

-- Why a due job is not claimed, by the runners: nobody has its task, nobody its queue, or all are busy.
create or replace function pgtick.why_unclaimed(p_job pgtick.live_jobs, p_now timestamptz)
returns table (reason text, evidence text, remedy text)
language plpgsql stable parallel safe
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_task bigint[];   -- live runners with its task
  v_both bigint[];   -- and its queue
  v_names text[];
  v_near text;
begin
  select array_agg(r.id) filter (where p_job.task = any (r.tasks)), array_agg(r.id) filter (where p_job.task = any (r.tasks) and p_job.queue = any (r.queues))
  into v_task, v_both
  from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null and r.lease_until > p_now;
  if v_both is null then
    v_names := array(select distinct t.name from pgtick.runner_leases as r cross join unnest(case when v_task is null then r.tasks else r.queues end) as t(name)
      where r.freed_at is null and r.ended_at is null and r.lease_until > p_now and (v_task is null or r.id = any (v_task)));
    v_near := pgtick.nearest_name(case when v_task is null then p_job.task else p_job.queue end, v_names);
    if v_task is null then
      return query select 'no live runner serves its task',
        format('task %s; %s', p_job.task, case when v_near is not null then 'the nearest that one does serve is ' || v_near
          when cardinality(v_names) > 0 then 'none that one serves is like it' else 'no runner is alive' end),
        coalesce('Start a runner that has this task; or, if it was meant to be ' || v_near || ', cancel the job and enqueue that.',
          'Start a runner that has this task: pgtick work, or a program of yours with cli.Main.');
    else
      return query select 'no live runner serves its queue', format('queue %s; the runners that have its task serve %s', p_job.queue, array_to_string(v_names, ', ')),
        format('Start a runner with --queues %s.', p_job.queue);
    end if;
    return;
  end if;
  return query
  with held as (
    select j.runner_id, j.task, count(*) as jobs, min(j.started_at) as since from pgtick.live_jobs as j where j.runner_id = any (v_both) group by 1, 2
  )
  select 'all workers of its runners are busy',
    format('%s runners with %s workers hold %s: %s', cardinality(v_both), (select sum(r.workers) from pgtick.runner_leases as r where r.id = any (v_both)),
      (select sum(h.jobs) from held as h),
      (select string_agg(format('%s %s (since %s)', t.jobs, t.task, t.since), ', ')
       from (select h.task, sum(h.jobs) as jobs, pgtick.utc(min(h.since)) as since from held as h group by h.task order by sum(h.jobs) desc, h.task limit 3) as t)),
    'Wait, give the runners more workers (--workers), or start another runner.'
  where (select case when bool_and(r.workers is not null) then sum(r.workers) end from pgtick.runner_leases as r where r.id = any (v_both))
    <= (select sum(h.jobs) from held as h);
  return query
  select 'others come first', format('%s%s jobs of its task and queue are due before it', case when x.n > 10000 then 'more than ' else '' end, least(x.n, 10000)),
    'Wait, start another runner, or enqueue what cannot wait with a lower priority number.'
  from (
    select count(*) as n from (
      select from pgtick.live_jobs as j
      where j.task = p_job.task and j.queue = p_job.queue and j.priority <= p_job.priority and j.runner_id is null and j.run_at <= p_now
        and (j.priority, j.run_at, j.id) < (p_job.priority, p_job.run_at, p_job.id)
      limit 10001) as ahead) as x
  where x.n > 0;
  return query
  select 'its runner polls only', format('runner %s (%s): no NOTIFY reaches it, so it looks at its next poll', r.name, r.id),
    'Give it a direct or session-mode connection by LISTEN_DATABASE_URL.'
  from pgtick.runner_leases as r
  where r.id = any (v_both) and r.wakes is false and not exists (select from pgtick.runner_leases as o where o.id = any (v_both) and o.wakes);
end
$$;
comment on function pgtick.why_unclaimed(pgtick.live_jobs, timestamptz) is 'The part of why() about a due job and its runners.';

create or replace function pgtick.why_blocked(p_job pgtick.live_jobs)
returns table (reason text, evidence text, remedy text)
language plpgsql stable parallel safe
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query
  select 'it waits for other jobs', format('%s of them live: %s', count(*), string_agg(format('%s (%s)', j.id, case when j.runner_id is not null then 'running' when j.blocked_by is not null
      then 'blocked by ' || j.blocked_by else 'ready' end), ', ' order by j.id) filter (where l.place <= 10)),
    format('select * from pgtick.why(%s);', min(j.id))
  from (select x.on_job_id, row_number() over (order by x.on_job_id) as place from pgtick.job_links as x where x.job_id = p_job.id) as l
  join pgtick.live_jobs as j on j.id = l.on_job_id
  where p_job.blocked_by = 'after'
  having count(*) > 0;
  return query
  select 'it waits for the jobs of its batch', format('batch %s: %s live', b.id, b.live), format('select * from pgtick.jobs where batch_id = %s;', b.id)
  from pgtick.batches as b where p_job.blocked_by = 'batch' and b.job_id = p_job.id;
  return query
  select case when s.key is not null then 'its sequence is stopped' else 'it waits for an earlier job of its sequence' end,
    case when s.key is not null then format('sequence %s: job %s has failed or was cancelled at %s', s.key, s.stops[1], pgtick.utc(s.stopped_at))
      else format('sequence %s: %s', p_job.sequence_key, coalesce('job ' || first.id || case when first.runner_id is not null then ' is running' else ' comes first' end, 'none lives; it is freed within a minute')) end,
    case when s.key is not null then format('select pgtick.retry(%s); or go on without it: select pgtick.resume_sequence(%L);', s.stops[1], s.key)
      else coalesce(format('select * from pgtick.why(%s);', first.id), 'Look again.') end
  from (select) as one
  left join pgtick.sequences as s on s.key = p_job.sequence_key and s.stops[1] < p_job.id
  left join lateral (
    select j.id, j.runner_id from pgtick.live_jobs as j where j.sequence_key = p_job.sequence_key and (j.id < p_job.id or j.blocked_by is null) and j.id <> p_job.id
    order by j.blocked_by is not null, j.id + 0 limit 1) as first on true
  where p_job.blocked_by = 'sequence';
  return query
  select 'its limit is full', format('%s of %s jobs of limit key %s that may run at once do: %s', coalesce(cardinality(p.holders), 0), coalesce(d.max_running::text, 'any number of'),
      p_job.limit_key, coalesce((select string_agg(h.id::text, ', ') from unnest(p.holders[1:10]) as h(id)), 'none')),
    format('Wait, or raise it: select pgtick.set_limit(%L, p_max_running => …, p_per_key => true);', p_job.task)
  from (select) as one
  left join pgtick.limit_defs as d on d.task = p_job.task and d.per_key
  left join pgtick.limit_places as p on p.task = p_job.task and p.key = p_job.limit_key
  where p_job.blocked_by = 'limit';
end
$$;
comment on function pgtick.why_blocked(pgtick.live_jobs) is 'The part of why() about a job that waits for others.';

create or replace function pgtick.why_waiting(p_job pgtick.live_jobs, p_now timestamptz)
returns table (reason text, evidence text, remedy text)
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_locked boolean := false;
begin
  return query
  select 'its queue is paused', format('queue %s, by %s since %s%s', p.queue, p.paused_by, pgtick.utc(p.paused_at), coalesce(': ' || p.reason, '')),
    format('select pgtick.resume_queue(%L);', p.queue)
  from pgtick.paused_queues as p where p.queue = p_job.queue;
  return query
  select 'it waits for an earlier job of its schedule', format('job %s of slot %s, %s', j.id, pgtick.utc(j.slot),
      case when j.runner_id is null then 'which waits itself' else 'which runs since ' || pgtick.utc(j.started_at) end),
    format('select * from pgtick.why(%s); or select pgtick.cancel(%s);', j.id, j.id)
  from pgtick.live_jobs as j
  where p_job.blocked_by = 'overlap' and j.schedule_id = p_job.schedule_id and j.slot < p_job.slot
  order by j.slot desc limit 1;
  return query select w.reason, w.evidence, w.remedy from pgtick.why_blocked(p_job) as w;
  if p_job.run_at > p_now and isfinite(p_job.run_at) then
    return query select
      case when p_job.reservation is not null then 'its rate allows it later' else null end, format('until %s, for another %s', pgtick.utc(p_job.run_at), pgtick.duration_text(p_job.run_at - p_now)),
      format('See pgtick.limits for task %s.', p_job.task)
    where p_job.reservation is not null;
    return query select
      case p_job.earlier_attempts -> -1 ->> 'outcome' when 'error' then 'its retry back-off is not over' when 'snoozed' then 'its task has put it off' else 'it is not due' end,
      format('until %s, for another %s%s', pgtick.utc(p_job.run_at), pgtick.duration_text(p_job.run_at - p_now),
        case when p_job.earlier_attempts -> -1 ->> 'outcome' = 'error' then format('; attempt %s of %s failed: %s', p_job.attempt - p_job.uncounted, p_job.max_attempts,
          coalesce(p_job.earlier_attempts -> -1 -> 'error' ->> 'message', 'no message')) else '' end),
      format('select pgtick.retry(%s); makes it due now.', p_job.id)
    where p_job.reservation is null;
  end if;
  if p_job.run_at <= p_now then
    begin
      perform from pgtick.live_jobs as j where j.id = p_job.id for update skip locked;
      v_locked := not found;
      if not v_locked then raise exception 'free'; end if;   -- rolls the lock back: who asks must not be the reason
    exception
      when raise_exception then null;
      when read_only_sql_transaction then null;   -- there it cannot be tried
    end;
    if v_locked then
      return query select 'a transaction has its row locked', 'such as one that enqueued a job with the same unique key, or changed it by hand, and has not ended'::text,
        'Wait for it to commit; pg_stat_activity shows open transactions.'::text;
    end if;
  end if;
  return query
  select 'its limit is full', format('%s of %s jobs of task %s that may run at once do: %s', cardinality(p.holders), d.max_running, d.task,
      (select string_agg(h.id::text, ', ') from unnest(p.holders[1:10]) as h(id))), format('Wait, or raise it: select pgtick.set_limit(%L, p_max_running => …);', d.task)
  from pgtick.limit_defs as d join pgtick.limit_places as p on p.task = d.task and p.key = ''
  where d.task = p_job.task and not d.per_key and cardinality(p.holders) >= d.max_running and p_job.run_at <= p_now;
  if p_job.losses >= 2 and p_job.run_at <= p_now then
    return query select 'two runners have died with it', format('lost %s times, %s of them while it was their only suspect', p_job.losses, p_job.deaths),
      'A runner takes one such job at a time; at 3 deaths it fails. See pgtick.attempts.'::text;
  end if;
  if not exists (select from pgtick.paused_queues as p where p.queue = p_job.queue) or p_job.run_at > p_now then
    return query select u.reason, u.evidence, u.remedy from pgtick.why_unclaimed(p_job, p_now) as u
    where p_job.run_at <= p_now or u.reason like 'no live runner%';
  end if;
  return query
  select 'an old transaction holds back cleaning', format('%s, open since %s by %s: %s', coalesce('pid ' || o.pid, 'a prepared transaction'), o.since, o.who, o.what),
    coalesce(format('End it: select pg_terminate_backend(%s);', o.pid), 'Commit it or roll it back.')
  from pgtick.old_transactions('5 minutes') as o
  where p_job.run_at <= p_now
  limit 1;
end
$$;
comment on function pgtick.why_waiting(pgtick.live_jobs, timestamptz) is 'The part of why() about a job that waits.';

-- definer: it tries the job's row for a lock, and readers may lock nothing.
create or replace function pgtick.why(p_job_id bigint)
returns table (rank integer, reason text, evidence text, remedy text)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
  v_job pgtick.live_jobs;
  v_rank integer := 0;
begin
  select * into v_job from pgtick.live_jobs as j where j.id = p_job_id;
  if not found then
    return query
    select 1, 'it has ended', format('%s at %s%s', h.state, pgtick.utc(h.finished_at), coalesce(': ' || (h.error ->> 'message'), '')),
      case when h.state = 'done' then 'Nothing is to be done. Enqueue a new job to do it again.' else format('select pgtick.retry(%s);', h.id) end
    from pgtick.history as h where h.id = p_job_id;
    if not found then perform pgtick.refuse_job_id(p_job_id); end if;
    return;
  end if;
  if v_job.runner_id is not null then
    return query
    select 1, case when r.ended_at is not null then 'its runner is dead, and it will be freed' when r.lease_until <= v_now then 'its runner does not answer'
        when n.cancel_requested_at is not null then 'it is being cancelled' when v_job.started_at + v_job.timeout <= v_now then 'it is running beyond its timeout'
        else 'it is running' end,
      format('attempt %s on runner %s (%s) since %s, for at most %s%s', v_job.attempt, r.name, r.id, pgtick.utc(v_job.started_at), pgtick.duration_text(v_job.timeout),
        coalesce('; ' || round(n.done::numeric * 100) || ' % done', '') || coalesce(': ' || n.note, '')),
      case when r.ended_at is not null or r.lease_until <= v_now then 'rescue() gives it to another runner.'
        when n.cancel_requested_at is not null then format('Requested by %s at %s; it ends when its task stops, at the latest a lease after its timeout.', n.cancel_requested_by, pgtick.utc(n.cancel_requested_at))
        when v_job.started_at + v_job.timeout <= v_now then 'Its runner ends it, or rescue() a lease later.'
        else format('Wait, or select pgtick.cancel(%s);', v_job.id) end
    from (select v_job.runner_id as id) as x
    left join pgtick.runner_leases as r on r.id = x.id
    left join pgtick.job_notes as n on n.job_id = v_job.id;
    return;
  end if;
  return query
  select (row_number() over (order by w.place))::integer, w.reason, w.evidence, w.remedy
  from pgtick.why_waiting(v_job, v_now) with ordinality as w(reason, evidence, remedy, place);
  get diagnostics v_rank = row_count;
  if v_rank = 0 then
    return query select 1, 'it is about to be claimed', format('due since %s, and a live runner serves it', pgtick.utc(v_job.run_at)), 'Look again.'::text;
  end if;
end
$$;
comment on function pgtick.why(bigint) is
  'Why a job is not running (yet), the weightiest reason first, with evidence and remedy: paused queue, jobs that it waits for (of its schedule, after, batch, sequence), a full limit, a rate, not due, retry back-off, a locked row, no runner for its task or queue, busy workers, others before it, a runner that only polls, an old transaction. Of a running or ended job: that it is. Raises TK004.';
$part$, true);
end
$pgtick$;

-- sql/40_maintain.sql
do $pgtick$
begin
  perform set_config('pgtick.part_34', $part$
-- Upkeep: partitions ahead, retention. Never inside tick(), and never long behind somebody's lock: it tries again later.

-- Makes the partition of one day, and takes the rows for it out of the default one. Rows lie there only when upkeep was late.
create or replace function pgtick.make_partition(p_parent text, p_day date)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_key constant text := case p_parent when 'history' then 'expires_on' else 'slot' end;
  v_name constant text := format('%s_%s', p_parent, to_char(p_day, 'YYYYMMDD'));
  v_from constant text := case p_parent when 'history' then p_day::text else p_day::text || ' 00:00:00+00' end;
  v_to constant text := case p_parent when 'history' then (p_day + 1)::text else (p_day + 1)::text || ' 00:00:00+00' end;
  v_role text;
begin
  if to_regclass('pgtick.' || v_name) is not null then return; end if;
  execute format('create table pgtick.%I (like pgtick.%I including defaults including constraints)', v_name, p_parent);
  execute format('alter table pgtick.%I enable row level security', v_name);
  -- Default privileges may have granted it to others. Whoever reads the parent needs nothing here.
  for v_role in
    select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end
    from pg_catalog.pg_class as c, aclexplode(c.relacl) as a
    where c.oid = to_regclass('pgtick.' || v_name) and a.grantee <> c.relowner
  loop
    execute format('revoke all on pgtick.%I from %s', v_name, v_role);
  end loop;
  execute format('with moved as (delete from pgtick.%I where %I >= %L and %I < %L returning *) insert into pgtick.%I select * from moved',
    p_parent || '_default', v_key, v_from, v_key, v_to, v_name);
  execute format('alter table pgtick.%I attach partition pgtick.%I for values from (%L) to (%L)', p_parent, v_name, v_from, v_to);
end
$$;
comment on function pgtick.make_partition(text, date) is 'Make the partition of one day (UTC) of pgtick.history or pgtick.slot_log where it is missing.';

create or replace function pgtick.drop_partitions(p_parent text, p_before date)
returns integer
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_name text;
  v_count integer := 0;
begin
  for v_name in
    select c.relname from pg_catalog.pg_inherits as i
    join pg_catalog.pg_class as c on c.oid = i.inhrelid
    where i.inhparent = to_regclass('pgtick.' || p_parent) and c.relname ~ '_[0-9]{8}$' and right(c.relname, 8)::date < p_before
    order by c.relname
  loop
    execute format('alter table pgtick.%I detach partition pgtick.%I', p_parent, v_name);
    if p_parent = 'slot_log' then   -- a range lies with its first slot, and may reach far beyond: it stays until its last one is past
      execute format('insert into pgtick.slot_log select * from pgtick.%I where last_slot >= %L', v_name, p_before::text || ' 00:00:00+00');
    end if;
    execute format('drop table pgtick.%I', v_name);
    v_count := v_count + 1;
  end loop;
  return v_count;
end
$$;
comment on function pgtick.drop_partitions(text, date) is 'Drop the partitions of days before p_before, and return how many.';

create or replace function pgtick.slot_retention_days()
returns integer
language sql stable parallel safe
set search_path = ''
as $$ select coalesce((select (s.value #>> '{}')::integer from pgtick.settings as s where s.name = 'slot_retention_days'), 60) $$;
comment on function pgtick.slot_retention_days() is 'How many days maintain() keeps slots, outages, ended runners and pg_cron''s record of pgtick''s own runs; 60 unless set_slot_retention said otherwise.';

-- definer: service_role may set it, and writes no table.
create or replace function pgtick.set_slot_retention(p_keep interval)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_keep is null or date_part('epoch', p_keep) not between 86400 and 400 * 86400 then
    perform pgtick.invalid('keep', p_keep::text, 'it goes from 1 day to 400 days');
  end if;
  insert into pgtick.settings as s (name, value, set_at, set_by)
  values ('slot_retention_days', to_jsonb(ceil(date_part('epoch', p_keep) / 86400)::integer), pgtick.now(), pgtick.caller())
  on conflict (name) do update set value = excluded.value, set_at = excluded.set_at, set_by = excluded.set_by;
end
$$;
comment on function pgtick.set_slot_retention(interval) is
  'Keep slots, outages, ended runners and pg_cron''s record of pgtick''s own runs for so long: 1 to 400 days, in whole days (default 60). Raises TK000.';

-- pg_cron itself never removes what it records of its runs, nor does a hosted project. What others have it run is not ours to touch.
create or replace function pgtick.purge_cron_log(p_before timestamptz)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_count bigint := 0;
begin
  if to_regclass('cron.job_run_details') is null then return 0; end if;
  execute 'delete from cron.job_run_details as d
    where d.database = current_database() and d.command = ''call pgtick.run_ticks()'' and coalesce(d.end_time, d.start_time) < $1' using p_before;
  get diagnostics v_count = row_count;
  return v_count;
exception when insufficient_privilege then
  return 0;
end
$$;
comment on function pgtick.purge_cron_log(timestamptz) is 'Delete what pg_cron recorded of pgtick''s own runs before p_before, where this role may, and return how many rows.';

-- What ends tomorrow and the day after needs its partitions: those of each retention in use. And what lies in the default partition, since
-- upkeep was late or a unique key holds a job for longer, gets one of its own.
create or replace function pgtick.history_days(p_today date)
returns setof date
language sql stable parallel safe
set search_path = ''
as $$
  select pgtick.partition_day(p_today + r.days + a.ahead, p_today + a.ahead)
  from (select 7 as days union select 30 union select x.days from pgtick.retentions as x) as r, generate_series(0, 2) as a(ahead)
  union
  select h.expires_on from pgtick.history_default as h where h.expires_on >= p_today
$$;
comment on function pgtick.history_days(date) is 'The days whose partitions of history are needed on p_today and the two days after it.';

-- Each kind of upkeep in a block of its own: one that meets a lock does not keep the others from their work. The lock on a parent is
-- wanted for a moment only, but whoever waits for it holds up all who come after: so it waits for half a second, and tells the next call,
-- a minute later. Once it is had, nothing slow may follow: partitions are dropped last.
-- First of all come claims that their worker has forgotten: it lives and names others, or an empty list, so that no lease and no heartbeat gives them
-- away. To find them takes a look at all of live_jobs, which a runner's control connection has no time for.
-- definer: partitions belong to the owner, and the runner's role may call this.
create or replace function pgtick.maintain()
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_today constant date := (v_now at time zone 'UTC')::date;
  v_slots_from constant date := v_today - pgtick.slot_retention_days();
  v_problem text;
begin
  if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgtick.maintain')) then return; end if;
  begin
    perform pgtick.take_overdue(array(select r.id from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null), v_now);
  exception when others then
    v_problem := format('overdue claims: %s', sqlerrm);
  end;
  begin
    perform pgtick.purge_cron_log(v_slots_from::timestamp at time zone 'UTC');
    perform pgtick.sweep_keys(v_now);
    delete from pgtick.history_default as h where h.expires_on < v_today;
    delete from pgtick.slot_log_default as s where coalesce(s.last_slot, s.slot) < v_slots_from::timestamp at time zone 'UTC';
    delete from pgtick.outages as o where o.ended_at < v_slots_from::timestamp at time zone 'UTC';
    delete from pgtick.runner_leases as r where r.freed_at < v_slots_from::timestamp at time zone 'UTC';
    delete from pgtick.batch_defs as b where b.finished_at < v_now - interval '400 days';
    delete from pgtick.audit as a where a.at < v_now - interval '400 days';
    perform pgtick.prune_requests(v_now);
    perform pgtick.drop_counts(v_now);
  exception when others then
    v_problem := concat_ws('; ', v_problem, format('retention: %s', sqlerrm));
  end;
  begin
    perform pgtick.make_partition('history', d.day) from pgtick.history_days(v_today) as d(day);
    for v_ahead in -1 .. 2 loop perform pgtick.make_partition('slot_log', v_today + v_ahead); end loop;
  exception when others then
    v_problem := concat_ws('; ', v_problem, format('partitions ahead: %s', sqlerrm));
  end;
  insert into pgtick.upkeep as u (what, done_at, problem) values ('maintain', v_now, v_problem)
  on conflict (what) do update set done_at = excluded.done_at, problem = excluded.problem;
  begin
    perform pgtick.drop_partitions('history', v_today);
    perform pgtick.drop_partitions('slot_log', v_slots_from);
  exception when others then
    v_problem := concat_ws('; ', v_problem, format('old partitions: %s', sqlerrm));
    update pgtick.upkeep as u set problem = v_problem where u.what = 'maintain';
  end;
end
$$;
comment on function pgtick.maintain() is
  'Make the partitions of the coming days and drop what is past its retention (history by its expiry; slots, outages, ended runners and pg_cron''s record of pgtick''s runs after 60 days, or as set_slot_retention says; audit and batches after 400; counts of attempts after 3 hours to 15 days; requests of end users after 7, or the longest period of a quota). End attempts that are a lease beyond their timeout, named by their runner or not. Waits at most half a second for a lock; what it could not do shows in pgtick.health, and the clocks try again a minute later.';

-- A table's empty end is cut off by vacuum, an index keeps the size that it once had: of a backlog, or of what could not be cleaned away beside an old
-- transaction. To build those of a small table anew takes some tenths of a second at most, in which nothing is claimed (decision 0030). Not the index of
-- the table's toast: that may be large.
-- The lock is only tried for, again and again for two seconds: whoever waits for it makes all others wait behind. While some transaction that uses the
-- table is open all that time, it is left for the next call, and is no problem that anybody must hear of. In a transaction of its own, since reports
-- lock their live jobs, and then wait for whoever changes the partitions of history.
-- definer: indexes belong to the owner, and the runner's role may call this.
create or replace function pgtick.rebuild_indexes()
returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '100ms'
as $$
declare
  v_table constant bigint := pg_catalog.pg_relation_size('pgtick.live_jobs');
  v_indexes constant bigint := pg_catalog.pg_indexes_size('pgtick.live_jobs');
  v_until constant timestamptz := clock_timestamp() + interval '2 seconds';
  v_name text;
  v_count integer := 0;
  v_problem text;
begin
  if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgtick.indexes')) then return 0; end if;
  while v_table <= 32 * 1024 * 1024 and v_indexes >= 8 * 1024 * 1024 + v_table and clock_timestamp() < v_until loop
    begin
      lock table pgtick.live_jobs in access exclusive mode nowait;
      for v_name in
        select i.indexrelid::regclass::text from pg_catalog.pg_index as i
        where i.indrelid = 'pgtick.live_jobs'::regclass and pg_catalog.pg_relation_size(i.indexrelid) > 1024 * 1024
        order by 1
      loop
        execute format('reindex index %s', v_name);
        v_count := v_count + 1;
      end loop;
      exit;
    exception
      when lock_not_available then
        v_count := 0;
        perform pg_catalog.pg_sleep(0.02);
      when others then
        v_count := 0;
        v_problem := sqlerrm;
        exit;
    end;
  end loop;
  if v_count > 0 then
    raise log 'pgtick: % indexes of live_jobs built anew: % before, % now', v_count,
      pg_catalog.pg_size_pretty(v_indexes), pg_catalog.pg_size_pretty(pg_catalog.pg_indexes_size('pgtick.live_jobs'));
  end if;
  insert into pgtick.upkeep as u (what, done_at, problem) values ('indexes', pgtick.now(), v_problem)
  on conflict (what) do update set done_at = excluded.done_at, problem = excluded.problem;
  return v_count;
end
$$;
comment on function pgtick.rebuild_indexes() is
  'Build the indexes of pgtick.live_jobs anew where they have 8 MiB more than the table, and that has at most 32 MiB: an old transaction or a large backlog has left them behind. Returns how many; 0 also while another call is at it, where for two seconds there was no moment at which nobody used the table, and where it failed, which pgtick.health then tells. The clocks call it every five minutes.';
$part$, true);
end
$pgtick$;

-- sql/41_functions.sql
do $pgtick$
begin
  perform set_config('pgtick.part_35', $part$
-- The task sql: jobs that call a function of the owner's. What may be called is registered here, by the owner; args only ever carry values.

-- Types whose values can be made from JSON without running anybody's code: those of pg_catalog, enums, and arrays of both.
create or replace function pgtick.is_plain_type(p_type oid)
returns boolean
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return (
    select case
      when t.typtype = 'e' then true
      when t.typcategory = 'A' and t.typelem <> 0 then pgtick.is_plain_type(t.typelem)
      else t.typtype in ('b', 'r', 'm') and t.typnamespace = 'pg_catalog'::regnamespace end
    from pg_catalog.pg_type as t
    where t.oid = p_type);
end
$$;
comment on function pgtick.is_plain_type(oid) is 'Whether a parameter of the task sql may have this type: one of pg_catalog, an enum, or an array of such.';

-- One row for each parameter that a caller gives.
create or replace function pgtick.parameters_of(p_function oid)
returns table (name text, type text, is_plain boolean, is_optional boolean)
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return query
  select p.proargnames[i.n], pg_catalog.format_type(i.type, null), pgtick.is_plain_type(i.type), i.n > p.pronargs - p.pronargdefaults
  from pg_catalog.pg_proc as p
  cross join lateral unnest(p.proargtypes::oid[]) with ordinality as i(type, n)
  where p.oid = p_function
  order by i.n;
end
$$;
comment on function pgtick.parameters_of(oid) is 'The input parameters of a function: name, type, whether jobs may give it, and whether it has a default.';

create or replace function pgtick.allow_function(p_function regprocedure, p_as_role name)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_proc pg_catalog.pg_proc;
  v_name text;
  v_wrong text;
  v_logins text;
begin
  select * into v_proc from pg_catalog.pg_proc as p where p.oid = p_function;
  if not found then perform pgtick.invalid('function', null, 'a function or procedure of this database'); end if;
  v_name := (select n.nspname from pg_catalog.pg_namespace as n where n.oid = v_proc.pronamespace) || '.' || v_proc.proname;
  if v_proc.prokind not in ('f', 'p') or v_proc.prorettype in ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype) then
    perform pgtick.invalid('function', v_name, 'a plain function or a procedure, no aggregate, window function or trigger');
  end if;
  if v_proc.proargmodes && '{o,b,v}'::"char"[] then
    perform pgtick.invalid('function', v_name, 'its parameters are plain input: none is out, inout or variadic', 'Wrap it in a function that returns what it gives.');
  end if;
  select a.type into v_wrong from pgtick.parameters_of(p_function) as a where a.name is null or a.name = '' or not a.is_plain limit 1;
  if found then
    perform pgtick.invalid('function', v_name, format('each parameter has a name, and a type of pg_catalog, an enum, or an array of these; one is %s', v_wrong),
      'Wrap it in a function with such parameters.');
  end if;
  if not exists (select from pg_catalog.pg_roles as r where r.rolname = p_as_role) then
    perform pgtick.invalid('as_role', p_as_role, 'a role of this server');
  end if;
  if exists (select from pg_catalog.pg_roles as r where r.rolname = p_as_role and r.rolsuper) then
    perform pgtick.invalid('as_role', p_as_role, 'it is no superuser', 'Make a role that may do just what the function needs.');
  end if;
  if not pg_catalog.has_schema_privilege(p_as_role, v_proc.pronamespace, 'usage') or not pg_catalog.has_function_privilege(p_as_role, v_proc.oid, 'execute') then
    perform pgtick.invalid('as_role', p_as_role, format('it may call %s', v_name),
      format('grant usage on schema %I to %I; grant execute on routine %s to %I;', (select n.nspname from pg_catalog.pg_namespace as n where n.oid = v_proc.pronamespace),
        p_as_role, p_function, p_as_role));
  end if;
  select string_agg(quote_ident(r.rolname), ', ' order by r.rolname) into v_logins
  from pg_catalog.pg_roles as r
  where r.rolcanlogin and exists (select from pg_catalog.pg_roles as x where x.rolname = 'pgtick_runner' and pg_catalog.pg_has_role(r.oid, x.oid, 'member'))
    and not pg_catalog.pg_has_role(r.oid, p_as_role, 'member');
  if v_logins is not null then
    perform pgtick.invalid('as_role', p_as_role, format('the runner''s login is a member of it; not so: %s', v_logins), format('grant %I to %s;', p_as_role, v_logins));
  end if;
  insert into pgtick.allowed_functions as a (name, function, as_role, allowed_at, allowed_by)
  values (v_name, v_name || '(' || pg_catalog.array_to_string(array(select pg_catalog.format_type(t.type, null) from unnest(v_proc.proargtypes::oid[]) with ordinality as t(type, n) order by t.n), ', ') || ')',
    p_as_role, pgtick.now(), session_user)
  on conflict (name) do update set function = excluded.function, as_role = excluded.as_role, allowed_at = excluded.allowed_at, allowed_by = excluded.allowed_by;
  return v_name;
end
$$;
comment on function pgtick.allow_function(regprocedure, name) is
  'Let jobs of the task sql call a function, or a procedure, as a role; by schema.name, which it returns. Of functions with the same name only the last one allowed may be called. For the owner of the schema. The parameters have names, and types of pg_catalog, enums, or arrays of these. Raises TK000, also where the role may not call it, or the runner''s login is no member of the role: the hint is the grant.';

create or replace function pgtick.disallow_function(p_name text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  delete from pgtick.allowed_functions as a where a.name = p_name;
  return found;
end
$$;
comment on function pgtick.disallow_function(text) is 'Let no job call the function schema.name any more. False when none could. For the owner of the schema.';

-- A wrong value is found by the very cast that the call will make; so it is said at enqueue which argument it is.
create or replace function pgtick.check_function_call(p_args jsonb)
returns void
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_allowed pgtick.allowed_functions;
  v_function oid;
  v_given constant jsonb := coalesce(p_args -> 'args', '{}');
  v_wrong text;
  v_one record;
begin
  if jsonb_typeof(p_args) <> 'object' then perform pgtick.invalid('args', p_args::text, 'args are a JSON object'); end if;
  select k.key into v_wrong from jsonb_object_keys(p_args) as k(key) where k.key not in ('function', 'args') limit 1;
  if found then perform pgtick.invalid('args.' || v_wrong, p_args ->> v_wrong, 'the task sql knows only function and args'); end if;
  select * into v_allowed from pgtick.allowed_functions as a where a.name = p_args ->> 'function';
  if not found then
    perform pgtick.invalid('args.function', p_args ->> 'function', 'a function that pgtick.allow_function allows, as schema.name', 'The owner of the schema may allow it.');
  end if;
  v_function := to_regprocedure(v_allowed.function)::oid;
  if v_function is null then
    perform pgtick.invalid('args.function', v_allowed.name, format('%s is gone, or has other parameters now', v_allowed.function), 'Call pgtick.allow_function again.');
  end if;
  if jsonb_typeof(v_given) <> 'object' then perform pgtick.invalid('args.args', v_given::text, 'an object: a value for each parameter, by its name'); end if;
  select k.key into v_wrong from jsonb_object_keys(v_given) as k(key) where k.key not in (select p.name from pgtick.parameters_of(v_function) as p) limit 1;
  if found then
    perform pgtick.invalid('args.args.' || v_wrong, v_given ->> v_wrong, format('%s has no such parameter', v_allowed.function));
  end if;
  for v_one in select p.name, p.type, p.is_optional from pgtick.parameters_of(v_function) as p loop
    if not v_given ? v_one.name then
      if not v_one.is_optional then perform pgtick.invalid('args.args.' || v_one.name, null, format('%s needs it: %s', v_allowed.function, v_one.type)); end if;
      continue;
    end if;
    begin
      execute format('select r.value::text from pg_catalog.jsonb_to_record($1) as r(value %s)', v_one.type)
      into v_wrong using jsonb_build_object('value', v_given -> v_one.name);
    exception when data_exception then
      perform pgtick.invalid('args.args.' || v_one.name, v_given ->> v_one.name, format('a value of type %s (%s)', v_one.type, sqlerrm));
    end;
  end loop;
end
$$;
comment on function pgtick.check_function_call(jsonb) is 'Raise TK000 unless these are args of the task sql: {"function": "schema.name", "args": {…}}, of an allowed function, with values that its parameters take.';

-- Definer: the runner reads no table. The text is made of names in the catalog; values travel as parameters.
create or replace function pgtick.function_call(
  p_args jsonb, out as_role text, out is_procedure boolean, out statement text, out texts text)
language plpgsql stable parallel unsafe security definer
set search_path = ''
as $$
declare
  v_allowed pgtick.allowed_functions;
  v_proc pg_catalog.pg_proc;
  v_called text;
  v_columns text;
  v_passed text;
  v_from text;
begin
  perform pgtick.check_function_call(p_args);
  select * into v_allowed from pgtick.allowed_functions as a where a.name = p_args ->> 'function';
  select * into v_proc from pg_catalog.pg_proc as p where p.oid = to_regprocedure(v_allowed.function);
  as_role := quote_ident(v_allowed.as_role);
  is_procedure := v_proc.prokind = 'p';
  v_called := (select format('%I.%I', n.nspname, v_proc.proname) from pg_catalog.pg_namespace as n where n.oid = v_proc.pronamespace);
  select string_agg(format('%I %s', p.name, p.type), ', ' order by p.n),
    string_agg(case when is_procedure then format('%I => $%s::%s', p.name, p.n, p.type) else format('%I => a.%I', p.name, p.name) end, ', ' order by p.n),
    'select array[' || string_agg(format('a.%I::text', p.name), ', ' order by p.n) || ']'
  into v_columns, v_passed, texts
  from (
    select x.name, x.type, row_number() over () as n from pgtick.parameters_of(v_proc.oid) as x where p_args -> 'args' ? x.name) as p;
  v_from := case when v_columns is null then 'from (select $1::jsonb) as a' else format('from pg_catalog.jsonb_to_record($1) as a(%s)', v_columns) end;
  if is_procedure then
    statement := format('call %s(%s)', v_called, v_passed);
    texts := texts || ' ' || v_from;
  elsif v_proc.proretset then
    statement := format('select pg_catalog.jsonb_agg(x.r) from (select pg_catalog.to_jsonb(f) as r %s cross join lateral %s(%s) as f limit 1000) as x', v_from, v_called, v_passed);
    texts := null;
  else
    statement := format('select %s %s cross join lateral (select %s(%s) as r offset 0) as f',
      case when v_proc.prorettype = 'void'::regtype then 'case when f.r::text is null then null::jsonb end' else 'pg_catalog.to_jsonb(f.r)' end, v_from, v_called, v_passed);
    texts := null;
  end if;
end
$$;
comment on function pgtick.function_call(jsonb) is
  'How a runner makes the call that a job of the task sql asks for. as_role: to set first, quoted. statement: the call; of a function with args.args as its one parameter, jsonb, and the result as jsonb; of a procedure with the texts as parameters that the query texts gives for args.args (null: none). Of a set 1,000 rows are kept. Raises TK000.';
$part$, true);
end
$pgtick$;

-- sql/42_ties.sql
do $pgtick$
begin
  perform set_config('pgtick.part_36', $part$
-- Jobs that wait for others: after named jobs, for a batch, in a sequence. A blocked job has run_at infinity and says by what; what ends a
-- job looks for those that it frees (settle()), and rescue() for what was missed (sweep_ties()).
--
-- Who waits for whom is decided under locks, so that nothing is missed: who enqueues locks what lives of the jobs it waits for, FOR KEY
-- SHARE, and reads in a later statement; the end of such a job passes over the locked row, and is asked for again.

create or replace function pgtick.refuse_keys(p_field text, p_keys text[], p_jobs integer)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_keys is not null and (cardinality(p_keys) <> p_jobs or num_nulls(variadic p_keys) > 0) then
    perform pgtick.invalid(p_field, left(p_keys::text, 200), format('one for each of the %s jobs, none of them null', p_jobs));
  end if;
  if array_ndims(p_keys) > 1 or array_lower(p_keys, 1) <> 1 then   -- p_keys[n] would be another one, or none
    perform pgtick.invalid(p_field, left(p_keys::text, 200), 'a plain list, counted from 1');
  end if;
end
$$;
comment on function pgtick.refuse_keys(text, text[], integer) is 'Raise TK000 unless there is a key for each job, or p_keys is null.';

create or replace function pgtick.refuse_key(p_field text, p_key text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if length(p_key) not between 1 and 200 then
    perform pgtick.invalid(p_field, left(p_key, 200), 'it has 1 to 200 characters', 'Take a digest of what is longer; leave it out for none.');
  end if;
end
$$;
comment on function pgtick.refuse_key(text, text) is 'Raise TK000 unless a key is null or has 1 to 200 characters.';

create or replace function pgtick.refuse_wish(p_wish pgtick.wish)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  if p_wish.retry_policy is not null then perform pgtick.check_retry_policy(p_wish.retry_policy); end if;
  perform pgtick.refuse_key('limit_key', p_wish.limit_key), pgtick.refuse_key('sequence_key', p_wish.sequence_key);
  if p_wish.sequence_failure is null or p_wish.sequence_failure not in ('stop', 'skip') then
    perform pgtick.invalid('sequence_failure', p_wish.sequence_failure, 'it is stop or skip');
  end if;
  if p_wish.after_outcome is null or p_wish.after_outcome not in ('done', 'any') then
    perform pgtick.invalid('after_outcome', p_wish.after_outcome, 'it is done or any');
  end if;
  if num_nulls(variadic p_wish.after_jobs) > 0 or cardinality(p_wish.after_jobs) > 10000 then
    perform pgtick.invalid('after', left(p_wish.after_jobs::text, 200), 'at most 10000 ids of jobs, none of them null', 'A batch (create_batch) waits for any number.');
  end if;
  if jsonb_typeof(p_wish.trace_context) <> 'object' or octet_length(p_wish.trace_context::text) > 2000
    or exists (select from jsonb_each(case when jsonb_typeof(p_wish.trace_context) = 'object' then p_wish.trace_context end) as f where jsonb_typeof(f.value) <> 'string')
  then
    perform pgtick.invalid('trace_context', left(p_wish.trace_context::text, 200), 'an object of texts, of at most 2000 bytes', 'It holds traceparent and tracestate, as W3C Trace Context has them.');
  end if;
  if (p_wish.after_jobs is not null or p_wish.sequence_key is not null or p_wish.batch_id is not null)
    and current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
  then
    raise exception using errcode = 'TK020', message = format('a job that waits for others cannot be enqueued at isolation level %s', current_setting('transaction_isolation')),
      hint = 'Its blockers may have ended since the snapshot was taken, and it would wait for ever. Use READ COMMITTED.';
  end if;
end
$$;
comment on function pgtick.refuse_wish(pgtick.wish) is 'Raise TK000 when a job may not be tied to others in this way, and TK020 when it cannot be in this transaction.';

-- Locks: sequence, unique key, jobs, batch.
create or replace function pgtick.enqueue_tied(p_wish pgtick.wish, p_now timestamptz)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_unique constant boolean := p_wish.unique_key is not null or p_wish.unique_for is not null;
  v_id bigint := nullif(p_wish.id, 0);
  v_until timestamptz;
  v_holder_id bigint;
  v_stopped boolean := false;
  v_waits bigint[];
  v_blocked_by text;
  v_now timestamptz := p_now;
  v_run_at timestamptz;
begin
  perform pgtick.refuse_wish(p_wish);
  if v_unique then perform pgtick.refuse_uniqueness(p_wish.unique_key, p_wish.unique_for, p_wish.unique_states, p_wish.on_conflict); end if;
  if p_wish.sequence_key is not null then v_stopped := pgtick.lock_sequence(p_wish.sequence_key); end if;
  v_id := coalesce(v_id, nextval('pgtick.live_jobs_id_seq'));   -- under the sequence's lock: ids are in the order of the commits
  if v_unique then
    v_until := coalesce(p_now + p_wish.unique_for, 'infinity');
    v_holder_id := pgtick.take_key(p_wish.task, p_wish.unique_key, v_id, p_wish.unique_states, v_until, p_now);
    v_now := pgtick.now();   -- the key may have been waited for
    if v_holder_id <> v_id then
      perform pgtick.change_waiting(v_holder_id, p_wish.on_conflict, p_wish.args, greatest(p_wish.run_at, v_now));
      return v_holder_id;
    end if;
  end if;
  if p_wish.after_jobs is not null then v_waits := pgtick.living_blockers(p_wish.after_jobs, p_wish.after_outcome = 'any'); end if;
  if p_wish.batch_id is not null then
    perform pgtick.join_batch(p_wish.batch_id);
    if v_waits <> '{}' or p_wish.sequence_key is not null then perform pgtick.refuse_loop(p_wish.batch_id, v_waits, p_wish.sequence_key); end if;
  end if;
  v_blocked_by := case when v_waits <> '{}' then 'after'
    when p_wish.sequence_key is not null and (v_stopped or pgtick.lock_predecessor(p_wish.sequence_key)) then 'sequence' end;
  v_run_at := greatest(p_wish.run_at, v_now);
  insert into pgtick.live_jobs (id, task, queue, priority, run_at, wanted_at, blocked_by, max_attempts, timeout, args, owner_id, uniqueness, retry_policy, created_at,
    limit_key, sequence_key, sequence_skips, after_jobs, after_any, batch_id, trace_context)
  overriding system value
  values (v_id, p_wish.task, p_wish.queue, p_wish.priority, case when v_blocked_by is null then v_run_at else 'infinity' end,
    case when v_blocked_by is not null then v_run_at end, v_blocked_by, p_wish.max_attempts, p_wish.timeout, p_wish.args, p_wish.owner_id,
    case when v_unique then jsonb_build_object('key', p_wish.unique_key, 'states', p_wish.unique_states, 'until', v_until) end, p_wish.retry_policy, v_now,
    p_wish.limit_key, p_wish.sequence_key, case when p_wish.sequence_key is not null then p_wish.sequence_failure = 'skip' end, p_wish.after_jobs,
    case when p_wish.after_jobs is not null then p_wish.after_outcome = 'any' end, p_wish.batch_id, p_wish.trace_context);
  if v_waits <> '{}' then perform pgtick.link_jobs(array[v_id], v_waits, p_wish.after_outcome = 'any'); end if;
  if v_blocked_by is null then perform pgtick.wake(array[p_wish.queue], v_run_at); end if;
  return v_id;
end
$$;
comment on function pgtick.enqueue_tied(pgtick.wish, timestamptz) is
  'The part of enqueue for jobs that are more than a task, its arguments and a time: unique, tied to others, traced. Returns the id of the job, or of the one that holds its unique key. Raises as enqueue does.';

-- After jobs.

-- A finish under way holds its row, and is waited for; one that comes later passes over the row, and comes again.
create or replace function pgtick.living_blockers(p_ids bigint[], p_any_outcome boolean)
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_alive constant bigint[] := pgtick.lock_living(p_ids);
  v_odd record;
begin
  if v_alive @> p_ids then return v_alive; end if;
  select i.id, h.state into v_odd
  from (select x.id from unnest(p_ids) as x(id) except select a.id from unnest(v_alive) as a(id)) as i
  left join lateral (select k.state from pgtick.history as k where k.id = i.id offset 0) as h on true
  where h.state is null or (h.state <> 'done' and not p_any_outcome)
  order by 1
  limit 1;
  if found and v_odd.state is null then perform pgtick.refuse_job_id(v_odd.id); end if;
  if found then
    raise exception using errcode = 'TK005', message = format('job %s, which is to be waited for, is %s', v_odd.id, v_odd.state),
      hint = 'Retry that job first; or wait for any outcome (p_after_outcome => ''any'').';
  end if;
  return v_alive;
end
$$;
comment on function pgtick.living_blockers(bigint[], boolean) is
  'Those of these jobs that have not ended, locked so that none ends before this transaction does. Raises TK004 when one does not exist, TK005 when one has failed or was cancelled and that matters.';

create or replace function pgtick.lock_living(p_ids bigint[])
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  perform from pgtick.live_jobs as j where j.id = any (p_ids) order by j.id for key share;
  return array(select j.id from pgtick.live_jobs as j where j.id = any (p_ids) order by j.id);
end
$$;
comment on function pgtick.lock_living(bigint[]) is 'Those of these jobs that are live, locked so that none ends before this transaction does.';

create or replace function pgtick.link_jobs(p_ids bigint[], p_on bigint[], p_any_outcome boolean)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
begin
  insert into pgtick.job_links (on_job_id, job_id, any_outcome)
  select o.id, i.id, p_any_outcome from unnest(p_ids) as i(id) cross join unnest(p_on) as o(id)
  on conflict (on_job_id, job_id) do update set any_outcome = excluded.any_outcome;
end
$$;
comment on function pgtick.link_jobs(bigint[], bigint[], boolean) is 'Write down that each of p_ids waits for each of p_on, which are live and locked.';

-- Batches.

-- definer: as enqueue.
create or replace function pgtick.create_batch(p_task text, p_args jsonb default '{}', p_queue text default 'default', p_priority integer default 5,
  p_max_attempts integer default 20, p_timeout interval default '5 minutes', p_owner_id uuid default null, p_outcome text default 'any',
  p_retry_policy jsonb default null, p_trace_context jsonb default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_job_id bigint;
  v_batch_id bigint;
begin
  perform pgtick.refuse_job(p_task, p_args, p_queue, p_priority, p_max_attempts, p_timeout);
  if p_task = 'sql' then perform pgtick.check_function_call(p_args); end if;
  if p_outcome is null or p_outcome not in ('any', 'done') then perform pgtick.invalid('outcome', p_outcome, 'it is any or done'); end if;
  perform pgtick.refuse_wish((0, p_task, p_queue, p_priority, v_now, p_max_attempts, p_timeout, p_args, p_owner_id, p_retry_policy, null, null, 'stop', null,
    'any', null, p_trace_context, null, null, null, null)::pgtick.wish);
  insert into pgtick.live_jobs (task, queue, priority, run_at, wanted_at, blocked_by, max_attempts, timeout, args, owner_id, retry_policy, created_at, trace_context)
  values (p_task, p_queue, p_priority, 'infinity', v_now, 'batch', p_max_attempts, p_timeout, p_args, p_owner_id, p_retry_policy, v_now, p_trace_context)
  returning id into v_job_id;
  insert into pgtick.batch_defs (job_id, any_outcome, created_at) values (v_job_id, p_outcome = 'any', v_now) returning id into v_batch_id;
  perform pgtick.note_unsettled('batch', v_batch_id::text, null, v_now);   -- if it stays without jobs, nobody else will end it
  return v_batch_id;
end
$$;
comment on function pgtick.create_batch(text, jsonb, text, integer, integer, interval, uuid, text, jsonb, jsonb) is
  'Make a batch and return its id: enqueue its jobs in the same transaction, with p_batch_id. When all have ended, the job described here (the callback) runs; it finds its batch in pgtick.batches by its own job_id. While a job of the batch is live more can be added, best by that job itself. A batch without jobs is at its end when it is committed, and the next rescue() sees that. p_outcome: any (default), or done: the callback is cancelled when one of them has failed or was cancelled. Raises TK000.';

create or replace function pgtick.join_batch(p_batch_id bigint)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_finished_at timestamptz;
begin
  select b.finished_at into v_finished_at from pgtick.batch_defs as b where b.id = p_batch_id for key share;
  if not found then perform pgtick.invalid('batch_id', p_batch_id::text, 'the id of a batch, as create_batch returned it'); end if;
  if v_finished_at is not null then
    raise exception using errcode = 'TK005', message = format('batch %s has ended at %s', p_batch_id, pgtick.utc(v_finished_at)),
      hint = 'Enqueue all its jobs in the transaction that creates it, or further ones from within its jobs, in their own transactions.';
  end if;
end
$$;
comment on function pgtick.join_batch(bigint) is 'Lock a batch so that it does not end before this transaction does. Raises TK000 (no such batch) and TK005 (it has ended).';

-- While one of its jobs waits the batch has not ended, and who ends another one need not lock anything. Only at the tail they take turns:
-- each of two that end the last jobs would otherwise still see the other's.
create or replace function pgtick.settle_batch(p_batch_id bigint, p_now timestamptz, p_patient boolean default true)
returns pgtick.ended[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '100ms'
as $$
declare
  v_batch pgtick.batch_defs;
  v_cancelled pgtick.ended[];
begin
  if exists (
    select from (select j.runner_id from pgtick.live_jobs as j where j.batch_id = p_batch_id order by j.id + 0 desc limit 1000) as j where j.runner_id is null)
  then
    return null;
  end if;
  if not p_patient then perform set_config('lock_timeout', '1ms', true); end if;
  select * into v_batch from pgtick.batch_defs as b where b.id = p_batch_id and b.finished_at is null for update;
  if not found or exists (select from pgtick.live_jobs as j where j.batch_id = p_batch_id) then return null; end if;
  update pgtick.batch_defs as b set finished_at = p_now where b.id = p_batch_id;
  -- (state || '': so that nobody may go through all failed jobs of the history instead)
  if not v_batch.any_outcome and exists (select from pgtick.history as h where h.batch_id = p_batch_id and h.state || '' <> 'done') then
    perform from pgtick.live_jobs as j where j.id = v_batch.job_id for update;
    v_cancelled := pgtick.cancel_waiting(array[v_batch.job_id], array[format('a job of batch %s has failed or was cancelled', p_batch_id)], p_now);
  else
    perform from pgtick.live_jobs as j where j.id = v_batch.job_id for no key update;
    perform pgtick.unblock(array[v_batch.job_id], p_now);
  end if;
  return v_cancelled;
exception when lock_not_available then
  perform pgtick.note_unsettled('batch', p_batch_id::text, null, p_now);
  return null;
end
$$;
comment on function pgtick.settle_batch(bigint, timestamptz, boolean) is
  'End a batch of which no job is live: free its callback, or cancel it (then it is returned, as ended). Waits for locks a tenth of a second, or, not p_patient, hardly at all; what it does not get is left to rescue().';

-- Sequences.

create or replace function pgtick.lock_sequence(p_key text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_stopped boolean;
begin
  insert into pgtick.sequences as s (key) values (p_key)
  on conflict (key) do update set stopped_at = s.stopped_at
  returning s.stops is not null into v_stopped;
  return v_stopped or exists (select from pgtick.unsettled as u where u.sequence_key = p_key);
end
$$;
comment on function pgtick.lock_sequence(text) is 'Lock a sequence until the transaction ends, and say whether it is stopped, or may turn out to be. Outside READ COMMITTED it raises 40001 where another one has enqueued meanwhile.';

-- The row may vanish while its lock is waited for: then the one before it is the last.
create or replace function pgtick.lock_predecessor(p_key text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  loop
    perform from pgtick.live_jobs as j where j.sequence_key = p_key order by j.id + 0 desc limit 1 for key share;
    if found then return true; end if;
    if not exists (select from pgtick.live_jobs as j where j.sequence_key = p_key) then return false; end if;
  end loop;
end
$$;
comment on function pgtick.lock_predecessor(text) is 'Lock the last live job of a locked sequence, so that it cannot end before this transaction does. False where there is none.';

-- No lock on the sequence: a job that is being enqueued at the end of it has locked the one before it, so it has yet to be freed by that.
create or replace function pgtick.settle_sequences(p_keys text[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_heads bigint[];
  v_locked bigint[];
begin
  -- Also one that waits for other jobs as well: what it waited for may be ending just now, and each of the two must see the other's end.
  v_heads := array(
    select first.id
    from unnest(p_keys) as k(key)
    cross join lateral (select j.id, j.blocked_by from pgtick.live_jobs as j where j.sequence_key = k.key order by j.id + 0 limit 1) as first
    where first.blocked_by in ('after', 'batch', 'sequence')
    order by first.id);
  if v_heads = '{}' then return; end if;
  v_locked := pgtick.unblock(v_heads, p_now);
  if cardinality(v_locked) < cardinality(v_heads) then
    perform pgtick.note_unsettled('sequence', j.sequence_key, null, p_now) from pgtick.live_jobs as j where j.id = any (v_heads) and j.id <> all (v_locked);
  end if;
end
$$;
comment on function pgtick.settle_sequences(text[], timestamptz) is 'Free the first live job of each of these sequences, where it waits for its turn alone and the sequence is not stopped.';

-- The row is only tried for: who enqueues holds it until they commit. What could not be noted is left to rescue(), and nobody is freed.
create or replace function pgtick.mark_sequences(p_ended pgtick.ended[], p_now timestamptz)
returns text[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '100ms'
as $$
declare
  v_keys constant text[] := array(select distinct e.sequence_key from unnest(p_ended) as e where e.sequence_key is not null order by 1);
  v_locked text[];
begin
  if not exists (select from unnest(p_ended) as e where e.sequence_key is not null and e.state <> 'done' and not e.sequence_skips)
    and not exists (select from pgtick.sequences as s where s.key = any (v_keys) and s.stops is not null)
  then
    return v_keys;
  end if;
  v_locked := array(select s.key from pgtick.sequences as s where s.key = any (v_keys) order by s.key for no key update skip locked);
  if cardinality(v_locked) < cardinality(v_keys) then   -- the row is there as long as there are jobs; should somebody have deleted it, it comes back
    insert into pgtick.sequences (key)
    select k.key from unnest(v_keys) as k(key) where not exists (select from pgtick.sequences as s where s.key = k.key) on conflict (key) do nothing;
    v_locked := array(select s.key from pgtick.sequences as s where s.key = any (v_keys) order by s.key for no key update skip locked);
    perform pgtick.note_unsettled('job', e.id::text, e.sequence_key, p_now) from unnest(p_ended) as e where e.sequence_key is not null and e.sequence_key <> all (v_locked);
  end if;
  with told as (
    select e.sequence_key as key, array_agg(e.id) filter (where e.state <> 'done' and not e.sequence_skips) as stops,
      coalesce(array_agg(e.id) filter (where e.state = 'done'), '{}') as done
    from unnest(p_ended) as e
    join unnest(v_locked) as l(key) on l.key = e.sequence_key
    group by e.sequence_key
  ), stopped as materialized (
    select t.key, array(select distinct i.id from unnest(s.stops || t.stops) as i(id) where i.id <> all (t.done) order by i.id) as stops
    from told as t
    cross join lateral (select q.stops from pgtick.sequences as q where q.key = t.key offset 0) as s
    where t.stops is not null or s.stops && t.done
  )
  update pgtick.sequences as s
  set stops = nullif(n.stops, '{}'), stopped_at = case when n.stops <> '{}' then coalesce(s.stopped_at, p_now) end
  from stopped as n
  where s.key = n.key;
  return v_locked;
end
$$;
comment on function pgtick.mark_sequences(pgtick.ended[], timestamptz) is
  'Note which sequences stop, since one of their jobs has failed or was cancelled, and which go on, since the job that had stopped them is done. Returns the keys for which that is settled.';

-- definer: service_role may, and writes no table.
create or replace function pgtick.resume_sequence(p_key text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_stops bigint[];
  v_next bigint;
begin
  select s.stops into v_stops from pgtick.sequences as s where s.key = p_key and s.stops is not null for no key update;
  if not found then return; end if;
  select j.id into v_next from pgtick.live_jobs as j where j.sequence_key = p_key and j.id + 0 > v_stops[1] order by j.id + 0 limit 1;
  v_stops := array(select i.id from unnest(v_stops) as i(id) where i.id > v_next order by i.id);
  update pgtick.sequences as s set stops = nullif(v_stops, '{}'), stopped_at = case when v_stops <> '{}' then pgtick.now() end where s.key = p_key;
  perform pgtick.note_action('resume_sequence', p_key);
  perform pgtick.settle_sequences(array[p_key], pgtick.now());
end
$$;
comment on function pgtick.resume_sequence(text) is
  'Let a sequence go on to its next waiting job without the one that has stopped it (pgtick.sequence_stops names it). pgtick.retry of that job does so, too, once it is done. Of a sequence that is not stopped: nothing.';

-- What the end of jobs means for others.

create or replace function pgtick.note_unsettled(p_kind text, p_what text, p_sequence_key text, p_now timestamptz)
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$ insert into pgtick.unsettled (kind, what, sequence_key, noted_at) values (p_kind, p_what, p_sequence_key, p_now) $$;
comment on function pgtick.note_unsettled(text, text, text, timestamptz) is 'Leave something to rescue(); see pgtick.unsettled.';

-- A job may wait for several things; the next one, or none, is worked out from the rows each time.
create or replace function pgtick.unblock(p_ids bigint[], p_now timestamptz)
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_locked bigint[];
  v_queues text[];
  v_run_at timestamptz;
begin
  -- NO KEY UPDATE: who enqueues behind such a job has it locked FOR KEY SHARE, and is no hindrance
  v_locked := array(select j.id from pgtick.live_jobs as j where j.id = any (p_ids) and j.blocked_by is not null order by j.id for no key update skip locked);
  if v_locked = '{}' then return v_locked; end if;
  with now_by as materialized (
    select j.id, pgtick.blocked_by_now(j) as blocked_by from unnest(v_locked) as i(id) cross join lateral (select l.* from pgtick.live_jobs as l where l.id = i.id offset 0) as j
  ), freed as (
    update pgtick.live_jobs as j
    set blocked_by = n.blocked_by,
      run_at = case when n.blocked_by is null then greatest(p_now, j.wanted_at) else 'infinity' end,
      wanted_at = case when n.blocked_by is not null then j.wanted_at end
    from now_by as n
    where j.id = n.id and n.blocked_by is distinct from j.blocked_by
    returning j.queue, j.run_at
  )
  select array_agg(distinct f.queue) filter (where f.run_at < 'infinity'), min(f.run_at) into v_queues, v_run_at from freed as f;
  if v_queues is not null then perform pgtick.wake(v_queues, v_run_at); end if;
  return v_locked;
end
$$;
comment on function pgtick.unblock(bigint[], timestamptz) is 'Free those of these blocked jobs that nothing blocks any more, and note what the others wait for now. Never waits for a lock; returns those that it could lock.';

create or replace function pgtick.blocked_by_now(p_job pgtick.live_jobs)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  if exists (select from pgtick.job_links as l where l.job_id = p_job.id) then return 'after'; end if;
  -- (not "is null": so that nobody may go through all open batches instead)
  if exists (select from pgtick.batch_defs as b where b.job_id = p_job.id and coalesce(b.finished_at, 'infinity') = 'infinity') then return 'batch'; end if;
  if p_job.sequence_key is not null and (
    exists (select from pgtick.live_jobs as j where j.sequence_key = p_job.sequence_key and j.id + 0 < p_job.id)
    -- (the one that runs is the first of those behind; where none does, all of them are looked at, so only where it may be)
    or (p_job.came_back and exists (
      select from pgtick.live_jobs as j where j.sequence_key = p_job.sequence_key and j.id + 0 > p_job.id and (j.blocked_by is null or j.blocked_by = 'limit')))
    or exists (select from pgtick.sequences as s where s.key = p_job.sequence_key and s.stops[1] < p_job.id)
    or exists (select from pgtick.unsettled as u where u.sequence_key = p_job.sequence_key))
  then
    return 'sequence';
  end if;
  return case when p_job.blocked_by = 'overlap' then 'overlap' end;
end
$$;
comment on function pgtick.blocked_by_now(pgtick.live_jobs) is 'What a locked job has to wait for at present, besides a place under a limit: after, batch, sequence, overlap; or null.';

-- What fails takes with it what waited for it to be done, and that in turn what waited for it: a chain is cancelled in rounds, not by
-- functions that call each other. Nor does one transaction do it all: a report must not take seconds since ten thousand jobs wait for it.
-- In all, locks are waited for a tenth of a second.
create or replace function pgtick.settle(p_ended pgtick.ended[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_impatient_from constant timestamptz := clock_timestamp() + interval '100 ms';
  v_ended pgtick.ended[] := p_ended;
  v_cancelled pgtick.ended[];
  v_batch_id bigint;
  v_rounds integer := 0;
  v_jobs integer := 0;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then   -- its snapshot may be too old to see them
    perform pgtick.note_unsettled('job', e.id::text, e.sequence_key, p_now) from unnest(p_ended) as e;
    return;
  end if;
  while v_ended is not null loop
    v_cancelled := pgtick.settle_links(v_ended, p_now, clock_timestamp() < v_impatient_from);
    for v_batch_id in select distinct e.batch_id from unnest(v_ended) as e where e.batch_id is not null order by 1 loop
      v_cancelled := v_cancelled || pgtick.settle_batch(v_batch_id, p_now, clock_timestamp() < v_impatient_from);
    end loop;
    if exists (select from unnest(v_ended) as e where e.sequence_key is not null) then
      perform pgtick.settle_sequences(pgtick.mark_sequences(v_ended, p_now), p_now);
    end if;
    perform pgtick.free_places(v_ended, p_now, clock_timestamp() < v_impatient_from);
    v_ended := v_cancelled;
    v_rounds := v_rounds + 1;
    v_jobs := v_jobs + coalesce(cardinality(v_cancelled), 0);
    if v_rounds >= 100 or v_jobs >= 2000 then
      perform pgtick.note_unsettled('more', e.id::text, e.sequence_key, p_now) from unnest(v_ended) as e;
      return;
    end if;
  end loop;
end
$$;
comment on function pgtick.settle(pgtick.ended[], timestamptz) is 'Free, or cancel, what waited for jobs that have just ended, in the same transaction; of much, a part, and rescue() the rest.';

-- Two that end the last two blockers of a job take turns at its row, for a moment; each would otherwise still see the other's link.
-- What is to be cancelled is locked as for that: an enqueue behind it may hold it, and a job that is not cancelled must keep its link.
create or replace function pgtick.settle_links(p_ended pgtick.ended[], p_now timestamptz, p_patient boolean default true)
returns pgtick.ended[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
set lock_timeout = '100ms'
as $$
declare
  v_most constant integer := 2000;
  v_links integer;
  v_waiting bigint[];
  v_doomed bigint[];
  v_why text[];
begin
  delete from pgtick.job_links as l
  where l.ctid = any (array(
    select own.ctid from unnest(p_ended) as e
    cross join lateral (select x.ctid from pgtick.job_links as x where x.job_id = e.id for update skip locked) as own));
  select count(*), array_agg(distinct w.job_id) into v_links, v_waiting from (
    select l.job_id from unnest(p_ended) as e cross join lateral (select x.job_id from pgtick.job_links as x where x.on_job_id = e.id offset 0) as l limit v_most) as w;
  if v_links = 0 then return null; end if;
  if not p_patient then perform set_config('lock_timeout', '1ms', true); end if;
  begin
    perform from pgtick.live_jobs as j where j.id = any (v_waiting) order by j.id for no key update;
    select array_agg(d.job_id order by d.job_id), array_agg(d.why order by d.job_id) into v_doomed, v_why from (
      select distinct on (l.job_id) l.job_id, format('job %s, which it waited for, %s', e.id, case e.state when 'failed' then 'failed' else 'was cancelled' end) as why
      from unnest(p_ended) as e
      cross join lateral (select x.job_id, x.any_outcome from pgtick.job_links as x where x.on_job_id = e.id offset 0) as l
      join unnest(v_waiting) as w(id) on w.id = l.job_id
      where e.state <> 'done' and not l.any_outcome
      order by l.job_id, e.id) as d;
    perform from pgtick.live_jobs as j where j.id = any (v_doomed) order by j.id for update;
    delete from pgtick.job_links as k
    where k.ctid = any (array(
      select l.ctid from unnest(p_ended) as e
      cross join lateral (select x.ctid, x.job_id from pgtick.job_links as x where x.on_job_id = e.id offset 0) as l
      join unnest(v_waiting) as w(id) on w.id = l.job_id));
  exception when lock_not_available then
    perform pgtick.note_unsettled('job', e.id::text, null, p_now) from unnest(p_ended) as e;
    return null;
  end;
  perform pgtick.unblock(array(select w.id from unnest(v_waiting) as w(id) except select d.id from unnest(v_doomed) as d(id)), p_now);
  if v_links = v_most then
    perform pgtick.note_unsettled('more', e.id::text, null, p_now) from unnest(p_ended) as e where exists (select from pgtick.job_links as l where l.on_job_id = e.id);
  end if;
  if v_doomed is null then return null; end if;
  return pgtick.cancel_waiting(v_doomed, v_why, p_now);
end
$$;
comment on function pgtick.settle_links(pgtick.ended[], timestamptz, boolean) is 'Free what waited for these jobs; cancel what waited for one of them to be done that is not, and return that, as ended. Waits for locks as settle_batch does.';

create or replace function pgtick.cancel_waiting(p_ids bigint[], p_why text[], p_now timestamptz)
returns pgtick.ended[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_rows tid[];
  v_errors jsonb[];
  v_ended pgtick.ended[];
begin
  select array_agg(x.ctid), array_agg(jsonb_build_object('message', x.why)),
    array_agg((x.id, x.task, 'cancelled', x.batch_id, x.sequence_key, x.sequence_skips, x.limit_key)::pgtick.ended)
  into v_rows, v_errors, v_ended
  from (
    select j.ctid, w.why, j.id, j.task, j.batch_id, j.sequence_key, j.sequence_skips, j.limit_key
    from unnest(p_ids, p_why) as w(id, why)
    cross join lateral (
      select l.ctid, l.id, l.task, l.batch_id, l.sequence_key, l.sequence_skips, l.limit_key
      from pgtick.live_jobs as l where l.id = w.id and l.runner_id is null for update skip locked) as j
    order by w.id) as x;
  if v_rows is not null then
    perform pgtick.archive_rows(v_rows, p_ids, array_fill('cancelled'::text, array[cardinality(v_rows)]), null, v_errors, false, p_now, false);
  end if;
  return v_ended;
end
$$;
comment on function pgtick.cancel_waiting(bigint[], text[], timestamptz) is 'Cancel waiting jobs, each with its reason, and return them as ended; what that means for others is the caller''s to settle.';

-- Called by rescue(). What was noted is looked at each time, as far as a second goes; everything once a minute, so that no mistake keeps a
-- job for ever.
create or replace function pgtick.sweep_ties(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '1 second';
  v_newest bigint;
  v_notes pgtick.unsettled[];
begin
  select max(u.id) into v_newest from pgtick.unsettled as u;
  while v_newest is not null and clock_timestamp() < v_until loop
    -- what somebody still has locked is noted anew, and is for the next call
    with gone as (
      delete from pgtick.unsettled as u
      where u.id = any (array(select x.id from pgtick.unsettled as x where x.id <= v_newest or x.kind = 'more' order by x.id limit 200 for update skip locked))
      returning u
    )
    select array_agg(g.u) into v_notes from gone as g;
    exit when v_notes is null;
    perform pgtick.settle_notes(v_notes, p_now);
  end loop;
  if (exists (select from pgtick.live_jobs as j where j.blocked_by in ('after', 'batch', 'sequence')) or exists (select from pgtick.limit_places)
      or exists (select from pgtick.sequences) or exists (select from pgtick.live_jobs as j where j.blocked_by = 'limit'))
    and pgtick.upkeep_due('ties', '1 minute') and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgtick.ties'))
  then
    insert into pgtick.upkeep (what, done_at) values ('ties', p_now) on conflict (what) do update set done_at = excluded.done_at;
    perform pgtick.sweep_blocked(p_now), pgtick.sweep_batches(p_now), pgtick.sweep_places(p_now), pgtick.sweep_sequences();
  end if;
end
$$;
comment on function pgtick.sweep_ties(timestamptz) is 'Do what the ends of jobs have left; once a minute free jobs whose blocker does not live any more, and end batches without live jobs.';

create or replace function pgtick.settle_notes(p_notes pgtick.unsettled[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_batch_id bigint;
begin
  perform pgtick.settle(array_agg((h.id, h.task, h.state, h.batch_id, h.sequence_key, h.sequence_skips, h.limit_key)::pgtick.ended), p_now)
  from (select distinct n.what::bigint as id from unnest(p_notes) as n where n.kind in ('job', 'more')) as i
  cross join lateral (select x.* from pgtick.history as x where x.id = i.id offset 0) as h
  having count(*) > 0;
  for v_batch_id in select distinct n.what::bigint from unnest(p_notes) as n where n.kind = 'batch' order by 1 loop
    perform pgtick.settle(pgtick.settle_batch(v_batch_id, p_now), p_now);
  end loop;
  perform pgtick.settle_sequences(array_agg(distinct coalesce(n.sequence_key, n.what)), p_now)
  from unnest(p_notes) as n where n.kind = 'sequence' or n.sequence_key is not null having count(*) > 0;
  if exists (select from unnest(p_notes) as n where n.kind = 'limit') then perform pgtick.sweep_places(p_now); end if;
end
$$;
comment on function pgtick.settle_notes(pgtick.unsettled[], timestamptz) is 'Do what is noted in these rows, which the caller has deleted.';

-- A part of the blocked jobs each time, from a place on that is drawn by lot: in the long run all. Nothing is locked but what is amiss.
create or replace function pgtick.sweep_blocked(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_from bigint;
  v_ids bigint[];
begin
  select min(j.id + 0) + (random() * (max(j.id + 0) - min(j.id + 0)))::bigint into v_from from pgtick.live_jobs as j where j.blocked_by in ('after', 'batch', 'sequence');
  if v_from is null then return; end if;
  v_ids := array(select j.id from pgtick.live_jobs as j where j.blocked_by in ('after', 'batch', 'sequence') and j.id + 0 >= v_from order by j.id + 0 limit 10000);
  if cardinality(v_ids) < 10000 then
    v_ids := v_ids || array(
      select j.id from pgtick.live_jobs as j where j.blocked_by in ('after', 'batch', 'sequence') and j.id + 0 < v_from order by j.id + 0 limit 10000 - cardinality(v_ids));
  end if;
  perform pgtick.settle(array_agg((l.on_job_id, coalesce(h.task, ''), coalesce(h.state, 'cancelled'), null, null, null, null)::pgtick.ended), p_now)
  from (
    select distinct x.on_job_id from unnest(v_ids) as i(id)
    cross join lateral (select k.on_job_id from pgtick.job_links as k where k.job_id = i.id offset 0) as x
    where not exists (select from pgtick.live_jobs as j where j.id = x.on_job_id)) as l
  left join lateral (select y.task, y.state from pgtick.history as y where y.id = l.on_job_id offset 0) as h on true
  having count(*) > 0;
  perform pgtick.unblock(array(
    select j.id from unnest(v_ids) as i(id) cross join lateral (select l.* from pgtick.live_jobs as l where l.id = i.id offset 0) as j
    where pgtick.blocked_by_now(j) is distinct from j.blocked_by), p_now);
end
$$;
comment on function pgtick.sweep_blocked(timestamptz) is 'Look at up to 10,000 blocked jobs, and free those that nothing blocks.';

create or replace function pgtick.sweep_batches(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_batch_id bigint;
begin
  for v_batch_id in select b.id from pgtick.batch_defs as b where b.finished_at is null order by random() limit 1000 loop
    perform pgtick.settle(pgtick.settle_batch(v_batch_id, p_now, false), p_now);
  end loop;
end
$$;
comment on function pgtick.sweep_batches(timestamptz) is 'Look at up to 1,000 open batches, drawn by lot, and end those without live jobs.';

-- Looked at again once it is locked, by a statement that sees what was committed up to then: an enqueue may have used it since the first
-- look. From a page on that is drawn by lot, so that a sequence that lives does not hide those behind it.
create or replace function pgtick.sweep_sequences()
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_from constant tid := format('(%s,0)', floor(random() * pg_catalog.pg_relation_size('pgtick.sequences') / current_setting('block_size')::integer)::bigint)::tid;
  v_keys text[];
begin
  v_keys := array(
    select s.key from pgtick.sequences as s
    where s.ctid = any (array(
        (select x.ctid from pgtick.sequences as x where x.ctid >= v_from limit 10000)
        union all
        (select x.ctid from pgtick.sequences as x where x.ctid < v_from limit 10000)))
      and s.stops is null and not exists (select from pgtick.live_jobs as j where j.sequence_key = s.key)
    for update skip locked);
  delete from pgtick.sequences as s
  where s.key = any (v_keys) and s.stops is null and not exists (select from pgtick.live_jobs as j where j.sequence_key = s.key)
    and not exists (select from pgtick.unsettled as u where u.sequence_key = s.key);
end
$$;
comment on function pgtick.sweep_sequences() is 'Forget sequences without jobs, of up to 20,000 at a time.';

-- Parents and children.

-- Cycles: who waits for whom goes by links, by batches (a callback waits for its members), by sequences and schedules (a job waits for
-- those before it).
-- union, not union all: it ends on a cycle that is there already.
create or replace function pgtick.waits_for(p_ids bigint[], p_on bigint)
returns boolean
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return (with recursive w as (
    select i.id from unnest(p_ids) as i(id)
    union
    select n.id from w cross join lateral (
      select l.on_job_id as id from pgtick.job_links as l where l.job_id = w.id
      union all
      select j.id from pgtick.batch_defs as b cross join lateral (select m.id from pgtick.live_jobs as m where m.batch_id = b.id offset 0) as j
      where b.job_id = w.id and coalesce(b.finished_at, 'infinity') = 'infinity'
      union all
      select (select p.id from pgtick.live_jobs as p where p.sequence_key = s.sequence_key and p.id + 0 < s.id order by p.id + 0 desc limit 1)
      from pgtick.live_jobs as s where s.id = w.id and s.sequence_key is not null
      union all
      select (select p.id from pgtick.live_jobs as p where p.schedule_id = s.schedule_id and p.slot < s.slot order by p.slot desc limit 1)
      from pgtick.live_jobs as s where s.id = w.id and s.blocked_by = 'overlap') as n
    where n.id is not null
  )
  select exists (select from w where w.id = p_on));
end
$$;
comment on function pgtick.waits_for(bigint[], bigint) is 'Whether one of these jobs is p_on or waits for it, directly or through others.';

-- The only way in which a new job could wait for itself: its batch's callback is among what it waits for. So it is looked for from there.
create or replace function pgtick.refuse_loop(p_batch_id bigint, p_waits bigint[], p_sequence_key text)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_id bigint;
begin
  with recursive d as (
    select b.job_id as id from pgtick.batch_defs as b where b.id = p_batch_id
    union
    select n.id from d cross join lateral (
      select l.job_id as id from pgtick.job_links as l where l.on_job_id = d.id
      union all
      select b.job_id from pgtick.live_jobs as j join pgtick.batch_defs as b on b.id = j.batch_id where j.id = d.id
      union all
      select (select x.id from pgtick.live_jobs as x where x.sequence_key = s.sequence_key and x.id + 0 > s.id order by x.id + 0 limit 1)
      from pgtick.live_jobs as s where s.id = d.id and s.sequence_key is not null) as n
    where n.id is not null
  )
  select d.id into v_id from d
  where d.id = any (p_waits) or exists (select from pgtick.live_jobs as j where j.id = d.id and j.sequence_key = p_sequence_key)
  limit 1;
  if found then
    raise exception using errcode = 'TK021', message = format('the job would wait for itself: it is to wait for job %s, which waits for batch %s, and so for it', v_id, p_batch_id),
      hint = 'Leave it out of the batch, or do not let it wait for what comes after the batch.';
  end if;
end
$$;
comment on function pgtick.refuse_loop(bigint, bigint[], text) is 'Raise TK021 when a new job of a batch would wait for that batch''s callback, directly or through others.';

-- The worker gives its claim away and keeps no place: it may be called in the transaction that enqueues the children, so that they and the
-- waiting commit together. Its own row is locked before the children's: of two jobs that begin to wait for each other at once, one sees the
-- other's link. Where the children wait for others themselves that would not do, so then one comes after the other.
-- definer: as the rest of the protocol.
create or replace function pgtick.wait_for(p_job_id bigint, p_fence bigint, p_ids bigint[], p_outcome text default 'any')
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_alive bigint[];
  v_now timestamptz;
  v_cancelled_by text;
  v_queue text;
begin
  if p_outcome is null or p_outcome not in ('any', 'done') then perform pgtick.invalid('outcome', p_outcome, 'it is any or done'); end if;
  if p_ids is null or num_nulls(variadic p_ids) > 0 or cardinality(p_ids) > 10000 then
    perform pgtick.invalid('ids', left(p_ids::text, 200), 'at most 10000 ids of jobs, none of them null', 'A batch (create_batch) has any number; wait for its callback.');
  end if;
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using errcode = 'TK020', message = format('a job cannot begin to wait for others at isolation level %s', current_setting('transaction_isolation')),
      hint = 'Its children may have ended since the snapshot was taken. Use READ COMMITTED.';
  end if;
  perform from pgtick.live_jobs as j where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null for update;
  if not found then perform pgtick.refuse_claim(p_job_id, p_fence); end if;
  v_alive := pgtick.living_blockers(p_ids, p_outcome = 'any');
  if exists (select from pgtick.live_jobs as j where j.id = any (v_alive) and j.blocked_by <> 'limit') then
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgtick.wait_for'));
  end if;
  if pgtick.waits_for(v_alive, p_job_id) then
    raise exception using errcode = 'TK021', message = format('job %s would wait for itself: one of %s waits for it', p_job_id, left(v_alive::text, 200)),
      hint = 'A child must not be enqueued after its parent (p_after), nor behind it in a sequence.';
  end if;
  perform pgtick.check_claim(p_job_id, p_fence);
  v_now := pgtick.now();
  select n.cancel_requested_by into v_cancelled_by from pgtick.job_notes as n where n.job_id = p_job_id and n.cancel_requested_at is not null;
  if found then
    perform pgtick.archive(array[p_job_id], array[p_fence], '{cancelled}', array[jsonb_build_object('message', 'cancelled by ' || v_cancelled_by)], v_now);
    return;
  end if;
  perform pgtick.link_jobs(array[p_job_id], v_alive, p_outcome = 'any');
  update pgtick.live_jobs as j
  set runner_id = null, started_at = null, reservation = null, uncounted = j.uncounted + 1,
    earlier_attempts = pgtick.with_attempt(j.earlier_attempts, j.attempt, j.started_at, v_now, j.runner_id, 'waiting', null),
    after_jobs = coalesce(j.after_jobs, '{}') || p_ids, after_any = p_outcome = 'any',
    blocked_by = case when v_alive <> '{}' then 'after' end,
    run_at = case when v_alive <> '{}' then 'infinity' else v_now end,
    wanted_at = case when v_alive <> '{}' then v_now end
  where j.id = p_job_id
  returning j.queue into v_queue;
  perform pgtick.free_places_of(array[p_job_id], v_now);
  if v_alive = '{}' then perform pgtick.wake(array[v_queue], v_now); end if;
end
$$;
comment on function pgtick.wait_for(bigint, bigint, bigint[], text) is
  'Give a running job back until these other ones have ended: the attempt ends without counting, and the next one begins then (it finds what it left with checkpoint). p_outcome: any (default); done: it is cancelled when one of them fails or is cancelled. One that somebody has asked to cancel is cancelled instead. Last before the commit, as finish_in_transaction. Raises TK000, TK001 (the claim is lost), TK004, TK005, TK020 and TK021 (it would wait for itself).';
$part$, true);
end
$pgtick$;

-- sql/43_limits.sql
do $pgtick$
begin
  perform set_config('pgtick.part_37', $part$
-- Limits: how many jobs of a task may start in a time (kept by the runners, with Redis), and how many may run at once (kept here).
--
-- What runs under such a limit is written down by id, so that no claim counts jobs: a row of limit_places for each task, or limit key, in
-- use. A claim takes places under the row's lock, tried for only; the end of an attempt gives them back. Of a key that is full, jobs are
-- blocked, so that no claim walks over them twice; of a task that is full, nothing is claimed.

create or replace function pgtick.refuse_limit(p_task text, p_rate bigint, p_period interval, p_burst bigint, p_max_running integer)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('task', p_task);
  if p_rate is null and p_max_running is null then
    perform pgtick.invalid('rate', null, 'a limit has a rate, or max_running, or both', 'remove_limit takes a limit away.');
  end if;
  if p_rate not between 1 and 1000000 then perform pgtick.invalid('rate', p_rate::text, 'it goes from 1 to 1000000 jobs a period', 'pause_queue stops a queue.'); end if;
  if p_rate is not null and (p_period is null or date_part('epoch', p_period) not between 1 and 31 * 86400) then
    perform pgtick.invalid('period', p_period::text, 'it goes from 1 second to 31 days');
  end if;
  if p_burst not between 1 and p_rate then perform pgtick.invalid('burst', p_burst::text, 'it goes from 1 to the rate'); end if;
  if p_burst is not null and p_rate is null then perform pgtick.invalid('burst', p_burst::text, 'it needs a rate'); end if;
  if p_max_running not between 1 and 10000 then perform pgtick.invalid('max_running', p_max_running::text, 'it goes from 1 to 10000', 'pause_queue stops a queue.'); end if;
end
$$;
comment on function pgtick.refuse_limit(text, bigint, interval, bigint, integer) is 'Raise TK000, naming field, value and rule, when there can be no such limit.';

create or replace function pgtick.write_limit(p_task text, p_per_key boolean, p_rate bigint, p_period interval, p_burst bigint, p_max_running integer, p_declared boolean)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_old pgtick.limit_defs;
  v_new pgtick.limit_defs;
begin
  perform pgtick.refuse_limit(p_task, p_rate, p_period, p_burst, p_max_running);
  select * into v_old from pgtick.limit_defs as d where d.task = p_task and d.per_key = p_per_key;
  insert into pgtick.limit_defs as d (task, per_key, rate, period, burst, max_running, declared, set_at, set_by)
  values (p_task, p_per_key, p_rate, case when p_rate is not null then p_period end, case when p_rate is not null then coalesce(p_burst, greatest(p_rate / 10, 1)) end,
    p_max_running, p_declared, pgtick.now(), pgtick.caller())
  on conflict (task, per_key) do update
  set rate = excluded.rate, period = excluded.period, burst = excluded.burst, max_running = excluded.max_running, declared = excluded.declared,
    set_at = excluded.set_at, set_by = excluded.set_by
  where (d.declared or not excluded.declared)
    and (d.rate, d.period, d.burst, d.max_running, d.declared) is distinct from (excluded.rate, excluded.period, excluded.burst, excluded.max_running, excluded.declared)
  returning * into v_new;
  if not found then return false; end if;
  perform pg_catalog.pg_notify('pgtick_limits', p_task);   -- first: who is woken then knows of it
  if v_new.max_running is distinct from v_old.max_running then perform pgtick.change_places(p_task, p_per_key, v_new.max_running is not null); end if;
  -- A time that was kept for a job is given up with what it was kept for, and not otherwise: the job would go to the end of the line.
  if (v_new.rate, v_new.period, v_new.burst) is distinct from (v_old.rate, v_old.period, v_old.burst) then perform pgtick.forget_reservations(p_task, pgtick.now()); end if;
  return true;
end
$$;
comment on function pgtick.write_limit(text, boolean, bigint, interval, bigint, integer, boolean) is 'Keep a limit, unless it is a declared one and set_limit has said otherwise; tell the runners, and let the blocked jobs of the task be looked at anew.';

-- What runs already counts, but for what is being claimed in this very moment.
create or replace function pgtick.change_places(p_task text, p_per_key boolean, p_limited boolean)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  delete from pgtick.limit_places as p where p.task = p_task and (p.key <> '') = p_per_key;
  if p_limited then
    insert into pgtick.limit_places as p (task, key, holders)
    select p_task, case when p_per_key then j.limit_key else '' end, array_agg(j.id) from pgtick.live_jobs as j
    where j.task = p_task and j.runner_id is not null and (j.limit_key is not null or not p_per_key)
    group by 2
    order by 2
    on conflict (task, key) do update set holders = array(select h.id from unnest(p.holders || excluded.holders) as h(id) group by h.id order by h.id);
  end if;
  perform pgtick.free_limited(p_task, p_per_key, pgtick.now());
end
$$;
comment on function pgtick.change_places(text, boolean, boolean) is 'Write down anew who runs under a limit, which has come, gone or changed, and let its blocked jobs be looked at anew.';

-- definer: service_role may set limits, and writes no table.
create or replace function pgtick.set_limit(p_task text, p_rate bigint default null, p_period interval default '1 second', p_burst bigint default null,
  p_max_running integer default null, p_per_key boolean default false)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_per_key is null then perform pgtick.invalid('per_key', null, 'it is true or false'); end if;
  if pgtick.write_limit(p_task, p_per_key, p_rate, p_period, p_burst, p_max_running, false) then
    perform pgtick.note_action('set_limit', p_task, jsonb_strip_nulls(jsonb_build_object('rate', p_rate, 'period', p_period, 'burst', p_burst, 'max_running', p_max_running, 'per_key', p_per_key)));
  end if;
end
$$;
comment on function pgtick.set_limit(text, bigint, interval, bigint, integer, boolean) is
  'Limit a task, from now on, on all runners together: at most p_rate (1 to 1,000,000) jobs start in a p_period (1 second, the default, to 31 days), of which p_burst (default a tenth of the rate, at least 1) may start at once; and at most p_max_running (1 to 10,000) run at a time. p_per_key: so many of each limit_key instead of all together; a task may have both. Replaces what was set before, or declared in code. Raises TK000.';

-- definer: as set_limit.
create or replace function pgtick.remove_limit(p_task text, p_per_key boolean default false)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  delete from pgtick.limit_defs as d where d.task = p_task and d.per_key = p_per_key;
  if not found then return; end if;
  perform pgtick.note_action('remove_limit', p_task, jsonb_build_object('per_key', p_per_key));
  perform pg_catalog.pg_notify('pgtick_limits', p_task);
  perform pgtick.change_places(p_task, p_per_key, false);
  perform pgtick.forget_reservations(p_task, pgtick.now());
end
$$;
comment on function pgtick.remove_limit(text, boolean) is 'Take a limit away, by key or of the whole task; one that is declared in code comes back with the next start of a runner. Where there is none: nothing.';

-- Code declares; what people set by hand stays. definer: the runner's role writes no table.
create or replace function pgtick.declare_task(p_task text, p_defaults jsonb)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_policy constant jsonb := p_defaults -> 'retry_policy';
  v_key constant jsonb := p_defaults -> 'per_key';
begin
  perform pgtick.refuse_name('task', p_task);
  if jsonb_typeof(p_defaults) is distinct from 'object' then perform pgtick.invalid('defaults', p_defaults::text, 'an object'); end if;
  perform pgtick.refuse_numbers(p_defaults, '{rate,period_seconds,burst,max_running,most_rows}'), pgtick.refuse_numbers(v_key, '{rate,period_seconds,burst,max_running}');
  perform pgtick.declare_limit(p_task, false, p_defaults), pgtick.declare_limit(p_task, true, v_key);
  if v_policy is null or jsonb_typeof(v_policy) = 'null' then
    delete from pgtick.retry_policies as r where r.task = p_task and r.declared;
  else
    perform pgtick.check_retry_policy(v_policy);
    insert into pgtick.retry_policies as r (task, policy, set_at, set_by, declared) values (p_task, v_policy, pgtick.now(), pgtick.caller(), true)
    on conflict (task) do update set policy = excluded.policy, set_at = excluded.set_at, set_by = excluded.set_by
    where r.declared and r.policy <> excluded.policy;
  end if;
  perform pgtick.declare_rules(p_task, p_defaults);
end
$$;
comment on function pgtick.declare_task(text, jsonb) is
  'What a runner''s code says of a task, told at its start: {"retry_policy", "rate", "period_seconds", "burst", "max_running", "per_key": {the same four}, "gates", "most_rows"}, all optional. What set_retry_policy, set_limit and set_gates said counts more. What is no longer declared goes. Raises TK000.';

create or replace function pgtick.refuse_numbers(p_object jsonb, p_fields text[])
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_field text;
begin
  if p_object is null or jsonb_typeof(p_object) = 'null' then return; end if;
  if jsonb_typeof(p_object) <> 'object' then perform pgtick.invalid('defaults', p_object::text, 'an object'); end if;
  select f.field into v_field from unnest(p_fields) as f(field)
  where jsonb_typeof(p_object -> f.field) not in ('number', 'null')
    or (jsonb_typeof(p_object -> f.field) = 'number' and ((p_object ->> f.field)::numeric not between 0 and 1e9 or (f.field <> 'period_seconds' and (p_object ->> f.field)::numeric % 1 <> 0)))
  limit 1;
  if found then perform pgtick.invalid(v_field, p_object ->> v_field, 'a whole number up to 1000000000, or none'); end if;
end
$$;
comment on function pgtick.refuse_numbers(jsonb, text[]) is 'Raise TK000 unless each of these fields of a declaration is a number that can be one, null or missing.';

create or replace function pgtick.declare_limit(p_task text, p_per_key boolean, p_limit jsonb)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if (p_limit ->> 'rate') is null and (p_limit ->> 'max_running') is null then
    delete from pgtick.limit_defs as d where d.task = p_task and d.per_key = p_per_key and d.declared;
    if found then
      perform pg_catalog.pg_notify('pgtick_limits', p_task);
      perform pgtick.change_places(p_task, p_per_key, false);
      perform pgtick.forget_reservations(p_task, pgtick.now());
    end if;
    return;
  end if;
  perform pgtick.write_limit(p_task, p_per_key, (p_limit ->> 'rate')::bigint, make_interval(secs => coalesce((p_limit ->> 'period_seconds')::float8, 1)),
    (p_limit ->> 'burst')::bigint, (p_limit ->> 'max_running')::integer, true);
end
$$;
comment on function pgtick.declare_limit(text, boolean, jsonb) is 'The limit of a declaration: kept, or taken away where it has none. Raises TK000.';

-- Places.

create or replace function pgtick.is_full(p_task text)
returns boolean
language sql stable parallel safe
set search_path = ''
as $$
  select exists (
    select from pgtick.limit_defs as d join pgtick.limit_places as p on p.task = d.task and p.key = ''
    where d.task = p_task and not d.per_key and cardinality(p.holders) >= d.max_running)
$$;
comment on function pgtick.is_full(text) is 'Whether as many jobs of a task run as may run at once.';

create or replace function pgtick.limited_due(p_tasks text[], p_queues text[], p_now timestamptz)
returns boolean
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  return exists (
    select from pgtick.lanes(array(select t.task from unnest(p_tasks) as t(task) where not pgtick.is_full(t.task)), p_queues) as l
    cross join lateral (
      select from pgtick.live_jobs as due
      where due.task = l.task and due.queue = l.queue and due.priority = l.priority and (due.run_at, due.id + 0) >= (l.run_at, l.id)
        and due.run_at <= p_now and due.runner_id is null and due.losses < 2
      limit 1) as first);
end
$$;
comment on function pgtick.limited_due(text[], text[], timestamptz) is 'Whether a job is due of one of these tasks that is not full.';

-- What a claim picks of the tasks that have a limit of how many may run: rows locked, places taken. By priority, then by time, but every
-- tenth claim in another order, so that no flood starves another lane. Where there is other work (p_plain jobs of the claim, the first of
-- them of p_priority) lanes that are more urgent leave a tenth of the claim to it, lanes as urgent take half, and the others a tenth.
create or replace function pgtick.pick_limited(p_tasks text[], p_queues text[], p_n integer, p_now timestamptz, p_plain integer, p_priority smallint, p_turn bigint)
returns tid[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_tenth constant integer := case when p_n >= 10 then p_n / 10 when p_turn / 1024 % 10 = 0 then p_n else 0 end;
  v_half constant integer := (p_n + p_turn % 2) / 2;
  v_lane record;
  v_room integer;
  v_holders bigint[];
  v_rows tid[];
  v_ids bigint[];
  v_picked tid[] := '{}';
begin
  for v_lane in
    select l.*, d.max_running as task_max, k.max_running as key_max
    from pgtick.lanes(p_tasks, p_queues) as l
    left join pgtick.limit_defs as d on d.task = l.task and not d.per_key
    left join pgtick.limit_defs as k on k.task = l.task and k.per_key
    where l.run_at <= p_now
    order by case when p_turn / 32 % 10 = 0 then pg_catalog.hashtextextended(l.task || l.queue, p_turn) else l.priority end, l.run_at, l.id
  loop
    v_room := greatest(p_n - p_plain, case when p_priority is null then p_n when v_lane.priority < p_priority then p_n - v_tenth
      when v_lane.priority = p_priority then v_half else v_tenth end) - cardinality(v_picked);
    continue when v_room <= 0;
    if v_lane.task_max is not null then
      v_holders := pgtick.lock_places(v_lane.task, '');
      continue when v_holders is null;   -- another claim is at it
      v_room := least(v_room, v_lane.task_max - cardinality(v_holders));
      continue when v_room <= 0;
    end if;
    if v_lane.key_max is not null then
      select p.picked, p.ids into v_rows, v_ids
      from pgtick.pick_by_key(v_lane.task, v_lane.queue, v_lane.priority, v_lane.run_at, v_lane.id, v_lane.key_max, v_room, p_now) as p;
    else
      select array_agg(x.ctid), array_agg(x.id) into v_rows, v_ids from (
        select due.ctid, due.id from pgtick.live_jobs as due
        where due.task = v_lane.task and due.queue = v_lane.queue and due.priority = v_lane.priority and (due.run_at, due.id + 0) >= (v_lane.run_at, v_lane.id)
          and due.run_at <= p_now and due.runner_id is null and due.losses < 2
        order by due.run_at, due.id + 0
        limit v_room
        for update skip locked) as x;
    end if;
    continue when v_ids is null or v_ids = '{}';
    if v_lane.task_max is not null then
      update pgtick.limit_places as p set holders = p.holders || v_ids where p.task = v_lane.task and p.key = '';
    end if;
    v_picked := v_picked || v_rows;
  end loop;
  return v_picked;
end
$$;
comment on function pgtick.pick_limited(text[], text[], integer, timestamptz, integer, smallint, bigint) is
  'Pick and lock due jobs of tasks with a limit of how many may run, up to p_n and not more than is fair beside p_plain others, and take their places.';

create or replace function pgtick.lock_places(p_task text, p_key text)
returns bigint[]
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '100ms'
as $$
declare
  v_holders bigint[];
begin
  select p.holders into v_holders from pgtick.limit_places as p where p.task = p_task and p.key = p_key for update skip locked;
  if found or exists (select from pgtick.limit_places as p where p.task = p_task and p.key = p_key) then return v_holders; end if;
  begin
    insert into pgtick.limit_places (task, key, holders) values (p_task, p_key, '{}') on conflict (task, key) do nothing returning holders into v_holders;
  exception when lock_not_available then null;   -- another session makes it, and has not committed
  end;
  return v_holders;
end
$$;
comment on function pgtick.lock_places(text, text) is 'Lock the places of a limit and return who holds them; null where another session has them locked.';

-- Jobs whose key is full are blocked, and looked at again when a place of that key is free: not at each claim.
create or replace function pgtick.pick_by_key(p_task text, p_queue text, p_priority smallint, p_from_run_at timestamptz, p_from_id bigint, p_max integer, p_room integer,
  p_now timestamptz, out picked tid[], out ids bigint[])
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_seen bigint[] := '{}';
  v_full bigint[];
  v_rows bigint;
  v_key record;
  v_holders bigint[];
  v_free integer;
  v_take integer;
begin
  picked := '{}';
  ids := '{}';
  for v_round in 1 .. 20 loop
    v_full := '{}';
    v_rows := 0;
    for v_key in
      select x.limit_key as key, array_agg(x.id order by x.run_at, x.id) as ids, array_agg(x.ctid order by x.run_at, x.id) as rows
      from (
        select due.ctid, due.id, due.run_at, due.limit_key from pgtick.live_jobs as due
        where due.task = p_task and due.queue = p_queue and due.priority = p_priority and (due.run_at, due.id + 0) >= (p_from_run_at, p_from_id)
          and due.run_at <= p_now and due.runner_id is null and due.losses < 2 and due.id <> all (v_seen)
        order by due.run_at, due.id + 0
        limit least(greatest(2 * p_room, 50), 500)
        for update skip locked) as x
      group by x.limit_key
      order by x.limit_key
    loop
      v_rows := v_rows + cardinality(v_key.ids);
      v_seen := v_seen || v_key.ids;
      continue when cardinality(picked) >= p_room;
      v_holders := case when v_key.key is not null then pgtick.lock_places(p_task, v_key.key) end;
      continue when v_key.key is not null and v_holders is null;
      v_free := case when v_key.key is null then cardinality(v_key.ids) else greatest(p_max - cardinality(v_holders), 0) end;
      v_take := least(v_free, p_room - cardinality(picked));
      picked := picked || v_key.rows[1:v_take];
      ids := ids || v_key.ids[1:v_take];
      v_full := v_full || v_key.ids[v_free + 1:];
      if v_key.key is not null and v_take > 0 then
        update pgtick.limit_places as p set holders = p.holders || v_key.ids[1:v_take] where p.task = p_task and p.key = v_key.key;
      end if;
    end loop;
    if v_full <> '{}' then
      update pgtick.live_jobs as j set blocked_by = 'limit', wanted_at = j.run_at, run_at = 'infinity' where j.id = any (v_full);
      v_seen := array(select s.id from unnest(v_seen) as s(id) except select f.id from unnest(v_full) as f(id));   -- those are out of the way
    end if;
    exit when v_rows = 0 or cardinality(picked) >= p_room;
  end loop;
end
$$;
comment on function pgtick.pick_by_key(text, text, smallint, timestamptz, bigint, integer, integer, timestamptz) is
  'Pick and lock up to p_room due jobs of a lane, from one on, whose limit keys have places, take those, and block what has none.';

create or replace function pgtick.take_places(p_task text, p_key text, p_job_id bigint)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_limit record;
  v_keys text[] := '{}';
  v_holders bigint[];
begin
  for v_limit in select d.per_key, d.max_running from pgtick.limit_defs as d where d.task = p_task and d.max_running is not null order by d.per_key loop
    continue when v_limit.per_key and p_key is null;
    v_holders := pgtick.lock_places(p_task, case when v_limit.per_key then p_key else '' end);
    if v_holders is null or cardinality(v_holders) >= v_limit.max_running then return false; end if;
    v_keys := v_keys || case when v_limit.per_key then p_key else '' end;
  end loop;
  update pgtick.limit_places as p set holders = p.holders || p_job_id where p.task = p_task and p.key = any (v_keys);
  return true;
end
$$;
comment on function pgtick.take_places(text, text, bigint) is 'Take the places that one job needs, or none: false where they are not free.';

-- What stops running, by its end or otherwise, gives its places back. A claim that has the row locked is waited for, for a moment; what
-- cannot be given back then, rescue() finds.
create or replace function pgtick.free_places(p_ended pgtick.ended[], p_now timestamptz, p_patient boolean default true)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '100ms'
as $$
declare
  v_ids bigint[];
  v_tasks text[];
  v_keys text[];
begin
  if not exists (select from pgtick.limit_places) then return; end if;
  select array_agg(p.task order by p.task, p.key), array_agg(p.key order by p.task, p.key) into v_tasks, v_keys from (
    select distinct x.task, x.key
    from unnest(p_ended) as e
    cross join lateral (
      select l.task, l.key from pgtick.limit_places as l where l.task = e.task and l.key = any (array['', e.limit_key]) and l.holders @> array[e.id] offset 0) as x) as p;
  if v_tasks is null then return; end if;
  v_ids := array(select e.id from unnest(p_ended) as e);
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then   -- the rows change all the time
    perform pgtick.note_unsettled('limit', t.task, null, p_now) from (select distinct x.task from unnest(v_tasks) as x(task)) as t;
    return;
  end if;
  if not p_patient then perform set_config('lock_timeout', '1ms', true); end if;
  perform from unnest(v_tasks, v_keys) as k(task, key)
  cross join lateral (select from pgtick.limit_places as p where p.task = k.task and p.key = k.key for update) as l;
  update pgtick.limit_places as p set holders = array(select h.id from unnest(p.holders) as h(id) where h.id <> all (v_ids))
  from unnest(v_tasks, v_keys) as k(task, key)
  where p.task = k.task and p.key = k.key;
  perform pgtick.offer_places(v_tasks, v_keys, p_now);
exception when lock_not_available then
  perform pgtick.note_unsettled('limit', t.task, null, p_now) from (select distinct x.task from unnest(v_tasks) as x(task)) as t;
end
$$;
comment on function pgtick.free_places(pgtick.ended[], timestamptz, boolean) is 'Give back the places of jobs that do not run any more, and let the next ones have them. Waits for locks as settle_batch does.';

create or replace function pgtick.free_places_of(p_ids bigint[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  if not exists (select from pgtick.limit_places) then return; end if;
  perform pgtick.free_places(array_agg((j.id, j.task, 'ready', null, null, null, j.limit_key)::pgtick.ended), p_now)
  from unnest(p_ids) as i(id) cross join lateral (select l.id, l.task, l.limit_key from pgtick.live_jobs as l where l.id = i.id offset 0) as j
  having count(*) > 0;
end
$$;
comment on function pgtick.free_places_of(bigint[], timestamptz) is 'As free_places, for jobs that are live: they were put back.';

-- Freed jobs keep their old run_at, so that their order stays: limited tasks are always claimed from the beginning, without watermarks.
create or replace function pgtick.offer_places(p_tasks text[], p_keys text[], p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_queues text[];
begin
  with next as materialized (
    select first.id
    from unnest(p_tasks, p_keys) as k(task, key)
    join pgtick.limit_places as p on p.task = k.task and p.key = k.key
    left join pgtick.limit_defs as d on d.task = k.task and d.per_key
    cross join lateral (
      select j.id from pgtick.live_jobs as j
      where j.task = k.task and j.limit_key = k.key and j.blocked_by = 'limit'
      order by j.id + 0
      limit greatest(coalesce(d.max_running, 1000) - cardinality(p.holders), 0)
      for no key update skip locked) as first
    where k.key <> ''
  ), freed as (
    update pgtick.live_jobs as j set blocked_by = null, run_at = j.wanted_at, wanted_at = null
    from next as n where j.id = n.id and j.blocked_by = 'limit'
    returning j.queue
  )
  select array_agg(distinct f.queue) into v_queues from freed as f;
  delete from pgtick.limit_places as p using unnest(p_tasks, p_keys) as k(task, key)
  where p.task = k.task and p.key = k.key and k.key <> '' and p.holders = '{}';
  if array_position(p_keys, '') is not null then
    v_queues := v_queues || array(
      select distinct l.queue
      from pgtick.lanes(array(select k.task from unnest(p_tasks, p_keys) as k(task, key) where k.key = ''), array(select distinct s.queue from pgtick.sleepers as s)) as l);
  end if;
  if v_queues <> '{}' then perform pgtick.wake(v_queues, p_now); end if;
end
$$;
comment on function pgtick.offer_places(text[], text[], timestamptz) is 'Free as many blocked jobs of these limit keys as there are places, and wake those who may claim what is due of these tasks (key empty).';

create or replace function pgtick.free_limited(p_task text, p_per_key boolean, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  if p_per_key then
    update pgtick.live_jobs as j set blocked_by = null, run_at = j.wanted_at, wanted_at = null
    where j.blocked_by = 'limit'
      and j.id = any (array(select l.id from pgtick.live_jobs as l where l.task = p_task and l.blocked_by = 'limit' order by l.limit_key, l.id + 0 for no key update skip locked));
  end if;
  perform pgtick.wake(array(select distinct s.queue from pgtick.sleepers as s), p_now);
end
$$;
comment on function pgtick.free_limited(text, boolean, timestamptz) is 'Let all jobs of a task that a limit by key blocks be looked at anew, and wake the runners: its limits have changed.';

create or replace function pgtick.sweep_places(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_tasks text[];
  v_keys text[];
begin
  -- Locked first, and read in a later statement: who is among the holders then has been claimed by a transaction that has committed.
  select array_agg(l.task order by l.task, l.key), array_agg(l.key order by l.task, l.key) into v_tasks, v_keys
  from (
    select p.task, p.key from pgtick.limit_places as p
    where p.holders = '{}' or exists (
        select from unnest(p.holders) as h(id) where not exists (select from pgtick.live_jobs as j where j.id = h.id and j.task = p.task and j.runner_id is not null))
      -- a claim that still went by a limit which was just being raised, or taken away, has blocked what has room now
      or (p.key <> '' and cardinality(p.holders) < coalesce((select d.max_running from pgtick.limit_defs as d where d.task = p.task and d.per_key), 1000)
        and exists (select from pgtick.live_jobs as j where j.task = p.task and j.limit_key = p.key and j.blocked_by = 'limit'))
    order by p.task, p.key
    for update skip locked) as l;
  if v_tasks is not null then
    update pgtick.limit_places as p set holders = array(
      select h.id from unnest(p.holders) as h(id) where exists (select from pgtick.live_jobs as j where j.id = h.id and j.task = p.task and j.runner_id is not null))
    from unnest(v_tasks, v_keys) as k(task, key)
    where p.task = k.task and p.key = k.key;
    perform pgtick.offer_places(v_tasks, v_keys, p_now);
  end if;
  if exists (select from pgtick.live_jobs as j where j.blocked_by = 'limit') then   -- none can be left behind by a key that nobody holds
    perform pgtick.free_limited_keys(p_now);
  end if;
end
$$;
comment on function pgtick.sweep_places(timestamptz) is 'Give back the places of jobs that do not run any more, wherever their end could not.';

create or replace function pgtick.free_limited_keys(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_queues text[];
begin
  with recursive k as (
    (select j.task, j.limit_key from pgtick.live_jobs as j where j.blocked_by = 'limit' order by j.task, j.limit_key limit 1)
    union all
    select n.task, n.limit_key from k
    cross join lateral (select j.task, j.limit_key from pgtick.live_jobs as j where j.blocked_by = 'limit' and (j.task, j.limit_key) > (k.task, k.limit_key)
      order by j.task, j.limit_key limit 1) as n
  ), freed as (
    update pgtick.live_jobs as j set blocked_by = null, run_at = j.wanted_at, wanted_at = null
    where j.blocked_by = 'limit' and j.id = any (array(
      select first.id from k
      cross join lateral (select l.id from pgtick.live_jobs as l where l.task = k.task and l.limit_key = k.limit_key and l.blocked_by = 'limit' order by l.id + 0 limit 1
        for no key update skip locked) as first
      where not exists (select from pgtick.limit_places as p where p.task = k.task and p.key = k.limit_key)))
    returning j.queue
  )
  select array_agg(distinct f.queue) into v_queues from freed as f;
  if v_queues is not null then perform pgtick.wake(v_queues, p_now); end if;
end
$$;
comment on function pgtick.free_limited_keys(timestamptz) is 'Free the first blocked job of each limit key of which none runs.';

-- Rates: kept by the runners.

create or replace function pgtick.forget_reservations(p_task text, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  update pgtick.live_jobs as j set run_at = p_now, reservation = null
  where j.id = any (array(
    select l.id from pgtick.live_jobs as l
    where l.task = p_task and l.reservation is not null and l.runner_id is null and l.blocked_by is null
    order by l.id
    for no key update skip locked));
  if found then perform pgtick.wake(array(select distinct s.queue from pgtick.sleepers as s), p_now); end if;
end
$$;
comment on function pgtick.forget_reservations(text, timestamptz) is 'Let all jobs of a task that a rate has put off be asked for anew, in the order of their ids: its limits have changed.';

-- definer (and the next two): the worker protocol.
create or replace function pgtick.hold_back(p_runner_id bigint, p_job_ids bigint[], p_fences bigint[], p_retry_at timestamptz[], p_reservations text[],
  p_set_at timestamptz[])
returns integer
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_n constant integer := cardinality(p_job_ids);
  v_now timestamptz;
  v_tasks text[];
  v_set_at timestamptz[];
  v_rows tid[];
  v_run_at timestamptz[];
  v_reservations text[];
  v_ids bigint[];
  v_queues text[];
  v_next timestamptz;
begin
  if (cardinality(p_fences) = v_n and cardinality(p_retry_at) = v_n and cardinality(p_reservations) = v_n and cardinality(p_set_at) = v_n) is not true then
    perform pgtick.invalid('job_ids', v_n::text, 'as many fences, retry_at, reservations and set_at as there are jobs');
  end if;
  if exists (select from unnest(p_retry_at) as r(at) where r.at is null or not isfinite(r.at)) then
    perform pgtick.invalid('retry_at', null, 'finite times');
  end if;
  -- Locked against a change, which looks for what was put off by the old rate: it waits for this, or this sees that it is at it.
  select array_agg(d.task), array_agg(d.set_at) into v_tasks, v_set_at
  from (select l.task, l.set_at from pgtick.limit_defs as l where l.rate is not null and l.set_at = any (p_set_at) order by l.task, l.per_key for share skip locked) as d;
  v_now := pgtick.now();
  select array_agg(j.ctid), array_agg(case when j.holds then o.retry_at else v_now + interval '1 second' end), array_agg(case when j.holds then o.reservation end), array_agg(j.id)
  into v_rows, v_run_at, v_reservations, v_ids
  from unnest(p_job_ids, p_fences, p_retry_at, p_reservations, p_set_at) as o(id, fence, retry_at, reservation, set_at)
  cross join lateral (
    select l.ctid, l.id, exists (select from unnest(v_tasks, v_set_at) as d(task, set_at) where d.task = l.task and d.set_at = o.set_at) as holds
    from pgtick.live_jobs as l where l.id = o.id and l.fence = o.fence and l.runner_id = p_runner_id for update skip locked) as j;
  if v_rows is null then return 0; end if;
  with back as (
    update pgtick.live_jobs as j
    set runner_id = null, fence = null, started_at = null, attempt = j.attempt - 1, run_at = greatest(v_now, o.retry_at), reservation = left(o.reservation, 100)
    from unnest(v_rows, v_run_at, v_reservations) as o(ctid, retry_at, reservation)
    where j.ctid = o.ctid
    returning j.queue, j.run_at
  )
  select array_agg(distinct b.queue), min(b.run_at) into v_queues, v_next from back as b;
  perform pgtick.free_places_of(v_ids, v_now);
  perform pgtick.wake(v_queues, v_next);
  return cardinality(v_ids);
end
$$;
comment on function pgtick.hold_back(bigint, bigint[], bigint[], timestamptz[], text[], timestamptz[]) is
  'Give claims back that a rate does not allow yet: they run at p_retry_at, with what the limiter wants to know again (p_reservations, at most 100 characters each; claim returns it). No attempt. p_set_at: of the rate that put each off, as limit_rules told it; where that has changed meanwhile, the job is asked for again in a second. Claims that are not this runner''s any more, or locked, are passed over; when fewer are returned than were given, call reconcile. Raises TK000.';

create or replace function pgtick.say_limits(p_runner_id bigint, p_local boolean)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  update pgtick.runner_leases as r set limits_local = p_local where r.id = p_runner_id and r.limits_local is distinct from p_local;
  if found then perform pg_catalog.pg_notify('pgtick_limits', ''); end if;
end
$$;
comment on function pgtick.say_limits(bigint, boolean) is 'Record whether a runner keeps rates by itself, without Redis: then all do, each its share.';

create or replace function pgtick.limit_rules(p_runner_id bigint)
returns table (task text, per_key boolean, rate bigint, period interval, burst bigint, runners integer, any_local boolean, set_at timestamptz)
language sql stable parallel safe security definer
set search_path = ''
as $$
  with alive as (
    select count(*)::integer as runners, coalesce(bool_or(r.limits_local), false) as any_local
    from pgtick.runner_leases as r
    where r.freed_at is null and r.ended_at is null and r.lease_until > pgtick.now()
  )
  select d.task, d.per_key, d.rate, d.period, d.burst, greatest(a.runners, 1), a.any_local, d.set_at
  from alive as a
  left join pgtick.limit_defs as d on d.rate is not null and d.task = any (select unnest(r.tasks) from pgtick.runner_leases as r where r.id = p_runner_id)
$$;
comment on function pgtick.limit_rules(bigint) is
  'The rates of a runner''s tasks, and among how many live runners they are shared where one has no Redis (any_local); at least one row, its task null where there is no rate. Read it again when channel pgtick_limits says so, and every minute.';
$part$, true);
end
$pgtick$;

-- sql/44_gates.sql
do $pgtick$
begin
  perform set_config('pgtick.part_38', $part$
-- Gates: what must hold when a task commits. Checked by check_claim and finish_in_transaction, so in the very transaction whose effects are
-- to be judged: where a gate's query returns a row, nothing of it stays.

create or replace function pgtick.allow_gate(p_name text, p_query text)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  perform pgtick.refuse_name('name', p_name);
  if coalesce(btrim(p_query), '') = '' then perform pgtick.invalid('query', p_query, 'a query that returns a row for each thing that must not be'); end if;
  begin
    execute format(E'select from (%s\n) as q limit 0', p_query);   -- the line's end: a comment may stand before it
  exception when others then
    perform pgtick.invalid('query', left(p_query, 200), format('it does not run: %s', left(sqlerrm, 500)), 'Write one select, without a semicolon, names with their schema.');
  end;
  insert into pgtick.gates (name, query, set_at, set_by) values (p_name, p_query, pgtick.now(), pgtick.caller())
  on conflict (name) do update set query = excluded.query, set_at = excluded.set_at, set_by = excluded.set_by;
  perform pgtick.note_action('allow_gate', p_name, jsonb_build_object('query', left(p_query, 2000)));
end
$$;
comment on function pgtick.allow_gate(text, text) is
  'Name a query that must return no row, for set_gates. It runs as pgtick''s owner, so only the owner may call this; write names with their schema. A second call replaces it. Raises TK000 when it does not run.';

-- definer: service_role may, and writes no table.
create or replace function pgtick.set_gates(p_task text, p_gates text[] default '{}', p_most_rows bigint default null)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform pgtick.write_rules(p_task, coalesce(p_gates, '{}'), p_most_rows, false);
  perform pgtick.note_action('set_gates', p_task, jsonb_strip_nulls(jsonb_build_object('gates', p_gates, 'most_rows', p_most_rows)));
end
$$;
comment on function pgtick.set_gates(text, text[], bigint) is
  'Say what a transaction of a task has to keep to, to commit: p_gates, names of allow_gate, of which none may return a row then; p_most_rows, how many rows it may insert, update and delete at most. A violation rolls its effects back, fails the job for good with the rows as evidence (at most 20), and pauses its schedule. Replaces what was set before, or declared in code; no gates and no most_rows: nothing is checked. Raises TK000.';

create or replace function pgtick.write_rules(p_task text, p_gates text[], p_most_rows bigint, p_declared boolean)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_odd text;
begin
  perform pgtick.refuse_name('task', p_task);
  if p_most_rows < 1 then perform pgtick.invalid('most_rows', p_most_rows::text, 'at least 1, or null for any number'); end if;
  select g.name into v_odd from unnest(p_gates) as g(name) where g.name is null or not exists (select from pgtick.gates as x where x.name = g.name) limit 1;
  if found then
    perform pgtick.invalid('gates', v_odd, 'names of pgtick.gates', 'Make it first: select pgtick.allow_gate(name, query);');
  end if;
  insert into pgtick.task_rules as r (task, gates, most_rows, declared, set_at, set_by) values (p_task, p_gates, p_most_rows, p_declared, pgtick.now(), pgtick.caller())
  on conflict (task) do update
  set gates = excluded.gates, most_rows = excluded.most_rows, declared = excluded.declared, set_at = excluded.set_at, set_by = excluded.set_by
  where (r.declared or not excluded.declared) and (r.gates, r.most_rows, r.declared) is distinct from (excluded.gates, excluded.most_rows, excluded.declared);
  if found then perform pg_catalog.pg_notify('pgtick_limits', p_task); end if;
end
$$;
comment on function pgtick.write_rules(text, text[], bigint, boolean) is 'Keep a task''s rules, unless they are declared ones and set_gates has said otherwise. Raises TK000.';

create or replace function pgtick.declare_rules(p_task text, p_defaults jsonb)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_given constant jsonb := nullif(p_defaults -> 'gates', 'null');
  v_gates constant text[] := array(select g.value from jsonb_array_elements_text(case when jsonb_typeof(v_given) = 'array' then v_given end) as g(value));
begin
  if jsonb_typeof(v_given) <> 'array' then perform pgtick.invalid('gates', v_given::text, 'a list of names of pgtick.gates'); end if;
  if v_gates = '{}' and (p_defaults ->> 'most_rows') is null then
    delete from pgtick.task_rules as r where r.task = p_task and r.declared;
  else
    perform pgtick.write_rules(p_task, v_gates, (p_defaults ->> 'most_rows')::bigint, true);
  end if;
end
$$;
comment on function pgtick.declare_rules(text, jsonb) is 'The gates and most_rows of a declaration: kept, or taken away where it has none. Raises TK000.';

-- The statistics of the running transaction hold, until they are sent away, those of the session's earlier ones, too; so a count is only worth
-- something against one taken at the beginning.
create or replace function pgtick.rows_changed()
returns bigint
language sql volatile parallel unsafe
set search_path = ''
as $$
  select coalesce(sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del), 0)::bigint
  from pg_catalog.pg_stat_xact_user_tables as s
  where s.schemaname <> 'pgtick'
$$;
comment on function pgtick.rows_changed() is 'How many rows of tables outside the schema pgtick this transaction has inserted, updated and deleted so far, and perhaps earlier ones of its session: take the difference.';

-- definer: the worker protocol.
create or replace function pgtick.watch_rows()
returns void
language sql volatile parallel unsafe security definer
set search_path = ''
as $$ select pg_catalog.set_config('pgtick.rows_before', pgtick.rows_changed()::text, true) $$;
comment on function pgtick.watch_rows() is 'At the beginning of the transaction of a task with most_rows: from here on the rows that it changes are counted.';

-- definer: the gates run as the owner, who has written them.
create or replace function pgtick.check_rules(p_task text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_rules pgtick.task_rules;
  v_gate pgtick.gates;
  v_rows jsonb;
  v_changed bigint;
begin
  select * into v_rules from pgtick.task_rules as r where r.task = p_task;
  if not found then return; end if;
  if v_rules.most_rows is not null then
    v_changed := pgtick.rows_changed() - nullif(current_setting('pgtick.rows_before', true), '')::bigint;
    if v_changed is null then
      raise exception using errcode = 'TK023', message = format('task %s may change at most %s rows, and its transaction does not count them', p_task, v_rules.most_rows),
        hint = 'Call pgtick.watch_rows() at the beginning of the transaction.';
    end if;
    if v_changed > v_rules.most_rows then
      raise exception using errcode = 'TK023', message = format('task %s changed %s rows in one transaction, and may change %s', p_task, v_changed, v_rules.most_rows),
        hint = 'Nothing of it was kept. See whether the task does what it should; then retry the job, or allow more with pgtick.set_gates.';
    end if;
  end if;
  for v_gate in select g.* from pgtick.gates as g where g.name = any (v_rules.gates) order by g.name loop
    execute format(E'select pg_catalog.jsonb_agg(x.r) from (select pg_catalog.to_jsonb(q) as r from (%s\n) as q limit 20) as x', v_gate.query) into v_rows;
    if v_rows is not null then
      raise exception using errcode = 'TK022', message = format('gate "%s" does not let task %s commit: %s', v_gate.name, p_task, left(v_rows::text, 1500)),
        detail = left(v_rows::text, 6000), hint = 'Nothing of the transaction was kept. The rows are what the gate''s query found at its end.';
    end if;
  end loop;
end
$$;
comment on function pgtick.check_rules(text) is 'In a task''s transaction, when its effects are written: raise TK022 where a gate of the task returns rows, TK023 where it has changed too many. check_claim and finish_in_transaction call it.';

-- definer: the runner may pause no schedule but for this.
create or replace function pgtick.gate_refused(p_job_id bigint, p_fence bigint, p_why text)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_name text;
begin
  select s.name into v_name
  from pgtick.live_jobs as j
  join pgtick.schedule_defs as s on s.id = j.schedule_id and s.removed_at is null and s.paused_at is null
  where j.id = p_job_id and j.fence = p_fence and j.runner_id is not null and exists (select from pgtick.task_rules as r where r.task = j.task);
  if not found then return null; end if;
  perform pgtick.pause_schedule(v_name);
  perform pgtick.note_action('gate_refused', v_name, jsonb_build_object('job', p_job_id, 'why', left(p_why, 2000)));
  return v_name;
end
$$;
comment on function pgtick.gate_refused(bigint, bigint, text) is 'Pause the schedule of a claimed job that TK022 or TK023 has refused, and return its name; null where it has none. pgtick.audit keeps why.';

create or replace function pgtick.counted_tasks(p_runner_id bigint)
returns setof text
language sql stable parallel safe security definer
set search_path = ''
as $$
  select t.task from pgtick.runner_leases as r cross join unnest(r.tasks) as t(task)
  where r.id = p_runner_id and exists (select from pgtick.task_rules as x where x.task = t.task and x.most_rows is not null)
$$;
comment on function pgtick.counted_tasks(bigint) is 'Those of a runner''s tasks whose transactions begin with watch_rows(). Read it again when channel pgtick_limits says so, and every minute.';
$part$, true);
end
$pgtick$;

-- sql/45_requests.sql
do $pgtick$
begin
  perform set_config('pgtick.part_39', $part$
-- Jobs that end users ask for: a row in pgtick.requests becomes a job, where the owner has allowed the task, and within its quota.
-- The right to insert is on task, args and run_at alone, owner_id is the JWT's subject, and the policy checks only that; all else is
-- decided by triggers that work as the owner, since an end user may read neither the rules nor the jobs.

-- What each of the refused tasks would give away. A null is a task that may be allowed.
create or replace function pgtick.not_for_users(p_task text)
returns text
language sql immutable parallel safe
set search_path = ''
as $$
  select case
    when p_task = 'sql' then 'its args name the function that is called: every user could call every allowed function'
    when p_task = 'http' then 'its args name the URL that is called, and the secrets that go with it: every user could have them sent anywhere'
    when p_task like 'credits.%' then 'it works on the accounts of all users'
  end
$$;
comment on function pgtick.not_for_users(text) is 'Why end users may not ask for a task, whatever the owner says; null when they may be allowed to.';

create or replace function pgtick.allow_task(p_task text, p_per_owner_quota integer default 10, p_period interval default '1 hour', p_queue text default 'default',
  p_priority integer default 5, p_max_attempts integer default 20, p_timeout interval default '5 minutes')
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_seconds constant numeric := extract(epoch from p_period);   -- a month is 30 days here, on every day of the year
begin
  perform pgtick.refuse_job(p_task, '{}', p_queue, p_priority, p_max_attempts, p_timeout);
  if pgtick.not_for_users(p_task) is not null then
    perform pgtick.invalid('task', p_task, format('end users may never ask for it, since %s', pgtick.not_for_users(p_task)),
      'Allow a task of your own that takes only what a user may choose, or enqueue this one in a trigger of a table of yours.');
  end if;
  if (p_per_owner_quota between 1 and 1000000) is not true then
    perform pgtick.invalid('per_owner_quota', p_per_owner_quota::text, 'it goes from 1 to 1000000', 'To allow none: pgtick.disallow_task.');
  end if;
  if (v_seconds between 1 and 31 * 86400) is not true then
    perform pgtick.invalid('period', p_period::text, 'it goes from 1 second to 31 days');
  end if;
  insert into pgtick.allowed_tasks as a (task, quota, period, queue, priority, max_attempts, timeout, allowed_at, allowed_by)
  values (p_task, p_per_owner_quota, make_interval(secs => v_seconds::double precision), p_queue, p_priority, p_max_attempts, p_timeout, pgtick.now(), pgtick.caller())
  on conflict (task) do update set quota = excluded.quota, period = excluded.period, queue = excluded.queue, priority = excluded.priority,
    max_attempts = excluded.max_attempts, timeout = excluded.timeout, allowed_at = excluded.allowed_at, allowed_by = excluded.allowed_by;
  perform pgtick.note_action('allow_task', p_task, jsonb_build_object('quota', p_per_owner_quota, 'period', p_period, 'queue', p_queue, 'priority', p_priority,
    'max_attempts', p_max_attempts, 'timeout', p_timeout));
end
$$;
comment on function pgtick.allow_task(text, integer, interval, text, integer, integer, interval) is
  'Let end users (the role authenticated) ask for jobs of a task by inserting into pgtick.requests. p_per_owner_quota: how many each user may ask for within p_period, 1 to 1000000; p_period: 1 second to 31 days. The others are the job''s, as in pgtick.enqueue: a user chooses none of them. Again replaces what was said before. For the owner of the schema. Raises TK000, also for sql, http and credits.*, which are for no end user.';

create or replace function pgtick.disallow_task(p_task text)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  delete from pgtick.allowed_tasks as a where a.task = p_task;
  if not found then return false; end if;
  perform pgtick.note_action('disallow_task', p_task);
  return true;
end
$$;
comment on function pgtick.disallow_task(text) is 'Let no end user ask for a task any more; jobs that were asked for stay. False when none could. For the owner of the schema.';

create or replace function pgtick.refuse_requester(p_why text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK024', message = format('a request needs a signed-in user: %s', p_why),
    hint = 'Sign in and send the user''s token: its subject (sub) is the UUID of the user. A server enqueues with pgtick.enqueue instead.';
end
$$;
comment on function pgtick.refuse_requester(text) is 'Raise TK024.';

-- As pgtick.user_id(), but it never answers with null or an error that says nothing: the default comes before the policy, which would say
-- only that it is violated.
create or replace function pgtick.requester()
returns uuid
language plpgsql stable parallel unsafe
set search_path = ''
as $$
declare
  v_sub text;
begin
  begin
    v_sub := nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';
  exception when data_exception or program_limit_exceeded then
    perform pgtick.refuse_requester('request.jwt.claims is not JSON');
  end;
  if v_sub is null then perform pgtick.refuse_requester('the token names none'); end if;
  return v_sub::uuid;
exception when invalid_text_representation then
  perform pgtick.refuse_requester(format('"%s", the subject of the token, is no UUID', left(v_sub, 100)));
end
$$;
comment on function pgtick.requester() is 'The end user who asks for a job: the JWT''s subject. Raises TK024 where there is none.';

-- The other two are set by the trigger below, whatever is said; their defaults tell generated types that nobody need say it.
alter table pgtick.requests alter column owner_id set default pgtick.requester(), alter column created_at set default pgtick.now(), alter column job_id set default 0;

create or replace function pgtick.rule_for_users(p_task text)
returns pgtick.allowed_tasks
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_rule pgtick.allowed_tasks;
begin
  select * into v_rule from pgtick.allowed_tasks as a where a.task = p_task;
  if not found or pgtick.not_for_users(p_task) is not null then
    raise exception using errcode = 'TK025', message = format('task "%s" is not one that end users may ask for', p_task),
      hint = format('The owner of the database may allow it: select pgtick.allow_task(%L);', p_task);
  end if;
  return v_rule;
end
$$;
comment on function pgtick.rule_for_users(text) is 'What the owner has said of a task that end users may ask for. Raises TK025 where that is nothing.';

create or replace function pgtick.next_place(p_owner_id uuid, p_rule pgtick.allowed_tasks, p_now timestamptz)
returns bigint
language plpgsql volatile parallel safe
set search_path = ''
as $$
declare
  v_place bigint;
  v_free_at timestamptz;
begin
  select coalesce(max(r.place), 0) + 1 into v_place from pgtick.requests as r where r.owner_id = p_owner_id and r.task = p_rule.task;
  select r.created_at + p_rule.period into v_free_at
  from pgtick.requests as r
  where r.owner_id = p_owner_id and r.task = p_rule.task and r.place = v_place - p_rule.quota;
  if v_free_at > p_now then
    raise exception using errcode = 'TK026',
      message = format('the quota for task "%s" is used up: %s in %s', p_rule.task, p_rule.quota, pgtick.duration_text(p_rule.period)),
      detail = jsonb_build_object('quota', p_rule.quota, 'period_seconds', extract(epoch from p_rule.period)::bigint, 'free_at', v_free_at)::text,
      hint = format('The next one is free at %s.', pgtick.utc(v_free_at));
  end if;
  return v_place;
end
$$;
comment on function pgtick.next_place(uuid, pgtick.allowed_tasks, timestamptz) is 'The place of a user''s next request for a task. Raises TK026, with the time at which one is free in details, when the quota is used up.';

-- Before the row is written: what it may hold, and what is sure to be refused, so that whoever goes on asking leaves no dead rows behind. The
-- job's id is drawn here, so that the insert can return it.
-- definer: an end user may read no rule, and draw no number from the jobs' sequence.
create or replace function pgtick.check_request()
returns trigger
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if new.owner_id is null then perform pgtick.refuse_requester('owner_id is null'); end if;
  perform pgtick.refuse_job(new.task, new.args, 'default', 5, 1, '1 second');
  if new.run_at is not null then perform pgtick.refuse_run_at(new.run_at); end if;
  new.created_at := pgtick.now();
  if new.run_at > new.created_at + interval '1 year' then
    perform pgtick.invalid('run_at', new.run_at::text, 'it is at most a year ahead', 'Leave it out for now.');
  end if;
  perform pgtick.next_place(new.owner_id, pgtick.rule_for_users(new.task), new.created_at);
  new.job_id := nextval('pgtick.live_jobs_id_seq');
  new.place := null;
  return new;
end
$$;
comment on function pgtick.check_request() is 'Trigger of pgtick.requests, before each row: raise TK000, TK024, TK025 or TK026 when no job can come of it, and give it the id of its job.';

-- What counts is decided here, under the lock, in statements that see what was committed while it was waited for: the rule, the clock, the
-- place. Only names of allowed tasks come as far as the lock: others could fill the table of locks, which is the whole server's. Outside
-- READ COMMITTED the statements see no more than the snapshot; then two take the same place, and the constraint stops the second.
create or replace function pgtick.take_request(p_request pgtick.requests)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_rule pgtick.allowed_tasks;
  v_now timestamptz;
  v_place bigint;
begin
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(format('pgtick.requests %s %s', p_request.owner_id, p_request.task), 0));
  v_rule := pgtick.rule_for_users(p_request.task);
  v_now := pgtick.now();
  v_place := pgtick.next_place(p_request.owner_id, v_rule, v_now);
  begin
    update pgtick.requests as r set place = v_place, created_at = v_now where r.id = p_request.id;
  exception when unique_violation then
    raise exception using errcode = '40001', message = format('another request of this user for task "%s" was made meanwhile', p_request.task),
      hint = 'Try the transaction again; at READ COMMITTED this does not happen.';
  end;
  perform pgtick.enqueue_tied((p_request.job_id, p_request.task, v_rule.queue, v_rule.priority, coalesce(p_request.run_at, v_now), v_rule.max_attempts, v_rule.timeout,
    p_request.args, p_request.owner_id, null, p_request.owner_id::text, null, 'stop', null, 'any', null, null, null, null, null, null)::pgtick.wish, v_now);
end
$$;
comment on function pgtick.take_request(pgtick.requests) is
  'Make a request that has been written a job of its user''s, with the queue, priority, attempts and timeout that allow_task gave and the user''s id as its limit_key. Raises TK025 (no such task for end users) and TK026 (quota used up).';

-- After the statement, so that the rows are those that stay, and the locks of several tasks are taken in one order.
-- definer: an end user may read no rule and add no job.
create or replace function pgtick.take_requests()
returns trigger
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_request pgtick.requests;
begin
  for v_request in select n.* from inserted as n order by n.owner_id, n.task, n.id loop
    perform pgtick.take_request(v_request);
  end loop;
  return null;
end
$$;
comment on function pgtick.take_requests() is 'Trigger of pgtick.requests, after each insert: make jobs of all its rows, or of none.';

create or replace trigger requests_checked before insert on pgtick.requests
  for each row execute function pgtick.check_request();
create or replace trigger requests_taken after insert on pgtick.requests
  referencing new table as inserted for each statement execute function pgtick.take_requests();

-- Of one call of maintain() at most so many, so that it does not become a long transaction; the next comes within the hour.
create or replace function pgtick.prune_requests(p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_before constant timestamptz := p_now - greatest(interval '7 days', (select max(a.period) from pgtick.allowed_tasks as a));
begin
  delete from pgtick.requests as r
  where r.id = any (array(select o.id from pgtick.requests as o where o.created_at < v_before order by o.created_at limit 100000));
end
$$;
comment on function pgtick.prune_requests(timestamptz) is 'Delete requests that no quota counts any more and that are older than seven days, 100,000 at most, the oldest first.';
$part$, true);
end
$pgtick$;

-- sql/46_realtime.sql
do $pgtick$
begin
  perform set_config('pgtick.part_40', $part$
-- Realtime: the owner of a job hears what becomes of it, on a private topic of their own, where the database has Supabase's realtime.send.
-- Elsewhere nothing happens: the triggers are there only where that function is (sql/99_realtime.sql).
--
-- Triggers, not calls in the functions that change jobs, so that no change is missed, and nothing is paid for where there is no Realtime.
-- A message must neither fail nor hold up what it tells of. So whatever goes wrong ends the messages of its transaction, and nothing else; a
-- lock is waited for once, for a tenth of a second; and what happens to many jobs at once is not told job by job.

-- to_regprocedure raises where the schema may not be used, so that is asked first. migrations/up.go asks the same of the owner.
create or replace function pgtick.realtime_found()
returns boolean
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return coalesce(case when pg_catalog.has_schema_privilege(to_regnamespace('realtime')::oid, 'usage')
    then pg_catalog.has_function_privilege(to_regprocedure('realtime.send(jsonb, text, text, boolean)')::oid, 'execute') end, false);
end
$$;
comment on function pgtick.realtime_found() is 'Whether this database has realtime.send and this role may call it.';

-- definer: it is the owner's rights that count, whoever asks.
create or replace function pgtick.realtime_state()
returns text
language plpgsql stable parallel safe security definer
set search_path = ''
as $$
begin
  if not pgtick.realtime_found() then return format('off: there is no realtime.send that %s may call', current_user); end if;
  if exists (select from pgtick.settings as s where s.name = 'realtime' and s.value = 'false') then return 'off: by pgtick.set_realtime'; end if;
  if not exists (select from pg_catalog.pg_trigger as t where t.tgrelid = 'pgtick.live_jobs'::regclass and t.tgname = 'announce_added') then
    return 'off: run pgtick migrate, realtime.send came after it';
  end if;
  if to_regclass('realtime.messages') is not null then   -- send() writes there with our rights, and only warns where it may not
    if not pg_catalog.has_table_privilege(to_regclass('realtime.messages')::oid, 'insert') then
      return format('off: %s may not insert into realtime.messages', current_user);
    end if;
    if pg_catalog.row_security_active(to_regclass('realtime.messages')::oid) then
      return format('on, where a policy of realtime.messages lets %s insert', current_user);
    end if;
  end if;
  return 'on';
end
$$;
comment on function pgtick.realtime_state() is 'Whether owners of jobs are told by Realtime what becomes of them: on, or off and why.';

-- definer: service_role may set it, and writes no table.
create or replace function pgtick.set_realtime(p_on boolean)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_on is null then perform pgtick.invalid('on', null, 'it is true or false'); end if;
  insert into pgtick.settings as s (name, value, set_at, set_by) values ('realtime', to_jsonb(p_on), pgtick.now(), pgtick.caller())
  on conflict (name) do update set value = excluded.value, set_at = excluded.set_at, set_by = excluded.set_by;
  perform pgtick.note_action('set_realtime', 'realtime', to_jsonb(p_on));
  return pgtick.realtime_state();
end
$$;
comment on function pgtick.set_realtime(boolean) is
  'Tell owners of jobs by Realtime what becomes of them (the default, where the database has realtime.send), or no more. Returns pgtick.realtime_state(). Raises TK000.';

-- What this transaction has told is in a setting of its own, so that a rollback, also to a savepoint, takes it back with the messages: the
-- owner's id and a comma for each message, or "off".
create or replace function pgtick.next_message(p_owner_id uuid)
returns text
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_told constant text := coalesce(current_setting('pgtick.told', true), '');
begin
  if v_told = 'off' or octet_length(v_told) >= 1000 * 37 then return null; end if;
  if v_told = '' and (not pgtick.realtime_found() or exists (select from pgtick.settings as s where s.name = 'realtime' and s.value = 'false')) then
    perform set_config('pgtick.told', 'off', true);
    return null;
  end if;
  if octet_length(v_told) < 20 * 37 then return 'job'; end if;
  return case sign(octet_length(v_told) - octet_length(replace(v_told, p_owner_id::text, '')) - 20 * 36) when -1 then 'job' when 0 then 'jobs_changed' end;
end
$$;
comment on function pgtick.next_message(uuid) is
  'Which message this owner gets next in this transaction: job for the first 20, then once jobs_changed (look for yourself); null for none: no Realtime, it failed, or there were 1,000 messages.';

-- realtime.send makes warnings of its own errors; the caller of pgtick can do nothing about them. One that was slow had better be the last.
create or replace function pgtick.tell_owner(p_owner_id uuid, p_event text, p_payload jsonb)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set client_min_messages = error
set lock_timeout = '100ms'
as $$
declare
  v_began constant timestamptz := clock_timestamp();
begin
  perform realtime.send(p_payload, p_event, 'pgtick:' || p_owner_id, true);
  perform set_config('pgtick.told', case when clock_timestamp() < v_began + interval '100 ms'
    then coalesce(current_setting('pgtick.told', true), '') || p_owner_id || ',' else 'off' end, true);
exception when others then
  raise log 'pgtick: realtime.send: % (%)', sqlerrm, sqlstate;
  perform set_config('pgtick.told', 'off', true);
end
$$;
comment on function pgtick.tell_owner(uuid, text, jsonb) is 'Send a message to the owner''s private topic, pgtick:<owner_id>. Never fails.';

-- A row of my_jobs and no more: no arguments, no result, no error.
create or replace function pgtick.job_message(p_job pgtick.live_jobs)
returns jsonb
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_note pgtick.job_notes;
begin
  if p_job.attempt > 0 then select * into v_note from pgtick.job_notes as n where n.job_id = p_job.id; end if;
  return jsonb_build_object('id', p_job.id, 'task', p_job.task, 'state', case when p_job.runner_id is null then 'ready' else 'running' end,
    'progress', v_note.done, 'note', v_note.note, 'created_at', p_job.created_at, 'started_at', p_job.started_at, 'finished_at', null);
end
$$;
comment on function pgtick.job_message(pgtick.live_jobs) is 'A live job''s row of my_jobs, as JSON.';

create or replace function pgtick.announce_live_job()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_event constant text := pgtick.next_message(new.owner_id);
begin
  if v_event is null then return null; end if;
  perform pgtick.tell_owner(new.owner_id, v_event, case when v_event = 'job' then pgtick.job_message(new) else '{}' end);
  return null;
end
$$;
comment on function pgtick.announce_live_job() is 'Trigger: tell the owner of a job that it waits, or runs.';

create or replace function pgtick.announce_ended_job()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_event constant text := pgtick.next_message(new.owner_id);
begin
  if v_event is null then return null; end if;
  perform pgtick.tell_owner(new.owner_id, v_event, case when v_event = 'job'
    then jsonb_build_object('id', new.id, 'task', new.task, 'state', new.state, 'progress', new.done, 'note', new.note,
      'created_at', new.created_at, 'started_at', new.started_at, 'finished_at', new.finished_at)
    else '{}' end);
  return null;
end
$$;
comment on function pgtick.announce_ended_job() is 'Trigger: tell the owner of a job that it has ended.';

-- progress() has just written the job's row of notes, so to write it again waits for nobody.
create or replace function pgtick.announce_progress(p_job_id bigint, p_owner_id uuid, p_now timestamptz)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
  if pgtick.next_message(p_owner_id) is distinct from 'job' then return; end if;
  update pgtick.job_notes as n set announced_at = p_now
  where n.job_id = p_job_id and (n.announced_at > p_now - interval '1 second' and n.announced_at <= p_now) is not true;
  if not found then return; end if;
  perform pgtick.tell_owner(p_owner_id, 'job', pgtick.job_message(j)) from pgtick.live_jobs as j where j.id = p_job_id;
end
$$;
comment on function pgtick.announce_progress(bigint, uuid, timestamptz) is 'Tell the owner of a running job how far it is, unless they were told within the last second.';

create or replace function pgtick.place_realtime()
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_found constant boolean := pgtick.realtime_found();
  v_there constant boolean := exists (select from pg_catalog.pg_trigger as t where t.tgrelid = 'pgtick.live_jobs'::regclass and t.tgname = 'announce_added');
begin
  if v_found and not v_there then
    create trigger announce_added after insert on pgtick.live_jobs for each row when (new.owner_id is not null) execute function pgtick.announce_live_job();
    create trigger announce_moved after update of runner_id on pgtick.live_jobs for each row
      when (new.owner_id is not null and new.runner_id is distinct from old.runner_id) execute function pgtick.announce_live_job();
    create trigger announce_ended after insert on pgtick.history for each row when (new.owner_id is not null) execute function pgtick.announce_ended_job();
  elsif v_there and not v_found then
    drop trigger announce_added on pgtick.live_jobs;
    drop trigger announce_moved on pgtick.live_jobs;
    drop trigger announce_ended on pgtick.history;
  end if;
end
$$;
comment on function pgtick.place_realtime() is 'For migrate: put the triggers of Realtime in place where realtime.send is to be had, and take them out where it is not any more.';
$part$, true);
end
$pgtick$;

-- sql/47_bench.sql
do $pgtick$
begin
  perform set_config('pgtick.part_41', $part$
-- What "pgtick bench" leaves behind, and how it is removed.

-- Nothing is granted: who measures removes rows, and so is the schema's owner. By task and queue, so that no mistyped name meets real jobs.
create or replace function pgtick.forget_bench(p_queue text)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_jobs bigint;
  v_ended bigint;
begin
  if p_queue is null or not starts_with(p_queue, 'pgtick_bench') then
    perform pgtick.invalid('queue', p_queue, 'a queue of pgtick bench begins with pgtick_bench');
  end if;
  delete from pgtick.runner_leases as r where p_queue = any (r.queues) and r.name = 'pgtick bench' and (r.ended_at is not null or r.lease_until <= pgtick.now());
  delete from pgtick.live_jobs as j where j.task = 'pgtick.bench' and j.queue = p_queue and j.priority between 0 and 9
    and not exists (select from pgtick.runner_leases as r where r.id = j.runner_id);
  get diagnostics v_jobs = row_count;
  delete from pgtick.history as h where h.task = 'pgtick.bench' and h.queue = p_queue;
  get diagnostics v_ended = row_count;
  return v_jobs + v_ended;
end
$$;
comment on function pgtick.forget_bench(text) is
  'Remove the jobs of a queue of pgtick bench, live and ended, and its runners that have left or whose lease has run out; returns how many jobs. For pgtick bench, as the owner. Raises TK000.';
$part$, true);
end
$pgtick$;

-- sql/48_counts.sql
do $pgtick$
begin
  perform set_config('pgtick.part_42', $part$
-- What runners have finished, for charts of all of them together. Counting the rows of the history instead would cost more the more there is to see.

create or replace function pgtick.add_counts(p_one integer[], p_other integer[])
returns integer[]
language sql immutable parallel safe
set search_path = ''
as $$
  select coalesce(array_agg(least(coalesce(b.one, 0)::bigint + coalesce(b.other, 0), 2147483647)::integer order by b.place), '{}')
  from unnest(p_one, p_other) with ordinality as b(one, other, place)
$$;
comment on function pgtick.add_counts(integer[], integer[]) is 'Add up two lists of numbers, place by place. A sum stops at the largest integer: one that raised would refuse the reports of all runners until its stretch of time is over.';

create or replace function pgtick.refuse_counts(p_field text, p_counts integer[], p_attempts bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
declare
  v_sum bigint;
begin
  if p_counts is null then return; end if;
  if coalesce(array_ndims(p_counts), 1) > 1 or cardinality(p_counts) > 82 or num_nulls(variadic p_counts) > 0 or 0 > any (p_counts) then
    perform pgtick.invalid(p_field, p_counts::text, 'a list of at most 82 numbers, none of them null or below 0');
  end if;
  select coalesce(sum(c.n), 0) into v_sum from unnest(p_counts) as c(n);
  if v_sum <> p_attempts then
    perform pgtick.invalid(p_field, p_counts::text, format('its numbers make %s, and the attempts are %s', v_sum, p_attempts), 'Count each attempt once, or leave the list out.');
  end if;
end
$$;
comment on function pgtick.refuse_counts(text, integer[], bigint) is 'Raise TK000 unless this may be how long so many attempts waited, or ran.';

-- A report that is sent again, since its answer was lost, is known by its number. Locks: the runner's row, then the spans', the shortest first;
-- all runners add to the same rows, and each for a moment.
-- definer: as register.
create or replace function pgtick.count_attempts(p_runner_id bigint, p_report bigint, p_done integer, p_errors integer default 0, p_failed integer default 0,
  p_waited integer[] default null, p_ran integer[] default null, p_ago interval default '0')
returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set lock_timeout = '1s'
as $$
declare
  v_at timestamptz;
  v_attempts bigint;
begin
  if p_report is null or p_report < 1 then perform pgtick.invalid('report', p_report::text, 'a number from 1 on, which rises with each report of a runner'); end if;
  if p_done is null or p_done < 0 then perform pgtick.invalid('done', p_done::text, 'at least 0'); end if;
  if p_errors is null or p_errors < 0 then perform pgtick.invalid('errors', p_errors::text, 'at least 0'); end if;
  if p_failed is null or p_failed < 0 then perform pgtick.invalid('failed', p_failed::text, 'at least 0'); end if;
  if p_ago is null or date_part('epoch', p_ago) not between 0 and 3600 then perform pgtick.invalid('ago', p_ago::text, 'it goes from 0 to 1 hour'); end if;
  v_attempts := p_done::bigint + p_errors + p_failed;
  perform pgtick.refuse_counts('waited', p_waited, v_attempts);
  perform pgtick.refuse_counts('ran', p_ran, v_attempts);
  update pgtick.runner_leases as r set counted = p_report where r.id = p_runner_id and r.counted < p_report;
  if not found then
    if not exists (select from pgtick.runner_leases as r where r.id = p_runner_id) then perform pgtick.refuse_runner(p_runner_id); end if;
    return false;
  end if;
  v_at := pgtick.now() - p_ago;
  insert into pgtick.attempt_counts as c (span, at, done, errors, failed, waited, ran)
  select s.span, date_bin(s.span, v_at, '2000-01-01 00:00:00+00'), p_done, p_errors, p_failed, coalesce(p_waited, '{}'), coalesce(p_ran, '{}')
  from unnest('{1 minute,15 minutes,2 hours}'::interval[]) as s(span)
  order by s.span
  on conflict (span, at) do update
  set done = c.done + excluded.done, errors = c.errors + excluded.errors, failed = c.failed + excluded.failed,
    waited = pgtick.add_counts(c.waited, excluded.waited), ran = pgtick.add_counts(c.ran, excluded.ran);
  return true;
end
$$;
comment on function pgtick.count_attempts(bigint, bigint, integer, integer, integer, integer[], integer[], interval) is
  'Say how many attempts of this runner have ended since its last report: done, errors (to be tried again), failed for good; and of how many each waited and ran how long (as pgtick.attempt_counts has it; null = not known). p_report rises with each report: one with a number that is not above the last one''s was taken before, counts for nothing and returns false. p_ago: how long ago they ended, 0 to 1 hour. Also for a runner that has left or is dead. Raises TK000, TK002.';

create or replace function pgtick.drop_counts(p_now timestamptz)
returns void
language sql volatile parallel unsafe
set search_path = ''
as $$
  delete from pgtick.attempt_counts as c using (values (interval '1 minute', interval '3 hours'), (interval '15 minutes', interval '2 days'), (interval '2 hours', interval '15 days')) as k(span, keep)
  where c.span = k.span and c.at < p_now - k.keep
$$;
comment on function pgtick.drop_counts(timestamptz) is 'Delete of pgtick.attempt_counts what no chart shows any more.';
$part$, true);
end
$pgtick$;

-- sql/50_credits_base.sql
do $pgtick$
begin
  perform set_config('pgtick.part_43', $part$
-- What the other credit files stand on: refusals, digests and what happened before under a key.
--
-- Three digests, all SHA-256 over record_send(row(…)): the number of fields, then for each its type, its length (-1 for null) and its
-- bytes. So no two different rows give the same input. Text goes in as bytea, by convert_to(…, 'UTF8'): text itself would be sent in
-- the client's encoding.
--   text_hash    = row(salt, description, reference_id, notes), or null when all three texts are null
--   request_hash = the salt, then row(operation, user, amount, …) of the request
--   hash         = the hash of the entry before ('' for the first), then row(id, user_id, seq, type, amount, held_amount, balance_after,
--                  held_after, hold_id, related_id, period, created_at, final_at, endpoint, idempotency_key, request_hash, text_hash)
-- Where every microsecond counts the last formula is written out (charge, next_entry, what books many rows, the trigger, violations), since a
-- function with "set search_path" can not be inlined. They can not drift apart: the trigger computes each hash once more, and refuses
-- what differs.

create or replace function credits.invalid(p_field text, p_value text, p_rule text, p_hint text default null)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK100',
    message = format('%s %s is refused: %s', p_field, coalesce('"' || left(p_value, 100) || '"', 'null'), p_rule),
    hint = coalesce(nullif(btrim(p_hint), ''), format('Give %s another value.', p_field));
end
$$;
comment on function credits.invalid(text, text, text, text) is 'Raise TK100 for a value that is not allowed.';

create or replace function credits.check_amount(p_amount bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_amount is null or p_amount <= 0 then
    perform credits.invalid('amount', p_amount::text, 'an amount is a whole number of credits, 1 or more', 'Give a positive amount; the operation says which way it goes.');
  end if;
end
$$;
comment on function credits.check_amount(bigint) is 'Raise TK100 unless p_amount is 1 or more.';

create or replace function credits.check_request(
  p_user_id uuid, p_idempotency_key text, p_description text default null, p_reference_id text default null, p_endpoint text default null)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_user_id is null then
    perform credits.invalid('user_id', null, 'an operation names its user');
  end if;
  if p_idempotency_key is null or length(p_idempotency_key) not between 1 and 255 then
    perform credits.invalid('idempotency_key', p_idempotency_key, 'a key has 1 to 255 characters',
      'Give each request a key of its own, such as a UUID, and the same key when it is sent again.');
  end if;
  if length(p_description) > 4000 then
    perform credits.invalid('description', p_description, 'at most 4000 characters');
  end if;
  if length(p_reference_id) > 255 then
    perform credits.invalid('reference_id', p_reference_id, 'at most 255 characters');
  end if;
  if length(p_endpoint) not between 1 and 255 or p_endpoint ~ '[[:cntrl:]]' then
    perform credits.invalid('endpoint', p_endpoint, '1 to 255 characters, none of them a control character');
  end if;
end
$$;
comment on function credits.check_request(uuid, text, text, text, text) is
  'Raise TK100 unless the user is given, the key has 1 to 255 characters, and the texts are null or within 4000, 255 and 255 characters.';

create or replace function credits.unknown_account(p_user_id uuid)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK102', message = format('user %s has no account', p_user_id), hint = 'Call credits.open_account first.';
end
$$;
comment on function credits.unknown_account(uuid) is 'Raise TK102.';

create or replace function credits.too_few(p_needed bigint, p_available bigint)
returns text
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  return format('not enough credits: %s needed, %s available', p_needed, p_available);
end
$$;
comment on function credits.too_few(bigint, bigint) is 'What is said when credits do not suffice.';

create or replace function credits.insufficient(p_needed bigint, p_available bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK101', message = credits.too_few(p_needed, p_available),
    detail = pg_catalog.json_build_object('needed', p_needed, 'available', p_available)::text,
    hint = 'Grant credits to the account, or ask for less.';
end
$$;
comment on function credits.insufficient(bigint, bigint) is 'Raise TK101, with needed and available as JSON in the detail.';

create or replace function credits.text_hash(p_salt bytea, p_description text, p_reference_id text, p_notes text)
returns bytea
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  if p_description is null and p_reference_id is null and p_notes is null then
    return null;
  end if;
  return sha256(record_send(row(p_salt, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8'), convert_to(p_notes, 'UTF8'))));
end
$$;
comment on function credits.text_hash(bytea, text, text, text) is 'The digest by which the chain covers an entry''s free text; null when there is none.';

-- The account must be locked: only then can nobody be booking under the same key at this moment.
create or replace function credits.replayed(p_user_id uuid, p_idempotency_key text, p_request bytea)
returns credits.transactions
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_entry credits.transactions;
begin
  select * into v_entry from credits.transactions as t where uuid_send(t.user_id) = uuid_send(p_user_id) and t.idempotency_key = p_idempotency_key;
  if v_entry.request_hash <> sha256(v_entry.salt || p_request) then
    raise exception using errcode = 'TK105',
      message = format('idempotency_key "%s" was used before for something else (transaction %s)', p_idempotency_key, v_entry.id),
      hint = 'Use a new key for a new request, and repeat a request word for word.';
  end if;
  return v_entry;
end
$$;
comment on function credits.replayed(uuid, text, bytea) is
  'The entry that this user booked before under this key, or null. p_request: record_send(row(operation, …)). Raises TK105 when it was for something else.';

-- Where many are booked at once: called for each entry in the window's order, account by account, with what the last call gave kept in a setting of
-- the transaction. An aggregate would keep it by itself, but can set no search_path, which Supabase's adviser would have to be told about each time.
-- p_is_first is row_number() over that window = 1: it makes PostgreSQL call in this order, and a value that somebody else has set is never looked at.

create or replace function credits.spend_next(p_is_first boolean, p_available bigint, p_amount bigint, p_held bigint)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_left bigint := p_available;
begin
  if not p_is_first then
    v_left := current_setting('credits.left')::bigint;
  end if;
  if p_amount <= v_left and (p_amount >= 0 or -p_amount <= 9223372036854775807 - p_held - v_left) then
    v_left := v_left - p_amount;
  end if;
  perform set_config('credits.left', v_left::text, true);
  return v_left;
end
$$;
comment on function credits.spend_next(boolean, bigint, bigint, bigint) is
  'In a window''s order: what is left of the first row''s p_available after each p_amount that fits (a negative one adds, as far as balance, p_held included, can hold it); one that does not fit changes nothing.';

create or replace function credits.chain_next(p_is_first boolean, p_head bytea, p_entry bytea)
returns bytea
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_hash bytea := p_head;
begin
  if not p_is_first then
    v_hash := current_setting('credits.hash')::bytea;
  end if;
  v_hash := sha256(v_hash || p_entry);
  perform set_config('credits.hash', v_hash::text, true);
  return v_hash;
end
$$;
comment on function credits.chain_next(boolean, bytea, bytea) is
  'In a window''s order: the hash of each entry (see above), from that of the account''s head and record_send() of the entries.';
$part$, true);
end
$pgtick$;

-- sql/51_credits_guards.sql
do $pgtick$
begin
  perform set_config('pgtick.part_44', $part$
-- What no role but the owner can get around, whatever it was granted on the tables: an entry is lawful and continues its account's
-- chain, the account is its last entry, a hold agrees with its entries, and nothing of it is changed or deleted afterwards.
-- Triggers that read without locks: entries never change, and whoever books holds the account's row. They run after what they judge is written, so
-- that they judge what stays, and no other trigger comes between. Only who owns a table, or is superuser, can keep them from running.
-- They run as the caller (definer would cost more) and see what the caller sees: rows hidden from it make them refuse, never pass.

create or replace function credits.refuse()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK110', message = format('%s on %s.%s is refused: %s', lower(tg_op), tg_table_schema, tg_table_name, tg_argv[0]),
    hint = 'Book a correcting entry instead.';
end
$$;
comment on function credits.refuse() is 'Trigger that raises TK110; its argument is the rule.';

-- One change of an entry that has ended is lawful: the owner's redact() blanks its texts, once.
create or replace function credits.refuse_change()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_blank credits.transactions := old;
begin
  v_blank.description := null;
  v_blank.reference_id := null;
  v_blank.notes := null;
  v_blank.redacted_at := new.redacted_at;
  if old.redacted_at is null and new.redacted_at is not null and old.status <> 'PENDING' and new is not distinct from v_blank
    and current_user = (select pg_catalog.pg_get_userbyid(c.relowner) from pg_catalog.pg_class as c where c.oid = tg_relid)
  then
    return null;
  end if;
  raise exception using errcode = 'TK110',
    message = 'update on credits.transactions is refused: an entry changes once, from PENDING to COMPLETED or FAILED, is marked as synced once, and redacted once',
    hint = 'Book a correcting entry instead; call credits.redact to blank texts.';
end
$$;
comment on function credits.refuse_change() is 'Trigger on a change that is neither the end of a PENDING entry nor the sync mark: raises TK110 unless it is that of credits.redact.';

-- What is wrong with an entry by itself, or null. One expression: each further one costs every charge a microsecond or two.
create or replace function credits.unlawful(e credits.transactions)
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return case
    when (case e.status
        when 'COMPLETED' then num_nonnulls(e.seq, e.balance_after, e.held_after, e.hash, e.final_at) = 5
        when 'PENDING' then num_nonnulls(e.seq, e.balance_after, e.held_after, e.hash, e.final_at) = 0 and not e.synced_to_supabase
        when 'FAILED' then num_nonnulls(e.seq, e.balance_after, e.held_after, e.hash) = 0 and e.final_at is not null and not e.synced_to_supabase
      end) is not true then 'its status does not fit the columns that are set'
    when (case e.type
        when 'deduction' then e.amount < 0 and e.held_amount = 0
        when 'addition' then e.amount > 0 and e.held_amount = 0
        when 'hold' then e.amount = 0 and e.held_amount > 0
        when 'capture' then e.amount < 0 and e.held_amount <= e.amount
        when 'release' then e.amount = 0 and e.held_amount < 0
        when 'allocation' then e.amount > 0 and e.held_amount = 0
        when 'refund' then e.amount > 0 and e.held_amount = 0
        when 'adjustment' then e.amount <> 0 and e.held_amount = 0 and num_nonnulls(e.description, e.redacted_at) > 0
        when 'transfer_out' then e.amount < 0 and e.held_amount = 0
        when 'transfer_in' then e.amount > 0 and e.held_amount = 0
      end) is not true then 'its amounts do not fit its type'
    when e.status <> 'COMPLETED' and e.type not in ('deduction', 'addition', 'refund') then 'only a deduction, an addition or a refund can be pending'
    when (e.hold_id is null) <> (e.held_amount = 0) then 'an entry that changes held, and no other, names its hold'
    when e.related_id is not null and e.type not in ('refund', 'adjustment', 'transfer_out', 'transfer_in')
      or e.related_id is null and e.type in ('transfer_out', 'transfer_in') then 'a refund or an adjustment may name another entry, a transfer names one, and nothing else does'
    when (e.type = 'allocation') <> (e.period is not null) or extract(day from e.period) <> 1
      then 'an allocation, and no other entry, names its month by its first day'
    when (e.idempotency_key is null) <> (e.request_hash is null) or length(e.idempotency_key) not between 1 and 255
      then 'a key has 1 to 255 characters and the digest of its request'
    when length(e.salt) <> 16 or (e.synced_at is null) = e.synced_to_supabase or e.final_at < e.created_at then 'its salt, its sync mark or its times are not whole'
    when num_nonnulls(e.text_hash, e.description, e.reference_id, e.notes) > 0 and e.redacted_at is null
      and e.text_hash is distinct from credits.text_hash(e.salt, e.description, e.reference_id, e.notes) then 'text_hash is not the digest of its texts'
  end;
end
$$;
comment on function credits.unlawful(credits.transactions) is 'What is wrong with an entry, looked at without its neighbours; null when nothing is.';

-- All rules, entry by entry, in words where one is broken.
create or replace function credits.check_entry(e credits.transactions, p_is_new boolean)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_why text;
begin
  v_why := case
    when p_is_new and (e.status = 'FAILED' or e.synced_to_supabase or e.redacted_at is not null) then 'nothing starts as failed, synced or redacted'
    else credits.unlawful(e)
  end;
  if v_why is not null then
    raise exception using errcode = 'TK111', message = format('transaction %s is not lawful: %s', e.id, v_why), hint = 'Book through the functions of credits.';
  end if;
  if e.status <> 'COMPLETED' then
    if not exists (select from credits.accounts as a where a.user_id = e.user_id) then
      perform credits.unknown_account(e.user_id);
    end if;
    return;
  end if;
  perform from credits.accounts as a
  left join credits.transactions as p on p.user_id = e.user_id and p.seq = e.seq - 1
  where a.user_id = e.user_id and e.seq between 1 and a.seq and (p.id is null) = (e.seq = 1)
    and e.balance_after = coalesce(p.balance_after, 0) + e.amount
    and e.held_after = coalesce(p.held_after, 0) + e.held_amount
    and e.held_after between 0 and e.balance_after
    and e.hash = sha256(coalesce(p.hash, '') || record_send(row(e.id, e.user_id, e.seq, convert_to(e.type, 'UTF8'), e.amount, e.held_amount,
      e.balance_after, e.held_after, e.hold_id, e.related_id, e.period, e.created_at, e.final_at, convert_to(e.endpoint, 'UTF8'),
      convert_to(e.idempotency_key, 'UTF8'), e.request_hash, e.text_hash)));
  if not found then
    raise exception using errcode = 'TK111', message = format('transaction %s does not continue the chain of user %s at %s', e.id, e.user_id, e.seq),
      hint = 'Book through the functions of credits.';
  end if;
  if e.held_amount <> 0 then
    perform from credits.holds as h
    where h.id = e.hold_id and h.user_id = e.user_id and h.amount = abs(e.held_amount)
      and (case e.type when 'hold' then h.opened_seq = e.seq else h.closed_seq = e.seq and h.captured = -e.amount end);
    if not found then
      raise exception using errcode = 'TK113', message = format('transaction %s does not agree with hold %s', e.id, e.hold_id),
        hint = 'Book through the functions of credits.';
    end if;
  end if;
  if e.related_id is not null and not credits.fits_related(e) then
    raise exception using errcode = 'TK111', message = format('transaction %s, a %s, does not fit transaction %s', e.id, e.type, e.related_id),
      hint = 'Book through the functions of credits.';
  end if;
end
$$;
comment on function credits.check_entry(credits.transactions, boolean) is
  'Raise unless an entry, new or just ended, is lawful, its account exists, and a completed one continues the chain and agrees with its hold and with the entry that it names: TK111, TK102, TK113.';

-- One query for all rows of a statement, since to begin one for each takes most of the time where many are booked. What charges book is nearly all there
-- is, so it has a query of its own with as few expressions as can be: each is made ready anew every time. The second one has all that names no other
-- entry. Both pass only what check_entry would pass, and what they do not pass goes there.
create or replace function credits.check_entries()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  e credits.transactions;
begin
  perform from new_rows as n
  where (n.type = 'deduction' and n.status = 'COMPLETED' and n.amount < 0 and n.held_amount = 0
    and num_nonnulls(n.hold_id, n.related_id, n.period, n.redacted_at, n.synced_at, n.notes, n.description, n.reference_id, n.text_hash) = 0
    and not n.synced_to_supabase and length(n.salt) = 16 and n.final_at >= n.created_at and n.request_hash is not null
    and length(n.idempotency_key) between 1 and 255
    and exists (
      select from credits.accounts as a
      join credits.transactions as p on p.user_id = n.user_id and p.seq = n.seq - 1
      where a.user_id = n.user_id and n.seq between 2 and a.seq
        and n.balance_after = p.balance_after + n.amount and n.held_after = p.held_after and n.held_after between 0 and n.balance_after
        and n.hash = sha256(p.hash || record_send(row(n.id, n.user_id, n.seq, 'deduction'::bytea, n.amount, 0::bigint,
          n.balance_after, n.held_after, null::bigint, null::bigint, null::date, n.created_at, n.final_at, convert_to(n.endpoint, 'UTF8'),
          convert_to(n.idempotency_key, 'UTF8'), n.request_hash, null::bytea)))
      offset 0)) is not true;
  if not found then
    return null;
  end if;
  perform from new_rows as n
  where (n.status = 'COMPLETED' and not n.synced_to_supabase and num_nonnulls(n.synced_at, n.redacted_at, n.related_id) = 0
    and case n.type
      when 'deduction' then n.amount < 0 and n.held_amount = 0
      when 'addition' then n.amount > 0 and n.held_amount = 0
      when 'hold' then n.amount = 0 and n.held_amount > 0
      when 'capture' then n.amount < 0 and n.held_amount <= n.amount
      when 'release' then n.amount = 0 and n.held_amount < 0
      when 'allocation' then n.amount > 0 and n.held_amount = 0
    end
    and (n.hold_id is null) = (n.held_amount = 0) and (n.period is null) = (n.type <> 'allocation') and coalesce(extract(day from n.period), 1) = 1
    and (n.idempotency_key is null) = (n.request_hash is null) and coalesce(length(n.idempotency_key), 1) between 1 and 255
    and length(n.salt) = 16 and n.final_at >= n.created_at
    and n.text_hash is not distinct from case when num_nonnulls(n.description, n.reference_id, n.notes) > 0 then
      sha256(record_send(row(n.salt, convert_to(n.description, 'UTF8'), convert_to(n.reference_id, 'UTF8'), convert_to(n.notes, 'UTF8')))) end
    and exists (
      select from credits.accounts as a
      left join credits.transactions as p on p.user_id = n.user_id and p.seq = n.seq - 1
      where a.user_id = n.user_id and n.seq between 1 and a.seq and (p.id is null) = (n.seq = 1)
        and n.balance_after = coalesce(p.balance_after, 0) + n.amount
        and n.held_after = coalesce(p.held_after, 0) + n.held_amount
        and n.held_after between 0 and n.balance_after
        and n.hash = sha256(coalesce(p.hash, '') || record_send(row(n.id, n.user_id, n.seq, convert_to(n.type, 'UTF8'), n.amount, n.held_amount,
          n.balance_after, n.held_after, n.hold_id, n.related_id, n.period, n.created_at, n.final_at, convert_to(n.endpoint, 'UTF8'),
          convert_to(n.idempotency_key, 'UTF8'), n.request_hash, n.text_hash)))
      offset 0)
    and (n.held_amount = 0 or exists (
      select from credits.holds as h
      where h.id = n.hold_id and h.user_id = n.user_id and h.amount = abs(n.held_amount)
        and case n.type when 'hold' then h.opened_seq = n.seq else h.closed_seq = n.seq and h.captured = -n.amount end
      offset 0))) is not true;
  if not found then
    return null;
  end if;
  for e in select n.* from new_rows as n loop
    perform credits.check_entry(e, true);
  end loop;
  return null;
end
$$;
comment on function credits.check_entries() is 'Trigger: all entries of an insert are as credits.check_entry wants them. Raises TK111, TK102, TK113.';

create or replace function credits.check_ended_entry()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  perform credits.check_entry(new, false);
  return null;
end
$$;
comment on function credits.check_ended_entry() is 'Trigger: an entry that was PENDING is as credits.check_entry wants it. Raises TK111, TK102, TK113.';

-- Refunds of one entry come one after the other, since each moves the head of the same account: none misses the one before it.
create or replace function credits.fits_related(e credits.transactions)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  return exists (
    select from credits.transactions as o
    where o.id = e.related_id and o.status = 'COMPLETED' and case e.type
      when 'refund' then o.user_id = e.user_id and o.type in ('deduction', 'capture') and o.seq < e.seq
        and -o.amount >= (select sum(r.amount) from credits.transactions as r where r.related_id = o.id and r.type = 'refund' and r.status = 'COMPLETED')
      when 'adjustment' then o.user_id = e.user_id and o.seq < e.seq
      else o.user_id <> e.user_id and o.related_id = e.id and o.amount = -e.amount and o.type = case e.type when 'transfer_in' then 'transfer_out' else 'transfer_in' end
    end);
end
$$;
comment on function credits.fits_related(credits.transactions) is
  'Whether a completed entry fits the one that it names: a refund, with all others of it, gives back at most what was taken; an adjustment is of an earlier entry of the same user; the halves of a transfer name each other.';

-- The last entry, not just one that agrees: an account can not be set back to what it was. One query for all rows, as for entries.
create or replace function credits.check_heads()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_user_id uuid;
begin
  perform from new_rows as n
  where not exists (
    select from (
      select t.seq, t.balance_after, t.held_after, t.hash from credits.transactions as t
      where t.user_id = n.user_id and t.seq is not null order by t.seq desc limit 1) as last
    where last.seq = n.seq and last.balance_after = n.balance and last.held_after = n.held and last.hash = n.head_hash
    offset 0);
  if not found then
    return null;
  end if;
  select n.user_id into v_user_id
  from new_rows as n
  left join lateral (
    select t.seq, t.balance_after, t.held_after, t.hash from credits.transactions as t
    where t.user_id = n.user_id and t.seq is not null order by t.seq desc limit 1) as last on true
  where (n.seq, n.balance, n.held, n.head_hash) <> (coalesce(last.seq, 0), coalesce(last.balance_after, 0), coalesce(last.held_after, 0), coalesce(last.hash, ''));
  if found then
    raise exception using errcode = 'TK112', message = format('the account of user %s would not agree with its last entry', v_user_id),
      hint = 'Book through the functions of credits.';
  end if;
  return null;
end
$$;
comment on function credits.check_heads() is 'Trigger: each account that an update has touched is what its last entry says. Raises TK112.';

create or replace function credits.check_opening()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if new.seq <> 0 or new.balance <> 0 or new.held <> 0 or new.head_hash <> '' then
    raise exception using errcode = 'TK112', message = format('the account of user %s does not start empty', new.user_id),
      hint = 'Call credits.open_account and credits.grant.';
  end if;
  return null;
end
$$;
comment on function credits.check_opening() is 'Trigger: an account starts empty. Raises TK112.';

create or replace function credits.check_same_account()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if (new.user_id, new.created_at) <> (old.user_id, old.created_at) then
    raise exception using errcode = 'TK110', message = 'update on credits.accounts is refused: an account keeps its user and the time of its opening',
      hint = 'Open an account for the other user.';
  end if;
  return null;
end
$$;
comment on function credits.check_same_account() is 'Trigger: an account keeps its user and the time of its opening. Raises TK110.';

create or replace function credits.is_extension(p_old credits.holds, p_new credits.holds, p_table oid)
returns boolean
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_now constant timestamptz := pgtick.now();
  v_longer credits.holds := p_old;
begin
  v_longer.expires_at := p_new.expires_at;
  if p_new.expires_at <= p_old.expires_at or p_new.expires_at > v_now + interval '366 days' or p_new is distinct from v_longer
    or current_user <> (select pg_catalog.pg_get_userbyid(c.relowner) from pg_catalog.pg_class as c where c.oid = p_table)
  then
    return false;
  end if;
  if p_old.expires_at <= v_now then
    raise exception using errcode = 'TK104', message = format('hold %s expired at %s', p_old.id, p_old.expires_at), hint = 'Open another hold.';
  end if;
  return true;
end
$$;
comment on function credits.is_extension(credits.holds, credits.holds, oid) is
  'Whether a change of an open hold is that of credits.extend: it lasts longer, at most a year from now, and the owner of the table does it. Raises TK104 when it has expired.';

create or replace function credits.check_hold()
returns trigger
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_now timestamptz;
begin
  if tg_op = 'UPDATE' then
    if old.status = 'open' and new.status = 'open' and credits.is_extension(old, new, tg_relid) then
      return null;
    end if;
    if old.status <> 'open' or new.status = 'open'
      or (new.id, new.user_id, new.amount, new.opened_seq, new.created_at, new.expires_at)
        <> (old.id, old.user_id, old.amount, old.opened_seq, old.created_at, old.expires_at) then
      raise exception using errcode = 'TK110', message = format('update on credits.holds is refused: hold %s is closed once, and nothing else of it changes', old.id),
        hint = 'Open another hold.';
    end if;
    v_now := pgtick.now();
    if new.status = 'captured' and v_now >= new.expires_at then
      raise exception using errcode = 'TK104', message = format('hold %s expired at %s', new.id, new.expires_at), hint = 'Charge the account, or open another hold.';
    end if;
    if new.closed_at > v_now then
      raise exception using errcode = 'TK113', message = format('hold %s would be closed in the future', new.id), hint = 'Close it through the functions of credits.';
    end if;
  end if;
  perform from credits.transactions as o
  where o.user_id = new.user_id and o.seq = new.opened_seq and o.type = 'hold' and o.hold_id = new.id and o.held_amount = new.amount;
  if found and new.status <> 'open' then
    perform from credits.transactions as c
    where c.user_id = new.user_id and c.seq = new.closed_seq and c.hold_id = new.id and c.held_amount = -new.amount and c.amount = -new.captured
      and c.type = case new.status when 'captured' then 'capture' else 'release' end;
  end if;
  if not found then
    raise exception using errcode = 'TK113', message = format('hold %s does not agree with its entries', new.id), hint = 'Use credits.hold, capture and release.';
  end if;
  return null;
end
$$;
comment on function credits.check_hold() is 'Trigger: a hold agrees with the entries that opened and closed it, and is closed once, in time. Raises TK113, TK110, TK104.';

create or replace trigger transactions_entries after insert on credits.transactions
  referencing new table as new_rows for each statement execute function credits.check_entries();
create or replace trigger transactions_ended after update on credits.transactions
  for each row when (old.status = 'PENDING') execute function credits.check_ended_entry();
-- What may change: PENDING to COMPLETED or FAILED, with what that sets; the sync mark of a completed entry, once; and what redact() does.
create or replace trigger transactions_immutable after update on credits.transactions
  for each row when (
    (new.id, new.user_id, new.type, new.amount, new.held_amount, new.created_at, new.salt) is distinct from
      (old.id, old.user_id, old.type, old.amount, old.held_amount, old.created_at, old.salt)
    or (new.hold_id, new.related_id, new.period, new.endpoint, new.idempotency_key, new.request_hash, new.description, new.reference_id, new.redacted_at)
      is distinct from
      (old.hold_id, old.related_id, old.period, old.endpoint, old.idempotency_key, old.request_hash, old.description, old.reference_id, old.redacted_at)
    or case old.status
      when 'PENDING' then new.status = 'PENDING' or new.synced_to_supabase
      when 'COMPLETED' then old.synced_to_supabase or not new.synced_to_supabase or new.synced_at is null
        or (new.status, new.seq, new.balance_after, new.held_after, new.final_at, new.notes, new.text_hash, new.hash) is distinct from
          (old.status, old.seq, old.balance_after, old.held_after, old.final_at, old.notes, old.text_hash, old.hash)
      else true
    end)
  execute function credits.refuse_change();
create or replace trigger transactions_kept before delete or truncate on credits.transactions
  for each statement execute function credits.refuse('entries are kept');

create or replace trigger accounts_opening after insert on credits.accounts
  for each row execute function credits.check_opening();
create or replace trigger accounts_same after update of user_id, created_at on credits.accounts
  for each row execute function credits.check_same_account();
create or replace trigger accounts_heads after update on credits.accounts
  referencing new table as new_rows for each statement execute function credits.check_heads();
create or replace trigger accounts_kept before delete or truncate on credits.accounts
  for each statement execute function credits.refuse('accounts are kept');

create or replace trigger holds_entry after insert or update on credits.holds
  for each row execute function credits.check_hold();
create or replace trigger holds_kept before delete or truncate on credits.holds
  for each statement execute function credits.refuse('holds are kept');
$part$, true);
end
$pgtick$;

-- sql/52_credits_accounts.sql
do $pgtick$
begin
  perform set_config('pgtick.part_45', $part$
-- Accounts: open one, change its tier, ask for its balance and its statement.

create or replace function credits.check_tier(p_tier text)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  if not exists (select from credits.tiers as t where t.name = p_tier) then
    raise exception using errcode = 'TK109', message = format('tier %s is refused: no such tier', coalesce('"' || left(p_tier, 100) || '"', 'null')),
      hint = format('Use one of: %s.', (select string_agg(t.name, ', ' order by t.monthly_credits, t.name) from credits.tiers as t));
  end if;
end
$$;
comment on function credits.check_tier(text) is 'Raise TK109 unless there is such a tier.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.open_account(p_user_id uuid, p_tier text default 'standard')
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_user_id is null then
    perform credits.invalid('user_id', null, 'an account names its user');
  end if;
  perform credits.check_tier(p_tier);
  insert into credits.accounts (user_id, tier, created_at) values (p_user_id, p_tier, pgtick.now()) on conflict (user_id) do nothing;
end
$$;
comment on function credits.open_account(uuid, text) is
  'Open the account of a user, empty, in tier p_tier (standard by default). An account that exists stays as it is. Raises TK100 without a user, TK109 for an unknown tier.';

-- Definer: callers have no rights on the tables.
create or replace function credits.balance(p_user_id uuid, out balance bigint, out held bigint, out available bigint)
language plpgsql volatile parallel safe security definer
set search_path = ''
as $$
declare
  v_now timestamptz;
begin
  select a.balance, a.held into balance, held from credits.accounts as a where a.user_id = p_user_id;
  if not found then
    perform credits.unknown_account(p_user_id);
  end if;
  if held > 0 then
    v_now := pgtick.now();
    held := held - (select coalesce(sum(h.amount), 0) from credits.holds as h where h.user_id = p_user_id and h.status = 'open' and h.expires_at <= v_now);
  end if;
  available := balance - held;
end
$$;
comment on function credits.balance(uuid) is
  'A user''s credits: balance, held by open holds that have not expired, and available = balance - held, which is what can be charged. Raises TK102 for an unknown user.';

create or replace function credits.month_share(p_monthly_credits bigint, p_created_at timestamptz, p_period date, p_for_new text)
returns bigint
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_opened constant date := (p_created_at at time zone 'UTC')::date;
  v_end constant date := (p_period + interval '1 month')::date;
begin
  return case
    when v_opened >= v_end then 0
    when v_opened < p_period or p_for_new = 'full' then p_monthly_credits
    when p_for_new = 'pro_rata' then trunc(p_monthly_credits::numeric * (v_end - v_opened) / (v_end - p_period))::bigint
    else 0 end;
end
$$;
comment on function credits.month_share(bigint, timestamptz, date, text) is
  'What an account opened at p_created_at gets for the month that begins on p_period, where its tier gives p_monthly_credits: all; for the month of its opening by p_for_new (full, pro_rata, none); nothing for months before. Days are UTC.';

create or replace function credits.allocation_for_new()
returns text
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return coalesce((select s.value from credits.settings as s where s.name = 'allocation_for_new'), 'full');
end
$$;
comment on function credits.allocation_for_new() is 'The setting allocation_for_new: full, pro_rata or none.';

-- Definer: nobody but the owner writes the tables of credits.
-- The rule: a higher tier counts at once, a lower one from next month on. So where this month's allocation has been given already, what
-- the new tier gives beyond all that was given for it is booked as an adjustment of it; down and up again gives nothing twice.
create or replace function credits.set_tier(p_user_id uuid, p_tier text)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_account credits.accounts;
  v_now timestamptz;
  v_given credits.transactions;
  v_more bigint;
  e credits.transactions;
begin
  if p_user_id is null then
    perform credits.invalid('user_id', null, 'an operation names its user');
  end if;
  perform credits.check_tier(p_tier);
  v_account := credits.lock_account(p_user_id);
  if v_account.tier = p_tier then
    return null;
  end if;
  update credits.accounts as a set tier = p_tier where a.user_id = p_user_id;
  v_now := pgtick.now();
  select * into v_given from credits.transactions as t
  where uuid_send(t.user_id) = uuid_send(p_user_id) and t.period = date_trunc('month', v_now at time zone 'UTC')::date;
  if not found then
    return null;   -- it is still to come, by the new tier
  end if;
  v_more := credits.month_share((select t.monthly_credits from credits.tiers as t where t.name = p_tier), v_account.created_at, v_given.period,
      credits.allocation_for_new()) - v_given.amount
    - (select coalesce(sum(t.amount), 0) from credits.transactions as t where t.related_id = v_given.id and t.type = 'adjustment' and t.user_id = p_user_id);
  if v_more <= 0 then
    return null;
  end if;
  e := credits.next_entry(v_account, 'adjustment', v_more, v_now, p_description => format('tier %s instead of %s', p_tier, v_account.tier), p_related_id => v_given.id);
  perform credits.write_entry(e);
  return e.id;
end
$$;
comment on function credits.set_tier(uuid, text) is
  'Put a user into another tier. What a higher one gives this month (UTC) beyond all that was given for it is booked at once, as an adjustment of the month''s allocation, whose id is returned; null when there is nothing to book: a lower tier takes nothing back, and an allocation that is still to come goes by the new tier. Raises TK100 without a user, TK102 for an unknown one, TK109 for an unknown tier.';

-- Definer: callers have no rights on the tables.
create or replace function credits.statement(p_user_id uuid, p_from_at timestamptz default null, p_to_at timestamptz default null)
returns table (seq bigint, at timestamptz, type text, amount bigint, held_amount bigint, balance bigint, held bigint, transaction_id bigint,
  hold_id bigint, related_id bigint, endpoint text, description text, reference_id text)
language plpgsql stable parallel safe security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
  if not exists (select from credits.accounts as a where a.user_id = p_user_id) then
    perform credits.unknown_account(p_user_id);
  end if;
  if p_from_at >= p_to_at then
    perform credits.invalid('to_at', p_to_at::text, format('it comes after from_at, %s', p_from_at));
  end if;
  return query
  select t.seq, t.final_at, t.type, t.amount, t.held_amount, t.balance_after, t.held_after, t.id, t.hold_id, t.related_id, t.endpoint, t.description, t.reference_id
  from credits.transactions as t
  where t.user_id = p_user_id and t.status = 'COMPLETED' and t.final_at >= coalesce(p_from_at, '-infinity') and t.final_at < coalesce(p_to_at, 'infinity')
  order by t.seq;
end
$$;
comment on function credits.statement(uuid, timestamptz, timestamptz) is
  'A user''s completed entries from p_from_at on and before p_to_at (null: without a bound), in the order of booking, each with the balance and held after it. Raises TK100 for bounds that are not in order, TK102 for an unknown user.';
$part$, true);
end
$pgtick$;

-- sql/53_credits_entries.sql
do $pgtick$
begin
  perform set_config('pgtick.part_46', $part$
-- Booking single entries: grant and charge. Lock order here and in all files of credits: accounts in user_id order, then holds, then the rest.

-- The next entry of an account that the caller has locked, with its digests. Written by the caller, together with the account's new head.
create or replace function credits.next_entry(
  p_account credits.accounts, p_type text, p_amount bigint, p_now timestamptz, p_held_amount bigint default 0, p_hold_id bigint default null,
  p_idempotency_key text default null, p_request bytea default null, p_endpoint text default null, p_description text default null,
  p_reference_id text default null, p_notes text default null, p_related_id bigint default null, p_id bigint default null)
returns credits.transactions
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_id constant bigint := coalesce(p_id, nextval('credits.transactions_id_seq'));
  v_salt constant bytea := uuid_send(gen_random_uuid());
  v_request_hash constant bytea := sha256(v_salt || p_request);
  v_text_hash bytea;
begin
  if p_amount > 9223372036854775807 - p_account.balance then
    perform credits.invalid('amount', p_amount::text, format('with the balance of %s it is beyond what a balance can hold', p_account.balance));
  end if;
  if num_nonnulls(p_description, p_reference_id, p_notes) > 0 then
    v_text_hash := credits.text_hash(v_salt, p_description, p_reference_id, p_notes);
  end if;
  -- One expression for all columns, in their order: one for each would take longer than the look-ups (see charge).
  return row(v_id, p_account.user_id, p_account.seq + 1, p_amount, p_held_amount, p_account.balance + p_amount, p_account.held + p_held_amount,
    p_hold_id, p_related_id, p_now, p_now, null::timestamptz, null::timestamptz, null::date, false, p_type, 'COMPLETED'::text, p_endpoint, p_idempotency_key,
    p_description, p_reference_id, p_notes, v_salt, v_request_hash, v_text_hash,
    sha256(p_account.head_hash || record_send(row(v_id, p_account.user_id, p_account.seq + 1, convert_to(p_type, 'UTF8'), p_amount, p_held_amount,
      p_account.balance + p_amount, p_account.held + p_held_amount, p_hold_id, p_related_id, null::date, p_now, p_now, convert_to(p_endpoint, 'UTF8'),
      convert_to(p_idempotency_key, 'UTF8'), v_request_hash, v_text_hash))))::credits.transactions;
end
$$;
comment on function credits.next_entry(credits.accounts, text, bigint, timestamptz, bigint, bigint, text, bytea, text, text, text, text, bigint, bigint) is
  'The next entry of a locked account, complete but not written; its id is p_id, or a new one. Raises TK100 when the balance would be beyond bigint.';

-- Locks the account, answers a known key with its first entry, then writes the entry and the account's head in one statement.
-- Credits of holds that have expired but are not cleaned up yet are released there and then, when they are needed.
create or replace function credits.book(
  p_user_id uuid, p_type text, p_amount bigint, p_idempotency_key text, p_request bytea, p_endpoint text default null,
  p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_account credits.accounts;
  e credits.transactions;
  v_now timestamptz;
begin
  v_account := credits.lock_account(p_user_id);
  e := credits.replayed(p_user_id, p_idempotency_key, p_request);
  if e.id is not null then
    return e.id;
  end if;
  v_now := pgtick.now();
  if p_amount < 0 then
    v_account := credits.make_available(v_account, -p_amount, v_now);
  end if;
  e := credits.next_entry(v_account, p_type, p_amount, v_now, p_idempotency_key => p_idempotency_key, p_request => p_request,
    p_endpoint => p_endpoint, p_description => p_description, p_reference_id => p_reference_id);
  perform credits.write_entry(e);
  return e.id;
end
$$;
comment on function credits.book(uuid, text, bigint, text, bytea, text, text, text) is
  'Book one entry that touches no hold, or give the id of the one booked before under the key. Raises TK101, TK102, TK105.';

create or replace function credits.lock_account(p_user_id uuid)
returns credits.accounts
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_account credits.accounts;
begin
  select * into v_account from credits.accounts as a where a.user_id = p_user_id for no key update;
  if not found then
    perform credits.unknown_account(p_user_id);
  end if;
  return v_account;
end
$$;
comment on function credits.lock_account(uuid) is 'Lock a user''s account until the transaction ends, and give its row. Raises TK102.';

create or replace function credits.make_available(p_account credits.accounts, p_needed bigint, p_now timestamptz)
returns credits.accounts
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if p_account.balance - p_account.held < p_needed and p_account.held > 0 then
    perform credits.release_expired(array(
      select h.id from credits.holds as h where h.user_id = p_account.user_id and h.status = 'open' and h.expires_at <= p_now
    ), p_now, 'expired: released when its credits were needed');
    select * into p_account from credits.accounts as a where a.user_id = p_account.user_id;
  end if;
  if p_account.balance - p_account.held < p_needed then
    perform credits.insufficient(p_needed, p_account.balance - p_account.held);
  end if;
  return p_account;
end
$$;
comment on function credits.make_available(credits.accounts, bigint, timestamptz) is
  'The locked account with at least p_needed credits available, after releasing its expired holds where that is needed. Raises TK101.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.grant(
  p_user_id uuid, p_amount bigint, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform credits.check_amount(p_amount);
  perform credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id);
  return credits.book(p_user_id, 'addition', p_amount, p_idempotency_key,
    record_send(row('grant'::bytea, p_user_id, p_amount, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8'))),
    p_description => p_description, p_reference_id => p_reference_id);
end
$$;
comment on function credits.grant(uuid, bigint, text, text, text) is
  'Add p_amount (1 or more) credits to a user''s balance. The id of the entry; the same request again gives the same id. Raises TK100 for a bad value, TK102 for an unknown user, TK105 when the key was used for something else.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.charge(
  p_user_id uuid, p_amount bigint default null, p_idempotency_key text default null, p_endpoint text default null,
  p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_amount bigint := p_amount;
  v_id bigint;
  v_now timestamptz;
  v_salt bytea;
  v_request bytea;
  v_request_hash bytea;
  v_text_hash bytea;
begin
  -- Each expression costs every charge a microsecond or two, so that what is plainly right is found so by one.
  if (p_amount > 0 and p_user_id is not null and length(p_idempotency_key) between 1 and 255
    and num_nonnulls(p_endpoint, p_description, p_reference_id) = 0) is not true
  then
    perform credits.check_charge(p_user_id, p_amount, p_idempotency_key, p_endpoint, p_description, p_reference_id);
    if p_amount is null then
      v_amount := (select r.credits_per_request from credits.usage_rates as r where r.endpoint = p_endpoint and r.is_active);
    end if;
  end if;
  v_request := record_send(row('charge'::bytea, p_user_id, p_amount, convert_to(p_endpoint, 'UTF8'), convert_to(p_description, 'UTF8'),
    convert_to(p_reference_id, 'UTF8')));
  v_salt := uuid_send(gen_random_uuid());
  v_request_hash := sha256(v_salt || v_request);
  if num_nonnulls(p_description, p_reference_id) > 0 then
    v_text_hash := credits.text_hash(v_salt, p_description, p_reference_id, null);
  end if;
  -- The fast path, one statement: test, move the head, book. It must not act on a snapshot from before a wait: another call under the
  -- same key may have booked meanwhile. Whoever books changes the account's row, so its xmin then differs from the one in the snapshot,
  -- and no row comes back. But the row is locked then, so a second try has a snapshot that holds. Where that gives nothing either, the slow
  -- path finds out why: it locks first, and looks afterwards.
  for v_try in 1 .. 2 loop
    v_id := nextval('credits.transactions_id_seq');
    v_now := pgtick.now();
    with moved as (
      update credits.accounts as a set balance = a.balance - v_amount, seq = a.seq + 1,
        head_hash = sha256(a.head_hash || record_send(row(v_id, a.user_id, a.seq + 1, 'deduction'::bytea, -v_amount, 0::bigint, a.balance - v_amount, a.held,
          null::bigint, null::bigint, null::date, v_now, v_now, convert_to(p_endpoint, 'UTF8'), convert_to(p_idempotency_key, 'UTF8'), v_request_hash,
          v_text_hash)))
      where a.user_id = p_user_id and a.xmin = (select seen.xmin from credits.accounts as seen where seen.user_id = p_user_id) and a.balance - a.held >= v_amount
        and not exists (select from credits.transactions as t where uuid_send(t.user_id) = uuid_send(p_user_id) and t.idempotency_key = p_idempotency_key)
      returning a.seq, a.balance, a.held, a.head_hash
    )
    insert into credits.transactions (id, user_id, seq, type, status, amount, balance_after, held_after, created_at, final_at,
      endpoint, idempotency_key, description, reference_id, salt, request_hash, text_hash, hash)
    overriding system value
    select v_id, p_user_id, m.seq, 'deduction', 'COMPLETED', -v_amount, m.balance, m.held, v_now, v_now,
      p_endpoint, p_idempotency_key, p_description, p_reference_id, v_salt, v_request_hash, v_text_hash, m.head_hash
    from moved as m;
    if found then
      return v_id;
    end if;
  end loop;
  if v_amount is null then
    return credits.charged_before(p_user_id, p_endpoint, p_idempotency_key, v_request);
  end if;
  return credits.book(p_user_id, 'deduction', -v_amount, p_idempotency_key, v_request, p_endpoint, p_description, p_reference_id);
end
$$;
comment on function credits.charge(uuid, bigint, text, text, text, text) is
  'Take credits from a user: p_amount (1 or more), or what usage_rates says for p_endpoint; with both, the amount counts and the endpoint is recorded. The id of the entry; the same request again gives the same id. Raises TK100 for a bad value, TK101 for too few credits, TK102 for an unknown user, TK105 when the key was used for something else, TK106 for an endpoint without an active rate.';

create or replace function credits.check_charge(
  p_user_id uuid, p_amount bigint, p_idempotency_key text, p_endpoint text, p_description text, p_reference_id text)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_amount is null and p_endpoint is null then
    perform credits.invalid('amount', null, 'either the amount or the endpoint says what to charge');
  end if;
  perform credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id, p_endpoint);
  if p_amount is not null then
    perform credits.check_amount(p_amount);
  end if;
end
$$;
comment on function credits.check_charge(uuid, bigint, text, text, text, text) is 'Raise TK100 unless these are the values of a charge.';

create or replace function credits.charged_before(p_user_id uuid, p_endpoint text, p_idempotency_key text, p_request bytea)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_id bigint;
begin
  perform credits.lock_account(p_user_id);
  v_id := (credits.replayed(p_user_id, p_idempotency_key, p_request)).id;
  if v_id is null then
    raise exception using errcode = 'TK106', message = format('endpoint "%s" has no active rate', left(p_endpoint, 100)),
      hint = 'Add it to credits.usage_rates, or charge an amount.';
  end if;
  return v_id;
end
$$;
comment on function credits.charged_before(uuid, text, text, bytea) is
  'The charge booked under this key while the endpoint still had a rate: a repeated request gives its first result whatever has changed since. Raises TK106 when there is none.';
$part$, true);
end
$pgtick$;

-- sql/54_credits_holds.sql
do $pgtick$
begin
  perform set_config('pgtick.part_47', $part$
-- Holds: set credits aside, then capture or release them. The account's lock guards its holds as well.

-- All at once: windows by account follow held, the seq and the hash.
create or replace function credits.release_expired(p_hold_ids bigint[], p_now timestamptz, p_reason text, out released bigint, out credits numeric)
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
begin
  released := 0;
  credits := 0;
  if cardinality(p_hold_ids) = 0 then
    return;
  end if;
  with due as (
    select h.id as hold_id, h.user_id, h.amount, a.balance, a.head_hash, a.seq + row_number() over w as seq,
      (a.held - sum(h.amount) over (w rows unbounded preceding))::bigint as held_after, lead(h.id) over w is null as is_last,
      nextval('credits.transactions_id_seq') as id, uuid_send(gen_random_uuid()) as salt
    from credits.holds as h
    join credits.accounts as a on a.user_id = h.user_id
    where h.id = any (p_hold_ids) and h.status = 'open' and h.expires_at <= p_now
    window w as (partition by h.user_id order by h.id)
  ), digested as (
    select d.*, sha256(record_send(row(d.salt, null::bytea, null::bytea, convert_to(p_reason, 'UTF8')))) as text_hash from due as d
  ), entries as materialized (
    select d.*, credits.chain_next(row_number() over (partition by d.user_id order by d.hold_id) = 1, d.head_hash, record_send(row(d.id, d.user_id,
      d.seq, 'release'::bytea, 0::bigint, -d.amount, d.balance, d.held_after, d.hold_id, null::bigint, null::date, p_now, p_now, null::bytea, null::bytea, null::bytea, d.text_hash))) as hash
    from digested as d
  ), closed as (
    update credits.holds as h set status = 'expired', closed_seq = e.seq, closed_at = p_now, reason = p_reason from entries as e where h.id = e.hold_id
  ), moved as (
    update credits.accounts as a set seq = e.seq, held = e.held_after, head_hash = e.hash from entries as e where e.is_last and a.user_id = e.user_id
  ), booked as (
    insert into credits.transactions (id, user_id, seq, type, status, amount, held_amount, balance_after, held_after, hold_id, created_at, final_at, notes,
      salt, text_hash, hash)
    overriding system value
    select e.id, e.user_id, e.seq, 'release', 'COMPLETED', 0, -e.amount, e.balance, e.held_after, e.hold_id, p_now, p_now, p_reason, e.salt, e.text_hash, e.hash
    from entries as e
  )
  select count(*), coalesce(sum(e.amount), 0) into released, credits from entries as e;
end
$$;
comment on function credits.release_expired(bigint[], timestamptz, text) is
  'Release those of the holds that are open and have expired, and say why. Their accounts must be locked. How many they were, and of how many credits.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.hold(
  p_user_id uuid, p_amount bigint, p_expires_in interval, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_account credits.accounts;
  e credits.transactions;
  v_now timestamptz;
  v_request bytea;
begin
  -- as in charge: what is plainly right is found so by one expression
  if (p_amount > 0 and p_user_id is not null and length(p_idempotency_key) between 1 and 255 and num_nonnulls(p_description, p_reference_id) = 0
    and p_expires_in between interval '1 second' and interval '1 day'
    and timestamptz '2001-02-01 12:00:00+00' + p_expires_in between '2001-02-01 12:00:01+00' and '2001-02-02 12:00:00+00') is not true   -- see check_expires_in
  then
    perform credits.check_amount(p_amount), credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id), credits.check_expires_in(p_expires_in);
  end if;
  v_request := record_send(row('hold'::bytea, p_user_id, p_amount, p_expires_in, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8')));
  v_account := credits.lock_account(p_user_id);
  e := credits.replayed(p_user_id, p_idempotency_key, v_request);
  if e.id is not null then
    return e.hold_id;
  end if;
  v_now := pgtick.now();
  if v_account.balance - v_account.held < p_amount then
    v_account := credits.make_available(v_account, p_amount, v_now);
  end if;
  e := credits.next_entry(v_account, 'hold', 0, v_now, p_amount, nextval('credits.holds_id_seq'), p_idempotency_key, v_request,
    p_description => p_description, p_reference_id => p_reference_id);
  with opened as (
    insert into credits.holds (id, user_id, amount, opened_seq, created_at, expires_at)
    overriding system value values (e.hold_id, p_user_id, p_amount, e.seq, v_now, v_now + p_expires_in)
  ), moved as (
    update credits.accounts as a set balance = e.balance_after, held = e.held_after, seq = e.seq, head_hash = e.hash where a.user_id = p_user_id
  )
  insert into credits.transactions overriding system value values (e.*);
  return e.hold_id;
end
$$;
comment on function credits.hold(uuid, bigint, interval, text, text, text) is
  'Set p_amount (1 or more) credits aside until they are captured or released, or p_expires_in (more than 0, at most a year) has passed. The id of the hold; the same request again gives the same id. Raises TK100 for a bad value, TK101 for too few credits, TK102 for an unknown user, TK105 when the key was used for something else.';

-- An interval of months has no length of its own: as such, '365 days' would be more than '1 year', and '-1 year 361 days' a day. So it is judged by the
-- time to which it leads from a first of February: from there no months are shorter, nor any that go back longer.
create or replace function credits.check_expires_in(p_expires_in interval)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_start constant timestamptz := '2001-02-01 12:00:00+00';
begin
  if p_expires_in > interval '400 days' or p_expires_in < interval '-400 days'
    or (v_start + p_expires_in > v_start and v_start + p_expires_in <= v_start + interval '366 days') is not true then
    perform credits.invalid('expires_in', p_expires_in::text, 'a hold lasts more than no time and at most a year', 'Give an interval such as ''30 minutes''.');
  end if;
end
$$;
comment on function credits.check_expires_in(interval) is 'Raise TK100 unless p_expires_in is more than 0 and at most a year (366 days).';

-- The closing entry of a hold that is closed already: closing it again in the same way gives the first result.
create or replace function credits.closed_by(p_hold credits.holds)
returns bigint
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return (select t.id from credits.transactions as t where t.user_id = p_hold.user_id and t.seq = p_hold.closed_seq);
end
$$;
comment on function credits.closed_by(credits.holds) is 'The id of the entry that closed the hold; null while it is open.';

create or replace function credits.unknown_hold(p_hold_id bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK103', message = format('there is no hold %s', coalesce(p_hold_id::text, 'null')), hint = 'Use the id that credits.hold gave.';
end
$$;
comment on function credits.unknown_hold(bigint) is 'Raise TK103.';

create or replace function credits.lock_hold(p_hold_id bigint)
returns credits.holds
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_hold credits.holds;
  v_user_id uuid;
begin
  select h.user_id into v_user_id from credits.holds as h where h.id = p_hold_id;   -- never changes, so it can be read before the lock
  if not found then
    perform credits.unknown_hold(p_hold_id);
  end if;
  perform credits.lock_account(v_user_id);
  select * into v_hold from credits.holds as h where h.id = p_hold_id;
  return v_hold;
end
$$;
comment on function credits.lock_hold(bigint) is 'Lock the account of a hold until the transaction ends, and give the hold. Raises TK103 for an unknown one.';

create or replace function credits.close_hold(p_hold credits.holds, p_take bigint, p_now timestamptz, p_description text, p_reason text)
returns bigint
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_account credits.accounts;
  e credits.transactions;
begin
  select * into v_account from credits.accounts as a where a.user_id = p_hold.user_id;
  e := credits.next_entry(v_account, case when p_take > 0 then 'capture' else 'release' end, -p_take, p_now, -p_hold.amount, p_hold.id,
    p_description => p_description);
  with closed as (
    update credits.holds as h
    set status = case when p_take > 0 then 'captured' else 'released' end, captured = p_take, closed_seq = e.seq, closed_at = p_now, reason = p_reason
    where h.id = p_hold.id
  ), moved as (
    update credits.accounts as a set balance = e.balance_after, held = e.held_after, seq = e.seq, head_hash = e.hash where a.user_id = e.user_id
  )
  insert into credits.transactions overriding system value values (e.*);
  return e.id;
end
$$;
comment on function credits.close_hold(credits.holds, bigint, timestamptz, text, text) is
  'Close an open hold whose account is locked: charge p_take of it (0 = none) and release the rest. The id of the entry.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.capture(p_hold_id bigint, p_amount bigint default null, p_description text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_hold credits.holds;
  v_now timestamptz;
begin
  if p_amount is not null then
    perform credits.check_amount(p_amount);
  end if;
  if length(p_description) > 4000 then
    perform credits.invalid('description', p_description, 'at most 4000 characters');
  end if;
  v_hold := credits.lock_hold(p_hold_id);
  v_now := pgtick.now();
  if v_hold.status = 'captured' and v_hold.captured = coalesce(p_amount, v_hold.amount) then
    return credits.closed_by(v_hold);
  end if;
  if v_hold.status = 'expired' or v_hold.status = 'open' and v_hold.expires_at <= v_now then
    raise exception using errcode = 'TK104', message = format('hold %s expired at %s', p_hold_id, v_hold.expires_at), hint = 'Charge the account, or open another hold.';
  end if;
  if v_hold.status <> 'open' then
    raise exception using errcode = 'TK103', message = format('hold %s is %s, %s of its %s credits captured', p_hold_id, v_hold.status, v_hold.captured, v_hold.amount),
      hint = 'A hold is closed once; charge the account, or open another hold.';
  end if;
  if p_amount > v_hold.amount then
    perform credits.invalid('amount', p_amount::text, format('at most what the hold is for, %s', v_hold.amount), 'Capture the hold, and charge the rest.');
  end if;
  return credits.close_hold(v_hold, coalesce(p_amount, v_hold.amount), v_now, p_description, 'captured');
end
$$;
comment on function credits.capture(bigint, bigint, text) is
  'Charge what a hold has set aside: all of it, or p_amount (1 to all), and the rest is released. The id of the entry; the same capture again gives the same id. Raises TK100 for a bad value, TK103 for a hold that is unknown or closed, TK104 for one that has expired.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.release(p_hold_id bigint, p_description text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_hold credits.holds;
begin
  if length(p_description) > 4000 then
    perform credits.invalid('description', p_description, 'at most 4000 characters');
  end if;
  v_hold := credits.lock_hold(p_hold_id);
  if v_hold.status in ('released', 'expired') then
    return credits.closed_by(v_hold);
  end if;
  if v_hold.status = 'captured' then
    raise exception using errcode = 'TK103', message = format('hold %s is captured', p_hold_id), hint = 'Credits that were captured are charged.';
  end if;
  return credits.close_hold(v_hold, 0, pgtick.now(), p_description, 'released');
end
$$;
comment on function credits.release(bigint, text) is
  'Give back what a hold has set aside. The id of the entry; for a hold that is released or expired already, the id of the entry that did it. Raises TK103 for a hold that is unknown or captured.';

-- Definer: nobody but the owner writes the tables of credits. It books nothing, so it needs no key: twice is as once.
create or replace function credits.extend(p_hold_id bigint, p_expires_in interval)
returns timestamptz
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_hold credits.holds;
  v_now timestamptz;
begin
  perform credits.check_expires_in(p_expires_in);
  v_hold := credits.lock_hold(p_hold_id);
  v_now := pgtick.now();
  if v_hold.status = 'expired' or v_hold.status = 'open' and v_hold.expires_at <= v_now then
    raise exception using errcode = 'TK104', message = format('hold %s expired at %s', p_hold_id, v_hold.expires_at), hint = 'Open another hold.';
  end if;
  if v_hold.status <> 'open' then
    raise exception using errcode = 'TK103', message = format('hold %s is %s', p_hold_id, v_hold.status), hint = 'A hold is closed once; open another hold.';
  end if;
  if v_now + p_expires_in > v_hold.expires_at then
    update credits.holds as h set expires_at = v_now + p_expires_in where h.id = p_hold_id returning h.expires_at into v_hold.expires_at;
  end if;
  return v_hold.expires_at;
end
$$;
comment on function credits.extend(bigint, interval) is
  'Let an open hold last p_expires_in (more than 0, at most a year) from now; never shorter than it did. When it expires now. Raises TK100 for a bad value, TK103 for a hold that is unknown or closed, TK104 for one that has expired.';
$part$, true);
end
$pgtick$;

-- sql/55_credits_pending.sql
do $pgtick$
begin
  perform set_config('pgtick.part_48', $part$
-- PENDING entries: submit, and resolve to COMPLETED or FAILED, once.

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.submit(
  p_user_id uuid, p_type text, p_amount bigint, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  e credits.transactions;
  v_request bytea;
begin
  if (p_type in ('deduction', 'addition', 'refund')) is not true then
    perform credits.invalid('type', p_type, 'deduction, addition or refund');
  end if;
  perform credits.check_amount(p_amount);
  perform credits.check_request(p_user_id, p_idempotency_key, p_description, p_reference_id);
  v_request := record_send(row('submit'::bytea, p_user_id, convert_to(p_type, 'UTF8'), p_amount, convert_to(p_description, 'UTF8'),
    convert_to(p_reference_id, 'UTF8')));
  perform credits.lock_account(p_user_id);
  e := credits.replayed(p_user_id, p_idempotency_key, v_request);
  if e.id is not null then
    return e.id;
  end if;
  e.id := nextval('credits.transactions_id_seq');
  e.salt := uuid_send(gen_random_uuid());
  -- The account's row changes with it, although its head does not move: charge() tells by that that it has waited for a booking.
  with counted as (
    update credits.accounts as a set submitted = a.submitted + 1 where a.user_id = p_user_id
  )
  insert into credits.transactions (id, user_id, type, status, amount, created_at, idempotency_key, description, reference_id, salt, request_hash, text_hash)
  overriding system value
  values (e.id, p_user_id, p_type, 'PENDING', case p_type when 'deduction' then -p_amount else p_amount end, pgtick.now(), p_idempotency_key, p_description,
    p_reference_id, e.salt, sha256(e.salt || v_request), credits.text_hash(e.salt, p_description, p_reference_id, null));
  return e.id;
end
$$;
comment on function credits.submit(uuid, text, bigint, text, text, text) is
  'Book a PENDING entry of p_type (deduction, addition, refund) over p_amount, always positive. It changes no balance before resolve(), or before credits.pending_rules decides it. The id of the entry; the same request again gives the same id. Raises TK100 for a bad value, TK102 for an unknown user, TK105 when the key was used for something else.';

-- In id order for each account; a commit that the balance does not allow fails, and says so. The accounts must be locked.
-- All at once: windows by account follow what is left, the seq and the hash.
create or replace function credits.resolve_locked(
  p_ids bigint[], p_commits boolean[], p_notes text[], p_now timestamptz,
  out committed bigint, out reverted bigint, out failed bigint, out credits_added numeric, out credits_deducted numeric)
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
begin
  perform credits.release_expired(array(
    select h.id
    from unnest(p_ids, p_commits) as i (id, is_commit)
    join credits.transactions as t on t.id = i.id and t.amount < 0 and t.status = 'PENDING'
    join credits.holds as h on h.user_id = t.user_id and h.status = 'open' and h.expires_at <= p_now
    where i.is_commit
  ), p_now, 'expired: released when its credits were needed');
  with asked as materialized (
    select t.*, i.is_commit, i.notes as asked_notes, a.balance, a.held, a.seq as head, a.head_hash
    from unnest(p_ids, p_commits, p_notes) as i (id, is_commit, notes)
    join credits.transactions as t on t.id = i.id and t.status = 'PENDING'
    join credits.accounts as a on a.user_id = t.user_id
  ), spent as (
    select s.*, credits.spend_next(row_number() over (partition by s.user_id order by s.id) = 1, s.balance - s.held, -s.amount, s.held) as left_after
    from asked as s
    where s.is_commit
  ), judged as (
    select s.*, coalesce(lag(s.left_after) over w, s.balance - s.held) as left_before, s.left_after <> coalesce(lag(s.left_after) over w, s.balance - s.held) as is_ok
    from spent as s
    window w as (partition by s.user_id order by s.id)
  ), numbered as (
    select j.*, j.head + row_number() over w as new_seq, j.left_after + j.held as new_balance, lead(j.id) over w is null as is_last,
      case when num_nonnulls(j.description, j.reference_id, j.asked_notes) > 0 then sha256(record_send(row(j.salt, convert_to(j.description, 'UTF8'),
        convert_to(j.reference_id, 'UTF8'), convert_to(j.asked_notes, 'UTF8')))) end as new_text_hash
    from judged as j
    where j.is_ok
    window w as (partition by j.user_id order by j.id)
  ), chained as materialized (
    select n.*, credits.chain_next(row_number() over (partition by n.user_id order by n.id) = 1, n.head_hash, record_send(row(n.id, n.user_id,
      n.new_seq, convert_to(n.type, 'UTF8'), n.amount, 0::bigint, n.new_balance, n.held, null::bigint, n.related_id, null::date, n.created_at, p_now, convert_to(n.endpoint, 'UTF8'), convert_to(n.idempotency_key, 'UTF8'), n.request_hash,
      n.new_text_hash))) as new_hash
    from numbered as n
  ), moved as (
    update credits.accounts as a set balance = c.new_balance, seq = c.new_seq, head_hash = c.new_hash from chained as c where c.is_last and a.user_id = c.user_id
  ), completed as (
    update credits.transactions as t
    set status = 'COMPLETED', final_at = p_now, notes = c.asked_notes, text_hash = c.new_text_hash, seq = c.new_seq, balance_after = c.new_balance,
      held_after = c.held, hash = c.new_hash
    from chained as c
    where t.id = c.id
  ), unfit as (
    select j.id, j.salt, j.description, j.reference_id, true as is_commit, case
      when j.amount < 0 then credits.too_few(-j.amount, j.left_before) else 'the balance would be beyond what it can hold' end as new_notes
    from judged as j
    where not j.is_ok
    union all
    select s.id, s.salt, s.description, s.reference_id, false, s.asked_notes from asked as s where not s.is_commit
  ), ended as (
    update credits.transactions as t
    set status = 'FAILED', final_at = p_now, notes = u.new_notes, text_hash = credits.text_hash(u.salt, u.description, u.reference_id, u.new_notes)
    from unfit as u
    where t.id = u.id
  )
  select count(*) filter (where o.is_ok), count(*) filter (where not o.is_commit), count(*) filter (where o.is_commit and not o.is_ok),
    coalesce(sum(greatest(o.amount, 0)) filter (where o.is_ok), 0), coalesce(sum(greatest(-o.amount, 0)) filter (where o.is_ok), 0)
  into committed, reverted, failed, credits_added, credits_deducted
  from (
    select true as is_ok, true as is_commit, c.amount from chained as c
    union all
    select false, u.is_commit, 0 from unfit as u) as o;
end
$$;
comment on function credits.resolve_locked(bigint[], boolean[], text[], timestamptz) is
  'Resolve those of the entries that are PENDING: commit or revert each, with its note. Their accounts must be locked. What became of them, and the credits that moved.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.resolve(p_transaction_id bigint, p_commit boolean, p_notes text default null)
returns text
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_user_id uuid;
  v_status text;
begin
  if p_commit is null then
    perform credits.invalid('commit', null, 'true commits, false reverts');
  end if;
  if length(p_notes) > 4000 then
    perform credits.invalid('notes', p_notes, 'at most 4000 characters');
  end if;
  select t.user_id into v_user_id from credits.transactions as t where t.id = p_transaction_id;   -- never changes
  if not found then
    perform credits.unknown_transaction(p_transaction_id);
  end if;
  perform credits.lock_account(v_user_id);
  perform credits.resolve_locked(array[p_transaction_id], array[p_commit], array[coalesce(p_notes, case when not p_commit then 'reverted' end)], pgtick.now());
  select t.status into v_status from credits.transactions as t where t.id = p_transaction_id;
  if v_status = 'COMPLETED' and not p_commit then
    raise exception using errcode = 'TK107', message = format('transaction %s is COMPLETED and can not be reverted', p_transaction_id),
      hint = 'Book a correcting entry instead.';
  end if;
  return v_status;
end
$$;
comment on function credits.resolve(bigint, boolean, text) is
  'Commit a PENDING entry, or revert it (p_commit false). Its status: COMPLETED, or FAILED when it was reverted or the balance did not allow it (notes say which). Resolved before: the status it has. Raises TK100 for a null p_commit, TK107 for an unknown entry or one to be reverted that is COMPLETED.';
$part$, true);
end
$pgtick$;

-- sql/56_credits_tasks.sql
do $pgtick$
begin
  perform set_config('pgtick.part_49', $part$
-- The four credit tasks, one chunk a call; the runner loops, a transaction a chunk. Every chunk may run twice at once: accounts are
-- locked in user_id order and locked ones are passed over, so that a chunk never waits with thousands of accounts in its hands;
-- what is due is read again under the locks. Each takes a keyset position, so that no chunk walks over what earlier ones have done
-- (the dead index entries too), and gives the next one.
--
-- plan_cache_mode: where rows are looked for, a generic plan would not know how long the arrays are. Where they are written it must be
-- generic, since the triggers run under it as well, and would plan anew for each row (an allocation once took 6 s). There all joins are by
-- key, and hash and merge joins off: right after a bulk load, before ANALYZE, they would read whole tables for each chunk.

create or replace function credits.check_chunk(p_limit integer)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if (p_limit between 1 and 20000) is not true then
    perform credits.invalid('limit', p_limit::text, 'a chunk has 1 to 20000 rows');
  end if;
end
$$;
comment on function credits.check_chunk(integer) is 'Raise TK100 unless p_limit is 1 to 20000.';

-- Of the users named, those whose accounts nobody else holds, now locked.
create or replace function credits.lock_free_accounts(p_user_ids uuid[])
returns uuid[]
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_locked constant uuid[] := array(select a.user_id from credits.accounts as a where a.user_id = any (p_user_ids) order by a.user_id for no key update skip locked);
begin
  perform set_config('credits.chunk_users', (coalesce(nullif(current_setting('credits.chunk_users', true), '')::uuid[], '{}') || v_locked)::text, true);
  return v_locked;
end
$$;
comment on function credits.lock_free_accounts(uuid[]) is 'Lock the accounts of these users in order, passing over those that are locked by others. Which were locked; chunk_faults() looks at them.';

-- The gate of the tasks that book: what the rules beside the tables keep is seen here from the other side, account by account, before the
-- chunk commits. Two entries an account, by the index, so that it costs a chunk the same however long the ledger is.
create or replace function credits.chunk_faults()
returns table (user_id uuid, what text, balance bigint, held bigint, seq bigint, last_entry bigint)
language plpgsql stable parallel safe
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
begin
  return query
  select a.user_id, f.what, a.balance, a.held, a.seq, t.id
  from unnest(nullif(current_setting('credits.chunk_users', true), '')::uuid[]) as u(user_id)
  cross join lateral (select x.* from credits.accounts as x where x.user_id = u.user_id offset 0) as a
  left join lateral (
    select x.id, x.seq, x.amount, x.held_amount, x.balance_after, x.held_after, x.hash
    from credits.transactions as x where x.user_id = a.user_id and x.seq is not null order by x.seq desc limit 1) as t on true
  left join lateral (
    select x.balance_after, x.held_after from credits.transactions as x where x.user_id = a.user_id and x.seq = t.seq - 1 limit 1) as b on true
  cross join lateral (select case
    when (a.seq, a.balance, a.held, a.head_hash) is distinct from (coalesce(t.seq, 0), coalesce(t.balance_after, 0), coalesce(t.held_after, 0), coalesce(t.hash, ''))
      then 'the account is not what its last entry says'
    when t.seq > 1 and b.balance_after is null then 'the entry before the last is missing'
    when t.balance_after <> coalesce(b.balance_after, 0) + t.amount or t.held_after <> coalesce(b.held_after, 0) + t.held_amount
      then 'the last entry does not continue the one before' end as what) as f
  where f.what is not null;
end
$$;
comment on function credits.chunk_faults() is
  'What is wrong with the accounts that this transaction''s chunks have locked: empty, or the transaction must not commit. The query of the gate "credits: accounts continue their entries".';

-- Definer: the runner has no rights on the tables.
create or replace function credits.cleanup_chunk(
  p_after_at timestamptz, p_after_id bigint, p_limit integer,
  out todo bigint, out last_at timestamptz, out last_id bigint, out seen bigint, out busy bigint, out released bigint, out credits numeric)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_due_at timestamptz := pgtick.now();
  v_ids bigint[];
  v_locked uuid[];
begin
  perform credits.check_chunk(p_limit);
  if p_after_id is null then
    todo := (select count(*) from credits.holds as h where h.status = 'open' and h.expires_at <= v_due_at);
  end if;
  v_ids := array(
    select h.id
    from credits.holds as h
    where h.status = 'open' and h.expires_at <= v_due_at and (h.expires_at, h.id) > (coalesce(p_after_at, '-infinity'), coalesce(p_after_id, 0))
    order by h.expires_at, h.id
    limit p_limit);
  seen := cardinality(v_ids);
  select h.expires_at, h.id into last_at, last_id from credits.holds as h where h.id = v_ids[seen];
  v_locked := credits.lock_free_accounts(array(select distinct h.user_id from credits.holds as h where h.id = any (v_ids)));
  busy := (select count(*) from credits.holds as h where h.id = any (v_ids) and h.user_id <> all (v_locked));
  select r.released, r.credits into released, credits
  from credits.release_expired(
    array(select h.id from credits.holds as h where h.id = any (v_ids) and h.user_id = any (v_locked)), pgtick.now(), 'expired: released by cleanup') as r;
end
$$;
comment on function credits.cleanup_chunk(timestamptz, bigint, integer) is
  'Release up to p_limit (1 to 20000) expired holds that come after the position (p_after_at, p_after_id), null for the start. The next position; how many were seen (0: the end), left because their account was busy, and released, of how many credits; at the start also how many there are to do. Raises TK100.';

-- Definer: the runner has no rights on the tables.
create or replace function credits.allocate_chunk(
  p_period date, p_after uuid, p_limit integer,
  out period date, out todo bigint, out last_user uuid, out seen bigint, out busy bigint, out allocated bigint, out credits numeric, out overflowing bigint)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_this_month date := date_trunc('month', pgtick.now() at time zone 'UTC')::date;
  v_users uuid[];
  v_due uuid[];
  v_locked uuid[];
begin
  perform credits.check_chunk(p_limit);
  period := coalesce(p_period, v_this_month);
  if extract(day from period) <> 1 or period > v_this_month then
    perform credits.invalid('period', period::text, 'the first day of this month (UTC) or of an earlier one');
  end if;
  if p_after is null then
    todo := (select count(*) from credits.accounts);
  end if;
  v_users := array(select a.user_id from credits.accounts as a where p_after is null or a.user_id > p_after order by a.user_id limit p_limit);
  seen := cardinality(v_users);
  last_user := v_users[seen];
  v_due := array(select d.user_id from credits.allocations_due(period, v_users) as d);
  v_locked := credits.lock_free_accounts(v_due);
  busy := cardinality(v_due) - cardinality(v_locked);
  select g.allocated, g.credits into allocated, credits from credits.allocate_locked(period, v_locked) as g;
  overflowing := (select count(*) from credits.allocations_due(period, v_locked));
end
$$;
comment on function credits.allocate_chunk(date, uuid, integer) is
  'Give the accounts after user p_after (null for the start), at most p_limit (1 to 20000) of them, what their tiers give for the month that begins on p_period (null: this month, UTC), where they have not got it. The month; the last user; how many were seen (0: the end), left because they were busy, given to, with how many credits, and passed over because their balance can not hold it; at the start also how many accounts there are. Raises TK100, also for a month to come.';

-- What is due is read here, by a statement that began after the locks: another session may have been faster.
create or replace function credits.allocate_locked(p_period date, p_user_ids uuid[], out allocated bigint, out credits numeric)
language plpgsql volatile parallel unsafe
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
declare
  v_now constant timestamptz := pgtick.now();
begin
  with due as materialized (
    select d.user_id, d.amount, a.balance + d.amount as balance_after, a.held, a.seq + 1 as seq, a.head_hash,
      nextval('credits.transactions_id_seq') as id, uuid_send(gen_random_uuid()) as salt
    from credits.allocations_due(p_period, p_user_ids) as d
    join credits.accounts as a on a.user_id = d.user_id
    where a.balance <= 9223372036854775807 - d.amount
  ), hashed as materialized (
    select d.*, sha256(d.head_hash || record_send(row(d.id, d.user_id, d.seq, 'allocation'::bytea, d.amount, 0::bigint, d.balance_after, d.held, null::bigint,
      null::bigint, p_period, v_now, v_now, null::bytea, null::bytea, null::bytea, null::bytea))) as hash
    from due as d
  ), moved as (
    update credits.accounts as a set balance = h.balance_after, seq = h.seq, head_hash = h.hash from hashed as h where a.user_id = h.user_id
  ), booked as (
    insert into credits.transactions (id, user_id, seq, type, status, amount, balance_after, held_after, period, created_at, final_at, salt, hash)
    overriding system value
    select h.id, h.user_id, h.seq, 'allocation', 'COMPLETED', h.amount, h.balance_after, h.held, p_period, v_now, v_now, h.salt, h.hash
    from hashed as h
  )
  select count(*), coalesce(sum(h.amount), 0) into allocated, credits from hashed as h;
end
$$;
comment on function credits.allocate_locked(date, uuid[]) is
  'Give these users, whose accounts are locked, what their tiers give for the month that begins on p_period, where they have not got it and their balance can hold it. To how many, and how many credits.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.allocate(p_user_id uuid)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_period constant date := date_trunc('month', pgtick.now() at time zone 'UTC')::date;
begin
  if p_user_id is null then
    perform credits.invalid('user_id', null, 'an operation names its user');
  end if;
  perform credits.lock_account(p_user_id), credits.allocate_locked(v_period, array[p_user_id]);
  return (select t.id from credits.transactions as t where uuid_send(t.user_id) = uuid_send(p_user_id) and t.period = v_period);
end
$$;
comment on function credits.allocate(uuid) is
  'Give a user this month''s (UTC) credits now, by tier and the setting allocation_for_new, unless that is done: for an account that is opened after the month''s run. The id of the month''s allocation; null where there is nothing to give. Raises TK100 without a user, TK102 for an unknown one.';

create or replace function credits.allocations_due(p_period date, p_user_ids uuid[])
returns table (user_id uuid, amount bigint)
language plpgsql stable parallel safe
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_for_new constant text := credits.allocation_for_new();
begin
  return query
  select d.user_id, d.amount
  from (
    select a.user_id, case
        when a.created_at < p_period at time zone 'UTC' then t.monthly_credits
        else credits.month_share(t.monthly_credits, a.created_at, p_period, v_for_new) end as amount
    from credits.accounts as a
    join credits.tiers as t on t.name = a.tier
    where a.user_id = any (p_user_ids)
  ) as d
  where d.amount > 0
    -- The limit keeps this a look-up in the index for each account; a join would read the whole table where statistics are old.
    and not coalesce((select true from credits.transactions as x where uuid_send(x.user_id) = uuid_send(d.user_id) and x.period = p_period limit 1), false);
end
$$;
comment on function credits.allocations_due(date, uuid[]) is
  'Which of these users get an allocation for the month, and how much: by tier, for the month of its opening by the setting allocation_for_new, nothing for months before, and nothing twice.';

-- Definer: the runner has no rights on the tables.
create or replace function credits.resolve_chunk(
  p_after_at timestamptz, p_after_id bigint, p_limit integer,
  out todo bigint, out last_at timestamptz, out last_id bigint, out seen bigint, out busy bigint, out committed bigint, out reverted bigint, out failed bigint,
  out credits_added numeric, out credits_deducted numeric)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_due_at timestamptz := pgtick.now();
  v_ids bigint[];
  v_commits boolean[];
  v_notes text[];
  v_locked uuid[];
begin
  perform credits.check_chunk(p_limit);
  if p_after_id is null then
    todo := (
      select count(*)
      from credits.transactions as t
      join credits.pending_rules as r on r.type = t.type
      where t.status = 'PENDING' and t.created_at <= v_due_at - r.after);
  end if;
  v_ids := array(
    select t.id
    from credits.transactions as t
    join credits.pending_rules as r on r.type = t.type
    where t.status = 'PENDING' and t.created_at <= v_due_at - r.after
      and t.created_at <= v_due_at - (select min(x.after) from credits.pending_rules as x)
      and (t.created_at, t.id) > (coalesce(p_after_at, '-infinity'), coalesce(p_after_id, 0))
    order by t.created_at, t.id
    limit p_limit);
  seen := cardinality(v_ids);
  select t.created_at, t.id into last_at, last_id from credits.transactions as t where t.id = v_ids[seen];
  v_locked := credits.lock_free_accounts(array(select distinct t.user_id from credits.transactions as t where t.id = any (v_ids)));
  busy := (select count(*) from credits.transactions as t where t.id = any (v_ids) and t.user_id <> all (v_locked));
  select array_agg(t.id), array_agg(r.action = 'commit'),
    array_agg(format('%s: pending for longer than %s', case r.action when 'commit' then 'committed' else 'reverted' end, r.after))
  into v_ids, v_commits, v_notes
  from credits.transactions as t
  join credits.pending_rules as r on r.type = t.type
  where t.id = any (v_ids) and t.user_id = any (v_locked) and t.status = 'PENDING';
  select r.committed, r.reverted, r.failed, r.credits_added, r.credits_deducted
  into committed, reverted, failed, credits_added, credits_deducted
  from credits.resolve_locked(v_ids, v_commits, v_notes, pgtick.now()) as r;
end
$$;
comment on function credits.resolve_chunk(timestamptz, bigint, integer) is
  'Commit or revert, by credits.pending_rules, up to p_limit (1 to 20000) entries that have been PENDING for too long and come after the position (p_after_at, p_after_id), null for the start. The next position; how many were seen (0: the end), left because their account was busy, committed, reverted, and failed because the balance did not allow the commit; the credits added and deducted; at the start also how many there are to do. Raises TK100.';

-- Definer: the runner has no rights on the tables. Found by the mark, not by a time or an id: what commits late is not passed over.
create or replace function credits.sync_chunk(
  p_after bigint, p_limit integer, out todo bigint, out last_id bigint, out synced bigint, out credits_added numeric, out credits_deducted numeric)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_now timestamptz;
begin
  perform credits.check_chunk(p_limit);
  v_now := pgtick.now();
  if p_after is null then
    todo := credits.unsynced_count();
  end if;
  with marked as (
    update credits.transactions as t set synced_to_supabase = true, synced_at = v_now
    where t.id = any (array(
      select x.id
      from credits.transactions as x
      where not x.synced_to_supabase and x.status = 'COMPLETED' and x.id > coalesce(p_after, 0)
        and not exists (select from credits.sync_refusals as r where r.transaction_id = x.id and r.retried_at is null)
      order by x.id
      limit p_limit
      for no key update of x skip locked))
    returning t.id, t.user_id, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint, t.period, t.created_at, t.final_at
  ), inserted as (
    insert into analytics.credit_usage (transaction_id, user_id, type, amount, held_amount, balance_after, endpoint, period, created_at, completed_at, synced_at)
    select m.id, m.user_id, m.type, m.amount, m.held_amount, m.balance_after, m.endpoint, m.period, m.created_at, m.final_at, v_now from marked as m
    on conflict (transaction_id) do nothing
  ), forgotten as (
    delete from credits.sync_refusals as r using marked as m where r.transaction_id = m.id
  )
  select max(m.id), count(*), coalesce(sum(m.amount) filter (where m.amount > 0), 0), coalesce(-sum(m.amount) filter (where m.amount < 0), 0)
  into last_id, synced, credits_added, credits_deducted
  from marked as m;
end
$$;
comment on function credits.sync_chunk(bigint, integer) is
  'Copy up to p_limit (1 to 20000) completed entries with an id above p_after (null for the start) that are neither synced nor set aside into analytics.credit_usage, and mark them, in one statement. The last id; how many there were (0: the end), and the credits they added and deducted; at the start also how many there are to do. Raises TK100.';

create or replace function credits.default_schedules()
returns table (name text, cron text, task text, on_missed text, catch_up_limit integer, timeout interval)
language sql immutable parallel safe
set search_path = ''
as $$
  values
    ('cleanup-expired-credit-holds', '0 */3 * * *', 'credits.cleanup_expired_credit_holds', 'once', 100, interval '1 hour'),
    ('periodic-credit-allocation', '0 0 1 * *', 'credits.periodic_credit_allocation', 'all', 24, interval '1 hour'),
    ('process-pending-credit-transactions', '*/15 * * * *', 'credits.process_pending_transactions', 'once', 100, interval '1 hour'),
    ('sync-credit-usage-with-supabase', '*/10 * * * *', 'credits.sync_credit_usage_with_supabase', 'once', 100, interval '1 hour')
$$;
comment on function credits.default_schedules() is 'The schedules (UTC) that migrate installs where their names have never existed.';
$part$, true);
end
$pgtick$;

-- sql/57_credits_charge_many.sql
do $pgtick$
begin
  perform set_config('pgtick.part_50', $part$
-- A usage feed: many charges in one call.

-- Definer: nobody but the owner writes the tables of credits.
-- What charge() decides one by one is decided here for all at once, in the order of the rows: windows by account follow what is left, the
-- seq and the hash. Each row is joined by key: a hash join would read the whole ledger for each feed. Rows that are out of the ordinary, and
-- all of a user whose key comes twice, go through charge() itself afterwards, each in a savepoint, so that both say the same.
create or replace function credits.charge_many(
  p_user_ids uuid[], p_amounts bigint[] default null, p_idempotency_keys text[] default null, p_endpoints text[] default null,
  p_descriptions text[] default null, p_reference_ids text[] default null)
returns table (place bigint, outcome text, transaction_id bigint, code text, message text)
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = 'off'
set enable_bitmapscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
set jit = 'off'
as $$
#variable_conflict use_column
declare
  v_n constant integer := cardinality(p_user_ids);
  v_now timestamptz;
  v_places bigint[];
  v_outcomes text[];
  v_ids bigint[];
  v_codes text[];
  v_messages text[];
  v_place bigint;
begin
  if (v_n between 1 and 20000) is not true then
    perform credits.invalid('user_ids', v_n::text, 'a call has 1 to 20000 rows', 'Send a longer feed in several calls.');
  end if;
  perform credits.check_length('amounts', cardinality(p_amounts), v_n), credits.check_length('idempotency_keys', coalesce(cardinality(p_idempotency_keys), 0), v_n),
    credits.check_length('endpoints', cardinality(p_endpoints), v_n), credits.check_length('descriptions', cardinality(p_descriptions), v_n),
    credits.check_length('reference_ids', cardinality(p_reference_ids), v_n);
  perform from credits.accounts as a where a.user_id = any (p_user_ids) order by a.user_id for no key update;
  v_now := pgtick.now();
  perform credits.release_expired(array(
    select h.id
    from (
      select i.user_id, sum(greatest(i.amount, 0)) as asked, bool_or(i.amount is null) as unknown
      from unnest(p_user_ids, p_amounts, p_idempotency_keys) as i(user_id, amount, key)
      group by i.user_id
      having count(*) = count(distinct array[i.key])) as i   -- of the others charge() takes care; two without a key are as two with the same
    join credits.accounts as a on a.user_id = i.user_id and a.held > 0 and (i.unknown or a.balance - a.held < i.asked)
    join credits.holds as h on h.user_id = a.user_id and h.status = 'open' and h.expires_at <= v_now), v_now, 'expired: released when its credits were needed');

  with asked as (
    select i.*, coalesce(i.amount, r.credits_per_request) as price, a.user_id is not null and coalesce(i.amount, r.credits_per_request) > 0
        and length(i.key) between 1 and 255
        and (i.endpoint is null or length(i.endpoint) between 1 and 255 and i.endpoint !~ '[[:cntrl:]]')
        and (i.description is null or length(i.description) <= 4000) and (i.reference_id is null or length(i.reference_id) <= 255) as is_plain,
      a.balance - a.held as available, a.held, a.seq as head, a.head_hash,
      record_send(row('charge'::bytea, i.user_id, i.amount, convert_to(i.endpoint, 'UTF8'), convert_to(i.description, 'UTF8'),
        convert_to(i.reference_id, 'UTF8'))) as request,
      row_number() over (partition by i.user_id, i.key order by i.place) > 1 as is_again
    from unnest(p_user_ids, p_amounts, p_idempotency_keys, p_endpoints, p_descriptions, p_reference_ids) with ordinality
      as i(user_id, amount, key, endpoint, description, reference_id, place)
    left join credits.accounts as a on a.user_id = i.user_id
    left join credits.usage_rates as r on r.endpoint = i.endpoint and r.is_active
  ), kept as (
    select a.*, bool_or(a.is_again) over (partition by a.user_id) as is_odd from asked as a   -- what comes of the second depends on the first
  ), seen as materialized (
    select a.*, t.id as seen_id, t.request_hash = sha256(t.salt || a.request) as is_same,
      coalesce(a.is_plain, false) and not a.is_odd and t.id is null as is_new, uuid_send(gen_random_uuid()) as salt
    from kept as a
    left join lateral (
      select x.id, x.salt, x.request_hash from credits.transactions as x where uuid_send(x.user_id) = uuid_send(a.user_id) and x.idempotency_key = a.key limit 1) as t on true
  ), spent as (
    select s.*, credits.spend_next(row_number() over w = 1, s.available, s.price, s.held) as left_after
    from seen as s
    where s.is_new
    window w as (partition by s.user_id order by s.place)
  ), judged as (
    select s.*, s.left_after <> coalesce(lag(s.left_after) over w, s.available) as is_ok, coalesce(lag(s.left_after) over w, s.available) as left_before
    from spent as s
    window w as (partition by s.user_id order by s.place)
  ), numbered as (
    select j.*, j.head + row_number() over w as seq, nextval('credits.transactions_id_seq') as id, lead(j.place) over w is null as is_last,
      sha256(j.salt || j.request) as request_hash,
      case when num_nonnulls(j.description, j.reference_id) > 0 then
        sha256(record_send(row(j.salt, convert_to(j.description, 'UTF8'), convert_to(j.reference_id, 'UTF8'), null::bytea))) end as text_hash
    from judged as j
    where j.is_ok
    window w as (partition by j.user_id order by j.place)
  ), chained as materialized (
    select n.*, credits.chain_next(row_number() over w = 1, n.head_hash, record_send(row(n.id, n.user_id, n.seq, 'deduction'::bytea, -n.price, 0::bigint,
      n.left_after + n.held, n.held, null::bigint, null::bigint, null::date, v_now, v_now, convert_to(n.endpoint, 'UTF8'), convert_to(n.key, 'UTF8'), n.request_hash, n.text_hash))) as hash
    from numbered as n
    window w as (partition by n.user_id order by n.place)
  ), moved as (
    update credits.accounts as a set balance = c.left_after + c.held, seq = c.seq, head_hash = c.hash from chained as c where c.is_last and a.user_id = c.user_id
  ), booked as (
    insert into credits.transactions (id, user_id, seq, type, status, amount, balance_after, held_after, created_at, final_at,
      endpoint, idempotency_key, description, reference_id, salt, request_hash, text_hash, hash)
    overriding system value
    select c.id, c.user_id, c.seq, 'deduction', 'COMPLETED', -c.price, c.left_after + c.held, c.held, v_now, v_now,
      c.endpoint, c.key, c.description, c.reference_id, c.salt, c.request_hash, c.text_hash, c.hash
    from chained as c
  ), told as (
    select c.place, 'charged' as outcome, c.id, null as code, null as message from chained as c
    union all
    select j.place, 'refused', null, 'TK101', credits.too_few(j.price, j.left_before) from judged as j where not j.is_ok
    union all
    select s.place, case when s.is_same and s.is_plain and not s.is_odd then 'repeated' end, case when s.is_same then s.seen_id end, null, null
    from seen as s
    where not s.is_new
  )
  select array_agg(t.place order by t.place), array_agg(t.outcome order by t.place), array_agg(t.id order by t.place), array_agg(t.code order by t.place),
    array_agg(t.message order by t.place)
  into v_places, v_outcomes, v_ids, v_codes, v_messages
  from told as t;

  if array_position(v_outcomes, null) is not null then
    for v_place in select o.place from unnest(v_outcomes) with ordinality as o(outcome, place) where o.outcome is null order by o.place loop
      v_outcomes[v_place] := case when exists (
        select from credits.transactions as t where uuid_send(t.user_id) = uuid_send(p_user_ids[v_place]) and t.idempotency_key = p_idempotency_keys[v_place])
        then 'repeated' else 'charged' end;
      begin
        v_ids[v_place] := credits.charge(p_user_ids[v_place], p_amounts[v_place], p_idempotency_keys[v_place], p_endpoints[v_place],
          p_descriptions[v_place], p_reference_ids[v_place]);
      exception when sqlstate 'TK100' or sqlstate 'TK101' or sqlstate 'TK102' or sqlstate 'TK105' or sqlstate 'TK106' then
        v_ids[v_place] := null;
        v_outcomes[v_place] := 'refused';
        v_codes[v_place] := sqlstate;
        v_messages[v_place] := sqlerrm;
      end;
    end loop;
  end if;
  return query
  select o.place, o.outcome, o.id, o.code, o.message
  from unnest(v_outcomes, v_ids, v_codes, v_messages) with ordinality as o(outcome, id, code, message, place);
end
$$;
comment on function credits.charge_many(uuid[], bigint[], text[], text[], text[], text[]) is
  'As many charges (1 to 20,000) as there are users, each as by credits.charge, in this order, in one transaction; the other arrays are null or as long. A row for each: its place from 1; outcome charged, repeated (the same request was booked before) or refused; the entry; and what charge() would have raised, as code and message. One that is refused keeps no other from being booked. All accounts are locked, in user_id order. Raises TK100 for arrays of another length.';

create or replace function credits.check_length(p_field text, p_length integer, p_n integer)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  if p_length <> p_n then
    perform credits.invalid(p_field, p_length::text, format('as many as there are user_ids, %s', p_n), 'Give one for each row, null where there is none.');
  end if;
end
$$;
comment on function credits.check_length(text, integer, integer) is 'Raise TK100 where an array has another length than p_n; null is any.';
$part$, true);
end
$pgtick$;

-- sql/58_credits_corrections.sql
do $pgtick$
begin
  perform set_config('pgtick.part_51', $part$
-- What sets earlier entries right, or moves credits between users: refund, adjust, transfer; and redact, which blanks free text.

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.refund(
  p_transaction_id bigint, p_idempotency_key text, p_amount bigint default null, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_of credits.transactions;
  v_left bigint;
  v_account credits.accounts;
  e credits.transactions;
  v_request bytea;
begin
  if p_amount is not null then
    perform credits.check_amount(p_amount);
  end if;
  select * into v_of from credits.transactions as t where t.id = p_transaction_id;   -- what is read of it here never changes
  if not found then
    perform credits.unknown_transaction(p_transaction_id);
  end if;
  perform credits.check_request(v_of.user_id, p_idempotency_key, p_description, p_reference_id);
  v_request := record_send(row('refund'::bytea, p_transaction_id, p_amount, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8')));
  v_account := credits.lock_account(v_of.user_id);
  e := credits.replayed(v_of.user_id, p_idempotency_key, v_request);
  if e.id is not null then
    return e.id;
  end if;
  select t.status into v_of.status from credits.transactions as t where t.id = p_transaction_id;
  if v_of.type not in ('deduction', 'capture') or v_of.status <> 'COMPLETED' then
    raise exception using errcode = 'TK107',
      message = format('transaction %s is a %s that is %s, and can not be refunded', p_transaction_id, v_of.type, v_of.status),
      hint = 'Refund a completed deduction or capture, or book an adjustment.';
  end if;
  v_left := -v_of.amount - credits.refunded(p_transaction_id);
  if v_left = 0 then
    raise exception using errcode = 'TK107', message = format('transaction %s is refunded already, all %s of it', p_transaction_id, -v_of.amount),
      hint = 'Book an adjustment, if more is to be given.';
  end if;
  if p_amount > v_left then
    perform credits.invalid('amount', p_amount::text, format('at most what is not refunded yet, %s of %s', v_left, -v_of.amount), 'Refund less, or all that is left by giving no amount.');
  end if;
  e := credits.next_entry(v_account, 'refund', coalesce(p_amount, v_left), pgtick.now(), p_idempotency_key => p_idempotency_key, p_request => v_request,
    p_description => p_description, p_reference_id => p_reference_id, p_related_id => p_transaction_id);
  perform credits.write_entry(e);
  return e.id;
end
$$;
comment on function credits.refund(bigint, text, bigint, text, text) is
  'Give back p_amount credits of one completed deduction or capture, or all that is not refunded yet. All refunds of one entry together are at most its amount. The id of the refund; the same request again gives the same id. Raises TK100 for a bad value, also for more than is left; TK105 when the key was used for something else; TK107 for an entry that is unknown, not of that kind, or refunded.';

create or replace function credits.unknown_transaction(p_transaction_id bigint)
returns void
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  raise exception using errcode = 'TK107', message = format('there is no transaction %s', coalesce(p_transaction_id::text, 'null')),
    hint = 'Use the id that the booking gave.';
end
$$;
comment on function credits.unknown_transaction(bigint) is 'Raise TK107.';

create or replace function credits.refunded(p_transaction_id bigint)
returns bigint
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  return (select coalesce(sum(t.amount), 0) from credits.transactions as t where t.related_id = p_transaction_id and t.type = 'refund' and t.status = 'COMPLETED');
end
$$;
comment on function credits.refunded(bigint) is 'How many credits of an entry have been refunded.';

create or replace function credits.write_entry(e credits.transactions)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  with moved as (
    update credits.accounts as a set balance = e.balance_after, held = e.held_after, seq = e.seq, head_hash = e.hash where a.user_id = e.user_id
  )
  insert into credits.transactions overriding system value values (e.*);
end
$$;
comment on function credits.write_entry(credits.transactions) is 'Write a next_entry() and the head of its locked account, in one statement.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.adjust(p_user_id uuid, p_amount bigint, p_reason text, p_idempotency_key text, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_amount is null or p_amount in (0, -9223372036854775808) then
    perform credits.invalid('amount', p_amount::text, 'an adjustment adds or, below 0, takes a whole number of credits', 'Give the difference that is to be booked.');
  end if;
  if p_reason is null or p_reason !~ '[[:graph:]]' then
    perform credits.invalid('reason', p_reason, 'an adjustment says why', 'Give a reason that an auditor understands.');
  end if;
  if length(p_reason) > 4000 then
    perform credits.invalid('reason', p_reason, 'at most 4000 characters');
  end if;
  perform credits.check_request(p_user_id, p_idempotency_key, null, p_reference_id);
  return credits.book(p_user_id, 'adjustment', p_amount, p_idempotency_key,
    record_send(row('adjust'::bytea, p_user_id, p_amount, convert_to(p_reason, 'UTF8'), convert_to(p_reference_id, 'UTF8'))),
    p_description => p_reason, p_reference_id => p_reference_id);
end
$$;
comment on function credits.adjust(uuid, bigint, text, text, text) is
  'Correct a balance by p_amount, which may be negative, down to what is available, for a reason that must be given and becomes the description. The id of the entry; the same request again gives the same id. Raises TK100 for a bad value, TK101 for too few credits, TK102 for an unknown user, TK105 when the key was used for something else.';

-- Definer: nobody but the owner writes the tables of credits. Both halves are written by one statement, so that each finds the other.
create or replace function credits.transfer(
  p_from_user_id uuid, p_to_user_id uuid, p_amount bigint, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_from credits.accounts;
  v_to credits.accounts;
  v_out credits.transactions;
  v_in credits.transactions;
  v_now timestamptz;
  v_request bytea;
begin
  perform credits.check_amount(p_amount);
  perform credits.check_request(p_from_user_id, p_idempotency_key, p_description, p_reference_id);
  if p_to_user_id is null or p_to_user_id = p_from_user_id then
    perform credits.invalid('to_user_id', p_to_user_id::text, 'a transfer goes to another user');
  end if;
  v_request := record_send(row('transfer'::bytea, p_from_user_id, p_to_user_id, p_amount, convert_to(p_description, 'UTF8'), convert_to(p_reference_id, 'UTF8')));
  if p_from_user_id < p_to_user_id then
    v_from := credits.lock_account(p_from_user_id);
    v_to := credits.lock_account(p_to_user_id);
  else
    v_to := credits.lock_account(p_to_user_id);
    v_from := credits.lock_account(p_from_user_id);
  end if;
  v_out := credits.replayed(p_from_user_id, p_idempotency_key, v_request);
  if v_out.id is not null then
    return v_out.id;
  end if;
  v_now := pgtick.now();
  v_from := credits.make_available(v_from, p_amount, v_now);
  v_out.id := nextval('credits.transactions_id_seq');
  v_in := credits.next_entry(v_to, 'transfer_in', p_amount, v_now, p_description => p_description, p_reference_id => p_reference_id, p_related_id => v_out.id);
  v_out := credits.next_entry(v_from, 'transfer_out', -p_amount, v_now, p_idempotency_key => p_idempotency_key, p_request => v_request,
    p_description => p_description, p_reference_id => p_reference_id, p_related_id => v_in.id, p_id => v_out.id);
  with moved as (
    update credits.accounts as a set balance = n.balance_after, seq = n.seq, head_hash = n.hash
    from (values (v_out.user_id, v_out.balance_after, v_out.seq, v_out.hash), (v_in.user_id, v_in.balance_after, v_in.seq, v_in.hash)) as n(user_id, balance_after, seq, hash)
    where a.user_id = n.user_id
  )
  insert into credits.transactions overriding system value values (v_out.*), (v_in.*);
  return v_out.id;
end
$$;
comment on function credits.transfer(uuid, uuid, bigint, text, text, text) is
  'Move p_amount (1 or more) credits from one user to another: an entry transfer_out and an entry transfer_in, each naming the other as related_id. The id of the first; the same request again gives the same id. The key is one of the user who gives. Raises TK100 for a bad value, TK101 for too few credits, TK102 for an unknown user, TK105 when the key was used for something else.';

-- Definer: nobody but the owner writes the tables of credits. The digest of the texts stays, and with it the chain.
create or replace function credits.redact(p_transaction_id bigint)
returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_user_id uuid;
  v_entry credits.transactions;
begin
  select t.user_id into v_user_id from credits.transactions as t where t.id = p_transaction_id;   -- never changes
  if not found then
    perform credits.unknown_transaction(p_transaction_id);
  end if;
  perform credits.lock_account(v_user_id);
  select * into v_entry from credits.transactions as t where t.id = p_transaction_id;
  if v_entry.status = 'PENDING' then
    raise exception using errcode = 'TK107', message = format('transaction %s is PENDING and can not be redacted yet', p_transaction_id),
      hint = 'Call credits.resolve first.';
  end if;
  if v_entry.redacted_at is not null then
    return false;
  end if;
  update credits.transactions as t set description = null, reference_id = null, notes = null, redacted_at = pgtick.now() where t.id = p_transaction_id;
  return true;
end
$$;
comment on function credits.redact(bigint) is
  'Blank the free text of an entry: description, reference_id and notes. Its place in the chain still verifies, since that covers a salted digest of them. False when it was redacted before. Endpoint and key stay: no personal data belongs there. Raises TK107 for an entry that is unknown or PENDING.';
$part$, true);
end
$pgtick$;

-- sql/59_credits_own.sql
do $pgtick$
begin
  perform set_config('pgtick.part_52', $part$
-- What end users may do for themselves, where the owner of the application allows it: off until then.

-- It grants, so only the owner may call it.
create or replace function credits.allow_own(p_operation text, p_allowed boolean default true)
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
begin
  if (p_operation in ('charge', 'hold', 'capture', 'release')) is not true then
    perform credits.invalid('operation', p_operation, 'charge, hold, capture or release');
  end if;
  if p_allowed is null then
    perform credits.invalid('allowed', null, 'true allows it, false forbids it');
  end if;
  if p_allowed then
    insert into credits.own_operations (operation, allowed_at, allowed_by) values (p_operation, pgtick.now(), session_user) on conflict (operation) do nothing;
  else
    delete from credits.own_operations as o where o.operation = p_operation;
  end if;
  perform credits.grant_own();
end
$$;
comment on function credits.allow_own(text, boolean) is
  'Let the role authenticated charge, hold, capture or release (p_operation) credits of the user''s own account, by credits.my_charge and so on, or forbid it again. For the owner of the schema. Stays through upgrades. Raises TK100.';

create or replace function credits.grant_own()
returns void
language plpgsql volatile parallel unsafe
set search_path = ''
as $$
declare
  v_one record;
begin
  if not exists (select from pg_catalog.pg_roles as r where r.rolname = 'authenticated') then
    return;
  end if;
  for v_one in
    select p.oid::regprocedure as function, o.operation is not null as allowed
    from pg_catalog.pg_proc as p
    left join credits.own_operations as o on 'my_' || o.operation = p.proname
    where p.pronamespace = 'credits'::regnamespace and p.proname in ('my_charge', 'my_hold', 'my_capture', 'my_release')
  loop
    execute format(case when v_one.allowed then 'grant execute on function %s to authenticated' else 'revoke execute on function %s from authenticated' end, v_one.function);
  end loop;
end
$$;
comment on function credits.grant_own() is 'Grant and revoke as credits.own_operations says.';

create or replace function credits.me()
returns uuid
language plpgsql stable parallel safe
set search_path = ''
as $$
declare
  v_user_id constant uuid := pgtick.user_id();
begin
  if v_user_id is null then
    perform credits.unknown_account(null);
  end if;
  return v_user_id;
end
$$;
comment on function credits.me() is 'The end user who asks. Raises TK102 where the request names none.';

-- An end user's hold: that of another one is as if it did not exist.
create or replace function credits.check_own_hold(p_hold_id bigint)
returns void
language plpgsql stable parallel safe
set search_path = ''
as $$
begin
  if not exists (select from credits.holds as h where h.id = p_hold_id and h.user_id = credits.me()) then
    perform credits.unknown_hold(p_hold_id);
  end if;
end
$$;
comment on function credits.check_own_hold(bigint) is 'Raise TK103 unless the hold is the asking end user''s.';

-- Definer, all four: end users have no other rights to book than these.
create or replace function credits.my_charge(
  p_amount bigint default null, p_idempotency_key text default null, p_endpoint text default null, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  return credits.charge(credits.me(), p_amount, p_idempotency_key, p_endpoint, p_description, p_reference_id);
end
$$;
comment on function credits.my_charge(bigint, text, text, text, text) is 'credits.charge for the end user who asks, where credits.allow_own allows it.';

create or replace function credits.my_hold(
  p_amount bigint, p_expires_in interval, p_idempotency_key text, p_description text default null, p_reference_id text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  return credits.hold(credits.me(), p_amount, p_expires_in, p_idempotency_key, p_description, p_reference_id);
end
$$;
comment on function credits.my_hold(bigint, interval, text, text, text) is 'credits.hold for the end user who asks, where credits.allow_own allows it.';

create or replace function credits.my_capture(p_hold_id bigint, p_amount bigint default null, p_description text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform credits.check_own_hold(p_hold_id);
  return credits.capture(p_hold_id, p_amount, p_description);
end
$$;
comment on function credits.my_capture(bigint, bigint, text) is 'credits.capture for a hold of the end user who asks, where credits.allow_own allows it.';

create or replace function credits.my_release(p_hold_id bigint, p_description text default null)
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  perform credits.check_own_hold(p_hold_id);
  return credits.release(p_hold_id, p_description);
end
$$;
comment on function credits.my_release(bigint, text) is 'credits.release for a hold of the end user who asks, where credits.allow_own allows it.';
$part$, true);
end
$pgtick$;

-- sql/60_credits_sync.sql
do $pgtick$
begin
  perform set_config('pgtick.part_53', $part$
-- Handing completed entries to a target outside of this database: what it does not have yet, the mark once it has confirmed, and what it
-- refuses. The target in this database needs none of it: sync_chunk() copies and marks in one statement.
-- Nothing is locked between reading and marking, and no transaction stays open while the target is asked: entries never change, and the
-- target keeps each once, however often and by whomever it is sent. A runner that is killed in between leaves it to be sent again.

-- Definer: the runner has no rights on the tables.
create or replace function credits.unsynced_count()
returns bigint
language plpgsql stable parallel safe security definer
set search_path = ''
as $$
begin
  return (
    select count(*)
    from credits.transactions as t
    where not t.synced_to_supabase and t.status = 'COMPLETED'
      and not exists (select from credits.sync_refusals as r where r.transaction_id = t.id and r.retried_at is null));
end
$$;
comment on function credits.unsynced_count() is 'How many completed entries the analytics target does not have yet, those that are set aside not counted.';

-- Definer: the runner has no rights on the tables. Found by the mark, not by a time or an id: what commits late is not passed over.
create or replace function credits.unsynced_chunk(p_after bigint, p_limit integer)
returns setof analytics.credit_usage
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_now timestamptz;
begin
  perform credits.check_chunk(p_limit);
  v_now := pgtick.now();
  return query
  select t.id, t.user_id, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint, t.period, t.created_at, t.final_at, v_now
  from credits.transactions as t
  where not t.synced_to_supabase and t.status = 'COMPLETED' and t.id > coalesce(p_after, 0)
    and not exists (select from credits.sync_refusals as r where r.transaction_id = t.id and r.retried_at is null)
  order by t.id
  limit p_limit;
end
$$;
comment on function credits.unsynced_chunk(bigint, integer) is
  'Up to p_limit (1 to 20000) completed entries with an id above p_after (null for the start) that are neither synced nor set aside, in the order of their ids, as rows for the analytics target. Raises TK100.';

-- Definer: the runner has no rights on the tables. Locked in id order, so that two copies do not wait for each other in a circle.
create or replace function credits.mark_synced(p_ids bigint[])
returns setof bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_now timestamptz;
  v_ids bigint[] := array(
    select t.id
    from credits.transactions as t
    where t.id = any (p_ids) and not t.synced_to_supabase and t.status = 'COMPLETED'
    order by t.id
    for no key update);
begin
  v_now := pgtick.now();
  return query
  with forgotten as (
    delete from credits.sync_refusals as r where r.transaction_id = any (p_ids)
  )
  update credits.transactions as t set synced_to_supabase = true, synced_at = v_now
  where t.id = any (v_ids)
  returning t.id;
end
$$;
comment on function credits.mark_synced(bigint[]) is
  'Mark these entries as synced, once the analytics target has confirmed that it has them, and forget that it ever refused them. The ids of those that were not marked before.';

-- Definer: the runner has no rights on the tables.
create or replace function credits.set_aside(p_id bigint, p_target text, p_reason text)
returns void
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
begin
  if p_target is null or length(p_target) not between 1 and 500 then
    perform credits.invalid('target', p_target, 'a target has a name of 1 to 500 characters');
  end if;
  if p_reason is null or length(p_reason) not between 1 and 4000 then
    perform credits.invalid('reason', p_reason, 'a refusal has a reason of 1 to 4000 characters');
  end if;
  insert into credits.sync_refusals as r (transaction_id, target, reason, refused_at)
  select t.id, p_target, p_reason, pgtick.now()
  from credits.transactions as t
  where t.id = p_id and t.status = 'COMPLETED' and not t.synced_to_supabase
  on conflict (transaction_id) do update
  set target = excluded.target, reason = excluded.reason, attempts = r.attempts + 1, refused_at = excluded.refused_at, retried_at = null;
end
$$;
comment on function credits.set_aside(bigint, text, text) is
  'Note that the analytics target p_target has refused an entry, and why. Later runs of the sync pass it over until retry_refused(). Nothing happens for an entry that is synced, or not completed. Raises TK100.';

-- Definer: nobody but the owner writes the tables of credits.
create or replace function credits.retry_refused()
returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path = ''
as $$
declare
  v_count bigint;
begin
  update credits.sync_refusals as r set retried_at = pgtick.now() where r.retried_at is null;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function credits.retry_refused() is 'Let the sync hand over again what its target has refused: all entries that are set aside. How many they were.';
$part$, true);
end
$pgtick$;

-- sql/80_views.sql
do $pgtick$
begin
  perform set_config('pgtick.part_54', $part$
-- What to look at. security_invoker: each reader sees what the policies of the tables below give to that reader.

-- Three branches with the state as a constant: a question for one state reads only where it can be.
create or replace view pgtick.jobs with (security_invoker = true) as
select j.id, j.task, j.queue, 'ready' as state, j.args, j.priority, j.attempt, j.max_attempts,
  j.run_at, j.created_at, j.started_at, null::timestamptz as finished_at, s.name as schedule, j.slot, j.owner_id, n.done as progress, n.note,
  null::jsonb as result, j.earlier_attempts -> -1 -> 'error' as last_error, j.runner_id, j.uncounted, j.timeout, j.blocked_by,
  j.uniqueness ->> 'key' as unique_key, j.retry_policy, j.batch_id, j.sequence_key, j.limit_key, j.after_jobs as after, j.wanted_at, j.trace_context
from pgtick.live_jobs as j
left join pgtick.job_notes as n on n.job_id = j.id
left join pgtick.schedule_defs as s on s.id = j.schedule_id
where j.runner_id is null
union all
select j.id, j.task, j.queue, 'running', j.args, j.priority, j.attempt, j.max_attempts,
  j.run_at, j.created_at, j.started_at, null, s.name, j.slot, j.owner_id, n.done, n.note,
  null, j.earlier_attempts -> -1 -> 'error', j.runner_id, j.uncounted, j.timeout, null,
  j.uniqueness ->> 'key', j.retry_policy, j.batch_id, j.sequence_key, j.limit_key, j.after_jobs, null, j.trace_context
from pgtick.live_jobs as j
left join pgtick.job_notes as n on n.job_id = j.id
left join pgtick.schedule_defs as s on s.id = j.schedule_id
where j.runner_id is not null
union all
select h.id, h.task, h.queue, h.state, h.args, h.priority, h.attempt, h.max_attempts,
  h.run_at, h.created_at, h.started_at, h.finished_at, s.name, h.slot, h.owner_id, h.done, h.note,
  h.result, coalesce(h.error, h.earlier_attempts -> -1 -> 'error'), h.runner_id, h.uncounted, h.timeout, null,
  h.uniqueness ->> 'key', h.retry_policy, h.batch_id, h.sequence_key, h.limit_key, h.after_jobs, null, h.trace_context
from pgtick.history as h
left join pgtick.schedule_defs as s on s.id = h.schedule_id;
comment on view pgtick.jobs is 'Every job, live and finished, one row each; finished ones until they expire (done 7 days, failed and cancelled 30, or as set_retention said). By id, owner, task, and for failed and cancelled ones by state, a look-up in an index.';
comment on column pgtick.jobs.id is 'As returned by pgtick.enqueue.';
comment on column pgtick.jobs.task is 'The name of the code that runs it.';
comment on column pgtick.jobs.queue is 'Where it waits.';
comment on column pgtick.jobs.state is 'ready (also: waiting for run_at, or between attempts), running, done, failed, cancelled.';
comment on column pgtick.jobs.args is 'A JSON object for the task.';
comment on column pgtick.jobs.priority is '0 (first) to 9 (last).';
comment on column pgtick.jobs.attempt is 'Claims so far, the present one included.';
comment on column pgtick.jobs.max_attempts is 'Attempts that count before it fails; see uncounted.';
comment on column pgtick.jobs.run_at is 'When it may run, at the earliest; infinity while it is blocked.';
comment on column pgtick.jobs.created_at is 'When it was enqueued.';
comment on column pgtick.jobs.started_at is 'When the present, or the last, attempt started; null while it waits.';
comment on column pgtick.jobs.finished_at is 'When it ended; null while it is live.';
comment on column pgtick.jobs.schedule is 'The schedule that made it, or null.';
comment on column pgtick.jobs.slot is 'The planned time that it was made for, or null.';
comment on column pgtick.jobs.owner_id is 'The end user who may see it in my_jobs, or null.';
comment on column pgtick.jobs.progress is 'The share done, 0 to 1, as the task last said.';
comment on column pgtick.jobs.note is 'What the task last said.';
comment on column pgtick.jobs.result is 'What the task returned, at most 64 KiB.';
comment on column pgtick.jobs.last_error is 'The error of the latest attempt that had one: message, stack.';
comment on column pgtick.jobs.runner_id is 'The runner of the present, or the last, attempt; see pgtick.runners.';
comment on column pgtick.jobs.uncounted is 'How many of its attempts do not count towards max_attempts: snoozed, released, given back to wait for other jobs, or lost with their runner.';
comment on column pgtick.jobs.timeout is 'How long one attempt may take.';
comment on column pgtick.jobs.blocked_by is
  'What it waits for besides its time: overlap (an earlier job of its schedule), after (other jobs), batch (the jobs of the batch whose callback it is), sequence (an earlier job of its sequence), limit (a place among those of its limit key that may run); then run_at is infinity. Null = nothing.';
comment on column pgtick.jobs.unique_key is 'While it is in one of its unique states no other job of its task with this key is enqueued; null = it is not unique.';
comment on column pgtick.jobs.retry_policy is 'When to try again after an error; null = as pgtick.set_retry_policy said for its task, or the default.';
comment on column pgtick.jobs.batch_id is 'The batch that it is part of; see pgtick.batches.';
comment on column pgtick.jobs.sequence_key is 'Jobs with the same one run one at a time, in the order of their ids.';
comment on column pgtick.jobs.limit_key is 'What it counts for under the limits by key of its task.';
comment on column pgtick.jobs.after is 'The jobs that it was to wait for, its children included.';
comment on column pgtick.jobs.wanted_at is 'Of a blocked job: when it is to run once nothing is in its way.';
comment on column pgtick.jobs.trace_context is 'The trace in which it was enqueued: traceparent, tracestate.';

create or replace view pgtick.my_jobs with (security_invoker = true) as
select j.id, j.task, case when j.runner_id is null then 'ready' else 'running' end as state, n.done as progress, n.note,
  j.created_at, j.started_at, null::timestamptz as finished_at
from pgtick.live_jobs as j
left join pgtick.job_notes as n on n.job_id = j.id
where j.owner_id = (select pgtick.user_id())
union all
select h.id, h.task, h.state, h.done, h.note, h.created_at, h.started_at, h.finished_at
from pgtick.history as h
where h.owner_id = (select pgtick.user_id());
comment on view pgtick.my_jobs is 'The jobs of the end user who asks (owner_id = the JWT''s subject), without arguments, results and errors.';
comment on column pgtick.my_jobs.id is 'As returned by pgtick.enqueue.';
comment on column pgtick.my_jobs.task is 'The name of the code that runs it.';
comment on column pgtick.my_jobs.state is 'ready, running, done, failed, cancelled.';
comment on column pgtick.my_jobs.progress is 'The share done, 0 to 1.';
comment on column pgtick.my_jobs.note is 'What the task last said.';
comment on column pgtick.my_jobs.created_at is 'When it was enqueued.';
comment on column pgtick.my_jobs.started_at is 'When the present, or the last, attempt started.';
comment on column pgtick.my_jobs.finished_at is 'When it ended; null while it is live.';

create or replace view pgtick.attempts with (security_invoker = true) as
select a.job_id, a.attempt, a.started_at, a.finished_at, r.name as runner, a.outcome, a.error
from (
  select j.id as job_id, e.attempt, e.started_at, e.finished_at, e.runner_id, e.outcome, e.error
  from pgtick.live_jobs as j
  cross join lateral jsonb_to_recordset(j.earlier_attempts)
    as e(attempt integer, started_at timestamptz, finished_at timestamptz, runner_id bigint, outcome text, error jsonb)
  union all
  select j.id, j.attempt, j.started_at, null, j.runner_id, 'running', null
  from pgtick.live_jobs as j where j.runner_id is not null
  union all
  select h.id, e.attempt, e.started_at, e.finished_at, e.runner_id, e.outcome, e.error
  from pgtick.history as h
  cross join lateral jsonb_to_recordset(h.earlier_attempts)
    as e(attempt integer, started_at timestamptz, finished_at timestamptz, runner_id bigint, outcome text, error jsonb)
  union all
  select h.id, h.attempt, h.started_at, h.finished_at, h.runner_id, h.state, h.error
  from pgtick.history as h where h.started_at is not null
) as a
left join pgtick.runner_leases as r on r.id = a.runner_id;
comment on view pgtick.attempts is 'One row an attempt; of a job with more than a hundred, the latest. Ask by job_id.';
comment on column pgtick.attempts.job_id is 'The job.';
comment on column pgtick.attempts.attempt is 'Its number: 1 for the first claim.';
comment on column pgtick.attempts.started_at is 'When it was claimed.';
comment on column pgtick.attempts.finished_at is 'When its outcome was taken; null while it runs.';
comment on column pgtick.attempts.runner is 'The name of the runner; null for one that ended more than 60 days ago.';
comment on column pgtick.attempts.outcome is 'running, done, failed, cancelled; error (tried again), snoozed, released, waiting (for other jobs), lost (with its runner).';
comment on column pgtick.attempts.error is 'message and stack, cut at 8 KiB.';

create or replace view pgtick.runners with (security_invoker = true) as
select r.id, r.name, r.queues, r.tasks, r.version, r.lease_until, r.lease, r.registered_at, r.heartbeat_at, r.wakes,
  case when r.ended_as is not null then r.ended_as when r.lease_until <= pgtick.now() then 'late' else 'alive' end as state, r.ended_at,
  r.workers, r.refused, r.limits_local
from pgtick.runner_leases as r;
comment on view pgtick.runners is 'Runners, one row a registration, those that ended for 60 days.';
comment on column pgtick.runners.id is 'As returned by pgtick.register.';
comment on column pgtick.runners.name is 'As it calls itself; not unique.';
comment on column pgtick.runners.queues is 'The queues that it serves.';
comment on column pgtick.runners.tasks is 'The tasks that it serves.';
comment on column pgtick.runners.version is 'Of its program.';
comment on column pgtick.runners.lease_until is 'Until when its claims are safe without another heartbeat.';
comment on column pgtick.runners.lease is 'How far a heartbeat moves lease_until.';
comment on column pgtick.runners.registered_at is 'When it started.';
comment on column pgtick.runners.heartbeat_at is 'Its last heartbeat.';
comment on column pgtick.runners.wakes is 'false: no NOTIFY reaches it, it only polls (a pooler in transaction mode); null: not known.';
comment on column pgtick.runners.state is 'alive; late (the lease has run out, rescue will look twice); left; dead.';
comment on column pgtick.runners.ended_at is 'When it left or was found dead.';
comment on column pgtick.runners.workers is 'How many attempts it runs at a time; null = it did not say.';
comment on column pgtick.runners.limits_local is 'true: it has no Redis, so that all runners share out the rates among themselves; false: it has; null: it has no rate to keep.';
comment on column pgtick.runners.refused is 'How many of its reports came under an old fence, and changed nothing.';

create or replace view pgtick.queues with (security_invoker = true) as
with waiting as (
  select j.queue, count(*) filter (where j.runner_id is null and j.run_at <= n.now) as depth,
    count(*) filter (where j.runner_id is null and j.run_at > n.now) as scheduled, count(*) filter (where j.runner_id is not null) as running,
    min(j.run_at) filter (where j.runner_id is null and j.run_at <= n.now) as oldest
  from pgtick.live_jobs as j, (select pgtick.now() as now offset 0) as n
  group by j.queue
), served as (
  select q.queue, count(*) as runners
  from pgtick.runner_leases as r cross join unnest(r.queues) as q(queue)
  where r.freed_at is null and r.ended_at is null and r.lease_until > pgtick.now()
  group by q.queue
)
select q.queue, coalesce(w.depth, 0) as depth, w.oldest, coalesce(w.scheduled, 0) as scheduled, coalesce(w.running, 0) as running,
  coalesce(s.runners, 0) as runners, p.paused_at, p.paused_by, p.reason
from (select w.queue from waiting as w union select s.queue from served as s union select p.queue from pgtick.paused_queues as p) as q
left join waiting as w on w.queue = q.queue
left join served as s on s.queue = q.queue
left join pgtick.paused_queues as p on p.queue = q.queue;
comment on view pgtick.queues is 'Queues with live jobs, with a live runner, or paused. Counts all live jobs.';
comment on column pgtick.queues.queue is 'Its name.';
comment on column pgtick.queues.depth is 'Jobs that could run now.';
comment on column pgtick.queues.oldest is 'Since when the longest of them could.';
comment on column pgtick.queues.scheduled is 'Jobs that wait for their time, a retry or another job.';
comment on column pgtick.queues.running is 'Jobs that runners have claimed.';
comment on column pgtick.queues.runners is 'Live runners that serve it.';
comment on column pgtick.queues.paused_at is 'Since when it is paused; null = it is not.';
comment on column pgtick.queues.paused_by is 'Who paused it: the JWT''s subject, or the login role.';
comment on column pgtick.queues.reason is 'What they said.';

create or replace view pgtick.batches with (security_invoker = true) as
select b.id, b.job_id, b.created_at, b.finished_at, case when b.any_outcome then 'any' else 'done' end as outcome, l.live, h.done, h.failed, h.cancelled
from pgtick.batch_defs as b
cross join lateral (select count(*) as live from pgtick.live_jobs as j where j.batch_id = b.id) as l
cross join lateral (
  select count(*) filter (where x.state = 'done') as done, count(*) filter (where x.state = 'failed') as failed, count(*) filter (where x.state = 'cancelled') as cancelled
  from pgtick.history as x where x.batch_id = b.id) as h;
comment on view pgtick.batches is 'Batches, and what has become of their jobs. Ask by id or job_id: all jobs of a batch are counted. Kept for 400 days; finished jobs count as long as they are kept.';
comment on column pgtick.batches.id is 'As returned by pgtick.create_batch.';
comment on column pgtick.batches.job_id is 'The callback: the job that runs when all others have ended.';
comment on column pgtick.batches.created_at is 'When it was made.';
comment on column pgtick.batches.finished_at is 'When all its jobs had ended; null = not yet.';
comment on column pgtick.batches.outcome is 'any: the callback runs whatever became of them; done: only where all are done, otherwise it is cancelled.';
comment on column pgtick.batches.live is 'Jobs that have not ended.';
comment on column pgtick.batches.done is 'Jobs that are done.';
comment on column pgtick.batches.failed is 'Jobs that have failed for good.';
comment on column pgtick.batches.cancelled is 'Jobs that were cancelled.';

create or replace view pgtick.sequence_stops with (security_invoker = true) as
select s.key, s.stops[1] as stopped_by, s.stopped_at, x.waiting
from pgtick.sequences as s
cross join lateral (select count(*) as waiting from pgtick.live_jobs as j where j.sequence_key = s.key and j.id > s.stops[1]) as x
where s.stops is not null;
comment on view pgtick.sequence_stops is 'Sequences that a failed or cancelled job holds up. pgtick.retry of that job, or pgtick.resume_sequence, lets them go on.';
comment on column pgtick.sequence_stops.key is 'The sequence key.';
comment on column pgtick.sequence_stops.stopped_by is 'The job; after resume_sequence, the next one behind it that does so, if there is one.';
comment on column pgtick.sequence_stops.stopped_at is 'Since when.';
comment on column pgtick.sequence_stops.waiting is 'How many jobs wait behind it.';

create or replace view pgtick.limits with (security_invoker = true) as
select d.task, d.per_key, d.rate, d.period, d.burst, d.max_running, d.declared, d.set_at, d.set_by, cardinality(p.holders) as running
from pgtick.limit_defs as d
left join pgtick.limit_places as p on p.task = d.task and p.key = '' and not d.per_key and d.max_running is not null;
comment on view pgtick.limits is 'How many jobs of a task may start in a time, and run at once.';
comment on column pgtick.limits.task is 'The task.';
comment on column pgtick.limits.per_key is 'false: of all its jobs together; true: of each limit_key.';
comment on column pgtick.limits.rate is 'How many may start in a period; null = any number.';
comment on column pgtick.limits.period is 'The time that the rate is for.';
comment on column pgtick.limits.burst is 'How many of them may start at once.';
comment on column pgtick.limits.max_running is 'How many may run at once; null = any number.';
comment on column pgtick.limits.declared is 'true: by a runner''s code; false: by set_limit.';
comment on column pgtick.limits.set_at is 'Since when.';
comment on column pgtick.limits.set_by is 'By whom: the JWT''s subject, or the login role.';
comment on column pgtick.limits.running is 'How many run now, where max_running holds for the whole task.';

-- Tasks with ready jobs that wait and no live runner: found by steps over the lane index, whatever the number of rows.
create or replace function pgtick.waiting_tasks()
returns table (task text, since timestamptz)
language sql stable parallel safe
set search_path = ''
as $$
  with recursive step as (
    select (select min(j.task) from pgtick.live_jobs as j) as task
    union all
    select (select min(j.task) from pgtick.live_jobs as j where j.task > s.task) from step as s where s.task is not null
  )
  select s.task, first.run_at
  from step as s
  cross join lateral (
    select j.run_at from pgtick.live_jobs as j where j.task = s.task and j.runner_id is null and j.run_at <= pgtick.now() limit 1) as first
  where s.task is not null
$$;
comment on function pgtick.waiting_tasks() is 'The tasks of which at least one job could run now, and since when one of them could.';

create or replace view pgtick.health with (security_invoker = true) as
with alive as materialized (
  select r.id, r.name, r.tasks, r.wakes, r.limits_local from pgtick.runner_leases as r where r.freed_at is null and r.ended_at is null and r.lease_until > pgtick.now()
)
select 'a committed job runs' as promise, 'task without a runner' as what, format('task %s: a job waits since %s, and no live runner serves it', w.task, w.since) as evidence,
  'Start a runner that has this task, or cancel its jobs.' as remedy
from pgtick.waiting_tasks() as w
where not exists (select from alive as a where w.task = any (a.tasks))
union all
select 'a committed job runs', 'schedule without a runner', format('schedule %s: no live runner serves its task %s', s.name, s.task), 'Start a runner that has this task, or correct the schedule.'
from pgtick.schedule_defs as s
where s.next_at is not null and not exists (select from alive as a where s.task = any (a.tasks))
union all
select h.promise, h.what, h.evidence, h.remedy from pgtick.schedule_health() as h
union all
select 'a committed job runs', 'runner late', format('runner %s (%s): its lease ran out at %s', r.name, r.id, r.lease_until), 'It is frozen, cut off or dead; rescue() gives its jobs back.'
from pgtick.runner_leases as r
where r.freed_at is null and (r.ended_at is not null or r.lease_until <= pgtick.now())
union all
select 'a notification is a hint', 'runner only polls', format('runner %s (%s): no NOTIFY reaches it', a.name, a.id), 'Give it a direct or session-mode connection by LISTEN_DATABASE_URL.'
from alive as a where a.wakes is false
union all
select 'limits hold without Redis', 'runner without Redis', format('runner %s (%s): each live runner keeps its share of each rate by itself', a.name, a.id),
  'See its log. Set REDIS_URL, or put Redis right; rates are kept meanwhile, less evenly.'
from alive as a where a.limits_local
union all
select 'a committed job runs', 'sequence stopped', format('sequence %s: job %s has failed or was cancelled at %s, and the jobs behind it wait', s.key, s.stops[1], s.stopped_at),
  format('select pgtick.retry(%s); or go on without it: select pgtick.resume_sequence(%L);', s.stops[1], s.key)
from pgtick.sequences as s where s.stops is not null and exists (select from pgtick.live_jobs as j where j.sequence_key = s.key and j.id > s.stops[1])
union all
select 'speed does not decay with history', 'old transaction', format('%s, open since %s by %s: %s', coalesce('pid ' || o.pid, 'a prepared transaction'), o.since, o.who, o.what),
  coalesce(format('End it: select pg_terminate_backend(%s); until then what it may still see cannot be cleaned away.', o.pid), 'Commit it or roll it back.')
from pgtick.old_transactions('15 minutes') as o
union all
select 'speed does not decay with history', 'upkeep', format('%s, at %s: %s', u.what, u.done_at, coalesce(u.problem, 'not done for more than three hours')), 'call pgtick.run_ticks(), or select pgtick.maintain(); an open transaction on pgtick.history may be in its way.'
from pgtick.upkeep as u where u.problem is not null or (u.what = 'maintain' and u.done_at < pgtick.now() - interval '3 hours');
comment on view pgtick.health is 'What does not hold now, a row each; empty when all is well.';
comment on column pgtick.health.promise is 'The promise that is in danger.';
comment on column pgtick.health.what is 'The kind of problem.';
comment on column pgtick.health.evidence is 'What was seen.';
comment on column pgtick.health.remedy is 'What to do.';
$part$, true);
end
$pgtick$;

-- sql/81_schedule_views.sql
do $pgtick$
begin
  perform set_config('pgtick.part_55', $part$
-- Schedules to look at. security_invoker: each reader sees what the policies of the tables below give to that reader.

create or replace view pgtick.schedules with (security_invoker = true) as
select s.id, s.name, s.cron, s.time_zone, s.task, s.args, s.queue, s.priority, s.max_attempts, s.timeout, s.on_missed, s.catch_up_limit, s.catch_up_window,
  s.on_overlap, s.on_gap, s.on_fold, s.jitter, s.starts_at, s.ends_at, s.must_finish_within, s.owner_id, s.version, s.created_at, s.next_at,
  case when s.paused_until is null or s.paused_until > pgtick.now() then s.paused_at end as paused_at,
  case when s.paused_until > pgtick.now() then s.paused_until end as paused_until,
  s.broken_at, s.broken_why, latest.slot as last_slot, latest.fate as last_fate,
  (select j.state from pgtick.jobs as j where j.id = latest.job_id) as last_state,
  recent.done as recent_done, recent.failed as recent_failed, round(recent.done::numeric / nullif(recent.done + recent.failed, 0), 3) as success_rate,
  pgtick.describe(s.cron) as description, recent.typical_duration, s.source
from pgtick.schedule_defs as s
left join lateral (
  select coalesce(l.last_slot, l.slot) as slot, l.fate, l.job_id
  from pgtick.slot_log as l
  where l.schedule_id = s.id
  order by l.slot desc
  limit 1) as latest on true
left join lateral (
  select count(*) filter (where h.state = 'done') as done, count(*) filter (where h.state = 'failed') as failed,
    date_trunc('milliseconds', percentile_cont(0.5) within group (order by h.finished_at - h.started_at) filter (where h.state = 'done')) as typical_duration
  from (
    select l.job_id
    from pgtick.slot_log as l
    where l.schedule_id = s.id and l.job_id is not null
    order by l.slot desc
    limit 20) as newest
  cross join lateral (select f.state, f.started_at, f.finished_at from pgtick.history as f where f.id = newest.job_id limit 1) as h   -- by id, never by reading history
) as recent on true
where s.removed_at is null;
comment on view pgtick.schedules is 'Every schedule that is not removed, in its present version.';
comment on column pgtick.schedules.id is 'As returned by pgtick.schedule.';
comment on column pgtick.schedules.name is 'Unique; pgtick.rename_schedule changes it.';
comment on column pgtick.schedules.cron is 'As it was given.';
comment on column pgtick.schedules.time_zone is 'The zone of the expression''s wall times.';
comment on column pgtick.schedules.task is 'The task of its jobs.';
comment on column pgtick.schedules.args is 'The arguments of its jobs.';
comment on column pgtick.schedules.queue is 'The queue of its jobs.';
comment on column pgtick.schedules.priority is 'Of its jobs, 0 (first) to 9 (last).';
comment on column pgtick.schedules.max_attempts is 'Of its jobs.';
comment on column pgtick.schedules.timeout is 'Of one attempt of its jobs.';
comment on column pgtick.schedules.on_missed is 'What becomes of slots that no clock took within 2 minutes: skip, once, all.';
comment on column pgtick.schedules.catch_up_limit is 'With on_missed all: how many of the latest missed slots are caught up.';
comment on column pgtick.schedules.catch_up_window is 'With on_missed all: how old a slot may be that is caught up; null = any age.';
comment on column pgtick.schedules.on_overlap is 'What becomes of a slot while an earlier job of the schedule is live: skip, allow, cancel (that one), wait (for its end).';
comment on column pgtick.schedules.on_gap is 'A fixed time that the zone''s clock skips: run (at the gap''s end), skip.';
comment on column pgtick.schedules.on_fold is 'A fixed time that comes twice: first, last, both.';
comment on column pgtick.schedules.jitter is 'Over how much time its jobs'' starts are spread after their slots.';
comment on column pgtick.schedules.starts_at is 'The first moment that may be a slot, or null.';
comment on column pgtick.schedules.ends_at is 'The first moment that may not be a slot any more, or null.';
comment on column pgtick.schedules.must_finish_within is 'When no job is done so long after a slot, pgtick.health says so; null = no promise.';
comment on column pgtick.schedules.owner_id is 'The end user whose jobs these are, or null.';
comment on column pgtick.schedules.version is 'Which version this is: see pgtick.schedule_versions.';
comment on column pgtick.schedules.created_at is 'When the name was first scheduled.';
comment on column pgtick.schedules.next_at is 'The first slot not yet accounted for; null when none is to come.';
comment on column pgtick.schedules.paused_at is 'Since when it is paused; null = it is not.';
comment on column pgtick.schedules.paused_until is 'When the pause ends by itself; null = not before pgtick.resume_schedule.';
comment on column pgtick.schedules.broken_at is 'Since when ticks cannot account for it; null = all is well.';
comment on column pgtick.schedules.broken_why is 'The error of the last try.';
comment on column pgtick.schedules.last_slot is 'The latest slot in pgtick.slots, runs by hand included.';
comment on column pgtick.schedules.last_fate is 'What became of it.';
comment on column pgtick.schedules.last_state is 'The state of its job; null where it has none, or none any more.';
comment on column pgtick.schedules.recent_done is 'Of the newest 20 jobs, those that are done.';
comment on column pgtick.schedules.recent_failed is 'Of the newest 20 jobs, those that have failed.';
comment on column pgtick.schedules.success_rate is 'recent_done as a share of recent_done + recent_failed, 0 to 1; null when both are 0.';
comment on column pgtick.schedules.description is 'Its cron in plain English.';
comment on column pgtick.schedules.typical_duration is 'How long its jobs run: the median of the done ones among the newest 20; null when there are none.';
comment on column pgtick.schedules.source is 'What declared it, such as a file (pgtick schedules apply --source); null = a call by hand.';

create or replace view pgtick.schedule_versions with (security_invoker = true) as
select s.name as schedule, c.version, c.what, c.changed_at, c.changed_by, c.reason, c.definition,
  lead(c.changed_at) over (partition by c.schedule_id order by c.version) as replaced_at, c.schedule_id,
  lag(c.definition) over (partition by c.schedule_id order by c.version) as previous
from pgtick.schedule_changes as c
join pgtick.schedule_defs as s on s.id = c.schedule_id;
comment on view pgtick.schedule_versions is 'Every version of every schedule, removed ones included: from when it applied, who made it, and all its settings.';
comment on column pgtick.schedule_versions.schedule is 'The schedule''s present name; the name in this version is in definition.';
comment on column pgtick.schedule_versions.version is '1, 2, 3 … of each schedule; pgtick.slots.version refers to it.';
comment on column pgtick.schedule_versions.what is 'created (also: brought back), changed, paused, resumed, renamed, removed, moved (by new rules of its time zone).';
comment on column pgtick.schedule_versions.changed_at is 'Slots after this moment belong to this version, those up to it to the one before.';
comment on column pgtick.schedule_versions.changed_by is 'The JWT''s subject or the login role; pgtick.tick where it changed by itself.';
comment on column pgtick.schedule_versions.reason is 'Why, where the change was not asked for in so many words.';
comment on column pgtick.schedule_versions.definition is 'All settings, named as in pgtick.schedules.';
comment on column pgtick.schedule_versions.replaced_at is 'When the next version took over; null = it applies.';
comment on column pgtick.schedule_versions.schedule_id is 'pgtick.schedules.id.';
comment on column pgtick.schedule_versions.previous is 'All settings before this change; null in the first version.';

create or replace view pgtick.slots with (security_invoker = true) as
select s.name as schedule, l.slot, l.fate, l.version, l.reason, l.recorded_at - l.slot as lateness, l.job_id, l.recorded_at, l.last_slot, l.slots, l.clock, l.schedule_id, l.cause
from pgtick.slot_log as l
join pgtick.schedule_defs as s on s.id = l.schedule_id;
comment on view pgtick.slots is 'What became of each slot of each schedule, one row a slot, for 60 days (pgtick.set_slot_retention).';
comment on column pgtick.slots.schedule is 'The schedule''s present name.';
comment on column pgtick.slots.slot is 'The planned time.';
comment on column pgtick.slots.fate is 'enqueued, caught_up (late, by on_missed), run_now (by hand), skipped_overlap, skipped_paused, missed; missed_range and skipped_range (paused) stand for many.';
comment on column pgtick.slots.version is 'The version of the schedule that named this slot: see pgtick.schedule_versions.';
comment on column pgtick.slots.reason is 'Why it is not simply enqueued.';
comment on column pgtick.slots.lateness is 'How long after its time it was accounted for.';
comment on column pgtick.slots.job_id is 'Its job (pgtick.jobs.id), where it has one.';
comment on column pgtick.slots.recorded_at is 'When it was accounted for.';
comment on column pgtick.slots.last_slot is 'Of a range: its last slot; slot is its first.';
comment on column pgtick.slots.slots is 'Of a range: how many slots it stands for; otherwise 1.';
comment on column pgtick.slots.clock is 'Which kind of clock called: pg_cron, runner, other.';
comment on column pgtick.slots.schedule_id is 'pgtick.schedules.id.';
comment on column pgtick.slots.cause is 'The kind of the reason, for programs: server_down, no_clock, late, broken, paused, overlap; null where there is none.';

-- For end users: what runs on their behalf, without arguments and reasons.
create or replace view pgtick.my_schedules with (security_invoker = true) as
select s.id, s.name, s.cron, s.time_zone, s.task, s.next_at,
  case when s.paused_until is null or s.paused_until > pgtick.now() then s.paused_at end as paused_at, s.created_at
from pgtick.schedule_defs as s
where s.owner_id = (select pgtick.user_id()) and s.removed_at is null;
comment on view pgtick.my_schedules is 'The schedules of the end user who asks (owner_id = the JWT''s subject).';
comment on column pgtick.my_schedules.id is 'As in pgtick.my_slots.';
comment on column pgtick.my_schedules.name is 'Unique among all users.';
comment on column pgtick.my_schedules.cron is 'As it was given.';
comment on column pgtick.my_schedules.time_zone is 'The zone of the expression''s wall times.';
comment on column pgtick.my_schedules.task is 'The task of its jobs.';
comment on column pgtick.my_schedules.next_at is 'The next slot; null when none is to come.';
comment on column pgtick.my_schedules.paused_at is 'Since when it is paused; null = it is not.';
comment on column pgtick.my_schedules.created_at is 'When it was first scheduled.';

create or replace view pgtick.my_slots with (security_invoker = true) as
select s.name as schedule, l.slot, l.fate, l.job_id, l.last_slot, l.slots, l.recorded_at, l.schedule_id
from pgtick.slot_log as l
join pgtick.schedule_defs as s on s.id = l.schedule_id
where s.owner_id = (select pgtick.user_id());
comment on view pgtick.my_slots is 'What became of each slot of the schedules of the end user who asks.';
comment on column pgtick.my_slots.schedule is 'The schedule''s present name.';
comment on column pgtick.my_slots.slot is 'The planned time.';
comment on column pgtick.my_slots.fate is 'As in pgtick.slots.';
comment on column pgtick.my_slots.job_id is 'Its job (pgtick.my_jobs.id), where it has one.';
comment on column pgtick.my_slots.last_slot is 'Of a range: its last slot; slot is its first.';
comment on column pgtick.my_slots.slots is 'Of a range: how many slots it stands for; otherwise 1.';
comment on column pgtick.my_slots.recorded_at is 'When it was accounted for.';
comment on column pgtick.my_slots.schedule_id is 'pgtick.my_schedules.id.';
$part$, true);
end
$pgtick$;

-- sql/82_credits_views.sql
do $pgtick$
begin
  perform set_config('pgtick.part_56', $part$
-- What to look at in the ledger. security_invoker: whoever reads needs the right to the rows underneath.

create or replace view credits.allocations with (security_invoker = true) as
select t.user_id, t.period, t.amount, t.id as transaction_id, t.created_at
from credits.transactions as t
where t.period is not null;
comment on view credits.allocations is 'Which user was given the credits of which month: at most one row a user and month, ever.';
comment on column credits.allocations.user_id is 'The user.';
comment on column credits.allocations.period is 'First day of the month.';
comment on column credits.allocations.amount is 'How many credits.';
comment on column credits.allocations.transaction_id is 'The entry.';
comment on column credits.allocations.created_at is 'When it was given.';

-- For end users: own rows, by row level security, and of those what is theirs to see.
create or replace view credits.my_account with (security_invoker = true) as
select a.user_id, a.tier, a.balance, a.held, a.balance - a.held as available, a.created_at
from credits.accounts as a
where a.user_id = (select pgtick.user_id());
comment on view credits.my_account is 'The account of the end user who asks.';
comment on column credits.my_account.user_id is 'The user.';
comment on column credits.my_account.tier is 'The tier, which says how many credits each month brings.';
comment on column credits.my_account.balance is 'All credits.';
comment on column credits.my_account.held is 'Those that open holds have set aside, expired ones until they are cleaned up.';
comment on column credits.my_account.available is 'The others.';
comment on column credits.my_account.created_at is 'When the account was opened.';

create or replace view credits.my_transactions with (security_invoker = true) as
select t.id, t.type, t.amount, t.held_amount, t.status, t.balance_after, t.held_after, t.hold_id, t.description, t.endpoint, t.reference_id, t.created_at, t.final_at
from credits.transactions as t
where t.user_id = (select pgtick.user_id());
comment on view credits.my_transactions is 'The entries of the end user who asks.';
comment on column credits.my_transactions.id is 'The entry.';
comment on column credits.my_transactions.type is 'deduction, addition, allocation, refund, adjustment, hold, capture, release, transfer_out or transfer_in.';
comment on column credits.my_transactions.amount is 'What it adds to the balance.';
comment on column credits.my_transactions.held_amount is 'What it adds to held.';
comment on column credits.my_transactions.status is 'PENDING, COMPLETED or FAILED.';
comment on column credits.my_transactions.balance_after is 'The balance after it; null unless completed.';
comment on column credits.my_transactions.held_after is 'What is held after it; null unless completed.';
comment on column credits.my_transactions.hold_id is 'The hold that it opens or closes.';
comment on column credits.my_transactions.description is 'What it was for.';
comment on column credits.my_transactions.endpoint is 'The endpoint that was used.';
comment on column credits.my_transactions.reference_id is 'The application''s own reference.';
comment on column credits.my_transactions.created_at is 'When it was booked.';
comment on column credits.my_transactions.final_at is 'When it was completed or failed.';

create or replace view credits.my_holds with (security_invoker = true) as
select h.id, h.amount, h.captured, h.status, h.created_at, h.expires_at, h.closed_at
from credits.holds as h
where h.user_id = (select pgtick.user_id());
comment on view credits.my_holds is 'The holds of the end user who asks.';
comment on column credits.my_holds.id is 'The hold.';
comment on column credits.my_holds.amount is 'How many credits it sets aside.';
comment on column credits.my_holds.captured is 'How many of them were charged.';
comment on column credits.my_holds.status is 'open, captured, released or expired.';
comment on column credits.my_holds.created_at is 'When it was opened.';
comment on column credits.my_holds.expires_at is 'Until when it can be captured.';
comment on column credits.my_holds.closed_at is 'When it was closed.';

create or replace view credits.rates with (security_invoker = true) as
select r.endpoint, r.credits_per_request
from credits.usage_rates as r
where r.is_active;
comment on view credits.rates is 'What one request to each endpoint costs now.';
comment on column credits.rates.endpoint is 'The endpoint.';
comment on column credits.rates.credits_per_request is 'Its price in credits.';

-- Every invariant once more, out of the rows alone. The hash is written out, and looks at the stored hash of the entry before, so that
-- the first wrong entry is named, and only that.
-- A condition on user_id reaches the scans of every branch, for pgtick credits verify reads range by range: each branch gives the user of
-- the table that it reads first, groups and windows are by user, and other rows are looked up by scalar subqueries, or by lateral ones
-- with a limit, which no plan can turn into a join of whole tables. What an entry tells by itself is asked in one scan: a range of 63,000
-- entries takes 0.5 s; with a scan a question it took 1.1 s.
create or replace view credits.violations with (security_invoker = true) as
select 'account: held is not between 0 and balance'::text as kind, a.user_id, null::bigint as transaction_id, null::bigint as hold_id,
  format('balance %s, held %s', a.balance, a.held) as detail
from credits.accounts as a
where not a.held between 0 and a.balance
union all
select 'account: not the sum of its entries', a.user_id, null, null,
  format('balance %s, held %s, seq %s; its %s completed entries say balance %s, held %s, seq %s', a.balance, a.held, a.seq, e.entries, e.amount, e.held_amount, e.seq)
from credits.accounts as a
cross join lateral (
  select coalesce(sum(t.amount), 0) as amount, coalesce(sum(t.held_amount), 0) as held_amount, count(*) as entries, coalesce(max(t.seq), 0) as seq
  from credits.transactions as t
  where t.user_id = a.user_id and t.status = 'COMPLETED' and t.seq > 0
) as e
where (a.balance, a.held, a.seq, a.seq) is distinct from (e.amount, e.held_amount, e.entries, e.seq)
union all
select 'account: held is not the sum of its open holds', a.user_id, null, null, format('held %s, open holds %s', a.held, h.amount)
from credits.accounts as a
cross join lateral (
  select coalesce(sum(x.amount), 0) as amount from credits.holds as x where x.user_id = a.user_id and x.status = 'open'
) as h
where a.held <> h.amount
union all
select 'account: not its last entry', a.user_id, t.id, null,
  format('balance %s, held %s; the entry at %s says %s, %s%s', a.balance, a.held, a.seq, t.balance_after, t.held_after,
    case when a.head_hash is distinct from t.hash then ', and has another hash' end)
from credits.accounts as a
left join lateral (
  select x.id, x.balance_after, x.held_after, x.hash from credits.transactions as x where x.user_id = a.user_id and x.seq = a.seq limit 1
) as t on true
where case when a.seq = 0 then a.head_hash <> '' else (a.balance, a.held, a.head_hash) is distinct from (t.balance_after, t.held_after, t.hash) end
union all
select 'entry: its account is missing', u.user_id, t.id, null, t.type
from (select distinct x.user_id from credits.transactions as x) as u
cross join lateral (select x.id, x.type from credits.transactions as x where x.user_id = u.user_id offset 0) as t
where (select a.user_id from credits.accounts as a where a.user_id = u.user_id) is null
union all
select 'entry: ' || f.kind, c.user_id, c.id, f.hold_id, f.detail
from (
  select t.id, t.user_id, t.hold_id, t.related_id, t.type, t.status, t.seq, t.amount, t.held_amount, t.balance_after, t.held_after,
    case
      when t.status <> 'COMPLETED' then null
      when t.seq is distinct from row_number() over w then 'its place in the chain is wrong'
      when t.balance_after is distinct from coalesce(lag(t.balance_after) over w, 0) + t.amount
        or t.held_after is distinct from coalesce(lag(t.held_after) over w, 0) + t.held_amount then 'it does not continue the one before'
      when not t.held_after between 0 and t.balance_after then 'held is not between 0 and balance'
      when t.hash is distinct from sha256(coalesce(lag(t.hash) over w, '') || record_send(row(t.id, t.user_id, t.seq, convert_to(t.type, 'UTF8'), t.amount,
        t.held_amount, t.balance_after, t.held_after, t.hold_id, t.related_id, t.period, t.created_at, t.final_at, convert_to(t.endpoint, 'UTF8'),
        convert_to(t.idempotency_key, 'UTF8'), t.request_hash, t.text_hash))) then 'its hash is wrong'
    end as wrong_place,
    case
      when case
        when t.redacted_at is not null then num_nonnulls(t.description, t.reference_id, t.notes) > 0
        when num_nonnulls(t.description, t.reference_id, t.notes) = 0 then t.text_hash is not null
        else t.text_hash is distinct from sha256(record_send(row(t.salt, convert_to(t.description, 'UTF8'), convert_to(t.reference_id, 'UTF8'),
          convert_to(t.notes, 'UTF8'))))
      end then 'its texts do not agree with their digest'
    end as wrong_texts,
    case
      when case t.status
        when 'COMPLETED' then num_nonnulls(t.seq, t.balance_after, t.held_after, t.hash, t.final_at) < 5
        when 'PENDING' then num_nonnulls(t.seq, t.balance_after, t.held_after, t.hash, t.final_at) > 0 or t.synced_to_supabase
        when 'FAILED' then num_nonnulls(t.seq, t.balance_after, t.held_after, t.hash) > 0 or t.final_at is null or t.synced_to_supabase
        else true
      end then 'its status does not fit the columns that are set'
    end as wrong_status,
    case
      when (case t.type
        when 'deduction' then t.amount < 0 and t.held_amount = 0
        when 'hold' then t.amount = 0 and t.held_amount > 0
        when 'capture' then t.amount < 0 and t.held_amount <= t.amount
        when 'release' then t.amount = 0 and t.held_amount < 0
        when 'adjustment' then t.amount <> 0 and t.held_amount = 0
        when 'transfer_out' then t.amount < 0 and t.held_amount = 0
        when 'addition' then t.amount > 0 and t.held_amount = 0
        when 'allocation' then t.amount > 0 and t.held_amount = 0
        when 'refund' then t.amount > 0 and t.held_amount = 0
        when 'transfer_in' then t.amount > 0 and t.held_amount = 0
      end) is not true then 'its amounts do not fit its type'
    end as wrong_amounts,
    case
      when t.status = 'COMPLETED' and (t.related_id is not null or t.type in ('transfer_out', 'transfer_in')) and (
        select case t.type
          when 'refund' then o.user_id = t.user_id and o.type in ('deduction', 'capture') and o.seq < t.seq
            and -o.amount >= (select sum(r.amount) from credits.transactions as r where r.related_id = o.id and r.type = 'refund' and r.status = 'COMPLETED')
          when 'adjustment' then o.user_id = t.user_id and o.seq < t.seq
          when 'transfer_out' then o.type = 'transfer_in' and o.related_id = t.id and o.amount = -t.amount
          when 'transfer_in' then o.type = 'transfer_out' and o.related_id = t.id and o.amount = -t.amount
        end
        from credits.transactions as o where o.id = t.related_id
      ) is not true then 'it does not fit the one that it names'
    end as wrong_related,
    case
      when t.status = 'COMPLETED' and t.held_amount <> 0 and (
        select h.user_id = t.user_id and t.seq = case t.type when 'hold' then h.opened_seq else h.closed_seq end from credits.holds as h where h.id = t.hold_id
      ) is not true then 'its hold does not agree with it'
    end as wrong_hold,
    case when (t.type = 'allocation') <> (t.period is not null) then 'a month or a key twice' end as wrong_period,
    t.period, t.idempotency_key
  from credits.transactions as t
  window w as (partition by t.user_id, t.status = 'COMPLETED' order by t.seq)
) as c
cross join lateral (values
  (c.wrong_place, c.hold_id, format('%s at %s: amount %s, held_amount %s, balance_after %s, held_after %s', c.type, c.seq, c.amount, c.held_amount,
    c.balance_after, c.held_after)),
  (c.wrong_texts, null, c.type),
  (c.wrong_status, null, c.status),
  (c.wrong_amounts, c.hold_id, format('%s: amount %s, held_amount %s', c.type, c.amount, c.held_amount)),
  (c.wrong_period, null, coalesce(c.period::text, c.idempotency_key)),
  (c.wrong_related, null, format('%s of %s, names %s', c.type, c.amount, c.related_id)),
  (c.wrong_hold, c.hold_id, format('%s of %s', c.type, c.held_amount))
) as f(kind, hold_id, detail)
where num_nonnulls(c.wrong_place, c.wrong_texts, c.wrong_status, c.wrong_amounts, c.wrong_period, c.wrong_related, c.wrong_hold) > 0 and f.kind is not null
union all
select 'entry: a month or a key twice', d.user_id, t.id, null, d.idempotency_key
from (
  select x.user_id, x.idempotency_key from credits.transactions as x where x.idempotency_key is not null group by x.user_id, x.idempotency_key having count(*) > 1
) as d
cross join lateral (select x.id from credits.transactions as x where uuid_send(x.user_id) = uuid_send(d.user_id) and x.idempotency_key = d.idempotency_key offset 0) as t
union all
select 'entry: a month or a key twice', d.user_id, t.id, null, d.period::text
from (
  select x.user_id, x.period from credits.transactions as x where x.period is not null group by x.user_id, x.period having count(*) > 1
) as d
cross join lateral (select x.id from credits.transactions as x where uuid_send(x.user_id) = uuid_send(d.user_id) and x.period = d.period offset 0) as t
union all
select 'hold: it does not agree with its entries', h.user_id, null, h.id,
  format('%s: amount %s, captured %s, opened at %s, closed at %s', h.status, h.amount, h.captured, h.opened_seq, h.closed_seq)
from credits.holds as h
left join lateral (
  select x.type, x.hold_id, x.held_amount from credits.transactions as x where x.user_id = h.user_id and x.seq = h.opened_seq limit 1
) as o on true
left join lateral (
  select x.id, x.type, x.hold_id, x.held_amount, x.amount from credits.transactions as x where x.user_id = h.user_id and x.seq = h.closed_seq limit 1
) as c on true
where (o.type, o.hold_id, o.held_amount) is distinct from ('hold', h.id, h.amount)
  or case when h.status = 'open' then c.id is not null or h.closed_seq is not null else
    (c.type, c.hold_id, c.held_amount, c.amount) is distinct from (case h.status when 'captured' then 'capture' else 'release' end, h.id, -h.amount, -h.captured) end
  or h.status = 'captured' and h.closed_at >= h.expires_at;
comment on view credits.violations is 'What breaks an invariant of the ledger, worked out anew from all its rows. Always empty. Every read goes through the whole ledger.';
comment on column credits.violations.kind is 'What is wrong, with which kind of row.';
comment on column credits.violations.user_id is 'The user whose account it is.';
comment on column credits.violations.transaction_id is 'The entry, where it is about one.';
comment on column credits.violations.hold_id is 'The hold, where it is about one.';
comment on column credits.violations.detail is 'What the rows say.';
$part$, true);
end
$pgtick$;

-- sql/83_analytics_views.sql
do $pgtick$
begin
  perform set_config('pgtick.part_57', $part$
-- What was used, by day, endpoint and user, out of what the sync has handed over. security_invoker: whoever reads needs the right to the
-- rows underneath. Views, not tables: they can't be behind, and over a million rows each takes a second or two.

create or replace view analytics.credit_usage_by_day with (security_invoker = true) as
select (u.completed_at at time zone 'UTC')::date as day,
  coalesce(-sum(u.amount) filter (where u.type in ('deduction', 'capture')), 0) as charged,
  coalesce(sum(u.amount) filter (where u.type = 'refund'), 0) as refunded,
  coalesce(sum(u.amount) filter (where u.type in ('addition', 'allocation')), 0) as added,
  coalesce(sum(u.amount) filter (where u.type = 'adjustment'), 0) as adjusted,
  coalesce(sum(u.amount), 0) as net,
  count(*) filter (where u.type in ('deduction', 'capture')) as requests,
  count(distinct u.user_id) filter (where u.type in ('deduction', 'capture')) as users,
  count(*) as entries
from analytics.credit_usage as u
group by 1;
comment on view analytics.credit_usage_by_day is 'What was used and added on each day (UTC) on which there was anything.';
comment on column analytics.credit_usage_by_day.day is 'The day on which the entries were completed, in UTC.';
comment on column analytics.credit_usage_by_day.charged is 'Credits that were taken: deductions and captures.';
comment on column analytics.credit_usage_by_day.refunded is 'Credits that were given back by refunds, of whichever day the charge was.';
comment on column analytics.credit_usage_by_day.added is 'Credits that came: additions and allocations.';
comment on column analytics.credit_usage_by_day.adjusted is 'The sum of all adjustments, which may be below 0.';
comment on column analytics.credit_usage_by_day.net is 'By how much all balances together have grown.';
comment on column analytics.credit_usage_by_day.requests is 'How many deductions and captures there were.';
comment on column analytics.credit_usage_by_day.users is 'How many users were charged.';
comment on column analytics.credit_usage_by_day.entries is 'How many entries of every type there were.';

create or replace view analytics.credit_usage_by_endpoint with (security_invoker = true) as
select u.endpoint,
  -sum(u.amount) as charged,
  count(*) as requests,
  count(distinct u.user_id) as users,
  round(-avg(u.amount), 2) as credits_per_request,
  min(u.completed_at) as first_at,
  max(u.completed_at) as last_at
from analytics.credit_usage as u
where u.type in ('deduction', 'capture')
group by u.endpoint;
comment on view analytics.credit_usage_by_endpoint is 'What was charged for each endpoint. Refunds name none, and are not taken off.';
comment on column analytics.credit_usage_by_endpoint.endpoint is 'The endpoint; null for what was charged without one, captures of holds included.';
comment on column analytics.credit_usage_by_endpoint.charged is 'Credits that were taken: deductions and captures.';
comment on column analytics.credit_usage_by_endpoint.requests is 'How many these were.';
comment on column analytics.credit_usage_by_endpoint.users is 'How many users were charged.';
comment on column analytics.credit_usage_by_endpoint.credits_per_request is 'What one has cost on average.';
comment on column analytics.credit_usage_by_endpoint.first_at is 'When the first was completed.';
comment on column analytics.credit_usage_by_endpoint.last_at is 'When the last was completed.';

create or replace view analytics.credit_usage_by_user with (security_invoker = true) as
select u.user_id,
  coalesce(-sum(u.amount) filter (where u.type in ('deduction', 'capture')), 0) as charged,
  coalesce(sum(u.amount) filter (where u.type = 'refund'), 0) as refunded,
  coalesce(sum(u.amount) filter (where u.type in ('addition', 'allocation')), 0) as added,
  coalesce(sum(u.amount) filter (where u.type = 'adjustment'), 0) as adjusted,
  coalesce(sum(u.amount) filter (where u.type in ('transfer_in', 'transfer_out')), 0) as transferred,
  coalesce(sum(u.amount), 0) as net,
  count(*) filter (where u.type in ('deduction', 'capture')) as requests,
  max(u.completed_at) filter (where u.type in ('deduction', 'capture')) as last_request_at,
  count(*) as entries
from analytics.credit_usage as u
group by u.user_id;
comment on view analytics.credit_usage_by_user is 'What each user was charged and given.';
comment on column analytics.credit_usage_by_user.user_id is 'The user.';
comment on column analytics.credit_usage_by_user.charged is 'Credits that were taken: deductions and captures.';
comment on column analytics.credit_usage_by_user.refunded is 'Credits that were given back by refunds.';
comment on column analytics.credit_usage_by_user.added is 'Credits that came: additions and allocations.';
comment on column analytics.credit_usage_by_user.adjusted is 'The sum of the adjustments, which may be below 0.';
comment on column analytics.credit_usage_by_user.transferred is 'What came from other users less what went to them.';
comment on column analytics.credit_usage_by_user.net is 'The sum of all of it: the balance, when everything is synced.';
comment on column analytics.credit_usage_by_user.requests is 'How many deductions and captures there were.';
comment on column analytics.credit_usage_by_user.last_request_at is 'When the last of them was completed; null where there was none.';
comment on column analytics.credit_usage_by_user.entries is 'How many entries of every type there were.';
$part$, true);
end
$pgtick$;

-- sql/84_metrics.sql
do $pgtick$
begin
  perform set_config('pgtick.part_58', $part$
-- What a runner tells Prometheus of its database. It reads this in the background, at most every 15 s and while somebody scrapes, so nothing
-- here counts a table: each part looks up an index, or the end of a log, and stops at a bound. Whatever history, backlog and ledger hold, it
-- takes some milliseconds.

-- Depths are counted up to 50,000 jobs, shared out among the lanes (10,000 each at most), of which the first 1,000 are looked at.
create or replace function pgtick.measure_queues(p_now timestamptz)
returns table (queue text, depth bigint, oldest timestamptz, more boolean)
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_tasks text[];
  v_queues text[];
  v_priorities smallint[];
  v_most integer;
begin
  with recursive lane as (
    (select j.task, j.queue, j.priority from pgtick.live_jobs as j order by j.task, j.queue, j.priority, j.run_at, j.id + 0 limit 1)
    union all
    select next.task, next.queue, next.priority
    from lane as l
    cross join lateral (
      select j.task, j.queue, j.priority from pgtick.live_jobs as j
      where (j.task, j.queue, j.priority) > (l.task, l.queue, l.priority)
      order by j.task, j.queue, j.priority, j.run_at, j.id + 0 limit 1) as next
  )
  select array_agg(f.task), array_agg(f.queue), array_agg(f.priority) into v_tasks, v_queues, v_priorities
  from (select l.task, l.queue, l.priority from lane as l limit 1000) as f;
  v_most := 50000 / greatest(cardinality(v_tasks), 5);
  return query
  select l.queue, sum(d.depth)::bigint, min(d.oldest), bool_or(d.depth = v_most) or cardinality(v_tasks) = 1000
  from unnest(v_tasks, v_queues, v_priorities) as l(task, queue, priority)
  cross join lateral (
    select count(*) as depth, min(w.run_at) as oldest
    from (
      select j.run_at from pgtick.live_jobs as j
      where j.task = l.task and j.queue = l.queue and j.priority = l.priority and j.run_at <= p_now and j.runner_id is null
      order by j.run_at, j.id + 0
      limit v_most) as w) as d
  group by l.queue;
end
$$;
comment on function pgtick.measure_queues(timestamptz) is 'How many jobs of each queue could run, and since when the oldest of them could; more: there are others that were not counted. Queues without a live job are left out.';

-- The log of slots has no index by the time at which they were accounted for, and needs none: rows are added at a partition's end, so it is read
-- backwards from there, by pages, until what it finds is old (never more than 1,024 pages). Of partitions it takes the default one and those
-- of the last week.
create or replace function pgtick.measure_slots(p_after timestamptz, p_until timestamptz)
returns table (fate text, part integer, slots bigint, late double precision)
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_part record;
  v_from bigint;
  v_step integer;
  v_oldest timestamptz;
begin
  for v_part in
    select format('%I.%I', n.nspname, c.relname) as name, pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::bigint as pages
    from pg_catalog.pg_inherits as i
    join pg_catalog.pg_class as c on c.oid = i.inhrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where i.inhparent = 'pgtick.slot_log'::regclass
    order by c.relname desc
    limit 12   -- the default one, those made ahead, and eight days
  loop
    continue when v_part.pages = 0;
    v_from := v_part.pages;
    v_step := 16;   -- sessions fill pages of their own beside one another
    loop
      v_from := greatest(v_from - v_step, 0);
      execute format('select min(l.recorded_at) from %s as l where l.ctid >= $1 and l.ctid < $2', v_part.name)
      into v_oldest using format('(%s,0)', v_from)::tid, format('(%s,0)', v_from + v_step)::tid;
      exit when v_from = 0 or v_oldest <= p_after or v_part.pages - v_from >= 1024;
      v_step := least(v_step * 2, 1024);
    end loop;
    return query execute format('
      select l.fate, l.part, sum(l.slots)::bigint, sum(l.late)::double precision
      from (
        select l.fate, l.slots, case when l.fate in (''enqueued'', ''caught_up'') then greatest(extract(epoch from l.recorded_at - l.slot), 0) end as late,
          case when l.fate in (''enqueued'', ''caught_up'')
            then width_bucket(greatest(extract(epoch from l.recorded_at - l.slot), 0)::double precision, $4) else -1 end as part
        from %s as l
        where l.ctid >= $1 and l.recorded_at > $2 and l.recorded_at <= $3) as l
      group by l.fate, l.part', v_part.name)
    using format('(%s,0)', v_from)::tid, p_after, p_until, pgtick.lateness_bounds();
  end loop;
end
$$;
comment on function pgtick.measure_slots(timestamptz, timestamptz) is
  'How many slots were accounted for after p_after and up to p_until, by fate; of those with a job also by part: between which two of lateness_bounds their lateness lies (0: below the first), and its sum in seconds.';

create or replace function pgtick.lateness_bounds()
returns double precision[]
language sql immutable parallel safe
set search_path = ''
as $$ select array[0.1, 1, 5, 15, 60, 120, 600, 3600, 86400]::double precision[] $$;
comment on function pgtick.lateness_bounds() is 'The bounds, in seconds, between which the lateness of slots is counted.';

-- Entries are counted by their ids, each once. Ids are given out before they are seen, so what is counted ends at an id that was the newest at an
-- earlier call, once each transaction that was open then (all below p_open) has ended.
-- The violations are those that can be seen at a glance: of the accounts of the newest 200 entries. To prove the ledger is for pgtick credits verify.
create or replace function pgtick.measure_credits(p_now timestamptz, p_after bigint, p_until bigint, p_open xid8)
returns table (what text, label text, value double precision)
language plpgsql stable parallel safe
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_until bigint := p_after;
begin
  if p_until > p_after and (p_open is null or pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= p_open) then
    v_until := least(p_until, p_after + 100000);
    return query
    select 'entries', t.type, count(*)::double precision from credits.transactions as t where t.id > p_after and t.id <= v_until group by t.type;
  end if;
  return query
  select 'entries_counted', null::text, coalesce(v_until, 0)::double precision
  union all
  select 'entries_newest', pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text, coalesce((select max(t.id) from credits.transactions as t), 0)
  union all
  select 'entries_pending', null, (select count(*) from (select from credits.transactions as t where t.status = 'PENDING' order by t.created_at, t.id limit 10000) as x)
  union all
  select 'entries_unsynced', null, (
    select count(*) from (select from credits.transactions as t where not t.synced_to_supabase and t.status = 'COMPLETED' order by t.id limit 10000) as x)
  union all
  select 'holds_open', null, (select count(*) from (select from credits.holds as h where h.status = 'open' order by h.expires_at, h.id limit 10000) as x)
  union all
  select 'holds_expired', null, (
    select count(*) from (select from credits.holds as h where h.status = 'open' and h.expires_at <= p_now order by h.expires_at, h.id limit 10000) as x)
  union all
  select 'violations', null, (
    select count(*)
    from (select distinct t.user_id from (select x.user_id from credits.transactions as x order by x.id desc limit 200) as t) as u
    left join lateral (select a.balance, a.held, a.seq, a.head_hash from credits.accounts as a where a.user_id = u.user_id) as a on true
    left join lateral (select t.balance_after, t.held_after, t.hash from credits.transactions as t where t.user_id = u.user_id and t.seq = a.seq limit 1) as e on true
    where a.seq is null or not a.held between 0 and a.balance
      or a.seq > 0 and (a.balance, a.held, a.head_hash) is distinct from (e.balance_after, e.held_after, e.hash));
end
$$;
comment on function pgtick.measure_credits(timestamptz, bigint, bigint, xid8) is
  'Figures of the ledger: entries by type with ids above p_after and up to p_until, 100,000 of them at most; and, each up to 10,000, what is pending, unsynced, held, and held too long.';

-- definer (both): pgtick_runner calls them, and reads no table.
create or replace function pgtick.measure(p_slots_after bigint default null, p_entries_after bigint default null, p_entries_until bigint default null,
  p_entries_open text default null)
returns table (what text, label text, part integer, value double precision)
language plpgsql stable parallel safe security definer
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := pgtick.now();
  -- A tick writes down when it began, and commits later.
  v_slots_until constant timestamptz := date_trunc('milliseconds', v_now) - interval '10 seconds';
  v_epoch constant timestamptz := to_timestamp(0);
begin
  if p_slots_after not between 0 and 253402300800000000 then   -- the year 10000
    perform pgtick.invalid('slots_after', p_slots_after::text, 'a moment in microseconds since 1970, as slots_until gave it');
  end if;
  if p_entries_open !~ '^[0-9]{1,19}$' then perform pgtick.invalid('entries_open', p_entries_open, 'the number of a transaction, as it was given'); end if;
  return query
  select x.what, q.queue, null::integer, x.value
  from pgtick.measure_queues(v_now) as q
  cross join lateral (values ('queue_depth', q.depth::double precision), ('queue_more', q.more::integer),
    ('queue_oldest', coalesce(extract(epoch from v_now - q.oldest), 0)::double precision)) as x(what, value)
  union all
  select 'queue_paused', p.queue, null, 1 from (select p.queue from pgtick.paused_queues as p limit 1000) as p
  union all
  select 'jobs_live', null, null, pg_catalog.pg_stat_get_live_tuples('pgtick.live_jobs'::regclass)
  union all
  select 'jobs_dead_rows', null, null, pg_catalog.pg_stat_get_dead_tuples('pgtick.live_jobs'::regclass)
  union all
  select 'runners', s.state, null, count(r.late)
  from (values ('alive', false), ('late', true)) as s(state, late)
  left join (
    select r.ended_at is not null or r.lease_until <= v_now as late from pgtick.runner_leases as r where r.freed_at is null) as r on r.late = s.late
  group by s.state
  union all
  select 'clock', c.clock, null, extract(epoch from c.ticked_at)::double precision from pgtick.clocks as c
  union all
  select 'slot_due', null, null, greatest(extract(epoch from v_now - pgtick.next_tick_at()), 0)::double precision
  union all
  select 'slots_until', null, null, (extract(epoch from v_slots_until) * 1000000)::double precision;

  if p_slots_after is not null then
    return query
    select x.what, s.fate, s.part, x.value
    from pgtick.measure_slots(v_epoch + p_slots_after * interval '1 microsecond', v_slots_until) as s
    cross join lateral (values ('slots', s.slots::double precision), ('slots_late', s.late)) as x(what, value)
    where x.value is not null;
  end if;

  return query
  select c.what, c.label, null::integer, c.value from pgtick.measure_credits(v_now, p_entries_after, p_entries_until, p_entries_open::xid8) as c;
end
$$;
comment on function pgtick.measure(bigint, bigint, bigint, text) is
  'What pgtick work tells Prometheus of the database, read by look-ups and within bounds. What it counts from call to call begins where the caller says: slots after a moment (microseconds since 1970), credit entries by id.';

-- Some of what is in danger shows only in all schedules, so this one is for once a minute.
create or replace function pgtick.measure_health()
returns table (what text, problems bigint)
language sql stable parallel unsafe security definer
set search_path = ''
set jit = off
as $$
  select h.what, count(*) from (select x.what from pgtick.health as x limit 1000) as h group by h.what
$$;
comment on function pgtick.measure_health() is 'How many rows pgtick.health has of each kind of problem, 1,000 together at most.';
$part$, true);
end
$pgtick$;

-- sql/90_grants.sql
do $pgtick$
begin
  perform set_config('pgtick.part_59', $part$
-- Rights start from nothing: each file 9x_grants_*.sql after this one grants by name what its subject needs.
-- "alter default privileges" has no effect on functions' grant to public, so it is revoked function by function, here, each time.

do $$
declare
  v_schema text;
  v_table text;
  v_role text;
begin
  foreach v_schema in array array['pgtick', 'credits', 'analytics']::text[] loop
    continue when to_regnamespace(v_schema) is null;
    for v_table in
      select c.oid::regclass::text
      from pg_catalog.pg_class as c
      where c.relnamespace = to_regnamespace(v_schema) and c.relkind in ('r', 'p') and not c.relrowsecurity
        and pg_catalog.pg_has_role(c.relowner, 'usage')
    loop
      execute format('alter table %s enable row level security', v_table);
    end loop;
    for v_role in
      select 'public'
      union all
      select quote_ident(r.rolname) from pg_catalog.pg_roles as r
      where r.rolname in ('anon', 'authenticated', 'service_role', 'pgtick_runner', 'pgtick_reader', 'pgtick_operator')
    loop
      execute format('revoke all on schema %I from %s', v_schema, v_role);
      execute format('revoke all on all tables in schema %I from %s', v_schema, v_role);
      execute format('revoke all on all sequences in schema %I from %s', v_schema, v_role);
      execute format('revoke all on all routines in schema %I from %s', v_schema, v_role);
    end loop;
  end loop;
end
$$;

select pgtick.grant_to('{authenticated,service_role,pgtick_runner,pgtick_reader}', 'usage', '{schema pgtick}');
$part$, true);
end
$pgtick$;

-- sql/91_grants_queue.sql
do $pgtick$
begin
  perform set_config('pgtick.part_60', $part$
-- The queue's rights, by role. Functions of the worker protocol are definer: the runner owns nothing and writes no table.

select pgtick.grant_to('{service_role,pgtick_runner}', 'execute', array[
  'function pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, text, text, bigint[], bigint, jsonb, text, text, jsonb)',
  'function pgtick.enqueue_many(text, jsonb[], text, integer, timestamptz, integer, interval, uuid, text[], interval, text[], text, text[], text[], bigint[], bigint, jsonb, text, text, jsonb)',
  'function pgtick.create_batch(text, jsonb, text, integer, integer, interval, uuid, text, jsonb, jsonb)']);
select pgtick.grant_to('{service_role}', 'execute', array[
  'function pgtick.cancel(bigint)',
  'function pgtick.retry(bigint)',
  'function pgtick.retry_with(bigint, jsonb, text)',
  'function pgtick.cancel_where(jsonb)',
  'function pgtick.retry_where(jsonb)',
  'function pgtick.pause_queue(text, text)',
  'function pgtick.resume_queue(text)',
  'function pgtick.set_retention(text, text, interval, text)',
  'function pgtick.set_retry_policy(text, jsonb)',
  'function pgtick.set_limit(text, bigint, interval, bigint, integer, boolean)',
  'function pgtick.remove_limit(text, boolean)',
  'function pgtick.resume_sequence(text)',
  'function pgtick.set_gates(text, text[], bigint)',
  'function pgtick.set_realtime(boolean)']);
select pgtick.grant_to('{pgtick_runner}', 'execute', array[
  'function pgtick.register(text, text[], text[], interval, text, integer)',
  'function pgtick.claim(bigint, text[], text[], integer)',
  'function pgtick.claim_lanes(bigint, text[], text[], integer, text[], text[], integer[], timestamptz[], bigint[])',
  'function pgtick.due_lanes(text[], text[], integer)',
  'function pgtick.reconcile(bigint, bigint[], bigint[])',
  'function pgtick.finish(bigint, bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[])',
  'function pgtick.check_claim(bigint, bigint)',
  'function pgtick.finish_in_transaction(bigint, bigint, jsonb)',
  'function pgtick.progress(bigint, bigint, real, text)',
  'function pgtick.checkpoint(bigint, bigint, jsonb)',
  'function pgtick.heartbeat(bigint, bigint[], bigint[])',
  'function pgtick.leave(bigint)',
  'function pgtick.sleep(bigint, interval)',
  'function pgtick.settled(xid8)',
  'function pgtick.awake(bigint)',
  'function pgtick.next_run_at(bigint)',
  'function pgtick.say_wakes(bigint, boolean)',
  'function pgtick.rescue()',
  'function pgtick.wait_for(bigint, bigint, bigint[], text)',
  'function pgtick.hold_back(bigint, bigint[], bigint[], timestamptz[], text[], timestamptz[])',
  'function pgtick.say_limits(bigint, boolean)',
  'function pgtick.count_attempts(bigint, bigint, integer, integer, integer, integer[], integer[], interval)',
  'function pgtick.limit_rules(bigint)',
  'function pgtick.declare_task(text, jsonb)',
  'function pgtick.watch_rows()',
  'function pgtick.rows_changed()',
  'function pgtick.counted_tasks(bigint)',
  'function pgtick.gate_refused(bigint, bigint, text)',
  'function pgtick.maintain()',
  'function pgtick.rebuild_indexes()',
  'function pgtick.function_call(jsonb)',
  'function pgtick.check_address(text)']);
select pgtick.grant_to('{service_role,pgtick_runner,pgtick_reader,authenticated}', 'execute', array['function pgtick.now()', 'function pgtick.user_id()']);

-- Readers see all rows; the API's service role reads as they do, so that a server can ask what became of its job.
select pgtick.grant_to('{service_role,pgtick_reader}', 'select', array['pgtick.jobs', 'pgtick.attempts', 'pgtick.runners', 'pgtick.queues', 'pgtick.health',
  'pgtick.live_jobs', 'pgtick.history', 'pgtick.job_notes', 'pgtick.runner_leases', 'pgtick.upkeep', 'pgtick.clocks', 'pgtick.paused_queues',
  'pgtick.unique_keys', 'pgtick.retry_policies', 'pgtick.retentions', 'pgtick.allowed_functions', 'pgtick.audit', 'pgtick.job_links', 'pgtick.batch_defs',
  'pgtick.sequences', 'pgtick.limit_defs', 'pgtick.limit_places', 'pgtick.gates', 'pgtick.task_rules', 'pgtick.batches', 'pgtick.limits', 'pgtick.sequence_stops', 'pgtick.attempt_counts']);
select pgtick.grant_to('{service_role,pgtick_reader}', 'execute', array[
  'function pgtick.waiting_tasks()',
  'function pgtick.why(bigint)',
  'function pgtick.old_transactions(interval)',
  'function pgtick.realtime_state()']);
-- End users: only their own rows, and of those only what my_jobs shows.
select pgtick.grant_to('{authenticated}', 'select', array['pgtick.my_jobs']);
select pgtick.grant_to('{authenticated}', 'select (id, task, runner_id, owner_id, created_at, started_at)', array['pgtick.live_jobs']);
select pgtick.grant_to('{authenticated}', 'select (id, task, state, owner_id, done, note, created_at, started_at, finished_at)', array['pgtick.history']);
select pgtick.grant_to('{authenticated}', 'select (job_id, done, note)', array['pgtick.job_notes']);

select pgtick.allow_rows(r.role, array['pgtick.live_jobs', 'pgtick.history', 'pgtick.job_notes', 'pgtick.runner_leases', 'pgtick.upkeep', 'pgtick.clocks',
  'pgtick.paused_queues', 'pgtick.unique_keys', 'pgtick.retry_policies', 'pgtick.retentions', 'pgtick.allowed_functions', 'pgtick.job_links',
  'pgtick.batch_defs', 'pgtick.sequences', 'pgtick.limit_defs', 'pgtick.limit_places', 'pgtick.gates', 'pgtick.task_rules', 'pgtick.audit', 'pgtick.attempt_counts'], 'true')
from unnest('{pgtick_reader,service_role}'::text[]) as r(role);
select pgtick.allow_rows('authenticated', array['pgtick.live_jobs', 'pgtick.history'], 'owner_id = (select pgtick.user_id())');
select pgtick.allow_rows('authenticated', array['pgtick.job_notes'], 'exists (select from pgtick.live_jobs as j where j.id = job_id)');
$part$, true);
end
$pgtick$;

-- sql/92_grants_schedules.sql
do $pgtick$
begin
  perform set_config('pgtick.part_61', $part$
-- The schedules' rights, by role.

select pgtick.grant_to('{service_role}', 'execute', array[
  'function pgtick.schedule(text, text, text, jsonb, text, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid)',
  'function pgtick.unschedule(text)',
  'function pgtick.rename_schedule(text, text)',
  'function pgtick.pause_schedule(text, timestamptz)',
  'function pgtick.resume_schedule(text, boolean)',
  'function pgtick.set_slot_retention(interval)',
  'function pgtick.run_now(text)']);
-- run_ticks is no definer, so that who calls it needs what it calls; rescue, maintain and rebuild_indexes are granted with the queue.
select pgtick.grant_to('{pgtick_runner}', 'execute', array[
  'function pgtick.tick()',
  'function pgtick.tick_chunk(integer)',
  'function pgtick.next_tick_at()',
  'function pgtick.upkeep_due(text, interval)',
  'function pgtick.check_deadlines()',
  'procedure pgtick.run_ticks()']);
-- Nor are the pure functions, for the same reason: definer functions that an end user may call are what Supabase's adviser warns of.
select pgtick.grant_to('{service_role,pgtick_reader,pgtick_runner,authenticated}', 'execute', array[
  'function pgtick.next_run(text, timestamptz, text)',
  'function pgtick.preview(text, text, timestamptz, integer)',
  'function pgtick.invalid(text, text, text, text)',
  'function pgtick.check_moment(text, timestamptz)',
  'function pgtick.check_time_zone(text)',
  'function pgtick.cron_error(text, text, integer, text, text, text)',
  'function pgtick.cron_number(text, integer, text, text)',
  'function pgtick.cron_field(text, integer, text)',
  'function pgtick.parse_cron(text)',
  'function pgtick.cron_next_wall(pgtick.cron, timestamp)',
  'function pgtick.zone_shift(text, timestamp, timestamp)',
  'function pgtick.cron_resolve(pgtick.cron, text, timestamp, boolean, boolean)',
  'function pgtick.next_slot(pgtick.cron, text, timestamptz, text, text)',
  'function pgtick.slots_between(pgtick.cron, text, timestamptz, timestamptz, integer, text, text)']);

select pgtick.grant_to('{service_role,pgtick_reader}', 'select', array['pgtick.schedules', 'pgtick.schedule_versions', 'pgtick.slots',
  'pgtick.schedule_defs', 'pgtick.schedule_changes', 'pgtick.slot_log', 'pgtick.outages', 'pgtick.overdue', 'pgtick.settings']);
select pgtick.grant_to('{service_role,pgtick_reader}', 'execute', array[
  'function pgtick.nearest_name(text, text[])',
  'function pgtick.schedule_health()',
  'function pgtick.overdue_schedules(timestamptz)',
  'function pgtick.utc(timestamptz)',
  'function pgtick.slot_retention_days()',
  'function pgtick.slot_run_at(bigint, timestamptz, interval)',
  'function pgtick.cron_month_days(pgtick.cron, integer, integer)',
  'function pgtick.cron_times_after(pgtick.cron, timestamp)',
  'function pgtick.cron_count_walls(pgtick.cron, timestamp, timestamp)',
  'function pgtick.count_slots(pgtick.cron, text, timestamptz, timestamptz, text, text)',
  'function pgtick.in_version(bigint, integer)',
  'function pgtick.version_windows(timestamptz, timestamptz)',
  'function pgtick.unaccounted_in(bigint, text, integer, timestamptz, timestamptz)',
  'function pgtick.unaccounted_slots(interval)',
  'function pgtick.check_until(timestamptz, timestamptz)',
  'function pgtick.preview_change(text, text, text, timestamptz)',
  'function pgtick.forecast_of(pgtick.schedule_defs, timestamptz, timestamptz, interval)',
  'function pgtick.forecast(timestamptz)',
  'function pgtick.why_paused(pgtick.schedule_defs)',
  'function pgtick.why_schedule(text)']);
select pgtick.allow_rows(r.role, array['pgtick.schedule_defs', 'pgtick.schedule_changes', 'pgtick.slot_log', 'pgtick.outages', 'pgtick.overdue', 'pgtick.settings'], 'true')
from unnest('{pgtick_reader,service_role}'::text[]) as r(role);

-- Words and warnings. Warnings about schedules read other tables, so they are for those who may read these.
select pgtick.grant_to('{service_role,pgtick_reader,pgtick_runner,authenticated}', 'execute', array[
  'function pgtick.describe(text)',
  'function pgtick.describe_every(integer)',
  'function pgtick.describe_span(bigint)',
  'function pgtick.describe_times(integer[], integer[], boolean, boolean)',
  'function pgtick.describe_minutes(integer[], text)',
  'function pgtick.describe_hour_runs(integer[], integer[], integer, boolean)',
  'function pgtick.describe_dates(integer[], boolean, integer[], text)',
  'function pgtick.describe_names(integer[], text[], text)',
  'function pgtick.english_list(text[])',
  'function pgtick.number_items(integer[])',
  'function pgtick.value_runs(integer[])',
  'function pgtick.even_step(integer[])',
  'function pgtick.cron_values(varbit, integer)',
  'function pgtick.time_of_day(integer)',
  'function pgtick.lint(text, text)',
  'function pgtick.lint_steps(text, integer, text)',
  'function pgtick.lint_fields(pgtick.cron, text, text[])',
  'function pgtick.lint_day_fields(pgtick.cron, text[])',
  'function pgtick.lint_late_days(pgtick.cron, text[])',
  'function pgtick.lint_every(text, integer, text, timestamptz)',
  'function pgtick.lint_shifts(pgtick.cron, text, text, text, timestamptz)',
  'function pgtick.every_text(integer)',
  'function pgtick.zone_shifts(text, timestamp, timestamp)']);
select pgtick.grant_to('{service_role,pgtick_reader}', 'execute', array[
  'function pgtick.lint_schedules(text)',
  'function pgtick.schedule_warnings(pgtick.schedule_defs)',
  'function pgtick.usual_duration(text)',
  'function pgtick.duration_text(interval)',
  'function pgtick.next_for(pgtick.schedule_defs, timestamptz)',
  'function pgtick.refuse_schedule(text)']);

-- End users: their own rows, of those what the my_ views show.
select pgtick.grant_to('{authenticated}', 'select', array['pgtick.my_schedules', 'pgtick.my_slots']);
select pgtick.grant_to('{authenticated}', 'select (id, name, cron, time_zone, task, next_at, paused_at, paused_until, owner_id, created_at, removed_at)', array['pgtick.schedule_defs']);
select pgtick.grant_to('{authenticated}', 'select (schedule_id, slot, last_slot, slots, fate, job_id, recorded_at)', array['pgtick.slot_log']);
select pgtick.allow_rows('authenticated', array['pgtick.schedule_defs'], 'owner_id = (select pgtick.user_id())');
select pgtick.allow_rows('authenticated', array['pgtick.slot_log'],
  'exists (select from pgtick.schedule_defs as d where d.id = schedule_id and d.owner_id = (select pgtick.user_id()))');
$part$, true);
end
$pgtick$;

-- sql/93_grants_credits.sql
do $pgtick$
begin
  perform set_config('pgtick.part_62', $part$
-- The ledger's rights, by role. Nobody but the owner writes a table: the functions are definer.

select pgtick.grant_to('{authenticated,service_role,pgtick_runner,pgtick_reader}', 'usage', '{schema credits}');
select pgtick.grant_to('{service_role,pgtick_reader}', 'usage', '{schema analytics}');

select pgtick.grant_to('{service_role}', 'execute', array[
  'function credits.open_account(uuid, text)',
  'function credits.balance(uuid)',
  'function credits.grant(uuid, bigint, text, text, text)',
  'function credits.charge(uuid, bigint, text, text, text, text)',
  'function credits.hold(uuid, bigint, interval, text, text, text)',
  'function credits.capture(bigint, bigint, text)',
  'function credits.release(bigint, text)',
  'function credits.submit(uuid, text, bigint, text, text, text)',
  'function credits.resolve(bigint, boolean, text)',
  'function credits.charge_many(uuid[], bigint[], text[], text[], text[], text[])',
  'function credits.extend(bigint, interval)',
  'function credits.refund(bigint, text, bigint, text, text)',
  'function credits.adjust(uuid, bigint, text, text, text)',
  'function credits.transfer(uuid, uuid, bigint, text, text, text)',
  'function credits.set_tier(uuid, text)',
  'function credits.allocate(uuid)',
  'function credits.statement(uuid, timestamptz, timestamptz)',
  'function credits.redact(bigint)',
  'function credits.retry_refused()']);
select pgtick.grant_to('{pgtick_runner}', 'execute', array[
  'function credits.cleanup_chunk(timestamptz, bigint, integer)',
  'function credits.allocate_chunk(date, uuid, integer)',
  'function credits.resolve_chunk(timestamptz, bigint, integer)',
  'function credits.sync_chunk(bigint, integer)',
  'function credits.unsynced_count()',
  'function credits.unsynced_chunk(bigint, integer)',
  'function credits.mark_synced(bigint[])',
  'function credits.set_aside(bigint, text, text)']);

select pgtick.grant_to('{pgtick_reader}', 'execute', array[
  'function credits.balance(uuid)',
  'function credits.statement(uuid, timestamptz, timestamptz)']);

-- Readers see all rows; the API's service role reads as they do, so that a server can ask what became of a request.
select pgtick.grant_to('{service_role,pgtick_reader}', 'select', array['credits.tiers', 'credits.usage_rates', 'credits.settings', 'credits.pending_rules',
  'credits.accounts', 'credits.transactions', 'credits.holds', 'credits.sync_refusals', 'credits.own_operations', 'credits.allocations', 'credits.rates',
  'credits.violations', 'analytics.credit_usage', 'analytics.credit_usage_by_day', 'analytics.credit_usage_by_endpoint', 'analytics.credit_usage_by_user']);
select pgtick.allow_rows(r.role, array['credits.tiers', 'credits.usage_rates', 'credits.settings', 'credits.pending_rules', 'credits.accounts',
  'credits.transactions', 'credits.holds', 'credits.sync_refusals', 'credits.own_operations', 'analytics.credit_usage'], 'true')
from unnest('{pgtick_reader,service_role}'::text[]) as r(role);

-- End users: their own rows, of those what the my_ views show, and the prices.
select pgtick.grant_to('{authenticated}', 'select', array['credits.my_account', 'credits.my_transactions', 'credits.my_holds', 'credits.rates']);
select pgtick.grant_to('{authenticated}', 'select (user_id, tier, balance, held, created_at)', array['credits.accounts']);
select pgtick.grant_to('{authenticated}',
  'select (id, user_id, type, amount, held_amount, status, balance_after, held_after, hold_id, description, endpoint, reference_id, created_at, final_at)',
  array['credits.transactions']);
select pgtick.grant_to('{authenticated}', 'select (id, user_id, amount, captured, status, created_at, expires_at, closed_at)', array['credits.holds']);
select pgtick.grant_to('{authenticated}', 'select (endpoint, credits_per_request, is_active)', array['credits.usage_rates']);
select pgtick.allow_rows('authenticated', array['credits.accounts', 'credits.transactions', 'credits.holds'], 'user_id = (select pgtick.user_id())');
select pgtick.allow_rows('authenticated', array['credits.usage_rates'], 'is_active');
select credits.grant_own();
$part$, true);
end
$pgtick$;

-- sql/94_grants_requests.sql
do $pgtick$
begin
  perform set_config('pgtick.part_63', $part$
-- Requests of end users: the three columns that they may fill in, and their own rows. allow_task and disallow_task are the owner's.

select pgtick.grant_to('{authenticated}', 'insert (task, args, run_at)', '{pgtick.requests}');
select pgtick.grant_to('{authenticated}', 'select (id, owner_id, task, args, run_at, created_at, job_id, place)', '{pgtick.requests}');
select pgtick.grant_to('{authenticated}', 'execute', array['function pgtick.requester()', 'function pgtick.refuse_requester(text)']);
select pgtick.allow_rows('authenticated', '{pgtick.requests}', 'owner_id = (select pgtick.user_id())');

select pgtick.grant_to('{service_role,pgtick_reader}', 'select', array['pgtick.requests', 'pgtick.allowed_tasks']);
select pgtick.allow_rows(r.role, array['pgtick.requests', 'pgtick.allowed_tasks'], 'true') from unnest('{pgtick_reader,service_role}'::text[]) as r(role);

-- The policy says whose a row is and nothing more: task and quota are the trigger's, which sees the rows under a lock.
do $$
begin
  if to_regrole('authenticated') is null then return; end if;
  drop policy if exists ask_authenticated on pgtick.requests;
  create policy ask_authenticated on pgtick.requests for insert to authenticated with check (owner_id = (select pgtick.user_id()));
end
$$;
$part$, true);
end
$pgtick$;

-- sql/95_grants_metrics.sql
do $pgtick$
begin
  perform set_config('pgtick.part_64', $part$
-- What is for Prometheus: runners serve it, and so may whoever reads.

select pgtick.grant_to('{pgtick_runner,pgtick_reader}', 'execute', array[
  'function pgtick.measure(bigint, bigint, bigint, text)',
  'function pgtick.measure_health()']);
$part$, true);
end
$pgtick$;

-- sql/96_grants_operator.sql
do $pgtick$
begin
  perform set_config('pgtick.part_65', $part$
-- Operators: they read what readers do (00_base.sql sees to it), and act on jobs, schedules and queues. Not theirs: what the owner allows others,
-- settings that hold for good (retention, gates, Realtime), the worker protocol, and the ledger.

select pgtick.grant_to('{pgtick_operator}', 'execute', array[
  'function pgtick.enqueue(text, jsonb, text, integer, timestamptz, integer, interval, uuid, text, interval, text[], text, text, text, bigint[], bigint, jsonb, text, text, jsonb)',
  'function pgtick.cancel(bigint)',
  'function pgtick.retry(bigint)',
  'function pgtick.retry_with(bigint, jsonb, text)',
  'function pgtick.cancel_where(jsonb)',
  'function pgtick.retry_where(jsonb)',
  'function pgtick.resume_sequence(text)',
  'function pgtick.pause_queue(text, text)',
  'function pgtick.resume_queue(text)',
  'function pgtick.set_limit(text, bigint, interval, bigint, integer, boolean)',
  'function pgtick.remove_limit(text, boolean)',
  'function pgtick.schedule(text, text, text, jsonb, text, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid)',
  'function pgtick.unschedule(text)',
  'function pgtick.rename_schedule(text, text)',
  'function pgtick.pause_schedule(text, timestamptz)',
  'function pgtick.resume_schedule(text, boolean)',
  'function pgtick.run_now(text)',
  'function pgtick.note_action(text, text, jsonb)']);
$part$, true);
end
$pgtick$;

-- sql/99_realtime.sql
do $pgtick$
begin
  perform set_config('pgtick.part_66', $part$
-- Last, since a new trigger locks the jobs until the commit.
select pgtick.place_realtime();
$part$, true);
end
$pgtick$;

-- steps/versions.sql
do $pgtick$
begin
  perform set_config('pgtick.part_67', $part$
-- After the functions and grants of sql/. goose makes its version table without a comment, and a runner reads in it whether the schema
-- is new enough.
comment on schema pgtick is 'Durable jobs and cron: functions to schedule and enqueue work, views of what became of it. The tables are its own business.';
comment on table pgtick.goose_db_version is 'Which migrations of the schema have been applied.';
select pgtick.grant_to('{pgtick_runner,pgtick_reader}', 'select', '{pgtick.goose_db_version}');
select pgtick.allow_rows(r.role, array['pgtick.goose_db_version'], 'true') from unnest('{pgtick_runner,pgtick_reader}'::text[]) as r(role);
$part$, true);
end
$pgtick$;

-- steps/last.sql
do $pgtick$
begin
  perform set_config('pgtick.part_68', $part$
-- The last step of each migrate, after tables and functions. It puts each thing in place only where it has never been before, so
-- that what a user has changed or removed stays so.

do $$
begin
  perform pgtick.maintain();
end
$$;

do $$
declare
  v_new record;
begin
  if to_regprocedure('credits.default_schedules()') is null then return; end if;
  perform set_config('pgtick.source', 'migrate', true);   -- what pgtick schedules apply --prune leaves alone
  for v_new in
    select s.* from credits.default_schedules() as s
    where not exists (select from pgtick.installed as i where i.kind = 'schedule' and i.name = s.name)
      and not exists (select from pgtick.schedule_defs as d where d.name = s.name)
  loop
    perform pgtick.schedule(v_new.name, v_new.cron, v_new.task, p_on_missed => v_new.on_missed,
      p_catch_up_limit => v_new.catch_up_limit, p_timeout => v_new.timeout);
    insert into pgtick.installed (kind, name, installed_at) values ('schedule', v_new.name, pgtick.now());
  end loop;
end
$$;

-- What a transaction of the credit tasks has to keep to: a chunk changes at most three rows for each of the 20,000 that it may have at most.
do $$
declare
  v_new record;
begin
  if to_regprocedure('credits.chunk_faults()') is null then return; end if;
  insert into pgtick.gates (name, query, set_at, set_by)
  select 'credits: accounts continue their entries', 'select * from credits.chunk_faults()', pgtick.now(), pgtick.caller()
  where not exists (select from pgtick.installed as i where i.kind = 'gate' and i.name = 'credits: accounts continue their entries')
  on conflict (name) do nothing;
  insert into pgtick.installed (kind, name, installed_at) values ('gate', 'credits: accounts continue their entries', pgtick.now()) on conflict (kind, name) do nothing;
  for v_new in
    select s.task, case when s.task <> 'credits.sync_credit_usage_with_supabase' then '{credits: accounts continue their entries}' else '{}' end::text[] as gates
    from credits.default_schedules() as s
    where not exists (select from pgtick.installed as i where i.kind = 'rules' and i.name = s.task)
  loop
    if not exists (select from pgtick.task_rules as r where r.task = v_new.task) and v_new.gates <@ array(select g.name from pgtick.gates as g) then
      perform pgtick.write_rules(v_new.task, v_new.gates, 60000, false);
    end if;
    insert into pgtick.installed (kind, name, installed_at) values ('rules', v_new.task, pgtick.now());
  end loop;
end
$$;

-- pg_cron in this very database. A server has it in one database only (cron.database_name); from another one it is reached through
-- cron.schedule_in_database, which takes a connection there: that is for "pgtick migrate" to do.
do $$
declare
  v_name text := 'pgtick';
  v_home text;
begin
  if exists (select from pgtick.installed as i where i.kind = 'pg_cron') then return; end if;
  begin
    v_home := current_setting('cron.database_name', true);   -- null: not loaded
  exception when insufficient_privilege then
    v_home := current_database();   -- it is loaded, but we may not know where: trying shows
  end;
  if not exists (select from pg_catalog.pg_extension as e where e.extname = 'pg_cron') then
    if v_home is distinct from current_database() then return; end if;
    if not exists (select from pg_catalog.pg_available_extensions as a where a.name = 'pg_cron') then return; end if;
    create extension pg_cron with schema pg_catalog;
  end if;
  if not exists (select from cron.job as c where c.database = current_database() and c.command = 'call pgtick.run_ticks()') then
    -- Names are unique for each user, whatever the database: the entry of another one is not ours to take over.
    if exists (select from cron.job as c where c.jobname = 'pgtick' and c.username = current_user and c.database <> current_database()) then
      v_name := 'pgtick_' || current_database();
    end if;
    perform cron.schedule(v_name, '* * * * *', 'call pgtick.run_ticks()');
  end if;
  insert into pgtick.installed (kind, name, installed_at) values ('pg_cron', v_name, pgtick.now());
exception when others then
  raise notice 'pgtick: pg_cron is not to be had here: %', sqlerrm;
end
$$;
$part$, true);
end
$pgtick$;

-- All of it. Nothing above has touched the database: it is here that the parts are run, each only where it is missing.
do $pgtick$
declare
  v_latest constant bigint := 11;
  v_hash constant text := '92297e2a834965091767f445c1cd7ad074570fc33c4548342917ce0e331e3c70';
  v_names constant text[] := array['steps/first.sql', 'migrations/00001_queue.sql', 'migrations/00002_schedules.sql', 'migrations/00003_credits.sql', 'migrations/00004_overlap_and_outages.sql', 'migrations/00005_queue_core.sql', 'migrations/00006_ledger.sql', 'migrations/00007_functions.sql', 'migrations/00008_ties.sql', 'migrations/00009_requests.sql', 'migrations/00010_realtime.sql', 'migrations/00011_attempt_counts.sql', 'sql/00_base.sql', 'sql/01_gone.sql', 'sql/10_cron.sql', 'sql/11_describe.sql', 'sql/12_lint.sql', 'sql/20_schedules.sql', 'sql/21_tick.sql', 'sql/22_calendar.sql', 'sql/26_retries.sql', 'sql/27_unique.sql', 'sql/28_retention.sql', 'sql/30_enqueue.sql', 'sql/31_runners.sql', 'sql/32_claim.sql', 'sql/33_finish.sql', 'sql/34_rescue.sql', 'sql/35_by_hand.sql', 'sql/36_addresses.sql', 'sql/37_bulk.sql', 'sql/38_queues.sql', 'sql/39_why.sql', 'sql/40_maintain.sql', 'sql/41_functions.sql', 'sql/42_ties.sql', 'sql/43_limits.sql', 'sql/44_gates.sql', 'sql/45_requests.sql', 'sql/46_realtime.sql', 'sql/47_bench.sql', 'sql/48_counts.sql', 'sql/50_credits_base.sql', 'sql/51_credits_guards.sql', 'sql/52_credits_accounts.sql', 'sql/53_credits_entries.sql', 'sql/54_credits_holds.sql', 'sql/55_credits_pending.sql', 'sql/56_credits_tasks.sql', 'sql/57_credits_charge_many.sql', 'sql/58_credits_corrections.sql', 'sql/59_credits_own.sql', 'sql/60_credits_sync.sql', 'sql/80_views.sql', 'sql/81_schedule_views.sql', 'sql/82_credits_views.sql', 'sql/83_analytics_views.sql', 'sql/84_metrics.sql', 'sql/90_grants.sql', 'sql/91_grants_queue.sql', 'sql/92_grants_schedules.sql', 'sql/93_grants_credits.sql', 'sql/94_grants_requests.sql', 'sql/95_grants_metrics.sql', 'sql/96_grants_operator.sql', 'sql/99_realtime.sql', 'steps/versions.sql', 'steps/last.sql'];
  v_in_force boolean := false;
  v_have bigint;
  v_version bigint;
  v_holder integer;
  v_tired constant timestamptz := clock_timestamp() + interval '5 minutes';
  v_part record;
  v_detail text;
  v_hint text;
begin
  -- One at a time, by the lock of "pgtick migrate". Tried for, not waited for, so that nobody is taken for part of a deadlock; and where
  -- the other one waits for us (it builds an index concurrently, which waits for all older transactions), it goes first.
  while not pg_try_advisory_xact_lock(123589637006187) loop
    select l.pid into v_holder from pg_catalog.pg_locks as l
    where l.locktype = 'advisory' and l.granted and l.classid = (123589637006187 >> 32)::oid and l.objid = (123589637006187 & 4294967295)::oid and l.objsubid = 1
      and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database());
    if clock_timestamp() > v_tired or pg_backend_pid() = any (pg_blocking_pids(v_holder)) then
      raise exception using errcode = 'TK000', message = format('another migrate is at work in database %I (process %s)', current_database(), v_holder),
        hint = 'Nothing has been changed. Wait until it has ended, then run this again.';
    end if;
    perform pg_sleep(0.05);
  end loop;

  if to_regclass('pgtick.goose_db_version') is not null then
    select max(v.version_id) into v_have from pgtick.goose_db_version as v where v.is_applied;
  end if;
  if v_have > v_latest then
    raise notice 'pgtick: nothing to do: this database has schema %, and this file brings %', v_have, v_latest;
    return;
  end if;

  execute current_setting('pgtick.part_1');   -- steps/first.sql, whose words need no others around them
  if to_regnamespace('pgtick') is null then
    create schema pgtick;
  end if;
  if to_regclass('pgtick.goose_db_version') is null then
    CREATE TABLE pgtick.goose_db_version (
		id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
		version_id bigint NOT NULL,
		is_applied boolean NOT NULL,
		tstamp timestamp NOT NULL DEFAULT now()
	);
    insert into pgtick.goose_db_version (version_id, is_applied) values (0, true);
  end if;
  if to_regclass('pgtick.applied_sql') is not null then
    select exists (select from pgtick.applied_sql as a where a.hash = v_hash and a.api_roles = array(select r.rolname::text from pg_catalog.pg_roles as r
	where r.rolname in ('anon', 'authenticated', 'service_role', 'pgtick_runner', 'pgtick_reader', 'pgtick_operator')
	union all
	select 'realtime.send' from pg_catalog.pg_namespace as own, pg_catalog.pg_proc as p
	join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
	where own.nspname = 'pgtick' and n.nspname = 'realtime' and p.proname = 'send' and oidvectortypes(p.proargtypes) = 'jsonb, text, text, boolean'
		and has_schema_privilege(own.nspowner, n.oid, 'usage') and has_function_privilege(own.nspowner, p.oid, 'execute')
	order by 1)) into v_in_force;
  end if;

  for v_part in select p.name, p.n from unnest(v_names) with ordinality as p(name, n) where p.n > 1 order by p.n loop
    v_version := substring(v_part.name from '^migrations/([0-9]+)')::bigint;
    continue when v_version is not null and exists (select from pgtick.goose_db_version as v where v.version_id = v_version and v.is_applied);
    continue when v_in_force and (v_part.name like 'sql/%' or v_part.name = 'steps/versions.sql');
    begin
      execute current_setting('pgtick.part_' || v_part.n);
    exception when others then   -- said anew, since the context of the error would be the whole part
      get stacked diagnostics v_detail = pg_exception_detail, v_hint = pg_exception_hint;
      raise exception using errcode = sqlstate, message = format('%s: %s%s', v_part.name, sqlerrm, ' (' || nullif(v_detail, '') || ')'),
        hint = coalesce(nullif(v_hint, ''), 'Nothing has been changed. When that is put right, run this again.');
    end;
    if v_version is not null then
      insert into pgtick.goose_db_version (version_id, is_applied) values (v_version, true);
      v_in_force := false;
    elsif v_part.name = 'steps/versions.sql' then
      insert into pgtick.applied_sql as a (hash, api_roles, applied_at) values (v_hash, array(select r.rolname::text from pg_catalog.pg_roles as r
	where r.rolname in ('anon', 'authenticated', 'service_role', 'pgtick_runner', 'pgtick_reader', 'pgtick_operator')
	union all
	select 'realtime.send' from pg_catalog.pg_namespace as own, pg_catalog.pg_proc as p
	join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
	where own.nspname = 'pgtick' and n.nspname = 'realtime' and p.proname = 'send' and oidvectortypes(p.proargtypes) = 'jsonb, text, text, boolean'
		and has_schema_privilege(own.nspowner, n.oid, 'usage') and has_function_privilege(own.nspowner, p.oid, 'execute')
	order by 1), pgtick.now())
	on conflict (only_row) do update set hash = excluded.hash, api_roles = excluded.api_roles, applied_at = excluded.applied_at;
    end if;
  end loop;

  if not exists (select from pgtick.installed as i where i.kind = 'pg_cron') then
    raise notice 'pgtick: no pg_cron in this database: the runner''s own timer will serve as the clock';
  end if;
end
$pgtick$;
