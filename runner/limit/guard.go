package limit

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
)

// What the other side may have us keep of one answer. Most are some hundred bytes. The longest that go-redis asks for, COMMAND in a cluster, has 90 kB
// and 3,500 lists from Redis 7.0.
const (
	mostOfAnswer   = 64 << 20
	perElement     = 16   // what go-redis takes for each element that a list announces, before one has come
	perPair        = 64   // of a map
	perNesting     = 1024 // for what lies in a list or a map: a call within a call
	longestHeading = 32   // of a length
)

// answerError: what calls itself Redis announces or sends more than any Redis would.
type answerError struct{ what string }

func (e *answerError) Error() string {
	return fmt.Sprintf("an answer that no Redis would give to this: %s", e.what)
}

// dialer is what go-redis would do, but that the handshake ends with the context, too, that its errors are told apart from others, and that answers are
// looked at. A nil config means no TLS.
func dialer(c *tls.Config) func(ctx context.Context, network, address string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: dialing}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := plain.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if c == nil {
			return guard(conn), nil
		}
		secured := tls.Client(conn, c)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, &handshakeError{err}
		}
		return guard(secured), nil
	}
}

// guarded is a connection to Redis whose answers do not announce what cannot be. go-redis takes the memory for a text or a list at once when its length
// has come, whatever that is: twenty bytes from a broken server, or from none, would end the process.
type guarded struct {
	net.Conn
	left    atomic.Int64 // how much more this answer may take; each request begins anew, and need not wait for whoever is reading
	body    int64        // how many bytes of a text, with its line end, are still to come
	heading []byte       // of the line that is coming, its beginning
}

// guardedSocket can be asked whether the other side has closed it, as go-redis does before it uses one again.
type guardedSocket struct {
	*guarded
	syscall.Conn
}

func guard(conn net.Conn) net.Conn {
	g := &guarded{Conn: conn}
	g.left.Store(mostOfAnswer)
	if socket, ok := conn.(syscall.Conn); ok {
		return guardedSocket{g, socket}
	}
	return g
}

func (g *guarded) Write(p []byte) (int, error) {
	g.left.Store(mostOfAnswer)
	return g.Conn.Write(p)
}

func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 {
		if odd := g.look(p[:n]); odd != nil {
			return 0, odd
		}
	}
	return n, err
}

// look follows the protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/) as far as lengths go; what else is wrong go-redis sees.
func (g *guarded) look(p []byte) error {
	if err := g.take(int64(len(p)), 1, "it does not end"); err != nil {
		return err
	}
	for len(p) > 0 {
		if g.body > 0 {
			n := min(g.body, int64(len(p)))
			g.body -= n
			p = p[n:]
			continue
		}
		end := bytes.IndexByte(p, '\n')
		part := p[:max(end, 0)]
		if end < 0 {
			part = p
		}
		g.heading = append(g.heading, part[:min(len(part), longestHeading+2-len(g.heading))]...)
		if end < 0 {
			return nil
		}
		p = p[end+1:]
		if err := g.announced(bytes.TrimSuffix(g.heading, []byte("\r"))); err != nil {
			return err
		}
		g.heading = g.heading[:0]
	}
	return nil
}

// announced is told each line that is not within a text.
func (g *guarded) announced(line []byte) error {
	if len(line) == 0 || !bytes.ContainsRune([]byte("$!=*~>%|"), rune(line[0])) {
		return nil
	}
	if len(line) > longestHeading {
		return &answerError{fmt.Sprintf("a length of more than %d digits", longestHeading)}
	}
	n, err := strconv.ParseInt(string(line[1:]), 10, 64)
	if err != nil || n < 0 { // -1 is none, and with the rest go-redis ends
		return nil
	}
	what := fmt.Sprintf("a length of %d", n)
	switch line[0] {
	case '$', '!', '=':
		if n > g.left.Load() { // it is counted as it comes
			return &answerError{what}
		}
		g.body = n + 2
		return nil
	case '%', '|':
		err = g.take(n, perPair, what)
	default:
		err = g.take(n, perElement, what)
	}
	if err != nil {
		return err
	}
	return g.take(1, perNesting, what)
}

func (g *guarded) take(n, each int64, what string) error {
	if n > g.left.Load()/each {
		return &answerError{what}
	}
	g.left.Add(-n * each)
	return nil
}
