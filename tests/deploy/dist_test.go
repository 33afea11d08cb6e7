package deploy

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// For this machine's platform alone: the others are only compiled, and take minutes.
func TestDist_OfThisPlatform_IsOneStaticFile_AndItsSumFits(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	dist := exec.CommandContext(t.Context(), "make", "--no-print-directory", "dist", "DIST="+folder, "PLATFORMS="+runtime.GOOS+"/"+runtime.GOARCH, "VERSION=v1.2.3")
	dist.Dir = root(t)
	dist.Env = append(os.Environ(), "MAKEFLAGS=", "MAKEOVERRIDES=", "MFLAGS=")
	output(t, dist)
	name := "pgtick_" + runtime.GOOS + "_" + runtime.GOARCH
	path := filepath.Join(folder, name)
	out, _, code := call(t, path, nil, "--version")
	require.Zero(t, code)
	require.Equal(t, "pgtick version v1.2.3\n", out)

	text, err := os.ReadFile(path)
	require.NoError(t, err)
	sum := sha256.Sum256(text)
	sums, err := os.ReadFile(filepath.Join(folder, "SHA256SUMS"))
	require.NoError(t, err)
	require.Equal(t, []string{hex.EncodeToString(sum[:]), name}, strings.Fields(string(sums)))
	require.NotContains(t, string(text), root(t)+"/", "no path of the machine that built it")
	if runtime.GOOS == "linux" {
		requireStatic(t, path)
	}
}

// requireStatic: no interpreter, so no loader and no library of the machine it runs on.
func requireStatic(t *testing.T, path string) {
	t.Helper()
	file, err := elf.Open(path)
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	for _, part := range file.Progs {
		require.NotEqual(t, elf.PT_INTERP, part.Type)
	}
	libraries, err := file.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries)
}
