package credits

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// A request that may succeed another time is sent so often; what lies between doubles from a second on, or is what the target asks for,
	// but never more than a minute.
	restTries    = 5
	firstWait    = time.Second
	longestWait  = time.Minute
	longestReply = 64 << 20 // bytes
	restPage     = 1000     // rows; what a Supabase project gives at most, unless it is set up otherwise
	restSchema   = "analytics"
	restTable    = "analytics.credit_usage"
)

// REST is analytics.credit_usage behind the REST endpoint (PostgREST) of a Supabase project. The key is its service key.
func REST(project *url.URL, key string) Target {
	// A redirect would carry the key to wherever it leads.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return rest{url: *project, key: key, client: &http.Client{CheckRedirect: stay}}
}

type rest struct {
	url    url.URL
	key    string
	client *http.Client
}

func (r rest) String() string { return r.url.String() }

func (r rest) open(context.Context) (session, error) {
	return remote{name: r.String(), sink: &restSession{rest: r, zip: true}}, nil
}

func (r rest) read(context.Context, *pgx.Conn) (reader, error) { return &restSession{rest: r}, nil }

// restSession is one run against the endpoint.
type restSession struct {
	rest
	zip bool // compress what is sent: until the target turns out not to understand it
}

func (s *restSession) close() { s.client.CloseIdleConnections() }

func (s *restSession) send(ctx context.Context, entries []entry) ([]int64, error) {
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, err
	}
	answer, err := s.post(ctx, text)
	if err == nil && s.zip && answer.isDeafToGzip() {
		s.zip = false
		answer, err = s.post(ctx, text)
	}
	if err != nil {
		return nil, err
	}
	return nil, s.judge(answer)
}

func (s *restSession) post(ctx context.Context, text []byte) (answer, error) {
	header := http.Header{
		"Content-Type":    {"application/json"},
		"Content-Profile": {restSchema},
		"Prefer":          {"resolution=merge-duplicates,return=minimal"},
	}
	if s.zip {
		header.Set("Content-Encoding", "gzip")
		text = zipped(text)
	}
	return s.ask(ctx, http.MethodPost, url.Values{"on_conflict": {"transaction_id"}}, header, text)
}

func zipped(text []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(text) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

// ask sends a request until it is answered by something else than "not now", restTries times at most.
func (s *restSession) ask(ctx context.Context, method string, query url.Values, header http.Header, body []byte) (a answer, err error) {
	pause := firstWait
	for try := 1; ; try++ {
		a, err = s.once(ctx, method, query, header, body)
		switch {
		case ctx.Err() != nil:
			return a, context.Cause(ctx)
		case err == nil && !a.isNotNow():
			return a, nil
		case try == restTries && err != nil:
			return a, fmt.Errorf("sync target %s can't be reached: %w", s, err)
		case try == restTries:
			return a, fmt.Errorf("sync target %s still answers %s after %d requests", s, a.words(s.key), try)
		}
		if err := wait(ctx, min(cmp.Or(a.retryAfter, pause), longestWait)); err != nil {
			return a, err
		}
		pause *= 2
	}
}

func (s *restSession) once(ctx context.Context, method string, query url.Values, header http.Header, body []byte) (answer, error) {
	ctx, end := context.WithTimeout(ctx, sendWithin)
	defer end()
	at := s.url.JoinPath("rest", "v1", "credit_usage")
	at.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header = header.Clone()
	request.Header.Set("apikey", s.key)
	request.Header.Set("Authorization", "Bearer "+s.key)
	request.Header.Set("User-Agent", "pgtick")
	response, err := s.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, longestReply))
	return answer{response.StatusCode, retryAfter(response.Header), text}, err
}

// retryAfter reads seconds or a date, which is by the target's clock; 0 where neither is given.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(at.Sub(now), 0)
}

// answer is what the endpoint said.
type answer struct {
	status     int
	retryAfter time.Duration
	body       []byte
}

// complaint is PostgREST's body of an answer that is an error.
type complaint struct {
	Code    string
	Message string
	Details string
}

func (a answer) complaint() (c complaint) {
	_ = json.Unmarshal(a.body, &c) // a proxy's answer is no JSON
	return c
}

func (a answer) isNotNow() bool {
	return a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout || a.status >= 500
}

// isDeafToGzip: PostgREST itself reads no compressed bodies; what stands before it may.
func (a answer) isDeafToGzip() bool {
	return a.status == http.StatusUnsupportedMediaType || a.status == http.StatusBadRequest && a.complaint().Code == "PGRST102"
}

// words are the status and what was said, should it hold the key, without it.
func (a answer) words(key string) string {
	c := a.complaint()
	said := strings.TrimSpace(strings.Join([]string{c.Code, c.Message, c.Details}, " "))
	if said == "" {
		said = string(a.body)
	}
	said = strings.ReplaceAll(strings.ToValidUTF8(said, ""), "\ufffd", "")       // first: what lies around a byte that goes may be the key
	said = strings.Join(strings.Fields(strings.ReplaceAll(said, key, "…")), " ") // before it is cut: a part of the key would not be found
	return strings.TrimSpace(fmt.Sprintf("%d %s", a.status, strings.ToValidUTF8(said[:min(len(said), 500)], "")))
}

// judge tells what is wrong with an entry from what is wrong with the target. Codes of PostgREST's own, and those of class 42, are about
// tables, columns, rights and the request as such.
func (s *restSession) judge(a answer) error {
	words, code := a.words(s.key), a.complaint().Code
	switch {
	case a.status < 300:
		return nil
	case a.status < 400:
		return targetFault(s.String(), "redirects elsewhere (%d): give PGTICK_SYNC_TARGET as the project's own URL", a.status)
	case a.status == http.StatusUnauthorized || a.status == http.StatusForbidden:
		return targetFault(s.String(), "refuses access: check PGTICK_SYNC_KEY, and the rights of service_role on %s (%s)", restTable, words)
	case a.status == http.StatusNotFound || a.status == http.StatusNotAcceptable:
		return targetFault(s.String(), "shows no table %s: create it there and expose its schema, as docs/credits-sync.md shows (%s)", restTable, words)
	case a.status == http.StatusMethodNotAllowed || strings.HasPrefix(code, "PGRST") || strings.HasPrefix(code, "42"):
		return targetFault(s.String(), "can't take entries: compare its %s with docs/credits-sync.md (%s)", restTable, words)
	}
	return refuse(words)
}

func (s *restSession) total(context.Context, int64, *int64) (total, bool, error) {
	return total{}, false, nil
}

func (s *restSession) page(ctx context.Context, after int64, upto *int64) ([]entry, error) {
	query := url.Values{"order": {"transaction_id.asc"}, "limit": {strconv.Itoa(restPage)}, "transaction_id": {fmt.Sprintf("gt.%d", after)},
		"select": {"transaction_id,user_id,type,amount,held_amount,balance_after,endpoint,period,created_at,completed_at,synced_at"}}
	if upto != nil {
		query.Add("transaction_id", fmt.Sprintf("lte.%d", *upto))
	}
	a, err := s.ask(ctx, http.MethodGet, query, http.Header{"Accept": {"application/json"}, "Accept-Profile": {restSchema}}, nil)
	if err != nil {
		return nil, err
	}
	if err := s.judge(a); err != nil {
		var no *refusal
		if errors.As(err, &no) {
			err = fmt.Errorf("sync target %s answers %s", s, no.reason)
		}
		return nil, err
	}
	var entries []entry
	if err := json.Unmarshal(a.body, &entries); err != nil {
		return nil, fmt.Errorf("sync target %s answers something else than entries: %w", s, err)
	}
	return entries, nil
}
