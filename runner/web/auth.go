package web

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"
)

// person is who looks.
type person struct {
	Name     string // how the dashboard calls them
	Operator bool   // may act; everybody else reads
	Until    time.Time
}

// recorded is the name that pgtick.audit keeps. The prefix tells it from the names of users and login roles.
func (p person) recorded() string { return "dashboard: " + p.Name }

type personKey struct{}

func personOf(r *http.Request) person {
	p, _ := r.Context().Value(personKey{}).(person)
	return p
}

func withPerson(r *http.Request, p person) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), personKey{}, p))
}

// sessionEnds fires when the person has to log in again.
func sessionEnds(r *http.Request) <-chan time.Time {
	if until := personOf(r).Until; !until.IsZero() {
		return time.After(time.Until(until))
	}
	return nil
}

// notice is what an action has to say, on the page that follows it.
type notice struct {
	Text string `json:"t"`
	Hint string `json:"h,omitempty"`
	Bad  bool   `json:"b,omitempty"`
}

const noticeCookie = "pgtick_notice"

// setNotice keeps it in a cookie for the one page to come.
func setNotice(w http.ResponseWriter, r *http.Request, n notice) {
	n.Text, n.Hint = cutText(700, n.Text), cutText(400, n.Hint)
	text, err := json.Marshal(n)
	if err != nil || n.Text == "" {
		return
	}
	setCookie(w, r, noticeCookie, base64.RawURLEncoding.EncodeToString(text), time.Now().Add(time.Minute))
}

func takeNotice(w http.ResponseWriter, r *http.Request) *notice {
	cookie, err := r.Cookie(noticeCookie)
	if err != nil {
		return nil
	}
	dropCookie(w, r, noticeCookie)
	n := new(notice)
	text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil || json.Unmarshal(text, n) != nil {
		return nil
	}
	return n
}

// setCookie sets one that no script reads and no other site brings along. Without https, as on this machine alone, a secure one would be lost.
func setCookie(w http.ResponseWriter, r *http.Request, name, value string, until time.Time) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", Expires: until, HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteStrictMode}) //nolint:gosec // see above
}

func dropCookie(w http.ResponseWriter, r *http.Request, name string) {
	setCookie(w, r, name, "", time.Unix(1, 0))
}

// secure tells whether the browser came by https, also by way of a proxy that says so.
func secure(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}
