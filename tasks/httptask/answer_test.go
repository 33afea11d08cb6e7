package httptask

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetryAfter_IsSecondsOrADate_OfADayAtMost(t *testing.T) {
	t.Parallel()
	now := time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC)
	rows := map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, " 120 ": 2 * time.Minute, "86400": 24 * time.Hour, "86401": 24 * time.Hour,
		"99999999999999999999999": 24 * time.Hour, "-5": 0, "1.5": 0, "soon": 0, "10s": 0, "+10": 0,
		"Tue, 06 May 2031 12:00:30 GMT": 30 * time.Second, "Tuesday, 06-May-31 12:00:30 GMT": 30 * time.Second,
		"Tue May  6 12:00:30 2031": 30 * time.Second, "Tue, 06 May 2031 11:00:00 GMT": 0, "Tue, 06 May 2036 12:00:00 GMT": 24 * time.Hour,
	}
	for text, want := range rows {
		require.Equal(t, want, retryAfter(http.Header{"Retry-After": {text}}, now), text)
	}
	require.Zero(t, retryAfter(http.Header{}, now))
}

func TestRetryAfter_ADate_IsTakenByTheServersClock(t *testing.T) {
	t.Parallel()
	header := http.Header{"Retry-After": {"Tue, 06 May 2031 12:00:30 GMT"}, "Date": {"Tue, 06 May 2031 12:00:00 GMT"}}
	require.Equal(t, 30*time.Second, retryAfter(header, time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)))
}

func TestStatuses_ThatMayPass_AreTriedAgain(t *testing.T) {
	t.Parallel()
	for status := 100; status < 600; status++ {
		again := status >= 500 || status == 408 || status == 409 || status == 425 || status == 429
		require.Equal(t, again, mayPass(status), status)
	}
}

func answered(contentType, body string) *answer {
	return &answer{status: 200, header: http.Header{"Content-Type": {contentType}}, body: body, more: len(body) > keptBytes}
}

func kept(a *answer, secrets map[string]string) result {
	return a.result(&call{keepBody: true, keep: []string{"Content-Type"}}, newSecrets(secrets), 0)
}

func TestResult_KeepsJSONAsJSON_AndAllElseAsText(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	rows := []struct{ contentType, body, json, text string }{
		{"application/json", `{"a": [1, "x", null]}`, `{"a": [1, "x", null]}`, ""},
		{"application/problem+json; charset=utf-8", `"x"`, `"x"`, ""},
		{"application/json", `null`, `null`, ""},
		{"text/plain;charset=UTF-8", ` {"ok": true}`, `{"ok": true}`, ""}, // an Edge Function that says nothing of its type
		{"text/plain", `17`, "", "17"},
		{"text/plain", `[not json`, "", "[not json"},
		{"application/json", `{"a": 1} {"b": 2}`, "", `{"a": 1} {"b": 2}`},
		{"application/json", ``, "", ""},
		{"application/json", `{"lone": "\ud800"}`, `{"lone": "\ufffd"}`, ""}, // the database would take no such thing
		{"application/json", `[1e300, 1E-300, 12345678901234567890.5]`, `[1e300, 1E-300, 12345678901234567890.5]`, ""},
		{"application/json", `[1e400000]`, "", `[1e400000]`},
		{"application/json", `[1e99999999999999999999]`, "", `[1e99999999999999999999]`},
		{"application/json", deep, "", deep},
		{"application/octet-stream", "a\xff\xfeb", "", "a�b"},
	}
	for _, row := range rows {
		r := kept(answered(row.contentType, row.body), nil)
		require.Equal(t, row.text, r.Text, row.body)
		if row.json == "" {
			require.Nil(t, r.Body, row.body)
		} else {
			var want, got any
			require.NoError(t, json.Unmarshal([]byte(row.json), &want))
			require.NoError(t, json.Unmarshal(r.Body, &got), row.body)
			require.Equal(t, want, got)
		}
		require.False(t, r.Truncated)
	}
}

func TestResult_IsCutWhereItWouldBeMoreThan64KiB(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"plain": strings.Repeat("x", 2*keptBytes), "control characters": strings.Repeat("\x00", keptBytes), "quotes": strings.Repeat(`"`, keptBytes),
		"long characters": strings.Repeat("€", keptBytes), "just too much": strings.Repeat("x", keptBytes),
		"JSON": `["` + strings.Repeat("x", 2*keptBytes) + `"]`, "JSON that grows": "[" + strings.Repeat("1e300,", 1000) + "1]",
	} {
		r := kept(answered("application/json", body), nil)
		require.True(t, r.Truncated || name == "JSON that grows", name)
		require.Nil(t, r.Body, name)
		require.True(t, strings.HasPrefix(body, r.Text), name)
		require.LessOrEqual(t, quotedLen(r.Text), keptBytes-256, name)
	}
	r := kept(answered("text/plain", strings.Repeat("x", keptBytes-1000)), nil)
	require.False(t, r.Truncated)
	require.Len(t, r.Text, keptBytes-1000)
}

func TestResult_HidesSecrets_WhereverTheyComeBack(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"A": `se"cret/1`, "B": "4711", "SIGN": "whsec_c2VjcmV0", "LONG": "4711-0815"}
	for _, a := range []*answer{
		answered("application/json", `{"se\"cret/1": ["se\"cret\/1", 4711, {"x": "a4711-0815b"}], "key": "c2VjcmV0"}`),
		answered("text/plain", `se"cret/1 se\"cret/1 se%22cret%2F1 4711 4711-0815 whsec_c2VjcmV0 c2VjcmV0`),
		{status: 200, header: http.Header{"Content-Type": {`x; a=se"cret/1; b=4711-0815`}}},
		answered("text/plain", strings.Repeat("x", keptBytes-4)+`se"cret/1`),
	} {
		text, err := json.Marshal(kept(a, secrets))
		require.NoError(t, err)
		for _, part := range []string{`cret/1`, `cret\/1`, "4711", "0815", "c2VjcmV0", "cret%2F"} {
			require.NotContains(t, string(text), part)
		}
	}
	r := kept(answered("text/plain", "a 4711-0815 b"), secrets)
	require.Equal(t, "a {{secret:LONG}} b", r.Text)
}
