package schedules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// Most slots are due alone and take a short way. Whatever a schedule's settings are, it leads where the long way leads, on which a schedule is looked at
// by itself.
func TestTick_OfSingleSlots_DoesWhatTheLongWayDoes(t *testing.T) {
	t.Parallel()
	for name, moment := range map[string]string{"on time": "2026-03-01T11:08:00Z", "late": "2026-03-01T11:12:00Z", "after an outage": "2026-03-01T12:06:00Z"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			short, long := newDB(t), newDB(t)
			exec(t, long, `create or replace function pgtick.tick_singles(p_ids bigint[], p_now timestamptz, p_outage pgtick.outages,
				out jobs integer, out done bigint[], out queues text[], out run_at timestamptz)
				language plpgsql as $$ begin jobs := 0; done := '{}'; queues := '{}'; end $$`)
			for _, db := range []*pgtest.DB{short, long} {
				everyKindOfSchedule(t, db, name != "after an outage")
				at(t, db, moment)
				tick(t, db)
			}
			slots, jobs, schedules := told(t, long)
			require.Greater(t, len(slots), 500)
			require.NotEmpty(t, jobs)
			gotSlots, gotJobs, gotSchedules := told(t, short)
			require.Equal(t, slots, gotSlots)
			require.Equal(t, jobs, gotJobs)
			require.Equal(t, schedules, gotSchedules)
			requireNothingUnaccounted(t, short)
		})
	}
}

// everyKindOfSchedule makes one of each combination of settings, with a slot at seven minutes past the hour: half of them have a job of an earlier
// one that is still live. ticked: a clock has ticked until shortly before the next slot.
func everyKindOfSchedule(t *testing.T, db *pgtest.DB, ticked bool) {
	t.Helper()
	at(t, db, "2026-03-01T10:00:30Z")
	n := 0
	for _, missed := range []string{"'skip'", "'once'", "'once', p_catch_up_limit => 0", "'once', p_catch_up_window => '3 minutes'", "'all'", "'all', p_catch_up_limit => 0", "'all', p_catch_up_window => '3 minutes'", "'all', p_catch_up_window => '1 hour'"} {
		for _, overlap := range []string{"skip", "allow", "wait", "cancel"} {
			for _, rest := range []string{"", ", p_ends_at => '2026-03-01 11:30Z'", ", p_ends_at => '2026-03-01 12:07Z'", ", p_time_zone => 'Europe/Berlin', p_jitter => '40 seconds', p_queue => 'other', p_priority => 7"} {
				if strings.HasPrefix(missed, "'all'") && (overlap == "skip" || overlap == "cancel") {
					continue // refused
				}
				for _, state := range []string{"", "live", "paused", "live, paused", "paused until later", "paused until before", "named", "broken"} {
					n++
					exec(t, db, fmt.Sprintf("select pgtick.schedule('%03d %s', '7 * * * *', 'noop', p_on_missed => %s, p_on_overlap => '%s'%s)", n, state, missed, overlap, rest))
				}
			}
		}
	}
	at(t, db, "2026-03-01T10:07:00Z")
	tick(t, db)
	exec(t, db, "delete from pgtick.live_jobs where schedule_id in (select id from pgtick.schedule_defs where name not like '%live%')")
	at(t, db, "2026-03-01T10:30:00Z")
	exec(t, db, `select pgtick.pause_schedule(name, case when name like '%later' then '2026-03-05'::timestamptz when name like '%before' then '2026-03-01 10:50Z' end)
		from pgtick.schedules where name like '%paused%' order by name`)
	exec(t, db, `insert into pgtick.slot_log (schedule_id, slot, fate, version, reason, recorded_at, clock)
		select id, '2026-03-01 11:07Z', 'missed', version, 'it has its row', pgtick.now(), 'test' from pgtick.schedule_defs where name like '%named'`)
	exec(t, db, "update pgtick.schedule_defs set broken_at = pgtick.now(), broken_why = 'it was', retry_at = '2026-03-01 11:07:30Z' where name like '%broken'")
	if ticked {
		at(t, db, "2026-03-01T11:06:50Z")
		tick(t, db)
	}
}

func told(t *testing.T, db *pgtest.DB) (slots, jobs, schedules []string) {
	t.Helper()
	slots = all[string](t, db, `select concat_ws('|', s.name, l.slot, l.fate, l.version, l.cause, regexp_replace(l.reason, 'job [0-9]+', 'job n'), case when l.job_id is not null then 'job' end, l.last_slot, l.recorded_at, l.clock)
		from pgtick.slot_log as l join pgtick.schedule_defs as s on s.id = l.schedule_id order by s.name, l.slot`)
	jobs = all[string](t, db, `select concat_ws('|', s.name, j.slot, j.task, j.queue, j.priority, j.run_at, j.blocked_by, j.max_attempts, j.timeout, j.args, j.created_at)
		from pgtick.live_jobs as j join pgtick.schedule_defs as s on s.id = j.schedule_id order by s.name, j.slot`)
	schedules = all[string](t, db, "select concat_ws('|', s.name, s.version, s.next_at, s.paused_at, s.paused_until, s.broken_at) from pgtick.schedule_defs as s order by s.name")
	return slots, jobs, schedules
}
