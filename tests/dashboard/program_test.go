package dashboard_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

var built = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "pgtick-dashboard-")
	if err != nil {
		return "", err
	}
	atEnd = append(atEnd, func() { _ = os.RemoveAll(folder) })
	return programs.Build(folder, programs.Pgtick)
})

// pgtick starts the program, with what it says going to a text that may be read meanwhile.
func pgtick(t *testing.T, env []string, args ...string) (said *lines, end func() (code int)) {
	t.Helper()
	program, err := built()
	require.NoError(t, err)
	said = new(lines)
	cmd := exec.Command(program, args...)
	cmd.Stderr = said
	cmd.Env = append(os.Environ(), append([]string{"PGTICK_LOG_FORMAT=text", "PGTICK_HTTP=127.0.0.1:0"}, env...)...)
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	return said, func() int {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		return cmd.ProcessState.ExitCode()
	}
}

var dashboardAt = regexp.MustCompile(`dashboard at (http://[^"\s]+)`)

// served waits for the program to say where the dashboard is.
func served(t *testing.T, said *lines) (url string) {
	t.Helper()
	eventually(t, "the dashboard is served", func() bool {
		if found := dashboardAt.FindStringSubmatch(said.String()); found != nil {
			url = found[1]
		}
		return url != "" || t.Failed()
	})
	return url
}

var healthAt = regexp.MustCompile(`health and metrics at http://\[::\](:\d+)`)

// ready waits for the runner to be able to work: one that is stopped before has not done what it was started for.
func ready(t *testing.T, said *lines) {
	t.Helper()
	eventually(t, "the runner works", func() bool {
		at := healthAt.FindStringSubmatch(said.String())
		if at == nil {
			return false
		}
		status, _ := fetch(t, "http://127.0.0.1"+at[1]+"/readyz")
		return status == http.StatusOK
	})
}

func fetch(t *testing.T, address string) (status int, body string) {
	t.Helper()
	answer, err := http.Get(address)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(text)
}

func TestProgram_ServesTheDashboard_OnTheLoopbackToAll_AndElsewhereByLoginAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := []string{"DATABASE_URL=" + db.URL, "PGTICK_WEB_HIDE=*:iban"}
	run(t, db, `select pgtick.enqueue('no.such.task', '{"iban": "geheim", "city": "Bremen"}')`)

	said, end := pgtick(t, env, "web")
	url := served(t, said)
	status, body := fetch(t, url+"/jobs/1")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "Bremen")
	require.NotContains(t, body, "geheim")
	status, body = fetch(t, url+"/healthz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", body)
	require.Zero(t, end())

	said, end = pgtick(t, env, "work", "--http", "0.0.0.0:0")
	ready(t, said)
	require.Contains(t, said.String(), "no dashboard: others can reach 0.0.0.0:0")
	require.Zero(t, end(), said.String())

	said, end = pgtick(t, env, "web", "--http", "0.0.0.0:0")
	eventually(t, "it says what is missing", func() bool { return strings.Contains(said.String(), "needs something to log in with") })
	require.Equal(t, 2, end())

	id := ask[int64](t, db, `select pgtick.enqueue('credits.cleanup_expired_credit_holds')`)
	said, end = pgtick(t, append(env, "PGTICK_WEB_TOKEN="+operatorToken), "work", "--http", "0.0.0.0:0")
	ready(t, said)
	url = strings.Replace(served(t, said), "[::]", "127.0.0.1", 1)
	_, body = fetch(t, url+"/jobs/1")
	require.Contains(t, body, "<h1>Log in</h1>")
	status, _ = fetch(t, url+"/metrics")
	require.Equal(t, http.StatusOK, status, "as before")
	eventually(t, "the job is done", func() bool {
		return ask[string](t, db, `select j.state from pgtick.jobs as j where j.id = $1`, id) == "done"
	})
	require.Zero(t, end())
	require.Positive(t, ask[int64](t, db, countedDone), "a runner that ends has told for the charts what ended last")
}

func TestProgram_WithARuleThatMeansNothing_SaysSo(t *testing.T) {
	t.Parallel()
	said, end := pgtick(t, []string{"DATABASE_URL=postgres://u:p@127.0.0.1:1/x", "PGTICK_WEB_HIDE=iban"}, "web")
	eventually(t, "it says so", func() bool {
		return bytes.Contains([]byte(said.String()), []byte(`PGTICK_WEB_HIDE (or --web-hide): "iban" is not a task and a key`))
	})
	require.Equal(t, 2, end())
}
