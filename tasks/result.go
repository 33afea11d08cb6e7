package tasks

import (
	"encoding/json"
	"sync"
)

// resultBox holds the last result that a task has set.
type resultBox struct {
	mu   sync.Mutex
	text json.RawMessage
}

func (b *resultBox) set(text json.RawMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = text
}

func (b *resultBox) get() json.RawMessage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text
}
