package httptask

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHTTP_TheAnswer_IsTheJobsResult(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	there := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "r-1")
		w.Header().Set("X-Other", "not asked for")
		if r.URL.Path == "/json" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(201)
			_, _ = w.Write([]byte(`{"ok": true, "n": 12345678901234567890}`))
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte("hello"))
	})
	asJSON := enqueue(t, db, object{"url": there.URL + "/json", "response": object{"headers": []string{"x-request-id", "x-missing"}}}, "")
	asText := enqueue(t, db, object{"url": there.URL + "/text"}, "")
	dropped := enqueue(t, db, object{"url": there.URL + "/json", "response": object{"keep": false}}, "")
	work(t, db, here)

	r := resultsOf(t, db, asJSON)
	require.Equal(t, 201, r.Status)
	require.Equal(t, map[string]string{"Content-Type": "application/json", "X-Request-Id": "r-1"}, r.Headers)
	require.Equal(t, "12345678901234567890", ask[string](t, db, `select result #>> '{body,n}' from pgtick.jobs where id = $1`, asJSON))
	require.False(t, *r.Truncated)
	require.NotNil(t, r.ElapsedMS)

	r = resultsOf(t, db, asText)
	require.Equal(t, "hello", r.Text)
	require.Nil(t, r.Body)

	r = resultsOf(t, db, dropped)
	require.Equal(t, 201, r.Status)
	require.Nil(t, r.Body)
	require.Empty(t, r.Text)
}

// Whatever a server sends, the job is done, and its result is ours: not the start of one that the database had to cut.
func TestHTTP_ALargeOrOddAnswer_IsCutAndStored(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	answers := map[string]string{
		"/text":     strings.Repeat("x", 1<<20),
		"/nul":      "a\x00b" + strings.Repeat("\x00", 1<<17),
		"/json":     `["` + strings.Repeat("y", 1<<17) + `"]`,
		"/fits":     `["` + strings.Repeat("y", 60000) + `"]`,
		"/escaped":  `{"nul": "\u0000", "lone": "\ud800", "big": 1e300}`,
		"/huge":     `[1e131072000]`,
		"/deep":     strings.Repeat("[", 30000) + strings.Repeat("]", 30000),
		"/wide":     "[" + strings.Repeat("1e300,", 10000) + "1]",
		"/commas":   "[" + strings.Repeat("1,", 32000) + "1]", // the database puts a blank behind each
		"/not-utf8": "\xff\xfe" + strings.Repeat("\x80", 1<<17),
	}
	there := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Long", strings.Repeat(`"`, 5000))
		_, _ = w.Write([]byte(answers[r.URL.Path]))
	})
	ids := map[string]int64{}
	for path := range answers {
		ids[path] = enqueue(t, db, object{"url": there.URL + path, "response": object{"headers": []string{"x-long"}}}, "")
	}
	work(t, db, here)
	for path, id := range ids {
		r := resultsOf(t, db, id)
		require.Equal(t, 200, r.Status, path)
		require.NotNil(t, r.Truncated, path)
		require.LessOrEqual(t, ask[int](t, db, `select octet_length(result::text) from pgtick.jobs where id = $1`, id), 65536, path)
		cut := path != "/fits" && path != "/escaped" && path != "/huge" && path != "/deep" && path != "/wide"
		require.Equal(t, cut, *r.Truncated, path)
	}
	require.Greater(t, len(resultsOf(t, db, ids["/text"]).Text), 60000)
	require.True(t, strings.HasPrefix(resultsOf(t, db, ids["/nul"]).Text, "a�b"))
	require.Equal(t, []any{strings.Repeat("y", 60000)}, resultsOf(t, db, ids["/fits"]).Body)
	require.NotNil(t, resultsOf(t, db, ids["/escaped"]).Body)
	require.Equal(t, answers["/huge"], resultsOf(t, db, ids["/huge"]).Text)
}
