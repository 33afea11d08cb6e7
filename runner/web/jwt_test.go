package web

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

const (
	theIssuer   = "https://project.example/auth/v1"
	theAudience = "authenticated"
	theSecret   = "the-old-secret-of-the-project-0123456789"
)

// provider is one of identities, which says what the test wants of its keys.
type provider struct {
	*httptest.Server
	says  atomic.Pointer[[]byte]
	code  atomic.Int64
	takes atomic.Int64 // nanoseconds
	ec    *ecdsa.PrivateKey
	rsa   *rsa.PrivateKey
	other *ecdsa.PrivateKey // of somebody else
}

// anyRSA is one for all tests: it takes some time to make.
var anyRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newProvider(t testing.TB) *provider {
	t.Helper()
	p := &provider{rsa: anyRSA()}
	var err error
	p.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p.other, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p.code.Store(http.StatusOK)
	p.answers(keySet(ecKey(t, "ec", p.ec), rsaKey("rsa", p.rsa)))
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(time.Duration(p.takes.Load())):
		case <-r.Context().Done():
		}
		w.WriteHeader(int(p.code.Load()))
		_, _ = w.Write(*p.says.Load())
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) answers(keys []byte) { p.says.Store(&keys) }

// checker is what the dashboard checks this provider's tokens by.
func (p *provider) checker(t testing.TB, secret string) *JWT {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	return &JWT{JWKS: p.URL, Secret: secret, Issuer: theIssuer, Audience: theAudience, RoleClaim: "app_metadata.pgtick", OperatorRole: "operator", ReaderRole: "reader", log: log, ctx: ctx}
}

func encoded(bytes []byte) string { return base64.RawURLEncoding.EncodeToString(bytes) }

func ecKey(t testing.TB, kid string, key *ecdsa.PrivateKey) map[string]any {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	return map[string]any{"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "use": "sig", "x": encoded(point[1:33]), "y": encoded(point[33:])}
}

func rsaKey(kid string, key *rsa.PrivateKey) map[string]any {
	return map[string]any{"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig", "n": encoded(key.N.Bytes()), "e": encoded(big.NewInt(int64(key.E)).Bytes())}
}

func keySet(keys ...map[string]any) []byte {
	text, _ := json.Marshal(map[string]any{"keys": keys})
	return text
}

// es256 and rs256 sign by the standard library alone.
func es256(key *ecdsa.PrivateKey, text string) []byte {
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		panic(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signature
}

func rs256(key *rsa.PrivateKey, text string) []byte {
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return signature
}

func hs256(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(text))
	return mac.Sum(nil)
}

// tokenOf puts a token together, signed by whoever is asked for.
func (p *provider) tokenOf(head, claims string, signer byte, signature []byte) string {
	text := encoded([]byte(head)) + "." + encoded([]byte(claims))
	switch signer % 8 {
	case 0:
		signature = es256(p.ec, text)
	case 1:
		signature = rs256(p.rsa, text)
	case 2:
		signature = hs256([]byte(theSecret), text)
	case 3:
		signature = es256(p.other, text)
	case 4:
		signature = hs256(p.rsa.N.Bytes(), text)
	case 5:
		signature = hs256(nil, text)
	case 6: // as it is given
	case 7:
		return head + "." + claims + "." + string(signature)
	}
	return text + "." + encoded(signature)
}

// signedRight looks at a token's signature anew, by the standard library.
func (p *provider) signedRight(token string) bool {
	parts := strings.Split(token, ".")
	var head struct{ Alg string }
	if len(parts) != 3 || json.Unmarshal(decoded(parts[0]), &head) != nil {
		return false
	}
	text, signature := parts[0]+"."+parts[1], decoded(parts[2])
	digest := sha256.Sum256([]byte(text))
	switch head.Alg {
	case "ES256":
		return len(signature) == 64 && ecdsa.Verify(&p.ec.PublicKey, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case "RS256":
		return rsa.VerifyPKCS1v15(&p.rsa.PublicKey, crypto.SHA256, digest[:], signature) == nil
	case "HS256":
		return hmac.Equal(signature, hs256([]byte(theSecret), text))
	}
	return false
}

func decoded(text string) []byte {
	bytes, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	return bytes
}

// claimed is what a token's claims say, looked at anew: whether they hold now for this dashboard, and with which roles.
func claimed(text []byte) (claims map[string]any, holds bool, roles []string) {
	if json.Unmarshal(text, &claims) != nil {
		return nil, false, nil
	}
	now := float64(time.Now().Unix())
	until, ends := claims["exp"].(float64)
	subject, _ := claims["sub"].(string)
	holds = ends && until > now-31 && notAfter(claims, "nbf", now+31) && notAfter(claims, "iat", now+31) && claims["iss"] == theIssuer && slices.Contains(textsIn(claims["aud"]), theAudience) && subject != ""
	app, _ := claims["app_metadata"].(map[string]any)
	return claims, holds, textsIn(app["pgtick"])
}

func notAfter(claims map[string]any, name string, latest float64) bool {
	value, there := claims[name]
	number, isNumber := value.(float64)
	return !there || isNumber && number <= latest
}

func textsIn(value any) (texts []string) {
	list, isList := value.([]any)
	if !isList {
		list = []any{value}
	}
	for _, one := range list {
		if text, isText := one.(string); isText {
			texts = append(texts, text)
		}
	}
	return texts
}

// usual are the claims of an operator for the next nine hundred years, but for what change says.
func usual(change map[string]any) string {
	claims := map[string]any{"iss": theIssuer, "aud": theAudience, "sub": "0b0c7a1e-1111-4222-8333-444455556666", "email": "anna@example.org", "iat": 1700000000, "nbf": 1700000000, "exp": 32503680000,
		"app_metadata": map[string]any{"pgtick": []string{"staff", "operator"}}}
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	text, _ := json.Marshal(claims)
	return string(text)
}

// isPlain: a token that says no more than it has to. Such a one must be let in where all of it is right.
func isPlain(head string, claims map[string]any) bool {
	var names map[string]any
	if json.Unmarshal([]byte(head), &names) != nil {
		return false
	}
	alg, _ := names["alg"].(string)
	if len(names) != 2 || names["kid"] != map[string]string{"ES256": "ec", "RS256": "rsa", "HS256": "any"}[alg] {
		return false
	}
	allowed := []string{"iss", "aud", "sub", "email", "iat", "nbf", "exp", "app_metadata"}
	for name, value := range claims {
		number, isNumber := value.(float64)
		if !slices.Contains(allowed, name) || isNumber && (number < 1 || number > 1e11) {
			return false
		}
	}
	list, isList := claims["aud"].([]any)
	return !isList || len(textsIn(list)) == len(list)
}

// FuzzJWT lets a token say anything, signed by the provider's keys, by the shared secret, by strangers or by nobody. Whoever is let in has a token
// that the standard library finds well signed, whose claims hold now, and the role that it says; and what is right in every way is let in.
func FuzzJWT(f *testing.F) {
	p := newProvider(f)
	checker := p.checker(f, theSecret)
	const es, rs, hs = `{"alg":"ES256","kid":"ec"}`, `{"alg":"RS256","kid":"rsa"}`, `{"alg":"HS256","kid":"any"}`
	for signer, head := range []string{es, rs, hs, es, rs, hs, es, rs} {
		f.Add(head, usual(nil), byte(signer), []byte{})
	}
	for _, head := range []string{`{"alg":"none"}`, `{"alg":"none","kid":"ec"}`, `{"alg":"HS256","kid":"rsa"}`, `{"alg":"ES384","kid":"ec"}`, `{"alg":"ES256"}`, `{"alg":"ES256","kid":7}`, `{"alg":"ES256","kid":"ec","crit":["b64"],"b64":false}`, `{}`, `[]`, `{"alg":["ES256"]}`,
		`{"alg":"es256","kid":"ec"}`, `{"alg":"HS256","alg":"ES256","kid":"ec"}`, `{"alg":"ES256","kid":"` + strings.Repeat("k", 3000) + `"}`, `{"alg":"ES256","jwk":{"kty":"EC"}}`, `{"alg":"ES256","kid":"ec","jku":"http://127.0.0.1:1/"}`} {
		f.Add(head, usual(nil), byte(0), []byte{})
		f.Add(head, usual(nil), byte(4), []byte{})
		f.Add(head, usual(nil), byte(6), []byte{})
	}
	for _, change := range []map[string]any{{"exp": 1700000000}, {"exp": nil}, {"exp": "32503680000"}, {"exp": 0}, {"exp": -1}, {"exp": 9.2e18}, {"exp": 1e300}, {"nbf": 32503680000}, {"nbf": "x"}, {"iat": 32503680000}, {"iss": nil}, {"iss": "https://evil.example"}, {"iss": []string{theIssuer}},
		{"iss": theIssuer + "/"}, {"aud": nil}, {"aud": "shop"}, {"aud": []any{"shop", theAudience}}, {"aud": []any{theAudience, 1}}, {"aud": map[string]any{theAudience: 1}}, {"sub": nil}, {"sub": ""}, {"sub": 7}, {"sub": "a\x00b\u202ec\n"}, {"email": "a@b\x1b[2J"}, {"sub": "a\x00b\u202ec\n", "email": nil}, {"sub": strings.Repeat("s", 5000)},
		{"app_metadata": nil}, {"app_metadata": "operator"}, {"app_metadata": []any{"pgtick"}}, {"app_metadata": map[string]any{"pgtick": "reader"}}, {"app_metadata": map[string]any{"pgtick": "operators"}}, {"app_metadata": map[string]any{"pgtick": map[string]any{"operator": true}}},
		{"app_metadata": nil, "role": "operator", "app_metadata.pgtick": "operator"}} {
		f.Add(es, usual(change), byte(0), []byte{})
		f.Add(hs, usual(change), byte(2), []byte{})
	}
	f.Add(es, strings.Replace(usual(nil), `{`, `{"Exp":1,"iss":"https://evil.example",`, 1), byte(0), []byte{})
	f.Add(es, usual(nil)+" {}", byte(0), []byte{})
	f.Add("..", "", byte(7), []byte("."))
	f.Add(es, usual(nil), byte(6), make([]byte, 64))
	f.Fuzz(func(t *testing.T, head, text string, signer byte, signature []byte) {
		token := p.tokenOf(head, text, signer, signature)
		who, err := checker.check(t.Context(), token)
		if signer%8 == 7 && len(strings.Split(token, ".")) == 3 {
			text = string(decoded(strings.Split(token, ".")[1]))
		}
		claims, holds, roles := claimed([]byte(text))
		mayAct, mayLook := slices.Contains(roles, "operator"), slices.Contains(roles, "reader")
		if err != nil {
			require.Empty(t, who)
			require.False(t, signer%8 != 7 && p.signedRight(token) && holds && (mayAct || mayLook) && isPlain(head, claims), "%s %s: %v", head, text, err)
			return
		}
		require.True(t, p.signedRight(token), "let in by %s", head)
		require.True(t, holds, "let in by %s", text)
		require.True(t, mayAct || mayLook, "let in by %s", text)
		require.Equal(t, mayAct, who.Operator, text)
		require.Equal(t, int64(claims["exp"].(float64)), who.Until.Unix())
		require.NotEmpty(t, who.Name)
		require.LessOrEqual(t, len([]rune(who.Name)), 201)
		require.Less(t, strings.IndexFunc(who.Name, unseen), 0, "%q", who.Name)
	})
}

// FuzzKeys has the provider say anything of its keys. No check fails for that otherwise than with an error; a token of somebody else's is let in by
// nothing it says but that key, nor one signed by what everybody knows.
func FuzzKeys(f *testing.F) {
	p := newProvider(f)
	x := ecKey(f, "ec", p.ec)["x"].(string)
	for _, key := range []map[string]any{ecKey(f, "ec", p.ec), rsaKey("rsa", p.rsa), {"kty": "oct", "kid": "ec", "k": encoded([]byte("known")), "alg": "HS256"}, {"kty": "oct", "kid": "ec", "k": ""}, {"kty": "EC", "kid": "ec", "crv": "P-256", "x": "", "y": ""},
		{"kty": "RSA", "kid": "ec", "n": "AQ", "e": "AQ"}, {"kty": "RSA", "kid": "ec", "n": "", "e": "AQAB"}, {"kty": "OKP", "crv": "Ed25519", "kid": "ec", "x": encoded(make([]byte, 32))}, {"kty": "OKP", "crv": "X25519", "kid": "ec", "x": encoded(make([]byte, 32))}, {"kty": "none", "kid": "ec"},
		{"kty": "EC", "kid": "ec", "crv": "P-256", "x": encoded(make([]byte, 32)), "y": encoded(make([]byte, 32))}, {"kty": "EC", "kid": "ec", "x5c": []string{"AAAA"}}, {"kty": "EC", "kid": "ec", "crv": "P-256", "x": encoded(make([]byte, 99)), "y": "AQ", "d": "AQ"}} {
		f.Add(keySet(key), http.StatusOK)
	}
	for _, body := range []string{"", "null", "[]", "{}", `{"keys":null}`, `{"keys":[null]}`, `{"keys":[7]}`, `{"keys":{}}`, `{"keys":[`, "<html>", strings.Repeat("[", 20000), `{"keys":[{}]}`, `{"keys":[{"kty":"EC","kid":7}]}`} {
		f.Add([]byte(body), http.StatusOK)
	}
	f.Add(keySet(ecKey(f, "ec", p.ec)), http.StatusNotModified)
	f.Add(keySet(ecKey(f, "ec", p.ec)), http.StatusInternalServerError)
	f.Fuzz(func(t *testing.T, keys []byte, code int) {
		if code < 200 || code > 599 {
			code = http.StatusOK
		}
		p.answers(keys)
		p.code.Store(int64(code))
		checker := p.checker(t, "")
		for _, head := range []string{`{"alg":"ES256","kid":"ec"}`, `{"alg":"ES256"}`} {
			if _, err := checker.check(t.Context(), p.tokenOf(head, usual(nil), 0, nil)); err == nil {
				require.Equal(t, http.StatusOK, code)
				require.True(t, names(keys, x), "a key was made of %q", keys)
			}
			_, err := checker.check(t.Context(), p.tokenOf(head, usual(nil), 3, nil))
			require.Error(t, err, "somebody else's, by %q", keys)
		}
		for _, head := range []string{`{"alg":"HS256","kid":"ec"}`, `{"alg":"HS256"}`, `{"alg":"none","kid":"ec"}`} {
			for _, key := range [][]byte{nil, []byte("known"), keys} {
				text := encoded([]byte(head)) + "." + encoded([]byte(usual(nil)))
				_, err := checker.check(t.Context(), text+"."+encoded(hs256(key, text)))
				require.Error(t, err, "signed by what everybody knows, by %q", keys)
			}
		}
	})
}

// names: somewhere in this JSON is that number, however it is written.
func names(text []byte, number string) bool {
	var value any
	if json.NewDecoder(strings.NewReader(string(text))).Decode(&value) != nil { // whatever follows is not read
		return false
	}
	want := new(big.Int).SetBytes(decoded(number))
	return holds(value, func(s string) bool { return new(big.Int).SetBytes(decoded(strings.TrimRight(s, "="))).Cmp(want) == 0 })
}

func holds(value any, is func(string) bool) bool {
	switch v := value.(type) {
	case string:
		return is(v)
	case []any:
		return slices.ContainsFunc(v, func(one any) bool { return holds(one, is) })
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(v)), func(one any) bool { return holds(one, is) })
	}
	return false
}

// A provider changes its keys now and then, and some take their time to answer. The first token under a new one finds it.
func TestJWT_OfAKeyThatIsNew_IsTaken_ThoughTheProviderIsSlow(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.takes.Store(int64(50 * time.Millisecond))
	checker := p.checker(t, "")
	const old, fresh = `{"alg":"ES256","kid":"ec"}`, `{"alg":"ES256","kid":"new"}`
	_, err := checker.check(t.Context(), p.tokenOf(old, usual(nil), 0, nil))
	require.NoError(t, err)
	p.answers(keySet(ecKey(t, "new", p.other)))
	who, err := checker.check(t.Context(), p.tokenOf(fresh, usual(nil), 3, nil))
	require.NoError(t, err)
	require.Equal(t, "anna@example.org (0b0c7a1e-1111-4222-8333-444455556666)", who.Name)
	_, err = checker.check(t.Context(), p.tokenOf(old, usual(nil), 0, nil))
	require.Error(t, err, "the provider has taken that key back")
}

// One that does not answer at the first login is asked again at the next, and what it once said holds while it is away.
func TestJWT_WhileTheProviderIsAway_KnownKeysHold_AndItIsAskedAgain(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	checker := p.checker(t, "")
	good, unknown := p.tokenOf(`{"alg":"ES256","kid":"ec"}`, usual(nil), 0, nil), p.tokenOf(`{"alg":"ES256","kid":"new"}`, usual(nil), 3, nil)
	p.code.Store(http.StatusServiceUnavailable)
	checker.unknown = rate.NewLimiter(rate.Inf, 1) // as often as anybody asks
	_, err := checker.check(t.Context(), good)
	require.ErrorIs(t, err, errNoKeys)
	p.code.Store(http.StatusOK)
	_, err = checker.check(t.Context(), good)
	require.NoError(t, err)
	p.code.Store(http.StatusServiceUnavailable)
	_, err = checker.check(t.Context(), unknown)
	require.Error(t, err)
	_, err = checker.check(t.Context(), good)
	require.NoError(t, err)
}
