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
