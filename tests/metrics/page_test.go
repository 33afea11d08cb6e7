package metrics

import (
	"fmt"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// program is one of Debian's package prometheus, where .ci/prepare puts it, or installed.
func program(t *testing.T, name string) string {
	t.Helper()
	if found, err := exec.LookPath(name); err == nil {
		return found
	}
	fetched := filepath.Join(root(t), ".pgtick", "prometheus", "usr", "bin", name)
	require.FileExists(t, fetched, "%s is missing: run .ci/prepare test", name)
	return fetched
}

func families(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(text))
	require.NoError(t, err, text)
	return all
}

// shape is a metric's kind and the names of its labels.
func shape(f *dto.MetricFamily) string {
	var labels []string
	for _, m := range f.Metric {
		for _, l := range m.Label {
			labels = append(labels, l.GetName())
		}
	}
	slices.Sort(labels)
	return fmt.Sprintln(strings.ToLower(f.GetType().String()), slices.Compact(labels))
}

var rowOfMetric = regexp.MustCompile("(?m)^\\| `(pgtick_[a-z_]+)` \\| ([a-z]+) \\|([a-z, ]*)\\| (\\S.*) \\|$")

// onPage are the metrics that the page tells of, with their shapes.
func onPage(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, row := range rowOfMetric.FindAllStringSubmatch(file(t, "docs/metrics.md"), -1) {
		labels := strings.FieldsFunc(row[3], func(r rune) bool { return r == ',' || r == ' ' })
		slices.Sort(labels)
		require.NotContains(t, all, row[1], "told twice")
		all[row[1]] = fmt.Sprintln(row[2], labels)
	}
	require.Greater(t, len(all), 40)
	return all
}

// A runner to which everything has happened of which there is a figure.
func TestMetrics_OfARunner_AreThoseOfThePage_AndNamedAsPrometheusWants(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.schedule('late', '@every 1s', 'test.nobody_has_it', p_must_finish_within => '1 second'), pgtick.pause_queue('mail')`)
	becomes(t, db, true, `select exists (select from pgtick.tick(), pgtick.overdue_schedules(pgtick.now()))`)
	do(t, db, `select pgtick.enqueue('test.noop')`)
	r := work(t, db, nil)
	page, text := onPage(t), ""
	require.Eventually(t, func() bool {
		var err error
		text, err = get(t, r.url+"/metrics")
		require.NoError(t, err)
		for name := range page {
			if !strings.Contains(text, "\n# TYPE "+name+" ") {
				return false
			}
		}
		return true
	}, within, every, "all that the page tells of")
	served, all := map[string]string{}, families(t, text)
	grafana(t).requireServed(t, all)
	for name, f := range all {
		require.NotEmpty(t, f.GetHelp(), name)
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			served[name] = shape(f)
		}
	}
	require.Equal(t, page, served)

	check := exec.CommandContext(t.Context(), program(t, "promtool"), "check", "metrics")
	check.Stdin = strings.NewReader(ours(text))
	said, err := check.CombinedOutput()
	require.NoError(t, err, string(said))
	require.Empty(t, string(said))
	require.NotContains(t, text, db.Name, "one database needs no label")
}

// ours leaves out what the client's library says of Go and the process.
func ours(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, "pgtick_") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func TestMetrics_TenThousandNames_MakeAFewSeries_AndLoseNoAttempt(t *testing.T) {
	t.Parallel()
	m := metricsOf(t)
	var names []string
	for i := range 10000 {
		name := fmt.Sprintf("task-%d", i)
		m.Finished(name, fmt.Sprintf("queue-%d", i%5000), "done", time.Second, time.Second)
		m.Finished(name, "default", "failed", 0, 0)
		names = append(names, name)
	}
	m.Overdue(names)
	sum, series := 0.0, 0
	for _, f := range m.gather(t) {
		series += len(f.Metric)
		for _, one := range f.Metric {
			if f.GetName() == "pgtick_attempts_finished_total" {
				sum += one.GetCounter().GetValue()
			}
		}
	}
	require.Equal(t, 20000.0, sum)
	require.Equal(t, 9900.0, m.value(t, "pgtick_schedule_overdue", "other"))
	require.Equal(t, 1.0, m.value(t, "pgtick_schedule_overdue", "task-0"))
	require.NotEqual(t, -1.0, m.value(t, "pgtick_attempts_finished_total", "failed", "other", "other"), "outcome, queue, task")
	require.Less(t, series, 1500)

	server := httptest.NewServer(promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	defer server.Close()
	best := time.Hour
	for range 10 {
		began := time.Now()
		text, err := get(t, server.URL)
		require.NoError(t, err)
		require.Less(t, len(text), 1<<20)
		best = min(best, time.Since(began))
	}
	t.Logf("%d series are scraped in %s (best of 10)", series, best)
}

// Queues are names that anybody may make up.
func TestMetrics_OfThousandsOfQueues_NameTheFirstOnes_AndAddUpTheRest(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	do(t, db, `select pgtick.enqueue('a', p_queue => 'queue ' || i) from generate_series(1, 1200) as i`)
	pgtest.Advance(t, db, time.Minute)
	m := metricsOf(t)
	reader(t, m, db)()
	depth := m.family(t, "pgtick_queue_depth").Metric
	require.Len(t, depth, 51)
	sum := 0.0
	for _, one := range depth {
		sum += one.Gauge.GetValue()
	}
	require.Equal(t, 1000.0, sum, "of as many lanes as are looked at")
	require.Equal(t, 950.0, m.value(t, "pgtick_queue_depth", "other"))
	require.Equal(t, 1.0, m.value(t, "pgtick_queue_depth_is_more", "other"), "and it says that there are others")
	require.InDelta(t, 60, m.value(t, "pgtick_queue_oldest_job_age_seconds", "other"), 30)
}

// A scrape is answered from memory, also while the database is away.
func TestMetrics_AScrape_CostsTheDatabaseNothing(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	m := metricsOf(t)
	query := &counting{DB: db.Pool}
	ended := make(chan struct{})
	go func() { m.Read(t.Context(), query, logrus.NewEntry(logrus.New()), time.Hour); close(ended) }()
	require.Eventually(t, func() bool { return query.n.Load() == 2 && m.family(t, "pgtick_runners") != nil }, within, every)
	server := httptest.NewServer(promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	defer server.Close()
	for range 50 {
		text, err := get(t, server.URL)
		require.NoError(t, err)
		require.Contains(t, text, "pgtick_runners{")
	}
	require.Equal(t, int64(2), query.n.Load())
}

func TestRules_AreUnderstood_AndAlertWhenTheyShould(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(root(t), "deploy")
	for _, args := range [][]string{{"check", "rules", "prometheus-rules.yaml"}, {"test", "rules", "prometheus-rules-test.yaml"}} {
		cmd := exec.CommandContext(t.Context(), program(t, "promtool"), args...)
		cmd.Dir = folder
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, string(said))
		require.Contains(t, string(said), "SUCCESS")
	}
	served, page, tests := onPage(t), file(t, "docs/metrics.md"), file(t, "deploy/prometheus-rules-test.yaml")
	named := regexp.MustCompile(`\b(pgtick)_[a-z_]+`)
	for _, rule := range rules(t) {
		for _, name := range named.FindAllString(rule.Expr, -1) {
			require.Contains(t, served, strings.TrimSuffix(name, "_bucket"), "%s: no runner serves %s", rule.Alert, name)
		}
		require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["remedy"], rule.Alert)
		require.Contains(t, tests, rule.Alert, "tested to fire")
		require.Contains(t, page, "\n| `"+rule.Alert+"` | ", "docs/metrics.md names every alert")
	}
	require.Len(t, rules(t), strings.Count(page, "\n| `Pgtick"), "and no other")
}

type rule struct {
	Alert, Expr string
	Annotations map[string]string
}

func rules(t *testing.T) []rule {
	t.Helper()
	var all struct{ Groups []struct{ Rules []rule } }
	require.NoError(t, yaml.Unmarshal([]byte(file(t, "deploy/prometheus-rules.yaml")), &all))
	require.Len(t, all.Groups, 1)
	return all.Groups[0].Rules
}
