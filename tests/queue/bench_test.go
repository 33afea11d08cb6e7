package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// What "pgtick bench" made goes away; what only shares a name with it stays.
func TestForgetBench_RemovesWhatAQueuesBenchLeft_AndNothingElse(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	registered := func(name, queue string) int64 {
		return one[int64](t, db.Pool, `select pgtick.register($1, array[$2], '{pgtick.bench,mail.send}', '30 s')`, name, queue)
	}
	live := func(task, queue string) int64 {
		return one[int64](t, db.Pool, `select pgtick.enqueue($1, p_queue => $2)`, task, queue)
	}
	ended := func(task, queue string) int64 {
		id := live(task, queue)
		exec(t, db.Pool, `select pgtick.cancel($1)`, id)
		return id
	}
	claimed := func(runner int64, queue string) int64 {
		id := live("pgtick.bench", queue)
		require.Equal(t, id, one[int64](t, db.Pool, `select id from pgtick.claim($1, array[$2], '{pgtick.bench}', 1)`, runner, queue))
		return id
	}
	const queue, beside = "pgtick_bench", "pgtick_bench_2"
	overdue := registered("pgtick bench", queue)
	claimed(overdue, queue)
	stays := []int64{registered("crew", queue), registered("pgtick bench", beside)}
	pgtest.Advance(t, db, time.Minute)
	left := registered("pgtick bench", queue)
	exec(t, db.Pool, `select pgtick.leave($1)`, left)
	alive := registered("pgtick bench", queue)
	stays = append(stays, alive)
	kept := []int64{claimed(alive, queue), live("mail.send", queue), live("pgtick.bench", beside), live("pgtick.bench", "default"), ended("mail.send", queue), ended("pgtick.bench", beside)}
	live("pgtick.bench", queue)
	ended("pgtick.bench", queue)
	for given, shown := range map[string]string{"default": `"default"`, "": `""`, "a pgtick_bench": `"a pgtick_bench"`} {
		require.Contains(t, refused(t, db.Pool, "TK000", `select pgtick.forget_bench($1)`, given).Message, "queue "+shown)
	}
	require.Contains(t, refused(t, db.Pool, "TK000", `select pgtick.forget_bench(null)`).Message, "queue null")

	require.Equal(t, 3, one[int](t, db.Pool, `select pgtick.forget_bench($1)`, queue))
	require.ElementsMatch(t, kept, all[int64](t, db.Pool, `select id from pgtick.jobs`))
	require.ElementsMatch(t, stays, all[int64](t, db.Pool, `select id from pgtick.runner_leases`))
}
