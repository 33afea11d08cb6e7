//go:build !linux

package doctor

import "testing"

func (s *servers) small(t *testing.T) *patient {
	t.Helper()
	t.Skip("a small disk of its own is mounted on Linux only")
	return nil
}

func fill(int64) func(*testing.T, *patient) { return nil }
