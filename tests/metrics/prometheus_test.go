package metrics

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// scraper is a real Prometheus, which scrapes each second and has our rules, but for how long they wait.
type scraper struct {
	t   *testing.T
	url string
}

func startPrometheus(t *testing.T, runners map[string]runner) *scraper {
	t.Helper()
	folder := t.TempDir()
	rules := regexp.MustCompile(`(?m)^ +for: .*\n`).ReplaceAllString(file(t, "deploy/prometheus-rules.yaml"), "")
	require.NotContains(t, rules, "for:")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "rules.yaml"), []byte(rules), 0o600))
	var targets strings.Builder
	for name, r := range runners {
		fmt.Fprintf(&targets, "      - {targets: [%q], labels: {instance: %s}}\n", strings.TrimPrefix(r.url, "http://"), name)
	}
	config := "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yaml]\nscrape_configs:\n  - job_name: pgtick\n    static_configs:\n" + targets.String()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "prometheus.yml"), []byte(config), 0o600))
	address := freeAddress(t)
	start(t, nil, program(t, "prometheus"), "--config.file="+filepath.Join(folder, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(folder, "data"),
		"--web.listen-address="+address, "--log.level=warn")
	p := &scraper{t, "http://" + address}
	require.Eventually(t, func() bool { _, err := get(t, p.url+"/-/ready"); return err == nil }, within, every)
	return p
}

// freeAddress is one that nobody listens at just now. (Prometheus tells nobody which port it took by itself.)
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// alerts are those that fire, with what tells them apart. Where Prometheus does not answer, whoever waits asks again.
func (p *scraper) alerts() (firing []string) {
	p.t.Helper()
	text, err := get(p.t, p.url+"/api/v1/alerts")
	if err != nil {
		p.t.Log(err)
		return nil
	}
	var answer struct {
		Data struct {
			Alerts []struct {
				State  string
				Labels map[string]string
			}
		}
	}
	require.NoError(p.t, json.Unmarshal([]byte(text), &answer))
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			firing = append(firing, strings.TrimSpace(a.Labels["alertname"]+" "+a.Labels["instance"]+a.Labels["queue"]+a.Labels["what"]+a.Labels["task"]+a.Labels["schedule"]))
		}
	}
	return firing
}

// scraped tells how many samples there are of a metric.
func (p *scraper) scraped(query string) bool {
	p.t.Helper()
	text, err := get(p.t, p.url+"/api/v1/query?query="+url.QueryEscape(query))
	return err == nil && strings.Contains(text, `"metric"`)
}

// Two databases in which much is wrong, three runners, and a Prometheus that scrapes them.
func TestAlerts_OfARealPrometheus_FireWhenWhatTheyAreForIsReal(t *testing.T) {
	t.Parallel()
	still, busy := stillDatabase(t), fresh(t)
	redis := pgtest.Redis(t)
	do(t, busy, `select pgtick.schedule('late', '@every 1s', 'test.nobody_has_it', p_must_finish_within => '1 second')`)
	do(t, busy, `select pgtick.schedule('missed', '@every 5m', 'test.noop', p_on_missed => 'skip')`)
	do(t, busy, `select pgtick.set_limit('test.noop', 1000, '1 second')`)
	becomes(t, busy, true, `select exists (select from pgtick.tick(), pgtick.overdue_schedules(pgtick.now()))`)
	pgtest.Advance(t, busy, 20*time.Minute)
	do(t, busy, `select pgtick.enqueue('test.sleep', '{"ms": 3600000}', 'doomed')`)

	// Behind a pooler in transaction mode no notification arrives.
	pooled := pgtest.StartPgBouncer(t, still, "transaction")
	deaf := begin(t, still, []string{"LISTEN_DATABASE_URL=" + asRunner(t, still, pooled)}, "--clock=off")
	well := work(t, busy, []string{"REDIS_URL=" + redis.URL}, "--lease=3s")
	doomed := work(t, busy, []string{"REDIS_URL=" + redis.URL}, "--queues=doomed", "--clock=off", "--lease=3s")
	becomes(t, busy, "running", `select state from pgtick.jobs where queue = 'doomed'`)
	p := startPrometheus(t, map[string]runner{"deaf": deaf, "well": well, "doomed": doomed})
	require.Eventually(t, func() bool {
		return p.scraped(`pgtick_limits_local{instance="well"} == 0`) && p.scraped(`up{instance="doomed"} == 1`)
	}, within, every)
	doomed.kill()
	redis.Kill()
	do(t, busy, `select pgtick.enqueue('test.permanent')`)

	wanted := []string{
		"PgtickNoClock", "PgtickOldestJob default", "PgtickQueuePaused mail", "PgtickRunnerLate", "PgtickUnhealthy task without a runner", "PgtickCreditViolations",
		"PgtickCreditHoldsKept", "PgtickDeaf deaf",
		"PgtickScheduleOverdue late", "PgtickSlotsMissed", "PgtickJobsFailed test.permanent", "PgtickAttemptsFail test.fail", "PgtickRunnerDied", "PgtickRedisAway well", "PgtickRunnerDown doomed",
	}
	seen := map[string]bool{}
	missing := wanted
	require.Eventually(t, func() bool {
		do(t, busy, `select pgtick.enqueue('test.fail', p_max_attempts => 1), pgtick.enqueue('test.noop')`)
		for _, a := range p.alerts() {
			seen[a] = true
		}
		missing = slices.DeleteFunc(slices.Clone(wanted), func(a string) bool { return seen[a] })
		return len(missing) == 0
	}, within, 500*time.Millisecond, "%v", &missing)
	for alert := range seen {
		name, _, _ := strings.Cut(alert, " ")
		// (Not that no runner answers: a busy machine may leave a scrape without its answer.)
		require.False(t, slices.Contains([]string{"PgtickNoContact", "PgtickNotRead", "PgtickRunnerRestarts", "PgtickConnectionsShort", "PgtickNotificationsLost"}, name),
			"%s fires, and nothing of the kind has happened", alert)
	}
	deaf.kill()
	well.kill()
	require.Eventually(t, func() bool { return slices.Contains(p.alerts(), "PgtickNoRunner") }, within, 500*time.Millisecond)
}

// stillDatabase is one in which twenty minutes ago the last clock ticked.
func stillDatabase(t *testing.T) *pgtest.DB {
	t.Helper()
	db := fresh(t)
	do(t, db, `select pgtick.schedule('minutely', '* * * * *', 'test.noop')`)
	do(t, db, `select pgtick.enqueue('nobody has it'), pgtick.enqueue('nobody has it', p_queue => 'mail'), pgtick.pause_queue('mail')`)
	do(t, db, `select credits.open_account(`+user+`)`)
	do(t, db, `select credits.grant(`+user+`, 1000, 'g')`)
	do(t, db, `select credits.hold(`+user+`, 10, '1 minute', 'h')`)
	do(t, db, `set session_replication_role = replica; update credits.accounts set balance = balance + 1 where user_id = `+user+`; reset session_replication_role`)
	do(t, db, `select pgtick.register('lost', '{default}', '{a}', '1 minute')`)
	pgtest.Advance(t, db, 20*time.Minute)
	return db
}

// asRunner is an address with the runner's login.
func asRunner(t *testing.T, db *pgtest.DB, address string) string {
	t.Helper()
	login, err := url.Parse(pgtest.RunnerURL(t, db))
	require.NoError(t, err)
	through, err := url.Parse(address)
	require.NoError(t, err)
	through.User = login.User
	return through.String()
}
