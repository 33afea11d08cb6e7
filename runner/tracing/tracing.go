// Package tracing sends a span of each attempt to a collector of OpenTelemetry, by OTLP over HTTP, where the environment names one.
//
// The variables are OpenTelemetry's own (OTEL_EXPORTER_OTLP_ENDPOINT and its kin). A collector that is away costs no job anything: spans wait in a
// queue of bounded length, and what does not fit is dropped. Stop sends what is left, and returns after a few seconds whatever happens.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/tasktrace"
)

const (
	stopWithin = 3 * time.Second
	sayEvery   = 10 * time.Minute // that spans do not arrive
)

// Tracing is what sends; nil is none.
type Tracing struct{ provider *trace.TracerProvider }

// Start begins to send where the environment says so, and returns nil where it does not, or where the program has a provider of its own. What is
// wrong with the variables is said in the log: they may be meant for others, and no job shall wait for them.
func Start(ctx context.Context, env func(string) (string, bool), version string, log *logrus.Logger) *Tracing {
	settings, err := read(env)
	if err != nil {
		log.WithError(err).Warn("no traces are sent")
	}
	if settings == nil || err != nil {
		return nil
	}
	if _, own := otel.GetTracerProvider().(*trace.TracerProvider); own {
		log.Info("traces are sent by the program's own provider")
		return nil
	}
	otel.SetErrorHandler(&teller{log: log})
	exporter, err := otlptrace.New(ctx, newClient(*settings))
	if err != nil {
		log.WithError(err).Warn("no traces are sent")
		return nil
	}
	t := &Tracing{trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(describe(ctx, version)))}
	otel.SetTracerProvider(t.provider)
	log.Infof("traces are sent to %s", settings.endpoint.Host)
	return t
}

// describe names the program; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before that.
func describe(ctx context.Context, version string) *resource.Resource {
	ours := resource.NewSchemaless(attribute.String("service.name", "pgtick"), attribute.String("service.version", version))
	found, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil && found == nil {
		return ours
	}
	merged, err := resource.Merge(ours, found)
	if err != nil {
		return ours
	}
	return merged
}

// Around puts the span around each attempt of these tasks.
func (t *Tracing) Around(all *tasks.Registry) {
	if t != nil {
		all.Use(tasktrace.Middleware(tasktrace.Options{}))
	}
}

// Stop sends what is left.
func (t *Tracing) Stop() {
	if t == nil {
		return
	}
	ctx, end := context.WithTimeout(context.Background(), stopWithin)
	defer end()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}

// teller says now and then that spans do not arrive.
type teller struct {
	log *logrus.Logger

	mu   sync.Mutex
	said time.Time
}

// Handle implements otel.ErrorHandler.
func (s *teller) Handle(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.said) < sayEvery {
		return
	}
	s.said = time.Now()
	s.log.WithField("error", fmt.Sprintf("%.300s", bare(err).Error())).Warn("traces do not arrive; jobs go on without")
}

// bare is an error without the address that it happened at, which may hold a password.
func bare(err error) error {
	if at := new(url.Error); errors.As(err, &at) {
		return at.Err
	}
	return err
}
