package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestFinish_EachOutcome_SentAgain_IsAccepted_AndChangesNothing(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[string]struct {
		state    string
		attempts []string
	}{
		"done":      {"done 1", []string{"1 done"}},
		"failed":    {"failed 1", []string{"1 failed"}},
		"cancelled": {"cancelled 1", []string{"1 cancelled"}},
		"error":     {"ready 1", []string{"1 error"}},
		"snoozed":   {"ready 1", []string{"1 snoozed"}},
		"released":  {"ready 1", []string{"1 released"}},
	} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r, c := held(t, db)
			p := c.is(outcome).with(`{"n": 1}`).because("why")
			require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, p))
			require.Equal(t, want.state, stateOf(t, db, c.ID))
			require.Equal(t, want.attempts, attemptsOf(t, db, c.ID))
			before := everything(t, db, c.ID)
			for range 2 {
				require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, p))
			}
			require.Equal(t, before, everything(t, db, c.ID))
			requireFenced(t, db, c)
		})
	}
}

func TestFinish_ByWhoDoesNotHoldTheClaim_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	other := register(t, db, "other", "echo")
	before := everything(t, db, c.ID)
	stale, later, none := c, c, c
	stale.Fence--
	later.Fence++
	none.ID = 4711
	for _, outcome := range []string{"done", "failed", "error", "snoozed", "released", "cancelled"} {
		require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, stale.is(outcome)), "stale fence")
		require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, later.is(outcome)), "fence of the future")
		require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, none.is(outcome)), "unknown job")
		require.Equal(t, []string{"refused"}, other.finish(t, db.Pool, c.is(outcome)), "another runner")
		require.Equal(t, "refused", one[string](t, db.Pool, `select case accepted when false then 'refused' else coalesce(accepted::text, 'ask again') end
			from pgtick.finish(null, array[$1::bigint], array[$2::bigint], array[$3])`, c.ID, c.Fence, outcome), "nobody")
	}
	require.Equal(t, before, everything(t, db, c.ID))
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("done")))
	require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, stale.is("done")), "also when it has ended")
}

func TestFinish_ABatch_IsAnsweredInOrder_DuplicatesIncluded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 5)
	r := register(t, db, "r", "echo")
	c := r.claim(t, db.Pool, 5)
	stale := c[3]
	stale.Fence--
	unlock := lockJob(t, db, c[4].ID)
	impatient := session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	require.Equal(t, []string{"refused", "accepted", "ask again", "accepted", "accepted", "accepted", "refused"},
		r.finish(t, impatient, stale.is("done"), c[2].is("done"), c[4].is("done"), c[0].is("error"), c[2].is("done"), c[1].is("failed"), stale.is("error")))
	unlock()
	require.Equal(t, []string{"ready 1", "failed 1", "done 1", "running 1", "running 1"},
		[]string{stateOf(t, db, c[0].ID), stateOf(t, db, c[1].ID), stateOf(t, db, c[2].ID), stateOf(t, db, c[3].ID), stateOf(t, db, c[4].ID)})
	require.Equal(t, []string{"accepted", "accepted", "accepted"}, r.finish(t, db.Pool, c[4].is("done"), c[4].is("done"), c[3].is("done")))
	require.Empty(t, r.finish(t, db.Pool))
}

func TestFinish_ALockedRow_IsNotWaitedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	task, impatient := session(t, db), session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
	exec(t, impatient, pgtest.WaitForNobody)
	for _, outcome := range []string{"done", "error", "snoozed"} {
		require.Equal(t, []string{"ask again"}, r.finish(t, impatient, c.is(outcome)))
	}
	exec(t, task, "rollback")
	require.Equal(t, []string{"accepted"}, r.finish(t, impatient, c.is("done")))
}

func TestFinish_Error_IsTriedAgain_LaterEachTime_UntilTheAttemptsAreUsedUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	freeze(t, db)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_max_attempts => 5)")
	for attempt := range 4 {
		r := register(t, db, "r", "echo")
		c := r.claimOne(t, db.Pool)
		require.Equal(t, attempt+1, c.Attempt)
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("error").because(fmt.Sprintf("try %d", attempt+1))))
		delay := one[float64](t, db.Pool, "select extract(epoch from run_at - pgtick.now())::float8 from pgtick.jobs where id = $1 and state = 'ready'", id)
		middle := 5 * float64(int(1)<<attempt)
		require.InDelta(t, middle, delay, middle/10, "after attempt %d", attempt+1)
		require.Equal(t, fmt.Sprintf("try %d", attempt+1), one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1", id))
		require.Empty(t, r.claim(t, db.Pool, 1))
		pgtest.Advance(t, db, time.Minute)
	}
	r := register(t, db, "r", "echo")
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("error").because("the last")))
	require.Equal(t, "failed 5", stateOf(t, db, id))
	require.Equal(t, "the last", one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1", id))
	require.Equal(t, []string{"1 error", "2 error", "3 error", "4 error", "5 failed"}, attemptsOf(t, db, id))
}

// What failed together does not come back together, and nothing waits for more than a day.
func TestFinish_Backoff_IsSpread_AndHasAnEnd(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const sample = `select extract(epoch from min(b)) >= $2 * 0.9 and extract(epoch from max(b)) <= $2 * 1.1 and extract(epoch from max(b) - min(b)) > $2 * 0.1
		from (select pgtick.backoff($1) from generate_series(1, 500)) as s(b)`
	for attempt, middle := range map[int]int{-1: 5, 0: 5, 1: 5, 2: 10, 8: 640, 15: 81920, 16: 86400, 30: 86400, 1 << 30: 86400} {
		require.True(t, one[bool](t, db.Pool, sample, attempt, middle), "attempt %d", attempt)
	}
}

func TestFinish_RetryAt_IsHonoured_ButNeverInThePast(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := freeze(t, db)
	for _, outcome := range []string{"error", "snoozed", "released"} {
		for at, want := range map[time.Time]time.Time{now.Add(time.Hour): now.Add(time.Hour), now.Add(-time.Hour): now} {
			r, c := held(t, db)
			require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is(outcome).again(at)))
			require.Equal(t, want, one[time.Time](t, db.Pool, "select run_at from pgtick.jobs where id = $1", c.ID).UTC(), outcome)
			exec(t, db.Pool, "select pgtick.cancel($1)", c.ID)
		}
	}
	for _, outcome := range []string{"snoozed", "released"} {
		r, c := held(t, db)
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is(outcome)))
		require.Equal(t, now, one[time.Time](t, db.Pool, "select run_at from pgtick.jobs where id = $1", c.ID).UTC(), "at once")
		exec(t, db.Pool, "select pgtick.cancel($1)", c.ID)
	}
}

func TestFinish_SnoozedAndReleased_DoNotCount(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_max_attempts => 1)")
	r := register(t, db, "r", "echo")
	c := r.claimOne(t, db.Pool)
	r.finish(t, db.Pool, c.is("snoozed"))
	require.Equal(t, 2, r.claimOne(t, db.Pool).Attempt)
	c = lastClaim(t, db, id)
	r.finish(t, db.Pool, c.is("released").because("shutting down"))
	require.Equal(t, 3, r.claimOne(t, db.Pool).Attempt)
	r.finish(t, db.Pool, lastClaim(t, db, id).is("released")) // it never started
	require.Equal(t, 3, r.claimOne(t, db.Pool).Attempt)
	r.finish(t, db.Pool, lastClaim(t, db, id).is("error"))
	require.Equal(t, "failed 3", stateOf(t, db, id))
	require.Equal(t, []string{"1 snoozed", "2 released", "3 failed"}, attemptsOf(t, db, id))
	require.Equal(t, 2, one[int](t, db.Pool, "select uncounted from pgtick.jobs where id = $1", id))
}

func lastClaim(t *testing.T, db *pgtest.DB, id int64) claim {
	t.Helper()
	return claim{ID: id, Fence: one[int64](t, db.Pool, "select fence from pgtick.live_jobs where id = $1 and runner_id is not null", id)}
}

func TestFinish_OfACancelledJob_CancelsWhatWouldGoOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for outcome, want := range map[string]string{"error": "cancelled 1", "snoozed": "cancelled 1", "released": "cancelled 1", "cancelled": "cancelled 1", "done": "done 1", "failed": "failed 1"} {
		r, c := held(t, db)
		require.Equal(t, "running", one[string](t, db.Pool, "select pgtick.cancel($1)", c.ID))
		for range 2 {
			require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is(outcome)))
		}
		require.Equal(t, want, stateOf(t, db, c.ID), outcome)
	}
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.job_notes"))
}

func TestFinish_LargeResults_KeepTheirStart_AndTheJobEnds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const shown = `select concat_ws(' ', octet_length(result::text) <= 65536, result -> 'truncated', result -> 'bytes', length(result ->> 'start')) from pgtick.jobs where id = $1`
	for _, letter := range []string{"x", "世", "🧾", `\\`} {
		r, c := held(t, db)
		result := `"` + strings.Repeat(letter, 70000) + `"`
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, c.is("done").with(result)))
		require.Equal(t, fmt.Sprintf("t true %d 16000", len(result)), one[string](t, db.Pool, shown, c.ID))
	}
	r, c := held(t, db)
	fits := `"` + strings.Repeat("x", 65534) + `"`
	r.finish(t, db.Pool, c.is("done").with(fits))
	require.Equal(t, fits, one[string](t, db.Pool, "select result::text from pgtick.jobs where id = $1", c.ID))
}

func TestFinish_LargeErrors_AreCut(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, outcome := range []string{"failed", "error"} {
		for _, letter := range []string{"x", "世", "🧾", `\"`, `\u0001`} {
			r, c := held(t, db)
			long := strings.Repeat(letter, 20000)
			large := fmt.Sprintf(`{"message": "M%s", "stack": "S%s", "more": "%s"}`, long, long, long)
			p := c.is(outcome)
			p.error = &large
			require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, p))
			var size int
			var message, stack, cut string
			require.NoError(t, db.Pool.QueryRow(t.Context(), `select octet_length(last_error::text), last_error ->> 'message', last_error ->> 'stack', last_error ->> 'truncated'
				from pgtick.jobs where id = $1`, c.ID).Scan(&size, &message, &stack, &cut))
			require.LessOrEqual(t, size, 8192, "%s of %s", outcome, letter)
			require.Equal(t, "true", cut)
			require.True(t, strings.HasPrefix(message, "M") && strings.HasPrefix(stack, "S"))
			exec(t, db.Pool, "select pgtick.cancel($1)", c.ID)
		}
	}
}

func TestFinish_AnErrorThatIsNoObject_IsKept(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, odd := range []string{`"text"`, `[1, 2]`, `7`, `{"code": 7}`, `null`} {
		r, c := held(t, db)
		p := c.is("failed")
		p.error = &odd
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, p))
		require.Equal(t, odd, one[string](t, db.Pool, "select last_error::text from pgtick.jobs where id = $1", c.ID))
	}
	r, c := held(t, db)
	p, long := c.is("error"), `"`+strings.Repeat("x", 9000)+`"`
	p.error = &long
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, p))
	require.Contains(t, one[string](t, db.Pool, "select last_error ->> 'message' from pgtick.jobs where id = $1", c.ID), "xxxx")
}

func TestFinish_ArraysThatDoNotFit_AreRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	before := everything(t, db, c.ID)
	for field, arrays := range map[string][]string{
		"fences":   {"array[1, 2], '{done}'", "'{}', '{done}'", "null, '{done}'"},
		"outcomes": {"array[1], '{done,done}'", "array[1], '{}'", "array[1], null", "array[1], '{finished}'", "array[1], array[null]::text[]", "array[1], '{DONE}'"},
		"results":  {"array[1], '{done}', array['{}', '{}']::jsonb[]", "array[1], '{done}', '{}'"},
		"errors":   {"array[1], '{done}', null, array['{}', '{}']::jsonb[]"},
		"retry_at": {"array[1], '{error}', null, null, array[now(), now()]", "array[1], '{snoozed}', null, null, array['infinity']::timestamptz[]"},
	} {
		for _, rest := range arrays {
			pg := refused(t, db.Pool, "TK000", fmt.Sprintf("select * from pgtick.finish(%d, array[%d], %s)", r.id, c.ID, rest))
			require.True(t, strings.HasPrefix(pg.Message, field+" "), "%s: %s", rest, pg.Message)
		}
	}
	require.Equal(t, before, everything(t, db, c.ID))
}

func TestFinish_KeepsTheFenceInHistory_OnlyWhereAReportEndedTheJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	fenceOf := func(id int64) *int64 {
		return one[*int64](t, db.Pool, "select fence from pgtick.history where id = $1", id)
	}
	for _, outcome := range []string{"done", "failed", "cancelled"} {
		r, c := held(t, db)
		r.finish(t, db.Pool, c.is(outcome))
		require.Equal(t, c.Fence, *fenceOf(c.ID), outcome)
	}
	_, c := held(t, db)
	exec(t, db.Pool, "select pgtick.finish_in_transaction($1, $2)", c.ID, c.Fence)
	require.Equal(t, c.Fence, *fenceOf(c.ID))

	r, c := held(t, db)
	r.finish(t, db.Pool, c.is("error")) // the waiting row keeps the fence
	exec(t, db.Pool, "select pgtick.cancel($1)", c.ID)
	require.Nil(t, fenceOf(c.ID), "ended by cancel")
	require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, c.is("done")))

	r, c = held(t, db)
	exec(t, db.Pool, "select pgtick.cancel($1)", c.ID)
	kill(t, db)
	require.Equal(t, "cancelled 1", stateOf(t, db, c.ID))
	require.Nil(t, fenceOf(c.ID), "ended by rescue")
	require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, c.is("done")))
}

func TestFinish_AWaitingRow_KeepsTheFence_OnlyUntilTheNextClaim(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, outcome := range []string{"error", "snoozed", "released"} {
		r, first := held(t, db)
		p := first.is(outcome).again(time.Now().Add(-time.Hour))
		r.finish(t, db.Pool, p)
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, p))
		second := r.claimOne(t, db.Pool)
		require.Equal(t, first.ID, second.ID)
		require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, p), outcome)
		require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, second.is("done")))
		require.Equal(t, []string{"refused"}, r.finish(t, db.Pool, p), outcome)
	}
}

func TestFinish_KeepsTheLatestHundredAttempts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := one[int64](t, db.Pool, "select pgtick.enqueue('echo', p_max_attempts => 1000)")
	r := register(t, db, "r", "echo")
	for range 105 {
		r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("error").again(time.Unix(0, 0)))
	}
	r.finish(t, db.Pool, r.claimOne(t, db.Pool).is("done"))
	attempts := attemptsOf(t, db, id)
	require.Len(t, attempts, 101)
	require.Equal(t, []string{"6 error", "106 done"}, []string{attempts[0], attempts[100]})
}

func TestProgressAndCheckpoint_AreSeenAtOnce_AndTheCheckpointReachesTheNextAttempt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, c := held(t, db)
	task := session(t, db)
	exec(t, task, "begin")
	exec(t, task, "select pgtick.check_claim($1, $2)", c.ID, c.Fence)
	impatient := session(t, db)
	exec(t, impatient, pgtest.WaitForNobody)
	exec(t, impatient, "select pgtick.progress($1, $2, 0.25, 'a quarter')", c.ID, c.Fence)
	exec(t, impatient, "select pgtick.checkpoint($1, $2, '{\"page\": 7}')", c.ID, c.Fence)
	exec(t, task, "rollback")
	require.Equal(t, "0.25 a quarter", one[string](t, db.Pool, "select progress || ' ' || note from pgtick.jobs where id = $1", c.ID))
	r.finish(t, db.Pool, c.is("error").again(time.Unix(0, 0)))
	c = r.claimOne(t, db.Pool)
	require.NotNil(t, c.Checkpoint)
	require.JSONEq(t, `{"page": 7}`, *c.Checkpoint)
	r.finish(t, db.Pool, c.is("done"))
	require.Equal(t, "0.25 a quarter", one[string](t, db.Pool, "select progress || ' ' || note from pgtick.jobs where id = $1", c.ID))
	require.Zero(t, one[int](t, db.Pool, "select count(*) from pgtick.job_notes"))
}

func TestCheckpoint_OfEachJobInAClaim_IsItsOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 3)
	r := register(t, db, "r", "echo")
	claims := r.claim(t, db.Pool, 3)
	var again []report
	for i, c := range claims {
		again = append(again, c.is("error").again(time.Unix(0, 0)))
		if i > 0 {
			exec(t, db.Pool, "select pgtick.checkpoint($1, $2, to_jsonb($1::bigint))", c.ID, c.Fence)
		}
	}
	r.finish(t, db.Pool, again...)
	enqueue(t, db, "echo", 1)
	given := map[int64]string{}
	for _, c := range r.claim(t, db.Pool, 5) {
		if c.Checkpoint != nil {
			given[c.ID] = *c.Checkpoint
		}
	}
	require.Equal(t, map[int64]string{claims[1].ID: fmt.Sprint(claims[1].ID), claims[2].ID: fmt.Sprint(claims[2].ID)}, given)
}

func TestProgressAndCheckpoint_BadInput_IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, c := held(t, db)
	for _, done := range []string{"null", "-0.1", "1.1", "'NaN'", "'Infinity'"} {
		require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick.progress($1, $2, "+done+")", c.ID, c.Fence).Message, "done ", done)
	}
	require.Contains(t, refused(t, db.Pool, "TK000", "select pgtick.checkpoint($1, $2, to_jsonb(repeat('x', 65535)))", c.ID, c.Fence).Message, "state ")
	exec(t, db.Pool, "select pgtick.checkpoint($1, $2, to_jsonb(repeat('x', 65534)))", c.ID, c.Fence)
	exec(t, db.Pool, "select pgtick.progress($1, $2, 1, repeat('世', 2000))", c.ID, c.Fence)
	require.Equal(t, 1000, one[int](t, db.Pool, "select length(note) from pgtick.jobs where id = $1", c.ID))
}

// Not later, by rescue(): each finish would walk over what has been left.
func TestFinish_TheNotesOfAJob_GoWithIt_AndThoseOfOthersStay(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	enqueue(t, db, "echo", 2)
	r := register(t, db, "r", "echo")
	claims := r.claim(t, db.Pool, 2)
	for _, c := range claims {
		exec(t, db.Pool, "select pgtick.progress($1, $2, 0.5, 'half')", c.ID, c.Fence)
	}
	require.Equal(t, []string{"accepted"}, r.finish(t, db.Pool, claims[0].is("done")))
	require.Equal(t, []int64{claims[1].ID}, all[int64](t, db.Pool, "select job_id from pgtick.job_notes"))
	require.Equal(t, "half", one[string](t, db.Pool, "select note from pgtick.jobs where id = $1", claims[0].ID))
}
