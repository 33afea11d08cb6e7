// Package faults injects faults into real processes while mixed work goes on, and counts afterwards, from outside, what became of it: runners
// killed and frozen, sessions ended, servers crashed and promoted, lines cut at every byte of a commit, answers lost. The parts are the suite's
// own: PostgreSQL, PgBouncer, Redis, a cutting proxy, all on loopback.
//
// "make test" injects a few of each of the cheap ones; "make faults" all, at full count, or a share of it: PGTICK_FAULTS=full, or 10%.
package faults

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtick/pgtick/tests/pgtest"
	"github.com/pgtick/pgtick/tests/programs"
)

// Conditions are looked at this often, and waited for that long.
const (
	every  = 10 * time.Millisecond
	within = 3 * time.Minute
)

// binary is the test runner as "make build" makes it: the race detector looks at it in tests/runner. folder is where it lies.
var folder, binary string

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "pgtick-faults-"); err != nil {
		panic(err)
	}
	if binary, err = programs.Build(folder, programs.TestRunner); err != nil {
		panic(err)
	}
	pgtest.Main(m)
	_ = os.RemoveAll(folder)
	table.print()
}

// build makes the test runner of the checkout that a folder is in.
func build(in, program string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", program, "github.com/pgtick/pgtick/tests/testrunner")...)
	cmd.Dir, cmd.Env = in, programs.Env()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the test runner: %w\n%s", err, out)
	}
	return nil
}

// share is how much of the full count is injected: 1 is all of it, 0 the short form.
func share() float64 {
	text := os.Getenv("PGTICK_FAULTS")
	switch text {
	case "":
		return 0
	case "full":
		return 1
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || percent <= 0 {
		panic(fmt.Sprintf("PGTICK_FAULTS=%s: write full, or a share of it such as 10%%", text))
	}
	return percent / 100
}

// table is what all faults of this run have come to.
var table results

type results struct {
	mu   sync.Mutex
	rows []row
}

// row is what one fault has come to.
type row struct {
	fault                                      string
	injected, jobs                             int
	lost, doubled, slots, violations, setAside int
	p50, most, bound                           time.Duration
}

const heading = "| fault | injected | jobs | lost | doubled | slots unaccounted | violations | set aside | recovery p50 | longest | bound |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"

func (r row) String() string {
	return fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %d | %d | %s | %s | %s |", r.fault, r.injected, r.jobs, r.lost, r.doubled, r.slots, r.violations, r.setAside,
		seconds(r.p50), seconds(r.most), seconds(r.bound))
}

func seconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func (r *results) add(one row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, one)
}

// print also writes the table where "make faults" asks for it.
func (r *results) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == 0 {
		return
	}
	text := heading
	for _, one := range r.rows {
		text += one.String() + "\n"
	}
	fmt.Print(text)
	if path := os.Getenv("PGTICK_FAULTS_OUT"); path != "" {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, "the table was not written:", err)
		}
	}
}
