package engine

import (
	"context"
	"sync"
	"time"

	"github.com/pgtick/pgtick/runner/jobs"
)

const (
	progressEvery = 500 * time.Millisecond
	progressWait  = 200 * time.Millisecond // for a connection; transactional tasks may have them all, and this is only advice
	lastWordWait  = 2 * time.Second        // likewise, of a plain task that has ended: nothing is said after it
)

// progress holds what an attempt last said of itself, until it is written: at most every progressEvery, and once more at the end.
type progress struct {
	mu      sync.Mutex
	done    float64
	note    string
	unsaid  bool
	saidAt  time.Time
	writing *time.Timer // set while a write is to come
	write   sync.Mutex  // held while one is on its way: the last word waits for it, and sees whether it came through
}

// say keeps the newest word. True: write it now; otherwise later, in the time given, is called after the rest of progressEvery.
func (p *progress) say(done float64, note string, later func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.note, p.unsaid = done, note, true
	wait := progressEvery - time.Since(p.saidAt)
	if wait > 0 && p.writing == nil {
		p.writing = time.AfterFunc(wait, later)
	}
	return wait <= 0
}

// next is what is to be written, if anything.
func (p *progress) next() (done float64, note string, unsaid bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, note, unsaid = p.done, p.note, p.unsaid
	p.unsaid, p.saidAt, p.writing = false, time.Now(), nil
	return done, note, unsaid
}

// keep puts back what could not be written, and has it tried again: the task may say nothing more for hours.
func (p *progress) keep(later func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsaid = true
	if p.writing == nil {
		p.writing = time.AfterFunc(progressEvery, later)
	}
}

// Progress writes what is said at most every progressEvery; of what comes faster the last word counts.
func (h *host) Progress(ctx context.Context, done float64, note string) error {
	if !h.said.say(done, note, h.writeLater) {
		return nil
	}
	return h.writeProgress(ctx, progressWait)
}

func (h *host) writeLater() {
	ctx, end := context.WithTimeout(context.Background(), 5*time.Second)
	defer end()
	if err := h.writeProgress(ctx, progressWait); err != nil {
		h.engine.log.WithFields(fields(h.attempt)).WithError(err).Debug("progress was not written")
	}
}

func (h *host) writeProgress(ctx context.Context, wait time.Duration) error {
	h.said.write.Lock()
	defer h.said.write.Unlock()
	done, note, unsaid := h.said.next()
	if !unsaid {
		return nil
	}
	waiting, end := context.WithTimeout(ctx, wait)
	defer end()
	conn, err := h.engine.opt.Pool.Acquire(waiting)
	if err != nil {
		h.said.keep(h.writeLater)
		if ctx.Err() == nil && waiting.Err() != nil {
			return nil
		}
		return err
	}
	defer conn.Release()
	return fenced(jobs.Progress(ctx, conn, h.attempt.claim.Held, done, note))
}
