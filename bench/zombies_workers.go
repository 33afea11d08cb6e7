package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/sirupsen/logrus"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/tasks"
)

// zombieSlots are the attempts at a time of each worker.
const zombieSlots = 20

// Of rescue, after a claim: pgtick's lease, River's RescueStuckJobsAfter with a JobTimeout that is a little shorter, as it demands.
const (
	zombieLease        = 10 * time.Second
	riverZombieTimeout = 15 * time.Second
	riverZombieRescue  = 18 * time.Second
)

// zombieWorkers are the workers in Go, by form. This program is started again with such a name.
var zombieWorkers = map[string]func(*goZombie) error{
	"pgtick-tx":         pgtickZombie,
	"pgtick-tx-late":    pgtickZombie,
	"pgtick-check":      pgtickZombie,
	"pgtick-check-late": pgtickZombie,
	"pgtick-plain":      pgtickZombie,
	"pgtick-plain-late": pgtickZombie,
	"river-tx":          riverZombie,
	"river-tx-late":     riverZombie,
	"river-plain":       riverZombie,
	"river-plain-late":  riverZombie,
}

// goZombie is a worker in Go that may be frozen.
type goZombie struct {
	*stage
	form, role string
	pool       *pgxpool.Pool // for the tasks' transactions
}

// runZombieWorker is the command behind the experiment's back: zombie-worker FORM ROLE POINT.
func runZombieWorker(args []string) error {
	if len(args) != 3 || zombieWorkers[args[0]] == nil {
		return fmt.Errorf("zombie-worker is started by -zombies, not by hand")
	}
	cfg, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	cfg.MaxConns = zombieSlots + 10
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	return zombieWorkers[args[0]](&goZombie{newStage(args[2]), args[0], args[1], pool})
}

// context is what the task and its transaction go by: in the forms named late, one that does not end.
func (z *goZombie) context(ctx context.Context) context.Context {
	if strings.HasSuffix(z.form, "-late") {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// effect is what the task is for.
func (z *goZombie) effect(ctx context.Context, tx pgx.Tx, job int64) error {
	_, err := tx.Exec(ctx, `insert into effects (job_id, by) values ($1, $2)`, fmt.Sprint(job), z.role)
	if err == nil {
		z.at(beforeCommit, job)
	}
	return err
}

// plain is the effect in a transaction of its own, with what may be to do last before its commit.
func (z *goZombie) plain(ctx context.Context, job int64, last func(pgx.Tx) error) error {
	z.at(beforeEffect, job)
	return pgx.BeginFunc(ctx, z.pool, func(tx pgx.Tx) error {
		if err := z.effect(ctx, tx, job); err != nil {
			return err
		}
		return last(tx)
	})
}

func nothingMore(pgx.Tx) error { return nil }

func pgtickZombie(z *goZombie) error {
	log := logrus.New() // to stderr
	log.SetLevel(logrus.WarnLevel)
	log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true, DisableColors: true})
	connect := func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, z.pool.Config().ConnConfig)
	}
	e, err := engine.New(engine.Options{Name: z.role, Registry: z.tasks(), Workers: zombieSlots, Lease: zombieLease, Log: log, Pool: z.pool, Connect: connect, Listen: connect})
	if err != nil {
		return err
	}
	return e.Run(z.over)
}

func (z *goZombie) tasks() *tasks.Registry {
	registry := tasks.NewRegistry()
	registry.Use(func(next tasks.RunFunc) tasks.RunFunc { // around the transaction, so it hears of the commit
		return func(ctx context.Context, call tasks.Call) error {
			err := next(z.context(ctx), call)
			z.ended(call.Info.ID, err)
			return err
		}
	})
	switch strings.TrimSuffix(z.form, "-late") {
	case "pgtick-tx":
		tasks.RegisterTx(registry, "effect", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[struct{}]) error {
			z.at(beforeEffect, job.ID)
			return z.effect(ctx, tx, job.ID)
		})
	case "pgtick-check":
		tasks.Register(registry, "effect", func(ctx context.Context, job *tasks.Job[struct{}]) error {
			z.at(beforeEffect, job.ID)
			return job.InTx(ctx, func(tx pgx.Tx) error { return z.effect(ctx, tx, job.ID) })
		})
	default:
		tasks.Register(registry, "effect", func(ctx context.Context, job *tasks.Job[struct{}]) error {
			return z.plain(ctx, job.ID, nothingMore)
		})
	}
	return registry
}

func riverZombie(z *goZombie) error {
	ctx := context.Background()
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverZombieWorker{zombie: z})
	client, err := river.NewClient(riverpgxv5.New(z.pool), &river.Config{
		Queues:               map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: zombieSlots}},
		Workers:              workers,
		JobTimeout:           riverZombieTimeout,
		RescueStuckJobsAfter: riverZombieRescue,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})),
	})
	if err != nil {
		return err
	}
	events, unsubscribe := client.Subscribe(river.EventKindJobCompleted, river.EventKindJobFailed, river.EventKindJobCancelled)
	defer unsubscribe()
	go func() {
		for e := range events {
			fmt.Fprintln(os.Stderr, "River's event:", e.Kind)
		}
	}()
	if err := client.Start(ctx); err != nil {
		return err
	}
	<-z.over.Done()
	return client.Stop(ctx)
}

type riverZombieArgs struct{}

// Kind implements river.JobArgs.
func (riverZombieArgs) Kind() string { return "effect" }

type riverZombieWorker struct {
	river.WorkerDefaults[riverZombieArgs]
	zombie *goZombie
}

// Work implements river.Worker.
func (w *riverZombieWorker) Work(ctx context.Context, job *river.Job[riverZombieArgs]) error {
	z := w.zombie
	ctx = z.context(ctx)
	last := nothingMore
	if strings.HasPrefix(z.form, "river-tx") {
		last = func(tx pgx.Tx) error {
			_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
			return err
		}
	}
	err := z.plain(ctx, job.ID, last)
	z.ended(job.ID, err)
	return err
}
