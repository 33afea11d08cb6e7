// Package exampletest has the *testing.T of examples that run, which get none: what they use of it, and an end.
package exampletest

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
)

// T is a test's t for an example. It panics where a test would fail.
type T struct {
	testing.TB
	ctx     context.Context
	cleanup []func()
}

// New returns a t, and what the example calls at its end.
func New() (t *T, end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	t = &T{ctx: ctx}
	return t, func() {
		cancel()
		for _, f := range slices.Backward(t.cleanup) {
			f()
		}
	}
}

// Context ends when the example does.
func (t *T) Context() context.Context { return t.ctx }

// Cleanup calls f at the end.
func (t *T) Cleanup(f func()) { t.cleanup = append(t.cleanup, f) }

// Output is nowhere: an example's own output is compared.
func (*T) Output() io.Writer { return io.Discard }

// Helper does nothing.
func (*T) Helper() {}

// Log tells nobody.
func (*T) Log(...any) {}

// Logf tells nobody.
func (*T) Logf(string, ...any) {}

// Errorf panics.
func (*T) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// FailNow panics.
func (*T) FailNow() { panic("the example has failed") }

// Skip ends the example's process: there is no way to leave one out.
func (*T) Skip(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}
