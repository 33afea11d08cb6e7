package web

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/pgtick/pgtick/runner/jobs"
)

func queuesPages() []page {
	return []page{{Path: "/queues", Nav: "/queues", Title: "Queues", Template: "queues.html", Live: true, Load: loadQueues}}
}

func queuesActions() []action {
	again := func(*doing) string { return "/queues" }
	return []action{
		{Name: "queues/pause", Run: pauseOneQueue, Again: again},
		{Name: "queues/resume", Run: resumeOneQueue},
		{Name: "limits/set", Run: setOneLimit, Again: again},
		{Name: "limits/remove", Run: removeOneLimit},
	}
}

// queuesShown is what the template of the queues gets.
type queuesShown struct {
	Queues []queueDepth
	Limits []limitRow
	Tasks  []string
	Names  []string
	Form   url.Values // of the limit
	PerKey bool
	Most   int // jobs of a lane are counted
}

func loadQueues(ctx context.Context, v *view) (any, error) {
	var q queuesShown
	var err error
	if v.Now, err = jobs.Now(ctx, v.DB); err != nil {
		return nil, err
	}
	if q.Queues, err = queueDepths(ctx, v.DB); err != nil {
		return nil, err
	}
	limits, err := taskLimits(ctx, v.DB)
	if err != nil {
		return nil, err
	}
	for _, l := range limits {
		q.Limits = append(q.Limits, limitRow{l})
	}
	if v.Person.Operator {
		if q.Tasks, err = jobs.Names(ctx, v.DB, jobs.Tasks, ""); err != nil {
			return nil, err
		}
		q.Names, err = jobs.Names(ctx, v.DB, jobs.QueueNames, "")
	}
	q.Form, q.Most = v.Query, countedMost
	q.PerKey = v.FormOr("per_key", v.Query.Get("per_key")) != ""
	return q, err
}

// Count is a number of the queue's jobs, with what says that there may be more.
func (q queueDepth) Count(n int64) string {
	if q.AtLeast && n > 0 {
		return number(n) + "+"
	}
	return number(n)
}

// State says in a word how it stands.
func (q queueDepth) State() string {
	switch {
	case q.PausedAt != nil:
		return "paused"
	case q.Runners == 0:
		return "unserved"
	}
	return "ok"
}

// Listed is the address of its jobs in a state, without the base.
func (q queueDepth) Listed(state string) string {
	return "/jobs?" + url.Values{"queue": {q.Queue}, "state": {state}}.Encode()
}

// ID is for the row: a queue may have any name.
func (q queueDepth) ID() string { return "queue-" + url.QueryEscape(q.Queue) }

func pauseOneQueue(ctx context.Context, d *doing) (string, error) {
	queue, reason := d.Form.Get("queue"), strings.TrimSpace(d.Form.Get("reason"))
	if reason == "" {
		return "", refuse("reason", "Say why: who finds the queue paused wants to know.")
	}
	before, err := pauseOf(ctx, d.DB, queue)
	if err != nil {
		return "", err
	}
	if before != nil {
		return fmt.Sprintf("%s is paused already, by %s%s.", visibleText(queue), visibleText(before.PausedBy), because(before.Reason)), nil
	}
	known, near, err := jobs.Nearest(ctx, d.DB, jobs.QueueNames, queue)
	if err != nil {
		return "", err
	}
	if !known && d.Form.Get("anyway") == "" {
		return "", refuse("queue", "Nothing has queue %q%s. Tick “before its first job” to pause it all the same.", queue, meant(near))
	}
	if err := jobs.PauseQueue(ctx, d.DB, queue, reason); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is paused until it is resumed; what runs goes on.", visibleText(queue)), nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + visibleText(reason)
}

func meant(near string) string {
	if near == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", near)
}

func resumeOneQueue(ctx context.Context, d *doing) (string, error) {
	queue := d.Form.Get("queue")
	before, err := pauseOf(ctx, d.DB, queue)
	if err != nil {
		return "", err
	}
	if before == nil {
		return fmt.Sprintf("%s was not paused.", visibleText(queue)), nil
	}
	return fmt.Sprintf("%s is resumed.", visibleText(queue)), jobs.ResumeQueue(ctx, d.DB, queue)
}

// Limits ---------------------------------------------------------------------------------------------------------------------------

// limitRow is a limit in words.
type limitRow struct{ taskLimit }

// Of says what it counts.
func (l limitRow) Of() string {
	if l.PerKey {
		return "each limit key"
	}
	return "all its jobs"
}

// Pace is its rate in words.
func (l limitRow) Pace() string {
	if l.Rate == 0 {
		return ""
	}
	period := intervalWords(l.Period)
	if one, is := strings.CutPrefix(period, "1 "); is {
		period = one
	}
	return fmt.Sprintf("%s per %s", number(l.Rate), period)
}

// Source says where it comes from.
func (l limitRow) Source() string {
	if l.Declared {
		return "a runner's code"
	}
	return l.SetBy
}

// More tells that not all keys in use are shown.
func (l limitRow) More() bool { return len(l.Keys) > mostKeys }

// Shown are the first keys in use.
func (l limitRow) Shown() []keyUse { return l.Keys[:min(len(l.Keys), mostKeys)] }

// ID is for the row.
func (l limitRow) ID() string { return fmt.Sprintf("limit-%s-%t", url.QueryEscape(l.Task), l.PerKey) }

// Edited is the address at which the form has it, without the base.
func (l limitRow) Edited() string {
	values := url.Values{"task": {l.Task}}
	if l.PerKey {
		values.Set("per_key", "1")
	}
	if l.Rate > 0 {
		values.Set("rate", strconv.FormatInt(l.Rate, 10))
		values.Set("period", intervalWords(l.Period))
		values.Set("burst", strconv.FormatInt(l.Burst, 10))
	}
	if l.MaxRunning > 0 {
		values.Set("max_running", strconv.Itoa(l.MaxRunning))
	}
	return "/queues?" + values.Encode() + "#limit"
}

func setOneLimit(ctx context.Context, d *doing) (string, error) {
	var numbers [3]*int64
	for i, field := range []string{"rate", "burst", "max_running"} {
		text := strings.TrimSpace(d.Form.Get(field))
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n != int64(int32(n)) { //nolint:gosec // that is what is asked
			return "", refuse(field, "%s %q is no whole number that a limit could have.", field, text)
		}
		numbers[i] = &n
	}
	var period *string
	if text := strings.TrimSpace(d.Form.Get("period")); text != "" {
		if err := readField(ctx, d.DB, "period", text, "interval"); err != nil {
			return "", err
		}
		period = &text
	}
	task, perKey := d.Form.Get("task"), d.Form.Get("per_key") != ""
	if err := setLimit(ctx, d.DB, task, numbers[0], numbers[1], numbers[2], period, perKey); err != nil {
		return "", err
	}
	d.Note(task, map[string]bool{"per_key": perKey})
	d.Go("/queues#limits")
	return fmt.Sprintf("%s is limited from now on, on all runners together.", visibleText(task)), nil
}

func removeOneLimit(ctx context.Context, d *doing) (string, error) {
	task, perKey := d.Form.Get("task"), d.Form.Get("per_key") == "true"
	if err := removeLimit(ctx, d.DB, task, perKey); err != nil {
		return "", err
	}
	d.Note(task, map[string]bool{"per_key": perKey})
	return fmt.Sprintf("The limit of %s is taken away. One that is declared in code comes back with the next start of a runner.", visibleText(task)), nil
}
