package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// calm are the schedules of an ordinary application: nothing runs more often than every quarter of an hour.
const calm = `(values
	(0, '*/15 * * * *', 'UTC'), (1, '0 * * * *', 'America/New_York'), (2, '@every 1h', 'UTC'), (3, '0 9-17 * * MON-FRI', 'Europe/Berlin'),
	(4, '0 12 * * *', 'UTC'), (5, '30 3 * * *', 'America/New_York'), (6, '0 6 * * MON', 'Europe/Berlin'), (7, '0 0 1 * *', 'UTC')
	) as k(place, cron, zone)`

// calendar is what looking at many schedules costs, ahead (forecast) and back (unaccounted_slots). The bare side works out the same
// slots, and does nothing with them.
func (b *bench) calendar(ctx context.Context, taken samples) error {
	for _, schedules := range []int{100, 1000} {
		if err := b.calendarOf(ctx, schedules, taken); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) calendarOf(ctx context.Context, schedules int, taken samples) error {
	s, err := b.month(ctx, schedules)
	if err != nil {
		return err
	}
	defer s.pool.Close()
	suffix := "_" + strconv.Itoa(schedules)
	for range b.size.runs {
		for _, one := range []struct {
			figure, side, sql string
			empty             bool
		}{
			{"forecast_day", "pgtick", `select count(*) from pgtick.forecast(pgtick.now() + interval '1 day')`, false},
			{"forecast_day", "bare", slotsOf + `pgtick.now(), pgtick.now() + interval '1 day', null, s.on_gap, s.on_fold)`, false},
			{"unaccounted_30d", "pgtick", `select count(*) from pgtick.unaccounted_slots('30 days')`, true},
			{"unaccounted_30d", "bare", slotsOf + `pgtick.now() - interval '30 days', pgtick.now(), null, s.on_gap, s.on_fold)`, false},
		} {
			started := time.Now()
			rows, err := number[int](ctx, s, one.sql)
			if err != nil {
				return err
			}
			taken.add(one.figure+suffix, one.side, milliseconds(time.Since(started)))
			if one.empty != (rows == 0) {
				return fmt.Errorf("%s%s of %s has %d rows", one.figure, suffix, one.side, rows)
			}
		}
	}
	return nil
}

const slotsOf = `select count(*) from pgtick.schedule_defs as s cross join lateral pgtick.slots_between(s.parsed, s.time_zone, `

// month is a store whose schedules have run for 31 days without any trouble: a row for each slot, and the jobs of the last week in history.
func (b *bench) month(ctx context.Context, schedules int) (*store, error) {
	s, err := b.store(ctx, "month_"+strconv.Itoa(schedules))
	if err != nil {
		return nil, err
	}
	if err := s.setClock(ctx, noon.AddDate(0, 0, -31)); err != nil {
		return nil, err
	}
	if _, err := s.schedule(ctx, schedules, calm); err != nil {
		return nil, err
	}
	if err := exec(ctx, s.pool, `select pgtick.make_partition('slot_log', d::date) from generate_series(date '2026-12-12', date '2027-01-12', interval '1 day') as d`,
		`insert into pgtick.slot_log (schedule_id, slot, fate, version, job_id, recorded_at, clock)
			select s.id, c.slot, 'enqueued', 1, nextval('pgtick.live_jobs_id_seq'), c.slot + interval '5 milliseconds', 'runner'
			from pgtick.schedule_defs as s
			cross join lateral pgtick.slots_between(s.parsed, s.time_zone, s.created_at, '2027-01-12 12:00+00', null, s.on_gap, s.on_fold) as c(slot)`,
		`update pgtick.schedule_defs as s set next_at = pgtick.next_for(s, '2027-01-12 12:00+00')`); err != nil {
		return nil, err
	}
	if err := s.setClock(ctx, noon); err != nil {
		return nil, err
	}
	return s, exec(ctx, s.pool, `insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args,
			schedule_id, slot, created_at, fence, started_at, finished_at, expires_on)
		select l.job_id, s.task, s.queue, s.priority, 'done', l.slot, 1, 0, s.max_attempts, 0, 0, s.timeout, s.args, s.id, l.slot, l.recorded_at, 1,
			l.recorded_at + interval '5 milliseconds', l.recorded_at + interval '30 seconds', l.slot::date + 8
		from pgtick.slot_log as l join pgtick.schedule_defs as s on s.id = l.schedule_id
		where l.slot > timestamptz '2027-01-05 12:00+00'`,
		`vacuum (analyze) pgtick.schedule_defs, pgtick.slot_log, pgtick.history`)
}
