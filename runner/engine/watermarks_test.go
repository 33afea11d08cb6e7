package engine

import (
	"fmt"
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

func TestWatermarks_ARescan_IsPaidForByTenTimesItsLength_AndFortyTimesWhatIsDear(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: 10 * time.Millisecond}
	w.note(true, 2, given("a", 1, 2), start, 15*time.Millisecond)
	require.Len(t, w.from(at(64*time.Millisecond), poll), 1, "15 ms, and ten times the 5 that it took longer")
	require.Nil(t, w.from(at(65*time.Millisecond), poll))
	w.note(true, 2, given("a", 1, 2), start, 60*time.Millisecond)
	require.Len(t, w.from(at(1759*time.Millisecond), poll), 1, "60 ms, ten times the first 10 that it took longer, and forty times the other 40")
	require.Nil(t, w.from(at(1760*time.Millisecond), poll))
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

func TestWatermarks_LanesThatARescanFoundEmpty_AreForgotten_UnlessItWasDear(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	w.note(true, 4, append(given("a", 1, 2), given("b", 3, 4)...), start, time.Second)
	require.Len(t, w.list, 2)
	w.note(true, 4, given("a", 5, 6, 7, 8), at(time.Second), time.Second)
	require.EqualValues(t, 4, boundOf(t, &w, "b"), "the claim was full, and may not have reached it")
	w.note(true, 4, given("a", 7), at(2*time.Second), time.Second)
	require.EqualValues(t, 8, boundOf(t, &w, "a"), "it has seen all, and what is new comes after that")
	require.EqualValues(t, 4, boundOf(t, &w, "b"))
	w.note(true, 4, nil, at(3*time.Second), 2*time.Millisecond)
	require.Empty(t, w.list)
}

func TestWatermarks_KeepNoMoreThanAThousandEmptyLanes(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	for i := range mostLanes + 1 {
		w.note(false, 4, given(fmt.Sprint(i), 1), start, time.Millisecond)
	}
	w.note(true, 4, nil, start, time.Second)
	require.Empty(t, w.list)
}

func TestSpeed_WhenNothingEnds_AheadShrinksToNothing(t *testing.T) {
	t.Parallel()
	s := speed{since: start, rate: 20000}
	require.Equal(t, 1000, s.ahead(at(time.Millisecond)))
	require.Zero(t, s.ahead(at(time.Second)))
}

func TestWatermarks_JobsThatCameBeforeTheirTurn_SetTheBoundOnlyWhereTheyCameAlone(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: 10 * time.Millisecond}
	early := given("a", 7, 8)
	early[0].Reservation, early[1].Reservation = "k:1", "k:2"
	w.note(false, 4, append(early, given("a", 1, 2)...), start, 10*time.Millisecond)
	require.EqualValues(t, 2, boundOf(t, &w, "a"), "what lies between 2 and 7 has not been seen")
	w.note(false, 4, early, start, 10*time.Millisecond)
	require.EqualValues(t, 8, boundOf(t, &w, "a"))
}

// lanesOf are lanes of one task with a due job each.
func lanesOf(first, n int) []jobs.Bound {
	lanes := make([]jobs.Bound, n)
	for i := range lanes {
		lanes[i] = jobs.Bound{Task: "a", Queue: fmt.Sprint("q", first+i), Priority: 5, RunAt: start, ID: 1}
	}
	return lanes
}

func TestWatermarks_WhenTheLanesOfARescanThatWasCutShortAreEmpty_TheOthersAreAskedFor_AndLookedAtAHundredAtATime(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	w.note(true, 4, append(given("a", 1, 2), given("b", 3, 4)...), start, 100*time.Millisecond)
	require.False(t, w.unknown, "those that are known come first")
	w.note(false, 4, given("a", 5, 6, 7), start, time.Millisecond)
	require.False(t, w.unknown, "a claim may give some fewer than it was asked for")
	w.note(false, 4, given("a", 8), start, time.Millisecond)
	require.True(t, w.unknown)
	require.True(t, w.onward)
	w.learn(lanesOf(0, 150))
	require.False(t, w.unknown)
	require.ElementsMatch(t, lanesOf(0, 100), w.from(start, poll))
	w.note(false, 4, nil, start, time.Millisecond)
	require.True(t, w.onward)
	require.ElementsMatch(t, lanesOf(100, 50), w.from(start, poll))
	w.note(false, 4, given("a", 9), start, time.Millisecond)
	require.True(t, w.unknown, "there may be new ones meanwhile")
	w.learn(nil)
	require.Len(t, w.from(start, poll), 51, "what is known is kept")
	w.note(false, 4, nil, start, time.Millisecond)
	require.False(t, w.unknown || w.onward, "until the next rescan that is cut short")
}

func TestWatermarks_WhatOthersHold_IsNotAskedForAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	w.note(true, 4, append(given("a", 1, 2), given("b", 3, 4)...), start, 100*time.Millisecond)
	w.note(false, 4, nil, start, time.Millisecond)
	w.learn(lanesOf(0, 3))
	w.note(false, 4, nil, start, time.Millisecond)
	require.False(t, w.unknown || w.onward)
}

func TestWatermarks_OneLane_IsNoReasonToAskForOthers(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	ten := given("a", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	w.note(true, len(ten), ten, start, 100*time.Millisecond)
	w.note(false, len(ten), nil, start, time.Millisecond)
	require.False(t, w.unknown, "of ten jobs some would have been another lane's")
}

func TestWatermarks_ARescanThatSawAll_ForgetsTheOthers(t *testing.T) {
	t.Parallel()
	w := watermarks{usual: time.Millisecond}
	w.note(true, 4, append(given("a", 1, 2), given("b", 3, 4)...), start, 100*time.Millisecond)
	w.note(false, 4, nil, start, time.Millisecond)
	w.learn(lanesOf(0, 300))
	w.note(true, 4, nil, start, time.Millisecond)
	w.note(false, 4, nil, start, time.Millisecond)
	require.False(t, w.unknown || w.onward)
}
