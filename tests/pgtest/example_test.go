package pgtest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tests/exampletest"
	"github.com/pgtick/pgtick/tests/pgtest"
)

// Welcome is what a job's args hold.
type Welcome struct {
	User string `json:"user"`
}

func sendWelcome(_ context.Context, job *tasks.Job[Welcome]) error {
	if job.Args.User == "" {
		return tasks.Permanent(errors.New("there is nobody to welcome"))
	}
	if job.Attempt == 1 {
		return errors.New("the mail server is busy")
	}
	return job.SetResult(map[string]string{"sent_to": job.Args.User})
}

// One attempt, in this process and without a database.
func ExampleRunFunc() {
	t, end := exampletest.New() // in a test of yours: its *testing.T
	defer end()

	first := pgtest.RunFunc(t, sendWelcome, Welcome{User: "ann"})
	fmt.Println(first.Outcome, first.Err)

	second := pgtest.RunFunc(t, sendWelcome, Welcome{User: "ann"}, func(job *tasks.Info) { job.Attempt = 2 })
	fmt.Println(second.Outcome, string(second.Result))

	nobody := pgtest.RunFunc(t, sendWelcome, Welcome{})
	fmt.Println(nobody.Outcome, nobody.Err)
	// Output:
	// error the mail server is busy
	// done {"sent_to":"ann"}
	// failed there is nobody to welcome
}

// Jobs on a real database, with a clock that the test sets.
func ExampleDB_Work() {
	t, end := exampletest.New() // in a test of yours: its *testing.T
	defer end()
	registry := tasks.NewRegistry()
	tasks.Register(registry, "email.welcome", sendWelcome)
	db := pgtest.New(t)

	id := db.Enqueue(t, "email.welcome", Welcome{User: "ann"}, tasks.Delay(time.Hour))
	fmt.Println(db.Work(t, registry), "attempts: it is not due")

	db.Advance(t, time.Hour)
	fmt.Println(db.Work(t, registry), "attempt:", db.Job(t, id).Error)

	db.Advance(t, time.Minute) // over the retry policy's first wait
	fmt.Println(db.Work(t, registry), "attempt:", db.Job(t, id).State, string(db.Job(t, id).Result))
	// Output:
	// 0 attempts: it is not due
	// 1 attempt: the mail server is busy
	// 1 attempt: done {"sent_to": "ann"}
}
