package doctor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// small is a server on a disk of its own, in memory, which only root can make.
func (s *servers) small(t *testing.T) *patient {
	t.Helper()
	if s.smallOne != nil {
		return s.smallOne
	}
	folder := openFolder(s.t)
	if err := unix.Mount("pgtick", folder, "tmpfs", 0, "size=512m,mode=0755"); err != nil {
		t.Skip("only root may mount a small disk: ", err)
	}
	s.t.Cleanup(func() { require.NoError(s.t, unix.Unmount(folder, unix.MNT_DETACH)) })
	s.smallOne = whole(s.t, pgtest.NewOn(s.t, pgtest.ServerWith(s.t, localpg.Options{DataDir: filepath.Join(folder, "server")})))
	s.smallOne.folder = folder
	return s.smallOne
}

// fill makes a small disk as full, in per cent; 0 takes away what was put there.
func fill(percent int64) func(*testing.T, *patient) {
	return func(t *testing.T, p *patient) {
		t.Helper()
		ballast := filepath.Join(p.folder, "ballast")
		require.NoError(t, os.RemoveAll(ballast))
		if percent == 0 {
			return
		}
		var disk unix.Statfs_t
		require.NoError(t, unix.Statfs(p.folder, &disk))
		missing := int64(disk.Blocks)*percent/100 - int64(disk.Blocks-disk.Bavail)
		require.NoError(t, os.WriteFile(ballast, make([]byte, missing*disk.Bsize), 0o600))
	}
}
