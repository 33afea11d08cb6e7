package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
)

// Window is how many rows, the newest of what an index finds, are looked through for conditions that no index answers.
const Window = 10_000

// States lists those of pgtick.jobs, in the order of a job's life.
func States() []string { return []string{"ready", "running", "done", "failed", "cancelled"} }

// live tells whether a state is one of jobs that have not ended; the others stand in history.
func live(state string) bool { return state == "ready" || state == "running" }

// Filter says which jobs are meant. What is empty means any.
type Filter struct {
	State    string
	Task     string
	Queue    string
	OwnerID  string
	Schedule string     // by name
	Batch    int64      // that it is part of
	Error    string     // stands in the message of its last error, in that case
	Since    *time.Time // when it ended or, of a live job, was enqueued
	Until    *time.Time
	Search   string // stands in its args, result, note, unique key or last error, in whatever case
}

// ended tells whether jobs are listed by the time of their end: where an index has them in that order.
func (f Filter) ended() bool {
	return f.Batch == 0 && (f.Task != "" || f.OwnerID != "" || f.State == "failed" || f.State == "cancelled")
}

// Moment is a timestamptz, which may be infinity.
type Moment struct {
	time.Time
	Infinite bool
}

// UnmarshalJSON reads what row_to_json writes.
func (m *Moment) UnmarshalJSON(text []byte) error {
	if string(text) == `"infinity"` {
		*m = Moment{Infinite: true}
		return nil
	}
	return m.Time.UnmarshalJSON(text)
}

// JobView is one row of pgtick.jobs.
type JobView struct {
	JSON json.RawMessage `json:"-"` // the whole row, its keys named and ordered as the columns

	ID          int64           `json:"id"`
	Task        string          `json:"task"`
	Queue       string          `json:"queue"`
	State       string          `json:"state"`
	Args        json.RawMessage `json:"args"`
	Priority    int             `json:"priority"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"max_attempts"`
	RunAt       Moment          `json:"run_at"`
	CreatedAt   time.Time       `json:"created_at"`
	StartedAt   *time.Time      `json:"started_at"`
	FinishedAt  *time.Time      `json:"finished_at"`
	Schedule    string          `json:"schedule"`
	Progress    *float64        `json:"progress"`
	Note        string          `json:"note"`
	Result      json.RawMessage `json:"result"`
	LastError   json.RawMessage `json:"last_error"`
	Uncounted   int             `json:"uncounted"`
	BlockedBy   string          `json:"blocked_by"`
	BatchID     *int64          `json:"batch_id"`
	SequenceKey string          `json:"sequence_key"`
	After       []int64         `json:"after"`
	RunnerID    *int64          `json:"runner_id"`
	Timeout     string          `json:"timeout"`
	OwnerID     string          `json:"owner_id"`
	Slot        *Moment         `json:"slot"`
	UniqueKey   string          `json:"unique_key"`
	LimitKey    string          `json:"limit_key"`
	WantedAt    *Moment         `json:"wanted_at"`
	RetryPolicy json.RawMessage `json:"retry_policy"`
	Trace       json.RawMessage `json:"trace_context"`
}

// ErrorMessage is that of an error as pgtick.finish takes it: mostly an object with a message, but a worker may have reported any JSON.
func ErrorMessage(value json.RawMessage) string {
	var object struct {
		Message json.RawMessage `json:"message"`
	}
	if json.Unmarshal(value, &object) == nil && object.Message != nil {
		value = object.Message
	}
	var words string
	if value == nil || string(value) == "null" || json.Unmarshal(value, &words) == nil {
		return words
	}
	return string(value)
}

// Page is a part of a list of jobs.
type Page struct {
	Jobs   []JobView
	Next   int64 // the page after this one begins behind this job; 0: this was the last one
	Window bool  // and that is so since Window rows were looked through
}

// Found is a page by its ids alone.
type Found struct {
	IDs    []int64
	Next   Spot // the page after this one begins here; zero: this was the last one
	Window bool
}

// Spot is where a page begins: behind a job (0: at the start) that stood there. Lists that go by id need no At.
type Spot struct {
	ID int64
	At *time.Time // when it ended, or its slot in the list of a schedule; nil of a live job
}

// ListJobs lists those that fit, at most n of them, beginning behind the job before, or at the start (0). The newest come first: by id. Those
// of a task, an owner or in one of the states failed and cancelled: first the live ones by id, then the others, the last to end first. Those
// of a schedule: by their slots. Each condition is looked up in an index, or tried on Window rows at most. Call it in a transaction.
func ListJobs(ctx context.Context, db DB, f Filter, before int64, n int) (page Page, err error) {
	l := list{filter: f, before: before, n: n}
	if before != 0 && !l.byID() {
		if l.at, err = l.placeOf(ctx, db, before); err != nil {
			return page, failed("list jobs", err)
		}
	}
	found, err := l.page(ctx, db)
	if err != nil {
		return page, failed("list jobs", err)
	}
	page.Next, page.Window = found.Next.ID, found.Window
	page.Jobs, err = JobViews(ctx, db, found.IDs)
	return page, err
}

// FindJobs is ListJobs for who needs the ids alone, and remembers where the page before ended: the job there may have gone elsewhere since.
func FindJobs(ctx context.Context, db DB, f Filter, behind Spot, n int) (Found, error) {
	l := list{filter: f, before: behind.ID, n: n}
	switch {
	case l.byID():
	case f.Schedule != "":
		l.at.slot = behind.At
	case !live(f.State):
		l.at.endedAt = behind.At
	}
	found, err := l.page(ctx, db)
	return found, failed("list jobs", err)
}

func (l list) page(ctx context.Context, db DB) (page Found, err error) {
	if err := l.prepare(ctx, db); err != nil {
		return page, err
	}
	rows, err := l.find(ctx, db)
	if err != nil {
		return page, err
	}
	for i, r := range rows {
		if len(page.IDs) == l.n && r.fits {
			page.Next = rows[i-1].Spot
			return page, nil
		}
		if r.fits {
			page.IDs = append(page.IDs, r.ID)
		}
		if r.edge {
			page.Next, page.Window = r.Spot, true
			return page, nil
		}
	}
	return page, nil
}

// prepare: of a lane that is most of its table the planner would sort all, to have the first Window of it; and then compile, for seconds.
func (l list) prepare(ctx context.Context, db DB) (err error) {
	if l.filter.State == "running" {
		_, err = db.Exec(ctx, `select set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`)
	}
	return err
}

// JobViews reads jobs by their ids, in that order. One that has been dropped meanwhile is left out.
func JobViews(ctx context.Context, db DB, ids []int64) ([]JobView, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := jsonRows[json.RawMessage](ctx, db, "read jobs", `select row_to_json(j)::text from pgtick.jobs as j where j.id = any ($1::bigint[])`, ids)
	if err != nil {
		return nil, err
	}
	views := make([]JobView, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal(row, &views[i]); err != nil {
			return nil, failed("read jobs", err)
		}
		views[i].JSON = row
	}
	place := make(map[int64]int, len(ids))
	for i, id := range ids {
		place[id] = i
	}
	slices.SortFunc(views, func(a, b JobView) int { return cmp.Compare(place[a.ID], place[b.ID]) })
	return views, nil
}

// place is where a job stands in lists that do not go by id.
type place struct {
	endedAt *time.Time // nil: it is live
	slot    *time.Time
}

// placeOf fails where the job has none: it may have been retried, or dropped, since a list showed it.
func (l list) placeOf(ctx context.Context, db DB, id int64) (p place, err error) {
	found := false
	err = db.QueryRow(ctx, `select j.finished_at, j.slot, j.id is not null from (select) as one left join pgtick.jobs as j on j.id = $1::bigint`, id).Scan(&p.endedAt, &p.slot, &found)
	switch {
	case err != nil:
	case !found:
		err = fmt.Errorf("%w: %d, to go on behind", ErrNoJob, id)
	case l.filter.Schedule != "" && p.slot == nil:
		err = fmt.Errorf("job %d, to go on behind, is of no schedule", id)
	case l.filter.Schedule == "" && l.filter.State != "" && live(l.filter.State) != (p.endedAt == nil):
		err = fmt.Errorf("job %d, to go on behind, is not %s any more", id, l.filter.State)
	}
	return p, err
}

// looked is a row that fits, or the last one that was looked at.
type looked struct {
	Spot
	fits bool
	edge bool // what comes behind it was not looked at
}

// list is one look for jobs.
type list struct {
	filter Filter
	before int64
	at     place // of before, where the list does not go by id
	n      int
}

func (l list) byID() bool { return !l.filter.ended() && l.filter.Schedule == "" }

// arguments are those of a statement.
type arguments []any

func (a *arguments) add(value any, kind string) string {
	*a = append(*a, value)
	return fmt.Sprintf("$%d::%s", len(*a), kind)
}

// ordered are rows that an index finds in order, and what is tried on each of them.
type ordered struct {
	with    string // a clause that the statement stands on
	query   string // selects all columns, without a limit
	tries   []try
	column  string // what the list goes by besides the id
	state   string // of a row
	problem string // and its last error
}

// try is a condition on a row c.
type try func(*arguments) string

// source adds its arguments to those of the statement.
type source func(*arguments) ordered

// keep selects those rows that pass, at most n, and marks the last one that was tried, where there may be others behind it.
func (r ordered) keep(args *arguments, n int) string {
	if len(r.tries) == 0 {
		return fmt.Sprintf("select c.id, %s as at, true as fits, false as edge from (%s limit %d) as c", r.column, r.query, n)
	}
	// The window sees three columns only: it keeps each row that it numbers.
	return fmt.Sprintf(`select c.id, c.at, coalesce(c.fits, false) as fits, c.place = %[2]d as edge
		from (select c.*, row_number() over () as place from (select c.id, %[1]s as at, %[3]s as fits from (%[4]s limit %[2]d) as c offset 0) as c) as c
		where c.fits or c.place = %[2]d limit %[5]d`,
		r.column, Window, r.condition(args), r.query, n)
}

// condition is what is tried on each row c.
func (r ordered) condition(args *arguments) string {
	conditions := []string{"true"}
	for _, t := range r.tries {
		conditions = append(conditions, t(args))
	}
	return strings.Join(conditions, " and ")
}

// sources are where jobs that fit can be, in the order in which a list has them.
func (l list) sources() (all []source) {
	f := l.filter
	if f.Schedule != "" {
		return []source{l.ofSchedule}
	}
	if (f.State == "" || live(f.State)) && l.at.endedAt == nil {
		all = append(all, l.ofLive)
	}
	if f.State == "" || !live(f.State) {
		all = append(all, l.ofHistory)
	}
	return all
}

// find returns n jobs and one more, and where each source ends that was not looked through.
func (l list) find(ctx context.Context, db DB) ([]looked, error) {
	var args arguments
	var with, parts []string
	for _, s := range l.sources() {
		r := s(&args)
		with = append(with, r.with)
		parts = append(parts, "("+r.keep(&args, l.n+1)+")")
	}
	order := "x.at desc nulls first, x.id desc"
	if l.byID() {
		order = "x.id desc"
	}
	rows, err := db.Query(ctx, fmt.Sprintf("%s select x.id, x.at, x.fits, x.edge from (%s) as x order by %s limit %d", clause(with...), strings.Join(parts, " union all "), order, l.n+1+len(parts)), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r looked, err error) { return r, row.Scan(&r.ID, &r.At, &r.fits, &r.edge) })
}

func clause(with ...string) string {
	with = slices.DeleteFunc(with, func(w string) bool { return w == "" })
	if len(with) == 0 {
		return ""
	}
	return "with recursive " + strings.Join(with, ", ")
}

// KindOfJobs are jobs of a task in one state and, where they have one, with errors that begin alike.
type KindOfJobs struct {
	Task  string
	State string
	Error string // the first line of its message up to the first figure, where that says enough
	N     int
}

// Kinds are the jobs that fit a filter by their kinds, the largest first, among those that a list would look at: Window of the live ones, and
// of those that have ended.
type Kinds struct {
	Kinds []KindOfJobs // mostKinds of each at most
	Fit   int
	All   bool // no others are to be looked at
}

const mostKinds = 50

// KindsOfJobs counts what ListJobs would list, as far as it would look for one page. Call it in a transaction.
func KindsOfJobs(ctx context.Context, db DB, f Filter) (k Kinds, err error) {
	l := list{filter: f}
	if err := l.prepare(ctx, db); err != nil {
		return k, failed("count jobs", err)
	}
	k.All = true
	for _, s := range l.sources() {
		var args arguments
		r := s(&args)
		condition := r.condition(&args)
		rows, err := db.Query(ctx, fmt.Sprintf(`%s select grouping(k.task) = 1 as whole, coalesce(k.task, ''), coalesce(k.state, ''), coalesce(k.error, ''), count(*), count(*) filter (where k.fits) as fit
			from (select h.task, h.state, h.fits, rtrim(left(case when length(h.head) < 12 then h.line else h.head end, 80)) as error
				from (select x.*, substring(x.line from '^[^0-9]*') as head
					from (select c.task, %s as state, %s as fits, split_part(case when %s <> 'done' then %s ->> 'message' end, chr(10), 1) as line from (%s limit %d) as c offset 0) as x offset 0) as h) as k
			group by grouping sets ((), (k.task, k.state, k.error)) having grouping(k.task) = 1 or count(*) filter (where k.fits) > 0 order by whole desc, fit desc, 2, 3, 4 limit %d`,
			clause(r.with), r.state, condition, r.state, r.problem, r.query, Window, mostKinds+1), args...)
		if err != nil {
			return k, failed("count jobs", err)
		}
		var one KindOfJobs
		var whole bool
		var looked int
		if _, err := pgx.ForEachRow(rows, []any{&whole, &one.Task, &one.State, &one.Error, &looked, &one.N}, func() error {
			if whole {
				k.Fit, k.All = k.Fit+one.N, k.All && looked < Window
			} else {
				k.Kinds = append(k.Kinds, one)
			}
			return nil
		}); err != nil {
			return k, failed("count jobs", err)
		}
	}
	slices.SortStableFunc(k.Kinds, func(a, b KindOfJobs) int { return cmp.Compare(b.N, a.N) })
	return k, nil
}

// from is a select of all columns of a table as j, in an order.
func from(table string, conditions []string, order string) string {
	where := ""
	if len(conditions) > 0 {
		where = " where " + strings.Join(conditions, " and ")
	}
	return "select j.* from " + table + " as j" + where + " order by " + order
}

// ofLive are the live jobs by id: those of an owner or a task by an index of theirs, running ones by the lanes.
func (l list) ofLive(args *arguments) ordered {
	f, r := l.filter, ordered{column: "null::timestamptz", state: "case when c.runner_id is null then 'ready' else 'running' end", problem: "(c.earlier_attempts -> -1 -> 'error')"}
	var found []string
	if l.before != 0 {
		found = append(found, "j.id < "+args.add(l.before, "bigint"))
	}
	if f.State != "running" { // those are few
		var between []string
		r.with, between = l.enqueuedBetween(args)
		found = append(found, between...)
	}
	if f.State == "ready" {
		r.tries = append(r.tries, fixed("c.runner_id is null"))
	}
	r.tries = append(r.tries, f.failedWith(r.problem))
	r.tries = append(r.tries, f.sinceAndUntil("c.created_at")...)
	r.tries = append(r.tries, f.searched(`c.args, c.earlier_attempts -> -1 -> 'error', c.uniqueness -> 'key'`, "pgtick.job_notes")...)
	switch {
	case f.Batch != 0: // by the index of the batch
		r.query = from("pgtick.live_jobs", append(found, "j.batch_id = "+args.add(f.Batch, "bigint")), "j.id + 0 desc")
		r.tries = append(r.tries, f.isText("task", f.Task), f.isText("queue", f.Queue), f.isText("owner_id::text", f.OwnerID))
		if f.State == "running" {
			r.tries = append(r.tries, fixed("c.runner_id is not null"))
		}
	case f.OwnerID != "":
		r.query = from("pgtick.live_jobs", append(found, "j.owner_id = "+args.add(f.OwnerID, "text::uuid")), "j.id desc")
		r.tries = append(r.tries, f.isText("task", f.Task), f.isText("queue", f.Queue))
		if f.State == "running" {
			r.tries = append(r.tries, fixed("c.runner_id is not null"))
		}
	case f.State == "running":
		r.with, r.query = l.running(args, found)
	case f.Task != "":
		found = append(found, "j.task = "+args.add(f.Task, "text"))
		if f.Queue != "" {
			found = append(found, "j.queue = "+args.add(f.Queue, "text"))
		}
		r.query = from("pgtick.live_jobs", found, "j.id desc")
	case f.Queue != "":
		queue := args.add(f.Queue, "text")
		r.with = strings.TrimPrefix(r.with+", "+lanes("true"), ", ")
		found = append(found, "j.queue = "+queue, "j.task = any (array(select distinct l.task from lane as l where l.queue = "+queue+"))")
		r.query = from("pgtick.live_jobs", found, "j.id desc")
	default:
		r.query = from("pgtick.live_jobs", found, "j.id desc")
	}
	r.tries = slices.DeleteFunc(r.tries, func(t try) bool { return t == nil })
	return r
}

// enqueuedBetween keeps a walk by id to those live jobs that were enqueued in the time in question, or shortly before or after.
func (l list) enqueuedBetween(args *arguments) (with string, found []string) {
	var clauses []string
	if l.filter.Since != nil {
		clauses = append(clauses, firstSince("live_since", "pgtick.live_jobs", args.add(*l.filter.Since, "timestamptz")+" - "+drawn))
		found = append(found, "j.id >= (select min(s.hi) from live_since as s)")
	}
	if l.filter.Until != nil {
		clauses = append(clauses, firstSince("live_until", "pgtick.live_jobs", args.add(*l.filter.Until, "timestamptz")+" + "+drawn))
		found = append(found, "j.id < (select min(s.hi) from live_until as s)")
	}
	return strings.Join(clauses, ", "), found
}

// running are the claimed jobs: in each lane (task, queue, priority) they stand before those that wait, so Window rows of each are looked at.
func (l list) running(args *arguments, found []string) (with, query string) {
	lane := "true"
	if l.filter.Task != "" {
		lane = "j.task = " + args.add(l.filter.Task, "text")
	}
	found = append(found, "j.runner_id is not null")
	if l.filter.Queue != "" {
		found = append(found, "l.queue = "+args.add(l.filter.Queue, "text"))
	}
	query = fmt.Sprintf(`select j.* from lane as l
		cross join lateral (select o.* from pgtick.live_jobs as o where o.task = l.task and o.queue = l.queue and o.priority = l.priority order by o.run_at, o.id + 0 limit %d) as j
		where %s order by j.id desc`, Window, strings.Join(found, " and "))
	return lanes(lane), query
}

// lanes are the tasks, queues and priorities of live jobs, found by steps over their index, as pgtick.lanes does.
func lanes(condition string) string {
	return `lane as (
		(select j.task, j.queue, j.priority from pgtick.live_jobs as j where ` + condition + ` order by j.task, j.queue, j.priority limit 1)
		union all
		select n.task, n.queue, n.priority from lane as l
		cross join lateral (select j.task, j.queue, j.priority from pgtick.live_jobs as j
			where (j.task, j.queue, j.priority) > (l.task, l.queue, l.priority) and ` + condition + ` order by j.task, j.queue, j.priority limit 1) as n)`
}

// ofHistory are the jobs that have ended, by their end where an index has them so, otherwise by id.
func (l list) ofHistory(args *arguments) ordered {
	f, r := l.filter, ordered{column: "c.finished_at", state: "c.state", problem: "coalesce(c.error, c.earlier_attempts -> -1 -> 'error')"}
	r.tries = append(r.tries, f.isText("queue", f.Queue), f.failedWith(r.problem))
	r.tries = append(r.tries, f.searched(`c.args, c.result, coalesce(c.error, c.earlier_attempts -> -1 -> 'error'), c.uniqueness -> 'key', c.note`, "")...)
	var found []string
	if l.byID() {
		if l.before != 0 {
			found = append(found, "j.id < "+args.add(l.before, "bigint"))
		}
		if f.Until != nil { // it was enqueued before it ended
			r.with = firstSince("history_until", "pgtick.history", args.add(*f.Until, "timestamptz")+" + "+drawn)
			found = append(found, "j.id < (select min(s.hi) from history_until as s)")
		}
		r.query = from("pgtick.history", found, "j.id desc")
		if f.Batch != 0 { // by the index of the batch: all that it has kept is sorted
			r.query = from("pgtick.history", append(found, "j.batch_id = "+args.add(f.Batch, "bigint")), "j.id + 0 desc")
			r.tries = append(r.tries, f.isText("task", f.Task), f.isText("owner_id::text", f.OwnerID))
		}
		r.tries = append(append(r.tries, f.isText("state", f.State)), f.sinceAndUntil("c.finished_at")...)
	} else {
		r.query = from("pgtick.history", l.byEnd(args), "j.finished_at desc, j.id desc")
		if f.State == "done" {
			r.tries = append(r.tries, f.isText("state", f.State))
		}
	}
	r.tries = slices.DeleteFunc(r.tries, func(t try) bool { return t == nil })
	return r
}

// byEnd are the conditions that history's indexes of owners, tasks and states answer.
func (l list) byEnd(args *arguments) (found []string) {
	f := l.filter
	if f.OwnerID != "" {
		found = append(found, "j.owner_id = "+args.add(f.OwnerID, "text::uuid"))
	}
	if f.Task != "" {
		found = append(found, "j.task = "+args.add(f.Task, "text"))
	}
	if f.State == "failed" || f.State == "cancelled" {
		found = append(found, "j.state <> 'done'", "j.state = "+args.add(f.State, "text"))
	}
	if f.Since != nil {
		found = append(found, "j.finished_at >= "+args.add(*f.Since, "timestamptz"))
	}
	if f.Until != nil {
		found = append(found, "j.finished_at < "+args.add(*f.Until, "timestamptz"))
	}
	if l.at.endedAt != nil {
		found = append(found, fmt.Sprintf("(j.finished_at, j.id) < (%s, %s)", args.add(*l.at.endedAt, "timestamptz"), args.add(l.before, "bigint")))
	}
	return found
}

// ofSchedule are the jobs of a schedule's slots, wherever they are now.
func (l list) ofSchedule(args *arguments) ordered {
	f, r := l.filter, ordered{column: "c.slot", state: "c.state", problem: "c.error"}
	slot := ""
	if l.at.slot != nil {
		slot = " and s.slot < " + args.add(*l.at.slot, "timestamptz")
	}
	r.query = `select j.*, l.slot from (select s.job_id, s.slot from pgtick.slot_log as s
			where s.schedule_id = (select d.id from pgtick.schedule_defs as d where d.name = ` + args.add(f.Schedule, "text") + `) and s.job_id is not null` + slot + ` order by s.slot desc) as l
		cross join lateral (
			select x.id, x.task, x.queue, x.owner_id, x.batch_id, case when x.runner_id is null then 'ready' else 'running' end as state, x.created_at as at, x.args, x.uniqueness,
				x.earlier_attempts -> -1 -> 'error' as error, null::jsonb as result, (select n.note from pgtick.job_notes as n where n.job_id = x.id) as note
			from pgtick.live_jobs as x where x.id = l.job_id
			union all
			select x.id, x.task, x.queue, x.owner_id, x.batch_id, x.state, x.finished_at, x.args, x.uniqueness, coalesce(x.error, x.earlier_attempts -> -1 -> 'error'), x.result, x.note
			from pgtick.history as x where x.id = l.job_id) as j
		order by l.slot desc`
	r.tries = append(r.tries, f.isText("state", f.State), f.isText("task", f.Task), f.isText("queue", f.Queue), f.isText("owner_id::text", f.OwnerID), f.failedWith(r.problem))
	if f.Batch != 0 {
		r.tries = append(r.tries, func(args *arguments) string { return "c.batch_id = " + args.add(f.Batch, "bigint") })
	}
	r.tries = append(r.tries, f.sinceAndUntil("c.at")...)
	r.tries = append(r.tries, f.searched("c.args, c.result, c.error, c.uniqueness -> 'key', c.note", "")...)
	r.tries = slices.DeleteFunc(r.tries, func(t try) bool { return t == nil })
	return r
}

// drawn is how much the order of ids and that of times may differ: an enqueue that waited for a lock read the clock before it drew its id.
const drawn = "interval '10 minutes'"

// firstSince finds the first id of a table that was enqueued at a moment or later, by halves; the last row of the clause has it.
func firstSince(name, table, moment string) string {
	return fmt.Sprintf(`%[1]s(lo, hi) as (
		select 0::bigint, coalesce((select j.id from %[2]s as j order by j.id desc limit 1), 0) + 1
		union all
		select case when coalesce(p.late, true) then s.lo else p.id + 1 end, case when coalesce(p.late, true) then s.mid else s.hi end
		from (select b.lo, b.hi, (b.lo + b.hi) / 2 as mid from %[1]s as b where b.lo < b.hi) as s
		left join lateral (select j.id, j.created_at >= %[3]s as late from %[2]s as j where j.id >= s.mid order by j.id limit 1) as p on true)`,
		name, table, moment)
}

func fixed(condition string) try { return func(*arguments) string { return condition } }

func (f Filter) isText(column, value string) try {
	if value == "" {
		return nil
	}
	return func(args *arguments) string { return "c." + column + " = " + args.add(value, "text") }
}

func (f Filter) sinceAndUntil(column string) (tries []try) {
	if f.Since != nil {
		tries = append(tries, func(args *arguments) string { return column + " >= " + args.add(*f.Since, "timestamptz") })
	}
	if f.Until != nil {
		tries = append(tries, func(args *arguments) string { return column + " < " + args.add(*f.Until, "timestamptz") })
	}
	return tries
}

func (f Filter) failedWith(column string) try {
	if f.Error == "" {
		return nil
	}
	return func(args *arguments) string {
		return "strpos(" + column + " ->> 'message', " + args.add(f.Error, "text") + ") > 0"
	}
}

// searched looks for the text in columns, and in a table of notes. Those are few, and looked through once.
func (f Filter) searched(columns, notes string) []try {
	if f.Search == "" {
		return nil
	}
	return []try{func(args *arguments) string {
		text, collation := args.add(f.Search, "text"), ""
		if strings.IndexFunc(f.Search, func(r rune) bool { return r > unicode.MaxASCII }) < 0 { // only such letters matter, and those are found sooner
			collation = ` collate "C"`
		}
		has := func(value string) string {
			return fmt.Sprintf("strpos(lower(%s%s), lower(%s%s)) > 0", value, collation, text, collation)
		}
		condition := has("concat_ws(' ', " + columns + ")")
		if notes != "" {
			condition += " or c.id in (select n.job_id from " + notes + " as n where " + has("n.note") + ")"
		}
		return "(" + condition + ")"
	}}
}

// BulkJSON is the filter as pgtick.retry_where and pgtick.cancel_where read it, without what they know nothing of: Search, and Error where jobs are
// to be cancelled. Times go by the end of jobs that are to be retried, and by the enqueueing of those to be cancelled.
func (f Filter) BulkJSON(retry bool) ([]byte, error) {
	fields := map[string]any{}
	for name, value := range map[string]string{"state": f.State, "task": f.Task, "queue": f.Queue, "owner_id": f.OwnerID, "schedule": f.Schedule, "error": f.Error} {
		if value != "" && (retry || name != "error") {
			fields[name] = value
		}
	}
	if f.Batch != 0 {
		fields["batch"] = f.Batch
	}
	at := "created"
	if retry {
		at = "finished"
	}
	if f.Since != nil {
		fields[at+"_after"] = *f.Since
	}
	if f.Until != nil {
		fields[at+"_before"] = *f.Until
	}
	return json.Marshal(fields)
}

// CountBulk counts the jobs that retry_where or cancel_where would meet now, and stops at so many.
func CountBulk(ctx context.Context, db DB, f Filter, retry bool, most int) (n int, err error) {
	var args arguments
	table, conditions, at := "pgtick.live_jobs", []string{"true"}, "c.created_at"
	if retry {
		table, at = "pgtick.history", "c.finished_at"
		conditions = append(conditions, "c.state <> 'done'", "c.state = "+args.add(cmp.Or(f.State, "failed"), "text"))
	} else if f.State != "" {
		conditions = append(conditions, fmt.Sprintf("(c.runner_id is null) = %t", f.State == "ready"))
	}
	tries := append([]try{f.isText("task", f.Task), f.isText("queue", f.Queue)}, f.sinceAndUntil(at)...)
	for _, t := range slices.DeleteFunc(tries, func(t try) bool { return t == nil }) {
		conditions = append(conditions, t(&args))
	}
	if f.OwnerID != "" {
		conditions = append(conditions, "c.owner_id = "+args.add(f.OwnerID, "text::uuid"))
	}
	if f.Schedule != "" {
		conditions = append(conditions, "c.schedule_id = (select s.id from pgtick.schedule_defs as s where s.name = "+args.add(f.Schedule, "text")+")")
	}
	if f.Batch != 0 {
		conditions = append(conditions, "c.batch_id = "+args.add(f.Batch, "bigint"))
	}
	if f.Error != "" && retry {
		conditions = append(conditions, "strpos(c.error ->> 'message', "+args.add(f.Error, "text")+") > 0")
	}
	err = db.QueryRow(ctx, fmt.Sprintf("select count(*) from (select from %s as c where %s limit %d) as x", table, strings.Join(conditions, " and "), most), args...).Scan(&n)
	return n, failed("count the jobs", err)
}

// Attempts are the rows of pgtick.attempts of a job, the first attempt first, as JSON.
func Attempts(ctx context.Context, db DB, id int64) ([]json.RawMessage, error) {
	return jsonRows[json.RawMessage](ctx, db, "read the attempts", `select row_to_json(a)::text from pgtick.attempts as a where a.job_id = $1::bigint order by a.attempt`, id)
}

// WhyJob says why a job is not running, the weightiest reason first. It fails with ErrNoJob where there is none of that id.
func WhyJob(ctx context.Context, db DB, id int64) ([]Why, error) {
	return jsonRows[Why](ctx, db, "ask why", `select row_to_json(w)::text from pgtick.why($1::bigint) as w order by w.rank`, id)
}

// Tie is another job that one waits for, or that waits for it.
type Tie struct {
	ID    int64  `json:"id"`
	Task  string `json:"task"`
	State string `json:"state"` // gone: it has been dropped since
}

// Ties are what a job has to do with others.
type Ties struct {
	WaitsFor []Tie           `json:"waits_for"` // that it was to wait for, the first hundred
	WaitedBy []Tie           `json:"waited_by"` // that wait for it now, the first hundred
	Batches  json.RawMessage `json:"batches"`   // of pgtick.batches: the one that it is part of, and the one whose callback it is
	Ahead    *int            `json:"ahead"`     // of its sequence: how many live jobs come before it
	Stopped  *int64          `json:"stopped"`   // and the job that holds the sequence up
}

// TiesOf reads what ties a job to others.
func TiesOf(ctx context.Context, db DB, j JobView) (t Ties, err error) {
	if t.WaitsFor, err = jsonRows[Tie](ctx, db, "read the jobs that it waits for", `select json_build_object('id', a.id, 'task', coalesce(j.task, ''), 'state', coalesce(j.state, 'gone'))::text
		from unnest($1::bigint[]) with ordinality as a(id, place) left join lateral (select x.task, x.state from pgtick.jobs as x where x.id = a.id) as j on true
		order by a.place limit 100`, j.After); err != nil {
		return t, err
	}
	if t.WaitedBy, err = jsonRows[Tie](ctx, db, "read the jobs that wait for it", `select json_build_object('id', j.id, 'task', j.task, 'state', j.state)::text
		from (select l.job_id from pgtick.job_links as l where l.on_job_id = $1::bigint order by l.job_id limit 100) as l
		cross join lateral (select x.id, x.task, x.state from pgtick.jobs as x where x.id = l.job_id) as j order by j.id`, j.ID); err != nil {
		return t, err
	}
	err = db.QueryRow(ctx, `select coalesce((select json_agg(b order by b.id) from pgtick.batches as b
			where b.id = any (array(select d.id from pgtick.batch_defs as d where d.id = $2::bigint or d.job_id = $1::bigint))), '[]')::text,
		case when $3::text <> '' then (select count(*) from (select from pgtick.live_jobs as x where x.sequence_key = $3::text and x.id + 0 < $1::bigint limit 1000) as y) end,
		(select s.stops[1] from pgtick.sequences as s where s.key = $3::text)`, j.ID, j.BatchID, j.SequenceKey).Scan(&t.Batches, &t.Ahead, &t.Stopped)
	return t, failed("read what ties the job to others", err)
}

// QueueView is one row of pgtick.queues.
type QueueView struct {
	JSON json.RawMessage `json:"-"`

	Queue     string     `json:"queue"`
	Depth     int64      `json:"depth"`
	Oldest    *time.Time `json:"oldest"`
	Scheduled int64      `json:"scheduled"`
	Running   int64      `json:"running"`
	Runners   int        `json:"runners"`
	PausedAt  *time.Time `json:"paused_at"`
	PausedBy  string     `json:"paused_by"`
	Reason    string     `json:"reason"`
}

// Queues lists them by name, or the one with the given name.
func Queues(ctx context.Context, db DB, name *string) ([]QueueView, error) {
	rows, err := jsonRows[json.RawMessage](ctx, db, "read the queues", `select row_to_json(q)::text from pgtick.queues as q where $1::text is null or q.queue = $1::text order by q.queue`, name)
	if err != nil {
		return nil, err
	}
	all := make([]QueueView, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal(row, &all[i]); err != nil {
			return nil, failed("read the queues", err)
		}
		all[i].JSON = row
	}
	return all, nil
}

// Kind is what has names.
type Kind string

// The kinds of names.
const (
	Tasks         Kind = "task"
	QueueNames    Kind = "queue"
	ScheduleNames Kind = "schedule"
)

// Tasks and queues are names that nothing has to declare: they are those of live jobs, found by steps from one to the next, of what has ended
// (tasks alone), of runners, schedules and pauses.
var namesSQL = map[Kind]string{
	Tasks: `with recursive l(name) as (
			select (select min(j.task) from pgtick.live_jobs as j)
			union all select (select min(j.task) from pgtick.live_jobs as j where j.task > l.name) from l where l.name is not null),
		h(name) as (
			select (select min(j.task) from pgtick.history as j)
			union all select (select min(j.task) from pgtick.history as j where j.task > h.name) from h where h.name is not null)
		select l.name from l union select h.name from h union select unnest(r.tasks) from pgtick.runner_leases as r where r.ended_at is null
		union select s.task from pgtick.schedule_defs as s where s.removed_at is null`,
	QueueNames: `with recursive l(task, name) as (
			(select j.task, j.queue from pgtick.live_jobs as j order by j.task, j.queue limit 1)
			union all select n.task, n.queue from l cross join lateral (
				select j.task, j.queue from pgtick.live_jobs as j where (j.task, j.queue) > (l.task, l.name) order by j.task, j.queue limit 1) as n)
		select l.name from l union select unnest(r.queues) from pgtick.runner_leases as r where r.ended_at is null
		union select s.queue from pgtick.schedule_defs as s where s.removed_at is null union select p.queue from pgtick.paused_queues as p`,
	ScheduleNames: `select s.name from pgtick.schedule_defs as s where s.removed_at is null`,
}

// Names lists those of a kind that begin so, a thousand at most.
func Names(ctx context.Context, db DB, kind Kind, begin string) ([]string, error) {
	all, err := jsonRows[string](ctx, db, "read the names", `select to_json(x.name)::text from (`+namesSQL[kind]+`) as x(name) where starts_with(x.name, $1::text) order by x.name limit 1000`, begin)
	return all, err
}

// Nearest tells whether a name of a kind is known, and otherwise which known one looks most like it; empty: none does.
func Nearest(ctx context.Context, db DB, kind Kind, name string) (known bool, near string, err error) {
	err = db.QueryRow(ctx, `select $1::text = any (n.names), coalesce(pgtick.nearest_name($1::text, n.names), '')
		from (select array(select x.name from (`+namesSQL[kind]+`) as x(name) where x.name is not null) as names) as n`, name).Scan(&known, &near)
	return known, near, failed("look for the name", err)
}

// Whole has lists in place of nulls, for JSON.
func (t Ties) Whole() Ties {
	t.WaitsFor, t.WaitedBy = append([]Tie{}, t.WaitsFor...), append([]Tie{}, t.WaitedBy...)
	if t.Batches == nil {
		t.Batches = json.RawMessage("[]")
	}
	return t
}
