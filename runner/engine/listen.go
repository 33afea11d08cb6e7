package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgxlisten"
)

// The channels that a runner listens on, besides one of its own by which it tests itself.
const (
	channelJobs  = "pgtick"      // payload: the queue
	channelStop  = "pgtick_stop" // payload: the runner that shall stop an attempt
	channelTick  = "pgtick_tick" // a schedule has changed
	channelLimit = "pgtick_limits"
	channelProbe = "pgtick_probe"
)

const sayListenerEvery = 30 * time.Second

// signals is what the listener tells the control loop. A channel of size one each: a second signal before the first was seen adds
// nothing.
type signals struct {
	look   chan struct{} // there may be jobs
	stop   chan struct{} // a heartbeat will tell what to stop
	tick   chan struct{} // the next slot may be nearer
	limits chan struct{} // they have changed
	probe  chan struct{} // the listener listens: test it
	heard  chan struct{} // the probe came back

	awaited atomic.Value // string: the probe that is on its way; on the channel are those of all runners

	mu   sync.Mutex
	conn *pgx.Conn // the listener's, to be cut when it is deaf
}

func newSignals() *signals {
	one := func() chan struct{} { return make(chan struct{}, 1) }
	return &signals{look: one(), stop: one(), tick: one(), limits: one(), probe: one(), heard: one()}
}

// await makes the listener look out for this probe, and for no earlier one.
func (s *signals) await(probe string) {
	s.awaited.Store(probe)
	select {
	case <-s.heard:
	default:
	}
}

func raise(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// cutListener closes the listener's socket, so that it connects anew. (pgxlisten sends no ping: on a connection that died without
// a word it would listen for ever.)
func (s *signals) cutListener() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.PgConn().Conn().Close()
	}
}

// listen hears notifications until ctx ends. After each connect jobs are looked for at once: what was announced meanwhile is lost.
func (e *Engine) listen(ctx context.Context) {
	if e.opt.Listen == nil {
		return
	}
	var said time.Time // it tries again each second, and need not say so
	listener := &pgxlisten.Listener{
		ReconnectDelay: time.Second,
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			conn, err := e.opt.Listen(ctx)
			if err != nil {
				return nil, err
			}
			e.signals.mu.Lock()
			e.signals.conn = conn
			e.signals.mu.Unlock()
			return conn, nil
		},
		LogError: func(ctx context.Context, err error) {
			if ctx.Err() == nil && time.Since(said) >= sayListenerEvery {
				said = time.Now()
				e.log.WithError(err).Warnf("listener lost its connection; polling until it is back%s", Advice(err))
			}
		},
	}
	listener.Handle(channelJobs, pgxlisten.HandlerFunc(e.heardJobs))
	listener.Handle(channelStop, hears(e.signals.stop))
	listener.Handle(channelTick, hears(e.signals.tick))
	listener.Handle(channelLimit, hears(e.signals.limits))
	listener.Handle(channelProbe, prober{e.signals})
	_ = listener.Listen(ctx) // ends with ctx only
}

func hears(signal chan struct{}) pgxlisten.HandlerFunc {
	return func(context.Context, *pgconn.Notification, *pgx.Conn) error {
		raise(signal)
		return nil
	}
}

func (e *Engine) heardJobs(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	if e.queues[n.Payload] {
		raise(e.signals.look)
	}
	return nil
}

// prober asks for a test as soon as the listener listens, and hears its answer.
type prober struct{ signals *signals }

func (p prober) HandleNotification(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	if n.Payload == p.signals.awaited.Load() {
		raise(p.signals.heard)
	}
	return nil
}

// HandleBacklog is called when LISTEN has been sent for this channel, perhaps not yet for the others; the answer to the test tells
// that it has for all.
func (p prober) HandleBacklog(context.Context, string, *pgx.Conn) error {
	raise(p.signals.probe)
	raise(p.signals.look)
	return nil
}
