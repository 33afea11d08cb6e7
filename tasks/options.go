package tasks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Option says something of a job that is enqueued. It bears the name of the parameter of pgtick.enqueue that it stands for, whose default
// counts where there is none. In Define it is the default of this task's jobs. A later option replaces an earlier one of its kind.
type Option interface {
	DefineOption
	ofJob(*wish)
}

// DefineOption says something of a task, in Define: all that an Option does, and what goes for all of its jobs.
type DefineOption interface {
	ofTask(*definition)
}

// jobOption is an option of jobs, and so of a task's jobs.
type jobOption func(*wish)

func (o jobOption) ofJob(w *wish)        { o(w) }
func (o jobOption) ofTask(d *definition) { d.defaults = append(d.defaults, o) }

// taskOption is one of tasks alone.
type taskOption func(*definition)

func (o taskOption) ofTask(d *definition) { o(d) }

// wish is a job as it is asked for.
type wish struct {
	set     []parameter
	unique  uniqueness
	trace   func(context.Context) map[string]string
	problem error // the first
}

// uniqueness is where the unique key comes from: one of these, or none.
type uniqueness struct {
	key    *string
	keys   []string
	byArgs bool
}

// put sets a parameter, perhaps anew. The form is its SQL, with %d for the number of the argument.
func (w *wish) put(name, form string, value any) {
	w.drop(name)
	w.set = append(w.set, parameter{name, form, value})
}

func (w *wish) drop(name string) {
	w.set = slices.DeleteFunc(w.set, func(p parameter) bool { return p.name == name })
}

// check notes what is wrong with a value, unless something was wrong before.
func (w *wish) check(right bool, field string, value any, rule string) {
	if !right && w.problem == nil {
		w.problem = refuse(field, value, rule)
	}
}

func refuse(field string, value any, rule string) error {
	return fmt.Errorf("%w: %s %q is refused: %s", ErrBadValue, field, fmt.Sprint(value), rule)
}

// Queue is where the job waits.
func Queue(name string) Option {
	return jobOption(func(w *wish) {
		w.check(name != "", "queue", name, "a name has 1 to 200 characters")
		w.put("queue", asText, name)
	})
}

// Priority goes from 0 (first) to 9 (last). The default is 5.
func Priority(priority int) Option {
	return jobOption(func(w *wish) {
		w.check(priority >= 0 && priority <= 9, "priority", priority, "it goes from 0 (first) to 9 (last)")
		w.put("priority", asInt, priority)
	})
}

// RunAt is when the job may run, at the earliest. A time that has passed is now.
func RunAt(at time.Time) Option {
	return jobOption(func(w *wish) {
		w.check(!at.IsZero(), "run_at", at, "a zero time is no time; leave it out for now")
		w.put("run_at", asTime, at)
	})
}

// Delay is RunAt so long from now, by the database's clock.
func Delay(d time.Duration) Option {
	return jobOption(func(w *wish) {
		w.check(d >= 0, "delay", d, "it is 0 or more")
		w.put("run_at", asDelay, d.Seconds())
	})
}

// MaxAttempts is how many attempts may count before the job has failed: 1 to 1000. The default is 20.
func MaxAttempts(n int) Option {
	return jobOption(func(w *wish) {
		w.check(n >= 1 && n <= 1000, "max_attempts", n, "it goes from 1 to 1000")
		w.put("max_attempts", asInt, n)
	})
}

// Timeout is how long one attempt may take, at most 7 days. The default is 5 minutes.
func Timeout(d time.Duration) Option {
	return jobOption(func(w *wish) {
		w.check(d >= time.Microsecond && d <= 7*24*time.Hour, "timeout", d, "it is more than 0 and at most 7 days; cut longer work into several jobs")
		w.put("timeout", asInterval, d.Seconds())
	})
}

// OwnerID is the end user, a UUID, who sees the job in pgtick.my_jobs.
func OwnerID(id string) Option {
	return jobOption(func(w *wish) {
		var known pgtype.UUID
		w.check(known.Scan(id) == nil && known.Valid, "owner_id", id, "it is a UUID, such as 6f9619ff-8b86-4d11-b42d-00c04fc964ff")
		w.put("owner_id", asUUID, id)
	})
}

// UniqueKey adds no job while one of this task and key is there, in one of UniqueStates: what comes back is the id of that one.
func UniqueKey(key string) Option {
	return jobOption(func(w *wish) { w.unique = uniqueness{key: &key} })
}

// UniqueKeys is UniqueKey for EnqueueMany: one for each job.
func UniqueKeys(keys ...string) Option {
	return jobOption(func(w *wish) { w.unique = uniqueness{keys: slices.Clone(keys)} })
}

// UniqueByArgs is UniqueKey with a key made from the args: equal args, equal key.
func UniqueByArgs() Option {
	return jobOption(func(w *wish) { w.unique = uniqueness{byArgs: true} })
}

// UniqueFor is how long a unique key holds at most, from the enqueue on; at most 400 days. Without it, for as long as the job is in one of
// UniqueStates.
func UniqueFor(d time.Duration) Option {
	return jobOption(func(w *wish) {
		w.check(d >= time.Microsecond && d <= 400*24*time.Hour, "unique_for", d, "it is more than 0 and at most 400 days")
		w.put("unique_for", asInterval, d.Seconds())
	})
}

// UniqueStates are those in which a job keeps another one with its unique key from being added: ready (always among them), running, done,
// failed, cancelled. The default is ready and running.
func UniqueStates(states ...string) Option {
	return jobOption(func(w *wish) {
		w.check(slices.Contains(states, "ready"), "unique_states", states, "ready, and any of running, done, failed, cancelled")
		w.put("unique_states", asTexts, slices.Clone(states))
	})
}

// OnConflict says what becomes of a waiting job that has the unique key already: ignore (the default) leaves it as it is, replace_args gives
// it the new args, move_run_at the new time.
func OnConflict(what string) Option {
	return jobOption(func(w *wish) {
		w.check(slices.Contains([]string{"ignore", "replace_args", "move_run_at"}, what), "on_conflict", what, "one of ignore, replace_args, move_run_at")
		w.put("on_conflict", asText, what)
	})
}

// LimitKey is what the job counts for under the limits by key of its task: a user, an API.
func LimitKey(key string) Option {
	return jobOption(func(w *wish) { w.put("limit_key", asText, key) })
}

// SequenceKey lets jobs with the same key run one at a time, in the order in which they were enqueued. When one fails, or is cancelled, those
// behind it wait until somebody has seen to it; see SequenceFailure.
func SequenceKey(key string) Option {
	return jobOption(func(w *wish) { w.put("sequence_key", asText, key) })
}

// SequenceFailure says what becomes of the jobs behind this one in its sequence when it fails or is cancelled: stop (the default), they wait;
// skip, they go on.
func SequenceFailure(what string) Option {
	return jobOption(func(w *wish) {
		w.check(what == "stop" || what == "skip", "sequence_failure", what, "stop or skip")
		w.put("sequence_failure", asText, what)
	})
}

// After lets the job wait until all of these jobs are done. When one of them fails or is cancelled, so is this one; see AfterOutcome.
func After(jobs ...int64) Option {
	return jobOption(func(w *wish) {
		w.drop("after")
		if len(jobs) > 0 {
			w.put("after", asIDs, slices.Clone(jobs))
		}
	})
}

// AfterOutcome says which ends of the jobs of After let this one run: done (the default), or any.
func AfterOutcome(outcome string) Option {
	return jobOption(func(w *wish) {
		w.check(outcome == "done" || outcome == "any", "after_outcome", outcome, "done or any")
		w.put("after_outcome", asText, outcome)
	})
}

// BatchID makes the job part of a batch.
func BatchID(id int64) Option {
	return jobOption(func(w *wish) { w.put("batch_id", asID, id) })
}

// TraceFrom gives the job the trace of whoever enqueues it, as a W3C carrier (traceparent, tracestate) that is asked for at each enqueue; an
// empty one is none. The task finds it in Info.TraceContext. Package tasktrace has one for OpenTelemetry.
func TraceFrom(carrier func(context.Context) map[string]string) Option {
	return jobOption(func(w *wish) { w.trace = carrier })
}

type carrierKey struct{}

// WithTrace returns a context in which each enqueue that has no TraceFrom of its own takes this one. A middleware that traces attempts uses it,
// so that the jobs that a task enqueues are of its trace.
func WithTrace(ctx context.Context, carrier func(context.Context) map[string]string) context.Context {
	return context.WithValue(ctx, carrierKey{}, carrier)
}

// retries is the policy of a task's jobs in Define, kept by the database, and of one job otherwise.
type retries struct{ policy RetryPolicy }

// Retries says when the job is tried again after an error. In Define it goes for all jobs of the task, whoever enqueues them, unless
// pgtick.set_retry_policy has said otherwise.
func Retries(policy RetryPolicy) Option { return retries{policy} }

func (o retries) ofJob(w *wish) {
	text, err := o.text()
	w.check(err == nil, "retry_policy", string(text), "make it with Exponential, Linear or Delays")
	w.put("retry_policy", asJSON, string(text))
}

func (o retries) ofTask(d *definition) {
	text, err := o.text()
	d.check(err == nil, "retry_policy", string(text), "make it with Exponential, Linear or Delays")
	d.declared.RetryPolicy = text
}

func (o retries) text() (json.RawMessage, error) {
	if o.policy.fields["kind"] == nil {
		return nil, fmt.Errorf("no kind")
	}
	return json.Marshal(o.policy.fields)
}

// digest is a unique key for args: their SHA-256, whatever the order of their keys.
func digest(args string) (string, error) {
	var value any
	if err := decodeNumbers(args, &value); err != nil {
		return "", err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
