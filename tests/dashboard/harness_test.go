package dashboard_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// What people log in with.
const (
	operatorToken = "operator-of-the-tests-0123456789-abcdef"
	readerToken   = "reader-of-the-tests-0123456789-abcdefgh"
)

// dash is a dashboard of one database, as one person sees it.
type dash struct {
	DB     *pgtest.DB
	URL    string
	token  string
	client *http.Client
	served *web.Dashboard
	log    *lines
}

// lines is a log to look into.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

// String is all of it.
func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// open serves the dashboard of a new database, in which nothing happens but what the test does, to an operator. change may alter the options.
func open(t *testing.T, change ...func(*web.Options)) *dash {
	t.Helper()
	db := pgtest.New(t)
	db.Quiet(t)
	return openOn(t, db, change...)
}

// openOn is open for a database that is there.
func openOn(t *testing.T, db *pgtest.DB, change ...func(*web.Options)) *dash {
	t.Helper()
	log := new(lines)
	logger := logrus.New()
	logger.SetOutput(log)
	options := web.Options{Databases: []web.Database{{Config: db.Config(t)}}, Access: web.Access{Token: operatorToken, ReadToken: readerToken},
		Rules: web.Rules{HideDefault: true}, Version: "test", Log: logger}
	for _, c := range change {
		c(&options)
	}
	served, err := web.NewDashboard(options)
	require.NoError(t, err)
	server, err := web.Start("127.0.0.1:0", "tests", nil, time.Minute, prometheus.NewRegistry(), served, logger)
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	return (&dash{DB: db, URL: server.URL(), served: served, log: log}).as(operatorToken)
}

// as is the same for somebody else: nothing but the token of a session is shared.
func (d *dash) as(token string) *dash {
	jar, _ := cookiejar.New(nil)
	other := *d
	other.token, other.client = token, &http.Client{Jar: jar, Timeout: 30 * time.Second}
	return &other
}

// reader is the same for somebody who may look, but not act.
func (d *dash) reader() *dash { return d.as(readerToken) }

// get returns a page.
func (d *dash) get(t testing.TB, address string) (status int, body string) {
	t.Helper()
	status, body, _ = d.do(t, http.MethodGet, address, nil, nil)
	return status, body
}

// post sends a form, and returns the page that it leads to.
func (d *dash) post(t testing.TB, address string, form url.Values) (status int, body string) {
	t.Helper()
	status, body, _ = d.do(t, http.MethodPost, address, form, nil)
	return status, body
}

func (d *dash) do(t testing.TB, method, address string, form url.Values, change func(*http.Request)) (status int, body string, header http.Header) {
	t.Helper()
	var content io.Reader
	if form != nil {
		content = strings.NewReader(form.Encode())
	}
	request, err := http.NewRequestWithContext(t.Context(), method, d.URL+address, content)
	require.NoError(t, err)
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if d.token != "" {
		request.Header.Set("Authorization", "Bearer "+d.token)
	}
	if change != nil {
		change(request)
	}
	answer, err := d.client.Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(text), answer.Header
}

var tags = regexp.MustCompile(`(?s)<[^>]*>`)

// words is what a page says, without its marks, with single blanks.
func words(body string) string {
	return strings.Join(strings.Fields(tags.ReplaceAllString(body, " ")), " ")
}

// work runs jobs of the registry's tasks beside the dashboard until the test ends.
func (d *dash) work(t *testing.T, registry *tasks.Registry, queues ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	logger := logrus.New()
	logger.SetOutput(d.log)
	connect := func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, d.DB.Config(t)) }
	e, err := engine.New(engine.Options{Name: "runner-of-the-tests", Queues: queues, Registry: registry, Poll: 50 * time.Millisecond, NoClock: true, Workers: 4,
		Grace: time.Second, Log: logger, Pool: d.DB.Pool, Connect: connect, Listen: connect})
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
}

// plan is how the server answered a statement of the dashboard.
type plan struct{ Text string }

// plans opens a page and returns the plans of all statements that it asked, by the server itself; each has "Query Text:", and rows as they were.
func (d *dash) plans(t *testing.T, address string) []plan {
	t.Helper()
	var mu sync.Mutex
	var all []plan
	cfg := d.DB.Config(t)
	cfg.RuntimeParams["options"] = "-c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0 -c auto_explain.log_analyze=on -c auto_explain.log_buffers=on" +
		" -c auto_explain.log_timing=off -c auto_explain.log_nested_statements=on -c client_min_messages=log"
	cfg.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		if strings.Contains(notice.Message, "plan:") {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, plan{notice.Message})
		}
	}
	watched := openOn(t, d.DB, func(o *web.Options) { o.Databases[0].Config = cfg })
	status, body := watched.get(t, address)
	require.Equal(t, http.StatusOK, status, words(body))
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, all, "no plan was told of")
	return all
}

// root is the top folder of the checkout.
func root(t testing.TB) string {
	t.Helper()
	folder, err := os.Getwd()
	require.NoError(t, err)
	return filepath.Dir(filepath.Dir(folder))
}

// eventually waits for what is to come, and says what there was instead.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !is() {
		select {
		case <-look.C:
		case <-limit.C:
			require.Fail(t, "it did not happen", what)
		}
	}
}

func run(t testing.TB, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(context.Background(), sql, args...)
	require.NoError(t, err, sql)
}

func ask[V any](t testing.TB, db *pgtest.DB, sql string, args ...any) (value V) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(context.Background(), sql, args...).Scan(&value), sql)
	return value
}

func path(format string, args ...any) string { return fmt.Sprintf(format, args...) }

func configOf(t testing.TB, url string) *pgx.ConnConfig {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	return cfg
}
