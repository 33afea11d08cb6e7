package httptask

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func parse(t *testing.T, text string) (*call, error) {
	t.Helper()
	var a Args
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return nil, err
	}
	return a.check(time.Minute)
}

func TestArgs_ThatMakeNoSense_AreRefused_NamingFieldAndRule(t *testing.T) {
	t.Parallel()
	rows := map[string][]string{
		`{}`:                                                                                         {"url", `""`, "http:// or https://"},
		`{"url": "ftp://example.org/"}`:                                                              {"url", "ftp://example.org/", "http:// or https://"},
		`{"url": "https:///path"}`:                                                                   {"url", "with a host"},
		`{"url": "https://example.org:0/"}`:                                                          {"url", "port from 1 to 65535"},
		`{"url": "https://example.org:70000/"}`:                                                      {"url", "port from 1 to 65535"},
		`{"url": "https://example.org/{{secret:X}}"}`:                                                {"url", "secrets go in headers"},
		`{"url": "https://example.org", "method": "BREW"}`:                                           {"method", `"BREW"`, "GET"},
		`{"url": "https://example.org", "method": "HEAD", "body": 1}`:                                {"method", "HEAD", "body"},
		`{"url": "https://example.org", "headers": {"a b": "c"}}`:                                    {"headers", `"a b"`, "name of a header"},
		`{"url": "https://example.org", "headers": {"": "c"}}`:                                       {"headers", `""`, "name of a header"},
		`{"url": "https://example.org", "headers": {"host": "c"}}`:                                   {"headers", `"host"`, "may set"},
		`{"url": "https://example.org", "headers": {"x-a": "1", "X-A": "2"}}`:                        {"headers", `"x-a"`, "given once"},
		`{"url": "https://example.org", "headers": {"a": "b\r\nc: d"}}`:                              {"headers", `value of "a"`, "one line"},
		`{"url": "https://example.org", "headers": {"a": "{{secret:}}"}}`:                            {"headers", `value of "a"`, "name of a secret"},
		`{"url": "https://example.org", "headers": {"a": "{{ secret:X }}"}}`:                         {"headers", `value of "a"`, "{{secret:NAME}}"},
		`{"url": "https://example.org", "headers": {"webhook-id": "1"}, "sign": {"secrets": ["A"]}}`: {"headers", `"webhook-id"`, "may set"},
		`{"url": "https://example.org", "timeout": "10"}`:                                            {"timeout", `"10"`, "10s", "1m0s"},
		`{"url": "https://example.org", "timeout": "-1s"}`:                                           {"timeout", `"-1s"`},
		`{"url": "https://example.org", "timeout": "2m"}`:                                            {"timeout", `"2m"`, "job's own timeout, 1m0s"},
		`{"url": "https://example.org", "expect": ["9xx"]}`:                                          {"expect", `"9xx"`, "100 to 599"},
		`{"url": "https://example.org", "expect": [42]}`:                                             {"expect", `42`, "100 to 599"},
		`{"url": "https://example.org", "expect": [600]}`:                                            {"expect", `600`, "100 to 599"},
		`{"url": "https://example.org", "expect": ["0xx"]}`:                                          {"expect", `"0xx"`},
		`{"url": "https://example.org", "expect": [null]}`:                                           {"expect", `null`},
		`{"url": "https://example.org", "response": {"headers": [":"]}}`:                             {"response.headers", `":"`, "name of a header"},
		`{"url": "https://example.org", "sign": {}}`:                                                 {"sign.secrets", "list of 0", "1 to 5"},
		`{"url": "https://example.org", "sign": {"secrets": ["a b"]}}`:                               {"sign.secrets", `"a b"`, "letters"},
	}
	for text, want := range rows {
		_, err := parse(t, text)
		require.Error(t, err, text)
		for _, part := range want {
			require.ErrorContains(t, err, part, text)
		}
	}
}

func TestArgs_ThatAreRefused_DoNotRepeatWhatMayBeSecret(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"url": "https://ann:hunter2@example.org/"}`, `{"url": "ftp://example.org/?key=hunter2"}`, `{"url": "https://ann:hunter2@exa mple.org"}`,
		`{"url": "https://example.org", "headers": {"authorization": "hunter2\n"}}`,
	} {
		_, err := parse(t, text)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestArgs_LeftOut_HaveTheirDefaults(t *testing.T) {
	t.Parallel()
	c, err := parse(t, `{"url": "https://example.org/a?b=c#d"}`)
	require.NoError(t, err)
	require.Equal(t, "GET", c.method)
	require.Equal(t, "https://example.org/a?b=c", c.url.String())
	require.Equal(t, 30*time.Second, c.timeout)
	require.True(t, c.expects(204) && !c.expects(301) && !c.expects(199))
	require.True(t, c.keepBody)
	require.Equal(t, []string{"Content-Type"}, c.keep)

	c, err = parse(t, `{"url": "https://example.org", "body": {"a": 1}, "expect": [202, "4xx"], "timeout": "1m", "response": {"keep": false, "headers": ["etag", "ETag"]}}`)
	require.NoError(t, err)
	require.Equal(t, "POST", c.method)
	require.JSONEq(t, `{"a": 1}`, string(c.body))
	require.True(t, c.expects(202) && c.expects(404) && !c.expects(200) && !c.expects(500))
	require.False(t, c.keepBody)
	require.Equal(t, []string{"Content-Type", "Etag"}, c.keep)

	c, err = parse(t, `{"url": "https://example.org", "body": null, "method": "delete"}`)
	require.NoError(t, err)
	require.Equal(t, "DELETE", c.method)
	require.Nil(t, c.body)

	brief := Args{URL: "https://example.org"}
	c, err = brief.check(5 * time.Second)
	require.NoError(t, err)
	require.Equal(t, 5*time.Second, c.timeout, "the job's, where that is shorter")
}

func TestRequest_HasTheJobsHeaders_AndTheKeyUnlessTheJobHasItsOwn(t *testing.T) {
	t.Parallel()
	c, err := parse(t, `{"url": "https://example.org", "body": [1], "headers": {"authorization": "Bearer {{secret:A}}-{{secret:B}}"}, "sign": {"secrets": ["A"]}}`)
	require.NoError(t, err)
	require.Equal(t, []string{"A", "B"}, c.secretNames())
	request, err := c.request("key-1", newSecrets(map[string]string{"A": "one", "B": "two"}), time.Unix(7, 0))
	require.NoError(t, err)
	require.Equal(t, "Bearer one-two", request.Header.Get("Authorization"))
	require.Equal(t, "application/json", request.Header.Get("Content-Type"))
	require.Equal(t, "key-1", request.Header.Get("Idempotency-Key"))
	require.Equal(t, "key-1", request.Header.Get("Webhook-Id"))
	require.Equal(t, signature([]byte("one"), "key-1", "7", []byte("[1]")), request.Header.Get("Webhook-Signature"))

	c, err = parse(t, `{"url": "https://example.org", "headers": {"idempotency-key": "order-7", "content-type": "application/cloudevents+json"}, "body": 1}`)
	require.NoError(t, err)
	request, err = c.request("key-1", newSecrets(nil), time.Unix(7, 0))
	require.NoError(t, err)
	require.Equal(t, "order-7", request.Header.Get("Idempotency-Key"))
	require.Equal(t, "application/cloudevents+json", request.Header.Get("Content-Type"))
	require.Empty(t, request.Header.Get("Webhook-Signature"))
}

func TestRequest_WithASecretOfTwoLines_SaysWhich_AndNotWhatItIs(t *testing.T) {
	t.Parallel()
	c, err := parse(t, `{"url": "https://example.org", "headers": {"authorization": "{{secret:A}}"}}`)
	require.NoError(t, err)
	_, err = c.request("key-1", newSecrets(map[string]string{"A": "hunter2\n"}), time.Unix(7, 0))
	require.ErrorContains(t, err, "secret A is not one line")
	require.NotContains(t, err.Error(), "hunter2")
}
