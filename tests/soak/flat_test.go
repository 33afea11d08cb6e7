package soak

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sample is what there is at one moment. Sizes are in bytes.
type sample struct {
	At         time.Time `json:"at"`
	Period     int       `json:"period"`
	Pinned     bool      `json:"pinned"`
	Burst      float64   `json:"burst,omitempty"` // jobs a second of a peak that has just been worked off
	Waits      []float64 `json:"waits,omitempty"` // of the probes since the last sample, in ms
	Memory     []float64 `json:"memory"`          // of each runner, in MiB
	Live       int64     `json:"live"`
	Dead       int64     `json:"dead"`
	Table      int64     `json:"table"`
	Indexes    int64     `json:"indexes"`
	History    int64     `json:"history"` // partitions that have rows
	Slots      int64     `json:"slots"`
	Partitions int64     `json:"partitions"`
	Ledger     int64     `json:"ledger"`
	Others     int64     `json:"others"` // all other tables of the schema pgtick

	// Of a whole period, at its end.
	HistoryRow float64 `json:"history_row,omitempty"` // bytes
	SlotRow    float64 `json:"slot_row,omitempty"`
	Entry      float64 `json:"entry,omitempty"`
	LogOfAJob  float64 `json:"log_of_a_job,omitempty"`
	Images     float64 `json:"images,omitempty"` // whole pages in the log, of a thousand jobs
	Jobs       int64   `json:"jobs,omitempty"`
}

const sizes = `select (select count(*) from pgtick.live_jobs), coalesce((select s.n_dead_tup from pg_stat_user_tables as s where s.relid = 'pgtick.live_jobs'::regclass), 0),
	pg_table_size('pgtick.live_jobs'), pg_indexes_size('pgtick.live_jobs'),
	(select coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint from pg_inherits as i where i.inhparent = 'pgtick.history'::regclass and pg_relation_size(i.inhrelid) > 0),
	(select coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint from pg_inherits as i where i.inhparent = 'pgtick.slot_log'::regclass and pg_relation_size(i.inhrelid) > 0),
	(select count(*) from pg_inherits as i where i.inhparent in ('pgtick.history'::regclass, 'pgtick.slot_log'::regclass)),
	(select sum(pg_total_relation_size(c.oid))::bigint from pg_class as c where c.relnamespace = 'credits'::regnamespace and c.relkind = 'r'),
	(select sum(pg_total_relation_size(c.oid))::bigint from pg_class as c where c.relnamespace = 'pgtick'::regnamespace and c.relkind = 'r' and not c.relispartition and c.relname <> 'live_jobs')`

// take is a sample now.
func (d *day) take(period int) sample {
	t := d.t
	s := sample{At: time.Now(), Period: period, Pinned: d.pin != nil, Waits: d.traffic.waited(t)}
	for _, r := range d.runners {
		s.Memory = append(s.Memory, r.memory())
	}
	var err error
	for range 5 { // a partition may go between two parts of the query
		if err = d.db.Pool.QueryRow(t.Context(), sizes).Scan(&s.Live, &s.Dead, &s.Table, &s.Indexes, &s.History, &s.Slots, &s.Partitions, &s.Ledger, &s.Others); err == nil {
			break
		}
	}
	require.NoError(t, err)
	return s
}

func (d *day) sample(period int, burst float64) {
	s := d.take(period)
	s.Burst = burst
	d.keep(s)
}

// close is the last sample of a period, with what takes a count.
func (d *day) close(period int) {
	t := d.t
	s := d.take(period)
	s.Jobs = d.ended() - d.before
	s.HistoryRow = float64(s.History) / float64(max(1, ask[int64](t, d.db, `select count(*) from pgtick.history`)))
	s.SlotRow = float64(s.Slots) / float64(max(1, ask[int64](t, d.db, `select count(*) from pgtick.slot_log`)))
	s.Entry = float64(s.Ledger) / float64(max(1, ask[int64](t, d.db, `select count(*) from credits.transactions`)))
	s.LogOfAJob = ask[float64](t, d.db, `select (pg_current_wal_lsn() - $1::text::pg_lsn)::float8`, d.lsn) / float64(max(1, s.Jobs))
	s.Images = 1000 * float64(d.pageImages()-d.images) / float64(max(1, s.Jobs))
	d.keep(s)
}

// pageImages is how many pages the log has had as a whole: each that is changed for the first time after a checkpoint.
func (d *day) pageImages() int64 {
	return ask[int64](d.t, d.db, `select w.wal_fpi from pg_stat_wal as w`)
}

// ended is how many jobs have ended so far: history knows the last two days alone.
func (d *day) ended() int64 {
	return ask[int64](d.t, d.db, `select s.last_value - (select count(*) from pgtick.live_jobs) from pgtick.live_jobs_id_seq as s`)
}

// keep also writes it down as a line of JSON, where "make soak" asks for it.
func (d *day) keep(s sample) {
	d.samples = append(d.samples, s)
	folder := os.Getenv("PGTICK_SOAK_OUT")
	if folder == "" {
		return
	}
	file, err := os.OpenFile(filepath.Join(folder, "soak-day.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(d.t, err)
	defer file.Close()
	require.NoError(d.t, json.NewEncoder(file).Encode(s))
}

// measure is a figure of a period, out of its samples.
type measure struct {
	name   string
	of     func(all []sample) float64
	better int     // +1: more is better, -1: less is, 0: nobody judges
	slack  float64 // a change of less is none: a table of a hundred pages has grown by a tenth when it has ten more
	stays  bool    // a file that keeps the size that it once had: nothing that was dead while cleaning was held back may creep, before that or after
}

var measures = []measure{
	{"jobs/s of a peak", mean(func(s sample) []float64 { return given(s.Burst) }), +1, 0, false},
	{"start of a job, p50, ms", waits(0.50), -1, 0.5, false},
	{"start of a job, p99, ms", waits(0.99), -1, 2, false},
	{"memory of a runner, MiB", mean(func(s sample) []float64 { return s.Memory }), -1, 2, false},
	{"live_jobs, MiB", median(func(s sample) float64 { return mib(s.Table) }), -1, 1, false},     // vacuum cuts off what is empty at its end: it goes with the traffic, up and down
	{"its indexes, MiB", median(func(s sample) float64 { return mib(s.Indexes) }), -1, 1, false}, // upkeep builds them anew
	{"its dead rows", median(func(s sample) float64 { return float64(s.Dead) }), 0, 0, false},
	{"other tables, MiB", median(func(s sample) float64 { return mib(s.Others) }), -1, 1, true},
	{"history, MiB", median(func(s sample) float64 { return mib(s.History) }), 0, 0, false},
	{"history, bytes a row", mean(func(s sample) []float64 { return given(s.HistoryRow) }), -1, 0, false},
	{"slots, bytes a row", mean(func(s sample) []float64 { return given(s.SlotRow) }), -1, 0, false},
	{"partitions", median(func(s sample) float64 { return float64(s.Partitions) }), -1, 0, false},
	{"ledger, MiB", median(func(s sample) float64 { return mib(s.Ledger) }), 0, 0, false},
	{"ledger, bytes an entry", mean(func(s sample) []float64 { return given(s.Entry) }), -1, 0, false},
	{"log (WAL), bytes a job", mean(func(s sample) []float64 { return given(s.LogOfAJob) }), -1, 0, false},
	{"whole pages in it, of 1,000 jobs", mean(func(s sample) []float64 { return given(s.Images) }), 0, 0, false},
	{"jobs", mean(func(s sample) []float64 { return given(float64(s.Jobs)) }), 0, 0, false},
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// given leaves out what a sample does not have.
func given(value float64) []float64 {
	if value == 0 {
		return nil
	}
	return []float64{value}
}

func mean(of func(sample) []float64) func([]sample) float64 {
	return func(all []sample) (sum float64) {
		n := 0.0
		for _, s := range all {
			for _, value := range of(s) {
				sum, n = sum+value, n+1
			}
		}
		return sum / max(n, 1)
	}
}

func median(of func(sample) float64) func([]sample) float64 {
	return func(all []sample) float64 {
		var values []float64
		for _, s := range all {
			values = append(values, of(s))
		}
		return quantile(values, 0.5)
	}
}

func waits(q float64) func([]sample) float64 {
	return func(all []sample) float64 {
		var values []float64
		for _, s := range all {
			values = append(values, s.Waits...)
		}
		return quantile(values, q)
	}
}

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[min(len(values)-1, int(q*float64(len(values))))]
}

func only(all []sample, which func(sample) bool) []sample {
	return slices.DeleteFunc(slices.Clone(all), func(s sample) bool { return !which(s) })
}

func inPeriod(all []sample, period int) []sample {
	return only(all, func(s sample) bool { return s.Period == period })
}

// compare holds the first tenth against the last, and returns a table of all, and what has become worse by more than so many percent.
func (c calendar) compare(all []sample, tolerance float64) (table string, wrong []string) {
	table = fmt.Sprintf("| | first tenth | pinned | last tenth | last to first | at most %.0f %% worse |\n|---|--:|--:|--:|--:|---|\n", tolerance)
	for _, m := range measures {
		in := func(period int) float64 { return m.of(inPeriod(all, period)) }
		first, last := in(c.warmUp), in(c.periods-1)
		verdict := m.verdict(first, last, tolerance)
		if m.stays {
			verdict = max(m.verdict(first, in(c.pinned-1), tolerance), m.verdict(in(c.free), last, tolerance))
		}
		if verdict > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: %s, then %s", m.name, short(first), short(last)))
		}
		pinned := m.of(only(all, func(s sample) bool { return s.Pinned }))
		table += fmt.Sprintf("| %s | %s | %s | %s | %+.1f %% | %s |\n", m.name, short(first), short(pinned), short(last), 100*(last-first)/max(first, 1e-9), m.says(verdict))
	}
	return table, wrong
}

// verdict is 1 where the second value is worse by more than so many percent.
func (m measure) verdict(a, b, tolerance float64) int {
	if float64(m.better)*100*(b-a)/max(a, 1e-9) < -tolerance && math.Abs(b-a) > m.slack {
		return 1
	}
	return 0
}

func (m measure) says(verdict int) string {
	switch {
	case m.better == 0:
		return ""
	case verdict > 0:
		return "NO"
	case m.stays:
		return "yes, before and after"
	}
	return "yes"
}

// eachPeriod is a table of each figure of each period.
func (c calendar) eachPeriod(all []sample) string {
	heads := slices.Repeat([]string{"warm-up"}, c.warmUp)
	for i := range c.periods - c.warmUp {
		heads = append(heads, fmt.Sprint(i+1))
	}
	table := fmt.Sprintf("| tenth | %s |\n|---|%s\n", strings.Join(heads, " | "), strings.Repeat("--:|", c.periods))
	for _, m := range measures {
		var cells []string
		for period := range c.periods {
			cells = append(cells, short(m.of(inPeriod(all, period))))
		}
		table += fmt.Sprintf("| %s | %s |\n", m.name, strings.Join(cells, " | "))
	}
	return table
}

// judge tells of all. At length each figure must have stayed; the short form has too few samples to judge by.
func (d *day) judge() {
	table, wrong := d.compare(d.samples, setting("PGTICK_SOAK_TOLERANCE", 10))
	took := d.samples[len(d.samples)-1].At.Sub(d.samples[0].At)
	seen.add("\nA day in %.0f minutes, which took %.0f:\n\n%s\n%s", d.length.Minutes()*float64(d.periods), took.Minutes(), table, d.eachPeriod(d.samples))
	if full() {
		require.Empty(d.t, wrong)
	}
}

// The judge must be able to condemn.
func TestDay_TheJudge_FindsWhatHasBecomeWorse_AndNothingElse(t *testing.T) {
	t.Parallel()
	flat := sample{Burst: 5000, Waits: []float64{20, 20}, Memory: []float64{40}, Table: 50 << 20, Indexes: 30 << 20, History: 90 << 20, Slots: 4 << 20, Partitions: 39, Ledger: 9 << 20, Others: 20 << 20,
		Dead: 1000, HistoryRow: 256, SlotRow: 250, Entry: 600, LogOfAJob: 1200, Jobs: 90000}
	run := func(from int, change func(s *sample)) (wrong []string) {
		var all []sample
		for period := range long.periods {
			s := flat
			s.Period, s.Pinned = period, long.pinnedIn(period)
			if period >= from || s.Pinned { // what is worse while it is pinned is no matter
				change(&s)
			}
			all = append(all, s)
		}
		table, wrong := long.compare(all, 10)
		require.Len(t, strings.Split(table, "\n"), len(measures)+3)
		require.Len(t, strings.Split(long.eachPeriod(all), "\n"), len(measures)+3)
		return wrong
	}
	end := long.periods - 1
	require.Empty(t, run(end, func(*sample) {}))
	require.Empty(t, run(end, func(s *sample) {
		s.Burst, s.Table, s.Memory, s.Jobs, s.Ledger = 4600, 54<<20, []float64{43}, 1, 900<<20
	}))
	require.Empty(t, run(long.pinned, func(s *sample) { s.Others = 40 << 20 }), "what the old transaction has left, and has not grown since")
	require.Len(t, run(long.pinned-1, func(s *sample) { s.Others = 100 << 20 }), 1, "that began before it")
	require.Len(t, run(long.pinned, func(s *sample) { s.Table = 200 << 20 }), 1, "the table is to be as small again as it was")
	require.Len(t, run(long.pinned, func(s *sample) { s.Indexes = 100 << 20 }), 1, "and so are its indexes")
	for name, change := range map[string]func(s *sample){
		"jobs/s of a peak":        func(s *sample) { s.Burst = 4400 },
		"start of a job, p50, ms": func(s *sample) { s.Waits = []float64{23, 23, 21} },
		"start of a job, p99, ms": func(s *sample) { s.Waits = []float64{20, 20, 20, 20, 23} },
		"memory of a runner, MiB": func(s *sample) { s.Memory = []float64{45} },
		"live_jobs, MiB":          func(s *sample) { s.Table = 56 << 20 },
		"its indexes, MiB":        func(s *sample) { s.Indexes = 34 << 20 },
		"other tables, MiB":       func(s *sample) { s.Others = 23 << 20 },
		"history, bytes a row":    func(s *sample) { s.HistoryRow = 290 },
		"slots, bytes a row":      func(s *sample) { s.SlotRow = 290 },
		"partitions":              func(s *sample) { s.Partitions = 44 },
		"ledger, bytes an entry":  func(s *sample) { s.Entry = 700 },
		"log (WAL), bytes a job":  func(s *sample) { s.LogOfAJob = 1400 },
	} {
		wrong := run(end, change)
		require.NotEmpty(t, wrong, name)
		require.True(t, slices.ContainsFunc(wrong, func(one string) bool { return strings.HasPrefix(one, name+": ") }), "%s: %v", name, wrong)
	}
}

// short has three digits that count.
func short(value float64) string {
	if value == 0 || math.IsNaN(value) || math.IsInf(value, 0) {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(value)))))
	return fmt.Sprintf("%.*f", digits, value)
}
