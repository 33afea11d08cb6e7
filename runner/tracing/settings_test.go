package tracing

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"

func from(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, has := values[name]; return value, has }
}

func TestSettings_NobodyWants_AreNone(t *testing.T) {
	for name, values := range map[string]map[string]string{
		"nothing is set":    {},
		"none":              {endpoint: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
		"the SDK is off":    {endpoint: "http://c:4318", "OTEL_SDK_DISABLED": "True"},
		"only for metrics":  {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"},
		"an empty endpoint": {endpoint: " "},
	} {
		s, err := read(from(values))
		require.NoError(t, err, name)
		require.Nil(t, s, name)
	}
}

func TestSettings_ForTraces_GoBeforeTheGeneralOnes(t *testing.T) {
	s, err := read(from(map[string]string{endpoint: "http://c:4318/base/", "OTEL_EXPORTER_OTLP_HEADERS": "a=1, b = x%2Cy ,", "OTEL_EXPORTER_OTLP_TIMEOUT": "250"}))
	require.NoError(t, err)
	require.Equal(t, "http://c:4318/base/v1/traces", s.endpoint.String())
	require.Equal(t, http.Header{"A": {"1"}, "B": {"x,y"}}, s.headers)
	require.Equal(t, 250*time.Millisecond, s.timeout)
	s, err = read(from(map[string]string{endpoint: "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://d/x", "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
		"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}))
	require.NoError(t, err)
	require.Equal(t, "https://d/x", s.endpoint.String(), "as it is")
	require.True(t, s.gzip)
	require.Equal(t, 10*time.Second, s.timeout)
}

func TestSettings_ThatAreWrong_AreNamed_WithoutTheirSecrets(t *testing.T) {
	for name, values := range map[string]map[string]string{
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: is not a URL such as http://127.0.0.1:4318":                                        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "ann:hunter2@c:4318"},
		"OTEL_EXPORTER_OTLP_HEADERS: is not a list such as name=value,other=value":                                              {"OTEL_EXPORTER_OTLP_HEADERS": "hunter2"},
		`OTEL_EXPORTER_OTLP_TIMEOUT: "soon" is not a number of milliseconds from 1 to 3600000`:                                  {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"},
		`OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "grpc" is not spoken here; set http/protobuf, which collectors take at port 4318`:  {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
		`OTEL_EXPORTER_OTLP_COMPRESSION: "zstd" is not none or gzip`:                                                            {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"},
		`OTEL_TRACES_EXPORTER: "jaeger" is not otlp or none`:                                                                    {"OTEL_TRACES_EXPORTER": "jaeger"},
		"OTEL_EXPORTER_OTLP_CERTIFICATE: open no/such/file: no such file or directory":                                          {"OTEL_EXPORTER_OTLP_CERTIFICATE": "no/such/file"},
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: open no/such/file: no such file or directory": {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "no/such/file"},
		"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE: settings_test.go holds no certificate (PEM)":                                    {"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": "settings_test.go"},
	} {
		all := map[string]string{endpoint: "http://c:4318"}
		maps.Copy(all, values)
		_, err := read(from(all))
		require.EqualError(t, err, name)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// collecting answers as it is told, one answer after the other, the last one again and again.
func collecting(t *testing.T, answers ...func(http.ResponseWriter)) (*client, *int) {
	t.Helper()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answers[min(asked, len(answers)-1)](w)
		asked++
	}))
	t.Cleanup(server.Close)
	s, err := read(from(map[string]string{endpoint: server.URL}))
	require.NoError(t, err)
	return newClient(*s), &asked
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { http.Error(w, "said "+strconv.Itoa(code), code) }
}

func TestClient_TriesAgainWhereThatMayHelp_AndNotWhereItCannot(t *testing.T) {
	t.Parallel()
	c, asked := collecting(t, status(http.StatusServiceUnavailable), func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) })
	require.NoError(t, c.UploadTraces(t.Context(), []*tracepb.ResourceSpans{{}}))
	require.Equal(t, 2, *asked)
	c, asked = collecting(t, status(http.StatusUnauthorized))
	require.ErrorContains(t, c.UploadTraces(t.Context(), nil), "the collector answers 401 Unauthorized: said 401")
	require.Equal(t, 1, *asked)
	c, asked = collecting(t, func(w http.ResponseWriter) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	require.ErrorContains(t, c.UploadTraces(t.Context(), nil), "307")
	require.Equal(t, 1, *asked, "the headers, which may hold a key, are for nobody else")
}

func TestClient_SaysWhatACollectorDidNotTake(t *testing.T) {
	t.Parallel()
	partial := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 3)
	partial = protowire.AppendString(protowire.AppendTag(partial, 2, protowire.BytesType), "too old")
	answer := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial)
	c, _ := collecting(t, func(w http.ResponseWriter) { _, _ = w.Write(answer) })
	require.EqualError(t, c.UploadTraces(t.Context(), nil), "the collector did not take 3 spans: too old")
	for _, fine := range [][]byte{nil, protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), nil), {0xff}, answer[:len(answer)-2]} {
		require.NoError(t, rejected(fine))
	}
}
