package httptask

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	mostRedirects  = 5
	mostHeaderSize = 64 << 10 // bytes, of an answer
	mostIdle       = 256
	mostIdleOfHost = 64
	streamBuffer   = 64 << 10 // bytes that an HTTP/2 server may send ahead of what is read; Go's default of 4 MiB, 200 times, is no bound
	connBuffer     = 1 << 20
)

// newClient follows no redirects by itself, asks no proxy, and keeps no cookies.
func newClient(allow *Allowed, roots *x509.CertPool) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, place string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(place)
			if err != nil {
				return nil, err
			}
			dialer := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Control: allow.control(host)}
			return dialer.DialContext(ctx, network, place)
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: connBuffer},
		MaxIdleConns:           mostIdle,
		MaxIdleConnsPerHost:    mostIdleOfHost,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: mostHeaderSize,
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: transport, CheckRedirect: stay}
}

// exchange sends the request, follows redirects, and reads as much of the answer as is wanted.
func (c *caller) exchange(ctx context.Context, call *call, request *http.Request, secrets secrets) (*answer, error) {
	for hops := 0; ; hops++ {
		response, err := c.client.Do(request.WithContext(ctx))
		if err != nil {
			return nil, bare(err)
		}
		var next *http.Request
		if !call.expects(response.StatusCode) {
			next, err = follow(request, response)
		}
		if err == nil && next == nil {
			defer func() { _ = response.Body.Close() }()
			return read(call, response, secrets.longest)
		}
		finish(response.Body)
		if err == nil && hops == mostRedirects {
			err = &misled{fmt.Sprintf("more than %d redirects", mostRedirects)}
		}
		if err != nil {
			return nil, err
		}
		request = next
	}
}

// bare takes away what http.Client puts around an error: the whole URL.
func bare(err error) error {
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// finish reads the rest of a body, as long as it is short, so that its connection can be used again.
func finish(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, keptBytes)
	_ = body.Close()
}

// misled is a redirect that is not followed.
type misled struct{ why string }

func (e *misled) Error() string { return e.why }

// follow returns the request that a redirect asks for, or nil when the answer is none. After POST, 301 and 302 mean GET, as all clients have
// it; 303 always does; any other method and its body stay.
func follow(from *http.Request, response *http.Response) (*http.Request, error) {
	to, err := redirection(from, response)
	if to == nil || err != nil {
		return nil, err
	}
	next := from.Clone(context.Background())
	next.URL, next.Host = to, ""
	if asksForGet(from.Method, response.StatusCode) {
		next.Method, next.Body, next.GetBody, next.ContentLength = http.MethodGet, nil, nil, 0
		drop(next.Header, append(ofSignature, "Content-Type", "Content-Encoding", "Content-Language", "Content-Location")...)
	} else if from.GetBody != nil {
		if next.Body, err = from.GetBody(); err != nil {
			return nil, err
		}
	}
	if !sameOrigin(from.URL, to) {
		keepOnly(next.Header, forStrangers)
	}
	return next, nil
}

func redirection(from *http.Request, response *http.Response) (*url.URL, error) {
	switch response.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	location := response.Header.Get("Location")
	if location == "" {
		return nil, nil
	}
	to, err := from.URL.Parse(location)
	switch {
	case err != nil:
		return nil, &misled{"a redirect to what is no URL"}
	case to.Scheme != "https" && to.Scheme != "http":
		return nil, &misled{fmt.Sprintf("a redirect to %s, which is neither http nor https", cut(to.Scheme, 20))}
	case to.Hostname() == "":
		return nil, &misled{"a redirect to no host"}
	case from.URL.Scheme == "https" && to.Scheme == "http":
		return nil, &misled{"a redirect from https to http, to " + to.Host}
	}
	to.User, to.Fragment, to.RawFragment = nil, "", ""
	return to, nil
}

func asksForGet(method string, status int) bool {
	switch status {
	case http.StatusSeeOther:
		return method != http.MethodHead
	case http.StatusMovedPermanently, http.StatusFound:
		return method == http.MethodPost
	}
	return false
}

// forStrangers are the headers that may go to another host than the one that the job names.
var forStrangers = []string{"Accept", "Accept-Language", "Content-Type", "Idempotency-Key", "User-Agent"}

func keepOnly(header http.Header, names []string) {
	for name := range header {
		if !slices.Contains(names, name) {
			header.Del(name)
		}
	}
}

func drop(header http.Header, names ...string) {
	for _, name := range names {
		header.Del(name)
	}
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && portOf(a) == portOf(b)
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}
