package metrics

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// panel is a part of a dashboard of Grafana.
type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []struct {
		Datasource source
		Expr       string
	}
}

type source struct{ Type, UID string }

type board struct {
	UID        string
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type string
			Datasource source
			Query      json.RawMessage
		}
	}
}

func grafana(t *testing.T) (b board) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(file(t, "deploy/grafana/pgtick.json")), &b))
	return b
}

// expressions are all that the dashboard asks Prometheus.
func (b board) expressions() (all []string) {
	for _, p := range b.Panels {
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	return all
}

var (
	metricNamed = regexp.MustCompile(`\b(pgtick|process|go)_[a-z_]+`)
	labelsOf    = regexp.MustCompile(`\bby \(([a-z_, ]+)\)|\b(pgtick_[a-z_]+)\{([^}]*)\}`)
	addedLabels = []string{"database", "instance", "job", "le"} // by a runner with several databases, by Prometheus, of each histogram
)

// requireServed fails where the dashboard asks for a metric, or by a label, that a runner does not have.
func (b board) requireServed(t *testing.T, served map[string]*dto.MetricFamily) {
	t.Helper()
	asked := b.expressions()
	for _, v := range b.Templating.List {
		asked = append(asked, string(v.Query))
	}
	for _, expr := range asked {
		known := slices.Clone(addedLabels)
		for _, name := range metricNamed.FindAllString(expr, -1) {
			f := served[strings.TrimSuffix(name, "_bucket")]
			require.NotNil(t, f, "no runner serves %s, for which the dashboard of Grafana asks: %s", name, expr)
			for _, m := range f.Metric {
				for _, l := range m.Label {
					known = append(known, l.GetName())
				}
			}
		}
		for _, found := range labelsOf.FindAllStringSubmatch(expr, -1) {
			for _, one := range regexp.MustCompile(`[a-z_]+`).FindAllString(regexp.MustCompile(`[=!]~?"[^"]*"`).ReplaceAllString(found[1]+","+found[3], ""), -1) {
				require.Contains(t, known, one, "%s: no metric of it has this label", expr)
			}
		}
	}
}

// Whoever imports it chooses the Prometheus; every panel says what it shows, and none lies on another.
func TestGrafana_TheDashboard_CanBeImportedAnywhere_AndPrometheusUnderstandsIt(t *testing.T) {
	t.Parallel()
	b := grafana(t)
	require.Equal(t, "datasource", b.Templating.List[0].Type)
	for _, v := range b.Templating.List[1:] {
		require.Equal(t, source{"prometheus", "${datasource}"}, v.Datasource, v.Name)
	}
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range b.Panels {
		require.False(t, ids[p.ID], "%s: its id is another one's", p.Title)
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Empty(t, taken[[2]int{x, y}], "%s lies on it", p.Title)
				require.Less(t, x, 24, p.Title)
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		require.Equal(t, source{"prometheus", "${datasource}"}, p.Datasource, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		require.NotEmpty(t, p.Description, p.Title)
		for _, target := range p.Targets {
			require.Equal(t, source{"prometheus", "${datasource}"}, target.Datasource, p.Title)
		}
	}
	require.NotRegexp(t, `"uid": "[^$p]`, file(t, "deploy/grafana/pgtick.json"), "the uid of somebody's own")

	var rules []map[string]string
	for _, expr := range b.expressions() {
		expr = strings.NewReplacer("$__rate_interval", "5m", "$database", ".*", "$queue", ".*").Replace(expr)
		require.NotContains(t, expr, "$", "a variable that the dashboard has not")
		rules = append(rules, map[string]string{"record": "grafana:asks", "expr": expr})
	}
	require.Greater(t, len(rules), 30)
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "grafana", "rules": rules}}})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "asked.yaml")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	said, err := exec.CommandContext(t.Context(), program(t, "promtool"), "check", "rules", "--lint=none", path).CombinedOutput()
	require.NoError(t, err, string(said))
}
