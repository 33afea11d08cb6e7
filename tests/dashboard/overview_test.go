package dashboard_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestOverview_SaysWhatIsWrong_First(t *testing.T) {
	t.Parallel()
	d := open(t)
	tally := new(web.Tally)
	for range 30 {
		tally.Finished("done", 10*time.Millisecond, 200*time.Millisecond)
	}
	tally.Finished("failed", time.Second, 3*time.Second)
	tally.Finished("released", time.Hour, time.Hour) // counts for nothing
	require.NoError(t, tally.Tell(t.Context(), d.DB.Pool, runner(t, d.DB)))
	run(t, d.DB, `select pgtick.leave(id) from pgtick.runner_leases`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', p_queue => 'mail') from generate_series(1, 3)`)
	run(t, d.DB, `select pgtick.enqueue('mail.send', p_queue => 'mail', p_run_at => pgtick.now() + interval '1 day')`)
	_, body := d.get(t, "/")
	text := words(body)
	require.Contains(t, text, "task without a runner task mail.send: a job waits since")
	require.Less(t, strings.Index(text, "task without a runner"), strings.Index(text, "Jobs that could run"), "what is wrong comes first")
	require.Regexp(t, `Jobs that could run 3 the oldest since`, text)
	require.Contains(t, text, "No clock has ever ticked")
	require.Contains(t, text, "Ended in the last hour 31 done or failed, on all runners")
	require.Regexp(t, `mail 3 .+ 0 1 0 0 none`, text)
	b := d.browse(t)
	b.visit("/")
	b.until(`document.querySelectorAll('.chart canvas').length === 3`)
	b.axe()
	b.dark()
	b.axe()
	b.phone()
}

func TestPages_AreLight(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.enqueue('mail.send', jsonb_build_object('to', g)) from generate_series(1, 60) as g`)
	zipped := func(address string) int {
		_, _, header := d.do(t, http.MethodHead, address, nil, nil)
		_ = header
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL+address, nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+operatorToken)
		request.Header.Set("Accept-Encoding", "gzip")
		answer, err := d.client.Do(request)
		require.NoError(t, err)
		defer func() { _ = answer.Body.Close() }()
		require.Equal(t, "gzip", answer.Header.Get("Content-Encoding"), address)
		counted := &counter{from: answer.Body}
		plain, err := gzip.NewReader(counted)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, plain)
		require.NoError(t, err)
		return counted.n
	}
	for _, address := range addresses() {
		_, body := d.get(t, address)
		weight := zipped(address)
		for _, file := range regexp.MustCompile(`/static/[^"]+`).FindAllString(body, -1) {
			weight += zipped(file)
		}
		t.Logf("%s: %d bytes with all its files, compressed", address, weight)
		require.Less(t, weight, 150<<10, address)
	}
}

type counter struct {
	from io.Reader
	n    int
}

// Read implements io.Reader.
func (c *counter) Read(into []byte) (n int, err error) {
	n, err = c.from.Read(into)
	c.n += n
	return n, err
}

func TestSeveralDatabases_HaveAddressesOfTheirOwn(t *testing.T) {
	t.Parallel()
	one, two := pgtest.New(t), pgtest.New(t)
	run(t, two, `select pgtick.enqueue('only.in.two')`)
	d := openOn(t, one, func(o *web.Options) {
		o.Databases = []web.Database{{Name: "db.example.org/shop", Config: one.Config(t)}, {Name: "db.example.org/books", Config: two.Config(t)}, {Name: "db.example.org:shop", Config: two.Config(t)}}
	})
	status, body := d.get(t, "/")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `href="/db/db-example-org-shop/jobs"`)
	require.Contains(t, body, `href="/db/db-example-org-books/"`)
	require.Contains(t, body, `href="/db/db-example-org-shop-3/"`, "no two have the same address")
	_, body = d.get(t, "/db/db-example-org-shop/jobs")
	require.NotContains(t, body, "only.in.two")
	_, body = d.get(t, "/db/db-example-org-books/jobs")
	require.Contains(t, body, "only.in.two")
	b := d.browse(t)
	b.visit("/db/db-example-org-books/runners")
	b.until(`document.querySelector('#live.on')`)
	b.keys("gj")
	b.until(`location.pathname === '/db/db-example-org-books/jobs' && document.body.dataset.ready`)
	b.axe()
}

// What a page reads is what it shows: no statement goes through the history, nor through all live jobs.
func TestCorePages_ReadNoMoreThanTheyShow(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, created_at, started_at, finished_at, expires_on)
		select 1000000 + g, 'task-' || g % 20, 'default', 5, case when g % 50 = 0 then 'failed' else 'done' end, n.now, 1, 0, 20, 0, 0, '5 minutes', '{}', n.now, n.now, n.now - g * interval '1 second', (n.now + interval '7 days')::date
		from generate_series(1, 20000) as g, (select pgtick.now() as now) as n`)
	run(t, d.DB, `insert into pgtick.audit (at, by_whom, action, subject) select pgtick.now(), 'anna', 'pause_queue', 'queue-' || g % 100 from generate_series(1, 20000) as g`)
	run(t, d.DB, `insert into pgtick.runner_leases (name, queues, tasks, lease, lease_until, registered_at, heartbeat_at, ended_at, ended_as, freed_at)
		select 'old', '{default}', '{a}', '1 minute', n.now, n.now, n.now, n.now, 'left', n.now from generate_series(1, 5000), (select pgtick.now() as now) as n`)
	run(t, d.DB, `analyze pgtick.history`)
	run(t, d.DB, `analyze pgtick.audit`)
	run(t, d.DB, `analyze pgtick.runner_leases`)
	for _, address := range []string{"/", "/runners", "/actions", "/actions?subject=queue-7", "/actions?after=10000"} {
		for _, p := range d.plans(t, address) {
			for _, rows := range regexp.MustCompile(`(?:actual rows=|Rows Removed by [A-Za-z ]+: )(\d+)`).FindAllStringSubmatch(p.Text, -1) {
				var n int
				_, _ = fmt.Sscan(rows[1], &n)
				require.LessOrEqual(t, n, 1100, "%s: %s", address, p.Text)
			}
		}
	}
}

func TestDatabase_ThatIsGone_IsSaid_WithWhatToDo(t *testing.T) {
	t.Parallel()
	d := open(t, func(o *web.Options) {
		o.Databases[0].Config.Host, o.Databases[0].Config.Port, o.Databases[0].Config.Fallbacks = "127.0.0.1", 1, nil
	})
	status, body := d.get(t, "/")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, words(body), "connection refused")
	require.NotContains(t, body, "password")
}

func TestLogin_ThatMayNotRead_IsToldOf(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	url := pgtest.RunnerURL(t, db)
	d := openOn(t, db, func(o *web.Options) { o.Databases[0].Config = configOf(t, url) })
	status, body := d.get(t, "/")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, words(body), "PGTICK_WEB_DATABASE_URL")
}
