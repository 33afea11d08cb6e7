package supply

import (
	"encoding/json"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var tableRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([^`]+)` \\| ([^|]+) \\|$")

// Who adds a dependency says there what for.
func TestDependencies_EachHasItsReasonOnThePage(t *testing.T) {
	t.Parallel()
	said := map[string][]string{}
	for _, row := range tableRow.FindAllStringSubmatch(contents(t, "docs", "supply-chain.md"), -1) {
		said[row[1]] = append(said[row[1]], row[2])
		require.Greater(t, len(strings.Fields(row[3])), 3, "%s in %s: no reason", row[2], row[1])
	}
	there := map[string][]string{}
	for _, manifest := range manifests(t, "go.mod") {
		there[manifest] = directModules(t, manifest)
	}
	for _, manifest := range manifests(t, "package.json") {
		for name := range packages(t, manifest) {
			there[manifest] = append(there[manifest], name)
		}
	}
	for _, lists := range []map[string][]string{said, there} {
		for manifest := range lists {
			slices.Sort(lists[manifest])
		}
	}
	require.Equal(t, there, said, "docs/supply-chain.md names the direct dependencies of each go.mod and package.json, once each, with the reason")
}

// directModules are those whose packages our own import, whatever the file says of them.
func directModules(t *testing.T, manifest string) (names []string) {
	t.Helper()
	folder := filepath.Join(top(), filepath.Dir(manifest))
	var mod struct{ Require []struct{ Path string } }
	require.NoError(t, json.Unmarshal([]byte(runIn(t, folder, "go", "mod", "edit", "-json")), &mod))
	all := map[string]bool{}
	for _, imported := range strings.Fields(runIn(t, folder, "go", "list", "-e", "-f", `{{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}`, "./...")) {
		found := ""
		for _, r := range mod.Require {
			if (imported == r.Path || strings.HasPrefix(imported, r.Path+"/")) && len(r.Path) > len(found) {
				found = r.Path
			}
		}
		if found != "" && !strings.HasPrefix(found, "github.com/pgtick/") {
			all[found] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// packages are those of npm that a manifest asks for, with their versions.
func packages(t *testing.T, manifest string) map[string]string {
	t.Helper()
	var read struct {
		Dependencies, DevDependencies, OptionalDependencies, PeerDependencies map[string]string
	}
	require.NoError(t, json.Unmarshal([]byte(contents(t, manifest)), &read))
	all := map[string]string{}
	for _, some := range []map[string]string{read.Dependencies, read.DevDependencies, read.OptionalDependencies, read.PeerDependencies} {
		for name, version := range some {
			all[name] = version
		}
	}
	return all
}

// foreignTool is a program that is fetched from elsewhere and run.
var foreignTool = regexp.MustCompile(`\b[a-z0-9-]+\.[a-z]+/[\w./-]+/cmd/[\w-]+(@\S+)?`)

var exact = regexp.MustCompile(`^\d+\.\d+\.\d+$`)

// The same source gives the same packages: each has one version, and a sum of what is in it.
func TestVersions_AreFixed(t *testing.T) {
	t.Parallel()
	for _, manifest := range manifests(t, "package.json") {
		var lock struct {
			LockfileVersion int
			Packages        map[string]struct{ Version, Resolved, Integrity string }
		}
		require.NoError(t, json.Unmarshal([]byte(contents(t, path.Dir(manifest), "package-lock.json")), &lock), manifest)
		require.GreaterOrEqual(t, lock.LockfileVersion, 2, manifest)
		for name, version := range packages(t, manifest) {
			require.Regexp(t, exact, version, "%s in %s", name, manifest)
			require.Equal(t, version, lock.Packages["node_modules/"+name].Version, "%s in %s", name, manifest)
		}
		for name, one := range lock.Packages {
			require.True(t, name == "" || one.Integrity != "", "%s in the lock file of %s has no sum", name, manifest)
		}
	}
	for _, manifest := range manifests(t, "go.mod") {
		sums := contents(t, path.Dir(manifest), "go.sum")
		for _, name := range directModules(t, manifest) {
			require.Contains(t, sums, name+" v", manifest)
		}
	}
	require.Len(t, foreignTool.FindAllString(contents(t, "Makefile"), -1), 2, "golangci-lint and govulncheck")
	for line := range strings.Lines(contents(t, "Makefile") + contents(t, ".ci", "prepare")) {
		for _, tool := range foreignTool.FindAllString(line, -1) {
			require.Regexp(t, `@v\d+\.\d+\.\d+$`, tool, "a tool without a version")
		}
	}
	require.Contains(t, contents(t, "Makefile"), "go mod verify")
	require.Contains(t, contents(t, ".ci", "prepare"), "npm ci --ignore-scripts")
	workflows, _ := filepath.Glob(filepath.Join(top(), ".github", "workflows", "*"))
	require.Empty(t, workflows, "an action would run with the rights of the repository: fix each to a commit, and say so here")
}

// A reproducible build is one that others can check: the same source, the same bytes, whatever the folder and whatever was built before. It builds all anew
// twice, so only where that is asked for.
func TestDist_InTwoFolders_GivesTheSameBytes(t *testing.T) {
	if os.Getenv("PGTICK_PROOF") != "full" {
		t.Skip("builds everything twice: PGTICK_PROOF=full go test -run Dist ./tests/supply/")
	}
	sums := map[string]string{}
	for _, name := range []string{"one", "another-folder"} {
		folder := filepath.Join(t.TempDir(), name)
		for _, part := range []string{"runner", "tasks", "migrations", "sql", ".ci"} {
			require.NoError(t, os.CopyFS(filepath.Join(folder, part), os.DirFS(filepath.Join(top(), part))))
		}
		for _, file := range []string{"go.mod", "go.sum", "Makefile", "LICENSE", "THIRD_PARTY_LICENSES"} {
			require.NoError(t, os.WriteFile(filepath.Join(folder, file), []byte(contents(t, file)), 0o600))
		}
		require.NoError(t, os.Chmod(filepath.Join(folder, ".ci", "prepare"), 0o700))
		output(t, folder, []string{"GOCACHE=" + t.TempDir()}, "make", "--no-print-directory", "dist", "PLATFORMS=linux/amd64")
		text, err := os.ReadFile(filepath.Join(folder, "dist", "SHA256SUMS"))
		require.NoError(t, err)
		sums[string(text)] = folder
		for _, file := range []string{"pgtick_linux_amd64", "LICENSE", "THIRD_PARTY_LICENSES"} {
			require.FileExists(t, filepath.Join(folder, "dist", file))
		}
	}
	require.Len(t, sums, 1, "%v", sums)
}
