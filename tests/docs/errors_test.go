package docs_test

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	raisedCode    = regexp.MustCompile(`'(TK[0-9]{3})'`)
	mentionedCode = regexp.MustCompile(`\bTK[0-9]{3}\b`)
	listedCode    = regexp.MustCompile(`(?m)^\| (TK[0-9]{3}) \| [^|]+ \| [^|]+ \|$`)
)

// codes are the matches of a pattern in all files of a glob, each once.
func codes(t *testing.T, glob string, pattern *regexp.Regexp) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root(t), glob))
	require.NoError(t, err)
	require.NotEmpty(t, paths, glob)
	found := map[string]bool{}
	for _, path := range paths {
		for _, match := range pattern.FindAllStringSubmatch(read(t, path), -1) {
			found[match[len(match)-1]] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func TestErrors_ThatTheDatabaseRaises_AreThoseOfThePage(t *testing.T) {
	t.Parallel()
	raised := codes(t, "sql/*.sql", raisedCode)
	require.Greater(t, len(raised), 20)
	require.Equal(t, raised, codes(t, "docs/errors.md", listedCode))
}

// Comments in SQL, Go's table of errors and the pages speak of no code that does not exist.
func TestErrors_ThatAreSpokenOf_Exist(t *testing.T) {
	t.Parallel()
	raised := codes(t, "sql/*.sql", raisedCode)
	for _, glob := range []string{"sql/*.sql", "runner/jobs/errors.go", "docs/*.md", "README.md"} {
		for _, code := range codes(t, glob, mentionedCode) {
			require.Contains(t, raised, code, glob)
		}
	}
}
