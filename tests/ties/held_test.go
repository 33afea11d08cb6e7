package ties

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// What is to be cleared away may be in the hands of another session, also of a frozen one.
func TestSweep_WhateverRowsAreHeld_NeverWaits_AndClearsThemAwayLater(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	pgtest.SetNow(t, db, time.Date(2031, 5, 4, 12, 0, 30, 0, time.UTC))
	limit(t, db.Pool, oneForEach)
	r := register(t, db.Pool)
	limited := several(t, db.Pool, 2, keyed("x"))
	c := r.take(t, db.Pool, limited[0])
	gone := enqueue(t, db.Pool, "echo")
	needs := enqueue(t, db.Pool, "other", after(gone))
	exec(t, db.Pool, "delete from pgtick.live_jobs where id = $1", gone)
	exec(t, db.Pool, "insert into pgtick.job_notes (job_id) values (987654)")
	exec(t, db.Pool, "insert into pgtick.sequences (key) values ('idle')")
	exec(t, db.Pool, "update pgtick.limit_places set holders = holders || 987654::bigint")
	exec(t, db.Pool, "select pgtick.create_batch('callback')")
	callback := one[int64](t, db.Pool, "select job_id from pgtick.batch_defs")
	exec(t, db.Pool, "select pgtick.schedule('s', '* * * * *', 'other', p_on_overlap => 'wait')")
	pgtest.Advance(t, db, 90*time.Second)
	require.Equal(t, 2, one[int](t, db.Pool, "select pgtick.tick()"))
	exec(t, db.Pool, "delete from pgtick.live_jobs where schedule_id is not null and blocked_by is null")

	holder, impatient := session(t, db), session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	exec(t, holder, "begin")
	for _, table := range []string{"live_jobs", "job_notes", "job_links", "sequences", "unsettled", "batch_defs", "limit_places", "runner_leases", "sleepers", "schedule_defs", "clocks"} {
		exec(t, holder, "select from pgtick."+table+" for update")
	}
	for range 2 {
		exec(t, impatient, "delete from pgtick.upkeep")
		exec(t, impatient, "select pgtick.rescue()")
		exec(t, impatient, "select pgtick.tick()")
		pgtest.Advance(t, db, time.Minute) // so that it would be dead
	}
	require.Equal(t, "ask again", r.tryFinish(t, impatient, c, "done"))
	exec(t, holder, "rollback")

	sweep(t, db.Pool)
	require.Equal(t, []string{"cancelled", "ready"}, states(t, db.Pool, needs, callback))
	require.Equal(t, "ready", one[string](t, db.Pool, "select state || coalesce(' after ' || blocked_by, '') from pgtick.jobs where schedule = 's' order by slot limit 1"))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.job_notes where job_id = 987654"))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.sequences"))
	require.Equal(t, []int64{c.id}, one[[]int64](t, db.Pool, "select holders from pgtick.limit_places"), "what runs keeps its place")
}
