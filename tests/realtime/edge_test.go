package realtime

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/httptask"
)

const (
	edgePage  = "docs/edge-functions.md"
	typesFile = "supabase/functions/_shared/database.types.ts"
)

var fileName = regexp.MustCompile(`^// (supabase/functions/\S+)\n`)

// functions are the page's, in a project's folders, with the types that they import and npm's modules.
func functions(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, text string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	for _, name := range []string{"report", "welcome"} {
		code := shown(t, edgePage, "// supabase/functions/"+name+"/index.ts")
		require.Equal(t, "supabase/functions/"+name+"/index.ts", fileName.FindStringSubmatch(code)[1])
		put(fileName.FindStringSubmatch(code)[1], code)
	}
	for from, to := range map[string]string{
		filepath.Join("..", "..", "examples", "supabase-js", "database.types.ts"): typesFile,
		filepath.Join("node", "package.json"):                                     "package.json",
	} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		put(to, string(text))
	}
	require.NoError(t, os.Symlink(installed(t, "realtime"), filepath.Join(dir, "node_modules")))
	return dir
}

// deno is the runtime that Edge Functions have. It finds npm's packages where npm has put them, and fetches nothing.
func deno(t *testing.T, dir, verb string, args ...string) *exec.Cmd {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(installed(t, "realtime"), "@deno", "*", "deno")) // the npm package's own deno.cjs would start this as a child
	require.NoError(t, err)
	require.Len(t, found, 1, "npm has no Deno for this kind of machine")
	cmd := exec.Command(found[0], append([]string{verb, "--cached-only", "--node-modules-dir=manual"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DENO_DIR="+filepath.Join(dir, "cache"), "DENO_NO_UPDATE_CHECK=1", "NO_COLOR=1")
	return cmd
}

func TestEdgeFunctions_OfThePage_HaveTheRightTypes(t *testing.T) {
	t.Parallel()
	dir := functions(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, typesFile), []byte(generatedTypes(t, project(t))), 0o600))
	out, err := deno(t, dir, "check", "supabase/functions/report/index.ts", "supabase/functions/welcome/index.ts").CombinedOutput()
	require.NoError(t, err, string(out))
}

var listening = regexp.MustCompile(`Listening on (http://[^/\s]+)`)

// serve runs a function and returns its URL.
func serve(t *testing.T, name string, env ...string) string {
	t.Helper()
	cmd := deno(t, functions(t), "run", "--allow-net", "--allow-env", "supabase/functions/"+name+"/index.ts")
	cmd.Env = append(append(cmd.Env, "DENO_SERVE_ADDRESS=tcp:127.0.0.1:0"), env...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	var mu sync.Mutex
	var said strings.Builder
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			mu.Lock()
			said.WriteString(lines.Text() + "\n")
			mu.Unlock()
		}
	}()
	all := func() string {
		mu.Lock()
		defer mu.Unlock()
		return said.String()
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("function %s said:\n%s", name, all())
		}
	})
	require.Eventually(t, func() bool { return listening.MatchString(all()) }, patience, 10*time.Millisecond)
	return listening.FindStringSubmatch(all())[1]
}

func TestEdgeFunction_CalledByASchedule_IsTriedUntilItHasWorked_AndDoesItOnce(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	db := project(t)
	do(t, db.Pool, shown(t, edgePage, "create table public.reports"))
	do(t, db.Pool, `grant all on public.reports to service_role`)
	s := newStandIn(t, db)
	url := serve(t, "report", "SUPABASE_URL="+s.server.URL, "SUPABASE_SERVICE_ROLE_KEY="+token("service_role", ""), "PGTICK_SECRET_REPORT="+secret)
	do(t, db.Pool, strings.ReplaceAll(shown(t, edgePage, "pgtick.schedule('nightly-report'"), "https://abcdefghijklmnop.supabase.co/functions/v1/report", url))

	allowed, err := httptask.ParseAllowed("127.0.0.1")
	require.NoError(t, err)
	runner := func(secret string) *tasks.Registry {
		r := tasks.NewRegistry()
		httptask.Register(r, httptask.Options{Allow: allowed, Env: func(name string) (string, bool) { return secret, name == "PGTICK_SECRET_REPORT" }})
		return r
	}
	s.lost.Store(1) // the row is written, and the function does not hear of it
	id := one[int64](t, db.Pool, `select pgtick.run_now('nightly-report')`)
	require.Equal(t, 1, db.Work(t, runner(secret)))
	require.Equal(t, "ready", db.Job(t, id).State)
	require.Equal(t, 1, one[int](t, db.Pool, `select count(*) from public.reports where kind = 'daily'`))
	db.Advance(t, time.Minute)
	require.Equal(t, 1, db.Work(t, runner(secret)))
	require.Equal(t, "done", db.Job(t, id).State)
	require.Equal(t, `{"made": true}`, one[string](t, db.Pool, `select (result -> 'body')::text from pgtick.jobs where id = $1`, id))
	require.Equal(t, 1, one[int](t, db.Pool, `select count(*) from public.reports`))
	do(t, db.Pool, shown(t, edgePage, "select state, attempt, result ->> 'status'"))

	id = one[int64](t, db.Pool, `select pgtick.run_now('nightly-report')`)
	require.Equal(t, 1, db.Work(t, runner("whsec_AAAA")))
	require.Equal(t, "failed", db.Job(t, id).State)
	require.Contains(t, one[string](t, db.Pool, `select last_error ->> 'message' from pgtick.jobs where id = $1`, id), "the signature is wrong")
	require.Equal(t, 1, one[int](t, db.Pool, `select count(*) from public.reports`))
}

func TestEdgeFunction_EnqueuesForWhoAsks(t *testing.T) {
	t.Parallel()
	db := project(t)
	s := newStandIn(t, db)
	url := serve(t, "welcome", "SUPABASE_URL="+s.server.URL, "SUPABASE_SERVICE_ROLE_KEY="+token("service_role", ""))
	ask := func(as string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, http.NoBody)
		require.NoError(t, err)
		if as != "" {
			request.Header.Set("Authorization", "Bearer "+as)
		}
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(text)
	}
	for range 2 {
		status, text := ask(token("authenticated", ann))
		require.Equal(t, 200, status, text)
		require.JSONEq(t, `{"id": 1}`, text)
	}
	require.Equal(t, ann+` email.welcome {"user": "`+ann+`"}`, one[string](t, db.Pool, `select concat_ws(' ', owner_id, task, args) from pgtick.jobs`))
	for _, no := range []string{"", token("anon", ""), "nonsense"} {
		status, _ := ask(no)
		require.Equal(t, 401, status)
	}

	do(t, db.Pool, `alter table pgtick.live_jobs rename to moved`)
	status, text := ask(token("authenticated", bob))
	require.Equal(t, 500, status)
	require.Contains(t, text, "42P01")
}

func TestWrapper_OfThePage_IsForTheServiceRoleAlone(t *testing.T) {
	t.Parallel()
	db := project(t)
	do(t, db.Pool, shown(t, edgePage, "create function public.welcome"))
	do(t, db.Pool, `grant usage on schema public to anon, authenticated, service_role`)
	id := one[int64](t, as(t, db, "service_role", ""), `select public.welcome($1)`, ann)
	require.Positive(t, id)
	for _, role := range []string{"anon", "authenticated"} {
		_, err := as(t, db, role, ann).Exec(t.Context(), `select public.welcome($1)`, ann)
		require.ErrorContains(t, err, "permission denied for function welcome")
	}
}
