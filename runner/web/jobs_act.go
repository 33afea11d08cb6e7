package web

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pgtick/pgtick/runner/jobs"
)

func jobsActions() []action {
	return []action{
		{Name: "jobs/retry", Run: someJobs("retry", jobs.Retry, func(id int64, state string) string { return fmt.Sprintf("Job %d is %s.", id, state) })},
		{Name: "jobs/cancel", Run: someJobs("cancel", jobs.Cancel, cancelledText)},
		{Name: "jobs/retry-all", Run: allJobs(true)},
		{Name: "jobs/cancel-all", Run: allJobs(false)},
		{Name: "jobs/resume-sequence", Run: resumeOneSequence},
		{Name: "jobs/retry-with", Run: retryOneWith, Again: retryAgain},
		{Name: "jobs/new", Run: newJob, Again: func(d *doing) string {
			if id := d.Form.Get("copy"); id != "" {
				return "/jobs/new?" + url.Values{"copy": {id}}.Encode()
			}
			return "/jobs/new"
		}},
	}
}

func cancelledText(id int64, state string) string {
	if state == "running" {
		return fmt.Sprintf("Job %d has been asked to stop; it ends when its task does.", id)
	}
	return fmt.Sprintf("Job %d is %s.", id, state)
}

// mostAtOnce is how many jobs can be named in one form.
const mostAtOnce = 1000

// someJobs does something to jobs that are named, one after the other, whatever becomes of those before.
func someJobs(verb string, one func(context.Context, jobs.DB, int64) (string, error), tell func(int64, string) string) func(context.Context, *doing) (string, error) {
	return func(ctx context.Context, d *doing) (string, error) {
		ids, err := idsOf(d.Form["id"])
		if err != nil {
			return "", err
		}
		var last string
		var refused []error
		states := map[string]int{}
		for _, id := range ids {
			err := oneOfMany(ctx, d.DB, func() error {
				state, err := one(ctx, d.DB, id)
				if err == nil {
					last = tell(id, state)
					states[state]++
				}
				return err
			})
			if err != nil {
				refused = append(refused, err)
			}
		}
		d.Note(idsText(ids), map[string]any{"states": states, "refused": len(refused)})
		switch {
		case len(refused) == len(ids):
			return "", refused[0]
		case len(ids) == 1:
			return last, nil
		}
		return jobsSummary(verb, len(ids)-len(refused), refused), nil
	}
}

func jobsSummary(verb string, done int, refused []error) string {
	said := fmt.Sprintf("%s retried.", counted(done, "job"))
	if verb == "cancel" {
		said = fmt.Sprintf("%s cancelled, or asked to stop.", counted(done, "job"))
	}
	if len(refused) > 0 {
		said += fmt.Sprintf(" %s not: %s", counted(len(refused), "job"), problemOf(refused[0]).Message)
		if len(refused) > 1 {
			said += "; and so on"
		}
	}
	return said
}

func idsOf(texts []string) (ids []int64, err error) {
	for _, text := range texts {
		id, err := idOf(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	switch {
	case len(ids) == 0:
		return nil, errors.New("no job is chosen: tick the boxes of those that are meant")
	case len(ids) > mostAtOnce:
		return nil, fmt.Errorf("%d jobs are chosen, and %d is the most: use a filter, and all that fit", len(ids), mostAtOnce)
	}
	return ids, nil
}

// idsText is ids for the record.
func idsText(ids []int64) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = strconv.FormatInt(id, 10)
	}
	return strings.Join(texts, ", ")
}

func resumeOneSequence(ctx context.Context, d *doing) (string, error) {
	key := d.Form.Get("key")
	if key == "" {
		return "", errors.New("no sequence is named")
	}
	d.Note(key, nil)
	return fmt.Sprintf("Sequence %s goes on.", visibleText(key)), resumeSequence(ctx, d.DB, key)
}
