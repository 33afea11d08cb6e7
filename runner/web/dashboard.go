package web

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
)

// Options are what a dashboard is made of.
type Options struct {
	Databases []Database
	Access    Access
	Rules     Rules
	Version   string
	Log       *logrus.Logger
	Verify    VerifyLedger // nil: the ledger can't be verified from here
}

// Dashboard shows databases to people, and acts for operators. It holds no connection while nobody looks.
type Dashboard struct {
	options   Options
	databases []*database
	parsed    func() (templates, error) // at the first page: a runner at which nobody looks needs no memory for them
	sessions  *sessions
	handler   http.Handler
	closed    chan struct{}
	leave     func() // ends the streams
}

// NewDashboard makes one. Close ends it.
func NewDashboard(options Options) (*Dashboard, error) {
	d := &Dashboard{options: options, closed: make(chan struct{})}
	d.parsed = sync.OnceValues(func() (templates, error) { return parseTemplates(pages()) })
	ctx, end := context.WithCancel(context.Background())
	d.leave = sync.OnceFunc(func() { close(d.closed); end() })
	if options.Access.JWT != nil {
		options.Access.JWT.ctx = ctx
	}
	var err error
	if d.sessions, err = newSessions(options.Access, options.Log); err != nil {
		return nil, err
	}
	for _, given := range options.Databases {
		db := &database{Database: given, options: options, kept: map[string]*rendered{}}
		if len(options.Databases) > 1 {
			db.base = d.baseOf(given.Name)
		}
		if err := db.open(); err != nil {
			return nil, err
		}
		db.live = newLive(db, d.closed)
		d.databases = append(d.databases, db)
	}
	d.handler = d.routes()
	return d, nil
}

// baseOf is what stands before the addresses of a database. Names may differ in what an address leaves out of them.
func (d *Dashboard) baseOf(name string) string {
	base := "/db/" + slug(name)
	if slices.ContainsFunc(d.databases, func(other *database) bool { return other.base == base }) {
		base += "-" + strconv.Itoa(len(d.databases)+1)
	}
	return base
}

func (d *Dashboard) main(name string, s *screen) ([]byte, error) {
	parsed, err := d.parsed()
	if err != nil {
		return nil, err
	}
	return parsed.main(name, s)
}

func (d *Dashboard) whole(s *screen, main []byte) ([]byte, error) {
	parsed, err := d.parsed()
	if err != nil {
		return nil, err
	}
	return parsed.whole(s, main)
}

// Close ends the streams, and the connections.
func (d *Dashboard) Close() {
	d.leave()
	for _, db := range d.databases {
		db.pool.Close()
	}
}

// ServeHTTP implements http.Handler.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.handler.ServeHTTP(w, r) }

func (d *Dashboard) routes() http.Handler {
	inside := http.NewServeMux()
	for _, db := range d.databases {
		db.routes = d.routesOf(db)
		inside.Handle(db.base+"/", http.StripPrefix(db.base, db.routes))
	}
	if len(d.databases) > 1 {
		inside.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, d.databases[0].base+"/", http.StatusSeeOther)
		})
	}
	outside := http.NewServeMux()
	outside.HandleFunc("GET /static/", serveAsset)
	outside.HandleFunc("GET /login", d.loginPage)
	outside.HandleFunc("POST /login", d.login)
	outside.HandleFunc("POST /logout", d.logout)
	outside.Handle("/", d.sessions.admit(inside, d.toLogin))
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.fail(w, r, d.databases[0], http.StatusForbidden, &problem{Message: "This form came from another site.", Hint: "Open the dashboard itself, and try again there."})
	}))
	return secured(d.sessions.hosts(origin.Handler(outside)))
}

func (d *Dashboard) routesOf(db *database) http.Handler {
	mux := http.NewServeMux()
	for _, p := range pages() {
		path := p.Path
		if path == "/" {
			path = "/{$}"
		}
		mux.HandleFunc("GET "+path, d.show(db, p))
	}
	for _, a := range actions() {
		mux.HandleFunc("POST /do/"+a.Name, d.act(db, a))
	}
	mux.HandleFunc("GET /live", db.live.serve)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d.fail(w, r, db, http.StatusNotFound, &problem{Message: "There is no such page.", Hint: "Follow one of the links of the menu."})
	})
	return mux
}

// secured says to browsers what these pages may do: load what comes from here, and nothing else.
func secured(next http.Handler) http.Handler {
	const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// partHeader asks for the main part of a page alone.
const partHeader = "Pgtick-Part"

// againKey is the context's key of what a refused action was given.
type againKey struct{}

type givenAgain struct {
	form url.Values
	err  *problem
}

// again shows the page at an address with the form that was refused.
func (d *Dashboard) again(w http.ResponseWriter, r *http.Request, db *database, address string, form url.Values, p *problem) {
	target, err := url.Parse(address)
	if err != nil {
		d.fail(w, r, db, http.StatusUnprocessableEntity, p)
		return
	}
	next := r.Clone(context.WithValue(r.Context(), againKey{}, givenAgain{form, p}))
	next.Method, next.URL, next.Body, next.RequestURI = http.MethodGet, target, http.NoBody, address
	db.routes.ServeHTTP(w, next)
}

func (d *Dashboard) show(db *database, p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who := personOf(r)
		if p.Operator && !who.Operator {
			d.fail(w, r, db, http.StatusForbidden, &problem{Message: "You may look, but not act.", Hint: "Ask for a login with the role of operators."})
			return
		}
		s := d.screen(r, db, p, who)
		made, err := d.made(r, db, p, s)
		if err != nil {
			if status(err) == http.StatusServiceUnavailable {
				db.options.Log.WithError(err).Warn("a page of the dashboard could not be read")
			}
			d.fail(w, r, db, status(err), problemOf(err))
			return
		}
		s.Title, s.Live = made.title, s.Live && made.code == http.StatusOK
		d.send(w, r, s, made.main, made.code, p.Fragment)
	}
}

func (d *Dashboard) screen(r *http.Request, db *database, p page, who person) *screen {
	s := &screen{Base: db.base, Path: r.URL.Path, Query: r.URL.Query(), Title: p.Title, Nav: p.Nav, Menu: menu(), Person: who, Operator: who.Operator,
		SeesArgs: d.options.Rules.sees(who), Live: p.Live, Database: db.Name, Version: d.options.Version, LogsIn: d.sessions.needed()}
	s.Address = db.base + r.URL.Path
	if r.URL.RawQuery != "" {
		s.Address += "?" + r.URL.RawQuery
	}
	if theme, err := r.Cookie("pgtick_theme"); err == nil && (theme.Value == "dark" || theme.Value == "light") {
		s.Theme = theme.Value
	}
	for _, other := range d.databases {
		if other.base != "" {
			s.Databases = append(s.Databases, link{Label: other.Name, Address: other.base + "/", Current: other == db})
		}
	}
	if given, ok := r.Context().Value(againKey{}).(givenAgain); ok {
		s.Form, s.Err, s.Live = given.form, given.err, false
	}
	return s
}

// made is a page's main part: what others of this role got a moment ago, unless this is a person's own form.
func (d *Dashboard) made(r *http.Request, db *database, p page, s *screen) (*rendered, error) {
	if s.Err != nil || p.Fragment {
		return d.make(r.Context(), r, db, p, s)
	}
	key := db.base + " " + strconv.FormatBool(s.Operator) + " " + r.URL.Path + "?" + s.Query.Encode()
	made, err := db.once(key, func() (*rendered, error) { return d.make(context.WithoutCancel(r.Context()), r, db, p, s) })
	if err == nil {
		db.live.costs(key, made.cost)
	}
	return made, err
}

func (d *Dashboard) make(ctx context.Context, r *http.Request, db *database, p page, s *screen) (*rendered, error) {
	v := &view{Query: s.Query, Form: s.Form, Err: s.Err, Title: p.Title, Base: db.base, Person: s.Person, Now: time.Now(), path: r.PathValue, database: db}
	counts := &counting{}
	started := time.Now()
	if p.Load != nil {
		err := db.read(ctx, func(ctx context.Context, tx jobs.DB) (err error) {
			counts.DB = tx
			v.DB = counts
			s.Data, err = p.Load(ctx, v)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	s.Title, s.Now = v.Title, v.Now
	code := http.StatusOK
	switch {
	case v.refused != nil:
		s.Err, s.Form, code = v.refused, v.Query, http.StatusBadRequest
	case s.Err != nil:
		code = http.StatusUnprocessableEntity
	}
	main, err := d.main(p.Template, s)
	if err != nil {
		return nil, fmt.Errorf("make the page %s: %w", p.Path, err)
	}
	return &rendered{main: main, title: v.Title, at: started, cost: counts.n + 3, code: code}, nil
}

// send puts the frame around a page's main part, unless only that was asked for.
func (d *Dashboard) send(w http.ResponseWriter, r *http.Request, s *screen, main []byte, code int, fragment bool) {
	body := main
	if !fragment && r.Header.Get(partHeader) == "" {
		s.Notice = takeNotice(w, r)
		var err error
		if body, err = d.whole(s, main); err != nil {
			d.options.Log.WithError(err).Error("a page of the dashboard could not be made")
			http.Error(w, "the page could not be made; see the log", http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Pgtick-Title", url.PathEscape(s.Title))
	writeZipped(w, r, code, body, gzipped(body, 4))
}

// fail shows what went wrong, and what to do.
func (d *Dashboard) fail(w http.ResponseWriter, r *http.Request, db *database, code int, p *problem) {
	s := d.screen(r, db, page{Title: http.StatusText(code), Path: r.URL.Path}, personOf(r))
	s.Path, s.Address, s.Data = "/", db.base+"/", p
	if s.Person.Name == "" { // a stranger learns nothing, not even names of databases
		s.Menu, s.Databases, s.LogsIn = nil, nil, false
	}
	main, err := d.main("problem.html", s)
	if err != nil {
		http.Error(w, p.Message, code)
		return
	}
	d.send(w, r, s, main, code, false)
}

// Loopback tells whether only this machine can reach what listens on an address.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
