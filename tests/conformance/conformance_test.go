package conformance

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// each runs a case with a worker of each kind, in a database of its own.
func each(t *testing.T, test func(t *testing.T, db *pgtest.DB, k kind)) {
	t.Parallel()
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t), k)
		})
	}
}

// The ways in which an attempt can end, side by side with one worker. It polls every ten minutes, so notifications and the times that it
// has asked for are all it goes by; a wait for less than that shows that it does. The first three are alone: what wakes a worker for
// others would hide what is missing.
func TestWorker_RunsAndReportsEveryOutcome(t *testing.T) {
	each(t, func(t *testing.T, db *pgtest.DB, k kind) {
		start(t, db, k, settings{name: "one"})
		t.Run("a notification wakes it when it sleeps", func(t *testing.T) {
			asleep(t, db)
			becomes(t, db, true, `select bool_and(s.until > pgtick.now()) from pgtick.sleepers as s`)
			becomes(t, db, "done", stateOf, enqueue(t, db, "conf.echo", `{"say": "good morning"}`))
		})
		t.Run("a job for later is begun when it is due", func(t *testing.T) {
			becomes(t, db, "done", stateOf, ask[int64](t, db, `select pgtick.enqueue('conf.echo', '{"say": "in a second"}', p_run_at => pgtick.now() + interval '1 second')`))
		})
		t.Run("cancelled while it runs", func(t *testing.T) {
			args, _ := newGate(t)
			id := enqueue(t, db, "conf.gate", args)
			atGate(t, db, id)
			require.Equal(t, "running", ask[string](t, db, `select pgtick.cancel($1)`, id))
			becomes(t, db, "cancelled", stateOf, id) // long before the next heartbeat: the worker is told by notification
			require.Equal(t, "1 cancelled", ask[string](t, db, outcomesOf, id))
		})
		for name, outcome := range outcomes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				outcome(t, db)
			})
		}
	})
}

var outcomes = map[string]func(t *testing.T, db *pgtest.DB){
	"done, with a result": func(t *testing.T, db *pgtest.DB) {
		id := enqueue(t, db, "conf.echo", `{"say": "grüß \"Gott\" 😀"}`)
		becomes(t, db, "done", stateOf, id)
		require.JSONEq(t, `{"said": "grüß \"Gott\" 😀"}`, ask[string](t, db, resultOf, id))
		require.Equal(t, "1 done", ask[string](t, db, outcomesOf, id))
	},
	"an error is tried again, with the checkpoint": func(t *testing.T, db *pgtest.DB) {
		id := enqueue(t, db, "conf.flaky", `{}`)
		becomes(t, db, "done", stateOf, id)
		require.Equal(t, "1 error, 2 done", ask[string](t, db, outcomesOf, id))
		require.JSONEq(t, `{"at": 7}`, ask[string](t, db, resultOf, id))
		require.Contains(t, ask[string](t, db, `select error ->> 'message' from pgtick.attempts where job_id = $1 and attempt = 1`, id), "did not work")
	},
	"a permanent error fails for good": func(t *testing.T, db *pgtest.DB) {
		id := enqueue(t, db, "conf.permanent", `{}`)
		becomes(t, db, "failed", stateOf, id)
		require.Equal(t, "1 failed", ask[string](t, db, outcomesOf, id))
		require.Contains(t, ask[string](t, db, `select last_error ->> 'message' from pgtick.jobs where id = $1`, id), "never will")
	},
	"a snooze does not count": func(t *testing.T, db *pgtest.DB) {
		id := ask[int64](t, db, `select pgtick.enqueue('conf.snooze', p_max_attempts => 1)`)
		becomes(t, db, "done", stateOf, id)
		require.Equal(t, "1 snoozed, 2 done", ask[string](t, db, outcomesOf, id))
	},
	"a result that jsonb can't hold ends the job, and holds up no other": func(t *testing.T, db *pgtest.DB) {
		id := enqueue(t, db, "conf.unstorable", `{}`)
		becomes(t, db, "done", stateOf, enqueue(t, db, "conf.echo", `{"say": "beside it"}`))
		becomes(t, db, true, `select state in ('done', 'failed') from pgtick.jobs where id = $1`, id)
	},
	"progress is seen": func(t *testing.T, db *pgtest.DB) {
		args, open := newGate(t)
		id := enqueue(t, db, "conf.gate", args)
		atGate(t, db, id)
		require.InDelta(t, 0.5, ask[float64](t, db, `select progress from pgtick.jobs where id = $1`, id), 0.001)
		open()
		becomes(t, db, "done", stateOf, id)
	},
	"over its timeout": func(t *testing.T, db *pgtest.DB) {
		args, _ := newGate(t)
		id := ask[int64](t, db, `select pgtick.enqueue('conf.gate', $1::jsonb, p_timeout => '1 second', p_max_attempts => 1)`, args)
		becomes(t, db, "failed", stateOf, id) // long before the next heartbeat, again
		require.Regexp(t, `(?i)time[_d]|timeout`, ask[string](t, db, `select last_error::text from pgtick.jobs where id = $1`, id))
	},
	"an effect that fails leaves nothing": func(t *testing.T, db *pgtest.DB) {
		id := ask[int64](t, db, `select pgtick.enqueue('conf.effect_then_fail', p_max_attempts => 1)`)
		becomes(t, db, "failed", stateOf, id)
		require.EqualValues(t, 0, ask[int64](t, db, effectsOf, id))
	},
	"an effect and its completion commit together": func(t *testing.T, db *pgtest.DB) {
		args, open := newGate(t)
		id := enqueue(t, db, "conf.effect", args)
		atGate(t, db, id)
		require.EqualValues(t, 0, ask[int64](t, db, effectsOf, id))
		open()
		becomes(t, db, "done", stateOf, id)
		require.EqualValues(t, 1, ask[int64](t, db, effectsOf, id))
		require.JSONEq(t, `{"attempt": 1}`, ask[string](t, db, resultOf, id))
	},
	"a task that it does not have stays": func(t *testing.T, db *pgtest.DB) {
		unknown := enqueue(t, db, "conf.unknown", `{}`)
		becomes(t, db, "done", stateOf, enqueue(t, db, "conf.echo", `{"say": "known"}`))
		require.Equal(t, "ready", ask[string](t, db, stateOf, unknown))
		require.Equal(t, 0, ask[int](t, db, `select attempt from pgtick.jobs where id = $1`, unknown))
	},
	"a report is sent again while somebody has the row locked": func(t *testing.T, db *pgtest.DB) {
		args, open := newGate(t)
		id := enqueue(t, db, "conf.gate", args)
		atGate(t, db, id)
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(t.Context()) }()
		_, err = tx.Exec(t.Context(), `select from pgtick.live_jobs where id = $1 for update`, id)
		require.NoError(t, err)
		open()
		becomes(t, db, true, `select exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and query like '%pgtick.finish(%')`)
		require.Equal(t, "running", ask[string](t, db, stateOf, id))
		require.NoError(t, tx.Commit(t.Context()))
		becomes(t, db, "done", stateOf, id)
	},
}

const short = 2 * time.Second // a lease that runs out while a test waits

func TestWorker_Killed_ItsJobsAreRunByAnother_AndEffectsOnce(t *testing.T) {
	each(t, func(t *testing.T, db *pgtest.DB, k kind) {
		first := start(t, db, k, settings{name: "first", lease: short})
		args, open := newGate(t)
		plain, effect := enqueue(t, db, "conf.gate", args), enqueue(t, db, "conf.effect", args)
		atGate(t, db, plain)
		atGate(t, db, effect)
		first.signal(syscall.SIGKILL)
		require.Equal(t, -1, first.ends())
		open()
		start(t, db, k, settings{name: "second", lease: short}) // it looks after the dead
		becomes(t, db, "done", stateOf, plain)
		becomes(t, db, "done", stateOf, effect)
		require.Equal(t, "lost", ask[string](t, db, `select outcome from pgtick.attempts where job_id = $1 and attempt = 1`, plain))
		require.Equal(t, "dead", ask[string](t, db, `select state from pgtick.runners where name = 'first'`))
		require.EqualValues(t, 1, ask[int64](t, db, effectsOf, effect))
	})
}

func TestWorker_FrozenPastItsLease_ChangesNothingAfterwards(t *testing.T) {
	each(t, func(t *testing.T, db *pgtest.DB, k kind) {
		first := start(t, db, k, settings{name: "first", lease: short})
		args, open := newGate(t)
		plain, effect := enqueue(t, db, "conf.gate", args), enqueue(t, db, "conf.effect", args)
		atGate(t, db, plain)
		atGate(t, db, effect)
		first.signal(syscall.SIGSTOP)
		second := start(t, db, k, settings{name: "second", lease: short})
		for _, id := range []int64{plain, effect} {
			becomes(t, db, "second", `select r.name from pgtick.jobs as j join pgtick.runners as r on r.id = j.runner_id where j.id = $1`, id)
		}
		open()
		becomes(t, db, "done", stateOf, plain)
		becomes(t, db, "done", stateOf, effect)
		results := ask[string](t, db, resultOf, plain) + ask[string](t, db, resultOf, effect)

		first.signal(syscall.SIGCONT)
		first.says("declared dead")
		becomes(t, db, 0, `select count(*)::int from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'`)
		require.EqualValues(t, 1, ask[int64](t, db, effectsOf, effect))
		require.Equal(t, results, ask[string](t, db, resultOf, plain)+ask[string](t, db, resultOf, effect))

		second.signal(syscall.SIGTERM) // and the first is a good worker again
		require.Equal(t, 0, second.ends())
		becomes(t, db, "done", stateOf, enqueue(t, db, "conf.echo", `{"say": "back again"}`))
	})
}

func TestWorker_AskedToStop_LetsTasksEnd_AndClaimsNoMore(t *testing.T) {
	each(t, func(t *testing.T, db *pgtest.DB, k kind) {
		worker := start(t, db, k, settings{name: "one", grace: within})
		args, open := newGate(t)
		running := enqueue(t, db, "conf.gate", args)
		atGate(t, db, running)
		worker.signal(syscall.SIGTERM)
		worker.says("stopping: 1 ")
		late := enqueue(t, db, "conf.echo", `{"say": "too late"}`)
		open()
		require.Equal(t, 0, worker.ends(), worker.said())
		require.Equal(t, "done", ask[string](t, db, stateOf, running))
		require.Equal(t, "ready", ask[string](t, db, stateOf, late))
		require.Equal(t, "left", ask[string](t, db, `select state from pgtick.runners`))
	})
}

func TestWorker_AskedToStop_GivesBackWhatDoesNotEnd_WithoutCounting(t *testing.T) {
	each(t, func(t *testing.T, db *pgtest.DB, k kind) {
		worker := start(t, db, k, settings{name: "one", grace: 0})
		args, _ := newGate(t)
		plain, effect := enqueue(t, db, "conf.gate", args), enqueue(t, db, "conf.effect", args)
		atGate(t, db, plain)
		atGate(t, db, effect)
		worker.signal(syscall.SIGTERM)
		require.Equal(t, 0, worker.ends(), worker.said())
		for _, id := range []int64{plain, effect} {
			require.Equal(t, "ready", ask[string](t, db, stateOf, id))
			require.Equal(t, "1 released", ask[string](t, db, outcomesOf, id))
			require.Equal(t, 0, ask[int](t, db, `select attempt - uncounted from pgtick.jobs where id = $1`, id))
		}
		require.EqualValues(t, 0, ask[int64](t, db, effectsOf, effect))
		require.Equal(t, "left", ask[string](t, db, `select state from pgtick.runners`))
	})
}

func TestWorker_BusyTask_DoesNotCostTheLease(t *testing.T) {
	each(t, func(t *testing.T, db *pgtest.DB, k kind) {
		start(t, db, k, settings{name: "one", lease: short})
		id := enqueue(t, db, "conf.busy", `{"ms": 4000}`)
		require.Eventually(t, func() bool { // somebody who looks for the dead all the while
			return ask[int](t, db, `select pgtick.rescue()`) == 0 && ask[string](t, db, stateOf, id) == "done"
		}, within, every)
		require.Equal(t, "1 done", ask[string](t, db, outcomesOf, id))
	})
}

func TestWorker_WithoutNotifications_Polls(t *testing.T) {
	each(t, func(t *testing.T, db *pgtest.DB, k kind) {
		start(t, db, k, settings{name: "one", poll: 200 * time.Millisecond, listen: "postgres://nobody@127.0.0.1:1/nowhere", doNotWaitFor: true})
		asleep(t, db)
		becomes(t, db, "done", stateOf, enqueue(t, db, "conf.echo", `{"say": "found"}`))
	})
}

// The server has given a job, and the worker never hears of it: its connection breaks before the answer. Nobody is declared dead in a
// lease of ten minutes, so it is the worker itself that gives the job back, by reconcile.
func TestWorker_AnswerToClaimLost_GivesTheJobBack(t *testing.T) {
	each(t, func(t *testing.T, db *pgtest.DB, k kind) {
		direct := pgtest.RunnerURL(t, db)
		through, lose := loseAnswer(t, direct, "this answer gets lost")
		start(t, db, k, settings{name: "one", url: through, listen: direct})
		id := enqueue(t, db, "conf.echo", `{"say": "this answer gets lost"}`)
		becomes(t, db, "done", stateOf, id)
		require.True(t, lose.Load(), "the answer was not lost")
		require.Equal(t, "1 done", ask[string](t, db, outcomesOf, id), "not counted, no trace")
	})
}
