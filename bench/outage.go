package main

import (
	"context"
	"errors"
	"time"
)

// outage is what schedules of every minute are like when no clock has called for forty days, and how long the first one to call
// takes. The bare side writes, for each, one row for the range of the missed, one for the slot that is caught up, and its job.
func (b *bench) outage(ctx context.Context, taken samples) error {
	s, err := b.store(ctx, "outage")
	if err != nil {
		return err
	}
	defer s.pool.Close()
	const days = 40 * 24 * time.Hour
	if err := s.setClock(ctx, noon.Add(-days)); err != nil {
		return err
	}
	if err := exec(ctx, s.pool, `select count(pgtick.schedule('s' || i, '* * * * *', 'noop')) from generate_series(1, `+itoa(b.size.outage)+`) as i`,
		`create schema bare`,
		`create table bare.slot_log (like pgtick.slot_log including all)`,
		`create table bare.live_jobs (like pgtick.live_jobs including all) with (fillfactor = 50)`); err != nil {
		return err
	}
	for range b.size.runs {
		if err := errors.Join(s.clear(ctx), exec(ctx, s.pool, `truncate bare.slot_log, bare.live_jobs`,
			`update pgtick.schedule_defs set next_at = timestamptz '2027-01-12 12:01+00' - interval '960 hours'`,
			`vacuum (analyze) pgtick.schedule_defs`), s.setClock(ctx, noon)); err != nil {
			return err
		}
		started := time.Now()
		if err := s.runTicks(ctx); err != nil {
			return err
		}
		taken.add("outage_40d_10k", "pgtick", time.Since(started).Seconds())
		rows, err := number[int](ctx, s, `select count(*) from pgtick.slot_log where slot <= $1`, noon)
		if err != nil {
			return err
		}
		taken.add("outage_40d_10k_rows", "pgtick", float64(rows))

		started = time.Now()
		if err := exec(ctx, s.pool, bareOutage); err != nil {
			return err
		}
		taken.add("outage_40d_10k", "bare", time.Since(started).Seconds())
		if rows, err = number[int](ctx, s, `select count(*) from bare.slot_log`); err != nil {
			return err
		}
		taken.add("outage_40d_10k_rows", "bare", float64(rows))
	}
	return nil
}

const bareOutage = `with ranges as (
		insert into bare.slot_log (schedule_id, slot, last_slot, slots, fate, version, reason, recorded_at, clock)
		select s.id, s.created_at, timestamptz '2027-01-12 11:59+00', 57599, 'missed_range', 1, 'no clock ticked', clock_timestamp(), 'runner' from pgtick.schedule_defs as s
	), slots as (
		insert into bare.slot_log (schedule_id, slot, fate, version, reason, job_id, recorded_at, clock)
		select s.id, timestamptz '2027-01-12 12:00+00', 'caught_up', 1, 'no clock ticked', nextval('bare.live_jobs_id_seq'), clock_timestamp(), 'runner' from pgtick.schedule_defs as s
		returning schedule_id, slot, job_id)
	insert into bare.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, schedule_id, slot, created_at)
	overriding system value
	select s.job_id, 'noop', 'default', 5, s.slot, 20, interval '5 minutes', '{}', s.schedule_id, s.slot, s.slot from slots as s`
