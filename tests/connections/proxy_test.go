package connections

import (
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy is a way to a server that can be switched to another one, and that can forget its connections without a word, as a network does
// that has seen nothing on them for some time.
type proxy struct {
	address string

	mu    sync.Mutex
	to    string
	links []*link
}

// link is one connection, both its ends.
type link struct {
	client, server net.Conn

	mu   sync.Mutex
	deaf bool // nothing arrives any more, and nobody is told
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{address: listener.Addr().String(), to: hostOf(t, to)}
	go p.accept(listener)
	t.Cleanup(func() {
		_ = listener.Close()
		p.cut()
	})
	return p
}

func hostOf(t *testing.T, to string) string {
	t.Helper()
	u, err := url.Parse(to)
	require.NoError(t, err)
	return u.Host
}

// url is the way through the proxy.
func (p *proxy) url(t *testing.T, to string) string {
	t.Helper()
	return changed(t, to, func(u *url.URL) { u.Host = p.address })
}

func (p *proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		to := p.to
		p.mu.Unlock()
		server, err := net.Dial("tcp", to)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &link{client: client, server: server}
		p.mu.Lock()
		p.links = append(p.links, l)
		p.mu.Unlock()
		go l.pass(server, client)
		go l.pass(client, server)
	}
}

func (l *link) pass(to, from net.Conn) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		deaf := l.deaf
		l.mu.Unlock()
		if deaf {
			if err != nil {
				return // and the other end is never told
			}
			continue
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	l.close()
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// switchTo leads new connections to another server.
func (p *proxy) switchTo(t *testing.T, to string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = hostOf(t, to)
}

// forget lets all present connections die without a word; new ones work.
func (p *proxy) forget() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		l.mu.Lock()
		l.deaf = true
		l.mu.Unlock()
	}
	n := len(p.links)
	p.links = nil
	return n
}

// cut ends all present connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		l.close()
	}
	p.links = nil
}
