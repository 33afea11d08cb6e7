package clocks

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// callers are sessions that each call one statement again and again, as people or a script would.
type callers struct {
	t        *testing.T
	stop     context.CancelFunc
	sessions sync.WaitGroup
	jobs     atomic.Int64 // of which they were told
	ended    atomic.Int64 // sessions that an error has ended
	n        int
}

// call starts a session for each statement, which calls it with pauses.
func call(t *testing.T, db *pgtest.DB, pause time.Duration, statements ...string) *callers {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &callers{t: t, stop: stop, n: len(statements)}
	t.Cleanup(func() { stop(); c.sessions.Wait() })
	for _, statement := range statements {
		conn, err := pgx.Connect(ctx, db.URL)
		require.NoError(t, err)
		c.sessions.Go(func() {
			defer conn.Close(context.Background())
			c.session(ctx, conn, pause, statement)
		})
	}
	return c
}

func (c *callers) session(ctx context.Context, conn *pgx.Conn, pause time.Duration, statement string) {
	again := time.NewTicker(pause)
	defer again.Stop()
	for {
		jobs, err := callOnce(conn, statement)
		if err != nil {
			c.t.Logf("%s: %v", statement, err)
			c.ended.Add(1)
			return
		}
		c.jobs.Add(jobs)
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// callOnce is not interrupted by the end of the test's wish to call: then nobody would know what had become of it.
func callOnce(conn *pgx.Conn, statement string) (jobs int64, err error) {
	rows, err := conn.Query(context.Background(), statement)
	if err != nil {
		return 0, err
	}
	_, err = pgx.ForEachRow(rows, []any{&jobs}, func() error { return nil })
	return jobs, err
}

// end stops them and tells of how many jobs they were told. lost: the server went away, so each ended by itself, with an error.
func (c *callers) end(lost bool) int {
	c.t.Helper()
	if !lost {
		c.stop()
	}
	c.sessions.Wait()
	require.Equal(c.t, map[bool]int{true: c.n, false: 0}[lost], int(c.ended.Load()), "sessions that ended with an error")
	return int(c.jobs.Load())
}

func TestTick_ByPgCronRunnersAndPeopleAtOnce_MakesEachSlotOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, instant("2026-02-26T11:59:20Z"), false)
	first, second := work(t, m.db), work(t, m.db)
	var plans []plan
	for i := range 200 {
		plans = append(plans, plan{name: fmt.Sprint("every second ", i), cron: "@every 1s", grid: time.Second, task: "test.noop"})
	}
	for i := range 100 {
		plans = append(plans, plan{name: fmt.Sprint("every other second ", i), cron: "@every 2s", grid: 2 * time.Second, task: "test.noop"})
	}
	create(t, m.db, plans)
	m.beforeMinute(t) // so that pg_cron calls in the midst of it
	until := m.now().Add(8 * time.Second)
	people := call(t, m.db, 50*time.Millisecond, "select pgtick.tick()", "select pgtick.tick()", "select pgtick.tick()", "call pgtick.run_ticks()", "call pgtick.run_ticks()")
	require.True(t, eventually(t.Context(), func() bool { return m.now().After(until) }))
	people.end(false)
	entries := account(t, m.db, plans, m.now())
	for _, p := range plans {
		p.requireFates(t, entries[p.name])
	}
	require.Equal(t, []string{"other", "pg_cron", "runner"}, list[string](t, m.db, "select clock from pgtick.clocks order by clock"))

	for _, p := range plans {
		do(t, m.db, "select pgtick.unschedule($1)", p.name)
	}
	becomes(t, m.db, 0, "select count(*)::int from pgtick.jobs where state <> 'done'")
	first.stop(t)
	second.stop(t)
	slots := ask[int](t, m.db, "select count(*) from pgtick.slots")
	require.Equal(t, slots, ask[int](t, m.db, "select count(*) from pgtick.jobs"))
	require.Equal(t, slots, ask[int](t, m.db, "select count(*) from (select distinct schedule, slot from pgtick.jobs) as j join pgtick.slots using (schedule, slot)"))
	t.Logf("%d slots, each once", slots)
}
