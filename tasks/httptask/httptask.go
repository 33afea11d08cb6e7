// Package httptask has the task http, which every runner has: a job that calls a URL, for Edge Functions, webhooks and APIs.
//
// An answer that was expected ends the job as done and is its result; 5xx, 408, 409, 425, 429 and a call that fails on its way are
// errors, tried again by the retry policy or when Retry-After says; all else fails the job for good. A call is made at least once, and
// each attempt of a job has the same Idempotency-Key.
//
// What is called is judged when a connection is made, by the address that it goes to: public ones and those that the operator has
// allowed. Secrets are named in the args, and their values are in no result, error or log.
package httptask

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/tasks"
)

// Name of the task.
const Name = "http"

// Options of the task. The zero value calls public addresses alone.
type Options struct {
	Allow *Allowed                         // what may be called; nil means public addresses
	Roots *x509.CertPool                   // whose certificates are believed; nil means the system's
	Env   func(name string) (string, bool) // where secrets are looked for first; nil means os.LookupEnv
}

// Register adds the task. All its calls share one transport.
func Register(r *tasks.Registry, opt Options) {
	if opt.Allow == nil {
		opt.Allow = &Allowed{public: true}
	}
	if opt.Env == nil {
		opt.Env = os.LookupEnv
	}
	c := &caller{client: newClient(opt.Allow, opt.Roots), env: opt.Env}
	tasks.Register(r, Name, c.run)
}

// caller makes the calls of a runner.
type caller struct {
	client *http.Client
	env    func(string) (string, bool)
	origin atomic.Pointer[string] // of the database, once it is known
}

// errSlow is why a call's context ends when its own timeout has passed.
var errSlow = errors.New("no whole answer")

func (c *caller) run(ctx context.Context, job *tasks.Job[Args]) error {
	call, err := job.Args.check(job.Timeout)
	if err != nil {
		return tasks.Permanent(fmt.Errorf("args of task %q: %w", Name, err))
	}
	secrets, err := c.secrets(ctx, job.Handle, call.secretNames())
	if err != nil {
		return err
	}
	key, err := c.key(ctx, job.Info, job.Handle)
	if err != nil {
		return err
	}
	request, err := call.request(key, secrets, time.Now())
	if err != nil {
		return tasks.Permanent(err)
	}
	limited, end := context.WithTimeoutCause(ctx, call.timeout, errSlow)
	defer end()
	started := time.Now()
	got, err := c.exchange(limited, call, request, secrets)
	if err != nil {
		return call.failed(ctx, limited, err, secrets)
	}
	if !call.expects(got.status) {
		return call.refused(got, secrets)
	}
	return job.SetResult(got.result(call, secrets, time.Since(started)))
}

// key is the same for each attempt of a job, and for no other job, nor for one of another database with the same number. An id that a
// database gives again (its schema was made anew) comes with another time. It has no full stop: the signature's parts are told apart by it.
func (c *caller) key(ctx context.Context, job tasks.Info, handle *tasks.Handle) (string, error) {
	origin := c.origin.Load()
	if origin == nil {
		var found string
		err := handle.WithConn(ctx, func(conn *pgx.Conn) (err error) {
			found, err = originOf(ctx, conn)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("ask the database who it is: %w", err)
		}
		origin = &found
		c.origin.Store(origin)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d", *origin, job.ID, job.CreatedAt.UnixMicro()))
	return fmt.Sprintf("pgtick-%d-%s", job.ID, hex.EncodeToString(sum[:12])), nil
}
