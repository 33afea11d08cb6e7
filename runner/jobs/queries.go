// Package jobs is the one place where Go calls the queue's SQL: one function a statement, no logic beside it. The database's clock
// judges: times go to it as delays and come back as delays, so a runner's own clock only ever waits.
package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
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
	Workers int // attempts at a time; 0: not told
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
	LimitKey    string
	Reservation string            // what the limiter has kept for it, or empty
	Trace       map[string]string // the context in which it was enqueued, or nil
	Waited      time.Duration     // between the moment it could run and the claim
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

// Answer tells of an outcome, by its place, that was not taken: the claim is gone, or (AskAgain) somebody has the row locked.
type Answer struct {
	Place    int
	AskAgain bool
}

// Register makes a runner known and returns its id.
func Register(ctx context.Context, db DB, r Runner) (id int64, err error) {
	err = db.QueryRow(ctx, `select pgtick.register($1::text, $2::text[], $3::text[], make_interval(secs => $4::float8), nullif($5::text, ''), nullif($6::int, 0))`,
		r.Name, r.Queues, r.Tasks, r.Lease.Seconds(), r.Version, r.Workers).Scan(&id)
	return id, failed("register runner "+r.Name, err)
}

// Bound is a lane and the job from which on a claim looks in it: the last that was taken, or the first that was seen to be due.
type Bound struct {
	Task     string
	Queue    string
	Priority int
	RunAt    time.Time
	ID       int64
}

// Wanted is what a claim asks for: up to N jobs from all lanes or, where there are bounds, only from theirs on.
type Wanted struct {
	Runner int64
	Queues []string
	Tasks  []string
	N      int
	From   []Bound
}

const claimSQL = `select id, fence, task, queue, priority, attempt, max_attempts, args, run_at, created_at, timeout, schedule, slot,
	owner_id, checkpoint, started_at, limit_key, reservation, trace_context
	from pgtick.claim_lanes($1::bigint, $2::text[], $3::text[], $4::int, $5::text[], $6::text[], $7::int[], $8::timestamptz[], $9::bigint[])`

func (w Wanted) args() []any {
	var tasks, queues []string
	var priorities []int32
	var runAt []time.Time
	var ids []int64
	for _, b := range w.From {
		tasks, queues, priorities = append(tasks, b.Task), append(queues, b.Queue), append(priorities, int32(b.Priority)) //nolint:gosec // 0 to 9
		runAt, ids = append(runAt, b.RunAt), append(ids, b.ID)
	}
	return []any{w.Runner, w.Queues, w.Tasks, w.N, tasks, queues, priorities, runAt, ids}
}

// TakeClaims takes jobs.
func TakeClaims(ctx context.Context, db DB, want Wanted) ([]Claim, error) {
	rows, err := db.Query(ctx, claimSQL, want.args()...)
	if err != nil {
		return nil, failed("claim", err)
	}
	claims, err := readClaims(rows, want.N)
	return claims, failed("claim", err)
}

// DueLanes are up to n lanes in which a job is due, those first in which a claim should look first.
func DueLanes(ctx context.Context, db DB, queues, names []string, n int) ([]Bound, error) {
	rows, err := db.Query(ctx, `select task, queue, priority, run_at, id from pgtick.due_lanes($1::text[], $2::text[], $3::int)`, queues, names, n)
	if err != nil {
		return nil, failed("look for queues with jobs", err)
	}
	lanes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Bound])
	return lanes, failed("look for queues with jobs", err)
}

// FinishAndClaim does both in one round trip and one transaction: one flush of the log instead of two.
func FinishAndClaim(ctx context.Context, conn *pgx.Conn, outcomes []Outcome, want Wanted) (refused []Answer, claims []Claim, err error) {
	var batch pgx.Batch
	batch.Queue(finishSQL, finishArgs(want.Runner, outcomes)...).Query(func(rows pgx.Rows) error {
		refused, err = readAnswers(rows)
		return err
	})
	batch.Queue(claimSQL, want.args()...).Query(func(rows pgx.Rows) error {
		claims, err = readClaims(rows, want.N)
		return err
	})
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, nil, failed("finish and claim", err)
	}
	return refused, claims, nil
}

// Reconcile gives back all claims of the runner but those held, and returns how many.
func Reconcile(ctx context.Context, db DB, runner int64, held []Held) (n int, err error) {
	ids, fences := columns(held)
	err = db.QueryRow(ctx, `select pgtick.reconcile($1::bigint, $2::bigint[], $3::bigint[])`, runner, ids, fences).Scan(&n)
	return n, failed("reconcile", err)
}

const finishSQL = `select f.place, f.accepted is null
	from pgtick.finish($1::bigint, $2::bigint[], $3::bigint[], $4::text[], $5::text[]::jsonb[], $6::text[]::jsonb[],
		(select array_agg(case when d.delay > 0 then pgtick.now() + make_interval(secs => d.delay) end order by d.place)
		 from unnest($7::float8[]) with ordinality as d(delay, place))) with ordinality as f(job_id, accepted, place)
	where f.accepted is not true`

func finishArgs(runner int64, outcomes []Outcome) []any {
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
	return []any{runner, ids, fences, names, results, errs, delays}
}

// Finish reports outcomes and returns the answers for those that were not taken.
func Finish(ctx context.Context, db DB, runner int64, outcomes []Outcome) ([]Answer, error) {
	rows, err := db.Query(ctx, finishSQL, finishArgs(runner, outcomes)...)
	if err != nil {
		return nil, failed("finish", err)
	}
	answers, err := readAnswers(rows)
	return answers, failed("finish", err)
}

func readAnswers(rows pgx.Rows) ([]Answer, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Answer, err error) {
		err = row.Scan(&a.Place, &a.AskAgain)
		a.Place--
		return a, err
	})
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

// Tick accounts for one chunk of at most that many due slots and returns how many jobs it made.
func Tick(ctx context.Context, db DB, most int) (n int, err error) {
	err = db.QueryRow(ctx, `select t.jobs from pgtick.tick_chunk($1::int) as t`, most).Scan(&n)
	return n, failed("tick", err)
}

// Rescue gives back the claims of dead runners and returns how many.
func Rescue(ctx context.Context, db DB) (n int, err error) {
	err = db.QueryRow(ctx, `select pgtick.rescue()`).Scan(&n)
	return n, failed("rescue", err)
}

// MaintainWhereDue makes partitions ahead and drops old ones, unless that was done within the hour (after a problem: the minute). After that, in a
// transaction of its own, it builds indexes of live jobs anew that are much too large, unless somebody has looked for that within five minutes.
func MaintainWhereDue(ctx context.Context, db DB) error {
	_, err := db.Exec(ctx, `select pgtick.maintain() where pgtick.upkeep_due('maintain', '1 hour')`)
	_, indexes := db.Exec(ctx, `select pgtick.rebuild_indexes() where pgtick.upkeep_due('indexes', '5 minutes')`)
	return errors.Join(failed("maintain", err), failed("rebuild indexes", indexes))
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

// BeginGuarded starts a transaction that the server ends when its session is idle for that long; counting says that the rows it changes are
// to be counted, for a task that may change only so many. All in one round trip.
func BeginGuarded(ctx context.Context, pool *pgxpool.Pool, idle time.Duration, counting bool) (pgx.Tx, error) {
	begin := fmt.Sprintf("begin; set local idle_in_transaction_session_timeout = %d", max(idle.Milliseconds(), 1))
	if counting {
		begin += "; select pgtick.watch_rows()"
	}
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
	return tx, failed("begin the task's transaction", err)
}

// WaitFor gives a running job back until the others have ended (outcome any), or are done.
func WaitFor(ctx context.Context, db DB, held Held, ids []int64, outcome string) error {
	_, err := db.Exec(ctx, `select pgtick.wait_for($1::bigint, $2::bigint, $3::bigint[], $4::text)`, held.ID, held.Fence, ids, outcome)
	return failed("wait for other jobs", err)
}

// HeldBack is a claim that a rate does not allow yet.
type HeldBack struct {
	Held
	Delay       time.Duration
	Reservation string
	SetAt       time.Time // of the rate, as LimitRules told it
}

// HoldBack gives claims back until their rate allows them, and returns how many it could.
func HoldBack(ctx context.Context, db DB, runner int64, back []HeldBack) (n int, err error) {
	ids, fences, delays, reservations := make([]int64, len(back)), make([]int64, len(back)), make([]float64, len(back)), make([]*string, len(back))
	setAt := make([]time.Time, len(back))
	for i := range back {
		ids[i], fences[i], delays[i], setAt[i] = back[i].ID, back[i].Fence, back[i].Delay.Seconds(), back[i].SetAt
		if back[i].Reservation != "" {
			reservations[i] = &back[i].Reservation
		}
	}
	err = db.QueryRow(ctx, `select pgtick.hold_back($1::bigint, $2::bigint[], $3::bigint[],
		(select array_agg(n.now + make_interval(secs => d.delay) order by d.place) from unnest($4::float8[]) with ordinality as d(delay, place),
		 (select pgtick.now() as now offset 0) as n), $5::text[], $6::timestamptz[])`, runner, ids, fences, delays, reservations, setAt).Scan(&n)
	return n, failed("hold jobs back", err)
}

// LimitRule is a rate of a task, or of each limit key of it.
type LimitRule struct {
	Task   string
	PerKey bool
	Rate   int64
	Period time.Duration
	Burst  int64
	SetAt  time.Time
}

// LimitRules reads the rates of the runner's tasks; among how many live runners they are shared; and whether one of those is without Redis.
func LimitRules(ctx context.Context, db DB, runner int64) (rules []LimitRule, runners int, anyLocal bool, err error) {
	rows, err := db.Query(ctx, `select coalesce(task, ''), coalesce(per_key, false), coalesce(rate, 0), coalesce(extract(epoch from period), 0)::float8,
		coalesce(burst, 0), runners, any_local, coalesce(set_at, pgtick.now()) from pgtick.limit_rules($1::bigint)`, runner)
	if err != nil {
		return nil, 0, false, failed("read the limits", err)
	}
	var r LimitRule
	var period float64
	_, err = pgx.ForEachRow(rows, []any{&r.Task, &r.PerKey, &r.Rate, &period, &r.Burst, &runners, &anyLocal, &r.SetAt}, func() error {
		if r.Period = seconds(period); r.Task != "" {
			rules = append(rules, r)
		}
		return nil
	})
	return rules, runners, anyLocal, failed("read the limits", err)
}

// SayLimits records whether the runner keeps rates without Redis; nil: it has no rate to keep.
func SayLimits(ctx context.Context, db DB, runner int64, local *bool) error {
	_, err := db.Exec(ctx, `select pgtick.say_limits($1::bigint, $2::boolean)`, runner, local)
	return failed("record how the runner keeps rates", err)
}

// DeclareTask tells the database what code says of a task.
func DeclareTask(ctx context.Context, db DB, task string, defaults json.RawMessage) error {
	_, err := db.Exec(ctx, `select pgtick.declare_task($1::text, $2::text::jsonb)`, task, string(defaults))
	return failed("declare task "+task, err)
}

// CountedTasks are those of the runner's tasks whose transactions may change only so many rows.
func CountedTasks(ctx context.Context, db DB, runner int64) ([]string, error) {
	rows, err := db.Query(ctx, `select pgtick.counted_tasks($1::bigint)`, runner)
	if err != nil {
		return nil, failed("read the tasks' rules", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return names, failed("read the tasks' rules", err)
}

// GateRefused pauses the schedule of a job that a gate has refused, and returns its name, or nothing.
func GateRefused(ctx context.Context, db DB, held Held, why string) (schedule string, err error) {
	err = db.QueryRow(ctx, `select coalesce(pgtick.gate_refused($1::bigint, $2::bigint, $3::text), '')`, held.ID, held.Fence, why).Scan(&schedule)
	return schedule, failed("pause the schedule", err)
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

// Ended is how many attempts ended since a runner's report before, and of how many each waited and ran how long: pgtick.attempt_counts has the steps.
type Ended struct {
	Report               int64 // rises with each
	Done, Errors, Failed int
	Waited, Ran          []int32
	Ago                  time.Duration
}

// CountAttempts adds them to those of all runners. A report that was taken before counts for nothing.
func CountAttempts(ctx context.Context, db DB, runner int64, e Ended) error {
	_, err := db.Exec(ctx, `select pgtick.count_attempts($1::bigint, $2::bigint, $3::integer, $4::integer, $5::integer, $6::integer[], $7::integer[], make_interval(secs => $8::float8))`,
		runner, e.Report, e.Done, e.Errors, e.Failed, e.Waited, e.Ran, e.Ago.Seconds())
	return failed("report how many attempts ended", err)
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

// SpeakPlainly makes the transaction's times and intervals read the same whatever the login's settings are, and keeps the server from compiling
// what people ask for: where the planner guesses far too high, that takes seconds. Nor do several processes read all that fits a filter, where the
// first rows of an index are enough.
func SpeakPlainly(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `select set_config('TimeZone', 'UTC', true), set_config('IntervalStyle', 'postgres', true), set_config('DateStyle', 'ISO, YMD', true), set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`)
	return failed("prepare the session", err)
}

// nextLocal is next_at of pgtick.schedules as s, as the zone's clocks show it. A zone that the server has lost would raise.
const nextLocal = `coalesce(to_char(case when s.time_zone = 'UTC' then s.next_at at time zone 'UTC'
	when s.time_zone in (select z.name from pg_catalog.pg_timezone_names as z) then s.next_at at time zone s.time_zone end, 'YYYY-MM-DD HH24:MI:SS'), '')`

// Schedules lists the schedules by name, or the one with the given name.
func Schedules(ctx context.Context, db DB, name *string) ([]ScheduleRow, error) {
	rows, err := db.Query(ctx, `select row_to_json(s)::text, `+nextLocal+`, coalesce(extract(epoch from s.typical_duration), 0)::float8
		from pgtick.schedules as s where $1::text is null or s.name = $1::text order by s.name`, name)
	if err != nil {
		return nil, failed("read the schedules", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s ScheduleRow, err error) {
		var typical float64
		if err := row.Scan(&s.JSON, &s.NextLocal, &typical); err != nil {
			return s, err
		}
		s.Typical = seconds(typical)
		return s, json.Unmarshal(s.JSON, &s)
	})
	return all, failed("read the schedules", err)
}

// LatestSlots are the newest rows of pgtick.slots of a schedule, newest first, as JSON.
func LatestSlots(ctx context.Context, db DB, schedule string, n int) ([]json.RawMessage, error) {
	return jsonRows[json.RawMessage](ctx, db, "read the slots", `select row_to_json(l)::text from pgtick.slots as l where l.schedule = $1::text order by l.slot desc limit $2::bigint`, schedule, n)
}

// LatestVersions are the newest rows of pgtick.schedule_versions of a schedule, newest first, as JSON.
func LatestVersions(ctx context.Context, db DB, schedule string, n int) ([]json.RawMessage, error) {
	return jsonRows[json.RawMessage](ctx, db, "read the versions", `select row_to_json(v)::text from pgtick.schedule_versions as v where v.schedule = $1::text order by v.version desc limit $2::bigint`, schedule, n)
}

// WhySchedule says why a schedule makes no jobs, the first reason first. It fails with ErrNoSchedule where there is none of that name.
func WhySchedule(ctx context.Context, db DB, schedule string) ([]Why, error) {
	return jsonRows[Why](ctx, db, "ask why", `select row_to_json(w)::text from pgtick.why_schedule($1::text) as w order by w.rank`, schedule)
}

// LintSchedules warns of what schedules (null: all) probably do not mean.
func LintSchedules(ctx context.Context, db DB, schedule *string) ([]Warning, error) {
	return jsonRows[Warning](ctx, db, "look for warnings", `select row_to_json(w)::text from pgtick.lint_schedules($1::text) as w`, schedule)
}

// jsonRows reads rows of one column that holds JSON.
func jsonRows[V any](ctx context.Context, db DB, doing, sql string, args ...any) ([]V, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, failed(doing, err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (value V, err error) {
		var text []byte
		if err := row.Scan(&text); err != nil {
			return value, err
		}
		return value, json.Unmarshal(text, &value)
	})
	return all, failed(doing, err)
}

// LintCron warns of what a cron expression probably does not mean.
func LintCron(ctx context.Context, db DB, cron, zone string) ([]string, error) {
	rows, err := db.Query(ctx, `select l from pgtick.lint($1::text, $2::text) as l`, cron, zone)
	if err != nil {
		return nil, failed("look for warnings", err)
	}
	warnings, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return warnings, failed("look for warnings", err)
}

// Describe says a cron expression in plain English.
func Describe(ctx context.Context, db DB, cron string) (description string, err error) {
	err = db.QueryRow(ctx, `select pgtick.describe($1::text)`, cron).Scan(&description)
	return description, failed("describe the cron expression", err)
}

// Preview lists the first n slots after a moment, given as one, or as the wall time of the zone; neither: after now.
func Preview(ctx context.Context, db DB, cron, zone string, from *time.Time, wall *string, n int) ([]PlannedSlot, error) {
	rows, err := db.Query(ctx, `select p, to_char(p at time zone $2::text, 'Dy YYYY-MM-DD HH24:MI:SS')
		from pgtick.preview($1::text, $2::text, coalesce($3::timestamptz, $4::text::timestamp at time zone $2::text, pgtick.now()), $5::integer) as p`,
		cron, zone, from, wall, n)
	if err != nil {
		return nil, failed("preview the cron expression", err)
	}
	slots, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p PlannedSlot, err error) {
		return p, row.Scan(&p.Slot, &p.Local)
	})
	return slots, failed("preview the cron expression", err)
}

// Forecast calls see for each slot up to a moment, in order.
func Forecast(ctx context.Context, db DB, until time.Time, see func(Expected) error) error {
	rows, err := db.Query(ctx, `select row_to_json(f)::text, f.slot, f.schedule, f.run_at, f.expected, coalesce(f.overlapping, false), coalesce(f.load, 0)
		from pgtick.forecast($1::timestamptz) as f`, until)
	if err != nil {
		return failed("forecast", err)
	}
	var e Expected
	_, err = pgx.ForEachRow(rows, []any{&e.JSON, &e.Slot, &e.Schedule, &e.RunAt, &e.Fate, &e.Overlaps, &e.Load}, func() error { return see(e) })
	return failed("forecast", err)
}

// PauseUntil makes no jobs for a schedule's slots until a moment, or for some time from now; neither: until it is resumed.
func PauseUntil(ctx context.Context, db DB, name string, until *time.Time, length time.Duration) error {
	_, err := db.Exec(ctx, `select pgtick.pause_schedule($1::text, coalesce($2::timestamptz, pgtick.now() + make_interval(secs => nullif($3::float8, 0))))`,
		name, until, length.Seconds())
	return failed("pause "+name, err)
}

// Resume ends a pause; with catchUp the slots in it are treated as missed ones.
func Resume(ctx context.Context, db DB, name string, catchUp bool) error {
	_, err := db.Exec(ctx, `select pgtick.resume_schedule($1::text, $2::boolean)`, name, catchUp)
	return failed("resume "+name, err)
}

// JobRow is a row of pgtick.jobs, as JSON.
func JobRow(ctx context.Context, db DB, id int64) (row json.RawMessage, err error) {
	err = db.QueryRow(ctx, `select row_to_json(j)::text from pgtick.jobs as j where j.id = $1::bigint`, id).Scan(&row)
	return row, failed("read a job", err)
}

// Served tells whether a runner that lives takes a job's task from its queue.
func Served(ctx context.Context, db DB, id int64) (yes bool, err error) {
	err = db.QueryRow(ctx, `select exists (select from pgtick.jobs as j join pgtick.runners as r on r.state = 'alive' and j.task = any (r.tasks) and j.queue = any (r.queues)
		where j.id = $1::bigint)`, id).Scan(&yes)
	return yes, failed("look for a runner", err)
}

// BeginDeclaring makes pgtick.schedule note, until the transaction ends, who declares and what. One such transaction runs at a time, so
// that two never lock each other's schedules crosswise.
func BeginDeclaring(ctx context.Context, tx pgx.Tx, source string) error {
	_, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('pgtick.declare', 0)), set_config('pgtick.source', $1::text, true), set_config('pgtick.declared', '[]', true)`, source)
	return failed("begin to declare", err)
}

// Declared names the schedules that pgtick.schedule was called for.
func Declared(ctx context.Context, tx pgx.Tx) (names []string, err error) {
	err = tx.QueryRow(ctx, `select array(select distinct jsonb_array_elements_text(coalesce(nullif(current_setting('pgtick.declared', true), ''), '[]')::jsonb) order by 1)`).Scan(&names)
	return names, failed("read what is declared", err)
}

// Declare calls pgtick.schedule with these arguments alone, so that all defaults are the database's.
func Declare(ctx context.Context, db DB, arguments []Argument) error {
	list, values := make([]string, len(arguments)), make([]any, len(arguments))
	for i, a := range arguments {
		list[i], values[i] = fmt.Sprintf("p_%s => $%d::text::%s", a.Name, i+1, a.Type), a.Text
	}
	_, err := db.Exec(ctx, `select pgtick.schedule(`+strings.Join(list, ", ")+`)`, values...)
	return failed("schedule", err)
}

// DeclareInSQL runs statements in such a way that they can't end the transaction.
func DeclareInSQL(ctx context.Context, tx pgx.Tx, text string) error {
	if _, err := tx.Exec(ctx, `select set_config('pgtick.file', $1::text, true)`, text); err != nil {
		return failed("hand over the statements", err)
	}
	_, err := tx.Exec(ctx, `do $$ begin execute current_setting('pgtick.file'); end $$`)
	return failed("run the statements", err)
}

// RenameSchedule gives a schedule another name; its history stays with it.
func RenameSchedule(ctx context.Context, db DB, name, newName string) error {
	_, err := db.Exec(ctx, `select pgtick.rename_schedule($1::text, $2::text)`, name, newName)
	return failed("rename "+name, err)
}

// Unschedule ends a schedule; its history stays.
func Unschedule(ctx context.Context, db DB, name string) error {
	_, err := db.Exec(ctx, `select pgtick.unschedule($1::text)`, name)
	return failed("unschedule "+name, err)
}

// ScheduleStates reads what all schedules are set to, by their ids.
func ScheduleStates(ctx context.Context, db DB) (map[int64]ScheduleState, error) {
	pairs := ""
	for _, name := range ScheduleSettings() {
		pairs += fmt.Sprintf(", '%s', s.%s", name, name)
	}
	rows, err := db.Query(ctx, `select s.id, s.name, coalesce(s.source, ''), jsonb_build_object(`+pairs[2:]+`), s.next_at, `+nextLocal+` from pgtick.schedules as s`)
	if err != nil {
		return nil, failed("read the schedules", err)
	}
	all := map[int64]ScheduleState{}
	var s ScheduleState
	_, err = pgx.ForEachRow(rows, []any{&s.ID, &s.Name, &s.Source, &s.Settings, &s.NextAt, &s.NextLocal}, func() error {
		all[s.ID] = s
		s = ScheduleState{}
		return nil
	})
	return all, failed("read the schedules", err)
}

// CountChange counts the slots of the coming 30 days that another expression or zone would add to a schedule, and drop.
func CountChange(ctx context.Context, db DB, name, cron, zone string) (added, dropped int, err error) {
	err = db.QueryRow(ctx, `select count(*) filter (where c.change = 'added'), count(*) filter (where c.change = 'dropped')
		from pgtick.preview_change($1::text, $2::text, $3::text) as c`, name, cron, zone).Scan(&added, &dropped)
	return added, dropped, failed("count the slots that change", err)
}

// Enqueue calls pgtick.enqueue with these arguments alone, so that all defaults are the database's, and returns the job's id.
func Enqueue(ctx context.Context, db DB, arguments []Argument) (id int64, err error) {
	list, values := make([]string, len(arguments)), make([]any, len(arguments))
	for i, a := range arguments {
		list[i], values[i] = fmt.Sprintf("p_%s => $%d::text::%s", a.Name, i+1, a.Type), a.Text
	}
	err = db.QueryRow(ctx, `select pgtick.enqueue(`+strings.Join(list, ", ")+`)`, values...).Scan(&id)
	return id, failed("enqueue", err)
}

// EnqueueMany adds so many jobs of a task, without arguments, and returns how many it added.
func EnqueueMany(ctx context.Context, db DB, task, queue string, n int) (added int, err error) {
	err = db.QueryRow(ctx, `select count(*) from pgtick.enqueue_many($1::text, array_fill('{}'::jsonb, array[$3::int]), $2::text)`, task, queue, n).Scan(&added)
	return added, failed("enqueue in bulk", err)
}

// Cancel cancels a job, or asks its runner to, and returns its state after.
func Cancel(ctx context.Context, db DB, id int64) (state string, err error) {
	err = db.QueryRow(ctx, `select pgtick.cancel($1::bigint)`, id).Scan(&state)
	return state, failed("cancel a job", err)
}

// Retry makes a failed, cancelled or waiting job due now, and returns its state after.
func Retry(ctx context.Context, db DB, id int64) (state string, err error) {
	err = db.QueryRow(ctx, `select pgtick.retry($1::bigint)`, id).Scan(&state)
	return state, failed("retry a job", err)
}

// RetryWith is Retry with other arguments, and the reason for them.
func RetryWith(ctx context.Context, db DB, id int64, args, reason string) (state string, err error) {
	err = db.QueryRow(ctx, `select pgtick.retry_with($1::bigint, $2::text::jsonb, $3::text)`, id, args, reason).Scan(&state)
	return state, failed("retry a job with other arguments", err)
}

// CancelWhere cancels all live jobs that a filter meets, and returns how many.
func CancelWhere(ctx context.Context, db DB, filter []byte) (n int64, err error) {
	err = db.QueryRow(ctx, `select pgtick.cancel_where($1::text::jsonb)`, string(filter)).Scan(&n)
	return n, failed("cancel jobs", err)
}

// RetryWhere retries all failed (or, where the filter says so, cancelled) jobs that it meets, and returns how many.
func RetryWhere(ctx context.Context, db DB, filter []byte) (n int64, err error) {
	err = db.QueryRow(ctx, `select pgtick.retry_where($1::text::jsonb)`, string(filter)).Scan(&n)
	return n, failed("retry jobs", err)
}

// PauseQueue lets no more jobs of a queue be claimed.
func PauseQueue(ctx context.Context, db DB, queue, reason string) error {
	_, err := db.Exec(ctx, `select pgtick.pause_queue($1::text, nullif($2::text, ''))`, queue, reason)
	return failed("pause queue "+queue, err)
}

// ResumeQueue ends a queue's pause.
func ResumeQueue(ctx context.Context, db DB, queue string) error {
	_, err := db.Exec(ctx, `select pgtick.resume_queue($1::text)`, queue)
	return failed("resume queue "+queue, err)
}

// ServersOf names the live runners that serve a queue.
func ServersOf(ctx context.Context, db DB, queue string) ([]string, error) {
	return jsonRows[string](ctx, db, "look for runners", `select to_json(r.name)::text from pgtick.runners as r where r.state = 'alive' and $1::text = any (r.queues) order by r.id`, queue)
}

// ForgetBench removes what a measurement has left in its queue. It fails where a live runner serves that.
func ForgetBench(ctx context.Context, db DB, queue string) (jobs int64, err error) {
	err = db.QueryRow(ctx, `select pgtick.forget_bench($1::text)`, queue).Scan(&jobs)
	return jobs, failed("remove what was measured with", err)
}

// Listen makes the connection hear of a channel.
func Listen(ctx context.Context, conn *pgx.Conn, channel string) error {
	_, err := conn.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize())
	return failed("listen", err)
}

// Measure is a value of pgtick.measure.
type Measure struct {
	What  string
	Label string // a queue, a fate, a type …, or nothing
	Part  int    // of a histogram; -1: none
	Value float64
}

// MeasureFrom says from where on slots and credit entries are counted, as the last call told; the zero value counts none.
type MeasureFrom struct {
	Begun        bool
	SlotsAfter   int64 // in microseconds since 1970
	EntriesAfter int64 // ids
	EntriesUntil int64
	EntriesOpen  string // transactions below it must have ended before they are counted; empty: none must
}

// ReadMeasures reads what pgtick.measure tells.
func ReadMeasures(ctx context.Context, db DB, from MeasureFrom) ([]Measure, error) {
	var slotsAfter, after, until *int64
	var open *string
	if from.Begun {
		slotsAfter, after, until = &from.SlotsAfter, &from.EntriesAfter, &from.EntriesUntil
	}
	if from.EntriesOpen != "" {
		open = &from.EntriesOpen
	}
	rows, err := db.Query(ctx, `select what, coalesce(label, ''), coalesce(part, -1), value from pgtick.measure($1::bigint, $2::bigint, $3::bigint, $4::text)`, slotsAfter, after, until, open)
	if err != nil {
		return nil, failed("measure", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Measure, err error) {
		return m, row.Scan(&m.What, &m.Label, &m.Part, &m.Value)
	})
	return all, failed("measure", err)
}

// ReadHealth counts the rows of pgtick.health by kind of problem.
func ReadHealth(ctx context.Context, db DB) (map[string]int64, error) {
	rows, err := db.Query(ctx, `select what, problems from pgtick.measure_health()`)
	if err != nil {
		return nil, failed("count what pgtick.health says", err)
	}
	all := map[string]int64{}
	var what string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&what, &n}, func() error { all[what] = n; return nil })
	return all, failed("count what pgtick.health says", err)
}
