package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/migrations"
	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/runner/limit"
	"github.com/pgtick/pgtick/runner/metrics"
	"github.com/pgtick/pgtick/runner/web"
	"github.com/pgtick/pgtick/tasks"
)

// readmitAfter is how long to wait before a database that could not be reached at the start is tried again.
const readmitAfter = 10 * time.Second

// site is one database with its engine.
type site struct {
	name     string // its address, or nothing where it is the only one
	cfg      config.Config
	log      *logrus.Logger
	limiter  *limit.Limiter
	metrics  *metrics.Metrics
	tally    web.Tally
	registry *tasks.Registry
	engine   atomic.Pointer[engine.Engine]
	tried    atomic.Pointer[time.Time]
	admitted bool
}

type sites []*site

// sitesOf makes a site of each database of the configuration.
func sitesOf(cfg config.Config, registry *tasks.Registry, into prometheus.Registerer, log *logrus.Logger) (sites, error) {
	var all sites
	known := map[string]bool{}
	for _, a := range append([]config.Addresses{{Database: cfg.Database, Listen: cfg.Listen, Web: cfg.Web.Database}}, cfg.More...) {
		address := migrations.Address(a.Database)
		if known[address] {
			return nil, fmt.Errorf("PGTICK_DATABASES (or --database): %s is named twice", address)
		}
		known[address] = true
		s := &site{cfg: cfg, log: log}
		if s.cfg.Database, s.cfg.Listen, s.cfg.Web.Database = a.Database, a.Listen, a.Web; len(cfg.More) > 0 {
			s.name, s.log = address, logFor(log, address)
		}
		watchLogins(s.cfg.Database, s.cfg.Listen)
		s.registry = withCalls(withCredits(registry, s.cfg), s.cfg)
		s.metrics = metrics.New(into, s.name)
		s.metrics.WatchEngine(s.status)
		s.limiter = limit.New(limit.Options{Redis: cfg.Redis, Log: logrus.NewEntry(s.log), Prefix: "pgtick:" + address + ":", Observer: s.metrics})
		all = append(all, s)
	}
	return all, nil
}

// logFor is a log whose lines name the database.
func logFor(log *logrus.Logger, database string) *logrus.Logger {
	own := &logrus.Logger{Out: log.Out, Formatter: log.Formatter, Level: log.Level, ExitFunc: log.ExitFunc, Hooks: maps.Clone(log.Hooks)}
	own.AddHook(fieldHook{"database", database})
	return own
}

type fieldHook struct{ key, value string }

func (fieldHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h fieldHook) Fire(entry *logrus.Entry) error {
	entry.Data[h.key] = h.value
	return nil
}

func (all sites) close() {
	for _, s := range all {
		s.limiter.Close()
	}
}

func (all sites) engines() (engines []web.Engine) {
	for _, s := range all {
		engines = append(engines, web.Engine{Database: s.name, Status: s.status})
	}
	return engines
}

// admit fails where a database must not or cannot be worked on. Of several, one that cannot be reached is left for later.
func (all sites) admit(ctx context.Context) error {
	for _, s := range all {
		err := s.admit(ctx)
		if err != nil && (s.name == "" && !jobs.Passes(err) || !mayPass(err)) {
			return s.named(err)
		}
	}
	return nil
}

func (s *site) admit(ctx context.Context) error {
	now := time.Now()
	waits := s.tried.Swap(&now) != nil
	err := admit(ctx, s.cfg)
	s.admitted = err == nil
	switch {
	case err == nil || !mayPass(err):
	case s.name != "":
		s.log.WithError(err).Warnf("trying again in %s, while the other databases are worked on%s", readmitAfter, engine.Advice(err))
	case waits || jobs.Passes(err):
		s.log.WithError(err).Warnf("trying again in %s%s", readmitAfter, engine.Advice(err))
	}
	return err
}

// mayPass: nobody answered, or not yet as a server that is up does.
func mayPass(err error) bool {
	if refusal := new(pgconn.PgError); errors.As(err, &refusal) {
		return jobs.Passes(err) || refusal.Code[:2] == "53" // short of something
	}
	return errors.As(err, new(*pgconn.ConnectError))
}

func (s *site) named(err error) error {
	if err == nil || s.name == "" {
		return err
	}
	return fmt.Errorf("%s: %w", s.name, err)
}

// run works on all until ctx ends. When one ends with an error the others stop as well, so that whoever watches the process starts it anew.
func (all sites) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make([]error, len(all))
	var group sync.WaitGroup
	for i, s := range all {
		group.Go(func() {
			ended[i] = s.named(s.run(ctx))
			if ended[i] != nil {
				stop()
			}
		})
	}
	group.Wait()
	return errors.Join(ended...)
}

func (s *site) run(ctx context.Context) error {
	for !s.admitted {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(readmitAfter):
		}
		if err := s.admit(ctx); err != nil && !mayPass(err) && ctx.Err() == nil {
			return err
		}
	}
	pool, err := taskPool(ctx, s.cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	defer s.measure(ctx, pool)()
	defer s.tell(ctx, pool)()
	e, err := engine.New(engine.Options{
		Name: s.cfg.Name, Version: buildVersion(), Queues: s.cfg.Queues, Registry: s.registry, Workers: s.cfg.Workers,
		Lease: s.cfg.Lease, Poll: s.cfg.Poll, Grace: cmp.Or(s.cfg.Grace, engine.NoGrace), Limiter: s.limiter, NoClock: s.cfg.NoClock, Log: s.log, LogRate: cmp.Or(s.cfg.LogRate, engine.NoLines), Observer: seen{s.metrics, &s.tally},
		Pool: pool, Connect: connector(s.cfg.Database), Listen: connector(s.cfg.Listen),
	})
	if err != nil {
		return usageError{err}
	}
	s.engine.Store(e)
	return e.Run(ctx)
}

// measure reads in the background, where /metrics is served, what the database knows. The function that it returns waits for its end.
func (s *site) measure(ctx context.Context, pool *pgxpool.Pool) (end func()) {
	if s.cfg.HTTP == "" {
		return func() {}
	}
	s.metrics.WatchPool(pool)
	ctx, stop := context.WithCancel(ctx)
	var reader sync.WaitGroup
	reader.Go(func() { s.metrics.Read(ctx, pool, logrus.NewEntry(s.log), metrics.ReadEvery) })
	return func() { stop(); reader.Wait() }
}

// lastWord is how long a runner that ends may take to tell what has ended last.
const lastWord = time.Second

// tell says in the background what has ended, for the charts of every dashboard. The function that it returns says the rest, and ends it.
func (s *site) tell(ctx context.Context, pool *pgxpool.Pool) (end func()) {
	ctx, stop := context.WithCancel(ctx)
	var teller sync.WaitGroup
	runner := func() int64 { return s.status().RunnerID }
	teller.Go(func() { s.tally.Run(ctx, pool, runner, logrus.NewEntry(s.log)) })
	return func() {
		stop()
		teller.Wait()
		last, done := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
		defer done()
		if err := s.tally.Tell(last, pool, runner()); err != nil {
			s.log.WithError(err).Info("the database does not know what has ended last: the dashboard's charts lack it")
		}
	}
}

// status is the engine's. A site that waits for its database turns, but has no runner.
func (s *site) status() engine.Status {
	if e := s.engine.Load(); e != nil {
		return e.Status()
	}
	if tried := s.tried.Load(); tried != nil {
		return engine.Status{LastTurn: *tried}
	}
	return engine.Status{}
}
