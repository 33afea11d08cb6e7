package httptask

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// status answers with the status that the path names.
func status(w http.ResponseWriter, r *http.Request) {
	code, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, "it is\n  %d", code)
}

func TestHTTP_EachStatus_EndsTheAttemptAsThePageSays(t *testing.T) {
	t.Parallel()
	db, there := fresh(t), serve(t, status)
	rows := map[int]string{200: "done", 201: "done", 299: "done", 300: "failed", 304: "failed", 400: "failed", 401: "failed", 403: "failed", 404: "failed",
		410: "failed", 418: "failed", 422: "failed", 408: "ready", 409: "ready", 425: "ready", 429: "ready", 500: "ready", 502: "ready", 503: "ready", 504: "ready", 599: "ready"}
	ids := map[int]int64{}
	for code := range rows {
		ids[code] = enqueue(t, db, object{"url": fmt.Sprintf("%s/%d?token=hush", there.URL, code)}, "")
	}
	last := enqueue(t, db, object{"url": there.URL + "/503"}, ", p_max_attempts => 1")
	p := work(t, db, here)
	for code, want := range rows {
		becomes(t, db, want, `select state from pgtick.jobs where id = $1 and attempt = 1 and (state <> 'ready' or last_error is not null)`, ids[code])
		if want != "done" {
			message := ask[string](t, db, errorOf, ids[code])
			require.Contains(t, message, fmt.Sprintf("status %d", code))
			require.NotContains(t, message, "hush", "nothing of the URL but its host")
			if code != 304 {
				require.Contains(t, message, fmt.Sprintf("it is %d", code))
			}
		}
		require.Zero(t, ask[int](t, db, `select uncounted from pgtick.jobs where id = $1`, ids[code]))
	}
	becomes(t, db, "failed", stateOf, last)
	require.NotContains(t, p.said(), "hush")
}

func TestHTTP_AnExpectedStatus_IsDone_WhateverItSays(t *testing.T) {
	t.Parallel()
	db, there := fresh(t), serve(t, status)
	found := enqueue(t, db, object{"url": there.URL + "/404", "expect": []any{404}}, "")
	class := enqueue(t, db, object{"url": there.URL + "/503", "expect": []any{200, "5xx"}}, "")
	other := enqueue(t, db, object{"url": there.URL + "/202", "expect": []any{200}}, "")
	work(t, db, here)
	require.Equal(t, 404, resultsOf(t, db, found).Status)
	require.Equal(t, 503, resultsOf(t, db, class).Status)
	becomes(t, db, "failed", stateOf, other)
}

func TestHTTP_RetryAfter_SaysWhenTheNextAttemptIs_AndTheAttemptCounts(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	there := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", r.URL.Query().Get("after"))
		w.Header().Set("Date", "Tue, 06 May 2031 12:00:00 GMT")
		w.WriteHeader(map[string]int{"/busy": 429, "/down": 503, "/gone": 410}[r.URL.Path])
	})
	rows := []struct {
		path  string
		hours int
	}{
		{"/busy?after=10800", 3}, {"/down?after=Tue,%2006%20May%202031%2014:00:00%20GMT", 2}, {"/busy?after=99999999", 24},
	}
	ids := make([]int64, len(rows))
	for i, row := range rows {
		ids[i] = enqueue(t, db, object{"url": there.URL + row.path}, "")
	}
	last := enqueue(t, db, object{"url": there.URL + "/busy?after=10800"}, ", p_max_attempts => 1")
	gone := enqueue(t, db, object{"url": there.URL + "/gone?after=10800"}, "")
	work(t, db, here)
	for i, row := range rows {
		becomes(t, db, 1, tried, ids[i])
		require.Equal(t, row.hours, ask[int](t, db, `select round(extract(epoch from j.run_at - a.finished_at) / 3600)
			from pgtick.jobs as j join pgtick.attempts as a on a.job_id = j.id where j.id = $1 and a.outcome = 'error'`, ids[i]), row.path)
		require.Zero(t, ask[int](t, db, `select uncounted from pgtick.jobs where id = $1`, ids[i]))
	}
	becomes(t, db, "failed", stateOf, last)
	becomes(t, db, "failed", stateOf, gone)
}

func TestHTTP_ACallThatFailsOnItsWay_IsTriedAgain(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	cut := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("not all"))
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	closed := serve(t, status)
	closed.Close()
	rows := map[string]string{closed.URL: "connection refused", cut.URL: "EOF", cut.URL + "/body": "unexpected EOF", "http://no-such-host.invalid": "no-such-host.invalid"}
	ids := map[string]int64{}
	for url := range rows {
		ids[url] = enqueue(t, db, object{"url": url}, "")
	}
	work(t, db, "PGTICK_HTTP_ALLOW=127.0.0.1,*")
	for url, message := range rows {
		becomes(t, db, 1, tried, ids[url])
		require.Contains(t, ask[string](t, db, errorOf, ids[url]), message)
	}
}

func TestHTTP_ArgsThatMakeNoSense_FailTheFirstAttempt(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	rows := map[string]object{
		`unknown field "uri"`:              {"uri": "https://example.org"},
		`url: "" is not`:                   {},
		`timeout: "10m" is not`:            {"url": "https://example.org", "timeout": "10m"},
		`expect: "ok" is not`:              {"url": "https://example.org", "expect": []any{"ok"}},
		`unknown field "secret"`:           {"url": "https://example.org", "sign": object{"secret": "A"}},
		`headers: "Content-Length" is not`: {"url": "https://example.org", "headers": object{"Content-Length": "1"}},
		"cannot unmarshal number":          {"url": 7},
	}
	ids := map[string]int64{}
	for message, args := range rows {
		ids[message] = enqueue(t, db, args, "")
	}
	work(t, db)
	for message, id := range ids {
		becomes(t, db, "failed", stateOf, id)
		require.Contains(t, ask[string](t, db, errorOf, id), message)
		require.Equal(t, 1, ask[int](t, db, `select attempt from pgtick.jobs where id = $1`, id))
	}
}

// held answers only when the caller has gone away.
func held(began, left chan<- struct{}) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	}
}

func TestHTTP_ASlowServer_IsLeftWhenTheTimeoutHasPassed(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	began, left := make(chan struct{}, 9), make(chan struct{}, 9)
	there := serve(t, held(began, left))
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_, _ = w.Write([]byte("some"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ids := []int64{enqueue(t, db, object{"url": there.URL, "timeout": "300ms"}, ""), enqueue(t, db, object{"url": slow.URL, "timeout": "300ms"}, "")}
	jobs := enqueue(t, db, object{"url": there.URL}, ", p_timeout => '300 ms', p_max_attempts => 1")
	work(t, db, here)
	for _, id := range ids {
		becomes(t, db, 1, tried, id)
		require.Contains(t, ask[string](t, db, errorOf, id), "no whole answer within 300ms")
	}
	becomes(t, db, "failed", stateOf, jobs)
	<-left
	<-left
}

func TestHTTP_ACancelledJob_LeavesTheServer_AndIsCancelled(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	began, left := make(chan struct{}, 9), make(chan struct{}, 9)
	there := serve(t, held(began, left))
	id := enqueue(t, db, object{"url": there.URL, "timeout": "5m"}, "")
	work(t, db, here, "PGTICK_LEASE=1h")
	<-began
	require.Equal(t, "running", ask[string](t, db, `select pgtick.cancel($1)`, id))
	<-left
	becomes(t, db, "cancelled", stateOf, id)
}

func TestHTTP_ARunnerThatStops_GivesTheJobBack(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	began, left := make(chan struct{}, 9), make(chan struct{}, 9)
	there := serve(t, held(began, left))
	id := enqueue(t, db, object{"url": there.URL, "timeout": "5m"}, "")
	p := work(t, db, here, "PGTICK_GRACE=1ms")
	<-began
	p.signal(syscall.SIGTERM)
	<-left
	require.Zero(t, p.ends())
	require.Equal(t, "ready", ask[string](t, db, stateOf, id))
	require.Equal(t, 1, ask[int](t, db, `select uncounted from pgtick.jobs where id = $1`, id))
}

func TestHTTP_TheIdempotencyKey_IsTheJobs_ThroughRetriesAndDeadRunners(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	began, left := make(chan struct{}, 9), make(chan struct{}, 9)
	hold := held(began, left)
	there := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Go-On") == "" && r.URL.Path == "/hold" {
			hold(w, r)
			return
		}
		w.WriteHeader(503)
	})
	id := enqueue(t, db, object{"url": there.URL + "/hold", "timeout": "5m"}, "")
	first := work(t, db, here, "PGTICK_LEASE=1s", "PGTICK_POLL=200ms")
	<-began
	first.signal(syscall.SIGKILL)
	<-left
	second := work(t, db, here, "PGTICK_LEASE=1s", "PGTICK_POLL=200ms")
	<-began // the dead runner's claim has come back
	second.signal(syscall.SIGTERM)
	do(t, db, `select pgtick.cancel($1)`, id)
	<-left

	retried := enqueue(t, db, object{"url": there.URL + "/down"}, "")
	another := enqueue(t, db, object{"url": there.URL + "/another", "method": "post"}, "")
	work(t, db, here)
	becomes(t, db, 1, tried, retried)
	require.Equal(t, "ready", ask[string](t, db, `select pgtick.retry($1)`, retried))
	becomes(t, db, 2, tried, retried)
	becomes(t, db, 1, tried, another)

	keys := map[string][]string{}
	for _, a := range there.all() {
		keys[a.path] = append(keys[a.path], a.header.Get("Idempotency-Key"))
	}
	distinct := map[string]bool{}
	for path, of := range keys {
		require.Regexp(t, `^pgtick-\d+-[0-9a-f]{24}$`, of[0])
		for _, key := range of {
			require.Equal(t, of[0], key, path)
		}
		distinct[of[0]] = true
	}
	require.Len(t, keys["/hold"], 2)
	require.Len(t, keys["/down"], 2)
	require.Len(t, distinct, 3)
}

func TestHTTP_TheIdempotencyKey_IsAnotherOneInAnotherDatabase(t *testing.T) {
	t.Parallel()
	there := serve(t, func(http.ResponseWriter, *http.Request) {})
	for range 2 {
		db := fresh(t)
		id := enqueue(t, db, object{"url": there.URL}, "")
		do(t, db, `update pgtick.live_jobs set created_at = '2031-05-06' where id = $1`, id)
		work(t, db, here)
		becomes(t, db, "done", stateOf, id)
	}
	all := there.all()
	require.Len(t, all, 2)
	ids := make([]string, 2)
	for i, a := range all {
		ids[i] = strings.Split(a.header.Get("Idempotency-Key"), "-")[1]
	}
	require.Equal(t, ids[0], ids[1], "the same number, made at the same moment")
	require.NotEqual(t, all[0].header.Get("Idempotency-Key"), all[1].header.Get("Idempotency-Key"))
}

func TestHTTP_TheRequest_IsWhatTheArgsSay(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	there := serve(t, func(http.ResponseWriter, *http.Request) {})
	ids := []int64{
		enqueue(t, db, object{"url": there.URL + "/a%2Fb?c=d%20e"}, ""),
		enqueue(t, db, object{"url": there.URL + "/post", "body": object{"n": 12345678901234567, "s": "ö"}}, ""),
		enqueue(t, db, object{"url": there.URL + "/put", "method": "put", "body": []any{1}, "headers": object{"content-type": "application/x-ndjson", "X-A": "b"}}, ""),
		enqueue(t, db, object{"url": there.URL + "/delete", "method": "DELETE"}, ""),
		enqueue(t, db, object{"url": there.URL + "/head", "method": "HEAD"}, ""),
	}
	work(t, db, here, "PGTICK_WORKERS=1")
	for _, id := range ids {
		becomes(t, db, "done", stateOf, id)
	}
	all := there.all()
	require.Len(t, all, len(ids))
	require.Equal(t, []string{"GET", "/a%2Fb?c=d%20e", ""}, []string{all[0].method, all[0].path, all[0].body})
	require.Equal(t, "POST", all[1].method)
	require.JSONEq(t, `{"n": 12345678901234567, "s": "ö"}`, all[1].body)
	require.Equal(t, "application/json", all[1].header.Get("Content-Type"))
	require.Equal(t, []string{"PUT", "[1]", "application/x-ndjson", "b"}, []string{all[2].method, all[2].body, all[2].header.Get("Content-Type"), all[2].header.Get("X-A")})
	require.Equal(t, []string{"DELETE", "HEAD"}, []string{all[3].method, all[4].method})
	for _, a := range all {
		require.Equal(t, "pgtick", a.header.Get("User-Agent"))
	}
	there.mu.Lock()
	defer there.mu.Unlock()
	require.Equal(t, 1, there.conns, "one after the other, over the same connection")
}
