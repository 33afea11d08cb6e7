package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/doctor"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// trial breaks one thing, sees that the check says so, does what it says is to be done, and sees that all is well. Before, too, it is.
type trial struct {
	name   string                      // what is broken
	on     func(t *testing.T) *patient // nil: a database of its own on the common server
	broken bool                        // it is from the start
	hurt   func(t *testing.T, p *patient)
	status string
	says   string                         // what it says fits this expression
	codes  []int                          // which parts of the remedy are followed, in this order; nil: the first
	mend   func(t *testing.T, p *patient) // in place of the remedy, where that is no command, or not alone; it is looked at, too
	stays  bool                           // nothing can mend it here
}

func TestChecks_EachFindsWhatIsBroken_AndItsRemedyMendsIt(t *testing.T) {
	for check, all := range trials(t) {
		t.Run(check, func(t *testing.T) {
			t.Parallel()
			for _, x := range all {
				t.Run(x.name, func(t *testing.T) { x.run(t, check) })
			}
		})
	}
}

func (x trial) run(t *testing.T, check string) {
	p := x.patient(t)
	if !x.broken {
		require.Empty(t, sick(p.look(t, check)), "before anything is broken")
		x.hurt(t, p)
	}
	found := sick(p.look(t, check))
	require.NotEmpty(t, found, "it is broken, and not found")
	f := found[0]
	require.Equal(t, x.status, f.Status, f)
	require.Regexp(t, x.says, f.What)
	looks(t, p, found)
	if x.stays {
		return
	}
	if x.mend != nil {
		x.mend(t, p)
	} else {
		x.follow(t, p, found)
	}
	require.Eventually(t, func() bool { found = sick(p.look(t, check)); return len(found) == 0 }, within, every, "it is mended, and found still: %v", found)
}

// looks runs what remedies give to look at: it must be right, too.
func looks(t *testing.T, p *patient, found []finding) {
	t.Helper()
	for _, f := range found {
		for _, part := range code(f.Remedy) {
			if look.MatchString(part) {
				p.run(t, f.Remedy, part)
			}
		}
	}
}

var look = regexp.MustCompile(`^select [a-z_, (*)]+ from [a-z_]+(\.|$| )`)

func (x trial) patient(t *testing.T) *patient {
	if x.on != nil {
		return x.on(t)
	}
	return whole(t, pgtest.New(t))
}

func (x trial) follow(t *testing.T, p *patient, found []finding) {
	for _, f := range found {
		parts := code(f.Remedy)
		codes := x.codes
		if codes == nil {
			codes = []int{0}
		}
		for _, i := range codes {
			require.Greater(t, len(parts), i, "%q has no such part", f.Remedy)
			p.follow(t, f.Remedy, parts[i])
		}
	}
}

func TestChecks_EachHasATrial_AndIsOnThePage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "doctor.md"))
	require.NoError(t, err)
	var listed []string
	for _, found := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, found[1])
	}
	require.Equal(t, doctor.Names(), listed, "the table of docs/doctor.md")
	all := trials(t)
	for _, name := range doctor.Names() {
		require.NotEmpty(t, all[name], name)
	}
	require.Len(t, all, len(doctor.Names()))
}

// sql is one or several statements that break something.
func sql(statements ...string) func(*testing.T, *patient) {
	return func(t *testing.T, p *patient) {
		t.Helper()
		for _, statement := range statements {
			do(t, p.db, strings.ReplaceAll(statement, "DATABASE", p.db.Name))
		}
	}
}

// set gives an environment variable, or takes it away.
func set(name, value string) func(*testing.T, *patient) {
	return func(_ *testing.T, p *patient) {
		if p.env[name] = value; value == "" {
			delete(p.env, name)
		}
	}
}

func after(d time.Duration, before func(*testing.T, *patient)) func(*testing.T, *patient) {
	return func(t *testing.T, p *patient) {
		t.Helper()
		before(t, p)
		p.db.Advance(t, d)
	}
}

// theRunnerLeaves ends the runner that whole has registered.
const theRunnerLeaves = `select pgtick.leave(r.id) from pgtick.runner_leases as r where r.name = 'all day'`

// failed gives the outcome failed to all waiting jobs of the task echo.
const failed = `do $$ declare r bigint := (select id from pgtick.runner_leases where name = 'all day'); c record; begin
	for c in select id, fence from pgtick.claim(r, '{default}', '{echo}', 100) loop perform pgtick.finish(r, array[c.id], array[c.fence], '{failed}'); end loop; end $$`

func trials(t *testing.T) map[string][]trial {
	s := &servers{t: t}
	return map[string][]trial{
		"reachable": {
			{name: "nobody listens", hurt: func(t *testing.T, p *patient) { p.env["DATABASE_URL"] = nowhere(t, p) }, status: "fail", says: `can't be reached: .*refused`, mend: set("DATABASE_URL", "")},
			{name: "a wrong password", hurt: func(_ *testing.T, p *patient) {
				p.env["DATABASE_URL"] = pgtest.URLAs(p.db, "postgres", "guessed/wr:ong")
			}, status: "fail", says: `password authentication failed`, mend: func(_ *testing.T, p *patient) { p.env["DATABASE_URL"] = p.db.URL }},
		},
		"server-version": {{name: "an old server", hurt: func(t *testing.T, p *patient) { p.env["DATABASE_URL"] = proxied(t, p.db.URL, oldVersion(t, p)) }, status: "fail", says: `^PostgreSQL `, stays: true}},
		"writable": {
			{name: "a login that may only read", hurt: sql(`alter database DATABASE set default_transaction_read_only = on`), status: "fail", says: `sessions of postgres may only read`},
			{name: "a standby", on: primary, hurt: toStandby, status: "fail", says: `standby`, mend: set("DATABASE_URL", "")},
		},
		"pooler": {
			{name: "in transaction mode", hurt: pooled("transaction", "DATABASE_URL"), status: "warn", says: `in transaction mode, and there is no other way for LISTEN`,
				mend: func(_ *testing.T, p *patient) { p.env["LISTEN_DATABASE_URL"] = p.db.URL }},
			{name: "in statement mode", hurt: pooled("statement", "DATABASE_URL"), status: "fail", says: `statement mode`, mend: pooled("session", "DATABASE_URL")},
		},
		"listen": {
			{name: "a pooler that swallows it", hurt: pooled("transaction", "LISTEN_DATABASE_URL"), status: "warn", says: `did not arrive within 3s`, mend: pooled("session", "LISTEN_DATABASE_URL")},
			{name: "nobody there", hurt: func(t *testing.T, p *patient) { p.env["LISTEN_DATABASE_URL"] = nowhere(t, p) }, status: "warn", says: `leads nowhere: .*refused`, mend: set("LISTEN_DATABASE_URL", "")},
		},
		"same-database": {{name: "another one", hurt: func(t *testing.T, p *patient) { p.env["LISTEN_DATABASE_URL"] = pgtest.NewEmpty(t).URL }, status: "fail",
			says: `leads to database \w+ at 127.0.0.1, port \d+, and DATABASE_URL to another: \w+ at`, mend: pooled("session", "LISTEN_DATABASE_URL")}},
		"login-timeouts": {
			{name: "of this login", hurt: func(t *testing.T, p *patient) {
				p.env["DATABASE_URL"] = login(t, p.db, "hasty_"+p.db.Name, "superuser")
				do(t, p.db, "alter role hasty_"+p.db.Name+" set statement_timeout = '8s'")
			}, status: "warn", says: `statement_timeout of hasty_\w+ is 8000 ms`},
			{name: "of a runner's login, for sessions without work", hurt: func(t *testing.T, p *patient) {
				login(t, p.db, "idle_"+p.db.Name, "in role pgtick_runner")
				do(t, p.db, fmt.Sprintf("alter role idle_%s in database %s set idle_session_timeout = '5min'", p.db.Name, p.db.Name))
			}, status: "warn", says: `login idle_\w+ has idle_session_timeout=5min`},
		},
		"connections": {
			{name: "more than there are", hurt: set("PGTICK_CONNECTIONS", "900"), status: "warn", says: `\d+ of \d+ connections are taken, and one more runner takes 902`, mend: set("PGTICK_CONNECTIONS", "1")},
			{name: "fewer for the login", hurt: func(t *testing.T, p *patient) {
				login(t, p.db, "few_"+p.db.Name, "in role pgtick_runner connection limit 3")
			}, status: "warn", says: `login few_\w+ may have 3 connections, and a runner takes 5`},
			{name: "fewer for the database", hurt: sql(`alter database DATABASE connection limit 4`), status: "warn", says: `takes 4 connections`},
		},
		"schema": {
			{name: "none", on: func(t *testing.T) *patient { return &patient{db: pgtest.NewEmpty(t), env: map[string]string{}} }, broken: true, status: "fail", says: `pgtick is not installed`},
			{name: "of an earlier release", on: earlier, broken: true, status: "fail", says: `the schema is 7, and this program needs \d+`},
			{name: "of a later release", hurt: sql(`insert into pgtick.goose_db_version (version_id, is_applied) values (999, true)`), status: "warn", says: `of a later release`, stays: true},
		},
		"functions":          {{name: "of another release", hurt: sql(`update pgtick.applied_sql set hash = 'another'`), status: "warn", says: `not those of this program`}},
		"address":            {{name: "a copy", hurt: sql(`select pgtick.adopt('db.example.org/app', p_only => true)`), status: "fail", says: `belongs to db.example.org/app, not to localhost/`}},
		"partitions":         {{name: "tomorrow's is gone", hurt: sql(`do $$ begin execute 'drop table pgtick.slot_log_' || to_char(now() at time zone 'UTC' + interval '1 day', 'YYYYMMDD'); end $$`), status: "warn", says: `pgtick.slot_log_\d{8} is missing`}},
		"default-partitions": {{name: "rows without a day", hurt: intoTheDefault, status: "warn", says: `^1 rows have lain in pgtick.history_default`}},
		"upkeep":             {{name: "not done", hurt: sql(`update pgtick.upkeep set done_at = done_at - interval '4 hours' where what = 'maintain'`), status: "warn", says: `^maintain, at .*not done for more than three hours`}},
		"indexes":            {{name: "one that could not be built", hurt: notBuilt, status: "warn", says: `pgtick.doctor_try of pgtick.audit is not valid`, mend: builtAfterAll}},
		"triggers":           {{name: "the ledger's guards are off", hurt: sql(`alter table credits.transactions disable trigger user`), status: "fail", says: `trigger \w+ of credits.transactions is off`}},
		"owners": {{name: "a function of somebody else's", hurt: func(t *testing.T, p *patient) {
			login(t, p.db, "other_"+p.db.Name, "")
			do(t, p.db, "alter function pgtick.utc(timestamptz) owner to other_"+p.db.Name)
			do(t, p.db, "alter view pgtick.queues owner to other_"+p.db.Name)
		}, status: "warn", says: `belongs to other_`}},
		"ids":           {{name: "given a second time", hurt: sql(`select pgtick.enqueue('echo')`, `select setval(pg_get_serial_sequence('pgtick.live_jobs', 'id'), 1, false)`), status: "fail", says: `the next id in pgtick.live_jobs would be 1, and there is 1 already`}},
		"runner-rights": {{name: "two revoked", hurt: sql(`revoke usage on schema credits from pgtick_runner`, `revoke execute on function pgtick.leave(bigint) from pgtick_runner`), status: "fail", says: `pgtick_runner may not`}},
		"open-rights": {{name: "open to all", hurt: sql(`grant select on pgtick.jobs to public`, `grant select (id) on pgtick.live_jobs to public`, `grant execute on function pgtick.cancel(bigint) to public`, `grant usage on schema pgtick to public`),
			status: "fail", says: `everybody may `}},
		"row-security": {{name: "switched off", hurt: sql(`alter table pgtick.audit disable row level security`, `alter view pgtick.jobs reset (security_invoker)`), status: "fail", says: `pgtick.audit has no row level security`}},
		"clock-skew": {
			{name: "the server's clock is wrong", on: s.faked, hurt: s.move(time.Hour), status: "warn", says: `the server's clock is 1h0m0s ahead of this machine's`, mend: s.move(-time.Hour)},
			{name: "pgtick.now() is replaced", hurt: func(t *testing.T, p *patient) { p.db.Advance(t, -time.Hour) }, status: "warn", says: `pgtick.now\(\) is 1h0m0s behind the server's clock`, codes: []int{0, 1}},
		},
		"ticking": {
			{name: "slots are due", hurt: after(10*time.Minute, sql(`select pgtick.schedule('each', '* * * * *', 'echo')`)), status: "fail", says: `^1 live runner, .*; 1 schedules wait for a clock, since`, codes: []int{1}},
			{name: "no clock at all", hurt: after(10*time.Minute, sql(`select pgtick.schedule('yearly', '0 0 1 1 *', 'echo')`, `delete from pgtick.clocks`, theRunnerLeaves)), status: "fail", says: `^0 live runners, and no clock has ever ticked`, codes: []int{1}},
		},
		"clocks-agree": {{name: "a tick in the future", hurt: sql(`update pgtick.clocks set ticked_at = ticked_at + interval '1 hour'`), status: "warn", says: `the last tick of clock other was at`}},
		"pg-cron": {
			{name: "not on this server", broken: true, status: "warn", says: `this server has no pg_cron`, stays: true},
			{name: "not active", on: s.withCron, hurt: cron(`select cron.alter_job(c.jobid, active => false) from cron.job as c where c.database = $1`), status: "warn", says: `its entry \d+ is not active`},
			{name: "no entry", on: s.withCron, hurt: cron(`select cron.unschedule(c.jobid) from cron.job as c where c.database = $1`), status: "warn", says: `has no entry that ticks this database`},
		},
		"pg-cron-runs": {
			{name: "it does not tick", on: s.withCron, hurt: neverAgain, status: "warn", says: `it has never ticked here|it last ticked here at`, mend: asCron},
			{name: "its launcher has ended", on: ownCron, hurt: endLauncher, status: "warn", says: `launcher does not run`, mend: restart},
		},
		"pg-cron-entries": {
			{name: "a second one", on: s.withCron, hurt: cron(`select cron.schedule_in_database('second of ' || $1, '* * * * *', 'call pgtick.run_ticks()', $1)`), status: "warn", says: `ticks this database as well`},
			{name: "now and then", on: s.withCron, hurt: cron(`select cron.alter_job(c.jobid, schedule => '*/5 * * * *') from cron.job as c where c.database = $1`), status: "warn", says: `does not run each minute, but \*/5`},
			{name: "of a database that is gone", on: s.withCron, hurt: staleEntry, status: "warn", says: `ticks database gone_\w+, which is gone`},
		},
		"time-zones": {
			{name: "old data", on: withZone, hurt: wrongZones, status: "warn", says: `^Europe/Berlin: at .* the server's clocks will be [12]h0m0s before UTC's, by this machine's data 9h0m0s`, mend: set("ZONEINFO", "")},
			{name: "a zone that is lost", hurt: sql(`select pgtick.schedule('far', '0 0 * * *', 'echo')`, `update pgtick.schedule_defs set time_zone = 'Mars/Base' where name = 'far'`), status: "fail", says: `this server knows no time zone Mars/Base`,
				mend: sql(`select pgtick.schedule('far', '0 0 * * *', 'echo')`)},
		},
		"durability": {{name: "without fsync", on: s.harsh, broken: true, status: "fail", says: `^(fsync|full_page_writes) is off`, codes: []int{0, 1}}},
		"old-transactions": {
			{name: "one that was forgotten", on: s.faked, hurt: s.forgotten(`begin; insert into pgtick.job_notes (job_id) values (1)`), status: "warn", says: `process \d+, open since .* by postgres forgetful: idle in its transaction`},
			{name: "one that was prepared", on: s.faked, hurt: s.forgotten(`begin; insert into pgtick.job_notes (job_id) values (1); prepare transaction 'for later'`), status: "warn", says: `transaction for later, prepared at .* by postgres`},
			{name: "an owner who does not see them", hurt: func(t *testing.T, p *patient) {
				login(t, p.db, "blind_"+p.db.Name, "")
				do(t, p.db, "alter schema pgtick owner to blind_"+p.db.Name)
			}, status: "warn", says: `blind_\w+, who owns pgtick, does not see`},
		},
		"replication-slots": {{name: "one that nobody reads", on: s.harsh, hurt: sql(`select pg_create_physical_replication_slot('left_behind', true)`), status: "warn", says: `replication slot left_behind \(physical\) is read by nobody, and keeps .* of WAL`}},
		"dead-rows":         {{name: "sixty thousand", hurt: deadRows, status: "warn", says: `pgtick.job_notes has 60000 dead rows beside 0 live ones`}},
		"bloat":             {{name: "one row left of seventy thousand", hurt: bloated, status: "warn", says: `pgtick.job_notes takes \d+ MB for \d+ rows`}},
		"autovacuum": {
			{name: "off for a table", hurt: sql(`alter table pgtick.live_jobs set (autovacuum_enabled = false)`), status: "warn", says: `autovacuum is off for pgtick.live_jobs`},
			{name: "off", on: s.harsh, hurt: sql(`alter system set autovacuum = off`, `select pg_reload_conf()`), status: "fail", says: `autovacuum is off`, codes: []int{0, 1}},
		},
		"wraparound": {{name: "twice as old as autovacuum allows", on: s.harsh, hurt: aged, status: "warn", says: `^database \w+ was last frozen \d{6} transactions ago; autovacuum should do it after 100000`}},
		"disk": {
			{name: "nearly full", on: s.small, hurt: fill(92), status: "warn", says: `free at`, mend: fill(0)},
			{name: "full", on: s.small, hurt: fill(96), status: "fail", says: `free at`, mend: fill(0)},
		},
		"runners": {
			{name: "none", hurt: sql(theRunnerLeaves), status: "warn", says: `no runner is alive`},
			{name: "one does not answer", hurt: after(time.Minute, sql(`select pgtick.register('frozen', '{default}', '{echo}', '1 second')`)), status: "warn", says: `runner frozen \(\d+\) does not answer`,
				mend: func(t *testing.T, p *patient) { pgtest.Expire(t, p.db) }},
		},
		"old-runners": {{name: "from before the upgrade", hurt: upgraded, status: "warn", says: `runner veteran \(\d+\), version v0, was started at`, mend: sql(`select pgtick.leave(r.id) from pgtick.runner_leases as r where r.name = 'veteran'`)}},
		"deaf-runners": {{name: "behind a pooler", hurt: sql(`select pgtick.say_wakes(r.id, false) from pgtick.runner_leases as r`), status: "warn", says: `runner all day \(\d+\) only polls`,
			mend: sql(`select pgtick.say_wakes(r.id, true) from pgtick.runner_leases as r`)}},
		"tasks-served": {
			{name: "a task with a slip of the pen", hurt: sql(`select pgtick.enqueue('test.nop')`), status: "fail", says: `no live runner has the task; the nearest that one has is test.noop`, codes: []int{1}},
			{name: "a queue that nobody serves", hurt: sql(`select pgtick.enqueue('test.noop', p_queue => 'aside')`), status: "fail", says: `1 jobs of queue aside could run, and no live runner serves the queue`},
		},
		"schedules": {
			{name: "nobody has its task", hurt: sql(`select pgtick.schedule('odd one''s', '0 0 * * *', 'nobody.has.it')`), status: "warn", says: `schedule odd one's: no live runner has its task nobody.has.it`},
			{name: "broken", hurt: func(t *testing.T, p *patient) {
				do(t, p.db, `select pgtick.schedule('far', '* * * * *', 'echo')`)
				do(t, p.db, `update pgtick.schedule_defs set parsed.every_seconds = 0 where name = 'far'`)
				p.db.Advance(t, 2*time.Minute)
				do(t, p.db, `call pgtick.run_ticks()`)
			}, status: "fail", says: `schedule far is broken since`},
			{name: "not done in time", hurt: func(t *testing.T, p *patient) {
				do(t, p.db, `select pgtick.schedule('due', '* * * * *', 'echo', p_must_finish_within => '1 minute')`)
				p.db.Advance(t, 5*time.Minute)
				do(t, p.db, `call pgtick.run_ticks()`)
			}, status: "warn", says: `schedule due: no job of slot .* was done within 00:01:00`, mend: sql(`select pgtick.unschedule('due')`)},
		},
		"slots": {{name: "a row is missing", hurt: func(t *testing.T, p *patient) {
			do(t, p.db, `select pgtick.schedule('each', '* * * * *', 'echo', p_on_missed => 'skip')`)
			p.db.Advance(t, 5*time.Minute)
			do(t, p.db, `call pgtick.run_ticks()`)
			do(t, p.db, `create table public.kept (like pgtick.slot_log)`)
			do(t, p.db, `with gone as (delete from pgtick.slot_log where slot = (select min(slot) from pgtick.slot_log) returning *) insert into public.kept select * from gone`)
		}, status: "fail", says: `^1 slots of the last hour have no row, the first is .* of schedule each`, mend: sql(`insert into pgtick.slot_log select * from public.kept`)}},
		"sequences": {{name: "its first job has failed", hurt: sql(`select pgtick.enqueue('echo', p_sequence_key => 'a''s')`, `select pgtick.enqueue('echo', p_sequence_key => 'a''s')`, failed), status: "warn", says: `sequence a's: job 1 failed`}},
		"backlog":   {{name: "a job has waited", hurt: after(20*time.Minute, sql(`select pgtick.enqueue('test.noop')`)), status: "warn", says: `queue default: 1 jobs of task test.noop wait, the oldest since`}},
		"suspects":  {{name: "two runners died with it", hurt: twiceLost, status: "warn", says: `job 1 of task echo was lost with its runner 2 times`, codes: []int{1}}},
		"failures":  {{name: "a dozen of a task", hurt: sql(`select pgtick.enqueue_many('echo', array_fill('{}'::jsonb, array[12]))`, failed), status: "warn", says: `task echo: 12 jobs failed within a day, and 0.0 a day in the week before`, codes: []int{1}}},
		"pauses": {
			{name: "a queue", hurt: after(25*time.Hour, sql(`select pgtick.pause_queue('de''fault', 'the provider is down')`)), status: "warn", says: `queue de'fault is paused since .* by postgres: the provider is down`},
			{name: "a schedule", hurt: after(8*24*time.Hour, sql(`select pgtick.schedule('each', '0 0 1 1 *', 'echo')`, `select pgtick.pause_schedule('each')`)), status: "warn", says: `schedule each is paused since`},
		},
		"redis": {
			{name: "none, and a rate", hurt: sql(`select pgtick.set_limit('echo', 10)`), status: "warn", says: `tasks have 1 rates, and REDIS_URL is not set`, mend: func(t *testing.T, p *patient) { p.env["REDIS_URL"] = pgtest.Redis(t).URL }},
			{name: "killed", on: withRedis, hurt: func(_ *testing.T, p *patient) { p.redis.Kill() }, status: "warn", says: `does not decide: `, mend: func(_ *testing.T, p *patient) { p.redis.Start() }},
			{name: "a runner without it", hurt: sql(`select pgtick.say_limits(r.id, true) from pgtick.runner_leases as r`), status: "warn", says: `runner all day \(\d+\) is without Redis`, mend: sql(`select pgtick.say_limits(r.id, false) from pgtick.runner_leases as r`)},
		},
		"secrets": {
			{name: "not in the environment", hurt: sql(`select pgtick.schedule('call', '0 0 * * *', 'http', '{"url": "https://example.org", "headers": {"X-Key": "a {{secret:PROVIDER-1}} b"}}')`), status: "warn", says: `secret PROVIDER-1, which calls name, is neither`,
				mend: set("PGTICK_SECRET_PROVIDER-1", "hush")},
			{name: "not in the vault", hurt: sql(`create schema vault`, `create table vault.decrypted_secrets (name text, decrypted_secret text)`,
				`select pgtick.enqueue('http', '{"url": "https://example.org", "sign": {"secrets": ["CUSTOMER"]}}', p_run_at => 'tomorrow')`), status: "warn", says: `secret CUSTOMER, which calls name, is neither`, mend: sql(`insert into vault.decrypted_secrets values ('CUSTOMER', 'hush')`)},
		},
		"sync-target": {
			{name: "without its table", hurt: func(t *testing.T, p *patient) { p.env["PGTICK_SYNC_TARGET"] = pgtest.NewEmpty(t).URL }, status: "fail", says: `has no table analytics.credit_usage`,
				mend: func(t *testing.T, p *patient) { p.env["PGTICK_SYNC_TARGET"] = pgtest.New(t).URL }},
			{name: "that does not answer", hurt: func(t *testing.T, p *patient) {
				p.env["PGTICK_SYNC_TARGET"], p.env["PGTICK_SYNC_KEY"] = "http://127.0.0.1:"+silentPort(t), "key-of-tests"
			}, status: "fail", says: `sync target http://127.0.0.1:\d+ can't be reached`, mend: func(_ *testing.T, p *patient) { p.env["PGTICK_SYNC_TARGET"], p.env["PGTICK_SYNC_KEY"] = "", "" }},
		},
		"sync-refused": {{name: "an entry", hurt: sql(`select credits.open_account('00000000-0000-4000-8000-000000000001'), credits.grant('00000000-0000-4000-8000-000000000001', 5, 'g')`,
			`select credits.set_aside(t.id, 'a target', 'no such user') from credits.transactions as t`), status: "warn", says: `1 entries are set aside; the latest, 1, since a target said: no such user`}},
		"ledger": {{name: "a balance was changed", hurt: sql(`select credits.open_account('00000000-0000-4000-8000-000000000001'), credits.grant('00000000-0000-4000-8000-000000000001', 5, 'g')`, forged("6")), status: "fail",
			says: `user 00000000-0000-4000-8000-000000000001: account: not the sum of its entries`, mend: sql(forged("5"))}},
		"health": {{name: "what this program does not know", hurt: sql(`do $$ begin execute 'create or replace view pgtick.health as ' || rtrim(pg_get_viewdef('pgtick.health'), ';') || ' union all select ''p'', ''a new kind'', ''seen'', ''do it'''; end $$`),
			status: "warn", says: `a new kind: seen`, mend: migrated}},
	}
}

func forged(balance string) string {
	return `do $$ begin set local session_replication_role = replica; update credits.accounts set balance = ` + balance + `; end $$`
}
