package schedules

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func requireNothingUnaccounted(t *testing.T, db *pgtest.DB) {
	t.Helper()
	require.Empty(t, all[string](t, db, "select concat_ws(' ', schedule, slot at time zone 'UTC', version, why) from pgtick.unaccounted_slots('60 days')"))
}

// eventful is a database in which much has happened to schedules within two days.
func eventful(t *testing.T) *pgtest.DB {
	t.Helper()
	db := newDB(t)
	at(t, db, "2026-03-07T00:00:30Z")
	exec(t, db, `select pgtick.schedule('utc', '*/7 * * * *', 'noop'), pgtick.schedule('all', '*/20 * * * *', 'noop', p_on_missed => 'all', p_catch_up_limit => 3),
		pgtick.schedule('ny', '30 2 * * *', 'noop', p_time_zone => 'America/New_York'), pgtick.schedule('ny-elapsed', '* * * * *', 'noop', p_time_zone => 'America/New_York'),
		pgtick.schedule('grid', '@every 90s', 'noop', p_on_missed => 'skip'), pgtick.schedule('paused', '*/5 * * * *', 'noop'), pgtick.schedule('edited', '0 * * * *', 'noop'),
		pgtick.schedule('ends', '*/10 * * * *', 'noop', p_ends_at => '2026-03-07 05:00+00'), pgtick.schedule('starts', '*/10 * * * *', 'noop', p_starts_at => '2026-03-07 05:00+00'),
		pgtick.schedule('removed', '*/10 * * * *', 'noop')`)
	at(t, db, "2026-03-07T01:03:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	exec(t, db, "select pgtick.pause_schedule('paused', '2026-03-07 09:00+00'), pgtick.run_now('utc')")
	at(t, db, "2026-03-07T04:30:00Z") // no tick since: the edits account for what is past
	exec(t, db, "select pgtick.schedule('edited', '15,45 * * * *', 'noop', p_time_zone => 'Asia/Kathmandu'), pgtick.unschedule('removed'), pgtick.rename_schedule('utc', 'renamed')")
	at(t, db, "2026-03-07T06:00:00Z")
	exec(t, db, "call pgtick.run_ticks()")
	exec(t, db, "select pgtick.schedule('removed', '*/15 * * * *', 'noop')")
	at(t, db, "2026-03-08T12:00:10Z") // over New York's gap
	exec(t, db, "call pgtick.run_ticks()")
	return db
}

func TestUnaccounted_WhateverHappened_IsEmpty(t *testing.T) {
	t.Parallel()
	db := eventful(t)
	requireNothingUnaccounted(t, db)
	require.Greater(t, one[int](t, db, "select sum(slots)::int from pgtick.slots"), 4000)
	at(t, db, "2026-03-08T18:00:00Z")
	requireNothingUnaccounted(t, db) // what is due is not lost
	require.NotEmpty(t, all[string](t, db, "select what from pgtick.schedule_health() where what = 'no clock ticks'"), "but it is told of")
}

func TestUnaccounted_WhenARowIsMissing_NamesItsSlot(t *testing.T) {
	t.Parallel()
	db := eventful(t)
	exec(t, db, "delete from pgtick.slot_log where schedule_id = (select id from pgtick.schedules where name = 'edited') and slot in ('2026-03-07 03:00+00', '2026-03-07 11:00+00')")
	require.Equal(t, []string{"edited 2026-03-07 03:00:00 1 it has no row in pgtick.slots", "edited 2026-03-07 11:00:00 2 it has no row in pgtick.slots"},
		all[string](t, db, "select concat_ws(' ', schedule, slot at time zone 'UTC', version, why) from pgtick.unaccounted_slots('30 days')"), "named by the version that was in force")
	require.Empty(t, all[string](t, db, "select schedule from pgtick.unaccounted_slots('1 hour')"), "only as far back as asked")
	exec(t, db, "update pgtick.slot_log set slots = slots - 1 where fate = 'missed_range' and schedule_id = (select id from pgtick.schedules where name = 'ny-elapsed')")
	require.Regexp(t, `the range from here to 2026-03-08 \d\d:\d\d:00 UTC counts \d+ slots, the calendar \d+`,
		one[string](t, db, "select why from pgtick.unaccounted_slots('30 days') where schedule = 'ny-elapsed'"))
	exec(t, db, "update pgtick.schedule_defs set next_at = next_at + interval '1 hour' where name = 'grid'") // as a bug would
	pgtest.Advance(t, db, 2*time.Hour)
	exec(t, db, "call pgtick.run_ticks()")
	require.Equal(t, 40, one[int](t, db, "select count(*) from pgtick.unaccounted_slots('30 days') where schedule = 'grid'"))
}

// A change while the clock is ahead, and one after it was put right: the second decides about all that comes after it, so that neither the first nor the
// version before that has to account for it.
func TestUnaccounted_AfterAChangeMadeAheadOfTime_IsEmpty(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]string{
		"changed":            "select pgtick.schedule('s', '*/10 * * * *', 'noop', p_on_missed => 'skip')",
		"paused":             "select pgtick.pause_schedule('s')",
		"renamed, and again": "select pgtick.rename_schedule('s', 't'), pgtick.rename_schedule('t', 's')",
		"removed":            "select pgtick.unschedule('s')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			at(t, db, "2026-03-01T10:00:30Z")
			exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'skip')")
			at(t, db, "2026-03-01T11:00:30Z")
			exec(t, db, between)
			at(t, db, "2026-03-01T10:05:30Z")
			exec(t, db, "select pgtick.schedule('s', '*/3 * * * *', 'noop', p_on_missed => 'skip')")
			at(t, db, "2026-03-01T12:00:30Z")
			tick(t, db)
			requireNothingUnaccounted(t, db)
			exec(t, db, "delete from pgtick.slot_log")
			require.Equal(t, []string{"first 5 10:01 10:05", "last 39 10:06 12:00"}, all[string](t, db, `select concat_ws(' ', case version when 1 then 'first' else 'last' end, count(*), to_char(min(slot) at time zone 'UTC', 'HH24:MI'), to_char(max(slot) at time zone 'UTC', 'HH24:MI'))
				from pgtick.unaccounted_slots() group by version order by version`))
		})
	}
}

// Counted in blocks of its temporary files, for which it has hardly any memory here.
func TestUnaccounted_OfManyVersions_ReadsEachAFewTimes(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `do $$ begin for n in 1 .. 400 loop perform pgtick.schedule('s', n % 60 || ' * * * *', 'noop'); end loop; end $$`)
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), "set work_mem = '64kB'")
	require.NoError(t, err)
	var plan []struct {
		Plan struct {
			Read    int `json:"Temp Read Blocks"`
			Written int `json:"Temp Written Blocks"`
		}
	}
	require.NoError(t, conn.QueryRow(t.Context(), "explain (analyze, buffers, format json) select * from pgtick.version_windows(pgtick.now() - interval '30 days', pgtick.now())").Scan(&plan))
	require.Positive(t, plan[0].Plan.Written)
	require.Less(t, plan[0].Plan.Read, 5*plan[0].Plan.Written)
}

func TestUnaccounted_WhenTheTimeIsWrong_SaysSo(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, since := range []string{"0", "-1 day"} {
		e := refused(t, db, "select pgtick.unaccounted_slots($1::text::interval)", since)
		require.Equal(t, "TK000", e.Code)
		require.Contains(t, e.Message, "since")
	}
	require.Empty(t, all[string](t, db, "select why from pgtick.unaccounted_slots('1000 years')"))
}

// A change of the rules that lie in the past cannot be repaired; a version that cannot be worked out any more is told of.
func TestUnaccounted_WhenAVersionCannotBeWorkedOut_SaysWhy(t *testing.T) {
	t.Parallel()
	db := eventful(t)
	exec(t, db, "update pgtick.schedule_changes set definition = jsonb_set(definition, '{time_zone}', '\"Mars/Base\"') where definition ->> 'name' = 'ny'")
	require.Regexp(t, "cannot be worked out any more: .*Mars/Base", one[string](t, db, "select why from pgtick.unaccounted_slots('30 days') where schedule = 'ny'"))
}

func TestCounting_ForRandomExpressions_AgreesWithListing(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	random, from := rand.New(rand.NewPCG(seed(t), 0)), time.Date(2009, 6, 1, 0, 0, 0, 0, time.UTC)
	var crons, in, gaps, folds []string
	var starts []time.Time
	for range 600 {
		e := randomExpression(random.IntN)
		for !e.fires() {
			e = randomExpression(random.IntN)
		}
		crons = append(crons, e.text)
		in = append(in, zones[random.IntN(len(zones))])
		gaps = append(gaps, []string{"run", "skip"}[random.IntN(2)])
		folds = append(folds, []string{"first", "last", "both"}[random.IntN(3)])
		starts = append(starts, from.Add(time.Duration(random.Int64N(20*365*24*3600))*time.Second))
	}
	different := all[string](t, db, `
		select concat_ws(' | ', c.cron, c.zone, c.at, w.to_at, c.gap, c.fold, n.counted, cardinality(l.listed), k.newest)
		from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[]) with ordinality as c(cron, zone, at, gap, fold, place)
		cross join lateral (select c.at + make_interval(hours => (array[5, 30, 80, 24 * 20])[1 + c.place % 4])) as w(to_at)
		cross join lateral (select pgtick.parse_cron(c.cron) as cron) as p
		cross join lateral (select array(select s from pgtick.slots_between(p.cron, c.zone, c.at, w.to_at, null, c.gap, c.fold) as s)) as l(listed)
		cross join lateral (select pgtick.count_slots(p.cron, c.zone, c.at, w.to_at, c.gap, c.fold)) as n(counted)
		cross join lateral (select pgtick.last_slots(p.cron, c.zone, c.at, w.to_at, 3, c.gap, c.fold)) as k(newest)
		where n.counted <> cardinality(l.listed) or k.newest <> l.listed[greatest(cardinality(l.listed) - 3, 0) + 1:]`, crons, in, starts, gaps, folds)
	require.Empty(t, different)
}

func TestCounting_ThatBeginsOrEndsNearAShift_AgreesWithListing(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	different := all[string](t, db, `
		with moments as (
			select z.name, z.shift::timestamptz + d.distance as at
			from (values ('Europe/Berlin', '2026-03-29 01:00Z'), ('Europe/Berlin', '2026-10-25 01:00Z'), ('Australia/Lord_Howe', '2026-10-03 15:30Z'), ('Africa/Casablanca', '2026-02-15 02:00Z')) as z(name, shift)
			cross join unnest('{-27 h,-26 h -1 us,-26 h,-1 h,-1 us,0,1 us,30 min,1 h,26 h,26 h 1 us}'::interval[]) as d(distance))
		select concat_ws(' | ', c.cron, f.name, f.at, u.at, p.gap, p.fold, n.counted, l.listed)
		from unnest('{"*/30 * * * *","30 2 * * *","15,45 0,1,2,3,23 * * *","0 0 * * *"}'::text[]) as c(cron)
		cross join (values ('run', 'first'), ('skip', 'last'), ('run', 'both')) as p(gap, fold)
		cross join moments as f
		join moments as u on u.name = f.name and u.at > f.at and u.at < f.at + interval '4 days'
		cross join lateral (select count(*) as listed from pgtick.slots_between(pgtick.parse_cron(c.cron), f.name, f.at, u.at, null, p.gap, p.fold)) as l
		cross join lateral (select pgtick.count_slots(pgtick.parse_cron(c.cron), f.name, f.at, u.at, p.gap, p.fold) as counted) as n
		where n.counted <> l.listed`)
	require.Empty(t, different)
}

func TestPreviewChange_TellsWhatAnEditAddsAndDrops(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop'), pgtick.schedule('ended', '0 9 * * *', 'noop', p_ends_at => '2026-03-02 12:00+00')")
	change := func(args string) []string {
		return all[string](t, db, "select to_char(slot at time zone 'UTC', 'MM-DD HH24:MI') || ' ' || change from pgtick.preview_change("+args+")")
	}
	require.Equal(t, []string{"03-02 08:00 added", "03-03 08:00 added"}, change("'s', '0 8,9 * * *', p_until_at => '2026-03-04 00:00+00'"))
	require.Equal(t, []string{"03-02 08:00 added", "03-02 09:00 dropped"}, change("'s', p_time_zone => 'Europe/Berlin', p_until_at => '2026-03-03 00:00+00'"))
	require.Equal(t, []string{"03-02 09:00 dropped", "03-02 10:00 added"}, change("'ended', '0 10 * * *'"))
	require.Empty(t, change("'s'"))
	require.Len(t, change("'s', '0 10 * * *'"), 60, "30 days")
	require.Equal(t, 10000, one[int](t, db, "select count(*) from pgtick.preview_change('s', '@every 1s')"), "for as long as each side has at most 10,000")
	require.Equal(t, []string{"created"}, all[string](t, db, "select what from pgtick.schedule_versions where schedule = 's'"), "nothing is changed")
	for sql, code := range map[string]string{"'none'": "TK006", "'s', '60 * * * *'": "TK012", "'s', p_time_zone => 'Mars/Base'": "TK018", "'s', p_until_at => '2020-01-01'": "TK000",
		"'s', p_until_at => 'infinity'": "TK000", "'s', p_until_at => '2030-01-01'": "TK000"} {
		require.Equal(t, code, refused(t, db, "select pgtick.preview_change("+sql+")").Code, sql)
	}
}

// ran lets a task have done jobs that took so many seconds.
func ran(t *testing.T, db *pgtest.DB, task string, seconds ...int) {
	t.Helper()
	exec(t, db, `insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, created_at, started_at, finished_at, expires_on)
		select nextval('pgtick.live_jobs_id_seq'), $1, 'default', 5, 'done', pgtick.now(), 1, 0, 20, 0, 0, '5 minutes', '{}', pgtick.now(), pgtick.now() - make_interval(secs => s), pgtick.now(),
			(pgtick.now() + interval '7 days')::date from unnest($2::int[]) as s`, task, seconds)
}

func TestForecast_PlaysTheComingSlotsThrough(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	ran(t, db, "slow", 90, 90, 80)
	ran(t, db, "quick", 1)
	exec(t, db, `select pgtick.schedule('skip', '* * * * *', 'slow'), pgtick.schedule('wait', '* * * * *', 'slow', p_on_overlap => 'wait'),
		pgtick.schedule('cancel', '* * * * *', 'slow', p_on_overlap => 'cancel'), pgtick.schedule('quick', '*/2 * * * *', 'quick'), pgtick.schedule('new', '*/2 * * * *', 'never ran'),
		pgtick.schedule('paused', '*/2 * * * *', 'quick'), pgtick.schedule('ends', '* * * * *', 'quick', p_ends_at => '2026-03-01 10:02+00'),
		pgtick.schedule('gone', '* * * * *', 'quick')`)
	exec(t, db, "select pgtick.pause_schedule('paused', '2026-03-01 10:04+00'), pgtick.unschedule('gone')")
	expected := func(name string) []string {
		return all[string](t, db, `select concat_ws(' ', to_char(slot at time zone 'UTC', 'HH24:MI'), expected, to_char(ends_at at time zone 'UTC', 'HH24:MI:SS'))
			from pgtick.forecast('2026-03-01 10:04:00+00') where schedule = $1 order by slot`, name)
	}
	require.Equal(t, []string{"10:01 enqueued 10:02:30", "10:02 skipped_overlap", "10:03 enqueued 10:04:30", "10:04 skipped_overlap"}, expected("skip"))
	require.Equal(t, []string{"10:01 enqueued 10:02:30", "10:02 waits 10:04:00", "10:03 waits 10:05:30", "10:04 waits 10:07:00"}, expected("wait"))
	require.Equal(t, []string{"10:01 enqueued 10:02:30", "10:02 replaces 10:03:30", "10:03 replaces 10:04:30", "10:04 replaces 10:05:30"}, expected("cancel"))
	require.Equal(t, []string{"10:02 enqueued 10:02:01", "10:04 enqueued 10:04:01"}, expected("quick"))
	require.Equal(t, []string{"10:02 enqueued", "10:04 enqueued"}, expected("new"), "how long it takes is not known")
	require.Equal(t, []string{"10:02 skipped_paused", "10:04 enqueued 10:04:01"}, expected("paused"))
	require.Equal(t, []string{"10:01 enqueued 10:01:01"}, expected("ends"))
	require.Empty(t, expected("gone"))
	require.Equal(t, "4 00:01:30 t", one[string](t, db, `select concat_ws(' ', max(load) filter (where schedule = 'quick'), max(usual_duration) filter (where schedule = 'skip'),
		bool_or(overlapping) filter (where schedule = 'skip')) from pgtick.forecast('2026-03-01 10:02:10+00')`), "cancel, quick, new and wait's second job... start in the minute of 10:02")
	require.Zero(t, one[int](t, db, "select count(*) from pgtick.jobs where finished_at is null"), "nothing runs for it")
	require.Equal(t, "2026-03-02 10:00:00", one[string](t, db, "select (max(slot) at time zone 'UTC')::text from pgtick.forecast()"), "a day by default")
	for _, until := range []string{"2020-01-01", "infinity", "2030-01-01"} {
		require.Equal(t, "TK000", refused(t, db, "select pgtick.forecast($1::text::timestamptz)", until).Code)
	}
}

func TestWhySchedule_NamesTheReasonAndTheRemedy(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T10:00:30Z")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_on_missed => 'skip')")
	why := func() string {
		return strings.Join(all[string](t, db, "select reason from pgtick.why_schedule('s') order by rank"), "; ")
	}
	require.Equal(t, "its next slot is still to come", why())
	at(t, db, "2026-03-01T10:04:00Z")
	require.Equal(t, "no clock ticks", why())
	tick(t, db)
	require.Equal(t, "its last slot made no job; its job waits; an earlier job of it is live; its next slot is still to come", why())
	claimed := take(t, db)
	require.Equal(t, "its last slot made no job; an earlier job of it is live; its next slot is still to come", why())
	require.Contains(t, one[string](t, db, "select evidence from pgtick.why_schedule('s') where reason like 'an earlier%'"), "runs since 2026-03-01 10:04:00 UTC (attempt 1); on_overlap skip")
	finish(t, db, claimed, "done")
	at(t, db, "2026-03-01T10:05:00Z")
	tick(t, db)
	finish(t, db, take(t, db), "failed")
	require.Equal(t, "its last job failed; its next slot is still to come", why())
	exec(t, db, "select pgtick.pause_schedule('s')")
	require.Equal(t, "it is paused; its last job failed; its next slot is still to come", why())
	require.Equal(t, "select pgtick.resume_schedule('s');", one[string](t, db, "select remedy from pgtick.why_schedule('s') where rank = 1"))
	exec(t, db, "select pgtick.resume_schedule('s')")
	exec(t, db, "update pgtick.schedule_defs set time_zone = 'Mars/Base'")
	at(t, db, "2026-03-01T10:06:00Z")
	tick(t, db)
	require.Contains(t, why(), "it is broken; ")
	exec(t, db, "select pgtick.schedule('s', '* * * * *', 'noop', p_ends_at => '2026-03-01 10:06:30+00')")
	require.Contains(t, why(), "it has no slot any more")
	require.Equal(t, "TK006", refused(t, db, "select pgtick.why_schedule('t')").Code)
}

func TestUnaccounted_OfATimeThatIsNone_IsRefused(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, since := range []string{"null", "'0'", "'-1 day'", "'-1 year 361 days'"} {
		e := refused(t, db, "select pgtick.unaccounted_slots("+since+")")
		require.Equal(t, "TK000", e.Code, since)
		require.Contains(t, e.Message, "since ", since)
	}
}

// What is found only when its time has come is not looked for before: a change in between is no move.
func TestPause_WhileTheZonesRulesHaveMovedASlotToCome_IsAPauseAlone(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	at(t, db, "2026-03-01T12:00:00Z")
	exec(t, db, "select pgtick.schedule('s', '0 9 * * *', 'noop', p_time_zone => 'Europe/Berlin')")
	exec(t, db, "update pgtick.schedule_defs set next_at = '2026-03-02 09:00+00'") // under the rules that were
	exec(t, db, "select pgtick.pause_schedule('s')")
	require.Equal(t, []string{"created", "paused"}, all[string](t, db, "select what from pgtick.schedule_versions order by version"))
}
