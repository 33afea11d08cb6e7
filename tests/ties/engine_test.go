package ties

import (
	"context"
	"io"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/pgtest"
)

type none struct{}

// diary is in what order a task's jobs have run.
type diary struct {
	mu   sync.Mutex
	jobs []int64
}

func (d *diary) add(id int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.jobs = append(d.jobs, id)
}

func (d *diary) all() []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.jobs)
}

// run starts a runner that listens and, left to itself, looks for jobs once an hour.
func run(t *testing.T, db *pgtest.DB, registry *tasks.Registry) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	cfg := db.Config(t)
	connect := func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, cfg) }
	e, err := engine.New(engine.Options{Name: "r", Registry: registry, Workers: 2, Poll: time.Hour, NoClock: true, Log: log, Pool: db.Pool, Connect: connect, Listen: connect})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	stopped := make(chan error, 1)
	go func() { stopped <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-stopped)
	})
	require.Eventually(t, func() bool {
		return one[bool](t, db.Pool, "select exists (select from pgtick.sleepers where until > now() + interval '50 minutes')")
	}, patience, time.Millisecond, "the runner does not fall asleep")
}

// What is set free wakes the runner, however long it would sleep: a chain, a sequence, a batch, a parent, and jobs under a limit.
func TestEngine_WhatIsSetFree_RunsAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	var ran diary
	registry := tasks.NewRegistry()
	for _, name := range []string{"echo", "callback", "member", "limited"} {
		tasks.Register(registry, name, func(_ context.Context, job *tasks.Job[none]) error { ran.add(job.ID); return nil })
	}
	tasks.RegisterTx(registry, "parent", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[none]) error {
		if job.Attempt > 1 {
			ran.add(job.ID)
			return nil
		}
		children, err := tasks.EnqueueMany(ctx, tx, "echo", make([]none, 3))
		if err != nil {
			return err
		}
		return tasks.WaitFor(children...)
	})
	limit(t, db.Pool, "p_max_running => 1")
	limit(t, db.Pool, oneForEach)
	run(t, db, registry)

	chain := []int64{enqueue(t, db.Pool, "echo", "p_run_at => now() + interval '200 milliseconds'")}
	for range 5 {
		chain = append(chain, enqueue(t, db.Pool, "echo", after(chain[len(chain)-1])))
	}
	inOrder := sequence(t, db.Pool, 5)
	_, callback, members := batch(t, db, 3, "")
	parent := enqueue(t, db.Pool, "parent")
	next := enqueue(t, db.Pool, "echo", after(parent, callback))
	limited := several(t, db.Pool, 4, keyed("x"))
	require.Eventually(t, func() bool { return one[int](t, db.Pool, "select count(*) from pgtick.live_jobs") == 0 }, patience, 5*time.Millisecond)
	jobs := ran.all()
	for _, order := range [][]int64{chain, inOrder, {members[0], callback, next}, {parent, next}} {
		places := []int{}
		for _, id := range order {
			places = append(places, slices.Index(jobs, id))
		}
		require.IsIncreasing(t, places, "%v ran as %v", order, jobs)
	}
	require.Subset(t, jobs, limited)
	require.Equal(t, 2, one[int](t, db.Pool, "select attempt from pgtick.jobs where id = $1", parent))
}

// A parent holds no worker while it waits: more parents than workers, and their children all the same get through.
func TestEngine_WaitingParents_HoldNoWorker(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Quiet(t)
	registry := tasks.NewRegistry()
	tasks.Register(registry, "child", func(_ context.Context, job *tasks.Job[struct{ N int }]) error { return job.SetResult(job.Args.N * 10) })
	tasks.RegisterTx(registry, "parent", func(ctx context.Context, tx pgx.Tx, job *tasks.Job[none]) error {
		if job.Attempt == 1 {
			children, err := tasks.EnqueueMany(ctx, tx, "child", []struct{ N int }{{1}, {2}})
			if err != nil {
				return err
			}
			return tasks.WaitForDone(children...)
		}
		var sum int
		if err := tx.QueryRow(ctx, "select sum(c.result::int) from pgtick.jobs as p join pgtick.jobs as c on c.id = any (p.after) where p.id = $1", job.ID).Scan(&sum); err != nil {
			return err
		}
		return job.SetResult(strconv.Itoa(sum))
	})
	run(t, db, registry)
	exec(t, db.Pool, "select pgtick.enqueue_many('parent', array_fill('{}'::jsonb, '{10}'))")
	require.Eventually(t, func() bool {
		return one[int](t, db.Pool, `select count(*) from pgtick.history where task = 'parent' and state = 'done' and result = '"30"'`) == 10
	}, patience, 5*time.Millisecond)
	clean(t, db)
}
