package metrics

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/pgtick/pgtick/tasks"
	"github.com/pgtick/pgtick/tasks/tasktrace"
)

// receiver takes traces as a collector does: by OTLP over HTTP, read by the messages that OpenTelemetry publishes.
type receiver struct {
	*httptest.Server
	t      *testing.T
	answer func(http.ResponseWriter) // nil: all is well

	mu       sync.Mutex
	requests []*http.Request
	bodies   [][]byte
	spans    []*otlp.Span
	resource map[string]string
}

func receive(t *testing.T) *receiver {
	t.Helper()
	c := &receiver{t: t}
	c.Server = httptest.NewServer(http.HandlerFunc(c.take))
	t.Cleanup(c.Close)
	return c
}

func (c *receiver) take(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, r)
	in := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		in, _ = gzip.NewReader(r.Body)
	}
	body, _ := io.ReadAll(in)
	c.bodies = append(c.bodies, body)
	if c.answer != nil {
		c.answer(w)
		return
	}
	var sent collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &sent); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, of := range sent.ResourceSpans {
		c.resource = texts(of.Resource.Attributes)
		for _, scope := range of.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	out, _ := proto.Marshal(&collector.ExportTraceServiceResponse{})
	_, _ = w.Write(out)
}

func texts(all []*common.KeyValue) map[string]string {
	found := map[string]string{}
	for _, one := range all {
		found[one.Key] = one.Value.GetStringValue()
	}
	return found
}

// span waits for one of a name.
func (c *receiver) span(name string) (found *otlp.Span) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.spans {
			if s.Name == name {
				found = s
			}
		}
		return found != nil
	}, within, every, name)
	return found
}

func TestTraces_EachAttemptIsASpan_InTheTraceOfTheEnqueuer(t *testing.T) {
	t.Parallel()
	c := receive(t)
	db := fresh(t)
	r := work(t, db, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_EXPORTER_OTLP_HEADERS=x-team=blue%20one", "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
		"OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_RESOURCE_ATTRIBUTES=deployment.environment=test"})
	do(t, db, `select pgtick.enqueue('test.strict', '{"user_id": "hunter2"}', p_queue => 'default',
		p_trace_context => '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}')`)
	do(t, db, `select pgtick.enqueue('test.permanent')`)
	done := c.span("process test.strict")
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", hex.EncodeToString(done.TraceId))
	require.Equal(t, "b7ad6b7169203331", hex.EncodeToString(done.ParentSpanId))
	require.Len(t, done.Links, 1)
	require.Equal(t, "b7ad6b7169203331", hex.EncodeToString(done.Links[0].SpanId))
	require.Equal(t, otlp.Span_SPAN_KIND_CONSUMER, done.Kind)
	attributes := texts(done.Attributes)
	for key, want := range map[string]string{"messaging.system": "pgtick", "messaging.operation.type": "process", "messaging.destination.name": "default",
		"messaging.message.id": "1", "pgtick.task": "test.strict", "pgtick.outcome": "done"} {
		require.Equal(t, want, attributes[key], key)
	}
	failed := c.span("process test.permanent")
	require.Equal(t, otlp.Status_STATUS_CODE_ERROR, failed.Status.Code)
	require.Equal(t, "failed", texts(failed.Attributes)["pgtick.outcome"])
	require.Empty(t, failed.ParentSpanId)

	c.mu.Lock()
	require.Equal(t, "pgtick", c.resource["service.name"])
	require.Equal(t, "test", c.resource["deployment.environment"])
	require.Equal(t, "/v1/traces", c.requests[0].URL.Path)
	require.Equal(t, "application/x-protobuf", c.requests[0].Header.Get("Content-Type"))
	require.Equal(t, "blue one", c.requests[0].Header.Get("x-team"))
	for _, body := range c.bodies {
		require.NotContains(t, string(body), "hunter2")
	}
	require.Len(t, c.spans, 2, "claims, ticks and reports have none")
	c.mu.Unlock()

	// What has not been sent when the runner stops is sent then.
	slow := work(t, db, []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + c.URL + "/own/path", "OTEL_BSP_SCHEDULE_DELAY=3600000", "OTEL_SERVICE_NAME=shop"}, "--queues=late")
	do(t, db, `select pgtick.enqueue('test.noop', p_queue => 'late')`)
	becomes(t, db, "done", `select state from pgtick.jobs where task = 'test.noop'`)
	slow.stops()
	require.NotNil(t, c.span("process test.noop"))
	c.mu.Lock()
	require.Equal(t, "shop", c.resource["service.name"])
	require.Equal(t, "/own/path", c.requests[len(c.requests)-1].URL.Path)
	c.mu.Unlock()
	r.stops()
}

func TestTraces_WhileTheCollectorIsAwayOrRefuses_JobsGoOn_AndTheLogSaysSoOnce(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	away := closed.Addr().String()
	require.NoError(t, closed.Close())
	c := receive(t)
	c.answer = func(w http.ResponseWriter) { http.Error(w, "no such token", http.StatusForbidden) }
	for queue, row := range map[string]struct{ endpoint, patience, says string }{
		"away":    {"http://ann:hunter2@" + away, "3000", "connection refused"}, // it is tried again for so long
		"refuses": {c.URL, "30000", "the collector answers 403 Forbidden: no such token"},
	} {
		r := work(t, db, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + row.endpoint, "OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_BSP_EXPORT_TIMEOUT=" + row.patience}, "--queues="+queue)
		for range 3 {
			do(t, db, `select pgtick.enqueue_many('test.noop', array_fill('{}'::jsonb, array[20]), $1)`, queue)
			becomes(t, db, 0, `select count(*) from pgtick.live_jobs`)
		}
		r.says("traces do not arrive; jobs go on without")
		r.stops()
		said := r.linesOf("traces do not arrive; jobs go on without")
		require.Len(t, said, 1)
		require.Contains(t, said[0]["error"], row.says)
		require.NotContains(t, r.said(), "hunter2")
	}
}

func TestTraces_WithVariablesThatAreWrong_AreNotSent_AndTheLogNamesWhich(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	r := work(t, db, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"})
	do(t, db, `select pgtick.enqueue('test.noop')`)
	becomes(t, db, "done", `select state from pgtick.jobs`)
	line := r.linesOf("no traces are sent")[0]
	require.Equal(t, `OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" is not spoken here; set http/protobuf, which collectors take at port 4318`, line["error"])
	require.Equal(t, "warning", line["level"])
	r.stops()
}

// A program that traces by itself, with OpenTelemetry's global provider, has one span for an attempt, not two.
func TestTraces_OfTwoMiddlewaresWithTheGlobalProvider_AreOneSpan(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	spans, own := tracetest.NewInMemoryExporter(), tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(sdk.NewTracerProvider(sdk.WithSyncer(spans))) // nobody else here asks for it
	inner, outer := tasks.NewRegistry(), tasks.NewRegistry()
	inner.Use(tasktrace.Middleware(tasktrace.Options{}), tasktrace.Middleware(tasktrace.Options{Provider: sdk.NewTracerProvider(sdk.WithSyncer(own))}))
	tasks.Register(inner, "traced", func(context.Context, *tasks.Job[struct{}]) error { return nil })
	outer.Merge(inner)
	outer.Use(tasktrace.Middleware(tasktrace.Options{}))
	db.Enqueue(t, "traced", struct{}{})
	require.Equal(t, 1, db.Work(t, outer))
	require.Len(t, spans.GetSpans(), 1)
	require.Len(t, own.GetSpans(), 1, "another provider wants its own")
	require.True(t, strings.HasPrefix(spans.GetSpans()[0].Name, "process traced"))
}

// OpenTelemetry's own client for OTLP makes the program half as large again, by what it never calls.
func TestTraces_BringNoGRPCAlong(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../runner/cmd/pgtick").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "go.opentelemetry.io/otel/exporters/otlp/otlptrace\n")
	require.NotContains(t, string(out), "google.golang.org/grpc")
}
