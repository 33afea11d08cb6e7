package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// plan is a schedule, and the walker's own knowledge of the minutes that it names.
type plan struct {
	name, cron, zone string
	onMissed         string
	names            func(wall time.Time) bool // in the zone
	elapsed          bool                      // it follows the real minutes, not the clock on the wall
	grid             time.Duration             // or its slots are the multiples of this since 1970
}

func every(minutes int) func(time.Time) bool {
	return func(wall time.Time) bool { return wall.Minute()%minutes == 0 }
}

func at(hour, minute int, day func(time.Time) bool) func(time.Time) bool {
	return func(wall time.Time) bool {
		return wall.Hour() == hour && wall.Minute() == minute && (day == nil || day(wall))
	}
}

// plans: every fate, shifts of the clock in both hemispheres, the end of the month, leap days. The last two are changed, and paused, all the time.
func plans() []*plan {
	return []*plan{
		{name: "five minutes", cron: "*/5 * * * *", zone: "UTC", onMissed: "all", elapsed: true, names: every(5)},
		{name: "hourly", cron: "0 * * * *", zone: "Asia/Kathmandu", onMissed: "once", elapsed: true, names: every(60)},
		{name: "skips", cron: "20 * * * *", zone: "UTC", onMissed: "skip", elapsed: true, names: func(wall time.Time) bool { return wall.Minute() == 20 }},
		{name: "in the gap", cron: "30 2 * * *", zone: "America/New_York", onMissed: "all", names: at(2, 30, nil)},
		{name: "in the fold", cron: "30 1 * * *", zone: "America/New_York", onMissed: "all", names: at(1, 30, nil)},
		{name: "half an hour's shift", cron: "45 1 * * 0", zone: "Australia/Lord_Howe", onMissed: "all", names: at(1, 45, func(wall time.Time) bool { return wall.Weekday() == time.Sunday })},
		{name: "month's end", cron: "45 23 L * *", zone: "Europe/Berlin", onMissed: "all", names: at(23, 45, func(wall time.Time) bool { return wall.AddDate(0, 0, 1).Day() == 1 })},
		{name: "leap day", cron: "15 6 29 2 *", zone: "Europe/Berlin", onMissed: "all", names: at(6, 15, func(wall time.Time) bool { return wall.Month() == time.February && wall.Day() == 29 })},
		{name: "grid", cron: "@every 7h", zone: "UTC", onMissed: "all", grid: 7 * time.Hour},
		{name: "changes", cron: changing[0].cron, zone: "UTC", onMissed: "all", elapsed: true, names: changing[0].names},
		{name: "pauses", cron: "*/30 * * * *", zone: "UTC", onMissed: "all", elapsed: true, names: every(30)},
	}
}

var changing = []struct {
	cron  string
	names func(time.Time) bool
}{
	{"10 */2 * * *", func(wall time.Time) bool { return wall.Minute() == 10 && wall.Hour()%2 == 0 }},
	{"40 1-23/3 * * *", func(wall time.Time) bool { return wall.Minute() == 40 && wall.Hour()%3 == 1 }},
	{"5,55 * * * *", func(wall time.Time) bool { return wall.Minute() == 5 || wall.Minute() == 55 }},
}

// slots walks every minute after from, up to and with to.
func (p *plan) slots(from, to time.Time, zone *time.Location) (found []time.Time) {
	if p.grid > 0 {
		seconds := int64(p.grid / time.Second)
		for next := (from.Unix()/seconds + 1) * seconds; next <= to.Unix(); next += seconds {
			found = append(found, time.Unix(next, 0))
		}
		return found
	}
	wallOf := func(t time.Time) time.Time {
		l := t.In(zone)
		return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), 0, 0, time.UTC)
	}
	minute := from.Truncate(time.Minute).Add(time.Minute)
	before := wallOf(minute.Add(-time.Minute))
	for ; !minute.After(to); minute = minute.Add(time.Minute) {
		wall := wallOf(minute)
		takes := p.names(wall)
		if !p.elapsed {
			if takes && wallOf(minute.Add(-time.Hour)).Equal(wall) || takes && wallOf(minute.Add(-30*time.Minute)).Equal(wall) {
				takes = false // the clock shows it for the second time
			}
			for skipped := before.Add(time.Minute); skipped.Before(wall); skipped = skipped.Add(time.Minute) {
				takes = takes || p.names(skipped)
			}
		}
		if takes {
			found = append(found, minute)
		}
		before = wall
	}
	return found
}

var yearsBegin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// history is years of a database: schedules, a runner, a ledger, and a fault in every hour.
type history struct {
	*world
	t       *testing.T
	random  *rand.Rand
	plans   []*plan
	a, b    *pgx.Conn // two clocks; a is the runner, too
	runner  int64
	now     time.Time
	judged  time.Time
	changes []struct {
		at    time.Time
		names func(time.Time) bool
	}
	pauses [][2]time.Time
	zones  map[string]*time.Location

	slots, jobs, done int
	faults            map[string]int
	users             []string
	balance           map[string]int64 // as this test has kept it
	monthly           map[string]int64
	open              []hold
	requests, months  int
}

type hold struct {
	id     int64
	user   string
	amount int64
}

// TestYears_WithAFaultInEachHour_EverySlotAndCreditIsAccountedFor: ten years in "make simulate", two weeks in "make test". Every slot is held against a walk over all
// minutes, every job against its slot, every balance against a sum kept here.
func TestYears_WithAFaultInEachHour_EverySlotAndCreditIsAccountedFor(t *testing.T) {
	t.Parallel()
	n, _ := seed(t)
	t.Logf("PGTICK_SEED=%d", n)
	h := newHistory(t, n)
	hours := number(t, "PGTICK_SIMULATE_HOURS", amount(14*24, 3653*24))
	began := time.Now()
	for hour := range hours {
		h.hour(hour)
		if (hour+1)%(28*24) == 0 || hour == hours-1 {
			h.account()
		}
		if full() && (hour+1)%(365*24) == 0 {
			t.Logf("%s: %d slots, %d jobs done, %d requests to the ledger, in %s", h.now.Format("2006-01"), h.slots, h.done, h.requests, time.Since(began).Round(time.Second))
		}
	}
	h.finish()
	t.Logf("%d hours in %s: %d slots, %d jobs, %d requests to the ledger, %d months; faults: %v", hours, time.Since(began).Round(time.Second), h.slots, h.jobs, h.requests, h.months, h.faults)
}

func newHistory(t *testing.T, n uint64) *history {
	t.Helper()
	h := &history{world: newWorld(t, patient), t: t, random: random(n), plans: plans(), now: yearsBegin.Add(time.Second), zones: map[string]*time.Location{}, faults: map[string]int{},
		balance: map[string]int64{}, monthly: map[string]int64{}}
	h.exec(t, "drop trigger zz_sim on pgtick.live_jobs; drop trigger zz_sim on pgtick.history")
	h.a, h.b = h.connect(), h.connect()
	h.setClock(h.now)
	for _, p := range h.plans {
		zone, err := time.LoadLocation(p.zone)
		require.NoError(t, err)
		h.zones[p.zone] = zone
		h.do("select pgtick.schedule($1, $2, 'echo', p_time_zone => $3, p_on_missed => $4, p_on_overlap => 'allow', p_catch_up_limit => 1000)", p.name, p.cron, p.zone, p.onMissed)
	}
	h.judged = h.now
	h.remember(changing[0].names)
	tiers := []string{"standard", "premium"}
	for i := range 20 {
		u := fmt.Sprintf("00000000-0000-4000-8000-0000000001%02d", i)
		h.users = append(h.users, u)
		h.do("select credits.open_account($1, (select name from credits.tiers order by name = $2 desc, name limit 1))", u, tiers[i%2])
		h.monthly[u] = ask1[int64](h, "select t.monthly_credits from credits.accounts as a join credits.tiers as t on t.name = a.tier where a.user_id = $1", u)
	}
	h.allocate()
	h.register()
	return h
}

func (h *history) connect() *pgx.Conn {
	h.t.Helper()
	conn, err := pgx.Connect(context.Background(), h.url)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (h *history) do(sql string, args ...any) {
	h.t.Helper()
	_, err := h.a.Exec(context.Background(), sql, args...)
	require.NoError(h.t, err, "%s: %s", h.now, sql)
}

func ask1[T any](h *history, sql string, args ...any) (v T) {
	h.t.Helper()
	require.NoError(h.t, h.a.QueryRow(context.Background(), sql, args...).Scan(&v), "%s: %s", h.now, sql)
	return v
}

func (h *history) setClock(now time.Time) {
	h.t.Helper()
	_, err := h.control.Exec(context.Background(), "select setval('sim.clock', $1)", now.Sub(yearsBegin).Microseconds())
	require.NoError(h.t, err)
}

func (h *history) tick() { h.do("select pgtick.tick()") }

func (h *history) register() {
	h.runner = ask1[int64](h, "select pgtick.register('years', '{default}', '{echo}', '1 hour')")
}

// remember that from now on the plan "changes" has other minutes.
func (h *history) remember(names func(time.Time) bool) {
	h.changes = append(h.changes, struct {
		at    time.Time
		names func(time.Time) bool
	}{h.now, names})
}

// hour goes on to a moment in the next hour, and lets something go wrong there.
func (h *history) hour(number int) {
	h.now = yearsBegin.Add(time.Duration(number+1)*time.Hour + time.Duration(h.random.IntN(3600))*time.Second)
	h.setClock(h.now)
	switch kind := h.random.IntN(9); kind {
	case 0:
		h.fault("no tick at all")
		return
	case 1:
		h.fault("two ticks at once")
		h.both("select pgtick.tick()")
	case 2:
		h.fault("the clock set back by an hour")
		h.setClock(h.now.Add(-time.Hour))
		h.tick()
		h.do("select pgtick.rescue()")
		h.setClock(h.now)
	case 3:
		h.fault("a schedule changed")
		next := changing[h.random.IntN(len(changing))]
		h.do("select pgtick.schedule('changes', $1, 'echo', p_on_missed => 'all', p_on_overlap => 'allow', p_catch_up_limit => 1000)", next.cron)
		h.remember(next.names)
	case 4:
		h.fault("a schedule paused or resumed")
		h.pause()
	case 5:
		h.fault("a tick that is rolled back")
		h.do("begin")
		h.tick()
		h.do("rollback")
	case 6:
		h.fault("a claim whose answer is lost")
		h.tick()
		h.heartbeat()
		h.claim(20)
		h.do("select pgtick.reconcile($1, '{}', '{}')", h.runner)
	case 7:
		h.fault("a runner that dies")
		h.tick()
		h.heartbeat()
		h.claim(20)
		h.register()
	case 8:
		h.fault("a report whose answer is lost")
		h.tick()
		h.heartbeat()
		if ids, fences := h.claim(20); len(ids) > 0 {
			h.report(ids, fences)
			require.Equal(h.t, len(ids), h.report(ids, fences), "the same report again")
			h.done += len(ids)
		}
	}
	h.tick()
	h.do("select pgtick.rescue()")
	h.work()
	h.ledger(number)
	if number%24 == 0 {
		h.do("select pgtick.maintain()")
	}
}

func (h *history) fault(name string) { h.faults[name]++ }

// both does the same in two transactions of which neither sees the other.
func (h *history) both(sql string, args ...any) {
	h.do("begin")
	h.do(sql, args...)
	_, err := h.b.Exec(context.Background(), sql, args...)
	require.NoError(h.t, err, sql)
	h.do("commit")
}

func (h *history) pause() {
	if n := len(h.pauses); n > 0 && h.pauses[n-1][1].IsZero() {
		h.do("select pgtick.resume_schedule('pauses')")
		h.pauses[n-1][1] = h.now
		return
	}
	h.do("select pgtick.pause_schedule('pauses')")
	h.pauses = append(h.pauses, [2]time.Time{h.now, {}})
}

func (h *history) paused(slot time.Time) bool {
	return slices.ContainsFunc(h.pauses, func(p [2]time.Time) bool {
		return slot.After(p[0]) && (p[1].IsZero() || !slot.After(p[1]))
	})
}

// heartbeat: between two hours the lease has run out, which is no death.
func (h *history) heartbeat() {
	_, err := h.a.Exec(context.Background(), "select pgtick.heartbeat($1)", h.runner)
	if codeOf(err) == "TK002" { // rescue() has come by twice in the meantime
		h.register()
		return
	}
	require.NoError(h.t, err)
}

func (h *history) claim(n int) (ids, fences []int64) {
	h.t.Helper()
	rows, err := h.a.Query(context.Background(), "select id, fence from pgtick.claim($1, '{default}', '{echo}', $2)", h.runner, n)
	require.NoError(h.t, err)
	var id, fence int64
	_, err = pgx.ForEachRow(rows, []any{&id, &fence}, func() error {
		ids, fences = append(ids, id), append(fences, fence)
		return nil
	})
	require.NoError(h.t, err)
	return ids, fences
}

func (h *history) report(ids, fences []int64) (accepted int) {
	return ask1[int](h, "select count(*) from pgtick.finish($1, $2, $3, array_fill('done'::text, array[cardinality($2::bigint[])])) as f where f.accepted", h.runner, ids, fences)
}

func (h *history) work() {
	h.t.Helper()
	h.heartbeat()
	for {
		ids, fences := h.claim(100)
		if len(ids) == 0 {
			return
		}
		require.Equal(h.t, len(ids), h.report(ids, fences))
		h.done += len(ids)
	}
}

// ledger does one or two things with some account, and twice what must count once.
func (h *history) ledger(number int) {
	if h.now.Day() == 1 && h.months < monthsSince(h.now) {
		h.allocate()
	}
	for range 1 + h.random.IntN(2) {
		h.request()
	}
	if number%3 == 0 {
		h.both("select credits.cleanup_chunk(null, null, 100)")
	}
}

func monthsSince(now time.Time) int { return (now.Year()-2026)*12 + int(now.Month()) - 2 }

// allocate gives this month's credits, by two sessions at once, and once more. A month that began in an hour without a tick is late, and not lost.
func (h *history) allocate() {
	h.both("select credits.allocate_chunk(null, null, 100)")
	h.do("select credits.allocate_chunk(null, null, 100)")
	h.months++
	for _, u := range h.users {
		h.balance[u] += h.monthly[u]
	}
}

func (h *history) request() {
	u, n := h.users[h.random.IntN(len(h.users))], int64(1+h.random.IntN(40))
	h.requests++
	key := fmt.Sprintf("request %d", h.requests)
	switch kind := h.random.IntN(6); {
	case kind < 3:
		for range 1 + h.random.IntN(2) {
			_, err := h.a.Exec(context.Background(), "select credits.charge($1, $2, $3)", u, n, key)
			if codeOf(err) == "TK101" {
				return
			}
			require.NoError(h.t, err)
		}
		h.balance[u] -= n
	case kind == 3:
		id, err := askNumber(h, "select credits.hold($1, $2, $3::text::interval, $4)", u, n, []string{"90 minutes", "1 day"}[h.random.IntN(2)], key)
		if err == nil {
			h.open = append(h.open, hold{id, u, n})
		}
	case kind == 4 && len(h.open) > 0:
		i := h.random.IntN(len(h.open))
		x := h.open[i]
		h.open = slices.Delete(h.open, i, i+1)
		if _, err := askNumber(h, "select credits.capture($1)", x.id); err == nil {
			h.balance[x.user] -= x.amount
		}
	case kind == 5 && len(h.open) > 0:
		_, err := askNumber(h, "select credits.release($1)", h.open[0].id)
		require.NoError(h.t, err)
		h.open = h.open[1:]
	}
}

// askNumber lets through that there are too few credits, and that a hold has expired.
func askNumber(h *history, sql string, args ...any) (id int64, err error) {
	h.t.Helper()
	err = h.a.QueryRow(context.Background(), sql, args...).Scan(&id)
	if pg := (*pgconn.PgError)(nil); err != nil && !slices.Contains([]string{"TK101", "TK104"}, codeOf(err)) {
		require.NoError(h.t, err, "%v %v", pg, args)
	}
	return id, err
}

// entry is a row of the ledger of slots.
type entry struct {
	slot, recorded time.Time
	single, hasJob bool
	fate           string
}

// account holds the slots since the last time against the walk.
func (h *history) account() {
	h.t.Helper()
	h.tick()
	for _, p := range h.plans {
		want := h.want(p)
		rows, err := h.a.Query(context.Background(), `select l.slot, l.recorded_at, l.last_slot is null, l.job_id is not null, l.fate from pgtick.slot_log as l join pgtick.schedule_defs as s on s.id = l.schedule_id
			where s.name = $1 and l.slot > $2 order by l.slot`, p.name, h.judged)
		require.NoError(h.t, err)
		var entries []entry
		var e entry
		_, err = pgx.ForEachRow(rows, []any{&e.slot, &e.recorded, &e.single, &e.hasJob, &e.fate}, func() error {
			entries = append(entries, e)
			return nil
		})
		require.NoError(h.t, err)
		h.compare(p, want, entries)
	}
	require.Empty(h.t, askAll(h, "select u.schedule || ' ' || u.slot || ' ' || u.why from pgtick.unaccounted_slots('30 days') as u limit 10"))
	require.Zero(h.t, ask1[int](h, "select count(*) - count(distinct l.job_id) from pgtick.slot_log as l where l.job_id is not null"))
	h.judged = h.now
	h.money()
}

func (h *history) want(p *plan) (slots []time.Time) {
	if p.name != "changes" {
		return p.slots(h.judged, h.now, h.zones[p.zone])
	}
	for i, c := range h.changes {
		from, to := c.at, h.now
		if i+1 < len(h.changes) {
			to = h.changes[i+1].at
		}
		if from.Before(h.judged) {
			from = h.judged
		}
		if to.After(from) {
			version := *p
			version.names = c.names
			slots = append(slots, version.slots(from, to, h.zones[p.zone])...)
		}
	}
	return slots
}

func (h *history) compare(p *plan, want []time.Time, entries []entry) {
	h.t.Helper()
	newest := map[time.Time]bool{} // ticks by which a late slot has been told that is newer
	for i := len(entries) - 1; i >= 0; i-- {
		e := entries[i]
		require.True(h.t, i < len(want) && want[i].Equal(e.slot), "%s: the ledger has %s, and %d slots in all; the walk has %d, here %s", p.name, e.slot, len(entries), len(want), want[min(i, len(want)-1)])
		late := e.recorded.Sub(e.slot) > 2*time.Minute
		runs := !late || p.onMissed == "all" || p.onMissed == "once" && !newest[e.recorded]
		if p.name == "pauses" && h.paused(e.slot) {
			runs = false
		}
		newest[e.recorded] = newest[e.recorded] || late
		require.True(h.t, e.single, "%s: %s", p.name, e.slot)
		require.Equal(h.t, runs, e.hasJob, "%s: slot %s, recorded at %s: %s", p.name, e.slot, e.recorded, e.fate)
		h.slots++
		if e.hasJob {
			h.jobs++
		}
	}
	require.Len(h.t, entries, len(want), p.name)
}

func (h *history) money() {
	h.t.Helper()
	for _, u := range h.users {
		require.Equal(h.t, h.balance[u], ask1[int64](h, "select a.balance from credits.accounts as a where a.user_id = $1", u), "%s: %s", h.now, u)
	}
	require.Empty(h.t, askAll(h, "select v.kind || ' ' || v.detail from credits.violations as v limit 10"))
	require.Equal(h.t, h.months*len(h.users), ask1[int](h, "select count(*) from credits.allocations"))
}

// finish lets the dead be found, and does what is left.
func (h *history) finish() {
	h.t.Helper()
	for range 3 {
		h.now = h.now.Add(2 * time.Hour)
		h.setClock(h.now)
		h.tick()
		h.do("select pgtick.rescue()")
		h.work()
	}
	h.account()
	require.Zero(h.t, ask1[int](h, "select count(*) from pgtick.live_jobs"))
	require.Equal(h.t, h.jobs, h.done, "each job is done, once")
	require.Empty(h.t, askAll(h, "select u.what || ' ' || u.problem from pgtick.upkeep as u where u.problem is not null"))
}

func askAll(h *history, sql string) []string {
	h.t.Helper()
	rows, err := h.a.Query(context.Background(), sql)
	require.NoError(h.t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(h.t, err)
	return found
}
