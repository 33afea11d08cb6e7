// Package engine claims jobs, runs their attempts and reports each outcome.
//
// Every report carries the fence of its claim, so a late one is refused. One connection is for control (claim, finish, heartbeat,
// tick), and tasks can never take it; one listens; tasks share a pool. A notification is a hint: losing every one costs the poll
// interval, never a job. Run returns with no attempt running that obeys its context, and no claim held.
package engine

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/tasks"
)

// Options of an engine. Connect, Pool and Registry are required; the zero value of all others works.
type Options struct {
	Name     string          // how the runner calls itself; not unique
	Version  string          // of the program
	Queues   []string        // nil means default
	Registry *tasks.Registry // only these tasks are claimed
	Workers  int             // attempts at a time; 0 means 20
	Lease    time.Duration   // 0 means 30 s
	Poll     time.Duration   // how often to look without a notification; 0 means 5 s
	Grace    time.Duration   // for running attempts at the end; 0 means 25 s, NoGrace none
	Log      *logrus.Logger  // nil means the standard logger
	LogRate  int             // so many attempts a second have a line in it, and as many that failed; 0 means 100, NoLines none
	Observer Observer        // nil means nobody
	Pool     *pgxpool.Pool   // for tasks, and for what takes longer than a moment
	Limiter  *limit.Limiter  // of rates; nil means one without Redis
	NoClock  bool            // leave slots to other clocks: pg_cron, other runners
	Connect  Connector       // of the control connection
	Listen   Connector       // of the listener's; nil means poll only
}

// NoGrace cancels running attempts as soon as the engine stops.
const NoGrace time.Duration = -1

// Connector opens a connection for the engine's own use.
type Connector func(ctx context.Context) (*pgx.Conn, error)

// Observer is told what happens, for metrics. Its methods return at once.
type Observer interface {
	Claimed(jobs int)
	HeldBack(jobs int) // that their rates did not allow yet
	Finished(task, queue, outcome string, waited, ran time.Duration)
	Refused(outcomes int) // outcomes that came under an old fence
	Ticked(jobs int)
	FoundByPoll(jobs int) // that a notification should have announced
	Rescued(claims int)
	Overdue(schedules []string) // those without a done job in time, as last looked
}

type nobody struct{}

func (nobody) Claimed(int)                                                   {}
func (nobody) HeldBack(int)                                                  {}
func (nobody) Finished(string, string, string, time.Duration, time.Duration) {}
func (nobody) Refused(int)                                                   {}
func (nobody) Ticked(int)                                                    {}
func (nobody) FoundByPoll(int)                                               {}
func (nobody) Rescued(int)                                                   {}
func (nobody) Overdue([]string)                                              {}

func (o Options) withDefaults() Options {
	if len(o.Queues) == 0 {
		o.Queues = []string{"default"}
	}
	o.Name = cmp.Or(o.Name, "pgtick")
	o.Workers = cmp.Or(o.Workers, 20)
	o.Lease = cmp.Or(o.Lease, 30*time.Second)
	o.Poll = cmp.Or(o.Poll, 5*time.Second)
	o.Grace = cmp.Or(o.Grace, 25*time.Second)
	o.LogRate = cmp.Or(o.LogRate, 100)
	if o.Log == nil {
		o.Log = logrus.StandardLogger()
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.Limiter == nil {
		o.Limiter = limit.New(limit.Options{Log: logrus.NewEntry(o.Log)})
	}
	return o
}

// Engine runs jobs until its context ends. Make it with New; Run it once.
type Engine struct {
	opt    Options
	tasks  []string
	queues map[string]bool
	log    *logrus.Entry

	backlog *backlog // claimed, for the workers
	ends    *ends    // for the control loop
	signals *signals // what the listener heard
	counted atomic.Pointer[map[string]bool]

	mu     sync.Mutex
	status Status
}

// Status is the engine's state as health checks ask for it.
type Status struct {
	RunnerID    int64
	LastContact time.Time // of the last heartbeat that the database took
	LastTurn    time.Time // of the control loop
	Held        int
	Wakes       *bool // whether notifications arrive; nil: not known yet
	Stopping    bool
}

// New checks the options and makes an engine.
func New(opt Options) (*Engine, error) {
	opt = opt.withDefaults()
	switch {
	case opt.Connect == nil || opt.Pool == nil || opt.Registry == nil:
		return nil, errors.New("engine: Connect, Pool and Registry are required")
	case opt.Workers < 1 || opt.Workers > 10000:
		return nil, errors.New("engine: Workers goes from 1 to 10000")
	}
	queues := make(map[string]bool, len(opt.Queues))
	for _, queue := range opt.Queues {
		queues[queue] = true
	}
	return &Engine{
		opt:     opt,
		tasks:   opt.Registry.Names(),
		queues:  queues,
		log:     logrus.NewEntry(opt.Log).WithField("runner", opt.Name),
		backlog: newBacklog(),
		ends:    newEnds(),
		signals: newSignals(),
	}, nil
}

// Run works until ctx ends, then stops: no new claims; running attempts get Grace to end, after that they are cancelled with
// tasks.ErrShutdown; what is unfinished goes back without counting an attempt. It fails at once when the first contact with the
// database does, with an error that will not pass by waiting; later trouble with the database is waited out.
func (e *Engine) Run(ctx context.Context) error {
	c := newControl(e)
	for err := c.start(ctx); err != nil; err = c.start(ctx) {
		if !jobs.Passes(err) || ctx.Err() != nil {
			c.disconnect()
			return err
		}
		c.trouble(err)
		if !c.pause(ctx) {
			return nil
		}
	}
	attempts, endAttempts := context.WithCancelCause(context.WithoutCancel(ctx))
	defer endAttempts(nil)
	listening, stopListening := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	group.Go(func() { e.listen(listening) })
	group.Go(c.reportAside)
	for range e.opt.Workers {
		group.Go(func() { e.work(attempts) })
	}

	c.loop(ctx)

	e.update(func(s *Status) { s.Stopping = true })
	c.drain(endAttempts)
	stopListening()
	e.backlog.close()
	close(c.batches)
	waitAtMost(&group, time.Second) // an attempt that ignores its context may still run; its claim was given back
	return c.leave()
}

// Status tells how the engine is. Safe for concurrent use.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status
}

func (e *Engine) update(f func(*Status)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(&e.status)
}

func (e *Engine) runner() jobs.Runner {
	return jobs.Runner{Name: e.opt.Name, Queues: e.opt.Queues, Tasks: e.tasks, Lease: e.opt.Lease, Version: e.opt.Version, Workers: e.opt.Workers}
}

func waitAtMost(group *sync.WaitGroup, limit time.Duration) {
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
