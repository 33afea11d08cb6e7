package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Definition is a task's name, the type of its args and its defaults, in one place for those who enqueue and those who run. Make it with
// Define.
type Definition[A any] struct {
	name string
	definition
}

// definition is what the options of Define fill.
type definition struct {
	defaults []jobOption
	around   []Middleware
	declared declared
	problem  error
}

// declared is what the database keeps to for all jobs of a task, as pgtick.declare_task takes it.
type declared struct {
	RetryPolicy json.RawMessage `json:"retry_policy,omitempty"`
	limits
	PerKey   *limits  `json:"per_key,omitempty"`
	Gates    []string `json:"gates,omitempty"`
	MostRows int64    `json:"most_rows,omitempty"`
}

// limits are those of a task, or of each limit key.
type limits struct {
	Rate          int     `json:"rate,omitempty"`
	PeriodSeconds float64 `json:"period_seconds,omitempty"`
	Burst         int     `json:"burst,omitempty"`
	MaxRunning    int     `json:"max_running,omitempty"`
}

// Define names a task, and says what its jobs are like unless an enqueue says otherwise. It panics on a value that is not allowed: that is a
// mistake in the program.
//
// Options such as Queue and Timeout are defaults for those who enqueue by this definition; jobs that SQL enqueues, and those of schedules, have
// what is said there. Retries, RateLimit, Burst and MaxRunning are the task's: a runner that has it registered declares them to the database
// when it starts, and they go for all of its jobs. What was said there in SQL (pgtick.set_retry_policy, pgtick.set_limit) goes before them.
func Define[A any](name string, options ...DefineOption) *Definition[A] {
	d := &Definition[A]{name: name}
	checkName(name)
	for _, option := range options {
		option.ofTask(&d.definition)
	}
	for _, l := range []*limits{&d.declared.limits, d.declared.PerKey} {
		if l != nil {
			d.check(l.Burst == 0 || l.Rate > 0, "burst", l.Burst, "it goes with RateLimit")
		}
	}
	if d.problem == nil {
		d.problem = d.wish(nil).problem
	}
	if d.problem != nil {
		panic(fmt.Sprintf("tasks: define %q: %v", name, d.problem))
	}
	return d
}

func (d *definition) check(right bool, field string, value any, rule string) {
	if !right && d.problem == nil {
		d.problem = refuse(field, value, rule)
	}
}

// wish begins with the defaults.
func (d *definition) wish(options []Option) *wish {
	w := new(wish)
	for _, option := range d.defaults {
		option(w)
	}
	for _, option := range options {
		option.ofJob(w)
	}
	return w
}

// LimitOption is a part of a limit: RateLimit, Burst, MaxRunning. In Define it is of all jobs of the task together; in PerKey, of each limit key.
type LimitOption func(d *definition, l *limits)

func (o LimitOption) ofTask(d *definition) { o(d, &d.declared.limits) }

// PerKey says what goes for the jobs of each LimitKey, beside what goes for all jobs of the task. A job without a key is free of it.
func PerKey(options ...LimitOption) DefineOption {
	return taskOption(func(d *definition) {
		d.declared.PerKey = new(limits)
		for _, option := range options {
			option(d, d.declared.PerKey)
		}
		d.check(d.declared.PerKey.Rate > 0 || d.declared.PerKey.MaxRunning > 0, "per_key", len(options), "it has a RateLimit or MaxRunning")
	})
}

// RateLimit lets at most n jobs start in a period of a second or more, over all runners.
func RateLimit(n int, period time.Duration) LimitOption {
	return func(d *definition, l *limits) {
		d.check(n >= 1, "rate", n, "it is 1 or more")
		d.check(period >= time.Second, "period", period, "it is a second or more")
		l.Rate, l.PeriodSeconds = n, period.Seconds()
	}
}

// Burst is how many of RateLimit may start at once.
func Burst(n int) LimitOption {
	return func(d *definition, l *limits) {
		d.check(n >= 1, "burst", n, "it is 1 or more")
		l.Burst = n
	}
}

// MaxRunning lets at most n jobs run at a time, over all runners.
func MaxRunning(n int) LimitOption {
	return func(d *definition, l *limits) {
		d.check(n >= 1, "max_running", n, "it is 1 or more")
		l.MaxRunning = n
	}
}

// Gates names queries (pgtick.allow_gate) of which none may return a row when a transaction of the task commits: RegisterTx, InTx, EndInTx. One
// that does fails the job for good, with the rows as evidence, and pauses its schedule.
func Gates(names ...string) DefineOption {
	return taskOption(func(d *definition) { d.declared.Gates = names })
}

// MostRows lets each transaction of the task change at most n rows; with more nothing of it stays, as with Gates.
func MostRows(n int64) DefineOption {
	return taskOption(func(d *definition) {
		d.check(n >= 1, "most_rows", n, "it is 1 or more")
		d.declared.MostRows = n
	})
}

// Around puts middleware around this task alone, inside of what its registry puts around all (Registry.Use); the first one is the outermost.
func Around(middleware ...Middleware) DefineOption {
	return taskOption(func(d *definition) { d.around = append(d.around, middleware...) })
}

// Name is the task's name.
func (d *Definition[A]) Name() string { return d.name }

// Enqueue adds a job with the definition's defaults; options go before them. See the function Enqueue.
func (d *Definition[A]) Enqueue(ctx context.Context, db DB, args A, options ...Option) (id int64, err error) {
	return enqueue(ctx, db, d.name, args, d.wish(options))
}

// EnqueueMany adds a job for each element of args; see the function EnqueueMany.
func (d *Definition[A]) EnqueueMany(ctx context.Context, db DB, args []A, options ...Option) (ids []int64, err error) {
	return enqueueMany(ctx, db, d.name, args, d.wish(options))
}

// Register adds the task to a registry, with this function; see the function Register.
func (d *Definition[A]) Register(r *Registry, run func(ctx context.Context, job *Job[A]) error) {
	r.add(d.task(plain(run), nil))
}

// RegisterTx adds the task to a registry, with a function that runs in a transaction of its own; see the function RegisterTx.
func (d *Definition[A]) RegisterTx(r *Registry, run func(ctx context.Context, tx pgx.Tx, job *Job[A]) error) {
	r.add(d.task(nil, transactional(run)))
}

func (d *Definition[A]) task(run RunFunc, runTx runTxFunc) Task {
	text, _ := json.Marshal(d.declared) // numbers, and JSON that was checked: it cannot fail
	task := Task{Name: d.name, Run: run, RunTx: runTx, Declared: text}
	task.inner = wrap(task.itself(), d.around)
	return task
}
