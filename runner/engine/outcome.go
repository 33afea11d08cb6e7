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
	var permanent *tasks.PermanentError
	var cancel *tasks.CancelError
	var again *tasks.RetryError
	switch {
	case err == nil:
		return jobs.Outcome{Name: "done", Result: storable(result)}, ""
	case errors.Is(err, tasks.ErrFenced) || errors.Is(cause, tasks.ErrFenced):
		return jobs.Outcome{}, "fenced"
	case errors.As(err, &cancel):
		return jobs.Outcome{Name: "cancelled", Error: describe(err)}, ""
	case errors.As(err, &snooze):
		return jobs.Outcome{Name: "snoozed", Delay: snooze.Delay}, ""
	case errors.As(err, &permanent):
		return jobs.Outcome{Name: "failed", Error: describe(err)}, ""
	case errors.Is(cause, tasks.ErrCancelled):
		return jobs.Outcome{Name: "cancelled", Error: describe(errors.Join(cause, err))}, ""
	case errors.Is(cause, tasks.ErrShutdown):
		return jobs.Outcome{Name: "released", Error: describe(errors.Join(cause, err))}, ""
	case errors.Is(cause, tasks.ErrTimeout):
		return jobs.Outcome{Name: "error", Error: describe(errors.Join(cause, err))}, ""
	case errors.As(err, &again):
		return jobs.Outcome{Name: "error", Error: describe(err), Delay: max(again.Delay, 0)}, ""
	default:
		return jobs.Outcome{Name: "error", Error: describe(err)}, ""
	}
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
