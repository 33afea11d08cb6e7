// Command summary runs "go test -json" with its arguments and tells what people want to know: a line for each package, what
// was skipped, the slowest ten tests, failures in full and by name, and last of all "N passed, N failed, N skipped". It ends as go test does. After --then come settings of the
// environment, and the arguments of another run, whose tests are counted with the others; those of pgtick's own settings stand beside their names.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// event is a line of go test -json; see "go doc test2json".
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // instead of Package where it is about a build
	FailedBuild                   string
	Elapsed                       float64
}

// test is one test, or, with an empty name, its package.
type test struct {
	pkg, name string
	outcome   string // pass, fail, skip; "" while it runs
	elapsed   float64
	output    strings.Builder
}

type results struct {
	out   io.Writer
	label string // of the present run
	tests map[string]*test
	order []*test
}

func main() {
	os.Exit(run(os.Stdout, os.Args[1:]))
}

func run(out io.Writer, args []string) int {
	r, code := &results{out: out, tests: map[string]*test{}}, 0
	for len(args) > 0 {
		one := args
		if then := slices.Index(args, "--then"); then >= 0 {
			one, args = args[:then], args[then+1:]
		} else {
			args = nil
		}
		code = max(code, r.goTest(one))
	}
	if failed := r.report(); failed > 0 {
		code = max(code, 1)
	}
	return code
}

// goTest runs once, with the settings that come before the arguments.
func (r *results) goTest(args []string) int {
	settings := 0
	for settings < len(args) && !strings.HasPrefix(args[settings], "-") && strings.Contains(args[settings], "=") {
		settings++
	}
	r.label = ""
	if own := slices.DeleteFunc(slices.Clone(args[:settings]), func(s string) bool { return !strings.HasPrefix(s, "PGTICK_") }); len(own) > 0 {
		r.label = " (" + strings.Join(own, " ") + ")"
	}
	command := exec.Command("go", append([]string{"test", "-json"}, args[settings:]...)...)
	command.Env = append(os.Environ(), args[:settings]...)
	command.Stderr = os.Stderr
	events, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "go test:", err)
		return 1
	}
	r.read(events)
	err = command.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1) // -1 means that a signal ended it
	case err != nil:
		return 1
	}
	return 0
}

func (r *results) read(from io.Reader) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(r.out, lines.Text()) // not from test2json
			continue
		}
		r.add(e)
	}
}

func (r *results) add(e event) {
	t := r.find(cmp.Or(e.Package, e.ImportPath)+r.label, e.Test)
	switch e.Action {
	case "output", "build-output":
		if !strings.HasPrefix(e.Output, "=== ") && !strings.HasPrefix(strings.TrimSpace(e.Output), "--- ") {
			t.output.WriteString(e.Output)
		}
	case "pass", "fail", "skip", "build-fail":
		t.outcome, t.elapsed = strings.TrimPrefix(e.Action, "build-"), e.Elapsed
		if e.Test == "" && e.Action != "build-fail" && e.Action != "skip" {
			fmt.Fprintf(r.out, "%-4s %s %.1fs\n", e.Action, t.pkg, e.Elapsed)
		}
	}
}

func (r *results) find(pkg, name string) *test {
	key := pkg + "\x00" + name
	if r.tests[key] == nil {
		r.tests[key] = &test{pkg: pkg, name: name}
		r.order = append(r.order, r.tests[key])
	}
	return r.tests[key]
}

// report prints the end and returns how many failed.
func (r *results) report() int {
	counted := r.counted()
	failed := only(counted, "fail")
	for _, t := range only(counted, "skip") {
		fmt.Fprintf(r.out, "\n--- skipped: %s %s\n%s", t.pkg, t.name, t.output.String())
	}
	r.printSlowest()
	for _, t := range failed { // last, since often only the end of a long log is kept
		fmt.Fprintf(r.out, "\n--- failed: %s %s\n%s", t.pkg, t.name, r.said(t))
	}
	if len(failed) > 0 {
		fmt.Fprint(r.out, "\nfailed\n") // by name once more: what they said may be long
	}
	for _, t := range failed {
		fmt.Fprintf(r.out, "  %s %s\n", t.pkg, t.name)
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", len(only(counted, "pass")), len(failed), len(only(counted, "skip")))
	return len(failed)
}

// counted are the tests without parts of their own, and those that failed though none of their parts did: a panic, say, or a package
// that does not build. A test that never ended has failed.
func (r *results) counted() []*test {
	var counted []*test
	for _, t := range r.order {
		if t.outcome == "" && t.name != "" {
			t.outcome = "fail"
		}
	}
	for _, t := range r.order {
		parts := r.partsOf(t)
		leaf := t.name != "" && len(parts) == 0
		if leaf || t.outcome == "fail" && len(only(parts, "fail")) == 0 {
			counted = append(counted, t)
		}
	}
	return counted
}

func (r *results) partsOf(whole *test) []*test {
	var parts []*test
	for _, t := range r.order {
		if t.pkg == whole.pkg && t != whole && (whole.name == "" || strings.HasPrefix(t.name, whole.name+"/")) {
			parts = append(parts, t)
		}
	}
	return parts
}

// said is a test's output with that of the tests it is part of, where its set-up may have failed.
func (r *results) said(t *test) string {
	text := ""
	for _, other := range r.order {
		if other.pkg == t.pkg && other.name != "" && (other == t || strings.HasPrefix(t.name, other.name+"/")) {
			text += other.output.String()
		}
	}
	if t.name == "" {
		text += t.output.String()
	}
	return text
}

func (r *results) printSlowest() {
	top := slices.DeleteFunc(slices.Clone(r.order), func(t *test) bool { return t.name == "" || strings.Contains(t.name, "/") })
	slices.SortStableFunc(top, func(a, b *test) int { return cmp.Compare(b.elapsed, a.elapsed) })
	fmt.Fprint(r.out, "\nthe slowest tests\n")
	for _, t := range top[:min(10, len(top))] {
		fmt.Fprintf(r.out, "%6.1fs  %s  %s\n", t.elapsed, t.pkg[strings.LastIndex(t.pkg, "/")+1:], t.name)
	}
}

func only(tests []*test, outcome string) []*test {
	return slices.DeleteFunc(slices.Clone(tests), func(t *test) bool { return t.outcome != outcome })
}
