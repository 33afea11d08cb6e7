package web

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

// retryShown is the form for a retry with other arguments.
type retryShown struct {
	ID      int64
	Task    string
	State   string
	Attempt int
	Args    string
	Kept    shownJSON // the arguments, where some are hidden
	Hides   bool
	All     bool // hidden ones are to be replaced too
	Why     string
}

func loadRetry(ctx context.Context, v *view) (any, error) {
	id, err := idOf(v.PathValue("id"))
	if err != nil {
		return nil, err
	}
	j, err := oneJob(ctx, v.DB, id)
	if err != nil {
		return nil, err
	}
	v.Title = fmt.Sprintf("Retry job %d with other arguments", id)
	s := &retryShown{ID: id, Task: j.Task, State: j.State, Attempt: j.Attempt, All: v.FormOr("all", "") != ""}
	if !retries(j) {
		s.Why = fmt.Sprintf("Job %d is %s: only a failed, cancelled or waiting one can be retried.", id, j.State)
	}
	s.Args, s.Kept, s.Hides = v.argsToEdit(j)
	return s, nil
}

// argsToEdit are a job's arguments as a text to begin with. Where some of them are not shown there is none: what is put in its place would be
// taken for them.
func (v *view) argsToEdit(j jobs.JobView) (text string, kept shownJSON, hides bool) {
	shown := v.JSON(j.Task, "args", j.Args)
	if shown.Hidden > 0 || shown.Kept || !sameJSON(shown.Text, j.Args) {
		return "", shown, true
	}
	return shown.Text, shownJSON{}, false
}

func retryAgain(d *doing) string {
	if id, err := idOf(d.Form.Get("id")); err == nil {
		return fmt.Sprintf("/jobs/%d/retry", id)
	}
	return "/jobs"
}

// retryOneWith retries a job with the arguments that were given. The form says which attempt it was filled from: what somebody else did since is
// not undone unseen.
func retryOneWith(ctx context.Context, d *doing) (string, error) {
	id, err := idOf(d.Form.Get("id"))
	if err != nil {
		return "", err
	}
	args, err := newField{"args", "jsonb"}.read(d.Form.Get("args"), time.Time{})
	if err != nil {
		return "", err
	}
	j, err := oneJob(ctx, d.DB, id)
	if err != nil {
		return "", err
	}
	v := &view{Person: d.Person, database: d.database}
	_, _, hides := v.argsToEdit(j)
	switch {
	case d.Form.Get("attempt") != strconv.Itoa(j.Attempt):
		return "", refuse("attempt", "Somebody has retried job %d since you opened this form, and it has been tried again. Look at what has come of it; to retry it all the same, send the form again.", id)
	case args == "":
		return "", refuse("args", "Give the arguments, a JSON object such as {}.")
	case hides && d.Form.Get("all") == "":
		return "", refuse("all", "Some of its arguments are hidden here, and what you give takes the place of all of them. Tick the box if that is meant.")
	case !hides && sameJSON(args, j.Args):
		return "", refuse("args", "These are the arguments that it has. To retry it with them, use Retry on its page.")
	case strings.TrimSpace(d.Form.Get("reason")) == "":
		return "", refuse("reason", "Say why the arguments change, for the record.")
	}
	state, err := jobs.RetryWith(ctx, d.DB, id, args, strings.TrimSpace(d.Form.Get("reason")))
	if err != nil {
		return "", err
	}
	d.Go(fmt.Sprintf("/jobs/%d", id))
	return fmt.Sprintf("Job %d is %s, with other arguments.", id, state), nil
}
