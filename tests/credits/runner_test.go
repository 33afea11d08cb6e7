package credits_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/credits"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// host runs an attempt on a test's database. It remembers the last checkpoint and progress, and can stop after some chunks.
type host struct {
	l          *ledger
	chunks     int
	stopAfter  int // chunks; 0 = never
	stop       context.CancelCauseFunc
	checkpoint json.RawMessage
	progress   float64
	note       string
}

func (h *host) InTx(ctx context.Context, f func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, h.l.Pool, f)
	h.chunks++
	if h.chunks == h.stopAfter {
		h.stop(tasks.ErrShutdown)
	}
	return err
}

func (*host) EndInTx(context.Context, func(pgx.Tx) (json.RawMessage, error)) error {
	return errors.New("the credit tasks end no job in a transaction")
}

func (*host) WithConn(context.Context, func(*pgx.Conn) error) error {
	return errors.New("the credit tasks ask for no connection")
}

func (h *host) Progress(_ context.Context, done float64, note string) error {
	h.progress, h.note = done, note
	return nil
}

func (h *host) Checkpoint(_ context.Context, state json.RawMessage) error {
	h.checkpoint = state
	return nil
}

// attempt runs a task once, as the engine would, and returns its result.
func (h *host) attempt(name, args string, slot time.Time) (map[string]any, error) {
	h.l.t.Helper()
	registry := tasks.NewRegistry()
	credits.Register(registry)
	task, ok := registry.Lookup(name)
	require.True(h.l.t, ok, name)
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	h.stop = stop
	log := logrus.New()
	log.SetOutput(io.Discard)
	handle := tasks.NewHandle(h)
	err := task.Run(ctx, tasks.Call{
		Info: tasks.Info{ID: 1, Task: name, Slot: slot, Checkpoint: h.checkpoint}, Args: json.RawMessage(args), Log: logrus.NewEntry(log), Handle: handle,
	})
	result := map[string]any{}
	if handle.Result() != nil {
		require.NoError(h.l.t, json.Unmarshal(handle.Result(), &result))
	}
	return result, err
}

// requireResult runs a task to its end and compares what it says it did.
func (l *ledger) requireResult(name string, slot time.Time, want map[string]any) {
	l.t.Helper()
	got, err := (&host{l: l}).attempt(name, `{"chunk_size": 7}`, slot)
	require.NoError(l.t, err)
	require.Equal(l.t, want, got)
}

func TestTasks_DoTheirWorkInChunks_AndNothingTheSecondTime(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(20, 100)
	l.exec("select count(credits.hold(a.user_id, 5, '1 hour', 'h')), count(credits.submit(a.user_id, 'addition', 3, 's')) from credits.accounts as a")
	pgtest.Advance(t, l.DB, 25*time.Hour)
	none := time.Time{}
	l.requireResult(credits.Cleanup, none, map[string]any{"released": 20.0, "credits": 100.0, "busy": 0.0})
	l.requireResult(credits.Cleanup, none, map[string]any{"released": 0.0, "credits": 0.0, "busy": 0.0})
	l.requireResult(credits.Pending, none, map[string]any{"committed": 20.0, "reverted": 0.0, "failed": 0.0, "credits_added": 60.0, "credits_deducted": 0.0, "busy": 0.0})
	l.requireResult(credits.Pending, none, map[string]any{"committed": 0.0, "reverted": 0.0, "failed": 0.0, "credits_added": 0.0, "credits_deducted": 0.0, "busy": 0.0})
	l.requireResult(credits.Sync, none, map[string]any{"synced": 80.0, "credits_added": 2060.0, "credits_deducted": 0.0, "refused": 0.0})
	l.requireResult(credits.Sync, none, map[string]any{"synced": 0.0, "credits_added": 0.0, "credits_deducted": 0.0, "refused": 0.0})
}

func TestAllocationTask_IsForTheMonthOfItsSlot(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	pgtest.SetNow(t, l.DB, time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC))
	l.manyUsers(20, 1)
	pgtest.SetNow(t, l.DB, time.Date(2026, 6, 3, 10, 0, 0, 0, time.UTC))
	result := func(period string, allocated, sum float64) map[string]any {
		return map[string]any{"period": period, "accounts": 20.0, "allocated": allocated, "credits": sum, "overflowing": 0.0}
	}
	// Midnight of the first in UTC, whatever zone the runner is in.
	april := time.Date(2026, 3, 31, 20, 0, 0, 0, time.FixedZone("west", -4*3600))
	l.requireResult(credits.Allocate, april, result("2026-04-01", 20, 4000))
	l.requireResult(credits.Allocate, april, result("2026-04-01", 0, 0))
	l.requireResult(credits.Allocate, time.Time{}, result("2026-06-01", 20, 4000))
	l.requireResult(credits.Allocate, time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), result("2026-05-01", 20, 4000))
	require.EqualValues(t, 60, one[int64](l, "select count(*) from credits.allocations"))
}

func TestTask_Stopped_GoesOnFromItsCheckpoint(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(20, 100)
	h := &host{l: l, stopAfter: 2}
	_, err := h.attempt(credits.Allocate, `{"chunk_size": 4}`, time.Time{})
	require.ErrorIs(t, err, tasks.ErrShutdown)
	require.EqualValues(t, 8, one[int64](l, "select count(*) from credits.allocations"))
	require.InDelta(t, 0.4, h.progress, 0.01)
	require.Equal(t, "8 of 20", h.note)
	h.stopAfter = 0
	result, err := h.attempt(credits.Allocate, `{"chunk_size": 4}`, time.Time{})
	require.NoError(t, err)
	require.InDelta(t, 20, result["allocated"], 0, "the sums go on too")
	require.InDelta(t, 4000, result["credits"], 0)
	require.Equal(t, 2+3+1, h.chunks, "no chunk twice")
}

// What a chunk did not commit is neither in the checkpoint nor in the sums.
func TestTask_WhoseChunkFails_CountsOnlyWhatIsCommitted(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(10, 100)
	h := &fencedHost{host: host{l: l}, after: 1}
	_, err := h.run(credits.Sync)
	require.ErrorIs(t, err, tasks.ErrFenced)
	var state struct{ Synced, Seen int64 }
	require.NoError(t, json.Unmarshal(h.checkpoint, &state))
	require.EqualValues(t, 4, state.Synced)
	require.EqualValues(t, 4, one[int64](l, "select count(*) from analytics.credit_usage"))
}

// fencedHost loses its claim after some chunks.
type fencedHost struct {
	host
	after int
}

func (h *fencedHost) InTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, h.l.Pool, func(tx pgx.Tx) error {
		err := f(tx)
		if h.chunks++; err == nil && h.chunks > h.after {
			return tasks.ErrFenced
		}
		return err
	})
}

func (h *fencedHost) run(name string) (json.RawMessage, error) {
	registry := tasks.NewRegistry()
	credits.Register(registry)
	task, _ := registry.Lookup(name)
	handle := tasks.NewHandle(h)
	err := task.Run(context.Background(), tasks.Call{Info: tasks.Info{Task: name}, Args: json.RawMessage(`{"chunk_size": 4}`), Handle: handle})
	return handle.Result(), err
}

func TestTask_WithAccountsThatStayBusy(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(6, 100)
	l.exec("select count(credits.hold(a.user_id, 5, '1 hour', 'h')) from credits.accounts as a")
	pgtest.Advance(t, l.DB, 2*time.Hour)
	ctx := context.Background()
	tx, err := l.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "select credits.lock_account((select min(user_id::text)::uuid from credits.accounts))")
	require.NoError(t, err)

	result, err := (&host{l: l}).attempt(credits.Cleanup, `{}`, time.Time{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"released": 5.0, "credits": 25.0, "busy": 1.0}, result, "the rest is for the next run")

	h := &host{l: l}
	_, err = h.attempt(credits.Allocate, `{"chunk_size": 2}`, time.Time{})
	var snooze *tasks.SnoozeError
	require.ErrorAs(t, err, &snooze, "an allocation does not end before all have it")
	require.NoError(t, tx.Commit(ctx))
	result, err = h.attempt(credits.Allocate, `{"chunk_size": 2}`, time.Time{})
	require.NoError(t, err)
	require.InDelta(t, 6, result["allocated"], 0)
	require.EqualValues(t, 6, one[int64](l, "select count(*) from credits.allocations"))
}

func TestTask_BadChunkSize_FailsForGood(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	for _, args := range []string{`{"chunk_size": -1}`, `{"chunk_size": 20001}`, `{"chunk_size": "many"}`, `{"chunks": 1}`} {
		_, err := (&host{l: l}).attempt(credits.Sync, args, time.Time{})
		var permanent *tasks.PermanentError
		require.True(t, errors.As(err, &permanent), "%s: %v", args, err)
	}
}

func TestTask_CheckpointOfAnotherVersion_StartsAgain(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.manyUsers(3, 100)
	h := &host{l: l, checkpoint: json.RawMessage(`{"after": "elsewhere"}`)}
	result, err := h.attempt(credits.Sync, `{}`, time.Time{})
	require.NoError(t, err)
	require.InDelta(t, 3, result["synced"], 0)
}

// The tasks run as the runner's role, which has no right to any table.
func TestChunks_RunAsTheRunnersRole(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	user := l.user("standard", 100)
	conn, err := pgx.Connect(context.Background(), pgtest.RunnerURL(t, l.DB))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	for _, chunk := range []string{
		"select credits.cleanup_chunk(null, null, 10)", "select credits.allocate_chunk(null, null, 10)",
		"select credits.resolve_chunk(null, null, 10)", "select credits.sync_chunk(null, 10)",
	} {
		_, err := conn.Exec(context.Background(), chunk)
		require.NoError(t, err, chunk)
	}
	for _, forbidden := range []string{
		"select credits.charge('" + user + "', 1, 'k')", "select credits.book('" + user + "', 'addition', 1, 'k', '')", "select * from credits.accounts",
		"select credits.release_expired('{}', now(), '')", "update credits.accounts set tier = 'premium'",
	} {
		_, err := conn.Exec(context.Background(), forbidden)
		requireCode(t, "42501", err)
	}
}
