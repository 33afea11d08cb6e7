package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinks_BetweenPages_Resolve(t *testing.T) {
	t.Parallel()
	top := root(t)
	for _, p := range pages(t) {
		for _, found := range link.FindAllStringSubmatch(p.prose(), -1) {
			target, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			path := filepath.Join(top, filepath.Dir(p.name), target)
			if target == "" {
				path = filepath.Join(top, p.name)
			}
			_, err := os.Stat(path)
			require.NoError(t, err, "%s links to %s", p.name, found[1])
			if anchor != "" {
				require.Contains(t, anchors(read(t, path)), anchor, "%s links to %s", p.name, found[1])
			}
		}
	}
}

var (
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInURL = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are what a page's headings become.
func anchors(text string) []string {
	var all []string
	for _, found := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.ReplaceAll(notInURL.ReplaceAllString(strings.ToLower(found[1]), ""), " ", "-"))
	}
	return all
}

// A page that nothing leads to is not read.
func TestPages_OfDocs_AreNamedInTheReadme(t *testing.T) {
	t.Parallel()
	readme := read(t, filepath.Join(root(t), "README.md"))
	for _, p := range pages(t) {
		if strings.HasPrefix(p.name, "docs/") && !strings.HasPrefix(p.name, "docs/decisions/") {
			require.Contains(t, readme, "]("+p.name+")")
		}
	}
}

func TestDecisions_AreNumbered_AndHaveAllParts(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join(root(t), "docs", "decisions", "*.md"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	slices.Sort(paths)
	for i, path := range paths {
		name, text := filepath.Base(path), read(t, path)
		require.Regexp(t, `^[0-9]{4}-[a-z0-9-]+\.md$`, name)
		require.Regexp(t, `^0*`+strconv.Itoa(i+1)+`-`, name, "numbers have no gaps")
		require.True(t, strings.HasPrefix(text, "# "+name[:4]+": "), "%s: the title has the number", name)
		from := 0
		for _, part := range []string{"What we saw", "What we chose", "What we turned down", "What it costs"} {
			at := strings.Index(text, "\n## "+part+"\n\n")
			require.Greater(t, at, from, "%s: %q is missing, empty or out of order", name, part)
			from = at
		}
	}
}
