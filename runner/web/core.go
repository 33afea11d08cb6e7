package web

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// corePages are those that stand beside the subjects.
func corePages() []page {
	return []page{
		{Path: "/", Nav: "/", Title: "Overview", Template: "overview.html", Live: true, Load: loadOverview},
		{Path: "/runners", Nav: "/runners", Title: "Runners", Template: "runners.html", Live: true, Load: loadRunners},
		{Path: "/actions", Nav: "/actions", Title: "Actions", Template: "actions.html", Live: true, Load: loadActions},
		{Path: "/keys", Nav: "/keys", Title: "Keys", Template: "keys.html"},
	}
}

// overviewShown is what somebody on call looks at first.
type overviewShown struct {
	Health   []broken
	Queues   []queueDepth
	Due      int64
	Running  int64
	AtLeast  bool
	Oldest   *time.Time
	Failures []failure
	Failed   int // in the last hour, failedMost at most
	Most     int
	Clocks   []clock
	Ticked   *time.Time
	Runners  runnersCounted
	Ended    int64 // jobs, in the last hour
	Spans    []link
	Charts   []chart
	Quiet    bool // nothing has ended in their time
}

func loadOverview(ctx context.Context, v *view) (any, error) {
	o := &overviewShown{Most: failedMost}
	span, err := spanOf(v.Query.Get("span"))
	if err != nil {
		return nil, err
	}
	facts, err := overviewFacts(ctx, v.DB, span)
	if err != nil {
		return nil, err
	}
	v.Now, o.Ended, o.Quiet = facts.Now, facts.Ended, len(facts.Counts) == 0
	o.Spans, o.Charts = spanLinks(v.Base, span), span.charts(facts.Counts, facts.Now)
	o.Clocks, o.Runners, o.Failed = facts.Clocks, facts.Runners, facts.Failed
	for _, c := range o.Clocks {
		if o.Ticked == nil || c.TickedAt.After(*o.Ticked) {
			o.Ticked = &c.TickedAt
		}
	}
	for _, f := range facts.Failures {
		f.Shown = v.Error(f.Task, f.Error)
		o.Failures = append(o.Failures, f)
	}
	if o.Queues, err = queueDepths(ctx, v.DB); err != nil {
		return nil, err
	}
	for _, q := range o.Queues {
		o.Due, o.Running, o.AtLeast = o.Due+q.Due, o.Running+q.Running, o.AtLeast || q.AtLeast
		if q.Oldest != nil && q.PausedAt == nil && (o.Oldest == nil || q.Oldest.Before(*o.Oldest)) {
			o.Oldest = q.Oldest
		}
	}
	if o.Health, err = v.database.health.read(ctx, v.DB); err != nil {
		return nil, err
	}
	return o, nil
}

// healthEvery is how often the promises are looked at: that takes longer than all else on the page.
const healthEvery = 10 * time.Second

// keptHealth keeps what does not hold for a while.
type keptHealth struct {
	mu   sync.Mutex
	rows []broken
	at   time.Time
}

func (k *keptHealth) read(ctx context.Context, db jobs.DB) ([]broken, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.at) < healthEvery {
		return k.rows, nil
	}
	rows, err := brokenPromises(ctx, db)
	if err != nil {
		return nil, err
	}
	k.rows, k.at = rows, time.Now()
	return rows, nil
}

// forget is for when somebody has acted, perhaps on one of them.
func (k *keptHealth) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at = time.Time{}
}

type runnersShown struct {
	Open  []runnerRow
	Ended []runnerRow
	Most  int
	Held  int
}

func loadRunners(ctx context.Context, v *view) (any, error) {
	rows, now, err := readRunners(ctx, v.DB)
	if err != nil {
		return nil, err
	}
	v.Now = now
	s := &runnersShown{Most: runnersMost}
	var own int64
	if v.database.Status != nil {
		status := v.database.Status()
		own, s.Held = status.RunnerID, status.Held
	}
	for _, r := range rows {
		if r.Own = own != 0 && r.ID == own; r.EndedAt == nil {
			s.Open = append(s.Open, r)
			continue
		}
		s.Ended = append(s.Ended, r)
	}
	return s, nil
}

type actionsShown struct {
	Subject string
	Rows    []actionRow
	Pager   pager
}

// actionsPerPage is how many rows of pgtick.audit a page has.
const actionsPerPage = 50

func loadActions(ctx context.Context, v *view) (any, error) {
	s := &actionsShown{Subject: v.Query.Get("subject")}
	before := int64(math.MaxInt64)
	if text := v.Query.Get("after"); text != "" {
		var err error
		if before, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, wrong("after: %q is not the number of a row: take the links below the list", text)
		}
		s.Pager.First = actionsAddress(v.Base, s.Subject, 0)
	}
	rows, err := readActions(ctx, v.DB, s.Subject, before, actionsPerPage+1)
	if err != nil {
		return nil, err
	}
	if len(rows) > actionsPerPage {
		rows = rows[:actionsPerPage]
		s.Pager.Next = actionsAddress(v.Base, s.Subject, rows[len(rows)-1].ID)
	}
	for i := range rows {
		rows[i].shown(v)
	}
	s.Rows = rows
	return s, nil
}

func actionsAddress(base, subject string, after int64) string {
	query := url.Values{}
	if subject != "" {
		query.Set("subject", subject)
	}
	if after != 0 {
		query.Set("after", fmt.Sprint(after))
	}
	if len(query) == 0 {
		return base + "/actions"
	}
	return base + "/actions?" + query.Encode()
}

// shown makes the details ready. Those of retry_with hold a job's arguments: where the job, and so its task, is not known any more, no rule
// can say what to hide of them.
func (r *actionRow) shown(v *view) {
	details := r.Details
	if r.Action == "retry_with" && r.Task == "" {
		var fields map[string]json.RawMessage
		if json.Unmarshal(details, &fields) == nil {
			delete(fields, "before")
			delete(fields, "after")
			details, _ = json.Marshal(fields)
		}
	}
	r.Shown = v.JSON(r.Task, "details", details)
}
