package metrics

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/jobs"
)

// told are the names of what a reading tells.
func told(t *testing.T, r *reading) map[string]bool {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(r)
	all, err := registry.Gather()
	require.NoError(t, err)
	names := map[string]bool{}
	for _, f := range all {
		names[f.GetName()] = true
	}
	return names
}

// What was true minutes ago is not told as if it were true now; what was counted stays counted.
func TestReading_ThatIsOld_TellsNoFiguresOfThen_ButWhatItHasCounted(t *testing.T) {
	r := newReading()
	require.NotContains(t, told(t, r), "pgtick_slots_total", "nothing was read yet")
	var p position
	r.take([]jobs.Measure{{What: "queue_depth", Label: "default", Part: -1, Value: 7}, {What: "slots", Label: "missed", Part: -1, Value: 3}, {What: "violations", Part: -1}}, &p, time.Now())
	fresh := told(t, r)
	require.Contains(t, fresh, "pgtick_queue_depth")
	require.Contains(t, fresh, "pgtick_credit_violations")
	r.at = time.Now().Add(-staleAfter - time.Second)
	old := told(t, r)
	require.NotContains(t, old, "pgtick_queue_depth")
	require.NotContains(t, old, "pgtick_credit_violations")
	require.Contains(t, old, "pgtick_slots_total")
	require.Contains(t, old, "pgtick_database_read_timestamp_seconds", "how old is told")
}

// A transaction that stays open for long does not hold up the counting of credit entries for ever.
func TestReading_EntriesWaitForWhatIsOpen_ForFiveMinutes(t *testing.T) {
	var p position
	now := time.Now()
	p.entriesSeen(100, "900", now)
	require.Equal(t, jobs.MeasureFrom{Begun: true, EntriesAfter: 100, EntriesUntil: 100}, p.from, "what is there at the start is not counted")
	p.entriesSeen(110, "950", now)
	require.Equal(t, jobs.MeasureFrom{Begun: true, EntriesAfter: 100, EntriesUntil: 110, EntriesOpen: "950"}, p.from)
	p.entriesSeen(120, "990", now.Add(openAtMost))
	require.Equal(t, jobs.MeasureFrom{Begun: true, EntriesAfter: 100, EntriesUntil: 110, EntriesOpen: "950"}, p.from, "they wait")
	p.entriesSeen(120, "990", now.Add(openAtMost+time.Second))
	require.Equal(t, jobs.MeasureFrom{Begun: true, EntriesAfter: 100, EntriesUntil: 110}, p.from, "they wait no longer")
}
