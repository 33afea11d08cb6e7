package realtime

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// patience is how long a condition may take to come true on a slow machine. None is expected to.
const patience = 2 * time.Minute

// installed is where "make prepare" has npm install things, outside of what git tracks.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", ".pgtick", name, "node_modules"))
	require.NoError(t, err)
	require.DirExists(t, path, "npm modules are missing: make prepare")
	return path
}

// node runs TypeScript as it is: the one on the PATH where it can, else the one from npm.
func node(t *testing.T) string {
	t.Helper()
	machine := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	own, err := filepath.Abs(filepath.Join("..", "..", ".pgtick", "node", "node_modules", "node-linux-"+machine, "bin", "node"))
	require.NoError(t, err)
	for _, path := range []string{"node", own} {
		if out, err := exec.CommandContext(t.Context(), path, "-p", "process.features.typescript").Output(); err == nil && strings.TrimSpace(string(out)) == "strip" {
			return path
		}
	}
	require.FailNow(t, "Node 22.18 or later is missing: make prepare")
	return ""
}

// folder is a copy of files, with npm's modules beside them.
func folder(t *testing.T, modules string, patterns ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, paths, pattern)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), text, 0o600))
		}
	}
	require.NoError(t, os.Symlink(modules, filepath.Join(dir, "node_modules")))
	return dir
}

// page is the example, and what runs its jobs.ts.
func page(t *testing.T) string {
	t.Helper()
	example := filepath.Join("..", "..", "examples", "supabase-js")
	return folder(t, installed(t, "supabase-js"), filepath.Join(example, "*.ts"), filepath.Join(example, "*.json"), filepath.Join(example, "index.html"),
		filepath.Join("testdata", "follow.ts"))
}

func runNode(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), node(t), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

// generatedTypes are those that Supabase's CLI writes of a database's schemas.
func generatedTypes(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	if runtime.GOOS+"/"+runtime.GOARCH != "linux/amd64" {
		t.Skip("the Supabase CLI is fetched for linux/amd64 alone")
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(installed(t, "supabase"), "@supabase", "cli-linux-x64", "bin", "supabase"),
		"--agent", "no", "gen", "types", "--lang", "typescript", "--schema", "public,pgtick", "--remote="+db.URL)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+cmd.Dir, "DO_NOT_TRACK=1", "SUPABASE_TELEMETRY_DISABLED=1", "NO_COLOR=1", "CI=1", "PGSSLMODE=disable")
	var talk strings.Builder
	cmd.Stderr = &talk
	out, err := cmd.Output()
	require.NoError(t, err, talk.String())
	return string(out)
}

var fieldType = regexp.MustCompile(`"?(\w+)"?: ([^,\n]+)`)

// rowOf is what a relation's row holds in types, a line a column. The CLI formats nothing.
func rowOf(t *testing.T, types, relation string) (fields []string) {
	t.Helper()
	found := regexp.MustCompile(`(?s)"?\b` + relation + `"?: \{\s+Row: \{(.*?)\n\s+\}`).FindStringSubmatch(types)
	require.NotNil(t, found, relation+" in "+types)
	for _, field := range fieldType.FindAllStringSubmatch(found[1], -1) {
		fields = append(fields, field[1]+": "+strings.TrimSpace(field[2]))
	}
	return fields
}

func TestPage_CompilesWithTheTypesThatTheCLIGenerates_OfWhichItsOwnAreAPart(t *testing.T) {
	t.Parallel()
	dir := page(t)
	generated := generatedTypes(t, project(t))
	own, err := os.ReadFile(filepath.Join(dir, "database.types.ts"))
	require.NoError(t, err)
	for _, relation := range []string{"my_jobs", "requests"} {
		require.Subset(t, rowOf(t, generated, relation), rowOf(t, string(own), relation))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "database.types.ts"), []byte(generated), 0o600))
	runNode(t, dir, filepath.Join("node_modules", "typescript", "bin", "tsc"), "--noEmit")
}

func TestPage_Compiles_AndItsOwnTestsPass(t *testing.T) {
	t.Parallel()
	dir := page(t)
	runNode(t, dir, filepath.Join("node_modules", "typescript", "bin", "tsc"), "--noEmit")
	require.Regexp(t, `(?m)^\S+ pass [1-9]`, runNode(t, dir, "--test", "jobs.test.ts"))

	bundle := exec.CommandContext(t.Context(), filepath.Join("node_modules", ".bin", "esbuild"), "main.ts", "--bundle", "--format=esm", "--outfile=main.js")
	bundle.Dir = dir
	out, err := bundle.CombinedOutput()
	require.NoError(t, err, string(out))
	html, err := os.ReadFile(filepath.Join(dir, "index.html"))
	require.NoError(t, err)
	code, err := os.ReadFile(filepath.Join(dir, "main.ts"))
	require.NoError(t, err)
	for _, found := range regexp.MustCompile(`part(?:<\w+>)?\('([a-z-]+)'\)`).FindAllStringSubmatch(string(code), -1) {
		require.Contains(t, string(html), ` id="`+found[1]+`"`)
	}
}

// shows is a running follow.ts.
type shows struct {
	t     *testing.T
	in    io.WriteCloser
	mu    sync.Mutex
	lines []string
}

type news struct {
	Live    *bool
	Problem *string
	Jobs    []string
	Code    string
	Hint    string
}

func open(t *testing.T, s *standIn, user string) *shows {
	t.Helper()
	cmd := exec.Command(node(t), "follow.ts")
	cmd.Dir = page(t)
	cmd.Env = append(os.Environ(), "SITE="+s.server.URL, "KEY="+token("anon", ""), "TOKEN="+token("authenticated", user), "USER_ID="+user)
	p := &shows{t: t}
	var err error
	p.in, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(strings.Join(p.all(), "\n"))
		}
	})
	return p
}

func (p *shows) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// becomes waits until the last thing shown is so.
func (p *shows) becomes(what string, is func(n news) bool) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		all := p.all()
		var n news
		return len(all) > 0 && json.Unmarshal([]byte(all[len(all)-1]), &n) == nil && is(n)
	}, patience, 10*time.Millisecond, what)
}

func (p *shows) becomesList(live bool, jobs ...string) {
	p.t.Helper()
	p.becomes(strings.Join(jobs, ", "), func(n news) bool {
		return n.Live != nil && *n.Live == live && n.Problem == nil && strings.Join(n.Jobs, "|") == strings.Join(jobs, "|")
	})
}

func (p *shows) ask(task string) {
	p.t.Helper()
	_, err := io.WriteString(p.in, task+"\n")
	require.NoError(p.t, err)
}

func TestPage_WithRealtime_ShowsEachChange_WithoutAskingAgain(t *testing.T) {
	t.Parallel()
	db := project(t)
	do(t, db.Pool, shown(t, "docs/realtime.md", "create policy"))
	do(t, db.Pool, `select pgtick.allow_task('echo', 2)`)
	s := newStandIn(t, db)
	p := open(t, s, ann)
	other := open(t, s, bob)
	p.becomesList(true)
	other.becomesList(true)
	p.ask("echo")
	p.becomesList(true, "echo (1) waits")

	s.deaf.Store(true) // what is shown from here on comes by messages alone
	c := claim(t, db)
	p.becomesList(true, "echo (1) runs")
	do(t, db.Pool, `select pgtick.progress($1, $2, 0.5, 'page 5')`, c.ID, c.Fence)
	p.becomesList(true, "echo (1) runs: page 5")
	finish(t, db.Pool, c, "done")
	p.becomesList(true, "echo (1) is done")
	s.deaf.Store(false)

	p.ask("nothing")
	p.becomes("a refusal with a hint", func(n news) bool { return n.Code == "TK025" && n.Hint != "" })
	do(t, db.Pool, `select pgtick.enqueue_many('echo', array_agg('{}'::jsonb), p_owner_id => $1) from generate_series(1, 100)`, ann)
	p.becomes("the newest 50, read since there were many", func(n news) bool { return len(n.Jobs) == 50 })
	other.becomesList(true)
}

func TestPage_WithoutPolicyOrRealtime_ReadsAgain(t *testing.T) {
	t.Parallel()
	db := project(t)
	do(t, db.Pool, `select pgtick.allow_task('echo', 2)`)
	p := open(t, newStandIn(t, db), ann)
	p.becomesList(false)
	p.ask("echo")
	p.becomesList(false, "echo (1) waits")
	finish(t, db.Pool, claim(t, db), "done")
	p.becomesList(false, "echo (1) is done")
}
