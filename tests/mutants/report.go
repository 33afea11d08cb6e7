package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// report prints a table by file, and the survivors, and returns how many of these have no reason.
func (l *lab) report(out io.Writer, all []mutant, reasons map[string]string) (unexplained int) {
	counts, kinds := map[string]map[string]int{"all": {}}, map[string]map[string]int{}
	var lines []string
	for _, m := range all {
		r, tried := l.done[m.name()]
		outcome := r.Outcome
		switch {
		case !tried:
			outcome = "not tried"
		case (outcome == survived || outcome == doubtful) && reasons[m.name()] != "":
			outcome = "accepted"
		case outcome == survived || outcome == doubtful:
			unexplained++
			lines = append(lines, fmt.Sprintf("%s: %s (%s; %d tests) %s", outcome, m.name(), m.Kind, r.Tests, r.By))
		}
		if counts[m.file()] == nil {
			counts[m.file()] = map[string]int{}
		}
		if kinds[m.Kind] == nil {
			kinds[m.Kind] = map[string]int{}
		}
		counts[m.file()][outcome]++
		counts["all"][outcome]++
		kinds[m.Kind][outcome]++
	}
	table(out, "file", counts)
	table(out, "kind", kinds)
	fmt.Fprintf(out, "\n%d mutants, %d of them no SQL, %d not tried\n", len(all), counts["all"][invalid], counts["all"]["not tried"])
	slices.Sort(lines)
	fmt.Fprintln(out, strings.Join(lines, "\n"))
	return unexplained
}

func table(out io.Writer, of string, counts map[string]map[string]int) {
	fmt.Fprintf(out, "\n| %s | tried | killed | of these hung | survived, harmless | survived | noticed |\n|---|---|---|---|---|---|---|\n", of)
	for _, name := range slices.Sorted(maps.Keys(counts)) { // "all" comes after the files, which begin with a number, and before migrations
		fmt.Fprintln(out, row(name, counts[name]))
	}
}

// row counts a doubtful one among the survivors. The share leaves out what makes no difference.
func row(file string, n map[string]int) string {
	noticed, missed := n[killed]+n[timeout], n[survived]+n[doubtful]
	share := "–"
	if noticed+missed > 0 {
		share = fmt.Sprintf("%.1f %%", 100*float64(noticed)/float64(noticed+missed))
	}
	return fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %s |", file, noticed+missed+n["accepted"], noticed, n[timeout], n["accepted"], missed, share)
}
