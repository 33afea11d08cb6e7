package httptask

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	usualTimeout   = 30 * time.Second
	mostHeaders    = 64
	mostKeptNames  = 16
	mostSignatures = 5
)

// Args of a job.
type Args struct {
	URL      string            `json:"url"`
	Method   string            `json:"method"`  // default POST with a body, else GET
	Headers  map[string]string `json:"headers"` // {{secret:NAME}} in a value stands for that secret
	Body     json.RawMessage   `json:"body"`    // sent as it is, as application/json; null: none
	Timeout  string            `json:"timeout"` // of one attempt, such as 10s; default 30s, at most the job's own
	Expect   []Expected        `json:"expect"`  // the statuses that end the job as done; default 2xx
	Response Response          `json:"response"`
	Sign     *Sign             `json:"sign"`
}

// Response is what of an answer becomes the job's result.
type Response struct {
	Keep    *bool    `json:"keep"`    // the body, in results and errors; default true
	Headers []string `json:"headers"` // besides Content-Type
}

// Sign asks for a signature by the Standard Webhooks scheme with each of these secrets, so that a receiver may change its own.
type Sign struct {
	Secrets []string `json:"secrets"`
}

// Expected is a status (from 100 to 599), or a class of a hundred (1 to 5, written "2xx").
type Expected int

// UnmarshalJSON implements json.Unmarshaler.
func (e *Expected) UnmarshalJSON(text []byte) error {
	word := strings.ToLower(strings.Trim(string(text), `"`))
	if class, ok := strings.CutSuffix(word, "xx"); ok {
		word = class
	} else if len(word) != 3 {
		word = ""
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 || n > 599 || (n > 5 && n < 100) {
		return invalid("expect", string(text), "a status from 100 to 599, or a class such as \"2xx\"")
	}
	*e = Expected(n)
	return nil
}

// call is a job's args, checked.
type call struct {
	url      *url.URL
	method   string
	headers  map[string]string // canonical names; secrets still by name
	body     []byte
	timeout  time.Duration
	expect   []Expected
	keepBody bool
	keep     []string // headers
	sign     []string
}

// invalid names the field, its value and the rule.
func invalid(field, value, rule string) error {
	return fmt.Errorf("%s: %s is not %s", field, cut(value, 200), rule)
}

func (a Args) check(jobTimeout time.Duration) (c *call, err error) {
	c = &call{body: a.Body, expect: a.Expect, keepBody: a.Response.Keep == nil || *a.Response.Keep}
	if bytes.Equal(a.Body, []byte("null")) {
		c.body = nil
	}
	if c.url, err = checkURL(a.URL); err != nil {
		return nil, err
	}
	if c.method, err = checkMethod(a.Method, c.body != nil); err != nil {
		return nil, err
	}
	if c.headers, err = checkHeaders(a.Headers, a.Sign != nil); err != nil {
		return nil, err
	}
	if c.timeout, err = checkTimeout(a.Timeout, jobTimeout); err != nil {
		return nil, err
	}
	if c.keep, err = checkKept(a.Response.Headers); err != nil {
		return nil, err
	}
	if a.Sign != nil {
		c.sign, err = a.Sign.Secrets, checkSecrets(a.Sign.Secrets)
	}
	return c, err
}

// checkURL does not repeat what stands before an @ or behind a question mark: it is what people keep secret.
func checkURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	shown, _, _ := strings.Cut(text, "?")
	if at := strings.LastIndex(shown, "@"); at >= 0 {
		shown = "…" + shown[at:]
	}
	shown = strconv.Quote(shown)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
		return nil, invalid("url", shown, "an http:// or https:// URL with a host")
	case u.User != nil:
		return nil, invalid("url", shown, "a URL without user and password: send them in the header Authorization, from a secret")
	case strings.Contains(text, "{{"):
		return nil, invalid("url", shown, "a URL without {{…}}: secrets go in headers")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, invalid("url", shown, "a URL with a port from 1 to 65535")
		}
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

func checkMethod(text string, hasBody bool) (string, error) {
	method := strings.ToUpper(text)
	switch {
	case text == "" && hasBody:
		return http.MethodPost, nil
	case text == "":
		return http.MethodGet, nil
	case !slices.Contains(methods, method):
		return "", invalid("method", strconv.Quote(text), "one of "+strings.Join(methods, ", "))
	case method == http.MethodHead && hasBody:
		return "", invalid("method", text, "one that may have a body")
	}
	return method, nil
}

// ours are the headers that the connection, or the task itself, sets.
var ours = []string{"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade"}

var ofSignature = []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}

func checkHeaders(given map[string]string, signed bool) (map[string]string, error) {
	if len(given) > mostHeaders {
		return nil, invalid("headers", fmt.Sprintf("a number of %d", len(given)), fmt.Sprintf("at most %d", mostHeaders))
	}
	checked := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		canonical := http.CanonicalHeaderKey(name)
		_, twice := checked[canonical]
		switch {
		case !isToken(name):
			return nil, invalid("headers", strconv.Quote(name), "the name of a header")
		case twice:
			return nil, invalid("headers", strconv.Quote(name), "a name given once: capitals do not count")
		case slices.Contains(ours, canonical) || (signed && slices.Contains(ofSignature, canonical)):
			return nil, invalid("headers", strconv.Quote(name), "one that a job may set")
		case !isHeaderValue(given[name]):
			return nil, invalid("headers", "the value of "+strconv.Quote(name), "one line of text")
		}
		if err := checkPlaceholders(given[name]); err != nil {
			return nil, invalid("headers", "the value of "+strconv.Quote(name), err.Error())
		}
		checked[canonical] = given[name]
	}
	return checked, nil
}

func isToken(name string) bool {
	return name != "" && len(name) <= 200 && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

func isHeaderValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return (r < ' ' && r != '\t') || r == 0x7f })
}

func checkTimeout(text string, jobTimeout time.Duration) (time.Duration, error) {
	if text == "" {
		return min(usualTimeout, jobTimeout), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Millisecond || d > jobTimeout {
		return 0, invalid("timeout", strconv.Quote(text), fmt.Sprintf("a time such as 10s, of at least 1ms and at most the job's own timeout, %s", jobTimeout))
	}
	return d, nil
}

// checkKept: the Content-Type is always kept.
func checkKept(names []string) ([]string, error) {
	if len(names) > mostKeptNames {
		return nil, invalid("response.headers", fmt.Sprintf("a list of %d", len(names)), fmt.Sprintf("one of at most %d", mostKeptNames))
	}
	kept := []string{"Content-Type"}
	for _, name := range names {
		if !isToken(name) {
			return nil, invalid("response.headers", strconv.Quote(name), "the name of a header")
		}
		if name = http.CanonicalHeaderKey(name); !slices.Contains(kept, name) {
			kept = append(kept, name)
		}
	}
	return kept, nil
}

func checkSecrets(names []string) error {
	if len(names) == 0 || len(names) > mostSignatures {
		return invalid("sign.secrets", fmt.Sprintf("a list of %d", len(names)), fmt.Sprintf("one of 1 to %d names of secrets", mostSignatures))
	}
	for _, name := range names {
		if !secretName.MatchString(name) {
			return invalid("sign.secrets", strconv.Quote(name), secretNameRule)
		}
	}
	return nil
}

func (c *call) expects(status int) bool {
	if len(c.expect) == 0 {
		return status/100 == 2
	}
	return slices.Contains(c.expect, Expected(status)) || slices.Contains(c.expect, Expected(status/100))
}

// request is what is sent, with the secrets' values in it.
func (c *call) request(key string, secrets secrets, now time.Time) (*http.Request, error) {
	request, err := http.NewRequest(c.method, c.url.String(), bytes.NewReader(c.body))
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	request.Header.Set("User-Agent", "pgtick")
	request.Header.Set("Idempotency-Key", key)
	if c.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range c.headers {
		value, err := secrets.fill(value)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		request.Header.Set(name, value)
	}
	if len(c.sign) == 0 {
		return request, nil
	}
	return request, sign(request.Header, key, now, c.body, secrets.values(c.sign))
}

// target is what errors say of a call: never its path or its query, which may be as good as a secret.
func (c *call) target() string { return c.method + " " + c.url.Host }

// cut keeps the first bytes of a text, with a mark where that is not all.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
