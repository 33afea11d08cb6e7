package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/jobs"
)

var start = time.Date(2031, 5, 4, 12, 0, 0, 0, time.UTC)

const poll = 5 * time.Second

func at(d time.Duration) time.Time { return start.Add(d) }

// given are claims of one lane, due a second apart.
func given(task string, ids ...int64) []jobs.Claim {
	claims := make([]jobs.Claim, len(ids))
	for i, id := range ids {
		claims[i] = jobs.Claim{Held: jobs.Held{ID: id}, Task: task, Queue: "default", Priority: 5, RunAt: at(time.Duration(id) * time.Second)}
	}
	return claims
}

func boundOf(t *testing.T, w *watermarks, task string) int64 {
	t.Helper()
	for _, b := range w.list {
		if b.Task == task {
			return b.ID
		}
	}
	return 0
}

func TestWatermarks_FirstClaim_IsARescan(t *testing.T) {
	t.Parallel()
	require.Nil(t, new(watermarks).from(start, poll))
}

func TestWatermarks_WhileRescansCostNothing_EveryClaimIsOne(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: 10 * time.Millisecond}
	w.note(true, 2, given("a", 1, 2), start, 10*time.Millisecond)
	require.Nil(t, w.from(at(10*time.Millisecond), poll))
}

func TestWatermarks_ADearRescan_IsPaidForByTenTimesItsLength(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: 10 * time.Millisecond}
	w.note(true, 2, given("a", 1, 2), start, 60*time.Millisecond)
	require.Len(t, w.from(at(559*time.Millisecond), poll), 1, "60 ms, and ten times the 50 that it took longer")
	require.Nil(t, w.from(at(560*time.Millisecond), poll))
}

func TestWatermarks_HoweverDear_ARescanIsDueAPollAfterTheLast(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	w.note(true, 2, given("a", 1, 2), start, 2*time.Second)
	require.NotNil(t, w.from(at(poll-1), poll))
	require.Nil(t, w.from(at(poll), poll))
}

func TestWatermarks_GoForward_AndBackOnlyWhereARescanWasCutShort(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	w.note(true, 3, given("a", 1, 2, 3), start, time.Second)
	require.EqualValues(t, 3, boundOf(t, &w, "a"))
	w.note(false, 3, given("a", 4, 6, 5), at(time.Second), time.Millisecond)
	require.EqualValues(t, 6, boundOf(t, &w, "a"))
	w.note(false, 3, nil, at(time.Second), time.Millisecond)
	require.EqualValues(t, 6, boundOf(t, &w, "a"))
	w.note(true, 3, given("a", 2, 2, 2), at(2*time.Second), time.Second)
	require.EqualValues(t, 2, boundOf(t, &w, "a"), "what lies between it and the old bound was not seen")
}

func TestWatermarks_LanesThatARescanFoundEmpty_AreForgotten(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	w.note(true, 4, append(given("a", 1, 2), given("b", 3, 4)...), start, time.Second)
	require.Len(t, w.list, 2)
	w.note(true, 4, given("a", 5, 6, 7, 8), at(time.Second), time.Second)
	require.EqualValues(t, 4, boundOf(t, &w, "b"), "the claim was full, and may not have reached it")
	w.note(true, 4, given("a", 9), at(2*time.Second), time.Second)
	require.Zero(t, boundOf(t, &w, "b"))
}

func TestSpeed_WhenNothingEnds_AheadShrinksToNothing(t *testing.T) {
	t.Parallel()
	s := speed{since: start, rate: 20000}
	require.Equal(t, 1000, s.ahead(at(time.Millisecond)))
	require.Zero(t, s.ahead(at(time.Second)))
}
