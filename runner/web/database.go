package web

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"

	"github.com/pgtick/pgtick/runner/engine"
	"github.com/pgtick/pgtick/runner/jobs"
)

// Database is one that the dashboard shows.
type Database struct {
	Name   string               // its address, or nothing where there is only one
	Config *pgx.ConnConfig      // whose login may read pgtick's views, and for actions is an operator's or the owner's
	Before func() error         // asked before each login; nil: nothing stands against it
	Status func() engine.Status // of the runner in this process; nil: there is none
}

const (
	poolSize    = 2
	idleFor     = 30 * time.Second
	readTimeout = 6 * time.Second // the server's own, of 5 s for a statement, comes first
	actTimeout  = 70 * time.Second
)

// database is one with its connections, which are made when the first page is asked for and closed when nobody looks any more.
type database struct {
	Database
	base      string // before its addresses
	options   Options
	pool      *pgxpool.Pool
	calls     singleflight.Group
	live      *live
	ledger    ledgerChecks
	schedules schedulePages
	health    keptHealth
	routes    http.Handler

	mu         sync.Mutex
	kept       map[string]*rendered
	generation int // rises with each action, so that what was read before it is not shown after it
}

// counting counts statements.
type counting struct {
	jobs.DB
	n int
}

// Exec implements jobs.DB.
func (c *counting) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	c.n++
	return c.DB.Exec(ctx, sql, args...)
}

// Query implements jobs.DB.
func (c *counting) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.n++
	return c.DB.Query(ctx, sql, args...)
}

// QueryRow implements jobs.DB.
func (c *counting) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	c.n++
	return c.DB.QueryRow(ctx, sql, args...)
}

func (d *database) open() error {
	pooled, err := pgxpool.ParseConfig(d.Config.ConnString()) // a pool's settings can be made in no other way
	if err != nil {
		return err
	}
	pooled.ConnConfig = d.Config.Copy()
	pooled.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // a pooler may be between, and no statement comes often enough to prepare it
	pooled.ConnConfig.StatementCacheCapacity, pooled.ConnConfig.DescriptionCacheCapacity = 0, 0
	pooled.MaxConns, pooled.MinConns, pooled.MaxConnIdleTime, pooled.HealthCheckPeriod = poolSize, 0, idleFor, idleFor/3
	if d.Before != nil {
		pooled.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return d.Before() }
	}
	d.pool, err = pgxpool.NewWithConfig(context.Background(), pooled)
	return err
}

// read runs f in a transaction that can't write, and in which all statements see the same moment.
func (d *database) read(ctx context.Context, f func(context.Context, jobs.DB) error) error {
	ctx, end := context.WithTimeout(ctx, readTimeout)
	defer end()
	return pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{BeginQuery: beginReading}, func(tx pgx.Tx) error { return f(ctx, tx) })
}

// write runs f in a transaction of which the database knows whose it is.
func (d *database) write(ctx context.Context, who person, f func(context.Context, jobs.DB) error) error {
	ctx, end := context.WithTimeout(ctx, actTimeout)
	defer end()
	return pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{BeginQuery: beginWriting}, func(tx pgx.Tx) error {
		if err := sayWho(ctx, tx, who.recorded()); err != nil {
			return err
		}
		return f(ctx, tx)
	})
}

// rendered is the main part of a page, as everybody of one role gets it for a moment.
type rendered struct {
	main  []byte
	title string
	at    time.Time
	cost  int // statements
	code  int
}

const keepFor = 2 * time.Second

// once returns what render made of a page lately, or has it rendered, once for all who ask at the same time.
func (d *database) once(key string, render func() (*rendered, error)) (*rendered, error) {
	r, generation := d.fresh(key)
	if r != nil {
		return r, nil
	}
	made, err, _ := d.calls.Do(fmt.Sprint(generation, " ", key), func() (any, error) {
		r, err := render()
		if err != nil {
			return nil, err
		}
		d.keep(key, generation, r)
		return r, nil
	})
	if err != nil {
		return nil, err
	}
	return made.(*rendered), nil
}

func (d *database) fresh(key string) (r *rendered, generation int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r = d.kept[key]; r != nil && time.Since(r.at) > keepFor {
		r = nil
	}
	return r, d.generation
}

// mostKept pages are remembered.
const mostKept = 50

func (d *database) keep(key string, generation int, r *rendered) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if generation != d.generation {
		return
	}
	for old, was := range d.kept {
		if time.Since(was.at) > keepFor || len(d.kept) >= mostKept {
			delete(d.kept, old)
		}
	}
	d.kept[key] = r
}

// forget is for when somebody has acted, and wants to see what came of it.
func (d *database) forget() {
	d.health.forget()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.generation++
	clear(d.kept)
}

// slug is a name as a part of an address.
func slug(name string) string {
	mapped := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	return strings.Trim(mapped, "-")
}
