package httptask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/tests/pgtest"
)

// vault is what the task sees of Supabase Vault: a view by name.
func vault(t *testing.T, db *pgtest.DB) {
	t.Helper()
	do(t, db, `create schema vault;
		create table vault.secrets (name text unique, secret text);
		create view vault.decrypted_secrets as select s.name, s.secret as decrypted_secret from vault.secrets as s;`)
}

func letIn(t *testing.T, db *pgtest.DB) {
	t.Helper()
	do(t, db, `grant usage on schema vault to pgtick_runner; grant select on vault.decrypted_secrets to pgtick_runner;`)
}

// nowhere looks through everything that the database keeps of jobs, and through what the runner has said.
func nowhere(t *testing.T, db *pgtest.DB, p *process, secrets ...string) {
	t.Helper()
	text := p.said()
	for _, table := range []string{"pgtick.live_jobs", "pgtick.history", "pgtick.job_notes", "pgtick.jobs", "pgtick.attempts"} {
		text += ask[string](t, db, `select coalesce(string_agg(r::text, ' '), '') from `+table+` as r`)
	}
	for _, secret := range secrets {
		require.NotContains(t, text, secret)
	}
}

func TestHTTP_Secrets_ComeFromTheEnvironmentOrTheVault_AndStayThere(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	vault(t, db)
	letIn(t, db)
	do(t, db, `insert into vault.secrets values ('STORED', 'kept-in-the-vault-1'), ('BOTH', 'not-this-one')`)
	echo := serve(t, func(w http.ResponseWriter, r *http.Request) { // it says all that it heard, in every way
		w.Header().Set("X-Echo", r.Header.Get("Authorization")+r.Header.Get("X-Key"))
		if r.URL.Path == "/json" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"` + r.Header.Get("Authorization") + `": ["` + r.Header.Get("X-Key") + `"]}`))
			return
		}
		w.WriteHeader(map[string]int{"/refuse": 400, "/down": 503}[r.URL.Path] + map[string]int{"/": 200}[r.URL.Path])
		_, _ = w.Write([]byte("heard " + r.Header.Get("Authorization") + " and " + r.Header.Get("X-Key")))
	})
	args := func(path string) object {
		return object{"url": echo.URL + path, "response": object{"headers": []string{"x-echo"}},
			"headers": object{"Authorization": "Bearer {{secret:GIVEN}}", "X-Key": "{{secret:STORED}}+{{secret:BOTH}}"}}
	}
	done, asJSON := enqueue(t, db, args("/"), ""), enqueue(t, db, args("/json"), "")
	refused, down := enqueue(t, db, args("/refuse"), ""), enqueue(t, db, args("/down"), "")
	p := work(t, db, here, "PGTICK_SECRET_GIVEN=given-by-the-environment", "PGTICK_SECRET_BOTH=the-environment-comes-first")

	r := resultsOf(t, db, done)
	require.Equal(t, "heard Bearer {{secret:GIVEN}} and {{secret:STORED}}+{{secret:BOTH}}", r.Text)
	require.Equal(t, "Bearer {{secret:GIVEN}}{{secret:STORED}}+{{secret:BOTH}}", r.Headers["X-Echo"])
	require.Equal(t, object{"Bearer {{secret:GIVEN}}": []any{"{{secret:STORED}}+{{secret:BOTH}}"}}, resultsOf(t, db, asJSON).Body)
	becomes(t, db, "failed", stateOf, refused)
	require.Contains(t, ask[string](t, db, errorOf, refused), "heard Bearer {{secret:GIVEN}}")
	becomes(t, db, 1, tried, down)
	for _, a := range echo.all() {
		require.Equal(t, "Bearer given-by-the-environment", a.header.Get("Authorization"))
		require.Equal(t, "kept-in-the-vault-1+the-environment-comes-first", a.header.Get("X-Key"))
	}
	nowhere(t, db, p, "given-by", "kept-in", "comes-first", "not-this-one")
}

func TestHTTP_ASecretThatIsNotThere_FailsForGood_NamingBothPlaces(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	there := serve(t, func(http.ResponseWriter, *http.Request) {})
	args := object{"url": there.URL, "headers": object{"Authorization": "{{secret:NOBODYS}}"}}
	p := work(t, db, here, "PGTICK_SECRET_EMPTY=")
	fails := func(why string) {
		t.Helper()
		id := enqueue(t, db, args, "")
		becomes(t, db, "failed", stateOf, id)
		message := ask[string](t, db, errorOf, id)
		for _, part := range []string{"secret NOBODYS", "PGTICK_SECRET_NOBODYS", "vault.decrypted_secrets", why} {
			require.Contains(t, message, part)
		}
	}
	fails("does not have")
	vault(t, db)
	fails("may not read")
	letIn(t, db)
	fails("vault.decrypted_secrets)")
	do(t, db, `insert into vault.secrets values ('NOBODYS', 'now it is there')`)
	becomes(t, db, "done", stateOf, enqueue(t, db, args, ""))
	require.Len(t, there.all(), 1, "the others were never made")
	nowhere(t, db, p, "now it is there")
}

func signedBy(t *testing.T, a asked, key []byte) bool {
	t.Helper()
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(a.header.Get("webhook-id") + "." + a.header.Get("webhook-timestamp") + "." + a.body))
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, have := range strings.Fields(a.header.Get("webhook-signature")) {
		if hmac.Equal([]byte(have), []byte(want)) {
			return true
		}
	}
	return false
}

func TestHTTP_ASignature_IsVerifiedByTheReceiver_WhileItChangesItsSecret(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	there := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	body := object{"type": "invoice.paid", "data": object{"id": 7, "ü": "<&>"}}
	id := enqueue(t, db, object{"url": there.URL, "body": body, "sign": object{"secrets": []string{"OLD", "NEW"}}}, "")
	p := work(t, db, here, "PGTICK_SECRET_OLD=whsec_bGVnYWN5LWtleS1vZi10aGUtcmVjZWl2ZXI=", "PGTICK_SECRET_NEW=plain-key-of-the-receiver")
	becomes(t, db, 1, tried, id)
	do(t, db, `select pgtick.retry($1)`, id)
	becomes(t, db, 2, tried, id)
	all := there.all()
	require.Len(t, all, 2)
	for _, a := range all {
		require.True(t, signedBy(t, a, []byte("legacy-key-of-the-receiver")))
		require.True(t, signedBy(t, a, []byte("plain-key-of-the-receiver")))
		require.False(t, signedBy(t, a, []byte("another")))
		require.Equal(t, a.header.Get("Idempotency-Key"), a.header.Get("webhook-id"))
		require.NotContains(t, a.header.Get("webhook-id"), ".")
	}
	require.Equal(t, all[0].header.Get("webhook-id"), all[1].header.Get("webhook-id"))
	nowhere(t, db, p, "bGVnYWN5", "plain-key")
}
