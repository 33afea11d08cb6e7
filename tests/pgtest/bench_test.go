package pgtest_test

import (
	"testing"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// What each test of the project pays first: some 80 ms on two slow cores, most of it the copy.
func BenchmarkNew(b *testing.B) {
	pgtest.New(b)
	for b.Loop() {
		pgtest.New(b)
	}
}
