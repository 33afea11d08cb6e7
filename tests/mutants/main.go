// Command mutants takes one guard at a time away from pgtick's SQL, or turns it round (a condition of what changes something, a lock, a refusal, a
// constraint, a trigger, a policy), and runs those tests over what is left that call it. A mutant that no test notices shows a test that is missing,
// or a guard that makes no difference: those are listed in accepted.txt, each with the reason. What is done is kept in -out, and the next run goes
// on from there. It ends with exit code 1 while there is a survivor without a reason.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pgtick/pgtick/sql"
)

//go:embed accepted.txt
var accepted string

type options struct {
	out, scope, kinds, only, folders, tests string
	sample, lanes, parallel                 int
	seed                                    uint64
	most                                    float64
	list, again, reportOnly                 bool
}

func main() {
	var o options
	flag.StringVar(&o.out, "out", ".pgtick/mutants", "the folder in which results are kept")
	flag.StringVar(&o.scope, "scope", "", "ledger, or an expression for the files of sql/ that are changed (migrations: the constraints); empty: all")
	flag.StringVar(&o.kinds, "kinds", "term,inverse,column,refusal,lock,trigger,constraint,policy", "the kinds of mutants; there is also bound")
	flag.StringVar(&o.only, "run", "", "those whose name matches")
	flag.StringVar(&o.folders, "packages", strings.Join(folders, ","), "whose tests are to notice them")
	flag.StringVar(&o.tests, "tests", "", "of those, the ones whose name matches")
	flag.IntVar(&o.sample, "sample", 0, "so many, drawn from each file by its share; 0: all")
	flag.Uint64Var(&o.seed, "seed", 1, "draws others")
	flag.IntVar(&o.lanes, "lanes", 2, "so many at once")
	flag.IntVar(&o.parallel, "parallel", 3, "tests at once in each lane")
	flag.Float64Var(&o.most, "most", 90, "seconds of tests for one mutant, at most")
	flag.BoolVar(&o.list, "list", false, "name the mutants and end")
	flag.BoolVar(&o.again, "again", false, "try those once more that survived without a reason")
	flag.BoolVar(&o.reportOnly, "report", false, "try nothing, only tell what was found")
	flag.Parse()
	unexplained, err := run(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
	if unexplained > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (unexplained int, err error) {
	if err := os.MkdirAll(filepath.Join(o.out, "programs"), 0o750); err != nil {
		return 0, err
	}
	files, err := sqlFiles()
	if err != nil {
		return 0, err
	}
	l, err := newLab(ctx, o.out, files)
	if l != nil && l.server != nil {
		defer l.server.Close() //nolint:errcheck // it is a temporary one
	}
	if err != nil {
		return 0, err
	}
	l.most, l.parallel = o.most, o.parallel
	constraints, err := ofTables(ctx, l.server.URL("base"))
	if err != nil {
		return 0, err
	}
	every := append(constraints, mutate(files)...)
	chosen, err := o.choose(every)
	if err != nil {
		return 0, err
	}
	if o.list {
		for _, m := range chosen {
			fmt.Printf("%-10s %s\n", m.Kind, m.name())
		}
		fmt.Println(len(chosen))
		return 0, nil
	}
	if err := l.remember(filepath.Join(o.out, "results.jsonl"), o.again, reasons(accepted)); err != nil {
		return 0, err
	}
	if !o.reportOnly {
		if err := l.prepare(strings.Split(o.folders, ","), o.tests); err != nil {
			return 0, err
		}
		l.tryAll(ctx, chosen, o.lanes)
	}
	return l.report(os.Stdout, chosen, reasons(accepted)), nil
}

func sqlFiles() (all []sqlFile, err error) {
	names, err := sql.Files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := sql.Files.ReadFile(name.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, sqlFile{strings.TrimSuffix(name.Name(), ".sql"), string(text)})
	}
	return all, nil
}

func (l *lab) prepare(folders []string, tests string) error {
	wanted, err := regexp.Compile(tests)
	if err != nil {
		return fmt.Errorf("-tests: %w", err)
	}
	if err := build(l.out, folders); err != nil {
		return err
	}
	for _, folder := range folders {
		if err := l.learn(folder); err != nil {
			return err
		}
	}
	l.tests = slices.DeleteFunc(l.tests, func(t test) bool { return !wanted.MatchString(t.Name) })
	return nil
}

// choose leaves what was asked for.
func (o options) choose(every []mutant) ([]mutant, error) {
	scope := o.scope
	if scope == "ledger" {
		scope = `^(5|60|migrations (credits|analytics))`
	}
	inScope, err := regexp.Compile(scope)
	if err != nil {
		return nil, fmt.Errorf("-scope: %w", err)
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return nil, fmt.Errorf("-run: %w", err)
	}
	kinds := strings.Split(o.kinds, ",")
	all := slices.DeleteFunc(slices.Clone(every), func(m mutant) bool {
		return !slices.Contains(kinds, m.Kind) || !inScope.MatchString(m.Where) || !only.MatchString(m.name())
	})
	if o.sample > 0 {
		all = sampled(all, o.sample, o.seed)
	}
	return all, nil
}

// sampled draws from each file by its share, but three at least. A larger sample with the same seed holds the smaller one.
func sampled(all []mutant, n int, seed uint64) (drawn []mutant) {
	byFile := map[string][]mutant{}
	for _, m := range all {
		byFile[m.file()] = append(byFile[m.file()], m)
	}
	for _, file := range slices.Sorted(maps.Keys(byFile)) {
		of := byFile[file]
		slices.SortFunc(of, func(a, b mutant) int {
			return cmp.Or(cmp.Compare(lot(a, seed), lot(b, seed)), cmp.Compare(a.name(), b.name()))
		})
		share := max(3, (n*len(of)+len(all)/2)/len(all))
		drawn = append(drawn, of[:min(share, len(of))]...)
	}
	slices.SortFunc(drawn, func(a, b mutant) int { return cmp.Compare(lot(a, seed), lot(b, seed)) })
	return drawn
}

func lot(m mutant, seed uint64) uint64 {
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%d %s %d", seed, m.name(), seed)
	return sum.Sum64()
}

// reasons reads accepted.txt: a name, a bar, why it makes no difference.
func reasons(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, reason, ok := strings.Cut(strings.TrimSpace(line), " | "); ok && !strings.HasPrefix(line, "#") {
			all[name] = reason
		}
	}
	return all
}
