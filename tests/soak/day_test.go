package soak

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// calendar says of how many periods of the same length a run is. At the end of each the database's clock is set forward to just behind the next midnight,
// so that each is a day: what is kept for a day is pruned from the third period on. In the first ones the history fills up to what is kept; the others
// are the tenths of which the first is compared with the last, and over which the traffic goes through the 24 hours of a day. While some of them last, a
// transaction that somebody has forgotten holds back all cleaning.
type calendar struct{ periods, warmUp, pinned, free int } // pinned is the first of those, and free the first after them

var (
	long  = calendar{periods: 12, warmUp: 2, pinned: 6, free: 8}
	brief = calendar{periods: 5, warmUp: 2, pinned: 3, free: 4}
)

func (c calendar) pinnedIn(period int) bool { return period >= c.pinned && period < c.free }

const furniture = `
create schema faults;
create table faults.effects (token bigint not null, job_id bigint not null, attempt integer not null, at timestamptz not null default clock_timestamp());
create table faults.steps (job_id bigint, step integer, attempt integer not null, primary key (job_id, step));
create schema soak;
create table soak.orders (token bigint not null);
create table soak.record (token bigint not null, kind text not null, job_id bigint not null);
create table soak.journal (job_id bigint not null, attempt integer not null, fence bigint not null);
create table soak.calls (token bigint not null, calls integer not null);
create table soak.slots (schedule text not null, slot timestamptz not null, last_slot timestamptz, slots integer not null, fate text not null, job_id bigint);
create table soak.wrong (what text not null);
grant usage on schema faults, credits to pgtick_runner;
grant insert, select on faults.effects, faults.steps to pgtick_runner;
do $$ declare f regprocedure; begin
  for f in select p.oid from pg_proc as p where p.pronamespace = 'credits'::regnamespace and p.proname in ('charge', 'hold', 'capture') loop
    execute format('grant execute on function %s to pgtick_runner', f);
  end loop;
end $$;
select credits.open_account(('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid) from generate_series(1, 20) as i;
select credits.grant(a.user_id, 1000000, 'start') from credits.accounts as a;
select pgtick.set_retry_policy(t.name, '{"kind": "list", "delays": ["200 milliseconds"]}') from unnest('{fault.failing,http}'::text[]) as t(name);
select pgtick.set_limit('fault.limited', p_max_running => 3);
select pgtick.set_retention(null, null, '1 day');
select pgtick.set_slot_retention('1 day');
`

// day is one run.
type day struct {
	calendar
	t       *testing.T
	db      *pgtest.DB
	length  time.Duration // of a period
	burst   int           // jobs of each peak of a period
	runners []*process
	hooks   *hooks
	journal string
	traffic *traffic
	pin     *pgx.Conn
	samples []sample
	from    time.Time // of this period, by the database's clock
	lsn     string    // and where the log was
	images  int64     // and how many whole pages were in it
	before  int64     // and how many jobs had ended
}

func TestDay_OfTraffic_StaysAsFastAsSmallAndAsRightAsItWas(t *testing.T) {
	d := newDay(t)
	d.begin()
	for period := range d.periods {
		d.live(period)
	}
	d.traffic.store(t)
	d.quiet()
	d.examine()
	d.judge()
	if !full() {
		d.breakEach()
	}
}

func newDay(t *testing.T) *day {
	t.Helper()
	minutes := setting("PGTICK_SOAK_MINUTES", of(60, 0.05))
	c := of(long, brief)
	d := &day{calendar: c, t: t, length: time.Duration(minutes / float64(c.periods) * float64(time.Minute)), burst: of(20000, 60), hooks: newHooks(t), journal: filepath.Join(t.TempDir(), "journal")}
	if full() {
		d.db = pgtest.NewOn(t, server(t, true, map[string]string{"shared_buffers": "256MB", "max_wal_size": "2GB", "checkpoint_timeout": "1h"}))
	} else {
		d.db = pgtest.New(t)
	}
	do(t, d.db, furniture)
	return d
}

func (d *day) begin() {
	t := d.t
	for range of(35, 1) { // partitions are made up to 32 days ahead, and their number grows until the first of those days have come
		d.toMidnight()
	}
	// As a day's schedules of each minute would: all that is done in 24 hours is done in an hour.
	do(t, d.db, `select pgtick.schedule('each minute ' || i, '@every 2s', 'fault.slot', p_on_missed => 'once', p_on_overlap => 'allow', p_timeout => '2 days') from generate_series(1, $1::int) as i`, of(10, 2))
	d.from = d.db.Now(t)
	url := pgtest.RunnerURL(t, d.db)
	env := []string{"FAULTS_JOURNAL=" + d.journal, "PGTICK_HTTP_ALLOW=127.0.0.1"}
	d.runners = []*process{work(t, pgtick, url, "released", env, "--queues=default,http", "--poll=1s")}
	for i := range of(2, 1) {
		d.runners = append(d.runners, work(t, withTasks, url, fmt.Sprint("with tasks ", i+1), env, "--queues=default,burst", "--poll=1s"))
	}
	awaitRunners(t, d.db, len(d.runners))
	peak := setting("PGTICK_SOAK_PEAK", of(150.0, 30.0))
	d.traffic = produce(t, d.db, d.hooks.URL, func(since time.Duration) float64 {
		return daily(peak, (since-time.Duration(d.warmUp)*d.length).Seconds()/d.length.Seconds()*24/float64(d.periods-d.warmUp))
	})
}

// live is one period.
func (d *day) live(period int) {
	t := d.t
	begun := time.Now()
	if d.pinnedIn(period) && d.pin == nil {
		d.forget()
	}
	if full() { // by the server's own clock some period would have two of them, and each writes every page that is used as a whole into the log
		do(t, d.db, `checkpoint`)
	}
	d.lsn, d.images, d.before = ask[string](t, d.db, `select pg_current_wal_lsn()::text`), d.pageImages(), d.ended()
	rest := time.NewTicker(max(200*time.Millisecond, d.length/50))
	defer rest.Stop()
	peaks := of(4, 1)
	for peak := range peaks {
		d.sample(period, d.traffic.burst(t, d.burst))
		for time.Since(begun) < d.length*time.Duration(peak+1)/time.Duration(peaks) {
			<-rest.C
			d.sample(period, 0)
		}
	}
	if d.pin != nil && !d.pinnedIn(period+1) {
		d.remember()
	}
	d.account(period)
	d.close(period)
	d.toMidnight()
	require.NoError(t, d.traffic.problem())
}

// forget begins a transaction and leaves it alone; remember ends it.
func (d *day) forget() {
	t := d.t
	pin, err := pgx.Connect(t.Context(), d.db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = pin.PgConn().Conn().Close() })
	d.pin = pin
	_, err = d.pin.Exec(t.Context(), "begin isolation level repeatable read")
	require.NoError(t, err)
	_, err = d.pin.Exec(t.Context(), "select txid_current(), count(*) from soak.orders")
	require.NoError(t, err)
}

func (d *day) remember() {
	require.True(d.t, ask[bool](d.t, d.db, `select exists (select from pg_stat_activity as a where a.pid = $1 and a.state = 'idle in transaction' and a.backend_xmin is not null)`, d.pin.PgConn().PID()))
	_, err := d.pin.Exec(d.t.Context(), "rollback")
	require.NoError(d.t, err)
	d.pin = nil
}

// justBehind midnight is shortly before a slot of each two seconds: the short form's periods are no longer than that.
const justBehind = 1800 * time.Millisecond

// toMidnight sets the database's clock to behind the next midnight, and ticks as pg_cron does at the next minute. It does not wait for a lock, so it may
// have to be done again for the partitions to be there.
func (d *day) toMidnight() {
	t := d.t
	now := d.db.Now(t).UTC()
	d.db.Advance(t, now.Truncate(24*time.Hour).Add(24*time.Hour+justBehind).Sub(now))
	d.from = d.db.Now(t)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for limit := time.Now().Add(within); ; <-again.C {
		do(t, d.db, "call pgtick.run_ticks()")
		do(t, d.db, "select pgtick.maintain()")
		if ask[bool](t, d.db, `select u.problem is null and u.done_at >= $1 from pgtick.upkeep as u where u.what = 'maintain'`, d.from) {
			break
		}
		require.True(t, time.Now().Before(limit), "upkeep does not come to its end")
	}
	// A runner whose lease has run out twice, in one of the clock's steps and the next, without having said a word in between, is dead.
	becomes(t, d.db, within, `select not exists (select from pgtick.runner_leases as r where r.ended_at is null and r.lease_until <= pgtick.now())`)
}

// account takes down what the period's slots have come to, before they are pruned: by the test's own calendar, and by pgtick's.
func (d *day) account(period int) {
	t := d.t
	to := d.db.Now(t)
	becomes(t, d.db, within, `select coalesce(pgtick.next_tick_at() > $1, true)`, to)
	do(t, d.db, `insert into soak.slots (schedule, slot, last_slot, slots, fate, job_id) select s.schedule, s.slot, s.last_slot, s.slots, s.fate, s.job_id from pgtick.slots as s where s.slot > $1 and s.slot <= $2`, d.from, to)
	do(t, d.db, `insert into soak.wrong select format('%s: second %s has %s rows', s.name, c.at, (select count(*) from soak.slots as l where l.schedule = s.name and c.at between l.slot and coalesce(l.last_slot, l.slot)))
		from pgtick.schedules as s, generate_series(to_timestamp(2 * floor(extract(epoch from $1::timestamptz) / 2) + 2), $2::timestamptz, interval '2 seconds') as c(at)
		where s.name like 'each minute %' and (select count(*) from soak.slots as l where l.schedule = s.name and c.at between l.slot and coalesce(l.last_slot, l.slot)) <> 1`, d.from, to)
	if full() || period == d.periods-1 { // it works out 43,200 slots of each schedule anew
		do(t, d.db, `insert into soak.wrong select format('%s %s: %s', u.schedule, u.slot, u.why) from pgtick.unaccounted_slots('1 day') as u`)
	}
}

// quiet ends the schedules and waits until all that was asked for has been done, and the last holds have expired.
func (d *day) quiet() {
	t := d.t
	do(t, d.db, `select pgtick.unschedule(s.name) from pgtick.schedules as s`)
	d.db.Advance(t, 2*time.Hour)
	do(t, d.db, `select pgtick.enqueue('credits.cleanup_expired_credit_holds')`)
	becomes(t, d.db, within, `select not exists (select from pgtick.live_jobs)`)
	for i := range d.runners {
		d.runners[i].stop()
	}
	d.readCalls()
	d.readJournal()
}

func (d *day) readCalls() {
	var rows [][]any
	for path, calls := range d.hooks.calls {
		token, err := strconv.ParseInt(strings.TrimPrefix(path, "/"), 10, 64)
		require.NoError(d.t, err)
		rows = append(rows, []any{token, calls})
	}
	_, err := d.db.Pool.CopyFrom(d.t.Context(), pgx.Identifier{"soak", "calls"}, []string{"token", "calls"}, pgx.CopyFromRows(rows))
	require.NoError(d.t, err)
}

// readJournal loads what the tasks have written outside of the database.
func (d *day) readJournal() {
	text, err := os.ReadFile(d.journal)
	require.NoError(d.t, err)
	var rows [][]any
	for line := range strings.Lines(string(text)) {
		var row [3]int64
		_, err := fmt.Sscan(line, &row[0], &row[1], &row[2])
		require.NoError(d.t, err, line)
		rows = append(rows, []any{row[0], row[1], row[2]})
	}
	_, err = d.db.Pool.CopyFrom(d.t.Context(), pgx.Identifier{"soak", "journal"}, []string{"job_id", "attempt", "fence"}, pgx.CopyFromRows(rows))
	require.NoError(d.t, err)
	do(d.t, d.db, `analyze soak.journal, soak.record, faults.effects`)
}

// Each row of an answer is one thing that should not be, in words. History knows the last two days alone, so none of these asks it.
var checks = map[string]string{
	"the calendar": `select w.what from soak.wrong as w`,
	"effects of what was asked for": `select format('job %s, %s, token %s: %s effects', r.job_id, r.kind, r.token, count(e.job_id))
		from (select distinct on (r.job_id) r.* from soak.record as r where r.kind in ('effect', 'ordered', 'limited', 'delayed', 'unique', 'chain')) as r
		left join faults.effects as e on e.job_id = r.job_id group by r.job_id, r.kind, r.token having count(e.job_id) <> 1`,
	"effects twice": `select format('job %s has %s effects', e.job_id, count(*)) from faults.effects as e group by e.job_id having count(*) > 1`,
	"effects that nobody asked for": `select format('job %s of token %s', e.job_id, e.token) from faults.effects as e
		where not exists (select from soak.record as r where r.job_id = e.job_id) and not exists (select from soak.slots as s where s.job_id = e.job_id)
			and e.token is distinct from 0`,
	"orders": `select format('order %s: %s', o.token, r.kind) from soak.orders as o left join soak.record as r on r.token = o.token where r.kind is distinct from 'ordered'
		union all select format('job %s without its order', r.job_id) from soak.record as r where r.kind = 'ordered' and not exists (select from soak.orders as o where o.token = r.token)`,
	"chains": `select format('jobs %s and %s', r.first, r.second) from (select min(r.job_id) as first, max(r.job_id) as second from soak.record as r where r.kind = 'chain' group by r.token) as r
		join faults.effects as a on a.job_id = r.first join faults.effects as b on b.job_id = r.second where a.at >= b.at`,
	"the journal": `select format('job %s, %s: %s lines', r.job_id, r.kind, count(x.job_id)) from soak.record as r left join soak.journal as x on x.job_id = r.job_id
		where r.kind in ('plain', 'many', 'burst', 'failing') group by r.job_id, r.kind having count(x.job_id) <> 1`,
	"the journal's other lines": `select format('job %s', x.job_id) from soak.journal as x where not exists (select from soak.record as r where r.job_id = x.job_id)`,
	"attempts that failed":      `select format('job %s was done by attempt %s', r.job_id, x.attempt) from soak.record as r join soak.journal as x on x.job_id = r.job_id where r.kind = 'failing' and x.attempt <> 3`,
	"steps": `select format('job %s: %s of 3 steps', r.job_id, count(s.job_id)) from soak.record as r left join faults.steps as s on s.job_id = r.job_id
		where r.kind = 'long' group by r.job_id having count(s.job_id) <> 3`,
	"calls": `select format('token %s: %s calls', r.token, c.calls) from soak.record as r left join soak.calls as c on c.token = r.token where r.kind = 'http' and c.calls is distinct from 1`,
	"the ledger": `select format('token %s was charged %s', r.token, c.amount) from soak.record as r left join (
			select x.token, sum(x.amount) as amount from (
				select substring(t.idempotency_key from '^charge ([0-9]+)$')::bigint as token, t.amount from credits.transactions as t where t.type = 'deduction'
				union all select substring(h.idempotency_key from '^hold ([0-9]+)$')::bigint, c.amount from credits.transactions as c join credits.transactions as h on h.hold_id = c.hold_id and h.type = 'hold'
				where c.type = 'capture') as x
			group by x.token) as c on c.token = r.token
		where r.kind in ('ledger', 'ledger_plain') and c.amount is distinct from -3`,
	"holds":      `select format('hold %s is %s until %s', h.id, h.status, h.expires_at) from credits.holds as h where h.status = 'open'`,
	"violations": `select v::text from credits.violations as v`,
	"slots": `select format('%s %s: %s, and its job %s has %s effects', s.schedule, s.slot, s.fate, s.job_id, count(e.job_id)) from soak.slots as s left join faults.effects as e on e.job_id = s.job_id
		where s.schedule like 'each minute %' and s.job_id is not null group by s.schedule, s.slot, s.fate, s.job_id having count(e.job_id) <> 1`,
	"slots that were late":  `select format('%s %s: %s', s.schedule, s.slot, s.fate) from soak.slots as s where s.schedule like 'each minute %' and s.fate <> 'enqueued'`,
	"limits":                `select format('limit %s %s is held by %s', p.task, p.key, p.holders) from pgtick.limit_places as p where cardinality(p.holders) > 0`,
	"runners that were ill": `select format('runner %s: %s', r.name, r.ended_as) from pgtick.runner_leases as r where r.ended_as is distinct from 'left'`,
	"jobs that failed":      `select format('job %s %s: %s %s', j.id, j.task, j.state, j.last_error) from pgtick.jobs as j where j.state <> 'done'`,
	"what expired":          `select format('job %s of %s', h.id, h.finished_at) from pgtick.history as h where h.finished_at < pgtick.now() - interval '2 days'`,
	"slots that expired":    `select format('%s %s', s.schedule, s.slot) from pgtick.slots as s where coalesce(s.last_slot, s.slot) < pgtick.now() - interval '2 days'`,
	"old partitions": `select c.relname::text from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
		where c.relname ~ '^history_[0-9]{8}$' and right(c.relname, 8)::date < (pgtick.now() at time zone 'UTC')::date
			or c.relname ~ '^slot_log_[0-9]{8}$' and right(c.relname, 8)::date < (pgtick.now() at time zone 'UTC')::date - 1`,
	"the default partitions": `select format('job %s in history_default, it expires on %s', h.id, h.expires_on) from pgtick.history_default as h
		union all select format('slot %s in slot_log_default', s.slot) from pgtick.slot_log_default as s`,
}

// examine looks at all of it, from outside.
func (d *day) examine() {
	t := d.t
	for name, sql := range checks {
		found := list[string](t, d.db, sql)
		require.Empty(t, found[:min(len(found), 10)], "%s: %d", name, len(found))
	}
	d.traffic.waited(t)
	require.Empty(t, d.traffic.probes, "probes that never ran")
	for _, kind := range []string{"effect", "burst", "http", "failing", "chain", "ledger", "long", "unique", "undone"} {
		require.True(t, ask[bool](t, d.db, `select exists (select from soak.record as r where r.kind = $1)`, kind), "nothing of kind %s was asked for", kind)
	}
	require.True(t, ask[bool](t, d.db, `select exists (select from credits.holds as h where h.status = 'expired')`), "no hold has expired")
	require.True(t, ask[bool](t, d.db, `select exists (select from soak.slots as s where s.schedule like 'each minute %')`), "no slot was seen")
}

// wrongs are what each check must find, made by hand.
var wrongs = map[string]string{
	"the calendar":                  `insert into soak.wrong values ('a second without a row')`,
	"effects of what was asked for": `delete from faults.effects where job_id = (select min(r.job_id) from soak.record as r where r.kind = 'effect')`,
	"effects twice":                 `insert into faults.effects select * from faults.effects limit 1`,
	"effects that nobody asked for": `update soak.record set job_id = 0 where job_id = (select min(r.job_id) from soak.record as r where r.kind = 'effect')`,
	"orders":                        `update soak.record set kind = 'undone' where token = (select min(r.token) from soak.record as r where r.kind = 'ordered')`,
	"chains":                        `update faults.effects set at = at + interval '1 day' where job_id = (select min(r.job_id) from soak.record as r where r.kind = 'chain')`,
	"the journal":                   `insert into soak.journal select * from soak.journal limit 1`,
	"the journal's other lines":     `insert into soak.journal values (-1, 1, 1)`,
	"attempts that failed":          `update soak.journal set attempt = 2 where job_id = (select min(r.job_id) from soak.record as r where r.kind = 'failing')`,
	"steps":                         `delete from faults.steps where step = 2`,
	"calls":                         `update soak.calls set calls = 2 where token = (select min(c.token) from soak.calls as c)`,
	"the ledger":                    `update soak.record set kind = 'ledger' where token = (select min(r.token) from soak.record as r where r.kind = 'effect')`,
	"holds":                         `select credits.hold(a.user_id, 1, '1 hour', 'by hand') from credits.accounts as a limit 1`,
	"violations":                    `alter table credits.accounts disable trigger user; update credits.accounts set balance = balance + 1 where user_id = (select a.user_id from credits.accounts as a limit 1)`,
	"slots":                         `delete from faults.effects where job_id = (select max(s.job_id) from soak.slots as s where s.schedule like 'each minute %')`,
	"slots that were late":          `update soak.slots set fate = 'missed' where slot = (select max(s.slot) from soak.slots as s where s.schedule like 'each minute %')`,
	"limits":                        `insert into pgtick.limit_places (task, key, holders) values ('x', 'y', '{1}')`,
	"runners that were ill":         `update pgtick.runner_leases set ended_as = 'dead' where id = (select min(r.id) from pgtick.runner_leases as r)`,
	"jobs that failed":              `select pgtick.cancel(pgtick.enqueue('nobody.serves'))`,
	"what expired":                  `update pgtick.history set finished_at = finished_at - interval '9 days' where id = (select max(h.id) from pgtick.history as h)`,
	"slots that expired":            `insert into pgtick.slot_log (schedule_id, slot, fate, version, recorded_at) select max(s.schedule_id), now() - interval '100 days', 'missed', 1, now() from pgtick.slot_log as s`,
	"old partitions":                `create table pgtick.history_20010101 partition of pgtick.history for values from ('2001-01-01') to ('2001-01-02')`,
	"the default partitions":        `update pgtick.history set expires_on = '2099-01-01' where id = (select max(h.id) from pgtick.history as h)`,
}

// breakEach sees that no check is blind.
func (d *day) breakEach() {
	t := d.t
	for name, sql := range checks {
		require.Contains(t, wrongs, name)
		tx, err := d.db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Conn().PgConn().Exec(t.Context(), wrongs[name]).ReadAll()
		require.NoError(t, err, name)
		rows, err := tx.Query(t.Context(), sql)
		require.NoError(t, err, name)
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, name)
		require.NotEmpty(t, found, "%s: what was made wrong is not found", name)
		require.NoError(t, tx.Rollback(t.Context()))
	}
}
