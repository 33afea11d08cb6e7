// Package simulation runs clients against the real SQL in a real database, one statement at a time, in an order that the test chooses: all orders of small
// programs, and random ones of longer ones, with clocks that jump, connections that close in the middle of a transaction, and answers that are lost. After each
// run a judge (testdata/sim.sql) looks at every job, slot, place and account. A run is repeated by its seed, and a failing one is shortened before it is shown.
package simulation

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// full is "make simulate"; otherwise a sample is run, as a part of "make test".
func full() bool { return os.Getenv("PGTICK_SIMULATE") == "full" }

func amount(sample, all int) int {
	if full() {
		return all
	}
	return sample
}

// number reads a setting that changes how much is run, for who wants to run a part.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}

// seed is the first of a run's seeds, and whether it was asked for: then that one alone is run.
func seed(t *testing.T) (n uint64, asked bool) {
	t.Helper()
	if text := os.Getenv("PGTICK_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "PGTICK_SEED")
		return n, true
	}
	return uint64(time.Now().UnixNano()) / 1000 * 1000, false
}

func random(n uint64) *rand.Rand { return rand.New(rand.NewPCG(n, 0)) }
