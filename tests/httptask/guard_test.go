package httptask

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestHTTP_WithoutBeingAllowed_NoCallReachesThisMachineOrItsNetwork(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	there := serve(t, func(http.ResponseWriter, *http.Request) {})
	_, port, _ := strings.Cut(strings.TrimPrefix(there.URL, "http://"), ":")
	ids := map[string]int64{}
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.2", "10.0.0.1",
		"192.168.0.1", "169.254.169.254", "100.100.100.200", "[fd00:ec2::254]", "[fe80::1]", "[64:ff9b::7f00:1]", "[::]"} {
		ids[host] = enqueue(t, db, object{"url": fmt.Sprintf("http://%s:%s/", host, port)}, "")
	}
	work(t, db)
	for host, id := range ids {
		becomes(t, db, "failed", stateOf, id)
		require.Contains(t, ask[string](t, db, errorOf, id), "PGTICK_HTTP_ALLOW", host)
	}
	require.Empty(t, there.all())
}

func TestHTTP_ARedirectToWhatIsNotAllowed_IsRefused(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	inner := listen(t, "127.0.0.2", plainly, func(http.ResponseWriter, *http.Request) {})
	outer := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/inner":
			http.Redirect(w, r, inner.URL, http.StatusTemporaryRedirect)
		case "/metadata":
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
		case "/file":
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		case "/again":
			http.Redirect(w, r, "/again", http.StatusFound)
		}
	})
	rows := map[string]string{"/inner": "PGTICK_HTTP_ALLOW", "/metadata": "PGTICK_HTTP_ALLOW", "/file": "neither http nor https", "/again": "more than 5 redirects"}
	ids := map[string]int64{}
	for path := range rows {
		ids[path] = enqueue(t, db, object{"url": outer.URL + path, "body": 1}, "")
	}
	work(t, db, here)
	for path, message := range rows {
		becomes(t, db, "failed", stateOf, ids[path])
		require.Contains(t, ask[string](t, db, errorOf, ids[path]), message)
	}
	require.Empty(t, inner.all())
	again := 0
	for _, a := range outer.all() {
		if a.path == "/again" {
			again++
		}
	}
	require.Equal(t, 6, again)
}

func TestHTTP_ARedirectToAnotherHost_TakesNoSecretAlong(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	other := listen(t, "::1", plainly, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/back" {
			http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusTemporaryRedirect)
		}
	})
	first := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other.URL+"/", http.StatusTemporaryRedirect)
		case "/stay":
			http.Redirect(w, r, "/here", http.StatusPermanentRedirect)
		case "/there-and-back":
			http.Redirect(w, r, other.URL+"/back?to=http://"+r.Host+"/home", http.StatusTemporaryRedirect)
		}
	})
	ids := []int64{}
	for _, path := range []string{"/away", "/stay", "/there-and-back"} {
		ids = append(ids, enqueue(t, db, object{"url": first.URL + path + "?token=t", "body": object{"a": 1}, "sign": object{"secrets": []string{"A"}},
			"headers": object{"Authorization": "Bearer literal", "Cookie": "c", "X-Key": "{{secret:A}}"}}, ""))
	}
	work(t, db, "PGTICK_HTTP_ALLOW=127.0.0.1,::1", "PGTICK_SECRET_A=hush")
	for _, id := range ids {
		becomes(t, db, "done", stateOf, id)
	}
	bare := func(a asked) {
		t.Helper()
		for _, name := range []string{"Authorization", "Cookie", "X-Key", "Webhook-Signature", "Webhook-Id", "Referer"} {
			require.Empty(t, a.header.Get(name), "%s at %s", name, a.path)
		}
		require.NotEmpty(t, a.header.Get("Idempotency-Key"))
		require.JSONEq(t, `{"a": 1}`, a.body)
	}
	require.Len(t, other.all(), 2)
	for _, a := range other.all() {
		bare(a)
	}
	for _, a := range first.all() {
		if a.path == "/home" { // who has once been a stranger's guest
			bare(a)
			continue
		}
		require.Equal(t, "Bearer literal", a.header.Get("Authorization"), a.path)
		require.Equal(t, "hush", a.header.Get("X-Key"), a.path)
		require.True(t, signedBy(t, a, []byte("hush")), a.path)
	}
}

func TestHTTP_TLS_BelievesTheFileOfCertificates_AndNoOther(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	there := listen(t, "127.0.0.1", overHTTP2, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Proto)) })
	id := enqueue(t, db, object{"url": there.URL}, `, p_retry_policy => '{"kind": "list", "delays": ["1 hour"]}'`) // not before it is told to
	stranger := work(t, db, here)
	becomes(t, db, 1, tried, id)
	require.Contains(t, ask[string](t, db, errorOf, id), "certificate")
	require.Empty(t, there.all())
	require.NoError(t, stranger.cmd.Process.Kill())
	<-stranger.done
	work(t, db, here, "PGTICK_HTTP_CA="+there.certificate(t))
	do(t, db, `select pgtick.retry($1)`, id)
	require.Equal(t, "HTTP/2.0", resultsOf(t, db, id).Text)
}

func TestHTTP_SettingsThatMakeNoSense_AreRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, []byte("nothing"), 0o600))
	rows := map[string]string{
		"PGTICK_HTTP_ALLOW=https://example.org": "is neither *",
		"PGTICK_HTTP_ALLOW=,":                   "names nothing",
		"PGTICK_HTTP_CA=" + empty:               "holds no certificate",
		"PGTICK_HTTP_CA=/no/such/file":          "can't be read",
	}
	db := pgtest.New(t)
	for setting, message := range rows {
		p := start(t, binary, db, setting)
		require.Equal(t, 2, p.ends(), setting)
		require.Contains(t, p.said(), message)
		name, _, _ := strings.Cut(setting, "=")
		require.Contains(t, p.said(), name)
	}
	out, err := exec.Command(binary, "help", "config").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), "PGTICK_HTTP_ALLOW")
}
