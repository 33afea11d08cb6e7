package main

import (
	"context"
	"time"
)

// common are expressions as people write them, and zones with and without summer time, one with half an hour of it.
var (
	common = []string{"* * * * *", "*/5 * * * *", "0 * * * *", "0 9 * * *", "0 9 * * MON-FRI", "0 0 1 * *", "0 */3 * * *", "30 2 * * SUN", "@every 90s", "0 0 L * *",
		"0 0 29 2 *", "0 0 13 * FRI"}
	zones = []string{"UTC", "America/New_York", "Australia/Lord_Howe"}
)

// perCall is the time of one call in a loop in the server, in microseconds, without the loop itself.
const perCall = `create function pg_temp.per_call(p_cron text, p_time_zone text, p_from timestamptz, p_step interval, p_calls integer)
	returns double precision language plpgsql as $$
	declare
		v_parsed constant pgtick.cron := pgtick.parse_cron(p_cron);
		v_slot timestamptz;
		v_started timestamptz := clock_timestamp();
		v_loop interval;
	begin
		for v_call in 1 .. p_calls loop
			v_slot := p_from + v_call * p_step;
		end loop;
		v_loop := clock_timestamp() - v_started;
		v_started := clock_timestamp();
		for v_call in 1 .. p_calls loop
			v_slot := pgtick.next_slot(v_parsed, p_time_zone, p_from + v_call * p_step, 'run', 'first');
		end loop;
		return 1000000 * extract(epoch from clock_timestamp() - v_started - v_loop) / p_calls;
	end $$`

// nextSlot is the next slot of a schedule that is parsed already: over all the common ones, that of the slowest of them, the slowest on
// the day on which New York's clock shifts, and that of an expression which never fires there and has 41 years walked through for it.
func (b *bench) nextSlot(ctx context.Context, taken samples) error {
	s, err := b.store(ctx, "slots")
	if err != nil {
		return err
	}
	defer s.pool.Close()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, perCall); err != nil {
		return err
	}
	call := func(cron, zone string, from time.Time, step time.Duration, calls int) (micros float64, err error) {
		err = conn.QueryRow(ctx, `select pg_temp.per_call($1, $2, $3, $4, $5)`, cron, zone, from, step, calls).Scan(&micros)
		return micros, err
	}
	for range b.size.runs {
		var slowest, slowestShift float64
		for _, cron := range common {
			for _, zone := range zones {
				micros, err := call(cron, zone, time.Date(2026, 6, 1, 0, 0, 30, 0, time.UTC), 67*time.Second, 10000)
				if err != nil {
					return err
				}
				taken.add("next_slot", "pgtick", micros)
				slowest = max(slowest, micros)
			}
			micros, err := call(cron, "America/New_York", time.Date(2026, 3, 8, 5, 0, 0, 0, time.UTC), time.Second, 10000)
			if err != nil {
				return err
			}
			slowestShift = max(slowestShift, micros)
		}
		worst, err := call("*/5 2 8-14 3 */7", "America/New_York", time.Date(2026, 6, 1, 0, 0, 30, 0, time.UTC), 67*time.Second, 1000)
		if err != nil {
			return err
		}
		taken.add("next_slot_slowest", "pgtick", slowest)
		taken.add("next_slot_shift_day", "pgtick", slowestShift)
		taken.add("next_slot_worst", "pgtick", worst)
	}
	return nil
}
