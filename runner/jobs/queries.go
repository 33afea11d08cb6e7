// Package jobs is the one place where Go calls the queue's SQL: one function a statement, no logic beside it. The database's clock
// judges: times go to it as delays and come back as delays, so a runner's own clock only ever waits.
package jobs

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is a connection, a pool or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Runner is what a runner says of itself when it registers.
type Runner struct {
	Name    string
	Queues  []string
	Tasks   []string
	Lease   time.Duration
	Version string
}

// Held is a claim: a job under the fence of the call that gave it.
type Held struct {
	ID    int64
	Fence int64
}

// Claim is one job that a claim gave.
type Claim struct {
	Held
	Task        string
	Queue       string
	Priority    int
	Attempt     int
	MaxAttempts int
	Args        json.RawMessage
	RunAt       time.Time
	CreatedAt   time.Time
	Timeout     time.Duration
	Schedule    string
	Slot        time.Time
	OwnerID     string
	Checkpoint  json.RawMessage
	Waited      time.Duration // between the moment it could run and the claim
}

// Stop is a claim whose attempt must end: the job was cancelled, its time is up (timed_out), or the claim is gone (fenced).
type Stop struct {
	Held
	Reason string
}

// Outcome is what became of a claim. Name is done, failed, error, snoozed, released or cancelled.
type Outcome struct {
	Held
	Name   string
	Result json.RawMessage
	Error  json.RawMessage
	Delay  time.Duration // for snoozed and released; for error 0 means: by the retry policy
}

// Answer tells whether an outcome was taken. AskAgain: somebody has the row locked.
type Answer struct {
	ID       int64
	Accepted bool
	AskAgain bool
}

// Register makes a runner known and returns its id.
func Register(ctx context.Context, db DB, r Runner) (id int64, err error) {
	err = db.QueryRow(ctx, `select pgtick.register($1::text, $2::text[], $3::text[], make_interval(secs => $4::float8), nullif($5::text, ''))`,
		r.Name, r.Queues, r.Tasks, r.Lease.Seconds(), r.Version).Scan(&id)
	return id, failed("register runner "+r.Name, err)
}

// TakeClaims takes up to n jobs.
func TakeClaims(ctx context.Context, db DB, runner int64, queues, tasks []string, n int) ([]Claim, error) {
	rows, err := db.Query(ctx, `select id, fence, task, queue, priority, attempt, max_attempts, args, run_at, created_at,
		extract(epoch from timeout)::float8, coalesce(schedule, ''), slot, coalesce(owner_id::text, ''), checkpoint,
		extract(epoch from pgtick.now() - run_at)::float8
		from pgtick.claim($1::bigint, $2::text[], $3::text[], $4::int)`, runner, queues, tasks, n)
	if err != nil {
		return nil, failed("claim", err)
	}
	claims, err := pgx.CollectRows(rows, scanClaim)
	return claims, failed("claim", err)
}

func scanClaim(row pgx.CollectableRow) (c Claim, err error) {
	var timeout, waited float64
	var slot *time.Time
	err = row.Scan(&c.ID, &c.Fence, &c.Task, &c.Queue, &c.Priority, &c.Attempt, &c.MaxAttempts, &c.Args, &c.RunAt, &c.CreatedAt,
		&timeout, &c.Schedule, &slot, &c.OwnerID, &c.Checkpoint, &waited)
	c.Timeout, c.Waited = seconds(timeout), max(seconds(waited), 0)
	if slot != nil {
		c.Slot = *slot
	}
	return c, err
}

// Reconcile gives back all claims of the runner but those held, and returns how many.
func Reconcile(ctx context.Context, db DB, runner int64, held []Held) (n int, err error) {
	ids, fences := columns(held)
	err = db.QueryRow(ctx, `select pgtick.reconcile($1::bigint, $2::bigint[], $3::bigint[])`, runner, ids, fences).Scan(&n)
	return n, failed("reconcile", err)
}

// Finish reports outcomes and returns an answer for each, in their order.
func Finish(ctx context.Context, db DB, runner int64, outcomes []Outcome) ([]Answer, error) {
	ids, fences, names := make([]int64, len(outcomes)), make([]int64, len(outcomes)), make([]string, len(outcomes))
	var results, errs []*string
	var delays []float64
	for i, o := range outcomes {
		ids[i], fences[i], names[i] = o.ID, o.Fence, o.Name
		results = put(results, len(outcomes), i, o.Result)
		errs = put(errs, len(outcomes), i, o.Error)
		if o.Delay > 0 {
			if delays == nil {
				delays = make([]float64, len(outcomes))
			}
			delays[i] = o.Delay.Seconds()
		}
	}
	rows, err := db.Query(ctx, `select job_id, coalesce(accepted, false), accepted is null
		from pgtick.finish($1::bigint, $2::bigint[], $3::bigint[], $4::text[], $5::text[]::jsonb[], $6::text[]::jsonb[],
			(select array_agg(case when d.delay > 0 then pgtick.now() + make_interval(secs => d.delay) end order by d.place)
			 from unnest($7::float8[]) with ordinality as d(delay, place)))`,
		runner, ids, fences, names, results, errs, delays)
	if err != nil {
		return nil, failed("finish", err)
	}
	answers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Answer, err error) {
		return a, row.Scan(&a.ID, &a.Accepted, &a.AskAgain)
	})
	return answers, failed("finish", err)
}

// put sets one element of an array that exists only where some element is set: mostly results and errors are all null.
func put(array []*string, n, i int, text json.RawMessage) []*string {
	if text == nil {
		return array
	}
	if array == nil {
		array = make([]*string, n)
	}
	value := string(text)
	array[i] = &value
	return array
}

// Heartbeat renews the lease and returns those of the claims held that must stop.
func Heartbeat(ctx context.Context, db DB, runner int64, held []Held) ([]Stop, error) {
	ids, fences := columns(held)
	rows, err := db.Query(ctx, `select job_id, fence, reason from pgtick.heartbeat($1::bigint, $2::bigint[], $3::bigint[])`, runner, ids, fences)
	if err != nil {
		return nil, failed("heartbeat", err)
	}
	stops, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Stop, err error) {
		return s, row.Scan(&s.ID, &s.Fence, &s.Reason)
	})
	return stops, failed("heartbeat", err)
}

// Leave ends the runner; what it still holds goes back.
func Leave(ctx context.Context, db DB, runner int64) error {
	_, err := db.Exec(ctx, `select pgtick.leave($1::bigint)`, runner)
	return failed("leave", err)
}

// Sleep says that the runner sleeps unless it is notified, and returns the number to settle on.
func Sleep(ctx context.Context, db DB, runner int64, poll time.Duration) (number string, err error) {
	err = db.QueryRow(ctx, `select pgtick.sleep($1::bigint, make_interval(secs => $2::float8))::text`, runner, poll.Seconds()).Scan(&number)
	return number, failed("sleep", err)
}

// Settled tells whether all transactions that may not have seen the runner sleep have ended.
func Settled(ctx context.Context, db DB, number string) (yes bool, err error) {
	err = db.QueryRow(ctx, `select pgtick.settled($1::text::xid8)`, number).Scan(&yes)
	return yes, failed("settle", err)
}

// Awake says that the runner looks for jobs by itself.
func Awake(ctx context.Context, db DB, runner int64) error {
	_, err := db.Exec(ctx, `select pgtick.awake($1::bigint)`, runner)
	return failed("wake up", err)
}

// Forever stands for "nothing is to come".
const Forever = time.Duration(math.MaxInt64)

// NextRun is how long it is until the runner's next waiting job may run; not positive: now; Forever: there is none.
func NextRun(ctx context.Context, db DB, runner int64) (time.Duration, error) {
	return delay(ctx, db, "read the next job's time", `select extract(epoch from pgtick.next_run_at($1::bigint) - pgtick.now())::float8`, runner)
}

// NextTick is how long it is until the next slot of any schedule.
func NextTick(ctx context.Context, db DB) (time.Duration, error) {
	return delay(ctx, db, "read the next slot's time", `select extract(epoch from pgtick.next_tick_at() - pgtick.now())::float8`)
}

func delay(ctx context.Context, db DB, doing, sql string, args ...any) (time.Duration, error) {
	var value *float64
	if err := db.QueryRow(ctx, sql, args...).Scan(&value); err != nil {
		return 0, failed(doing, err)
	}
	if value == nil || *value > 1e9 {
		return Forever, nil
	}
	return seconds(*value), nil
}

// Tick accounts for one chunk of due slots and returns how many jobs it made.
func Tick(ctx context.Context, db DB) (n int, err error) {
	err = db.QueryRow(ctx, `select pgtick.tick()`).Scan(&n)
	return n, failed("tick", err)
}

// Rescue gives back the claims of dead runners and returns how many.
func Rescue(ctx context.Context, db DB) (n int, err error) {
	err = db.QueryRow(ctx, `select pgtick.rescue()`).Scan(&n)
	return n, failed("rescue", err)
}

// Maintain makes partitions ahead and drops old ones.
func Maintain(ctx context.Context, db DB) error {
	_, err := db.Exec(ctx, `select pgtick.maintain()`)
	return failed("maintain", err)
}

// CheckDeadlines returns the names of the schedules that have had no done job within must_finish_within.
func CheckDeadlines(ctx context.Context, db DB) ([]string, error) {
	rows, err := db.Query(ctx, `select pgtick.check_deadlines()`)
	if err != nil {
		return nil, failed("check deadlines", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return names, failed("check deadlines", err)
}

// CheckClaim fails with ErrFenced unless the claim still holds, and keeps it so until the transaction ends.
func CheckClaim(ctx context.Context, tx pgx.Tx, held Held) error {
	_, err := tx.Exec(ctx, `select pgtick.check_claim($1::bigint, $2::bigint)`, held.ID, held.Fence)
	return failed("check the claim", err)
}

// FinishInTransaction ends the job as done in the task's own transaction.
func FinishInTransaction(ctx context.Context, tx pgx.Tx, held Held, result json.RawMessage) error {
	_, err := tx.Exec(ctx, `select pgtick.finish_in_transaction($1::bigint, $2::bigint, $3::text::jsonb)`, held.ID, held.Fence, text(result))
	return failed("finish in the task's transaction", err)
}

// GuardTransaction lets the server end the transaction when its session is idle for as long as the attempt has left: that of a
// frozen runner would otherwise keep its locks for ever.
func GuardTransaction(ctx context.Context, tx pgx.Tx, left time.Duration) error {
	_, err := tx.Exec(ctx, `select set_config('idle_in_transaction_session_timeout', $1::bigint::text, true)`, max(left.Milliseconds(), 1))
	return failed("guard the task's transaction", err)
}

// Progress reports the share done of a running job, and a note.
func Progress(ctx context.Context, db DB, held Held, done float64, note string) error {
	_, err := db.Exec(ctx, `select pgtick.progress($1::bigint, $2::bigint, $3::float8::real, nullif($4::text, ''))`, held.ID, held.Fence, done, note)
	return failed("report progress", err)
}

// Checkpoint keeps a state for the next attempt.
func Checkpoint(ctx context.Context, db DB, held Held, state json.RawMessage) error {
	_, err := db.Exec(ctx, `select pgtick.checkpoint($1::bigint, $2::bigint, $3::text::jsonb)`, held.ID, held.Fence, text(state))
	return failed("save the checkpoint", err)
}

// CheckAddress fails with ErrForeignAddress unless runners may work on this database under this address; the first is recorded.
func CheckAddress(ctx context.Context, db DB, address string) error {
	_, err := db.Exec(ctx, `select pgtick.check_address($1::text)`, address)
	return failed("check the address", err)
}

// Adopt lets runners work under this address, or, with only, under no other.
func Adopt(ctx context.Context, db DB, address string, only bool) error {
	_, err := db.Exec(ctx, `select pgtick.adopt($1::text, $2::boolean)`, address, only)
	return failed("adopt the address", err)
}

// SayWakes records whether notifications reach the runner.
func SayWakes(ctx context.Context, db DB, runner int64, wakes bool) error {
	_, err := db.Exec(ctx, `select pgtick.say_wakes($1::bigint, $2::boolean)`, runner, wakes)
	return failed("record how the runner wakes", err)
}

// Notify sends a notification; the runner's listener tests itself with it.
func Notify(ctx context.Context, db DB, channel, payload string) error {
	_, err := db.Exec(ctx, `select pg_catalog.pg_notify($1::text, $2::text)`, channel, payload)
	return failed("notify", err)
}

// Schedule creates a schedule, or replaces it by name, with defaults for all else.
func Schedule(ctx context.Context, db DB, name, cron, task string) error {
	_, err := db.Exec(ctx, `select pgtick.schedule($1::text, $2::text, $3::text)`, name, cron, task)
	return failed("schedule "+name, err)
}

// PauseSchedule makes no jobs for a schedule's slots until it is resumed.
func PauseSchedule(ctx context.Context, db DB, name string) error {
	_, err := db.Exec(ctx, `select pgtick.pause_schedule($1::text)`, name)
	return failed("pause "+name, err)
}

// ResumeSchedule ends a pause.
func ResumeSchedule(ctx context.Context, db DB, name string) error {
	_, err := db.Exec(ctx, `select pgtick.resume_schedule($1::text)`, name)
	return failed("resume "+name, err)
}

// RunNow makes a job of a schedule at once and returns its id.
func RunNow(ctx context.Context, db DB, schedule string) (id int64, err error) {
	err = db.QueryRow(ctx, `select pgtick.run_now($1::text)`, schedule).Scan(&id)
	return id, failed("run "+schedule+" now", err)
}

// Job is what people want to know of a job.
type Job struct {
	ID         int64
	Task       string
	State      string
	Attempt    int
	CreatedAt  time.Time
	StartedAt  *time.Time
	FinishedAt *time.Time
	Result     json.RawMessage
	LastError  json.RawMessage
}

// Get reads one job, live or finished.
func Get(ctx context.Context, db DB, id int64) (j Job, err error) {
	err = db.QueryRow(ctx, `select id, task, state, attempt, created_at, started_at, finished_at, result, last_error from pgtick.jobs where id = $1::bigint`, id).
		Scan(&j.ID, &j.Task, &j.State, &j.Attempt, &j.CreatedAt, &j.StartedAt, &j.FinishedAt, &j.Result, &j.LastError)
	return j, failed("read a job", err)
}

// Slot is what became of one slot of a schedule.
type Slot struct {
	Slot       time.Time
	Fate       string
	JobID      int64
	RecordedAt time.Time
}

// SlotsSince lists the slots of a schedule that made a job and were accounted for after the given moment, oldest first.
func SlotsSince(ctx context.Context, db DB, schedule string, after time.Time) ([]Slot, error) {
	rows, err := db.Query(ctx, `select slot, fate, job_id, recorded_at from pgtick.slots
		where schedule = $1::text and recorded_at > $2::timestamptz and job_id is not null order by slot`, schedule, after)
	if err != nil {
		return nil, failed("read slots", err)
	}
	slots, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Slot, err error) {
		return s, row.Scan(&s.Slot, &s.Fate, &s.JobID, &s.RecordedAt)
	})
	return slots, failed("read slots", err)
}

// ClockTicked tells when a clock (pg_cron, runner, other) last ticked; never is the zero time.
func ClockTicked(ctx context.Context, db DB, clock string) (at time.Time, err error) {
	var value *time.Time
	err = db.QueryRow(ctx, `select max(c.ticked_at) from pgtick.clocks as c where c.clock = $1::text`, clock).Scan(&value)
	if value != nil {
		at = *value
	}
	return at, failed("read the clocks", err)
}

// Now is the database's clock.
func Now(ctx context.Context, db DB) (now time.Time, err error) {
	err = db.QueryRow(ctx, `select pgtick.now()`).Scan(&now)
	return now, failed("ask the database's clock", err)
}

// ServerPID is the number of the server process that answers; behind a pooler it is not the one that the connection was told of.
func ServerPID(ctx context.Context, db DB) (pid uint32, err error) {
	var value int32
	err = db.QueryRow(ctx, `select pg_catalog.pg_backend_pid()`).Scan(&value)
	return uint32(value), failed("ask for the server's process", err) //nolint:gosec // process numbers are positive
}

func columns(held []Held) (ids, fences []int64) {
	ids, fences = make([]int64, len(held)), make([]int64, len(held))
	for i, h := range held {
		ids[i], fences[i] = h.ID, h.Fence
	}
	return ids, fences
}

func text(value json.RawMessage) *string {
	if value == nil {
		return nil
	}
	s := string(value)
	return &s
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
