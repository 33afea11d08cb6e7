// Command own-task is a runner with a task of its own, beside those that every runner has.
package main

import (
	"context"

	"github.com/pgtick/pgtick/runner/cli"
	"github.com/pgtick/pgtick/tasks"
)

// Welcome is what a job's args hold.
type Welcome struct {
	User string `json:"user"`
}

func main() {
	registry := tasks.NewRegistry()
	tasks.Register(registry, "email.welcome", func(_ context.Context, job *tasks.Job[Welcome]) error {
		job.Log.Info("here the mail would be sent")
		return job.SetResult(map[string]string{"sent_to": job.Args.User})
	})
	cli.Main(registry)
}
