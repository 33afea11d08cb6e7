package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// asked is what the producers know of a job: what they asked for, and the answer. A request that makes several jobs has an entry for each.
type asked struct {
	token int64
	kind  string
	id    int64 // 0: rolled back, so there is none
}

// traffic asks for jobs of all kinds, as many as the hour wants, and keeps its record in its own memory.
type traffic struct {
	db     *pgtest.DB
	hooks  string                                   // where the jobs of task http call
	rate   func(since time.Duration) (each float64) // jobs a second
	begun  time.Time
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu     sync.Mutex
	tokens int64
	record []asked
	probes []int64 // those of which nobody has asked yet how long they waited
	err    error
}

// produce begins. As many producers as there are take turns, so that none waits for another's commit.
func produce(t *testing.T, db *pgtest.DB, hooks string, rate func(time.Duration) float64) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &traffic{db: db, hooks: hooks, rate: rate, begun: time.Now(), cancel: cancel}
	producers := of(4, 1)
	for range producers {
		f.group.Go(func() {
			f.keep(ctx, func(since time.Duration) time.Duration {
				return time.Duration(float64(producers) / f.rate(since) * float64(time.Second))
			}, f.once)
		})
	}
	f.group.Go(func() { f.keep(ctx, func(time.Duration) time.Duration { return 100 * time.Millisecond }, f.probe) })
	t.Cleanup(f.stop)
	return f
}

func (f *traffic) stop() {
	f.cancel()
	f.group.Wait()
}

// keep does something again and again. Who is late by more than a second does not catch up: that would be a peak of the test's own making.
func (f *traffic) keep(ctx context.Context, pause func(since time.Duration) time.Duration, what func(context.Context, *pgx.Conn) error) {
	conn, err := pgx.Connect(ctx, f.db.URL)
	if err != nil {
		f.failed(ctx, err)
		return
	}
	defer func() { _ = conn.Close(context.Background()) }()
	next := time.Now()
	for ctx.Err() == nil && err == nil {
		next = next.Add(pause(time.Since(f.begun)))
		if late := time.Since(next); late > time.Second {
			next = time.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(next)):
			err = what(context.WithoutCancel(ctx), conn) // what is begun is brought to its end
		}
	}
	f.failed(ctx, err)
}

// failed: nothing is broken on purpose here, so an error is a finding.
func (f *traffic) failed(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = errors.Join(f.err, err)
}

// kind is what is asked for. more are further arguments of enqueue, in which $2 is the token.
type kind struct{ name, task, more string }

// kinds come in this order.
var kinds = []kind{
	{"effect", "fault.effect", ""},
	{"plain", "fault.plain", ""},
	{"ordered", "fault.effect", ""}, // with a row of the producer's
	{"limited", "fault.limited", ""},
	{"http", "http", ", p_queue => 'http'"},
	{"delayed", "fault.effect", ", p_run_at => pgtick.now() + make_interval(secs => 1 + $2::bigint % 10)"},
	{"effect", "fault.effect", ""},
	{"failing", "fault.failing", ""}, // twice
	{"unique", "fault.effect", ", p_run_at => pgtick.now() + interval '1 second', p_unique_key => 'page ' || $2::bigint % 20, p_unique_states => '{ready}'"},
	{"chain", "fault.effect", ""},
	{"ledger", "fault.ledger", ""},
	{"plain", "fault.plain", ""},
	{"many", "fault.plain", ""}, // twenty in a call
	{"ledger_plain", "fault.ledger_plain", ""},
	{"undone", "fault.effect", ""}, // its transaction is rolled back
	{"long", "fault.long", ""},
	{"hold", "", ""}, // nobody captures it: it expires
}

const users = 20

func userOf(token int64) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", 1+token%users) }

func (f *traffic) next() (token int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens++
	return f.tokens
}

func (f *traffic) note(token int64, kind string, ids ...int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		f.record = append(f.record, asked{token, kind, id})
	}
}

// problem is what went wrong so far.
func (f *traffic) problem() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

var errUndone = errors.New("rolled back on purpose")

// asker is a connection or a transaction.
type asker interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// request is one call of a producer's.
type request struct {
	kind
	token int64
	args  string
}

// The timeout is of two days, since the clock is moved on by one while attempts run.
func (r request) enqueue(ctx context.Context, q asker) (id int64, err error) {
	sql := "select pgtick.enqueue($1, $3::text::jsonb, p_max_attempts => (20 + $2::bigint % 5)::int, p_timeout => '2 days'" + r.more + ")"
	return id, q.QueryRow(ctx, sql, r.task, r.token, r.args).Scan(&id)
}

// once asks for what is next.
func (f *traffic) once(ctx context.Context, conn *pgx.Conn) error {
	token := f.next()
	r := request{kind: kinds[token%int64(len(kinds))], token: token}
	args, err := json.Marshal(f.argsOf(r.task, token))
	if err != nil {
		return err
	}
	r.args = string(args)
	ids, err := r.send(ctx, conn)
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	f.note(token, r.name, ids...)
	return nil
}

func (r request) send(ctx context.Context, conn *pgx.Conn) (ids []int64, err error) {
	switch r.name {
	case "ordered", "undone":
		return r.inTransaction(ctx, conn)
	case "chain":
		return r.chain(ctx, conn)
	case "many":
		return enqueueMany(ctx, conn, r.token, "default", 20)
	case "hold":
		_, err = conn.Exec(ctx, `select credits.hold($1, 1, '1 hour', 'open ' || $2::bigint)`, userOf(r.token), r.token)
		return nil, err
	}
	id, err := r.enqueue(ctx, conn)
	return []int64{id}, err
}

func (f *traffic) argsOf(task string, token int64) map[string]any {
	if task == "http" {
		return map[string]any{"url": fmt.Sprintf("%s/%d", f.hooks, token), "body": map[string]any{"token": token}}
	}
	return map[string]any{"token": token, "ms": token % 4 * 5, "steps": 3, "fails": 2, "user_id": userOf(token)}
}

// inTransaction: the job is there when the order is, or neither.
func (r request) inTransaction(ctx context.Context, conn *pgx.Conn) (ids []int64, err error) {
	var id int64
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into soak.orders (token) values ($1)", r.token); err != nil {
			return err
		}
		if id, err = r.enqueue(ctx, tx); err == nil && r.name == "undone" {
			err = errUndone
		}
		return err
	})
	if errors.Is(err, errUndone) {
		return []int64{0}, nil
	}
	return []int64{id}, err
}

// chain is a job and one that waits for it.
func (r request) chain(ctx context.Context, conn *pgx.Conn) (ids []int64, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		first, err := r.enqueue(ctx, tx)
		if err != nil {
			return err
		}
		var second int64
		err = tx.QueryRow(ctx, `select pgtick.enqueue('fault.effect', $1::text::jsonb, p_after => array[$2::bigint], p_timeout => '2 days')`, r.args, first).Scan(&second)
		ids = []int64{first, second}
		return err
	})
	return ids, err
}

func enqueueMany(ctx context.Context, conn *pgx.Conn, token int64, queue string, n int) ([]int64, error) {
	rows, err := conn.Query(ctx, `select pgtick.enqueue_many('fault.plain', array_fill(jsonb_build_object('token', $1::bigint), array[$2::int]), p_queue => $3, p_timeout => '2 days')`,
		token, n, queue)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// probe is a job of which is asked later how long it waited for its claim.
func (f *traffic) probe(ctx context.Context, conn *pgx.Conn) error {
	var id int64
	if err := conn.QueryRow(ctx, `select pgtick.enqueue('fault.probe', p_timeout => '2 days')`).Scan(&id); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probes = append(f.probes, id)
	return nil
}

// waited is how long each probe that has started since the last call waited, in milliseconds by the database's clock.
func (f *traffic) waited(t *testing.T) []float64 {
	t.Helper()
	f.mu.Lock()
	ids := f.probes
	f.probes = nil
	f.mu.Unlock()
	rows, err := f.db.Pool.Query(t.Context(), `select h.id, extract(epoch from h.started_at - h.created_at)::float8 * 1000 from pgtick.history as h where h.id = any($1) and h.expires_on >= (pgtick.now() at time zone 'UTC')::date`, ids)
	require.NoError(t, err)
	took := map[int64]float64{}
	var id int64
	var ms float64
	_, err = pgx.ForEachRow(rows, []any{&id, &ms}, func() error { took[id] = ms; return nil })
	require.NoError(t, err)
	var all []float64
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		ms, is := took[id]
		switch {
		case !is:
			f.probes = append(f.probes, id) // not yet
		case ms < 3600*1000: // of the others the clock was set forward while they waited
			all = append(all, ms)
		}
	}
	return all
}

// burst is a peak on top of all that: so many at once, and how many a second are done until none is left.
func (f *traffic) burst(t *testing.T, n int) (rate float64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.db.URL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	token := f.next()
	ids, err := enqueueMany(t.Context(), conn, token, "burst", n)
	require.NoError(t, err)
	begun := time.Now()
	f.note(token, "burst", ids...)
	becomes(t, f.db, 10*time.Minute, `select not exists (select from pgtick.live_jobs as j where j.task = 'fault.plain' and j.queue = 'burst' and j.priority = 5)`)
	return float64(n) / time.Since(begun).Seconds()
}

// store puts the record into the database that is to be checked.
func (f *traffic) store(t *testing.T) {
	t.Helper()
	f.stop()
	require.NoError(t, f.err)
	_, err := f.db.Pool.CopyFrom(t.Context(), pgx.Identifier{"soak", "record"}, []string{"token", "kind", "job_id"},
		pgx.CopyFromSlice(len(f.record), func(i int) ([]any, error) {
			return []any{f.record[i].token, f.record[i].kind, f.record[i].id}, nil
		}))
	require.NoError(t, err)
}

// daily is a day's curve: quiet at midnight and noon, with a peak at six and at eighteen o'clock.
func daily(peak, hour float64) float64 {
	wave := math.Sin(math.Pi * hour / 12)
	return peak * (0.3 + 0.7*wave*wave)
}

// hooks is a server that jobs of task http call. For a tenth of them it is out of order the first time.
type hooks struct {
	*httptest.Server

	mu    sync.Mutex
	calls map[string]int // by path: those that it has accepted
	sent  map[string]bool
}

func newHooks(t *testing.T) *hooks {
	t.Helper()
	h := &hooks{calls: map[string]int{}, sent: map[string]bool{}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if path := r.URL.Path; strings.HasSuffix(path, "7") && !h.sent[path] {
			h.sent[path] = true
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		h.calls[r.URL.Path]++
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"call": %q}`, r.URL.Path)
	}))
	t.Cleanup(h.Close)
	return h
}
