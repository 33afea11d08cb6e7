package install_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/pgtick/pgtick/"

// Who may not know whom, whatever is between them.
var forbidden = map[string][]string{
	"tasks":             {"runner/", "migrations", "sql", "tasks/", "tests/"},
	"tasks/credits":     {"runner/", "migrations", "sql", "tasks/httptask", "tasks/sqltask", "tests/"},
	"tasks/httptask":    {"runner/", "migrations", "sql", "tasks/credits", "tasks/sqltask", "tests/"},
	"tasks/sqltask":     {"runner/", "migrations", "sql", "tasks/credits", "tasks/httptask", "tests/"},
	"tasks/taskmetrics": {"runner/", "migrations", "sql", "tasks/", "tests/"},
	"tasks/tasktrace":   {"runner/", "migrations", "sql", "tasks/", "tests/"},
	"runner/jobs":       {"runner/cli", "runner/engine", "runner/web", "migrations", "sql", "tasks/", "tests/"},
	"runner/limit":      {"runner/", "migrations", "sql", "tasks", "tests/"},
	"runner/engine":     {"runner/cli", "runner/web", "runner/metrics", "runner/tracing", "migrations", "sql", "tasks/", "tests/"},
	"runner/web":        {"runner/cli", "migrations", "sql", "tasks/", "tests/"},
	"runner/metrics":    {"runner/cli", "runner/web", "runner/config", "migrations", "sql", "tasks/", "tests/"},
	"runner/tracing":    {"runner/", "migrations", "sql", "tasks/credits", "tasks/httptask", "tasks/sqltask", "tests/"},
	"runner/config":     {"runner/cli", "runner/engine", "migrations", "sql", "tests/"},
	"runner/doctor":     {"runner/cli", "runner/engine", "runner/web", "runner/config", "tests/"},
	"runner/localpg":    {"runner/cli", "runner/engine", "migrations", "sql", "tasks", "tests/"},
	"runner/cli":        {"tests/"},
	"migrations":        {"runner/", "tasks", "tests/"},
	"runner/cmd/pgtick": {"tests/"},
}

func TestImports_FollowTheArrows(t *testing.T) {
	t.Parallel()
	top := root(t)
	for from, banned := range forbidden {
		if found, _ := filepath.Glob(filepath.Join(top, from, "*.go")); len(found) == 0 {
			continue
		}
		for _, known := range dependencies(t, top, from) {
			for _, no := range banned {
				bad := known == no || strings.HasSuffix(no, "/") && strings.HasPrefix(known, no)
				require.False(t, bad, "%s must not import %s", from, known)
			}
		}
	}
}

// dependencies lists what a package of ours knows of ours, directly or not, without the module's name.
func dependencies(t *testing.T, top, from string) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "./"+from)
	list.Dir = top
	var said strings.Builder
	list.Stderr = &said
	out, err := list.Output()
	require.NoError(t, err, said.String())
	var ours []string
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), module); ok && name != from {
			ours = append(ours, name)
		}
	}
	return ours
}

var (
	migrationName = regexp.MustCompile(`^[0-9]{5}_[a-z0-9_]+\.sql$`)
	sqlName       = regexp.MustCompile(`^[0-9]{2}_[a-z0-9_]+\.sql$`)
	sqlInGo       = regexp.MustCompile("(?i)[\"`]\\s*(select|insert into|update|delete from|with|call|listen|notify)\\s+[a-z_$*(]")
)

func TestMigrations_AreNumberedWithoutGaps_AndHaveNoWayDown(t *testing.T) {
	t.Parallel()
	names := filesIn(t, "migrations", "*.sql")
	for i, name := range names {
		require.Regexp(t, migrationName, name)
		require.Equal(t, i+1, atoi(t, name[:5]), name)
		text := contents(t, "migrations", name)
		require.NotContains(t, text, "+goose Down", name)
		require.Contains(t, text, "-- +goose Up", name)
		require.NotRegexp(t, `(?mi)^create (or replace )?(function|procedure|view|trigger)`, text, "%s: code belongs into sql/", name)
	}
	for _, name := range filesIn(t, "sql", "*.sql") {
		require.Regexp(t, sqlName, name)
	}
}

// A function keeps the plan of the session's first call: in one that had standard_conforming_strings off, a plain literal would have lost its
// backslashes for all later calls.
func TestSQL_LiteralsWithBackslashes_AreEscapeStrings(t *testing.T) {
	t.Parallel()
	for _, name := range filesIn(t, "sql", "*.sql") {
		for number, line := range strings.Split(contents(t, "sql", name), "\n") {
			for _, literal := range literalInSQL.FindAllString(line, -1) {
				require.False(t, strings.HasPrefix(literal, "'") && strings.Contains(literal, `\`), "sql/%s:%d: %s: write E'…' with each backslash twice", name, number+1, literal)
			}
		}
	}
}

// literalInSQL is a comment to the line's end, an escape string or a plain literal, whichever begins first.
var literalInSQL = regexp.MustCompile(`--.*|\bE'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'`)

// Every state change is one function of sql/; Go calls them, in a few places that are easy to find.
func TestGo_HoldsSQLInItsPlacesAlone(t *testing.T) {
	t.Parallel()
	allowed := []string{"runner/jobs/queries.go", "runner/jobs/reads.go", "tasks/queries.go", "tasks/credits/queries.go", "tasks/httptask/queries.go", "tasks/sqltask/queries.go", "runner/web/queries.go", "runner/web/queries_jobs.go", "runner/web/queries_schedules.go", "runner/web/queries_queues.go", "runner/web/queries_credits.go", "runner/doctor/queries.go"}
	walk(t, func(path, text string) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || slices.Contains(allowed, path) ||
			strings.HasPrefix(path, "migrations/") || strings.HasPrefix(path, "tests/") || strings.HasPrefix(path, "bench/") || strings.HasPrefix(path, "examples/") {
			return
		}
		require.NotRegexp(t, sqlInGo, text, path)
	})
}

// Whoever runs pgtick's own code in the process of the test has the race detector look at it.
func TestMake_HasTheRaceDetectorWhereItCanFindSomething(t *testing.T) {
	t.Parallel()
	_, expression, found := strings.Cut(contents(t, ".", "Makefile"), "\nRACED := ")
	require.True(t, found)
	expression, _, _ = strings.Cut(expression, "\n")
	raced := regexp.MustCompile(strings.ReplaceAll(expression, "$$", "$"))
	list := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}}{{range .TestImports}} {{.}}{{end}}{{range .XTestImports}} {{.}}{{end}}`, "./...")
	list.Dir = root(t)
	out, err := list.Output()
	require.NoError(t, err)
	own := regexp.MustCompile(` github\.com/pgtick/pgtick/(runner/(engine|cli|limit|web|metrics)|tasks)\b`)
	for line := range strings.Lines(string(out)) {
		name, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		if own.MatchString(" " + imports) {
			require.Regexp(t, raced, name, "name it in the Makefile's RACED")
		}
	}
}

// A path of somebody's machine, or the host of a package registry, works there and nowhere else.
func TestRepository_NamesNobodysMachine(t *testing.T) {
	t.Parallel()
	banned := map[string]*regexp.Regexp{} // with a part of what it finds, for most files have not even that
	for part, expression := range map[string]string{
		"/wo" + "rk/": `(^|[\s"'=(:,])/wo` + `rk/`, "/ro" + "ot/": `(^|[\s"'=(:,])/ro` + `ot/`, "/tm" + "p/": `(^|[\s"'=(:,])/tm` + `p/`,
		"proxy.gol": `proxy\.gol` + `ang\.org`, "deb.deb": `deb\.deb` + `ian\.org`, "registry.npm": `registry\.npm` + `js`, "ssue ": `\b[Ii]ss` + `ue [A-H]\b`,
	} {
		banned[part] = regexp.MustCompile(expression)
	}
	walk(t, func(path, text string) {
		for part, expression := range banned {
			if strings.Contains(text, part) {
				require.Empty(t, expression.FindString(text), path)
			}
		}
	})
}

// walk calls f for each text file of the repository.
func walk(t *testing.T, f func(path, text string)) {
	t.Helper()
	top := root(t)
	require.NoError(t, filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		short, err := filepath.Rel(top, path)
		if entry.IsDir() && (entry.Name() == "node_modules" || slices.Contains([]string{".git", ".pgtick", "bin", "dist", "bench/out"}, short)) {
			return filepath.SkipDir
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && !strings.ContainsRune(string(text), 0) {
			f(filepath.ToSlash(short), string(text))
		}
		return err
	}))
}

func filesIn(t *testing.T, folder, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root(t), folder, pattern))
	require.NoError(t, err)
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	slices.Sort(paths)
	return paths
}

func contents(t *testing.T, folder, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), folder, name))
	require.NoError(t, err)
	return string(text)
}

func atoi(t *testing.T, digits string) int {
	t.Helper()
	number, err := strconv.Atoi(digits)
	require.NoError(t, err)
	return number
}
