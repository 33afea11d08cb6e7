package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummary_CountsTestsWithoutParts_AndPackagesThatBreak(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		events string
		last   string
		shown  string
	}{
		"a test with parts is not counted itself": {
			events: `{"Action":"pass","Package":"p","Test":"TestA/x"} {"Action":"skip","Package":"p","Test":"TestA/y"} {"Action":"pass","Package":"p","Test":"TestA"} {"Action":"pass","Package":"p"}`,
			last:   "1 passed, 0 failed, 1 skipped",
		},
		"a failure is shown and counted once": {
			events: `{"Action":"output","Package":"p","Test":"TestA/x","Output":"because\n"} {"Action":"fail","Package":"p","Test":"TestA/x"} {"Action":"fail","Package":"p","Test":"TestA"} {"Action":"fail","Package":"p"}`,
			last:   "0 passed, 1 failed, 0 skipped",
			shown:  "because",
		},
		"a test that never ended has failed": {
			events: `{"Action":"run","Package":"p","Test":"TestA"} {"Action":"output","Package":"p","Test":"TestA","Output":"panic: no\n"} {"Action":"fail","Package":"p"}`,
			last:   "0 passed, 1 failed, 0 skipped",
			shown:  "panic: no",
		},
		"a package that does not build has failed": {
			events: `{"ImportPath":"p","Action":"build-output","Output":"undefined: x\n"} {"ImportPath":"p","Action":"build-fail"} {"Action":"fail","Package":"p","FailedBuild":"p"}`,
			last:   "0 passed, 1 failed, 0 skipped",
			shown:  "undefined: x",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			r := &results{out: &out, tests: map[string]*test{}}
			r.read(strings.NewReader(strings.ReplaceAll(c.events, "} {", "}\n{")))
			r.report()
			require.True(t, strings.HasSuffix(out.String(), "\n"+c.last+"\n"), out.String())
			require.Contains(t, out.String(), c.shown)
		})
	}
}

func TestSummary_OfTwoRuns_CountsBoth_AndTellsThemApart(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := &results{out: &out, tests: map[string]*test{}}
	r.read(strings.NewReader(`{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"p","Elapsed":1}`))
	r.label = " (X=y)"
	r.read(strings.NewReader(`{"Action":"fail","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"fail","Package":"p","Elapsed":2}`))
	require.Equal(t, 1, r.report())
	require.Contains(t, out.String(), "pass p 1.0s\nfail p (X=y) 2.0s\n")
	require.Contains(t, out.String(), "--- failed: p (X=y) TestA")
	require.Contains(t, out.String(), "\nfailed\n  p (X=y) TestA\n")
	require.True(t, strings.HasSuffix(out.String(), "\n1 passed, 1 failed, 0 skipped\n"), out.String())
}

// A setting of a run reaches its tests: the variable makes go itself fail here, in the second run alone.
func TestSummary_Then_RunsAgain_WithSettings(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	require.NotZero(t, run(&out, []string{"-run=^$", ".", "--then", "GOFLAGS=-nonsense", "-run=^$", "."}))
	require.Contains(t, out.String(), "pass github.com/pgtick/pgtick/tests/summary")
	require.NotContains(t, out.String(), "pass github.com/pgtick/pgtick/tests/summary (GOFLAGS")
	require.Zero(t, run(&out, []string{"-run=^$", ".", "--then", "PGTICK_NOTHING=1", "-run=^$", "."}))
	require.Contains(t, out.String(), "pass github.com/pgtick/pgtick/tests/summary (PGTICK_NOTHING=1)")
}
