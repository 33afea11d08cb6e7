package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// JWT is what tokens of an identity provider are checked by. A token must name issuer and audience, end at some time, and hold one of the
// roles; it is checked when somebody logs in, and each time where a program sends it along.
type JWT struct {
	JWKS         string // where the provider's public keys are
	Secret       string // shared with the provider instead, for HS256, as older Supabase projects have it
	Issuer       string
	Audience     string
	RoleClaim    string // the claim that holds the role, or a list of them; a path with dots leads into objects
	OperatorRole string
	ReaderRole   string

	first   sync.Once
	keys    atomic.Pointer[providerKeys]
	unknown *rate.Limiter
	log     *logrus.Logger
	ctx     context.Context //nolint:containedctx // the dashboard's life: keys are fetched again as long as it lasts
}

// providerKeys are kept up to date until end is called.
type providerKeys struct {
	keyfunc.Keyfunc
	end context.CancelFunc
}

// What asymmetric keys sign with. HS256 is never among them: with it, anybody could sign with the public key.
func asymmetric() []string {
	return []string{"ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"}
}

const (
	jwksTimeout  = 5 * time.Second
	jwksEvery    = time.Hour        // keys are fetched again
	jwksUnknown  = 30 * time.Second // and for a key that is not known, once in this time
	clocksDiffer = 30 * time.Second
)

func (j *JWT) check(ctx context.Context, given string) (person, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(given, claims, func(token *jwt.Token) (any, error) { return j.key(ctx, token) }, jwt.WithValidMethods(j.methods()),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clocksDiffer), jwt.WithIssuer(j.Issuer), jwt.WithAudience(j.Audience))
	if err != nil {
		return person{}, err
	}
	who := person{}
	if who.Name, err = nameIn(claims); err != nil {
		return person{}, err
	}
	if ends, err := claims.GetExpirationTime(); err == nil && ends != nil {
		who.Until = ends.Time
	}
	roles := rolesIn(claims, strings.Split(j.RoleClaim, "."))
	switch {
	case j.OperatorRole != "" && slices.Contains(roles, j.OperatorRole):
		who.Operator = true
		return who, nil
	case j.ReaderRole != "" && slices.Contains(roles, j.ReaderRole):
		return who, nil
	}
	return person{}, fmt.Errorf("the token's claim %s has neither the role of operators nor that of readers", j.RoleClaim)
}

func (j *JWT) methods() (all []string) {
	if j.JWKS != "" {
		all = asymmetric()
	}
	if j.Secret != "" {
		all = append(all, jwt.SigningMethodHS256.Name)
	}
	return all
}

// key is the one that a token must be signed with: which kind, the method says, which is one of ours already.
func (j *JWT) key(ctx context.Context, token *jwt.Token) (any, error) {
	if token.Method == jwt.SigningMethodHS256 {
		return []byte(j.Secret), nil
	}
	j.first.Do(func() {
		j.unknown = cmp.Or(j.unknown, rate.NewLimiter(rate.Every(jwksUnknown), 1))
		j.fetch()
	})
	key, err := j.find(ctx, token)
	if err != nil && j.unknown.Allow() { // the provider may have new keys, or not have answered before
		j.fetch()
		key, err = j.find(ctx, token)
	}
	return key, err
}

var errNoKeys = errors.New("the keys of the identity provider could not be fetched; its address or the provider may be at fault")

func (j *JWT) find(ctx context.Context, token *jwt.Token) (any, error) {
	keys := j.keys.Load()
	if keys == nil {
		return nil, errNoKeys
	}
	return keys.KeyfuncCtx(ctx)(token)
}

// fetch takes the provider's keys, and begins to keep them. Those of before stay where that fails. (The library's own fetching for an unknown key is
// off: it gives the provider's answer no more time than it would wait for its turn.)
func (j *JWT) fetch() {
	ctx, end := context.WithCancel(j.ctx)
	failed := func(err error) { j.log.WithError(err).Warn("the keys of the identity provider could not be fetched") }
	no := false
	keys, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{j.JWKS}, keyfunc.Override{
		Client: &http.Client{Timeout: jwksTimeout}, HTTPTimeout: jwksTimeout, RefreshInterval: jwksEvery, NoErrorReturnFirstHTTPReq: &no, RefreshUnknownKID: rate.NewLimiter(0, 0),
		RefreshErrorHandlerFunc: func(string) func(context.Context, error) {
			return func(_ context.Context, err error) { failed(err) }
		},
	})
	if err != nil {
		end()
		failed(err)
		return
	}
	if old := j.keys.Swap(&providerKeys{keys, end}); old != nil {
		old.end()
	}
}

// nameIn is who the token is for: the subject, and the address that people know them by.
func nameIn(claims jwt.MapClaims) (string, error) {
	subject, err := claims.GetSubject()
	if err != nil || subject == "" {
		return "", errors.New("the token names no subject")
	}
	if email, ok := claims["email"].(string); ok && email != "" && email != subject {
		return cutText(200, oneLine(visibleText(email+" ("+subject+")"))), nil
	}
	return cutText(200, oneLine(visibleText(subject))), nil
}

func rolesIn(value any, path []string) (roles []string) {
	if claims, ok := value.(jwt.MapClaims); ok {
		value = map[string]any(claims)
	}
	if len(path) > 0 && path[0] != "" {
		object, _ := value.(map[string]any)
		return rolesIn(object[path[0]], path[1:])
	}
	switch v := value.(type) {
	case string:
		return []string{v}
	case []any:
		for _, one := range v {
			if role, ok := one.(string); ok {
				roles = append(roles, role)
			}
		}
	}
	return roles
}
