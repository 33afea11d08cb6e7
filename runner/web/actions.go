package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
)

// action is something that operators do, by POST to /do/NAME. It runs in one transaction, in which the database knows the person: what the
// SQL functions write down, and the row of pgtick.audit that each action leaves, name them.
type action struct {
	Name string // jobs/cancel
	// Run does it and returns what to tell the person. An error is told likewise, and nothing of it stays in the database.
	Run func(ctx context.Context, d *doing) (said string, err error)
	// Again is the address, without the base, of the page that shows a refused form again, with what was given. Without one, the page that
	// the person came from says why.
	Again func(d *doing) string
}

// doing is one action on its way.
type doing struct {
	DB     jobs.DB // the transaction
	Form   url.Values
	Person person
	Base   string

	database *database
	subject  string
	details  any
	to       string
}

// Note says what the row of pgtick.audit names, where the SQL function writes none itself: the thing that was acted on, and what was given.
// Arguments of jobs don't belong there.
func (d *doing) Note(subject string, details any) { d.subject, d.details = subject, details }

// Go leads to another page than the one that the person came from: an address without the base.
func (d *doing) Go(address string) { d.to = address }

// problem is an error in words for people.
type problem struct {
	Message string
	Hint    string
	Code    string // SQLSTATE
	Field   string // which value was refused, as the database calls it, without p_
}

func problemOf(err error) *problem {
	p := &problem{Message: err.Error()}
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		p.Message, p.Hint, p.Code = pg.Message, pg.Hint, pg.Code
		p.Field = fieldOf(pg)
		if !strings.HasPrefix(pg.Code, "TK") {
			p.Message = "The database refused it: " + pg.Message
		}
	}
	if f := new(fieldError); errors.As(err, f) {
		p.Field, p.Message = f.field, f.why
	}
	if p.Hint == "" {
		p.Hint = hintOf(p.Code, err)
	}
	return p
}

// hintOf says what to do where the database does not.
func hintOf(code string, err error) string {
	switch code {
	case "42501": // insufficient_privilege
		return "The dashboard's login to the database may not do this. Give PGTICK_WEB_DATABASE_URL another one: to look, a login of pgtick roles reader; to act, one of pgtick roles operator, or the owner's."
	case "42P01", "3F000", "42883", "42703": // something is not there
		return "Run pgtick migrate with this version of pgtick."
	case "25006": // read_only_sql_transaction
		return "This server takes no writes at present: it is a standby, or its disk is full."
	case "57014": // query_canceled
		return "It took too long. Try again, or ask for less."
	}
	return jobs.Remedy(err)
}

// fieldOf is the field of a form that an error of ours is about: TK000 names it first, and the others are about one each.
func fieldOf(pg *pgconn.PgError) string {
	switch code := pg.Code; {
	case code == "TK000", code == "TK100":
		field, _, _ := strings.Cut(pg.Message, " ")
		return field
	case code >= "TK010" && code <= "TK016", code == "TK019":
		return "cron"
	case code == "TK018":
		return "time_zone"
	case code == "TK007":
		return "new_name"
	}
	return ""
}

type fieldError struct{ field, why string }

func (e fieldError) Error() string { return fmt.Sprintf("%s: %s", e.field, e.why) }

// refuse says of a field of a form what is wrong with it, before the database is asked.
func refuse(field, format string, args ...any) error {
	return fieldError{field, fmt.Sprintf(format, args...)}
}

// most is how long the form of an action may be: arguments of a job have 64 KiB, and take more room on the way.
const most = 512 << 10

func (d *Dashboard) act(db *database, a action) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who := personOf(r)
		if !who.Operator {
			d.fail(w, r, db, http.StatusForbidden, &problem{Message: "You may look, but not act.", Hint: "Ask for a login with the role of operators."})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
		if err := r.ParseForm(); err != nil {
			d.fail(w, r, db, http.StatusBadRequest, &problem{Message: "The form can't be read: " + err.Error()})
			return
		}
		doing := &doing{Form: r.PostForm, Person: who, Base: db.base, database: db}
		said, err := d.run(r.Context(), db, a, doing)
		db.forget()
		entry := d.options.Log.WithFields(logrus.Fields{"action": a.Name, "who": who.Name})
		if err != nil {
			p := problemOf(err) // whose words may hold arguments of a job
			entry.WithField("sqlstate", p.Code).Warn("an action from the dashboard was refused")
			d.refused(w, r, db, a, doing, p)
			return
		}
		entry.Info("an action from the dashboard")
		setNotice(w, r, notice{Text: said})
		d.back(w, r, db, doing)
	}
}

func (d *Dashboard) run(ctx context.Context, db *database, a action, doing *doing) (said string, err error) {
	err = db.write(ctx, doing.Person, func(ctx context.Context, tx jobs.DB) error {
		doing.DB = tx
		seen, err := lastAction(ctx, tx)
		if err != nil {
			return err
		}
		if said, err = a.Run(ctx, doing); err != nil {
			return err
		}
		details, err := json.Marshal(doing.details)
		if err != nil {
			return err
		}
		return noteUnlessNoted(ctx, tx, seen, a.Name, doing.subject, details)
	})
	return said, err
}

func (d *Dashboard) refused(w http.ResponseWriter, r *http.Request, db *database, a action, doing *doing, p *problem) {
	if a.Again != nil {
		d.again(w, r, db, a.Again(doing), doing.Form, p)
		return
	}
	setNotice(w, r, notice{Text: p.Message, Hint: p.Hint, Bad: true})
	doing.to = ""
	d.back(w, r, db, doing)
}

// back leads to a page of this dashboard, and nowhere else, whatever the form says.
func (d *Dashboard) back(w http.ResponseWriter, r *http.Request, db *database, doing *doing) {
	to := doing.to
	if to == "" {
		to = trimBase(doing.Form.Get("back"), db.base)
	}
	if to = "/" + strings.TrimLeft(to, "/\\"); strings.ContainsAny(to, "\t\r\n") { // browsers leave those out, and so find another site behind "/\t/"
		to = "/"
	}
	http.Redirect(w, r, db.base+to, http.StatusSeeOther)
}
