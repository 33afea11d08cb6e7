// Command mutants takes one thing away at a time from the ledger's SQL (a constraint, a trigger, a condition, a lock, a refusal) and runs the
// ledger's tests over what is left. A mutant that they do not notice shows a test that is missing, or a line that makes no difference; those
// are listed in equivalent.txt, with the reason. What is done is kept in -out: the next run goes on from there.
package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/localpg"
	"github.com/pgtick/pgtick/sql"
)

//go:embed equivalent.txt
var equivalent string

type result struct {
	mutant
	Outcome string // killed, survived, invalid
	By      string // the first test that failed
	Seconds float64
}

// stage is a part of the tests. Those that find most come first.
type stage struct{ folder, run string }

var (
	forger   = stage{"tests/credits_model", "Forger"}
	oneByOne = stage{"tests/credits_model", "OneByOne|Statement|Busy|ChargeMany"}
	others   = []stage{{"tests/credits_model", "WaitsFor|RateGoes"}, {"tests/credits", "Tampering|Violations|SameKey|Spending|During"}, {"tests/credits_model", "EightSessions"}, {"tests/credits", "."}}
)

func stagesFor(m mutant) []stage {
	if strings.HasPrefix(m.Where, "tables") || strings.HasPrefix(m.Where, "51_") {
		return append([]stage{forger, oneByOne}, others...)
	}
	return append([]stage{oneByOne, forger}, others...)
}

type lab struct {
	server *localpg.Server
	bin    string
	out    *os.File
	mu     sync.Mutex
	done   map[string]result
}

func main() {
	only := flag.String("run", ".", "the mutants whose name matches")
	skip := flag.String("skip", "^$", "not those whose name matches")
	out := flag.String("out", ".pgtick/mutants.jsonl", "where results are kept")
	files := flag.String("files", "^5[0-8]_", "the files of sql/ that are changed")
	quick := flag.Bool("quick", false, "only the first and fastest tests: what survives is tried with -again")
	workers := flag.Int("workers", 2, "so many at once")
	list := flag.Bool("list", false, "name the mutants and end")
	again := flag.Bool("again", false, "try once more those that survived")
	flag.Parse()
	if *quick {
		others = others[:1]
	}
	l, err := newLab(*out, *again)
	if err == nil {
		defer l.server.Close() //nolint:errcheck // it is a temporary one
		err = l.work(regexp.MustCompile(*only), regexp.MustCompile(*skip), regexp.MustCompile(*files), *workers, *list)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func newLab(out string, again bool) (*lab, error) {
	l := &lab{done: map[string]result{}}
	if err := l.build(filepath.Dir(out)); err != nil {
		return nil, err
	}
	if err := l.remember(out, again); err != nil {
		return nil, err
	}
	var err error
	settings := map[string]string{"shared_buffers": "64MB", "max_connections": "200", "max_wal_size": "1GB"}
	if l.server, err = localpg.Start(context.Background(), localpg.Options{Temp: "/dev/shm", Settings: settings}); err != nil {
		return nil, err
	}
	return l, l.makeBase()
}

func (l *lab) build(folder string) error {
	l.bin = folder
	// Without the tests of the runner, which are slow and say little about the ledger's own SQL.
	runner, err := filepath.Abs("tests/credits/runner_test.go")
	overlay := filepath.Join(folder, "mutants-overlay.json")
	if err == nil {
		err = os.MkdirAll(folder, 0o755)
	}
	if err == nil {
		err = os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace": {%q: ""}}`, runner), 0o600)
	}
	if err != nil {
		return err
	}
	for _, tests := range []string{"tests/credits_model", "tests/credits"} {
		command := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", filepath.Join(folder, filepath.Base(tests)+".test"), "./"+tests)
		if said, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", tests, err, said)
		}
	}
	return nil
}

func (l *lab) remember(out string, again bool) error {
	text, err := os.ReadFile(out)
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
		if again && r.Outcome == "survived" {
			delete(l.done, name)
		}
	}
	l.out, err = os.OpenFile(out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	return err
}

func (l *lab) makeBase() error {
	ctx := context.Background()
	if err := l.exec("postgres", "create database base template template0"); err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(l.server.URL("base"))
	if err != nil {
		return err
	}
	if _, err = migrations.Up(ctx, cfg, migrations.Options{}); err != nil {
		return err
	}
	return l.exec("base", "vacuum (freeze, analyze)")
}

func (l *lab) exec(database, statement string) error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, l.server.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.PgConn().Exec(ctx, statement).ReadAll()
	return err
}

func (m mutant) name() string { return m.Where + ": " + m.What }

func (l *lab) work(only, skip, files *regexp.Regexp, workers int, list bool) error {
	all, err := l.constraints()
	if err != nil {
		return err
	}
	names, err := sql.Files.ReadDir(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := sql.Files.ReadFile(name.Name())
		if err != nil {
			return err
		}
		if files.MatchString(name.Name()) {
			all = append(all, mutate(strings.TrimSuffix(name.Name(), ".sql"), string(text))...)
		}
	}
	all = slices.DeleteFunc(all, func(m mutant) bool { return !only.MatchString(m.name()) || skip.MatchString(m.name()) })
	if list {
		for _, m := range all {
			fmt.Println(m.name())
		}
		fmt.Println(len(all))
		return nil
	}
	l.tryAll(all, workers)
	l.report(all)
	return nil
}

func (l *lab) constraints() ([]mutant, error) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, l.server.URL("base"))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	found, err := conn.Query(ctx, `select 'tables ' || c.conrelid::regclass, 'drop the constraint ' || c.conname,
			format('alter table %s drop constraint %I cascade', c.conrelid::regclass, c.conname)
		from pg_constraint as c where c.connamespace in ('credits'::regnamespace, 'analytics'::regnamespace) and c.contype in ('c', 'u', 'p', 'f')
		union all
		select 'tables ' || i.indrelid::regclass, 'drop the unique index ' || i.indexrelid::regclass, 'drop index ' || i.indexrelid::regclass
		from pg_index as i join pg_class as t on t.oid = i.indrelid
		where t.relnamespace = 'credits'::regnamespace and i.indisunique and not exists (select from pg_constraint as c where c.conindid = i.indexrelid)
		order by 1, 2`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowToStructByPos[mutant])
}

func (l *lab) tryAll(all []mutant, workers int) {
	var wait sync.WaitGroup
	todo := make(chan mutant)
	for n := range workers {
		wait.Go(func() {
			for m := range todo {
				l.keep(l.try(m, fmt.Sprintf("mutant_%d", n)))
			}
		})
	}
	for _, m := range all {
		if _, ok := l.done[m.name()]; !ok {
			todo <- m
		}
	}
	close(todo)
	wait.Wait()
}

func (l *lab) keep(r result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[r.name()] = r
	line, _ := json.Marshal(r)
	fmt.Fprintf(l.out, "%s\n", line)
	fmt.Printf("%-8s %5.1fs %s (%s)\n", r.Outcome, r.Seconds, r.name(), r.By)
}

func (l *lab) try(m mutant, database string) (r result) {
	start := time.Now()
	r = result{mutant: m, Outcome: "survived"}
	defer func() { r.Seconds = time.Since(start).Seconds() }()
	err := l.exec("postgres", "drop database if exists "+database+" with (force)")
	if err == nil {
		err = l.exec("postgres", "create database "+database+" template base strategy file_copy")
	}
	if err != nil {
		r.Outcome, r.By = "invalid", err.Error()
		return r
	}
	if err := l.exec(database, m.SQL); err != nil {
		r.Outcome, r.By = "invalid", err.Error()
		return r
	}
	for _, s := range stagesFor(m) {
		if by := l.run(s, database); by != "" {
			r.Outcome, r.By = "killed", by
			return r
		}
	}
	return r
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: (.*)$`)

// run returns what failed.
func (l *lab) run(s stage, template string) string {
	bin, _ := filepath.Abs(filepath.Join(l.bin, filepath.Base(s.folder)+".test"))
	command := exec.Command(bin, "-test.failfast", "-test.timeout=120s", "-test.run", s.run)
	command.Dir = s.folder
	command.Env = append(os.Environ(), "TEST_DATABASE_URL="+l.server.URL("postgres"), "TEST_DATABASE_TEMPLATE="+template, "PGTICK_PROOF=mutant", "PGTICK_SEED=1", "GOMAXPROCS=2")
	said, err := command.CombinedOutput()
	l.sweep(command.Process.Pid)
	if err == nil {
		return ""
	}
	by := "ended without a word"
	if found := failed.FindStringSubmatch(string(said)); found != nil {
		by = found[1] + found[2]
	}
	return filepath.Base(s.folder) + " " + by
}

// sweep drops what a process that ended early has left.
func (l *lab) sweep(pid int) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, l.server.URL("postgres"))
	if err != nil {
		return
	}
	defer conn.Close(ctx)
	found, err := conn.Query(ctx, "select format('drop database %I with (force)', d.datname) from pg_database as d where d.datname ~ ('^pgtick_test_' || $1::text || '_')", fmt.Sprint(pid))
	if err != nil {
		return
	}
	drops, _ := pgx.CollectRows(found, pgx.RowTo[string])
	for _, drop := range drops {
		_, _ = conn.Exec(ctx, drop)
	}
}

func (l *lab) report(all []mutant) {
	reasons := map[string]string{}
	for line := range strings.Lines(equivalent) {
		if name, reason, ok := strings.Cut(strings.TrimSpace(line), " | "); ok {
			reasons[name] = reason
		}
	}
	counts := map[string]int{}
	var survivors []string
	for _, m := range all {
		r := l.done[m.name()]
		if r.Outcome == "survived" && reasons[m.name()] != "" {
			r.Outcome = "equivalent"
		}
		counts[r.Outcome]++
		if r.Outcome == "survived" {
			survivors = append(survivors, m.name())
		}
	}
	fmt.Printf("\n%d mutants: %d killed, %d survived, %d equivalent, %d invalid\n", len(all), counts["killed"], counts["survived"], counts["equivalent"], counts["invalid"])
	for _, name := range survivors {
		fmt.Println("survived:", name)
	}
}
