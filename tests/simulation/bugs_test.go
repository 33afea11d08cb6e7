package simulation

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bug is a mistake that somebody could make: a part of a function, and what stands there instead.
// In some orders only does it show: where these are few, the sample begins with them. "make simulate" goes through all orders of the scope until it is found.
type bug struct {
	scope, name, function, old, wrong string
	begin                             []int
}

var bugs = []bug{
	{"jobs: reports after the lease", "finish does not look at the fence", "pgtick.finish(bigint, bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[])",
		"l.fence = o.fence and l.runner_id = p_runner_id for update skip locked", "l.runner_id is not null for update skip locked", []int{0, 2, 2, 2, 2, 1, 0}},
	{"jobs: reports after the lease", "finish accepts every report on a job that has ended", "pgtick.finish(bigint, bigint[], bigint[], text[], jsonb[], jsonb[], timestamptz[])",
		"h.id = o.id and h.fence = o.fence", "h.id = o.id", []int{0, 2, 2, 2, 2, 1, 1, 0}},
	{"jobs: rescue after the lease", "check_claim does not look at the fence", "pgtick.check_claim(bigint, bigint)", "and j.fence = p_fence", "", []int{0, 2, 2, 2, 2, 1, 0}},
	{"jobs: checked effects", "check_claim does not lock the job", "pgtick.check_claim(bigint, bigint)", "for no key update", "", []int{0, 0, 2, 2, 2, 2, 1, 0}},
	{"jobs: finish, cancel, retry", "a job that is done can be retried", "pgtick.revive(bigint)", "h.state <> 'done' for update", "true for update", nil},
	{"slots: two ticks and its end", "tick does not lock the schedules", "pgtick.tick_chunk(integer)", "for no key update skip locked", "", nil},
	{"slots: two ticks and other policies", "a change does not account for what is past",
		"pgtick.schedule(text, text, text, jsonb, text, text, integer, integer, interval, text, integer, interval, text, text, text, interval, timestamptz, timestamptz, interval, uuid)",
		"v_old := pgtick.account_before_change(v_old.id, v_now, true);", "", nil},
	{"slots: a pause while the clock is set back before the schedule was made", "a version answers for the time before the one that it continues",
		"pgtick.version_windows(timestamptz, timestamptz)", "max(c.changed_at) over (partition by c.schedule_id, c.era order by c.version)", "c.changed_at", nil},
	{"credits: one key twice, extend, expiry", "charge does not notice that the account has changed", "credits.charge(uuid, bigint, text, text, text, text)",
		"a.xmin = (select seen.xmin from credits.accounts as seen where seen.user_id = p_user_id)", "true", nil},
	{"credits: charge, capture, release, expiry", "accounts are read without a lock", "credits.lock_account(uuid)", "for no key update", "", nil},
	{"credits: charge again, hold, part of a capture, expiry", "an expired hold is captured", "credits.capture(bigint, bigint, text)", "v_hold.status = 'open' and v_hold.expires_at <= v_now", "false", nil},
	{"chains: both parents done", "who waits for jobs does not lock them", "pgtick.lock_living(bigint[])", "order by j.id for key share", "order by j.id", nil},
	{"chains: both parents done", "who ends the last two blockers of a job does not lock it", "pgtick.settle_links(pgtick.ended[], timestamptz, boolean)",
		"j.id = any (v_waiting) order by j.id for no key update", "j.id = any (v_waiting)", nil},
	{"chains: a sequence grows as its first ends", "who joins a sequence does not lock its last job", "pgtick.lock_predecessor(text)", "limit 1 for key share", "limit 1", nil},
	{"chains: the last two of a batch, and one more", "a batch ends without a look at its jobs", "pgtick.settle_batch(bigint, timestamptz, boolean)",
		"if not found or exists (select from pgtick.live_jobs as j where j.batch_id = p_batch_id) then", "if not found then", nil},
	{"limits: a runner with places dies", "places are read without a lock", "pgtick.lock_places(text, text)", "for update skip locked", "", nil},
	{"limits: one place, three jobs", "an end does not give its place back", "pgtick.free_places(pgtick.ended[], timestamptz, boolean)", "where h.id <> all (v_ids)", "", nil},
	{"limits: the limit of a key goes, and its job takes long", "what a claim has blocked by a limit that is gone stays blocked", "pgtick.sweep_places(timestamptz)", "or (p.key <> ''", "or (false and p.key <> ''", nil},
	{"keys: who is told of a job is seen by its run", "who is told of a job does not lock it", "pgtick.state_of_holder(bigint, text)", "j.runner_id is null for key share", "j.runner_id is null", nil},
	{"keys: two enqueues and a run", "a key that was taken by another is taken again", "pgtick.take_key(text, text, bigint, text[], timestamptz, timestamptz)",
		"= any (v_holder.states) then return", "= all (v_holder.states) then return", nil},
}

// TestScopes_WithAMistakeInTheSQL_FindIt: otherwise that nothing was found would mean nothing. What is found comes again when it is replayed.
func TestScopes_WithAMistakeInTheSQL_FindIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	for i, b := range bugs {
		if !strings.Contains(b.scope, os.Getenv("PGTICK_SIMULATE_SCOPES")) {
			continue
		}
		undo := w.Replace(t, b.function, b.old, b.wrong)
		orders, f := w.find(t, b, uint64(i))
		if assert.NotNil(t, f, "%s: %d orders of %s have not found it", b.name, orders, b.scope) {
			again, err := w.replay(&f.run)
			require.NoError(t, err)
			require.NotNil(t, again, "%s: it was found, and not when the same statements came in the same order again: %s", b.name, f)
			t.Logf("%-55s found in order %4d of %s: %s", b.name, orders, f.run.name, f.wrong[0])
		}
		w.exec(t, undo)
	}
	for _, s := range scopes()[:3] {
		_, f, err := w.sample(s, 3, random(1))
		require.NoError(t, err)
		require.Nil(t, f, "without the mistakes")
	}
}

// find tries orders of the scope: some, or all.
func (w *world) find(t *testing.T, b bug, n uint64) (orders int, f *finding) {
	t.Helper()
	i := slices.IndexFunc(scopes(), func(s *scope) bool { return s.name == b.scope })
	require.GreaterOrEqual(t, i, 0, b.scope)
	var err error
	if full() {
		orders, f, err = w.exhaust(scopes()[i], 0)
	} else {
		orders, f, err = w.sample(scopes()[i], 100, random(n), b.begin...)
	}
	require.NoError(t, err)
	return orders, f
}

// TestShorten_OfALongRun_LeavesWhatIsNeeded: a fence that nobody looks at, in the middle of forty steps, is shown by seven.
func TestShorten_OfALongRun_LeavesWhatIsNeeded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	w.Replace(t, bugs[0].function, bugs[0].old, bugs[0].wrong)
	for n := uint64(73); ; n++ { // the first seed that finds it
		require.Less(t, n, uint64(250), "none of the seeds has found it: where longRun() has changed, begin elsewhere")
		r := longRun(n)
		f, err := w.replay(r)
		require.NoError(t, err)
		if f == nil {
			continue
		}
		short, err := w.shorten(f)
		require.NoError(t, err)
		require.Less(t, len(short.run.moves), 12, "%s", short)
		require.Contains(t, short.String(), "pgtick.finish(")
		again, err := w.replay(&short.run)
		require.NoError(t, err)
		require.Equal(t, short.String(), again.String(), "it is the same each time")
		t.Logf("seed %d: %d moves became %d:\n%s", n, len(r.moves), len(short.run.moves), short)
		return
	}
}
