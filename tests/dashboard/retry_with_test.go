package dashboard_test

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

var textOfArgs = regexp.MustCompile(`(?s)<textarea[^>]* name="args"[^>]*>\n(.*?)</textarea>`)

// filled is the form for it as it is sent when nothing is typed or ticked.
func filled(t *testing.T, body string) url.Values {
	t.Helper()
	form := formOf(t, body, "retry-with")
	found := textOfArgs.FindStringSubmatch(body)
	require.NotNil(t, found, words(body))
	form.Set("args", html.UnescapeString(found[1]))
	return form
}

func TestJobs_ARetryWithOtherArguments_ChangesThem_AndSaysWhyInTheRecord(t *testing.T) {
	t.Parallel()
	d := office(t)
	require.Equal(t, "/jobs/2/retry", linked(d.page(t, "/jobs/2"), "retry-with"))
	require.Empty(t, linked(d.page(t, "/jobs/1"), "retry-with"), "a done job can't be retried")
	require.Contains(t, words(d.page(t, "/jobs/1/retry")), "Job 1 is done: only a failed, cancelled or waiting one can be retried.")
	given := filled(t, d.page(t, "/jobs/2/retry"))
	require.Equal(t, "{\n  \"to\": \"bob\"\n}", given.Get("args"), "it begins with those that it has")
	for _, c := range []struct{ field, value, says string }{
		{"args", `{"to": }`, "not JSON at line 1, column 8"},
		{"args", `{ "to" : "bob" }`, "These are the arguments that it has."},
		{"args", "", "Give the arguments"},
		{"args", "[1]", "args are a JSON object"},
		{"reason", " ", "Say why the arguments change"},
		{"attempt", "0", "Somebody has retried job 2 since you opened this form"},
	} {
		form := url.Values{"id": {"2"}, "attempt": {given.Get("attempt")}, "args": {`{"to": "bert"}`}, "reason": {"bob has left"}}
		form.Set(c.field, c.value)
		status, body := d.post(t, "/do/jobs/retry-with", form)
		require.Equal(t, http.StatusUnprocessableEntity, status, "%s: %s", c.says, words(body))
		require.Contains(t, html.UnescapeString(words(body)), c.says)
		if c.field != "reason" {
			require.Contains(t, body, `name="reason" value="bob has left"`, "what was given stays")
		}
	}
	require.Equal(t, "failed", ask[string](t, d.DB, `select state from pgtick.jobs where id = 2`))
	b := d.browse(t)
	b.visit("/jobs/2")
	b.press("#retry-with")
	b.axe()
	b.phone()
	b.desk()
	b.fill("#f-args", `{"to": "bert"`)
	b.until(`document.querySelector('#j-args') && document.querySelector('#j-args').textContent.startsWith('Not JSON yet') && document.querySelector('#f-args').getAttribute('aria-invalid') === 'true'`)
	b.axe()
	b.fill("#f-args", `{"to": "bert"}`)
	b.until(`document.querySelector('#j-args').textContent === '' && !document.querySelector('#f-args').hasAttribute('aria-invalid')`)
	b.fill("#f-reason", "bob has left")
	b.press("#retry")
	require.Equal(t, "/jobs/2", b.address())
	require.Contains(t, b.text("#notices"), "Job 2 is ready, with other arguments.")
	require.Equal(t, `ready {"to": "bert"}`, ask[string](t, d.DB, `select state || ' ' || args from pgtick.jobs where id = 2`))
	require.Equal(t, `dashboard: operator's token | retry_with | 2 | {"after": {"to": "bert"}, "before": {"to": "bob"}, "reason": "bob has left"}`, lastAudit(t, d.DB))
	require.Equal(t, 1, ask[int](t, d.DB, `select count(*) from pgtick.audit where subject = '2'`), "one row for one action")
	status, _ := d.reader().get(t, "/jobs/2/retry")
	require.Equal(t, http.StatusForbidden, status)
	status, _ = d.reader().post(t, "/do/jobs/retry-with", given)
	require.Equal(t, http.StatusForbidden, status)
}

func TestJobs_ARetryWithOtherArguments_NeverReplacesHiddenOnesByAccident(t *testing.T) {
	t.Parallel()
	d := office(t)
	run(t, d.DB, `select pgtick.enqueue('mail.send', '{"to": "kim", "password": "swordfish", "n": 12345678901234567890}')`)
	run(t, d.DB, `select pgtick.cancel(10)`)
	body := d.page(t, "/jobs/10/retry")
	require.NotContains(t, body, "swordfish")
	require.Contains(t, words(body), "1 value hidden")
	form := filled(t, body)
	require.Empty(t, form.Get("args"), "nothing to begin with, so that nothing stands for what is hidden")
	form.Set("args", `{"to": "kim"}`)
	form.Set("reason", "wrong")
	status, body := d.post(t, "/do/jobs/retry-with", form)
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.Contains(t, words(body), "Tick the box if that is meant.")
	require.NotContains(t, body, "swordfish")
	require.Contains(t, body, html.EscapeString(`{"to": "kim"}`), "what was typed stays")
	require.Contains(t, ask[string](t, d.DB, `select state || ' ' || args from pgtick.jobs where id = 10`), "swordfish")
	form.Set("all", "1")
	_, body = d.post(t, "/do/jobs/retry-with", form)
	require.Contains(t, words(body), "Job 10 is ready, with other arguments.")
	require.JSONEq(t, `{"to": "kim"}`, ask[string](t, d.DB, `select args::text from pgtick.jobs where id = 10`))
	_, body = d.get(t, "/actions?subject=10")
	require.NotContains(t, body, "swordfish", "nor does the record show it")
}

// Numbers that a float can't hold are kept as they are, and told apart.
func TestJobs_ARetryWithOtherArguments_KnowsLongNumbersApart(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.enqueue('mail.send', '{"n": 12345678901234567890}'), pgtick.cancel(1)`)
	form := filled(t, d.page(t, "/jobs/1/retry"))
	require.JSONEq(t, `{"n": 12345678901234567890}`, form.Get("args"))
	form.Set("args", `{"n": 12345678901234567891}`)
	form.Set("reason", "one more")
	_, body := d.post(t, "/do/jobs/retry-with", form)
	require.Contains(t, words(body), "Job 1 is ready, with other arguments.")
	require.Equal(t, "12345678901234567891", ask[string](t, d.DB, `select args ->> 'n' from pgtick.jobs where id = 1`))
}

// A filter that makes no sense comes back as it was typed, with what is wrong at its field, which has the focus.
func TestJobs_ARefusedFilter_ComesBackFilledIn_WithTheErrorAtItsField(t *testing.T) {
	t.Parallel()
	d := office(t)
	status, body := d.get(t, "/jobs?task=mail.send&since=7d&owner=bob&state=failed")
	require.Equal(t, http.StatusBadRequest, status)
	for _, kept := range []string{`name="task" value="mail.send"`, `name="since" value="7d"`, `name="owner" value="bob"`, `type="hidden" name="state" value="failed"`} {
		require.Contains(t, body, kept)
	}
	require.Regexp(t, `<input id="f-owner"[^>]* aria-describedby="h-owner e-owner" aria-invalid="true" autofocus>`, body)
	require.Contains(t, html.UnescapeString(part(t, body, "e-owner", "</p>")), `owner "bob" is no UUID`)
	require.Contains(t, body, `<details id="more" open>`, "the field is not folded away")
	require.Empty(t, listed(body), "and no job is shown that might be taken for what was asked for")
	require.NotContains(t, body, "/do/jobs/", "nor anything done to all that fit")
	require.NotContains(t, body, "data-live", "nothing of it changes by itself")
	_, body = d.get(t, "/jobs?state=gone&task=x")
	require.NotContains(t, body, `value="gone"`, "a state is no field to type in: it goes")
	_, body = d.get(t, "/jobs?colour=red&task=x")
	require.Contains(t, html.UnescapeString(words(body)), `there is no filter "colour"`)
	require.Contains(t, body, `name="task" value="x"`)
	b := d.browse(t)
	b.visit("/jobs?task=mail.send&owner=bob&state=failed")
	b.until(`document.activeElement.id === 'f-owner'`)
	b.axe()
	b.phone()
	b.desk()
	b.fill("#f-owner", jobsOwner)
	b.press("#filter button")
	require.Equal(t, "/jobs?owner="+jobsOwner+"&state=failed&task=mail.send", sortedAddress(t, b.address()))
	require.Contains(t, b.text("#jobs"), "connection REFUSED")
}

func sortedAddress(t *testing.T, address string) string {
	t.Helper()
	at, err := url.Parse(address)
	require.NoError(t, err)
	return at.Path + "?" + at.Query().Encode()
}
