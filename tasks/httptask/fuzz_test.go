package httptask

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// planted is a secret that no result and no error may hold.
const planted = "hunter2-secret"

// FuzzAnswer makes results and errors of any answer: of at most 64 KiB, in UTF-8, without the call's secrets, and never to be waited for longer
// than a day.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []struct {
		status      int
		contentType string
		body        string
		wait, date  string
	}{{200, "application/json", `{"a": [1, "` + planted + `"]}`, "", ""}, {503, "text/plain", strings.Repeat("é", 40000), "120", ""}, {429, "", "\xff\xfe\x00", "Tue, 06 May 2031 12:00:30 GMT", "Tue, 06 May 2031 12:00:00 GMT"},
		{200, "application/json", strings.Repeat("[", 5000), "", ""}, {200, "x/json", `"\ud800` + `\u0000"`, "-1", "x"}, {200, "application/json", `{"` + planted + `": 1e99999}`, "99999999999999999999", ""}, {0, "\xff", "1e300", " ", ""},
		{599, "text/html", strings.Repeat("x", keptBytes-7) + planted, "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"}, {302, "application/json", `{"a":1}{"b":2}`, "1e3", ""}, {200, "application/json", `"` + strings.Repeat(`\n`, 30000) + `"`, "", ""}} {
		f.Add(seed.status, seed.contentType, []byte(seed.body), seed.wait, seed.date)
	}
	secrets := newSecrets(map[string]string{"KEY": planted, "OTHER": `qu"ote/` + planted})
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte, wait, date string) {
		a := &answer{status: status, header: http.Header{"Content-Type": {contentType}, "Retry-After": {wait}, "Date": {date}}}
		var err error
		a.body, err = readText(bytes.NewReader(body), keptBytes+secrets.longest+1)
		require.NoError(t, err)
		a.more = len(a.body) > keptBytes
		c := &call{url: &url.URL{Scheme: "https", Host: "api.example.org"}, method: "POST", keepBody: true, keep: []string{"Content-Type", "Retry-After", "Date"}}

		r := a.result(c, secrets, time.Second)
		text, err := json.Marshal(r)
		require.NoError(t, err)
		require.NotContains(t, string(text), planted)
		require.True(t, utf8.ValidString(r.Text))
		require.LessOrEqual(t, len(r.Text), keptBytes)
		require.True(t, r.Body == nil || r.Text == "")
		if r.Body != nil {
			require.True(t, json.Valid(r.Body))
		}

		refusal := c.refused(a, secrets).Error()
		require.NotContains(t, refusal, planted)
		require.True(t, utf8.ValidString(refusal), "%q", refusal)
		require.Less(t, len(refusal), 2*excerpt+200)
		for _, now := range []time.Time{time.Now(), {}, time.Unix(1<<40, 0)} {
			require.GreaterOrEqual(t, retryAfter(a.header, now), time.Duration(0))
			require.LessOrEqual(t, retryAfter(a.header, now), longestWait)
		}
	})
}

// FuzzCall makes a request of any args. What is refused is refused with the field's name, and never with what stands before an @ or behind a question
// mark of the URL, or in a header: where people put what is secret.
func FuzzCall(f *testing.F) {
	for _, seed := range []string{`{"url": "https://api.example.org/x?key=` + planted + `"}`, `{"url": "https://u:` + planted + `@api.example.org"}`, `{"url": "https://api.example.org", "headers": {"Authorization": "Bearer ` + planted + `\u0000"}}`, `{"url": "https://api.example.org", "headers": {"X": "{{secret:A}} {{secret:` + planted + `}}"}}`,
		`{"url": "http://[::1]:80/", "method": "get", "body": {"a": 1}, "expect": ["2xx", 404], "response": {"keep": false, "headers": ["X"]}, "sign": {"secrets": ["A"]}}`, `{"url": "ftp://x"}`, `{"url": "//x"}`, `{"url": "http://x:99999"}`, `{"url": "http://x:` + planted + `/"}`, `{"expect": [0]}`, `{"expect": ["xx"]}`,
		`{"url": "http://x/%zz?` + planted + `"}`, `{"url": "http://\u0000x?` + planted + `"}`, `{"url": "http://x", "timeout": "-1s"}`, `{"url": "http://x", "timeout": "1ns"}`, `{"url": "http://x#` + planted + `"}`, `{"url": "` + planted + `"}`, `{"url": "http://é.example/☃"}`, `null`, `{"url": "http://x", "method": "HEAD", "body": 1}`,
		`{"url": "https://` + planted + `/@x"}`, `{"url": "https://x/{{secret:A}}"}`, `{"url": "https://u@v@w?` + planted + `"}`, `{"url": "http://x", "headers": {"a": "1", "A": "2"}}`} {
		f.Add([]byte(seed))
	}
	secrets := newSecrets(map[string]string{"A": "one", "B": "two\nlines"})
	f.Fuzz(func(t *testing.T, text []byte) {
		var args Args
		if json.Unmarshal(text, &args) != nil {
			return
		}
		c, err := args.check(time.Minute)
		if err != nil {
			requireNothingOf(t, secretParts(args), err.Error())
			return
		}
		require.LessOrEqual(t, c.timeout, time.Minute)
		require.Positive(t, c.timeout)
		request, err := c.request("key", secrets, time.Unix(1, 0))
		if err != nil {
			requireNothingOf(t, secretParts(args), err.Error())
			return
		}
		require.Contains(t, []string{"http", "https"}, request.URL.Scheme)
		require.NotEmpty(t, request.URL.Hostname())
		require.Empty(t, request.URL.Fragment)
		requireNothingOf(t, secretParts(args), c.target())
	})
}

// secretParts are those of args in which the planted secret stands, if it stands nowhere else.
func secretParts(args Args) bool {
	rest := args.Method + args.Timeout + strings.Join(args.Response.Headers, " ")
	if args.Sign != nil {
		rest += strings.Join(args.Sign.Secrets, " ")
	}
	hidden := ""
	for name, value := range args.Headers {
		rest += name
		hidden += value
	}
	_, authority, _ := strings.Cut(args.URL, "://")
	if end := strings.IndexAny(authority, "/?#"); end >= 0 {
		authority = authority[:end]
	}
	if !strings.Contains(authority, "@") {
		rest += authority // the host, which is told
	}
	shown, query, _ := strings.Cut(args.URL, "?")
	hidden += query
	if at := strings.LastIndex(shown, "@"); at >= 0 {
		hidden += shown[:at]
		shown = shown[at:]
	}
	return strings.Contains(hidden, planted) && !strings.Contains(rest+shown, planted)
}

func requireNothingOf(t *testing.T, planned bool, text string) {
	t.Helper()
	if planned {
		require.NotContains(t, text, planted)
	}
}

// FuzzSigningKey signs with any secret: the signature is that of its key, an error never repeats it, and a secret is hidden in whatever form it comes back.
func FuzzSigningKey(f *testing.F) {
	for _, secret := range []string{vectorSecret, "whsec_", "whsec_====", "plain", "whsec_not base64!", "whsec_YQ", "whsec_YQ==", "", "\xff\x00", "whsec_ YQ== ", "WHSEC_YQ=="} {
		f.Add(secret, []byte(vectorBody))
	}
	f.Fuzz(func(t *testing.T, secret string, body []byte) {
		header := http.Header{}
		err := sign(header, vectorID, time.Unix(vectorTime, 0), body, []string{secret, vectorSecret})
		if err != nil {
			if rest := strings.TrimPrefix(secret, signingPrefix); len(rest) > 8 {
				require.NotContains(t, err.Error(), rest)
			}
			require.Empty(t, header)
			return
		}
		each := strings.Split(header.Get("Webhook-Signature"), " ")
		require.Len(t, each, 2)
		key, err := signingKey(secret)
		require.NoError(t, err)
		require.Equal(t, signature(key, vectorID, "1614265330", body), each[0])
		if len(secret) < 12 || !utf8.ValidString(secret) {
			return
		}
		s := newSecrets(map[string]string{"K": secret})
		require.NotContains(t, strings.ReplaceAll(s.hide.Replace("a "+secret+" b"), "{{secret:K}}", ""), secret)
	})
}

// FuzzRedirect follows any redirect: to http or https alone, never down from https, and to another host without what was meant for the first.
func FuzzRedirect(f *testing.F) {
	for _, location := range []string{"", "/x", "https://other.example/", "http://api.example.org/", "//other.example", "https://API.example.org:443/x", "https://u:p@other.example/#f", "javascript:alert(1)", "file:///etc/passwd", "\x00", "https://", "http:x", "?q", "https://api.example.org:8443"} {
		f.Add(location, 302, true)
		f.Add(location, 307, false)
	}
	f.Fuzz(func(t *testing.T, location string, status int, overTLS bool) {
		scheme := map[bool]string{true: "https", false: "http"}[overTLS]
		from, err := http.NewRequest(http.MethodPost, scheme+"://api.example.org/a?b", strings.NewReader("body"))
		require.NoError(t, err)
		from.Header.Set("Authorization", planted)
		from.Header.Set("Idempotency-Key", "k")
		next, err := follow(from, &http.Response{StatusCode: status, Header: http.Header{"Location": {location}}})
		if err != nil {
			require.ErrorAs(t, err, new(*misled))
			require.Less(t, len(err.Error()), 300+len(location))
			return
		}
		if next == nil {
			return
		}
		require.Contains(t, []string{"http", "https"}, next.URL.Scheme)
		require.False(t, overTLS && next.URL.Scheme == "http")
		require.NotEmpty(t, next.URL.Hostname())
		require.Nil(t, next.URL.User)
		if !strings.EqualFold(next.URL.Hostname(), "api.example.org") || portOf(next.URL) != portOf(from.URL) || next.URL.Scheme != scheme {
			require.Empty(t, next.Header.Get("Authorization"))
		}
		require.Equal(t, planted, from.Header.Get("Authorization"))
	})
}

// FuzzWire answers a call with any bytes. It ends with a result or an error, in the time that it has.
func FuzzWire(f *testing.F) {
	for _, seed := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 X\r\nRetry-After: 5\r\n\r\n", "HTTP/9.9 999 x\r\n\r\n", "\x00\x00\x00", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8bxx", strings.Repeat("HTTP/1.1 103 x\r\n\r\n", 50),
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 70_000) + "\r\n\r\n", "HTTP/1.0 200\r\n\r\nrest"} {
		f.Add([]byte(seed))
	}
	server := newWire(f)
	allow, err := ParseAllowed("127.0.0.1")
	require.NoError(f, err)
	c := &caller{client: newClient(allow, nil)}
	f.Fuzz(func(t *testing.T, reply []byte) {
		server.reply <- reply
		defer func() { <-server.done }()
		called := &call{url: &url.URL{Scheme: "http", Host: server.listener.Addr().String()}, method: "GET", keepBody: true, timeout: time.Minute}
		request, err := called.request("key", newSecrets(nil), time.Now())
		require.NoError(t, err)
		request.Close = true
		ctx, end := context.WithTimeout(t.Context(), time.Minute)
		defer end()
		got, err := c.exchange(ctx, called, request, newSecrets(nil))
		require.NoError(t, ctx.Err())
		if err == nil {
			require.LessOrEqual(t, len(got.body), keptBytes+1)
			_ = called.refused(got, newSecrets(nil))
		}
	})
}

// wire answers one connection with one reply, and closes it.
type wire struct {
	listener net.Listener
	reply    chan []byte
	done     chan struct{}
}

func newWire(f *testing.F) *wire {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(f, err)
	f.Cleanup(func() { _ = listener.Close() })
	w := &wire{listener: listener, reply: make(chan []byte), done: make(chan struct{})}
	go func() {
		for reply := range w.reply {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write(reply)
			_ = conn.Close()
			w.done <- struct{}{}
		}
	}()
	return w
}
