package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// jobShown is the page of one job.
type jobShown struct {
	jobs.JobView
	Now      time.Time
	Line     jobLine
	Share    *float64 // how far it is, while it runs
	Note     string
	Kept     bool // arguments and the like are not for this person
	Why      []jobReason
	Facts    []jobFact
	Args     shownJSON
	Result   shownJSON
	Error    shownError
	Attempts []attemptShown
	Older    int    // attempts that are not kept any more
	Over     string // the length of the timeline
	Parents  []*kin
	Children []*kin
	Cut      bool // the tree has more
	Beside   besideJob
	Batches  []batchLinks
	Stopping bool // it has been asked to stop
	Ahead    string
	Stopper  *link // of its sequence
	Alike    string
	Copy     string
}

// reason is one of why.
type jobReason struct {
	Reason   string
	Evidence []jobWords
	Remedy   []jobWords
	Repairs  []jobRepair
}

// jobRepair is a button that does what a remedy says in SQL.
type jobRepair struct{ Action, Label, Field, Value string }

// words are a text, and where it leads when it names a job, a queue or the like.
type jobWords struct{ Text, Address string }

// fact is a setting, or a time.
type jobFact struct {
	Label   string
	Text    string
	Address string
	At      any // a time
	JSON    *shownJSON
}

// attemptShown is one attempt, and where it stands in the job's life, in thousandths.
type attemptShown struct {
	Attempt    int             `json:"attempt"`
	StartedAt  *time.Time      `json:"started_at"`
	FinishedAt *time.Time      `json:"finished_at"`
	Runner     string          `json:"runner"`
	Outcome    string          `json:"outcome"`
	Raw        json.RawMessage `json:"error"`
	Error      shownError      `json:"-"`
	Took       string          `json:"-"`
	From       int             `json:"-"`
	Long       int             `json:"-"`
}

// batchLinks is a batch with where its jobs are.
type batchLinks struct {
	batchShown
	Callback string
	Counts   []jobFact
	Own      bool // the job is a part of it, and not its callback
}

func idOf(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, wrong("%q is no id of a job: ids are whole numbers, such as 4711", cutText(100, text))
	}
	return id, nil
}

func oneJob(ctx context.Context, db jobs.DB, id int64) (j jobs.JobView, err error) {
	found, err := jobLines(ctx, db, []int64{id}, true)
	switch {
	case err != nil:
		return j, err
	case len(found) == 0:
		return j, missing("There is no job %d. Finished jobs are dropped after 7 days (done) or 30 (failed, cancelled), or as pgtick.set_retention said.", id)
	}
	return found[0], nil
}

func loadJob(ctx context.Context, v *view) (any, error) {
	id, err := idOf(v.PathValue("id"))
	if err != nil {
		return nil, err
	}
	j, err := oneJob(ctx, v.DB, id)
	if err != nil {
		return nil, err
	}
	s := &jobShown{JobView: j, Kept: !v.SeesArgs(), Copy: fmt.Sprintf("%s/jobs/new?copy=%d", v.Base, id)}
	if s.Now, err = v.clock(ctx); err != nil {
		return nil, err
	}
	v.Title = fmt.Sprintf("Job %d %s: %s", id, j.State, j.Task)
	s.Line = lineOf(v, j, s.Now)
	s.Alike = s.Line.Alike
	s.Note = v.Text(j.Task, "note", j.Note)
	if j.State == "running" {
		s.Share = j.Progress
	}
	s.Args, s.Result, s.Error = v.JSON(j.Task, "args", j.Args), v.JSON(j.Task, "result", j.Result), v.Error(j.Task, j.LastError)
	if err := s.readAttempts(ctx, v); err != nil {
		return nil, err
	}
	if s.Beside, err = readBeside(ctx, v.DB, j); err != nil {
		return nil, err
	}
	s.Stopping = s.Beside.Cancel != "" && j.State == "running"
	s.sayAhead(v)
	if cancels(j) {
		if err := s.readWhy(ctx, v); err != nil {
			return nil, err
		}
	}
	if err := s.readTree(ctx, v); err != nil {
		return nil, err
	}
	s.Facts, s.Batches = factsOf(v, s), batchesOf(v, s)
	return s, nil
}

// sayAhead tells of its sequence.
func (s *jobShown) sayAhead(v *view) {
	ahead := s.Beside.Ahead
	if ahead == nil || s.FinishedAt != nil {
		return
	}
	switch s.Ahead = counted(*ahead, "live job") + " come before it"; *ahead {
	case 0:
		s.Ahead = "It is the first of those that live"
	case 1:
		s.Ahead = "1 live job comes before it"
	case mostAhead:
		s.Ahead = number(mostAhead) + " live jobs or more come before it"
	}
	if stopped := s.Beside.Stopped; stopped != nil {
		s.Stopper = &link{Label: fmt.Sprintf("job %d", *stopped), Address: jobAddress(v.Base, *stopped)}
	}
}

func (s *jobShown) readAttempts(ctx context.Context, v *view) error {
	rows, err := jobs.Attempts(ctx, v.DB, s.ID)
	if err != nil {
		return err
	}
	begin, end := s.CreatedAt, s.Now
	if s.FinishedAt != nil {
		end = *s.FinishedAt
	}
	for _, row := range rows {
		var a attemptShown
		if err := json.Unmarshal(row, &a); err != nil {
			return err
		}
		if a.FinishedAt == nil || s.FinishedAt == nil || !a.FinishedAt.Equal(*s.FinishedAt) { // that of the end stands above
			a.Error = v.Error(s.Task, a.Raw)
		}
		if a.StartedAt != nil {
			until := end
			if a.FinishedAt != nil {
				until = *a.FinishedAt
			}
			a.Took = lasting(max(until.Sub(*a.StartedAt), 0))
			a.From, a.Long = stretch(begin, end, *a.StartedAt, until)
		}
		s.Attempts = append(s.Attempts, a)
	}
	slices.Reverse(s.Attempts) // the latest matters most
	s.Over = lasting(max(end.Sub(begin), 0))
	s.Older = max(0, s.Attempt-len(s.Attempts))
	return nil
}

// shortest is what can still be seen of a timeline of a thousand.
const shortest = 6

// stretch is where in a span a part of it lies, in thousandths.
func stretch(begin, end, from, to time.Time) (at, long int) {
	whole := end.Sub(begin)
	if whole <= 0 {
		return 0, 1000
	}
	share := func(d time.Duration) int { return int(min(max(float64(d)/float64(whole), 0), 1) * 1000) }
	at = share(from.Sub(begin))
	long = max(share(to.Sub(begin))-at, shortest)
	return min(at, 1000-long), long
}

func (s *jobShown) readWhy(ctx context.Context, v *view) error {
	reasons, err := jobs.WhyJob(ctx, v.DB, s.ID)
	if err != nil {
		return err
	}
	hide := s.secrets(v)
	for _, w := range reasons {
		s.Why = append(s.Why, jobReason{w.Reason, v.linked(hide.Replace(w.Evidence)), v.linked(w.Remedy), s.repairs(w.Remedy)})
	}
	return nil
}

// secrets takes what this person may not see out of a text that the database has put together of it.
func (s *jobShown) secrets(v *view) *strings.Replacer {
	var pairs []string
	if note := v.Text(s.Task, "note", s.JobView.Note); note != s.JobView.Note {
		pairs = append(pairs, s.JobView.Note, hiddenValue)
	}
	if raw := jobs.ErrorMessage(s.LastError); raw != "" && v.Error(s.Task, s.LastError).Message != raw {
		pairs = append(pairs, raw, hiddenValue)
	}
	if key := s.LimitKey; key != "" && v.Text(s.Task, "limit_key", key) != key {
		pairs = append(pairs, key, hiddenValue)
	}
	if key := s.SequenceKey; key != "" && v.Text(s.Task, "sequence_key", key) != key {
		pairs = append(pairs, key, hiddenValue)
	}
	return strings.NewReplacer(pairs...)
}

// remedies are the forms of a remedy that a button can stand for, each from its beginning on: what else is in the text may be a name that somebody chose.
var remedies = []struct {
	form                 *regexp.Regexp
	action, label, field string
}{
	{regexp.MustCompile(`^select pgtick\.retry\((\d+)\);`), "jobs/retry", "Retry job %s", "id"},
	{regexp.MustCompile(`^select \* from pgtick\.why\(\d+\); or select pgtick\.cancel\((\d+)\);$`), "jobs/cancel", "Cancel job %s", "id"},
	{regexp.MustCompile(`^select pgtick\.resume_queue\('((?:[^'\\]|'')*)'\);$`), "queues/resume", "Resume queue %s", "queue"},
	{regexp.MustCompile(`^select pgtick\.retry\(\d+\); or go on without it: select pgtick\.resume_sequence\('((?:[^'\\]|'')*)'\);$`), "jobs/resume-sequence", "Go on without it", "key"},
}

// repairs are the buttons for a remedy; those for the job itself stand at the head of the page.
func (s *jobShown) repairs(remedy string) (all []jobRepair) {
	for _, r := range remedies {
		found := r.form.FindStringSubmatch(remedy)
		if found == nil || r.field == "id" && found[1] == strconv.FormatInt(s.ID, 10) {
			continue
		}
		value := strings.ReplaceAll(found[1], "''", "'")
		label := r.label
		if strings.Contains(label, "%s") {
			label = fmt.Sprintf(label, visibleText(value))
		}
		all = append(all, jobRepair{r.action, label, r.field, value})
	}
	return all
}

// namedInReasons finds the jobs that the database's reasons name: as "job 5", "5 (ready)", "pgtick.why(5)" and the like.
var namedInReasons = regexp.MustCompile(`\b(?:job (\d{1,19})\b|(\d{1,19}) \((?:ready|running|blocked by [a-z]+)\)|pgtick\.(?:why|retry|cancel)\((\d{1,19})\))`)

// linked is a text with links to the jobs that it names.
func (v *view) linked(text string) (all []jobWords) {
	rest := 0
	for _, m := range namedInReasons.FindAllStringSubmatchIndex(text, -1) {
		if m[0] > rest {
			all = append(all, jobWords{Text: text[rest:m[0]]})
		}
		address := ""
		for group := 1; group <= 3; group++ {
			if m[2*group] >= 0 {
				address = v.Base + "/jobs/" + text[m[2*group]:m[2*group+1]]
			}
		}
		all = append(all, jobWords{text[m[0]:m[1]], address})
		rest = m[1]
	}
	if rest < len(text) {
		all = append(all, jobWords{Text: text[rest:]})
	}
	return all
}

// factsOf are the job's settings and times, but for what stands elsewhere on its page.
func factsOf(v *view, s *jobShown) (all []jobFact) {
	j := s.JobView
	list := func(name, value string) string { return v.Base + jobFilter{}.with(name, value).address() }
	all = append(all,
		jobFact{Label: "Queue", Text: j.Queue, Address: v.Base + "/queues"},
		jobFact{Label: "Attempts", Text: attemptWords(j)},
		jobFact{Label: "Priority", Text: strconv.Itoa(j.Priority)},
		jobFact{Label: "Enqueued", At: j.CreatedAt})
	if j.State == "ready" {
		all = append(all, jobFact{Label: "Due", At: j.RunAt})
	}
	if j.WantedAt != nil {
		all = append(all, jobFact{Label: "Due once unblocked", At: *j.WantedAt})
	}
	if j.StartedAt != nil {
		all = append(all, jobFact{Label: "Started", At: j.StartedAt})
	}
	if j.FinishedAt != nil {
		all = append(all, jobFact{Label: "Ended", At: j.FinishedAt})
	}
	if took := s.Line.Took; took != "" {
		all = append(all, jobFact{Label: "Took", Text: took})
	}
	all = append(all, jobFact{Label: "Timeout", Text: j.Timeout})
	if j.RunnerID != nil {
		all = append(all, jobFact{Label: "Runner", Text: fmt.Sprintf("%s (%d)", cmp.Or(s.Beside.Runner, "forgotten"), *j.RunnerID), Address: v.Base + "/runners"})
	}
	if j.Schedule != "" {
		all = append(all, jobFact{Label: "Schedule", Text: j.Schedule, Address: v.Base + "/schedule?" + url.Values{"name": {j.Schedule}}.Encode()},
			jobFact{Label: "Slot", At: slotOf(j)}, jobFact{Label: "Others of the schedule", Text: "jobs of its slots", Address: list("schedule", j.Schedule)})
	}
	if j.OwnerID != "" {
		all = append(all, jobFact{Label: "Owner", Text: j.OwnerID, Address: list("owner", j.OwnerID)})
	}
	for _, key := range []struct{ label, name, value string }{{"Unique key", "unique_key", j.UniqueKey}, {"Limit key", "limit_key", j.LimitKey}, {"Sequence", "sequence_key", j.SequenceKey}} {
		if key.value != "" {
			all = append(all, jobFact{Label: key.label, Text: v.Text(j.Task, key.name, key.value)})
		}
	}
	for _, value := range []struct {
		label string
		json  []byte
	}{{"Retry policy", j.RetryPolicy}, {"Trace", j.Trace}} {
		if len(value.json) > 0 && string(value.json) != "null" {
			all = append(all, jobFact{Label: value.label, Text: oneLine(string(value.json))})
		}
	}
	return all
}

func slotOf(j jobs.JobView) any {
	if j.Slot == nil {
		return nil
	}
	return *j.Slot
}

func attemptWords(j jobs.JobView) string {
	text := fmt.Sprintf("%d of %d", j.Attempt-j.Uncounted, j.MaxAttempts)
	if j.Uncounted > 0 {
		text += fmt.Sprintf(", and %d not counted", j.Uncounted)
	}
	return text
}

func batchesOf(v *view, s *jobShown) (all []batchLinks) {
	for _, b := range s.Beside.Batches {
		l := batchLinks{batchShown: b, Own: s.BatchID != nil && *s.BatchID == b.ID}
		if b.JobID != nil && *b.JobID != s.ID {
			l.Callback = jobAddress(v.Base, *b.JobID)
		}
		address := func(state string) string {
			return v.Base + jobFilter{}.with("batch", strconv.FormatInt(b.ID, 10), "state", state).address("state", state)
		}
		l.Counts = append(l.Counts, jobFact{Label: "live", Text: upTo(b.Live), Address: address("")})
		for _, state := range []string{"done", "failed", "cancelled"} {
			l.Counts = append(l.Counts, jobFact{Label: state, Text: upTo(b.Ended[state]), Address: address(state)})
		}
		all = append(all, l)
	}
	return all
}

// upTo is a number that was counted so far only.
func upTo(n int) string {
	if n > mostInBatch {
		return number(mostInBatch) + "+"
	}
	return number(n)
}
