// Package credits_model_test proves the credit ledger: an independent ledger in memory (model_test.go) must agree with the database on every
// answer and on every row, whoever asks, at whatever the same moment, and whose connection is lost.
package credits_model_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// amount is how much is done: "make ledger-proof" does all of it, "make test" a sample, a mutant what finds most of them.
type amount struct {
	exact, exactCalls int // worlds with one session, and calls in each
	rounds, perRound  int // databases with eight sessions, and operations in each
}

func proofAmount() amount {
	switch os.Getenv("PGTICK_PROOF") {
	case "full":
		return amount{exact: 40, exactCalls: 20_000, rounds: 40, perRound: 75_000}
	case "mutant":
		return amount{exact: 1, exactCalls: 1_200, rounds: 1, perRound: 6_000}
	}
	return amount{exact: 2, exactCalls: 1_500, rounds: 4, perRound: 25_000}
}

func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("PGTICK_SEED"); text != "" {
		parsed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		n = parsed
	}
	t.Logf("PGTICK_SEED=%d", n)
	return n
}

// world is a database in which the clock stands until it is moved, and in which each call writes down, in its own transaction and while
// it still holds its locks, the turn in which it came: turns put all calls on one account in the order in which they were served.
type world struct {
	*pgtest.DB
	t     *testing.T
	mu    sync.Mutex
	clock []time.Time // all that it was
	reads int         // the one that every call from now on may read
	rows  *rows
	tally *tally
}

var epoch = time.Date(2026, 1, 10, 8, 0, 0, 0, time.UTC)

const modelSchema = `
create schema model;
create sequence model.clock;
create sequence model.turn;
create unlogged table model.calls (turn bigint, attempt bigint, answer text, last_id bigint);
create or replace function pgtick.now() returns timestamptz language sql volatile parallel safe set search_path = '' as
  $$ select timestamptz '2026-01-10 08:00:00+00' + (select c.last_value - 1 from model.clock as c) * interval '1 microsecond' $$;
create function model.touch() returns trigger language plpgsql as $$
begin
  perform set_config('model.touched', current_setting('model.touched') || new.id || ' ', true);
  return null;
end $$;
create trigger zz_touch after insert or update on credits.transactions for each row
  when (current_setting('model.touched', true) <> '') execute function model.touch();
-- A chunk's answer, and the entries that it wrote or changed.
create function model.chunk(p_query text) returns text language plpgsql as $$
declare
  v_answer text;
begin
  perform set_config('model.touched', '|', true);
  execute p_query into v_answer;
  v_answer := v_answer || current_setting('model.touched');
  perform set_config('model.touched', '', true);
  return v_answer;
end $$`

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{DB: pgtest.New(t), t: t, clock: []time.Time{epoch}, rows: newRows(), tally: newTally()}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("PGTICK_PROOF") == "mutant" { // it is found: nothing else matters
			fmt.Printf("--- FAIL: %s\n", t.Name())
			os.Exit(1)
		}
	})
	w.exec(modelSchema)
	return w
}

func (w *world) exec(statement string) {
	w.t.Helper()
	_, err := w.Pool.Exec(context.Background(), statement)
	require.NoError(w.t, err)
}

// advance moves the clock. A call that runs meanwhile reads it as it was or as it is.
func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.clock[len(w.clock)-1].Add(d)
	w.clock = append(w.clock, next)
	_, err := w.Pool.Exec(context.Background(), "select setval('model.clock', $1)", next.Sub(epoch).Microseconds()+1)
	if err != nil {
		w.t.Errorf("move the clock: %v", err)
	}
	w.reads = len(w.clock) - 1
}

func (w *world) clockRead() (surely, atMost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reads, len(w.clock) - 1
}

func (w *world) now() time.Time { return w.clock[len(w.clock)-1] }

func (w *world) requireNoViolations() {
	w.t.Helper()
	found, err := w.Pool.Query(context.Background(), "select format('%s: user %s, transaction %s, hold %s: %s', v.kind, v.user_id, v.transaction_id, v.hold_id, v.detail) from credits.violations as v limit 20")
	require.NoError(w.t, err)
	violations, err := pgx.CollectRows(found, pgx.RowTo[string])
	require.NoError(w.t, err)
	require.Empty(w.t, violations)
}

// tally counts what was done.
type tally struct {
	mu                                sync.Mutex
	operations, calls                 int
	kinds, codes                      map[string]int
	kills, lost, keptLost, rolledBack int
}

func newTally() *tally { return &tally{kinds: map[string]int{}, codes: map[string]int{"40P01": 0}} }

func (c *tally) add(more *tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.operations += more.operations
	c.calls += more.calls
	c.kills += more.kills
	c.lost += more.lost
	c.keptLost += more.keptLost
	c.rolledBack += more.rolledBack
	for kind, n := range more.kinds {
		c.kinds[kind] += n
	}
	for code, n := range more.codes {
		c.codes[code] += n
	}
}

func (c *tally) called(o *operation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.operations += max(1, len(o.rows))
	c.kinds[o.kind] += max(1, len(o.rows))
}

func (c *tally) count(what *int, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*what += n
}

func (c *tally) refused(code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.codes[code]++
}

func (c *tally) String() string {
	return fmt.Sprintf("%d operations in %d calls: %s; refused: %s; %d rolled back by the client; %d kills, %d answers lost, of which %d had been booked",
		c.operations, c.calls, listed(c.kinds), listed(c.codes), c.rolledBack, c.kills, c.lost, c.keptLost)
}

func listed(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

func random(n, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(n, stream)) }
