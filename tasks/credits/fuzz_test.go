package credits

import (
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzTargetAnswer has a sync target say anything, the key it was given included. What is told of it holds no part of the key, and is short.
func FuzzTargetAnswer(f *testing.F) {
	const key = "hunter2-service-key"
	for _, body := range []string{"", key, `{"code": "42501", "message": "` + key + `"}`, strings.Repeat("x", 490) + key, strings.Repeat("é ", 300) + key, `{"message": "` + strings.Repeat("y", 495) + key + `"}`, "\xff\x00", "<html>", `[]`, `{"code": 1}`, strings.Repeat(" ", 600) + key,
		"hunter2-\xc8service-key", "{\"message\": \"hunter2-service\xf3-key\"}"} {
		f.Add(401, []byte(body), "")
		f.Add(503, []byte(body), "99999999999")
	}
	f.Fuzz(func(t *testing.T, status int, body []byte, wait string) {
		a := answer{status, retryAfter(http.Header{"Retry-After": {wait}}), body}
		require.GreaterOrEqual(t, a.retryAfter.Nanoseconds(), int64(0))
		legible := strings.ReplaceAll(strings.ToValidUTF8(string(body), ""), "\ufffd", "")
		if strings.Contains(strings.ReplaceAll(legible, key, ""), "hunter2-servi") {
			return // a part of the key that came by itself
		}
		told := a.words(key)
		require.LessOrEqual(t, len(told), 600)
		require.True(t, utf8.ValidString(told), "%q", told)
		require.NotContains(t, told, "hunter2-servi")
		if err := (&restSession{rest: rest{key: key}}).judge(a); err != nil {
			require.NotContains(t, err.Error(), "hunter2-servi")
		}
	})
}
