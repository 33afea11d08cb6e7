package docs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// How many promises and rules there are.
const (
	promisesToKeep = 8
	rulesToKeep    = 14
)

var (
	testDefinition = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)\(`)
	testName       = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)`")
)

// testsOf are all tests and fuzz targets of the repository.
func testsOf(t *testing.T) map[string]bool {
	t.Helper()
	there := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root(t), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, found := range testDefinition.FindAllStringSubmatch(string(text), -1) {
			there[found[1]] = true
		}
		return err
	}))
	require.Greater(t, len(there), 500)
	return there
}

// missing says what the page that tells which tests hold a promise lacks: a promise, a rule, a test for one of them, or a test that exists.
func missing(page string, there map[string]bool) (wrong []string) {
	for _, found := range testName.FindAllStringSubmatch(page, -1) {
		if !there[found[1]] {
			wrong = append(wrong, "no such test: "+found[1])
		}
	}
	for n := 1; n <= promisesToKeep; n++ {
		_, part, told := strings.Cut(page, fmt.Sprintf("\n### %d. ", n))
		part, _, _ = strings.Cut(part, "\n#")
		for _, what := range []string{"*Kept by*", "*Tested by*", "*Not promised*"} {
			if !told || !strings.Contains(part, what) {
				wrong = append(wrong, fmt.Sprintf("promise %d: %s", n, what))
			}
		}
		if !testName.MatchString(part) {
			wrong = append(wrong, fmt.Sprintf("promise %d: a test", n))
		}
	}
	for n := 1; n <= rulesToKeep; n++ {
		_, row, told := strings.Cut(page, fmt.Sprintf("\n| %d. ", n))
		row, _, _ = strings.Cut(row, "\n")
		if !told || !testName.MatchString(row) {
			wrong = append(wrong, fmt.Sprintf("rule %d: a test", n))
		}
	}
	return wrong
}

func TestReliability_EachPromiseAndRule_NamesTestsThatExist(t *testing.T) {
	t.Parallel()
	page, there := read(t, filepath.Join(root(t), "docs", "reliability.md")), testsOf(t)
	require.Empty(t, missing(page, there))
	require.NotContains(t, page, fmt.Sprintf("\n### %d. ", promisesToKeep+1))
	require.NotContains(t, page, fmt.Sprintf("\n| %d. ", rulesToKeep+1))

	const gone = "TestRescue_Dead_IsFinal"
	delete(there, gone)
	require.Equal(t, []string{"no such test: " + gone}, missing(page, there), "a test that is renamed is noticed")
	require.Contains(t, missing(strings.Replace(page, "\n### 7. ", "\n### Seven. ", 1), there), "promise 7: a test")
	require.Contains(t, missing(strings.Replace(page, "\n| 8. ", "\n| ", 1), there), "rule 8: a test")
}
