package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/pgtick/pgtick/runner/jobs"
	"github.com/pgtick/pgtick/tasks"
)

// judge turns what a task returned, and why its context ended (cause, or nil), into the outcome to report. Where the claim is gone
// there is none, and silent says so.
func judge(cause, err error, result json.RawMessage) (outcome jobs.Outcome, silent string) {
	var snooze *tasks.SnoozeError
	var again *tasks.RetryError
	outcome.Name = tasks.Outcome(cause, err)
	switch outcome.Name {
	case "fenced":
		return jobs.Outcome{}, "fenced"
	case "done":
		outcome.Result = storable(result)
	case "snoozed":
		errors.As(err, &snooze)
		outcome.Delay = snooze.Delay
	case "error":
		if gone := new(unavailable); cause == nil && errors.As(err, &gone) {
			outcome.Name, outcome.Delay = "released", troubleMost
		}
		if !errors.Is(cause, tasks.ErrTimeout) && errors.As(err, &again) {
			outcome.Delay = max(again.Delay, 0)
		}
		outcome.Error = describe(withCause(cause, err))
	default:
		outcome.Error = describe(withCause(cause, err))
	}
	return outcome, ""
}

// withCause tells of a stop from outside as well, unless the task has ended the job by its own word.
func withCause(cause, err error) error {
	var permanent *tasks.PermanentError
	var cancel *tasks.CancelError
	if errors.As(err, &permanent) || errors.As(err, &cancel) {
		return err
	}
	for _, stop := range []error{tasks.ErrCancelled, tasks.ErrShutdown, tasks.ErrTimeout} {
		if errors.Is(cause, stop) {
			return errors.Join(cause, err)
		}
	}
	return err
}

// describe is an error as the database keeps it. The limits leave room for the database's own, which cut without looking.
func describe(err error) json.RawMessage {
	text := struct {
		Message string `json:"message"`
		Stack   string `json:"stack,omitempty"`
	}{Message: cut(err.Error(), 2000)}
	if panicked := new(tasks.PanicError); errors.As(err, &panicked) {
		text.Stack = cut(string(panicked.Stack), 5500)
	}
	out, _ := json.Marshal(text) // two strings: it cannot fail
	return storable(out)
}

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// storable replaces \u0000, which JSON may hold and jsonb may not.
func storable(text json.RawMessage) json.RawMessage {
	if !bytes.Contains(text, []byte(`\u0000`)) {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != '\\' || i+1 == len(text):
			out.WriteByte(text[i])
		case bytes.HasPrefix(text[i:], []byte(`\u0000`)):
			out.WriteString(`\ufffd`)
			i += 5
		default: // another escape: its second byte may be a backslash, so take both
			out.Write(text[i : i+2])
			i++
		}
	}
	return json.RawMessage(out.String())
}
