package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgtick/pgtick/runner/localpg"
)

// zombies is an experiment, not a figure: go run . -zombies. A worker's process is frozen (SIGSTOP) in the middle of its jobs, another
// does them in its place, and then the first is woken: does what it still writes count a second time? docs/zombies.md has the results.

// Where the worker is frozen. Nothing of the job's row is locked at either.
const (
	beforeEffect = "before the effect" // at the task's start
	beforeCommit = "before the commit" // the effect's row is written, its transaction open
)

type zombieSizes struct {
	jobs, round, atOnce int
	only                *regexp.Regexp
}

// cell is one line of the result: a form of a side, frozen at one point, in a database of its own.
type cell struct {
	Side     string         `json:"side"`
	Version  string         `json:"version"`
	Form     string         `json:"form"`
	Frozen   string         `json:"frozen"`
	Settings string         `json:"settings"`
	Jobs     int            `json:"jobs"`
	Doubled  int            `json:"doubled"`            // jobs with two effects
	Lost     int            `json:"lost"`               // jobs with none
	Changed  int            `json:"changed"`            // jobs whose record the zombie has changed, after the other had ended them
	Right    int            `json:"right"`              // jobs whose record tells of a lost attempt and a good one
	Seconds  [2]float64     `json:"seconds"`            // how long it was frozen, from and to
	Said     map[string]int `json:"said"`               // what the zombie's tasks heard of their commit, or of their own completion
	Logged   map[string]int `json:"logged"`             // what the zombie's library has logged since it was woken
	GivenUp  []string       `json:"given_up,omitempty"` // rounds that did not come to their end, and why; none of their jobs count

	form *zombieForm
	pool *pgxpool.Pool
	base counts // of the databases before this one
}

type counts struct{ jobs, doubled, lost, right int }

// mostGivenUp rounds of a line end it.
const mostGivenUp = 5

func (c *cell) name() string { return c.Side + ", " + c.Form + ", " + c.Frozen }

// runZombies is the command.
func runZombies(args []string) error {
	size := zombieSizes{}
	flags := flag.NewFlagSet("bench -zombies", flag.ExitOnError)
	flags.IntVar(&size.jobs, "jobs", 200, "jobs of each line")
	flags.IntVar(&size.round, "round", 20, "jobs that one process holds when it is frozen")
	flags.IntVar(&size.atOnce, "at-once", 8, "lines worked on at a time: most of the time is waiting, but each round starts processes")
	flags.Func("only", "only lines whose `name` (side, form, point) this regular expression matches", func(s string) (err error) {
		size.only, err = regexp.Compile(s)
		return err
	})
	_ = flags.Parse(args)
	if size.round < 1 || size.round > zombieSlots || size.jobs%size.round != 0 {
		return fmt.Errorf("-round is 1 to %d, and divides -jobs", zombieSlots)
	}
	// A frozen process does not notice that its parent is gone: let every way out end those that were started.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return zombies(ctx, size)
}

func zombies(ctx context.Context, size zombieSizes) error {
	forms, err := zombieForms(ctx)
	if err != nil {
		return err
	}
	cells := cellsOf(forms, size.only)
	if len(cells) == 0 {
		return errors.New("no line has such a name")
	}
	server, err := localpg.Start(ctx, localpg.Options{Settings: map[string]string{"max_connections": "1500", "shared_buffers": "256MB"}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	places := make(chan struct{}, max(1, size.atOnce))
	var group sync.WaitGroup
	for i, c := range cells {
		group.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			for n := 0; c.Jobs < size.jobs && n < mostGivenUp && ctx.Err() == nil; n++ {
				if err := c.run(ctx, server, fmt.Sprintf("zombies_%d_%d", i, n), size); err != nil {
					c.GivenUp = append(c.GivenUp, err.Error())
				}
			}
			fmt.Fprintf(os.Stderr, "%s  %s: %d of %d doubled, %d rounds given up\n", time.Now().Format(time.TimeOnly), c.name(), c.Doubled, c.Jobs, len(c.GivenUp))
		})
	}
	group.Wait()
	return tellZombies(cells, size)
}

func cellsOf(forms []*zombieForm, only *regexp.Regexp) (cells []*cell) {
	for _, f := range forms {
		for _, point := range []string{beforeEffect, beforeCommit} {
			c := &cell{Side: f.side, Version: f.version, Form: f.form, Frozen: point, Settings: f.settings, Said: map[string]int{}, Logged: map[string]int{}, form: f}
			if only == nil || only.MatchString(c.name()) {
				cells = append(cells, c)
			}
		}
	}
	return cells
}

// run makes the rounds that are still to do, in a database of their own, until one fails.
func (c *cell) run(ctx context.Context, server *localpg.Server, database string, size zombieSizes) error {
	c.base = counts{c.Jobs, c.Doubled, c.Lost, c.Right}
	if err := createDatabase(ctx, server, database); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, server.URL(database))
	if err != nil {
		return err
	}
	defer pool.Close()
	c.pool = pool
	// No key on job_id: it would do the work of what is to be looked at.
	if err := exec(ctx, pool, `create table effects (job_id text not null, by text not null, at timestamptz not null default clock_timestamp())`); err != nil {
		return err
	}
	if err := c.form.install(ctx, pool); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	for c.Jobs < size.jobs {
		if err := c.round(ctx, size.round); err != nil {
			return fmt.Errorf("after %d jobs: %w", c.Jobs, err) // what it leaves behind is left with its database
		}
	}
	return nil
}

func createDatabase(ctx context.Context, server *localpg.Server, name string) error {
	admin, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return err
	}
	defer admin.Close(ctx)
	_, err = admin.Exec(ctx, "create database "+name)
	return err
}

// round freezes one process with so many jobs, and counts what has become of them.
func (c *cell) round(ctx context.Context, jobs int) error {
	all := c.Jobs - c.base.jobs + jobs // of this database
	if err := c.form.enqueue(ctx, c.pool, jobs); err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	zombie, err := c.form.start(c.pool, "zombie", c.Frozen)
	if err != nil {
		return err
	}
	defer zombie.kill()
	if err := zombie.holds(ctx, jobs); err != nil {
		return err
	}
	if err := zombie.freeze(ctx); err != nil {
		return err
	}
	frozen := time.Now()
	second, err := c.form.start(c.pool, "second", "")
	if err != nil {
		return err
	}
	defer second.kill()
	if err := c.takenOver(ctx, all); err != nil {
		return fmt.Errorf("%w; the second worker said: %v", err, second.talk())
	}
	before, err := c.records(ctx)
	if err != nil {
		return err
	}
	c.frozenFor(time.Since(frozen))
	if err := zombie.wake(); err != nil {
		return err
	}
	if err := zombie.endsAll(ctx, jobs); err != nil {
		return err
	}
	if err := errors.Join(zombie.stop(), second.stop()); err != nil {
		return err
	}
	zombie.tally(c.Said, c.Logged)
	return c.count(ctx, all, before)
}

// takenOver waits until the second worker has done what the frozen one holds, and its library knows.
func (c *cell) takenOver(ctx context.Context, jobs int) error {
	var effects, done int
	err := untilEvery(ctx, 250*time.Millisecond, 3*time.Minute, func() (bool, error) {
		if c.form.rescue != "" {
			if _, err := c.pool.Exec(ctx, c.form.rescue); err != nil {
				return false, err
			}
		}
		err := c.pool.QueryRow(ctx, `select (select count(distinct job_id) from effects where by = 'second'), (`+c.form.done+`)`).Scan(&effects, &done)
		return effects == jobs && done == jobs, err
	})
	if err != nil {
		return fmt.Errorf("the second worker has done %d of %d jobs, %d are known as done: %w", effects, jobs, done, err)
	}
	return nil
}

// records are what the library keeps of each job.
func (c *cell) records(ctx context.Context) (map[string]string, error) {
	rows, err := c.pool.Query(ctx, c.form.record)
	if err != nil {
		return nil, err
	}
	records := map[string]string{}
	var id, text string
	_, err = pgx.ForEachRow(rows, []any{&id, &text}, func() error {
		records[id] = text
		return nil
	})
	return records, err
}

func (c *cell) frozenFor(d time.Duration) {
	s := d.Seconds()
	if c.Seconds[1] == 0 {
		c.Seconds = [2]float64{s, s}
	}
	c.Seconds = [2]float64{min(c.Seconds[0], s), max(c.Seconds[1], s)}
}

func (c *cell) count(ctx context.Context, jobs int, before map[string]string) error {
	after, err := c.records(ctx)
	if err != nil {
		return err
	}
	now := counts{jobs: jobs}
	err = c.pool.QueryRow(ctx, `with counted as (select job_id, count(*) as effects from effects group by job_id)
		select (select count(*) from counted where effects > 1), $1 - (select count(*) from counted), (`+c.form.right+`)`, jobs).Scan(&now.doubled, &now.lost, &now.right)
	if err != nil {
		return err
	}
	for id, was := range before {
		if after[id] != was {
			c.Changed++
		}
	}
	c.Jobs, c.Doubled, c.Lost, c.Right = c.base.jobs+now.jobs, c.base.doubled+now.doubled, c.base.lost+now.lost, c.base.right+now.right
	return nil
}

func tellZombies(cells []*cell, size zombieSizes) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "side\tversion\tform\tfrozen\tjobs\tdoubled\tlost\trecord right\tchanged\tfrozen for, s\trounds given up")
	var problems []error
	for _, c := range cells {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%.0f to %.0f\t%d\n", c.Side, c.Version, c.Form, c.Frozen, c.Jobs, c.Doubled, c.Lost, c.Right, c.Changed, c.Seconds[0], c.Seconds[1], len(c.GivenUp))
		for _, why := range c.GivenUp {
			fmt.Fprintf(os.Stderr, "given up: %s: %s\n", c.name(), why)
		}
		if c.Jobs < size.jobs {
			problems = append(problems, fmt.Errorf("%s: %d of %d jobs", c.name(), c.Jobs, size.jobs))
		}
	}
	text, err := json.MarshalIndent(cells, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join("out", "zombies.json")
	problems = append(problems, table.Flush(), os.MkdirAll("out", 0o755), os.WriteFile(path, append(text, '\n'), 0o644))
	fmt.Fprintln(os.Stderr, "what each zombie heard and logged is in", path)
	return errors.Join(problems...)
}
