// Package tasks is what a Go developer writes against: named code that can run (a Task), the registry that a runner serves, one
// attempt of a job (Job), and the errors that say what shall become of it.
//
//	registry := tasks.NewRegistry()
//	tasks.Register(registry, "email.welcome", func(ctx context.Context, job *tasks.Job[Welcome]) error {
//		return send(ctx, job.Args.Address)
//	})
//
// A task that returns nil has done its job. Any other error is tried again by the retry policy until the job's attempts are used
// up; Snooze, RetryAfter, Permanent and Cancel say otherwise. A panic is one failed attempt. A plain task runs at least once; what a task of
// RegisterTx writes in its transaction happens exactly once.
//
// Define gives a task its name, the type of its args and its defaults in one place. By it, or by Enqueue, jobs are enqueued: in a
// transaction of the caller's, or of the task's own.
//
//	var welcome = tasks.Define[Welcome]("email.welcome", tasks.Queue("mail"), tasks.Timeout(time.Minute))
//
//	welcome.Register(registry, sendWelcome)
//	id, err := welcome.Enqueue(ctx, tx, Welcome{Address: "ann@example.org"}, tasks.Delay(time.Hour))
//
// Registry.Use puts middleware around attempts: Logging here, metrics in package taskmetrics, OpenTelemetry in package tasktrace. Package
// pgtest (tests/pgtest) runs tasks under test, with and without a database.
package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

// Task is named code that can run, with its arguments still as JSON. Register and RegisterTx make it from a typed function.
type Task struct {
	Name string
	// Run is the plain form, RunTx the transactional one; exactly one is set. Neither has its middleware: call Attempt.
	Run   func(ctx context.Context, call Call) error
	RunTx func(ctx context.Context, tx pgx.Tx, call Call) error
	// Declared is what Define says of all its jobs, as pgtick.declare_task takes it (a JSON object), or nil.
	Declared json.RawMessage

	inner   RunFunc // with the middleware that it came with
	attempt RunFunc // and that of the registry
}

// Call is what the engine gives to a task for one attempt.
type Call struct {
	Info   Info
	Args   json.RawMessage
	Log    *logrus.Entry
	Handle *Handle
}

// Registry holds the tasks that a runner serves, by name. Fill it before the runner starts.
type Registry struct {
	byName map[string]Task
	around []Middleware
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{byName: map[string]Task{}} }

// Register adds a task under a name of 1 to 200 characters. The job's args are decoded into A; a field that A does not have, or
// one of another type, fails the job for good. It panics when the name is empty or taken: that is a mistake in the program.
func Register[A any](r *Registry, name string, run func(ctx context.Context, job *Job[A]) error) {
	r.add(Task{Name: name, Run: plain(run)})
}

func plain[A any](run func(ctx context.Context, job *Job[A]) error) RunFunc {
	return func(ctx context.Context, call Call) error {
		job, err := typed[A](call)
		if err != nil {
			return err
		}
		return run(ctx, job)
	}
}

// RegisterTx adds a task that runs in a transaction of its own. Its effects there and the job's completion commit together, or
// not at all: exactly once, whatever is killed, frozen or cut. The transaction must not be committed or rolled back by the task.
func RegisterTx[A any](r *Registry, name string, run func(ctx context.Context, tx pgx.Tx, job *Job[A]) error) {
	r.add(Task{Name: name, RunTx: transactional(run)})
}

type runTxFunc = func(ctx context.Context, tx pgx.Tx, call Call) error

func transactional[A any](run func(ctx context.Context, tx pgx.Tx, job *Job[A]) error) runTxFunc {
	return func(ctx context.Context, tx pgx.Tx, call Call) error {
		job, err := typed[A](call)
		if err != nil {
			return err
		}
		return run(ctx, tx, job)
	}
}

func checkName(name string) {
	if name == "" || len(name) > 200 {
		panic(fmt.Sprintf("tasks: a task's name has 1 to 200 characters: %q", name))
	}
}

func (r *Registry) add(task Task) {
	checkName(task.Name)
	if _, taken := r.byName[task.Name]; taken {
		panic(fmt.Sprintf("tasks: %q is registered twice", task.Name))
	}
	if task.inner == nil {
		task.inner = task.itself()
	}
	r.byName[task.Name] = task.within(r.around)
}

// Merge adds all tasks of the others. It panics on a name that is already there.
func (r *Registry) Merge(others ...*Registry) {
	for _, other := range others {
		for _, name := range other.Names() {
			task := other.byName[name]
			task.inner = task.attempt
			r.add(task)
		}
	}
}

// Names lists the tasks in alphabetical order.
func (r *Registry) Names() []string { return slices.Sorted(maps.Keys(r.byName)) }

// Lookup finds a task by its name.
func (r *Registry) Lookup(name string) (Task, bool) {
	task, ok := r.byName[name]
	return task, ok
}

// Protect runs f and turns a panic into a *PanicError.
func Protect(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return f()
}

func typed[A any](call Call) (*Job[A], error) {
	job := &Job[A]{Info: call.Info, Log: call.Log, Handle: call.Handle}
	if err := decode(call.Args, &job.Args); err != nil {
		return nil, Permanent(fmt.Errorf("args of task %q: %w", call.Info.Task, err))
	}
	return job, nil
}

// decode refuses unknown fields: a misspelt one would otherwise run the task with a default that nobody meant.
func decode(text json.RawMessage, into any) error {
	d, _ := decoders.Get().(*decoder)
	d.in.Reset(text)
	from := d.json.InputOffset()
	if err := d.json.Decode(into); err != nil { // and the decoder is of no use any more
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	rest := text[min(int(d.json.InputOffset()-from), len(text)):]
	if len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("more than one JSON value")
	}
	if len(rest) == 0 && len(text) <= mostKept {
		decoders.Put(d)
	}
	return nil
}

// decoder is used again and again, with one text after the other as if they were one: to make one costs more than to decode small args.
type decoder struct {
	in   bytes.Reader
	json *json.Decoder
}

// mostKept: a decoder keeps a buffer of the largest text that it has seen.
const mostKept = 4096

var decoders = sync.Pool{New: func() any {
	d := new(decoder)
	d.json = json.NewDecoder(&d.in)
	d.json.DisallowUnknownFields()
	return d
}}
