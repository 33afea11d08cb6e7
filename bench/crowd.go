package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// noon is when every schedule of the crowd has a slot: a Tuesday on which no zone shifts.
var noon = time.Date(2027, 1, 12, 12, 0, 0, 0, time.UTC)

// kinds are the schedules that take turns in a crowd: half of them in UTC, a quarter due every minute.
const kinds = `(values
	(0, '* * * * *', 'UTC'), (1, '* * * * *', 'America/New_York'), (2, '*/5 * * * *', 'Europe/Berlin'), (3, '*/15 * * * *', 'UTC'),
	(4, '0 * * * *', 'America/New_York'), (5, '0 9-17 * * MON-FRI', 'Europe/Berlin'), (6, '0 12 * * *', 'UTC'), (7, '@every 1h', 'UTC')
	) as k(place, cron, zone)`

// crowd is a store with many schedules, and beside them bare tables of the same shape as those that a tick writes.
type crowd struct {
	*store
	schedules int
	created   time.Duration // how long pgtick.schedule took for a tenth of them
	copied    time.Duration // and a bare insert of the same rows
}

// copies of each schedule that pgtick.schedule has made fill the crowd: by itself it would take minutes.
const copies = 9

func (b *bench) crowded(ctx context.Context) (*crowd, error) {
	if b.crowd != nil {
		return b.crowd, nil
	}
	s, err := b.store(ctx, "crowd")
	if err != nil {
		return nil, err
	}
	originals := b.size.schedules / (copies + 1)
	c := &crowd{store: s, schedules: originals * (copies + 1)}
	if err := c.setClock(ctx, noon.Add(-time.Hour)); err != nil {
		return nil, err
	}
	if c.created, err = c.schedule(ctx, originals, kinds); err != nil {
		return nil, err
	}
	if err := errors.Join(c.makeBare(ctx), c.copy(ctx)); err != nil {
		return nil, err
	}
	b.crowd = c
	return c, exec(ctx, c.pool, `vacuum (analyze) pgtick.schedule_defs, pgtick.schedule_changes`)
}

// schedule makes n schedules of these kinds in one statement.
func (s *store) schedule(ctx context.Context, n int, kinds string) (time.Duration, error) {
	started := time.Now()
	made, err := number[int](ctx, s, `select count(pgtick.schedule('s' || i, k.cron, 'noop', jsonb_build_object('stamp', 0, 'pad', $1::text), k.zone))
		from generate_series(1, $2::integer) as i join `+kinds+` on k.place = i % 8`, pad, n)
	if err == nil && made != n {
		err = fmt.Errorf("made %d schedules of %d", made, n)
	}
	return time.Since(started), err
}

// copy multiplies the schedules, whatever columns they have, and their versions with them.
func (c *crowd) copy(ctx context.Context) error {
	return exec(ctx, c.pool, fmt.Sprintf(`do $$
		declare
			v_columns constant text := (select string_agg(quote_ident(attname), ', ') from pg_attribute
				where attrelid = 'pgtick.schedule_defs'::regclass and attnum > 0 and not attisdropped and attname not in ('id', 'name'));
		begin
			execute format('insert into pgtick.schedule_defs (name, %%1$s) select name || '' copy '' || i, %%1$s from pgtick.schedule_defs, generate_series(1, %d) as i', v_columns);
		end $$`, copies),
		`insert into pgtick.schedule_changes (schedule_id, version, changed_at, changed_by, what, definition)
			select s.id, c.version, c.changed_at, c.changed_by, c.what, c.definition
			from pgtick.schedule_defs as s
			join pgtick.schedule_defs as original on original.name = split_part(s.name, ' ', 1)
			join pgtick.schedule_changes as c on c.schedule_id = original.id
			where s.id <> original.id`)
}

// makeBare makes the tables of the bare side. The schedules are copied too, as what a bare insert of them is measured by.
func (c *crowd) makeBare(ctx context.Context) error {
	if err := exec(ctx, c.pool, `create schema bare`,
		`create table bare.slot_log (like pgtick.slot_log including all) partition by range (slot)`,
		`create table bare.slot_log_day partition of bare.slot_log for values from ('2027-01-12 00:00+00') to ('2027-01-13 00:00+00')`,
		`create table bare.live_jobs (like pgtick.live_jobs including all) with (fillfactor = 50)`,
		`create table bare.schedule_defs (like pgtick.schedule_defs including all) with (fillfactor = 50)`,
		`create table bare.schedule_changes (like pgtick.schedule_changes including all, foreign key (schedule_id) references bare.schedule_defs)`); err != nil {
		return err
	}
	started := time.Now()
	if err := exec(ctx, c.pool, `with made as (insert into bare.schedule_defs overriding system value select * from pgtick.schedule_defs returning id)
		insert into bare.schedule_changes select c.* from made join pgtick.schedule_changes as c on c.schedule_id = made.id`); err != nil {
		return err
	}
	c.copied = time.Since(started)
	return nil
}

// due clears the store and makes so many schedules due at noon, drawn over all kinds, the others an hour later.
func (c *crowd) due(ctx context.Context, n int) error {
	if err := c.clear(ctx); err != nil {
		return err
	}
	return exec(ctx, c.pool, `truncate bare.slot_log, bare.live_jobs`,
		fmt.Sprintf(`update pgtick.schedule_defs as s set next_at = d.next_at
			from (select id, timestamptz '2027-01-12 12:00+00' + case when row_number() over (order by hashint8(id)) <= %d then interval '0' else interval '1 hour' end as next_at
				from pgtick.schedule_defs) as d
			where s.id = d.id and s.next_at is distinct from d.next_at`, n),
		`vacuum (analyze) pgtick.schedule_defs`)
}

// bareSlots is what a tick of n schedules cannot do without: a row for each slot, and one for its job.
const bareSlots = `with slots as (
		insert into bare.slot_log (schedule_id, slot, fate, version, job_id, recorded_at, clock)
		select i, $2, 'enqueued', 1, nextval('bare.live_jobs_id_seq'), clock_timestamp(), 'runner' from generate_series($3::bigint + 1, $3 + $1::bigint) as i
		returning schedule_id, slot, job_id)
	insert into bare.live_jobs (id, task, queue, priority, run_at, max_attempts, timeout, args, schedule_id, slot, created_at)
	overriding system value
	select s.job_id, 'noop', 'default', 5, s.slot, 20, interval '5 minutes', jsonb_build_object('stamp', 0, 'pad', $4::text), s.schedule_id, s.slot, s.slot
	from slots as s`

// create is how fast pgtick.schedule makes schedules.
func (b *bench) create(ctx context.Context, taken samples) error {
	c, err := b.crowded(ctx)
	if err != nil {
		return err
	}
	taken.add("schedule_create", "pgtick", float64(c.schedules/(copies+1))/c.created.Seconds())
	taken.add("schedule_create", "bare", float64(c.schedules/(copies+1))/c.copied.Seconds())
	return nil
}
