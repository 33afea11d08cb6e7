package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// querier is a session or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// beginReading starts a transaction that changes nothing, waits for nobody long, and says times in the same words for every login.
const beginReading = `begin read only; set local statement_timeout = '5s'; set local lock_timeout = '2s'; set local jit = off; set local search_path = '';
	set local TimeZone = 'UTC'; set local DateStyle = 'ISO, YMD'; set local IntervalStyle = 'postgres'`

func serverPID(ctx context.Context, db querier) (pid uint32, err error) {
	err = db.QueryRow(ctx, `select pg_backend_pid()::bigint`).Scan(&pid)
	return pid, err
}

// refusesTransactions tells a pooler in statement mode.
func refusesTransactions(ctx context.Context, conn *pgx.Conn) (bool, error) {
	tx, err := conn.Begin(ctx)
	if stateOf(err) != "" {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, tx.Rollback(ctx)
}

// installed reads the schema's version, 0 where there is none, -1 where this login may not read it; and who owns the schema.
func installed(ctx context.Context, db querier) (version int64, owner string, err error) {
	var there bool
	err = db.QueryRow(ctx, `select exists (select from pg_catalog.pg_class as c where c.relnamespace = n.oid and c.relname = 'goose_db_version'), coalesce(pg_get_userbyid(n.nspowner)::text, '')
		from (select 1) as one left join pg_catalog.pg_namespace as n on n.nspname = 'pgtick'`).Scan(&there, &owner)
	if err != nil || !there {
		return 0, owner, err
	}
	err = db.QueryRow(ctx, `select coalesce(max(v.version_id), 0) from pgtick.goose_db_version as v where v.is_applied`).Scan(&version)
	if stateOf(err) == "42501" {
		return -1, owner, nil
	}
	return version, owner, err
}

func versionOf(ctx context.Context, db querier) (number int, name string, err error) {
	var digits string
	if err = db.QueryRow(ctx, `select current_setting('server_version_num'), current_setting('server_version')`).Scan(&digits, &name); err == nil {
		number, err = strconv.Atoi(digits)
	}
	return number, name, err
}

func serverTime(ctx context.Context, db querier) (at time.Time, err error) {
	var micros int64 // a number reads the same whatever the login's DateStyle is
	err = db.QueryRow(ctx, `select (extract(epoch from clock_timestamp()) * 1000000)::bigint`).Scan(&micros)
	return time.UnixMicro(micros), err
}

// nowAhead is how far pgtick.now() is ahead of the server's clock.
func nowAhead(ctx context.Context, db querier) (time.Duration, error) {
	var seconds float64
	err := db.QueryRow(ctx, `select extract(epoch from pgtick.now() - clock_timestamp())::float8`).Scan(&seconds)
	return time.Duration(seconds * float64(time.Second)), err
}

// listenTo makes this session hear a channel, whose name is ours.
func listenTo(ctx context.Context, conn *pgx.Conn, channel string) error {
	_, err := conn.Exec(ctx, `listen `+pgx.Identifier{channel}.Sanitize())
	return err
}

// identity of a database: of the server, and there. The first part is the server's start where nobody may read more.
type identity struct{ server, started, database string }

func identityOf(ctx context.Context, db querier) (id identity, err error) {
	err = db.QueryRow(ctx, `select pg_postmaster_start_time()::text, d.oid::text || ' ' || d.datname from pg_database as d where d.datname = current_database()`).Scan(&id.started, &id.database)
	if err != nil {
		return id, err
	}
	if err := db.QueryRow(ctx, `select s.system_identifier::text from pg_control_system() as s`).Scan(&id.server); stateOf(err) != "42501" {
		return id, err
	}
	return id, nil
}

func (a identity) is(b identity) bool {
	if a.server == "" || b.server == "" {
		a.server, b.server = a.started, b.started
	}
	return a.server == b.server && a.database == b.database
}

// ours are the tables, views and sequences of pgtick: c in schema n.
const ours = `(n.nspname in ('pgtick', 'credits') or n.nspname = 'analytics' and c.relname like 'credit\_usage%')`

// alive are the runners that live: r, at n.now.
const alive = `r.freed_at is null and r.ended_at is null and r.lease_until > n.now`

// clock is pgtick's, read once.
const clock = `(select pgtick.now() as now offset 0) as n`

// runnersLogin: r is a login of runners.
const runnersLogin = `r.rolcanlogin and not r.rolsuper and exists (select from pg_roles as g where g.rolname = 'pgtick_runner' and pg_has_role(r.oid, g.oid, 'member'))`

func utc(moment string) string {
	return `to_char(` + moment + ` at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"')`
}

// setTo is what sets setting s of the login to another value.
func setTo(value string) string {
	return `case s.source when 'client' then format('take %s out of DATABASE_URL', s.name)
		when 'database user' then format('` + "`alter role %I in database %I set %s = " + value + ";`" + `', session_user, current_database(), s.name)
		else format('` + "`alter role %I set %s = " + value + ";`" + `', session_user, s.name) end`
}

// Each query from here on gives rows of status, what and remedy.

var writableSQL = `
	select 'fail', 'this server is a standby, or recovers still: it takes no writes',
		'put the primary''s host into DATABASE_URL; where it names several, target_session_attrs=read-write finds the primary'
	where pg_is_in_recovery()
	union all
	select 'fail', format('sessions of %s may only read', session_user), ` + setTo("off") + `
	from pg_settings as s where s.name = 'default_transaction_read_only' and s.setting = 'on'
	union all
	select 'ok', 'it takes writes', ''
	where not pg_is_in_recovery() and current_setting('default_transaction_read_only') = 'off'`

// loginTimeoutsSQL is to be asked outside of a transaction of ours, which sets some of them.
var loginTimeoutsSQL = `
	select 'warn', format('%s of %s is %s %s', s.name, session_user, s.setting, s.unit), ` + setTo("0") + `
	from pg_settings as s
	where s.name in ('statement_timeout', 'transaction_timeout') and s.setting::bigint between 1 and 59999
		or s.name = 'idle_session_timeout' and s.setting::bigint > 0`

const runnersTimeoutsSQL = `
	select 'warn', format('login %s has %s', r.rolname, x.setting), format('` + "`alter role %I%s set %s = 0;`" + `', r.rolname,
		case when d.setdatabase <> 0 then format(' in database %I', current_database()) else '' end, split_part(x.setting, '=', 1))
	from pg_db_role_setting as d
	join pg_roles as r on r.oid = d.setrole
	cross join unnest(d.setconfig) as x(setting)
	where (d.setdatabase = 0 or d.setdatabase = (select b.oid from pg_database as b where b.datname = current_database())) and r.rolname <> session_user and ` + runnersLogin + `
		and (x.setting ~ '^(statement|transaction)_timeout=([1-9][0-9]{0,3}|[1-5][0-9]{4})(ms)?$' or x.setting ~ '^(statement|transaction)_timeout=([1-9]|[1-5][0-9])s$'
			or x.setting ~ '^idle_session_timeout=[1-9]')`

// connectionsSQL: $1 is what a runner takes.
const connectionsSQL = `
	with f as (
		select current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
				- coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::integer as room,
			(select coalesce(sum(d.numbackends), 0) from pg_stat_database as d)::integer as used, $1::integer as wanted
	)
	select case when f.room - f.used < f.wanted then 'warn' else 'ok' end, format('%s of %s connections are taken, and one more runner takes %s', f.used, f.room, f.wanted),
		case when f.room - f.used < f.wanted
			then 'see who has them: ` + "`select usename, application_name, count(*) from pg_stat_activity group by 1, 2 order by 3 desc;`; or let a runner take fewer: `pgtick work --connections 1`" + `' else '' end
	from f
	union all
	select 'warn', format('login %s may have %s connections, and a runner takes %s', r.rolname, r.rolconnlimit, f.wanted), format('` + "`alter role %I connection limit -1;`" + `', r.rolname)
	from f, pg_roles as r
	where r.rolconnlimit between 0 and f.wanted - 1 and not r.rolsuper and (r.rolname = session_user or ` + runnersLogin + `)
	union all
	select 'warn', format('database %s takes %s connections, and a runner takes %s', d.datname, d.datconnlimit, f.wanted), format('` + "`alter database %I connection limit -1;`" + `', d.datname)
	from f, pg_database as d
	where d.datname = current_database() and d.datconnlimit between 0 and f.wanted - 1`

// Days of history: done jobs are kept for 7, others for 30, unless somebody has said otherwise.
const partitionsSQL = `
	select 'warn', format('pgtick.%s is missing', p.name), '` + "`select pgtick.maintain();`" + `'
	from (
		select 'slot_log_' || to_char(t.today + i.ahead, 'YYYYMMDD')
		from (select (pgtick.now() at time zone 'UTC')::date as today) as t, generate_series(0, 1) as i(ahead)
		union all
		select 'history_' || to_char(t.today + d.days + i.ahead, 'YYYYMMDD')
		from (select (pgtick.now() at time zone 'UTC')::date as today) as t, generate_series(0, 1) as i(ahead), unnest('{7,30}'::integer[]) as d(days)
	) as p(name)
	where not exists (select from pg_class as c where c.relnamespace = 'pgtick'::regnamespace and c.relname = p.name)`

// What a unique key keeps for longer may lie there until the next upkeep, an hour later.
const defaultPartitionsSQL = `
	select 'warn', format('%s%s rows have lain in pgtick.%s for more than two hours', least(d.rows, 10000), case when d.rows > 10000 then ' or more' else '' end, d.name), '` + "`select pgtick.maintain();`" + `'
	from (
		select 'history_default', count(*)
		from (select from pgtick.history_default as h where h.finished_at < pgtick.now() - interval '2 hours' limit 10001) as h
		union all
		select 'slot_log_default', count(*)
		from (select from pgtick.slot_log_default as s where s.recorded_at < pgtick.now() - interval '2 hours' limit 10001) as s
	) as d(name, rows)
	where d.rows > 0`

var upkeepSQL = `
	select 'warn', format('%s, at %s: %s', u.what, ` + utc("u.done_at") + `, coalesce(u.problem, 'not done for more than three hours')),
		case u.what when 'maintain' then '` + "`select pgtick.maintain();`" + `' else '` + "`call pgtick.run_ticks();`" + `' end || '; where that has the same problem, a transaction that has pgtick.history open is in its way: see the check old-transactions'
	from pgtick.upkeep as u
	where u.problem is not null or u.what = 'maintain' and u.done_at < pgtick.now() - interval '3 hours'`

const indexesSQL = `
	select 'warn', format('%s of %s is not valid', i.indexrelid::regclass, i.indrelid::regclass), format('` + "`reindex index concurrently %s;`" + `', i.indexrelid::regclass)
	from pg_index as i
	join pg_class as c on c.oid = i.indrelid
	join pg_namespace as n on n.oid = c.relnamespace
	where not (i.indisvalid and i.indisready and i.indislive) and ` + ours

const triggersSQL = `
	select distinct 'fail', format('%s of %s is off', case when t.tgisinternal then 'a trigger of a foreign key' else 'trigger ' || t.tgname end, t.tgrelid::regclass),
		format('` + "`alter table %s enable trigger %s;`" + `', t.tgrelid::regclass, case when t.tgisinternal then 'all' else quote_ident(t.tgname) end)
	from pg_trigger as t
	join pg_class as c on c.oid = t.tgrelid
	join pg_namespace as n on n.oid = c.relnamespace
	where t.tgenabled not in ('O', 'A') and ` + ours

const ownersSQL = `
	select 'warn', format('%s belongs to %s', c.oid::regclass, pg_get_userbyid(c.relowner)),
		format('` + "`alter %s %s owner to %I;`" + `', case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end, c.oid::regclass, pg_get_userbyid(n.nspowner))
	from pg_class as c
	join pg_namespace as n on n.oid = c.relnamespace
	where n.nspname in ('pgtick', 'credits') and c.relkind in ('r', 'p', 'v', 'm', 'S') and c.relowner <> n.nspowner
		and not (c.relkind = 'S' and exists (select from pg_depend as d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')))
	union all
	select 'warn', format('%s belongs to %s', p.oid::regprocedure, pg_get_userbyid(p.proowner)), format('` + "`alter routine %s owner to %I;`" + `', p.oid::regprocedure, pg_get_userbyid(n.nspowner))
	from pg_proc as p
	join pg_namespace as n on n.oid = p.pronamespace
	where n.nspname in ('pgtick', 'credits') and p.proowner <> n.nspowner
	union all
	select 'warn', format('schema %s belongs to %s, and schema pgtick to %s', n.nspname, pg_get_userbyid(n.nspowner), pg_get_userbyid(o.nspowner)), format('` + "`alter schema %I owner to %I;`" + `', n.nspname, pg_get_userbyid(o.nspowner))
	from pg_namespace as n, pg_namespace as o
	where n.nspname = 'credits' and o.nspname = 'pgtick' and n.nspowner <> o.nspowner`

const idsSQL = `
	select 'fail', format('the next id in %s would be %s, and there is %s already', t.name, coalesce(s.latest, 0) + 1, t.highest), format('` + "`select setval(%L, %s);`" + `', t.sequence, t.highest)
	from (values
		('pgtick.live_jobs', pg_get_serial_sequence('pgtick.live_jobs', 'id'), greatest((select max(j.id) from pgtick.live_jobs as j), (select max(h.id) from pgtick.history as h))),
		('credits.transactions', pg_get_serial_sequence('credits.transactions', 'id'), (select max(t.id) from credits.transactions as t)),
		('credits.holds', pg_get_serial_sequence('credits.holds', 'id'), (select max(h.id) from credits.holds as h))) as t(name, sequence, highest)
	cross join lateral (select pg_sequence_last_value(t.sequence::regclass) as latest) as s
	where t.highest > coalesce(s.latest, 0)`

// runnerCalls are the functions without which a runner, or one of the tasks that come with it, fails.
const runnerCalls = `'{pgtick.now,pgtick.enqueue,pgtick.enqueue_many,pgtick.create_batch,pgtick.register,pgtick.claim_lanes,pgtick.due_lanes,pgtick.reconcile,pgtick.finish,pgtick.check_claim,pgtick.finish_in_transaction,pgtick.progress,pgtick.checkpoint,
	pgtick.heartbeat,pgtick.leave,pgtick.sleep,pgtick.settled,pgtick.awake,pgtick.next_run_at,pgtick.say_wakes,pgtick.rescue,pgtick.wait_for,pgtick.hold_back,pgtick.say_limits,pgtick.limit_rules,pgtick.count_attempts,
	pgtick.declare_task,pgtick.watch_rows,pgtick.counted_tasks,pgtick.gate_refused,pgtick.maintain,pgtick.rebuild_indexes,pgtick.function_call,pgtick.check_address,pgtick.tick_chunk,pgtick.next_tick_at,pgtick.upkeep_due,
	pgtick.check_deadlines,pgtick.measure,pgtick.measure_health,credits.cleanup_chunk,credits.allocate_chunk,credits.resolve_chunk,credits.sync_chunk,credits.unsynced_count,credits.unsynced_chunk,credits.mark_synced,credits.set_aside}'`

const runnerRightsSQL = `
	with who as (
		select r.oid, r.rolname from pg_roles as r where r.rolname = 'pgtick_runner' or ` + runnersLogin + `
	), there as (
		select n.oid, n.nspname from pg_namespace as n where n.nspname in ('pgtick', 'credits')
	)
	select 'fail', 'this server has no role pgtick_runner', '` + "`create role pgtick_runner nologin;` and `pgtick migrate`" + `'
	where not exists (select from who where who.rolname = 'pgtick_runner')
	union all
	select 'fail', format('%s may not use schema %s', who.rolname, s.nspname), format('` + "`grant usage on schema %I to %I;`" + `', s.nspname, who.rolname)
	from who, there as s
	where not has_schema_privilege(who.oid, s.oid, 'usage')
	union all
	select 'fail', format('%s may not read the version of the schema', who.rolname), format('` + "`grant select on pgtick.goose_db_version to %I;`" + `', who.rolname)
	from who, pg_class as c
	where c.relnamespace = 'pgtick'::regnamespace and c.relname = 'goose_db_version' and not has_table_privilege(who.oid, c.oid, 'select')
	union all
	select 'fail', format('%s may not call %s', who.rolname, p.oid::regprocedure), format('` + "`grant execute on routine %s to %I;`" + `', p.oid::regprocedure, who.rolname)
	from who, pg_proc as p
	join there as s on s.oid = p.pronamespace
	where s.nspname || '.' || p.proname = any (regexp_replace(` + runnerCalls + `, '\s', '', 'g')::text[]) and not has_function_privilege(who.oid, p.oid, 'execute')`

const openRightsSQL = `
	with o(kind, name, acl, columns) as (
		select 'routine', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), ''
		from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
		where n.nspname in ('pgtick', 'credits')
		union all
		select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, c.relacl, ''
		from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
		where c.relkind in ('r', 'p', 'v', 'm', 'S') and ` + ours + `
		union all
		select 'table', c.oid::regclass::text, a.attacl, format(' (%I)', a.attname)
		from pg_attribute as a join pg_class as c on c.oid = a.attrelid join pg_namespace as n on n.oid = c.relnamespace
		where a.attacl is not null and not a.attisdropped and ` + ours + `
		union all
		select 'schema', quote_ident(n.nspname), n.nspacl, ''
		from pg_namespace as n
		where n.nspname in ('pgtick', 'credits')
	)
	select 'fail', format('%s may %s%s %s %s', case a.grantee when 0 then 'everybody' else 'anon' end, lower(a.privilege_type), o.columns, o.kind, o.name),
		format('` + "`revoke %s%s on %s %s from %s;`" + `', lower(a.privilege_type), o.columns, o.kind, o.name, case a.grantee when 0 then 'public' else 'anon' end)
	from o
	cross join lateral aclexplode(o.acl) as a
	left join pg_roles as r on r.oid = a.grantee
	where a.grantee = 0 or r.rolname = 'anon'`

const rowSecuritySQL = `
	select 'fail', format('%s has no row level security', c.oid::regclass), format('` + "`alter table %s enable row level security;`" + `', c.oid::regclass)
	from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
	where c.relkind in ('r', 'p') and not c.relrowsecurity and ` + ours + `
	union all
	select 'fail', format('view %s gives everyone the rows that its owner sees', c.oid::regclass), format('` + "`alter view %s set (security_invoker = true);`" + `', c.oid::regclass)
	from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
	where c.relkind = 'v' and not coalesce(c.reloptions && '{security_invoker=true,security_invoker=on,security_invoker=1,security_invoker=yes}', false) and ` + ours

// tickingSQL: $1 is the lease in seconds. pg_cron calls each minute, so a clock may be silent for that and a lease.
var tickingSQL = `
	with n as materialized (
		select pgtick.now() as now, interval '1 minute' + make_interval(secs => $1::float8) as patience
	), f as (
		select n.now, n.patience, (select count(*) from pgtick.runner_leases as r where ` + alive + `) as runners,
			(select max(c.ticked_at) from pgtick.clocks as c) as latest, (select c.clock from pgtick.clocks as c order by c.ticked_at desc limit 1) as clock,
			(select count(*) from pgtick.schedule_defs as s where s.next_at is not null and coalesce(s.retry_at, s.next_at) < n.now - n.patience) as due,
			(select min(coalesce(s.retry_at, s.next_at)) from pgtick.schedule_defs as s where s.next_at is not null) as since,
			exists (select from pgtick.schedule_defs as s where s.removed_at is null and s.created_at < n.now - n.patience) as wanted
		from n
	), g as (
		select f.*, f.wanted and f.runners = 0 and coalesce(f.latest < f.now - f.patience, true) as silent from f
	)
	select case when g.silent or g.due > 0 then 'fail' else 'ok' end,
		format('%s live runner%s, and %s', g.runners, case g.runners when 1 then '' else 's' end, coalesce('the last tick was at ' || ` + utc("g.latest") + ` || ' by ' || g.clock, 'no clock has ever ticked'))
			|| case when g.due > 0 then format('; %s schedules wait for a clock, since %s', g.due, ` + utc("g.since") + `) else '' end,
		case when g.silent or g.due > 0 then '` + "`pgtick work`; or once, by hand: `call pgtick.run_ticks();`" + `' else '' end
	from g`

var clocksAgreeSQL = `
	select 'warn', format('the last tick of clock %s was at %s, and now it is %s', c.clock, ` + utc("c.ticked_at") + `, ` + utc("n.now") + `),
		'let a runner tick until then, or now and then tick by hand: ` + "`call pgtick.run_ticks();`; a restart of the server sets pg_cron going" + `'
	from pgtick.clocks as c, ` + clock + `
	where c.ticked_at > n.now + interval '5 seconds'`

var durabilitySQL = `
	select 'fail', format('%s is off', s.name), format('` + "`alter system set %s = on;` and `select pg_reload_conf();`" + `', s.name)
	from pg_settings as s
	where s.name in ('fsync', 'full_page_writes') and s.setting = 'off'
	union all
	select 'warn', format('synchronous_commit is off for %s', session_user), ` + setTo("on") + `
	from pg_settings as s
	where s.name = 'synchronous_commit' and s.setting = 'off'`

var oldTransactionsSQL = `
	select 'warn', format('process %s, open since %s by %s: %s', o.pid, ` + utc("o.since") + `, o.who, o.what), format('` + "`select pg_terminate_backend(%s);`" + `', o.pid)
	from pgtick.old_transactions('15 minutes') as o
	where o.pid is not null
	union all
	select 'warn', format('transaction %s, prepared at %s by %s, and neither committed nor rolled back', p.gid, ` + utc("p.prepared") + `, p.owner), format('` + "`rollback prepared %L;`, or commit it" + `', p.gid)
	from pg_prepared_xacts as p
	where p.database = current_database() and p.prepared < clock_timestamp() - interval '15 minutes'
	union all
	select 'warn', format('%s, who owns pgtick, does not see the sessions of others, so that their old transactions are not found', r.rolname), format('` + "`grant pg_read_all_stats to %I;`" + `', r.rolname)
	from pg_namespace as n
	join pg_roles as r on r.oid = n.nspowner
	where n.nspname = 'pgtick' and not r.rolsuper and not pg_has_role(r.oid, 'pg_read_all_stats', 'usage')`

const replicationSlotsSQL = `
	select 'warn', format('replication slot %s (%s) is read by nobody, and keeps %s of WAL%s', s.slot_name, concat_ws(', database ', s.slot_type, s.database),
			coalesce(pg_size_pretty(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, s.restart_lsn)), 'some'),
			case when coalesce(s.xmin, s.catalog_xmin) is not null then ', and dead rows' else '' end),
		format('` + "`select pg_drop_replication_slot(%L);` unless its reader comes back" + `', s.slot_name)
	from pg_replication_slots as s
	where not s.active and not s.temporary and (s.restart_lsn is not null or s.xmin is not null or s.catalog_xmin is not null)`

// Five times as many as autovacuum waits for, and enough to be felt.
var deadRowsSQL = `
	with t as (
		select s.relid, s.n_dead_tup as dead, s.n_live_tup as live, greatest(s.last_vacuum, s.last_autovacuum) as vacuumed,
			coalesce((select o.option_value from pg_options_to_table(c.reloptions) as o where o.option_name = 'autovacuum_vacuum_threshold'), current_setting('autovacuum_vacuum_threshold'))::float8
				+ coalesce((select o.option_value from pg_options_to_table(c.reloptions) as o where o.option_name = 'autovacuum_vacuum_scale_factor'),
					current_setting('autovacuum_vacuum_scale_factor'))::float8 * s.n_live_tup as wanted
		from pg_stat_all_tables as s
		join pg_class as c on c.oid = s.relid
		where s.schemaname in ('pgtick', 'credits')
	)
	select 'warn', format('%s has %s dead rows beside %s live ones; the last vacuum was %s', t.relid::regclass, t.dead, t.live, coalesce('at ' || ` + utc("t.vacuumed") + `, 'never')),
		format('` + "`vacuum (analyze) %s;`; what stays dead is held by an old transaction or a replication slot: see these checks" + `', t.relid::regclass)
	from t
	where t.dead > 50000 and t.dead > 5 * t.wanted`

// A row of ours takes some 4 KiB of its table at most, and 1 KiB of all indexes; longer values lie elsewhere.
const bloatSQL = `
	with t as (
		select c.oid, pg_relation_size(c.oid) as size, pg_indexes_size(c.oid) as indexes, greatest(c.reltuples, coalesce(s.n_live_tup, 0) + coalesce(s.n_dead_tup, 0), 1)::bigint as rows
		from pg_class as c
		join pg_namespace as n on n.oid = c.relnamespace
		left join pg_stat_all_tables as s on s.relid = c.oid
		where c.relkind = 'r' and n.nspname in ('pgtick', 'credits')
	)
	select 'warn', format('%s takes %s for %s rows', t.oid::regclass, pg_size_pretty(t.size), t.rows), format('` + "`vacuum (full, analyze) %s;`, which locks the table meanwhile; pg_repack does not" + `', t.oid::regclass)
	from t where t.size > 64 * 1024 * 1024 and t.size > t.rows * 16384
	union all
	select 'warn', format('the indexes of %s take %s for %s rows', t.oid::regclass, pg_size_pretty(t.indexes), t.rows), format('` + "`reindex table concurrently %s;`" + `', t.oid::regclass)
	from t where t.indexes > 64 * 1024 * 1024 and t.indexes > t.rows * 8192`

const autovacuumSQL = `
	select 'fail', format('%s is off', s.name), format('` + "`alter system set %s = on;` and `select pg_reload_conf();`" + `', s.name)
	from pg_settings as s
	where s.name in ('autovacuum', 'track_counts') and s.setting = 'off'
	union all
	select 'warn', format('autovacuum is off for %s', c.oid::regclass), format('` + "`alter table %s reset (autovacuum_enabled);`" + `', c.oid::regclass)
	from pg_class as c
	join pg_namespace as n on n.oid = c.relnamespace
	where exists (select from pg_options_to_table(c.reloptions) as o where o.option_name = 'autovacuum_enabled' and not o.option_value::boolean) and ` + ours

const wraparoundSQL = `
	with t as (
		select c.oid::regclass::text as name, greatest(age(c.relfrozenxid), age(x.relfrozenxid)) as age, format('` + "`vacuum (freeze) %s;`" + `', c.oid::regclass) as remedy
		from pg_class as c
		join pg_namespace as n on n.oid = c.relnamespace
		left join pg_class as x on x.oid = c.reltoastrelid
		where c.relkind in ('r', 'm') and ` + ours + `
		union all
		select 'database ' || quote_ident(d.datname), age(d.datfrozenxid), '` + "`vacuum (freeze);`" + `'
		from pg_database as d where d.datname = current_database()
	), f as (
		select current_setting('autovacuum_freeze_max_age')::bigint as most, (select max(t.age) from t) as oldest
	)
	(select case when t.age > 1500000000 then 'fail' else 'warn' end,
		format('%s was last frozen %s transactions ago; autovacuum should do it after %s, and the server stops after some 2,000,000,000', t.name, t.age, f.most), t.remedy
	from t, f where t.age > 2 * f.most
	order by t.remedy = '` + "`vacuum (freeze);`" + `' desc, t.age desc)
	union all
	select 'ok', format('the oldest table was last frozen %s transactions ago; autovacuum does it after %s', f.oldest, f.most), ''
	from f where f.oldest <= 2 * f.most`

// sizes are of the database and of pgtick in it, with the folder of the data where this login may know it.
func sizes(ctx context.Context, db querier) (database, own int64, folder string, err error) {
	err = db.QueryRow(ctx, `select pg_database_size(current_database()),
		(select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where c.relkind in ('r', 'm') and `+ours+`),
		coalesce((select s.setting from pg_settings as s where s.name = 'data_directory'), '')`).Scan(&database, &own, &folder)
	return database, own, folder, err
}

var runnersSQL = `
	select case when count(*) = 0 then 'warn' else 'ok' end, case when count(*) = 0 then 'no runner is alive' else format('%s alive: %s', count(*), left(string_agg(format('%s (%s)', r.name, r.id), ', ' order by r.id), 200)) end,
		case when count(*) = 0 then '` + "`pgtick work`" + `' else '' end
	from pgtick.runner_leases as r, ` + clock + `
	where ` + alive + `
	union all
	select 'warn', format('runner %s (%s) %s', r.name, r.id, case when r.ended_at is null then 'does not answer: its lease ran out at ' || ` + utc("r.lease_until") + ` else 'is dead since ' || ` + utc("r.ended_at") + ` || ', and has claims still' end),
		'its jobs go to others when its lease has been found run out twice, a third of it apart, as clocks and runners do: ` + "`select pgtick.rescue();`" + `'
	from pgtick.runner_leases as r, ` + clock + `
	where r.freed_at is null and (r.ended_at is not null or r.lease_until <= n.now)`

// oldRunnersSQL: $1 is this program's version.
var oldRunnersSQL = `
	select 'warn', format('runner %s (%s), version %s, was started at %s, and the schema changed at %s', r.name, r.id, r.version, ` + utc("r.registered_at") + `, ` + utc("a.applied_at") + `),
		'start it anew with the new program: ` + "`systemctl restart pgtick`" + `'
	from pgtick.runner_leases as r, pgtick.applied_sql as a, ` + clock + `
	where ` + alive + ` and r.registered_at < a.applied_at and r.version <> $1::text`

const deafRunnersSQL = `
	select 'warn', format('runner %s (%s) only polls: no notification reaches it', r.name, r.id), 'give it a direct or session-mode connection by LISTEN_DATABASE_URL, and see the check listen'
	from pgtick.runner_leases as r, ` + clock + `
	where ` + alive + ` and r.wakes is false`

var tasksServedSQL = `
	select 'fail', format('a job of task %s could run since %s, and no live runner has the task%s', w.task, ` + utc("w.since") + `, coalesce('; the nearest that one has is ' || pgtick.nearest_name(w.task, a.tasks), '')),
		format('start a runner that has it, ` + "`pgtick work` or a program of yours with cli.Main; or give its jobs up: `select pgtick.cancel_where(%L);`" + `', jsonb_build_object('task', w.task))
	from pgtick.waiting_tasks() as w,
		(select array_agg(distinct t.name) as tasks from pgtick.runner_leases as r cross join unnest(r.tasks) as t(name), ` + clock + ` where ` + alive + `) as a
	where (w.task = any (a.tasks)) is not true
	union all
	select 'fail', format('%s jobs of queue %s could run, and no live runner serves the queue', q.depth, q.queue), format('` + "`pgtick work --queues %L`" + `', q.queue)
	from pgtick.queues as q
	where q.depth > 0 and q.runners = 0 and q.paused_at is null and exists (select from pgtick.runner_leases as r, ` + clock + ` where ` + alive + `)`

// Where no runner lives at all the check runners says so.
var schedulesSQL = `
	select 'warn', format('schedule %s: no live runner has its task %s', s.name, s.task), format('start a runner that has it, or end the schedule: ` + "`select pgtick.unschedule(%L);`" + `', s.name)
	from pgtick.schedule_defs as s, (select array_agg(distinct t.name) as tasks from pgtick.runner_leases as r cross join unnest(r.tasks) as t(name), ` + clock + ` where ` + alive + `) as a
	where s.next_at is not null and not s.task = any (a.tasks)
	union all
	select 'fail', format('schedule %s is broken since %s: %s', s.name, ` + utc("s.broken_at") + `, s.broken_why), format('put it right with pgtick.schedule, or end it: ` + "`select pgtick.unschedule(%L);`" + `', s.name)
	from pgtick.schedule_defs as s
	where s.broken_at is not null
	union all
	select 'warn', format('schedule %s: no job of slot %s or later was done within %s', o.name, ` + utc("o.slot") + `, o.must_finish_within),
		format('see what became of them: ` + "`select * from pgtick.slots where schedule = %L order by slot desc limit 10;`" + `', o.name)
	from pgtick.overdue_schedules(pgtick.now()) as o`

var slotsSQL = `
	select 'fail', format('%s slots of the last hour have no row, the first is %s of schedule %s', count(*), ` + utc("min(u.slot)") + `, (array_agg(u.schedule order by u.slot))[1]),
		'find out who deleted rows of pgtick.slot_log; all that are missing: ` + "`select * from pgtick.unaccounted_slots(''30 days'');`" + `'
	from pgtick.unaccounted_slots('1 hour') as u
	having count(*) > 0`

var sequencesSQL = `
	select 'warn', format('sequence %s: job %s failed or was cancelled at %s, and those behind it wait', s.key, s.stops[1], ` + utc("s.stopped_at") + `),
		format('go on without it: ` + "`select pgtick.resume_sequence(%L);`; or do it after all: `select pgtick.retry(%s);`" + `', s.key, s.stops[1])
	from pgtick.sequences as s
	where s.stops is not null and exists (select from pgtick.live_jobs as j where j.sequence_key = s.key and j.id > s.stops[1])`

var backlogSQL = `
	select 'warn', format('queue %s: %s jobs of task %s wait, the oldest since %s', j.queue, count(*), j.task, ` + utc("min(j.run_at)") + `),
		format('more workers or runners: ` + "`pgtick work --queues %L --workers 50`; or see what holds them up: `select * from pgtick.why(%s);`" + `', j.queue, min(j.id))
	from pgtick.live_jobs as j, ` + clock + `
	where j.runner_id is null and j.run_at <= n.now and not exists (select from pgtick.paused_queues as p where p.queue = j.queue)
	group by j.queue, j.task, n.now
	having min(j.run_at) < n.now - interval '15 minutes'
		and exists (select from pgtick.runner_leases as r where ` + alive + ` and j.task = any (r.tasks) and j.queue = any (r.queues))`

const suspectsSQL = `
	select 'warn', format('job %s of task %s was lost with its runner %s times', j.id, j.task, j.losses),
		format('see its attempts, ` + "`select * from pgtick.attempts where job_id = %s;`, and give it up if it is to blame: `select pgtick.cancel(%s);`" + `', j.id, j.id)
	from pgtick.live_jobs as j
	where j.losses >= 2`

// At least ten, and more than three times as many as on a usual day of the week before.
var failuresSQL = `
	select 'warn', format('task %s: %s jobs failed within a day, and %s a day in the week before', d.task, d.failed, round(coalesce(w.failed, 0) / 7.0, 1)),
		format('see why: ` + "`select id, last_error from pgtick.jobs where task = %L and state = ''failed'' order by finished_at desc limit 10;`; when the cause is mended: `select pgtick.retry_where(%L);`" + `',
			d.task, jsonb_build_object('task', d.task, 'state', 'failed', 'finished_after', n.now - interval '1 day'))
	from ` + clock + `
	cross join lateral (
		select h.task, count(*) as failed from pgtick.history as h where h.state = 'failed' and h.finished_at > n.now - interval '1 day' group by h.task
	) as d
	left join lateral (
		select count(*) as failed from pgtick.history as h where h.task = d.task and h.state = 'failed' and h.finished_at between n.now - interval '8 days' and n.now - interval '1 day'
	) as w on true
	where d.failed >= 10 and d.failed > 3 * coalesce(w.failed, 0) / 7.0`

var pausesSQL = `
	select 'warn', format('queue %s is paused since %s by %s%s', p.queue, ` + utc("p.paused_at") + `, p.paused_by, coalesce(': ' || p.reason, '')), format('` + "`select pgtick.resume_queue(%L);`" + `', p.queue)
	from pgtick.paused_queues as p
	where p.paused_at < pgtick.now() - interval '1 day'
	union all
	select 'warn', format('schedule %s is paused since %s', s.name, ` + utc("s.paused_at") + `), format('` + "`select pgtick.resume_schedule(%L);`" + `', s.name)
	from pgtick.schedule_defs as s
	where s.removed_at is null and s.paused_until is null and s.paused_at < pgtick.now() - interval '7 days'`

func countRates(ctx context.Context, db querier) (n int, err error) {
	err = db.QueryRow(ctx, `select count(*) from pgtick.limit_defs as d where d.rate is not null`).Scan(&n)
	return n, err
}

const withoutRedisSQL = `
	select 'warn', format('runner %s (%s) is without Redis, and keeps its share of each rate by itself', r.name, r.id), 'its log says why; give it a REDIS_URL that answers'
	from pgtick.runner_leases as r, ` + clock + `
	where ` + alive + ` and r.limits_local`

const syncRefusedSQL = `
	select 'warn', format('%s entries are set aside; the latest, %s, since %s said: %s', count(*), (array_agg(r.transaction_id order by r.refused_at desc))[1], (array_agg(r.target order by r.refused_at desc))[1],
		left((array_agg(r.reason order by r.refused_at desc))[1], 200)), 'when the cause is mended: ` + "`select credits.retry_refused();`" + `'
	from credits.sync_refusals as r
	where r.retried_at is null
	having count(*) > 0`

const ledgerSQL = `
	select 'fail', format('user %s: %s (%s)', v.user_id, v.kind, v.detail), '` + "`pgtick credits verify` finds all; entries are put right by others, never changed: see docs/credits.md" + `'
	from credits.violations as v
	where v.user_id = any (array(select distinct t.user_id from (select x.user_id from credits.transactions as x order by x.id desc limit 200) as t limit 20))`

// otherHealthSQL leaves out what other checks say.
const otherHealthSQL = `
	select 'warn', format('%s: %s', h.what, h.evidence), h.remedy
	from pgtick.health as h
	where h.what not in ('task without a runner', 'schedule without a runner', 'schedule broken', 'no clock ticks', 'schedule without a done job', 'runner late', 'runner only polls',
		'runner without Redis', 'sequence stopped', 'old transaction', 'upkeep')`

// cronHome is the database of this server that has pg_cron, "" where it is not loaded. Not everybody may know, but then it is the usual one.
func cronHome(ctx context.Context, db querier) (home string, err error) {
	err = db.QueryRow(ctx, `select coalesce(current_setting('cron.database_name', true), '')`).Scan(&home)
	if stateOf(err) == "42501" {
		return "postgres", nil
	}
	return home, err
}

func hasCron(ctx context.Context, db querier) (yes bool, err error) {
	err = db.QueryRow(ctx, `select exists (select from pg_extension as e where e.extname = 'pg_cron')`).Scan(&yes)
	return yes, err
}

// cronRow is an entry of pg_cron that ticks some database.
type cronRow struct {
	id               int64
	name, when, user string
	database         string
	active, gone     bool // gone: there is no such database
}

func cronRows(ctx context.Context, db querier) ([]cronRow, error) {
	rows, err := db.Query(ctx, `select c.jobid, coalesce(c.jobname, ''), c.schedule, c.username, c.database, c.active, not exists (select from pg_database as d where d.datname = c.database)
		from cron.job as c where c.command = 'call pgtick.run_ticks()' order by c.jobid`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c cronRow, err error) {
		return c, row.Scan(&c.id, &c.name, &c.when, &c.user, &c.database, &c.active, &c.gone)
	})
}

// seesAllRows tells whether other logins' entries are shown to this one as well.
func seesAllRows(ctx context.Context, db querier) (yes bool, err error) {
	err = db.QueryRow(ctx, `select r.rolsuper or r.rolbypassrls from pg_roles as r where r.rolname = current_user`).Scan(&yes)
	return yes, err
}

// lastCronRun is what pg_cron has noted of the last run of an entry; nothing where it has noted none.
func lastCronRun(ctx context.Context, db querier, id int64) (status, said string, err error) {
	err = db.QueryRow(ctx, `select coalesce(max(d.status), ''), coalesce(max(d.return_message), '') from (
		select r.status, r.return_message from cron.job_run_details as r where r.jobid = $1::bigint and r.status in ('succeeded', 'failed') order by r.runid desc limit 1) as d`, id).Scan(&status, &said)
	return status, said, err
}

// cronTick is when pg_cron last called here; never is the zero time. fresh: the server, or the schema's first schedule, is younger than three minutes.
func cronTick(ctx context.Context, db querier) (at time.Time, late, fresh bool, err error) {
	var ticked *time.Time
	err = db.QueryRow(ctx, `select c.ticked_at, coalesce(c.ticked_at < n.now - interval '3 minutes', true),
			pg_postmaster_start_time() > n.now - interval '3 minutes' or coalesce((select min(s.created_at) from pgtick.schedule_defs as s) > n.now - interval '3 minutes', false)
		from `+clock+` left join pgtick.clocks as c on c.clock = 'pg_cron'`).Scan(&ticked, &late, &fresh)
	if ticked != nil {
		at = *ticked
	}
	return at, late, fresh, err
}

// launcherRuns is unknown (nil) where this login does not see the server's own processes.
func launcherRuns(ctx context.Context, db querier) (yes *bool, err error) {
	err = db.QueryRow(ctx, `select case when pg_has_role(session_user, 'pg_read_all_stats', 'usage') then exists (select from pg_stat_activity as a where a.backend_type like 'pg\_cron%launcher%') end`).Scan(&yes)
	return yes, err
}

// zonePoint is what clocks of a zone show, in seconds before those of UTC.
type zonePoint struct {
	zone   string
	at     time.Time
	offset int
}

// zonePoints are of the zones that schedules use, twice a month for two years.
func zonePoints(ctx context.Context, db querier) ([]zonePoint, error) {
	rows, err := db.Query(ctx, `with z as materialized (
			select distinct s.time_zone as zone from pgtick.schedule_defs as s
			where s.removed_at is null and s.time_zone <> 'UTC' and s.time_zone in (select t.name from pg_timezone_names as t) limit 100
		)
		select z.zone, p.at, extract(epoch from (p.at at time zone z.zone) - (p.at at time zone 'UTC'))::integer
		from z, generate_series(0, 47) as g(i), lateral (select date_trunc('day', pgtick.now()) + g.i * interval '15 days' as at) as p
		order by z.zone, p.at`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p zonePoint, err error) {
		return p, row.Scan(&p.zone, &p.at, &p.offset)
	})
}

const lostZonesSQL = `
	select 'fail', format('schedule %s: this server knows no time zone %s', s.name, s.time_zone), 'bring the server''s time zone data up to date, or change the schedule''s zone with pgtick.schedule'
	from pgtick.schedule_defs as s
	where s.removed_at is null and s.time_zone not in (select t.name from pg_timezone_names as t)`

// secretNames are those that calls of schedules and of waiting jobs need.
func secretNames(ctx context.Context, db querier) ([]string, error) {
	rows, err := db.Query(ctx, `select distinct s.name from (
			select d.args from pgtick.schedule_defs as d where d.task = 'http' and d.removed_at is null
			union all
			(select j.args from pgtick.live_jobs as j where j.task = 'http' limit 10000)
		) as x, lateral (
			select m.found[1] from regexp_matches(x.args ->> 'headers', '\{\{secret:([A-Za-z0-9_.-]{1,200})\}\}', 'g') as m(found)
			union all
			select k.name from jsonb_array_elements_text(case when jsonb_typeof(x.args #> '{sign,secrets}') = 'array' then x.args #> '{sign,secrets}' else '[]' end) as k(name)
		) as s(name) order by 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// inVault are those of the secrets that Supabase Vault has; none where there is no vault, or not for this login.
func inVault(ctx context.Context, db querier, names []string) ([]string, error) {
	rows, err := db.Query(ctx, `select v.name from vault.decrypted_secrets as v where v.name = any ($1::text[])`, names)
	var found []string
	if err == nil {
		found, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	switch stateOf(err) {
	case "3F000", "42P01", "42501":
		return nil, nil
	}
	return found, err
}

// mayWorkHere asks in a transaction that is read only, so that nothing is recorded where no address is. 25006: it would have been, or refused.
func mayWorkHere(ctx context.Context, tx pgx.Tx, address string) error {
	_, err := tx.Exec(ctx, `select pgtick.check_address($1::text)`, address)
	return err
}

// knownAddresses are those at which runners may work.
func knownAddresses(ctx context.Context, tx pgx.Tx) (list string, err error) {
	err = tx.QueryRow(ctx, `select coalesce(string_agg(a.address, ', ' order by a.adopted_at), '') from pgtick.addresses as a`).Scan(&list)
	return list, err
}

// notify wakes nobody but who listens to a channel of ours.
func notify(ctx context.Context, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, channel, payload string) error {
	_, err := db.Exec(ctx, `select pg_notify($1::text, $2::text)`, channel, payload)
	return err
}

// scheduleHere makes pg_cron tick the database that it is in.
const scheduleHere = "`select cron.schedule('pgtick', '* * * * *', 'call pgtick.run_ticks()');`"

// scheduleFor makes it tick this one.
func scheduleFor(c *cron, database string) string {
	if c.home == database {
		return scheduleHere
	}
	quoted := "'" + strings.ReplaceAll(database, "'", "''") + "'"
	return "`select cron.schedule_in_database('pgtick_' || " + quoted + ", '* * * * *', 'call pgtick.run_ticks()', " + quoted + ");`"
}

// What else of remedies is SQL.

const (
	tickByHand = "`call pgtick.run_ticks();`"
	putNowBack = "`update pgtick.applied_sql set hash = '';` and `pgtick migrate`"
	keepLess   = "`select pgtick.set_retention(null, 'done', '1 day');`"
)

func activateCron(id int64) string {
	return fmt.Sprintf("`select cron.alter_job(%d, active => true);`", id)
}
func eachMinute(id int64) string {
	return fmt.Sprintf("`select cron.alter_job(%d, schedule => '* * * * *');`", id)
}
func unscheduleCron(id int64) string { return fmt.Sprintf("`select cron.unschedule(%d);`", id) }

func seeCronRuns(id int64) string {
	return fmt.Sprintf("`select * from cron.job_run_details where jobid = %d order by runid desc limit 5;`", id)
}

func putInVault(name string) string {
	return fmt.Sprintf("`select vault.create_secret('…', '%s');`", name)
}
