package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// page is one that people look at, at an address below that of its database. Its data are read in one transaction that can't write and in
// which no statement may take longer than readTimeout; what was made of them serves everybody of the same role for a moment.
type page struct {
	Path     string // as of http.ServeMux, without a method: /jobs/{id}
	Nav      string // the path of the entry of the menu that it belongs to
	Title    string // what the browser's tab says; Load may set a better one
	Template string // the file below templates/ that defines "main"
	Live     bool   // it is fetched again when something has changed
	Fragment bool   // it is a part of another page, without the frame around it, and never kept
	Operator bool   // only for operators
	Load     func(ctx context.Context, v *view) (data any, err error)
}

// view is one request for a page.
type view struct {
	DB       jobs.DB // the transaction
	Query    url.Values
	Form     url.Values // what a refused action was given, on the page that shows it again; otherwise nil
	Err      *problem   // and why it was refused
	Title    string
	Base     string // before each address: nothing, or /db/NAME
	Person   person
	Now      time.Time
	path     func(string) string
	database *database
	refused  *problem // what the address asks for, on a page that has a form for it
}

// PathValue is a part of the address, by its name in the page's path.
func (v *view) PathValue(name string) string { return v.path(name) }

// SeesArgs tells whether arguments, results and what was said on the way may be shown at all; see also JSON.
func (v *view) SeesArgs() bool { return v.database.options.Rules.sees(v.Person) }

// JSON is a value of a job as this person may see it.
func (v *view) JSON(task, name string, value []byte) shownJSON {
	return v.database.options.Rules.show(v.Person, task, name, value)
}

// Error is an error of a job as this person may see it.
func (v *view) Error(task string, value []byte) shownError {
	return v.database.options.Rules.showError(v.Person, task, value)
}

// Text is a note of a job as this person may see it.
func (v *view) Text(task, name, value string) string {
	return v.database.options.Rules.showText(v.Person, task, name, value)
}

// Found tells whether what was searched for stands in what this person may see of a job: the database has looked at all of it.
func (v *view) Found(search string, j jobs.JobView) bool {
	return v.database.options.Rules.found(v.Person, search, j)
}

// FormOr is a field of what was given to a refused action, or otherwise.
func (v *view) FormOr(name, otherwise string) string {
	if v.Form == nil {
		return otherwise
	}
	return v.Form.Get(name)
}

// missingError is shown with 404.
type missingError struct{ what string }

func (e missingError) Error() string { return e.what }

// missing says that there is no such thing.
func missing(format string, args ...any) error { return missingError{fmt.Sprintf(format, args...)} }

// wrongError is shown with 400: the address asks for what can't be.
type wrongError struct{ field, what string }

func (e wrongError) Error() string { return e.what }

// wrong says what is wrong with the address, naming field and value.
func wrong(format string, args ...any) error { return wrongError{"", fmt.Sprintf(format, args...)} }

// wrongIn is wrong for a page that has a form with the field.
func wrongIn(field, format string, args ...any) error {
	return wrongError{field, fmt.Sprintf(format, args...)}
}

// refuse has the page shown with its form as it was filled in, and what is wrong at the field, for errors that a form can mend.
func (v *view) refuse(err error) error {
	asked := new(wrongError)
	if !errors.As(err, asked) {
		return err
	}
	v.refused = &problem{Message: asked.what, Field: asked.field}
	return nil
}

func status(err error) int {
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, new(missingError)), errors.Is(err, jobs.ErrNoJob), errors.Is(err, jobs.ErrNoSchedule):
		return http.StatusNotFound
	case errors.As(err, new(wrongError)), errors.Is(err, jobs.ErrBadValue):
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// entry is one of the menu.
type entry struct{ Path, Label, Key string }

// Key is what goes there after g.
func menu() []entry {
	return []entry{{"/", "Overview", "o"}, {"/jobs", "Jobs", "j"}, {"/schedules", "Schedules", "s"}, {"/queues", "Queues", "q"}, {"/runners", "Runners", "r"},
		{"/credits", "Credits", "c"}, {"/actions", "Actions", "a"}, {"/keys", "Keys", "k"}}
}

func pages() []page {
	return slices.Concat(corePages(), jobsPages(), schedulesPages(), queuesPages(), creditsPages())
}

func actions() []action {
	return slices.Concat(jobsActions(), schedulesActions(), queuesActions(), creditsActions())
}

// screen is what templates get, as $.
type screen struct {
	Base      string
	Path      string // of this page, without Base
	Address   string // with it and its query: where an action leads back to
	Query     url.Values
	Title     string
	Nav       string
	Menu      []entry
	Person    person
	Operator  bool // may act
	SeesArgs  bool
	Live      bool
	Databases []link
	Database  string
	Data      any
	Form      url.Values
	Err       *problem
	Notice    *notice
	Now       time.Time
	Version   string
	LogsIn    bool   // there is a login to end
	Theme     string // dark, light, or as the system has it
}

type link struct {
	Label   string
	Address string
	Current bool
}

// With is this page's address with one field of its query changed; empty takes it out. What says where in a list one is goes.
func (s screen) With(field, value string) string {
	query := url.Values{}
	for name, values := range s.Query {
		if name != "after" {
			query[name] = values
		}
	}
	if query.Set(field, value); value == "" {
		query.Del(field)
	}
	if len(query) == 0 {
		return s.Base + s.Path
	}
	return s.Base + s.Path + "?" + query.Encode()
}

// FieldError is what a refused action says of this field.
func (s screen) FieldError(field string) string {
	if s.Err == nil || s.Err.Field != field {
		return ""
	}
	return s.Err.Message
}

func (e entry) Current(nav string) bool { return e.Path == nav }

func trimBase(address, base string) string {
	if path := strings.TrimPrefix(address, base); strings.HasPrefix(path, "/") {
		return path
	}
	return "/"
}
