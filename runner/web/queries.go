package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtick/pgtick/runner/jobs"
)

// beginReading and beginWriting set what holds for one transaction alone, since a pooler may give the next one another session. The waits are
// short: who looks must not stand in anybody's way, and who acts is there to try again. Pages read a limited number of rows in an index's order;
// several processes would read and sort all that fits the filter.
const (
	plainly      = `, set_config('timezone', 'UTC', true), set_config('intervalstyle', 'postgres', true), set_config('datestyle', 'ISO, YMD', true)` // whatever the login's settings are
	beginReading = `begin isolation level repeatable read read only; select set_config('statement_timeout', '5s', true), set_config('lock_timeout', '2s', true), set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)` + plainly
	beginWriting = `begin; select set_config('statement_timeout', '60s', true), set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '30s', true)` + plainly
)

// sayWho makes pgtick.caller() name the person behind the browser, as it does for a request that comes through Supabase's API.
func sayWho(ctx context.Context, db jobs.DB, who string) error {
	_, err := db.Exec(ctx, `select set_config('request.jwt.claims', json_build_object('sub', $1::text)::text, true)`, who)
	return err
}

// lastAction is the newest row of pgtick.audit.
func lastAction(ctx context.Context, db jobs.DB) (id int64, err error) {
	err = db.QueryRow(ctx, `select coalesce((select a.id from pgtick.audit as a order by a.id desc limit 1), 0)`).Scan(&id)
	return id, err
}

// noteUnlessNoted writes the row of pgtick.audit for what was done, unless the transaction has written one since the row seen. Of the rows that
// can be seen only its own are of a transaction that goes on, those of its subtransactions too.
func noteUnlessNoted(ctx context.Context, db jobs.DB, seen int64, action, subject string, details []byte) error {
	var noted bool
	err := db.QueryRow(ctx, `select exists (select from pgtick.audit as a where a.id > $1::bigint
		and pg_xact_status((pg_current_xact_id()::text::bigint & ~4294967295::bigint | a.xmin::text::bigint)::text::xid8) = 'in progress')`, seen).Scan(&noted)
	if err != nil || noted {
		return err
	}
	_, err = db.Exec(ctx, `select pgtick.note_action($1::text, $2::text, nullif($3::jsonb, 'null'))`, action, subject, string(details))
	return err
}

// change is a mark that differs whenever a transaction may have written something since. It reads nothing.
func change(ctx context.Context, db jobs.DB) (mark string, err error) {
	err = db.QueryRow(ctx, `select pg_snapshot_xmax(pg_current_snapshot())::text`).Scan(&mark)
	return mark, err
}

// broken is a promise that does not hold now.
type broken struct {
	Promise  string `json:"promise"`
	What     string `json:"what"`
	Evidence string `json:"evidence"`
	Remedy   string `json:"remedy"`
}

// brokenMost are shown.
const brokenMost = 50

func brokenPromises(ctx context.Context, db jobs.DB) ([]broken, error) {
	return collectRows(ctx, db, "read what does not hold", fromJSON[broken], `select row_to_json(h)::text from pgtick.health as h limit $1::int`, brokenMost)
}

// clock is one kind of clock, and when it last ticked.
type clock struct {
	Clock    string    `json:"clock"`
	TickedAt time.Time `json:"ticked_at"`
}

// failure is a job that has failed for good.
type failure struct {
	ID         int64           `json:"id"`
	Task       string          `json:"task"`
	Queue      string          `json:"queue"`
	FinishedAt time.Time       `json:"finished_at"`
	Error      json.RawMessage `json:"error"`
	Shown      shownError      `json:"-"`
}

type runnersCounted struct {
	Alive   int `json:"alive"`
	Late    int `json:"late"`
	Workers int `json:"workers"`
}

type facts struct {
	Now      time.Time      `json:"now"`
	Clocks   []clock        `json:"clocks"`
	Runners  runnersCounted `json:"runners"`
	Failed   int            `json:"failed"`
	Failures []failure      `json:"failures"`

	Ended  int64           `json:"ended"`  // jobs, in the last hour
	Counts []attemptCounts `json:"counts"` // of the span that was asked for
}

// failedMost is how far failures are counted.
const failedMost = 1000

func overviewFacts(ctx context.Context, db jobs.DB, span chartSpan) (f facts, err error) {
	var text []byte
	err = db.QueryRow(ctx, `with clock as materialized (select pgtick.now() as now)
		select json_build_object('now', n.now,
			'clocks', coalesce((select json_agg(c order by c.clock) from pgtick.clocks as c), '[]'),
			'runners', (select json_build_object('alive', count(*) filter (where r.ended_at is null and r.lease_until > n.now), 'late', count(*) filter (where r.ended_at is null and r.lease_until <= n.now),
				'workers', coalesce(sum(r.workers) filter (where r.ended_at is null and r.lease_until > n.now), 0)) from pgtick.runner_leases as r where r.freed_at is null),
			'failed', (select count(*) from (select from pgtick.history as h where h.state = 'failed' and h.finished_at >= (select k.now - interval '1 hour' from clock as k) limit $1::int) as x),
			'failures', coalesce((select json_agg(x order by x.finished_at desc) from (
				select h.id, h.task, h.queue, h.finished_at, coalesce(h.error, h.earlier_attempts -> -1 -> 'error') as error from pgtick.history as h
				where h.state = 'failed' order by h.finished_at desc limit 8) as x), '[]'),
			'ended', (select coalesce(sum(c.done + c.failed), 0) from pgtick.attempt_counts as c where c.span = interval '1 minute' and c.at > n.now - interval '1 hour'),
			'counts', coalesce((select json_agg(x order by x.at) from (
				select extract(epoch from c.at)::bigint as at, c.done, c.errors, c.failed, c.waited, c.ran from pgtick.attempt_counts as c
				where c.span = make_interval(secs => $2::float8) and c.at > n.now - make_interval(secs => $2::float8) * $3::int) as x), '[]'))::text
		from clock as n`, failedMost, span.length.Seconds(), span.points).Scan(&text)
	if err != nil {
		return f, failedTo("read the overview", err)
	}
	return f, failedTo("read the overview", json.Unmarshal(text, &f))
}

// runnerRow is one of pgtick.runners.
type runnerRow struct {
	ID           int64      `json:"id"`
	Name         string     `json:"name"`
	Queues       []string   `json:"queues"`
	Tasks        []string   `json:"tasks"`
	Version      string     `json:"version"`
	State        string     `json:"state"`
	LeaseUntil   time.Time  `json:"lease_until"`
	RegisteredAt time.Time  `json:"registered_at"`
	HeartbeatAt  time.Time  `json:"heartbeat_at"`
	EndedAt      *time.Time `json:"ended_at"`
	Wakes        *bool      `json:"wakes"`
	Workers      *int       `json:"workers"`
	Refused      int64      `json:"refused"`
	LimitsLocal  *bool      `json:"limits_local"`
	Own          bool       `json:"-"` // it is in this process
}

// runnersMost of those that are there are shown, and as many of those that have ended.
const runnersMost = 100

func readRunners(ctx context.Context, db jobs.DB) (rows []runnerRow, now time.Time, err error) {
	if now, err = jobs.Now(ctx, db); err != nil {
		return nil, now, err
	}
	rows, err = collectRows(ctx, db, "read the runners", fromJSON[runnerRow], `select row_to_json(r)::text from pgtick.runners as r
		where r.id = any (array(select x.id from pgtick.runner_leases as x where x.freed_at is null order by x.id desc limit $1::int)
			|| array(select x.id from (select y.id, y.ended_at from pgtick.runner_leases as y order by y.id desc limit $1::int) as x where x.ended_at is not null))
		order by r.ended_at is not null, r.ended_at desc nulls first, r.name, r.id`, runnersMost)
	return rows, now, err
}

// actionRow is one of pgtick.audit.
type actionRow struct {
	ID      int64           `json:"id"`
	At      time.Time       `json:"at"`
	ByWhom  string          `json:"by_whom"`
	Action  string          `json:"action"`
	Subject string          `json:"subject"`
	Details json.RawMessage `json:"details"`
	Task    string          `json:"task"` // of the job that retry_with was for
	Shown   shownJSON       `json:"-"`
}

func readActions(ctx context.Context, db jobs.DB, subject string, before int64, n int) ([]actionRow, error) {
	only, order := "", "a.id desc"
	args := []any{before, n}
	if subject != "" { // an index has them by their time
		only, order, args = ` and a.subject = $3::text`, "a.at desc, a.id desc", append(args, subject)
	}
	return collectRows(ctx, db, "read the actions", fromJSON[actionRow], `select row_to_json(x)::text from (
			select a.id, a.at, a.by_whom, a.action, a.subject, a.details,
				case when a.action = 'retry_with' and a.subject ~ '^[0-9]{1,18}$' then (select j.task from pgtick.jobs as j where j.id = a.subject::bigint) end as task
			from pgtick.audit as a where a.id < $1::bigint`+only+` order by `+order+` limit $2::int) as x`, args...)
}

// jsonRow reads the one value of one row; the zero value where there is no row.
func jsonRow[V any](ctx context.Context, db jobs.DB, sql string, args ...any) (value V, err error) {
	err = db.QueryRow(ctx, sql, args...).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return value, nil
	}
	return value, err
}

func failedTo(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func collectRows[V any](ctx context.Context, db jobs.DB, doing string, scan pgx.RowToFunc[V], sql string, args ...any) ([]V, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, failedTo(doing, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	return all, failedTo(doing, err)
}

// fromJSON reads a row of one column that holds an object.
func fromJSON[V any](row pgx.CollectableRow) (value V, err error) {
	var text []byte
	if err := row.Scan(&text); err != nil {
		return value, err
	}
	return value, json.Unmarshal(text, &value)
}
