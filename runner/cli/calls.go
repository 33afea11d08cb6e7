package cli

import (
	"github.com/pgtick/pgtick/runner/config"
	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/httptask"
)

// withCalls adds the task http, which depends on the settings, to the others.
func withCalls(others *tasks.Registry, cfg config.Config) *tasks.Registry {
	all := tasks.NewRegistry()
	httptask.Register(all, cfg.Calls)
	all.Merge(others)
	return all
}
