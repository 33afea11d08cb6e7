// Package docs_test runs what README.md and docs/ show: SQL against a fresh database, Go through the compiler, and commands against
// the program's own help. A page that says what is not so fails here.
package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// page is a Markdown file.
type page struct {
	name string // from the root of the repository
	text string
}

// block is fenced code.
type block struct {
	language string
	marks    string // what follows the language, after a comma or a space
	line     int    // of its first line of code
	code     string
}

// root is the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// pages reads the README, the changelog and everything below docs.
func pages(t *testing.T) []page {
	t.Helper()
	top := root(t)
	var all []page
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		require.NoError(t, err)
		for _, path := range found {
			name, err := filepath.Rel(top, path)
			require.NoError(t, err)
			all = append(all, page{name: filepath.ToSlash(name), text: read(t, path)})
		}
	}
	require.Greater(t, len(all), 10)
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

var fence = regexp.MustCompile("^```([a-z]*)[ ,]?(.*)$")

// blocks finds a page's fenced code. A fence that is never closed fails the test.
func (p page) blocks(t *testing.T, languages ...string) []block {
	t.Helper()
	var all []block
	var open *block
	for i, line := range strings.Split(p.text, "\n") {
		marks := fence.FindStringSubmatch(line)
		switch {
		case open == nil && marks != nil:
			open = &block{language: marks[1], marks: strings.TrimSpace(marks[2]), line: i + 2}
		case open != nil && line == "```":
			for _, wanted := range languages {
				if open.language == wanted {
					all = append(all, *open)
				}
			}
			open = nil
		case open != nil:
			open.code += line + "\n"
		}
	}
	require.Nil(t, open, "%s: a fence is never closed", p.name)
	return all
}

var fenced = regexp.MustCompile("(?ms)^```.*?^```$")

// prose is the page without its fenced code.
func (p page) prose() string { return fenced.ReplaceAllString(p.text, "") }
