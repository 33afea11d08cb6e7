// Package supply tests what pgtick is made of, and what it gives away: each direct dependency has its reason in docs/supply-chain.md, each licence is one
// that allows what we do and is handed out with the program, versions are fixed, and no secret is in anything that a run writes or shows.
package supply

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// write makes THIRD_PARTY_LICENSES anew: go test ./tests/supply -run Licences -write
var write = flag.Bool("write", false, "write THIRD_PARTY_LICENSES anew")

func TestMain(m *testing.M) {
	flag.Parse()
	pgtest.Main(m)
	if folder != "" {
		_ = os.RemoveAll(folder)
	}
}

var folder string

// program is pgtick as "make build" makes it.
var program = sync.OnceValues(func() (path string, err error) {
	if folder, err = os.MkdirTemp("", "pgtick-supply-"); err != nil {
		return "", err
	}
	return programs.Build(folder, programs.Pgtick)
})

// top is the folder of go.mod.
var top = sync.OnceValue(func() string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(out))
})

func contents(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{top()}, parts...)...))
	require.NoError(t, err)
	return string(text)
}

// manifests are the files of this name, but for those of fetched packages and of folders that git ignores.
func manifests(t *testing.T, name string) (paths []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(top(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", ".pgtick", "node_modules", "bin", "dist", "testdata"}, entry.Name()) {
			return filepath.SkipDir
		}
		if entry.Name() == name {
			short, err := filepath.Rel(top(), path)
			paths = append(paths, filepath.ToSlash(short))
			return err
		}
		return nil
	}))
	return paths
}

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	return output(t, top(), env, name, args...)
}

func runIn(t *testing.T, folder, name string, args ...string) string {
	t.Helper()
	return output(t, folder, nil, name, args...)
}

func output(t *testing.T, folder string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = folder, append(os.Environ(), env...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s", cmd, said.String())
	return string(out)
}
