package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
)

// The outcomes of a mutant.
const (
	killed   = "killed"   // a test failed, and failed again
	timeout  = "timeout"  // the tests did not come to an end
	doubtful = "doubtful" // a test failed, but not a second time, and no other one did
	survived = "survived"
	invalid  = "invalid" // it is no SQL
)

type result struct {
	mutant
	Outcome string
	By      string // the test that failed
	Tests   int    // so many could have noticed it
	Seconds float64
}

// lab tries mutants, each in the template of a database of its own, on one private server.
type lab struct {
	out      string
	server   *localpg.Server
	files    []sqlFile
	tests    []test
	most     float64 // seconds of tests for one mutant
	parallel int

	mu      sync.Mutex
	log     *os.File
	done    map[string]result
	noticed map[string]map[string]int // by place, how often a test has noticed something there
}

func newLab(ctx context.Context, out string, files []sqlFile) (*lab, error) {
	l := &lab{out: out, files: files, done: map[string]result{}, noticed: map[string]map[string]int{}}
	settings := map[string]string{"shared_buffers": "64MB", "max_connections": "300", "max_wal_size": "1GB", "track_functions": "all",
		"client_connection_check_interval": "1s", "statement_timeout": "20s"} // a mutant may have a function turn in a circle
	var err error
	if l.server, err = localpg.Start(ctx, localpg.Options{Temp: fastFolder(), Settings: settings}); err != nil {
		return nil, err
	}
	return l, l.makeBase(ctx)
}

func fastFolder() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func (l *lab) makeBase(ctx context.Context) error {
	if err := l.exec(ctx, "postgres", "create database base template template0"); err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(l.server.URL("base"))
	if err != nil {
		return err
	}
	if _, err = migrations.Up(ctx, cfg, migrations.Options{}); err != nil {
		return err
	}
	return l.exec(ctx, "base", "vacuum (freeze, analyze)")
}

func (l *lab) exec(ctx context.Context, database, statement string) error {
	conn, err := pgx.Connect(ctx, l.server.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.PgConn().Exec(ctx, statement).ReadAll()
	return err
}

// remember reads what was done before. Of a mutant that was tried twice the last outcome counts. Again: as if survivors without a reason had not been tried.
func (l *lab) remember(file string, again bool, reasons map[string]string) error {
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r result
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			l.done[r.name()] = r
		}
	}
	for name, r := range l.done {
		if r.Outcome == killed {
			l.learned(r)
		}
		if again && (r.Outcome == survived || r.Outcome == doubtful) && reasons[name] == "" {
			delete(l.done, name)
		}
	}
	l.log, err = os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return err
}

func (l *lab) learned(r result) {
	if l.noticed[r.Where] == nil {
		l.noticed[r.Where] = map[string]int{}
	}
	l.noticed[r.Where][r.By]++
}

// tryAll tries those that were not tried yet.
func (l *lab) tryAll(ctx context.Context, all []mutant, lanes int) {
	all = slices.DeleteFunc(slices.Clone(all), func(m mutant) bool { _, had := l.done[m.name()]; return had })
	var wait sync.WaitGroup
	todo := make(chan mutant)
	for n := range lanes {
		wait.Go(func() {
			for m := range todo {
				l.keep(l.try(ctx, m, fmt.Sprintf("mutant_%d", n)))
			}
		})
	}
	for i, m := range all {
		if i%50 == 0 && i > 0 {
			fmt.Printf("%d of %d\n", i, len(all))
		}
		todo <- m
	}
	close(todo)
	wait.Wait()
}

func (l *lab) keep(r result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[r.name()] = r
	if r.Outcome == killed {
		l.learned(r)
	}
	line, _ := json.Marshal(r)
	fmt.Fprintf(l.log, "%s\n", line)
	fmt.Printf("%-8s %5.1fs %s (%s; %d tests)\n", r.Outcome, r.Seconds, r.name(), r.By, r.Tests)
}

func (l *lab) try(ctx context.Context, m mutant, template string) (r result) {
	start := time.Now()
	r = result{mutant: m, Outcome: survived}
	defer func() { r.Seconds = time.Since(start).Seconds() }()
	folder, err := l.make(ctx, m, template)
	if err != nil {
		r.Outcome, r.By = invalid, err.Error()
		return r
	}
	tests := l.testsFor(m)
	r.Tests = len(tests)
	for _, portion := range portions(tests, l.most) {
		for len(portion) > 0 {
			here := slices.Collect(filter(portion, func(t test) bool { return t.Folder == portion[0].Folder }))
			portion = slices.Collect(filter(portion, func(t test) bool { return t.Folder != here[0].Folder }))
			outcome, by := l.look(template, folder, here)
			if outcome == killed || outcome == timeout {
				r.Outcome, r.By = outcome, by
				return r
			}
			if outcome == doubtful {
				r.Outcome, r.By = doubtful, by
			}
		}
	}
	return r
}

func filter[T any](all []T, wanted func(T) bool) func(yield func(T) bool) {
	return func(yield func(T) bool) {
		for _, v := range all {
			if wanted(v) && !yield(v) {
				return
			}
		}
	}
}

// make puts a mutant into a template, and into a folder of SQL files for those tests that migrate by themselves.
func (l *lab) make(ctx context.Context, m mutant, template string) (folder string, err error) {
	for _, statement := range []string{"drop database if exists " + template + " with (force)", "create database " + template + " template base strategy file_copy"} {
		if err := l.exec(ctx, "postgres", statement); err != nil {
			return "", err
		}
	}
	if m.SQL != "" {
		if err := l.exec(ctx, template, m.SQL); err != nil {
			return "", err
		}
	}
	if m.Text == "" {
		return "", nil
	}
	folder, err = filepath.Abs(filepath.Join(l.out, template))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return "", err
	}
	for _, f := range l.files {
		text := f.text
		if f.name == m.file() {
			text = m.Text
		}
		if err := os.WriteFile(filepath.Join(folder, f.name+".sql"), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return folder, nil
}

// look runs tests of one package. One that fails, or does not end, is run once more, alone: beside other work a test may fail for want of time.
func (l *lab) look(template, folder string, tests []test) (outcome, by string) {
	b := l.binary(tests[0].Folder, template, folder)
	said, err := b.try(tests)
	if err == nil {
		return survived, ""
	}
	failed, _ := whatFailed(said)
	by = filepath.Base(tests[0].Folder) + " " + failed
	at := slices.IndexFunc(tests, func(t test) bool { return t.Name == failed })
	if at < 0 {
		return doubtful, by + string(last(said, 300))
	}
	said, err = b.try(tests[at : at+1])
	if err == nil {
		return doubtful, by
	}
	if _, hung := whatFailed(said); hung {
		return timeout, by
	}
	return killed, by
}

// try runs tests, for ten times as long as they took before, and twenty seconds.
func (p program) try(tests []test) ([]byte, error) {
	names, seconds := make([]string, len(tests)), 0.0
	for i, t := range tests {
		names[i], seconds = t.Name, seconds+t.Seconds
	}
	patience := time.Duration(20+10*seconds) * time.Second
	return p.run(patience+time.Minute, "-test.failfast", fmt.Sprint("-test.parallel=", p.lab.parallel), fmt.Sprint("-test.timeout=", patience),
		"-test.run", "^("+strings.Join(names, "|")+")$")
}

var (
	failure  = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)
	panicked = regexp.MustCompile(`(?m)^panic: .*`)
	running  = regexp.MustCompile(`(?m)^\s+(Test\w+)(?:/\S+)? \([0-9hms.]+\)$`)
	inTest   = regexp.MustCompile(`\.(Test\w+)\(0x|\.(Test\w+)\.func`)
)

func whatFailed(said []byte) (name string, hung bool) {
	if stuck := panicked.Find(said); stuck != nil && bytes.Contains(stuck, []byte("test timed out")) {
		if found := running.FindSubmatch(said); found != nil {
			return string(found[1]), true
		}
		return "", true
	}
	if found := failure.FindSubmatch(said); found != nil {
		return string(found[1]), false
	}
	if found := inTest.FindSubmatch(said); found != nil {
		return string(found[1]) + string(found[2]), false
	}
	return "", false
}

// tests of a package, on a template.
type program struct {
	lab     *lab
	path    string
	folder  string
	setting []string
}

func (l *lab) binary(folder, template, sql string, more ...string) program {
	path, _ := filepath.Abs(binary(l.out, folder))
	programs, _ := filepath.Abs(filepath.Join(l.out, "programs"))
	setting := append([]string{"TEST_DATABASE_URL=" + l.server.URL("postgres"), "TEST_DATABASE_TEMPLATE=" + template, "PGTICK_PROOF=mutant", "PGTICK_SEED=1", "GOMAXPROCS=2",
		"PGTICK_TEST_PROGRAMS=" + programs, "TEST_PATIENCE=15s"}, more...)
	if sql != "" {
		setting = append(setting, "MUTANT_SQL="+sql)
	}
	return program{l, path, folder, setting}
}

// run ends what it has started, too.
func (p program) run(patience time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, p.path, args...)
	command.Dir = p.folder
	command.Env = append(os.Environ(), p.setting...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 5 * time.Second
	said, err := command.CombinedOutput()
	if command.Process != nil {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		p.lab.sweep(command.Process.Pid)
	}
	return said, err
}

// sweep drops what a process that ended early has left.
func (l *lab) sweep(pid int) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, l.server.URL("postgres"))
	if err != nil {
		return
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "select format('drop database %I with (force)', d.datname) from pg_database as d where d.datname ~ ('^pgtick_test_' || $1::text || '_')", fmt.Sprint(pid))
	if err != nil {
		return
	}
	drops, _ := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, drop := range drops {
		_, _ = conn.Exec(ctx, drop)
	}
}
