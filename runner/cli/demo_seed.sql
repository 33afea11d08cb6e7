-- Demonstration data, for a private database only: 10,000 accounts with some 100,000 entries over the last forty days, thousands of
-- expired holds and stale pending entries. All of it is booked through the functions of the ledger, under all its guards; only the clock
-- is set back meanwhile. Run it in one transaction: then nobody else ever sees that clock, and a failure leaves nothing behind.

create temporary table demo_clock on commit drop as select pg_get_functiondef('pgtick.now()'::regprocedure) as definition;
create or replace function pgtick.now()
returns timestamptz
language plpgsql volatile parallel safe
set search_path = ''
as $$ begin return clock_timestamp() - current_setting('demo.set_back')::interval; end $$;
select setseed(0.5);

insert into credits.usage_rates (endpoint, credits_per_request, is_active)
values ('/v1/chat', 3, true), ('/v1/images', 12, true), ('/v1/embeddings', 1, true), ('/v1/speech', 5, true), ('/v0/complete', 2, false)
on conflict (endpoint) do nothing;

create temporary table demo_users on commit drop as
select n, md5('demo user ' || n)::uuid as user_id from generate_series(1, 10000) as s (n);

select set_config('demo.set_back', '40 days', true);
select count(credits.open_account(u.user_id, case when u.n % 5 = 0 then 'premium' else 'standard' end)) as accounts from demo_users as u;
select count(credits.grant(u.user_id, 200 + u.n % 300, 'demo-welcome', 'welcome')) as grants from demo_users as u;

-- 76,000 charges, in eight steps of five days. The limit of fewer than 100 credits a step keeps everybody solvent.
do $$
declare
  v_step integer;
begin
  for v_step in 1 .. 8 loop
    perform set_config('demo.set_back', format('%s days', 41 - 5 * v_step), true);
    perform credits.charge(u.user_id, case when u.n % 3 = 0 then 1 + (random() * 9)::bigint end, format('demo-charge-%s', v_step),
      (array['/v1/chat', '/v1/images', '/v1/embeddings', '/v1/speech'])[1 + (u.n + v_step) % 4])
    from demo_users as u
    where u.n <= 9500;
  end loop;
end
$$;

-- Holds of a day ago: some captured, some released, 4,000 forgotten, which have expired by now. And a few of this moment.
select set_config('demo.set_back', '1 day', true);
do $$
declare
  v_user demo_users;
  v_hold bigint;
begin
  for v_user in select * from demo_users as u where u.n % 10 < 5 loop
    v_hold := credits.hold(v_user.user_id, 5 + v_user.n % 20, '2 hours', 'demo-hold', 'a longer piece of work');
    if v_user.n % 100 < 10 then
      perform credits.capture(v_hold, 1 + v_user.n % 5);
    elsif v_user.n % 100 < 20 then
      perform credits.release(v_hold, 'not needed after all');
    end if;
  end loop;
end
$$;

-- Entries that were submitted two days ago and never decided: 1,000 of each type.
select set_config('demo.set_back', '2 days', true);
select count(credits.submit(u.user_id, (array['deduction', 'addition', 'refund'])[1 + u.n % 3], 5 + u.n % 40, 'demo-pending',
  p_reference_id => 'order-' || u.n)) as stale
from demo_users as u
where u.n <= 3000;

select set_config('demo.set_back', '0', true);
select count(credits.hold(u.user_id, 3, '1 hour', 'demo-hold-now')) as open_holds from demo_users as u where u.n % 50 = 0;
select count(credits.submit(u.user_id, 'addition', 10, 'demo-pending-now')) as pending from demo_users as u where u.n % 50 = 1;

do $$
begin
  execute (select c.definition from demo_clock as c);
end
$$;
analyze credits.accounts, credits.transactions, credits.holds;
