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
