package dashboard_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/web"
)

func TestHeaders_AllowNothingThatDoesNotComeFromHere(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, address := range []string{"/", "/login", "/nowhere", "/static/nothing.js"} {
		_, body, header := d.do(t, http.MethodGet, address, nil, nil)
		require.Equal(t, "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			header.Get("Content-Security-Policy"), address)
		require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"), address)
		require.Equal(t, "no-store", header.Get("Cache-Control"), address)
		require.Equal(t, "same-origin", header.Get("Cross-Origin-Opener-Policy"), address)
		require.Equal(t, "same-origin", header.Get("Cross-Origin-Resource-Policy"), address)
		require.NotRegexp(t, `(?i)<script>|<style|\sstyle=|\son[a-z]+=|javascript:|https?://`, body, address)
	}
}

func TestFiles_AreKeptForGood_UnderTheHashOfWhatTheyHold(t *testing.T) {
	t.Parallel()
	d := open(t).as("")
	_, page := d.get(t, "/login")
	for _, part := range strings.Split(page, `"`) {
		if !strings.HasPrefix(part, "/static/") {
			continue
		}
		status, body, header := d.do(t, http.MethodGet, part, nil, nil)
		require.Equal(t, http.StatusOK, status, part)
		require.NotEmpty(t, body)
		require.Equal(t, "public, max-age=31536000, immutable", header.Get("Cache-Control"))
	}
}

// hostile are names and values that try to become something else than text.
func hostile() []string {
	return []string{
		`<script>window.owned=1</script>`, `"><img src=x onerror="window.owned=1">`, `' onmouseover='window.owned=1`, `</main></body><script>window.owned=1</script>`,
		`javascript:window.owned=1`, `{{.}}${1}<%= 1 %>`, "a\u202egnp.exe", "line\u2028break\u2029", `<svg/onload=window.owned=1>`, `--><!--`, `]]>`, strings.Repeat("x", 150), `&lt;b&gt;`, `<b data-chart='[1]'>`,
	}
}

// Whatever a job is called, holds and says stays text, on every page that shows it, in a real browser.
func TestHostileNamesArgumentsAndErrors_StayText(t *testing.T) {
	t.Parallel()
	d := open(t)
	var last int64
	for _, text := range hostile() {
		args, err := json.Marshal(map[string]any{text: text, "list": []string{text}})
		require.NoError(t, err)
		last = ask[int64](t, d.DB, `select pgtick.enqueue($1, $2::jsonb, p_queue => $1)`, text, string(args))
		run(t, d.DB, `select pgtick.pause_queue($1, $1)`, text)
	}
	failed, err := json.Marshal(map[string]string{"message": strings.Join(hostile(), "\n"), "stack": strings.Join(hostile(), "\n")})
	require.NoError(t, err)
	run(t, d.DB, `insert into pgtick.runner_leases (name, queues, tasks, version, lease, lease_until, registered_at, heartbeat_at)
		select n, array[n], array[n], n, '1 hour', pgtick.now() + interval '1 hour', pgtick.now(), pgtick.now() from unnest($1::text[]) as n`, hostile())
	run(t, d.DB, `with gone as (delete from pgtick.live_jobs where id = $1 returning *)
		insert into pgtick.history (id, task, queue, priority, state, run_at, attempt, uncounted, max_attempts, losses, deaths, timeout, args, created_at, started_at, finished_at, expires_on, error)
		select g.id, g.task, g.queue, g.priority, 'failed', g.run_at, 1, 0, 20, 0, 0, g.timeout, g.args, g.created_at, g.created_at, pgtick.now(), current_date + 30, $2::jsonb from gone as g`, last, string(failed))
	b := d.browse(t)
	for _, address := range []string{"/", "/jobs", path("/jobs/%d", last), path("/jobs/%d", last-1), "/queues", "/runners", "/actions", "/jobs?task=" + url.QueryEscape(hostile()[0]),
		"/jobs?queue=" + url.QueryEscape(hostile()[1]), "/actions?subject=" + url.QueryEscape(hostile()[1])} {
		b.visit(address)
		var owned bool
		b.eval(`!!window.owned || !!document.querySelector('img, main script, main b, main [onerror], main [onmouseover]') || [...document.links].some(a => a.protocol === 'javascript:')`, &owned)
		require.False(t, owned, address)
		require.NotContains(t, b.text("main"), "\u202e", address)
	}
	b.visit("/jobs")
	require.Contains(t, b.text("main"), hostile()[0])
	require.Contains(t, b.text("main"), "a⟨U+202E⟩gnp.exe")
	b.phone()
}

func enqueueSecrets(t *testing.T, d *dash) (id int64) {
	t.Helper()
	return ask[int64](t, d.DB, `select pgtick.enqueue('mail.send', '{"to": "anna@example.org", "smtp": {"Password": "geheim-1", "deep": [{"api_key": "geheim-2"}]}, "iban": "geheim-3", "subject": "Hello"}')`)
}

func TestArguments_AreHiddenByTheRules_AtAnyDepth_FromEverybody(t *testing.T) {
	t.Parallel()
	hide, withDefault, err := web.ParseHidden("mail.*:iban, other.task:to")
	require.NoError(t, err)
	d := open(t, func(o *web.Options) { o.Rules = web.Rules{Hide: hide, HideDefault: withDefault} })
	id := enqueueSecrets(t, d)
	status, body := d.get(t, path("/jobs/%d", id))
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "anna@example.org")
	require.Contains(t, body, "Hello")
	require.NotContains(t, body, "geheim")
	require.Contains(t, words(body), "3 values hidden")
	for _, address := range []string{"/jobs", "/jobs?text=geheim", path("/jobs/new?copy=%d", id)} {
		_, body = d.get(t, address)
		require.NotContains(t, strings.ReplaceAll(body, "text=geheim", ""), "geheim-", address)
	}
	status, body = d.reader().get(t, path("/jobs/%d", id))
	require.Equal(t, http.StatusOK, status)
	require.NotContains(t, body, "anna@example.org", "readers see no arguments at all")
	require.NotContains(t, body, "Hello")
	require.Contains(t, words(body), "not shown to readers")
}

func TestArguments_AreShownToReaders_WhereTheSettingSaysSo(t *testing.T) {
	t.Parallel()
	d := open(t, func(o *web.Options) { o.Rules = web.Rules{HideDefault: true, ReadersSee: true} })
	id := enqueueSecrets(t, d)
	_, body := d.reader().get(t, path("/jobs/%d", id))
	require.Contains(t, body, "anna@example.org")
	require.Contains(t, body, "geheim-3", "no rule names it")
	require.NotContains(t, body, "geheim-1")
}

func TestActions_AreRecordedOnce_WithWhoAndWhat(t *testing.T) {
	t.Parallel()
	d := open(t)
	id := ask[int64](t, d.DB, `select pgtick.enqueue('mail.send', p_queue => 'mail')`)
	anna := d.as("")
	_, _, _ = anna.do(t, http.MethodPost, "/login", url.Values{"token": {operatorToken}, "name": {"Anna <b>"}, "to": {"/keys"}}, nil)
	status, body := anna.post(t, "/do/queues/pause", url.Values{"queue": {"mail"}, "reason": {"upkeep"}, "back": {"/queues"}})
	require.Equal(t, http.StatusOK, status, words(body))
	status, body = anna.post(t, "/do/jobs/cancel", url.Values{"id": {path("%d", id)}, "back": {"/jobs"}})
	require.Equal(t, http.StatusOK, status, words(body))
	require.Equal(t, `[{"who" : "dashboard: operator's token (Anna <b>)", "action" : "pause_queue", "subject" : "mail"}, {"who" : "dashboard: operator's token (Anna <b>)", "action" : "jobs/cancel", "subject" : "`+path("%d", id)+`"}]`,
		ask[string](t, d.DB, `select json_agg(json_build_object('who', a.by_whom, 'action', a.action, 'subject', a.subject) order by a.id)::text from pgtick.audit as a`),
		"the function that writes a row itself is not written down twice")
	_, body = d.get(t, "/actions")
	require.Contains(t, words(body), "Anna &lt;b&gt;")
	require.Contains(t, words(body), "pause_queue")
}

// What the database refuses is told in its words, and leaves nothing behind.
func TestActions_ThatAreRefused_SayWhy_AndLeaveNothing(t *testing.T) {
	t.Parallel()
	d := open(t)
	status, body := d.post(t, "/do/jobs/cancel", url.Values{"id": {"4711"}, "back": {"/jobs"}})
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, words(body), "4711")
	require.Contains(t, body, `class="notice bad"`)
	require.Zero(t, ask[int](t, d.DB, `select count(*) from pgtick.audit`))
	_, again := d.get(t, "/jobs")
	require.NotContains(t, again, `class="notice bad"`, "it is told once")
}

// The form says where to go back to, and could be anybody's.
func TestActions_LeadBackIntoTheDashboardAlone(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, back := range []string{"https://evil.example/", "//evil.example/", `/\evil.example`, `\\evil.example`, "evil.example", "/\t/evil.example", "\t//evil.example", ""} {
		status, _, header := d.do(t, http.MethodPost, "/do/jobs/cancel", url.Values{"id": {"1"}, "back": {back}}, nil)
		require.Equal(t, http.StatusSeeOther, status, back)
		require.Regexp(t, `^/([^/\\\t]|$)`, header.Get("Location"), back)
	}
}
