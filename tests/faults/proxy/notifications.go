package proxy

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// Notifications looks at what a PostgreSQL server sends, and lets each notification through as many times as times says: 0 loses it.
type Notifications struct {
	times func(channel string) int
	Seen  atomic.Int64 // how many came from the server

	mu    sync.Mutex
	begun map[*Link][]byte // a message of which not all has arrived
}

// NewNotifications asks times for each notification.
func NewNotifications(times func(channel string) int) *Notifications {
	return &Notifications{times: times, begun: map[*Link][]byte{}}
}

// Look is for StartWith.
func (n *Notifications) Look(l *Link, from Side, piece []byte) (pass []byte, cut bool) {
	if from == FromClient {
		return piece, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.begun[l]; !known && len(piece) == 1 {
		return piece, false // the answer to whether it has TLS is no message
	}
	stream := append(n.begun[l], piece...)
	for size := sizeOf(stream); size > 0 && size <= len(stream); size = sizeOf(stream) {
		message := stream[:size]
		stream = stream[size:]
		times := 1
		if message[0] == 'A' {
			n.Seen.Add(1)
			times = n.times(channelOf(message))
		}
		for range times {
			pass = append(pass, message...)
		}
	}
	n.begun[l] = append([]byte(nil), stream...)
	return pass, false
}

// channelOf is what stands in a notification behind its type, its size and the sender's pid, up to a zero.
func channelOf(message []byte) string {
	channel, _, _ := bytes.Cut(message[9:], []byte{0})
	return string(channel)
}

// sizeOf is the size of the message that begins here, 0 where that is not known yet.
func sizeOf(stream []byte) int {
	if len(stream) < 5 {
		return 0
	}
	return 1 + int(binary.BigEndian.Uint32(stream[1:5]))
}
