package queue

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// (Fences and ids that there are none of, arrays that do not fit, results and errors that are too long: see the tests of finish, lease and
// transaction. Args that are none, or too long, or with a zero byte: see those of enqueue.)

func TestBadInput_OfARunnerThatIsNotKnownOrHasLeft_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.AddJob(t, db, "echo")
	left := register(t, db, "left", "echo")
	c := left.claimOne(t, db.Pool)
	exec(t, db.Pool, "select pgtick.leave($1)", left.id)
	before := everything(t, db, id)
	for _, runnerID := range []any{4711, -1, nil, left.id} {
		for _, call := range []string{"claim($1, '{default}', '{echo}', 1)", "claim_lanes($1, '{default}', '{echo}', 1)", "heartbeat($1)", "heartbeat($1, '{1}', '{1}')",
			"reconcile($1, '{}', '{}')", "sleep($1, '1 second')"} {
			refused(t, db.Pool, "TK002", "select pgtick."+call, runnerID)
		}
		require.False(t, one[bool](t, db.Pool, "select accepted from pgtick.finish($1, array[$2::bigint], array[$3::bigint], '{done}')", runnerID, c.ID, c.Fence))
		exec(t, db.Pool, "select pgtick.leave($1)", runnerID)
		exec(t, db.Pool, "select pgtick.awake($1)", runnerID)
	}
	require.Equal(t, before, everything(t, db, id))
}

// What no function does, a hand with psql may try: the constraints stand behind the functions.
func TestBadInput_StatesSetByHand_ThatDoNotGoTogether_AreRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 2)
	r := register(t, db, "r", "echo")
	c := r.claimOne(t, db.Pool)
	waiting := one[int64](t, db.Pool, "select id from pgtick.live_jobs where runner_id is null")
	for constraint, changes := range map[string][]string{
		"live_job_claimed_whole": {"runner_id = 1", "started_at = now()", "runner_id = 1, started_at = now(), fence = null", "blocked_by = 'mood'", "blocked_by = 'overlap', run_at = 'infinity'"},
		"live_job_lawful": {"priority = 10", "priority = -1", "max_attempts = 0", "attempt = -1", "uncounted = 1", "uncounted = -1", "deaths = 1", "timeout = '0'", "args = '[]'",
			"slot = now()", "task = ''", "queue = ''", "queue = repeat('x', 201)", "run_at = '-infinity'"},
	} {
		for _, change := range changes {
			pg := refused(t, db.Pool, "23514", "update pgtick.live_jobs set "+change+" where id = $1", waiting)
			require.Equal(t, constraint, pg.ConstraintName, change)
		}
	}
	require.Equal(t, "live_job_claimed_whole", refused(t, db.Pool, "23514", "update pgtick.live_jobs set fence = null where id = $1", c.ID).ConstraintName)
	require.Equal(t, "live_job_claimed_whole", refused(t, db.Pool, "23514", "update pgtick.live_jobs set runner_id = null where id = $1", c.ID).ConstraintName)
	r.finish(t, db.Pool, c.is("done"))
	require.Equal(t, "history_state_final", refused(t, db.Pool, "23514", "update pgtick.history set state = 'ready' where id = $1", c.ID).ConstraintName)
	refused(t, db.Pool, "23502", "update pgtick.history set finished_at = null where id = $1", c.ID)
	refused(t, db.Pool, "23514", "insert into pgtick.job_notes (job_id, done) values ($1, 1.5)", waiting)
	refused(t, db.Pool, "23514", "update pgtick.runner_leases set ended_at = now() where id = $1", r.id)
	refused(t, db.Pool, "23514", "update pgtick.runner_leases set workers = 0 where id = $1", r.id)
	refused(t, db.Pool, "23514", "insert into pgtick.retentions (task, queue, state, days, set_at, set_by) values ('', '', 'done', 401, now(), 'me')")
	require.Equal(t, "ready 0", stateOf(t, db, waiting))
}

func TestClock_ThatGoesBack_TheJobWaitsUntilItIsThereAgain_AndNobodyDies(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	r, c := held(t, db)
	other := register(t, db, "other", "echo")
	id := pgtest.AddJob(t, db, "echo")
	r.heartbeat(t, db.Pool, c)
	other.heartbeat(t, db.Pool)
	pgtest.Advance(t, db, -time.Hour)
	for range 5 { // longer than a lease, with nobody's heartbeat
		require.Zero(t, rescue(t, db))
		require.Empty(t, other.claim(t, db.Pool, 10))
		pgtest.Advance(t, db, lease/2)
	}
	require.Equal(t, []string{"alive", "alive"}, []string{aliveAs(t, db, r), aliveAs(t, db, other)})
	require.Equal(t, "ready 0", stateOf(t, db, id))
	require.Empty(t, r.heartbeat(t, db.Pool, c), "no timeout either")
	now := pgtest.AddJob(t, db, "echo")
	require.Equal(t, []int64{now}, idsOf(other.claim(t, db.Pool, 10)), "what comes now is due now")
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("done")))
	for range 2 * int(time.Hour/lease) {
		pgtest.Advance(t, db, lease/2)
		other.quietHeartbeat(t, db)
	}
	require.Equal(t, id, other.claimOne(t, db.Pool).ID)
}

func TestRegister_TwoOfTheSameName_WorkSeparately(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 2)
	a, b := register(t, db, "same", "echo"), register(t, db, "same", "echo")
	require.NotEqual(t, a.id, b.id)
	first, second := a.claimOne(t, db.Pool), b.claimOne(t, db.Pool)
	require.NotEqual(t, first.ID, second.ID)
	require.Equal(t, []string{"refused"}, b.finish(t, db.Pool, first.is("done")), "a name gives no rights")
	require.Equal(t, map[int64]string{first.ID: "fenced"}, b.heartbeat(t, db.Pool, first, second))
	exec(t, db.Pool, "select pgtick.leave($1)", a.id)
	require.Equal(t, []string{"left", "alive"}, []string{aliveAs(t, db, a), aliveAs(t, db, b)})
	require.Equal(t, "ready 0", stateOf(t, db, first.ID))
	require.Equal(t, []string{"accepted"}, b.finish(t, db.Pool, second.is("done")))
	require.Equal(t, first.ID, b.claimOne(t, db.Pool).ID)
}

// Where PostgreSQL compares intervals, a year has 360 days: these are a day or a minute long there, and end before they begin.
func TestBadInput_IntervalsThatAreOnlyLongWhereTheyAreCompared_AreRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := register(t, db, "r", "echo")
	for call, field := range map[string]string{
		"enqueue('echo', p_timeout => '-1 year 361 days')":                                                  "timeout",
		"enqueue_many('echo', array['{}']::jsonb[], p_timeout => '-1 year 361 days')":                       "timeout",
		"enqueue('echo', p_unique_key => 'k', p_unique_for => '-1 year 361 days')":                          "unique_for",
		"set_retry_policy('echo', '{\"kind\": \"list\", \"delays\": [\"-1 year 361 days\"]}')":              "retry_policy.delays[0]",
		"set_retention('echo', 'done', '-1 year 361 days')":                                                 "keep",
		"set_slot_retention('-1 year 361 days')":                                                            "keep",
		"register('r', '{q}', '{echo}', p_lease => '-1 year 360 days 1 minute')":                            "lease",
		fmt.Sprintf("sleep(%d, '-1 year 360 days 1 minute')", r.id):                                         "poll",
		fmt.Sprintf("count_attempts(%d, 1, 1, 0, 0, p_ago => '-1 year 360 days 1 minute')", r.id):           "ago",
		"set_limit('echo', 1, p_period => '-1 year 361 days')":                                              "period",
		"allow_task('echo', p_period => '-1 year 361 days')":                                                "period",
		"schedule('s', '* * * * *', 'echo', p_jitter => '-1 year 360 days 1 minute')":                       "jitter",
		"schedule('s', '* * * * *', 'echo', p_on_missed => 'all', p_catch_up_window => '-1 year 361 days')": "catch_up_window",
		"schedule('s', '* * * * *', 'echo', p_must_finish_within => '-1 year 361 days')":                    "must_finish_within",
		"unaccounted_slots('-1 year 361 days')":                                                             "since",
	} {
		require.Regexp(t, "^"+regexp.QuoteMeta(field)+" ", refused(t, db.Pool, "TK000", "select pgtick."+call).Message, call)
	}
}
