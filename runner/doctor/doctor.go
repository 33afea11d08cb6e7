// Package doctor looks at an installation of pgtick and says what is wrong with it, why that matters and what mends it.
//
// It changes nothing: what it asks the database it asks in transactions that are read only, and it sends notifications to itself alone.
// Each statement is cut off after five seconds, each check after fifteen; what could not be looked at, also for want of a right, is a warning.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/pgtick/pgtick/tasks/credits"
)

// Status is how bad a finding is.
type Status string

// A warning is for somebody to see some day, a failure now.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Finding is what a check has found. Commands and SQL in it stand in backquotes.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	What   string `json:"what"`   // what was seen
	Why    string `json:"why"`    // why it matters
	Remedy string `json:"remedy"` // what mends it; nothing where all is well
	Unseen bool   `json:"-"`      // it could not look
}

// Check is one thing to look at. It may have several findings, at least one.
type Check struct {
	Name string
	Why  string
	well string // what is said when nothing is wrong and the check says nothing itself
	on   footing
	look func(ctx context.Context, e *exam) error
}

// footing is what a check stands on.
type footing int

const (
	nothing footing = iota
	aConnection
	theSchema
)

// Options say what to look at: the settings of a runner.
type Options struct {
	Database    *pgx.ConnConfig
	Listen      *pgx.ConnConfig // nil: the same
	Connections int             // of a runner, besides two
	Lease       time.Duration   // 0 means 30 s
	Redis       redis.UniversalClient
	Sync        credits.Target                   // nil: this database
	Env         func(name string) (string, bool) // where secrets are looked for; nil means os.LookupEnv
	Version     string                           // of this program
	See         func(made, all int)              // told after each check; nil: nobody
}

func (o Options) withDefaults() Options {
	o.Lease = cmp.Or(o.Lease, 30*time.Second)
	if o.Listen == nil {
		o.Listen = o.Database
	}
	if o.Sync == nil {
		o.Sync = credits.Local()
	}
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	if o.See == nil {
		o.See = func(int, int) {}
	}
	o.Database, o.Listen = polite(o.Database), polite(o.Listen)
	return o
}

// polite is a configuration for any pooler. The name says that this is no runner: what begins with pgtick is the clock of one.
func polite(cfg *pgx.ConnConfig) *pgx.ConnConfig {
	cfg = cfg.Copy()
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	if cfg.RuntimeParams == nil {
		cfg.RuntimeParams = map[string]string{}
	}
	cfg.RuntimeParams["application_name"] = "doctor of pgtick"
	return cfg
}

// Names are those of all checks, in their order.
func Names() []string {
	var names []string
	for _, c := range Checks() {
		names = append(names, c.Name)
	}
	return names
}

// Examine looks at everything, or at the checks that are named, and returns what it found in the order of the checks. Its only error is that
// ctx has ended.
func Examine(ctx context.Context, opt Options, only ...string) ([]Finding, error) {
	x := &examination{opt: opt.withDefaults()}
	defer x.close()
	x.open(ctx)
	checks := slices.DeleteFunc(Checks(), func(c Check) bool { return len(only) > 0 && !slices.Contains(only, c.Name) })
	var all []Finding
	for i, c := range checks {
		all = append(all, x.examine(ctx, c)...)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		x.opt.See(i+1, len(checks))
	}
	return all, nil
}

const (
	eachCheck   = 15 * time.Second
	mostOfAKind = 10 // findings of one check
)

func (x *examination) examine(ctx context.Context, c Check) []Finding {
	e := &exam{examination: x, check: c}
	if why, remedy := x.without(c.on); why != "" {
		e.unseen(remedy, "%s", why)
		return e.found
	}
	ctx, end := context.WithTimeout(ctx, eachCheck)
	defer end()
	if err := c.look(ctx, e); err != nil {
		e.couldNot(ctx, err)
	}
	if len(e.found) == 0 {
		e.ok("%s", c.well)
	}
	if e.more > 0 {
		e.found = append(e.found, Finding{Check: c.Name, Status: e.worst, What: fmt.Sprintf("and %d more", e.more), Why: c.Why, Remedy: "mend these, and look again: " + again(c)})
	}
	return e.found
}

// without says why a check has nothing to stand on.
func (x *examination) without(on footing) (why, remedy string) {
	switch {
	case on >= aConnection && x.unreachable != nil:
		return "the database can't be reached", "first mend what the check reachable says"
	case on >= aConnection && x.byStatement:
		return "a pooler in statement mode is between", "first mend what the check pooler says"
	case on >= theSchema && x.version == 0:
		return "pgtick is not installed in this database", "first `pgtick migrate`"
	}
	return "", ""
}

// exam is one check at work.
type exam struct {
	*examination
	check Check
	found []Finding
	more  int    // that are left out
	worst Status // of those
}

func (e *exam) add(f Finding) {
	if len(e.found) == mostOfAKind {
		if e.more++; e.worst != Fail {
			e.worst = f.Status
		}
		return
	}
	f.Check, f.Why = e.check.Name, e.check.Why
	e.found = append(e.found, f)
}

func (e *exam) ok(format string, args ...any) {
	e.add(Finding{Status: OK, What: fmt.Sprintf(format, args...)})
}

func (e *exam) warn(remedy, format string, args ...any) {
	e.add(Finding{Status: Warn, What: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (e *exam) fail(remedy, format string, args ...any) {
	e.add(Finding{Status: Fail, What: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (e *exam) unseen(remedy, format string, args ...any) {
	e.add(Finding{Status: Warn, What: "not looked at: " + fmt.Sprintf(format, args...), Remedy: remedy, Unseen: true})
}

func again(c Check) string { return "`pgtick doctor --only " + c.Name + "`" }

// couldNot tells what kept a check from looking. What is neither a want of rights nor of time is a failure: somebody has to look himself.
func (e *exam) couldNot(ctx context.Context, err error) {
	switch code := stateOf(err); {
	case code == "42501":
		e.unseen(fmt.Sprintf("look as %s, who owns pgtick's schema: `DATABASE_URL=%s pgtick doctor --only %s`", e.owner, e.url(e.owner), e.check.Name),
			"%s may not (%s)", e.opt.Database.User, message(err))
	case code == "55P03" || code == "57014" || errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.unseen("look again when the database is less busy: "+again(e.check), "cut off, it took too long (%s)", message(err))
	case code == "25006":
		e.unseen("look at the primary server", "this server takes no writes (%s)", message(err))
	case slices.Contains([]string{"42P01", "42703", "42883", "3F000", "42704"}, code):
		e.unseen("`pgtick migrate`", "the schema lacks something (%s)", message(err))
	default:
		e.fail("find out why, and look again: "+again(e.check), "it could not be looked at: %s", message(err))
	}
}
