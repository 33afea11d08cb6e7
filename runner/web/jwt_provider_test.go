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
