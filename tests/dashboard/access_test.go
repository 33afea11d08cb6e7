package dashboard_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestLogin_ByToken_LetsIn_AndNothingElseDoes(t *testing.T) {
	t.Parallel()
	d := open(t)
	stranger := d.as("")
	for _, address := range []string{"/", "/jobs", "/live?page=/", "/actions", "/do/queues/pause", "/nowhere"} {
		status, body := stranger.get(t, address)
		require.NotContains(t, body, "Overview", address)
		if status != http.StatusUnauthorized {
			require.Equal(t, http.StatusOK, status, address)
			require.Contains(t, body, "<h1>Log in</h1>", address)
		}
	}
	status, body := stranger.logIn(t, "wrong-"+operatorToken, func(*http.Cookie) { t.Error("a session for a wrong token") })
	require.Equal(t, http.StatusUnauthorized, status)
	require.Contains(t, words(body), "This was refused: this is none of the tokens.")

	var cookie *http.Cookie
	status, body = stranger.logIn(t, operatorToken, func(c *http.Cookie) { cookie = c })
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "<h1>Keys</h1>", "the page that was asked for")
	require.NotNil(t, cookie)
	status, _ = stranger.get(t, "/jobs/new")
	require.Equal(t, http.StatusOK, status, "the session does for further pages")

	name, signature, _ := strings.Cut(cookie.Value, ".")
	for what, value := range map[string]string{"another signature": name + "." + strings.Repeat("A", len(signature)), "no signature": name, "other content": name[:len(name)-2] + "ff." + signature} {
		status, body, _ := d.as("").do(t, http.MethodGet, "/", nil, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "pgtick_session", Value: value}) })
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, "<h1>Log in</h1>", what)
	}
	_, _ = stranger.post(t, "/logout", url.Values{})
	_, body = stranger.get(t, "/")
	require.Contains(t, body, "<h1>Log in</h1>")
}

func TestLogin_SetsACookieThatNoScriptReads_AndThatGoesToNoOtherSite(t *testing.T) {
	t.Parallel()
	d := open(t).as("")
	d.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	form := url.Values{"token": {readerToken}, "to": {"//evil.example/"}}
	status, _, header := d.do(t, http.MethodPost, "/login", form, nil)
	require.Equal(t, http.StatusSeeOther, status)
	require.Equal(t, "/", header.Get("Location"), "never to another site")
	require.Regexp(t, `^pgtick_session=[^;]+; Path=/; Expires=[^;]+; HttpOnly; SameSite=Strict$`, header.Get("Set-Cookie"))
	_, _, header = d.do(t, http.MethodPost, "/login", form, func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") })
	require.Contains(t, header.Get("Set-Cookie"), "; Secure")
}

// The cookie does not come along with a link on another site, such as a chat; the page then asks for itself.
func TestLinks_FromOtherSites_FindTheSession(t *testing.T) {
	t.Parallel()
	d := open(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<!doctype html><a id="there" href="%s/actions?subject=%%22">there</a>`, d.URL)
	}))
	t.Cleanup(elsewhere.Close)
	b := d.browse(t)
	b.run(chromedp.Navigate(strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)))
	b.click("#there")
	b.until(`location.pathname === '/actions' && document.body.dataset.ready`)
	require.Equal(t, "/actions?subject=%22", b.address())
	_, body, _ := d.as("").do(t, http.MethodGet, "//evil.example/", nil, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
	require.NotContains(t, body, "//evil")
}

func TestLogin_AfterSomeWrongTokens_HasToWait(t *testing.T) {
	t.Parallel()
	d := open(t).as("")
	for range 5 {
		status, _ := d.logIn(t, "guess", nil)
		require.Equal(t, http.StatusUnauthorized, status)
	}
	// The right one has to wait as well, so that nobody learns that it is right. On a busy machine the first wait may be over before it comes.
	var body string
	eventually(t, "the right token has to wait", func() (refused bool) {
		for range 6 {
			_, _ = d.logIn(t, "guess", nil)
		}
		var status int
		status, body = d.logIn(t, operatorToken, nil)
		return status == http.StatusTooManyRequests
	})
	require.Contains(t, words(body), "too many wrong tokens: wait")
	require.Contains(t, d.log.String(), "a login to the dashboard was refused")
	require.NotContains(t, d.log.String(), operatorToken)
}

func TestReaders_MayLook_ButNotAct(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, action := range []string{"queues/pause", "jobs/cancel", "schedules/pause"} {
		status, body := d.reader().post(t, "/do/"+action, url.Values{"queue": {"mail"}, "id": {"1"}, "name": {"x"}})
		require.Equal(t, http.StatusForbidden, status, "%s: %s", action, words(body))
		require.Contains(t, words(body), "You may look, but not act.")
	}
	require.Zero(t, ask[int](t, d.DB, `select count(*) from pgtick.audit`))
	require.Zero(t, ask[int](t, d.DB, `select count(*) from pgtick.paused_queues`))
}

func TestForms_FromOtherSites_AreRefused(t *testing.T) {
	t.Parallel()
	d := open(t)
	for what, change := range map[string]func(*http.Request){
		"said by the browser":    func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"of a sister site":       func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"said by an old one":     func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"of a page in a sandbox": func(r *http.Request) { r.Header.Set("Origin", "null") },
	} {
		status, body, _ := d.do(t, http.MethodPost, "/do/queues/pause", url.Values{"queue": {"mail"}, "reason": {"evil"}}, change)
		require.Equal(t, http.StatusForbidden, status, what)
		require.Contains(t, words(body), "This form came from another site.", what)
	}
	status, _ := d.get(t, "/do/queues/pause?queue=mail")
	require.Equal(t, http.StatusNotFound, status, "a link never acts")
	require.Zero(t, ask[int](t, d.DB, `select count(*) from pgtick.paused_queues`))
}

// While nobody has to log in, a page elsewhere could have its own name lead to this machine.
func TestOpenDashboard_AnswersToNamesOfThisMachineAlone(t *testing.T) {
	t.Parallel()
	d := open(t, func(o *web.Options) { o.Access = web.Access{Open: true} }).as("")
	for host, want := range map[string]int{"": 200, "localhost:1": 200, "127.0.0.1": 200, "[::1]:8640": 200, "evil.example": 421, "127.0.0.1.evil.example:80": 421, "localhost.evil.example": 421} {
		status, _, _ := d.do(t, http.MethodGet, "/keys", nil, func(r *http.Request) {
			if host != "" {
				r.Host = host
			}
		})
		require.Equal(t, want, status, host)
	}
	// A proxy on this machine mostly asks for 127.0.0.1, for whomever.
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"} {
		for _, address := range []string{"/keys", "/live?page=/", "/login"} {
			status, body, _ := d.do(t, http.MethodGet, address, nil, func(r *http.Request) { r.Header.Set(name, "203.0.113.7") })
			require.Equal(t, http.StatusMisdirectedRequest, status, "%s %s", name, address)
			require.Contains(t, body, "set PGTICK_WEB_TOKEN")
		}
	}
}

func TestDashboard_ThatOthersCanReach_NeedsALogin(t *testing.T) {
	t.Parallel()
	_, err := web.NewDashboard(web.Options{})
	require.ErrorContains(t, err, "needs something to log in with")
	for address, loopback := range map[string]bool{"127.0.0.1:8640": true, "localhost:8640": true, "[::1]:8640": true, "127.9.9.9:1": true,
		":8640": false, "0.0.0.0:8640": false, "[::]:8640": false, "10.0.0.1:8640": false, "example.org:8640": false, "localhost.example.org:80": false} {
		require.Equal(t, loopback, web.Loopback(address), address)
	}
}

// provider is one of identities, with its keys.
type provider struct {
	*httptest.Server
	asked atomic.Int64
	ec    *ecdsa.PrivateKey
	rsa   *rsa.PrivateKey
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := new(provider)
	var err error
	p.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	text := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	point, err := p.ec.PublicKey.Bytes()
	require.NoError(t, err)
	keys, err := json.Marshal(map[string]any{"keys": []any{
		map[string]any{"kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "use": "sig", "x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:])},
		map[string]any{"kty": "RSA", "kid": "rsa", "alg": "RS256", "use": "sig", "n": text(p.rsa.N), "e": text(big.NewInt(int64(p.rsa.E)))},
	}})
	require.NoError(t, err)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(keys)
	}))
	t.Cleanup(p.Close)
	return p
}

const (
	issuer   = "https://project.example/auth/v1"
	audience = "authenticated"
	secret   = "the-old-secret-of-the-project-0123456789"
)

// claims are those of an operator, but for what change says.
func claims(change map[string]any) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{"iss": issuer, "aud": audience, "sub": "0b0c7a1e-1111-4222-8333-444455556666", "email": "anna@example.org", "iat": now.Unix(), "nbf": now.Unix(),
		"exp": now.Add(time.Hour).Unix(), "app_metadata": map[string]any{"pgtick": []string{"staff", "operator"}}}
	for name, value := range change {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

func signed(t *testing.T, method jwt.SigningMethod, kid string, key any, c jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	require.NoError(t, err)
	return text
}

func openToJWT(t *testing.T, db *pgtest.DB, p *provider) *dash {
	t.Helper()
	return openOn(t, db, func(o *web.Options) {
		o.Access = web.Access{JWT: &web.JWT{JWKS: p.URL, Secret: secret, Issuer: issuer, Audience: audience, RoleClaim: "app_metadata.pgtick", OperatorRole: "operator", ReaderRole: "reader"}}
	})
}

func TestJWT_OfTheProvider_LetsIn_ByItsRole(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	d := openToJWT(t, pgtest.New(t), p)
	reader := claims(map[string]any{"app_metadata": map[string]any{"pgtick": "reader"}})
	for what, token := range map[string]string{"ES256": signed(t, jwt.SigningMethodES256, "ec", p.ec, claims(nil)), "RS256": signed(t, jwt.SigningMethodRS256, "rsa", p.rsa, claims(nil)),
		"ES256, by whichever key": signed(t, jwt.SigningMethodES256, "", p.ec, claims(nil)), "HS256": signed(t, jwt.SigningMethodHS256, "", []byte(secret), claims(nil))} {
		status, body := d.as(token).get(t, "/jobs/new")
		require.Equal(t, http.StatusOK, status, "%s: %s", what, words(body))
	}
	status, _ := d.as(signed(t, jwt.SigningMethodES256, "ec", p.ec, reader)).get(t, "/")
	require.Equal(t, http.StatusOK, status)
	status, _ = d.as(signed(t, jwt.SigningMethodES256, "ec", p.ec, reader)).get(t, "/jobs/new")
	require.Equal(t, http.StatusForbidden, status)

	anna := d.as("")
	status, _ = anna.logIn(t, signed(t, jwt.SigningMethodES256, "ec", p.ec, claims(nil)), nil)
	require.Equal(t, http.StatusOK, status)
	run(t, d.DB, `select pgtick.enqueue('mail.send', p_queue => 'mail')`)
	status, body := anna.post(t, "/do/queues/pause", url.Values{"queue": {"mail"}, "reason": {"upkeep"}})
	require.Equal(t, http.StatusOK, status, words(body))
	require.Equal(t, "dashboard: anna@example.org (0b0c7a1e-1111-4222-8333-444455556666)", ask[string](t, d.DB, `select paused_by from pgtick.paused_queues where queue = 'mail'`))
	require.LessOrEqual(t, p.asked.Load(), int64(2), "the keys are kept")
}

func TestJWT_ThatIsWrong_IsRefused(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	db := pgtest.New(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(&p.rsa.PublicKey)
	require.NoError(t, err)
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	ec := func(change map[string]any) string {
		return signed(t, jwt.SigningMethodES256, "ec", p.ec, claims(change))
	}
	hour := time.Hour
	for what, token := range map[string]string{
		"expired":                            ec(map[string]any{"exp": time.Now().Add(-hour).Unix()}),
		"without an end":                     ec(map[string]any{"exp": nil}),
		"not valid yet":                      ec(map[string]any{"nbf": time.Now().Add(hour).Unix()}),
		"of the future":                      ec(map[string]any{"iat": time.Now().Add(hour).Unix()}),
		"for another audience":               ec(map[string]any{"aud": "shop"}),
		"without an audience":                ec(map[string]any{"aud": nil}),
		"of another issuer":                  ec(map[string]any{"iss": "https://evil.example"}),
		"without an issuer":                  ec(map[string]any{"iss": nil}),
		"of another role":                    ec(map[string]any{"app_metadata": map[string]any{"pgtick": "staff"}}),
		"without a role":                     ec(map[string]any{"app_metadata": nil}),
		"with the role in another claim":     ec(map[string]any{"app_metadata": nil, "user_metadata": map[string]any{"pgtick": "operator"}, "role": "operator"}),
		"for nobody":                         ec(map[string]any{"sub": nil}),
		"unsigned":                           signed(t, jwt.SigningMethodNone, "ec", jwt.UnsafeAllowNoneSignatureType, claims(nil)),
		"signed by somebody else":            signed(t, jwt.SigningMethodES256, "ec", other, claims(nil)),
		"of an unknown key":                  signed(t, jwt.SigningMethodES256, "other", other, claims(nil)),
		"signed with the public key":         signed(t, jwt.SigningMethodHS256, "rsa", asPEM, claims(nil)),
		"signed with its parameter":          signed(t, jwt.SigningMethodHS256, "ec", []byte("ec"), claims(nil)),
		"of a method that nobody wants":      signed(t, jwt.SigningMethodHS512, "", []byte(secret), claims(nil)),
		"of the other method than its key's": signed(t, jwt.SigningMethodRS512, "rsa", p.rsa, claims(nil)),
		"changed on the way":                 changed(ec(nil)),
		"cut":                                strings.TrimSuffix(ec(nil), "AA")[:80] + ".e30.",
	} {
		status, body, _ := openToJWT(t, db, p).as("").do(t, http.MethodGet, "/", nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
		require.Equal(t, http.StatusUnauthorized, status, "%s: %s", what, words(body))
	}
}

func changed(token string) string {
	parts := strings.Split(token, ".")
	text, _ := base64.RawURLEncoding.DecodeString(parts[1])
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(text), "anna@", "otto@", 1)))
	return strings.Join(parts, ".")
}

func TestJWT_OfUnknownKeys_HasTheProviderAskedSeldom(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	d := openToJWT(t, pgtest.New(t), p)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for range 5 {
		status, _ := d.as(signed(t, jwt.SigningMethodES256, "unknown", other, claims(nil))).get(t, "/live?page=/")
		require.Equal(t, http.StatusUnauthorized, status)
	}
	require.LessOrEqual(t, p.asked.Load(), int64(3))
}

// Runners behind one address share a key, so that a session begun at one holds at the others.
func TestSessions_HoldWhereTheKeyIsTheSame_AndNowhereElse(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var session *http.Cookie
	first := openOn(t, db, func(o *web.Options) {
		o.Access = web.Access{Token: operatorToken, Key: []byte("the key that all of them share 012345")}
	})
	_, _ = first.as("").logIn(t, operatorToken, func(c *http.Cookie) { session = c })
	require.NotNil(t, session)
	for what, c := range map[string]struct {
		key, token string
		holds      bool
	}{
		"another runner":  {"the key that all of them share 012345", operatorToken, true},
		"another key":     {"another key, as a new start makes one", operatorToken, false},
		"a token changed": {"the key that all of them share 012345", operatorToken + "-2", false},
		"a key made anew": {"", operatorToken, false},
	} {
		var key []byte
		if c.key != "" {
			key = []byte(c.key)
		}
		d := openOn(t, db, func(o *web.Options) { o.Access = web.Access{Token: c.token, Key: key} }).as("")
		_, body, _ := d.do(t, http.MethodGet, "/keys", nil, func(r *http.Request) { r.AddCookie(session) })
		require.Equal(t, c.holds, strings.Contains(body, "<h1>Keys</h1>"), what)
	}
}
