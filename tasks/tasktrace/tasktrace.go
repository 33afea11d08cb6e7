// Package tasktrace traces tasks with OpenTelemetry: a span for each attempt, in the trace of whoever enqueued the job.
//
//	registry.Use(tasktrace.Middleware(tasktrace.Options{}))
//
//	id, err := tasks.Enqueue(ctx, tx, "email.welcome", args, tasktrace.Carry())
//
// The job carries the enqueuer's span context through the database, in W3C form (traceparent, tracestate), whichever language enqueues it;
// baggage stays behind.
// What a traced task enqueues is of its trace without more ado. Programs that only enqueue, and do not import this package, do not link
// OpenTelemetry; a runner does, and traces by itself where its environment says so (docs/metrics.md).
package tasktrace

import (
	"context"
	"errors"
	"strconv"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgtick/pgtick/tasks"
)

const scope = "github.com/pgtick/pgtick/tasks/tasktrace"

// Options of the middleware. The zero value works.
type Options struct {
	Provider   trace.TracerProvider          // nil means the global one
	Propagator propagation.TextMapPropagator // nil means the global one, or W3C trace context where none is set
	LinkOnly   bool                          // begin a trace with each attempt, and link it to the enqueuer's; else it is a part of that one
}

// Middleware puts a span around each attempt: kind consumer, named "process" and the task, child of the enqueuer's span and linked to it. Its
// attributes tell of the job and of what became of the attempt, never of args. The task's context has the span. Two with the global provider, such
// as that of a runner whose environment names a collector and one of the program's own, make one span: the outer one's.
func Middleware(opt Options) tasks.Middleware {
	provider := opt.Provider
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	tracer := provider.Tracer(scope)
	return func(next tasks.RunFunc) tasks.RunFunc {
		return func(ctx context.Context, call tasks.Call) error {
			if opt.Provider == nil {
				if ctx.Value(tracedKey{}) == (traced{call.Info.ID, call.Info.Fence}) {
					return next(ctx, call)
				}
				ctx = context.WithValue(ctx, tracedKey{}, traced{call.Info.ID, call.Info.Fence})
			}
			stops := ctx
			p := orGlobal(opt.Propagator)
			ctx = p.Extract(ctx, propagation.MapCarrier(call.Info.TraceContext))
			ctx, span := tracer.Start(ctx, "process "+call.Info.Task, startOptions(ctx, call.Info, opt.LinkOnly)...)
			defer span.End()
			err := next(tasks.WithTrace(ctx, carrierOf(p)), call)
			tell(span, tasks.Outcome(context.Cause(stops), err), err)
			return err
		}
	}
}

// tracedKey is that of the attempt which has its span already.
type tracedKey struct{}

type traced struct{ id, fence int64 }

func startOptions(ctx context.Context, job tasks.Info, linkOnly bool) []trace.SpanStartOption {
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(describe(job)...)}
	if enqueuer := trace.SpanContextFromContext(ctx); enqueuer.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: enqueuer}))
	}
	if linkOnly {
		options = append(options, trace.WithNewRoot())
	}
	return options
}

// describe names what OpenTelemetry's conventions for messages have a name for in their way, and the rest in ours.
func describe(job tasks.Info) []attribute.KeyValue {
	all := []attribute.KeyValue{
		attribute.String("messaging.system", "pgtick"),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.operation.name", "process"),
		attribute.String("messaging.destination.name", job.Queue),
		attribute.String("messaging.message.id", strconv.FormatInt(job.ID, 10)),
		attribute.String("pgtick.task", job.Task),
		attribute.Int("pgtick.attempt", job.Attempt),
		attribute.Int("pgtick.max_attempts", job.MaxAttempts),
	}
	if job.Schedule != "" {
		all = append(all, attribute.String("pgtick.schedule", job.Schedule))
	}
	return all
}

// tell says what became of the attempt. Snoozed, cancelled, released: these are no failures.
func tell(span trace.Span, outcome string, err error) {
	span.SetAttributes(attribute.String("pgtick.outcome", outcome))
	if outcome != "error" && outcome != "failed" && outcome != "fenced" {
		return
	}
	stack := trace.WithAttributes()
	if panicked := new(tasks.PanicError); errors.As(err, &panicked) {
		stack = trace.WithAttributes(attribute.String("exception.stacktrace", string(panicked.Stack)))
	}
	span.RecordError(err, stack)
	span.SetStatus(codes.Error, err.Error())
}

// Carry gives a job the span that is current where it is enqueued, by the global propagator, or by W3C trace context where none is set. It goes
// with one enqueue, or with tasks.Define for all of a task's jobs.
func Carry() tasks.Option { return CarryBy(nil) }

// CarryBy is Carry by a propagator of your choice.
func CarryBy(p propagation.TextMapPropagator) tasks.Option {
	return tasks.TraceFrom(func(ctx context.Context) map[string]string { return carrierOf(orGlobal(p))(ctx) })
}

func carrierOf(p propagation.TextMapPropagator) func(context.Context) map[string]string {
	return func(ctx context.Context) map[string]string {
		carrier := propagation.MapCarrier{}
		p.Inject(ctx, carrier)
		delete(carrier, "baggage") // values of the application's, perhaps of its users, that have no business in the jobs table
		return carrier
	}
}

// orGlobal does not take OpenTelemetry's own default, which carries nothing, and would say nothing of it.
func orGlobal(p propagation.TextMapPropagator) propagation.TextMapPropagator {
	if p == nil {
		p = otel.GetTextMapPropagator()
	}
	if len(p.Fields()) == 0 {
		p = propagation.TraceContext{}
	}
	return p
}
