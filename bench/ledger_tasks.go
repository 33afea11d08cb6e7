package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/credits"
)

// Setting up what the tasks find: an expired hold and a pending entry of every account, written behind the guards' back, in one go.
const (
	makeHolds = `with e as (
			select a.user_id, a.seq + 1 as seq, a.balance, a.held, a.head_hash, nextval('credits.transactions_id_seq') as id, nextval('credits.holds_id_seq') as hold_id,
				now() - interval '2 hours' as at, uuid_send(gen_random_uuid()) as salt
			from credits.accounts as a
		), h as materialized (
			select e.*, sha256(e.head_hash || record_send(row(e.id, e.user_id, e.seq, 'hold'::bytea, 0::bigint, 5::bigint, e.balance, e.held + 5, e.hold_id,
				null::bigint, null::date, e.at, e.at, null::bytea, null::bytea, null::bytea, null::bytea))) as hash from e
		), moved as (
			update credits.accounts as a set seq = h.seq, held = h.held + 5, head_hash = h.hash from h where a.user_id = h.user_id
		), opened as (
			insert into credits.holds (id, user_id, amount, opened_seq, created_at, expires_at) overriding system value
			select h.hold_id, h.user_id, 5, h.seq, h.at, h.at + interval '1 hour' from h
		)
		insert into credits.transactions (id, user_id, seq, type, status, amount, held_amount, balance_after, held_after, hold_id, created_at, final_at, salt, hash)
		overriding system value
		select h.id, h.user_id, h.seq, 'hold', 'COMPLETED', 0, 5, h.balance, h.held + 5, h.hold_id, h.at, h.at, h.salt, h.hash from h`
	makePending = `insert into credits.transactions (user_id, type, status, amount, created_at, salt)
		select a.user_id, 'addition', 'PENDING', 3, now() - interval '2 days', uuid_send(gen_random_uuid()) from credits.accounts as a`
	bareHolds   = `insert into bare.holds select h.id, h.user_id, h.amount, h.expires_at, 'open' from credits.holds as h where h.status = 'open'`
	barePending = `insert into bare.transactions (user_id, type, amount, status) select a.user_id, 'addition', 3, 'PENDING' from bare.accounts as a`
)

// ledgerTasks has each of the four tasks work through a row of every account, and a bare statement do the like at once.
func (b *bench) ledgerTasks(ctx context.Context, taken samples) error {
	s, err := b.ledger(ctx, "ledger_tasks", b.size.accounts)
	if err != nil {
		return err
	}
	defer s.pool.Close()
	for _, t := range []struct {
		figure, task string
		setUp        []string
		bare         string
	}{
		{"allocate", credits.Allocate, nil, `with given as (update bare.accounts as a set balance = a.balance + 100 returning a.user_id, a.balance)
			insert into bare.transactions (user_id, type, amount, balance_after, period) select g.user_id, 'allocation', 100, g.balance, current_date from given as g`},
		{"sync", credits.Sync, nil, `with marked as (update bare.transactions as t set synced = true where not t.synced returning t.*)
			insert into bare.credit_usage select m.id, m.user_id, m.type, m.amount, m.balance_after, m.created_at from marked as m`},
		{"release", credits.Cleanup, []string{makeHolds, bareHolds}, `with closed as (update bare.holds as h set status = 'expired' where h.status = 'open' and h.expires_at <= now() returning h.user_id, h.amount),
			moved as (update bare.accounts as a set held = a.held - c.amount from closed as c where a.user_id = c.user_id)
			insert into bare.transactions (user_id, type, amount) select c.user_id, 'release', 0 from closed as c`},
		{"pending", credits.Pending, []string{makePending, barePending}, `with done as (update bare.transactions as t set status = 'COMPLETED' where t.status = 'PENDING' returning t.user_id, t.amount)
			update bare.accounts as a set balance = a.balance + d.amount from done as d where a.user_id = d.user_id`},
	} {
		if err := s.behindTheGuards(ctx, t.setUp); err != nil {
			return fmt.Errorf("%s: %w", t.figure, err)
		}
		took, longest, err := s.sweep(ctx, t.task)
		if err != nil {
			return fmt.Errorf("%s: %w", t.figure, err)
		}
		began := time.Now()
		if err := exec(ctx, s.pool, t.bare); err != nil {
			return fmt.Errorf("%s: %w", t.figure, err)
		}
		bare := time.Since(began)
		if err := b.perRow(ctx, t.figure, taken); err != nil {
			return fmt.Errorf("%s: %w", t.figure, err)
		}
		taken.add(t.figure, "pgtick", float64(b.size.accounts)/took.Seconds())
		taken.add(t.figure, "bare", float64(b.size.accounts)/bare.Seconds())
		taken.add(t.figure+"_longest_chunk", "pgtick", milliseconds(longest))
		fmt.Fprintf(os.Stderr, "%s: %d rows in %.1f s, bare %.1f s, longest chunk %d ms\n", t.figure, b.size.accounts, took.Seconds(), bare.Seconds(), longest.Milliseconds())
	}
	return s.proven(ctx)
}

// tasksMemory is the most that the released program takes, while it does each of the four tasks for every account.
func (b *bench) tasksMemory(ctx context.Context, taken samples) error {
	path, err := b.built(ctx, "runner/cmd/pgtick")
	if err != nil {
		return err
	}
	s, err := b.ledger(ctx, "tasks_rss", b.size.accounts)
	if err != nil {
		return err
	}
	defer s.pool.Close()
	runner, err := startProgram(path, s)
	if err != nil {
		return err
	}
	peak, err := s.peakOfTasks(ctx, runner.cmd.Process.Pid)
	if err = errors.Join(err, runner.stop()); err != nil {
		return err
	}
	taken.add("tasks_rss", "pgtick", peak)
	return s.proven(ctx)
}

// peakOfTasks has the runner of that process do each of the four tasks.
func (s *store) peakOfTasks(ctx context.Context, pid int) (peak float64, err error) {
	for _, t := range []struct {
		task  string
		setUp []string
	}{{credits.Allocate, nil}, {credits.Sync, nil}, {credits.Cleanup, []string{makeHolds}}, {credits.Pending, []string{makePending}}} {
		if err := s.behindTheGuards(ctx, t.setUp); err != nil {
			return 0, err
		}
		if err := s.done(ctx, t.task); err != nil {
			return 0, err
		}
		if peak, err = peakMemory(pid); err != nil {
			return 0, err
		}
		fmt.Fprintf(os.Stderr, "%s: at most %.0f MiB so far\n", t.task, peak)
	}
	return peak, nil
}

// makeEntries gives every account one more entry.
const makeEntries = `with e as (
		select a.user_id, a.seq + 1 as seq, a.balance + 7 as balance, a.held, a.head_hash, nextval('credits.transactions_id_seq') as id, now() as at,
			uuid_send(gen_random_uuid()) as salt
		from credits.accounts as a
	), h as materialized (
		select e.*, sha256(e.head_hash || record_send(row(e.id, e.user_id, e.seq, 'addition'::bytea, 7::bigint, 0::bigint, e.balance, e.held, null::bigint,
			null::bigint, null::date, e.at, e.at, null::bytea, null::bytea, null::bytea, null::bytea))) as hash from e
	), moved as (
		update credits.accounts as a set seq = h.seq, balance = h.balance, head_hash = h.hash from h where a.user_id = h.user_id
	)
	insert into credits.transactions (id, user_id, seq, type, status, amount, balance_after, held_after, created_at, final_at, salt, hash)
	overriding system value
	select h.id, h.user_id, h.seq, 'addition', 'COMPLETED', 7, h.balance, h.held, h.at, h.at, h.salt, h.hash from h`

// entriesEach is how many entries each account of verify has.
const entriesEach = 50

// verify is pgtick credits verify over as many entries as the tasks have rows.
func (b *bench) verify(ctx context.Context, taken samples) error {
	s, err := b.ledger(ctx, "verify", b.size.accounts/entriesEach)
	if err != nil {
		return err
	}
	defer s.pool.Close()
	if err := s.behindTheGuards(ctx, slices.Repeat([]string{makeEntries}, entriesEach)); err != nil {
		return err
	}
	path, err := b.built(ctx, "runner/cmd/pgtick")
	if err != nil {
		return err
	}
	for range b.size.runs {
		began := time.Now()
		if err := once(ctx, path, s, "credits", "verify"); err != nil {
			return err
		}
		taken.add("verify", "pgtick", time.Since(began).Seconds())
	}
	return nil
}

func (s *store) behindTheGuards(ctx context.Context, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for _, statement := range append(append([]string{"set session_replication_role = replica"}, statements...), "reset session_replication_role", "vacuum (analyze)", "checkpoint") {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// sweep runs a task once, in a runner, and says how long it took and how long its longest statement.
func (s *store) sweep(ctx context.Context, task string) (took, longest time.Duration, err error) {
	cfg := s.pool.Config()
	watch := &longestChunk{}
	cfg.ConnConfig.Tracer = watch
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return 0, 0, err
	}
	defer pool.Close()
	registry := tasks.NewRegistry()
	credits.Register(registry)
	stop, err := (&ours{pool: pool, noClock: true}).run(ctx, registry)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	began := time.Now()
	err = s.done(ctx, task)
	return time.Since(began), watch.took, err
}

// done asks for a task, and waits until it is done.
func (s *store) done(ctx context.Context, task string) error {
	id, err := number[int64](ctx, s, `select pgtick.enqueue($1, p_timeout => '1 hour')`, task)
	if err != nil {
		return err
	}
	var state string
	err = untilEvery(ctx, 20*time.Millisecond, time.Hour, func() (bool, error) {
		state, err = number[string](ctx, s, `select j.state from pgtick.jobs as j where j.id = $1`, id)
		return state == "done" || state == "failed", err
	})
	if err == nil && state != "done" {
		err = fmt.Errorf("the task %s failed", task)
	}
	return err
}

// longestChunk measures statements that do a chunk.
type longestChunk struct {
	mu   sync.Mutex
	took time.Duration
}

type chunkBegan struct{}

// TraceQueryStart implements pgx.QueryTracer.
func (*longestChunk) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "_chunk(") {
		return context.WithValue(ctx, chunkBegan{}, time.Now())
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (l *longestChunk) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if began, ok := ctx.Value(chunkBegan{}).(time.Time); ok {
		l.mu.Lock()
		l.took = max(l.took, time.Since(began))
		l.mu.Unlock()
	}
}
