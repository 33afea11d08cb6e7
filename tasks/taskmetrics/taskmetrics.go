// Package taskmetrics counts and times attempts for Prometheus, in a registry of yours.
//
//	registry.Use(taskmetrics.Middleware(prometheus.DefaultRegisterer))
//
// A runner serves figures of its own at /metrics, by task too; these are for programs that have a registry, and labels, of their own.
package taskmetrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgtick/pgtick/tasks"
)

// Middleware counts attempts in pgtick_task_attempts_total and times them in pgtick_task_attempt_seconds, both by task and outcome
// (tasks.Outcome), and shows in pgtick_task_attempts_running how many run. Several may share a registerer. It panics where that has metrics
// of these names and another kind: a mistake in the program.
func Middleware(into prometheus.Registerer) tasks.Middleware {
	attempts := register(into, prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "pgtick", Name: "task_attempts_total", Help: "Attempts that have ended: done, error, failed, snoozed, cancelled, released, fenced.",
	}, []string{"task", "outcome"}))
	took := register(into, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "pgtick", Name: "task_attempt_seconds", Help: "Time that attempts took, their transaction included.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 11),
	}, []string{"task", "outcome"}))
	running := register(into, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "pgtick", Name: "task_attempts_running", Help: "Attempts that run.",
	}, []string{"task"}))
	return func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			now := running.WithLabelValues(call.Info.Task)
			now.Inc()
			defer now.Dec()
			started := time.Now()
			err := next(ctx, call)
			outcome := tasks.Outcome(context.Cause(ctx), err)
			attempts.WithLabelValues(call.Info.Task, outcome).Inc()
			took.WithLabelValues(call.Info.Task, outcome).Observe(time.Since(started).Seconds())
			return err
		}
	}
}

// register returns the collector that counts: this one, or the one of an earlier middleware.
func register[C prometheus.Collector](into prometheus.Registerer, collector C) C {
	err := into.Register(collector)
	if err == nil {
		return collector
	}
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if earlier, same := there.ExistingCollector.(C); same {
			return earlier
		}
	}
	panic("taskmetrics: " + err.Error())
}
