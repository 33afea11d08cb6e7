package httptask

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func redirected(t *testing.T, method, from string, status int, location string) (*http.Request, error) {
	t.Helper()
	request, err := http.NewRequest(method, from, strings.NewReader("body"))
	require.NoError(t, err)
	for name, value := range map[string]string{"Authorization": "Bearer x", "Apikey": "x", "Webhook-Signature": "v1,x", "Content-Type": "application/json",
		"Idempotency-Key": "k"} {
		request.Header.Set(name, value)
	}
	response := &http.Response{StatusCode: status, Header: http.Header{}}
	if location != "" {
		response.Header.Set("Location", location)
	}
	return follow(request, response)
}

func TestRedirect_ChangesTheMethodAsTheStandardSays(t *testing.T) {
	t.Parallel()
	rows := []struct {
		method string
		status int
		want   string
	}{
		{"POST", 301, "GET"}, {"POST", 302, "GET"}, {"POST", 303, "GET"}, {"POST", 307, "POST"}, {"POST", 308, "POST"},
		{"PUT", 301, "PUT"}, {"PUT", 302, "PUT"}, {"PUT", 303, "GET"}, {"DELETE", 302, "DELETE"}, {"PATCH", 308, "PATCH"},
		{"HEAD", 303, "HEAD"}, {"GET", 302, "GET"},
	}
	for _, row := range rows {
		next, err := redirected(t, row.method, "https://a.example/x", row.status, "/y")
		require.NoError(t, err)
		require.Equal(t, row.want, next.Method, "%s %d", row.method, row.status)
		require.Equal(t, "https://a.example/y", next.URL.String())
		require.Equal(t, "Bearer x", next.Header.Get("Authorization"))
		if row.want != row.method {
			require.Nil(t, next.Body)
			require.Empty(t, next.Header.Get("Content-Type"))
			require.Empty(t, next.Header.Get("Webhook-Signature"), "it signs a body that is not there any more")
			continue
		}
		body, err := io.ReadAll(next.Body)
		require.NoError(t, err)
		require.Equal(t, "body", string(body))
		require.Equal(t, "v1,x", next.Header.Get("Webhook-Signature"))
	}
}

func TestRedirect_ToAnotherOrigin_TakesNothingConfidentialAlong(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"https://b.example/", "//sub.a.example/", "https://a.example:444/", "https://b.example:443"} {
		next, err := redirected(t, "POST", "https://a.example/x", 307, to)
		require.NoError(t, err)
		require.Equal(t, http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"k"}}, next.Header, to)
	}
	next, err := redirected(t, "POST", "https://a.example/x", 307, "https://ann:secret@A.example:443/z#part")
	require.NoError(t, err)
	require.Equal(t, "Bearer x", next.Header.Get("Authorization"), "the same one, written otherwise")
	require.Equal(t, "https://A.example:443/z", next.URL.String())
}

func TestRedirect_ToWhatIsNoCall_IsRefused(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"ftp://b.example/", "file:///etc/passwd", "http://a.example/", "https:///x", "javascript:alert(1)", "https://a b/"} {
		_, err := redirected(t, "GET", "https://a.example/x", 302, to)
		require.ErrorAs(t, err, new(*misled), to)
	}
	for _, status := range []int{200, 300, 304, 305} {
		next, err := redirected(t, "GET", "https://a.example/x", status, "/y")
		require.NoError(t, err)
		require.Nil(t, next, status)
	}
	next, err := redirected(t, "GET", "https://a.example/x", 302, "")
	require.NoError(t, err)
	require.Nil(t, next)
}
