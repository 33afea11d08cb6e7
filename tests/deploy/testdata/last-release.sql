-- What the Go code of the last release asks the database; written anew at each release: go run ./tests/deploy/record 4d64336
-- commit 4d643361d72c9c1dc3e7d076c4617b4ea1a7c793
-- schema 11

-- runner/jobs/queries.go
select pgtick.register($1::text, $2::text[], $3::text[], make_interval(secs => $4::float8), nullif($5::text, ''), nullif($6::int, 0));

-- runner/jobs/queries.go
select id, fence, task, queue, priority, attempt, max_attempts, args, run_at, created_at, timeout, schedule, slot,
	owner_id, checkpoint, started_at, limit_key, reservation, trace_context
	from pgtick.claim_lanes($1::bigint, $2::text[], $3::text[], $4::int, $5::text[], $6::text[], $7::int[], $8::timestamptz[], $9::bigint[]);

-- runner/jobs/queries.go
select pgtick.reconcile($1::bigint, $2::bigint[], $3::bigint[]);

-- runner/jobs/queries.go
select f.place, f.accepted is null
	from pgtick.finish($1::bigint, $2::bigint[], $3::bigint[], $4::text[], $5::text[]::jsonb[], $6::text[]::jsonb[],
		(select array_agg(case when d.delay > 0 then pgtick.now() + make_interval(secs => d.delay) end order by d.place)
		 from unnest($7::float8[]) with ordinality as d(delay, place))) with ordinality as f(job_id, accepted, place)
	where f.accepted is not true;

-- runner/jobs/queries.go
select job_id, fence, reason from pgtick.heartbeat($1::bigint, $2::bigint[], $3::bigint[]);

-- runner/jobs/queries.go
select pgtick.leave($1::bigint);

-- runner/jobs/queries.go
select pgtick.sleep($1::bigint, make_interval(secs => $2::float8))::text;

-- runner/jobs/queries.go
select pgtick.settled($1::text::xid8);

-- runner/jobs/queries.go
select pgtick.awake($1::bigint);

-- runner/jobs/queries.go
select extract(epoch from pgtick.next_run_at($1::bigint) - pgtick.now())::float8;

-- runner/jobs/queries.go
select extract(epoch from pgtick.next_tick_at() - pgtick.now())::float8;

-- runner/jobs/queries.go
select t.jobs from pgtick.tick_chunk($1::int) as t;

-- runner/jobs/queries.go
select pgtick.rescue();

-- runner/jobs/queries.go
select pgtick.maintain() where pgtick.upkeep_due('maintain', '1 hour');

-- runner/jobs/queries.go
select pgtick.check_deadlines();

-- runner/jobs/queries.go
select pgtick.check_claim($1::bigint, $2::bigint);

-- runner/jobs/queries.go
select pgtick.finish_in_transaction($1::bigint, $2::bigint, $3::text::jsonb);

-- runner/jobs/queries.go
select pgtick.wait_for($1::bigint, $2::bigint, $3::bigint[], $4::text);

-- runner/jobs/queries.go
select pgtick.hold_back($1::bigint, $2::bigint[], $3::bigint[],
		(select array_agg(n.now + make_interval(secs => d.delay) order by d.place) from unnest($4::float8[]) with ordinality as d(delay, place),
		 (select pgtick.now() as now offset 0) as n), $5::text[], $6::timestamptz[]);

-- runner/jobs/queries.go
select coalesce(task, ''), coalesce(per_key, false), coalesce(rate, 0), coalesce(extract(epoch from period), 0)::float8,
		coalesce(burst, 0), runners, any_local, coalesce(set_at, pgtick.now()) from pgtick.limit_rules($1::bigint);

-- runner/jobs/queries.go
select pgtick.say_limits($1::bigint, $2::boolean);

-- runner/jobs/queries.go
select pgtick.declare_task($1::text, $2::text::jsonb);

-- runner/jobs/queries.go
select pgtick.counted_tasks($1::bigint);

-- runner/jobs/queries.go
select coalesce(pgtick.gate_refused($1::bigint, $2::bigint, $3::text), '');

-- runner/jobs/queries.go
select pgtick.progress($1::bigint, $2::bigint, $3::float8::real, nullif($4::text, ''));

-- runner/jobs/queries.go
select pgtick.checkpoint($1::bigint, $2::bigint, $3::text::jsonb);

-- runner/jobs/queries.go
select pgtick.check_address($1::text);

-- runner/jobs/queries.go
select pgtick.adopt($1::text, $2::boolean);

-- runner/jobs/queries.go
select pgtick.say_wakes($1::bigint, $2::boolean);

-- runner/jobs/queries.go
select pgtick.count_attempts($1::bigint, $2::bigint, $3::integer, $4::integer, $5::integer, $6::integer[], $7::integer[], make_interval(secs => $8::float8));

-- runner/jobs/queries.go
select pgtick.schedule($1::text, $2::text, $3::text);

-- runner/jobs/queries.go
select pgtick.pause_schedule($1::text);

-- runner/jobs/queries.go
select pgtick.resume_schedule($1::text);

-- runner/jobs/queries.go
select pgtick.run_now($1::text);

-- runner/jobs/queries.go
select id, task, state, attempt, created_at, started_at, finished_at, result, last_error from pgtick.jobs where id = $1::bigint;

-- runner/jobs/queries.go
select slot, fate, job_id, recorded_at from pgtick.slots
		where schedule = $1::text and recorded_at > $2::timestamptz and job_id is not null order by slot;

-- runner/jobs/queries.go
select max(c.ticked_at) from pgtick.clocks as c where c.clock = $1::text;

-- runner/jobs/queries.go
select pgtick.now();

-- runner/jobs/queries.go
select row_to_json(s)::text, coalesce(to_char(case when s.time_zone = 'UTC' then s.next_at at time zone 'UTC'
	when s.time_zone in (select z.name from pg_catalog.pg_timezone_names as z) then s.next_at at time zone s.time_zone end, 'YYYY-MM-DD HH24:MI:SS'), ''), coalesce(extract(epoch from s.typical_duration), 0)::float8
		from pgtick.schedules as s where $1::text is null or s.name = $1::text order by s.name;

-- runner/jobs/queries.go
select row_to_json(l)::text from pgtick.slots as l where l.schedule = $1::text order by l.slot desc limit $2::bigint;

-- runner/jobs/queries.go
select row_to_json(v)::text from pgtick.schedule_versions as v where v.schedule = $1::text order by v.version desc limit $2::bigint;

-- runner/jobs/queries.go
select row_to_json(w)::text from pgtick.why_schedule($1::text) as w order by w.rank;

-- runner/jobs/queries.go
select row_to_json(w)::text from pgtick.lint_schedules($1::text) as w;

-- runner/jobs/queries.go
select l from pgtick.lint($1::text, $2::text) as l;

-- runner/jobs/queries.go
select pgtick.describe($1::text);

-- runner/jobs/queries.go
select p, to_char(p at time zone $2::text, 'Dy YYYY-MM-DD HH24:MI:SS')
		from pgtick.preview($1::text, $2::text, coalesce($3::timestamptz, $4::text::timestamp at time zone $2::text, pgtick.now()), $5::integer) as p;

-- runner/jobs/queries.go
select row_to_json(f)::text, f.slot, f.schedule, f.run_at, f.expected, coalesce(f.overlapping, false), coalesce(f.load, 0)
		from pgtick.forecast($1::timestamptz) as f;

-- runner/jobs/queries.go
select pgtick.pause_schedule($1::text, coalesce($2::timestamptz, pgtick.now() + make_interval(secs => nullif($3::float8, 0))));

-- runner/jobs/queries.go
select pgtick.resume_schedule($1::text, $2::boolean);

-- runner/jobs/queries.go
select row_to_json(j)::text from pgtick.jobs as j where j.id = $1::bigint;

-- runner/jobs/queries.go
select exists (select from pgtick.jobs as j join pgtick.runners as r on r.state = 'alive' and j.task = any (r.tasks) and j.queue = any (r.queues)
		where j.id = $1::bigint);

-- runner/jobs/queries.go
select pg_advisory_xact_lock(hashtextextended('pgtick.declare', 0)), set_config('pgtick.source', $1::text, true), set_config('pgtick.declared', '[]', true);

-- runner/jobs/queries.go
select array(select distinct jsonb_array_elements_text(coalesce(nullif(current_setting('pgtick.declared', true), ''), '[]')::jsonb) order by 1);

-- runner/jobs/queries.go
select set_config('pgtick.file', $1::text, true);

-- runner/jobs/queries.go
select pgtick.rename_schedule($1::text, $2::text);

-- runner/jobs/queries.go
select pgtick.unschedule($1::text);

-- runner/jobs/queries.go
select count(*) filter (where c.change = 'added'), count(*) filter (where c.change = 'dropped')
		from pgtick.preview_change($1::text, $2::text, $3::text) as c;

-- runner/jobs/queries.go
select count(*) from pgtick.enqueue_many($1::text, array_fill('{}'::jsonb, array[$3::int]), $2::text);

-- runner/jobs/queries.go
select pgtick.cancel($1::bigint);

-- runner/jobs/queries.go
select pgtick.retry($1::bigint);

-- runner/jobs/queries.go
select pgtick.retry_with($1::bigint, $2::text::jsonb, $3::text);

-- runner/jobs/queries.go
select pgtick.cancel_where($1::text::jsonb);

-- runner/jobs/queries.go
select pgtick.retry_where($1::text::jsonb);

-- runner/jobs/queries.go
select pgtick.pause_queue($1::text, nullif($2::text, ''));

-- runner/jobs/queries.go
select pgtick.resume_queue($1::text);

-- runner/jobs/queries.go
select to_json(r.name)::text from pgtick.runners as r where r.state = 'alive' and $1::text = any (r.queues) order by r.id;

-- runner/jobs/queries.go
select pgtick.forget_bench($1::text);

-- runner/jobs/queries.go
select what, coalesce(label, ''), coalesce(part, -1), value from pgtick.measure($1::bigint, $2::bigint, $3::bigint, $4::text);

-- runner/jobs/queries.go
select what, problems from pgtick.measure_health();

-- runner/web/queries.go
select coalesce((select a.id from pgtick.audit as a order by a.id desc limit 1), 0);

-- runner/web/queries.go
select exists (select from pgtick.audit as a where a.id > $1::bigint
		and pg_xact_status((pg_current_xact_id()::text::bigint & ~4294967295::bigint | a.xmin::text::bigint)::text::xid8) = 'in progress');

-- runner/web/queries.go
select pgtick.note_action($1::text, $2::text, nullif($3::jsonb, 'null'));

-- runner/web/queries.go
select row_to_json(h)::text from pgtick.health as h limit $1::int;

-- runner/web/queries.go
with clock as materialized (select pgtick.now() as now)
		select json_build_object('now', n.now,
			'clocks', coalesce((select json_agg(c order by c.clock) from pgtick.clocks as c), '[]'),
			'runners', (select json_build_object('alive', count(*) filter (where r.ended_at is null and r.lease_until > n.now), 'late', count(*) filter (where r.ended_at is null and r.lease_until <= n.now),
				'workers', coalesce(sum(r.workers) filter (where r.ended_at is null and r.lease_until > n.now), 0)) from pgtick.runner_leases as r where r.freed_at is null),
			'failed', (select count(*) from (select from pgtick.history as h where h.state = 'failed' and h.finished_at >= (select k.now - interval '1 hour' from clock as k) limit $1::int) as x),
			'failures', coalesce((select json_agg(x order by x.finished_at desc) from (
				select h.id, h.task, h.queue, h.finished_at, coalesce(h.error, h.earlier_attempts -> -1 -> 'error') as error from pgtick.history as h
				where h.state = 'failed' order by h.finished_at desc limit 8) as x), '[]'),
			'ended', (select coalesce(sum(c.done + c.failed), 0) from pgtick.attempt_counts as c where c.span = interval '1 minute' and c.at > n.now - interval '1 hour'),
			'counts', coalesce((select json_agg(x order by x.at) from (
				select extract(epoch from c.at)::bigint as at, c.done, c.errors, c.failed, c.waited, c.ran from pgtick.attempt_counts as c
				where c.span = make_interval(secs => $2::float8) and c.at > n.now - make_interval(secs => $2::float8) * $3::int) as x), '[]'))::text
		from clock as n;

-- runner/web/queries.go
select row_to_json(r)::text from pgtick.runners as r
		where r.id = any (array(select x.id from pgtick.runner_leases as x where x.freed_at is null order by x.id desc limit $1::int)
			|| array(select x.id from (select y.id, y.ended_at from pgtick.runner_leases as y order by y.id desc limit $1::int) as x where x.ended_at is not null))
		order by r.ended_at is not null, r.ended_at desc nulls first, r.name, r.id;

-- tasks/credits/queries.go
select c.todo, c.last_at, c.last_id, c.seen, c.busy, c.released, least(c.credits, 9223372036854775807)::bigint
		from credits.cleanup_chunk($1, $2, $3) as c;

-- tasks/credits/queries.go
select c.period, c.todo, c.last_user::text, c.seen, c.busy, c.allocated, least(c.credits, 9223372036854775807)::bigint,
		c.overflowing from credits.allocate_chunk($1::text::date, $2::text::uuid, $3) as c;

-- tasks/credits/queries.go
select c.todo, c.last_at, c.last_id, c.seen, c.busy, c.committed, c.reverted, c.failed,
		least(c.credits_added, 9223372036854775807)::bigint, least(c.credits_deducted, 9223372036854775807)::bigint
		from credits.resolve_chunk($1, $2, $3) as c;

-- tasks/credits/queries.go
select c.todo, c.last_id, c.synced, c.synced, least(c.credits_added, 9223372036854775807)::bigint,
		least(c.credits_deducted, 9223372036854775807)::bigint from credits.sync_chunk($1, $2) as c;

-- tasks/credits/queries.go
select credits.unsynced_count();

-- tasks/credits/queries.go
select u.transaction_id, u.user_id::text, u.type, u.amount, u.held_amount, u.balance_after, u.endpoint, to_char(u.period, 'YYYY-MM-DD'),
	u.created_at, u.completed_at, u.synced_at from credits.unsynced_chunk($1, $2) as u;

-- tasks/credits/queries.go
select credits.mark_synced($1);

-- tasks/credits/queries.go
select credits.set_aside($1, $2, $3);

-- tasks/credits/queries.go
insert into analytics.credit_usage as u (transaction_id, user_id, type, amount, held_amount, balance_after, endpoint, period, created_at, completed_at, synced_at)
		select e.transaction_id, e.user_id, e.type, e.amount, e.held_amount, e.balance_after, e.endpoint, e.period, e.created_at, e.completed_at, e.synced_at
		from json_to_recordset($1::text::json) as e(transaction_id bigint, user_id uuid, type text, amount bigint, held_amount bigint, balance_after bigint,
			endpoint text, period date, created_at timestamptz, completed_at timestamptz, synced_at timestamptz)
		on conflict (transaction_id) do update
		set user_id = excluded.user_id, type = excluded.type, amount = excluded.amount, held_amount = excluded.held_amount, balance_after = excluded.balance_after,
			endpoint = excluded.endpoint, period = excluded.period, created_at = excluded.created_at, completed_at = excluded.completed_at, synced_at = excluded.synced_at
		where (u.user_id, u.type, u.amount, u.held_amount, u.balance_after, u.endpoint, u.period, u.created_at, u.completed_at) is distinct from
			(excluded.user_id, excluded.type, excluded.amount, excluded.held_amount, excluded.balance_after, excluded.endpoint, excluded.period, excluded.created_at,
			excluded.completed_at)
		returning case when u.xmax = 0 then u.transaction_id end;

-- tasks/credits/queries.go
select u.transaction_id, u.user_id::text, u.type, u.amount, u.held_amount, u.balance_after, u.endpoint, to_char(u.period, 'YYYY-MM-DD'),
	u.created_at, u.completed_at, u.synced_at from analytics.credit_usage as u
		where u.transaction_id > $1 and u.transaction_id <= coalesce($2, 9223372036854775807) order by u.transaction_id limit $3;

-- tasks/credits/queries.go
select count(*) from credits.transactions;

-- tasks/credits/queries.go
select case when count(*) = $2::bigint then max(r.id) end, count(*)
		from (select t.id from credits.transactions as t where t.id > $1 order by t.id limit $2::bigint) as r;

-- tasks/credits/queries.go
select t.id, t.user_id::text, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint, to_char(t.period, 'YYYY-MM-DD'), t.created_at, t.final_at,
	coalesce(t.synced_at, t.final_at), t.synced_to_supabase from credits.transactions as t
		where t.id > $1 and t.id <= coalesce($2, 9223372036854775807) and t.status = 'COMPLETED' order by t.id;

-- tasks/credits/queries.go
select t.id, t.user_id::text, t.type, t.amount, t.held_amount, t.balance_after, t.endpoint, to_char(t.period, 'YYYY-MM-DD'), t.created_at, t.final_at,
	coalesce(t.synced_at, t.final_at), t.synced_to_supabase from credits.transactions as t where t.id = any ($1) and t.status = 'COMPLETED' order by t.id;

-- tasks/credits/queries.go
select coalesce(array_agg(c.user_id order by c.user_id) filter (where c.is_cut), '{}'), count(*)
		from (
			select r.user_id, lead(r.part) over (order by r.user_id) > r.part as is_cut
			from (select a.user_id, div(sum(a.seq) over (order by a.user_id), $1::bigint) as part from credits.accounts as a) as r
		) as c;

-- tasks/credits/queries.go
select count(*) from credits.transactions as t where t.user_id between $1::uuid and $2::uuid;

-- tasks/credits/queries.go
select v.kind, v.user_id::text, v.transaction_id, v.hold_id, v.detail from credits.violations as v
		where v.user_id between $1::uuid and $2::uuid;

-- tasks/credits/queries.go
select $1::uuid::text, b.balance, b.held, b.available from credits.balance($1::uuid) as b;

-- tasks/credits/queries.go
select row_to_json(s)::text, s.seq, s.at, s.type, s.amount, s.held_amount, s.balance, s.held, s.transaction_id,
			coalesce(s.endpoint, ''), coalesce(s.description, ''), coalesce(s.reference_id, '')
		from credits.statement($1::uuid, $2, $3) as s order by s.seq;

-- tasks/httptask/queries.go
select current_database() || ' ' || coalesce(extract(epoch from min(v.tstamp))::text, '') from pgtick.goose_db_version as v;

-- tasks/sqltask/queries.go
select c.as_role, c.is_procedure, c.statement, c.texts from pgtick.function_call($1::text::jsonb) as c;
