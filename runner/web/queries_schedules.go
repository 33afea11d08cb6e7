package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/runner/jobs"
)

// The SQL of the pages of schedules: one function a statement. Each finds by an index what it shows, or looks through a bounded number of rows and says
// so. pgtick.schedules and pgtick.schedule_versions read more than a page has, so pages read the tables below.

// zoneNames lists the time zones that the server knows. It reads them from files, which takes some 30 ms: ask rarely.
func zoneNames(ctx context.Context, db jobs.DB) ([]string, error) {
	return collectRows(ctx, db, "read the time zones", pgx.RowTo[string], `select z.name from pg_catalog.pg_timezone_names as z where z.name !~ '^(posix|right)/|^(localtime|posixrules|Factory)$' order by z.name`)
}

// wallClock is what the clocks of a zone show at a moment.
type wallClock struct {
	Words  string // Sun 25 Oct 2026, 02:30
	Offset int    // minutes east of Greenwich
}

// wallClocks are those of moments, each in its zone, which the server must know.
func wallClocks(ctx context.Context, db jobs.DB, at []time.Time, zones []string) ([]wallClock, error) {
	if len(at) == 0 {
		return nil, nil
	}
	return collectRows(ctx, db, "ask for local times", func(row pgx.CollectableRow) (w wallClock, err error) {
		return w, row.Scan(&w.Words, &w.Offset)
	}, `select to_char(m.at at time zone m.zone, case when extract(second from m.at) = 0 then 'Dy DD Mon YYYY, HH24:MI' else 'Dy DD Mon YYYY, HH24:MI:SS' end),
			(extract(epoch from (m.at at time zone m.zone) - (m.at at time zone 'UTC')) / 60)::int
		from unnest($1::timestamptz[], $2::text[]) with ordinality as m(at, zone, place) order by m.place`, at, zones)
}

// scheduleItem is a schedule in a list.
type scheduleItem struct {
	ID          int64      `json:"id"`
	Version     int        `json:"version"`
	Name        string     `json:"name"`
	Cron        string     `json:"cron"`
	Zone        string     `json:"time_zone"`
	Description string     `json:"-"`
	Task        string     `json:"task"`
	Queue       string     `json:"queue"`
	NextAt      *time.Time `json:"next_at"`
	PausedAt    *time.Time `json:"paused_at"`
	PausedUntil *time.Time `json:"paused_until"`
	BrokenAt    *time.Time `json:"broken_at"`
	BrokenWhy   string     `json:"broken_why"`
	LastSlot    *time.Time `json:"last_slot"`
	LastFate    string     `json:"last_fate"`
	LastJob     int64      `json:"last_job"`
	Now         time.Time  `json:"now"` // by the database's clock
}

// scheduleFilter says which schedules are listed.
type scheduleFilter struct {
	State string // active, paused, broken, ended
	Words string // in its name, task or queue
	After string // by name
}

const scheduleColumns = `s.id, s.version, s.name, s.cron, s.time_zone, s.task, s.queue, s.next_at,
	case when s.paused_until is null or s.paused_until > n.now then s.paused_at end as paused_at, case when s.paused_until > n.now then s.paused_until end as paused_until,
	s.broken_at, coalesce(s.broken_why, '') as broken_why, n.now`

// listSchedules lists n of them by name. Words and states are looked for in the next jobs.Window names.
func listSchedules(ctx context.Context, db jobs.DB, f scheduleFilter, n int) ([]scheduleItem, error) {
	return collectRows(ctx, db, "read the schedules", fromJSON[scheduleItem], `select row_to_json(r)::text from (
			select `+scheduleColumns+`, coalesce(l.last_slot, l.slot) as last_slot, coalesce(l.fate, '') as last_fate, coalesce(l.job_id, 0) as last_job
			from (select pgtick.now() as now offset 0) as n
			cross join lateral (
				select c.* from (
					select d.* from pgtick.schedule_defs as d where d.removed_at is null and d.name > $1::text order by d.name
					limit case when $2::text = '' and $3::text = '' then $4::int else $5::int end) as c
				where strpos(lower(concat_ws(' ', c.name, c.task, c.queue)), lower($2::text)) > 0
					and $3::text in ('', case when c.broken_at is not null then 'broken' when c.next_at is null then 'ended'
						when c.paused_at is not null and (c.paused_until is null or c.paused_until > n.now) then 'paused' else 'active' end)
				order by c.name limit $4::int) as s
			left join lateral (select x.slot, x.last_slot, x.fate, x.job_id from pgtick.slot_log as x where x.schedule_id = s.id order by x.slot desc limit 1) as l on true
			order by s.name) as r`, f.After, f.Words, f.State, n, jobs.Window)
}

// describeAll says expressions in plain English, in their order.
func describeAll(ctx context.Context, db jobs.DB, crons []string) ([]string, error) {
	return collectRows(ctx, db, "describe the expressions", pgx.RowTo[string], `select pgtick.describe(c.cron) from unnest($1::text[]) with ordinality as c(cron, place) order by c.place`, crons)
}

// schedulesEdge is the last of the next jobs.Window names, where there are so many.
func schedulesEdge(ctx context.Context, db jobs.DB, after string) (name string, err error) {
	err = db.QueryRow(ctx, `select d.name from pgtick.schedule_defs as d where d.removed_at is null and d.name > $1::text order by d.name offset $2::int - 1 limit 1`, after, jobs.Window).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return name, failedTo("read the schedules", err)
}

// jobEnd is what has become of a job.
type jobEnd struct {
	ID         int64
	State      string
	StartedAt  *time.Time
	FinishedAt *time.Time
}

// jobEnds tells it of several; those that are not kept any more are missing.
func jobEnds(ctx context.Context, db jobs.DB, ids []int64) (map[int64]jobEnd, error) {
	found := map[int64]jobEnd{}
	if len(ids) == 0 {
		return found, nil
	}
	all, err := collectRows(ctx, db, "read the jobs of the slots", func(row pgx.CollectableRow) (j jobEnd, err error) {
		return j, row.Scan(&j.ID, &j.State, &j.StartedAt, &j.FinishedAt)
	}, `select j.id, j.state, j.started_at, j.finished_at from pgtick.jobs as j where j.id = any ($1::bigint[])`, ids)
	for _, j := range all {
		found[j.ID] = j
	}
	return found, err
}

// plannedSlots are the first slots of a schedule in a time, at most so many, in seconds since 1970.
type plannedSlots struct {
	ID    int64
	Slots []int64
}

// slotsAhead lists at most n slots of each of these schedules, from a moment on and before another. Those on a grid of seconds are left out:
// countAhead is quick for them.
func slotsAhead(ctx context.Context, db jobs.DB, ids []int64, from, until time.Time, n int) ([]plannedSlots, error) {
	return collectRows(ctx, db, "work out the slots ahead", func(row pgx.CollectableRow) (p plannedSlots, err error) {
		return p, row.Scan(&p.ID, &p.Slots)
	}, `select d.id, array(select extract(epoch from s.slot)::bigint from pgtick.slots_between(d.parsed, d.time_zone, greatest($2::timestamptz, d.starts_at) - interval '1 microsecond',
			least($3::timestamptz, d.ends_at) - interval '1 microsecond', $4::int, d.on_gap, d.on_fold) as s(slot))
		from pgtick.schedule_defs as d where d.id = any ($1::bigint[]) and (d.parsed).every_seconds is null order by d.id`, ids, from, until, n)
}

// countedSlots is how many slots a schedule has in a part of a time.
type countedSlots struct {
	ID    int64
	Cell  int
	Slots int64
}

// countAhead counts the slots of each of these schedules in each of so many parts of equal length that begin at a moment.
func countAhead(ctx context.Context, db jobs.DB, ids []int64, from time.Time, length time.Duration, cells int) ([]countedSlots, error) {
	return collectRows(ctx, db, "count the slots ahead", func(row pgx.CollectableRow) (c countedSlots, err error) {
		return c, row.Scan(&c.ID, &c.Cell, &c.Slots)
	}, `select d.id, c.cell, pgtick.count_slots(d.parsed, d.time_zone, greatest(c.since, d.starts_at) - interval '1 microsecond', least(c.until, d.ends_at) - interval '1 microsecond', d.on_gap, d.on_fold)
		from pgtick.schedule_defs as d
		cross join (select g as cell, $2::timestamptz + g * make_interval(secs => $3::float8) as since, $2::timestamptz + (g + 1) * make_interval(secs => $3::float8) as until
			from generate_series(0, $4::int - 1) as g) as c
		where d.id = any ($1::bigint[]) order by d.id, c.cell`, ids, from, length.Seconds(), cells)
}

// scheduleWhole is a schedule with all its settings, as text where a form has them so.
type scheduleWhole struct {
	scheduleItem
	Source    string             `json:"source"`
	CreatedAt time.Time          `json:"created_at"`
	Settings  map[string]*string `json:"settings"` // as pgtick.schedule calls them
}

// wholeSchedule reads one by its name.
func wholeSchedule(ctx context.Context, db jobs.DB, name string) (s scheduleWhole, err error) {
	settings := ""
	for _, p := range jobs.ScheduleParameters() {
		settings += fmt.Sprintf(", '%[1]s', s.%[1]s::text", p.Name)
	}
	found, err := collectRows(ctx, db, "read the schedule", fromJSON[scheduleWhole], `select row_to_json(r)::text from (
			select `+scheduleColumns+`, coalesce(s.source, '') as source, s.created_at, jsonb_build_object(`+settings[2:]+`) as settings
			from (select pgtick.now() as now offset 0) as n
			join pgtick.schedule_defs as s on s.name = $1::text and s.removed_at is null) as r`, name)
	switch {
	case err != nil:
		return s, err
	case len(found) == 0: // the database says what it was named, or when it was removed
		_, err = jobs.WhySchedule(ctx, db, name)
		return s, errors.Join(err, missing("no schedule is named %q", name))
	}
	return found[0], nil
}

// loggedSlot is what became of a slot, or of a range of them.
type loggedSlot struct {
	Slot       time.Time  `json:"slot"`
	LastSlot   *time.Time `json:"last_slot"`
	Slots      int        `json:"slots"`
	Fate       string     `json:"fate"`
	Reason     string     `json:"reason"`
	JobID      int64      `json:"job_id"`
	RecordedAt time.Time  `json:"recorded_at"`
	Clock      string     `json:"clock"`
	Version    int        `json:"version"`
}

// loggedSlots are the newest n rows of a schedule before a moment.
func loggedSlots(ctx context.Context, db jobs.DB, schedule int64, before *time.Time, n int) ([]loggedSlot, error) {
	return collectRows(ctx, db, "read the slots", fromJSON[loggedSlot], `select row_to_json(r)::text from (
			select l.slot, l.last_slot, l.slots, l.fate, coalesce(l.reason, '') as reason, coalesce(l.job_id, 0) as job_id, l.recorded_at, coalesce(l.clock, '') as clock, l.version
			from pgtick.slot_log as l where l.schedule_id = $1::bigint and l.slot < coalesce($2::timestamptz, 'infinity') order by l.slot desc limit $3::int) as r`, schedule, before, n)
}

// scheduleChange is a version of a schedule.
type scheduleChange struct {
	Version    int                        `json:"version"`
	What       string                     `json:"what"`
	ChangedAt  time.Time                  `json:"changed_at"`
	ChangedBy  string                     `json:"changed_by"`
	Reason     string                     `json:"reason"`
	Definition map[string]json.RawMessage `json:"definition"`
}

// scheduleChanges are the newest n of them.
func scheduleChanges(ctx context.Context, db jobs.DB, schedule int64, n int) ([]scheduleChange, error) {
	return collectRows(ctx, db, "read the versions", fromJSON[scheduleChange], `select row_to_json(r)::text from (
			select c.version, c.what, c.changed_at, c.changed_by, coalesce(c.reason, '') as reason, c.definition
			from pgtick.schedule_changes as c where c.schedule_id = $1::bigint order by c.version desc limit $2::int) as r`, schedule, n)
}

// wallHour is an hour as the clocks of a zone count it, and how many minutes of it there are: 60; where the clock is moved, none or twice as many.
type wallHour struct {
	Day     string    `json:"day"` // 2026-03-29
	Hour    int       `json:"hour"`
	Minutes int       `json:"minutes"`
	Begins  time.Time `json:"begins"`
}

// hourFates is how many slots of an hour met a fate.
type hourFates struct {
	Day   string `json:"day"`
	Hour  int    `json:"hour"`
	Fate  string `json:"fate"`
	Slots int    `json:"slots"`
}

// passedRange is a stretch of slots that have one row together.
type passedRange struct {
	From      time.Time `json:"from_at"`
	To        time.Time `json:"to_at"`
	Slots     int       `json:"slots"`
	Fate      string    `json:"fate"`
	FirstDay  string    `json:"first_day"`
	FirstHour int       `json:"first_hour"`
	LastDay   string    `json:"last_day"`
	LastHour  int       `json:"last_hour"`
}

// fatesFound are a schedule's slots by the hours of its zone.
type fatesFound struct {
	Hours  []wallHour    `json:"hours"`
	Fates  []hourFates   `json:"fates"`
	Ranges []passedRange `json:"ranges"`
	Oldest *time.Time    `json:"oldest"` // that was counted, where there are older ones in this time
}

// fatesByHour counts the newest most rows of a schedule's slots in so many days up to today, and reads the range that had begun before. Hours
// are counted in quarters, since zones move their clocks by a half as well. now, known beforehand, keeps the planner from the partitions of
// days that lie too far back.
func fatesByHour(ctx context.Context, db jobs.DB, schedule int64, zone string, days, most int, now time.Time) (f fatesFound, err error) {
	bound := now.Add(-time.Duration(days+2) * 24 * time.Hour)
	found, err := collectRows(ctx, db, "count the slots by hour", fromJSON[fatesFound], `with today as materialized (select date_trunc('day', pgtick.now() at time zone $2::text) as day
		), span as materialized (select (t.day - make_interval(days => $3::int - 1)) at time zone $2::text as since, (t.day + interval '1 day') at time zone $2::text as until from today as t
		), hours as (
			select to_char(q.wall, 'YYYY-MM-DD') as day, extract(hour from q.wall)::int as hour, 15 * count(*)::int as minutes, min(q.at) as begins
			from (select g.at, g.at at time zone $2::text as wall from span as p cross join lateral generate_series(p.since, p.until - interval '1 second', interval '15 minutes') as g(at)) as q
			group by 1, 2
		), newest as materialized (
			select l.slot, l.last_slot, l.slots, l.fate from pgtick.slot_log as l
			where l.schedule_id = $1::bigint and l.slot >= $5::timestamptz and l.slot >= (select p.since from span as p) order by l.slot desc limit $4::int
		), quarters as (
			select date_bin('15 minutes', n.slot, '2000-01-01 00:00+00') as quarter, n.fate, count(*) as slots from newest as n where n.last_slot is null group by 1, 2
		), fates as (
			select to_char(w.hour, 'YYYY-MM-DD') as day, extract(hour from w.hour)::int as hour, w.fate, sum(w.slots)::int as slots
			from (select date_trunc('hour', q.quarter at time zone $2::text) as hour, q.fate, q.slots from quarters as q) as w
			group by w.hour, w.fate
		), begun as (
			select b.* from (
				select l.slot, l.last_slot, l.slots, l.fate from pgtick.slot_log as l
				where l.schedule_id = $1::bigint and l.slot < (select p.since from span as p) order by l.slot desc limit 100) as b
			where b.last_slot >= (select p.since from span as p)
		), ranges as (
			select r.slot as from_at, r.last_slot as to_at, r.slots, r.fate, to_char(w.first, 'YYYY-MM-DD') as first_day, extract(hour from w.first)::int as first_hour,
				to_char(w.last, 'YYYY-MM-DD') as last_day, extract(hour from w.last)::int as last_hour
			from (select n.* from newest as n where n.last_slot is not null union all select b.* from begun as b) as r
			cross join lateral (select greatest(r.slot, (select p.since from span as p)) at time zone $2::text as first, r.last_slot at time zone $2::text as last) as w
		)
		select json_build_object('hours', (select json_agg(h order by h.day, h.hour) from hours as h), 'fates', (select json_agg(f order by f.day, f.hour, f.fate) from fates as f),
			'ranges', (select json_agg(r order by r.from_at) from ranges as r), 'oldest', (select case when count(*) = $4::int then min(n.slot) end from newest as n))::text`, schedule, zone, days, most, bound)
	if err != nil {
		return f, err
	}
	return found[0], nil
}

// nextSlots are the first n slots of a schedule after its next one.
func nextSlots(ctx context.Context, db jobs.DB, id int64, n int) ([]time.Time, error) {
	return collectRows(ctx, db, "work out the next slots", pgx.RowTo[time.Time], `select s.slot from pgtick.schedule_defs as d
		cross join lateral pgtick.slots_between(d.parsed, d.time_zone, d.next_at, least(d.ends_at - interval '1 microsecond', '9999-12-31 00:00+00'), $2::int, d.on_gap, d.on_fold) as s(slot)
		where d.id = $1::bigint`, id, n)
}

// previewSlots are the first n slots that a schedule with these settings would have.
func previewSlots(ctx context.Context, db jobs.DB, cron, zone, onGap, onFold string, startsAt, endsAt *string, n int) ([]time.Time, error) {
	return collectRows(ctx, db, "preview the schedule", pgx.RowTo[time.Time], `select s.slot from (select pgtick.now() as now offset 0) as n
		cross join lateral pgtick.slots_between(pgtick.parse_cron($1::text), $2::text, greatest(n.now, $5::text::timestamptz - interval '1 microsecond'),
			least($6::text::timestamptz - interval '1 microsecond', '9999-12-31 00:00+00'), $7::int, $3::text, $4::text) as s(slot)`, cron, zone, onGap, onFold, startsAt, endsAt, n)
}

// checkZone fails where the server does not know a time zone, and says which one may be meant.
func checkZone(ctx context.Context, db jobs.DB, zone string) error {
	_, err := db.Exec(ctx, `select pgtick.check_time_zone($1::text)`, zone)
	return failedTo("check the time zone", err)
}

// readable fails where the database can't read a text as a value of a type.
func readable(ctx context.Context, db jobs.DB, text, kind string) error {
	_, err := db.Exec(ctx, `select $1::text::`+kind, text)
	return err
}

// lockSchedule keeps a schedule as it is until the transaction ends, and reads its version: 0 where there is none of that name. To rename a
// schedule to the name that it has changes nothing, but takes the lock first; a role that may write no table can't lock one in another way.
func lockSchedule(ctx context.Context, db jobs.DB, name string) (id int64, version int, err error) {
	const read = `select s.id, s.version from pgtick.schedule_defs as s where s.name = $1::text and s.removed_at is null`
	if err = db.QueryRow(ctx, read, name).Scan(&id, &version); errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, nil
	}
	if err == nil {
		if err = jobs.RenameSchedule(ctx, db, name, name); err == nil {
			err = db.QueryRow(ctx, read, name).Scan(&id, &version)
		}
	}
	return id, version, failedTo("lock the schedule", err)
}

// latestChange tells what the newest version of a schedule is.
func latestChange(ctx context.Context, db jobs.DB, name string) (what string, version int, err error) {
	err = db.QueryRow(ctx, `select c.what, c.version from pgtick.schedule_changes as c
		where c.schedule_id = (select s.id from pgtick.schedule_defs as s where s.name = $1::text) order by c.version desc limit 1`, name).Scan(&what, &version)
	return what, version, failedTo("read the version", err)
}

// skipNext pauses a schedule until just after its next slot, and returns that.
func skipNext(ctx context.Context, db jobs.DB, name string) (slot *time.Time, err error) {
	if err := db.QueryRow(ctx, `select s.next_at from pgtick.schedule_defs as s where s.name = $1::text and s.removed_at is null`, name).Scan(&slot); err != nil || slot == nil {
		return nil, failedTo("find the next slot", err)
	}
	until := slot.Add(time.Second)
	return slot, jobs.PauseUntil(ctx, db, name, &until, 0)
}

// isPaused tells whether a schedule is paused already.
func isPaused(ctx context.Context, db jobs.DB, name string) (yes bool, err error) {
	err = db.QueryRow(ctx, `select exists (select from pgtick.schedule_defs as s where s.name = $1::text and s.removed_at is null
		and s.paused_at is not null and (s.paused_until is null or s.paused_until > pgtick.now()))`, name).Scan(&yes)
	return yes, failedTo("look whether it is paused", err)
}

// argsOf are the arguments of a schedule's jobs.
func argsOf(ctx context.Context, db jobs.DB, name string) (args string, err error) {
	err = db.QueryRow(ctx, `select s.args::text from pgtick.schedule_defs as s where s.name = $1::text and s.removed_at is null`, name).Scan(&args)
	return args, failedTo("read the arguments", err)
}
