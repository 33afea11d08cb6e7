package dashboard_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// An operator's login is enough for each action but those of the ledger, and the record names both who acted and the login.
func TestActions_WithAnOperatorsLogin_AreDone_ButForTheLedgers(t *testing.T) {
	t.Parallel()
	owned := office(t)
	db := owned.DB
	run(t, db, fmt.Sprintf(`select credits.open_account('%[1]s'); select credits.grant('%[1]s', 100, 'a'); select credits.hold('%[1]s', 40, '1 second', 'b'); select pgtick.schedule('nightly', '0 3 * * *', 'x')`, alice))
	pgtest.Advance(t, db, time.Minute)
	run(t, db, `alter role pgtick_operator login password 'to-act'`)
	d := openOn(t, db, func(o *web.Options) {
		o.Databases[0].Config = configOf(t, pgtest.URLAs(db, "pgtick_operator", "to-act"))
	})
	for _, address := range append(addresses(), "/jobs/1", "/jobs/2/retry", "/schedule?name=nightly", accountPage(alice)) {
		status, body := d.get(t, address)
		require.Equal(t, http.StatusOK, status, "%s: %s", address, words(body))
	}
	for _, act := range []struct {
		action string
		form   url.Values
		says   string
	}{
		{"jobs/retry", url.Values{"id": {"3"}}, "Job 3 is ready."},
		{"jobs/retry-with", url.Values{"id": {"2"}, "attempt": {"1"}, "args": {`{"to": "bert"}`}, "reason": {"bob has left"}}, "Job 2 is ready, with other arguments."},
		{"jobs/cancel", url.Values{"id": {"6"}}, "Job 6 is cancelled."},
		{"jobs/cancel-all", url.Values{"state": {"ready"}, "task": {"report.make"}, "until": {"2030-01-01T00:00:00Z"}}, "cancelled, or asked to stop."},
		{"jobs/retry-all", url.Values{"state": {"cancelled"}, "until": {"2030-01-01T00:00:00Z"}}, "retried."},
		{"jobs/new", url.Values{"task": {"mail.send"}, "args": {"{}"}}, "is enqueued."},
		{"queues/pause", url.Values{"queue": {"default"}, "reason": {"upkeep"}}, "default is paused"},
		{"queues/resume", url.Values{"queue": {"default"}}, "default is resumed."},
		{"limits/set", url.Values{"task": {"mail.send"}, "rate": {"5"}}, "mail.send is limited"},
		{"limits/remove", url.Values{"task": {"mail.send"}}, "The limit of mail.send is taken away."},
		{"schedules/run", url.Values{"name": {"nightly"}}, "of nightly is enqueued."},
		{"schedules/skip", url.Values{"name": {"nightly"}}, "nightly is paused until just after its next slot"},
		{"schedules/resume", url.Values{"name": {"nightly"}}, "nightly is resumed"},
		{"schedules/pause", url.Values{"name": {"nightly"}}, "nightly is paused until it is resumed."},
		{"schedules/save", url.Values{"name": {"hourly"}, "cron": {"0 * * * *"}, "task": {"x"}, "time_zone": {"UTC"}, "queue": {"default"}, "priority": {"5"}, "max_attempts": {"3"}, "timeout": {"5 minutes"},
			"on_missed": {"once"}, "catch_up_limit": {"100"}, "on_gap": {"run"}, "on_fold": {"first"}, "jitter": {"0"}}, "hourly is scheduled."},
		{"schedules/rename", url.Values{"name": {"hourly"}, "new_name": {"each hour"}}, "hourly is named each hour now"},
		{"schedules/remove", url.Values{"name": {"each hour"}}, "each hour is unscheduled."},
	} {
		act.form.Set("back", "/keys")
		status, body := d.post(t, "/do/"+act.action, act.form)
		require.Equal(t, http.StatusOK, status, "%s: %s", act.action, words(body))
		require.Contains(t, words(body), act.says, act.action)
	}
	require.Empty(t, ask[string](t, db, `select coalesce(string_agg(distinct a.by_whom, ', '), '') from pgtick.audit as a where a.by_whom <> 'dashboard: operator''s token (login pgtick_operator)' and a.by_whom not like 'postgres%'`))
	require.GreaterOrEqual(t, ask[int](t, db, `select count(distinct a.action) from pgtick.audit as a where a.by_whom = 'dashboard: operator''s token (login pgtick_operator)'`), 14)
	require.Equal(t, "dashboard: operator's token (login pgtick_operator)", ask[string](t, db, `select c.changed_by from pgtick.schedule_changes as c order by c.changed_at desc, c.version desc limit 1`))

	_, body := d.get(t, "/credits")
	require.Contains(t, words(body), "not by this login")
	require.NotContains(t, body, "/do/credits/release")
	_, body = d.post(t, "/do/credits/release", url.Values{"hold": {"1"}, "back": {"/credits"}})
	require.Contains(t, words(body), "permission denied for function release")
	require.Equal(t, "open", ask[string](t, db, `select status from credits.holds where id = 1`))
}
