package conformance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

const (
	serves = `select count(*)::int from pgtick.runners where state = 'alive' and 'conf.busy' = any (tasks)`
	alive  = `select count(*)::int from pgtick.runners where state = 'alive'`
)

// A small worker keeps no rates, so it serves no task that has one: it says so, and pgtick.why does. When the rate is taken away it serves the task, and when
// one is set while it runs, no more. Go's runner keeps them (tests/runner).
func TestWorker_OfATaskWithARate_LeavesItToOthers(t *testing.T) {
	t.Parallel()
	for _, k := range kinds()[:2] {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t)
			do(t, db, `select pgtick.set_limit('conf.busy', 1000)`)
			do(t, db, `select pgtick.set_limit('conf.echo', p_max_running => 5)`) // that is the database's business
			do(t, db, `select pgtick.set_gates('conf.effect', p_most_rows => 1)`)
			worker := start(t, db, k, settings{name: "one"})
			worker.says(`left to workers that keep rates: conf\.busy`)
			rated := enqueue(t, db, "conf.busy", `{"ms": 1}`)
			becomes(t, db, "done", stateOf, enqueue(t, db, "conf.echo", `{"say": "not limited in time"}`))
			require.Equal(t, "ready", ask[string](t, db, stateOf, rated))
			require.Equal(t, 0, ask[int](t, db, `select attempt from pgtick.jobs where id = $1`, rated))
			becomes(t, db, "no live runner serves its task", `select reason from pgtick.why($1) limit 1`, rated)

			args, open := newGate(t)
			open()
			effect := enqueue(t, db, "conf.effect", args)
			becomes(t, db, "done", stateOf, effect) // its rows are counted: otherwise TK023 would refuse it

			do(t, db, `select pgtick.remove_limit('conf.busy')`)
			becomes(t, db, "done", stateOf, rated)
			do(t, db, `select pgtick.set_limit('conf.busy', 1, '31 days')`)
			becomes(t, db, 0, serves)
			again := enqueue(t, db, "conf.busy", `{"ms": 1}`)
			becomes(t, db, "done", stateOf, enqueue(t, db, "conf.echo", `{"say": "and goes on"}`))
			require.Equal(t, "ready", ask[string](t, db, stateOf, again))
		})
	}
}

func TestExamples_OfTasksThatAllHaveARate_SayThatTheyHaveNothingToDo(t *testing.T) {
	t.Parallel()
	for name, command := range examples(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t)
			do(t, db, `select pgtick.set_limit('email.welcome', 1), pgtick.set_limit('subscription.renew', 1, p_per_key => true)`)
			worker := startCommand(t, command(t), "DATABASE_URL="+pgtest.RunnerURL(t, db))
			require.Equal(t, 1, worker.ends())
			require.Contains(t, worker.said(), "all of its tasks have a rate")
			require.Equal(t, 0, ask[int](t, db, alive))
		})
	}
}
