package httptask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pgtick/pgtick/tasks"
)

const (
	keptBytes     = 64 << 10 // of an answer, and of a result in all
	keptHeader    = 1 << 10  // bytes of one kept header
	excerpt       = 500      // bytes of an answer that an error quotes
	longestWait   = 24 * time.Hour
	deepest       = 1000 // levels of JSON; the database reads 10,000 with its usual stack
	longestNumber = 300  // an exponent that makes more digits than this is kept as text
)

// answer is what came back, its body cut after what can be kept.
type answer struct {
	status int
	header http.Header
	body   string
	more   bool // there was more of it
}

// read takes a little more than can be kept, so that a secret across the cut is seen whole and hidden. A body that ends too soon is a failed
// call, unless nobody wants it.
func read(call *call, response *http.Response, longestSecret int) (*answer, error) {
	a := &answer{status: response.StatusCode, header: response.Header}
	if !call.keepBody {
		finish(response.Body)
		return a, nil
	}
	var err error
	if a.body, err = readText(response.Body, keptBytes+min(longestSecret, keptBytes)+1); err != nil && call.expects(a.status) {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	a.more = len(a.body) > keptBytes
	return a, nil
}

// readText makes one string of at most so many bytes, and little else: when hundreds of calls are answered at once, what they throw away is
// what counts.
func readText(from io.Reader, limit int) (string, error) {
	var text strings.Builder
	var piece [4096]byte
	for text.Len() < limit {
		n, err := from.Read(piece[:min(len(piece), limit-text.Len())])
		if text.Len() > 0 && text.Len()+n > text.Cap() {
			text.Grow(limit - text.Len())
		}
		text.Write(piece[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return text.String(), err
		}
	}
	return text.String(), nil
}

// result is the job's.
type result struct {
	Status    int               `json:"status"`
	Headers   map[string]string `json:"headers"`
	Body      json.RawMessage   `json:"body,omitempty"` // JSON
	Text      string            `json:"text,omitempty"` // all else, and JSON that was cut
	Truncated bool              `json:"truncated"`
	ElapsedMS int64             `json:"elapsed_ms"`
}

// result has at most 64 KiB as the database writes it, which would otherwise keep the start alone, of all together.
func (a *answer) result(call *call, secrets secrets, took time.Duration) result {
	r := result{Status: a.status, Headers: map[string]string{}, ElapsedMS: took.Milliseconds()}
	room := keptBytes - 256
	for _, name := range call.keep {
		if values := a.header.Values(name); len(values) > 0 {
			value := cut(strings.ToValidUTF8(secrets.hide.Replace(strings.Join(values, ", ")), "�"), keptHeader)
			r.Headers[name] = value
			room -= quotedLen(name) + quotedLen(value) + 4
		}
	}
	if len(a.body) == 0 {
		return r
	}
	if r.Body = a.asJSON(secrets, room); r.Body == nil {
		r.Text, r.Truncated = a.asText(secrets, room)
	}
	return r
}

// asJSON is nil where the answer is no JSON, or none that fits. What says it is JSON may be any; what does not may still be an object or an
// array: Response objects of Edge Functions call themselves text/plain.
func (a *answer) asJSON(secrets secrets, room int) json.RawMessage {
	says := strings.Contains(strings.ToLower(a.header.Get("Content-Type")), "json")
	start := strings.TrimSpace(a.body)
	if a.more || start == "" || (!says && start[0] != '{' && start[0] != '[') {
		return nil
	}
	from := json.NewDecoder(strings.NewReader(start))
	from.UseNumber()
	var value any
	if err := from.Decode(&value); err != nil || strings.TrimSpace(start[from.InputOffset():]) != "" {
		return nil
	}
	value = hideIn(value, secrets)
	if size, ok := jsonbLen(value, deepest); !ok || size > room {
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	return text
}

// hideIn hides secrets in every string, name and number of a JSON value.
func hideIn(value any, secrets secrets) any {
	switch v := value.(type) {
	case string:
		return secrets.hide.Replace(v)
	case json.Number:
		if hidden := secrets.hide.Replace(v.String()); hidden != v.String() {
			return hidden
		}
	case []any:
		for i := range v {
			v[i] = hideIn(v[i], secrets)
		}
	case map[string]any:
		hidden := make(map[string]any, len(v))
		for name, field := range v {
			hidden[secrets.hide.Replace(name)] = hideIn(field, secrets)
		}
		return hidden
	}
	return value
}

// jsonbLen is how many bytes a value has at most as the text of a jsonb; not ok: it can't be stored.
func jsonbLen(value any, levels int) (size int, ok bool) {
	if levels == 0 {
		return 0, false
	}
	switch v := value.(type) {
	case string:
		return quotedLen(v), true
	case json.Number:
		return numberLen(v.String())
	case []any:
		size, ok = 2, true
		for _, element := range v {
			n, fits := jsonbLen(element, levels-1)
			size, ok = size+2+n, ok && fits
		}
		return size, ok
	case map[string]any:
		size, ok = 2, true
		for name, field := range v {
			n, fits := jsonbLen(field, levels-1)
			size, ok = size+quotedLen(name)+4+n, ok && fits
		}
		return size, ok
	}
	return len("false"), true // or true, or null
}

// numberLen: the database writes an exponent out.
func numberLen(text string) (size int, ok bool) {
	at := strings.IndexAny(text, "eE")
	if at < 0 {
		return len(text), true
	}
	exponent, err := strconv.Atoi(text[at+1:])
	if err != nil || max(exponent, -exponent) > longestNumber {
		return 0, false
	}
	return len(text) + max(exponent, -exponent) + 2, true
}

// quotedLen is the length of a string in jsonb's text.
func quotedLen(s string) int {
	n := 2
	for _, r := range s {
		n += quotedRune(r)
	}
	return n
}

func quotedRune(r rune) int {
	switch {
	case r == '"' || r == '\\':
		return 2
	case r < ' ':
		return 6
	}
	return utf8.RuneLen(r)
}

// asText is the answer as UTF-8, cut to what fits.
func (a *answer) asText(secrets secrets, room int) (text string, truncated bool) {
	text = strings.ToValidUTF8(secrets.hide.Replace(a.body), "�")
	n := 2
	for at, r := range text {
		if n += quotedRune(r); n > room {
			return text[:at], true
		}
	}
	return text, a.more
}

// refused is the error of an answer that was not expected.
func (c *call) refused(a *answer, secrets secrets) error {
	text := fmt.Sprintf("%s: status %d %s", c.target(), a.status, http.StatusText(a.status))
	if quoted := a.excerpt(secrets); quoted != "" {
		text += ": " + quoted
	}
	err := errors.New(text)
	if !mayPass(a.status) {
		return tasks.Permanent(err)
	}
	return tasks.RetryAfter(err, retryAfter(a.header, time.Now()))
}

// excerpt is the start of an answer, in one line.
func (a *answer) excerpt(secrets secrets) string {
	text := strings.ToValidUTF8(secrets.hide.Replace(a.body), "�")
	return cut(strings.Join(strings.Fields(cut(text, 4*excerpt)), " "), excerpt)
}

// mayPass: the same call may be answered otherwise at another time.
func mayPass(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// retryAfter is how long the answer asks to wait, at most a day; 0: it does not say. A date is compared with the server's own clock, where it
// tells that.
func retryAfter(header http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(header.Get("Retry-After"))
	if text == "" {
		return 0
	}
	if strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds > int64(longestWait/time.Second) {
			return longestWait
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	if theirs, err := http.ParseTime(header.Get("Date")); err == nil {
		now = theirs
	}
	return min(max(at.Sub(now), 0), longestWait)
}

// failed is the error of a call without an answer. Where the attempt itself has to stop, why stands in its context.
func (c *call) failed(attempt, limited context.Context, err error, secrets secrets) error {
	text := secrets.hide.Replace(fmt.Sprintf("%s: %s", c.target(), err))
	switch {
	case attempt.Err() != nil:
		return fmt.Errorf("%s: stopped before it was answered", c.target())
	case errors.Is(context.Cause(limited), errSlow):
		return fmt.Errorf("%s: %w within %s", c.target(), errSlow, c.timeout)
	case errors.As(err, new(*forbidden)), errors.As(err, new(*misled)):
		return tasks.Permanent(errors.New(text))
	}
	return errors.New(text)
}
