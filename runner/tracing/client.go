package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	mostTries    = 5
	firstPause   = time.Second
	mostOfAnswer = 64 << 10 // of what a collector says
)

// client speaks OTLP over HTTP. It is an otlptrace.Client. (OpenTelemetry's own brings gRPC along, and makes the program half as large again:
// docs/decisions/0024-metrics.md.)
type client struct {
	settings
	http *http.Client
}

func newClient(s settings) *client {
	transport, _ := http.DefaultTransport.(*http.Transport)
	transport = transport.Clone()
	transport.TLSClientConfig = s.tls
	return &client{s, &http.Client{Transport: transport, Timeout: s.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}} // the headers are for this collector alone
}

// Start implements otlptrace.Client.
func (*client) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *client) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client. What a collector is asked to take is a message with one field, which TracesData has alike.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if c.gzip {
		body = zipped(body)
	}
	for try, said := 1, error(nil); ; try++ {
		pause, err := c.send(ctx, body)
		if said != nil && ctx.Err() != nil {
			return said // what was wrong before the time was up tells more
		}
		if err == nil || pause < 0 || try == mostTries {
			return err
		}
		said = err
		pause = max(pause, firstPause<<(try-1)/2+rand.N(firstPause<<(try-1))) //nolint:gosec // so that runners do not all come back at once
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func zipped(body []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(body) // into memory: it cannot fail
	_ = w.Close()
	return out.Bytes()
}

// send returns, beside an error, how long to wait before another try, at least; negative: another one is of no use.
func (c *client) send(ctx context.Context, body []byte) (pause time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint.String(), bytes.NewReader(body))
	if err != nil {
		return -1, err
	}
	request.Header = c.headers.Clone()
	request.Header.Set("Content-Type", "application/x-protobuf")
	if c.gzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, mostOfAnswer)) // what is missing of it changes nothing
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
		return time.Duration(seconds) * time.Second, fmt.Errorf("the collector answers %s", answer.Status)
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return -1, fmt.Errorf("the collector answers %s: %s", answer.Status, bytes.ToValidUTF8(text, nil))
	}
	return -1, rejected(text)
}

// rejected reads of an answer how many spans the collector did not take, and why: partial_success, field 1 of it, has the number in field 1 and words in
// field 2.
func rejected(answer []byte) error {
	partial, _ := field(answer, 1)
	if partial == nil {
		return nil
	}
	words, _ := field(partial, 2)
	_, spans := field(partial, 1)
	if len(words) == 0 && spans == 0 {
		return nil
	}
	return fmt.Errorf("the collector did not take %d spans: %s", spans, words)
}

// field finds one by its number: its bytes, or its whole number.
func field(message []byte, wanted protowire.Number) (text []byte, number uint64) {
	for len(message) > 0 {
		at, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, 0
		}
		size := protowire.ConsumeFieldValue(at, kind, message[n:])
		switch value := message[n:]; {
		case size < 0:
			return nil, 0
		case at == wanted && kind == protowire.BytesType:
			text, _ = protowire.ConsumeBytes(value)
			return text, 0
		case at == wanted && kind == protowire.VarintType:
			number, _ = protowire.ConsumeVarint(value)
			return nil, number
		}
		message = message[n+size:]
	}
	return nil, 0
}
