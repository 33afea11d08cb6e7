-- What runners have finished, added up by time, for charts of all of them together. Creates a table; the new column's default is no value that
-- is stored, so no table is written anew, and the lock on the runners' rows is held for a moment.
-- +goose Up

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
