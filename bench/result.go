package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// sides in the order of the table's columns.
var sides = []string{"pgtick", "river", "graphile", "pgboss", "django", "bare"}

// samples are the measured values, by figure and side. Of each the median counts.
type samples map[string]map[string][]float64

func (s samples) add(name, side string, value float64) {
	if s[name] == nil {
		s[name] = map[string][]float64{}
	}
	s[name][side] = append(s[name][side], value)
}

// median of a figure's values, or nil where a side has none.
func (s samples) median(name, side string) *float64 {
	values := slices.Sorted(slices.Values(s[name][side]))
	if len(values) == 0 {
		return nil
	}
	return &values[len(values)/2]
}

// tell shows, while others are still to come, how far apart the values of a figure lie.
func (s samples) tell(f spec) {
	for _, side := range sides {
		if values := s[f.name][side]; len(values) > 0 {
			fmt.Fprintf(os.Stderr, "%-26s %-8s %10.2f %s, from %.2f to %.2f in %d\n",
				f.name, side, *s.median(f.name, side), f.unit, slices.Min(values), slices.Max(values), len(values))
		}
	}
}

// figure is one row of the result: the median of each side, and its unit.
type figure struct {
	PgTick   *float64 `json:"pgtick,omitempty"`
	River    *float64 `json:"river,omitempty"`
	Graphile *float64 `json:"graphile,omitempty"`
	PgBoss   *float64 `json:"pgboss,omitempty"`
	Django   *float64 `json:"django,omitempty"`
	Bare     *float64 `json:"bare,omitempty"`
	Unit     string   `json:"unit"`
}

func (s samples) figure(f spec) figure {
	return figure{PgTick: s.median(f.name, "pgtick"), River: s.median(f.name, "river"), Graphile: s.median(f.name, "graphile"),
		PgBoss: s.median(f.name, "pgboss"), Django: s.median(f.name, "django"), Bare: s.median(f.name, "bare"), Unit: f.unit}
}

func write(parts []part, taken samples) error {
	figures := map[string]figure{}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "figure\t%s\tunit\t\n", strings.Join(sides, "\t"))
	for _, p := range parts {
		for _, s := range p.figures {
			figures[s.name] = taken.figure(s)
			fmt.Fprintf(table, "%s\t", s.name)
			for _, side := range sides {
				fmt.Fprintf(table, "%s\t", shown(taken.median(s.name, side)))
			}
			fmt.Fprintf(table, "%s\t\n", s.unit)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join("out", "latest.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func shown(value *float64) string {
	if value == nil {
		return ""
	}
	return fmt.Sprintf("%.2f", *value)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// quantiles of latencies in milliseconds.
func quantiles(took []time.Duration) (p50, p99 float64) {
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	at := func(q float64) float64 {
		return milliseconds(took[min(len(took)-1, int(q*float64(len(took))))])
	}
	return at(0.50), at(0.99)
}
