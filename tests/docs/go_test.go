package docs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// known are the packages that a fragment may use without importing them.
var known = map[string]string{
	"context": "context", "errors": "errors", "fmt": "fmt", "json": "encoding/json", "testing": "testing", "time": "time",
	"pgx": "github.com/jackc/pgx/v5", "require": "github.com/stretchr/testify/require",
	"tasktrace": "github.com/pgtick/pgtick/tasks/tasktrace", "taskmetrics": "github.com/pgtick/pgtick/tasks/taskmetrics",
	"prometheus": "github.com/prometheus/client_golang/prometheus", "pgxpool": "github.com/jackc/pgx/v5/pgxpool",
	"tasks": "github.com/pgtick/pgtick/tasks", "cli": "github.com/pgtick/pgtick/runner/cli", "pgtest": "github.com/pgtick/pgtick/tests/pgtest",
}

// Whole programs are built each by itself. All other Go of a page is one package: declarations that may refer to each other.
func TestGo_OfEachPage_Compiles(t *testing.T) {
	t.Parallel()
	for _, p := range pages(t) {
		fragments := ""
		for _, b := range p.blocks(t, "go") {
			if strings.HasPrefix(b.code, "package ") {
				compile(t, fmt.Sprintf("%s:%d", p.name, b.line), b.code)
				continue
			}
			fragments += fmt.Sprintf("\n//line %s:%d\n%s", p.name, b.line, b.code)
		}
		if fragments != "" {
			compile(t, p.name, "package snippets\n"+imports(fragments)+fragments)
		}
	}
}

func imports(code string) string {
	text := ""
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(code) {
			text += fmt.Sprintf("import %q\n", known[name])
		}
	}
	return text
}

// compile builds a file as if it lay in this module, in a folder of its own that exists for the compiler alone.
func compile(t *testing.T, where, code string) {
	t.Helper()
	folder := t.TempDir()
	file, overlay := filepath.Join(folder, "snippet.go"), filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(file, []byte(code), 0o600))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root(t), "tests", "docs", "snippet", "snippet.go"): file}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, replace, 0o600))
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", os.DevNull, "./tests/docs/snippet")
	build.Dir, build.Env = root(t), programs.Env()
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s: %s", where, out)
}

// The same program in three places: it would be a pity if they drifted apart.
func TestExample_IsTheProgramThatThePagesShow(t *testing.T) {
	t.Parallel()
	example := read(t, filepath.Join(root(t), "examples", "own-task", "main.go"))
	require.LessOrEqual(t, strings.Count(example, "\n"), 30)
	_, example, found := strings.Cut(example, "package main\n")
	require.True(t, found)
	for _, name := range []string{"README.md", "docs/tasks.md"} {
		require.Contains(t, read(t, filepath.Join(root(t), name)), "```go\npackage main\n"+example+"```", name)
	}
}

func TestExample_RunsItsTask_AndStopsWhenAsked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	program := build(t, "./examples/own-task")
	runner := exec.Command(program, "work", "--http", "off")
	runner.Env = append(os.Environ(), "DATABASE_URL="+pgtest.RunnerURL(t, db))
	var said strings.Builder
	runner.Stderr = &said
	require.NoError(t, runner.Start())
	ended := make(chan error, 1)
	go func() { ended <- runner.Wait() }()
	t.Cleanup(func() { _ = runner.Process.Kill() })

	var id int64
	require.NoError(t, db.Pool.QueryRow(t.Context(), `select pgtick.enqueue('email.welcome', '{"user": "ann"}')`).Scan(&id))
	var state, sentTo string
	require.Eventually(t, func() bool {
		err := db.Pool.QueryRow(context.Background(), `select state, coalesce(result ->> 'sent_to', '') from pgtick.jobs where id = $1`, id).Scan(&state, &sentTo)
		return err == nil && state == "done"
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, "ann", sentTo)

	require.NoError(t, runner.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		require.NoError(t, err, said.String())
	case <-time.After(time.Minute):
		require.Fail(t, "the runner does not stop", said.String())
	}
}

// build makes a program of this module, for this test alone.
func build(t *testing.T, path string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, path)
	build.Dir, build.Env = root(t), programs.Env()
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return program
}
