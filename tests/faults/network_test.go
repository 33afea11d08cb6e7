package faults

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/faults/proxy"
	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/stretchr/testify/require"
)

// through is a world in which runners and producer reach the server by way of a proxy.
func through(t *testing.T, db *pgtest.DB, look proxy.Look) (*world, *proxy.Proxy) {
	t.Helper()
	w := newWorld(t, db)
	way := proxy.StartWith(t, db.URL, look)
	w.args, w.runners = usual, way.URL(w.runners)
	w.produce(way.URL(db.URL), pace())
	return w, way
}

// The commit of a transaction as it goes over the line, and its answer: tag and readiness.
var commitMessage = []byte("Q\x00\x00\x00\x0bcommit\x00")

const (
	bytesOfRequest = 12
	bytesOfAnswer  = 18
	bytesOfCommit  = bytesOfRequest + 1 + bytesOfAnswer // cut before each byte, and after the request's last
)

// cutter ends a connection in the middle of each third commit: after some of its bytes, or when all of it is with the server, after some of
// the answer's. Each commit that it cuts, it cuts one byte later.
type cutter struct {
	most    int
	commits atomic.Int64

	mu    sync.Mutex
	cuts  int
	keeps map[*proxy.Link]int // so many bytes of the next answer
}

func (c *cutter) look(l *proxy.Link, from proxy.Side, piece []byte) (pass []byte, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from == proxy.FromServer {
		keep, wanted := c.keeps[l]
		if !wanted {
			return piece, false
		}
		return piece[:min(keep, len(piece))], true
	}
	at := bytes.Index(piece, commitMessage)
	if at < 0 || c.commits.Add(1)%3 != 0 || c.cuts >= c.most {
		return piece, false
	}
	place := c.cuts % bytesOfCommit
	c.cuts++
	if place < bytesOfRequest {
		return piece[:at+place], true
	}
	c.keeps[l] = place - bytesOfRequest
	return piece, false
}

func (c *cutter) done() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cuts >= c.most
}

func cutCommits(t *testing.T, n int) *world {
	c := &cutter{most: n, keeps: map[*proxy.Link]int{}}
	w, _ := through(t, pgtest.New(t), c.look)
	w.fleet(2)
	w.ready()
	for !c.done() {
		w.probe()
	}
	return w
}

// loseAnswers passes every request on, and now and then cuts the connection in place of the answer, whatever that is: to a claim, a report,
// a heartbeat, a commit, an enqueue.
func loseAnswers(t *testing.T, n int) *world {
	var lost atomic.Int64
	w, _ := through(t, pgtest.New(t), func(_ *proxy.Link, from proxy.Side, piece []byte) (pass []byte, cut bool) {
		if from == proxy.FromServer && rand.IntN(60) == 0 && lost.Add(1) <= int64(n) {
			return nil, true
		}
		return piece, false
	})
	w.fleet(2)
	w.ready()
	for lost.Load() < int64(n) {
		w.probe()
	}
	return w
}

// forgetConnections lets all of a runner's connections die without a word, after it has used them. The server's ends of them stay: what it would find
// out in a minute and a half or in two hours, it does not here, where nothing is lost on the way.
func forgetConnections(t *testing.T, n int) *world {
	room := strconv.Itoa(200 + 20*n)
	w, way := through(t, pgtest.NewOn(t, pgtest.ServerWith(t, localpg.Options{Settings: map[string]string{"max_connections": room}})), nil)
	w.fleet(2)
	w.ready()
	for range n {
		require.Positive(t, way.Forget())
		w.probe()
	}
	return w
}

func slowConnections(t *testing.T, n int) *world {
	w, way := through(t, pgtest.New(t), nil)
	way.Delay(20 * time.Millisecond)
	w.fleet(2)
	w.ready()
	for range n {
		way.Cut()
		w.probe()
	}
	return w
}

// notified lets each notification through as often as one of the numbers says, by chance.
func notified(times ...int) func(t *testing.T, n int) *world {
	return func(t *testing.T, n int) *world {
		db := pgtest.New(t)
		w := newWorld(t, db)
		some := proxy.NewNotifications(func(string) int { return times[rand.IntN(len(times))] })
		way := proxy.StartWith(t, db.URL, some.Look)
		w.args, w.env = usual, []string{"LISTEN_DATABASE_URL=" + way.URL(w.runners)}
		w.produce(db.URL, 4*pace()) // so that runners come to sleep
		w.fleet(2)
		w.ready()
		for range n {
			w.probe()
		}
		require.Positive(t, some.Seen.Load())
		return w
	}
}

// fillNotifications needs a server whose queue can be made small (max_notify_queue_pages, from PostgreSQL 17 on; PGTICK_PG_BIN names its
// folder): a session that listens and never reads on keeps what others say. Then a commit that would notify is refused, and says so.
func fillNotifications(t *testing.T, n int) *world {
	server := pgtest.Server(t)
	if major(t, server) < 17 {
		t.Skip("the queue of notifications is 8 GB before PostgreSQL 17; set PGTICK_PG_BIN to the folder of a later one")
	}
	server = pgtest.ServerWith(t, localpg.Options{Settings: map[string]string{"max_notify_queue_pages": "64"}})
	db := pgtest.NewOn(t, server)
	w := busy(t, db)
	w.fleet(2)
	w.ready()
	for range n {
		deaf, err := db.Pool.Acquire(t.Context())
		require.NoError(t, err)
		_, err = deaf.Exec(t.Context(), "listen elsewhere")
		require.NoError(t, err)
		_, err = deaf.Exec(t.Context(), "begin")
		require.NoError(t, err)
		w.until("the queue is full", func(ctx context.Context) bool {
			_, err := db.Pool.Exec(ctx, "select pg_notify('elsewhere', repeat('x', 7000) || i) from generate_series(1, 10) as i")
			return err != nil
		})
		refused := 0
		w.until("notifications are refused", func(ctx context.Context) bool {
			if _, err := db.Pool.Exec(ctx, "select pg_notify('elsewhere', repeat('x', 7000))"); err != nil {
				refused++
			}
			return refused == 100
		})
		_, err = deaf.Exec(t.Context(), "rollback")
		require.NoError(t, err)
		_, err = deaf.Exec(t.Context(), "unlisten *")
		require.NoError(t, err)
		deaf.Release()
		w.do("select pg_notification_queue_usage()") // whoever asks, as an operator would, has what was heard by all thrown away
		w.probe()
	}
	return w
}

func major(t *testing.T, server *localpg.Server) int {
	t.Helper()
	text, err := readFile(server.DataDir(), "PG_VERSION")
	require.NoError(t, err)
	number, err := strconv.Atoi(text)
	require.NoError(t, err)
	return number
}

func restartPgBouncer(t *testing.T, n int) *world {
	db := pgtest.New(t)
	w := newWorld(t, db)
	pooler := pgtest.PgBouncerOf(t, db, "transaction")
	at, err := url.Parse(pooler.URL)
	require.NoError(t, err)
	pooled, err := url.Parse(w.runners)
	require.NoError(t, err)
	pooled.Host = at.Host
	w.args, w.env, w.runners = usual, []string{"LISTEN_DATABASE_URL=" + w.runners}, pooled.String()
	w.produce(db.URL, pace())
	w.fleet(2)
	w.ready()
	for range n {
		pooler.Restart()
		w.probe()
	}
	return w
}

// breakRedis takes away the Redis in which a rate is kept. Its jobs go on by each runner's own share, and none fails for it.
func breakRedis(t *testing.T, n int) *world {
	db := pgtest.New(t)
	w := newWorld(t, db)
	redis := pgtest.Redis(t)
	w.args = append([]string{"--redis-url=" + redis.URL}, usual...)
	w.produce(db.URL, pace())
	w.fleet(2)
	w.ready()
	const next = `select extract(epoch from min(j.started_at) - $1)::float8 from pgtick.jobs as j where j.task = 'fault.limited' and j.started_at > $1 and j.created_at > $1`
	goesOn := func() {
		at := w.now()
		w.becomes(`select (`+next+`) is not null`, at)
		w.took = append(w.took, time.Duration(ask[float64](w, next, at)*float64(time.Second)))
	}
	for i := range n {
		switch i % 3 {
		case 0:
			redis.Kill()
			goesOn()
			redis.Start()
		case 1:
			redis.Pause()
			goesOn()
			redis.Resume()
		case 2:
			redis.Do("flushall")
		}
		goesOn()
	}
	w.quiet()
	require.Zero(t, ask[int](w, `select count(*) from pgtick.attempts as a join pgtick.jobs as j on j.id = a.job_id where j.task = 'fault.limited' and a.outcome in ('error', 'failed')`))
	return w
}
