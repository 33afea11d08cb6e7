package web

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// What the live pages of one database may cost it. All that watch a page share what is read for it, and each page waits until there is room.
const (
	lookEvery      = time.Second      // for a change, while somebody watches
	refreshEvery   = 2 * time.Second  // a page at most
	refreshAtLeast = 15 * time.Second // a page, also when nothing has changed: time has passed
	readsPerSecond = 3.5              // for all pages of a database
	mostReads      = 12.0             // saved up
	mostStreams    = 200              // of a database
	beatEvery      = 20 * time.Second // so that nobody between takes a stream for dead
)

// live tells browsers when to fetch their page again. While nobody watches it does nothing.
type live struct {
	db     *database
	closed <-chan struct{}

	mu      sync.Mutex
	groups  map[string]*group
	streams int
	running bool
	reads   float64 // what may be read now
}

// group is all who watch the same page in the same role.
type group struct {
	watchers map[chan struct{}]bool
	told     time.Time
	changed  bool
	cost     int // statements that the page takes
}

func newLive(db *database, closed <-chan struct{}) *live {
	return &live{db: db, closed: closed, groups: map[string]*group{}}
}

// costs notes what a page takes, where somebody watches it.
func (l *live) costs(key string, statements int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.groups[key]; g != nil {
		g.cost = statements
	}
}

// serve is a stream of server-sent events: "changed", whenever the page named by ?page= is to be fetched again.
func (l *live) serve(w http.ResponseWriter, r *http.Request) {
	page, err := url.Parse(r.URL.Query().Get("page"))
	if err != nil || page.Path == "" {
		http.Error(w, "page: is no address of a page", http.StatusBadRequest)
		return
	}
	key := fmt.Sprintf("%s %t %s?%s", l.db.base, personOf(r).Operator, trimBase(page.Path, l.db.base), page.Query().Encode())
	told, leave := l.join(key)
	if told == nil {
		http.Error(w, "too many watch already", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold it back
	l.stream(r.Context(), w, told, sessionEnds(r))
}

func (l *live) stream(ctx context.Context, w http.ResponseWriter, told <-chan struct{}, ends <-chan time.Time) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	control := http.NewResponseController(w)
	for text := ": hello\nretry: 3000\n\n"; ; {
		_ = control.SetWriteDeadline(time.Now().Add(beatEvery))
		if _, err := fmt.Fprint(w, text); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-told:
			text = "event: changed\ndata: 1\n\n"
		case <-beat.C:
			text = ": still here\n\n"
		case <-ctx.Done():
			return
		case <-ends:
			return
		case <-l.closed:
			return
		}
	}
}

func (l *live) join(key string) (told chan struct{}, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams >= mostStreams {
		return nil, nil
	}
	told = make(chan struct{}, 1)
	g := l.groups[key]
	if g == nil {
		g = &group{watchers: map[chan struct{}]bool{}, told: time.Now(), cost: 4}
		l.groups[key] = g
	}
	g.watchers[told] = true
	l.streams++
	if !l.running {
		l.running = true
		go l.watch()
	}
	return told, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(g.watchers, told)
		l.streams--
		if len(g.watchers) == 0 {
			delete(l.groups, key)
		}
	}
}

// watch looks for changes until nobody watches any more.
func (l *live) watch() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for seen := ""; ; {
		select {
		case <-l.closed:
			return
		case <-tick.C:
		}
		if l.lonely() {
			return
		}
		mark := l.look()
		l.tell(time.Now(), mark != seen)
		seen = mark
	}
}

func (l *live) lonely() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams == 0 {
		l.running = false
	}
	return !l.running
}

// look returns a mark of the database's state; an error is one too, since pages will show it.
func (l *live) look() string {
	ctx, end := context.WithTimeout(context.Background(), readTimeout)
	defer end()
	mark, err := change(ctx, l.db.pool)
	if err != nil {
		return err.Error()
	}
	return mark
}

// tell sends word to those groups that have waited longest, as far as there is room.
func (l *live) tell(now time.Time, changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads = min(l.reads+readsPerSecond*lookEvery.Seconds(), mostReads)
	var due []*group
	for _, g := range l.groups {
		g.changed = g.changed || changed
		if quiet := now.Sub(g.told); g.changed && quiet >= refreshEvery-lookEvery/2 || quiet >= refreshAtLeast {
			due = append(due, g)
		}
	}
	slices.SortFunc(due, func(a, b *group) int { return cmp.Compare(a.told.UnixNano(), b.told.UnixNano()) })
	for _, g := range due {
		cost := min(float64(g.cost), mostReads)
		if l.reads < cost {
			return
		}
		l.reads -= cost
		g.told, g.changed = now, false
		for watcher := range g.watchers {
			select {
			case watcher <- struct{}{}:
			default: // it has not taken the last word yet
			}
		}
	}
}
