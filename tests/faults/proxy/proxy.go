// Package proxy is a way to a server, for tests. It can lead to another server, forget its connections without a word, take its time, cut them,
// and show each piece to a test that says what becomes of it.
package proxy

import (
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Side is who has sent a piece.
type Side bool

// The two sides of a link.
const (
	FromClient Side = true
	FromServer Side = false
)

// Look is asked about each piece that arrives, in the order of its side, and returns what goes on to the other side, and whether both ends
// are closed after that. It may keep the piece waiting.
type Look func(l *Link, from Side, piece []byte) (pass []byte, cut bool)

// Proxy listens on a loopback port.
type Proxy struct {
	address string
	look    Look

	mu    sync.Mutex
	to    string
	delay time.Duration
	links []*Link
}

// Link is one connection, both its ends.
type Link struct {
	client, server net.Conn

	mu   sync.Mutex
	deaf bool // nothing arrives any more, and nobody is told
}

// Start leads to the host of a URL, until the test ends.
func Start(t testing.TB, to string) *Proxy {
	t.Helper()
	return StartWith(t, to, nil)
}

// StartWith is Start with somebody who looks at what passes.
func StartWith(t testing.TB, to string, look Look) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{address: listener.Addr().String(), look: look, to: hostOf(to)}
	go p.accept(listener)
	t.Cleanup(func() {
		_ = listener.Close()
		p.Cut()
	})
	return p
}

func hostOf(to string) string { return parsed(to).Host }

func parsed(to string) *url.URL {
	u, err := url.Parse(to)
	if err != nil {
		panic(err) // it is a test's own
	}
	return u
}

// URL is the way through the proxy.
func (p *Proxy) URL(to string) string {
	u := parsed(to)
	u.Host = p.address
	return u.String()
}

// SwitchTo leads new connections to the host of another URL.
func (p *Proxy) SwitchTo(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = hostOf(to)
}

// Delay keeps each piece waiting for that long, in both directions.
func (p *Proxy) Delay(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = by
}

// Forget lets all present connections die without a word, as a network does that has seen nothing on them for some time; new ones work. It
// returns how many they were.
func (p *Proxy) Forget() int {
	links := p.take()
	for _, l := range links {
		l.mu.Lock()
		l.deaf = true
		l.mu.Unlock()
	}
	return len(links)
}

// Cut ends all present connections, and returns how many they were.
func (p *Proxy) Cut() int {
	links := p.take()
	for _, l := range links {
		l.Close()
	}
	return len(links)
}

func (p *Proxy) take() []*Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := p.links
	p.links = nil
	return links
}

func (p *Proxy) accept(listener net.Listener) {
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
		l := &Link{client: client, server: server}
		p.mu.Lock()
		p.links = append(p.links, l)
		p.mu.Unlock()
		go p.pass(l, FromClient, server, client)
		go p.pass(l, FromServer, client, server)
	}
}

func (p *Proxy) pass(l *Link, side Side, to, from net.Conn) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !l.isDeaf() && !p.passOn(l, side, to, buffer[:n]) {
			break
		}
		if err != nil {
			if l.isDeaf() {
				return // and the other end is never told
			}
			break
		}
	}
	l.Close()
	p.drop(l)
}

// passOn says whether the link still stands.
func (p *Proxy) passOn(l *Link, side Side, to net.Conn, piece []byte) bool {
	p.mu.Lock()
	delay := p.delay
	p.mu.Unlock()
	if delay > 0 {
		<-time.After(delay)
	}
	cut := false
	if p.look != nil {
		piece, cut = p.look(l, side, piece)
	}
	_, err := to.Write(piece)
	return err == nil && !cut
}

func (p *Proxy) drop(l *Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.links {
		if other == l {
			p.links = append(p.links[:i], p.links[i+1:]...)
			return
		}
	}
}

func (l *Link) isDeaf() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deaf
}

// Close ends both ends.
func (l *Link) Close() {
	_ = l.client.Close()
	_ = l.server.Close()
}
