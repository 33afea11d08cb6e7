package tracing

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// settings are what the environment says of the collector.
type settings struct {
	endpoint *url.URL
	headers  http.Header
	timeout  time.Duration // of one try
	gzip     bool
	tls      *tls.Config // nil: the system's
}

const prefix = "OTEL_EXPORTER_OTLP_"

// variable is one of OTEL_EXPORTER_OTLP_…, whose form for traces goes before the general one.
type variable struct{ name, value string }

func (v variable) wrong(what string) error { return errors.New(v.name + ": " + what) }

// read returns nil where nobody wants traces. An error names the variable, and no value that may hold a secret.
func read(env func(string) (string, bool)) (*settings, error) {
	plain := func(name string) string { value, _ := env(name); return strings.TrimSpace(value) }
	of := func(name string) variable {
		if value := plain(prefix + "TRACES_" + name); value != "" {
			return variable{prefix + "TRACES_" + name, value}
		}
		return variable{prefix + name, plain(prefix + name)}
	}
	endpoint, exporter := of("ENDPOINT"), plain("OTEL_TRACES_EXPORTER")
	switch {
	case endpoint.value == "" || exporter == "none" || strings.EqualFold(plain("OTEL_SDK_DISABLED"), "true"):
		return nil, nil //nolint:nilnil // none is wanted, and that is all right
	case exporter != "" && exporter != "otlp":
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER: %q is not otlp or none", exporter)
	}
	if p := of("PROTOCOL"); p.value != "" && p.value != "http/protobuf" {
		return nil, p.wrong(fmt.Sprintf("%q is not spoken here; set http/protobuf, which collectors take at port 4318", p.value))
	}
	s := &settings{timeout: 10 * time.Second}
	for _, step := range []error{s.readEndpoint(endpoint), s.readHeaders(of("HEADERS")), s.readTimeout(of("TIMEOUT")), s.readCompression(of("COMPRESSION")),
		s.readRoots(of("CERTIFICATE")), s.readOwn(of("CLIENT_CERTIFICATE"), of("CLIENT_KEY"))} {
		if step != nil {
			return nil, step
		}
	}
	return s, nil
}

// readEndpoint: the one for traces is taken as it is, the general one is the base of all kinds.
func (s *settings) readEndpoint(v variable) error {
	at, err := url.Parse(v.value)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return v.wrong("is not a URL such as http://127.0.0.1:4318")
	}
	if !strings.HasPrefix(v.name, prefix+"TRACES_") {
		at = at.JoinPath("v1", "traces")
	}
	s.endpoint = at
	return nil
}

func (s *settings) readHeaders(v variable) error {
	s.headers = http.Header{}
	for pair := range strings.SplitSeq(v.value, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, found := strings.Cut(pair, "=")
		text, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || err != nil {
			return v.wrong("is not a list such as name=value,other=value")
		}
		s.headers.Set(strings.TrimSpace(name), text)
	}
	return nil
}

func (s *settings) readTimeout(v variable) error {
	if v.value == "" {
		return nil
	}
	ms, err := strconv.Atoi(v.value)
	if err != nil || ms < 1 || ms > 3600_000 {
		return v.wrong(fmt.Sprintf("%q is not a number of milliseconds from 1 to 3600000", v.value))
	}
	s.timeout = time.Duration(ms) * time.Millisecond
	return nil
}

func (s *settings) readCompression(v variable) error {
	if v.value != "" && v.value != "none" && v.value != "gzip" {
		return v.wrong(fmt.Sprintf("%q is not none or gzip", v.value))
	}
	s.gzip = v.value == "gzip"
	return nil
}

// readRoots reads who may have signed the collector's certificate.
func (s *settings) readRoots(v variable) error {
	if v.value == "" {
		return nil
	}
	text, err := os.ReadFile(v.value)
	if err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return v.wrong(v.value + " holds no certificate (PEM)")
	}
	s.tls = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return nil
}

// readOwn reads the certificate by which the runner says who it is.
func (s *settings) readOwn(certificate, key variable) error {
	if certificate.value == "" && key.value == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(certificate.value, key.value)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", certificate.name, key.name, err)
	}
	if s.tls == nil {
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	s.tls.Certificates = []tls.Certificate{pair}
	return nil
}
