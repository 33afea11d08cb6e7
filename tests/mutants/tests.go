package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// test is a test that passes where nothing is mutated, and what it calls and writes in its databases.
type test struct {
	Folder, Name string
	Seconds      float64
	Functions    []string
	Tables       []string
}

// folders are the packages whose tests look at what the SQL does. What tests the program, its pages or other servers is slow, and notices less.
var folders = []string{"tests/queue", "tests/ties", "tests/schedules", "tests/rights", "tests/credits", "tests/credits_model", "tests/credits_sync", "tests/realtime",
	"tests/simulation", "tests/runner", "tests/jobs_cli"}

// replacedEmbed lets a test binary read the files of sql/ from the folder that a variable names: what a test migrates by itself then has the
// mutant, too.
const replacedEmbed = `package sql

import (
	"embed"
	"io/fs"
	"os"
)

//go:embed *.sql
var embedded embed.FS

type folder interface {
	fs.ReadDirFS
	fs.ReadFileFS
}

// Files are the SQL files of the folder.
var Files = chosen()

func chosen() folder {
	if path := os.Getenv("MUTANT_SQL"); path != "" {
		return os.DirFS(path).(folder)
	}
	return embedded
}
`

// build compiles the tests once. Without those of the credits' runner, which are slow and say little about the ledger's own SQL.
func build(out string, folders []string) error {
	embed, err := filepath.Abs("sql/embed.go")
	if err != nil {
		return err
	}
	replaced, err := filepath.Abs(filepath.Join(out, "embed.go"))
	if err != nil {
		return err
	}
	overlay := filepath.Join(out, "overlay.json")
	lines, _ := json.Marshal(map[string]any{"Replace": map[string]string{embed: replaced}})
	if err := os.WriteFile(replaced, []byte(replacedEmbed), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(overlay, lines, 0o600); err != nil {
		return err
	}
	for _, folder := range folders {
		command := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s", "-overlay", overlay, "-o", binary(out, folder), "./"+folder)
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
		if said, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", folder, err, said)
		}
	}
	return nil
}

func binary(out, folder string) string { return filepath.Join(out, filepath.Base(folder)+".test") }

// learn runs the tests of a package where nothing is mutated, and keeps which pass and what they call, until the package changes.
func (l *lab) learn(folder string) error {
	kept := filepath.Join(l.out, "tests-"+filepath.Base(folder)+"-"+digest(folder)+".json")
	if text, err := os.ReadFile(kept); err == nil {
		var all []test
		err := json.Unmarshal(text, &all)
		l.tests = append(l.tests, all...)
		return err
	}
	called, err := filepath.Abs(filepath.Join(l.out, "called-"+filepath.Base(folder)))
	if err != nil {
		return err
	}
	_ = os.Remove(called)
	fmt.Printf("learning what the tests of %s call …\n", folder)
	said, _ := l.binary(folder, "base", "", "TEST_FUNCTIONS_CALLED="+called).run(20*time.Minute, "-test.v", "-test.parallel=4", "-test.timeout=19m")
	all := passed(folder, said)
	if len(all) == 0 {
		return fmt.Errorf("no test of %s passes: %s", folder, last(said, 3000))
	}
	if err := addCalls(all, called); err != nil {
		return err
	}
	text, _ := json.Marshal(all)
	l.tests = append(l.tests, all...)
	return os.WriteFile(kept, text, 0o600)
}

func digest(folder string) string {
	sum := sha256.New()
	names, _ := filepath.Glob(filepath.Join(folder, "*.go"))
	for _, name := range names {
		text, _ := os.ReadFile(name)
		sum.Write(text)
	}
	return fmt.Sprintf("%.4x", sum.Sum(nil))
}

func last(text []byte, n int) []byte { return text[max(0, len(text)-n):] }

var ended = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\w+) \(([0-9.]+)s\)`)

func passed(folder string, said []byte) (all []test) {
	for _, found := range ended.FindAllSubmatch(said, -1) {
		seconds, _ := strconv.ParseFloat(string(found[3]), 64)
		if string(found[1]) == "PASS" {
			all = append(all, test{Folder: folder, Name: string(found[2]), Seconds: seconds})
		} else {
			fmt.Printf("not used: %s %s %s\n", found[1], folder, found[2])
		}
	}
	return all
}

// addCalls reads what tests/pgtest has written.
func addCalls(all []test, file string) error {
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var c struct {
			Test              string
			Functions, Tables []string
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		name, _, _ := strings.Cut(c.Test, "/")
		for i := range all {
			if all[i].Name == name {
				all[i].Functions = joined(all[i].Functions, c.Functions)
				all[i].Tables = joined(all[i].Tables, c.Tables)
			}
		}
	}
	return lines.Err()
}

func joined(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// What tests of rights do they do on a server of their own, where nobody counts calls.
var (
	forRights = regexp.MustCompile(`^(00|45|59|9)`)
	ofRights  = regexp.MustCompile(`Rights|Owner|EndUser`)
)

func (t test) concerns(m mutant) bool {
	switch {
	case t.Functions == nil && t.Folder == "tests/rights":
		return forRights.MatchString(m.file())
	case m.Kind == policy: // in those that migrate anew, since roles have come
		return ofRights.MatchString(t.Name)
	case t.Functions == nil && ofRights.MatchString(t.Name):
		return forRights.MatchString(m.file())
	case m.Table != "":
		return slices.ContainsFunc(t.Tables, func(written string) bool { return whole(written) == m.Table })
	}
	return slices.ContainsFunc(m.Calls, func(f string) bool { return slices.Contains(t.Functions, f) })
}

var day = regexp.MustCompile(`_([0-9]{6,8}|default)$`)

// whole is the table that a partition belongs to: rows are counted by partition, while constraints are the whole table's.
func whole(written string) string { return day.ReplaceAllString(written, "") }

// Who looks for what happens between sessions says so in the name, and who looks for what is refused.
var (
	atOnce = regexp.MustCompile(`(?i)race|once|session|concurren|lock|wait|behind|model|everyorder|commit|meanwhile|together|opens|underway|busy|passesover|neverwaits|doesnotwait`)
	ofBad  = regexp.MustCompile(`(?i)bad|refuse|wrong|malformed|lawful|maynot|constraint|unknown|ofno|forger|tampering`)
)

// refuses says whether somebody would be refused less: the triggers of the ledger do nothing else.
func (m mutant) refuses() bool {
	return m.Kind == refusal || m.Kind == constraint || strings.HasPrefix(m.Where, "51_")
}

// price says when to try a test: the cheap ones first, and those that call little else, for what they call is what they are about.
func (t test) price(m mutant) float64 {
	price := (t.Seconds + 0.2) * float64(10+len(t.Functions))
	if m.Kind == lock && atOnce.MatchString(strings.ReplaceAll(t.Name, "_", "")) || m.refuses() && ofBad.MatchString(strings.ReplaceAll(t.Name, "_", "")) {
		price /= 30
	}
	return price / math.Pow(4, t.alike(m))
}

var wordOf = regexp.MustCompile(`[a-z]{4,}`)

// alike counts the words of the function's name, and of what was changed there, with which the test's name or its package's speaks, too.
func (t test) alike(m mutant) (n float64) {
	name := strings.ToLower(t.id())
	_, function, _ := strings.Cut(m.Where, ".")
	words := wordOf.FindAllString(function+" "+m.What, -1)
	slices.Sort(words)
	for _, word := range slices.Compact(words) {
		if strings.Contains(name, strings.TrimSuffix(word[:min(len(word), 6)], "s")) {
			n++
		}
	}
	return n
}

// testsFor are those that may notice a mutant, in the order in which to try them: those first that noticed another one in the same place.
func (l *lab) testsFor(m mutant) []test {
	l.mu.Lock()
	noticed := map[string]int{}
	for name, n := range l.noticed[m.Where] {
		noticed[name] = n
	}
	l.mu.Unlock()
	var all []test
	for _, t := range l.tests {
		if t.concerns(m) {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b test) int {
		return cmp.Or(cmp.Compare(noticed[b.id()], noticed[a.id()]), cmp.Compare(a.price(m), b.price(m)), cmp.Compare(a.id(), b.id()))
	})
	return all
}

func (t test) id() string { return filepath.Base(t.Folder) + " " + t.Name }

// portions cuts a list of tests into what is tried at once: little at first. What comes after most seconds is left out.
func portions(all []test, most float64) (cut [][]test) {
	room, sum, whole := 1.5, 0.0, 0.0
	var now []test
	for _, t := range all {
		if whole += t.Seconds + 0.1; whole > most && len(cut) > 0 {
			break
		}
		now = append(now, t)
		if sum += t.Seconds + 0.1; sum > room {
			cut, now, sum, room = append(cut, now), nil, 0, room*5
		}
	}
	if len(now) > 0 {
		cut = append(cut, now)
	}
	return cut
}
