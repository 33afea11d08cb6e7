package conformance

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/pgtick/pgtick/tests/faults/proxy"
)

// loseAnswer is a way to the database on which the first answer with this text in it gets lost, and its connection with it. It returns
// the URL, and whether that has happened.
func loseAnswer(t *testing.T, to, text string) (through string, lost *atomic.Bool) {
	t.Helper()
	lost = &atomic.Bool{}
	way := proxy.StartWith(t, to, func(_ *proxy.Link, from proxy.Side, piece []byte) (pass []byte, cut bool) {
		if from == proxy.FromServer && bytes.Contains(piece, []byte(text)) && lost.CompareAndSwap(false, true) {
			return nil, true
		}
		return piece, false
	})
	return way.URL(to), lost
}
