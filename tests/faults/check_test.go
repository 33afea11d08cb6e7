package faults

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// check is a question about a database at rest. Each row of its answer is one thing that should not be, in words.
type check struct{ column, sql string }

// done of our tasks, with its token.
const ours = `with ours as materialized (
	select j.id, j.task, j.state, j.attempt, (j.args ->> 'token')::bigint as token, j.schedule, j.slot, j.last_error ->> 'message' as error
	from pgtick.jobs as j where j.task like 'fault.%') `

var checks = []check{
	{"lost", ours + `select format('token %s, %s: the producer was told of job %s, which is %s (%s)', r.token, r.kind, r.job_id, coalesce(j.state, 'not there'), j.error)
		from faults.record as r left join ours as j on j.id = r.job_id and j.token = r.token and j.task = r.kind
		where r.job_id is not null and j.state is distinct from 'done'`},
	{"lost", ours + `select format('job %s, %s: %s (%s)', j.id, j.task, j.state, j.error) from ours as j where j.state <> 'done'`},
	{"lost", ours + `select format('job %s, %s, is done without its effect', j.id, j.task) from ours as j
		where j.state = 'done' and j.task in ('fault.effect', 'fault.limited', 'fault.slot') and not exists (select from faults.effects as e where e.job_id = j.id)`},
	{"lost", ours + `select format('job %s, fault.long, is done after %s of 3 steps', j.id, (select count(*) from faults.steps as s where s.job_id = j.id)) from ours as j
		where j.state = 'done' and j.task = 'fault.long' and (select count(*) from faults.steps as s where s.job_id = j.id) <> 3`},
	{"lost", ours + `select format('job %s, %s, is done and not in the journal', j.id, j.task) from ours as j
		where j.state = 'done' and j.task in ('fault.plain', 'fault.failing') and not exists (select from faults.journal as x where x.job_id = j.id)`},
	{"lost", ours + `, booked as (
			select t.hold_id, t.type, t.amount, substring(t.idempotency_key from '^(?:charge|hold) ([0-9]+)$')::bigint as token from credits.transactions as t
		), charged as (
			select x.token, sum(x.amount) as amount from (
				select b.token, b.amount from booked as b where b.token is not null
				union all select h.token, c.amount from booked as c join booked as h on h.hold_id = c.hold_id and h.type = 'hold' where c.type = 'capture') as x
			group by x.token)
		select format('job %s, %s, is done, and its user was charged %s', j.id, j.task, c.amount) from ours as j left join charged as c on c.token = j.token
		where j.state = 'done' and j.task in ('fault.ledger', 'fault.ledger_plain') and c.amount is distinct from -3`},

	{"doubled", `select format('job %s has %s effects', e.job_id, count(*)) from faults.effects as e group by e.job_id having count(*) > 1`},
	{"doubled", ours + `select format('job %s has an effect and is %s', e.job_id, coalesce(j.state, 'not there')) from faults.effects as e left join ours as j on j.id = e.job_id
		where j.state is distinct from 'done'`},
	{"doubled", ours + `select format('token %s is in %s jobs', j.token, count(*)) from ours as j where j.token > 0 group by j.token having count(*) > 1`},
	{"doubled", ours + `select format('token %s: %s', r.token, case when o.token is null then 'a job without its order' else 'an order without its job' end)
		from faults.record as r left join ours as j on j.token = r.token left join faults.orders as o on o.token = r.token
		where r.ordered and (j.id is null) <> (o.token is null)`},
	{"doubled", `select format('job %s: attempt %s wrote %s times', x.job_id, x.attempt, count(*)) from faults.journal as x group by x.job_id, x.attempt having count(*) > 1`},
	{"doubled", `select format('job %s: attempt %s is in the journal and not on record', x.job_id, x.attempt)
		from (select x.job_id, x.attempt from faults.journal as x except select a.job_id, a.attempt from pgtick.attempts as a) as x`},
	{"doubled", `select format('the balances sum up to %s, the entries of the jobs to %s', b.sum, 20 * 1000000 + e.sum)
		from (select sum(a.balance) as sum from credits.accounts as a) as b,
			(select coalesce(sum(t.amount), 0) as sum from credits.transactions as t where t.idempotency_key like 'charge %' or t.type = 'capture') as e
		where b.sum <> 20 * 1000000 + e.sum`},

	{"slots", `select format('%s %s: %s', u.schedule, u.slot, u.why) from pgtick.unaccounted_slots('1 day') as u`},
	{"slots", ours + `select format('slot %s: %s, job %s, which is %s', s.slot, s.fate, s.job_id, coalesce(j.state, 'not there')) from pgtick.slots as s left join ours as j on j.id = s.job_id
		where s.fate in ('enqueued', 'caught_up') and j.state is distinct from 'done'`},
	{"slots", ours + `select format('job %s is of slot %s, which has no such row', j.id, j.slot) from ours as j
		where j.schedule is not null and not exists (select from pgtick.slots as s where s.job_id = j.id and s.slot = j.slot)`},

	{"violations", `select v::text from credits.violations as v`},
	{"violations", `select format('limit %s %s is held by %s', p.task, p.key, p.holders) from pgtick.limit_places as p where cardinality(p.holders) > 0`},
	{"violations", `select format('job %s is held by %s', j.id, j.runner_id) from pgtick.live_jobs as j where j.runner_id is not null`},
	{"violations", `select format('sequence, batch or unique key left: %s', u.kind) from pgtick.unsettled as u where u.noted_at < pgtick.now() - interval '1 minute'`},
}

// A calendar of one's own: each full second in which the schedule was there.
const calendar = `select format('second %s has no slot', c.at) from generate_series(date_trunc('second', $1::timestamptz + interval '1 second'), $2::timestamptz, interval '1 second') as c(at)
	where not exists (select from pgtick.slots as s where s.schedule = 'each second' and c.at between s.slot and coalesce(s.last_slot, s.slot))`

// examine is the end of each fault: what is lost, doubled and so on, counted from outside.
func (w *world) examine(name string, injected int) row {
	w.t.Helper()
	w.keepsItsRules()
	w.producer.store()
	w.readJournal()
	r := w.count()
	r.fault, r.injected, r.setAside = name, injected, w.setAside
	r.p50, r.most = w.recovery()
	return r
}

func (w *world) count() (r row) {
	w.t.Helper()
	r.jobs = ask[int](w, "select count(*) from pgtick.jobs where task like 'fault.%'")
	for _, c := range checks {
		r.count(w.t, c.column, w.list(c.sql))
	}
	if !w.moved {
		r.count(w.t, "slots", w.list(calendar, w.begun, w.ended))
	}
	return r
}

func (r *row) count(t *testing.T, column string, found []string) {
	for _, one := range found[:min(len(found), 10)] {
		t.Logf("%s: %s", column, one)
	}
	counter := map[string]*int{"lost": &r.lost, "doubled": &r.doubled, "slots": &r.slots, "violations": &r.violations}[column]
	*counter += len(found)
}

func (w *world) list(sql string, args ...any) []string {
	w.t.Helper()
	rows, err := w.db.Pool.Query(w.t.Context(), sql, args...)
	require.NoError(w.t, err, sql)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(w.t, err, sql)
	return found
}

// readJournal loads what the tasks have written outside of the database.
func (w *world) readJournal() {
	w.t.Helper()
	w.do("create table faults.journal (job_id bigint not null, attempt integer not null, fence bigint not null)")
	text, err := os.ReadFile(w.journal)
	if !os.IsNotExist(err) {
		require.NoError(w.t, err)
	}
	var rows [][]any
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		require.Len(w.t, fields, 3, "a line of the journal was torn: %q", line)
		numbers := make([]any, len(fields))
		for i := range fields {
			numbers[i], err = strconv.ParseInt(fields[i], 10, 64)
			require.NoError(w.t, err)
		}
		rows = append(rows, numbers)
	}
	_, err = w.db.Pool.CopyFrom(w.t.Context(), pgx.Identifier{"faults", "journal"}, []string{"job_id", "attempt", "fence"}, pgx.CopyFromRows(rows))
	require.NoError(w.t, err)
}

// What counts nothing must be able to count something.
func TestCheck_NoticesWhatIsLostDoubledOrUnaccounted(t *testing.T) {
	t.Parallel()
	w := busy(t, pgtest.New(t))
	w.fleet(1)
	w.ready()
	w.goOn(2 * len(kinds))
	w.becomes(`select exists (select from pgtick.slots as s where s.slot < pgtick.now() - interval '1 second')`) // one that can be taken away below
	w.quiet()
	before := w.examine("none", 0)
	require.Equal(t, row{fault: "none", jobs: before.jobs}, before)
	for _, wrong := range []struct {
		column func(r row) int
		sql    string
	}{
		{func(r row) int { return r.lost }, `delete from pgtick.history where id = (select min(r.job_id) from faults.record as r where r.kind = 'fault.effect')`},
		{func(r row) int { return r.lost }, `delete from faults.effects where job_id = (select max(e.job_id) from faults.effects as e)`},
		{func(r row) int { return r.lost }, `delete from faults.steps where (job_id, step) = (select s.job_id, s.step from faults.steps as s limit 1)`},
		{func(r row) int { return r.lost }, `delete from faults.journal where job_id = (select min(x.job_id) from faults.journal as x)`},
		{func(r row) int { return r.lost }, `update faults.record set kind = 'fault.other' where token = (select max(r.token) from faults.record as r where r.job_id is not null)`},
		{func(r row) int { return r.doubled }, `insert into faults.effects select e.token, e.job_id, e.attempt from faults.effects as e limit 1`},
		{func(r row) int { return r.doubled }, `insert into faults.journal select x.* from faults.journal as x limit 1`},
		{func(r row) int { return r.doubled }, `delete from faults.orders where token = (select min(o.token) from faults.orders as o)`},
		{func(r row) int { return r.doubled }, `select pgtick.enqueue('fault.none', jsonb_build_object('token', 5), p_run_at => pgtick.now() + interval '1 day')`},
		{func(r row) int { return r.doubled }, `select credits.adjust(a.user_id, 5, 'by hand', 'key') from credits.accounts as a limit 1`},
		{func(r row) int { return r.slots }, `delete from pgtick.slot_log where slot = (select max(s.slot) from pgtick.slots as s where s.slot < pgtick.now() - interval '1 second')`},
		{func(r row) int { return r.violations }, `update pgtick.limit_places set holders = '{1}'`},
	} {
		_, err := w.db.Pool.Exec(t.Context(), wrong.sql)
		require.NoError(t, err, wrong.sql)
		now := w.count()
		require.Greater(t, wrong.column(now), wrong.column(before), wrong.sql)
		before = now
	}
}
