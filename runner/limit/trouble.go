package limit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// trouble is an error of Redis, and what to do about it.
type trouble struct {
	err    error
	remedy string
}

func (t *trouble) Error() string { return t.err.Error() + ": " + t.remedy }
func (t *trouble) Unwrap() error { return t.err }

// remedies by the word with which Redis begins an error. What is not here says enough by itself.
var remedies = map[string]string{ //nolint:gosec // a form to be filled in, no secret
	"WRONGPASS":   "REDIS_URL has a wrong user or password",
	"NOAUTH":      "this server wants a password: write redis://user:password@host:6379/0",
	"NOPERM":      "its user lacks a right that rates need: docs/limits.md lists them, ACL LOG names it",
	"READONLY":    "it is a replica, which takes no writes: name its master, or Sentinel",
	"OOM":         "its memory is full: raise maxmemory, or give rates a Redis of their own",
	"MISCONF":     "it takes no writes since it cannot save to its disk: its log says why; rates need no persistence",
	"NOREPLICAS":  "it takes no writes while it has too few replicas (min-replicas-to-write)",
	"BUSY":        "a script of another client does not end: redis-cli script kill",
	"LOADING":     "it has just started, and answers when it has read its data",
	"MASTERDOWN":  "it is a replica that has lost its master",
	"CLUSTERDOWN": "some slots of the cluster have no server: redis-cli cluster info",
	"MOVED":       "it belongs to a cluster: name two of its addresses, redis://one:6379?addr=two:6379",
}

const ourCertificate = "a certificate of ours that it trusts: ?cert=/path/to/cert.pem&key=/path/to/key.pem"

// explain adds the remedy to an error, where one is known.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if remedy := remedyFor(err); remedy != "" {
		return &trouble{err, remedy}
	}
	return err
}

func remedyFor(err error) string {
	handshake, answer, reply, operation := new(handshakeError), new(answerError), redis.Error(nil), new(net.OpError)
	switch {
	case errors.As(err, &answer):
		return "is there something else at this port?"
	case errors.As(err, &handshake):
		return handshake.remedy()
	case redis.IsMaxClientsError(err):
		return "raise its maxclients, or give rates a Redis of their own"
	case errors.As(err, &reply):
		return remedies[codeOf(reply.Error())]
	case errors.As(err, &operation) && operation.Op == "remote error": // so crypto/tls calls what the other side has against us
		return "it wants " + ourCertificate
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		return "it closes the connection unasked: a port with TLS wants rediss://, and perhaps " + ourCertificate
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return "it does not answer in time: it may be overloaded, paused or too far away"
	}
	return ""
}

// codeOf is the first word of an error, or that of the command in a script that failed: until Redis 7 the script's own error stood around it. What
// a script's user may not do has no word of its own.
func codeOf(text string) string {
	if strings.Contains(text, "The user executing the script can't") || strings.Contains(text, "ACL failure in script") {
		return "NOPERM"
	}
	if _, inner, wrapped := strings.Cut(text, ": -"); wrapped && strings.HasPrefix(text, "ERR Error running script") {
		text = inner
	}
	code, _, _ := strings.Cut(text, " ")
	return code
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// handshakeError: the server is there, and TLS does not come about.
type handshakeError struct{ err error }

func (h *handshakeError) Error() string { return fmt.Sprintf("no TLS with this server: %s", h.err) }
func (h *handshakeError) Unwrap() error { return h.err }

func (h *handshakeError) remedy() string {
	plain, certificate := new(tls.RecordHeaderError), new(tls.CertificateVerificationError)
	switch {
	case errors.As(h.err, plain) || isTimeout(h.err) || errors.Is(h.err, context.DeadlineExceeded):
		return "it seems to speak none at this port: write redis://, or the port with TLS"
	case errors.As(h.err, &certificate):
		return "give the certificate of its authority by ?ca=/path/to/ca.pem, and a host name that its certificate has"
	}
	return ""
}
