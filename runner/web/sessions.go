package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Access says how people show who they are.
type Access struct {
	Open      bool   // nobody has to: only this machine can reach the dashboard
	Token     string // of operators
	ReadToken string // of readers
	JWT       *JWT
	Key       []byte // signs sessions; nil: one is made, and all log in again after a restart
}

// Demanded tells whether there is anything to log in with.
func (a Access) Demanded() bool { return a.Token != "" || a.ReadToken != "" || a.JWT != nil }

const (
	sessionCookie = "pgtick_session"
	sessionFor    = 12 * time.Hour
)

// sessions knows who may come in.
type sessions struct {
	access Access
	key    []byte
	tries  *tries
	log    *logrus.Logger
}

func newSessions(access Access, log *logrus.Logger) (*sessions, error) {
	s := &sessions{access: access, key: access.Key, tries: &tries{of: map[string]*tried{}}, log: log}
	if !access.Open && !access.Demanded() {
		return nil, errors.New("a dashboard that others can reach needs something to log in with")
	}
	if access.JWT != nil {
		access.JWT.log = log
	}
	if s.key == nil {
		s.key = make([]byte, 32)
		_, _ = rand.Read(s.key) // it never fails
	}
	return s, nil
}

func (s *sessions) needed() bool { return s.access.Demanded() }

// hosts refuses, while nobody has to log in, names of other machines, since a page elsewhere could have its name lead here, and whatever a proxy
// hands on: behind one, which often says that it asks for 127.0.0.1, the world would come in.
func (s *sessions) hosts(next http.Handler) http.Handler {
	if s.needed() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !Loopback(r.Host) {
			http.Error(w, "as long as nobody has to log in, the dashboard answers to localhost and 127.0.0.1 alone: set PGTICK_WEB_TOKEN for other names", http.StatusMisdirectedRequest)
			return
		}
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via"} {
			if r.Header.Get(name) != "" {
				http.Error(w, "this came through a proxy ("+name+"), and as long as nobody has to log in the dashboard answers to this machine alone: set PGTICK_WEB_TOKEN", http.StatusMisdirectedRequest)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// admit lets those in who have shown who they are.
func (s *sessions) admit(next http.Handler, toLogin http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.needed() {
			next.ServeHTTP(w, withPerson(r, person{Name: "local", Operator: true}))
			return
		}
		who, err := s.identify(r)
		if err != nil {
			toLogin(w, r)
			return
		}
		next.ServeHTTP(w, withPerson(r, who))
	})
}

var errUnknown = errors.New("not logged in")

// identify takes a token of the header, as programs send it, or the cookie of a session.
func (s *sessions) identify(r *http.Request) (person, error) {
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return s.check(r, strings.TrimSpace(bearer))
	}
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return person{}, errUnknown
	}
	return s.read(cookie.Value)
}

// check takes what somebody logs in with: one of the tokens, or a JWT.
func (s *sessions) check(r *http.Request, given string) (person, error) {
	from := clientOf(r)
	if wait := s.tries.wait(from); wait > 0 {
		return person{}, waitError{wait}
	}
	who, err := s.find(r, given)
	s.tries.note(from, err == nil)
	return who, err
}

func (s *sessions) find(r *http.Request, given string) (person, error) {
	switch {
	case sameToken(given, s.access.Token):
		return person{Name: "operator's token", Operator: true}, nil
	case sameToken(given, s.access.ReadToken):
		return person{Name: "reader's token"}, nil
	case s.access.JWT != nil && strings.Count(given, ".") == 2:
		return s.access.JWT.check(r.Context(), given)
	}
	return person{}, errWrongToken
}

var errWrongToken = errors.New("this is none of the tokens")

// sameToken takes as long for any two, so that its time tells nothing.
func sameToken(given, token string) bool {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && token != ""
}

// session is what the cookie holds, signed.
type session struct {
	Name     string `json:"n"`
	Operator bool   `json:"o"`
	Until    int64  `json:"u"`
}

func (s *sessions) write(w http.ResponseWriter, r *http.Request, who person) {
	until := time.Now().Add(sessionFor)
	if !who.Until.IsZero() && who.Until.Before(until) {
		until = who.Until
	}
	text, _ := json.Marshal(session{who.Name, who.Operator, until.Unix()})
	value := base64.RawURLEncoding.EncodeToString(text)
	setCookie(w, r, sessionCookie, value+"."+s.sign(value), until)
}

func (s *sessions) sign(value string) string {
	mac := hmac.New(sha256.New, s.key)
	_, _ = mac.Write([]byte(value))
	// A changed token ends the sessions that were begun with the old one.
	_, _ = mac.Write([]byte("\x00" + s.access.Token + "\x00" + s.access.ReadToken))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (s *sessions) read(cookie string) (person, error) {
	value, signature, _ := strings.Cut(cookie, ".")
	if subtle.ConstantTimeCompare([]byte(signature), []byte(s.sign(value))) != 1 {
		return person{}, errUnknown
	}
	var held session
	text, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || json.Unmarshal(text, &held) != nil || time.Now().Unix() >= held.Until {
		return person{}, errUnknown
	}
	return person{held.Name, held.Operator, time.Unix(held.Until, 0)}, nil
}

// tries slows those down who guess: after freeTries wrong ones each further one has to wait, twice as long each time, a minute at most.
type tries struct {
	mu sync.Mutex
	of map[string]*tried
}

type tried struct {
	wrong int
	until time.Time
	last  time.Time
}

const (
	freeTries   = 5
	longestWait = time.Minute
	mostClients = 10_000
)

func (t *tries) wait(from string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if was := t.of[from]; was != nil {
		return time.Until(was.until)
	}
	return 0
}

func (t *tries) note(from string, right bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if right {
		delete(t.of, from)
		return
	}
	now := time.Now()
	if len(t.of) >= mostClients {
		for other, was := range t.of {
			if now.Sub(was.last) > longestWait {
				delete(t.of, other)
			}
		}
		if len(t.of) >= mostClients {
			from = "" // of so many at once, all further ones are slowed down together
		}
	}
	was := t.of[from]
	if was == nil {
		was = &tried{}
		t.of[from] = was
	}
	was.wrong, was.last = was.wrong+1, now
	if over := was.wrong - freeTries; over >= 0 {
		was.until = now.Add(min(time.Second<<min(over, 10), longestWait))
	}
}

// clientOf is who asks, by the network. Headers of proxies are not believed: whoever guesses could write them.
func clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return ip.Mask(net.CIDRMask(64, 128)).String() // one site has them all
	}
	return host
}

type waitError struct{ wait time.Duration }

func (e waitError) Error() string { return "too many wrong tokens: wait " + lasting(e.wait) }

// toLogin sends people to the login, and tells programs that they need a token.
func (d *Dashboard) toLogin(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.Header.Get(partHeader) != "" || r.Header.Get("Authorization") != "" || r.URL.Path == "/live" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		d.fail(w, r, d.databases[0], http.StatusUnauthorized, &problem{Message: "You are not logged in.", Hint: "Log in, and try again."})
		return
	}
	to := localAddress(r.URL.RequestURI())
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" { // a link in a chat, say: the session's cookie comes along once we ask for the page ourselves
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, `<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=%[1]s"><title>pgtick</title><a href="%[1]s">Go on</a>`, html.EscapeString(to))
		return
	}
	http.Redirect(w, r, "/login?to="+url.QueryEscape(to), http.StatusSeeOther)
}

func (d *Dashboard) loginPage(w http.ResponseWriter, r *http.Request) {
	d.showLogin(w, r, http.StatusOK, nil)
}

func (d *Dashboard) showLogin(w http.ResponseWriter, r *http.Request, code int, p *problem) {
	s := d.screen(r, d.databases[0], page{Title: "Log in"}, person{})
	s.Menu, s.Databases, s.LogsIn, s.Err = nil, nil, false, p
	s.Data = map[string]any{"To": localAddress(r.FormValue("to")), "JWT": d.options.Access.JWT != nil}
	main, err := d.main("login.html", s)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	d.send(w, r, s, main, code, false)
}

func (d *Dashboard) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	who, err := d.sessions.check(r, strings.TrimSpace(r.PostFormValue("token")))
	if err != nil {
		d.options.Log.WithError(err).WithField("from", clientOf(r)).Warn("a login to the dashboard was refused")
		code := http.StatusUnauthorized
		if errors.As(err, new(waitError)) {
			code = http.StatusTooManyRequests
		}
		d.showLogin(w, r, code, &problem{Message: "This was refused: " + err.Error() + "."})
		return
	}
	if name := strings.TrimSpace(r.PostFormValue("name")); name != "" && strings.HasSuffix(who.Name, "token") {
		who.Name += " (" + cutText(60, oneLine(visibleText(name))) + ")"
	}
	d.sessions.write(w, r, who)
	http.Redirect(w, r, localAddress(r.PostFormValue("to")), http.StatusSeeOther)
}

func (d *Dashboard) logout(w http.ResponseWriter, r *http.Request) {
	dropCookie(w, r, sessionCookie)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// localAddress is one of this dashboard, or its beginning. What it becomes counts: where an escape is not as it should be, all are written anew, and
// "%2f/evil.example/ " becomes another site's.
func localAddress(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "" || u.Host != "" || strings.ContainsAny(address, "\\\r\n\t") {
		return "/"
	}
	if local := u.RequestURI(); strings.HasPrefix(local, "/") && !strings.HasPrefix(local, "//") {
		return local
	}
	return "/"
}
