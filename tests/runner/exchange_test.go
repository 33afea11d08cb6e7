package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/jobs"
)

// Report and claim go in one round trip. When the report is refused as a whole, as that of a runner which was declared dead is, the claim behind it
// has no answer at all.
func TestFinishAndClaim_WhereTheReportIsRefused_SaysSo(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	id, err := jobs.Register(t.Context(), conn, jobs.Runner{Name: "gone", Queues: []string{"default"}, Tasks: []string{"echo"}, Lease: 30 * time.Second})
	require.NoError(t, err)
	want := jobs.Wanted{Runner: id, Queues: []string{"default"}, Tasks: []string{"echo"}, N: 1}
	report := []jobs.Outcome{{Held: jobs.Held{ID: 1, Fence: 1}, Name: "done"}}
	for range 2 { // the second time the statements are prepared
		_, claims, err := jobs.FinishAndClaim(t.Context(), conn.Conn(), report, want)
		require.NoError(t, err)
		require.Empty(t, claims)
	}
	require.NoError(t, jobs.Leave(t.Context(), conn, id))
	_, claims, err := jobs.FinishAndClaim(t.Context(), conn.Conn(), report, want)
	require.ErrorIs(t, err, jobs.ErrRunnerGone)
	require.Empty(t, claims)
}
