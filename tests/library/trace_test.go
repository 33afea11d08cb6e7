package library_test

import (
	"context"
	"os/exec"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/tasktrace"
)

// tracer is OpenTelemetry's SDK, which keeps its spans in memory.
func tracer(t *testing.T) (*sdk.TracerProvider, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	return sdk.NewTracerProvider(sdk.WithSyncer(spans)), spans
}

func spanNamed(t *testing.T, spans *tracetest.InMemoryExporter, name string) tracetest.SpanStub {
	t.Helper()
	for _, span := range spans.GetSpans() {
		if span.Name == name {
			return span
		}
	}
	require.Fail(t, "there is no such span", name)
	return tracetest.SpanStub{}
}

func TestTrace_OfTheEnqueuer_IsThatOfTheRun_AndOfWhatTheRunEnqueues(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	provider, spans := tracer(t)
	registry := tasks.NewRegistry()
	registry.Use(tasktrace.Middleware(tasktrace.Options{Provider: provider}))
	tasks.RegisterTx(registry, "order.pay", func(ctx context.Context, tx pgx.Tx, _ *tasks.Job[none]) error {
		_, err := tasks.Enqueue(ctx, tx, "order.ship", nil)
		return err
	})
	tasks.Register(registry, "order.ship", func(ctx context.Context, job *tasks.Job[none]) error {
		return job.SetResult(trace.SpanContextFromContext(ctx).TraceID().String())
	})

	ctx, request := provider.Tracer("test").Start(t.Context(), "POST /orders")
	require.NoError(t, pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		_, err := tasks.Enqueue(ctx, tx, "order.pay", nil, tasktrace.Carry())
		return err
	}))
	request.End()
	require.Equal(t, 2, db.Work(t, registry))

	pay, ship := spanNamed(t, spans, "process order.pay"), spanNamed(t, spans, "process order.ship")
	require.Equal(t, request.SpanContext().TraceID(), pay.SpanContext.TraceID())
	require.Equal(t, request.SpanContext().SpanID(), pay.Parent.SpanID())
	require.Equal(t, trace.SpanKindConsumer, pay.SpanKind)
	require.Len(t, pay.Links, 1)
	require.Equal(t, request.SpanContext().SpanID(), pay.Links[0].SpanContext.SpanID())
	require.Equal(t, request.SpanContext().TraceID(), ship.SpanContext.TraceID())
	require.Equal(t, pay.SpanContext.SpanID(), ship.Parent.SpanID())
	require.Equal(t, `"`+request.SpanContext().TraceID().String()+`"`, string(db.Jobs(t, "order.ship")[0].Result))

	attributes := attribute.NewSet(pay.Attributes...)
	for key, want := range map[attribute.Key]string{"messaging.system": "pgtick", "messaging.destination.name": "default", "pgtick.task": "order.pay", "pgtick.outcome": "done"} {
		value, _ := attributes.Value(key)
		require.Equal(t, want, value.AsString(), key)
	}
}

func TestTrace_OfADefinition_GoesWithAllItsJobs_AndWithoutASpanNothingDoes(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	provider, _ := tracer(t)
	traced := tasks.Define[greeting]("greet", tasktrace.CarryBy(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})))
	member, err := baggage.NewMember("user", "ann")
	require.NoError(t, err)
	bag, err := baggage.New(member)
	require.NoError(t, err)
	ctx, span := provider.Tracer("test").Start(baggage.ContextWithBaggage(t.Context(), bag), "request")
	defer span.End()

	many, err := traced.EnqueueMany(ctx, db.Pool, []greeting{{"ann"}, {"bob"}})
	require.NoError(t, err)
	one, err := traced.Enqueue(t.Context(), db.Pool, greeting{"eve"})
	require.NoError(t, err)
	for _, id := range many {
		carrier := ask[map[string]string](t, db, `select trace_context from pgtick.live_jobs where id = $1`, id)
		require.Contains(t, carrier["traceparent"], span.SpanContext().TraceID().String())
		require.NotContains(t, carrier, "baggage")
	}
	require.Nil(t, ask[map[string]string](t, db, `select trace_context from pgtick.live_jobs where id = $1`, one))
}

func TestTrace_LinkOnly_BeginsOneOfItsOwn(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	provider, spans := tracer(t)
	registry := tasks.NewRegistry()
	registry.Use(tasktrace.Middleware(tasktrace.Options{Provider: provider, LinkOnly: true}))
	tasks.Register(registry, "greet", func(context.Context, *tasks.Job[none]) error { return nil })
	ctx, request := provider.Tracer("test").Start(t.Context(), "request")
	_, err := tasks.Enqueue(ctx, db.Pool, "greet", nil, tasktrace.Carry())
	require.NoError(t, err)
	require.Equal(t, 1, db.Work(t, registry))
	span := spanNamed(t, spans, "process greet")
	require.NotEqual(t, request.SpanContext().TraceID(), span.SpanContext.TraceID())
	require.False(t, span.Parent.IsValid())
	require.Equal(t, request.SpanContext().TraceID(), span.Links[0].SpanContext.TraceID())
}

func TestTrace_OfAnAttemptThatFails_SaysSo(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	provider, spans := tracer(t)
	registry := tasks.NewRegistry()
	registry.Use(tasktrace.Middleware(tasktrace.Options{Provider: provider}))
	tasks.Register(registry, "fails", func(context.Context, *tasks.Job[none]) error { return errNotNow })
	tasks.Register(registry, "panics", func(context.Context, *tasks.Job[none]) error { panic("out of order") })
	tasks.Register(registry, "snoozes", func(context.Context, *tasks.Job[none]) error { return tasks.Snooze(day) })
	for _, task := range []string{"fails", "panics", "snoozes"} {
		db.Enqueue(t, task, nil)
	}
	require.Equal(t, 3, db.Work(t, registry))
	fails, panics, snoozes := spanNamed(t, spans, "process fails"), spanNamed(t, spans, "process panics"), spanNamed(t, spans, "process snoozes")
	require.Equal(t, sdk.Status{Code: codes.Error, Description: "not now"}, fails.Status)
	require.Len(t, fails.Events, 1)
	require.Equal(t, codes.Error, panics.Status.Code)
	event := attribute.NewSet(panics.Events[0].Attributes...)
	stack, _ := event.Value("exception.stacktrace")
	require.Contains(t, stack.AsString(), "trace_test.go")
	require.Equal(t, codes.Unset, snoozes.Status.Code)
	require.False(t, fails.Parent.IsValid(), "a job without a trace begins one")
}

// Whoever does not trace does not carry OpenTelemetry along. (The program does: its environment may ask for traces.)
func TestTrace_IsLinkedByNobodyWhoDoesNotAskForIt(t *testing.T) {
	t.Parallel()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../tasks", "../../runner/engine", "../../tests/pgtest")
	out, err := list.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "github.com/pgtick/pgtick/tasks\n")
	require.NotContains(t, string(out), "go.opentelemetry.io/otel")
}
