package creditssync

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tasks/credits"
	"github.com/pgtick/pgtick/tests/pgtest"
)

const serviceKey = "sb_secret_of_tests"

// rest answers as PostgREST does for one table, out of a real database: it reads profile, preference, conflict target and filters, writes
// by the same statement, and maps SQLSTATE to status as its documentation says.
type rest struct {
	t      testing.TB
	db     *pgtest.DB
	server *httptest.Server
	plain  bool // knows no gzip, as PostgREST itself

	mu       sync.Mutex
	requests int
	// instead may answer request n (from 1) in place of the table; after is called when the table has taken it, before the answer is sent.
	instead func(n int, w http.ResponseWriter) bool
	after   func(n int)
}

func newREST(t testing.TB, db *pgtest.DB) *rest {
	t.Helper()
	r := &rest{t: t, db: db}
	r.server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.server.Close)
	return r
}

func (r *rest) target(t testing.TB) credits.Target {
	t.Helper()
	u, err := url.Parse(r.server.URL)
	require.NoError(t, err)
	return credits.REST(u, serviceKey)
}

func complain(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": message, "details": nil, "hint": nil})
}

func (r *rest) serve(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	r.requests++
	n, instead, after := r.requests, r.instead, r.after
	r.mu.Unlock()
	if instead != nil && instead(n, w) {
		return
	}
	switch {
	case request.Header.Get("apikey") != serviceKey || request.Header.Get("Authorization") != "Bearer "+serviceKey:
		complain(w, 401, "", "Invalid API key "+request.Header.Get("apikey"))
	case request.URL.Path != "/rest/v1/credit_usage":
		complain(w, 404, "PGRST205", "Could not find the table "+request.URL.Path)
	case request.Method == http.MethodPost:
		r.upsert(w, request)
		if after != nil {
			after(n)
		}
	case request.Method == http.MethodGet:
		r.read(w, request)
	default:
		complain(w, 405, "", request.Method)
	}
}

func (r *rest) upsert(w http.ResponseWriter, request *http.Request) {
	header := request.Header
	switch {
	case header.Get("Content-Profile") != "analytics":
		complain(w, 406, "PGRST106", "Invalid schema: "+header.Get("Content-Profile"))
		return
	case header.Get("Content-Type") != "application/json":
		complain(w, 415, "PGRST102", "Content-Type not acceptable")
		return
	case request.URL.RawQuery != "on_conflict=transaction_id" || header.Get("Prefer") != "resolution=merge-duplicates,return=minimal":
		complain(w, 409, "23505", "duplicate key value violates unique constraint")
		return
	}
	body, ok := r.body(w, request)
	if !ok {
		return
	}
	_, err := r.db.Pool.Exec(request.Context(), `insert into analytics.credit_usage
		select * from json_populate_recordset(null::analytics.credit_usage, $1::text::json)
		on conflict (transaction_id) do update set user_id = excluded.user_id, type = excluded.type, amount = excluded.amount, held_amount = excluded.held_amount,
			balance_after = excluded.balance_after, endpoint = excluded.endpoint, period = excluded.period, created_at = excluded.created_at,
			completed_at = excluded.completed_at, synced_at = excluded.synced_at`, body)
	if err != nil {
		refuseAsPostgREST(w, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

// body is the request's JSON. What was sent otherwise than gzip is refused, unless this server does not know it.
func (r *rest) body(w http.ResponseWriter, request *http.Request) (string, bool) {
	var from io.Reader = request.Body
	if !r.plain {
		if request.Header.Get("Content-Encoding") != "gzip" {
			complain(w, 400, "TEST", "the body is not compressed")
			return "", false
		}
		unzipped, err := gzip.NewReader(from)
		if err != nil {
			complain(w, 400, "TEST", err.Error())
			return "", false
		}
		from = unzipped
	}
	text, err := io.ReadAll(from)
	if err != nil || !json.Valid(text) {
		complain(w, 400, "PGRST102", "Empty or invalid json")
		return "", false
	}
	return string(text), true
}

func refuseAsPostgREST(w http.ResponseWriter, err error) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		complain(w, 503, "PGRST001", err.Error())
		return
	}
	status := 400
	switch {
	case pg.Code == "42P01":
		status = 404
	case pg.Code == "42501":
		status = 403
	case pg.Code == "23503" || pg.Code == "23505":
		status = 409
	case strings.HasPrefix(pg.Code, "40") || strings.HasPrefix(pg.Code, "57"):
		status = 500
	}
	complain(w, status, pg.Code, pg.Message)
}

// read gives fewer rows than may be asked for, as a project that is set up so.
func (r *rest) read(w http.ResponseWriter, request *http.Request) {
	query := request.URL.Query()
	if request.Header.Get("Accept-Profile") != "analytics" || query.Get("order") != "transaction_id.asc" {
		complain(w, 406, "PGRST106", "Invalid schema or order")
		return
	}
	after, upto := int64(0), int64(1<<62)
	for _, filter := range query["transaction_id"] {
		operator, value, _ := strings.Cut(filter, ".")
		number, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err == nil && operator == "gt":
			after = number
		case err == nil && operator == "lte":
			upto = number
		default:
			complain(w, 400, "PGRST100", "failed to parse filter ("+filter+")")
			return
		}
	}
	limit, _ := strconv.Atoi(query.Get("limit"))
	var text string
	err := r.db.Pool.QueryRow(request.Context(), `select coalesce(json_agg(u order by u.transaction_id), '[]')::text from (
		select * from analytics.credit_usage as u where u.transaction_id > $1 and u.transaction_id <= $2 order by u.transaction_id limit $3) as u`,
		after, upto, min(limit, 7)).Scan(&text)
	if err != nil {
		refuseAsPostgREST(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, text)
}
