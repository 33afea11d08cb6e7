package dashboard_test

import (
	"bufio"
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// What happens shows by itself, and takes nothing away from who reads: focus, open parts and typed text stay.
func TestPages_FollowWhatHappens_AndLeaveTheReaderInPeace(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.register('first', '{default}', '{a.task,b.task}', '1 hour')`)
	b := d.browse(t)
	b.visit("/runners")
	b.until(`document.querySelector('#live.on')`)
	b.eval(`document.querySelector('main details').open = true, document.querySelector('main details summary').focus(), window.kept = document.querySelector('main details'), 1`, nil)
	run(t, d.DB, `select pgtick.register('second', '{default}', '{a.task}', '1 hour')`)
	b.until(`document.querySelector('main').innerText.includes('second')`)
	var same bool
	b.eval(`window.kept.isConnected && window.kept.open && document.activeElement === window.kept.querySelector('summary')`, &same)
	require.True(t, same, "the open part and the focus have gone")

	b.visit("/actions")
	b.until(`document.querySelector('#live.on')`)
	b.fill("#subject", "half a wor")
	run(t, d.DB, `select pgtick.set_retry_policy('a.task', '{"kind": "list", "delays": ["1 second"]}')`)
	b.until(`document.querySelector('main').innerText.includes('set_retry_policy')`)
	var typed string
	b.eval(`document.querySelector('#subject').value`, &typed)
	require.Equal(t, "half a wor", typed)
}

func TestTimes_AreTheViewers_WithUTCBesideThem(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `insert into pgtick.audit (at, by_whom, action, subject) values ('2026-07-01 22:30:05Z', 'anna', 'pause_queue', 'mail'), ('2026-01-15 12:00:00Z', 'anna', 'resume_queue', 'mail')`)
	_, body := d.get(t, "/actions")
	require.Contains(t, body, `<time datetime="2026-07-01T22:30:05.000Z">2026-07-01 22:30:05 UTC</time>`, "without a script it is UTC")
	b := d.browse(t) // its machine is in Berlin
	b.visit("/actions")
	text := b.text("main")
	require.Contains(t, text, "2026-07-02 00:30:05 CEST")
	require.Contains(t, text, "2026-01-15 13:00:00 CET")
	var titles []string
	b.eval(`[...document.querySelectorAll('main time')].map(t => t.title)`, &titles)
	require.Equal(t, []string{"2026-01-15 13:00:00 CET\n2026-01-15 12:00:00 UTC", "2026-07-02 00:30:05 CEST\n2026-07-01 22:30:05 UTC"}, titles)
	require.Contains(t, b.text("footer"), "Europe/Berlin")
}

func TestKeys_LeadThroughThePages(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.enqueue('first'); select pgtick.enqueue('second')`)
	b := d.browse(t)
	b.visit("/")
	b.keys("gj")
	b.until(`location.pathname === '/jobs' && document.body.dataset.ready`)
	b.keys("jj")
	b.until(`document.querySelectorAll('tr.chosen').length === 1 && document.querySelector('tr.chosen').contains(document.activeElement)`)
	require.Contains(t, b.text("tr.chosen"), "first")
	b.keys("\r")
	b.until(`/^\/jobs\/\d+$/.test(location.pathname) && document.body.dataset.ready`)
	b.keys("?")
	b.until(`location.pathname === '/keys' && document.body.dataset.ready`)
	b.keys("t")
	b.until(`document.documentElement.dataset.theme === 'dark'`)
	b.visit("/actions")
	b.until(`document.documentElement.dataset.theme === 'dark'`)
	b.keys("/")
	b.until(`document.activeElement.id === 'subject'`)
	b.keys("gj")
	var typed string
	b.eval(`document.activeElement.value`, &typed)
	require.Contains(t, typed, "gj", "in a field, keys are letters")
}

// statements counts what is asked of the database, each of several in one message.
type statements struct{ n atomic.Int64 }

// TraceQueryStart implements pgx.QueryTracer.
func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.n.Add(int64(strings.Count(strings.TrimRight(data.SQL, "; \n"), ";")) + 1)
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// watcher does what the script of a page does: it fetches the page whenever the stream says so.
func watcher(ctx context.Context, d *dash, address string, refreshed *atomic.Int64) {
	request, _ := http.NewRequestWithContext(ctx, http.MethodGet, d.URL+"/live?page="+url.QueryEscape(address), nil)
	request.Header.Set("Authorization", "Bearer "+operatorToken)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return
	}
	defer func() { _ = answer.Body.Close() }()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if lines.Text() != "event: changed" {
			continue
		}
		part, _ := http.NewRequestWithContext(ctx, http.MethodGet, d.URL+address, nil)
		part.Header.Set("Authorization", "Bearer "+operatorToken)
		part.Header.Set("Pgtick-Part", "main")
		if got, err := http.DefaultClient.Do(part); err == nil {
			_ = got.Body.Close()
			refreshed.Add(1)
		}
	}
}

func TestTenBrowsers_CostTheDatabaseAtMostFiveStatementsASecond_AndNoneWhenTheyHaveGone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	cfg, counts := db.Config(t), new(statements)
	cfg.Tracer = counts
	d := openOn(t, db, func(o *web.Options) { o.Databases[0].Config = cfg })
	run(t, db, `select pgtick.enqueue('mail.send') from generate_series(1, 100)`)
	ctx, leave := context.WithCancel(t.Context())
	var refreshed atomic.Int64
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			watcher(ctx, d, []string{"/", "/jobs", "/queues", "/runners", "/jobs?state=failed"}[i%5], &refreshed)
		})
	}
	started := time.Now()
	eventually(t, "the pages are fetched anew", func() bool {
		run(t, db, `select pgtick.enqueue('mail.send')`) // something changes all the time
		return refreshed.Load() >= 16 && time.Since(started) > 6*time.Second
	})
	asked, took := float64(counts.n.Load()), time.Since(started).Seconds()
	require.LessOrEqual(t, asked, 5*took+12, "in %.1f s, of which 12 may have been saved up before", took)
	t.Logf("%.0f statements in %.1f s for ten browsers on five pages, %d pages fetched", asked, took, refreshed.Load())
	leave()
	all.Wait()
	seen, since := counts.n.Load(), time.Now()
	eventually(t, "nothing is asked any more", func() bool {
		if now := counts.n.Load(); now != seen {
			seen, since = now, time.Now()
		}
		return time.Since(since) > 2500*time.Millisecond // more than two looks
	})
}

func TestStreams_EndWhenTheServerStops(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	served, err := web.NewDashboard(web.Options{Databases: []web.Database{{Config: db.Config(t)}}, Access: web.Access{Open: true}, Log: logrus.New()})
	require.NoError(t, err)
	server, err := web.Start("127.0.0.1:0", "tests", nil, time.Minute, prometheus.NewRegistry(), served, logrus.New())
	require.NoError(t, err)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL()+"/live?page=/", nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	require.Equal(t, "text/event-stream", answer.Header.Get("Content-Type"))
	lines := bufio.NewScanner(answer.Body)
	require.True(t, lines.Scan(), "the stream has begun")
	server.Stop()
	for lines.Scan() {
	}
	require.NoError(t, lines.Err(), "it ended as it should")
	eventually(t, "its connections are closed", func() bool {
		return ask[int](t, db, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`) == 0
	})
}

// Each statement may meet another session of the server.
func TestPagesAndActions_WorkThroughATransactionPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	cfg := configOf(t, pgtest.StartPgBouncer(t, db, "transaction"))
	d := openOn(t, db, func(o *web.Options) { o.Databases[0].Config = cfg })
	id := ask[int64](t, db, `select pgtick.enqueue('mail.send', '{"to": "anna"}')`)
	for range 2 {
		for _, address := range append(addresses(), path("/jobs/%d", id)) {
			status, body := d.get(t, address)
			require.Equal(t, http.StatusOK, status, "%s: %s", address, words(body))
		}
	}
	status, body := d.post(t, "/do/jobs/cancel", url.Values{"id": {path("%d", id)}, "back": {"/jobs"}})
	require.Equal(t, http.StatusOK, status, words(body))
	require.Equal(t, "dashboard: operator's token", ask[string](t, db, `select a.by_whom from pgtick.audit as a where a.action = 'jobs/cancel'`))
	plain := cfg.Copy()
	plain.DefaultQueryExecMode = pgx.QueryExecModeExec
	next, err := pgx.ConnectConfig(t.Context(), plain)
	require.NoError(t, err)
	defer func() { _ = next.Close(context.Background()) }()
	for range 5 {
		var left string
		require.NoError(t, next.QueryRow(t.Context(), `select coalesce(current_setting('request.jwt.claims', true), '')`).Scan(&left))
		require.Empty(t, left, "whoever gets the session next is not taken for the person")
	}
}

func TestStreams_AreBounded(t *testing.T) {
	t.Parallel()
	d := open(t)
	refused := 0
	for range 201 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL+"/live?page=/keys", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+operatorToken)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		t.Cleanup(func() { _ = answer.Body.Close() })
		if answer.StatusCode == http.StatusServiceUnavailable {
			refused++
		}
	}
	require.Equal(t, 1, refused)
	status, _ := d.get(t, "/keys")
	require.Equal(t, http.StatusOK, status, "pages are there all the same")
}
