package conformance

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// loseAnswer is a way to the database on which the first answer with this text in it gets lost, and its connection with it. It returns
// the URL, and whether that has happened.
func loseAnswer(t *testing.T, to, text string) (through string, lost *atomic.Bool) {
	t.Helper()
	u, err := url.Parse(to)
	require.NoError(t, err)
	server := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	lost = &atomic.Bool{}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go pass(client, server, []byte(text), lost)
		}
	}()
	u.Host = listener.Addr().String()
	return u.String(), lost
}

func pass(client net.Conn, to string, text []byte, lost *atomic.Bool) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	answer := make([]byte, 1<<16)
	for {
		n, err := server.Read(answer)
		if err != nil || bytes.Contains(answer[:n], text) && lost.CompareAndSwap(false, true) {
			return
		}
		if _, err := client.Write(answer[:n]); err != nil {
			return
		}
	}
}
