package runner

import (
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestWork_OfSeveralDatabases_RunsTheJobsOfEach_AndMetricsTellThemApart(t *testing.T) {
	t.Parallel()
	one, two := fresh(t), fresh(t)
	p := start(t, []string{"ONE_URL=" + pgtest.RunnerURL(t, one), "TWO_URL=" + pgtest.RunnerURL(t, two)},
		"work", "--database=ONE_URL", "--database=TWO_URL", "--http=127.0.0.1:0")
	at := p.says(`health and metrics at (http://[0-9.:]+)"`)[1]
	for _, db := range []*pgtest.DB{one, two} {
		becomes(t, db, "done", stateOf, enqueue(t, db, "test.noop", "{}"))
		counted := `pgtick_attempts_finished_total{database="localhost/` + databaseOf(t, db) + `",outcome="done",queue="default",task="test.noop"} 1`
		require.Eventually(t, func() bool {
			_, body := get(t, at+"/metrics")
			return strings.Contains(body, counted)
		}, within, every, counted)
	}
	status, body := get(t, at+"/readyz")
	require.Equal(t, 200, status, body)
	p.signal(syscall.SIGTERM)
	require.Zero(t, p.ends())
	for _, db := range []*pgtest.DB{one, two} {
		require.Zero(t, ask[int](t, db, `select count(*) from pgtick.runners where ended_at is null`), "it has left")
	}
}

func TestWork_OfSeveralDatabases_OneThatIsAwayAtTheStart_KeepsNoOtherWaiting_AndIsWorkedOnOnceItIsThere(t *testing.T) {
	t.Parallel()
	here, away := fresh(t), fresh(t)
	server, err := url.Parse(pgtest.RunnerURL(t, away))
	require.NoError(t, err)
	door, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := door.Addr().String()
	require.NoError(t, door.Close())
	through := *server
	through.Host = address

	p := start(t, []string{"HERE=" + pgtest.RunnerURL(t, here), "AWAY=" + through.String(), "PGTICK_DATABASES=HERE, AWAY"}, "work", "--http=127.0.0.1:0")
	at := p.says(`health and metrics at (http://[0-9.:]+)"`)[1]
	waiting := enqueue(t, away, "test.noop", "{}")
	becomes(t, here, "done", stateOf, enqueue(t, here, "test.noop", "{}"))
	status, body := get(t, at+"/readyz")
	require.Equal(t, 503, status)
	require.Equal(t, "localhost/"+databaseOf(t, away)+": not registered\n", body)
	status, body = get(t, at+"/healthz")
	require.Equal(t, 200, status, "to start the runner anew would help nobody: %s", body)

	door, err = net.Listen("tcp", address)
	require.NoError(t, err)
	defer func() { _ = door.Close() }()
	go passOn(door, server.Host)
	becomes(t, away, "done", stateOf, waiting)
	status, body = get(t, at+"/readyz")
	require.Equal(t, 200, status, body)
}

func TestWork_OfSeveralDatabases_OneThatMustNotBeWorkedOn_StopsTheRunner_AndIsNamed(t *testing.T) {
	t.Parallel()
	good, copied := fresh(t), fresh(t)
	do(t, copied, "update pgtick.addresses set address = 'elsewhere/app'")
	p := start(t, []string{"GOOD=" + pgtest.RunnerURL(t, good), "COPY=" + pgtest.RunnerURL(t, copied)}, "work", "--database=GOOD", "--database=COPY")
	require.Equal(t, 1, p.ends())
	require.Contains(t, p.said(), "localhost/"+databaseOf(t, copied)+": ")
	require.Contains(t, p.said(), "elsewhere/app")
}

func TestWork_OfSeveralDatabases_BadNamesAreRefused(t *testing.T) {
	t.Parallel()
	const good = "postgres://u:hunter2@127.0.0.1:1/x"
	for name, row := range map[string]struct {
		env  []string
		args []string
		says string
	}{
		"a URL":         {nil, []string{"--database=" + good}, "takes the name of an environment variable"},
		"no such name":  {nil, []string{"--database=NOBODY"}, `names "NOBODY", but there is no such variable`},
		"twice":         {[]string{"A=" + good}, []string{"--database=A", "--database=A"}, `names "A" twice`},
		"not a URL":     {[]string{"A=hunter2@"}, []string{"--database=A"}, "names A, which is not a PostgreSQL URL"},
		"to listen":     {[]string{"A=" + good, "A_LISTEN=postgres://u:hunter2@h:port/x"}, []string{"--database=A"}, "goes with A_LISTEN, which is not a PostgreSQL URL"},
		"the same":      {[]string{"A=" + good, "B=" + strings.Replace(good, "hunter2", "hunter3", 1)}, []string{"--database=A", "--database=B"}, "localhost/x is named twice"},
		"nobody there":  {[]string{"A=" + good}, []string{"--database=A"}, "127.0.0.1, port 1"},
		"of the others": {[]string{"A=" + good}, []string{"--database=A", "--workers=0"}, "PGTICK_WORKERS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, talk, code := call(t, row.env, append([]string{"work"}, row.args...)...)
			require.Contains(t, talk, row.says)
			require.NotZero(t, code)
			require.NotContains(t, talk, "hunter2")
		})
	}
}

func databaseOf(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	return ask[string](t, db, `select current_database()`)
}

// passOn hands what comes in on to a server, and what that says back.
func passOn(door net.Listener, to string) {
	for {
		client, err := door.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			_ = client.Close()
			return
		}
		go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
		go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
	}
}
