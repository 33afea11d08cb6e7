package dashboard_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// A queue's row tells what waits and runs by state, since when, who serves it, and by whom and why it is paused.
func TestQueues_ListTellsDepthByState(t *testing.T) {
	t.Parallel()
	d := open(t)
	pgtest.SetNow(t, d.DB, time.Now()) // so that ten minutes are ten minutes, however long the rest takes
	run(t, d.DB, `select pgtick.enqueue('a', p_queue => 'mail') from generate_series(1, 3)`)
	pgtest.Advance(t, d.DB, 10*time.Minute)
	run(t, d.DB, `select pgtick.enqueue('b', p_queue => 'mail', p_priority => 1) from generate_series(1, 2); select pgtick.enqueue('a', p_queue => 'mail', p_run_at => pgtick.now() + interval '1 hour') from generate_series(1, 4);
		select pgtick.enqueue('after', p_queue => 'mail', p_after => array[pgtick.enqueue('first', p_queue => 'default')]);
		select pgtick.enqueue('again', p_queue => 'mail'); update pgtick.live_jobs set attempt = 1, run_at = pgtick.now() + interval '1 minute' where task = 'again';
		select pgtick.pause_queue('mail', 'the server moves')`)
	pgtest.Claim(t, d.DB, "runner-a", time.Minute, "first")
	status, body := d.get(t, "/queues")
	require.Equal(t, http.StatusOK, status, words(body))
	require.Contains(t, says(element(t, body, "tr", "queue-mail")), "mail 5 10 min ago 0 1 4 1 0 paused since")
	require.Contains(t, says(element(t, body, "tr", "queue-mail")), "by postgres: the server moves Resume")
	require.Regexp(t, `^default 0 – 1 0 0 0 1 ok`, says(element(t, body, "tr", "queue-default")))
	_, body = d.reader().get(t, "/queues")
	require.NotContains(t, body, "/do/")
}

// Of a lane that is long the first ones are counted, and the page says that there are more; it reads no more than those.
func TestQueues_OfALongQueue_CountsTheFirstAndSaysSo(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `insert into pgtick.live_jobs (task, queue, priority, run_at, max_attempts, timeout, args, created_at)
		select case when g <= 12000 then 'long' else 'short' end, 'mail', 5, now() - interval '1 hour', 20, '5 minutes', '{}', now() from generate_series(1, 12300) as g`)
	_, body := d.get(t, "/queues")
	require.Contains(t, says(element(t, body, "tr", "queue-mail")), "mail 10,300+ 1 h ago")
	for _, p := range d.plans(t, "/queues") {
		readsLittle(t, p, "/queues", 10_000, "live_jobs", "history")
		require.NotContains(t, p.Text, "Sort Key: j.run_at")
	}
}

// A queue is paused with a reason from its row, in the browser, and the page follows what happens without being loaded again.
func TestQueues_PauseWithReason_AndResume(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.enqueue('a', p_queue => 'mail')`)
	b := d.browse(t)
	b.visit("/queues")
	b.click("#queue-mail summary")
	b.fill("#queue-mail input[name=reason]", "the server moves")
	b.press("#queue-mail details button")
	require.Contains(t, b.text("#notices"), "mail is paused until it is resumed")
	require.Equal(t, "dashboard: operator's token: the server moves", ask[string](t, d.DB, `select paused_by || ': ' || reason from pgtick.queues where queue = 'mail'`))
	require.Contains(t, b.text("#queue-mail"), "the server moves")
	run(t, d.DB, `select pgtick.resume_queue('mail')`)
	b.until(`document.querySelector('#queue-mail summary')`)
	b.axe()
	b.phone()

	refused := func(code int, message string, form url.Values) {
		status, body := d.post(t, "/do/queues/pause", form)
		require.Equal(t, code, status)
		require.Contains(t, says(body), message)
	}
	refused(http.StatusUnprocessableEntity, "Say why", url.Values{"queue": {"mail"}, "reason": {" "}})
	refused(http.StatusUnprocessableEntity, `Nothing has queue "mial"`, url.Values{"queue": {"mial"}, "reason": {"x"}})
	refused(http.StatusOK, "mial is paused", url.Values{"queue": {"mial"}, "reason": {"x"}, "anyway": {"1"}})
	refused(http.StatusOK, "mial is paused already, by dashboard: operator's token: x.", url.Values{"queue": {"mial"}, "reason": {"y"}})
	status, body := d.post(t, "/do/queues/resume", url.Values{"queue": {"mial"}})
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, says(body), "mial is resumed.")
	require.Equal(t, "pause_queue mail, resume_queue mail, pause_queue mial, queues/pause , resume_queue mial", strings.TrimSpace(ask[string](t, d.DB, `select string_agg(action || ' ' || subject, ', ' order by id) from pgtick.audit`)))
	for _, action := range []string{"queues/pause", "queues/resume", "limits/set", "limits/remove"} {
		status, _ = d.reader().post(t, "/do/"+action, url.Values{"queue": {"mail"}, "task": {"a"}, "reason": {"x"}, "rate": {"1"}})
		require.Equal(t, http.StatusForbidden, status, action)
	}
}

// A limit is set by a form, changed by the form that it fills, and taken away after a question.
func TestQueues_LimitSetChangedAndRemoved(t *testing.T) {
	t.Parallel()
	d := open(t)
	b := d.browse(t)
	const limit = `select coalesce((select concat_ws('|', task, per_key, rate, period, burst, max_running) from pgtick.limits), 'none')`
	b.visit("/queues")
	b.fill("#limit-form [name=task]", "mail.send")
	b.fill("#limit-form [name=rate]", "100")
	b.fill("#limit-form [name=period]", "1 minute")
	b.press("#limit-form button.primary")
	require.Equal(t, "mail.send|f|100|00:01:00|10", ask[string](t, d.DB, limit))
	require.Contains(t, b.text("#limit-rows"), "100 per minute")
	b.press("#limit-rows a.button")
	require.Contains(t, b.address(), "task=mail.send")
	b.fill("#limit-form [name=max_running]", "3")
	b.fill("#limit-form [name=rate]", "0")
	b.press("#limit-form button.primary")
	require.Contains(t, b.text("#e-rate"), "it goes from 1 to 1000000")
	b.fill("#limit-form [name=rate]", "200")
	b.press("#limit-form button.primary")
	require.Equal(t, "mail.send|f|200|00:01:00|10|3", ask[string](t, d.DB, limit))
	require.Contains(t, b.confirm("#limit-rows button.danger"), "Take the limit of mail.send away?")
	require.Equal(t, "none", ask[string](t, d.DB, limit))
	require.Equal(t, "set_limit, set_limit, remove_limit", ask[string](t, d.DB, `select string_agg(action, ', ' order by id) from pgtick.audit`))

	for field, form := range map[string]url.Values{"rate": {"task": {"x"}, "rate": {"many"}}, "period": {"task": {"x"}, "rate": {"1"}, "period": {"soon"}}, "max_running": {"task": {"x"}, "max_running": {"99999"}}} {
		status, body := d.post(t, "/do/limits/set", form)
		require.Equal(t, http.StatusUnprocessableEntity, status, field)
		require.Contains(t, body, fmt.Sprintf(`id="e-%s"`, field))
	}
	status, _ := d.post(t, "/do/limits/set", url.Values{"task": {"crm"}, "max_running": {"2"}, "per_key": {"1"}})
	require.Equal(t, http.StatusOK, status)
	run(t, d.DB, `select pgtick.enqueue('crm', p_limit_key => 'customer 7')`)
	pgtest.Claim(t, d.DB, "runner-a", time.Minute, "crm")
	_, body := d.get(t, "/queues?anew") // what was made of the other address is kept for a moment
	require.Contains(t, says(element(t, body, "tr", "limit-crm-true")), "crm each limit key no rate – 2 customer 7: 1")
}
