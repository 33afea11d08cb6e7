package clocks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// A slot, its job and the schedule's next_at commit together, so a standby has all of them or none; what it has not, it works out anew.
// With a synchronous standby nothing that a caller was told of is missing there. pg_cron starts there with an empty memory.
func TestPrimary_KilledWhileTicking_LosesNoSlotToItsStandby(t *testing.T) {
	t.Parallel()
	primary := newMachine(t, instant("2026-02-26T11:59:10Z"), false)
	standby := pgtest.StandbyOf(t, primary.Server, localpg.Options{Cron: true, Env: primary.env()})
	t.Cleanup(func() { forget(standby) })
	do(t, primary.db, "alter system set synchronous_standby_names = '*'")
	do(t, primary.db, "select pg_reload_conf()")
	becomes(t, primary.db, "sync", "select coalesce(min(sync_state), '') from pg_stat_replication")

	plans := []plan{{name: "minutes", cron: "* * * * *"}}
	for i := range 60 {
		plans = append(plans, plan{name: fmt.Sprint("every second ", i), cron: "@every 1s", grid: time.Second})
	}
	create(t, primary.db, plans)
	callers := call(t, primary.db, 20*time.Millisecond, "select pgtick.tick()", "select pgtick.tick()", "select pgtick.tick()", "select pgtick.tick()")
	becomes(t, primary.db, true, "select count(*) > 200 from pgtick.slots")
	forget(primary.Server)
	require.NoError(t, primary.Kill())
	told := callers.end(true)
	require.Positive(t, told)
	t.Cleanup(func() {
		require.NoError(t, primary.Restart(context.Background()), "so that the shared memory it left goes as well")
	})

	require.NoError(t, standby.Promote(t.Context()))
	db := primary.db.At(t, standby)
	require.GreaterOrEqual(t, ask[int](t, db, "select count(*) from pgtick.jobs"), told, "jobs of which a caller was told")
	callers = call(t, db, 20*time.Millisecond, "select pgtick.tick()", "select pgtick.tick()")
	primary.beforeMinute(t)
	becomes(t, db, true, "select exists (select from pgtick.clocks where clock = 'pg_cron' and ticked_at >= $1)", primary.now().Add(2*time.Second))
	entries := account(t, db, plans, primary.now())
	require.Positive(t, callers.end(false))
	for _, p := range plans {
		p.requireFates(t, entries[p.name])
	}
	require.Zero(t, ask[int](t, db, `select count(*) from pgtick.slots as s full join pgtick.jobs as j on j.id = s.job_id and j.schedule = s.schedule and j.slot = s.slot
		where (s.job_id is not null or j.id is not null) and (s.job_id is null or j.id is null)`), "slots without their job, and jobs without their slot")
}
