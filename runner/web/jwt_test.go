package web

import (
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

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
